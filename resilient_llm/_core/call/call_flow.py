"""The call flow of one call, told once for every driver.

A call enters, its targets are put in order, each attempt is guarded by a breaker, a
failure is classified, then we retry, bench or move on; every step is an event. A pure
generator: it yields what it needs done (`Try`, `Wait`), then how the call ends (`Done`,
`Reraise`, `Raise`), and is told what happened. It reads no clock and does no I/O.

Errors are cleared from locals before a step that may raise, so that no prompt lives on in
a frame that an error refers to.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from resilient_llm._core.call.call import share_of
from resilient_llm._core.call.steps import RERAISE, Deliver, Done, Raise, Reply, Step, Try, Wait
from resilient_llm._core.circuit.permit import Permit, block_of
from resilient_llm._core.circuit.state import Block
from resilient_llm._core.circuit.window import Generation
from resilient_llm._core.retry_budget import SPAN
from resilient_llm._values import event_names
from resilient_llm._values.errors import (
    DeadlineExceededError,
    ResponseRejectedError,
    StreamDeadlineExceededError,
    StreamInterruptedError,
)
from resilient_llm._values.kinds import AttemptRecord, ErrorKind
from resilient_llm._values.settings import LONGEST_TO_RETRY, RATE_LIMIT_PAUSE
from resilient_llm._values.verdict import Verdict

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call, Candidate
    from resilient_llm._core.stream.stream_state import StreamState

CallFlow = Generator[Step, Reply, None]
Part = Generator[Step, Reply, "tuple[bool, float]"]
"""A part of the call flow; returns whether the call is over, and what time it is."""

_LOOK_AGAIN = 1.0
"""Seconds after which a call that waits for a bench looks whether it has ended early."""
_SHORTEST = 0.01
"""Seconds of the shortest of these waits, so that a race for a place never becomes a busy loop."""
_EARLY = 0.05
"""Seconds by which a timer may fire too early without the call giving its target up."""


def call_flow(
    call: Call, now: float, failed: tuple[Candidate, Permit, Reply, bool] | None = None
) -> CallFlow:
    """Tell one call from its start, or from a first attempt that the healthy path made.

    Args:
        call: The call; its candidates are in the order in which they are tried.
        now: Monotonic seconds.
        failed: First attempt that was made already and failed, if there was one; with whether
            its limit was the end of the whole deadline.
    """
    try:
        if failed is not None:
            candidate, permit, reply, ends_deadline = failed
            failed = None
            while call.untried[0] is not candidate:
                passed = call.untried.pop(0)
                # It was blocked then, or the healthy path would have called it.
                block = block_of(passed.circuit, permit.entered_at)
                call.skip(
                    passed, block or Block(passed.target.key, "benched", None), permit.entered_at
                )
            call.untried.pop(0)
            attempts, reply = (
                _attempts(call, candidate, permit, reply, ends_deadline=ends_deadline),
                None,
            )
            over, now = yield from attempts
            if over:
                return
        while call.untried:
            over, now = yield from _next_target(call, now)
            if over:
                return
        if call.attempts == 0:
            over, now = yield from _all_benched(call, now)
            if over:
                return
        yield _give_up(call, now)
    finally:
        failed = reply = None


def _next_target(call: Call, now: float, *, last_resort: bool = False) -> Part:
    candidate = call.untried.pop(0)
    if not call.fits(candidate):
        call.pass_over(candidate, "context_window", now)
        return False, now
    if call.attempts == call.options.max_attempts:
        call.pass_over(candidate, "max_attempts", now)
        return False, now
    if _is_over(call, now):
        yield _too_late(call, now)
        return True, now
    permit = call.enter(candidate, now, last_resort=last_resort)
    if permit is None:
        return False, now
    if call.last_failed is not None:
        previous, verdict = call.last_failed
        call.emit(
            previous,
            event_names.FailedOver,
            now,
            from_target=previous.target.key,
            to_target=candidate.target.key,
            kind=verdict.kind,
            reason=verdict.reason,
        )
    return (yield from _attempts(call, candidate, permit, None, retries=not last_resort))


def _attempts(
    call: Call,
    candidate: Candidate,
    permit: Permit,
    reply: Reply | None,
    *,
    retries: bool = True,
    ends_deadline: bool = False,
) -> Part:
    """Make attempts on one target until it answers or the call moves on."""
    number = 1
    answered: tuple[int, int] | None = None
    judged: tuple[ResponseRejectedError, Verdict] | None = None
    error: BaseException | None = None
    try:
        while True:
            if reply is None:
                trial = _try(call, candidate, permit, number)
                ends_deadline = trial.ends_deadline
                reply = yield trial
            call.attempts += 1
            now, error = reply.now, reply.error
            if error is None:
                judged = _judged(call, candidate, permit, reply)
                if judged is None:
                    answered_by, reply = _answered(call, candidate, permit, number, reply), None
                    return (yield from answered_by)
                error, verdict = judged
                judged = None
            else:
                verdict = _verdict(call, candidate, error, now)
            step = _leaves(
                call, candidate, permit, number, reply, error, verdict, ends_deadline=ends_deadline
            )
            reply = None
            if step is not None:
                if (
                    step is RERAISE
                    and isinstance(error, ResponseRejectedError)
                    and error.target == candidate.target.key
                ):
                    step = Raise(error, None)
                error = None
                yield step
                return True, now
            _charge(call, candidate, permit, number, now, error, verdict)
            if answered is None and verdict.retryable and call.options.attempts > 1:
                answered = permit.answered()
            if _is_raised(call, candidate, verdict, now):
                step = _reraise(call, candidate, error, verdict, now)
                error = None
                yield step
                return True, now
            if _is_over(call, now):
                error = None
                yield _too_late(call, now)
                return True, now
            delay = (
                _retry_in(call, candidate, permit, number, now, error, verdict, answered)
                if retries
                else None
            )
            error = None
            if delay is None:
                return False, now
            again = yield from _again(call, candidate, delay, now)
            if not isinstance(again, Permit):
                return False, again
            permit = again
            number += 1
    finally:
        reply = error = judged = None
        permit.abandoned()  # if it was not reported: the call flow was closed, or something broke


def _try(call: Call, candidate: Candidate, permit: Permit, number: int) -> Try:
    """Return the attempt with its limit: the target's own, and what the deadline leaves."""
    limit, ends_deadline = call.limit_of(candidate), False
    left = call.remaining(permit.entered_at)
    if left is not None:
        limit, ends_deadline = share_of(
            left, limit, is_last=not call.other_is_live(permit.entered_at)
        )
    return Try(candidate, number, permit, limit, call.tag, ends_deadline=ends_deadline)


