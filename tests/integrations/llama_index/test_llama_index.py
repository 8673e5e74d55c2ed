"""LlamaIndex over a wrapped client: its page, scenarios, tools, structured output and errors."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from resilient_llm import ChainExhaustedError
from resilient_llm.testing import isolated
from tests.integrations.frameworks import (
    LLAMA,
    MINI,
    PARIS,
    SCENARIO_NAMES,
    City,
    TwoProviders,
    ameets_scenario,
    awrapped,
    client_for,
    meets_scenario,
    page_names_versions,
    the_page_runs,
    wrapped,
)
from tests.integrations.scenarios import Stage

pytest.importorskip("llama_index.llms.openai_like")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from llama_index.core.agent.workflow import FunctionAgent
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai import OpenAI
    from llama_index.llms.openai_like import OpenAILike

pytestmark = pytest.mark.filterwarnings("default")

QUESTION = [ChatMessage(role="user", content="Why is the sky blue?")]


@pytest.fixture
def server() -> Iterator[TwoProviders]:
    with isolated(), TwoProviders() as made:
        yield made


def llm_of(client: Any, model: str = "auto", **options: Any) -> Any:
    """Return LlamaIndex's model over a wrapped client, sync or async."""
    kind = "openai_client" if isinstance(client, openai.OpenAI) else "async_openai_client"
    given: dict[str, Any] = {
        kind: client,
        "api_key": "not-a-key",
        "max_retries": 0,
        "is_chat_model": True,
        "is_function_calling_model": True,
        "should_use_structured_outputs": True,
        **options,
    }
    return OpenAILike(model=model, **given)


# --- the page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [(), ("groq",)], ids=["all up", "groq down"])
def test_the_code_of_the_page_runs(down: tuple[str, ...], tmp_path: Path) -> None:
    """The page runs as it is, and the second provider answers if the first one is down."""
    the_page_runs("llama-index", tmp_path, *down)


def test_the_page_names_the_tested_versions() -> None:
    """The page names the versions that this folder installs."""
    page_names_versions("llama-index", Path(__file__).parent)


# --- scenarios ---------------------------------------------------------------------------------


def by_llama_index(here: Stage) -> str:
    with wrapped(here) as client:
        llm = llm_of(client)
        if here.scenario.streams:
            return "".join(part.delta or "" for part in llm.stream_chat(QUESTION))
        return llm.chat(QUESTION).message.content


async def aby_llama_index(here: Stage) -> str:
    async with awrapped(here) as client:
        llm = llm_of(client)
        if here.scenario.streams:
            return "".join([part.delta or "" async for part in await llm.astream_chat(QUESTION)])
        return (await llm.achat(QUESTION)).message.content


@pytest.mark.parametrize("name", SCENARIO_NAMES)
def test_llama_index_does_what_the_decorator_does(name: str) -> None:
    """A synchronous call of LlamaIndex emits the events of the decorator."""
    meets_scenario(name, by_llama_index)


@pytest.mark.parametrize("name", SCENARIO_NAMES)
def test_async_llama_index_does_what_the_decorator_does(name: str) -> None:
    """An asynchronous call of LlamaIndex emits the events of the decorator."""
    ameets_scenario(name, aby_llama_index)


# --- models, tools, structured output ----------------------------------------------------------


@pytest.mark.parametrize("cls", [OpenAILike, OpenAI])
def test_the_chain_starts_at_the_named_model(server: TwoProviders, cls: Any) -> None:
    """Both classes take a wrapped client, and the chain starts at the model that they name."""
    options: dict[str, Any] = {"is_chat_model": True} if cls is OpenAILike else {}
    server.down.add("openai")
    with client_for(server) as client:
        llm = cls(model=MINI, openai_client=client, api_key="x", max_retries=0, **options)
        assert llm.chat(QUESTION).message.content == f"{LLAMA} answers"
    assert server.models == [MINI, LLAMA]


def test_structured_output_comes_from_the_second_provider(server: TwoProviders) -> None:
    """Structured output falls over in synchronous code."""
    server.down.add("groq")
    with client_for(server) as client:
        assert llm_of(client).as_structured_llm(City).chat(QUESTION).raw == PARIS
    assert server.models == [LLAMA, MINI]


def test_async_structured_output_comes_from_the_second_provider(server: TwoProviders) -> None:
    """Structured output falls over in asynchronous code."""

    async def main() -> Any:
        async with client_for(server, "AsyncOpenAI") as client:
            return (await llm_of(client).as_structured_llm(City).achat(QUESTION)).raw

    server.down.add("groq")
    assert asyncio.run(main()) == PARIS
    assert server.models == [LLAMA, MINI]


def test_an_agent_calls_tools_for_the_second_provider(server: TwoProviders) -> None:
    """Each step of an agent falls over, and the tool's result reaches the second provider."""

    def weather(city: str) -> str:
        """Look up the weather of a city."""
        return f"It rains in {city}."

    async def main() -> str:
        async with client_for(server, "AsyncOpenAI") as client:
            return str(await FunctionAgent(tools=[weather], llm=llm_of(client)).run("Umbrella?"))

    server.down.add("groq")
    assert asyncio.run(main()) == f"{MINI} answers"
    assert server.models == [LLAMA, MINI] * 2
    assert server.requests[-1].body["messages"][-1]["content"] == "It rains in Paris."


# --- errors ------------------------------------------------------------------------------------


def test_an_outage_is_the_error_of_the_sdk(server: TwoProviders) -> None:
    """With max_retries=0 an outage is the openai package's error, after one try of each target."""
    server.down |= {"groq", "openai"}
    with client_for(server) as client, pytest.raises(openai.InternalServerError):
        llm_of(client).chat(QUESTION)
    assert server.models == [LLAMA, MINI]


def test_an_outage_without_reraise_is_the_error_of_the_chain(server: TwoProviders) -> None:
    """With reraise=False an outage is a ChainExhaustedError."""
    server.down |= {"groq", "openai"}
    with client_for(server, reraise=False) as client, pytest.raises(ChainExhaustedError):
        llm_of(client).chat(QUESTION)
