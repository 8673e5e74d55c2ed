"""A server on loopback that answers as a model that follows its instructions to the letter.

It speaks OpenAI's chat completions. It calls the first tool unless it has the result of a tool
already, fills in every schema, and answers anything else with a sentence. `ModelServer.fails` makes
it refuse requests; what it was sent is in ``requests``.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from tests.support.server import HungUpError, LoopbackServer, Request

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


class ModelServer(LoopbackServer):
    """One provider.

    Attributes:
        says: What it answers if it is asked for neither a tool nor a schema.
        status: What it refuses every request with, or None.
        cuts: Whether it hangs up in the middle of a stream.
        arguments: What it calls tools with instead of what their schemas ask for, or None.
        text: What it answers for a schema, as it is, or None.
    """

    def __init__(self, says: str = "It scatters blue light most of all.") -> None:
        super().__init__()
        self.says = says
        self.status: int | None = None
        self.cuts = False
        self.arguments: dict[str, Any] | None = None
        self.text: str | None = None

    @property
    def url(self) -> str:
        """Base URL of its API."""
        return f"http://127.0.0.1:{self.port}/v1"

    def answer(self, connection: socket.socket, request: Request) -> None:
        """Answer as a model, and hang up: models of LangChain close no connection themselves."""
        self._send(connection, request.body)
        raise HungUpError

    def _send(self, connection: socket.socket, body: dict[str, Any]) -> None:
        if self.status is not None:
            error = {"message": "Overloaded", "type": "server_error", "code": None}
            connection.sendall(_response(self.status, {"error": error}))
            return
        message = self._message(body)
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": _finish(message)}
            connection.sendall(_response(200, {**_head(body), "choices": [choice], "usage": USAGE}))
            return
        connection.sendall(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        chunks = list(_chunks(body, message))
        for chunk in chunks[: len(chunks) // 2 if self.cuts else None]:
            data = f"data: {json.dumps(chunk)}\n\n"
            connection.sendall(f"{len(data):x}\r\n{data}\r\n".encode())
        if not self.cuts:
            connection.sendall(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def _message(self, body: dict[str, Any]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        last = body["messages"][-1]
        tools = body.get("tools") or []
        if tools and last["role"] != "tool":
            chosen = body.get("tool_choice")
            named = chosen["function"]["name"] if isinstance(chosen, dict) else None
            function = next(
                each["function"] for each in tools if named in (None, each["function"]["name"])
            )
            arguments = self.arguments
            if arguments is None:
                arguments = _filled(function.get("parameters") or {}, str(last["content"]))
            call = {"name": function["name"], "arguments": json.dumps(arguments)}
            message["tool_calls"] = [{"id": "call_1", "type": "function", "function": call}]
            return message
        wanted = body.get("response_format") or {}
        if wanted.get("type") == "json_schema":
            schema = wanted["json_schema"]["schema"]
            message["content"] = self.text or json.dumps(_filled(schema, str(last["content"])))
        elif wanted.get("type") == "json_object":
            names = re.findall(r"'(\w+)'", str(last["content"]))
            message["content"] = self.text or json.dumps(dict.fromkeys(names, "words"))
        else:
            message["content"] = self.says
        return message


def _filled(schema: dict[str, Any], prompt: str, root: dict[str, Any] | None = None) -> Any:
    """Return a value that fits a schema; numbers are those of the prompt."""
    root = schema if root is None else root
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return _filled(schema["anyOf"][0], prompt, root)
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties") or {}
        return {name: _filled(each, prompt, root) for name, each in properties.items()}
    if kind in ("integer", "number"):
        numbers = re.findall(r"\d+", prompt)
        return int(numbers[0]) if numbers else 1
    if kind == "array":
        return [_filled(schema.get("items") or {"type": "string"}, prompt, root)]
    return (schema.get("enum") or [prompt])[0]


def _head(body: dict[str, Any], kind: str = "chat.completion") -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": body["model"]}


def _finish(message: dict[str, Any]) -> str:
    return "tool_calls" if message.get("tool_calls") else "stop"


def _chunks(body: dict[str, Any], message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    head = _head(body, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    yield chunk({"role": "assistant", "content": ""})
    for index, call in enumerate(message.get("tool_calls") or []):
        text = call["function"]["arguments"]
        yield chunk(
            {
                "tool_calls": [
                    {
                        "index": index,
                        "id": call["id"],
                        "type": "function",
                        "function": {"name": call["function"]["name"], "arguments": ""},
                    }
                ]
            }
        )
        for part in (text[:5], text[5:]):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
    for word in re.findall(r"\S+\s*", message["content"] or ""):
        yield chunk({"content": word})
    yield chunk({}, _finish(message))
    if (body.get("stream_options") or {}).get("include_usage"):
        yield {**head, "choices": [], "usage": USAGE}


def _response(status: int, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return (
        f"HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\n"
        f"connection: close\r\ncontent-length: {len(content)}\r\n\r\n"
    ).encode() + content
