"""What the store is told of an attempt in case its process dies, and what its refusal means."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from resilient_llm._core.spending.booking import Ending, booking_of
from resilient_llm._core.spending.ledger import Refusal
from resilient_llm._core.spending.periods import Period
from resilient_llm._values.usage import MOST_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilient_llm._core.spending.accounts import Slot
    from resilient_llm._core.spending.asking import Part
    from resilient_llm._core.spending.ledger import Reservation
    from resilient_llm._values.sharing import Balance


def fallback_of(slot: Slot, reservation: Reservation) -> int:
    """Return what is booked in a budget if the process dies: as of a cancelled attempt."""
    if slot.unit == "calls":
        return 1
    if slot.unit == "tokens":
        return min(reservation.estimate.input, MOST_TOKENS)
    booking = booking_of(Ending.FAILED, reservation.estimate)
    return reservation.booked(booking) or 0


def refusal_by(refusing: Sequence[tuple[Part, Balance]], now: float) -> Refusal:
    """Return the refusal of the account that resets last; keep in sync with `refusing`."""

    def never_fits(part: Part, _: Balance) -> bool:
        return part.amount > part.account.slot.cap

    def is_spent(part: Part, balance: Balance) -> bool:
        return balance.spent + part.amount > part.account.slot.cap

    def rank(each: tuple[Part, Balance]) -> tuple[float, bool, bool]:
        return each[1].end or math.inf, never_fits(*each), is_spent(*each)

    part, balance = max(refusing, key=rank)
    slot, end = part.account.slot, balance.end or 0
    waits = is_spent(part, balance) and not never_fits(part, balance)
    return Refusal(
        reason=f"budget {slot.budget.name}",
        budget=slot.budget.name,
        key=part.account.key,
        cap=slot.budget.cap,
        spent=slot.amount(balance.spent),
        reserved=slot.amount(balance.reserved),
        resets_at=Period(balance.start, end).ends_at,
        retry_after=max(end - now, 0.0) if waits else None,
    )
