"""Limits of synchronous streams under gevent, where a thread's waits are those of its greenlets.

Where the standard library is patched, a wait for a socket switches to another greenlet, and no
stack shows it to the watchdog. gevent ends it by itself: its own timeout raises in the greenlet
that waits. Owns nothing; imports nothing of gevent unless the application has patched.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Final

_NEVER: Final = float("inf")


def is_patched() -> bool:
    """Return whether waits for sockets are gevent's."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("socket")


class GreenAlarm:
    """A limit on the present wait of one greenlet, as `watchdog.Alarm` is for a thread."""

    __slots__ = ("_ends_at", "_timeout")

    def __init__(self) -> None:
        self._ends_at = _NEVER
        self._timeout: Any = None

    @property
    def is_over(self) -> bool:
        """Whether the limit has passed since it was set."""
        return time.perf_counter() >= self._ends_at

    def set(self, seconds: float) -> None:
        """Limit the wait that begins now to so many seconds."""
        import gevent

        self._cancel()
        self._ends_at = time.perf_counter() + seconds
        self._timeout = gevent.Timeout.start_new(max(seconds, 0.0))

    def off(self) -> bool:
        """Turn the alarm off, and return whether the limit had passed."""
        was_over = self.is_over
        self._ends_at = _NEVER
        self._cancel()
        return was_over

    def raised(self, error: BaseException) -> bool:
        """Return whether the alarm itself raised this error; the application's own are others."""
        return self._timeout is not None and error is self._timeout

    def close(self) -> None:
        """Let go of the timeout."""
        self._ends_at = _NEVER
        self._cancel()
        self._timeout = None

    def _cancel(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
