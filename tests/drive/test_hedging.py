"""Attempts side by side, row by row of the race table, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient_llm import (
    AttemptCancelled,
    AttemptFailed,
    AttemptSucceeded,
    CallFailed,
    ChainExhaustedError,
    DeadlineExceededError,
    FailedOver,
    HedgeStarted,
    RetryScheduled,
    Target,
    Trace,
    breaker,
    configure,
    failover,
    health,
)
from resilient_llm.testing import capture_events
from tests.support.hedges import Stage, played, settle
from tests.support.ways import GROQ, MISTRAL, OPENAI, ProviderError, down, on_both_loops, run_async

CHAIN = [GROQ, OPENAI, MISTRAL]


def _guarded(stage: Stage, **options: Any) -> Any:
    options = {"chain": CHAIN, "hedge": 2.0, "backoff": lambda n: 0.5, **options}

    @failover(**options)
    async def ask(target: Target) -> Any:
        return await stage.provide(target)

    return ask


# When a hedge starts.


@on_both_loops
def test_an_answer_in_time_needs_no_hedge(backend: str, clock: Any) -> None:
    """The next target is not called, and nothing is emitted beside the success."""
    stage = Stage()
    ask = _guarded(stage)

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(1.9)
            await settle()
            stage.says(GROQ, "in time")
            return await play.ends()

    with capture_events() as seen:
        assert "in time" == run_async(main, backend=backend)
    assert [GROQ] == stage.asked
    assert [AttemptSucceeded] == [type(each) for each in seen]


@on_both_loops
def test_a_slow_attempt_gets_the_next_target_beside_it(backend: str, clock: Any) -> None:
    """The hedge that answers first is the answer; the slow attempt is cancelled and has ended."""
    stage = Stage()
    ask = _guarded(stage)

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            clock.advance(1.0)
            stage.says(OPENAI, "hedged")
            return await play.ends()

    with capture_events() as seen:
        assert "hedged" == run_async(main, backend=backend)
    assert [GROQ] == stage.cancelled
    assert [OPENAI, GROQ] == stage.ended
    assert [HedgeStarted, AttemptSucceeded, AttemptCancelled] == [type(each) for each in seen]
    started, won, lost = seen
    assert (OPENAI, 1, 2.0, GROQ) == (started.target, started.number, started.delay, started.beside)
    assert (OPENAI, 1, 1.0) == (won.target, won.number, won.seconds)
    assert (GROQ, 1, 3.0, "lost") == (lost.target, lost.number, lost.seconds, lost.reason)


@on_both_loops
def test_the_first_attempt_may_still_win(backend: str, clock: Any) -> None:
    """Then the hedge is cancelled, and has ended before the call returns."""
    stage = Stage()
    ask = _guarded(stage)

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(GROQ, "first")
            return await play.ends()

    assert "first" == run_async(main, backend=backend)
    assert [OPENAI] == stage.cancelled
    assert [GROQ, OPENAI] == stage.ended


@on_both_loops
def test_the_delay_counts_for_the_newest_attempt(backend: str, clock: Any) -> None:
    """A second hedge starts when the first one is slow, and no more than ``max_hedges`` do."""
    stage = Stage()
    ask = _guarded(stage, max_hedges=2, chain=[*CHAIN, "xai/grok"])

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            clock.advance(1.9)
            await settle()
            assert [GROQ, OPENAI] == stage.asked
            clock.advance(0.1)
            await stage.begins(MISTRAL)
            clock.advance(10.0)
            await settle()
            stage.says(MISTRAL, "third")
            return await play.ends()

    with capture_events(HedgeStarted) as started:
        assert "third" == run_async(main, backend=backend)
    assert [(OPENAI, GROQ), (MISTRAL, OPENAI)] == [(each.target, each.beside) for each in started]
    assert [GROQ, OPENAI, MISTRAL] == stage.asked


@on_both_loops
def test_one_hedge_is_made_by_default(backend: str, clock: Any) -> None:
    """Although a further target is live."""
    stage = Stage()
    ask = _guarded(stage)

    async def main() -> None:
        async with played(ask):
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            clock.advance(50.0)
            await settle()
            stage.says(OPENAI, "second")

    run_async(main, backend=backend)
    assert [GROQ, OPENAI] == stage.asked


def _benched(clock: Any, key: str, *, half_open: bool = False) -> None:
    with pytest.raises(ProviderError), breaker(key, failures=1, cooldown=5.0):
        raise down()
    if half_open:
        clock.advance(6.0)
        assert "half_open" == breaker(key).state


@on_both_loops
@pytest.mark.parametrize("half_open", [False, True])
def test_a_hedge_passes_over_a_target_that_is_not_closed(
    backend: str, half_open: bool, clock: Any
) -> None:
    """A bench blocks it, and a half-open target's place is for a call alone."""
    stage = Stage()
    ask = _guarded(stage)
    _benched(clock, OPENAI, half_open=half_open)

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(MISTRAL)
            stage.says(MISTRAL, "live")
            return await play.ends()

    assert "live" == run_async(main, backend=backend)
    assert [GROQ, MISTRAL] == stage.asked


