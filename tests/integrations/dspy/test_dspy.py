"""DSPy over an engine that follows a chain: its page, scenarios, programs, streams and errors."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import StreamPolicy, Target, classify, failover
from resilient_llm.testing import capture_events, isolated
from tests.integrations.frameworks import (
    LLAMA,
    MINI,
    TwoProviders,
    ameets_scenario,
    meets_scenario,
    page_names_versions,
    the_page_runs,
)
from tests.integrations.scenarios import CHAIN, SCENARIOS, Stage, stage

OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1"}
os.environ.update(OFFLINE)  # read when it is imported

dspy = pytest.importorskip("dspy")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from dspy.clients.engines import AsyncLiteLLMEngine, LiteLLMEngine

pytestmark = pytest.mark.filterwarnings("default")

NAMES = [name for name, each in SCENARIOS.items() if not each.streams]
"""Scenarios whose events are those of the decorator. The items of streams are DSPy's own events,
so their numbers differ; tests below have those."""


class Engine:
    """The engine of the page."""

    def __init__(self, policy: Any, engines: dict[str, Any]) -> None:
        self._engines = engines
        self.complete = policy(self._complete)
        self.stream = policy(self._stream)

    def _complete(self, target: Target, request: Any) -> Any:
        return self._engines[target.provider].complete(_for(request, target))

    def _stream(self, target: Target, request: Any) -> Any:
        return self._engines[target.provider].stream(_for(request, target))


class AsyncEngine(Engine):
    """The asynchronous one."""

    async def _complete(self, target: Target, request: Any) -> Any:
        return await self._engines[target.provider].complete(_for(request, target))


def _for(request: Any, target: Target) -> Any:
    return replace(request, model=f"openai/{target.model}")


def _cause_of(error: BaseException) -> Any:
    is_translated = isinstance(error, dspy.lm15.LM15Error) and error.__cause__ is not None
    return classify(error.__cause__) if is_translated else None


def lm_of(urls: dict[str, str], chain: list[str], **options: Any) -> Any:
    """Return an LM whose engines follow a chain."""
    policy = failover(
        chain,
        reraise=True,
        classify=_cause_of,
        stream=StreamPolicy(commit=lambda event: event.type == "delta"),
        **options,
    )
    made = {"api_key": "not-a-key", "timeout": options.get("timeout", 20.0)}
    engines = {name: LiteLLMEngine(api_base=url, **made) for name, url in urls.items()}
    aengines = {name: AsyncLiteLLMEngine(api_base=url, **made) for name, url in urls.items()}
    return dspy.LM(
        "failover",
        engine=Engine(policy, engines),
        async_engine=AsyncEngine(policy, aengines),
        num_retries=0,
        cache=False,
    )


@pytest.fixture(autouse=True)
def no_loop() -> None:
    """Let there be no event loop outside of a run: LiteLLM would make one and never close it."""
    asyncio.set_event_loop(None)


@pytest.fixture
def server() -> Iterator[TwoProviders]:
    with isolated(), TwoProviders() as made:
        yield made


def lm_for(server: TwoProviders) -> Any:
    urls = {name: server.url(name) for name in ("groq", "openai")}
    return lm_of(urls, [f"groq/{LLAMA}", f"openai/{MINI}"], attempts=1)


async def streamed(lm: Any) -> list[str]:
    """Return the pieces of an answer that a program streams."""
    listener = dspy.streaming.StreamListener(signature_field_name="answer")
    with dspy.context(lm=lm):
        program = dspy.streamify(dspy.Predict("question -> answer"), stream_listeners=[listener])
        return [
            part.chunk
            async for part in program(question="Why?")
            if isinstance(part, dspy.streaming.StreamResponse)
        ]


# --- the page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [(), ("groq",)], ids=["all up", "groq down"])
def test_the_code_of_the_page_runs(down: tuple[str, ...], tmp_path: Path) -> None:
    """The page runs as it is, and the second provider answers if the first one is down."""
    the_page_runs("dspy", tmp_path, *down, **OFFLINE, DSPY_CACHEDIR=str(tmp_path))


def test_the_page_names_the_tested_versions() -> None:
    """The page names the versions that this folder installs."""
    page_names_versions("dspy", Path(__file__).parent)


# --- scenarios ---------------------------------------------------------------------------------


def by_dspy(here: Stage) -> str:
    return lm_of(here.urls, CHAIN, **here.options)("Why is the sky blue?")[0]


async def aby_dspy(here: Stage) -> str:
    return (await lm_of(here.urls, CHAIN, **here.options).acall("Why is the sky blue?"))[0]


@pytest.mark.parametrize("name", NAMES)
def test_dspy_does_what_the_decorator_does(name: str) -> None:
    """A synchronous call of an LM emits the events of the decorator."""
    meets_scenario(name, by_dspy)


@pytest.mark.parametrize("name", NAMES)
def test_async_dspy_does_what_the_decorator_does(name: str) -> None:
    """An asynchronous call of an LM emits the events of the decorator."""
    ameets_scenario(name, aby_dspy)


# --- programs, streams, errors -----------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
def test_a_program_is_answered_by_the_second_provider(server: TwoProviders, is_async: bool) -> None:
    """A signature gets its field from the second provider if the first one is down."""
    server.down.add("groq")
    program = dspy.Predict("question -> answer")
    with dspy.context(lm=lm_for(server)):
        if is_async:
            prediction = asyncio.run(program.acall(question="Why?"))
        else:
            prediction = program(question="Why?")
    assert prediction.answer == f"{MINI} answers"
    assert server.models == [LLAMA, MINI]


def test_a_stream_comes_from_the_second_provider(server: TwoProviders) -> None:
    """A program that streams falls over before its first content."""
    server.down.add("groq")
    assert "".join(asyncio.run(streamed(lm_for(server)))) == f"{MINI} answers"
    assert server.models == [LLAMA, MINI]


@pytest.mark.parametrize("is_async", [False, True])
def test_an_outage_is_an_error_of_dspy(server: TwoProviders, is_async: bool) -> None:
    """An outage is DSPy's own error for the last target, after one try of each."""
    server.down |= {"groq", "openai"}
    lm = lm_for(server)
    with pytest.raises(dspy.LMServerError):
        asyncio.run(lm.acall("Why?")) if is_async else lm("Why?")
    assert server.models == [LLAMA, MINI]


@pytest.mark.parametrize(
    ("name", "kinds", "requests"),
    [
        (
            "stream cut before content",
            ["AttemptFailed", "FailedOver", "StreamCommitted", "AttemptSucceeded"],
            {"groq": 1, "openai": 1},
        ),
        (
            "stream cut after content",
            ["StreamCommitted", "AttemptFailed", "StreamInterrupted", "CallFailed"],
            {"groq": 1, "openai": 0},
        ),
    ],
)
def test_a_stream_falls_over_up_to_its_first_content(
    name: str, kinds: list[str], requests: dict[str, int]
) -> None:
    """The start of a stream is no content for DSPy; a break after content ends the call."""
    with isolated(), stage(name) as here, capture_events() as events:
        with pytest.raises(dspy.DSPyError):  # these providers do not answer in DSPy's form
            asyncio.run(streamed(lm_of(here.urls, CHAIN, attempts=1)))
        sent = here.requests()
    called = [type(event).__name__ for event in events]
    assert [kind for kind in called if kind != "HealthChanged"][: len(kinds)] == kinds
    assert sent["groq"] == requests["groq"]
    assert (sent["openai"] > 0) == (requests["openai"] > 0)
