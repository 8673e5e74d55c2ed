"""Providers on loopback that say what a test tells them to, and count what they are sent.

They speak the protocols of OpenAI and of Anthropic over real sockets, to the real clients, and
know nothing of the library.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.support.server import HungUpError, LoopbackServer, Request

Protocol = Literal["openai", "anthropic"]


@dataclass(frozen=True)
class Reply:
    """What a provider sends: the bytes of the body as they are, anything else as JSON."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)

    def on_the_wire(self) -> bytes:
        content = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(content)),
            **self.headers,
        }
        lines = [
            f"HTTP/1.1 {self.status} Status",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return "\r\n".join((*lines, "", "")).encode() + content


@dataclass(frozen=True)
class Silence:
    """No answer: the provider waits until the client hangs up.

    Attributes:
        on_request: Called when the request has come.
    """

    on_request: Callable[[], None] = lambda: None


FAIR = "fair weather"
"""Stands for an answer, in a stream if the request asks for one."""

Line = Reply | Silence | str


class Provider(LoopbackServer):
    """One provider on a free port."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__()
        self.protocol: Protocol = protocol
        self._script: list[Line] = [FAIR]

    @property
    def url(self) -> str:
        """Base URL for a client of this protocol."""
        root = f"http://127.0.0.1:{self.port}"
        return f"{root}/v1" if self.protocol == "openai" else root

    def says(self, *script: Line) -> None:
        """Answer the next requests with these, one each, and all that follow with the last one."""
        self._script = list(script)

    def answer(self, connection: socket.socket, request: Request) -> None:
        """Send the next line of the script."""
        reply = self._next_line(request)
        if isinstance(reply, Silence):
            reply.on_request()
            connection.recv(1)  # until the client hangs up
            raise HungUpError
        connection.sendall(reply.on_the_wire())

    def _next_line(self, request: Request) -> Reply | Silence:
        with self._changed:
            line = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(line, str):
            return _fair(self.protocol, request.body)
        return line


# --- what they say ----------------------------------------------------------------------------


def refusal(
    protocol: Protocol,
    status: int,
    kind: str,
    message: str,
    *,
    code: str | None = None,
    **headers: str,
) -> Reply:
    """Return an error in the envelope of a protocol; ``_`` in the names of headers stands for ``-``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if protocol == "openai":
        return Reply(
            status,
            {"error": {"message": message, "type": kind, "param": None, "code": code}},
            named,
        )
    return Reply(
        status,
        {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"},
        named,
    )


def limited(protocol: Protocol, **headers: str) -> Reply:
    """Return a 429 as the two send it for too many requests."""
    if protocol == "openai":
        return refusal(
            protocol, 429, "requests", "Rate limit reached", code="rate_limit_exceeded", **headers
        )
    message = "This request would exceed your organization's rate limit of 50 requests per minute."
    return refusal(protocol, 429, "rate_limit_error", message, **headers)


def overloaded(protocol: Protocol, status: int = 529, **headers: str) -> Reply:
    """Return an overload: Anthropic sends it with 529, OpenAI mostly with 503."""
    code = "server_is_overloaded" if protocol == "openai" else None
    return refusal(protocol, status, "overloaded_error", "Overloaded", code=code, **headers)


def answer(
    protocol: Protocol, text: str, *, model: str = "some-model", stopped: str | None = None
) -> Reply:
    """Return a good answer."""
    if protocol == "anthropic":
        content = [{"type": "text", "text": text}] if text else []
        return Reply(
            200, {**_message(model), "content": content, "stop_reason": stopped or "end_turn"}
        )
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": stopped or "stop"}
    return Reply(
        200,
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [choice],
            "service_tier": "default",  # without which LiteLLM cannot read an answer of Groq's
        },
    )


def begun_stream(protocol: Protocol, text: str, *, model: str = "some-model") -> bytes:
    """Return the beginning of a streamed answer, as far as its first words."""
    if protocol == "openai":
        choice = {
            "index": 0,
            "delta": {"role": "assistant", "content": text},
            "finish_reason": None,
        }
        chunk = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": model,
        }
        return _event(None, {**chunk, "choices": [choice]})
    start = {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    }
    delta = {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": text},
    }
    return (
        _event(
            "message_start",
            {"type": "message_start", "message": {**_message(model), "content": []}},
        )
        + _event("content_block_start", start)
        + _event("content_block_delta", delta)
    )


def stream(*parts: bytes) -> Reply:
    """Return a 200 whose body is a stream of events."""
    return Reply(200, b"".join(parts), {"content-type": "text/event-stream"})


def error_event(protocol: Protocol, error: dict[str, Any]) -> bytes:
    """Return an error inside a stream."""
    if protocol == "openai":
        return _event(None, {"error": error})
    return _event("error", {"type": "error", "error": error})


def _fair(protocol: Protocol, request: dict[str, Any]) -> Reply:
    text = f"{protocol} says it depends."
    if not request.get("stream"):
        return answer(protocol, text, model=request["model"])
    end = (
        b"data: [DONE]\n\n"
        if protocol == "openai"
        else _event("message_stop", {"type": "message_stop"})
    )
    return stream(begun_stream(protocol, text, model=request["model"]), end)


def _message(model: str) -> dict[str, Any]:
    usage = {"input_tokens": 9, "output_tokens": 6}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _event(name: str | None, data: dict[str, Any]) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()
