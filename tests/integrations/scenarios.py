"""The scenarios that every integration meets, and what the decorator does in each of them.

Two providers on loopback speak OpenAI's chat completions: ``groq``, where it goes wrong, and
``openai``, which is well. `SCENARIOS` says what the first one does. An integration is called in a
scenario with `play`, and gives the same events as `by_decorator` or `aby_decorator`, which call the
real openai client in a decorated function.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from resilient_llm import Attempt, Target, failover
from resilient_llm.testing import capture_events, isolated
from tests.support.providers import (
    FAIR,
    Line,
    Provider,
    Silence,
    limited,
    overloaded,
    refusal,
)
from tests.support.stream_server import StreamServer

LLAMA, MINI = "groq/llama-3.3-70b", "openai/gpt-5-mini"
CHAIN = [LLAMA, MINI]
MESSAGES: list[Any] = [{"role": "user", "content": "Why is the sky blue?"}]
ANSWER = "openai says it depends."
"""What a provider that is well answers, if it is not asked for a stream."""


@dataclass(frozen=True)
class Scenario:
    """What the first provider does.

    Attributes:
        first: Its answer to the first request, and to all that follow.
        streams: Whether the call asks for a stream. Then ``first`` is a key of
            `tests.support.stream_server.SCENARIOS`.
        options: Options of the policy.
        answers: Whether the call returns an answer.
        is_cancelled: Whether the call is cancelled once the first provider has the request.
    """

    first: Line
    streams: bool = False
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    answers: bool = True
    is_cancelled: bool = False


_FILTERED = refusal(
    "openai",
    400,
    "invalid_request_error",
    "The response was filtered.",
    code="content_filter",
)

SCENARIOS: dict[str, Scenario] = {
    "healthy": Scenario(FAIR),
    "dead first": Scenario(overloaded("openai", 503), options={"attempts": 1}),
    "rate limit with hint": Scenario(limited("openai", retry_after="20")),
    "dead key": Scenario(
        refusal("openai", 401, "invalid_request_error", "Wrong key.", code="invalid_api_key")
    ),
    "bad request": Scenario(
        refusal("openai", 400, "invalid_request_error", "Unsupported value."),
    ),
    "refusal": Scenario(_FILTERED, answers=False),
    "timeout": Scenario(Silence(), options={"timeout": 2.0, "attempts": 1}),
    "healthy stream": Scenario("healthy", streams=True),
    "stream cut before content": Scenario("cut-before", streams=True, options={"attempts": 1}),
    "stream cut after content": Scenario("cut-midway", streams=True, answers=False),
    "cancellation": Scenario(Silence(), answers=False, is_cancelled=True),
}
"""``{name: the scenario}``"""


@dataclass
class Outcome:
    """What came of a call.

    Attributes:
        text: The answer, None if there was an error.
        error: The error that left the call, or None.
        events: Those of the call, without times and identifiers: ``(type, {field: value})``.
        requests: How many requests each provider was sent.
    """

    text: str | None
    error: BaseException | None
    events: list[tuple[str, dict[str, Any]]]
    requests: dict[str, int]


class Stage:
    """The two providers in one scenario.

    Attributes:
        scenario: What happens.
        urls: ``{provider: base URL of its OpenAI-compatible API}``.
    """

    def __init__(self, scenario: Scenario, first: Any, second: Any, urls: dict[str, str]) -> None:
        self.scenario = scenario
        self.urls = urls
        self._servers = {"groq": first, "openai": second}

    @property
    def options(self) -> dict[str, Any]:
        """Options of the policy, without its chain."""
        return dict(self.scenario.options)

    def requests(self) -> dict[str, int]:
        """Return how many requests each provider was sent."""
        return {name: len(server.requests) for name, server in self._servers.items()}

    def until_asked(self) -> None:
        """Wait until the first provider has a request."""
        assert self._servers["groq"].hears(1)


@contextmanager
def stage(name: str) -> Generator[Stage]:
    """Start the two providers of a scenario."""
    scenario = SCENARIOS[name]
    if scenario.streams:
        assert isinstance(scenario.first, str)
        with StreamServer() as first, StreamServer() as second:
            first.waits_for_client = False
            urls = {
                "groq": first.url("openai", scenario.first),
                "openai": second.url("openai", "healthy"),
            }
            yield Stage(scenario, first, second, urls)
        return
    with Provider("openai") as first, Provider("openai") as second:
        first.says(scenario.first)
        yield Stage(scenario, first, second, {"groq": first.url, "openai": second.url})


def told(events: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return events without what differs from one call to the next."""
    seen: list[tuple[str, dict[str, Any]]] = []
    for event in events:
        known = {each.name: getattr(event, each.name) for each in dataclasses.fields(event)}
        for name in ("at", "call_id", "seconds", "delay", "until", "since", "remaining"):
            known.pop(name, None)
        seen.append((type(event).__name__, known))
    return seen


