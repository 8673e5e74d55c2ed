"""After any number of attempts of every kind nothing is in flight and nobody waits."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from typing import Any

import anyio
import pytest

from resilient_llm import (
    Limit,
    ResilientLLMError,
    StreamPolicy,
    Target,
    breaker,
    configure,
    failover,
)
from resilient_llm._runtime.runtime import runtime
from tests.support.schedules import PATIENCE
from tests.support.ways import GROQ, OPENAI, elsewhere, on_both_loops

TURNS = 15_000 * PATIENCE
"""Calls of a test; with ``SCHEDULES=7`` a hundred thousand. Threads make as many every day, and a
million with ``SCHEDULES=10``."""
CALLERS = 30
EXPECTED = (ResilientLLMError, ExceptionGroup, ConnectionError, TimeoutError, ValueError)


def places_of(key: str) -> Any:
    limits = runtime.limits.of(key, key)
    assert limits is not None
    return limits.all[0].places


def at_rest() -> list[tuple[int, int]]:
    """Return what is in flight and what waits at both providers, once all garbage is gone."""
    gc.collect()
    return [(each.running, each.waiting) for each in map(places_of, ("groq", "openai"))]


def limited() -> None:
    """Limit both providers; their breakers stay closed, so that attempts are made."""
    limit = Limit(max_concurrent=8, max_queued=20, queue_timeout=0.02)
    configure(limits={"groq": limit, "openai": limit}, logging=False)
    configure(breakers={"*": {"mode": "metrics_only"}}, retry_budget=None)


def no_wait(number: int, error: object, rng: object) -> float:
    return 0.0


class Most:
    """Counts what runs at once at each provider."""

    def __init__(self) -> None:
        self.now: dict[str, int] = {"groq": 0, "openai": 0}
        self.most = 0
        self.begun = 0
        self.lock = threading.Lock()

    def begin(self, target: Target) -> None:
        with self.lock:
            self.begun += 1
            self.now[target.provider] += 1
            self.most = max(self.most, self.now[target.provider])

    def end(self, target: Target) -> None:
        with self.lock:
            self.now[target.provider] -= 1


@on_both_loops
def test_attempts_of_every_kind(backend: str) -> None:  # noqa: C901  # of every kind
    """With errors, time limits, cancellations, hedges and streams that are left or dropped."""
    limited()
    rng, most = random.Random(f"{backend} 1"), Most()

    async def attempt(target: Target) -> str:
        most.begin(target)
        try:
            luck = rng.random()
            if luck < 0.1:
                raise ConnectionError
            if luck < 0.2:
                await anyio.lowlevel.checkpoint()
            if luck < 0.201:
                await anyio.sleep(0.01)
            return "done"
        finally:
            most.end(target)

    async def words() -> Any:
        yield "a"
        yield "b"

    @failover([GROQ, OPENAI], attempts=2, backoff=no_wait)
    async def ask(target: Target) -> str:
        return await attempt(target)

    @failover([GROQ, OPENAI], attempts=1, attempt_timeout=0.005)
    async def in_time(target: Target) -> str:
        return await attempt(target)

    @failover([GROQ, OPENAI], hedge=0.0001)
    async def raced(target: Target) -> str:
        return await attempt(target)

    @failover([GROQ, OPENAI])
    async def stream(target: Target) -> Any:
        return words()

    async def one(turn: int) -> None:
        try:
            if turn % 100 == 0:
                await raced()
            elif turn % 100 == 1:
                await in_time()
            elif turn % 100 < 4:
                answer = await stream()
                if turn % 4:
                    await anext(answer)
                    await answer.aclose()
                else:
                    [_ async for _ in answer]
            else:
                await ask()
        except EXPECTED:
            pass

    async def caller(number: int) -> None:
        for turn in range(number, TURNS, CALLERS):
            if turn % 50 == 7:
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(one, turn)
                        await anyio.lowlevel.checkpoint()
                        scope.cancel()
            else:
                await one(turn)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(CALLERS):
                group.start_soon(caller, number)

    anyio.run(main, backend=backend)

    assert [(0, 0), (0, 0)] == at_rest()
    assert 8 == most.most
    assert most.begun > TURNS * 0.9


def test_threads_and_loops_at_once() -> None:  # noqa: C901  # each of them
    """Threads, two loops and guards through the same places."""
    limited()
    most = Most()

    @failover([GROQ, OPENAI], attempts=1)
    def ask(target: Target, luck: float) -> str:
        most.begin(target)
        try:
            if luck < 0.2:
                raise ConnectionError
            return "done"
        finally:
            most.end(target)

    @failover([GROQ, OPENAI], stream=StreamPolicy())
    def words(target: Target) -> Any:
        yield "a"
        yield "b"

    @failover([GROQ, OPENAI], attempts=1)
    async def aask(target: Target, luck: float) -> str:
        most.begin(target)
        try:
            await anyio.lowlevel.checkpoint()
            if luck < 0.2:
                raise ConnectionError
            return "done"
        finally:
            most.end(target)

    def sync(seed: int) -> None:
        rng = random.Random(seed)
        for turn in range(2_000):
            try:
                if turn % 10 == 0:
                    next(words())  # dropped
                elif turn % 10 == 1:
                    with breaker("groq"):
                        pass
                else:
                    ask(rng.random())
            except EXPECTED:
                pass

    async def calls(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(100):
            try:
                await aask(rng.random())
            except EXPECTED:
                pass

    async def loop() -> None:
        async with anyio.create_task_group() as group:
            for seed in range(20):
                group.start_soon(calls, seed)

    threads = [threading.Thread(target=sync, args=[seed]) for seed in range(6)]
    threads += [
        threading.Thread(target=anyio.run, args=[loop], kwargs={"backend": backend})
        for backend in ("asyncio", "trio")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert [(0, 0), (0, 0)] == at_rest()
    assert most.most <= 8


def test_a_hundred_thousand_attempts_of_threads() -> None:
    """With errors, streams that are dropped, guards, and waits in the queue that take too long."""
    limit = Limit(max_concurrent=2, max_queued=2, queue_timeout=0.001)
    configure(limits={"groq": limit, "openai": limit}, logging=False, retry_budget=None)
    configure(breakers={"*": {"mode": "metrics_only"}})
    most = Most()

    @failover([GROQ, OPENAI], attempts=1)
    def ask(target: Target, luck: int) -> str:
        most.begin(target)
        try:
            if luck < 3:
                raise ConnectionError
            return "done"
        finally:
            most.end(target)

    @failover([GROQ, OPENAI], stream=StreamPolicy(), attempts=1)
    def words(target: Target) -> Any:
        most.begin(target)
        most.end(target)  # a stream that is dropped gives its place back before it is closed
        yield "a"
        yield "b"

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(25_000 * PATIENCE):
            luck = rng.randrange(100)
            try:
                if luck == 99:
                    next(words())  # dropped
                elif luck == 98:
                    with breaker("groq"):
                        pass
                else:
                    ask(luck)
            except EXPECTED:
                pass

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [(0, 0), (0, 0)] == at_rest()
    assert most.most <= 2
    assert most.begun > 90_000 * PATIENCE


def test_a_loop_that_ends_while_its_calls_wait() -> None:
    """Those that waited there are out of the queue, and the next is served."""
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5)})

    @failover([GROQ])
    async def ask(target: Target) -> str:
        return target.key

    async def main() -> None:
        tasks = [asyncio.create_task(ask()) for _ in range(3)]
        while places_of("groq").waiting < 3:
            await anyio.lowlevel.checkpoint()
        for task in tasks[1:]:
            task.cancel()

    with elsewhere(breaker("groq")):
        asyncio.run(main())
        assert (1, 0) == (places_of("groq").running, places_of("groq").waiting)

    assert GROQ == asyncio.run(ask())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_first_come_first_served_among_loops_and_threads(backend: str) -> None:
    """A thread that came first is served before a task that came later."""
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=5)})
    order: list[str] = []

    @failover([GROQ])
    def ask(target: Target) -> None:
        order.append("thread")

    @failover([GROQ])
    async def aask(target: Target, name: str) -> None:
        order.append(name)

    guard = elsewhere(breaker("groq"))
    guard.__enter__()
    thread = threading.Thread(target=ask)
    thread.start()

    async def main() -> None:
        while places_of("groq").waiting < 1:
            await anyio.lowlevel.checkpoint()
        async with anyio.create_task_group() as group:
            for number, name in enumerate(["first", "second"], start=2):
                group.start_soon(aask, name)
                while places_of("groq").waiting < number:
                    await anyio.lowlevel.checkpoint()
            guard.__exit__(None, None, None)

    anyio.run(main, backend=backend)
    thread.join(10)

    assert ["thread", "first", "second"] == order
