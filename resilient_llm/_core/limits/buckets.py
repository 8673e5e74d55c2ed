"""`Bucket`: a token bucket for requests or tokens, with a first-come queue of calls that wait.

Owns one account and its queue. Time is passed in; waits are those of the callers.

Theory of operation. This is the generic cell rate algorithm in its virtual scheduling form (ITU-T
Recommendation I.371, annex A). It keeps one moment, the *theoretical arrival time*, at which the
bucket will be full again. Taking ``n`` moves it by ``n * interval``, where ``interval`` is
``per / amount``. A call fits if the moved moment is at most ``burst * interval`` ahead of now.

The moment is kept as ``since + taken * interval``: ``since`` is when the bucket was last full, and
``taken`` a whole number, what was taken from it since. So nothing is added up in floats, and a
million takes are as exact as one. When that moment has passed, the bucket is full, and a new
*period* begins: ``since`` is now, and ``taken`` 0. What was taken in an earlier period has been
refilled, so giving it back changes nothing. Within a period what is given back counts in full; if
the provider's own bucket was full meanwhile, that is more than it has, by at most what was refilled
while the call held it.

A call that waits joins a queue. Its tokens are not taken yet. A later call stands behind it, so a
small call does not overtake a large one. The first waiter that asks `Charge.wait` when it is time
takes for all whose turn has come, in order. When a waiter leaves the queue, or tokens come back,
all others move forward: the first of the queue is woken and asks again, and so is the next one when
the first is served.

Each change is one run of statements without a call between, so it needs no lock (see
circuit/window.py and places.py). Where `window.LOCK_FREE` is False, it takes the bucket's lock.

Clocks. Threads read the clock before they come here, so a moment a little earlier than one seen
before is usual. It gains nothing, and what the bucket held when it was full may be taken all the
same. A clock that goes back further was exchanged: the account is moved with it, so that neither
tokens nor waits come of it.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from resilient_llm._core.circuit import window

if TYPE_CHECKING:
    from collections.abc import Callable

_NEW: Final = 0
_WAITING: Final = 1
TAKEN: Final = 2
"""The state of what is taken. What has taken it without a charge may put it into one."""
_OVER: Final = 3

ROUNDING: Final = 1e-6
"""Seconds before its time at which a call fits: a moment plus a wait is rounded. Not added up."""
_EXCHANGED: Final = 60.0
"""Seconds by which a clock goes back that was exchanged. Of a thread that the system did not run
for some seconds between reading the clock and coming here, the next callers would be given what
is refilled in that time once more."""


class Charge:
    """What one call takes from one bucket.

    Attributes:
        amount: Whole number of requests or tokens, 0 or more.
    """

    __slots__ = ("_bucket", "_period", "_state", "_wake", "amount")

    _period: int
    _wake: Callable[[], object]

    def __init__(self, bucket: Bucket, amount: int) -> None:
        self._bucket = bucket
        self._state = _NEW
        self.amount = amount

    def take(self, now: float) -> bool:
        """Take the amount, if it fits now and no other call waits; return whether it is taken."""
        bucket = self._bucket
        now += 0.0  # a plain float, whose operators are no calls
        bucket._turn(now)
        # No call and no jump backwards: see the theory of operation.
        missing = bucket._taken + self.amount - bucket.burst
        if (
            (missing <= 0 or bucket._since + missing * bucket._interval <= now + ROUNDING)
            and not bucket._queue
            and self._state == _NEW
        ):
            bucket._taken += self.amount
            self._period = bucket._period
            self._state = TAKEN
            return True
        return False

    def is_of(self, bucket: Bucket) -> bool:
        """Return whether it takes from this bucket."""
        return self._bucket is bucket

    def retry_after(self, now: float) -> float | None:
        """Return the seconds until this call fits behind those that wait; None if it never does."""
        bucket = self._bucket
        if self.amount > bucket.burst:
            return None
        now += 0.0
        bucket._turn(now)
        return max(0.0, bucket._due(bucket._queued + self.amount, now) - now)

    def enqueue(self, wake: Callable[[], object]) -> bool:
        """Join the queue; return whether it can be served there: not if it exceeds the bucket.

        Args:
            wake: Called when `wait` may answer otherwise than before, on the terms of
                `places.Place.enqueue`.
        """
        return self.amount <= self._bucket.burst and self._join(wake)

    def _join(self, wake: Callable[[], object]) -> bool:
        bucket = self._bucket
        self._wake = wake
        # No call until the append, and no jump backwards.
        if self._state == _NEW:
            self._state = _WAITING
            bucket._queued += self.amount
            bucket._queue.append(self)
            return True
        return False

    def wait(self, now: float) -> float:
        """Return the seconds to wait in the queue before asking again; 0 if the amount is taken.

        Also 0 if it will never be: see `is_void`.
        """
        bucket = self._bucket
        now += 0.0
        if self._state == _WAITING and not bucket.is_closed:
            bucket.fill(now)
        if self._state != _WAITING or bucket.is_closed:
            return 0.0
        ahead = 0
        for each in list(bucket._queue):
            ahead += each.amount
            if each is self:
                break
        return max(bucket._due(ahead, now) - now, ROUNDING)

    @property
    def is_void(self) -> bool:
        """Whether it waits in vain, since another bucket has taken the place of this one."""
        return self._bucket.is_closed and self._state != TAKEN

    @property
    def is_taken(self) -> bool:
        """Whether the amount is taken."""
        return self._state == TAKEN

    def give_back(self) -> None:
        """Give back what was taken, or leave the queue; never waits, and may be called again.

        For a call that was not made. One that was made is settled instead.
        """
        self._end()
        if self._bucket._queue:
            self._bucket.wake_first()

    def _end(self) -> None:
        bucket = self._bucket
        # No call until the removal, and no jump backwards.
        if self._state == TAKEN:
            self._state = _OVER
            if self._period == bucket._period:
                bucket._taken -= self.amount
        elif self._state == _WAITING:
            self._state = _OVER
            bucket._queued -= self.amount
            bucket._queue.remove(self)

    def settle(self, amount: int, now: float | None) -> None:
        """Replace the amount that was taken by what the call has used; once.

        Args:
            amount: Whole number, 0 or more. What exceeds the estimate is a debt, also if the
                bucket does not hold it: later calls wait until it is refilled.
            now: Monotonic seconds; None for the latest moment that the bucket has seen.
        """
        if self._state != TAKEN:
            return
        if now is not None:
            self._bucket._turn(now + 0.0)
        self._book(amount)
        if self._bucket._queue:
            self._bucket.wake_first()

    def _book(self, amount: int) -> None:
        bucket = self._bucket
        # No call and no jump backwards.
        if self._state == TAKEN:
            self._state = _OVER
            if amount > self.amount or self._period == bucket._period:
                bucket._taken += amount - self.amount
            self.amount = amount

    def _tell(self) -> bool:
        """Wake the waiter; return False if it cannot be woken any more, and is removed."""
        try:
            self._wake()
        except Exception:  # noqa: BLE001  # its loop is closed
            self._end()
            return False
        return True


class Bucket:
    """A bucket that is refilled evenly, full at first; made by `bucket`.

    Attributes:
        burst: What it holds, and the largest call that it can ever serve.
    """

    __slots__ = (
        "_interval",
        "_period",
        "_queue",
        "_queued",
        "_seen",
        "_since",
        "_taken",
        "burst",
        "is_closed",
    )

    def __init__(self, amount: int, per: float, burst: int | None = None) -> None:
        self.burst = amount if burst is None else burst
        self._interval = per / amount
        self._since = window.NEVER
        """When the bucket was last full."""
        self._taken = 0
        """What was taken since, and not given back."""
        self._period = 0
        """How many times it was full."""
        self._seen = window.NEVER
        """The latest moment that was passed in."""
        self._queue: deque[Charge] = deque()
        self.is_closed = False
        """Whether another bucket has taken its place, which those in the queue have to ask."""
        self._queued = 0
        """Sum of the amounts in the queue."""

    def charge(self, amount: int) -> Charge:
        """Return what a call of this amount takes, which it has not taken yet."""
        return Charge(self, amount)

    def level(self, now: float) -> float:
        """Return what the bucket holds; below 0 if there is a debt."""
        now += 0.0
        self._turn(now)
        held = self.burst - self._taken + (now - self._since) / self._interval
        return min(held, float(self.burst))

    def is_full(self, now: float) -> bool:
        """Return whether nothing of it is taken and nobody waits."""
        self._turn(now + 0.0)
        return not self._taken and not self._queue

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return len(self._queue)

    def fresh(self) -> Bucket:
        """Return the same bucket, full and with an empty queue, for a forked child."""
        return type(self)(1, self._interval, self.burst)

    def fill(self, now: float) -> None:
        """Take for the waiters whose turn has come, in order, and wake them."""
        self._turn(now)
        served = False
        while (charge := self._serve(now)) is not None:
            served = charge._tell() or served
        if served:
            self.wake_first()

    def close(self) -> None:
        """Send all that wait away, in order: another bucket has taken the place of this one."""
        self.is_closed = True
        for each in list(self._queue):
            each._tell()

    def wake_first(self) -> None:
        """Wake the first of the queue, which may be served earlier than `Charge.wait` returned."""
        while self._queue:
            try:
                first = self._queue[0]
            except IndexError:  # it has left in between
                return
            if first._tell():
                return

    def _due(self, amount: int, now: float) -> float:
        """Return the moment from which this much can be taken beyond what is."""
        missing = self._taken + amount - self.burst
        return now if missing <= 0 else self._since + missing * self._interval

    def _turn(self, now: float) -> None:
        """Begin a new period if the bucket is full, and follow a clock that was exchanged."""
        # No call and no jump backwards.
        if now >= self._seen:
            self._seen = now
        elif now < self._seen - _EXCHANGED:
            self._since -= self._seen - now
            self._seen = now
        if self._since + self._taken * self._interval <= now:
            self._since = now
            self._taken = 0
            self._period += 1

    def _serve(self, now: float) -> Charge | None:
        """Take for the first of the queue, if its turn has come, and return it."""
        queue = self._queue
        # No call until the removal, and no jump backwards.
        if queue:
            charge = queue[0]
            missing = self._taken + charge.amount - self.burst
            if missing <= 0 or self._since + missing * self._interval <= now + ROUNDING:
                self._taken += charge.amount
                self._queued -= charge.amount
                charge._period = self._period
                charge._state = TAKEN
                queue.popleft()
                return charge
        return None


class LockedBucket(Bucket):
    """The same for an interpreter without a global lock; each change takes a lock."""

    __slots__ = ("_lock",)

    def __init__(self, amount: int, per: float, burst: int | None = None) -> None:
        super().__init__(amount, per, burst)
        self._lock = threading.RLock()

    def charge(self, amount: int) -> Charge:
        return LockedCharge(self, amount)

    def _turn(self, now: float) -> None:
        with self._lock:
            super()._turn(now)

    def _serve(self, now: float) -> Charge | None:
        with self._lock:
            return super()._serve(now)


class LockedCharge(Charge):
    """What a call takes from a `LockedBucket`."""

    __slots__ = ()

    _bucket: LockedBucket

    def take(self, now: float) -> bool:
        with self._bucket._lock:
            return super().take(now)

    def _join(self, wake: Callable[[], object]) -> bool:
        with self._bucket._lock:
            return super()._join(wake)

    def _end(self) -> None:
        with self._bucket._lock:
            super()._end()

    def _book(self, amount: int) -> None:
        with self._bucket._lock:
            super()._book(amount)


def bucket(amount: int, per: float, burst: int | None = None) -> Bucket:
    """Return a bucket that is full.

    Args:
        amount: What is refilled in each period, 1 or more.
        per: Seconds of the period, above 0.
        burst: What it holds, 1 or more; None for ``amount``.
    """
    return (Bucket if window.LOCK_FREE else LockedBucket)(amount, per, burst)
