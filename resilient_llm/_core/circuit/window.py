"""Rolling counts of one closed period of a circuit.

Theory of operation. A success is counted by ``generation.n += 1`` alone, without a lock:
CPython with a global interpreter lock switches threads only where a function is entered, where
a call returns and at a jump backwards, and none of these lies between the load and the store of
that statement. ``n`` only grows, and no success is lost. An interpreter without that lock
guarantees none of this: there `LOCK_FREE` is False, no generation is ever settled, and every
success takes the lock of the circuit. Everything else happens rarely, and under that lock.

The window is a ring of buckets. A bucket starts with the first thing counted in it, not at a
multiple of its width, so a burst leaves the window all at once and exactly on time. What ``n``
grew by since the last look is added to the newest bucket.

The healthy path compares the time when a call ends with ``check_after``, and how long it took
with ``slow_above``. A success that ends before that moment and is quicker than that needs nothing
but ``n += 1``. It belongs to the newest bucket whenever the call began, since ``check_after`` is
never later than the end of that bucket. Whatever needs more (failures in a row that a success
ends) sets ``check_after`` to minus infinity, so that the next success is looked at.

``is_settled`` says that nothing but measuring is left to do for a success. While a number of
successes could still change something (open the circuit at ``min_calls``, make a degraded key
healthy), it is False, and the successes before that number need no look either: they are counted
alone until ``n`` is ``free_until``.
"""

from __future__ import annotations

import sys
from typing import Final

LOCK_FREE: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether a success may be counted without the circuit's lock: there is a global one."""
NEVER: Final = float("-inf")
BUCKETS: Final = 30
REST: Final = 0.001
"""Seconds after a look in which successes are only counted; bounds its cost to about 0.1 %."""
RECENT_MARK: Final = 1.0
RECENT_MARKS: Final = 12


class Bucket:
    """Counts of a part of the window."""

    __slots__ = ("cuts", "errors", "seconds", "slow", "slow_above", "start", "successes", "timed")

    def __init__(self, start: float, cuts: int) -> None:
        self.start = start
        self.cuts = cuts
        """How many cuts the generation had when the bucket began."""
        self.successes = 0
        self.errors = 0
        self.slow = 0
        self.slow_above = 0
        """Successes that were slow by the limit of the provider, not of the target."""
        self.seconds = 0.0
        self.timed = 0


