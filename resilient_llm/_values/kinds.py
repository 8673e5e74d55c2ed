"""`ErrorKind`, and the records of an attempt and of a last error that use it."""

from enum import StrEnum
from typing import NamedTuple

from resilient_llm._values.exported import exported


@exported
class ErrorKind(StrEnum):
    """What an error is, which decides what happens next. Each member equals its own word."""

    TRANSIENT = "transient"
    """A network error, a timeout, a 5xx: the same request may succeed in a moment."""
    RATE_LIMITED = "rate_limited"
    """A 429 or throttling: the target is paused for as long as the provider asked."""
    AUTH_DEAD = "auth_dead"
    """Credentials, billing, permission or the name of a model is wrong: a person must act."""
    MEMORY_PRESSURE = "memory_pressure"
    """A local server ran out of memory."""
    REQUEST_SPECIFIC = "request_specific"
    """This request is wrong for this target: a 400, 413 or 422, a refusal for its content."""
    BAD_RESPONSE = "bad_response"
    """``reject`` refused the answer."""
    REJECTED = "rejected"
    """A guard of this library refused the call, so nothing was sent."""
    CALLER_BUG = "caller_bug"
    """An error in the calling code, such as a ``TypeError``: raised at once, unchanged."""
    CANCELLED = "cancelled"
    """A cancellation, ``KeyboardInterrupt`` or ``SystemExit``: passes through."""
    UNKNOWN = "unknown"
    """An error that no rule recognises: ``on_unknown`` decides."""

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


@exported
class LastError(NamedTuple):
    """What the newest error of a key was."""

    kind: ErrorKind
    reason: str


@exported
class AttemptRecord(NamedTuple):
    """One attempt or skip, without any text of the provider or the caller.

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
