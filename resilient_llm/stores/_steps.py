"""The rules of a store, once, for all that can run Python in one transaction.

Each public method of `Steps` is one step, and the module ``stores`` says what it does. It is used
inside a transaction, which is committed after `DataLostError` as well, since a new epoch may have
begun, and rolled back after any other error.
"""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, Final

from resilient_llm._values.sharing import (
    ENDED_FOR,
    MANUAL,
    MOST_IDS,
    SAME_KEY,
    SEEN_WITHIN,
    Balance,
    Bench,
    Changes,
    Claimed,
    DataLostError,
    Published,
    RawRecord,
    Reserved,
    StoreError,
)
from resilient_llm.stores._tables import (
    AccountRow,
    BenchRow,
    ClaimRow,
    EndRow,
    Part,
    ReservationRow,
    SessionRow,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from resilient_llm._values.sharing import Charge, Claim, End, Reserve, Settle, Stamp, Take
    from resilient_llm.stores._tables import Tables

SEEN_EVERY: Final = 5.0
"""Seconds after which a look notes again that its session is there."""
_FORGET_EVERY: Final = 60.0
"""Seconds after which a store looks for rows that nobody needs."""
_LONGEST_GAP: Final = 300.0
"""Seconds between two of these times after which the clock has jumped, or nobody was there."""
_LONG: Final = 30 * 86_400.0
"""Seconds for which rows are remembered in that case. All sessions seem to be gone then, and one
that is forgotten takes that for a loss of data; a minute later it was heard of again."""
_AT_ONCE: Final = 1000
"""Reservations that one step books because they have ended; the next ones book the others."""
_ROUNDING: Final = 1e-6
"""Seconds before its time at which a take fits."""


class Forgetting:
    """When a store looks for rows that nobody needs; kept as long as the store."""

    def __init__(self) -> None:
        self._last = -math.inf

    def is_due(self, now: float) -> float | None:
        """Return for how many seconds rows are remembered, or None if it is not time to look."""
        gap = now - self._last
        if 0 <= gap < _FORGET_EVERY:
            return None
        self._last = now
        return ENDED_FOR if 0 <= gap <= _LONGEST_GAP else _LONG


def new_epoch() -> str:
    """Return a name for data that has begun anew."""
    return secrets.token_hex(8)


class Steps:
    """One transaction: made at its beginning, with the tables and the moment."""

    def __init__(self, tables: Tables, now: float) -> None:
        self._tables = tables
        self._now = now
        self._accounts: dict[tuple[str, int], AccountRow] = {}
        """What this step has changed of them; written at its end."""
        self._epoch, self._revision = tables.meta()
        self._written = self._revision

    # What every step begins and ends with.

    def _begin(self, stamp: Stamp) -> bool:
        """Look at a stamp; return whether this step was done before.

        Raises:
            DataLostError: If the session has to read everything first.
            StoreError: If the step comes too late.
        """
        if stamp.epoch != self._epoch or self._begin_epoch_if_behind(stamp):
            raise DataLostError
        row = self._tables.session(stamp.session)
        last = row.number if row is not None else 0
        if stamp.number < last:
            raise StoreError("error")
        self._tables.put_session(SessionRow(stamp.session, stamp.number, self._now))
        self._revision = max(self._revision, stamp.order)
        return stamp.number == last

    def _is_behind(self, stamp: Stamp) -> bool:
        """Return whether a session has seen what this data does not have."""
        if stamp.epoch != self._epoch:
            return False
        row = self._tables.session(stamp.session)
        last = row.number if row is not None else 0
        return stamp.revision > self._revision or stamp.answered > last

    def _begin_epoch_if_behind(self, stamp: Stamp) -> bool:
        if not self._is_behind(stamp):
            return False
        self._epoch = new_epoch()
        self._tables.put_meta(self._epoch, self._revision)
        return True

    def _next(self) -> int:
        """Return a new revision."""
        self._revision = max(self._revision + 1, int(self._now * 1e6))
        return self._revision

    def _finish(self) -> None:
        for row in self._accounts.values():
            self._tables.put_account(row._replace(revision=self._next()))
        self._accounts.clear()
        if self._revision != self._written:
            self._tables.put_meta(self._epoch, self._revision)
            self._written = self._revision

    def forget(self, forgetting: Forgetting) -> None:
        """Remove what nobody needs any more, if it is time; after a step, which is heard of."""
        seconds = forgetting.is_due(self._now)
        if seconds is not None:
            self._tables.forget(self._now, self._now - seconds)

    # Looks.

    def is_due(self, stamp: Stamp) -> bool:
        """Return whether `sight` has something to write for a look."""
        row = self._tables.session(stamp.session)
        return (
            row is None
            or abs(self._now - row.seen_at) >= SEEN_EVERY
            or self._is_behind(stamp)
            or any(self._tables.overdue(self._now, 1))
        )

    def sight(self, stamp: Stamp) -> None:
        """Note that a session is there, and what its stamp tells about lost data."""
        self._begin_epoch_if_behind(stamp)
        row = self._tables.session(stamp.session)
        number = row.number if row is not None else 0
        self._tables.put_session(SessionRow(stamp.session, number, self._now))
        self._book_overdue()
        self._finish()

    def look(self, stamp: Stamp, since: int, limit: int) -> Changes:
        """Return what has changed; reads only."""
        is_known = stamp.epoch == self._epoch and not self._is_behind(stamp)
        since = since if is_known else 0
        # A row that claims a higher revision than the store has reached would blind its readers.
        rows = list(self._tables.changed(since, self._revision, limit + 1))
        has_more = len(rows) > limit
        del rows[limit:]
        now = self._now
        return Changes(
            epoch=self._epoch,
            revision=rows[-1].revision if has_more else self._revision,
            records=tuple(_records(rows, now)),
            balances=tuple(_balance(row) for row in rows if isinstance(row, AccountRow)),
            is_all=since <= 0,
            has_more=has_more,
            is_lost=not is_known and stamp.epoch is not None,
            peers=self._tables.others(stamp.session, now - SEEN_WITHIN, now + SEEN_WITHIN) + 1,
            now=now,
        )

    # Benches.

    def publish(
        self, stamp: Stamp, changes: Sequence[Bench | End], balances: Sequence[Balance]
    ) -> tuple[Published, ...]:
        """See `resilient_llm.stores.Store.publish`."""
        if self._begin(stamp):
            return tuple(self._known(each) for each in changes)
        published = tuple(
            self._bench(each) if isinstance(each, Bench) else self._end(each) for each in changes
        )
        for each in balances:
            self._raise_to(each)
        self._finish()
        return published

    def _known(self, change: Bench | End) -> Published:
        if not isinstance(change, Bench):
            end = self._tables.end(change.key, change.layer)
            return Published("known", end.order if end is not None else 0)
        for row in self._tables.benches(change.key, change.layer):
            if row.id == change.id:
                return Published("known", row.order)
        return Published("ended" if self._tables.has_ended(change.id) else "known", 0)

    def _bench(self, bench: Bench) -> Published:
        tables, now = self._tables, self._now
        rows = tables.benches(bench.key, bench.layer)
        for row in rows:
            if row.id == bench.id:
                return Published("known", row.order)
        rows = [row for row in rows if row.ends_at > now]
        end = tables.end(bench.key, bench.layer)
        if tables.has_ended(bench.id) or (end is not None and 0 < bench.order <= end.through):
            return Published("ended", 0)
        ends_at = math.inf if bench.ends_in is None else now + bench.ends_in
        if bench.layer == MANUAL:
            newest = max([row.order for row in rows] + [0 if end is None else end.order])
            if bench.seen is not None and newest > bench.seen:
                return Published("superseded", 0)
            is_needless = any(row.order > bench.order > 0 for row in rows)
            replaced = rows
        else:
            is_needless = bench.order > 0 and any(
                row.order > bench.order and row.ends_at >= ends_at for row in rows
            )
            replaced = [
                row
                for row in rows
                if row.ends_at <= ends_at and (not bench.order or row.order < bench.order)
            ]
        if is_needless:
            return Published("known", 0)
        for row in replaced:
            tables.drop_bench(row)
            if bench.layer == MANUAL:
                tables.put_ended(row.id, now)
        kept = sorted((row for row in rows if row not in replaced), key=lambda row: row.order)
        if len(kept) >= SAME_KEY:
            tables.drop_bench(kept[-1])
        order, revision = self._order(bench.order)
        began_at = now - max(bench.age, 0.0)
        tables.put_bench(
            BenchRow(
                bench.key, bench.layer, bench.id, order, revision, began_at, ends_at, bench.body
            )
        )
        return Published("stored", order)

    def _end(self, end: End) -> Published:
        tables, now = self._tables, self._now
        for row in tables.benches(end.key, end.layer):
            if row.order <= end.through or row.id in end.ids:
                tables.drop_bench(row)
                tables.put_ended(row.id, now)
        for each in end.ids:
            tables.put_ended(each, now)
        before = tables.end(end.key, end.layer)
        old_ids = before.ids if before is not None else ()
        if (
            before is not None
            and 0 < end.order <= before.order
            and end.through <= before.through
            and set(end.ids) <= set(old_ids)
        ):
            return Published("known", before.order)
        order, revision = self._order(end.order)
        ids = (*(each for each in old_ids if each not in end.ids), *end.ids)[-MOST_IDS:]
        ended_at, body = now - max(end.age, 0.0), end.body
        through, shown = end.through, order
        if before is not None:
            through = max(through, before.through)
            if before.order > order:  # a copy of an older one
                shown, ended_at, body = before.order, before.ended_at, before.body
        tables.put_end(EndRow(end.key, end.layer, shown, revision, through, ids, ended_at, body))
        return Published("stored", order)

    def _order(self, order: int) -> tuple[int, int]:
        """Return the order and the revision of a change; its order is 0 if it is a new one."""
        self._revision = max(self._revision, order)
        revision = self._next()
        return order or revision, revision

    # Probes.

    def claim(self, stamp: Stamp, claims: Sequence[Claim]) -> tuple[Claimed, ...]:
        """See `resilient_llm.stores.Store.claim`."""
        is_repeated = self._begin(stamp)
        claimed = tuple(self._claim(stamp.session, each, is_repeated) for each in claims)
        self._finish()
        return claimed

    def _claim(self, session: str, claim: Claim, is_repeated: bool) -> Claimed:
        row = self._tables.claim(claim.key)
        if row is not None and row.ends_at <= self._now:
            row = None
        is_own = row is not None and row.session == session
        if not is_repeated and (row is None or is_own):
            if claim.lease is None:
                self._tables.drop_claim(claim.key)
                row = None
            else:
                row = ClaimRow(claim.key, session, self._now + claim.lease)
                self._tables.put_claim(row)
        if row is None:
            return Claimed(False, 0.0)
        return Claimed(row.session == session, row.ends_at - self._now)

    # Accounts.

    def reserve(
        self, stamp: Stamp, reserves: Sequence[Reserve], lasts: float
    ) -> tuple[Reserved, ...]:
        """See `resilient_llm.stores.Store.reserve`."""
        is_repeated = self._begin(stamp)
        self._book_overdue()
        ends_at = self._now + lasts
        reserved = tuple(self._reserve(each, ends_at, is_repeated) for each in reserves)
        self._finish()
        return reserved

    def _reserve(self, wanted: Reserve, ends_at: float, is_repeated: bool) -> Reserved:
        held = self._tables.reservation(wanted.id)
        if held is not None and not held.is_booked:
            self._tables.put_reservation(held._replace(ends_at=max(held.ends_at, ends_at)))
            return self._reserved("admitted", [self._of_part(part) for part in held.parts])
        if held is not None and wanted.is_renewal and not is_repeated:
            self._take_booking_back(held)
        rows = [self._of_charge(charge, wanted.is_renewal) for charge in wanted.charges]
        found = [row for row in rows if row is not None]
        if len(found) < len(rows):
            return self._reserved("period", [])
        takes = () if wanted.is_renewal else wanted.takes
        retry_after = self._retry_after(takes)
        if (
            is_repeated
            or (held is not None and not wanted.is_renewal)
            or retry_after != 0.0
            or (
                not wanted.is_renewal
                and any(
                    charge.cap is not None and row.spent + row.reserved + charge.amount > charge.cap
                    for charge, row in zip(wanted.charges, found, strict=True)
                )
            )
        ):
            return self._reserved("refused", found, retry_after)
        parts: list[Part] = []
        for charge, row in zip(wanted.charges, found, strict=True):
            self._change(row, reserved=charge.amount)
            parts.append(Part(row.account, row.start, row.end, charge.amount, charge.fallback))
        self._take(takes)
        self._tables.put_reservation(
            ReservationRow(wanted.id, ends_at, is_booked=False, parts=tuple(parts))
        )
        return self._reserved("admitted", [self._of_part(part) for part in parts])

    def _reserved(
        self, outcome: str, rows: Iterable[AccountRow], retry_after: float | None = 0.0
    ) -> Reserved:
        balances = tuple(_balance(row) for row in rows)
        return Reserved(outcome, balances, retry_after, self._now)  # pyright: ignore[reportArgumentType]  # one of three words

    def _of_charge(self, charge: Charge, is_renewal: bool) -> AccountRow | None:
        """Return the account of a charge in the period in force; None if it names another one."""
        if not is_renewal:
            ended = charge.end is not None and self._now >= charge.end
            if ended or self._now < charge.start:
                return None
            latest = self._latest(charge.account)
            if latest is not None and latest.start > charge.start:
                return latest
        return self._account(charge.account, charge.start, charge.end)

    def _latest(self, account: str) -> AccountRow | None:
        row = self._tables.latest_account(account)
        if row is None:
            return None
        return self._accounts.get((row.account, row.start), row)

    def _of_part(self, part: Part) -> AccountRow:
        return self._account(part.account, part.start, part.end)

    def _account(self, account: str, start: int, end: int | None) -> AccountRow:
        """Return an account in a period, which is written if it changes."""
        return (
            self._accounts.get((account, start))
            or self._tables.account(account, start)
            or AccountRow(account, start, end, 0, 0, 0, 0, 0)
        )

    def _change(
        self, row: AccountRow, *, spent: int = 0, reserved: int = 0, calls: int = 0, est: int = 0
    ) -> None:
        self._accounts[row.account, row.start] = row._replace(
            spent=max(row.spent + spent, 0),
            reserved=max(row.reserved + reserved, 0),
            calls=max(row.calls + calls, 0),
            estimated=max(row.estimated + est, 0),
        )

    def _book_overdue(self) -> None:
        for row in self._tables.overdue(self._now, _AT_ONCE):
            for part in row.parts:
                account = self._of_part(part)
                self._change(account, spent=part.fallback, reserved=-part.amount, calls=1, est=1)
            self._tables.put_reservation(row._replace(is_booked=True))

    def _take_booking_back(self, row: ReservationRow) -> None:
        for part in row.parts:
            self._change(self._of_part(part), spent=-part.fallback, calls=-1, est=-1)

    def settle(self, stamp: Stamp, settles: Sequence[Settle]) -> tuple[Balance, ...]:
        """See `resilient_llm.stores.Store.settle`."""
        if self._begin(stamp):
            named = {
                (entry.account, entry.start): entry for each in settles for entry in each.entries
            }
            rows = [
                self._account(entry.account, entry.start, entry.end) for entry in named.values()
            ]
            return tuple(_balance(row) for row in rows)
        self._book_overdue()
        for each in settles:
            self._settle(each)
        changed = tuple(_balance(row) for row in self._accounts.values())
        self._finish()
        return changed

    def _settle(self, settle: Settle) -> None:
        held = self._tables.reservation(settle.id)
        starts: dict[str, Part] = {}
        if held is not None:
            starts = {part.account: part for part in held.parts}
            if held.is_booked:
                self._take_booking_back(held)
            else:
                for part in held.parts:
                    self._change(self._of_part(part), reserved=-part.amount)
            self._tables.drop_reservation(settle.id)
        for entry in settle.entries:
            part = starts.get(entry.account)
            row = (
                self._account(entry.account, entry.start, entry.end)
                if part is None
                else self._of_part(part)
            )
            self._change(row, spent=entry.amount, calls=entry.calls, est=entry.estimated)
        self._take(settle.takes)

    def _raise_to(self, balance: Balance) -> None:
        """Have an account show at least what a session has seen before data was lost."""
        row = self._account(balance.account, balance.start, balance.end)
        risen = row._replace(
            spent=max(row.spent, balance.spent),
            calls=max(row.calls, balance.calls),
            estimated=max(row.estimated, balance.estimated),
        )
        if risen != row:
            self._accounts[row.account, row.start] = risen

    # Shared limits: the generic cell rate algorithm, see _core/limits/buckets.py.

    def _retry_after(self, takes: Iterable[Take]) -> float | None:
        longest = 0.0
        for take in takes:
            if take.amount > take.burst:
                return None
            full_at = max(self._tables.bucket(take.bucket), self._now)
            fits_at = full_at + (take.amount - take.burst) * take.interval
            if fits_at > self._now + _ROUNDING:
                longest = max(longest, fits_at - self._now)
        return longest

    def _take(self, takes: Iterable[Take]) -> None:
        for take in takes:
            full_at = max(self._tables.bucket(take.bucket), self._now)
            self._tables.put_bucket(take.bucket, full_at + take.amount * take.interval)


def _balance(row: AccountRow) -> Balance:
    return Balance(
        row.account, row.start, row.end, row.spent, row.reserved, row.calls, row.estimated
    )


def _records(rows: Iterable[BenchRow | EndRow | AccountRow], now: float) -> Iterable[RawRecord]:
    for row in rows:
        if isinstance(row, EndRow):
            yield RawRecord(
                row.key,
                row.layer,
                "",
                row.order,
                row.through,
                row.ids,
                None,
                now - row.ended_at,
                row.body,
            )
        elif isinstance(row, BenchRow) and not row.ends_at <= now:  # or it is no number
            yield RawRecord(
                row.key,
                row.layer,
                row.id,
                row.order,
                None,
                (),
                None if row.ends_at == math.inf else row.ends_at - now,
                now - row.began_at,
                row.body,
            )
