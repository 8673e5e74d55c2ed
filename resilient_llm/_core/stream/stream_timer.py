"""When a stream is too slow: the limits on waiting for its items and on their rate.

Only waiting for the provider counts, not what the consumer does between two items. Only items
with content are progress, so keep-alives and empty deltas reset nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from resilient_llm._values.stream_policy import StreamPolicy

_NEVER: Final = float("inf")


class StreamTimer:
    """The limits of one stream after its first content."""

    __slots__ = (
        "_count",
        "_deadline",
        "_idle_left",
        "_needed",
        "_policy",
        "_total_left",
        "_window_left",
        "binding",
    )

    def __init__(self, policy: StreamPolicy, waited: float, deadline: float | None) -> None:
        """Start at the first content.

        Args:
            policy: The limits.
            waited: Seconds that the attempt took until then.
            deadline: Monotonic seconds of the end of the whole call, or None.
        """
        self._policy = policy
        self._deadline = deadline
        self._idle_left = _NEVER if policy.idle_timeout is None else policy.idle_timeout
        self._total_left = _NEVER if policy.timeout is None else policy.timeout - waited
        self._needed = None if policy.min_rate is None else policy.min_rate * policy.rate_window
        self._window_left = policy.rate_window
        self._count = 0
        self.binding = ""
        """The name of the limit that ends the present wait first."""

    @property
    def counts_content(self) -> bool:
        """Whether a limit depends on which items have content."""
        return self._policy.idle_timeout is not None or self._needed is not None

    def next_timeout(self, now: float) -> float | None:
        """Return the seconds that the next item may take from now on, or None without a limit."""
        left = self._idle_left
        self.binding = "idle_timeout"
        if self._needed is not None:
            # If enough came in this window, the next window is the first that can fail.
            spare = self._policy.rate_window if self._count >= self._needed else 0.0
            left = self._least(left, self._window_left + spare, "min_rate")
        left = self._least(left, self._total_left, "timeout")
        if self._deadline is not None:
            left = self._least(left, self._deadline - now, "deadline")
        return None if left == _NEVER else left

    def _least(self, left: float, other: float, name: str) -> float:
        if other >= left:
            return left
        self.binding = name
        return other

    def received(self, waited: float, *, is_content: bool) -> None:
        """Record an item that came after this many seconds of waiting."""
        self._total_left -= waited
        if is_content:
            self._idle_left = (
                _NEVER if self._policy.idle_timeout is None else self._policy.idle_timeout
            )
        else:
            self._idle_left -= waited
        if self._needed is not None:
            self._window_left -= waited
            if self._window_left <= 0 and self._count >= self._needed:
                self._window_left = self._policy.rate_window
                self._count = 0
            self._count += is_content

    def message(self) -> str:
        """Return the message of the timeout when the wait was too long."""
        policy = self._policy
        said = {
            "idle_timeout": f"no content within an idle_timeout of {policy.idle_timeout} s",
            "min_rate": f"fewer than min_rate={policy.min_rate} items a second "
            f"within {policy.rate_window:g} s",
            "timeout": f"the stream took longer than its timeout of {policy.timeout} s",
            "deadline": "the stream was not over at the deadline of the call",
        }
        return said[self.binding]
