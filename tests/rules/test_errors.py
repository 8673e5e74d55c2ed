"""What errors of the network and of Python mean."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import http.client
import json
import socket
import ssl
import threading
import urllib.error
from collections.abc import Callable, Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pydantic
import pytest
import requests
import trio
import urllib3

from resilient_llm import (
    ConfigurationError,
    ErrorKind,
    Verdict,
)
from resilient_llm._core.classify import Classifier
from tests.support.errors import (
    NOW,
    SomeSdkError,
    answered,
    anthropic_error,
    httpx_error,
    openai_error,
    raised,
)
from tests.support.providers import Provider, Reply
from tests.support.server import unused_port


@pytest.fixture
def classify() -> Classifier:
    return Classifier(lambda: NOW)


# --- the network ---


@pytest.mark.parametrize(
    ("error", "reason", "scope"),
    [
        (ConnectionError(), "network", "target"),
        (ConnectionResetError(104, "reset"), "network", "target"),
        (BrokenPipeError(32, "broken"), "network", "target"),
        (ConnectionRefusedError(111, "refused"), "network", "provider"),
        (socket.gaierror(-2, "unknown name"), "network", "provider"),
        (ssl.SSLError(1, "wrong version"), "network", "provider"),
        (TimeoutError(), "timeout", "target"),
        (OSError(errno.ETIMEDOUT, "timed out"), "timeout", "target"),
        (OSError(errno.EHOSTUNREACH, "no route"), "network", "provider"),
        (http.client.RemoteDisconnected(), "network", "target"),
        (http.client.BadStatusLine("x"), "network", "target"),
        (asyncio.IncompleteReadError(b"", 5), "network", "target"),
        (urllib.error.URLError(ConnectionRefusedError(111, "refused")), "network", "provider"),
        (urllib.error.URLError(TimeoutError()), "timeout", "target"),
        (httpx.ConnectError("x"), "network", "provider"),
        (httpx2.ConnectError("x"), "network", "provider"),
        (httpx.ConnectTimeout("x"), "timeout", "target"),
        (httpx2.ReadTimeout("x"), "timeout", "target"),
        (httpx.ReadError("x"), "network", "target"),
        (httpx2.RemoteProtocolError("x"), "network", "target"),
        (httpx.DecodingError("x"), "invalid_response", "target"),
        (requests.ConnectTimeout(), "timeout", "target"),
        (requests.ReadTimeout(), "timeout", "target"),
        (requests.ConnectionError(), "network", "target"),
        (requests.exceptions.SSLError(), "network", "provider"),
        (requests.exceptions.ChunkedEncodingError(), "network", "target"),
        (requests.exceptions.JSONDecodeError("x", "", 0), "invalid_response", "target"),
        (urllib3.exceptions.ReadTimeoutError(None, "/", "x"), "timeout", "target"),  # pyright: ignore[reportArgumentType]  # no pool at hand
        (urllib3.exceptions.ProtocolError("x"), "network", "target"),
        (trio.TooSlowError(), "timeout", "target"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_network_errors_are_transient_whatever_client_raised_them(
    classify: Classifier, error: BaseException, reason: str, scope: str
) -> None:
    """Errors of Python and of HTTP clients are known by class; a refused one is the provider's."""
    verdict = classify(error)

    assert (verdict.kind, verdict.reason, verdict.scope) == ("transient", reason, scope)


CLIENTS: dict[str, Callable[[str], Any]] = {
    "httpx": httpx.get,
    "httpx2": httpx2.get,
    "requests": requests.get,
    "urllib3": lambda url: urllib3.PoolManager(retries=False).request("GET", url),
    "openai": lambda url: openai.OpenAI(api_key="k", base_url=url, max_retries=0).models.list(),
    "anthropic": lambda url: anthropic.Anthropic(
        api_key="k", base_url=url, max_retries=0
    ).models.list(),
    "aiohttp": lambda url: asyncio.run(_aiohttp_get(url)),
}


async def _aiohttp_get(url: str) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(url):
        pass


