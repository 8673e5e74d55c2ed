"""The parts of a circuit's state: benches, pauses, half-open and the leases of its probes.

Everything here is owned by one circuit and is used under its lock only. It knows no settings
and no events, and reads no clock: the time is passed in.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final

from resilient_llm._core.circuit.window import NEVER, Generation
from resilient_llm._values.kinds import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Sequence

FOREVER: Final = float("inf")
LOCAL: Final = "local"
"""The source of what this process does itself."""
AT_ONCE: Final = (ErrorKind.AUTH_DEAD, ErrorKind.MEMORY_PRESSURE)
"""Kinds of which one error opens. A tuple: comparing is quicker than the hash of an enum."""


class Block:
    """Why a caller was rejected."""

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
        """When another attempt is worthwhile, in monotonic seconds; None if that is not known."""
        self.manual = manual
        """Whether an operator blocked it."""
        self.dead = dead
        """Whether the credentials do not work: then a last resort is not admitted either."""


class Bench:
    """A bench: why and until when a key is skipped, as `list_benched` shows it."""

    __slots__ = ("_last_resort", "by", "kind", "manual", "reason", "since", "source", "until")
    since: float

    def __init__(
        self,
        since: float,
        until: float,
        reason: str,
        kind: ErrorKind | None,
        *,
        manual: bool,
        by: str = "",
        source: str = LOCAL,
    ) -> None:
        self.since = since
        self.until = until
        self.reason = reason
        self.kind = kind
        self.manual = manual
        self.by = by
        """Who benched it by hand, if that was given; else empty."""
        self.source = source
        """Which process benched it, as others name it; `LOCAL` for this one."""
        self._last_resort: weakref.ref[Lease] | None = None

    @property
    def last_resort(self) -> Lease | None:
        """The lease of the one call that is made in spite of the bench, while it is held."""
        return None if self._last_resort is None else self._last_resort()

    @last_resort.setter
    def last_resort(self, lease: Lease | None) -> None:
        self._last_resort = None if lease is None else weakref.ref(lease)


class OpenState(Bench):
    """Open: every caller is rejected until its end; then the circuit is half-open."""

    __slots__ = ("cooldown",)

    def __init__(
        self, since: float, until: float, reason: str, kind: ErrorKind | None, cooldown: float
    ) -> None:
        super().__init__(since, until, reason, kind, manual=False)
        self.cooldown = cooldown


class RateLimitPause(Bench):
    """Paused by a rate limit: every caller is rejected until its end; then closed as before."""

    __slots__ = ("behind", "named", "of_headers")

    def __init__(
        self,
        since: float,
        until: float,
        reason: str,
        kind: ErrorKind,
        *,
        named: bool,
        of_headers: bool = False,
    ) -> None:
        super().__init__(since, until, reason, kind, manual=False)
        self.named = named
        """Whether the provider itself named the wait."""
        self.of_headers = of_headers
        """Whether a figure in headers asked for it, which a newer answer may take back."""
        self.behind: RateLimitPause | None = None
        """The pause of an error that this one of headers outlasts, and that nothing takes back."""

    def keep_behind(self, other: RateLimitPause) -> None:
        """Remember the longest pause that goes on if this one of headers is taken back."""
        is_longest = self.behind is None or self.behind.until < other.until
        if self.of_headers and not other.of_headers and is_longest:
            self.behind = other

    def extends(self, other: RateLimitPause) -> None:
        """Replace a shorter pause.

        The pause began with that one, and that one's last resort may still be running.
        """
        self.since = other.since
        self.named = self.named or other.named
        self._last_resort = other._last_resort
        for each in (other, other.behind):
            if each is not None:
                self.keep_behind(each)


class HalfOpenState:
    """Half-open: the cooldown is over, and probes decide whether the circuit closes."""

    __slots__ = ("_leases", "cooldown", "is_announced", "since", "successes", "taken_until")

    def __init__(self, cooldown: float, since: float) -> None:
        self.cooldown = cooldown
        self.since = since
        self._leases: list[weakref.ref[Lease]] = []
        self.successes = 0
        self.is_announced = False
        """Whether an exporter was told that the bench before it has ended."""
        self.taken_until = NEVER
        """Until when another process probes, so that this one does not."""

    @property
    def leases(self) -> list[Lease]:
        """The leases that are held."""
        return [lease for reference in self._leases if (lease := reference()) is not None]

    @leases.setter
    def leases(self, leases: list[Lease]) -> None:
        self._leases = [weakref.ref(lease) for lease in leases]


class Lease:
    """The limited place of a probe in a half-open state, or of a last resort in a bench.

    The state refers to it weakly. So the place is free again when the lease is no longer held,
    as after an interrupt between its grant and the attempt.
    """

    __slots__ = ("__weakref__", "ends_at", "is_claimed", "state")

    def __init__(self, state: HalfOpenState | OpenState | RateLimitPause, ends_at: float) -> None:
        self.state = state
        self.ends_at = ends_at
        self.is_claimed = False
        """Whether its place was asked for in the store that processes share."""


class BorrowedLease:
    """A lease of an outer guard, used by a guard inside it; only the outer guard gives it back."""

    __slots__ = ("lease",)

    def __init__(self, lease: Lease) -> None:
        self.lease = lease


Admission = Generation | Lease | BorrowedLease
"""What an attempt is admitted by; a report is compared with the state that it belongs to."""


class CircuitState:
    """The state of one key: an operator's bench, a pause, and whether it is open or half-open."""

    __slots__ = ("half", "has_failed_probe", "manual", "opened", "pause")

    def __init__(self) -> None:
        self.manual: Bench | None = None
        self.pause: RateLimitPause | None = None
        self.opened: OpenState | None = None
        self.half: HalfOpenState | None = None
        self.has_failed_probe = False
        """Whether a half-open probe has failed since the circuit was closed."""

    @property
    def core_is_closed(self) -> bool:
        """Whether the circuit is neither open nor half-open; it may still be benched or paused."""
        return self.opened is None and self.half is None

    @property
    def is_unblocked(self) -> bool:
        """Whether there is no bench; a half-open state by itself is none."""
        return self.manual is None and self.opened is None and self.pause is None

    @property
    def is_at_rest(self) -> bool:
        """Whether the circuit is closed and there is no bench: both of the above, at once."""
        return (
            self.opened is None and self.half is None and self.pause is None and self.manual is None
        )

    def benches(self) -> list[Bench]:
        """Return the benches that block now."""
        return [bench for bench in (self.manual, self.opened, self.pause) if bench is not None]

    def expire(self, now: float) -> bool:
        """End the benches whose time is over, open as half-open; return whether any ended."""
        before = (self.manual, self.pause, self.opened)
        if self.manual is not None and now >= self.manual.until:
            self.manual = None
        if self.pause is not None and now >= self.pause.until:
            self.pause = None
        if self.opened is not None and now >= self.opened.until:
            self.half, self.opened = HalfOpenState(self.opened.cooldown, self.opened.until), None
        return before != (self.manual, self.pause, self.opened)

    def half_open_early(self, now: float) -> None:
        """End the cooldown of an open state; who ends it says so."""
        if self.opened is not None:
            self.half, self.opened = HalfOpenState(self.opened.cooldown, now), None
            self.half.is_announced = True

    def until(self) -> float:
        """Return when the last bench ends; minus infinity if there is none."""
        return max((bench.until for bench in self.benches()), default=NEVER)

    def shown(self) -> Bench | None:
        """Return the bench to show: the operator's, else the one that ends last."""
        return max(self.benches(), key=_prominence, default=None)

    def block(self, key: str) -> Block | None:
        """Return why a caller is rejected, or None."""
        if self.is_unblocked:
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
        """Return whether a half-open state admits one more probe; ended leases do not count."""
        half.leases = held = [lease for lease in half.leases if now < lease.ends_at]
        return len(held) < probes and now >= half.taken_until

    def refuses_last_resort(self, key: str, now: float) -> Block | None:
        """Return what keeps a last resort from being made in spite of a bench, or None."""
        block = self.block(key)
        if block is None:
            return None
        bench = self.opened or self.pause
        if (
            block.manual
            or block.dead
            or bench is None
            or (self.pause is not None and self.pause.named)
        ):
            return block
        held = bench.last_resort
        if held is not None and now < held.ends_at:
            return Block(key, "last resort taken", block.until)
        return None

    def last_resort(self, key: str, now: float, ends_at: float) -> Lease | Block | None:
        """Return a lease in spite of an automatic bench, or why there is none.

        None if nothing blocks the key.
        """
        refusal, bench = self.refuses_last_resort(key, now), self.opened or self.pause
        if refusal is not None or bench is None:
            return refusal
        bench.last_resort = lease = Lease(bench, ends_at)
        return lease

    def give_back(self, lease: Lease) -> bool:
        """End a lease; return whether the state that gave it is still the present one."""
        state = lease.state
        if isinstance(state, HalfOpenState):
            state.leases = [each for each in state.leases if each is not lease]
            return state is self.half
        for bench in (self.opened, self.pause):
            if bench is not None and bench.last_resort is lease:
                bench.last_resort = None
        return state is self.opened or state is self.pause

    def shared(self, leases: Sequence[Lease]) -> Lease | None:
        """Return the first of these leases that the present state gave and still holds, or None."""
        held = self.half.leases if self.half is not None else []
        held += [
            lease
            for bench in (self.opened, self.pause)
            if bench is not None and (lease := bench.last_resort) is not None
        ]
        return next((lease for lease in leases if lease in held), None)

    def free_all(self) -> None:
        """End every lease: their holders run in another process."""
        if self.half is not None:
            self.half.leases = []
        for bench in (self.opened, self.pause):
            if bench is not None:
                bench.last_resort = None


def _prominence(bench: Bench) -> tuple[bool, float]:
    """Return the order in which benches are shown; the greatest is shown."""
    return bench.manual, bench.until
