"""The commands against a store: what they show of it, what they send to it, and what they refuse."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import (
    bench_model,
    configure,
    is_benched,
    list_benched,
    store_status,
    unbench_model,
)
from resilient_llm.cli import _store
from resilient_llm.testing import isolated
from tests.cli.conftest import PATIENCE, Run
from tests.support.valkey import Server, free_port

ROOT = Path(__file__).parents[2]
HOSTILE = "red \x1b[31m \x9b2J \u202e\nsecond line"
STORES = ["sqlite", "valkey"]
PASSWORD = "s3cr3t-of-the-store"


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    """A server that wants a password."""
    server = Server("--requirepass", PASSWORD, port=free_port())
    yield server
    server.close()


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store of the kind that the test is for."""
    if request.param == "sqlite":
        (tmp_path / "app.db").touch(0o600)
        return f"sqlite://{tmp_path}/app.db"
    server: Server = request.getfixturevalue("valkey")
    with server.client(password=PASSWORD) as client:
        client.flushall()
    return f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"


def shared_by(url: str, *works: Callable[[], Any], **options: Any) -> Any:
    """Do something in a state of its own that shares the store, each when the one before was sent.

    Return the result of the last one.
    """
    with isolated():
        configure(state=url, state_name="web-1", logging=False, **options)
        assert store_status(wait=PATIENCE).last_sync_at is not None
        result: Any = None
        for work in works:
            result = work()
            until = time.monotonic() + PATIENCE
            while store_status().pending:
                assert time.monotonic() < until, "not sent"
                time.sleep(0.01)
        return result


def command(
    *arguments: str, environment: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Start a command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "resilient_llm", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def cells(line: str) -> list[str]:
    """Return the cells of a plain row."""
    return re.split(r" {2,}", line)


# Benching.


@pytest.mark.parametrize("url", STORES, indirect=True)
def test_a_bench_of_the_command_holds_for_others(url: str, run: Run) -> None:
    """It was sent when the command ends, with reason, end and the user of the system."""
    status, out, err = run("bench", "groq", "--for", "1h", "--reason", "incident 7", "--state", url)

    (bench,) = shared_by(url, list_benched)
    assert (0, "") == (status, err)
    assert ("groq", True, "incident 7") == (bench.model, bench.manual, bench.reason)
    assert 3500 < bench.remaining <= 3600
    assert _store.operator() == bench.by != ""
    heading, row = out.splitlines()
    assert ["KEY", "LEFT", "UNTIL", "SINCE", "KIND", "BY", "REASON"] == cells(heading)
    assert {"groq", "1h", "by hand", bench.by, "incident 7"} <= set(cells(row))


@pytest.mark.parametrize("url", STORES, indirect=True)
def test_an_unbench_of_the_command_holds_for_others(url: str, run: Run) -> None:
    """A bench of another process ends in all of them, by whom the option names."""
    with isolated():
        configure(state=url, logging=False, state_options={"poll": 0.1})
        assert store_status(wait=PATIENCE).last_sync_at is not None
        bench_model("groq", 3600, reason="incident 7")
        until = time.monotonic() + PATIENCE
        while store_status().pending:
            assert time.monotonic() < until
            time.sleep(0.01)

        status, out, err = run("unbench", "GROQ", "--by", "bob", "--state", url)

        while is_benched("groq"):
            assert time.monotonic() < until
            time.sleep(0.01)
    assert (0, "groq is not benched any more\n", "") == (status, out, err)
    status, out, _ = run("events", "--json", "--state", url)
    ended = json.loads(out.splitlines()[-1])
    assert ("TargetUnbenched", "groq", "manual", "bob") == tuple(
        ended[name] for name in ("type", "target", "reason", "by")
    )


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_what_is_not_benched_cannot_be_unbenched(url: str, run: Run) -> None:
    """The command ends with 1, and names what may have been meant."""
    shared_by(url, lambda: bench_model("groq"))

    provider = run("unbench", "groq/llama", "--state", url)
    misspelt = run("unbench", "grok", "--state", url)
    other = run("unbench", "mistral", "--state", url)

    assert (1, 1, 1) == (provider.status, misspelt.status, other.status)
    assert "its provider is: resilient-llm unbench groq" in provider.err
    assert "did you mean groq?" in misspelt.err
    assert "mistral is not benched\n" in other.err


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["groq", "--until", "2001-01-01T00:00:00Z"], "passed already"),
        (["groq", "--reason", "x" * 201], "200"),
        (["groq", "--by", "x" * 201], "200"),
        (["/"], "provider/model"),
    ],
    ids=["past", "reason", "by", "key"],
)
def test_what_cannot_be_benched_is_refused(
    url: str, run: Run, arguments: list[str], said: str
) -> None:
    """As a service refuses it: the command ends with 1 and says why; nothing is benched."""
    status, out, err = run("bench", *arguments, "--state", url)

    assert (1, "") == (status, out)
    assert said in err
    assert [] == shared_by(url, list_benched)


