"""Streams that the caller's code ends before its source: whole, unless the source was cut short."""

from __future__ import annotations

import asyncio
import queue
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, closing
from itertools import chain, islice, takewhile, tee
from typing import Any

import pytest

from resilient_llm import StreamInterruptedError, breaker, failover, health
from resilient_llm.testing import fake_stream
from tests.support.stream_sources import ROLE, said
from tests.support.ways import GROQ

ITEMS = [ROLE, *(said(word) for word in "abcdefgh")]
"""Nine items of a stream without its end."""
ENOUGH = 5


class Counted:
    """An iterator that shows nothing of where it is."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.number = items, 0

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> Any:
        if self.number == len(self.items):
            raise StopIteration
        self.number += 1
        return self.items[self.number - 1]


class Kept:
    """An iterator that keeps the one from which it reads."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = iter(items)

    def __iter__(self) -> Kept:
        return self

    def __next__(self) -> Any:
        return next(self.items)


class InSlot:
    """The same with a slot."""

    __slots__ = ("items",)

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = iter(items)

    def __iter__(self) -> InSlot:
        return self

    def __next__(self) -> Any:
        return next(self.items)


class Stream(Kept):
    """A stream object of an SDK, which keeps its iterator in a known attribute."""

    def __init__(self, items: Iterable[Any]) -> None:
        super().__init__(items)
        self._iterator = iter(items)

    def __next__(self) -> Any:
        return next(self._iterator)

    def close(self) -> None:
        pass


