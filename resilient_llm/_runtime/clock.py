"""Time and waiting: the `Clock` protocol that drivers use, and `SystemClock`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


class CancelScope(Protocol):
    """The part of a cancel scope that the asynchronous driver uses."""

    @property
    def cancel_called(self) -> bool: ...


class Timer(Protocol):
    """A callback that is called later, unless it is cancelled."""

    def cancel(self) -> None: ...


class Alarm(Protocol):
    """A limit on the present wait of a thread, or of a greenlet; see `watchdog` and `green`."""

    @property
    def is_over(self) -> bool: ...
    def set(self, seconds: float, /) -> None: ...
    def off(self) -> bool: ...
    def raised(self, error: BaseException, /) -> bool: ...
    def close(self) -> None: ...


class Clock(Protocol):
    """Time, and waiting for it. The fake clock of the tests has the same methods."""

    def monotonic(self) -> float: ...
    def wall(self) -> float: ...
    def sleep(self, seconds: float, /) -> None: ...
    async def asleep(self, seconds: float, /) -> None: ...
    def cancel_after(self, seconds: float, /) -> AbstractContextManager[CancelScope]: ...
    def call_after(self, seconds: float, callback: Callable[[], object], /) -> Timer: ...
    def alarm(self) -> Alarm: ...
    def is_cut_off(self) -> bool: ...


class SystemClock:
    """The clock of the machine. Durations use the monotonic clock, which never jumps."""

    # perf_counter is monotonic and, on Windows, finer than time.monotonic.
    monotonic = staticmethod(time.perf_counter)
    sleep = staticmethod(time.sleep)

    def wall(self) -> float:
        # Looked up each time: tools that freeze the time of an application replace it.
        return time.time()

    async def asleep(self, seconds: float, /) -> None:
        import anyio

        await anyio.sleep(seconds)

    def cancel_after(self, seconds: float, /) -> AbstractContextManager[CancelScope]:
        from resilient_llm._runtime import time_limit

        return time_limit.cancel_after(seconds)

    def call_after(self, seconds: float, callback: Callable[[], object], /) -> Timer:
        """Have the running loop of asyncio call a function after so many seconds."""
        import asyncio

        return asyncio.get_running_loop().call_later(seconds, callback)

    def alarm(self) -> Alarm:
        from resilient_llm._runtime import green

        if green.is_patched():
            return green.GreenAlarm()
        from resilient_llm._runtime import watchdog

        return watchdog.alarm()

    def is_cut_off(self) -> bool:
        watchdog: Any = sys.modules.get("resilient_llm._runtime.watchdog")
        return watchdog is not None and watchdog.is_cut_off()
