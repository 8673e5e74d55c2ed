"""Verdicts on answers: by the reason why the model stopped, or by an error in the body."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any, Final, cast

from resilient_llm._runtime.classify import classify
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict
from resilient_llm.answers._reading import (
    DEEPEST,
    LONGEST,
    MOST_FIELDS,
    field,
    is_dict,
    is_mapping_like,
    is_text,
    items,
    plain,
    word,
)

EMPTY: Final = Verdict(ErrorKind.BAD_RESPONSE, "empty")
FILTERED: Final = Verdict(ErrorKind.REQUEST_SPECIFIC, "content_policy")
TRUNCATED: Final = Verdict(ErrorKind.REQUEST_SPECIFIC, "output_truncated")
BROKEN: Final = Verdict(ErrorKind.TRANSIENT, "invalid_response")
# A word that no rule knows, in a body that is otherwise in order, shows no sick server.
_UNKNOWN_CODE: Final = Verdict(ErrorKind.TRANSIENT, "invalid_response", harms_health=False)
INTERRUPTED: Final = Verdict(ErrorKind.TRANSIENT, "stream_interrupted")
# The model, not the server, wrote what could not be parsed: no target's health is harmed.
_MALFORMED: Final = Verdict(ErrorKind.TRANSIENT, "invalid_response", harms_health=False)


def _each(words: str, verdict: Verdict) -> dict[str, Verdict]:
    return dict.fromkeys(words.split(), verdict)


# Reasons why a model stopped, as providers write them, lower-cased. Others are no failure.
STOPS: Final[dict[str, Verdict]] = {
    **_each(
        # openai, azure and compatible APIs; zhipu; anthropic; google, for answers and for
        # prompts; bedrock and the models on it; cohere
        """content_filter content_filtered content_policy_violation sensitive refusal
        safety recitation blocklist prohibited_content spii escalation model_armor jailbreak
        image_safety image_prohibited_content image_recitation
        guardrail_intervened error_toxic""",
        FILTERED,
    ),
    **_each(
        # openai; anthropic, google and cohere; mistral; older cohere; google's next page
        """length max_tokens max_output_tokens max_length model_length token_limit
        model_context_window_exceeded error_limit continuation""",
        TRUNCATED,
    ),
    **_each(
        """malformed_function_call unexpected_tool_call malformed_response
        malformed_model_output malformed_tool_use""",
        _MALFORMED,
    ),
    # mistral, openrouter, cohere; vllm and sglang for a request that the server gave up; zhipu
    **_each("error abort network_error", Verdict(ErrorKind.TRANSIENT, "server_error")),
    "timeout": Verdict(ErrorKind.TRANSIENT, "timeout"),
    "insufficient_system_resource": Verdict(ErrorKind.TRANSIENT, "overloaded"),  # deepseek
    "pup_limited_disabled": Verdict(ErrorKind.AUTH_DEAD, "account_disabled"),  # google
}

# Ends that are not a failure.
COMPLETE: Final = (FILTERED, TRUNCATED)

# Fields beside ``error`` in a body that is nothing but an error.
BESIDE_AN_ERROR: Final = frozenset(
    """error errors code type status status_code statusCode message msg detail details object
    param request_id requestId success ok error_type error_code
    error_description user_id ResponseMetadata""".split()
)

_ACCEPTED: Final = (
    ErrorKind.TRANSIENT,
    ErrorKind.RATE_LIMITED,
    ErrorKind.AUTH_DEAD,
    ErrorKind.MEMORY_PRESSURE,
    ErrorKind.REQUEST_SPECIFIC,
    ErrorKind.BAD_RESPONSE,
)


class _InAnswerError(Exception):
    """Carries an error in a success to the rules, which read exceptions."""


def verdict_on(error: object) -> Verdict:
    """Return the verdict that an error would have as an exception.

    Memory pressure is what it is here: whoever guards the call judges it by its own setting.
    """
    is_body = type(error) is dict
    carrier: Any = _InAnswerError()
    setattr(carrier, "body" if is_body else "response", error)
    verdict = classify.under("skip", carrier)
    if verdict.kind not in _ACCEPTED:
        return _UNKNOWN_CODE if is_body and _has_code(cast("Any", error)) else BROKEN
    # The HTTP status was that of a success; a number in the body is not one.
    return replace(verdict, status=None) if is_body else verdict


def _has_code(body: dict[str, Any]) -> bool:
    """Return whether an error in a body names its cause in a word."""
    error: Any = body.get("error")
    return is_dict(error) and any(is_text(field(error, name)) for name in ("code", "type"))


def error_in(answer: object) -> dict[str, Any] | None:
    """Return the body with an error in it, as plain data, or None."""
    error = field(answer, "error")
    if error is None:
        errors = items(field(answer, "errors"), 1) if field(answer, "success") is False else []
        error = errors[0] if errors else None
    if error is not None:
        if is_an_error(error):
            return body_with(error)
        if is_text(error) and is_nothing_else(answer):
            return body_with(error)
    if word(field(answer, "object")) == "error" and is_text(field(answer, "message")):  # vllm
        return body_with(answer)
    status = field(answer, "base_resp")  # minimax
    if (
        status is not None
        and field(status, "status_code") not in (None, 0)
        and is_text(field(status, "status_msg"))
    ):
        return {"error": {"message": field(status, "status_msg")[:LONGEST]}}
    return None


def is_an_error(error: object) -> bool:
    return is_mapping_like(error) and any(
        isinstance(field(error, name), (str, int))
        for name in ("message", "code", "type", "status", "msg")
    )


def is_nothing_else(answer: object) -> bool:
    return is_dict(answer) and BESIDE_AN_ERROR.issuperset(islice(cast("Any", answer), MOST_FIELDS))


def body_with(error: object) -> dict[str, Any]:
    return {"error": error[:LONGEST] if isinstance(error, str) else plain(error, DEEPEST)}
