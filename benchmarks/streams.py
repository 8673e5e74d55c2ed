"""Print what an item of a stream costs, beside an empty generator measured in the same run.

    python benchmarks/streams.py            the rows
    python benchmarks/streams.py --quick    a smoke test of the same

Every row is a ratio to a generator that does nothing but give the items of the same source,
``for item in source: yield item``, so the source's own cost is in both. What is timed begins
after the first item, which is what the guard waits for. `table.py` prints the same rows,
those of other libraries, and what a stream keeps in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import tracemalloc
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from _timing import (
    FULL,
    QUICK,
    Function,
    Timer,
    async_stream_timer,
    compare,
    empty_async_stream,
    empty_stream,
    is_installed,
    stream_timer,
    whole_async_stream_timer,
    whole_stream_timer,
    with_own_code,
    words,
    words_async,
)

from resilient_llm import StreamPolicy, breaker, failover
from resilient_llm.testing import isolated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

CHAIN = ["groq/llama-3.3-70b", "openai/gpt-5-mini"]
LIMIT = 2.0
WHOLE = 200
"""Items of a stream that is timed as a whole: an answer of some 150 words."""
PATIENCE = 30.0
KEPT = 4096


# What is streamed, beside the generator functions of `_timing`.


class Counted:
    """An iterator of a class of its own, as simple clients have."""

    def __init__(self, number: int) -> None:
        self._left = number

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> str:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return "word"


class AsyncCounted:
    """The same for asynchronous code."""

    def __init__(self, number: int) -> None:
        self._left = number

    def __aiter__(self) -> AsyncCounted:
        return self

    async def __anext__(self) -> str:
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        return "word"


class SdkStream:
    """A stream as those of the SDKs are: all its methods read from one iterator that it holds."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterator:  # noqa: UP028  # as theirs
            yield item

    def __next__(self) -> Any:
        return next(self._iterator)

    def close(self) -> None:
        """Close what it has open: nothing."""


class AsyncSdkStream:
    """The same for asynchronous code."""

    def __init__(self, iterator: AsyncIterator[Any]) -> None:
        self._iterator = iterator

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for item in self._iterator:
            yield item

    async def __anext__(self) -> Any:
        return await anext(self._iterator)

    async def close(self) -> None:
        """Close what it has open: nothing."""


def counted() -> Function:
    """Return a function that gives an iterator whose class is its own: see `with_own_code`."""

    class Own(Counted):
        __next__ = with_own_code(Counted.__next__)

    def ask(number: int, *, model: str | None = None) -> Counted:
        return Own(number)

    return ask


def counted_async() -> Function:
    """Return the same for asynchronous code."""

    class Own(AsyncCounted):
        __anext__ = with_own_code(AsyncCounted.__anext__)

    async def ask(number: int, *, model: str | None = None) -> AsyncCounted:
        return Own(number)

    return ask


def sdk(number: int, *, model: str | None = None) -> SdkStream:
    return SdkStream(words(number))


async def sdk_async(number: int, *, model: str | None = None) -> AsyncSdkStream:
    return AsyncSdkStream(words_async(number))


def chunk(content: str | None, finish_reason: str | None) -> Any:
    """Return a chunk of openai's chat completions; of its own class if the package is here."""
    delta = {"content": content, "role": "assistant"}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }
    if is_installed("openai"):
        from openai.types.chat import ChatCompletionChunk

        return ChatCompletionChunk.model_validate(body)
    choices = [
        SimpleNamespace(index=0, delta=SimpleNamespace(**delta), finish_reason=finish_reason)
    ]
    return SimpleNamespace(**{**body, "choices": choices})


MIDDLE, LAST = chunk("word ", None), chunk(None, "stop")


def chunks(number: int, *, model: str | None = None) -> Iterator[Any]:
    """Stream chunks of openai's, the last of which says that it is."""
    for _ in range(number - 1):
        yield MIDDLE
    yield LAST


async def chunks_async(number: int, *, model: str | None = None) -> AsyncIterator[Any]:
    """Stream the same in asynchronous code."""
    for _ in range(number - 1):
        yield MIDDLE
    yield LAST


# How it is guarded.


def guarded(fn: Function, *, timeout: float | None = None, **policy: Any) -> Function:
    """Return a function decorated with default settings and so many options of its streams."""
    return failover(
        chain=CHAIN, timeout=timeout, stream=StreamPolicy(**policy) if policy else None
    )(fn)


def waited(fn: Function) -> Function:
    """Return what re-yields an asynchronous stream that must be awaited first."""

    async def wrapper(number: int) -> AsyncIterator[Any]:
        async for item in await fn(number):
            yield item

    return with_own_code(wrapper)


@dataclass(frozen=True)
class Row:
    """One piece of work and what it is compared with."""

    what: str
    baseline: Timer
    subject: Timer
    limit: float | None = None


