"""Breaker option ``bad_rate``: bad answers that open a target's circuit."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from resilient_llm import (
    BreakerOpenError,
    ChainExhaustedError,
    ErrorKind,
    ResponseRejectedError,
    StreamPolicy,
    Target,
    TargetBenched,
    TargetUnbenched,
    Verdict,
    breaker,
    configure,
    failover,
    health,
    list_benched,
    reset,
    testing,
    unbench_model,
)
from tests.support.guards import (
    eager_threads,
    fail,
    failing,
    in_threads,
    state,
    succeed,
    totals,
    trip,
)
from tests.support.ways import (
    BREAKER_SHAPES,
    DRIVERS,
    GROQ,
    OPENAI,
    Driver,
    Script,
    Shape,
    down,
    over,
    rate_limited,
)


def bad(key: str = GROQ, times: int = 1, reason: str = "gibberish") -> None:
    """Report bad answers of a key."""
    for _ in range(times):
        breaker(key).record(ResponseRejectedError(key, reason), 0.1)


def benches() -> list[tuple[str, ErrorKind | None, str]]:
    """Return what is benched, and why."""
    return [(bench.model, bench.kind, bench.reason) for bench in list_benched()]


# --- when it opens ----------------------------------------------------------------------------


@over(DRIVERS)
def test_a_share_of_bad_answers_opens_the_targets_circuit(driver: Driver, clock: Any) -> None:
    """Six of ten answers that ``reject`` refused, in whatever way the call is written."""
    breaker(GROQ, bad_rate=0.6)
    answers = ["good", "good", "bad", "bad", "bad", "good", "bad", "bad", "good", "bad", "good"]
    script = Script({GROQ: answers, OPENAI: ["good"]})
    policy = failover(chain=[GROQ, OPENAI], reject=lambda answer: answer == "bad" and "gibberish")

    with testing.capture_events(TargetBenched) as seen:
        for _ in range(11):
            driver.run(policy, script)

    assert [(GROQ, ErrorKind.BAD_RESPONSE, "gibberish", "bad_rate 6/10")] == [
        (event.target, event.kind, event.reason, event.trigger) for event in seen
    ]
    assert [(GROQ, ErrorKind.BAD_RESPONSE, "gibberish")] == benches()
    assert 10 == script.calls.count(GROQ)


def test_below_min_calls_it_does_not_open(clock: Any) -> None:
    """Nine bad answers say as little as nine errors do."""
    breaker(GROQ, bad_rate=0.5)

    bad(times=9)
    assert "closed" == state()
    bad()

    assert "open" == state()


def test_a_good_answer_opens_it_when_it_completes_the_number(clock: Any) -> None:
    """The tenth answer; the bench has the reason of the last bad one."""
    breaker(GROQ, bad_rate=0.5)
    bad(times=4)
    bad(reason="no_json")
    succeed(times=4)

    with testing.capture_events(TargetBenched) as seen:
        succeed()

    assert [(ErrorKind.BAD_RESPONSE, "no_json", "bad_rate 5/10")] == [
        (event.kind, event.reason, event.trigger) for event in seen
    ]


def test_a_good_answer_opens_it_also_after_quick_ones(clock: Any) -> None:
    """Good answers before the first bad one are counted without a look; those after it are not."""
    breaker(GROQ, bad_rate=0.5)
    succeed(times=3)
    bad(times=5)
    assert "closed" == state()

    succeed(times=2)

    assert "open" == state()


def test_below_the_share_it_does_not_open(clock: Any) -> None:
    """Also with many good answers between the bad ones, which are counted without a look."""
    breaker(GROQ, bad_rate=0.5)

    for _ in range(50):
        succeed(times=3)
        bad(times=2)

    assert "closed" == state()


def test_a_share_is_compared_as_it_is_written(clock: Any) -> None:
    """Seven of a hundred are 0.07, though 0.07 * 100 is more than seven."""
    breaker(GROQ, bad_rate=0.07, min_calls=100)
    succeed(times=93)

    bad(times=6)
    assert "closed" == state()
    bad()

    assert "open" == state()


def test_errors_are_no_answers(clock: Any) -> None:
    """The share is among answers: successes and bad ones."""
    breaker(GROQ, bad_rate=0.5, failures=100, error_rate=1.0)
    succeed()
    failing(GROQ, 20)
    bad(times=4)
    succeed(times=5)
    assert "closed" == state()

    bad(times=2)

    assert "open" == state()


def test_it_counts_what_lies_in_the_window(clock: Any) -> None:
    """Bad answers leave it, and so do good ones."""
    breaker(GROQ, bad_rate=0.5, window=60.0)
    bad(times=9)
    clock.advance(60.0)
    bad(times=9)
    assert "closed" == state()

    bad()

    assert "open" == state()


def test_each_leaves_it_when_its_own_time_is_over(clock: Any) -> None:
    """Nine bad answers, of which five are older."""
    breaker(GROQ, bad_rate=0.5, window=60.0)
    bad(times=5)
    clock.advance(50.0)
    bad(times=4)
    clock.advance(11.0)

    bad(times=5)
    assert "closed" == state()
    bad()

    assert "open" == state()


def test_good_answers_that_left_the_window_no_longer_help(clock: Any) -> None:
    """Thirty good ones of two minutes ago do not outweigh ten bad ones."""
    breaker(GROQ, bad_rate=0.5, window=60.0)
    succeed(times=30)
    clock.advance(61.0)

    bad(times=10)

    assert "open" == state()


def test_a_shorter_window_forgets_what_is_older(clock: Any) -> None:
    """The option may change while bad answers are counted."""
    breaker(GROQ, bad_rate=0.5, window=300.0)
    bad(times=9)
    clock.advance(30.0)
    breaker(GROQ, window=20.0)

    bad(times=1)

    assert "closed" == state()


def test_other_kinds_do_not_count(clock: Any) -> None:
    """A filtered or a truncated answer is no bad one."""
    breaker(GROQ, bad_rate=0.1, min_calls=1, failures=1000, error_rate=1.0)
    answers = {
        "filtered": ErrorKind.REQUEST_SPECIFIC,
        "truncated": Verdict(ErrorKind.TRANSIENT, "truncated", harms_health=False),
    }
    policy = failover(
        chain=[GROQ, OPENAI], attempts=1, on_content_policy="next", reject=answers.get
    )
    for answer in answers:
        policy.call(Script({GROQ: [answer], OPENAI: ["good"]}).__call__)

    assert [] == benches()
    policy.using(reject=lambda answer: answer == "bad").call(
        Script({GROQ: ["bad"], OPENAI: ["good"]}).__call__
    )

    assert [GROQ] == [model for model, *_ in benches()]


def test_an_empty_stream_is_a_bad_answer(clock: Any) -> None:
    """And one that breaks off is an error of its own kind."""
    breaker(GROQ, bad_rate=0.5, min_calls=2)

    @failover(chain=[GROQ, OPENAI], attempts=1, stream=StreamPolicy())
    def ask(target: Target) -> Iterator[str]:
        if target.key == OPENAI:
            yield "good"

    for _ in range(2):
        assert ["good"] == list(ask())

    assert [(GROQ, ErrorKind.BAD_RESPONSE, "empty")] == benches()


@over(BREAKER_SHAPES)
def test_a_guard_counts_what_leaves_it_as_a_bad_answer(shape: Shape, clock: Any) -> None:
    """A ResponseRejectedError that the block raises, once."""
    breaker(GROQ, bad_rate=1.0, min_calls=3)

    said = [shape.outcome(GROQ, ResponseRejectedError(GROQ, "gibberish")) for _ in range(4)]

    assert ["failed", "failed", "failed", "refused"] == said


def test_a_bad_answer_that_passes_several_guards_counts_once(clock: Any) -> None:
    """As an error does."""
    breaker(GROQ, bad_rate=1.0, min_calls=2)
    error = ResponseRejectedError(GROQ, "gibberish")

    with contextlib.suppress(ResponseRejectedError), breaker(GROQ), breaker(GROQ):
        raise error

    assert "closed" == state()


def test_one_that_is_told_to_harm_health_counts_as_both(clock: Any) -> None:
    """It is a failure in a row as well; without the option it is only that."""
    verdict = Verdict(ErrorKind.BAD_RESPONSE, "gibberish", harms_health=True)
    policy = failover(chain=[GROQ, OPENAI], reject=lambda answer: verdict if answer == "bad" else 0)
    breaker(GROQ, bad_rate=0.5, min_calls=3)

    with testing.capture_events(TargetBenched) as seen:
        for _ in range(3):
            policy.call(Script({GROQ: ["bad"], OPENAI: ["good"]}).__call__)

    assert ["error_rate 3/3 >= 0.5"] == [event.trigger for event in seen]


# --- where it is not set ----------------------------------------------------------------------


def test_without_the_option_bad_answers_change_nothing(clock: Any) -> None:
    """Neither counts nor a half-open probe."""
    trip(OPENAI)
    clock.advance(40.0)
    bad(times=100)
    bad(OPENAI)

    assert ("closed", "half_open") == (state(), state(OPENAI))
    assert (0, 0) == totals()


def test_bad_answers_of_before_it_was_set_are_not_known(clock: Any) -> None:
    """Nothing is counted, or paid for, until somebody asks for it."""
    bad(times=100)
    breaker(GROQ, bad_rate=0.5)

    bad(times=9)
    assert "closed" == state()
    bad()

    assert "open" == state()


def test_it_can_be_taken_back(clock: Any) -> None:
    """With None."""
    breaker(GROQ, bad_rate=0.5)
    bad(times=9)
    breaker(GROQ, bad_rate=None)

    bad(times=9)
    succeed()

    assert "closed" == state()


# --- half-open --------------------------------------------------------------------------------


def half_open(**options: Any) -> None:
    """Bench by bad answers; the caller lets the cooldown pass."""
    breaker(GROQ, bad_rate=0.5, min_calls=2, **options)
    bad(times=2)
    assert "open" == state()


def test_a_bad_answer_fails_a_probe(clock: Any) -> None:
    """The circuit opens again, for twice as long, by that kind and reason."""
    half_open()
    clock.advance(40.0)
    with testing.capture_events(TargetBenched) as seen:
        bad(reason="no_json")

    assert [(ErrorKind.BAD_RESPONSE, "no_json", "probe failed")] == [
        (event.kind, event.reason, event.trigger) for event in seen
    ]
    remaining = list_benched()[0].remaining
    assert remaining is not None
    assert 60.0 <= remaining <= 66.0


def test_a_bad_answer_also_fails_the_probe_of_a_circuit_that_errors_opened(clock: Any) -> None:
    """Whatever opened it: the target has not answered well."""
    breaker(GROQ, bad_rate=0.5)
    trip()
    clock.advance(40.0)

    bad()

    assert "open" == state()


def test_a_bad_answer_of_a_guard_inside_the_probe_fails_it(clock: Any) -> None:
    """Though the error does not leave the outer guard."""
    half_open()
    clock.advance(40.0)

    with breaker(GROQ), contextlib.suppress(ResponseRejectedError), breaker(GROQ):
        raise ResponseRejectedError(GROQ, "gibberish")

    assert "open" == state()


@over(DRIVERS)
def test_the_probe_of_a_chain_fails_by_reject(driver: Driver, clock: Any) -> None:
    """The call goes on with the next target."""
    half_open()
    clock.advance(40.0)
    policy = failover(chain=[GROQ, OPENAI], reject=lambda answer: answer == "bad")

    answer = driver.run(policy, Script({GROQ: ["bad"], OPENAI: ["good"]}))

    assert "good" == answer
    assert "open" == state()


def test_a_good_answer_closes_it_and_clears_what_was_counted(clock: Any) -> None:
    """Old bad answers do not open it again."""
    half_open()
    clock.advance(40.0)
    with testing.capture_events(TargetUnbenched) as seen:
        succeed()
    clock.advance(1.0)

    bad()
    assert ["recovered"] == [event.reason for event in seen]
    assert "closed" == state()
    succeed(times=1)
    assert "open" == state()  # one of the two answers since then


@pytest.mark.parametrize("end", [unbench_model, lambda _: reset()], ids=["unbench", "reset"])
def test_other_ends_of_the_bench_clear_it_too(end: Any, clock: Any) -> None:
    """By an operator."""
    half_open()
    end(GROQ)

    bad()

    assert "closed" == state()


def test_a_bad_last_resort_does_not_lengthen_the_bench(clock: Any) -> None:
    """It gives its place back, so that the next call may try."""
    half_open()
    before = list_benched()[0].until
    policy = failover(chain=GROQ, attempts=1, reject=lambda answer: answer == "bad")
    script = Script({GROQ: ["bad", "good"]})

    with pytest.raises(ChainExhaustedError):
        policy.call(script.__call__)
    assert before == list_benched()[0].until
    assert "good" == policy.call(script.__call__)

    assert "closed" == state()


def test_a_late_bad_answer_changes_nothing(clock: Any) -> None:
    """The circuit has opened and closed since the call began."""
    breaker(GROQ, bad_rate=0.5, min_calls=1, error_rate=1.0, failures=1)
    succeed()
    with contextlib.suppress(ResponseRejectedError), breaker(GROQ):
        fail()
        unbench_model(GROQ)
        raise ResponseRejectedError(GROQ, "gibberish")

    assert "closed" == state()


def test_it_counts_while_the_key_is_paused(clock: Any) -> None:
    """The closed period beneath a rate limit goes on."""
    breaker(GROQ, bad_rate=1.0, min_calls=2)
    with contextlib.suppress(ResponseRejectedError), breaker(GROQ):
        breaker(GROQ).record(rate_limited(5), 0.1)
        raise ResponseRejectedError(GROQ, "gibberish")
    clock.advance(6.0)

    bad()

    assert "open" == state()


# --- modes, health, keys ----------------------------------------------------------------------


def test_metrics_only_says_what_it_would_have_done(clock: Any) -> None:
    """And refuses nobody."""
    breaker(GROQ, bad_rate=0.5, mode="metrics_only")
    with testing.capture_events(TargetBenched) as seen:
        bad(times=12)

    assert [("bad_rate 10/10", False)] == [(event.trigger, event.enforced) for event in seen]
    assert "closed" == state()


def test_a_disabled_circuit_counts_none(clock: Any) -> None:
    """Nor are they counted when it is enforced again."""
    breaker(GROQ, bad_rate=0.5, mode="disabled")
    bad(times=9)
    breaker(GROQ, mode="enforce")

    bad(times=9)

    assert "closed" == state()


def test_health_counts_no_bad_answer_as_an_error(clock: Any) -> None:
    """Its totals are those of calls and errors; the bench says the rest."""
    breaker(GROQ, bad_rate=0.5)
    succeed(times=4)
    bad(times=5)
    before = health()[GROQ]
    bad()
    after = health()[GROQ]

    assert ("healthy", 4, 0, None) == (
        before.status,
        before.total,
        before.errors,
        before.last_error,
    )
    assert ("down", "open", 4, 0) == (after.status, after.state, after.total, after.errors)
    assert after.last_error is not None
    assert (ErrorKind.BAD_RESPONSE, "gibberish") == (after.last_error.kind, after.last_error.reason)


def test_bad_answers_leave_the_row_of_failures_alone(clock: Any) -> None:
    """They neither end it nor are in it."""
    breaker(GROQ, bad_rate=1.0)
    failing(GROQ, 3)
    bad(times=3)
    failing(GROQ, 1)

    assert 4 == health()[GROQ].consecutive_failures


def test_a_key_with_bad_answers_is_not_forgotten(clock: Any) -> None:
    """Idle keys are dropped when there are many, but for those of which something is known."""
    from resilient_llm._runtime.runtime import runtime

    breaker(GROQ, bad_rate=0.5)
    succeed(times=3)
    circuit = runtime.registry.circuit(GROQ)
    was_idle = circuit.is_idle(runtime.clock())

    bad()

    assert was_idle
    assert not circuit.is_idle(runtime.clock())


def test_on_a_provider_it_counts_what_is_charged_to_the_provider(clock: Any) -> None:
    """Bad answers of guards with its name, and those with a verdict of that scope, among all answers.

    Those that a target is charged with are the target's.
    """
    breaker("groq", bad_rate=0.5, min_calls=4)
    bad(times=10)
    assert "closed" == state("groq")

    succeed(GROQ, times=2)
    bad("groq", times=1)
    verdict = Verdict(ErrorKind.BAD_RESPONSE, "gibberish", scope="provider")
    with testing.capture_events(TargetBenched) as seen:
        failover(
            chain=[GROQ, OPENAI], reject=lambda answer: verdict if answer == "bad" else 0
        ).call(Script({GROQ: ["bad"], OPENAI: ["good"]}).__call__)

    assert [("groq", "bad_rate 2/4")] == [(event.target, event.trigger) for event in seen]


def test_for_all_keys_each_target_counts_its_own(clock: Any) -> None:
    """With ``"*"``, one target that answers badly takes neither its provider nor the others out."""
    configure(breakers={"*": {"bad_rate": 0.5, "min_calls": 4}})
    bad("groq/a", times=3)
    bad("groq/b", times=3)
    bad("groq/a")

    assert ["groq/a"] == [model for model, *_ in benches()]
    assert ("closed", "closed") == (state("groq"), state("groq/b"))


def test_a_guard_names_it_again_where_its_circuit_is_new(clock: Any) -> None:
    """As inside ``isolated()``."""
    guard = breaker(GROQ, bad_rate=0.5, min_calls=1)

    with testing.isolated():
        with contextlib.suppress(ResponseRejectedError), guard:
            raise ResponseRejectedError(GROQ, "gibberish")
        with pytest.raises(BreakerOpenError), guard:
            raise AssertionError

    assert "closed" == state()


def test_a_bench_by_bad_answers_survives_a_pickle_of_its_error(clock: Any) -> None:
    """The rejection of the next caller says the reason, also in another process."""
    half_open()
    with pytest.raises(BreakerOpenError) as caught, breaker(GROQ):
        raise AssertionError

    again = pickle.loads(pickle.dumps(caught.value))

    assert "gibberish" == again.reason == caught.value.reason


# --- exactness --------------------------------------------------------------------------------


def test_no_answer_is_lost_under_threads() -> None:
    """Sixteen threads with a tiny switch interval; good ones are counted without a lock."""
    breaker(GROQ, bad_rate=1.0, window=3600.0, min_calls=10_000)
    policy = failover(chain=[GROQ, OPENAI], reject=lambda answer: answer == "bad")

    def call(number: int) -> None:
        def ask(*, target: Target) -> str:
            return "bad" if target.key == GROQ and step % 3 == 0 else "good"

        guarded = policy(ask)
        for step in range(60):  # noqa: B007  # `ask` reads it
            guarded()

    with eager_threads():
        in_threads(16, call)
    from resilient_llm._runtime.runtime import runtime

    circuit = runtime.registry.circuit(GROQ)
    assert (16 * 20, 16 * 60) == circuit.generation.answers(runtime.clock())


def test_the_number_of_buckets_does_not_grow(clock: Any) -> None:
    """A thousand windows of bad answers take the memory of one."""
    from resilient_llm._runtime.runtime import runtime

    breaker(GROQ, bad_rate=1.0, window=60.0)
    most = 0
    circuit = runtime.registry.circuit(GROQ)
    for _ in range(3000):
        clock.advance(0.7)
        succeed()
        bad()
        counted = circuit.generation.bad
        assert counted is not None
        most = max(most, len(counted._buckets))

    assert most <= 30
    assert "closed" == state()


def test_a_failure_of_another_kind_does_not_take_the_blame(clock: Any) -> None:
    """Good answers leave the window, a timeout comes: the bench is for the bad answers."""
    breaker(GROQ, bad_rate=0.5, window=60.0, error_rate=1.0)
    succeed(times=20)
    clock.advance(30.0)
    bad(times=10)
    clock.advance(31.0)
    with testing.capture_events(TargetBenched) as seen:
        breaker(GROQ).record(down(), 0.1)

    assert [(ErrorKind.BAD_RESPONSE, "gibberish", "bad_rate 10/10")] == [
        (event.kind, event.reason, event.trigger) for event in seen
    ]
