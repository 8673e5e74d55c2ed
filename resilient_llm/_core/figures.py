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

    __slots__ = ("samples",)

    def __init__(self, keys: Iterable[str]) -> None:
        self.samples: dict[str, deque[Sample]] = {key: deque(maxlen=MOST_SAMPLES) for key in keys}

    def answered(self, key: str, now: float, seconds: float) -> None:
        """Keep a sample of a target; `seconds` of a stream are those to its first content."""
        self.samples[key].append(Sample(now, seconds))

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
        taken = sorted(each.seconds for each in tuple(self.samples[key]) if each.at > now - span)
        if len(taken) < least:
            return math.inf
        # Rounded: 0.56 * 25 is a little above 14.
        return taken[max(0, math.ceil(round(share * len(taken), 6)) - 1)]
