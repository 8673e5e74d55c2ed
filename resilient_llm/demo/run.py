"""One run of the demo: starts servers, faults and workers, and refreshes the view."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack, suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from resilient_llm import Budget, ResilientLLMError, Target, configure, failover, observe, spend
from resilient_llm.demo.clients import CLIENT_ERRORS, Clients, ask_openai, openai_client
from resilient_llm.demo.counters import DEFAULT_RETRIES, NO_RETRIES, Counters
from resilient_llm.demo.faults import FaultInjector
from resilient_llm.demo.scenario import (
    BUDGET,
    CHAIN,
    DEADLINE,
    FAILURES,
    PROMPTS,
    READERS,
    RESTARTED,
    RESTARTS,
    STREAMING,
    WORKERS,
    cooldown,
    max_cooldown,
)
from resilient_llm.demo.servers import WORDS, Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from openai import AsyncOpenAI, AsyncStream
    from openai.types.chat import ChatCompletionChunk

    from resilient_llm.demo.counters import Summary

_PROVIDERS: Final = tuple(target.provider for target in CHAIN)
_LATENCY: Final = (0.03, 0.09)
_THINKING: Final = (0.05, 0.15)
_DRAWN_EVERY: Final = 0.1

# Shares of the whole demo. Before the fault of that provider, so that its calls are what the
# budget keeps back.
_CUT_AT: Final = 0.04
_RAISED_AT: Final = 0.14
_CUT_TO: Final = Decimal("1.05")
"""The new cap, as a multiple of what was spent by then: it is spent soon after, however fast
calls are."""
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
        counters: What is counted, and the log.
        faults: Which provider fails.
        has_ended: Whether it ran to its end.
        elapsed: Seconds since it began.
    """

    def __init__(self, seconds: float, seed: int) -> None:
        self.seconds = seconds
        self.counters = Counters({target.key for target in STREAMING})
        self._rng = random.Random(seed)
        self._servers = {
            target.provider: Server(
                "anthropic" if target.provider == "anthropic" else "openai",
                latency=_LATENCY,
                rng=random.Random(self._rng.random()),
            )
            for target in (*CHAIN, *STREAMING)
        }
        self.faults = FaultInjector(self._servers, seconds, self.counters.fault_changed)
        self._began = 0.0
        self.has_ended = False

    @property
    def elapsed(self) -> float:
        return min(self.seconds, time.monotonic() - self._began) if self._began else 0.0

    def summary(self) -> Summary:
        """Return how it went, or how far it got if it was ended early."""
        return self.counters.summary(self.seconds, interrupted=not self.has_ended)

    async def run(self, *views: View) -> None:
        """Run to the end; when cancelled, end early and leave nothing running."""
        configure(
            breakers={
                "*": {
                    "failures": FAILURES,
                    "cooldown": cooldown(self.seconds),
                    "max_cooldown": max_cooldown(self.seconds),
                }
            },
            budgets=[_budget(_PLENTY)],
            logging=False,  # the view shows the same
        )
        async with AsyncExitStack() as stack:
            for server in self._servers.values():
                stack.enter_context(server)
            clients = await stack.enter_async_context(Clients(self._servers))
            first = self._servers[CHAIN[0].provider]
            plain = {
                DEFAULT_RETRIES: await stack.enter_async_context(openai_client(first)),
                NO_RETRIES: await stack.enter_async_context(openai_client(first, max_retries=0)),
            }
            self.counters.default_max_retries = plain[DEFAULT_RETRIES].max_retries
            await _warm_up(clients, plain.values())
            stack.callback(observe(self.counters.on_event))

            @failover(CHAIN, timeout=DEADLINE)
            async def ask(target: Target, prompt: str) -> str:
                return await clients.ask(target, prompt)

            stream = failover(STREAMING, timeout=DEADLINE, stream=RESTARTS)(streaming(clients))
            tasks = [self._work(ask, plain) for _ in range(WORKERS)]
            tasks += [self._read_streams(stream) for _ in range(READERS)]
            tasks.append(self._change_budget())
            await self._drive(tasks, views)
        self.has_ended = True
        self.counters.log.end_phase()
        self._draw(views)

    def _draw(self, views: Iterable[View]) -> None:
        for view in views:
            view.draw(self)

    async def _drive(
        self, workers: Iterable[Coroutine[Any, Any, None]], views: Iterable[View]
    ) -> None:
        self._began = time.monotonic()
        tasks = [asyncio.create_task(each) for each in (self.faults.run(self._began), *workers)]
        try:
            while True:
                if all(task.done() for task in tasks):
                    break
                self._draw(views)
                await asyncio.wait(tasks, timeout=_DRAWN_EVERY)
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _change_budget(self) -> None:
        """Leave the first provider almost no money for a while, as its owner might."""
        await self._until(_CUT_AT)
        while not _spent() and self.elapsed < self.seconds:  # noqa: ASYNC110  # no event is set
            await asyncio.sleep(_SOON)
        spent = _spent()
        self._set_budget(round(spent * _CUT_TO, 6), spent)
        await self._until(_RAISED_AT)
        while not self.counters.spent_budgets and self.elapsed < self.seconds:  # noqa: ASYNC110
            await asyncio.sleep(_SOON)
        self._set_budget(_PLENTY, _spent())

    def _set_budget(self, cap: Decimal, spent: Decimal) -> None:
        configure(budgets=[_budget(cap)])
        self.counters.budget_changed(CHAIN[0].provider, spent, cap)

    async def _until(self, share: float) -> None:
        """Wait until this share of the demo is over."""
        await asyncio.sleep(max(0.0, self._began + share * self.seconds - time.monotonic()))

    async def _work(
        self, ask: Callable[[str], Awaitable[str]], plain: dict[str, AsyncOpenAI]
    ) -> None:
        """Call until the end; each call is sent by the plain clients at the same moment.

        The worker waits for ``@failover`` alone: if it waited for a client that retries for
        seconds, there would be fewer calls during an outage, and the comparison would be wrong.
        """
        async with asyncio.TaskGroup() as plain_calls:
            while True:
                if self.elapsed >= self.seconds:
                    break
                prompt = self._rng.choice(PROMPTS)
                for way, client in plain.items():
                    plain_calls.create_task(self._call_plain(way, client, prompt))
                began = time.monotonic()
                answered = await _is_answered(ask(prompt))
                ended = time.monotonic()
                self.counters.call_ended(
                    answered=answered,
                    could_be_answered=self.faults.could_answer(_PROVIDERS, began, ended),
                    seconds=ended - began,
                )
                await asyncio.sleep(self._rng.uniform(*_THINKING))

    async def _call_plain(self, way: str, client: AsyncOpenAI, prompt: str) -> None:
        began = time.monotonic()
        answered = await _is_answered(ask_openai(client, CHAIN[0].model, prompt))
        self.counters.plain_call_ended(way, answered=answered, seconds=time.monotonic() - began)

    async def _read_streams(
        self, ask: Callable[[str], Awaitable[AsyncStream[ChatCompletionChunk]]]
    ) -> None:
        """Read one stream after the other."""
        while self.elapsed < self.seconds:
            reader = Reader()
            try:
                async with await ask(self._rng.choice(PROMPTS)) as stream:
                    async for item in stream:
                        reader.take(item)
            except (ResilientLLMError, *CLIENT_ERRORS):
                reader.is_lost = True
            self.counters.stream_ended(
                whole=reader.has_all, restarted=reader.restarts > 0, lost=reader.is_lost
            )
            await asyncio.sleep(self._rng.uniform(*_THINKING))


def _budget(cap: Decimal) -> Budget:
    # Under the same name a budget keeps what was spent.
    return Budget(usd=cap, of=CHAIN[0].provider, name=BUDGET)


def _spent() -> Decimal:
    return sum((Decimal(each.spent) for each in spend() if each.budget == BUDGET), Decimal())


class Reader:
    """Reads one stream as a page that displays it would.

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
        """Whether every word arrived exactly once, and all from one model."""
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


async def _warm_up(clients: Clients, plain: Iterable[AsyncOpenAI]) -> None:
    """Make each client's first request, which takes far longer than all later ones."""
    for target in CHAIN:
        await clients.ask(target, PROMPTS[0])
    for client in plain:
        await ask_openai(client, CHAIN[0].model, PROMPTS[0])
    for target in STREAMING:
        async with await clients.stream(target, PROMPTS[0]) as stream:
            async for _ in stream:
                pass


async def _is_answered(call: Awaitable[str]) -> bool:
    """Wait for a call and return whether it was answered."""
    with suppress(ResilientLLMError, *CLIENT_ERRORS):
        return bool(await call)
    return False
