"""Streams that are cancelled at every step, dropped unclosed, or closed by somebody else.

A step is what lies between two moments at which a coroutine lets others run. `through_all_steps`
runs a consumer once for each step there is and cancels it there: whatever was opened must be
closed then, no place of a probe taken, nothing running, and nothing never awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import threading
import tracemalloc
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from resilient_llm import (
    ResilientLLMError,
    StreamPolicy,
    Target,
    breaker,
    configure,
    failover,
    health,
    testing,
)
from resilient_llm._core.permit import held_places
from resilient_llm._runtime import runtime
from resilient_llm.testing import FakeClock
from tests.support.drivers import on, on_both_loops
from tests.support.stream_forms import (
    ASYNC_FORMS,
    END,
    ROLE,
    SILENT,
    A,
    AsyncSource,
    B,
    Form,
    Quiet,
    Supply,
    over,
    said,
    says,
)

STEPPED_FORMS = [
    form
    for form in ASYNC_FORMS
    if form.name.startswith(
        ("asyncgen", "coroutine-sdk", "plain-source", "async-manager", "asynccontextmanager")
    )
]


@pytest.fixture(autouse=True)
def _no_place_is_held() -> None:
    """Start without a place that a test before, which failed, may have left in this thread."""
    held_places.set(())


class DownError(ConnectionResetError):
    """What a provider that is down raises; charged to the provider."""


# One consumer, cancelled at its n-th step.


class _Stepped:
    """Awaits a coroutine and calls a function when it lets others run for the n-th time."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], n: int, at_n: Callable[[], object]
    ) -> None:
        self._waits = coroutine.__await__()
        self._n = n
        self._at_n = at_n
        self.steps = 0

    def __await__(self) -> Iterator[Any]:
        give: Callable[[], Any] = functools.partial(self._waits.send, None)
        while True:
            try:
                wanted = give()
            except StopIteration as done:
                return done.value
            if self.steps == self._n:
                self._at_n()
            self.steps += 1
            try:
                sent = yield wanted
            except BaseException as error:
                give = functools.partial(self._waits.throw, error)
            else:
                give = functools.partial(self._waits.send, sent)


