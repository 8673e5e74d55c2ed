"""Reads the text of a configuration file, bounded: no pipe blocks it, no device fills memory."""

from __future__ import annotations

import os
import stat
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from resilient_llm.config._tree import Problems

LARGEST: Final = 256 * 1024
"""Bytes of the largest file."""
ENDINGS: Final = {".toml": "toml", ".json": "json", ".yaml": "yaml", ".yml": "yaml"}
"""``{ending of a name: format}``"""
_KINDS: Final = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def format_of(path: str, problems: Problems) -> str:
    """Return ``"toml"``, ``"json"`` or ``"yaml"``, by the ending of the name of a file."""
    ending = PurePath(path).suffix
    found = ENDINGS.get(ending.lower())
    if found is None:
        said = f"a name that ends in {ending[:20]!r}" if ending else "a name without an ending"
        raise problems.stop(f"the file has {said}: write {' or '.join(ENDINGS)}")
    return found


def text_of(path: str, problems: Problems) -> str:
    """Return the text of a file, without a byte order mark."""
    try:
        data = _bytes_of(path, problems)
    except FileNotFoundError:
        raise problems.stop("the file does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        why = (isinstance(error, OSError) and error.strerror) or "its path is not allowed"
        raise problems.stop(f"the file cannot be read: {why}") from None
    if len(data) > LARGEST:
        raise problems.stop(f"the file is above {LARGEST // 1024} KiB, which is the most allowed")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise problems.stop(
            f"the file is not UTF-8: it has the byte 0x{data[error.start]:02X}", line
        ) from None


def _bytes_of(path: str, problems: Problems) -> bytes:
    """Return what a file has, at most one byte more than is allowed."""
    _refuse_other(os.stat(path).st_mode, problems)  # noqa: PTH116  # and opens no device
    # What stands at the path may change in between, so the file that was opened is asked again.
    # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    number = os.open(path, flags)
    with os.fdopen(number, "rb", closefd=True) as file:
        _refuse_other(os.fstat(number).st_mode, problems)
        return file.read(LARGEST + 1)


def _refuse_other(mode: int, problems: Problems) -> None:
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "no file")
        raise problems.stop(f"the path is {kind}: write the path of a file")
