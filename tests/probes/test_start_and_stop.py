"""A start and a stop of one health probe meet, in two threads or two event loops."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from resilient_llm.probes import HealthProbe
from tests.support.guards import eager_threads

PATIENCE = 40.0
"""Real seconds after which a test gives up; nothing takes as long."""


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """Start a thread; return it, and what it raised once it has ended."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, raised


def ended() -> bool:
    """Return whether the threads of all loops end."""
    for each in threading.enumerate():
        if each.name == "resilient_llm-probes":
            each.join(PATIENCE)
            if each.is_alive():
                return False
    return True


class Gate:
    """Holds up the start of the thread of a loop, or has it fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.error: BaseException | None = None
        start = threading.Thread.start

        def late(thread: threading.Thread) -> None:
            if thread.name == "resilient_llm-probes":
                self.wait()
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", late)

    def wait(self) -> None:
        self.reached.set()
        assert self.go_on.wait(PATIENCE)
        if self.error is not None:
            raise self.error


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.mark.parametrize("fails", [False, True])
def test_a_stop_in_the_midst_of_a_start_of_a_thread_is_not_lost(gate: Gate, fails: bool) -> None:
    """It waits for the thread, which ends at once, or returns if there will be none."""
    one = HealthProbe({"groq": lambda: None}, interval=60.0)
    gate.error = RuntimeError("can't start new thread") if fails else None
    starter, of_start = in_thread(one.start_thread)
    assert gate.reached.wait(PATIENCE)
    assert one.running

    stopper, of_stop = in_thread(one.stop_thread)
    while one.running:
        time.sleep(0.001)
    gate.go_on.set()
    starter.join(PATIENCE)
    stopper.join(PATIENCE)

    assert ([gate.error] if fails else [], []) == (of_start, of_stop)
    assert not one.running
    assert ended()


def test_a_stop_returns_in_time_though_the_start_takes_longer(gate: Gate) -> None:
    """As `timeout` says, and the loop ends as soon as it begins."""
    one = HealthProbe({"groq": lambda: None}, interval=60.0)
    starter, of_start = in_thread(one.start_thread)
    assert gate.reached.wait(PATIENCE)

    one.stop_thread(0.0)

    assert not one.running
    gate.go_on.set()
    starter.join(PATIENCE)
    assert [] == of_start
    assert not one.running
    assert ended()


def test_a_thread_that_is_just_being_started_is_the_other_way(gate: Gate) -> None:
    """So it cannot run in an event loop meanwhile, and a second start does nothing."""
    one = HealthProbe({"groq": lambda: None}, interval=60.0)
    starter, _ = in_thread(one.start_thread)
    assert gate.reached.wait(PATIENCE)

    with pytest.raises(RuntimeError, match="in a thread"):
        asyncio.run(one.start())
    asyncio.run(one.stop())  # nothing is done to a loop in a thread
    one.start_thread()

    assert one.running
    gate.go_on.set()
    starter.join(PATIENCE)
    one.stop_thread()
    assert not one.running
    assert ended()


def test_a_start_that_stops_itself_does_not_wait_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a signal handler does that comes in the midst of it."""
    one = HealthProbe({"groq": lambda: None}, interval=60.0)
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == "resilient_llm-probes":
            one.stop_thread(PATIENCE)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    began = time.monotonic()
    one.start_thread()

    assert time.monotonic() - began < PATIENCE / 2
    assert not one.running
    assert ended()


@pytest.mark.parametrize("fails", [False, True])
def test_a_stop_in_the_midst_of_a_start_in_an_event_loop_is_not_lost(fails: bool) -> None:
    """The stop is of another event loop; no lock is held while the task factory runs."""
    one = HealthProbe({"groq": lambda: None}, interval=60.0, timeout=PATIENCE)
    reached, go_on = threading.Event(), threading.Event()

    async def starts() -> None:
        loop = asyncio.get_running_loop()

        def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
            reached.set()
            assert go_on.wait(PATIENCE)
            if fails:
                coroutine.close()
                raise MemoryError
            return asyncio.Task(coroutine, loop=loop, **options)

        loop.set_task_factory(factory)
        try:
            await one.start()
        finally:
            loop.set_task_factory(None)
        while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110  # it ends by itself
            await asyncio.sleep(0.001)

    starter, of_start = in_thread(lambda: asyncio.run(starts()))
    assert reached.wait(PATIENCE)
    with pytest.raises(RuntimeError, match="in an event loop"):
        one.start_thread()
    one.stop_thread()  # nothing is done to a loop in an event loop
    assert one.running
    began = time.monotonic()
    stopper, of_stop = in_thread(lambda: asyncio.run(one.stop()))
    while one.running:
        time.sleep(0.001)
    go_on.set()
    starter.join(PATIENCE)
    stopper.join(PATIENCE)

    assert time.monotonic() - began < PATIENCE / 2
    assert [MemoryError] * fails == [type(each) for each in of_start]
    assert [] == of_stop
    assert not one.running


def test_a_stop_does_not_wait_for_a_loop_that_is_lost() -> None:
    """Its event loop was closed before it could end."""
    one = HealthProbe({"groq": lambda: None}, interval=60.0, timeout=PATIENCE)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(one.start())
    loop.close()

    began = time.monotonic()
    asyncio.run(one.stop())

    assert time.monotonic() - began < PATIENCE / 2


def test_starts_and_stops_of_two_threads_give_no_error_and_none_is_lost() -> None:
    """Whatever the moment at which they meet."""
    with eager_threads():
        for _ in range(100):
            one = HealthProbe({"groq": lambda: None}, interval=60.0)
            starter, raised = in_thread(one.start_thread)
            while not one.running and starter.is_alive():
                pass
            one.stop_thread(PATIENCE)
            starter.join(PATIENCE)
            assert ([], False) == (raised, one.running)
    assert ended()


def test_starts_and_stops_of_two_event_loops_give_no_error_and_none_is_lost() -> None:
    """The same for loops in tasks, of event loops in two threads."""
    with eager_threads():
        for _ in range(30):
            one = HealthProbe({"groq": lambda: None}, interval=60.0, timeout=PATIENCE)
            over = threading.Event()

            async def starts(one: HealthProbe = one, over: threading.Event = over) -> None:
                await one.start()
                while not over.is_set():  # noqa: ASYNC110  # set by another thread
                    await asyncio.sleep(0.0)

            starter, raised = in_thread(lambda: asyncio.run(starts()))
            while not one.running and starter.is_alive():
                pass
            asyncio.run(one.stop())
            is_running = one.running
            over.set()
            starter.join(PATIENCE)
            assert ([], False) == (raised, is_running)
