"""Cancellation at every step of a call, and tasks in many orders.

The orders in which several tasks take turns are explored by detangle.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import detangle
import pytest

from resilient_llm import (
    BreakerOpenError,
    ChainExhaustedError,
    ResilientLLMError,
    RetryScheduled,
    Target,
    TargetBenched,
    breaker,
    configure,
    failover,
    health,
    testing,
)
from resilient_llm._core.circuit.permit import held_leases
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import FakeClock, capture_events
from tests.support import stepping
from tests.support.schedules import PATIENCE
from tests.support.stepping import no_lease_is_taken
from tests.support.ways import GROQ, OPENAI, down, on_both_loops


class DownError(ConnectionResetError):
    """What a provider that is down raises; charged to the provider."""


class TargetDownError(TimeoutError):
    """What a target that is down raises; charged to the target."""


through_all_steps = functools.partial(
    stepping.through_all_steps,
    at_once=True,
    ends_with=(ResilientLLMError, DownError, TargetDownError),
)


def _lets_others_run(*outcomes: Any) -> Callable[[Target], Coroutine[Any, Any, str]]:
    """Return a provider that takes two steps for each answer, and raises or returns its outcomes in turn."""
    left = list(outcomes)

    async def provide(target: Target) -> str:
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        outcome = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return str(outcome)

    return provide


def _errors(key: str) -> int:
    circuit = runtime.registry.find(key)
    return 0 if circuit is None else circuit.numbers(runtime.clock())[1]


def _is_in_use(key: str) -> bool:
    """Whether the next caller is let through."""
    try:
        with breaker(key):
            return True
    except BreakerOpenError:
        return False


# A call with retries, and its fallback.


def _with_retries(**options: Any) -> SimpleNamespace:
    provide = _lets_others_run(DownError(), DownError(), "yes")
    state = SimpleNamespace(raised=0, started=0, ended=0)

    @failover(chain=[GROQ, OPENAI], attempts=2, **options)
    async def ask(target: Target) -> str:
        state.started += 1
        try:
            return await provide(target)
        except DownError:
            state.raised += 1
            raise
        finally:
            state.ended += 1

    state.ask = ask
    return state


def _charged_what_was_raised(state: Any) -> None:
    assert state.started == state.ended
    no_lease_is_taken(GROQ, OPENAI, "groq", "openai")
    # What was raised before the cancellation counts; the cancellation does not.
    assert state.raised == sum(_errors(key) for key in ("groq", "openai"))
    assert _is_in_use(OPENAI)


@on_both_loops
@pytest.mark.parametrize(
    "options",
    [{}, {"timeout": 60.0}, {"attempt_timeout": 5.0}, {"timeout": 60.0, "attempt_timeout": 5.0}],
    ids=["plain", "timeout", "attempt timeout", "both"],
)
def test_a_cancelled_call_charges_nobody_and_leaves_nothing_running(
    backend: str, options: dict[str, float]
) -> None:
    """At whatever step of attempts, waits and fallback a call is cancelled."""
    steps = through_all_steps(
        backend,
        lambda clock: _with_retries(**options),
        lambda state: state.ask(),
        _charged_what_was_raised,
    )

    assert steps >= 6


def test_two_loops_in_a_row_and_a_cancelled_wait_leave_nothing(clock: Any) -> None:
    """A call that is cancelled while it waits for its next attempt holds no lease and is not counted twice."""

    @failover(chain=GROQ, backoff=lambda n: 5.0)
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

    assert health()[GROQ].errors <= 1 + len(scheduled)
    assert "closed" == breaker(GROQ).state


@on_both_loops
def test_a_cancelled_loop_charges_nobody_and_leaves_nothing_running(backend: str) -> None:
    """The same for a policy that is looped over."""

    def prepare(clock: FakeClock) -> SimpleNamespace:
        return SimpleNamespace(
            policy=failover(chain=[GROQ, OPENAI], attempts=2),
            provide=_lets_others_run(DownError(), DownError(), "yes"),
            started=0,
            ended=0,
            raised=0,
        )

    async def call(state: Any) -> None:
        async for attempt in state.policy:
            async with attempt as target:
                state.started += 1
                try:
                    attempt.result = await state.provide(target)
                except DownError:
                    state.raised += 1
                    raise
                finally:
                    state.ended += 1

    assert through_all_steps(backend, prepare, call, _charged_what_was_raised) >= 6


# A guard.


@on_both_loops
def test_a_cancelled_block_of_a_guard_charges_nobody(backend: str) -> None:
    """At whatever step of the block, and the guard can be entered again."""

    def prepare(clock: FakeClock) -> SimpleNamespace:
        return SimpleNamespace(guard=breaker(GROQ, failures=1), provide=_lets_others_run("yes"))

    async def call(state: Any) -> None:
        async with state.guard:
            await state.provide(Target(GROQ))

    def check(state: Any) -> None:
        assert 0 == _errors(GROQ)
        no_lease_is_taken(GROQ, "groq")
        with state.guard:
            assert "closed" == state.guard.state

    assert 2 <= through_all_steps(backend, prepare, call, check)


# A probe.


@on_both_loops
@pytest.mark.parametrize("how", ["guard", "call"])
def test_a_cancelled_probe_gives_its_place_back(backend: str, how: str) -> None:
    """At whatever step; the circuit stays half-open and the next caller may probe."""

    def prepare(clock: FakeClock) -> SimpleNamespace:
        configure(breakers={"*": {"failures": 1, "cooldown": 10.0}})
        with pytest.raises(DownError), breaker(GROQ):
            raise DownError
        clock.advance(20.0)
        provide = _lets_others_run("yes")

        @failover(chain=GROQ, attempts=1)
        async def ask(target: Target) -> str:
            state.leases = len(held_leases())
            return await provide(target)

        state = SimpleNamespace(ask=ask, provide=provide, leases=0, answered=False)
        return state

    async def call(state: Any) -> None:
        if how == "call":
            await state.ask()
        else:
            async with breaker(GROQ):
                state.leases = len(held_leases())
                await state.provide(Target(GROQ))
        state.answered = True

    def check(state: Any) -> None:
        assert state.leases >= 1, "this was no probe"
        no_lease_is_taken(GROQ, "groq")
        states = {breaker("groq").state, breaker(GROQ).state}
        assert ({"closed"} if state.answered else {"closed", "half_open"}) == states
        assert _is_in_use(GROQ)

    assert 2 <= through_all_steps(backend, prepare, call, check)


@on_both_loops
def test_a_probe_cancelled_after_long_counts_as_hung(backend: str) -> None:
    """A cancellation counts as nothing, unless the call had run as long as a hung one."""

    def prepare(clock: FakeClock) -> SimpleNamespace:
        configure(breakers={"*": {"slow_call": 5.0}})
        return SimpleNamespace(n=0)

    async def call(state: Any) -> None:
        async with breaker(GROQ):
            await anyio.lowlevel.checkpoint()
            runtime.time.advance(6.0)  # type: ignore[attr-defined]  # the fake clock's
            state.n = 1
            await anyio.lowlevel.checkpoint()
            state.n = 2

    def check(state: Any) -> None:
        hung = state.n == 1
        assert int(hung) == _errors(GROQ)
        no_lease_is_taken(GROQ, "groq")

    assert 2 == through_all_steps(backend, prepare, call, check)


# Waiting until somebody is live, and the last resort.


@on_both_loops
@pytest.mark.parametrize("when_all_benched", ["wait", "soonest"])
def test_a_cancelled_call_with_every_target_benched_leaves_nothing_leased(
    backend: str, when_all_benched: str
) -> None:
    """Whether it waits for a bench to end or tries the soonest, at whatever step it is cancelled."""

    def prepare(clock: FakeClock) -> SimpleNamespace:
        configure(breakers={"*": {"failures": 1, "cooldown": 3.0}}, max_wait=60.0)
        provide = _lets_others_run("yes")

        @failover(chain=[GROQ, OPENAI], attempts=1, when_all_benched=when_all_benched)
        async def ask(target: Target) -> str:
            return await provide(target)

        for key in (GROQ, OPENAI):
            with pytest.raises(DownError), breaker(key):
                raise DownError
        return SimpleNamespace(ask=ask)

    async def call(state: Any) -> None:
        await state.ask()

    def check(state: Any) -> None:
        no_lease_is_taken(GROQ, OPENAI, "groq", "openai")

    assert 2 <= through_all_steps(backend, prepare, call, check)


def test_a_call_that_hands_its_place_back_too_late_is_seen() -> None:
    """What is looked for above would be found: a lease that a cancellation leaves behind."""

    def prepare(clock: FakeClock) -> SimpleNamespace:
        configure(breakers={"*": {"failures": 1, "cooldown": 10.0}})
        with pytest.raises(DownError), breaker(GROQ):
            raise DownError
        clock.advance(20.0)
        return SimpleNamespace()

    async def call(state: Any) -> None:
        guard = breaker(GROQ)
        guard.__enter__()
        await anyio.lowlevel.checkpoint()
        guard.__exit__(None, None, None)  # not in a `finally`

    with pytest.raises(AssertionError):
        through_all_steps("asyncio", prepare, call, lambda state: no_lease_is_taken(GROQ, "groq"))


# Several tasks, in the orders they may take turns, each cancelled or not wherever it waits.


def _through_orders(
    scenario: Callable[[], Coroutine[Any, Any, None]], *, runs: int = 2_000
) -> detangle.ExploreStats:
    """Run a scenario in the orders that deviate little from asyncio's own; detangle.BugFound if one fails."""

    async def fresh() -> None:
        with testing.isolated(), testing.fake_clock():
            configure(logging=False)
            await scenario()

    return detangle.explore(
        fresh,
        strategy=detangle.DFS(max_delays=3),
        runs=runs * PATIENCE,
        seed=1,
        database=False,
        shrink=False,
    )


