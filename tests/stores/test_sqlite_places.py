"""Where the file of `SqliteStore` may lie: behind links, on disks, and not on a network."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from resilient_llm._values.sharing import StoreError
from resilient_llm.stores import _sqlite_file, sqlite
from resilient_llm.stores.sqlite import SqliteStore
from resilient_llm.testing import store_contract
from resilient_llm.testing._contract._session import Session, bench


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def opened(path: Path) -> Session:
    """Return a session that has read everything."""
    session = Session(SqliteStore(path, poll=0.1))
    session.look()
    return session


def spoil_index(path: Path) -> bytes:
    """Give an index of a file that nobody has open an old page; return the file as it was."""
    session = opened(path)
    session.publish(bench("groq"))
    session.store.close()
    old = path.read_bytes()
    session.look()
    session.publish(bench("openai"))
    session.store.close()
    connection = sqlite3.connect(path)
    (page,) = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'benches_by_revision'"
    ).fetchone()
    connection.close()
    whole = path.read_bytes()
    begin = (page - 1) * 4096
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(old[begin : begin + 4096])
    return whole


def test_damage_that_no_step_would_notice_is_found(path: Path) -> None:
    """An index that misses a row hides a bench from everybody."""
    spoil_index(path)

    session = opened(path)

    assert 1 == len([*path.parent.glob("state.db.corrupt-*[0-9]")])
    session.publish(bench("openai"))
    assert ["openai"] == [each.key for each in session.look()]


def test_with_refuse_it_is_a_reason_until_somebody_has_repaired_the_file(path: Path) -> None:
    """Each step says so, and nothing is renamed."""
    whole = spoil_index(path)
    session = Session(SqliteStore(path, on_corrupt="refuse"))

    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            session.look()
        assert "corrupt" == caught.value.reason
    session.store.close()
    path.write_bytes(whole)

    assert ["groq", "openai"] == [each.key for each in session.look()]
    assert not [*path.parent.glob("*.corrupt-*")]


def test_damage_is_found_while_the_file_is_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each minute, the first step looks at the whole file."""
    spoil_index(path)
    monkeypatch.setattr(sqlite, "_LARGEST_CHECK", 0)
    session = opened(path)
    assert not [*path.parent.glob("*.corrupt-*")]
    monkeypatch.undo()
    store = session.store
    assert isinstance(store, SqliteStore)
    session.look()
    assert not [*path.parent.glob("*.corrupt-*")]

    store._check_at -= sqlite._CHECK_EVERY
    session.look()

    assert 1 == len([*path.parent.glob("state.db.corrupt-*[0-9]")])
    assert session.seen is not None
    assert session.seen.is_lost


def test_a_single_file_that_is_mounted_from_a_network_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory may be local, as with a `subPath` of Kubernetes."""
    path.touch()
    mounts = path.parent / "mountinfo"
    mounts.write_text(
        "22 1 0:20 / / rw - ext4 /dev/vda rw\n"
        f"23 22 0:99 /state.db {path} rw,relatime shared:1 - nfs4 server:/data rw\n"
    )
    monkeypatch.setattr(_sqlite_file, "MOUNTS", os.fspath(mounts))

    assert "network_filesystem" == _reason_of_look(path)


def _reason_of_look(path: Path) -> str:
    with pytest.raises(StoreError) as caught:
        opened(path)
    return caught.value.reason


@pytest.mark.parametrize(
    ("kind", "is_refused"),
    [
        ("nfs", True),
        ("9p", True),
        ("virtiofs", True),
        ("gfs2", True),
        ("fuse.sshfs", True),
        ("fuse.mount-s3", True),
        ("overlay", False),
        ("tmpfs", False),
        ("fuseblk", False),
        ("fuse.fuse-overlayfs", False),
        ("fuse.gocryptfs", False),
    ],
)
def test_which_file_systems_are_those_of_a_network(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, is_refused: bool
) -> None:
    """What a container has as its root is not one; what a host shares with its machines is."""
    mounts = path.parent / "mountinfo"
    mounts.write_text(f"22 1 0:20 / / rw - {kind} none rw\n")
    monkeypatch.setattr(_sqlite_file, "MOUNTS", os.fspath(mounts))

    assert is_refused == _sqlite_file.is_on_network(os.fspath(path))


def test_a_link_to_a_file(path: Path) -> None:
    """The log lies beside the file and not beside the link, and a damaged file is renamed there."""
    directory = path.parent / "data"
    directory.mkdir()
    path.symlink_to(directory / "real.db")
    store_contract(lambda: SqliteStore(path, poll=0.1))
    session = opened(path)
    session.publish(bench("groq"))
    session.store.close()
    (directory / "real.db").write_bytes(b"this is no database" * 1000)

    session.look()
    session.publish(bench("groq"))

    assert path.is_symlink()
    assert 1 == len([*directory.glob("real.db.corrupt-*")])
    assert ["data", "state.db"] == sorted(each.name for each in path.parent.iterdir())
