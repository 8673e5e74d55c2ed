"""What type checkers make of a wrapped client. Checked by pyright and mypy, never run.

Every ``type: ignore`` stands for a mistake that must be refused; one that is not needed is itself
an error.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import assert_type

from anthropic import Anthropic
from anthropic.types import Message
from openai import AsyncOpenAI, AsyncStream, OpenAI
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from resilient_llm import Failover
from resilient_llm.integrations import policy_of, wrap

clients = {"groq": OpenAI(), "openai": OpenAI()}
client = wrap(clients, chain=["groq/llama", "openai/gpt-5-mini"], timeout=30.0, attempts=2)
assert_type(client, OpenAI)
reply = client.chat.completions.create(
    model="auto", messages=[{"role": "user", "content": "Why is the sky blue?"}]
)
assert_type(reply, ChatCompletion)
assert_type(
    client.embeddings.create(model="text-embedding-3-small", input="blue"), CreateEmbeddingResponse
)
assert_type(client.with_options(timeout=5.0), OpenAI)
assert_type(policy_of(client), Failover)

claude = wrap({"anthropic": Anthropic()}, chain="anthropic/claude-haiku-4-5", reraise=False)
assert_type(
    claude.messages.create(model="auto", max_tokens=9, messages=[{"role": "user", "content": "?"}]),
    Message,
)


async def main() -> None:
    aclient = wrap({"openai": AsyncOpenAI()}, chain="openai/gpt-5-mini", hedge="p95")
    assert_type(aclient, AsyncOpenAI)
    answer = await aclient.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "?"}], stream=True
    )
    assert_type(answer, AsyncStream[ChatCompletionChunk])


client.chat.completions.create(model="auto", messages=[], temprature=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
wrap(clients, chain="groq/llama", atempts=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
wrap(clients, "groq/llama")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
wrap([OpenAI()], chain="groq/llama")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
