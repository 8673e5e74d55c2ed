"""A wrapper that takes limits and budgets by itself: its sums, and what it leaves to the call flow."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from decimal import Decimal
from typing import Any

import pytest

from resilient_llm import (
    Budget,
    BudgetExceeded,
    BudgetExceededError,
    BudgetWarning,
    Limit,
    SpendRecorded,
    Target,
    configure,
    failover,
    observe,
    reset_spend,
    spend,
    spend_key,
    spend_total,
)
from resilient_llm._binding.caller import Caller
from resilient_llm._core.contents import estimate, plain_characters
from resilient_llm._runtime.runtime import runtime
from tests.support.spending import COST, TARGET, answer, asking
from tests.support.ways import run_async

FREE = Target(TARGET, price=(0, 0))
LIMITS = {"groq": Limit(requests=1_000, tokens=1_000_000, max_concurrent=4)}


@pytest.fixture
def by_flow(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets an entry for each call that a wrapper leaves to the `Caller`."""
    left: list[str] = []
    call = Caller.call

    def noting(self: Caller, *args: Any, **kwargs: Any) -> Any:
        left.append("call")
        return call(self, *args, **kwargs)

    monkeypatch.setattr(Caller, "call", noting)
    return left


def rows() -> list[tuple[str, Any, Any, int, int]]:
    return [
        (each.budget, each.spent, each.reserved, each.calls, each.estimated) for each in spend()
    ]


