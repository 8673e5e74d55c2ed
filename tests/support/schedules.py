"""Races run again and again, each time in another order of the same steps.

A `Race` is a fresh state, what its threads do to it, and what must be true afterwards, in
whatever order they did it. Two explorers run it.

`explore` is a scheduler of our own. One thread runs at a time, and where a switch is
allowed the plan of the run says whether there is one. It tries every run with one switch,
as far as its budget goes, and then runs with two or three, drawn from a seed. Switches are
allowed at `EVERY_OPCODE`, or at `WHERE_CPYTHON_SWITCHES`: CPython with its global lock lets
another thread in only at the entry of a function, after a call and at a jump backwards, and
what is counted without a lock rests on that (see resilient_llm/_core/circuit/window.py).

`reduce` hands the race to frontrun, which finds out by itself which opcodes of two threads
touch the same thing, and runs one order of each kind that can make a difference.

``SCHEDULES=20`` in the environment explores twenty times as many runs.
"""

from __future__ import annotations

import dis
import functools
import gc
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, ModuleType, SimpleNamespace
from typing import Any, TypeVar

import pytest

import resilient_llm
from resilient_llm._api import breaker as _breaker
from resilient_llm._core import retry_budget as _retry_budget
from resilient_llm._core.circuit import circuit as _circuit
from resilient_llm._core.circuit import window
from resilient_llm._core.limits import buckets as _buckets
from resilient_llm._core.limits import places as _places
from resilient_llm._core.limits import reported as _reported
from resilient_llm._core.spending import local_ledger as _ledger
from resilient_llm._drive import asking as _asking
from resilient_llm._runtime import mirror as _mirror
from resilient_llm._runtime import registry as _registry
from resilient_llm._runtime import runtime as _runtime
from resilient_llm.config import _state as _file_state

S = TypeVar("S")

PATIENCE = int(os.environ.get("SCHEDULES", "1"))
"""How many times the usual number of runs is explored."""

_PACKAGE = str(Path(resilient_llm.__file__).parent) + os.sep
_GENERATED = "<failover wrapper of "
# Weak references are cleared in Python code of the standard library, which switches as ours does.
_WEAK = tuple(str(sys.modules[name].__file__) for name in ("weakref", "_weakrefset"))

# Where CPython looks whether another thread wants to run: 3.11 to 3.13, Python/bytecodes.c or
# ceval.c, CHECK_EVAL_BREAKER. Reading an attribute is no such place, but a property is a function.
_SWITCHES_AFTER = frozenset(
    "RESUME CALL CALL_KW CALL_FUNCTION_EX SEND YIELD_VALUE BEFORE_WITH BEFORE_ASYNC_WITH "
    "WITH_EXCEPT_START IMPORT_NAME".split()
)


_LOOKS_BEFORE_JUMPS = sys.version_info >= (3, 13)


@functools.cache
def switch_points(code: CodeType) -> frozenset[int]:
    """Return the offsets before which CPython may let another thread run."""
    points: set[int] = set()
    previous: dis.Instruction | None = None
    for instruction in dis.get_instructions(code):
        if previous is not None and previous.opname in _SWITCHES_AFTER:
            points.add(instruction.offset)
        if "JUMP_BACKWARD" in instruction.opname:  # 3.11 has conditional ones, too
            points.add(_looked_at(instruction))
        previous = instruction
    return frozenset(points)


def _looked_at(jump: dis.Instruction) -> int:
    """Return where CPython looks at the end of a turn of a loop: up to 3.12 after the jump.

    From 3.13 on it looks before the jump, and looks up there what a signal handler raises. See
    tests/support/uncovered_jumps.py.
    """
    return jump.offset if _LOOKS_BEFORE_JUMPS else jump.argval


@functools.cache
def _jumps_back(code: CodeType) -> frozenset[int]:
    """Return where it looks at the ends of turns."""
    points: set[int] = set()
    for instruction in dis.get_instructions(code):
        if "JUMP_BACKWARD" in instruction.opname:
            points.add(_looked_at(instruction))
    return frozenset(points)


Points = Callable[[CodeType, int], bool]
"""Whether a switch is allowed before the opcode at an offset."""


def EVERY_OPCODE(code: CodeType, offset: int) -> bool:  # noqa: N802  # a constant that happens to be a function
    """Allow a switch before every opcode, as no interpreter with a global lock does."""
    return True


def WHERE_CPYTHON_SWITCHES(code: CodeType, offset: int) -> bool:  # noqa: N802  # a constant that happens to be a function
    """Allow a switch where CPython with its global lock has one."""
    return offset in switch_points(code)


