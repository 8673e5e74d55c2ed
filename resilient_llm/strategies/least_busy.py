"""The strategy ``least_busy``: the target with the fewest running attempts comes first.

Attempts are counted on the key, over all policies of the process, from the first binding of a
policy that uses this strategy: see _core/in_flight.py. A target that answers slowly keeps its
attempts longer, and so gets fewer of the next ones.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from resilient_llm.strategies._order import NO_CANDIDATE, Candidate, Order, OrderInputs

if TYPE_CHECKING:
    from collections.abc import Sequence


_NOBODY: Final[tuple[Candidate, ...]] = ()


class LeastBusy(Order):
    """The targets by the number of their running attempts, ascending; ties rotate."""

    __slots__ = ("_counts", "_rows")

    rotates = True

    def __init__(self, candidates: Sequence[Candidate], inputs: OrderInputs) -> None:
        super().__init__(candidates, inputs)
        assert inputs.in_flight is not None
        of = inputs.in_flight
        self._rows = tuple([(each, each.circuit, of(each.target.key)) for each in self.candidates])
        self._counts = {each.target.key: counts for each, _, counts in self._rows}

    def first(self, now: float, number: int | None = None) -> Candidate:
        least, found = sys.maxsize, _NOBODY
        for candidate, circuit, counts in self._rows:
            running = counts.begun - counts.ended
            if running > least or (
                circuit.slot is None
                and (now < circuit.shut_until or not self.inputs.is_live(candidate, now))
            ):
                continue
            if running < least:
                least, found = running, (candidate,)
            else:
                found = (*found, candidate)
        if not found:
            return NO_CANDIDATE
        if number is None:
            number = self.inputs.step()
        return found[number % len(found)]

    def whole(self, first: Candidate, now: float, number: int | None) -> Sequence[Candidate]:
        # Rotated as a whole, so that those with equal counts come in turn here as well.
        turned = (number or 0) % len(self.candidates)
        rotated = (*self.candidates[turned:], *self.candidates[:turned])
        order = sorted(rotated, key=lambda each: self._counts[each.target.key].running)
        if first is NO_CANDIDATE:
            return order
        return [first, *(each for each in order if each is not first)]