class Generation:
    """What was counted since a circuit closed; also the admission of every call since then."""

    __slots__ = (
        "_buckets",
        "_counted",
        "_cuts",
        "_errors",
        "_marks",
        "_seconds_counted",
        "_slow",
        "_successes",
        "_timed_counted",
        "bucket_ends_at",
        "check_after",
        "free_until",
        "is_settled",
        "last_look",
        "n",
        "owner",
        "rest_until",
        "seconds",
        "slow_above",
        "started_at",
        "timed",
        "width",
        "window",
    )

    def __init__(self, started_at: float, window: float, owner: int = -1) -> None:
        self.owner = owner
        """Serial of the circuit that counts here."""
        self.n = 0
        self.seconds = 0.0
        self.timed = 0
        self.check_after = NEVER
        self.slow_above = float("inf")
        """Seconds from which a success may count as slow, for the key or for its provider."""
        self.is_settled = False
        self.free_until = 0.0
        """What ``n`` must reach before a success can change more than the counts."""
        self.bucket_ends_at = NEVER
        self.rest_until = NEVER
        self.last_look = NEVER
        self.started_at = started_at
        self.window = window
        self.width = window / BUCKETS
        # Short lists: an empty list takes a tenth of a deque's memory, and each key has some.
        self._buckets: list[Bucket] = []
        self._marks: list[tuple[float, int]] = []
        self._counted = 0
        # Sums over the buckets, so that asking for them does not mean adding them up.
        self._successes = 0
        self._errors = 0
        self._slow = 0
        self._seconds_counted = 0.0
        self._timed_counted = 0
        self._cuts = 0

    # Called without the lock, on a healthy call.

    def answered(self, now: float, took: float, response_time: float) -> bool:
        """Count a success that ended now, if that needs no lock; return whether it was counted.

        Args:
            now: Monotonic seconds.
            took: Seconds that the attempt took.
            response_time: Seconds that are compared with ``slow_call``.
        """
        if response_time >= self.slow_above:
            return False
        if not self.is_settled:
            # A call that took longer than the rest is worth being measured.
            if now >= self.rest_until or took >= REST or self.n >= self.free_until:
                return False
            self.n += 1
            return True
        if now >= self.bucket_ends_at:
            return False
        self.n += 1
        self.seconds += took
        self.timed += 1
        self._rest(now)
        # A failure on another thread clears `is_settled` before it sets `check_after`, so
        # whichever store comes last, the next success is looked at.
        self.check_after = self.rest_until
        if not self.is_settled:
            self.check_after = NEVER
        return True

    def _rest(self, now: float) -> None:
        """Let the successes of the next moment be only counted."""
        self.last_look = now
        self.rest_until = min(now + REST, self.bucket_ends_at)

    # Called under the lock of the circuit.

    def settle(self, now: float, free: float) -> None:
        """Say how many of the next successes can change nothing but the counts.

        Args:
            now: Monotonic seconds.
            free: Their number from the last count of the window on; infinity if no success can.
        """
        self._rest(now)
        self.free_until = self._counted + free
        self.is_settled = free == float("inf")
        self.check_after = self.rest_until if self.is_settled else NEVER

    def unsettle(self) -> None:
        """Have the next success looked at."""
        self.is_settled = False
        self.free_until = 0.0
        self.check_after = NEVER

    def success(self, now: float, took: float, *, slow: bool, slow_above: bool = False) -> None:
        """Count a success that ended now, slow or not by the key's and its provider's limit."""
        bucket = self._bucket(now)
        self.n += 1
        self.seconds += took
        self.timed += 1
        bucket.slow += slow
        bucket.slow_above += slow_above
        self._slow += slow

    def error(self, now: float, *, slow: bool = False) -> tuple[int, int, int]:
        """Count an error that came now; return the counts of the window, as `counts` does."""
        bucket = self._bucket(now)
        bucket.errors += 1
        bucket.slow += slow
        self._errors += 1
        self._slow += slow
        return self._successes + self._errors, self._errors, self._slow

    def cut(self) -> None:
        """Start a new bucket with the next count, so that counts since the cut are exact."""
        self._settle()
        self._cuts += 1
        self.unsettle()

    def counts(self, now: float, *, since_cut: bool = False) -> tuple[int, int, int]:
        """Return ``(total, errors, slow)`` in the window, or only of those since the last cut."""
        self._settle()
        self._expire(now)
        if not since_cut or not self._buckets or self._buckets[0].cuts == self._cuts:
            return self._successes + self._errors, self._errors, self._slow
        total = errors = slow = 0
        for bucket in self._buckets:
            if bucket.cuts == self._cuts:
                total += bucket.successes + bucket.errors
                errors += bucket.errors
                slow += bucket.slow
        return total, errors, slow

    def slow_for_provider(self, now: float) -> int:
        """Return how many successes since the last cut were slow by the provider's limit."""
        self._expire(now)
        return sum(bucket.slow_above for bucket in self._buckets if bucket.cuts == self._cuts)

    def latency(self, now: float) -> float | None:
        """Return the average seconds of the successes that were measured, or None."""
        self._settle()
        self._expire(now)
        timed = sum(bucket.timed for bucket in self._buckets)
        return sum(bucket.seconds for bucket in self._buckets) / timed if timed else None

    def recent_successes(self, now: float, seconds: float) -> int:
        """Return how many successes came in the last ``seconds``, or in up to a second more."""
        before = 0
        for marked_at, n in self._marks:
            if marked_at > now - seconds:
                break
            before = n
        return self.n - before

    def resize(self, window: float) -> None:
        """Change the length of the window; the present buckets keep their start."""
        self.window = window
        self.width = window / BUCKETS
        self.bucket_ends_at = NEVER
        self.unsettle()

    def _bucket(self, now: float) -> Bucket:
        self._settle()
        self._expire(now)
        newest = self._buckets[-1] if self._buckets else None
        if newest is None or newest.cuts != self._cuts or now - newest.start >= self.width:
            self._buckets.append(Bucket(now, self._cuts))
        if not self._marks or now - self._marks[-1][0] >= RECENT_MARK:
            self._marks.append((now, self.n))
            del self._marks[:-RECENT_MARKS]
        self.bucket_ends_at = now + min(self.width, RECENT_MARK)
        return self._buckets[-1]

    def _settle(self) -> None:
        # Each figure is read once: what is counted meanwhile is found the next time.
        n, seconds, timed = self.n, self.seconds, self.timed
        if self._buckets:
            newest = self._buckets[-1]
            newest.successes += n - self._counted
            self._successes += n - self._counted
            newest.seconds += seconds - self._seconds_counted
            newest.timed += timed - self._timed_counted
            self._counted, self._seconds_counted, self._timed_counted = n, seconds, timed

    def _expire(self, now: float) -> None:
        oldest = now - self.window
        buckets = self._buckets
        while buckets and buckets[0].start <= oldest:
            gone = buckets.pop(0)
            self._successes -= gone.successes
            self._errors -= gone.errors
            self._slow -= gone.slow


class RollingAverage:
    """A rolling average of rare measurements, in buckets of a thirtieth of the window."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: list[tuple[float, float, int]] = []
        """``(start, sum, number)``, oldest first."""

    def add(self, now: float, value: float, window: float) -> None:
        """Count a value that was measured now."""
        self._expire(now, window)
        buckets = self._buckets
        if buckets and now - buckets[-1][0] < window / BUCKETS:
            start, total, number = buckets[-1]
            buckets[-1] = (start, total + value, number + 1)
        else:
            buckets.append((now, value, 1))

    def value(self, now: float, window: float) -> float | None:
        """Return the average of the values in the window, or None if there are none."""
        self._expire(now, window)
        number = sum(bucket[2] for bucket in self._buckets)
        return sum(bucket[1] for bucket in self._buckets) / number if number else None

    def _expire(self, now: float, window: float) -> None:
        while self._buckets and self._buckets[0][0] <= now - window:
            del self._buckets[0]
