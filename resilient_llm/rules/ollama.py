"""Ollama: an error inside a stream has the status -1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.rules._verdicts import CALLER_BUG, STREAM_ERROR

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence

ONLY_FOR: Final = frozenset(("ollama.ResponseError", "ollama.RequestError"))


def by_class(evidence: Evidence) -> Verdict | None:
    """Return that a stream failed, if nothing else is known, or that no request was sent."""
    evidence.matched_by = ("class", evidence.error_class.names[0])
    return CALLER_BUG if "ollama.RequestError" in evidence.error_class.names else STREAM_ERROR
