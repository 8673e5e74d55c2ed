"""Waits of a background task: for a moment of the clock of the process, or until it is woken.

The waits of calls move the fake clock of a test, so that they take no time. A wait in the
background must not: it would make a bench end, or a deadline, whenever the event loop runs. So it
is a limit on a wait for an event, and on the fake clock such limits end when a test moves it.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final

from resilient_llm._drive.tasks import waker
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._runtime.clock import Clock

_MOVED: Final = 0.001
"""Seconds that have passed while a wait began from which on it begins again: a fake clock moved."""


class _Signal:
    """Wakes a task from any thread; made in the event loop of the task."""

    __slots__ = ("_event", "_soon")

    def __init__(self) -> None:
        import anyio

        self._event = anyio.Event()
        self._soon = waker()

    def set(self) -> None:
        try:
            self._soon(self._event.set)
        except RuntimeError:  # its loop is closed, so nobody waits
            pass

    async def wait(self) -> None:
        await self._event.wait()


class Waiter:
    """The waits of one task, one after the other."""

    __slots__ = ("__weakref__", "_signal")

    def __init__(self) -> None:
        self._signal: _Signal | None = None
        number = id(self)
        _waiters[number] = weakref.ref(self, lambda _: _waiters.pop(number, None))

    async def until(
        self,
        is_over: Callable[[], bool],
        at: float,
        longest: float,
        clock: Clock | None = None,
    ) -> None:
        """Wait until something is over, or until a moment.

        Args:
            is_over: Asked whenever the waiter is woken.
            at: Monotonic seconds.
            longest: Seconds to wait at most, by a clock that the process may have by then.
            clock: Whose seconds they are; None for the present clock of the process.
        """
        while not is_over():
            time = clock or runtime.time
            before = time.monotonic()
            at = min(at, before + longest)
            left = at - before
            if left <= 0.0:
                return
            signal = self._signal = _Signal()
            if is_over():  # it may have come before there was somebody to wake
                return
            with time.cancel_after(left):
                if time is not runtime.system_clock and time.monotonic() - before > _MOVED:
                    continue
                await signal.wait()

    def wake(self) -> None:
        """Have the task ask again; from any thread, at any time."""
        signal = self._signal
        if signal is not None:
            signal.set()


_waiters: Final[dict[int, weakref.ref[Waiter]]] = {}
"""``{id: a waiter}``, while it exists."""


def _clock_was_exchanged() -> None:
    """Let every wait go on by the clock that the process has now."""
    for reference in list(_waiters.values()):
        waiter = reference()
        if waiter is not None:
            waiter.wake()


runtime.on_exchange.append(_clock_was_exchanged)
