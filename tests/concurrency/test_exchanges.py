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

from resilient_llm import ChainExhaustedError, Target, configure, failover
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
