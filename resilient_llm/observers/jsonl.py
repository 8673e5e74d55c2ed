"""The journal: every event as a line of JSON in a file, written by a thread.

Owns the queue of one journal and its file. Several processes may write to one file: each batch of
lines is one write to a file that is opened for appending, so lines stay whole. Only what is more
than one step, to rotate the file and to go on after a torn line, is done under a file lock. It is a
lock of the file itself, so a process that has waited for it looks whether the path still leads to
this file.
"""

from __future__ import annotations

import os
import select
import stat
import time
from collections import deque
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError
from resilient_llm.observers._exporter import Exporter, remaining, seconds_now, warn
from resilient_llm.observers._lines import line_of

if TYPE_CHECKING:
    from resilient_llm._values import events as ev

MOST_WAITING: Final = 10_000
"""Events that wait for the thread; then the oldest are dropped."""
AGAIN: Final = 1.0
"""Seconds after a failure in which nothing is written."""
_GATHER: Final = 0.05
"""Seconds in which the thread lets events gather: a line costs more than the event does."""
_AT_ONCE: Final = 64
"""Events that are formatted and written before others may run."""
_YIELD: Final = 0.0001
"""Seconds in which they may. The thread would else keep the interpreter for 5 ms, and so a call."""
_LARGEST_WRITE: Final = 65_536
"""Bytes of lines that are written at once."""
_LONGEST_LOCK: Final = 1.0
"""Seconds that the thread waits for the lock; another process may be stopped while it has it."""
_PAUSE: Final = 0.002
"""Seconds between two looks, at the lock or at the end of the file."""
_FLAGS: Final = (
    os.O_RDWR
    | os.O_APPEND
    | os.O_CREAT
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe that nobody reads must not stop the caller of `flush`
    | getattr(os, "O_BINARY", 0)
)


def install(
    path: str | os.PathLike[str],
    *events: type[ev.Event],
    max_bytes: int = 10_000_000,
    backups: int = 5,
) -> Exporter:
    """Write events to a file, one line of JSON each.

    A line is ``{"type", "at", "pid", "target", "call_id", …fields of the event}``. While the file
    cannot be written, events are dropped and counted, and each second is a new try.

    Examples:
        >>> journal = install("/var/log/app/llm.jsonl", TargetBenched, TargetUnbenched)

    Args:
        path: The file, made with mode 0600 if there is none. Several processes may share it, if
            it is on a local disk.
        *events: Types of events; all if none is named.
        max_bytes: Size from which on the file is renamed to ``path.1``, and so on.
        backups: How many renamed files are kept; with 0 a full file is deleted.

    Returns:
        The exporter: calling it ends the journal.

    Raises:
        ConfigurationError: If an option is not allowed, or the file cannot be opened.
    """
    check.event_types(events)
    journal = _Journal(
        _checked(path),
        check.whole("max_bytes", max_bytes, low=1),
        check.whole("backups", backups, low=0),
    )
    try:
        journal.open()
    except OSError as failure:
        raise ConfigurationError(
            f"path={journal.path!r} cannot be opened ({failure.strerror}): "
            "write the path of a file in a directory that exists and may be written"
        ) from None
    exporter = journal.exporter = Exporter(
        "journal",
        work=journal.work,
        due=journal.due,
        gather=_GATHER,
        after_fork=journal.after_fork,
        close=journal.close,
    )
    queue, background = journal.queue, exporter.background
    assert background is not None

    def put(event: ev.Event) -> None:
        if len(queue) >= MOST_WAITING:
            journal.drop_oldest()
        queue.append(event)
        if not background.is_woken:
            background.wake()

    exporter.listen(put, *events)
    exporter.watch_benches()
    return exporter


def _checked(path: Any) -> str:
    name: Any = None
    with suppress(TypeError):
        name = os.fspath(path)  # pyright: ignore[reportUnknownVariableType]  # users' input
    if not isinstance(name, str) or not name or "\0" in name:
        shown = repr(path) if isinstance(path, str) else type(path).__name__
        raise ConfigurationError(f"path={shown} is not allowed: write the path of a file")
    return os.path.abspath(name)  # noqa: PTH100  # the process may change its directory


