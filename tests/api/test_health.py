"""What health() tells about each key: status, state, error share, latency, totals."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from resilient_llm import TargetHealth, bench_model, breaker, health, reset, testing
from tests.support.shapes import (
    KEY,
    OTHER,
    SHAPES,
    Held,
    ProviderError,
    Shape,
    down,
    eager_threads,
    fail,
    half_open,
    in_threads,
    over,
    succeed,
    totals,
    trip,
    unreachable,
)


def take(clock, seconds: float, key: str = KEY) -> None:
    """Let a call succeed after some seconds."""
    with breaker(key):
        clock.advance(seconds)


def test_nothing_seen_is_nothing_told(clock):
    """Without calls health() is empty."""
    assert {} == dict(health())


def test_expected_keys_are_told_though_never_seen(clock):
    """What is expected is healthy until something else is known."""
    found = health([KEY, "openai"])

    assert {KEY, "openai"} <= set(found)
    assert all(isinstance(each, TargetHealth) for each in found.values())
    assert ("healthy", "closed", 0, 0, 0, False) == (
        found[KEY].status,
        found[KEY].state,
        found[KEY].total,
        found[KEY].errors,
        found[KEY].consecutive_failures,
        bool(found[KEY].benched),
    )
    assert found[KEY].last_error is None
    assert not found[KEY].error_rate


def test_expected_keys_are_normalised(clock):
    """The same model has one key however it was expected."""
    succeed()

    assert {KEY, "groq"} == set(health([" Groq/llama "]))


@over(SHAPES)
def test_every_key_seen_is_told(clock, shape: Shape):
    """A call makes its target and its provider known."""
    shape.run(KEY, lambda: "answer")

    found = health()

    assert {KEY, "groq"} <= set(found)
    assert ["healthy"] * 2 == [found[key].status for key in (KEY, "groq")]
    assert [1, 1] == [found[key].total for key in (KEY, "groq")]


@over(SHAPES)
def test_totals_and_errors_are_exact(clock, shape: Shape):
    """Every success and every failure of the window is counted."""
    for _ in range(7):
        shape.run(KEY, lambda: "answer")
    for _ in range(3):
        shape.outcome(KEY, down())

    found = health()[KEY]

    assert (10, 3, 3) == (found.total, found.errors, found.consecutive_failures)
    assert 0.3 == pytest.approx(found.error_rate)


@over(SHAPES)
def test_the_last_error_is_told_by_kind_and_reason(clock, shape: Shape):
    """The last error is known by kind and reason, without its text."""
    shape.outcome(KEY, ProviderError(503, message="a secret of the provider"))
    shape.run(KEY, lambda: "answer")

    kind, reason = health()[KEY].last_error

    assert "transient" == kind.value
    assert reason
    assert "secret" not in repr(health()[KEY])


def test_latency_is_the_average_of_successes(clock):
    """Failures do not count in the latency."""
    for _ in range(4):
        take(clock, 2.0)
    with pytest.raises(ProviderError), breaker(KEY):
        clock.advance(50)
        raise down()

    assert 2.0 == pytest.approx(health()[KEY].latency, abs=0.01)


def test_latency_of_a_provider_is_over_all_its_targets(clock):
    """A provider's latency lies between those of its targets."""
    take(clock, 1.0, "groq/a")
    take(clock, 3.0, "groq/b")

    assert 1.0 <= health()["groq"].latency <= 3.0


def test_latency_is_unknown_before_the_first_success(clock):
    """Nothing is made up for a target that has not answered."""
    fail()

    assert not health()[KEY].latency


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

    assert status == health()[KEY].status


def test_status_follows_the_failures_a_circuit_is_set_to(clock):
    """Half of failures=20 is ten."""
    breaker(KEY, failures=20)
    succeed(times=200)

    fail(times=9)
    before = health()[KEY].status
    fail(times=1)

    assert ("healthy", "degraded") == (before, health()[KEY].status)


@pytest.mark.parametrize(
    "benches",
    [
        trip,
        lambda: bench_model(KEY),
        lambda: fail(
            error=lambda: ProviderError(
                429, retry_after=30, message="Rate limit reached for this model"
            )
        ),
        lambda: breaker(KEY, mode="forced_open"),
    ],
    ids=["trigger", "manual", "rate limit", "forced open"],
)
def test_a_target_that_is_blocked_is_down(clock, benches):
    """Whatever blocks a target, its status is down."""
    benches()

    found = health()[KEY]

    assert ("down", "open") == (found.status, found.state)


@pytest.mark.parametrize("benches", [trip, lambda: bench_model(KEY)], ids=["trigger", "manual"])
def test_benched_says_whether_a_key_is_benched(clock, benches):
    """`.benched` is what list_benched says."""
    succeed()
    before = health()[KEY].benched
    benches()

    assert (False, True) == (bool(before), bool(health()[KEY].benched))


