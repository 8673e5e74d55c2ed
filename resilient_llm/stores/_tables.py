"""The tables of a store that can run Python in one transaction, and their rows.

`Tables` is all that such a store writes; `resilient_llm.stores._steps` has the rules. Moments are
seconds by the clock of the store, and infinite where there is no end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class SessionRow(NamedTuple):
    """One process: the number of its last step, and when it was heard of."""

    session: str
    number: int
    seen_at: float


class BenchRow(NamedTuple):
    """A bench; unique are its key, layer and id together."""

    key: str
    layer: str
    id: str
    order: int
    revision: int
    began_at: float
    ends_at: float
    body: bytes


class EndRow(NamedTuple):
    """The latest end of one key and layer."""

    key: str
    layer: str
    order: int
    revision: int
    through: int
    ids: tuple[str, ...]
    ended_at: float
    body: bytes


class ClaimRow(NamedTuple):
    """Who may probe a key."""

    key: str
    session: str
    ends_at: float


class AccountRow(NamedTuple):
    """An account in one period; unique are both together."""

    account: str
    start: int
    end: int | None
    revision: int
    spent: int
    reserved: int
    calls: int
    estimated: int


class Part(NamedTuple):
    """What a reservation holds in one account."""

    account: str
    start: int
    end: int | None
    amount: int
    fallback: int


class ReservationRow(NamedTuple):
    """A reservation; one that ended unsettled is booked, and kept for a late settlement."""

    id: str
    ends_at: float
    is_booked: bool
    parts: tuple[Part, ...]


class Tables(Protocol):
    """Reads and writes rows inside one transaction. To put a row replaces the one with its key."""

    def meta(self) -> tuple[str, int]:
        """Return the epoch, and the last revision."""
        ...

    def put_meta(self, epoch: str, revision: int) -> None: ...

    def session(self, session: str) -> SessionRow | None: ...
    def put_session(self, row: SessionRow) -> None: ...
    def others(self, session: str, since: float, until: float) -> int:
        """Return how many other sessions were heard of between two moments."""
        ...

    def benches(self, key: str, layer: str) -> Sequence[BenchRow]: ...
    def put_bench(self, row: BenchRow) -> None: ...
    def drop_bench(self, row: BenchRow) -> None: ...
    def end(self, key: str, layer: str) -> EndRow | None: ...
    def put_end(self, row: EndRow) -> None: ...
    def has_ended(self, bench_id: str) -> bool: ...
    def put_ended(self, bench_id: str, moment: float) -> None: ...

    def claim(self, key: str) -> ClaimRow | None: ...
    def put_claim(self, row: ClaimRow) -> None: ...
    def drop_claim(self, key: str) -> None: ...

    def account(self, account: str, start: int) -> AccountRow | None: ...
    def latest_account(self, account: str) -> AccountRow | None:
        """Return the account in the latest period that it has."""
        ...

    def put_account(self, row: AccountRow) -> None: ...
    def reservation(self, reservation_id: str) -> ReservationRow | None: ...
    def put_reservation(self, row: ReservationRow) -> None: ...
    def drop_reservation(self, reservation_id: str) -> None: ...
    def overdue(self, moment: float, most: int) -> Sequence[ReservationRow]:
        """Return reservations that have ended by a moment and are not booked."""
        ...

    def bucket(self, bucket: str) -> float:
        """Return when a bucket is full again; any moment that is past if it was never used."""
        ...

    def put_bucket(self, bucket: str, full_at: float) -> None: ...

    def changed(
        self, since: int, until: int, most: int
    ) -> Iterable[BenchRow | EndRow | AccountRow]:
        """Return rows of a revision above ``since`` and up to ``until``, the oldest first."""
        ...

    def forget(self, now: float, before: float) -> None:
        """Remove what nobody needs any more.

        That is: benches and claims that are over by ``now``; ends, ended ids, sessions, booked
        reservations and periods of accounts that were over, or last heard of, by ``before``; and
        buckets that are full.
        """
        ...
