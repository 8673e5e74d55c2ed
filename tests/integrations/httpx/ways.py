"""The ways in which the transports are used: both libraries, blocking, on asyncio and on trio.

A test is written once, as a coroutine function that is given an `Http`, and runs in each way. With
a blocking client none of its ``await`` ever waits, so the coroutine runs to its end in one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import trio

LIBRARIES = ("httpx", "httpx2")


@dataclass(frozen=True)
class Way:
    """One library, blocking or on one event loop.

    Attributes:
        library: ``"httpx"`` or ``"httpx2"``.
        loop: ``"asyncio"``, ``"trio"``, or None for the blocking client.
    """

    library: str
    loop: str | None

    def __str__(self) -> str:
        return f"{self.library}-{self.loop or 'sync'}"

    @property
    def is_async(self) -> bool:
        return self.loop is not None

    @property
    def lib(self) -> Any:
        """The library."""
        return import_module(self.library)

    @property
    def ours(self) -> Any:
        """The module of this package for it."""
        return import_module(f"resilient_llm.integrations.{self.library}")

    @property
    def breaker_transport(self) -> Any:
        return self.ours.AsyncBreakerTransport if self.is_async else self.ours.BreakerTransport

    def mock(self, handler: Callable[[Any], Any]) -> Any:
        """Return the library's own transport that answers by a function."""
        return self.lib.MockTransport(handler)

    def stream(self, *parts: bytes | BaseException | Callable[[], None]) -> Any:
        """Return a stream of a response that gives bytes, calls functions and raises errors."""
        return (_astream if self.is_async else _stream)(self.lib, parts)

    def run(self, test: Callable[[Http], Awaitable[None]]) -> None:
        """Run a test in this way."""
        http = Http(self)
        if self.loop == "asyncio":
            asyncio.run(_run(test, http))
        elif self.loop == "trio":
            trio.run(_run, test, http)
        else:
            in_one_step(_run(test, http))


async def _run(test: Callable[[Http], Awaitable[None]], http: Http) -> None:
    try:
        await test(http)
    finally:
        await http.close_clients()


def in_one_step(coroutine: Any) -> Any:
    """Run a coroutine that never waits, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a blocking client waited in a coroutine")


ASYNC_WAYS = [Way(library, loop) for library in LIBRARIES for loop in ("asyncio", "trio")]
WAYS = [Way(library, loop) for library in LIBRARIES for loop in (None, "asyncio", "trio")]


class Http:
    """The clients of one test, and what is done with them.

    Attributes:
        way: How the test runs.
        lib: The library.
    """

    def __init__(self, way: Way) -> None:
        self.way = way
        self.lib = way.lib
        self._clients: list[Any] = []

    def client(self, transport: Any = None, *, inner: Any = None, **options: Any) -> Any:
        """Return a client over a transport, or over a new one of ours with these options."""
        settings = {
            name: options.pop(name)
            for name in ("timeout", "follow_redirects", "mounts", "event_hooks")
            if name in options
        }
        if transport is None:
            transport = self.way.breaker_transport(inner, **options)
        cls = self.lib.AsyncClient if self.way.is_async else self.lib.Client
        client = cls(transport=transport, **{"timeout": 10.0, **settings})
        self._clients.append(client)
        return client

    async def close_clients(self) -> None:
        for client in self._clients:
            await self.close_client(client)

    async def close_client(self, client: Any) -> None:
        await self._done(client.aclose() if self.way.is_async else client.close())

    async def get(self, client: Any, url: str, **options: Any) -> Any:
        """Send a request and read the answer."""
        return await self._done(client.get(url, **options))

    async def open(self, client: Any, url: str, **options: Any) -> Any:
        """Send a request and leave the body unread."""
        request = client.build_request("GET", url, **options)
        return await self._done(client.send(request, stream=True))

    async def read(self, response: Any) -> bytes:
        return await self._done(response.aread() if self.way.is_async else response.read())

    async def chunks(self, response: Any) -> AsyncIterator[bytes]:
        """Yield the body as it comes."""
        if self.way.is_async:
            async for chunk in response.aiter_bytes():
                yield chunk
        else:
            for chunk in response.iter_bytes():
                yield chunk

    async def raw_parts(self, response: Any) -> AsyncIterator[bytes]:
        """Yield the body as it was sent, not decoded."""
        if self.way.is_async:
            async for part in response.aiter_raw():
                yield part
        else:
            for part in response.iter_raw():
                yield part

    async def close(self, response: Any) -> None:
        await self._done(response.aclose() if self.way.is_async else response.close())

    async def _done(self, result: Any) -> Any:
        return await result if self.way.is_async else result


def _stream(lib: Any, parts: Any) -> Any:
    class Stream(lib.SyncByteStream):
        is_closed = False

        def __iter__(self) -> Any:
            for part in parts:
                if isinstance(part, BaseException):
                    raise part
                if callable(part):
                    part()
                else:
                    yield part

        def close(self) -> None:
            self.is_closed = True

    return Stream()


def _astream(lib: Any, parts: Any) -> Any:
    class Stream(lib.AsyncByteStream):
        is_closed = False

        async def __aiter__(self) -> Any:
            for part in parts:
                if isinstance(part, BaseException):
                    raise part
                if callable(part):
                    part()
                else:
                    yield part

        async def aclose(self) -> None:
            self.is_closed = True

    return Stream()
