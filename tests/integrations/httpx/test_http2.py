"""HTTP/2 below the transports: several requests on one connection."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from resilient_llm import BreakerOpenError, breaker, health
from tests.integrations.httpx.ways import Http, Way
from tests.support.server import LoopbackServer

pytest.importorskip("h2")
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, RequestReceived


class Http2Host(LoopbackServer):
    """Speaks HTTP/2 without TLS; the path is the status, or ``/cut`` for a stream that is reset."""

    key: str

    def _serve(self, connection: socket.socket) -> None:
        speaker = H2Connection(H2Configuration(client_side=False))
        speaker.initiate_connection()
        try:
            connection.sendall(speaker.data_to_send())
            while data := connection.recv(65536):
                for event in speaker.receive_data(data):
                    if isinstance(event, RequestReceived):
                        self._reply(speaker, event)
                    elif isinstance(event, ConnectionTerminated):
                        return
                connection.sendall(speaker.data_to_send())
        except OSError:
            return
        finally:
            with self._changed:
                connection.close()
                self._connections.discard(connection)

    def _reply(self, speaker: H2Connection, event: Any) -> None:
        path = dict(event.headers)[b":path"].decode()[1:]
        status = path if path.isdigit() else "200"
        speaker.send_headers(event.stream_id, [(":status", status)])
        speaker.send_data(event.stream_id, b"part", end_stream=path != "cut")
        if path == "cut":
            speaker.reset_stream(event.stream_id, 2)


def test_http2(way: Way) -> None:
    """Answers, refusals and streams that are reset count over HTTP/2 as over HTTP/1.1."""

    async def case(http: Http) -> None:
        with Http2Host() as host:
            key = f"127.0.0.1:{host.port}"
            cls = http.lib.AsyncHTTPTransport if http.way.is_async else http.lib.HTTPTransport
            client = http.client(inner=cls(http1=False, http2=True), failures=2)
            response = await http.get(client, f"http://{key}/200")
            assert ("HTTP/2", b"part") == (response.http_version, response.content)
            await http.get(client, f"http://{key}/500")
            with pytest.raises(http.lib.RemoteProtocolError):
                await http.get(client, f"http://{key}/cut")

            found = health()[key]
            assert (3, 2, 1) == (found.total, found.errors, host.accepted)
            assert "open" == breaker(key).state
            with pytest.raises(BreakerOpenError):
                await http.get(client, f"http://{key}/200")
            await http.close_client(client)

    way.run(case)
