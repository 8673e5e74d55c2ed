"""Google's generateContent, of the Gemini API and of Vertex, and its Interactions API.

``GenerateContentResponseUsageMetadata`` of google-genai 3.6 and
https://ai.google.dev/api/generate-content#UsageMetadata: ``prompt_token_count`` has the cached
tokens. Thoughts are counted beside ``candidates_token_count``, and what tools gave back to the
model beside the prompt. Each chunk of a stream has the counts so far. The Live API calls the
answer's tokens ``response_token_count``. ``Usage`` of interactions counts the same parts apart,
under other names, and a stream has it in the interaction of its last event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.answers._reading import inside
from resilient_llm.answers.usage._counts import count, usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.usage import Usage

_PROMPT: Final = ("prompt_token_count", "promptTokenCount", "total_input_tokens")
_TOOLS: Final = ("tool_use_prompt_token_count", "toolUsePromptTokenCount", "total_tool_use_tokens")
_CACHED: Final = ("cached_content_token_count", "cachedContentTokenCount", "total_cached_tokens")
_THOUGHTS: Final = ("thoughts_token_count", "thoughtsTokenCount", "total_thought_tokens")
_ANSWER: Final = (
    "candidates_token_count",
    "candidatesTokenCount",
    "response_token_count",
    "responseTokenCount",
    "total_output_tokens",
)


def read(record: Mapping[str, Any]) -> Usage | None:
    """Read a ``usage_metadata``; None if it is of another protocol."""
    prompt = count(record, *_PROMPT)
    if prompt is None:
        return None
    thoughts = count(record, *_THOUGHTS) or 0
    return usage(
        prompt + (count(record, *_TOOLS) or 0),
        (count(record, *_ANSWER) or 0) + thoughts,
        cached=count(record, *_CACHED) or 0,
        reasoning=thoughts,
    )


def usage_in_event(item: Mapping[str, Any]) -> Any:
    """Return the ``usage`` of the last event of a stream of interactions, or None."""
    return inside(item.get("interaction")).get("usage")
