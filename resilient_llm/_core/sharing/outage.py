"""Whether a store can be read and written, when it is tried again, and the events of that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm._core.sharing.steps import Emit

if TYPE_CHECKING:
    from resilient_llm._values.sharing import Reason, StoreError

SHORTEST_RETRY: Final = 0.25
"""Seconds after the first failure; they double with each further one."""
LONGEST_RETRY: Final = 5.0


class Outage:
    """How a store is doing, for one session."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.reading: Reason | None = None
        """Why it cannot be read, or None."""
        self.writing: Reason | None = None
        """Why it cannot be written, or None."""
        self.read_again_at = 0.0
        self.write_again_at = 0.0
        self.last_error: str | None = None
        self._read_delay = self._write_delay = SHORTEST_RETRY
        self._since: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether it cannot be read or cannot be written."""
        return self.reading is not None or self.writing is not None

    def failed_to_read(self, error: StoreError, now: float) -> list[Emit]:
        """Note that a look has failed."""
        self.reading = error.reason
        self.read_again_at = now + self._read_delay
        self._read_delay = min(self._read_delay * 2, LONGEST_RETRY)
        return self._begun(error, now)

    def failed_to_write(self, error: StoreError, now: float) -> list[Emit]:
        """Note that a step that changes something has failed."""
        self.writing = error.reason
        self.write_again_at = now + self._write_delay
        self._write_delay = min(self._write_delay * 2, LONGEST_RETRY)
        return self._begun(error, now)

    def read(self, now: float) -> list[Emit]:
        """Note that a look was answered."""
        if self.reading is not None:
            self.reading, self._read_delay = None, SHORTEST_RETRY
            if self.writing is not None:
                self.write_again_at, self._write_delay = now, SHORTEST_RETRY
        return self._over(now)

    def wrote(self, now: float) -> list[Emit]:
        """Note that a step that changes something was answered."""
        self.writing, self._write_delay = None, SHORTEST_RETRY
        return self._over(now)

    def _begun(self, error: StoreError, now: float) -> list[Emit]:
        self.last_error = error.type_name or type(error).__name__
        if self._since is not None:
            return []
        self._since = now
        fields = {"url": self._url, "reason": error.reason, "type_name": error.type_name}
        return [Emit("StoreUnavailable", fields)]

    def _over(self, now: float) -> list[Emit]:
        if self._since is None or self.is_on:
            return []
        seconds, self._since = now - self._since, None
        return [Emit("StoreAvailable", {"url": self._url, "seconds": seconds})]
