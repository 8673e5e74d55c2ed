"""Google's generateContent, of the Gemini API and of Vertex.

``GenerateContentResponseUsageMetadata`` of google-genai 3.6 and
https://ai.google.dev/api/generate-content#UsageMetadata: ``prompt_token_count`` has the cached
tokens. Thoughts are counted beside ``candidates_token_count``, and what tools gave back to the
model beside the prompt. Each chunk of a stream has the counts so far. The Live API calls the
answer's tokens ``response_token_count``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm.answers.usage._counts import count, usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.usage import Usage

_ANSWER = (
    "candidates_token_count",
    "candidatesTokenCount",
    "response_token_count",
    "responseTokenCount",
)


def read(record: Mapping[str, Any]) -> Usage | None:
    """Read a ``usage_metadata``; None if it is of another protocol."""
    prompt = count(record, "prompt_token_count", "promptTokenCount")
    if prompt is None:
        return None
    tools = count(record, "tool_use_prompt_token_count", "toolUsePromptTokenCount") or 0
    thoughts = count(record, "thoughts_token_count", "thoughtsTokenCount") or 0
    return usage(
        prompt + tools,
        (count(record, *_ANSWER) or 0) + thoughts,
        cached=count(record, "cached_content_token_count", "cachedContentTokenCount") or 0,
        reasoning=thoughts,
    )
