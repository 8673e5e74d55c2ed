"""What the attempts of one policy took and how they ended, to order its targets or hedge its calls.

Owns the newest samples of each target and the counts of its failures, for a policy and its copies
with the same chain. A sample is the seconds of a successful attempt (of a stream: to its first
content), or those that the loser of a hedge race ran. Owns as well when a target went first only to
be explored, which nothing but another attempt would show to have become better.

Theory of operation. A healthy call keeps its sample without a lock. CPython with a global
interpreter lock switches threads, runs signal handlers and collects garbage only where a function
is entered, where a call returns and at a jump backwards, or where an object is made that the
collector tracks (see circuit/window.py). `TargetFigures.answered`, and the last part of
`answered_for_mean`, do none of these: they read and store floats and integers in slots and in lists
of fixed length, so all their stores are one step for every other thread. `_weighed` works on
copies; it puts them in place after a comparison with the number of samples, and between this
comparison and its stores there is no call, either. `LockedFigures` is for an interpreter without
that lock.

Memory is constant: `MOST_SAMPLES` samples of a target that was called, and no list for one that
never answered.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.circuit import window
from resilient_llm._values.adaptive import MOST_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from resilient_llm._values.adaptive import Adaptive

HALF_LIFE: Final = 30.0
"""Seconds after which a sample weighs half as much in the mean."""

_LAST: Final = MOST_SAMPLES - 1
_NEVER: Final = -math.inf
_HALVINGS: Final = 1.0 / HALF_LIFE
REST: Final = 0.001
"""Seconds in which answers that took even less change no mean; bounds the cost of the mean."""
_NEAR: Final = 600.0
"""Seconds after which weights are computed anew, since a sum of far larger ones is not exact. Time
that goes back by more than that is the time of another clock."""
_NOTHING: Final[list[float]] = []
EXPLORED_AGAIN: Final = 60.0
"""Least seconds between two explorations of a target; a sample that is older is out of date."""
CALLS_APART: Final = 10
"""Of so many calls of a policy at most one explores a target whose samples are out of date."""
_STALE: Final = 0.1
"""Seconds for which a percentile is used again."""
LOST: Final = 600.0
"""Seconds after which an exploration of which nothing was heard counts as over."""


class Shared:
    """What the figures of all targets of a policy have in common.

    Attributes:
        lock: For changes that are more than one step.
        weighings: Grows whenever a mean has changed.
    """

    __slots__ = ("lock", "weighings")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.weighings = 0


class TargetFigures:
    """Figures of the attempts of one policy on one target. May be used from any thread.

    Attributes:
        count: Samples that were ever taken.
        failures: Failed attempts that harm health, and rate limits.
        refusals: Failed attempts that say nothing about health, such as a bad request.
        failed_at: When the newest of the failures and refusals came.
        ended_at: When an attempt last ended without a sample, for whatever reason.
        explored_at: When it last went first in order to be explored.
        mean: Mean of the samples weighted by ``2 ** (-age / HALF_LIFE)``, infinity without any.
            The ages of all grow alike, so it changes only with a new sample. It is kept up to date
            by `answered_for_mean` only.
    """

    __slots__ = (
        "_at",
        "_lock",
        "_lost",
        "_parts",
        "_percentile",
        "_rests_until",
        "_seconds",
        "_shared",
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
        "refusals",
    )

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._lock = shared.lock
        self.failures = 0
        self.refusals = 0
        self.failed_at = _NEVER
        self.ended_at = _NEVER
        self.explored_at = _NEVER
        self._lost: deque[tuple[float, float]] = deque(maxlen=MOST_SAMPLES)
        """``(when, seconds)`` of hedges that lost a race to an attempt begun before them."""
        self._percentile: tuple[tuple[float, float, int], float, int, float] | None = None
        """``((share, span, least), when it was computed, count by then, percentile)``"""
        self._parts = self._weights = _NOTHING
        self._since = self._until = _NEVER
        self._begin(_NOTHING, _NOTHING)

    def _begin(self, at: list[float], seconds: list[float]) -> None:
        self.count: int = 0
        self._at = at
        """When each sample was taken; the sample number ``n`` is at ``n & _LAST``."""
        self._seconds = seconds
        self.mean: float = math.inf
        self._weighted = 0.0
        """Sum of ``_parts``: of the samples' seconds by their weights."""
        self._weight = 0.0
        """Sum of ``_weights``. A sample weighs 1 that is taken at ``_since``."""
        self._rests_until = _NEVER

    # Changes.

    def answered(self, now: float, seconds: float) -> None:
        """Keep a sample; `seconds` of a stream are those to its first content."""
        try:
            # No call and no jump backwards from here on: see the theory of operation.
            place = self.count & _LAST
            self._at[place] = now
            self._seconds[place] = seconds
            self.count += 1
        except IndexError:
            self._make_room()
            self.answered(now, seconds)

    def answered_for_mean(self, now: float, seconds: float) -> None:
        """Keep a sample, and bring the mean up to date.

        Of answers that took less than `REST` seconds, one in so many seconds counts in the mean.
        """
        if seconds < REST and now < self._rests_until:
            place = self.count & _LAST
            self._at[place] = now
            self._seconds[place] = seconds
            self.count += 1
            return
        if now > self._until:
            self.weigh(now)
        # No call and no jump backwards from here on: see the theory of operation.
        weight = 2.0 ** ((now - self._since) * _HALVINGS)
        place, weights, parts = self.count & _LAST, self._weights, self._parts
        part = seconds * weight
        self._weight = total = self._weight + weight - weights[place]
        self._weighted = weighted = self._weighted + part - parts[place]
        self.mean = weighted / total
        weights[place], parts[place], self._at[place] = weight, part, now
        self._seconds[place] = seconds
        self.count += 1
        self._rests_until = now + REST
        self._shared.weighings += 1

    def _make_room(self) -> None:
        with self._lock:
            if not self._at:
                self._begin([0.0] * MOST_SAMPLES, [0.0] * MOST_SAMPLES)

    def weigh(self, now: float) -> None:
        """Compute weights and mean anew from the samples, so that they refer to this moment."""
        self._make_room()
        with self._lock:
            while True:
                if now <= self._until or self._weighed(now + 0.0):
                    break
                # A sample came meanwhile.

    def _weighed(self, since: float) -> bool:
        count, at, seconds = self.count, self._at[:], self._seconds[:]
        weights = [2.0 ** ((each - since) * _HALVINGS) for each in at[:count]]
        parts = [weight * took for weight, took in zip(weights, seconds, strict=False)]
        weight, weighted = sum(weights), sum(parts)
        missing = MOST_SAMPLES - len(weights)
        weights += [0.0] * missing
        parts += [0.0] * missing
        if count == self.count:
            self._weights, self._parts = weights, parts
            self._weight, self._weighted = weight, weighted
            self.mean = weighted / weight if weight else math.inf
            self._since, self._until = since, since + _NEAR
            self._shared.weighings += 1
            return True
        return False

    def begin_anew(self, now: float) -> None:
        """Forget the samples if they are of a time to come: the clock was exchanged since."""
        if self.newest_at > now + _NEAR:
            with self._lock:
                self._since = self._until = _NEVER
                self._lost.clear()
                self._begin(_NOTHING, _NOTHING)

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
        since, count = self.explored_at, self.count
        newest_at = self._at[(count - 1) & _LAST] if count else _NEVER
        if now - since < EXPLORED_AGAIN or (
            now - since < LOST and newest_at < since and self.ended_at < since
        ):
            return False
        self.explored_at = now
        return True

    # Questions.

    @property
    def newest_at(self) -> float:
        """When the newest sample was taken, monotonic seconds."""
        count = self.count
        return self._at[(count - 1) & _LAST] if count else _NEVER

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

    def lost(self, now: float, seconds: float) -> None:
        """Keep how long a hedge ran that lost to an attempt begun before it, as a sample.

        Only for percentiles. It ran for less than it would have taken, which the other attempt
        has decided: in a mean or median it would make a slow target seem quick.
        """
        self._lost.append((now + 0.0, seconds))
        self._percentile = None

    def percentile(self, share: float, now: float, *, span: float, least: int) -> float:
        """Return the seconds within which this share of the samples ended; see `PolicyFigures`."""
        count, which, known = self.count, (share, span, least), self._percentile
        if (
            known is not None
            and known[0] == which
            and 0.0 <= now - known[1] < _STALE
            and 0 <= 16 * (count - known[2]) <= min(count, MOST_SAMPLES) >= least
        ):
            return known[3]
        taken, found = self._seconds_since(now - span), math.inf
        if self._lost:
            since = now - span
            taken = sorted([*taken, *(seconds for at, seconds in list(self._lost) if at > since)])
        if len(taken) >= least:
            # Rounded: 0.56 * 25 is a little above 14.
            found = taken[max(0, math.ceil(round(share * len(taken), 6)) - 1)]
        self._percentile = which, now + 0.0, count, found
        return found

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

    def answered_for_mean(self, now: float, seconds: float) -> None:
        with self._lock:
            super().answered_for_mean(now, seconds)

    def explores(self, now: float) -> bool:
        with self._lock:
            return super().explores(now)


