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
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._runtime import time_limit
from resilient_llm._runtime.clock import SystemClock
from resilient_llm.testing._clock import Moment

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from resilient_llm._runtime.clock import Alarm, CancelScope

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
    """The SDK's clock in a `VirtualLoop`."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._order = itertools.count()

    def monotonic(self) -> float:
        return Moment(self._loop.time(), next(self._order))

    def wall(self) -> float:
        return _NEW_YEAR + self._loop.time()

    def sleep(self, seconds: float, /) -> None:
        self._loop.pass_time(seconds)

    async def asleep(self, seconds: float, /) -> None:
        await asyncio.sleep(seconds)

    def cancel_after(self, seconds: float, /) -> AbstractContextManager[CancelScope]:
        return time_limit.cancel_after(seconds)

    def call_after(self, seconds: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        return self._loop.call_later(max(0.0, seconds), callback)

    def alarm(self) -> Alarm:
        return SystemClock().alarm()

    def is_cut_off(self) -> bool:
        return False

    def __reduce__(self) -> Any:
        raise TypeError("the clock of a simulation cannot be pickled")