class Restarting:
    """An iterable whose iterator is a generator."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        yield from self.items


def _made(items: Iterable[Any]) -> Iterator[Any]:
    yield from items


def _queued(items: list[Any]) -> Iterator[Any]:
    waiting: queue.Queue[Any] = queue.Queue()
    for item in (*items, None):
        waiting.put(item)
    return iter(waiting.get, None)


def _same(item: Any) -> Any:
    return item


CONTAINERS: dict[str, Callable[[list[Any]], Iterable[Any]]] = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "values": lambda items: dict(enumerate(items)).values(),
    "map": lambda items: map(_same, items),
    "chain": lambda items: chain(items[:2], items[2:]),
    "queue": _queued,
    "counted": Counted,
    "map of counted": lambda items: map(_same, Counted(items)),
}
"""Sources that cannot be cut short, or do not show it."""

SOURCES: dict[str, Callable[[list[Any]], Iterable[Any]]] = {
    "generator": _made,
    "map": lambda items: map(_same, _made(items)),
    "zip": lambda items: (item for item, _ in zip(_made(items), range(99), strict=False)),
    "tee": lambda items: tee(_made(items))[0],
    "islice": lambda items: islice(_made(items), 99),
    "takewhile": lambda items: takewhile(bool, _made(items)),
    "restarting": Restarting,
    "kept": Kept,
    "kept generator": lambda items: Kept(_made(items)),
    "kept twice": lambda items: Kept(map(_same, Kept(items))),
    "slot": InSlot,
    "stream": Stream,
    "stream with a generator": lambda items: Stream(_made(items)),
    "fake_stream": lambda items: fake_stream(*items),
}
"""Sources that show whether they are at their end."""


def _outcome(read: Callable[[], list[Any]]) -> tuple[int, int]:
    """Return the number of items, and of errors that were counted."""
    try:
        given = len(read())
    except StreamInterruptedError as error:
        given = error.items_sent
    return given, health()[GROQ].errors


def _guards() -> list[Any]:
    return [failover(GROQ, attempts=1), breaker(GROQ)]


@pytest.mark.parametrize("guard", _guards(), ids=["failover", "breaker"])
@pytest.mark.parametrize("source", [*CONTAINERS, *SOURCES])
@pytest.mark.parametrize("most", [ENOUGH, len(ITEMS)], ids=["early", "at the last item"])
def test_a_generator_that_has_enough_has_ended(guard: Any, source: str, most: int) -> None:
    """Wherever its items come from: it returns, and nothing says that the source was cut short."""
    make = {**CONTAINERS, **SOURCES}[source]

    @guard
    def ask(*, target: Any = None) -> Iterator[Any]:
        for number, item in enumerate(make(ITEMS), 1):
            yield item
            if number == most:
                return

    assert (most, 0) == _outcome(lambda: list(ask()))


@pytest.mark.parametrize("guard", _guards(), ids=["failover", "breaker"])
@pytest.mark.parametrize("source", SOURCES)
def test_a_source_that_is_cut_short_is_an_interruption(guard: Any, source: str) -> None:
    """The generator reads it to its end, which is none of its protocol."""

    @guard
    def ask(*, target: Any = None) -> Iterator[Any]:
        yield from SOURCES[source](ITEMS)

    assert (len(ITEMS), 1) == _outcome(lambda: list(ask()))


@pytest.mark.parametrize("guard", _guards(), ids=["failover", "breaker"])
@pytest.mark.parametrize("source", CONTAINERS)
def test_a_generator_that_makes_its_items_has_ended(guard: Any, source: str) -> None:
    """A list of its own cannot be cut short, and of a queue nobody knows."""

    @guard
    def ask(*, target: Any = None) -> Iterator[Any]:
        yield from CONTAINERS[source](ITEMS)

    assert (len(ITEMS), 0) == _outcome(lambda: list(ask()))


@pytest.mark.parametrize("guard", _guards(), ids=["failover", "breaker"])
def test_a_source_that_the_generator_closes_is_not_cut_short(guard: Any) -> None:
    """It has enough, and leaves a ``with`` around its source."""

    @guard
    def ask(*, target: Any = None) -> Iterator[Any]:
        made: Any = _made(ITEMS)
        with closing(made):
            for number, item in enumerate(made, 1):
                yield item
                if number == ENOUGH:
                    return

    assert (ENOUGH, 0) == _outcome(lambda: list(ask()))


def _until_e(item: Any) -> bool:
    return item["choices"][0]["delta"].get("content") != "e"


STOPPING: dict[str, Callable[[Iterator[Any]], Iterator[Any]]] = {
    "islice": lambda source: islice(source, ENOUGH),
    "takewhile": lambda source: takewhile(_until_e, source),
    "map of islice": lambda source: map(_same, islice(source, ENOUGH)),
    "zip": lambda source: (item for item, _ in zip(source, range(ENOUGH), strict=False)),
    "generator": lambda source: (item for item in islice(source, ENOUGH)),
}


@pytest.mark.parametrize("guard", _guards(), ids=["failover", "breaker"])
@pytest.mark.parametrize("stopping", STOPPING)
@pytest.mark.parametrize("source", SOURCES)
def test_a_returned_iterator_that_stops_has_ended(guard: Any, stopping: str, source: str) -> None:
    """A function returns part of a stream, and the rest of it is not missing."""

    @guard
    def ask(*, target: Any = None) -> Iterator[Any]:
        return STOPPING[stopping](iter(SOURCES[source](ITEMS)))

    assert (ENOUGH, 0) == _outcome(lambda: list(ask()))


@pytest.mark.parametrize("guard", _guards(), ids=["failover", "breaker"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("stopping", ["islice", "takewhile", "map"])
def test_a_returned_iterator_over_a_source_that_is_cut_short(
    guard: Any, stopping: str, source: str
) -> None:
    """It would have gone on: the source has not come to the end of its protocol."""
    stops: dict[str, Callable[[Any], Iterator[Any]]] = {
        "islice": lambda items: islice(items, 99),
        "takewhile": lambda items: takewhile(bool, items),
        "map": lambda items: map(_same, items),
    }

    @guard
    def ask(*, target: Any = None) -> Iterator[Any]:
        return stops[stopping](iter(SOURCES[source](ITEMS)))

    assert (len(ITEMS), 1) == _outcome(lambda: list(ask()))


class AsyncCounted(Counted):
    """The same for ``async for``."""

    def __aiter__(self) -> AsyncCounted:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self)
        except StopIteration:
            raise StopAsyncIteration from None


class AsyncKept:
    """An asynchronous iterator that keeps the one from which it reads."""

    def __init__(self, items: list[Any]) -> None:
        self.items = _amade(items)

    def __aiter__(self) -> AsyncKept:
        return self

    async def __anext__(self) -> Any:
        return await anext(self.items)


async def _amade(items: list[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


ASYNC_SOURCES: dict[str, Callable[[list[Any]], Any]] = {
    "counted": AsyncCounted,
    "generator": _amade,
    "kept": AsyncKept,
    "fake_stream": lambda items: fake_stream(*items),
}


@pytest.mark.parametrize("guard", _guards(), ids=["failover", "breaker"])
@pytest.mark.parametrize("source", ASYNC_SOURCES)
@pytest.mark.parametrize("most", [ENOUGH, 99], ids=["enough", "cut short"])
def test_the_same_for_asynchronous_generators(guard: Any, source: str, most: int) -> None:
    """One that has enough has ended; a source that shows it was cut short is an interruption."""

    @guard
    async def ask(*, target: Any = None) -> AsyncIterator[Any]:
        number = 0
        async for item in ASYNC_SOURCES[source](ITEMS):
            yield item
            number += 1
            if number == most:
                return

    async def read() -> list[Any]:
        return [item async for item in ask()]

    is_cut_short = most > len(ITEMS) and source != "counted"
    assert (min(most, len(ITEMS)), is_cut_short) == _outcome(lambda: asyncio.run(read()))


@pytest.mark.parametrize("guard", _guards(), ids=["failover", "breaker"])
def test_an_asynchronous_source_that_the_generator_closes(guard: Any) -> None:
    """It has enough, and leaves an ``aclosing`` around its source."""

    @guard
    async def ask(*, target: Any = None) -> AsyncIterator[Any]:
        made: Any = _amade(ITEMS)
        async with aclosing(made):
            number = 0
            async for item in made:
                yield item
                number += 1
                if number == ENOUGH:
                    return

    async def read() -> list[Any]:
        return [item async for item in ask()]

    assert (ENOUGH, 0) == _outcome(lambda: asyncio.run(read()))
