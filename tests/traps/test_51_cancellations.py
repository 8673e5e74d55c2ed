"""Trap 51: a task is cancelled from outside, and its client raises something else instead.

Nobody else is called, nobody is charged, nothing is waited for, and the client's error leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest

from resilient_llm import ChainExhaustedError, Failover, Target, breaker, failover, health
from resilient_llm.testing import FakeClock
from tests.support.ways import GROQ, OPENAI, ProviderError, down, on_both_loops, run_async

LOST = ConnectionError
"""What a client raises in place of a cancellation."""

Client = Callable[[], Awaitable[None]]


async def replaces() -> None:
    """Wait for an answer; raise an error of its own when that is cancelled."""
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        raise LOST("connection lost")  # noqa: B904  # as clients do


async def hides() -> None:
    """Do the same, and say that the cancellation is not the cause."""
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        raise LOST("connection lost") from None


async def wraps() -> None:
    """Translate an error that had replaced the cancellation further down."""
    try:
        await replaces()
    except ConnectionError as error:
        raise LOST("request failed") from error


async def forgets() -> None:
    """Raise where no cancellation is handled any more."""
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        pass
    raise LOST("connection lost")


CLIENTS = [replaces, hides, wraps, forgets]

# --- the ways to call -----------------------------------------------------------------------


async def _decorated(policy: Failover, attempt: Callable[[str], Awaitable[Any]]) -> Any:
    @policy
    async def ask(target: Target) -> Any:
        return await attempt(target.key)

    return await ask()


async def _plain(policy: Failover, attempt: Callable[[str], Awaitable[Any]]) -> Any:
    @policy
    def ask(target: Target) -> Any:
        return attempt(target.key)

    return await ask()


async def _looped(policy: Failover, attempt: Callable[[str], Awaitable[Any]]) -> Any:
    answer = None
    async for each in policy:
        async with each as target:
            answer = await attempt(target.key)
    return answer


async def _plainly_looped(policy: Failover, attempt: Callable[[str], Awaitable[Any]]) -> Any:
    answer = None
    for each in policy:
        with each as target:
            answer = await attempt(target.key)
    return answer


async def _streamed(policy: Failover, attempt: Callable[[str], Awaitable[Any]]) -> Any:
    @policy
    async def ask(target: Target) -> AsyncIterator[Any]:
        yield await attempt(target.key)

    return [item async for item in ask()]


async def _streamed_on(policy: Failover, attempt: Callable[[str], Awaitable[Any]]) -> Any:
    @policy
    async def ask(target: Target) -> AsyncIterator[Any]:
        yield "It"
        yield await attempt(target.key)

    return [item async for item in ask()]


WAYS = [_decorated, _plain, _looped, _plainly_looped, _streamed]


def _a_second(number: int) -> float:
    return 1.0


class Task:
    """A task that is cancelled from outside, by the loop's own means or by a cancel scope."""

    def __init__(self, means: str) -> None:
        self.means = means
        self.scope: anyio.CancelScope | None = None

    def cancel(self) -> None:
        if self.means == "task":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        else:
            assert self.scope is not None
            self.scope.cancel()

    async def run(self, work: Callable[[], Awaitable[Any]]) -> BaseException | None:
        """Run some work in it; return the error that leaves the work."""
        caught: BaseException | None = None
        with anyio.CancelScope() as self.scope:
            try:
                await work()
            except Exception as error:
                caught = error
        return caught


BY = [("asyncio", "task"), ("asyncio", "scope"), ("trio", "scope")]


@pytest.fixture(params=BY, ids="-".join)
def task(request: pytest.FixtureRequest) -> tuple[str, Task]:
    """The loop, and a task in it."""
    backend, means = request.param
    return backend, Task(means)


def ran(task: tuple[str, Task], work: Callable[[], Awaitable[Any]]) -> BaseException | None:
    """Run some work in a task; return the error that leaves it."""
    backend, its_task = task

    async def main() -> BaseException | None:
        return await its_task.run(work)

    return run_async(main, backend=backend)


