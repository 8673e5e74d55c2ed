"""Traces: what became of the calls made inside."""

import asyncio
from typing import Any

import pytest

from resilient_llm import (
    AttemptFailed,
    AttemptSucceeded,
    ChainExhaustedError,
    Target,
    TargetBenched,
    Trace,
    bench_model,
    failover,
    health,
    is_benched,
)
from resilient_llm.testing import ascripted, capture_events
from tests.support.ways import GROQ, OPENAI, ProviderError, down


def test_a_trace_holds_the_outcome_of_a_call(clock: Any) -> None:
    """Who served it, what was tried and skipped, in order."""
    bench_model(GROQ)
    answers = ascripted(down(), "yes")

    @failover(chain=[GROQ, OPENAI], backoff=lambda n: 1.0)
    async def ask(target: Target) -> str:
        clock.advance(0.5)
        return await answers()

    async def main() -> Trace:
        with Trace(call_id="mine") as trace:
            await asyncio.create_task(ask())
        return trace

    trace = asyncio.run(main())
    (call,) = trace.calls
    assert (OPENAI, "mine", OPENAI) == (trace.served_by, call.call_id, call.served_by)
    assert [(GROQ, 0, "benched by hand"), (OPENAI, 1, "overloaded"), (OPENAI, 2, "")] == [
        (each.target, each.number, each.reason) for each in call.attempts
    ]
    assert [0.0, 0.5, 0.5] == [each.seconds for each in call.attempts]


def test_a_trace_of_several_calls_has_no_single_server() -> None:
    """`.served_by` is for exactly one call; calls outside are not collected."""

    @failover(chain=GROQ)
    def ask(target: Target) -> str:
        return target.key

    ask()
    with Trace() as outer:
        ask()
        with Trace() as inner:
            ask()
    ask()

    assert (2, 1, GROQ) == (len(outer.calls), len(inner.calls), inner.served_by)
    with pytest.raises(RuntimeError, match="2 calls"):
        _ = outer.served_by


def test_a_trace_that_is_left_twice_ends_once() -> None:
    """The next trace sees its calls."""
    first = Trace()
    first.__enter__()
    first.__exit__(None, None, None)
    first.__exit__(None, None, None)

    @failover(chain="groq/a", attempts=1)
    def ask(target: Target) -> str:
        return target.key

    with Trace() as second:
        ask()

    assert "groq/a" == second.served_by


def test_an_open_trace_elsewhere_leaves_a_call_as_it_is() -> None:
    """While a trace is open in one context, calls of others answer, count and are not collected."""
    import contextvars

    @failover(chain=GROQ)
    def ask(target: Target) -> str:
        return target.key

    ask()
    with Trace() as trace, capture_events(AttemptSucceeded):
        outside = contextvars.Context().run(ask)

    assert (GROQ, 0, 2) == (outside, len(trace.calls), health()[GROQ].total)


def test_a_failed_call_is_traced_and_events_carry_its_name() -> None:
    """`served_by` is None, and the events name the same call."""
    with (
        Trace(call_id="lost") as trace,
        capture_events(AttemptFailed, TargetBenched) as events,
        pytest.raises(ChainExhaustedError),
    ):
        failover(chain=GROQ).call(scripted_401)

    assert (None, {"lost"}, True) == (
        trace.served_by,
        {event.call_id for event in events},
        is_benched(GROQ),
    )


def scripted_401(target: Target) -> None:
    raise ProviderError(401)


def test_a_trace_collects_nothing_after_it_was_left() -> None:
    """Work that was started inside and outlives the trace is not collected any more."""
    import contextvars

    @failover(chain=GROQ)
    def ask(target: Target) -> str:
        return target.key

    with Trace() as trace:
        context = contextvars.copy_context()
        ask()
    for _ in range(3):
        context.run(ask)

    assert (1, GROQ, 4) == (len(trace.calls), trace.served_by, health()[GROQ].total)


def test_work_started_inside_an_inner_trace_goes_on_in_the_outer_one() -> None:
    """A context that holds a trace that was left passes its calls on to those that are open."""
    import contextvars

    @failover(chain=GROQ)
    def ask(target: Target) -> str:
        return target.key

    with Trace(call_id="outer") as outer:
        with Trace(call_id="inner") as inner:
            context = contextvars.copy_context()
        context.run(ask)

    assert (["outer"], 0) == ([each.call_id for each in outer.calls], len(inner.calls))


@pytest.mark.parametrize("first_left", ["outer", "inner"])
def test_traces_may_be_left_in_any_order(first_left: str) -> None:
    """The one that is still open goes on collecting, and afterwards there is none."""

    @failover(chain=GROQ)
    def ask(target: Target) -> str:
        return target.key

    outer, inner, later = Trace(), Trace(), Trace()
    outer.__enter__()
    inner.__enter__()
    left, open_ = (outer, inner) if first_left == "outer" else (inner, outer)
    left.__exit__(None, None, None)
    ask()
    open_.__exit__(None, None, None)
    ask()
    with later:
        ask()

    assert (0, 1, 1) == (len(left.calls), len(open_.calls), len(later.calls))


def test_a_trace_keeps_no_error_of_a_loop_that_was_left() -> None:
    """A kept trace holds outcomes alone, though the loop never came to its end."""
    import gc
    import weakref

    with Trace() as trace:
        for attempt in failover(chain=[GROQ, OPENAI], attempts=1):
            error = ProviderError(503)
            kept = weakref.ref(error)
            if attempt.target.key == OPENAI:
                break
            with attempt:
                raise error
    del attempt, error
    gc.collect()

    assert (None, [GROQ]) == (kept(), [each.target for each in trace.attempts])


def test_calls_are_listed_in_the_order_in_which_they_began() -> None:
    """A call that makes another one inside comes before it, and is there while it runs."""
    seen: list[int] = []

    @failover(chain=GROQ)
    def inner(target: Target) -> str:
        return target.key

    @failover(chain=OPENAI)
    def outer(target: Target) -> str:
        inner()
        seen.append(len(trace.calls))
        return target.key

    trace = Trace()
    outer()
    with trace:
        outer()

    assert ([OPENAI, GROQ], 2) == ([each.served_by for each in trace.calls], seen[-1])
