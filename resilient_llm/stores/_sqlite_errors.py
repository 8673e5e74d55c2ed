"""What the errors of SQLite and of the system mean for a `SqliteStore`."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from resilient_llm._values.sharing import StoreError

if TYPE_CHECKING:
    import sqlite3

    from resilient_llm._values.sharing import Reason

# Codes of SQLite; those above 255 say more than their last byte. The module has names for them
# only where it was built with an SQLite that knows them.
_FULL_CODES: Final = {778, 4874}
"""SQLITE_IOERR_WRITE, of a quota or a limit of the size of files, and SQLITE_IOERR_SHMSIZE."""
_OF_SQLITE: Final[dict[int, Reason]] = {
    3: "auth",
    5: "timeout",
    6: "timeout",
    8: "read_only",
    11: "corrupt",
    13: "full",
    14: "unreachable",
    23: "auth",
    26: "corrupt",
}
_OF_SYSTEM: Final[dict[int, Reason]] = {
    errno.EACCES: "auth",
    errno.EPERM: "auth",
    errno.EROFS: "read_only",
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EFBIG: "full",
    errno.ENOENT: "unreachable",
    errno.ENOTDIR: "unreachable",
    errno.EISDIR: "unreachable",
}


def refusal(error: sqlite3.Error | OSError) -> StoreError:
    """Return what an error means for the store."""
    if isinstance(error, OSError):
        return StoreError(_OF_SYSTEM.get(error.errno or 0, "error"), type(error).__name__)
    code = getattr(error, "sqlite_errorcode", 0)
    reason = "full" if code in _FULL_CODES else _OF_SQLITE.get(code & 0xFF, "error")
    return StoreError(reason, getattr(error, "sqlite_errorname", "") or type(error).__name__)
