"""Corners of the call path that the tables do not reach: awaitables, late listeners, forks, slow providers."""

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import pytest

from resilient_llm import (
    AttemptSucceeded,
    BreakerOpenError,
    ChainExhaustedError,
    ConfigurationError,
    ErrorKind,
    Event,
    HealthChanged,
    RetryScheduled,
    StreamPolicy,
    Target,
    TargetBenched,
    Trace,
    Verdict,
    bench_model,
    breaker,
    configure,
    events,
    failover,
    health,
    is_benched,
    list_benched,
    observe,
)
from resilient_llm._core.retry_budget import RetryBudgets
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import FakeClock, capture_events, isolated, scripted
from tests.support.shapes import ProviderError, down, run_async

A, B = "groq/a", "openai/b"


def failing(key: str, times: int, error: Any = down) -> None:
    for _ in range(times):
        with contextlib.suppress(Exception), breaker(key):
            raise error()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_bound_function_that_gives_awaitables_is_guarded_until_they_end(
    backend: str, clock: Any
) -> None:
    """Success, failure, retry and failover are those of the awaited answer, also past the first call."""
    outcomes: list[Any] = ["one", "two", down(), "three", TypeError("bug")]

    @failover(chain=[A, B], backoff=lambda n: 1.0)
    def ask(target: Target) -> Any:
        async def answer() -> str:
            clock.advance(0.5)
            outcome = outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return f"{target.key} {outcome}"

        return answer()

    async def main() -> list[str]:
        answers = [await ask(), await ask(), await ask()]
        with pytest.raises(TypeError):
            await ask()
        return answers

    assert [f"{A} one", f"{A} two", f"{A} three"] == run_async(main, backend=backend)
    assert (4, 1, [1.0]) == (health()[A].total, health()[A].errors, clock.sleeps)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_bound_function_that_gives_awaitables_is_timed(backend: str, clock: Any) -> None:
    """A policy's timeout cuts the awaitable off and leaves time for the next target."""
    hangs = False

    @failover(chain=[A, B], timeout=8.0)
    def ask(target: Target) -> Any:
        async def answer() -> str:
            if hangs and target.key == A:
                clock.advance(6.0)
                await anyio.sleep_forever()
            return target.key

        return answer()

    async def main() -> list[str]:
        nonlocal hangs
        healthy = [await ask(), await ask()]
        hangs = True
        return [*healthy, await ask()]

    assert [A, A, B] == run_async(main, backend=backend)
    assert "timeout" == health()[A].last_error.reason  # type: ignore[union-attr]


