"""What the attempts of one policy took and how they ended, to order its targets or hedge its calls.

Owns the newest samples of each target and the counts of its failures, for a policy and its copies
with the same chain. A sample is the seconds of a successful attempt (of a stream: to its first
content), or those that the loser of a hedge race ran. Owns as well when a target went first only to
be explored, which nothing but another attempt would show to have become better.

Theory of operation. A healthy call keeps its sample without a lock. CPython with a global
interpreter lock switches threads, runs signal handlers and collects garbage only where a function
is entered, where a call returns and at a jump backwards, or where an object is made that the
collector tracks (see circuit/window.py). The last part of `TargetFigures.answered` does none of
these: it reads and stores floats and integers in slots and in lists of fixed length, so all its
stores are one step for every other thread. `_rebased` works on copies; it puts them in place after
a comparison with the number of samples, and between this comparison and its stores there is no
call, either. `LockedFigures` is for an interpreter without that lock.

Memory is constant: `MOST_SAMPLES` samples of a target that was called, and no list for one that
never answered.
"""

from __future__ import annotations

import itertools
import math
import threading
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.circuit import window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from resilient_llm._values.adaptive import Adaptive

MOST_SAMPLES: Final = 256
"""Samples that are kept of a target; a power of two."""
HALF_LIFE: Final = 30.0
"""Seconds after which a sample weighs half as much in the mean."""

_LAST: Final = MOST_SAMPLES - 1
_NEVER: Final = -math.inf
_HALVINGS: Final = 1.0 / HALF_LIFE
_NEAR: Final = 600.0
"""Seconds after which weights are computed anew, since a sum of far larger ones is not exact. Time
that seems to go back by more than that is the time of another clock."""
_NOTHING: Final[list[float]] = []
EXPLORED_AGAIN: Final = 60.0
"""Least seconds between two explorations of a target; a sample that is older is out of date."""
CALLS_APART: Final = 10
"""Of so many calls of a policy at most one explores a target whose samples are out of date."""
LOST: Final = 600.0
"""Seconds after which an exploration of which nothing was heard counts as over."""


