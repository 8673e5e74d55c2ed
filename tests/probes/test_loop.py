"""How a health probe is started and stopped, when it ticks, and what it leaves behind: nothing."""

from __future__ import annotations

import ast
import asyncio
import contextvars
import gc
import inspect
import pickle
import re
import threading
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from resilient_llm import ConfigurationError, Target, Trace, breaker, failover, health, observe
from resilient_llm._runtime.runtime import runtime
from resilient_llm.probes import HealthProbe, ProbeResult, http_probe
from resilient_llm.probes._result import LATE, RUNNING, THREADS, TRAFFIC
from resilient_llm.probes._threads import MOST
from resilient_llm.testing import FakeClock, fake_clock, isolated
from tests.support.guards import eager_threads
from tests.support.ways import GROQ, ProviderError

PATIENCE = 40.0
"""Real seconds after which a test gives up; nothing takes as long."""


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run an asynchronous function."""

    def run(fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return anyio.run(fn, *args, backend=request.param)

    return run


async def quiet() -> None:
    """Let everything run that can."""
    await anyio.wait_all_tasks_blocked()


def threads(name: str = "resilient_llm-probe") -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith(name)]


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.001)


async def await_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it did not come"
        await anyio.sleep(0.001)


class Counted:
    """An asynchronous probe that counts, and hangs if it is told to."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.begun = 0
        self.ended = 0
        self.hangs = hangs

    async def __call__(self) -> None:
        self.begun += 1
        try:
            if self.hangs:
                await anyio.sleep_forever()
        finally:
            self.ended += 1


# When it ticks.


def test_the_first_tick_is_at_once_and_the_next_ones_after_the_interval(
    run: Callable[..., Any], clock: FakeClock
) -> None:
    """By the clock of the process, which its waits do not move."""
    probe, began_at = Counted(), float(clock.monotonic())

    async def main() -> list[int]:
        seen: list[int] = []
        async with HealthProbe({"groq": probe}, interval=30.0, jitter=0.0):
            for seconds in (0.0, 29.0, 1.0, 29.9, 0.1, 60.0):
                clock.advance(seconds)
                await quiet()
                seen.append(probe.begun)
        return seen

    assert [1, 1, 2, 2, 3, 4] == run(main)
    assert (119.0 + 1.0, []) == (float(clock.monotonic()) - began_at, clock.sleeps)


def test_an_interval_is_longer_or_shorter_by_its_jitter(
    run: Callable[..., Any], clock: FakeClock
) -> None:
    """Each by another share, within the bounds."""
    intervals: list[float] = []
    runtime.rng.seed(14)

    async def main() -> None:
        last = [float(clock.monotonic())]

        async def note() -> None:
            now = float(clock.monotonic())
            intervals.append(now - last[0])
            last[0] = now

        async with HealthProbe({"groq": note}, interval=10.0, jitter=0.4):
            await quiet()
            for _ in range(350):
                clock.advance(1.0)
                await quiet()

    run(main)

    assert 0.0 == intervals.pop(0)
    assert 6.0 <= min(intervals) <= 8.0 < 12.0 < max(intervals) <= 15.0
    assert 28 < len(intervals) < 40


def test_slow_probes_do_not_make_the_interval_longer(
    run: Callable[..., Any], clock: FakeClock
) -> None:
    """It is counted from the beginning of a tick."""
    probe = Counted(hangs=True)

    async def main() -> list[int]:
        seen: list[int] = []
        async with HealthProbe({"groq": probe}, interval=10.0, jitter=0.0, timeout=4.0):
            for seconds in (0.0, 4.0, 5.9, 0.1):
                clock.advance(seconds)
                await quiet()
                seen.append(probe.begun)
        return seen

    assert [1, 1, 1, 2] == run(main)


def test_a_timeout_ends_by_the_clock_and_cancels_the_probe(
    run: Callable[..., Any], clock: FakeClock
) -> None:
    """A hanging probe is one failure."""
    probe = Counted(hangs=True)

    async def main() -> tuple[int, ProbeResult]:
        results: list[dict[str, ProbeResult]] = []

        async def tick() -> None:
            results.append(await HealthProbe({"groq": probe}, timeout=3.0).tick())

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            await quiet()
            clock.advance(2.9)
            await quiet()
            before = len(results)
            clock.advance(0.1)
        await quiet()
        return before, results[0]["groq"]

    before, result = run(main)

    assert (0, 1) == (before, probe.ended)
    assert (False, "timeout", 3.0) == (result.ok, result.reason, pytest.approx(result.seconds))
    assert 1 == health(["groq"])["groq"].errors


