"""What the real openai and anthropic clients book, against a server on loopback."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from resilient_llm import Budget, StreamPolicy, Target, configure, failover, spend
from tests.support.server import LoopbackServer, Request, unused_port
from tests.support.ways import run_async

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

groq = pytest.importorskip("groq")

PROVIDERS = ["openai", "anthropic"]
WAYS = ["sync", "asyncio", "trio"]
ANSWERS: dict[str, dict[str, Any]] = {
    "openai": {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "Hello!"},
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
    },
    "anthropic": {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [{"type": "text", "text": "Hello!"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 4},
    },
}
CHUNKS = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}}]},
    {"choices": [{"index": 0, "delta": {"content": "lo!"}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}},
]


class Provider(LoopbackServer):
    """Gives one answer to every request."""

    def __init__(self, status: int, body: bytes, kind: str = "application/json") -> None:
        super().__init__()
        self.status, self.body, self.kind = status, body, kind

    def answer(self, connection: socket.socket, request: Request) -> None:
        head = (
            f"HTTP/1.1 {self.status} Whatever\r\nContent-Type: {self.kind}\r\n"
            f"Content-Length: {len(self.body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + self.body)


def create(client: Any, provider: str, **options: Any) -> Any:
    messages = [{"role": "user", "content": "Hi"}]
    options = {"model": "any", "messages": messages, "max_tokens": 50, **options}
    is_raw = options.pop("raw", False)
    resource = client.messages if provider == "anthropic" else client.chat.completions
    return (resource.with_raw_response if is_raw else resource).create(**options)


def client_of(provider: str, port: int, way: str) -> Any:
    prefix = "" if way == "sync" else "Async"
    package = {"openai": openai, "anthropic": anthropic, "groq": groq}[provider]
    name = {"openai": "OpenAI", "anthropic": "Anthropic", "groq": "Groq"}[provider]
    return getattr(package, prefix + name)(
        base_url=f"http://127.0.0.1:{port}/v1",
        api_key="not-a-key",
        max_retries=0,
        http_client=getattr(package, f"Default{prefix}HttpxClient")(trust_env=False),
    )


def call(provider: str, way: str, port: int, *, reads: bool = False, **options: Any) -> None:
    """Make one guarded call, whatever becomes of it."""
    policy = failover(
        [Target(f"{provider}/any", max_output=50)],
        tokens=20,
        attempts=1,
        stream=StreamPolicy() if reads else None,
    )
    client = client_of(provider, port, way)
    if way == "sync":

        @policy
        def ask(target: Target) -> Any:
            return create(client, provider, **options)

        with client:
            try:
                answer = ask()
                if reads:
                    list(answer)
            except Exception:  # noqa: S110  # of the provider
                pass
        return

    @policy
    async def ask_async(target: Target) -> Any:
        return await create(client, provider, **options)

    async def main() -> None:
        async with client:
            try:
                answer = await ask_async()
                if reads:
                    async for _ in answer:
                        pass
            except Exception:  # noqa: S110  # of the provider
                pass

    run_async(main, backend=way)


def booked() -> tuple[Any, int, int, Any]:
    (row,) = spend()
    return row.spent, row.calls, row.estimated, row.reserved


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer_books_what_the_provider_tells(provider: str, way: str) -> None:
    """Input with what came from a cache, in both protocols."""
    configure(budgets=[Budget(tokens=1000)])

    with Provider(200, json.dumps(ANSWERS[provider]).encode()) as server:
        call(provider, way, server.port)

    assert (13, 1, 0, 0) == booked()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("provider", [*PROVIDERS, "groq"])
def test_a_raw_response_books_what_its_body_tells(provider: str, way: str) -> None:
    """The client has read the body, so it is there to be read once more."""
    configure(budgets=[Budget(tokens=1000)])
    body = ANSWERS.get(provider, ANSWERS["openai"])

    with Provider(200, json.dumps(body).encode()) as server:
        call(provider, way, server.port, raw=True)

    assert (13, 1, 0, 0) == booked()


def test_a_raw_response_without_a_usage_books_its_text() -> None:
    """Nothing beside the answer counts as its text."""
    configure(budgets=[Budget(tokens=1000)])
    body = {**ANSWERS["openai"], "usage": None}

    with Provider(200, json.dumps(body).encode()) as server:
        call("openai", "sync", server.port, raw=True)

    assert (22, 1, 1, 0) == booked()


@pytest.mark.parametrize("body", [b"[5]", b"{", b"Hello", b"\xff"])
def test_a_raw_response_of_something_else_books_what_was_reserved(body: bytes) -> None:
    """Nothing is known of what it used."""
    configure(budgets=[Budget(tokens=1000)])

    with Provider(200, body) as server:
        call("openai", "sync", server.port, raw=True)

    assert (70, 1, 1, 0) == booked()


def test_a_raw_stream_is_left_unread() -> None:
    """Its body belongs to the caller, and only he reads the network."""
    configure(budgets=[Budget(tokens=1000)])
    kept: list[Any] = []

    with Provider(200, b"data: [DONE]\n\n", "text/event-stream") as server:
        client = client_of("openai", server.port, "sync")

        @failover([Target("openai/any", max_output=50)], tokens=20, attempts=1)
        def ask(target: Target) -> Any:
            return create(client, "openai", raw=True, stream=True)

        with client:
            kept.append(ask())
            assert not kept[0].http_response.is_stream_consumed
            kept[0].http_response.close()

    assert (70, 1, 1, 0) == booked()


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_http_status_books_the_call_alone(provider: str, way: str, status: int) -> None:
    """The provider has answered, and bills nothing."""
    configure(budgets=[Budget(tokens=1000)])

    with Provider(status, b'{"error": {"message": "no", "type": "error"}}') as server:
        call(provider, way, server.port)

    assert (0, 1, 0, 0) == booked()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_refused_connection_books_nothing(provider: str, way: str) -> None:
    """Nothing was sent."""
    configure(budgets=[Budget(tokens=1000)])

    call(provider, way, unused_port())

    assert (0, 0, 0, 0) == booked()


@pytest.mark.parametrize("way", ["sync", "asyncio"])  # on trio openai leaves a generator open
def test_a_stream_books_its_last_chunk(way: str) -> None:
    """As OpenAI sends it with ``include_usage``."""
    configure(budgets=[Budget(tokens=1000)])
    common = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt"}
    lines = [f"data: {json.dumps({**common, **chunk})}\n\n" for chunk in CHUNKS]
    body = "".join([*lines, "data: [DONE]\n\n"]).encode()

    with Provider(200, body, "text/event-stream") as server:
        call("openai", way, server.port, reads=True, stream=True)

    assert (13, 1, 0, 0) == booked()
