"""What `health` shows of keys that nobody has used, and that it leaves no trace of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from resilient_llm import (
    ConfigurationError,
    Target,
    TargetHealth,
    bench_model,
    breaker,
    configure,
    failover,
    health,
)
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.settings import MOST_KEYS
from resilient_llm.testing import FakeClock, capture_events
from tests.support.guards import succeed, trip
from tests.support.ways import GROQ, OPENAI

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TENANT = "groq@tenant-7/llama"


def untimed(found: dict[str, TargetHealth]) -> dict[str, TargetHealth]:
    return {key: replace(each, checked_at=EPOCH) for key, each in found.items()}


def test_an_expected_key_is_shown_as_it_would_begin() -> None:
    """Healthy, closed and without numbers; sorted with those that were seen."""
    with breaker("mistral"):
        pass

    found = health([OPENAI, Target(GROQ), " GROQ/llama "])

    assert sorted(found) == list(found)
    assert {OPENAI, "openai", GROQ, "groq", "groq/llama", "mistral"} <= {*found}
    assert (
        TargetHealth(
            status="healthy",
            state="closed",
            error_rate=0.0,
            latency=None,
            total=0,
            errors=0,
            consecutive_failures=0,
            last_error=None,
            checked_at=found[GROQ].checked_at,
            benched=None,
        )
        == found[GROQ]
    )
    assert found[GROQ].checked_at.tzinfo is UTC


@pytest.mark.parametrize("spec", [GROQ, "groq", TENANT, Target("groq/llama", account="tenant-7")])
def test_a_key_that_is_only_expected_is_not_kept(spec: Any) -> None:
    """Asking again without it shows nothing, and no key of the registry is there."""
    before, kept = {*health()}, {*runtime.registry.kept}
    for _ in range(2):
        assert str(getattr(spec, "key", spec)) in health([spec])

    assert before == {*health()}
    assert kept == {*runtime.registry.kept}


def test_no_expected_key_evicts_a_real_one(clock: FakeClock) -> None:
    """However many are asked for: those in use stay with their numbers."""
    guard = breaker(GROQ)
    trip(guard.name)
    with breaker(OPENAI):
        pass
    del guard
    before = health()
    clock.advance(3_600)

    health(f"tenant-{number}/llama" for number in range(MOST_KEYS + 100))

    assert {*before} == {*health()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"*": {"mode": "forced_open"}},
        {"*": {"mode": "disabled"}},
        {"*": {"mode": "metrics_only"}},
        {"groq": {"mode": "forced_open"}},
        {GROQ: {"mode": "forced_open"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("bench", [None, "groq", GROQ, "groq@tenant-7"])
def test_an_expected_key_is_shown_as_a_used_one(
    clock: FakeClock, options: dict[str, Any], bench: str | None
) -> None:
    """Also under a default that forces it open, and while its provider is benched."""
    configure(breakers=options)
    if bench is not None:
        bench_model(bench, 60, reason="maintenance", by="alice")

    with capture_events() as events:
        expected = untimed(health([GROQ, TENANT]))
    assert [] == list(events)
    for key in (GROQ, TENANT):
        runtime.registry.circuit(key)

    assert expected.items() <= untimed(health()).items()


def test_the_bench_of_a_provider_shows_in_a_key_that_is_only_expected() -> None:
    """It keeps the key from being called, so its status is ``down``; its own state is closed."""
    bench_model("groq", 60, reason="maintenance")

    found = health([GROQ, TENANT])

    assert ("down", "closed") == (found[GROQ].status, found[GROQ].state)
    assert "groq" == getattr(found[GROQ].benched, "model", None)
    assert ("healthy", None) == (found[TENANT].status, found[TENANT].benched)
    assert GROQ not in health()


def test_an_expected_key_that_is_used_shows_its_numbers() -> None:
    """Before and after its first call."""

    @failover([GROQ])
    def ask(target: Target) -> str:
        return target.key

    assert 0 == health([GROQ])[GROQ].total
    ask()
    assert 1 == health([GROQ])[GROQ].total == health()[GROQ].total
    succeed(GROQ)
    assert 2 == health([GROQ])[GROQ].total


@pytest.mark.parametrize("expected", [GROQ, ["groq/"], [""], [None], ["groq", "a\nb"]])
def test_what_is_no_key_is_refused(expected: Any) -> None:
    """As is one bare text; nothing is kept of the others."""
    before = {*health()}

    with pytest.raises(ConfigurationError):
        health(expected)

    assert before == {*health()}
