"""No thread holds two locks of the package, and what interrupts a thread waits for none of its locks.

What interrupts a thread is a signal handler or a finaliser. Both are run here at a chosen place:
a trace function calls the handler, or drops the last reference, while a lock is held.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from resilient_llm import (
    BreakerOpenError,
    ChainExhaustedError,
    Target,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    is_benched,
    list_benched,
    observe,
    reset,
    testing,
    unbench_model,
)
from resilient_llm._core import retry_budget as _retry_budget
from resilient_llm._core.circuit import circuit as _circuit
from resilient_llm._core.circuit.state import Block
from resilient_llm._runtime import registry as _registry
from resilient_llm._runtime import runtime as _runtime
from resilient_llm._runtime.runtime import runtime
from tests.support.circuits import DOWN, circuit, granted

PATIENCE = 40.0
"""Seconds after which threads that still wait are taken to wait for one another."""

# The order of locks.


_held = threading.local()
_nested: Counter[tuple[str, str]] = Counter()
_taken: Counter[str] = Counter()


def _leaves_held_here() -> list[RecordedLock]:
    """Return the locks that this thread holds, without the runtime's."""
    return [each for each in _held_here() if each._owner != "runtime"]


def _held_here() -> list[RecordedLock]:
    locks: list[RecordedLock] = _held.__dict__.setdefault("locks", [])
    return locks


