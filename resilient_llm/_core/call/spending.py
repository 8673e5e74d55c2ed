"""What the attempts of a call spend: reserved before they are sent, booked when they have ended.

Each attempt is booked once, where its one end is told: answered, failed, cancelled or lost. What is
told to observers of it follows in the same place. `held.Held` has the reservation, so an attempt of
which nothing is told, because everything was interrupted, is booked by its permit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._core.circuit.state import Block
from resilient_llm._core.circuit.permit import note_booked_inside
from resilient_llm._core.spending.booking import booking_of
from resilient_llm._core.spending.ledger import Reservation
from resilient_llm._values import event_names
from resilient_llm._values.amounts import usd

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._core.call.call import Call, Candidate
    from resilient_llm._core.circuit.permit import Permit
    from resilient_llm._core.spending.booking import Booking, Ending
    from resilient_llm._core.spending.ledger import Ledger, Refusal
    from resilient_llm._core.spending.prices import Rates
    from resilient_llm._core.stream.stream_state import Meter, StreamState
    from resilient_llm._values.money import Usage
    from resilient_llm._values.target import Target

_EVENTS = {"warning": event_names.BudgetWarning, "exceeded": event_names.BudgetExceeded}


class BudgetBlock(Block):
    """Why the budgets refuse an attempt."""

    __slots__ = ("refusal",)

    def __init__(self, key: str, refusal: Refusal, now: float) -> None:
        retry_after = refusal.retry_after
        super().__init__(key, refusal.reason, None if retry_after is None else now + retry_after)
        self.refusal = refusal


class Spending:
    """Where calls spend: the ledger of the process, and what it asks about targets and answers."""

    __slots__ = ("ledger", "meter", "rates_of", "usage_of", "wall")

    def __init__(
        self,
        ledger: Ledger,
        *,
        rates_of: Callable[[Target], Rates | None],
        usage_of: Callable[[Any], tuple[Usage | None, int]],
        meter: Callable[[], Meter],
        wall: Callable[[], float],
    ) -> None:
        self.ledger = ledger
        self.rates_of = rates_of
        """What tokens of a target cost; None if nobody says."""
        self.usage_of = usage_of
        """``(answer) -> (what it used, or None; characters of its text)``"""
        self.meter = meter
        """Makes what reads the items of one stream."""
        self.wall = wall
        """Seconds since 1970, now."""


class Spend:
    """What one attempt has reserved, and what is known of what it used."""

    __slots__ = ("characters", "is_booked", "is_booked_inside", "reservation", "spending", "usage")

    def __init__(self, spending: Spending, reservation: Reservation) -> None:
        self.spending = spending
        self.reservation = reservation
        self.usage: Usage | None = None
        self.characters = 0
        self.is_booked = False
        self.is_booked_inside = False
        """Whether an attempt inside this one has booked."""

    def book(self, ending: Ending) -> tuple[Booking, int | None] | None:
        """Book what the attempt used; return that and its cost, or None if that was done before."""
        if self.is_booked:
            return None
        self.is_booked = True
        booking = self._booking(ending)
        return booking, self.spending.ledger.settle(self.reservation, booking)

    def book_later(self, ending: Ending) -> None:
        """Book the same without waiting for a lock, for a finaliser."""
        if not self.is_booked:
            self.is_booked = True
            self.spending.ledger.settle_later(self.reservation, self._booking(ending))

    def _booking(self, ending: Ending) -> Booking:
        return booking_of(
            ending,
            self.reservation.estimate,
            usage=self.usage,
            characters=self.characters,
            is_booked_inside=self.is_booked_inside,
        )


def reserve(call: Call, candidate: Candidate, now: float) -> Spend | BudgetBlock:
    """Reserve what an attempt may spend, or say which budget refuses it.

    Raises:
        ConfigurationError: If nothing limits its answer, and a budget does not say how much to
            reserve for it.
    """
    spending = call.deps.spending
    assert spending is not None
    target = candidate.target
    reservation = Reservation(
        target, call.estimate_of(target), spending.rates_of(target), call.spend_key
    )
    refusal = spending.ledger.reserve(reservation, spending.wall())
    if refusal is None:
        return Spend(spending, reservation)
    _tell(call, candidate, now)
    return BudgetBlock(target.key, refusal, now)


def looked_at(call: Call, permit: Permit, value: Any) -> None:
    """Note what an answer says that it used, before it may be rejected."""
    spend = _of(permit)
    if spend is not None:
        spend.usage, spend.characters = spend.spending.usage_of(value)


def looked_at_stream(permit: Permit, stream: StreamState) -> None:
    """Note the same of a stream that has ended."""
    spend = _of(permit)
    if spend is not None:
        if stream.meter is not None:
            spend.usage, spend.characters = stream.meter.used


def booked(call: Call, candidate: Candidate, permit: Permit, now: float, ending: Ending) -> None:
    """Book an attempt that has ended, and tell of it."""
    spend = _of(permit)
    if spend is None:
        return
    made = spend.book(ending)
    if made is None:
        return
    booking, cost = made
    if booking.calls:
        note_booked_inside()
    if permit.held is not None:
        permit.held.settle(booking.usage.tokens, now)
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
    _tell(call, candidate, now)


def _of(permit: Permit) -> Spend | None:
    return None if permit.held is None else permit.held.spend


def _tell(call: Call, candidate: Candidate, now: float) -> None:
    """Emit what the ledger has noted."""
    spending = call.deps.spending
    if spending is None or not spending.ledger.notices:
        return
    for notice in spending.ledger.take_notices():
        call.emit(
            candidate,
            _EVENTS[notice.kind],
            now,
            budget=notice.budget,
            key=notice.key,
            spent=notice.spent,
            cap=notice.cap,
            resets_at=notice.resets_at,
        )
