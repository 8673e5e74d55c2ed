"""What is said of a likely mistake: the nearest name, and how it is written."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest

from resilient_llm import (
    ConfigurationError,
    Target,
    bench_model,
    breaker,
    configure,
    failover,
    list_benched,
)
from resilient_llm.testing import http_error

SECRET = "sk-or-v1-secret"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: failover("groq/a", retries=3), "did you mean attempts?"),
        (lambda: failover("groq/a", num_retries=3), "did you mean attempts?"),
        (lambda: failover("groq/a", atempts=3), "did you mean attempts"),
        (lambda: failover("groq/a").using(time_out=3), "did you mean timeout"),
        (lambda: breaker("groq", fail_max=3), "did you mean failures?"),
        (lambda: breaker("groq", cool_down=3), "did you mean cooldown"),
        (lambda: configure(max_retries=3), "did you mean attempts?"),
        (lambda: failover("openai:gpt-5-mini"), "did you mean 'openai/gpt-5-mini'?"),
        (lambda: failover("groq/a", strategy="prioritty"), "did you mean 'priority'?"),
        (lambda: failover("groq/a", on_unknown="transeint"), "did you mean 'transient'?"),
        (lambda: configure(when_all_benched="sonest"), "did you mean 'soonest'?"),
        (lambda: breaker("groq", mode="metrics-only"), "did you mean 'metrics_only'?"),
        (lambda: Target("ollama:qwen:7b"), "did you mean 'ollama/qwen:7b'?"),
        (lambda: failover(("groq", "llama")), "did you mean 'groq/llama'?"),
        (lambda: breaker(timedelta.total_seconds), 'write @breaker("name")'),
        (lambda: breaker(lambda: 1), 'write @breaker("name")'),
    ],
)
def test_the_nearest_name_is_said(make: Any, said: str) -> None:
    """The message has the word that was meant, also if another library calls it otherwise."""
    with pytest.raises(ConfigurationError) as caught:
        make()

    assert said in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Target("groq/a", params=SECRET),
        lambda: Target("groq/a", params=[SECRET]),
        lambda: Target("groq/a", account=[SECRET]),  # type: ignore[arg-type]
        lambda: failover("groq/a", reraise=[SECRET]),
        lambda: http_error(429, headers=SECRET),  # type: ignore[arg-type]
        lambda: configure(breakers=SECRET),
    ],
)
def test_what_was_given_in_place_of_a_mapping_is_not_repeated(make: Any) -> None:
    """It may hold a key or a prompt."""
    with pytest.raises(ConfigurationError) as caught:
        make()

    assert SECRET not in str(caught.value)


def test_nothing_is_guessed_where_nothing_is_near() -> None:
    """A word like no option, and a spec like no pair, get the plain message."""
    with pytest.raises(ConfigurationError) as caught:
        failover("groq/a", zebra=1)
    assert "did you mean" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        failover("groq")
    assert "did you mean" not in str(caught.value)


def test_a_duration_may_be_a_timedelta() -> None:
    """As for `bench_model`, which takes one as well."""
    policy = failover("groq/a", timeout=timedelta(seconds=1.5), cooldown=timedelta(minutes=1))

    assert (1.5, 60.0) == (policy._policy.options.timeout, policy._policy.options.cooldown)
    with pytest.raises(ConfigurationError, match="timeout"):
        failover("groq/a", timeout=timedelta(seconds=-1))


def test_a_bench_of_a_misspelt_key_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """The key is benched all the same, since it may be used later."""
    policy = failover(["openai/gpt-5-mini", "groq/llama"])

    with caplog.at_level(logging.WARNING, logger="resilient_llm"):
        bench_model("opnai/gpt-5-mini")
        bench_model("gorq")

    said = [each.getMessage() for each in caplog.records if "did you mean" in each.getMessage()]
    assert 2 == len(said)
    assert "opnai/gpt-5-mini" in said[0]
    assert said[0].endswith("did you mean openai/gpt-5-mini?")
    assert said[1].endswith("did you mean groq?")
    assert ["gorq", "opnai/gpt-5-mini"] == [row.model for row in list_benched()]
    assert policy


def test_a_bench_of_a_known_or_quite_another_key_is_not_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Targets, their providers, names of guards and keys like no other."""
    policy = failover(["openai/gpt-5-mini", "groq/llama"])
    breaker("openai/gpt-5-min")

    with caplog.at_level(logging.WARNING, logger="resilient_llm"):
        for key in ("openai/gpt-5-mini", "openai", "openai/gpt-5-min", "zebra/stripes"):
            bench_model(key)
        configure(logging=False)
        bench_model("grok/llama")

    assert not any("did you mean" in each.getMessage() for each in caplog.records)
    assert policy


def test_a_bench_of_a_key_without_a_part_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """The name of the model alone, and a provider without its account."""
    policy = failover("mistral/large-2, azure@eu/gpt-4o")

    with caplog.at_level(logging.WARNING, logger="resilient_llm"):
        for key in ("large-2", "azure", "azure/gpt-4o", "zebra/stripes"):
            bench_model(key)

    said = [each.getMessage() for each in caplog.records if "no chain" in each.getMessage()]
    assert [
        "large-2 is benched, which no chain of this process names; did you mean mistral/large-2?",
        "azure is benched, which no chain of this process names; did you mean azure@eu or azure@eu/gpt-4o?",
    ] == said[:2]
    assert "azure@eu/gpt-4o" in said[2]
    assert "zebra/stripes is benched, which no chain of this process names" == said[3]
    assert policy
