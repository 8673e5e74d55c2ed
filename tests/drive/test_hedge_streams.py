"""Streams race until one has given its first content; the others are closed."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient_llm import (
    AttemptCancelled,
    AttemptSucceeded,
    ConfigurationError,
    HedgeStarted,
    StreamCommitted,
    StreamPolicy,
    Target,
    breaker,
    failover,
    health,
)
from resilient_llm.testing import capture_events
from tests.support.hedges import Stage, played, settle
from tests.support.stepping import no_lease_is_taken
from tests.support.ways import GROQ, MISTRAL, OPENAI, down, on_both_loops, run_async

CHAIN = [GROQ, OPENAI]


class Source:
    """An SDK's stream: a role first, then what the stage says, then the rest."""

    def __init__(self, stage: Stage, target: Target) -> None:
        self.stage = stage
        self.target = target
        self.number = 0
        self.closed = False

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> Any:
        self.number += 1
        if self.number == 1:
            return ""
        if self.number == 2:
            return await self.stage.provide(self.target)
        if self.number == 3:
            return "!"
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed = True


def _forms(stage: Stage, sources: list[Source], **options: Any) -> dict[str, Any]:
    guard = failover(chain=CHAIN, hedge=2.0, attempts=1, **options)

    @guard
    async def gives_stream(target: Target) -> Source:
        sources.append(Source(stage, target))
        return sources[-1]

    @guard
    async def generates(target: Target) -> AsyncIterator[Any]:
        source = Source(stage, target)
        sources.append(source)
        try:
            async for item in source:
                yield item
        finally:
            source.closed = True

    return {"coroutine function": gives_stream, "async generator function": generates}


async def _read(ask: Any) -> list[Any]:
    stream = ask()
    if hasattr(type(stream), "__await__"):
        stream = await stream
    return [item async for item in stream]


@on_both_loops
@pytest.mark.parametrize("form", ["coroutine function", "async generator function"])
@pytest.mark.parametrize("winner", [GROQ, OPENAI])
@pytest.mark.parametrize("options", [{}, {"timeout": 60.0}, {"stream": StreamPolicy()}])
def test_the_first_stream_with_content_wins(
    backend: str, form: str, winner: str, options: dict[str, Any], clock: Any
) -> None:
    """A role is no content. The loser's stream is closed before the first item is delivered."""
    stage, sources = Stage(), list[Source]()
    ask = _forms(stage, sources, **options)[form]
    loser = OPENAI if winner == GROQ else GROQ

    async def main() -> Any:
        async with played(lambda: _read(ask)) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            clock.advance(1.0)
            stage.says(winner, winner)
            return await play.ends()

    with capture_events() as seen:
        assert ["", winner, "!"] == run_async(main, backend=backend)
    assert [True, True] == [each.closed or each.number > 3 for each in sources]
    assert [loser] == stage.cancelled
    assert [HedgeStarted, AttemptCancelled, StreamCommitted, AttemptSucceeded] == [
        type(each) for each in seen
    ]
    assert [OPENAI, loser, winner, winner] == [each.target for each in seen]
    committed = next(each for each in seen if isinstance(each, StreamCommitted))
    assert (3.0 if winner == GROQ else 1.0) == committed.seconds
    assert 0 == health()[loser].total


@on_both_loops
@pytest.mark.parametrize("form", ["coroutine function", "async generator function"])
def test_a_stream_that_fails_before_content_leaves_the_other_running(
    backend: str, form: str, clock: Any
) -> None:
    """It is closed, and the other one is the answer."""
    stage, sources = Stage(), list[Source]()
    ask = _forms(stage, sources)[form]

    async def main() -> Any:
        async with played(lambda: _read(ask)) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, down())
            await settle()
            assert sources[1].closed
            stage.says(GROQ, "first")
            return await play.ends()

    assert ["", "first", "!"] == run_async(main, backend=backend)


@on_both_loops
@pytest.mark.parametrize("form", ["coroutine function", "async generator function"])
def test_a_stream_that_reject_refuses_is_closed_while_the_race_goes_on(
    backend: str, form: str, clock: Any
) -> None:
    """The first one, in the task of the caller, as well as a hedge."""
    stage, sources = Stage(), list[Source]()
    ask = _forms(stage, sources, reject=lambda item: item == "bad")[form]

    async def main() -> Any:
        async with played(lambda: _read(ask)) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(GROQ, "bad")
            await settle()
            assert sources[0].closed
            stage.says(OPENAI, "good")
            return await play.ends()

    assert ["", "good", "!"] == run_async(main, backend=backend)


@on_both_loops
def test_of_two_streams_at_once_the_older_is_delivered(backend: str, clock: Any) -> None:
    """The other is closed, and its target has answered."""
    stage, sources = Stage(), list[Source]()
    ask = _forms(stage, sources)["async generator function"]

    async def main() -> Any:
        async with played(lambda: _read(ask)) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, "second")
            stage.says(GROQ, "first")
            return await play.ends()

    assert ["", "first", "!"] == run_async(main, backend=backend)
    assert sources[1].closed
    assert 1 == health()[OPENAI].total


