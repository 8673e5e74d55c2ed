"""The retry budget by itself: a share of the first attempts, for each provider."""

from typing import Any

import pytest

from resilient_llm._core.retry_budget import RetryBudgets


def test_retries_of_one_provider_leave_the_budget_of_another(clock: Any) -> None:
    """Budgets are per provider, and old ones are forgotten."""
    budgets = RetryBudgets()
    for _ in range(10):
        assert budgets.take("groq", 0.0, 0.2, 0)

    assert (False, True) == (budgets.take("groq", 1.0, 0.2, 0), budgets.take("openai", 1.0, 0.2, 0))
    assert budgets.take("groq", 1.0, None, 0)
    assert budgets.take("groq", 10.5, 0.2, 0)


def test_budgets_of_idle_providers_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider per tenant does not grow for ever."""
    monkeypatch.setattr("resilient_llm._core.retry_budget._MOST_PROVIDERS", 10)
    budgets = RetryBudgets()

    for number in range(100):
        budgets.first_attempt_failed(f"tenant{number}", float(number * 20))

    assert len(budgets._counts) <= 10