@on_both_loops
def test_a_target_that_was_passed_over_is_still_failed_over_to(backend: str, clock: Any) -> None:
    """Once the race is lost, as after any failure."""
    stage = Stage()
    ask = _guarded(stage, attempts=1)
    _benched(clock, OPENAI, half_open=True)

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(MISTRAL)
            stage.says(MISTRAL, down())
            await settle()
            stage.says(GROQ, down())
            await stage.begins(OPENAI)
            stage.says(OPENAI, "the probe")
            return await play.ends()

    assert "the probe" == run_async(main, backend=backend)


@on_both_loops
def test_max_attempts_counts_hedges(backend: str, clock: Any) -> None:
    """The one that would be one too many is not made, nor is a failover after it."""
    stage = Stage()
    ask = _guarded(stage, max_attempts=2, max_hedges=3)

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            clock.advance(2.0)
            await settle()
            stage.says(GROQ, down())
            stage.says(OPENAI, down())
            return await play.ends()

    with capture_events(CallFailed) as failed:
        error = run_async(main, backend=backend)
    assert isinstance(error, ChainExhaustedError)
    assert [2] == [each.attempts for each in failed]
    assert [GROQ, OPENAI] == stage.asked


@on_both_loops
def test_a_hedge_is_charged_to_the_budget_of_the_slow_provider(backend: str, clock: Any) -> None:
    """Its share and its floor are as for retries; a refused hedge is not asked for again."""
    configure(retry_budget=0.0)
    stage = Stage()
    ask = _guarded(stage)

    async def one_call(hedged: bool) -> None:
        async with played(ask):
            await stage.begins(GROQ)
            clock.advance(2.0)
            await settle()
            clock.advance(2.0)
            await settle()
            assert hedged is (stage.asked[-1] == OPENAI)
            stage.says(GROQ, "yes")

    async def main() -> None:
        clock.advance(60.0)
        for number in range(2):
            await one_call(hedged=number < 2)

    run_async(main, backend=backend)
    assert 2 == stage.asked.count(OPENAI)


@on_both_loops
@pytest.mark.parametrize("is_healthy", [False, True])
def test_a_first_attempt_that_lost_counts_for_the_share_of_hedges(
    backend: str, is_healthy: bool, clock: Any
) -> None:
    """Else a target whose attempts all lose would get no more hedges than the floor."""
    configure(retry_budget=0.5)
    stage = Stage()
    ask = _guarded(stage, hedge=0.01)
    before = 1 if is_healthy else 0
    if is_healthy:
        with breaker(GROQ):
            pass

    async def main() -> None:
        for number in range(60):
            async with played(ask):
                await stage.begins(GROQ)
                clock.advance(0.01)
                await settle()
                stage.says(OPENAI if stage.asked[-1] == OPENAI else GROQ, "answer")
            assert stage.asked.count(OPENAI) <= max(10, 0.5 * (number + before))

    run_async(main, backend=backend)
    assert (59 + before) // 2 == stage.asked.count(OPENAI)


