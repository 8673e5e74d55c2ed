"""The scenarios of the integrations through LiteLLM: the same events as the decorator's."""

from __future__ import annotations

from typing import Any

import pytest

from resilient_llm import Target, failover
from resilient_llm.integrations import litellm
from tests.integrations.scenarios import (
    CHAIN,
    MESSAGES,
    SCENARIOS,
    Outcome,
    Stage,
    aby_decorator,
    aplay,
    by_decorator,
    play,
    text_of_chunk,
)

_AS_500 = "LiteLLM raises a broken connection with status 500, which is what the reason is then"
EXCEPTIONS = {
    "timeout": "LiteLLM raises the timeout of its own client with status 408",
    "stream cut before content": _AS_500,
    "stream cut after content": _AS_500,
}
"""``{scenario: why status and reason of its events differ from those of the decorator}``"""


def chain_of(here: Stage) -> list[Target]:
    return [
        Target(spec, params={"api_base": here.urls[spec.partition("/")[0]], "api_key": "not-a-key"})
        for spec in CHAIN
    ]


def by_litellm(here: Stage) -> str:
    policy = failover(**here.options)
    if here.scenario.streams:
        stream = litellm.completion(chain_of(here), MESSAGES, policy=policy, stream=True)
        return "".join(text_of_chunk(chunk) for chunk in stream)
    reply: Any = litellm.completion(chain_of(here), MESSAGES, policy=policy)
    return reply.choices[0].message.content


async def aby_litellm(here: Stage) -> str:
    policy = failover(**here.options)
    if here.scenario.streams:
        stream: Any = await litellm.acompletion(
            chain_of(here), MESSAGES, policy=policy, stream=True
        )
        return "".join([text_of_chunk(chunk) async for chunk in stream])
    reply: Any = await litellm.acompletion(chain_of(here), MESSAGES, policy=policy)
    return reply.choices[0].message.content


def compare(name: str, expected: Outcome, outcome: Outcome) -> None:
    if name in EXCEPTIONS:
        assert without_status(expected) == without_status(outcome)
    else:
        assert expected.events == outcome.events
    assert expected.text == outcome.text
    assert expected.requests == outcome.requests
    assert (expected.error is None) is (outcome.error is None)


def without_status(outcome: Outcome) -> list[tuple[str, dict[str, Any]]]:
    return [
        (event, {name: value for name, value in fields.items() if name not in ("status", "reason")})
        for event, fields in outcome.events
    ]


@pytest.mark.parametrize("name", SCENARIOS)
def test_sync(name: str) -> None:
    """A call of `completion` gives the events of the decorator."""
    compare(name, play(name, by_decorator), play(name, by_litellm))


@pytest.mark.parametrize("name", SCENARIOS)
def test_async(name: str) -> None:
    """A call of `acompletion` gives the events of the decorator."""
    compare(name, aplay(name, aby_decorator), aplay(name, aby_litellm))
