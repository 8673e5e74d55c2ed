"""A server on loopback: sockets, threads and requests. What it answers is the matter of a subclass.

It owns a port, a thread that accepts and a thread for every connection, from ``with`` to its end.
It knows HTTP as far as where a request ends, and no client.
"""

from __future__ import annotations

import functools
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Self

HOST = "127.0.0.1"

THREAD_NAME = "loopback-server"
"""Name of every thread of a server, for tests that count the threads of others."""

_TLS_HANDSHAKE = b"\x16"


class HungUpError(Exception):
    """One of the two sides ends the connection: nothing more is answered on it."""


@dataclass(frozen=True)
class Request:
    """One request that arrived.

    Attributes:
        path: With its query.
        headers: Values by name in small letters.
        content: The body as it came, without the frames of a chunked one.
    """

    path: str
    headers: dict[str, str]
    content: bytes

    @functools.cached_property
    def body(self) -> dict[str, Any]:
        """The body, decoded from JSON."""
        return json.loads(self.content)

    @property
    def model(self) -> str:
        """The model asked for; Google has it in the path."""
        return self.body.get("model") or self.path.rpartition("/")[2].partition(":")[0]


class LoopbackServer:
    """A server on a free port, with a thread for every connection, from ``with`` to its end.

    A mistake of the server itself must not look like a fault of a provider: it is raised when the
    ``with`` block ends.

    Args:
        backlog: How many connections may wait to be accepted.
        tls: What is needed to speak TLS, or None for plain text.

    Attributes:
        port: Where it listens.
        requests: Everything it was sent, oldest first.
        accepted: How many connections it has accepted.
    """

    patience: ClassVar[float] = 10.0
    """Seconds of real time after which a test stops waiting for the server."""

    def __init__(self, *, backlog: int = 128, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.accepted = 0
        self._tls = tls
        self._over = threading.Event()
        self._changed = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._answering = 0
        self._threads: list[threading.Thread] = []
        self._mistakes: list[BaseException] = []
        self._listener = socket.create_server((HOST, 0), backlog=backlog)
        self.port: int = self._listener.getsockname()[1]

    def answer(self, connection: socket.socket, request: Request) -> None:
        """Answer one request; the connection then waits for the next one.

        Raises:
            HungUpError: If the connection ends with this answer.
            OSError: If the client has gone.
        """
        raise NotImplementedError

    # What a test asks it.

    @property
    def is_over(self) -> bool:
        """Whether the server ends."""
        return self._over.is_set()

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def open_answers(self) -> int:
        """Answers that are not at their end while their client still holds the connection."""
        return self._answering

    def hears(self, count: int) -> bool:
        """Wait until so many requests have come; return whether they have."""
        return self.wait(lambda: len(self.requests) >= count)

    def is_quiet(self) -> bool:
        """Wait until no answer is under way; return whether it came to that."""
        return self.wait(lambda: not self._answering)

    def is_left_alone(self) -> bool:
        """Wait until every client has hung up; return whether they have."""
        return self.wait(lambda: not self._connections)

    def wait(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition is met that changes with a request; return whether it is."""
        with self._changed:
            return self._changed.wait_for(condition, self.patience)

    # Its life.

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._threads:  # one that never accepted has none
            socket.create_connection((HOST, self.port)).close()  # wakes the thread in accept()
            self._threads[0].join(self.patience)
        self._listener.close()
        with self._changed:
            for connection in self._connections:
                with suppress(OSError):  # the client was faster
                    # Not the method of a TLS socket: that one takes TLS from the thread which reads.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(self.patience)
        if self._mistakes:
            raise self._mistakes[0]

    def _start(self, function: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=function, args=args, daemon=True, name=THREAD_NAME)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self.is_over:
                connection.close()
                return
            try:
                self._begin(connection)
            except OSError:  # the client was gone before anything was read
                connection.close()

    def _begin(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            # The handshake comes with the first read, in a thread of its own.
            connection = self._tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        with self._changed:
            self.accepted += 1
            self._connections.add(connection)
        self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as stream:
                while (request := read_request(stream)) is not None:
                    self._answer(connection, request)
        except (HungUpError, OSError):
            pass  # one of the two has gone, as they do
        except BaseException as error:
            self._mistakes.append(error)
        finally:
            with self._changed:
                connection.close()
                self._connections.discard(connection)
                self._changed.notify_all()

    def _answer(self, connection: socket.socket, request: Request) -> None:
        with self._changed:
            self.requests.append(request)
            self._answering += 1
            self._changed.notify_all()
        try:
            self.answer(connection, request)
        finally:
            with self._changed:
                self._answering -= 1
                self._changed.notify_all()


def read_request(stream: BinaryIO) -> Request | None:
    """Read a request to its end, so that closing does not reset the connection.

    Returns:
        The request, or None if the connection was closed before it was whole, or if it is TLS.
    """
    first = stream.readline(65536)
    if not first or first.startswith(_TLS_HANDSHAKE):
        return None
    headers: dict[str, str] = {}
    while line := stream.readline():
        if not line.strip():
            break
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    else:
        return None
    content = _read_content(stream, headers)
    return (
        None
        if content is None
        else Request(first.decode("latin-1").split(" ")[1], headers, content)
    )


def _read_content(stream: BinaryIO, headers: dict[str, str]) -> bytes | None:
    """Return the body of a request; None if the connection was closed before its end."""
    if headers.get("transfer-encoding") != "chunked":
        length = int(headers.get("content-length", "0"))
        content = stream.read(length)
        return None if len(content) < length else content
    chunks: list[bytes] = []
    while line := stream.readline():
        size = int(line, 16)
        chunk = stream.read(size + 2)[:-2]
        if not size:
            return b"".join(chunks)
        chunks.append(chunk)
    return None


def unused_port() -> int:
    """Return a port where nobody listens."""
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]


def reset(connection: socket.socket) -> None:
    """Close so that the other side sees the connection reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