@on_both_loops
def test_a_pinned_call_uses_no_hedge(backend: str, clock: Any) -> None:
    """Its caller has chosen the target."""
    stage = Stage()

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(*, target: Any = None) -> Any:
        return await stage.provide(target)

    async def main() -> Any:
        async with played(lambda: ask(target=GROQ)) as play:
            await stage.begins(GROQ)
            clock.advance(50.0)
            await settle()
            stage.says(GROQ, "pinned")
            return await play.ends()

    assert "pinned" == run_async(main, backend=backend)
    assert [GROQ] == stage.asked


@on_both_loops
def test_a_strategy_decides_which_target_is_next(backend: str, clock: Any) -> None:
    """What it leaves out is not tried."""
    stage = Stage()
    ask = _guarded(stage, strategy=lambda targets: [targets[2], targets[0]])

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(MISTRAL)
            clock.advance(2.0)
            await stage.begins(GROQ)
            stage.says(GROQ, "next")
            return await play.ends()

    assert "next" == run_async(main, backend=backend)


# What an end means in a race.


@on_both_loops
@pytest.mark.parametrize("order", [(GROQ, OPENAI), (OPENAI, GROQ)])
def test_of_two_answers_at_once_the_older_wins(
    backend: str, order: tuple[str, str], clock: Any
) -> None:
    """In whatever order they come; the other counts as a success of its target, and is lost."""
    stage = Stage()
    ask = _guarded(stage)

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            for key in order:
                stage.says(key, key)
            return await play.ends()

    with capture_events(AttemptSucceeded, AttemptCancelled) as seen:
        assert GROQ == run_async(main, backend=backend)
    assert [(AttemptSucceeded, GROQ), (AttemptCancelled, OPENAI)] == [
        (type(each), each.target) for each in seen
    ]
    assert [1, 1] == [health()[key].total for key in (GROQ, OPENAI)]


@on_both_loops
def test_an_answer_that_reject_refuses_is_a_failure(backend: str, clock: Any) -> None:
    """The others go on, and its target is not tried again."""
    stage = Stage()
    ask = _guarded(stage, reject=lambda answer: answer == "bad")

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, "bad")
            await settle()
            assert not play.is_over
            stage.says(GROQ, "good")
            return await play.ends()

    with capture_events(AttemptFailed, AttemptSucceeded) as seen:
        assert "good" == run_async(main, backend=backend)
    assert [(AttemptFailed, OPENAI), (AttemptSucceeded, GROQ)] == [
        (type(each), each.target) for each in seen
    ]
    assert [] == stage.cancelled


@on_both_loops
@pytest.mark.parametrize("first_to_fail", [GROQ, OPENAI])
def test_a_failure_waits_for_the_attempt_that_still_runs(
    backend: str, first_to_fail: str, clock: Any
) -> None:
    """It is counted, nothing is retried, and no other target starts while one runs."""
    stage = Stage()
    ask = _guarded(stage)
    other = OPENAI if first_to_fail == GROQ else GROQ

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(first_to_fail, down())
            await settle()
            clock.advance(30.0)
            await settle()
            assert [GROQ, OPENAI] == stage.asked
            stage.says(other, "late")
            return await play.ends()

    with capture_events(RetryScheduled, FailedOver) as seen:
        assert "late" == run_async(main, backend=backend)
    assert [] == seen
    assert [1, 0] == [health()[key].errors for key in (first_to_fail, other)]


