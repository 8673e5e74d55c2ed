"""What an attempt holds of the limits that it passed, and why one that does not pass is refused.

Owns the order in which limits are asked: places first, then requests, then tokens, then what the
provider has reported of its own limits. A refusal gives back what was taken before it, so an
attempt that is not made takes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from resilient_llm._core.circuit.state import Block
from resilient_llm._core.limits.buckets import Charge
from resilient_llm._core.limits.shared import StoreCharge, takes_of
from resilient_llm._core.spending.booking import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resilient_llm._core.limits.buckets import Bucket
    from resilient_llm._core.limits.heard import HeardAttempt, HeardLimits
    from resilient_llm._core.limits.places import Place, Places
    from resilient_llm._core.limits.reported import Refusal
    from resilient_llm._core.limits.shared import SharedTake
    from resilient_llm._core.spending.estimates import Estimate
    from resilient_llm._values.limit import Limit

CONCURRENCY: Final = "concurrency"
REQUEST_LIMIT: Final = "request_limit"
TOKEN_LIMIT: Final = "token_limit"
TOO_LARGE: Final = "request_too_large"
STORE_UNAVAILABLE: Final = "store unavailable"
"""The store that budgets or limits are shared through gives no answer."""
_SHORTEST: Final = 0.01
"""Seconds of the shortest wait for a figure, so that rounding never makes it a busy loop."""


class LimitState:
    """The places and buckets of one limit, which all attempts under it share.

    Attributes:
        key: Whose limit it is: a target, a provider or ``"tag:…"``.
        limit: What is configured.
        places: Attempts in flight.
        requests: The bucket of requests, if they are limited here.
        tokens: The bucket of tokens, if they are limited here.
        refused_until: Monotonic seconds until which the store has refused an attempt.
    """

    __slots__ = ("__weakref__", "key", "limit", "places", "refused_until", "requests", "tokens")

    def __init__(
        self,
        key: str,
        limit: Limit,
        places: Places,
        requests: Bucket | None,
        tokens: Bucket | None,
    ) -> None:
        self.key = key
        self.limit = limit
        self.places = places
        self.requests = requests
        self.tokens = tokens
        self.refused_until = 0.0

    def is_idle(self, now: float) -> bool:
        """Return whether nothing runs or waits under the limit, and all that was taken is back."""
        if self.places.running or self.places.waiting:
            return False
        buckets = (self.requests, self.tokens)
        return all(each is None or each.is_full(now) for each in buckets)

    def change(self, limit: Limit, requests: Bucket | None, tokens: Bucket | None) -> None:
        """Take another limit and its buckets, also for calls that have begun.

        Those that wait for the old buckets ask again at once.
        """
        before = self.requests, self.tokens
        self.limit, self.requests, self.tokens = limit, requests, tokens
        for each in before:
            if each is not None:
                each.close()


class LimitBlock(Block):
    """Why a limit refuses an attempt, and what it may wait for."""

    __slots__ = ("longest", "places", "ticket")

    def __init__(
        self,
        key: str,
        reason: str,
        until: float | None,
        ticket: Callable[[], Ticket] | None = None,
        longest: float | None = None,
        places: Places | None = None,
    ) -> None:
        super().__init__(key, reason, until)
        self.longest = longest
        """Longest wait in a queue in seconds; None until the deadline of the call."""
        self.ticket = ticket
        """Makes the ticket with which one may wait for it; None if waiting is of no use."""
        self.places = places
        """Those of which one may wait for one."""


class Bookable(Protocol):
    """What an attempt has reserved in budgets, and is booked without waiting for a lock."""

    def book_later(self, ending: Ending, /) -> None: ...
    @property
    def tokens(self) -> int | None: ...


class Returned(Protocol):
    """What is given back if the attempt is not made, without waiting for anything."""

    def give_back(self) -> None: ...


class Held:
    """What one attempt holds. Each end of an attempt is one of `give_back` and `over`."""

    __slots__ = (
        "charges",
        "entry",
        "heard",
        "is_made",
        "keeps_places",
        "places",
        "spend",
        "tokens",
    )

    def __init__(self) -> None:
        self.keeps_places = False
        """Whether its places stay taken after its end, until `free_places`: while a stream of which
        nobody reads any more is closed, its connection is still in use."""
        self.places: list[Place] = []
        self.charges: list[Charge] = []
        """Of requests, which stay taken once the attempt is made."""
        self.tokens: list[Charge] = []
        self.entry: Returned | None = None
        """What an entry of a guard takes from limits in the store, which stays taken as well."""
        self.spend: Bookable | None = None
        """What it has reserved in budgets, if there are any."""
        self.heard: HeardAttempt | None = None
        """To which its answers belong, if the provider's headers are read."""
        self.is_made = True
        """Whether it counts as made; False once it is given back, also if that is interrupted."""

    @property
    def matters_inside(self) -> bool:
        """Whether guards inside the attempt must know of it."""
        return (
            self.spend is not None
            or self.heard is not None
            or any(place.has_queue for place in self.places)
        )

    def give_back(self) -> None:
        """Give everything back, for an attempt that was not made. Never waits."""
        self.is_made = False
        self._leave()
        for charge in (*self.charges, *self.tokens):
            charge.give_back()
        if self.entry is not None:
            self.entry.give_back()
        if self.spend is not None:
            self.spend.book_later(Ending.UNSENT)

    def over(self) -> None:
        """Free the places after an attempt, and book what was not booked because of an interrupt.

        Its tokens stay taken unless it is known what it has used. Never waits.
        """
        if not self.is_made:
            self.give_back()
            return
        try:
            self._leave()
        finally:
            if self.spend is not None:
                self.spend.book_later(Ending.FAILED)
                if self.tokens:
                    self.settle()

    def settle(self, now: float | None = None) -> None:
        """Take what the attempt has booked in place of the estimate; once.

        Args:
            now: Monotonic seconds; None for the latest moment that a bucket has seen.
        """
        tokens = None if self.spend is None else self.spend.tokens
        for charge in self.tokens:
            charge.settle(charge.amount if tokens is None else tokens, now)

    def free_places(self) -> None:
        """Free its places, if that was not done already. Never waits."""
        self.keeps_places = False
        for place in self.places:
            place.give_back()

    def _leave(self) -> None:
        if not self.keeps_places:
            self.free_places()
        if self.heard is not None:
            self.heard.end()


