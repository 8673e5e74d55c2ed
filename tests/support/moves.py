"""A policy with adaptive order whose first target is moved back."""

from __future__ import annotations

from resilient_llm import Adaptive, Target, failover
from resilient_llm.testing import FakeClock
from tests.support.ways import GROQ, OPENAI, down


def move_the_first(clock: FakeClock) -> None:
    """Have GROQ stand behind OPENAI after two failures, which is noticed by the third call."""
    outcomes = [down(), down()]

    @failover(chain=[GROQ, OPENAI], attempts=1, adaptive=Adaptive(min_calls=2))
    def ask(target: Target) -> str:
        if target.key == GROQ:
            raise outcomes.pop()
        return target.key

    ask()
    ask()
    clock.advance(1.0)
    ask()
