"""`resilient_llm.testing.simulate`: the real code against given weather, in virtual time."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import itertools
import logging
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trio

from resilient_llm import (
    AttemptSucceeded,
    ConfigurationError,
    DeadlineExceededError,
    Target,
    TargetBenched,
    Trace,
    bench_model,
    configure,
    failover,
    is_benched,
    list_benched,
    observe,
    settings,
)
from resilient_llm._runtime.clock import SystemClock
from resilient_llm._runtime.runtime import Runtime, runtime
from resilient_llm.testing import (
    Fault,
    Report,
    Weather,
    _thread_state,
    _virtual_time,
    capture_events,
    fake_clock,
    http_error,
    simulate,
)
from resilient_llm.testing._report import SentAttempt, SimulatedCall, report_of, rows_as_table
from resilient_llm.testing._simulation import Send, Serve, run
from resilient_llm.testing._virtual_time import VirtualClock, VirtualLoop

CALM = {"a/m": Weather(), "b/m": Weather()}
CHAIN = "a/m, b/m"
STEADY = Weather(spread=0.0)


def _down(kind: Any, start: float = 60, end: float = 120, **options: Any) -> dict[str, Weather]:
    return {"a/m": Weather(spread=0.0, faults=[Fault(kind, start, end, **options)]), "b/m": STEADY}


# Traffic.


def test_equal_seeds_give_equal_reports() -> None:
    """A simulation can be repeated; another seed is other traffic."""
    weather = _down("errors", share=0.3)

    reports = [simulate(CHAIN, weather, rate=2, seconds=200, seed=seed) for seed in (7, 7, 8)]

    assert reports[0] == reports[1]
    assert reports[0] != reports[2]


def test_equal_seeds_give_equal_reports_in_other_processes() -> None:
    """Nothing depends on the process, such as the order of a set."""
    program = (
        "from resilient_llm.testing import Fault, Weather, simulate\n"
        "weather = {k: Weather(faults=Fault('flapping', 60, 120)) for k in ('a/m', 'b/m', 'c/m')}\n"
        "print(simulate('a/m, b/m, c/m', weather, rate=3, seconds=150, seed=3))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }

    weather = {key: Weather(faults=Fault("flapping", 60, 120)) for key in ("a/m", "b/m", "c/m")}
    here = simulate("a/m, b/m, c/m", weather, rate=3, seconds=150, seed=3)
    assert {f"{here}\n"} == outputs


def test_calls_arrive_at_random_at_the_rate() -> None:
    """The gaps between calls have the mean and the deviation of a Poisson process."""
    starts: list[float] = []

    def policy(send: Send) -> Serve:
        async def serve(call: SimulatedCall) -> Any:
            starts.append(call.started_at)
            return await send(call, "a/m")

        return serve

    report = run(policy, {"a/m": STEADY}, rate=4.0, seconds=1000.0, seed=1)

    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert report.calls == len(starts) == pytest.approx(4000, abs=4 * math.sqrt(4000))
    assert mean == pytest.approx(0.25, rel=0.06)
    assert deviation == pytest.approx(mean, rel=0.06)


def test_latencies_are_log_normal() -> None:
    """Half of the answers take less than the median, and one in a hundred what sigma says."""
    report = simulate("a/m", {"a/m": Weather(latency=2.0, spread=0.5)}, rate=20, seconds=500)

    assert report.p50 == pytest.approx(2.0, rel=0.03)
    assert report.p99 == pytest.approx(2.0 * math.exp(0.5 * 2.326), rel=0.08)


def test_no_spread_is_the_same_latency_always() -> None:
    """A test can expect exact numbers."""
    report = simulate("a/m", {"a/m": Weather(latency=1.5, spread=0.0)}, rate=2)

    assert (1.5, 1.5, 1.0, 1.0, 0) == (
        report.p50,
        report.p99,
        report.served,
        report.attempts_per_call,
        report.wasted,
    )


def test_every_policy_meets_the_same_traffic() -> None:
    """When calls start and what a target does to one depends on the seed, not on the policy."""
    seen: list[dict[int, tuple[float, float]]] = []

    def policy(first: str, then: str) -> Any:
        met: dict[int, tuple[float, float]] = {}
        seen.append(met)

        def made(send: Send) -> Serve:
            async def serve(call: SimulatedCall) -> Any:
                await send(call, first)
                answer = await send(call, then)
                both = {each.key: each.answered_at - each.started_at for each in call.attempts}
                met[call.number] = round(call.started_at, 4), round(both["a/m"], 4)
                return answer

            return serve

        return made

    for first, then in (("a/m", "b/m"), ("b/m", "a/m")):
        run(policy(first, then), CALM, rate=2.0, seconds=100.0, seed=5)

    assert len(seen[0]) > 100
    assert seen[0] == seen[1]


def test_waits_are_queued() -> None:
    """Calls that last ten seconds run beside each other, as many as start meanwhile."""
    report = simulate("a/m", {"a/m": Weather(latency=10.0, spread=0.0)}, rate=5, seconds=60)

    assert report.calls > 200
    assert report.p99 == 10.0


def test_calls_that_run_at_the_end_are_run_to_their_end() -> None:
    """The last calls are not lost."""
    report = simulate("a/m", {"a/m": Weather(latency=300.0, spread=0.0)}, rate=1, seconds=100)

    assert (1.0, 300.0) == (report.served, report.p50)


def test_ten_minutes_take_seconds() -> None:
    """Nothing waits for real time."""
    began = time.perf_counter()

    simulate(failover(CHAIN, timeout=30.0), _down("hang"), rate=10)

    assert (
        time.perf_counter() - began < 60
    )  # a second or two, on any machine that does nothing else


# Faults.


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("outage", {}, (503, None)),
        ("errors", {}, (500, None)),
        ("flapping", {}, (503, None)),
        ("rate_limit", {}, (429, None)),
        ("rate_limit", {"retry_after": 7.5}, (429, "7.5")),
    ],
)
def test_a_fault_raises_what_clients_raise(
    kind: str, options: dict[str, Any], expected: tuple[int, str | None]
) -> None:
    """Its errors are classified like those of a real client."""
    seen: set[tuple[int, str | None]] = set()

    def look(error: Any) -> None:
        seen.add((error.status_code, error.headers.get("retry-after")))

    simulate(failover(CHAIN, classify=look), _down(kind, **options), seconds=120)

    assert {expected} == seen


def test_an_error_comes_after_a_tenth_of_the_latency() -> None:
    """An outage costs a call little time if the target answers that it is down."""
    policy = failover(CHAIN, attempts=1)

    report = simulate(policy, _down("outage", 0, 600), rate=0.01)

    assert 1.1 == report.p99


def test_a_slow_target_answers_later() -> None:
    """Its latency is multiplied by the factor while the fault lasts."""
    weather = {"a/m": Weather(spread=0.0, faults=[Fault("slow", 0, 300, factor=4.0)])}

    report = simulate("a/m", weather, rate=1, seconds=400)

    assert (1.0, 4.0, 4.0) == (report.served, report.p50, report.p99)


def test_a_share_of_the_attempts_is_hit() -> None:
    """The others are answered as always."""
    weather = {"a/m": Weather(spread=0.0, faults=[Fault("slow", 0, 1000, share=0.2)])}

    report = simulate("a/m", weather, rate=2, seconds=1000)
    mean = (report.attempts_per_call, report.p50, report.p99)

    assert (1.0, 1.0, 10.0) == mean


@pytest.mark.parametrize(("share", "served"), [(0.1, 0.9), (0.5, 0.5)])
def test_a_share_of_errors_fails_that_share_of_the_calls(share: float, served: float) -> None:
    """A policy of one attempt, without a breaker, meets the share as it is."""
    configure(breakers={"*": {"mode": "disabled"}})
    weather = {"a/m": Weather(faults=[Fault("errors", 0, 1000, share=share)])}

    report = simulate(failover("a/m", attempts=1), weather, rate=3, seconds=1000)

    assert report.served == pytest.approx(served, abs=0.03)


def test_a_flapping_target_is_down_in_the_first_half_of_each_period() -> None:
    """Half of the calls fail, in turns."""
    fault = Fault("flapping", 100, 200, period=20.0)

    down = [now for now in range(90, 211) if fault.hits(now, 0.0)]

    assert [100 + 20 * turn + second for turn in range(5) for second in range(10)] == down


def test_a_hanging_target_is_given_up_by_its_client() -> None:
    """Without a limit of the policy it takes ten minutes."""
    report = simulate(failover(CHAIN, attempts=1), _down("hang", 0, 10), rate=0.2, seconds=10)

    assert 601.0 == report.p99


def test_limits_of_the_policy_cut_a_hanging_target_off() -> None:
    """``attempt_timeout`` ends in virtual time."""
    policy = failover(CHAIN, attempt_timeout=5.0)

    report = simulate(policy, _down("hang", 0, 10), rate=0.2, seconds=10)

    assert (1.0, 6.0) == (report.served, report.p99)


def test_a_deadline_ends_a_call_that_nobody_answers() -> None:
    """It is not served, and all others are."""
    weather = {"a/m": Weather(spread=0.0, faults=[Fault("hang", 0, 10)])}

    report = simulate(failover("a/m", timeout=5.0), weather, rate=0.2, seconds=200)

    assert 0 < report.served < 1
    assert 1.0 == report.p99


def test_two_faults_may_last_at_once() -> None:
    """A slow target with errors is both."""
    faults = [Fault("slow", 0, 100, factor=5.0), Fault("errors", 0, 100)]
    weather = {"a/m": Weather(spread=0.0, faults=faults), "b/m": STEADY}

    report = simulate(failover(CHAIN, attempts=1), weather, rate=0.1, seconds=50)

    assert 1.5 == report.p99  # a tenth of 5 s, then the other target


def test_a_single_fault_needs_no_sequence() -> None:
    """It is one fault."""
    fault = Fault("outage", 1, 2)

    assert Weather(faults=[fault]) == Weather(faults=fault)


# What is simulated.


def test_a_policy_a_function_and_a_chain_are_simulated_alike() -> None:
    """What the application has is what is simulated."""

    @failover(CHAIN)
    async def ask(target: Target, prompt: str) -> str:
        raise AssertionError("nothing is sent")

    weather = _down("outage")

    reports = [
        simulate(each, weather, seconds=100)
        for each in (ask, ask.policy, CHAIN, ["a/m", Target("b/m")])
    ]

    assert [reports[0]] * 4 == reports


def test_the_policy_is_the_real_one() -> None:
    """A breaker that opens keeps calls off the target: few attempts are wasted in an outage."""
    weather = _down("outage", 100, 400)

    with_breaker = simulate(CHAIN, weather, rate=5)
    configure(breakers={"*": {"mode": "disabled"}})
    without = simulate(failover(CHAIN, attempts=1), weather, rate=5)

    assert with_breaker.wasted < 30
    assert without.wasted > 1000


def test_functions_of_targets_are_not_called() -> None:
    """What would send something is replaced; the parameters of a target harm nothing."""

    def call(**_: Any) -> str:
        raise AssertionError("nothing is sent")

    chain = [Target("a/m", call=call, params={"temperature": 0}), Target("b/m", account="eu")]

    report = simulate(chain, {"a/m": STEADY, "b@eu/m": STEADY}, seconds=20)

    assert 1.0 == report.served


def test_reject_and_observers_of_the_policy_are_not_used() -> None:
    """They are made for real answers and real events."""
    events: list[Any] = []
    policy = failover(CHAIN, reject=lambda answer: answer["text"] == "", observers=[events.append])

    report = simulate(policy, _down("outage"), seconds=100)

    assert 1.0 == report.served
    assert [] == events


def test_a_strategy_sees_the_targets() -> None:
    """A function of the user's own decides the order."""

    def last_first(targets: list[Target]) -> list[Target]:
        return list(reversed(targets))

    policy = failover(CHAIN, strategy=last_first)

    report = simulate(policy, _down("outage", 0, 600), seconds=600)

    assert 0 == report.wasted


