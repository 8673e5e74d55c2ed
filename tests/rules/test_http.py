"""What codes, sentences, statuses and single providers say."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest
import requests

from resilient_llm import (
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
    shaped,
)


@pytest.fixture
def classify() -> Classifier:
    return Classifier(lambda: NOW)


# --- the action table ---

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
    classify: Classifier,
    status: int,
    kind: str,
    reason: str,
    scope: str,
    retryable: bool,
    harms: bool,
) -> None:
    """A status without words gives the kind, reason, scope and consequences of the action table."""
    verdict = classify(answered(status))

    assert (
        verdict.kind,
        verdict.reason,
        verdict.scope,
        verdict.retryable,
        verdict.harms_health,
        verdict.status,
    ) == (
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
def test_status_is_read_from_the_usual_attributes(
    classify: Classifier, name: str, value: object
) -> None:
    """Whatever the attribute is called, and a number or its text, it is the status."""
    error = SomeSdkError(**{name: value})

    assert classify(error).status == 503


@pytest.mark.parametrize("value", [True, 0, 42, 1011, -1, 99999, "abc", None, 503.0, object()])
def test_what_is_no_status_is_not_taken_for_one(classify: Classifier, value: object) -> None:
    """A number outside 100 to 599 or of another type says nothing."""
    error = SomeSdkError(code=value)

    assert classify(error).kind is ErrorKind.UNKNOWN


# --- codes, sentences, status ---


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
                400,
                {
                    "type": "invalid_request_error",
                    "message": "Your credit balance is too low to access the API.",
                },
            ),
            "auth_dead",
            "insufficient_quota",
        ),
        (
            lambda: SomeSdkError(
                400,
                body={
                    "error": {
                        "code": 400,
                        "status": "INVALID_ARGUMENT",
                        "details": [{"reason": "API_KEY_INVALID"}],
                    }
                },
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
                200,
                body={
                    "type": "error",
                    "error": {"type": "overloaded_error", "message": "Overloaded"},
                },
            ),
            "transient",
            "overloaded",
        ),
        (
            lambda: SomeSdkError(body={"code": 402, "message": "Insufficient credits"}),
            "auth_dead",
            "insufficient_quota",
        ),
        (
            lambda: ValueError({"code": 402, "message": "Insufficient credits"}),
            "auth_dead",
            "insufficient_quota",
        ),
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
    """A spent quota sent as 429, a dead key sent as 400, an error in a 200: the code decides."""
    verdict = classify(error())

    assert (verdict.kind, verdict.reason) == (kind, reason)


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (
            404,
            {"code": "model_not_found", "message": "The model `x` does not exist"},
            "auth_dead",
            "model_not_found",
        ),
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
        (
            429,
            {"type": "server_error", "message": "That model is currently overloaded"},
            "rate_limited",
            "capacity",
        ),
        (429, {"message": "Too many tokens per day, please wait"}, "rate_limited", "quota_window"),
        (500, {"type": "exceed_context_size_error"}, "request_specific", "context_length_exceeded"),
        (503, {"message": "Loading model"}, "transient", "model_loading"),
        (
            403,
            {"message": "User location is not supported for the API use."},
            "auth_dead",
            "region_unsupported",
        ),
        (
            402,
            {"type": "invalid_request_error", "message": "Insufficient Balance"},
            "auth_dead",
            "insufficient_quota",
        ),
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
    [
        (500, "false", False),
        (500, "true", True),
        (429, "false", False),
        (503, "perhaps", True),
        (400, "true", False),
    ],
)
def test_x_should_retry_is_obeyed(
    classify: Classifier, status: int, asked: str, retryable: bool
) -> None:
    """A server may forbid a retry; it may not ask for a retry of a bad request."""
    verdict = classify(openai_error(status, {"message": "x"}, {"x-should-retry": asked}))

    assert verdict.retryable is retryable


def test_hint_of_the_real_client_is_in_the_verdict(classify: Classifier) -> None:
    """A rate limit carries its hint and status."""
    verdict = classify(openai_error(429, {"code": "rate_limit_exceeded"}, {"Retry-After": "1.5"}))

    assert verdict == Verdict(ErrorKind.RATE_LIMITED, "rate_limit", retry_after=1.5, status=429)


def test_trap_27_each_error_has_its_own_hint(classify: Classifier) -> None:
    """Nothing of an earlier error of the same class stays: 9 s first, 107 s next."""
    hints = [
        classify(SomeSdkError(429, headers={"retry-after": value})).retry_after
        for value in ("9", "107")
    ]

    assert hints == [9.0, 107.0]


def test_dead_keys_carry_no_hint(classify: Classifier) -> None:
    """Where waiting does not help, a Retry-After is not passed on."""
    verdict = classify(openai_error(429, {"code": "insufficient_quota"}, {"retry-after": "5"}))

    assert verdict.retry_after is None


# --- what single providers and libraries say in their own way ---


def boto_error(code: str, message: str, status: int) -> Exception:
    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return shaped(
        "botocore.exceptions.ClientError", (f"An error occurred ({code})",), response=answer
    )


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
    b"\x08\x08\x1a0\n(type.googleapis.com/google.rpc.RetryInfo"
    b"\x12\x0b\n\x09\x08\xad\x02\x10\x80\xca\xb5\xee\x01"
)
PER_DAY = {
    "error": {
        "status": "RESOURCE_EXHAUSTED",
        "details": [{"violations": [{"quotaId": "RequestsPerDayPerModel"}]}],
    }
}


@pytest.mark.parametrize(
    ("error", "kind", "reason", "retry_after"),
    [
        (
            boto_error("ThrottlingException", "Too many requests, please wait", 429),
            "rate_limited",
            "rate_limit",
            None,
        ),
        (
            boto_error("ThrottlingException", "Too many tokens per day", 429),
            "rate_limited",
            "quota_window",
            None,
        ),
        (
            boto_error("ModelNotReadyException", "Model is not ready", 429),
            "transient",
            "model_loading",
            None,
        ),
        (
            boto_error("InvalidIdentityToken", "Couldn't retrieve verification key", 400),
            "auth_dead",
            "invalid_credentials",
            None,
        ),
        (
            boto_error("IDPCommunicationError", "The identity provider is unreachable", 400),
            "transient",
            "network",
            None,
        ),
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
        (
            shaped("botocore.exceptions.NoCredentialsError"),
            "auth_dead",
            "invalid_credentials",
            None,
        ),
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
        (
            grpc_error("RESOURCE_EXHAUSTED", "slow down", (("retry-after", "6"),)),
            "rate_limited",
            "rate_limit",
            6.0,
        ),
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
        (
            shaped("ollama._types.ResponseError", ("unexpected EOF",), status_code=-1),
            "transient",
            "stream_error",
            None,
        ),
        (shaped("together.APIError", ("boom",)), "transient", "stream_error", None),
        (
            shaped("litellm.exceptions.ContextWindowExceededError", status_code=400),
            "request_specific",
            "context_length_exceeded",
            None,
        ),
        (
            shaped("openai.ContentFilterFinishReasonError"),
            "request_specific",
            "content_policy",
            None,
        ),
        (
            shaped("instructor.core.IncompleteOutputException"),
            "request_specific",
            "output_truncated",
            None,
        ),
        (
            shaped(
                "litellm.exceptions.RateLimitError",
                status_code=429,
                llm_provider="gemini",
                message='GeminiException - {"error": {"details": [{"retryDelay": "34s"}]}} and'
                " more",
            ),
            "rate_limited",
            "rate_limit",
            34.0,
        ),
        (
            SomeSdkError(429, "Request too large for gpt-4o on tokens per min"),
            "request_specific",
            "too_large",
            None,
        ),
        (
            SomeSdkError(498, body={"message": "invalid token"}),
            "auth_dead",
            "invalid_credentials",
            None,
        ),
        (
            SomeSdkError(498, body={"error": {"code": "capacity_exceeded"}}),
            "rate_limited",
            "capacity",
            None,
        ),
        (shaped("httpx.TooManyRedirects"), "auth_dead", "endpoint_not_found", None),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, Exception) else None,
)
def test_dialects_of_single_providers(
    classify: Classifier, error: Exception, kind: str, reason: str, retry_after: float | None
) -> None:
    """Names of exceptions, gRPC codes, metadata and details are read as codes and headers are."""
    verdict = classify(error)

    assert (verdict.kind, verdict.reason, verdict.retry_after) == (kind, reason, retry_after)


def test_a_grpc_connection_that_never_came_about_is_the_providers(classify: Classifier) -> None:
    """gRPC sends UNAVAILABLE for a refused connection and a busy server; the words decide."""
    refused = classify(
        grpc_error("UNAVAILABLE", "failed to connect to all addresses; Connection refused")
    )

    assert (refused.kind, refused.scope) == ("transient", "provider")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1001, "transient"),
        (1006, "transient"),
        (1007, "request_specific"),
        (1011, "transient"),
        (1013, "transient"),
    ],
)
def test_the_close_code_of_a_websocket_is_read(classify: Classifier, code: int, kind: str) -> None:
    """A realtime session ends with a code instead of a status."""

    class Close:
        def __init__(self) -> None:
            self.code = code
            self.reason = ""

    error = shaped(
        "websockets.exceptions.ConnectionClosedError",
        base=shaped_class("websockets.exceptions.ConnectionClosed"),
    )
    vars(error)["rcvd"] = Close()

    assert classify(error).kind == kind


def shaped_class(name: str) -> type[Exception]:
    return type(shaped(name))


@pytest.mark.parametrize(
    ("status", "detail", "kind", "reason"),
    [
        (401, {"status": "quota_exceeded"}, "auth_dead", "insufficient_quota"),
        (429, {"status": "quota_exceeded"}, "rate_limited", "rate_limit"),
        (401, {"status": "invalid_api_key"}, "auth_dead", "invalid_credentials"),
        (400, {"code": "context_length_exceeded"}, "request_specific", "context_length_exceeded"),
    ],
)
def test_a_code_in_the_detail_of_a_body_is_read(
    classify: Classifier, status: int, detail: dict[str, str], kind: str, reason: str
) -> None:
    """ElevenLabs and other servers that FastAPI runs put the error under ``detail``."""
    error = answered(status, body={"detail": {**detail, "message": "no"}})

    assert (kind, reason) == (classify(error).kind, classify(error).reason)
