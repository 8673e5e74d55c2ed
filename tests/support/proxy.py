"""A proxy on the loopback interface that does to a connection what networks do."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Final

_PART: Final = 65_536


class Proxy:
    """Forwards to a port of the loopback interface; its attributes may change at any time.

    Attributes:
        port: At which it listens.
        target: To which it forwards.
        is_refusing: Whether new connections are cut at once.
        is_silent: Whether nothing is forwarded any more, while all connections stay open.
        delay: Seconds for which each part of an answer is held back.
        drip: Seconds between two bytes of an answer; 0 forwards what comes as a whole.
        cut_after: Bytes of an answer that are forwarded before the connection is cut, once.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.is_refusing = False
        self.is_silent = False
        self.delay = 0.0
        self.drip = 0.0
        self.cut_after: int | None = None
        self._is_closed = threading.Event()
        self._opened: list[socket.socket] = []
        self._subscribed: set[socket.socket] = set()
        self._forgotten: set[socket.socket] = set()
        self._threads = [self._start(self._accept)]

    @staticmethod
    def _start(run: object, *given: object) -> threading.Thread:
        thread = threading.Thread(target=run, args=given, daemon=True)  # pyright: ignore[reportArgumentType]  # callable
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if self.is_refusing:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target), 5.0)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._opened += [near, far]
            self._threads.append(self._start(self._forward, near, far, False))
            self._threads.append(self._start(self._forward, far, near, True))

    def _forward(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(_PART):
                if b"SUBSCRIBE" in part and not is_answer:
                    self._subscribed |= {source, sink}
                if source in self._forgotten:
                    continue
                while self.is_silent and not self._is_closed.wait(0.01):
                    pass
                self._send(part, sink, is_answer)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _send(self, part: bytes, sink: socket.socket, is_answer: bool) -> None:
        if not is_answer:
            sink.sendall(part)
            return
        self._is_closed.wait(self.delay)
        if self.cut_after is not None:
            part, self.cut_after = part[: self.cut_after], None
            sink.sendall(part)
            raise OSError
        if not self.drip:
            sink.sendall(part)
            return
        for at in range(len(part)):
            sink.sendall(part[at : at + 1])
            self._is_closed.wait(self.drip)

    def forget_subscriptions(self) -> None:
        """Forward nothing more on those of now, while both sides think that they are connected."""
        self._forgotten |= self._subscribed

    def cut(self) -> None:
        """Cut all connections that are open."""
        for each in self._opened:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it."""
        self._is_closed.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        until = time.monotonic() + 5.0
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.0))
        for each in self._opened:
            each.close()