def rows() -> list[Row]:
    """Return the pieces of work, those with a limit first."""
    yields, ayields = (
        stream_timer(empty_stream(words)),
        async_stream_timer(empty_async_stream(words_async)),
    )
    openai = stream_timer(empty_stream(chunks))
    found = [
        Row("generator function", yields, stream_timer(guarded(words)), LIMIT),
        Row(
            "function that returns an iterator",
            stream_timer(empty_stream(counted())),
            _of(counted()),
            LIMIT,
        ),
        Row(
            "function that returns an SDK's stream",
            stream_timer(empty_stream(sdk)),
            _of(sdk),
            LIMIT,
        ),
        Row("async generator function", ayields, async_stream_timer(guarded(words_async)), LIMIT),
        Row(
            "coroutine function that returns an async iterator",
            async_stream_timer(waited(counted_async())),
            async_stream_timer(guarded(counted_async())),
            LIMIT,
        ),
        Row(
            "coroutine function that returns an SDK's stream",
            async_stream_timer(waited(sdk_async)),
            async_stream_timer(guarded(sdk_async)),
            LIMIT,
        ),
    ]
    options: list[tuple[str, dict[str, Any]]] = [
        ("`idle_timeout`", {"idle_timeout": PATIENCE}),
        ("`keep_text`", {"keep_text": KEPT}),
        ("`failover(timeout=)`", {"timeout": PATIENCE}),
    ]
    for name, option in options:
        found += [
            Row(f"{name}, items of `str`", yields, stream_timer(guarded(words, **option))),
            Row(f"{name}, chunks of openai", openai, stream_timer(guarded(chunks, **option))),
            Row(
                f"{name}, async, items of `str`",
                in_turns(empty_async_stream(words_async)),
                in_turns(guarded(words_async, **option)),
            ),
            Row(
                f"{name}, async, chunks of openai",
                in_turns(empty_async_stream(chunks_async)),
                in_turns(guarded(chunks_async, **option)),
            ),
        ]
    return [*found, *breakers()]


def in_turns(call: Function) -> Timer:
    """Time asynchronous streams whose items have a limit."""
    return async_stream_timer(call, at_once=100)


def _of(fn: Function) -> Timer:
    return stream_timer(guarded(fn))


def breakers() -> list[Row]:
    """Return the same of a breaker alone."""
    yields, ayields = (
        stream_timer(empty_stream(words)),
        async_stream_timer(empty_async_stream(words_async)),
    )
    return [
        Row('`@breaker("groq")`, generator function', yields, stream_timer(breaker("groq")(words))),
        Row(
            '`@breaker("groq")`, async generator function',
            ayields,
            async_stream_timer(breaker("groq")(words_async)),
        ),
    ]


def wholes() -> list[Row]:
    """Return what opening and ending a stream costs, in whole streams."""
    yields, ayields = empty_stream(chunks), empty_async_stream(chunks_async)
    return [
        Row(
            f"generator function, {WHOLE} chunks",
            whole_stream_timer(yields, WHOLE),
            whole_stream_timer(guarded(chunks), WHOLE),
        ),
        Row(
            f"async generator function, {WHOLE} chunks",
            whole_async_stream_timer(ayields, WHOLE),
            whole_async_stream_timer(guarded(chunks_async), WHOLE),
        ),
    ]


# What it keeps.


def numbers(number: int, *, model: str | None = None) -> Iterator[str]:
    """Stream items that are objects of their own."""
    for index in range(number):
        yield f"{index:100}"


async def numbers_async(number: int, *, model: str | None = None) -> AsyncIterator[str]:
    """Stream the same in asynchronous code, letting the loop run as often as a connection would."""
    for index in range(number):
        if not index % 100:
            await asyncio.sleep(0)
        yield f"{index:100}"


def streams_held() -> dict[str, Function]:
    """Return ``{what: stream function}`` of all whose memory is measured, sync and async."""
    return {
        "an empty generator": empty_stream(numbers),
        "`@failover`": guarded(numbers),
        "`@failover`, `idle_timeout`": guarded(numbers, idle_timeout=PATIENCE),
        "`@failover`, `min_rate`": guarded(numbers, min_rate=0.001),
        f"`@failover`, `keep_text={KEPT}`": guarded(numbers, keep_text=KEPT),
        '`@breaker("groq")`': breaker("groq")(numbers),
        "an empty async generator": empty_async_stream(numbers_async),
        "`@failover`, async": guarded(numbers_async),
        "`@failover`, async, `idle_timeout`": guarded(numbers_async, idle_timeout=PATIENCE),
        f"`@failover`, async, `keep_text={KEPT}`": guarded(numbers_async, keep_text=KEPT),
    }


def peak_of_stream(call: Function, items: int) -> int:
    """Return the bytes that a stream has allocated at most between its 100th item and its end."""
    began = 0

    def note(index: int) -> None:
        nonlocal began
        if index == min(100, items // 2):
            began = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()

    async def read(stream: Any) -> None:
        index = 0
        async for _ in stream:
            index += 1
            note(index)

    tracemalloc.start()
    try:
        stream = call(items)
        if hasattr(stream, "__aiter__"):
            asyncio.run(read(stream))
        else:
            for index, _ in enumerate(stream):
                note(index)
        return tracemalloc.get_traced_memory()[1] - began
    finally:
        tracemalloc.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: figures mean little")
    effort = QUICK if parser.parse_args().quick else FULL
    print(f"CPython {platform.python_version()} on {platform.machine()}, {platform.system()}")
    print(f"{'work':52} {'ratio':>6} {'quartiles':>15} {'at most':>8} {'baseline':>10}")
    with isolated():
        for row in [*rows(), *wholes()]:
            ratio = compare(row.baseline, {row.what: row.subject}, effort)[row.what]
            print(
                f"{row.what:52} {ratio.median:6.2f} {ratio.low:7.2f}-{ratio.high:<7.2f} "
                f"{row.limit or '':>8} {ratio.baseline * 1e9:7.0f} ns"
            )


if __name__ == "__main__":
    main()
