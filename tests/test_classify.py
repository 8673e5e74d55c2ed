"""What errors mean: kinds, reasons, scopes, hints, and the order of evidence."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import gc
import http.client
import json
import socket
import ssl
import threading
import urllib.error
import weakref
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
    BreakerOpenError,
    ChainExhaustedError,
    ConfigurationError,
    DeadlineExceededError,
    ErrorKind,
    ResponseRejectedError,
    StreamInterruptedError,
    Verdict,
)
from resilient_llm._core.classify import Classifier
from resilient_llm.rules import _evidence, sentences

NOW = 1_795_262_400.0


@pytest.fixture
def classify() -> Classifier:
    return Classifier(lambda: NOW)


class SomeSdkError(Exception):
    """An SDK's error by shape: a status and perhaps more."""

    def __init__(self, status: int | None = None, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        if status is not None:
            self.status_code = status
        for name, value in facts.items():
            setattr(self, name, value)


def openai_error(status: int, error: dict[str, Any], headers: dict[str, str] | None = None) -> openai.APIStatusError:
    """Return what the real client raises for an answer."""
    transport = httpx2.MockTransport(lambda _: httpx2.Response(status, json={"error": error}, headers=headers or {}))
    client = openai.OpenAI(api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport))
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="m", messages=[])
    return caught.value


def anthropic_error(status: int, error: dict[str, Any]) -> anthropic.APIStatusError:
    """Return what the real client raises for an answer."""
    answer = {"type": "error", "error": error}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(status, json=answer))
    client = anthropic.Anthropic(api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport))
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(model="m", messages=[], max_tokens=1)
    return caught.value


def httpx_error(status: int, body: Any = None, headers: dict[str, str] | None = None) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://x")
    response = httpx.Response(status, json=body, headers=headers or {}, request=request)
    with pytest.raises(httpx.HTTPStatusError) as caught:
        response.raise_for_status()
    return caught.value


