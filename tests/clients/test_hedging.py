"""Hedges with the real clients of openai and anthropic: the server sees the loser hang up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from resilient_llm import HedgeStarted, StreamPolicy, Target, Trace, failover
from resilient_llm.testing import capture_events
from tests.support.providers import Protocol, Provider
from tests.support.server import HungUpError, Request
from tests.support.ways import on_both_loops, run_async

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

MESSAGES: Any = [{"role": "user", "content": "Will it rain?"}]
TARGETS: dict[Protocol, str] = {
    "openai": "openai/gpt-5-mini",
    "anthropic": "anthropic/claude-haiku",
}
OTHER: dict[Protocol, Protocol] = {"openai": "anthropic", "anthropic": "openai"}
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_ROLES: dict[Protocol, bytes] = {
    "openai": b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}]}\n\n',
    "anthropic": b'event: message_start\ndata: {"type":"message_start","message":{"id":"1","type":'
    b'"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":'
    b'null,"usage":{"input_tokens":1,"output_tokens":1}}}\n\n',
}


class SlowProvider(Provider):
    """A provider that never comes to an answer; a stream begins and goes no further."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self.asked = threading.Event()
        self.hung_up = threading.Event()

    def answer(self, connection: socket.socket, request: Request) -> None:
        if request.body.get("stream"):
            role = _ROLES[self.protocol]
            connection.sendall(_HEAD + f"{len(role):x}\r\n".encode() + role + b"\r\n")
        self.asked.set()
        try:
            connection.recv(1)
        finally:
            self.hung_up.set()
        raise HungUpError


@pytest.fixture(params=TARGETS)
def slow(request: Any) -> Iterator[SlowProvider]:
    with SlowProvider(request.param) as server:
        yield server


@pytest.fixture
def fast(slow: SlowProvider) -> Iterator[Provider]:
    with Provider(OTHER[slow.protocol]) as server:
        yield server


def _client(server: Provider) -> Any:
    options: dict[str, Any] = {
        "base_url": server.url,
        "api_key": "not-a-key",
        "max_retries": 0,
    }
    if server.protocol == "openai":
        http: Any = openai.DefaultAsyncHttpxClient(trust_env=False)
        return openai.AsyncOpenAI(http_client=http, **options)
    http = anthropic.DefaultAsyncHttpxClient(trust_env=False)
    return anthropic.AsyncAnthropic(http_client=http, **options)


def _create(client: Any) -> Any:
    if isinstance(client, openai.AsyncOpenAI):
        return client.chat.completions.create
    return client.messages.create


async def _hangs_up(server: SlowProvider) -> bool:
    return await anyio.to_thread.run_sync(server.hung_up.wait, 5.0)


@on_both_loops
def test_the_loser_of_a_race_hangs_up(backend: str, slow: SlowProvider, fast: Provider) -> None:
    """Its connection is closed, though the client stays open, and the other one's answer is given."""

    async def main() -> bool:
        clients = {TARGETS[slow.protocol]: _client(slow), TARGETS[fast.protocol]: _client(fast)}

        @failover(chain=list(clients), hedge=0.1)
        async def ask(target: Target) -> Any:
            return await _create(clients[target.key])(
                model=target.model, max_tokens=9, messages=MESSAGES
            )

        with Trace() as trace:
            assert await ask()
        assert TARGETS[fast.protocol] == trace.served_by
        is_closed = await _hangs_up(slow)
        for client in clients.values():
            await client.close()
        return is_closed

    with capture_events(HedgeStarted) as started:
        assert run_async(main, backend=backend)
    assert [TARGETS[slow.protocol]] == [each.beside for each in started]


@on_both_loops
# The clients drop generators of their own on trio when a read is cancelled, also without a guard.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_losing_stream_hangs_up(backend: str, slow: SlowProvider, fast: Provider) -> None:
    """Although it had begun, with a role, when the other one gave its first content."""

    async def main() -> bool:
        clients = {TARGETS[slow.protocol]: _client(slow), TARGETS[fast.protocol]: _client(fast)}

        # The fair stream of these servers has no reason for its end.
        policy = StreamPolicy(on_truncated="accept")

        @failover(chain=list(clients), hedge=0.1, stream=policy)
        async def ask(target: Target) -> Any:
            return await _create(clients[target.key])(
                model=target.model, max_tokens=9, messages=MESSAGES, stream=True
            )

        with Trace() as trace:
            stream = await ask()
            items = [item async for item in stream]
        assert items
        assert TARGETS[fast.protocol] == trace.served_by
        is_closed = await _hangs_up(slow)
        for client in clients.values():
            await client.close()
        return is_closed

    assert run_async(main, backend=backend)


@on_both_loops
def test_a_clients_own_method_may_be_hedged(
    backend: str, slow: SlowProvider, fast: Provider
) -> None:
    """``create`` is a plain function around a coroutine function, which its decorator names."""

    async def main() -> bool:
        slow_client, fast_client = _client(slow), _client(fast)
        chain = [
            Target(TARGETS[slow.protocol], call=_create(slow_client)),
            Target(TARGETS[fast.protocol], call=_create(fast_client)),
        ]

        @failover(chain=chain, hedge=0.1)
        async def ask(*, model: str = "", **options: Any) -> Any: ...

        assert await ask(max_tokens=9, messages=MESSAGES)
        is_closed = await _hangs_up(slow)
        await slow_client.close()
        await fast_client.close()
        return is_closed

    assert run_async(main, backend=backend)
