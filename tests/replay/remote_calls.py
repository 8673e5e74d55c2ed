"""gRPC: a server that ends every call with one status, and the clients that call it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.replay.calls import KEY, QUESTION, Call
from tests.replay.server import fill_in
from tests.support.server import HOST, unused_port

# What of a stream is delivered before it breaks.
_DELIVERED = 1


@contextlib.contextmanager
def grpc_server(wire: dict[str, Any]) -> Iterator[int]:
    """Give the port of a server that plays ``grpc_code``, ``details``, ``trailing_metadata`` and ``fault``."""
    if wire.get("fault") == "refused":
        yield unused_port()
        return
    import grpc

    over = threading.Event()

    def end(_request: bytes, context: Any) -> bytes:
        if wire.get("fault") == "timeout":
            over.wait(20)
        trailing = wire.get("trailing_metadata", {})
        # The name says so where a value is not text.
        context.set_trailing_metadata(
            [
                (name, bytes.fromhex(text) if name.endswith("-bin") else fill_in(text))
                for name, text in trailing.items()
            ]
        )
        context.abort(grpc.StatusCode[wire["grpc_code"]], wire.get("details", ""))
        return b""

    def stream_then_end(request: bytes, context: Any) -> Iterator[bytes]:
        for _ in range(wire.get("messages_before", _DELIVERED)):
            yield b""
        end(request, context)

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            if details.method.endswith(("Chunk", "Stream")):
                return grpc.unary_stream_rpc_method_handler(stream_then_end)
            return grpc.unary_unary_rpc_method_handler(end)

    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, handlers=[Handler()])
        port = server.add_insecure_port(f"{HOST}:0")
        server.start()
        try:
            yield port
        finally:
            over.set()
            server.stop(None).wait()


def grpcio(call: Call, port: int) -> Any:
    import grpc

    address, name = f"{HOST}:{port}", "/weather.Service/" + ("Stream" if call.is_stream else "Call")

    def ask(channel: Any) -> Any:
        kind = channel.unary_stream if call.is_stream else channel.unary_unary
        return kind(name)(b"", timeout=call.timeout)

    if call.is_async:

        async def story() -> Any:
            async with grpc.aio.insecure_channel(address) as channel:
                return await call.aread(ask(channel))

        return story()
    with grpc.insecure_channel(address) as channel:
        return call.read(ask(channel))


def xai(call: Call, port: int) -> Any:
    import xai_sdk
    from xai_sdk.chat import user

    settings: dict[str, Any] = {
        "api_key": KEY,
        "api_host": f"{HOST}:{port}",
        "timeout": call.timeout,
        "use_insecure_channel": True,
        "channel_options": [("grpc.enable_retries", 0)],
    }

    def ask(client: Any) -> Any:
        chat = client.chat.create(model="grok-4", messages=[user(QUESTION)])
        return chat.stream() if call.is_stream else chat.sample()

    if call.is_async:

        async def story() -> Any:
            client = xai_sdk.AsyncClient(**settings)
            try:
                return await call.aread(ask(client))
            finally:
                await client.close()

        return story()
    client = xai_sdk.Client(**settings)
    try:
        return call.read(ask(client))
    finally:
        client.close()
