"""A provider on loopback whose streams go wrong the way a test asks for, and which counts what it is left with.

It speaks the streams of OpenAI (chat completions and responses), Anthropic (messages) and Google
(``streamGenerateContent``) over real sockets, to the real clients, and knows nothing of the library.
What happens is chosen by the first part of the path, so by the base URL that a client is given:
``server.url("openai", "reset-midway")``. The names are the keys of `SCENARIOS`.

Nothing waits for time to pass. A stream that stalls holds its connection until the test lets it go
on (`StreamServer.release`), the client hangs up or the server ends; one that fails after content
does so once the test said that the client has the content (`StreamServer.client_has`), as a reset
may overtake what was sent before it.
"""

from __future__ import annotations

import itertools
import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from tests.support.providers import limited, refusal
from tests.support.server import HungUpError, LoopbackServer, Request, reset

PATIENCE = 12.0
"""Seconds of real time after which a test stops waiting for the server; the server waits for twice as long."""

WHOLE = 5
"""Items with text in a stream that ends well."""

SENT = 3
"""Items with text before a stream goes wrong."""

THOUGHTS = 4
"""Pieces of reasoning before the first text."""

LONG = 100_000
"""Items with text in the long stream."""

MANY = 500
"""Items with text in one that is long enough for a client which takes its time over each."""

RETRY_AFTER = 7
"""Seconds that a rate limit asks for."""

_LOOK = 0.005
"""Seconds between two looks at whether a stalled stream may go on."""

_PING = 0.02
"""Seconds between two signs of life of a stream that has nothing to say."""


def words(count: int) -> list[str]:
    """Return the texts of a stream: ``["w0 ", "w1 ", ...]``."""
    return [f"w{number} " for number in range(count)]


# --- the dialects ------------------------------------------------------------------------------


class Dialect:
    """How one protocol says it, in whole events."""

    provider: ClassVar[str]

    def __init__(self, model: str) -> None:
        self.model = model

    def preamble(self) -> Iterator[bytes]:
        """Give what comes before the first word, without content."""
        raise NotImplementedError

    def text(self, text: str) -> bytes:
        raise NotImplementedError

    def reasoning(self, text: str) -> Iterator[bytes]:
        raise NotImplementedError

    def tool_call(self) -> Iterator[bytes]:
        raise NotImplementedError

    def signs_of_life(self) -> Iterator[bytes]:
        """Give what keeps a connection alive and says nothing: one round of it."""
        raise NotImplementedError

    def end(self, texts: list[str]) -> Iterator[bytes]:
        """Give the terminator of a stream that said these texts."""
        raise NotImplementedError

    def error(self) -> bytes:
        """Give an error event, as in the middle of an overload."""
        raise NotImplementedError

    def garbage(self) -> bytes:
        """Give an event that is not JSON."""
        return b'data: {"choices": [{"delta": {"content": "w\n\n'

    def refusal(self, status: int) -> tuple[dict[str, str], bytes]:
        """Return headers and body of an answer that is an error."""
        protocol = "openai" if self.provider == "openai" else "anthropic"
        if status == 429:
            reply = limited(protocol, retry_after=str(RETRY_AFTER))
        else:
            reply = refusal(
                protocol,
                status,
                "server_error" if protocol == "openai" else "api_error",
                "Internal error",
            )
        return reply.headers, json.dumps(reply.body).encode()


def _overloaded() -> bytes:
    """Return the error event of OpenAI's two dialects."""
    error = {"message": "Overloaded", "type": "server_error", "param": None, "code": None}
    return event(None, {"error": error})


class ChatCompletions(Dialect):
    """OpenAI's chat completions: a chunk with a role, deltas, a finish reason, ``[DONE]``."""

    provider = "openai"

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": self.model,
        }
        return event(None, {**chunk, "choices": [choice]})

    def preamble(self) -> Iterator[bytes]:
        yield self._chunk({"role": "assistant", "content": "", "refusal": None})

    def text(self, text: str) -> bytes:
        return self._chunk({"content": text})

    def reasoning(self, text: str) -> Iterator[bytes]:
        # As DeepSeek, vLLM and others who speak this protocol send it.
        yield self._chunk({"content": None, "reasoning_content": text})

    def tool_call(self) -> Iterator[bytes]:
        call = {
            "index": 0,
            "id": "call_1",
            "type": "function",
            "function": {"name": "look_up", "arguments": ""},
        }
        yield self._chunk({"tool_calls": [call]})
        yield self._chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]})

    def signs_of_life(self) -> Iterator[bytes]:
        yield b": keep-alive\n\n"
        yield self._chunk({"content": ""})

    def end(self, texts: list[str]) -> Iterator[bytes]:
        yield self._chunk({}, "stop")
        yield b"data: [DONE]\n\n"

    def error(self) -> bytes:
        return _overloaded()