def test_a_probe_that_was_cancelled_is_probed_anew_by_the_next_tick(
    run: Callable[..., Any],
) -> None:
    """Also if that follows at once: it does not hang any more."""
    probe = Counted(hangs=True)

    async def main() -> None:
        one = HealthProbe({"groq": probe}, timeout=0.1)
        await one.tick()
        assert 1 == probe.ended
        probe.hangs = False
        assert (await one.tick())["groq"].ok

    run(main)


def test_probes_run_side_by_side_and_each_reports_when_it_ends(
    run: Callable[..., Any], clock: FakeClock
) -> None:
    """A slow one holds up no other."""

    async def main() -> int:
        async def bad() -> bool:
            return False

        async with HealthProbe({"groq": Counted(hangs=True), "openai": bad}):
            await quiet()
            return health(["openai"])["openai"].errors

    assert 1 == run(main)


def test_a_fake_clock_that_begins_or_ends_takes_over_the_waits(run: Callable[..., Any]) -> None:
    """A loop that was started before waits by the clock that there is now."""
    probe = Counted()

    async def main() -> list[int]:
        seen: list[int] = []
        async with HealthProbe({"groq": probe}, interval=1_000.0, jitter=0.0):
            await quiet()
            with fake_clock() as clock:
                for seconds in (0.0, 1_001.0, 1_001.0):
                    clock.advance(seconds)
                    await quiet()
                    seen.append(probe.begun)
            await quiet()
            seen.append(probe.begun)
        return seen

    assert [1, 2, 3, 3] == run(main)


def test_what_a_fake_clock_has_moved_does_not_hold_up_a_loop_afterwards(
    run: Callable[..., Any],
) -> None:
    """A wait that began on it lasts an interval at most when it is gone."""
    probe = Counted()

    async def main() -> None:
        async with HealthProbe({"groq": probe}, interval=0.05):
            await quiet()
            with fake_clock() as clock:
                clock.advance(1e6)
                before = probe.begun
                await await_for(lambda: probe.begun > before)
                await quiet()
            before = probe.begun
            await await_for(lambda: probe.begun > before)

    run(main)


def test_an_async_def_that_blocks_delays_only_its_loop() -> None:
    """The application goes on if the loop is in a thread."""
    begun, go_on = threading.Event(), threading.Event()

    async def blocks() -> None:
        begun.set()
        go_on.wait(PATIENCE)

    probe = HealthProbe({"groq": blocks})
    probe.start_thread()
    assert begun.wait(PATIENCE)

    async def main() -> None:
        await anyio.lowlevel.checkpoint()

    anyio.run(main)
    probe.stop_thread(0.01)
    left = threads("resilient_llm-probes")
    go_on.set()
    for each in left:
        each.join(PATIENCE)

    assert 1 == len(left)
    assert not probe.running


def test_a_probe_that_could_not_begin_is_not_blamed(run: Callable[..., Any]) -> None:
    """Its event loop was blocked, by another probe or by the application."""
    probe = Counted()

    async def blocks() -> None:
        time.sleep(0.1)  # noqa: ASYNC251  # what is wrong with it is what is tested

    async def main() -> dict[str, ProbeResult]:
        keys = {f"p{number}": blocks for number in range(3)}
        return await HealthProbe({**keys, "groq": probe}, timeout=0.05).tick()

    found = run(main)

    assert 0 == health(["groq"])["groq"].errors
    assert found["groq"].ok or (found["groq"].skipped and "late" == found["groq"].reason)


# Starting and stopping.


