"""A server on loopback that plays one wire: an answer, a stream, a websocket, or a way to break.

Plain sockets and threads, since a reset at a certain byte, half a body or a stalled stream is
exactly what an HTTP server does not let one do. Knows no client.
"""

from __future__ import annotations

import base64
import hashlib
import http
import json
import re
import socket
import ssl
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any, Self

from tests.support.server import HOST, HungUpError, LoopbackServer, Request, reset

# RFC 6761 keeps this name from ever being one.
NO_SUCH_HOST = "no-such-provider.invalid"

# fault: (how far the answer gets, how it ends)
_CUT_OFF = {
    "reset": ("nothing", "reset"),
    "close": ("nothing", "close"),
    "timeout": ("nothing", "stall"),
    "reset_mid_body": ("half", "reset"),
    "short_body": ("half", "close"),
    "slow_body": ("half", "stall"),
    "reset_mid_stream": ("stream", "reset"),
    "close_mid_stream": ("stream", "close"),
    "stall_mid_stream": ("stream", "stall"),
}
# After these the client waits until its patience ends.
STALLS = frozenset(
    ("connect_timeout", *(fault for fault, (_, end) in _CUT_OFF.items() if end == "stall"))
)

# What clients have to read before the connection breaks under them.
_TIME_TO_READ = 0.05
# More than the patience of any client, in seconds.
_LONGEST_STALL = 20
_MISSING_BYTES = 512
_NOT_HTTP = b"SSH-2.0-OpenSSH_9.6\r\n\x00\x00\x01\x14\x06\x14"
# Frames of a websocket, and what proves that a server knows the protocol.
_TEXT, _CLOSE = 1, 8
_WEBSOCKET = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PLACEHOLDER = re.compile(r"\{\{(\w+):\+([\d.]+)\}\}")


def fill_in(text: str) -> str:
    """Return the text with each ``{{form:+seconds}}`` replaced by the time so many seconds from now."""

    def moment(match: re.Match[str]) -> str:
        form, at = match[1], time.time() + float(match[2])
        if form == "http_date":
            return formatdate(at, usegmt=True)
        if form == "rfc3339":
            return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return str(round(at * {"epoch_s": 1, "epoch_ms": 1000}[form]))

    return _PLACEHOLDER.sub(moment, text)


def _body_of(wire: Mapping[str, Any]) -> bytes:
    """Return the bytes of the body: a text as it is, anything else as JSON."""
    body = wire.get("body")
    if body is None:
        return b""
    return fill_in(body if isinstance(body, str) else json.dumps(body)).encode()


