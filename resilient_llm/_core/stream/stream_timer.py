"""How long the next item of a stream may take. Pure: it is told what time it is.

Only waiting for the provider counts, never what the consumer does between two items; only
items with content are progress, so keep-alives and empty deltas reset nothing.
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
            policy: Says what the limits are.
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
        """The limit that ends the present wait first, in words."""

    @property
    def counts_content(self) -> bool:
        """Whether it matters which items are content."""
        return self._policy.idle_timeout is not None or self._needed is not None

    def next_timeout(self, now: float) -> float | None:
        """Return the seconds after which the item that is waited for from now on is too late, or None."""
        left = self._idle_left
        self.binding = "idle_timeout"
        if self._needed is not None:
            # Enough came in this window already: the soonest that can go wrong is the next one.
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
        """Note an item that came after so many seconds of waiting."""
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
        """Return what went wrong when the wait was too long."""
        policy = self._policy
        said = {
            "idle_timeout": f"no content within an idle_timeout of {policy.idle_timeout} s",
            "min_rate": f"fewer than min_rate={policy.min_rate} items a second within {policy.rate_window:g} s",
            "timeout": f"the stream took longer than its timeout of {policy.timeout} s",
            "deadline": "the stream was not over at the deadline of the call",
        }
        return said[self.binding]
