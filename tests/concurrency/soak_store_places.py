"""Where the soak of a store keeps its state, and all that may happen to that."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from tests.support.proxy import Proxy
from tests.support.valkey import Server, free_port


class Place(Protocol):
    """A store, and all that may happen to it."""

    url: str

    @property
    def deeds(self) -> dict[str, Callable[[], None]]: ...
    def after_kill(self) -> str: ...
    def heal(self) -> None: ...
    def close(self) -> None: ...


class InValkey:
    """A server of its own, behind a proxy."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._server = Server(port=free_port())
        self._proxy = Proxy(self._server.port)
        self.url = f"redis://127.0.0.1:{self._proxy.port}"

    @property
    def deeds(self) -> dict[str, Callable[[], None]]:
        return {
            "server killed": self._kill,
            "server flushed": self._flush,
            "server stopped": self._stop,
            "connections cut": self._cut,
            "nothing forwarded": lambda: self._for_a_while("is_silent", True),
            "answers late": lambda: self._for_a_while("delay", 0.3),
            "answers in bytes": lambda: self._for_a_while("drip", 0.01),
            "answer truncated": lambda: setattr(
                self._proxy, "cut_after", self._rng.randrange(1, 60)
            ),
        }

    def _pause(self) -> None:
        time.sleep(self._rng.uniform(0.2, 1.5))

    def _kill(self) -> None:
        self._server.kill()
        self._pause()
        self._server.start()

    def _flush(self) -> None:
        with self._server.client() as client:
            client.flushall()

    def _stop(self) -> None:
        self._server.signal(signal.SIGSTOP)
        self._pause()
        self._server.signal(signal.SIGCONT)

    def _cut(self) -> None:
        self._proxy.is_refusing = True
        self._proxy.cut()
        self._pause()
        self._proxy.is_refusing = False

    def _for_a_while(self, name: str, value: Any) -> None:
        before = getattr(self._proxy, name)
        setattr(self._proxy, name, value)
        self._pause()
        setattr(self._proxy, name, before)

    def after_kill(self) -> str:
        return "ok"

    def heal(self) -> None:
        self._proxy.cut_after = None

    def close(self) -> None:
        self._proxy.close()
        self._server.close()


class InSqlite:
    """A file, which others look at and copy in processes of their own: a process that closes the
    file by other means than SQLite gives up the locks that it has on it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._directory = Path(tempfile.mkdtemp(prefix="soak-"))
        self._path = self._directory / "app.db"
        self._copies = 0
        self.url = f"sqlite://{self._path}"

    @property
    def deeds(self) -> dict[str, Callable[[], None]]:
        return {
            "database copied": self._copy,
            "database locked": self._lock,
            "file removed": self._remove,
            "old copy put back": self._put_back,
        }

    def _sql(self, code: str, *given: str) -> str:
        """Run some code with ``db`` connected to the file."""
        head = (
            "import sqlite3, sys, time\n"
            f"db = sqlite3.connect({str(self._path)!r}, timeout=10, isolation_level=None)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", head + code, *given],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return (done.stdout + done.stderr).strip()

    def _copy(self) -> None:
        self._copies += 1
        self._sql(
            "copy = sqlite3.connect(sys.argv[1]); db.backup(copy); "
            "copy.execute('PRAGMA journal_mode = DELETE'); copy.close()",
            str(self._directory / f"copy-{self._copies}.db"),
        )
        found = self._check(self._directory / f"copy-{self._copies}.db")
        if found != "ok":
            raise AssertionError(f"the copy of a database is not whole: {found}")

    def _check(self, path: Path) -> str:
        return self._sql(
            "db = sqlite3.connect(sys.argv[1], timeout=10)\n"
            "print(*db.execute('PRAGMA integrity_check').fetchone())",
            str(path),
        )

    def _lock(self) -> None:
        self._sql(
            "db.execute('BEGIN IMMEDIATE'); time.sleep(float(sys.argv[1])); db.execute('COMMIT')",
            str(self._rng.uniform(0.2, 1.5)),
        )

    def _remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def _put_back(self) -> None:
        if self._copies:
            copy = self._directory / f"copy-{self._rng.randint(1, self._copies)}.db"
            again = self._directory / "again.db"
            shutil.copy(copy, again)
            again.replace(self._path)

    def after_kill(self) -> str:
        found = "ok"
        for _ in range(5):
            if not self._path.exists():
                return "ok"
            found = self._check(self._path)
            # It cannot be read while another file takes its place; a damaged one stays damaged.
            if "OperationalError" not in found:
                break
            time.sleep(0.2)
        return found

    def heal(self) -> None:
        """Nothing: whatever was done is over."""

    def close(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


PLACES: Final[dict[str, Callable[[random.Random], Place]]] = {
    "valkey": InValkey,
    "sqlite": InSqlite,
}
