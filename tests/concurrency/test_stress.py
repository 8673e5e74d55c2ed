"""Real threads that CPython makes take turns as often as it can: what schedules explore, in the wild.

Nothing here depends on who wins; every count is exact. ``SCHEDULES=20`` in the environment
runs twenty times as long.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from resilient_llm import (
    BreakerOpenError,
    ChainExhaustedError,
    Target,
    TargetBenched,
    TargetUnbenched,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    is_benched,
    list_benched,
    testing,
    unbench_model,
)
from resilient_llm._core.circuit.circuit import Circuit
from resilient_llm._core.retry_budget import FLOOR, RetryBudgets
from resilient_llm._runtime.runtime import runtime
from tests.support.schedules import PATIENCE

THREADS = 8


class DownError(TimeoutError):
    """What a target that is down raises."""


@pytest.fixture(autouse=True)
def _restless() -> Iterator[None]:
    """Let threads take turns every microsecond, and log nothing."""
    before = sys.getswitchinterval()
    configure(logging=False)
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*jobs: Callable[[], object]) -> None:
    """Run each of these on a thread of its own, all from the same moment; an error of one is raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(jobs))

    def work(job: Callable[[], object]) -> None:
        try:
            barrier.wait()
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=50)
    assert not any(thread.is_alive() for thread in threads), "deadlock"
    if errors:
        raise errors[0]


def _fails_every(n: int, number: int) -> bool:
    return number % n == 0


def _enter_often(make: Callable[[], Any], times: int, fails_every: int = 10) -> None:
    """Go through guards so many times, and fail in some of them."""
    for number in range(times):
        try:
            with make():
                if _fails_every(fails_every, number):
                    raise DownError
        except DownError:
            pass