class TargetFigures:
    """Figures of the attempts of one policy on one target. May be used from any thread.

    Attributes:
        count: Samples that were ever taken.
        failures: Failed attempts that harm health, and rate limits.
        refusals: Failed attempts that say nothing about health, such as a bad request.
        newest_at: When the newest sample was taken, monotonic seconds.
        failed_at: When the newest of the failures and refusals came.
        ended_at: When an attempt last ended without a sample, for whatever reason.
        explored_at: When it last went first in order to be explored.
        mean: Mean of the samples weighted by ``2 ** (-age / HALF_LIFE)``, infinity without any.
            The ages of all grow alike, so it changes only with a new sample.
    """

    __slots__ = (
        "_at",
        "_from",
        "_lock",
        "_seconds",
        "_since",
        "_until",
        "_weight",
        "_weighted",
        "_weights",
        "count",
        "ended_at",
        "explored_at",
        "failed_at",
        "failures",
        "mean",
        "newest_at",
        "refusals",
    )

    def __init__(self) -> None:
        self.count: int = 0
        self.failures = 0
        self.refusals = 0
        self.mean: float = math.inf
        self.newest_at = _NEVER
        self.failed_at = _NEVER
        self.ended_at = _NEVER
        self.explored_at = _NEVER
        self._at = _NOTHING
        """When each sample was taken; the sample number ``n`` is at ``n & _LAST``."""
        self._seconds = _NOTHING
        self._weights = _NOTHING
        self._since = _NEVER
        """The moment at which a sample weighs 1 in the sums: they need no update as time passes."""
        self._from = self._until = math.inf
        """Bounds of the time in which that moment is near enough; none before the first sample."""
        self._weighted = 0.0
        """Sum of the kept samples' seconds by their weights."""
        self._weight = 0.0
        """Sum of these weights."""
        self._lock = threading.RLock()

    # Changes.

    def answered(self, now: float, seconds: float) -> None:
        """Keep a sample; `seconds` of a stream are those to its first content."""
        if now > self._until or now < self._from:
            self._prepare(now)
        # No call and no jump backwards from here on: see the theory of operation.
        place, weights, kept = self.count & _LAST, self._weights, self._seconds
        weight, gone = 2.0 ** ((now - self._since) * _HALVINGS), weights[place]
        total = self._weight + weight - gone
        weighted = self._weighted + seconds * weight - kept[place] * gone
        self._weight, self._weighted, self.mean = total, weighted, weighted / total
        weights[place], kept[place], self._at[place] = weight, seconds, now
        self.count += 1
        self.newest_at = now

    def failed(self, now: float, *, harms: bool) -> None:
        """Count a failed attempt.

        Args:
            now: Monotonic seconds.
            harms: Whether it harms health, or is a rate limit.
        """
        with self._lock:
            if harms:
                self.failures += 1
            else:
                self.refusals += 1
            self.failed_at = self.ended_at = now + 0.0

    def unanswered(self, now: float) -> None:
        """Note that an attempt ended of which nothing is counted here, such as a cancelled one."""
        self.ended_at = now + 0.0

    def explores(self, now: float) -> bool:
        """Take the leave to send a call here first, to explore; return whether there is one.

        One attempt at a time and at most once in `EXPLORED_AGAIN` seconds. An exploration is over
        when any attempt of the policy on this target has ended since. Time is a plain float.
        """
        # No call and no jump backwards: see the theory of operation.
        since = self.explored_at
        if now - since < EXPLORED_AGAIN or (
            now - since < LOST and self.newest_at < since and self.ended_at < since
        ):
            return False
        self.explored_at = now
        return True

    def _prepare(self, now: float) -> None:
        """Make room for samples, or compute the sums anew from the samples that there are."""
        now += 0.0  # a moment of a fake clock is more than a float
        with self._lock:
            if self._from <= now <= self._until:
                return  # another thread did it
            if now < self._from:  # the first sample, or the clock was exchanged for an earlier one
                self._begin(now, [0.0] * MOST_SAMPLES, [0.0] * MOST_SAMPLES, [0.0] * MOST_SAMPLES)
                return
            while not self._rebased(now):
                pass

    def _begin(self, now: float, at: list[float], seconds: list[float], w: list[float]) -> None:
        self._at, self._seconds, self._weights = at, seconds, w
        self._since, self._from, self._until = now, now - _NEAR, now + _NEAR
        self._weighted = self._weight = 0.0
        self.newest_at = _NEVER
        self.count = 0

    def _rebased(self, since: float) -> bool:
        """Have the sums refer to another moment; return False if a sample came meanwhile."""
        count, at, seconds = self.count, self._at[:], self._seconds[:]
        weights = [2.0 ** ((each - since) * _HALVINGS) for each in at[:count]]
        weighted = sum(weight * took for weight, took in zip(weights, seconds, strict=False))
        total = sum(weights)
        weights += [0.0] * (MOST_SAMPLES - len(weights))
        if count == self.count:
            self._weights, self._weighted, self._weight = weights, weighted, total
            self._since, self._from, self._until = since, since - _NEAR, since + _NEAR
            return True
        return False

    # Questions.

    @property
    def tried_at(self) -> float:
        """When an attempt on the target was last made, as far as is known."""
        return max(self.newest_at, self.ended_at, self.explored_at)

    def median(self, now: float, span: float, least: int) -> float | None:
        """Return the median of the samples of the last `span` seconds; None if too few."""
        taken = self._seconds_since(now - span)
        if len(taken) < least:
            return None
        middle = len(taken) // 2
        return taken[middle] if len(taken) % 2 else (taken[middle - 1] + taken[middle]) / 2

    def percentile(self, share: float, now: float, *, span: float, least: int) -> float:
        """Return the seconds within which this share of the samples ended; see `PolicyFigures`."""
        taken = self._seconds_since(now - span)
        if len(taken) < least:
            return math.inf
        return taken[max(0, math.ceil(share * len(taken)) - 1)]

    def _seconds_since(self, moment: float) -> list[float]:
        """Return the seconds of the samples that were taken after a moment, ascending."""
        if self.newest_at <= moment:
            return []
        return sorted(seconds for at, seconds in self._samples() if at > moment)

    def _samples(self) -> list[tuple[float, float]]:
        """Return ``(when, seconds)`` of the kept samples, in no order."""
        at, seconds = self._at[: self.count], self._seconds[: self.count]
        return list(zip(at, seconds, strict=True))