@contextmanager
def switching_often() -> Iterator[None]:
    """Let threads switch as often as they may."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


# Which calls it makes.


def test_a_healthy_call_with_limits_and_budgets_is_made_by_the_wrapper(
    clock: Any, by_flow: list[str]
) -> None:
    """All but those that bind and look at the first answer."""
    configure(budgets=[Budget(usd=1), Budget(tokens=10**6), Budget(calls=10)], limits=LIMITS)
    ask = asking()

    for _ in range(5):
        ask()

    assert 1 == len(by_flow)
    assert [
        ("all month calls", 5, 0, 5, 0),
        ("all month tokens", 750, 0, 5, 0),
        ("all month usd", Decimal(str(COST)) * 5, 0, 5, 0),
    ] == rows()
    assert {TARGET: Decimal(str(COST)) * 5} == spend_total()


def test_a_key_is_opened_by_the_call_flow(clock: Any, by_flow: list[str]) -> None:
    configure(budgets=[Budget(tokens=10**6, of="key")])
    ask = asking()

    for key in "aabab":
        with spend_key(key):
            ask()

    assert 2 == len(by_flow)
    assert [("key month tokens", 450, 0, 3, 0), ("key month tokens", 300, 0, 2, 0)] == rows()


def test_a_period_is_begun_by_the_call_flow(clock: Any, by_flow: list[str]) -> None:
    configure(budgets=[Budget(calls=10, per="hour")])
    ask = asking()
    for _ in range(3):
        ask()

    before = len(by_flow)
    clock.advance(3600.0)
    ask()

    assert (1, 2) == (before, len(by_flow))
    assert [("all hour calls", 1, 0, 1, 0)] == rows()


def test_who_observes_spending_hears_of_each_attempt(clock: Any) -> None:
    """Also who begins to listen while a function is bound."""
    configure(budgets=[Budget(usd=1)])
    ask = asking()
    for _ in range(3):
        ask()
    heard: list[SpendRecorded] = []
    stop = observe(heard.append, SpendRecorded)  # type: ignore[arg-type]  # of one type

    with spend_key("a"):
        ask()
    stop()
    ask()

    assert [(Decimal(str(COST)), "a")] == [(each.usd, each.spend_key) for each in heard]


def test_budgets_warn_in_time(clock: Any) -> None:
    """The call that reaches a share of the cap tells of it, whoever makes it."""
    configure(budgets=[Budget(calls=5, warn_at=0.6)])
    ask, told = asking(), []
    observe(lambda event: told.append((type(event).__name__, event.spent)), BudgetWarning)
    observe(lambda event: told.append((type(event).__name__, event.spent)), BudgetExceeded)

    for _ in range(5):
        ask()
    with pytest.raises(BudgetExceededError):
        ask()

    assert [("BudgetWarning", 3), ("BudgetExceeded", 5)] == told


def test_totals_that_were_reset_are_shown_again(clock: Any) -> None:
    configure(budgets=[Budget(calls=10)])

    @failover([FREE])
    def ask(target: Target) -> str:
        return "x"

    for _ in range(3):
        ask()
    reset_spend()
    before = spend_total()
    ask()

    assert ({}, {TARGET: 0}) == (before, spend_total())


# Sums.


def test_no_cap_is_passed_by_threads(by_flow: list[str]) -> None:
    """Calls of many threads are admitted as often as there is room, and booked once each."""
    configure(budgets=[Budget(calls=500), Budget(tokens=10**6, of="key")], logging=False)
    ask, done = asking(), []

    def work() -> None:
        with spend_key("a"), suppress(BudgetExceededError):
            while True:
                ask()
                done.append(1)

    with switching_often():
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert 500 == len(done)
    assert len(by_flow) < 400
    assert [
        ("all month calls", 500, 0, 500, 0),
        ("key month tokens", 75_000, 0, 500, 0),
    ] == rows()
    assert {TARGET: Decimal(str(COST)) * 500} == spend_total()


def test_reservations_of_threads_keep_within_the_cap() -> None:
    """What is spent, reserved and asked for is never above the cap together."""
    configure(budgets=[Budget(calls=3)], logging=False)
    most: list[Any] = []

    @failover([FREE])
    def ask(target: Target) -> str:
        [row] = spend()
        most.append(row.spent + row.reserved)
        return "x"

    def work(_: int) -> None:
        for _ in range(50):
            with suppress(BudgetExceededError):
                ask()
            reset_spend("all month calls")

    with switching_often(), ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))

    assert max(most) <= 3
    assert [0] == [each.reserved for each in spend()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_books_no_attempt_of_its_parent(clock: Any) -> None:
    configure(budgets=[Budget(usd=1), Budget(calls=10, of="key")], limits=LIMITS)
    ways: list[Callable[[], Any]] = [lambda: None]

    @failover([Target(TARGET, price=(1.0, 10.0), max_output=100)])
    def ask(target: Target) -> Any:
        ways[0]()
        return answer()

    child = -1

    def fork() -> None:
        nonlocal child
        child = os.fork()

    with spend_key("a"):
        for _ in range(3):
            ask()
        before = rows()
        ways[0] = fork
        ask()
    if not child:
        try:
            os._exit(0 if rows() == before and spend_total() == {TARGET: 3 * _COST} else 1)
        finally:
            os._exit(2)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert [4, 4] == [each.calls for each in spend()]


_COST = Decimal(str(COST))


# Attempts inside.


@pytest.mark.parametrize("is_async", [False, True])
def test_a_usage_is_booked_by_the_innermost_attempt(clock: Any, *, is_async: bool) -> None:
    """The attempt around it books its call, and nothing else, also if it began in a thread."""
    configure(budgets=[Budget(tokens=10**6), Budget(calls=100)])
    inner = asking()
    is_nested = False

    @failover([Target("openai/gpt", price=(1.0, 1.0), max_output=10)])
    def outer(target: Target) -> Any:
        if is_nested:
            context = copy_context()
            thread = threading.Thread(target=context.run, args=(inner,))
            thread.start()
            thread.join()
        return answer()

    @failover([Target("openai/gpt", price=(1.0, 1.0), max_output=10)])
    async def outer_async(target: Target) -> Any:
        if is_nested:
            await asyncio.create_task(asyncio.to_thread(inner))
        return answer()

    def ask() -> None:
        if is_async:
            run_async(outer_async)
        else:
            outer()

    inner(), inner(), inner()
    ask(), ask(), ask()
    before = {name: spent for name, spent, *_ in rows()}
    is_nested = True
    ask()
    inside = {name: spent - before[name] for name, spent, *_ in rows()}
    is_nested = False
    ask()

    assert {"all month calls": 2, "all month tokens": 150} == inside
    assert {"all month calls": 9, "all month tokens": 8 * 150} == {
        name: spent for name, spent, *_ in rows()
    }


def test_between_the_items_of_a_stream_its_consumer_is_outside(clock: Any) -> None:
    """What it calls then is not inside the attempt that gave the stream, and is booked by itself."""
    configure(budgets=[Budget(tokens=10**6), Budget(calls=100)])
    other = asking()

    @failover([Target("openai/gpt", price=(1.0, 1.0), max_output=10)])
    def stream(target: Target) -> Any:
        return iter(["four", "four"])

    for _ in range(3):
        other()
        list(stream())
    before = {name: spent for name, spent, *_ in rows()}
    for _ in stream():
        other()

    assert {"all month calls": 3, "all month tokens": 2 + 2 * 150} == {
        name: spent - before[name] for name, spent, *_ in rows()
    }


# Estimates.


@pytest.mark.parametrize(
    "value",
    [
        "", "hello", "dear", "data:image/png;base64,AAAA", "x" * 5_000, "aB3/" * 600, None, 1.5, b"x",
        [], ["a", "b"], [{"role": "user", "content": "hello"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"}],
        [{"role": "user", "content": "a", "name": "b"}], [{"role": "tool", "content": "b"}],
        [{"role": "user", "content": [{"type": "text", "text": "c"}]}], [{"content": "a", 1: "b"}],
        [{"role": "user", "content": "data:image/png;base64,AAAA"}], {"text": "a"}, object(),
    ],
    ids=lambda value: repr(value)[:40].partition(" at 0x")[0],
)  # fmt: skip
def test_what_is_sized_in_a_few_steps_has_the_size_of_the_whole_estimate(value: Any) -> None:
    size = plain_characters(value)

    assert size < 0 or -(-size // 4) == estimate({}, (value,))


def test_limits_are_in_force_as_soon_as_they_are_configured(clock: Any) -> None:
    configure(budgets=[Budget(calls=100)])
    ask = asking()
    for _ in range(3):
        ask()

    configure(budgets=[Budget(calls=3)])

    with pytest.raises(BudgetExceededError):
        ask()
    assert runtime.ledger.has_budgets
