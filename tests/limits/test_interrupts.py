"""A KeyboardInterrupt at any moment of a call loses no place and no reservation."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import CodeType, ModuleType
from typing import Any

import pytest

from resilient_llm import (
    Budget,
    Limit,
    StreamPolicy,
    Target,
    breaker,
    configure,
    failover,
    spend,
    spend_key,
)
from resilient_llm._binding import caller, inlined_limits, resuming
from resilient_llm._core.call import call, call_flow, ending, limiting, settling, spending
from resilient_llm._core.circuit import permit
from resilient_llm._core.limits import buckets, held, places
from resilient_llm._core.spending import booking, ledger, local_ledger
from resilient_llm._drive import lines, sync
from resilient_llm._runtime.runtime import runtime
from tests.support.interrupts import interrupted_at
from tests.support.schedules import PATIENCE, WHERE_CPYTHON_SWITCHES
from tests.support.ways import GROQ

MODULES = [
    buckets,
    call,
    call_flow,
    caller,
    ending,
    held,
    limiting,
    lines,
    permit,
    places,
    resuming,
    settling,
    sync,
]


def in_flight() -> tuple[int, int]:
    limits = runtime.limits.of("groq", "groq")
    assert limits is not None
    return limits.all[0].places.running, limits.all[0].places.waiting


@failover([GROQ])
def answers(target: Target, prompt: str) -> str:
    return prompt


@failover([GROQ], attempts=1, when_all_benched="raise")
def fails(target: Target, prompt: str) -> str:
    raise ConnectionError


@failover([GROQ], stream=StreamPolicy())
def streaming(target: Target, prompt: str) -> Any:
    yield prompt
    yield prompt


@failover([GROQ])
def gives_stream(target: Target, prompt: str) -> Any:
    return (each for each in [prompt, prompt])


def guards() -> None:
    with breaker("groq"):
        pass


def waits() -> None:
    """Wait for a request, in the line of the bucket."""
    answers("a")
    answers("b")


def nested() -> None:
    """Find no place, and no room in the queue."""
    with breaker("groq"), suppress(Exception):
        answers("a")


PLACES = Limit(max_concurrent=1)
ALL = Limit(max_concurrent=1, requests=60, burst=1, tokens=1_000_000)


@pytest.mark.parametrize(
    ("limit", "work"),
    [
        (PLACES, lambda: answers("a")),
        (PLACES, lambda: fails("a")),
        (PLACES, lambda: list(gives_stream("a"))),
        (PLACES, guards),
        (PLACES, nested),
        (ALL, waits),
        (ALL, lambda: list(streaming("a"))),
    ],
    ids=["answer", "failure", "stream", "guard", "full", "wait", "tokens of a stream"],
)
def test_no_place_is_lost(clock: Any, limit: Limit, work: Callable[[], object]) -> None:
    wrappers = ModuleType(__name__)
    for each in (answers, fails, gives_stream):
        setattr(wrappers, each.__name__, each)

    where = [""]

    def interrupt() -> None:
        frame = sys._getframe(2)
        where[0] = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
        raise KeyboardInterrupt

    def points(code: CodeType, offset: int) -> bool:
        # What a finaliser raises goes nowhere.
        return code.co_name != "__del__" and WHERE_CPYTHON_SWITCHES(code, offset)

    configure(logging=False, breakers={"*": {"mode": "metrics_only"}})
    # Of the long ones, a part: others with ``SCHEDULES`` in the environment.
    stride = 1 if limit is PLACES else max(1, 7 // PATIENCE)
    step, interrupted, steps = 0, 0, [0]
    while True:
        configure(limits={"groq": None})
        configure(limits={"groq": limit})
        with suppress(Exception):
            work()  # binds, so that the wrappers have the code that takes places
        clock.advance(120.0)
        step += stride
        try:
            with interrupted_at(step, interrupt, *MODULES, wrappers, points=points) as steps:
                work()
        except KeyboardInterrupt:
            interrupted += 1
        except Exception:  # noqa: S110  # of the call itself
            pass
        if steps[0] < step:
            break
        if in_flight() != (0, 0):
            gc.collect()
        assert (0, 0) == in_flight(), f"after an interrupt in {where[0]}"

    permit.open_permits.set(())  # what an interrupt has left there
    assert interrupted > 10


PRICED = Target(GROQ, price=(1.0, 10.0), max_output=100)
ANSWER = {
    "choices": [{"message": {"content": "hello"}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
}
BOOKED = [
    booking,
    inlined_limits,
    ledger,
    local_ledger,
    spending,
]


@failover([PRICED])
def spends(target: Target, prompt: str) -> Any:
    return ANSWER


@failover([PRICED], attempts=1, when_all_benched="raise")
def fails_and_spends(target: Target, prompt: str) -> Any:
    raise ConnectionError


@failover([PRICED])
def gives_unread(target: Target, prompt: str) -> Any:
    """Give what no reader of usages is quick with."""
    return None


@failover([PRICED])
def streams_and_spends(target: Target, prompt: str) -> Any:
    return (each for each in [prompt, prompt])


@pytest.mark.parametrize("limit", [None, ALL], ids=["budgets", "limits as well"])
@pytest.mark.parametrize(
    "work",
    [spends, fails_and_spends, gives_unread, lambda prompt: list(streams_and_spends(prompt))],
    ids=["answer", "failure", "no usage", "stream"],
)
def test_no_reservation_is_lost(
    clock: Any, work: Callable[[str], object], limit: Limit | None
) -> None:
    """Nothing stays reserved, and what was sent is booked at most once."""
    wrappers = ModuleType(__name__)
    for each in (spends, fails_and_spends, gives_unread, streams_and_spends):
        setattr(wrappers, each.__name__, each)

    where = [""]

    def interrupt() -> None:
        frame = sys._getframe(2)
        where[0] = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
        raise KeyboardInterrupt

    def points(code: CodeType, offset: int) -> bool:
        return code.co_name != "__del__" and WHERE_CPYTHON_SWITCHES(code, offset)

    configure(logging=False, breakers={"*": {"mode": "metrics_only"}})
    # Hours go by, which must not be those in which a month ends.
    clock.jump_wall(datetime(2030, 1, 10, tzinfo=UTC).timestamp() - clock.wall())
    configure(budgets=[Budget(usd=5), Budget(tokens=10**6, of="key"), Budget(calls=10**6)])
    stride = max(1, 5 // PATIENCE)
    step, interrupted, steps = 0, 0, [0]
    while True:
        configure(limits={"groq": limit})
        with spend_key("a"):
            for _ in range(2):
                clock.advance(120.0)
                with suppress(Exception):
                    work("hello")  # binds, so that the wrappers have their code
            clock.advance(120.0)
            before = {each.budget: each.calls for each in spend()}
            step += stride
            try:
                with interrupted_at(
                    step, interrupt, *MODULES, *BOOKED, wrappers, points=points
                ) as steps:
                    work("hello")
            except KeyboardInterrupt:
                interrupted += 1
            except Exception:  # noqa: S110  # of the call itself
                pass
        if steps[0] < step:
            break
        gc.collect()
        rows = spend()
        assert [0] * len(rows) == [each.reserved for each in rows], f"interrupted in {where[0]}"
        assert all(each.calls - before[each.budget] <= 1 for each in rows), where[0]
        if limit is not None:
            assert (0, 0) == in_flight(), f"after an interrupt in {where[0]}"

    permit.open_permits.set(())  # what an interrupt has left there
    spending.inlined_around.set(None)
    assert interrupted > 10
