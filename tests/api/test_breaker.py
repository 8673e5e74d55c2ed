"""The circuit of one name: when it opens, what it lets through, how long it lasts, when it closes."""

import asyncio
import concurrent.futures
import contextlib
import inspect
import logging
import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient_llm import (
    Breaker,
    BreakerOpenError,
    CallRejectedError,
    ChainExhaustedError,
    ConfigurationError,
    ErrorKind,
    HealthChanged,
    ResilientLLMError,
    Target,
    TargetBenched,
    TargetUnbenched,
    Verdict,
    bench_model,
    breaker,
    classify,
    configure,
    failover,
    health,
    list_benched,
    observe,
    reset,
    testing,
)
from resilient_llm._api import breaker as breaker_module
from resilient_llm._core.circuit.permit import held_leases, open_permits
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import FakeClock, capture_events, isolated, scripted
from tests.support.guards import (
    PATIENCE,
    Held,
    eager_threads,
    elsewhere,
    fail,
    failing,
    half_open,
    in_threads,
    is_refused,
    seen,
    state,
    succeed,
    totals,
    trip,
)
from tests.support.ways import (
    BREAKER_SHAPES,
    CHAIN_SHAPES,
    GROQ,
    OPENAI,
    SHAPES,
    WITH,
    ProviderError,
    Shape,
    down,
    on_both_loops,
    over,
    rate_limited,
    run_async,
    unreachable,
)

FIRST_COOLDOWN = (30, 33)


def remaining(key: str = GROQ) -> float:
    """Seconds left on the bench of a key."""
    (bench,) = [bench for bench in list_benched() if bench.model == key]
    return bench.remaining


def lasts(bounds: tuple[float, float], key: str = GROQ) -> bool:
    """Whether a bench that has just begun lasts as long as it should."""
    low, high = bounds
    return low - 0.001 <= remaining(key) <= high + 0.001


def fail_probes(clock, times: int, cooldowns: list[float] | None = None) -> None:
    """Let each cooldown pass and the probe after it fail."""
    for _ in range(times):
        clock.advance(remaining() + 0.001)
        assert "half_open" == state()
        fail()
        assert "open" == state()
        if cooldowns is not None:
            cooldowns.append(remaining())


# --- what passes through a guard --------------------------------------------------------------


@over(SHAPES)
def test_a_guarded_call_returns_what_the_block_returns_and_is_counted(clock, shape: Shape):
    """A success is handed on and counted for the target and for its provider."""
    result = shape.run(GROQ, lambda: "answer")

    assert "answer" == result
    assert (1, 0) == totals(GROQ)
    assert (1, 0) == totals("groq")
    assert "closed" == state()


@over(SHAPES)
def test_an_error_leaves_the_block_unchanged_and_is_counted(clock, shape: Shape):
    """A failure leaves as the very error that was raised, with nothing wrapped around it."""
    error = down()

    with pytest.raises(ProviderError) as caught:
        shape.run(GROQ, lambda: (_ for _ in ()).throw(error))

    assert caught.value is error
    assert (1, 1) == totals(GROQ)
    assert "closed" == state()


@over(BREAKER_SHAPES)
def test_a_guarded_error_keeps_its_cause_context_and_notes(clock, shape: Shape):
    """Nothing is attached to the caller's own error."""
    cause = OSError("below")
    error = down()
    error.__cause__ = cause

    assert "failed" == shape.outcome(GROQ, error)

    assert error.__cause__ is cause
    assert [] == getattr(error, "__notes__", [])


@over(SHAPES)
def test_five_consecutive_failures_open_the_circuit(clock, shape: Shape):
    """The fifth failure in a row opens, and the next call is refused before anything runs."""
    outcomes = [shape.outcome(GROQ, down()) for _ in range(6)]

    assert ["failed"] * 5 + ["refused"] == outcomes
    assert "open" == state()
    assert (5, 5) == totals(GROQ)


@over(SHAPES)
def test_a_success_between_failures_starts_the_count_of_consecutive_failures_anew(
    clock, shape: Shape
):
    """Four failures, a success and four failures do not open a circuit that opens at five."""
    outcomes = [shape.outcome(GROQ, outcome) for outcome in [*(down() for _ in range(4)), 1]]
    outcomes += [shape.outcome(GROQ, down()) for _ in range(4)]

    assert ["failed"] * 4 + ["served"] + ["failed"] * 4 == outcomes
    assert "closed" == state()


@over(SHAPES)
def test_an_open_circuit_becomes_half_open_and_closes_on_a_success(clock, shape: Shape):
    """After the cooldown the state reads half-open, and one success closes."""
    trip()

    clock.advance(29.9)
    while_open = state()
    clock.advance(3.2)
    after_cooldown = state()
    outcome = shape.outcome(GROQ, "answer")

    assert ("open", "half_open", "served", "closed") == (
        while_open,
        after_cooldown,
        outcome,
        state(),
    )


@over(SHAPES)
@pytest.mark.parametrize(
    "error",
    [
        ProviderError(400),
        ProviderError(422),
        TypeError("a bug"),
        AttributeError("a bug"),
        KeyError("a bug"),
        ValueError("a bug"),
        RuntimeError("a bug"),
        ZeroDivisionError("a bug"),
        AssertionError("a bug"),
        FileNotFoundError(2, "No such file or directory"),
        asyncio.CancelledError(),
        concurrent.futures.CancelledError(),
        KeyboardInterrupt(),
        SystemExit(1),
        ResilientLLMError("from inside"),
        BaseExceptionGroup("cancelled with others", [asyncio.CancelledError(), ProviderError(503)]),
    ],
    ids=lambda error: f"{type(error).__name__}{getattr(error, 'status_code', '')}",
)
def test_what_says_nothing_about_the_target_leaves_its_health_untouched(
    clock, shape: Shape, error: BaseException
):
    """Request errors, bugs of the caller, cancellations and our own errors never open a circuit."""
    outcomes = []
    for _ in range(12):
        error.__traceback__ = None
        outcomes.append(shape.outcome(GROQ, error))

    assert ["failed"] * 12 == outcomes
    assert "closed" == state()
    assert 0 == totals(GROQ)[1]
    assert 0 == totals("groq")[1]


@over(SHAPES)
def test_one_error_object_counts_each_time_it_is_raised(clock, shape: Shape):
    """An error is charged every time it is raised, also when it is the same object again."""
    error = down()

    outcomes = [shape.outcome(GROQ, error) for _ in range(6)]

    assert ["failed"] * 5 + ["refused"] == outcomes


@over(SHAPES)
def test_an_error_that_passes_two_guards_of_one_key_is_charged_once(clock, shape: Shape):
    """However many guards of a key an error passes, it is one error."""

    def provider() -> object:
        with breaker(GROQ), breaker(GROQ):
            raise error

    for _ in range(2):
        error = down()
        with pytest.raises(ProviderError):
            shape.run(GROQ, provider)

    assert 2 == totals(GROQ)[1]
    assert 2 == health()[GROQ].consecutive_failures
    assert "closed" == state()


# --- refusals ---------------------------------------------------------------------------------


@over(BREAKER_SHAPES)
def test_a_refusal_says_which_target_when_to_come_back_and_why(clock, shape: Shape):
    """BreakerOpenError carries the key, the seconds left and a reason."""
    trip()
    clock.advance(10)

    with pytest.raises(BreakerOpenError) as caught:
        shape.run(GROQ, lambda: pytest.fail("the body ran"))

    assert isinstance(caught.value, CallRejectedError)
    assert GROQ == str(getattr(caught.value.target, "key", caught.value.target))
    assert remaining() == pytest.approx(caught.value.retry_after, abs=0.01)
    assert 20 - 0.001 <= caught.value.retry_after <= 23 + 0.001
    assert isinstance(caught.value.reason, str)
    assert caught.value.reason


@over(CHAIN_SHAPES)
def test_a_chain_reports_an_open_target_as_a_rejected_member(clock, shape: Shape):
    """A chain whose only target is open sends nothing and says so."""
    trip()

    with pytest.raises((ChainExhaustedError, BreakerOpenError)) as caught:
        shape.run(GROQ, lambda: pytest.fail("the function ran"))

    members = getattr(caught.value, "exceptions", [caught.value])
    assert [BreakerOpenError] == [type(member) for member in members]


def test_every_refusal_is_a_new_error(clock):
    """Two refused calls share no error object."""
    trip()
    errors = []

    for _ in range(2):
        with pytest.raises(BreakerOpenError) as caught, breaker(GROQ):
            pytest.fail("the body ran")
        errors.append(caught.value)

    assert errors[0] is not errors[1]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_refusal_survives_pickling(clock, protocol: int):
    """BreakerOpenError keeps its attributes and its message through pickle."""
    trip()
    with pytest.raises(BreakerOpenError) as caught, breaker(GROQ):
        pytest.fail("the body ran")
    error = caught.value

    copy = pickle.loads(pickle.dumps(error, protocol))

    assert type(error) is type(copy)
    assert (error.target, error.retry_after, error.reason) == (
        copy.target,
        copy.retry_after,
        copy.reason,
    )
    assert str(error) == str(copy)


# --- triggers ---------------------------------------------------------------------------------


@over(SHAPES)
def test_the_error_rate_opens_once_there_are_enough_calls(clock, shape: Shape):
    """Seven failures in ten calls open, though never three came in a row."""
    script = [down(), down(), 1, down(), down(), 1, down(), down(), 1, down()]

    outcomes = [shape.outcome(GROQ, outcome) for outcome in script[:9]]
    before_ten = state()
    outcomes.append(shape.outcome(GROQ, script[9]))

    assert "refused" not in outcomes
    assert ("closed", "open") == (before_ten, state())


