"""What a provider's headers mean for calls: what is left, pauses, and attempts that count."""

from __future__ import annotations

import gc
import random
import sys
import threading
from typing import Any

import pytest

from resilient_llm._core.limits.headers import Figure, read_figures
from resilient_llm._core.limits.reported import (
    LONGEST_TRUST,
    NEVER,
    Refusal,
    ReportedLimits,
    Started,
    Summary,
)


def _near(seconds: float) -> Any:
    return pytest.approx(seconds)


def _figure(
    remaining: float,
    *,
    limit: float | None = 100.0,
    resets_at: float | None = 60.0,
    counts: Any = "requests",
    kind: Any = "window",
    name: str = "",
) -> Figure:
    return Figure(name or counts, counts, remaining, limit, resets_at, kind, "target", "test")


def _hear(*figures: Figure, now: float = 0.0) -> ReportedLimits:
    made = ReportedLimits()
    made.hear(figures, None, now)
    return made


def test_nothing_reported_restrains_nothing() -> None:
    """A key of which nothing was heard takes every call."""
    made = ReportedLimits()

    assert (None, NEVER) == (made.refusal(0.0, 10**9, 10**9), made.paused_until(0.0))
    assert Summary(None, None, None, None) == made.summary(0.0)


def test_a_window_stands_until_its_reset() -> None:
    """Its figure does not grow, and is the limit from the reset on."""
    made = _hear(_figure(0.0), now=10.0)

    assert Refusal("request_limit", 30.0) == made.refusal(30.0)
    assert Summary(0, None, 60.0, 10.0) == made.summary(59.9)
    assert (None, Summary(100, None, None, 10.0)) == (made.refusal(60.0), made.summary(60.0))


def test_a_refill_grows_evenly() -> None:
    """Halfway to its reset half of what is missing is back."""
    made = _hear(_figure(20.0, kind="refill", counts="tokens"), now=20.0)

    assert [20, 60, 99, 100] == [made.summary(at).tokens for at in (20.0, 40.0, 59.9, 60.0)]
    assert None is made.refusal(40.0, 40, 20)
    assert Refusal("token_limit", _near(0.5)) == made.refusal(40.0, 41, 20)
    assert Refusal("token_limit", _near(20.0)) == made.refusal(40.0, 500, 0)
    assert None is made.refusal(60.0, 500, 0)


def test_a_figure_pauses_until_it_is_1() -> None:
    """A refilled key comes back long before it is full, a window at its reset."""
    assert 0.6 == pytest.approx(_hear(_figure(0.0, kind="refill")).paused_until(0.0))
    assert 60.0 == _hear(_figure(0.0)).paused_until(0.0)
    assert 60.0 == _hear(_figure(0.0, kind="refill", limit=None)).paused_until(0.0)
    assert 60.0 == _hear(_figure(0.0, counts="output")).paused_until(0.0)
    assert NEVER == _hear(_figure(1.0)).paused_until(0.0)
    assert NEVER == _hear(_figure(0.0)).paused_until(60.0)


def test_an_hour_at_most() -> None:
    """A reset days ahead pauses for an hour, and then a call may find out how things are."""
    made = _hear(_figure(0.0, resets_at=400_000.0), now=1_000.0)

    assert 1_000.0 + LONGEST_TRUST == made.paused_until(1_000.0)
    assert made.refusal(4_599.0)
    assert (NEVER, None) == (made.paused_until(4_600.0), made.refusal(4_600.0))
    assert 400_000.0 == made.summary(4_600.0).resets_at


def test_a_figure_without_a_reset_is_only_shown() -> None:
    """It pauses nothing and refuses nothing."""
    made = _hear(_figure(0.0, resets_at=None), _figure(0.0, resets_at=None, counts="tokens"))

    assert (NEVER, None) == (made.paused_until(0.0), made.refusal(0.0, 100, 100))
    assert Summary(0, 0, None, 0.0) == made.summary(1e6)


