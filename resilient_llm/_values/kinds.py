"""`ErrorKind`, and the records of an attempt and of a last error that use it."""

from enum import StrEnum
from typing import NamedTuple

from resilient_llm._values.exported import exported


@exported
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


@exported
class LastError(NamedTuple):
    """What the newest error of a key was."""

    kind: ErrorKind
    reason: str


@exported
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
