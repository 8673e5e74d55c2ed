"""The errors that leave a wrapped client, as the page lists them: real clients, sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient_llm import (
    Budget,
    BudgetExceededError,
    ChainExhaustedError,
    DeadlineExceededError,
    ResponseRejectedError,
    StreamInterruptedError,
    StreamPolicy,
    answers,
    bench_model,
    configure,
    list_benched,
    unbench_model,
)
from resilient_llm.integrations import wrap
from tests.support.apps import GROQ, OPENAI, Providers

openai = pytest.importorskip("openai")

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
WAYS = ["sync", "async"]


@pytest.fixture
def server() -> Iterator[Providers]:
    with Providers() as providers:
        yield providers


def ask(server: Providers, way: str, stream: StreamPolicy | None = None, **options: Any) -> Any:
    """Return an answer, or the list of the chunks of a stream, of a new wrapped client."""
    made: Callable[..., Any] = openai.OpenAI if way == "sync" else openai.AsyncOpenAI
    clients = {
        name: made(base_url=server.url(name), api_key="not-a-key", max_retries=0)
        for name in ("groq", "openai")
    }
    client = wrap(clients, chain=[GROQ, OPENAI], stream=stream, attempts=1, **options)
    given: dict[str, Any] = {"model": "auto", "messages": MESSAGES, "stream": bool(stream)}
    if way == "sync":
        with client:
            answer = client.chat.completions.create(**given)
            return list(answer) if stream else answer

    async def awaited() -> Any:
        async with client:
            answer = await client.chat.completions.create(**given)
            return [chunk async for chunk in answer] if stream else answer

    return asyncio.run(awaited())


@pytest.mark.parametrize("way", WAYS)
def test_an_outage_is_the_error_of_the_sdk(way: str, server: Providers) -> None:
    """With `reraise=False` it is an error of this library, as handlers of a framework need it."""
    server.moods.update(groq="down", openai="down")

    with pytest.raises(openai.InternalServerError):
        ask(server, way)
    with pytest.raises(ChainExhaustedError):
        ask(server, way, reraise=False)


@pytest.mark.parametrize("way", WAYS)
def test_the_end_of_the_deadline(way: str, server: Providers) -> None:
    """`timeout=` ends in an error of this library in both ways."""
    server.moods.update(groq="silent", openai="silent")

    with pytest.raises(DeadlineExceededError):
        ask(server, way, timeout=0.3)


@pytest.mark.parametrize("way", WAYS)
def test_the_end_of_the_last_attempt(way: str, server: Providers) -> None:
    """The SDK's own timeout ends a synchronous attempt, and a cancellation the other."""
    server.moods.update(groq="silent", openai="silent")

    with pytest.raises((TimeoutError, openai.APITimeoutError)) as raised:
        ask(server, way, attempt_timeout=0.2)

    assert (way == "sync") == isinstance(raised.value, openai.APITimeoutError)
    with pytest.raises(ChainExhaustedError):
        ask(server, way, attempt_timeout=0.2, reraise=False)


@pytest.mark.parametrize("way", WAYS)
def test_no_content_in_time(way: str, server: Providers) -> None:
    """`first_item_timeout` ends in a TimeoutError in both ways."""
    server.moods.update(groq="silent", openai="silent")

    with pytest.raises(TimeoutError):
        ask(server, way, StreamPolicy(first_item_timeout=0.2))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mood", ["cut", "stalls"])
def test_a_stream_that_breaks(way: str, mood: str, server: Providers) -> None:
    """An end without a finish reason and a stall are interruptions."""
    server.moods["groq"] = mood

    with pytest.raises(StreamInterruptedError):
        ask(server, way, StreamPolicy(idle_timeout=0.3))


@pytest.mark.parametrize("way", WAYS)
def test_streams_without_content(way: str, server: Providers) -> None:
    """The last of them was an answer, which is refused."""
    server.moods.update(groq="empty", openai="empty")

    with pytest.raises(ResponseRejectedError):
        ask(server, way, StreamPolicy(idle_timeout=0.3))


@pytest.mark.parametrize("way", WAYS)
def test_no_target_could_be_called(way: str, server: Providers) -> None:
    """Benches leave no error of an SDK, and neither does a budget."""
    bench_model("groq")
    bench_model("openai")
    with pytest.raises(ChainExhaustedError):
        ask(server, way)

    unbench_model("groq")
    unbench_model("openai")
    configure(budgets=[Budget(calls=0, per="day")])
    with pytest.raises(BudgetExceededError):
        ask(server, way)


@pytest.mark.parametrize("way", WAYS)
def test_a_gateway_that_answers_200_with_an_error(way: str, server: Providers) -> None:
    """Without a check its body is an answer without choices; `answers.broken` moves on."""
    server.moods["groq"] = "spent"
    assert ask(server, way).choices is None

    assert f"{OPENAI}: Hi" == ask(server, way, reject=answers.broken).choices[0].message.content
    assert ["groq"] == [each.model for each in list_benched()]


def test_a_patch_of_a_client_with_retries_is_lost(server: Providers) -> None:
    """The copy with `max_retries=0` is another object, and a client with 0 is used itself."""
    seen: list[str] = []
    clients = {
        name: openai.OpenAI(base_url=server.url(name), api_key="not-a-key", max_retries=retries)
        for name, retries in (("groq", 2), ("openai", 0))
    }
    for name, client in clients.items():
        original = client.chat.completions.create

        def traced(*, name: str = name, original: Any = original, **given: Any) -> Any:
            seen.append(name)
            return original(**given)

        client.chat.completions.create = traced
    wrapped = wrap(clients, chain=[GROQ, OPENAI])

    with wrapped:
        for model in (GROQ, OPENAI):
            wrapped.chat.completions.create(model=model, messages=MESSAGES)

    assert ["groq", "openai"] == server.asked
    assert ["openai"] == seen
