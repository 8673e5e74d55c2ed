"""What the API shows of the store that processes share, and of a store alone."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import admin, bench_model, configure, store_status
from resilient_llm._runtime import chains
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.sharing import Balance
from resilient_llm.admin import _store
from resilient_llm.testing import MemoryStore, isolated
from tests.admin.conftest import Serve
from tests.support.asgi import TOKEN, Client

PATIENCE = 40.0
NOW = 1_800_000_000


def eventually(condition: Callable[[], Any]) -> Any:
    """Return what the condition returns as soon as it is true; real threads need real time."""
    until = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < until, "not in time"
        time.sleep(0.02)
    return found


def share(url: Any) -> None:
    """Share a store, and wait until it was read."""
    configure(state=url, state_name="here")
    assert store_status(wait=PATIENCE).last_sync_at is not None


def test_nothing_is_shared(client: Client) -> None:
    """Without a store there is no URL, and nothing is said to be wrong."""
    assert {
        "url": None,
        "connected": False,
        "last_sync_at": None,
        "pending": 0,
        "peers": 1,
        "rejected": 0,
        "dropped": 0,
        "last_error": None,
        "unavailable": None,
        "scope": "process",
    } == client.get("/api/store").json


def test_a_store_that_is_in_order(client: Client, tmp_path: Path) -> None:
    """Its URL, when it was read, and how many processes use it."""
    share(f"sqlite://{tmp_path}/app.db")

    found = client.get("/api/store").json

    assert (f"sqlite://{tmp_path}/app.db", True, 0, 1, None, "process") == tuple(
        found[name] for name in ("url", "connected", "pending", "peers", "unavailable", "scope")
    )
    read_at = datetime.fromisoformat(found["last_sync_at"])
    assert abs((datetime.now(UTC) - read_at).total_seconds()) < PATIENCE


def test_a_store_that_cannot_be_used(client: Client) -> None:
    """Since when and why, and how many changes wait, without the password of its URL."""
    began = datetime.now(UTC)
    configure(state="redis://user:s3cr3t@127.0.0.1:1/0", state_timeout=0.2)
    bench_model("groq", reason="waits")

    found = eventually(lambda: (answer := client.get("/api/store").json)["unavailable"] and answer)

    assert ("redis://127.0.0.1:1/0", False, 1, "ConnectionError") == tuple(
        found[name] for name in ("url", "connected", "pending", "last_error")
    )
    fault = found["unavailable"]
    assert ("unreachable", "ConnectionError") == (fault["reason"], fault["type_name"])
    since = datetime.fromisoformat(fault["since"])
    assert abs((since - began).total_seconds()) < PATIENCE
    assert "s3cr3t" not in json.dumps(found)


def test_a_store_that_is_back(client: Client) -> None:
    """It is in order as soon as its outage is over."""
    dispatcher = runtime.dispatcher
    share(MemoryStore())
    dispatcher.emit(
        dispatcher.of_process,
        "StoreUnavailable",
        runtime.clock(),
        None,
        url="x",
        reason="read_only",
        type_name="ReadOnlyError",
    )
    outage = client.get("/api/store").json["unavailable"]
    dispatcher.emit(
        dispatcher.of_process, "StoreAvailable", runtime.clock(), None, url="x", seconds=1.0
    )

    assert "read_only" == outage["reason"]
    assert client.get("/api/store").json["unavailable"] is None


def test_a_bench_of_another_process_names_it(client: Client) -> None:
    """In the list of benches, in the health of the target, and in the event."""
    store = MemoryStore()
    with isolated():
        configure(state=store, state_name="web-2", logging=False)
        assert store_status(wait=PATIENCE).last_sync_at is not None
        bench_model("groq", reason="incident", by="alice")
        eventually(lambda: not store_status().pending)
    share(store)

    (bench,) = client.get("/api/benches").json
    (target,) = (each for each in client.get("/api/targets").json if each["key"] == "groq")

    assert ("groq", "web-2", "alice") == tuple(bench[name] for name in ("model", "source", "by"))
    assert bench["source"] == target["benched"]["source"]


def test_a_store_alone(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its benches and what is said of it, and that there is no process to show."""
    monkeypatch.setattr(chains, "_policies", weakref.WeakSet())  # of other tests
    share(f"sqlite://{tmp_path}/app.db")
    client = serve(admin.of_store(authorize=admin.token(TOKEN), hosts=["127.0.0.1"]))

    made = client.bench(model="groq", reason="x")

    assert 201 == made.status
    assert ["groq"] == [each["model"] for each in client.get("/api/benches").json]
    assert "store" == client.get("/api/store").json["scope"]
    assert [] == client.get("/api/chains").json
    assert [] == client.get("/api/spend").json


# Spending of a store alone.


def account(*parts: str, start: int = NOW - 10, **amounts: int) -> Balance:
    """Return an account as a process of a budget names it."""
    return Balance("\n".join(parts), start, start + 3600, **amounts)


def test_spending_of_a_store_has_no_caps() -> None:
    """A row a budget, with what the name of its account says, in whole units."""
    month = account(
        "", "openai", "usd", "month", "UTC", spent=1_250_000_000_000, reserved=1, calls=3
    )
    named = account("team", "*", "tokens", "day", "UTC", spent=70, calls=2, estimated=1)

    first, second = _store.spend_rows([named, month], NOW, None)

    assert {
        "budget": "openai month usd",
        "of": "openai",
        "key": None,
        "period_start": "2027-01-15T07:59:50Z",
        "resets_at": "2027-01-15T08:59:50Z",
        "spent": 1.25,
        "reserved": 1e-12,
        "cap": None,
        "calls": 3,
        "estimated": 0,
        "unit": "usd",
        "keys": 1,
    } == first
    assert ("team", "*", 70, 1, "tokens") == tuple(
        second[name] for name in ("budget", "of", "spent", "estimated", "unit")
    )


def test_of_a_budget_by_key_the_fullest_are_shown() -> None:
    """At most 100 of them, with their number; another one by its name."""
    balances = [
        account("", "key", "calls", "day", "UTC", f"tenant-{number}", spent=number, calls=number)
        for number in range(150)
    ]

    rows = _store.spend_rows(balances, NOW, None)
    named = _store.spend_rows(balances, NOW, "tenant-7")

    assert 100 == len(rows)
    assert [149, 148] == [each["spent"] for each in rows[:2]]
    assert {150} == {each["keys"] for each in rows}
    assert [("tenant-7", 7, 150)] == [(e["key"], e["spent"], e["keys"]) for e in named]


@pytest.mark.parametrize(
    "balance",
    [
        account("", "openai", "usd", "month", "UTC", start=NOW - 4000),
        account("", "openai", "usd", "month", "UTC", start=NOW + 1),
        account("openai"),
        account("", "openai", "euros", "month", "UTC"),
        account("", "openai", "usd", "month", "UTC", "key-of-no-budget"),
        account("", "key", "usd", "month", "UTC"),
        account("a\x1b[31m", "openai", "usd", "month", "UTC"),
    ],
    ids=["over", "to-come", "short", "unit", "key", "no-key", "control"],
)
def test_what_is_no_present_spending_is_left_out(balance: Balance) -> None:
    """Another period, and what anybody may have written into the store."""
    assert [] == _store.spend_rows([balance], NOW, None)
