"""Google's Gemini API, and the errors of google-auth, which never reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict
from resilient_llm.rules import hints
from resilient_llm.rules._evidence import MOST_DETAILS, attribute, dead, limited, transient
from resilient_llm.rules.websockets import CLOSE_CODES

if TYPE_CHECKING:
    from resilient_llm.rules._evidence import Evidence

HINTS_ONLY_FOR: Final = frozenset(("google.GoogleAPICallError",))
_MOST_VIOLATIONS: Final = 8
_FOR_A_DAY: Final = limited("quota_window", retryable=False)
_NO_KEY: Final = dead("invalid_credentials")
_BROKEN: Final = transient("network")
_BRIEFLY: Final = transient("server_error")
_BUG: Final = Verdict(ErrorKind.CALLER_BUG)


def SENTENCES(evidence: Evidence) -> Verdict | None:  # noqa: N802  # one of the names a provider's file may have
    """Return that the quota of a day is used up, whatever shorter wait the same answer names."""
    for part in evidence.parts:
        limit: Any = part.get("quota_limit")
        if isinstance(limit, str) and "PerDay" in limit:
            evidence.sign = ("field", "metadata.quota_limit names a day")
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
                evidence.sign = ("field", "violations[].quotaId names a day")
                return _FOR_A_DAY
    return None


def CLASSES(evidence: Evidence) -> Verdict | None:  # noqa: N802  # one of the names a provider's file may have
    """Return what google-auth or the SDK says without an answer of the API."""
    names = evidence.shape.names
    evidence.sign = ("class", names[0])
    if "google.TransportError" in names:
        return _BROKEN
    if "google.GoogleAuthError" in names:
        return _BRIEFLY if evidence.facts.get("_retryable") is True else _NO_KEY
    if "google.FunctionInvocationError" in names:
        return _BUG  # a function of the caller's own, called for the model
    code = evidence.facts.get("code")  # of a live session: how the websocket was closed
    if "google.APIError" in names and isinstance(code, int) and code in CLOSE_CODES:
        evidence.sign = ("close code", code)
        return CLOSE_CODES[code]
    return None


def HINTS(evidence: Evidence) -> float | None:  # noqa: N802  # one of the names a provider's file may have
    """Return the wait in the details of google.api_core, which are messages of protobuf."""
    details = evidence.facts.get("_details")
    for detail in cast("list[Any]", details)[:MOST_DETAILS] if isinstance(details, list) else ():
        delay = attribute(detail, "retry_delay")
        whole, nanos = attribute(delay, "seconds"), attribute(delay, "nanos")
        if isinstance(whole, int) and isinstance(nanos, int):
            return hints.seconds(whole + nanos / 1e9)
    return None
