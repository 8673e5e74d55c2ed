"""What type checkers make of the transports. Checked by pyright and mypy, never run.

Not named after the library: mypy would take this file for it.
"""

# pyright: strict

from __future__ import annotations

from typing import assert_type

import httpx
import httpx2

from resilient_llm import BreakerOpenError
from resilient_llm.integrations import httpx as one
from resilient_llm.integrations import httpx2 as two


def by_tenant(request: httpx.Request) -> str | None:
    tenant: str | None = request.headers.get("x-tenant")
    return tenant


def by_host(request: httpx2.Request) -> str:
    return request.url.host


def clients() -> None:
    """Both libraries take the transports, and options of `breaker` are typed."""
    transport = one.BreakerTransport(httpx.HTTPTransport(), key=by_tenant, failures=3)
    with httpx.Client(transport=transport) as client:
        assert_type(client.get("https://there"), httpx.Response)
    with one.BreakerTransport() as entered:
        assert_type(entered, one.BreakerTransport)
    second = two.BreakerTransport(key=by_host, cooldown=20.0, mode="metrics_only")
    with httpx2.Client(transport=second) as newer:
        assert_type(newer.get("https://there"), httpx2.Response)


async def async_clients() -> None:
    async with httpx.AsyncClient(transport=one.AsyncBreakerTransport(failures=3)) as client:
        assert_type(await client.get("https://there"), httpx.Response)
    transport = two.AsyncBreakerTransport(httpx2.AsyncHTTPTransport(http2=True), slow_call=5.0)
    async with httpx2.AsyncClient(transport=transport) as newer:
        assert_type(await newer.get("https://there"), httpx2.Response)


def errors(error: one.BreakerOpenTransportError, newer: two.BreakerOpenTransportError) -> None:
    of_ours: BreakerOpenError = error
    of_httpx: httpx.TransportError = error
    of_httpx2: httpx2.TransportError = newer
    assert_type((of_ours.target, of_httpx.request), tuple[str, httpx.Request])
    assert_type(of_httpx2.request, httpx2.Request)
    assert_type(error.retry_after, float | None)
    assert_type(newer.request, httpx2.Request)


def refused() -> None:
    """What must be an error; each line is marked for both checkers."""
    one.BreakerTransport(failurs=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    one.BreakerTransport(failures="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    one.BreakerTransport(mode="off")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    one.BreakerTransport(key=by_host)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    two.BreakerTransport(httpx.HTTPTransport())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    two.AsyncBreakerTransport(httpx2.HTTPTransport())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    httpx2.Client(transport=one.BreakerTransport())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
