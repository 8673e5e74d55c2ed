"""The races of limits, each in many orders: places, queues, buckets and what providers report.

They hold without a lock where CPython switches threads, and with their locks wherever threads may
switch; without either, the same exploration finds what goes wrong.
"""

from __future__ import annotations

import dis
from collections.abc import Callable
from types import CodeType, SimpleNamespace
from typing import Any

import pytest

from resilient_llm._core.limits.buckets import Bucket, Charge, bucket
from resilient_llm._core.limits.headers import Figure
from resilient_llm._core.limits.places import Place, Places, places
from resilient_llm._core.limits.reported import ReportedLimits
from tests.support.schedules import (
    EVERY_OPCODE,
    WHERE_CPYTHON_SWITCHES,
    Explored,
    Race,
    explore,
    reduce,
    switch_points,
)


def _holds(explored: Explored) -> None:
    assert None is explored.violation, explored.violation


def over(races: list[Race]) -> pytest.MarkDecorator:
    """Parametrise a test over races, as its argument ``race``."""
    return pytest.mark.parametrize("race", races, ids=str)


# Places.


def _places(limit: int = 1, queued: int = 3) -> SimpleNamespace:
    return SimpleNamespace(made=places(limit, queued), inside=[], most=0, woken=[])


def _attempt(state: Any) -> None:
    """Ask for a place, wait no longer than a moment, and give it back."""
    place = state.made.place()
    if place.take() or (place.enqueue(lambda: None) and place.is_held):
        state.inside.append(1)
        state.most = max(state.most, len(state.inside))
        state.inside.pop()
    place.give_back()


def _nothing_left(state: Any) -> None:
    made = state.made
    assert (0, 0, 0) == (made.running, made.waiting, len(made._queue))
    assert state.most == 1


def _with_waiters(count: int, limit: int = 1) -> SimpleNamespace:
    """Return places that are all held, and so many who wait."""
    state = _places(limit, count + 1)
    state.holders = [state.made.place() for _ in range(limit)]
    assert all(each.take() for each in state.holders)
    state.waiting = [state.made.place() for _ in range(count)]
    for number, each in enumerate(state.waiting):
        each.enqueue(lambda number=number: state.woken.append(number))
    return state


def _give_back(number: int = 0) -> Callable[[Any], None]:
    return lambda state: state.holders[number].give_back()


def _cancel(number: int) -> Callable[[Any], None]:
    return lambda state: state.waiting[number].give_back()


def _second_has_it(state: Any) -> None:
    assert 1 in state.woken
    assert (True, 1, 0) == (state.waiting[1].is_held, state.made.running, state.made.waiting)


def _both_have_it(state: Any) -> None:
    assert [0, 1] == sorted(state.woken)
    assert (2, 0) == (state.made.running, state.made.waiting)


def _join(state: Any) -> None:
    state.late = state.made.place()
    state.got = state.late.take() or state.late.enqueue(lambda: state.woken.append("late"))


def _late_is_served(state: Any) -> None:
    assert state.got
    assert (1, 0) == (state.made.running, state.made.waiting)
    assert state.late._state == 2  # granted by whoever was there, not only when it asks


def _given_back_once(state: Any) -> None:
    assert 1 == state.made.running


PLACE_RACES = [
    Race("attempts on one place", _places, [_attempt] * 3, _nothing_left),
    Race(
        "granted and cancelled in one moment",
        lambda: _with_waiters(2),
        [_give_back(), _cancel(0)],
        _second_has_it,
    ),
    Race(
        "two places are freed for two",
        lambda: _with_waiters(2, limit=2),
        [_give_back(0), _give_back(1)],
        _both_have_it,
    ),
    Race(
        "the limit is raised while a place is freed",
        lambda: _with_waiters(2),
        [_give_back(), lambda state: state.made.change(2, 3)],
        _both_have_it,
    ),
    Race(
        "joining while a place is freed",
        lambda: _with_waiters(0),
        [_give_back(), _join],
        _late_is_served,
    ),
    Race(
        "one place is given back by two",
        lambda: _with_waiters(0, limit=2),
        [_give_back(0), _give_back(0)],
        _given_back_once,
    ),
]


