"""``on_down="demote"``: benched targets are tried once all live ones have failed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio.lowlevel
import pytest

from resilient_llm import (
    Attempt,
    AttemptFailed,
    BreakerOpenError,
    CallRejectedError,
    ChainExhaustedError,
    DeadlineExceededError,
    ErrorKind,
    FailedOver,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    TargetSkipped,
    Trace,
    bench_model,
    breaker,
    configure,
    failover,
    list_benched,
    testing,
)
from tests.support.guards import elsewhere, failing, in_threads, state, trip
from tests.support.ways import (
    DRIVERS,
    GROQ,
    MISTRAL,
    OPENAI,
    Driver,
    ProviderError,
    Script,
    down,
    on_both_loops,
    over,
    rate_limited,
    run_async,
    too_long,
)

CHAIN = [GROQ, OPENAI, MISTRAL]


def remaining() -> dict[str, float | None]:
    """Return the seconds left of each bench."""
    return {bench.model: bench.remaining for bench in list_benched()}


def demoting(*chain: Any, **options: Any) -> Any:
    """Return a policy that demotes, with one attempt per target unless told otherwise."""
    return failover(chain=chain or CHAIN, on_down="demote", **{"attempts": 1, **options})


# --- which targets are tried, and when --------------------------------------------------------


@over(DRIVERS)
def test_a_benched_target_is_tried_once_all_live_ones_have_failed(
    driver: Driver, clock: Any
) -> None:
    """The benched first target serves the call that would have failed."""
    trip(GROQ)
    script = Script({GROQ: ["groq"], OPENAI: [down], MISTRAL: [down]})

    answer = driver.run(demoting(), script)

    assert "groq" == answer
    assert [OPENAI, MISTRAL, GROQ] == script.calls


@over(DRIVERS)
def test_a_benched_target_is_not_tried_while_a_live_one_answers(driver: Driver, clock: Any) -> None:
    """A demoted target is behind every live one."""
    trip(GROQ)
    script = Script({GROQ: ["groq"], OPENAI: [down], MISTRAL: ["mistral"]})

    answer = driver.run(demoting(), script)

    assert "mistral" == answer
    assert [OPENAI, MISTRAL] == script.calls


@over(DRIVERS)
def test_with_skip_a_benched_target_is_not_tried(driver: Driver, clock: Any) -> None:
    """The default fails the call."""
    trip(GROQ)
    script = Script({GROQ: ["groq"], OPENAI: [down]})

    with pytest.raises(ChainExhaustedError):
        driver.run(failover(chain=[GROQ, OPENAI], attempts=1), script)

    assert [OPENAI] == script.calls


@over(DRIVERS)
def test_demoted_targets_are_tried_in_the_order_of_the_strategy(driver: Driver, clock: Any) -> None:
    """Not the soonest to recover first, as when all are benched."""
    failing(GROQ, 5)
    clock.advance(10.0)
    failing(MISTRAL, 5)
    script = Script({GROQ: [down], OPENAI: [down], MISTRAL: [down]})

    with pytest.raises(ChainExhaustedError):
        driver.run(demoting(strategy=lambda targets: tuple(reversed(targets))), script)

    assert (remaining()[GROQ] or 0.0) < (remaining()[MISTRAL] or 0.0)
    assert [OPENAI, MISTRAL, GROQ] == script.calls


@over(DRIVERS)
def test_a_demoted_target_is_tried_once_without_retries(driver: Driver, clock: Any) -> None:
    """The live target is retried; the benched one is not, and its bench stays as long as it was."""
    trip(GROQ)
    before = remaining()
    script = Script({GROQ: [down], OPENAI: [down]})

    with pytest.raises(ChainExhaustedError):
        driver.run(demoting(GROQ, OPENAI, attempts=2, backoff=lambda number: 0.0), script)

    assert [OPENAI, OPENAI, GROQ] == script.calls
    assert before[GROQ] == remaining()[GROQ]


@over(DRIVERS)
def test_a_target_that_the_call_has_benched_itself_is_not_tried_again(
    driver: Driver, clock: Any
) -> None:
    """It has failed in this call: once each."""
    breaker(GROQ, failures=1)
    breaker(OPENAI, failures=1)
    script = Script({GROQ: [down], OPENAI: [down]})

    with pytest.raises(ChainExhaustedError):
        driver.run(demoting(GROQ, OPENAI), script)

    assert {GROQ, OPENAI} == set(remaining())
    assert [GROQ, OPENAI] == script.calls


@pytest.mark.parametrize(
    ("error", "until"),
    [(lambda: ProviderError(401), None), (lambda: rate_limited(90), None), (None, 50.0)],
    ids=["dead key", "named wait", "manual"],
)
def test_what_is_no_guess_is_never_tried(error: Any, until: float | None, clock: Any) -> None:
    """A dead key, a wait that the provider named and an operator's bench are left alone."""
    if error is None:
        bench_model(GROQ, until)
    else:
        failing(GROQ, 1, error)
    script = Script({GROQ: ["groq"], OPENAI: [down]})

    with pytest.raises(ChainExhaustedError):
        demoting(GROQ, OPENAI).call(script.__call__)

    assert [OPENAI] == script.calls