def test_counts_are_exact_whatever_is_counted_at_once() -> None:
    """Calls, guards made anew and one kept in a variable, healthy and failing, beside who looks and changes settings."""
    configure(breakers={"*": {"failures": 10**6, "error_rate": 1.0, "min_calls": 10**6}})
    times = 300 * PATIENCE

    @failover(chain="groq/a", attempts=1)
    def ask(target: Target, fails: bool) -> str:
        if fails:
            raise DownError
        return target.key

    kept = breaker("groq/a")

    def call() -> None:
        for number in range(times):
            try:
                ask(_fails_every(10, number))
            except ChainExhaustedError:
                pass

    def look() -> None:
        for number in range(times // 10):
            health()
            list_benched()
            configure(max_wait=60.0 + number)

    at_once(
        call,
        call,
        *[functools.partial(_enter_often, lambda: breaker("groq/a"), times)] * 2,
        functools.partial(_enter_often, lambda: kept, times),
        look,
    )

    now = health()
    assert (5 * times, 5 * times // 10) == (now["groq/a"].total, now["groq/a"].errors)
    assert (5 * times, 5 * times // 10) == (now["groq"].total, now["groq"].errors)


def test_a_guard_kept_by_many_threads_loses_no_count() -> None:
    """Also when its entries overlap all the time, and some fail."""
    configure(breakers={"*": {"failures": 10**6, "error_rate": 1.0, "min_calls": 10**6}})
    times = 300 * PATIENCE
    kept = breaker("groq/a")

    at_once(*[functools.partial(_enter_often, lambda: kept, times, 7)] * THREADS)

    failed = THREADS * sum(_fails_every(7, number) for number in range(times))
    assert (THREADS * times, failed) == (health()["groq/a"].total, health()["groq/a"].errors)


def test_a_burst_of_failures_trips_once(clock: testing.FakeClock) -> None:
    """Again and again: eight threads fail at once, and one bench begins."""
    configure(breakers={"*": {"failures": 3, "cooldown": 10.0}})

    def fail() -> None:
        try:
            with breaker("groq/a"):
                raise DownError
        except (DownError, BreakerOpenError):
            pass

    for _ in range(20 * PATIENCE):
        with testing.capture_events(TargetBenched) as benched:
            at_once(*[fail] * THREADS)
        assert (1, 3) == (len(benched), health()["groq/a"].consecutive_failures)
        unbench_model("groq/a")


@pytest.mark.parametrize("probes", [1, 3])
def test_half_open_admits_as_many_as_probe(probes: int, clock: testing.FakeClock) -> None:
    """Again and again: eight threads come when a cooldown has ended."""
    configure(
        breakers={
            "*": {"failures": 1, "cooldown": 10.0, "probes": probes, "successes_to_close": 99}
        }
    )
    enough = threading.Barrier(THREADS)

    for _ in range(20 * PATIENCE):
        admitted: list[int] = []

        def probe(admitted: list[int] = admitted) -> None:
            try:
                with breaker("groq/a"):
                    admitted.append(1)
                    enough.wait()
            except BreakerOpenError:
                enough.wait()

        with pytest.raises(DownError), breaker("groq/a"):
            raise DownError
        clock.advance(20.0)
        at_once(*[probe] * THREADS)
        assert probes == len(admitted)
        unbench_model("groq/a")


def test_one_circuit_for_a_new_key() -> None:
    """Eight threads that ask for the same new keys at once are given the same circuits."""
    for turn in range(20 * PATIENCE):
        keys = [f"groq{turn}/{number}" for number in range(5)]
        got: list[tuple[Circuit, ...]] = []

        def get(keys: list[str] = keys, got: list[tuple[Circuit, ...]] = got) -> None:
            got.append(tuple(runtime.registry.circuit(key) for key in keys))

        at_once(*[get] * THREADS)
        assert 1 == len(set(got))
        assert set(got[0]) == set(runtime.registry.circuit(f"groq{turn}")._targets_locked())


def test_a_retry_budget_is_never_overspent() -> None:
    """Eight threads take what there is: the floor, and not one more."""
    for _ in range(20 * PATIENCE):
        budgets = RetryBudgets()
        taken: list[bool] = []

        def take(budgets: RetryBudgets = budgets, taken: list[bool] = taken) -> None:
            taken.extend(budgets.take("groq", 1.0, 0.2, 0) for _ in range(5))

        at_once(*[take] * THREADS)
        assert FLOOR == taken.count(True)


def test_benches_and_their_ends_are_emitted_in_order_and_none_is_left_out() -> None:
    """Two threads bench and unbench while two look; afterwards nothing is queued and nobody benched."""
    times = 50 * PATIENCE

    def bench() -> None:
        for _ in range(times):
            bench_model("groq/a")
            unbench_model("groq/a")

    def look() -> None:
        for _ in range(times):
            is_benched("groq/a")
            list_benched()

    with testing.capture_events(TargetBenched, TargetUnbenched) as events:
        at_once(bench, bench, look, look)
    received = [type(event).__name__ for event in events]

    assert 2 * times == received.count("TargetBenched")
    assert "TargetUnbenched" == received[-1]
    assert not is_benched("groq/a")
    assert not runtime.registry.circuit("groq/a").outbox


def test_the_state_may_be_exchanged_while_calls_run() -> None:
    """No call fails for it, none is counted twice, and the old state comes back as it was but for its own calls."""
    configure(breakers={"*": {"failures": 10**6, "min_calls": 10**6}})
    times = 200 * PATIENCE
    over = threading.Event()

    @failover(chain="groq/a", attempts=1)
    def ask(target: Target) -> str:
        return target.key

    kept = breaker("groq/a")

    def call() -> None:
        while not over.is_set():
            ask()
            with kept:
                pass
            with breaker("groq/a"):
                pass

    def exchange() -> None:
        try:
            for _ in range(times // 10):
                with testing.isolated():
                    pass
        finally:
            over.set()

    at_once(call, call, exchange)
    before = health()["groq/a"].total
    ask()
    with kept:
        pass

    assert before + 2 == health()["groq/a"].total
    assert 0 == health()["groq/a"].errors


@pytest.mark.parametrize("inside", ["_error_locked", "_status_locked", "take", "circuit"])
def test_a_signal_handler_may_ask_for_health_in_the_middle_of_anything(inside: str) -> None:
    """What interrupts a thread inside the library may use the library: it waits for no lock of that thread."""

    @failover(chain="groq/a", attempts=2, backoff=lambda _: 0.0)
    def ask(target: Target) -> None:
        raise ConnectionResetError

    seen: list[int] = []

    def interrupt(frame: FrameType, event: str, argument: object) -> None:
        if inside in frame.f_code.co_name and not seen:
            seen.append(len(health()))
            bench_model("openai", until=60)
            with contextlib.suppress(BreakerOpenError), breaker("groq/a"):
                pass

    def work() -> None:
        sys.settrace(interrupt)
        try:
            with contextlib.suppress(ChainExhaustedError):
                ask()
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout=10.0)

    assert not thread.is_alive()
    assert seen