# Buckets.


def _bucket(held: int, *, line: int = 0) -> SimpleNamespace:
    """Return a bucket of ten that is refilled with one a second, and who waits in its line."""
    made = bucket(10, 10.0)
    first = made.charge(10 - held)
    assert first.take(0.0)
    state = SimpleNamespace(made=made, first=first, got=[], woken=[])
    state.waiting = [made.charge(2) for _ in range(line)]
    for number, each in enumerate(state.waiting):
        each.enqueue(lambda number=number: state.woken.append(number))
    return state


def _take(amount: int, now: float = 0.0) -> Callable[[Any], None]:
    def work(state: Any) -> None:
        charge = state.made.charge(amount)
        if charge.take(now):
            state.got.append(charge)

    return work


def _one_got_it(state: Any) -> None:
    assert (1, 0.0) == (len(state.got), state.made.level(0.0))


def _take_and_return(state: Any) -> None:
    charge = state.made.charge(1)
    assert charge.take(0.0)
    charge.give_back()


def _settle(state: Any) -> None:
    charge = state.made.charge(1)
    assert charge.take(0.0)
    charge.settle(3, 0.0)


def _level_is(level: float, now: float = 0.0) -> Callable[[Any], None]:
    def check(state: Any) -> None:
        assert level == state.made.level(now)

    return check


def _leave(number: int) -> Callable[[Any], None]:
    return lambda state: state.waiting[number].give_back()


def _ask(number: int, now: float) -> Callable[[Any], None]:
    return lambda state: state.got.append(state.waiting[number].wait(now))


def _second_is_served(state: Any) -> None:
    assert 0.0 == state.waiting[1].wait(2.0)
    assert (0, 0, 0.0) == (state.made._queued, state.made.waiting, state.made.level(2.0))


def _two_are_served(state: Any) -> None:
    assert 0.0 == state.waiting[1].wait(4.0)
    assert [0, 1] == sorted(set(state.woken))
    assert (0, 0, 0.0) == (state.made._queued, state.made.waiting, state.made.level(4.0))


def _burst_once(state: Any) -> None:
    assert 2 == len(state.got)
    assert 0.0 == state.made.level(100.0)


BUCKET_RACES = [
    Race("the last token", lambda: _bucket(1), [_take(1)] * 3, _one_got_it),
    Race(
        "taken, given back and settled",
        lambda: _bucket(8),
        [_take_and_return, _settle, _settle],
        _level_is(2.0),
    ),
    Race("a new period begins for two", lambda: _bucket(0), [_take(5, 100.0)] * 3, _burst_once),
    Race(
        "the first leaves while the second asks",
        lambda: _bucket(0, line=2),
        [_leave(0), _ask(1, 2.0)],
        _second_is_served,
    ),
    Race(
        "the line is served by two",
        lambda: _bucket(0, line=2),
        [_ask(0, 4.0), _ask(1, 4.0)],
        _two_are_served,
    ),
    Race(
        "one charge is given back by two",
        lambda: _bucket(4),
        [lambda state: state.first.give_back()] * 2,
        _level_is(10.0),
    ),
]


# What providers report.


def _figure(remaining: float) -> Figure:
    return Figure("left", "requests", remaining, 100.0, 60.0, "window", "target", "test")


def _reported() -> SimpleNamespace:
    made = ReportedLimits()
    state = SimpleNamespace(made=made, started=[made.start() for _ in range(3)])
    made.hear([_figure(50.0)], state.started[0], 0.0)
    return state


def _answer(number: int, remaining: float) -> Callable[[Any], None]:
    def work(state: Any) -> None:
        state.made.hear([_figure(remaining)], state.started[number], 1.0)
        state.started[number].end()

    return work


