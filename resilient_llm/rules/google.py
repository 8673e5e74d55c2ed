"""Google's Gemini API, and errors of google-auth, which are raised before a request is sent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm.rules import hints
from resilient_llm.rules._bodies import MOST_DETAILS, decoded
from resilient_llm.rules._class_info import class_of
from resilient_llm.rules._foreign import attribute
from resilient_llm.rules._verdicts import (
    BROKEN,
    CALLER_BUG,
    NO_CREDENTIALS,
    SERVER_ERROR,
    limited,
)
from resilient_llm.rules.websockets import CLOSE_CODES

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence

RETRY_AFTER_ONLY_FOR: Final = frozenset(("google.GoogleAPICallError",))
_MOST_VIOLATIONS: Final = 8
_FOR_A_DAY: Final = limited("quota_window", retryable=False)


def by_message(evidence: Evidence) -> Verdict | None:
    """Return that the quota of a day is used up, also if the same answer names a shorter wait."""
    for part in evidence.parts:
        limit: Any = part.get("quota_limit")
        if isinstance(limit, str) and "PerDay" in limit:
            evidence.matched_by = ("field", "metadata.quota_limit names a day")
            return _FOR_A_DAY
        violations: Any = part.get("violations")
        for violation in (
            cast("list[Any]", violations)[:_MOST_VIOLATIONS] if isinstance(violations, list) else ()
        ):
            quota: Any = (
                cast("dict[str, Any]", violation).get("quotaId")
                if isinstance(violation, dict)
                else None
            )
            if isinstance(quota, str) and "PerDay" in quota:
                evidence.matched_by = ("field", "violations[].quotaId names a day")
                return _FOR_A_DAY
    return None


def by_class(evidence: Evidence) -> Verdict | None:
    """Return the cause of an error that google-auth or the SDK raises by itself."""
    names = evidence.error_class.names
    evidence.matched_by = ("class", names[0])
    if "google.TransportError" in names:
        return BROKEN
    if "google.GoogleAuthError" in names:
        if evidence.attributes.get("_retryable") is True:
            return SERVER_ERROR
        if _lost_its_server(evidence) or _server_failed(evidence.error):
            return BROKEN
        return NO_CREDENTIALS
    if "google.FunctionInvocationError" in names:
        return CALLER_BUG  # a function of the caller, called for the model
    code = evidence.attributes.get("code")  # of a live session: the close code of the websocket
    if "google.APIError" in names and isinstance(code, int) and code in CLOSE_CODES:
        evidence.matched_by = ("close code", code)
        return CLOSE_CODES[code]
    return None


def _lost_its_server(evidence: Evidence) -> bool:
    """Return whether the server that gives tokens could not be reached or failed.

    A machine without a service account has a metadata server that says so with a 404.
    """
    cause = evidence.error.__cause__
    if cause is None or "google.TransportError" not in class_of[type(cause)].names:
        return False
    words: object = cause.args[0] if cause.args else None  # the error itself has the cause there
    return not isinstance(words, str) or _REFUSAL.search(words[:_LONGEST_WORDS].lower()) is None


def _server_failed(error: BaseException) -> bool:
    """Return whether the server that gives tokens answered without saying what is wrong.

    google-auth puts the answer into the last argument. A refusal is an object with an ``error``
    (RFC 6749, section 5.2); a gateway's page, an empty body and words such as
    "502 Bad Gateway" are none.
    """
    args = error.args
    if len(args) < 2:
        return False
    said: Any = args[-1]
    if type(said) is str or type(said) is bytes:
        said = decoded(said)
    if not isinstance(said, dict):
        return said is None or isinstance(said, str)
    cause: Any = cast("dict[str, Any]", said).get("error")
    if isinstance(cause, dict):
        status: Any = cast("dict[str, Any]", cause).get("code")
        return isinstance(status, int) and (status in (408, 429) or status >= 500)
    return cause is None or (isinstance(cause, str) and cause.lower() in _PASSING)


_PASSING: Final = frozenset(
    (
        "server_error", "temporarily_unavailable", "internal_failure", "internal", "internal_error",
        "backend_error", "unavailable", "rate_limit", "rate_limit_exceeded", "slow_down",
    )
)  # fmt: skip
"""Errors of a token server that pass by themselves: of RFC 6749 and RFC 8628, and Google's own."""
_LONGEST_WORDS: Final = 1_000
# 408 and 429 pass by themselves.
_REFUSAL: Final = re.compile(r"\bstatus: 4(?!08|29)\d\d")


def retry_after(evidence: Evidence) -> float | None:
    """Return the wait in the details of google.api_core, which are messages of protobuf."""
    details = evidence.attributes.get("_details")
    for detail in cast("list[Any]", details)[:MOST_DETAILS] if isinstance(details, list) else ():
        delay = attribute(detail, "retry_delay")
        whole, nanos = attribute(delay, "seconds"), attribute(delay, "nanos")
        if isinstance(whole, int) and isinstance(nanos, int):
            return hints.seconds(whole + nanos / 1e9)
    return None
