"""The clock that is moved by hand: `fake_clock`."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from resilient_llm._drive.tasks import waker
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.watchdog import shut_down_read_of
from resilient_llm.testing._isolation import left_in_order

if TYPE_CHECKING:
    from resilient_llm._runtime.time_limit import Cancellable


class Moment(float):
    """A moment of the fake clock. Two readings of the same time still have an order."""

    __slots__ = ("order",)
    order: int

    def __new__(cls, seconds: float, order: int) -> Moment:
        self = super().__new__(cls, seconds)
        self.order = order
        return self

    def __gt__(self, other: float) -> bool:
        if isinstance(other, Moment) and float(self) == float(other):
            return self.order > other.order
        return float(self) > float(other)

    def __reduce__(self) -> tuple[Any, ...]:
        return float, (float(self),)


class _Timer:
    """What is done at a moment of the fake clock: a cancel scope ends, or a callback is called."""

    def __init__(self, at: float, end: Callable[[], object]) -> None:
        self.at = at
        self.end = end
        self.thread = threading.get_ident()
        self.soon = waker()

    def fire(self) -> None:
        from resilient_llm._runtime.time_limit import is_trio

        # asyncio cancels a task that runs just now at its next wait, also if the limit was left
        # before; in a callback the task is waiting.
        if is_trio() and threading.get_ident() == self.thread:
            self.end()
        else:
            self.soon(self.end)


class _Callback:
    """A function that is called at a moment of the fake clock, in a callback of the loop."""

    def __init__(self, clock: FakeClock, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._callback: Callable[[], object] | None = callback
        self.timer: _Timer | None = None

    def call(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def cancel(self) -> None:
        self._callback = None
        if self.timer is not None:
            self._clock.drop_timer(self.timer)


class _FakeAlarm:
    """Ends the wait of a thread at a moment of the fake clock."""

    def __init__(self, clock: FakeClock) -> None:
        self.is_over = False
        self.at: float = math.inf
        self._clock = clock
        self._thread = 0

    def set(self, seconds: float, /) -> None:
        self.is_over = False
        self._thread = threading.get_ident()
        self.at = self._clock.monotonic() + max(0.0, seconds)
        self._clock.alarms.append(self)

    def off(self) -> bool:
        self.at = math.inf
        if self in self._clock.alarms:
            self._clock.alarms.remove(self)
        return self.is_over

    def raised(self, error: BaseException, /) -> bool:
        return False

    def close(self) -> None:
        self.off()

    @property
    def is_cut_off(self) -> bool:
        return self.is_over and self._thread == threading.get_ident()

    def fire(self) -> None:
        self.is_over = True
        if self._thread != threading.get_ident():
            shut_down_read_of(self._thread)


class FakeClock:
    """The SDK's monotonic and wall clock, moved by hand.

    Waits of the SDK, sync and async, return at once and move it; deadlines fire when it
    passes them.

    Attributes:
        sleeps: Seconds of every wait of the SDK, oldest first.
    """

    def __init__(self, start: float, wall: float) -> None:
        self.sleeps: list[float] = []
        self._now = start
        self._offset = wall - start
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._timers: list[_Timer] = []
        self.alarms: list[_FakeAlarm] = []

    def __reduce__(self) -> tuple[Any, ...]:
        # With a wrapper that is bound to it. It stands still until that is bound there.
        return FakeClock, (self._now, self.wall())

    def advance(self, seconds: float) -> None:
        """Let time pass; deadlines that it passes fire.

        Args:
            seconds: 0 or more.

        Raises:
            ValueError: If ``seconds`` is negative or not finite.
        """
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"seconds={seconds} is not allowed: write a finite number, 0 or more")
        with self._lock:
            self._now += seconds
            ended = self._taken_locked()
        for timer in ended:
            timer.fire()
        for alarm in [alarm for alarm in self.alarms if alarm.at <= self._now]:
            alarm.fire()

    def _taken_locked(self) -> list[_Timer]:
        """Take out the timers that are due."""
        ended = [timer for timer in self._timers if timer.at <= self._now]
        self._timers = [timer for timer in self._timers if timer.at > self._now]
        return ended

    def jump_wall(self, seconds: float) -> None:
        """Let the wall clock alone jump, forwards or backwards, as when it is set."""
        self._offset += seconds

    def monotonic(self) -> float:
        return Moment(self._now, next(self._order))

    def wall(self) -> float:
        return self._now + self._offset

    def alarm(self) -> _FakeAlarm:
        return _FakeAlarm(self)

    def is_cut_off(self) -> bool:
        return any(alarm.is_cut_off for alarm in self.alarms)

    def sleep(self, seconds: float, /) -> None:
        self.sleeps.append(seconds)
        self.advance(seconds)

    async def asleep(self, seconds: float, /) -> None:
        import anyio.lowlevel

        self.sleeps.append(seconds)
        self.advance(seconds)
        await anyio.lowlevel.checkpoint()

    @contextmanager
    def cancel_after(self, seconds: float, /) -> Generator[Cancellable, None, None]:
        from resilient_llm._runtime.time_limit import cancellable

        with cancellable() as scope:
            timer = self._timer(seconds, scope.cancel)
            try:
                yield scope
            finally:
                self.drop_timer(timer)

    def call_after(self, seconds: float, callback: Callable[[], object], /) -> _Callback:
        called = _Callback(self, callback)
        called.timer = self._timer(seconds, called.call)
        return called

    def _timer(self, seconds: float, end: Callable[[], object]) -> _Timer:
        timer = _Timer(self._now + max(0.0, seconds), end)
        with self._lock:
            self._timers.append(timer)
        return timer

    def drop_timer(self, timer: _Timer) -> None:
        """Forget what was to be done at a moment, if it was not done yet."""
        with self._lock:
            if timer in self._timers:
                self._timers.remove(timer)


@contextmanager
def fake_clock() -> Generator[FakeClock, None, None]:
    """Replace the clock of the SDK by one that is moved by hand, for the whole process.

    It starts at the present time, in whole seconds.
    """
    before = runtime.time
    clock = FakeClock(float(math.ceil(before.monotonic())), float(math.floor(before.wall())))
    use_clock(clock)
    with left_in_order("fake_clock()", lambda: use_clock(before)):
        yield clock


def use_clock(clock: Any) -> None:
    with runtime.lock:
        runtime.use_clock(clock)
        runtime.unbind_all()
