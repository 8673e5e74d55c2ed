"""The scenarios of all integrations, with models of pydantic-ai behind `FailoverModel`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilient_llm import ChainExhaustedError
from tests.integrations.pydantic_ai.models import IS_OLD, by_model
from tests.integrations.scenarios import SCENARIOS, Scenario, aby_decorator, aplay
from tests.support.pages import ROOT

EXCEPTIONS = {
    "sync": "pydantic-ai has no synchronous models: `run_sync` runs an event loop.",
    "refusal: the class of the error": "The error is pydantic-ai's, with the SDK's as its cause.",
    "items_sent": "It counts events of pydantic-ai, not chunks of the provider.",
}
"""``{what differs from the decorator: why}``; shown in docs/how-to/pydantic-ai.md."""


def _told(events: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (name, {key: value for key, value in fields.items() if key != "items_sent"})
        for name, fields in events
    ]


@pytest.mark.parametrize("name", SCENARIOS)
def test_events_are_those_of_the_decorator(name: str) -> None:
    """A run of an agent gives the events, the requests and the answer of the decorator."""
    expected, outcome = aplay(name, aby_decorator), aplay(name, by_model)

    assert _told(outcome.events) == _told(expected.events)
    assert outcome.requests == expected.requests
    assert outcome.text == expected.text


@pytest.mark.parametrize("name", SCENARIOS)
def test_errors_are_those_of_the_decorator(name: str) -> None:
    """The error is of the same class; that of a model has the SDK's error as its cause."""
    expected, outcome = aplay(name, aby_decorator), aplay(name, by_model)

    if name == "refusal":
        assert type(outcome.error) is not type(expected.error)
        assert type(outcome.error.__cause__) is type(expected.error)
    else:
        assert type(outcome.error) is type(expected.error)


@pytest.mark.parametrize("stream", ["truncated-before", "truncated-midway", "empty"])
@pytest.mark.skipif(IS_OLD, reason="its responses have no finish reason")
def test_the_end_of_a_stream_counts(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream without content or without its finish reason is what it is for the decorator."""
    scenario = Scenario(stream, streams=True, options={"attempts": 1})
    monkeypatch.setitem(SCENARIOS, stream, scenario)

    expected, outcome = aplay(stream, aby_decorator), aplay(stream, by_model)

    assert _told(outcome.events) == _told(expected.events)
    assert outcome.requests == expected.requests


def test_an_empty_stream_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that ends without content is a bad answer in every release of pydantic-ai."""
    monkeypatch.setitem(SCENARIOS, "empty", Scenario("empty", streams=True))

    outcome = aplay("empty", by_model)

    assert outcome.text == "w0 w1 w2 w3 w4 "
    assert outcome.events[0][1]["reason"] == "empty"


def test_all_down_is_chain_exhausted() -> None:
    """Where no model answers, the run ends with ChainExhaustedError."""
    with pytest.MonkeyPatch.context() as patch:
        scenario = Scenario(SCENARIOS["dead first"].first, options={"max_attempts": 1})
        patch.setitem(SCENARIOS, "down", scenario)

        outcome = aplay("down", by_model)

    assert isinstance(outcome.error, ChainExhaustedError)
    assert outcome.requests == {"groq": 1, "openai": 0}


def test_cancellation_is_one() -> None:
    """A cancelled run raises CancelledError."""
    assert isinstance(aplay("cancellation", by_model).error, asyncio.CancelledError)


def test_exceptions_are_in_the_page() -> None:
    """The documentation has each exception with its reason."""
    page = (ROOT / "docs/how-to/pydantic-ai.md").read_text()

    assert [each for each in EXCEPTIONS.values() if each not in page] == []