def _headers_of(wire: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers, with names in small letters and a content type."""
    headers = {name.lower(): fill_in(str(value)) for name, value in wire.get("headers", {}).items()}
    if "events" in wire:
        usual = "application/vnd.amazon.eventstream"
    elif "chunks" in wire:
        usual = "text/event-stream"
    else:
        usual = "text/plain" if isinstance(wire.get("body", ""), str) else "application/json"
    return {"content-type": usual, **headers}


def _reason_phrase(status: int) -> str:
    """Return the words that go with a status; providers invent statuses that have none."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Status"


class Server(LoopbackServer):
    """Plays ``wire`` to every request, each on a connection of its own.

    Args:
        wire: What a case says of it, see ``tests/corpus/README.md``; HTTP or a websocket.
        tls: Whether it speaks TLS, with a certificate that nobody trusts.
        before: ``{part of a path: JSON answered to such a path}``, for clients that ask around first.
        on_request: Called when a request has come, before it is answered.
    """

    def __init__(
        self,
        wire: Mapping[str, Any],
        *,
        tls: bool = False,
        before: Mapping[str, Any] | None = None,
        on_request: Callable[[], None] | None = None,
    ) -> None:
        fault = wire.get("fault")
        super().__init__(
            backlog=0 if fault == "connect_timeout" else 64,
            tls=_untrusted_context() if tls or fault == "self_signed" else None,
        )
        self._wire = wire
        self._fault = fault
        self._before = {} if before is None else before  # filled in later by some
        self._on_request = on_request
        self._crowd: list[socket.socket] = []

    @property
    def url(self) -> str:
        if self._fault == "dns":
            return f"http://{NO_SUCH_HOST}"
        # The fault "tls" is a client that speaks TLS where nobody else does.
        scheme = "https" if self._tls or self._fault == "tls" else "http"
        return f"{scheme}://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        if self._fault == "refused":
            self._listener.close()
        elif self._fault == "connect_timeout":
            self._crowd = list(_crowd(self.port))
        else:
            super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for waiting in self._crowd:
            waiting.close()

    def answer(self, connection: socket.socket, request: Request) -> None:
        """Play the wire, and end the connection."""
        for part, answer in self._before.items():
            if part in request.path:
                _send_whole(connection, {"status": 200, "body": answer})
                raise HungUpError
        if self._on_request:
            self._on_request()
        self._play(connection, request.headers)
        raise HungUpError

    def _play(self, peer: socket.socket, headers: Mapping[str, str]) -> None:
        if self._fault == "garbage":
            peer.sendall(_NOT_HTTP)
            return
        reached, end = _CUT_OFF.get(
            self._fault or "", ("stream" if self._is_stream else "all", "close")
        )
        if reached == "stream" and self._is_websocket:
            self._talk(peer, headers["sec-websocket-key"], complete=self._fault is None)
        elif reached == "stream":
            self._stream(peer, complete=self._fault is None)
        elif reached != "nothing":
            gzip = {"content-encoding": "gzip"} if self._fault == "bad_gzip" else {}
            _send_whole(
                peer,
                self._wire,
                extra_headers=gzip,
                missing=_MISSING_BYTES if reached == "half" else 0,
            )
        if end == "stall":
            self._over.wait(_LONGEST_STALL)
        elif end == "reset":
            if reached != "nothing":
                time.sleep(_TIME_TO_READ)
            reset(peer)

    @property
    def _is_stream(self) -> bool:
        return "chunks" in self._wire or "events" in self._wire or self._is_websocket

    @property
    def _is_websocket(self) -> bool:
        """Whether it accepts one; a status is the answer to a handshake that it refuses."""
        return self._wire.get("protocol") == "ws" and "status" not in self._wire

    def _stream(self, peer: socket.socket, *, complete: bool) -> None:
        headers = {**_headers_of(self._wire), "transfer-encoding": "chunked"}
        peer.sendall(_head(self._wire.get("status", 200), headers))
        pieces = [fill_in(chunk).encode() for chunk in self._wire.get("chunks", ())]
        pieces += [
            _aws_message(event["headers"], event["payload"])
            for event in self._wire.get("events", ())
        ]
        for piece in filter(None, pieces):
            peer.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        if complete:
            peer.sendall(b"0\r\n\r\n")

    def _talk(self, peer: socket.socket, key: str, *, complete: bool) -> None:
        """Speak as the server of a websocket: RFC 6455, sections 4.2.2 and 5.2."""
        proof = base64.b64encode(
            hashlib.sha1(f"{key}{_WEBSOCKET}".encode(), usedforsecurity=False).digest()
        )
        answer = {
            "connection": "Upgrade",
            "upgrade": "websocket",
            "sec-websocket-accept": proof.decode(),
        }
        peer.sendall(_head(101, answer))
        for chunk in self._wire.get("chunks", ()):
            peer.sendall(_websocket_frame(_TEXT, fill_in(chunk).encode()))
        if complete:
            why = (
                struct.pack("!H", self._wire["ws_code"]) + self._wire.get("ws_reason", "").encode()
            )
            peer.sendall(_websocket_frame(_CLOSE, why))
            peer.recv(4096)  # the other side closes, too


def _crowd(port: int) -> Iterator[socket.socket]:
    """Fill the queue of a listener that never accepts, until one more gets no answer."""
    while True:
        waiting = socket.socket()
        waiting.settimeout(0.05)
        try:
            waiting.connect((HOST, port))
        except TimeoutError:
            waiting.close()
            return
        yield waiting


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_reason_phrase(status)}"]
    lines += [f"{name}: {value}" for name, value in {"connection": "close", **headers}.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _send_whole(
    peer: socket.socket,
    wire: Mapping[str, Any],
    *,
    extra_headers: Mapping[str, str] | None = None,
    missing: int = 0,
) -> None:
    body = _body_of(wire)
    headers = {
        **_headers_of(wire),
        "content-length": str(len(body) + missing),
        **(extra_headers or {}),
    }
    peer.sendall(_head(wire.get("status", 200), headers) + body)


def _aws_message(headers: Mapping[str, str], payload: object) -> bytes:
    """Return one message of AWS's event stream: lengths, their checksum, headers, payload, checksum of all.

    https://smithy.io/2.0/aws/amazon-eventstream.html
    """
    packed = b"".join(_aws_header(name.encode(), value.encode()) for name, value in headers.items())
    content = (payload if isinstance(payload, str) else json.dumps(payload)).encode()
    lengths = struct.pack("!II", 16 + len(packed) + len(content), len(packed))
    message = lengths + struct.pack("!I", zlib.crc32(lengths)) + packed + content
    return message + struct.pack("!I", zlib.crc32(message))


def _aws_header(name: bytes, value: bytes) -> bytes:
    text = 7
    return struct.pack("!B", len(name)) + name + struct.pack("!BH", text, len(value)) + value


def _websocket_frame(kind: int, content: bytes) -> bytes:
    whole = 0x80
    size = (
        struct.pack("!B", len(content))
        if len(content) < 126
        else struct.pack("!BH", 126, len(content))
    )
    return bytes((whole | kind,)) + size + content


def _untrusted_context() -> ssl.SSLContext:
    """Return what a TLS server needs, with a fresh certificate that it signed itself.

    Raises:
        ImportError: If the package ``cryptography`` is not installed.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    unprotected = serialization.NoEncryption()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "both.pem"  # a context reads files only
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unprotected
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context.load_cert_chain(file)
    return context