class RecordedLock:
    """A lock that notes which locks its thread holds already when it takes this one."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._lock = threading.RLock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not self._lock.acquire(blocking, timeout):
            return False
        _taken[self._owner] += 1
        _nested.update((each._owner, self._owner) for each in _held_here() if each is not self)
        _held_here().append(self)
        return True

    def release(self) -> None:
        _held_here().remove(self)
        self._lock.release()

    def _is_owned(self) -> bool:
        return self in _held_here()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


OWNERS = {
    "circuit": _circuit,
    "registry": _registry,
    "retry budget": _retry_budget,
    "runtime": _runtime,
}


@pytest.fixture
def _recorded() -> Iterator[None]:
    """Record the locks of a fresh state that a thread may wait for: all but those of deliveries."""
    _nested.clear()
    _taken.clear()
    with pytest.MonkeyPatch.context() as patch:
        for owner, module in OWNERS.items():
            made = functools.partial(RecordedLock, owner)
            patch.setattr(
                module, "threading", SimpleNamespace(**(vars(threading) | {"RLock": made}))
            )
        patch.setattr(_registry, "MOST_KEYS", 20)
        patch.setattr(runtime, "lock", RecordedLock("runtime"))
        with testing.isolated():
            yield


def _use_everything(clock: testing.FakeClock) -> None:
    """Call, guard, bench, configure and ask, with circuits that open, pause and recover."""
    configure(breakers={"*": {"failures": 2, "window": 60.0}, "forced": {"mode": "forced_open"}})
    unsubscribe = observe(lambda _: health())
    errors: list[BaseException | None] = []

    @failover(chain=["groq/a", "openai/b"], attempts=2, backoff=lambda _: 0.0)
    def ask(target: Target) -> str:
        if errors and (error := errors.pop()):
            raise error
        return target.key

    rate_limit = ConnectionResetError("rate limit")
    for number in range(30):
        errors[:] = [ConnectionResetError(), None, TimeoutError(), rate_limit][: number % 5]
        with contextlib.suppress(ChainExhaustedError):
            ask()
        guard = breaker(f"groq/{number}", failures=1 + number % 3)
        with contextlib.suppress(BreakerOpenError, ConnectionRefusedError), guard:
            if number % 4 == 0:
                raise ConnectionRefusedError
        guard.record(TimeoutError() if number % 3 else None, 0.1)
        bench_model("groq" if number % 2 else "openai/b", 5.0)
        unbench_model("groq")
        clock.advance(7.0)
        assert len(health()) >= len(list_benched())
        is_benched("groq/a")
    configure(breakers={"*": {"slow_call": 1.0, "mode": "disabled"}})
    reset()
    with testing.isolated():
        ask()
    unsubscribe()


@pytest.mark.usefixtures("_recorded")
def test_no_lock_is_taken_while_another_one_is_held(clock: testing.FakeClock) -> None:
    """Each lock is a leaf, but that of the runtime, which is taken before those."""
    _use_everything(clock)

    assert set(OWNERS) == set(_taken)
    assert {} == {pair: times for pair, times in _nested.items() if pair[0] != "runtime"}


@pytest.mark.usefixtures("_recorded")
def test_observers_and_loggers_are_called_under_no_leaf_lock(clock: testing.FakeClock) -> None:
    """Code of users does not run under a lock, also that which asks whether a line is logged."""
    under_a_lock: list[object] = []
    called: set[str] = set()

    class Asked(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            called.add("filter")
            if _leaves_held_here():
                under_a_lock.append(record)
            return True

    class Logger(logging.Logger):
        def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # overrides a method of logging
            called.add("logger")
            if _leaves_held_here():
                under_a_lock.append(level)
            return super().isEnabledFor(level)

    def observer(event: object) -> None:
        called.add("observer")
        if _leaves_held_here():
            under_a_lock.append(event)

    logger = logging.getLogger("resilient_llm")
    was, asked = type(logger), Asked()
    logger.__class__ = Logger
    logger.addFilter(asked)
    unsubscribe = observe(observer)
    try:
        _use_everything(clock)
    finally:
        unsubscribe()
        logger.removeFilter(asked)
        logger.__class__ = was

    assert {"logger", "observer", "filter"} == called
    assert [] == under_a_lock


# What interrupts a thread.


@contextlib.contextmanager
def _interrupted(function: str, handler: Callable[[], object]) -> Iterator[list[str]]:
    """Call a handler once, on this thread, when a function of the package is entered."""
    entered: list[str] = []

    def trace(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_name == function and not entered:
            entered.append(function)
            handler()

    sys.settrace(trace)
    try:
        yield entered
    finally:
        sys.settrace(None)


def _in_thread(job: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=job, daemon=True)
    thread.start()
    return thread


LOCKED = [
    ("_error_locked", lambda: breaker("groq/a").record(TimeoutError(), 0.1)),
    ("_publish_locked", lambda: bench_model("groq")),
    ("_adopt_locked", lambda: breaker("groq/new")),
    ("_heal_locked", lambda: is_benched("groq/a")),
    ("resize", lambda: configure(breakers={"groq/a": {"window": 10.0}})),
]
"""A function that runs under the lock of groq, and what calls it."""


@pytest.mark.parametrize(("function", "call"), LOCKED, ids=[name for name, _ in LOCKED])
@pytest.mark.parametrize(
    "handler",
    [health, lambda: bench_model("openai/b"), lambda: breaker("openai/b").record(None, 0.1)],
    ids=["health", "bench", "record"],
)
def test_a_signal_handler_waits_for_another_provider_no_longer_than_it_is_held(
    function: str, call: Callable[[], object], handler: Callable[[], object]
) -> None:
    """While the handler waits, the thread that holds the other provider's lock asks for health()."""
    breaker("groq/a").record(None, 0.1)
    breaker("openai/b").record(None, 0.1)
    other = runtime.registry.circuit("openai/b")
    held, waits = threading.Event(), threading.Event()

    def hold() -> None:
        with other._lock:
            held.set()
            waits.wait(PATIENCE)

    def handle() -> None:
        _in_thread(hold)
        assert held.wait(PATIENCE)
        _in_thread(health)
        waits.set()
        handler()

    seen: list[str] = []

    def interrupted() -> None:
        with _interrupted(function, handle) as entered:
            call()
        seen.extend(entered)

    thread = _in_thread(interrupted)
    thread.join(PATIENCE)

    assert not thread.is_alive()
    assert [function] == seen


