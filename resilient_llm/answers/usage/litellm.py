"""LiteLLM: OpenAI's fields, with what Anthropic and Bedrock tell of the cache beside them.

``Usage`` of litellm 1.110. Its ``prompt_tokens`` have the tokens of the cache, also for providers
that count them apart (``calculate_usage`` in ``litellm/llms/anthropic/chat/transformation.py``).
Those written to the cache are in ``cache_creation_input_tokens`` beside the other fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm.answers.usage import openai_chat
from resilient_llm.answers.usage._counts import count, part, usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.usage import Usage

_READ = "cache_read_input_tokens"
_WRITTEN = "cache_creation_input_tokens"


def read(record: Mapping[str, Any]) -> Usage | None:
    """Read a ``usage``; None if it is of another protocol."""
    if _READ not in record and _WRITTEN not in record:
        return None
    found = openai_chat.read(record)
    if found is None:
        return None
    details = "prompt_tokens_details"
    return usage(
        count(record, "prompt_tokens"),
        found.output,
        cached=count(record, _READ) or found.cached,
        cache_write=(
            count(record, _WRITTEN)
            or part(record, details, "cache_creation_tokens")
            or found.cache_write
        ),
        reasoning=found.reasoning,
    )
