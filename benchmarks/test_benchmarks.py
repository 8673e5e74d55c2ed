"""The healthy and the failing calls as pytest-benchmark measures them, ours beside others.

    pytest benchmarks/test_benchmarks.py --import-mode=prepend --benchmark-enable --benchmark-only

One group per piece of work; a library that is not installed is skipped. Without these
options each is called once, which shows that it works, and what guards is put to the proof.
No figure is compared with anything here: ratios are what `table.py` prints, and what must
not grow is held by `instructions.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("pytest_benchmark")

import healthy
import peers
import streams
from _timing import (
    EmptyManager,
    Function,
    answer,
    answer_async,
    empty,
    empty_async,
    empty_async_stream,
    empty_stream,
    statement_timer,
    words,
    words_async,
)
from peers import Block, Peer

from resilient_llm.testing import isolated

if TYPE_CHECKING:
    from collections.abc import Iterator

# Theirs to look after: hyx and aiobreaker ask for the time in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BASELINE = "an empty wrapper"


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Give every benchmark circuits of its own."""
    with isolated():
        yield


def form_of(name: str, form: str) -> Any:
    """Return a library's form of something; skip if it has none or is not installed."""
    found = getattr(installed(name), form)
    if found is None:
        pytest.skip(f"{name} has no such form")
    return found


def installed(name: str) -> Peer:
    try:
        return peers.PEERS[name]()
    except ImportError as error:
        pytest.skip(f"{name} is not installed: {error}")


every_library = pytest.mark.parametrize("name", [BASELINE, *peers.PEERS])
ours_too = pytest.mark.parametrize("name", [BASELINE, "target as first parameter", *peers.PEERS])


@contextlib.contextmanager
def hundred_calls(call: Function) -> Iterator[Function]:
    """Give what makes a hundred asynchronous calls within one loop."""

    async def hundred() -> None:
        for _ in range(100):
            await call("hi")

    with asyncio.Runner() as runner:
        yield lambda: runner.run(hundred())


@pytest.mark.parametrize("name", peers.PEERS)
def test_what_is_measured_guards(name: str) -> None:
    """A circuit opens and refuses, a retry makes its attempts, a fallback asks the next, a deadline ends a call."""
    peer = installed(name)

    found = peers.flaws(peer)

    assert found == []


@pytest.mark.benchmark(group="healthy call, sync")
@ours_too
def test_healthy_call(benchmark: Any, name: str) -> None:
    """A decorated function answers."""
    guards = {BASELINE: lambda: empty(answer), "target as first parameter": healthy.first}
    call = guards[name]() if name in guards else form_of(name, "sync")(answer)

    assert benchmark(call, "hi") == "hi"


@pytest.mark.benchmark(group="healthy call, async, times 100")
@ours_too
def test_healthy_async_call(benchmark: Any, name: str) -> None:
    """A decorated coroutine function answers."""
    guards = {
        BASELINE: lambda: empty_async(answer_async),
        "target as first parameter": healthy.first_async,
    }
    call = guards[name]() if name in guards else form_of(name, "asynchronous")(answer_async)

    with hundred_calls(call) as calls:
        benchmark(calls)


@pytest.mark.benchmark(group="with, times 100")
@every_library
def test_block(benchmark: Any, name: str) -> None:
    """A guarded block is entered and left."""
    nothing = Block("with managers['groq']:", {"managers": {"groq": EmptyManager()}})
    block = nothing if name == BASELINE else form_of(name, "block")()
    timer = statement_timer(block.around("pass"), block.names)

    benchmark(timer, 100)


@pytest.mark.benchmark(group="a stream, times 100 items")
@every_library
def test_stream(benchmark: Any, name: str) -> None:
    """The items of a generator function are read."""
    call = empty_stream(words) if name == BASELINE else form_of(name, "stream")(words)

    assert benchmark(lambda: list(call(100))) == ["word"] * 100


@pytest.mark.benchmark(group="an async stream, times 100 items")
@every_library
def test_async_stream(benchmark: Any, name: str) -> None:
    """The items of an asynchronous generator function are read."""
    call = (
        empty_async_stream(words_async)
        if name == BASELINE
        else form_of(name, "async_stream")(words_async)
    )

    async def read() -> list[str]:
        return [item async for item in call(100)]

    with asyncio.Runner() as runner:
        assert benchmark(lambda: runner.run(read())) == ["word"] * 100


@pytest.mark.parametrize("row", streams.rows() + streams.wholes(), ids=lambda row: row.what)
def test_streams_that_are_timed(row: streams.Row) -> None:
    """Whatever stream is timed comes to its end, with all its items."""
    assert row.baseline(20) > 0
    assert row.subject(20) > 0


@pytest.mark.parametrize("what", streams.streams_held())
def test_a_stream_keeps_nothing(what: str) -> None:
    """Ten thousand items need no more memory than a thousand."""
    call = streams.streams_held()[what]
    few = streams.peak_of_stream(call, 1_000)

    many = streams.peak_of_stream(call, 10_000)

    # 9,000 items of 100 characters more would be above a million bytes.
    assert many < few + 20_000


@pytest.mark.benchmark(group="one failure, then an answer")
@every_library
def test_retry(benchmark: Any, name: str) -> None:
    """The first attempt of every call fails, the second answers."""
    call = empty(answer) if name == BASELINE else form_of(name, "retry")(peers.every_other())

    assert benchmark(call, "hi") == "hi"


@pytest.mark.benchmark(group="one failure, then the next provider")
@every_library
def test_fallback(benchmark: Any, name: str) -> None:
    """The first provider fails, the second answers."""
    call = empty(answer) if name == BASELINE else form_of(name, "fallback")(peers.fail, answer)

    assert benchmark(call, "hi") == "hi"


@pytest.mark.benchmark(group="an open circuit skipped")
@every_library
def test_skip(benchmark: Any, name: str) -> None:
    """The circuit of the first provider is open, the second answers."""
    call = empty(answer) if name == BASELINE else form_of(name, "skip")(peers.fail, answer)

    assert benchmark(call, "hi") == "hi"
