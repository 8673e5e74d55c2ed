"""The watchdog of synchronous streams: one thread that ends waits which take too long.

Synchronous code cannot be cancelled. What can be done is to end the wait that it is in: a
thread that waits for a provider is blocked in a read of a socket, and a read returns at
once when the socket is shut down. The socket is found on the stack of the thread, in the
frame that called the read. That finds exactly this connection with any client, before the
headers as well as after. A thread that waits for
something else (a lock, a subprocess, a native client such as grpc's) is left alone; its
limit is checked when its item comes.

Owns the thread and the list of alarms. The thread is started with the first alarm that is
set, and forgotten in a child process.

A stream may be dropped anywhere, so a finaliser or a signal handler may remove or set an alarm
while its thread is in the midst of this module. No lock is held for that: changes and copies of
the set of alarms are single operations, and `queue.SimpleQueue` may be entered again by the
thread that is inside it.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import FrameType

_NEVER: Final = float("inf")
_AGAIN: Final = 0.25
"""Seconds after which a wait that goes on is ended again: the client may retry by itself."""
_READS: Final = frozenset(("recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "read"))
"""Names of the functions that read from a socket."""


class Alarm:
    """A limit on the present wait of one thread. Only that thread sets it and turns it off."""

    __slots__ = ("_lock", "_thread", "ends_at", "is_over")

    def __init__(self) -> None:
        self._thread = 0
        self._lock = threading.Lock()
        self.ends_at = _NEVER
        self.is_over = False
        """Whether the limit has passed since it was set."""

    def set(self, seconds: float) -> None:
        """Limit the wait that begins now to so many seconds."""
        self.is_over = False
        self._thread = threading.get_ident()
        self.ends_at = time.perf_counter() + seconds
        if self.ends_at < _watchdog.wakes_at:
            _watchdog.look()

    def off(self) -> bool:
        """Turn the alarm off, and return whether the limit had passed."""
        self.ends_at = _NEVER
        with self._lock:  # not before the watchdog has let go of the connection
            return self.is_over

    def close(self) -> None:
        """Remove the alarm from the list."""
        self.ends_at = _NEVER
        _watchdog.forget(self)

    def fire(self, now: float) -> None:
        """End the wait. Called by the watchdog."""
        with self._lock:
            if self.ends_at > now:  # turned off or set again meanwhile
                return
            self.is_over = True
            self.ends_at = now + _AGAIN
            shut_down_read_of(self._thread)


class Watchdog:
    """The thread and the alarms that it watches."""

    def __init__(self) -> None:
        self._alarms: set[Alarm] = set()
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()
        """Each asks the thread to check the alarms now."""
        self._starts = threading.Lock()
        """Taken, and never waited for, by who starts the thread; kept while there is one."""
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
        """Let the thread check now, because an alarm ends before its next check."""
        self._calls.put(None)
        if self._starts.acquire(blocking=False):
            thread = threading.Thread(target=self._run, name="resilient_llm-watchdog", daemon=True)
            try:
                thread.start()
            finally:
                if thread.ident is None:  # there are too many threads: the next alarm tries again
                    self._starts.release()

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
            for alarm in [alarm for alarm in self._alarms.copy() if alarm.ends_at <= now]:
                with suppress(Exception):  # one failure must not end the thread
                    alarm.fire(now)


_watchdog = Watchdog()


def alarm() -> Alarm:
    """Return an alarm of the process-wide watchdog."""
    return _watchdog.alarm()


def _after_fork() -> None:
    _watchdog.__init__()  # the parent's thread is not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def shut_down_read_of(thread: int) -> bool:
    """Shut down the socket that a thread is reading from; return whether there was one."""
    frames: dict[int, FrameType] = getattr(sys, "_current_frames", dict)()
    frame = frames.get(thread)
    try:
        found = None if frame is None else _read_in(frame)
        if found is None:
            return False
        # The method of the plain class: that of a TLS socket removes state that the read uses.
        socket.socket.shutdown(found, socket.SHUT_RDWR)
    except OSError:
        return False  # already closed, or not yet connected
    else:
        return True
    finally:
        del frame, frames


def _read_in(frame: FrameType) -> socket.socket | None:
    """Return the socket that a thread's innermost frame reads from, if that is what it does.

    A read blocks in C, so its caller is the innermost frame: a method of the standard
    library or of a network stack whose ``self`` is the socket or keeps it, or a function
    with the socket in a variable. A frame that has a socket and waits for something else
    is left alone, because its code names no read.
    """
    if _READS.isdisjoint(frame.f_code.co_names):
        return None
    variables = list(frame.f_locals.values())
    for value in variables:
        if issubclass(type(value), socket.socket):
            return value
    for value in variables:
        try:
            own: Any = object.__getattribute__(value, "__dict__")
        except Exception:  # noqa: BLE001  # anybody's object may raise anything
            continue
        found = own.get("_sock") if type(own) is dict else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  # anybody's
        if issubclass(type(found), socket.socket):  # pyright: ignore[reportUnknownArgumentType]  # anybody's
            return found  # pyright: ignore[reportUnknownVariableType]  # anybody's
    return None
