"""`Limit(max_concurrent=…)`: attempts in flight, the queue before them, and what frees a place."""

from __future__ import annotations

import threading
import time
from typing import Any

import anyio
import pytest

from resilient_llm import (
    CallRejectedError,
    ChainExhaustedError,
    Limit,
    StreamPolicy,
    Target,
    breaker,
    configure,
    failover,
    health,
)
from resilient_llm._runtime.runtime import runtime
from tests.support.ways import GROQ, OPENAI, on_both_loops


def in_flight(key: str = "groq") -> tuple[int, int]:
    """Return the attempts in flight and those that wait, at the limit of a key."""
    limits = runtime.limits.of(key, key.partition("/")[0])
    assert limits is not None
    places = limits.all[0].places
    return places.running, places.waiting


def inside(backend: str, main: Any) -> Any:
    return anyio.run(main, backend=backend)


@on_both_loops
def test_no_more_than_the_limit_run_at_once(backend: str) -> None:
    """Twenty calls of eight places: the others wait, first come, first served."""
    configure(limits={"groq": Limit(max_concurrent=8, max_queued=100)})
    now, most, order = 0, 0, list[int]()

    @failover([GROQ])
    async def ask(target: Target, number: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        order.append(number)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        now -= 1
        return number

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(ask, number)
                await anyio.lowlevel.checkpoint()

    inside(backend, main)

    assert 8 >= most > 1
    assert sorted(order) == order
    assert (0, 0) == in_flight()


def test_a_full_target_is_passed_over() -> None:
    """Without a queue the call goes down the chain, and no health changes."""
    configure(limits={"groq": Limit(max_concurrent=1)})
    reached: list[str] = []

    @failover([GROQ, OPENAI])
    def ask(target: Target) -> str:
        reached.append(target.key)
        if len(reached) == 1:
            return ask() + " inside"
        return target.key

    assert "openai/gpt inside" == ask()
    assert (0, 0) == in_flight()
    assert 0 == health()["groq"].errors


def test_a_full_chain_says_why() -> None:
    configure(limits={"groq": Limit(max_concurrent=1)})

    @failover([GROQ])
    def ask(target: Target, depth: int = 0) -> str:
        return ask(1) if depth == 0 else "unreachable"

    with pytest.raises(ChainExhaustedError) as raised:
        ask()

    inner = raised.value.exceptions[0]
    while isinstance(inner, ChainExhaustedError):
        inner = inner.exceptions[0]
    assert isinstance(inner, CallRejectedError)
    assert ("groq/llama", "concurrency", None) == (inner.target, inner.reason, inner.retry_after)
    assert (0, 0) == in_flight()


def test_a_guard_takes_a_place_or_is_refused_at_once() -> None:
    """`breaker(name)` never queues."""
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5)})

    with breaker("groq/llama"):
        assert (1, 0) == in_flight()
        with pytest.raises(CallRejectedError, match="concurrency"), breaker("groq"):
            pass
    assert (0, 0) == in_flight()


@on_both_loops
def test_cancelled_while_it_waits(backend: str) -> None:
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5)})

    @failover([GROQ])
    async def ask(target: Target, event: anyio.Event) -> None:
        await event.wait()

    async def main() -> None:
        event = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(ask, event)
            while in_flight() != (1, 0):
                await anyio.lowlevel.checkpoint()
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as waiting:
                    waiting.start_soon(ask, event)
                    while in_flight() != (1, 1):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
            assert (1, 0) == in_flight()
            event.set()

    inside(backend, main)
    assert (0, 0) == in_flight()


@on_both_loops
def test_the_wait_in_the_queue_is_limited(backend: str) -> None:
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5, queue_timeout=0.01)})

    @failover([GROQ])
    async def ask(target: Target, event: anyio.Event) -> None:
        await event.wait()

    async def main() -> None:
        event = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(ask, event)
            while in_flight() != (1, 0):
                await anyio.lowlevel.checkpoint()
            with pytest.raises(ChainExhaustedError, match="concurrency"):
                await ask(event)
            event.set()

    inside(backend, main)
    assert (0, 0) == in_flight()