def test_a_named_wait_that_is_over_is_no_obstacle(clock: Any) -> None:
    """Then the target is live in its own place."""
    failing(GROQ, 1, lambda: rate_limited(90))
    clock.advance(91.0)
    script = Script({GROQ: ["groq"], OPENAI: [down]})

    assert "groq" == demoting(GROQ, OPENAI).call(script.__call__)
    assert [GROQ] == script.calls


def test_a_rate_limit_without_a_named_wait_may_be_tried(clock: Any) -> None:
    """Its pause is a guess; an answer ends it."""
    failing(GROQ, 1, rate_limited)
    script = Script({GROQ: ["groq"], OPENAI: [down]})

    assert "groq" == demoting(GROQ, OPENAI).call(script.__call__)
    assert {} == remaining()


def test_a_target_of_a_benched_provider_is_demoted_too(clock: Any) -> None:
    """Its own circuit is closed, but no call may enter it."""
    trip("groq")
    script = Script({GROQ: ["groq"], OPENAI: [down]})

    assert "groq" == demoting(GROQ, OPENAI).call(script.__call__)
    assert "closed" == state("groq")


def test_a_target_of_a_provider_that_was_benched_by_hand_is_not_tried(clock: Any) -> None:
    """The order of an operator holds for all its targets, also for those with a bench of their own."""
    trip(GROQ)
    bench_model("groq")
    script = Script({GROQ: ["groq"], OPENAI: [down]})

    with pytest.raises(ChainExhaustedError):
        demoting(GROQ, OPENAI).call(script.__call__)

    assert [OPENAI] == script.calls


def test_an_answer_closes_the_circuit(clock: Any) -> None:
    """It counts as a probe, so the next call goes to the first target at once."""
    trip(GROQ)
    script = Script({GROQ: ["groq"], OPENAI: [down]})
    policy = demoting(GROQ, OPENAI)

    policy.call(script.__call__)
    policy.call(script.__call__)

    assert "closed" == state(GROQ)
    assert [OPENAI, GROQ, GROQ] == script.calls


def test_after_its_cooldown_a_target_is_half_open_in_its_own_place(clock: Any) -> None:
    """The next call probes it before the targets behind it are asked."""
    trip(GROQ)
    clock.advance(40.0)
    script = Script({GROQ: ["groq"], OPENAI: ["openai"]})

    assert "groq" == demoting(GROQ, OPENAI).call(script.__call__)
    assert [GROQ] == script.calls


def test_a_bench_that_ends_while_live_targets_are_asked_ends_for_the_call(clock: Any) -> None:
    """The target is tried as a probe, once, and its failure is that of a probe."""
    trip(GROQ)
    calls: list[str] = []

    def ask(*, target: Target) -> None:
        calls.append(target.key)
        if target.key == OPENAI:
            clock.advance(40.0)
        raise down()

    with pytest.raises(ChainExhaustedError):
        demoting(GROQ, OPENAI, attempts=2, max_attempts=3).call(ask)

    assert [OPENAI, OPENAI, GROQ] == calls
    assert 55.0 < (remaining()[GROQ] or 0.0)