@on_both_loops
def test_when_all_have_failed_the_call_fails_over(backend: str, clock: Any) -> None:
    """To the next target, once, from the attempt that failed last."""
    stage = Stage()
    ask = _guarded(stage)

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, down())
            await settle()
            stage.says(GROQ, down())
            await stage.begins(MISTRAL)
            stage.says(MISTRAL, "fallback")
            return await play.ends()

    with capture_events(FailedOver, RetryScheduled) as seen:
        assert "fallback" == run_async(main, backend=backend)
    assert [(GROQ, MISTRAL)] == [(each.from_target, each.to_target) for each in seen]
    assert [GROQ, OPENAI, MISTRAL] == stage.asked


@on_both_loops
def test_a_first_attempt_that_fails_in_time_is_retried_as_always(backend: str, clock: Any) -> None:
    """And the retry, if it is slow, has its own hedge."""
    stage = Stage()
    ask = _guarded(stage)

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            stage.says(GROQ, down())
            await settle()
            assert [GROQ, GROQ] == stage.asked
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, "hedged")
            return await play.ends()

    assert "hedged" == run_async(main, backend=backend)


@on_both_loops
@pytest.mark.parametrize("whose", [GROQ, OPENAI])
def test_an_error_that_ends_the_call_stops_the_others(backend: str, whose: str, clock: Any) -> None:
    """It leaves unchanged once they have ended."""
    stage = Stage()
    ask = _guarded(stage)
    bug = TypeError("a mistake of the caller")

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(whose, bug)
            return await play.ends()

    with capture_events(CallFailed, AttemptCancelled) as seen:
        assert run_async(main, backend=backend) is bug
    other = OPENAI if whose == GROQ else GROQ
    assert [other] == stage.cancelled
    assert [2] == [each.attempts for each in seen if isinstance(each, CallFailed)]
    assert [(other, "cancelled")] == [
        (each.target, each.reason) for each in seen if isinstance(each, AttemptCancelled)
    ]


@on_both_loops
@pytest.mark.parametrize("whose", [GROQ, OPENAI])
@pytest.mark.parametrize("error", [TypeError("a mistake"), down()], ids=["bug", "deadline"])
def test_a_call_has_failed_once_all_its_attempts_have_ended(
    backend: str, whose: str, error: Exception, clock: Any
) -> None:
    """`CallFailed` is its last event, and a trace has the attempts that were stopped, too."""
    stage = Stage()
    ask = _guarded(stage, timeout=20.0)
    other = OPENAI if whose == GROQ else GROQ

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            if not isinstance(error, TypeError):
                clock.advance(19.0)  # the call is over when this is known
            stage.says(whose, error)
            return await play.ends()

    with capture_events() as seen, Trace() as trace:
        assert isinstance(run_async(main, backend=backend), Exception)
    ends = [each for each in seen if isinstance(each, AttemptFailed | AttemptCancelled)]
    assert {GROQ, OPENAI} == {each.target for each in ends}
    assert isinstance(seen[-1], CallFailed)
    assert 1 == sum(isinstance(each, CallFailed) for each in seen)
    attempts = {each.target: each for each in trace.calls[0].attempts}
    assert {GROQ, OPENAI} == set(attempts)
    if isinstance(error, TypeError):
        stopped = attempts[other]
        assert (1, "cancelled", 2.0 if other == GROQ else 0.0) == (
            stopped.number,
            stopped.reason,
            stopped.seconds,
        )


@on_both_loops
def test_a_trace_of_a_race_that_is_cancelled_is_as_one_without(backend: str, clock: Any) -> None:
    """No attempt is shown of which nothing came but the cancellation of the call."""
    stage = Stage()
    ask = _guarded(stage)

    async def main() -> None:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            play.scope.cancel()

    with Trace() as trace:
        run_async(main, backend=backend)
    assert () == trace.calls[0].attempts


