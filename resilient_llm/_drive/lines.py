"""Waits in the line of a limit, until the turn of a ticket has come or for so many seconds.

What frees a place may be another thread, the loop of another thread, or a finaliser. So who waits
is woken by what never waits itself: a lock that is released, or a callback that a loop is given.

A fake clock is moved by a wait for tokens, as by every wait of a call. A queue for places is left
when another attempt ends, which no clock brings about: there it is a limit, as a deadline is.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from resilient_llm._drive.tasks import waker
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from resilient_llm._core.limits.held import Ticket

_MOMENT: Final = 0.02
"""Real seconds in which another thread may free a place while a fake clock stands still."""


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
    if ticket.has_come:  # it came before there was somebody to wake
        return
    if not turn.acquire(timeout=_MOMENT if is_fake else min(seconds, threading.TIMEOUT_MAX)) and (
        is_fake
    ):
        runtime.time.sleep(seconds)


async def await_in_line(ticket: Ticket, seconds: float) -> None:
    """Wait until the turn of a ticket has come, or for so many seconds."""
    if ticket.place is None and runtime.time is not runtime.system_clock:
        await runtime.time.asleep(seconds)
        return
    import anyio

    event, soon = anyio.Event(), waker()
    ticket.wake = lambda: soon(event.set)
    if ticket.has_come:
        return
    with runtime.time.cancel_after(seconds):
        await event.wait()
