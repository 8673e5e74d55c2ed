"""Attempts of one call side by side: which one starts, what each end means, and who has lost.

Theory of operation. When the newest attempt that runs is slow, the next live target starts beside
it: a hedge (J. Dean and L. A. Barroso, "The Tail at Scale", Communications of the ACM, 2013). From
then on the attempts of the call are a race, until one answers or all have failed. While it lasts
the driver replies for one of them at a time:

*slow*      another one starts beside it, if the call may make one, once for each attempt.
*answered*  the others are stopped. Only when all have ended does the call return.
*gave*      a manager of a stream that is not entered: it is the answer. Once it is entered, the
            attempt goes on alone, or as the first of a race.
*failed*    it is charged as always. Nothing is retried, and no target is failed over to, while
            another attempt runs.
*ends*      an error that leaves the call, or its cancellation, stops the others, too.

An attempt that was stopped says nothing of its target, unless it hung. One that ended by itself
before that is judged, although its answer comes too late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.call.ending import (
    dropped,
    emit_held_failure,
    is_over,
    lost,
    succeeded,
)
from resilient_llm._core.call.judging import (
    book_failure,
    broke,
    charge,
    charge_hung,
    hit_the_deadline,
    keep_failure,
    rejection_of,
    settled,
    verdict_of,
)
from resilient_llm._core.call.retrying import is_paid_for
from resilient_llm._core.call.settling import booked
from resilient_llm._core.call.spending import answered, asked_of
from resilient_llm._core.call.steps import GO_ON, STOP, Race, Try
from resilient_llm._core.call.stream_flow import deliver
from resilient_llm._core.call.trying import attempt_on
from resilient_llm._core.circuit.permit import Permit
from resilient_llm._core.spending.booking import Ending
from resilient_llm._values import event_names
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.kinds import ErrorKind

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call, Candidate
    from resilient_llm._core.call.steps import FlowPart, Reply, Step
    from resilient_llm._core.circuit.circuit import Circuit
    from resilient_llm._values.verdict import Verdict


def hedge_beside(call: Call, slow: Try, begun: int, now: float) -> Try | Race | None:
    """Return the attempt that starts beside one that is slow; None if none may.

    If the store has to be asked about it, that is asked, and the step is returned that waits for
    the answer while the others run. This is called again then.

    Args:
        call: The call.
        slow: The attempt that has not answered within its ``hedge_after``.
        begun: Attempts of the call so far, with those that run.
        now: Monotonic seconds.
    """
    most = call.options.max_attempts
    if (
        call.hedges >= call.options.max_hedges
        or (most is not None and begun >= most)
        or is_over(call, now)
    ):
        return None
    admitted = _answered(call, now) if call.asked_hedge is not None else _next_live(call, now)
    if admitted is None:
        return None
    candidate, permit = admitted
    asked = asked_of(permit)
    if asked is not None:
        call.asked_hedge = candidate, permit
        return Race(None, asked=asked, beside=slow)
    if not is_paid_for(call, slow.candidate, now):
        permit.withdrawn()
        return None
    call.hedges += 1
    call.untried.remove(candidate)
    hedge = attempt_on(call, candidate, permit, call.limit_of(candidate), number=1)
    try:
        call.emit(
            candidate,
            event_names.HedgeStarted,
            now,
            number=hedge.number,
            delay=slow.hedge_after,
            beside=slow.candidate.target.key,
        )
    except BaseException:  # an observer may interrupt the call
        dropped(call, hedge)
        raise
    return hedge


def _answered(call: Call, now: float) -> tuple[Candidate, Permit] | None:
    """Take the answer of the store about an attempt beside others; None if it may not start."""
    assert call.asked_hedge is not None
    candidate, permit = call.asked_hedge
    is_kept = False
    try:
        block = answered(permit, candidate.target.key, now)
        is_kept = block is None and candidate in call.untried
    finally:
        call.asked_hedge = None
        if not is_kept:
            permit.withdrawn()
    call.tell_budgets(candidate, now)
    if not is_kept:
        return None
    permit.entered_at = now
    return candidate, permit


def drop_asked(call: Call) -> None:
    """Give back what the store is asked for an attempt beside others, which does not start."""
    asked, call.asked_hedge = call.asked_hedge, None
    if asked is not None:
        asked[1].withdrawn()


def _next_live(call: Call, now: float) -> tuple[Candidate, Permit] | None:
    """Return the next target whose circuits are closed, and its permit.

    One that is passed over here may still be tried after a failure.
    """
    for candidate in call.untried:
        if not (call.fits(candidate) and _is_closed(candidate.circuit, now)):
            continue
        try:
            permit = call.admitted(candidate, call.limit_of(candidate), now)
        except ConfigurationError as error:
            # Of a budget. It leaves the call if the target is tried after a failure; here it would
            # end an attempt that runs well.
            if call.deps.tell_unhedged is not None:
                call.deps.tell_unhedged(candidate.target.key, error)
            continue
        if not isinstance(permit, Permit):
            continue
        if not permit.leases:
            return candidate, permit
        permit.withdrawn()  # it has become half-open in this moment
    return None


def _is_closed(circuit: Circuit, now: float) -> bool:
    """Return whether a key and its provider are closed: a probe's place is for a call alone."""
    provider = circuit.provider
    return circuit.limited_slot is not None or (
        circuit.state(now) == "closed" and (provider is None or provider.state(now) == "closed")
    )


