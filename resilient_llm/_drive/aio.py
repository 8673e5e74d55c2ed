"""Does what the story asks, in asynchronous code: asyncio and trio, through anyio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._core.permit import hold, let_go
from resilient_llm._core.steps import Done, LetThrough, Raise, Told, Try, Wait
from resilient_llm._drive.sync import is_awaitable, raise_from, refuse_stream
from resilient_llm._runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from resilient_llm._core.call import Call
    from resilient_llm._core.steps import Step
    from resilient_llm._core.story import Story
    from resilient_llm._runtime import CancelScope

CUT_OFF: Any = object()
"""Stands for an answer that did not come within its limit."""


def no_answer(limit: float) -> TimeoutError:
    """Return the error of an attempt that was cut off."""
    return TimeoutError(f"no answer within {limit:.3g} s")


async def drive(call: Call, steps: Story, step: Step, *, pending: Awaitable[Any] | None = None) -> Any:
    """Drive a story from its present step to its end; return the answer.

    Args:
        call: The call.
        steps: Its story.
        step: What the story asks for now.
        pending: The awaitable of an attempt that was started already.
    """
    scope: CancelScope | None = None
    try:
        while True:
            if type(step) is Try:
                scope = None
                try:
                    if step.limit is None:
                        value = await _attempt(call, step, pending)
                    else:
                        value = CUT_OFF
                        with runtime.time.cancel_after(step.limit) as scope:
                            value = await _attempt(call, step, pending)
                        if value is CUT_OFF:
                            raise no_answer(step.limit)
                    refuse_stream(value)
                except BaseException as error:
                    pending = None
                    timed_out = scope is not None and scope.cancel_called and isinstance(error, Exception)
                    step = steps.send(Told(runtime.clock(), error=error, timed_out=timed_out))
                    if type(step) is LetThrough:
                        raise
                    continue
                pending = None
                step = steps.send(Told(runtime.clock(), value))
            elif type(step) is Done:
                return step.value
            elif type(step) is Raise:
                raise_from(step)
            elif type(step) is Wait:
                await runtime.time.asleep(step.seconds)
                step = steps.send(Told(runtime.clock()))
    finally:
        # What an error's traceback can reach must not hold the error.
        step = scope = pending = None  # type: ignore[assignment]
        steps.close()
        call.clear()


async def _attempt(call: Call, step: Try, pending: Awaitable[Any] | None) -> Any:
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
