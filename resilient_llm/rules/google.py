"""Google's Gemini API: which quota was used up stands in the details."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm.rules._evidence import limited

if TYPE_CHECKING:
    from resilient_llm._values import Verdict
    from resilient_llm.rules._evidence import Evidence

_FOR_A_DAY: Final = limited("quota_window", retryable=False)


def SENTENCES(evidence: Evidence) -> Verdict | None:  # noqa: N802  # one of the names a provider's file may have
    """Return that the quota of a day is used up, whatever shorter wait the same answer names."""
    for part in evidence.parts:
        violations: Any = part.get("violations")
        for violation in cast("list[Any]", violations) if isinstance(violations, list) else ():
            quota: Any = cast("dict[str, Any]", violation).get("quotaId") if isinstance(violation, dict) else None
            if isinstance(quota, str) and "PerDay" in quota:
                return _FOR_A_DAY
    return None
