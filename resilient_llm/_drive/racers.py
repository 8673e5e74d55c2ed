"""One attempt of a race: how it is made, what came of it, and what is known of its task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._core.call.steps import Reply
from resilient_llm._drive.attempting import TimedAttempt
from resilient_llm._drive.cancellation import cancellations, was_cancelled
from resilient_llm._drive.sync import reply_of
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from contextvars import Context

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.steps import Try
    from resilient_llm._drive.hosting import Host
    from resilient_llm._drive.opening import StartedStream


class Made:
    """What an attempt gave or raised.

    Attributes:
        reply: What the call flow is told; None if something is to be entered or awaited first.
        value: What it gave.
        started: Its stream, up to the first content, if it is one.
    """

    __slots__ = ("reply", "started", "value")

    def __init__(self, reply: Reply | None = None, value: Any = None) -> None:
        self.reply = reply
        self.value = value
        self.started: StartedStream | None = None


async def made_by(
    call: Call, trial: Try, pending: Any, scope: AbstractContextManager[Any], *, enters: bool
) -> Made:
    """Make one attempt inside a scope that may be cancelled; return what came of it."""
    made, kind = Made(Reply(0.0)), None
    attempt = TimedAttempt(call, trial, pending)
    before = cancellations() if pending is None else None
    make = attempt.make if call.hook is None else attempt.make_inside
    try:
        with scope:
            made.value, kind, made.started = await make(pending, enters=enters)
            made.reply = None
    except BaseException as error:  # noqa: BLE001  # the call flow judges it
        made.reply = Reply(
            runtime.clock(),
            error=error,
            timed_out=attempt.is_cut_off and issubclass(type(error), Exception),
            cancelled=was_cancelled(
                error,
                attempt.counted_before if before is None else before,
                own=attempt.still_counted,
                since=trial.permit.entered_at,
            ),
        )
        return made
    finally:
        pending = None
    if made.reply is not None:  # the scope took its own cancellation back
        made.reply.now = runtime.clock()
    elif made.started is not None or kind is None:
        made.reply, made.value = reply_of(made.value, made.started), None
    return made


def is_signal(error: BaseException | None) -> bool:
    """Return whether an error is a cancellation, or another signal to stop."""
    return error is not None and not issubclass(type(error), Exception)


class Racer:
    """One attempt of a race.

    Attributes:
        trial: The attempt; None as long as the call has no call flow.
        stop: Cancels it.
        reply: What came of it, until the call flow is told.
        started: Its stream.
        is_running: Whether nothing has come of it.
        is_closed: Whether its stream was closed here.
        is_stopped: Whether it was cancelled, because the race is over.
        has_won: Whether its stream is the answer of the call; None until that is known.
        host: What serves the reader of its stream in its task, once it has won on asyncio.
        ended: What the end of its task calls.
        is_over: Whether its task has nothing more to do.
        scope: What is around it in its task.
        task: Its task on asyncio, if it has one of its own.
        context: That of its task, if it has one of its own.
        was_slow: Whether the call flow was told that it is.
        woken: Ends the wait of its task until it is known whether it has won.
    """

    __slots__ = (
        "context",
        "ended",
        "has_won",
        "host",
        "is_closed",
        "is_over",
        "is_running",
        "is_stopped",
        "reply",
        "scope",
        "started",
        "stop",
        "task",
        "trial",
        "was_slow",
        "woken",
    )

    def __init__(self, trial: Try | None) -> None:
        self.trial = trial
        self.stop: Callable[[], object] | None = None
        self.reply: Reply | None = None
        self.started: StartedStream | None = None
        self.is_running = True
        self.is_closed = False
        self.is_stopped = False
        self.has_won: bool | None = None
        self.ended: Callable[[Any], object] | None = None
        self.host: Host | None = None
        self.is_over = False
        self.scope: AbstractContextManager[Any] | None = None
        self.task: asyncio.Task[None] | None = None
        self.context: Context | None = None
        self.was_slow = False
        self.woken: Any = None


def rank(racer: Racer) -> int:
    """Return which of several ends counts first: cancellations, then answers, then errors."""
    reply = racer.reply
    assert reply is not None
    if is_signal(reply.error) or reply.cancelled:
        return 0
    return 1 if reply.error is None else 2
