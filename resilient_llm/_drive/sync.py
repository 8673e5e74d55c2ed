"""Does what the story asks, in synchronous code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._core.call.steps import Deliver, Done, LetThrough, Raise, Told, Try, Wait
from resilient_llm._core.circuit.permit import hold, let_go
from resilient_llm._drive.results import NoContentError, shape_of
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import Story
    from resilient_llm._core.call.steps import Step
    from resilient_llm._drive.results import Begun
    from resilient_llm._drive.streams import Watch


def drive(call: Call, steps: Story, step: Step, *, pending: Any = None) -> Any:
    """Drive a story from its present step to its end.

    Args:
        call: The call.
        steps: Its story.
        step: What the story asks for now.
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
    call: Call, steps: Story, step: Step, *, pending: Any = None, enters: bool = False
) -> tuple[Step, Any]:
    """Do what the story asks until the call has an answer, or its stream has begun.

    Args:
        call: The call.
        steps: Its story.
        step: What the story asks for now.
        pending: What an attempt that was made already gave.
        enters: Whether a manager of a stream may be entered now.

    Returns:
        ``Done``; or ``Deliver`` and the stream; or ``Try`` and what the attempt gave, if
        that is for somebody else to go on with.
    """
    begun = value = None
    try:
        while True:
            if type(step) is Try:
                try:
                    value, begun = _tried(call, step, pending, enters=enters)
                except BaseException as error:
                    pending = None
                    timed_out = isinstance(error, NoContentError)
                    step = steps.send(Told(runtime.clock(), error=error, timed_out=timed_out))
                    if type(step) is LetThrough:
                        raise
                    continue
                pending = None
                if begun is None and (is_awaitable(value) or shape_of(value) is not None):
                    return step, value
                step = None  # type: ignore[assignment]  # a `reject` may raise
                try:
                    step = steps.send(outcome(value, begun))
                finally:
                    value = None
                    if begun is not None and type(step) not in (Deliver, Done):
                        begun.opened.abandon()
            elif type(step) is Deliver or type(step) is Done:
                return step, begun
            elif type(step) is Raise:
                raise_from(step)
            elif type(step) is Wait:
                runtime.time.sleep(step.seconds)
                step = steps.send(Told(runtime.clock()))
    finally:
        step = pending = begun = value = None  # type: ignore[assignment]


def _tried(call: Call, step: Try, pending: Any, *, enters: bool) -> tuple[Any, Begun | None]:
    """Make one attempt; return what it gave, and the stream up to its first content if it is one.

    Raises:
        NoContentError: If a stream did not come to its first content in time.
    """
    if call.is_stream and step.limit is not None:
        from resilient_llm._drive.streams import Watch

        with Watch(step) as watch:
            value = attempt(call, step) if pending is None else pending
            return value, _begun(call, step, value, watch, enters=enters)
    value = attempt(call, step) if pending is None else pending
    return value, _begun(call, step, value, None, enters=enters)


def _begun(call: Call, step: Try, value: Any, watch: Watch | None, *, enters: bool) -> Begun | None:
    shape = shape_of(value)
    if shape is None or not (shape.items or (enters and shape.manager)):
        return None
    from resilient_llm._drive import streams

    if watch is not None or step.limit is None:
        return streams.begin(call, step, value, shape, watch)
    with streams.Watch(step) as watch:
        return streams.begin(call, step, value, shape, watch)


def outcome(value: Any, begun: Begun | None) -> Told:
    """Return what to tell of an attempt that raised nothing."""
    if begun is None:
        return Told(runtime.clock(), value)
    if not begun.opened.is_stream:
        return Told(runtime.clock(), begun.opened.stream)
    return Told(runtime.clock(), begun.intake.first, stream=begun.intake)


def _handed_over(call: Call, steps: Story, step: Step, given: Any) -> Any:
    """Let somebody else go on with a call: who awaits, enters or iterates what is returned."""
    if type(step) is Deliver:
        from resilient_llm._drive import streams

        return streams.present(streams.Flow(lambda: (call, steps, step, given)))
    if is_awaitable(given):
        from resilient_llm._drive import aio

        return aio.drive(call, steps, step, pending=given)
    shape = shape_of(given)
    assert shape is not None
    if shape.is_manager:
        from resilient_llm._drive import proxies

        return proxies.manager(call, steps, step, given)
    from resilient_llm._drive import astreams

    return astreams.present(astreams.Flow(lambda: (call, steps, step, given), given), given)


def is_awaitable(value: object) -> bool:
    """Return whether ``await`` takes it; a tenth of what ``inspect.isawaitable`` costs."""
    return hasattr(type(value), "__await__")


def attempt(call: Call, step: Try) -> Any:
    """Make one attempt, known to guards inside it if it holds a leased place."""
    places = step.permit.places
    if not places:
        return step.lane.invoke(step, call.args, call.kwargs)
    hold(places)
    try:
        return step.lane.invoke(step, call.args, call.kwargs)
    finally:
        let_go(places)


def raise_from(step: Raise) -> None:
    """Raise what the story ends with, leaving no frame that holds it."""
    error, cause = step.error, step.cause
    step.error = step.cause = None
    assert error is not None
    try:
        if cause is None:
            raise error
        raise error from cause
    finally:
        error = cause = None
