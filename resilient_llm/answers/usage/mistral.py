"""Mistral's chat: OpenAI's fields, read by `openai_chat`; its streams have them inside ``data``.

``UsageInfo`` and ``CompletionEvent`` of mistralai 3.7: the last ``CompletionChunk`` of a stream has
the usage. Cached tokens are in ``prompt_tokens_details``
(https://docs.mistral.ai/studio-api/conversations/advanced/prompt-caching), which the SDK keeps
among the fields that it does not declare. Audio of a request is told in seconds, and not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm.answers._reading import inside

if TYPE_CHECKING:
    from collections.abc import Mapping


def usage_in_event(item: Mapping[str, Any]) -> Any:
    """Return the ``usage`` of an event of a stream, or None."""
    return inside(item.get("data")).get("usage")
