"""What an attempt books for each way in which it can end, and which errors came before sending."""

import asyncio
import errno
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import anthropic
import httpx
import httpx2
import openai
import pytest
import requests
import urllib3

from resilient_llm._core.spending.booking import (
    NOTHING,
    ONLY_THE_CALL,
    Booking,
    Ending,
    booking_of,
    ending_of,
)
from resilient_llm._core.spending.estimates import Estimate
from resilient_llm._core.spending.unsent import is_unsent
from resilient_llm._values.errors import (
    BreakerOpenError,
    ChainExhaustedError,
    DeadlineExceededError,
)
from resilient_llm._values.usage import Usage

ESTIMATE = Estimate(input=100, output=500)
TOLD = Usage(90, 40, cached=10, reasoning=5)


@pytest.mark.parametrize(
    ("ending", "options", "booking"),
    [
        # Answered.
        (Ending.ANSWERED, {"usage": TOLD, "characters": 999}, Booking(TOLD)),
        (Ending.ANSWERED, {"characters": 41}, Booking(Usage(100, 11), estimated=True)),
        (Ending.ANSWERED, {}, Booking(Usage(100), estimated=True, as_reserved=True)),
        # Stream left or broken.
        (Ending.STREAM_CUT, {"usage": TOLD, "characters": 160}, Booking(TOLD, estimated=True)),
        (
            Ending.STREAM_CUT,
            {"usage": TOLD, "characters": 161},
            Booking(Usage(90, 41, cached=10, reasoning=5), estimated=True),
        ),
        (Ending.STREAM_CUT, {"characters": 1}, Booking(Usage(100, 1), estimated=True)),
        (Ending.STREAM_CUT, {}, Booking(Usage(100), estimated=True)),
        # Failed, with a status, unsent.
        (Ending.FAILED, {"usage": TOLD, "characters": 9}, Booking(Usage(100), estimated=True)),
        (Ending.STATUS, {}, ONLY_THE_CALL),
        (Ending.UNSENT, {}, NOTHING),
        # An attempt around another one.
        (Ending.ANSWERED, {"usage": TOLD, "is_booked_inside": True}, ONLY_THE_CALL),
        (Ending.STREAM_CUT, {"is_booked_inside": True}, ONLY_THE_CALL),
        (Ending.FAILED, {"is_booked_inside": True}, ONLY_THE_CALL),
        (Ending.UNSENT, {"is_booked_inside": True}, NOTHING),
    ],
)
def test_what_an_attempt_books(ending: Ending, options: dict[str, Any], booking: Booking) -> None:
    """The table, row by row."""
    assert booking == booking_of(ending, ESTIMATE, **options)


def test_what_the_constants_book() -> None:
    """Neither books tokens, and only one of them a call."""
    assert (Usage(), 0, False) == (NOTHING.usage, NOTHING.calls, NOTHING.estimated)
    assert (Usage(), 1, False) == (
        ONLY_THE_CALL.usage,
        ONLY_THE_CALL.calls,
        ONLY_THE_CALL.estimated,
    )


def test_a_huge_text_is_cut() -> None:
    """No text makes a usage that cannot be."""
    booking = booking_of(Ending.STREAM_CUT, Estimate(10**12), characters=10**15)

    assert Usage(10**9, 10**9) == booking.usage


@pytest.mark.parametrize(
    ("error", "status", "ending"),
    [
        (TimeoutError(), None, Ending.FAILED),
        (asyncio.CancelledError(), None, Ending.FAILED),
        (KeyboardInterrupt(), None, Ending.FAILED),
        (ValueError(), 399, Ending.FAILED),
        (ValueError(), 400, Ending.STATUS),
        (ValueError(), 529, Ending.STATUS),
        (ConnectionRefusedError(), None, Ending.UNSENT),
        (BreakerOpenError("groq", "network"), None, Ending.UNSENT),
    ],
    ids=repr,
)
def test_how_an_attempt_ended(error: BaseException, status: int | None, ending: Ending) -> None:
    """A status means that the provider has answered."""
    assert ending is ending_of(error, status)


# Errors before sending, of real clients.


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


