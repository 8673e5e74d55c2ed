"""A small application over the integration for LiteLLM. Checked by pyright and mypy, never run.

Every line that is wrong carries an ignore for each checker, and both report an ignore that hides
nothing. LiteLLM's functions take any keyword, and so do these.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import assert_type

from litellm import CustomStreamWrapper, ModelResponse  # type: ignore[attr-defined]  # not in its __all__

from resilient_llm import Target, failover
from resilient_llm.integrations import litellm

CHAIN = ["groq/llama-3.3-70b-versatile", Target("openai/gpt-5-mini")]
MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]
policy = failover(timeout=30.0)


def ask(streams: bool) -> None:
    assert_type(litellm.completion(CHAIN, MESSAGES, policy=policy), ModelResponse)
    assert_type(litellm.completion(messages=MESSAGES, policy=policy), ModelResponse)
    assert_type(litellm.completion("openai/gpt-5-mini", MESSAGES, temperature=0.5), ModelResponse)
    assert_type(litellm.completion(CHAIN, MESSAGES, stream=True), CustomStreamWrapper)
    assert_type(
        litellm.completion(CHAIN, MESSAGES, stream=streams), ModelResponse | CustomStreamWrapper
    )


async def aask(streams: bool) -> None:
    assert_type(await litellm.acompletion(CHAIN, MESSAGES, policy=policy), ModelResponse)
    assert_type(await litellm.acompletion(CHAIN, MESSAGES, stream=True), CustomStreamWrapper)
    assert_type(
        await litellm.acompletion(CHAIN, MESSAGES, stream=streams),
        ModelResponse | CustomStreamWrapper,
    )


def wrong() -> None:
    failover(timeuot=30.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    litellm.completion(CHAIN, MESSAGES, policy="fast")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    litellm.completion(CHAIN, MESSAGES, policy)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
