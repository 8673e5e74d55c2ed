"""OpenRouter: what it adds about the provider behind it stands in ``metadata``.

https://openrouter.ai/docs/api-reference/errors, as of November 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm.rules import hints
from resilient_llm.rules._evidence import wrong_request

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence

_REFUSED: Final = wrong_request("content_policy")
_MOST_HEADERS: Final = 64


def SENTENCES(evidence: Evidence) -> Verdict | None:  # noqa: N802  # one of the names a provider's file may have
    """Return that the input was flagged: a 403 that is about the request, not about the key."""
    for part in evidence.parts:
        if "flagged_input" in part or (
            evidence.status == 403 and isinstance(part.get("patterns"), list)
        ):
            evidence.sign = ("field", "metadata says that the input was flagged")
            return _REFUSED
    return None


def HINTS(evidence: Evidence) -> float | None:  # noqa: N802  # one of the names a provider's file may have
    """Return the wait in the headers that it quotes from the provider behind it, or makes up."""
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
