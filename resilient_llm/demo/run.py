"""One run of the demo: servers, weather, workers, and a view that is asked to draw now and then."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final, Protocol

from resilient_llm import ResilientLLMError, Target, configure, failover, observe
from resilient_llm.demo.clients import CLIENT_ERRORS, Clients
from resilient_llm.demo.servers import Server
from resilient_llm.demo.tally import Tally
from resilient_llm.demo.weather import Weather

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from resilient_llm.demo.tally import Summary

CHAIN: Final = (
    Target("groq/llama-3.3-70b"),
    Target("anthropic/claude-haiku"),
    Target("openai/gpt-5-mini"),
    Target("mistral/mistral-small"),
)
PROMPTS: Final = ("Will it rain in Bergen tomorrow?", "What is a squall line?", "Name three kinds of cloud.")

_WORKERS: Final = 4
_LATENCY: Final = (0.03, 0.09)
_THINKING: Final = (0.05, 0.15)
_DRAWN_EVERY: Final = 0.1
_DEADLINE: Final = 10.0

# Shares of the whole demo, so that every recovery is seen however long it lasts.
_COOLDOWN: Final = 0.06
_MAX_COOLDOWN: Final = 0.2


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
        self.tally = Tally()
        self._rng = random.Random(seed)
        self._servers = {
            target.provider: Server(
                "anthropic" if target.provider == "anthropic" else "openai",
                latency=_LATENCY,
                rng=random.Random(self._rng.random()),
            )
            for target in CHAIN
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
            await self._drive(ask, _asking(plain), view)
        self.has_ended = True
        view.draw(self)

    async def _drive(
        self, ask: Callable[[str], Awaitable[str]], ask_plain: Callable[[Target, str], Awaitable[str]], view: View
    ) -> None:
        self._began = time.monotonic()
        tasks = [asyncio.create_task(self.weather.blow(self._began))]
        tasks += [asyncio.create_task(self._work(ask, ask_plain)) for _ in range(_WORKERS)]
        try:
            while not all(task.done() for task in tasks):
                view.draw(self)
                await asyncio.wait(tasks, timeout=_DRAWN_EVERY)
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(
        self, ask: Callable[[str], Awaitable[str]], ask_plain: Callable[[Target, str], Awaitable[str]]
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
                served=served, servable=self.weather.could_serve(began, ended), plain_served=plain_served
            )
            await asyncio.sleep(self._rng.uniform(*_THINKING))


def _asking(clients: Clients) -> Callable[[Target, str], Awaitable[str]]:
    async def ask(target: Target, prompt: str) -> str:
        return await clients.ask(target, prompt)

    return ask


async def _warm_up(*all_clients: Clients) -> None:
    """Make each client's first request, which takes far longer than all later ones."""
    for clients in all_clients:
        for target in CHAIN:
            await clients.ask(target, PROMPTS[0])


async def _is_served(call: Awaitable[str]) -> bool:
    """Wait for a call and return whether it gave an answer."""
    with suppress(ResilientLLMError, *CLIENT_ERRORS):
        return bool(await call)
    return False