@on_both_loops
def test_a_stream_that_has_committed_gets_no_hedge(backend: str, clock: Any) -> None:
    """However slow its later items are."""
    stage, sources = Stage(), list[Source]()
    ask = _forms(stage, sources)["async generator function"]

    async def main() -> Any:
        stream = ask()
        async with played(lambda: anext(stream)) as play:
            await stage.begins(GROQ)
            stage.says(GROQ, "content")
            await play.ends()
        clock.advance(60.0)
        await settle()
        return [item async for item in stream]

    assert ["content", "!"] == run_async(main, backend=backend)
    assert [GROQ] == stage.asked


@on_both_loops
@pytest.mark.parametrize("hedged", [False, True])
def test_a_generator_that_keeps_a_scope_open_is_refused_where_it_cannot_work(
    backend: str, hedged: bool, clock: Any
) -> None:
    """On trio; the error says what to do. On asyncio it is read in the task of its hedge."""
    stage = Stage()

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target) -> AsyncIterator[Any]:
        if target.key == GROQ and hedged:
            yield await stage.provide(target)
            return
        async with anyio.create_task_group():
            yield await stage.provide(target)

    async def main() -> Any:
        async with played(lambda: _read(ask)) as play:
            await stage.begins(GROQ)
            if hedged:
                clock.advance(2.0)
                await stage.begins(OPENAI)
                stage.says(OPENAI, "hedged")
            else:
                stage.says(GROQ, "first")
            return await play.ends()

    result = run_async(main, backend=backend)
    if backend == "asyncio":
        assert ["hedged" if hedged else "first"] == result
    else:
        assert isinstance(result, ConfigurationError)
        assert "remove hedge" in str(result)


# Managers of streams.


class Managers:
    """Managers that tell when they are entered and left: of one use, as those of the SDKs are."""

    def __init__(self, stage: Stage, **options: Any) -> None:
        self.stage = stage
        self.said: list[str] = []
        self.broken: set[str] = set()

        @failover(**{"chain": CHAIN, "hedge": 2.0, "attempts": 1, **options})
        async def ask(target: Target) -> Any:
            await stage.provide(target)
            return self.manager(target.key)

        self.ask = ask

    @asynccontextmanager
    async def manager(self, key: str) -> AsyncIterator[Any]:
        self.said.append(f"enter {key}")
        if key in self.broken:
            raise down()
        try:
            yield self._items(key)
        finally:
            self.said.append(f"leave {key}")

    async def _items(self, key: str) -> AsyncIterator[str]:
        yield key
        yield "!"

    async def read(self) -> list[Any]:
        """Make the call, look at what it returns, and read that as without a race."""
        manager = await self.ask()
        self.said.append(type(manager).__name__)
        async with manager as stream:
            return [item async for item in stream]


@on_both_loops
@pytest.mark.parametrize("winner", [None, GROQ, OPENAI])
@pytest.mark.parametrize("is_healthy", [False, True])
def test_a_call_that_gives_a_manager_gives_one_after_a_race(
    backend: str, winner: str | None, is_healthy: bool, clock: Any
) -> None:
    """Whoever wins: its caller enters and leaves it, once, and no other one is entered."""
    stage = Stage()
    managers = Managers(stage)
    if is_healthy:
        with breaker(GROQ):
            pass

    async def main() -> Any:
        async with played(managers.read) as play:
            await stage.begins(GROQ)
            if winner is not None:
                clock.advance(2.0)
                await stage.begins(OPENAI)
            stage.says(winner or GROQ, "given")
            return await play.ends()

    with capture_events() as seen:
        assert [winner or GROQ, "!"] == run_async(main, backend=backend)
    key = winner or GROQ
    assert ["Manager", f"enter {key}", f"leave {key}"] == managers.said
    ended = [each for each in seen if isinstance(each, AttemptSucceeded | AttemptCancelled)]
    lost = [] if winner is None else [OPENAI if winner == GROQ else GROQ]
    assert [*lost, key] == [each.target for each in ended]


@on_both_loops
def test_a_manager_that_has_won_may_still_fail_when_it_is_entered(backend: str, clock: Any) -> None:
    """It is counted, and another target starts; those of the race are not asked again."""
    stage = Stage()
    managers = Managers(stage, chain=[*CHAIN, MISTRAL], max_attempts=5)
    managers.broken = {OPENAI}

    async def main() -> Any:
        async with played(managers.read) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, "given")
            await stage.begins(MISTRAL)
            stage.says(MISTRAL, "given")
            return await play.ends()

    assert [MISTRAL, "!"] == run_async(main, backend=backend)
    assert [GROQ, OPENAI, MISTRAL] == stage.asked
    assert 1 == health()[OPENAI].errors


@on_both_loops
def test_a_manager_is_given_where_no_hedge_could_start(backend: str, clock: Any) -> None:
    """Although its attempt was slow, and a hedge was refused."""
    stage = Stage()
    managers = Managers(stage, max_attempts=1)

    async def main() -> Any:
        async with played(managers.read) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            stage.says(GROQ, "given")
            return await play.ends()

    assert [GROQ, "!"] == run_async(main, backend=backend)
    assert ["Manager", f"enter {GROQ}", f"leave {GROQ}"] == managers.said