@pytest.mark.parametrize("client", CLIENTS)
def test_a_refused_connection_is_charged_to_the_provider(classify: Classifier, client: str) -> None:
    """However deep the client buries it, a refused connection is the provider's failure."""
    error = raised(lambda: CLIENTS[client](f"http://127.0.0.1:{unused_port()}"))

    verdict = classify(error)

    assert (verdict.kind, verdict.reason, verdict.scope, verdict.retryable) == (
        "transient",
        "network",
        "provider",
        True,
    )


@pytest.fixture(scope="module")
def broken_server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"a": ["b')

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    "read",
    [
        lambda url: httpx.get(url).json(),
        lambda url: httpx2.get(url).json(),
        lambda url: requests.get(url, timeout=5).json(),
        lambda url: openai.OpenAI(api_key="k", base_url=url, max_retries=0).models.list(),
    ],
    ids=["httpx", "httpx2", "requests", "openai"],
)
def test_a_json_error_raised_inside_a_client_is_a_broken_body(
    classify: Classifier, broken_server: str, read: Callable[[str], Any]
) -> None:
    """An answer cut in the middle is transient, though the error is a ValueError."""
    error = raised(lambda: read(broken_server))

    assert isinstance(error, ValueError)
    assert (classify(error).kind, classify(error).reason) == ("transient", "invalid_response")


def test_a_json_error_in_the_callers_code_is_a_bug(classify: Classifier) -> None:
    """Who parses a model's words as JSON finds the error at once."""
    for function in (
        lambda: json.loads("Sure! Here is your JSON: {"),
        lambda: b"\xff".decode(),
        lambda: pydantic.TypeAdapter(int).validate_python("forty-two"),
    ):
        assert classify(raised(function)).kind is ErrorKind.CALLER_BUG


@pytest.mark.parametrize("wrap", [False, True])
def test_a_certificate_that_is_not_valid_is_not_tried_again(
    classify: Classifier, wrap: bool
) -> None:
    """No wait makes a self-signed certificate valid."""
    error: BaseException = ssl.SSLCertVerificationError(
        1, "certificate verify failed: self-signed certificate"
    )
    if wrap:
        outer = httpx.ConnectError("x")
        outer.__cause__ = error
        error = openai.APIConnectionError(request=httpx2.Request("GET", "http://x"))
        error.__cause__ = outer

    verdict = classify(error)

    assert (verdict.kind, verdict.scope, verdict.retryable, verdict.harms_health) == (
        "transient",
        "provider",
        False,
        True,
    )


def test_a_full_pool_of_our_own_harms_nobody(classify: Classifier) -> None:
    """Waiting in vain for one's own connections says nothing about the target."""
    verdict = classify(httpx.PoolTimeout("x"))

    assert (verdict.kind, verdict.harms_health) == ("transient", False)


def test_an_earlier_handled_error_is_not_taken_for_the_cause(classify: Classifier) -> None:
    """A reset during the handling of a TLS error is a reset."""
    reset = httpx.ReadError("x")
    reset.__cause__ = ConnectionResetError(104, "reset")
    reset.__cause__.__context__ = ssl.SSLCertVerificationError(1, "x")

    assert classify(reset).retryable is True


def test_urllib_errors_are_read_like_others(classify: Classifier) -> None:
    """The standard library's HTTPError has a status and headers."""
    headers = Message()
    headers["Retry-After"] = "4"
    error = urllib.error.HTTPError("http://x", 429, "Too Many Requests", headers, None)

    assert classify(error) == Verdict(ErrorKind.RATE_LIMITED, retry_after=4.0, status=429)
    error.close()


def test_retries_that_urllib3_gave_up_have_the_status_they_ended_with(classify: Classifier) -> None:
    """The status that urllib3 retried in vain is read from its words."""
    error = urllib3.exceptions.MaxRetryError(
        None, "/", urllib3.exceptions.ResponseError("too many 429 error responses")
    )  # pyright: ignore[reportArgumentType]  # no pool at hand

    assert (classify(error).kind, classify(error).status) == ("rate_limited", 429)


# --- bugs, memory, cancellation ---


def _recursion() -> None:
    _recursion()