def AT_JUMPS_BACK(code: CodeType, offset: int) -> bool:  # noqa: N802  # a constant that happens to be a function
    """Allow a switch at the end of each turn of a loop.

    For what an interrupt must not skip: an exception that is raised here is looked up here, as
    CPython does it, while one that comes after a call is looked up at the call, not behind it.
    """
    return offset in _jumps_back(code)


def opcodes_of(module: ModuleType) -> Points:
    """Allow a switch before every opcode of one module: few enough to try them all."""
    return lambda code, offset: code.co_filename == module.__file__


# What a race is.


@dataclass(frozen=True)
class Race:
    """A fresh state, what threads do to it at once, and what is true afterwards in any order.

    ``check`` raises AssertionError. An error that leaves a thread is one, too.
    """

    name: str
    fresh: Callable[[], Any]
    threads: Sequence[Callable[[Any], object]]
    check: Callable[[Any], object]

    def __str__(self) -> str:
        return self.name


@dataclass
class Explored:
    """What came of exploring a race."""

    runs: int = 0
    violation: str | None = None
    is_complete: bool = False
    """Whether there was nothing left to explore, with as many forced switches as are allowed."""
    steps: list[int] = field(default_factory=list)


# Locks the scheduler knows of, and none at all.


class _Stopped(BaseException):
    """Ends a thread of a run that cannot go on."""


class Lock:
    """A lock whose waiters the scheduler knows of."""

    reentrant = False

    def __init__(self) -> None:
        self._owner: object = None
        self._times = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        run, me = _Run.present, threading.get_ident()
        while self._owner is not None and not (self.reentrant and self._owner == me):
            if not blocking:
                return False
            if run is None:
                raise AssertionError("a thread of an earlier run still holds this lock")
            run.wait_for(self)
        self._owner = me
        self._times += 1
        return True

    def release(self) -> None:
        self._times -= 1
        if not self._times:
            self._owner = None
            if _Run.present is not None:
                _Run.present.freed(self)

    def locked(self) -> bool:
        return self._owner is not None

    def _is_owned(self) -> bool:
        return self._owner == threading.get_ident()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class RLock(Lock):
    """The same, for one thread as often as it likes."""

    reentrant = True


class NoLock:
    """A lock that keeps nobody out: what the library would be without it."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return True

    def release(self) -> None:
        pass

    def _is_owned(self) -> bool:
        return False

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *error: object) -> None:
        pass


_OWNERS = {
    "bucket": _buckets,
    "circuit": _circuit,
    "configuration file": _file_state,
    "places": _places,
    "ledger": _ledger,
    "registry": _registry,
    "reported limits": _reported,
    "retry budget": _retry_budget,
    "runtime": _runtime,
    "shared state": _mirror,
    "waits for answers": _asking,
}
"""The modules that own locks, by what they guard."""


@contextmanager
def locks(without: str | None = None, *, known: bool = True) -> Iterator[None]:
    """Let the library make locks that the scheduler knows of; none for the one named.

    Args:
        without: Which of the library's locks to take out.
        known: Whether the others are the scheduler's; else they stay what they are.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, module in _OWNERS.items():
            if name == without:
                kinds: dict[str, Any] = {"Lock": NoLock, "RLock": NoLock}
            elif known:
                kinds = {"Lock": Lock, "RLock": RLock}
            else:
                continue
            patch.setattr(module, "threading", SimpleNamespace(**(vars(threading) | kinds)))
        # Made at import, so it is none of those.
        patch.setattr(_runtime.runtime, "lock", _runtime.threading.RLock())
        yield