async def _maybe_cancelled(call: Coroutine[Any, Any, Any]) -> None:
    try:
        await detangle.maybe_timeout(call)
    except (TimeoutError, ResilientLLMError, DownError):
        pass


def test_tasks_that_come_at_once_probe_one_at_a_time() -> None:
    """Whoever is cancelled, and in whatever order they come: one is admitted, and its lease is free afterwards."""

    async def scenario() -> None:
        configure(breakers={"*": {"failures": 1, "cooldown": 10.0, "successes_to_close": 9}})
        with pytest.raises(DownError), breaker(GROQ):
            raise DownError
        runtime.time.advance(20.0)  # type: ignore[attr-defined]  # the fake clock's
        inside: list[int] = []

        async def probe(number: int) -> None:
            async with breaker(GROQ):
                inside.append(number)
                assert 1 == len(inside)
                try:
                    await asyncio.sleep(0)
                finally:
                    inside.remove(number)

        await asyncio.gather(*(_maybe_cancelled(probe(number)) for number in range(3)))
        no_lease_is_taken(GROQ, "groq")
        assert _is_in_use(GROQ)

    _through_orders(scenario)


def test_tasks_that_fail_at_once_trip_once() -> None:
    """A burst of failures, some of them cancelled before they are raised, opens the circuit once."""

    async def scenario() -> None:
        configure(breakers={"*": {"failures": 2}})
        with testing.capture_events(TargetBenched) as benched:
            raised = 0

            async def fail() -> None:
                nonlocal raised
                async with breaker(GROQ):
                    await asyncio.sleep(0)
                    raised += 1
                    raise TargetDownError

            await asyncio.gather(*(_maybe_cancelled(fail()) for _ in range(3)))
            # A late failure changes nothing, so no more than two are counted.
            assert (min(2, raised), int(raised >= 2)) == (_errors(GROQ), len(benched))

    _through_orders(scenario)


