"""What the attempts of a call spend: reserved before they are sent, booked when they have ended.

Each attempt is booked once, where its one end is told: answered, failed, cancelled or lost. What
observers are told of it follows in the same place. `held.Held` has the reservation, so an attempt
of which nothing is told, because everything was interrupted, is booked by its permit. What it books
is decided once, at the first of these, and stored before anything is booked: wherever an interrupt
comes, the permit finishes the same booking. Nothing here waits for a lock where a finaliser may
come: see `never_waits`.

What attempts inside this one have used is booked by them. So this one books its call alone if one
of them has given something, or is still running, as the source of a stream that the consumer
leaves. If all of them have failed, what this one has used of its own is known only by a usage in
its own answer, as where its code falls back to a client without a guard: that is booked.
"""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from resilient_llm._core.circuit.permit import open_permits
from resilient_llm._core.circuit.state import Block
from resilient_llm._core.limits.held import (
    REQUEST_LIMIT,
    STORE_UNAVAILABLE,
    TOKEN_LIMIT,
    TOO_LARGE,
    store_block,
)
from resilient_llm._core.limits.shared import refusing
from resilient_llm._core.spending.asking import Asked, TooSoon, Unavailable
from resilient_llm._core.spending.booking import Ending, booking_of
from resilient_llm._core.spending.estimates import Estimate
from resilient_llm._core.spending.ledger import UNPRICED, Reservation
from resilient_llm._values import event_names
from resilient_llm._values.errors import (
    BudgetExceededError,
    ConfigurationError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient_llm._core.circuit.permit import Permit
    from resilient_llm._core.limits.held import Held, TargetLimits
    from resilient_llm._core.limits.shared import SharedTake
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


SMALLEST: Final = Estimate(1, 1)
"""Of the smallest attempt, for who asks whether a target has room at all."""
_GIVES: Final = (Ending.ANSWERED, Ending.STREAM_CUT)
"""Ends of attempts that have given something which an attempt around them may pass on."""
_READ: Final = object()
"""Stands for an answer that was read, or of which there is none."""


class BudgetBlock(Block):
    """Why the budgets refuse an attempt."""

    __slots__ = ("refusal",)

    def __init__(self, key: str, refusal: Refusal, now: float) -> None:
        retry_after = refusal.retry_after
        super().__init__(key, refusal.reason, None if retry_after is None else now + retry_after)
        self.refusal = refusal


class StoreBlock(Block):
    """Refuses an attempt since the store gives no answer, and this process may not spend alone."""

    __slots__ = ()

    def __init__(self, key: str) -> None:
        super().__init__(key, STORE_UNAVAILABLE, None)


class UsageReader(Protocol):
    """Reads what answers and items of streams say that they used. Never raises."""

    def usage_of(self, answer: object, /) -> Usage | None: ...
    def characters_in(self, answer: object, /) -> int: ...
    def plain_counts(self, answer: object, /) -> tuple[int, int] | None: ...
    def characters_of(self, item: object, /) -> int: ...
    def of_stream(self) -> UsageOfStream: ...


class UsageOfStream(Protocol):
    """Reads the same of one stream."""

    def add(self, item: object, /) -> None: ...
    @property
    def usage(self) -> Usage | None: ...


class RatesOf(Protocol):
    """What tokens of a target cost; None if nobody says."""

    def __call__(self, target: Target, /) -> Rates | None: ...
    def lasting(self, target: Target, /) -> tuple[bool, Rates | None]:
        """Return whether that stays the same in the present state, and what it is if it does."""
        ...


class Spending:
    """Where calls spend: the ledger of the process, and what it asks about targets and answers.

    Without a ledger nothing is booked, and limits of tokens alone are settled.
    """

    __slots__ = ("counts_of", "has_own_reader", "ledger", "meter", "rates_of", "usage_of", "wall")

    def __init__(
        self,
        ledger: Ledger | None,
        *,
        rates_of: RatesOf,
        usage_of: Callable[[Any], tuple[Usage | None, int]],
        meter: Callable[[], Meter],
        wall: Callable[[], float],
        counts_of: Callable[[Any], tuple[int, int] | None] = lambda _: None,
        has_own_reader: bool = False,
    ) -> None:
        self.ledger = ledger
        self.rates_of = rates_of
        self.counts_of = counts_of
        """``(answer) -> (tokens of input, and of output)``, if it tells nothing else of its usage;
        else None."""
        self.has_own_reader = has_own_reader
        """Whether a function of the user reads what answers used."""
        self.usage_of = usage_of
        """``(answer) -> (what it used, or None; characters that the model wrote)``"""
        self.meter = meter
        """Makes what reads the items of one stream."""
        self.wall = wall
        """Seconds since 1970, now."""


class AttemptsInside:
    """What an attempt knows of those inside it; they are made by a call flow.

    It stands for an attempt that a wrapper makes without a permit.
    """

    # No slots, so that one is made without a call of `__init__`.

    running: list[weakref.ref[Spend]] | None = None
    """Those that run; None if there was never one. Weak: an interrupted one may never be booked."""
    are_sent = False
    """Whether one of them was sent."""
    are_booked = False
    """Whether one of them has booked what it gave."""
    is_over = False
    """Whether the attempt around them is booked itself."""

    def add(self, spend: Spend) -> None:
        """Note that an attempt inside begins."""
        vars(self).setdefault("running", []).append(weakref.ref(spend))

    def end(self, spend: Spend, *, is_sent: bool, has_given: bool) -> None:
        """Note what became of one of them."""
        # In this order: one of these is true at each moment in which the attempt around may ask.
        self.are_sent = self.are_sent or is_sent
        self.are_booked = self.are_booked or has_given
        try:
            vars(self)["running"].remove(weakref.ref(spend))  # the one that there is already
        except (KeyError, ValueError):
            pass

    def have_booked(self, *, has_usage: bool) -> bool:
        """Return whether the attempt around them books its call alone.

        Args:
            has_usage: Whether its own answer says what it used.
        """
        return (
            self.are_booked
            or (self.are_sent and not has_usage)
            or any(each() is not None for each in list(self.running or ()))
        )


inlined_around: ContextVar[AttemptsInside | None] = ContextVar(
    "resilient_llm_inlined_around", default=None
)
"""Of the attempt of a wrapper around this code that spends."""


class Spend:
    """What one attempt may use and has reserved, and what is known of what it used."""

    __slots__ = (
        "__weakref__",
        "_answer",
        "_around",
        "_booking",
        "asked",
        "characters",
        "estimate",
        "has_answered",
        "inside",
        "is_booked",
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
        around: tuple[AttemptsInside, ...] = (),
        inside: AttemptsInside | None = None,
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
        self.asked: Asked | None = None
        """What the store is asked, as long as its answer is not taken."""
        self.waits = True
        """Whether it may wait for the lock of the ledger: not in a finaliser."""
        self._answer: Any = _READ
        """What is being read; an interrupt may have come before that was done."""
        self._booking: Booking | None = None
        self.inside = AttemptsInside() if inside is None else inside
        """What is known of the attempts inside this one."""
        self._around = around
        """Of the attempts around this one: in this context, or in that which has started it."""
        for each in around:
            each.add(self)

    def look_at(self, answer: Any) -> None:
        """Note what an answer says that it used."""
        self._answer = answer
        self.has_answered = True
        self._read()

    def _read(self) -> None:
        self.usage, self.characters = self.spending.usage_of(self._answer)
        self._answer = _READ

    @property
    def tokens(self) -> int | None:
        """What it has booked of tokens, once it is booked; None for all that was reserved."""
        booking = self._booking
        return None if booking is None or booking.as_reserved else booking.usage.tokens

    @property
    def spend_key(self) -> str | None:
        """On whose account it is booked, or None."""
        return None if self.reservation is None else self.reservation.spend_key

    def book(self, ending: Ending) -> tuple[Booking, int | None] | None:
        """Book what the attempt used; return that and its cost, or None if that was done before."""
        if self.is_booked:
            return None
        booking, ledger, cost = self._decided(ending), self.spending.ledger, None
        if ledger is not None and self.reservation is not None:
            if self.waits:
                cost = ledger.settle(self.reservation, booking)
            else:
                cost = self.reservation.booked(booking)
                ledger.settle_later(self.reservation, booking)
        self.inside.is_over = True
        # Last: after an interrupt before this line it is booked by `Held`.
        self.is_booked = True
        return booking, cost

    def book_later(self, ending: Ending) -> None:
        """Book the same for an attempt that nothing is told of; see `Held`."""
        if not self.is_booked:
            ledger, booking = self.spending.ledger, self._decided(ending)
            if ledger is not None and self.reservation is not None:
                if ending is Ending.UNSENT and self.reservation._asked is not None:
                    self.reservation._asked.is_made = False
                ledger.settle_later(self.reservation, booking)
            self.inside.is_over = True
            self.is_booked = True

    def _decided(self, ending: Ending) -> Booking:
        """Return what the attempt books, which is decided the first time that this is called."""
        if self._booking is None:
            booking = self._of(ending)
            if self._booking is None:  # a signal handler or a finaliser was here
                self._booking = booking
        return self._booking

    def _of(self, ending: Ending) -> Booking:
        if self.meter is not None:
            self.usage, self.characters = self.meter.used
            if ending is not Ending.ANSWERED and (self.usage is not None or self.characters):
                ending = Ending.STREAM_CUT
        elif self.has_answered:
            ending = Ending.ANSWERED
            if self._answer is not _READ:
                self._read()
        booking = booking_of(
            ending,
            self.estimate,
            usage=self.usage,
            characters=self.characters,
            is_booked_inside=self.inside.have_booked(has_usage=self.usage is not None),
        )
        for each in self._around:
            each.end(self, is_sent=booking.calls > 0, has_given=ending in _GIVES)
        return booking


def reserve(
    spending: Spending,
    target: Target,
    estimate: Estimate,
    spend_key: str | None,
    now: float,
    held: Held,
    limits: TargetLimits | None = None,
) -> Block | None:
    """Reserve what an attempt may spend, or return why budgets refuse it.

    If a store is asked, the `Spend` has that as ``asked``, and `answered` takes the answer.

    Args:
        spending: Where.
        target: Where the attempt goes.
        estimate: Of its tokens.
        spend_key: On whose account, or None.
        now: Monotonic seconds.
        held: What the attempt holds. It has the `Spend` before anything is reserved, so it can
            give back what was when an interrupt came.
        limits: Of the target. If one of them is shared by all processes, there is a ledger.

    Raises:
        ConfigurationError: If nothing limits its answer, and a budget does not say how much to
            reserve for it.
    """
    if spending.ledger is None:
        held.spend = Spend(spending, estimate, None, _around())
        return None
    reservation = Reservation(target, estimate, spending.rates_of(target), spend_key)
    held.spend = Spend(spending, estimate, reservation, _around())
    takes = () if limits is None else limits.shared_takes(estimate)
    found = spending.ledger.reserve(reservation, spending.wall(), takes)
    if isinstance(found, Asked):
        held.spend.asked = found
        return None
    return block_for(target.key, found, now, takes)


def asked_of(permit: Permit) -> Asked | None:
    """Return what the store is asked for an attempt, until its answer is taken."""
    spend = spend_of(permit)
    return None if spend is None else spend.asked


def answered(permit: Permit, key: str, now: float) -> Block | None:
    """Take the answer of the store about an attempt, or that there is none.

    Args:
        permit: Of the attempt, with what it asks.
        key: Of its target.
        now: Monotonic seconds.

    Returns:
        Why it may not be made, or None.
    """
    spend = spend_of(permit)
    assert spend is not None
    assert spend.reservation is not None
    assert spend.spending.ledger is not None
    takes = () if spend.asked is None else spend.asked.takes
    found = spend.spending.ledger.answered(spend.reservation, spend.spending.wall())
    spend.asked = None
    return block_for(key, found, now, takes)


def block_for(
    key: str,
    found: Refusal | Unavailable | TooSoon | None,
    now: float,
    takes: tuple[SharedTake, ...] = (),
) -> Block | None:
    """Return the refusal that an answer of the ledger means; None if that admits.

    Args:
        key: Of the target.
        found: The answer.
        now: Monotonic seconds.
        takes: What was asked of shared limits.
    """
    if isinstance(found, Unavailable):
        return StoreBlock(key)
    if isinstance(found, TooSoon):
        by = refusing(takes, found.retry_after)
        if found.retry_after is None:
            return store_block(by.state.key, TOO_LARGE, None)
        until = by.state.refused_until = now + found.retry_after
        return store_block(by.state.key, TOKEN_LIMIT if by.is_tokens else REQUEST_LIMIT, until)
    return None if found is None else BudgetBlock(key, found, now)


def block_of(
    spending: Spending, target: Target, estimate: Estimate, spend_key: str | None, now: float
) -> Block | None:
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
    return block_for(target.key, refusal, now)


def error_of(key: str, refusal: Refusal) -> BudgetExceededError:
    """Return the error of a target that a budget refuses."""
    return BudgetExceededError(
        key,
        refusal.reason,
        refusal.retry_after,
        budget=refusal.budget,
        key=refusal.key,
        cap=refusal.cap,
        spent=refusal.spent,
        reserved=refusal.reserved,
        resets_at=refusal.resets_at,
    )


def error_without_store(key: str) -> StoreUnavailableError:
    """Return the error of a target about which the store gives no answer."""
    return StoreUnavailableError(key, STORE_UNAVAILABLE)


def is_shared(spending: Spending | None) -> bool:
    """Return whether a store decides about budgets."""
    return spending is not None and spending.ledger is not None and spending.ledger.is_shared


def note_unpriced(error: BaseException, refusals: Mapping[str, Refusal]) -> None:
    """Add to the error of a call what to write for each target that has no price.

    Args:
        error: The one that leaves the call.
        refusals: ``{key of a target: why budgets refused it}``.
    """
    for key, refusal in refusals.items():
        if refusal.reason == UNPRICED:
            error.add_note(
                f"write Target({key!r}, price=(input, output)) or "
                f"configure(prices={{{key!r}: (input, output)}}), in USD per million tokens"
            )


def has_room(spending: Spending, target: Target, spend_key: str | None, now: float) -> bool:
    """Return whether budgets have room for the smallest attempt on a target."""
    return block_of(spending, target, SMALLEST, spend_key, now) is None


def _around() -> tuple[AttemptsInside, ...]:
    """Return what the attempts around this code spend."""
    permits, inlined = open_permits.get(), inlined_around.get()
    if not permits and inlined is None:
        return ()
    spends = (spend_of(each) for each in permits)
    found = tuple(each.inside for each in spends if each is not None)
    if inlined is None:
        return found
    if inlined.is_over:  # of another context, or left by an interrupt
        inlined_around.set(None)
        return found
    return (*found, inlined)


def looked_at(permit: Permit, value: Any) -> None:
    """Note what an answer says that it used, before it may be rejected."""
    spend = spend_of(permit)
    if spend is not None and not spend.has_answered:
        spend.look_at(value)


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
