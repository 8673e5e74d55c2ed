"""`SqliteStore` on file systems that are mounted for the test: full, read-only, in layers.

Each test mounts in a namespace of its own, of which nothing is left when its process has ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import resilient_llm

PROGRAMS = {"unshare": "util-linux", "mount": "mount"}
MODULES = ()
ROOT = Path(resilient_llm.__file__).parent.parent
PRELUDE = """
import os, sqlite3, subprocess, sys
from resilient_llm._values.sharing import *
from resilient_llm.stores import _sqlite_file
from resilient_llm.stores.sqlite import SqliteStore
from resilient_llm.testing import store_contract
from resilient_llm.testing._contract._session import Session, bench, name

os.chdir(sys.argv[1])

def reason_of(step):
    try:
        step()
    except StoreError as error:
        return error.reason
    except DataLostError:
        return "lost"
    return ""

def spend(session):
    return reason_of(lambda: session.settle(Settle(name(), (Entry("one", 0, None, 1, 1, 0),))))

def spent(path):
    session = Session(SqliteStore(path))
    session.look()
    session.store.close()
    return sum(each.spent for each in session.seen.balances)

def integrity(path):
    connection = sqlite3.connect(path)
    (found,) = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    return found

def kind_of(directory):
    mounts = open(_sqlite_file.MOUNTS).read()
    return _sqlite_file.file_system(mounts, directory, os.stat(directory).st_dev)
"""


def mounted(directory: Path, mounts: str, code: str) -> list[str]:
    """Run code in a directory after some mounts; return the words that it prints."""
    script = f'set -e; cd "$1"; {mounts}\nexec "$2" -c "$3" "$1"'
    program = PRELUDE + textwrap.dedent(code)
    done = subprocess.run(
        (
            *("unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"),
            *(os.fspath(directory), sys.executable, program),
        ),
        env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    if done.returncode and ("unshare:" in done.stderr or "mount:" in done.stderr):
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert "" == done.stderr
    return done.stdout.split()


def test_a_disk_that_is_full_and_has_room_again(tmp_path: Path) -> None:
    """Steps raise and nothing of them is done, looks go on, and so does everything with room."""
    code = """
    session = Session(SqliteStore("disk/state.db"))
    session.look()
    answered = 0
    assert spend(session) == ""
    answered += 1
    with open("disk/other", "wb", buffering=0) as other:
        try:
            while True:
                other.write(b"x" * 4096)
        except OSError:
            pass
        reasons = []
        for _ in range(400):
            reasons.append(spend(session))
            answered += reasons[-1] == ""
        print(reasons[-1], len(set(reasons) - {"", "full"}))
        print(reason_of(session.look), reason_of(lambda: session.store.wait(session.revision, 0.0)), "-")
        print(reason_of(Session(SqliteStore("disk/state.db")).look), "-")
    os.unlink("disk/other")
    session.look()
    print(spend(session), spend(session), "-")
    answered += 2
    session.store.close()
    print(spent("disk/state.db") == answered, integrity("disk/state.db"))
    """

    found = mounted(tmp_path, "mkdir disk; mount -t tmpfs -o size=512k none disk", code)

    assert ["full", "0", "-", "-", "-", "True", "ok"] == found


def test_a_disk_on_which_no_file_can_be_made(tmp_path: Path) -> None:
    """A new file that does not fit leaves nothing behind that would harm the next start."""
    code = """
    other = open("disk/other", "wb", buffering=0)
    try:
        while True:
            other.write(b"x" * 4096)
    except OSError:
        pass
    store = SqliteStore("disk/state.db")
    print(reason_of(Session(store).look))
    os.unlink("disk/other")
    other.close()
    session = Session(store)
    print(reason_of(session.look), "-")
    print(spend(session), "-", integrity("disk/state.db"))
    """

    found = mounted(tmp_path, "mkdir disk; mount -t tmpfs -o size=256k none disk", code)

    assert ["full", "-", "-", "ok"] == found


def test_a_volume_that_is_mounted_read_only(tmp_path: Path) -> None:
    """A container that may only read sees what the others write, and its steps name the reason."""
    code = """
    writer = Session(SqliteStore("disk/state.db"))
    writer.look()
    writer.publish(bench("groq"))
    reader = Session(SqliteStore("volume/state.db"))
    print(len(reader.look()), spend(reader))
    writer.publish(bench("openai"))
    print(len(reader.look()), spend(reader))
    reader.store.close()
    writer.store.close()
    late = Session(SqliteStore("volume/state.db"))
    print(len(late.look()), spend(late))
    print(reason_of(Session(SqliteStore("volume/new.db")).look))
    """
    mounts = (
        "mkdir disk volume; mount -t tmpfs none disk; "
        "mount --bind disk volume; mount -o remount,bind,ro volume"
    )

    found = mounted(tmp_path, mounts, code)

    assert ["1", "read_only", "1", "read_only", "2", "read_only", "read_only"] == found


def test_a_file_in_a_lower_layer(tmp_path: Path) -> None:
    """In a container that has the file in its image, several processes find the same copy of it."""
    code = """
    path = os.path.abspath("merged/state.db")
    print(kind_of(os.path.dirname(path)))
    store_contract(lambda: SqliteStore(path, poll=0.1))
    work = "\\n".join((
        "import sys",
        "from resilient_llm._values.sharing import *",
        "from resilient_llm.stores.sqlite import SqliteStore",
        "from resilient_llm.testing._contract._session import Session, name",
        "session = Session(SqliteStore(sys.argv[1]))",
        "session.look()",
        "for _ in range(20):",
        "    session.settle(Settle(name(), (Entry('one', 0, None, 1, 1, 0),)))",
    ))
    before = spent(path)
    running = [subprocess.Popen([sys.executable, "-c", work, path]) for _ in range(3)]
    print([each.wait() for each in running] == [0, 0, 0])
    print(spent(path) - before, integrity(path))
    print(spent("lower/state.db"))
    """
    make = (
        f'"{sys.executable}" -c "from resilient_llm.stores.sqlite import SqliteStore; '
        "from resilient_llm.testing._contract._session import Session; "
        "store = SqliteStore('layers/lower/state.db'); Session(store).look(); store.close()\""
    )
    mounts = (
        "mkdir layers; mount -t tmpfs none layers; "
        "mkdir layers/lower layers/upper layers/work layers/merged; "
        f"{make}; mount -t overlay overlay layers/merged "
        "-o lowerdir=layers/lower,upperdir=layers/upper,workdir=layers/work"
    )

    found = mounted(tmp_path, mounts, 'os.chdir("layers")\n' + textwrap.dedent(code))

    assert ["overlay", "True", "60", "ok", "0"] == found
