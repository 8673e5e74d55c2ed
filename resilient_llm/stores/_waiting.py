"""Waits of a thread that other threads can end: for `Store.wait`."""

from __future__ import annotations

import selectors
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilient_llm.stores import Readable


class Waiter:
    """One thread that waits; others wake it through a pair of sockets."""

    def __init__(self, since: int = 0) -> None:
        self.since = since
        self.is_told = False
        """Whether it was woken because something was published."""
        self.is_closed = False
        """Whether it was woken because the store is closed."""
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def wake(self) -> None:
        """End the wait; may be called from any thread, and again."""
        try:
            self._write.send(b"\0")
        except OSError:  # it is woken already, or over
            pass

    def tell(self) -> None:
        """End the wait, because something was published."""
        self.is_told = True
        self.wake()

    def wait(
        self, seconds: float, wake: Readable | None, other: Readable | None = None
    ) -> tuple[bool, bool]:
        """Wait; return whether this was woken, and whether ``wake`` can be read.

        ``other`` ends the wait as well, when it can be read.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._read, selectors.EVENT_READ)
            if wake is not None:
                selector.register(wake, selectors.EVENT_READ)
            if other is not None:
                selector.register(other, selectors.EVENT_READ)
            until = time.monotonic() + seconds
            while True:
                ready = {key.fileobj for key, _ in selector.select(max(seconds, 0.0))}
                seconds = until - time.monotonic()
                if ready or seconds <= 0:  # epoll counts in milliseconds, and may end early
                    break
        if is_woken := self._read in ready:
            try:
                self._read.recv(4096)
            except OSError:
                pass
        return is_woken, wake is not None and wake in ready

    def close(self) -> None:
        """Close the sockets."""
        self._read.close()
        self._write.close()
