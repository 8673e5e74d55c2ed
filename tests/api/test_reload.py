"""Modules that are loaded again, in notebooks, by autoreload or Streamlit, register nothing twice."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

import pytest

from resilient_llm import AttemptFailed, FailedOver, Target, classify, failover, observe, testing
from tests.support.ways import GROQ, OPENAI

SEEN: list[tuple[str, str]] = []

APPLICATION = """
from resilient_llm import AttemptFailed, ErrorKind, FailedOver, classify, observe

def count(event): seen.append((version, type(event).__name__))
def other(event): seen.append((version, "other"))

class Metrics:
    def count(self, event): seen.append((version, "method"))
    @staticmethod
    def static(event): seen.append((version, "static"))

def made():
    def count(event): seen.append((version, "closure"))
    return count

class OddError(Exception): ...

@classify.rule
def odd(error):
    asked.append(version)
    return "transient" if type(error).__name__ == "OddError" else None
"""


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what runs the module's source in the same module once more."""
    module: Any = types.ModuleType("application_that_is_reloaded")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.seen, module.asked = [], []

    def load(version: str) -> Any:
        module.version = version
        exec(APPLICATION, vars(module))  # noqa: S102  # as reload does
        return module

    with testing.isolated():
        yield load


def fail_over() -> None:
    @failover(chain=[GROQ, OPENAI], attempts=1)
    def ask(target: Target) -> str:
        if target.provider == "groq":
            raise ConnectionError
        return "answer"

    ask()


def test_an_observer_of_a_module_replaces_the_one_before(load: Any) -> None:
    """One failover is counted once, by the function that the module has now."""
    for version in "abc":
        module = load(version)
        observe(module.count, FailedOver)

    fail_over()

    assert [("c", "FailedOver")] == module.seen


def test_the_same_function_may_listen_twice(load: Any) -> None:
    """Each subscription has types of its own, and all are replaced when the module is reloaded."""
    for version in "ab":
        module = load(version)
        observe(module.count, FailedOver)
        observe(module.count, AttemptFailed)
        observe(module.other, FailedOver)

    fail_over()

    assert [("b", "AttemptFailed"), ("b", "FailedOver"), ("b", "other")] == sorted(module.seen)


def test_ending_a_replaced_subscription_does_nothing(load: Any) -> None:
    """What the old module kept to end its subscription does not end that of the new one."""
    stop = observe(load("a").count, FailedOver)
    module = load("b")
    observe(module.count, FailedOver)

    stop()
    stop()
    fail_over()

    assert [("b", "FailedOver")] == module.seen


@pytest.mark.parametrize(
    "kind", ["method", "closure", "static", "lambda", "partial", "decorated", "object"]
)
def test_other_callables_all_stay(kind: str, load: Any) -> None:
    """There may be many of a name, and each is meant."""

    def of(module: Any) -> Any:
        version = module.version

        @functools.wraps(module.count)
        def decorated(event: object) -> None:
            module.seen.append((version, "decorated"))

        class Counter:
            def __call__(self, event: object) -> None:
                module.seen.append((version, "object"))

        return {
            "method": module.Metrics().count,
            "closure": module.made(),
            "static": module.Metrics.static,
            "lambda": lambda event: module.seen.append((version, "lambda")),
            "partial": functools.partial(module.other),
            "decorated": decorated,
            "object": Counter(),
        }[kind]

    for version in "ab":
        module = load(version)
        observe(of(module), FailedOver)

    fail_over()

    assert 2 == len(module.seen)


def test_functions_of_one_name_in_two_modules_both_stay(load: Any) -> None:
    """Two modules may each have their function ``count``."""
    module = load("a")
    observe(module.count, FailedOver)
    other: dict[str, Any] = {"__name__": "another", "seen": module.seen, "version": "other"}
    exec(APPLICATION, other)  # noqa: S102  # as above
    observe(other["count"], FailedOver)

    fail_over()

    assert ["a", "other"] == [version for version, _ in module.seen]


def test_a_rule_of_a_module_replaces_the_one_before(load: Any) -> None:
    """The newest definition is asked once."""
    for version in "abc":
        module = load(version)
    module.asked.clear()

    assert "transient" == classify(module.OddError()).kind
    assert ["c"] == module.asked
    assert 1 == sum(rule.__name__ == "odd" for rule in classify.rules)
