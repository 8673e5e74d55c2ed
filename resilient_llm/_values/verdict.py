"""`Verdict`: the kind of an error, and whether to retry it and to count it against health."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, cast

from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.exported import exported
from resilient_llm._values.kinds import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable

    Rule = Callable[[BaseException], "Verdict | ErrorKind | str | None"]
    """A user's rule; None if it does not know the error."""

Scope = Literal["target", "provider"]

LONGEST_REASON: Final = 40
"""Characters of a reason; a longer text is prose, perhaps a provider's, and is cut."""


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

    Everything but ``kind`` has a default that follows from it. All is checked when it is built.

    Attributes:
        kind: What the error is.
        reason: Short stable word, for example ``"timeout"`` or ``"insufficient_quota"``; cut
            at 40 characters.
        retry_after: Seconds that the provider asked to wait, or None. A numeric text, as in a
            header, becomes a number.
        status: HTTP status, or None.
        scope: What a failure is charged to, ``"target"`` or ``"provider"``.
        retryable: Whether the same request may go to the same target again.
        harms_health: Whether the error counts against health.

    Raises:
        ConfigurationError: If a value is not allowed, such as a negative ``retry_after``.
    """

    kind: ErrorKind
    reason: str = ""
    retry_after: float | None = None
    status: int | None = None
    scope: Scope = None  # type: ignore[assignment]  # filled in from the kind below
    retryable: bool = None  # type: ignore[assignment]  # filled in from the kind below
    harms_health: bool = None  # type: ignore[assignment]  # filled in from the kind below

    def __post_init__(self) -> None:
        kind, reason, put = self.kind, self.reason, object.__setattr__
        if type(kind) is not ErrorKind:
            kind = _checked_kind(kind)
            put(self, "kind", kind)
        default = _DEFAULTS[kind]
        if not reason:
            put(self, "reason", default[0])
        elif type(reason) is not str or len(reason) > LONGEST_REASON:
            put(self, "reason", _checked_reason(reason))
        wait = self.retry_after
        if wait is not None and (type(wait) is not float or not 0.0 <= wait < math.inf):
            put(self, "retry_after", _checked_wait(wait))
        if self.status is not None and type(self.status) is not int:
            put(self, "status", _checked_status(self.status))
        # None means the default of the kind; the annotations are what users read.
        if self.scope is None:  # pyright: ignore[reportUnnecessaryComparison]
            put(self, "scope", default[1])
        elif self.scope != "target" and self.scope != "provider":
            raise ConfigurationError(f"scope{_shown(self.scope)} is not 'target' or 'provider'")
        if self.retryable is None:  # pyright: ignore[reportUnnecessaryComparison]
            put(self, "retryable", default[2])
        elif self.retryable is not True and self.retryable is not False:
            _refuse_flag("retryable", self.retryable)
        if self.harms_health is None:  # pyright: ignore[reportUnnecessaryComparison]
            put(self, "harms_health", default[3])
        elif self.harms_health is not True and self.harms_health is not False:
            _refuse_flag("harms_health", self.harms_health)


# Rules of users build verdicts from what a provider sent, so no message below shows a text.


def _checked_kind(given: Any) -> ErrorKind:
    try:
        return ErrorKind(given)
    except ValueError:
        allowed = ", ".join(member.value for member in ErrorKind)
        raise ConfigurationError(f"kind{_shown(given)} is not one of {allowed}") from None


def _checked_reason(given: Any) -> str:
    if not isinstance(given, str):
        raise ConfigurationError(f"reason{_shown(given)} is not a text: write a short stable word")
    return str(given)[:LONGEST_REASON]


def _checked_wait(given: Any) -> float:
    """Return seconds from a number or a numeric text, as headers have it."""
    kind = cast("type[object]", type(given))
    is_number = issubclass(kind, str) or hasattr(kind, "__float__")
    try:
        seconds = float(given) if is_number and not isinstance(given, bool) else -1.0
    except (ValueError, OverflowError):
        seconds = -1.0
    if not 0.0 <= seconds < math.inf:  # also False for NaN
        raise ConfigurationError(
            f"retry_after{_shown(given)} is not allowed: "
            "write a finite number of seconds, 0 or more, or None"
        )
    return seconds


def _checked_status(given: Any) -> int:
    if not isinstance(given, int) or isinstance(given, bool):
        raise ConfigurationError(f"status{_shown(given)} is not allowed: write an int, or None")
    return int(given)


def _refuse_flag(name: str, given: Any) -> NoReturn:
    raise ConfigurationError(f"{name}{_shown(given)} is not allowed: write True, False or None")


def _shown(given: Any) -> str:
    if isinstance(given, (bool, int, float)):
        return f"={given!r}"
    return f" of type {type(given).__name__}"
