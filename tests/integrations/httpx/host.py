"""A host on loopback whose paths answer in the ways in which HTTP goes right and wrong."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from typing import Any

from tests.support.server import HungUpError, LoopbackServer, Request, reset

CHUNK = b"data: one\n\n"


class Host(LoopbackServer):
    """Answers by the path.

    Attributes:
        has_first: Set by a test when its client has the first part of a body.
        begun: Set when an answer that never ends has come as far as it comes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.has_first = threading.Event()
        self.begun = threading.Event()
        self.replies: dict[str, bytes] = {}

    @property
    def key(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str = "ok") -> str:
        return f"http://{self.key}/{path}"

    def asked(self, path: str) -> int:
        return sum(request.path == f"/{path}" for request in self.requests)

    def replies_with(
        self, path: str, status: int, body: Any = b"", headers: dict[str, str] | None = None
    ) -> str:
        """Answer a path with this, and return its URL."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        if headers and headers.get("content-encoding") == "gzip":
            content = gzip.compress(content)
        lines = [f"{name}: {value}" for name, value in (headers or {}).items()]
        head = "\r\n".join([f"HTTP/1.1 {status} X", f"content-length: {len(content)}", *lines])
        self.replies[f"/{path}"] = f"{head}\r\n\r\n".encode() + content
        return self.url(path)

    def answer(self, connection: socket.socket, request: Request) -> None:
        """Answer as the path says; a number is a status."""
        path = request.path
        if path in self.replies:
            connection.sendall(self.replies[path])
        elif path[1:].isdigit():
            connection.sendall(f"HTTP/1.1 {path[1:]} X\r\ncontent-length: 2\r\n\r\nno".encode())
        else:
            getattr(self, path[1:].replace("-", "_"))(connection)

    def ok(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwell")

    def stream(self, connection: socket.socket) -> None:
        """A whole stream in two parts."""
        self._begin_stream(connection)
        connection.sendall(_chunk(CHUNK) + b"0\r\n\r\n")

    def refuses(self, connection: socket.socket) -> None:
        raise HungUpError

    def resets(self, connection: socket.socket) -> None:
        reset(connection)
        raise HungUpError

    def silent(self, connection: socket.socket) -> None:
        """No answer until the client hangs up."""
        self.begun.set()
        connection.recv(1)
        raise HungUpError

    def cut(self, connection: socket.socket) -> None:
        """A stream of events that ends without its end, after the client has its first."""
        self._begin_stream(connection)
        self.has_first.wait(self.patience)
        raise HungUpError

    def cut_short(self, connection: socket.socket) -> None:
        """Fewer bytes than the length that was named."""
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n" + CHUNK)
        raise HungUpError

    def stalls(self, connection: socket.socket) -> None:
        """A stream that falls silent until the client hangs up."""
        self._begin_stream(connection)
        self.begun.set()
        connection.recv(1)
        raise HungUpError

    def stalls_503(self, connection: socket.socket) -> None:
        """A refusal whose body never ends."""
        connection.sendall(b"HTTP/1.1 503 X\r\ncontent-length: 400\r\n\r\n" + CHUNK)
        self.begun.set()
        connection.recv(1)
        raise HungUpError

    def moved(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 302 X\r\nlocation: /ok\r\ncontent-length: 0\r\n\r\n")

    def _begin_stream(self, connection: socket.socket) -> None:
        connection.sendall(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n" + _chunk(CHUNK)
        )


def _chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"
