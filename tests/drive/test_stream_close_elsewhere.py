"""Streams that another thread or task closes while they are read."""

from __future__ import annotations

import asyncio
import inspect
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from types import GeneratorType
from typing import Any

import httpx
import pytest
import trio

from resilient_llm import (
    AttemptFailed,
    AttemptSucceeded,
    CallFailed,
    StreamPolicy,
    failover,
    health,
)
from resilient_llm._runtime import watchdog
from resilient_llm.testing import capture_events
from tests.support.server import HungUpError, LoopbackServer, Request
from tests.support.ways import GROQ, OPENAI

ENDS_WITHIN = 3.0
"""Seconds within which a reader is at its end once its stream is closed."""
PATIENCE = 40.0

HEADERS = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"


class Stalling(LoopbackServer):
    """Sends a line or none, and then nothing until the client hangs up."""

    def __init__(self, first: bytes) -> None:
        super().__init__()
        self.first = first

    def answer(self, connection: socket.socket, request: Request) -> None:
        connection.sendall(self.first)
        while connection.recv(1024):
            pass
        raise HungUpError

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


AFTER = HEADERS + b"3\r\nIt\n\r\n"
BEFORE = HEADERS


class Reader(threading.Thread):
    """Reads a stream to its end in a thread of its own."""

    def __init__(self, stream: Any) -> None:
        super().__init__(daemon=True)
        self.stream = stream
        self.items: list[Any] = []
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            for item in self.stream:
                self.items.append(item)
        except BaseException as error:
            self.error = error


@pytest.mark.parametrize("first", [AFTER, BEFORE], ids=["after content", "before content"])
@pytest.mark.parametrize("policy", [None, StreamPolicy(idle_timeout=60.0, first_item_timeout=60.0)])
def test_a_generator_that_another_thread_closes_ends(
    first: bytes, policy: StreamPolicy | None
) -> None:
    """The read ends, no other attempt is made, and nobody is to blame."""
    with Stalling(first) as server:

        @failover([GROQ, OPENAI], stream=policy)
        def ask(*, target: Any = None) -> Iterator[str]:
            with httpx.stream("GET", server.url, timeout=60.0) as response:
                yield from response.iter_lines()

        stream: Any = ask()
        with capture_events(AttemptFailed, AttemptSucceeded, CallFailed) as events:
            reader = Reader(stream)
            assert server.hears(1)
            assert server.wait(lambda: server.open_answers == 1)
            while first is AFTER and not reader.items:
                time.sleep(0.001)  # the line comes over a real socket
            stream.close()
            reader.join(ENDS_WITHIN)

        assert not reader.is_alive()
        assert reader.error is None
        assert 1 == len(server.requests)
        assert (["It"] if first is AFTER else []) == reader.items
        assert [AttemptSucceeded] * (first is AFTER) == [type(event) for event in events]
        assert 0 == health()[GROQ].errors


def test_a_closed_stream_makes_no_further_attempt() -> None:
    """It is closed while its thread waits for the next attempt."""
    waits, closing = threading.Event(), threading.Event()
    attempts: list[str] = []

    @failover([GROQ, OPENAI], attempts=1)
    def ask(*, target: Any = None) -> Iterator[str]:
        attempts.append(target)
        waits.set()
        assert closing.wait(PATIENCE)
        raise ConnectionError
        yield ""

    stream: Any = ask()
    reader = Reader(stream)
    assert waits.wait(PATIENCE)
    closer = threading.Thread(target=stream.close)
    closer.start()
    while not watchdog._watchdog.closing:
        time.sleep(0.001)  # the other thread is on its way
    closing.set()
    closer.join(PATIENCE)
    reader.join(PATIENCE)

    assert not closer.is_alive()
    assert (1, [], None) == (len(attempts), reader.items, reader.error)
    assert {} == watchdog._watchdog.closing


def test_a_wait_that_cannot_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """``close`` says that the generator is executed, as Python does; what comes later is given."""
    monkeypatch.setattr(watchdog.end_read_inside, "__kwdefaults__", {"seconds": 0.01})
    waits, goes_on = threading.Event(), threading.Event()

    @failover(GROQ)
    def ask(*, target: Any = None) -> Iterator[str]:
        yield "It"
        waits.set()
        assert goes_on.wait(PATIENCE)
        yield " is"

    stream: Any = ask()
    reader = Reader(stream)
    assert waits.wait(PATIENCE)
    with pytest.raises(ValueError, match="already executing"):
        stream.close()
    goes_on.set()
    reader.join(PATIENCE)

    assert ["It", " is"] == reader.items
    assert 0 == health()[GROQ].errors


def test_a_signal_handler_cannot_close_what_its_thread_reads() -> None:
    """It interrupts the generator: Python's error, at once, and the stream goes on."""
    raised: list[BaseException] = []

    @failover(GROQ)
    def ask(*, target: Any = None) -> Iterator[str]:
        yield "It"
        signal.raise_signal(signal.SIGUSR1)
        yield " is"

    stream: Any = ask()

    def close(*_: Any) -> None:
        try:
            stream.close()
        except ValueError as error:
            raised.append(error)

    before = signal.signal(signal.SIGUSR1, close)
    try:
        assert ["It", " is"] == list(stream)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert 1 == len(raised)


