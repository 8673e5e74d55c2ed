"""The providers of the demo: local HTTP servers for the OpenAI and Anthropic protocols.

Answers and error bodies have the shape of the real ones, so that the real client packages
raise their real errors. Imports nothing of the library. Owns its threads and sockets: after
`Server.stop` there are none.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

Protocol = Literal["openai", "anthropic"]
Answer = tuple[int, dict[str, str], dict[str, Any]]
"""Status, headers and body."""

WORDS: Final = "Every reader receives each word of this short answer exactly once.".split()
"""What every model streams, one word per event."""

_POLL: Final = 0.02
"""Seconds in which a server notices that it is to stop."""
_PER_WORD: Final = 0.01
"""Seconds between two words of a stream."""
_KEEP_ALIVE: Final = 0.05
"""Seconds between two signs of life of a stream that never starts."""
_BREAKS_AFTER: Final = 5
"""Words."""


class Condition(StrEnum):
    """How a provider behaves."""

    OK = "ok"
    REFUSED = "refused"
    """Connections are refused, open ones are cut."""
    OVERLOADED = "overloaded"
    """503, from Anthropic 529."""
    RATE_LIMITED = "rate limit"
    """429, with Retry-After if one was named."""
    LIMIT_USED_UP = "limit used up"
    """Answers, and reports in the headers that no request is left until ``retry_after`` is over."""
    DEAD_KEY = "dead key"
    """401."""
    BAD_REQUEST = "bad request"
    """400."""
    SILENT = "silent"
    """Accepts the request and does not answer while this lasts."""
    STALLED = "stalled"
    """Streams begin with signs of life, and nothing else comes while this lasts."""
    BREAKS_OFF = "breaks off"
    """Streams are cut in the middle."""


_PATHS: Final[dict[Protocol, str]] = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}

# {condition: (status, error type, code, message)}, as the two really answer.
_ERRORS: Final[dict[Protocol, dict[Condition, tuple[int, str, str | None, str]]]] = {
    "openai": {
        Condition.OVERLOADED: (
            503,
            "service_unavailable_error",
            "server_is_overloaded",
            "The engine is currently overloaded, please try again later.",
        ),
        Condition.RATE_LIMITED: (
            429,
            "requests",
            "rate_limit_exceeded",
            "Rate limit reached for requests",
        ),
        Condition.DEAD_KEY: (
            401,
            "invalid_request_error",
            "invalid_api_key",
            "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.",
        ),
        Condition.BAD_REQUEST: (
            400,
            "invalid_request_error",
            "unsupported_value",
            "Unsupported value: 'temperature' does not support 0.2 with this model. "
            "Only the default (1) value is supported.",
        ),
    },
    "anthropic": {
        Condition.OVERLOADED: (529, "overloaded_error", None, "Overloaded"),
        Condition.RATE_LIMITED: (
            429,
            "rate_limit_error",
            None,
            "This request would exceed your organization's rate limit of 50 requests per minute.",
        ),
        Condition.DEAD_KEY: (401, "authentication_error", None, "invalid x-api-key"),
        Condition.BAD_REQUEST: (
            400,
            "invalid_request_error",
            None,
            "`temperature` and `top_p` cannot both be specified for this model. "
            "Please use only one.",
        ),
    },
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request that arrived: lower-cased header names, decoded body."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class Server:
    """One provider on a free port of loopback.

    Started and stopped by ``with``. Any number of threads may send requests; one at a time
    may `switch` it.

    Attributes:
        protocol: What it speaks.
        port: Its port, the same from start to stop, also while it refuses connections.
        requests: The newest requests, oldest first.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        latency: tuple[float, float] = (0.0, 0.0),
        rng: random.Random | None = None,
    ) -> None:
        """Prepare a server that is not started yet.

        Args:
            protocol: What it speaks.
            latency: Shortest and longest time of an answer, in seconds.
            rng: Source of the random latencies and failures.
        """
        self.protocol: Protocol = protocol
        self.port = 0
        self.requests: deque[Request] = deque(maxlen=1000)
        self._latency = latency
        self._rng = rng or random.Random(0)
        self._condition = Condition.OK
        self._retry_after: float | None = None
        self._resets_at = datetime.now(UTC)
        self._share = 1.0
        self._switched = threading.Event()
        self._held: socket.socket | None = None
        self._http: _Http | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Base URL for a client of this protocol."""
        path = "/v1" if self.protocol == "openai" else ""
        return f"http://127.0.0.1:{self.port}{path}"

    def __enter__(self) -> Self:
        self._hold_port()
        self._listen()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Close every socket and end every thread."""
        self._hang_up()
        if self._held is not None:
            self._held.close()
            self._held = None

    def switch(
        self, condition: Condition, *, retry_after: float | None = None, share: float = 1.0
    ) -> None:
        """Change how the provider behaves, from the next request on.

        Args:
            condition: How it behaves.
            retry_after: Seconds to name in the header of an error, or until the limit is reset
                that is used up; None for no header.
            share: Share of the requests that this happens to; the others are answered.
        """
        before, self._switched = self._switched, threading.Event()
        self._condition, self._retry_after, self._share = condition, retry_after, share
        self._resets_at = datetime.now(UTC) + timedelta(seconds=retry_after or 0.0)
        before.set()
        if condition is Condition.REFUSED and self._http is not None:
            self._hang_up()
            self._hold_port()
        elif condition is not Condition.REFUSED and self._http is None:
            self._listen()

    def answer(self, request: Request) -> Answer | Iterator[bytes] | None:
        """Return the answer to a request now; None to close the connection without one.

        Returns:
            An answer; or the pieces of a stream, which is cut off where a piece is empty.
        """
        condition, switched = self._condition, self._switched
        self.requests.append(request)
        if condition is Condition.SILENT:
            switched.wait()
            return None
        time.sleep(self._rng.uniform(*self._latency))
        if request.path != _PATHS[self.protocol]:
            return self._error(404, "not_found_error", None, "Not found")
        error = _ERRORS[self.protocol].get(condition)
        if error is None or self._rng.random() >= self._share:
            if request.body.get("stream"):
                return self._stream(str(request.body.get("model")), condition, switched)
            headers = self._reported() if condition is Condition.LIMIT_USED_UP else {}
            return 200, headers, _reply(self.protocol, str(request.body.get("model")))
        return self._error(*error)

    def _reported(self) -> dict[str, str]:
        """Return the headers of an answer that took the last request, as Anthropic sends them."""
        start = "anthropic-ratelimit-requests-"
        reset = self._resets_at.isoformat(timespec="milliseconds")
        return {f"{start}limit": "1", f"{start}remaining": "0", f"{start}reset": reset}

    def _stream(
        self, model: str, condition: Condition, switched: threading.Event
    ) -> Iterator[bytes]:
        """Give the events of a stream, in the OpenAI protocol: the only one that is streamed."""
        yield _event(model, {"role": "assistant", "content": ""})
        if condition is Condition.STALLED:
            while not switched.wait(_KEEP_ALIVE):
                # Both reset what a client's own timeout counts, and neither is content.
                yield b": keep-alive\n\n" + _event(model, {"content": ""})
            yield b""
        for number, word in enumerate(WORDS):
            if condition is Condition.BREAKS_OFF and number == _BREAKS_AFTER:
                yield b""
            time.sleep(_PER_WORD)
            yield _event(model, {"content": f"{word} "})
        yield _event(model, {}, "stop")
        yield b"data: [DONE]\n\n"

    def _error(self, status: int, kind: str, code: str | None, message: str) -> Answer:
        headers = {} if self._retry_after is None else {"retry-after": f"{self._retry_after:g}"}
        if self.protocol == "openai":
            return (
                status,
                headers,
                {"error": {"message": message, "type": kind, "param": None, "code": code}},
            )
        return (
            status,
            headers,
            {
                "type": "error",
                "error": {"type": kind, "message": message},
                "request_id": "req_demo",
            },
        )

    def _hold_port(self) -> None:
        """Bind the port without listening, so that connections are refused and it stays ours."""
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", self.port))
        self.port = held.getsockname()[1]
        self._held = held

    def _listen(self) -> None:
        assert self._held is not None
        self._http = _Http(self, self._held)
        self._held = None
        self._thread = threading.Thread(
            target=self._http.serve_forever,
            args=(_POLL,),
            name=f"demo server {self.port}",
            daemon=True,
        )
        self._thread.start()

    def _hang_up(self) -> None:
        self._switched.set()
        if self._http is None or self._thread is None:
            return
        self._http.shutdown()
        self._thread.join()
        self._http.cut_connections()
        self._http.server_close()  # joins the threads of the connections
        self._http = self._thread = None