@pytest.mark.parametrize(
    "function",
    [
        lambda: len(None),  # pyright: ignore[reportArgumentType]  # the bug
        lambda: None.choices,  # pyright: ignore[reportOptionalMemberAccess]  # the bug
        lambda: {}["choices"],
        lambda: [][0],
        lambda: 1 / 0,
        lambda: int("x"),
        lambda: __import__("no_such_module_at_all"),
        lambda: next(iter(())),
        lambda: Path("no-such-file.txt").read_text(),
        _recursion,
        lambda: undefined_name,  # noqa: F821  # pyright: ignore[reportUndefinedVariable]  # the bug
    ],
)
def test_trap_34_a_bug_in_the_callers_function_is_the_callers(
    classify: Classifier, function: Callable[[], Any]
) -> None:
    """What points at code is neither tried again nor counted against anybody."""
    verdict = classify(raised(function))

    assert verdict == Verdict(ErrorKind.CALLER_BUG)
    assert not verdict.retryable
    assert not verdict.harms_health


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AssertionError("x"), "caller_bug"),
        (NotImplementedError(), "caller_bug"),
        (RuntimeError("event loop is closed"), "caller_bug"),
        (PermissionError(13, "x"), "caller_bug"),
        (OSError(errno.ENOSPC, "No space left on device"), "caller_bug"),
        (ConfigurationError("x"), "caller_bug"),
        (type("AppError", (RuntimeError,), {})("x"), "unknown"),
        (type("AppError", (ValueError,), {})("x"), "unknown"),
        (Exception("Error code: 429 - rate limit exceeded, try again in 20s"), "unknown"),
        (type("AppError", (Exception,), {})("insufficient credits"), "unknown"),
        (EOFError(), "unknown"),
    ],
    ids=repr,
)
def test_only_plain_errors_of_python_point_at_code(
    classify: Classifier, error: Exception, kind: str
) -> None:
    """A derived class means what its base means; words of a bare Exception mean nothing."""
    assert classify(error).kind == kind


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes."
        ),
        RuntimeError("OOM when allocating tensor"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        type("OutOfMemoryError", (RuntimeError,), {})("x"),
        SomeSdkError(500, "llama runner process has terminated: CUDA error: out of memory"),
        SomeSdkError(
            500, "model requires more system memory (5.3 GiB) than is available (3.3 GiB)"
        ),
        SomeSdkError(
            500,
            body={"error": {"message": "cudaMalloc failed: out of memory", "type": "server_error"}},
        ),
        SomeSdkError(400, body={"error": "Not enough resources to load the model"}),
    ],
    ids=str,
)
def test_a_local_server_out_of_memory_is_told_from_other_failures(
    classify: Classifier, error: Exception
) -> None:
    """Memory that is used up is said in words, whatever the status."""
    assert classify(error) == Verdict(ErrorKind.MEMORY_PRESSURE, status=classify(error).status)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("unknown chatroom 'bathroom': pick a room from the Zoom list"), "caller_bug"),
        (RuntimeError("bloom filter false positive rate too high"), "caller_bug"),
        (RuntimeError("could not parse 'we ran out of memory'"), "caller_bug"),
        (SomeSdkError(500, "runner in server-room-2 did not answer the zoom proxy"), "transient"),
        (answered(404, "model 'bloom:7b' not found"), "auth_dead"),
        (
            SomeSdkError(503, body={"error": "Model bigscience/bloom is currently loading"}),
            "transient",
        ),
        (answered(400, "Invalid prompt: my GPU is out of memory, help"), "request_specific"),
        (SomeSdkError(500, 'Could not process "CUDA out of memory" in messages[0]'), "transient"),
        (Exception("CUDA out of memory"), "unknown"),
    ],
    ids=str,
)
def test_trap_33_oom_inside_a_word_or_an_echoed_prompt_is_no_memory_pressure(
    classify: Classifier, error: Exception, kind: str
) -> None:
    """Chatrooms, zoom, bloom and a prompt that is sent back are not memory pressure."""
    assert classify(error).kind == kind


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"code": "content_filter", "message": "The response was filtered"}),
        (400, {"code": "content_policy_violation"}),
        (400, {"message": "Your request was rejected as a result of our safety system."}),
        (403, {"message": "Content violates usage guidelines."}),
    ],
)
def test_trap_35_a_safety_refusal_is_about_the_request(
    classify: Classifier, status: int, error: dict[str, Any]
) -> None:
    """A refusal is not about the target, and has its own reason for the chain to follow."""
    verdict = classify(openai_error(status, error))

    assert (verdict.kind, verdict.reason, verdict.retryable, verdict.harms_health) == (
        "request_specific",
        "content_policy",
        False,
        False,
    )