def test_a_half_open_target_whose_place_is_taken_is_not_tried(clock: Any) -> None:
    """It has no place for a second call, demoted or not."""
    trip(GROQ)
    clock.advance(40.0)
    script = Script({GROQ: ["groq"], OPENAI: [down]})

    with breaker(GROQ), pytest.raises(ChainExhaustedError) as caught:
        elsewhere(demoting(GROQ, OPENAI).call, script.__call__)

    assert [OPENAI] == script.calls
    assert "probes taken" == caught.value.attempts[0].reason


def test_one_call_at_a_time_tries_a_demoted_target(clock: Any) -> None:
    """Threads that arrive while another call tries it fail with that reason."""
    trip(GROQ)
    entered, release = threading.Event(), threading.Event()
    calls: list[str] = []

    def ask(*, target: Target) -> str:
        calls.append(target.key)
        if target.key == OPENAI:
            raise down()
        entered.set()
        release.wait(30.0)
        return "groq"

    policy = demoting(GROQ, OPENAI)
    breaker(OPENAI, failures=100)
    first = threading.Thread(target=policy.call, args=(ask,))
    first.start()
    entered.wait(30.0)

    def second(_: int) -> str:
        with pytest.raises(ChainExhaustedError) as caught:
            policy.call(ask)
        skipped = caught.value.exceptions[0]
        assert isinstance(skipped, BreakerOpenError)
        return skipped.reason

    reasons = in_threads(4, second)
    release.set()
    first.join(30.0)

    assert ["last resort taken"] * 4 == reasons
    assert 1 == calls.count(GROQ)
    assert "closed" == state(GROQ)


@over(DRIVERS)
def test_an_attempt_on_a_demoted_target_that_is_interrupted_gives_its_place_back(
    driver: Driver, clock: Any
) -> None:
    """The next call may try it."""
    trip(GROQ)
    script = Script({GROQ: [KeyboardInterrupt, "groq"], OPENAI: [down]})

    with pytest.raises(KeyboardInterrupt):
        driver.run(demoting(GROQ, OPENAI), script)

    assert "groq" == demoting(GROQ, OPENAI).call(script.__call__)


# --- when none was live -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "expected"), [("soonest", [MISTRAL, GROQ]), ("raise", []), ("wait", [])]
)
def test_if_none_was_live_when_all_benched_decides(
    when: str, expected: list[str], clock: Any
) -> None:
    """The soonest to recover first, each once; or none."""
    trip(MISTRAL)
    clock.advance(10.0)
    trip(GROQ)
    script = Script({GROQ: [down], MISTRAL: [down]})
    configure(max_wait=5.0)

    with pytest.raises(ChainExhaustedError):
        demoting(GROQ, MISTRAL, when_all_benched=when).call(script.__call__)

    assert expected == script.calls


def test_after_a_wait_the_others_are_demoted(clock: Any) -> None:
    """The first that came back has failed: then the rest is tried in spite of its benches."""
    trip(MISTRAL)
    clock.advance(10.0)
    trip(GROQ)
    script = Script({GROQ: ["groq"], MISTRAL: [down]})

    assert "groq" == demoting(GROQ, MISTRAL, when_all_benched="wait").call(script.__call__)
    assert [MISTRAL, GROQ] == script.calls
    assert "closed" == state(GROQ)


def test_a_pinned_call_of_a_benched_target_follows_when_all_benched(clock: Any) -> None:
    """It has one target, so none was live."""
    trip(GROQ)
    script = Script({GROQ: ["groq"]})
    policy = demoting(when_all_benched="raise")

    with pytest.raises(ChainExhaustedError):
        policy(lambda *, target=None: script(target))(target=GROQ)

    assert [] == script.calls


# --- the limits of a call ---------------------------------------------------------------------


