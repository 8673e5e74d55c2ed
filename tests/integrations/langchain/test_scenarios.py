"""The scenarios of all integrations, with models of langchain-openai behind the adapter."""

from __future__ import annotations

import pytest

from tests.integrations.langchain.adapters import aby_adapter, by_adapter
from tests.integrations.scenarios import (
    SCENARIOS,
    aby_decorator,
    aplay,
    by_decorator,
    play,
)


@pytest.mark.parametrize("name", SCENARIOS)
def test_sync_events_are_those_of_the_decorator(name: str) -> None:
    """Calls in synchronous code give the events, the requests and the answer of the decorator."""
    expected, outcome = play(name, by_decorator), play(name, by_adapter)

    assert outcome.events == expected.events
    assert outcome.requests == expected.requests
    assert outcome.text == expected.text
    assert isinstance(outcome.error, type(expected.error))  # LangChain has subclasses of its own


@pytest.mark.parametrize("name", SCENARIOS)
def test_async_events_are_those_of_the_decorator(name: str) -> None:
    """Calls in asynchronous code give the events, the requests and the answer of the decorator."""
    expected, outcome = aplay(name, aby_decorator), aplay(name, aby_adapter)

    assert outcome.events == expected.events
    assert outcome.requests == expected.requests
    assert outcome.text == expected.text
    assert isinstance(outcome.error, type(expected.error))  # LangChain has subclasses of its own