def test_start_and_stop_may_be_called_twice(run: Callable[..., Any], clock: FakeClock) -> None:
    """The second call does nothing, and a stopped one can be started again."""
    probe = Counted()

    async def main() -> list[tuple[bool, int]]:
        one = HealthProbe({"groq": probe})
        seen = [(one.running, probe.begun)]
        for step in (one.start, one.start, one.stop, one.stop, one.start, one.stop):
            await step()
            await quiet()
            seen.append((one.running, probe.begun))
        return seen

    assert [(False, 0), (True, 1), (True, 1), (False, 1), (False, 1), (True, 2), (False, 2)] == run(
        main
    )


def test_a_thread_may_be_started_and_stopped_twice() -> None:
    """For synchronous programs, with probes of both kinds."""
    asynchronous, called = Counted(), threading.Event()
    one = HealthProbe({"groq": asynchronous, "openai": called.set})

    one.start_thread()
    one.start_thread()
    wait_for(lambda: asynchronous.ended and called.is_set())
    running, count = one.running, len(threads("resilient_llm-probes"))
    one.stop_thread()
    one.stop_thread()
    stopped = one.running, threads("resilient_llm-probes")
    one.start_thread()
    wait_for(lambda: asynchronous.ended == 2)
    one.stop_thread()

    assert (True, 1, (False, [])) == (running, count, stopped)


def test_both_ways_at_once_are_refused(run: Callable[..., Any]) -> None:
    """One way must be stopped before the other is started; nothing is stopped by the other."""
    one = HealthProbe({"groq": Counted()})

    async def main() -> None:
        async with one:
            with pytest.raises(RuntimeError, match=r"await probe\.stop\(\)"):
                one.start_thread()
            one.stop_thread()
            assert one.running
        one.start_thread()
        with pytest.raises(RuntimeError, match=r"probe\.stop_thread\(\)"):
            await one.start()
        with pytest.raises(RuntimeError):
            async with one:
                pass
        await one.stop()
        assert one.running

    run(main)
    one.stop_thread()
    assert not one.running


def test_stopping_cancels_what_runs_and_waits_for_it(
    run: Callable[..., Any], clock: FakeClock
) -> None:
    """When `stop` returns no probe is running, and the result of a cancelled one is dropped."""
    probe = Counted(hangs=True)

    async def main() -> None:
        async with HealthProbe({"groq": probe}):
            await quiet()
            assert (1, 0) == (probe.begun, probe.ended)
        assert 1 == probe.ended

    run(main)
    assert 0 == health(["groq"])["groq"].errors


def test_stop_returns_though_a_probe_ignores_its_cancellation() -> None:
    """After the timeout; until it ends its key gives a timeout again."""

    async def main() -> tuple[float, list[str]]:
        end = anyio.Event()

        async def stubborn() -> None:
            while not end.is_set():
                try:
                    await asyncio.wait_for(end.wait(), 100)
                except asyncio.CancelledError:
                    pass

        one = HealthProbe({"groq": stubborn}, timeout=0.02)
        first = await one.tick()
        second = await one.tick()
        await one.start()
        await anyio.lowlevel.checkpoint()
        began = time.monotonic()
        await one.stop()
        took = time.monotonic() - began
        end.set()
        await await_for(lambda: not one._runs.running)
        third = await one.tick()
        return took, [each["groq"].reason for each in (first, second, third)]

    took, reasons = asyncio.run(main())

    assert ["timeout", "timeout", ""] == reasons
    assert took < 1.0


@pytest.mark.parametrize("way", ["stop", "exit", "loop ends"])
def test_nothing_is_left_of_it(run: Callable[..., Any], way: str) -> None:
    """Neither a task nor an entry in the state of the process."""
    probe = Counted()
    one = HealthProbe({"groq": probe})

    async def main() -> None:
        if way == "exit":
            async with one:
                await quiet()
        else:
            await one.start()
            await quiet()
            if way == "stop":
                await one.stop()

    run(main)

    assert (1, 1, False) == (probe.begun, probe.ended, one.running)
    assert not [each for each in runtime.attached if "probes" in type(each).__module__]
    run(one.start)


def test_no_scope_is_open_inside_the_block(run: Callable[..., Any]) -> None:
    """It may be entered in one task and left in another, and between the ends of others."""
    one = HealthProbe({"groq": Counted()})

    async def agen() -> Any:
        async with one:
            yield

    async def main() -> None:
        # A task group that is opened inside the block and closed after it.
        async with anyio.create_task_group() as outer:
            outer.start_soon(one.__aenter__)
            await quiet()
            assert one.running
            outer.start_soon(one.__aexit__, None, None, None)
        assert not one.running
        items = agen()
        await items.__anext__()
        with anyio.CancelScope():
            await items.aclose()
        assert not one.running

    run(main)


