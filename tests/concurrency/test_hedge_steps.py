"""Races that are cancelled at every step, and that run in many orders, in two loops, or often.

Whatever happens: one answer or none, nothing runs on, each attempt has ended once, no lease and
no stream stays.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient_llm import (
    ResilientLLMError,
    Target,
    failover,
    observe,
)
from resilient_llm.testing import FakeClock
from tests.support.stepping import no_lease_is_taken, through_all_steps
from tests.support.ways import GROQ, MISTRAL, OPENAI, on_both_loops

CHAIN = [GROQ, OPENAI, MISTRAL]
STEPS = {
    "the hedge wins": {GROQ: (9, "slow"), OPENAI: (3, "fast")},
    "the first wins": {GROQ: (5, "first"), OPENAI: (9, "late")},
    "both answer": {GROQ: (5, "first"), OPENAI: (2, "second")},
    "the hedge fails": {GROQ: (9, "first"), OPENAI: (2, ConnectionResetError())},
    "the first fails": {GROQ: (4, ConnectionResetError()), OPENAI: (9, "second")},
    "both fail": {
        GROQ: (6, ConnectionResetError()),
        OPENAI: (3, TimeoutError()),
        MISTRAL: (3, "third"),
    },
    "all fail": {
        GROQ: (6, ConnectionResetError()),
        OPENAI: (3, TimeoutError()),
        MISTRAL: (3, TimeoutError()),
    },
    "a mistake of the caller": {GROQ: (9, "slow"), OPENAI: (3, TypeError())},
}

SAID = (ConnectionResetError, TimeoutError)
"""What an attempt raises may leave a call that is cancelled at the same time."""


class Seen:
    """What the attempts of one call did, and the events of it."""

    def __init__(self, clock: Any, plays: dict[str, tuple[int, Any]]) -> None:
        self.clock = clock
        self.plays = plays
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.opened = 0
        self.closed = 0
        self.answers: list[Any] = []
        self.events: list[Any] = []
        observe(self.events.append)

    async def provide(self, target: Target) -> Any:
        """Take some steps, on the first of which the attempt becomes slow."""
        steps, outcome = self.plays[target.key]
        self.begun.append(target.key)
        try:
            for step in range(steps):
                if step == 1 and len(self.begun) == 1:
                    self.clock.advance(2.0)
                await anyio.lowlevel.checkpoint()
            if isinstance(outcome, BaseException):
                raise type(outcome)
            return outcome
        finally:
            try:
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()
            finally:
                self.ended.append(target.key)

    async def stream(self, target: Target) -> AsyncIterator[str]:
        """Give the same as a stream of two items."""
        self.opened += 1
        try:
            yield await self.provide(target)
            await anyio.lowlevel.checkpoint()
            yield "!"
        finally:
            self.closed += 1


def _check(seen: Seen) -> None:
    assert sorted(seen.begun) == sorted(seen.ended)
    assert seen.opened == seen.closed
    no_lease_is_taken(*CHAIN, "groq", "openai", "mistral")
    kinds = [type(each).__name__ for each in seen.events]
    ends = [each for each in kinds if each.startswith("Attempt")]
    assert len(seen.begun) == len(ends), kinds
    assert ends.count("AttemptSucceeded") <= 1


@on_both_loops
@pytest.mark.parametrize("plays", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("options", [{}, {"timeout": 60.0}, {"reject": lambda answer: False}])
def test_a_race_that_is_cancelled_leaves_nothing(
    backend: str, options: dict[str, Any], plays: dict[str, tuple[int, Any]]
) -> None:
    """At whatever step of the attempts, of their ends and of the decision."""

    def prepare(clock: FakeClock) -> Any:
        seen = Seen(clock, plays)

        @failover(chain=CHAIN, hedge=2.0, attempts=1, **options)
        async def ask(target: Target) -> Any:
            return await seen.provide(target)

        return SimpleNamespace(seen=seen, ask=ask)

    steps = through_all_steps(
        backend,
        prepare,
        lambda state: state.ask(),
        lambda state: _check(state.seen),
        ends_with=(ResilientLLMError, TypeError, *SAID),
    )

    assert steps >= 5


@on_both_loops
@pytest.mark.parametrize("plays", list(STEPS.values())[:6], ids=list(STEPS)[:6])
def test_a_race_of_streams_that_is_cancelled_leaves_nothing(
    backend: str, plays: dict[str, tuple[int, Any]]
) -> None:
    """At whatever step until the consumer has closed the stream that has won."""

    def prepare(clock: FakeClock) -> Any:
        seen = Seen(clock, plays)

        @failover(chain=CHAIN, hedge=2.0, attempts=1)
        async def ask(target: Target) -> AsyncIterator[str]:
            stream = seen.stream(target)
            try:
                async for item in stream:
                    yield item
            finally:
                with anyio.CancelScope(shield=True):
                    await stream.aclose()

        return SimpleNamespace(seen=seen, ask=ask)

    async def call(state: Any) -> None:
        stream = state.ask()
        try:
            async for _ in stream:
                await anyio.lowlevel.checkpoint()
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()

    steps = through_all_steps(
        backend,
        prepare,
        call,
        lambda state: _check(state.seen),
        ends_with=(ResilientLLMError, *SAID),
        collects=True,
    )

    assert steps >= 5
