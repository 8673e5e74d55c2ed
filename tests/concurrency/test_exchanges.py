"""What is changed for the whole process reaches every function and circuit, whatever comes between.

A signal handler, or a finaliser, may use the library at any place of it. Here a trace function
calls the handler when a function of the package is entered, on the same thread.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from resilient_llm import (
    ChainExhaustedError,
    Target,
    TargetUnbenched,
    breaker,
    configure,
    failover,
    health,
    is_benched,
    list_benched,
    observe,
    reset,
    testing,
)
from resilient_llm._core import retry_budget
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.weak_circuits import WeakCircuits
from resilient_llm.testing import FakeClock
from tests.support.ways import down

PACKAGE = "resilient_llm"


@contextlib.contextmanager
def interrupted(
    function: str, handler: Callable[[], object], *, times: int = 1
) -> Iterator[list[str]]:
    """Call a handler when a function of the package is entered, on this thread."""
    entered: list[str] = []

    def trace(frame: FrameType, event: str, argument: object) -> None:
        if (
            frame.f_code.co_name == function
            and PACKAGE in frame.f_code.co_filename
            and len(entered) < times
        ):
            entered.append(function)
            handler()

    sys.settrace(trace)
    try:
        yield entered
    finally:
        sys.settrace(None)


def _decorated() -> tuple[Any, list[int]]:
    """Return a function that fails if it is told to, and its attempts."""
    attempts: list[int] = []

    @failover(chain=["groq/llama"])
    def ask(target: Target, fails: bool = False) -> str:
        if fails:
            attempts.append(1)
            raise down()
        return target.key

    return ask, attempts


def _attempts_of(ask: Any, attempts: list[int]) -> int:
    reset()  # a bench would leave one attempt
    attempts.clear()
    with pytest.raises(ChainExhaustedError):
        ask(fails=True)
    return len(attempts)


@pytest.mark.parametrize("is_first", [True, False], ids=["first call", "after a change"])
@pytest.mark.parametrize(
    "function",
    ["circuit", "under", "in_force", "_wanted_events", "use", "_use", "bind", "_publish", "_watch"],
)
def test_a_signal_handler_that_configures_while_a_function_is_bound(
    function: str, is_first: bool
) -> None:
    """The function is bound to what the handler configured, also if the handler called it."""
    ask, attempts = _decorated()
    if not is_first:
        ask()
        configure(attempts=3, backoff=lambda _: 0.0)

    def handle() -> None:
        configure(attempts=2, backoff=lambda _: 0.0)
        ask()

    with interrupted(function, handle) as entered:
        ask()

    assert [function] == entered
    assert 2 == _attempts_of(ask, attempts)


# What a signal handler changes while it is looked through.


def _many_functions(count: int = 20) -> list[tuple[Any, list[int]]]:
    functions = [_decorated() for _ in range(count)]
    for ask, _ in functions:
        ask()
    return functions


@pytest.mark.parametrize("times", [1, 5])
def test_a_signal_handler_that_makes_first_calls_while_functions_are_unbound(times: int) -> None:
    """Every function has the new options, also those that the handler called first."""
    functions = _many_functions()
    more: list[tuple[Any, list[int]]] = []

    def handle() -> None:
        more.extend(_many_functions(3))

    with interrupted("unbind", handle, times=times) as entered:
        configure(attempts=1)

    assert times == len(entered)
    assert {1} == {_attempts_of(*each) for each in [*functions, *more]}


def test_a_signal_handler_that_configures_while_functions_are_unbound() -> None:
    """Its own change holds for its own calls at once, and for all afterwards."""
    functions = _many_functions()
    seen: set[int] = set()

    def handle() -> None:
        configure(attempts=2, backoff=lambda _: 0.0)
        seen.update(_attempts_of(*each) for each in functions)

    with interrupted("unbind", handle):
        configure(attempts=1)

    assert {2} == seen
    assert {2} == {_attempts_of(*each) for each in functions}


@pytest.mark.parametrize("function", ["unbind", "wire", "use_log"])
def test_a_signal_handler_that_raises_while_functions_are_unbound(function: str) -> None:
    """The change reaches every function before the error leaves."""
    functions = _many_functions()

    def handle() -> None:
        raise KeyboardInterrupt

    with interrupted(function, handle) as entered, pytest.raises(KeyboardInterrupt):
        configure(attempts=1, logging=False)

    assert [function] == entered
    assert {1} == {_attempts_of(*each) for each in functions}


@contextlib.contextmanager
def interrupted_at_line(number: int, handler: Callable[[], object]) -> Iterator[list[int]]:
    """Call a handler before the line of this number is run, of the package or of weak containers."""
    lines: list[int] = []

    def line(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            lines.append(frame.f_lineno)
            if len(lines) == number + 1:
                handler()
        return line

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        name = frame.f_code.co_filename
        return line if PACKAGE in name or "weakref" in name else None

    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(None)


LOOKS = {
    "health": health,
    "list_benched": list_benched,
    "reset": reset,
    "configure": lambda: configure(attempts=1, logging=False, breakers={"*": {"failures": 50}}),
    "observe": lambda: observe(lambda event: None)(),
    "exchange": lambda: runtime.exchange(runtime.exchange()),
}
PLACES = 120
"""Lines at which each of them is interrupted, spread over all that it runs."""


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_signal_handler_may_use_the_library_at_any_line(look: Callable[[], object]) -> None:
    """Neither it nor what it interrupted fails, and a change reaches every function and circuit."""

    def handle() -> None:
        breaker("new/model")
        _many_functions(1)

    def look_at(number: int) -> int:
        with testing.isolated():
            functions = _many_functions(3)
            for each in range(3):
                breaker(f"groq/{each}")
            with interrupted_at_line(number, handle) as lines:
                look()
            if look is LOOKS["configure"]:
                assert {1} == {_attempts_of(*each) for each in functions}
                assert {50} == {each.settings.failures for each in runtime.registry.circuits()}
            return len(lines)

    count = look_at(-1)
    for number in range(0, count, max(1, count // PLACES)):
        look_at(number)


@pytest.mark.parametrize("ask", [health, list_benched, reset, lambda: configure(attempts=2)])
@pytest.mark.parametrize("function", ["circuits", "values", "<lambda>", "_advance_locked"])
def test_a_signal_handler_that_makes_circuits_while_they_are_looked_through(
    ask: Callable[[], object], function: str
) -> None:
    """Neither it nor what it interrupted fails, and its circuits are there."""
    for number in range(10):
        breaker(f"groq/{number}")
    made: list[int] = []

    def handle() -> None:
        made.append(len(made))
        breaker(f"new{len(made)}/model")

    with interrupted(function, handle, times=5):
        ask()

    assert {f"new{number + 1}/model" for number in made} <= set(health())


@pytest.mark.parametrize("function", ["_make", "_add", "_clear_up", "__init__", "for_key"])
def test_a_signal_handler_that_asks_for_the_circuit_that_is_made(function: str) -> None:
    """There is one circuit of a key."""
    found: list[Any] = []

    with interrupted(function, lambda: found.append(runtime.registry.circuit("groq/a"))) as entered:
        made = runtime.registry.circuit("groq/a")

    assert [function] == entered
    assert [made] == found
    assert made is runtime.registry.find("groq/a")


def test_circuits_that_exist_no_more_are_not_listed() -> None:
    """Their references are dropped with the next circuit that is added."""
    listed = WeakCircuits()
    with_state = [runtime.registry.circuit(f"groq/{number}") for number in range(3)]
    for each in with_state:
        listed.add(each.key, each)
    key = with_state[0].key
    runtime.registry.kept.clear()
    del each, with_state
    assert listed.get(key) is None
    assert [] == listed.values()

    again = runtime.registry.circuit(key)

    assert again is listed.add(key, again)
    assert [key] == list(listed._references)


def test_a_signal_handler_that_counts_while_a_retry_budget_is_summed() -> None:
    """Neither it nor what it interrupted fails."""
    budgets = retry_budget.RetryBudgets()
    for tenth in range(5):
        budgets.first_attempt_failed("groq", tenth)

    def handle() -> None:
        budgets.first_attempt_failed("groq", 9.0)
        budgets.forget()

    with interrupted("<genexpr>", handle) as entered:
        assert budgets.take("groq", 5.0, 0.2, 0)
    with interrupted("_of", budgets.forget):
        budgets.first_attempt_failed("groq", 9.0)

    assert ["<genexpr>"] == entered


# What an observer interrupts.


KEYS = ["groq", "mistral", "openai"]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_observer_that_interrupts_a_reset_leaves_nothing_undone(
    clock: FakeClock, interrupt: type[BaseException]
) -> None:
    """Every key is reset and every event delivered when the interrupt leaves."""
    for key in KEYS:
        breaker(key, failures=1).record(TimeoutError(), 0.1)
    told: list[str] = []
    unblocked: set[bool] = set()

    def observer(event: TargetUnbenched) -> None:
        told.append(event.target)
        unblocked.update(each._state.is_unblocked for each in runtime.registry.circuits())
        raise interrupt

    unsubscribe = observe(observer, TargetUnbenched)
    with pytest.raises(interrupt):
        reset()
    unsubscribe()

    assert [] == list_benched()
    assert {True} == unblocked
    assert KEYS == told


@pytest.mark.parametrize("mode", ["disabled", "forced_open"])
def test_an_observer_that_interrupts_configure_leaves_nothing_undone(
    clock: FakeClock, mode: Any
) -> None:
    """Every key has the new settings when the interrupt leaves."""
    for key in KEYS:
        guard = breaker(key, failures=1)
        if mode == "disabled":  # the events are those of the end of a bench, else of its begin
            guard.record(TimeoutError(), 0.1)

    def observer(event: object) -> None:
        raise KeyboardInterrupt

    unsubscribe = observe(observer)
    with pytest.raises(KeyboardInterrupt):
        configure(breakers={key: {"mode": mode} for key in [*KEYS, "new"]})
    unsubscribe()

    assert {mode} == {runtime.registry.circuit(key).settings.mode for key in KEYS}
    assert {mode == "forced_open"} == {is_benched(key) for key in [*KEYS, "new"]}
