"""`RateLimitState`: what ``rate_limits()`` returns of one key."""

from dataclasses import dataclass
from datetime import datetime

from resilient_llm._values.exported import exported


@exported
@dataclass(frozen=True, slots=True)
class RateLimitState:
    """What a provider's headers have reported of its own limits, as it is now.

    Attributes:
        requests_remaining: Requests that it takes before it refuses one; None if it did not report.
        tokens_remaining: Tokens, in the same way; the smallest figure, where it reports several.
        resets_at: When the last of these figures is reset, aware UTC; None if it did not report.
        seen_at: When the newest of these figures was reported, aware UTC.
    """

    requests_remaining: int | None
    tokens_remaining: int | None
    resets_at: datetime | None
    seen_at: datetime | None
