"""The clients of the demo: functions that ask a model with the real SDKs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from anthropic import AnthropicError, AsyncAnthropic
from anthropic import DefaultAsyncHttpxClient as AnthropicHttpClient
from openai import AsyncOpenAI, OpenAIError
from openai import DefaultAsyncHttpxClient as OpenAIHttpClient

from resilient_llm import limits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from openai import AsyncStream
    from openai.types.chat import ChatCompletionChunk

    from resilient_llm import Target
    from resilient_llm.demo.servers import Server

CLIENT_ERRORS: Final = (OpenAIError, AnthropicError)
_NO_KEY: Final = "not-a-key"


def openai_client(server: Server, **options: Any) -> AsyncOpenAI:
    """Return a client for one server; the proxies of the environment are not for loopback."""
    return AsyncOpenAI(
        base_url=server.url,
        api_key=_NO_KEY,
        http_client=OpenAIHttpClient(trust_env=False),
        **options,
    )


async def ask_openai(client: AsyncOpenAI, model: str, prompt: str) -> str:
    """Ask one model with a client, without a chain."""
    reply = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}]
    )
    return reply.choices[0].message.content or ""


class Clients:
    """A client for every provider of the chains; closed by ``async with``.

    The clients' own retries are off, since they would multiply with those of the chain. The
    limits that providers report in headers are recorded (`resilient_llm.limits`).
    """

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self._openai: dict[str, AsyncOpenAI] = {}
        self._anthropic: dict[str, AsyncAnthropic] = {}
        for provider, server in servers.items():
            if server.protocol == "anthropic":
                self._anthropic[provider] = limits.listen(
                    AsyncAnthropic(
                        base_url=server.url,
                        api_key=_NO_KEY,
                        max_retries=0,
                        http_client=AnthropicHttpClient(trust_env=False),
                    )
                )
            else:
                self._openai[provider] = limits.listen(openai_client(server, max_retries=0))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for client in (*self._openai.values(), *self._anthropic.values()):
            await client.close()

    async def ask(self, target: Target, prompt: str) -> str:
        """Ask one model, without a chain."""
        if target.provider in self._anthropic:
            message = await self._anthropic[target.provider].messages.create(
                model=target.model, max_tokens=100, messages=[{"role": "user", "content": prompt}]
            )
            return "".join(block.text for block in message.content if block.type == "text")
        return await ask_openai(self._openai[target.provider], target.model, prompt)

    async def stream(self, target: Target, prompt: str) -> AsyncStream[ChatCompletionChunk]:
        """Ask one model for a stream, without a chain."""
        return await self._openai[target.provider].chat.completions.create(
            model=target.model, messages=[{"role": "user", "content": prompt}], stream=True
        )
