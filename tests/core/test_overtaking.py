"""Attempts that overtake each other on their way to a provider: a model of one, in virtual time.

Requests and answers take random times, so the provider takes requests in another order than that
in which they started, and its answers come back in a third one.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from resilient_llm._core.limits.headers import Figure, read_figures
from resilient_llm._core.limits.reported import ReportedLimits, Started

WAYS: dict[str, Callable[[float], str]] = {
    "exact": lambda seconds: f"{seconds:.6f}",
    "rounded down": lambda seconds: str(math.floor(seconds)),
    "rounded up": lambda seconds: str(math.ceil(seconds)),
}
"""How a reset is written."""


class Provider:
    """A bucket that fills, or a window of so many requests."""

    def __init__(self, dialect: str, limit: int, span: float, way: str) -> None:
        self.dialect, self.limit, self.span, self.way = dialect, limit, span, WAYS[way]
        self.refills = dialect in ("openai", "anthropic")
        self.left, self.at = float(limit), 0.0
        self.refused: Counter[int] = Counter()
        self.served = 0

    def ask(self, now: float, *, counts: bool) -> tuple[bool, dict[str, str]]:
        """Take a request; count a refusal in its window, if it is to be counted."""
        if self.refills:
            grown = self.left + (now - self.at) * self.limit / self.span
            self.left, self.at = min(float(self.limit), grown), now
            reset = (self.limit - self.left) * self.span / self.limit
        else:
            if now >= self.at + self.span:
                self.left, self.at = float(self.limit), now - (now - self.at) % self.span
            reset = self.at + self.span - now
        is_taken = self.left >= 1.0
        if is_taken:
            self.left -= 1.0
            self.served += 1
        elif counts:
            self.refused[int(now // self.span)] += 1
        if self.refills:
            reset = (self.limit - self.left) * self.span / self.limit
        return is_taken, self._headers(self.way(reset), now)

    def _headers(self, reset: str, now: float) -> dict[str, str]:
        left = str(int(self.left))
        if self.dialect == "together":
            return {
                "x-ratelimit-remaining": left,
                "x-ratelimit-limit": str(self.limit),
                "x-ratelimit-reset": reset,
            }
        if self.dialect == "anthropic":  # whole seconds, which may be too early by one
            at = math.floor(now + (self.limit - self.left) * self.span / self.limit)
            return {
                "anthropic-ratelimit-requests-remaining": left,
                "anthropic-ratelimit-requests-limit": str(self.limit),
                "anthropic-ratelimit-requests-reset": f"1970-01-01T00:{at // 60:02}:{at % 60:02}Z",
            }
        if self.dialect == "openai":
            return {
                "x-ratelimit-remaining-requests": left,
                "x-ratelimit-limit-requests": str(self.limit),
                "x-ratelimit-reset-requests": f"{reset}s",
            }
        return {"ratelimit": f'"default";r={left};t={reset}'}


def overrun(provider: Provider, callers: int, seconds: float, answers: float, seed: int) -> None:
    """Have many callers ask a provider, each again and again, whenever its figures cover it.

    Args:
        provider: What they ask.
        callers: How many.
        seconds: How long.
        answers: Seconds that an answer takes at most.
        seed: Of all randomness.
    """
    rng, made = random.Random(seed), ReportedLimits()
    order = itertools.count()
    due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
    known_at: list[float] = []
    benched_until = [0.0]

    def at(moment: float, step: Callable[..., None], *given: Any) -> None:
        heapq.heappush(due, (moment, next(order), step, given))

    def call(now: float) -> None:
        paused = max(made.paused_until(now), benched_until[0])
        if paused > now:
            return at(paused, call)
        started = made.begin(now)
        if isinstance(started, Started):
            return at(now + rng.expovariate(50.0), arrive, started)
        return at(now + max(0.01, started.retry_after), call)

    def arrive(now: float, started: Started) -> None:
        counts = bool(known_at) and started.began_at >= known_at[0]
        is_taken, headers = provider.ask(now, counts=counts)
        took = rng.uniform(0.0, answers) if is_taken else 0.0
        at(now + took + rng.expovariate(50.0), hear, started, headers, is_taken)

    def hear(now: float, started: Started, headers: dict[str, str], is_taken: bool) -> None:
        known_at.append(now)
        figures = read_figures(headers, provider.dialect, now=now, wall=now)
        made.hear(figures, started, now)
        started.end()
        if not is_taken:
            benched_until[0] = now + 0.2
        at(now + 0.01 * rng.random(), call)

    for _ in range(callers):
        at(0.01 * rng.random(), call)
    while due and due[0][0] < seconds:
        moment, _, step, given = heapq.heappop(due)
        step(moment, *given)


@pytest.mark.parametrize("answers", [0.01, 0.3, 3.0])
@pytest.mark.parametrize(
    ("dialect", "way"),
    [
        ("openai", "exact"),
        ("anthropic", "exact"),
        ("together", "exact"),
        ("together", "rounded down"),
        ("ietf", "rounded up"),
        ("ietf", "rounded down"),
    ],
)
def test_one_refusal_a_window_at_most(dialect: str, way: str, answers: float) -> None:
    """However requests and answers overtake each other; and what there is gets used."""
    for seed in range(3):
        provider = Provider(dialect, 40, 20.0, way)

        overrun(provider, 50, 80.0, answers, seed)

        assert max(provider.refused.values(), default=0) <= 1
        assert provider.served >= 0.85 * 4 * 40


def test_an_attempt_that_was_overtaken_counts() -> None:
    """It started just before the one whose answer is known, and may not have arrived yet."""
    made = ReportedLimits()
    overtaken, first = made.begin(10.0), made.begin(10.1)
    assert isinstance(first, Started)
    assert isinstance(overtaken, Started)
    made.hear([_figure(1)], first, 10.5)

    assert made.refusal(10.5) is not None

    made.hear([_figure(2)], overtaken, 10.6)  # it arrived first
    assert made.refusal(10.6) is None


def test_an_attempt_that_started_long_before_does_not_count() -> None:
    """The provider has had it for long, so it is in the figure."""
    made = ReportedLimits()
    long, first = made.begin(10.0), made.begin(15.0)
    assert isinstance(first, Started)
    made.hear([_figure(1)], first, 15.5)

    assert made.refusal(15.5) is None
    assert isinstance(long, Started)


def test_the_lower_figure_of_two_side_by_side_is_the_later_one() -> None:
    """Whichever of the two started first, and whichever answer comes last."""
    for lower_first in (True, False):
        made = ReportedLimits()
        one, other = made.begin(10.0), made.begin(10.1)
        assert isinstance(one, Started)
        assert isinstance(other, Started)
        answers = [(one, _figure(0.9)), (other, _figure(1.9))]
        for started, figure in answers if lower_first else reversed(answers):
            made.hear([figure], started, 10.5)

        assert made.refusal(10.6) is not None


def test_a_difference_that_two_attempts_do_not_explain_is_the_newers() -> None:
    """Another process or a new window has changed it."""
    made = ReportedLimits()
    one, other = made.begin(10.0), made.begin(10.1)
    assert isinstance(one, Started)
    assert isinstance(other, Started)
    made.hear([_figure(0)], one, 10.5)
    made.hear([_figure(30)], other, 10.6)

    assert made.refusal(10.6) is None


def test_one_attempt_finds_out_whether_a_window_was_reset() -> None:
    """In the second after a reset in whole seconds; its answer lets the others follow or wait."""
    made = ReportedLimits()
    made.hear([_figure(0, rounding=1.0)], None, 0.0)

    scout = made.begin(60.0)
    assert isinstance(scout, Started)
    assert not isinstance(made.begin(60.1), Started)
    made.hear([_figure(0, resets_at=60.2, rounding=1.0)], scout, 60.2)

    assert not isinstance(made.begin(60.3), Started)
    assert isinstance(made.begin(61.0), Started)


def test_a_limit_that_is_not_reported_is_the_highest_figure() -> None:
    """After a reset not all that have waited are sent at once."""
    made = ReportedLimits()
    for figure in (3, 0):
        made.hear([_figure(figure, limit=None)], None, 0.0)

    begun = [made.begin(60.0 + number) for number in range(5)]

    assert [True] * 3 + [False] * 2 == [isinstance(each, Started) for each in begun]


def _figure(
    remaining: float,
    *,
    resets_at: float = 60.0,
    limit: float | None = 40.0,
    rounding: float = 0.0,
) -> Figure:
    return Figure(
        "r", "requests", remaining, limit, resets_at, "window", "target", "test", rounding
    )
