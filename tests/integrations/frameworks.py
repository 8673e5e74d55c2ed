"""What the tests of frameworks over a wrapped client have in common.

`TwoProviders` stands in for Groq and OpenAI in the code of a page. It calls tools and keeps to the
schema that a request asks for. `meets_scenarios` compares a framework with the decorator.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from resilient_llm.integrations import wrap
from tests.integrations.scenarios import (
    CHAIN,
    SCENARIOS,
    Outcome,
    Stage,
    aby_decorator,
    aplay,
    by_decorator,
    client_of,
    play,
)
from tests.support.chat_providers import GROQ, KEYS, provider_of
from tests.support.pages import ROOT, run, script
from tests.support.server import LoopbackServer, Request

LLAMA, MINI = "llama-3.3-70b-versatile", "gpt-5-mini"
"""The models of the pages, the first of the chain first."""


class City(BaseModel):
    """A city."""

    name: str
    population: int


PARIS = City(name="Paris", population=7)
"""What `TwoProviders` answers to a request with the schema of a city."""


class TwoProviders(LoopbackServer):
    """Groq and OpenAI on one port, which differ in the path.

    The text of an answer is ``"<model> answers"``. A request with tools gets a call of the first
    one, until it has the result of a tool. One with a JSON schema gets an object of that schema. One
    that asks for a field of DSPy gets that field.

    Args:
        *down: Providers that answer 503.

    Attributes:
        down: The same; a test may change it.
    """

    def __init__(self, *down: str) -> None:
        super().__init__()
        self.down = set(down)

    def url(self, provider: str) -> str:
        """Return the base URL of a provider, ``groq`` or ``openai``."""
        return f"http://127.0.0.1:{self.port}/{provider}/v1"

    @property
    def models(self) -> list[str]:
        """The models that it was asked for, in order."""
        return [request.model for request in self.requests]

    def answer(self, connection: socket.socket, request: Request) -> None:
        """Answer a chat completion, whole or as a stream."""
        if provider_of(request) in self.down:
            error = {"error": {"message": "try later", "type": "server_error"}}
            connection.sendall(_response("503 Down", "application/json", json.dumps(error)))
        elif request.body.get("stream"):
            lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in _chunks(request.body)]
            body = "".join([*lines, "data: [DONE]\n\n"])
            connection.sendall(_response("200 OK", "text/event-stream", body))
        else:
            whole = json.dumps(_whole(request.body))
            connection.sendall(_response("200 OK", "application/json", whole))


def _whole(body: dict[str, Any]) -> dict[str, Any]:
    message = _message(body)
    ended = "tool_calls" if message.get("tool_calls") else "stop"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ended}
    return {**_head(body, "chat.completion"), "choices": [choice], "usage": _USAGE}


def _chunks(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    message = _message(body)
    calls = message.get("tool_calls", [])
    yield _chunk(body, {"role": "assistant", "content": None if calls else ""})
    for call in calls:
        arguments = call["function"]["arguments"]
        first = {**call, "function": {**call["function"], "arguments": ""}}
        yield _chunk(body, {"tool_calls": [{"index": 0, **first}]})
        for part in _pieces(arguments):
            yield _chunk(body, {"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
    for part in _pieces(message["content"] or ""):
        yield _chunk(body, {"content": part})
    yield _chunk(body, {}, "tool_calls" if calls else "stop")
    if (body.get("stream_options") or {}).get("include_usage"):
        yield {**_head(body, "chat.completion.chunk"), "choices": [], "usage": _USAGE}


def _chunk(body: dict[str, Any], delta: dict[str, Any], ended: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": ended}
    return {**_head(body, "chat.completion.chunk"), "choices": [choice]}


def _pieces(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)


_USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}


def _head(body: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "1", "object": kind, "created": 1, "model": body["model"]}


def _message(body: dict[str, Any]) -> dict[str, Any]:
    plain = {"role": "assistant", "content": f"{body['model']} answers", "refusal": None}
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    if schema is not None:
        return {**plain, "content": json.dumps(_example(schema, schema))}
    field = _DSPY_FIELD.search(str(body["messages"][-1]["content"]))
    if field is not None:
        text = f"[[ ## {field[1]} ## ]]\n{plain['content']}\n\n[[ ## completed ## ]]"
        return {**plain, "content": text}
    tools = body.get("tools") or []
    if not tools or body["messages"][-1]["role"] == "tool":
        return plain
    function = tools[0]["function"]
    arguments = json.dumps(_example(function["parameters"], function["parameters"]))
    call = {"name": function["name"], "arguments": arguments}
    called = [{"id": "call_1", "type": "function", "function": call}]
    return {**plain, "content": None, "tool_calls": called}


_DSPY_FIELD = re.compile(r"starting with the field `\[\[ ## (\w+) ## \]\]`")
_SIMPLE = {"string": "Paris", "integer": 7, "number": 7.5, "boolean": True}


def _example(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """Return something of a JSON schema."""
    if "$ref" in schema:
        return _example(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], root)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "array":
        return [_example(schema["items"], root)]
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: _example(field, root) for name, field in fields.items()}
    return _SIMPLE[kind]


def _response(status: str, content_type: str, body: str) -> bytes:
    content = body.encode()
    head = f"content-type: {content_type}\r\ncontent-length: {len(content)}"
    return f"HTTP/1.1 {status}\r\n{head}\r\n\r\n".encode() + content


def client_for(server: TwoProviders, kind: str = "OpenAI", **options: Any) -> Any:
    """Return a wrapped client of both providers, with one attempt on each.

    Args:
        server: Answers for both.
        kind: ``OpenAI`` or ``AsyncOpenAI``.
        **options: Those of `wrap`.
    """
    import openai

    clients = {
        name: getattr(openai, kind)(base_url=server.url(name), api_key="not-a-key")
        for name in ("groq", "openai")
    }
    return wrap(clients, chain=[f"groq/{LLAMA}", f"openai/{MINI}"], **{"attempts": 1, **options})


# --- pages -------------------------------------------------------------------------------------


def run_page(
    name: str, server: TwoProviders, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the visible code of a page in docs/how-to, with a server in place of both providers.

    Args:
        name: The page, without its ending.
        server: Answers for Groq and OpenAI.
        folder: Where the code is written.
        **environment: Variables of the environment.
    """
    text = (ROOT / "docs" / "how-to" / f"{name}.md").read_text(encoding="utf-8")
    assert GROQ in text
    copy = folder / f"page_{name.replace('-', '_')}.py"
    copy.write_text(script(text.replace(GROQ, server.url("groq"))), encoding="utf-8")
    return run(
        copy,
        warnings="default",  # those of frameworks are not ours
        GROQ_API_KEY=KEYS["groq"],
        OPENAI_API_KEY=KEYS["openai"],
        OPENAI_BASE_URL=server.url("openai"),
        **environment,
    )