class _FigureCharge:
    """Stands for a charge where a figure in headers refuses: nothing is taken, and none is in line.

    Those who wait for a figure ask again when it should cover them, and may be refused again.
    """

    __slots__ = ("_estimate", "_heard", "is_taken", "is_void")

    def __init__(self, heard: HeardLimits, estimate: Estimate | None) -> None:
        self._heard = heard
        self._estimate = estimate
        self.is_taken = False
        self.is_void = False

    def enqueue(self, wake: Callable[[], object]) -> bool:
        """There is always room."""
        return True

    def wait(self, now: float) -> float:
        """Return the seconds until the figures cover the attempt; 0 if they do."""
        found = self._heard.refusal(now, *_parts_of(self._estimate))
        self.is_taken = found is None
        return 0.0 if found is None else max(found[1].retry_after, _SHORTEST)

    def give_back(self) -> None:
        """Nothing was taken."""


class Ticket:
    """A turn in the queue or line of one limit.

    `wake` is set by who waits; it is called from any thread, perhaps more than once.
    """

    __slots__ = ("charge", "is_used", "place", "wake")

    def __init__(
        self, place: Place | None, charge: Charge | _FigureCharge | StoreCharge | None
    ) -> None:
        self.place = place
        self.charge = charge
        self.wake: Callable[[], object] = _nothing
        self.is_used = False
        """Whether an attempt has what was taken with it."""

    def enqueue(self) -> bool:
        """Stand in line; return whether there is room."""
        if self.place is not None:
            return self.place.take() or self.place.enqueue(self._woken)
        assert self.charge is not None
        return self.charge.enqueue(self._woken)

    def wait(self, now: float) -> float:
        """Return the seconds to wait before asking again, 0 if its turn has come."""
        if self.place is not None:
            return 0.0 if self.place.is_held else float("inf")
        assert self.charge is not None
        return self.charge.wait(now)

    @property
    def has_come(self) -> bool:
        """Whether what it waits for is taken."""
        if self.place is not None:
            return self.place.is_held
        return self.charge is not None and self.charge.is_taken

    @property
    def is_void(self) -> bool:
        """Whether its turn will never come, since the limit was changed."""
        return self.charge is not None and self.charge.is_void

    def give_back(self) -> None:
        """Leave the line, or give back what was taken. Never waits."""
        if self.place is not None:
            self.place.give_back()
        if self.charge is not None:
            self.charge.give_back()

    def _woken(self) -> None:
        self.wake()


