"""The event classes that observers receive: frozen dataclasses, named in the past tense.

A field is defined here and filled where its event is emitted. No event contains a prompt, an
argument, an API key or a provider's own text.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from resilient_llm._values.configuration import ConfigProblem
from resilient_llm._values.exported import exported
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.usage import Usage


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events.

    Attributes:
        at: When it happened, aware UTC.
        call_id: Name of the call; empty for what no call did.
        target: Key of the target or provider; empty where there is none.
    """

    at: datetime
    call_id: str
    target: str


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSucceeded(Event):
    """An attempt gave an answer, after ``seconds``; a stream when it has ended well."""

    number: int
    seconds: float


_new = object.__new__
_put_at, _put_call_id, _put_target, _put_number, _put_seconds = (
    vars(owner)[name].__set__
    for owner, name in (
        (Event, "at"),
        (Event, "call_id"),
        (Event, "target"),
        (AttemptSucceeded, "number"),
        (AttemptSucceeded, "seconds"),
    )
)


def attempt_succeeded(
    at: datetime, call_id: str, target: str, number: int, seconds: float
) -> AttemptSucceeded:
    """Return the event of every healthy call, in half the time that a frozen class takes."""
    event = _new(AttemptSucceeded)
    _put_at(event, at)
    _put_call_id(event, call_id)
    _put_target(event, target)
    _put_number(event, number)
    _put_seconds(event, seconds)
    return event


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(Event):
    """An attempt ended in an error, after ``seconds``."""

    number: int
    seconds: float
    kind: ErrorKind
    reason: str
    status: int | None


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptCancelled(Event):
    """An attempt was ended from outside after ``seconds``, and neither answered nor failed.

    Attributes:
        number: Number of the attempt within its target, from 1.
        seconds: How long it ran.
        reason: ``cancelled``; ``hung`` if it had run for as long as a hanging call, which counts
            against the target; ``lost`` if another attempt of the same call answered first.
    """

    number: int
    seconds: float
    reason: Literal["lost", "cancelled", "hung"]


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(Event):
    """The same target will be tried again after ``delay`` seconds, as attempt ``number``."""

    number: int
    delay: float
    source: Literal["backoff", "hint"]


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class RetryStopped(Event):
    """A retry that the error allowed does not happen."""

    reason: Literal["attempts", "deadline", "budget", "hint", "limit"]


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSkipped(Event):
    """A target was passed over without being called."""

    reason: str


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class TargetBenched(Event):
    """A circuit was benched.

    Attributes:
        kind: Kind of the error that did it; None for a manual bench.
        reason: Short word, or what the operator wrote.
        trigger: What opened it, with its numbers, for example ``"failures 5/5"``.
        until: When the bench ends, aware UTC; None until unbenched.
        retry_after: Seconds that the provider asked to wait, or None.
        enforced: False in mode ``metrics_only``: it would have been benched.
        by: Who benched it by hand, if that was given; else empty.
        source: ``"local"``, or the name of the process that benched it for all that share a store.
    """

    kind: ErrorKind | None
    reason: str
    trigger: str
    until: datetime | None
    retry_after: float | None
    enforced: bool = True
    by: str = ""
    source: str = "local"


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class TargetUnbenched(Event):
    """A bench is over.

    Attributes:
        reason: ``recovered``, ``expired``, ``manual``, ``reset`` or ``probe``.
        by: Who ended it by hand, if that was given; else empty.
        source: ``"local"``, or the name of the process that ended it for all that share a store.
    """

    reason: str
    by: str = ""
    source: str = "local"


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class FailedOver(Event):
    """After a failed attempt the call moved on."""

    from_target: str
    to_target: str
    kind: ErrorKind
    reason: str


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class CallFailed(Event):
    """A call ended without an answer, after so many attempts."""

    attempts: int
    kind: ErrorKind | None


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class HealthChanged(Event):
    """The status of a key changed."""

    old: Literal["healthy", "degraded", "down"]
    new: Literal["healthy", "degraded", "down"]


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCommitted(Event):
    """The first content of a stream reached the caller, after ``seconds``."""

    seconds: float


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInterrupted(Event):
    """A stream broke after content had been delivered."""

    items_sent: int
    kind: ErrorKind
    reason: str


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownError(Event):
    """No rule recognises this class of error."""

    type_name: str
    status: int | None


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class ObserverFailed(Event):
    """An observer raised an error of this class."""

    type_name: str


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeStarted(Event):
    """A target was called beside one that has not answered yet.

    Attributes:
        number: Number of the attempt within its target, from 1.
        delay: Seconds that the slow attempt was given before.
        beside: Key of the slow target.
    """

    number: int
    delay: float
    beside: str


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class OrderChanged(Event):
    """A target of a policy with ``adaptive=`` has moved, back or forth.

    Attributes:
        order: Keys of the policy's targets, by priority and penalty.
    """

    order: tuple[str, ...]


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLoopDetected(Event):
    """The conversation of a call ends in equal calls of one tool; before its first attempt.

    Attributes:
        tool: Name of the tool; ``"?"`` for one that is not 1 to 64 of ``A-Z a-z 0-9 _ . -``.
        repeats: Length of the row of equal calls.
        action: ``warn`` if the call goes on, ``raise`` if it does not.
    """

    tool: str
    repeats: int
    action: Literal["warn", "raise"]


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class SpendRecorded(Event):
    """An attempt was booked. Emitted while budgets are configured, or an observer names it.

    Attributes:
        usd: What it costs; None if its target has no price.
        usage: Its tokens.
        estimated: Whether they are an estimate.
        spend_key: The key of ``spend_key`` that its call began with, or None.
    """

    usd: Decimal | None
    usage: Usage
    estimated: bool
    spend_key: str | None


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetWarning(Event):
    """Spending has come to ``warn_at`` of a cap; once per period and key.

    Attributes:
        budget: Name of the budget.
        key: The key of ``spend_key``; None if the budget does not count by key.
        spent: Booked in the period: USD as a `Decimal`, or tokens or calls.
        cap: The cap, in the same unit.
        resets_at: When the next period begins, in UTC.
    """

    budget: str
    key: str | None
    spent: Decimal | int
    cap: Decimal | int
    resets_at: datetime


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetExceeded(Event):
    """Spending alone leaves a call no room under a cap; once per period and key.

    Attributes:
        budget: Name of the budget.
        key: The key of ``spend_key``; None if the budget does not count by key.
        spent: Booked in the period: USD as a `Decimal`, or tokens or calls.
        cap: The cap, in the same unit.
        resets_at: When the next period begins, in UTC.
    """

    budget: str
    key: str | None
    spent: Decimal | int
    cap: Decimal | int
    resets_at: datetime


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUnavailable(Event):
    """The store cannot be read or cannot be written; once per outage, in each process.

    Attributes:
        url: Where the store is, without a user and a password.
        reason: ``unreachable``, ``timeout``, ``auth``, ``read_only``, ``full``, ``corrupt``,
            ``newer_schema``, ``network_filesystem`` or ``error``.
        type_name: Class of the error; empty if there was none.
    """

    url: str
    reason: str
    type_name: str


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAvailable(Event):
    """The store can be read and written again.

    Attributes:
        url: Where the store is, without a user and a password.
        seconds: How long it could not.
    """

    url: str
    seconds: float


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLost(Event):
    """The store has lost data; this process writes back its state.

    Attributes:
        url: Where the store is, without a user and a password.
    """

    url: str


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigReloaded(Event):
    """Another state of the configuration file is in force; never without a change.

    Attributes:
        source: The path of the file as it was given, or ``"mapping"``.
        changed: What differs, such as ``("chains.fast", "settings.timeout")``, sorted.
    """

    source: str
    changed: tuple[str, ...]


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigReloadFailed(Event):
    """The configuration file has problems, so what was in force stays in force.

    Attributes:
        source: The path of the file as it was given, or ``"mapping"``.
        problems: All of them.
    """

    source: str
    problems: tuple[ConfigProblem, ...]
