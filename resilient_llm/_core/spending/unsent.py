"""Whether an error says that a request never left: no connection was made, or a guard refused it.

SDKs wrap the error of their HTTP client, some of them in a class that a broken answer has as well.
So the error is taken apart from the outside in, until a class decides: one that is raised only
before anything is sent, or one that is raised only afterwards. Without such a class the request
counts as sent, since a budget must not be below the bill. Classes are known by name, so no client
is imported. Seen in November 2026: httpx 0.28, httpx2 2.16, httpcore 1.0, aiohttp 3.14, requests
2.34, urllib3 2.8, botocore 1.44, openai 3.57, anthropic 2.14, ollama 0.6, litellm 1.110.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.held import module_of
from resilient_llm._values.built_in import (
    attributes_of,
    cause_of,
    class_name,
    context_of,
    members_of,
)
from resilient_llm._values.class_cache import ClassCache
from resilient_llm._values.errors import CallRejectedError

if TYPE_CHECKING:
    from collections.abc import Callable

_DEEPEST: Final = 16
"""Errors inside each other that are looked at."""
_MOST_MEMBERS: Final = 64

_UNSENT: Final = frozenset(
    """socket.gaierror socket.herror ssl.SSLError
    httpx.ConnectError httpx.ConnectTimeout httpx.PoolTimeout httpx.ProxyError
    httpx.UnsupportedProtocol httpcore.ConnectError httpcore.ConnectTimeout httpcore.PoolTimeout
    httpcore.ProxyError httpcore.UnsupportedProtocol
    aiohttp.ClientConnectorError aiohttp.ConnectionTimeoutError aiohttp.ServerFingerprintMismatch
    requests.ConnectTimeout requests.ProxyError azure.ServiceRequestError
    urllib3.NewConnectionError urllib3.NameResolutionError urllib3.ConnectTimeoutError
    urllib3.ProxyError urllib3.EmptyPoolError
    botocore.EndpointConnectionError botocore.ConnectTimeoutError botocore.ProxyConnectionError
    botocore.SSLError anyio.ConnectionFailed""".split()
)
"""Raised before anything is sent, and at no other time."""
_SENT: Final = frozenset(
    """ssl.SSLEOFError ssl.SSLZeroReturnError ssl.SSLSyscallError
    httpx.ReadError httpx.ReadTimeout httpx.WriteError httpx.WriteTimeout httpx.CloseError
    httpx.RemoteProtocolError httpcore.ReadError httpcore.ReadTimeout httpcore.WriteError
    httpcore.WriteTimeout httpcore.RemoteProtocolError
    aiohttp.ServerDisconnectedError aiohttp.SocketTimeoutError aiohttp.ClientPayloadError
    requests.ReadTimeout requests.ChunkedEncodingError urllib3.ReadTimeoutError
    urllib3.ProtocolError botocore.ReadTimeoutError botocore.ConnectionClosedError""".split()
)
"""Raised afterwards, whatever is inside."""
_WRAPPERS: Final = frozenset(
    """APIConnectionError APITimeoutError ConnectionError HTTPClientError MaxRetryError SSLError
    Timeout TransportError URLError""".split()
)
"""Simple names of classes that SDKs wrap errors of their client in. Some do so without ``from``."""
_ERRNOS: Final = frozenset(
    number
    for name in "ECONNREFUSED EHOSTUNREACH ENETUNREACH ENETDOWN EHOSTDOWN EADDRNOTAVAIL".split()
    if (number := getattr(errno, name, None)) is not None
)
_PACKAGES: Final = {"httpx2": "httpx", "httpcore2": "httpcore"}

_bases: Final[Callable[[type], tuple[type, ...]]] = type.__dict__["__mro__"].__get__
_number: Final[Callable[[BaseException], Any]] = OSError.__dict__["errno"].__get__
_arguments: Final[Callable[[BaseException], tuple[Any, ...]]] = BaseException.__dict__[
    "args"
].__get__


def _said_by(cls: type) -> bool | None:
    """Return whether a class says that nothing was sent; None if it does not say."""
    for base in _bases(cls):
        package = module_of(base).partition(".")[0]
        name = f"{_PACKAGES.get(package, package)}.{class_name(base)}"
        if name in _SENT:
            return False
        if name in _UNSENT:
            return True
    return None


_says_unsent: Final = ClassCache(_said_by)


def is_unsent(error: BaseException) -> bool:
    """Return whether no request was sent. Runs no code of the error; never raises.

    Args:
        error: What left an attempt.
    """
    return _is_unsent(error, _DEEPEST)


def _is_unsent(error: BaseException, left: int) -> bool:
    inner: BaseException | None = error
    while inner is not None and left > 0:  # a circle ends, too
        left -= 1
        cls = type(inner)
        if issubclass(cls, (CallRejectedError, ConnectionRefusedError)):
            return True
        said = _says_unsent[cls]
        if said is not None:
            return said
        if issubclass(cls, OSError) and _number(inner) in _ERRNOS:
            return True
        if issubclass(cls, BaseExceptionGroup):
            members = members_of(inner)[:_MOST_MEMBERS]
            return all(_is_unsent(each, left - 1) for each in members)
        inner = _inside(inner)
    return False


def _inside(error: BaseException) -> BaseException | None:
    """Return the error that this one was made of, or None.

    What was merely being handled when it was raised counts only for a wrapper: anything else may
    have come of a request that was sent after the first had failed.
    """
    cause = cause_of(error)
    if cause is not None:
        return cause
    if class_name(type(error)) not in _WRAPPERS:
        return None
    reason: Any = attributes_of(error).get("reason")  # urllib, urllib3
    for value in (reason, *_arguments(error)[:1]):  # requests has urllib3's as its argument
        if issubclass(type(value), BaseException):
            return value
    return context_of(error)