def test_threads_share_count_and_queue() -> None:
    """Forty calls of ten threads through three places."""
    configure(limits={"groq": Limit(max_concurrent=3, max_queued=100)})
    lock, now, most = threading.Lock(), 0, 0

    @failover([GROQ])
    def ask(target: Target) -> str:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.0005)
        with lock:
            now -= 1
        return target.key

    threads = [threading.Thread(target=lambda: [ask() for _ in range(4)]) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert 3 == most
    assert (0, 0) == in_flight()


def test_a_stream_holds_its_place_until_it_ends() -> None:
    configure(limits={"groq": Limit(max_concurrent=1)})

    @failover([GROQ], stream=StreamPolicy())
    def ask(target: Target) -> Any:
        yield "a"
        yield "b"

    stream = ask()
    assert "a" == next(stream)
    assert (1, 0) == in_flight()
    assert ["b"] == list(stream)
    assert (0, 0) == in_flight()

    left = ask()
    next(left)
    left.close()
    assert (0, 0) == in_flight()

    dropped = ask()
    next(dropped)
    del dropped
    assert (0, 0) == in_flight()


def test_requests_are_paced(clock: Any) -> None:
    """What does not fit waits, and the wait moves the clock by what the limit says."""
    configure(limits={"groq": Limit(requests=60, burst=1)})
    moments: list[float] = []

    @failover([GROQ])
    def ask(target: Target) -> None:
        moments.append(round(clock.monotonic(), 3))

    for _ in range(4):
        ask()

    assert [0.0, 1.0, 2.0, 3.0] == [each - moments[0] for each in moments]


def test_the_next_target_before_a_wait(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=60, burst=1)})

    @failover([GROQ, OPENAI])
    def ask(target: Target) -> str:
        return target.key

    assert [GROQ, OPENAI] == [ask(), ask()]
    assert [] == clock.sleeps


def test_a_wait_that_does_not_fit_is_not_begun(clock: Any) -> None:
    configure(limits={"groq": Limit(requests=1, burst=1)}, max_wait=10.0)

    @failover([GROQ])
    def ask(target: Target) -> str:
        return target.key

    ask()
    with pytest.raises(ChainExhaustedError) as raised:
        ask()

    assert 60.0 == pytest.approx(raised.value.retry_after)
    assert [] == clock.sleeps


def test_a_retry_after_the_queue_asks_for_a_place_of_its_own(clock: Any) -> None:
    """The turn that the call has waited for is that of one attempt."""
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5)})
    seen: list[tuple[int, int]] = []
    guard = breaker("groq")
    guard.__enter__()

    @failover([GROQ], attempts=2)
    def ask(target: Target) -> str:
        seen.append(in_flight())
        if len(seen) == 1:
            raise ConnectionError
        return target.key

    thread = threading.Thread(target=ask)
    thread.start()
    while in_flight() != (1, 1):
        time.sleep(0.001)
    guard.__exit__(None, None, None)
    thread.join(10)

    assert [(1, 0), (1, 0)] == seen
    assert (0, 0) == in_flight()


@pytest.mark.parametrize("key", ["groq", "*"])
def test_a_limit_that_is_set_again_counts_what_still_runs(key: str) -> None:
    """As a changed one does; the places of what has ended meanwhile are free."""
    configure(limits={key: Limit(max_concurrent=3)})
    with breaker("groq"):
        with breaker("groq"):
            configure(limits={key: None})
            configure(limits={"other": Limit(requests=5)})
            with breaker("groq"), breaker("groq"), breaker("groq"):
                pass
        configure(limits={key: Limit(max_concurrent=1)})

        assert (1, 0) == in_flight()
        with pytest.raises(CallRejectedError, match="concurrency"):
            breaker("groq").__enter__()

    with breaker("groq"):
        assert (1, 0) == in_flight()


def test_a_limit_that_is_removed_for_good_keeps_nothing() -> None:
    """Its places are forgotten with the next change after the last attempt."""
    configure(limits={"groq": Limit(max_concurrent=1)})
    with breaker("groq"):
        configure(limits={"groq": None})
    configure(limits={"other": Limit(requests=5)})
    with breaker("other"):
        pass

    assert {} == runtime.limits._removed
