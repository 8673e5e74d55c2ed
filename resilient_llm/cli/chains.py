"""``resilient-llm chains``: which targets each chain tries, in their present order."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from resilient_llm.cli import _remote
from resilient_llm.cli._keys import key_of
from resilient_llm.cli._output import Cell, print_json, print_table, shown, word
from resilient_llm.cli._shapes import as_list, as_number, as_object, as_objects
from resilient_llm.cli.benches import left_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

_HEADINGS: Final = ("chain", "written", "profile", "", "target", "state", "live", "back in")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description = (
        "Prints the chains of the service, each with its targets in the order in which the next "
        "call tries them. A target that is not live is skipped; one with a penalty was moved back "
        "because it is slow (1) or fails often (2). A chain that names other chains is also "
        "shown as it was written, with the profile of the process."
    )
    parser.epilog = "exit status: 0; 1 if the service cannot be asked, as with a store; 2 wrong use"
    parser.add_argument("--json", action="store_true", help="print what the API answers")
    _remote.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print the chains."""
    chains = _remote.service_of(options).rows("api/chains")
    if options.json:
        print_json(chains)
    elif not chains:
        print("the service has no chain", file=sys.stderr)
    else:
        _print(chains)
    return 0


def _print(chains: Sequence[Mapping[str, Any]]) -> None:
    targets = [target for each in chains for target in as_objects(each.get("targets"))]
    rows = [row for each in chains for row in _rows_of(each)]
    if not any(map(_penalty_of, targets)):  # no chain is adaptive, or all are well
        print_table(_HEADINGS, rows)
        return
    moved = [Cell("" if not (p := _penalty_of(each)) else f"{p:g}", "yellow") for each in targets]
    print_table(
        (*_HEADINGS, "penalty"), [(*row, last) for row, last in zip(rows, moved, strict=True)]
    )


def _rows_of(chain: Mapping[str, Any]) -> Iterator[Sequence[str | Cell]]:
    name = ", ".join(map(shown, as_list(chain.get("functions")))) or "(a policy)"
    entries = as_list(chain.get("written"))  # an older service gives none
    has_names = any(not isinstance(each, str) or each[:1] == "@" for each in entries)
    has_names = has_names or "a route" in entries
    written = ", ".join(map(shown, entries)) if has_names else ""
    profile = shown(chain.get("profile")) if has_names else ""
    for number, target in enumerate(as_objects(chain.get("targets")), 1):
        # Its name in every row, so that what grep finds tells which chain it is of.
        yield name, written, profile, f"{number}.", *_cells_of(target)


def _cells_of(target: Mapping[str, Any]) -> Sequence[str | Cell]:
    return (
        Cell(shown(key_of(target)), "bold"),
        word(target.get("state")),
        Cell("yes", "green") if target.get("live") is True else Cell("no", "bold red"),
        left_of(as_object(target.get("benched"))),
    )


def _penalty_of(target: Mapping[str, Any]) -> float:
    return as_number(target.get("penalty")) or 0.0  # an older service gives none
