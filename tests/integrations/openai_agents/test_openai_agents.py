"""The OpenAI Agents SDK over a wrapped client: its page, scenarios, tools, streams and errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
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
    page_names_versions,
    the_page_runs,
)
from tests.integrations.scenarios import Stage

agents = pytest.importorskip("agents")

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def server() -> Iterator[TwoProviders]:
    agents.set_tracing_disabled(True)
    with isolated(), TwoProviders() as made:
        yield made


def run(
    server: TwoProviders, use: Callable[[Any], Awaitable[Any]], model: str = "auto", **options: Any
) -> Any:
    """Return what a function returns for a model over a wrapped client."""

    async def main() -> Any:
        async with client_for(server, "AsyncOpenAI", **options) as client:
            return await use(agents.OpenAIChatCompletionsModel(model, openai_client=client))

    return asyncio.run(main())


# --- the page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [(), ("groq",)], ids=["all up", "groq down"])
def test_the_code_of_the_page_runs(down: tuple[str, ...], tmp_path: Path) -> None:
    """The page runs as it is, and the second provider answers if the first one is down."""
    the_page_runs("openai-agents", tmp_path, *down)


def test_the_page_names_the_tested_versions() -> None:
    """The page names the versions that this folder installs."""
    page_names_versions("openai-agents", Path(__file__).parent)


# --- scenarios ---------------------------------------------------------------------------------


async def aby_agent(here: Stage) -> str:
    agents.set_tracing_disabled(True)
    async with awrapped(here) as client:
        model = agents.OpenAIChatCompletionsModel("auto", openai_client=client)
        agent = agents.Agent(name="Assistant", model=model)
        if not here.scenario.streams:
            return (await agents.Runner.run(agent, "Why is the sky blue?")).final_output
        return "".join([text async for text in texts(agent)])


async def texts(agent: Any) -> Any:
    """Give the pieces of text of a streamed run."""
    async for event in agents.Runner.run_streamed(agent, "Why is the sky blue?").stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            yield event.data.delta


@pytest.mark.parametrize("name", SCENARIO_NAMES)
def test_an_agent_does_what_the_decorator_does(name: str) -> None:
    """A run of an agent emits the events of the decorator."""
    ameets_scenario(name, aby_agent)


# --- tools and structured output ---------------------------------------------------------------


@agents.function_tool
def weather(city: str) -> str:
    """Look up the weather of a city."""
    return f"It rains in {city}."


def test_tools_are_called_for_the_second_provider(server: TwoProviders) -> None:
    """Each turn of an agent with tools falls over to the second provider."""
    server.down.add("groq")

    async def use(model: Any) -> Any:
        agent = agents.Agent(name="Assistant", model=model, tools=[weather])
        return (await agents.Runner.run(agent, "Umbrella?")).final_output

    assert run(server, use) == f"{MINI} answers"
    assert server.models == [LLAMA, MINI] * 2
    assert server.requests[-1].body["messages"][-1]["content"] == "It rains in Paris."


def test_structured_output_comes_from_the_second_provider(server: TwoProviders) -> None:
    """An output type is kept by the second provider."""
    server.down.add("groq")

    async def use(model: Any) -> Any:
        agent = agents.Agent(name="Assistant", model=model, output_type=City)
        return (await agents.Runner.run(agent, "Which city?")).final_output

    assert run(server, use) == PARIS
    assert server.models == [LLAMA, MINI]


def test_a_stream_comes_from_the_second_provider(server: TwoProviders) -> None:
    """A streamed run falls over before its first content."""
    server.down.add("groq")

    async def use(model: Any) -> Any:
        return [text async for text in texts(agents.Agent(name="Assistant", model=model))]

    assert run(server, use) == [f"{MINI} ", "answers"]
    assert server.models == [LLAMA, MINI]


def test_the_chain_starts_at_the_named_model(server: TwoProviders) -> None:
    """The model of an agent is tried first, and the rest of the chain follows."""
    server.down.add("openai")

    async def use(model: Any) -> Any:
        return (
            await agents.Runner.run(agents.Agent(name="Assistant", model=model), "Why?")
        ).final_output

    assert run(server, use, model=MINI) == f"{LLAMA} answers"
    assert server.models == [MINI, LLAMA]


# --- errors and settings -----------------------------------------------------------------------


async def _asks(model: Any, **settings: Any) -> Any:
    agent = agents.Agent(
        name="Assistant", model=model, model_settings=agents.ModelSettings(**settings)
    )
    return (await agents.Runner.run(agent, "Why?")).final_output


def test_an_outage_is_the_error_of_the_sdk(server: TwoProviders) -> None:
    """An outage leaves a run as the openai package's error, after each target was asked once."""
    server.down |= {"groq", "openai"}
    with pytest.raises(openai.InternalServerError):
        run(server, _asks)
    assert server.models == [LLAMA, MINI]


def test_an_outage_without_reraise_is_the_error_of_the_chain(server: TwoProviders) -> None:
    """With reraise=False an outage is a ChainExhaustedError."""
    server.down |= {"groq", "openai"}
    with pytest.raises(ChainExhaustedError):
        run(server, _asks, reraise=False)


def test_retries_of_the_sdk_keep_the_chain(server: TwoProviders) -> None:
    """A repetition by the SDK takes a copy of the wrapped client, which still has its chain."""
    server.down |= {"groq", "openai"}
    seen: list[int] = []

    def policy(_: Any) -> bool:
        seen.append(len(server.requests))
        server.down.discard("openai")
        return True

    retry = agents.ModelRetrySettings(max_retries=1, policy=policy, backoff={"initial_delay": 0.0})
    assert run(server, lambda model: _asks(model, retry=retry)) == f"{MINI} answers"
    assert seen == [2]
    assert server.models == [LLAMA, MINI] * 2


def test_a_model_that_is_not_in_the_chain_is_a_mistake(server: TwoProviders) -> None:
    """The SDK's default model is refused with the names that are allowed."""

    async def main() -> Any:
        async with client_for(server, "AsyncOpenAI") as client:
            agents.set_default_openai_client(client, use_for_tracing=False)
            agents.set_default_openai_api("chat_completions")
            named = agents.Agent(name="Assistant", model=LLAMA)
            assert (await agents.Runner.run(named, "Why?")).final_output == f"{LLAMA} answers"
            await agents.Runner.run(agents.Agent(name="Assistant"), "Why?")

    with pytest.raises(ValueError, match="expected 'auto'"):
        asyncio.run(main())
