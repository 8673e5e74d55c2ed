"""Strategies order the targets that can take a call; the others take no share."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from resilient_llm import NoCapableTargetError, Target, TargetSkipped, Trace, failover
from resilient_llm.testing import FakeClock, capture_events, fake_clock

CHAIN = [
    Target("a/x", supports=(), context_window=5),
    Target("b/x", supports=("vision",)),
    Target("c/x", supports=("vision",)),
]


@pytest.fixture
def clock(_fresh_state: None) -> Any:
    with fake_clock() as clock:
        yield clock


def shares(chain: list[Any], calls: int, **options: Any) -> Counter[str]:
    """Return how many calls each target answered."""

    @failover(chain=chain, **options)
    def ask(target: Target) -> str:
        return target.key

    return Counter(ask() for _ in range(calls))


@pytest.mark.parametrize("strategy", ["round_robin", "least_busy"])
@pytest.mark.parametrize(
    "options",
    [
        {"needs": "vision"},
        {"needs": lambda: ("vision",)},
        {"tokens": 10},
        {"needs": "vision", "adaptive": True},
    ],
    ids=["words", "function", "window", "adaptive"],
)
def test_those_that_can_take_a_call_share_alike(
    clock: FakeClock, strategy: str, options: dict[str, Any]
) -> None:
    """The one behind a target that cannot take them gets no second share."""
    assert {"b/x": 150, "c/x": 150} == shares(CHAIN, 300, strategy=strategy, **options)


def test_calls_with_other_needs_share_alike_among_theirs(clock: FakeClock) -> None:
    """Each call rotates among the targets that can take it."""
    needs: dict[str, Any] = {"words": None}

    @failover(chain=CHAIN, strategy="round_robin", needs=lambda: needs["words"])
    def ask(target: Target) -> str:
        return target.key

    plain = Counter(ask() for _ in range(30))
    needs["words"] = "vision"
    seeing = Counter(ask() for _ in range(30))

    assert {"a/x": 10, "b/x": 10, "c/x": 10} == plain
    assert {"b/x": 15, "c/x": 15} == seeing


@pytest.mark.parametrize("strategy", ["priority", "random", "round_robin", "least_busy"])
def test_what_cannot_take_a_call_is_skipped_once(clock: FakeClock, strategy: str) -> None:
    """Its skip is in the trace and told, of the first call and all others, whatever the order."""

    @failover(chain=CHAIN, strategy=strategy, needs="vision")
    def ask(target: Target) -> str:
        return target.key

    for _ in range(3):  # the first call binds the function
        with Trace() as trace:
            ask()
        skipped = [each.target for each in trace.calls[0].attempts if not each.number]
        assert ["a/x"] == skipped
    with capture_events(TargetSkipped) as told:
        for _ in range(3):
            ask()
    assert [("a/x", "lacks vision")] * 3 == [(each.target, each.reason) for each in told]


def test_if_no_target_can_take_a_call_it_says_so(clock: FakeClock) -> None:
    @failover(chain=CHAIN, strategy="random", needs="audio")
    def ask(target: Target) -> str:
        return target.key

    with pytest.raises(NoCapableTargetError):
        ask()
