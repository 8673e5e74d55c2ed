"""Waits in the line of a limit, until the turn of a ticket has come or for so many seconds.

What frees a place may be another thread, the loop of another thread, or a finaliser. So who waits
is woken by what never waits itself: a lock that is released, or a callback that a loop is given. It
asks again once a second, since an interrupt may come between a place and the one who is woken.

A fake clock is moved by a wait for requests or tokens, as by every wait of a call. A place is freed
by the end of another attempt, which no clock brings about. So a wait in a queue does not move it:
it ends when the place is free, or when somebody moves the clock past its end. A thread that is
alone would then wait without end; so after a while it moves the clock itself, to the end of its
wait. Keep in sync with docs/reference/testing.md.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from resilient_llm._drive.tasks import waker
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from resilient_llm._core.limits.held import Ticket

_LOOK_AGAIN: Final = 1.0
"""Longest wait in seconds before the call flow looks again."""
_PATIENCE: Final = 0.5
"""Real seconds in which another thread may free a place while a fake clock stands still."""
_GLANCE: Final = 0.01
"""Real seconds after which such a thread looks whether the clock was moved."""


def wait_in_line(ticket: Ticket, seconds: float) -> None:
    """Block this thread until the turn of a ticket has come, or for so many seconds."""
    is_fake = runtime.time is not runtime.system_clock
    if is_fake and ticket.place is None:
        runtime.time.sleep(seconds)
        return
    turn = threading.Lock()
    turn.acquire()

    def wake() -> None:
        try:
            turn.release()
        except RuntimeError:  # it was woken before
            pass

    ticket.wake = wake
    if ticket.has_come or ticket.is_void:  # it came before there was somebody to wake
        return
    if is_fake:
        _wait_on_fake_clock(turn, seconds)
    else:
        turn.acquire(timeout=min(seconds, _LOOK_AGAIN))


def _wait_on_fake_clock(turn: threading.Lock, seconds: float) -> None:
    end, given_up_at = runtime.clock() + seconds, time.monotonic() + _PATIENCE
    while time.monotonic() < given_up_at:
        if turn.acquire(timeout=_GLANCE) or runtime.clock() >= end:
            return
    if seconds != float("inf"):
        runtime.time.sleep(max(0.0, end - runtime.clock()))


async def await_in_line(ticket: Ticket, seconds: float) -> None:
    """Wait until the turn of a ticket has come, or for so many seconds."""
    if ticket.place is None and runtime.time is not runtime.system_clock:
        await runtime.time.asleep(seconds)
        return
    import anyio

    event, soon = anyio.Event(), waker()
    ticket.wake = lambda: soon(event.set)
    if ticket.has_come or ticket.is_void:
        return
    with runtime.time.cancel_after(min(seconds, _LOOK_AGAIN)):
        await event.wait()
