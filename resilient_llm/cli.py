"""The command line: ``resilient-llm demo``.

Loads what a command needs when it runs, and says in one line what to install if that is
missing.
"""

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

from resilient_llm import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from rich.console import Console

    from resilient_llm.demo.run import Demo, View

_EXTRA: Final = ("rich", "openai", "anthropic")
_SHORTEST: Final = 2.0
"""Seconds below which the weather changes faster than calls end."""

MISSING: Final = 2
INTERRUPTED: Final = 130
"""Exit statuses, as shells have them: used wrongly, and ended by Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status of the process.

    Args:
        argv: Arguments without the program's name; those of the process if None.
    """
    options = _parser().parse_args(argv)
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        print(f"The demo needs {', '.join(missing)}: pip install 'resilient-llm[demo]'", file=sys.stderr)
        return MISSING
    try:
        return _demo(options.seconds, options.seed, as_json=options.json)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone, and the interpreter must not try to flush to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resilient-llm", description="Failover, retries, circuit breakers and benches around LLM calls."
    )
    parser.add_argument("--version", action="version", version=f"resilient-llm {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="real clients, bad weather, nothing lost; offline",
        description=(
            "Starts small servers on loopback that speak the OpenAI and the Anthropic protocol, gives them bad "
            "weather, and calls them through the real client packages with @failover. Needs no network and no keys. "
            "Exits with 1 if a call was lost that could have been served."
        ),
    )
    demo.add_argument("--seconds", type=_seconds, default=20.0, metavar="N", help="how long it lasts (default: 20)")
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="seed of latencies, pauses and coin flips")
    demo.add_argument("--json", action="store_true", help="print nothing but the summary, as JSON")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not _SHORTEST <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: write a number, at least {_SHORTEST:g}")
    return seconds


def _demo(seconds: float, seed: int, *, as_json: bool) -> int:
    from rich.console import Console

    from resilient_llm.demo import view
    from resilient_llm.demo.run import Demo

    demo = Demo(seconds, seed)
    # Not rich's idea of a terminal: an environment variable may force that.
    is_live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    console = Console() if is_live else Console(no_color=True, force_terminal=False, width=1000)
    interrupted = _run(demo, _view(console, as_json=as_json, is_live=is_live))
    summary = demo.summary()
    if as_json:
        print(json.dumps(summary.as_dict(), indent=2))
    else:
        view.print_summary(console, summary)
    sys.stdout.flush()  # here, where a reader that has gone is expected
    return INTERRUPTED if interrupted else summary.exit_status


def _view(console: Console, *, as_json: bool, is_live: bool) -> AbstractContextManager[View]:
    from resilient_llm.demo import view

    if as_json:
        return nullcontext(view.Silence())
    return view.LiveView(console) if is_live else nullcontext(view.PlainLines())


def _run(demo: Demo, showing: AbstractContextManager[View]) -> bool:
    """Run the demo to its end; return whether Ctrl-C ended it early."""
    try:
        with showing as view:
            asyncio.run(demo.run(view))
    except KeyboardInterrupt:
        return True
    return False
