"""Hedges have tasks: how they start, and what is left of them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from resilient_llm import (
    AttemptCancelled,
    AttemptFailed,
    AttemptSucceeded,
    HedgeStarted,
    StreamInterruptedError,
    StreamPolicy,
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
    limit = 60.0 if way == "closed" else None  # the timer of a limit keeps the task

    @failover(chain=CHAIN, hedge=2.0, strategy=strategy, timeout=limit)
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
        for key in CHAIN if is_healthy and limit else ():
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


# A stream stays in the task in which it has begun.


async def _hedged(ask: Any, clock: Any) -> Any:
    """Return a stream that a hedge has won, and its first item."""
    stream = ask()
    reading = asyncio.ensure_future(anext(stream))
    await settle()
    clock.advance(2.0)
    assert OPENAI == await reading
    return stream


def _streams(body: Any) -> Any:
    """Return a function whose first target hangs, and whose second one gives a stream."""

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target) -> AsyncIterator[Any]:
        if target.key == GROQ:
            await asyncio.get_running_loop().create_future()
        async for item in body(target):
            yield item

    return ask


def _ours() -> list[Any]:
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def test_a_hedged_generator_runs_in_one_task_and_context(clock: Any) -> None:
    """Its steps and its end: the token of a context variable can be used there."""
    variable, tasks = ContextVar("variable", default="unset"), list[Any]()

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target) -> AsyncIterator[Any]:
        token = variable.set(target.key)
        try:
            if target.key == GROQ:
                await asyncio.get_running_loop().create_future()
            for _ in range(3):
                tasks.append(asyncio.current_task())
                yield variable.get()
        finally:
            if target.key == OPENAI:
                tasks.append(asyncio.current_task())
            variable.reset(token)

    async def main() -> Any:
        stream = await _hedged(ask, clock)
        rest = [item async for item in stream]
        await settle()
        assert [] == _ours()
        return rest

    assert [OPENAI, OPENAI] == asyncio.run(main())
    assert 4 == len(tasks)
    assert 1 == len(set(tasks))


@pytest.mark.parametrize("when", ["while it reads", "between two items"])
def test_the_own_time_limit_of_a_hedged_generator_ends_it(when: str, clock: Any) -> None:
    """The limit raises its error, and the caller's task is not cancelled."""
    limits: list[asyncio.Timeout] = []

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target) -> AsyncIterator[Any]:
        async with asyncio.timeout(None) as limit:
            if target.key == OPENAI:
                limits.append(limit)
                yield target.key
            await asyncio.get_running_loop().create_future()
            yield "late"

    async def main() -> Any:
        stream = await _hedged(ask, clock)
        reading = None
        if when == "while it reads":
            reading = asyncio.ensure_future(anext(stream))
            await settle()
        limits[0].reschedule(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)
        error = None
        try:
            await (reading or anext(stream))
        except StreamInterruptedError as caught:
            error = caught.__cause__
        await settle()
        assert [] == _ours()
        task = asyncio.current_task()
        assert task is not None
        assert 0 == task.cancelling()
        return error

    assert isinstance(asyncio.run(main()), TimeoutError)


@pytest.mark.parametrize("group", [asyncio.TaskGroup, anyio.create_task_group])
@pytest.mark.parametrize("when", ["while it reads", "between two items"])
def test_an_error_in_the_task_group_of_a_hedged_generator_reaches_its_reader(
    group: Any, when: str, clock: Any
) -> None:
    """Groups of asyncio and of anyio can be left in the task that has opened them."""
    gates: list[Any] = []

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target) -> AsyncIterator[Any]:
        gate = asyncio.get_running_loop().create_future()

        async def breaks() -> None:
            await gate

        async with group() as tasks:
            if target.key == GROQ:
                await gate
            gates.append(gate)
            if group is asyncio.TaskGroup:
                tasks.create_task(breaks())
            else:
                tasks.start_soon(breaks)
            yield target.key
            await asyncio.get_running_loop().create_future()
            yield "late"

    async def main() -> Any:
        stream = await _hedged(ask, clock)
        reading = None
        if when == "while it reads":
            reading = asyncio.ensure_future(anext(stream))
            await settle()
        gates[0].set_exception(ConnectionResetError())
        await settle()
        error = None
        try:
            await (reading or anext(stream))
        except StreamInterruptedError as caught:
            error = caught.__cause__
        await settle()
        assert [] == _ours()
        return error

    error: Any = asyncio.run(main())
    assert issubclass(type(error), ExceptionGroup)
    assert isinstance(error.exceptions[0], ConnectionResetError)