@on_both_loops
def test_an_error_of_reject_stops_the_others(backend: str, clock: Any) -> None:
    """It leaves the call, and blames no target."""
    stage = Stage()
    bug = LookupError("in reject")

    def reject(answer: Any) -> bool:
        raise bug

    ask = _guarded(stage, reject=reject)

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, "answer")
            return await play.ends()

    assert run_async(main, backend=backend) is bug
    assert [GROQ] == stage.cancelled
    assert [0, 0] == [health()[key].errors for key in (GROQ, OPENAI)]


@on_both_loops
@pytest.mark.parametrize("failed", [None, GROQ, OPENAI])
def test_a_cancelled_caller_stops_all(backend: str, failed: str | None, clock: Any) -> None:
    """The call ends when all have ended, whichever still run; nobody is charged for that."""
    stage = Stage()
    ask = _guarded(stage)

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            if failed is not None:
                stage.says(failed, down())
                await settle()
            play.scope.cancel()
            await play.ends()
            return play.scope.cancelled_caught

    with capture_events(AttemptCancelled, CallFailed) as seen:
        assert run_async(main, backend=backend)
    assert {GROQ, OPENAI} == set(stage.ended)
    expected = {GROQ, OPENAI} - {failed}
    assert expected == {each.target for each in seen}
    assert {"cancelled"} == {each.reason for each in seen}
    assert len(expected) == len(seen)


@on_both_loops
def test_a_cancellation_while_a_loser_ends_waits_for_it(backend: str, clock: Any) -> None:
    """The loser has ended, and then the cancellation leaves the call."""
    stage = Stage()
    ask = _guarded(stage)
    may_end = anyio.Event

    async def main() -> Any:
        gate = may_end()

        async def ends_late() -> None:
            with anyio.CancelScope(shield=True):
                await gate.wait()

        stage.clean_up[GROQ] = ends_late
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, "answer")
            await settle()
            assert not play.is_over
            play.scope.cancel()
            await settle()
            assert not play.is_over
            gate.set()
            await play.ends()
            return play.scope.cancelled_caught

    assert run_async(main, backend=backend)
    assert [OPENAI, GROQ] == stage.ended


@on_both_loops
def test_a_deadline_that_ends_after_the_answer_takes_nothing_away(backend: str, clock: Any) -> None:
    """Although a loser takes longer to end than the call may last."""
    stage = Stage()
    ask = _guarded(stage, timeout=10.0)

    async def main() -> Any:
        gate = anyio.Event()

        async def ends_late() -> None:
            with anyio.CancelScope(shield=True):
                await gate.wait()

        stage.clean_up[GROQ] = ends_late
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, "in time")
            await settle()
            clock.advance(20.0)
            await settle()
            gate.set()
            return await play.ends()

    assert "in time" == run_async(main, backend=backend)


@on_both_loops
def test_the_end_of_the_deadline_ends_the_race(backend: str, clock: Any) -> None:
    """It blames nobody who ran until then, and starts nothing more."""
    stage = Stage()
    ask = _guarded(stage, timeout=10.0, chain=[GROQ, OPENAI])

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            clock.advance(8.0)
            return await play.ends()

    error = run_async(main, backend=backend)
    assert isinstance(error, DeadlineExceededError)
    assert {GROQ, OPENAI} == set(stage.cancelled)
    assert 0 == health()[OPENAI].errors


@on_both_loops
def test_no_hedge_starts_after_the_deadline(backend: str, clock: Any) -> None:
    """Nor at its very end."""
    stage = Stage()
    ask = _guarded(stage, timeout=2.0)

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            return await play.ends()

    run_async(main, backend=backend)
    assert [GROQ] == stage.asked


# Losers.


@on_both_loops
def test_a_loser_that_hung_counts_against_its_target(backend: str, clock: Any) -> None:
    """By the rule of all cancelled attempts; the reason says so."""
    stage = Stage()
    ask = _guarded(stage)

    async def main() -> None:
        async with played(ask):
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            clock.advance(9.0)
            stage.says(OPENAI, "answer")

    with capture_events(AttemptCancelled) as seen, Trace() as trace:
        run_async(main, backend=backend)
    assert [(GROQ, "hung", 11.0)] == [(each.target, each.reason, each.seconds) for each in seen]
    assert 1 == health()[GROQ].errors
    assert [(OPENAI, ""), (GROQ, "hung")] == [
        (each.target, each.reason) for each in trace.calls[0].attempts
    ]