@over(SHAPES)
def test_an_error_rate_below_the_limit_leaves_the_circuit_closed(clock, shape: Shape):
    """Four failures in every ten calls are not half of them."""
    script = [1, down(), 1, down(), 1, down(), 1, down(), 1, 1] * 3

    outcomes = [shape.outcome(GROQ, outcome) for outcome in script]

    assert "refused" not in outcomes
    assert "closed" == state()


def test_min_calls_is_asked_of_the_error_rate(clock):
    """A circuit with min_calls=20 does not look at its error rate before."""
    breaker(GROQ, failures=100, min_calls=20)

    fail(times=19)
    before = state()
    fail()

    assert ("closed", "open") == (before, state())


def test_errors_older_than_the_window_do_not_count(clock):
    """The error rate looks at the last `window` seconds only."""
    breaker(GROQ, failures=100, window=60)
    fail(times=9)

    clock.advance(70)
    fail(times=9)

    assert "closed" == state()


def test_the_window_slides(clock):
    """Failures spread over less than a window are added up."""
    breaker(GROQ, failures=100, window=60)

    for _ in range(10):
        fail()
        clock.advance(3)

    assert "open" == state()


@over(SHAPES)
def test_slow_calls_open_when_asked_for(clock, shape: Shape):
    """Eight successes in ten calls that took `slow_call` seconds or more open the circuit."""

    def slow() -> str:
        clock.advance(2.5)
        return "answer"

    options = {"slow_call": 2.0}
    for _ in range(2):
        shape.run(GROQ, lambda: "answer", **options)
    for _ in range(7):
        shape.run(GROQ, slow, **options)
    before = state()
    shape.run(GROQ, slow, **options)

    assert ("closed", "open") == (before, state())


def test_slow_calls_do_nothing_unless_asked_for(clock):
    """Without `slow_call` a slow success is a success."""
    for _ in range(30):
        with breaker(GROQ):
            clock.advance(100)

    assert "closed" == state()


def test_the_slow_rate_can_be_set(clock):
    """slow_rate=0.5 opens when half of the calls are slow."""
    breaker(GROQ, slow_call=2.0, slow_rate=0.5, min_calls=4)

    for seconds in (0.1, 0.1, 0.1, 3, 3, 3, 3):
        if state() == "open":
            break
        with breaker(GROQ):
            clock.advance(seconds)

    assert "open" == state()
    assert 0 == totals(GROQ)[1]


def open_by_failures(clock) -> None:
    """Fail five times in a row."""
    fail(times=5)


def open_by_error_rate(clock) -> None:
    """Fail seven of ten calls."""
    for _ in range(3):
        fail(times=2)
        succeed()
    fail()


def open_by_slow_rate(clock) -> None:
    """Let ten calls be slow."""
    breaker(GROQ, slow_call=1)
    for _ in range(10):
        with breaker(GROQ):
            clock.advance(2)


def open_by_exhaustion(clock) -> None:
    """Let one call use up two attempts."""
    ask_twice(down)


@pytest.mark.parametrize(
    ("opens", "words"),
    [
        (open_by_failures, {"failures", "consecutive"}),
        (open_by_error_rate, {"error_rate", "error rate"}),
        (open_by_slow_rate, {"slow"}),
        (open_by_exhaustion, {"exhausted"}),
    ],
    ids=["failures", "error_rate", "slow_rate", "exhausted"],
)
def test_the_event_of_a_bench_names_its_trigger_with_numbers(clock, opens, words: set[str]):
    """Whatever opens a circuit is named in the event, with the numbers it was decided on."""
    with seen(TargetBenched) as events:
        opens(clock)

    (event,) = events
    assert "open" == state()
    assert any(word in event.trigger for word in words)
    assert any(letter.isdigit() for letter in event.trigger)


def ask_twice(error, chain=GROQ, during=lambda: None, attempts=2):
    """Let one call use up two attempts on a target."""

    @failover(chain=chain, attempts=attempts, backoff=lambda n: 0.0)
    def ask(target: Target) -> None:
        during()
        raise error()

    with pytest.raises(ChainExhaustedError):
        ask()


def test_one_call_that_uses_up_its_attempts_opens_the_target(clock):
    """Two failed attempts of one call open a circuit that answered nobody meanwhile."""
    ask_twice(down)

    assert "open" == state()
    assert "closed" == state("groq")


def test_a_call_that_used_up_its_attempts_opens_the_provider_its_last_error_was_charged_to(clock):
    """Attempts used up on a refused connection open the provider, not the target."""
    ask_twice(unreachable)

    assert ("closed", "open") == (state(GROQ), state("groq"))


def test_a_target_that_answered_others_meanwhile_is_not_exhausted(clock):
    """One unlucky call does not bench a target that served another call between its attempts."""
    ask_twice(down, during=succeed)

    assert "closed" == state()


def test_a_call_with_one_attempt_exhausts_nothing(clock):
    """A single failed attempt is not two."""
    ask_twice(down, attempts=1)

    assert "closed" == state()


def test_a_breaker_that_opens_ends_the_retries_on_that_target(clock):
    """No attempt is made on a target that opened while it was being retried."""
    fail(times=3)
    called = []

    @failover(chain=[GROQ, OPENAI], attempts=5, backoff=lambda n: 0.0)
    def ask(target: Target) -> str:
        called.append(target.key)
        if target.key == GROQ:
            raise down()
        return "answer"

    result = ask()

    assert "answer" == result
    assert [GROQ, GROQ, OPENAI] == called


def test_attempts_above_failures_is_a_warning_at_decoration(caplog):
    """Retries that a breaker would cut short are pointed out where the policy is written."""
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")

        @failover(chain=[GROQ], attempts=6)
        def ask(target: Target) -> None: ...

    words = " ".join([*(str(warning.message) for warning in warned), *caplog.messages])
    assert "attempts" in words
    assert "failures" in words


def test_attempts_up_to_failures_warns_of_nothing(caplog):
    """Five attempts on a circuit that opens at five failures are fine."""
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")

        @failover(chain=[GROQ], attempts=5)
        def ask(target: Target) -> None: ...

    assert [] == [str(warning.message) for warning in warned]
    assert [] == caplog.messages


def test_after_a_recovery_the_rates_need_enough_calls_anew(clock):
    """A circuit that has recovered does not reopen on old errors or on one new one."""
    breaker(GROQ, failures=100)
    fail(times=10)
    clock.advance(34)
    succeed()

    fail(times=8)
    soon = state()
    fail(times=2)

    assert ("closed", "open") == (soon, state())


def test_after_idle_time_the_rates_need_enough_calls_anew(clock):
    """Errors of before a silence as long as the window are forgotten."""
    breaker(GROQ, failures=100)
    fail(times=9)

    clock.advance(1000)
    fail()

    assert "closed" == state()


# --- the cooldown -----------------------------------------------------------------------------


def test_the_first_bench_lasts_the_cooldown_and_at_most_a_tenth_more(clock):
    """A bench lasts `cooldown` seconds, jittered upwards only."""
    drawn = []

    for number in range(40):
        key = f"groq/model-{number}"
        trip(key)
        drawn.append(remaining(key))

    assert all(30 - 0.001 <= seconds <= 33 + 0.001 for seconds in drawn)
    assert len({round(seconds, 4) for seconds in drawn}) > 1


def test_the_cooldown_doubles_with_each_failed_probe_up_to_its_limit(clock):
    """30, 60, 120, 240 and then 300 seconds, each at most a tenth more."""
    trip()
    cooldowns = [remaining()]

    fail_probes(clock, 6, cooldowns)

    planned = [30, 60, 120, 240, 300, 300, 300]
    assert len(planned) == len(cooldowns)
    assert all(
        low - 0.001 <= drawn <= low * 1.1 + 0.001
        for low, drawn in zip(planned, cooldowns, strict=True)
    )


def test_cooldown_and_max_cooldown_can_be_set(clock):
    """cooldown=5 with max_cooldown=12 goes 5, 10, 12."""
    breaker(GROQ, cooldown=5, max_cooldown=12)
    trip()
    cooldowns = [remaining()]

    fail_probes(clock, 3, cooldowns)

    planned = [5, 10, 12, 12]
    assert all(
        low - 0.001 <= drawn <= low * 1.1 + 0.001
        for low, drawn in zip(planned, cooldowns, strict=True)
    )


def test_a_quick_relapse_keeps_the_longer_cooldown(clock):
    """A circuit that opens right after a recovery goes on with the escalation it had reached."""
    trip()
    fail_probes(clock, 2)
    clock.advance(remaining() + 0.001)
    succeed()

    trip()

    assert lasts((120, 132))


def test_each_healthy_window_takes_back_one_escalation(clock):
    """Two escalations are one after one healthy window."""
    trip()
    fail_probes(clock, 2)
    clock.advance(remaining() + 0.001)
    succeed()

    for _ in range(32):
        clock.advance(10)
        succeed()
    trip(error=down)

    assert lasts((60, 66))


def test_many_healthy_windows_bring_the_first_cooldown_back(clock):
    """The escalation falls to zero and no further."""
    trip()
    fail_probes(clock, 3)
    clock.advance(remaining() + 0.001)
    succeed()

    for _ in range(200):
        clock.advance(10)
        succeed()
    trip()

    assert lasts(FIRST_COOLDOWN)


# --- half-open --------------------------------------------------------------------------------


@over(SHAPES)
def test_half_open_admits_one_caller_and_refuses_all_others_at_once(clock, shape: Shape):
    """While the probe runs everyone else is refused."""
    half_open(clock)
    probe = Held(GROQ, shape)

    others = [is_refused() for _ in range(5)]
    probe.finish("answer")

    assert [True] * 5 == others
    assert not probe.refused
    assert "closed" == state()


