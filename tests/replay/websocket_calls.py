"""The clients that talk over websockets."""

from __future__ import annotations

from typing import Any

from tests.replay.calls import KEY, Call

_MORE_THAN_COME = 50


def _url(call: Call) -> str:
    return call.url.replace("http", "ws", 1)


def websockets(call: Call) -> Any:
    url = f"{_url(call)}/v1/realtime"
    if call.is_async:

        async def story() -> Any:
            from websockets.asyncio.client import connect

            async with connect(url) as connection:
                return [await connection.recv() for _ in range(_MORE_THAN_COME)]

        return story()
    from websockets.sync.client import connect

    with connect(url) as connection:
        return [connection.recv() for _ in range(_MORE_THAN_COME)]


def openai_realtime(call: Call) -> Any:
    import openai

    where = {"base_url": f"{call.url}/v1", "websocket_base_url": f"{_url(call)}/v1"}
    with openai.OpenAI(api_key=KEY, max_retries=0, **where) as client:
        # In beta before 1.107.
        realtime = client.realtime if hasattr(client, "realtime") else client.beta.realtime
        with realtime.connect(model="gpt-realtime") as connection:
            return list(connection)