def errors() -> list[int]:
    """Return how many errors were counted of each target and provider."""
    seen = health([GROQ, "groq", OPENAI])
    return [seen[key].errors for key in (GROQ, "groq", OPENAI)]


# --- chains -----------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", [None, 100.0])
def test_trap_51_no_further_attempt(
    way: Any, client: Client, limit: float | None, task: tuple[str, Task], clock: FakeClock
) -> None:
    """A first attempt that was cancelled ends its call, whatever its client raises."""
    calls: list[str] = []

    async def attempt(target: str) -> str:
        calls.append(target)
        if len(calls) == 1:
            task[1].cancel()
            await client()
        return "answer"

    policy = failover([GROQ, OPENAI], attempt_timeout=limit, attempts=2)
    left = policy if way is not _plain or limit is None else policy.using(attempt_timeout=None)
    caught = ran(task, lambda: way(left, attempt))

    assert LOST is type(caught)
    assert ([GROQ], [0, 0, 0], []) == (calls, errors(), clock.sleeps)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("attempts", [1, 2], ids=["the next target", "a retry"])
def test_trap_51_a_later_attempt(
    way: Any, client: Client, attempts: int, task: tuple[str, Task], clock: FakeClock
) -> None:
    """So does a later one, after the failure of an earlier one was counted."""
    calls: list[str] = []

    async def attempt(target: str) -> str:
        calls.append(target)
        if len(calls) == 1:
            raise down()
        if len(calls) == 2:
            task[1].cancel()
            await client()
        return "answer"

    policy = failover([GROQ, OPENAI, "mistral/m"], attempts=attempts, backoff=_a_second)
    caught = ran(task, lambda: way(policy, attempt))

    assert LOST is type(caught)
    assert (2, 1) == (len(calls), sum(errors()[::2]))
    assert [1.0] * (attempts - 1) == clock.sleeps


@pytest.mark.parametrize("client", CLIENTS)
def test_trap_51_a_stream_that_has_begun(client: Client, task: tuple[str, Task]) -> None:
    """The error of a wait that was cancelled leaves as it is; no stream was interrupted."""
    calls: list[str] = []

    async def attempt(target: str) -> str:
        calls.append(target)
        task[1].cancel()
        await client()
        return "never"

    caught = ran(task, lambda: _streamed_on(failover([GROQ, OPENAI]), attempt))

    assert LOST is type(caught)
    assert ([GROQ], [0, 0, 0]) == (calls, errors())


@on_both_loops
@pytest.mark.parametrize("client", [replaces, hides, wraps])
@pytest.mark.parametrize("way", [_decorated, _looped, _streamed])
def test_trap_51_the_own_limit_is_no_cancellation(
    way: Any, client: Client, backend: str, clock: FakeClock
) -> None:
    """An attempt that its limit ends has failed, and the next target is called."""
    calls: list[str] = []

    async def attempt(target: str) -> str:
        calls.append(target)
        if len(calls) == 1:
            clock.advance(2.0)
            await client()
        return "answer"

    policy = failover([GROQ, OPENAI], attempt_timeout=1.0, attempts=1)
    run_async(lambda: way(policy, attempt), backend=backend)

    assert ([GROQ, OPENAI], [1, 1, 0]) == (calls, errors())


@pytest.mark.parametrize("way", [_decorated, _looped, _streamed])
def test_trap_51_both_at_once(way: Any, task: tuple[str, Task], clock: FakeClock) -> None:
    """If the limit ends in the same moment, what comes from outside decides."""
    calls: list[str] = []

    async def attempt(target: str) -> str:
        calls.append(target)
        if len(calls) == 1:
            task[1].cancel()
            clock.advance(2.0)
            await replaces()
        return "answer"

    policy = failover([GROQ, OPENAI], attempt_timeout=1.0, attempts=1)
    caught = ran(task, lambda: way(policy, attempt))

    assert LOST is type(caught)
    assert ([GROQ], [0, 0, 0]) == (calls, errors())