def raised(function: Callable[[], Any]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- the action table ------------------------------------------------------------------

TABLE = [
    # status, kind, reason, scope, retryable, harms health
    (400, "request_specific", "invalid_request", "target", False, False),
    (401, "auth_dead", "invalid_credentials", "provider", False, True),
    (402, "auth_dead", "insufficient_quota", "provider", False, True),
    (403, "auth_dead", "permission_denied", "target", False, True),
    (404, "auth_dead", "endpoint_not_found", "target", False, True),
    (407, "auth_dead", "invalid_credentials", "provider", False, True),
    (408, "transient", "timeout", "target", True, True),
    (409, "transient", "conflict", "target", True, True),
    (410, "auth_dead", "model_not_found", "target", False, True),
    (413, "request_specific", "too_large", "target", False, False),
    (418, "request_specific", "invalid_request", "target", False, False),
    (422, "request_specific", "invalid_request", "target", False, False),
    (425, "transient", "too_early", "target", True, True),
    (429, "rate_limited", "rate_limit", "target", True, False),
    (500, "transient", "server_error", "target", True, True),
    (502, "transient", "gateway", "target", True, True),
    (503, "transient", "overloaded", "target", True, True),
    (504, "transient", "gateway", "target", True, True),
    (520, "transient", "gateway", "target", True, True),
    (524, "transient", "gateway", "target", True, True),
    (529, "transient", "overloaded", "target", True, True),
    (308, "auth_dead", "endpoint_not_found", "target", False, True),
]


@pytest.mark.parametrize(("status", "kind", "reason", "scope", "retryable", "harms"), TABLE)
def test_status_decides_when_nothing_else_is_known(
    classify: Classifier, status: int, kind: str, reason: str, scope: str, retryable: bool, harms: bool
) -> None:
    """A bare status gives the kind, reason, scope and consequences of the action table."""
    verdict = classify(SomeSdkError(status))

    assert (verdict.kind, verdict.reason, verdict.scope, verdict.retryable, verdict.harms_health, verdict.status) == (
        kind,
        reason,
        scope,
        retryable,
        harms,
        status,
    )


@pytest.mark.parametrize("status", [*range(400, 452), *range(500, 512), *range(520, 531), 598, 599])
def test_every_failing_status_has_a_verdict(classify: Classifier, status: int) -> None:
    """No status from 400 is unknown, through whichever client it comes."""
    assert classify(httpx_error(status)).kind is not ErrorKind.UNKNOWN


@pytest.mark.parametrize("name", ["status_code", "status", "http_status", "code"])
@pytest.mark.parametrize("value", [503, "503", http.HTTPStatus.SERVICE_UNAVAILABLE])
def test_status_is_read_from_the_usual_attributes(classify: Classifier, name: str, value: object) -> None:
    """Whatever the attribute is called, and a number or its text, it is the status."""
    error = SomeSdkError(**{name: value})

    assert classify(error).status == 503


@pytest.mark.parametrize("value", [True, 0, 42, 1011, -1, 99999, "abc", None, 503.0, object()])
def test_what_is_no_status_is_not_taken_for_one(classify: Classifier, value: object) -> None:
    """A number outside 100 to 599 or of another type says nothing."""
    error = SomeSdkError(code=value)

    assert classify(error).kind is ErrorKind.UNKNOWN


# --- codes, sentences, status ----------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (
            lambda: openai_error(429, {"code": "insufficient_quota", "type": "insufficient_quota"}),
            "auth_dead",
            "insufficient_quota",
        ),
        (
            lambda: anthropic_error(
                400, {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API."}
            ),
            "auth_dead",
            "insufficient_quota",
        ),
        (
            lambda: SomeSdkError(
                400,
                body={"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}},
            ),
            "auth_dead",
            "invalid_credentials",
        ),
        (
            lambda: anthropic_error(529, {"type": "overloaded_error", "message": "Overloaded"}),
            "transient",
            "overloaded",
        ),
        (
            lambda: SomeSdkError(
                200, body={"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
            ),
            "transient",
            "overloaded",
        ),
        (
            lambda: SomeSdkError(body={"code": 402, "message": "Insufficient credits"}),
            "auth_dead",
            "insufficient_quota",
        ),
        (lambda: ValueError({"code": 402, "message": "Insufficient credits"}), "auth_dead", "insufficient_quota"),
    ],
    ids=[
        "quota as 429",
        "billing as 400",
        "key as 400",
        "529",
        "event in a 200 stream",
        "200 with error",
        "in a ValueError",
    ],
)
def test_trap_32_each_error_is_what_it_says_not_what_its_status_is(
    classify: Classifier, error: Callable[[], BaseException], kind: str, reason: str
) -> None:
    """A spent quota sent as 429, a dead key sent as 400, an error inside a 200: each is what it is."""
    verdict = classify(error())

    assert (verdict.kind, verdict.reason) == (kind, reason)


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (404, {"code": "model_not_found", "message": "The model `x` does not exist"}, "auth_dead", "model_not_found"),
        (
            404,
            {"message": "Item with id 'rs_1' not found. Items are not persisted."},
            "request_specific",
            "invalid_request",
        ),
        (404, {"message": "No such File object: file-123"}, "request_specific", "invalid_request"),
        (400, {"message": "The model `x` has been decommissioned"}, "auth_dead", "model_not_found"),
        (400, {"code": "context_length_exceeded"}, "request_specific", "context_length_exceeded"),
        (
            400,
            {"message": "This model's maximum context length is 8192 tokens."},
            "request_specific",
            "context_length_exceeded",
        ),
        (400, {"code": "content_filter"}, "request_specific", "content_policy"),
        (
            400,
            {"code": "unsupported_parameter", "type": "invalid_request_error"},
            "request_specific",
            "unsupported_parameter",
        ),
        (413, {"code": "rate_limit_exceeded", "type": "tokens"}, "request_specific", "too_large"),
        (400, {"code": "rate_limit_exceeded"}, "rate_limited", "rate_limit"),
        (429, {"type": "server_error", "message": "That model is currently overloaded"}, "rate_limited", "capacity"),
        (429, {"message": "Too many tokens per day, please wait"}, "rate_limited", "quota_window"),
        (500, {"type": "exceed_context_size_error"}, "request_specific", "context_length_exceeded"),
        (503, {"message": "Loading model"}, "transient", "model_loading"),
        (403, {"message": "User location is not supported for the API use."}, "auth_dead", "region_unsupported"),
        (402, {"type": "invalid_request_error", "message": "Insufficient Balance"}, "auth_dead", "insufficient_quota"),
    ],
)
def test_codes_and_sentences_win_over_the_status(
    classify: Classifier, status: int, body: dict[str, Any], kind: str, reason: str
) -> None:
    """The cause that a body names decides, and generic words do not overrule a status."""
    verdict = classify(openai_error(status, body))

    assert (verdict.kind, verdict.reason, verdict.status) == (kind, reason, status)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"code": "insufficient_quota"}}, "auth_dead"),
        ({"errors": [{"code": "insufficient_quota"}]}, "auth_dead"),
        ({"code": "insufficient_quota"}, "auth_dead"),
        ({"error": "Insufficient credits"}, "auth_dead"),
        ([{"error": {"code": "insufficient_quota"}}], "auth_dead"),
        ({"detail": "whatever"}, "rate_limited"),
        ("no json", "rate_limited"),
        (None, "rate_limited"),
        ({"error": None}, "rate_limited"),
        ({"error": {"code": ["a"], "type": {}}}, "rate_limited"),
    ],
)
def test_the_body_of_a_plain_http_error_is_read(classify: Classifier, body: Any, kind: str) -> None:
    """Codes are found in every usual place of a body that httpx or requests hold."""
    answer = requests.Response()
    answer.status_code = 429
    answer._content = json.dumps(body).encode()  # pyright: ignore[reportPrivateUsage]  # what a downloaded response holds

    assert classify(httpx_error(429, body)).kind == kind
    assert classify(raised(answer.raise_for_status)).kind == kind


