"""Budgets where days have 23 or 25 hours, begin at 01:00, or where a wall clock is set back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from resilient_llm import Budget
from tests.support.budgets import Books

BOUNDARIES = [
    # ``(per, zone, first moment of a period, its last second)``, in UTC.
    ("day", "UTC", "2024-02-29 00:00:00", "2024-02-29 23:59:59"),
    ("month", "UTC", "2024-02-01 00:00:00", "2024-02-29 23:59:59"),
    ("month", "UTC", "2026-02-01 00:00:00", "2026-02-28 23:59:59"),
    ("month", "UTC", "2026-12-01 00:00:00", "2026-12-31 23:59:59"),
    ("day", "Europe/Berlin", "2026-03-28 23:00:00", "2026-03-29 21:59:59"),
    ("day", "Europe/Berlin", "2026-10-24 22:00:00", "2026-10-25 22:59:59"),
    ("day", "America/Sao_Paulo", "2018-11-04 03:00:00", "2018-11-05 01:59:59"),
    ("day", "Africa/Cairo", "2024-04-25 22:00:00", "2024-04-26 20:59:59"),
    ("day", "Asia/Beirut", "2022-03-26 22:00:00", "2022-03-27 20:59:59"),
    ("month", "Asia/Beirut", "2022-02-28 22:00:00", "2022-03-31 20:59:59"),
]


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(("per", "zone", "first", "last"), BOUNDARIES, ids=str)
def test_a_cap_holds_from_the_first_moment_to_the_last(
    per: Any, zone: str, first: str, last: str
) -> None:
    """A call a moment earlier or later is in another period."""
    start, end = _seconds(first), _seconds(last) + 1.0
    books = Books(Budget(calls=1, per=per, zone=zone), now=start - 0.001)
    books.spend()
    books.now = start
    books.spend()
    books.now = end - 0.001

    refusal = books.refuse()

    assert end == refusal.resets_at.timestamp()
    assert refusal.retry_after == pytest.approx(0.001, abs=1e-6)
    books.now = end
    books.spend()


@pytest.mark.parametrize("back", [3600.0, 31 * 86_400.0])
@pytest.mark.parametrize(("per", "zone", "first", "last"), BOUNDARIES, ids=str)
def test_a_clock_that_is_set_back_reopens_nothing(
    per: Any, zone: str, first: str, last: str, back: float
) -> None:
    """By an hour or a month: what was spent stays spent until the period in force ends."""
    start, end = _seconds(first), _seconds(last) + 1.0
    budget = Budget(calls=2, per=per, zone=zone)
    books = Books(budget, now=start - 1.0)
    books.spend()
    books.now = start
    late = books.reserve()
    books.spend()
    books.now = start - back

    for budgets in ([budget], [budget, Budget(tokens=10**6)], []):
        assert start == books.report(budget.name).period_start.timestamp()
        assert end == books.refuse().resets_at.timestamp()
        books.ledger.replace(budgets, books.now)
    books.ledger.replace([budget], books.now)

    # It was gone in between, and begins with nothing, but no earlier than it had come.
    assert start == books.report(budget.name).period_start.timestamp()
    assert 0 == books.report(budget.name).reserved
    del late
