"""Ollama's chat, generate and embed: the counts are in the answer itself, at its end.

``BaseGenerateResponse`` of ollama 0.6 and https://docs.ollama.com/api/usage. A prompt that is
still in the memory of the server was not evaluated, so its count may be missing. Only the last
chunk of a stream has the counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.answers.usage._counts import count, usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.usage import Usage


_COUNTS: Final = ("prompt_eval_count", "eval_count")


def record_in(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of an answer or a chunk with these fields; empty if it has none."""
    return {name: fields[name] for name in _COUNTS if fields.get(name) is not None}


def read(record: Mapping[str, Any]) -> Usage | None:
    """Read the counts of an answer or a chunk; None if there are none."""
    sent, received = count(record, "prompt_eval_count"), count(record, "eval_count")
    if sent is None and received is None:
        return None
    return usage(sent or 0, received)