def the_page_runs(name: str, folder: Path, *down: str, **environment: str) -> TwoProviders:
    """Run a page and check that it ends well and gives each provider its own key.

    Returns:
        The server, for its requests.
    """
    with TwoProviders(*down) as server:
        done = run_page(name, server, folder, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    answering = MINI if "groq" in down else LLAMA
    assert f"{answering} answers" in done.stdout
    sent = {(provider_of(each), each.headers["authorization"]) for each in server.requests}
    assert sent <= {(provider, f"Bearer {key}") for provider, key in KEYS.items()}
    return server


def page_names_versions(name: str, folder: Path) -> None:
    """Check that a page names the versions in the requirements of its tests."""
    page = (ROOT / "docs" / "how-to" / f"{name}.md").read_text(encoding="utf-8")
    section = page.partition("## Tested versions")[2]
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").split()
    pinned = [line.split("==") for line in lines if "==" in line]
    assert pinned
    for package, version in pinned:
        assert f"{package} {version}" in section


# --- scenarios ---------------------------------------------------------------------------------


@contextmanager
def wrapped(here: Stage) -> Generator[Any]:
    """Give a wrapped sync client for a stage."""
    clients = {name: client_of(here, name) for name in here.urls}
    with wrap(clients, chain=CHAIN, **here.options) as client:
        yield client


@asynccontextmanager
async def awrapped(here: Stage) -> AsyncGenerator[Any]:
    """Give a wrapped async client for a stage."""
    clients = {name: client_of(here, name, "AsyncOpenAI") for name in here.urls}
    async with wrap(clients, chain=CHAIN, **here.options) as client:
        yield client


SCENARIO_NAMES = list(SCENARIOS)


def meets_scenario(name: str, call: Callable[[Stage], str]) -> None:
    """Check that a call emits the events of the decorator in a scenario."""
    _are_equal(play(name, by_decorator), play(name, call))


def ameets_scenario(name: str, call: Callable[[Stage], Awaitable[str]]) -> None:
    """Do the same for an asynchronous call."""
    _are_equal(aplay(name, aby_decorator), aplay(name, call))


def _are_equal(expected: Outcome, outcome: Outcome) -> None:
    assert outcome.events == expected.events, outcome.error
    assert outcome.requests == expected.requests
    assert outcome.text == expected.text, outcome.error