def _judged(
    call: Call, candidate: Candidate, permit: Permit, reply: Reply
) -> tuple[ResponseRejectedError, Verdict] | None:
    """Ask ``reject`` about an answer, of a stream about its first content; None if it is good."""
    if reply.stream is not None and reply.stream.fault is not None:
        return _refused(candidate, reply.stream.fault)
    reject = call.options.reject
    if reject is None or (reply.stream is not None and not reply.stream.has_content):
        return None
    try:
        said: Any = reject(reply.value)
    except BaseException:
        permit.abandoned()
        raise
    if said is None or said is False:
        return None
    if isinstance(said, Verdict):
        verdict = said
    elif isinstance(said, ErrorKind):
        verdict = Verdict(said, "rejected")
    elif isinstance(said, str) and len(said) <= 40:
        verdict = Verdict(ErrorKind.BAD_RESPONSE, said)
    else:
        verdict = Verdict(ErrorKind.BAD_RESPONSE)
    return _refused(candidate, verdict)


def _refused(candidate: Candidate, verdict: Verdict) -> tuple[ResponseRejectedError, Verdict]:
    return ResponseRejectedError(candidate.target.key, verdict.reason, verdict.kind.value), verdict


def _answered(call: Call, candidate: Candidate, permit: Permit, number: int, reply: Reply) -> Part:
    """Hand over what an attempt gave; a stream is judged by how it ends."""
    began_at, stream = reply.now, reply.stream
    if stream is None:
        yield _served(call, candidate, permit, number, began_at, reply.value)
        return True, began_at
    response_time = stream.response_time = began_at - permit.entered_at
    if stream.has_content:
        candidate.circuit.record_first_content(began_at, response_time)
        call.emit(candidate, event_names.StreamCommitted, began_at, seconds=response_time)
    restarts, call.interruption = call.interruption is not None, None
    call.served_by = candidate.target.key
    reply.value = stream.first_content = None
    reply = yield Deliver(restarts=restarts)
    step = _ended(call, candidate, permit, number, reply, stream, response_time)
    now = reply.now
    reply.error = None
    if step is None:
        return False, now
    yield step
    return True, now


