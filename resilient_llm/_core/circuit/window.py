"""What a closed circuit counts: successes, failures and slow calls of the last seconds.

Theory of operation. A success is counted by ``generation.n += 1`` alone, without a lock:
CPython with a global interpreter lock switches threads only where a function is entered, where
a call returns and at a jump backwards, and none of these lies between the load and the store of
that statement. ``n`` only grows, and no success is lost. An interpreter without that lock
guarantees none of this: there `LOCK_FREE` is False, no generation is ever settled, and every
success takes the lock of the circuit. Everything else happens rarely, and under that lock.

The window is a ring of buckets. A bucket starts with the first thing counted in it, not at a
multiple of its width, so a burst leaves the window all at once and exactly on time. What ``n``
grew by since the last look is added to the newest bucket; that is called to settle.

The counts of a provider contain those of its targets. What a target counts under the lock, and
what it settles, is added to the provider's present generation in the same step, and dated by the
target's bucket. So the provider lacks only the successes that its targets did not settle yet.

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

    __slots__ = ("errors", "errors_of_targets", "seconds", "slow", "start", "successes", "timed")

    def __init__(self, start: float) -> None:
        self.start = start
        self.successes = 0
        self.errors = 0
        """Errors that this circuit is charged with."""
        self.errors_of_targets = 0
        """Errors that a target of this provider is charged with."""
        self.slow = 0
        self.seconds = 0.0
        self.timed: int = 0


class Generation:
    """What was counted since a circuit closed; also the admission of every call since then."""

    __slots__ = (
        "_buckets",
        "_counted",
        "_errors",
        "_errors_of_targets",
        "_marks",
        "_seconds_counted",
        "_slow",
        "_successes",
        "_timed_counted",
        "above",
        "bad",
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

    def __init__(
        self,
        started_at: float,
        window: float,
        owner: int = -1,
        above: Generation | None = None,
    ) -> None:
        self.owner = owner
        """Serial of the circuit that counts here."""
        self.above = above
        """The present generation of the provider, if this is one of a target."""
        self.n: int = 0
        self.seconds = 0.0
        self.timed: int = 0
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
        self._counted: int = 0
        # Sums over the buckets, so that asking for them does not mean adding them up.
        self._successes = 0
        self._errors = 0
        self._errors_of_targets = 0
        self._slow = 0
        self._seconds_counted = 0.0
        self._timed_counted: int = 0
        self.bad: BadAnswers | None = None
        """None before the first one, and in a circuit that does not count them."""

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
        rest_until, ends_at = now + REST, self.bucket_ends_at
        self.rest_until = rest_until if rest_until < ends_at else ends_at

    # Called under the lock of the circuit.

    def let_rest(self, now: float, free: float) -> None:
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
        if slow:
            bucket.slow += 1
            self._slow += 1
        if slow_above and self.above is not None:
            self.above.add_slow(now, bucket.start)
        self.n += 1
        self.seconds += took
        self.timed += 1

    def bad_answer(self, now: float, reason: str) -> None:
        """Count a bad answer that came now; it is neither a success nor an error."""
        if self.bad is None:
            self.bad = BadAnswers()
        self.bad.add(now, reason, self.window)

    def take_back_success(self, now: float) -> None:
        """Take back one success, which is counted elsewhere, too."""
        bucket = self._bucket(now)
        bucket.successes -= 1
        self._successes -= 1
        self.n -= 1
        self._counted -= 1

    def error(self, now: float, *, slow: bool = False) -> tuple[int, int, int]:
        """Count an error that came now; return the counts of the window, as `counts` does."""
        bucket = self._bucket(now)
        bucket.errors += 1
        self._errors += 1
        if slow:
            bucket.slow += 1
            self._slow += 1
        if self.above is not None:
            self.above.add_error(now, bucket.start)
        total = self._successes + self._errors + self._errors_of_targets
        return total, self._errors, self._slow

    def add(self, now: float, start: float, successes: int, seconds: float, timed: int) -> None:
        """Count what a target settled in its bucket that began at ``start``."""
        bucket = self._bucket_of(now, start)
        self.n += successes
        self._counted += successes
        bucket.successes += successes
        self._successes += successes
        bucket.seconds += seconds
        bucket.timed += timed

    def add_error(self, now: float, start: float) -> None:
        """Count an error that a target is charged with, in its bucket that began at ``start``."""
        self._bucket_of(now, start).errors_of_targets += 1
        self._errors_of_targets += 1

    def add_slow(self, now: float, start: float) -> None:
        """Note that a success of a target was slow by the limit of this provider."""
        self._bucket_of(now, start).slow += 1
        self._slow += 1

    def counts(self, now: float) -> tuple[int, int, int]:
        """Return ``(total, errors charged here, slow)`` in the window."""
        self.settle(now)
        self._expire(now)
        total = self._successes + self._errors + self._errors_of_targets
        return total, self._errors, self._slow

    def answers(self, now: float) -> tuple[int, int]:
        """Return ``(bad answers, all answers)`` in the window."""
        self.settle(now)
        self._expire(now)
        bad = 0 if self.bad is None else self.bad.number(now, self.window)
        return bad, self._successes + bad

    def errors_of_targets(self, now: float) -> int:
        """Return how many errors the targets of this provider are charged with in the window."""
        self._expire(now)
        return self._errors_of_targets

    def latency(self, now: float) -> float | None:
        """Return the average seconds of the successes that were measured, or None."""
        self.settle(now)
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

    @property
    def unsettled(self) -> int:
        """How many successes are not yet in a bucket, nor in the provider's counts."""
        return self.n - self._counted

    def settle(self, now: float) -> None:
        """Add what ``n`` grew by to the newest bucket, and to the provider's counts."""
        # Each figure is read once: what is counted meanwhile is found the next time.
        n, seconds, timed = self.n, self.seconds, self.timed
        grown = n - self._counted
        if not self._buckets or not (grown or timed != self._timed_counted):
            return
        newest = self._buckets[-1]
        took, measured = seconds - self._seconds_counted, timed - self._timed_counted
        newest.successes += grown
        self._successes += grown
        newest.seconds += took
        newest.timed += measured
        self._counted, self._seconds_counted, self._timed_counted = n, seconds, timed
        if self.above is not None:
            self.above.add(now, newest.start, grown, took, measured)

    def _bucket(self, now: float) -> Bucket:
        """Return the bucket that counts what comes now."""
        buckets, width = self._buckets, self.width
        if self.n != self._counted or self.timed != self._timed_counted:
            self.settle(now)
        if not buckets or buckets[0].start <= now - self.window:
            self._expire(now)
        if not buckets or now - buckets[-1].start >= width:
            buckets.append(Bucket(now))
        if not self._marks or now - self._marks[-1][0] >= RECENT_MARK:
            self._mark(now)
        self.bucket_ends_at = now + (width if width < RECENT_MARK else RECENT_MARK)
        return buckets[-1]

    def _bucket_of(self, now: float, start: float) -> Bucket:
        """Return the bucket that counts what a target counted in its bucket of this start.

        It is the last one that began not later, so that it leaves this window not later than
        the target's bucket leaves that of the target.
        """
        if self.timed != self._timed_counted or self.n != self._counted:
            self.settle(now)
        buckets = self._buckets
        if (
            buckets
            and 0.0 <= start - buckets[-1].start < self.width
            and buckets[0].start > now - self.window
            and now - self._marks[-1][0] < RECENT_MARK
        ):
            return buckets[-1]  # what follows would change nothing
        self._expire(now)
        if not self._marks or now - self._marks[-1][0] >= RECENT_MARK:
            self._mark(now)
        start = max(start, self.started_at)
        position = len(buckets)
        while position and buckets[position - 1].start > start:
            position -= 1
        if not position or start - buckets[position - 1].start >= self.width:
            buckets.insert(position, Bucket(start))
            position += 1
        return buckets[position - 1]

    def _mark(self, now: float) -> None:
        self._marks.append((now, self.n))
        del self._marks[:-RECENT_MARKS]

    def _expire(self, now: float) -> None:
        oldest = now - self.window
        buckets = self._buckets
        while buckets and buckets[0].start <= oldest:
            gone = buckets.pop(0)
            self._successes -= gone.successes
            self._errors -= gone.errors
            self._errors_of_targets -= gone.errors_of_targets
            self._slow -= gone.slow


class BadAnswers:
    """How many bad answers came in the window, in buckets as those of a generation."""

    __slots__ = ("_buckets", "_number", "reason")

    def __init__(self) -> None:
        self.reason = ""
        """Why the last of them was bad."""
        self._number = 0
        self._buckets: list[tuple[float, int]] = []
        """``(start, number)``, oldest first."""

    def add(self, now: float, reason: str, window: float) -> None:
        """Count one that came now."""
        self.reason = reason
        buckets = self._buckets
        if self.number(now, window) and now - buckets[-1][0] < window / BUCKETS:
            start, number = buckets[-1]
            buckets[-1] = (start, number + 1)
        else:
            buckets.append((now, 1))
        self._number += 1

    def number(self, now: float, window: float) -> int:
        """Return how many are in the window."""
        buckets = self._buckets
        while buckets and buckets[0][0] <= now - window:
            self._number -= buckets.pop(0)[1]
        return self._number


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
