"""The strategy ``random``: a uniform shuffle; only its first is drawn until more is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm.strategies._order import DRAWS, NO_CANDIDATE, Candidate, Order, OrderInputs

if TYPE_CHECKING:
    from collections.abc import Sequence


class Shuffled(Order):
    """A uniform shuffle of the group."""

    __slots__ = ("_draw", "_number_of")

    def __init__(self, candidates: Sequence[Candidate], inputs: OrderInputs) -> None:
        super().__init__(candidates, inputs)
        self._draw = inputs.rng.random
        self._number_of = len(self.candidates)

    def first(self, now: float, number: int | None = None) -> Candidate:
        candidate = self.candidates[int(self._draw() * self._number_of)]
        if candidate.circuit.slot is None:
            return self._live_one(candidate, now)
        return candidate

    def whole(self, first: Candidate, now: float, number: int | None) -> Sequence[Candidate]:
        order = list(self.candidates)
        self.inputs.rng.shuffle(order)
        if first is not NO_CANDIDATE:
            # Live ones change places with each other only, so that blocked ones stay as likely
            # before them as in any shuffle.
            is_live = self.inputs.is_live
            leads = next(at for at, each in enumerate(order) if each is first or is_live(each, now))
            place = order.index(first)
            order[leads], order[place] = first, order[leads]
        return order

    def _live_one(self, candidate: Candidate, now: float) -> Candidate:
        """Return this candidate if it is live, else another that is drawn of the live ones."""
        is_live = self.inputs.is_live
        for _ in range(DRAWS):
            if is_live(candidate, now):
                return candidate
            candidate = self.candidates[int(self._draw() * self._number_of)]
        live = [each for each in self.candidates if is_live(each, now)]
        return live[int(self._draw() * len(live))] if live else NO_CANDIDATE