@on_both_loops
def test_trap_55_the_limit_of_an_outer_chain(backend: str, clock: FakeClock) -> None:
    """The inner chain makes no further attempt and charges nobody; the outer one is over."""
    calls: list[str] = []

    @failover([GROQ, OPENAI], attempts=1)
    async def inner(target: Target) -> str:
        calls.append(target.key)
        if len(calls) == 1:
            clock.advance(2.0)
            await replaces()
        return "answer"

    @failover(["outer/x"], timeout=1.0, attempts=1)
    async def outer(target: Target) -> str:
        return await inner()

    with pytest.raises(Exception, match="1 s"):
        run_async(outer, backend=backend)

    assert ([GROQ], [0, 0, 0]) == (calls, errors())


# --- breakers ---------------------------------------------------------------------------------


async def _block(work: Client) -> None:
    async with breaker(GROQ):
        await work()


async def _plain_block(work: Client) -> None:
    with breaker(GROQ):
        await work()


async def _guarded(work: Client) -> None:
    await breaker(GROQ)(work)()


async def _guarded_stream(work: Client) -> None:
    @breaker(GROQ)
    async def items() -> AsyncIterator[Any]:
        yield await work()

    async for _ in items():
        pass


async def _guarded_source(work: Client) -> None:
    async def items() -> AsyncIterator[Any]:
        yield await work()

    @breaker(GROQ)
    def ask() -> Any:
        return items()

    async for _ in ask():
        pass


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("way", [_block, _plain_block, _guarded, _guarded_stream, _guarded_source])
@pytest.mark.parametrize(("backend", "means"), BY)
def test_trap_51_cancelled_callers_open_no_breaker(
    way: Any, client: Client, backend: str, means: str
) -> None:
    """Six cancelled callers whose client raises something else leave the circuit closed."""

    async def main() -> None:
        for _ in range(6):
            task = Task(means)

            async def work(task: Task = task) -> None:
                task.cancel()
                await client()

            caught = await task.run(lambda work=work: way(work))
            assert LOST is type(caught)

    run_async(main, backend=backend)

    assert ("closed", 0) == (breaker(GROQ).state, health([GROQ])[GROQ].errors)


# --- an earlier cancellation of asyncio's ---------------------------------------------------


@pytest.mark.parametrize("way", [_decorated, _looped, _streamed])
def test_trap_51_a_call_while_an_earlier_cancellation_is_handled(way: Any) -> None:
    """Code that cleans up after a cancellation is guarded as any other."""
    calls: list[str] = []

    async def attempt(target: str) -> str:
        calls.append(target)
        if target == GROQ:
            raise down()
        return "answer"

    async def main() -> Any:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return await _called_apart(lambda: way(failover([GROQ, OPENAI], attempts=1), attempt))

    asyncio.run(main())

    assert [GROQ, OPENAI] == calls


async def _called_apart(work: Callable[[], Awaitable[Any]]) -> Any:
    return await work()


def test_trap_51_a_task_that_goes_on_after_a_cancellation() -> None:
    """At most one failover is lost by a task that swallowed a cancellation without `uncancel`."""
    calls: list[str] = []

    @failover([GROQ, OPENAI], attempts=1)
    async def ask(target: Target) -> str:
        calls.append(target.key)
        if target.key == GROQ:
            raise down()
        return "answer"

    async def main() -> list[str]:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            pass
        answers: list[str] = []
        for _ in range(4):
            try:
                answers.append(await ask())
            except ProviderError:
                answers.append("")
        return answers

    async def first() -> None:
        await ask()  # the first call of a key is looked at, and knows the count

    asyncio.run(first())
    assert ["", *["answer"] * 3] == asyncio.run(main())


