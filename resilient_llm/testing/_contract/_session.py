"""What the clauses are written with: a session that stamps its steps as the mirror does."""

from __future__ import annotations

import secrets
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._values.sharing import Bench, Changes, Charge, End, Reserve, Stamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._values.sharing import (
        Balance,
        Claim,
        Claimed,
        Layer,
        Published,
        RawRecord,
        Reserved,
        Settle,
    )
    from resilient_llm.stores import Store

TIMEOUT: Final = 5.0
MOMENT: Final = 0.1
"""Seconds after which short leases are over; clauses sleep a little longer."""


def name(prefix: str = "") -> str:
    """Return a name that was never used."""
    return f"{prefix}{secrets.token_hex(8)}"


METHODS: Final = ("publish", "changes", "wait", "claim", "reserve", "settle", "close")


class Clause:
    """What a clause is given: stores on the same data, if `make` gives such.

    Attributes:
        make: Returns a store.
        store: One of them.
    """

    store: Store

    def __init__(self, make: Callable[[], Store]) -> None:
        self.make = make
        self._stores: list[Store] = []

    def begin(self) -> None:
        """Make the first store."""
        self.store = self.another()

    def another(self) -> Store:
        """Return one more store."""
        store: Any = self.make()
        assert store is not None, "make returns None instead of a store"
        self._stores.append(store)
        missing = [each for each in METHODS if not callable(getattr(store, each, None))]
        assert not missing, f"{type(store).__name__} has no method {' and no '.join(missing)}"
        return store

    def close(self) -> list[Exception]:
        """Close all of them; return what that has raised."""
        errors: list[Exception] = []
        for store in self._stores:
            try:
                store.close()
            except Exception as error:  # noqa: BLE001  # a store of anybody
                errors.append(error)
        return errors

    def session(self, store: Store | None = None) -> Session:
        """Return a session that has read everything."""
        session = Session(store or self.store)
        session.look()
        return session

    def everything(self, key: str) -> list[RawRecord]:
        """Return all records of a key, as a new session finds them."""
        return of_key(Session(self.store).look(), key)


class Session:
    """One process, as far as a store can see."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.id = name()
        self.number: int = 0
        self.answered: int = 0
        self.revision: int = 0
        self.order: int = 0
        self.epoch: str | None = None
        self.seen: Changes | None = None

    def stamp(self, *, again: bool = False) -> Stamp:
        """Return the stamp of the next step, or of the last one once more."""
        if not again:
            self.number += 1
        return Stamp(self.id, self.number, self.epoch, self.revision, self.answered, self.order)

    def note(self) -> None:
        """Note that the last step was answered."""
        self.answered = self.number

    def look(
        self, *, limit: int = 1000, each_page: Callable[[Changes], object] | None = None
    ) -> list[RawRecord]:
        """Return the records that are new, and follow the epoch of the store."""
        found: list[RawRecord] = []
        while True:
            since = self.revision
            stamp = Stamp(self.id, 0, self.epoch, since, self.answered, self.order)
            seen = self.store.changes(stamp, since, limit=limit, timeout=TIMEOUT)
            if each_page is not None:
                each_page(seen)
            # What has lost data is read from the start; while it cannot write, it keeps its epoch.
            if seen.epoch != self.epoch or seen.is_lost:
                self.epoch, self.answered, since = seen.epoch, 0, 0
            self.seen, self.revision = seen, seen.revision
            found += seen.records
            is_further = not seen.has_more or seen.revision > since
            assert is_further, f"has_more is set, and the revision stays at {since}"
            orders = [each.order for each in seen.records if isinstance(each.order, int)]
            self.order = max([self.order, *orders])
            if not seen.has_more:
                return found

    def publish(
        self, *changes: Bench | End, balances: tuple[Balance, ...] = (), again: bool = False
    ) -> list[Published]:
        """Publish, and return what became of each."""
        done = self.store.publish(self.stamp(again=again), changes, balances, timeout=TIMEOUT)
        self.note()
        return list(done)

    def claim(self, claim: Claim, *, again: bool = False) -> Claimed:
        """Claim one place."""
        (claimed,) = self.store.claim(self.stamp(again=again), [claim], timeout=TIMEOUT)
        self.note()
        return claimed

    def reserve(
        self, *reserves: Reserve, lasts: float = 30.0, again: bool = False
    ) -> list[Reserved]:
        """Reserve for several attempts."""
        done = self.store.reserve(self.stamp(again=again), reserves, lasts=lasts, timeout=TIMEOUT)
        self.note()
        return list(done)

    def settle(self, *settles: Settle, again: bool = False) -> dict[str, Balance]:
        """Settle several attempts, and return ``{account: balance}``."""
        done = self.store.settle(self.stamp(again=again), settles, timeout=TIMEOUT)
        self.note()
        return {each.account: each for each in done}

    def now(self) -> float:
        """Return the moment by the clock of the store."""
        self.look()
        assert self.seen is not None
        return self.seen.now


def whole(value: object) -> int:
    """Return a number that a store is expected to answer."""
    assert isinstance(value, int), f"{type(value).__name__} instead of a whole number"
    return value


def bench(
    key: str, layer: Layer = "automatic", ends_in: float | None = 300.0, **more: Any
) -> Bench:
    """Return a bench with a fresh id."""
    return Bench(key, layer, name(), ends_in, b'{"v": 1}', **more)


def end(key: str, through: int, *ids: str, layer: Layer = "automatic", order: int = 0) -> End:
    """Return an end."""
    return End(key, layer, through, ids, b'{"v": 1}', order=order)


def of_key(records: list[RawRecord], key: str) -> list[RawRecord]:
    """Return the records of one key."""
    return [each for each in records if each.key == key]


def charge(account: str, amount: int, cap: int | None, now: float, **more: Any) -> Charge:
    """Return a charge in a period of an hour that holds a moment."""
    start = int(now) - int(now) % 3600
    return Charge(account, start, start + 3600, amount, cap, **more)


def equal(expected: object, actual: object, what: str) -> None:
    """Fail if two values are not the same."""
    assert expected == actual, f"{what}: {expected!r} expected, {actual!r} found"


def pause() -> None:
    """Wait until short leases are over."""
    time.sleep(MOMENT * 1.5)


def in_thread(run: Callable[[], object]) -> threading.Thread:
    """Run something in another thread."""
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