@over(DRIVERS)
def test_max_attempts_counts_demoted_ones(driver: Driver, clock: Any) -> None:
    """No attempt is made beyond it, and the member of the one that was left out says why."""
    trip(GROQ)
    script = Script({GROQ: ["groq"], OPENAI: [down], MISTRAL: [down]})

    with pytest.raises(ChainExhaustedError) as caught:
        driver.run(demoting(max_attempts=2), script)

    assert [OPENAI, MISTRAL] == script.calls
    left_out = caught.value.exceptions[0]
    assert isinstance(left_out, CallRejectedError)
    assert "max_attempts" == left_out.reason


def test_no_demoted_target_is_tried_after_the_deadline(clock: Any) -> None:
    """The call ends with its deadline."""
    trip(GROQ)
    calls: list[str] = []

    def ask(*, target: Target) -> None:
        calls.append(target.key)
        clock.advance(6.0)
        raise down()

    with pytest.raises(DeadlineExceededError):
        demoting(GROQ, OPENAI, timeout=5.0).call(ask)

    assert [OPENAI] == calls


@on_both_loops
def test_the_last_live_target_may_use_the_whole_deadline(backend: str, clock: Any) -> None:
    """A demoted target is not live: nothing of the deadline is reserved for it."""
    trip(GROQ)
    calls: list[str] = []

    async def ask(*, target: Target) -> str:
        calls.append(target.key)
        clock.advance(7.0)
        await anyio.lowlevel.checkpoint()
        return "openai"

    async def main() -> str:
        answer: str = await demoting(GROQ, OPENAI, timeout=8.0)(ask)()
        return answer

    assert "openai" == run_async(main, backend=backend)
    assert [OPENAI] == calls


def test_the_limits_of_attempts_with_a_demoted_target() -> None:
    """Two live targets: three quarters, then all that is left; the demoted one gets all of that."""
    told: list[tuple[str, float]] = []
    with testing.fake_clock():
        trip(GROQ)

        def ask(target: Target, attempt: Attempt) -> str:
            assert attempt.remaining is not None
            told.append((target.key, attempt.remaining))
            if target.key == GROQ:
                return "groq"
            raise down()

        answer = demoting(timeout=8.0)(ask)()

    assert "groq" == answer
    assert [(OPENAI, 6.0), (MISTRAL, 8.0), (GROQ, 8.0)] == told


@over(DRIVERS)
def test_a_rate_limit_of_the_last_live_target_is_waited_for(driver: Driver, clock: Any) -> None:
    """A demoted target is no other live target, for which the wait would be skipped."""
    trip(GROQ)
    script = Script({GROQ: ["groq"], OPENAI: [lambda: rate_limited(7), "openai"]})

    answer = driver.run(demoting(GROQ, OPENAI, attempts=2), script)

    assert "openai" == answer
    assert [7.0] == clock.sleeps


@over(DRIVERS)
def test_a_request_too_long_for_a_live_target_goes_to_a_larger_demoted_one(
    driver: Driver, clock: Any
) -> None:
    """Those that are not larger are passed over, demoted or not."""
    trip(GROQ)
    trip(MISTRAL)
    chain = (
        Target(GROQ, context_window=8_000),
        Target(OPENAI, context_window=8_000),
        Target(MISTRAL, context_window=100_000),
    )
    script = Script({GROQ: ["groq"], OPENAI: [too_long], MISTRAL: ["mistral"]})

    answer = driver.run(demoting(*chain), script)

    assert "mistral" == answer
    assert [OPENAI, MISTRAL] == script.calls


def _by_mode(clock: Any) -> None:
    breaker(GROQ, mode="forced_open")


TAKEN_BY_NOBODY: dict[str, tuple[int | None, Callable[[Any], Any]]] = {
    "too small": (8_000, lambda clock: None),
    "unknown": (None, lambda clock: None),
    "by hand": (100_000, lambda clock: bench_model(GROQ)),
    "provider by hand": (100_000, lambda clock: bench_model("groq")),
    "mode": (100_000, _by_mode),
}


