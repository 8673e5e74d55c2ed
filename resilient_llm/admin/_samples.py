"""`Samples`: calls and errors of each key over the last 15 minutes, a point every 15 seconds.

One thread adds points and others read them. A reader gets copies, and takes no lock.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm._runtime.runtime import runtime
from resilient_llm.admin._plain import moment

if TYPE_CHECKING:
    from resilient_llm._core.circuit.circuit import Circuit

EVERY: Final = 15.0
"""Seconds between two points."""
POINTS: Final = 60
MOST_KEYS: Final = 1_000


class _Point(NamedTuple):
    calls: int
    errors: int
    is_benched: bool


class _Series:
    """What one key has shown."""

    __slots__ = ("answered", "errors", "points")

    def __init__(self) -> None:
        self.points: list[_Point] = []
        self.answered = 0
        """Successes of the circuit when it was last looked at; they only grow."""
        self.errors = 0
        """Errors in the window of its breaker then; they grow and leave the window."""


class Samples:
    """Points of at most `MOST_KEYS` keys, the oldest first."""

    def __init__(self) -> None:
        self._series: dict[str, _Series] = {}
        self._failed: dict[str, int] = {}
        """``{key: failed attempts since the last point}``, written by the thread alone."""
        self.taken_at = 0.0
        """Unix seconds of the newest point."""
        self._has_begun = False

    def failed(self, key: str) -> None:
        """Count a failed attempt on a key, and on its provider."""
        for each in {key, key.partition("/")[0]}:
            if each in self._failed or len(self._failed) < MOST_KEYS:
                self._failed[each] = self._failed.get(each, 0) + 1

    def take(self) -> None:
        """Add a point for every key, and forget the keys that exist no more.

        The first time there is no point, since nobody knows when that happened which was counted
        until then.
        """
        now = runtime.clock()
        circuits = runtime.registry.circuits()[:MOST_KEYS]
        failed, self._failed = self._failed, {}
        present = {circuit.key for circuit in circuits}
        for key in [key for key in self._series if key not in present]:
            del self._series[key]
        for circuit in circuits:
            series = self._series.setdefault(circuit.key, _Series())
            point = _point(circuit, series, failed.get(circuit.key, 0), now)
            if self._has_begun:
                series.points = [*series.points[1 - POINTS :], point]
        self._has_begun = True
        self.taken_at = runtime.wall()

    def of(self, key: str) -> dict[str, Any]:
        """Return ``{"every", "until", "calls", "errors", "benched"}`` of a key.

        ``until`` is the moment of the newest point, the last one of each list. A point holds
        the calls that ended in the 15 seconds before it, those of them that failed, and whether
        the key was benched at its end.
        """
        series = self._series.get(key)
        points = [] if series is None else series.points
        return {
            "every": EVERY,
            "until": moment(datetime.fromtimestamp(self.taken_at, UTC)),
            "calls": [each.calls for each in points],
            "errors": [each.errors for each in points],
            "benched": [each.is_benched for each in points],
        }


def _point(circuit: Circuit, series: _Series, failed: int, now: float) -> _Point:
    answered = circuit.answered()
    _, errors = circuit.numbers(now)
    # A breaker that guards a block emits no event of an attempt: its errors show in the window.
    failed = max(failed, errors - series.errors)
    succeeded = max(0, answered - series.answered)
    series.answered, series.errors = answered, errors
    provider = circuit.provider
    is_benched = circuit.bench_now(now) is not None or (
        provider is not None and provider.bench_now(now) is not None
    )
    return _Point(succeeded + failed, failed, is_benched)
