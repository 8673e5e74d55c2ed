"""One file and many processes: writes side by side, deaths in their midst, forks, full disks."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import resilient_llm
from resilient_llm._values.sharing import DataLostError, Entry, Reserve, Settle, Stamp, StoreError
from resilient_llm.stores.sqlite import SqliteStore
from resilient_llm.testing._contract._session import Session, bench, charge, name

ROOT = Path(resilient_llm.__file__).parent.parent
PRELUDE = """
import os, sys
from resilient_llm._values.sharing import *
from resilient_llm.stores.sqlite import SqliteStore
from resilient_llm.testing._contract._session import Session, bench, charge, name
path, rest = sys.argv[1], sys.argv[2:]
session = Session(SqliteStore(path))
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and signals")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def started(path: Path, code: str, *rest: str) -> subprocess.Popen[str]:
    """Start a process that uses the file."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, os.fspath(path), *rest],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},
    )


def output(process: subprocess.Popen[str]) -> str:
    """Wait until a process ends well, and return what it wrote."""
    text, _ = process.communicate(timeout=50)
    assert 0 == process.returncode
    return text.strip()


def opened(path: Path) -> Session:
    session = Session(SqliteStore(path, poll=0.1))
    session.look()
    return session


def spent(session: Session, account: str) -> int:
    session.revision = 0
    session.look()
    assert session.seen is not None
    return sum(each.spent for each in session.seen.balances if each.account == account)


def is_whole(path: Path) -> bool:
    connection = sqlite3.connect(path)
    found = connection.execute("PRAGMA integrity_check").fetchall()
    connection.close()
    return [("ok",)] == found


def test_processes_start_side_by_side(path: Path) -> None:
    """The file is made once, and all of them find each other in it."""
    code = "session.look(); session.publish(bench(name('groq/'))); print(session.epoch)"

    epochs = {output(each) for each in [started(path, code) for _ in range(3)]}

    assert 1 == len(epochs)
    assert 3 == len(Session(SqliteStore(path)).look())


def test_processes_never_pass_a_cap_together(path: Path) -> None:
    """Of what they ask for, exactly what fits is admitted, and each is booked once."""
    code = """
session.look()
wanted = Charge("a", 0, None, 10, 300)
admitted = 0
for _ in range(20):
    reserve = Reserve(name(), (wanted,))
    (done,) = session.reserve(reserve)
    if done.outcome == "admitted":
        admitted += 1
        session.settle(Settle(reserve.id, (Entry("a", 0, None, 10, 1, 0),)))
print(admitted)
"""

    counts = [int(output(each)) for each in [started(path, code) for _ in range(3)]]

    assert 30 == sum(counts)
    assert 300 == spent(opened(path), "a")
    assert is_whole(path)


WRITES = """
session.look()
number = 0
while True:
    number += 1
    session.publish(bench(name("groq/")), bench("groq", ends_in=300.0 + number))
    session.settle(Settle(name(), (Entry("a", 0, None, 1, 1, 0),)))
    print(number, flush=True)
"""


def test_a_process_that_is_killed_harms_nobody(path: Path) -> None:
    """What it was answered is there, the file is whole, and others go on."""
    session = opened(path)
    answered = 0
    for _ in range(3):
        process = started(path, WRITES)
        assert process.stdout is not None
        last = 0
        for _ in range(5):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=20)
        numbers = [int(each) for each in rest.split()]
        answered += max([last, *numbers])
        session.publish(bench("openai"))

    booked = spent(session, "a")
    # The last step of each may have been done without an answer.
    assert answered <= booked <= answered + 3
    assert is_whole(path)


def limited(size: int) -> str:
    return f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""


@pytest.mark.parametrize("size", [0, 8192, 65_536, 200_000])
def test_a_full_disk_is_a_reason(path: Path, size: int) -> None:
    """Steps that do not fit raise, what was there can be read, and the file stays whole."""
    code = """
first = ""
for number in range(200):
    try:
        session.look()
        session.publish(*(bench(name("groq/")) for _ in range(20)))
    except StoreError as error:
        first = error.reason
        break
