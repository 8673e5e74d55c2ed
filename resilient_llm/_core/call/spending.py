"""What the attempts of a call spend: reserved before they are sent, booked when they have ended.

Each attempt is booked once, where its one end is told: answered, failed, cancelled or lost. What
observers are told of it follows in the same place. `held.Held` has the reservation, so an attempt
of which nothing is told, because everything was interrupted, is booked by its permit. Nothing here
waits for a lock where a finaliser may come: see `never_waits`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from resilient_llm._core.circuit.permit import open_permits
from resilient_llm._core.circuit.state import Block
from resilient_llm._core.spending.booking import Ending, booking_of
from resilient_llm._core.spending.estimates import Estimate
from resilient_llm._core.spending.ledger import Reservation
from resilient_llm._values import event_names
from resilient_llm._values.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._core.circuit.permit import Permit
    from resilient_llm._core.spending.booking import Booking
    from resilient_llm._core.spending.ledger import Ledger, Refusal
    from resilient_llm._core.spending.prices import Rates
    from resilient_llm._core.stream.stream_state import Meter
    from resilient_llm._values.target import Target
    from resilient_llm._values.usage import Usage

_EVENTS: Final[dict[str, event_names.EventName]] = {
    "warning": event_names.BudgetWarning,
    "exceeded": event_names.BudgetExceeded,
}


_SMALLEST: Final = Estimate(1, 1)


class BudgetBlock(Block):
    """Why the budgets refuse an attempt."""

    __slots__ = ("refusal",)

    def __init__(self, key: str, refusal: Refusal, now: float) -> None:
        retry_after = refusal.retry_after
        super().__init__(key, refusal.reason, None if retry_after is None else now + retry_after)
        self.refusal = refusal


class UsageReader(Protocol):
    """Reads what answers and items of streams say that they used. Never raises."""

    def usage_of(self, answer: object, /) -> Usage | None: ...
    def characters_in(self, answer: object, /) -> int: ...
    def text_of(self, item: object, /) -> str: ...
    def of_stream(self) -> UsageOfStream: ...


class UsageOfStream(Protocol):
    """Reads the same of one stream."""

    def add(self, item: object, /) -> None: ...
    @property
    def usage(self) -> Usage | None: ...


class Spending:
    """Where calls spend: the ledger of the process, and what it asks about targets and answers.

    Without a ledger nothing is booked, and limits of tokens alone are settled.
    """

    __slots__ = ("ledger", "meter", "rates_of", "usage_of", "wall")

    def __init__(
        self,
        ledger: Ledger | None,
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
    """What one attempt may use and has reserved, and what is known of what it used."""

    __slots__ = (
        "_around",
        "characters",
        "estimate",
        "has_answered",
        "is_booked",
        "is_booked_inside",
        "meter",
        "reservation",
        "spending",
        "usage",
        "waits",
    )

    def __init__(
        self,
        spending: Spending,
        estimate: Estimate,
        reservation: Reservation | None,
        around: tuple[Spend, ...] = (),
    ) -> None:
        self.spending = spending
        self.estimate = estimate
        self.reservation = reservation
        """What the ledger keeps of it; None if nothing is booked."""
        self.usage: Usage | None = None
        self.characters = 0
        self.has_answered = False
        """Whether there is an answer, whatever becomes of it."""
        self.meter: Meter | None = None
        """Has read its stream, if it gave one."""
        self.is_booked = False
        self.is_booked_inside = False
        """Whether an attempt inside this one has booked."""
        self.waits = True
        """Whether it may wait for the lock of the ledger: not in a finaliser."""
        self._around = around
        """Of the attempts around this one: in this context, or in that which has started it."""

    def book(self, ending: Ending) -> tuple[Booking, int | None] | None:
        """Book what the attempt used; return that and its cost, or None if that was done before."""
        if self.is_booked:
            return None
        booking, ledger, cost = self._booking(ending), self.spending.ledger, None
        if ledger is not None and self.reservation is not None:
            if self.waits:
                cost = ledger.settle(self.reservation, booking)
            else:
                cost = self.reservation.booked(booking)
                ledger.settle_later(self.reservation, booking)
        # Last: after an interrupt before this line it is booked by `Held`.
        self.is_booked = True
        return booking, cost

    def book_later(self, ending: Ending) -> None:
        """Book the same for an attempt that nothing is told of; see `Held`."""
        if not self.is_booked:
            ledger, booking = self.spending.ledger, self._booking(ending)
            if ledger is not None and self.reservation is not None:
                ledger.settle_later(self.reservation, booking)
            self.is_booked = True

    def _booking(self, ending: Ending) -> Booking:
        if self.meter is not None:
            self.usage, self.characters = self.meter.used
            if ending is not Ending.ANSWERED and (self.usage is not None or self.characters):
                ending = Ending.STREAM_CUT
        elif self.has_answered:
            ending = Ending.ANSWERED
        booking = booking_of(
            ending,
            self.estimate,
            usage=self.usage,
            characters=self.characters,
            is_booked_inside=self.is_booked_inside,
        )
        if booking.calls:
            for each in self._around:
                each.is_booked_inside = True
        return booking


def reserve(
    spending: Spending, target: Target, estimate: Estimate, spend_key: str | None, now: float
) -> Spend | BudgetBlock:
    """Reserve what an attempt may spend, or say which budget refuses it.

    Args:
        spending: Where.
        target: Where the attempt goes.
        estimate: Of its tokens.
        spend_key: On whose account, or None.
        now: Monotonic seconds.

    Raises:
        ConfigurationError: If nothing limits its answer, and a budget does not say how much to
            reserve for it.
    """
    if spending.ledger is None:
        return Spend(spending, estimate, None, _around())
    reservation = Reservation(target, estimate, spending.rates_of(target), spend_key)
    refusal = spending.ledger.reserve(reservation, spending.wall())
    if refusal is None:
        return Spend(spending, estimate, reservation, _around())
    return BudgetBlock(target.key, refusal, now)


def block_of(
    spending: Spending, target: Target, estimate: Estimate, spend_key: str | None, now: float
) -> BudgetBlock | None:
    """Return why `reserve` would refuse an attempt now, or None; reserves nothing.

    An attempt that `reserve` would find misconfigured counts as one that may be made.
    """
    if spending.ledger is None:
        return None
    reservation = Reservation(target, estimate, spending.rates_of(target), spend_key)
    try:
        refusal = spending.ledger.refusal_of(reservation, spending.wall())
    except ConfigurationError:
        return None
    return None if refusal is None else BudgetBlock(target.key, refusal, now)


def has_room(spending: Spending, target: Target, spend_key: str | None, now: float) -> bool:
    """Return whether budgets have room for the smallest attempt on a target."""
    return block_of(spending, target, _SMALLEST, spend_key, now) is None


def _around() -> tuple[Spend, ...]:
    """Return what the attempts around this code spend."""
    permits = open_permits.get()
    if not permits:
        return ()
    spends = (spend_of(each) for each in permits)
    return tuple(each for each in spends if each is not None)


def looked_at(permit: Permit, value: Any) -> None:
    """Note what an answer says that it used, before it may be rejected."""
    spend = spend_of(permit)
    if spend is not None and not spend.has_answered:
        spend.has_answered = True
        spend.usage, spend.characters = spend.spending.usage_of(value)


def metered(permit: Permit) -> Meter | None:
    """Return what reads the stream of an attempt, if it is booked."""
    spend = spend_of(permit)
    if spend is None:
        return None
    if spend.meter is None:
        spend.meter = spend.spending.meter()
    return spend.meter


def never_waits(permit: Permit) -> None:
    """Have an attempt booked without waiting for a lock: perhaps this is a finaliser."""
    spend = spend_of(permit)
    if spend is not None:
        spend.waits = False


def rejected_as(permit: Permit) -> Ending:
    """Return how an attempt ended whose answer, or the beginning of its stream, was rejected."""
    spend = spend_of(permit)
    is_stream = spend is not None and spend.meter is not None
    return Ending.STREAM_CUT if is_stream else Ending.ANSWERED


def spend_of(permit: Permit) -> Spend | None:
    """Return what an attempt has reserved, if budgets are asked about it."""
    return None if permit.held is None else cast("Spend | None", permit.held.spend)


def told(spending: Spending | None) -> list[tuple[event_names.EventName, dict[str, Any]]]:
    """Return the events that the ledger has noted and nobody has emitted: kind and fields."""
    if spending is None or spending.ledger is None or not spending.ledger.notices:
        return []
    return [
        (
            _EVENTS[notice.kind],
            {
                "budget": notice.budget,
                "key": notice.key,
                "spent": notice.spent,
                "cap": notice.cap,
                "resets_at": notice.resets_at,
            },
        )
        for notice in spending.ledger.take_notices()
    ]