def test_a_lowered_level_is_noticed_by_functions_that_are_bound(
    clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """DEBUG switched on while the process runs shows the successes from a millisecond later on."""

    @failover(chain=A)
    def ask(target: Target) -> str:
        return target.key

    ask()
    ask()
    caplog.set_level(logging.DEBUG, logger="resilient_llm")
    clock.advance(0.001)
    ask()
    ask()

    assert 2 == sum(message.startswith("AttemptSucceeded groq/a") for message in caplog.messages)


def test_a_targets_answer_ends_the_failures_of_its_provider() -> None:
    """Failures in a row are of the provider; any answer from it, by any of its targets, breaks the row."""

    @failover(chain="groq/other")
    def ask(target: Target) -> str:
        return target.key

    ask()
    for _ in range(3):
        failing(A, 4, ConnectionRefusedError)
        ask()

    assert (0, "closed") == (health()["groq"].consecutive_failures, breaker("groq").state)


def test_a_slow_provider_opens_by_what_its_targets_take(clock: Any) -> None:
    """slow_call of a provider counts the answers of all its targets."""
    breaker("groq", slow_call=5.0, min_calls=4)

    @failover(chain=["groq/a", "groq/b"])
    def ask(*, model: str = "") -> None:
        clock.advance(6.0)

    with capture_events(TargetBenched) as benched:
        for model in ("a", "b", "a", "b"):
            ask(model=model)

    assert [("groq", "slow_rate 4/4 >= 0.8")] == [
        (event.target, event.trigger) for event in benched
    ]


def test_a_last_resort_that_is_answered_closes_a_pause_without_a_name(clock: Any) -> None:
    """A rate limit that named no wait may be tried, and an answer ends its bench."""
    failing(A, 1, lambda: ProviderError(429))
    assert is_benched(A)

    assert A == failover(chain=A).call(lambda *, target: target.key)
    assert [] == list_benched()


def test_a_last_resort_that_learns_of_a_dead_key_or_a_wait_notes_it(clock: Any) -> None:
    """An ordinary failure leaves the bench as it is; a new fact that the provider names does not."""
    for key, error, reason in (
        ("x/a", ProviderError(429, retry_after=200), "rate_limit"),
        ("y/a", down(), "overloaded"),
    ):
        failing(key, 5)
        before = {each.model: each.remaining for each in list_benched()}[key]
        with pytest.raises(ChainExhaustedError):
            failover(chain=key, attempts=1).call(scripted_call(error))
        after = {each.model: each for each in list_benched()}[key]
        assert reason == after.reason
        assert (200.0 if reason == "rate_limit" else before) == pytest.approx(after.remaining)


def scripted_call(error: Exception) -> Any:
    answers = scripted(error)

    def ask(target: Target) -> Any:
        return answers()

    return ask


def test_metrics_only_says_what_it_would_have_done_once_per_bench(clock: Any) -> None:
    """It counts, blocks nobody, and repeats itself only after the bench would have ended."""
    breaker(A, mode="metrics_only")

    with capture_events(TargetBenched) as benched:
        failing(A, 12)
        failing(A, 1, lambda: ProviderError(429, retry_after=500))
        first = [(event.trigger, event.enforced) for event in benched]
        clock.advance(600)
        failing(A, 1)

    assert [("failures 5/5", False)] == first
    assert (2, "closed", []) == (len(benched), breaker(A).state, list_benched())


def test_a_burst_of_rate_limits_is_told_once_and_a_longer_wait_again(clock: Any) -> None:
    """Each extends the bench by a moment; observers hear of it only when its end has moved noticeably."""

    @failover(chain=[A, B])
    async def ask(target: Target, wait: float) -> str:
        await anyio.lowlevel.checkpoint()
        if target.key == A:
            clock.advance(0.001)
            raise ProviderError(429, retry_after=wait)
        return target.key

    async def burst() -> None:
        async with anyio.create_task_group() as group:
            for wait in (20, 20, 20, 60, 60):
                group.start_soon(ask, wait)

    with capture_events(TargetBenched) as benched:
        anyio.run(burst)

    assert [20, 60] == [event.retry_after for event in benched]
    assert pytest.approx(60.0, abs=0.01) == list_benched()[0].remaining


def test_switching_enforcement_off_ends_what_was_automatic() -> None:
    """A circuit that is told to enforce nothing any more lets callers pass at once; a manual bench stays."""
    failing(A, 5)
    failing(B, 5)
    bench_model(B)

    configure(breakers={A: {"mode": "disabled"}, B: {"mode": "metrics_only"}})

    assert ("closed", "open") == (breaker(A).state, breaker(B).state)
    failing(A, 50)
    assert (0, "closed") == (health()[A].errors, breaker(A).state)


def test_retries_of_one_provider_leave_the_budget_of_another(clock: Any) -> None:
    """Budgets are per provider, and old ones are forgotten."""
    budgets = RetryBudgets()
    for _ in range(10):
        assert budgets.take("groq", 0.0, 0.2, 0)

    assert (False, True) == (budgets.take("groq", 1.0, 0.2, 0), budgets.take("openai", 1.0, 0.2, 0))
    assert budgets.take("groq", 1.0, None, 0)
    assert budgets.take("groq", 10.5, 0.2, 0)


def test_budgets_of_idle_providers_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider per tenant does not grow for ever."""
    monkeypatch.setattr("resilient_llm._core.retry_budget._MOST_PROVIDERS", 10)
    budgets = RetryBudgets()

    for number in range(100):
        budgets.first_attempt_failed(f"tenant{number}", float(number * 20))

    assert len(budgets._counts) <= 10


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_slow_consumer_of_events_loses_the_oldest_and_is_told_how_many(backend: str) -> None:
    """The buffer is bounded; what is dropped is counted."""

    async def main() -> tuple[list[str], int]:
        async with events(TargetBenched, buffer=2) as stream:
            for key in ("a", "b", "c", "d"):
                bench_model(key)
            found: list[Event] = []
            async for event in stream:
                found.append(event)
                if len(found) == 2:
                    break
            return [event.target for event in found], stream.dropped

    assert (["c", "d"], 2) == run_async(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_consumer_that_waits_is_woken_from_another_thread(backend: str) -> None:
    """Events reach the loop they are awaited in from whichever thread makes them."""

    async def main() -> str:
        async with events(TargetBenched) as stream, anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, bench_model, "late")
            with anyio.fail_after(10):
                async for event in stream:
                    return event.target
        raise AssertionError

    assert "late" == run_async(main, backend=backend)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_child_has_no_leases_of_its_parents_calls(clock: Any) -> None:
    """The place of a probe that runs in the parent is free in the child, whose locks are its own."""
    failing(A, 5)
    clock.advance(40)
    circuit = runtime.registry.circuit(A)
    before = circuit._lock
    with breaker(A):
        assert "probes taken" == circuit.block(runtime.clock()).reason  # type: ignore[union-attr]
        runtime.after_fork()
        assert circuit.block(runtime.clock()) is None
        assert circuit._lock is not before


def test_what_is_no_stream_policy_is_refused_by_name() -> None:
    """A mistake shows where it is written."""
    wrong_ones: list[Callable[[], object]] = [
        lambda: Target(A, stream=object()),  # type: ignore[arg-type]  # the mistake
        lambda: failover(A, stream=object()),  # type: ignore[arg-type]  # the mistake
        lambda: StreamPolicy(stream=1),  # type: ignore[call-arg]  # the mistake
    ]
    for wrong in wrong_ones:
        with pytest.raises(ConfigurationError, match="stream"):
            wrong()


def test_a_broken_rule_of_a_user_is_logged_by_its_class(caplog: pytest.LogCaptureFixture) -> None:
    """The others are asked, and what went wrong is told without its message."""
    from resilient_llm import classify

    @classify.rule
    def broken(error: BaseException) -> Verdict | None:
        raise ZeroDivisionError("secret")

    assert ErrorKind.TRANSIENT == classify(down()).kind
    assert [
        "ZeroDivisionError" in message and "secret" not in message for message in caplog.messages
    ] == [True]


def test_the_pytest_plugin_isolates_and_fakes_time(tmp_path: Path) -> None:
    """A test that asks for `resilient_llm` starts fresh; `fake_clock` moves its time."""
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
        import pytest

        @pytest.mark.parametrize("round", [1, 2])
        def test_it(resilient_llm, fake_clock, round):
            assert resilient_llm.list_benched() == []
            resilient_llm.bench_model("groq", 10)
            fake_clock.advance(5)
            assert resilient_llm.list_benched()[0].remaining == 5.0
        """)
    )
    plugin = ["-p", "resilient_llm.pytest_plugin"] if not _is_installed() else []

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
            *plugin,
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )

    assert "2 passed" in done.stdout, done.stdout