@pytest.mark.parametrize("way", TAKEN_BY_NOBODY)
def test_a_request_too_long_is_raised_if_no_demoted_target_takes_it(way: str, clock: Any) -> None:
    """Its own error leaves at once, as without demotion."""
    trip(GROQ)
    window, prepare = TAKEN_BY_NOBODY[way]
    prepare(clock)
    chain = (Target(GROQ, context_window=window), Target(OPENAI, context_window=8_000))
    script = Script({GROQ: ["groq"], OPENAI: [too_long]})

    with pytest.raises(ProviderError):
        demoting(*chain).call(script.__call__)

    assert [OPENAI] == script.calls


def test_a_request_too_long_is_raised_if_the_larger_one_is_being_probed(clock: Any) -> None:
    """There is no place for this call."""
    trip(GROQ)
    clock.advance(40.0)
    chain = (Target(GROQ, context_window=100_000), Target(OPENAI, context_window=8_000))
    script = Script({GROQ: ["groq"], OPENAI: [too_long]})

    with breaker(GROQ), pytest.raises(ProviderError):
        elsewhere(demoting(*chain).call, script.__call__)

    assert [OPENAI] == script.calls


def test_a_request_too_long_is_raised_without_demotion(clock: Any) -> None:
    """A benched target that takes more does not count by default."""
    trip(GROQ)
    chain = (Target(GROQ, context_window=100_000), Target(OPENAI, context_window=8_000))
    script = Script({GROQ: ["groq"], OPENAI: [too_long]})

    with pytest.raises(ProviderError):
        failover(chain=chain, attempts=1).call(script.__call__)

    assert [OPENAI] == script.calls


def test_a_request_too_long_for_the_last_demoted_target_is_raised(clock: Any) -> None:
    """Nothing is left that might take it."""
    trip(GROQ)
    chain = (Target(GROQ, context_window=8_000), Target(OPENAI, context_window=8_000))
    script = Script({GROQ: [too_long], OPENAI: [down]})

    with pytest.raises(ProviderError) as caught:
        demoting(*chain).call(script.__call__)

    assert 400 == caught.value.status_code
    assert [OPENAI, GROQ] == script.calls


# --- what is told -----------------------------------------------------------------------------


@over(DRIVERS)
def test_the_error_of_a_demoted_target_is_its_member(driver: Driver, clock: Any) -> None:
    """Not its skip; both are among the attempts, in the order in which they happened."""
    trip(GROQ)
    own = ProviderError(502)
    script = Script({GROQ: [lambda: own], OPENAI: [down]})

    with pytest.raises(ChainExhaustedError) as caught:
        driver.run(demoting(GROQ, OPENAI), script)

    assert own is caught.value.exceptions[0]
    assert own is caught.value.last_error
    assert [(GROQ, 0), (OPENAI, 1), (GROQ, 1)] == [
        (record.target, record.number) for record in caught.value.attempts
    ]


@over(DRIVERS)
def test_one_skip_one_failover_and_one_end_of_each_attempt(driver: Driver, clock: Any) -> None:
    """The target is told as skipped once, though it is looked at twice."""
    trip(GROQ)
    bench_model(MISTRAL)
    script = Script({GROQ: [down], OPENAI: [down]})

    with (
        testing.capture_events(TargetSkipped, AttemptFailed, FailedOver) as seen,
        pytest.raises(ChainExhaustedError),
    ):
        driver.run(demoting(), script)

    assert [
        ("TargetSkipped", GROQ),
        ("AttemptFailed", OPENAI),
        ("TargetSkipped", MISTRAL),
        ("FailedOver", OPENAI),
        ("AttemptFailed", GROQ),
    ] == [(type(event).__name__, event.target) for event in seen]


def test_a_trace_has_the_skip_and_the_attempt(clock: Any) -> None:
    """And the demoted target as the one that served."""
    trip(GROQ)
    script = Script({GROQ: ["groq"], OPENAI: [down]})

    with Trace() as trace:
        demoting(GROQ, OPENAI).call(script.__call__)

    assert GROQ == trace.served_by
    assert [
        (GROQ, 0, ErrorKind.REJECTED),
        (OPENAI, 1, ErrorKind.TRANSIENT),
        (GROQ, 1, None),
    ] == [(record.target, record.number, record.kind) for record in trace.calls[0].attempts]


