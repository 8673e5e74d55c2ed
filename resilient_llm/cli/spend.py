"""``resilient-llm spend``: what each budget has spent, and until when."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from resilient_llm.cli import _remote, _store
from resilient_llm.cli._output import (
    Cell,
    lasting,
    moment,
    print_json,
    print_table,
    shown,
    shown_amount,
)
from resilient_llm.cli._shapes import as_number

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

_HEADINGS: Final = (
    "budget", "key", "spent", "cap", "share", "reserved", "resets in", "resets at", "calls",
    "estimated",
)  # fmt: skip
_NEARLY: Final = 0.8
"""Share from which on a budget is marked on a terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description = (
        "Prints what each budget has spent in its present period, and what running attempts have "
        "reserved. A budget that counts each key has one row for each of the 100 keys that spent "
        "most; --key shows one of them. A store holds no caps: each process enforces its own."
    )
    parser.epilog = (
        "examples:\n"
        "  resilient-llm spend\n"
        "  resilient-llm spend --key tenant-7\n"
        "  resilient-llm spend --json | jq '.[] | select(.spent >= 0.9 * .cap)'\n\n"
        "exit status: 0, also if there is no budget; 1 if the service or the store cannot be "
        "asked; 2 wrong use"
    )
    parser.add_argument(
        "--key", metavar="KEY", help="show only this key of the budgets that count each key"
    )
    parser.add_argument("--json", action="store_true", help="print what the API answers")
    _remote.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print what was spent."""
    query = None if options.key is None else {"key": options.key}
    address = _remote.store_of(options)
    if address is None:
        rows = _remote.client_of(options).rows("api/spend", query)
    else:
        rows = _store.read_once(address, lambda reader: reader.spend(options.key))
    if options.json:
        print_json(rows)
        return 0
    if not rows:
        whose = "service" if address is None else "store"
        print(f"the {whose} has no budget that has spent anything", file=sys.stderr)
        return 0
    print_table(_HEADINGS, [_row_of(each) for each in rows])
    for budget, keys, listed in _cut(rows):
        if options.key is None:
            print(f"{shown(budget)}: {listed} of {keys} keys, see --key", file=sys.stderr)
    return 0


def _row_of(spend: Mapping[str, Any]) -> Sequence[str | Cell]:
    spent, cap = as_number(spend.get("spent")), as_number(spend.get("cap"))
    share = None if spent is None or cap is None else spent / cap if cap else 1.0
    return (
        Cell(shown(spend.get("budget")), "bold"),
        shown(spend.get("key")),
        _amount(spent, spend),
        _amount(cap, spend),
        _share(share),
        _amount(as_number(spend.get("reserved")), spend),
        _left(spend.get("resets_at")),
        moment(spend.get("resets_at")),
        shown(spend.get("calls")),
        shown(spend.get("estimated")),
    )


def _amount(number: float | None, spend: Mapping[str, Any]) -> str:
    if number is None:
        return ""
    unit = spend.get("unit")
    return f"${shown_amount(number)}" if unit == "usd" else f"{shown_amount(number)} {shown(unit)}"


def _share(share: float | None) -> Cell:
    if share is None:
        return Cell("")
    # Rounded down: what is not spent is never shown as 100 %.
    text = f"{int(share * 1000) / 10:g} %"
    return Cell(text, "bold red" if share >= 1.0 else "yellow" if share >= _NEARLY else "")


def _left(resets_at: object) -> str:
    try:
        at = datetime.fromisoformat(str(resets_at))
        return lasting((at - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no moment, or one without an offset
        return ""


def _cut(rows: Sequence[Mapping[str, Any]]) -> list[tuple[object, int, int]]:
    """Return ``(budget, its keys, rows of it)`` of budgets of which not all keys are listed."""
    listed: dict[str, int] = {}
    keys: dict[str, float] = {}
    for each in rows:
        name = str(each.get("budget"))
        listed[name] = listed.get(name, 0) + 1
        keys[name] = as_number(each.get("keys")) or 0
    return [
        (name, int(keys[name]), number) for name, number in listed.items() if keys[name] > number
    ]