@on_both_loops
@pytest.mark.parametrize("is_raced", [False, True])
def test_a_manager_that_is_never_entered_is_neither_counted_nor_open(
    backend: str, is_raced: bool, clock: Any
) -> None:
    """As without a race: nothing of it is known, and its permit is given back."""
    stage = Stage()
    managers = Managers(stage)

    async def main() -> Any:
        async with played(managers.ask) as play:
            await stage.begins(GROQ)
            if is_raced:
                clock.advance(2.0)
                await stage.begins(OPENAI)
            stage.says(OPENAI if is_raced else GROQ, "given")
            await play.ends()
            play.result = None

    run_async(main, backend=backend)
    gc.collect()
    assert [] == managers.said
    no_lease_is_taken(*CHAIN, "groq", "openai")
    assert {0} == {each.total for each in health().values()} or not health()


@on_both_loops
def test_two_managers_at_once_are_one_answer(backend: str, clock: Any) -> None:
    """The older is given, and `reject` is asked about neither."""
    stage, asked = Stage(), list[Any]()
    managers = Managers(stage, reject=asked.append)

    async def main() -> Any:
        async with played(managers.read) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, "given")
            stage.says(GROQ, "given")
            return await play.ends()

    assert [GROQ, "!"] == run_async(main, backend=backend)
    assert ["Manager", f"enter {GROQ}", f"leave {GROQ}"] == managers.said
    assert [GROQ] == asked


# The context of a stream.

MARK = ContextVar("mark", default="nobody")
WATCHED = {
    "plain": {},
    "watched": {"stream": StreamPolicy(keep_text=1000)},
    "limited": {"stream": StreamPolicy(idle_timeout=50.0)},
}


class Bodies:
    """Streams whose bodies set a variable, look at it for each item, and reset it at their end."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.seen: list[Any] = []
        self.errors: list[BaseException] = []

    @contextmanager
    def marked(self, target: Target) -> Iterator[None]:
        token = MARK.set(target.key)
        try:
            yield
        finally:
            try:
                MARK.reset(token)
            except BaseException as error:
                self.errors.append(error)

    async def generates(self, target: Target) -> AsyncIterator[Any]:
        with self.marked(target):
            yield await self.stage.provide(target)
            for number in range(2):
                await anyio.lowlevel.checkpoint()
                self.seen.append(MARK.get())
                yield number

    async def gives_stream(self, target: Target) -> Any:
        return self.generates(target)

    async def gives_items(self, target: Target) -> Any:
        answer = await self.stage.provide(target)

        def items() -> Iterator[Any]:
            with self.marked(target):
                yield answer
                for number in range(2):
                    self.seen.append(MARK.get())
                    yield number

        return items()


@on_both_loops
@pytest.mark.parametrize("form", ["generates", "gives_stream", "gives_items"])
@pytest.mark.parametrize("winner", [GROQ, OPENAI])
@pytest.mark.parametrize("options", WATCHED.values(), ids=WATCHED)
@pytest.mark.parametrize("most", [2, 9])
def test_all_of_a_stream_is_made_in_the_context_in_which_it_began(
    backend: str, form: str, winner: str, options: dict[str, Any], most: int, clock: Any
) -> None:
    """To its end, or until its consumer closes it; the loser has set the same variable."""
    stage = Stage()
    bodies = Bodies(stage)
    ask = failover(chain=CHAIN, hedge=2.0, **options)(getattr(bodies, form))

    async def read() -> Any:
        stream = ask()
        if hasattr(type(stream), "__await__"):
            stream = await stream
        items: list[Any] = []
        if hasattr(type(stream), "__anext__"):
            async for item in stream:
                items.append(item)
                if len(items) == most:
                    break
            await stream.aclose()
        else:
            for item in stream:
                items.append(item)
                if len(items) == most:
                    break
            stream.close()
        return items

    async def main() -> Any:
        async with played(read) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(winner, "first")
            return await play.ends()

    assert ["first", 0, 1][:most] == run_async(main, backend=backend)
    assert [winner, winner][: most - 1] == bodies.seen
    assert [] == bodies.errors


@on_both_loops
def test_a_wait_for_an_item_in_the_context_of_a_hedge_is_cancelled_as_ever(
    backend: str, clock: Any
) -> None:
    """The body sees the cancellation, in its context, and ends before the consumer does."""
    stage, seen = Stage(), list[Any]()

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target) -> AsyncIterator[Any]:
        token = MARK.set(target.key)
        try:
            yield await stage.provide(target)
            await anyio.sleep_forever()
        finally:
            seen.append(MARK.get())
            MARK.reset(token)
            seen.append(MARK.get())

    async def main() -> Any:
        async with played(lambda: _read(ask)) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, "first")
            await settle()
            play.scope.cancel()
            await play.ends()
            return play.scope.cancelled_caught

    assert run_async(main, backend=backend)
    assert [OPENAI, "nobody"] == seen[-2:]
