"""Models of pydantic-ai over servers on loopback, and models that answer by a function."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pydantic_ai
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from resilient_llm.integrations.pydantic_ai import FailoverModel
from tests.integrations.scenarios import CHAIN, MESSAGES, Stage

IS_OLD = pydantic_ai.__version__.startswith("1.0.")
"""Whether this is the oldest supported release, in which responses have no finish reason."""
PROMPT: str = MESSAGES[0]["content"]


@asynccontextmanager
async def served(
    urls: dict[str, str], chain: list[str] | None = None, **options: Any
) -> AsyncIterator[FailoverModel]:
    """Give a `FailoverModel` over servers; its clients are closed afterwards.

    Args:
        urls: ``{provider: base URL}``.
        chain: Specs of the models, by default those of the scenarios.
        **options: Options of the policy, and ``max_retries`` of the clients.
    """
    retries = options.pop("max_retries", 0)
    clients = {
        name: openai.AsyncOpenAI(base_url=url, api_key="not-a-key", max_retries=retries)
        for name, url in urls.items()
    }
    models: dict[str, OpenAIChatModel] = {}
    for spec in chain or CHAIN:
        provider, name = spec.split("/", 1)
        models[spec] = OpenAIChatModel(
            name, provider=OpenAIProvider(openai_client=clients[provider])
        )
    try:
        yield FailoverModel(models, **options)
    finally:
        for client in clients.values():
            await client.close()


async def by_model(here: Stage) -> str:
    """Make the call of a scenario with an agent over a `FailoverModel`."""
    async with served(here.urls, **here.options) as model:
        agent = Agent(model)
        if here.scenario.streams:
            async with agent.run_stream(PROMPT) as result:
                return "".join([text async for text in texts_of(result)])
        return (await agent.run(PROMPT)).output


def texts_of(result: Any) -> Any:
    """Return the texts of a streamed run, each as soon as it comes."""
    return result.stream_text(delta=True, debounce_by=None)


# --- models that answer by a function ------------------------------------------------------------


def saying(text: str, *, called: list[str] | None = None, **more: Any) -> FunctionModel:
    """Return a model that says a text, whole or in two pieces."""

    def answer(messages: Any, info: Any) -> ModelResponse:
        if called is not None:
            called.append(text)
        return ModelResponse(parts=[TextPart(text)])

    async def stream(messages: Any, info: Any) -> AsyncIterator[str]:
        if called is not None:
            called.append(text)
        yield text[:2]
        yield text[2:]

    return FunctionModel(answer, stream_function=stream, **more)


def failing(
    error: Callable[[], BaseException] | None = None,
    *,
    called: list[str] | None = None,
    **more: Any,
) -> FunctionModel:
    """Return a model that raises: an HTTP status of 503, unless it is given something else."""

    def fail() -> None:
        if called is not None:
            called.append("failed")
        raise error() if error is not None else ModelHTTPError(503, "m", {"message": "Down"})

    def answer(messages: Any, info: Any) -> ModelResponse:
        fail()
        raise AssertionError

    async def stream(messages: Any, info: Any) -> AsyncIterator[str]:
        fail()
        yield ""

    return FunctionModel(answer, stream_function=stream, **more)


def chain_of(*models: Any, **options: Any) -> FailoverModel:
    """Return a `FailoverModel` of models named ``one/m``, ``two/m``, ``three/m``."""
    names = ("one/m", "two/m", "three/m")
    return FailoverModel(dict(zip(names, models, strict=False)), **options)
