"""Hedges have tasks: how they start, and what is left of them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from resilient_llm import (
    AttemptCancelled,
    AttemptFailed,
    AttemptSucceeded,
    HedgeStarted,
    Target,
    breaker,
    failover,
)
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import capture_events
from tests.support.hedges import Stage, played, settle
from tests.support.ways import GROQ, OPENAI

CHAIN = [GROQ, OPENAI]

_Work = Coroutine[Any, Any, Any]


def _plain_factory(loop: Any, work: _Work) -> asyncio.Task[Any]:
    return asyncio.Task(work, loop=loop)


def _factory_with_options(loop: Any, work: _Work, **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(work, loop=loop, **options)


FACTORIES: dict[str, Any] = {
    "none": None,
    "with two arguments": _plain_factory,
    "with options": _factory_with_options,
    "eager": getattr(asyncio, "eager_task_factory", None),
}


# How they start.


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_hedge_starts_under_any_task_factory(factory: str, clock: Any) -> None:
    """In a copy of the caller's context, whether or not the factory takes one."""
    stage, variable = Stage(), ContextVar("variable", default="unset")
    seen: list[str] = []

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target) -> Any:
        seen.append(variable.get())
        variable.set("changed")
        return await stage.provide(target)

    async def main() -> Any:
        asyncio.get_running_loop().set_task_factory(FACTORIES[factory])

        async def call() -> Any:
            variable.set("caller's")
            return await ask(), variable.get()

        async with played(call) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await settle()
            stage.says(OPENAI, "hedged")
            return await play.ends()

    assert ("hedged", "changed") == asyncio.run(main())
    assert ["caller's", "caller's"] == seen


@pytest.mark.parametrize("error", [TypeError("no task"), KeyboardInterrupt()])
def test_an_error_of_a_task_factory_leaves_the_call(error: BaseException, clock: Any) -> None:
    """The attempt that runs is stopped first, and no coroutine is left that nobody awaited."""
    stage = Stage()

    @failover(chain=CHAIN, hedge=2.0, timeout=60.0)
    async def ask(target: Target) -> Any:
        return await stage.provide(target)

    async def main() -> Any:
        loop: Any = asyncio.get_running_loop()
        asked, failed = list[_Work](), asyncio.Event()

        def factory(loop: Any, work: _Work, **options: Any) -> asyncio.Task[Any]:
            asked.append(work)
            failed.set()
            raise error

        async with played(ask) as play:
            await stage.begins(GROQ)
            loop.set_task_factory(factory)
            clock.advance(2.0)
            await failed.wait()
            loop.set_task_factory(None)
            assert 1 == len(asked)
            return await play.ends()

    assert asyncio.run(main()) is error
    assert [GROQ] == stage.asked == stage.cancelled


# A coroutine that is closed.


@pytest.mark.parametrize("strategy", ["priority", "least_busy"])
@pytest.mark.parametrize("is_healthy", [False, True])
@pytest.mark.parametrize(
    ("way", "phase"),
    [
        ("closed", "alone"),
        ("closed", "side by side"),
        ("closed", "a loser ends"),
        ("destroyed", "side by side"),
    ],
)
def test_a_closed_call_settles_each_attempt_once(
    way: str, phase: str, is_healthy: bool, strategy: str, clock: Any
) -> None:
    """Whenever it is closed; no task is left, and nothing counts as running."""
    gates: dict[str, Any] = {}

    @failover(chain=CHAIN, hedge=2.0, strategy=strategy)
    async def ask(target: Target) -> str:
        gate = asyncio.get_running_loop().create_future()
        if way == "closed":
            gates[target.key] = gate
        try:
            await gate
        finally:
            if target.key != GROQ and phase == "a loser ends":
                await gates["loser"].wait()
        return "answer"

    async def main() -> None:
        gates["loser"] = asyncio.Event()
        for key in CHAIN if is_healthy else ():
            with breaker(key):
                pass
        call = ask()
        if way == "closed":
            call.send(None)
        else:
            task: Any = asyncio.ensure_future(call)
            task._log_destroy_pending = False
            del task
        await settle()
        if phase != "alone":
            clock.advance(2.0)
            await settle()
        if phase == "a loser ends":
            gates[GROQ].set_result(None)
            await settle()
            call.send(None)
            await settle()
        if way == "closed":
            call.close()
        del call
        gc.collect()
        gates["loser"].set()
        await settle()
        assert [asyncio.current_task()] == list(asyncio.all_tasks())

    with capture_events(HedgeStarted, AttemptSucceeded, AttemptFailed, AttemptCancelled) as seen:
        asyncio.run(main())
    begun = CHAIN[:1] if phase == "alone" else CHAIN
    assert sorted(begun) == sorted(
        each.target or "" for each in seen if not isinstance(each, HedgeStarted)
    )
    assert [0, 0] == [runtime.in_flight.of(key).running for key in CHAIN]