def _is_installed() -> bool:
    from importlib.metadata import entry_points

    return any(
        point.value == "resilient_llm.pytest_plugin" for point in entry_points(group="pytest11")
    )


def test_two_loops_in_a_row_and_a_cancelled_wait_leave_nothing(clock: Any) -> None:
    """A call that is cancelled while it waits for its next attempt holds no place and is not counted twice."""

    @failover(chain=A, backoff=lambda n: 5.0)
    async def ask(target: Target) -> str:
        raise down()

    async def main() -> None:
        task = asyncio.create_task(ask())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ChainExhaustedError):
            await task

    with capture_events(RetryScheduled) as scheduled:
        asyncio.run(main())

    assert health()[A].errors <= 1 + len(scheduled)
    assert "closed" == breaker(A).state


def test_an_open_trace_elsewhere_leaves_a_call_as_it_is() -> None:
    """While a trace is open in one context, calls of others answer, count and are not collected."""
    import contextvars

    @failover(chain=A)
    def ask(target: Target) -> str:
        return target.key

    ask()
    with Trace() as trace, capture_events(AttemptSucceeded):
        outside = contextvars.Context().run(ask)

    assert (A, 0, 2) == (outside, len(trace.calls), health()[A].total)


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


def test_a_call_that_ends_after_isolation_does_not_touch_the_real_provider() -> None:
    """A result belongs to the state of the process in which its call was let in."""
    begun, go = threading.Event(), threading.Event()

    @failover(chain="groq/a", attempts=1)
    def ask(target: Target, wait: bool) -> None:
        if wait:
            begun.set()
            go.wait()
            raise ProviderError(401, message="Incorrect API key provided", code="invalid_api_key")

    ask(False)
    with isolated():
        ask(False)
        thread = threading.Thread(target=_quiet, args=(ask,))
        thread.start()
        begun.wait()
    ask(False)
    go.set()
    thread.join()

    assert [] == list_benched()


def _quiet(ask: Any) -> None:
    with contextlib.suppress(Exception):
        ask(True)


def test_observers_of_configure_are_called_under_no_lock() -> None:
    """An observer may wait for another thread, also one whose first call needs the library's state."""
    waited: list[bool] = []

    def wait_for_another(event: Event) -> None:
        @failover(chain="openai/b", attempts=1)
        def ask(target: Target) -> str:
            return target.key

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(timeout=5.0)
        waited.append(thread.is_alive())

    with contextlib.suppress(ConnectionResetError), breaker("groq", failures=1):
        raise ConnectionResetError
    stop = observe(wait_for_another, HealthChanged)
    configure(breakers={"groq": {"mode": "disabled"}})
    stop()

    assert waited
    assert not any(waited)