again = ""
try:
    session.publish(*(bench(name("groq/")) for _ in range(20)))
except (StoreError, DataLostError) as error:
    again = getattr(error, "reason", "lost")
try:
    session.revision = 0
    found = len(session.look())
except StoreError as error:
    found = -1
print(first, again, number * 20 == found, found)
"""
    if size == 200_000:
        opened(path).publish(bench("before"))
    first, again, is_all, found = output(started(path, limited(size) + code)).split()

    assert "full" == first
    assert again in ("full", "lost")
    if int(found) > 0 and size < 200_000:
        assert "True" == is_all
    session = opened(path)
    session.publish(bench("openai"))
    session.store.close()
    assert is_whole(path)
    assert [path.name] == [each.name for each in path.parent.iterdir()]


def as_nobody(path: Path, code: str) -> str:
    """Run code as a user who may not write what root has made."""
    if os.geteuid() != 0:
        return output(started(path, code))
    for each in (path.parent, *path.parent.parents):
        if each == Path("/tmp"):
            break
        each.chmod(each.stat().st_mode | 0o055)
    return output(started(path, f"os.setgid(65534); os.setuid(65534)\n{code}"))


READS = """
found, reason = "", ""
try:
    found = len(session.look())
except StoreError as error:
    found = error.reason
try:
    session.publish(bench("groq"))
except StoreError as error:
    reason = error.reason
except DataLostError:
    reason = "lost"
print(found, reason)
"""


def test_a_file_that_may_not_be_written_is_read(path: Path) -> None:
    """Looks go on, and what changes something raises."""
    session = opened(path)
    session.publish(bench("groq"))
    for each in path.parent.iterdir():
        each.chmod(0o444)
    path.parent.chmod(0o555)

    try:
        beside_a_writer = as_nobody(path, READS)
        session.store.close()
        alone = as_nobody(path, READS)
    finally:
        path.parent.chmod(0o755)

    assert "1 read_only" == beside_a_writer
    assert "1 read_only" == alone


def test_a_file_that_may_not_be_read_is_a_reason(path: Path) -> None:
    """Permissions are named as such."""
    opened(path).store.close()
    path.chmod(0o000)

    assert "auth auth" == as_nobody(path, READS)


def test_a_directory_that_may_not_be_written_is_a_reason(path: Path) -> None:
    """A file that cannot be made cannot be used."""
    path.parent.chmod(0o555)
    try:
        found = as_nobody(path, READS)
    finally:
        path.parent.chmod(0o755)

    assert found in ("auth auth", "read_only read_only")


# Forks.


def forked(run: Callable[[], object]) -> int:
    """Run something in a forked child; return the status of its end."""
    child = os.fork()
    if child == 0:
        try:
            run()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_opens_a_connection_of_its_own(path: Path) -> None:
    """Parent and children write side by side, and the parent goes on when they have ended."""
    session = opened(path)
    session.publish(bench("groq"))

    def child() -> None:
        own = Session(session.store)
        assert ["groq"] == [each.key for each in own.look() if each.key == "groq"]
        for _ in range(10):
            own.settle(Settle(name(), (Entry("a", 0, None, 1, 1, 0),)))

    children: list[int] = []
    for _ in range(3):
        number = os.fork()
        if number == 0:
            try:
                child()
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(number)
        session.settle(Settle(name(), (Entry("a", 0, None, 1, 1, 0),)))

    assert [0, 0, 0] == [os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in children]
    assert 33 == spent(session, "a")
    session.store.close()
    assert is_whole(path)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_no_connection_is_open_while_the_process_forks(path: Path) -> None:
    """The thread may wait, and the child has neither its connection nor its lock."""
    session = opened(path)
    store = session.store
    assert isinstance(store, SqliteStore)
    thread = threading.Thread(target=lambda: store.wait(session.revision, 30.0))
    thread.start()

    def child() -> None:
        assert store._connection is None
        assert not store._lock.locked()
        assert [] == store._waiters
        own = Session(store)
        own.look()
        own.publish(bench("groq"))

    status = forked(child)
    thread.join(20.0)

    assert 0 == status
    assert not thread.is_alive()
    assert ["groq"] == [each.key for each in session.look()]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_in_the_midst_of_a_step_leaves_the_child_without(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child may not use what SQLite remembers of the parent, and the parent goes on."""
    monkeypatch.setattr("resilient_llm.stores.sqlite._LONGEST_FORK", 0.05)
    session = opened(path)
    store = session.store
    assert isinstance(store, SqliteStore)

    def child() -> None:
        with pytest.raises(StoreError) as caught:
            Session(store).look()
        assert "Forked" == caught.value.type_name
        store.close()

    with store._lock:
        status = forked(child)

    assert 0 == status
    session.publish(bench("groq"))


