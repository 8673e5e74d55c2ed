"""Transports for httpx2: one circuit per host, below any client that uses httpx2.

from resilient_llm.integrations.httpx2 import AsyncBreakerTransport

client = httpx2.AsyncClient(transport=AsyncBreakerTransport(failures=3, cooldown=20.0))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, Unpack

import httpx2

from resilient_llm import BreakerOpenError
from resilient_llm._values.settings import BreakerOptions  # noqa: TC001  # of a public signature
from resilient_llm.integrations import _transports

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["AsyncBreakerTransport", "BreakerOpenTransportError", "BreakerTransport"]


class BreakerOpenTransportError(BreakerOpenError, httpx2.TransportError):
    """The circuit of a request is open; nothing was sent.

    It is the `BreakerOpenError` of this library and a `httpx2.TransportError`, so that code
    which handles the errors of httpx2 handles it, too. A pickle does not contain the request.

    Attributes:
        target: Key of the request.
        reason: Short word that says why the circuit is open.
        retry_after: Seconds until another try is worthwhile, or None if unknown.
        request: The request that was not sent.
    """


class _Body(_transports.Body, httpx2.SyncByteStream):
    """The body of a guarded response."""


class _AsyncBody(_transports.AsyncBody, httpx2.AsyncByteStream):
    """The body of a guarded asynchronous response."""


_LIBRARY = _transports.Library(
    name="httpx2",
    response=httpx2.Response,
    status_error=httpx2.HTTPStatusError,
    open_error=BreakerOpenTransportError,
    body=_Body,
    async_body=_AsyncBody,
    transport=httpx2.BaseTransport,
    async_transport=httpx2.AsyncBaseTransport,
)


class BreakerTransport(httpx2.BaseTransport):
    """A transport that guards each request by the circuit of its host.

    A status of 5xx, a network error and a timeout count as failures, also while the body is read.
    A status of 429 benches the host for the wait that the answer names. Every other answer counts
    as a success when its body was read or closed. Closing the transport closes the inner one.
    Thread-safe if the inner transport is.

    Examples:
        >>> client = httpx2.Client(transport=BreakerTransport(failures=3, cooldown=20.0))

    Args:
        transport: The transport that sends the requests; None for `httpx2.HTTPTransport()`. The
            client passes its options ``verify``, ``cert``, ``http2``, ``limits``, ``proxy`` and
            ``trust_env`` to no transport that it is given: pass them to this one.
        key: Gives the key of a request, whose circuit all guards of the process share; None for
            a request that is not guarded. The default is the host, with ``:port`` unless that is
            the port of the scheme.
        **breaker_options: Options of `resilient_llm.breaker` for each circuit.

    Raises:
        ConfigurationError: If an argument is not what it should be.
        BreakerOpenTransportError: When a request is sent while its circuit is open.
    """

    def __init__(
        self,
        transport: httpx2.BaseTransport | None = None,
        *,
        key: Callable[[httpx2.Request], str | None] | None = None,
        **breaker_options: Unpack[BreakerOptions],
    ) -> None:
        self._requests = _transports.Requests(
            _LIBRARY, transport, key, breaker_options, is_async=False
        )
        self._inner = httpx2.HTTPTransport() if transport is None else transport

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request through the inner transport, if its circuit is not open."""
        return self._requests.send(request, self._inner.handle_request)

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._inner.__exit__(exc_type, exc_value, traceback)


class AsyncBreakerTransport(httpx2.AsyncBaseTransport):
    """The same for `httpx2.AsyncClient`, on asyncio and trio; it belongs to no event loop.

    Examples:
        >>> client = httpx2.AsyncClient(transport=AsyncBreakerTransport(failures=3))

    Args:
        transport: The transport that sends the requests; None for `httpx2.AsyncHTTPTransport()`.
        key: As for `BreakerTransport`; a plain function here, too.
        **breaker_options: Options of `resilient_llm.breaker` for each circuit.

    Raises:
        ConfigurationError: If an argument is not what it should be.
        BreakerOpenTransportError: When a request is sent while its circuit is open.
    """

    def __init__(
        self,
        transport: httpx2.AsyncBaseTransport | None = None,
        *,
        key: Callable[[httpx2.Request], str | None] | None = None,
        **breaker_options: Unpack[BreakerOptions],
    ) -> None:
        self._requests = _transports.Requests(
            _LIBRARY, transport, key, breaker_options, is_async=True
        )
        self._inner = httpx2.AsyncHTTPTransport() if transport is None else transport

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request through the inner transport, if its circuit is not open."""
        return await self._requests.asend(request, self._inner.handle_async_request)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._inner.__aexit__(exc_type, exc_value, traceback)
