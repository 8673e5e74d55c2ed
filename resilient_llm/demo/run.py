"""One run of the demo: starts servers, weather and workers, and refreshes the view."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack, suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from resilient_llm import (
    Budget,
    ResilientLLMError,
    StreamPolicy,
    Target,
    configure,
    failover,
    observe,
    spend,
)
from resilient_llm.demo.clients import CLIENT_ERRORS, Clients
from resilient_llm.demo.servers import WORDS, Server
from resilient_llm.demo.tally import Tally
from resilient_llm.demo.weather import Weather

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from openai import AsyncStream
    from openai.types.chat import ChatCompletionChunk

    from resilient_llm.demo.tally import Summary

CHAIN: Final = (
    # USD per million tokens. Where a budget is in force, the longest answer is reserved.
    Target("groq/llama-3.3-70b", price=(0.59, 0.79), max_output=10),
    Target("anthropic/claude-haiku", price=(1, 5)),
    Target("openai/gpt-5-mini", price=(0.25, 2)),
    Target("mistral/mistral-small", price=(0.1, 0.3)),
)
BUDGET: Final = "groq this month"
STREAMING: Final = (
    Target("deepseek/deepseek-chat"),
    Target("together/llama-4-scout", stream=StreamPolicy(first_item_timeout=0.4)),
    Target("cerebras/gpt-oss-120b"),
)
RESTARTED: Final = object()
"""The item that a reader gets when a stream is restarted."""
RESTARTS: Final = StreamPolicy(on_interrupt="restart", restart_marker=RESTARTED)
PROMPTS: Final = (
    "Will it rain in Bergen tomorrow?",
    "What is a squall line?",
    "Name three kinds of cloud.",
)

_PROVIDERS: Final = tuple(target.provider for target in CHAIN)
_WORKERS: Final = 4
_READERS: Final = 2
_LATENCY: Final = (0.03, 0.09)
_THINKING: Final = (0.05, 0.15)
_DRAWN_EVERY: Final = 0.1
_DEADLINE: Final = 10.0

# Shares of the whole demo, so that every recovery is seen however long it lasts.
_COOLDOWN: Final = 0.06
_MAX_COOLDOWN: Final = 0.2
# Before the bad weather at that provider, so that its calls are what the budget keeps back.
_CUT_AT: Final = 0.04
_RAISED_AT: Final = 0.14
_CUT_TO: Final = Decimal("1.05")
"""What it is cut to, of what was spent by then: it runs out soon after, however fast calls are."""
_PLENTY: Final = Decimal(1)
_SOON: Final = 0.01


class View(Protocol):
    """Shows a run while it lasts."""

    def draw(self, demo: Demo) -> None: ...


class Demo:
    """One run.

    Changes the process-wide settings of the library: run it in a process of its own, or
    within ``resilient_llm.testing.isolated()``.

    Attributes:
        seconds: How long it lasts.
        tally: What is counted.
        weather: How the providers are doing.
        has_ended: Whether it came to its end.
        elapsed: Seconds since it began.
    """

    def __init__(self, seconds: float, seed: int) -> None:
        self.seconds = seconds
        self.tally = Tally({target.key for target in STREAMING})
        self._rng = random.Random(seed)
        self._servers = {
            target.provider: Server(
                "anthropic" if target.provider == "anthropic" else "openai",
                latency=_LATENCY,
                rng=random.Random(self._rng.random()),
            )
            for target in (*CHAIN, *STREAMING)
        }
        self.weather = Weather(self._servers, seconds, self.tally.weather_turned)
        self._began = 0.0
        self.has_ended = False

    @property
    def elapsed(self) -> float:
        return min(self.seconds, time.monotonic() - self._began) if self._began else 0.0

    def summary(self) -> Summary:
        """Return how it went, or how far it got if it was ended early."""
        return self.tally.summary(self.seconds, interrupted=not self.has_ended)

    async def run(self, view: View) -> None:
        """Run to the end; when cancelled, end early and leave nothing running."""
        configure(
            breakers={
                "*": {
                    "failures": 3,
                    "cooldown": _COOLDOWN * self.seconds,
                    "max_cooldown": _MAX_COOLDOWN * self.seconds,
                }
            },
            budgets=[_budget(_PLENTY)],
            logging=False,  # the view shows the same
        )
        async with AsyncExitStack() as stack:
            for server in self._servers.values():
                stack.enter_context(server)
            guarded = await stack.enter_async_context(Clients(self._servers))
            plain = await stack.enter_async_context(Clients(self._servers))
            await _warm_up(guarded, plain)
            stack.callback(observe(self.tally.see))
            ask = failover(CHAIN, timeout=_DEADLINE)(_asking(guarded))
            stream = failover(STREAMING, timeout=_DEADLINE, stream=RESTARTS)(streaming(guarded))
            tasks = [self._work(ask, _asking(plain)) for _ in range(_WORKERS)]
            tasks += [self._read_on(stream) for _ in range(_READERS)]
            tasks.append(self._move_budget())
            await self._drive(tasks, view)
        self.has_ended = True
        view.draw(self)

    async def _drive(self, workers: Iterable[Coroutine[Any, Any, None]], view: View) -> None:
        self._began = time.monotonic()
        tasks = [asyncio.create_task(each) for each in (self.weather.blow(self._began), *workers)]
        try:
            while True:
                if all(task.done() for task in tasks):
                    break
                view.draw(self)
                await asyncio.wait(tasks, timeout=_DRAWN_EVERY)
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _move_budget(self) -> None:
        """Leave the first provider next to no money for a while, as whoever pays for it might."""
        await self._until(_CUT_AT)
        while not _spent() and self.elapsed < self.seconds:  # noqa: ASYNC110  # nobody sets an event
            await asyncio.sleep(_SOON)
        spent = _spent()
        self._set_budget(round(spent * _CUT_TO, 6), spent)
        await self._until(_RAISED_AT)
        while not self.tally.spent_budgets and self.elapsed < self.seconds:  # noqa: ASYNC110
            await asyncio.sleep(_SOON)
        self._set_budget(_PLENTY, _spent())

    def _set_budget(self, cap: Decimal, spent: Decimal) -> None:
        configure(budgets=[_budget(cap)])
        self.tally.budget_changed(CHAIN[0].provider, spent, cap)

    async def _until(self, share: float) -> None:
        """Wait until this share of the demo is over."""
        await asyncio.sleep(max(0.0, self._began + share * self.seconds - time.monotonic()))

    async def _work(
        self,
        ask: Callable[[str], Awaitable[str]],
        ask_plain: Callable[[Target, str], Awaitable[str]],
    ) -> None:
        """Call over and over, each call with a twin of a plain client beside it."""
        while self.elapsed < self.seconds:
            prompt = self._rng.choice(PROMPTS)
            began = time.monotonic()
            plain = asyncio.create_task(_is_served(ask_plain(CHAIN[0], prompt)))
            try:
                served = await _is_served(ask(prompt))
                ended = time.monotonic()
                plain_served = await plain
            finally:
                plain.cancel()
            self.tally.call_ended(
                served=served,
                servable=self.weather.could_serve(_PROVIDERS, began, ended),
                plain_served=plain_served,
            )
            await asyncio.sleep(self._rng.uniform(*_THINKING))

    async def _read_on(
        self, ask: Callable[[str], Awaitable[AsyncStream[ChatCompletionChunk]]]
    ) -> None:
        """Read stream after stream."""
        while self.elapsed < self.seconds:
            reader = Reader()
            try:
                async with await ask(self._rng.choice(PROMPTS)) as stream:
                    async for item in stream:
                        reader.take(item)
            except (ResilientLLMError, *CLIENT_ERRORS):
                reader.is_lost = True
            self.tally.stream_ended(
                whole=reader.has_all, restarted=reader.restarts > 0, lost=reader.is_lost
            )
            await asyncio.sleep(self._rng.uniform(*_THINKING))


def _budget(cap: Decimal) -> Budget:
    # Under the same name a budget keeps what was spent.
    return Budget(usd=cap, of=CHAIN[0].provider, name=BUDGET)


def _spent() -> Decimal:
    return sum((Decimal(each.spent) for each in spend() if each.budget == BUDGET), Decimal())


class Reader:
    """Reads one stream as a page that shows it would.

    Attributes:
        restarts: How often it was restarted.
        is_lost: Whether it ended in an error.
    """

    def __init__(self) -> None:
        self.restarts = 0
        self.is_lost = False
        self._text = ""
        self._models: set[str] = set()

    @property
    def has_all(self) -> bool:
        """Whether every word came once and only once, and all of one model."""
        return not self.is_lost and self._text.split() == WORDS and len(self._models) == 1

    def take(self, item: ChatCompletionChunk | object) -> None:
        """Take the next item."""
        if item is RESTARTED:
            self.restarts += 1
            self._text = ""
            self._models.clear()
            return
        chunk = cast("ChatCompletionChunk", item)
        self._models.add(chunk.model)
        self._text += chunk.choices[0].delta.content or ""


def streaming(
    clients: Clients,
) -> Callable[[Target, str], Awaitable[AsyncStream[ChatCompletionChunk]]]:
    """Return the function that is decorated: it asks one target for a stream."""

    async def stream(target: Target, prompt: str) -> AsyncStream[ChatCompletionChunk]:
        return await clients.stream(target, prompt)

    return stream


def _asking(clients: Clients) -> Callable[[Target, str], Awaitable[str]]:
    async def ask(target: Target, prompt: str) -> str:
        return await clients.ask(target, prompt)

    return ask


async def _warm_up(*all_clients: Clients) -> None:
    """Make each client's first request, which takes far longer than all later ones."""
    for clients in all_clients:
        for target in CHAIN:
            await clients.ask(target, PROMPTS[0])
        for target in STREAMING:
            async with await clients.stream(target, PROMPTS[0]) as stream:
                async for _ in stream:
                    pass


async def _is_served(call: Awaitable[str]) -> bool:
    """Wait for a call and return whether it gave an answer."""
    with suppress(ResilientLLMError, *CLIENT_ERRORS):
        return bool(await call)
    return False
