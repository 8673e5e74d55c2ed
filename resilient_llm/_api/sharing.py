"""`store_status`: how the store is doing that processes share."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from resilient_llm._runtime.clock import SystemClock
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import checks as check
from resilient_llm._values.sharing_status import StoreStatus


def store_status(*, wait: float = 0.0) -> StoreStatus:
    """Return how the store is doing that ``configure(state=…)`` names.

    Examples:
        >>> store_status().url is None  # nothing is shared
        True

    Args:
        wait: Seconds to block at most until everything in the store was read once, as at the start
            of a process; 0 or more. Not for code of an event loop, which it would stop.

    Raises:
        ConfigurationError: If ``wait`` is not a duration.
    """
    seconds = check.seconds("wait", wait, zero=True)
    sharing: Any = runtime.begin_sharing()
    if sharing is None:
        return StoreStatus()
    if seconds:
        sharing.wait_until_read(seconds)
    found = sharing.status_now()
    fields: dict[str, Any] = found._asdict()
    read_at = found.last_sync_at
    if read_at is not None:
        ago = SystemClock.monotonic() - read_at
        fields["last_sync_at"] = datetime.fromtimestamp(time.time() - ago, UTC)
    return StoreStatus(**fields)