async def _swallows_a_cancellation() -> None:
    """Take a cancellation of this task, and go on without `uncancel`."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        pass
    assert task.cancelling() == 1


@pytest.mark.parametrize("way", [_decorated, _looped, _streamed])
def test_trap_51_the_first_call_with_a_limit_after_a_swallowed_cancellation(
    way: Any, clock: FakeClock
) -> None:
    """A limit looks at the task before the attempt, so that no failover is lost."""
    calls: list[str] = []

    async def attempt(target: str) -> str:
        calls.append(target)
        if target == GROQ:
            raise down()
        return "answer"

    async def main() -> None:
        await _swallows_a_cancellation()
        await way(failover([GROQ, OPENAI], attempts=1, attempt_timeout=30.0), attempt)

    asyncio.run(main())

    assert [GROQ, OPENAI] == calls


@pytest.mark.parametrize("limit", [None, 30.0])
@pytest.mark.parametrize("client", CLIENTS)
def test_trap_51_a_second_cancellation_of_a_task_that_went_on(
    client: Client, limit: float | None, clock: FakeClock
) -> None:
    """It ends the call, although the task was cancelled before, and has called since."""
    calls: list[str] = []

    @failover([GROQ, OPENAI], attempts=1, attempt_timeout=limit)
    async def ask(target: Target) -> str:
        calls.append(target.key)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if len(calls) == 1:
            await asyncio.sleep(0)
        await client()
        return "never"

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await ask()
        with pytest.raises(LOST):
            await ask()

    asyncio.run(main())

    assert [GROQ, GROQ] == calls


@pytest.mark.parametrize("limit", [None, 30.0])
def test_trap_51_a_call_after_one_that_was_cancelled_fails_over(
    limit: float | None, clock: FakeClock
) -> None:
    """The cancellation left a call of ours, so that its task is known to have swallowed it."""
    calls: list[str] = []

    @failover([GROQ, OPENAI], attempts=1, attempt_timeout=limit)
    async def ask(target: Target) -> str:
        calls.append(target.key)
        if len(calls) == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        if target.key == GROQ:
            raise down()
        return "answer"

    async def main() -> str:
        with pytest.raises(asyncio.CancelledError):
            await ask()
        return await ask()

    assert "answer" == asyncio.run(main())
    assert [GROQ, GROQ, OPENAI] == calls


@pytest.mark.parametrize("way", [_decorated, _plain])
def test_trap_51_a_cancellation_that_left_an_inner_call(way: Any) -> None:
    """It came during the attempt of the outer call, whose client has raised something else."""
    calls: list[str] = []

    @failover([GROQ], attempts=1)
    async def inner(target: Target) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async def attempt(target: str) -> str:
        calls.append(target)
        try:
            await inner()
        except asyncio.CancelledError:
            pass
        raise LOST("connection lost")

    with pytest.raises(LOST):
        asyncio.run(way(failover(["outer/a", "outer/b"], attempts=1), attempt))

    assert ["outer/a"] == calls


# --- beside tasks that were cancelled ------------------------------------------------------------


def test_trap_51_a_block_without_a_task_fails_beside_a_task_that_was_cancelled() -> None:
    """What was seen of a task that lives on says nothing of synchronous code."""

    @failover([GROQ, OPENAI], attempts=1)
    async def asked_by_task(target: Target) -> str:
        raise down()

    async def main() -> asyncio.Task[None]:
        async def goes_on() -> None:
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(60)
            with pytest.raises((ProviderError, ChainExhaustedError)):
                await asked_by_task()

        task = asyncio.create_task(goes_on())
        await asyncio.sleep(0)
        task.cancel()
        await task
        return task

    task = asyncio.run(main())

    error = down()
    with pytest.raises(ProviderError) as caught, breaker("mistral"):
        raise error
    assert caught.value is error
    assert (1, 1) == (health()["mistral"].errors, task.cancelling())


def test_trap_51_a_task_of_another_kind_fails_over() -> None:
    """A task factory may make tasks that count no cancellations, or take no weak references."""

    class Bare:
        __slots__ = ("_task",)

        def __init__(self, task: asyncio.Task[Any]) -> None:
            self._task = task

        def cancelling(self) -> int:
            return 1

    @failover([GROQ, OPENAI], attempts=1)
    async def ask(target: Target) -> str:
        if target.key == GROQ:
            raise down()
        return target.key

    async def main() -> str:
        with pytest.MonkeyPatch.context() as patch:
            bare = Bare(asyncio.current_task())  # type: ignore[arg-type]  # it runs in one
            patch.setattr(asyncio, "current_task", lambda loop=None: bare)
            return await ask()

    assert OPENAI == asyncio.run(main())
