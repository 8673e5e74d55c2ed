"""Races that are cancelled at every step, and that run in many orders, in two loops, or often.

Whatever happens: one answer or none, nothing runs on, each attempt has ended once, no lease and
no stream stays.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import detangle
import pytest

from resilient_llm import ResilientLLMError, Target, breaker, configure, failover, observe, testing
from resilient_llm.testing import FakeClock
from tests.support.stepping import no_lease_is_taken, through_all_steps
from tests.support.ways import GROQ, MISTRAL, OPENAI, on_both_loops, run_async

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


@pytest.mark.parametrize("plays", STEPS.values(), ids=STEPS)
def test_a_race_ends_alike_in_many_orders(plays: dict[str, tuple[int, Any]]) -> None:
    """Of its tasks, and of a cancellation that may come at any time."""

    async def scenario() -> None:
        with testing.isolated(), testing.fake_clock() as clock:
            configure(logging=False)
            seen = Seen(clock, plays)

            @failover(chain=CHAIN, hedge=2.0, attempts=1)
            async def ask(target: Target) -> Any:
                return await seen.provide(target)

            try:
                await detangle.maybe_timeout(ask())
            except (ResilientLLMError, TypeError, *SAID):
                pass
            _check(seen)
            assert [] == [each for each in asyncio.all_tasks() if "BaseRace" in repr(each)]

    detangle.explore(
        scenario,
        strategy=detangle.DFS(max_delays=2),
        runs=60,
        seed=1,
        database=False,
        shrink=False,
    )


# Many calls, and several loops.


def _hedged(**options: Any) -> Callable[..., Any]:
    @failover(chain=CHAIN, hedge=0.0005, **options)
    async def ask(target: Target) -> str:
        await asyncio.sleep(0.0 if target.key == OPENAI else 60.0)
        return target.key

    return ask


def test_two_loops_in_a_row_and_two_at_once_hedge() -> None:
    """Nothing is bound to a loop, and nothing is destroyed while it is pending."""
    configure(retry_budget=None)
    ask, answers = _hedged(), list[str]()

    async def main() -> None:
        for _ in range(5):
            answers.append(await ask())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main(), debug=True)
        asyncio.run(main(), debug=True)
        threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(2)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        gc.collect()

    assert [OPENAI] * 20 == answers


def test_many_hedged_calls_leave_no_tasks_and_no_memory(clock: Any) -> None:
    """10,000 races, of which both sides win."""
    configure(retry_budget=None, logging=False)

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target, number: int) -> str:
        if target.key == GROQ:
            clock.advance(2.0)
        for _ in range(9 if target.key == GROQ else number % 16):
            await asyncio.sleep(0)
        return target.key

    async def main(calls: int) -> set[str]:
        return {await ask(number) for number in range(calls)}

    async def measured() -> int:
        await main(1_000)
        gc.collect()
        before = len(gc.get_objects())
        won = await main(9_000)
        gc.collect()
        assert {GROQ, OPENAI} == won
        assert [asyncio.current_task()] == list(asyncio.all_tasks())
        return len(gc.get_objects()) - before

    assert asyncio.run(measured()) < 300


@pytest.mark.parametrize("is_healthy", [False, True])
def test_a_call_that_is_closed_stops_its_hedges(is_healthy: bool, clock: Any) -> None:
    """A coroutine that is dropped can await nothing: its hedges are cancelled, and end later."""
    begun, ended = list[str](), list[str]()

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target) -> None:
        begun.append(target.key)
        if target.key == GROQ:
            clock.advance(2.0)
        try:
            for _ in range(1_000):
                await asyncio.sleep(0)
        finally:
            ended.append(target.key)

    async def main() -> None:
        if is_healthy:  # then the first attempt is made without the call flow
            with breaker(GROQ):
                pass
        call: Any = ask()
        waits = call.__await__()
        for _ in range(4):
            waits.send(None)
            await asyncio.sleep(0)
        assert [GROQ, OPENAI] == begun
        waits.close()
        for _ in range(10):
            await asyncio.sleep(0)
        assert [asyncio.current_task()] == list(asyncio.all_tasks())

    asyncio.run(main())
    assert [GROQ, OPENAI] == ended
    no_lease_is_taken(*CHAIN)


@on_both_loops
def test_a_cancelled_hedge_gives_back_its_permit(backend: str, clock: Any) -> None:
    """Both circuits are closed and free after 50 races that were cancelled in the midst."""
    configure(retry_budget=None)
    seen = Seen(clock, {GROQ: (50, "slow"), OPENAI: (50, "slow")})

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target) -> Any:
        return await seen.provide(target)

    async def main() -> None:
        for _ in range(50):
            seen.begun.clear()
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(ask)
                    while len(seen.begun) < 2:
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()

    run_async(main, backend=backend)
    assert ["closed", "closed"] == [breaker(key).state for key in (GROQ, OPENAI)]
    no_lease_is_taken(*CHAIN)
