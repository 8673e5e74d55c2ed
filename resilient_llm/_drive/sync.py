"""The synchronous driver: calls the user's function, waits, raises, as the call flow asks."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from resilient_llm._core.call.outcomes import is_ours
from resilient_llm._core.call.steps import Deliver, Done, Raise, Reply, Reraise, Try, Wait
from resilient_llm._core.circuit.permit import pop_permit, push_permit
from resilient_llm._drive.cancellation import refuse_closed, was_cut_off
from resilient_llm._drive.opening import FirstContentTimeout, NoContentError, begin
from resilient_llm._drive.results import is_awaitable, kind_of
from resilient_llm._drive.tasks import current_task
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.built_in import traceback_of
from resilient_llm._values.errors import ResilientLLMError

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.hooks import AttemptHook
    from resilient_llm._core.call.steps import Step
    from resilient_llm._drive.opening import StartedStream
    from resilient_llm._drive.results import ResultKind


def advance(
    call: Call, flow: CallFlow, step: Step, *, pending: Any = None, enters: bool = False
) -> tuple[Step, Any]:
    """Do what the call flow asks until the call has an answer, or its stream has begun.

    Args:
        call: The call.
        flow: Its call flow.
        step: What the call flow asks for now.
        pending: What an attempt that was made already gave.
        enters: Whether a manager of a stream may be entered now.

    Returns:
        ``Done``; or ``Deliver`` and the stream; or ``Try`` and what the attempt gave, if that
        must be awaited, entered or iterated before the call can go on.
    """
    started = value = None
    try:
        while True:
            if type(step) is Try:
                step.has_begun = True
                try:
                    if call.hook is None:
                        value, kind, started = _make_attempt(call, step, pending, enters=enters)
                    else:
                        value, kind, started = _make_inside(call, step, pending, enters=enters)
                except BaseException as error:
                    pending = None
                    timed_out = issubclass(type(error), NoContentError)
                    cancelled = not timed_out and was_cut_off(error)
                    step = flow.send(
                        Reply(
                            runtime.clock(), error=error, timed_out=timed_out, cancelled=cancelled
                        )
                    )
                    if type(step) is Reraise:
                        raise
                    continue
                pending = None
                if started is None and (is_awaitable(value) or kind is not None):
                    step.has_begun = False
                    return step, value
                step = None  # type: ignore[assignment]  # a `reject` may raise
                try:
                    step = flow.send(reply_of(value, started))
                finally:
                    value = None
                    if started is not None and type(step) not in (Deliver, Done):
                        started.opened.abandon()
            elif type(step) is Deliver or type(step) is Done:
                return step, started
            elif type(step) is Raise:
                raise_from(step)
            elif type(step) is Wait:
                is_cut_off = wait(step)
                refuse_closed()
                step = flow.send(Reply(runtime.clock(), timed_out=is_cut_off))
    finally:
        step = pending = started = value = None  # type: ignore[assignment]  # no frame keeps them


def wait(step: Wait) -> bool:
    """Wait as the call flow asks: so many seconds, in the line of a limit, or for an answer.

    Returns:
        Whether the limit of a call around this one has ended the wait.
    """
    from resilient_llm._drive.limits_around import ends_around  # loaded with the first wait

    end = ends_around()
    seconds = step.seconds if end is None else min(step.seconds, end - runtime.clock())
    if end is not None and seconds <= 0.0 < step.seconds:
        return True
    if step.question is not None:
        from resilient_llm._drive.asking import wait_for_answer

        wait_for_answer(step.question, seconds)
    elif step.ticket is None:
        runtime.time.sleep(seconds)
    else:
        from resilient_llm._drive.lines import wait_in_line

        wait_in_line(step.ticket, seconds)
    return end is not None and runtime.clock() >= end


def _make_inside(
    call: Call, step: Try, pending: Any, *, enters: bool
) -> tuple[Any, ResultKind | None, StartedStream | None]:
    """Make one attempt inside the hook of its call."""
    hook = hook_of(call, step)
    entered = hook.enter()
    try:
        made = _make_attempt(call, step, pending, enters=enters)
    finally:
        hook.leave(entered)
    show_answer(hook, *made)
    return made


def hook_of(call: Call, step: Try) -> AttemptHook:
    """Return what is entered and left around an attempt of a call that has a hook."""
    if step.hook is None:
        assert call.hook is not None
        step.hook = call.hook.attempt(step.candidate.target, step.number)
    return step.hook


def show_answer(
    hook: AttemptHook, value: Any, kind: ResultKind | None, started: StartedStream | None
) -> None:
    """Let a hook look at what an attempt gave, if that is an answer or a begun stream."""
    if started is None:
        if kind is None and not is_awaitable(value):
            hook.answered(value)
    elif not started.opened.is_stream:
        hook.answered(started.opened.stream)
    else:
        hook.read(started.stream_state.held)


def _make_attempt(
    call: Call, step: Try, pending: Any, *, enters: bool
) -> tuple[Any, ResultKind | None, StartedStream | None]:
    """Make one attempt; return what it gave, the kind of that, and the stream if it is one.

    Raises:
        NoContentError: If a stream did not come to its first content in time.
    """
    if call.is_stream and step.limit is not None:
        with FirstContentTimeout(step) as limit:
            value = attempt(call, step) if pending is None else pending
            kind = kind_of(value)
            if kind is None and not is_awaitable(value):
                # A client may take the connection that was shut down for the end of the body.
                limit.check_cut_off()
            return value, kind, _started_stream(call, step, value, kind, limit, enters=enters)
    value = attempt(call, step) if pending is None else pending
    kind = kind_of(value)
    if kind is None:
        return value, None, None
    return value, kind, _started_stream(call, step, value, kind, None, enters=enters)


def _started_stream(
    call: Call,
    step: Try,
    value: Any,
    kind: ResultKind | None,
    limit: FirstContentTimeout | None,
    *,
    enters: bool,
) -> StartedStream | None:
    """Return a stream up to its first content; None if it is not a stream, or not open yet."""
    if kind is None or not (kind.items or (enters and kind.manager)):
        return None
    if kind.is_either and not enters and current_task() is not None:
        return None  # the consumer may read it either way
    if limit is not None or step.limit is None:
        return begin(call, step, value, kind, limit)
    with FirstContentTimeout(step) as limit:
        return begin(call, step, value, kind, limit)


def reply_of(value: Any, started: StartedStream | None) -> Reply:
    """Return the reply to the call flow about an attempt that raised nothing."""
    if started is None:
        return Reply(runtime.clock(), value)
    if not started.opened.is_stream:
        return Reply(runtime.clock(), started.opened.stream)
    return Reply(runtime.clock(), started.stream_state.first_content, stream=started.stream_state)


def attempt(call: Call, step: Try) -> Any:
    """Make one attempt, known to guards inside it as far as it matters to them."""
    if not step.permit.matters_inside:
        return step.candidate.invoke(step, call.args, call.kwargs)
    push_permit(step.permit)
    try:
        return step.candidate.invoke(step, call.args, call.kwargs)
    finally:
        pop_permit(step.permit)


def trim(error: BaseException) -> None:
    """Take the frames of the library that come first from the traceback of an error.

    All of them if the library has raised it; an error in the library itself keeps its frames.
    """
    first = step = traceback_of(error)
    while step is not None and is_ours(step.tb_frame):
        step = step.tb_next
    if step is not first and (step is not None or issubclass(type(error), ResilientLLMError)):
        with suppress(Exception):  # a foreign class
            error.__traceback__ = step


def raise_from(step: Raise) -> None:
    """Raise the error with which the call flow ends; no frame keeps it."""
    error, cause = step.error, step.cause
    step.error = step.cause = None
    assert error is not None
    try:
        if cause is None:
            raise error
        raise error from cause
    finally:
        error = cause = None
