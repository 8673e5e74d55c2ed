"""LangChain's messages, whatever the provider: ``usage_metadata`` of ``AIMessage`` and its chunks.

``UsageMetadata`` of langchain-core 1.8: ``input_tokens`` have the tokens of the cache and
``output_tokens`` have the reasoning. What is in a chunk is of that chunk alone, and chunks are
added up (``add_usage`` there). The details are no complete list; langchain-anthropic tells tokens
that were written to a cache by their age besides or instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.answers.usage._counts import count, part, usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.usage import Usage

HOLDER: Final = "usage_metadata"
"""Field of a message that has it; google-genai has its own there."""
_SENT: Final = "input_token_details"
_RECEIVED: Final = "output_token_details"
_BY_AGE: Final = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")


def is_metadata(record: Mapping[str, Any]) -> bool:
    """Return whether a ``usage_metadata`` is LangChain's."""
    return "input_tokens" in record


def read(record: Mapping[str, Any]) -> Usage | None:
    """Read a ``usage_metadata``; None if it is of another protocol, or has no details."""
    if _SENT not in record and _RECEIVED not in record:
        return None  # then it is read as that of OpenAI's Responses, which has the same fields
    sent, received = count(record, "input_tokens"), count(record, "output_tokens")
    total = count(record, "total_tokens")
    if sent is not None and total is not None and total > sent + (received or 0):
        received = total - sent
    return usage(
        sent,
        received,
        cached=part(record, _SENT, "cache_read", "cached_tokens"),
        cache_write=max(
            part(record, _SENT, "cache_creation"), sum(part(record, _SENT, n) for n in _BY_AGE)
        ),
        reasoning=part(record, _RECEIVED, "reasoning", "reasoning_tokens"),
    )