def test_a_recovered_target_is_healthy_again(clock):
    """A success after the cooldown clears numbers and status."""
    half_open(clock)
    while_half_open = health()[KEY]
    succeed(times=2)

    found = health()[KEY]

    assert "half_open" == while_half_open.state
    assert while_half_open.status != "healthy"
    assert ("healthy", "closed", 0, 0) == (
        found.status,
        found.state,
        found.errors,
        found.consecutive_failures,
    )


def test_a_provider_that_is_down_is_told_for_itself(clock):
    """A blocked provider does not change the state of its targets."""
    trip(error=unreachable)

    found = health()

    assert ("down", "open") == (found["groq"].status, found["groq"].state)
    assert "closed" == found[KEY].state


def test_the_sums_of_a_provider_are_those_of_its_targets(clock):
    """Totals and errors of a provider are sums, accounts apart."""
    succeed("groq/a", times=2)
    fail("groq/b", times=1)
    fail("groq/b", times=1, error=unreachable)
    succeed("groq@tenant/a", times=5)

    found = health()

    assert (4, 2) == (found["groq"].total, found["groq"].errors)
    assert (5, 0) == (found["groq@tenant"].total, found["groq@tenant"].errors)


def test_what_is_older_than_the_window_is_not_told(clock):
    """Numbers are those of the window."""
    succeed(times=3)
    fail(times=2)

    clock.advance(700)
    found = health()[KEY]

    assert (0, 0) == (found.total, found.errors)


def test_the_window_slides_over_what_is_told(clock):
    """What leaves the window leaves the numbers, what is in it stays."""
    succeed(times=3)
    fail()
    clock.advance(200)
    succeed(times=2)
    told = [totals()]

    clock.advance(150)
    told.append(totals())
    clock.advance(200)
    told.append(totals())

    assert [(6, 1), (2, 0), (0, 0)] == told


@pytest.mark.parametrize("window", [1.0, 7.0, 60.0, 86_400.0])
def test_a_window_may_be_short_or_long(clock, window: float):
    """Half a window later all is told, two windows later nothing."""
    breaker(KEY, window=window)
    succeed(times=3)

    clock.advance(window / 2)
    soon = totals()
    clock.advance(window * 2)
    late = totals()

    assert ((3, 0), (0, 0)) == (soon, late)


def test_checked_at_is_the_moment_of_the_last_news(clock):
    """`.checked_at` is an aware datetime that grows with what is learned."""
    fail()
    first = health()[KEY].checked_at
    clock.advance(60)
    fail()
    second = health()[KEY].checked_at

    assert timedelta(0) == first.utcoffset()
    assert 60 == pytest.approx((second - first).total_seconds(), abs=1)


def test_checked_at_is_near_the_real_time_without_a_fake_clock():
    """Moments are those of the wall clock."""
    fail()

    assert abs((datetime.now(UTC) - health()[KEY].checked_at).total_seconds()) < 20


def test_health_is_a_frozen_snapshot(clock):
    """What was returned does not change, and cannot be changed."""
    succeed()
    before = health()
    succeed()

    with pytest.raises(AttributeError):
        before[KEY].total = 7
    assert (1, 2) == (before[KEY].total, health()[KEY].total)


def test_a_call_that_is_under_way_is_not_counted_yet(clock):
    """A call counts when it ends."""
    held = Held()
    during = health([KEY])[KEY].total
    held.finish()

    assert (0, 1) == (during, health()[KEY].total)


def test_isolated_has_health_of_its_own(clock):
    """Inside isolated() nothing has been seen."""
    succeed()

    with testing.isolated():
        inside = dict(health())
        succeed(OTHER)

    assert {} == inside
    assert OTHER not in health()


def test_reset_clears_the_numbers(clock):
    """After reset() nothing is remembered of a target."""
    fail(times=3)

    reset()
    found = health([KEY])[KEY]

    assert ("healthy", 0, 0, 0) == (
        found.status,
        found.total,
        found.errors,
        found.consecutive_failures,
    )


def test_health_can_be_read_while_threads_report(clock):
    """Reading disturbs nobody, and what is read makes sense."""
    stop = threading.Event()
    breaker(KEY, mode="metrics_only")

    def work(index: int) -> int:
        if index == 0:
            seen = [health([KEY])[KEY] for _ in range(200)]
            stop.set()
            assert all(0 <= each.errors <= each.total for each in seen)
            return 0
        calls = 0
        while not stop.is_set() and calls < 3000:
            breaker(KEY).record(down() if calls % 2 else None, 0.1)
            calls += 1
        return calls

    with eager_threads():
        results = in_threads(5, work)

    assert sum(results) == health()[KEY].total
