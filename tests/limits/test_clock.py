"""How waits for limits behave under `fake_clock`: buckets move it, and a queue does not."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from resilient_llm import ChainExhaustedError, Limit, Target, breaker, configure, failover
from resilient_llm._drive import lines
from resilient_llm._runtime.runtime import runtime
from tests.support.ways import GROQ, elsewhere, on_both_loops


def waiting() -> int:
    limits = runtime.limits.of("groq", "groq")
    assert limits is not None
    return limits.all[0].places.waiting


async def until(number: int) -> None:
    """Let the others run until so many wait."""
    while waiting() != number:
        await anyio.lowlevel.checkpoint()


@failover([GROQ])
async def ask(target: Target) -> str:
    return target.key


@on_both_loops
def test_a_wait_for_requests_moves_the_clock(clock: Any, backend: str) -> None:
    """Ten calls of one bucket take nine seconds of it, and none of real time."""
    configure(limits={"groq": Limit(requests=60, burst=1)})
    began = clock.monotonic()

    async def main() -> None:
        for _ in range(10):
            await ask()

    anyio.run(main, backend=backend)

    assert 9.0 == pytest.approx(clock.monotonic() - began)


@on_both_loops
def test_a_queue_waits_for_the_test_to_move_the_clock(clock: Any, backend: str) -> None:
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5, queue_timeout=3.0)})
    refused: list[float] = []

    async def one() -> None:
        with pytest.raises(ChainExhaustedError, match="concurrency"):
            await ask()
        refused.append(float(clock.monotonic()))

    async def main() -> None:
        began = float(clock.monotonic())
        async with anyio.create_task_group() as group:
            group.start_soon(one)
            await until(1)
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert (began, 1) == (clock.monotonic(), waiting())
            for _ in range(4):
                clock.advance(1.0)
                await anyio.wait_all_tasks_blocked()
        assert [began + 3.0] <= refused

    guard = elsewhere(breaker("groq"))
    guard.__enter__()
    anyio.run(main, backend=backend)
    guard.__exit__(None, None, None)

    assert [] == clock.sleeps
    assert 0 == waiting()


@on_both_loops
def test_a_queue_without_end_leaves_the_clock_alone(clock: Any, backend: str) -> None:
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5)})
    began = clock.monotonic()

    async def main() -> None:
        guard = elsewhere(breaker("groq"))
        guard.__enter__()
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await until(1)
            guard.__exit__(None, None, None)

    anyio.run(main, backend=backend)

    assert (began, []) == (clock.monotonic(), clock.sleeps)


def test_a_thread_waits_for_another_one(clock: Any) -> None:
    """It is woken by the end of an attempt there, and moves no clock."""
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5, queue_timeout=60.0)})
    answers: list[str] = []
    guard = elsewhere(breaker("groq"))
    guard.__enter__()
    policy = failover([GROQ])

    def key_of(target: Target) -> str:
        return target.key

    thread = threading.Thread(target=lambda: answers.append(policy.call(key_of)))
    thread.start()
    while waiting() != 1:
        pass
    guard.__exit__(None, None, None)
    thread.join(10)

    assert ([GROQ], []) == (answers, clock.sleeps)


def test_a_thread_that_is_alone_moves_the_clock(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the end of its wait, once nobody has freed a place."""
    monkeypatch.setattr(lines, "_PATIENCE", 0.01)
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5, queue_timeout=30.0)})

    def key_of(target: Target) -> str:
        return target.key

    with (
        elsewhere(breaker("groq")),
        pytest.raises(ChainExhaustedError, match="concurrency"),
    ):
        failover([GROQ]).call(key_of)

    assert 30.0 == pytest.approx(sum(clock.sleeps))
