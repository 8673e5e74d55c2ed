"""What least_busy counts: every attempt of every policy while it runs, and nothing afterwards."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from resilient_llm import Target, configure, failover
from resilient_llm._core.circuit import window
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import capture_events, isolated
from tests.support.stream_forms import FORMS, Form, read
from tests.support.stream_sources import END, ROLE, Supply, said, says
from tests.support.ways import (
    DRIVERS,
    GROQ,
    MISTRAL,
    OPENAI,
    Driver,
    down,
    on_both_loops,
    over,
    run_async,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEYS = (GROQ, OPENAI, MISTRAL)


@pytest.fixture(autouse=True)
def chooser() -> Iterator[Callable[[], str]]:
    """Have a policy that counts, and give what it would call next."""

    @failover(list(KEYS), strategy="least_busy")
    def ask(target: Target) -> str:
        return target.key

    ask()
    return ask


def running() -> dict[str, int]:
    """Return ``{key: attempts in flight}`` of the keys with any."""
    found = {key: runtime.in_flight.of(key).running for key in KEYS}
    return {key: number for key, number in found.items() if number}


@over(DRIVERS)
def test_an_attempt_is_in_flight_while_it_runs(driver: Driver) -> None:
    """Attempts of another policy count, by whichever way they are written, on their key."""
    seen: list[dict[str, int]] = []
    policy = failover([OPENAI])

    def provider(target: Target) -> str:
        seen.append(running())
        return "yes"

    for _ in range(3):
        driver.run(policy, provider)

    assert [{OPENAI: 1}] * 3 == seen
    assert {} == running()


@over(DRIVERS)
def test_attempts_that_fail_leave_nothing_behind(driver: Driver) -> None:
    """A failed attempt ends before the next begins, on the same target or another."""
    seen: list[dict[str, int]] = []
    policy = failover([GROQ, OPENAI], attempts=2, backoff=lambda number: 0.0)

    def provider(target: Target) -> str:
        seen.append(running())
        raise down()

    for _ in range(2):
        with pytest.raises(Exception, match="no target answered"):
            driver.run(policy, provider)

    assert [{GROQ: 1}, {GROQ: 1}, {OPENAI: 1}, {OPENAI: 1}] == seen[:4]
    assert {} == running()


@over(DRIVERS)
@pytest.mark.parametrize("error", [TypeError, KeyboardInterrupt, asyncio.CancelledError])
def test_what_leaves_the_call_leaves_nothing_behind(
    driver: Driver, error: type[BaseException]
) -> None:
    """Bugs, interrupts and cancellations end their attempt."""
    policy = failover([GROQ, OPENAI])

    def provider(target: Target) -> str:
        raise error

    with pytest.raises(BaseException):  # noqa: B017  # trio makes a group of some
        driver.run(policy, provider)

    assert {} == running()


@over(FORMS)
def test_a_stream_is_in_flight_until_its_end(form: Form) -> None:
    """A stream counts while its items are read."""
    seen: list[dict[str, int]] = []

    class Noting(list[Any]):
        def append(self, item: Any) -> None:
            seen.append(running())
            super().append(item)

    ask = form.make(failover([GROQ]), Supply({GROQ: [says("It", " is")]}))

    read(form, ask, into=Noting())

    assert [{GROQ: 1}] * 2 == seen[:2]
    assert {} == running()


@over(FORMS)
@pytest.mark.parametrize("take", [0, 1, 2])
def test_a_stream_that_is_left_early_ends(form: Form, take: int) -> None:
    """A reader who leaves ends the attempt, also without a single item."""
    ask = form.make(failover([GROQ]), Supply({GROQ: [says("It", " is", " so")]}))

    read(form, ask, take=take)

    assert {} == running()


@over(FORMS)
def test_a_stream_that_breaks_ends(form: Form) -> None:
    """An error after content ends the attempt."""
    ask = form.make(failover([GROQ]), Supply({GROQ: [[ROLE, said("It"), TimeoutError]]}))

    read(form, ask)

    assert {} == running()


def test_a_dropped_stream_ends() -> None:
    """A stream that nobody refers to any more is in flight no longer."""

    @failover([GROQ])
    def ask(target: Target) -> Any:
        yield from [ROLE, said("It"), END]

    stream = iter(ask())
    next(stream)
    assert {GROQ: 1} == running()

    del stream
    gc.collect()

    assert {} == running()


@on_both_loops
def test_a_cancelled_attempt_ends(backend: str) -> None:
    """Cancelling the caller ends what is in flight."""
    seen: list[dict[str, int]] = []

    @failover([GROQ])
    async def ask(target: Target) -> str:
        await anyio.sleep_forever()
        return "never"

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            seen.append(running())
            tasks.cancel_scope.cancel()

    run_async(main, backend=backend)

    assert [{GROQ: 5}] == seen
    assert {} == running()


@on_both_loops
def test_the_least_busy_target_is_called(backend: str) -> None:
    """Concurrent calls spread over the targets, and go where fewer attempts are running."""
    places: list[dict[str, int]] = []

    @failover(list(KEYS), strategy="least_busy")
    async def ask(target: Target) -> str:
        await anyio.sleep_forever()
        return target.key

    @failover([GROQ])
    async def other(target: Target) -> str:
        await anyio.sleep_forever()
        return target.key

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(other)
            await anyio.wait_all_tasks_blocked()
            for _ in range(12):
                tasks.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
            places.append(running())
            tasks.cancel_scope.cancel()

    run_async(main, backend=backend)

    assert [{GROQ: 6, OPENAI: 6, MISTRAL: 6}] == places
    assert {} == running()


def test_ties_rotate() -> None:
    """Calls one after the other use the idle targets in turn."""

    @failover(list(KEYS), strategy="least_busy")
    def ask(target: Target) -> str:
        return target.key

    found = [ask() for _ in range(300)]

    assert dict.fromkeys(KEYS, 100) == {key: found.count(key) for key in KEYS}


def test_calls_that_began_before_are_not_counted() -> None:
    """Who began uncounted ends uncounted: nothing falls below zero."""
    with isolated():
        inside: list[dict[str, int]] = []

        @failover([GROQ])
        def ask(target: Target) -> str:
            if not inside:
                inside.append(running())

                @failover([OPENAI], strategy="least_busy")
                def first(target: Target) -> str:
                    return "first"

                first()
                kept.append(first)
                inside.append(running())
            return "yes"

        kept: list[Any] = []
        ask()

        assert [{}, {}] == inside
        assert {} == running()
        ask()
        assert {} == running()


def test_nothing_is_counted_without_such_a_policy() -> None:
    """Counting ends when nobody chooses by it any more."""
    with isolated():

        @failover([GROQ])
        def ask(target: Target) -> dict[str, int]:
            return running()

        @failover([GROQ], strategy="least_busy")
        def busy(target: Target) -> str:
            return "yes"

        assert {} == ask()
        busy()
        assert {GROQ: 1} == ask()

        del busy
        gc.collect()
        configure(attempts=2)  # functions are bound again
        assert {} == ask()


def test_it_stops_within_a_second_of_calls(clock: Any) -> None:
    """Functions that are not bound again notice it when they look at the level of the log."""
    with isolated():

        @failover([GROQ])
        def ask(target: Target) -> dict[str, int]:
            return running()

        @failover([GROQ], strategy="least_busy")
        def busy(target: Target) -> str:
            return "yes"

        busy()
        ask()
        assert {GROQ: 1} == ask()
        del busy
        gc.collect()
        clock.advance(2.0)
        ask()
        ask()

        assert {} == ask()


def test_a_default_strategy_counts_too() -> None:
    """``configure(strategy="least_busy")`` begins to count, and another default ends it."""
    with isolated():

        @failover([GROQ, OPENAI])
        def ask(target: Target) -> dict[str, int]:
            return running()

        assert {} == ask()
        configure(strategy="least_busy")
        assert {} != ask()
        configure(strategy=None)
        ask()
        configure(attempts=2)
        assert {} == ask()


@pytest.mark.parametrize("lock_free", [True, False])
def test_threads_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch, lock_free: bool) -> None:
    """After calls of many threads, some of which fail, nothing is in flight."""
    monkeypatch.setattr(window, "LOCK_FREE", lock_free)
    configure(attempts=1)

    @failover(list(KEYS), strategy="least_busy", cooldown=0.001)
    def ask(target: Target, number: int) -> str:
        if number % 7 == 0:
            raise down()
        return target.key

    @failover([GROQ, OPENAI])
    def other(target: Target, number: int) -> str:
        if number % 5 == 0 and target.key == GROQ:
            raise down()
        return target.key

    def work() -> None:
        for number in range(500):
            for each in (ask, other):
                try:
                    each(number)
                except Exception:  # noqa: S110  # all targets failed
                    pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)

    assert {} == running()


def test_an_exporter_counts_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an exporter of metrics both count each attempt once."""
    from resilient_llm._runtime.counting import Reading

    reading = Reading((0.1, 1.0), 100)

    @failover([GROQ])
    def ask(target: Target) -> dict[str, int]:
        return running()

    @failover([GROQ, OPENAI], strategy="least_busy")
    def busy(target: Target) -> str:
        return target.key

    try:
        assert [{GROQ: 1}] * 3 == [ask() for _ in range(3)]
        found = [busy() for _ in range(4)]
        figures = reading.figures()
    finally:
        reading.end()

    assert {GROQ: 2, OPENAI: 2} == {key: found.count(key) for key in (GROQ, OPENAI)}
    assert {(GROQ, "ok"): 5, (OPENAI, "ok"): 2} == {
        key: number for key, number in figures.attempts.items() if number
    }
    assert not any(figures.in_flight.values())
    assert {} == running()


