"""An ASGI application behind a real uvicorn on a free port of loopback, and a plain client of it."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

HOST = "127.0.0.1"
PATIENCE = 40.0
"""Seconds of real time in which a server must start, and must end."""
TOKEN = "correct-horse-battery"


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class Client:
    """Sends what it is told, byte for byte, with the token unless another Authorization is given."""

    def __init__(self, port: int, root: str = "", token: str | None = TOKEN) -> None:
        self.port = port
        self.root = root
        self.token = token

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}{self.root}"

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        **query: str,
    ) -> Answer:
        """Send a request; a body that is no bytes goes as JSON."""
        given = dict(headers or {})
        content = body
        if body is not None and not isinstance(body, bytes):
            content = json.dumps(body).encode()
            given.setdefault("Content-Type", "application/json")
        if self.token is not None:
            given.setdefault("Authorization", f"Bearer {self.token}")
        target = f"{self.root}{path}" + (f"?{urlencode(query)}" if query else "")
        connection = http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE)
        try:
            connection.putrequest(method, target, skip_host="Host" in given)
            for name, value in given.items():
                if value:
                    connection.putheader(name, value)
            if content is not None and "Transfer-Encoding" not in given:
                connection.putheader("Content-Length", str(len(content)))
            connection.endheaders(content)
            answer = connection.getresponse()
            return Answer(
                answer.status,
                {name.lower(): value for name, value in answer.getheaders()},
                answer.read(),
            )
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str] | None = None, **query: str) -> Answer:
        return self.send("GET", path, None, headers, **query)

    def bench(self, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
        return self.send("POST", "/api/benches", fields, headers)

    def unbench(self, key: str, headers: dict[str, str] | None = None) -> Answer:
        return self.send("DELETE", "/api/benches", None, headers, model=key)

    @contextmanager
    def stream(self, last_id: str | None = None) -> Iterator[EventReader]:
        """Read the events of ``api/events``."""
        connection = socket.create_connection((HOST, self.port), timeout=PATIENCE)
        with connection:
            lines = [f"GET {self.root}/api/events HTTP/1.1", f"Host: {HOST}:{self.port}"]
            lines.append(f"Authorization: Bearer {self.token}")
            if last_id is not None:
                lines.append(f"Last-Event-ID: {last_id}")
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            reader = EventReader(connection)
            try:
                yield reader
            finally:
                reader.close()


@dataclass(frozen=True)
class Message:
    """One server-sent event; a comment has no type."""

    type: str
    id: str
    data: Any


class EventReader:
    """Reads server-sent events from a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        self.headers: dict[str, str] = {}
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()
        self._rest = b""

    def close(self) -> None:
        """Close its side of the connection."""
        self._file.close()

    def _line(self) -> str:
        """Return the next line of the body, without the frames of its chunks."""
        while b"\n" not in self._rest:
            size = int(self._file.readline(), 16)
            assert size, "the server ended the stream"
            self._rest += self._file.read(size)
            self._file.readline()
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def next(self) -> Message:
        """Return the next event, or the next comment."""
        fields: dict[str, str] = {}
        while (line := self._line()) != "":
            name, _, value = line.partition(": ")
            fields[name] = value
        data = json.loads(fields["data"]) if "data" in fields else None
        return Message(fields.get("event", ""), fields.get("id", ""), data)

    def until_greeted(self) -> list[Message]:
        """Return the events before the first comment, which says that these were all."""
        return list(iter(self.next, Message("", "", None)))


@contextmanager
def served(app: Any, **options: Any) -> Iterator[int]:
    """Serve an application in a thread; give the port. It has ended when the block ends."""
    import uvicorn

    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_config=None,
        log_level="critical",
        timeout_graceful_shutdown=1,
        **options,
    )
    server = Server(config)
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(1024)
        thread = threading.Thread(
            target=lambda: asyncio.run(server.serve([listener])), name="uvicorn", daemon=True
        )
        thread.start()
        try:
            assert started.wait(PATIENCE), "the server did not start"
            yield listener.getsockname()[1]
        finally:
            # A transport that is still about to close when its loop ends is never closed.
            until = time.monotonic() + PATIENCE
            while server.server_state.connections and time.monotonic() < until:
                time.sleep(0.005)
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive(), "the server did not end"


def mounted(app: Any, at: str = "/llm") -> Any:
    """Return a Starlette application that has this one mounted."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    return Starlette(routes=[Mount(at, app)])
