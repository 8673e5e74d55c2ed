"""Names that are defined again and again while threads and tasks call them."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Generator
from typing import Any

import pytest

from resilient_llm import Target, chains, failover

pytestmark = [pytest.mark.usefixtures("resilient_llm")]

CHANGES = 400
THREADS = 6


@pytest.fixture(autouse=True)
def switches() -> Generator[None, None, None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Numbered:
    """The number of the present chain: at least ``low`` when a call starts, at most ``high``."""

    def __init__(self) -> None:
        self.low = self.high = 0
        self.is_over = False
        self.wrong: list[tuple[int, int, int]] = []
        self.calls = 0

    def change(self, number: int) -> None:
        self.high = number
        chains.define({"fast": f"p{number % 7}/m{number}"})
        self.low = number

    def check(self, call: Any) -> None:
        low = self.low
        number = int(call().partition("/m")[2])
        if not low <= number <= self.high:
            self.wrong.append((low, number, self.high))
        self.calls += 1


def test_each_call_has_a_chain_that_was_in_force_while_it_ran() -> None:
    """None starts with an earlier one, whatever threads find out meanwhile; nothing piles up."""

    @failover(chain="@fast", attempts=1)
    def ask(target: Target) -> str:
        return target.key

    @failover(chain="@fast", attempts=1)
    async def aask(target: Target) -> str:
        await asyncio.sleep(0)
        return target.key

    def plain(target: Target) -> str:
        return target.key

    numbered = Numbered()
    numbered.change(0)

    def work() -> None:
        with asyncio.Runner() as runner:
            while not numbered.is_over:
                numbered.check(ask)
                numbered.check(lambda: runner.run(aask()))
                numbered.check(lambda: ask.policy.call(plain))

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        for number in range(1, CHANGES):
            numbered.change(number)
            ask()
    finally:
        numbered.is_over = True
        for thread in threads:
            thread.join()

    assert [] == numbered.wrong[:5]
    assert numbered.calls
    gc.collect()
    for function in (ask, aask):
        assert 150 > len(function.__globals__)
