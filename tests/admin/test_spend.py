"""``api/spend``: what budgets have spent, a bounded number of keys, and the events about them."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from decimal import Decimal

import pytest

from resilient_llm import (
    Budget,
    BudgetExceededError,
    SpendReport,
    bench_model,
    configure,
    spend_key,
)
from resilient_llm.admin import _views
from tests.support.asgi import Client
from tests.support.spending import asking


def test_rows_are_objects_with_the_fields_of_a_spend_report(client: Client) -> None:
    """Amounts are numbers, moments texts; the unit and the number of keys stand beside them."""
    configure(budgets=[Budget(usd=Decimal("0.0012"), name="month"), Budget(calls=3, of="key")])
    ask = asking()
    with spend_key("tenant-7"):
        ask()

    calls, month = client.get("/api/spend").json

    assert {*(each.name for each in fields(SpendReport)), "unit", "keys"} == month.keys()
    assert ("month", "all", None, 0.0006, 0, 0.0012, 1, 0, "usd", 1) == tuple(
        month[name]
        for name in (
            *("budget", "of", "key", "spent", "reserved", "cap"),
            *("calls", "estimated", "unit", "keys"),
        )
    )
    assert ("tenant-7", 1, 3, "calls") == tuple(
        calls[name] for name in ("key", "spent", "cap", "unit")
    )
    start, end = (datetime.fromisoformat(month[name]) for name in ("period_start", "resets_at"))
    assert start.day == end.day == 1
    assert start < end


def test_without_budgets_there_is_nothing(client: Client) -> None:
    """No budget, no row; a budget that has spent nothing is there."""
    assert [] == client.get("/api/spend").json

    configure(budgets=[Budget(usd=50, of="openai")])

    (row,) = client.get("/api/spend").json
    assert ("openai month usd", 0, 50) == (row["budget"], row["spent"], row["cap"])


def test_a_bounded_number_of_keys_is_shown(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that used most, and how many there are; any other one by its name."""
    monkeypatch.setattr(_views, "MOST_KEYS", 3)
    configure(budgets=[Budget(calls=9, of="key", name="tenants")])
    ask = asking()
    for number in range(1, 6):
        with spend_key(f"tenant/{number} ä"):
            for _ in range(number):
                ask()

    rows = client.get("/api/spend").json
    (one,) = client.get("/api/spend", key="tenant/1 ä").json
    none = client.get("/api/spend", key="nobody").json

    assert [("tenant/5 ä", 5), ("tenant/4 ä", 4), ("tenant/3 ä", 3)] == [
        (row["key"], row["spent"]) for row in rows
    ]
    assert [5, 5, 5] == [row["keys"] for row in rows]
    assert ("tenant/1 ä", 1) == (one["key"], one["spent"])
    assert [] == none


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("key=", "a spend key of 0 characters"),
        ("key=" + "x" * 201, "a spend key of 201 characters"),
        ("key=a%0Ab", "control characters"),
        ("key=a&key=b", "write one parameter 'key'"),
        ("kye=a", "kye"),
    ],
    ids=["empty", "too long", "a newline", "twice", "misspelt"],
)
def test_a_key_that_is_none_is_refused(client: Client, query: str, said: str) -> None:
    """The problem says what is wrong."""
    answer = client.get(f"/api/spend?{query}")

    assert 422 == answer.status
    assert said in answer.json["detail"]


def test_events_are_of_budgets_and_not_of_every_booking(client: Client) -> None:
    """A feed of bookings would push everything else out, and have every call booked."""
    configure(budgets=[Budget(calls=1, name="one")])
    ask = asking()
    with client.stream() as events:
        assert 200 == events.status
        ask()
        with pytest.raises(BudgetExceededError):
            ask()
        bench_model("openai", reason="the end")
        found = [events.next()]
        while found[-1].type != "TargetBenched":
            found.append(events.next())

    kinds = [each.type for each in found]
    assert ["BudgetWarning", "BudgetExceeded"] == [each for each in kinds if "Budget" in each]
    assert "SpendRecorded" not in kinds
    told = next(each.data for each in found if each.type == "BudgetExceeded")
    assert ("one", None, 1, 1) == tuple(told[name] for name in ("budget", "key", "spent", "cap"))
    assert told["resets_at"].endswith("-01T00:00:00Z")
