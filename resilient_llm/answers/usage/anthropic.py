"""Anthropic's messages, also through Bedrock's InvokeModel and Vertex.

``Usage`` and ``MessageDeltaUsage`` of anthropic 2.14 and
https://docs.claude.com/en/docs/build-with-claude/prompt-caching: ``input_tokens`` are those after
the last cache breakpoint, so the whole request has besides what was read from the cache and what
was written to it. A stream has the usage of the request in ``message_start``, with the first tokens
of the answer, and in ``message_delta`` what it came to: cumulative, and often only of the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm.answers._reading import inside
from resilient_llm.answers.usage._counts import count, part, usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.usage import Usage

_WRITTEN = "cache_creation_input_tokens"
_BY_AGE = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")


def read(record: Mapping[str, Any]) -> Usage | None:
    """Read a ``usage``; None if it is of another protocol."""
    plain = count(record, "input_tokens")
    if plain is None:
        return None
    received = count(record, "output_tokens")
    if received is None and record.get("output_tokens") is not None:
        return None  # unreadable
    cached = count(record, "cache_read_input_tokens") or 0
    written = count(record, _WRITTEN) or sum(part(record, "cache_creation", n) for n in _BY_AGE)
    return usage(
        plain + cached + written,
        received,
        cached=cached,
        cache_write=written,
        reasoning=part(record, "output_tokens_details", "thinking_tokens", "reasoning_tokens"),
    )


def usage_in_event(item: Mapping[str, Any]) -> Any:
    """Return the ``usage`` of the first event of a stream, or None."""
    return inside(item.get("message")).get("usage")
