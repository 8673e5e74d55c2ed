"""Calls inside calls: what one waits for that its own outer call holds, and when such waits end."""

from __future__ import annotations

import asyncio
import contextvars
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from resilient_llm import (
    Attempt,
    ChainExhaustedError,
    DeadlineExceededError,
    Limit,
    ResilientLLMError,
    Target,
    bench_model,
    breaker,
    configure,
    failover,
)
from resilient_llm._core.limits.around import holding
from resilient_llm._runtime.runtime import runtime
from tests.support.ways import GROQ, OPENAI, on_both_loops

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore:timeout=.* cannot interrupt")


@failover([GROQ])
def inner(target: Target) -> str:
    return "inside"


@failover([GROQ])
async def inner_async(target: Target) -> str:
    return "inside"


def in_a_call() -> str:
    @failover([GROQ])
    def outer(target: Target) -> str:
        return inner()

    return outer()


def in_a_guard() -> str:
    with breaker("groq"):
        return inner()


def in_a_thread_of_a_call() -> str:
    @failover([GROQ])
    def outer(target: Target) -> str:
        with ThreadPoolExecutor() as pool:
            return pool.submit(contextvars.copy_context().run, inner).result()

    return outer()


def in_a_loop() -> str:
    for attempt in failover([GROQ]):
        with attempt:
            return inner()
    raise AssertionError


def in_a_stream() -> str:
    @failover([GROQ])
    def outer(target: Target) -> Iterator[str]:
        yield "first"
        yield inner()

    return "".join(outer())


WAYS = [in_a_call, in_a_guard, in_a_thread_of_a_call, in_a_loop, in_a_stream]


def refusal_of(error: BaseException) -> str:
    """Return why the innermost call was refused."""
    while isinstance(error, ChainExhaustedError):
        error = error.exceptions[0]
    return getattr(error, "reason", repr(error))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_call_waits_for_a_place_that_its_own_outer_call_holds(way: Any) -> None:
    """It is refused at once: the place would be freed only after it."""
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5)})

    with pytest.raises(ResilientLLMError) as caught:
        way()

    error: BaseException | None = caught.value
    while error is not None and refusal_of(error) != "concurrency":
        error = error.__cause__ or error.__context__
    assert error is not None


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_second_place_is_enough_for_both(way: Any) -> None:
    """What the outer attempt holds is counted once; nothing of it is left when it is over."""
    configure(limits={"groq": Limit(max_concurrent=2, max_queued=5)})

    assert way().endswith("inside")
    assert all(not mark for mark in holding.get())


@on_both_loops
def test_no_task_waits_for_a_place_that_its_own_outer_call_holds(backend: str) -> None:
    """A task that the outer call starts has a copy of its context."""
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5)})
    refusals: list[str] = []

    @failover([GROQ])
    async def outer(target: Target) -> str:
        async def ask() -> None:
            try:
                await inner_async()
            except ChainExhaustedError as error:
                refusals.append(refusal_of(error))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
        return "outside"

    assert "outside" == anyio.run(outer, backend=backend)
    assert ["concurrency"] == refusals


def test_a_place_that_others_hold_is_waited_for() -> None:
    """Only if the call's own context holds all of them is waiting in vain."""
    configure(limits={"groq": Limit(max_concurrent=2, max_queued=5)})

    async def main() -> str:
        entered, free = asyncio.Event(), asyncio.Event()

        @failover([GROQ])
        async def other(target: Target) -> None:
            entered.set()
            await free.wait()

        @failover([GROQ])
        async def outer(target: Target) -> str:
            waiting = asyncio.create_task(inner_async())
            await asyncio.sleep(0)
            free.set()
            return await waiting

        running = asyncio.create_task(other())
        await entered.wait()
        answer = await outer()
        await running
        return answer

    assert "inside" == asyncio.run(main())


def test_a_context_outlives_the_call_that_made_it() -> None:
    """A copy of the context knows when the outer attempt is over."""
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5)})
    copies: list[contextvars.Context] = []

    @failover([GROQ])
    def outer(target: Target) -> str:
        copies.append(contextvars.copy_context())
        return "outside"

    outer()

    assert "inside" == copies[0].run(inner)


def test_what_a_wrapper_reads_of_its_context_can_be_sent_to_another_process() -> None:
    """It is found there by its name, as cloudpickle needs it."""
    assert pickle.loads(pickle.dumps(holding)) is holding


@pytest.fixture
def occupied() -> Iterator[None]:
    """Another thread holds the only place of groq."""
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5)})
    entered, free = threading.Event(), threading.Event()

    def hold() -> None:
        with breaker("groq"):
            entered.set()
            free.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(60)
    yield
    free.set()
    thread.join()