@pytest.mark.parametrize(("function", "call"), LOCKED, ids=[name for name, _ in LOCKED])
def test_events_of_a_signal_handler_are_delivered_under_no_lock(
    function: str, call: Callable[[], object]
) -> None:
    """A handler that comes while the lock is held benches a key of the same provider."""
    breaker("groq/a").record(None, 0.1)
    breaker("groq/b")
    told: list[tuple[str, bool]] = []
    lock = runtime.registry.circuit("groq")._lock
    unsubscribe = observe(lambda event: told.append((event.target, lock._is_owned())))  # type: ignore[attr-defined]  # not in the stubs

    with _interrupted(function, lambda: bench_model("groq/b")):
        call()
    unsubscribe()

    assert ("groq/b", False) in told
    assert {False} == {is_locked for _, is_locked in told}


def _probes_in_a_cycle() -> list[Any]:
    """Return a loop that holds the probes of a target and of its provider, in a reference cycle."""
    loop = iter(failover(chain=["groq/a"], attempts=1))
    cycle: list[Any] = [loop, next(loop)]
    cycle.append(cycle)
    return cycle


def _half_open(clock: testing.FakeClock) -> None:
    breaker("groq/a", failures=1).record(TimeoutError(), 0.0)
    breaker("groq", failures=1).record(ConnectionRefusedError(), 0.0)
    clock.advance(40.0)


@pytest.mark.parametrize("where", ["same thread", "another thread"])
def test_a_finaliser_gives_probes_back_while_the_lock_is_held(
    clock: testing.FakeClock, where: str
) -> None:
    """A loop that was dropped is collected while its locks are held; its probes are free then."""
    _half_open(clock)
    cycles = [_probes_in_a_cycle()]
    lock = runtime.registry.circuit("groq/a")._lock
    assert isinstance(runtime.registry.circuit("groq/a").block(runtime.clock()), Block)

    def collect() -> None:
        cycles.clear()
        gc.collect()

    with lock:
        if where == "same thread":
            collect()
        else:
            collecting = _in_thread(collect)
            collecting.join(PATIENCE)
            assert not collecting.is_alive()

    with breaker("groq/a"):
        assert "half_open" == breaker("groq").state


@pytest.mark.parametrize(
    "ask",
    [
        lambda one: one.admit(40.0),
        lambda one: one.admit_last_resort(40.0, 0.0),
        lambda one: None if one.block(40.0) is None else one.block(40.0),
    ],
    ids=["admit", "last resort", "block"],
)
def test_a_lease_that_was_given_back_is_free_for_whoever_asks_next(
    ask: Callable[[_circuit.Circuit], object],
) -> None:
    """Also if nobody held the lock when it was given back."""
    one = circuit(failures=1)
    one.failure(granted(one.admit(0.0)), 0.0, DOWN, 0.0)
    lease = granted(one.admit(40.0))
    assert isinstance(one.admit(40.0), Block)

    one.abandon(lease)

    assert not isinstance(ask(one), Block)


def test_targets_get_the_new_lock_of_their_provider_after_a_fork() -> None:
    """The child's provider and targets share a lock that no thread of the parent holds."""
    circuits = [runtime.registry.circuit(key) for key in ("groq/a", "groq", "groq/b")]
    before = circuits[0]._lock

    runtime.registry.after_fork()

    assert 1 == len({id(each._lock) for each in circuits})
    assert before is not circuits[0]._lock


def test_circuits_that_are_made_while_another_state_comes_in_force_are_shut() -> None:
    """A circuit that was being made when its registry was suspended is suspended as well."""
    registry = runtime.registry

    with _interrupted("_adopt_locked", lambda: registry.suspend(suspended=True)):
        made = registry.circuit("groq/a")
    try:
        assert made.suspended
        assert made.slot is None
    finally:
        registry.suspend(suspended=False)
    for _ in range(2):  # the first call of a key is looked at
        with breaker("groq/a"):
            pass

    assert made.slot is made.generation


def test_circuits_that_are_made_while_settings_change_have_the_new_ones() -> None:
    """A circuit that was being made when defaults were changed is not left with the old ones."""
    with _interrupted("_adopt_locked", lambda: configure(breakers={"*": {"failures": 9}})):
        made = runtime.registry.circuit("groq/a")

    assert 9 == made.settings.failures