def test_what_a_generator_function_gives_passes_for_a_generator() -> None:
    """It is one for `inspect` and for ``isinstance``, and has what generators have."""

    @failover(GROQ)
    def ask(*, target: Any = None) -> Iterator[str]:
        yield "It"
        yield " is"

    stream: Any = ask()

    assert issubclass(stream.__class__, GeneratorType)
    assert inspect.isgenerator(stream)
    assert inspect.GEN_CREATED == inspect.getgeneratorstate(stream)
    assert "It" == next(stream)
    send: Any = stream.send
    assert " is" == send(None)
    assert inspect.GEN_SUSPENDED == inspect.getgeneratorstate(stream)
    with pytest.raises(KeyError):
        stream.throw(KeyError())
    assert [] == list(stream)
    stream.close()


class Waiting:
    """An asynchronous source that gives some items, and then waits for longer than a test."""

    def __init__(self, *items: str) -> None:
        self.items = items
        self.waits = asyncio.Event()

    async def read(self) -> AsyncIterator[str]:
        for item in self.items:
            yield item
        self.waits.set()
        await asyncio.sleep(60.0)


@pytest.mark.parametrize("items", [("It",), ()], ids=["after content", "before content"])
@pytest.mark.parametrize("policy", [None, StreamPolicy(idle_timeout=60.0, first_item_timeout=60.0)])
@pytest.mark.parametrize("within", ["async for", "anext", "wait_for", "task group"])
def test_an_async_generator_that_another_task_closes_ends(
    items: tuple[str, ...], policy: StreamPolicy | None, within: str
) -> None:
    """Its reader comes to the end of the loop, not cancelled; no other attempt is made."""
    attempts: list[Any] = []

    async def main() -> None:
        source = Waiting(*items)

        @failover([GROQ, OPENAI], stream=policy)
        async def ask(*, target: Any = None) -> AsyncIterator[str]:
            attempts.append(target)
            async for item in source.read():
                yield item

        stream: Any = ask()

        async def read() -> list[str]:
            given: list[str] = []
            if within == "async for":
                return [item async for item in stream]
            while True:
                coming = anext(stream)
                if within == "wait_for":
                    coming = asyncio.wait_for(coming, 60.0)
                try:
                    given.append(await coming)
                except StopAsyncIteration:
                    return given

        if within == "task group":
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(read())
                await source.waits.wait()
                await stream.aclose()
        else:
            reader = asyncio.create_task(read())
            await source.waits.wait()
            await stream.aclose()
        given = await asyncio.wait_for(reader, ENDS_WITHIN)
        assert list(items) == given
        assert 0 == reader.cancelling()
        assert [] == [item async for item in stream]

    with capture_events(AttemptFailed, AttemptSucceeded, CallFailed) as events:
        asyncio.run(main())

    assert 1 == len(attempts)
    assert [AttemptSucceeded] * len(items) == [type(event) for event in events]
    assert 0 == health()[GROQ].errors


def test_a_cancellation_of_the_reader_is_not_swallowed() -> None:
    """The reader is cancelled by its own code in the moment in which another task closes."""

    async def main() -> None:
        source = Waiting("It")

        @failover(GROQ)
        async def ask(*, target: Any = None) -> AsyncIterator[str]:
            async for item in source.read():
                yield item

        stream: Any = ask()

        async def read() -> None:
            async for _ in stream:
                pass

        reader = asyncio.create_task(read())
        await source.waits.wait()
        closer = asyncio.create_task(stream.aclose())
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await closer

    asyncio.run(main())


def test_a_stream_that_closes_itself() -> None:
    """Code that the stream runs closes it: Python's error, and nothing is cancelled."""
    given: list[Any] = []

    async def main() -> None:
        @failover(GROQ)
        async def ask(*, target: Any = None) -> AsyncIterator[str]:
            yield "It"
            with pytest.raises(RuntimeError, match="already running"):
                await given[0].aclose()
            yield " is"

        given.append(ask())
        assert ["It", " is"] == [item async for item in given[0]]

    asyncio.run(main())


def test_trio_says_that_the_generator_runs() -> None:
    """A task of trio cannot be cancelled from outside its scopes: Python's error."""

    async def main() -> None:
        waits = trio.Event()

        @failover(GROQ)
        async def ask(*, target: Any = None) -> AsyncIterator[str]:
            yield "It"
            waits.set()
            await trio.sleep(60.0)

        stream: Any = ask()

        async def read() -> None:
            async for _ in stream:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await waits.wait()
            with pytest.raises(RuntimeError, match="already running"):
                await stream.aclose()
            nursery.cancel_scope.cancel()

    trio.run(main)
