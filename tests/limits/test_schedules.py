"""Calls of the generated wrapper that limit attempts, in many orders of two threads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from resilient_llm import Limit, Target, configure, failover, settings
from resilient_llm._runtime.runtime import runtime
from tests.support.schedules import WHERE_CPYTHON_SWITCHES, Race, explore
from tests.support.ways import GROQ, OPENAI


def _places() -> Any:
    limits = runtime.limits.of("groq", "groq")
    assert limits is not None
    return limits.all[0].places


@failover([GROQ, OPENAI], when_all_benched="raise")
def ask(target: Target, state: Any = None, *, fails: bool = False) -> str:
    """Of the module: the code of its wrapper is then the same in each run."""
    if target.key == GROQ and state is not None:
        state.most = max(state.most, state.places.running)
        settings()  # another thread may go on here
        if fails:
            raise ConnectionError
    return target.key


def _limited() -> SimpleNamespace:
    """Have the function bound to fresh places."""
    configure(limits={"groq": None}, logging=False, breakers={"*": {"mode": "metrics_only"}})
    configure(limits={"groq": Limit(max_concurrent=1)})
    ask()
    return SimpleNamespace(most=0, answers=[], held=None, places=_places())


def _answers(state: Any) -> None:
    state.answers.append(ask(state))


def _fails(state: Any) -> None:
    state.answers.append(ask(state, fails=True))


def _holds(state: Any) -> None:
    """Take a place that stays taken until the end of the race."""
    state.held = state.places.place()
    state.held.take()


def _changes(state: Any) -> None:
    configure(limits={"groq": Limit(max_concurrent=1, max_queued=1)})


def _nothing_left(state: Any) -> None:
    if state.held is not None:
        state.held.give_back()
    places = _places()
    assert (0, 0) == (places.running, places.waiting)
    assert state.most <= 1


RACES = [
    Race("two answers", _limited, [_answers, _answers], _nothing_left),
    Race("an answer and an attempt that goes on", _limited, [_answers, _holds], _nothing_left),
    Race("an answer and a failure", _limited, [_answers, _fails], _nothing_left),
    Race("an answer and a change", _limited, [_answers, _changes], _nothing_left),
]


@pytest.mark.parametrize("race", RACES, ids=str)
def test_no_more_than_one_is_inside(race: Race) -> None:
    explored = explore(race, WHERE_CPYTHON_SWITCHES, runs=40, is_lock_free=True)

    assert None is explored.violation, explored.violation