def race(call: Call, slow: Try, hedge: Try) -> FlowPart:
    """Let a hedge and the attempt beside it run until one answers, or all have failed."""
    running, begun = [slow, hedge], [slow, hedge]
    call.attempts += 2
    trial, reply, now = slow, None, 0.0
    step: Step = Race(hedge)
    try:
        while True:
            if not running:
                break
            reply = yield step
            # Only an attempt that is alone again may not be named.
            trial, now, step = reply.trial or running[0], reply.now, GO_ON
            if reply.is_due:
                # If the newest has failed, those that still run had their hedges.
                another = (
                    hedge_beside(call, trial, call.attempts, now) if trial is running[-1] else None
                )
                if type(another) is Race:
                    step = another
                elif type(another) is Try:
                    call.attempts += 1
                    running.append(another)
                    begun.append(another)
                    step = Race(another)
                continue
            drop_asked(call)
            running.remove(trial)
            if reply.is_pending:
                call.won_since = trial.permit.entered_at
                yield from _stop(call, running, now, reason="lost")
                running.append(trial)
                step = trial
                continue
            call.running = [each.candidate for each in running]
            _turn_to(call, trial)
            verdict = _verdict(call, trial, reply)
            if verdict is None:
                won = _won(call, trial, reply, running)
                reply = None
                return (yield from won)
            known = len(call.records)
            end = settled(call, trial, reply, verdict)
            reply = None
            call.settled(trial.candidate, now)
            if end is not None:
                is_kept = len(call.records) > known
                yield from _stop(call, running, now, reason="cancelled", is_kept=is_kept)
                yield end
                return True, now
        return False, now
    except Exception as error:
        broke(call, trial.candidate, trial, error)
        yield from _stop(call, running, call.deps.clock(), reason="cancelled", is_kept=False)
        raise
    finally:
        reply, call.running = None, ()
        try:
            drop_asked(call)
            for each in begun:
                dropped(call, each)
        finally:  # an observer may interrupt the call
            emit_held_failure(call)


def _turn_to(call: Call, trial: Try) -> None:
    """Let the hook of the call know of which attempt the next facts are."""
    if call.hook is not None and trial.hook is not None:
        call.hook.turn_to(trial.hook)


def _verdict(call: Call, trial: Try, reply: Reply) -> Verdict | None:
    """Return why an attempt failed; None if its answer is good."""
    if reply.error is None:
        return rejection_of(call, trial, reply)
    return verdict_of(call, trial, reply)


def _won(call: Call, trial: Try, reply: Reply, losers: list[Try]) -> FlowPart:
    """Return the answer of the attempt that has won, once the others have ended."""
    now, stream = reply.now, reply.stream
    call.won_since = trial.permit.entered_at
    if stream is None:
        done, reply.value = succeeded(call, trial, now, reply.value), None
        yield from _stop(call, losers, now, reason="lost")
        yield done
        return True, now
    yield from _stop(call, losers, now, reason="lost")
    _turn_to(call, trial)
    return (yield from deliver(call, trial, reply, stream))


def _stop(
    call: Call, others: list[Try], now: float, *, reason: str, is_kept: bool = True
) -> FlowPart:
    """Stop the other attempts of a race, and settle each when all have ended.

    Args:
        call: The call.
        others: Those that run, or have ended and were not judged; emptied.
        now: When they are stopped.
        reason: Why: ``lost`` if another has answered, else ``cancelled``.
        is_kept: Whether a trace shows those that were stopped.
    """
    while others:
        reply = yield STOP
        assert reply.trial is not None
        trial = reply.trial
        others.remove(trial)
        _turn_to(call, trial)
        try:
            judges = not (reply.is_stopped or reply.is_pending)
            if judges and _ended_by_itself(call, trial, reply, reason):
                continue
            if trial.permit.is_hung(now):
                charge_hung(call, trial, now)
            lost(call, trial, now, reason, is_kept=is_kept)
        finally:
            reply.error = reply.value = None
    call.running = ()
    emit_held_failure(call)
    return False, now


def _ended_by_itself(call: Call, trial: Try, reply: Reply, reason: str) -> bool:
    """Judge an attempt that was too late; return False if nothing can be said of its target.

    An answer counts for the health of its target; the call has another one.
    """
    try:
        verdict = _verdict(call, trial, reply)
    except Exception:  # noqa: BLE001  # `reject` raised about an answer that nobody gets
        return False
    if verdict is None:
        ending = Ending.ANSWERED if reply.stream is None else Ending.STREAM_CUT
        booked(call, trial.candidate, trial.permit, reply.now, ending)
        took = reply.now - trial.permit.entered_at
        trial.permit.succeeded(reply.now, took, cooldown=call.options.cooldown, tag=call.tag)
        lost(call, trial, reply.now, reason)
        return True
    if (
        verdict.kind is ErrorKind.CANCELLED
        or not issubclass(type(reply.error), Exception)
        or hit_the_deadline(call, trial, reply, verdict)
    ):
        return False
    if verdict.kind is ErrorKind.CALLER_BUG:
        book_failure(call, trial, reply, verdict)
        trial.permit.abandoned()
        keep_failure(call, trial, reply, verdict)
    else:
        charge(call, trial, reply, verdict)
    call.settled(trial.candidate, reply.now)
    return True
