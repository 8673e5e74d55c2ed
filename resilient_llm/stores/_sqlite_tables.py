"""The tables of `SqliteStore`: their schema, and how rows are written and read.

Anyone who may write the file may write anything into it, and bytes go bad on disks. So a row whose
values have wrong types is no row for the rules of ``_steps``. In `SqliteTables.changed` it is given
as it is, since readers count what they refuse. Amounts are texts: a number of SQLite has 64 bits.
"""

from __future__ import annotations

import json
import math
import sqlite3
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._values.sharing import StoreError
from resilient_llm.stores._steps import new_epoch
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
    from collections.abc import Sequence

APPLICATION: Final = 0x524C4C4D
"""In the header of the file: that it is one of this library ("RLLM")."""
VERSION: Final = 1
"""Of the schema, in the header as well. A file of a higher one is left alone."""

SCHEMA: Final = """
CREATE TABLE namespaces (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL, revision INTEGER NOT NULL, published INTEGER NOT NULL
);
CREATE TABLE sessions (
    ns INTEGER NOT NULL, session TEXT NOT NULL, number INTEGER NOT NULL, seen_at REAL NOT NULL,
    PRIMARY KEY (ns, session)
) WITHOUT ROWID;
CREATE TABLE benches (
    ns INTEGER NOT NULL, key TEXT NOT NULL, layer TEXT NOT NULL, id TEXT NOT NULL,
    place INTEGER NOT NULL, revision INTEGER NOT NULL CHECK (typeof(revision) = 'integer'),
    began_at REAL NOT NULL, ends_at REAL, body BLOB NOT NULL,
    PRIMARY KEY (ns, key, layer, id)
) WITHOUT ROWID;
CREATE INDEX benches_by_revision ON benches (ns, revision);
CREATE TABLE ends (
    ns INTEGER NOT NULL, key TEXT NOT NULL, layer TEXT NOT NULL, place INTEGER NOT NULL,
    revision INTEGER NOT NULL CHECK (typeof(revision) = 'integer'),
    through INTEGER NOT NULL, ids TEXT NOT NULL, ended_at REAL NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (ns, key, layer)
) WITHOUT ROWID;
CREATE INDEX ends_by_revision ON ends (ns, revision);
CREATE TABLE ended (
    ns INTEGER NOT NULL, id TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (ns, id)
) WITHOUT ROWID;
CREATE TABLE claims (
    ns INTEGER NOT NULL, key TEXT NOT NULL, session TEXT NOT NULL, ends_at REAL NOT NULL,
    PRIMARY KEY (ns, key)
) WITHOUT ROWID;
CREATE TABLE accounts (
    ns INTEGER NOT NULL, account TEXT NOT NULL, start INTEGER NOT NULL, stop INTEGER,
    revision INTEGER NOT NULL CHECK (typeof(revision) = 'integer'),
    spent TEXT NOT NULL, reserved TEXT NOT NULL, calls TEXT NOT NULL, estimated TEXT NOT NULL,
    PRIMARY KEY (ns, account, start)
) WITHOUT ROWID;
CREATE INDEX accounts_by_revision ON accounts (ns, revision);
CREATE TABLE reservations (
    ns INTEGER NOT NULL, id TEXT NOT NULL, ends_at REAL NOT NULL, is_booked INTEGER NOT NULL,
    parts TEXT NOT NULL, PRIMARY KEY (ns, id)
) WITHOUT ROWID;
CREATE INDEX reservations_by_end ON reservations (ns, is_booked, ends_at);
"""

_LONGEST_AMOUNT: Final = 40
"""Digits of an amount that is believed."""
_BENCH: Final = "key, layer, id, place, revision, began_at, ends_at, body"
_END: Final = "key, layer, place, revision, through, ids, ended_at, body"
_ACCOUNT: Final = "account, start, stop, revision, spent, reserved, calls, estimated"


