"""`Places`: the attempts in flight on one limit, and the first-come queue of those that wait.

Owns both. It does not wait: a waiter gives a callback that wakes it, from the thread, event loop or
finaliser that frees a place, and then asks again. So threads and the loops of asyncio and trio
share one count and one queue.

    place = places.place()
    try:
        if not place.take() and place.enqueue(wake):
            …  # wait until woken, for a timeout or a cancellation; then ask `is_held`
        if place.is_held:
            …  # the attempt
    finally:
        place.give_back()

Theory of operation. A `Place` remembers what it has, so ``give_back`` is right at every point: it
frees a place that is held, leaves the queue, passes a place on that was granted in the moment in
which its waiter was cancelled, and does nothing the second time. The bookkeeping of each step is
one run of statements without a call between, which no other thread, signal handler or finaliser
comes between (see circuit/window.py); a call that ends such a run is of C code, which ends before a
switch is possible. So no step takes a lock, and a finaliser waits for none. Where
`window.LOCK_FREE` is False, each of these runs takes the lock of its `Places`; no callback runs
under it.

While a waiter is in the queue, no other attempt takes a place, even if one is free for a moment:
freeing it and granting it to the next waiter are two steps. If an interrupt comes between them, the
next attempt that gives a place back, joins or asks `is_held` grants it. For that reason, and for
wakers that may be interrupted, a waiter asks again once a second at the latest.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from resilient_llm._core.circuit import window

if TYPE_CHECKING:
    from collections.abc import Callable

_NEW: Final = 0
_WAITING: Final = 1
HELD: Final = 2
"""The state of a place that is held. What has counted an attempt itself may put it into a place."""
_OVER: Final = 3


class Place:
    """The place of one attempt, from before it is asked for until it is given back.

    A place that is collected is given back, so whatever stands for the attempt refers to it.
    """

    __slots__ = ("_places", "_state", "_wake")

    _wake: Callable[[], object]

    def __init__(self, places: Places) -> None:
        self._places = places
        self._state = _NEW

    def take(self) -> bool:
        """Take a place, if one is free and no other attempt waits; return whether it is held."""
        places = self._places
        # No call and no jump backwards: see the theory of operation.
        if places.running < places.limit and not places._queue and self._state == _NEW:
            places.running += 1
            self._state = HELD
            return True
        return False

    def enqueue(self, wake: Callable[[], object]) -> bool:
        """Join the queue; return whether there was room in it.

        Args:
            wake: Called, perhaps more than once, when the place is held: from any thread, from a
                finaliser or a signal handler, perhaps before this returns. It must not wait for
                anything, so for a thread release a lock, and not an event, which has a lock of its
                own. If it raises, its waiter is taken for gone, and its place is passed on.
        """
        if not self._join(wake):
            return False
        self._places.fill()  # one may have been freed since `take`
        return True

    def _join(self, wake: Callable[[], object]) -> bool:
        places = self._places
        self._wake = wake
        # No call until the append, and no jump backwards: see the theory of operation.
        if places.waiting < places.max_queued and self._state == _NEW:
            self._state = _WAITING
            places.waiting += 1
            places._queue.append(self)
            return True
        return False

    def is_of(self, places: Places) -> bool:
        """Return whether it is a place of this limit."""
        return self._places is places

    def holds_one_of(self, places: Places) -> bool:
        """Return whether it is a place of this limit, and held."""
        return self._places is places and self._state == HELD

    @property
    def has_queue(self) -> bool:
        """Whether attempts wait for a place of its limit."""
        return self._places.max_queued > 0

    @property
    def is_held(self) -> bool:
        """Whether the attempt has its place."""
        if self._state == _WAITING:
            self._places.fill()
        return self._state == HELD

    def give_back(self) -> None:
        """Free the place or leave the queue; does nothing if there is neither. Never waits."""
        self._end()
        if self._places._queue:
            self._places.fill()

    def _end(self) -> None:
        places = self._places
        # No call until the removal, and no jump backwards: see the theory of operation.
        if self._state == HELD:
            self._state = _OVER
            places.running -= 1
        elif self._state == _WAITING:
            self._state = _OVER
            places.waiting -= 1
            places._queue.remove(self)

    def _tell(self) -> None:
        """Wake the waiter; end its place if it cannot be woken any more."""
        try:
            self._wake()
        except Exception:  # noqa: BLE001  # its loop is closed; the caller of `fill` goes on
            self._end()

    def __del__(self) -> None:
        # An attempt that is collected unfinished, as with a stream that was never read. Nothing is
        # called before the place is free: an interrupt that arrives in a finaliser goes nowhere.
        try:
            if self._state != HELD:
                return
        except AttributeError:  # an interrupt came before it was made
            return
        places = self._places
        self._state = _OVER
        places.running -= 1
        if places.waiting:
            places.fill()


class Places:
    """The attempts of one limit that are in flight or wait for a place; made by `places`.

    Attributes:
        limit: Attempts that may be in flight.
        max_queued: Attempts that may wait.
        running: Attempts in flight. More than ``limit`` for a while after it was lowered.
        waiting: Attempts that wait.
    """

    __slots__ = ("_queue", "limit", "max_queued", "running", "waiting")

    def __init__(self, limit: int | None, max_queued: int = 0) -> None:
        self.limit = sys.maxsize if limit is None else limit
        self.max_queued = max_queued
        self.running = 0
        self.waiting = 0
        self._queue: deque[Place] = deque()

    def place(self) -> Place:
        """Return a place for an attempt, which does not have it yet."""
        return Place(self)

    @property
    def is_free(self) -> bool:
        """Whether an attempt would get a place at once."""
        return self.running < self.limit and not self._queue

    def change(self, limit: int | None, max_queued: int = 0) -> None:
        """Change the limits; attempts in flight count on, and those in the queue keep their turn.

        Args:
            limit: Attempts that may be in flight; None for any number.
            max_queued: Attempts that may wait.
        """
        self.limit = sys.maxsize if limit is None else limit
        self.max_queued = max_queued
        self.fill()

    def fresh(self) -> Places:
        """Return the same limits with nothing in flight, for a forked child.

        The places of the parent's attempts count in this one, to which nothing refers there.
        """
        limit = None if self.limit == sys.maxsize else self.limit
        return type(self)(limit, self.max_queued)

    def fill(self) -> None:
        """Grant free places to the waiters, in order, and wake them."""
        while (place := self._grant()) is not None:
            place._tell()

    def _grant(self) -> Place | None:
        """Grant a free place to the first of the queue, and return it."""
        queue = self._queue
        # No call until the removal, and no jump backwards: see the theory of operation.
        if self.running < self.limit and queue:
            place = queue[0]
            place._state = HELD
            self.waiting -= 1
            self.running += 1
            queue.popleft()
            return place
        return None


class LockedPlaces(Places):
    """The same for an interpreter without a global lock; each change takes a lock."""

    __slots__ = ("_lock",)

    def __init__(self, limit: int | None, max_queued: int = 0) -> None:
        super().__init__(limit, max_queued)
        self._lock = threading.RLock()

    def place(self) -> Place:
        return LockedPlace(self)

    def _grant(self) -> Place | None:
        with self._lock:
            return super()._grant()


class LockedPlace(Place):
    """A place of `LockedPlaces`."""

    __slots__ = ()

    _places: LockedPlaces

    def take(self) -> bool:
        with self._places._lock:
            return super().take()

    def _join(self, wake: Callable[[], object]) -> bool:
        with self._places._lock:
            return super()._join(wake)

    def _end(self) -> None:
        with self._places._lock:
            super()._end()

    def __del__(self) -> None:
        if getattr(self, "_state", None) == HELD:
            self.give_back()


def places(limit: int | None, max_queued: int = 0) -> Places:
    """Return the places of a limit, of which none is held.

    Args:
        limit: Attempts that may be in flight, 1 or more; None for any number.
        max_queued: Attempts that may wait, 0 or more.
    """
    return (Places if window.LOCK_FREE else LockedPlaces)(limit, max_queued)