def test_a_response_that_is_not_downloaded_is_left_alone(classify: Classifier) -> None:
    """Classifying reads no body that is still on the wire."""

    class Wire:
        status_code = 429
        headers = {"retry-after": "3"}  # noqa: RUF012  # a fake response

        @property
        def content(self) -> bytes:
            raise AssertionError("the network was touched")

        text = content

    verdict = classify(SomeSdkError(response=Wire()))

    assert (verdict.kind, verdict.retry_after) == ("rate_limited", 3.0)


@pytest.mark.parametrize(
    ("status", "asked", "retryable"),
    [(500, "false", False), (500, "true", True), (429, "false", False), (503, "perhaps", True), (400, "true", False)],
)
def test_x_should_retry_is_obeyed(classify: Classifier, status: int, asked: str, retryable: bool) -> None:
    """A server that forbids a retry is believed; one that asks for a retry of a bad request is not."""
    verdict = classify(openai_error(status, {"message": "x"}, {"x-should-retry": asked}))

    assert verdict.retryable is retryable


def test_hint_of_the_real_client_is_in_the_verdict(classify: Classifier) -> None:
    """A rate limit carries its hint and status."""
    verdict = classify(openai_error(429, {"code": "rate_limit_exceeded"}, {"Retry-After": "1.5"}))

    assert verdict == Verdict(ErrorKind.RATE_LIMITED, "rate_limit", retry_after=1.5, status=429)


def test_trap_27_each_error_has_its_own_hint(classify: Classifier) -> None:
    """Nothing of an earlier error of the same class stays: 9 s first, 107 s next."""
    hints = [classify(SomeSdkError(429, headers={"retry-after": value})).retry_after for value in ("9", "107")]

    assert hints == [9.0, 107.0]


def test_dead_keys_carry_no_hint(classify: Classifier) -> None:
    """Where waiting does not help, a Retry-After is not passed on."""
    verdict = classify(openai_error(429, {"code": "insufficient_quota"}, {"retry-after": "5"}))

    assert verdict.retry_after is None


# --- what single providers and libraries say in their own way ---------------------------


def shaped(name: str, args: tuple[Any, ...] = (), base: type[Exception] = Exception, **facts: Any) -> Exception:
    """Return an error that looks like one of an SDK which is not installed: ``package.module.Class``."""
    module, _, qualname = name.rpartition(".")
    cls = type(qualname, (base,), {"__module__": module})
    error: Exception = cls(*args)
    vars(error).update(facts)
    return error


