"""Makes the attempts that the call flow asks for: with their limits, and when each is slow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from resilient_llm._core.call.call import share_of
from resilient_llm._core.call.steps import Try

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call, Candidate
    from resilient_llm._core.circuit.permit import Permit
    from resilient_llm._core.figures import PolicyFigures
    from resilient_llm._values.policy import Hedge

SPAN: Final = 300.0
"""Seconds of which samples count for a percentile."""
LEAST: Final = 20
"""Samples below which a percentile is not known, and nothing is hedged."""


def attempt_on(
    call: Call, candidate: Candidate, permit: Permit, limit: float | None, *, number: int
) -> Try:
    """Return a new attempt with its limit."""
    if call.deps.counts is not None:
        call.deps.counts.target(candidate.target.key).begin()
    return limited(call, candidate, permit, limit, number=number)


def limited(
    call: Call, candidate: Candidate, permit: Permit, limit: float | None, *, number: int
) -> Try:
    """Return an attempt with its limit: the target's own, within what the deadline leaves."""
    ends_deadline = False
    if call.deadline is not None:
        left = call.deadline - permit.entered_at
        is_last = not call.other_is_live(permit.entered_at)
        limit, ends_deadline = share_of(left, limit, is_last=is_last)
    trial = Try(candidate, number, permit, limit, call.tag, ends_deadline=ends_deadline)
    if call.options.hedge is not None:
        trial.hedge_after = hedge_after(call, candidate, permit.entered_at)
    return trial


def hedge_after(call: Call, candidate: Candidate, now: float) -> float | None:
    """Return the seconds after which an attempt is slow; None if nothing is started beside it."""
    options = call.options
    if options.hedge is None or call.hedges >= options.max_hedges or not call.untried:
        return None
    return delay_of(options.hedge, call.deps.figures, candidate.target.key, now)


def delay_of(hedge: Hedge, figures: PolicyFigures | None, key: str, now: float) -> float | None:
    """Return the seconds that ``hedge=`` stands for on a target; None if that is not known.

    Args:
        hedge: Seconds, or a percentile as ``"p95"``; None for never.
        figures: Samples of the policy, if it needs them.
        key: Key of the target.
        now: Monotonic seconds.
    """
    if not isinstance(hedge, str):
        return hedge
    if figures is None:
        return None
    delay = figures.percentile(key, int(hedge[1:]) / 100, now, span=SPAN, least=LEAST)
    return None if delay == math.inf else delay
