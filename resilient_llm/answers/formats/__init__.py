"""The formats of answers and streams, one file per protocol.

To add a provider with a protocol of its own:

1. Write ``formats/<provider>.py`` with a `Format`: how a whole answer, a stream item and a list
   of items are read. `_response` and `_item` have what the readers share.
2. Add its line to `FORMATS`.
3. Add answers and items to ``tests/answers/test_predicates.py`` and ``test_items.py``.

A file reads only what an object holds, with the functions of `_reading`, and imports no SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.answers.formats import (
    anthropic,
    bedrock,
    cohere,
    completions,
    embeddings,
    google,
    huggingface,
    langchain,
    ollama,
    openai_chat,
    openai_responses,
    pydantic_ai,
)

if TYPE_CHECKING:
    from resilient_llm.answers._format import Format

# In the order in which they are asked: the first that recognises an answer or an item reads it.
FORMATS: Final[tuple[Format, ...]] = (
    pydantic_ai.FORMAT,  # before others, whose fields its messages have, too
    openai_chat.FORMAT,
    google.FORMAT,
    openai_responses.FORMAT,
    completions.ANTHROPIC,
    anthropic.FORMAT,
    bedrock.FORMAT,
    completions.FORMAT,
    ollama.FORMAT,
    openai_chat.MESSAGE,  # after anthropic's messages, which have the same role and content
    cohere.FORMAT,
    langchain.FORMAT,
    huggingface.FORMAT,
    embeddings.FORMAT,
)
