"""Streams that are dropped as a part of a reference cycle.

The garbage collector finalises the parts of a cycle in any order, so a call flow may be closed
before the session that reports to it.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import anyio.lowlevel
import pytest

from resilient_llm import Target, breaker, failover, health
from tests.support.stream_forms import ASYNC_FORMS, GUARDED_FORMS, SYNC_FORMS, Form
from tests.support.stream_sources import Supply, says
from tests.support.ways import GROQ, over, run_async


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What Python would print of errors that nobody could be given."""
    printed: list[str] = []

    def hook(given: Any) -> None:
        printed.append(repr(given.exc_value))

    monkeypatch.setattr(sys, "unraisablehook", hook)
    yield printed
    gc.collect()


def _chain(form: Form, supply: Supply) -> Callable[[], Any]:
    return form.make(failover([GROQ]), supply)


def _guard(form: Form, supply: Supply) -> Callable[[], Any]:
    guarded = form.make(breaker(GROQ), supply)
    return lambda: guarded(Target(GROQ))


def _read(form: Form, ask: Callable[[], Any], items: int) -> None:
    """Read some items of a stream that is then reachable from itself alone."""
    cycle: Any = SimpleNamespace()
    cycle.me = cycle
    cycle.stream = ask()
    if form.manages:
        cycle.manager, cycle.stream = cycle.stream, cycle.stream.__enter__()
    cycle.iterator = iter(cycle.stream)
    for _ in range(items):
        next(cycle.iterator)


async def _aread(form: Form, ask: Callable[[], Any], items: int) -> None:
    cycle: Any = SimpleNamespace()
    cycle.me = cycle
    cycle.stream = ask()
    if inspect.isawaitable(cycle.stream):
        cycle.stream = await cycle.stream
    if form.manages:
        cycle.manager, cycle.stream = cycle.stream, await cycle.stream.__aenter__()
    cycle.iterator = aiter(cycle.stream)
    for _ in range(items):
        await anext(cycle.iterator)


SYNC_GUARDED = [form for form in GUARDED_FORMS if form.backend is None]
ASYNC_GUARDED = [form for form in GUARDED_FORMS if form.backend is not None]


@pytest.mark.parametrize("items", [1, 2, 3])
@pytest.mark.parametrize(
    ("way", "form"),
    [(_chain, form) for form in SYNC_FORMS] + [(_guard, form) for form in SYNC_GUARDED],
    ids=lambda given: getattr(given, "name", None),
)
def test_a_stream_collected_in_a_cycle(
    way: Any, form: Form, items: int, unraisable: list[str]
) -> None:
    """It is closed without a word; a reader who had seen content is counted as answered, once."""
    supply = Supply({GROQ: [says("It", " is", " so")]})

    _read(form, way(form, supply), items)
    gc.collect()

    assert [] == unraisable
    assert [] == supply.left_open
    # A chain has held items back until there was content, and a breaker has not.
    assert (0 if items == 1 and way is _guard else 1, 0) == _numbers()


@pytest.mark.parametrize("items", [1, 2])
@pytest.mark.parametrize(
    ("way", "form"),
    [(_chain, form) for form in ASYNC_FORMS] + [(_guard, form) for form in ASYNC_GUARDED],
    ids=lambda given: getattr(given, "name", None),
)
def test_an_async_stream_collected_in_a_cycle(
    way: Any, form: Form, items: int, unraisable: list[str]
) -> None:
    """Its loop closes it without a word, except for the warning that it was dropped."""
    supply = Supply({GROQ: [says("It", " is", " so")]})
    told: list[Any] = []

    def tells(_: Any, about: dict[str, Any]) -> None:
        # asyncio itself closes two generators at once of which one iterates the other.
        if "already running" not in str(about.get("exception")):
            told.append(about)

    async def main() -> None:
        if form.backend == "asyncio":
            asyncio.get_running_loop().set_exception_handler(tells)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            await _aread(form, way(form, supply), items)
            gc.collect()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            gc.collect()

    assert form.backend is not None
    run_async(main, backend=form.backend)

    assert [] == unraisable
    assert [] == told
    assert [] == supply.left_open
    assert (0 if items == 1 and way is _guard else 1, 0) == _numbers()


@over([form for form in SYNC_FORMS if not form.is_lazy])
def test_a_stream_collected_unread(form: Form, unraisable: list[str]) -> None:
    """A stream of which nothing was read is closed, and was answered."""
    supply = Supply({GROQ: [says("It", " is", " so")]})

    _read(form, form.make(failover([GROQ]), supply), 0)
    gc.collect()

    assert [] == unraisable
    assert [] == supply.left_open
    assert (1, 0) == _numbers()


def _numbers() -> tuple[int, int]:
    seen = health([GROQ])[GROQ]
    return seen.total, seen.errors