def boto_error(code: str, message: str, status: int) -> Exception:
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return shaped("botocore.exceptions.ClientError", (f"An error occurred ({code})",), response=answer)


class GrpcCode:
    def __init__(self, name: str) -> None:
        self.name = name


def grpc_error(code: str, details: str, metadata: tuple[tuple[str, Any], ...] = ()) -> Exception:
    base: Any = type("RpcError", (Exception,), {"__module__": "grpc"})
    members = {
        "__module__": "grpc._channel",
        "code": lambda _: GrpcCode(code),
        "details": lambda _: details,
        "trailing_metadata": lambda _: metadata,
    }
    error: Exception = type("_InactiveRpcError", (base,), members)()
    return error


RETRY_INFO = (
    b"\x08\x08\x1a0\n(type.googleapis.com/google.rpc.RetryInfo\x12\x0b\n\x09\x08\xad\x02\x10\x80\xca\xb5\xee\x01"
)
PER_DAY = {
    "error": {"status": "RESOURCE_EXHAUSTED", "details": [{"violations": [{"quotaId": "RequestsPerDayPerModel"}]}]}
}


@pytest.mark.parametrize(
    ("error", "kind", "reason", "retry_after"),
    [
        (boto_error("ThrottlingException", "Too many requests, please wait", 429), "rate_limited", "rate_limit", None),
        (boto_error("ThrottlingException", "Too many tokens per day", 429), "rate_limited", "quota_window", None),
        (boto_error("ModelNotReadyException", "Model is not ready", 429), "transient", "model_loading", None),
        (
            boto_error("ExpiredTokenException", "The security token is expired", 403),
            "auth_dead",
            "invalid_credentials",
            None,
        ),
        (
            boto_error("ValidationException", "Input is too long", 400),
            "request_specific",
            "context_length_exceeded",
            None,
        ),
        (shaped("botocore.exceptions.NoCredentialsError"), "auth_dead", "invalid_credentials", None),
        (shaped("botocore.exceptions.ParamValidationError"), "caller_bug", "caller_bug", None),
        (shaped("botocore.exceptions.EndpointConnectionError"), "transient", "network", None),
        (grpc_error("UNAVAILABLE", "at capacity"), "transient", "overloaded", None),
        (grpc_error("UNAUTHENTICATED", "No credentials"), "auth_dead", "invalid_credentials", None),
        (grpc_error("DEADLINE_EXCEEDED", ""), "transient", "timeout", None),
        (
            grpc_error("PERMISSION_DENIED", "Content violates usage guidelines."),
            "request_specific",
            "content_policy",
            None,
        ),
        (grpc_error("CANCELLED", "RST_STREAM"), "transient", "server_error", None),
        (grpc_error("RESOURCE_EXHAUSTED", "slow down", (("retry-after", "6"),)), "rate_limited", "rate_limit", 6.0),
        (
            grpc_error("RESOURCE_EXHAUSTED", "slow down", (("grpc-retry-pushback-ms", "250"),)),
            "rate_limited",
            "rate_limit",
            0.25,
        ),
        (
            grpc_error("RESOURCE_EXHAUSTED", "x", (("grpc-status-details-bin", RETRY_INFO),)),
            "rate_limited",
            "rate_limit",
            301.5,
        ),
        (
            grpc_error("RESOURCE_EXHAUSTED", "x", (("grpc-status-details-bin", RETRY_INFO[:-12]),)),
            "rate_limited",
            "rate_limit",
            None,
        ),
        (SomeSdkError(429, body=PER_DAY), "rate_limited", "quota_window", None),
        (shaped("ollama._types.ResponseError", ("unexpected EOF",), status_code=-1), "transient", "stream_error", None),
        (shaped("together.APIError", ("boom",)), "transient", "stream_error", None),
        (
            shaped("litellm.exceptions.ContextWindowExceededError", status_code=400),
            "request_specific",
            "context_length_exceeded",
            None,
        ),
        (shaped("openai.ContentFilterFinishReasonError"), "request_specific", "content_policy", None),
        (shaped("instructor.core.IncompleteOutputException"), "request_specific", "output_truncated", None),
        (
            shaped(
                "litellm.exceptions.RateLimitError",
                status_code=429,
                llm_provider="gemini",
                message='GeminiException - {"error": {"details": [{"retryDelay": "34s"}]}} and more',
            ),
            "rate_limited",
            "rate_limit",
            34.0,
        ),
        (SomeSdkError(429, "Request too large for gpt-4o on tokens per min"), "request_specific", "too_large", None),
        (SomeSdkError(498, body={"message": "invalid token"}), "auth_dead", "invalid_credentials", None),
        (SomeSdkError(498, body={"error": {"code": "capacity_exceeded"}}), "rate_limited", "capacity", None),
        (shaped("httpx.TooManyRedirects"), "auth_dead", "endpoint_not_found", None),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, Exception) else None,
)
def test_dialects_of_single_providers(
    classify: Classifier, error: Exception, kind: str, reason: str, retry_after: float | None
) -> None:
    """Names of exceptions, gRPC codes, metadata and details are read as others' codes and headers are."""
    verdict = classify(error)

    assert (verdict.kind, verdict.reason, verdict.retry_after) == (kind, reason, retry_after)


