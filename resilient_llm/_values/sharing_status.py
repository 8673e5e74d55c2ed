"""`StoreStatus`: how the store is doing that processes share."""

from dataclasses import dataclass
from datetime import datetime

from resilient_llm._values.exported import exported


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    """How the store is doing, as this process sees it; made by `store_status`.

    Attributes:
        url: Where the data is, without a user and a password; None without a store.
        connected: Whether the store has answered within the last 10 s.
        last_sync_at: When everything new was last read, aware UTC; None before the first time.
        pending: Changes of this process that the store does not have yet.
        peers: Processes that use the store and were seen within 60 s, this one included; at
            least 1.
        rejected: Records that were not understood or are not allowed, since this process began.
        dropped: Changes of this process that were given up because more than 10,000 waited.
        last_error: Class of the latest error, or None.
    """

    url: str | None = None
    connected: bool = False
    last_sync_at: datetime | None = None
    pending: int = 0
    peers: int = 1
    rejected: int = 0
    dropped: int = 0
    last_error: str | None = None