def test_probes_sets_how_many_callers_are_admitted_while_half_open(clock):
    """probes=2 admits two at once and refuses the third."""
    breaker(GROQ, probes=2, successes_to_close=2)
    half_open(clock)

    probes = [Held(), Held()]
    third = is_refused()
    probes[0].finish()
    fourth = is_refused()
    probes[1].finish()

    assert [False, False] == [probe.refused for probe in probes]
    assert (True, False) == (third, fourth)
    assert "closed" == state()


def test_successes_to_close_sets_how_many_probes_must_succeed(clock):
    """successes_to_close=3 stays half-open for two successes."""
    breaker(GROQ, successes_to_close=3)
    half_open(clock)
    states = []

    for _ in range(3):
        succeed()
        states.append(state())

    assert ["half_open", "half_open", "closed"] == states


def test_one_failed_probe_opens_again_whatever_succeeded_before(clock):
    """A failure while half-open is the end of that half-open period."""
    breaker(GROQ, successes_to_close=3)
    half_open(clock)

    succeed(times=2)
    fail()
    after_failure = state()
    clock.advance(67)
    succeed(times=2)

    assert ("open", "half_open") == (after_failure, state())


@over(SHAPES)
def test_a_failed_probe_opens_again(clock, shape: Shape):
    """A probe that fails opens the circuit for twice as long."""
    half_open(clock)

    outcome = shape.outcome(GROQ, down())

    assert ("failed", "open") == (outcome, state())
    assert lasts((60, 66))


@over(SHAPES)
def test_a_rate_limit_ends_a_probe_as_a_failure(clock, shape: Shape):
    """A probe that is rate limited did not succeed: the target is blocked again."""
    half_open(clock)

    outcome = shape.outcome(GROQ, ProviderError(429, message="Rate limit reached for this model"))

    assert "failed" == outcome
    assert is_refused()


