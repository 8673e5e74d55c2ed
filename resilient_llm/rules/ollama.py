"""Ollama: an error inside a stream has the status -1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict
from resilient_llm.rules._evidence import transient

if TYPE_CHECKING:
    from resilient_llm.rules._evidence import Evidence

ONLY_FOR: Final = frozenset(("ollama.ResponseError", "ollama.RequestError"))
_BUG: Final = Verdict(ErrorKind.CALLER_BUG)
_IN_STREAM: Final = transient("stream_error")


def CLASSES(evidence: Evidence) -> Verdict | None:  # noqa: N802  # one of the names a provider's file may have
    """Return that a stream broke, if that is all which is known, or that a request was never sent."""
    evidence.sign = ("class", evidence.shape.names[0])
    return _BUG if "ollama.RequestError" in evidence.shape.names else _IN_STREAM