def test_a_cancelled_block_is_left_without_a_wait(run: Callable[..., Any]) -> None:
    """The loop ends though there is no time to wait for that."""
    probe = Counted(hangs=True)

    async def main() -> None:
        one = HealthProbe({"groq": probe})
        with anyio.move_on_after(0.01):
            async with one:
                await anyio.sleep(PATIENCE)
        assert not one.running
        await await_for(lambda: probe.ended)

    run(main)


@pytest.mark.parametrize("what", ["start", "stop", "tick"])
def test_each_may_be_cancelled_at_every_await(run: Callable[..., Any], what: str) -> None:
    """Afterwards nothing runs, and everything can be done again."""

    async def main() -> int:
        steps = 0
        while True:
            probe = Counted(hangs=True)
            one = HealthProbe({"groq": probe, "openai": Counted()}, timeout=0.03)
            if what == "stop":
                await one.start()
                await quiet()
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:

                    async def cancel_at(step: int = steps, group: Any = group) -> None:
                        for _ in range(step):
                            await anyio.lowlevel.checkpoint()
                        group.cancel_scope.cancel()

                    async def act(one: HealthProbe = one) -> None:
                        await getattr(one, what)()

                    group.start_soon(cancel_at)
                    group.start_soon(act)
            assert not scope.cancelled_caught
            await one.stop()
            await await_for(lambda: probe.begun == probe.ended)  # noqa: B023  # of this round
            assert (False, {}) == (one.running, one._runs.running)
            steps += 1
            if steps > 12:
                return steps

    assert 13 == run(main)


def test_a_loop_that_was_closed_is_not_running() -> None:
    """Where an event loop is closed with its tasks, another one may start it."""
    one = HealthProbe({"groq": Counted(), "openai": lambda: None})
    loop = asyncio.new_event_loop()
    loop.run_until_complete(one.start())
    loop.run_until_complete(asyncio.sleep(0.05))
    was_running = one.running
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop.close()

    async def main() -> bool:
        async with one:
            return one.running

    assert (True, False, True) == (was_running, one.running, asyncio.run(main()))


def test_a_probe_may_stop_its_own_loop(run: Callable[..., Any]) -> None:
    """It is cancelled, as by anybody else."""

    async def main() -> None:
        async def stops() -> None:
            await one.stop()

        one = HealthProbe({"groq": stops}, timeout=0.2)
        await one.start()
        await await_for(lambda: not one.running)

    run(main)


def test_it_may_be_stopped_from_another_event_loop() -> None:
    """And `stop` waits for the end there."""
    started, stopped = threading.Event(), threading.Event()
    probe = Counted(hangs=True)
    one = HealthProbe({"groq": probe})

    async def main() -> None:
        await one.start()
        await quiet()
        started.set()
        await await_for(stopped.is_set)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(PATIENCE)
    trio.run(one.stop)
    ended = probe.ended
    stopped.set()
    thread.join(PATIENCE)

    assert (1, False) == (ended, one.running)


def test_two_loops_in_two_threads_have_one_probe_in_flight_for_each_key() -> None:
    """Ticks of several loops at once do not meet at a key."""
    most, now, lock = 0, 0, threading.Lock()

    async def probe() -> None:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        await anyio.lowlevel.checkpoint()
        with lock:
            now -= 1

    one = HealthProbe({"groq": probe})
    skips: list[bool] = []

    async def ticks() -> None:
        for _ in range(200):
            result = (await one.tick())["groq"]
            assert result.ok or result.reason == "running", result
            skips.append(result.skipped)

    workers = [
        threading.Thread(target=anyio.run, args=(ticks,), kwargs={"backend": backend})
        for backend in ("asyncio", "trio", "asyncio")
    ]
    with eager_threads():
        for each in workers:
            each.start()
        for each in workers:
            each.join(3 * PATIENCE)

    assert (1, 600, {}) == (most, len(skips), one._runs.running)
    assert False in skips


