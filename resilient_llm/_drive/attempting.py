"""One asynchronous attempt, cut off at its limit; the same on asyncio and trio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._core.circuit.permit import pop_permit, push_permit
from resilient_llm._drive.cancellation import comes_of_a_cancellation
from resilient_llm._drive.opening import begin
from resilient_llm._drive.results import is_awaitable, kind_of, refuse_unawaited
from resilient_llm._drive.sync import hook_of, show_answer
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from types import TracebackType

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.steps import Try
    from resilient_llm._drive.opening import StartedStream
    from resilient_llm._drive.results import ResultKind
    from resilient_llm._runtime.clock import CancelScope


CUT_OFF: Any = object()
"""Stands for the item of a stream whose wait was cut off at its limit."""


class TimeLimit:
    """Cuts an attempt off at its limit; ``with limit: …`` and then ``limit.check()``."""

    __slots__ = ("_limit", "_manager", "_scope", "ended_it", "still_counted", "was_cut_off")

    def __init__(self, limit: float, left: float | None = None) -> None:
        """Take the seconds of the limit, and those that are left of it now."""
        self._limit = limit
        self._manager = runtime.time.cancel_after(limit if left is None else left)
        self._scope: CancelScope | None = None
        self.was_cut_off = False
        """Whether the attempt ended in the cancellation, which went no further."""
        self.ended_it = False
        """Whether the attempt ended by the limit, whatever it made of the cancellation."""
        self.still_counted = 0
        """Cancellations of the limit that asyncio still counts after it."""

    @property
    def counted_before(self) -> int | None:
        """How often the task was cancelled before the attempt; None where nothing counts that."""
        return getattr(self._scope, "counted_before", None)

    @property
    def is_over(self) -> bool:
        """Whether the limit has passed, whatever came of that."""
        return self._scope is not None and self._scope.cancel_called

    def error(self) -> TimeoutError:
        return TimeoutError(f"no answer within {self._limit:.3g} s")

    def check(self) -> None:
        """Raise a `TimeoutError` if the attempt was cut off.

        Not from ``__exit__``: the error would keep the cancellation, and so the attempt's frames.
        """
        if self.was_cut_off:
            raise self.error()

    def __enter__(self) -> None:
        self._scope = self._manager.__enter__()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        swallows = self._manager.__exit__(error_type, error, traceback)
        # Older versions of anyio do not take them back where the client raised something else.
        self.still_counted = getattr(self._scope, "_cancel_calls", 0)
        # A scope of trio swallows also where there is nothing to swallow.
        self.was_cut_off = bool(swallows) and error is not None
        self.ended_it = self.was_cut_off or (
            error is not None and self.is_over and comes_of_a_cancellation(error)
        )
        return self.was_cut_off


class TimedAttempt:
    """One attempt, cut off at its limit if it has one."""

    __slots__ = ("_call", "_left", "_step", "counted_before", "is_cut_off", "still_counted")

    def __init__(self, call: Call, step: Try, pending: Any) -> None:
        self._call = call
        self._step = step
        self._left = step.limit
        if self._left is not None and pending is not None:  # some of the time is used up
            self._left = max(0.0, self._left - (runtime.clock() - step.permit.entered_at))
        self.is_cut_off = False
        """Whether it was cut off."""
        self.still_counted = 0
        """Cancellations of its limit that asyncio still counts; see `TimeLimit`."""
        self.counted_before: int | None = None
        """How often the task was cancelled before; None without a limit."""

    async def make_inside(
        self, pending: Any, *, enters: bool
    ) -> tuple[Any, ResultKind | None, StartedStream | None]:
        """Make the attempt inside the hook of its call."""
        hook = hook_of(self._call, self._step)
        entered = hook.enter()
        try:
            made = await self.make(pending, enters=enters)
        finally:
            hook.leave(entered)
        show_answer(hook, *made)
        return made

    async def make(
        self, pending: Any, *, enters: bool
    ) -> tuple[Any, ResultKind | None, StartedStream | None]:
        """Make the attempt; return what it gave, the kind of that, and the stream if it is one.

        Raises:
            TimeoutError: If it was cut off.
        """
        if self._left is None:
            value = await _attempt(self._call, self._step, pending)
            kind = _kind_of_answer(value, self._step)
            started = await _started_stream(self._call, self._step, value, kind, enters=enters)
            return value, kind, started
        value = kind = started = None
        assert self._step.limit is not None
        limit = TimeLimit(self._step.limit, self._left)
        try:
            with limit:
                value = await _attempt(self._call, self._step, pending)
                kind = _kind_of_answer(value, self._step)
                started = await _started_stream(self._call, self._step, value, kind, enters=enters)
        finally:
            self.is_cut_off, self.still_counted = limit.ended_it, limit.still_counted
            self.counted_before = limit.counted_before
        limit.check()
        if started is not None and limit.is_over and _ended_empty(started):
            # A generator caught the cancellation and returned.
            self.is_cut_off = True
            raise limit.error()
        return value, kind, started


def _ended_empty(started: StartedStream) -> bool:
    return started.is_over and not started.stream_state.has_content


def _kind_of_answer(value: Any, step: Try) -> ResultKind | None:
    kind = kind_of(value)
    if kind is None:
        refuse_unawaited(value, step.candidate.target.key)
    return kind


async def _attempt(call: Call, step: Try, pending: Any) -> Any:
    """Make one attempt, known to guards inside it as far as it matters to them."""
    if not step.permit.matters_inside:
        value = step.candidate.invoke(step, call.args, call.kwargs) if pending is None else pending
        return await value if is_awaitable(value) else value
    push_permit(step.permit)
    try:
        value = step.candidate.invoke(step, call.args, call.kwargs) if pending is None else pending
        return await value if is_awaitable(value) else value
    finally:
        pop_permit(step.permit)


async def _started_stream(
    call: Call, step: Try, value: Any, kind: ResultKind | None, *, enters: bool
) -> StartedStream | None:
    """Return a stream up to its first content; None if it is not a stream, or not open yet."""
    if kind is None or (kind.is_manager and not enters):
        return None
    if kind.async_items or kind.async_manager:
        from resilient_llm._drive import aopening  # loads anyio

        return await aopening.begin(call, step, value, kind)
    # An asynchronous function that gives a synchronous stream chose to block the loop.
    return begin(call, step, value, kind, None)
