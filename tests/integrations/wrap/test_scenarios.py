"""Clients of OpenAI's protocol under `wrap`, in the scenarios that all integrations meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integrations.frameworks import awrapped, wrapped
from tests.integrations.scenarios import (
    MESSAGES,
    SCENARIOS,
    Stage,
    aby_decorator,
    aplay,
    by_decorator,
    play,
    text_of_chunk,
)

pytest.importorskip("openai")

EXCEPTIONS = {
    ("streaming", "healthy stream"): "the guard ends at the headers, before there is content",
    ("streaming", "stream cut before content"): "the guard ends at the headers",
    ("streaming", "stream cut after content"): "the guard ends at the headers",
}
"""``{(way to call, scenario): why its events are not those of the decorator}``"""


# --- ways to call ------------------------------------------------------------------------------


def by_create(here: Stage) -> str:
    with wrapped(here) as client:
        create = client.chat.completions.create
        if not here.scenario.streams:
            return create(model="auto", messages=MESSAGES).choices[0].message.content
        with create(model="auto", messages=MESSAGES, stream=True) as stream:
            return "".join(text_of_chunk(chunk) for chunk in stream)


def by_raw(here: Stage) -> str:
    with wrapped(here) as client:
        create = client.chat.completions.with_raw_response.create
        if not here.scenario.streams:
            answer = create(model="auto", messages=MESSAGES)
            assert answer.headers["content-type"] == "application/json"
            return answer.parse().choices[0].message.content
        answer = create(model="auto", messages=MESSAGES, stream=True)
        assert answer.status_code == 200
        with answer.parse() as stream:
            return "".join(text_of_chunk(chunk) for chunk in stream)


def by_stream(here: Stage) -> str:
    with (
        wrapped(here) as client,
        client.chat.completions.stream(model="auto", messages=MESSAGES) as stream,
    ):
        return "".join(event.delta for event in stream if event.type == "content.delta")


def by_streaming(here: Stage) -> str:
    with (
        wrapped(here) as client,
        client.chat.completions.with_streaming_response.create(
            model="auto", messages=MESSAGES, stream=here.scenario.streams
        ) as answer,
    ):
        if not here.scenario.streams:
            return answer.parse().choices[0].message.content
        return "".join(text_of_chunk(chunk) for chunk in answer.parse())


async def aby_create(here: Stage) -> str:
    async with awrapped(here) as client:
        create = client.chat.completions.create
        if not here.scenario.streams:
            return (await create(model="auto", messages=MESSAGES)).choices[0].message.content
        async with await create(model="auto", messages=MESSAGES, stream=True) as stream:
            return "".join([text_of_chunk(chunk) async for chunk in stream])


async def aby_raw(here: Stage) -> str:
    async with awrapped(here) as client:
        create = client.chat.completions.with_raw_response.create
        if not here.scenario.streams:
            answer = await create(model="auto", messages=MESSAGES)
            return answer.parse().choices[0].message.content
        answer = await create(model="auto", messages=MESSAGES, stream=True)
        async with answer.parse() as stream:
            return "".join([text_of_chunk(chunk) async for chunk in stream])


async def aby_stream(here: Stage) -> str:
    async with (
        awrapped(here) as client,
        client.chat.completions.stream(model="auto", messages=MESSAGES) as stream,
    ):
        return "".join([event.delta async for event in stream if event.type == "content.delta"])


async def aby_streaming(here: Stage) -> str:
    async with (
        awrapped(here) as client,
        client.chat.completions.with_streaming_response.create(
            model="auto", messages=MESSAGES, stream=here.scenario.streams
        ) as answer,
    ):
        if not here.scenario.streams:
            return (await answer.parse()).choices[0].message.content
        return "".join([text_of_chunk(chunk) async for chunk in await answer.parse()])


WAYS: dict[str, Callable[[Stage], str]] = {
    "create": by_create,
    "raw": by_raw,
    "streaming": by_streaming,
    "stream": by_stream,
}
AWAYS: dict[str, Any] = {
    "create": aby_create,
    "raw": aby_raw,
    "streaming": aby_streaming,
    "stream": aby_stream,
}


def same(way: str, events: Any) -> Any:
    """Return events as far as they are the same for each way to call."""
    # A manager gives two items for each chunk, which the events count.
    counts = {"items_sent"} if way == "stream" else set[str]()
    return [(kind, {k: v for k, v in known.items() if k not in counts}) for kind, known in events]


CASES = [
    (way, name)
    for way in WAYS
    for name, scenario in SCENARIOS.items()
    if (way != "stream" or scenario.streams) and (way, name) not in EXCEPTIONS
]


@pytest.mark.parametrize(("way", "name"), CASES)
def test_a_wrapped_client_does_what_the_decorator_does(way: str, name: str) -> None:
    """A wrapped sync client emits the events of the decorator, for each way to call it."""
    expected = play(name, by_decorator)

    outcome = play(name, WAYS[way])

    assert same(way, outcome.events) == same(way, expected.events), outcome.error
    assert outcome.requests == expected.requests
    assert outcome.text == expected.text


@pytest.mark.parametrize(("way", "name"), CASES)
def test_a_wrapped_async_client_does_what_the_decorator_does(way: str, name: str) -> None:
    """A wrapped async client emits the events of the decorator, for each way to call it."""
    expected = aplay(name, aby_decorator)

    outcome = aplay(name, AWAYS[way])

    assert same(way, outcome.events) == same(way, expected.events), outcome.error
    assert outcome.requests == expected.requests
    assert outcome.text == expected.text
