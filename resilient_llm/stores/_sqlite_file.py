"""The file of a `SqliteStore`: how it is made, what it lies on, and how a damaged one goes.

Nothing here opens a file that SQLite may have open: when a process closes any descriptor of a
file, it loses all locks that it has on it.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from resilient_llm._values.escaping import escaped
from resilient_llm._values.sharing import StoreError
from resilient_llm.stores._sqlite_errors import refusal

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Generator


MOUNTS: str = "/proc/self/mountinfo"
"""Where Linux tells what is mounted."""
NETWORK: Final = frozenset(
    # Of servers.
    "9p afs ceph cifs coda davfs ncpfs nfs nfs4 smb3 smbfs fuse.ceph fuse.ceph-fuse fuse.davfs "
    "fuse.smbnetfs fuse.sshfs "
    # Of clusters.
    "beegfs gfs gfs2 glusterfs gpfs lustre ocfs2 orangefs panfs pvfs2 wekafs fuse.glusterfs "
    "fuse.juicefs "
    # Of buckets.
    "fuse.blobfuse fuse.blobfuse2 fuse.gcsfuse fuse.goofys fuse.mount-s3 fuse.rclone fuse.s3fs "
    # Of a host for its virtual machines.
    "prl_fs vboxsf virtiofs vmhgfs fuse.grpcfuse fuse.osxfs fuse.vmhgfs-fuse".split()
)
"""File systems on which processes of several machines do not see each other's locks and memory.

Others of FUSE are local, as far as one can know, and so are the layers of a container.
"""
LOG: Final = "-wal"
BESIDE: Final = (LOG, "-shm")
"""What SQLite keeps beside the file."""

_PAUSE: Final = 0.005
"""Seconds between two looks at a lock that another process has."""
_NO_CHECKPOINT_ON_CLOSE: Final = 1006
"""SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, for which the module has a name since Python 3.12."""


def identity(path: str) -> tuple[int, int] | None:
    """Return which file is at a path; None if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116  # on each step
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refusal(error) from None
    return found.st_dev, found.st_ino


def beside(path: str) -> tuple[tuple[int, int] | None, ...]:
    """Return which files SQLite keeps beside one: its log, and the memory that processes share."""
    return tuple(identity(path + suffix) for suffix in BESIDE)


def is_empty(path: str) -> bool:
    """Return whether there is no file yet, or nothing in it."""
    try:
        return os.stat(path).st_size == 0  # noqa: PTH116
    except OSError:
        return True


def make(path: str) -> None:
    """Make an empty file that only its owner can read, if there is none.

    Called with the lock that one process has alone. What lies beside an empty file belongs to
    another one, which has gone. SQLite would remove that log and go on with the memory of its
    users, which tells of pages that the new log does not have.
    """
    if is_empty(path) and any(beside(path)):
        _rename(path, BESIDE)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    try:
        os.close(os.open(path, flags, 0o600))
    except OSError as error:
        if not os.path.lexists(path):
            raise refusal(error) from None


def is_on_network(path: str) -> bool:
    """Return whether a file lies on a network file system, as far as Linux tells."""
    try:
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123  # a text, as everywhere here
            mounts = file.read()
        directory = os.path.realpath(os.path.dirname(path))  # noqa: PTH120
        # A single file may be mounted as well, as Kubernetes does.
        places = [directory, path] if os.path.exists(path) else [directory]  # noqa: PTH110
        devices = [os.stat(place).st_dev for place in places]  # noqa: PTH116
    except OSError:
        return False
    return any(
        file_system(mounts, place, device) in NETWORK
        for place, device in zip(places, devices, strict=True)
    )


