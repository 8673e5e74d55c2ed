"""The strategy ``round_robin``: each live target is first in turn.

Which one is decided by the number of earlier calls of the policy and by nothing else. That number
grows by one per call, whatever becomes of the call, so no failure changes the order of another
call, and two threads never take the same one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm.strategies._live import LiveOrder
from resilient_llm.strategies._order import NO_CANDIDATE, Candidate

if TYPE_CHECKING:
    from collections.abc import Sequence


class RoundRobin(LiveOrder):
    """The live targets as declared, rotated by the number of earlier calls, then the others."""

    __slots__ = ()

    def first(self, now: float, number: int | None = None) -> Candidate:
        latest, until, live = self._seen
        if latest is not self._changes.latest or now >= until:
            live = self._look(now)
            if not live:
                return NO_CANDIDATE
        if number is None:
            number = self._step()
        return live[number % len(live)]

    def whole(self, first: Candidate, now: float, number: int | None) -> Sequence[Candidate]:
        candidates, live = self.candidates, {first, *self._live(now)}
        # From the declared place of its first, and not from its place among the live ones: it may
        # have been taken by another call meanwhile.
        place = 0 if first is NO_CANDIDATE else candidates.index(first)
        order = [each for each in (*candidates[place:], *candidates[:place]) if each in live]
        if first is NO_CANDIDATE and order:
            turned = (number or 0) % len(order)
            order = [*order[turned:], *order[:turned]]
        return [*order, *(each for each in candidates if each not in live)]
