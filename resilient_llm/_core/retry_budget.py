"""How many extra attempts a provider may be asked for. Owns its counts and one lock.

Retries on a provider are at most a share of the first attempts on it in the
last ten seconds, with a floor, so that an outage is not answered with a multiple of the
load ("retry budget" in the Finagle user guide; M. Nygard, "Release It!", 2018). No
other lock is taken and nothing foreign is called while this lock is held.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Final

SPAN: Final = 10.0
FLOOR: Final = 10
_MOST_PROVIDERS: Final = 10_000
"""Above this the counts of the provider that was not asked for the longest time are dropped."""


class _Counts:
    __slots__ = ("first", "retries")

    def __init__(self) -> None:
        # ``[moment, how many]`` in steps of a tenth of a second, so the length is bounded by SPAN.
        self.first: deque[list[float]] = deque()
        self.retries: deque[list[float]] = deque()


class RetryBudgets:
    """The retry budgets of all providers."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._counts: OrderedDict[str, _Counts] = OrderedDict()
        """``{provider: counts}``, the one asked for last at the end."""

    def first_attempt_failed(self, provider: str, now: float) -> None:
        """Count a first attempt that failed or lost a race; circuits count those that succeeded."""
        with self._lock:
            _add(self._of(provider).first, now)

    def take(self, provider: str, now: float, share: float | None, succeeded: int) -> bool:
        """Charge one extra attempt, or return False if the budget is spent.

        Args:
            provider: Key of the provider.
            now: Monotonic seconds.
            share: Extra attempts as a share of first attempts; None for no limit.
            succeeded: First attempts on the provider that succeeded in the last ``SPAN`` seconds.
        """
        with self._lock:
            counts = self._of(provider)
            if share is not None:
                first = succeeded + _sum(counts.first, now)
                if _sum(counts.retries, now) + 1 > max(FLOOR, share * first):
                    return False
            _add(counts.retries, now)
            return True

    def after_fork(self) -> None:
        """Forget all counts and replace the lock, which a thread of the parent may hold."""
        self._lock = threading.RLock()
        self._counts = OrderedDict()

    def forget(self) -> None:
        """Forget the counts of all providers."""
        # Replaced, not emptied: a signal handler may forget while its thread counts.
        with self._lock:
            self._counts = OrderedDict()

    def _of(self, provider: str) -> _Counts:
        known = self._counts
        counts = known.get(provider)
        if counts is None:
            if len(known) >= _MOST_PROVIDERS:
                known.popitem(last=False)
            counts = known[provider] = _Counts()
        elif provider in known:  # a signal handler may have dropped it
            known.move_to_end(provider)
        return counts


def _add(marks: deque[list[float]], now: float) -> None:
    if marks and now - marks[-1][0] < 0.1:
        marks[-1][1] += 1
    else:
        _expire(marks, now)  # here, too: a sum may not be asked for in days
        marks.append([now, 1])


def _expire(marks: deque[list[float]], now: float) -> None:
    while marks and marks[0][0] <= now - SPAN:
        marks.popleft()


def _sum(marks: deque[list[float]], now: float) -> float:
    _expire(marks, now)
    return sum(count for _, count in list(marks))  # a copy: a signal handler may count
