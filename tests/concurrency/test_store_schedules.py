"""What a process tells the thread of its store, and is answered, in every order of the steps."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from math import inf
from types import CodeType
from typing import Any

import anyio
import pytest

from resilient_llm._core.circuit import telling
from resilient_llm._core.circuit.state import FOREVER
from resilient_llm._core.sharing.question import Question
from resilient_llm._drive import asking
from resilient_llm._drive.asking import await_answer, wait_for_answer
from resilient_llm._runtime import mirror
from resilient_llm._runtime.background import deadline
from resilient_llm._runtime.mirror import SharedState
from resilient_llm._runtime.runtime import Runtime, runtime
from resilient_llm._values.sharing import Stamp
from resilient_llm.stores import Readable
from resilient_llm.testing import MemoryStore
from tests.support.interrupts import interrupted_at
from tests.support.schedules import EVERY_OPCODE, Points, Race, explore, opcodes_of

BACKENDS = ["asyncio", "trio"]


class Restless(MemoryStore):
    """Does not wait, so that a pass of the thread ends where it would fall asleep."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[str] = []
        """Keys of what was published."""

    def wait(self, since: int, seconds: float, wake: Readable | None = None) -> bool:
        return False

    def publish(self, stamp: Stamp, changes: Any, balances: Any = (), *, timeout: float) -> Any:
        self.published += [each.key for each in changes]
        return super().publish(stamp, changes, balances, timeout=timeout)


class Shared:
    """A state with a store, whose thread is whoever calls `pass_once`."""

    def __init__(self) -> None:
        self.store = Restless()
        self.state = Runtime()
        self.state.open_store, self.state.share = runtime.open_store, runtime.share
        self.state.configure({"state": self.store})
        self.sharing: SharedState = self.state.sharing
        thread: Any = self.sharing.thread
        thread.start = lambda: None
        thread.flush = lambda timeout: self.sharing.work(deadline(timeout))
        thread._starts_at = 0.0  # it has begun
        self.state.registry.circuit("groq")
        self.pass_once()

    def pass_once(self) -> None:
        """Do what the thread does until it falls asleep or begins again."""
        self.sharing.work(inf)

    def bench(self, key: str = "groq") -> None:
        """Bench a key by hand."""
        self.state.registry.circuit(key).bench(runtime.clock(), FOREVER, "", "")

    @property
    def is_woken(self) -> bool:
        """Whether a thread that sleeps wakes up."""
        return bool(select.select([self.sharing._wake_read], [], [], 0)[0])


def wakes_up(shared: Shared) -> None:
    """What comes while the thread sleeps wakes it, and nothing else does."""
    assert shared.is_woken or not shared.sharing._told
    shared.bench()
    assert shared.is_woken
    for _ in range(3):
        shared.pass_once()
    assert not shared.is_woken
    assert not shared.sharing._told
    assert {"groq", "openai"} == set(shared.store.published)


WAKING = Race(
    "a change is told while the thread falls asleep",
    Shared,
    [Shared.pass_once, lambda shared: shared.bench("openai")],
    wakes_up,
)


def has_told_all(shared: Shared) -> None:
    """Nothing was left in the queue of a thread that has ended."""
    assert not shared.sharing._told
    assert shared.sharing.thread.is_over


ENDING = Race(
    "a change is told while the store is left",
    Shared,
    [Shared.bench, lambda shared: shared.sharing.end()],
    has_told_all,
)


def was_answered(question: Question) -> None:
    """Whoever waited has it."""
    assert "yes" == question.answer


ANSWERING = Race(
    "an answer comes while its caller begins to wait",
    Question,
    [lambda question: wait_for_answer(question, 600.0), lambda question: question.answered("yes")],
    was_answered,
)


def in_both(code: CodeType, offset: int) -> bool:
    """Allow a switch where changes are told, and where they are taken."""
    return code.co_filename in (mirror.__file__, telling.__file__)


@pytest.mark.parametrize(
    ("race", "points"),
    [(WAKING, opcodes_of(mirror)), (ENDING, in_both), (ANSWERING, EVERY_OPCODE)],
    ids=["waking", "ending", "answering"],
)
def test_nothing_is_lost_in_any_order(race: Race, points: Points) -> None:
    """Neither a change nor an answer; and no order leaves a thread that runs without a rest."""
    explored = explore(race, points, runs=400)

    assert explored.violation is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_answer_at_any_moment_wakes_a_task(backend: str) -> None:
    """Given by another thread before each opcode of the wait."""

    async def waits(step: int) -> int:
        asked = Question()
        began = time.monotonic()

        def answer() -> None:
            thread = threading.Thread(target=asked.answered, args=("yes",))
            thread.start()
            thread.join()

        with interrupted_at(step, answer, asking) as steps:
            await await_answer(asked, 600.0 if step else 0.0)
        assert time.monotonic() - began < 60.0
        return steps[0]

    async def main() -> None:
        # The opcodes after the wait has begun are only reached with an answer.
        longest = await waits(1)
        for step in range(1, longest + 1):
            await waits(step)

    anyio.run(main, backend=backend)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_at_any_moment_leaves_both_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before opcodes of the thread, by another one: the parent loses nothing, and the child works."""
    monkeypatch.setattr(mirror, "AT_END", 0.01)  # that long a fork waits for this thread, in vain

    def child(shared: Shared) -> None:
        signal.alarm(20)
        assert shared.state.registry.circuit("groq").state(runtime.clock()) == "open"
        assert not shared.sharing._told
        shared.store.published.clear()
        shared.pass_once()
        assert not shared.store.published
        shared.bench("openai")
        assert shared.is_woken
        for _ in range(3):
            shared.pass_once()
        assert ["openai"] == shared.store.published
        shared.state.configure({"state": None})

    def run(step: int) -> int:
        shared = Shared()
        statuses: list[int] = []

        def fork() -> None:
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    child(shared)
                    status = 0
                finally:
                    os._exit(status)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

        def elsewhere() -> None:
            thread = threading.Thread(target=fork)
            thread.start()
            thread.join()

        shared.bench()
        with interrupted_at(step, elsewhere, mirror) as steps:
            shared.pass_once()
            shared.pass_once()
        assert ([0] if step else []) == statuses, step
        assert ["groq"] == shared.store.published
        shared.state.configure({"state": None})
        return steps[0]

    longest = run(0)
    for step in range(1, longest + 1, 7):
        run(step)
