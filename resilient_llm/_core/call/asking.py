"""What an admitted attempt still has to ask of the store, before it is made.

After a shared bench that is the place of its probe, and with shared budgets what it may spend. The
call flow waits once for both answers, for as long as is configured; what was admitted is given back
if an answer is no, and at every interrupt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.call.ending import is_over, waited
from resilient_llm._core.call.spending import answered, asked_of
from resilient_llm._core.call.steps import Wait
from resilient_llm._core.circuit.claims import ask_places
from resilient_llm._core.sharing.question import AllOf

if TYPE_CHECKING:
    from collections.abc import Generator

    from resilient_llm._core.call.call import Call, Candidate
    from resilient_llm._core.call.steps import Reply, Step
    from resilient_llm._core.circuit.claims import PlacesAsked
    from resilient_llm._core.circuit.permit import Permit
    from resilient_llm._core.circuit.state import Block
    from resilient_llm._core.sharing.question import Question
    from resilient_llm._core.spending.asking import Asked


def may_have_to_ask(permit: Permit) -> bool:
    """Return whether `ask` has to be asked about an attempt."""
    return bool(permit.leases) or asked_of(permit) is not None


def ask(
    call: Call, candidate: Candidate, permit: Permit, now: float
) -> Generator[Step, Reply, tuple[Permit | None, float]]:
    """Ask the store about an attempt that the breakers have admitted.

    Args:
        call: The call.
        candidate: Its target.
        permit: Of the attempt; it is given back if the attempt may not be made.
        now: Monotonic seconds.

    Returns:
        The permit, or None if the target is skipped or the call is over; and what time it is.
    """
    is_kept = False
    try:
        amounts, places = asked_of(permit), ask_places(permit, now)
        if amounts is not None or places is not None:
            question, seconds = _question_of(amounts, places)
            if call.deadline is not None:
                seconds = max(0.0, min(seconds, call.deadline - now))
            reply = yield Wait(seconds, question=question)
            now = waited(call, reply)
            block: Block | None = None if places is None else places.refusal(now)
            if block is None and amounts is not None:
                block = answered(permit, candidate.target.key, now)
            if block is not None:
                call.skip(candidate, block, now)
                call.tell_budgets(candidate, now)
                return None, now
            if is_over(call, now):
                return None, now
            permit.entered_at = now
        is_kept = True
        return permit, now
    finally:
        if not is_kept:
            permit.withdrawn()


def _question_of(amounts: Asked | None, places: PlacesAsked | None) -> tuple[Question, float]:
    """Return one question for all that is asked, at least one, and how many seconds to wait."""
    if places is None:
        assert amounts is not None
        return amounts, amounts.seconds
    if amounts is None:
        return places, places.seconds
    return AllOf(amounts, places), max(amounts.seconds, places.seconds)
