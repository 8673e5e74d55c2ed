"""The strategy ``least_busy``: the target with the fewest running attempts comes first.

Attempts are counted on the key, over all policies of the process, from the first binding of a
policy that uses this strategy: see _core/in_flight.py. A target that answers slowly keeps its
attempts longer, and so gets fewer of the next ones.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from resilient_llm.strategies._live import LiveOrder
from resilient_llm.strategies._order import NO_CANDIDATE, Candidate, OrderInputs

if TYPE_CHECKING:
    from collections.abc import Sequence


class LeastBusy(LiveOrder):
    """The targets by the number of their running attempts, ascending; ties rotate."""

    __slots__ = ("_of",)

    def __init__(self, candidates: Sequence[Candidate], inputs: OrderInputs) -> None:
        super().__init__(candidates, inputs)
        assert inputs.in_flight is not None
        self._of = {each: inputs.in_flight(each.target.key) for each in self.candidates}
        """``{candidate: what is in flight on its key}``"""

    def first(self, now: float, number: int | None = None) -> Candidate:
        latest, until, live = self._seen
        if latest is not self._changes.latest or now >= until:
            live = self._look(now)
            if not live:
                return NO_CANDIDATE
        if number is None:
            number = self._step()
        of, count = self._of, len(live)
        drawn = live[number % count]
        if not of[drawn].running:
            return drawn  # none can be less busy
        least, found = sys.maxsize, [drawn]
        for candidate in live:
            running = of[candidate].running
            if running < least:
                least, found = running, [candidate]
            elif running == least:
                found.append(candidate)
        # Those with nothing to do have had their turns above, by every number but these.
        return found[(number if least else number // count) % len(found)]

    def whole(self, first: Candidate, now: float, number: int | None) -> Sequence[Candidate]:
        # Rotated as a whole, so that those with equal counts come in turn here as well.
        turned = (number or 0) % len(self.candidates)
        rotated = (*self.candidates[turned:], *self.candidates[:turned])
        order = sorted(rotated, key=lambda each: self._of[each].running)
        if first is NO_CANDIDATE:
            return order
        return [first, *(each for each in order if each is not first)]
