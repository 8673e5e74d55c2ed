"""`MemoryStore`: shares state between registries of one process, in plain dicts; for tests.

Public as `resilient_llm.testing.MemoryStore`. It is the shortest store there is, so it shows best
what one has to do.
"""

from __future__ import annotations

import threading
import time
from heapq import nsmallest
from typing import TYPE_CHECKING, TypeVar

from resilient_llm.stores import _forks
from resilient_llm.stores._steps import Forgetting, Steps, new_epoch
from resilient_llm.stores._tables import AccountRow, BenchRow, ClaimRow, EndRow, SessionRow
from resilient_llm.stores._waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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
    )
    from resilient_llm.stores import Readable
    from resilient_llm.stores._tables import ReservationRow

T = TypeVar("T")


class MemoryStore:
    """Shares state between registries of one process, and loses it with the process.

    It may be used from any thread, and by any number of registries at once.

    Examples:
        >>> store = MemoryStore()
        >>> store.url
        'memory:'

    Args:
        clock: Returns seconds since 1970: the clock of the store.
    """

    url = "memory:"
    has_limits = True

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tables = _Tables()
        self._published = 0
        """The highest revision after which a bench or an end was published."""
        self._forgetting = Forgetting()
        self._waiters: list[Waiter] = []
        _forks.register(self)

    def lose(self) -> None:
        """Lose all data, as a store does that was flushed."""
        with self._lock:
            self._tables = _Tables()
            self._published = 0
            self._wake(always=True)

    def _step(self, run: Callable[[Steps], T]) -> T:
        with self._lock:
            steps = Steps(self._tables, self._clock())
            done = run(steps)
            steps.forget(self._forgetting)
            return done

    def publish(
        self,
        stamp: Stamp,
        changes: Sequence[Bench | End],
        balances: Sequence[Balance] = (),
        *,
        timeout: float,
    ) -> tuple[Published, ...]:
        """See `resilient_llm.stores.Store`."""
        published = self._step(lambda steps: steps.publish(stamp, changes, balances))
        if any(each.outcome == "stored" for each in published):
            with self._lock:
                self._published = self._tables.meta()[1]
                self._wake()
        return published

    def changes(self, stamp: Stamp, since: int, *, limit: int = 1000, timeout: float) -> Changes:
        """See `resilient_llm.stores.Store`."""

        def look(steps: Steps) -> Changes:
            if steps.is_due(stamp):
                steps.sight(stamp)
            return steps.look(stamp, since, limit)

        return self._step(look)

    def wait(self, since: int, seconds: float, wake: Readable | None = None) -> bool:
        """See `resilient_llm.stores.Store`."""
        with self._lock:
            if self._published > since:
                return True
            waiter = Waiter(since)
            self._waiters.append(waiter)
        try:
            waiter.wait(seconds, wake)
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
            waiter.close()
        return waiter.is_told

    def _wake(self, *, always: bool = False) -> None:
        for each in self._waiters:
            if always or self._published > each.since:
                each.tell()

    def claim(
        self, stamp: Stamp, claims: Sequence[Claim], *, timeout: float
    ) -> tuple[Claimed, ...]:
        """See `resilient_llm.stores.Store`."""
        return self._step(lambda steps: steps.claim(stamp, claims))

    def reserve(
        self, stamp: Stamp, reserves: Sequence[Reserve], *, lasts: float, timeout: float
    ) -> tuple[Reserved, ...]:
        """See `resilient_llm.stores.Store`."""
        return self._step(lambda steps: steps.reserve(stamp, reserves, lasts))

    def settle(
        self, stamp: Stamp, settles: Sequence[Settle], *, timeout: float
    ) -> tuple[Balance, ...]:
        """See `resilient_llm.stores.Store`."""
        return self._step(lambda steps: steps.settle(stamp, settles))

    def close(self) -> None:
        """End the waits of all threads; the data stays."""
        with self._lock:
            for each in self._waiters:
                each.wake()

    def before_fork(self) -> None:
        """Nothing: the child has its own copy, and its own lock."""

    def after_fork_in_parent(self) -> None:
        """Nothing either."""

    def after_fork_in_child(self) -> None:
        """Replace the lock, which another thread of the parent may hold."""
        self._lock = threading.Lock()
        self._waiters = []


