"""After an attempt: what its outcome means for the call, and which circuit is charged.

Asks the user's ``reject`` and ``classify`` and the built-in rules, says whether an outcome
ends the call, and charges a failure to the breaker. It does not choose what is tried next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.call.ending import (
    cancelled,
    emit_call_failed,
    is_over,
    leaves,
    reraised,
    succeeded,
    too_late,
    unjudged,
)
from resilient_llm._core.call.outcomes import note_bug
from resilient_llm._core.call.settling import booked
from resilient_llm._core.call.spending import looked_at, never_waits, rejected_as
from resilient_llm._core.call.steps import NO_ANSWER
from resilient_llm._core.circuit.permit import HUNG
from resilient_llm._core.memory_pressure import as_configured
from resilient_llm._core.spending.booking import Ending, ending_of
from resilient_llm._values import event_names
from resilient_llm._values.built_in import class_name
from resilient_llm._values.errors import (
    ConfigurationError,
    ResilientLLMError,
    ResponseRejectedError,
)
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import LONGEST_REASON, Verdict

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call, Candidate
    from resilient_llm._core.call.steps import Reply, Step, Try
    from resilient_llm._core.stream.stream_state import StreamState

_CANCELLED: Final = Verdict(ErrorKind.CANCELLED)
_TIMEOUT: Final = Verdict(ErrorKind.TRANSIENT, "timeout")
_MISUSE: Final = Verdict(ErrorKind.CALLER_BUG)
_BLAMES_NOBODY: Final = (ErrorKind.CALLER_BUG, ErrorKind.CANCELLED)
"""Kinds of an error that ends the call at once."""


def rejection_of(call: Call, trial: Try, reply: Reply) -> Verdict | None:
    """Return why an answer is rejected, or None if it is good.

    Of a stream only the first content is known. A rejected answer is cleared from the reply.
    """
    if reply.stream is None:
        heard(call, trial, reply.value)
        if call.deps.spending is not None:
            looked_at(trial.permit, reply.value)
    if call.options.reject is None and reply.stream is None:
        return None
    verdict = _fault_of(call, trial, reply) if reply.judged is None else reply.judged
    if verdict is not None:
        verdict = as_configured(verdict, call.deps.settings.on_memory_pressure)
        reject(trial, reply, verdict)
    return verdict


def heard(call: Call, trial: Try, source: object) -> None:
    """Read what headers in an answer or an error report of the provider's limits."""
    if call.deps.hear is not None:
        permit = trial.permit
        call.deps.hear(source, trial.candidate.target.key, permit.entered_at, permit.held)


def reject(trial: Try, reply: Reply, verdict: Verdict) -> None:
    """Put the rejection of an answer into its reply, in place of the answer."""
    reply.value = None
    reply.error = ResponseRejectedError(
        trial.candidate.target.key, verdict.reason, verdict.kind.value
    )


def _fault_of(call: Call, trial: Try, reply: Reply) -> Verdict | None:
    """Ask ``reject`` about an answer, or about the first content of a stream."""
    if reply.stream is not None and reply.stream.fault is not None:
        return reply.stream.fault
    asked = call.options.reject
    if (
        asked is None
        or reply.value is NO_ANSWER
        or (reply.stream is not None and not reply.stream.has_content)
    ):
        return None
    return fault_of(asked(reply.value))


def fault_of(said: object) -> Verdict | None:
    """Return why an answer is rejected of which ``reject`` returned this, or None."""
    if not said:
        return None
    if isinstance(said, Verdict):
        return said
    if isinstance(said, ErrorKind):
        return Verdict(said, "rejected")
    # A longer one is cut only if it is a word: a text may be the answer, returned by mistake.
    if isinstance(said, str) and (len(said) <= LONGEST_REASON or _is_word(said)):
        return Verdict(ErrorKind.BAD_RESPONSE, said[:LONGEST_REASON])
    return Verdict(ErrorKind.BAD_RESPONSE)


def _is_word(text: str) -> bool:
    return text.replace("_", "").replace("-", "").isalnum()