class _Http(ThreadingHTTPServer):
    daemon_threads = False  # only those that are no daemons are joined when it closes
    request_queue_size = 64

    def __init__(self, owner: Server, bound: socket.socket) -> None:
        super().__init__(("127.0.0.1", owner.port), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.owner = owner
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        self.server_activate()

    def process_request(self, request: Any, client_address: Any) -> None:
        # Here and not in the connection's own thread, which may begin after a cut and then stay.
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def closed(self, connection: socket.socket) -> None:
        with self._connections_lock:
            self._connections.discard(connection)

    def cut_connections(self) -> None:
        """End what is open, in the middle of whatever it is."""
        with self._connections_lock:
            for connection in self._connections:
                with suppress(OSError):  # the client was faster
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a client that disconnects or is cut off is part of the demo."""


class _Handler(BaseHTTPRequestHandler):
    server: _Http  # pyright: ignore[reportIncompatibleVariableOverride]  # always the one that made it
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one packet
    disable_nagle_algorithm = True

    def do_POST(self) -> None:  # the name that http.server looks for
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.owner.answer(Request(self.path, headers, body))
        if answer is None:
            self.close_connection = True
            return
        if not isinstance(answer, tuple):
            self._stream(answer)
            return
        status, extra, reply = answer
        payload = json.dumps(reply).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **extra}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _stream(self, pieces: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            if not piece:
                self.close_connection = True  # without the last chunk, so the client knows
                return
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def finish(self) -> None:
        self.server.closed(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name that http.server uses
        """Print nothing: the view shows what happens."""


def _event(model: str, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    """Return one event of a stream."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    chunk = {
        "id": "chatcmpl-demo",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
    }
    return f"data: {json.dumps(chunk)}\n\n".encode()


def _reply(protocol: Protocol, model: str) -> dict[str, Any]:
    text = "It depends."
    if protocol == "anthropic":
        return {
            "id": "msg_demo",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 9, "output_tokens": 6},
        }
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": "chatcmpl-demo",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15},
    }
