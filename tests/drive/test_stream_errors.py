"""What leaves a stream: tracebacks without frames of the library, one closing, one event."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from resilient_llm import (
    AttemptFailed,
    AttemptSucceeded,
    ChainExhaustedError,
    StreamInterruptedError,
    Target,
    breaker,
    failover,
    health,
)
from resilient_llm.testing import capture_events
from tests.support.stream_sources import END, ROLE, said
from tests.support.ways import GROQ, OPENAI

POLICY = failover([GROQ, OPENAI], attempts=1)


class Source:
    """An iterator for both kinds of loop, which counts how often it is closed."""

    def __init__(self, *items: Any, then: Exception | None = None) -> None:
        self.items = iter(items)
        self.then = then
        self.closed = 0

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Any:
        for item in self.items:
            return item
        if self.then is not None:
            raise self.then
        raise StopIteration

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self)
        except StopIteration:
            raise StopAsyncIteration from None

    def close(self) -> None:
        self.closed += 1


def _items(target: Target, *items: Any) -> Iterator[Any]:
    yield from items
    raise ConnectionError


async def _aitems(target: Target, *items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item
    raise ConnectionError


def _source(target: Target, *items: Any) -> Source:
    return Source(*items, then=ConnectionError())


async def _asource(target: Target, *items: Any) -> Source:
    return Source(*items, then=ConnectionError())


async def _read(stream: Any) -> list[Any]:
    if asyncio.iscoroutine(stream):
        stream = await stream
    return [item async for item in stream]


FORMS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "generator function": (_items, list),
    "by next": (_items, lambda stream: [next(stream) for _ in range(9)]),
    "iterator": (_source, list),
    "async generator function": (_aitems, lambda stream: asyncio.run(_read(stream))),
    "async iterator": (_asource, lambda stream: asyncio.run(_read(stream))),
}


def _inside(error: BaseException) -> list[str]:
    """Return the frames of a traceback that are the library's own inside."""
    inner = [f"{os.sep}{name}{os.sep}" for name in ("_core", "_drive", "_runtime")]
    return [
        frame.name
        for frame in traceback.extract_tb(error.__traceback__)
        if any(name in frame.filename for name in inner)
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("called", ["decorated", "by policy.call"])
@pytest.mark.parametrize("items", [(), (said("It"),)], ids=["before content", "after content"])
def test_errors_of_streams_have_no_frames_of_the_inside(
    form: str, called: str, items: tuple[Any, ...]
) -> None:
    """Nor have the errors that they were raised from, and those in their group."""
    fn, read = FORMS[form]
    expected = StreamInterruptedError if items else ChainExhaustedError

    with pytest.raises(expected) as caught:
        read(POLICY(fn)(*items) if called == "decorated" else POLICY.call(fn, *items))

    cause = caught.value.__cause__
    assert isinstance(cause, ConnectionError)
    members = getattr(caught.value, "exceptions", ())
    assert [[]] * (2 + len(members)) == [_inside(each) for each in (caught.value, cause, *members)]


@pytest.mark.parametrize("form", ["generator function", "async generator function"])
def test_an_error_of_the_callers_own_keeps_its_frames(form: str) -> None:
    """One that leaves as it is shows where it was raised."""
    is_async = form.startswith("async")

    @failover(GROQ)
    def ask(*, target: Any = None) -> Iterator[Any]:
        yield said("It")
        raise KeyError

    @failover(GROQ)
    async def aask(*, target: Any = None) -> AsyncIterator[Any]:
        yield said("It")
        raise KeyError

    with pytest.raises(KeyError) as caught:
        asyncio.run(_read(aask())) if is_async else list(ask())

    assert [] == _inside(caught.value)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert ("aask" if is_async else "ask") == frames[-1].name


@pytest.mark.parametrize("guard", [failover(GROQ), breaker(GROQ)], ids=["failover", "breaker"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_an_iterator_is_closed_once(guard: Any, is_async: bool) -> None:
    """It is its own iterator, and is read to its end."""
    source = Source(ROLE, said("It"), END)

    @guard
    def ask(*, target: Any = None) -> Any:
        return source

    @guard
    async def aask(*, target: Any = None) -> Any:
        return source

    items = asyncio.run(_read(aask())) if is_async else list(ask())

    assert [ROLE, said("It"), END] == items
    assert 1 == source.closed


@pytest.mark.parametrize("ends", ["cancelled", "left", "closed"])
def test_a_stream_that_is_left_after_content_emits_a_success(ends: str) -> None:
    """It has answered: one event of the attempt, and one success in its health."""

    @failover(GROQ)
    async def ask(*, target: Any = None) -> AsyncIterator[Any]:
        yield said("It")
        await asyncio.sleep(60.0)

    async def main() -> None:
        stream: Any = ask()

        async def read() -> None:
            async for _ in stream:
                if ends == "left":
                    break
                begun.set()
            if ends != "cancelled":
                await stream.aclose()

        begun = asyncio.Event()
        reader = asyncio.create_task(read())
        if ends != "left":
            await begun.wait()
        if ends == "cancelled":
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
        elif ends == "closed":
            await stream.aclose()
        await asyncio.wait([reader])

    with capture_events(AttemptSucceeded, AttemptFailed) as events:
        asyncio.run(main())

    assert [AttemptSucceeded] == [type(event) for event in events]
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)
