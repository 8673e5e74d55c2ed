"""`Explanation`, the result of `classify.explain`: a verdict and why, as text or a dict.

It is made to be pasted into a chat: it contains words of this library, names of classes and
fields, and numbers. Text of a provider or a caller is left out, since it may be a prompt or
a key.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from resilient_llm._values.exported import exported
from resilient_llm._values.settings import LONGEST_HINT, RATE_LIMIT_PAUSE
from resilient_llm._values.verdict import Verdict

_WIDTH: Final = 13


class Reasons(NamedTuple):
    """What made a rule decide, and in which field of the error it was found."""

    because: str
    field: str = ""
    rule: str = "none"
    hint: str = ""


@exported
@dataclass(frozen=True, slots=True)
class Explanation:
    """A verdict and its reasons; ``str()`` is a few lines of text.

    Attributes:
        verdict: What ``classify`` returns for the error.
        type_name: Class of the error, ``"openai.RateLimitError"``.
        rule: Where the deciding rule stands, ``"rules/codes.py"``, ``"your rule app.of_gateway"``.
        because: What made the rule decide, in words.
        field: Where that was found, ``"body.error.code"``, or ``""``.
        path: Classes from the error inwards to the one that decided; empty if the error itself
            decided.
        hint: Where ``verdict.retry_after`` was read, or ``""``.
    """

    verdict: Verdict
    type_name: str
    rule: str
    because: str
    field: str = ""
    path: tuple[str, ...] = ()
    hint: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON has."""
        verdict = self.verdict
        return {
            "kind": verdict.kind.value,
            "reason": verdict.reason,
            "retry_after": verdict.retry_after,
            "status": verdict.status,
            "scope": verdict.scope,
            "retryable": verdict.retryable,
            "harms_health": verdict.harms_health,
            "error": self.type_name,
            "rule": self.rule,
            "because": self.because,
            "field": self.field,
            "path": list(self.path),
            "hint": self.hint,
        }

    def __str__(self) -> str:
        verdict = self.verdict
        lines = [("error", self.type_name)]
        lines += [("inside", each) for each in self.path]
        lines += [("because", self.because), ("found in", self.field), ("rule", self.rule)]
        lines.append(("status", "" if verdict.status is None else str(verdict.status)))
        if verdict.retry_after is not None:
            lines.append(("wait", f"{verdict.retry_after:g} s, from {self.hint or 'the rule'}"))
        lines.append(
            ("same target", "may be tried again" if verdict.retryable else "not tried again")
        )
        lines.append(("health", _health(verdict)))
        lines.append(("then", _then(verdict)))
        rows = [f"  {name:{_WIDTH}}{text}" for name, text in lines if text]
        return "\n".join([f"{verdict.kind.value}: {verdict.reason}", *rows])


def _health(verdict: Verdict) -> str:
    kind = verdict.kind
    if verdict.harms_health:
        return f"a failure of the {verdict.scope}"
    return (
        f"not a failure, counts in the error rate of the {verdict.scope}"
        if kind == "rate_limited"
        else "untouched"
    )


def _then(verdict: Verdict) -> str:
    """Return what a chain does next, with default options."""
    kind, reason = verdict.kind.value, verdict.reason
    if (kind == "transient" and not verdict.retryable) or (
        kind == "memory_pressure" and not verdict.harms_health
    ):
        return "the next target"
    if kind == "transient" and reason == "timeout":
        return "the next target; retried if no other is live"
    if kind == "rate_limited" and verdict.retry_after is not None:
        return f"the next target at once; benched for {min(verdict.retry_after, LONGEST_HINT):g} s"
    return _BY_REASON.get(reason, _THEN[kind]) if kind == "request_specific" else _THEN[kind]


_THEN: Final = {
    "transient": "retried with backoff while attempts are left, then the next target",
    "rate_limited": (
        f"the next target at once; benched for {RATE_LIMIT_PAUSE:g} s, since no wait is named"
    ),
    "auth_dead": "the next target; benched at once for max_cooldown",
    "memory_pressure": "the next target; benched at once for memory_pressure_cooldown",
    "request_specific": "the next target, or raised: as on_request_error says",
    "bad_response": "the next target",
    "rejected": "the next target; nothing was sent",
    "caller_bug": "raised at once, unchanged",
    "cancelled": "passes through",
    "unknown": "the next target, or raised: as on_unknown says",
}
_BY_REASON: Final = {
    "content_policy": "raised, or the next target: as on_content_policy says",
    "context_length_exceeded": "a target that is known to take more, else raised",
}
