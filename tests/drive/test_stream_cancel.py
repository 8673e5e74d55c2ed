"""Streams whose consumer is cancelled at any step, drops them, or closes them from elsewhere.

In each case everything that was opened is closed, no probe's lease is kept, no task runs on, and
every coroutine was awaited.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient_llm import (
    ResilientLLMError,
    StreamPolicy,
    Target,
    breaker,
    configure,
    failover,
    health,
)
from resilient_llm.testing import FakeClock
from tests.support import stepping
from tests.support.stepping import no_lease_is_taken
from tests.support.stream_forms import ASYNC_FORMS, Form
from tests.support.stream_sources import END, ROLE, SILENT, AsyncSource, Quiet, Supply, said, says
from tests.support.ways import GROQ, OPENAI, on_both_loops, over, run_async

STEPPED_FORMS = [
    form
    for form in ASYNC_FORMS
    if form.name.startswith(
        ("asyncgen", "coroutine-sdk", "plain-source", "async-manager", "asynccontextmanager")
    )
]


class DownError(ConnectionResetError):
    """What a provider that is down raises; charged to the provider."""


through_all_steps = functools.partial(stepping.through_all_steps, collects=True)


async def consume(form: Form, ask: Callable[..., Any], *, take: int | None = None) -> list[Any]:
    """Read a stream as a careful user does, who waits for something else between two items."""
    items: list[Any] = []
    async with contextlib.AsyncExitStack() as stack:
        stream = ask()
        if hasattr(type(stream), "__await__"):
            stream = await stream
        if form.manages:
            stream = await stack.enter_async_context(stream)
        else:
            closes = getattr(stream, "aclose", None) or stream.close
            stack.push_async_callback(closes)
        async for item in stream:
            items.append(item)
            await anyio.lowlevel.checkpoint()
            if len(items) == take:
                break
    return items


def _scripts(clock: FakeClock) -> dict[str, dict[str, Any]]:
    return {
        "a retry and the next": {
            "lines": {GROQ: [DownError, [ROLE, DownError]], OPENAI: [says("It")]},
            "attempts": 2,
        },
        "stops early": {"lines": {GROQ: [says("It", " is", " so")]}, "take": 2},
        "restarts": {
            "lines": {GROQ: [[ROLE, said("It"), DownError]], OPENAI: [says("is")]},
            "stream": StreamPolicy(on_interrupt="restart"),
        },
        "timed": {
            "lines": {
                GROQ: [
                    [
                        ROLE,
                        said("It"),
                        Quiet(clock, 1.0),
                        SILENT,
                        Quiet(clock, 1.0),
                        said("is"),
                        END,
                    ]
                ]
            },
            "stream": StreamPolicy(first_item_timeout=5.0, idle_timeout=5.0, keep_text=10),
            "timeout": 100.0,
        },
        "falls silent": {
            "lines": {GROQ: [[ROLE, said("It"), Quiet(clock, 9.0), said("no")]]},
            "stream": StreamPolicy(idle_timeout=5.0),
        },
        "is refused": {
            "lines": {GROQ: [says("no")], OPENAI: [says("It")]},
            "reject": lambda item: item == said("no"),
        },
    }


@over(STEPPED_FORMS)
@pytest.mark.parametrize(
    "script",
    ["a retry and the next", "stops early", "restarts", "timed", "falls silent", "is refused"],
)
def test_a_consumer_cancelled_at_any_step_leaves_nothing_open(form: Form, script: str) -> None:
    """Every opened stream is closed, the cancellation counts as no failure, and no task runs on."""

    def prepare(clock: FakeClock) -> SimpleNamespace:
        options = dict(_scripts(clock)[script])
        supply = Supply(options.pop("lines"))
        take = options.pop("take", None)
        return SimpleNamespace(
            supply=supply, take=take, ask=form.make(failover([GROQ, OPENAI], **options), supply)
        )

    async def consumes(state: Any) -> None:
        # An error that the provider raises after the cancellation is left as it is.
        with contextlib.suppress(ResilientLLMError, DownError):
            await consume(form, state.ask, take=state.take)

    def check(state: Any) -> None:
        assert [] == state.supply.left_open
        no_lease_is_taken(GROQ, OPENAI, "groq", "openai")
        if script in ("stops early", "timed"):
            assert [0, 0] == [health([GROQ, "groq"])[key].errors for key in (GROQ, "groq")]

    assert form.backend is not None
    assert 4 <= through_all_steps(form.backend, prepare, consumes, check)


@over(STEPPED_FORMS)
def test_a_probe_cancelled_at_any_step_gives_its_lease_back(form: Form) -> None:
    """The circuit is half-open, or closed by content that came; the next call is admitted."""

    def prepare(clock: FakeClock) -> SimpleNamespace:
        configure(breakers={"*": {"failures": 1, "cooldown": 10.0}})
        breaker(GROQ).record(TimeoutError(), 0.1)
        clock.advance(20.0)
        supply = Supply({GROQ: [says("It", " is")]})
        return SimpleNamespace(supply=supply, ask=form.make(failover([GROQ], attempts=1), supply))

    async def consumes(state: Any) -> None:
        await consume(form, state.ask)

    def check(state: Any) -> None:
        assert [] == state.supply.left_open
        no_lease_is_taken(GROQ, "groq")
        assert breaker(GROQ).state in ("closed", "half_open")
        with breaker(GROQ):  # it is let through
            pass

    assert form.backend is not None
    assert 4 <= through_all_steps(form.backend, prepare, consumes, check)


@over(STEPPED_FORMS)
def test_a_guarded_stream_cancelled_at_any_step(form: Form) -> None:
    """A function under a breaker is cancelled alike."""

    def prepare(clock: FakeClock) -> SimpleNamespace:
        configure(breakers={"*": {"failures": 1, "cooldown": 10.0}})
        breaker(GROQ).record(TimeoutError(), 0.1)
        clock.advance(20.0)
        supply = Supply({GROQ: [says("It", " is")]})
        guarded = form.make(breaker(GROQ), supply)
        return SimpleNamespace(supply=supply, ask=lambda: guarded(Target(GROQ)))

    async def consumes(state: Any) -> None:
        await consume(form, state.ask)

    def check(state: Any) -> None:
        assert [] == state.supply.left_open
        no_lease_is_taken(GROQ, "groq")
        with breaker(GROQ):  # it is let through
            pass

    assert form.backend is not None
    assert 4 <= through_all_steps(form.backend, prepare, consumes, check)


def test_a_stream_that_is_left_open_is_seen() -> None:
    """The check above notices a function that does not close what it opened."""

    def prepare(clock: FakeClock) -> SimpleNamespace:
        return SimpleNamespace(supply=Supply({GROQ: [says("It")]}))

    async def consumes(state: Any) -> None:
        async for _ in state.supply.aopen(Target(GROQ)):
            await anyio.lowlevel.checkpoint()

    def check(state: Any) -> None:
        assert [] == state.supply.left_open

    with pytest.raises(AssertionError):
        through_all_steps("asyncio", prepare, consumes, check)


# --- A cancellation in the middle --------------------------------------------------------------


@on_both_loops
def test_a_cancellation_leaves_unchanged_and_asks_nobody_else(backend: str) -> None:
    """A consumer cancelled in the middle of a stream gets a cancellation under any policy."""
    supply = Supply({GROQ: [[ROLE, said("It"), said("is"), END]], OPENAI: [says("no")]})
    ask = next(form for form in ASYNC_FORMS if form.name == f"coroutine-sdk-{backend}").make(
        failover([GROQ, OPENAI], stream=StreamPolicy(on_interrupt="restart")), supply
    )

    async def main() -> bool:
        with anyio.CancelScope() as scope:
            async with await ask() as stream:
                async for item in stream:
                    if item == said("It"):
                        scope.cancel()
        return scope.cancelled_caught

    assert run_async(main, backend=backend)
    assert [GROQ] == supply.calls
    assert [] == supply.left_open
    assert 0 == health([GROQ])[GROQ].errors


class Hanging(AsyncSource):
    """A stream that gives an item and then never another."""

    async def __anext__(self) -> Any:
        try:
            return await super().__anext__()
        except StopAsyncIteration:
            await anyio.sleep_forever()


@on_both_loops
@pytest.mark.parametrize(("silence", "errors"), [(1.0, 0), (60.0, 1)])
def test_a_consumer_who_gives_up_on_a_stream_that_hangs(
    backend: str, silence: float, errors: int, clock: FakeClock
) -> None:
    """A cancelled wait is a failure only if no item had come for as long as a hung call takes."""
    supply = Supply({GROQ: [[ROLE, said("It")]]})

    @failover([GROQ])
    async def ask(target: Target) -> Any:
        return supply.open(target, Hanging)

    async def main() -> None:
        stream = await ask()
        async with aclosing(stream):
            for _ in range(2):
                await anext(stream)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:

                    async def gives_up() -> None:
                        await anyio.lowlevel.checkpoint()
                        clock.advance(silence)
                        scope.cancel()

                    group.start_soon(gives_up)
                    await anext(stream)

    run_async(main, backend=backend)

    assert [] == supply.left_open
    assert errors == health([GROQ])[GROQ].errors


# --- Dropped -----------------------------------------------------------------------------------

DROPPED_FORMS = [form for form in ASYNC_FORMS if not form.manages]


@over(DROPPED_FORMS)
@pytest.mark.parametrize("items", [1, 2])
def test_an_async_stream_dropped_unclosed_warns_and_is_closed_soon(form: Form, items: int) -> None:
    """A ResourceWarning says so, and a task closes what was open as soon as one can run."""
    supply = Supply({GROQ: [says("It", " is", " so")]})
    ask = form.make(failover([GROQ]), supply)

    async def main() -> list[str]:
        stream = ask()
        if hasattr(type(stream), "__await__"):
            stream = await stream
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(items):
                await anext(stream)
            del stream
            gc.collect()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
        return [str(each.message) for each in caught if issubclass(each.category, ResourceWarning)]

    assert form.backend is not None
    said_of_it = run_async(main, backend=form.backend)

    assert len(said_of_it) >= 1
    assert "stream was dropped" in said_of_it[0]
    assert [] == supply.left_open


@over(
    [
        form
        for form in ASYNC_FORMS
        if form.name.startswith("plain-") and "coroutine" not in form.name
    ]
)
def test_an_async_stream_of_a_plain_function_dropped_unread(form: Form) -> None:
    """A stream that a plain function opened is closed even if no item was asked for."""
    supply = Supply({GROQ: [says("It")]})
    ask = form.make(failover([GROQ]), supply)

    async def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            stream = ask()
            assert [GROQ] == supply.calls
            del stream
            gc.collect()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()

    assert form.backend is not None
    run_async(main, backend=form.backend)

    if "source" in form.name:  # an async generator that never began has opened nothing
        assert [] == supply.left_open


@over([form for form in ASYNC_FORMS if form.name.startswith("plain-")])
def test_a_probe_of_a_stream_dropped_unread_gives_its_lease_back(
    form: Form, clock: FakeClock
) -> None:
    """A stream that is never read keeps a lease only as long as its object lives."""
    for _ in range(5):
        breaker(GROQ).record(TimeoutError(), 0.1)
    clock.advance(60.0)
    supply = Supply({GROQ: [says("It")]})
    ask = form.make(failover([GROQ]), supply)

    async def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            stream = ask()
            if hasattr(type(stream), "__await__"):
                stream = await stream
            del stream
            gc.collect()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            with breaker(GROQ):
                pass

    assert form.backend is not None
    run_async(main, backend=form.backend)


def test_a_sync_stream_dropped_is_closed_at_once() -> None:
    """In sync code dropping the last reference closes the stream."""
    from tests.support.stream_forms import SYNC_FORMS

    for form in SYNC_FORMS:
        if form.manages:
            continue
        supply = Supply({GROQ: [says("It", " is")]})
        stream = form.make(failover([GROQ]), supply)()
        next(iter(stream))
        del stream
        gc.collect()
        assert [] == supply.left_open, form.name


def test_a_manager_never_entered_gives_its_lease_back(clock: FakeClock) -> None:
    """A manager that is dropped without being entered keeps no probe's lease."""
    from tests.support.stream_forms import SYNC_FORMS

    for form in SYNC_FORMS:
        if not form.manages:
            continue
        for _ in range(5):
            breaker(GROQ).record(TimeoutError(), 0.1)
        clock.advance(600.0)
        manager = form.make(failover([GROQ]), Supply({GROQ: [says("It")]}))()
        del manager
        gc.collect()
        with breaker(GROQ):
            pass


