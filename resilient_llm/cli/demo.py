"""``resilient-llm demo``: real clients against small servers on loopback."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import math
import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from resilient_llm.cli._exits import INTERRUPTED, USAGE

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

    from resilient_llm.demo.run import Demo, View

_EXTRA: Final = ("rich", "openai", "anthropic")

_EXTRA_OF_WORKERS: Final = ("rich",)

_SHORTEST: Final = 2.0
"""Seconds below which the failures of the demo change faster than calls end."""

_MOST_WORKERS: Final = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description = (
        "Starts small servers on loopback that speak the OpenAI and the Anthropic protocol, "
        "gives them bad weather, and calls them through the real client packages with "
        "@failover. Needs no network and no keys. Exits with 1 if a call was lost that could "
        "have been served. With --workers several processes share a store instead."
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=20.0,
        metavar="N",
        help="how long it lasts (default: 20); not with --workers",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of latencies, pauses and coin flips"
    )
    parser.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help="show an outage and a bench by hand that N processes share, about 10 seconds",
    )
    parser.add_argument(
        "--json", action="store_true", help="print nothing but the summary, as JSON"
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not _SHORTEST <= seconds < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed: write a number, at least {_SHORTEST:g}"
        )
    return seconds


def _workers(text: str) -> int:
    number = int(text) if text.isdecimal() and len(text) < 4 else 0
    if not 2 <= number <= _MOST_WORKERS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed: write a whole number, 2 to {_MOST_WORKERS}"
        )
    return number


def run(options: argparse.Namespace) -> int:
    """Run the demo and return the exit status."""
    needed = _EXTRA if options.workers is None else _EXTRA_OF_WORKERS
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"The demo needs {', '.join(missing)}: pip install 'resilient-llm[demo]'",
            file=sys.stderr,
        )
        return USAGE
    if options.workers is not None:
        return _show_fleet(options.workers, options.seed, as_json=options.json)
    return _show(options.seconds, options.seed, as_json=options.json)


def _show(seconds: float, seed: int, *, as_json: bool) -> int:
    from resilient_llm.demo import view
    from resilient_llm.demo.run import Demo

    demo = Demo(seconds, seed)
    is_live = _is_live()
    console = _console(is_live=is_live)
    interrupted = _run_to_end(demo, _view(console, as_json=as_json, is_live=is_live))
    summary = demo.summary()
    if as_json:
        print(json.dumps(summary.as_dict(), indent=2))
    else:
        view.print_summary(console, summary)
    return INTERRUPTED if interrupted else summary.exit_status


def _show_fleet(workers: int, seed: int, *, as_json: bool) -> int:
    from resilient_llm.demo import fleet_view
    from resilient_llm.demo.fleet import Fleet

    console = _console(is_live=_is_live())
    fleet = Fleet(
        workers, seed, lambda line: None if as_json else fleet_view.print_line(console, line)
    )
    interrupted = False
    try:
        fleet.run()
    except KeyboardInterrupt:
        interrupted = True
    summary = fleet.summary()
    if as_json:
        print(json.dumps(summary.as_dict(), indent=2))
    else:
        fleet_view.print_fleet(console, summary)
    return INTERRUPTED if interrupted else summary.exit_status


def _is_live() -> bool:
    # Not by rich's own test of a terminal, which an environment variable may force.
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _console(*, is_live: bool) -> Console:
    from rich.console import Console

    return Console() if is_live else Console(no_color=True, force_terminal=False, width=1000)


def _view(console: Console, *, as_json: bool, is_live: bool) -> AbstractContextManager[View]:
    from resilient_llm.demo import view

    if as_json:
        return nullcontext(view.Silence())
    return view.LiveView(console) if is_live else nullcontext(view.PlainLines())


def _run_to_end(demo: Demo, view_context: AbstractContextManager[View]) -> bool:
    """Run the demo to its end; return whether Ctrl-C ended it early."""
    try:
        with view_context as view:
            asyncio.run(demo.run(view))
    except KeyboardInterrupt:
        return True
    return False
