"""A usage is booked once, by the innermost attempt, wherever attempts are inside others."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import anyio.to_thread
import pytest

from resilient_llm import (
    Budget,
    Limit,
    StreamPolicy,
    Target,
    breaker,
    configure,
    failover,
    spend,
)
from resilient_llm._core.circuit.permit import open_permits
from resilient_llm._runtime.runtime import runtime
from tests.support.spending import answer
from tests.support.ways import GROQ, OPENAI, ProviderError, on_both_loops, run_async

OUTER = Target(GROQ, price=(1, 2), max_output=100)
INNER = Target(OPENAI, price=(1, 2), max_output=100)
INPUT = 40
USED = 35
"""Tokens of the inner answer."""


@pytest.fixture(autouse=True)
def _budget() -> None:
    configure(budgets=[Budget(tokens=1_000_000)])


def policy(*chain: Target, **options: Any) -> Any:
    return failover(chain or [OUTER], **{"tokens": INPUT, "attempts": 1, **options})


def booked() -> tuple[Any, int]:
    """Tokens and calls; nothing may be reserved any more."""
    (row,) = spend()
    assert 0 == row.reserved
    return row.spent, row.calls


def chunk(text: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": None}]}


def usage_chunk(sent: int, received: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": sent, "completion_tokens": received}}


@policy(INNER)
def inner(target: Target) -> Any:
    return answer(30, 5)


@policy(INNER)
async def ainner(target: Target) -> Any:
    await anyio.lowlevel.checkpoint()
    return answer(30, 5)


@policy(INNER)
def inner_stream(target: Target) -> Iterator[Any]:
    yield chunk("abcd")
    yield chunk("efgh")
    yield usage_chunk(30, 5)


@policy(INNER)
async def ainner_stream(target: Target) -> AsyncIterator[Any]:
    for each in (chunk("abcd"), chunk("efgh"), usage_chunk(30, 5)):
        yield each


# What makes the inner call, in synchronous code.


def in_a_call() -> None:
    inner()


def by_policy_call() -> None:
    policy(INNER).call(lambda *, target: answer(30, 5))


def in_a_loop() -> None:
    for attempt in policy(INNER):
        with attempt:
            attempt.result = answer(30, 5)


def in_a_thread() -> None:
    thread = threading.Thread(target=contextvars.copy_context().run, args=(inner,))
    thread.start()
    thread.join()


def in_a_stream() -> None:
    list(inner_stream())


WAYS: list[Callable[[], None]] = [in_a_call, by_policy_call, in_a_loop, in_a_thread, in_a_stream]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_generator_that_makes_its_call_late(way: Callable[[], None], before: int) -> None:
    """After its first item the attempt is around the call as well as before."""

    @policy()
    def ask(target: Target) -> Iterator[Any]:
        for _ in range(before):
            yield chunk("abcd")
        way()
        yield chunk("abcd")

    list(ask())

    assert (USED, 2) == booked()
    assert () == open_permits.get()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_manager_of_a_stream(way: Callable[[], None]) -> None:
    """Its items are those of the attempt, too."""

    class Manager:
        def __enter__(self) -> Iterator[Any]:
            return self._items()

        def __exit__(self, *error: object) -> None:
            pass

        def _items(self) -> Iterator[Any]:
            yield chunk("abcd")
            way()
            yield chunk("abcd")

    @policy(stream=StreamPolicy(on_truncated="accept"))
    def ask(target: Target) -> Any:
        return Manager()

    with ask() as stream:
        list(stream)

    assert (USED, 2) == booked()


async def awaited() -> None:
    await ainner()


async def in_a_task() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(ainner)


async def in_a_task_of_asyncio() -> None:
    await asyncio.create_task(ainner())


async def in_a_worker() -> None:
    await anyio.to_thread.run_sync(inner)


async def in_a_worker_of_asyncio() -> None:
    await asyncio.to_thread(inner)


async def in_an_asynchronous_loop() -> None:
    async for attempt in policy(INNER):
        async with attempt:
            attempt.result = answer(30, 5)


async def in_an_asynchronous_stream() -> None:
    [_ async for _ in ainner_stream()]


ASYNC_WAYS = [
    awaited,
    in_a_task,
    in_a_worker,
    in_an_asynchronous_loop,
    in_an_asynchronous_stream,
]
CASES = [
    (backend, way)
    for backend in ("asyncio", "trio")
    for way in [
        *ASYNC_WAYS,
        *([in_a_task_of_asyncio, in_a_worker_of_asyncio] if backend == "asyncio" else []),
    ]
]


@pytest.mark.parametrize(("backend", "way"), CASES)
@pytest.mark.parametrize("hedge", [None, 5.0])
def test_an_asynchronous_generator_that_makes_its_call_late(
    backend: str, way: Callable[[], Any], hedge: float | None
) -> None:
    @policy(OUTER, Target("own/third", price=(1, 2), max_output=100), hedge=hedge)
    async def ask(target: Target) -> AsyncIterator[Any]:
        yield chunk("abcd")
        await way()
        yield chunk("abcd")

    async def main() -> None:
        [_ async for _ in ask()]
        assert () == open_permits.get()

    run_async(main, backend=backend)

    assert (USED, 2) == booked()


@on_both_loops
def test_a_stream_of_a_hedge_that_makes_its_call_late(backend: str) -> None:
    """It is read in its own task, or in its own context."""

    @policy(OUTER, Target("own/third", price=(1, 2), max_output=100), hedge=0.001)
    async def ask(target: Target) -> AsyncIterator[Any]:
        if target.key == GROQ:
            await anyio.sleep(5)
        yield chunk("abcd")
        await ainner()
        yield chunk("abcd")

    async def main() -> None:
        [_ async for _ in ask()]

    run_async(main, backend=backend)

    # The lost attempt books its input.
    assert (USED + INPUT, 3) == booked()


@on_both_loops
def test_an_asynchronous_function_that_gives_a_synchronous_stream(backend: str) -> None:
    def items() -> Iterator[Any]:
        yield chunk("abcd")
        inner()
        yield chunk("abcd")

    @policy(stream=StreamPolicy(on_truncated="accept"))
    async def ask(target: Target) -> Iterator[Any]:
        return items()

    async def main() -> None:
        list(await ask())

    run_async(main, backend=backend)

    assert (USED, 2) == booked()


@on_both_loops
def test_hedged_calls_inside(backend: str) -> None:
    """Both of their attempts are booked, and the one around them books its call."""

    @policy(INNER, Target("own/third", price=(1, 2), max_output=100), hedge=0.001)
    async def hedged(target: Target) -> Any:
        if target.key == OPENAI:
            await anyio.sleep(5)
        return answer(30, 5)

    @policy()
    async def ask(target: Target) -> AsyncIterator[Any]:
        yield chunk("abcd")
        await hedged()
        yield chunk("abcd")

    async def main() -> None:
        [_ async for _ in ask()]

    run_async(main, backend=backend)

    assert (USED + INPUT, 3) == booked()


# Attempts inside that still run when the one around them ends.


def test_a_stream_that_is_left_is_booked_by_the_attempt_inside() -> None:
    """The one around it is told first, and its source is closed afterwards."""

    @policy()
    def ask(target: Target) -> Iterator[Any]:
        yield from inner_stream()

    @policy()
    def gives(target: Target) -> Any:
        return inner_stream()

    for each in (ask, gives):
        runtime.ledger.reset()
        stream = each()
        next(stream)
        next(stream)
        stream.close()

        assert (INPUT + 2, 2) == booked()


def test_a_stream_that_is_dropped_is_booked_by_the_attempt_inside() -> None:
    @policy()
    def ask(target: Target) -> Iterator[Any]:
        yield from inner_stream()

    stream = ask()
    next(stream)
    del stream
    gc.collect()

    assert (INPUT + 1, 2) == booked()


@on_both_loops
def test_an_asynchronous_stream_that_is_left_is_booked_by_the_attempt_inside(backend: str) -> None:
    @policy()
    async def ask(target: Target) -> AsyncIterator[Any]:
        stream = ainner_stream()
        try:
            async for each in stream:
                yield each
        finally:
            await stream.aclose()

    async def main() -> None:
        stream = ask()
        await anext(stream)
        await anext(stream)
        await stream.aclose()

    run_async(main, backend=backend)

    assert (INPUT + 2, 2) == booked()


def test_a_thread_that_goes_on_books_what_it_uses() -> None:
    """The attempt around it has not waited for it, and books its call alone."""
    may_end, has_begun = threading.Event(), threading.Event()

    @policy(INNER)
    def slow(target: Target) -> Any:
        has_begun.set()
        may_end.wait(10)
        return answer(30, 5)

    @policy()
    def ask(target: Target) -> Any:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(slow,))
        thread.start()
        has_begun.wait(10)
        return thread

    thread = ask()
    may_end.set()
    thread.join()

    assert (USED, 2) == booked()


# Attempts inside that have given nothing.


@pytest.mark.parametrize(
    ("error", "spent", "calls"),
    [
        (ProviderError(429), 0, 1),
        (TimeoutError(), INPUT, 1),
        (ConnectionRefusedError(111, "refused"), 0, 0),
    ],
    ids=["status", "timeout", "refused"],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_after_the_attempt_inside_has_failed(
    error: Exception, spent: int, calls: int, is_stream: bool
) -> None:
    """A usage that nothing inside has given is the attempt's own, as of a client without guard."""

    @policy(INNER, when_all_benched="raise")
    def failing(target: Target) -> Any:
        raise error

    @policy()
    def ask(target: Target) -> Any:
        with suppress(Exception):
            failing()
        return answer(7, 3)

    @policy()
    def stream(target: Target) -> Iterator[Any]:
        yield chunk("abcd")
        with suppress(Exception):
            failing()
        yield usage_chunk(7, 3)

    if is_stream:
        list(stream())
    else:
        ask()

    assert (spent + 10, calls + 1) == booked()


