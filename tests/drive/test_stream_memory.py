"""Streams keep nothing of the items that the consumer was given."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Iterator

import pytest

from resilient_llm import (
    StreamPolicy,
    Target,
    failover,
)
from tests.support.ways import GROQ, OPENAI


@pytest.mark.parametrize("stream", [None, StreamPolicy(keep_text=100)], ids=["plain", "keeps text"])
def test_memory_does_not_grow_with_the_items(stream: StreamPolicy | None) -> None:
    """A million items leave nothing behind."""
    number = 1_000_000 if stream is None else 100_000

    @failover([GROQ], stream=stream)
    def ask(target: Target) -> Iterator[str]:
        for each in range(number):
            yield str(each)

    items = ask()
    next(items)
    tracemalloc.start()
    try:
        for _ in zip(range(1_000), items, strict=False):
            pass
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        for _ in zip(range(number - 10_000), items, strict=False):
            pass
        tracemalloc.start()
        more = sum(1 for _ in zip(range(1_000), items, strict=False))
        after = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert 1_000 == more
    assert after - before < 50_000
    assert number - 1 - 1_000 - (number - 10_000) - 1_000 - 2 <= sum(1 for _ in items)


def test_objects_do_not_grow_with_the_items_of_an_async_stream() -> None:
    """A hundred thousand items leave no object behind, with limits of time as well."""
    counts: list[int] = []

    @failover([GROQ], stream=StreamPolicy(idle_timeout=60.0))
    async def ask(target: Target) -> AsyncIterator[str]:
        for each in range(30_000):
            if each % 50 == 0:
                await asyncio.sleep(0)  # the loop forgets timers that were cancelled when it runs
            yield str(each)

    async def main() -> None:
        number = 0
        async for _ in ask():
            number += 1
            if number in (1_000, 29_000):
                gc.collect()
                counts.append(len(gc.get_objects()))

    asyncio.run(main())

    assert abs(counts[1] - counts[0]) < 500


def _items_of(target: Target, closed: list[str]) -> Iterator[str]:
    if target.key == GROQ:
        raise ConnectionResetError
    try:
        yield from ("a", "b")
    finally:
        closed.append(target.key)


@pytest.mark.parametrize("is_generator", [False, True], ids=["returned", "generator"])
@pytest.mark.parametrize("attempts", [1, 2])
def test_a_dropped_stream_is_closed_at_once_though_an_attempt_failed_before_it(
    is_generator: bool, attempts: int, clock: object
) -> None:
    """The error of that attempt keeps no frame of the consumer alive, and so not the stream."""
    closed: list[str] = []

    def returned(target: Target) -> Iterator[str]:
        return _items_of(target, closed)

    def generator(target: Target) -> Iterator[str]:
        yield from _items_of(target, closed)

    ask = failover([GROQ, OPENAI], attempts=attempts)(generator if is_generator else returned)

    def read_some() -> None:
        stream = ask()
        assert "a" == next(stream)

    gc.disable()
    try:
        read_some()
    finally:
        gc.enable()

    assert [OPENAI] == closed
