"""What health() returns for each key: status, state, error share, latency, totals."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from resilient_llm import TargetHealth, bench_model, breaker, health, reset, testing
from tests.support.guards import (
    Held,
    eager_threads,
    fail,
    half_open,
    in_threads,
    succeed,
    totals,
    trip,
)
from tests.support.ways import GROQ, OPENAI, SHAPES, ProviderError, Shape, down, over, unreachable


def take(clock, seconds: float, key: str = GROQ) -> None:
    """Let a call succeed after some seconds."""
    with breaker(key):
        clock.advance(seconds)


def test_without_calls_health_is_empty(clock):
    """Without calls health() is empty."""
    assert {} == dict(health())


def test_expected_keys_are_listed_though_never_seen(clock):
    """What is expected is healthy until something else is known."""
    found = health([GROQ, "openai"])

    assert {GROQ, "openai"} <= set(found)
    assert all(isinstance(each, TargetHealth) for each in found.values())
    assert ("healthy", "closed", 0, 0, 0, False) == (
        found[GROQ].status,
        found[GROQ].state,
        found[GROQ].total,
        found[GROQ].errors,
        found[GROQ].consecutive_failures,
        bool(found[GROQ].benched),
    )
    assert found[GROQ].last_error is None
    assert not found[GROQ].error_rate


def test_expected_keys_are_normalised(clock):
    """The same model has one key however it was expected."""
    succeed()

    assert {GROQ, "groq"} == set(health([" Groq/llama "]))


@over(SHAPES)
def test_every_key_seen_is_listed(clock, shape: Shape):
    """A call makes its target and its provider known."""
    shape.run(GROQ, lambda: "answer")

    found = health()

    assert {GROQ, "groq"} <= set(found)
    assert ["healthy"] * 2 == [found[key].status for key in (GROQ, "groq")]
    assert [1, 1] == [found[key].total for key in (GROQ, "groq")]


@over(SHAPES)
def test_totals_and_errors_are_exact(clock, shape: Shape):
    """Every success and every failure of the window is counted."""
    for _ in range(7):
        shape.run(GROQ, lambda: "answer")
    for _ in range(3):
        shape.outcome(GROQ, down())

    found = health()[GROQ]

    assert (10, 3, 3) == (found.total, found.errors, found.consecutive_failures)
    assert 0.3 == pytest.approx(found.error_rate)


@over(SHAPES)
def test_the_last_error_is_listed_by_kind_and_reason(clock, shape: Shape):
    """The last error is known by kind and reason, without its text."""
    shape.outcome(GROQ, ProviderError(503, message="a secret of the provider"))
    shape.run(GROQ, lambda: "answer")

    kind, reason = health()[GROQ].last_error

    assert "transient" == kind.value
    assert reason
    assert "secret" not in repr(health()[GROQ])


def test_latency_is_the_average_of_successes(clock):
    """Failures do not count in the latency."""
    for _ in range(4):
        take(clock, 2.0)
    with pytest.raises(ProviderError), breaker(GROQ):
        clock.advance(50)
        raise down()

    assert 2.0 == pytest.approx(health()[GROQ].latency, abs=0.01)


def test_latency_of_a_provider_is_over_all_its_targets(clock):
    """A provider's latency is the average over the calls of its targets."""
    for _ in range(3):
        take(clock, 1.0, "groq/a")
    take(clock, 5.0, "groq/b")

    assert 2.0 == pytest.approx(health()["groq"].latency, abs=0.01)


def test_latency_is_unknown_before_the_first_success(clock):
    """Nothing is made up for a target that has not answered."""
    fail()

    assert not health()[GROQ].latency


@pytest.mark.parametrize(
    ("successes", "failures", "status"),
    [
        (100, 0, "healthy"),
        (95, 2, "healthy"),
        (80, 1, "healthy"),
        (17, 2, "degraded"),
        (0, 1, "degraded"),
        (100, 3, "degraded"),
        (100, 4, "degraded"),
    ],
)
def test_status_is_degraded_from_a_tenth_of_errors_or_half_the_failures(
    clock, successes, failures, status
):
    """A target is degraded from a 10 % error share or half the failures that open it."""
    succeed(times=successes)
    fail(times=failures)

    assert status == health()[GROQ].status


def test_status_follows_the_failures_a_circuit_is_set_to(clock):
    """Half of failures=20 is ten."""
    breaker(GROQ, failures=20)
    succeed(times=200)

    fail(times=9)
    before = health()[GROQ].status
    fail(times=1)

    assert ("healthy", "degraded") == (before, health()[GROQ].status)


@pytest.mark.parametrize(
    "benches",
    [
        trip,
        lambda: bench_model(GROQ),
        lambda: fail(
            error=lambda: ProviderError(
                429, retry_after=30, message="Rate limit reached for this model"
            )
        ),
        lambda: breaker(GROQ, mode="forced_open"),
    ],
    ids=["trigger", "manual", "rate limit", "forced open"],
)
def test_a_target_that_is_blocked_is_down(clock, benches):
    """Whatever blocks a target, its status is down."""
    benches()

    found = health()[GROQ]

    assert ("down", "open") == (found.status, found.state)


@pytest.mark.parametrize("benches", [trip, lambda: bench_model(GROQ)], ids=["trigger", "manual"])
def test_benched_says_whether_a_key_is_benched(clock, benches):
    """`.benched` is what list_benched says."""
    succeed()
    before = health()[GROQ].benched
    benches()

    assert (False, True) == (bool(before), bool(health()[GROQ].benched))


