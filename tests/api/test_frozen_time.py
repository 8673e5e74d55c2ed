"""Under freezegun and time-machine moments are those of the application, and durations go on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from resilient_llm import (
    Target,
    bench_model,
    breaker,
    classify,
    failover,
    health,
    list_benched,
    observe,
)
from resilient_llm.testing import capture_events, fake_clock, http_error
from tests.support.ways import GROQ, OPENAI

YEARS = ["2030-06-01", "2020-06-01"]


def freezegun(when: str) -> Any:
    return pytest.importorskip("freezegun").freeze_time(when)


def time_machine(when: str) -> Any:
    return pytest.importorskip("time_machine").travel(when, tick=False)


@pytest.fixture(params=[freezegun, time_machine], ids=lambda tool: tool.__name__)
def frozen(request: pytest.FixtureRequest) -> Any:
    """Return what freezes the time of an application at a moment."""
    return request.param


@pytest.mark.parametrize("year", YEARS)
def test_a_bench_until_a_frozen_moment_lasts_as_long_as_the_application_thinks(
    frozen: Any, year: str
) -> None:
    """``now + one minute`` is a minute from now, whatever year it is."""
    with frozen(year):
        until = datetime.now(UTC) + timedelta(minutes=1)
        bench_model(GROQ, until)

        (row,) = list_benched()

    assert 59.0 < row.remaining <= 60.0
    assert abs(row.until - until) < timedelta(seconds=1)
    assert abs(row.since - datetime.fromisoformat(f"{year}T00:00Z")) < timedelta(seconds=1)


@pytest.mark.parametrize("year", YEARS)
def test_a_date_in_a_header_is_read_by_the_frozen_clock(frozen: Any, year: str) -> None:
    """A recorded ``Retry-After`` is a wait from the moment at which the test takes place."""
    with frozen(year):
        date = (datetime.now(UTC) + timedelta(seconds=20)).strftime("%a, %d %b %Y %H:%M:%S GMT")

        verdict = classify(http_error(429, headers={"retry-after": date}))

    assert verdict.retry_after is not None
    assert 18.0 < verdict.retry_after <= 20.0


@pytest.mark.parametrize("year", YEARS)
def test_guards_and_calls_count_as_without(frozen: Any, year: str) -> None:
    """What began before, inside and after the frozen time is in one window, on one clock."""

    @failover(chain=[GROQ, OPENAI], attempts=1)
    def ask(target: Target) -> str:
        return target.key

    guard = breaker("search", failures=3)

    def use() -> None:
        with guard:
            ask()
        with breaker(GROQ):
            pass

    use()
    with frozen(year):
        for _ in range(3):
            use()
        for _ in range(3):
            with pytest.raises(ConnectionError), breaker("down", failures=3):
                raise ConnectionError
        assert "open" == breaker("down").state
    use()

    assert 5 == health()["search"].total
    assert 10 == health()[GROQ].total
    assert 1.0 > health()["search"].latency >= 0.0
    assert "open" == breaker("down").state


def test_waits_are_over_though_time_stands_still(frozen: Any) -> None:
    """A retry with a backoff ends under a frozen clock: the fake clock is what moves it."""
    left = [ConnectionError(), ConnectionError()]

    @failover(chain=GROQ)
    def ask(target: Target) -> str:
        if left:
            raise left.pop()
        return "answer"

    with frozen("2030-06-01"), fake_clock() as clock, capture_events() as events:
        assert "answer" == ask()

    assert 2 == len(clock.sleeps)
    assert {2030} == {event.at.year for event in events}


def test_freezegun_may_move_time_while_a_guard_is_entered() -> None:
    """A tick of the application's clock makes no call slow and empties no window."""
    frozen, seen = freezegun("2030-06-01"), []
    stop = observe(seen.append)
    with frozen as moved:
        with breaker("x", slow_call=1.0):
            moved.tick(3600)
        with breaker("x"):
            moved.move_to("2020-01-01")
    stop()

    assert 2 == health()["x"].total
    assert 1.0 > health()["x"].latency
    assert "closed" == breaker("x").state
