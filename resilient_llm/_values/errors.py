"""The exception classes that this library raises by itself, as one tree.

    ResilientLLMError
    ├── ConfigurationError      also ValueError; raised where it is written
    │   └── InvalidConfigError  .problems; of `resilient_llm.config`
    ├── CallRejectedError       nothing was sent
    │   ├── BreakerOpenError    .target .retry_after .reason
    │   ├── NoCapableTargetError    .needs .tokens .missing
    │   ├── ToolLoopError       .tool .repeats
    │   ├── BudgetExceededError     .budget .key .cap .spent .reserved .resets_at
    │   └── StoreUnavailableError
    ├── ResponseRejectedError   `reject` refused the answer: .target .reason
    ├── DeadlineExceededError   also TimeoutError
    ├── StreamInterruptedError  .target .items_sent .text_so_far
    └── ChainExhaustedError     also ExceptionGroup

Callers can distinguish three cases: the configuration is wrong, nothing was sent, or
the request was sent and failed. Messages contain keys of targets, kinds, reasons and
numbers, never a prompt, an argument, an API key or a provider's own text. What an operator or
a rule wrote as a reason is escaped in the message, and as it was written in ``.reason``.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from math import ceil, inf
from typing import Any, Self

from resilient_llm._values.built_in import class_name
from resilient_llm._values.escaping import escaped
from resilient_llm._values.exported import exported
from resilient_llm._values.kinds import AttemptRecord, ErrorKind

__all__ = [
    "BreakerOpenError",
    "BudgetExceededError",
    "CallRejectedError",
    "ChainExhaustedError",
    "ConfigurationError",
    "DeadlineExceededError",
    "NoCapableTargetError",
    "ResilientLLMError",
    "ResponseRejectedError",
    "StoreUnavailableError",
    "StreamInterruptedError",
    "ToolLoopError",
]


@exported
class ResilientLLMError(Exception):
    """Base of every error that this library raises by itself."""


@exported
class ConfigurationError(ResilientLLMError, ValueError):
    """A setting, chain or signature is wrong; the message lists what is allowed."""


@exported
class CallRejectedError(ResilientLLMError):
    """The call was not sent, because a guard refused it.

    Attributes:
        target: Key of the target or provider that was asked for.
        reason: Short word for the reason.
        retry_after: Seconds until another try is worthwhile, or None if unknown.
    """

    target: str
    reason: str
    retry_after: float | None

    def __init__(self, target: str, reason: str, retry_after: float | None = None) -> None:
        self.target = target
        self.reason = reason
        self.retry_after = retry_after
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        return f"{self.target} was not called: {escaped(self.reason)}{_advice(self.retry_after)}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.target, self.reason, self.retry_after)


@exported
class BreakerOpenError(CallRejectedError):
    """The breaker of a target or of its provider is open, or its probes are taken."""

    def _sentence(self) -> str:
        return f"{self.target} is benched ({escaped(self.reason)}){_advice(self.retry_after)}"


@exported
class NoCapableTargetError(CallRejectedError):
    """No target of the chain can do what the call needs; nothing was sent.

    Attributes:
        needs: What the call needs, sorted words.
        tokens: Estimate of its input in tokens, or None if no window was checked.
        missing: ``{key: words that the target lacks}``, sorted; ``("context_window",)`` for a
            target whose context window is too small.
    """

    needs: tuple[str, ...]
    tokens: int | None
    missing: dict[str, tuple[str, ...]]

    def __init__(
        self,
        needs: Sequence[str],
        tokens: int | None,
        missing: Mapping[str, Sequence[str]],
        wanted: Mapping[str, int] | None = None,
    ) -> None:
        """Take the above, and ``{key: tokens that its context window is too small for}``."""
        self._wanted = dict(wanted or {})
        self.needs = tuple(needs)
        self.tokens = tokens
        self.missing = {key: tuple(words) for key, words in missing.items()}
        super().__init__(", ".join(self.missing), "no_capable_target")

    def _sentence(self) -> str:
        lacks = "; ".join(self._lack(key, words) for key, words in self.missing.items())
        return f"no target can take this call: {lacks}"

    def _lack(self, key: str, words: tuple[str, ...]) -> str:
        tokens = self._wanted.get(key)
        if tokens is not None:
            unit = "token" if tokens == 1 else "tokens"
            return f"{key} has a context window that is too small for about {tokens:,} {unit}"
        return f"{key} lacks {escaped(', '.join(words))}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.needs, self.tokens, self.missing, self._wanted)


@exported
class ToolLoopError(CallRejectedError):
    """The conversation of the call repeats one tool call; nothing was sent to any target.

    Attributes:
        tool: Name of the tool; ``"?"`` for one that is not 1 to 64 of ``A-Z a-z 0-9 _ . -``.
        repeats: Length of the row of equal calls.
    """

    tool: str
    repeats: int

    def __init__(self, target: str, tool: str, repeats: int) -> None:
        self.tool = tool
        self.repeats = repeats
        super().__init__(target, "tool_loop")

    def _sentence(self) -> str:
        return (
            f"the conversation ends in {self.repeats} calls of the tool {escaped(self.tool)} with "
            "equal arguments, so nothing was sent: end the run; or tell the model to do something "
            "else, and make that call with .using(tool_loop='off')"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.target, self.tool, self.repeats)


@exported
class BudgetExceededError(CallRejectedError):
    """Budgets refused every target; nothing was sent.

    It is about one budget. Each target has a budget that refuses it and resets last; of these it is
    the one that resets first. As a member of a `ChainExhaustedError` it is about its target alone.

    Attributes:
        budget: Name of the budget.
        key: The key of ``spend_key``; None if the budget does not count by key.
        cap: The cap: USD as a `Decimal`, or tokens or calls.
        spent: Booked in the present period, in the same unit.
        reserved: By attempts in flight, in the same unit.
        resets_at: When the next period begins, in UTC.
        retry_after: Seconds until then; None if only reservations are in the way, if the call is
            above the cap, or if the target has no price.
    """

    budget: str
    key: str | None
    cap: Decimal | int
    spent: Decimal | int
    reserved: Decimal | int
    resets_at: datetime | None

    def __init__(
        self,
        target: str,
        reason: str,
        retry_after: float | None = None,
        *,
        budget: str = "",
        key: str | None = None,
        cap: Decimal | int = 0,
        spent: Decimal | int = 0,
        reserved: Decimal | int = 0,
        resets_at: datetime | None = None,
    ) -> None:
        self.budget = budget
        self.key = key
        self.cap = cap
        self.spent = spent
        self.reserved = reserved
        self.resets_at = resets_at
        super().__init__(target, reason, retry_after)

    def _sentence(self) -> str:
        if self.reason == "unpriced":
            return (
                f"{self.target} was not called: budget {escaped(self.budget)} is in USD, and the "
                "target has no price"
            )
        said = f"{self.target} was not called: budget {escaped(self.budget)}"
        if self.key is not None:
            said += " of this spend key"
        return (
            f"{said} has spent {self.spent} and reserved {self.reserved} of {self.cap}"
            f"{_advice(self.retry_after)}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        fields = ("budget", "key", "cap", "spent", "reserved", "resets_at")
        state = {name: getattr(self, name) for name in fields}
        args = type(self), (self.target, self.reason, self.retry_after), state
        notes = list(getattr(self, "__notes__", ()))  # which say what to write for a price
        return _rebuilt, args, {"__notes__": notes} if notes else None


def _rebuilt(cls: Any, args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    return cls(*args, **fields)


@exported
class StoreUnavailableError(CallRejectedError):
    """Nothing was sent: the store through which budgets and limits are shared gives no answer.

    It is raised if budgets or shared limits cover every target, and this process may spend nothing
    without the store, or has spent its share: see ``configure(on_store_down=…)``.
    """

    def _sentence(self) -> str:
        return (
            f"{self.target} was not called: the store that its budgets or limits are shared "
            "through does not answer, and without it this process may spend nothing now"
        )


@exported
class ResponseRejectedError(ResilientLLMError):
    """``reject`` refused the answer.

    Attributes:
        target: Key of the target that gave the answer.
        reason: The word that ``reject`` gave, else ``"rejected"``.
        kind: The kind that ``reject`` returned, else ``bad_response``.
    """

    target: str
    reason: str
    kind: str

    def __init__(self, target: str, reason: str = "rejected", kind: str = "bad_response") -> None:
        self.target = target
        self.reason = reason
        self.kind = kind
        if reason == "stream_interrupted":
            super().__init__(f"the stream of {target} ended before it was complete")
        else:
            super().__init__(f"the answer of {target} was refused: {escaped(reason)}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.target, self.reason, self.kind)


@exported
class DeadlineExceededError(ResilientLLMError, TimeoutError):
    """The deadline of the whole call is over.

    Attributes:
        timeout: Seconds that the call was given.
        attempts: What was tried, oldest first.
    """

    timeout: float
    attempts: tuple[AttemptRecord, ...]

    def __init__(self, timeout: float, attempts: Sequence[AttemptRecord] = ()) -> None:
        self.timeout = timeout
        self.attempts = tuple(attempts)
        Exception.__init__(self, f"the call did not finish within its timeout of {timeout:g} s")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.timeout, self.attempts)


@exported
class StreamInterruptedError(ResilientLLMError):
    """A stream broke after content had been delivered.

    Attributes:
        target: Key of the target that was streaming.
        items_sent: Number of items that had reached the caller, of all targets of the call.
        text_so_far: End of the answer's text that had reached the caller, as much of it as
            ``StreamPolicy(keep_text=…)`` keeps; None without. Never in a message or a pickle.
    """

    target: str
    items_sent: int
    text_so_far: str | None

    def __init__(self, target: str, items_sent: int, *, text_so_far: str | None = None) -> None:
        self.target = target
        self.items_sent = items_sent
        self.text_so_far = text_so_far
        Exception.__init__(self, f"the stream of {target} broke after {items_sent} items")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.target, self.items_sent)


@exported
class StreamDeadlineExceededError(StreamInterruptedError, DeadlineExceededError):
    """The deadline of the whole call ended after content had been delivered; both of its bases.

    Attributes:
        timeout: Seconds that the call was given.
    """

    def __init__(
        self,
        target: str,
        items_sent: int,
        timeout: float,
        attempts: Sequence[AttemptRecord] = (),
        *,
        text_so_far: str | None = None,
    ) -> None:
        DeadlineExceededError.__init__(self, timeout, attempts)
        StreamInterruptedError.__init__(self, target, items_sent, text_so_far=text_so_far)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.target, self.items_sent, self.timeout, self.attempts)


class _ForeignError(Exception):
    """Stands in a pickle for an error that is not ours, which may hold a prompt or a key."""

    def __init__(self, record: AttemptRecord) -> None:
        self.record = record
        status = "" if record.status is None else f", status {record.status}"
        super().__init__(f"{record.type_name}: {record.kind}, {escaped(record.reason)}{status}")

    def __reduce__(self) -> tuple[Any, ...]:
        return ChainExhaustedError._stand_in, (self.record,)


@exported
class ChainExhaustedError(ResilientLLMError, ExceptionGroup[Exception]):
    """No target of the chain gave an answer.

    One member per target, in the order they were tried: its last error, or the
    CallRejectedError with the reason why it was skipped, each with a note.

    Attributes:
        attempts: What was tried and skipped, oldest first.
        last_error: The last error that a target raised, else the last rejection.
        kind: The kind that all members agree on, else None.
        retry_after: Seconds until another try is worthwhile, or None if unknown.
    """

    attempts: tuple[AttemptRecord, ...]
    last_error: Exception | None
    kind: ErrorKind | None
    retry_after: float | None
    _member_records: tuple[AttemptRecord, ...]

    def __new__(
        cls,
        message: str,
        members: Sequence[Exception],
        *,
        attempts: Sequence[AttemptRecord] = (),
        last_error: Exception | None = None,
        kind: ErrorKind | None = None,
        retry_after: float | None = None,
        records: Sequence[AttemptRecord] = (),
    ) -> Self:
        self = super().__new__(cls, message, members)
        self.attempts = tuple(attempts)
        self.last_error = last_error if last_error is not None else members[-1]
        self.kind = kind
        self.retry_after = retry_after
        self._member_records = tuple(records)
        return self

    def __init__(self, message: str, members: Sequence[Exception], **fields: Any) -> None:  # pyright: ignore[reportInconsistentConstructor]  # __new__ has read the fields
        super().__init__(message, members)

    def __repr__(self) -> str:
        # That of a group shows its members, whose texts are those of providers.
        names = ", ".join(class_name(type(member)) for member in self.exceptions)
        return f"{type(self).__name__}({self.message!r}, [{names}])"

    def derive(self, excs: Sequence[Exception], /) -> "ChainExhaustedError":  # pyright: ignore[reportIncompatibleMethodOverride]  # the stub is generic over what split() keeps
        """Return a group with the same attributes and other members; Python's ``split`` uses it."""
        known = {
            id(error): record
            for error, record in zip(self.exceptions, self._member_records, strict=False)
        }
        return ChainExhaustedError(
            self.message,
            excs,
            attempts=self.attempts,
            last_error=self.last_error,
            kind=self.kind,
            retry_after=self.retry_after,
            records=[known[id(error)] for error in excs if id(error) in known],
        )

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {
            "attempts": self.attempts,
            "kind": self.kind,
            "retry_after": self.retry_after,
            "records": self._member_records,
        }
        members = [self._portable(index) for index in range(len(self.exceptions))]
        notes = list(getattr(self, "__notes__", []))
        return ChainExhaustedError._unpickled, (self.message, members, fields, notes)

    @classmethod
    def _unpickled(
        cls, message: str, members: list[Exception], fields: dict[str, Any], notes: list[str]
    ) -> Self:
        error = cls(message, members, **fields)
        for note in notes:
            error.add_note(note)
        return error

    @classmethod
    def _stand_in(cls, record: AttemptRecord) -> Exception:
        return _ForeignError(record)

    def _portable(self, index: int) -> Exception:
        error = self.exceptions[index]
        if issubclass(type(error), ResilientLLMError):
            return error
        if index < len(self._member_records):
            return _ForeignError(self._member_records[index])
        return _ForeignError(_anonymous(error))


def _anonymous(error: BaseException) -> AttemptRecord:
    return AttemptRecord(target="", number=0, type_name=class_name(type(error)))


def _advice(retry_after: float | None) -> str:
    if retry_after is None:
        return ""
    return f"; try again in {_readable(retry_after)}"


def _readable(seconds: float) -> str:
    """Return a wait in its two largest units, rounded up: ``"30 s"``, ``"31 h 5 min"``."""
    if not 120 <= seconds < inf:
        return f"{seconds:.3g} s"
    hours, minutes = divmod(ceil(seconds / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if hours else f"{minutes} min"
    days, hours = divmod(ceil(seconds / 3600), 24)
    return f"{days} d {hours} h"