# --- Threads -----------------------------------------------------------------------------------


class Blocking:
    """A stream whose reader waits on another thread until it is closed; then it ends, or raises."""

    def __init__(self, items: list[Any], error: type[Exception] | None) -> None:
        self.closed = threading.Event()
        self.waits = threading.Event()
        self._items = iter(items)
        self._error = error

    def __iter__(self) -> Blocking:
        return self

    def __next__(self) -> Any:
        for item in self._items:
            return item
        self.waits.set()
        assert self.closed.wait(10.0)
        if self._error is not None:
            raise self._error
        raise StopIteration

    def close(self) -> None:
        self.closed.set()


@pytest.mark.parametrize("guard", ["failover", "breaker"])
@pytest.mark.parametrize("error", [None, ConnectionResetError, ValueError])
def test_a_stream_closed_by_another_thread_ends(guard: str, error: type[Exception] | None) -> None:
    """``close()`` from another thread ends the wait of the reader, and counts as no failure."""
    source = Blocking([ROLE, said("It")], error)
    ended: list[BaseException | None] = []
    items: list[Any] = []

    if guard == "failover":

        @failover([GROQ])
        def ask(target: Target) -> Any:
            return source

        stream = ask()
    else:

        @breaker(GROQ)
        def guarded() -> Any:
            return source

        stream = guarded()

    def reads() -> None:
        try:
            items.extend(stream)
        except BaseException as caught:
            ended.append(caught)
        else:
            ended.append(None)

    reader = threading.Thread(target=reads)
    reader.start()
    assert source.waits.wait(10.0)
    stream.close()
    reader.join(10.0)

    assert not reader.is_alive()
    assert [ROLE, said("It")] == items
    assert 1 == len(ended)
    # As with the bare stream: its end, or its own error.
    assert ended[0] is None or type(ended[0]) is error
    assert 0 == health([GROQ])[GROQ].errors


