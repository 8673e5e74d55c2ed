"""LangChain's `ChatOpenAI` over a wrapped client: its page, scenarios, tools and errors."""

from __future__ import annotations

import asyncio
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

ChatOpenAI = pytest.importorskip("langchain_openai").ChatOpenAI
tool = pytest.importorskip("langchain_core.tools").tool

pytestmark = pytest.mark.filterwarnings("default")

QUESTION = "Why is the sky blue?"


@tool
def weather(city: str) -> str:
    """Look up the weather of a city."""
    return f"It rains in {city}."


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be no key in the environment: the wrapped clients have theirs."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def server() -> Iterator[TwoProviders]:
    with isolated(), TwoProviders() as made:
        yield made


def llm_of(client: Any, model: str = "auto", **options: Any) -> Any:
    """Return LangChain's model over a wrapped client, sync or async."""
    prefix = "" if isinstance(client, openai.OpenAI) else "async_"
    given = {f"{prefix}client": client.chat.completions, f"root_{prefix}client": client}
    # For the client of the other kind, which it makes whether it is used or not.
    return ChatOpenAI(model=model, api_key="not-a-key", **given, **options)


# --- the page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [(), ("groq",)], ids=["all up", "groq down"])
def test_the_code_of_the_page_runs(down: tuple[str, ...], tmp_path: Path) -> None:
    """The page runs as it is, and the second provider answers if the first one is down."""
    the_page_runs("langchain-wrapped", tmp_path, *down)


def test_the_page_names_the_tested_versions() -> None:
    """The page names the versions that this folder installs."""
    page_names_versions("langchain-wrapped", Path(__file__).parent)


def test_the_clients_may_be_given_without_their_roots(server: TwoProviders) -> None:
    """Messages, tools and streams need no more than the completions of two wrapped clients."""

    async def main(llm_with: Any) -> Any:
        async with client_for(server, "AsyncOpenAI") as aclient:
            llm = llm_with(aclient.chat.completions)
            assert llm.invoke(QUESTION).text == f"{LLAMA} answers"
            return (await llm.ainvoke(QUESTION)).text

    with client_for(server) as client:

        def llm_with(acompletions: Any) -> Any:
            completions = client.chat.completions
            return ChatOpenAI(model=MINI, client=completions, async_client=acompletions)

        server.down.add("openai")
        assert asyncio.run(main(llm_with)) == f"{LLAMA} answers"
    assert server.models == [MINI, LLAMA] * 2


# --- scenarios ---------------------------------------------------------------------------------


def by_langchain(here: Stage) -> str:
    with wrapped(here) as client:
        llm = llm_of(client)
        if here.scenario.streams:
            return "".join(chunk.text for chunk in llm.stream(QUESTION))
        return llm.invoke(QUESTION).text


async def aby_langchain(here: Stage) -> str:
    async with awrapped(here) as client:
        llm = llm_of(client)
        if here.scenario.streams:
            return "".join([chunk.text async for chunk in llm.astream(QUESTION)])
        return (await llm.ainvoke(QUESTION)).text


@pytest.mark.parametrize("name", SCENARIO_NAMES)
def test_langchain_does_what_the_decorator_does(name: str) -> None:
    """A synchronous call of ChatOpenAI emits the events of the decorator."""
    meets_scenario(name, by_langchain)


@pytest.mark.parametrize("name", SCENARIO_NAMES)
def test_async_langchain_does_what_the_decorator_does(name: str) -> None:
    """An asynchronous call of ChatOpenAI emits the events of the decorator."""
    ameets_scenario(name, aby_langchain)


# --- tools, structured output, errors ----------------------------------------------------------


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_comes_from_the_second_provider(
    server: TwoProviders, method: str
) -> None:
    """Structured output falls over with each method that sends a schema."""
    server.down.add("groq")
    with client_for(server) as client:
        llm = llm_of(client).with_structured_output(City, method=method)
        assert llm.invoke(QUESTION) == PARIS
        assert list(llm.stream(QUESTION))[-1] == PARIS
    assert server.models == [LLAMA, MINI] * 2


def test_async_structured_output_comes_from_the_second_provider(server: TwoProviders) -> None:
    """The same holds for asynchronous code."""

    async def main() -> Any:
        async with client_for(server, "AsyncOpenAI") as client:
            return await llm_of(client).with_structured_output(City).ainvoke(QUESTION)

    server.down.add("groq")
    assert asyncio.run(main()) == PARIS


def test_tools_are_called_for_the_second_provider(server: TwoProviders) -> None:
    """Bound tools reach the second provider, whose name is in the message."""
    server.down.add("groq")
    with client_for(server) as client:
        message = llm_of(client).bind_tools([weather]).invoke(QUESTION)
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [
        ("weather", {"city": "Paris"})
    ]
    assert message.response_metadata["model_name"] == MINI


def test_headers_of_the_answer_are_those_of_the_second_provider(server: TwoProviders) -> None:
    """A model that asks for the raw response gets that of the provider which answered."""
    server.down.add("groq")
    with client_for(server) as client:
        message = llm_of(client, include_response_headers=True).invoke(QUESTION)
    assert message.response_metadata["headers"]["content-type"] == "application/json"


def test_an_outage_is_an_error_of_the_sdk(server: TwoProviders) -> None:
    """An outage is an error that inherits from the openai package's, after one try of each."""
    server.down |= {"groq", "openai"}
    with client_for(server) as client, pytest.raises(openai.InternalServerError):
        llm_of(client).invoke(QUESTION)
    assert server.models == [LLAMA, MINI]


def test_an_outage_without_reraise_is_the_error_of_the_chain(server: TwoProviders) -> None:
    """With reraise=False an outage is a ChainExhaustedError."""
    server.down |= {"groq", "openai"}
    with client_for(server, reraise=False) as client, pytest.raises(ChainExhaustedError):
        llm_of(client).invoke(QUESTION)
