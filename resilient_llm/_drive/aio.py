"""Does what the story asks, in asynchronous code: asyncio and trio, through anyio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._core.call.steps import Deliver, Done, LetThrough, Raise, Told, Try, Wait
from resilient_llm._core.circuit.permit import hold, let_go
from resilient_llm._drive.results import shape_of
from resilient_llm._drive.sync import is_awaitable, outcome, raise_from
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import Story
    from resilient_llm._core.call.steps import Step
    from resilient_llm._drive.results import Begun
    from resilient_llm._runtime.clock import CancelScope

CUT_OFF: Any = object()
"""Stands for an answer that did not come within its limit."""


def no_answer(limit: float) -> TimeoutError:
    """Return the error of an attempt that was cut off."""
    return TimeoutError(f"no answer within {limit:.3g} s")


async def drive(call: Call, steps: Story, step: Step, *, pending: Any = None) -> Any:
    """Drive a story from its present step to its end.

    Args:
        call: The call.
        steps: Its story.
        step: What the story asks for now.
        pending: What an attempt that was made already gave: an awaitable, or a stream.

    Returns:
        The answer; the guarded stream, or its manager, if the function gives such.
    """
    is_ours = True
    try:
        step, given = await advance(call, steps, step, pending=pending)
        if type(step) is Done:
            return step.value
        is_ours = False
        return await _handed_over(call, steps, step, given)
    finally:
        # What an error's traceback can reach must not hold the error.
        step = given = pending = None  # type: ignore[assignment]
        if is_ours:
            steps.close()
            call.clear()


async def advance(
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
        ``Done``; or ``Deliver`` and the stream; or ``Try`` and the manager that somebody
        else is to enter.
    """
    begun = value = None
    try:
        while True:
            if type(step) is Try:
                limit = _Limit(call, step, pending)
                try:
                    value, begun = await limit.tried(pending, enters=enters)
                except BaseException as error:
                    pending = None
                    timed_out = limit.is_over and isinstance(error, Exception)
                    step = steps.send(Told(runtime.clock(), error=error, timed_out=timed_out))
                    if type(step) is LetThrough:
                        raise
                    continue
                pending = None
                if begun is None and shape_of(value) is not None:
                    return step, value
                step = None  # type: ignore[assignment]  # a `reject` may raise
                try:
                    step = steps.send(outcome(value, begun))
                finally:
                    value = None
                    if begun is not None and type(step) not in (Deliver, Done):
                        await abandon(begun)
            elif type(step) is Deliver or type(step) is Done:
                return step, begun
            elif type(step) is Raise:
                raise_from(step)
            elif type(step) is Wait:
                await runtime.time.asleep(step.seconds)
                step = steps.send(Told(runtime.clock()))
    finally:
        step = limit = pending = begun = value = None  # type: ignore[assignment]


class _Limit:
    """One attempt within its limit."""

    __slots__ = ("_call", "_left", "_step", "is_over")

    def __init__(self, call: Call, step: Try, pending: Any) -> None:
        self._call = call
        self._step = step
        self._left = step.limit
        if self._left is not None and pending is not None:  # it began before we came
            self._left = max(0.0, self._left - (runtime.clock() - step.permit.entered_at))
        self.is_over = False
        """Whether it was cut off."""

    async def tried(self, pending: Any, *, enters: bool) -> tuple[Any, Begun | None]:
        """Make the attempt; return what it gave, and the stream up to its first content if it is one.

        Raises:
            TimeoutError: If it was cut off.
        """
        if self._left is None:
            value = await _attempt(self._call, self._step, pending)
            return value, await _begun(self._call, self._step, value, enters=enters)
        value, begun = CUT_OFF, None
        scope: CancelScope | None = None
        try:
            with runtime.time.cancel_after(self._left) as scope:
                given = await _attempt(self._call, self._step, pending)
                begun = await _begun(self._call, self._step, given, enters=enters)
                value = given
        finally:
            self.is_over = scope is not None and scope.cancel_called
        if value is CUT_OFF:
            assert self._step.limit is not None
            raise no_answer(self._step.limit)
        return value, begun


async def _attempt(call: Call, step: Try, pending: Any) -> Any:
    """Make one attempt, known to guards inside it if it holds a leased place."""
    places = step.permit.places
    if not places:
        value = step.lane.invoke(step, call.args, call.kwargs) if pending is None else pending
        return await value if is_awaitable(value) else value
    hold(places)
    try:
        value = step.lane.invoke(step, call.args, call.kwargs) if pending is None else pending
        return await value if is_awaitable(value) else value
    finally:
        let_go(places)


async def _begun(call: Call, step: Try, value: Any, *, enters: bool) -> Begun | None:
    """Return a stream up to its first content; None if it is none, or a manager that is not to be entered yet."""
    shape = shape_of(value)
    if shape is None or (shape.is_manager and not enters):
        return None
    from resilient_llm._drive import astreams, streams

    if shape.async_items or shape.async_manager:
        return await astreams.begin(call, step, value, shape)
    return streams.begin(
        call, step, value, shape, None
    )  # what blocks in an async function is its own affair


async def abandon(begun: Any) -> None:
    """Close a stream whatever comes of that, since the call has moved on."""
    closing = begun.opened.abandon()
    if is_awaitable(closing):
        await closing


async def _handed_over(call: Call, steps: Story, step: Step, given: Any) -> Any:
    """Let whoever enters or iterates what is returned go on with a call."""
    if type(step) is Deliver:
        from resilient_llm._drive import astreams, streams

        if isinstance(given.opened, streams.Opened):
            return streams.present(streams.Flow(lambda: (call, steps, step, given)))
        return await astreams.started(astreams.Flow(lambda: (call, steps, step, given)))
    from resilient_llm._drive import proxies

    return proxies.manager(call, steps, step, given)