@pytest.mark.parametrize("url", STORES, indirect=True)
def test_the_source_that_is_printed_is_the_one_that_all_see(url: str, run: Run) -> None:
    """To the reader, "local" would be the wrong process."""
    printed = json.loads(run("bench", "groq", "--json", "--state", url).out)

    (bench,) = shared_by(url, list_benched)

    assert "local" != bench.source
    assert bench.source == printed["source"]


# Looking.


@pytest.mark.parametrize("url", STORES, indirect=True)
def test_benches_of_all_processes_are_listed(url: str, run: Run) -> None:
    """With the process that each comes from, and since when it lasts there."""
    began = datetime.now(UTC)
    shared_by(url, lambda: bench_model("mistral", reason=HOSTILE, by="alice"))
    time.sleep(1.1)  # of the store's clock, which nothing moves

    status, out, err = run("benches", "--state", url)
    (bench,) = json.loads(run("benches", "--json", "--state", url).out)

    assert (0, "") == (status, err)
    heading, row = out.splitlines()
    assert ["KEY", "LEFT", "SINCE", "KIND", "BY", "REASON", "SOURCE"] == cells(heading)
    assert "\x1b" not in out
    assert "\\x1b[31m" in row
    assert row.endswith("  web-1")
    assert ("mistral", None, HOSTILE, "alice", "web-1", True) == tuple(
        bench[name] for name in ("model", "until", "reason", "by", "source", "manual")
    )
    assert abs((datetime.fromisoformat(bench["since"]) - began).total_seconds()) < 1.0


@pytest.mark.parametrize("url", STORES, indirect=True)
def test_an_empty_store_has_no_bench(url: str, run: Run) -> None:
    """Which is said beside the output."""
    assert (0, "", "nothing is benched\n") == run("benches", "--state", url)


@pytest.mark.parametrize("url", STORES, indirect=True)
def test_a_namespace_is_apart(url: str, run: Run) -> None:
    """What is benched in one is benched in no other."""
    options = {"state_options": {"namespace": "shop-prod"}}
    shared_by(url, lambda: bench_model("groq", reason="of the shop"), **options)

    named = run("benches", "--state", url, "--namespace", "shop-prod")
    usual = run("benches", "--state", url)

    assert "of the shop" in named.out
    assert "" == usual.out


