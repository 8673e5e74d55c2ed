"""Plain values that users hold: kinds, verdicts, targets, records. Standard library only."""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple

from resilient_llm import _checks as check
from resilient_llm._errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from resilient_llm._stream_policy import StreamPolicy

Scope = Literal["target", "provider"]
State = Literal["closed", "open", "half_open"]


class ErrorKind(StrEnum):
    """What an error is, which decides what happens next. Each member equals its own word."""

    TRANSIENT = "transient"
    RATE_LIMITED = "rate_limited"
    AUTH_DEAD = "auth_dead"
    MEMORY_PRESSURE = "memory_pressure"
    REQUEST_SPECIFIC = "request_specific"
    BAD_RESPONSE = "bad_response"
    REJECTED = "rejected"
    CALLER_BUG = "caller_bug"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    # The words of the action table are names of the same members.
    transient = TRANSIENT
    rate_limited = RATE_LIMITED
    auth_dead = AUTH_DEAD
    memory_pressure = MEMORY_PRESSURE
    request_specific = REQUEST_SPECIFIC
    bad_response = BAD_RESPONSE
    rejected = REJECTED
    caller_bug = CALLER_BUG
    cancelled = CANCELLED
    unknown = UNKNOWN


# kind: (default reason, default scope, same target again, harms health)
_DEFAULTS: Final[dict[ErrorKind, tuple[str, Scope, bool, bool]]] = {
    ErrorKind.TRANSIENT: ("server_error", "target", True, True),
    ErrorKind.RATE_LIMITED: ("rate_limit", "target", True, False),
    ErrorKind.AUTH_DEAD: ("invalid_credentials", "provider", False, True),
    ErrorKind.MEMORY_PRESSURE: ("out_of_memory", "target", False, True),
    ErrorKind.REQUEST_SPECIFIC: ("invalid_request", "target", False, False),
    ErrorKind.BAD_RESPONSE: ("rejected", "target", False, False),
    ErrorKind.REJECTED: ("rejected", "target", False, False),
    ErrorKind.CALLER_BUG: ("caller_bug", "target", False, False),
    ErrorKind.CANCELLED: ("cancelled", "target", False, False),
    ErrorKind.UNKNOWN: ("unclassified", "target", False, False),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an error means and what may be done about it.

    Everything but ``kind`` has a default that follows from it.

    Attributes:
        kind: What the error is.
        reason: Short stable word, for example ``"timeout"`` or ``"insufficient_quota"``.
        retry_after: Seconds that the provider asked to wait, or None.
        status: HTTP status, or None.
        scope: What a failure is charged to, ``"target"`` or ``"provider"``.
        retryable: Whether the same request may go to the same target again.
        harms_health: Whether the error counts against health.
    """

    kind: ErrorKind
    reason: str = ""
    retry_after: float | None = None
    status: int | None = None
    scope: Scope = None  # type: ignore[assignment]  # filled in from the kind below
    retryable: bool = None  # type: ignore[assignment]  # filled in from the kind below
    harms_health: bool = None  # type: ignore[assignment]  # filled in from the kind below

    def __post_init__(self) -> None:
        try:
            kind = ErrorKind(self.kind)
        except ValueError:
            allowed = ", ".join(member.value for member in ErrorKind)
            raise ConfigurationError(f"kind={self.kind!r} is not one of {allowed}") from None
        reason, scope, retryable, harms = _DEFAULTS[kind]
        put = object.__setattr__
        put(self, "kind", kind)
        if not self.reason:
            put(self, "reason", reason)
        # None stands for "as the kind has it"; the annotations are what users read.
        if self.scope is None:  # pyright: ignore[reportUnnecessaryComparison]
            put(self, "scope", scope)
        elif self.scope not in ("target", "provider"):
            raise ConfigurationError(f"scope={self.scope!r} is not 'target' or 'provider'")
        if self.retryable is None:  # pyright: ignore[reportUnnecessaryComparison]
            put(self, "retryable", retryable)
        if self.harms_health is None:  # pyright: ignore[reportUnnecessaryComparison]
            put(self, "harms_health", harms)


class LastError(NamedTuple):
    """What the newest error of a key was."""

    kind: ErrorKind
    reason: str


class Unset(Enum):
    """Type of ``Target.UNSET``."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "Target.UNSET"


def parse_key(spec: object) -> tuple[str, str, str]:
    """Return ``(provider, account, model)`` of a key; account and model may be empty.

    The provider is lower-cased, blanks around the halves go. Only an ``@`` before the
    first slash names an account, since models may contain one.

    Raises:
        ConfigurationError: If the key is no text, blank, or has an empty half.
    """
    if not isinstance(spec, str):
        raise ConfigurationError(
            f"a key is a text such as 'groq' or 'groq/llama-3.3-70b', not {type(spec).__name__}"
        )
    head, slash, model = spec.strip().partition("/")
    provider, at, account = head.partition("@")
    provider, account, model = provider.strip().lower(), account.strip(), model.strip()
    if not head and not slash:
        raise ConfigurationError("a key is blank: write 'provider' or 'provider/model'")
    if not provider or (slash and not model) or (at and not account):
        raise ConfigurationError(
            f"{spec!r} has an empty half: write 'provider', 'provider/model' or 'provider@account/model'"
        )
    return provider, account, model


def provider_key(provider: str, account: str) -> str:
    return f"{provider}@{account}" if account else provider


def normal_key(spec: object) -> str:
    """Return the one spelling of a key that the registry uses."""
    if isinstance(spec, Target):
        return spec.key
    provider, account, model = parse_key(spec)
    head = provider_key(provider, account)
    return f"{head}/{model}" if model else head


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Target:
    """One place a call can be sent: a provider and a model, with its options.

    ``Target("groq/llama-3.3-70b")`` is frozen and hashable; the same model has one key
    however it was written.

    Attributes:
        spec: ``"provider/model"``, normalised.
        key: The spec with its account, ``"groq@tenant-7/llama"``; names its circuit.
        provider: What stands before the first slash, lower-cased, without account.
        model: All the rest; further slashes are kept.
        call: Callable used for this target instead of the decorated function, or None.
        account: Name of a tenant or region with health of its own, or None.
        params: ``{keyword: value}`` merged over the keyword arguments of a call.
        removed: Keywords that ``Target.UNSET`` takes out of a call.
        attempt_timeout: Seconds for one attempt, of a stream until its first content, or None.
        stream: Options of its streams that take the place of the policy's, or None.
        priority: Lower is tried first.
        weight: Share for strategies that draw, above zero.
        price: ``(input, output)`` in USD per million tokens, or None.
        context_window: Tokens that the model takes, or None if unknown.
        max_output: Tokens that the model gives, or None if unknown.
        supports: Names of features, for matching.
        tags: Free names, for matching.
    """

    UNSET: ClassVar[Unset] = Unset.UNSET

    spec: str
    key: str
    provider: str
    provider_key: str
    model: str
    call: Callable[..., Any] | None
    account: str | None
    params: Mapping[str, Any]
    removed: frozenset[str]
    attempt_timeout: float | None
    stream: StreamPolicy | None
    priority: int
    weight: float
    price: tuple[float, float] | None
    context_window: int | None
    max_output: int | None
    supports: frozenset[str]
    tags: frozenset[str]
    _hash: int = field(init=False)

    def __init__(
        self,
        spec: str,
        *,
        call: Callable[..., Any] | None = None,
        account: str | None = None,
        params: Mapping[str, Any] | None = None,
        attempt_timeout: float | None = None,
        stream: StreamPolicy | None = None,
        priority: int = 1,
        weight: float = 1.0,
        price: tuple[float, float] | None = None,
        context_window: int | None = None,
        max_output: int | None = None,
        supports: Iterable[str] = (),
        tags: Iterable[str] = (),
    ) -> None:
        provider, spec_account, model = parse_key(spec)
        if not model:
            raise ConfigurationError(f"{spec!r} names no model: write 'provider/model'")
        given_account: object = account
        if account is not None and (
            not isinstance(given_account, str) or not account.strip() or set("/@") & set(account)
        ):
            raise ConfigurationError(f"account={account!r} is not a name without '/' and '@'")
        if account is not None and spec_account and spec_account != account.strip():
            raise ConfigurationError(f"{spec!r} names another account than account={account!r}")
        if call is not None and not callable(call):
            raise ConfigurationError(f"call= of {spec!r} is not callable")
        if stream is not None:
            from resilient_llm._stream_policy import stream_policy

            stream_policy(f"stream of {spec!r}", stream)
        name = (account or spec_account).strip()
        given = check.mapping("params", {} if params is None else params)
        put = object.__setattr__
        put(self, "spec", f"{provider}/{model}")
        put(self, "provider", provider)
        put(self, "provider_key", provider_key(provider, name))
        put(self, "key", f"{self.provider_key}/{model}")
        put(self, "model", model)
        put(self, "call", call)
        put(self, "account", name or None)
        put(
            self,
            "params",
            types.MappingProxyType({k: v for k, v in given.items() if v is not Unset.UNSET}),
        )
        put(self, "removed", frozenset(k for k, v in given.items() if v is Unset.UNSET))
        put(
            self,
            "attempt_timeout",
            check.seconds("attempt_timeout", attempt_timeout, optional=True),
        )
        put(self, "stream", stream)
        put(self, "priority", check.whole("priority", priority, low=None))
        put(self, "weight", check.number("weight", weight, above=0.0))
        put(self, "price", check.price(price))
        put(
            self,
            "context_window",
            check.whole("context_window", context_window, low=1, optional=True),
        )
        put(self, "max_output", check.whole("max_output", max_output, low=1, optional=True))
        put(self, "supports", check.words("supports", supports))
        put(self, "tags", check.words("tags", tags))
        put(self, "_hash", hash(self.key))

    def options(self) -> dict[str, Any]:
        """Return ``{keyword: value}`` that builds an equal target from ``spec``."""
        return {
            "call": self.call,
            "account": self.account,
            "params": {**self.params, **dict.fromkeys(self.removed, Unset.UNSET)},
            "attempt_timeout": self.attempt_timeout,
            "stream": self.stream,
            "priority": self.priority,
            "weight": self.weight,
            "price": self.price,
            "context_window": self.context_window,
            "max_output": self.max_output,
            "supports": self.supports,
            "tags": self.tags,
        }

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Target):
            return NotImplemented
        return self.key == other.key and self.options() == other.options()

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        # params and call may hold what must not reach a log.
        return f"Target({self.key!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_target, (self.spec, self.options())