@on_both_loops
def test_an_error_of_a_loser_is_dropped(backend: str, clock: Any) -> None:
    """Whatever its client raises when it is cancelled; it is neither counted nor raised."""
    stage = Stage()
    ask = _guarded(stage)

    async def breaks() -> None:
        raise ConnectionResetError

    stage.clean_up[GROQ] = breaks

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, "answer")
            return await play.ends()

    with capture_events(AttemptFailed) as failed:
        assert "answer" == run_async(main, backend=backend)
    assert [] == failed
    assert 0 == health()[GROQ].errors


@on_both_loops
def test_a_loser_that_failed_by_itself_is_judged(backend: str, clock: Any) -> None:
    """It failed at once with the answer of another."""
    stage = Stage()
    ask = _guarded(stage)

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(GROQ, down())
            stage.says(OPENAI, "answer")
            return await play.ends()

    with capture_events(AttemptFailed) as failed:
        assert "answer" == run_async(main, backend=backend)
    assert [GROQ] == [each.target for each in failed]
    assert 1 == health()[GROQ].errors


@on_both_loops
def test_a_trace_shows_losers(backend: str, clock: Any) -> None:
    """With the reason ``lost``, after the attempt that served the call."""
    stage = Stage()
    ask = _guarded(stage)

    async def main() -> None:
        async with played(ask):
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, "answer")

    with Trace() as trace:
        run_async(main, backend=backend)
    (call,) = trace.calls
    assert OPENAI == call.served_by
    assert [(OPENAI, 1, ""), (GROQ, 1, "lost")] == [
        (each.target, each.number, each.reason) for each in call.attempts
    ]


@on_both_loops
def test_a_loser_keeps_nothing_alive(backend: str, clock: Any) -> None:
    """Neither an answer, an argument nor an error is referred to by anything after the call."""

    class Prompt:
        """What is looked for."""

    stage = Stage()

    @failover(chain=CHAIN, hedge=2.0)
    async def ask(target: Target, prompt: Prompt) -> Any:
        return await stage.provide(target)

    async def main() -> None:
        async with played(lambda: ask(Prompt())):
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, down())
            await settle()
            stage.says(GROQ, "answer")
        gc.disable()
        try:
            await settle()
            assert [] == [each for each in gc.get_objects() if isinstance(each, Prompt)]
        finally:
            gc.enable()

    run_async(main, backend=backend)


@pytest.mark.parametrize("phase", ["alone", "side by side", "a loser ends"])
@pytest.mark.parametrize("is_healthy", [False, True])
def test_a_timeout_of_asyncio_around_a_race_is_one(
    phase: str, is_healthy: bool, clock: Any
) -> None:
    """It raises `TimeoutError` in each phase, and no cancellation of ours stays counted."""

    async def main() -> None:
        may_end = asyncio.Event()

        @failover(chain=CHAIN, hedge=2.0)
        async def ask(target: Target) -> str:
            if target.key == OPENAI and phase == "a loser ends":
                return "answer"
            if target.key == GROQ and phase != "alone":
                clock.advance(2.0)
            try:
                await asyncio.Event().wait()
            finally:
                if phase == "a loser ends" and not may_end.is_set():
                    await may_end.wait()
            return "never"

        if is_healthy:
            with breaker(GROQ):
                pass
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ask()
        assert 0 == task.cancelling()
        assert [task] == list(asyncio.all_tasks())

    asyncio.run(main())