class SqliteTables:
    """The tables of one namespace, inside a transaction; see `Tables`."""

    def __init__(self, connection: sqlite3.Connection, namespace: str) -> None:
        self._do = connection.execute
        self._name = namespace
        self._ns = 0
        self._published = 0

    def _one(self, query: str, *values: object) -> Any:
        return self._do(query, (self._ns, *values)).fetchone()

    def _put(self, table: str, *values: object) -> None:
        marks = ", ?" * len(values)
        self._do(f"REPLACE INTO {table} VALUES (?{marks})", (self._ns, *values))

    def meta(self) -> tuple[str, int]:
        """See `Tables`; a namespace that is not there begins, if it may be written."""
        row = self._find()
        if row is None:
            values = self._name, new_epoch()
            self._do(
                "INSERT INTO namespaces (name, epoch, revision, published) VALUES (?, ?, 0, 0)",
                values,
            )
            row = self._find()
        if row is None or not is_row(row, (int,), (str,), (int,), (int,)):
            raise StoreError("corrupt")
        self._ns, epoch, revision, self._published = row
        return epoch, revision

    def _find(self) -> Any:
        return self._do(
            "SELECT id, epoch, revision, published FROM namespaces WHERE name = ?", (self._name,)
        ).fetchone()

    @property
    def is_there(self) -> bool:
        """Whether the namespace has begun."""
        return self._find() is not None

    @property
    def published(self) -> int:
        """The last revision of a bench or an end."""
        self.meta()
        return self._published

    def put_meta(self, epoch: str, revision: int) -> None:
        self._do(
            "UPDATE namespaces SET epoch = ?, revision = ?, published = ? WHERE id = ?",
            (epoch, revision, self._published, self._ns),
        )

    def session(self, session: str) -> SessionRow | None:
        row = self._one(
            "SELECT session, number, seen_at FROM sessions WHERE ns = ? AND session = ?", session
        )
        return SessionRow(*row) if row and is_row(row, (str,), (int,), _NUMBER) else None

    def put_session(self, row: SessionRow) -> None:
        self._put("sessions", *row)

    def others(self, session: str, since: float, until: float) -> int:
        (count,) = self._one(
            "SELECT count(*) FROM sessions WHERE ns = ? AND session <> ? "
            "AND seen_at > ? AND seen_at < ?",
            session,
            since,
            until,
        )
        return count

    def benches(self, key: str, layer: str) -> Sequence[BenchRow]:
        rows = self._do(
            f"SELECT {_BENCH} FROM benches WHERE ns = ? AND key = ? AND layer = ?",
            (self._ns, key, layer),
        )
        types = (str,), (str,), (str,), (int,), (int,), _NUMBER, _NUMBER_OR_NONE, (bytes,)
        return [_bench(row) for row in rows if is_row(row, *types)]

    def put_bench(self, row: BenchRow) -> None:
        self._published = max(self._published, row.revision)
        ends_at = None if row.ends_at == math.inf else row.ends_at
        self._put("benches", *row[:6], ends_at, row.body)

    def drop_bench(self, row: BenchRow) -> None:
        self._do(
            "DELETE FROM benches WHERE ns = ? AND key = ? AND layer = ? AND id = ?",
            (self._ns, row.key, row.layer, row.id),
        )

    def end(self, key: str, layer: str) -> EndRow | None:
        row = self._one(
            f"SELECT {_END} FROM ends WHERE ns = ? AND key = ? AND layer = ?", key, layer
        )
        if not row:
            return None
        types = (str,), (str,), (int,), (int,), (int,), (str,), _NUMBER, (bytes,)
        found = _end(row)
        return found if is_row(row, *types) and _are_texts(found.ids) else None

    def put_end(self, row: EndRow) -> None:
        self._published = max(self._published, row.revision)
        self._put("ends", *row[:5], json.dumps(row.ids), *row[6:])

    def has_ended(self, bench_id: str) -> bool:
        return bool(self._one("SELECT 1 FROM ended WHERE ns = ? AND id = ?", bench_id))

    def put_ended(self, bench_id: str, moment: float) -> None:
        self._put("ended", bench_id, moment)

    def claim(self, key: str) -> ClaimRow | None:
        row = self._one("SELECT key, session, ends_at FROM claims WHERE ns = ? AND key = ?", key)
        return ClaimRow(*row) if row and is_row(row, (str,), (str,), _NUMBER) else None

    def put_claim(self, row: ClaimRow) -> None:
        self._put("claims", *row)

    def drop_claim(self, key: str) -> None:
        self._do("DELETE FROM claims WHERE ns = ? AND key = ?", (self._ns, key))

    def account(self, account: str, start: int) -> AccountRow | None:
        return _account(
            self._one(
                f"SELECT {_ACCOUNT} FROM accounts WHERE ns = ? AND account = ? AND start = ?",
                account,
                start,
            )
        )

    def latest_account(self, account: str) -> AccountRow | None:
        return _account(
            self._one(
                f"SELECT {_ACCOUNT} FROM accounts WHERE ns = ? AND account = ? "
                "AND typeof(start) = 'integer' ORDER BY start DESC LIMIT 1",
                account,
            )
        )

    def put_account(self, row: AccountRow) -> None:
        self._put("accounts", *row[:4], *map(str, row[4:]))

    def reservation(self, reservation_id: str) -> ReservationRow | None:
        return _reservation(
            self._one(
                "SELECT id, ends_at, is_booked, parts FROM reservations WHERE ns = ? AND id = ?",
                reservation_id,
            )
        )

    def put_reservation(self, row: ReservationRow) -> None:
        self._put("reservations", row.id, row.ends_at, int(row.is_booked), json.dumps(row.parts))

    def drop_reservation(self, reservation_id: str) -> None:
        self._do("DELETE FROM reservations WHERE ns = ? AND id = ?", (self._ns, reservation_id))

    def overdue(self, moment: float, most: int) -> Sequence[ReservationRow]:
        rows = self._do(
            "SELECT id, ends_at, is_booked, parts FROM reservations "
            "WHERE ns = ? AND is_booked = 0 AND ends_at <= ? ORDER BY ends_at LIMIT ?",
            (self._ns, moment, most),
        )
        return [found for row in rows if (found := _reservation(row)) is not None]

    def bucket(self, bucket: str) -> float:
        raise StoreError("error")

    def put_bucket(self, bucket: str, full_at: float) -> None:
        raise StoreError("error")

    def changed(
        self, since: int, until: int, most: int
    ) -> Sequence[BenchRow | EndRow | AccountRow]:
        found: list[BenchRow | EndRow | AccountRow] = []
        for columns, table, make in (
            (_BENCH, "benches", _bench),
            (_END, "ends", _end),
            (_ACCOUNT, "accounts", _account),
        ):
            rows = self._do(
                f"SELECT {columns} FROM {table} WHERE ns = ? AND revision > ? "
                "AND revision <= ? ORDER BY revision LIMIT ?",
                (self._ns, since, until, most),
            )
            found += [made for row in rows if (made := make(row)) is not None]
        found.sort(key=lambda row: row.revision)
        return found[:most]

    def forget(self, now: float, before: float) -> None:
        for query, moment in (
            ("benches WHERE ns = ? AND ends_at <= ?", now),
            ("claims WHERE ns = ? AND ends_at <= ?", now),
            ("ends WHERE ns = ? AND ended_at <= ?", before),
            ("ended WHERE ns = ? AND at <= ?", before),
            ("sessions WHERE ns = ? AND seen_at <= ?", before),
            ("accounts WHERE ns = ? AND stop <= ?", before),
            ("reservations WHERE ns = ? AND is_booked <> 0 AND ends_at <= ?", before),
        ):
            self._do(f"DELETE FROM {query}", (self._ns, moment))