def test_a_reset_in_the_past_restrains_nothing() -> None:
    """A figure that is out of date when it arrives is that of the new period."""
    made = _hear(_figure(0.0, resets_at=5.0), now=5.0)

    assert (NEVER, None, 100) == (
        made.paused_until(5.0),
        made.refusal(5.0),
        made.summary(5.0).requests,
    )


def test_only_an_answer_with_room_ends_a_pause() -> None:
    """A newer answer extends a pause, does not shorten it, and ends it if there is room."""
    made = ReportedLimits()

    assert (NEVER, 60.0) == made.hear([_figure(0.0)], None, 0.0)
    assert (60.0, 60.0) == made.hear([_figure(0.0, resets_at=30.0)], None, 1.0)
    assert (60.0, 90.0) == made.hear([_figure(0.0, resets_at=90.0)], None, 2.0)
    assert (90.0, 90.0) == made.hear([_figure(50.0, counts="tokens")], None, 3.0)
    assert (90.0, NEVER) == made.hear([_figure(1.0, resets_at=90.0)], None, 4.0)


def test_each_figure_has_its_own_pause() -> None:
    """Room for requests does not end the pause for tokens."""
    made = _hear(_figure(0.0), _figure(0.0, counts="tokens", resets_at=20.0))

    assert (60.0, 20.0) == made.hear([_figure(5.0)], None, 1.0)


def test_a_call_that_is_too_large_for_now() -> None:
    """Small calls go on while a large one is refused; each kind of tokens is asked by itself."""
    made = _hear(
        _figure(5_000.0, counts="tokens", limit=10_000.0),
        _figure(4_000.0, counts="input", limit=8_000.0, resets_at=30.0),
        _figure(500.0, counts="output", limit=1_000.0, resets_at=10.0),
    )

    assert None is made.refusal(0.0, 4_000, 500)
    assert Refusal("token_limit", 30.0) == made.refusal(0.0, 4_001, 0)
    assert Refusal("token_limit", 10.0) == made.refusal(0.0, 100, 501)
    assert Refusal("token_limit", 60.0) == made.refusal(0.0, 4_600, 501)
    assert None is made.refusal(0.0)
    assert 500 == made.summary(0.0).tokens


def test_attempts_that_start_later_count() -> None:
    """What was started after the attempt that reported is not in its figure, until it answers."""
    made = ReportedLimits()
    first, second = made.start(), made.start()
    made.hear([_figure(2.0)], first, 1.0)
    first.end()

    third = made.start()
    assert Refusal("request_limit", 59.0) == made.refusal(1.0)
    assert 2 == made.summary(1.0).requests

    second.end()
    second.end()
    assert None is made.refusal(1.0)
    third.end()
    assert None is made.refusal(1.0)


def test_the_wait_includes_attempts_that_start_later() -> None:
    """A refilled figure has to cover those, too, before this call fits."""
    made = ReportedLimits()
    made.hear([_figure(40.0, counts="tokens", kind="refill")], made.start(), 0.0)
    _running = made.start(30)

    assert Refusal("token_limit", _near(10.0)) == made.refusal(0.0, 20)


def test_tokens_of_attempts_that_start_later_count() -> None:
    """So do their estimates."""
    made = ReportedLimits()
    first = made.start(900, 100)
    made.hear([_figure(1_000.0, counts="tokens")], first, 0.0)
    second = made.start(500, 200)

    assert (None, Refusal("token_limit", 60.0)) == (made.refusal(0.0, 300), made.refusal(0.0, 301))
    made.hear([_figure(600.0, counts="tokens")], second, 0.0)
    assert None is made.refusal(0.0, 600)


def test_an_attempt_that_reports_does_not_count_against_itself() -> None:
    """Neither before it ends nor after, and those before it are in its figure."""
    made = ReportedLimits()
    first, second = made.start(), made.start()

    made.hear([_figure(1.0)], second, 0.0)

    assert None is made.refusal(0.0)
    first.end()
    second.end()
    assert None is made.refusal(0.0)


