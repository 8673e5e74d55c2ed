"""Budgets in calls: what is reserved, refused and booked."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from resilient_llm import (
    Budget,
    BudgetExceeded,
    BudgetExceededError,
    BudgetWarning,
    ConfigurationError,
    SpendRecorded,
    StreamPolicy,
    Target,
    Usage,
    configure,
    failover,
    spend,
    spend_key,
    spend_total,
)
from resilient_llm.testing import capture_events
from tests.support.ways import GROQ, OPENAI, ProviderError

PRICED = Target(GROQ, price=(1.0, 10.0), max_output=1000)


def answer(input_tokens: int = 100, output: int = 50) -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": "hello"}}],
        "usage": {
            "prompt_tokens": input_tokens,
            "completion_tokens": output,
            "total_tokens": input_tokens + output,
        },
    }


def test_an_answer_books_its_usage() -> None:
    configure(budgets=[Budget(usd=1)])

    @failover([PRICED])
    def ask(target: Target, prompt: str) -> Any:
        return answer()

    with capture_events(SpendRecorded) as told:
        ask("a prompt")
    (row,) = spend()

    assert Decimal("0.0006") == row.spent
    assert (0, 1, 0) == (row.reserved, row.calls, row.estimated)
    assert {GROQ: Decimal("0.0006")} == spend_total()
    (event,) = told
    assert (Decimal("0.0006"), Usage(100, 50), False, None) == (
        event.usd,
        event.usage,
        event.estimated,
        event.spend_key,
    )


def test_a_cap_refuses_before_anything_is_sent() -> None:
    configure(budgets=[Budget(calls=2)])
    sent = 0

    @failover([GROQ])
    def ask(target: Target) -> str:
        nonlocal sent
        sent += 1
        return "x"

    with capture_events(BudgetWarning, BudgetExceeded) as told:
        ask()
        ask()
        with pytest.raises(BudgetExceededError) as raised:
            ask()

    assert 2 == sent
    error = raised.value
    assert ("all month calls", None, 2, 2, 0) == (
        error.budget,
        error.key,
        error.cap,
        error.spent,
        error.reserved,
    )
    assert error.retry_after is not None
    assert [BudgetWarning, BudgetExceeded] == [type(each) for each in told]


def test_the_next_target_has_room() -> None:
    configure(budgets=[Budget(calls=1, of="groq")])

    @failover([GROQ, OPENAI])
    def ask(target: Target) -> str:
        return target.key

    assert [GROQ, OPENAI, OPENAI] == [ask() for _ in range(3)]


def test_failures_book_by_the_table() -> None:
    configure(budgets=[Budget(tokens=100_000)])
    errors: list[Exception] = [ProviderError(503), TimeoutError(), ConnectionRefusedError()]

    @failover([GROQ], tokens=40, attempts=1, max_attempts=1)
    def ask(target: Target, *, max_tokens: int) -> str:
        raise errors[0]

    rows: list[tuple[Any, int, int]] = []
    while errors:
        with pytest.raises(Exception):  # noqa: B017  # whatever the chain says
            ask(max_tokens=10)
        del errors[0]
        (row,) = spend()
        rows.append((row.spent, row.calls, row.estimated))

    assert [(0, 1, 0), (40, 2, 1), (40, 2, 1)] == rows
    assert 0 == spend()[0].reserved


def test_each_key_has_its_own_cap() -> None:
    configure(budgets=[Budget(calls=1, of="key")])

    @failover([GROQ])
    def ask(target: Target) -> str:
        return target.key

    with spend_key("a"):
        ask()
        with pytest.raises(BudgetExceededError) as raised:
            ask()
    with spend_key("b"):
        ask()
    ask()
    ask()

    assert "a" == raised.value.key
    assert [("a", 1), ("b", 1)] == [(row.key, row.calls) for row in spend()]


def test_a_stream_books_what_its_last_chunk_says() -> None:
    configure(budgets=[Budget(tokens=10_000)])

    @failover([Target(GROQ, max_output=100)], stream=StreamPolicy())
    def ask(target: Target) -> Any:
        for word in ("a", "b"):
            yield {"choices": [{"delta": {"content": word}, "finish_reason": None}]}
        yield {"choices": [{"delta": {}, "finish_reason": "stop"}]}
        yield {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}

    stream = ask()
    next(stream)
    (row,) = spend()
    assert (0, 100) == (row.spent, row.reserved)
    list(stream)
    (row,) = spend()
    assert (9, 0, 0) == (row.spent, row.reserved, row.estimated)

    left = ask()
    next(left)
    left.close()
    (row,) = spend()
    assert (10, 0, 1) == (row.spent, row.reserved, row.estimated)


def test_zeros_beside_an_answer_are_no_usage() -> None:
    """Some gateways write zeros where they do not count; the answer is booked by estimate."""
    configure(budgets=[Budget(tokens=10_000)])

    @failover([Target(GROQ, max_output=100)])
    def ask(target: Target, prompt: str) -> Any:
        return answer(0, 0)

    @failover([Target(GROQ, max_output=100)], stream=StreamPolicy())
    def stream(target: Target, prompt: str) -> Any:
        yield {"choices": [{"delta": {"content": "hello"}, "finish_reason": "stop"}]}
        yield {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}

    ask("12345678")  # two tokens, and two of the five characters of the answer
    list(stream("12345678"))

    (row,) = spend()
    assert (8, 0, 2) == (row.spent, row.reserved, row.estimated)


def test_zeros_of_the_policys_own_usage_are_meant() -> None:
    """As of an answer from a cache."""
    configure(budgets=[Budget(tokens=10_000)])

    @failover([Target(GROQ, max_output=100)], usage=lambda answer: Usage())
    def ask(target: Target, prompt: str) -> Any:
        return answer()

    ask("12345678")

    (row,) = spend()
    assert (0, 0, 0) == (row.spent, row.reserved, row.estimated)


def test_no_price_is_a_refusal_that_says_what_to_write() -> None:
    configure(budgets=[Budget(usd=1)])

    @failover([Target(GROQ, max_output=10)])
    def ask(target: Target) -> str:
        return "x"

    with pytest.raises(BudgetExceededError) as raised:
        ask()

    assert "unpriced" == raised.value.reason
    assert "price=" in raised.value.__notes__[0]


def test_an_unbounded_answer_is_a_mistake() -> None:
    configure(budgets=[Budget(tokens=100)])

    @failover([GROQ])
    def ask(target: Target) -> str:
        return "x"

    with pytest.raises(ConfigurationError, match="max_tokens"):
        ask()
    assert 0 == spend()[0].reserved


def test_the_innermost_attempt_books() -> None:
    configure(budgets=[Budget(tokens=10_000)])

    @failover([Target(GROQ, max_output=10)])
    def inner(target: Target) -> Any:
        return answer(30, 5)

    @failover([Target(OPENAI, max_output=10)])
    def outer(target: Target) -> Any:
        return inner()

    outer()
    (row,) = spend()

    assert (35, 2) == (row.spent, row.calls)
