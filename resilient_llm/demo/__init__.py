"""The demo: real SDK clients against failing local servers, and a live view of the events.

    resilient-llm demo
    resilient-llm demo --workers 4

The demo uses public names only, as an application would. Importing this package loads nothing.
`resilient_llm.demo.run` needs the extra ``demo`` (rich, openai, anthropic). The second command
shows several processes that share a store, `resilient_llm.demo.fleet`, and needs rich only.
"""

from typing import Final

PROVIDERS: Final = (
    "groq",
    "anthropic",
    "openai",
    "mistral",
    "deepseek",
    "together",
    "cerebras",
)
"""Every provider that the demo starts. It is here so that the first line needs no other import."""
