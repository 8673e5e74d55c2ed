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

from resilient_llm.strategies._live import LiveOrder
from resilient_llm.strategies._order import NO_CANDIDATE, Candidate, OrderInputs

if TYPE_CHECKING:
    from collections.abc import Sequence

OUT_OF_DATE: Final = 60.0
"""Seconds after which the newest sample of a target says nothing about the present."""


class LeastLatency(LiveOrder):
    """The targets by the mean of their samples, ascending; those without a sample come last."""

    __slots__ = ("_best", "_explores_at", "_figures", "_of", "_shared")

    # The number of the call decides whether it may explore.

    def __init__(self, candidates: Sequence[Candidate], inputs: OrderInputs) -> None:
        super().__init__(candidates, inputs)
        self._figures: Any = inputs.figures
        self._of = {each: self._figures.of[each.target.key] for each in self.candidates}
        """``{candidate: its figures}``"""
        self._explores_at = -math.inf
        """When a target may next have to be explored."""
        self._shared: Any = self._figures.shared
        self._best: tuple[object, int, Candidate] = (None, -1, NO_CANDIDATE)
        """``(the live candidates, how often means had changed, the best one of then)``"""

    def first(self, now: float, number: int | None = None) -> Candidate:
        latest, until, live = self._seen
        if latest is not self._changes.latest or now >= until:
            live = self._look(now)
        if number is None:
            number = self._step()
        known, weighings, best = self._best
        if known is not live or weighings != self._shared.weighings:
            best = self._look_for_best(live)
        if now >= self._explores_at:
            return self._explored(best, live, now + 0.0, number)
        return best

    def _look_for_best(self, live: Sequence[Candidate]) -> Candidate:
        """Return the quickest live candidate; the first one if none has a sample."""
        weighings = self._shared.weighings  # first: what changes during the look ends its result
        of, least = self._of, math.inf
        best: Candidate = live[0] if live else NO_CANDIDATE
        for candidate in live:
            mean = of[candidate].mean
            if mean < least:
                best, least = candidate, mean
        self._best = live, weighings, best
        return best

    def _explored(
        self, best: Candidate, live: Sequence[Candidate], now: float, number: int
    ) -> Candidate:
        """Return the target that this call explores, if it may; else the best one."""
        oldest: Any = None
        explores_at = math.inf
        for candidate, figures in self._of.items():
            if figures.newest_at > now - OUT_OF_DATE:
                explores_at = min(explores_at, figures.newest_at + OUT_OF_DATE)
                continue
            explores_at = now
            if candidate not in live:
                continue
            if not figures.count:
                if figures.explores(now):
                    return candidate
            elif oldest is None or figures.tried_at < self._of[oldest].tried_at:
                oldest = candidate
        self._explores_at = explores_at
        # The best one needs no leave to go first.
        if oldest is None or oldest is best:
            return best
        return oldest if self._figures.explores(now, number, self._of[oldest]) else best

    def whole(self, first: Candidate, now: float, number: int | None) -> Sequence[Candidate]:
        order = sorted(self.candidates, key=lambda each: self._of[each].mean)
        if first is NO_CANDIDATE:
            return order
        return [first, *(each for each in order if each is not first)]
