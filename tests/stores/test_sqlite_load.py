"""One file, three processes that write without a pause, and what people and disks do to the file.

Each process does what the library does: it sends a step again or gives it up, reads everything
after a loss, and writes back the highest total that it has seen.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import resilient_llm
from resilient_llm.stores.sqlite import SqliteStore
from resilient_llm.testing._contract._session import Session

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals, and files that are open"),
    pytest.mark.slow,
    pytest.mark.timeout(180),
]

ROOT = Path(resilient_llm.__file__).parent.parent
WORK = """
import os, sys
from resilient_llm._values.sharing import *
from resilient_llm.stores.sqlite import SqliteStore
from resilient_llm.testing._contract._session import Session, bench, name

path, on_corrupt = sys.argv[1:]
session = Session(SqliteStore(path, poll=0.1, on_corrupt=on_corrupt))
manual = bench(name("groq/"), "manual", None)
order = 0
spent = 0

def tell(*words):
    print(*words, flush=True)

tell("started")
is_read = False
while True:
    try:
        if not is_read:
            session.look()
            balances = (Balance("one", 0, None, spent, 0, 0, 0),)
            (done,) = session.publish(manual._replace(order=order), balances=balances)
            order = max(order, done.order)
            is_read = True
        found = session.settle(Settle(name(), (Entry("one", 0, None, 1, 1, 0),)))
        spent = max(spent, found["one"].spent)
        session.publish(bench("groq", ends_in=300.0), bench(name("openai/")))
        session.look()
        tell("spent", spent)
    except DataLostError:
        is_read = False
        tell("lost")
    except StoreError as error:
        is_read = False
        tell("failed", error.reason, error.type_name if error.reason == "error" else "")
"""


class Workers:
    """Processes that write, and what they have told."""

    def __init__(self, path: Path, on_corrupt: str) -> None:
        self._path = path
        self._on_corrupt = on_corrupt
        self._processes: list[subprocess.Popen[str]] = []
        self.told: Counter[str] = Counter()
        """``{what was told: how often}``"""
        self.spent = 0
        """The highest total that any of them was answered."""

    def start(self) -> None:
        """Start one more, and wait until it has loaded what it needs."""
        self._processes.append(
            subprocess.Popen(
                [sys.executable, "-c", WORK, os.fspath(self._path), self._on_corrupt],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},
            )
        )
        self._read(self._processes[-1])

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._take(process.stdout.readline())

    def _take(self, line: str) -> None:
        kind, _, rest = line.strip().partition(" ")
        if kind == "spent" and rest.isdigit():
            self.spent = max(self.spent, int(rest))
            rest = ""
        self.told[f"{kind} {rest}".strip()] += 1

    def run(self, lines: int) -> None:
        """Let each of them tell so many lines."""
        for _ in range(lines):
            for process in self._processes:
                self._read(process)

    def catch_up(self) -> None:
        """Let them go on until the file has all that they have told: lines wait to be read."""
        until = time.monotonic() + 30
        while spent(self._path) < self.spent:
            assert time.monotonic() < until, "a total has fallen"
            self.run(1)

    def kill(self) -> None:
        """End all of them at once, wherever they are."""
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
        for process in self._processes:
            assert process.stdout is not None
            assert process.stderr is not None
            rest, errors = process.stdout.read(), process.stderr.read()
            process.wait(20)
            process.stdout.close()
            process.stderr.close()
            for line in errors.splitlines():
                said, _, aside = line.partition(" as ")
                assert "the file of the store was damaged, and is set aside" == said, errors
                assert Path(aside).exists()
            for line in rest.splitlines():
                self._take(line)
        self._processes = []


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Callable[..., Workers]]:
    started: list[Workers] = []

    def start(on_corrupt: str = "replace", number: int = 3) -> Workers:
        started.append(Workers(tmp_path / "state.db", on_corrupt))
        for _ in range(number):
            started[-1].start()
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def integrity(path: Path) -> list[tuple[str]]:
    """Return what SQLite finds wrong in a file."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA integrity_check").fetchall()
    finally:
        connection.close()


def spent(path: Path) -> int:
    session = Session(SqliteStore(path))
    session.look()
    assert session.seen is not None
    session.store.close()
    return sum(each.spent for each in session.seen.balances)


WHOLE = [("ok",)]
ALLOWED = ("started", "spent", "lost", "failed timeout", "failed unreachable")


