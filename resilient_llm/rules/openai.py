"""Errors of OpenAI's SDK and of SDKs from the same generator. Codes in responses: `codes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.rules._verdicts import (
    NO_CREDENTIALS,
    POLICY,
    STREAM_ERROR,
    TRUNCATED,
    UNKNOWN_CODE,
    dead,
    wrong_request,
)

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._class_info import ErrorClass
    from resilient_llm.rules._evidence import Evidence

# Names that are as specific as a code, from litellm and from openai's own helpers.
NAMES: Final[dict[str, Verdict]] = {
    "ContextWindowExceededError": wrong_request("context_length_exceeded"),
    "ContentPolicyViolationError": POLICY,
    "ContentFilterError": POLICY,
    "ContentFilterFinishReasonError": POLICY,
    "UnsupportedParamsError": wrong_request("unsupported_parameter"),
    "LengthFinishReasonError": TRUNCATED,
    "InvalidTokenError": NO_CREDENTIALS,
    "ModelContextWindowExceededError": wrong_request("context_length_exceeded"),
    "ContextOverflowError": wrong_request("context_length_exceeded"),
    "ModelQuotaExceededError": dead("insufficient_quota"),
}


def cause_named(error_class: ErrorClass) -> Verdict | None:
    """Return the cause that the class of a client is named after."""
    names = error_class.simple_names if error_class.is_client else ()
    return next((NAMES[name] for name in names if name in NAMES), None)


def by_message(evidence: Evidence) -> Verdict | None:
    """Return the cause that the class is named after."""
    known = evidence.error_class.verdicts
    evidence.matched_by = ("class", evidence.error_class.names[0])
    if "openai" not in known:
        known["openai"] = cause_named(evidence.error_class)
    return known["openai"]


def by_class(evidence: Evidence) -> Verdict | None:
    """Return that a stream ended with an error without a cause: then it is a bare ``APIError``."""
    error_class = evidence.error_class
    evidence.matched_by = ("class", error_class.names[0])
    is_bare = error_class.is_client and error_class.simple_names[0] == "APIError"
    if not is_bare:
        return None
    return UNKNOWN_CODE if evidence.parts and evidence.codes else STREAM_ERROR