def test_a_fork_that_calls_no_hooks_is_noticed(path: Path) -> None:
    """Some servers fork by themselves; the child then cannot use the store, and closes nothing."""
    session = opened(path)
    store = session.store
    assert isinstance(store, SqliteStore)
    store._process -= 1

    with pytest.raises(StoreError) as caught:
        session.look()

    assert "Forked" == caught.value.type_name
    assert store._connection is None


# What is reserved by a process that dies.


def test_what_a_dead_process_has_reserved_is_booked(path: Path) -> None:
    """Its fallback is spent when its time is over, and nothing of it stays reserved."""
    code = """
session.look()
wanted = charge("a", 50, 100, session.now(), fallback=20)
session.reserve(Reserve(name(), (wanted,)), lasts=0.2)
os.kill(os.getpid(), 9)
"""
    process = started(path, code)
    process.communicate(timeout=50)
    assert -signal.SIGKILL == process.returncode
    session = opened(path)

    until = time.monotonic() + 10
    while spent(session, "a") == 0 and time.monotonic() < until:
        time.sleep(0.02)
        session.reserve()

    assert session.seen is not None
    (balance,) = session.seen.balances
    assert (20, 0, 1, 1) == balance[3:]


def test_a_reservation_is_exact_over_processes(path: Path) -> None:
    """Amounts above what SQLite holds as a number are compared exactly in another process."""
    cap = 10**24 + 1
    session = opened(path)
    session.reserve(Reserve(name(), (charge("a", 10**24, cap, session.now()),)))
    code = """
session.look()
for amount in (2, 1):
    wanted = charge("a", amount, 10**24 + 1, session.now())
    print(session.reserve(Reserve(name(), (wanted,)))[0].outcome)
"""

    assert ["refused", "admitted"] == output(started(path, code)).split()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_trap_15_what_is_published_before_the_next_look_of_a_new_connection_is_news(
    path: Path,
) -> None:
    """Whatever its address and its version of the data are: both may be those of the last one."""
    session = opened(path)
    store = session.store
    assert isinstance(store, SqliteStore)
    other = opened(path)

    for _ in range(20):
        version, _ = store._news(session.revision, None)
        with store._lock:
            store._disconnect()
        other.publish(bench("groq"))

        assert (store._news(session.revision, version))[1]
        session.look()
    other.store.close()


def test_an_old_copy_is_a_loss_though_others_have_written_into_it(path: Path) -> None:
    """Until its revision is higher than what this session has seen, so that no stamp shows it."""
    session, other = opened(path), opened(path)
    copy = path.with_name("copy.db")
    with (
        contextlib.closing(sqlite3.connect(path)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")
    other.publish(bench("groq"))
    assert ["groq"] == [each.key for each in session.look()]
    other.store.close()
    copy.replace(path)
    newcomer = opened(path)
    newcomer.publish(bench("openai"))
    newcomer.store.close()
    looking = Stamp(session.id, 0, session.epoch, session.revision, session.answered)

    with pytest.raises(DataLostError):
        session.store.publish(session.stamp(), [bench("mistral")], timeout=5.0)
    found = session.store.changes(looking, session.revision, timeout=5.0)

    assert found.is_lost
    assert found.is_all