@pytest.mark.parametrize("url", STORES, indirect=True)
def test_events_are_the_changes_of_benches(url: str, run: Run) -> None:
    """Those that the store remembers, oldest first, with the fields of a journal."""

    shared_by(
        url,
        lambda: bench_model("groq", 3600, reason="first", by="alice"),
        lambda: bench_model("mistral", reason=HOSTILE),
        lambda: unbench_model("mistral", by="bob"),
        lambda: bench_model("openai", reason=HOSTILE),
    )
    began = time.time()

    lines = [json.loads(line) for line in run("events", "--json", "--state", url).out.splitlines()]
    printed = run("events", "--state", url).out

    first, last = lines[0], lines[-2]
    assert ("TargetBenched", "groq", "first", "alice", "web-1", "manual", True, None, None) == tuple(
        first[name]
        for name in (
            "type", "target", "reason", "by", "source", "trigger", "enforced", "kind", "retry_after"
        )
    )  # fmt: skip
    assert "" == first["call_id"]
    assert abs(datetime.fromisoformat(first["at"]).timestamp() - began) < PATIENCE
    left = datetime.fromisoformat(first["until"]) - datetime.fromisoformat(first["at"])
    assert abs(left.total_seconds() - 3600) < 1.0
    assert ("TargetUnbenched", "mistral", "manual", "bob", "web-1") == tuple(
        last[name] for name in ("type", "target", "reason", "by", "source")
    )
    assert lines == sorted(lines, key=lambda each: each["at"])
    assert "\x1b" not in printed
    assert re.search(r"TargetBenched +groq .*source=web-1", printed)


@pytest.mark.parametrize("url", STORES, indirect=True)
def test_events_follow_the_store(url: str) -> None:
    """With ``--follow`` a change is printed soon after it, and Ctrl-C ends with 130."""
    following = command("events", "--follow", "--json", "--state", url, start_new_session=True)
    assert following.stdout is not None
    try:
        for number in range(2):
            shared_by(url, lambda number=number: bench_model("groq", 60 + number, reason="now"))
            line = json.loads(following.stdout.readline())
            assert ("TargetBenched", "groq", "now") == (
                line["type"], line["target"], line["reason"]
            )  # fmt: skip
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=PATIENCE)
    finally:
        following.kill()
        following.communicate()
    assert 130 == following.returncode


# Spending.


def spent(url: str, *accounts: tuple[str, int]) -> None:
    """Book amounts in accounts of a store, in an hour that is not over."""
    from resilient_llm._core.sharing.session import Session
    from resilient_llm._values.sharing import Entry, Settle
    from resilient_llm._values.state_options import STATE_OPTIONS
    from resilient_llm.stores._opening import open_store

    store, session = open_store(url, STATE_OPTIONS), Session("of-the-test")
    changes = store.changes(session.stamp(), 0, timeout=PATIENCE)
    session.follow(changes)
    start = int(changes.now) - 10
    entries = tuple(Entry(name, start, start + 3600, amount, 1, 0) for name, amount in accounts)
    store.settle(session.stamp(1), [Settle("one", entries)], timeout=PATIENCE)
    store.close()


@pytest.mark.parametrize("url", STORES, indirect=True)
def test_spending_of_all_processes_is_listed(url: str, run: Run) -> None:
    """What each budget has spent, without a cap, which each process has for itself."""
    spent(
        url,
        ("\nopenai\nusd\nmonth\nUTC", 1_250_000_000_000),
        ("team\nkey\ntokens\nday\nUTC\ntenant-7", 700),
        ("team\nkey\ntokens\nday\nUTC\ntenant-8", 800),
        ("rubbish", 1),
    )

    status, out, err = run("spend", "--state", url)
    (openai, *_), named = (
        json.loads(run("spend", "--json", "--state", url, *more).out)
        for more in ([], ["--key", "tenant-7"])
    )

    heading, first, second, third = out.splitlines()
    assert (0, "") == (status, err)
    assert {"BUDGET", "KEY", "SPENT", "RESETS AT", "CALLS"} <= set(cells(heading))
    assert "CAP" not in heading
    assert ["openai month usd", "$1.25"] == cells(first)[:2]
    assert ["team", "tenant-8", "800 tokens"] == cells(second)[:3]
    assert ["team", "tenant-7", "700 tokens"] == cells(third)[:3]
    assert (1.25, None, "usd") == (openai["spent"], openai["cap"], openai["unit"])
    assert ["tenant-7"] == [each["key"] for each in named if each["budget"] == "team"]