def _ended(
    call: Call,
    candidate: Candidate,
    permit: Permit,
    number: int,
    reply: Reply,
    stream: StreamState,
    response_time: float,
) -> Step | None:
    """Settle a stream; return how the call ends, or None to go on with another target."""
    now, error = reply.now, reply.error
    try:
        if error is None and stream.fault is None:
            return _served(call, candidate, permit, number, now, None, response_time)
        if stream.stopped_by_consumer:
            _stopped(
                call, candidate, permit, number, now, response_time, has_content=stream.has_content
            )
            return Done(None) if error is None else RERAISE
        if error is None:
            assert stream.fault is not None
            error, verdict = _refused(candidate, stream.fault)
        else:
            verdict = _verdict(call, candidate, error, now)
        ends_deadline = reply.timed_out and _is_over(call, now)
        step = _leaves(
            call,
            candidate,
            permit,
            number,
            reply,
            error,
            verdict,
            ends_deadline=ends_deadline,
            stream=stream,
        )
        return step or _interrupted(call, candidate, permit, number, now, error, verdict, stream)
    finally:
        error = None


def _stopped(
    call: Call,
    candidate: Candidate,
    permit: Permit,
    number: int,
    now: float,
    response_time: float,
    *,
    has_content: bool,
) -> None:
    """Settle a stream whose consumer had enough: after content it has answered."""
    if has_content:
        _served(call, candidate, permit, number, now, None, response_time)
    else:
        permit.abandoned()


def _interrupted(
    call: Call,
    candidate: Candidate,
    permit: Permit,
    number: int,
    now: float,
    error: BaseException,
    verdict: Verdict,
    stream: StreamState,
) -> Step | None:
    """Charge a stream that broke after its beginning; return how the call ends, or None to go on elsewhere."""
    _charge(call, candidate, permit, number, now, error, verdict)
    interruption = StreamInterruptedError(
        candidate.target.key, stream.items_sent, text_so_far=stream.text_so_far
    )
    _emit_interrupted(call, candidate, now, verdict, stream)
    on_interrupt = stream.policy.on_interrupt
    try:
        if on_interrupt == "raise" or _is_raised(call, candidate, verdict, now):
            return _broken_off(call, candidate, interruption, error, verdict, now)
        interruption.__cause__ = error
        if callable(on_interrupt):
            changes = on_interrupt(interruption)
            if changes is None:
                return _broken_off(call, candidate, interruption, error, verdict, now)
            call.args, call.kwargs = call.rebind(call.args, call.kwargs, changes)
        call.interruption = interruption
        return None
    finally:
        del error, interruption


def _broken_off(
    call: Call,
    candidate: Candidate,
    interruption: StreamInterruptedError,
    error: BaseException,
    verdict: Verdict,
    now: float,
) -> Raise:
    call.emit(candidate, event_names.CallFailed, now, attempts=call.attempts, kind=verdict.kind)
    return Raise(interruption, error)


def _served(
    call: Call,
    candidate: Candidate,
    permit: Permit,
    number: int,
    now: float,
    value: Any,
    response_time: float | None = None,
) -> Done:
    took = now - permit.entered_at
    permit.succeeded(now, took, response_time)
    call.served_by = candidate.target.key
    if call.traced:
        call.records.append(AttemptRecord(candidate.target.key, number, seconds=took))
    call.emit(candidate, event_names.AttemptSucceeded, now, number=number, seconds=took)
    return Done(value)


def _verdict(call: Call, candidate: Candidate, error: BaseException, now: float) -> Verdict:
    """Ask all rules, the policy's own first; a cancellation is one whatever they say."""
    own = call.options.classify
    verdict = call.deps.classify(error)
    if own is not None and isinstance(error, Exception) and verdict.kind is not ErrorKind.CANCELLED:
        try:
            said: Any = own(error)
            if said is not None:
                verdict = said if isinstance(said, Verdict) else Verdict(ErrorKind(said))
        except Exception as broken:  # noqa: BLE001  # a rule must never turn one error into another
            call.emit(candidate, event_names.ObserverFailed, now, type_name=type(broken).__name__)
    if verdict.kind is ErrorKind.UNKNOWN:
        call.emit(
            candidate,
            event_names.UnknownError,
            now,
            type_name=type(error).__name__,
            status=verdict.status,
        )
        if call.options.on_unknown == "transient":
            return Verdict(ErrorKind.TRANSIENT, verdict.reason, verdict.retry_after, verdict.status)
    return verdict


