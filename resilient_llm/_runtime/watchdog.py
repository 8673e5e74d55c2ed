"""The watchdog of synchronous streams: one thread that ends waits which take too long.

A thread that closes what another one reads ends that wait itself, in the same way.

Synchronous code cannot be cancelled. What can be done is to end the wait that it is in: a
thread that waits for a provider is blocked in a call on a socket, and that returns at once
when the socket is shut down. `waiting` finds the socket: the one whose method the thread's
innermost frame is calling. That finds exactly this connection with any client, before the
headers as well as after. A thread that waits for something else (a lock, a subprocess, a
native client such as grpc's) is left alone; its limit is checked when its item comes.

Owns the thread, the list of alarms and that of the generators that are closed. The thread is
started with the first alarm that is set, and forgotten in a child process.

A stream may be dropped anywhere, so a finaliser or a signal handler may remove or set an alarm
while its thread is in the midst of this module. No lock is held for that: changes and copies of
the set of alarms are single operations, and `queue.SimpleQueue` may be entered again by the
thread that is inside it.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._runtime.waiting import shut_down_socket_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, GeneratorType

_NEVER: Final = float("inf")
_AGAIN: Final = 0.25
"""Seconds after which a wait that goes on is ended again: the client may retry by itself."""
_LONGEST_PAUSE: Final = 8.0
"""Seconds between two tries to end a wait that cannot be ended: each doubles the pause."""


_CLOSES_WITHIN: Final = 3.0
"""Seconds for which a generator is tried to be closed that another thread executes."""
_FIRST_PAUSE: Final = 0.001
"""Seconds between two such tries, at first."""


class Alarm:
    """A limit on the present wait of one thread. Only that thread sets it and turns it off."""

    __slots__ = ("_lock", "_pause", "ends_at", "is_over", "thread")

    def __init__(self) -> None:
        self.thread = 0
        self._pause = _AGAIN
        self._lock = threading.Lock()
        self.ends_at = _NEVER
        self.is_over = False
        """Whether the limit has passed since it was set."""

    def set(self, seconds: float) -> None:
        """Limit the wait that begins now to so many seconds."""
        self.is_over = False
        self._pause = _AGAIN
        self.thread = threading.get_ident()
        self.ends_at = time.perf_counter() + seconds
        if self.ends_at < _watchdog.wakes_at:
            _watchdog.look()

    def off(self) -> bool:
        """Turn the alarm off, and return whether the limit had passed."""
        self.ends_at = _NEVER
        with self._lock:  # not before the watchdog has let go of the connection
            return self.is_over

    def raised(self, error: BaseException) -> bool:
        """Return whether the alarm itself raised this error. It ends reads, and raises nothing."""
        return False

    def close(self) -> None:
        """Remove the alarm from the list."""
        self.ends_at = _NEVER
        _watchdog.forget(self)

    def fire(self, now: float, frames: dict[int, FrameType]) -> None:
        """End the wait. Called by the watchdog.

        Args:
            now: Seconds of the clock.
            frames: ``{thread: its innermost frame}``, taken after the limit had passed.
        """
        with self._lock:
            if self.ends_at > now:  # turned off or set again meanwhile
                return
            self.is_over = True
            self.ends_at = now + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            shut_down_socket_of(frames.get(self.thread))


class Watchdog:
    """The thread and the alarms that it watches."""

    def __init__(self) -> None:
        self._alarms: set[Alarm] = set()
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()
        """Each asks the thread to check the alarms now."""
        self._starts = threading.Lock()
        """Taken, and never waited for, by who starts the thread; kept while there is one."""
        self._has_warned = False
        self.closing: dict[int, weakref.ref[GeneratorType[Any, Any, Any]]] = {}
        """Generators that are closed while another thread executes them, by their ids."""
        self.wakes_at = _NEVER
        """When the thread will next check the alarms by itself."""

    def alarm(self) -> Alarm:
        """Return a new alarm, not set."""
        alarm = Alarm()
        self._alarms.add(alarm)
        return alarm

    def forget(self, alarm: Alarm) -> None:
        self._alarms.discard(alarm)

    def look(self) -> None:
        """Let the thread check now, because an alarm ends before its next check.

        Without a thread limits are checked when an item comes: there may be too many threads
        now, and none can be started while the interpreter exits. The next alarm tries again.
        """
        self._calls.put(None)
        if self._starts.acquire(blocking=False):
            thread = threading.Thread(target=self._run, name="resilient_llm-watchdog", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._warn(error)
            finally:
                if thread.ident is None:
                    self._starts.release()

    def is_cut_off(self, thread: int) -> bool:
        """Return whether an alarm ended a wait of this thread, and is not turned off yet."""
        return bool(self._alarms) and any(
            alarm.is_over and alarm.thread == thread and alarm.ends_at != _NEVER
            for alarm in self._alarms.copy()
        )

    def is_closing(self) -> bool:
        """Return whether this thread executes a generator that another thread closes."""
        generators = [each() for each in list(self.closing.values())] if self.closing else ()
        return any(each is not None and is_inside(each) for each in generators)

    def _warn(self, error: RuntimeError) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        import logging  # here: it takes a while to load

        logging.getLogger("resilient_llm").warning(
            "the limits of synchronous streams are checked when an item comes, and end no wait, "
            "since no thread can be started: %s",
            error,
        )

    def _run(self) -> None:
        while True:
            # Threads that set an alarm compare with this, so it is reset before the alarms are
            # read. A call that comes in between stays in the queue.
            self.wakes_at = _NEVER
            soonest = min((alarm.ends_at for alarm in self._alarms.copy()), default=_NEVER)
            self.wakes_at = soonest
            wait = soonest - time.perf_counter()
            if wait > 0:
                with suppress(queue.Empty):
                    self._calls.get(
                        timeout=None if soonest == _NEVER else min(wait, threading.TIMEOUT_MAX)
                    )
            now = time.perf_counter()
            due = [alarm for alarm in self._alarms.copy() if alarm.ends_at <= now]
            if due:
                self._fire(due, now)
            due = None  # an alarm is not kept while the thread waits

    def _fire(self, due: list[Alarm], now: float) -> None:
        """End the waits whose limits have passed; the stacks are taken once for all of them."""
        frames = sys._current_frames()
        for alarm in due:
            with suppress(Exception):  # one failure must not end the thread
                alarm.fire(now, frames)


_watchdog = Watchdog()


def alarm() -> Alarm:
    """Return an alarm of the process-wide watchdog."""
    return _watchdog.alarm()


def is_cut_off() -> bool:
    """Return whether a wait of this thread was ended by a limit that still applies to it.

    Asked after an error of code inside such a limit, which then is not to blame for it.
    """
    return _watchdog.is_cut_off(threading.get_ident())


def shut_down_read_of(thread: int) -> bool:
    """Shut down the socket that a thread is waiting for; return whether there was one."""
    return shut_down_socket_of(sys._current_frames().get(thread))


def is_closing() -> bool:
    """Return whether this thread executes a generator that another thread closes."""
    return _watchdog.is_closing()


def is_inside(generator: GeneratorType[Any, Any, Any]) -> bool:
    """Return whether this thread executes a generator."""
    return _is_inside(generator, sys._getframe())


def end_read_inside(
    generator: GeneratorType[Any, Any, Any],
    is_closed: Callable[[], bool],
    *,
    seconds: float = _CLOSES_WITHIN,
) -> bool:
    """End the reads of the thread that executes a generator, until that can be closed.

    Meanwhile an error of such a read is taken for a cancellation, as that of a limit is.

    Args:
        generator: The generator.
        is_closed: Tries to close it; returns whether it has.
        seconds: How long to try.

    Returns:
        Whether it was closed.
    """
    closing, key, pause = _watchdog.closing, id(generator), _FIRST_PAUSE
    ends_at = time.perf_counter() + seconds
    closing[key] = weakref.ref(generator, lambda _: closing.pop(key, None))
    while True:
        _shut_down_read_inside(generator)
        if is_closed():
            closing.pop(key, None)
            return True
        if time.perf_counter() >= ends_at:
            return False  # it stays in the list: what its thread does is wanted no more
        time.sleep(pause)
        pause = min(2 * pause, _AGAIN)


def _shut_down_read_inside(generator: GeneratorType[Any, Any, Any]) -> None:
    for innermost in sys._current_frames().values():
        if _is_inside(generator, innermost):
            shut_down_socket_of(innermost)
            return


def _is_inside(generator: GeneratorType[Any, Any, Any], innermost: FrameType) -> bool:
    inside: object = generator.gi_frame
    frame: FrameType | None = innermost
    while frame is not None:
        if frame is inside:
            return True
        frame = frame.f_back
    return False


def _after_fork() -> None:
    _watchdog.__init__()  # the parent's thread is not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
