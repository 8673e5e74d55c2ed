"""The command line: ``resilient-llm demo``, ``explain`` and ``journal``.

This file holds the parser and runs the command; each command has a file.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Final

from resilient_llm import __version__
from resilient_llm.cli import demo as _demo
from resilient_llm.cli import explain as _explain
from resilient_llm.cli import journal as _journal
from resilient_llm.cli.demo import INTERRUPTED, MISSING
from resilient_llm.cli.explain import NOTHING_RAISED

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["INTERRUPTED", "MISSING", "NOTHING_RAISED", "USAGE", "main"]

USAGE: Final = 2
"""Exit status if no command is given, as for every wrong use."""
_SHORTEST: Final = 2.0
"""Seconds below which the failures of the demo change faster than calls end."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status of the process.

    Args:
        argv: Arguments without the program's name; those of the process if None.
    """
    parser, explain = _parsers()
    options = parser.parse_args(argv)
    if options.command is None:
        parser.print_help(sys.stderr)
        parser.exit(
            USAGE, "\nresilient-llm: error: a command is expected: demo, explain or journal\n"
        )
    if options.command == "demo":
        return _demo.run(options)
    if options.command == "journal":
        return _journal.run(options)
    try:
        return _explain.run(options)
    except ValueError as wrong:
        explain.error(str(wrong))


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Return the parser, and that of ``explain``, whose usage its errors show."""
    parser = argparse.ArgumentParser(
        prog="resilient-llm",
        description="Failover, retries, circuit breakers and benches around LLM calls.",
    )
    parser.add_argument("--version", action="version", version=f"resilient-llm {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="command", dest="command")
    demo = commands.add_parser(
        "demo",
        help="real clients, bad weather, nothing lost; offline",
        description=(
            "Starts small servers on loopback that speak the OpenAI and the Anthropic protocol, "
            "gives them bad weather, and calls them through the real client packages with "
            "@failover. Needs no network and no keys. Exits with 1 if a call was lost that could "
            "have been served."
        ),
    )
    demo.add_argument(
        "--seconds",
        type=_seconds,
        default=20.0,
        metavar="N",
        help="how long it lasts (default: 20)",
    )
    demo.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of latencies, pauses and coin flips"
    )
    demo.add_argument("--json", action="store_true", help="print nothing but the summary, as JSON")
    explain = commands.add_parser(
        "explain",
        help="what an error means to a chain, and why",
        description=(
            "Prints the verdict on an HTTP response or on what a function raises: its kind, what "
            "happens next, which rule decided and by which field. Prints no prompt, no key and no "
            "text of the provider."
        ),
    )
    explain.add_argument(
        "what",
        metavar="WHAT",
        help=(
            "a status such as 429; a file with a response as 'curl -i' prints it, '-' for "
            "standard input; or module:callable, which is called without arguments and should raise"
        ),
    )
    explain.add_argument(
        "-H",
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="a header of a status; repeatable",
    )
    explain.add_argument(
        "--body",
        metavar="FILE",
        help="the body of a status: a file, '-' for standard input, or JSON that begins with '{'",
    )
    explain.add_argument("--json", action="store_true", help="print it as JSON")
    _journal.add_arguments(commands.add_parser("journal", help="what a journal tells of the past"))
    return parser, explain


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
