"""Every store does what the library asks of one; a store that does not is found out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from resilient_llm._values.sharing import (
    Balance,
    Bench,
    Changes,
    Claim,
    Claimed,
    End,
    Published,
    Reserve,
    Reserved,
    Settle,
    Stamp,
    StoreError,
)
from resilient_llm.stores import Store
from resilient_llm.stores.redis import RedisStore
from resilient_llm.stores.sqlite import SqliteStore
from resilient_llm.testing import MemoryStore, store_contract
from resilient_llm.testing._contract import CLAUSES
from resilient_llm.testing._contract._session import Session
from tests.support.valkey import Server


def test_memory() -> None:
    """The store for tests passes, also if each store has data of its own."""
    shared = MemoryStore()

    store_contract(lambda: shared)
    store_contract(MemoryStore)


def test_the_check_reads_from_the_start_what_has_lost_data() -> None:
    """A store that cannot write keeps its epoch, and its first page has a lower revision."""
    page = partial(Changes, "epoch", records=(), balances=(), is_all=True, peers=1, now=0.0)
    pages = [
        page(revision=9, has_more=True, is_lost=False),
        page(revision=3, has_more=True, is_lost=True),
        page(revision=4, has_more=False, is_lost=False),
    ]

    class Losing(MemoryStore):
        def changes(self, *args: Any, **options: Any) -> Changes:
            return pages.pop(0)

    session = Session(Losing())
    session.look()

    assert ([], 4) == (pages, session.revision)


def test_sqlite(tmp_path: Path) -> None:
    """Stores on one file pass."""
    store_contract(lambda: SqliteStore(tmp_path / "state.db", poll=0.1))


def test_redis(server: Server) -> None:
    """Stores on one server pass."""
    store_contract(lambda: RedisStore.from_url(server.url))


def test_stores_have_the_methods_of_the_protocol(tmp_path: Path) -> None:
    """A type checker and the text agree on what a store is."""
    stores: list[Store] = [MemoryStore(), SqliteStore(tmp_path / "state.db")]

    assert [True, False] == [each.has_limits for each in stores]


def test_every_clause_is_in_the_list() -> None:
    """A function that reads as a clause is one."""
    modules = {clause.__module__: set[Any]() for clause in CLAUSES}
    for clause in CLAUSES:
        modules[clause.__module__].add(clause.__name__)
    helpers = {"equal", "ids", "bench", "end", "name", "whole", "of_key", "pause", "charge"}
    for module, clauses in modules.items():
        functions = {
            name
            for name, value in vars(sys.modules[module]).items()
            if callable(value) and name.islower() and value.__module__ == module
        }
        assert {name for name in functions if name[0] != "_"} - helpers == clauses


class Forgets(MemoryStore):
    """Answers and stores nothing."""

    def publish(
        self,
        stamp: Stamp,
        changes: Sequence[Bench | End],
        balances: Sequence[Balance] = (),
        *,
        timeout: float,
    ) -> tuple[Published, ...]:
        return tuple(Published("stored", 1) for _ in changes)


class Repeats(MemoryStore):
    """Tells everything at each look."""

    def changes(self, stamp: Stamp, since: int, *, limit: int = 1000, timeout: float) -> Changes:
        return super().changes(stamp, 0, limit=100_000, timeout=timeout)


class Doubles(MemoryStore):
    """Does a step again that is sent again."""

    numbers = 0

    def settle(
        self, stamp: Stamp, settles: Sequence[Settle], *, timeout: float
    ) -> tuple[Balance, ...]:
        self.numbers += 1000
        return super().settle(
            stamp._replace(number=stamp.number + self.numbers), settles, timeout=timeout
        )


class Rounds(MemoryStore):
    """Counts in doubles."""

    def reserve(
        self, stamp: Stamp, reserves: Sequence[Reserve], *, lasts: float, timeout: float
    ) -> tuple[Reserved, ...]:
        rounded = [
            each._replace(
                charges=tuple(
                    charge._replace(amount=int(float(charge.amount))) for charge in each.charges
                )
            )
            for each in reserves
        ]
        return super().reserve(stamp, rounded, lasts=lasts, timeout=timeout)


class Gives(MemoryStore):
    """Gives everybody the place of a probe."""

    def claim(
        self, stamp: Stamp, claims: Sequence[Claim], *, timeout: float
    ) -> tuple[Claimed, ...]:
        return tuple(Claimed(each.lease is not None, each.lease or 0.0) for each in claims)


class Sleeps(MemoryStore):
    """Notices nothing while it waits."""

    def wait(self, since: int, seconds: float, wake: object = None) -> bool:
        return False


class Fails(MemoryStore):
    """Raises what is no error of a store."""

    def changes(self, stamp: Stamp, since: int, *, limit: int = 1000, timeout: float) -> Changes:
        raise StoreError("timeout")


class Unlimited(MemoryStore):
    """Tells everything at once."""

    def changes(self, stamp: Stamp, since: int, *, limit: int = 1000, timeout: float) -> Changes:
        return super().changes(stamp, since, limit=100_000, timeout=timeout)


class Stuck(MemoryStore):
    """Always has more of the same."""

    def changes(self, stamp: Stamp, since: int, *, limit: int = 1000, timeout: float) -> Changes:
        seen = super().changes(stamp, since, limit=limit, timeout=timeout)
        return seen._replace(has_more=True)


class Owes(MemoryStore):
    """Takes back more than was booked."""

    def settle(
        self, stamp: Stamp, settles: Sequence[Settle], *, timeout: float
    ) -> tuple[Balance, ...]:
        done = super().settle(stamp, settles, timeout=timeout)
        is_above = any(entry.amount < -1000 for each in settles for entry in each.entries)
        return tuple(each._replace(spent=-1) for each in done) if is_above else done


class Stays(MemoryStore):
    """Cannot be closed."""

    def close(self) -> None:
        raise RuntimeError("it stays open")


class Claimless(MemoryStore):
    """Lacks two methods."""

    claim = None  # type: ignore[assignment]  # this is what is wrong
    settle = None  # type: ignore[assignment]


class StaysClaimless(Stays, Claimless):
    """Cannot be closed either, which is not the first thing that is wrong."""


class Nameless(MemoryStore):
    """Has no URL."""

    @property
    def url(self) -> Any:
        return None


FIRST = "a store has the methods and attributes of the protocol: "


@pytest.mark.parametrize(
    ("broken", "clause"),
    [
        (Forgets, "a bench is found by another session"),
        (Repeats, "a look finds what changed"),
        (Doubles, "a step that is sent again is done once"),
        (Rounds, "amounts are exact"),
        (Gives, "one session holds a place"),
        (Sleeps, "a wait ends with its time"),
        (Unlimited, r"a look returns at most its limit: [0-9]+ records and balances with limit=1"),
        (Stuck, "a bench is found by another session: has_more is set"),
        (Owes, "an entry below zero takes back down to nothing: the balance after more"),
        (Stays, "a store can be closed: RuntimeError: it stays open"),
        (StaysClaimless, f"{FIRST}StaysClaimless has no method claim"),
        (Claimless, f"{FIRST}Claimless has no method claim and no settle"),
        (Nameless, f"{FIRST}url is no text"),
        (Fails, "a bench is found by another session: StoreError: the store cannot be used"),
    ],
)
def test_a_broken_store_is_found_out(broken: type[MemoryStore], clause: str) -> None:
    """The message begins with the clause that it breaks."""
    shared = broken()

    with pytest.raises(AssertionError, match=f"^{clause}"):
        store_contract(lambda: shared)


def test_what_makes_no_store_is_found_out() -> None:
    """Such as a function without ``return``, from the first call or from a later one."""
    none: Any = None
    made = iter([MemoryStore(), *[none] * 99])

    with pytest.raises(AssertionError, match=f"^{FIRST}make returns None"):
        store_contract(lambda: none)
    with pytest.raises(AssertionError, match=r"^a bench is found .*: make returns None"):
        store_contract(lambda: next(made))