@over(SHAPES)
@pytest.mark.parametrize(
    "error",
    [ProviderError(400), TypeError("a bug"), asyncio.CancelledError(), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_a_probe_that_says_nothing_gives_its_place_back(clock, shape: Shape, error: BaseException):
    """Nothing neither opens nor closes, and the next caller may probe."""
    half_open(clock)

    outcomes = [shape.outcome(GROQ, error) for _ in range(3)]
    between = state()
    last = shape.outcome(GROQ, "answer")

    assert ["failed"] * 3 == outcomes
    assert ("half_open", "served", "closed") == (between, last, state())


@over(SHAPES)
def test_the_place_of_a_probe_that_never_ends_is_free_after_its_lease(clock, shape: Shape):
    """A hanging probe blocks for `probe_lease` seconds and no longer."""
    breaker(GROQ, probe_lease=5)
    half_open(clock)
    hanging = Held(GROQ, shape)

    clock.advance(4.9)
    before = is_refused()
    clock.advance(0.2)
    after = elsewhere(WITH.outcome, GROQ, "answer")
    hanging.finish("late")

    assert (True, "served", "closed") == (before, after, state())


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


def test_a_lease_lasts_at_least_the_cooldown_if_nothing_says_otherwise(clock):
    """Without `probe_lease` and with quick successes the lease lasts for the cooldown."""
    half_open(clock)
    hanging = Held()

    clock.advance(29.9)
    before = is_refused()
    clock.advance(3.2)
    after = is_refused()
    hanging.finish()

    assert (True, False) == (before, after)


def test_a_lease_is_longer_on_a_target_that_is_known_to_be_slow(clock):
    """Ten average successes may be longer than the cooldown."""
    for _ in range(20):
        with breaker(GROQ):
            clock.advance(9)
    half_open(clock)
    hanging = Held()

    clock.advance(60)
    before = is_refused()
    clock.advance(40)
    after = is_refused()
    hanging.finish()

    assert (True, False) == (before, after)


def test_a_lease_is_at_least_as_long_as_the_attempt_may_take(clock):
    """A probe that may take 100 s has a lease of 100 s."""
    half_open(clock)
    refused = []

    @failover(chain=[Target(GROQ, attempt_timeout=100.0)])
    async def ask(target: Target) -> str:
        clock.advance(90)
        refused.append(is_refused())
        return "answer"

    result = run_async(ask)

    assert ("answer", [True], "closed") == (result, refused, state())


def test_a_late_report_in_the_same_half_open_period_still_counts(clock):
    """A probe whose lease is over closes the circuit all the same, if that is still half-open."""
    breaker(GROQ, probe_lease=5)
    half_open(clock)
    slow = Held()
    clock.advance(6)

    slow.finish("late")

    assert "closed" == state()


def test_a_late_failure_in_the_same_half_open_period_still_counts(clock):
    """A probe whose lease is over opens the circuit all the same, if that is still half-open."""
    breaker(GROQ, probe_lease=5)
    half_open(clock)
    slow = Held()
    clock.advance(6)

    slow.finish(down())

    assert "open" == state()


def test_closing_clears_the_window(clock):
    """After a recovery the errors of before are gone from the numbers."""
    half_open(clock)
    assert 5 == totals()[1]

    succeed()

    assert 0 == totals()[1]
    assert 0 == health()[GROQ].consecutive_failures


# --- cancelled calls and hanging providers ----------------------------------------------------


def hang(clock, seconds: float, times: int, shape: Shape = WITH) -> None:
    """Let callers give up on a call after some seconds."""
    for _ in range(times):
        error = asyncio.CancelledError()

        def provider(error: BaseException = error) -> None:
            clock.advance(seconds)
            raise error

        with pytest.raises(asyncio.CancelledError):
            shape.run(GROQ, provider)


def test_callers_who_give_up_quickly_are_not_held_against_the_target(clock):
    """A cancellation before ten seconds is the caller's own affair."""
    hang(clock, 9.5, times=15)

    assert "closed" == state()
    assert 0 == totals()[1]


def test_callers_who_give_up_on_a_hanging_target_are_counted(clock):
    """A cancellation after ten seconds and more counts in the error rate, reason `hung`."""
    with seen(TargetBenched) as events:
        hang(clock, 10.5, times=9)
        before = state()
        hang(clock, 10.5, times=1)

    assert ("closed", "open") == (before, state())
    assert "hung" in health()[GROQ].last_error
    assert "hung" in f"{events[0].reason} {events[0].trigger}"


def test_slow_call_says_when_a_cancelled_call_counts_as_hung(clock):
    """With slow_call=2 a call cancelled after two seconds counts."""
    breaker(GROQ, slow_call=2.0)

    hang(clock, 1.5, times=5)
    short = totals()[1]
    hang(clock, 2.5, times=5)

    assert (0, 5) == (short, totals()[1])


def test_a_target_with_slow_answers_is_given_ten_times_their_average(clock):
    """Fifteen seconds are not hanging where an answer takes three."""
    for _ in range(10):
        with breaker(GROQ):
            clock.advance(3)

    hang(clock, 15, times=4)
    patient = totals()[1]
    hang(clock, 31, times=1)

    assert (0, 1) == (patient, totals()[1])


def test_a_hanging_call_is_no_consecutive_failure(clock):
    """Calls cancelled late count in the error rate only."""
    hang(clock, 20, times=7)

    assert "closed" == state()


# --- modes ------------------------------------------------------------------------------------


@over(SHAPES)
def test_metrics_only_counts_but_never_refuses(clock, shape: Shape, caplog):
    """A circuit in metrics_only says what it would have done and lets every call through."""
    with seen(TargetBenched) as events, caplog.at_level(logging.DEBUG, logger="resilient_llm"):
        outcomes = [shape.outcome(GROQ, down(), mode="metrics_only") for _ in range(8)]

    assert ["failed"] * 8 == outcomes
    assert (8, 8) == totals()
    assert events or caplog.records


@over(SHAPES)
def test_disabled_never_refuses(clock, shape: Shape):
    """A disabled circuit lets every call through."""
    outcomes = [shape.outcome(GROQ, down(), mode="disabled") for _ in range(12)]

    assert ["failed"] * 12 == outcomes


@over(SHAPES)
def test_forced_open_refuses_every_call_and_for_ever(clock, shape: Shape):
    """A circuit that is forced open lets nothing through until its mode is changed."""
    first = shape.outcome(GROQ, "answer", mode="forced_open")
    clock.advance(100_000)
    second = shape.outcome(GROQ, "answer")
    third = shape.outcome(GROQ, "answer", mode="enforce")

    assert ["refused", "refused", "served"] == [first, second, third]


def test_forced_open_of_a_provider_blocks_its_targets(clock):
    """A provider that is forced open blocks every target of it and no other provider."""
    breaker("groq", mode="forced_open")

    assert is_refused(GROQ)
    assert is_refused("groq/other")
    assert not is_refused("groq@tenant/llama")
    assert not is_refused(OPENAI)


def test_a_forced_open_circuit_reads_open(clock):
    """The state of a circuit that is forced open is open."""
    assert "open" == breaker(GROQ, mode="forced_open").state


@over(CHAIN_SHAPES)
def test_a_chain_goes_past_a_target_that_is_forced_open(clock, shape: Shape):
    """forced_open moves a chain on to its next target."""
    breaker(GROQ, mode="forced_open")
    called = []

    @failover(chain=[GROQ, OPENAI])
    def ask(target: Target) -> str:
        called.append(target.key)
        return "answer"

    ask()

    assert "refused" == shape.outcome(GROQ, "answer")
    assert [OPENAI] == called


@pytest.mark.parametrize("when", ["soonest", "wait", "raise"])
def test_the_last_resort_respects_forced_open(clock, when: str):
    """No way of dealing with a benched chain calls a target that is forced open."""
    breaker(GROQ, mode="forced_open")

    @failover(chain=[GROQ], when_all_benched=when, timeout=5)
    def ask(target: Target) -> None:
        pytest.fail("the function ran")

    with pytest.raises(ResilientLLMError):
        ask()


@over(SHAPES)
@pytest.mark.parametrize("mode", ["metrics_only", "disabled"])
def test_a_mode_that_refuses_nobody_lets_calls_through_an_open_circuit(
    clock, shape: Shape, mode: str
):
    """Changing the mode of an open circuit takes effect with the next call."""
    trip()

    assert "served" == shape.outcome(GROQ, "answer", mode=mode)


@pytest.mark.parametrize("mode", ["metrics_only", "disabled"])
def test_a_mode_is_asked_of_the_provider_as_well(clock, mode: str):
    """A provider that refuses nobody blocks none of its targets."""
    breaker("groq", mode=mode)

    fail("groq/other", 8, unreachable)

    assert not is_refused(GROQ)


def test_a_mode_of_a_provider_is_not_one_of_its_targets(clock):
    """A target is guarded though its provider is not."""
    breaker("groq", mode="disabled")

    trip()

    assert "open" == state()


def test_circuits_in_metrics_only_recover_like_others(clock):
    """What would have been open closes on a success after what would have been its cooldown."""
    breaker(GROQ, mode="metrics_only")
    fail(times=5)
    clock.advance(34)

    succeed()
    breaker(GROQ, mode="enforce")

    assert not is_refused()
    assert "closed" == state()


def test_metrics_only_emits_each_bench_it_would_have_made_once(clock):
    """A circuit that would be open emits one event, not one per failure."""
    breaker(GROQ, mode="metrics_only")

    with seen(TargetBenched) as events:
        fail(times=20)

    assert len(events) <= 1


def test_metrics_only_says_what_it_would_have_done_once_per_bench(clock: Any) -> None:
    """It counts, blocks nobody, and repeats itself only after the bench would have ended."""
    breaker(GROQ, mode="metrics_only")

    with capture_events(TargetBenched) as benched:
        failing(GROQ, 12)
        failing(GROQ, 1, lambda: ProviderError(429, retry_after=500))
        first = [(event.trigger, event.enforced) for event in benched]
        clock.advance(600)
        failing(GROQ, 1)

    assert [("failures 5/5", False)] == first
    assert (2, "closed", []) == (len(benched), breaker(GROQ).state, list_benched())


# --- a target and its provider ----------------------------------------------------------------


@over(SHAPES)
@pytest.mark.parametrize(
    ("error", "charged"),
    [
        (unreachable, "groq"),
        (lambda: ProviderError(401), "groq"),
        (lambda: ProviderError(402), "groq"),
        (down, GROQ),
        (lambda: TimeoutError("timed out"), GROQ),
    ],
    ids=["refused", "401", "402", "503", "timeout"],
)
def test_a_failure_is_charged_to_the_target_or_to_its_provider(
    clock, shape: Shape, error, charged: str
):
    """Each failure opens one of the two circuits, by the scope of its verdict."""
    for _ in range(5):
        shape.outcome(GROQ, error())

    states = {GROQ: "closed", "groq": "closed"} | {charged: "open"}
    assert states == {key: state(key) for key in states}


@over(SHAPES)
def test_a_target_is_refused_while_its_provider_is_blocked(clock, shape: Shape):
    """A guard on a target asks its provider, and its own state stays its own."""
    trip(error=unreachable)

    outcomes = [
        shape.outcome(key, "answer") for key in (GROQ, "groq/other", "groq@tenant/llama", OPENAI)
    ]

    assert ["refused", "refused", "served", "served"] == outcomes
    assert ("closed", "open") == (state(GROQ), state("groq"))


def test_a_target_that_is_open_leaves_its_provider_and_its_siblings_alone(clock):
    """One dead model does not take its provider down."""
    trip()

    assert "closed" == state("groq")
    assert not is_refused("groq/other")
    assert not is_refused("groq")


def test_a_provider_counts_the_calls_of_all_its_targets(clock):
    """The numbers of a provider are the sums over its targets."""
    succeed("groq/a", times=3)
    succeed("groq/b", times=2)
    fail("groq/b", times=1)
    fail("groq/c", times=2, error=unreachable)
    succeed(OPENAI)

    assert (8, 3) == totals("groq")


def test_a_targets_answer_ends_the_failures_of_its_provider() -> None:
    """Failures in a row are of the provider; any answer from it, by any of its targets, breaks the row."""

    @failover(chain="groq/other")
    def ask(target: Target) -> str:
        return target.key

    ask()
    for _ in range(3):
        failing(GROQ, 4, ConnectionRefusedError)
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


@over(SHAPES)
def test_an_attempt_on_a_target_takes_a_place_of_its_half_open_provider(clock, shape: Shape):
    """While a provider is half-open, one attempt on any of its targets is its probe."""
    trip("groq/broken", unreachable)
    clock.advance(34)
    probe = Held(GROQ, shape)

    others = [is_refused("groq/other"), is_refused("groq"), is_refused("groq@tenant/llama")]
    probe.finish("answer")

    assert [True, True, False] == others
    assert "closed" == state("groq")
    assert not is_refused("groq/other")


@over(SHAPES)
def test_a_probe_of_both_that_succeeds_settles_both(clock, shape: Shape):
    """One success closes a half-open target and its half-open provider."""
    trip(GROQ)
    fail("groq/other", 5, unreachable)
    clock.advance(34)
    before = (state(GROQ), state("groq"))

    outcome = shape.outcome(GROQ, "answer")

    assert ("half_open", "half_open") == before
    assert ("served", "closed", "closed") == (outcome, state(GROQ), state("groq"))


@over(SHAPES)
def test_a_probe_of_both_that_fails_settles_the_circuit_it_is_charged_to(clock, shape: Shape):
    """A target's failure leaves its half-open provider as it was and returns its lease."""
    trip(GROQ)
    fail("groq/other", 5, unreachable)
    clock.advance(34)

    outcome = shape.outcome(GROQ, down())

    assert ("failed", "open", "half_open") == (outcome, state(GROQ), state("groq"))
    assert not is_refused("groq/other")


@over(SHAPES)
def test_a_provider_failure_gives_the_place_of_the_half_open_target_back(clock, shape: Shape):
    """A provider's failure leaves the half-open target as it was and returns its lease."""
    half_open(clock)

    outcome = shape.outcome(GROQ, unreachable())

    assert ("failed", "half_open", "closed") == (outcome, state(GROQ), state("groq"))
    assert not is_refused(GROQ)


def test_an_account_has_circuits_of_its_own(clock):
    """One tenant's dead key harms no other tenant."""
    fail("groq@seven/llama", error=lambda: ProviderError(401))

    assert is_refused("groq@seven/llama")
    assert is_refused("groq@seven/other")
    assert not is_refused("groq@eight/llama")
    assert not is_refused("groq/llama")


@pytest.mark.parametrize("spelling", ["Groq/llama", " groq/llama ", "GROQ/llama"])
def test_a_name_is_one_circuit_however_it_is_written(clock, spelling: str):
    """Guards are found by the key, not by its spelling."""
    trip(spelling)

    assert is_refused(GROQ)
    assert "open" == breaker(spelling).state == breaker(GROQ).state


def test_the_state_of_a_target_is_its_own_while_its_provider_is_benched(clock):
    """A bench of a provider is not a state of its targets."""
    bench_model("groq")

    assert ("closed", "open") == (state(GROQ), state("groq"))
    assert is_refused(GROQ)


def test_a_provider_needs_as_many_successes_to_close_as_it_is_set_to(clock):
    """Probes of a provider may come from different targets."""
    breaker("groq", successes_to_close=2)
    trip(error=unreachable)
    clock.advance(34)

    succeed("groq/one")
    after_one = state("groq")
    succeed("groq/two")

    assert ("half_open", "closed") == (after_one, state("groq"))


def test_places_of_a_provider_and_of_a_target_are_both_needed(clock):
    """A caller who gets no lease of the target keeps none of its provider."""
    trip(GROQ)
    fail("groq/other", 5, unreachable)
    breaker("groq", probes=2)
    clock.advance(34)
    probe = Held(GROQ)

    refused_at_the_target = [is_refused(GROQ) for _ in range(3)]
    second = Held("groq/other")
    third = is_refused("groq/third")
    second.finish("answer")
    probe.finish("answer")

    assert ([True] * 3, False, True) == (refused_at_the_target, second.refused, third)
    assert ["closed", "closed"] == [state(GROQ), state("groq")]


# --- what ends a bench, and in what -----------------------------------------------------------


def bench_by_trigger() -> None:
    """Open with consecutive failures."""
    trip()


def bench_by_model_gone() -> None:
    """Open with a model that is gone."""
    fail(error=lambda: ProviderError(404, message="The model `llama` does not exist"))


def bench_by_memory_pressure() -> None:
    """Open with a local server that is out of memory."""

    @failover(chain=[GROQ], classify=lambda error: ErrorKind("memory_pressure"))
    def ask(target: Target) -> None:
        raise down()

    with pytest.raises(ChainExhaustedError):
        ask()


def bench_by_rate_limit() -> None:
    """Bench with a hint."""
    fail(
        error=lambda: ProviderError(
            429, retry_after=50, message="Rate limit reached for this model"
        )
    )


def bench_by_hand() -> None:
    """Bench manually."""
    bench_model(GROQ, 60)


@pytest.mark.parametrize(
    ("bench", "during", "bounds", "after"),
    [
        (bench_by_trigger, "open", (30, 33), "half_open"),
        (bench_by_model_gone, "open", (300, 330), "half_open"),
        (bench_by_memory_pressure, "open", (120, 132), "half_open"),
        (bench_by_rate_limit, "open", (50, 55), "closed"),
        (bench_by_hand, "open", (60, 60), "closed"),
    ],
    ids=["trigger", "auth_dead", "memory_pressure", "rate_limit", "manual"],
)
def test_the_cause_of_a_bench_decides_how_long_it_lasts_and_what_comes_after(
    clock, bench, during, bounds, after
):
    """Each cause has its length and ends half-open or closed."""
    bench()
    (key,) = [found.model for found in list_benched()]
    length = remaining(key)

    while_benched = state(key)
    refused = is_refused(GROQ)
    clock.advance(length + 0.001)

    assert bounds[0] - 0.001 <= length <= bounds[1] + 0.001
    assert (during, True, after) == (while_benched, refused, state(key))


@over(SHAPES)
def test_a_dead_key_benches_the_provider_at_once_for_the_longest_cooldown(clock, shape: Shape):
    """One 401 is enough, and it lasts max_cooldown."""
    outcome = shape.outcome(GROQ, ProviderError(401))

    assert ("failed", "open") == (outcome, state("groq"))
    assert lasts((300, 330), "groq")


@over(SHAPES)
def test_a_rate_limit_benches_at_once_without_a_hint_for_fifteen_seconds(clock, shape: Shape):
    """A 429 that names no time benches for 15 s."""
    outcome = shape.outcome(GROQ, ProviderError(429, message="Rate limit reached for this model"))
    (bench,) = list_benched()

    assert "failed" == outcome
    assert 15 - 0.001 <= bench.remaining <= 16.5 + 0.001


def test_rate_limits_count_in_the_error_rate_only(clock):
    """A rate limit is an error but no consecutive failure."""
    fail(times=4)
    fail(error=lambda: ProviderError(429, message="Rate limit reached for this model"))

    found = health()[GROQ]
    assert (5, 5) == (found.total, found.errors)
    assert 4 >= found.consecutive_failures


@over(SHAPES)
def test_a_target_recovers_from_a_rate_limit_during_its_probe(clock, shape: Shape):
    """After a probe that was rate limited the circuit is blocked, and then recovers."""
    half_open(clock)
    shape.outcome(
        GROQ, ProviderError(429, retry_after=20, message="Rate limit reached for this model")
    )
    blocked = is_refused()

    clock.advance(70)
    outcome = shape.outcome(GROQ, "answer")

    assert (True, "served", "closed") == (blocked, outcome, state())


def test_a_dead_key_is_asked_for_again_after_its_bench(clock):
    """A provider whose key is dead is half-open after the longest cooldown, and benched again if it is still dead."""
    fail(error=lambda: ProviderError(401))
    clock.advance(331)
    after_bench = state("groq")

    fail(error=lambda: ProviderError(401))

    assert ("half_open", "open") == (after_bench, state("groq"))
    assert lasts((300, 330), "groq")


def test_a_call_that_was_under_way_when_everything_was_forgotten_changes_nothing(clock):
    """A probe that reports after reset() is of an earlier state."""
    half_open(clock)
    probe = Held()

    reset()
    probe.finish(down())

    assert "closed" == state()
    assert not is_refused()


@pytest.mark.parametrize(
    "ending",
    [down, unreachable, lambda: ProviderError(401), lambda: ProviderError(429, retry_after=50)],
    ids=["failure", "provider", "dead key", "rate limit"],
)
def test_a_call_that_was_under_way_does_not_reach_into_an_isolated_block(clock, ending):
    """What was called outside isolated() benches nothing inside."""
    held = Held()

    with testing.isolated():
        held.finish(ending())
        inside = (list_benched(), totals(GROQ), state(GROQ))

    assert ([], (0, 0), "closed") == inside


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


# --- guards -----------------------------------------------------------------------------------


def test_chains_and_breakers_share_the_circuit_of_a_name(clock):
    """What a breaker learns a chain knows, and the other way round."""
    called = []

    @failover(chain=[GROQ, OPENAI], attempts=1)
    def ask(target: Target) -> str:
        called.append(target.key)
        raise down()

    fail(times=4)
    for _ in range(2):
        with pytest.raises(ChainExhaustedError):
            ask()

    assert [GROQ, OPENAI, OPENAI] == called
    assert is_refused(GROQ)
    assert 2 == health()[OPENAI].consecutive_failures


def test_two_guards_of_one_name_share_their_circuit(clock):
    """breaker() makes a new guard on the one circuit of a name."""
    first, second = breaker(GROQ), breaker(GROQ)

    for guard in (first, second, first, second, first):
        with pytest.raises(ProviderError), guard:
            raise down()

    assert first is not second
    assert "open" == first.state == second.state


def test_one_guard_may_be_entered_nested(clock):
    """Each is left on its own; one success that leaves several is counted once."""
    guard = breaker(GROQ)

    with guard, guard:
        with guard:
            pass
        with pytest.raises(ProviderError), guard:
            raise down()

    assert (2, 1) == totals()


@on_both_loops
def test_one_guard_may_be_entered_nested_in_async_code(clock, backend: str):
    """Each is left on its own, whatever the loop; one success is counted once."""
    guard = breaker(GROQ)

    async def main() -> None:
        async with guard, guard:
            with pytest.raises(ProviderError):
                async with guard:
                    raise down()

    run_async(main, backend=backend)

    assert (2, 1) == totals()


def test_an_inner_guards_rejection_moves_on_and_blames_nobody() -> None:
    """A BreakerOpenError of a guard inside the function is `rejected`, counted where it was raised."""
    bench_model("inner")

    @failover(chain=[GROQ, OPENAI])
    def ask(target: Target) -> str:
        if target.key == GROQ:
            with breaker("inner"):
                pass
        return target.key

    assert (OPENAI, 0) == (ask(), health()[GROQ].errors)


def test_an_error_that_passes_two_guards_of_a_key_is_charged_once(clock: Any) -> None:
    """And charged anew when the same error is raised again."""
    error = down()

    @failover(chain=GROQ, attempts=1, reraise=True)
    def ask(target: Target) -> None:
        with breaker(GROQ):
            raise error

    for _ in range(2):
        with pytest.raises(ProviderError):
            ask()

    assert (2, 2) == (health()[GROQ].errors, health()[GROQ].consecutive_failures)


@pytest.mark.parametrize("guards", [1, 2, 3])
@pytest.mark.parametrize("outermost", ["guard", "chain"])
def test_a_success_is_counted_once_however_many_guards_it_leaves(
    clock: FakeClock, outermost: str, guards: int
) -> None:
    """As an error is, so that the error rate is right."""
    breaker(GROQ, mode="metrics_only")
    answers = scripted(*[down(), "yes"] * 30)

    def guarded(depth: int) -> object:
        if depth == 0:
            return answers()
        with breaker(GROQ):
            return guarded(depth - 1)

    @failover(chain=GROQ, attempts=1, reraise=True)
    def ask(target: Target) -> object:
        return guarded(guards - 1)

    for _ in range(60):
        clock.advance(0.01)
        with contextlib.suppress(ProviderError):
            ask() if outermost == "chain" else guarded(guards)

    assert (60, 30) == totals()
    assert 0.5 == health()[GROQ].error_rate


@pytest.mark.parametrize("outermost", [GROQ, "groq"])
def test_a_provider_counts_a_success_of_its_own_guard_and_of_a_target_once(
    clock: FakeClock, outermost: str
) -> None:
    """Whichever of the two is inside."""
    for _ in range(10):
        with breaker(outermost), breaker("groq" if outermost == GROQ else GROQ):
            clock.advance(0.01)

    assert (10, 10) == (totals("groq")[0], totals(GROQ)[0])


def test_a_cancelled_block_is_not_taken_for_hung_if_a_second_thread_enters_its_new_guard(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second entry comes while the first one looks for entries, and finds none."""
    guard = breaker(GROQ)
    guard.__enter__()
    look = breaker_module._extra_of

    def interrupted(looked_at: Breaker) -> Any:
        found = look(looked_at)
        monkeypatch.setattr(breaker_module, "_extra_of", look)
        second = threading.Thread(target=guard.__enter__)
        second.start()
        second.join()
        return found

    monkeypatch.setattr(breaker_module, "_extra_of", interrupted)
    guard.__exit__(asyncio.CancelledError, asyncio.CancelledError(), None)

    assert (0, 0) == totals()
    guard.__exit__(None, None, None)
    assert (1, 0) == totals()


@pytest.mark.parametrize("outer", ["guard", "chain"])
@pytest.mark.parametrize("depth", [1, 2])
def test_an_error_that_passes_a_guard_in_a_group_is_charged_once(
    clock: FakeClock, outer: str, depth: int
) -> None:
    """A task group puts the errors of its tasks, which were charged there, into a group."""
    breaker(GROQ, mode="metrics_only")

    @breaker(GROQ)
    async def ask() -> None:
        clock.advance(0.001)
        raise down()

    async def both() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ask())

    async def grouped() -> None:
        if depth == 1:
            return await both()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(both())
        return None

    if outer == "guard":
        guarded: Any = breaker(GROQ)(grouped)
    else:

        @failover(chain=GROQ, attempts=1, reraise=True)
        async def guarded(target: Target) -> None:
            await grouped()

    for _ in range(3):
        clock.advance(1.0)
        with pytest.raises(ExceptionGroup):
            asyncio.run(guarded())

    assert 3 == totals()[1]


def test_a_wait_that_is_named_while_the_provider_is_paused_outlasts_that(clock: FakeClock) -> None:
    """A call that is recorded: its target is closed, and the provider's shorter pause runs."""
    clock.advance(5)
    breaker("groq").record(rate_limited(20), 0)
    clock.advance(5)

    breaker(GROQ).record(rate_limited(100), 7)
    clock.advance(16)

    assert {GROQ: 84.0} == {bench.model: bench.remaining for bench in list_benched()}


@pytest.mark.parametrize("blocked", ["by hand", "forced open"])
def test_an_operator_blocks_a_key_inside_a_probe_too(clock: FakeClock, blocked: str) -> None:
    """The lease that a guard around the call holds does not overrule the operator."""

    @failover(chain=[GROQ, OPENAI])
    def ask(target: Target) -> str:
        return target.key

    half_open(clock, "groq")
    with breaker("groq"):
        assert GROQ == ask()
        if blocked == "by hand":
            bench_model("groq")
        else:
            configure(breakers={"groq": {"mode": "forced_open"}})

        assert OPENAI == ask()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@over(SHAPES)
def test_an_observer_that_interrupts_a_probes_start_gives_its_place_back(
    clock: FakeClock, shape: Shape, interrupt: type[BaseException]
) -> None:
    """The interrupt leaves before the function is called, and the next caller may probe."""
    trip()
    clock.advance(34)  # nobody has looked since, so the probe's start tells of it

    def interrupts(event: object) -> None:
        raise interrupt

    stop = observe(interrupts, HealthChanged)
    with pytest.raises(interrupt):
        shape.run(GROQ, lambda: pytest.fail("the probe was made"))
    stop()
    shape.run(GROQ, lambda: "answer")

    assert "closed" == state()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@over(SHAPES)
def test_an_observer_that_interrupts_a_probes_end_leaves_both_circuits_settled(
    clock: FakeClock, shape: Shape, interrupt: type[BaseException]
) -> None:
    """A success closes the target and its provider, before the interrupt leaves."""
    breaker(GROQ, failures=1).record(down(), 0)
    breaker("groq", failures=1).record(unreachable(), 0)
    clock.advance(40)

    def interrupts(event: object) -> None:
        raise interrupt

    stop = observe(interrupts, TargetUnbenched)
    with pytest.raises(interrupt):
        shape.run(GROQ, lambda: "answer")
    stop()

    assert ("closed", "closed") == (state(GROQ), state("groq"))


def test_nested_guards_count_failures_in_a_row_and_probes_once(clock: FakeClock) -> None:
    """What opens and closes a circuit besides the rates is as with one guard."""
    breaker(GROQ, successes_to_close=2)
    states = []
    for error in [down() for _ in range(5)] + [None, None]:
        if error is None and state() == "open":
            clock.advance(40.0)
        with contextlib.suppress(ProviderError), breaker(GROQ), breaker(GROQ):
            clock.advance(0.01)
            if error is not None:
                raise error
        states.append(state())

    assert ["closed"] * 4 + ["open", "half_open", "closed"] == states


@on_both_loops
@pytest.mark.parametrize("guards", [1, 2])
def test_one_error_that_is_raised_to_many_callers_at_once_is_charged_for_each(
    clock: FakeClock, backend: str, guards: int
) -> None:
    """Twenty tasks wait for one connection that fails; guards inside one another charge once.

    Where the tasks do not go on in the order in which they came, as on trio, half may be missed.
    """
    breaker(GROQ, mode="metrics_only")
    error = down()

    async def main() -> None:
        failed = anyio.Event()

        async def call() -> None:
            with contextlib.suppress(ProviderError), contextlib.ExitStack() as entered:
                for _ in range(guards):
                    entered.enter_context(breaker(GROQ))
                    clock.advance(0.001)
                await failed.wait()
                raise error

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            clock.advance(1.0)
            failed.set()

    run_async(main, backend=backend)

    total, errors = totals()
    assert (20 if backend == "asyncio" else 10) <= errors <= 20
    assert total == errors


@on_both_loops
@pytest.mark.parametrize("where", ["task", "thread"])
@pytest.mark.parametrize("outer", ["guard", "chain"])
def test_an_error_of_a_started_task_or_thread_is_charged_once(
    clock: FakeClock, backend: str, where: str, outer: str
) -> None:
    """The guards of both contexts are of one call; a second call is charged for itself."""
    breaker(GROQ, mode="metrics_only")
    error = down()

    def blocking() -> None:
        clock.advance(0.1)
        with breaker(GROQ):
            clock.advance(0.1)
            raise error

    async def elsewhere_raised(_: Target | None = None) -> None:
        if where == "thread":
            await anyio.to_thread.run_sync(blocking)
            return
        raised: list[BaseException] = []

        async def started() -> None:
            try:
                blocking()
            except ProviderError as one:
                raised.append(one)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(started)
        raise raised[0]

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(ProviderError):
                if outer == "chain":
                    policy = failover(chain=GROQ, attempts=1, reraise=True)
                    await policy(elsewhere_raised)()
                else:
                    async with breaker(GROQ):
                        await elsewhere_raised()

    run_async(main, backend=backend)

    assert (2, 2) == totals()


def test_a_guard_inside_a_probe_shares_its_place(clock: Any) -> None:
    """A half-open key whose function guards it again recovers instead of refusing itself for ever."""
    answers = scripted(down(), down(), "yes")

    @failover(chain=GROQ, attempts=2, backoff=lambda n: 0.0)
    def ask(target: Target) -> str:
        with breaker(GROQ), breaker("groq"):
            return answers()

    with pytest.raises(ChainExhaustedError):
        ask()
    clock.advance(40)

    assert ("yes", "closed") == (ask(), breaker(GROQ).state)


def test_one_guard_may_be_entered_by_many_threads_at_once(clock):
    """A guard kept in a variable loses no report under threads."""
    guard = breaker(GROQ, mode="metrics_only")
    inside = threading.Barrier(8)

    def call(index: int) -> None:
        for _ in range(50):
            with guard:
                pass
        with guard:
            inside.wait(PATIENCE)
            if index % 2:
                raise down()

    with eager_threads():
        results = in_threads(8, call)

    assert 4 == sum(isinstance(result, ProviderError) for result in results)
    assert (408, 4) == totals()


@on_both_loops
def test_one_guard_may_be_entered_by_many_tasks_at_once(clock, backend: str):
    """A guard kept in a variable loses no report under tasks."""
    guard = breaker(GROQ, mode="metrics_only")

    async def main() -> None:
        everyone = anyio.Event()
        inside = 0

        async def call(index: int) -> None:
            nonlocal inside
            try:
                async with guard:
                    inside += 1
                    if inside == 20:
                        everyone.set()
                    await everyone.wait()
                    if index % 2:
                        raise down()
            except ProviderError:
                pass

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for index in range(20):
                    tasks.start_soon(call, index)

    run_async(main, backend=backend)

    assert (20, 10) == totals()


@on_both_loops
def test_one_guard_entered_by_overlapping_tasks_pairs_each_entry_with_its_own_exit(
    clock, backend: str
):
    """Tasks that leave in another order than they came report their own times."""
    guard = breaker(GROQ, slow_call=5.0, min_calls=1000)

    async def main() -> None:
        first_may_go, second_may_go = anyio.Event(), anyio.Event()

        async def call(may_go: anyio.Event) -> None:
            async with guard:
                await may_go.wait()

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, first_may_go)
                await anyio.wait_all_tasks_blocked()
                clock.advance(10)
                tasks.start_soon(call, second_may_go)
                await anyio.wait_all_tasks_blocked()
                clock.advance(1)
                first_may_go.set()
                await anyio.wait_all_tasks_blocked()
                second_may_go.set()

    run_async(main, backend=backend)

    assert 6.0 == pytest.approx(health()[GROQ].latency, abs=0.01)


@on_both_loops
def test_a_guard_may_be_left_from_another_task(clock, backend: str):
    """What one task entered another may leave, with a success or a failure."""
    guard = breaker(GROQ)

    async def main() -> None:
        async def enter() -> None:
            await guard.__aenter__()

        async def leave_well() -> None:
            await guard.__aexit__(None, None, None)

        async def leave_badly() -> None:
            error = down()
            assert not await guard.__aexit__(type(error), error, None)

        for step in (enter, leave_well, enter, leave_badly):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(step)

    run_async(main, backend=backend)

    assert (2, 1) == totals()


@on_both_loops
def test_a_context_keeps_nothing_of_probes_that_other_tasks_ended(clock, backend: str):
    """A probe entered here and left elsewhere neither stays here nor is borrowed here."""

    async def main() -> list[int]:
        kept = []
        for _ in range(5):
            half_open(clock)
            guard = breaker(GROQ)
            guard.__enter__()

            async def leave(guard: Breaker = guard) -> None:
                guard.__exit__(None, None, None)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(leave)
            kept.append(len(open_permits.get()))
            assert () == held_leases()
        return kept

    assert [1] * 5 == run_async(main, backend=backend)


def test_a_decorator_keeps_name_docstring_signature_and_colour():
    """What inspect sees of a guarded function is what it saw before."""

    def plain(prompt: str, *, size: int = 3) -> str:
        """Ask."""
        return prompt * size

    async def asynchronous(prompt: str) -> str: ...

    def generator() -> Iterator[str]:
        yield ""

    async def async_generator():
        yield ""

    guarded = [
        breaker(GROQ)(function) for function in (plain, asynchronous, generator, async_generator)
    ]

    assert ["plain", "asynchronous", "generator", "async_generator"] == [
        each.__name__ for each in guarded
    ]
    assert "Ask." == guarded[0].__doc__
    assert inspect.signature(plain) == inspect.signature(guarded[0])
    assert plain is guarded[0].__wrapped__
    assert [False, True, False, False] == [inspect.iscoroutinefunction(each) for each in guarded]
    assert inspect.isgeneratorfunction(guarded[2])
    assert inspect.isasyncgenfunction(guarded[3])
    assert "aaa" == guarded[0]("a")


def test_a_decorator_guards_methods(clock):
    """Methods, class methods and static methods are guarded."""

    class Client:
        @breaker(GROQ)
        def method(self) -> None:
            raise down()

        @classmethod
        @breaker(GROQ)
        def of_class(cls) -> None:
            raise down()

        @staticmethod
        @breaker(GROQ)
        def static() -> None:
            raise down()

    for function in (
        Client().method,
        Client.of_class,
        Client.static,
        Client().method,
        Client().static,
    ):
        with pytest.raises(ProviderError):
            function()

    assert "open" == state()


def test_a_generator_is_guarded_while_it_is_consumed(clock):
    """A generator that fails after its first item fails, and one that ends is one success."""

    @breaker(GROQ)
    def stream(error: BaseException | None) -> Iterator[int]:
        yield 1
        yield 2
        if error:
            raise error

    good = list(stream(None))
    with pytest.raises(ProviderError):
        list(stream(down()))

    assert [1, 2] == good
    assert (2, 1) == totals()


def test_a_refused_generator_raises_before_its_body_runs(clock):
    """An open circuit refuses a generator without an item."""
    trip()

    @breaker(GROQ)
    def stream() -> Iterator[int]:
        pytest.fail("the body ran")
        yield 1

    with pytest.raises(BreakerOpenError):
        list(stream())


def test_values_sent_into_a_guarded_generator_arrive(clock):
    """send(), throw() and the returned value go through the guard."""
    returned = []

    @breaker(GROQ)
    def echo() -> Iterator[object]:
        received = yield "ready"
        try:
            yield received
        except LookupError:
            yield "caught"
        return "end"

    def outer() -> Iterator[object]:
        returned.append((yield from echo()))

    generator = outer()
    items = [next(generator), generator.send("sent"), generator.throw(LookupError("x"))]
    with pytest.raises(StopIteration):
        next(generator)

    assert ["ready", "sent", "caught"] == items
    assert ["end"] == returned


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


def test_record_reports_calls_made_elsewhere(clock):
    """.record counts successes with their latency and failures as if they had happened inside."""
    guard = breaker(GROQ)

    guard.record(None, 2.0)
    guard.record(None, 4.0)
    after_success = (totals(), health()[GROQ].latency)
    for _ in range(5):
        guard.record(down(), 0.5)

    assert ((2, 0), pytest.approx(3.0)) == after_success
    assert "open" == guard.state
    assert is_refused()


def test_record_charges_by_scope(clock):
    """A recorded refusal of a connection is the provider's."""
    for _ in range(5):
        breaker(GROQ).record(unreachable(), 0.1)

    assert ("closed", "open") == (state(GROQ), state("groq"))


def test_record_of_a_bug_changes_nothing(clock):
    """A recorded error goes through classification."""
    for _ in range(12):
        breaker(GROQ).record(TypeError("a bug"), 0.1)

    assert "closed" == state()
    assert 0 == totals()[1]


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


@pytest.mark.parametrize("error", [None, unreachable()])
def test_a_recorded_call_of_a_target_from_before_its_providers_trip_settles_nothing(
    clock: FakeClock, error: Exception | None
) -> None:
    """It is held against both states: the target's has lasted, the provider's is newer."""
    breaker(GROQ)
    provider = breaker("groq", failures=2)
    clock.advance(100.0)
    for _ in range(2):
        provider.record(unreachable(), 0.1)
    clock.advance(40.0)

    breaker(GROQ).record(error, 60.0)

    assert "half_open" == provider.state
    breaker(GROQ).record(None, 5.0)
    assert "closed" == provider.state


def test_a_recorded_call_of_a_target_counts_in_no_later_period_of_its_provider(
    clock: FakeClock,
) -> None:
    """What was charged to a provider before it closed does not help to open it again."""
    breaker(GROQ)
    trip("groq")
    clock.advance(40.0)
    succeed("groq")

    breaker(GROQ).record(unreachable(), 60.0)
    breaker(GROQ).record(unreachable(), 0.0)

    assert (1, 1) == (health()["groq"].consecutive_failures, health()["groq"].errors)


@pytest.mark.parametrize("error", [down(), unreachable()])
def test_a_recorded_call_of_a_provider_that_lasted_counts_though_its_target_is_newer(
    clock: FakeClock, error: Exception
) -> None:
    """Each of the two circuits compares the call with its own state."""
    trip(GROQ)
    clock.advance(40.0)

    breaker(GROQ).record(error, 60.0)

    expected = 1 if isinstance(error, ConnectionRefusedError) else 0
    assert ("half_open", expected) == (state(GROQ), health()["groq"].consecutive_failures)
    assert not is_refused()


@pytest.mark.parametrize("error", [None, down()])
def test_a_call_recorded_inside_a_probe_is_held_against_the_probes_state(
    clock: FakeClock, error: Exception | None
) -> None:
    """The lease that it borrows there was given by a state from after its beginning."""
    half_open(clock)

    with pytest.raises(KeyboardInterrupt), breaker(GROQ):
        breaker(GROQ).record(error, 1000.0)
        raise KeyboardInterrupt

    assert "half_open" == state()


def test_a_late_success_of_a_target_does_not_end_the_failures_of_its_provider(
    clock: FakeClock,
) -> None:
    """A call that counts nowhere proves nothing about the present."""
    trip(GROQ)
    clock.advance(40.0)
    succeed(GROQ)
    breaker("groq").record(unreachable(), 0.1)

    breaker(GROQ).record(None, 20.0)

    assert 1 == health()["groq"].consecutive_failures


@pytest.mark.parametrize("began_ago", [0.1, 5.0, 1000.0])
def test_a_recorded_rate_limit_that_names_a_longer_wait_extends_the_pause(
    clock: FakeClock, began_ago: float
) -> None:
    """Whenever the call began, the wait that it was told begins now; it counts as no error."""
    guard = breaker(GROQ)
    guard.record(rate_limited(20), 0.1)
    clock.advance(1.0)

    guard.record(rate_limited(60), began_ago)

    assert (60.0, (1, 1)) == (pytest.approx(remaining()), totals())


@pytest.mark.parametrize("error", [rate_limited(5), rate_limited(), down(), unreachable(), None])
def test_nothing_else_that_is_recorded_during_a_pause_changes_it(
    clock: FakeClock, error: Exception | None
) -> None:
    """A pause is never shortened, a wait that is not named is none, and nothing is counted."""
    guard = breaker(GROQ)
    guard.record(rate_limited(10), 0.1)
    clock.advance(1.0)

    guard.record(error, 1000.0)

    assert (9.0, (1, 1)) == (pytest.approx(remaining()), totals())
    assert (0, "closed") == (health()["groq"].consecutive_failures, state("groq"))


def test_a_recorded_rate_limit_extends_the_pause_of_the_circuit_that_it_is_charged_to(
    clock: FakeClock,
) -> None:
    """A wait of the whole account is the provider's, through whichever target it is heard."""
    with isolated(), testing.fake_clock():

        @classify.rule
        def of_account(error: BaseException) -> Verdict | None:
            if not isinstance(error, LookupError):
                return None
            return Verdict(
                ErrorKind.RATE_LIMITED, "account", retry_after=error.args[0], scope="provider"
            )

        breaker(GROQ).record(LookupError(20), 0.1)
        breaker(GROQ).record(rate_limited(40), 0.1)
        of_each = {bench.model: bench.remaining for bench in list_benched()}

        breaker(GROQ).record(LookupError(60), 0.1)

        assert {"groq": pytest.approx(20.0), GROQ: pytest.approx(40.0)} == of_each
        assert (pytest.approx(60.0), pytest.approx(40.0)) == (remaining("groq"), remaining())


def test_a_recorded_rate_limit_does_not_lengthen_what_is_no_pause(clock: FakeClock) -> None:
    """Neither an operator's bench nor an open circuit is one, and a mode may exclude pauses."""
    bench_model(GROQ, 30)
    breaker(OPENAI, failures=1).record(down(), 0.1)
    breaker("a/x", mode="disabled").record(rate_limited(20), 0.1)
    breaker("b/x", mode="metrics_only").record(rate_limited(20), 0.1)
    before = {bench.model: bench.remaining for bench in list_benched()}

    for key in (GROQ, OPENAI, "a/x", "b/x"):
        breaker(key).record(rate_limited(600), 100.0)

    assert {GROQ, OPENAI} == set(before)
    assert before == {bench.model: bench.remaining for bench in list_benched()}


def test_a_recorded_rate_limit_extends_a_pause_under_a_manual_bench(clock: FakeClock) -> None:
    """The pause is still there when the operator's bench is over."""
    breaker(GROQ).record(rate_limited(20), 0.1)
    bench_model(GROQ, 30)

    breaker(GROQ).record(rate_limited(60), 0.1)

    clock.advance(31.0)
    assert 29.0 == pytest.approx(remaining())


def test_the_first_call_that_is_recorded_may_have_begun_before_the_guard(clock: FakeClock) -> None:
    """There was no earlier state."""
    breaker("groq").record(None, 5.0)

    assert 1 == health()["groq"].total


def test_the_state_is_computed_when_it_is_read(clock):
    """No call is needed for an open circuit to become half-open."""
    guard = breaker(GROQ)
    trip()
    states = [guard.state]

    clock.advance(34)
    states.append(guard.state)

    assert ["open", "half_open"] == states


def test_reset_forgets_an_open_circuit(clock):
    """reset() closes what opened by itself."""
    trip()

    reset()

    assert "closed" == state()
    assert not is_refused()


# --- settings of a circuit --------------------------------------------------------------------


def test_a_guard_changes_the_setting_of_its_circuit_for_all(clock):
    """An option that one guard names holds for every caller of that name."""
    breaker(GROQ, failures=2)

    fail(times=2)

    assert "open" == state()


def test_options_that_are_not_named_stay(clock):
    """A second guard changes only what it names."""
    breaker(GROQ, failures=2)
    breaker(GROQ, cooldown=7)

    fail(times=2)

    assert lasts((7, 7.7))


def test_a_guard_without_options_changes_nothing(clock):
    """breaker(name) leaves the settings of its circuit as they are."""
    breaker(GROQ, failures=2)
    breaker(GROQ)

    fail(times=2)

    assert "open" == state()


def test_a_setting_for_one_name_is_not_one_for_another(clock):
    """Settings belong to a key."""
    breaker(GROQ, failures=1)
    breaker("groq", failures=1)

    fail("groq/other")
    fail(OPENAI)

    assert ["closed", "closed"] == [state("groq/other"), state(OPENAI)]


def test_a_real_change_is_logged_and_an_equal_one_is_not(caplog):
    """Naming the value a circuit has is a no-op."""
    caplog.set_level(logging.DEBUG, logger="resilient_llm")
    breaker(GROQ, failures=2)
    caplog.clear()

    breaker(GROQ, failures=2)
    breaker(GROQ, failures=2)
    equal = list(caplog.messages)
    breaker(GROQ, failures=3)

    assert [] == equal
    assert [True] == ["failures" in message for message in caplog.messages]


def test_a_change_of_settings_keeps_what_is_counted(clock):
    """Lowering `failures` takes effect with the next failure."""
    fail(times=2)
    breaker(GROQ, failures=3)

    fail()

    assert "open" == state()


def test_the_options_of_a_guard_are_applied_again_where_its_circuit_is_new(clock):
    """A guard written outside has its options inside isolated() too."""
    guard = breaker(GROQ, failures=2)

    with testing.isolated():
        for _ in range(2):
            with pytest.raises(ProviderError), guard:
                raise down()
        inside = guard.state

    assert ("open", "closed") == (inside, guard.state)


def test_the_options_of_a_decorator_are_applied_again_where_its_circuit_is_new(clock):
    """A function decorated outside has its options inside isolated() too."""

    @breaker(GROQ, failures=2)
    def ask() -> None:
        raise down()

    with testing.isolated():
        for _ in range(2):
            with pytest.raises(ProviderError):
                ask()
        with pytest.raises(BreakerOpenError):
            ask()


def test_configure_sets_breakers_for_all_names(clock):
    """The name "*" is every name that has no setting of its own."""
    configure(breakers={"*": {"failures": 2}, GROQ: {"failures": 3}})

    fail(GROQ, times=2)
    fail(OPENAI, times=2)

    assert ["closed", "open"] == [state(GROQ), state(OPENAI)]


def test_configure_merges_breakers_by_name(clock):
    """A second configure(breakers=...) leaves the names it does not mention."""
    configure(breakers={GROQ: {"failures": 2}})
    configure(breakers={OPENAI: {"failures": 3}})

    fail(GROQ, times=2)
    fail(OPENAI, times=2)
    states = [state(GROQ), state(OPENAI)]
    fail(OPENAI)

    assert ["open", "closed"] == states
    assert "open" == state(OPENAI)


def test_settings_for_a_name_inherit_those_for_all(clock):
    """What a name does not set it has from "*"."""
    configure(breakers={"*": {"cooldown": 7}, GROQ: {"failures": 2}})

    fail(times=2)

    assert lasts((7, 7.7))


POSITIVE = [0, -1, float("nan"), float("inf"), True, "5", None]
WHOLE = [0, -1, 1.5, float("nan"), True, "5", None]
SHARE = [0, -0.1, 1.1, float("nan"), float("inf"), True, "0.5", None]
BAD_OPTIONS = [
    (name, value)
    for name, values in {
        "failures": WHOLE,
        "error_rate": SHARE,
        "min_calls": WHOLE,
        "window": POSITIVE,
        "slow_call": POSITIVE[:-1],
        "slow_rate": SHARE,
        "cooldown": POSITIVE,
        "max_cooldown": POSITIVE,
        "probes": WHOLE,
        "successes_to_close": WHOLE,
        "probe_lease": POSITIVE[:-1],
        "mode": ["on", "", None, True, 0],
    }.items()
    for value in values
]


@pytest.mark.parametrize(("option", "value"), BAD_OPTIONS)
@pytest.mark.parametrize("where", ["breaker", "all names", "one name"])
def test_a_bad_option_is_refused_where_it_is_written(option: str, value: object, where: str):
    """The error names the option and says what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        if where == "breaker":
            breaker(GROQ, **{option: value})
        elif where == "all names":
            configure(breakers={"*": {option: value}})
        else:
            configure(breakers={"groq": {option: value}})

    assert isinstance(caught.value, ValueError)
    assert option in str(caught.value)
    if option == "mode":
        assert all(
            mode in str(caught.value)
            for mode in ("enforce", "metrics_only", "disabled", "forced_open")
        )


@pytest.mark.parametrize("where", ["breaker", "all names", "one name"])
def test_an_unknown_option_is_refused_where_it_is_written(where: str):
    """The error names the unknown option and lists those there are."""
    with pytest.raises(ConfigurationError) as caught:
        if where == "breaker":
            breaker(GROQ, treshold=3)
        elif where == "all names":
            configure(breakers={"*": {"treshold": 3}})
        else:
            configure(breakers={"groq": {"treshold": 3}})

    assert "treshold" in str(caught.value)
    assert all(option in str(caught.value) for option in ("failures", "cooldown", "mode"))


@pytest.mark.parametrize("name", ["", "  ", "groq/", "/llama", None, 3])
def test_a_bad_name_is_refused_where_it_is_written(name: object):
    """A circuit has a name of a provider or of a target."""
    with pytest.raises(ConfigurationError):
        breaker(name)


def test_two_functions_that_name_different_options_do_not_change_them_at_every_call(caplog):
    """The options of a decorator are applied where its circuit is new, not at each call."""
    caplog.set_level("INFO", "resilient_llm")

    @breaker("a/x", failures=3)
    def one() -> None: ...

    @breaker("a/x", failures=9)
    def other() -> None: ...

    before = list(caplog.messages)
    for _ in range(3):
        one()
        other()

    assert before == caplog.messages
    assert 9 == runtime.registry.circuit("a/x").settings.failures


def test_a_bad_option_leaves_the_setting_as_it_was(clock):
    """A refused change changes nothing."""
    breaker(GROQ, failures=2)
    with pytest.raises(ConfigurationError):
        breaker(GROQ, failures=50, cooldown=-1)

    fail(times=2)

    assert "open" == state()


def test_a_breaker_on_something_that_cannot_be_called_is_refused():
    """What cannot be guarded is refused at decoration."""
    with pytest.raises((ConfigurationError, TypeError)):
        breaker(GROQ)(3)


# --- other processes and loops ----------------------------------------------------------------

FORK = """
import os, sys, threading
from resilient_llm import bench_model, breaker, configure, is_benched, list_benched

configure(logging=False)
bench_model("groq/llama")
# What is imported when it is first needed is imported before: a module whose import another
# thread had begun stays locked in a child for ever, in every Python program.
for error in (ConnectionResetError(104, "reset"), TimeoutError("timed out"), None):
    try:
        with breaker("openai/gpt"):
            if error:
                raise error
    except OSError:
        pass
stop = threading.Event()

def hammer():
    while not stop.is_set():
        for n in range(20):
            try:
                with breaker(f"groq/{n}"):
                    raise ConnectionResetError(104, "reset")
            except Exception:
                pass
            bench_model(f"other/{n}", 60)
            list_benched()

threads = [threading.Thread(target=hammer, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(10):
    child = os.fork()
    if not child:
        try:
            assert is_benched("groq/llama")
            bench_model("new/model", 60)
            with breaker("openai/gpt"):
                pass
            for n in range(3):
                try:
                    with breaker("mistral/large", failures=3):
                        raise TimeoutError("timed out")
                except TimeoutError:
                    pass
            assert breaker("mistral/large").state == "open"
            assert list_benched()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    deadline = threading.Timer(10, os.kill, (child, 9))
    deadline.start()
    _, status = os.waitpid(child, 0)
    deadline.cancel()
    assert status == 0, status
stop.set()
for thread in threads:
    thread.join()
assert breaker("mistral/large").state == "closed"
assert not is_benched("new/model")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_has_working_circuits_of_its_own():
    """A child forked while threads report knows the benches, works, and changes nothing in its parent."""
    root = Path(__file__).parents[2]

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_child_has_no_leases_of_its_parents_calls(clock: Any) -> None:
    """The lease of a probe that runs in the parent is free in the child, which has its own locks."""
    failing(GROQ, 5)
    clock.advance(40)
    circuit = runtime.registry.circuit(GROQ)
    before = circuit._lock
    with breaker(GROQ):
        assert "probes taken" == circuit.block(runtime.clock()).reason  # type: ignore[union-attr]
        runtime.after_fork()
        assert circuit.block(runtime.clock()) is None
        assert circuit._lock is not before


def test_moments_handed_out_are_aware():
    """`.until` and `.since` of an open circuit are aware UTC datetimes near the real time."""
    before = datetime.now(UTC)

    trip()
    (bench,) = list_benched()

    assert bench.since.tzinfo is not None
    assert 0 <= (bench.since - before).total_seconds() <= 20
    assert (
        FIRST_COOLDOWN[0] - 0.01
        <= (bench.until - bench.since).total_seconds()
        <= FIRST_COOLDOWN[1] + 0.01
    )