def verdict_of(call: Call, trial: Try, reply: Reply) -> Verdict:
    """Classify the error of a reply: the policy's ``classify`` overrules the other rules.

    A cancellation stays a cancellation, whatever ``classify`` returns. A ConfigurationError stays
    one whatever any rule says: no target is the reason for it.
    """
    error, own = reply.error, call.options.classify
    assert error is not None
    if issubclass(type(error), GeneratorExit):
        never_waits(trial.permit)
    if reply.cancelled:
        return _CANCELLED
    if reply.timed_out and _hides_timeout(error):
        return _TIMEOUT
    if issubclass(type(error), ConfigurationError):
        return _MISUSE
    verdict = call.deps.classify(error) if reply.judged is None else reply.judged
    if (
        own is not None
        and issubclass(type(error), Exception)
        and verdict.kind is not ErrorKind.CANCELLED
    ):
        try:
            said: Any = own(error)
            if said is not None:
                own_verdict = said if isinstance(said, Verdict) else Verdict(ErrorKind(said))
                verdict = as_configured(own_verdict, call.deps.settings.on_memory_pressure)
        except Exception as broken:  # noqa: BLE001  # a rule must never turn one error into another
            call.report_failure(trial.candidate, own, broken, reply.now)
    # What is no Exception leaves the call whatever it means, so no rule is missing.
    if verdict.kind is ErrorKind.UNKNOWN and issubclass(type(error), Exception):
        call.emit(
            trial.candidate,
            event_names.UnknownError,
            reply.now,
            type_name=class_name(type(error)),
            status=verdict.status,
        )
        if call.options.on_unknown == "transient":
            return Verdict(ErrorKind.TRANSIENT, verdict.reason, verdict.retry_after, verdict.status)
    return verdict


def _hides_timeout(error: BaseException) -> bool:
    """Return whether a client raised an error of its own when its attempt was cut off.

    Such an error says how the client ends an attempt, and nothing about the target.
    """
    cls = type(error)
    if not issubclass(cls, Exception):
        return False
    return not issubclass(cls, TimeoutError) or issubclass(cls, ResilientLLMError)


def ends_call(
    call: Call, trial: Try, reply: Reply, verdict: Verdict, stream: StreamState | None = None
) -> Step | None:
    """Return how the call ends if no target can be blamed for the outcome, else None.

    The end of the whole deadline is charged to no circuit; a shorter limit is the target's failure.

    Args:
        call: The call.
        trial: The attempt.
        reply: What came of it, with an error.
        verdict: What that error means.
        stream: The stream, if one had begun.
    """
    if verdict.kind is ErrorKind.CANCELLED and not _is_refused(trial, reply):
        return _cancelled(call, trial, reply, stream)
    if verdict.kind in _BLAMES_NOBODY:
        return _caller_bug(call, trial, reply, verdict)
    if not issubclass(type(reply.error), Exception):
        # What no program raises as an error is a signal to stop, as KeyboardInterrupt is.
        cancelled(call, trial, reply.now)
        return leaves(trial, reply.error)
    if stream is None:
        is_end = hit_the_deadline(call, trial, reply, verdict)
    else:
        # It is cut off by its own limits, too.
        is_end = reply.timed_out and is_over(call, reply.now)
    if is_end:
        return _deadline_ended(call, trial, reply, stream)
    return None


def _cancelled(call: Call, trial: Try, reply: Reply, stream: StreamState | None) -> Step:
    """Settle an attempt that was cancelled; after its first content a stream has answered."""
    now = reply.now
    has_content = stream is not None and stream.has_content
    if trial.permit.is_hung(now, stream.quiet_since if stream and has_content else None):
        charge_hung(call, trial, now)
    elif stream is not None and has_content:
        succeeded(call, trial, now, None, stream.response_time, Ending.STREAM_CUT)
    else:
        cancelled(call, trial, now)
    return leaves(trial, reply.error)


def charge_hung(call: Call, trial: Try, now: float) -> None:
    """Charge an attempt that was cancelled after as long as a hanging call."""
    trial.is_told = True
    took = now - trial.permit.entered_at
    call.announce(
        trial.candidate,
        event_names.AttemptCancelled,
        now,
        number=trial.number,
        seconds=took,
        reason=HUNG.reason,
    )
    try:
        booked(call, trial.candidate, trial.permit, now, Ending.FAILED)
        trial.permit.failed(None, now, HUNG, cooldown=call.options.cooldown, tag=call.tag)
    finally:
        if call.deps.figures is not None:
            call.deps.figures.failed(trial.candidate.target.key, now, harms=True)
        call.emit_announced(trial.candidate)


