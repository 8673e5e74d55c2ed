"""Two providers of chat completions on loopback, for the README and the tutorial."""

from __future__ import annotations

import json
import socket
from collections.abc import Collection

from tests.support.server import LoopbackServer, Request

KEYS = {"groq": "gsk-of-groq", "openai": "sk-of-openai"}
GROQ = "https://api.groq.com/openai/v1"
"""The address that a page shows, in whose place a test puts that of a server."""


class Providers(LoopbackServer):
    """Groq and OpenAI on one port, which differ in the path; connections are kept alive.

    Args:
        *down: Providers that answer 503.
        refusing: Providers that refuse the key.
    """

    def __init__(self, *down: str, refusing: Collection[str] = ()) -> None:
        super().__init__()
        self.down = down
        self.refusing = refusing

    def url(self, provider: str) -> str:
        return f"http://127.0.0.1:{self.port}/{provider}/v1"

    def answer(self, connection: socket.socket, request: Request) -> None:
        """Answer a chat completion: whole, or as a stream."""
        if provider_of(request) in self.refusing:
            error = {"error": {"message": "no", "type": "t", "code": "invalid_api_key"}}
            connection.sendall(_response("401 No", "application/json", json.dumps(error)))
        elif provider_of(request) in self.down:
            error = {"error": {"message": "try later", "type": "server_error"}}
            connection.sendall(_response("503 Down", "application/json", json.dumps(error)))
        elif request.body.get("stream"):
            events = [f"data: {json.dumps(chunk)}\n\n" for chunk in _chunks(request.model)]
            connection.sendall(
                _response("200 OK", "text/event-stream", "".join(events) + "data: [DONE]\n\n")
            )
        else:
            message = {"role": "assistant", "content": f"{request.model} answers"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            whole = {**_base(request.model), "object": "chat.completion", "choices": [choice]}
            connection.sendall(_response("200 OK", "application/json", json.dumps(whole)))


def provider_of(request: Request) -> str:
    return request.path.split("/")[1]


def _base(model: str) -> dict[str, object]:
    return {"id": "1", "created": 0, "model": model}


def _chunks(model: str) -> list[dict[str, object]]:
    """Return a stream as Azure sends it with ``include_usage``: the ends have no choices."""
    deltas = [{"role": "assistant", "content": ""}, {"content": f"{model} streams"}, {}]
    choices = [
        [{"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}]
        for delta in deltas
    ]
    base = {**_base(model), "object": "chat.completion.chunk"}
    return [{**base, "choices": each} for each in ([], *choices, [])]


def _response(status: str, content_type: str, body: str) -> bytes:
    content = body.encode()
    head = f"content-type: {content_type}\r\ncontent-length: {len(content)}"
    return f"HTTP/1.1 {status}\r\n{head}\r\n\r\n".encode() + content