def _nothing() -> None:
    pass


class TargetLimits:
    """The limits that attempts on one target must pass, in order."""

    __slots__ = ("all", "has_tokens", "heard", "is_shared", "needs_estimate")

    def __init__(self, limits: Sequence[LimitState], heard: HeardLimits | None = None) -> None:
        self.all = tuple(limits)
        self.heard = heard
        """What the provider has reported of its own limits, if its headers are read."""
        self.has_tokens = any(each.limit.tokens is not None for each in self.all)
        """Whether one of them is of tokens."""
        self.is_shared = any(each.limit.shared for each in self.all)
        """Whether the store has to be asked about one of them."""
        self.needs_estimate = self.has_tokens or (heard is not None and heard.counts_tokens)
        """Whether an attempt needs an estimate of its tokens."""

    def shared_takes(self, estimate: Estimate | None) -> tuple[SharedTake, ...]:
        """Return what an attempt takes from limits that all processes share."""
        return takes_of(self.all, estimate) if self.is_shared else ()

    def take(
        self, now: float, estimate: Estimate | None, ticket: Ticket | None = None
    ) -> Held | LimitBlock:
        """Take what an attempt needs, or say which limit refuses it.

        Args:
            now: Monotonic seconds.
            estimate: Of what it will use; None if token limits do not cover it.
            ticket: One whose turn has come; it is used in place of what would be taken anew.
        """
        held, is_taken = Held(), False
        try:
            block = self._taken(held, now, estimate, ticket)
            is_taken = block is None
        finally:
            if not is_taken:  # an interrupt takes nothing either
                held.give_back()
        if block is not None:
            return block
        if ticket is not None:
            ticket.is_used = True
        return held

    def _taken(
        self, held: Held, now: float, estimate: Estimate | None, ticket: Ticket | None
    ) -> LimitBlock | None:
        for each in self.all:
            places = each.places
            if each.limit.max_concurrent is None:
                # Counted all the same: the limit may be changed while attempts run.
                place = places.place()
                held.places.append(place)
                place.take()
                continue
            if ticket is not None and ticket.place is not None and ticket.place.is_of(places):
                held.places.append(ticket.place)
                continue
            place = places.place()
            held.places.append(place)
            if not place.take():
                return _full(each)
        for each in self.all:
            bucket = each.requests  # read once: the limit may be changed
            if bucket is not None:
                block = _charged(held.charges, each.key, bucket, 1, REQUEST_LIMIT, now, ticket)
                if block is not None:
                    return block
        if estimate is not None:
            for each in self.all:
                bucket = each.tokens
                if bucket is not None:
                    block = _charged(
                        held.tokens,
                        each.key,
                        bucket,
                        estimate.tokens,
                        TOKEN_LIMIT,
                        now,
                        ticket,
                    )
                    if block is not None:
                        return block
        return None if self.heard is None else self._begun(held, self.heard, now, estimate)

    def _begun(
        self, held: Held, heard: HeardLimits, now: float, estimate: Estimate | None
    ) -> LimitBlock | None:
        begun = heard.begin(now, *_parts_of(estimate))
        if isinstance(begun, tuple):
            return _of_figure(heard, *begun, now, estimate)
        held.heard = begun
        return None

    def block(self, now: float, estimate: Estimate | None = None) -> LimitBlock | None:
        """Return why an attempt would be refused now, or None; takes nothing.

        Args:
            now: Monotonic seconds.
            estimate: Of what it would use; None if token limits do not cover it.
        """
        for each in self.all:
            if each.limit.max_concurrent is not None and not each.places.is_free:
                return _full(each)
        for each in self.all:
            bucket = each.requests
            if bucket is not None:
                block = _refusal(each.key, bucket, 1, REQUEST_LIMIT, now)
                if block is not None:
                    return block
        for each in self.all:
            bucket = each.tokens
            if bucket is not None and estimate is not None:
                block = _refusal(each.key, bucket, estimate.tokens, TOKEN_LIMIT, now)
                if block is not None:
                    return block
        for each in self.all:
            if each.limit.shared and now < each.refused_until:
                return store_block(each.key, REQUEST_LIMIT, each.refused_until)
        if self.heard is None:
            return None
        found = self.heard.refusal(now, *_parts_of(estimate))
        return None if found is None else _of_figure(self.heard, *found, now, estimate)