def test_a_recovered_target_is_healthy_again(clock):
    """A success after the cooldown clears numbers and status."""
    half_open(clock)
    while_half_open = health()[GROQ]
    succeed(times=2)

    found = health()[GROQ]

    assert "half_open" == while_half_open.state
    assert while_half_open.status != "healthy"
    assert ("healthy", "closed", 0, 0) == (
        found.status,
        found.state,
        found.errors,
        found.consecutive_failures,
    )


def test_a_provider_that_is_down_is_listed_for_itself(clock):
    """A blocked provider does not change the state of its targets."""
    trip(error=unreachable)

    found = health()

    assert ("down", "open") == (found["groq"].status, found["groq"].state)
    assert "closed" == found[GROQ].state


def test_the_sums_of_a_provider_are_those_of_its_targets(clock):
    """Totals and errors of a provider are sums, accounts apart."""
    succeed("groq/a", times=2)
    fail("groq/b", times=1)
    fail("groq/b", times=1, error=unreachable)
    succeed("groq@tenant/a", times=5)

    found = health()

    assert (4, 2) == (found["groq"].total, found["groq"].errors)
    assert (5, 0) == (found["groq@tenant"].total, found["groq@tenant"].errors)


def test_what_is_older_than_the_window_is_not_counted(clock):
    """Numbers are those of the window."""
    succeed(times=3)
    fail(times=2)

    clock.advance(700)
    found = health()[GROQ]

    assert (0, 0) == (found.total, found.errors)


def test_the_window_slides_over_what_is_counted(clock):
    """What leaves the window leaves the numbers, what is in it stays."""
    succeed(times=3)
    fail()
    clock.advance(200)
    succeed(times=2)
    seen = [totals()]

    clock.advance(150)
    seen.append(totals())
    clock.advance(200)
    seen.append(totals())

    assert [(6, 1), (2, 0), (0, 0)] == seen


@pytest.mark.parametrize("window", [1.0, 7.0, 60.0, 86_400.0])
def test_a_window_may_be_short_or_long(clock, window: float):
    """Half a window later all is counted, two windows later nothing."""
    breaker(GROQ, window=window)
    succeed(times=3)

    clock.advance(window / 2)
    soon = totals()
    clock.advance(window * 2)
    late = totals()

    assert ((3, 0), (0, 0)) == (soon, late)


def test_checked_at_is_the_moment_of_the_last_news(clock):
    """`.checked_at` is an aware datetime that grows with what is learned."""
    fail()
    first = health()[GROQ].checked_at
    clock.advance(60)
    fail()
    second = health()[GROQ].checked_at

    assert timedelta(0) == first.utcoffset()
    assert 60 == pytest.approx((second - first).total_seconds(), abs=1)


def test_checked_at_is_near_the_real_time_without_a_fake_clock():
    """Moments are those of the wall clock."""
    fail()

    assert abs((datetime.now(UTC) - health()[GROQ].checked_at).total_seconds()) < 20


def test_health_is_a_frozen_snapshot(clock):
    """What was returned does not change, and cannot be changed."""
    succeed()
    before = health()
    succeed()

    with pytest.raises(AttributeError):
        before[GROQ].total = 7
    assert (1, 2) == (before[GROQ].total, health()[GROQ].total)


def test_a_call_that_is_under_way_is_not_counted_yet(clock):
    """A call counts when it ends."""
    held = Held()
    during = health([GROQ])[GROQ].total
    held.finish()

    assert (0, 1) == (during, health()[GROQ].total)


def test_isolated_has_health_of_its_own(clock):
    """Inside isolated() nothing has been seen."""
    succeed()

    with testing.isolated():
        inside = dict(health())
        succeed(OPENAI)

    assert {} == inside
    assert OPENAI not in health()


def test_reset_clears_the_numbers(clock):
    """After reset() nothing is remembered of a target."""
    fail(times=3)

    reset()
    found = health([GROQ])[GROQ]

    assert ("healthy", 0, 0, 0) == (
        found.status,
        found.total,
        found.errors,
        found.consecutive_failures,
    )


def test_health_can_be_read_while_threads_report(clock):
    """Reading disturbs nobody, and what is read makes sense."""
    stop = threading.Event()
    breaker(GROQ, mode="metrics_only")

    def work(index: int) -> int:
        if index == 0:
            seen = [health([GROQ])[GROQ] for _ in range(200)]
            stop.set()
            assert all(0 <= each.errors <= each.total for each in seen)
            return 0
        calls = 0
        while not stop.is_set() and calls < 3000:
            breaker(GROQ).record(down() if calls % 2 else None, 0.1)
            calls += 1
        return calls

    with eager_threads():
        results = in_threads(5, work)

    assert sum(results) == health()[GROQ].total


@pytest.mark.parametrize("is_manual", [True, False], ids=["by hand", "by a trigger"])
def test_a_target_of_a_benched_provider_is_down(clock, is_manual: bool) -> None:
    """Its own state is closed; the bench that keeps it from being called is its provider's."""
    breaker("groq/llama").record(None, 1.0)
    if is_manual:
        bench_model("groq")
    else:
        for _ in range(5):
            breaker("groq").record(ConnectionRefusedError(), 0.1)

    report = health()["groq/llama"]

    assert ("down", "closed", "groq", is_manual) == (
        report.status,
        report.state,
        report.benched.model,
        report.benched.manual,
    )


def test_a_target_shows_its_own_bench_before_its_provider_s(clock) -> None:
    """Of two benches the nearer one is shown."""
    bench_model("groq/llama", 30)
    bench_model("groq")

    assert "groq/llama" == health()["groq/llama"].benched.model