def test_a_demoted_target_that_is_refused_keeps_a_rejection_as_member(clock: Any) -> None:
    """The operator's bench is what the error says."""
    bench_model(GROQ, 60.0)

    with pytest.raises(ChainExhaustedError) as caught:
        demoting(GROQ, OPENAI).call(Script({OPENAI: [down]}).__call__)

    skipped = caught.value.exceptions[0]
    assert isinstance(skipped, BreakerOpenError)
    assert "benched by hand" == skipped.reason


def test_reraise_gives_the_error_of_the_demoted_target(clock: Any) -> None:
    """It is the last one that a target raised."""
    trip(GROQ)
    own = ProviderError(502)

    with pytest.raises(ProviderError) as caught:
        demoting(GROQ, OPENAI, reraise=True).call(
            Script({GROQ: [lambda: own], OPENAI: [down]}).__call__
        )

    assert own is caught.value


# --- streams ----------------------------------------------------------------------------------


def test_a_stream_that_fails_before_its_first_content_goes_to_a_demoted_target(clock: Any) -> None:
    """As a call does."""
    trip(GROQ)

    def ask(*, target: Target) -> Iterator[str]:
        if target.key == OPENAI:
            raise down()
        yield from ("a", "b")

    assert ["a", "b"] == list(demoting(GROQ, OPENAI)(ask)())
    assert "closed" == state(GROQ)


def test_a_stream_that_breaks_after_content_goes_to_no_demoted_target(clock: Any) -> None:
    """Nothing is spliced on what was delivered."""
    trip(GROQ)
    calls: list[str] = []

    def ask(*, target: Target) -> Iterator[str]:
        calls.append(target.key)
        yield "a"
        raise down()

    with pytest.raises(StreamInterruptedError):
        list(demoting(GROQ, OPENAI)(ask)())

    assert [OPENAI] == calls


def test_a_restart_may_go_to_a_demoted_target(clock: Any) -> None:
    """``on_interrupt="restart"`` asks for another target from the beginning."""
    trip(GROQ)

    def ask(*, target: Target) -> Iterator[str]:
        yield from target.model
        if target.key == OPENAI:
            raise down()

    policy = demoting(GROQ, OPENAI, stream=StreamPolicy(on_interrupt="restart", restart_marker="|"))

    assert "gpt|llama" == "".join(policy(ask)())


@on_both_loops
def test_an_asynchronous_stream_goes_to_a_demoted_target(backend: str, clock: Any) -> None:
    """On asyncio and trio."""
    trip(GROQ)

    async def ask(*, target: Target) -> Any:
        if target.key == OPENAI:
            raise down()
        yield target.key

    async def main() -> list[Any]:
        return [item async for item in demoting(GROQ, OPENAI)(ask)()]

    assert [GROQ] == run_async(main, backend=backend)


# --- defaults and modes -----------------------------------------------------------------------


def test_copies_and_defaults_name_it_like_other_options(clock: Any) -> None:
    """``using`` overrules ``configure``."""
    trip(GROQ)
    script = Script({GROQ: ["groq"], OPENAI: [down]})
    breaker(OPENAI, failures=100)
    configure(on_down="demote")
    policy = failover(chain=[GROQ, OPENAI], attempts=1)

    with pytest.raises(ChainExhaustedError):
        policy.using(on_down="skip").call(script.__call__)

    assert "groq" == policy.call(script.__call__)


def test_a_key_that_is_forced_open_is_not_tried(clock: Any) -> None:
    """A mode is an operator's order."""
    breaker(GROQ, mode="forced_open")
    script = Script({GROQ: ["groq"], OPENAI: [down]})

    with pytest.raises(ChainExhaustedError):
        demoting(GROQ, OPENAI).call(script.__call__)

    assert [OPENAI] == script.calls
