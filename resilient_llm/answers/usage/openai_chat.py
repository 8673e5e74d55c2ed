"""OpenAI's chat and text completions, embeddings, and every API that is compatible with them.

``CompletionUsage`` of openai 3.57 and https://platform.openai.com/docs/api-reference/chat/object:
``prompt_tokens`` has the cached tokens and ``completion_tokens`` has the reasoning, each with its
parts in ``…_tokens_details``. Embeddings have no ``completion_tokens``. A stream has the usage in
its last chunk if it was asked for (``stream_options={"include_usage": true}``).

Dialects, seen November 2026:

- xAI counts reasoning besides ``completion_tokens``, as only ``total_tokens`` tells
  (https://docs.cloud.google.com/vertex-ai/generative-ai/docs/partner-models/grok/capabilities/reasoning),
  and so does Google's compatible endpoint.
- DeepSeek has ``prompt_cache_hit_tokens`` (https://api-docs.deepseek.com/guides/kv_cache).
- Groq's streams have the usage in ``x_groq`` (``groq.types.chat.ChatCompletionChunk``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._values.usage import MOST_TOKENS, usage_of_checked
from resilient_llm.answers.usage._counts import count, part, usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.usage import Usage


def read(record: Mapping[str, Any]) -> Usage | None:
    """Read a ``usage``; None if it is of another protocol."""
    told = record.get("prompt_tokens")
    answered = record.get("completion_tokens")
    if (
        type(told) is int
        and type(answered) is int
        and 0 <= told <= MOST_TOKENS
        and 0 <= answered <= MOST_TOKENS
        and type(record.get("total_tokens")) is int
        and record["total_tokens"] <= told + answered
        and record.get("prompt_tokens_details") is None
        and record.get("completion_tokens_details") is None
        and "prompt_cache_hit_tokens" not in record
    ):
        return usage_of_checked(told, answered)  # most have nothing else
    sent = count(record, "prompt_tokens")
    if sent is None:
        return None
    received = count(record, "completion_tokens")
    total = count(record, "total_tokens")
    if received is None and record.get("completion_tokens") is not None and total is None:
        return None  # unreadable
    if total is not None and total > sent + (received or 0):
        received = total - sent
    details = "prompt_tokens_details"
    return usage(
        sent,
        received,
        cached=part(record, details, "cached_tokens")
        or count(record, "prompt_cache_hit_tokens")
        or 0,
        cache_write=part(record, details, "cache_write_tokens"),
        reasoning=part(record, "completion_tokens_details", "reasoning_tokens"),
    )
