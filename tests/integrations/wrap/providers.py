"""A provider on loopback that speaks every protocol of `wrap`, whole answers and streams.

Its base URL is ``root`` for Anthropic, Google and Mistral, ``root + "/v1"`` for OpenAI and Groq.
It answers the first requests with errors if it is told to.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from tests.support.providers import Reply
from tests.support.server import HungUpError, Request
from tests.support.stream_server import Answer, StreamServer, dialect

TEXT = "w0 w1 w2 w3 w4 "
"""The text of every answer, and of every stream."""


class AnyProvider(StreamServer):
    """A provider that is well, but for the requests that it was told to refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.waits_for_client = False
        self._failures: list[int] = []
        self.is_silent = False
        self.holds = False
        """Whether answers wait until the test releases them."""

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fails(self, *statuses: int) -> None:
        """Answer the next requests with these statuses."""
        self._failures = list(statuses)

    @property
    def models(self) -> list[str]:
        """The models that it was asked for, in order."""
        return [request.model for request in self.requests]

    def answer(self, connection: socket.socket, request: Request) -> None:
        """Refuse, stream, or answer whole."""
        if self.is_silent:
            connection.recv(1)  # until the client hangs up
            raise HungUpError
        if self.holds:
            Answer(self, connection, dialect(Request("/chat/completions", {}, b"{}"))).stall(
                alive=False
            )
        with self._changed:
            status = self._failures.pop(0) if self._failures else None
        if status is not None:
            error = {"type": "error", "message": "no", "code": None, "status": "X"}
            body = {"error": error, "type": "error", "message": "no"}
            connection.sendall(Reply(status, body).on_the_wire())
        elif _asks_for_stream(request):
            path = request.path.replace("#stream", "").split("?")[0]
            answer = Answer(self, connection, dialect(Request(path, {}, request.content)))
            answer.begin()
            answer.preamble()
            answer.finish()
            answer.close()
        else:
            connection.sendall(Reply(200, _whole(request)).on_the_wire())


def _asks_for_stream(request: Request) -> bool:
    return ":streamGenerateContent" in request.path or bool(request.body.get("stream"))


def _whole(request: Request) -> dict[str, Any]:
    path = request.path.split("?")[0]
    for ending, body in _WHOLE.items():
        if path.endswith(ending):
            return body(request.model)
    raise ValueError(f"nothing is served at {path}")


def _chat(model: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    head = {"id": "1", "object": "chat.completion", "created": 1, "model": model}
    return {**head, "choices": [choice], "usage": usage}


def _completion(model: str) -> dict[str, Any]:
    choice = {"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}
    return {
        "id": "1",
        "object": "text_completion",
        "created": 1,
        "model": model,
        "choices": [choice],
    }


def _response(model: str) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "output_text", "text": TEXT, "annotations": []}
    item: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": model,
        "status": "completed",
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def _message(model: str) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 5},
    }


def _content(model: str) -> dict[str, Any]:
    content = {"role": "model", "parts": [{"text": TEXT}]}
    return {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "modelVersion": model,
    }


def _embedding(model: str) -> dict[str, Any]:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return {"id": "1", "object": "list", "model": model, "data": data, "usage": usage}


def _embeddings_of_google(model: str) -> dict[str, Any]:
    return {"embeddings": [{"values": [0.5, 0.25]}], "embedding": {"values": [0.5, 0.25]}}


_WHOLE: dict[str, Callable[[str], dict[str, Any]]] = {
    "/chat/completions": _chat,
    "/completions": _completion,
    "/responses": _response,
    "/messages": _message,
    ":generateContent": _content,
    "/embeddings": _embedding,
    ":batchEmbedContents": _embeddings_of_google,
    ":embedContent": _embeddings_of_google,
}
"""``{end of a path: the body, given the model}``; the first that fits."""