def test_a_tick_beside_the_loop_skips_what_runs(run: Callable[..., Any], clock: FakeClock) -> None:
    """Until it is overdue."""

    async def main() -> list[tuple[bool, str]]:
        async with HealthProbe({"groq": Counted(hangs=True)}, timeout=3.0) as one:
            await quiet()
            first = (await one.tick())["groq"]
            clock.advance(3.0)
            overdue = (await one.tick())["groq"]
            await quiet()
            async with anyio.create_task_group() as group:
                group.start_soon(one.tick)
                await quiet()
                group.cancel_scope.cancel()
        return [(each.skipped, each.reason) for each in (first, overdue)]

    assert [(True, "running"), (False, "timeout")] == run(main)


# The state of the process.


def test_it_ends_with_the_state_that_it_was_started_in(run: Callable[..., Any]) -> None:
    """At the end of `isolated()`, without a `stop`."""
    probe = Counted(hangs=True)

    async def main() -> None:
        with isolated():
            one = HealthProbe({"groq": probe})
            await one.start()
            await quiet()
        assert not one.running
        await await_for(lambda: probe.ended)

    run(main)


def test_it_rests_while_an_inner_state_is_in_force(
    run: Callable[..., Any], clock: FakeClock
) -> None:
    """A test of an application is not probed by the application."""
    probe = Counted()

    async def main() -> list[int]:
        seen: list[int] = []
        async with HealthProbe({"groq": probe}):
            await quiet()
            with isolated():
                clock.advance(40.0)
                await quiet()
                seen += [probe.begun, len(health())]
            clock.advance(40.0)
            await quiet()
            seen.append(probe.begun)
        return seen

    assert [1, 0, 2] == run(main)


