"""``resilient-llm benches``: what is benched, why, and for how long."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, Final

from resilient_llm.cli import _remote
from resilient_llm.cli._output import Cell, lasting, moment, print_json, print_table, shown
from resilient_llm.cli._shapes import as_number

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

HEADINGS: Final = ("key", "left", "until", "since", "kind", "by", "reason")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description = (
        "Prints what is benched, soonest back first. A key without a slash is a provider, and its "
        "bench holds for all of its models."
    )
    parser.epilog = (
        "exit status: 0, also if nothing is benched; 1 if the service cannot be asked; 2 wrong use"
    )
    parser.add_argument("--json", action="store_true", help="print what the API answers")
    _remote.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print the benches."""
    benches = _remote.client_of(options).rows("api/benches")
    if options.json:
        print_json(benches)
    elif not benches:
        print("nothing is benched", file=sys.stderr)
    else:
        print_table(HEADINGS, [row_of(each) for each in sorted(benches, key=_left)])
    return 0


def row_of(bench: Mapping[str, Any]) -> Sequence[str | Cell]:
    """Return the row of one bench."""
    is_manual = bench.get("manual") is True
    return (
        Cell(shown(bench.get("model")), "bold"),
        left_of(bench),
        moment(bench.get("until")),
        moment(bench.get("since")),
        "by hand" if is_manual else shown(bench.get("kind")),
        shown(bench.get("by")),
        shown(bench.get("reason")),
    )


def left_of(bench: Mapping[str, Any]) -> str:
    """Return how long a bench lasts; empty if there is none."""
    if not bench:
        return ""
    left = as_number(bench.get("remaining"))
    return "until unbenched" if left is None else lasting(left)


def _left(bench: Mapping[str, Any]) -> tuple[float, str]:
    left = as_number(bench.get("remaining"))
    return math.inf if left is None else left, str(bench.get("model"))