def test_observers_change_nothing() -> None:
    """With observers, and with calls that carry names, each attempt is counted once."""
    from resilient_llm import call_id

    @failover([GROQ])
    def ask(target: Target) -> dict[str, int]:
        return running()

    @failover([GROQ])
    def named(target: Target) -> tuple[bool, dict[str, int]]:
        return bool(call_id()), running()

    with capture_events():
        assert [{GROQ: 1}] * 2 == [ask(), ask()]
    named()
    assert [(True, {GROQ: 1})] * 2 == [named(), named()]
    assert {} == running()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_nothing_in_flight() -> None:
    """The attempts of the parent do not run in a child, also if it forks inside one."""
    results: list[int] = []

    @failover([GROQ])
    def ask(target: Target) -> str:
        if not results:
            child = os.fork()
            if not child:
                os._exit(0 if running() == {} else 1)
            results.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return "yes"

    ask()

    assert [0] == results
    assert {} == running()


def test_a_hundred_thousand_calls_leave_nothing() -> None:
    """Neither the counts nor the keys grow with the number of calls or of policies."""
    for number in range(200):

        @failover([f"tenant{number}/model", GROQ], strategy="least_busy")
        def ask(target: Target) -> str:
            return target.key

        for _ in range(500):
            ask()
    del ask
    gc.collect()

    assert len(KEYS) >= len(runtime.in_flight._keys)
    assert 1 == len(runtime.in_flight._users)
    assert {} == running()