def file_system(mounts: str, directory: str, device: int) -> str:
    """Return the type of the file system of a directory or a file, or an empty text.

    Args:
        mounts: Text of ``/proc/self/mountinfo``.
        directory: Its path, without links.
        device: Its ``st_dev``. Some file systems give directories numbers that no
            mount has; then the longest mount point above the directory counts.
    """
    wanted = f"{os.major(device)}:{os.minor(device)}"
    longest, found, by_device = -1, "", ""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        parts = fields.split(" ")
        if len(parts) < 5 or not rest:
            continue
        kind = rest.split(" ")[0]
        point = _unescaped(parts[4])
        is_above = point == "/" or directory == point or directory.startswith(point + "/")
        if is_above and parts[2] == wanted:
            by_device = kind
        if is_above and len(point) >= longest:
            longest, found = len(point), kind
    return by_device or found


def _unescaped(text: str) -> str:
    for written, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(written, plain)
    return text


@contextmanager
def locked(path: str, seconds: float, *, alone: bool) -> Generator[None, None, None]:
    """Hold the lock of the directory of a file, against the other processes that use this module.

    A file is opened by several at once, and set aside alone. The lock is that of the directory, so
    that no further file stays behind.

    Raises:
        StoreError: If it cannot be had in time.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where an open file is not set aside
        yield
        return
    try:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)  # noqa: PTH120
    except PermissionError as error:  # it may be passed through and not read
        if alone:
            raise refusal(error) from None
        yield
        return
    except OSError as error:
        raise refusal(error) from None
    try:
        until = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(directory, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise StoreError("timeout") from None
                time.sleep(_PAUSE)
            except OSError:  # the file system has no locks
                break
        yield
    finally:
        os.close(directory)


def set_aside(path: str, seen: tuple[int, int] | None, seconds: float) -> str | None:
    """Rename a damaged file and what is beside it, unless another process has done it.

    The file itself is renamed last, and nobody opens it meanwhile: a log beside a new file would
    be read into it.

    Args:
        path: Of the file.
        seen: Which file is damaged.
        seconds: How long to wait for the lock.

    Returns:
        Its new name; None if another process has renamed it.
    """
    with locked(path, seconds, alone=True):
        return _rename(path, (*BESIDE, "")) if identity(path) == seen else None


def warn_of(name: str) -> None:
    """Log how a damaged file is called now: somebody may want to repair it, or to remove it."""
    import logging  # here: it takes a while to load

    try:
        logging.getLogger("resilient_llm").warning(
            "the file of the store was damaged, and is set aside as %s", escaped(name)
        )
    except Exception:  # noqa: BLE001, S110  # a handler that fails is not the business of a store
        pass


def drop_log(path: str, seen: tuple[int, int], seconds: float) -> None:
    """Rename the log of a file that another one has replaced, so that it is not read into that.

    Args:
        path: Of the file.
        seen: Which log it is; another one belongs to the new file already.
        seconds: How long to wait for the lock.
    """
    with locked(path, seconds, alone=True):
        if identity(path + LOG) == seen:
            _rename(path, BESIDE)


def _rename(path: str, suffixes: tuple[str, ...]) -> str:
    """Rename a file, or what is beside it; return the new name of the file."""
    name = first = f"{path}.corrupt-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    number = 1
    while any(os.path.lexists(name + suffix) for suffix in ("", *BESIDE)):
        number += 1
        name = f"{first}-{number}"
    try:
        for suffix in suffixes:
            try:
                os.rename(path + suffix, name + suffix)  # noqa: PTH104
            except FileNotFoundError:
                pass
    except OSError as error:
        raise StoreError("corrupt", type(error).__name__) from None
    return name


def keep_log(connection: sqlite3.Connection) -> None:
    """Have SQLite leave the file and the log at the path alone when the connection is closed.

    Before Python 3.12 there is no way to say so; a file that was renamed is left alone in any case,
    and so is one that another connection has open.
    """
    configure: Callable[[int, bool], None] | None = getattr(connection, "setconfig", None)
    if configure is not None:
        configure(_NO_CHECKPOINT_ON_CLOSE, True)
