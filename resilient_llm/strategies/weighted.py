"""The strategy ``weighted``: drawn without replacement, heavier targets tend to come first.

A healthy call draws one target. If it is blocked, or loses the toss that halves the weight of a
degraded one, another is drawn: what such rejections leave is exactly the distribution of the first
live target of a whole order, and no weight has to be kept up to date.

The rest of an order is drawn when it is needed, given its first. Targets drawn without replacement
come in the order of exponential arrivals, each at the rate of its weight (P. Efraimidis, P.
Spirakis, "Weighted random sampling with a reservoir", 2006). So the first live target arrives at
the rate of all live ones together, the other live ones after it, and blocked ones at any time.
"""

from __future__ import annotations

from bisect import bisect
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from resilient_llm.strategies._order import DRAWS, NO_CANDIDATE, Candidate, Order, OrderInputs

if TYPE_CHECKING:
    from collections.abc import Sequence

_LIGHTEST: Final = 1e-300
"""Share of the heaviest weight that a weight has at least, so that none becomes zero."""


class Weighted(Order):
    """Drawn without replacement, P = weight / sum of the remaining weights."""

    __slots__ = ("_draw", "_sums", "_total", "_weights")

    def __init__(self, candidates: Sequence[Candidate], inputs: OrderInputs) -> None:
        super().__init__(candidates, inputs)
        heaviest = max((each.target.weight for each in candidates), default=1.0)
        # Shares of the heaviest, whose sum cannot overflow.
        self._weights = [max(each.target.weight / heaviest, _LIGHTEST) for each in self.candidates]
        *sums, total = accumulate(self._weights)
        self._sums = sums
        self._total = total
        self._draw = inputs.rng.random

    def first(self, now: float, number: int | None = None) -> Candidate:
        candidate = self.candidates[bisect(self._sums, self._draw() * self._total)]
        circuit = candidate.circuit
        if circuit.slot is None or circuit.known_status == "degraded":
            return self._accepted(candidate, now)
        return candidate

    def whole(self, first: Candidate, now: float, number: int | None) -> Sequence[Candidate]:
        is_live, arrives_in = self.inputs.is_live, self.inputs.rng.expovariate
        places = range(len(self.candidates))
        weights = [self._weight(at, now) for at in places]
        arrivals = [arrives_in(weight) for weight in weights]
        if first is not NO_CANDIDATE:
            live = [at for at in places if is_live(self.candidates[at], now)]
            leads = self.candidates.index(first)
            began = arrives_in(sum(weights[at] for at in {*live, leads}))
            for at in live:
                arrivals[at] += began
            arrivals[leads] = began
        return [self.candidates[at] for at in sorted(places, key=arrivals.__getitem__)]

    def _accepted(self, candidate: Candidate, now: float) -> Candidate:
        """Return this candidate or another that is drawn, but a live one."""
        for _ in range(DRAWS):
            if self.inputs.is_live(candidate, now) and (
                candidate.circuit.known_status != "degraded"
                or not self.inputs.is_degraded(candidate, now)
                or self._draw() < 0.5  # half its weight
            ):
                return candidate
            candidate = self.candidates[bisect(self._sums, self._draw() * self._total)]
        return self._of_live(now)

    def _of_live(self, now: float) -> Candidate:
        """Return a live candidate, after a look at all."""
        is_live = self.inputs.is_live
        live = [at for at, each in enumerate(self.candidates) if is_live(each, now)]
        if not live:
            return NO_CANDIDATE
        *sums, total = accumulate(self._weight(at, now) for at in live)
        return self.candidates[live[bisect(sums, self._draw() * total)]]

    def _weight(self, at: int, now: float) -> float:
        """Return the weight of a candidate by its place; half of it if it is degraded."""
        candidate, weight = self.candidates[at], self._weights[at]
        if candidate.circuit.known_status == "degraded" and self.inputs.is_degraded(candidate, now):
            return weight / 2
        return weight
