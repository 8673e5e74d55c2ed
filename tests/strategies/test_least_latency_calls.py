"""``least_latency`` in calls: what is measured decides, and explorations end with their attempts."""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any

import anyio
import pytest

from resilient_llm import Target, bench_model, configure, failover
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import FakeClock, isolated
from tests.support.ways import (
    DRIVERS,
    GROQ,
    MISTRAL,
    OPENAI,
    Driver,
    down,
    on_both_loops,
    over,
    run_async,
)

CHAIN = [GROQ, OPENAI, MISTRAL]
SECONDS = {GROQ: 3.0, OPENAI: 1.0, MISTRAL: 2.0}


@over(DRIVERS)
def test_calls_go_to_the_quickest(driver: Driver, clock: FakeClock) -> None:
    """Each target is tried once, and then the quickest is called."""
    policy = failover(CHAIN, strategy="least_latency")

    def provider(target: Target) -> str:
        clock.advance(SECONDS[target.key])
        return target.key

    found = [driver.run(policy, provider) for _ in range(8)]

    assert [*CHAIN, *[OPENAI] * 5] == found


@over(DRIVERS)
def test_after_a_failure_the_next_quickest_is_called(driver: Driver, clock: FakeClock) -> None:
    """The rest of the order is by the means, too."""
    policy = failover(CHAIN, strategy="least_latency", attempts=1)
    called: list[str] = []
    fails: set[str] = set()

    def provider(target: Target) -> str:
        called.append(target.key)
        clock.advance(SECONDS[target.key])
        if target.key in fails:
            raise down()
        return target.key

    for _ in range(4):
        driver.run(policy, provider)
    fails |= {OPENAI, MISTRAL}
    called.clear()

    assert GROQ == driver.run(policy, provider)
    assert [OPENAI, MISTRAL, GROQ] == called


@on_both_loops
def test_one_exploration_at_a_time(backend: str, clock: FakeClock) -> None:
    """While a new target is tried by one call, all others go to those that are known."""
    policy = failover([GROQ, OPENAI], strategy="least_latency")
    called: list[str] = []

    @policy
    async def ask(target: Target) -> str:
        called.append(target.key)
        if target.key == OPENAI:
            await anyio.sleep_forever()
        return target.key

    async def main() -> None:
        await ask()
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                clock.advance(4.0)
            tasks.cancel_scope.cancel()

    run_async(main, backend=backend)

    assert 1 == called.count(OPENAI)


@on_both_loops
def test_a_cancelled_exploration_is_over(backend: str, clock: FakeClock) -> None:
    """After a cancellation the target may be explored again, a minute after its begin."""
    policy = failover([GROQ, OPENAI], strategy="least_latency")
    called: list[str] = []

    @policy
    async def ask(target: Target) -> str:
        called.append(target.key)
        if target.key == OPENAI and called.count(OPENAI) == 1:
            scope.cancel()
            await anyio.sleep_forever()
        return target.key

    async def main() -> None:
        await ask()
        nonlocal scope
        with anyio.CancelScope() as scope:
            await ask()
        assert GROQ == await ask()
        clock.advance(60.0)
        assert OPENAI == await ask()

    scope: Any = None
    run_async(main, backend=backend)

    assert [GROQ, OPENAI, GROQ, OPENAI] == called


def test_a_dropped_stream_ends_its_exploration(clock: FakeClock) -> None:
    """A stream that nobody reads to its content does not bar its target."""
    policy = failover([GROQ, OPENAI], strategy="least_latency")

    @policy
    def ask(target: Target) -> Any:
        yield target.key

    assert [GROQ] == list(ask())
    stream = iter(ask())
    del stream
    gc.collect()
    assert [OPENAI] == list(ask())

    assert {GROQ: 1, OPENAI: 1} == {
        key: each.count for key, each in runtime.figures_of(policy._policy).of.items()
    }


def test_benched_targets_are_not_explored(clock: FakeClock) -> None:
    """A bench takes no leave to explore: the target is tried when the bench is over."""

    @failover([GROQ, OPENAI], strategy="least_latency")
    def ask(target: Target) -> str:
        return target.key

    bench_model(OPENAI, 30.0)
    assert [GROQ] * 3 == [ask() for _ in range(3)]

    clock.advance(31.0)
    assert OPENAI == ask()


def test_priority_groups_are_kept(clock: FakeClock) -> None:
    """The quickest of the first group is called, though another group would be quicker."""

    @failover([GROQ, OPENAI, Target(MISTRAL, priority=2)], strategy="least_latency")
    def ask(target: Target) -> str:
        clock.advance({GROQ: 3.0, OPENAI: 2.0, MISTRAL: 0.1}[target.key])
        return target.key

    assert [GROQ, OPENAI, OPENAI, OPENAI] == [ask() for _ in range(4)]

    bench_model(OPENAI)
    bench_model(GROQ)
    assert MISTRAL == ask()


def test_copies_share_what_they_measured(clock: FakeClock) -> None:
    """A copy explores nothing that the original has explored, and counts among its calls."""

    @failover([GROQ, OPENAI], strategy="least_latency")
    def ask(target: Target) -> str:
        clock.advance(SECONDS[target.key])
        return target.key

    assert [GROQ, OPENAI] == [ask(), ask()]

    assert [OPENAI] * 5 == [ask.using(attempts=number)() for number in range(1, 6)]


def test_other_states_have_measured_nothing(clock: FakeClock) -> None:
    """Inside ``isolated()`` each target is explored again."""

    @failover([GROQ, OPENAI], strategy="least_latency")
    def ask(target: Target) -> str:
        clock.advance(SECONDS[target.key])
        return target.key

    assert [GROQ, OPENAI, OPENAI] == [ask() for _ in range(3)]
    with isolated():
        assert [GROQ, OPENAI, OPENAI] == [ask() for _ in range(3)]
    assert OPENAI == ask()


def test_threads_explore_each_target_once() -> None:
    """Of many threads one makes the first attempt on a target that is not known."""
    called: list[str] = []

    @failover([GROQ, OPENAI, MISTRAL], strategy="least_latency")
    def ask(target: Target) -> str:
        called.append(target.key)
        if target.key == MISTRAL:
            raise down()
        return target.key

    configure(attempts=1, breakers={"*": {"failures": 100, "error_rate": 1.0}})

    def work() -> None:
        for _ in range(300):
            ask()

    threads = [threading.Thread(target=work) for _ in range(6)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)

    assert 1 == called.count(MISTRAL)


@pytest.mark.parametrize("strategy", ["least_latency", "least_busy"])
def test_a_hundred_thousand_calls_do_not_grow(strategy: str) -> None:
    """Neither figures nor anything else of a policy grows with the number of its calls."""
    import tracemalloc

    @failover(CHAIN, strategy=strategy)
    def ask(target: Target) -> str:
        return "yes"

    for _ in range(1_000):
        ask()
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(1_000):
            ask()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(100_000):
            ask()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    # Samples of three targets may come to be kept meanwhile; a byte for each call may not.
    assert 100_000 > after - before
