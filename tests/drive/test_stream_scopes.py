"""Limits around streams and managers that keep a task group or a cancel scope open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient_llm import (
    ConfigurationError,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    failover,
    health,
)
from tests.support.ways import GROQ, OPENAI

HOLDS: dict[str, Callable[[], Any]] = {
    "a task group of anyio": anyio.create_task_group,
    "a scope of anyio": lambda: _entered(anyio.fail_after(60)),
    "a task group of asyncio": asyncio.TaskGroup,
    "a timeout of asyncio": lambda: asyncio.timeout(60),
}
LIMITS: dict[str, dict[str, Any]] = {
    "timeout": {"timeout": 60.0},
    "attempt_timeout": {"attempt_timeout": 60.0},
    "first_item_timeout": {"stream": StreamPolicy(first_item_timeout=60.0)},
    "idle_timeout": {"stream": StreamPolicy(idle_timeout=60.0)},
    "all": {"timeout": 60.0, "stream": StreamPolicy(first_item_timeout=60.0, idle_timeout=60.0)},
}


@asynccontextmanager
async def _entered(scope: Any) -> AsyncIterator[None]:
    with scope:
        yield


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("holds", HOLDS)
def test_a_limit_changes_nothing_for_a_generator_with_a_scope(holds: str, limit: str) -> None:
    """On asyncio it gives its items, ends, and leaves the task sound."""

    @failover(GROQ, **LIMITS[limit])
    async def ask(target: Target) -> AsyncIterator[str]:
        async with HOLDS[holds]():
            for word in ("a", "b", "c"):
                await anyio.lowlevel.checkpoint()
                yield word

    async def main() -> list[str]:
        words = [word async for word in ask()]
        task = asyncio.current_task()
        assert task is not None
        assert 0 == task.cancelling()
        await asyncio.sleep(0)
        return words

    assert ["a", "b", "c"] == asyncio.run(main())
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)


@pytest.mark.parametrize("holds", ["a task group of anyio", "a task group of asyncio"])
def test_a_limit_ends_a_generator_with_a_task_group(holds: str) -> None:
    """Silence after content is an interruption; the generator's own clean-up has run."""
    cleaned: list[str] = []

    @failover(GROQ, stream=StreamPolicy(idle_timeout=0.01))
    async def ask(target: Target) -> AsyncIterator[str]:
        try:
            async with HOLDS[holds]():
                yield "a"
                await anyio.sleep_forever()
        finally:
            cleaned.append("yes")

    async def main() -> None:
        with pytest.raises(StreamInterruptedError):
            async for _ in ask():
                pass
        await asyncio.sleep(0)

    asyncio.run(main())
    assert ["yes"] == cleaned


class Run:
    """What an agent's run gives: no stream, but with items of its own."""

    async def stream_text(self) -> AsyncIterator[str]:
        yield "text"


@asynccontextmanager
async def run_stream() -> AsyncIterator[Run]:
    """A manager that holds a task group and a scope from its entry to its exit."""
    async with anyio.create_task_group() as group:
        with anyio.fail_after(60):
            yield Run()
        group.cancel_scope.cancel()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("options", [{}, {"timeout": 60.0}], ids=["without", "with a limit"])
def test_a_manager_with_a_task_group_can_be_left(options: dict[str, Any], backend: str) -> None:
    """Its exit runs where its entry has, and later waits of the task are not cancelled."""

    @failover(GROQ, **options)
    def ask(target: Target) -> AbstractAsyncContextManager[Run]:
        return run_stream()

    async def main() -> list[str]:
        async with ask() as run:
            words = [word async for word in run.stream_text()]
        await anyio.lowlevel.checkpoint()
        return words

    if options and backend == "trio":
        with pytest.raises(ConfigurationError, match="nursery"):
            anyio.run(main, backend=backend)
    else:
        assert ["text"] == anyio.run(main, backend=backend)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("opens_at", [0, 1])
def test_on_trio_a_limit_refuses_an_open_scope(opens_at: int, limit: str) -> None:
    """The call ends with a sentence that says what to do, and trio's own state is sound."""

    @failover([GROQ, OPENAI], **LIMITS[limit])
    async def ask(target: Target) -> AsyncIterator[str]:
        async with AsyncExitStack() as stack:
            for number, word in enumerate("abc"):
                if number == opens_at:
                    await stack.enter_async_context(anyio.create_task_group())
                yield word

    async def main() -> None:
        with pytest.raises(ConfigurationError, match="on trio"):
            async for _ in ask():
                pass
        await anyio.lowlevel.checkpoint()

    if opens_at == 1 and limit in ("attempt_timeout", "first_item_timeout"):
        pytest.skip("no limit is around that wait")
    anyio.run(main, backend="trio")
    assert 0 == health([GROQ])[GROQ].errors


def test_a_task_that_goes_on_after_its_limit_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that swallows the first cancellation does not hold the call up for good."""
    from resilient_llm._runtime import time_limit

    monkeypatch.setattr(time_limit, "_AGAIN", 0.01)
    taken: list[str] = []

    @failover([GROQ, OPENAI], attempts=1, attempt_timeout=0.01)
    async def ask(target: Target) -> str:
        if target.key == OPENAI:
            return "other"
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                taken.append("one")
                if len(taken) == 2:
                    raise
        return ""

    async def main() -> str:
        answer = await ask()
        task = asyncio.current_task()
        assert task is not None
        assert 0 == task.cancelling()
        return answer

    assert "other" == asyncio.run(main())
    assert ["one", "one"] == taken


def test_on_trio_a_scope_of_an_inner_generator_is_refused_too() -> None:
    """The generator that has opened the scope is closed, not only the one that reads from it."""

    async def session() -> AsyncIterator[str]:
        async with anyio.create_task_group():
            yield "a"
            yield "b"

    @failover(GROQ, stream=StreamPolicy(idle_timeout=60.0))
    async def ask(target: Target) -> AsyncIterator[str]:
        async for word in session():
            yield word

    async def main() -> None:
        with pytest.raises(ConfigurationError, match="on trio"):
            async for _ in ask():
                pass
        await anyio.lowlevel.checkpoint()

    anyio.run(main, backend="trio")


@pytest.mark.parametrize("words", [0, 1], ids=["before content", "after content"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_generator_that_returns_when_it_is_cut_off_was_cut_off(words: int, backend: str) -> None:
    """Code of servers often catches a cancellation and returns: that is no end of the answer."""

    @failover(
        [GROQ, OPENAI], attempts=1, stream=StreamPolicy(first_item_timeout=0.01, idle_timeout=0.01)
    )
    async def ask(target: Target) -> AsyncIterator[str]:
        if target.key == OPENAI:
            yield "b"
            return
        try:
            for _ in range(words):
                yield "a"
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            return

    async def main() -> list[str]:
        return [word async for word in ask()]

    if words:
        with pytest.raises(StreamInterruptedError):
            anyio.run(main, backend=backend)
    else:
        assert ["b"] == anyio.run(main, backend=backend)
    assert (1, "timeout") == (health()[GROQ].errors, health()[GROQ].last_error.reason)  # type: ignore[union-attr]