def play(name: str, call: Callable[[Stage], str]) -> Outcome:
    """Make a synchronous call in a scenario.

    Args:
        name: Key of `SCENARIOS`.
        call: Makes the call with the stage's URLs and options, and returns the whole text.
    """
    with isolated(), stage(name) as here, capture_events() as events:
        text = error = None
        interrupting = _interrupts(here) if here.scenario.is_cancelled else None
        try:
            text = call(here)
        except BaseException as raised:
            error = raised
        if interrupting is not None:
            interrupting.join()
        return Outcome(text, error, told(list(events)), here.requests())


def _interrupts(here: Stage) -> threading.Thread:
    """Press Ctrl-C once the first provider has the request."""

    def press() -> None:
        here.until_asked()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def aplay(name: str, call: Callable[[Stage], Awaitable[str]]) -> Outcome:
    """Make an asynchronous call in a scenario; see `play`."""

    async def main(here: Stage) -> str:
        task = asyncio.ensure_future(call(here))
        if here.scenario.is_cancelled:
            await asyncio.to_thread(here.until_asked)
            task.cancel()
        return await task

    with isolated(), stage(name) as here, capture_events() as events:
        text = error = None
        try:
            text = asyncio.run(main(here))
        except BaseException as raised:
            error = raised
        return Outcome(text, error, told(list(events)), here.requests())


# --- the decorator -----------------------------------------------------------------------------


def client_of(here: Stage, provider: str, kind: str = "OpenAI") -> Any:
    """Return an openai client for a provider of a stage, without retries.

    Args:
        here: The stage.
        provider: ``groq`` or ``openai``.
        kind: ``OpenAI`` or ``AsyncOpenAI``.
    """
    import openai

    return getattr(openai, kind)(base_url=here.urls[provider], api_key="not-a-key", max_retries=0)


def by_decorator(here: Stage) -> str:
    """Call the sync client in a decorated function."""
    clients = {name: client_of(here, name) for name in here.urls}

    policy: Any = failover(chain=CHAIN, **here.options)

    @policy
    def ask(target: Target, attempt: Attempt, **more: Any) -> Any:
        client = clients[target.provider]
        if attempt.remaining is not None:
            more["timeout"] = attempt.remaining
        return client.chat.completions.create(model=target.model, messages=MESSAGES, **more)

    try:
        if here.scenario.streams:
            with ask(stream=True) as stream:
                return "".join(text_of_chunk(chunk) for chunk in stream)
        return ask().choices[0].message.content
    finally:
        for client in clients.values():
            client.close()


async def aby_decorator(here: Stage) -> str:
    """Call the async client in a decorated function."""
    clients = {name: client_of(here, name, "AsyncOpenAI") for name in here.urls}

    policy: Any = failover(chain=CHAIN, **here.options)

    @policy
    async def ask(target: Target, **more: Any) -> Any:
        client = clients[target.provider]
        return await client.chat.completions.create(model=target.model, messages=MESSAGES, **more)

    try:
        if here.scenario.streams:
            async with await ask(stream=True) as stream:
                return "".join([text_of_chunk(chunk) async for chunk in stream])
        return (await ask()).choices[0].message.content
    finally:
        for client in clients.values():
            await client.close()


def text_of_chunk(chunk: Any) -> str:
    """Return the text of a chunk of OpenAI's chat completions."""
    return (chunk.choices[0].delta.content or "") if chunk.choices else ""