@pytest.mark.parametrize(
    "error",
    [
        lambda: openai_error(400, {"code": "context_length_exceeded"}),
        lambda: anthropic_error(
            400,
            {
                "type": "invalid_request_error",
                "message": "prompt is too long: 9 tokens > 8 maximum",
            },
        ),
        lambda: httpx_error(
            400, {"error": {"message": "the input length exceeds the context length"}}
        ),
        lambda: ValueError("Requested tokens (2285) exceed context window of 2048"),
    ],
)
def test_trap_36_a_request_too_long_is_told_from_other_bad_requests(
    classify: Classifier, error: Callable[[], BaseException]
) -> None:
    """The reason says that only a larger window helps."""
    verdict = classify(error())

    assert (verdict.kind, verdict.reason) == ("request_specific", "context_length_exceeded")


def trio_cancelled() -> BaseException:
    caught: list[BaseException] = []

    async def main() -> None:
        with trio.move_on_after(0):
            try:
                await trio.sleep_forever()
            except trio.Cancelled as error:
                caught.append(error)
                raise

    trio.run(main)
    return caught[0]


CANCELLATIONS: list[Callable[[], BaseException]] = [
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
    trio_cancelled,
    type("MyExit", (SystemExit,), {}),
]


@pytest.mark.parametrize("make", CANCELLATIONS)
@pytest.mark.parametrize("nest", [False, True])
def test_trap_37_cancellations_are_never_failures(
    classify: Classifier, make: Callable[[], BaseException], nest: bool
) -> None:
    """A cancellation passes, also in a group of groups, and no rule is asked about it."""
    asked: list[BaseException] = []
    classify.rule(asked.append)
    error = make()
    if nest:
        error = BaseExceptionGroup(
            "g", [ValueError(), BaseExceptionGroup("h", [ConnectionError(), error])]
        )

    verdict = classify(error)

    assert verdict == Verdict(ErrorKind.CANCELLED)
    assert asked == []


def test_a_timeout_whose_cause_is_a_cancellation_is_a_timeout(classify: Classifier) -> None:
    """``asyncio.wait_for`` and ``asyncio.timeout`` raise it so."""

    async def main() -> None:
        await asyncio.wait_for(asyncio.sleep(9), 0.001)

    error = raised(lambda: asyncio.run(main()))

    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert (classify(error).kind, classify(error).reason) == ("transient", "timeout")


@pytest.mark.parametrize("package", ["openai", "anthropic", "groq"])
def test_a_full_pool_below_a_client_is_not_its_targets(
    classify: Callable[..., Verdict], package: str
) -> None:
    """No connection was free and nothing was sent: the SDK's timeout counts against no target."""
    sdk = pytest.importorskip(package)
    library = httpx if package == "groq" else httpx2
    name = {"openai": "OpenAI", "anthropic": "Anthropic", "groq": "Groq"}[package]
    limits, patience = library.Limits(max_connections=1), library.Timeout(5.0, pool=0.05)
    with Provider("openai") as provider:
        provider.says(Reply(200, b"x" * 100))
        pool = library.Client(limits=limits, timeout=patience)
        client = getattr(sdk, name)(
            base_url=provider.url,
            api_key="k",
            max_retries=0,
            http_client=pool,
            timeout=patience,
        )
        with pool.stream("GET", provider.url), pytest.raises(sdk.APITimeoutError) as raised:
            client.models.list()
        client.close()
    verdict = classify(raised.value)

    assert (verdict.kind, verdict.reason) == (ErrorKind.TRANSIENT, "timeout")
    assert (verdict.harms_health, verdict.retryable) == (False, False)