@pytest.mark.parametrize("url", STORES, indirect=True)
def test_a_store_without_budgets(url: str, run: Run) -> None:
    """Which is said beside the output."""
    nothing = "the store has no budget that has spent anything\n"
    assert (0, "", nothing) == run("spend", "--state", url)


# A store that cannot be used.


def test_events_go_on_when_the_store_is_back(tmp_path: Path) -> None:
    """A server that is gone and comes back is told on the error output, once each."""
    server = Server(port=free_port())
    following = command("events", "--follow", "--json", "--state", server.address)
    assert following.stdout is not None
    assert following.stderr is not None
    try:
        shared_by(server.address, lambda: bench_model("groq"))
        assert "groq" == json.loads(following.stdout.readline())["target"]
        server.kill()
        lost = following.stderr.readline()
        server.start()
        back = following.stderr.readline()
        shared_by(server.address, lambda: bench_model("mistral"))
        assert "mistral" == json.loads(following.stdout.readline())["target"]
    finally:
        following.kill()
        following.communicate()
        server.close()
    assert re.fullmatch(r"lost the store: redis://127.0.0.1:\d+/0 .*; connecting again\n", lost)
    assert re.fullmatch(r"connected to redis://127.0.0.1:\d+/0 again\n", back)


@pytest.mark.parametrize(
    "arguments",
    [
        ["benches"],
        ["bench", "groq"],
        ["unbench", "groq"],
        ["events"],
        ["events", "--follow"],
        ["spend"],
    ],
    ids=" ".join,
)
def test_a_store_that_is_not_there(arguments: list[str], run: Run) -> None:
    """The command ends with 1 within seconds, says what is wrong, and shows no password."""
    began = time.monotonic()
    status, out, err = run(
        *arguments, "--state", f"redis://user:{PASSWORD}@127.0.0.1:{free_port()}/0"
    )

    assert (1, "") == (status, out)
    assert time.monotonic() - began < PATIENCE
    assert "cannot be reached" in err
    assert "whether the server runs" in err
    assert "redis://127.0.0.1:" in err
    assert PASSWORD not in err


@pytest.mark.parametrize("arguments", [["benches"], ["bench", "groq"], ["events"]], ids=" ".join)
def test_a_wrong_password(arguments: list[str], run: Run, valkey: Server) -> None:
    """The message says that it was refused, and shows it not."""
    status, out, err = run(*arguments, "--state", f"redis://:wr0ng@127.0.0.1:{valkey.port}/0")

    assert (1, "") == (status, out)
    assert "refuses the user, the password or the access" in err
    assert "wr0ng" not in err


def test_a_bench_that_cannot_be_sent(run: Run) -> None:
    """A store that can only be read shows its benches, and takes none: the command ends with 1."""
    server, replica_port = Server(port=free_port()), free_port()
    replica = Server("--replicaof", f"127.0.0.1 {server.port}", port=replica_port)
    try:
        shared_by(server.address, lambda: bench_model("groq", reason="there"))
        until = time.monotonic() + PATIENCE
        while "there" not in (listed := run("benches", "--state", replica.address)).out:
            assert time.monotonic() < until
            time.sleep(0.1)
        refused = run("bench", "mistral", "--state", replica.address)
        not_ended = run("unbench", "groq", "--state", replica.address)
        benched = [each.model for each in shared_by(server.address, list_benched)]
    finally:
        replica.close()
        server.close()

    assert (0, "") == (listed.status, listed.err)
    for each in (refused, not_ended):
        assert (1, "") == (each.status, each.out)
        assert "it was not sent" in each.err
        assert "can be read and not written" in each.err
    assert ["groq"] == benched


def test_a_file_that_is_damaged_stays_where_it_is(tmp_path: Path, run: Run) -> None:
    """A command that looks moves no file: it ends with 1 and says that it is damaged."""
    path = tmp_path / "app.db"
    path.write_bytes(b"SQLite format 3\0" + b"rubbish" * 1000)

    found = run("benches", "--state", f"sqlite://{path}")

    assert (1, "") == (found.status, found.out)
    assert "is damaged" in found.err
    assert [path] == [each for each in tmp_path.iterdir() if "corrupt" not in each.name]