def _leaves(
    call: Call,
    candidate: Candidate,
    permit: Permit,
    number: int,
    reply: Reply,
    error: BaseException,
    verdict: Verdict,
    *,
    ends_deadline: bool,
    stream: StreamState | None = None,
) -> Step | None:
    """Return how the call ends if this is nothing that a target can be blamed for.

    ``stream`` is given for one that had begun.
    """
    now = reply.now
    if verdict.kind is ErrorKind.CANCELLED:
        content = stream if stream is not None and stream.has_content else None
        quiet_since, response_time = (
            (None, None) if content is None else (content.quiet_since, content.response_time)
        )
        hung = permit.cancelled(now, call.tag, quiet_since=quiet_since, response_time=response_time)
        if hung is not None:
            _emit_failed(call, candidate, number, now - permit.entered_at, now, hung)
        return RERAISE
    if not isinstance(error, Exception):
        permit.abandoned()
        return RERAISE
    if verdict.kind is ErrorKind.CALLER_BUG:
        permit.abandoned()
        call.record(candidate, number, now - permit.entered_at, error, verdict)
        _emit_failed(call, candidate, number, now - permit.entered_at, now, verdict)
        call.emit(candidate, event_names.CallFailed, now, attempts=call.attempts, kind=verdict.kind)
        return RERAISE
    felt_the_end = reply.timed_out or (
        call.knows_limit and verdict.reason == "timeout" and _is_over(call, now)
    )
    if ends_deadline and felt_the_end:
        # Only the end of the whole deadline blames nobody.
        permit.abandoned()
        timeout = Verdict(ErrorKind.TRANSIENT, "timeout")
        call.record(candidate, number, now - permit.entered_at, error, timeout)
        _emit_failed(call, candidate, number, now - permit.entered_at, now, timeout)
        if stream is not None:
            _emit_interrupted(call, candidate, now, timeout, stream)
        return _too_late(call, now, stream)
    return None


def _charge(
    call: Call,
    candidate: Candidate,
    permit: Permit,
    number: int,
    now: float,
    error: BaseException,
    verdict: Verdict,
) -> None:
    """Report a failure to the breaker and to observers."""
    assert isinstance(error, Exception)
    call.record(candidate, number, now - permit.entered_at, error, verdict)
    _emit_failed(call, candidate, number, now - permit.entered_at, now, verdict)
    permit.failed(error, now, verdict, cooldown=call.options.cooldown, tag=call.tag)
    if number == 1:
        call.deps.budgets.first_attempt_failed(candidate.target.provider_key, now)
    call.deps.notice(candidate.target.provider_key, error)
    call.last_failed = (candidate, verdict)


def _is_raised(call: Call, candidate: Candidate, verdict: Verdict, now: float) -> bool:
    """Return whether this error leaves at once instead of the call moving on."""
    options = call.options
    if verdict.kind is ErrorKind.UNKNOWN:
        return options.on_unknown == "raise"
    if verdict.kind is not ErrorKind.REQUEST_SPECIFIC:
        return False
    if verdict.reason == "content_policy":
        return options.on_content_policy == "raise"
    if verdict.reason == "context_length_exceeded":
        window = candidate.target.context_window
        if window is None:
            return True
        call.needs_window = max(window, call.needs_window or window)
        return not call.other_is_live(now)
    return options.on_request_error == "raise"


