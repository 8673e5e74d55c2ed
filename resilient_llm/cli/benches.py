"""``resilient-llm benches``: what is benched, why, and for how long."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, Final

from resilient_llm.cli import _remote, _store
from resilient_llm.cli._output import Cell, lasting, moment, print_json, print_table, shown
from resilient_llm.cli._shapes import as_number

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

HEADINGS: Final = ("key", "left", "until", "since", "kind", "by", "reason")
LOCAL: Final = "local"
"""Source of a bench that the process which answers has begun."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description = (
        "Lists what is benched; the bench that ends first comes first. A key without a slash is a "
        "provider, and its bench holds for all of its models. With a store, the command lists the "
        "benches that all processes share; benches for a revoked API key are not shared."
    )
    parser.epilog = (
        "exit status: 0, also if nothing is benched; 1 if the service or the store cannot be "
        "asked; 2 wrong use"
    )
    parser.add_argument("--json", action="store_true", help="print what the API answers")
    _remote.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print the benches."""
    address = _remote.store_of(options)
    if address is None:
        benches = _remote.client_of(options).rows("api/benches")
    else:
        with _store.shared(address) as store:
            store.read()
            benches = rows_here()
    if options.json:
        print_json(benches)
    elif not benches:
        print("nothing is benched", file=sys.stderr)
    else:
        _print(sorted(benches, key=_left))
    return 0


def _print(benches: Sequence[Mapping[str, Any]]) -> None:
    sources = [source_of(each) for each in benches]
    rows = [row_of(each) for each in benches]
    if not any(sources):  # no store, or none of another process
        print_table(HEADINGS, rows)
        return
    print_table(
        (*HEADINGS, "source"),
        [(*row, source or LOCAL) for row, source in zip(rows, sources, strict=True)],
    )


def rows_here() -> list[dict[str, Any]]:
    """Return what is benched in this process, as the API answers it."""
    from resilient_llm import list_benched
    from resilient_llm.admin._plain import plain

    return [plain(each) for each in list_benched()]


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


def source_of(bench: Mapping[str, Any]) -> str:
    """Return the process that a bench comes from; empty if it is the one that answers."""
    source = bench.get("source")  # an older service gives none
    return "" if source in (None, LOCAL) else shown(source)


def left_of(bench: Mapping[str, Any]) -> str:
    """Return how long a bench lasts; empty if there is none."""
    if not bench:
        return ""
    left = as_number(bench.get("remaining"))
    return "until unbenched" if left is None else lasting(left)


def _left(bench: Mapping[str, Any]) -> tuple[float, str]:
    left = as_number(bench.get("remaining"))
    return math.inf if left is None else left, str(bench.get("model"))
