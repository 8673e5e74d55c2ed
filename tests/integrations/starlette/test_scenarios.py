"""The scenarios of the integrations behind an endpoint: the same events as the decorator's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("openai")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from resilient_llm.integrations.starlette import add_exception_handlers, stream_response
from tests.integrations.scenarios import CHAIN as MODELS
from tests.integrations.scenarios import (
    MESSAGES,
    SCENARIOS,
    Stage,
    aby_decorator,
    aplay,
    by_decorator,
    client_of,
    play,
    text_of_chunk,
)
from tests.integrations.starlette.client import asked, closes
from tests.support.asgi import served

EXCEPTIONS = {
    "cancellation": "a client that hangs up does not end a synchronous endpoint, as in any app"
}
"""``{scenario: why a synchronous endpoint does not play it}``"""


def app_of(endpoint: Any, **options: Any) -> Starlette:
    app = Starlette(routes=[Route("/", endpoint)], **options)
    add_exception_handlers(app)
    return app


def read(port: int) -> str:
    """Return the text of the answer; a problem or an event of an error is an error here."""
    with asked(port) as conversation:
        conversation.read_head()
        if conversation.status != 200:
            raise RuntimeError(conversation.status)
        if "content-length" in conversation.headers:
            return conversation._file.read(int(conversation.headers["content-length"])).decode()
        events = conversation.events()
    if events[-1].startswith("event: error"):
        raise RuntimeError(events[-1])
    return "".join(event.removeprefix("data: ") for event in events)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in EXCEPTIONS])
def test_sync(name: str) -> None:
    """A plain function as an endpoint gives the events of the decorator."""

    def by_endpoint(here: Stage) -> str:
        def endpoint(request: Request) -> Any:
            return PlainTextResponse(by_decorator(here))

        with served(app_of(endpoint)) as port:
            return read(port)

    expected, outcome = play(name, by_decorator), play(name, by_endpoint)

    assert expected.events == outcome.events
    assert expected.requests == outcome.requests
    assert expected.text == outcome.text
    assert (expected.error is None) is (outcome.error is None)


async def aby_stream(here: Stage) -> str:
    """Ask an endpoint that streams what a decorated function returns; hang up if cancelled."""
    from resilient_llm import Target, failover

    clients = {name: client_of(here, name, "AsyncOpenAI") for name in here.urls}
    policy: Any = failover(chain=MODELS, **here.options)

    @policy
    async def ask(target: Target) -> Any:
        return await clients[target.provider].chat.completions.create(
            model=target.model, messages=MESSAGES, stream=True
        )

    async def texts() -> Any:
        async with await ask() as chunks:
            async for chunk in chunks:
                yield text_of_chunk(chunk)

    async def endpoint(request: Request) -> Any:
        return await stream_response(request, texts())

    app = app_of(endpoint, lifespan=closes(_All(clients)))
    with served(app) as port, asked(port) as conversation:
        reading = asyncio.create_task(asyncio.to_thread(conversation.read_head))
        try:
            await asyncio.shield(reading)
        except asyncio.CancelledError:
            conversation.hang_up()
            raise
        if conversation.status != 200:
            raise RuntimeError(conversation.status)
        events = await asyncio.to_thread(conversation.events)
    if events[-1].startswith("event: error"):
        raise RuntimeError(events[-1])
    return "".join(event.removeprefix("data: ") for event in events)


class _All:
    def __init__(self, clients: dict[str, Any]) -> None:
        self._clients = clients

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()


@pytest.mark.parametrize("name", [name for name, each in SCENARIOS.items() if each.streams])
def test_async(name: str) -> None:
    """A streaming endpoint gives the events of the decorator."""
    expected, outcome = aplay(name, aby_decorator), aplay(name, aby_stream)

    assert expected.events == outcome.events
    assert expected.requests == outcome.requests
    assert expected.text == outcome.text
    assert (expected.error is None) is (outcome.error is None)


@pytest.mark.parametrize(
    "name", [name for name, each in SCENARIOS.items() if not each.streams and not each.is_cancelled]
)
def test_async_without_a_stream(name: str) -> None:
    """A coroutine function as an endpoint gives the events of the decorator."""

    async def aby_endpoint(here: Stage) -> str:
        async def endpoint(request: Request) -> Any:
            return PlainTextResponse(await aby_decorator(here))

        with served(app_of(endpoint)) as port:
            return await asyncio.to_thread(read, port)

    expected, outcome = aplay(name, aby_decorator), aplay(name, aby_endpoint)

    assert expected.events == outcome.events
    assert expected.requests == outcome.requests
    assert expected.text == outcome.text