REFUSING = "http://127.0.0.1:{port}/v1"
UNKNOWN_HOST = "http://does-not-exist.invalid/v1"


@contextmanager
def answering(data: bytes) -> Iterator[int]:
    """Serve one connection: read something, send these bytes, close."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(5)
                connection.recv(65536)
                connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(5)


def _aiohttp(url: str) -> None:
    async def get() -> None:
        async with aiohttp.ClientSession() as session, session.post(url, data=b"x") as response:
            await response.read()

    asyncio.run(get())


def _httpx(url: str) -> None:
    httpx.post(url, content=b"x", trust_env=False)


def _httpx2(url: str) -> None:
    httpx2.post(url, content=b"x", trust_env=False)


def _requests(url: str) -> None:
    with requests.Session() as session:
        session.trust_env = False
        session.post(url, data=b"x")


def _urllib3(url: str) -> None:
    with urllib3.PoolManager() as pool:
        pool.request("POST", url, body=b"x", retries=False)


def _urllib3_retried(url: str) -> None:
    with urllib3.PoolManager() as pool:
        pool.request("POST", url, body=b"x", retries=urllib3.Retry(1, backoff_factor=0))


def _urllib(url: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, data=b"x", timeout=5) as response:
        response.read()


def _openai(url: str) -> None:
    client = openai.OpenAI(api_key="k", base_url=url, max_retries=0)
    with client:
        client.chat.completions.create(model="m", messages=[])


def _anthropic(url: str) -> None:
    client = anthropic.Anthropic(api_key="k", base_url=url, max_retries=0)
    with client:
        client.messages.create(model="m", max_tokens=1, messages=[])


CLIENTS: dict[str, Callable[[str], None]] = {
    "aiohttp": _aiohttp,
    "anthropic": _anthropic,
    "httpx": _httpx,
    "httpx2": _httpx2,
    "openai": _openai,
    "requests": _requests,
    "urllib": _urllib,
    "urllib3": _urllib3,
    "urllib3 with retries": _urllib3_retried,
}
ONCE = [name for name in CLIENTS if "retries" not in name]
"""Those that connect once."""


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


def raised_by(client: str, url: str) -> BaseException:
    with pytest.raises(Exception) as caught:
        CLIENTS[client](url)
    return caught.value


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("client", CLIENTS)
def test_a_refused_connection_books_nothing(client: str) -> None:
    """Every client says in its own way that nobody listens there."""
    error = raised_by(client, REFUSING.format(port=_free_port()))

    assert Ending.UNSENT is ending_of(error), repr(error)


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("client", CLIENTS)
def test_an_unknown_host_books_nothing(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does a name that cannot be resolved."""

    def unknown(*args: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    error = raised_by(client, UNKNOWN_HOST)

    assert Ending.UNSENT is ending_of(error), repr(error)


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("client", ONCE)
def test_a_server_without_tls_books_nothing(client: str) -> None:
    """A handshake that fails is no connection: nothing of the request was sent."""
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        error = raised_by(client, f"https://127.0.0.1:{port}/v1")

    assert Ending.UNSENT is ending_of(error), repr(error)


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("client", ONCE)
def test_a_broken_answer_books_the_estimate(client: str) -> None:
    """A server that closes after it has read may have charged for the request."""
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhal") as port:
        error = raised_by(client, f"http://127.0.0.1:{port}/v1")

    assert Ending.FAILED is ending_of(error), repr(error)


def chained(outer: BaseException, cause: BaseException) -> BaseException:
    try:
        raise outer from cause
    except BaseException as error:
        return error


def in_context_of(first: BaseException, then: BaseException) -> BaseException:
    """Return an error that was raised while another one was handled, and hides it."""
    try:
        try:
            raise first
        except BaseException:
            raise then from None
    except BaseException as error:
        return error


REQUEST = httpx.Request("POST", "http://x")


class APITimeoutError(Exception):
    """Stands for that of any SDK."""


class ServiceRequestError(Exception):
    __module__ = "azure.core.exceptions"


class EndpointConnectionError(Exception):
    __module__ = "botocore.exceptions"


class MaxRetryError(Exception):
    __module__ = "urllib3.exceptions"

    def __init__(self, reason: Exception) -> None:
        self.reason = reason


class HostileError(Exception):
    """Whose attributes raise."""

    @property
    def args(self) -> Any:
        raise AssertionError

    @property
    def reason(self) -> Any:
        raise AssertionError

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError


def _circle() -> BaseException:
    first, second = APITimeoutError(), APITimeoutError()
    first.__cause__, second.__cause__ = second, first
    return first


EXHAUSTED = ChainExhaustedError(
    "none", [BreakerOpenError("a", "network"), BreakerOpenError("b", "network")]
)
PARTLY = ChainExhaustedError("none", [BreakerOpenError("a", "network"), TimeoutError()])

ERRORS: dict[str, tuple[BaseException, bool]] = {
    "connect timeout": (httpx.ConnectTimeout("x", request=REQUEST), True),
    "read timeout": (httpx.ReadTimeout("x", request=REQUEST), False),
    "pool timeout": (httpx.PoolTimeout("x", request=REQUEST), True),
    "read error around a refusal": (
        chained(httpx.ReadError("x", request=REQUEST), ConnectionRefusedError()),
        False,
    ),
    "SDK around a connect timeout": (
        chained(openai.APITimeoutError(REQUEST), httpx.ConnectTimeout("x")),  # type: ignore[arg-type]
        True,
    ),
    "SDK around a read timeout": (
        chained(openai.APITimeoutError(REQUEST), httpx.ReadTimeout("x")),  # type: ignore[arg-type]
        False,
    ),
    "SDK without a cause": (APITimeoutError(), False),
    "requests' connect timeout": (requests.ConnectTimeout(), True),
    "requests' read timeout": (requests.ReadTimeout(), False),
    "aiohttp's connect timeout": (aiohttp.ConnectionTimeoutError(), True),
    "aiohttp's read timeout": (aiohttp.SocketTimeoutError(), False),
    "aiohttp's disconnect": (aiohttp.ServerDisconnectedError(), False),
    "ollama's refusal": (in_context_of(httpx.ConnectError("x"), ConnectionError("start it")), True),
    "a reset": (ConnectionResetError(), False),
    "a reset after a refusal": (
        in_context_of(ConnectionRefusedError(), ConnectionResetError()),
        False,
    ),
    "an answer after a refusal": (in_context_of(ConnectionRefusedError(), ValueError()), False),
    "a bad certificate": (ssl.SSLCertVerificationError(), True),
    "an end of file in TLS": (ssl.SSLEOFError(), False),
    "no route": (OSError(errno.EHOSTUNREACH, "x"), True),
    "a broken pipe": (OSError(errno.EPIPE, "x"), False),
    "a missing file": (FileNotFoundError(errno.ENOENT, "x"), False),
    "urllib": (urllib.error.URLError(socket.gaierror()), True),
    "urllib's timeout": (urllib.error.URLError(TimeoutError()), False),
    "retries of a refusal": (MaxRetryError(ConnectionRefusedError()), True),
    "requests around retries": (
        requests.ConnectionError(MaxRetryError(socket.gaierror())),
        True,
    ),
    "azure": (ServiceRequestError(), True),
    "botocore": (EndpointConnectionError(), True),
    "a group of refusals": (
        chained(OSError("all failed"), ExceptionGroup("x", [ConnectionRefusedError()] * 2)),
        True,
    ),
    "a mixed group": (ExceptionGroup("x", [ConnectionRefusedError(), TimeoutError()]), False),
    "an inner guard": (BreakerOpenError("groq", "network"), True),
    "an inner chain of guards": (EXHAUSTED, True),
    "an inner chain that tried": (PARTLY, False),
    "a deadline": (DeadlineExceededError(3.0), False),
    "a circle": (_circle(), False),
    "a hostile error": (HostileError(), False),
    "a hostile cause": (chained(APITimeoutError(), HostileError()), False),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_came_before_sending(name: str) -> None:
    """The innermost error decides if the outer ones do not; in doubt the request was sent."""
    error, unsent = ERRORS[name]

    assert unsent is is_unsent(error)