class _Journal:
    """The queue and the file of one journal."""

    exporter: Exporter

    def __init__(self, path: str, max_bytes: int, backups: int) -> None:
        self.path = path
        self.queue: deque[ev.Event] = deque()
        self._max_bytes = max_bytes
        self._backups = backups
        self._lines: deque[bytes] = deque()
        """What was taken from the queue and is not written yet."""
        self._file: int | None = None
        self._is_torn = False
        """Whether this process has left part of a line at the end of the file."""
        self._tries_at: float | None = None
        """When the file is tried again after a failure; None while it can be written."""
        self._cannot_rotate = False

    def drop_oldest(self) -> None:
        """Make room for an event."""
        try:
            self.queue.popleft()
        except IndexError:  # the thread has taken all of them meanwhile
            return
        self.exporter.drop()

    def after_fork(self) -> None:
        """Forget what waits, and the file: the child opens its own, whose lock is its own."""
        self.queue.clear()
        self._lines.clear()
        self._tries_at = None
        self._is_torn = self._cannot_rotate = False
        self.close()

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def open(self) -> int:
        """Return the open file.

        Raises:
            OSError: If it cannot be opened.
        """
        if self._file is None:
            self._file = os.open(self.path, _FLAGS, 0o600)
        return self._file

    # What the thread does.

    def due(self) -> float:
        """Return the seconds until the file is tried again."""
        if self._tries_at is None or not (self.queue or self._lines):
            return float("inf")
        return self._tries_at - seconds_now()

    def work(self, until: float) -> bool:
        """Write what waits; after a failure drop and count it."""
        is_flush = remaining(until) != float("inf")
        if self._tries_at is not None and not is_flush and seconds_now() < self._tries_at:
            return False
        lines = self._lines
        try:
            while self.queue or lines:
                self._take(lines, _AT_ONCE)
                self._write(lines, until)
                if not is_flush:
                    time.sleep(_YIELD)
                if is_flush and not remaining(until):
                    break
        except OSError as failure:
            self._failed(failure)
            return False
        self._tries_at = None
        return not (self.queue or lines)

    def _take(self, lines: deque[bytes], count: int) -> None:
        """Format waiting events, about so many as are written at once."""
        while len(lines) < count:
            try:
                event = self.queue.popleft()
            except IndexError:  # there is no more, or another thread has dropped it
                return
            try:
                line = line_of(event).encode("ascii") + b"\n"
            except Exception:  # noqa: BLE001  # one event must not take the others with it
                self.exporter.drop()
                continue
            lines.append(line)

    def _failed(self, failure: OSError) -> None:
        """Drop and count what waits, and say so when it begins."""
        if self._tries_at is None:
            warn(
                f"the journal {self.path} cannot be written ({failure.strerror}): events are "
                "dropped and counted until it can; each second is a new try"
            )
        for _ in range(len(self.queue)):
            self.drop_oldest()
        self.exporter.drop(len(self._lines))
        self._lines.clear()
        self._tries_at = seconds_now() + AGAIN
        self.close()

    # The file.

    def _write(self, lines: deque[bytes], until: float) -> None:
        """Write whole lines, and remove from the list what is written.

        Raises:
            OSError: If the file cannot be opened or written.
        """
        while lines:
            file, size = self._present(len(lines[0]), until)
            if size is None:
                self._write_all(file, lines, until)
                continue
            room = max(self._max_bytes - size, 0)
            if self._is_torn or not _ends_a_line(file, size):
                with _locked(file, until):
                    torn = not _ends_a_line(file, os.fstat(file).st_size)
                    self._append(file, lines, room, b"\n" if torn else b"")
            else:
                self._append(file, lines, room, b"")

    def _append(self, file: int, lines: deque[bytes], room: int, before: bytes) -> None:
        """Append as many lines as there is room for, at least one, in one write."""
        count = size = 0
        for line in lines:
            if count and size + len(line) > min(room, _LARGEST_WRITE):
                break
            count, size = count + 1, size + len(line)
        data = before + b"".join(line for line, _ in zip(lines, range(count), strict=False))
        self._is_torn = True  # until it is known that it is not
        left = os.write(file, data) - len(before)
        while lines and left >= len(lines[0]):
            left -= len(lines.popleft())
        self._is_torn = left != 0

    def _write_all(self, file: int, lines: deque[bytes], until: float) -> None:
        """Write a line to what is no regular file, such as a pipe or the standard output."""
        data = b"\n" + lines[0] if self._is_torn else lines[0]
        while data:
            try:
                written = os.write(file, data)
            except BlockingIOError:
                wait = min(remaining(until), _LONGEST_LOCK)
                if not select.select([], [file], [], wait)[1]:
                    raise
                continue
            data, self._is_torn = data[written:], True
        self._is_torn = False
        lines.popleft()

    def _present(self, needed: int, until: float) -> tuple[int, int | None]:
        """Return the file that the path leads to, and its size; rotate it if it is full.

        Returns:
            The open file, and its size in bytes, or None if it is no regular file.
        """
        while True:
            file = self.open()
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                return file, None
            if not self._is_present(status):  # somebody has moved it
                self.close()
                self._is_torn = False
                continue
            size = status.st_size
            if not size or size + needed <= self._max_bytes or not self._rotate(file, until):
                return file, size
            self.close()
            self._is_torn = False

    def _is_present(self, status: os.stat_result) -> bool:
        """Return whether the path leads to the file with this status."""
        try:
            return os.path.samestat(status, os.stat(self.path))  # noqa: PTH116  # on each write
        except FileNotFoundError:
            return False

    def _rotate(self, file: int, until: float) -> bool:
        """Rename the file and the older ones; return False if the full one stays in use.

        The path itself comes last. So a new file appears when all is done, and the lock of the old
        one is enough.
        """
        try:
            with _locked(file, until) as is_locked:
                if not is_locked:
                    return False
                status = os.fstat(file)
                if self._is_present(status):  # no other process has done it meanwhile
                    self._rename()
        except OSError as failure:
            if not self._cannot_rotate:
                self._cannot_rotate = True
                warn(f"the journal {self.path} cannot be rotated ({failure.strerror}): it grows")
            return False
        self._cannot_rotate = False
        return True

    def _rename(self) -> None:
        names = [self.path, *(f"{self.path}.{number}" for number in range(1, self._backups + 1))]
        if len(names) == 1:
            os.unlink(self.path)  # noqa: PTH108  # a text, as everywhere here
        for old, new in reversed(list(pairwise(names))):
            try:
                os.replace(old, new)  # noqa: PTH105  # as above
            except FileNotFoundError:
                if old is self.path:
                    raise


def _ends_a_line(file: int, size: int) -> bool:
    """Return whether a file ends with a whole line.

    While another process writes, a file may seem to end in the midst of a line. So it has to look
    the same for a while.
    """
    for _ in range(5):
        if not size or os.pread(file, 1, size - 1) == b"\n":
            return True
        time.sleep(_PAUSE)
        before, size = size, os.fstat(file).st_size
        if size != before:
            continue
    return False


class _locked:  # noqa: N801  # reads as a function
    """Holds the lock of a file, against other processes; gives whether it could be had."""

    def __init__(self, file: int, until: float) -> None:
        self._file = file
        self._wait = min(remaining(until), _LONGEST_LOCK)
        self._is_locked = False

    def __enter__(self) -> bool:
        try:
            import fcntl
        except ImportError:  # Windows: one process has the file for itself
            return True
        for _ in range(max(1, int(self._wait / _PAUSE))):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_PAUSE)
            except OSError:  # the file system has no locks
                return True
            else:
                self._is_locked = True
                return True
        return False

    def __exit__(self, *error: object) -> None:
        if self._is_locked:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_UN)
