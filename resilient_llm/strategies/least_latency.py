"""The strategy ``least_latency``: the target that lately answered soonest comes first.

A target is judged by its samples, so one that nobody calls would keep the place it once had. It is
therefore explored: it goes first for one call. A target without a sample is explored as soon as
that is allowed. One whose samples are out of date is explored by at most one call in ten, since a
policy with few calls would send half of them to a target that is known to be slow.

What a target took, and when it was explored, is in the figures of the policy, so its copies and its
functions share it. Nothing is kept here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from resilient_llm.strategies._order import NO_CANDIDATE, Candidate, Order, OrderInputs

if TYPE_CHECKING:
    from collections.abc import Sequence

OUT_OF_DATE: Final = 60.0
"""Seconds after which the newest sample of a target says nothing about the present."""


class LeastLatency(Order):
    """The targets by the mean of their samples, ascending; those without a sample come last."""

    __slots__ = ("_explores_at", "_figures", "_means", "_rows", "_step")

    rotates = True  # the number of calls decides which of them may explore

    def __init__(self, candidates: Sequence[Candidate], inputs: OrderInputs) -> None:
        super().__init__(candidates, inputs)
        self._figures: Any = inputs.figures
        self._step = inputs.step
        self._explores_at = -math.inf
        """When a target may next have to be explored."""
        of = self._figures.of
        self._rows = tuple([(each, each.circuit, of[each.target.key]) for each in self.candidates])
        self._means = {each.target.key: figures for each, _, figures in self._rows}

    def first(self, now: float, number: int | None = None) -> Candidate:
        if number is None:
            number = self._step()
        least = math.inf
        best: Candidate = NO_CANDIDATE
        for candidate, circuit, figures in self._rows:
            if circuit.slot is None and (
                now < circuit.shut_until or not self.inputs.is_live(candidate, now)
            ):
                continue
            if figures.mean < least:
                best, least = candidate, figures.mean
            elif best is NO_CANDIDATE:
                best = candidate
        return self._explored(best, now + 0.0, number) if now >= self._explores_at else best

    def _explored(self, best: Candidate, now: float, number: int) -> Candidate:
        """Return the target that this call explores, if it may; else the best one."""
        oldest: Any = None
        oldest_figures: Any = None
        explores_at = math.inf
        for candidate, _, figures in self._rows:
            if figures.newest_at > now - OUT_OF_DATE:
                explores_at = min(explores_at, figures.newest_at + OUT_OF_DATE)
                continue
            explores_at = now
            if not self.inputs.is_live(candidate, now):
                continue
            if not figures.count:
                if figures.explores(now):
                    return candidate
            elif oldest is None or figures.tried_at < oldest_figures.tried_at:
                oldest, oldest_figures = candidate, figures
        self._explores_at = explores_at
        # The best one needs no leave to go first.
        if oldest is None or oldest is best:
            return best
        return oldest if self._figures.explores(now, number, oldest_figures) else best

    def whole(self, first: Candidate, now: float, number: int | None) -> Sequence[Candidate]:
        means = self._means
        order = sorted(self.candidates, key=lambda each: means[each.target.key].mean)
        if first is NO_CANDIDATE:
            return order
        return [first, *(each for each in order if each is not first)]