@pytest.mark.parametrize("arguments", [["benches"], ["events"], ["spend"]], ids=" ".join)
def test_a_new_file_is_told(arguments: list[str], tmp_path: Path, run: Run) -> None:
    """A path that is misspelt would show an empty store, and seem to be in order."""
    found = run(*arguments, "--state", f"sqlite://{tmp_path}/misspelt.db")

    assert 0 == found.status
    assert f"warning: {tmp_path}/misspelt.db is new: is that the file of the service?" in found.err


# Which store.


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_the_environment_names_a_store(url: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is used if neither an option nor the environment names a service."""
    shared_by(url, lambda: bench_model("groq"))
    monkeypatch.setenv("RESILIENT_LLM_STATE", url)
    assert "groq" in run("benches").out

    monkeypatch.setenv("RESILIENT_LLM_ADMIN", f"http://127.0.0.1:{free_port()}")
    by_service = run("benches")
    by_option = run("benches", "--state", url)

    assert 1 == by_service.status
    assert "http://127.0.0.1" in by_service.err
    assert "groq" in by_option.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--state", "sqlite:///x.db", "--admin", "http://x"], "exclude each other"),
        (["--state", "sqlite:///x.db", "--token", "x"], "exclude each other"),
        (["--state", ""], "--state is empty"),
        (["--state", "sqlite:///x.db", "--namespace", " "], "--namespace is empty"),
        (["--namespace", "x"], "--namespace goes with --state URL"),
        (["--admin", "http://x", "--namespace", "x"], "--namespace goes with --state URL"),
        (["--state", f"mysql://user:{PASSWORD}@host/db"], "mysql"),
        (["--state", "sqlite://relative.db"], "absolute path"),
        (["--state", "sqlite:///x.db", "--namespace", "a b"], "namespace"),
        ([], "write --admin URL or --state URL"),
    ],
)
@pytest.mark.parametrize(
    "name",
    [["benches"], ["bench", "groq"], ["unbench", "groq"], ["events"], ["spend"]],
    ids=" ".join,
)
def test_wrong_use(name: list[str], arguments: list[str], said: str, run: Run) -> None:
    """Ends with 2, and shows no password."""
    status, out, err = run(*name, *arguments)

    assert (2, "") == (status, out)
    assert said in err
    assert PASSWORD not in err


def test_a_token_is_for_a_service(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the store of the environment it is wrong use."""
    monkeypatch.setenv("RESILIENT_LLM_STATE", "sqlite:///x.db")

    status, _, err = run("benches", "--token", "x" * 16)

    assert 2 == status
    assert "--token goes with --admin URL" in err


@pytest.mark.parametrize("name", ["health", "chains"])
def test_a_store_has_no_health_and_no_chains(name: str, run: Run) -> None:
    """Each process has its own: the command ends with 1 and names ``--admin``."""
    status, out, err = run(name, "--state", "sqlite:///x.db")

    assert (1, "") == (status, out)
    assert "--admin URL" in err


def test_a_command_leaves_the_process_as_it_was(run: Run, tmp_path: Path) -> None:
    """What the process of a test had benched is its own, and is not sent."""
    url = f"sqlite://{tmp_path}/app.db"
    with isolated():
        bench_model("openai")
        run("bench", "groq", "--state", url)

        assert ["openai"] == [each.model for each in list_benched()]
        assert store_status().url is None
    assert ["groq"] == [each.model for each in shared_by(url, list_benched)]


def test_an_address_shows_no_password() -> None:
    """Not even where it is printed by mistake."""
    assert PASSWORD not in repr(_store.StoreAddress(f"redis://:{PASSWORD}@x", "n"))
    assert PASSWORD not in textwrap.shorten(str(_store.StoreAddress(PASSWORD, "n")), 100)