def test_one_guard_for_several_tasks_is_free_afterwards() -> None:
    """However its entries and exits are interleaved and cancelled, it counts what happened."""

    async def scenario() -> None:
        guard = breaker(GROQ)
        counts = {"answered": 0, "raised": 0}

        async def enter(*, fails: bool) -> None:
            async with guard:
                await asyncio.sleep(0)
                counts["raised" if fails else "answered"] += 1
                if fails:
                    raise TargetDownError

        await asyncio.gather(*(_maybe_cancelled(enter(fails=number == 1)) for number in range(3)))
        total, errors = runtime.registry.circuit(GROQ).numbers(runtime.clock())
        assert (sum(counts.values()), counts["raised"]) == (total, errors)
        with guard:
            pass
        assert total + 1 == runtime.registry.circuit(GROQ).numbers(runtime.clock())[0]

    _through_orders(scenario)


def test_calls_of_several_tasks_leave_nothing_leased_whoever_is_cancelled() -> None:
    """Calls with retries and a fallback, beside one another, charge what was raised and nothing else."""

    async def scenario() -> None:
        state = SimpleNamespace(started=0, ended=0, raised=0)

        @failover(chain=[GROQ, OPENAI], attempts=2)
        async def ask(target: Target) -> str:
            state.started += 1
            try:
                await asyncio.sleep(0)
                if target.key == GROQ:
                    state.raised += 1
                    raise TargetDownError
                return target.key
            finally:
                state.ended += 1

        await asyncio.gather(_maybe_cancelled(ask()), _maybe_cancelled(ask()))
        assert state.started == state.ended
        assert _errors(GROQ) <= state.raised  # those after the trip are late
        assert 0 == _errors(OPENAI)
        no_lease_is_taken(GROQ, OPENAI, "groq", "openai")
        assert _is_in_use(OPENAI)

    _through_orders(scenario)


def test_every_order_of_two_tasks_is_explored_to_the_end() -> None:
    """Two tasks at a half-open key, with every deviation of up to three steps: nothing is left to explore."""

    async def scenario() -> None:
        configure(breakers={"*": {"failures": 1, "cooldown": 10.0}})
        with pytest.raises(DownError), breaker(GROQ):
            raise DownError
        runtime.time.advance(20.0)  # type: ignore[attr-defined]  # the fake clock's
        refused = 0

        async def probe() -> None:
            nonlocal refused
            try:
                async with breaker(GROQ):
                    await asyncio.sleep(0)
            except BreakerOpenError:
                refused += 1

        await asyncio.gather(probe(), probe())
        no_lease_is_taken(GROQ, "groq")
        assert refused <= 1

    assert _through_orders(scenario).exhausted


def test_a_place_that_is_lost_to_a_cancellation_is_seen_by_the_orders_too() -> None:
    """What is looked for above would be found, with tasks as well."""

    async def scenario() -> None:
        configure(breakers={"*": {"failures": 1, "cooldown": 10.0}})
        with pytest.raises(DownError), breaker(GROQ):
            raise DownError
        runtime.time.advance(20.0)  # type: ignore[attr-defined]  # the fake clock's

        async def probe() -> None:
            guard = breaker(GROQ)
            guard.__enter__()
            await asyncio.sleep(0)
            guard.__exit__(None, None, None)  # not in a `finally`

        await _maybe_cancelled(probe())
        no_lease_is_taken(GROQ, "groq")

    with pytest.raises(detangle.BugFound):
        _through_orders(scenario)
