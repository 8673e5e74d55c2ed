"""The asynchronous driver: the same for asyncio and trio, through anyio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._core.call.steps import Deliver, Done, Raise, Reply, Reraise, Try, Wait
from resilient_llm._drive.attempting import TimedAttempt
from resilient_llm._drive.cancellation import cancellations, was_cancelled
from resilient_llm._drive.sync import raise_from, reply_of
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.time_limit import is_trio

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.steps import Step


async def advance(
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
        ``Done``; or ``Deliver`` and the stream; or ``Try`` and the manager that must be
        entered before the call can go on.
    """
    given = None
    try:
        while True:
            if type(step) is Try and step.hedge_after is not None:
                step, given = await _race(call, flow, step, pending, enters=enters)
            else:
                step, given = await _advance(call, flow, step, pending, enters=enters)
            pending = None
            if given is not None or type(step) is Deliver or type(step) is Done:
                return step, given
    finally:
        step = pending = given = None  # type: ignore[assignment]  # no frame keeps them


async def _advance(
    call: Call, flow: CallFlow, step: Step, pending: Any, *, enters: bool
) -> tuple[Step, Any]:
    """Do the same until an attempt is asked for that others may run beside."""
    started = value = None
    try:
        while True:
            if type(step) is Try and step.hedge_after is None:
                step.has_begun = True
                attempt = TimedAttempt(call, step, pending)
                # Not of an attempt that was begun before.
                before = cancellations() if pending is None else None
                try:
                    if call.hook is None:
                        value, kind, started = await attempt.make(pending, enters=enters)
                    else:
                        value, kind, started = await attempt.make_inside(pending, enters=enters)
                except BaseException as error:
                    pending = None
                    timed_out = attempt.is_cut_off and issubclass(type(error), Exception)
                    if before is None:
                        before = attempt.counted_before
                    cancelled = was_cancelled(
                        error,
                        before,
                        own=attempt.still_counted,
                        since=step.permit.entered_at,
                    )
                    step = flow.send(
                        Reply(
                            runtime.clock(), error=error, timed_out=timed_out, cancelled=cancelled
                        )
                    )
                    if type(step) is Reraise:
                        raise
                    continue
                pending = None
                if started is None and kind is not None:
                    step.has_begun = False
                    return step, value
                step = None  # type: ignore[assignment]  # a `reject` may raise
                try:
                    step = flow.send(reply_of(value, started))
                finally:
                    value = None
                    if started is not None and type(step) not in (Deliver, Done):
                        await started.opened.aabandon()
            elif type(step) is Raise:
                raise_from(step)
            elif type(step) is Wait:
                await await_(step)
                step = flow.send(Reply(runtime.clock()))
            else:
                return step, started
    finally:
        # No frame keeps them.
        step = attempt = pending = started = value = None  # type: ignore[assignment]  # as above


async def await_(step: Wait) -> None:
    """Wait as the call flow asks: so many seconds, in the line of a limit, or for an answer."""
    if step.question is not None:
        from resilient_llm._drive.asking import await_answer

        await await_answer(step.question, step.seconds)
        return
    if step.ticket is None:
        await runtime.time.asleep(step.seconds)
        return
    from resilient_llm._drive.lines import await_in_line  # loaded with the first

    await await_in_line(step.ticket, step.seconds)


async def _race(
    call: Call, flow: CallFlow, trial: Try, pending: Any, *, enters: bool
) -> tuple[Step, Any]:
    """Make an attempt, and the others that the call flow starts beside it.

    Args:
        call: The call.
        flow: Its call flow.
        trial: The attempt; it has a ``hedge_after``.
        pending: What the attempt gave, if it was made already; or its race.
        enters: Whether a manager of a stream may be entered now.

    Returns:
        What the call flow asks for when no attempt runs any more, and the stream that has won, if
        it is one; or the attempt, and the manager that must be entered before it can go on.
    """
    from resilient_llm._drive import hedging  # loaded with the first

    if isinstance(pending, hedging.BaseRace):
        return await pending.go_on()
    assert trial.hedge_after is not None
    if is_trio():
        from resilient_llm._drive.hedging_trio import TrioRace as Race
    else:
        from resilient_llm._drive.hedging_asyncio import AsyncioRace as Race
    run = Race(lambda: (call, flow, trial), trial.hedge_after)
    run.begin()
    return await run.run(pending, enters=enters)