@on_both_loops
def test_a_hedged_call_leaves_no_cancellation_behind(backend: str, clock: Any) -> None:
    """The caller goes on, waits and is cancelled later as if nothing had been."""
    stage = Stage()
    ask = _guarded(stage)

    async def main() -> Any:
        async def call() -> Any:
            answer = await ask()
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            return answer

        async with played(call) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, "answer")
            return await play.ends()

    assert "answer" == run_async(main, backend=backend)


# What a loser leaves open.


class Response:
    """An HTTP response whose body is read later, as that of httpx."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.is_closed = False

    async def aiter_bytes(self) -> Any:
        yield b""

    async def aclose(self) -> None:
        self.is_closed = True


class OlderResponse(Response):
    """One that is closed at once."""

    def close(self) -> None:
        self.is_closed = True

    aclose = None  # type: ignore[assignment]  # it has none


class Items(Response):
    """A stream that is no response, and that nobody has begun to read."""

    aiter_bytes = None  # type: ignore[assignment]  # as above

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> str:
        return self.key


class Client(Response):
    """A client, or a file: it can be closed, and is used after the answer."""

    headers = ()
    aiter_bytes = None  # type: ignore[assignment]  # as above

    async def read(self) -> bytes:
        return b""


def _swallows(stage: Stage, key: str, answer: Any) -> None:
    async def answers() -> Any:
        return answer

    stage.clean_up[key] = answers


@on_both_loops
@pytest.mark.parametrize("cls", [Response, OlderResponse, Items, Client])
@pytest.mark.parametrize("winner", [GROQ, OPENAI])
@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "cancelled"])
@pytest.mark.parametrize("is_healthy", [False, True])
def test_what_a_loser_has_left_open_is_closed(
    backend: str, cls: Any, winner: str, is_late: bool, is_healthy: bool, clock: Any
) -> None:
    """Whether it answered at once with the winner or in spite of its cancellation; no client is."""
    stage = Stage()
    ask = _guarded(stage)
    loser = OPENAI if winner == GROQ else GROQ
    given = {key: cls(key) for key in (GROQ, OPENAI)}
    if is_healthy:
        with breaker(GROQ):
            pass

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            if is_late:
                _swallows(stage, loser, given[loser])
            else:
                stage.says(loser, given[loser])
            stage.says(winner, given[winner])
            answer = await play.ends()
            closed = [given[key].is_closed for key in (winner, loser)]
            if cls is Items:
                await answer.aclose()
            return answer, closed

    answer, closed = run_async(main, backend=backend)
    if not is_late and winner == OPENAI:  # the older is the answer
        closed.reverse()
    assert [False, cls is not Client] == closed
    if cls is not Items:
        assert answer is given[GROQ if not is_late else winner]


@on_both_loops
def test_an_answer_that_both_gave_stays_open(backend: str, clock: Any) -> None:
    """The loser's is that of the winner."""
    stage = Stage()
    ask = _guarded(stage)
    shared = Response("both")

    async def main() -> Any:
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, shared)
            stage.says(GROQ, shared)
            return await play.ends()

    assert run_async(main, backend=backend) is shared
    assert not shared.is_closed


@on_both_loops
def test_an_answer_that_its_cancelled_caller_does_not_get_is_closed(
    backend: str, clock: Any
) -> None:
    """It had won, and then the call was cancelled while a loser ended."""
    stage = Stage()
    ask = _guarded(stage)
    answer = Response(OPENAI)

    async def main() -> Any:
        gate = anyio.Event()

        async def ends_late() -> None:
            with anyio.CancelScope(shield=True):
                await gate.wait()

        stage.clean_up[GROQ] = ends_late
        async with played(ask) as play:
            await stage.begins(GROQ)
            clock.advance(2.0)
            await stage.begins(OPENAI)
            stage.says(OPENAI, answer)
            await settle()
            play.scope.cancel()
            gate.set()
            await play.ends()
            return play.scope.cancelled_caught

    assert run_async(main, backend=backend)
    assert answer.is_closed
