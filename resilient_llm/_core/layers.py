"""What can block a key, and the places that are leased while it does. Plain data.

Mutable parts are owned by the circuit that made them, under its lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm._core.window import Era

if TYPE_CHECKING:
    from resilient_llm._values import ErrorKind

FOREVER: Final = float("inf")


class Block:
    """Why a caller was refused."""

    __slots__ = ("dead", "key", "manual", "reason", "until")

    def __init__(self, key: str, reason: str, until: float | None, *, manual: bool = False, dead: bool = False) -> None:
        self.key = key
        self.reason = reason
        self.until = until
        """When another try is worthwhile; None if nobody knows."""
        self.manual = manual
        self.dead = dead


class Bench:
    """One layer's bench, for those who list them."""

    __slots__ = ("kind", "manual", "reason", "since", "until")

    def __init__(self, since: float, until: float, reason: str, kind: ErrorKind | None, *, manual: bool) -> None:
        self.since = since
        self.until = until
        self.reason = reason
        self.kind = kind
        self.manual = manual


class Opened(Bench):
    """Open: nobody passes until its end, then half-open."""

    __slots__ = ("cooldown", "last_resort")

    def __init__(self, since: float, until: float, reason: str, kind: ErrorKind | None, cooldown: float) -> None:
        super().__init__(since, until, reason, kind, manual=False)
        self.cooldown = cooldown
        self.last_resort: Place | None = None


class Pause(Bench):
    """Paused by a rate limit: nobody passes until its end, then closed as before."""

    __slots__ = ("last_resort", "named")

    def __init__(self, since: float, until: float, reason: str, kind: ErrorKind, *, named: bool) -> None:
        super().__init__(since, until, reason, kind, manual=False)
        self.named = named
        """Whether the provider itself named the wait."""
        self.last_resort: Place | None = None


class HalfOpen:
    """The cooldown is over, the key is not yet trusted."""

    __slots__ = ("cooldown", "places", "successes")

    def __init__(self, cooldown: float) -> None:
        self.cooldown = cooldown
        self.places: list[Place] = []
        self.successes = 0


class Place:
    """A leased place: of a probe in a half-open state, or of a last resort in a bench."""

    __slots__ = ("lease_until", "state")

    def __init__(self, state: HalfOpen | Opened | Pause, lease_until: float) -> None:
        self.state = state
        self.lease_until = lease_until


Grant = Era | Place