async def cancelled_at(n: int, call: Callable[[], Coroutine[Any, Any, Any]], backend: str) -> bool:
    """Run a coroutine and cancel it at its n-th step; return whether it came that far."""
    if backend == "trio":
        with trio.CancelScope() as scope:
            stepped = _Stepped(call(), n, scope.cancel)
            await stepped  # type: ignore[misc]  # it has __await__
        return stepped.steps > n
    task: asyncio.Task[bool] | None = None

    async def run() -> bool:
        assert task is not None
        stepped = _Stepped(call(), n, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await stepped  # type: ignore[misc]  # it has __await__
        return stepped.steps > n

    task = asyncio.ensure_future(run())
    return await task


def through_all_steps(
    backend: str,
    prepare: Callable[[FakeClock], Any],
    consume: Callable[[Any], Coroutine[Any, Any, Any]],
    check: Callable[[Any], None],
) -> int:
    """Cancel a consumer at each of its steps in turn, each time in a fresh state; return how many there are."""

    async def once(n: int, clock: FakeClock) -> bool:
        state = prepare(clock)
        came = await cancelled_at(n, lambda: consume(state), backend)
        gc.collect()
        await anyio.lowlevel.checkpoint()
        assert () == held_places.get(), f"a place is held after step {n}"
        assert _tasks(backend) == [], f"something runs after step {n}"
        try:
            check(state)
        except AssertionError as error:
            error.add_note(f"cancelled at step {n}")
            raise
        return came

    n = 0
    while True:
        with testing.isolated(), testing.fake_clock() as clock:
            configure(logging=False)
            came = on(backend, functools.partial(once, n, clock))
        if not came:
            return n
        n += 1


def _tasks(backend: str) -> list[Any]:
    if backend == "asyncio":
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    return [
        each
        for nursery in trio.lowlevel.current_task().child_nurseries
        for each in nursery.child_tasks
    ]


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


def _no_place_is_taken(*keys: str) -> None:
    for key in keys:
        circuit = runtime.registry.find(key)
        if circuit is None:
            continue
        layers = circuit._layers
        assert layers.half is None or [] == layers.half.places
        assert all(
            layer is None or layer.last_resort is None for layer in (layers.opened, layers.pause)
        )


def _scripts(clock: FakeClock) -> dict[str, dict[str, Any]]:
    return {
        "a retry and the next": {
            "lines": {A: [DownError, [ROLE, DownError]], B: [says("It")]},
            "attempts": 2,
        },
        "stops early": {"lines": {A: [says("It", " is", " so")]}, "take": 2},
        "restarts": {
            "lines": {A: [[ROLE, said("It"), DownError]], B: [says("is")]},
            "stream": StreamPolicy(on_interrupt="restart"),
        },
        "timed": {
            "lines": {
                A: [
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
            "lines": {A: [[ROLE, said("It"), Quiet(clock, 9.0), said("no")]]},
            "stream": StreamPolicy(idle_timeout=5.0),
        },
        "is refused": {
            "lines": {A: [says("no")], B: [says("It")]},
            "reject": lambda item: item == said("no"),
        },
    }


@over(STEPPED_FORMS)
@pytest.mark.parametrize(
    "script",
    ["a retry and the next", "stops early", "restarts", "timed", "falls silent", "is refused"],
)
def test_a_consumer_cancelled_at_any_step_leaves_nothing_open(form: Form, script: str) -> None:
    """Every stream that was opened is closed, nobody is charged for the cancellation, and nothing runs on."""

    def prepare(clock: FakeClock) -> SimpleNamespace:
        options = dict(_scripts(clock)[script])
        supply = Supply(options.pop("lines"))
        take = options.pop("take", None)
        return SimpleNamespace(
            supply=supply, take=take, ask=form.make(failover([A, B], **options), supply)
        )

    async def consumes(state: Any) -> None:
        with contextlib.suppress(ResilientLLMError):
            await consume(form, state.ask, take=state.take)

    def check(state: Any) -> None:
        assert [] == state.supply.left_open
        _no_place_is_taken(A, B, "groq", "openai")
        if script in ("stops early", "timed"):
            assert [0, 0] == [health([A, "groq"])[key].errors for key in (A, "groq")]

    assert form.backend is not None
    assert 4 <= through_all_steps(form.backend, prepare, consumes, check)


@over(STEPPED_FORMS)
def test_a_probe_cancelled_at_any_step_gives_its_place_back(form: Form) -> None:
    """The circuit is half-open, or closed by content that came, and the next caller is let through."""

    def prepare(clock: FakeClock) -> SimpleNamespace:
        configure(breakers={"*": {"failures": 1, "cooldown": 10.0}})
        breaker(A).record(TimeoutError(), 0.1)
        clock.advance(20.0)
        supply = Supply({A: [says("It", " is")]})
        return SimpleNamespace(supply=supply, ask=form.make(failover([A], attempts=1), supply))

    async def consumes(state: Any) -> None:
        await consume(form, state.ask)

    def check(state: Any) -> None:
        assert [] == state.supply.left_open
        _no_place_is_taken(A, "groq")
        assert breaker(A).state in ("closed", "half_open")
        with breaker(A):  # it is let through
            pass

    assert form.backend is not None
    assert 4 <= through_all_steps(form.backend, prepare, consumes, check)


@over(STEPPED_FORMS)
def test_a_guarded_stream_cancelled_at_any_step(form: Form) -> None:
    """The same for a function under a breaker."""

    def prepare(clock: FakeClock) -> SimpleNamespace:
        configure(breakers={"*": {"failures": 1, "cooldown": 10.0}})
        breaker(A).record(TimeoutError(), 0.1)
        clock.advance(20.0)
        supply = Supply({A: [says("It", " is")]})
        guarded = form.make(breaker(A), supply)
        return SimpleNamespace(supply=supply, ask=lambda: guarded(Target(A)))

    async def consumes(state: Any) -> None:
        await consume(form, state.ask)

    def check(state: Any) -> None:
        assert [] == state.supply.left_open
        _no_place_is_taken(A, "groq")
        with breaker(A):  # it is let through
            pass

    assert form.backend is not None
    assert 4 <= through_all_steps(form.backend, prepare, consumes, check)


def test_a_stream_that_is_left_open_is_seen() -> None:
    """The check above notices a function that does not close what it opened."""

    def prepare(clock: FakeClock) -> SimpleNamespace:
        return SimpleNamespace(supply=Supply({A: [says("It")]}))

    async def consumes(state: Any) -> None:
        async for _ in state.supply.aopen(Target(A)):
            await anyio.lowlevel.checkpoint()

    def check(state: Any) -> None:
        assert [] == state.supply.left_open

    with pytest.raises(AssertionError):
        through_all_steps("asyncio", prepare, consumes, check)


# --- A cancellation in the middle --------------------------------------------------------------


@on_both_loops
def test_a_cancellation_leaves_unchanged_and_asks_nobody_else(backend: str) -> None:
    """A consumer cancelled in the middle of a stream sees a cancellation, whatever the policy says."""
    supply = Supply({A: [[ROLE, said("It"), said("is"), END]], B: [says("no")]})
    ask = next(form for form in ASYNC_FORMS if form.name == f"coroutine-sdk-{backend}").make(
        failover([A, B], stream=StreamPolicy(on_interrupt="restart")), supply
    )

    async def main() -> bool:
        with anyio.CancelScope() as scope:
            async with await ask() as stream:
                async for item in stream:
                    if item == said("It"):
                        scope.cancel()
        return scope.cancelled_caught

    assert on(backend, main)
    assert [A] == supply.calls
    assert [] == supply.left_open
    assert 0 == health([A])[A].errors


class Hanging(AsyncSource):
    """A stream that says something and then hangs for ever."""

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
    """A cancelled wait for the next item is no failure, unless nothing had come for as long as a hung call takes."""
    supply = Supply({A: [[ROLE, said("It")]]})

    @failover([A])
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

    on(backend, main)

    assert [] == supply.left_open
    assert errors == health([A])[A].errors


# --- Dropped -----------------------------------------------------------------------------------

DROPPED_FORMS = [form for form in ASYNC_FORMS if not form.manages]


@over(DROPPED_FORMS)
@pytest.mark.parametrize("items", [1, 2])
def test_an_async_stream_dropped_unclosed_warns_and_is_closed_soon(form: Form, items: int) -> None:
    """A ResourceWarning says so, and a task closes what was open as soon as one can run."""
    supply = Supply({A: [says("It", " is", " so")]})
    ask = form.make(failover([A]), supply)

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
    said_of_it = on(form.backend, main)

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
    """What a plain function had opened at the call is closed, though its items were never asked for."""
    supply = Supply({A: [says("It")]})
    ask = form.make(failover([A]), supply)

    async def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            stream = ask()
            assert [A] == supply.calls
            del stream
            gc.collect()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()

    assert form.backend is not None
    on(form.backend, main)

    if "source" in form.name:  # an async generator that never began has opened nothing
        assert [] == supply.left_open


@over([form for form in ASYNC_FORMS if form.name.startswith("plain-")])
def test_a_probe_of_a_stream_dropped_unread_gives_its_place_back(
    form: Form, clock: FakeClock
) -> None:
    """A call whose stream nobody reads takes no place for longer than the stream object lives."""
    for _ in range(5):
        breaker(A).record(TimeoutError(), 0.1)
    clock.advance(60.0)
    supply = Supply({A: [says("It")]})
    ask = form.make(failover([A]), supply)

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
            with breaker(A):
                pass

    assert form.backend is not None
    on(form.backend, main)


def test_a_sync_stream_dropped_is_closed_at_once() -> None:
    """In sync code dropping the last reference closes the stream."""
    from tests.support.stream_forms import SYNC_FORMS

    for form in SYNC_FORMS:
        if form.manages:
            continue
        supply = Supply({A: [says("It", " is")]})
        stream = form.make(failover([A]), supply)()
        next(iter(stream))
        del stream
        gc.collect()
        assert [] == supply.left_open, form.name


def test_a_manager_never_entered_gives_its_place_back(clock: FakeClock) -> None:
    """A manager that is dropped unentered takes no place of a probe."""
    from tests.support.stream_forms import SYNC_FORMS

    for form in SYNC_FORMS:
        if not form.manages:
            continue
        for _ in range(5):
            breaker(A).record(TimeoutError(), 0.1)
        clock.advance(600.0)
        manager = form.make(failover([A]), Supply({A: [says("It")]}))()
        del manager
        gc.collect()
        with breaker(A):
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
    """``close()`` from another thread ends the wait of the reader, and is nobody's failure."""
    source = Blocking([ROLE, said("It")], error)
    ended: list[BaseException | None] = []
    items: list[Any] = []

    if guard == "failover":

        @failover([A])
        def ask(target: Target) -> Any:
            return source

        stream = ask()
    else:

        @breaker(A)
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
    assert 0 == health([A])[A].errors


def test_two_threads_that_read_one_stream_share_its_items() -> None:
    """Every item comes to one of them, or Python says that the generator is running already; none is lost or twice."""
    texts = [str(number) for number in range(2_000)]

    @failover([A])
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
    assert (1, 0) == (health()[A].total, health()[A].errors)


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
    """``close()`` from another task while one waits closes the connection, and is nobody's failure."""

    async def ask(target: Target) -> Any:
        return Waiting()

    async def main() -> list[BaseException | None]:
        ended: list[BaseException | None] = []
        stream = await (failover([A])(ask)() if guard == "failover" else breaker(A)(ask)(Target(A)))

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

    (ended,) = on(backend, main)

    assert ended is None or type(ended) is ConnectionResetError
    assert 0 == health([A])[A].errors


# --- Memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [None, StreamPolicy(keep_text=100)], ids=["plain", "keeps text"])
def test_memory_does_not_grow_with_the_items(stream: StreamPolicy | None) -> None:
    """A million items leave nothing behind."""
    number = 1_000_000 if stream is None else 100_000

    @failover([A], stream=stream)
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

    @failover([A], stream=StreamPolicy(idle_timeout=60.0))
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
