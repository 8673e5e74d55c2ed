"""Haystack over a wrapped client: its page, scenarios, agents, streams, errors and saved pipelines."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

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

pytest.importorskip("haystack.components.generators.chat")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from haystack import Pipeline, component
    from haystack.components.agents import Agent
    from haystack.components.generators.chat import OpenAIChatGenerator
    from haystack.core.errors import PipelineRuntimeError
    from haystack.dataclasses import ChatMessage
    from haystack.tools import tool

pytestmark = pytest.mark.filterwarnings("default")

QUESTION = [ChatMessage.from_user("Why is the sky blue?")]


@tool
def weather(city: Annotated[str, "The city"]) -> str:
    """Look up the weather of a city."""
    return f"It rains in {city}."


@component
class Generator(OpenAIChatGenerator):  # type: ignore[misc]  # the decorator is untyped
    """A generator that takes its clients from a test."""

    clients: Any = None

    def warm_up(self) -> None:
        self.client = type(self).clients

    async def warm_up_async(self) -> None:
        self.async_client = type(self).clients


@pytest.fixture(autouse=True)
def a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Haystack find the key that it looks for; the wrapped clients have theirs."""
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")


@pytest.fixture
def server() -> Iterator[TwoProviders]:
    with isolated(), TwoProviders() as made:
        yield made


def generator_of(client: Any, model: str = "auto") -> Any:
    """Return a generator over a wrapped client, sync or async."""
    Generator.clients = client
    return Generator(model=model)


# --- the page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [(), ("groq",)], ids=["all up", "groq down"])
def test_the_code_of_the_page_runs(down: tuple[str, ...], tmp_path: Path) -> None:
    """The page runs as it is, and the second provider answers if the first one is down."""
    the_page_runs("haystack", tmp_path, *down, HAYSTACK_TELEMETRY_ENABLED="False")


def test_the_page_names_the_tested_versions() -> None:
    """The page names the versions that this folder installs."""
    page_names_versions("haystack", Path(__file__).parent)


# --- scenarios ---------------------------------------------------------------------------------


def by_haystack(here: Stage) -> str:
    with wrapped(here) as client:
        generator = generator_of(client)
        if not here.scenario.streams:
            return generator.run(QUESTION)["replies"][0].text
        parts: list[str] = []
        generator.run(QUESTION, streaming_callback=lambda chunk: parts.append(chunk.content))
        return "".join(parts)


async def aby_haystack(here: Stage) -> str:
    parts: list[str] = []

    async def keep(chunk: Any) -> None:
        parts.append(chunk.content)

    async with awrapped(here) as client:
        generator = generator_of(client)
        if not here.scenario.streams:
            return (await generator.run_async(QUESTION))["replies"][0].text
        await generator.run_async(QUESTION, streaming_callback=keep)
        return "".join(parts)


@pytest.mark.parametrize("name", SCENARIO_NAMES)
def test_haystack_does_what_the_decorator_does(name: str) -> None:
    """A synchronous run of a generator emits the events of the decorator."""
    meets_scenario(name, by_haystack)


@pytest.mark.parametrize("name", SCENARIO_NAMES)
def test_async_haystack_does_what_the_decorator_does(name: str) -> None:
    """An asynchronous run of a generator emits the events of the decorator."""
    ameets_scenario(name, aby_haystack)


# --- pipelines, agents, structured output ------------------------------------------------------


def test_the_chain_starts_at_the_named_model(server: TwoProviders) -> None:
    """The model of a generator is tried first, and the reply names the model that answered."""
    server.down.add("openai")
    with client_for(server) as client:
        (reply,) = generator_of(client, MINI).run(QUESTION)["replies"]
    assert (reply.text, reply.meta["model"]) == (f"{LLAMA} answers", LLAMA)
    assert server.models == [MINI, LLAMA]


def test_a_loaded_pipeline_follows_the_chain(server: TwoProviders) -> None:
    """A pipeline with the component is saved without a key, and follows the chain when loaded."""
    server.down.add("groq")
    with client_for(server) as client:
        pipeline = Pipeline()
        pipeline.add_component("llm", generator_of(client))
        text = pipeline.dumps()
        assert "not-a-key" not in text
        loaded = Pipeline.loads(text, allowed_modules=[__name__])
        reply = loaded.run({"llm": {"messages": QUESTION}})["llm"]["replies"][0]
    assert reply.text == f"{MINI} answers"


def test_an_agent_calls_tools_for_the_second_provider(server: TwoProviders) -> None:
    """Each request of an agent falls over, and the tool's result reaches the second provider."""
    server.down.add("groq")
    with client_for(server) as client:
        agent = Agent(chat_generator=generator_of(client), tools=[weather])
        assert agent.run(messages=QUESTION)["messages"][-1].text == f"{MINI} answers"
    assert server.models == [LLAMA, MINI] * 2
    assert "It rains in Paris." in str(server.requests[-1].body["messages"][-1]["content"])


@pytest.mark.parametrize("is_async", [False, True])
def test_structured_output_comes_from_the_second_provider(
    server: TwoProviders, is_async: bool
) -> None:
    """A response format is kept by the second provider."""
    shaped = {"response_format": City}

    async def main() -> Any:
        async with client_for(server, "AsyncOpenAI") as client:
            return await generator_of(client).run_async(QUESTION, generation_kwargs=shaped)

    server.down.add("groq")
    if is_async:
        result = asyncio.run(main())
    else:
        with client_for(server) as client:
            result = generator_of(client).run(QUESTION, generation_kwargs=shaped)
    city = City.model_validate_json(result["replies"][0].text)
    assert city == PARIS
    assert server.models == [LLAMA, MINI]


@pytest.mark.parametrize(
    ("options", "kind"),
    [({}, openai.InternalServerError), ({"reraise": False}, ChainExhaustedError)],
    ids=["reraise", "no reraise"],
)
def test_an_outage_is_the_error_of_the_sdk_or_of_the_chain(
    server: TwoProviders, options: dict[str, Any], kind: type[BaseException]
) -> None:
    """An outage leaves the generator as the SDK's error, or the chain's with reraise=False."""
    server.down |= {"groq", "openai"}
    with client_for(server, **options) as client, pytest.raises(kind):
        generator_of(client).run(QUESTION)
    assert server.models == [LLAMA, MINI]


def test_an_outage_in_a_pipeline_is_its_error(server: TwoProviders) -> None:
    """A pipeline raises its own error, with the SDK's as the cause."""
    server.down |= {"groq", "openai"}
    with client_for(server) as client:
        pipeline = Pipeline()
        pipeline.add_component("llm", generator_of(client))
        with pytest.raises(PipelineRuntimeError) as caught:
            pipeline.run({"llm": {"messages": QUESTION}})
    assert isinstance(caught.value.__cause__, openai.InternalServerError)
