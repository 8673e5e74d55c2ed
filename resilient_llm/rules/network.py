"""Errors of the network: the standard library, httpx, httpx2, aiohttp, requests, urllib3 and SDKs around them.

By names of classes, so that no client is imported and a copy of httpx under another name
is known too. What happened before anything was said (refused, DNS, TLS) harms the whole
provider; a timeout or a broken connection may be one model's.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, cast

from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict
from resilient_llm.rules._evidence import dead, shape_of, transient

if TYPE_CHECKING:
    from resilient_llm.rules._evidence import Evidence, Shape

REFUSED: Final = transient("network", scope="provider")
BROKEN: Final = transient("network")
TIMEOUT: Final = transient("timeout")
INTERRUPTED: Final = transient("stream_interrupted")
BAD_BODY: Final = transient("invalid_response")
# No wait makes a certificate valid.
BAD_CERTIFICATE: Final = transient("network", scope="provider", retryable=False)
# Our own pool was full: nobody's health, but another target may have room.
POOL_FULL: Final = transient("timeout", retryable=False, harms_health=False)
# A loop of redirects is a wrong address.
ELSEWHERE: Final = dead("endpoint_not_found", scope="target")
_BUG: Final = Verdict(ErrorKind.CALLER_BUG)


def _same(verdict: Verdict, names: str) -> dict[str, Verdict]:
    return dict.fromkeys(names.split(), verdict)


# {package.Class: verdict}; the most special class of the MRO that is here decides.
CLASSES: Final[dict[str, Verdict]] = {
    **_same(
        REFUSED,
        """builtins.ConnectionRefusedError socket.gaierror socket.herror ssl.SSLError
        httpx.ConnectError httpcore.ConnectError httpx.ProxyError httpcore.ProxyError
        aiohttp.ClientConnectorError aiohttp.ClientSSLError
        requests.SSLError requests.ProxyError
        urllib3.NewConnectionError urllib3.NameResolutionError urllib3.SSLError urllib3.ProxyError""",
    ),
    **_same(
        BAD_CERTIFICATE,
        "ssl.SSLCertVerificationError aiohttp.ClientConnectorCertificateError aiohttp.ServerFingerprintMismatch",
    ),
    **_same(
        BROKEN,
        """builtins.ConnectionError asyncio.IncompleteReadError http.HTTPException ssl.SSLEOFError ssl.SSLZeroReturnError
        ssl.SSLSyscallError urllib.URLError urllib.ContentTooShortError
        httpx.TransportError httpcore.NetworkError httpcore.ProtocolError h11.RemoteProtocolError h2.ProtocolError
        anyio.BrokenResourceError anyio.ConnectionFailed anyio.EndOfStream anyio.IncompleteRead trio.BrokenResourceError
        aiohttp.ClientConnectionError aiohttp.ClientPayloadError aiohttp.ClientOSError aiohttp.ServerDisconnectedError
        requests.ConnectionError requests.ChunkedEncodingError
        urllib3.ProtocolError urllib3.MaxRetryError urllib3.HTTPError
        aiohttp.ClientError aiohttp.TransferEncodingError aiohttp.ContentLengthError requests.RequestException
        websockets.InvalidHandshake websockets.InvalidMessage websockets.ProtocolError""",
    ),
    **_same(
        INTERRUPTED,
        "http.IncompleteRead urllib3.IncompleteRead websockets.ConnectionClosed websocket.WebSocketConnectionClosedException",
    ),
    **_same(
        TIMEOUT,
        """builtins.TimeoutError httpx.TimeoutException httpcore.TimeoutException requests.Timeout requests.ConnectTimeout
        urllib3.TimeoutError aiohttp.ServerTimeoutError trio.TooSlowError subprocess.TimeoutExpired""",
    ),
    **_same(POOL_FULL, "httpx.PoolTimeout httpcore.PoolTimeout urllib3.EmptyPoolError"),
    **_same(
        BAD_BODY,
        """httpx.DecodingError requests.ContentDecodingError requests.JSONDecodeError urllib3.DecodeError
        aiohttp.ContentTypeError zlib.error gzip.BadGzipFile botocore.ParserError botocore.ChecksumMismatch
        botocore.ChecksumError botocore.FlexibleChecksumError
        asyncio.LimitOverrunError anyio.DelimiterNotFound google.UnknownApiResponseError google.ResponseError""",
    ),
    **_same(
        _BUG,
        """httpx.UnsupportedProtocol httpx.InvalidURL httpx.LocalProtocolError httpcore.UnsupportedProtocol
        httpcore.LocalProtocolError h11.LocalProtocolError httpx.StreamError http.InvalidURL http.ImproperConnectionState
        requests.InvalidURL requests.MissingSchema requests.InvalidSchema requests.InvalidHeader requests.UnrewindableBodyError
        requests.StreamConsumedError urllib3.LocationValueError urllib3.ClosedPoolError aiohttp.InvalidURL
        websockets.InvalidURI websockets.ConcurrencyError websockets.InvalidProxy
        aiohttp.NonHttpUrlClientError requests.URLRequired httpx.CookieConflict
        urllib3.UnrewindableBodyError urllib3.BodyNotHttplibCompatible
        asyncio.InvalidStateError asyncio.QueueEmpty asyncio.QueueFull concurrent.InvalidStateError
        threading.BrokenBarrierError asyncio.BrokenBarrierError anyio.ClosedResourceError anyio.BusyResourceError
        subprocess.CalledProcessError""",
    ),
    **_same(ELSEWHERE, "httpx.TooManyRedirects requests.TooManyRedirects aiohttp.TooManyRedirects"),
    # An exception group that anyio or asyncio make of several failed connects has no class of its own.
}
# SDKs name these classes alike, since most are generated; they say less than what is beneath.
_SIMPLE: Final[dict[str, Verdict]] = {
    **_same(
        BROKEN,
        "APIConnectionError ConnectionError EndpointConnectionError ServiceRequestError ServiceResponseError HTTPClientError",
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
            "ECONNRESET ECONNABORTED EPIPE ESHUTDOWN ENOTCONN ENETRESET EPROTO ENOBUFS EAGAIN EINTR",
            BROKEN,
        ),
        ("ETIMEDOUT ETIME", TIMEOUT),
    )
    for name in names.split()
    if (number := getattr(errno, name, None)) is not None
}
# aiohttp gives an answer that is no HTTP the status 400 of its own making.
_NO_HTTP: Final = frozenset(("aiohttp.HttpProcessingError", "aiohttp.BadHttpMessage"))
_HALF_HTTP: Final = frozenset(("aiohttp.TransferEncodingError", "aiohttp.ContentLengthError"))


def class_verdict(shape: Shape) -> tuple[Verdict | None, str]:
    """Return what the class says, by its name or that of a class it inherits from, and that name."""
    for name in shape.names:
        verdict = CLASSES.get(name)
        if verdict is not None:
            return verdict, name
    for name in shape.simple_names:
        verdict = _SIMPLE.get(name)
        if verdict is None and name.endswith("TimeoutError"):
            verdict = TIMEOUT
        if verdict is not None:
            return verdict, name
    return None, ""


def by_class(evidence: Evidence) -> Verdict | None:
    """Return what a class of the network says, made exact by the error beneath it."""
    known = evidence.shape.verdicts
    if "network" not in known:
        known["network"] = class_verdict(evidence.shape)
    verdict, name = cast("tuple[Verdict | None, str]", known["network"])
    evidence.sign = ("class", name)
    # These two wrap something: the class alone does not say whether it was DNS, TLS or a reset.
    if verdict is None or (verdict is not BROKEN and verdict is not REFUSED):
        return verdict
    if evidence.shape.is_standard and not evidence.facts and evidence.error.__cause__ is None:
        return verdict
    return _exact(evidence, verdict)


def may_lack_an_answer(shape: Shape) -> bool:
    """Return whether a class has a status although no answer came, or half of one."""
    return "aiohttp.ClientResponseError" in shape.names or not _HALF_HTTP.isdisjoint(shape.names)


def without_answer(evidence: Evidence) -> Verdict | None:
    """Return what a network error says that has neither a status nor a body."""
    if evidence.status is None:
        return None if evidence.parts or "rcvd" in evidence.facts else by_class(evidence)
    if not _HALF_HTTP.isdisjoint(evidence.shape.names):
        return by_class(evidence)
    cause = evidence.error.__cause__
    if cause is None or "aiohttp.ClientResponseError" not in evidence.shape.names:
        return None
    if _NO_HTTP.isdisjoint(shape_of[type(cause)].names):
        return None
    evidence.sign = ("class beneath", shape_of[type(cause)].names[0])
    return BROKEN


def by_errno(error: OSError) -> Verdict | None:
    """Return what the number of a plain OSError says, if it is of the network."""
    number = error.errno
    return _NETWORK_ERRNO.get(number) if number is not None else None


def _exact(evidence: Evidence, verdict: Verdict) -> Verdict:
    """Look beneath a wrapper; the first error that says more than "broken" decides."""
    for inner in evidence.inner():
        found, name = class_verdict(shape_of[type(inner)])
        if found is None and type(inner) is OSError:
            found, name = by_errno(inner), f"OSError {errno.errorcode.get(inner.errno or 0, '')}"
        if (
            found is not None
            and found is not BROKEN
            and (found is not REFUSED or verdict is BROKEN)
        ):
            evidence.sign = ("class beneath", name)
            if found is not REFUSED:
                return found
            verdict = found
    return verdict
