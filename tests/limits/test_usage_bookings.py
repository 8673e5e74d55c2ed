"""What is booked of streams that are left, of answers without a usage, and of limits that are odd."""

from __future__ import annotations

from typing import Any

import pytest

from resilient_llm import (
    Budget,
    ConfigurationError,
    SpendRecorded,
    Target,
    Usage,
    configure,
    failover,
    observe,
    spend,
)

CLAUDE = Target("anthropic/claude", price=(3, 15), max_output=1000)
LONG = "x" * 4000


def of_stream(items: list[Any], leave_after: int | None = None) -> tuple[Usage, bool]:
    """Return what a stream books that is read to its end, or left after so many items."""
    seen: list[SpendRecorded] = []
    observe(seen.append, SpendRecorded)
    configure(budgets=[Budget(tokens=10_000_000)])

    @failover([CLAUDE], tokens=10, attempts=1)
    def ask(target: Target) -> Any:
        yield from items

    stream = ask()
    for count, _ in enumerate(stream, 1):
        if count == leave_after:
            stream.close()
            break
    (event,) = seen
    return event.usage, event.estimated


def start(**usage: int) -> dict[str, Any]:
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "usage": usage}
    return {"type": "message_start", "message": message}


def block(name: str, value: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "delta", name: value}}


def chat(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


CALL = {"index": 0, "function": {"name": "write", "arguments": LONG}}
WRITTEN = {
    "thinking": block("thinking", LONG),
    "arguments of anthropic": block("partial_json", LONG),
    "arguments of openai": chat(tool_calls=[CALL]),
    "reasoning": chat(reasoning_content=LONG),
    "refusal": chat(refusal=LONG),
    "responses": {"type": "response.function_call_arguments.delta", "delta": LONG},
    "gemini": {"candidates": [{"content": {"parts": [{"text": LONG, "thought": True}]}}]},
    "bedrock": {"contentBlockDelta": {"delta": {"toolUse": {"input": LONG}}}},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_all_that_came_of_a_stream_is_booked_when_it_is_left(name: str) -> None:
    """Not its text alone: thinking, arguments of tools and refusals are billed as output."""
    item = WRITTEN[name]

    usage, estimated = of_stream([item, item, block("text", "Hi"), item], leave_after=3)

    assert (Usage(10, 2001), True) == (usage, estimated)


def test_a_left_stream_books_at_least_what_came() -> None:
    """Also if its first item has told of the request."""
    items = [start(input_tokens=25, output_tokens=1), WRITTEN["thinking"], block("text", "Hi")]

    assert (Usage(25, 1001), True) == of_stream([*items, items[-1]], leave_after=3)


def test_an_answer_without_a_usage_books_all_that_it_has() -> None:
    """The arguments of a tool are output, whatever holds them."""
    seen: list[SpendRecorded] = []
    observe(seen.append, SpendRecorded)
    configure(budgets=[Budget(tokens=10_000)])
    content = [
        {"type": "thinking", "thinking": LONG},
        {"type": "tool_use", "id": "t", "name": "write", "input": {"text": LONG}},
    ]

    failover([CLAUDE], tokens=10).call(
        lambda *, target: {"type": "message", "content": content, "stop_reason": "tool_use"}
    )

    (event,) = seen
    assert Usage(10, 2003) == event.usage
    assert event.estimated


# Limits of an answer.


def ask_with(**options: Any) -> list[Any]:
    """Return what a call reserves whose function takes these options."""
    reserved: list[Any] = []

    @failover(["anthropic/claude"], tokens=10)
    def ask(target: Target, **options: Any) -> dict[str, Any]:
        reserved.append(spend()[0].reserved)
        return {"type": "message", "content": [], "usage": {"input_tokens": 9, "output_tokens": 0}}

    ask(**options)
    return reserved


def test_an_answer_of_0_tokens_reserves_its_input_alone() -> None:
    """So Anthropic's cache is filled."""
    configure(budgets=[Budget(tokens=1000)])

    assert [10] == ask_with(max_tokens=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", "100"),
        ("max_completion_tokens", 100.0),
        ("max_output_tokens", 10**30),
        ("max_tokens", True),
    ],
)
def test_an_unreadable_limit_is_named(name: str, value: Any) -> None:
    """The error says which argument it is, and not its value."""
    configure(budgets=[Budget(tokens=1000, name="day")])

    with pytest.raises(ConfigurationError) as caught:
        ask_with(**{name: value})

    assert (
        f"{name} of the call to anthropic/claude is not a number of tokens, so budget 'day' cannot "
        "reserve for the answer: pass a whole number from 0 to 1,000,000,000"
    ) == str(caught.value)


class NotGiven:
    """What SDKs pass for an argument that is not given."""


@pytest.mark.parametrize("value", [None, NotGiven()], ids=["None", "NotGiven"])
def test_a_limit_that_is_not_given_is_not_blamed(value: Any) -> None:
    """Then nothing limits the answer."""
    configure(budgets=[Budget(tokens=1000)])

    with pytest.raises(ConfigurationError, match=r"^nothing limits the answer"):
        ask_with(max_tokens=value)


def test_an_unreadable_limit_harms_nothing_if_another_one_holds() -> None:
    """As before."""
    configure(budgets=[Budget(tokens=1000, on_unbounded=50)])

    assert [60] == ask_with(max_tokens=-1)
    assert [17] == ask_with(max_tokens=-1, max_completion_tokens=7)


# Published prices.


def test_a_model_that_is_published_as_free_is_called() -> None:
    """0 is a price."""
    pytest.importorskip("genai_prices")
    configure(budgets=[Budget(usd=0)])

    @failover(["openrouter/meta-llama/llama-3.3-70b-instruct:free"], tokens=10)
    def ask(target: Target) -> str:
        return "Hi"

    assert "Hi" == ask()
