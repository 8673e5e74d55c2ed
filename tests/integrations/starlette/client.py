"""A client on a raw socket, which reads events one at a time and can hang up at any of them."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

from tests.support.asgi import HOST, PATIENCE


class Conversation:
    """One request, and what comes back.

    Attributes:
        status: Of the answer.
        headers: Values by name in small letters.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")
        self.status = 0
        self.headers: dict[str, str] = {}
        self._rest = b""

    def read_head(self) -> None:
        """Read the status and the headers."""
        self.status = int(self._file.readline().split()[1])
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()

    def event(self) -> str | None:
        """Return the next event without the blank line behind it, None at the end."""
        while b"\n\n" not in self._rest:
            size = int(self._file.readline(), 16)
            if not size:
                return None
            self._rest += self._file.read(size)
            self._file.readline()
        event, _, self._rest = self._rest.partition(b"\n\n")
        return event.decode()

    def events(self) -> list[str]:
        """Return the events until the end."""
        return list(iter(self.event, None))  # type: ignore[arg-type]

    def body(self) -> Any:
        """Return an answer with a length, as JSON."""
        return json.loads(self._file.read(int(self.headers["content-length"])))

    def hang_up(self) -> None:
        """Close the connection."""
        self._file.close()
        self._connection.close()


@contextmanager
def asked(port: int, path: str = "/", *, body: Any = None) -> Iterator[Conversation]:
    """Send a request; a POST with a JSON body if there is one."""
    content = b"" if body is None else json.dumps(body).encode()
    method = "GET" if body is None else "POST"
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    connection = socket.create_connection((HOST, port), timeout=PATIENCE)
    conversation = Conversation(connection)
    try:
        connection.sendall(head.encode() + content)
        yield conversation
    finally:
        conversation.hang_up()


def answer(port: int, path: str = "/", *, body: Any = None) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and JSON of an answer."""
    with asked(port, path, body=body) as conversation:
        conversation.read_head()
        return conversation.status, conversation.headers, conversation.body()


def closes(client: Any) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """Return the lifespan of an application that closes an asynchronous SDK client at its end."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        await client.close()

    return lifespan
