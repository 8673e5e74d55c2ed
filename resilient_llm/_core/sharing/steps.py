"""What the mirror is told, what it asks of a store, and what it asks of the registry: values.

The mirror has one clock, monotonic seconds. A duration in an effect counts from the moment at
which the effect is returned, so the registry may have another clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._core.sharing.records import SharedBench
    from resilient_llm._values.kinds import ErrorKind
    from resilient_llm._values.sharing import (
        Balance,
        Bench,
        Claim,
        End,
        Layer,
        Reserve,
        Reserved,
        Settle,
        Stamp,
    )

EndReason = Literal["manual", "recovered", "probe"]
"""Why a bench was ended here: by an operator, by a call's own probe, by a health probe."""
RECOVERIES: Final = ("recovered", "probe")
"""Ends that show that a key answers again."""


class KeyRules(NamedTuple):
    """What the settings of this process say about a key.

    Attributes:
        mode: Of its circuit, as in `BreakerSettings.mode`.
        max_cooldown: Of its circuit, in seconds.
    """

    mode: str = "enforce"
    max_cooldown: float = 0.0


# What happened in this process.


class LocalBench(NamedTuple):
    """The registry has benched a key, or benches it for longer now.

    Attributes:
        key: Of the circuit.
        layer: Which bench of it.
        at: When, in monotonic seconds.
        ends_in: Seconds from then; None until it is ended.
        kind: What kind of error did it; None for a manual bench.
        reason: Short word, or what the operator wrote.
        by: Who benched it by hand, if that was given; else empty.
        trigger: What opened the circuit, with its numbers.
        failures: Consecutive failures at that moment.
        named: Whether the provider itself named the wait.
        seen: The highest order that the registry had applied at that moment: the larger one of
            `Mirror.order`, read after the latest effects were applied, and of the ``order`` of
            the latest effect on the key. None for everything that was handed over.
    """

    key: str
    layer: Layer
    at: float
    ends_in: float | None
    kind: ErrorKind | None = None
    reason: str = ""
    by: str = ""
    trigger: str = ""
    failures: int = 0
    named: bool = False
    seen: int | None = None


class LocalEnd(NamedTuple):
    """An unbench or a recovery has ended benches here.

    Attributes:
        key: Of the circuit.
        layer: Which bench of it; None for all three, as an operator does.
        at: When, in monotonic seconds.
        reason: Why.
        by: Who unbenched it by hand, if they said so; else empty.
        seen: See `LocalBench`.
    """

    key: str
    layer: Layer | None
    at: float
    reason: EndReason
    by: str = ""
    seen: int | None = None


class LocalReset(NamedTuple):
    """`reset()` has ended the automatic benches of this process, and of no other.

    Attributes:
        key: Of the circuit; None for all.
        at: When, in monotonic seconds.
    """

    key: str | None
    at: float


class AskAmounts(NamedTuple):
    """An attempt asks for its amounts; `AmountsAnswered` comes.

    Who stops waiting settles the id with nothing, and that also if the answer has just come.

    Attributes:
        id: Of the reservation: random text of 1 to 64 characters.
        ticket: Comes back with the answer.
        reserve_at: Returns what is asked for at a moment of the store's clock. It is called on the
            thread of the mirror, perhaps several times, and neither waits nor raises.
        until: Until when the caller waits, in monotonic seconds.
    """

    id: str
    ticket: object
    reserve_at: Callable[[float], Reserve]
    until: float


class HoldAmounts(NamedTuple):
    """An attempt was admitted here, without the store.

    Attributes:
        reserve: What it may use, under an id for which the store was never asked.
    """

    reserve: Reserve


class BookAmounts(NamedTuple):
    """An attempt has ended, or was not made.

    Attributes:
        settle: What it books; without entries its reservation is released.
    """

    settle: Settle


class ShowAmounts(NamedTuple):
    """Asks for an `AmountsSeen` of all accounts that are known, as after a change of budgets."""


AmountsChange: TypeAlias = AskAmounts | HoldAmounts | BookAmounts


LocalChange: TypeAlias = LocalBench | LocalEnd | LocalReset | AmountsChange | ShowAmounts


# What is done next. Each is answered by `answered`, `failed` or `lost` of the mirror.


class Look(NamedTuple):
    """Calls `Store.changes`."""

    stamp: Stamp
    since: int
    limit: int


