"""Calls that wait for a bucket while `configure` or `reset` changes its limit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilient_llm import ChainExhaustedError, Limit, Target, configure, failover, reset
from resilient_llm._runtime.runtime import runtime

SPENT = Limit(requests=4, burst=1, per="day")
PATIENCE = 40.0


def waiting() -> int:
    limits = runtime.limits.of("groq", "groq")
    assert limits is not None
    bucket = limits.all[0].requests
    return 0 if bucket is None else bucket.waiting


CHANGES: list[Any] = [
    pytest.param(lambda: configure(limits={"groq": Limit(requests=9)}), id="more"),
    pytest.param(lambda: configure(limits={"groq": Limit(max_concurrent=9)}), id="another"),
    pytest.param(lambda: configure(limits={"groq": None}), id="none"),
    pytest.param(reset, id="reset"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_thread_that_waits_asks_the_new_one_at_once(change: Callable[[], None]) -> None:
    """The old bucket would have let it pass only hours later."""
    configure(limits={"groq": SPENT}, max_wait=86_400.0)
    answers: list[str] = []

    @failover(["groq/m"])
    def ask(target: Target) -> str:
        return target.key

    ask()
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    while not waiting():
        thread.join(0.001)
    change()
    thread.join(PATIENCE)

    assert ["groq/m"] == answers


@pytest.mark.parametrize("change", CHANGES)
def test_a_task_that_waits_asks_the_new_one_at_once(change: Callable[[], None]) -> None:
    configure(limits={"groq": SPENT}, max_wait=86_400.0)

    @failover(["groq/m"])
    async def ask(target: Target) -> str:
        return target.key

    async def main() -> str:
        await ask()
        task = asyncio.create_task(ask())
        for _ in range(1_000):  # until it stands in the line
            await asyncio.sleep(0)
            if waiting():
                break
        change()
        return await asyncio.wait_for(task, PATIENCE)

    assert "groq/m" == asyncio.run(main())


def test_more_wait_than_the_new_one_lets_pass() -> None:
    """The others stand in its line, and leave when their wait would be too long."""
    configure(limits={"groq": SPENT}, max_wait=86_400.0)
    ends: list[str] = []

    @failover(["groq/m"])
    def ask(target: Target) -> str:
        return target.key

    def call() -> None:
        try:
            ends.append(ask())
        except ChainExhaustedError:
            ends.append("refused")

    ask()
    threads = [threading.Thread(target=call, daemon=True) for _ in range(3)]
    for each in threads:
        each.start()
    while waiting() < 3:
        threads[0].join(0.001)
    configure(limits={"groq": SPENT})  # the same: nothing changes
    assert 3 == waiting()
    configure(limits={"groq": Limit(requests=2, per="day")})
    while len(ends) < 2 or not waiting():
        threads[0].join(0.001)
    assert ["groq/m"] * 2 == ends
    configure(limits={"groq": Limit(requests=2, per=0.001)})
    for each in threads:
        each.join(PATIENCE)

    assert ["groq/m"] * 3 == ends
