"""The races of a reload, each in many orders: against calls, against code, against another one.

A version of the configuration names its number in the chain, in the parameters of the targets and
in the number of attempts, so that a call with parts of two versions shows.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, SimpleNamespace
from typing import Any

import pytest

from resilient_llm import Target, chains, config, configure, failover
from resilient_llm._binding import binding, caller, expansions, wrapper_globals
from resilient_llm._runtime import configuration, names, runtime
from resilient_llm._values import names as values_of_names
from resilient_llm.config import _in_use, _loading, _state
from tests.support.schedules import WHERE_CPYTHON_SWITCHES, Race, explore

MODULES = (
    binding, caller, expansions, wrapper_globals, configuration, names, runtime, values_of_names,
    _in_use, _loading, _state,
)  # fmt: skip
FILES = {str(each.__file__) for each in MODULES}


def WHERE_STATE_CHANGES(code: CodeType, offset: int) -> bool:  # noqa: N802  # a constant that happens to be a function
    """Allow a switch where CPython has one, in the code that exchanges and reads what is in force.

    Not in the code that parses and checks: it shares nothing, and has thousands of steps.
    """
    is_generated = code.co_filename.startswith("<failover wrapper")
    return (is_generated or code.co_filename in FILES) and WHERE_CPYTHON_SWITCHES(code, offset)


def version(number: int) -> dict[str, Any]:
    return {
        "settings": {"attempts": number},
        "targets": {f"p{number}/a": {"params": {"version": number}}},
        "chains": {"raced": "@inner", "inner": f"p{number}/a, last/x"},
        "profiles": {"other": {"chains": {"inner": f"p{number}/a"}, "settings": {"attempts": 1}}},
    }


@failover(chain="@raced")
def ask(target: Target, seen: list[Any]) -> str:
    if target.key != "last/x":
        seen.append((target.key, target.params["version"]))
        raise ConnectionResetError
    return target.key


@failover(chain="@raced")
async def ask_async(target: Target, seen: list[Any]) -> str:
    seen.append((target.key, target.params["version"]))
    return target.key


@failover(chain="@ours")
def ask_ours(target: Target) -> str:
    return target.key


def _loaded() -> SimpleNamespace:
    runtime.runtime.exchange()
    configure(logging=False, breakers={"*": {"mode": "metrics_only"}}, backoff=lambda _: 0.0)
    configure(retry_budget=None)
    source = version(2)
    config.load(source)
    return SimpleNamespace(source=source, seen=[], coroutine=None)


def _bound() -> SimpleNamespace:
    """Return a state in which the functions have the code of their chains."""
    state = _loaded()
    ask([])
    _finish(ask_async([]))
    return state


def _with_coroutine() -> SimpleNamespace:
    state = _bound()
    state.coroutine = ask_async(state.seen)
    return state


def _finish(coroutine: Any) -> str:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return str(stop.value)
    raise AssertionError("it waits")


def _reload(number: int) -> Callable[[Any], None]:
    def reload(state: Any) -> None:
        state.source.update(version(number))
        config.reload()

    return reload


def _call(state: Any) -> None:
    assert "last/x" == ask(state.seen)


def _await(state: Any) -> None:
    assert _finish(state.coroutine) in {"p2/a", "p3/a"}


def _one_version(state: Any) -> None:
    """Check that a call had one version, and that the next one has the last."""
    (number,) = {each for _, each in state.seen}
    assert [(f"p{number}/a", number)] * number == state.seen
    _last_version(state)


def _last_version(state: Any) -> None:
    seen: list[Any] = []
    ask(seen)
    number = state.source["settings"]["attempts"]
    assert [(f"p{number}/a", number)] * number == seen


def _call_under_profile(state: Any) -> None:
    with chains.profile("other"):
        try:
            ask(state.seen)
        except ExceptionGroup:
            pass


def _one_attempt(state: Any) -> None:
    ((key, number),) = state.seen
    assert f"p{number}/a" == key
    _last_version(state)


def _define(state: Any) -> None:
    chains.define({"ours": "ours/b"})
    configure(timeout=7.0)


def _both(state: Any) -> None:
    assert "ours/b" == ask_ours()
    assert (7.0, 3) == (runtime.runtime.settings.timeout, runtime.runtime.settings.attempts)
    _last_version(state)


def _reload_again(state: Any) -> None:
    config.reload()


RACES = [
    Race("a call starts during a reload", _loaded, [_call, _reload(3)], _one_version),
    Race("a bound function is called during a reload", _bound, [_call, _reload(3)], _one_version),
    Race("a coroutine of before starts", _with_coroutine, [_await, _reload(3)], _one_attempt),
    Race(
        "a call under a profile starts during a reload",
        _bound,
        [_call_under_profile, _reload(3)],
        _one_attempt,
    ),
    Race("code defines during a reload", _bound, [_define, _reload(3)], _both),
    Race("two reloads and a call", _bound, [_reload_again, _reload(3), _call], _one_version),
]


@pytest.mark.parametrize("race", RACES, ids=str)
def test_reloads_in_many_orders(race: Race) -> None:
    """A call sees one version, and no change is lost."""
    explored = explore(race, WHERE_STATE_CHANGES, runs=30)

    assert None is explored.violation, explored.violation
    assert min(explored.steps) > 20
