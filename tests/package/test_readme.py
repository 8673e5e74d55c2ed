"""The README's code as one script, with the real clients against a server on loopback."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.support.pages import README, run, script
from tests.support.server import LoopbackServer, Request

pytest.importorskip("openai")
pytest.importorskip("starlette")

KEYS = {"groq": "gsk-of-groq", "openai": "sk-of-openai"}
GROQ = "https://api.groq.com/openai/v1"


class Providers(LoopbackServer):
    """Groq and OpenAI on one port, told apart by the path; connections are kept alive.

    Args:
        down: Providers that answer 503.
    """

    def __init__(self, *down: str) -> None:
        super().__init__()
        self.down = down

    def url(self, provider: str) -> str:
        return f"http://127.0.0.1:{self.port}/{provider}/v1"

    def answer(self, connection: socket.socket, request: Request) -> None:
        """Answer a chat completion: whole, or as a stream."""
        if provider_of(request) in self.down:
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


@pytest.mark.parametrize(
    ("down", "answering"),
    [((), "llama-3.3-70b-versatile"), (("groq",), "gpt-5-mini")],
    ids=["all up", "groq down"],
)
def test_the_code_runs_as_one_script(down: tuple[str, ...], answering: str, tmp_path: Path) -> None:
    """All blocks run in one process, and each provider is sent its own key and no other."""
    copy = tmp_path / "readme.py"
    with Providers(*down) as server:
        text = README.read_text(encoding="utf-8")
        assert GROQ in text
        copy.write_text(script(text.replace(GROQ, server.url("groq"))), encoding="utf-8")

        done = run(
            copy,
            GROQ_API_KEY=KEYS["groq"],
            OPENAI_API_KEY=KEYS["openai"],
            ADMIN_TOKEN="a-token-of-the-admin-page",
            OPENAI_BASE_URL=server.url("openai"),
        )

    assert 0 == done.returncode, done.stdout + done.stderr
    assert f"{answering} answers" in done.stdout
    assert f"{answering} streams" in done.stdout
    assert {(provider, f"Bearer {key}") for provider, key in KEYS.items()} == {
        (provider_of(request), request.headers["authorization"]) for request in server.requests
    }