def test_an_older_answer_changes_nothing() -> None:
    """An answer that is late, of an attempt that began before, is older than what is known."""
    made = ReportedLimits()
    first, second = made.start(), made.start()
    made.hear([_figure(5.0)], second, 1.0)

    assert (NEVER, NEVER) == made.hear([_figure(0.0)], first, 2.0)
    assert Summary(5, None, 60.0, 1.0) == made.summary(2.0)
    made.hear([_figure(7.0, counts="tokens")], first, 3.0)
    assert 7 == made.summary(3.0).tokens


def test_an_attempt_may_report_twice() -> None:
    """A client that retries by itself gets several answers in one attempt; the last one counts."""
    made = ReportedLimits()
    first = made.start()

    made.hear([_figure(0.0)], first, 0.0)
    made.hear([_figure(9.0)], first, 1.0)

    assert (9, NEVER) == (made.summary(1.0).requests, made.paused_until(1.0))


def test_a_lost_attempt_counts_no_longer() -> None:
    """One that is collected without an end ends then, without a lock."""
    made = ReportedLimits()
    made.hear([_figure(1.0)], None, 0.0)
    lost: list[Started] = [made.start()]
    assert made.refusal(0.0)

    with made._lock:  # as if the thread that collects it were in here
        lost.clear()
        gc.collect()

    assert (None, 0) == (made.refusal(0.0), len(made._running))


def test_a_flood_of_figures_is_bounded() -> None:
    """A provider that invents names for its policies fills no memory."""
    made = ReportedLimits()

    for number in range(1_000):
        made.hear([_figure(0.0, name=f"policy {number}")], None, 0.0)

    assert 64 == len(made._figures)


def test_a_refill_above_its_limit() -> None:
    """A figure above the limit does not shrink, and a reset of 0 means that it is full."""
    made = _hear(_figure(120.0, kind="refill"))
    full = _hear(_figure(0.0, kind="refill", resets_at=0.0))

    assert [120, 120] == [made.summary(at).requests for at in (0.0, 30.0)]
    assert (100, NEVER) == (full.summary(0.0).requests, full.paused_until(0.0))


def test_a_clock_that_went_back() -> None:
    """A moment before the answer is that of the answer."""
    made = _hear(_figure(20.0, kind="refill"), now=50.0)

    assert 20 == made.summary(10.0).requests


def test_threads() -> None:
    """Whatever starts, answers and ends at once, nothing counts that is over."""
    made, switch = ReportedLimits(), sys.getswitchinterval()

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(2_000):
            started = made.start(rng.randrange(100), rng.randrange(100))
            made.refusal(0.0, 10, 10)
            if rng.random() < 0.5:
                made.hear([_figure(50.0), _figure(50.0, counts="tokens")], started, 0.0)
            if rng.random() < 0.9:
                started.end()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)

    made.refusal(0.0)
    assert ({}, [0.0, 0.0]) == (made._running, [each.base.later for each in made._figures.values()])


def test_a_provider_that_reports_is_not_overrun() -> None:
    """Calls that obey what its headers say are hardly ever refused, and use what it gives."""
    rng, made = random.Random(11), ReportedLimits()
    limit, rate = 60.0, 1.0
    level, at, refused, served = limit, 0.0, 0, 0
    running: list[tuple[float, Started, float]] = []
    now = 0.0
    while now < 2_000.0:
        now += 0.1
        for done in [each for each in running if each[0] <= now]:
            running.remove(done)
            _, started, left = done
            headers = {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": f"{int(left)}",
                "x-ratelimit-reset-requests": f"{(limit - left) / rate:.3f}s",
            }
            made.hear(read_figures(headers, "openai", now=now, wall=0.0), started, now)
            started.end()
        level, at = min(limit, level + (now - at) * rate), now
        if made.paused_until(now) > now or made.refusal(now) is not None:
            continue
        started = made.start()
        if level < 1.0:
            refused += 1
        else:
            level -= 1.0
            served += 1
        running.append((now + rng.uniform(0.2, 3.0), started, level))

    assert refused <= 0.05 * served
    assert served >= 0.9 * (2_000.0 * rate)