_NUMBER: Final = (int, float)
_NUMBER_OR_NONE: Final = (int, float, type(None))


def is_row(row: Any, *types: tuple[type, ...]) -> bool:
    """Return whether the values of a row have the types that they should have."""
    return all(type(value) in allowed for value, allowed in zip(row, types, strict=True))


def _moment(value: Any) -> float:
    return value if isinstance(value, (int, float)) else math.nan


def _bench(row: Any) -> BenchRow:
    key, layer, bench_id, order, revision, began_at, ends_at, body = row
    end = math.inf if ends_at is None else _moment(ends_at)
    return BenchRow(key, layer, bench_id, order, revision, _moment(began_at), end, body)


def _end(row: Any) -> EndRow:
    key, layer, order, revision, through, text, ended_at, body = row
    ids: Any
    try:
        ids = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        ids = None
    if isinstance(ids, list):
        ids = tuple(cast("list[Any]", ids))
    if through is None:  # the record would be that of a bench
        through = cast("int", "")
    return EndRow(key, layer, order, revision, through, ids, _moment(ended_at), body)


def _are_texts(ids: Any) -> bool:
    return isinstance(ids, tuple) and all(
        isinstance(each, str) for each in cast("tuple[object, ...]", ids)
    )


def _account(row: Any) -> AccountRow | None:
    if not row or not is_row(row, (str,), (int,), (int, type(None)), (int,), *[(str,)] * 4):
        return None
    if not all(each.isdecimal() and len(each) <= _LONGEST_AMOUNT for each in row[4:]):
        return None
    return AccountRow(*row[:4], *map(int, row[4:]))


def _reservation(row: Any) -> ReservationRow | None:
    if not row or not is_row(row, (str,), _NUMBER, (int,), (str,)):
        return None
    try:
        parts = tuple(Part(*part) for part in json.loads(row[3]))
    except (TypeError, ValueError, RecursionError):
        return None
    if not all(is_row(part, (str,), (int,), (int, type(None)), (int,), (int,)) for part in parts):
        return None
    return ReservationRow(row[0], row[1], bool(row[2]), parts)
