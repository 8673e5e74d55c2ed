"""The log of a `SqliteStore` that is no longer at the path, while the file is: all meet again."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import resilient_llm
from resilient_llm._values.sharing import DataLostError, StoreError
from resilient_llm.stores import _sqlite_file
from resilient_llm.stores.sqlite import SqliteStore
from resilient_llm.testing._contract._session import Session, bench

ROOT = Path(resilient_llm.__file__).parent.parent
OTHER = """
import shutil, sys
from resilient_llm._values.sharing import *
from resilient_llm.stores.sqlite import SqliteStore
from resilient_llm.testing._contract._session import Session, bench
path = sys.argv[1]
session = Session(SqliteStore(path))

def do(what, key=""):
    try:
        if what == "publish":
            session.publish(bench(key))
        elif what == "copy":
            shutil.copy(path, path + ".copy-by-another")
        elif what == "look":
            session.revision = 0
            return " ".join(sorted(each.key for each in session.look()))
        elif what == "epoch":
            return session.epoch
    except StoreError as error:
        return error.reason
    except DataLostError:
        session.look()
        return "lost"
    return ""

for line in sys.stdin:
    print(do(*line.split()), flush=True)
"""

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="files that are open are not removed"
)


class Other:
    """A process that uses the file and does what it is told."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", OTHER, os.fspath(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},
        )

    def __call__(self, what: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def end(self) -> None:
        self._process.communicate(timeout=50)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=50)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def other(path: Path) -> Iterator[Callable[[], Other]]:
    """Return what starts processes, which end with the test."""
    with contextlib.ExitStack() as stack:

        def start() -> Other:
            started = Other(path)
            stack.callback(started.kill)
            return started

        yield start


def opened(path: Path, **options: str) -> Session:
    session = Session(SqliteStore(path, poll=0.1, **options))
    session.look()
    return session


def is_whole(path: Path) -> bool:
    connection = sqlite3.connect(path)
    found = connection.execute("PRAGMA integrity_check").fetchall()
    connection.close()
    return [("ok",)] == found


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def lose_log(path: Path, living: Other, start: Callable[[], Other]) -> None:
    beside(path, "-wal").unlink()


def lose_memory(path: Path, living: Other, start: Callable[[], Other]) -> None:
    beside(path, "-shm").unlink()


def lose_both(path: Path, living: Other, start: Callable[[], Other]) -> None:
    beside(path, "-wal").unlink()
    beside(path, "-shm").unlink()


def rename_log(path: Path, living: Other, start: Callable[[], Other]) -> None:
    beside(path, "-wal").rename(beside(path, "-wal.old"))


def empty_file(path: Path, living: Other, start: Callable[[], Other]) -> None:
    os.truncate(path, 0)


def lose_locks(path: Path, living: Other, start: Callable[[], Other]) -> None:
    """Copy the file in all processes that have it open; the next one to end thinks it is the last."""
    shutil.copy(path, beside(path, ".copy"))
    living("copy")
    short = start()
    assert "groq openai" == short("look")
    short.end()
    assert not beside(path, "-wal").exists()


FAULTS = [lose_log, lose_memory, lose_both, rename_log, empty_file, lose_locks]


@pytest.mark.parametrize("fault", FAULTS)
def test_all_processes_meet_again(
    path: Path, other: Callable[[], Other], fault: Callable[..., None]
) -> None:
    """Those that had the log move to a fresh file, and so does one that came meanwhile."""
    a, b = opened(path), other()
    a.publish(bench("groq"))
    b("look")
    b("publish openai")
    a.look()
    fault(path, b, other)
    c = other()
    c("publish mistral")  # it has a log of its own, or cannot use the file yet

    with pytest.raises(DataLostError):
        a.publish(bench("cohere"))
    a.look()
    assert a.seen is not None
    assert a.seen.is_lost
    a.publish(bench("groq"), bench("openai"))
    assert "lost" == b("publish xai")
    assert c("publish deepseek") in ("lost", "")
    c("publish deepseek")

    assert "deepseek groq openai" == b("look") == c("look") == other()("look")
    assert a.epoch == b("epoch") == c("epoch")
    for each in (b, c):
        each.end()
    a.store.close()
    assert is_whole(path)


def test_a_wait_ends_when_the_log_is_gone(path: Path) -> None:
    """Nothing has to be published for that."""
    session = opened(path)
    session.publish(bench("groq"))
    session.look()
    beside(path, "-wal").unlink()

    assert session.store.wait(session.revision, 30.0)
    session.look()
    assert session.seen is not None
    assert session.seen.is_lost


def test_a_file_that_is_emptied_is_lost_data(path: Path) -> None:
    """Even if all of it is in the log still, and nobody else has come."""
    session = opened(path)
    session.publish(bench("groq"))
    os.truncate(path, 0)

    with pytest.raises(DataLostError):
        session.publish(bench("openai"))

    assert path.stat().st_size > 0