def test_an_attempt_that_fails_with_the_one_inside_books_its_call() -> None:
    """Its input was that of the attempt inside, which books the estimate."""

    @policy(INNER)
    def failing(target: Target) -> Any:
        raise TimeoutError

    @policy()
    def ask(target: Target) -> Any:
        return failing()

    with pytest.raises(Exception):  # noqa: B017  # the chain's
        ask()

    assert (INPUT, 2) == booked()


def test_a_text_of_its_own_after_a_failure_is_not_billed() -> None:
    """Without a usage nothing says that anything else was sent."""

    @policy(INNER)
    def failing(target: Target) -> Any:
        raise ProviderError(429)

    @policy()
    def ask(target: Target) -> str:
        with suppress(Exception):
            failing()
        return "Please try again later."

    ask()

    assert (0, 2) == booked()


def test_a_guard_inside_books_nothing() -> None:
    """`breaker(name)` is not booked, so the attempt around it is."""

    @policy()
    def ask(target: Target) -> Iterator[Any]:
        yield chunk("abcd")
        with breaker("own"):
            yield usage_chunk(7, 3)

    list(ask())

    assert (10, 1) == booked()


def test_the_consumer_is_outside() -> None:
    """What it calls between two items is booked by itself, and the stream all the same."""

    @policy(stream=StreamPolicy())
    def ask(target: Target) -> Iterator[Any]:
        yield chunk("abcd")
        yield usage_chunk(7, 3)

    for _ in ask():
        inner()

    assert (10 + 2 * USED, 3) == booked()


