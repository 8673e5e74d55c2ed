"""instructor over a wrapped client: its page, scenarios, structured output, streams and errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from resilient_llm import ChainExhaustedError, StreamInterruptedError
from resilient_llm.testing import isolated
from tests.integrations.frameworks import (
    LLAMA,
    MINI,
    SCENARIO_NAMES,
    TwoProviders,
    ameets_scenario,
    awrapped,
    client_for,
    meets_scenario,
    page_names_versions,
    the_page_runs,
    wrapped,
)
from tests.integrations.scenarios import MESSAGES, Stage, stage, text_of_chunk

instructor = pytest.importorskip("instructor")
InstructorRetryException = pytest.importorskip("instructor.core").InstructorRetryException

pytestmark = pytest.mark.filterwarnings("default")


class City(BaseModel):
    """A city."""

    name: str
    population: int


PARIS = {"name": "Paris", "population": 7}
ASK: Any = {"model": "auto", "response_model": City, "messages": MESSAGES}


@pytest.fixture
def server() -> Iterator[TwoProviders]:
    with isolated(), TwoProviders() as made:
        yield made


# --- the page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [(), ("groq",)], ids=["all up", "groq down"])
def test_the_code_of_the_page_runs(down: tuple[str, ...], tmp_path: Path) -> None:
    """The page runs as it is, and the second provider answers if the first one is down."""
    the_page_runs("instructor", tmp_path, *down)


def test_the_page_names_the_tested_versions() -> None:
    """The page names the versions that this folder installs."""
    page_names_versions("instructor", Path(__file__).parent)


# --- scenarios ---------------------------------------------------------------------------------


def by_instructor(here: Stage) -> str:
    with wrapped(here) as made:
        create = instructor.from_openai(made).create
        if not here.scenario.streams:
            answer = create(model="auto", response_model=None, messages=MESSAGES)
            return answer.choices[0].message.content
        with create(model="auto", response_model=None, messages=MESSAGES, stream=True) as stream:
            return "".join(text_of_chunk(chunk) for chunk in stream)


async def aby_instructor(here: Stage) -> str:
    async with awrapped(here) as made:
        create = instructor.from_openai(made).create
        if not here.scenario.streams:
            answer = await create(model="auto", response_model=None, messages=MESSAGES)
            return answer.choices[0].message.content
        stream = await create(model="auto", response_model=None, messages=MESSAGES, stream=True)
        async with stream:
            return "".join([text_of_chunk(chunk) async for chunk in stream])


@pytest.mark.parametrize("name", SCENARIO_NAMES)
def test_instructor_does_what_the_decorator_does(name: str) -> None:
    """A sync client under instructor emits the events of the decorator."""
    meets_scenario(name, by_instructor)


@pytest.mark.parametrize("name", SCENARIO_NAMES)
def test_async_instructor_does_what_the_decorator_does(name: str) -> None:
    """An async client under instructor emits the events of the decorator."""
    ameets_scenario(name, aby_instructor)


# --- structured output -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_the_second_provider_gives_the_object(server: TwoProviders, mode: str) -> None:
    """Structured output comes from the second provider if the first one is down, in each mode."""
    server.down.add("groq")
    with client_for(server) as made:
        structured = instructor.from_openai(made, mode=getattr(instructor.Mode, mode))
        city, completion = structured.create_with_completion(**ASK, max_retries=0)
    assert (city.model_dump(), completion.model) == (PARIS, MINI)
    assert server.models == [LLAMA, MINI]


def test_the_second_provider_gives_the_object_to_async_code(server: TwoProviders) -> None:
    """The same holds for asynchronous code."""

    async def main() -> Any:
        async with client_for(server, "AsyncOpenAI") as made:
            return await instructor.from_openai(made).create(**ASK, max_retries=0)

    server.down.add("groq")
    assert asyncio.run(main()).model_dump() == PARIS
    assert server.models == [LLAMA, MINI]


def test_the_chain_starts_at_the_named_model(server: TwoProviders) -> None:
    """The model of a call is tried first, and the rest of the chain follows."""
    with client_for(server) as made:
        structured = instructor.from_openai(made)
        assert structured.create(**{**ASK, "model": MINI}).model_dump() == PARIS
        server.down.add("openai")
        assert structured.create(**{**ASK, "model": MINI}).model_dump() == PARIS
    assert server.models == [MINI, MINI, LLAMA]


def test_streams_of_parts_come_from_the_second_provider(server: TwoProviders) -> None:
    """Partial objects and iterables fall over as well."""
    server.down.add("groq")
    with client_for(server) as made:
        structured = instructor.from_openai(made)
        parts = list(structured.create_partial(**ASK, max_retries=0))
        assert parts[-1].model_dump() == PARIS
        assert parts[0].name is None
        (city,) = structured.create_iterable(**ASK, max_retries=0)
        assert city.model_dump() == PARIS
    assert server.models == [LLAMA, MINI] * 2


def test_async_streams_of_parts_come_from_the_second_provider(server: TwoProviders) -> None:
    """The same holds for asynchronous code."""

    async def main() -> Any:
        async with client_for(server, "AsyncOpenAI") as made:
            structured = instructor.from_openai(made)
            return [part async for part in structured.create_partial(**ASK, max_retries=0)]

    server.down.add("groq")
    assert asyncio.run(main())[-1].model_dump() == PARIS
    assert server.models == [LLAMA, MINI]


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 3])
def test_an_outage_is_the_error_of_instructor(server: TwoProviders, retries: int) -> None:
    """An outage is an InstructorRetryException with the SDK's error, and is not repeated."""
    server.down |= {"groq", "openai"}
    with (
        client_for(server) as made,
        pytest.raises(InstructorRetryException) as caught,
    ):
        instructor.from_openai(made).create(**ASK, max_retries=retries)
    assert isinstance(caught.value.__cause__, openai.InternalServerError)
    assert server.models == [LLAMA, MINI]


def test_an_outage_without_reraise_has_the_error_of_the_chain(server: TwoProviders) -> None:
    """With reraise=False the cause is a ChainExhaustedError."""
    server.down |= {"groq", "openai"}
    with (
        client_for(server, reraise=False) as made,
        pytest.raises(InstructorRetryException) as caught,
    ):
        instructor.from_openai(made).create(**ASK, max_retries=0)
    assert isinstance(caught.value.__cause__, ChainExhaustedError)


def test_a_broken_stream_of_parts_is_not_continued() -> None:
    """A stream that breaks after content raises, and the second provider is not called."""
    with (
        isolated(),
        stage("stream cut after content") as here,
        wrapped(here) as made,
        pytest.raises(InstructorRetryException) as caught,
    ):
        list(instructor.from_openai(made).create_partial(**ASK, max_retries=2))
    assert isinstance(caught.value.__cause__, StreamInterruptedError)
    assert here.requests() == {"groq": 1, "openai": 0}
