"""An event loop of asyncio whose time is virtual, and the clock of the SDK in it.

The loop runs what is ready, and when nothing is, its time jumps to the next timer. Waits are
queued: a task that sleeps for a second wakes after all tasks that wake before it. Nothing takes
any time but waits.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import selectors
import threading
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._runtime import time_limit
from resilient_llm._runtime.clock import SystemClock
from resilient_llm.testing._clock import Moment

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from resilient_llm._runtime.clock import Alarm, CancelScope, Clock, Timer

_PARTS: Final = 2.0**20
"""Parts of a second in which time passes. Sums and differences of such numbers are exact."""
_STUCK: Final = 5.0
"""Real seconds of waiting, without a timer, after which nothing can happen any more."""
_NEW_YEAR: Final = 1_767_225_600.0
"""Unix seconds at which the virtual wall clock starts: 2026-01-01, UTC."""


class _Selector(selectors.SelectSelector):
    """Waits by moving the time of its loop."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            # No timer and nothing to run: only another thread could go on with this.
            events = super().select(_STUCK)
            if not events:
                raise RuntimeError(
                    "the simulation waits for something that is not in it: functions of the policy "
                    "must not wait for threads or the network"
                )
            return events
        if timeout > 0:
            # Never too early, as with a real clock; else a deadline that ends would not be over.
            self.now = math.ceil((self.now + timeout) * _PARTS) / _PARTS
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time starts at 0 and passes only by waits."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def pass_time(self, seconds: float) -> None:
        """Let time pass while nothing else runs, as a blocking call does."""
        self._virtual.select(max(0.0, seconds))


class VirtualClock:
    """The SDK's clock in a `VirtualLoop`, for the thread that makes it.

    The state of a simulation may reach another thread, such as by a function that both call. There
    everything is left to the real clock: the loop is of one thread, and its time goes by at once.

    Args:
        loop: The loop.
        real: The clock of other threads.
    """

    def __init__(self, loop: VirtualLoop, real: Clock) -> None:
        self._loop = loop
        self._real = real
        self._thread = threading.get_ident()
        self._order = itertools.count()

    def _is_here(self) -> bool:
        return threading.get_ident() == self._thread

    def monotonic(self) -> float:
        if not self._is_here():
            return self._real.monotonic()
        return Moment(self._loop.time(), next(self._order))

    def wall(self) -> float:
        return _NEW_YEAR + self._loop.time() if self._is_here() else self._real.wall()

    def sleep(self, seconds: float, /) -> None:
        if self._is_here():
            self._loop.pass_time(seconds)
        else:
            self._real.sleep(seconds)

    async def asleep(self, seconds: float, /) -> None:
        if self._is_here():
            await asyncio.sleep(seconds)
        else:
            await self._real.asleep(seconds)

    def cancel_after(self, seconds: float, /) -> AbstractContextManager[CancelScope]:
        if self._is_here():
            return time_limit.cancel_after(seconds)
        return self._real.cancel_after(seconds)

    def call_after(self, seconds: float, callback: Callable[[], object], /) -> Timer:
        if self._is_here():
            return self._loop.call_later(max(0.0, seconds), callback)
        return self._real.call_after(seconds, callback)

    def alarm(self) -> Alarm:
        return SystemClock().alarm() if self._is_here() else self._real.alarm()

    def is_cut_off(self) -> bool:
        return not self._is_here() and self._real.is_cut_off()

    def __reduce__(self) -> Any:
        raise TypeError("the clock of a simulation cannot be pickled")
