"""Does what the call flow asks, in asynchronous code: asyncio and trio, through anyio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._core.call.steps import Deliver, Done, Raise, Reply, Reraise, Try, Wait
from resilient_llm._core.circuit.permit import pop_leases, push_leases
from resilient_llm._drive.results import kind_of
from resilient_llm._drive.sync import is_awaitable, outcome, raise_from
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.steps import Step
    from resilient_llm._drive.results import StartedStream
    from resilient_llm._runtime.clock import CancelScope

CUT_OFF: Any = object()
"""Stands for an answer that did not come within its limit."""


def no_answer(limit: float) -> TimeoutError:
    """Return the error of an attempt that was cut off."""
    return TimeoutError(f"no answer within {limit:.3g} s")


async def drive(call: Call, steps: CallFlow, step: Step, *, pending: Any = None) -> Any:
    """Drive a call flow from its present step to its end.

    Args:
        call: The call.
        steps: Its call flow.
        step: What the call flow asks for now.
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
        ``Done``; or ``Deliver`` and the stream; or ``Try`` and the manager that somebody
        else is to enter.
    """
    started = value = None
    try:
        while True:
            if type(step) is Try:
                limit = _Limit(call, step, pending)
                try:
                    value, started = await limit.tried(pending, enters=enters)
                except BaseException as error:
                    pending = None
                    timed_out = limit.is_over and isinstance(error, Exception)
                    step = steps.send(Reply(runtime.clock(), error=error, timed_out=timed_out))
                    if type(step) is Reraise:
                        raise
                    continue
                pending = None
                if started is None and kind_of(value) is not None:
                    return step, value
                step = None  # type: ignore[assignment]  # a `reject` may raise
                try:
                    step = steps.send(outcome(value, started))
                finally:
                    value = None
                    if started is not None and type(step) not in (Deliver, Done):
                        await abandon(started)
            elif type(step) is Deliver or type(step) is Done:
                return step, started
            elif type(step) is Raise:
                raise_from(step)
            elif type(step) is Wait:
                await runtime.time.asleep(step.seconds)
                step = steps.send(Reply(runtime.clock()))
    finally:
        step = limit = pending = started = value = None  # type: ignore[assignment]


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

    async def tried(self, pending: Any, *, enters: bool) -> tuple[Any, StartedStream | None]:
        """Make the attempt; return what it gave, and the stream up to its first content if it is one.

        Raises:
            TimeoutError: If it was cut off.
        """
        if self._left is None:
            value = await _attempt(self._call, self._step, pending)
            return value, await _started_stream(self._call, self._step, value, enters=enters)
        value, started = CUT_OFF, None
        scope: CancelScope | None = None
        try:
            with runtime.time.cancel_after(self._left) as scope:
                given = await _attempt(self._call, self._step, pending)
                started = await _started_stream(self._call, self._step, given, enters=enters)
                value = given
        finally:
            self.is_over = scope is not None and scope.cancel_called
        if value is CUT_OFF:
            assert self._step.limit is not None
            raise no_answer(self._step.limit)
        return value, started


async def _attempt(call: Call, step: Try, pending: Any) -> Any:
    """Make one attempt, known to guards inside it if it holds a leased place."""
    leases = step.permit.leases
    if not leases:
        value = step.candidate.invoke(step, call.args, call.kwargs) if pending is None else pending
        return await value if is_awaitable(value) else value
    push_leases(leases)
    try:
        value = step.candidate.invoke(step, call.args, call.kwargs) if pending is None else pending
        return await value if is_awaitable(value) else value
    finally:
        pop_leases(leases)


async def _started_stream(
    call: Call, step: Try, value: Any, *, enters: bool
) -> StartedStream | None:
    """Return a stream up to its first content; None if it is none, or a manager that is not to be entered yet."""
    kind = kind_of(value)
    if kind is None or (kind.is_manager and not enters):
        return None
    from resilient_llm._drive import astreams, streams

    if kind.async_items or kind.async_manager:
        return await astreams.begin(call, step, value, kind)
    return streams.begin(
        call, step, value, kind, None
    )  # what blocks in an async function is its own affair


async def abandon(started: Any) -> None:
    """Close a stream whatever comes of that, since the call has moved on."""
    closing = started.opened.abandon()
    if is_awaitable(closing):
        await closing


async def _handed_over(call: Call, steps: CallFlow, step: Step, given: Any) -> Any:
    """Let whoever enters or iterates what is returned go on with a call."""
    if type(step) is Deliver:
        from resilient_llm._drive import astreams, streams

        if isinstance(given.opened, streams.OpenStream):
            return streams.present(streams.StreamSession(lambda: (call, steps, step, given)))
        return await astreams.present_when_started(
            astreams.StreamSession(lambda: (call, steps, step, given))
        )
    from resilient_llm._drive import proxies

    return proxies.manager(call, steps, step, given)
