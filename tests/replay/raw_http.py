"""How HTTP libraries are used by people who need no SDK: post, look at the status, read the answer."""

from __future__ import annotations

import importlib
from typing import Any

from tests.replay.calls import Call


def _url(call: Call) -> str:
    return f"{call.url}/v1/chat/completions"


def httpx(call: Call) -> Any:
    """Use httpx, or httpx2, which has the same interface."""
    library = importlib.import_module(call.case.sdk)
    if call.is_async:

        async def story() -> Any:
            async with library.AsyncClient(timeout=call.timeout) as client:
                answer = await client.post(_url(call), json={})
                answer.raise_for_status()
                return answer.json()

        return story()
    if call.api == "pool_timeout":
        # A second request while the only connection is in use.
        patience = library.Timeout(call.timeout, pool=0.05)
        one = library.Limits(max_connections=1)
        with (
            library.Client(timeout=patience, limits=one) as client,
            client.stream("POST", _url(call), json={}),
        ):
            return client.post(_url(call), json={})
    with library.Client(timeout=call.timeout) as client:
        if call.is_stream:
            with client.stream("POST", _url(call), json={}) as answer:
                answer.raise_for_status()
                return list(answer.iter_lines())
        answer = client.post(_url(call), json={})
        answer.raise_for_status()
        return answer.json()


def requests(call: Call) -> Any:
    import requests

    with requests.Session() as session:
        answer = session.post(_url(call), json={}, timeout=call.timeout, stream=call.is_stream)
        answer.raise_for_status()
        return list(answer.iter_lines()) if call.is_stream else answer.json()


def urllib3(call: Call) -> Any:
    import urllib3

    retries: Any = False
    if call.api == "retries":
        retries = urllib3.Retry(0, status_forcelist=[429, 503], allowed_methods=None)
    with urllib3.PoolManager(retries=retries, timeout=call.timeout) as pool:
        return pool.request("POST", _url(call), json={}).json()


async def aiohttp(call: Call) -> Any:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=call.timeout, sock_read=call.timeout)
    if call.api == "total_timeout":
        timeout = aiohttp.ClientTimeout(total=call.timeout)
    async with (
        aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
        session.post(_url(call), json={}) as answer,
    ):
        return [line async for line in answer.content] if call.is_stream else await answer.json()