def test_a_grpc_connection_that_never_came_about_is_the_providers(classify: Classifier) -> None:
    """gRPC says UNAVAILABLE to a refused connection and to a busy server; the words tell them apart."""
    refused = classify(grpc_error("UNAVAILABLE", "failed to connect to all addresses; Connection refused"))

    assert (refused.kind, refused.scope) == ("transient", "provider")


@pytest.mark.parametrize(
    ("code", "kind"),
    [(1001, "transient"), (1006, "transient"), (1007, "request_specific"), (1011, "transient"), (1013, "transient")],
)
def test_the_close_code_of_a_websocket_is_read(classify: Classifier, code: int, kind: str) -> None:
    """A realtime session ends with a code instead of a status."""

    class Close:
        def __init__(self) -> None:
            self.code = code
            self.reason = ""

    error = shaped(
        "websockets.exceptions.ConnectionClosedError", base=shaped_class("websockets.exceptions.ConnectionClosed")
    )
    vars(error)["rcvd"] = Close()

    assert classify(error).kind == kind


def shaped_class(name: str) -> type[Exception]:
    return type(shaped(name))


# --- the network -----------------------------------------------------------------------


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
    """Errors of the standard library and the HTTP clients are known by shape; what never connected is the provider's."""
    verdict = classify(error)

    assert (verdict.kind, verdict.reason, verdict.scope) == ("transient", reason, scope)


CLIENTS: dict[str, Callable[[str], Any]] = {
    "httpx": httpx.get,
    "httpx2": httpx2.get,
    "requests": requests.get,
    "urllib3": lambda url: urllib3.PoolManager(retries=False).request("GET", url),
    "openai": lambda url: openai.OpenAI(api_key="k", base_url=url, max_retries=0).models.list(),
    "anthropic": lambda url: anthropic.Anthropic(api_key="k", base_url=url, max_retries=0).models.list(),
    "aiohttp": lambda url: asyncio.run(_aiohttp_get(url)),
}


async def _aiohttp_get(url: str) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(url):
        pass


@pytest.mark.parametrize("client", CLIENTS)
def test_a_refused_connection_is_charged_to_the_provider(classify: Classifier, client: str) -> None:
    """However deep the client buries it, a refused connection is the provider's failure."""
    error = raised(lambda: CLIENTS[client](f"http://127.0.0.1:{free_port()}"))

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
def test_a_certificate_that_is_not_valid_is_not_tried_again(classify: Classifier, wrap: bool) -> None:
    """No wait makes a self-signed certificate valid."""
    error: BaseException = ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate")
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