def test_an_entry_for_a_provider_holds_for_its_targets() -> None:
    """One of a target comes first."""
    down = Weather(spread=0.0, faults=[Fault("outage", 0, 600)])

    report = simulate("a/m, a/n", {"a": down, "a/n": STEADY}, seconds=60)

    assert 1.0 == report.served
    assert ["a/m", "a/n"] == list(report.seconds_to_leave)
    assert report.seconds_to_leave["a/n"] is None


def test_every_wait_of_the_clock_is_virtual() -> None:
    """A sleep, one that blocks, a limit and a callback take the time that they say, and none else."""
    loop, times = VirtualLoop(), dict[str, float]()
    clock = VirtualClock(loop, SystemClock())

    async def waits() -> None:
        await clock.asleep(100.0)
        times["slept"] = float(clock.monotonic())
        clock.sleep(50.0)
        times["blocked"] = float(clock.monotonic())
        with clock.cancel_after(25.0):
            await clock.asleep(1000.0)
        times["cancelled"] = float(clock.monotonic())
        called = asyncio.Event()
        clock.call_after(5.0, called.set)
        await called.wait()
        times["called"] = float(clock.monotonic())

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(waits())

    assert {"slept": 100.0, "blocked": 150.0, "cancelled": 175.0, "called": 180.0} == times


