"""A deadline on a synchronous function, which nothing can interrupt, warns where it is written."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from resilient_llm import Attempt, StreamPolicy, Target, failover
from tests.support.ways import GROQ, OPENAI


def plain(target: Target) -> str:
    return "answer"


def told(target: Target, *, attempt: Attempt | None = None) -> str:
    return "answer"


async def coroutine(target: Target) -> str:
    return "answer"


def generator(target: Target) -> Iterator[str]:
    yield "answer"


def stream(target: Target) -> Iterator[str]:
    return iter(["answer"])


def later(target: Target) -> AsyncIterator[str]:
    raise NotImplementedError


def warned(fn: Any, **options: Any) -> list[warnings.WarningMessage]:
    """Return the warnings of a decoration."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        failover([GROQ, OPENAI], **options)(fn)
    return seen


@pytest.mark.parametrize("fn", [plain, staticmethod(plain), lambda *, model=None: model])
def test_a_timeout_that_ends_no_attempt_is_warned_of(fn: Callable[..., Any]) -> None:
    """The warning points at the decorator, and names the function and two ways out."""
    (seen,) = warned(fn, timeout=0.2)

    assert __file__ == seen.filename
    assert str(seen.message).startswith("timeout=0.2 cannot interrupt ")
    assert "Attempt" in str(seen.message)
    assert "async" in str(seen.message)


@pytest.mark.parametrize("fn", [told, coroutine, generator, stream, later])
def test_what_keeps_its_limit_is_not_warned_of(fn: Callable[..., Any]) -> None:
    """A function that is told, that is asynchronous, or whose stream is watched."""
    assert [] == warned(fn, timeout=0.2)


def test_no_timeout_and_a_policy_for_streams_are_not_warned_of() -> None:
    """There is nothing to interrupt, or it is what the function returns that is limited."""
    assert [] == warned(plain)
    assert [] == warned(plain, timeout=0.2, stream=StreamPolicy())


def test_a_timeout_that_using_gives_is_warned_of() -> None:
    """It points at the line that calls ``using``; a copy that only keeps its timeout is quiet."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        copy = failover([GROQ, OPENAI])(plain).using(timeout=0.2)
        copy.using(attempts=1)
        failover([GROQ, OPENAI])(told).using(timeout=0.2)
        failover([GROQ, OPENAI])(generator).using(timeout=0.2)

    (warning,) = seen
    assert __file__ == warning.filename
    assert str(warning.message).startswith("timeout=0.2 cannot interrupt plain")