def test_the_file_is_whole_after_each_death(path: Path, workers: Callable[..., Workers]) -> None:
    """Three writers are killed at once, again and again; what was answered is there."""
    rng = random.Random(5)
    written = workers()
    for _ in range(4):
        written.run(rng.randrange(1, 12))
        written.kill()
        assert WHOLE == integrity(path)
        assert written.spent <= spent(path) <= written.spent + 3
        for _ in range(3):
            written.start()
    assert not [each for each in written.told if each.startswith(("lost", "failed"))]


def moved(path: Path, other: Path) -> None:
    path.rename(other)


def deleted(path: Path, other: Path) -> None:
    path.unlink()


def deleted_with_its_log(path: Path, other: Path) -> None:
    for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        each.unlink(missing_ok=True)


def replaced_by_an_empty_one(path: Path, other: Path) -> None:
    other.touch(0o600)
    other.rename(path)


@pytest.mark.parametrize(
    "act",
    [moved, deleted, deleted_with_its_log, replaced_by_an_empty_one],
    ids=lambda each: each.__name__,
)
def test_a_file_that_goes_under_load(
    path: Path, tmp_path: Path, workers: Callable[..., Workers], act: Callable[[Path, Path], None]
) -> None:
    """All go on in the file that is at the path, which is whole, and no total falls."""
    written = workers()
    for number in range(3):
        written.run(8)
        act(path, tmp_path / f"other-{number}.db")
    written.run(30)
    written.catch_up()
    written.kill()

    assert WHOLE == integrity(path)
    assert written.spent <= spent(path) <= written.spent + 3
    assert {"started", "spent", "lost"} <= set(written.told)
    assert not [each for each in written.told if each not in ALLOWED]


def backup(path: Path, to: Path) -> None:
    """Copy the file as SQLite does."""
    source, target = sqlite3.connect(path), sqlite3.connect(to)
    source.backup(target)
    source.close()
    target.close()


def test_an_old_backup_that_is_moved_to_the_path_under_load(
    path: Path, tmp_path: Path, workers: Callable[..., Workers]
) -> None:
    """It is noticed as a loss, and what living processes have seen is in it again."""
    written = workers()
    written.run(8)
    old = tmp_path / "backup.db"
    backup(path, old)
    for number in range(3):
        written.run(8)
        copy = tmp_path / f"copy-{number}.db"
        shutil.copy(old, copy)
        copy.rename(path)
    written.run(30)
    written.catch_up()
    written.kill()

    assert WHOLE == integrity(path)
    assert written.spent <= spent(path) <= written.spent + 3
    assert not [each for each in written.told if each not in ALLOWED]


def test_an_old_backup_that_is_written_over_the_file_under_load(
    path: Path, tmp_path: Path, workers: Callable[..., Workers]
) -> None:
    """With `cp` it stays the same file: if its parts contradict each other, it is set aside."""
    written = workers()
    written.run(8)
    old = tmp_path / "backup.db"
    backup(path, old)
    for _ in range(3):
        written.run(8)
        shutil.copyfile(old, path)
    # Who starts looks at the whole file, and so does each process once a minute.
    written.start()
    written.run(40)
    written.catch_up()
    written.kill()

    assert WHOLE == integrity(path)
    assert written.spent <= spent(path) <= written.spent + 4


def spoil(path: Path, rng: random.Random) -> None:
    """Overwrite every page but the first one, as a disk does that fails."""
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(rng.randbytes(4096))


def test_pages_that_go_bad_under_load(path: Path, workers: Callable[..., Workers]) -> None:
    """All processes move to a fresh file, and write back what they have seen."""
    written = workers()
    for seed in range(2):
        written.run(10)
        checkpoint(path)
        spoil(path, random.Random(seed))
        written.start()
        written.run(30)
    written.catch_up()
    written.kill()

    assert [*path.parent.glob("state.db.corrupt-*")]
    assert WHOLE == integrity(path)
    assert written.spent <= spent(path) <= written.spent + 5


def test_pages_that_go_bad_under_load_with_refuse(
    path: Path, workers: Callable[..., Workers]
) -> None:
    """The file stays where it is, and the reason is told until it is repaired."""
    written = workers("refuse")
    written.run(10)
    checkpoint(path)
    spoil(path, random.Random(1))
    written.start()
    written.run(10)
    written.kill()

    assert written.told["failed corrupt"]
    assert not [*path.parent.glob("*.corrupt-*")]


def checkpoint(path: Path) -> None:
    """Have the log written into the file, which else holds next to nothing."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    connection.close()