class Responses(Dialect):
    """OpenAI's responses: named events from ``response.created`` to ``response.completed``."""

    provider = "openai"

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._numbers = itertools.count()
        self._message: int | None = None
        self._items: list[dict[str, Any]] = []

    def _event(self, kind: str, **fields: Any) -> bytes:
        return event(kind, {"type": kind, "sequence_number": next(self._numbers), **fields})

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "model": self.model,
            "status": status,
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }

    def preamble(self) -> Iterator[bytes]:
        yield self._event("response.created", response=self._response("in_progress", []))
        yield self._event("response.in_progress", response=self._response("in_progress", []))

    def _begin_message(self) -> Iterator[bytes]:
        self._message = len(self._items)
        item = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        self._items.append(item)
        part = {"type": "output_text", "text": "", "annotations": []}
        place = {"output_index": self._message}
        yield self._event("response.output_item.added", item=item, **place)
        yield self._event(
            "response.content_part.added", item_id="msg_1", content_index=0, part=part, **place
        )

    def text(self, text: str) -> bytes:
        before = b"".join(self._begin_message()) if self._message is None else b""
        place = {"item_id": "msg_1", "output_index": self._message, "content_index": 0}
        return before + self._event("response.output_text.delta", delta=text, logprobs=[], **place)

    def reasoning(self, text: str) -> Iterator[bytes]:
        item = {"id": "rs_1", "type": "reasoning", "summary": []}
        if not self._items:
            self._items.append(item)
            yield self._event("response.output_item.added", item=item, output_index=0)
        place = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
        yield self._event("response.reasoning_summary_text.delta", delta=text, **place)

    def tool_call(self) -> Iterator[bytes]:
        item = {
            "id": "fc_1",
            "type": "function_call",
            "call_id": "call_1",
            "name": "look_up",
            "arguments": "",
        }
        index = len(self._items)
        self._items.append({**item, "arguments": "{}"})
        yield self._event("response.output_item.added", item=item, output_index=index)
        yield self._event(
            "response.function_call_arguments.delta", delta="{}", item_id="fc_1", output_index=index
        )
        yield self._event("response.output_item.done", item=self._items[index], output_index=index)

    def signs_of_life(self) -> Iterator[bytes]:
        yield b": keep-alive\n\n"
        yield self._event("response.in_progress", response=self._response("in_progress", []))

    def end(self, texts: list[str]) -> Iterator[bytes]:
        if self._message is not None:
            whole = "".join(texts)
            part = {"type": "output_text", "text": whole, "annotations": []}
            item = {**self._items[self._message], "status": "completed", "content": [part]}
            self._items[self._message] = item
            place = {"output_index": self._message}
            inner = {"item_id": "msg_1", "content_index": 0, **place}
            yield self._event("response.output_text.done", text=whole, logprobs=[], **inner)
            yield self._event("response.content_part.done", part=part, **inner)
            yield self._event("response.output_item.done", item=item, **place)
        yield self._event("response.completed", response=self._response("completed", self._items))

    def error(self) -> bytes:
        return _overloaded()


class Messages(Dialect):
    """Anthropic's messages: blocks inside ``message_start`` and ``message_stop``."""

    provider = "anthropic"

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._index = 0
        self._open: str | None = None

    def _event(self, kind: str, **fields: Any) -> bytes:
        return event(kind, {"type": kind, **fields})

    def _block(self, kind: str, **empty: Any) -> bytes:
        """Begin a block of this kind unless it is the open one."""
        if self._open == kind:
            return b""
        before = self._close()
        self._open = kind
        block = {"type": kind, **empty}
        return before + self._event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        self._index += 1
        return self._event("content_block_stop", index=self._index - 1)

    def _delta(self, kind: str, **content: Any) -> bytes:
        return self._event(
            "content_block_delta", index=self._index, delta={"type": kind, **content}
        )

    def preamble(self) -> Iterator[bytes]:
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 9, "output_tokens": 1},
        }
        yield self._event("message_start", message=message)
        yield self._event("ping")

    def text(self, text: str) -> bytes:
        return self._block("text", text="") + self._delta("text_delta", text=text)

    def reasoning(self, text: str) -> Iterator[bytes]:
        yield self._block("thinking", thinking="", signature="")
        yield self._delta("thinking_delta", thinking=text)

    def tool_call(self) -> Iterator[bytes]:
        yield self._block("tool_use", id="toolu_1", name="look_up", input={})
        yield self._delta("input_json_delta", partial_json="{}")

    def signs_of_life(self) -> Iterator[bytes]:
        yield self._event("ping")
        yield self.text("")

    def end(self, texts: list[str]) -> Iterator[bytes]:
        yield self._close()
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        yield self._event("message_delta", delta=delta, usage={"output_tokens": len(texts)})
        yield self._event("message_stop")

    def error(self) -> bytes:
        return self._event("error", error={"type": "overloaded_error", "message": "Overloaded"})

    def garbage(self) -> bytes:
        return b'event: content_block_delta\ndata: {"type": "content_block_delta", "index\n\n'