# --- bugs, memory, cancellation --------------------------------------------------------


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
def test_only_plain_errors_of_python_point_at_code(classify: Classifier, error: Exception, kind: str) -> None:
    """A class that somebody derived means what they meant, and words of a bare Exception mean nothing."""
    assert classify(error).kind == kind


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes."),
        RuntimeError("OOM when allocating tensor"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        type("OutOfMemoryError", (RuntimeError,), {})("x"),
        SomeSdkError(500, "llama runner process has terminated: CUDA error: out of memory"),
        SomeSdkError(500, "model requires more system memory (5.3 GiB) than is available (3.3 GiB)"),
        SomeSdkError(500, body={"error": {"message": "cudaMalloc failed: out of memory", "type": "server_error"}}),
        SomeSdkError(400, body={"error": "Not enough resources to load the model"}),
    ],
    ids=str,
)
def test_a_local_server_out_of_memory_is_told_from_other_failures(classify: Classifier, error: Exception) -> None:
    """Memory that is used up is said in words, whatever the status."""
    assert classify(error) == Verdict(ErrorKind.MEMORY_PRESSURE, status=classify(error).status)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("unknown chatroom 'bathroom': pick a room from the Zoom list"), "caller_bug"),
        (RuntimeError("bloom filter false positive rate too high"), "caller_bug"),
        (RuntimeError("could not parse 'we ran out of memory'"), "caller_bug"),
        (SomeSdkError(500, "runner in server-room-2 did not answer the zoom proxy"), "transient"),
        (SomeSdkError(404, "model 'bloom:7b' not found"), "auth_dead"),
        (SomeSdkError(503, body={"error": "Model bigscience/bloom is currently loading"}), "transient"),
        (SomeSdkError(400, "Invalid prompt: my GPU is out of memory, help"), "request_specific"),
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
    """A refusal says nothing about the target and has a reason of its own, for the chain to obey."""
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
            400, {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8 maximum"}
        ),
        lambda: httpx_error(400, {"error": {"message": "the input length exceeds the context length"}}),
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
        error = BaseExceptionGroup("g", [ValueError(), BaseExceptionGroup("h", [ConnectionError(), error])])

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


