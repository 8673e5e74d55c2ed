"""Constructors of verdicts, and those verdicts that several rules return."""

from __future__ import annotations

from typing import Any, Final

from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict


def transient(reason: str, **fields: Any) -> Verdict:
    """Return a verdict on a failure that passes by itself."""
    return Verdict(ErrorKind.TRANSIENT, reason, **fields)


def limited(reason: str = "rate_limit", **fields: Any) -> Verdict:
    """Return a verdict on a rate limit."""
    return Verdict(ErrorKind.RATE_LIMITED, reason, **fields)


def dead(reason: str, **fields: Any) -> Verdict:
    """Return a verdict on a failure that a person must mend.

    Charged to the provider unless ``scope`` says otherwise.
    """
    return Verdict(ErrorKind.AUTH_DEAD, reason, **fields)


def wrong_request(reason: str = "invalid_request", **fields: Any) -> Verdict:
    """Return a verdict that this request is wrong for this target."""
    return Verdict(ErrorKind.REQUEST_SPECIFIC, reason, **fields)


CALLER_BUG: Final = Verdict(ErrorKind.CALLER_BUG)
OUT_OF_MEMORY: Final = Verdict(ErrorKind.MEMORY_PRESSURE)
# A connection that was never made harms the whole provider; a broken one may be one model's.
REFUSED: Final = transient("network", scope="provider")
BROKEN: Final = transient("network")
INTERRUPTED: Final = transient("stream_interrupted")
STREAM_ERROR: Final = transient("stream_error")
# A word that no rule knows, in a body that is otherwise in order, shows no sick server.
UNKNOWN_CODE: Final = transient("stream_error", harms_health=False)
BAD_BODY: Final = transient("invalid_response")
SERVER_ERROR: Final = transient("server_error")
NO_CREDENTIALS: Final = dead("invalid_credentials")
POLICY: Final = wrong_request("content_policy")
# The provider answered, and another model may do better.
DOES_NOT_FIT: Final = wrong_request("invalid_output")
TRUNCATED: Final = wrong_request("output_truncated")


def stamped(verdict: Verdict, status: int | None, retry_after: float | None) -> Verdict:
    """Return the verdict with a status and a hint, built without checks since all is checked."""
    if status == verdict.status and retry_after == verdict.retry_after:
        return verdict
    if retry_after is None:
        # Rules return the same few verdicts again and again, most of them without a hint.
        known = _stamped.get((id(verdict), status))
        if known is not None and known[0] is verdict:
            return known[1]
        copy = _copied(verdict, status, None)
        if len(_stamped) >= _MOST_STAMPED:
            _stamped.clear()
        _stamped[id(verdict), status] = verdict, copy
        return copy
    return _copied(verdict, status, retry_after)


_MOST_STAMPED: Final = 1_024
_stamped: Final[dict[tuple[int, int | None], tuple[Verdict, Verdict]]] = {}
"""``{(id of a verdict, status): (the verdict, its copy with the status)}``.

Holding the verdict keeps its id from being used again.
"""


def _copied(verdict: Verdict, status: int | None, retry_after: float | None) -> Verdict:
    put = object.__setattr__
    copy = object.__new__(Verdict)
    put(copy, "kind", verdict.kind)
    put(copy, "reason", verdict.reason)
    put(copy, "retry_after", retry_after)
    put(copy, "status", status)
    put(copy, "scope", verdict.scope)
    put(copy, "retryable", verdict.retryable)
    put(copy, "harms_health", verdict.harms_health)
    return copy
