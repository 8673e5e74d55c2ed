"""How a call ends: with an answer, with the error of an attempt, or with one of our errors.

Each function returns the last step of a call flow and emits what belongs to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from resilient_llm._core.call.settling import booked
from resilient_llm._core.call.spending import (
    error_of,
    error_without_store,
    never_waits,
    note_unpriced,
)
from resilient_llm._core.call.steps import RERAISE, Done, Raise
from resilient_llm._core.spending.booking import Ending
from resilient_llm._core.spending.ledger import first_to_reset
from resilient_llm._values import event_names
from resilient_llm._values.errors import (
    DeadlineExceededError,
    ResponseRejectedError,
    StreamDeadlineExceededError,
)
from resilient_llm._values.kinds import AttemptRecord, ErrorKind

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call, Candidate
    from resilient_llm._core.call.steps import Reply, Reraise, Try
    from resilient_llm._core.stream.stream_state import StreamState
    from resilient_llm._values.verdict import Verdict


def is_over(call: Call, now: float) -> bool:
    """Return whether the call may neither wait nor make attempts any more.

    Its own deadline has passed, or that of a call around it, inside which it waited.
    """
    return call.is_cut_off or (call.deadline is not None and now >= call.deadline)


def waited(call: Call, reply: Reply) -> float:
    """Take the reply about a wait; return what time it is."""
    if reply.timed_out:
        call.is_cut_off = True
    return reply.now


def out_of_time(call: Call, now: float) -> Raise:
    """Return the end of a call that `is_over`.

    The deadline of a call around it is not its own, so it ends as if the wait did not fit.
    """
    if call.deadline is None or now < call.deadline:
        return gave_up(call, now)
    return too_late(call, now)


def succeeded(
    call: Call,
    trial: Try,
    now: float,
    value: Any,
    response_time: float | None = None,
    ending: Ending = Ending.ANSWERED,
) -> Done:
    """Count a success and return the answer.

    Args:
        call: The call.
        trial: The attempt that answered.
        now: Monotonic seconds.
        value: The answer; None for a stream, which was handed over already.
        response_time: Seconds to the first content of a stream.
        ending: How it ended for budgets.
    """
    candidate, took = trial.candidate, now - trial.permit.entered_at
    is_first, trial.is_told = not trial.is_told, True
    try:
        booked(call, candidate, trial.permit, now, ending)
    finally:
        _succeeded(call, trial, now, took, response_time, is_first=is_first)
    return Done(value)


def _succeeded(
    call: Call, trial: Try, now: float, took: float, response_time: float | None, *, is_first: bool
) -> None:
    candidate = trial.candidate
    try:
        trial.permit.succeeded(
            now, took, response_time, cooldown=call.options.cooldown, tag=call.tag
        )
    finally:  # an observer of what that causes may interrupt the call
        if call.deps.figures is not None:
            sample = took if response_time is None else response_time
            call.deps.figures.answered(candidate.target.key, now, sample)
        if call.outcome is not None:
            call.outcome.served_by = candidate.target.key
            call.records.append(AttemptRecord(candidate.target.key, trial.number, seconds=took))
        if is_first and call.is_heard(candidate, event_names.AttemptSucceeded):
            call.emit(
                candidate, event_names.AttemptSucceeded, now, number=trial.number, seconds=took
            )


def cancelled(call: Call, trial: Try, now: float) -> None:
    """Give back what an attempt holds, and emit that it was ended from outside."""
    unjudged(call, trial, now)
    if not trial.is_told:
        trial.is_told = True
        took = now - trial.permit.entered_at
        call.emit(
            trial.candidate,
            event_names.AttemptCancelled,
            now,
            number=trial.number,
            seconds=took,
            reason="cancelled",
        )


def unjudged(call: Call, trial: Try, now: float, ending: Ending = Ending.FAILED) -> None:
    """Give back what an attempt holds that ended in what says nothing about its target."""
    try:
        booked(call, trial.candidate, trial.permit, now, ending)
    finally:  # an observer may interrupt the call
        trial.permit.abandoned()
    if call.deps.figures is not None:
        call.deps.figures.unanswered(trial.candidate.target.key, now)


def lost(call: Call, trial: Try, now: float, reason: str, *, is_kept: bool = True) -> None:
    """Settle an attempt that was stopped because another one has ended the call.

    How long the loser of a race ran is a sample of its target: those of the winners alone would
    sink, and hedges would multiply. Of one that began after the winner it is none of its speed.

    Args:
        call: The call.
        trial: The attempt.
        now: When it was stopped.
        reason: ``lost`` if another has answered, else ``cancelled``.
        is_kept: Whether a trace shows it: not if nothing but a cancellation ended the call.
    """
    try:
        booked(call, trial.candidate, trial.permit, now, Ending.FAILED)
    finally:
        trial.permit.abandoned()
    candidate, took = trial.candidate, now - trial.permit.entered_at
    is_hung, trial.is_told = trial.is_told, True
    try:
        if not is_hung:
            call.emit(
                candidate,
                event_names.AttemptCancelled,
                now,
                number=trial.number,
                seconds=took,
                reason=reason,
            )
    finally:  # an observer may interrupt the call
        if reason != "lost":
            unjudged(call, trial, now)
        else:
            if trial.number == 1:
                call.deps.budgets.first_attempt_failed(candidate.target.provider_key, now)
            if call.deps.figures is not None:
                _keep_lost(call, trial, now, took)
        if call.outcome is not None and is_kept:
            call.records.append(
                AttemptRecord(
                    candidate.target.key,
                    trial.number,
                    ErrorKind.CANCELLED,
                    "hung" if is_hung else reason,
                    took,
                )
            )


def _keep_lost(call: Call, trial: Try, now: float, took: float) -> None:
    figures, key = call.deps.figures, trial.candidate.target.key
    assert figures is not None
    if trial.permit.entered_at > call.won_since:
        figures.lost(key, now, took)
        figures.unanswered(key, now)
    else:
        figures.answered(key, now, took)


def dropped(call: Call, trial: Try) -> None:
    """Settle an attempt whose call flow is left, unless that was done already.

    It was not if the flow was closed while the attempt was running, or an interrupt came.
    """
    if not (trial.has_begun or trial.is_told or call.ends_later):
        trial.permit.withdrawn()  # nothing was asked of it
    elif trial.has_begun and not call.ends_later:
        never_waits(trial.permit)
        try:
            booked(call, trial.candidate, trial.permit, call.deps.clock(), Ending.FAILED)
        finally:
            trial.permit.abandoned()
    trial.permit.abandoned()
    if trial.has_begun and not trial.is_told:
        cancelled(call, trial, call.deps.clock())
    elif not (trial.is_told or call.ends_later):  # nothing was asked of it
        trial.is_told = True
        unjudged(call, trial, trial.permit.entered_at)
        if call.deps.counts is not None:
            call.deps.counts.target(trial.candidate.target.key).end()


def leaves(trial: Try, error: BaseException | None) -> Reraise | Raise:
    """Return the step by which the error of an attempt leaves the call unchanged.

    The driver has caught it, and reraises it. It has not caught the rejection of an answer.
    """
    if issubclass(type(error), ResponseRejectedError):
        rejection = cast("ResponseRejectedError", error)
        if rejection.target == trial.candidate.target.key:
            return Raise(rejection, None)
    return RERAISE


def reraised(call: Call, trial: Try, reply: Reply, verdict: Verdict) -> Reraise | Raise:
    """Return the end of a call whose policy does not move on after such an error."""
    emit_call_failed(call, trial.candidate, reply.now, verdict.kind)
    if call.interruption is not None:
        return Raise(call.interruption, reply.error)
    return leaves(trial, reply.error)


def too_late(call: Call, now: float, stream: StreamState | None = None) -> Raise:
    """Return the end of a call whose deadline has passed.

    Args:
        call: The call.
        now: Monotonic seconds.
        stream: The stream that was cut off, if one had begun.
    """
    last = next((record for record in reversed(call.records) if record.number), None)
    cause = call.last_outcomes[last.target][0] if last is not None else None
    candidate = call.last_failed[0] if call.last_failed is not None else call.candidates[0]
    emit_call_failed(call, candidate, now, None if last is None else last.kind)
    timeout = call.options.timeout
    assert timeout is not None
    interrupted = call.interruption
    if interrupted is not None:
        target, sent, text = interrupted.target, interrupted.items_sent, interrupted.text_so_far
    elif stream is not None:
        target, sent, text = call.records[-1].target, stream.items_sent, stream.text_so_far
    else:
        return Raise(DeadlineExceededError(timeout, call.records), cause)
    return Raise(
        StreamDeadlineExceededError(target, sent, timeout, call.records, text_so_far=text), cause
    )


def gave_up(call: Call, now: float) -> Raise:
    """Return the end of a call that no target answered."""
    refused = len(call.refusals) + len(call.without_store)
    if refused == len(call.candidates) and not call.attempts:
        return _without_store(call, now) if call.without_store else _over_budget(call, now)
    error = call.exhausted(now)
    candidate = call.last_failed[0] if call.last_failed is not None else call.candidates[-1]
    emit_call_failed(call, candidate, now, error.kind)
    if call.interruption is not None:
        return Raise(call.interruption, error)
    if call.options.reraise and call.attempts and error.last_error is not None:
        return Raise(error.last_error, None)
    return Raise(error, error.last_error)


def _without_store(call: Call, now: float) -> Raise:
    """Return the end of a call that was not sent, since the store gave no answer about a target."""
    key = next(each.target.key for each in call.candidates if each.target.key in call.without_store)
    emit_call_failed(call, call.candidates[-1], now, ErrorKind.REJECTED)
    return Raise(error_without_store(key), None)


def _over_budget(call: Call, now: float) -> Raise:
    """Return the end of a call whose every target a budget has refused."""
    chosen = first_to_reset(list(call.refusals.values()))
    key = next(key for key, refusal in call.refusals.items() if refusal is chosen)
    emit_call_failed(call, call.candidates[-1], now, ErrorKind.REJECTED)
    error = error_of(key, chosen)
    note_unpriced(error, call.refusals)
    return Raise(error, None)


def emit_call_failed(call: Call, candidate: Candidate, now: float, kind: ErrorKind | None) -> None:
    """Emit, once, that the call ends without an answer; after the ends of all its attempts."""
    if call.has_failed:
        return
    call.has_failed = True
    if call.running:
        call.held_failure = candidate, now, kind
    else:
        call.emit(candidate, event_names.CallFailed, now, attempts=call.attempts, kind=kind)


def emit_held_failure(call: Call) -> None:
    """Emit that the call has failed, if that waited for the end of other attempts."""
    held, call.held_failure = call.held_failure, None
    if held is not None:
        candidate, now, kind = held
        call.emit(candidate, event_names.CallFailed, now, attempts=call.attempts, kind=kind)
