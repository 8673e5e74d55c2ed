"""pydantic-ai's FallbackModel, asked directly and through an agent.

The direct request is the nearest to what the others do; an agent, which most users of the
library have, keeps a conversation around it.
"""

from __future__ import annotations

from typing import ClassVar

import worker

worker.audit_if_asked()

from cases import FIRST_MODEL, SECOND_MODEL  # noqa: E402  # connections that an import makes are counted too
from openai import AsyncOpenAI  # noqa: E402
from pydantic_ai import Agent, ModelRequest  # noqa: E402
from pydantic_ai.direct import model_request, model_request_sync  # noqa: E402
from pydantic_ai.models.fallback import FallbackModel  # noqa: E402
from pydantic_ai.models.openai import OpenAIChatModel  # noqa: E402
from pydantic_ai.providers.openai import OpenAIProvider  # noqa: E402
from worker import Call, Subject, serve  # noqa: E402


class WithFallbackModel(Subject):
    """A model with another as its fallback; it remembers nothing between calls."""

    settings: ClassVar = dict.fromkeys(
        ("default", "once", "equal"), "`AsyncOpenAI(max_retries=0)`; has no cooldown"
    )
    attempts: ClassVar = {"default": 1, "once": 1, "equal": 1}
    cooldown: ClassVar = {"default": None, "once": None, "equal": None}

    def model(self) -> FallbackModel:
        """Return the two models in one."""
        first, second = (
            OpenAIChatModel(
                model,
                provider=OpenAIProvider(
                    openai_client=AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
                ),
            )
            for model, url in ((FIRST_MODEL, self.first_url), (SECOND_MODEL, self.second_url))
        )
        return FallbackModel(first, second)


class Direct(WithFallbackModel):
    """One request to the model."""

    name = "pydantic-ai FallbackModel, direct"

    def make(self) -> Call:
        model = self.model()

        def call(prompt: str) -> str | None:
            return model_request_sync(model, [ModelRequest.user_text_prompt(prompt)]).text

        async def call_async(prompt: str) -> str | None:
            return (await model_request(model, [ModelRequest.user_text_prompt(prompt)])).text

        return call if self.mode == "sync" else call_async


class ByAgent(WithFallbackModel):
    """One run of an agent without tools."""

    name = "pydantic-ai FallbackModel, agent"

    def make(self) -> Call:
        agent = Agent(self.model())

        def call(prompt: str) -> str:
            return agent.run_sync(prompt).output

        async def call_async(prompt: str) -> str:
            return (await agent.run(prompt)).output

        return call if self.mode == "sync" else call_async


if __name__ == "__main__":
    serve([Direct, ByAgent], ["pydantic-ai-slim", "httpx2"])
