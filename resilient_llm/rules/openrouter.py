"""OpenRouter, which describes the provider behind it in ``metadata``.

https://openrouter.ai/docs/api-reference/errors, as of November 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm.rules import hints
from resilient_llm.rules._verdicts import POLICY

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence

_MOST_HEADERS: Final = 64


def by_message(evidence: Evidence) -> Verdict | None:
    """Return that the input was flagged: a 403 about the request, not about the key."""
    for part in evidence.parts:
        if "flagged_input" in part or (
            evidence.status == 403 and isinstance(part.get("patterns"), list)
        ):
            evidence.matched_by = ("field", "metadata says that the input was flagged")
            return POLICY
    return None


def retry_after(evidence: Evidence) -> float | None:
    """Return the wait in the quoted headers of the provider behind it, or in its own."""
    for part in evidence.parts:
        quoted: Any = part.get("headers")
        if isinstance(quoted, dict):
            pairs = list(cast("dict[Any, Any]", quoted).items())[:_MOST_HEADERS]
            headers = {
                name.lower(): value
                for name, value in pairs
                if isinstance(name, str) and isinstance(value, str)
            }
            now = evidence.wall()
            hint = hints.from_headers(headers, now)
            return hints.from_buckets(headers, now) if hint is None else hint
    return None