def test_two_readings_of_one_moment_have_an_order() -> None:
    """As on a real clock, what happens later is later."""
    with contextlib.closing(VirtualLoop()) as loop:
        clock = VirtualClock(loop, SystemClock())
        earlier, later = clock.monotonic(), clock.monotonic()

    assert later > earlier
    assert float(later) == float(earlier)


def test_a_wait_for_something_that_is_not_simulated_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A simulation does not stand still for ever."""
    monkeypatch.setattr(_virtual_time, "_STUCK", 0.01)

    async def wait() -> None:
        await asyncio.Event().wait()

    with (
        pytest.raises(RuntimeError, match="must not wait for threads"),
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
    ):
        runner.run(wait())


# Isolation.


def test_nothing_goes_out_of_a_simulation(caplog: pytest.LogCaptureFixture) -> None:
    """No bench, event, trace or log line of it is seen outside."""
    caplog.set_level(logging.DEBUG)
    with capture_events() as events, Trace() as trace:
        simulate(failover(CHAIN, attempts=1), _down("outage", 0, 600))

    assert [] == list_benched()
    assert [] == events
    assert [] == list(trace.calls)
    assert [] == [each for each in caplog.records if each.name.startswith("resilient_llm")]


def test_nothing_goes_into_a_simulation() -> None:
    """A bench, a clock and a state of randomness of the process stay where they are."""
    expected = simulate(CHAIN, _down("outage"), seconds=100)

    bench_model("a/m")
    with fake_clock() as clock:
        clock.advance(5)
        clock_before, rng, state = runtime.time, runtime.rng, runtime.rng.getstate()
        report = simulate(CHAIN, _down("outage"), seconds=100)

        assert clock_before is runtime.time
        assert (rng, state) == (runtime.rng, runtime.rng.getstate())
    assert expected == report
    assert is_benched("a/m")


def test_a_function_is_bound_to_the_real_state_afterwards() -> None:
    """One that was called before a simulation is called as always after it."""

    @failover(CHAIN)
    def ask(target: Target) -> str:
        return target.key

    assert "a/m" == ask()
    simulate(ask, _down("outage"), seconds=100)
    bench_model("a/m")

    assert "b/m" == ask()


def test_settings_of_the_process_hold() -> None:
    """What `configure` set is part of what is simulated."""
    weather = _down("outage", 0, 600)

    default = simulate(failover(CHAIN, attempts=1), weather, rate=2)
    configure(breakers={"a/m": {"failures": 1, "cooldown": 600.0, "max_cooldown": 600.0}})
    configured = simulate(failover(CHAIN, attempts=1), weather, rate=2)

    assert 1 == configured.wasted
    assert default.wasted > 5


def test_an_error_of_the_policys_own_functions_leaves() -> None:
    """A mistake is not counted as a call that was not served; the real state is back."""
    before = runtime.time

    def broken(targets: Any) -> Any:
        raise ZeroDivisionError

    def nonsense(targets: Any) -> Any:
        return ["nonsense"]

    with pytest.raises(ZeroDivisionError):
        simulate(failover(CHAIN, strategy=broken), CALM)
    with pytest.raises(ConfigurationError):
        simulate(failover(CHAIN, strategy=nonsense), CALM)
    assert before is runtime.time


@pytest.mark.parametrize("option", ["strategy", "needs"])
@pytest.mark.parametrize(
    "make",
    [
        asyncio.CancelledError,
        TimeoutError,
        lambda: http_error(500),
        lambda: DeadlineExceededError(1.0),
        SystemExit,
    ],
    ids=["CancelledError", "TimeoutError", "FakeHTTPError", "DeadlineExceededError", "SystemExit"],
)
def test_every_error_of_the_policys_own_functions_leaves(option: str, make: Any) -> None:
    """Also one that a call raises when it is not served, or that ends a task."""
    before, error = runtime.time, make()

    def broken(_: Any) -> Any:
        raise error

    options: Any = {option: broken}

    with pytest.raises(BaseException) as caught:  # its identity is looked at
        simulate(failover(CHAIN, **options), CALM, seconds=60)
    assert error is caught.value
    assert before is runtime.time


@pytest.mark.parametrize("option", ["tokens", "backoff"])
def test_a_cancellation_leaves_every_function(option: str) -> None:
    """Those whose other errors are passed over, as in a real call, among them."""

    def broken(*_: Any) -> Any:
        raise asyncio.CancelledError

    options: Any = {"attempts": 2, option: broken}
    policy = failover(CHAIN, **options)

    with pytest.raises(asyncio.CancelledError):
        simulate(policy, _down("errors", 0, 600), seconds=60)


@pytest.mark.parametrize("kind", ["outage", "hang"])
@pytest.mark.parametrize("reraise", [False, True])
def test_errors_of_the_providers_stay(kind: str, reraise: bool) -> None:  # a row
    """A call that is not served is counted, whichever error its caller gets."""
    policy = failover(CHAIN, reraise=reraise, attempt_timeout=5.0, timeout=30.0)
    weather = {key: Weather(faults=Fault(kind, 0, 100)) for key in CALM}  # type: ignore[arg-type]  # a row

    assert 0.0 == simulate(policy, weather, seconds=60).served


def test_a_strategy_that_fails_while_it_is_read_leaves() -> None:
    """It may be a generator."""

    def broken(targets: list[Target]) -> Any:
        yield targets[0]
        raise TimeoutError("own")

    with pytest.raises(TimeoutError, match="own"):
        simulate(failover(CHAIN, strategy=broken), CALM)


def test_an_interrupt_leaves() -> None:
    """Ctrl-C ends a simulation, also while calls wait, and the real state is back."""
    before, turns = runtime.time, iter(range(100))

    def interrupting(targets: Any) -> Any:
        if next(turns) == 20:
            raise KeyboardInterrupt
        return targets

    with pytest.raises(KeyboardInterrupt):
        simulate(failover(CHAIN, strategy=interrupting), CALM, rate=10)
    assert before is runtime.time
    assert simulate(CHAIN, CALM, seconds=10).calls > 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals a thread")
@pytest.mark.parametrize("ends_the_wait", [True, False])
def test_an_interrupt_of_a_loop_leaves(ends_the_wait: bool) -> None:
    """So it is where a loop runs around the simulation, which then has a thread of its own.

    A signal that comes just before the caller begins to wait does not end the wait.
    """
    before, main, turns = runtime.time, threading.get_ident(), itertools.count()

    def interrupting(targets: Any) -> Any:
        if next(turns) == 20:
            _wait_until_blocked(main)
            if ends_the_wait:
                signal.pthread_kill(main, signal.SIGINT)
            else:
                _thread.interrupt_main()
        return targets

    async def inside() -> Report:
        return simulate(failover(CHAIN, strategy=interrupting), CALM, rate=10, seconds=36_000)

    with contextlib.closing(asyncio.new_event_loop()) as loop, pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(inside())

    assert before is runtime.time
    assert next(turns) < 300_000


def _wait_until_blocked(thread: int) -> None:
    """Wait until a thread has stayed at one instruction for a while."""
    places: list[Any] = []
    while len(places) < 5 or len(set(places[-5:])) > 1:
        time.sleep(0.002)
        frame = sys._current_frames()[thread]
        places.append((frame.f_code, frame.f_lasti))


@pytest.mark.parametrize("is_started", ["never", "just now", "long ago"])
def test_an_interrupt_while_its_thread_is_started_leaves(
    monkeypatch: pytest.MonkeyPatch, is_started: str
) -> None:
    """Either the thread has not begun and never will, or it is waited for."""
    turns, is_under_way = itertools.count(), threading.Event()
    start, made = threading.Thread.start, list[threading.Thread]()

    def counting(targets: Any) -> Any:
        if next(turns) == 5:
            is_under_way.set()
        return targets

    def interrupted(thread: threading.Thread) -> None:
        made.append(thread)
        if is_started != "never":
            start(thread)
        if is_started == "long ago":
            assert is_under_way.wait(10)
        raise KeyboardInterrupt

    async def inside() -> Report:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", interrupted)
            return simulate(failover(CHAIN, strategy=counting), CALM, rate=10, seconds=36_000)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(inside())

    assert Runtime is type(runtime)
    assert simulate(CHAIN, CALM, seconds=10).calls > 0
    if is_started != "never":
        made[0].join(10)
    assert next(turns) < 300_000


def test_a_simulation_can_be_run_inside_a_loop() -> None:
    """A notebook runs a loop; asyncio and trio get the same report as synchronous code."""
    expected = simulate(CHAIN, _down("outage"), seconds=100)

    async def inside() -> Report:
        return simulate(CHAIN, _down("outage"), seconds=100)

    async def failing() -> Report:
        return simulate(CHAIN, {})

    assert expected == asyncio.run(inside())
    assert expected == trio.run(inside)
    with pytest.raises(ConfigurationError, match="no entry"):
        asyncio.run(failing())


def test_a_simulation_can_be_run_inside_a_guarded_call() -> None:
    """The call around it is not one of the simulation."""
    reports: list[Report] = []

    @failover("x/y")
    async def ask(target: Target) -> str:
        reports.append(simulate(CHAIN, _down("outage"), seconds=100))
        return target.key

    with Trace() as trace:
        asyncio.run(ask())

    assert [simulate(CHAIN, _down("outage"), seconds=100)] == reports
    assert "x/y" == trace.served_by


def test_two_simulations_at_once_are_refused() -> None:
    """Each exchanges the state of the process."""
    inner: list[BaseException] = []

    def nesting(targets: Any) -> Any:
        for work in (_simulate_calm, _simulate_calm_in_a_thread):
            try:
                work()
            except RuntimeError as error:
                inner.append(error)
        return targets

    simulate(failover(CHAIN, strategy=nesting), CALM, rate=0.1, seconds=20)

    assert inner
    assert all("one at a time" in str(error) for error in inner)


def _simulate_calm() -> None:
    simulate(CHAIN, CALM)


def _simulate_calm_in_a_thread() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            _simulate_calm()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    raise errors[0]


# Other threads.


def _in_a_thread(work: Any) -> Any:
    """Do work in another thread, to its end; return what it returns."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(10)