# --- our own errors, and what is inside ------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BreakerOpenError("groq/x", "open", 12.0), Verdict(ErrorKind.REJECTED, retry_after=12.0)),
        (DeadlineExceededError(3.0), Verdict(ErrorKind.REJECTED)),
        (StreamInterruptedError("groq/x", 3), Verdict(ErrorKind.REJECTED)),
        (ChainExhaustedError("all", [openai.OpenAIError("x")]), Verdict(ErrorKind.REJECTED)),
        (ChainExhaustedError("all", [ValueError()], retry_after=4.0), Verdict(ErrorKind.REJECTED, retry_after=4.0)),
        (ResponseRejectedError("groq/x", "empty"), Verdict(ErrorKind.BAD_RESPONSE, "empty")),
        (ResponseRejectedError("groq/x", "dead", "auth_dead"), Verdict(ErrorKind.AUTH_DEAD, "dead")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_our_own_errors_are_rejections(classify: Classifier, error: Exception, expected: Verdict) -> None:
    """What an inner guard refused is counted inside; a refused answer is what ``reject`` said."""
    assert classify(error) == expected


class AppError(Exception):
    """The caller's own wrapper, which says nothing."""


def wrapped(inner: BaseException, times: int = 1) -> BaseException:
    for _ in range(times):
        outer = AppError("model call failed")
        outer.__cause__ = inner
        inner = outer
    return inner


@pytest.mark.parametrize(
    "error",
    [
        lambda: openai_error(429, {"code": "rate_limit_exceeded"}, {"retry-after": "9"}),
        lambda: openai_error(401, {"code": "invalid_api_key"}),
        lambda: ConnectionRefusedError(111, "refused"),
        lambda: MemoryError(),
        lambda: TypeError("x"),
    ],
    ids=["429", "401", "refused", "memory", "bug"],
)
def test_trap_14_error_in_group_or_cause_gets_the_same_verdict(
    classify: Classifier, error: Callable[[], Exception]
) -> None:
    """A wrapper, a group and a group inside a wrapper change nothing."""
    inner = error()
    expected = classify(inner)

    assert classify(wrapped(inner)) == expected
    assert classify(wrapped(inner, 3)) == expected
    assert classify(ExceptionGroup("g", [inner])) == expected
    assert classify(wrapped(ExceptionGroup("g", [ExceptionGroup("h", [wrapped(inner)])]))) == expected


def test_an_error_that_speaks_for_itself_is_not_overruled_by_its_cause(classify: Classifier) -> None:
    """The cause is asked only when the outer error says nothing."""
    error = SomeSdkError(503)
    error.__cause__ = TypeError("x")

    assert classify(error).kind is ErrorKind.TRANSIENT


SEVERITY = [
    TypeError(),
    SomeSdkError(401),
    SomeSdkError(400),
    MemoryError(),
    SomeSdkError(429),
    ConnectionError(),
    AppError(),
    ResponseRejectedError("groq/x"),
    BreakerOpenError("groq/x", "open"),
]


@pytest.mark.parametrize("first", range(len(SEVERITY) - 1))
def test_the_most_severe_member_of_a_group_decides(classify: Classifier, first: int) -> None:
    """Severity falls in the documented order, whatever the order of members."""
    members = SEVERITY[first:]

    assert classify(ExceptionGroup("g", members)) == classify(SEVERITY[first])
    assert classify(ExceptionGroup("g", members[::-1])) == classify(SEVERITY[first])


def test_chains_of_any_length_and_rings_end(classify: Classifier) -> None:
    """Ten thousand causes, ten thousand groups, or a ring: a verdict, no RecursionError."""
    ring = AppError()
    ring.__cause__ = wrapped(ring, 3)
    groups: Exception = AppError()
    for _ in range(10_000):
        groups = ExceptionGroup("g", [groups])

    assert classify(wrapped(ConnectionError(), 10_000)).kind is ErrorKind.UNKNOWN
    assert classify(groups).kind is ErrorKind.UNKNOWN
    assert classify(ring).kind is ErrorKind.UNKNOWN
    while isinstance(groups, ExceptionGroup):  # or its deallocation would recurse
        groups = groups.exceptions[0]


# --- users' rules ----------------------------------------------------------------------


class GatewayError(Exception):
    pass


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Verdict(ErrorKind.AUTH_DEAD, "mine", scope="target"), "auth_dead"),
        (ErrorKind.RATE_LIMITED, "rate_limited"),
        ("memory_pressure", "memory_pressure"),
        (None, "unknown"),
    ],
)
def test_a_users_rule_decides(classify: Classifier, answer: Any, kind: str) -> None:
    """A rule gives a Verdict, a kind or its word, or leaves the decision to the next."""

    @classify.rule
    def mine(error: BaseException) -> Any:
        return answer if isinstance(error, GatewayError) else None

    assert classify(GatewayError()).kind == kind
    assert classify(ConnectionError()).kind is ErrorKind.TRANSIENT
    assert classify.rules == (mine,)


def test_the_newest_rule_is_asked_first_and_before_the_built_in_ones(classify: Classifier) -> None:
    """An application overrules what a library registered, and both overrule the built-in rules."""
    classify.rule(lambda _: "transient")
    classify.rule(lambda _: "auth_dead")

    assert classify(SomeSdkError(400)).kind is ErrorKind.AUTH_DEAD


def test_a_users_rule_is_asked_about_what_is_inside(classify: Classifier) -> None:
    """The same error gets the same verdict inside a group and a wrapper."""
    classify.rule(lambda error: "auth_dead" if isinstance(error, GatewayError) else None)

    assert classify(wrapped(GatewayError())).kind is ErrorKind.AUTH_DEAD
    assert classify(ExceptionGroup("g", [ConnectionError(), GatewayError()])).kind is ErrorKind.AUTH_DEAD


@pytest.mark.parametrize("answer", [17, object(), "no such kind", True])
def test_a_rule_that_fails_is_skipped_and_told(classify: Classifier, answer: Any) -> None:
    """A rule that raises or returns something else breaks nothing."""
    told: list[BaseException] = []
    classify.on_rule_failed = told.append

    @classify.rule
    def bad(error: BaseException) -> Any:
        return answer

    @classify.rule
    def worse(error: BaseException) -> Any:
        raise KeyError("x")

    assert classify(ConnectionError()).kind is ErrorKind.TRANSIENT
    assert [type(failure) for failure in told] == [KeyError, TypeError]


