"""What the attempts of one policy took, for what orders its targets or hedges its calls.

Owns the newest samples per target, of a policy and of its copies with the same chain. Every change
is one append to a deque of fixed length, which is atomic, so there is no lock.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_SAMPLES: Final = 256
"""Samples that are kept of a target."""
_STALE: Final = 0.1
"""Seconds for which a percentile is used again."""


class Sample(NamedTuple):
    """How long a successful attempt took; of a stream, its first content.

    Attributes:
        at: When it ended, monotonic seconds.
        seconds: How long it took.
    """

    at: float
    seconds: float


class PolicyFigures:
    """Figures of the attempts of one policy. All methods may be called from any thread."""

    __slots__ = ("_known", "_taken", "samples")

    def __init__(self, keys: Iterable[str]) -> None:
        self.samples: dict[str, deque[Sample]] = {key: deque(maxlen=MOST_SAMPLES) for key in keys}
        self._taken = dict.fromkeys(self.samples, 0)
        """``{key: samples that were taken so far}``; one that a thread loses does no harm."""
        self._known: dict[tuple[str, float, float, int], tuple[float, int, float]] = {}
        """``{(key, share, span, least): (when it was computed, taken by then, percentile)}``"""

    def answered(self, key: str, now: float, seconds: float) -> None:
        """Keep a sample of a target; `seconds` of a stream are those to its first content."""
        self.samples[key].append(Sample(now, seconds))
        self._taken[key] += 1

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
        known, which = self._known, (key, share, span, least)
        at, count, found = known.get(which, (-math.inf, 0, 0.0))
        new = self._taken[key] - count
        if 0.0 <= now - at < _STALE and 16 * new <= len(self.samples[key]) >= least:
            return found
        count = self._taken[key]
        found = self._percentile(*which, now)
        known[which] = now, count, found
        return found

    def _percentile(self, key: str, share: float, span: float, least: int, now: float) -> float:
        samples, since = tuple(self.samples[key]), now - span
        taken = sorted([seconds for at, seconds in samples if at > since])
        if len(taken) < least:
            return math.inf
        # Rounded: 0.56 * 25 is a little above 14.
        return taken[max(0, math.ceil(round(share * len(taken), 6)) - 1)]