class PolicyFigures:
    """Figures of the attempts of one policy. All methods may be called from any thread."""

    __slots__ = (
        "__weakref__",
        "_explored",
        "_lock",
        "_steps",
        "keeps_means",
        "of",
        "orders",
        "shared",
    )

    def __init__(self, keys: Iterable[str]) -> None:
        self.orders: dict[Adaptive, Any] = {}
        """``{options of adaptive=: the order by them}``; see `adaptive.order_of`."""
        self.shared = Shared()
        self._lock = self.shared.lock
        made = TargetFigures if window.LOCK_FREE else LockedFigures
        self.of: dict[str, TargetFigures] = {key: made(self.shared) for key in keys}
        """``{key: figures of the target}``; nothing is added or taken away."""
        self.keeps_means = False
        """Whether the mean of each target is kept up to date, which costs a call more."""
        self._steps: dict[str, Callable[[], int]] = {}
        self._explored = -1
        """Number of the last call that explored a target whose samples are out of date."""

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
        self.keep_of(key)(now, seconds)

    def keep_of(self, key: str) -> Callable[[float, float], None]:
        """Return what keeps a sample of a target; it takes the time and the seconds."""
        figures = self.of[key]
        return figures.answered_for_mean if self.keeps_means else figures.answered

    def begin(self, now: float, *, means: bool) -> bool:
        """Note that a function is bound to these figures.

        Args:
            now: Monotonic seconds, perhaps of another clock than before.
            means: Whether it needs the means.

        Returns:
            Whether samples have to be kept in another way from now on.
        """
        for figures in self.of.values():
            figures.begin_anew(now)
        if self.keeps_means or not means:
            return False
        self.keeps_means = True
        for figures in self.of.values():
            if figures.count:
                figures.weigh(now)
        return True

    def lost(self, key: str, now: float, seconds: float) -> None:
        """Keep how long a hedge ran that lost to an attempt begun before it, for percentiles."""
        self.of[key].lost(now, seconds)

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
            Seconds; infinity if nothing is known. Of many samples it may lack the newest 6 %, for
            a tenth of a second: to sort them takes longer than the rest of a healthy call.
        """
        return self.of[key].percentile(share, now, span=span, least=least)