def test_what_was_written_to_a_log_that_went_is_not_answered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the log is removed while a step runs, the session does not think that it was done."""
    session = opened(path)
    looks = iter([_sqlite_file.beside(os.fspath(path))])

    def look(_: str) -> tuple[tuple[int, int] | None, ...]:
        return next(looks, ((0, 0), (0, 0)))

    monkeypatch.setattr(_sqlite_file, "beside", look)

    with pytest.raises(DataLostError):
        session.publish(bench("groq"))


def test_with_refuse_a_file_without_its_log_stays(path: Path) -> None:
    """Nothing is renamed, and the store cannot be used until a whole file is at the path."""
    session = opened(path, on_corrupt="refuse")
    session.publish(bench("groq"))
    beside(path, "-wal").unlink()

    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            session.publish(bench("openai"))
        assert ("corrupt", "AnotherLog") == (caught.value.reason, caught.value.type_name)
        session.store.close()  # and it is not forgotten with the connection
    assert [] == list(path.parent.glob("*.corrupt-*"))
    whole = path.with_name("whole.db")
    opened(whole).store.close()
    whole.replace(path)
    for each in path.parent.glob(f"{path.name}-*"):
        each.unlink()
    session.look()
    session.publish(bench("openai"))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="SQLite cannot be told")
def test_a_connection_without_its_log_is_closed_without_a_trace(
    path: Path, other: Callable[[], Other]
) -> None:
    """A process that ends leaves the log of others there, with what nobody else has."""
    session, living = opened(path), other()
    session.publish(bench("groq"))
    living("look")
    living("publish openai")
    lose_locks(path, living, other)
    late = other()
    late("look")
    late("publish mistral")
    late.kill()
    living.kill()
    before = {each: each.read_bytes() for each in (path, beside(path, "-wal"))}

    session.store.close()

    assert before == {each: each.read_bytes() for each in (path, beside(path, "-wal"))}
    assert "groq mistral openai" == other()("look")


def test_a_log_that_went_before_a_fork_is_lost_data(path: Path) -> None:
    """The connection is closed for the fork, and what has happened to it is noticed after that."""
    session = opened(path)
    session.publish(bench("groq"))
    beside(path, "-wal").unlink()
    store = session.store
    assert isinstance(store, SqliteStore)

    store.before_fork()
    store.after_fork_in_parent()

    session.look()
    assert session.seen is not None
    assert session.seen.is_lost
    found = [each for each in path.parent.glob("*.corrupt-*") if not each.name.endswith("-shm")]
    assert 1 == len(found)


def test_a_file_that_cannot_be_opened_at_once_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a move, only the file that lost its log is set aside."""
    session = opened(path)
    session.publish(bench("groq"))
    beside(path, "-wal").unlink()
    store = session.store
    assert isinstance(store, SqliteStore)

    def connect(*_: object, **__: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect)
        with pytest.raises(StoreError):
            session.look()
    fresh = _sqlite_file.identity(os.fspath(path))
    session.look()

    assert fresh == _sqlite_file.identity(os.fspath(path))


@pytest.mark.parametrize("size", ["none", "empty"])
def test_a_new_file_takes_nothing_of_one_that_others_still_use(
    path: Path, tmp_path: Path, other: Callable[[], Other], size: str
) -> None:
    """Who makes it never had that open: its log goes, and so does the memory that tells of it."""
    used = other()
    used("look")
    for number in range(20):
        used(f"publish groq/{number}")
    log = beside(path, "-wal").stat().st_ino
    path.rename(tmp_path / "moved.db")
    if size == "empty":
        path.touch(0o600)

    made = opened(path)
    made.publish(bench("openai"))

    assert log != beside(path, "-wal").stat().st_ino
    assert "openai" == other()("look")
    assert "lost" == used("publish mistral")
    used("publish mistral")
    assert "mistral openai" == used("look") == other()("look")


def test_a_file_that_goes_while_it_is_opened_is_made_anew(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What SQLite says of it, which depends on the moment, is no error of the store."""
    names = iter(["one.db", "two.db"])
    prepare = SqliteStore._prepare

    def gone(self: SqliteStore, connection: sqlite3.Connection, *, may_write: bool) -> None:
        for name in names:
            path.rename(tmp_path / name)
            raise sqlite3.OperationalError("disk I/O error")
        prepare(self, connection, may_write=may_write)

    monkeypatch.setattr(SqliteStore, "_prepare", gone)
    session = Session(SqliteStore(path))
    assert [] == session.look()
    assert (tmp_path / "one.db").exists()
    assert (tmp_path / "two.db").exists()


def test_a_file_that_goes_in_the_midst_of_a_step_is_out_of_reach(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next step opens the one that is at the path then."""
    session = Session(SqliteStore(path))
    session.look()

    def gone(*_: object) -> None:
        path.rename(tmp_path / "moved.db")
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(SqliteStore, "_check", gone)
        with pytest.raises(StoreError) as caught:
            session.look()
    assert ("unreachable", "OperationalError") == (caught.value.reason, caught.value.type_name)
    assert [] == session.look()


def test_an_error_that_has_no_reason_of_its_own_says_its_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise sqlite3.OperationalError("nobody knows")

    session = opened(path)
    monkeypatch.setattr(SqliteStore, "_check", fails)
    with pytest.raises(StoreError, match=r"^the store cannot be used: error \(OperationalError\)$"):
        session.look()
