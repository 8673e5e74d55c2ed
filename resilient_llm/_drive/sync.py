"""Does what the call flow asks, in synchronous code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._core.call.steps import Deliver, Done, Raise, Reply, Reraise, Try, Wait
from resilient_llm._core.circuit.permit import pop_leases, push_leases
from resilient_llm._drive.results import NoContentError, kind_of
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.steps import Step
    from resilient_llm._drive.results import StartedStream
    from resilient_llm._drive.streams import FirstContentTimeout


def drive(call: Call, steps: CallFlow, step: Step, *, pending: Any = None) -> Any:
    """Drive a call flow from its present step to its end.

    Args:
        call: The call.
        steps: Its call flow.
        step: What the call flow asks for now.
        pending: What an attempt that was made already gave, if that may be a stream.

    Returns:
        The answer; an awaitable of it if the function turns out to give awaitables; the
        guarded stream, or its manager, if it gives such.
    """
    is_ours = True
    try:
        step, given = advance(call, steps, step, pending=pending)
        if type(step) is Done:
            return step.value
        is_ours = False
        return _handed_over(call, steps, step, given)
    finally:
        # What an error's traceback can reach must not hold the error.
        step = given = pending = None  # type: ignore[assignment]
        if is_ours:
            steps.close()
            call.clear()


def advance(
    call: Call, steps: CallFlow, step: Step, *, pending: Any = None, enters: bool = False
) -> tuple[Step, Any]:
    """Do what the call flow asks until the call has an answer, or its stream has begun.

    Args:
        call: The call.
        steps: Its call flow.
        step: What the call flow asks for now.
        pending: What an attempt that was made already gave.
        enters: Whether a manager of a stream may be entered now.

    Returns:
        ``Done``; or ``Deliver`` and the stream; or ``Try`` and what the attempt gave, if
        that is for somebody else to go on with.
    """
    started = value = None
    try:
        while True:
            if type(step) is Try:
                try:
                    value, started = _tried(call, step, pending, enters=enters)
                except BaseException as error:
                    pending = None
                    timed_out = isinstance(error, NoContentError)
                    step = steps.send(Reply(runtime.clock(), error=error, timed_out=timed_out))
                    if type(step) is Reraise:
                        raise
                    continue
                pending = None
                if started is None and (is_awaitable(value) or kind_of(value) is not None):
                    return step, value
                step = None  # type: ignore[assignment]  # a `reject` may raise
                try:
                    step = steps.send(outcome(value, started))
                finally:
                    value = None
                    if started is not None and type(step) not in (Deliver, Done):
                        started.opened.abandon()
            elif type(step) is Deliver or type(step) is Done:
                return step, started
            elif type(step) is Raise:
                raise_from(step)
            elif type(step) is Wait:
                runtime.time.sleep(step.seconds)
                step = steps.send(Reply(runtime.clock()))
    finally:
        step = pending = started = value = None  # type: ignore[assignment]


def _tried(
    call: Call, step: Try, pending: Any, *, enters: bool
) -> tuple[Any, StartedStream | None]:
    """Make one attempt; return what it gave, and the stream up to its first content if it is one.

    Raises:
        NoContentError: If a stream did not come to its first content in time.
    """
    if call.is_stream and step.limit is not None:
        from resilient_llm._drive.streams import FirstContentTimeout

        with FirstContentTimeout(step) as first_content_timeout:
            value = attempt(call, step) if pending is None else pending
            return value, _started_stream(call, step, value, first_content_timeout, enters=enters)
    value = attempt(call, step) if pending is None else pending
    return value, _started_stream(call, step, value, None, enters=enters)


def _started_stream(
    call: Call,
    step: Try,
    value: Any,
    first_content_timeout: FirstContentTimeout | None,
    *,
    enters: bool,
) -> StartedStream | None:
    kind = kind_of(value)
    if kind is None or not (kind.items or (enters and kind.manager)):
        return None
    from resilient_llm._drive import streams

    if first_content_timeout is not None or step.limit is None:
        return streams.begin(call, step, value, kind, first_content_timeout)
    with streams.FirstContentTimeout(step) as first_content_timeout:
        return streams.begin(call, step, value, kind, first_content_timeout)


def outcome(value: Any, started: StartedStream | None) -> Reply:
    """Return what to tell of an attempt that raised nothing."""
    if started is None:
        return Reply(runtime.clock(), value)
    if not started.opened.is_stream:
        return Reply(runtime.clock(), started.opened.stream)
    return Reply(runtime.clock(), started.stream_state.first_content, stream=started.stream_state)


def _handed_over(call: Call, steps: CallFlow, step: Step, given: Any) -> Any:
    """Let somebody else go on with a call: who awaits, enters or iterates what is returned."""
    if type(step) is Deliver:
        from resilient_llm._drive import streams

        return streams.present(streams.StreamSession(lambda: (call, steps, step, given)))
    if is_awaitable(given):
        from resilient_llm._drive import aio

        return aio.drive(call, steps, step, pending=given)
    kind = kind_of(given)
    assert kind is not None
    if kind.is_manager:
        from resilient_llm._drive import proxies

        return proxies.manager(call, steps, step, given)
    from resilient_llm._drive import astreams

    return astreams.present(
        astreams.StreamSession(lambda: (call, steps, step, given), given), given
    )


def is_awaitable(value: object) -> bool:
    """Return whether ``await`` takes it; a tenth of what ``inspect.isawaitable`` costs."""
    return hasattr(type(value), "__await__")


def attempt(call: Call, step: Try) -> Any:
    """Make one attempt, known to guards inside it if it holds a leased place."""
    leases = step.permit.leases
    if not leases:
        return step.candidate.invoke(step, call.args, call.kwargs)
    push_leases(leases)
    try:
        return step.candidate.invoke(step, call.args, call.kwargs)
    finally:
        pop_leases(leases)


def raise_from(step: Raise) -> None:
    """Raise what the call flow ends with, leaving no frame that holds it."""
    error, cause = step.error, step.cause
    step.error = step.cause = None
    assert error is not None
    try:
        if cause is None:
            raise error
        raise error from cause
    finally:
        error = cause = None
