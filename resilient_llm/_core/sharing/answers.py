"""Whether an answer of a store has the shape that its step asks for.

A store that is broken, or written by somebody else, may answer anything.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from resilient_llm._core.sharing.records import read_balance
from resilient_llm._core.sharing.steps import (
    ClaimPlaces,
    Look,
    Publish,
    ReserveAmounts,
    SettleAmounts,
)
from resilient_llm._values.sharing import Balance, Changes, Claimed, Published, Reserved

if TYPE_CHECKING:
    from resilient_llm._core.sharing.steps import Step

_OUTCOMES = ("stored", "known", "ended", "superseded")
_RESERVED = ("admitted", "refused", "period")


def is_sound(step: Step, answer: Any) -> bool:
    """Return whether an answer can be understood; its records are read one by one later."""
    if isinstance(step, Look):
        return isinstance(answer, Changes) and _is_look(answer)
    if isinstance(step, Publish):
        return _is_tuple(answer, Published, len(step.changes)) and all(
            each.outcome in _OUTCOMES and _is_whole(each.order) for each in answer
        )
    if isinstance(step, ClaimPlaces):
        return _is_tuple(answer, Claimed, len(step.claims)) and all(
            isinstance(cast("object", each.ends_in), (int, float)) for each in answer
        )
    if isinstance(step, ReserveAmounts):
        return _is_tuple(answer, Reserved, len(step.reserves)) and all(
            _is_reserved(each, len(wanted.charges))
            for each, wanted in zip(answer, step.reserves, strict=True)
        )
    if isinstance(step, SettleAmounts):
        return isinstance(answer, tuple) and all(
            isinstance(each, Balance) for each in cast("tuple[object, ...]", answer)
        )
    return True


def _is_reserved(reserved: Reserved, charges: int) -> bool:
    outcome, balances, retry_after, now = cast("tuple[object, ...]", reserved)
    return (
        outcome in _RESERVED
        and isinstance(balances, tuple)
        and (outcome == "period" or _is_tuple(cast("object", balances), Balance, charges))
        and all(read_balance(each) is not None for each in cast("tuple[Balance, ...]", balances))
        and (retry_after is None or _is_moment(retry_after))
        and _is_moment(now)
    )


def _is_moment(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_look(changes: Changes) -> bool:
    epoch, revision, records, balances, is_all, has_more, is_lost, peers, now = cast(
        "tuple[object, ...]", changes
    )
    return (
        isinstance(epoch, str)
        and _is_whole(revision)
        and _is_whole(peers)
        and isinstance(records, tuple)
        and isinstance(balances, tuple)
        and all(isinstance(each, bool) for each in (is_all, has_more, is_lost))
        and _is_moment(now)
    )


def _is_tuple(answer: object, kind: type, length: int) -> bool:
    if not isinstance(answer, tuple):
        return False
    rows = cast("tuple[object, ...]", answer)
    return len(rows) == length and all(isinstance(each, kind) for each in rows)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