def _at_turn(number: int, work: Any) -> Any:
    """Return a strategy that does work in another thread in the midst of a simulation."""
    turns = itertools.count()

    def strategy(targets: Any) -> Any:
        if next(turns) == number:
            _in_a_thread(work)
        return targets

    return strategy


def test_calls_of_other_threads_are_real() -> None:
    """Those that begin before, during and after a simulation keep the time of the process."""
    loop, ends, answers = asyncio.new_event_loop(), asyncio.Event(), list[str]()

    @failover("a/m, b/m", timeout=30.0, attempt_timeout=20.0, hedge=10.0)
    async def ask(target: Target) -> str:
        await ends.wait()
        return target.key

    async def begin() -> Any:
        return asyncio.create_task(ask())

    def on_loop(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with fake_clock() as clock, capture_events(AttemptSucceeded) as events:
            tasks = [on_loop(begin())]
            clock.advance(3.0)
            policy = failover(CHAIN, strategy=_at_turn(20, lambda: tasks.append(on_loop(begin()))))
            simulate(policy, CALM, rate=1, seconds=600)
            tasks.append(on_loop(begin()))
            clock.advance(4.0)
            loop.call_soon_threadsafe(ends.set)
            answers += [on_loop(asyncio.wait_for(task, 10)) for task in tasks]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    assert ["a/m"] * 3 == answers
    assert [7.0, 4.0, 4.0] == [event.seconds for event in events]


def test_a_thread_may_read_the_state_in_the_moment_in_which_a_simulation_ends() -> None:
    """It has begun with the class that the state had meanwhile, which is another one by then."""
    kept = runtime.settings

    assert kept is _thread_state._Divided.__getattribute__(runtime, "settings")
    _thread_state._Divided.__setattr__(runtime, "settings", kept)

    assert kept is runtime.settings


def test_what_other_threads_find_out_meanwhile_stays() -> None:
    """A bench, a setting and an observer are those of the process, and not of the simulation."""
    weather, seen = _down("outage"), list[Any]()
    idle = failover(CHAIN, strategy=_at_turn(20, lambda: None))
    expected = simulate(idle, weather, seconds=200)

    @failover("a/m, b/m", timeout=30.0)
    def ask(target: Target) -> str:
        if target.key == "a/m":
            raise http_error(503)
        return target.key

    def work() -> None:
        observe(seen.append, TargetBenched)
        configure(cooldown=77.0, max_wait=5.0)
        bench_model("b/n")
        for _ in range(20):
            ask()

    report = simulate(failover(CHAIN, strategy=_at_turn(20, work)), weather, seconds=200)

    assert expected == report
    assert ["a/m", "b/n"] == [each.model for each in list_benched()]
    assert ["b/n", "a/m"] == [event.target for event in seen]
    assert 5.0 == settings().max_wait


def test_reports_do_not_depend_on_other_threads() -> None:
    """Not while they call the same targets at any moment, with randomness."""
    weather, stop = _down("errors", share=0.5), threading.Event()
    expected = simulate(failover(CHAIN, strategy="random"), weather, seconds=200)
    failures, begun = list[BaseException](), threading.Barrier(3)

    @failover("a/m, b/m", timeout=30.0, hedge=0.01, strategy="random")
    async def ask(target: Target) -> str:
        await asyncio.sleep(0)
        if target.key == "a/m":
            raise http_error(503)
        return target.key

    async def calls() -> None:
        await ask()
        begun.wait(10)
        while not stop.is_set():
            await ask()

    def work() -> None:
        try:
            asyncio.run(calls())
        except BaseException as error:  # the test looks at it
            failures.append(error)

    threads, interval = [threading.Thread(target=work) for _ in range(2)], sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        begun.wait(10)
        reports = [
            simulate(failover(CHAIN, strategy="random"), weather, seconds=200) for _ in range(3)
        ]
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()

    assert [expected] * 3 == reports
    assert [] == failures


def test_a_virtual_clock_leaves_other_threads_to_the_real_one() -> None:
    """It never touches its loop for them."""
    with contextlib.closing(VirtualLoop()) as loop, fake_clock() as real:
        clock, called = VirtualClock(loop, real), list[int]()
        before = loop.time()

        async def waits() -> None:
            clock.sleep(5.0)
            await clock.asleep(6.0)
            clock.call_after(7.0, lambda: called.append(1))
            with clock.cancel_after(3.0) as scope:
                real.advance(7.0)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert scope.cancel_called

        began = real.monotonic()
        _in_a_thread(lambda: asyncio.run(waits()))

        assert [1] == called
        assert 18.0 == float(real.monotonic()) - float(began)
        read: Any = _in_a_thread(lambda: (float(clock.monotonic()), clock.wall()))
        assert (float(real.monotonic()), real.wall()) == read
        assert before == loop.time() == float(clock.monotonic())
        assert not _in_a_thread(clock.is_cut_off)
        assert type(real.alarm()) is type(_in_a_thread(clock.alarm))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_that_another_thread_forks_uses_the_real_state() -> None:
    """The thread of the simulation does not exist there, so the child may simulate."""
    codes: list[int] = []

    def fork() -> None:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if type(runtime) is Runtime and simulate("a/m", {"a/m": STEADY}) else 2
            finally:
                os._exit(code)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    simulate(failover(CHAIN, strategy=_at_turn(5, fork)), CALM, seconds=60)

    assert [0] == codes


# Reports.


def _call(start: float, end: float, *attempts: tuple[str, float], served: int | None) -> Any:
    call = SimulatedCall(0, start)
    call.ended_at = end
    call.attempts = [SentAttempt(key, at) for key, at in attempts]
    if served is not None:
        call.served_by = call.attempts[served]
        call.served_by.answered_at = end
    return call


def test_a_report_counts_calls_and_attempts() -> None:
    """Shares are of all calls, percentiles of the served ones, waste of all attempts."""
    calls = [
        _call(0.0, 1.0, ("a/m", 0.0), served=0),
        _call(1.0, 3.0, ("a/m", 1.0), ("b/m", 1.5), served=1),
        _call(2.0, 9.0, ("a/m", 2.0), ("b/m", 3.0), served=None),
        _call(3.0, 3.5, served=None),
    ]

    report = report_of(calls, {"a/m": STEADY, "b/m": STEADY})

    assert report == Report(
        calls=4,
        served=0.5,
        p50=1.0,
        p99=2.0,
        attempts_per_call=1.25,
        wasted=3,
        seconds_to_leave={"a/m": None, "b/m": None},
        seconds_to_return={"a/m": None, "b/m": None},
    )


def test_a_report_says_when_calls_left_and_came_back() -> None:
    """From the start of the first fault, and from its end."""
    weather = {"a/m": Weather(faults=[Fault("errors", 40, 50), Fault("outage", 10, 20)])}
    calls = [
        _call(9.0, 9.5, ("b/m", 9.0), served=0),  # before the fault
        _call(11.0, 12.0, ("a/m", 11.0), ("b/m", 11.5), served=1),  # starts there
        _call(11.5, 11.5, served=None),  # starts nowhere
        _call(13.0, 14.0, ("b/m", 13.0), served=0),
        _call(19.0, 23.0, ("a/m", 19.0), served=0),  # an attempt of before the end
        _call(21.0, 29.0, ("a/m", 21.0), served=0),
        _call(22.0, 25.5, ("b/m", 22.0), ("a/m", 24.0), served=1),
    ]

    report = report_of(calls, weather)

    assert {"a/m": 3.0} == report.seconds_to_leave
    assert {"a/m": 5.5} == report.seconds_to_return


def test_a_target_that_is_never_left_has_no_seconds() -> None:
    """Neither has one that calls never return to."""
    report = simulate("a/m", {"a/m": Weather(faults=[Fault("slow", 10, 90)])}, seconds=80)

    assert {"a/m": None} == report.seconds_to_leave
    assert {"a/m": None} == report.seconds_to_return


def test_a_simulation_without_calls_has_a_report() -> None:
    """Nothing was served, and nothing is divided by zero."""
    report = simulate("a/m", {"a/m": STEADY}, rate=0.001, seconds=1)

    assert Report(0, 0.0, None, None, 0.0, 0, {"a/m": None}, {"a/m": None}) == report
    assert "| 0     | 0.00 % | -   | -   |" in report.table()


def test_a_report_is_a_value() -> None:
    """It can be compared, pickled and printed."""
    report = simulate(CHAIN, _down("outage"), seconds=100)

    assert report == pickle.loads(pickle.dumps(report))
    assert f"Report(calls={report.calls}, served=1.0, p50=1.0" in repr(report)
    for weather in (Weather(faults=Fault("hang", 1, 2)), Fault("slow", 1, 2, factor=3)):
        assert weather == pickle.loads(pickle.dumps(weather))


def test_a_report_has_a_table() -> None:
    """It can be read on a terminal, and pasted into Markdown."""
    report = Report(120, 0.995, 1.0, 3.25, 1.05, 7, {"a/m": 1.5}, {"a/m": None})

    assert report.table().splitlines() == [
        "| calls | served  | p50    | p99    | attempts per call | wasted |",
        "|-------|---------|--------|--------|-------------------|--------|",
        "| 120   | 99.50 % | 1.00 s | 3.25 s | 1.050             | 7      |",
        "",
        "| target | to leave | to return |",
        "|--------|----------|-----------|",
        "| a/m    | 1.50 s   | -         |",
    ]
    assert "| a |\n|---|\n| b |" == rows_as_table([["a"], ["b"]])


# Mistakes.

FAULT: Any = Fault
WEATHER: Any = Weather


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FAULT("outtage", 1, 2), "did you mean 'outage'"),
        (lambda: FAULT("outage", 2, 1), "end=1 is not after start=2"),
        (lambda: FAULT("outage", 2, 2), "is not after"),
        (lambda: FAULT("outage", -1, 2), "start=-1"),
        (lambda: FAULT("outage", 1, math.inf), "end=inf"),
        (lambda: FAULT("errors", 1, 2, share=1.5), "share=1.5"),
        (lambda: FAULT("errors", 1, 2, share=0), "share=0"),
        (lambda: FAULT("slow", 1, 2, factor=0.5), "factor=0.5"),
        (lambda: FAULT("rate_limit", 1, 2, retry_after="soon"), "retry_after='soon'"),
        (lambda: FAULT("flapping", 1, 2, period=0), "period=0"),
        (lambda: WEATHER(latency=0), "latency=0"),
        (lambda: WEATHER(latency=True), "latency=True"),
        (lambda: WEATHER(spread=-1), "spread=-1"),
        (lambda: WEATHER(faults="outage"), "faults of type str"),
        (lambda: WEATHER(faults=["outage"]), "faults holds a str"),
        (lambda: simulate(CHAIN, None), "weather of type NoneType"),  # type: ignore[arg-type]  # wrong
        (lambda: simulate(CHAIN, {"a/m": STEADY}), "no entry for b/m"),
        (lambda: simulate(CHAIN, {**CALM, "c/m": STEADY}), "'c/m'] is for no target"),
        (lambda: simulate("groq/llama", {"groq/lama": STEADY}), "did you mean 'groq/llama'"),
        (lambda: simulate(CHAIN, {**CALM, "A/m": STEADY}), "names 'a/m' twice"),
        (lambda: simulate(CHAIN, {"a/m": 1, "b/m": 2}), "of type int"),  # type: ignore[dict-item]  # wrong
        (lambda: simulate(CHAIN, CALM, rate=-1), "rate=-1"),
        (lambda: simulate(CHAIN, CALM, rate=0), "rate=0"),
        (lambda: simulate(CHAIN, CALM, seconds=0), "seconds=0"),
        (lambda: simulate(CHAIN, CALM, seed=1.5), "seed=1.5"),  # type: ignore[arg-type]  # wrong
        (lambda: simulate("", CALM), "write"),
    ],
)
def test_a_mistake_is_an_error_where_it_is_written(build: Any, message: str) -> None:
    """The message says what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        build()

    assert message in str(caught.value)
