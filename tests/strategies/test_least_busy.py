"""The strategy ``least_busy``: the fewest running attempts first, ties in turn."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any, cast

from resilient_llm import Target
from resilient_llm._core.in_flight import InFlight
from resilient_llm.strategies._order import NO_CANDIDATE, OrderInputs
from resilient_llm.strategies.least_busy import LeastBusy

A, B, C = "groq/a", "openai/b", "mistral/c"


class Place:
    """A candidate of the test, which is its own circuit."""

    known_status = "healthy"
    is_at_rest = True
    shut_until = 0.0

    def __init__(self, key: str) -> None:
        self.target = Target(key)
        self.slot: Any = self

    @property
    def circuit(self) -> Any:
        return self


class Changes:
    """Says before each call that a circuit has changed, since the test changes them by hand."""

    @property
    def latest(self) -> object:
        return object()


class Policy:
    """A policy with the strategy, whose attempts are counted by hand."""

    def __init__(self) -> None:
        self.counts = {key: InFlight() for key in (A, B, C)}
        self.places = {key: Place(key) for key in (A, B, C)}
        self.order = LeastBusy(
            list(self.places.values()),
            OrderInputs(
                rng=Random(1),
                is_live=lambda each, now: each.circuit.slot is not None,
                is_degraded=lambda each, now: False,
                price_of=lambda target: None,
                step=itertools.count().__next__,
                changes=cast("Any", Changes()),
                in_flight=self.counts.__getitem__,
            ),
        )

    def runs(self, **running: int) -> None:
        for key in (A, B, C):
            self.counts[key].running = running[key[-1]]

    def first(self) -> str:
        found = self.order.first(0.0)
        return "" if found is NO_CANDIDATE else found.target.key


def test_the_fewest_running_attempts_come_first() -> None:
    """The order is by the number of running attempts, ascending."""
    policy = Policy()
    policy.runs(a=2, b=3, c=1)

    first = policy.order.first(0.0)

    assert [C, A, B] == [each.target.key for each in policy.order.whole(first, 0.0, 0)]


def test_ties_rotate() -> None:
    """Targets with equal counts come first in turn, whoever else is busier."""
    policy = Policy()
    policy.runs(a=1, b=1, c=2)

    assert {A: 50, B: 50} == {
        key: sum(each == key for each in found)
        for found in [[policy.first() for _ in range(100)]]
        for key in (A, B)
    }


def test_ties_rotate_in_the_rest_of_the_order_too() -> None:
    """What follows the first is not always the same of several equals."""
    policy = Policy()
    policy.runs(a=0, b=1, c=1)
    first = policy.order.first(0.0)

    seconds = [policy.order.whole(first, 0.0, number)[1].target.key for number in range(6)]

    assert {B, C} == set(seconds)


def test_blocked_targets_are_not_first() -> None:
    """A benched target is passed over, though nothing runs on it."""
    policy = Policy()
    policy.runs(a=0, b=2, c=1)
    policy.places[A].slot = None
    policy.places[A].shut_until = 9.0

    assert C == policy.first()
    for key in (B, C):
        policy.places[key].slot = None
    assert "" == policy.first()
    assert [A, C, B] == [each.target.key for each in policy.order.whole(NO_CANDIDATE, 0.0, None)]


def test_the_drawn_target_leads_the_whole_order() -> None:
    """Attempts that begin between the two questions do not move another target before it."""
    policy = Policy()
    policy.runs(a=0, b=1, c=2)
    first = policy.order.first(0.0)

    policy.runs(a=9, b=1, c=2)

    assert [A, B, C] == [each.target.key for each in policy.order.whole(first, 0.0, 0)]
