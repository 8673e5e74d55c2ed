"""The providers of `whole_calls.py`: a loopback HTTP server that answers at once and counts.

Prints ``{"port": ..., "refused_port": ...}`` and serves until its standard input ends.

    /healthy/v1/...  and  /second/v1/...    a fixed completion
    /dead/v1/...                            503, except to the prompt `cases.ALIVE`
    /counts                                 ``{provider: requests}``, the ones to `ALIVE` apart

Nobody listens at the refused port; the socket that is bound to it keeps it so.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections import Counter

from cases import ALIVE, completion_of

ALIVE_BYTES = ALIVE.encode()


def response(status: str, body: bytes) -> bytes:
    """Return a whole HTTP response."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


OVERLOADED = json.dumps(
    {
        "error": {
            "message": "The server is overloaded.",
            "type": "server_error",
            "param": None,
            "code": None,
        }
    }
).encode()
DEAD = response("503 Service Unavailable", OVERLOADED)
COMPLETIONS = {
    name: response("200 OK", completion_of(name)) for name in ("healthy", "dead", "second")
}
NOT_FOUND = response("404 Not Found", b"{}")

counts: Counter[str] = Counter()


def answer(path: bytes, body: bytes) -> bytes:
    """Count a request and return its response."""
    provider, _, rest = path.decode().strip("/").partition("/")
    if provider == "counts":
        return response("200 OK", json.dumps(counts).encode())
    if provider not in COMPLETIONS or rest != "v1/chat/completions":
        counts[f"unexpected {path.decode()}"] += 1
        return NOT_FOUND
    if ALIVE_BYTES in body:
        counts["alive"] += 1
        return COMPLETIONS[provider]
    counts[provider] += 1
    return DEAD if provider == "dead" else COMPLETIONS[provider]


class Connection(asyncio.Protocol):
    """One connection that is kept alive; requests come one after the other and have a length."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head, length = self.received[:end], 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            whole = end + 4 + length
            if len(self.received) < whole:
                return
            body, self.received = self.received[end + 4 : whole], self.received[whole:]
            self.transport.write(answer(head.split(b" ", 2)[1], body))


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        places = {
            "port": server.sockets[0].getsockname()[1],
            "refused_port": bound.getsockname()[1],
        }
        print(json.dumps(places), flush=True)
        await asyncio.to_thread(sys.stdin.read)
    # Connections which a contender keeps open are of no interest any more.
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
