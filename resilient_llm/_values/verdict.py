"""`Verdict`: the kind of an error, and whether to retry it and to count it against health."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.exported import exported
from resilient_llm._values.kinds import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable

    Rule = Callable[[BaseException], "Verdict | ErrorKind | str | None"]
    """A user's rule; None if it does not know the error."""

Scope = Literal["target", "provider"]


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


@exported
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
        # None means the default of the kind; the annotations are what users read.
        if self.scope is None:  # pyright: ignore[reportUnnecessaryComparison]
            put(self, "scope", scope)
        elif self.scope not in ("target", "provider"):
            raise ConfigurationError(f"scope={self.scope!r} is not 'target' or 'provider'")
        if self.retryable is None:  # pyright: ignore[reportUnnecessaryComparison]
            put(self, "retryable", retryable)
        if self.harms_health is None:  # pyright: ignore[reportUnnecessaryComparison]
            put(self, "harms_health", harms)
