"""What a store is told and what it answers: plain values, and the two errors that it raises.

`resilient_llm.stores` describes what a store does with them. Amounts are whole numbers of the
smallest unit: 1e-12 USD, tokens or calls. Moments of a store are seconds since 1970 by the clock
of the store, and durations are seconds.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, NamedTuple, get_args

from resilient_llm._values.amounts import shown
from resilient_llm._values.errors import ConfigurationError

Layer = Literal["manual", "automatic", "pause"]
"""Benches of an operator; benches by a trigger or memory pressure; pauses of a rate limit."""
Reason = Literal[
    "unreachable",
    "timeout",
    "auth",
    "read_only",
    "full",
    "corrupt",
    "newer_schema",
    "network_filesystem",
    "error",
]
"""Why a store cannot be used."""

LAYERS: Final[tuple[Layer, ...]] = get_args(Layer)
MANUAL: Final = "manual"
UNAVAILABLE: Final[tuple[Reason, ...]] = get_args(Reason)

ENDED_FOR: Final = 86_400.0
"""Seconds for which a store remembers ends, sessions, and reservations that it booked itself."""
SEEN_WITHIN: Final = 60.0
"""Seconds for which a session that was heard of counts as a peer."""
SAME_KEY: Final = 8
"""Benches of one key and layer that a store keeps at most, if none makes another one needless."""
MOST_IDS: Final = 32
"""Ids that the end of one key and layer tells at most, the newest."""
MOST_ORDER: Final = 2**52
"""The largest order that is believed: in microseconds that of the year 2112. A store may count on
to 2**53, up to which a Lua number is exact."""
LONGEST_BODY: Final = 4096
"""Bytes of the longest body of a record."""


_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


def namespace_of(value: Any) -> str:
    """Return the name under which a store keeps its data.

    Raises:
        ConfigurationError: If it is not 1 to 64 characters of ``A-Za-z0-9_.-``.
    """
    if isinstance(value, str) and _NAMESPACE.fullmatch(value):
        return value
    given = f"of {len(value)} characters" if isinstance(value, str) else f"of {shown(value)}"
    raise ConfigurationError(
        f"a namespace {given} is not allowed: write 1 to 64 of A-Z a-z 0-9 _ . -"
    )


# Errors. The mirror catches both, so no caller ever meets them.


class StoreError(Exception):
    """A store cannot do what was asked; nothing of it was done, as far as the store can see.

    Attributes:
        reason: One of `UNAVAILABLE`.
        type_name: Class of the error that was the cause; empty if there was none.
    """

    def __init__(self, reason: Reason, type_name: str = "") -> None:
        why = f"{reason} ({type_name})" if reason == "error" and type_name else reason
        super().__init__(f"the store cannot be used: {why}")
        self.reason: Reason = reason
        self.type_name = type_name

    def __reduce__(self) -> tuple[type[StoreError], tuple[Reason, str]]:
        return type(self), (self.reason, self.type_name)


class DataLostError(Exception):
    """Data is gone that the session had seen, or it has not looked yet; nothing was done.

    The session reads everything with `Store.changes`, writes back its state with
    `Store.publish`, and then asks again.
    """

    def __init__(self) -> None:
        super().__init__("the store has lost data, or was not read yet")


# Who asks.


class Stamp(NamedTuple):
    """Who asks, and what it has seen; stands on every step.

    Attributes:
        session: Random text of 1 to 64 characters, a new one for each process and after a fork.
        number: Of this step, from 1, higher than those of all earlier steps of the session. A step
            that is sent again, because its answer did not come, has its number again. `changes`
            ignores it.
        epoch: `Changes.epoch` of the latest look; None before the first one.
        revision: The highest `Changes.revision` of this epoch; 0 before the first look.
        answered: The highest number of a step that was answered in this epoch; 0 if none was.
        order: The highest order that the session has ever seen, of any epoch.
    """

    session: str
    number: int = 0
    epoch: str | None = None
    revision: int = 0
    answered: int = 0
    order: int = 0


# Benches.


class Bench(NamedTuple):
    """Publishes a bench.

    Attributes:
        key: A provider or a target, at most 512 characters.
        layer: Which of the three it belongs to.
        id: Random text of 1 to 64 characters.
        ends_in: Seconds until its end, above 0; None until it is ended.
        body: What else readers learn: UTF-8 of at most `LONGEST_BODY` bytes, which a store does
            not read.
        age: Seconds since it began.
        order: 0 for a new one; else that of a copy which is written back.
        seen: Only for ``"manual"``: if the key has a manual change of a higher order, this one is
            refused. None refuses nothing.
    """

    key: str
    layer: Layer
    id: str
    ends_in: float | None
    body: bytes
    age: float = 0.0
    order: int = 0
    seen: int | None = None


class End(NamedTuple):
    """Publishes the end of benches of one key and layer, by an unbench or a recovery.

    Attributes:
        key: As in `Bench`.
        layer: As in `Bench`.
        through: The order of the newest bench that the session had seen: it and older ones end.
        ids: Further benches that end, whose order the session does not know.
        body: As in `Bench`.
        age: Seconds since the end.
        order: As in `Bench`.
    """

    key: str
    layer: Layer
    through: int
    ids: tuple[str, ...]
    body: bytes
    age: float = 0.0
    order: int = 0


class Published(NamedTuple):
    """What became of one `Bench` or `End`.

    Attributes:
        outcome: ``"stored"``; ``"known"``, if it was there already, or a newer one makes it
            needless; ``"ended"``, if it has ended before; ``"superseded"``, by a manual change that
            the session had not seen.
        order: Its order; 0 if it has none.
    """

    outcome: Literal["stored", "known", "ended", "superseded"]
    order: int


class RawRecord(NamedTuple):
    """A bench or an end as it was found in the store.

    Anyone may have written it, so nothing is known of its types: see _core/sharing/records.py.

    Attributes:
        key: See `Bench`.
        layer: See `Bench`.
        id: See `Bench`; empty for an end.
        order: Of all changes of a key, a newer one has a higher order, also over losses of data.
        through: See `End`; None for a bench.
        ids: Benches that were ended by their ids, a tuple, see `End`; empty for a bench.
        ends_in: Seconds from the answer of the store; None for an end, and for a bench without one.
        age: See `Bench`.
        body: See `Bench`.
    """

    key: object
    layer: object
    id: object
    order: object
    through: object
    ids: object
    ends_in: object
    age: object
    body: object


# Probes.


class Claim(NamedTuple):
    """Asks for the one place to probe a key, or renews it.

    Attributes:
        key: Of the circuit.
        lease: Seconds until it ends by itself, above 0; None gives the place back.
    """

    key: str
    lease: float | None


class Claimed(NamedTuple):
    """Who has the place.

    Attributes:
        is_held: Whether the session has it now.
        ends_in: Seconds until its present lease ends; 0 if it is free.
    """

    is_held: bool
    ends_in: float


# Budgets and limits.


class Charge(NamedTuple):
    """What an attempt may use in one account: a budget, or one key of it.

    Attributes:
        account: Names it, 1 to 1024 characters.
        start: First moment of the period that the clock of the store is in.
        end: First moment of the next one; None if the account has no periods.
        amount: What is reserved, 0 or more.
        cap: Refuses the reservation if spent, reserved and amount are above it; None never does.
        fallback: What is booked if the reservation ends unsettled, 0 or more.
    """

    account: str
    start: int
    end: int | None
    amount: int
    cap: int | None
    fallback: int = 0


class Take(NamedTuple):
    """What an attempt takes from a shared limit, a bucket that is refilled evenly.

    Attributes:
        bucket: Names it, 1 to 1024 characters.
        amount: What is taken, 0 or more.
        interval: Seconds in which one is refilled.
        burst: What it holds when it is full.
    """

    bucket: str
    amount: int
    interval: float
    burst: int


class Reserve(NamedTuple):
    """Reserves in all accounts and buckets of an attempt, or in none.

    Attributes:
        id: Random text of 1 to 64 characters.
        charges: At most one for each account.
        takes: At most one for each bucket; only for a store that has limits.
        is_renewal: Whether the reservation was admitted before and lasts longer now. If the store
            does not have it, since it ended or was lost, it is reserved again, whatever the caps
            say and in the periods that are named, and what was booked for it is taken back.
            Nothing is taken from buckets.
    """

    id: str
    charges: tuple[Charge, ...]
    takes: tuple[Take, ...] = ()
    is_renewal: bool = False


class Balance(NamedTuple):
    """What an account has in one period.

    Attributes:
        account: See `Charge`.
        start: Of the period.
        end: Of the period.
        spent: What was booked.
        reserved: By attempts in flight.
        calls: Attempts that were sent.
        estimated: How many of them were booked by an estimate.
    """

    account: str
    start: int
    end: int | None
    spent: int = 0
    reserved: int = 0
    calls: int = 0
    estimated: int = 0


class Reserved(NamedTuple):
    """What became of one `Reserve`.

    Attributes:
        outcome: ``"admitted"``; ``"refused"``, by a cap or a bucket; ``"period"``, if a period does
            not hold `now`: the session works out the right one and asks again.
        balances: Of the accounts, in the order of the charges, after this step; empty for
            ``"period"``. A period may be later than the one asked for: a clock that is set back
            reopens none. The settlement names the period that stands here.
        retry_after: Seconds until the buckets have what was asked for; 0.0 if they have it, None if
            one never holds that much.
        now: The moment, by the clock of the store.
    """

    outcome: Literal["admitted", "refused", "period"]
    balances: tuple[Balance, ...]
    retry_after: float | None
    now: float


class Entry(NamedTuple):
    """What an attempt books in one account.

    Attributes:
        account: See `Charge`.
        start: Of the period of its reservation.
        end: Of that period.
        amount: What was used. Below 0 it takes back what was booked, down to 0.
        calls: 1 if the attempt was sent, else 0. The same holds for these, and a session may add
            up what several attempts book.
        estimated: 1 if the amount is an estimate, else 0.
    """

    account: str
    start: int
    end: int | None
    amount: int
    calls: int
    estimated: int


class Settle(NamedTuple):
    """Books what an attempt has used, and releases what it had reserved.

    Attributes:
        id: Of the reservation. If the store does not have it, the entries are booked all the same.
        entries: At most one for each account; none releases only.
        takes: What buckets are corrected by: the amount is what was used beyond the estimate, and
            below 0 gives back. What exceeds the bucket is a debt.
    """

    id: str
    entries: tuple[Entry, ...] = ()
    takes: tuple[Take, ...] = ()


# What a look finds.


class Changes(NamedTuple):
    """What has changed since a revision.

    Attributes:
        epoch: Of the data: another one after a loss. Random text of 1 to 64 characters.
        revision: Pass it to the next look.
        records: Benches that last and ends that are remembered, oldest revision first.
        balances: Accounts, of which something was booked or reserved.
        is_all: Whether the look began at the first revision, since it was asked to or because data
            was lost. A bench that it and the looks that follow because of `has_more` do not find
            is over.
        has_more: Whether there is more, so that another look should follow at once.
        is_lost: Whether data is gone that the session had seen.
        peers: Sessions that were heard of within 60 s, this one included; at least 1.
        now: The moment, by the clock of the store.
    """

    epoch: str
    revision: int
    records: tuple[RawRecord, ...]
    balances: tuple[Balance, ...]
    is_all: bool
    has_more: bool
    is_lost: bool
    peers: int
    now: float


Publication = Bench | End
"""What `Store.publish` takes."""