def _rebuild_target(spec: str, options: dict[str, Any]) -> Target:
    return Target(spec, **options)


class AttemptRecord(NamedTuple):
    """One attempt or skip, without anything the provider or the caller said.

    Attributes:
        target: Key of the target.
        number: Number of the attempt within the target, from 1; 0 for a skip.
        kind: What the error was; None for a success.
        reason: Short word; empty for a success.
        seconds: How long the attempt ran.
        status: HTTP status, or None.
        type_name: Name of the error's class; empty for a success.
    """

    target: str
    number: int
    kind: ErrorKind | None = None
    reason: str = ""
    seconds: float = 0.0
    status: int | None = None
    type_name: str = ""


@dataclass(frozen=True, slots=True)
class BenchedModel:
    """One key that sits out.

    Attributes:
        model: The key.
        until: When the bench ends, aware UTC; None until unbenched.
        remaining: Seconds left, or None.
        since: When the bench began, aware UTC.
        consecutive_failures: Failures in a row when it was asked.
        manual: Whether an operator benched it.
        reason: Short word, or what the operator wrote.
        kind: What kind of error benched it; None for a manual bench.
    """

    model: str
    until: datetime | None
    remaining: float | None
    since: datetime
    consecutive_failures: int
    manual: bool
    reason: str
    kind: ErrorKind | None


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """How one key is doing. Numbers are of the window, since the breaker last closed.

    Attributes:
        status: ``healthy``; ``degraded`` from an error share of 0.1 or half of the
            failures that open the breaker; ``down`` while it is open.
        state: State of the breaker.
        error_rate: Errors as a share of the calls, in [0, 1].
        latency: Average seconds of successes, may be sampled; None if unknown. Of a stream,
            the whole of it.
        total: Calls counted.
        errors: Failed calls counted.
        consecutive_failures: Failures in a row.
        last_error: Kind and reason of the newest error, or None.
        checked_at: When this was put together, aware UTC.
        benched: The bench it sits out, or None.
        first_content: Average seconds to the first content of streams; None without any.
    """

    status: Literal["healthy", "degraded", "down"]
    state: State
    error_rate: float
    latency: float | None
    total: int
    errors: int
    consecutive_failures: int
    last_error: LastError | None
    checked_at: datetime
    benched: BenchedModel | None
    first_content: float | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a function is told about the attempt it is, if a parameter asks for it.

    Attributes:
        target: Where this attempt goes.
        number: Number within the target, from 1.
        remaining: Seconds left for this attempt when it began, or None.
        call_id: Name of the call, the same in its events.
    """

    target: Target
    number: int
    remaining: float | None
    call_id: str