@contextmanager
def lock_free(value: bool) -> Iterator[None]:
    """Turn the one switch for counting successes without a lock."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window, "LOCK_FREE", value)
        if not value:
            patch.setattr(_breaker.Breaker, "__enter__", _breaker.Breaker._enter_slowly)
        yield


# Every opcode of the library is seen before it runs.


def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith((_PACKAGE, _GENERATED)) or code.co_filename in _WEAK


def _entered(frame: FrameType, event: str, arg: object) -> Any:
    if not _is_ours(frame.f_code):
        return None
    frame.f_trace_lines = False
    frame.f_trace_opcodes = True
    return _traced


def _traced(frame: FrameType, event: str, arg: object) -> Any:
    if event == "opcode" and _Run.present is not None:
        _Run.present.before(frame.f_code, frame.f_lasti)
    return _traced


@contextmanager
def _watched() -> Iterator[None]:
    """Watch the opcodes of this thread, on 3.11; later there are no gaps if all threads are watched."""
    if _HAS_MONITORING:
        yield
        return
    sys.settrace(_entered)
    try:
        yield
    finally:
        sys.settrace(None)


_HAS_MONITORING = sys.version_info >= (3, 12)
_TOOL = 4


@contextmanager
def _monitored() -> Iterator[None]:
    """Watch the opcodes of all threads, from 3.12 on, where a trace function does not see them all."""
    if not _HAS_MONITORING:
        yield
        return
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
    events = monitoring.events
    seen: list[CodeType] = []

    def start(code: CodeType, offset: int) -> object:
        if _is_ours(code):
            seen.append(code)
            monitoring.set_local_events(_TOOL, code, events.INSTRUCTION)
        return monitoring.DISABLE

    def instruction(code: CodeType, offset: int) -> object:
        if _Run.present is not None:
            _Run.present.before(code, offset)
        return None

    monitoring.use_tool_id(_TOOL, "schedules")
    monitoring.register_callback(_TOOL, events.PY_START, start)
    monitoring.register_callback(_TOOL, events.INSTRUCTION, instruction)
    monitoring.set_events(_TOOL, events.PY_START)
    monitoring.restart_events()
    try:
        yield
    finally:
        monitoring.set_events(_TOOL, 0)
        for code in seen:
            monitoring.set_local_events(_TOOL, code, 0)
        for event in (events.PY_START, events.INSTRUCTION):
            monitoring.register_callback(_TOOL, event, None)
        monitoring.free_tool_id(_TOOL)


# The scheduler.


@dataclass(frozen=True)
class Plan:
    """Which thread begins, and before which steps another one goes on: ``((step, how many further), …)``."""

    first: int = 0
    switches: tuple[tuple[int, int], ...] = ()


class _Run:
    """One run of a race by a plan."""

    present: _Run | None = None

    def __init__(self, race: Race, plan: Plan, points: Points) -> None:
        self.race = race
        self.points = points
        self.steps = 0
        self.errors: list[BaseException] = []
        self._switches = dict(plan.switches)
        self._count = len(race.threads)
        self._current = plan.first
        self._waiting: dict[int, Lock] = {}
        self._over: set[int] = set()
        self._at_work: set[int] = set()
        """Threads that do their jobs: a finaliser may run in one that is only about to begin."""
        self._go = [threading.Semaphore(0) for _ in race.threads]
        self._all_over = threading.Semaphore(0)
        self._stopped = False

    def __call__(self) -> str | None:
        """Run the race; return what was wrong afterwards, or None."""
        state = self.race.fresh()
        threads = [
            threading.Thread(target=self._work, args=(number, job, state), daemon=True)
            for number, job in enumerate(self.race.threads)
        ]
        _Run.present = self
        is_collecting = gc.isenabled()
        gc.disable()  # 3.11 collects where anything is made: here, in the midst of the library's steps
        try:
            for thread in threads:
                thread.start()
            self._go[self._current].release()
            self._all_over.acquire()
            for thread in threads:
                thread.join()
        finally:
            _Run.present = None
            if is_collecting:
                gc.enable()
        if self.errors:
            return f"{type(self.errors[0]).__name__}: {self.errors[0]}"
        try:
            self.race.check(state)
        except AssertionError as error:
            return f"AssertionError: {error}"
        return None

    def _work(self, number: int, job: Callable[[Any], object], state: Any) -> None:
        self._go[number].acquire()
        try:
            if not self._stopped:
                self._at_work.add(threading.get_ident())
                with _watched():
                    job(state)
        except _Stopped:
            pass
        except BaseException as error:
            self.errors.append(error)
        finally:
            self._at_work.discard(threading.get_ident())
            self._over.add(number)
            if len(self._over) == self._count:
                self._all_over.release()
            elif not self._stopped and not self._hand_on(1):
                self._stop()

    # Called by the thread that runs.

    def before(self, code: CodeType, offset: int) -> None:
        """Switch here, if that is allowed and the plan says so."""
        if (
            not self._stopped
            and threading.get_ident() in self._at_work
            and self.points(code, offset)
        ):
            further = self._switches.get(self.steps)
            self.steps += 1
            if further is not None:
                self._let_others(further)

    def _let_others(self, further: int) -> None:
        me = self._current
        if self._hand_on(further):
            self._rest(me)

    def _rest(self, me: int) -> None:
        self._go[me].acquire()
        if self._stopped:
            raise _Stopped

    def _hand_on(self, further: int) -> bool:
        """Let the thread that comes so many after this one go on, or the next that can."""
        me = self._current
        for distance in range(further, further + self._count):
            number = (me + distance) % self._count
            if number != me and number not in self._over and number not in self._waiting:
                self._current = number
                self._go[number].release()
                return True
        return False

    def wait_for(self, lock: Lock) -> None:
        """Let others run until a lock was released."""
        me = self._current
        self._waiting[me] = lock
        if self._stopped or not self._hand_on(1):
            self._stop()
            raise _Stopped
        self._rest(me)

    def freed(self, lock: Lock) -> None:
        """Let those go on who wait for a lock, when their turn comes."""
        self._waiting = {
            number: wanted for number, wanted in self._waiting.items() if wanted is not lock
        }

    def _stop(self) -> None:
        """End a run in which nobody can go on."""
        if not self._stopped:
            self._stopped = True
            self.errors.append(
                RuntimeError("deadlock: every thread waits for a lock that another one holds")
            )
            for go in self._go:
                go.release()


def explore(
    race: Race,
    points: Points,
    *,
    runs: int = 150,
    without: str | None = None,
    is_lock_free: bool = False,
    seed: int = 1,
) -> Explored:
    """Run a race by many plans; stop at the first that violates it.

    Args:
        race: The race.
        points: Where a switch is allowed.
        runs: How many runs, if none violates it.
        without: Which of the library's locks to take out.
        is_lock_free: Whether successes are counted without a lock.
        seed: Of the plans with more than one switch.
    """
    explored = Explored()
    count = len(race.threads)
    with locks(without), lock_free(is_lock_free), _monitored():
        # The opcodes of a function are only seen when it is entered once more.
        for first in (*range(count), *range(count)):
            _Run(race, Plan(first), points)()
        plans = _plans(count, runs * PATIENCE, random.Random(seed), explored.steps)
        for plan in plans:
            run = _Run(race, plan, points)
            wrong = run()
            explored.runs += 1
            explored.steps.append(run.steps)
            if wrong is not None:
                explored.violation = f"{race}: {wrong}\n  by {plan}"
                break
    return explored


def _plans(count: int, runs: int, rng: random.Random, steps: list[int]) -> Iterator[Plan]:
    """Give plans: without a switch, with each single one as far as half the runs go, then with several."""
    for first in range(count):
        yield Plan(first)
    singles = [
        Plan(first, ((step, further),))
        for first in range(count)
        for step in range(steps[first])
        for further in range(1, count)
    ]
    if len(singles) > runs // 2:
        singles = rng.sample(singles, runs // 2)
    yield from singles
    longest = max(steps)
    for _ in range(runs - len(singles) - count):
        at = sorted(rng.sample(range(longest), min(longest, rng.choice((2, 2, 3)))))
        yield Plan(rng.randrange(count), tuple((step, rng.randrange(1, count)) for step in at))


# The other explorer.


def reduce(race: Race, *, without: str | None = None, runs: int = 100) -> Explored:
    """Let frontrun run every order of a race that can make a difference, with up to two switches forced.

    Only the first two threads of the race run: with three there are too many orders to run them all.
    Its locks are its own, so those of the state are made while it looks.
    """
    import frontrun

    errors: list[BaseException] = []

    def fresh() -> Any:
        errors.clear()
        return race.fresh()

    def guarded(job: Callable[[Any], object]) -> Callable[[Any], None]:
        def work(state: Any) -> None:
            try:
                job(state)
            except Exception as error:
                errors.append(error)

        return work

    def holds(state: Any) -> bool:
        try:
            race.check(state)
        except AssertionError as error:
            errors.append(error)
        return not errors

    with pytest.MonkeyPatch.context() as patch, locks(without, known=False), lock_free(False):
        patch.setenv("FRONTRUN_ACTIVE", "1")
        result = frontrun.explore(
            fresh,
            [guarded(job) for job in race.threads[:2]],
            holds,
            strategy="dpor",
            preemption_bound=2,
            timeout_per_run=20.0,  # a busy machine is no deadlock
            deadlock_timeout=20.0,
            max_executions=runs * PATIENCE,
            detect_io=False,
            reproduce_on_failure=0,
            trace_packages=["resilient_llm.*", "weakref", "_weakrefset"],
        )
    explored = Explored(runs=result.num_explored, is_complete=result.num_explored < runs * PATIENCE)
    if result.property_holds is False:
        explored.violation = f"{race}: {errors[0] if errors else ''}\n{result.explanation}"
    elif result.property_holds is None:
        explored.violation = f"{race}: nothing was found out, {result.inconclusive_reason}"
    return explored
