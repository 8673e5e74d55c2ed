"""Semantic Kernel over a wrapped client: its page, scenarios, plugins, streams and errors."""

from __future__ import annotations

import asyncio
import warnings
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

pytest.importorskip("semantic_kernel")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from semantic_kernel.agents import ChatCompletionAgent
    from semantic_kernel.connectors.ai.open_ai import (
        OpenAIChatCompletion,
        OpenAIChatPromptExecutionSettings,
    )
    from semantic_kernel.contents import ChatHistory
    from semantic_kernel.exceptions import ServiceResponseException
    from semantic_kernel.functions import kernel_function

pytestmark = pytest.mark.filterwarnings("default")


class Weather:
    """A plugin."""

    @kernel_function(description="Look up the weather of a city.")
    def weather(self, city: str) -> str:
        return f"It rains in {city}."


@pytest.fixture
def server() -> Iterator[TwoProviders]:
    with isolated(), TwoProviders() as made:
        yield made


def run(
    server: TwoProviders, use: Callable[[Any], Awaitable[Any]], model: str = "auto", **options: Any
) -> Any:
    """Return what a function returns for a service over a wrapped client."""

    async def main() -> Any:
        async with client_for(server, "AsyncOpenAI", **options) as client:
            return await use(OpenAIChatCompletion(ai_model_id=model, async_client=client))

    return asyncio.run(main())


async def asks(service: Any, **settings: Any) -> str:
    """Return the answer of a service to one message."""
    history = ChatHistory()
    history.add_user_message("Why is the sky blue?")
    given = OpenAIChatPromptExecutionSettings(**settings)
    return str(await service.get_chat_message_content(history, given))


async def streams(service: Any) -> list[str]:
    """Return the pieces of a streamed answer."""
    history = ChatHistory()
    history.add_user_message("Why is the sky blue?")
    given = OpenAIChatPromptExecutionSettings()
    return [str(part) async for part in service.get_streaming_chat_message_content(history, given)]


# --- the page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [(), ("groq",)], ids=["all up", "groq down"])
def test_the_code_of_the_page_runs(down: tuple[str, ...], tmp_path: Path) -> None:
    """The page runs as it is, and the second provider answers if the first one is down."""
    the_page_runs("semantic-kernel", tmp_path, *down)


def test_the_page_names_the_tested_versions() -> None:
    """The page names the versions that this folder installs."""
    page_names_versions("semantic-kernel", Path(__file__).parent)


# --- scenarios ---------------------------------------------------------------------------------


async def aby_semantic_kernel(here: Stage) -> str:
    async with awrapped(here) as client:
        service = OpenAIChatCompletion(ai_model_id="auto", async_client=client)
        return "".join(await streams(service)) if here.scenario.streams else await asks(service)


@pytest.mark.parametrize("name", SCENARIO_NAMES)
def test_semantic_kernel_does_what_the_decorator_does(name: str) -> None:
    """A request of a service emits the events of the decorator."""
    ameets_scenario(name, aby_semantic_kernel)


# --- plugins, structured output, errors --------------------------------------------------------


def test_the_chain_starts_at_the_named_model(server: TwoProviders) -> None:
    """The model of a service is tried first, and the rest of the chain follows."""
    server.down.add("openai")
    assert run(server, asks, model=MINI) == f"{LLAMA} answers"
    assert server.models == [MINI, LLAMA]


def test_an_agent_calls_plugins_for_the_second_provider(server: TwoProviders) -> None:
    """Each request of an agent falls over, and the plugin's result reaches the second provider."""

    async def use(service: Any) -> str:
        agent = ChatCompletionAgent(service=service, name="Helper", plugins=[Weather()])
        return str((await agent.get_response("Umbrella?")).content)

    server.down.add("groq")
    assert run(server, use) == f"{MINI} answers"
    assert server.models == [LLAMA, MINI] * 2
    assert server.requests[-1].body["messages"][-1]["content"] == "It rains in Paris."


def test_structured_output_comes_from_the_second_provider(server: TwoProviders) -> None:
    """A response format is kept by the second provider."""
    server.down.add("groq")
    text = run(server, lambda service: asks(service, response_format=City))
    assert City.model_validate_json(text) == PARIS
    assert server.models == [LLAMA, MINI]


def test_a_stream_comes_from_the_second_provider(server: TwoProviders) -> None:
    """A stream falls over before its first content."""
    server.down.add("groq")
    assert [part for part in run(server, streams) if part] == [f"{MINI} ", "answers"]
    assert server.models == [LLAMA, MINI]


@pytest.mark.parametrize(
    ("options", "cause"),
    [({}, openai.InternalServerError), ({"reraise": False}, ChainExhaustedError)],
    ids=["reraise", "no reraise"],
)
def test_an_outage_is_the_error_of_semantic_kernel(
    server: TwoProviders, options: dict[str, Any], cause: type[BaseException]
) -> None:
    """An outage is a ServiceResponseException, whose cause is the SDK's or the chain's error."""
    server.down |= {"groq", "openai"}
    with pytest.raises(ServiceResponseException) as caught:
        run(server, asks, **options)
    assert isinstance(caught.value.__cause__, cause)
    assert server.models == [LLAMA, MINI]
