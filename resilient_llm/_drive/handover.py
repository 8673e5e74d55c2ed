"""Drives a call to its end, or hands it over to the consumer of its stream.

A function may give an answer, an awaitable, a stream or a manager of a stream. The caller gets
the answer itself, and of the others an object that goes on with the call when it is awaited,
iterated or entered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._core.call.steps import Deliver, Done
from resilient_llm._drive import sync
from resilient_llm._drive.results import is_awaitable, kind_of
from resilient_llm._runtime import call_ids
from resilient_llm._values.errors import ResilientLLMError

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.steps import Step
    from resilient_llm._drive.session import Suspended


def drive(call: Call, flow: CallFlow, step: Step, *, pending: Any = None) -> Any:
    """Drive a call flow from its present step to its end, in synchronous code.

    Args:
        call: The call.
        flow: Its call flow.
        step: What the call flow asks for now.
        pending: What an attempt that was made already gave, if that may be a stream.

    Returns:
        The answer; an awaitable of it if the function turns out to give awaitables; the
        guarded stream, or its manager, if it gives such.
    """
    is_ours, hook, token = True, None, None
    try:
        if call.hook is not None:
            token = call.hook.enter()
            hook = call.hook
        step, given = sync.advance(call, flow, step, pending=pending)
        if type(step) is Done:
            next(flow, None)  # it is over: to close it would send an exception through it
            return step.value
        is_ours = False
        return _handed_over(call, flow, step, given)
    except ResilientLLMError as error:
        sync.trim(error)
        raise
    finally:
        # An object that an error's traceback can reach must not hold the error.
        step = given = pending = None  # type: ignore[assignment]  # as just said
        if hook is not None:
            hook.leave(token)
        if is_ours:
            flow.close()
            call.clear()


async def adrive(call: Call, flow: CallFlow, step: Step, *, pending: Any = None) -> Any:
    """Drive a call flow from its present step to its end, in asynchronous code.

    Args:
        call: The call.
        flow: Its call flow.
        step: What the call flow asks for now.
        pending: What an attempt that was made already gave: an awaitable, or a stream.

    Returns:
        The answer; the guarded stream, or its manager, if the function gives such.
    """
    from resilient_llm._drive import aio  # loaded with the first asynchronous call

    is_ours, hook, token = True, None, None
    entered = call_ids.enter(call.tag.call_id) if call_ids.switch.is_on else None
    try:
        if call.hook is not None:
            token = call.hook.enter()
            hook = call.hook
        step, given = await aio.advance(call, flow, step, pending=pending)
        if type(step) is Done:
            next(flow, None)  # as in `drive`
            return step.value
        is_ours = False
        return await _ahanded_over(call, flow, step, given)
    except ResilientLLMError as error:
        sync.trim(error)
        raise
    finally:
        if entered is not None:
            call_ids.leave(entered)
        # An object that an error's traceback can reach must not hold the error.
        step = given = pending = None  # type: ignore[assignment]  # as just said
        if hook is not None:
            hook.leave(token)
        if is_ours:
            flow.close()
            call.clear()


def _handed_over(call: Call, flow: CallFlow, step: Step, given: Any) -> Any:
    """Return what goes on with a call when it is awaited, entered or iterated."""
    if type(step) is not Deliver and is_awaitable(given):
        return adrive(call, flow, step, pending=given)
    from resilient_llm._drive.session import Suspended  # loaded with the first stream

    suspended = Suspended(call, flow, step, given)
    if type(step) is Deliver:
        return _delivered(suspended)
    kind = kind_of(given)
    assert kind is not None
    if kind.is_manager:
        return _managed(suspended)
    if kind.is_either:
        from resilient_llm._drive import proxies  # loads wrapt

        return proxies.EitherStream(given, lambda is_async: _started(suspended, is_async))
    return _started(suspended, True)


def _started(suspended: Suspended, is_async: bool) -> Any:
    """Return what the consumer gets of a stream that it has begun to read."""
    if not is_async:
        from resilient_llm._drive import streams  # loaded with the first stream

        session = streams.StreamSession(suspended)
        return session.present(suspended.given)
    from resilient_llm._drive import astreams  # loads anyio

    return astreams.StreamSession(suspended, suspended.given).present(suspended.given)


async def _ahanded_over(call: Call, flow: CallFlow, step: Step, given: Any) -> Any:
    """Return what goes on with a call when it is entered or iterated."""
    from resilient_llm._drive.session import Suspended  # loaded with the first stream

    suspended = Suspended(call, flow, step, given)
    if type(step) is not Deliver:
        return _managed(suspended)
    if not given.opened.io.is_async:
        return _delivered(suspended)
    from resilient_llm._drive import astreams  # loads anyio

    return await astreams.StreamSession(suspended).apresent()


def _delivered(suspended: Suspended) -> Any:
    """Return what the consumer gets of a synchronous stream that has begun."""
    from resilient_llm._drive import streams  # loaded with the first stream

    session = streams.StreamSession(suspended)
    started = session.started()
    assert started is not None
    return session.present(started.opened.stream)


def _managed(suspended: Suspended) -> Any:
    """Return what the consumer gets of a manager of a stream."""
    from resilient_llm._drive import managers  # loads wrapt

    return managers.Manager(suspended)
