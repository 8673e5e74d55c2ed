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


@pytest.mark.parametrize("seconds_apart", [0.0, 20.0], ids=["all at once", "idle ones"])
def test_the_number_of_budgets_is_bounded(
    monkeypatch: pytest.MonkeyPatch, seconds_apart: float
) -> None:
    """A provider per tenant does not grow without a bound, even if all fail within ten seconds."""
    monkeypatch.setattr("resilient_llm._core.retry_budget._MOST_PROVIDERS", 10)
    budgets = RetryBudgets()

    for number in range(100):
        budgets.first_attempt_failed(f"tenant{number}", number * seconds_apart)

    assert [f"tenant{number}" for number in range(90, 100)] == list(budgets._counts)


def test_the_budget_that_was_used_last_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among more providers than are kept, one that is retried all the time keeps its budget."""
    monkeypatch.setattr("resilient_llm._core.retry_budget._MOST_PROVIDERS", 10)
    budgets = RetryBudgets()
    taken = 0

    for number in range(100):
        budgets.first_attempt_failed(f"tenant{number}", 0.0)
        taken += budgets.take("groq", 0.0, 0.2, 0)

    assert 10 == taken


def test_a_new_budget_looks_at_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound a new provider costs what it costs below, however many there are."""
    monkeypatch.setattr("resilient_llm._core.retry_budget._MOST_PROVIDERS", 50)
    summed: list[object] = []
    monkeypatch.setattr(
        "resilient_llm._core.retry_budget._sum", lambda marks, _: summed.append(marks) or 0.0
    )
    budgets = RetryBudgets()

    for number in range(100):
        budgets.first_attempt_failed(f"tenant{number}", 0.0)

    assert [] == summed


@pytest.mark.parametrize("extra", [False, True], ids=["first attempts", "retries without a limit"])
def test_counts_that_no_sum_is_asked_of_are_let_go(extra: bool) -> None:
    """A provider that fails for days, each call once, is remembered for ten seconds."""
    budgets = RetryBudgets()

    for second in range(1000):
        if extra:
            budgets.take("groq", float(second), None, 0)
        else:
            budgets.first_attempt_failed("groq", float(second))

    counts = budgets._counts["groq"]
    assert 10 == len(counts.first) + len(counts.retries)