class LockedFigures(TargetFigures):
    """The same for an interpreter without a global lock; each change takes a lock."""

    __slots__ = ()

    def answered(self, now: float, seconds: float) -> None:
        with self._lock:
            super().answered(now, seconds)

    def explores(self, now: float) -> bool:
        with self._lock:
            return super().explores(now)


class PolicyFigures:
    """Figures of the attempts of one policy. All methods may be called from any thread."""

    __slots__ = ("__weakref__", "_explored", "_lock", "_steps", "of", "orders")

    def __init__(self, keys: Iterable[str]) -> None:
        self.orders: dict[Adaptive, Any] = {}
        """``{options of adaptive=: the order by them}``; see `adaptive.order_of`."""
        made = TargetFigures if window.LOCK_FREE else LockedFigures
        self.of: dict[str, TargetFigures] = {key: made() for key in keys}
        """``{key: figures of the target}``; nothing is added or taken away."""
        self._steps: dict[str, Callable[[], int]] = {}
        self._explored = -1
        """Number of the last call that explored a target whose samples are out of date."""
        self._lock = threading.RLock()

    def step_of(self, strategy: str) -> Callable[[], int]:
        """Return what counts the calls that use a strategy: the number of earlier ones.

        Two threads never get one number.
        """
        return self._steps.setdefault(strategy, itertools.count().__next__)

    def explores(self, now: float, number: int, oldest: TargetFigures) -> bool:
        """Take the leave to explore a target whose samples are out of date.

        Args:
            now: Monotonic seconds.
            number: How many calls of the policy were ordered before.
            oldest: The target's figures.
        """
        if window.LOCK_FREE:
            return self._explores(now + 0.0, number, oldest)
        with self._lock:
            return self._explores(now + 0.0, number, oldest)

    def _explores(self, now: float, number: int, oldest: TargetFigures) -> bool:
        # No call and no jump backwards until the store: see the theory of operation.
        before = self._explored
        if number - before < CALLS_APART:
            return False
        self._explored = number
        if oldest.explores(now):
            return True
        if self._explored == number:
            self._explored = before
        return False

    def answered(self, key: str, now: float, seconds: float) -> None:
        """Keep a sample of a target; `seconds` of a stream are those to its first content."""
        self.of[key].answered(now, seconds)

    def unanswered(self, key: str, now: float) -> None:
        """Note that an attempt on a target has ended of which nothing is counted here."""
        self.of[key].unanswered(now)

    def failed(self, key: str, now: float, *, harms: bool) -> None:
        """Count a failed attempt on a target; ``harms`` if it harms health or is a rate limit."""
        self.of[key].failed(now, harms=harms)

    def percentile(self, key: str, share: float, now: float, *, span: float, least: int) -> float:
        """Return the seconds within which this share of a target's samples ended, nearest rank.

        Args:
            key: Key of the target.
            share: The share, in (0, 1].
            now: Monotonic seconds.
            span: Seconds of which samples count.
            least: Samples below which nothing is known.

        Returns:
            Seconds; infinity if nothing is known.
        """
        return self.of[key].percentile(share, now, span=span, least=least)
