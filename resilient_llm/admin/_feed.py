"""`Feed`: the last 1,000 events as server-sent events, for any number of readers.

Owns the numbers of the events and the text that readers are sent, which is made once.

Theory of operation. A thread adds an event. It gives it a number, keeps it among the last
`MOST_KEPT`, and rings each event loop that has readers, once for all readers of that loop. A reader
has no queue. It has a position, the number of the last event that it was sent, and takes from here
what comes after that. If that was dropped meanwhile, it takes one ``dropped`` event that says how
many. So a reader that reads nothing costs its position and what its connection buffers: one
`CHUNK`, beside what the server itself holds.

Numbers grow also from one process to the next, since the first one is the time of its start. What
a reader saw of an earlier process is therefore never mistaken for an event of this one.
"""

from __future__ import annotations

import json
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.lowlevel import RunVar

from resilient_llm._drive.tasks import waker
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.events import ConfigReloadFailed
from resilient_llm.admin._plain import plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from resilient_llm._values.events import Event

MOST_KEPT: Final = 1_000
PING_AFTER: Final = 15.0
"""Seconds of silence after which a reader is sent a comment."""
CHUNK: Final = 8 * 1024
"""Bytes after which a reader is sent no more at once, unless a single event is longer."""
PING: Final = b": ping\n\n"

_PAUSE: Final = 0.05
_PAUSE_PER_READER: Final = 0.0003
"""Seconds before a reader is sent more: 1,000 readers of one loop get some three chunks a second
each, so that the loop has time for other work."""


class Feed:
    """Keeps events for readers. `add` is called by one thread at a time."""

    def __init__(self) -> None:
        # By its name: older versions of anyio take two of one name for the same.
        self._here: RunVar[_Bell] = RunVar(f"resilient_llm.admin.bell.{id(self)}")
        self.forget()

    def forget(self) -> None:
        """Start empty, as in a forked child, whose loops are not those of its parent."""
        self._first = self._next = int(runtime.wall() * 1000) * 1000
        """Numbers of the first event that there was, and of the next one."""
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=MOST_KEPT)
        self._bells: dict[int, _Bell] = {}
        self._last_taken: tuple[int, int, bytes, int] = (0, 0, b"", 0)

    def add(self, event: Event) -> None:
        """Keep an event, and wake the readers."""
        number = self._next
        self._kept.append((number, _text(event, number)))
        self._next = number + 1

    def ring(self) -> None:
        """Wake the readers of all loops, after events were added."""
        for number, bell in list(self._bells.items()):
            if not bell.ring():
                self._bells.pop(number, None)

    def position(self, last_event_id: str | None) -> int:
        """Return where a reader begins: after the event that it saw last, or with the next one.

        What is no number of this process begins with the oldest event that is kept.
        """
        if last_event_id is None:
            return self._next - 1
        is_number = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 20
        seen = int(last_event_id) if is_number else 0
        return seen if self._first - 1 <= seen < self._next else self._oldest() - 1

    def after(self, position: int) -> tuple[bytes, int]:
        """Return what a reader is sent next and its position after that; empty if nothing is."""
        newest = self._next
        if position == newest - 1:
            return b"", position
        # Most readers are at the same place.
        known_position, known_newest, text, end = self._last_taken
        if (known_position, known_newest) == (position, newest):
            return text, end
        begin = position
        kept = [(number, each) for number, each in list(self._kept) if number > position]
        parts: list[bytes] = []
        oldest = kept[0][0] if kept else newest
        if oldest > position + 1:
            dropped = {"dropped": oldest - position - 1}
            parts.append(f"event: dropped\ndata: {json.dumps(dropped)}\n\n".encode())
            position = oldest - 1
        size = 0
        for number, each in kept:
            if parts and size + len(each) > CHUNK:
                break
            parts.append(each)
            size += len(each)
            position = number
        text = b"".join(parts)
        self._last_taken = begin, newest, text, position
        return text, position

    async def send_to(self, send: Callable[[bytes], Awaitable[object]], position: int) -> None:
        """Send a reader what comes after its position, without end."""
        bell = self._bell()
        bell.readers += 1
        self._bells[id(bell)] = bell
        is_greeted = False
        try:
            while True:
                rung = bell.rung  # before the look, so that no ring is missed
                text, position = self.after(position)
                if text:
                    await send(text)
                    if self.after(position)[0]:
                        continue
                if not is_greeted:
                    # Whoever wants the events until now, and no more, can stop here.
                    is_greeted = True
                    await send(PING)
                if text:
                    await anyio.sleep(_PAUSE + _PAUSE_PER_READER * bell.readers)
                    continue
                with anyio.move_on_after(PING_AFTER) as waited:
                    await rung.wait()
                if waited.cancelled_caught:
                    await send(PING)
        finally:
            bell.readers -= 1
            if not bell.readers:
                self._bells.pop(id(bell), None)

    def _bell(self) -> _Bell:
        try:
            return self._here.get()
        except LookupError:
            bell = _Bell()
            self._here.set(bell)
            return bell

    def _oldest(self) -> int:
        kept = list(self._kept)
        return kept[0][0] if kept else self._next


class _Bell:
    """Wakes the readers of one event loop, in which all but `ring` is called."""

    __slots__ = ("_is_ringing", "_soon", "readers", "rung")

    def __init__(self) -> None:
        self._soon = waker()
        self._is_ringing = False
        self.readers = 0
        self.rung = anyio.Event()

    def ring(self) -> bool:
        """Wake all readers, from any thread; return whether the loop is still there."""
        if self._is_ringing:
            return True
        self._is_ringing = True
        try:
            self._soon(self._wake)
        except RuntimeError:
            return False
        return True

    def _wake(self) -> None:
        self._is_ringing = False
        rung, self.rung = self.rung, anyio.Event()
        rung.set()


def _text(event: Event, number: int) -> bytes:
    kind = type(event).__name__
    return f"event: {kind}\nid: {number}\ndata: {_line(event, kind)}\n\n".encode()


def _line(event: Event, kind: str) -> str:
    """Return an event as a line of the journal has it."""
    values: dict[str, Any] = plain(event)
    if isinstance(event, ConfigReloadFailed):
        values["problems"] = [str(each) for each in event.problems]
    line = {
        "type": kind,
        "at": values.pop("at"),
        "pid": os.getpid(),
        "target": values.pop("target"),
        "call_id": values.pop("call_id"),
    }
    return json.dumps({**line, **values})