class Publish(NamedTuple):
    """Calls `Store.publish`; without changes it finds out whether the store can be written."""

    stamp: Stamp
    changes: tuple[Bench | End, ...]
    balances: tuple[Balance, ...]


class ClaimPlaces(NamedTuple):
    """Calls `Store.claim`."""

    stamp: Stamp
    claims: tuple[Claim, ...]


class ReserveAmounts(NamedTuple):
    """Calls `Store.reserve`."""

    stamp: Stamp
    reserves: tuple[Reserve, ...]
    lasts: float


class SettleAmounts(NamedTuple):
    """Calls `Store.settle`."""

    stamp: Stamp
    settles: tuple[Settle, ...]


class Rest(NamedTuple):
    """Nothing to do until a local change, a hint of the store, or the end of this time.

    Attributes:
        seconds: How long.
        since: What `Store.wait` is given; None if the store cannot be used, so that the thread
            waits by itself.
    """

    seconds: float
    since: int | None


Step: TypeAlias = Look | Publish | ClaimPlaces | ReserveAmounts | SettleAmounts | Rest


# What the registry and the observers are told.


class ApplyBench(NamedTuple):
    """A bench of another process.

    Attributes:
        bench: What is known of it; ``source`` names its process.
        ends_in: Seconds from now, cut for an automatic one; None until it is ended. A manual
            one replaces that of the registry; of others the later end counts.
        enforced: False in mode ``metrics_only``: only its event is emitted.
        is_news: Whether observers are told; not if a bench that they know of lasts hardly longer.
    """

    bench: SharedBench
    ends_in: float | None
    enforced: bool = True
    is_news: bool = True

    @property
    def order(self) -> int:
        """Of the bench; see `LocalBench.seen`."""
        return self.bench.order


class ApplyEnd(NamedTuple):
    """The end of benches, by another process.

    Attributes:
        key: Of the circuit.
        layer: Which bench of it.
        order: See `LocalBench.seen`.
        reason: As in `TargetUnbenched`.
        by: Who ended it by hand, if that was given; else empty.
        source: Name of the process that did.
        left: Seconds from now for which a newer bench of the layer still lasts, so that the
            present one lasts no longer than that. 0.0 if its cooldown is over: then the circuit
            is half-open. None if there is none: then the circuit closes, or the pause ends.
    """

    key: str
    layer: Layer
    order: int
    reason: str
    by: str
    source: str
    left: float | None = None


class Emit(NamedTuple):
    """An event about the store itself.

    Attributes:
        name: Of the event class.
        fields: Its fields.
    """

    name: Literal["StoreUnavailable", "StoreAvailable", "StoreLost"]
    fields: dict[str, Any]


class PlaceAnswered(NamedTuple):
    """What became of a claim.

    Attributes:
        ticket: What the caller gave.
        outcome: ``"held"``; ``"refused"``, since another process has the place; ``"unclaimed"``,
            since there was no answer in time: the caller probes all the same.
        ends_in: Seconds until the lease of whoever has the place ends.
    """

    ticket: object
    outcome: Literal["held", "refused", "unclaimed"]
    ends_in: float = 0.0


class AmountsAnswered(NamedTuple):
    """What became of the amounts that an attempt has asked for.

    Attributes:
        ticket: What the caller gave.
        outcome: ``"admitted"`` or ``"refused"`` by the store; ``"unavailable"``, since there was no
            answer in time. Then nothing is reserved, or it is released.
        reserved: The answer of the store; None if it is unavailable.
    """

    ticket: object
    outcome: Literal["admitted", "refused", "unavailable"]
    reserved: Reserved | None = None


class AmountsSeen(NamedTuple):
    """What the store has told of accounts, in the order in which it told it.

    Attributes:
        balances: The accounts, as they are now.
        settled: What was told as `BookAmounts`, or the sum of several of these, and is in the
            balances from now on.
        renewed: Ids of reservations that are in the balances from now on, if they were not before.
    """

    balances: tuple[Balance, ...]
    settled: tuple[Settle, ...] = ()
    renewed: tuple[str, ...] = ()


Effect: TypeAlias = ApplyBench | ApplyEnd | Emit | PlaceAnswered | AmountsAnswered | AmountsSeen


class MirrorStatus(NamedTuple):
    """What `store_status` shows; see there.

    Attributes:
        last_sync_at: When the last look was complete, in monotonic seconds; None before the first.
    """

    url: str
    connected: bool
    last_sync_at: float | None
    pending: int
    peers: int
    rejected: int
    dropped: int
    last_error: str | None
