"""What can block a key, and the places that are leased while it does.

Everything here is owned by one circuit and touched under its lock only. It knows no
settings, no events and no time but what it is handed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm._core.circuit.window import NEVER, Generation
from resilient_llm._values.kinds import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Sequence

FOREVER: Final = float("inf")


class Block:
    """Why a caller was refused."""

    __slots__ = ("dead", "key", "manual", "reason", "until")

    def __init__(
        self,
        key: str,
        reason: str,
        until: float | None,
        *,
        manual: bool = False,
        dead: bool = False,
    ) -> None:
        self.key = key
        self.reason = reason
        self.until = until
        """When another try is worthwhile; None if nobody knows."""
        self.manual = manual
        self.dead = dead


class Bench:
    """One layer's bench, for those who list them."""

    __slots__ = ("kind", "manual", "reason", "since", "until")
    since: float

    def __init__(
        self, since: float, until: float, reason: str, kind: ErrorKind | None, *, manual: bool
    ) -> None:
        self.since = since
        self.until = until
        self.reason = reason
        self.kind = kind
        self.manual = manual


class OpenState(Bench):
    """Open: nobody passes until its end, then half-open."""

    __slots__ = ("cooldown", "last_resort")

    def __init__(
        self, since: float, until: float, reason: str, kind: ErrorKind | None, cooldown: float
    ) -> None:
        super().__init__(since, until, reason, kind, manual=False)
        self.cooldown = cooldown
        self.last_resort: Lease | None = None


class RateLimitPause(Bench):
    """Paused by a rate limit: nobody passes until its end, then closed as before."""

    __slots__ = ("last_resort", "named")

    def __init__(
        self, since: float, until: float, reason: str, kind: ErrorKind, *, named: bool
    ) -> None:
        super().__init__(since, until, reason, kind, manual=False)
        self.named = named
        """Whether the provider itself named the wait."""
        self.last_resort: Lease | None = None

    def extends(self, other: RateLimitPause) -> None:
        """Take the place of a shorter pause: it began with that one, whose last resort may still run."""
        self.since = other.since
        self.named = self.named or other.named
        self.last_resort = other.last_resort


class HalfOpenState:
    """The cooldown is over, the key is not yet trusted."""

    __slots__ = ("cooldown", "leases", "since", "successes")

    def __init__(self, cooldown: float, since: float) -> None:
        self.cooldown = cooldown
        self.since = since
        self.leases: list[Lease] = []
        self.successes = 0


class Lease:
    """A leased place: of a probe in a half-open state, or of a last resort in a bench."""

    __slots__ = ("ends_at", "state")

    def __init__(self, state: HalfOpenState | OpenState | RateLimitPause, ends_at: float) -> None:
        self.state = state
        self.ends_at = ends_at


class BorrowedLease:
    """A place that a guard outside holds, used by one inside it: only the lender gives it back."""

    __slots__ = ("lease",)

    def __init__(self, lease: Lease) -> None:
        self.lease = lease


Admission = Generation | Lease | BorrowedLease
"""What an attempt is let in by."""


class CircuitState:
    """The three layers of one key: the operator's bench, a pause, and open or half-open."""

    __slots__ = ("half", "manual", "opened", "pause")

    def __init__(self) -> None:
        self.manual: Bench | None = None
        self.pause: RateLimitPause | None = None
        self.opened: OpenState | None = None
        self.half: HalfOpenState | None = None

    @property
    def is_closed(self) -> bool:
        """Whether the core is closed, whatever the other layers say."""
        return self.opened is None and self.half is None

    @property
    def is_clear(self) -> bool:
        """Whether no layer blocks; a half-open core does not by itself."""
        return self.manual is None and self.opened is None and self.pause is None

    def benches(self) -> list[Bench]:
        """Return the layers that block now."""
        return [layer for layer in (self.manual, self.opened, self.pause) if layer is not None]

    def expire(self, now: float) -> bool:
        """End the benches whose time is over, an open core as half-open; return whether any was."""
        before = (self.manual, self.pause, self.opened)
        if self.manual is not None and now >= self.manual.until:
            self.manual = None
        if self.pause is not None and now >= self.pause.until:
            self.pause = None
        if self.opened is not None and now >= self.opened.until:
            self.half, self.opened = HalfOpenState(self.opened.cooldown, self.opened.until), None
        return before != (self.manual, self.pause, self.opened)

    def until(self) -> float:
        """Return when the last of them ends; minus infinity if there is none."""
        return max((layer.until for layer in self.benches()), default=NEVER)

    def shown(self) -> Bench | None:
        """Return the bench to show: the operator's, else the one that ends last."""
        return max(self.benches(), key=_prominence, default=None)

    def block(self, key: str) -> Block | None:
        """Return why a caller is rejected, or None."""
        if self.is_clear:
            return None
        benches = self.benches()
        shown = max(benches, key=_prominence)
        reason = (shown.reason or "benched by hand") if shown.manual else shown.reason
        ends_at = max(bench.until for bench in benches)
        return Block(
            key,
            reason,
            None if ends_at == FOREVER else ends_at,
            manual=self.manual is not None,
            dead=any(bench.kind is ErrorKind.AUTH_DEAD for bench in benches),
        )

    def has_lease(self, half: HalfOpenState, now: float, probes: int) -> bool:
        """Return whether a half-open state admits one more; leases that have ended do not count."""
        half.leases = [lease for lease in half.leases if now < lease.ends_at]
        return len(half.leases) < probes

    def last_resort(self, key: str, now: float, ends_at: float) -> Lease | Block | None:
        """Return a place in spite of an automatic bench, or why there is none; None if nothing blocks."""
        block = self.block(key)
        if block is None:
            return None
        layer = self.opened or self.pause
        if (
            block.manual
            or block.dead
            or layer is None
            or (self.pause is not None and self.pause.named)
        ):
            return block
        if layer.last_resort is not None and now < layer.last_resort.ends_at:
            return Block(key, "last resort taken", block.until)
        layer.last_resort = Lease(layer, ends_at)
        return layer.last_resort

    def give_back(self, lease: Lease) -> bool:
        """Free a place; return whether the state that gave it is still there."""
        state = lease.state
        if isinstance(state, HalfOpenState):
            if lease in state.leases:
                state.leases.remove(lease)
            return state is self.half
        for layer in (self.opened, self.pause):
            if layer is not None and layer.last_resort is lease:
                layer.last_resort = None
        return state is self.opened or state is self.pause

    def shared(self, leases: Sequence[Lease]) -> Lease | None:
        """Return the one of these places that a present state gave and that is still held, or None."""
        held = list(self.half.leases) if self.half is not None else []
        held += [
            layer.last_resort
            for layer in (self.opened, self.pause)
            if layer is not None and layer.last_resort
        ]
        return next((lease for lease in leases if lease in held), None)

    def free_all(self) -> None:
        """Free every place: those who held them are not of this process."""
        if self.half is not None:
            self.half.leases = []
        for layer in (self.opened, self.pause):
            if layer is not None:
                layer.last_resort = None


def _prominence(bench: Bench) -> tuple[bool, float]:
    """Return the order in which benches are shown; the greatest is shown."""
    return bench.manual, bench.until
