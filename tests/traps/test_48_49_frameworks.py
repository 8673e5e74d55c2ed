"""Traps 48 and 49: exceptions of the application's own frameworks, however a call is written.

A web framework's exception or a task queue's retry leaves unchanged after one attempt and counts
nowhere; a queue's time limit passes like a cancellation.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

import aiohttp.web
import pytest

from resilient_llm import (
    AttemptFailed,
    CallFailed,
    Target,
    breaker,
    failover,
    health,
    list_benched,
)
from resilient_llm.testing import FakeClock, capture_events
from tests.support.errors import shaped
from tests.support.stream_forms import FEW_FORMS, Form, read
from tests.support.stream_sources import Supply, names, said
from tests.support.ways import DRIVERS, GROQ, OPENAI, SHAPES, Driver, Shape, over

CHAIN = [GROQ, OPENAI]


def skipped() -> BaseException:
    return unittest.SkipTest("not today")


def deferred() -> BaseException:
    """Return control flow that is no Exception, as pytest, Airflow and Streamlit raise it."""
    return shaped("airflow.sdk.exceptions.TaskDeferred", base=BaseException)


CONTROL_FLOW: list[Callable[[], BaseException]] = [
    aiohttp.web.HTTPNotFound,
    aiohttp.web.HTTPTooManyRequests,
    skipped,
    deferred,
]


def soft_limit() -> BaseException:
    return shaped("billiard.exceptions.SoftTimeLimitExceeded")


def greenlet_limit() -> BaseException:
    return shaped("gevent.timeout.Timeout", base=BaseException)


def read_whatever_leaves(form: Form, ask: Callable[..., Any], *args: Any) -> tuple[Any, list[Any]]:
    """Return the exception that left and the items before it."""
    items: list[Any] = []
    try:
        return read(form, ask, *args, into=items).error, items
    except BaseException as error:  # no Exception, in async code
        return error, items


LIMITS: list[Callable[[], BaseException]] = [soft_limit, greenlet_limit]
EVERYTHING = CONTROL_FLOW + LIMITS


def is_untouched(*keys: str) -> bool:
    """Whether nothing was counted or benched."""
    return not list_benched() and all(
        each.error_rate == 0 and each.status == "healthy" for each in health(expected=keys).values()
    )


@pytest.mark.parametrize("make", EVERYTHING)
@over(DRIVERS)
def test_trap_48_49_it_leaves_a_chain_at_once_and_unchanged(
    driver: Driver, make: Callable[[], BaseException], clock: FakeClock
) -> None:
    """One attempt is made, its exception is the one that leaves, and nothing is counted."""
    error, asked = make(), []

    def provider(target: Target) -> Any:
        asked.append(target.key)
        raise error

    with capture_events() as events, pytest.raises(BaseException) as caught:  # any may leave
        driver.run(failover(CHAIN), provider)

    assert (error, [GROQ]) == (caught.value, asked)
    assert is_untouched(*CHAIN)
    assert [] == clock.sleeps
    assert "UnknownError" not in names(events)
    if make in CONTROL_FLOW:
        failed = [event for event in events if isinstance(event, AttemptFailed)]
        assert [("caller_bug", "control_flow", None)] == [
            (event.kind, event.reason, event.status) for event in failed
        ]
        assert ["caller_bug"] == [each.kind for each in events if isinstance(each, CallFailed)]


@pytest.mark.parametrize("make", EVERYTHING)
@over(SHAPES)
def test_trap_48_49_it_counts_nowhere_in_a_guard(
    shape: Shape, make: Callable[[], BaseException], clock: FakeClock
) -> None:
    """However often it leaves a guard, the circuit stays closed and nobody is told of it."""
    with capture_events() as events:
        outcomes = [shape.outcome(GROQ, make()) for _ in range(6)]

    assert ["failed"] * 6 == outcomes
    assert "closed" == breaker(GROQ).state
    assert is_untouched(GROQ)
    assert "UnknownError" not in names(events)


@pytest.mark.parametrize("make", EVERYTHING)
@pytest.mark.parametrize("before", [[], [said("It ")]], ids=["first", "midway"])
@over(FEW_FORMS)
def test_trap_48_49_it_leaves_a_stream_unchanged(
    form: Form, before: list[Any], make: Callable[[], BaseException], clock: FakeClock
) -> None:
    """While a stream is iterated it leaves as it is too: no other target, nothing counted."""
    error = make()
    supply = Supply({GROQ: [[*before, lambda: error]], OPENAI: [[said("never")]]})
    ask = form.make(failover(CHAIN), supply)

    with capture_events() as events:
        left, items = read_whatever_leaves(form, ask)

    assert (error, before, [GROQ]) == (left, items, supply.calls)
    assert is_untouched(*CHAIN)
    assert {"UnknownError", "StreamInterrupted"}.isdisjoint(names(events))
    assert [] == supply.left_open


@pytest.mark.parametrize("make", EVERYTHING)
@over(FEW_FORMS)
def test_trap_48_49_it_counts_nowhere_in_a_guarded_stream(
    form: Form, make: Callable[[], BaseException], clock: FakeClock
) -> None:
    """A breaker that guards a stream counts it as nothing, too."""
    error = make()
    supply = Supply({GROQ: [[said("It "), lambda: error]]})
    ask = form.make(breaker(GROQ), supply)

    for _ in range(6):
        assert error is read_whatever_leaves(form, ask, Target(GROQ))[0]

    assert "closed" == breaker(GROQ).state
    assert is_untouched(GROQ)


def test_trap_49_a_time_limit_after_as_long_as_a_slow_call_counts_as_hung(clock: FakeClock) -> None:
    """The provider that hangs until the queue's limit ends the task is the one to blame."""

    @breaker(GROQ, slow_call=20.0, failures=1)
    def ask() -> None:
        clock.advance(60)
        raise soft_limit()

    with pytest.raises(Exception, match=r"^$"):
        ask()

    assert "hung" == health()[GROQ].last_error.reason  # type: ignore[union-attr]  # there is one