def _retry_in(
    call: Call,
    candidate: Candidate,
    permit: Permit,
    number: int,
    now: float,
    error: BaseException,
    verdict: Verdict,
    answered: tuple[int, int] | None,
) -> float | None:
    """Return the seconds until the next attempt on this target, or None to move on."""
    limited = verdict.kind is ErrorKind.RATE_LIMITED
    hint = verdict.retry_after if verdict.retry_after else None
    if not verdict.retryable and not (limited and hint and _is_only_long(verdict.reason, hint)):
        return None
    if number >= call.options.attempts or call.attempts == call.options.max_attempts:
        stopped_by_consumer = "attempts"
    elif (limited or hint or verdict.reason == "timeout") and call.other_is_live(now):
        stopped_by_consumer = "hint" if hint and not limited else ""
    else:
        delay, source = _delay(call, number, error, verdict, hint)
        stopped_by_consumer = _too_long(call, delay, now, asked=bool(limited or hint))
        if not stopped_by_consumer and _is_shut(candidate, now, delay if limited or hint else None):
            return None  # a breaker that opened ends the retries
        if not stopped_by_consumer and _is_paid_for(call, candidate, now):
            call.emit(
                candidate,
                event_names.RetryScheduled,
                now,
                number=number + 1,
                delay=delay,
                source=source,
            )
            return delay
        stopped_by_consumer = stopped_by_consumer or "budget"
    if stopped_by_consumer and call.options.attempts > 1:
        call.emit(candidate, event_names.RetryStopped, now, reason=stopped_by_consumer)
    if stopped_by_consumer == "attempts":
        _used_up(call, candidate, permit, number, now, verdict, answered)
    if hint and not limited and stopped_by_consumer in ("attempts", "hint"):
        _pause(call, permit, now, verdict)
    return None


def _used_up(
    call: Call,
    candidate: Candidate,
    permit: Permit,
    number: int,
    now: float,
    verdict: Verdict,
    answered: tuple[int, int] | None,
) -> None:
    """Let the circuit know that one call used up its attempts on it."""
    if answered is None or not 2 <= number >= call.options.attempts or not verdict.harms_health:
        return
    charged, admission = permit.charged(verdict)
    before = answered[0] if charged is candidate.circuit else answered[1]
    if isinstance(admission, Generation):
        charged.exhausted(
            admission, now, verdict, number, before, cooldown=call.options.cooldown, tag=call.tag
        )


def _is_only_long(reason: str, hint: float) -> bool:
    """Return whether a rate limit is not tried again for its wait alone; here the policy's own limit decides."""
    return hint > LONGEST_TO_RETRY and reason != "quota_window"


def _too_long(call: Call, delay: float, now: float, *, asked: bool) -> str:
    """Return why a wait does not fit, or nothing; ``asked`` if the provider named it."""
    left = call.remaining(now)
    if asked and (delay > call.deps.settings.max_wait or (left is not None and delay >= left)):
        return "hint"
    return "deadline" if left is not None and delay >= left else ""


def _is_shut(candidate: Candidate, now: float, asked: float | None) -> bool:
    """Return whether a target will still be benched after a wait that its provider asked for, if it did."""
    block = block_of(candidate.circuit, now)
    if block is None:
        return False
    return asked is None or block.until is None or block.until - now > asked + _EARLY


def _is_paid_for(call: Call, candidate: Candidate, now: float) -> bool:
    """Charge one retry to the budget of the provider."""
    provider = candidate.circuit.provider or candidate.circuit
    share = call.deps.settings.retry_budget
    return call.deps.budgets.take(
        candidate.target.provider_key, now, share, provider.first_attempts(now, SPAN)
    )


def _delay(
    call: Call, number: int, error: BaseException, verdict: Verdict, hint: float | None
) -> tuple[float, str]:
    if hint is not None:
        return hint, "hint"
    if verdict.kind is ErrorKind.RATE_LIMITED and verdict.retry_after is None:
        return RATE_LIMIT_PAUSE, "hint"
    return call.deps.backoff(number, error, call.deps.rng), "backoff"


def _pause(call: Call, permit: Permit, now: float, verdict: Verdict) -> None:
    """Bench a target for the wait that an error named though it was no rate limit."""
    charged, admission = permit.charged(verdict)
    if isinstance(admission, Generation):
        charged.pause(admission, now, verdict, call.tag)


def _again(
    call: Call, candidate: Candidate, delay: float, now: float
) -> Generator[Step, Reply, Permit | float]:
    """Wait, then ask the breaker anew; return leave, or what time it is when there is none."""
    end = now + delay
    while True:
        reply = yield Wait(max(0.0, end - now))
        now = reply.now
        block = block_of(candidate.circuit, now)
        if (
            block is None
            or block.until is None
            or block.until - now > _EARLY
            or block.until <= end - delay
        ):
            break
        end = block.until
    permit = call.enter(candidate, now)
    return now if permit is None else permit