class GenerateContent(Dialect):
    """Google's ``streamGenerateContent?alt=sse``: whole responses, the last with a finish reason."""

    provider = "google"

    def _response(self, *parts: dict[str, Any], **candidate: Any) -> bytes:
        said = {"content": {"role": "model", "parts": list(parts)}, "index": 0, **candidate}
        usage = {"promptTokenCount": 9, "totalTokenCount": 9}
        return event(
            None, {"candidates": [said], "usageMetadata": usage, "modelVersion": self.model}
        )

    def preamble(self) -> Iterator[bytes]:
        yield self._response({"text": ""})

    def text(self, text: str) -> bytes:
        return self._response({"text": text})

    def reasoning(self, text: str) -> Iterator[bytes]:
        yield self._response({"text": text, "thought": True})

    def tool_call(self) -> Iterator[bytes]:
        yield self._response({"functionCall": {"name": "look_up", "args": {}}})

    def signs_of_life(self) -> Iterator[bytes]:
        # No comments: google-genai takes a line without `data: ` for a piece of an error in JSON.
        yield self._response({"text": ""})

    def end(self, texts: list[str]) -> Iterator[bytes]:
        yield self._response({"text": ""}, finishReason="STOP")

    def error(self) -> bytes:
        return event(
            None,
            {
                "error": {
                    "code": 503,
                    "message": "The model is overloaded.",
                    "status": "UNAVAILABLE",
                }
            },
        )

    def refusal(self, status: int) -> tuple[dict[str, str], bytes]:
        name = {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL"}[status]
        headers = {"retry-after": str(RETRY_AFTER)} if status == 429 else {}
        return headers, json.dumps(
            {"error": {"code": status, "message": "Sorry.", "status": name}}
        ).encode()


def event(name: str | None, data: dict[str, Any]) -> bytes:
    """Return one server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def dialect(request: Request) -> Dialect:
    """Return the dialect that a path asks for."""
    path = request.path.partition("?")[0]
    if path.endswith("/chat/completions"):
        return ChatCompletions(request.model)
    if path.endswith("/responses"):
        return Responses(request.model)
    if path.endswith("/messages"):
        return Messages(request.model)
    if path.endswith(":streamGenerateContent"):
        return GenerateContent(request.model)
    raise ValueError(f"no stream is served at {request.path}")


# --- one answer --------------------------------------------------------------------------------


class Answer:
    """One answer on one connection, as a scenario tells it.

    Attributes:
        says: The dialect, made for the model asked for.
    """

    def __init__(self, server: StreamServer, connection: socket.socket, says: Dialect) -> None:
        self._server = server
        self._connection = connection
        self.says = says
        self.texts: list[str] = []
        self._had = server.received

    # What is sent.

    def begin(
        self, status: int = 200, content_type: str = "text/event-stream", **headers: str
    ) -> None:
        """Send the head of the answer."""
        named = {
            "content-type": content_type,
            "transfer-encoding": "chunked",
            "x-request-id": "req_1",
            "request-id": "req_1",
            **headers,
        }
        lines = [
            f"HTTP/1.1 {status} Status",
            *(f"{name}: {value}" for name, value in named.items()),
        ]
        self._connection.sendall("\r\n".join((*lines, "", "")).encode())

    def send(self, *events: bytes) -> None:
        """Send these, each in a chunk of its own."""
        for each in filter(None, events):
            self._connection.sendall(b"%x\r\n%b\r\n" % (len(each), each))

    def preamble(self) -> None:
        self.send(*self.says.preamble())

    def say(self, count: int) -> None:
        """Send the next so many items with text."""
        for _ in range(count):
            self.say_next()

    def say_next(self) -> None:
        self.texts.append(f"w{len(self.texts)} ")
        self.send(self.says.text(self.texts[-1]))

    def finish(self) -> None:
        """Send the rest of a whole answer and its terminator."""
        self.say(WHOLE - len(self.texts))
        self.send(*self.says.end(self.texts))

    def close(self) -> None:
        """End the answer as HTTP ends one; the connection may be used again."""
        self._connection.sendall(b"0\r\n\r\n")

    # How it goes wrong.

    def reset(self) -> None:
        """Close with a reset."""
        reset(self._connection)
        raise HungUpError

    def cut(self) -> None:
        """Close in good order, in the middle of the answer."""
        raise HungUpError

    # What it waits for.

    def until_it_has_them(self) -> None:
        """Wait until the client has all the text that this answer has sent."""
        wanted = self._had + len(self.texts)
        self._wait(lambda: self._server.received >= wanted or not self._server.waits_for_client)

    def until_step(self, number: int) -> None:
        """Wait until the test has asked for so many items."""
        self._wait(lambda: self._server.steps >= number)

    def stall(self, *, alive: bool) -> None:
        """Say nothing until the test lets it go on, with signs of life if asked for."""
        next_sign = time.monotonic()

        def may_go_on() -> bool:
            nonlocal next_sign
            if alive and time.monotonic() >= next_sign:
                self.send(*self.says.signs_of_life())
                self._server.signs += 1
                next_sign = time.monotonic() + _PING
            return self._server.is_released

        self._server.note_stall()
        self._wait(may_go_on)

    def _wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 2 * PATIENCE
        while not condition():
            if self._server.is_over:
                raise HungUpError
            if time.monotonic() > end:
                # Or a client that is never cut off would look like one that is, in the end.
                raise AssertionError("nobody let this answer go on, and the client did not hang up")
            readable, _, _ = select.select([self._connection], [], [], _LOOK)
            # Nothing is expected from a client that waits for an answer, but its end.
            if readable and not self._connection.recv(1):
                raise HungUpError


# --- the scenarios -----------------------------------------------------------------------------

Scenario = Callable[[Answer], None]


def _healthy(answer: Answer) -> None:
    answer.begin()
    answer.preamble()
    answer.finish()
    answer.close()


def _preamble(answer: Answer) -> None:
    answer.begin()
    answer.preamble()
    for _ in range(3):
        answer.send(*answer.says.signs_of_life())
    answer.finish()
    answer.close()


def _before(fault: Scenario) -> Scenario:
    """Return a scenario: the head and a preamble without content, then the fault."""

    def scenario(answer: Answer) -> None:
        answer.begin()
        answer.preamble()
        fault(answer)

    return scenario


def _midway(fault: Scenario) -> Scenario:
    """Return a scenario: some content, and once the client has it, the fault."""

    def scenario(answer: Answer) -> None:
        answer.begin()
        answer.preamble()
        answer.say(SENT)
        answer.until_it_has_them()
        fault(answer)

    return scenario


def _stall(*, alive: bool) -> Scenario:
    def fault(answer: Answer) -> None:
        answer.stall(alive=alive)
        answer.finish()
        answer.close()

    return fault


def _stall_headers(answer: Answer) -> None:
    answer.stall(alive=False)
    _healthy(answer)


def _noise(answer: Answer) -> None:
    for _ in range(3):
        answer.send(*answer.says.signs_of_life())
    answer.reset()


def _error_event(answer: Answer) -> None:
    answer.send(answer.says.error())
    answer.close()


def _garbage(answer: Answer) -> None:
    answer.send(answer.says.garbage())
    answer.close()


def _html(answer: Answer) -> None:
    answer.begin(content_type="text/html")
    answer.send(
        b"<html>\n<head><title>Sign in</title></head>\n<body>Welcome to this network</body>\n</html>\n"
    )
    answer.close()


def _drip(answer: Answer) -> None:
    answer.begin()
    answer.preamble()
    for number in range(WHOLE):
        answer.until_step(number + 1)
        answer.say_next()
    answer.finish()
    answer.close()


def _reasoning(answer: Answer) -> None:
    answer.begin()
    answer.preamble()
    answer.send(*answer.says.reasoning("Hm. "))
    for number in range(THOUGHTS - 1):
        answer.until_step(number + 1)
        answer.send(*answer.says.reasoning("Hm. "))
    answer.until_step(THOUGHTS)
    answer.finish()
    answer.close()


def _tool(answer: Answer) -> None:
    answer.begin()
    answer.preamble()
    answer.send(*answer.says.tool_call())
    answer.until_step(1)
    answer.finish()
    answer.close()


def _empty(answer: Answer) -> None:
    answer.begin()
    answer.preamble()
    answer.send(*answer.says.end([]))
    answer.close()


def _nothing(answer: Answer) -> None:
    answer.begin()
    if answer.says.provider == "openai":
        answer.send(b"data: [DONE]\n\n")
    answer.close()


def _long(count: int) -> Scenario:
    def scenario(answer: Answer) -> None:
        answer.begin()
        answer.preamble()
        answer.texts = words(count)
        for texts in (answer.texts[start : start + 500] for start in range(0, count, 500)):
            answer.send(b"".join(map(answer.says.text, texts)))
        answer.send(*answer.says.end(answer.texts))
        answer.close()

    return scenario


def _refused(status: int) -> Scenario:
    def scenario(answer: Answer) -> None:
        headers, body = answer.says.refusal(status)
        answer.begin(status, "application/json", **headers)
        answer.send(body)
        answer.close()

    return scenario


SCENARIOS: dict[str, Scenario] = {
    "healthy": _healthy,
    "preamble": _preamble,
    "stall-headers": _stall_headers,
    "stall-before": _before(_stall(alive=True)),
    "stall-midway": _midway(_stall(alive=True)),
    "silence-before": _before(_stall(alive=False)),
    "silence-midway": _midway(_stall(alive=False)),
    "drip": _drip,
    "noise-before": _before(_noise),
    "reset-headers": Answer.reset,
    "reset-before": _before(Answer.reset),
    "reset-midway": _midway(Answer.reset),
    "cut-before": _before(Answer.cut),
    "cut-midway": _midway(Answer.cut),
    "truncated-before": _before(Answer.close),
    "truncated-midway": _midway(Answer.close),
    "error-before": _before(_error_event),
    "error-midway": _midway(_error_event),
    "garbage-before": _before(_garbage),
    "garbage-midway": _midway(_garbage),
    "html": _html,
    "empty": _empty,
    "nothing": _nothing,
    "long": _long(LONG),
    "many": _long(MANY),
    "http-500": _refused(500),
    "http-429": _refused(429),
    "reasoning": _reasoning,
    "tool": _tool,
}


# --- the server --------------------------------------------------------------------------------


class StreamServer(LoopbackServer):
    """A provider on a free port whose answers are the scenarios.

    Attributes:
        received: How many items with text the client has, as the test says.
        waits_for_client: Whether a stream that fails after content waits for the client to have it; set it
            to False where the test does not see the items.
        steps: How many items a dripping stream may have sent.
        stalls: How many answers have come to the point where they stall.
        signs: How many rounds of signs of life were sent by those that stall.
        is_released: Whether stalled streams may go on.
    """

    patience = PATIENCE

    def __init__(self) -> None:
        super().__init__()
        self.received = 0
        self.waits_for_client = True
        self.steps = 0
        self.stalls = 0
        self.signs = 0
        self.is_released = False

    # What a test tells it.

    def url(self, provider: str, scenario: str) -> str:
        """Return the base URL at which a client of this provider meets a scenario."""
        if scenario not in SCENARIOS:
            raise ValueError(f"{scenario!r} is not one of {', '.join(SCENARIOS)}")
        root = f"http://127.0.0.1:{self.port}/{scenario}"
        return f"{root}/v1" if provider == "openai" else root

    def client_has(self, count: int = 1) -> None:
        """Say that the client has so many more items with text."""
        self.received += count

    def step(self, count: int = 1) -> None:
        """Let a dripping stream send so many more items."""
        self.steps += count

    def release(self) -> None:
        """Let all stalled streams go on, from now on."""
        self.is_released = True

    # What a test asks it.

    def asked(self, scenario: str) -> int:
        """Return how many requests met a scenario."""
        return sum(_scenario_of(request) == scenario for request in self.requests)

    def stalls_at(self, count: int) -> bool:
        """Wait until so many answers have come to their stall; return whether they have."""
        return self.wait(lambda: self.stalls >= count)

    def note_stall(self) -> None:
        """Count an answer that is about to stall."""
        with self._changed:
            self.stalls += 1
            self._changed.notify_all()

    # What it does.

    def answer(self, connection: socket.socket, request: Request) -> None:
        """Play the scenario that the path names."""
        SCENARIOS[_scenario_of(request)](Answer(self, connection, dialect(request)))


def _scenario_of(request: Request) -> str:
    return request.path.split("/")[1]
