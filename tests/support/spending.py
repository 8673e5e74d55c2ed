"""A function that spends: a target with a price, and an answer that tells its usage."""

from __future__ import annotations

from typing import Any

from resilient_llm import Target, failover

TARGET = "groq/llama"
COST = 0.0006
"""USD of one answer: 100 tokens at 1 USD and 50 at 10 USD per million."""


def answer(sent: int = 100, received: int = 50) -> dict[str, Any]:
    """Return an answer as the OpenAI protocol has it."""
    return {
        "choices": [{"message": {"role": "assistant", "content": "hello"}}],
        "usage": {
            "prompt_tokens": sent,
            "completion_tokens": received,
            "total_tokens": sent + received,
        },
    }


def asking(**options: Any) -> Any:
    """Return a decorated function with one target that has a price."""

    @failover([Target(TARGET, price=(1.0, 10.0), max_output=100)], **options)
    def ask(target: Target, error: Exception | None = None) -> Any:
        if error is not None:
            raise error
        return answer()

    return ask