class _Tables:
    """The tables in dicts; see `Tables`."""

    def __init__(self) -> None:
        self._meta = new_epoch(), 0
        self._sessions: dict[str, SessionRow] = {}
        self._benches: dict[tuple[str, str], list[BenchRow]] = {}
        self._ends: dict[tuple[str, str], EndRow] = {}
        self._ended: dict[str, float] = {}
        self._claims: dict[str, ClaimRow] = {}
        self._accounts: dict[str, dict[int, AccountRow]] = {}
        self._reservations: dict[str, ReservationRow] = {}
        self._buckets: dict[str, float] = {}
        self._by_revision: dict[int, BenchRow | EndRow | AccountRow] = {}
        """In order, since each new revision is the highest."""

    def meta(self) -> tuple[str, int]:
        return self._meta

    def put_meta(self, epoch: str, revision: int) -> None:
        self._meta = epoch, revision

    def session(self, session: str) -> SessionRow | None:
        return self._sessions.get(session)

    def put_session(self, row: SessionRow) -> None:
        self._sessions[row.session] = row

    def others(self, session: str, since: float, until: float) -> int:
        return sum(
            since < row.seen_at < until and row.session != session
            for row in self._sessions.values()
        )

    def benches(self, key: str, layer: str) -> Sequence[BenchRow]:
        return list(self._benches.get((key, layer), ()))

    def put_bench(self, row: BenchRow) -> None:
        self._benches.setdefault((row.key, row.layer), []).append(row)
        self._by_revision[row.revision] = row

    def drop_bench(self, row: BenchRow) -> None:
        self._by_revision.pop(row.revision, None)
        rows = self._benches[row.key, row.layer]
        rows.remove(row)
        if not rows:
            del self._benches[row.key, row.layer]

    def end(self, key: str, layer: str) -> EndRow | None:
        return self._ends.get((key, layer))

    def put_end(self, row: EndRow) -> None:
        self._drop(self._ends.get((row.key, row.layer)))
        self._ends[row.key, row.layer] = row
        self._by_revision[row.revision] = row

    def _drop(self, row: EndRow | AccountRow | None) -> None:
        if row is not None:
            self._by_revision.pop(row.revision, None)

    def has_ended(self, bench_id: str) -> bool:
        return bench_id in self._ended

    def put_ended(self, bench_id: str, moment: float) -> None:
        self._ended[bench_id] = moment

    def claim(self, key: str) -> ClaimRow | None:
        return self._claims.get(key)

    def put_claim(self, row: ClaimRow) -> None:
        self._claims[row.key] = row

    def drop_claim(self, key: str) -> None:
        self._claims.pop(key, None)

    def account(self, account: str, start: int) -> AccountRow | None:
        return self._accounts.get(account, {}).get(start)

    def latest_account(self, account: str) -> AccountRow | None:
        periods = self._accounts.get(account)
        return periods[max(periods)] if periods else None

    def put_account(self, row: AccountRow) -> None:
        periods = self._accounts.setdefault(row.account, {})
        self._drop(periods.get(row.start))
        periods[row.start] = row
        self._by_revision[row.revision] = row

    def reservation(self, reservation_id: str) -> ReservationRow | None:
        return self._reservations.get(reservation_id)

    def put_reservation(self, row: ReservationRow) -> None:
        self._reservations[row.id] = row

    def drop_reservation(self, reservation_id: str) -> None:
        self._reservations.pop(reservation_id, None)

    def overdue(self, moment: float, most: int) -> Sequence[ReservationRow]:
        over = (
            row
            for row in self._reservations.values()
            if not row.is_booked and row.ends_at <= moment
        )
        return nsmallest(most, over, key=lambda row: row.ends_at)

    def bucket(self, bucket: str) -> float:
        return self._buckets.get(bucket, 0.0)

    def put_bucket(self, bucket: str, full_at: float) -> None:
        self._buckets[bucket] = full_at

    def changed(
        self, since: int, until: int, most: int
    ) -> Iterable[BenchRow | EndRow | AccountRow]:
        newer: list[BenchRow | EndRow | AccountRow] = []
        for revision in reversed(self._by_revision):
            if revision <= since:
                break
            newer.append(self._by_revision[revision])
        newer.reverse()
        return newer[:most]

    def forget(self, now: float, before: float) -> None:
        for rows in list(self._benches.values()):
            for row in list(rows):
                if row.ends_at <= now:
                    self.drop_bench(row)
        for key, end in list(self._ends.items()):
            if end.ended_at <= before:
                self._drop(self._ends.pop(key))
        for account, periods in list(self._accounts.items()):
            for start, row in list(periods.items()):
                if row.end is not None and row.end <= before:
                    self._drop(periods.pop(start))
            if not periods:
                del self._accounts[account]
        self._claims = {key: row for key, row in self._claims.items() if row.ends_at > now}
        self._ended = {key: at for key, at in self._ended.items() if at > before}
        self._sessions = {key: row for key, row in self._sessions.items() if row.seen_at > before}
        self._reservations = {
            key: row
            for key, row in self._reservations.items()
            if not row.is_booked or row.ends_at > before
        }
        self._buckets = {key: at for key, at in self._buckets.items() if at > now}
