"""Scripted streams: items as clients give them, providers that give them, objects of SDKs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import anyio.lowlevel

from resilient_llm import Target

# Items, as clients of OpenAI-like providers give them.


def chunk(delta: dict[str, Any], stop: str | None = None) -> dict[str, Any]:
    """Return an item of a stream of chat completions."""
    choice = {"index": 0, "delta": delta, "finish_reason": stop}
    return {"object": "chat.completion.chunk", "choices": [choice]}


def said(text: str) -> dict[str, Any]:
    """Return an item with text."""
    return chunk({"content": text})


def says(*texts: str) -> list[Any]:
    """Return all items of a whole answer."""
    return [ROLE, *(said(text) for text in texts), END]


ROLE = chunk({"role": "assistant", "content": ""})
SILENT = chunk({"content": ""})
END = chunk({}, "stop")


class Thing:
    """An item of an unknown class."""


PROBE_ENDS: dict[str, tuple[list[Any], int | None, str]] = {
    "a good end": (says("It", " is"), None, "closed"),
    "an interruption": ([ROLE, said("It"), TimeoutError], None, "open"),
    "no finish reason": ([ROLE, said("It")], None, "open"),
    "stopped after content": (says("It", " is"), 2, "closed"),
    "stopped before content": ([SILENT] * 100, 2, "half_open"),
    "a caller's bug": ([ROLE, said("It"), TypeError], None, "half_open"),
}
"""How the stream of a probe ends: its script, the items that are read, the circuit's state."""


# Providers.


class Quiet:
    """A step of a script in which the provider lets time pass.

    Args:
        clock: The test's clock.
        seconds: How long.
    """

    def __init__(self, clock: Any, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds


class Source:
    """One opened stream: plays steps, and knows whether it was closed.

    A step is an item, a function without arguments that returns the error to raise, or `Quiet`.
    """

    def __init__(self, target: Target, steps: list[Any]) -> None:
        self.target = target
        self.closed = False
        self.taken = 0
        self._steps = iter(steps)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while True:
            step = next(self._steps)
            if isinstance(step, Quiet):
                step.clock.advance(step.seconds)
                continue
            if callable(step):
                raise step()
            self.taken += 1
            return step

    def close(self) -> None:
        self.closed = True


class AsyncSource(Source):
    """The same for async code; others run before each item."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        await anyio.lowlevel.checkpoint()
        while True:
            step = next(self._steps, self)
            if step is self:
                raise StopAsyncIteration
            if isinstance(step, Quiet):
                step.clock.advance(step.seconds)
                await anyio.lowlevel.checkpoint()
                continue
            if callable(step):
                raise step()
            self.taken += 1
            return step

    async def aclose(self) -> None:
        self.closed = True
        await anyio.lowlevel.checkpoint()

    __iter__ = None  # type: ignore[assignment]  # in async code only
    __next__ = None  # type: ignore[assignment]
    close = None  # type: ignore[assignment]


class Supply:
    """Providers with a script per target: each call plays the next line, the last one is repeated.

    A line is a list of steps, or a function without arguments that returns what the call itself raises.

    Attributes:
        calls: Specs of the targets in the order they were called.
        opened: The streams that were opened.
    """

    def __init__(self, lines: dict[str, list[Any]]) -> None:
        self.calls: list[str] = []
        self.opened: list[Source] = []
        self._lines = {spec: list(outcomes) for spec, outcomes in lines.items()}

    def open(self, target: Target, kind: type[Source] = Source) -> Any:
        self.calls.append(target.spec)
        lines = self._lines[target.spec]
        line = lines.pop(0) if len(lines) > 1 else lines[0]
        if callable(line):
            raise line()
        self.opened.append(source := kind(target, line))
        return source

    def aopen(self, target: Target) -> Any:
        return self.open(target, AsyncSource)

    @property
    def left_open(self) -> list[str]:
        """Specs of the streams that nobody closed."""
        return [source.target.spec for source in self.opened if not source.closed]


# What SDKs give.


class SdkStream:
    """A stream object as most SDKs make it: its methods read from one iterator that it keeps."""

    def __init__(self, source: Source) -> None:
        self.response = SimpleNamespace(headers={"x-served-by": source.target.spec})
        self._source = source
        self._iterator = self._read()

    def _read(self) -> Iterator[Any]:
        yield from self._source

    def __next__(self) -> Any:
        return next(self._iterator)

    def __iter__(self) -> Iterator[Any]:
        yield from self._iterator

    def __enter__(self) -> SdkStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._source.close()

    def texts(self) -> list[str]:
        """Return the text of all items that are still to come."""
        return [item["choices"][0]["delta"].get("content", "") for item in self]


class AsyncSdkStream:
    """The same for async code."""

    def __init__(self, source: AsyncSource) -> None:
        self.response = SimpleNamespace(headers={"x-served-by": source.target.spec})
        self._source = source
        self._iterator = self._read()

    async def _read(self) -> AsyncIterator[Any]:
        async for item in self._source:
            yield item

    async def __anext__(self) -> Any:
        return await self._iterator.__anext__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for item in self._iterator:
            yield item

    async def __aenter__(self) -> AsyncSdkStream:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._source.aclose()

    async def texts(self) -> list[str]:
        return [item["choices"][0]["delta"].get("content", "") async for item in self]


class SdkManager:
    """A manager of a stream: entering it makes the call."""

    def __init__(self, open_it: Callable[[], Any]) -> None:
        self._open = open_it
        self._stream: Any = None

    def __enter__(self) -> Any:
        self._stream = SdkStream(self._open())
        return self._stream

    def __exit__(self, *error: object) -> None:
        if self._stream is not None:
            self._stream.close()


class AsyncSdkManager:
    """The same for async code."""

    def __init__(self, open_it: Callable[[], Any]) -> None:
        self._open = open_it
        self._stream: Any = None

    async def __aenter__(self) -> Any:
        await anyio.lowlevel.checkpoint()
        self._stream = AsyncSdkStream(self._open())
        return self._stream

    async def __aexit__(self, *error: object) -> None:
        if self._stream is not None:
            await self._stream.close()


# What tests look at.


def names(events: list[Any]) -> list[str]:
    """Return the names of events."""
    return [type(event).__name__ for event in events]