def test_two_threads_that_read_one_stream_share_its_items() -> None:
    """Each item reaches one reader, unless Python raises that the generator is running already."""
    texts = [str(number) for number in range(2_000)]

    @failover([GROQ])
    def ask(target: Target) -> Iterator[str]:
        yield from texts

    stream = ask()
    lock = threading.Lock()
    got: list[str] = []

    def reads() -> None:
        while True:
            try:
                with lock:
                    got.append(next(stream))
            except StopIteration:
                return

    threads = [threading.Thread(target=reads) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)

    assert texts == got
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)


class Waiting:
    """A stream that waits in the middle until it is closed, and then raises."""

    def __init__(self) -> None:
        self._items = iter([ROLE, said("It")])
        self.closed = anyio.Event()

    def __aiter__(self) -> Waiting:
        return self

    async def __anext__(self) -> Any:
        for item in self._items:
            return item
        await self.closed.wait()
        raise ConnectionResetError

    async def close(self) -> None:
        self.closed.set()


@on_both_loops
@pytest.mark.parametrize("guard", ["failover", "breaker"])
def test_a_stream_closed_by_another_task_ends(backend: str, guard: str) -> None:
    """``close()`` from another task while one waits closes the connection; it is no failure."""

    async def ask(target: Target) -> Any:
        return Waiting()

    async def main() -> list[BaseException | None]:
        ended: list[BaseException | None] = []
        stream = await (
            failover([GROQ])(ask)() if guard == "failover" else breaker(GROQ)(ask)(Target(GROQ))
        )

        async def reads() -> None:
            try:
                async for _ in stream:
                    pass
                ended.append(None)
            except Exception as error:
                ended.append(error)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(reads)
                for _ in range(5):
                    await anyio.lowlevel.checkpoint()
                await stream.close()
        assert stream.closed.is_set()
        return ended

    (ended,) = run_async(main, backend=backend)

    assert ended is None or type(ended) is ConnectionResetError
    assert 0 == health([GROQ])[GROQ].errors