def _all_benched(call: Call, now: float) -> Part:
    """Every target is benched: try those that may be tried, wait, or give up, as the policy says."""
    if call.options.when_all_benched == "soonest":

        def recovers_at(candidate: Candidate) -> float:
            until = call.blocks[candidate.target.key].until
            return float("inf") if until is None else until

        call.untried = sorted(
            (candidate for candidate in call.candidates if candidate.target.key in call.blocks),
            key=recovers_at,
        )
        while call.untried:
            over, now = yield from _next_target(call, now, last_resort=True)
            if over:
                return True, now
    elif call.options.when_all_benched == "wait":
        give_up_at = now + call.deps.settings.max_wait
        while call.attempts == 0:
            ends = [
                until
                for candidate in call.candidates
                if (until := _ends_at(candidate, now)) is not None
            ]
            soonest = min(ends, default=None)
            if (
                soonest is None
                or soonest > give_up_at
                or (call.deadline is not None and soonest >= call.deadline)
            ):
                break
            reply = yield Wait(min(_LOOK_AGAIN, max(_SHORTEST, soonest - now)))
            now = reply.now
            if soonest > now and not _may_go(call, now):
                continue
            call.untried = list(call.candidates)
            while call.untried:
                over, now = yield from _next_target(call, now)
                if over:
                    return True, now
    return False, now


def _may_go(call: Call, now: float) -> bool:
    """Return whether any target of the call could be called now."""
    return any(block_of(candidate.circuit, now) is None for candidate in call.candidates)


def _ends_at(candidate: Candidate, now: float) -> float | None:
    block = block_of(candidate.circuit, now)
    return now if block is None else block.until


def _is_over(call: Call, now: float) -> bool:
    return call.deadline is not None and now >= call.deadline


def _reraise(
    call: Call, candidate: Candidate, error: BaseException, verdict: Verdict, now: float
) -> Step:
    call.emit(candidate, event_names.CallFailed, now, attempts=call.attempts, kind=verdict.kind)
    if call.interruption is not None:
        return Raise(call.interruption, error)
    if isinstance(error, ResponseRejectedError) and error.target == candidate.target.key:
        return Raise(error, None)
    return RERAISE


def _too_late(call: Call, now: float, stream: StreamState | None = None) -> Raise:
    last = next((record for record in reversed(call.records) if record.number), None)
    cause = call.last_outcomes[last.target][0] if last is not None else None
    candidate = call.last_failed[0] if call.last_failed is not None else call.candidates[0]
    call.emit(
        candidate,
        event_names.CallFailed,
        now,
        attempts=call.attempts,
        kind=None if last is None else last.kind,
    )
    timeout = call.options.timeout
    assert timeout is not None
    if call.interruption is not None:
        target, sent, text = (
            call.interruption.target,
            call.interruption.items_sent,
            call.interruption.text_so_far,
        )
    elif stream is not None:
        target, sent, text = call.records[-1].target, stream.items_sent, stream.text_so_far
    else:
        return Raise(DeadlineExceededError(timeout, call.records), cause)
    return Raise(
        StreamDeadlineExceededError(target, sent, timeout, call.records, text_so_far=text), cause
    )


def _give_up(call: Call, now: float) -> Raise:
    error = call.exhausted(now)
    candidate = call.last_failed[0] if call.last_failed is not None else call.candidates[-1]
    call.emit(candidate, event_names.CallFailed, now, attempts=call.attempts, kind=error.kind)
    if call.interruption is not None:
        return Raise(call.interruption, error)
    if call.options.reraise and call.attempts and error.last_error is not None:
        return Raise(error.last_error, None)
    return Raise(error, error.last_error)


def _emit_interrupted(
    call: Call, candidate: Candidate, now: float, verdict: Verdict, stream: StreamState
) -> None:
    call.emit(
        candidate,
        event_names.StreamInterrupted,
        now,
        items_sent=stream.items_sent,
        kind=verdict.kind,
        reason=verdict.reason,
    )


def _emit_failed(
    call: Call, candidate: Candidate, number: int, seconds: float, now: float, verdict: Verdict
) -> None:
    call.emit(
        candidate,
        event_names.AttemptFailed,
        now,
        number=number,
        seconds=seconds,
        kind=verdict.kind,
        reason=verdict.reason,
        status=verdict.status,
    )
