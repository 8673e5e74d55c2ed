"""The loop form: ``for attempt in policy: with attempt as target: …``, and its async twin.

The body of the loop is the attempt. Leaving the body sends its outcome to the call flow; the
next iteration does what the call flow asks for, waits included.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from resilient_llm._binding.first_attempt import FirstAttempt
from resilient_llm._core.call.call_flow import call_flow
from resilient_llm._core.call.steps import (
    NO_ANSWER,
    RERAISE,
    Done,
    Raise,
    Reply,
    Reraise,
    Try,
    Wait,
)
from resilient_llm._core.circuit.permit import pop_permit, push_permit
from resilient_llm._drive.aio import await_
from resilient_llm._drive.cancellation import cancellations, was_cancelled
from resilient_llm._drive.sync import raise_from, trim, wait
from resilient_llm._runtime import call_ids
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from types import TracebackType

    from resilient_llm._binding.caller import Caller
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.hooks import AttemptHook
    from resilient_llm._core.call.steps import Step
    from resilient_llm._drive.attempting import TimeLimit
    from resilient_llm._runtime.call_ids import Entered
    from resilient_llm._values.target import Target


class LoopAttempt:
    """One attempt of a loop; entered with ``with`` or ``async with``, which gives its target.

    Attributes:
        target: The target to call.
        number: Number within the target, from 1.
        remaining: Seconds left for this attempt when it began, or None.
        call_id: Name of the call, the same in its events.
        result: Set it to the answer, which may be None, to have ``reject`` look at it.
    """

    def __init__(self, attempts: _Attempts, step: Try | FirstAttempt) -> None:
        self.target: Target = step.candidate.target
        self.number = step.number
        self.remaining = step.limit
        self.call_id = step.call_id
        self._result: Any = NO_ANSWER
        # Until it is left: what the user's frame keeps must not keep the call and its errors.
        self._attempts: _Attempts | None = attempts
        # The healthy path admits a first attempt without any lease.
        self._step = step if type(step) is Try else None
        self._permit = None if self._step is None else self._step.permit
        self.cancelled_before = None if self._permit is None else attempts.cancellations()
        self._limit: TimeLimit | None = None
        self._entered: Entered | None = None
        self._hook: AttemptHook | None = None
        self._token: Any = None

    @property
    def result(self) -> Any:
        """The answer that was set, or None."""
        return None if self._result is NO_ANSWER else self._result

    @result.setter
    def result(self, answer: Any) -> None:
        self._result = answer

    def take_result(self) -> Any:
        """Return the answer, or that none was set, and drop it."""
        answer, self._result = self._result, NO_ANSWER
        return answer

    def __enter__(self) -> Target:
        if self._attempts is None or not self._attempts.is_open(self):
            raise RuntimeError("this attempt is over: enter each attempt of the loop once")
        if self._step is not None:
            self._step.has_begun = True
        else:
            self._attempts.begin_first()
        if self._permit is not None:
            push_permit(self._permit)
        if call_ids.switch.is_on and self.call_id:
            self._entered = call_ids.enter(self.call_id)
        try:
            hook = self._attempts.hook_of(self)
            if hook is not None:
                self._token = hook.enter()
                self._hook = hook
        except BaseException as error:  # Python does not leave a block that was not entered
            self._not_entered(error)
            raise
        return self.target

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._leave_hook()
        return self._leave(error, timed_out=False)

    async def __aenter__(self) -> Target:
        target = self.__enter__()
        if self.remaining is not None:
            from resilient_llm._drive.attempting import TimeLimit

            self._limit = TimeLimit(self.remaining)
            self._limit.__enter__()
        return target

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._leave_hook()
        limit, self._limit = self._limit, None
        if limit is None:
            return self._leave(error, timed_out=False)
        if self.cancelled_before is None:
            self.cancelled_before = limit.counted_before
        if limit.__exit__(error_type, error, traceback):
            self._leave(limit.error(), timed_out=True)
            return True
        timed_out = limit.ended_it and issubclass(type(error), Exception)
        return self._leave(error, timed_out=timed_out, still_counted=limit.still_counted)

    def _not_entered(self, error: BaseException) -> None:
        if self._permit is not None:
            pop_permit(self._permit)
        self._leave(error, timed_out=False)

    def _leave_hook(self) -> None:
        if self._permit is not None:
            pop_permit(self._permit)
        hook, self._hook = self._hook, None
        if hook is None:
            return
        token, self._token = self._token, None
        try:
            hook.leave(token)
            if self._result is not NO_ANSWER:
                hook.answered(self._result)
        except BaseException as error:
            self._leave(error, timed_out=False)
            raise

    def _leave(
        self, error: BaseException | None, *, timed_out: bool, still_counted: int = 0
    ) -> bool:
        """Send the outcome to the call, and let go of it; return whether to suppress the error."""
        attempts, self._attempts = self._attempts, None
        assert attempts is not None
        try:
            return attempts.left(self, error, timed_out=timed_out, still_counted=still_counted)
        finally:
            if self._entered is not None:
                call_ids.leave(self._entered)


class _Attempts:
    """One call made by a loop."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._first: FirstAttempt | None = caller.begin(None, {})
        if self._first.entered is not None:  # what belongs to the call are the blocks of the loop
            call_ids.leave(self._first.entered)
        self._call: Call | None = None
        self._steps: CallFlow | None = None
        if self._first.generation is None:
            self._call = caller.new_call((), self._first)
            self._steps = call_flow(self._call, runtime.clock())
            self._first = None
        self._step: Step | FirstAttempt | None = None
        self._begun = False
        # Weakly: a strong reference would be a cycle, so a loop that is left early would keep its
        # lease until the garbage collector runs.
        self._open: weakref.ref[LoopAttempt] | None = None

    def is_open(self, attempt: LoopAttempt) -> bool:
        return self._open is not None and self._open() is attempt

    def begin_first(self) -> None:
        """Count that the first attempt begins, if its call is counted."""
        if self._first is not None:
            self._first.count_begin()

    def hook_of(self, attempt: LoopAttempt) -> AttemptHook | None:
        """Return what is entered and left with an attempt, if a hook is installed."""
        if self._call is None:
            return None if self._first is None else self._first.begin_inside()
        hook = self._call.hook
        return None if hook is None else hook.attempt(attempt.target, attempt.number)

    def cancellations(self) -> int | None:
        """Return how often the task was cancelled before an attempt; None before the first."""
        return cancellations() if self._call is not None and self._call.attempts else None

    def left(
        self,
        attempt: LoopAttempt,
        error: BaseException | None,
        *,
        timed_out: bool,
        still_counted: int = 0,
    ) -> bool:
        """Send the outcome of an attempt to the call flow; return whether to suppress the error.

        Args:
            attempt: The attempt.
            error: What its block raised, or None.
            timed_out: Whether it was cut off at its limit.
            still_counted: Cancellations of that limit that asyncio still counts.
        """
        self._open = None
        result = attempt.take_result()
        cancelled = error is not None and was_cancelled(
            error, attempt.cancelled_before, own=still_counted
        )
        if self._steps is None:
            self._step = self._first_left(result, error, timed_out=timed_out, cancelled=cancelled)
        elif error is None:
            self._step = self._steps.send(Reply(runtime.clock(), result))
        else:
            self._step = self._steps.send(
                Reply(runtime.clock(), error=error, timed_out=timed_out, cancelled=cancelled)
            )
        if type(self._step) is Done:  # the loop may be left without asking for another attempt
            self._end()
        if error is None:
            return False
        if type(self._step) is Reraise:
            self._end()
            if timed_out:
                raise error
            return False
        return True

    def _first_left(
        self, result: Any, error: BaseException | None, *, timed_out: bool, cancelled: bool
    ) -> Step:
        """Report a first attempt that was made without the call flow, and go on with that."""
        first, self._first = self._first, None
        assert first is not None
        pending = self._caller.left(first, result, error, timed_out=timed_out, cancelled=cancelled)
        if pending is None:
            return Done(None) if error is None else RERAISE
        self._call, self._steps = pending.call, pending.flow
        assert pending.step is not None
        return pending.step

    def next_step(self) -> Step | FirstAttempt:
        """Return what the call flow asks for now; ends the loop when the call is over."""
        if self._open is not None:
            self._open = None
            self._end()
            raise RuntimeError(
                "an attempt was not entered: write `with attempt as target:` in the loop"
            )
        if not self._begun:
            self._begun = True
            self._step = self._first if self._steps is None else next(self._steps)
        step, self._step = self._step, None
        if type(step) is Raise:
            self._end()
            try:
                raise_from(step)
            except Exception as error:
                trim(error)
                raise
            finally:
                step = None
        assert step is not None
        return step

    def attempt(self, step: Try | FirstAttempt) -> LoopAttempt:
        attempt = LoopAttempt(self, step)
        self._open = weakref.ref(attempt)
        return attempt

    def waited(self, *, is_cut_off: bool = False) -> None:
        assert self._steps is not None
        self._step = self._steps.send(Reply(runtime.clock(), timed_out=is_cut_off))

    def is_over(self) -> bool:
        return (
            self._begun
            and (self._step is None or type(self._step) in (Done, Reraise))
            and self._open is None
        )

    def _end(self) -> None:
        if self._steps is not None and self._call is not None:
            self._steps.close()
            self._call.clear()

    def finish(self) -> None:
        self._step = None
        self._end()


class SyncAttempts(_Attempts):
    """The attempts of one call, for ``for``."""

    def __iter__(self) -> SyncAttempts:
        return self

    def __next__(self) -> LoopAttempt:
        while not self.is_over():
            step = self.next_step()
            if isinstance(step, (Try, FirstAttempt)):
                return self.attempt(step)
            if type(step) is Wait:
                self.waited(is_cut_off=wait(step))
        self.finish()
        raise StopIteration


class AsyncAttempts(_Attempts):
    """The attempts of one call, for ``async for``."""

    def __aiter__(self) -> AsyncAttempts:
        return self

    async def __anext__(self) -> LoopAttempt:
        while not self.is_over():
            step = self.next_step()
            if isinstance(step, (Try, FirstAttempt)):
                return self.attempt(step)
            if type(step) is Wait:
                await await_(step)
                self.waited()
        self.finish()
        raise StopAsyncIteration