def _is_refused(trial: Try, reply: Reply) -> bool:
    """Return whether the error of a reply is the rejection of an answer."""
    error = reply.error
    return (
        issubclass(type(error), ResponseRejectedError)
        and getattr(error, "target", None) == trial.candidate.target.key
    )


def _caller_bug(call: Call, trial: Try, reply: Reply, verdict: Verdict) -> Step:
    book_failure(call, trial, reply, verdict)
    unjudged(call, trial, reply.now)
    keep_failure(call, trial, reply, verdict)
    is_bug = verdict.kind is ErrorKind.CALLER_BUG and verdict.reason != "control_flow"
    if is_bug and reply.error is not None:
        note_bug(reply.error, trial.candidate.target)
    emit_call_failed(call, trial.candidate, reply.now, verdict.kind)
    return leaves(trial, reply.error)


def hit_the_deadline(call: Call, trial: Try, reply: Reply, verdict: Verdict) -> bool:
    """Return whether the driver or the client cut the attempt off at the deadline."""
    if not trial.ends_deadline:
        return False
    if reply.timed_out:
        return True
    return call.knows_limit and verdict.reason == "timeout" and is_over(call, reply.now)


def _deadline_ended(call: Call, trial: Try, reply: Reply, stream: StreamState | None) -> Step:
    unjudged(call, trial, reply.now, Ending.FAILED if stream is None else Ending.STREAM_CUT)
    keep_failure(call, trial, reply, _TIMEOUT)
    if stream is not None:
        emit_interrupted(call, trial, reply.now, _TIMEOUT, stream)
    return too_late(call, reply.now, stream)


def settled(call: Call, trial: Try, reply: Reply, verdict: Verdict) -> Step | None:
    """Settle an attempt that did not answer; return how the call ends, or None if it goes on."""
    step = ends_call(call, trial, reply, verdict)
    if step is not None:
        return step
    charge(call, trial, reply, verdict)
    if is_raised(call, trial, verdict, reply.now):
        return reraised(call, trial, reply, verdict)
    return too_late(call, reply.now) if is_over(call, reply.now) else None


def charge(
    call: Call, trial: Try, reply: Reply, verdict: Verdict, ending: Ending | None = None
) -> None:
    """Report a failure to the breaker, to budgets and to observers.

    Args:
        call: The call.
        trial: The attempt.
        reply: What came of it, with an error.
        verdict: What that error means.
        ending: How it ended for budgets, if the error does not say.
    """
    book_failure(call, trial, reply, verdict, ending)
    now, error, key = reply.now, reply.error, trial.candidate.target.provider_key
    assert isinstance(error, Exception)
    _keep(call, trial, reply, verdict)
    trial.is_told = True
    is_heard = call.is_heard(trial.candidate, event_names.AttemptFailed)
    if is_heard:
        call.announce(
            trial.candidate, event_names.AttemptFailed, now, **_failure_of(trial, now, verdict)
        )
    try:
        trial.permit.failed(error, now, verdict, cooldown=call.options.cooldown, tag=call.tag)
    finally:
        if call.deps.figures is not None:
            call.deps.figures.failed(trial.candidate.target.key, now, harms=is_harmful(verdict))
        if is_heard:
            call.emit_announced(trial.candidate)
    if trial.number == 1:
        call.deps.budgets.first_attempt_failed(key, now)
    call.deps.notice(key, error)
    heard(call, trial, error)
    call.last_failed = (trial.candidate, verdict)


