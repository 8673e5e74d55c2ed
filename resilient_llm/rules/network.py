"""Errors of the network: the standard library, httpx, httpx2, aiohttp, requests, urllib3, SDKs.

Recognised by names of classes, so that no client is imported and a copy of httpx under
another name is recognised as well. A failure before anything was sent (refused, DNS, TLS)
harms the whole provider; a timeout or a broken connection may be one model's.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, cast

from resilient_llm.rules._class_info import class_of
from resilient_llm.rules._verdicts import (
    BAD_BODY,
    BROKEN,
    CALLER_BUG,
    INTERRUPTED,
    REFUSED,
    dead,
    transient,
)

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._class_info import ErrorClass
    from resilient_llm.rules._evidence import Evidence

TIMEOUT: Final = transient("timeout")
# No wait makes a certificate valid.
BAD_CERTIFICATE: Final = transient("network", scope="provider", retryable=False)
# The caller's pool was full: no target's health is harmed, and another may have a connection.
POOL_FULL: Final = transient("timeout", retryable=False, harms_health=False)
FULL_POOLS: Final = ("httpx.PoolTimeout", "httpcore.PoolTimeout", "urllib3.EmptyPoolError")
# A loop of redirects is a wrong address.
ELSEWHERE: Final = dead("endpoint_not_found", scope="target")


def _same(verdict: Verdict, names: str) -> dict[str, Verdict]:
    return dict.fromkeys(names.split(), verdict)


# {package.Class: verdict}; the first class of the MRO that is here decides.
CLASSES: Final[dict[str, Verdict]] = {
    **_same(
        REFUSED,
        """builtins.ConnectionRefusedError socket.gaierror socket.herror ssl.SSLError
        httpx.ConnectError httpcore.ConnectError httpx.ProxyError httpcore.ProxyError
        aiohttp.ClientConnectorError aiohttp.ClientSSLError requests.SSLError requests.ProxyError
        urllib3.NewConnectionError urllib3.NameResolutionError urllib3.SSLError
        urllib3.ProxyError""",
    ),
    **_same(
        BAD_CERTIFICATE,
        """ssl.SSLCertVerificationError aiohttp.ClientConnectorCertificateError
        aiohttp.ServerFingerprintMismatch""",
    ),
    **_same(
        BROKEN,
        """builtins.ConnectionError asyncio.IncompleteReadError http.HTTPException
        ssl.SSLEOFError ssl.SSLZeroReturnError ssl.SSLSyscallError urllib.URLError
        urllib.ContentTooShortError httpx.TransportError httpcore.NetworkError
        httpcore.ProtocolError h11.RemoteProtocolError h2.ProtocolError anyio.BrokenResourceError
        anyio.ConnectionFailed anyio.EndOfStream anyio.IncompleteRead trio.BrokenResourceError
        aiohttp.ClientConnectionError aiohttp.ClientPayloadError aiohttp.ClientOSError
        aiohttp.ServerDisconnectedError requests.ConnectionError requests.ChunkedEncodingError
        urllib3.ProtocolError urllib3.MaxRetryError urllib3.HTTPError aiohttp.ClientError
        aiohttp.TransferEncodingError aiohttp.ContentLengthError requests.RequestException
        websockets.InvalidHandshake websockets.InvalidMessage websockets.ProtocolError""",
    ),
    **_same(
        INTERRUPTED,
        """http.IncompleteRead urllib3.IncompleteRead websockets.ConnectionClosed
        websocket.WebSocketConnectionClosedException""",
    ),
    **_same(
        TIMEOUT,
        """builtins.TimeoutError httpx.TimeoutException httpcore.TimeoutException
        requests.Timeout requests.ConnectTimeout urllib3.TimeoutError aiohttp.ServerTimeoutError
        trio.TooSlowError subprocess.TimeoutExpired""",
    ),
    **_same(POOL_FULL, " ".join(FULL_POOLS)),
    **_same(
        BAD_BODY,
        """httpx.DecodingError requests.ContentDecodingError requests.JSONDecodeError
        urllib3.DecodeError aiohttp.ContentTypeError zlib.error gzip.BadGzipFile
        botocore.ParserError botocore.ChecksumMismatch botocore.ChecksumError
        botocore.FlexibleChecksumError asyncio.LimitOverrunError anyio.DelimiterNotFound
        google.UnknownApiResponseError google.ResponseError""",
    ),
    **_same(
        CALLER_BUG,
        """httpx.UnsupportedProtocol httpx.InvalidURL httpx.LocalProtocolError
        httpcore.UnsupportedProtocol httpcore.LocalProtocolError h11.LocalProtocolError
        httpx.StreamError http.InvalidURL http.ImproperConnectionState requests.InvalidURL
        requests.MissingSchema requests.InvalidSchema requests.InvalidHeader
        requests.UnrewindableBodyError requests.StreamConsumedError urllib3.LocationValueError
        urllib3.ClosedPoolError aiohttp.InvalidURL websockets.InvalidURI
        websockets.ConcurrencyError websockets.InvalidProxy aiohttp.NonHttpUrlClientError
        requests.URLRequired httpx.CookieConflict urllib3.UnrewindableBodyError
        urllib3.BodyNotHttplibCompatible asyncio.InvalidStateError asyncio.QueueEmpty
        asyncio.QueueFull concurrent.InvalidStateError threading.BrokenBarrierError
        asyncio.BrokenBarrierError anyio.ClosedResourceError anyio.BusyResourceError
        subprocess.CalledProcessError""",
    ),
    **_same(ELSEWHERE, "httpx.TooManyRedirects requests.TooManyRedirects aiohttp.TooManyRedirects"),
    # An exception group of several failed connects (anyio, asyncio) has no class of its own.
}
# Names of classes in many SDKs, since most are generated; less specific than the cause.
_SIMPLE: Final[dict[str, Verdict]] = {
    **_same(
        BROKEN,
        """APIConnectionError ConnectionError EndpointConnectionError ServiceRequestError
        ServiceResponseError HTTPClientError ModelConnectionError""",
    ),
    **_same(BROKEN, "IncompleteReadError IncompleteRead NoResponseError"),
    **_same(REFUSED, "SSLError ProxyConnectionError"),
    **_same(TIMEOUT, "APITimeoutError Timeout TimeoutError TimeoutException"),
}
_NETWORK_ERRNO: Final = {
    number: verdict
    for names, verdict in (
        ("ECONNREFUSED EHOSTUNREACH ENETUNREACH ENETDOWN EHOSTDOWN EADDRNOTAVAIL", REFUSED),
        (
            """ECONNRESET ECONNABORTED EPIPE ESHUTDOWN ENOTCONN ENETRESET EPROTO ENOBUFS EAGAIN
            EINTR""",
            BROKEN,
        ),
        ("ETIMEDOUT ETIME", TIMEOUT),
    )
    for name in names.split()
    if (number := getattr(errno, name, None)) is not None
}
# aiohttp gives the status 400 to an answer that is not HTTP.
_NO_HTTP: Final = frozenset(("aiohttp.HttpProcessingError", "aiohttp.BadHttpMessage"))
_HALF_HTTP: Final = frozenset(("aiohttp.TransferEncodingError", "aiohttp.ContentLengthError"))


def class_verdict(error_class: ErrorClass) -> tuple[Verdict | None, str]:
    """Return the verdict on a class or on one that it inherits from, and the name of that class."""
    for name in error_class.names:
        verdict = CLASSES.get(name)
        if verdict is not None:
            return verdict, name
    for name in error_class.simple_names:
        verdict = _SIMPLE.get(name)
        if verdict is None and name.endswith("TimeoutError"):
            verdict = TIMEOUT
        if verdict is not None:
            return verdict, name
    return None, ""


def by_class(evidence: Evidence) -> Verdict | None:
    """Return the verdict on a class of the network, made more exact by the error inside."""
    known = evidence.error_class.verdicts
    if "network" not in known:
        known["network"] = class_verdict(evidence.error_class)
    verdict, name = cast("tuple[Verdict | None, str]", known["network"])
    evidence.matched_by = ("class", name)
    # Classes with these two are wrappers: only the error inside distinguishes DNS, TLS and reset.
    if verdict is None or (verdict is not BROKEN and verdict is not REFUSED):
        return verdict
    is_bare = evidence.error_class.is_standard and not evidence.attributes
    if is_bare and evidence.error.__cause__ is None:
        return verdict
    return _exact(evidence, verdict)


def may_lack_an_answer(error_class: ErrorClass) -> bool:
    """Return whether a class has a status although no answer came, or only half of one."""
    names = error_class.names
    return "aiohttp.ClientResponseError" in names or not _HALF_HTTP.isdisjoint(names)


def without_answer(evidence: Evidence) -> Verdict | None:
    """Return the verdict on a network error that has neither a status nor a body."""
    if evidence.status is None:
        return None if evidence.parts or "rcvd" in evidence.attributes else by_class(evidence)
    if not _HALF_HTTP.isdisjoint(evidence.error_class.names):
        return by_class(evidence)
    cause = evidence.error.__cause__
    if cause is None or "aiohttp.ClientResponseError" not in evidence.error_class.names:
        return None
    if _NO_HTTP.isdisjoint(class_of[type(cause)].names):
        return None
    evidence.matched_by = ("class beneath", class_of[type(cause)].names[0])
    return BROKEN


def by_errno(error: OSError) -> Verdict | None:
    """Return the verdict on the number of a plain OSError, if it is one of the network."""
    number = error.errno
    return _NETWORK_ERRNO.get(number) if number is not None else None


def _exact(evidence: Evidence, verdict: Verdict) -> Verdict:
    """Return the verdict on the first error inside a wrapper that is more specific than BROKEN."""
    for inner in evidence.inner():
        found, name = class_verdict(class_of[type(inner)])
        if found is None and type(inner) is OSError:
            found, name = by_errno(inner), f"OSError {errno.errorcode.get(inner.errno or 0, '')}"
        if (
            found is not None
            and found is not BROKEN
            and (found is not REFUSED or verdict is BROKEN)
        ):
            evidence.matched_by = ("class beneath", name)
            if found is not REFUSED:
                return found
            verdict = found
    return verdict