def test_a_guard_that_a_stream_keeps_open_is_around_its_own_code_alone() -> None:
    """The permits of a generator's code leave the context of the consumer between two items."""
    seen: list[int] = []

    @policy()
    def ask(target: Target) -> Iterator[Any]:
        for attempt in policy(INNER):
            with attempt:
                yield chunk("abcd")
                seen.append(len(open_permits.get()))
                inner()
                yield chunk("abcd")

    for _ in ask():
        seen.append(len(open_permits.get()))
        inner()

    assert [0, 2, 0] == seen
    # Three calls of the same kind, and two attempts around one of them that book their calls.
    assert (3 * USED, 5) == booked()


@contextmanager
def a_bucket() -> Iterator[Callable[[], float]]:
    configure(limits={"groq": Limit(tokens=1000, per="day")}, budgets=[])
    limits = runtime.limits.of("groq", "groq")
    assert limits is not None
    assert limits.all[0].tokens is not None
    bucket = limits.all[0].tokens
    yield lambda: bucket.level(runtime.clock())


def test_a_bucket_of_tokens_is_charged_once(clock: Any) -> None:
    """Limits settle as budgets book."""
    with a_bucket() as left:
        inside = policy(Target("groq/other", max_output=100)).call

        @policy()
        def ask(target: Target) -> Iterator[Any]:
            yield chunk("abcd")
            inside(lambda *, target: answer(30, 5))
            yield chunk("abcd")

        list(ask())

        assert 1000 - USED == left()
