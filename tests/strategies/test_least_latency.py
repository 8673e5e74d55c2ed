"""The strategy ``least_latency``: order by the mean, and explorations that are rare and single."""

from __future__ import annotations

import itertools
from random import Random
from typing import TYPE_CHECKING, Any, cast

import pytest

from resilient_llm import Target
from resilient_llm._core.figures import LOST, PolicyFigures
from resilient_llm.strategies._order import NO_CANDIDATE, OrderInputs
from resilient_llm.strategies.least_latency import LeastLatency

if TYPE_CHECKING:
    from collections.abc import Sequence

A, B, C = "groq/a", "openai/b", "mistral/c"


class Circuit:
    """What a strategy reads of a circuit, set by hand."""

    known_status = "healthy"
    is_at_rest = True

    def __init__(self) -> None:
        self.slot: Any = self
        self.shut_until = 0.0


class Place:
    """A candidate of the test."""

    def __init__(self, key: str) -> None:
        self.target = Target(key)
        self.circuit = Circuit()

    def bench(self, until: float = float("inf")) -> None:
        self.circuit.slot, self.circuit.shut_until = None, until


class Changes:
    """Says before each call that a circuit has changed, since the test changes them by hand."""

    @property
    def latest(self) -> object:
        return object()


class Policy:
    """A policy with the strategy, at a time that is set by hand."""

    def __init__(self, keys: Sequence[str] = (A, B, C)) -> None:
        self.figures = PolicyFigures(keys)
        self.figures.begin(1_000.0, means=True)
        self.places = {key: Place(key) for key in keys}
        self.now = 1_000.0
        self.half_open: set[str] = set()
        self.order = LeastLatency(
            cast("Any", list(self.places.values())),
            OrderInputs(
                rng=Random(1),
                is_live=lambda each, _: (
                    each.circuit.slot is not None or each.target.key in self.half_open
                ),
                is_degraded=lambda each, now: False,
                price_of=lambda target: None,
                step=itertools.count().__next__,
                changes=cast("Any", Changes()),
                figures=self.figures,
            ),
        )

    def first(self) -> str:
        """Return the target that the next call tries first."""
        found = self.order.first(self.now)
        return "" if found is NO_CANDIDATE else found.target.key

    def answers(self, key: str, seconds: float, times: int = 1) -> None:
        for _ in range(times):
            self.figures.answered(key, self.now, seconds)

    def call(self, seconds: dict[str, float]) -> str:
        """Make a call that its first target answers; return that."""
        key = self.first()
        self.answers(key, seconds[key])
        return key

    def calls(self, number: int, seconds: dict[str, float], *, apart: float = 0.0) -> list[str]:
        found: list[str] = []
        for _ in range(number):
            found.append(self.call(seconds))
            self.now += apart
        return found


SECONDS = {A: 3.0, B: 1.0, C: 2.0}


def test_the_quickest_comes_first() -> None:
    """The order is by the mean of the samples, ascending."""
    policy = Policy()
    for key, seconds in SECONDS.items():
        policy.answers(key, seconds)

    first = policy.order.first(policy.now)
    whole = policy.order.whole(first, policy.now, 0)

    assert [B, C, A] == [each.target.key for each in whole]


def test_newer_samples_weigh_more() -> None:
    """After thirty seconds a sample weighs half as much as a new one."""
    policy = Policy((A, B))
    policy.answers(A, 1.0)
    policy.answers(B, 1.6)
    policy.now += 30.0
    policy.answers(A, 2.0)  # (1.0 * 0.5 + 2.0) / 1.5 = 1.67

    assert B == policy.first()


def test_ties_are_as_declared() -> None:
    """Of equal means the target that was declared first comes first."""
    policy = Policy()
    for key in (A, B, C):
        policy.answers(key, 1.0)

    assert A == policy.first()


def test_targets_without_a_sample_are_tried_first_one_after_the_other() -> None:
    """At the beginning each target is tried once, in the order of the chain."""
    policy = Policy()

    assert [A, B, C, B, B] == policy.calls(5, SECONDS)


def test_one_exploration_of_a_target_at_a_time() -> None:
    """While the attempt is running, other calls go elsewhere; without any sample, as declared."""
    policy = Policy()

    assert [A, B, C, A, A] == [policy.first() for _ in range(5)]


def test_a_target_without_a_sample_is_else_last() -> None:
    """A target that never answered stands behind those that did."""
    policy = Policy()
    policy.answers(C, 9.0)
    assert [A, B] == [policy.first(), policy.first()]

    first = policy.order.first(policy.now)
    whole = policy.order.whole(first, policy.now, 0)

    assert [C, A, B] == [each.target.key for each in whole]


def test_a_target_without_a_sample_is_explored_once_a_minute() -> None:
    """One whose explorations fail goes first again after 60 s, and not before."""
    policy = Policy((A, B))
    policy.answers(B, 1.0)
    assert A == policy.first()
    policy.figures.failed(A, policy.now, harms=True)

    policy.now += 59.9
    assert B == policy.first()
    policy.now += 0.1
    assert A == policy.first()


