"""The file of `SqliteStore`: who may read it, what is wrong with it, and who else has it."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import ConfigurationError, ErrorKind
from resilient_llm._core.sharing.records import SharedBench, bench_body, read
from resilient_llm._values.sharing import (
    Balance,
    Bench,
    Charge,
    Claim,
    DataLostError,
    Entry,
    Reserve,
    Settle,
    StoreError,
)
from resilient_llm.stores import _sqlite_file, sqlite
from resilient_llm.stores._sqlite_tables import VERSION
from resilient_llm.stores.sqlite import SqliteStore
from resilient_llm.testing._contract._session import Session, bench, charge, end, name

PATH = "state.db"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / PATH


def opened(path: Path, **options: Any) -> Session:
    """Return a session that has read everything."""
    session = Session(SqliteStore(path, poll=0.1, **options))
    session.look()
    return session


def reason_of(session: Session) -> str:
    """Return why a session cannot publish, or an empty text."""
    try:
        session.publish(bench("groq"))
    except StoreError as error:
        return error.reason
    return ""


def row_of(path: Path, query: str, *values: object) -> Any:
    with sqlite3.connect(path) as connection:
        found = connection.execute(query, values).fetchone()
    connection.close()
    return found


def test_nothing_is_opened_before_the_first_step(path: Path) -> None:
    """To make a store does no I/O, so a path that is wrong is found by the first step."""
    store = SqliteStore(path / "missing" / PATH)
    assert not path.exists()

    with pytest.raises(StoreError) as caught:
        Session(store).look()

    assert ("unreachable", "the store cannot be used: unreachable") == (
        caught.value.reason,
        str(caught.value),
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"namespace": "a b"}, "a namespace of 3 characters is not allowed"),
        ({"namespace": "a\n"}, "a namespace of 2 characters"),
        ({"namespace": ""}, "a namespace of 0 characters"),
        ({"namespace": 7}, "a namespace of 7 is"),
        ({"poll": 0.05}, "poll="),
        ({"poll": 61}, "poll="),
        ({"on_corrupt": "ignore"}, "on_corrupt="),
    ],
)
def test_options_are_checked(path: Path, options: dict[str, Any], text: str) -> None:
    """A wrong option says what is allowed."""
    with pytest.raises(ConfigurationError, match=text):
        SqliteStore(path, **options)


def test_the_url_is_absolute(path: Path) -> None:
    """It is the one that users write."""
    assert f"sqlite://{path}" == SqliteStore(path).url


def test_only_the_owner_reads_a_new_file(path: Path) -> None:
    """So it is with what SQLite keeps beside it."""
    before = os.umask(0)
    try:
        session = opened(path)
        session.publish(bench("groq"))
    finally:
        os.umask(before)

    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert {PATH: 0o600, f"{PATH}-wal": 0o600, f"{PATH}-shm": 0o600} == modes


def test_spending_is_on_the_disk_when_it_is_answered(path: Path) -> None:
    """Spending is written through, and benches are not: they would only be slower."""
    session = opened(path)
    store = session.store
    assert isinstance(store, SqliteStore)

    def durability() -> tuple[str, int]:
        connection = store._connection
        assert connection is not None
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
        return mode, level

    session.publish(bench("groq"))
    assert ("wal", 1) == durability()
    session.reserve(Reserve(name(), ()))
    assert ("wal", 2) == durability()
    session.claim(Claim("groq", 30.0))
    assert ("wal", 1) == durability()
    session.settle(Settle(name()))
    assert ("wal", 2) == durability()
    session.publish()
    session.publish(balances=(Balance("a", 0, None, 1),))
    assert ("wal", 2) == durability()


def test_namespaces_are_apart(path: Path) -> None:
    """Two of them in one file share nothing."""
    a, b = opened(path, namespace="a"), opened(path, namespace="b")

    a.publish(bench("groq"))

    assert [] == b.look()
    assert a.epoch != b.epoch
    assert b.seen is not None
    assert 1 == b.seen.peers


def test_two_stores_notice_each_other_within_poll(path: Path) -> None:
    """A wait ends when another connection has published, and not when it has spent."""
    a, b = opened(path), opened(path)
    news: list[bool] = []
    thread = threading.Thread(target=lambda: news.append(a.store.wait(a.revision, 30.0)))
    thread.start()

    b.settle(Settle(name(), (Entry("a", 0, None, 5, 1, 0),)))
    thread.join(0.3)
    assert thread.is_alive()
    b.publish(bench("groq"))
    thread.join(10.0)

    assert [True] == news


# Damage.


def aside(path: Path) -> list[Path]:
    """Return the files that were set aside, without what is beside them."""
    found = path.parent.glob(f"{PATH}.corrupt-*")
    return [each for each in found if not each.name.endswith(("-wal", "-shm"))]


def damage(path: Path) -> None:
    """Overwrite the pages of a file that nobody has open."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * (size - 100))