def test_a_cancelled_reader_cancels_the_step_and_waits_for_its_end(clock: Any) -> None:
    """The generator cleans up in its own task before the cancellation leaves."""
    seen: list[Any] = []

    async def body(target: Target) -> AsyncIterator[Any]:
        yield target.key
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    async def main() -> None:
        stream = await _hedged(_streams(body), clock)
        reading = asyncio.ensure_future(anext(stream))
        await settle()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert ["cleaned up"] == seen
        await settle()
        assert [] == _ours()

    asyncio.run(main())


@pytest.mark.parametrize("policy", [StreamPolicy(idle_timeout=5.0), None])
@pytest.mark.parametrize("backend", ["asyncio", "anyio"])
def test_limits_around_a_hosted_step_hold(
    policy: StreamPolicy | None, backend: str, clock: Any
) -> None:
    """Those of the policy, of asyncio and of anyio."""

    @failover(chain=CHAIN, hedge=2.0, stream=policy)
    async def ask(target: Target) -> AsyncIterator[Any]:
        if target.key == OPENAI:
            yield target.key
        await asyncio.get_running_loop().create_future()

    async def main() -> Any:
        stream = await _hedged(ask, clock)
        error = None
        limit = asyncio.timeout(0.01) if backend == "asyncio" else None
        try:
            if policy is not None:
                reading = asyncio.ensure_future(anext(stream))
                await settle()
                clock.advance(5.0)
                await reading
            elif limit is not None:
                async with limit:
                    await anext(stream)
            else:
                with anyio.fail_after(0.01):
                    await anext(stream)
        except (TimeoutError, StreamInterruptedError) as caught:
            error = type(caught)
        await stream.aclose()
        await settle()
        assert [] == _ours()
        return error

    assert (TimeoutError if policy is None else StreamInterruptedError) is asyncio.run(main())


@pytest.mark.parametrize("way", ["closed", "dropped", "dropped unread", "kept"])
def test_a_hosted_stream_leaves_nothing_behind(
    way: str, clock: Any, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """However it ends, its task ends, and without a garbage collection where it is dropped."""
    ended: list[Any] = []
    tasks: list[Any] = []
    kept: list[Any] = []

    async def body(target: Target) -> AsyncIterator[Any]:
        tasks.append(asyncio.current_task())
        try:
            while True:
                yield target.key
        finally:
            ended.append(asyncio.current_task())

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target) -> Any:
        if target.key == GROQ:
            await asyncio.get_running_loop().create_future()
        return body(target)

    async def main() -> None:
        calling = asyncio.ensure_future(ask())
        await settle()
        clock.advance(2.0)
        stream = await calling
        del calling
        if way != "dropped unread":
            assert OPENAI == await anext(stream)
        if way == "closed":
            await stream.aclose()
        elif way == "kept":
            kept.append(stream)
            return
        gc.disable()
        try:
            del stream
            await settle()
            assert [] == _ours()
        finally:
            gc.enable()

    asyncio.run(main())
    assert tasks == ended
    assert all(task.done() for task in tasks)
    kept.clear()
    gc.collect()
    assert [] == caplog.records
    assert {ResourceWarning} >= {each.category for each in recwarn}


@pytest.mark.parametrize("way", ["read", "left early", "its limit ends"])
def test_a_hosted_manager_is_left_in_its_task(way: str, clock: Any) -> None:
    """With the errors of what it holds open."""
    tasks: list[Any] = []
    limits: list[asyncio.Timeout] = []

    @asynccontextmanager
    async def session(target: Target) -> AsyncGenerator[Any, None]:
        async with asyncio.timeout(None) as limit, asyncio.TaskGroup():
            if target.key == GROQ:
                await asyncio.get_running_loop().create_future()
            limits.append(limit)
            tasks.append(asyncio.current_task())

            async def items() -> AsyncIterator[str]:
                for number in range(3):
                    yield f"{target.key}{number}"

            yield items()
            tasks.append(asyncio.current_task())

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target) -> Any:
        return session(target)

    async def main() -> Any:
        seen: list[Any] = []

        async def read() -> None:
            async with await ask() as items:
                async for item in items:
                    seen.append(item)
                    if way == "left early":
                        break
                    if way == "its limit ends":
                        limits[0].reschedule(asyncio.get_running_loop().time())
                        await asyncio.sleep(0.01)

        reading = asyncio.ensure_future(read())
        await settle()
        clock.advance(2.0)
        error = (await asyncio.gather(reading, return_exceptions=True))[0]
        await settle()
        assert [] == _ours()
        return seen, error

    seen, error = asyncio.run(main())
    if way == "its limit ends":
        assert 1 == len(seen)
        assert isinstance(error, StreamInterruptedError)
        assert isinstance(error.__cause__, TimeoutError)
        return
    assert error is None
    assert (3 if way == "read" else 1) == len(seen)
    assert 2 == len(tasks)
    assert 1 == len(set(tasks))
