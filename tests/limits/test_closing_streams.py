"""The place of a stream that is closed before its end: taken until its source is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from resilient_llm import Limit, StreamPolicy, Target, can_call, configure, failover
from tests.support.ways import GROQ


class Source:
    """A client's stream object, which notes whether another call would be allowed meanwhile."""

    def __init__(self) -> None:
        self.allowed_while_closing: list[bool] = []

    def close(self) -> None:
        self.allowed_while_closing.append(bool(can_call(GROQ)))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return "item"


@pytest.mark.parametrize("max_queued", [0, 2])
@pytest.mark.parametrize("kind", ["generator", "object"])
def test_a_stream_that_is_closed_early_keeps_its_place_until_then(
    kind: str, max_queued: int
) -> None:
    """Its connection is in use as long as the source runs its ``finally`` or ``close``."""
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=max_queued)})
    source = Source()

    @failover([GROQ])
    def generator(target: Target) -> Any:
        try:
            while True:
                yield "item"
        finally:
            source.close()

    @failover([GROQ], stream=StreamPolicy())
    def returned(target: Target) -> Any:
        return source

    stream: Any = generator() if kind == "generator" else returned()
    next(iter(stream))
    stream.close()

    assert source.allowed_while_closing
    assert not any(source.allowed_while_closing)
    assert can_call(GROQ)


@pytest.mark.filterwarnings("ignore:an asynchronous stream was dropped")
@pytest.mark.parametrize("way", ["aclose", "break", "cancel", "aclosing"])
@pytest.mark.parametrize("hedge", [None, 60.0])
def test_an_asynchronous_stream_keeps_its_place_until_it_is_closed(
    way: str, hedge: float | None
) -> None:
    """Also if a hedge could have run beside it: closing may wait for the provider."""
    configure(limits={"groq": Limit(max_concurrent=1)})

    async def main() -> tuple[bool, bool]:
        closing, go_on = asyncio.Event(), asyncio.Event()

        @failover([GROQ, "openai/m"], attempts=1, hedge=hedge)
        async def ask(target: Target) -> Any:
            try:
                while True:
                    yield "item"
                    await asyncio.sleep(0)
            finally:
                closing.set()
                await go_on.wait()

        begin: Any = ask

        async def read() -> None:
            if way == "aclosing":
                async with aclosing(begin()) as stream:
                    await anext(stream)
                return
            async for _ in begin():
                if way == "break":
                    break
                await asyncio.Event().wait()

        if way == "aclose":
            stream = begin()
            await anext(stream)
            task: asyncio.Future[None] = asyncio.ensure_future(stream.aclose())
        else:
            task = asyncio.ensure_future(read())
        if way == "cancel":
            for _ in range(5):
                await asyncio.sleep(0)
            task.cancel()
        await closing.wait()
        while_closing = bool(can_call(GROQ))
        go_on.set()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(20):
            await asyncio.sleep(0)
        return while_closing, bool(can_call(GROQ))

    assert (False, True) == asyncio.run(main())