def _parts_of(estimate: Estimate | None) -> tuple[int, int]:
    """Return the tokens of input and output that figures of the provider are asked about."""
    return (0, 0) if estimate is None else (estimate.input, estimate.output or 0)


def _of_figure(
    heard: HeardLimits, key: str, refusal: Refusal, now: float, estimate: Estimate | None
) -> LimitBlock:
    """Return the refusal of an attempt that a figure of the provider does not cover."""
    return LimitBlock(
        key,
        refusal.reason,
        now + refusal.retry_after,
        lambda: Ticket(None, _FigureCharge(heard, estimate)),
    )


def store_block(key: str, reason: str, until: float | None) -> LimitBlock:
    """Return the refusal of an attempt by a limit that all processes share.

    Args:
        key: Of the limit.
        reason: Why.
        until: Until when; None if it never fits.
    """
    if until is None:
        return LimitBlock(key, TOO_LARGE, None)
    return LimitBlock(key, reason, until, lambda: Ticket(None, StoreCharge(until)))


def _full(state: LimitState) -> LimitBlock:
    places = state.places
    if not places.max_queued:
        return LimitBlock(state.key, CONCURRENCY, None)
    return LimitBlock(
        state.key,
        CONCURRENCY,
        None,
        lambda: Ticket(places.place(), None),
        state.limit.queue_timeout,
        places,
    )


def _charged(
    charges: list[Charge],
    key: str,
    bucket: Bucket,
    amount: int,
    reason: str,
    now: float,
    ticket: Ticket | None,
) -> LimitBlock | None:
    """Take from a bucket; return why that is refused."""
    if ticket is not None and isinstance(ticket.charge, Charge) and ticket.charge.is_of(bucket):
        charges.append(ticket.charge)
        return None
    charge = bucket.charge(amount)
    charges.append(charge)  # first, so that an interrupt after it is taken loses nothing
    if charge.take(now):
        return None
    return _refused(key, bucket, amount, reason, now)


def _refusal(key: str, bucket: Bucket, amount: int, reason: str, now: float) -> LimitBlock | None:
    """Return why a bucket would refuse an amount now, or None."""
    if bucket.charge(amount).retry_after(now) == 0.0 and not bucket.waiting:
        return None
    return _refused(key, bucket, amount, reason, now)


def _refused(key: str, bucket: Bucket, amount: int, reason: str, now: float) -> LimitBlock:
    seconds = bucket.charge(amount).retry_after(now)
    if seconds is None:
        return LimitBlock(key, TOO_LARGE, None)
    return LimitBlock(key, reason, now + seconds, lambda: Ticket(None, bucket.charge(amount)))