def test_probes_know_nothing_of_the_code_that_starts_them(run: Callable[..., Any]) -> None:
    """They run in a context of their own: no guard, no trace and no variable of a request."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="own")
    seen: list[str] = []

    @failover(chain="mistral/large")
    async def ask(target: Target) -> str:
        return target.key

    async def probe() -> None:
        seen.append(variable.get())
        await ask()

    async def main() -> int:
        variable.set("of the request")
        with Trace() as trace:
            one = HealthProbe({"groq": probe, "openai": lambda: seen.append(variable.get())})
            await one.tick()
        return len(trace.calls)

    assert 0 == run(main)
    assert ["own", "own"] == seen


def test_a_place_that_the_ticking_code_holds_is_not_lent(clock: FakeClock) -> None:
    """A call that holds the half-open place decides, though it ticks meanwhile."""
    for _ in range(5):
        breaker(GROQ).record(ProviderError(503), 0.0)
    clock.advance(34.0)

    async def main() -> str:
        async with breaker(GROQ):
            await HealthProbe({GROQ: lambda: False}).tick()
            return breaker(GROQ).state

    assert "half_open" == asyncio.run(main())


def test_no_error_is_kept(run: Callable[..., Any]) -> None:
    """With its traceback and what the frames of the client hold."""
    kept: list[weakref.ref[BaseException]] = []

    class OwnError(ConnectionError):
        pass

    async def fails() -> None:
        error = OwnError()
        kept.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    def fails_in_a_thread() -> None:
        error = OwnError()
        kept.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    async def main() -> None:
        one = HealthProbe({"groq": fails, "openai": fails_in_a_thread})
        await one.tick()
        await await_for(lambda: not threads())
        gc.disable()
        try:
            assert [None, None] == [each() for each in kept]
        finally:
            gc.enable()

    run(main)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_observer_that_raises_does_not_end_the_loop(
    clock: FakeClock, error: type[BaseException]
) -> None:
    """Not in the thread of a synchronous probe, which has no caller."""
    called: list[str] = []

    def raises(event: object) -> None:
        called.append(type(event).__name__)
        raise error

    observe(raises)
    results: list[bool | None] = []

    async def main() -> None:
        one = HealthProbe({"groq": lambda: False})
        results.extend([(await one.tick())["groq"].ok for _ in range(6)])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.run(main())

    assert [False] * 6 == results
    assert called


# Odd probes.


def test_a_probe_that_raises_a_cancellation_of_its_own_is_broken(run: Callable[..., Any]) -> None:
    """Nobody has cancelled the probe."""

    async def probe() -> None:
        raise asyncio.CancelledError

    async def main() -> ProbeResult:
        return (await HealthProbe({"groq": probe}).tick())["groq"]

    assert "broken" == run(main).reason


def test_a_group_of_errors_is_judged_as_one(run: Callable[..., Any]) -> None:
    """The most severe member decides."""

    async def probe() -> None:
        raise ExceptionGroup("several", [ConnectionResetError(), ProviderError(401)])

    async def main() -> ProbeResult:
        return (await HealthProbe({"groq": probe}).tick())["groq"]

    assert "invalid_credentials" == run(main).reason


def test_a_probe_that_answers_its_cancellation_by_an_error_harms_nothing(
    run: Callable[..., Any],
) -> None:
    """The timeout was first, whatever comes of the probe then."""
    ended: list[int] = []

    async def probe() -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 1e6)
        except BaseException as error:
            ended.append(1)
            raise BaseExceptionGroup("both", [error, ValueError()]) from None

    async def main() -> ProbeResult:
        one = HealthProbe({"groq": probe}, timeout=0.2)
        result = (await one.tick())["groq"]
        await await_for(lambda: ended and not one._runs.running)
        return result

    assert "timeout" == run(main).reason


def test_a_plain_function_may_return_what_is_awaited(run: Callable[..., Any]) -> None:
    """As a lambda around a call of a client does."""
    probe = Counted()

    async def main() -> tuple[dict[str, ProbeResult], bool]:
        hangs = Counted(hangs=True)
        one = HealthProbe({"groq": lambda: probe(), "openai": lambda: hangs()}, timeout=0.1)
        results = await one.tick()
        await await_for(lambda: hangs.ended and not one._runs.running)
        return results, hangs.ended == 1

    results, was_cancelled = run(main)

    assert (True, "timeout", True) == (
        results["groq"].ok,
        results["openai"].reason,
        was_cancelled,
    )


# Bad input.


class Client:
    """Stands for a client that can say whether its server is well."""

    def is_well(self) -> bool:
        """Say so."""
        return True


@pytest.mark.parametrize(
    "probe",
    [lambda target=None: True, lambda *args, **kwargs: True, Client().is_well, partial(pow, 2, 3)],
)
def test_what_can_be_called_without_arguments_is_a_probe(probe: Any) -> None:
    """Whatever it would take beside."""
    assert "groq" in repr(HealthProbe({"groq": probe}))


def test_a_target_with_a_comma_has_a_probe() -> None:
    """A chain can have it, too, as an object."""
    assert "groq/a,b" in repr(HealthProbe({Target("groq/a,b"): Counted()}))


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ({}, "an empty mapping"),
        ([], "list"),
        (None, "NoneType"),
        ("groq", "str"),
        ({"": Counted()}, r"probes\[''\]"),
        ({"  ": Counted()}, r"probes\['  '\]"),
        ({3: Counted()}, r"probes\[3\]"),
        ({"groq/": Counted()}, r"probes\['groq/'\]"),
        ({"groq": None}, "NoneType"),
        ({"groq": "http://secret"}, "type str"),
        ({"groq": Counted(), " Groq": Counted()}, "'groq' twice"),
        ({"*": Counted()}, "one key"),
        ({"groq/*": Counted()}, "one key"),
        ({"*/llama": Counted()}, "one key"),
        ({"groq,openai": Counted()}, "a comma separates"),
        ({"groq/a,openai/b": Counted()}, "a comma separates"),
        ({"groq": lambda target: True}, "needs arguments"),
        ({"groq": lambda *, target: True}, "needs arguments"),
        ({"groq": http_probe}, "needs arguments"),
        ({"groq": partial(pow, 2)}, "needs arguments"),
        ({"groq": Client.is_well}, "needs arguments"),
    ],
)
def test_wrong_probes_are_refused_where_they_are_written(probes: Any, message: str) -> None:
    """The message says what is allowed, and does not show what may be secret."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        HealthProbe(probes)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"interval": -1.0},
        {"interval": 0.0},
        {"interval": float("inf")},
        {"interval": True},
        {"timeout": 0},
        {"timeout": -3.0},
        {"timeout": None},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"jitter": float("nan")},
        {"jitter": "10%"},
        {"proves": "reachabel"},
        {"proves": None},
    ],
    ids=repr,
)
def test_wrong_options_are_refused_where_they_are_written(options: dict[str, Any]) -> None:
    """Each by its name."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        HealthProbe({"groq": Counted()}, **options)


def test_generators_are_no_probes() -> None:
    """They do nothing until they are read."""

    def gives() -> Any:
        yield

    async def agives() -> Any:
        yield

    for each in (gives, agives):
        with pytest.raises(ConfigurationError, match="gives items"):
            HealthProbe({"groq": each})


def test_keys_are_normalised_and_may_be_targets(run: Callable[..., Any]) -> None:
    """The results have the keys that everything else has."""
    probes: dict[str | Target, Any] = {
        " Groq": Counted(),
        Target("openai/gpt", account="eu"): Counted(),
    }

    async def main() -> list[str]:
        return list(await HealthProbe(probes, interval=timedelta(seconds=3)).tick())

    assert ["groq", "openai@eu/gpt"] == run(main)


def test_a_thread_waits_by_the_fake_clock(clock: FakeClock) -> None:
    """A synchronous test moves the clock, and the loop in the thread goes on."""
    probed: list[float] = []
    one = HealthProbe({"groq": lambda: probed.append(float(clock.monotonic()))}, jitter=0.0)
    began_at = float(clock.monotonic())

    one.start_thread()
    for number in range(1, 50):
        # And until the job has left its thread: a key whose probe still runs is skipped.
        wait_for(lambda: len(probed) == number and not one._runs.running)  # noqa: B023  # as above
        clock.advance(29.0)
        clock.advance(1.0)
    one.stop_thread()

    assert [began_at + 30.0 * number for number in range(49)] == probed[:49]
    assert [] == clock.sleeps


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_observer_that_ends_the_program_is_heard_after_all_results(
    run: Callable[..., Any], clock: FakeClock, error: type[BaseException]
) -> None:
    """Of probes that time out together each is reported, and then the interrupt leaves the tick."""

    def raises(event: object) -> None:
        raise error

    observe(raises)
    probes = {f"p{number}": Counted(hangs=True) for number in range(3)}
    one = HealthProbe(probes)

    async def main() -> None:
        async with anyio.create_task_group() as group:

            async def advance() -> None:
                await quiet()
                clock.advance(3.0)

            group.start_soon(advance)
            caught: type[BaseException] | None = None
            try:
                await one.tick()
            except BaseException as raised:
                caught = type(raised)
            assert error is caught
        await await_for(lambda: not one._runs.running)

    run(main)

    assert [1, 1, 1] == [health([key])[key].errors for key in probes]
    assert [1, 1, 1] == [each.ended for each in probes.values()]


def test_the_annotations_of_what_is_public_resolve() -> None:
    """Frameworks look them up."""
    import typing

    from resilient_llm import probes

    for name in probes.__all__:
        public = getattr(probes, name)
        assert ("resilient_llm.probes", name) == (
            public.__module__.partition("._")[0],
            public.__qualname__,
        )
        assert typing.get_type_hints(public.__init__ if name == "HealthProbe" else public)
    assert HealthProbe is pickle.loads(pickle.dumps(HealthProbe))
    result = ProbeResult(True, seconds=1.0)
    assert result == pickle.loads(pickle.dumps(result))


def test_a_wrong_timeout_of_stop_thread_is_refused() -> None:
    """It is a duration."""
    with pytest.raises(ConfigurationError, match="timeout=-1"):
        HealthProbe({"groq": Counted()}).stop_thread(-1)


def test_the_page_has_every_argument_with_its_default() -> None:
    """What the how-to says is what the code does."""
    page = (Path(__file__).parents[2] / "docs/how-to/health-probes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", page.partition("## Options")[2], re.M)
    parameters = inspect.signature(HealthProbe).parameters

    assert {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not parameter.empty
    } == {name: ast.literal_eval(default) for name, default in rows}
    assert str(MOST) in page
    assert {f"`{each}`" for each in (TRAFFIC, RUNNING, THREADS, LATE)} <= set(page.split())
