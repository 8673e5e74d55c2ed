"""Settles an attempt where its one end is told: its token limits, its budgets, and who observes it.

What it has used is read once, by `Spend`; the table of what it books is in `spending.booking`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.call.spending import spend_of
from resilient_llm._values import event_names
from resilient_llm._values.amounts import usd

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call, Candidate
    from resilient_llm._core.circuit.permit import Permit
    from resilient_llm._core.spending.booking import Ending


def booked(call: Call, candidate: Candidate, permit: Permit, now: float, ending: Ending) -> None:
    """Book an attempt that has ended, and tell of it; a second time does nothing."""
    spend = spend_of(permit)
    if spend is None:
        return
    made = spend.book(ending)
    if made is None:
        return
    booking, cost = made
    if permit.held is not None:
        permit.held.settle(now)
    if spend.reservation is None:
        return
    if call.is_heard(candidate, event_names.SpendRecorded):
        call.emit(
            candidate,
            event_names.SpendRecorded,
            now,
            usd=None if cost is None else usd(cost),
            usage=booking.usage,
            estimated=booking.estimated,
            spend_key=spend.reservation.spend_key,
        )
    call.tell_budgets(candidate, now)