def garble(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


@pytest.mark.parametrize("spoil", [damage, garble])
def test_a_damaged_file_is_set_aside(path: Path, spoil: Any) -> None:
    """The next step begins a new one, and every session learns that data was lost."""
    session = opened(path)
    session.publish(bench("groq"))
    session.store.close()
    spoil(path)
    spoilt = path.read_bytes()

    with pytest.raises(DataLostError):
        session.publish(bench("openai"))
    session.look()

    assert session.seen is not None
    assert session.seen.is_lost
    session.publish(bench("openai"))
    (found,) = aside(path)
    assert spoilt == found.read_bytes()
    assert ["openai"] == [each.key for each in session.look()]


def test_who_has_renamed_a_damaged_file_warns_once(path: Path) -> None:
    """With the new name and without a lock; a handler that fails changes nothing."""
    a, b = opened(path), opened(path)
    for session in (a, b):
        session.store.close()
    garble(path)
    told: list[tuple[int, str, bool]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            store: Any = a.store
            is_free = store._lock.acquire(blocking=False)
            told.append((record.levelno, record.getMessage(), is_free))
            if is_free:
                store._lock.release()
            raise KeyError("a handler that fails")

    handler = Handler()
    logging.getLogger("resilient_llm").addHandler(handler)
    try:
        for session in (a, b):
            session.look()
    finally:
        logging.getLogger("resilient_llm").removeHandler(handler)

    (found,) = aside(path)
    said = f"the file of the store was damaged, and is set aside as {found}"
    assert [(logging.WARNING, said, True)] == told


def test_all_processes_move_to_the_fresh_file(path: Path) -> None:
    """A store that has the damaged file open leaves it, and harms the log of the new one not."""
    a, b = opened(path), opened(path)
    a.publish(bench("groq"))
    b.look()
    # Pages of the file, of which both have old copies. The log is written into it first.
    row_of(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"\xa5" * (path.stat().st_size - 100), 100)

    for session in (a, b):
        with pytest.raises(DataLostError):
            session.publish(bench("openai"))
        session.look()
        session.publish(bench(name("mistral/")), bench(name("cohere/")))
    c = opened(path)

    assert a.epoch == b.epoch == c.epoch
    assert 4 == len([each for each in Session(c.store).look() if each.through is None])
    for session in (a, b, c):
        session.store.close()
    assert ("ok",) == row_of(path, "PRAGMA integrity_check")
    assert 1 == len(aside(path))


def test_with_refuse_a_damaged_file_stays(path: Path) -> None:
    """Nothing is renamed, and the store cannot be used until it is repaired."""
    session = opened(path, on_corrupt="refuse")
    session.store.close()
    whole = path.read_bytes()
    garble(path)

    assert ["corrupt"] * 2 == [reason_of(session) for _ in range(2)]
    assert [PATH] == [each.name for each in path.parent.iterdir()]
    path.write_bytes(whole)
    assert "" == reason_of(session)


def test_names_of_damaged_files_are_unique(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two in one second are two files."""
    monkeypatch.setattr(_sqlite_file.time, "strftime", lambda *_: "now")
    for _ in range(3):
        garble(path)
        opened(path).store.close()

    names = sorted(each.name for each in aside(path))
    assert [*(f"{PATH}.corrupt-now{number}" for number in ("", "-2", "-3"))] == names


def test_a_newer_schema_is_left_alone(path: Path) -> None:
    """A file of a later release cannot be used by this one."""
    session = opened(path)
    session.store.close()
    row_of(path, f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()

    with pytest.raises(StoreError) as caught:
        session.look()

    assert "newer_schema" == caught.value.reason
    session.store.close()
    assert before == path.read_bytes()


def test_a_database_of_somebody_else_is_left_alone(path: Path) -> None:
    """Tables of another program are neither changed nor set aside."""
    row_of(path, "CREATE TABLE users (name)")
    before = path.read_bytes()

    with pytest.raises(StoreError) as caught:
        opened(path)

    assert ("error", "ForeignDatabase") == (caught.value.reason, caught.value.type_name)
    assert [(PATH, before)] == [(each.name, each.read_bytes()) for each in path.parent.iterdir()]


# Another file at the path.


def test_a_file_that_is_gone_is_lost_data(path: Path) -> None:
    """A new one begins, and the benches that the session knows are written back."""
    session = opened(path)
    known = bench("groq")
    (published,) = session.publish(known)
    path.unlink()

    with pytest.raises(DataLostError):
        session.publish(bench("openai"))
    session.look()
    session.publish(known._replace(order=published.order))

    (found,) = session.look()
    assert ("groq", published.order) == (found.key, found.order)


def test_an_old_copy_at_the_path_is_lost_data(path: Path) -> None:
    """A backup that replaces the file is noticed by all, and its log is not that of the file before."""
    a, b = opened(path), opened(path)
    a.publish(bench("groq"))
    copy = path.with_suffix(".bak")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    a.publish(bench("openai"))
    b.look()
    epoch = a.epoch
    copy.replace(path)

    with pytest.raises(DataLostError):
        a.reserve(Reserve(name(), ()))
    b.look()

    assert b.seen is not None
    assert (True, True) == (b.epoch != epoch, b.seen.is_lost)
    a.look()
    assert a.epoch == b.epoch
    assert ["groq"] == [each.key for each in Session(b.store).look()]
    for session in (a, b):
        session.publish(bench("mistral"))
        session.store.close()
    assert ("ok",) == row_of(path, "PRAGMA integrity_check")


def test_what_was_written_to_a_file_that_went_is_not_answered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the file is replaced while a step runs, the session does not think that it was done."""
    session = opened(path)
    identity = _sqlite_file.identity
    looks = iter([identity(os.fspath(path))])

    def look(each: str) -> tuple[int, int] | None:
        return next(looks, (0, 0)) if each == os.fspath(path) else identity(each)

    monkeypatch.setattr(_sqlite_file, "identity", look)

    with pytest.raises(DataLostError):
        session.publish(bench("groq"))


def test_a_wait_ends_when_another_file_is_there(path: Path) -> None:
    """Even if the new one has less in it."""
    session = opened(path)
    session.publish(bench("groq"))
    session.look()
    news: list[bool] = []
    thread = threading.Thread(
        target=lambda: news.append(session.store.wait(session.revision, 30.0))
    )
    thread.start()
    thread.join(0.05)

    path.unlink()
    thread.join(10.0)

    assert [True] == news


# What keeps it from being written.


def test_a_network_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of other machines do not see the locks, so nothing is opened at all."""
    mounts = path.parent / "mountinfo"
    mounts.write_text(
        "22 1 0:20 / / rw - ext4 /dev/vda rw\n"
        f"23 22 0:99 / {path.parent} rw,relatime shared:1 - nfs4 server:/data rw\n"
    )
    monkeypatch.setattr(_sqlite_file, "MOUNTS", os.fspath(mounts))

    with pytest.raises(StoreError) as caught:
        opened(path)

    assert "network_filesystem" == caught.value.reason
    assert not path.exists()


@pytest.mark.parametrize(
    ("directory", "device", "expected"),
    [
        ("/data/app", os.makedev(0, 51), "nfs4"),
        ("/data", os.makedev(7, 7), "nfs4"),
        ("/database", os.makedev(7, 7), "ext4"),
        ("/my files/x", os.makedev(7, 7), "cifs"),
        ("/data/local", os.makedev(8, 1), "xfs"),
        ("/elsewhere", os.makedev(0, 51), "ext4"),
    ],
)
def test_the_file_system_is_that_of_the_directory(
    directory: str, device: int, expected: str
) -> None:
    """The device decides if it is that of a mount above, else the longest mount point."""
    mounts = (
        "22 1 8:2 / / rw - ext4 /dev/vda rw\n"
        "30 22 0:51 / /data rw shared:7 master:1 - nfs4 host:/ rw\n"
        "31 30 8:1 / /data/local rw - xfs /dev/sda rw\n"
        "32 22 0:52 / /my\\040files rw - cifs //host/x rw\n"
        "damaged\n"
    )

    assert expected == _sqlite_file.file_system(mounts, directory, device)


def test_without_proc_a_file_system_is_local(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On other systems nothing tells, and nothing is refused."""
    monkeypatch.setattr(_sqlite_file, "MOUNTS", "/nowhere")

    assert "" == reason_of(opened(path))


def test_a_step_waits_for_the_lock_no_longer_than_it_may(path: Path) -> None:
    """Somebody who holds the lock for long makes the store unavailable, and is no reason to fail."""
    session = opened(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()

    with pytest.raises(StoreError) as caught:
        session.store.publish(session.stamp(), [bench("groq")], timeout=0.2)
    seconds = time.monotonic() - began
    found = session.look()
    other.execute("COMMIT")
    other.close()

    assert ("timeout", []) == (caught.value.reason, found)
    assert seconds < 3.0
    assert "" == reason_of(session)


# What somebody has written into it.


def write(path: Path, *queries: str) -> None:
    """Write into the file what no release would."""
    connection = sqlite3.connect(path, isolation_level=None)
    for query in ("PRAGMA ignore_check_constraints = ON", *queries):
        connection.execute(query)
    connection.close()


def real(key: str) -> Bench:
    """Return a bench as the library publishes it."""
    shared = SharedBench(key, "automatic", name(), 0, 60.0, 60.0, 0.0, ErrorKind.TRANSIENT, "x")
    return bench(key)._replace(body=bench_body(shared))


HOSTILE = """
    UPDATE benches SET place = 'x'
    UPDATE benches SET place = x'ff'
    UPDATE benches SET began_at = 'x'
    UPDATE benches SET ends_at = 'x'
    UPDATE benches SET body = 'x'
    UPDATE benches SET body = zeroblob(5000000)
    UPDATE benches SET layer = 'other'
    UPDATE benches SET key = CAST(x'80' AS TEXT)
    UPDATE benches SET key = x'00'
    UPDATE benches SET key = printf('%.*c', 600, 'x')
    UPDATE benches SET id = ''
    UPDATE ends SET through = 'x'
    UPDATE ends SET place = 1.5
    UPDATE ends SET ids = 'x'
    UPDATE ends SET ids = '[7]'
    UPDATE ends SET ids = x'00'
    UPDATE ends SET ended_at = 'x'
    UPDATE ends SET body = 7
""".strip().splitlines()


@pytest.mark.parametrize("query", [each.strip() for each in HOSTILE])
def test_hostile_records_are_found_and_refused(path: Path, query: str) -> None:
    """What is wrong in one record harms no look and no other record."""
    session = opened(path)
    session.publish(real("groq"), end("groq", 0, "other", layer="pause"))
    write(path, query)
    session.publish(real("openai"))

    found = Session(session.store).look()

    assert (3, 2) == (len(found), len([each for each in found if read(each) is not None]))
    for key in ("groq", "openai"):
        session.publish(bench(key), end(key, 1, layer="pause"))


@pytest.mark.parametrize(
    "query",
    [
        "UPDATE accounts SET spent = 'x'",
        "UPDATE accounts SET spent = -5",
        "UPDATE accounts SET spent = '٣'",
        "UPDATE accounts SET reserved = printf('%.*c', 5000, '9')",
        "UPDATE accounts SET calls = x'00'",
        "UPDATE accounts SET stop = 'x'",
        "UPDATE reservations SET parts = 'x'",
        "UPDATE reservations SET parts = '[[1]]'",
        "UPDATE reservations SET parts = '[[1, 2, 3, 4, 5]]'",
        "UPDATE reservations SET ends_at = 'x'",
        "UPDATE sessions SET number = 'x'",
        "UPDATE sessions SET seen_at = 'x'",
        "UPDATE claims SET ends_at = 'x'",
        "UPDATE ended SET at = 'x'",
        "UPDATE namespaces SET published = 9e99",
        "UPDATE namespaces SET epoch = 'x'",
        "DELETE FROM namespaces",
        "DROP TABLE claims",
    ],
)
def test_hostile_values_raise_nothing_else(path: Path, query: str) -> None:
    """Whatever else is in the file, a step does its work or raises one of the two errors."""
    session = opened(path)
    wanted = charge("a", 5, 10, session.now())
    session.reserve(Reserve("r", (wanted,)))
    session.claim(Claim("groq", 30.0))
    write(path, query)

    for _ in range(3):
        for step in (
            session.look,
            lambda: session.publish(bench("groq"), end("groq", 0, "b")),
            lambda: session.claim(Claim("groq", 30.0)),
            lambda: session.reserve(Reserve("r", (wanted,)), Reserve(name(), (wanted,))),
            lambda: session.settle(Settle("r", (Entry("a", wanted.start, wanted.end, 1, 1, 0),))),
        ):
            try:
                step()
            except (StoreError, DataLostError):
                pass
    session.look()


def test_a_revision_out_of_reach_blinds_nobody(path: Path) -> None:
    """A record that claims a later revision than the store has is not told, and others are."""
    session = opened(path)
    session.publish(bench("groq"))
    write(path, f"UPDATE benches SET revision = {2**62}")

    assert [] == session.look()
    session.publish(bench("openai"))
    assert ["openai"] == [each.key for each in session.look()]


# Size.


def test_a_look_costs_what_changed(path: Path) -> None:
    """With 10,000 keys in the file, a look reads the rows that are new."""
    session = opened(path)
    for start in range(0, 10_000, 1000):
        session.publish(*(bench(f"p/{start + each}") for each in range(1000)))
    reader = Session(session.store)
    assert 10_000 == len(reader.look())
    store = session.store
    assert isinstance(store, SqliteStore)
    steps: list[int] = []

    def looked() -> int:
        """Return how many instructions of SQLite a look takes."""
        steps.clear()
        assert store._connection is not None
        store._connection.set_progress_handler(lambda: steps.append(1), 1)
        reader.look()
        store._connection.set_progress_handler(None, 1)
        return len(steps)

    nothing = looked()
    session.publish(bench("groq"))
    one = looked()

    assert nothing < 500
    assert one < 1000


def test_what_nobody_needs_is_forgotten(path: Path) -> None:
    """A day after, nothing is left of what is over, and what lasts is there."""
    session = opened(path)
    store = session.store
    assert isinstance(store, SqliteStore)
    now = int(session.now())
    short = Charge("short", now - 10, now + 10, 5, 10)
    session.reserve(Reserve(name(), (short,)), Reserve("held", (charge("held", 1, 9, now),)))
    session.claim(Claim("groq", 30.0))
    session.publish(bench("groq"), bench("openai", "manual", None), end("groq", 0, "x"))
    opened(path).store.close()

    for day in (2.0, 4.0):  # what is held is booked on the first, and forgotten on the second
        for minute in range(3):
            store._wall = lambda ahead=day * 86_400 + minute * 60: time.time() + ahead
            session.reserve()

    tables = ("benches", "ends", "ended", "claims", "accounts", "reservations", "sessions")
    counts = {each: row_of(path, f"SELECT count(*) FROM {each}")[0] for each in tables}
    assert {
        "benches": 1,
        "ends": 0,
        "ended": 0,
        "claims": 0,
        "accounts": 0,
        "reservations": 0,
        "sessions": 1,
    } == counts


def test_a_clock_that_jumps_ahead_is_no_loss(path: Path) -> None:
    """All sessions seem to be gone for days then, and they are remembered all the same."""
    a, b = opened(path), opened(path)
    a.publish(bench("groq"))
    b.publish(bench("openai"))
    for session in (a, b):
        store = session.store
        assert isinstance(store, SqliteStore)
        store._wall = lambda: time.time() + 10 * 86_400

    for _ in range(2):
        for session in (a, b):
            assert "" == reason_of(session)


def test_a_clock_that_is_set_back_ends_nothing_earlier(path: Path) -> None:
    """Orders go on rising, and no period reopens."""
    session = opened(path)
    store = session.store
    assert isinstance(store, SqliteStore)
    now = int(session.now())
    later = Charge("a", now, now + 100, 5, 10)
    session.reserve(Reserve(name(), (later,)))
    (before,) = session.publish(bench("groq", ends_in=60.0))
    store._wall = lambda: time.time() - 3600

    (after,) = session.publish(bench("groq", ends_in=30.0))
    (reserved,) = session.reserve(Reserve(name(), (later._replace(start=now - 7200, end=now),)))

    assert after.order > before.order
    assert (now, 10) == (reserved.balances[0].start, reserved.balances[0].reserved)
    assert 2 == len(Session(store).look())
    shutil.rmtree(path.parent)


def test_the_module_needs_nothing_else() -> None:
    """The standard library is enough."""
    assert isinstance(Bench("a", "pause", "b", 1.0, b""), tuple)
    assert sqlite.SqliteStore.has_limits is False
