"""`BenchedModel` and `TargetHealth`: what ``list_benched`` and ``health`` return."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from resilient_llm._values.exported import exported
from resilient_llm._values.kinds import ErrorKind, LastError

State = Literal["closed", "open", "half_open"]


@exported
@dataclass(frozen=True, slots=True)
class BenchedModel:
    """One key that is benched.

    Attributes:
        model: The key.
        until: When the bench ends, aware UTC; None until unbenched.
        remaining: Seconds left, or None.
        since: When the bench began, aware UTC.
        consecutive_failures: Failures in a row when it was asked.
        manual: Whether an operator benched it.
        reason: Short word, or what the operator wrote.
        kind: What kind of error benched it; None for a manual bench.
        by: Who benched it by hand, if that was given; else empty.
        source: ``"local"``, or the name of the process that benched it for all that share a store.
    """

    model: str
    until: datetime | None
    remaining: float | None
    since: datetime
    consecutive_failures: int
    manual: bool
    reason: str
    kind: ErrorKind | None
    by: str = ""
    source: str = "local"


@exported
@dataclass(frozen=True, slots=True)
class TargetHealth:
    """How one key is doing. Numbers are of the window, since the breaker last closed.

    Attributes:
        status: ``healthy``; ``degraded`` from an error share of 0.1 or half of the
            failures that open the breaker; ``down`` while it is open.
        state: State of the breaker.
        error_rate: Errors as a share of the calls, in [0, 1].
        latency: Average seconds of successes, may be sampled; None if unknown. For a stream,
            the time until its end.
        total: Calls counted.
        errors: Failed calls counted.
        consecutive_failures: Failures in a row.
        last_error: Kind and reason of the newest error, or None.
        checked_at: When this was put together, aware UTC.
        benched: The present bench of the key, or None.
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
