"""Streams race until one has given its first content; the others are closed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from resilient_llm import (
    AttemptCancelled,
    AttemptSucceeded,
    ConfigurationError,
    HedgeStarted,
    StreamCommitted,
    StreamPolicy,
    Target,
    failover,
    health,
)
from resilient_llm.testing import capture_events
from tests.support.hedges import Stage, played, settle
from tests.support.ways import GROQ, OPENAI, down, on_both_loops, run_async

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
