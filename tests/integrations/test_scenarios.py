"""The scenarios of the integrations, with the decorator: what all others are compared with."""

from __future__ import annotations

import asyncio

import pytest

from tests.integrations.scenarios import SCENARIOS, aby_decorator, aplay, by_decorator, play

pytest.importorskip("openai")


@pytest.mark.parametrize("name", SCENARIOS)
def test_sync_and_async_give_the_same_events(name: str) -> None:
    """The decorator emits the same events for the sync client as for the async one."""
    outcome, aoutcome = play(name, by_decorator), aplay(name, aby_decorator)

    assert aoutcome.events == outcome.events
    assert aoutcome.requests == outcome.requests
    assert aoutcome.text == outcome.text
    assert outcome.events


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios_end_as_they_say(name: str) -> None:
    """A scenario ends with an answer, or with an error if it says so."""
    outcome = play(name, by_decorator)

    assert (outcome.text is not None) is SCENARIOS[name].answers
    assert (outcome.error is None) is SCENARIOS[name].answers


def test_each_scenario_is_another() -> None:
    """No two scenarios that are not healthy give the same events."""
    seen = [str(play(name, by_decorator).events) for name in SCENARIOS if "healthy" not in name]

    assert len(set(seen)) == len(seen)


def test_cancellation_is_one() -> None:
    """The cancelled scenario ends with the cancellation of its mode."""
    assert isinstance(play("cancellation", by_decorator).error, KeyboardInterrupt)
    assert isinstance(aplay("cancellation", aby_decorator).error, asyncio.CancelledError)
