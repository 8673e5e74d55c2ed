"""The SDKs made by the generator of openai's, and the wrappers that name their classes alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.rules._evidence import dead, transient, wrong_request

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence, Shape

# Names that are as good as a code, from litellm and from openai's own helpers.
NAMES: Final[dict[str, Verdict]] = {
    "ContextWindowExceededError": wrong_request("context_length_exceeded"),
    "ContentPolicyViolationError": wrong_request("content_policy"),
    "ContentFilterError": wrong_request("content_policy"),
    "ContentFilterFinishReasonError": wrong_request("content_policy"),
    "UnsupportedParamsError": wrong_request("unsupported_parameter"),
    "LengthFinishReasonError": wrong_request("output_truncated"),
    "InvalidTokenError": dead("invalid_credentials"),
    "ModelContextWindowExceededError": wrong_request("context_length_exceeded"),
    "ContextOverflowError": wrong_request("context_length_exceeded"),
    "ModelQuotaExceededError": dead("insufficient_quota"),
}
_IN_STREAM: Final = transient("stream_error")


def cause_named(shape: Shape) -> Verdict | None:
    """Return the cause that the class of a client is named after."""
    names = shape.simple_names if shape.is_client else ()
    return next((NAMES[name] for name in names if name in NAMES), None)


def SENTENCES(evidence: Evidence) -> Verdict | None:  # noqa: N802  # one of the names a provider's file may have
    """Return the cause that the class is named after."""
    known = evidence.shape.verdicts
    evidence.sign = ("class", evidence.shape.names[0])
    if "openai" not in known:
        known["openai"] = cause_named(evidence.shape)
    return known["openai"]


def CLASSES(evidence: Evidence) -> Verdict | None:  # noqa: N802  # one of the names a provider's file may have
    """Return that the stream told of an error, if it did not say which: then it is a bare ``APIError``."""
    shape = evidence.shape
    evidence.sign = ("class", shape.names[0])
    return _IN_STREAM if shape.is_client and shape.simple_names[0] == "APIError" else None