def test_a_key_that_was_let_go_is_held_again_when_it_is_benched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bench is not lost with the guard that brought it, however many keys came meanwhile."""
    monkeypatch.setattr("resilient_llm._registry.MOST_KEYS", 20)
    with isolated():
        guard = breaker("tenant-0", failures=1)
        with contextlib.suppress(ConnectionResetError), guard:
            for number in range(1, 60):
                with breaker(f"tenant-{number}"):
                    pass
            assert "tenant-0" not in runtime.circuits
            raise ConnectionResetError
        del guard

        assert ["tenant-0"] == [each.model for each in list_benched()]


def test_the_busiest_key_is_not_the_longest_idle_one(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    """Keys whose calls take the healthy path count as used."""
    monkeypatch.setattr("resilient_llm._registry.MOST_KEYS", 20)
    with isolated():
        for number in range(200):
            with breaker("busy"):
                pass
            with breaker(f"tenant-{number}"):
                pass
            clock.advance(1.0)

        assert 200 == health()["busy"].total


def test_a_loop_that_is_left_before_its_attempt_gives_the_place_back(clock: FakeClock) -> None:
    """`break` before `with` is fine."""
    policy = failover(chain="groq/a", attempts=1)
    with contextlib.suppress(ConnectionResetError), breaker("groq/a", failures=1):
        raise ConnectionResetError
    clock.advance(40.0)

    for attempt in policy:
        assert 1 == attempt.number
        break
    del attempt

    with breaker("groq/a"):
        pass
    assert "closed" == breaker("groq/a").state


def test_an_awaitable_that_is_never_awaited_gives_the_place_back(clock: FakeClock) -> None:
    """A coroutine that is thrown away holds nothing."""

    @failover(chain="groq/a", attempts=1)
    async def ask(target: Target) -> None: ...

    with contextlib.suppress(ConnectionResetError), breaker("groq/a", failures=1):
        raise ConnectionResetError
    clock.advance(40.0)

    ask().close()

    with breaker("groq/a"):
        pass
    assert "closed" == breaker("groq/a").state


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_consumer_that_stops_reading_a_long_stream_says_nothing_of_its_provider(
    clock: FakeClock, kind: str
) -> None:
    """Ten early stops after a long time of steady items are no failures."""

    @breaker("groq")
    def stream() -> Iterator[int]:
        for item in range(100):
            clock.advance(2.0)
            yield item

    @breaker("groq")
    async def astream() -> AsyncIterator[int]:
        for item in range(100):
            clock.advance(2.0)
            yield item

    async def read() -> None:
        items = astream()
        async for item in items:
            if item == 8:
                break
        await items.aclose()  # type: ignore[attr-defined]

    for _ in range(12):
        if kind == "sync":
            items = stream()
            for item in items:
                if item == 8:
                    break
            items.close()  # type: ignore[attr-defined]
        else:
            asyncio.run(read())

    assert (0, "closed") == (health()["groq"].errors, breaker("groq").state)


@pytest.mark.parametrize("until", [1e12, timedelta.max, datetime.max.replace(tzinfo=UTC)])
def test_a_bench_for_ever_in_other_words_can_be_listed(until: Any) -> None:
    """An end that no datetime can name is shown as the last one that it can."""
    bench_model("groq/a", until=until)

    (bench,) = list_benched()
    assert bench.until is not None
    assert 9999 == bench.until.year
    assert "down" == health()["groq/a"].status


def test_a_recorded_call_from_before_the_trip_closes_nothing(clock: FakeClock) -> None:
    """What is reported later is held against the state in which it began."""
    guard = breaker("groq", failures=1)
    guard.record(ConnectionResetError(), 1.0)
    clock.advance(40.0)

    guard.record(None, 35.0)
    assert "half_open" == guard.state
    guard.record(None, 5.0)

    assert "closed" == guard.state
    guard.record(ConnectionResetError(), 20.0)
    assert 0 == health()["groq"].errors


def test_the_first_call_that_is_recorded_may_have_begun_before_the_guard(clock: FakeClock) -> None:
    """There was no earlier state."""
    breaker("groq").record(None, 5.0)

    assert 1 == health()["groq"].total


def test_a_trace_that_is_left_twice_ends_once() -> None:
    """The next trace sees its calls."""
    first = Trace()
    first.__enter__()
    first.__exit__(None, None, None)
    first.__exit__(None, None, None)

    @failover(chain="groq/a", attempts=1)
    def ask(target: Target) -> str:
        return target.key

    with Trace() as second:
        ask()

    assert "groq/a" == second.served_by
