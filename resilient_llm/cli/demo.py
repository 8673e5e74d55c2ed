"""``resilient-llm demo``: real clients against small servers on loopback.

The first line is printed before anything that takes long to import: the SDKs need seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from resilient_llm import demo as demo_package
from resilient_llm.cli._exits import INTERRUPTED, USAGE, CommandError, UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

    from resilient_llm.demo.picture import OutagePicture
    from resilient_llm.demo.run import Demo, View

_EXTRA: Final = ("rich", "openai", "anthropic")

_EXTRA_OF_WORKERS: Final = ("rich",)

_SHORTEST: Final = 2.0
"""Seconds below which the failures of the demo change faster than calls end."""

_MOST_WORKERS: Final = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description = (
        "Starts fake providers on this machine, lets them fail in turn, and calls them with the "
        "real openai and anthropic clients, guarded by @failover. Every call is also sent by the "
        "openai client without @failover, once with its default retries and once without "
        "retries, and the demo compares the three. It needs no network and no API keys. The exit "
        "status is 1 if a call failed that a provider could have answered. With --workers the "
        "demo shows several processes that share benches."
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=20.0,
        metavar="N",
        help="how long the demo lasts (default: 20); not used with --workers",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the random latencies, pauses and failures (default: 0)",
    )
    parser.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help="show how N processes share benches during an outage; takes about 10 seconds",
    )
    parser.add_argument(
        "--json", action="store_true", help="print only the summary, as JSON, at the end"
    )
    parser.add_argument(
        "--svg",
        type=Path,
        metavar="FILE",
        help="also write a picture of the outage and the summary to FILE; not with --workers",
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
        if options.svg is not None:
            raise UsageError("--svg is not allowed with --workers")
        return _show_fleet(options.workers, options.seed, as_json=options.json)
    if options.svg is not None and not options.svg.absolute().parent.is_dir():
        raise UsageError(f"--svg {str(options.svg)!r}: there is no such folder")
    return _show(options.seconds, options.seed, as_json=options.json, svg=options.svg)


def _show(seconds: float, seed: int, *, as_json: bool, svg: Path | None) -> int:
    if not as_json:
        number = len(demo_package.PROVIDERS)
        _print_first(f"Starting {number} fake providers on this machine: offline, no API keys.")
    from resilient_llm.demo import picture, view
    from resilient_llm.demo.run import Demo

    demo = Demo(seconds, seed)
    is_live = _is_live()
    console = _console(is_live=is_live)
    outage_picture = None if svg is None else picture.OutagePicture()
    interrupted = _run_to_end(
        demo, _view(console, as_json=as_json, is_live=is_live), outage_picture
    )
    summary = demo.summary()
    if as_json:
        print(json.dumps(summary.as_dict(), indent=2))
    else:
        view.print_summary(console, summary)
    if svg is not None and outage_picture is not None and not interrupted:
        _write(svg, outage_picture.svg(summary))
    return INTERRUPTED if interrupted else summary.exit_status


def _show_fleet(workers: int, seed: int, *, as_json: bool) -> int:
    if not as_json:
        _print_first(f"Starting {workers} workers and 2 fake providers: offline, no API keys.")
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


def _run_to_end(
    demo: Demo, view_context: AbstractContextManager[View], outage_picture: OutagePicture | None
) -> bool:
    """Run the demo to its end; return whether Ctrl-C ended it early."""
    import asyncio  # after the first line

    try:
        with view_context as view:
            views = [view] if outage_picture is None else [view, outage_picture]
            asyncio.run(demo.run(*views))
    except KeyboardInterrupt:
        return True
    return False


def _print_first(line: str) -> None:
    """Print what starts, before the imports that take seconds."""
    print(line, flush=True)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as failure:
        raise CommandError(f"{str(file)!r} cannot be written: {failure.strerror}") from None
