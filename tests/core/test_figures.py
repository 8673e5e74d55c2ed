"""The figures of a policy: samples, their mean, median and percentiles, and counts of failures."""

from __future__ import annotations

import math
import statistics
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm._core.figures import (
    HALF_LIFE,
    MOST_SAMPLES,
    REST,
    PolicyFigures,
    Shared,
    TargetFigures,
)

_SECONDS = st.floats(REST, 600.0)


def _mean(samples: list[tuple[float, float]], now: float) -> float:
    """Return the mean by its definition."""
    kept = samples[-MOST_SAMPLES:]
    weights = [2.0 ** (-(now - at) / HALF_LIFE) for at, _ in kept]
    return sum(w * took for w, (_, took) in zip(weights, kept, strict=True)) / sum(weights)


@given(st.lists(st.tuples(st.floats(0.0, 90.0), _SECONDS), min_size=1, max_size=600))
def test_mean_is_that_of_the_newest_samples_by_age(waits: list[tuple[float, float]]) -> None:
    """The mean is the one of the definition, over the newest 256 samples, at any time."""
    figures, samples, now = TargetFigures(Shared()), list[tuple[float, float]](), 1_000.0
    for wait, seconds in waits:
        now += wait
        samples.append((now, seconds))
        figures.answered_for_mean(now, seconds)

    found = figures.mean

    assert found == pytest.approx(_mean(samples, now + 5.0), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("gap", [3_599.0, 3_601.0, 40_000.0, 10.0**9])
def test_mean_after_a_rest(gap: float) -> None:
    """After any rest the mean is right, and nothing overflows."""
    figures = TargetFigures(Shared())
    samples = [(0.0, 5.0), (gap - 2.0, 1.0), (gap, 2.0), (gap + 3.0, 4.0)]
    for at, seconds in samples:
        figures.answered_for_mean(at, seconds)

    assert pytest.approx(_mean(samples, gap + 3.0), rel=1e-9) == figures.mean


def test_quick_answers_are_weighed_once_a_millisecond() -> None:
    """Answers below a millisecond count in the mean once in so long, and as samples always."""
    figures = TargetFigures(Shared())
    figures.answered_for_mean(10.0, 0.0005)
    figures.answered_for_mean(10.0005, 0.0009)
    assert (0.0005, 2) == (figures.mean, figures.count)

    figures.answered_for_mean(10.001, 0.0009)
    assert pytest.approx(0.0007, rel=1e-3) == figures.mean
    assert pytest.approx(0.0009) == figures.median(10.001, 60.0, 1)


def test_mean_stays_exact_over_a_million_samples() -> None:
    """A sum that is kept up to date drifts by less than one part in a million."""
    figures, now = TargetFigures(Shared()), 0.0
    for number in range(1_000_000):
        now += 0.001
        figures.answered_for_mean(now, 1.0 + (number * 7919 % 100) / 100)

    kept = [
        (now - 0.001 * (999_999 - number), 1.0 + (number * 7919 % 100) / 100)
        for number in range(1_000_000 - MOST_SAMPLES, 1_000_000)
    ]
    assert pytest.approx(_mean(kept, now), rel=1e-6) == figures.mean


def test_no_sample_no_mean() -> None:
    """Without a sample the mean is infinite, and there is no median and no percentile."""
    figures = TargetFigures(Shared())

    assert math.inf == figures.mean
    assert figures.median(10.0, 60.0, 1) is None
    assert math.inf == figures.percentile(0.5, 10.0, span=60.0, least=1)


def test_an_earlier_clock_begins_anew() -> None:
    """Samples of another clock, whose time is far behind, are forgotten."""
    figures = TargetFigures(Shared())
    figures.answered_for_mean(100_000.0, 9.0)

    figures.begin_anew(50.0)
    figures.answered_for_mean(50.0, 1.0)

    assert (1, 1.0) == (figures.count, figures.mean)


@given(st.lists(_SECONDS, min_size=1, max_size=300), st.integers(1, 20))
def test_median_and_percentile(taken: list[float], least: int) -> None:
    """Median and percentile are those of the newest 256 samples in the span, if they suffice."""
    figures = TargetFigures(Shared())
    for number, seconds in enumerate(taken):
        figures.answered_for_mean(float(number), seconds)
    now = len(taken) - 1.0
    kept = [s for n, s in list(enumerate(taken))[-MOST_SAMPLES:] if n > now - 200.0]

    median = figures.median(now, 200.0, least)
    percentile = figures.percentile(0.95, now, span=200.0, least=least)

    if len(kept) < least:
        assert (None, math.inf) == (median, percentile)
    else:
        assert statistics.median(kept) == median
        assert sorted(kept)[max(0, math.ceil(0.95 * len(kept)) - 1)] == percentile


def test_samples_of_threads_are_all_kept() -> None:
    """Threads lose no sample, and the sums fit to the samples that are kept."""
    figures, switch = TargetFigures(Shared()), sys.getswitchinterval()

    def work(seconds: float) -> None:
        for number in range(20_000):
            figures.answered_for_mean(number * 0.001, seconds)

    threads = [threading.Thread(target=work, args=(float(each),)) for each in range(1, 5)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)

    samples = figures._samples()
    weights = [2.0 ** (at / HALF_LIFE) for at, _ in samples]
    mean = sum(w * took for w, (_, took) in zip(weights, samples, strict=True)) / sum(weights)
    assert 80_000 == figures.count
    assert pytest.approx(mean, rel=1e-6) == figures.mean


def test_means_may_be_kept_later() -> None:
    """A copy of a policy that needs means gets those of the samples that there are."""
    figures = PolicyFigures(["groq/a", "openai/b"])
    figures.answered("groq/a", 10.0, 1.0)
    figures.answered("groq/a", 40.0, 4.0)
    assert math.inf == figures.of["groq/a"].mean

    assert figures.begin(50.0, means=True)
    assert not figures.begin(50.0, means=True)

    assert pytest.approx(3.0) == figures.of["groq/a"].mean
    figures.answered("groq/a", 70.0, 1.0)
    assert pytest.approx((0.25 + 2.0 + 1.0) / 1.75) == figures.of["groq/a"].mean
    assert math.inf == figures.of["openai/b"].mean


def test_samples_without_a_mean_leave_the_mean_of_others_right() -> None:
    """A sample that a wrapper keeps in the old way meanwhile makes no sum wrong."""
    figures = TargetFigures(Shared())
    for number in range(300):
        figures.answered_for_mean(float(number), 1.0)
    figures.answered(300.0, 99.0)

    for number in range(MOST_SAMPLES):
        figures.answered_for_mean(301.0 + number, 2.0)

    assert pytest.approx(2.0) == figures.mean


def test_memory_is_constant() -> None:
    """A target keeps no more after 100,000 samples than after 256."""
    figures = PolicyFigures(["groq/a"])
    for number in range(MOST_SAMPLES):
        figures.answered("groq/a", float(number), 1.0)
    before = len(figures.of["groq/a"]._samples())

    for number in range(100_000):
        figures.answered("groq/a", 300.0 + number, 1.0)

    assert before == len(figures.of["groq/a"]._samples()) == MOST_SAMPLES
    assert 100_000 + MOST_SAMPLES == figures.of["groq/a"].count


def test_failures_and_refusals_are_apart() -> None:
    """What harms health is counted apart from what does not."""
    figures = PolicyFigures(["groq/a"])

    figures.failed("groq/a", 1.0, harms=True)
    figures.failed("groq/a", 2.0, harms=True)
    figures.failed("groq/a", 3.0, harms=False)

    each = figures.of["groq/a"]
    assert (2, 1, 3.0) == (each.failures, each.refusals, each.failed_at)
