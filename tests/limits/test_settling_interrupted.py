"""A KeyboardInterrupt at any moment of an attempt: what is known of it is booked, exactly once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

import pytest

from resilient_llm import Budget, Limit, StreamPolicy, Target, Usage, configure, failover, spend
from resilient_llm._core.call import (
    call,
    call_flow,
    ending,
    judging,
    settling,
    spending,
    stream_flow,
)
from resilient_llm._core.circuit import permit
from resilient_llm._core.limits import buckets, held
from resilient_llm._core.spending import booking, ledger, local_ledger
from resilient_llm._drive import opening, reads, session, streams, sync
from resilient_llm._runtime.runtime import runtime
from tests.support.interrupts import interrupted_at
from tests.support.schedules import PATIENCE, WHERE_CPYTHON_SWITCHES
from tests.support.ways import GROQ, ProviderError

MODULES: list[ModuleType] = [
    booking,
    buckets,
    call,
    call_flow,
    ending,
    held,
    judging,
    ledger,
    local_ledger,
    opening,
    permit,
    reads,
    session,
    settling,
    spending,
    stream_flow,
    streams,
    sync,
]
INPUT = 40
OUTPUT = 100
USED = Usage(7, 3)
CAPACITY = 1_000_000
TARGET = Target(GROQ, price=(1, 1), max_output=OUTPUT)


class Known:
    """What is known of the one attempt at a moment."""

    def __init__(self) -> None:
        self.is_sent = False
        self.usage: Usage | None = None

    def tell(self, given: object) -> Usage | None:
        """Tell the usage, as ``usage=`` does; from then on it is known."""
        if given != "usage":
            return None
        self.usage = USED
        return USED

    @property
    def expected(self) -> set[tuple[int, int]]:
        """Tokens and calls that may be booked."""
        if self.usage is not None:
            return {(USED.tokens, 1)}
        if self.is_sent:
            # Read or not, by the moment; a stream has given one token of text.
            return {(INPUT, 1), (0, 1), (0, 0), (INPUT + OUTPUT, 1), (INPUT + 1, 1)}
        return {(0, 0), (INPUT, 1)}  # begun, and interrupted before the first line of the function


def answers(known: Known) -> object:
    @failover([TARGET], tokens=INPUT, usage=known.tell)
    def ask(target: Target) -> str:
        known.is_sent = True
        return "usage"

    return ask()


def rejected(known: Known) -> object:
    @failover([TARGET], tokens=INPUT, usage=known.tell, reject=bool, attempts=1)
    def ask(target: Target) -> str:
        known.is_sent = True
        return "usage"

    return ask()


def streams_to_the_end(known: Known) -> object:
    @failover([TARGET], tokens=INPUT, usage=known.tell, stream=StreamPolicy())
    def ask(target: Target) -> Any:
        known.is_sent = True
        yield "a"
        yield "usage"

    return list(ask())


def leaves_a_stream(known: Known) -> object:
    @failover([TARGET], tokens=INPUT, usage=known.tell)
    def ask(target: Target) -> Any:
        known.is_sent = True
        yield "a"
        yield "usage"
        yield "b"

    stream = ask()
    next(stream)
    next(stream)
    return stream.close()


def fails(known: Known) -> object:
    @failover([TARGET], tokens=INPUT, attempts=1, when_all_benched="raise")
    def ask(target: Target) -> str:
        known.is_sent = True
        raise ProviderError(400)

    return ask()


WORKS: list[Callable[[Known], object]] = [
    answers,
    rejected,
    streams_to_the_end,
    leaves_a_stream,
    fails,
]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # but interrupted before
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in finalisers
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
def test_what_is_known_is_booked_once(clock: Any, work: Callable[[Known], object]) -> None:
    """In budgets, in their totals and in buckets of tokens alike."""
    where = [""]

    def interrupt() -> None:
        frame = sys._getframe(2)
        where[0] = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
        raise KeyboardInterrupt

    def points(code: CodeType, offset: int) -> bool:
        # What a finaliser raises goes nowhere.
        return code.co_name != "__del__" and WHERE_CPYTHON_SWITCHES(code, offset)

    configure(logging=False, breakers={"*": {"mode": "metrics_only"}})
    stride = max(1, 5 // PATIENCE)  # all of them with ``SCHEDULES=5`` in the environment
    step, interrupted, with_usage, steps = 0, 0, 0, [0]
    while True:
        step += stride
        configure(limits={"groq": None}, budgets=[])
        configure(
            limits={"groq": Limit(tokens=CAPACITY, per="day", max_concurrent=1)},
            budgets=[Budget(tokens=CAPACITY), Budget(usd=1), Budget(calls=9)],
        )
        runtime.ledger.reset()
        known = Known()
        left: BaseException | None = None
        try:
            with interrupted_at(step, interrupt, *MODULES, points=points) as steps:
                work(known)
        except KeyboardInterrupt as error:
            interrupted += 1
            left = error  # whoever keeps it keeps its frames
        except Exception:  # noqa: S110  # of the call itself
            pass
        if steps[0] < step:
            break
        is_over = not spend()[0].reserved
        del left
        gc.collect()
        rows = {row.budget: row for row in spend()}
        found = rows["all month tokens"]
        assert (found.spent, found.calls) in known.expected, f"after {where[0]}"
        assert [0, 0, 0] == [row.reserved for row in rows.values()], where[0]
        assert {found.calls} == {row.calls for row in rows.values()}, where[0]
        total = sum(runtime.ledger.totals().values())
        assert rows["all month usd"].spent * 10**6 == total * 10**6 == found.spent, where[0]
        limits = runtime.limits.of("groq", "groq")
        assert limits is not None
        [state] = limits.all
        assert (0, 0) == (state.places.running, state.places.waiting), where[0]
        assert state.tokens is not None
        taken = CAPACITY - round(state.tokens.level(clock.monotonic()))
        if known.usage is not None:
            with_usage += 1
            assert is_over or work is leaves_a_stream, where[0]
            assert taken == found.spent, where[0]
        else:
            assert taken in (found.spent, INPUT + OUTPUT), where[0]

    permit.open_permits.set(())  # what an interrupt has left there
    assert interrupted > 50
    assert with_usage > 5 or work is fails