def _start_one(state: Any) -> None:
    state.late = state.made.start()


def _newest_counts(state: Any) -> None:
    state.made.refusal(2.0)
    (known,) = state.made._figures.values()
    assert (10.0, 1.0) == (known.base.figure.remaining, known.base.later)
    assert [state.late.number] == list(state.made._running)


REPORTED_RACES = [
    Race(
        "answers out of order while an attempt starts",
        _reported,
        [_answer(1, 20.0), _answer(2, 10.0), _start_one],
        _newest_counts,
    )
]

ALL = PLACE_RACES + BUCKET_RACES


@over(ALL)
def test_without_a_lock_it_holds_wherever_cpython_switches(race: Race) -> None:
    """As it is used: no lock, and switches where a global lock allows them."""
    _holds(explore(race, WHERE_CPYTHON_SWITCHES, is_lock_free=True, runs=300))


@over(ALL + REPORTED_RACES)
def test_with_its_lock_it_holds_wherever_threads_switch(race: Race) -> None:
    """The fallback, and what always has a lock, with switches before every opcode."""
    _holds(explore(race, EVERY_OPCODE, is_lock_free=False, runs=300))


@over([PLACE_RACES[1], BUCKET_RACES[3]])
def test_two_threads_hold_in_every_order_that_makes_a_difference(race: Race) -> None:
    """The same for two threads, explored by a tool that knows what touches what."""
    _holds(reduce(race))


@pytest.mark.parametrize(
    ("lock", "race"),
    [
        pytest.param("places", PLACE_RACES[0], id="places"),
        pytest.param("bucket", BUCKET_RACES[0], id="bucket"),
        pytest.param("reported limits", REPORTED_RACES[0], id="reported"),
    ],
)
def test_a_lock_that_is_taken_out_is_missed(lock: str, race: Race) -> None:
    """Without the lock of the fallback, the same exploration finds a violation."""
    explored = explore(race, EVERY_OPCODE, without=lock, is_lock_free=False, runs=2_000)

    assert explored.violation is not None


@over([PLACE_RACES[0], BUCKET_RACES[0]])
def test_without_a_lock_it_would_not_hold_if_threads_switched_anywhere(race: Race) -> None:
    """Why the switch is there: an interpreter without a global lock needs the fallback."""
    explored = explore(race, EVERY_OPCODE, is_lock_free=True, runs=2_000)

    assert explored.violation is not None


STEPS = [
    (Place.take, 0),
    (Place._join, 0),
    (Place._end, 0),
    (Places._grant, 0),
    (Charge.take, 1),
    (Charge._join, 0),
    (Charge._end, 0),
    (Charge._book, 0),
    (Bucket._turn, 0),
    (Bucket._serve, 0),
]


@pytest.mark.parametrize(
    ("step", "calls_before"), [pytest.param(*each, id=each[0].__qualname__) for each in STEPS]
)
def test_a_step_is_one_run_of_statements(step: Callable[..., Any], calls_before: int) -> None:
    """On the Python that runs this, no switch lies between what a step reads and what it writes.

    A step may end with one call of C code, which ends before a switch is possible.
    """
    code: CodeType = step.__code__  # type: ignore[attr-defined]  # a function
    opcodes = list(dis.get_instructions(code))
    calls = [each.offset for each in opcodes if each.opname == "CALL"]
    begin = calls[calls_before - 1] if calls_before else 0
    last_calls = calls[calls_before:]
    reads = [each.offset for each in opcodes if each.opname == "LOAD_ATTR" and each.offset > begin]
    stores = [each.offset for each in opcodes if each.opname == "STORE_ATTR"]
    after_begin = min(each for each in reads)

    assert len(last_calls) <= 1
    assert not [each for each in opcodes if "JUMP_BACKWARD" in each.opname]
    end = max(*last_calls, *stores, 0)
    if last_calls:
        assert end == last_calls[0]
    points = [each for each in switch_points(code) if after_begin < each <= end]
    assert [] == points