def test_a_listener_that_raises_breaks_nothing(classify: Classifier) -> None:
    """Neither does the callback that is told."""

    def listener(failure: BaseException) -> None:
        raise failure

    classify.on_rule_failed = listener
    classify.rule(lambda error: 1 / 0)

    assert classify(ConnectionError()).kind is ErrorKind.TRANSIENT


def test_a_rule_must_be_callable(classify: Classifier) -> None:
    """What cannot be called is refused where it is written."""
    with pytest.raises(ConfigurationError, match="function"):
        classify.rule("auth_dead")  # type: ignore[type-var]  # the mistake


def test_rules_can_be_put_back(classify: Classifier) -> None:
    """Tests take a snapshot and restore it."""
    classify.rule(lambda _: None)
    before = classify.rules
    classify.rule(lambda _: "auth_dead")

    classify.replace_rules(before)

    assert classify.rules == before
    assert classify(ConnectionError()).kind is ErrorKind.TRANSIENT


# --- robustness ------------------------------------------------------------------------


class HostileError(Exception):
    """Raises wherever it is touched."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__

    @property
    def status_code(self) -> int:
        raise RuntimeError("no status")

    @property
    def response(self) -> object:
        raise ZeroDivisionError

    @property
    def body(self) -> object:
        return type("Body", (dict,), {"get": lambda *_: 1 / 0})(error=1)

    @property
    def headers(self) -> object:
        return 42


def test_hostile_errors_are_classified_without_raising(classify: Classifier) -> None:
    """An error that raises when it is looked at still gets a verdict."""
    assert classify(HostileError()).kind is ErrorKind.UNKNOWN
    assert classify(wrapped(HostileError())).kind is ErrorKind.UNKNOWN


@pytest.mark.parametrize(
    "facts",
    [
        {"headers": 5},
        {"headers": {"retry-after": object()}},
        {"headers": [("retry-after", "2"), ("broken",)]},
        {"body": {"error": {"details": [1, None, {"reason": 3}]}}},
        {"body": "{" * 100_000},
        {"body": b"\xff\xfe"},
        {"body": [[]]},
        {"response": {"ResponseMetadata": None, "Error": []}},
        {"details": lambda: 1 / 0},
        {"rcvd": object()},
    ],
)
def test_odd_attributes_say_nothing(classify: Classifier, facts: dict[str, Any]) -> None:
    """What is not of the expected type counts as not there; the status stands."""
    failures: list[BaseException] = []
    classify.on_rule_failed = failures.append

    assert classify(SomeSdkError(503, **facts)).kind is ErrorKind.TRANSIENT
    assert failures == []


def test_classifying_keeps_neither_the_error_nor_its_class(classify: Classifier) -> None:
    """What is known per class is forgotten with the class; no prompt outlives the call."""
    cls: Any = type("ShortLivedError", (Exception,), {"status_code": 503})
    error = cls("a prompt")
    classify(error)
    watched = [weakref.ref(error), weakref.ref(cls)]

    del error, cls
    gc.collect()

    assert [one() for one in watched] == [None, None]


def test_ten_thousand_classes_are_no_leak(classify: Classifier) -> None:
    """A class made anew for every call leaves nothing behind."""
    before = len(_evidence._shapes)  # pyright: ignore[reportPrivateUsage]  # the cache under test

    for _ in range(1_000):
        assert classify(type("LocalError", (Exception,), {})()).kind is ErrorKind.UNKNOWN
    gc.collect()

    assert len(_evidence._shapes) <= before + 1  # pyright: ignore[reportPrivateUsage]  # see above


def test_every_sentence_is_found_by_the_keys_of_its_cause() -> None:
    """The keys are a shortcut and must not hide a sentence."""
    causes = [value for value in vars(sentences).values() if isinstance(value, sentences.Cause)]

    hidden = [
        phrases
        for cause in causes
        for phrases, _ in cause.sentences
        if not any(key in " ".join(phrases) for key in cause.keys)
    ]

    assert len(causes) >= 15
    assert hidden == []