def book_failure(
    call: Call, trial: Try, reply: Reply, verdict: Verdict, ending: Ending | None = None
) -> None:
    """Book an attempt that has failed; an answer that was rejected is one all the same.

    Args:
        call: The call.
        trial: The attempt.
        reply: What came of it, with an error.
        verdict: What that error means.
        ending: How it ended for budgets, if the error does not say.
    """
    if call.deps.spending is None:
        return
    if ending is None:
        assert reply.error is not None
        if _is_refused(trial, reply):
            ending = rejected_as(trial.permit)
        else:
            ending = Ending.FAILED if reply.timed_out else ending_of(reply.error, verdict.status)
    booked(call, trial.candidate, trial.permit, reply.now, ending)


def is_harmful(verdict: Verdict) -> bool:
    """Return whether a failure says that its target is not well, or that it asks for less."""
    return verdict.harms_health or verdict.kind is ErrorKind.RATE_LIMITED


def is_raised(call: Call, trial: Try, verdict: Verdict, now: float) -> bool:
    """Return whether a failure leaves at once instead of the call moving on."""
    options = call.options
    if verdict.kind is ErrorKind.UNKNOWN:
        return options.on_unknown == "raise"
    if verdict.kind is not ErrorKind.REQUEST_SPECIFIC:
        return False
    if verdict.reason == "content_policy":
        return options.on_content_policy == "raise"
    if verdict.reason == "context_length_exceeded":
        window = trial.candidate.target.context_window
        if window is None:
            return True
        call.needs_window = max(window, call.needs_window or window)
        return not (call.other_may_follow(now) or any(call.fits(each) for each in call.running))
    return options.on_request_error == "raise"


def keep_failure(call: Call, trial: Try, reply: Reply, verdict: Verdict) -> None:
    """Keep a failed attempt for the errors that list attempts, and emit it."""
    _keep(call, trial, reply, verdict)
    _emit_attempt_failed(call, trial, reply.now, verdict)


def _keep(call: Call, trial: Try, reply: Reply, verdict: Verdict) -> None:
    error, seconds = reply.error, reply.now - trial.permit.entered_at
    assert error is not None
    call.record(trial.candidate, trial.number, seconds, error, verdict)
    if call.hook is not None:
        call.hook.failed(verdict, class_name(type(error)))


def _emit_attempt_failed(call: Call, trial: Try, now: float, verdict: Verdict) -> None:
    trial.is_told = True
    call.emit(trial.candidate, event_names.AttemptFailed, now, **_failure_of(trial, now, verdict))


def _failure_of(trial: Try, now: float, verdict: Verdict) -> dict[str, Any]:
    """Return the fields of `AttemptFailed`."""
    return {
        "number": trial.number,
        "seconds": now - trial.permit.entered_at,
        "kind": verdict.kind,
        "reason": verdict.reason,
        "status": verdict.status,
    }


def broke(call: Call, candidate: Candidate, trial: Try | None, error: BaseException) -> None:
    """Emit what a call ends with that an error of a function of the user leaves.

    Such a function judges: ``reject``, ``on_interrupt``, a strategy. No target is blamed for it.
    A time limit or an interrupt that arrives inside it is no error of it.

    Args:
        call: The call.
        candidate: The target that the event of the call names.
        trial: The attempt that was judged, if there was one.
        error: What the function raised.
    """
    now = call.deps.clock()
    verdict = _CANCELLED
    if issubclass(type(error), Exception):
        verdict = call.deps.classify(error)
    is_cancelled = verdict.kind is ErrorKind.CANCELLED
    if trial is not None and not trial.is_told:
        if is_cancelled:
            cancelled(call, trial, now)
        else:
            unjudged(call, trial, now)
            reason = verdict.reason if verdict.kind is ErrorKind.CALLER_BUG else "caller_bug"
            bug = Verdict(ErrorKind.CALLER_BUG, reason)
            if call.hook is not None:
                call.hook.failed(bug, class_name(type(error)))
            _emit_attempt_failed(call, trial, now, bug)
    if not is_cancelled:
        emit_call_failed(call, candidate, now, ErrorKind.CALLER_BUG)


def emit_interrupted(
    call: Call, trial: Try, now: float, verdict: Verdict, stream: StreamState
) -> None:
    """Emit that a stream broke after its beginning."""
    call.emit(
        trial.candidate,
        event_names.StreamInterrupted,
        now,
        items_sent=stream.items_sent,
        kind=verdict.kind,
        reason=verdict.reason,
    )
