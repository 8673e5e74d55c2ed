"""What ``resilient-llm doctor`` says of the store that processes share."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resilient_llm._runtime import chains
from resilient_llm.testing import isolated
from tests.cli.conftest import Run
from tests.support.valkey import Server, free_port

PASSWORD = "s3cr3t-of-the-store"
MODULE = """
from resilient_llm import Target, configure, failover
{configured}

@failover(["{provider}"])
def ask(target: Target, prompt: str) -> str:
    return "…"
"""

Look = Callable[..., dict[str, tuple[str, str]]]


@pytest.fixture
def look(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Look at a function whose module configures something; return ``{check: (status, said)}``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chains, "_policies", weakref.WeakSet())  # of other tests

    def start(configured: str = "", status: int | None = None) -> dict[str, tuple[str, str]]:
        monkeypatch.delitem(sys.modules, "shared_app", raising=False)
        (tmp_path / "shared_app.py").write_text(
            MODULE.format(configured=configured, provider="in-house/model")
        )
        with isolated():
            if not configured:  # what is isolated ignores the environment
                from resilient_llm._runtime.runtime import runtime

                runtime.asks_environment = True
            output = run("doctor", "shared_app:ask", "--json")
        assert PASSWORD not in output.out + output.err
        rows = json.loads(output.out)
        assert status is None or status == output.status
        return {
            each["check"]: (each["status"], each["message"])
            for each in rows
            if each["target"] == "*"
        }

    return start


def test_without_a_store_nothing_is_said_of_one(look: Look) -> None:
    """There is nothing to look at."""
    assert {} == look()


def test_a_store_that_is_in_order(look: Look, tmp_path: Path) -> None:
    """It was read and written, and its clock is right."""
    server = Server("--requirepass", PASSWORD, port=free_port())
    try:
        found = look(f"configure(state='redis://:{PASSWORD}@127.0.0.1:{server.port}/0')")
    finally:
        server.close()

    status, said = found["state"]
    assert "error" != status  # it may be slow on a machine that is busy
    assert re.search(
        rf"^redis://127.0.0.1:{server.port}/0 can be read, and written in 0\.\d+ s", said
    )
    assert ("ok", f"within 60 s of redis://127.0.0.1:{server.port}/0") == found["clock"]


def test_the_store_of_the_environment(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at where none is configured."""
    monkeypatch.setenv("RESILIENT_LLM_STATE", f"sqlite://{tmp_path}/app.db")

    assert f"sqlite://{tmp_path}/app.db can be read" in look()["state"][1]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"mysql://user:{PASSWORD}@host/db", "a URL with the scheme mysql is no store"),
        ("sqlite://relative.db", "absolute path"),
        (f"redis://:{PASSWORD}@127.0.0.1:1/0", "redis://127.0.0.1:1/0 cannot be reached"),
        ("sqlite:///no/such/place/app.db", "is its directory there"),
    ],
    ids=["scheme", "relative", "unreachable", "directory"],
)
def test_a_store_that_cannot_be_used(
    look: Look, monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    """An error that says what is wrong and shows no password; the command ends with 1."""
    monkeypatch.setenv("RESILIENT_LLM_STATE", url)

    found = look(status=1)

    assert "error" == found["state"][0]
    assert said in found["state"][1]


def test_a_missing_package(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis without its package is an error that names the extra."""
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setenv("RESILIENT_LLM_STATE", "redis://127.0.0.1:1/0")

    status, said = look(status=1)["state"]

    assert "error" == status
    assert "resilient-llm[redis]" in said


def test_a_store_that_can_only_be_read(look: Look) -> None:
    """A replica is an error, since nothing of this machine is shared."""
    server = Server(port=free_port())
    replica = Server("--replicaof", f"127.0.0.1 {server.port}", port=free_port())
    try:
        with replica.client() as client:
            until = time.monotonic() + 10
            while client.info("replication")["master_link_status"] != "up":
                assert time.monotonic() < until
                time.sleep(0.05)
        with isolated():
            from tests.cli.test_store import shared_by

            shared_by(server.address, lambda: None)
        found = look(f"configure(state='{replica.address}')", status=1)
    finally:
        replica.close()
        server.close()

    assert "error" == found["state"][0]
    assert "can be read and not written" in found["state"][1]
    assert "none of this machine is shared" in found["state"][1]


def test_a_file_that_is_damaged_stays_where_it_is(look: Look, tmp_path: Path) -> None:
    """It is told, and set aside by whoever is to use it."""
    path = tmp_path / "app.db"
    path.write_bytes(b"SQLite format 3\0" + b"rubbish" * 1000)

    found = look(f"configure(state='sqlite://{path}')", status=1)

    assert "is damaged" in found["state"][1]
    assert path.read_bytes().startswith(b"SQLite format 3\0rubbish")


def test_a_clock_that_is_far_off(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning: benches hold all the same, since only durations are exchanged."""
    from resilient_llm.admin import _store_check

    ahead = SimpleNamespace(time=lambda: time.time() + 300, monotonic=time.monotonic)
    monkeypatch.setattr(_store_check, "time", ahead)

    status, said = look(f"configure(state='sqlite://{tmp_path}/app.db')")["clock"]

    assert "warning" == status
    assert "this machine is 5m ahead of sqlite://" in said


def test_looking_changes_nothing(look: Look, tmp_path: Path) -> None:
    """There is no bench, no spending and no reservation in the store afterwards."""
    look(f"configure(state='sqlite://{tmp_path}/app.db')")

    with sqlite3.connect(f"file:{tmp_path}/app.db?mode=ro", uri=True) as connection:
        tables = [
            row[0]
            for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        filled = {
            name
            for name in tables
            if connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0]
        }
    connection.close()
    assert not {name for name in filled if re.search("bench|account|reserv|end", name)}
    assert 0o600 == (tmp_path / "app.db").stat().st_mode & 0o777
