"""What a call does with a stream that has begun.

The driver hands the items over and replies how the stream ended. A stream that broke after
its beginning ends the call, or another target goes on with it, as ``on_interrupt`` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.call.ending import cancelled, emit_call_failed, succeeded
from resilient_llm._core.call.judging import (
    charge,
    emit_interrupted,
    ends_call,
    is_raised,
    reject,
    verdict_of,
)
from resilient_llm._core.call.outcomes import trim_traceback
from resilient_llm._core.call.spending import never_waits
from resilient_llm._core.call.steps import RERAISE, Deliver, Done, Raise
from resilient_llm._core.memory_pressure import as_configured
from resilient_llm._core.spending.booking import Ending
from resilient_llm._values import event_names
from resilient_llm._values.errors import StreamInterruptedError

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.steps import FlowPart, Reply, Step, Try
    from resilient_llm._core.stream.stream_state import StreamState
    from resilient_llm._values.verdict import Verdict


def deliver(call: Call, trial: Try, reply: Reply, stream: StreamState) -> FlowPart:
    """Hand over a stream that has begun, and judge it by how it ends."""
    candidate, began_at = trial.candidate, reply.now
    response_time = stream.response_time = began_at - trial.permit.entered_at
    if stream.has_content:
        candidate.circuit.record_first_content(began_at, response_time)
        call.emit(candidate, event_names.StreamCommitted, began_at, seconds=response_time)
    restarts, call.interruption = call.interruption is not None, None
    if call.outcome is not None:
        call.outcome.served_by = candidate.target.key
    reply.value = stream.first_content = None
    if stream.policy.on_interrupt == "raise":
        # No further target is tried, so nothing is said of the earlier ones any more. The frames
        # of their errors lead to the caller, whose variables may hold the stream: it would be
        # closed by a garbage collection only.
        call.last_outcomes.clear()

    def settle(reply: Reply) -> Step | None:
        if delivery.is_closed or issubclass(type(reply.error), GeneratorExit):
            never_waits(trial.permit)
        try:
            return _ended(call, trial, reply, stream)
        finally:
            if delivery.is_closed:  # there is no call flow any more that would count it
                call.count_end()

    delivery = Deliver(restarts=restarts, settle=settle)
    try:
        reply = yield delivery
    except GeneratorExit:
        delivery.is_closed = call.ends_later = True
        trial.has_begun = False  # whoever has the delivery settles it
        raise
    now = reply.now
    step = settle(reply)
    call.settled(candidate, now)
    if step is None:
        return False, now
    yield step
    return True, now


def _ended(call: Call, trial: Try, reply: Reply, stream: StreamState) -> Step | None:
    """Settle a stream; return how the call ends, or None to go on with another target."""
    try:
        if reply.error is None and stream.fault is None:
            return succeeded(call, trial, reply.now, None, stream.response_time)
        if stream.stopped_by_consumer:
            return _stopped(call, trial, reply, stream)
        if reply.error is not None:
            verdict = verdict_of(call, trial, reply)
        else:
            assert stream.fault is not None
            verdict = as_configured(stream.fault, call.deps.settings.on_memory_pressure)
            reject(trial, reply, verdict)
        step = ends_call(call, trial, reply, verdict, stream)
        return step or _interrupted(call, trial, reply, verdict, stream)
    finally:
        reply.error = None


def _stopped(call: Call, trial: Try, reply: Reply, stream: StreamState) -> Step:
    """Settle a stream that its consumer stopped: after content the target has answered."""
    if stream.has_content:
        succeeded(call, trial, reply.now, None, stream.response_time, Ending.STREAM_CUT)
    else:
        cancelled(call, trial, reply.now)
    return Done(None) if reply.error is None else RERAISE


def _interrupted(
    call: Call, trial: Try, reply: Reply, verdict: Verdict, stream: StreamState
) -> Step | None:
    """Charge a stream that broke; return how the call ends, or None to go on elsewhere."""
    now = reply.now
    charge(call, trial, reply, verdict, Ending.STREAM_CUT)
    interruption = StreamInterruptedError(
        trial.candidate.target.key, stream.items_sent, text_so_far=stream.text_so_far
    )
    emit_interrupted(call, trial, now, verdict, stream)
    if reply.error is not None:
        trim_traceback(reply.error)
    try:
        if (
            stream.policy.on_interrupt != "raise"
            and not is_raised(call, trial, verdict, now)
            and _goes_on(call, reply, stream, interruption)
        ):
            call.interruption = interruption
            return None
        emit_call_failed(call, trial.candidate, now, verdict.kind)
        return Raise(interruption, reply.error)
    finally:
        del interruption


def _goes_on(
    call: Call, reply: Reply, stream: StreamState, interruption: StreamInterruptedError
) -> bool:
    """Return whether another target goes on; a function of the user may change the arguments."""
    interruption.__cause__ = reply.error
    on_interrupt = stream.policy.on_interrupt
    try:
        if callable(on_interrupt):
            changes = on_interrupt(interruption)
            if changes is None:
                return False
            call.args, call.kwargs = call.rebind(call.args, call.kwargs, changes)
        return True
    finally:
        del interruption
