"""`ConfigProblem`, `InvalidConfigError` and `Config`."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from datetime import UTC, datetime

import pytest

import resilient_llm.config
from resilient_llm import ConfigurationError
from resilient_llm.config import Config, ConfigProblem, InvalidConfigError

PROBLEM = ConfigProblem(
    "config.toml: settings.attempts",
    "attempts=0 is not allowed: write a whole number, 1 or more",
    "a whole number, 1 or more",
    None,
    3,
)
CONFIG = Config("config.toml", datetime(2026, 11, 1, tzinfo=UTC), ("fast",), ("cheap",), ())


def test_a_problem_as_text() -> None:
    """It is one line with the place, the line in the file if there is one, and the message."""
    assert (
        "config.toml: settings.attempts (line 3): "
        "attempts=0 is not allowed: write a whole number, 1 or more"
    ) == str(PROBLEM)
    assert "mapping: chains: x" == str(ConfigProblem("mapping: chains", "x"))


def test_the_message_of_one_problem() -> None:
    """It is that of the problem."""
    assert str(PROBLEM) == str(InvalidConfigError([PROBLEM]))


def test_the_message_of_several_problems() -> None:
    """It counts them, and has a line for each of the first twenty."""
    error = InvalidConfigError([PROBLEM] * 21)

    lines = str(error).splitlines()
    assert "the configuration has 21 problems:" == lines[0]
    assert [f"  {PROBLEM}"] * 20 == lines[1:21]
    assert "  and 1 more, which .problems has" == lines[21]
    assert 3 == len(str(InvalidConfigError([PROBLEM] * 2)).splitlines())


def test_the_error_is_one_of_configuration() -> None:
    """Whoever catches ConfigurationError or ValueError catches it."""
    error = InvalidConfigError(iter([PROBLEM]))  # type: ignore[arg-type]

    assert isinstance(error, ConfigurationError)
    assert isinstance(error, ValueError)
    assert (PROBLEM,) == error.problems


@pytest.mark.parametrize("value", [PROBLEM, CONFIG])
def test_values_are_frozen_and_can_be_pickled(value: ConfigProblem | Config) -> None:
    """They go to other processes, by the names that users import."""
    data = pickle.dumps(value)

    assert value == pickle.loads(data) == copy.copy(value)
    assert hash(value) == hash(pickle.loads(data))
    assert b"resilient_llm._" not in data
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, "x")


def test_the_error_can_be_pickled() -> None:
    """With its problems and its notes."""
    error = InvalidConfigError([PROBLEM])
    error.add_note("a note")

    copied = pickle.loads(pickle.dumps(error))

    assert (str(error), error.problems) == (str(copied), copied.problems)
    assert b"resilient_llm._" not in pickle.dumps(error)


@pytest.mark.parametrize("name", ["Config", "ConfigProblem", "InvalidConfigError"])
def test_public_classes_belong_to_the_module(name: str) -> None:
    """Their module is the one that users import them from."""
    cls = getattr(resilient_llm.config, name)

    assert ("resilient_llm.config", name) == (cls.__module__, cls.__qualname__)
    assert name in resilient_llm.config.__all__
