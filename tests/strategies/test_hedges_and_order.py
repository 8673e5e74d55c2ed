"""Hedges do not make a slow target look quick to what orders targets by their speed."""

from __future__ import annotations

from typing import Any

import pytest

from resilient_llm import failover
from resilient_llm._core.figures import PolicyFigures
from resilient_llm.testing import Weather, simulate

WEATHER = {"a/x": Weather(latency=1.0, spread=0.1), "b/x": Weather(latency=3.0, spread=0.1)}


@pytest.mark.parametrize("hedge", [0.5, "p95"])
@pytest.mark.parametrize(
    "options",
    [{"strategy": "least_latency"}, {"adaptive": True}],
    ids=["least_latency", "adaptive"],
)
def test_a_hedge_that_loses_does_not_look_quick(hedge: Any, options: dict[str, Any]) -> None:
    """It was stopped long before its target would have answered."""
    alone = simulate(failover(["a/x", "b/x"], **options), WEATHER, seconds=600)
    hedged = simulate(failover(["a/x", "b/x"], hedge=hedge, **options), WEATHER, seconds=600)

    assert alone.p99 is not None
    assert hedged.p50 is not None
    assert hedged.p99 is not None
    assert 0.9 < hedged.p50 < 1.1
    assert hedged.p99 <= alone.p99


def test_what_a_lost_hedge_ran_is_in_percentiles_only() -> None:
    """Else the percentile would be that of winners; a mean would be that of nothing."""
    figures = PolicyFigures(["a/x"])
    for _ in range(10):
        figures.answered("a/x", 1.0, 3.0)
        figures.lost("a/x", 1.0, 0.5)

    low = figures.percentile("a/x", 0.5, 2.0, span=300.0, least=20)
    high = figures.percentile("a/x", 0.51, 2.0, span=300.0, least=20)
    assert (0.5, 3.0) == (low, high)
    assert 3.0 == figures.of["a/x"].median(2.0, 60.0, 3)
    assert 10 == figures.of["a/x"].count