def test_a_wait_in_a_queue_ends_with_the_outer_call(occupied: None) -> None:
    """The inner call has no limit of its own; nobody is blamed."""

    @failover([OPENAI], timeout=0.05)
    def outer(target: Target) -> str:
        return inner()

    with pytest.raises(DeadlineExceededError):
        outer()

    assert "closed" == breaker("openai").state == breaker("groq").state


def test_a_wait_in_a_queue_ends_with_the_attempt_around_it(occupied: None) -> None:
    """The call goes on with its next target."""

    @failover([OPENAI, "anthropic/m"], attempt_timeout=0.05)
    def outer(target: Target, *, attempt: Attempt) -> str:
        return inner() if target.provider == "openai" else "next"

    call: Any = outer
    assert "next" == call()


def test_a_wait_in_a_queue_ends_with_a_call_that_its_flow_makes(occupied: None) -> None:
    """Also where the call around it was not made by its wrapper alone: after a failed target."""

    @failover(["anthropic/m", OPENAI], attempts=1, timeout=0.2)
    def outer(target: Target) -> str:
        if target.provider == "anthropic":
            raise ConnectionError
        return inner()

    with pytest.raises(DeadlineExceededError):
        outer()


def test_the_limit_of_an_earlier_attempt_is_over(clock: Any) -> None:
    """The first target may use three quarters of the time, and the second all that is left."""
    configure(limits={"groq": Limit(requests=1, per="minute")}, max_wait=100.0)
    inner()

    @failover(["anthropic/m", OPENAI], timeout=8.0, attempts=1)
    def outer(target: Target, *, attempt: Attempt) -> str:
        clock.advance(1.0)
        if target.provider == "anthropic":
            raise ConnectionError
        return inner()

    call: Any = outer
    for _ in range(2):  # the first one binds the function
        began = clock.monotonic()
        with pytest.raises(DeadlineExceededError):
            call()
        assert began + 8.0 == pytest.approx(clock.monotonic())


def test_a_wait_for_requests_ends_with_the_outer_call(clock: Any) -> None:
    """On a fake clock, which the wait moves: exactly to the end of the outer call."""
    configure(limits={"groq": Limit(requests=1, per="minute")}, max_wait=100.0)
    inner()
    began = clock.monotonic()

    @failover([OPENAI], timeout=7.0)
    def outer(target: Target) -> str:
        return inner()

    with pytest.raises(DeadlineExceededError):
        outer()

    assert began + 7.0 == clock.monotonic()


def test_a_wait_for_a_bench_ends_with_the_outer_call(clock: Any) -> None:
    """So does one for a target that is benched."""
    bench_model(GROQ, 50.0)
    began = clock.monotonic()

    @failover([GROQ], when_all_benched="wait")
    def waits(target: Target) -> str:
        return "late"

    @failover([OPENAI], timeout=7.0)
    def outer(target: Target) -> str:
        return waits()

    with pytest.raises(DeadlineExceededError):
        outer()

    assert began + 7.0 == clock.monotonic()


def _long(*_: object) -> float:
    return 50.0


def test_a_wait_before_a_retry_ends_with_the_outer_call(clock: Any) -> None:
    """There is no further attempt; the inner call raises what the first one did."""
    attempts: list[str] = []
    began = clock.monotonic()

    @failover([GROQ], attempts=3, backoff=_long, reraise=True)
    def fails(target: Target) -> str:
        attempts.append(target.key)
        raise ConnectionError

    @failover([OPENAI], timeout=7.0)
    def outer(target: Target) -> str:
        return fails()

    with pytest.raises(DeadlineExceededError):
        outer()

    assert [GROQ] == attempts
    assert began + 7.0 == clock.monotonic()


def test_a_call_keeps_its_own_limit_inside_another(occupied: None) -> None:
    """The innermost limit counts, and its error is that of a deadline."""

    @failover([GROQ], timeout=0.05)
    def waits(target: Target) -> str:
        return "late"

    @failover([OPENAI], timeout=60.0)
    def outer(target: Target) -> str:
        with pytest.raises(DeadlineExceededError):
            waits()
        return "outside"

    assert "outside" == outer()


def test_a_last_resort_waits_for_its_place_like_others() -> None:
    """The only target is benched automatically, and its limit is full: the call stands in line."""
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5, queue_timeout=30.0)})

    @failover([GROQ], attempts=1)
    def fails(target: Target) -> None:
        raise ConnectionError

    for _ in range(10):
        with pytest.raises(Exception):  # noqa: B017  # until it is benched
            fails()
    assert "open" == breaker(GROQ).state
    places = runtime.limits.of(GROQ, "groq")
    assert places is not None
    place = places.all[0].places.place()
    assert place.take()
    threading.Timer(0.05, place.give_back).start()

    assert "inside" == inner()