def test_an_attempt_that_runs_longer_than_a_minute_is_still_the_only_one() -> None:
    """No second exploration begins beside one that hangs; after ten minutes it counts as lost."""
    policy = Policy((A, B))
    policy.answers(B, 1.0)
    assert A == policy.first()

    policy.now += LOST - 1.0
    policy.answers(B, 1.0)
    assert B == policy.first()
    policy.now += 1.0
    assert A == policy.first()


@pytest.mark.parametrize("end", ["answer", "failure", "cancellation"])
def test_any_end_of_the_attempt_allows_the_next_exploration(end: str) -> None:
    """However the attempt ends, the target may be explored again a minute after its begin."""
    policy = Policy((A, B))
    policy.answers(B, 1.0)
    assert A == policy.first()
    policy.now += 100.0
    policy.answers(B, 1.0)
    if end == "answer":
        policy.answers(A, 5.0)
    elif end == "failure":
        policy.figures.failed(A, policy.now, harms=False)
    else:
        policy.figures.unanswered(A, policy.now)

    policy.now += 61.0
    policy.answers(B, 1.0)

    assert A in [policy.first() for _ in range(10)]


def test_old_samples_are_refreshed() -> None:
    """A target whose newest sample is over a minute old is explored by one call in ten."""
    policy = Policy()
    for key, seconds in SECONDS.items():
        policy.answers(key, seconds)
    policy.calls(20, SECONDS)

    policy.now += 61.0
    policy.answers(B, 1.0)
    found = policy.calls(20, SECONDS)

    assert {A: 1, B: 18, C: 1} == {key: found.count(key) for key in (A, B, C)}
    assert 10 <= abs(found.index(A) - found.index(C))


def test_the_one_that_was_tried_longest_ago_is_refreshed_first() -> None:
    """Of several old targets the one whose last attempt is oldest goes first."""
    policy = Policy()
    policy.answers(B, 1.0, 20)
    policy.calls(20, SECONDS)
    policy.answers(C, 2.0)
    policy.now += 5.0
    policy.answers(A, 3.0)
    policy.now += 61.0
    policy.answers(B, 1.0)

    found = policy.calls(25, SECONDS)

    assert found.index(C) < found.index(A)


def test_a_quiet_policy_calls_the_quick_one() -> None:
    """With a call every two minutes all samples are old, and yet one call in ten explores."""
    policy = Policy((A, B))
    policy.calls(2, {A: 5.0, B: 1.0})

    found = policy.calls(1_000, {A: 5.0, B: 1.0}, apart=120.0)

    assert 80 <= found.count(A) <= 100
    places = [number for number, key in enumerate(found) if key == A]
    assert all(later - earlier >= 10 for earlier, later in itertools.pairwise(places))


def test_explorations_are_one_in_ten_calls_at_most() -> None:
    """With many targets, all of them old, nine of ten calls still go to the quickest."""
    keys = [f"groq/{number}" for number in range(50)]
    policy = Policy(keys)
    seconds = {key: 1.0 + number for number, key in enumerate(keys)}
    for key in keys:
        policy.answers(key, seconds[key])
    policy.now += 61.0

    found = policy.calls(1_000, seconds)

    others = [number for number, key in enumerate(found) if key != keys[0]]
    assert 49 <= len(others) <= 100
    assert all(later - earlier >= 10 for earlier, later in itertools.pairwise(others))


def test_blocked_targets_are_neither_first_nor_explored() -> None:
    """A benched target is passed over, also if it was never tried; half-open it may be tried."""
    policy = Policy()
    policy.answers(B, 1.0)
    policy.answers(C, 2.0)
    policy.places[A].bench()
    policy.places[B].bench()
    assert [C, C] == [policy.first(), policy.first()]

    policy.places[A].bench(until=0.0)
    policy.half_open.add(A)
    assert A == policy.first()


def test_no_live_target() -> None:
    """Where all are blocked nothing is drawn, and the whole order is still by the means."""
    policy = Policy()
    for key, seconds in SECONDS.items():
        policy.answers(key, seconds)
        policy.places[key].bench()

    assert "" == policy.first()
    whole = policy.order.whole(NO_CANDIDATE, policy.now, None)
    assert [B, C, A] == [each.target.key for each in whole]


def test_the_drawn_target_leads_the_whole_order() -> None:
    """Samples that come between the two questions do not move another live target before it."""
    policy = Policy()
    for key, seconds in SECONDS.items():
        policy.answers(key, seconds)
    first = policy.order.first(policy.now)

    policy.answers(C, 0.0, 50)

    whole = policy.order.whole(first, policy.now, 0)
    assert [B, C, A] == [each.target.key for each in whole]


def test_it_follows_a_change() -> None:
    """When the quick one becomes slow, the calls move to the next, and back after a while."""
    policy = Policy((A, B))
    policy.calls(100, {A: 1.0, B: 2.0}, apart=1.0)

    slow = policy.calls(300, {A: 5.0, B: 2.0}, apart=1.0)
    back = policy.calls(600, {A: 1.0, B: 2.0}, apart=1.0)

    assert 0.9 <= slow[50:].count(B) / 250
    assert 0.9 <= back[300:].count(A) / 300
