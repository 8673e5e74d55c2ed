"""Leave for one attempt: a grant of the target's circuit and one of its provider's.

Reported once: succeeded, failed or abandoned. An error is charged to one of the two, by
its scope, and once per key each time it is raised: the permit notes on the error when
which key was charged, and an outer guard that was entered before that moment passes.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from resilient_llm._core.circuit.state import Block, Loan, Place
from resilient_llm._core.circuit.window import Era
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict

if TYPE_CHECKING:
    from resilient_llm._core.circuit.circuit import CallTag, Circuit
    from resilient_llm._core.circuit.state import Grant

    Leave = Grant | Loan

_CHARGES = "_resilient_llm_charged"
_DEEPEST_CAUSE = 16
_MOST_CHARGES = 32
"""An error that is kept and raised again and again must not collect the circuits it has met."""

held_places: ContextVar[tuple[Place, ...]] = ContextVar("resilient_llm_held_places", default=())
"""Places that guards around this code hold, so that an inner guard on the same key borrows
its outer's place instead of being refused by it for ever."""


def hold(places: tuple[Place, ...]) -> None:
    """Let guards inside this code know of places."""
    if places:
        held_places.set(held_places.get() + places)


def let_go(places: tuple[Place, ...]) -> None:
    """Take places out again, in whatever order and context guards are left."""
    if places:
        held_places.set(tuple(place for place in held_places.get() if place not in places))


class Permit:
    """Leave for one attempt. Not thread-safe by itself; its circuits are."""

    __slots__ = ("circuit", "entered_at", "grant", "is_reported", "provider_grant")

    def __init__(
        self, circuit: Circuit, grant: Leave | None, provider_grant: Leave | None, entered_at: float
    ) -> None:
        self.circuit = circuit
        self.grant = grant
        self.provider_grant = provider_grant
        self.entered_at = entered_at
        self.is_reported = False

    @property
    def places(self) -> tuple[Place, ...]:
        """The leased places among the grants; none for a healthy key."""
        own, outer = self.grant, self.provider_grant
        if not isinstance(own, Place):
            return (outer,) if isinstance(outer, Place) else ()
        return (own, outer) if isinstance(outer, Place) else (own,)

    def charged(self, verdict: Verdict) -> tuple[Circuit, Leave | None]:
        """Return the circuit that a failure of this verdict is charged to, with its grant."""
        provider = self.circuit.provider
        if provider is not None and verdict.scope == "provider":
            return provider, self.provider_grant
        return self.circuit, self.grant

    def answered(self) -> tuple[int, int]:
        """Return figures of the key and of its provider that grow with every success."""
        provider = self.circuit.provider
        return self.circuit.answered(), 0 if provider is None else provider.answered()

    def succeeded(self, now: float, seconds: float, felt: float | None = None) -> None:
        """Count a success; it settles the places of both circuits, but for those that are borrowed.

        ``felt`` is what counts as slow or not, if it is not how long it took.
        """
        self.is_reported = True
        felt = seconds if felt is None else felt
        provider = self.circuit.provider
        grant, outer = self.grant, self.provider_grant
        counted = True
        if isinstance(grant, Place) or (
            isinstance(grant, Era) and not (grant.calm and now < grant.look_at)
        ):
            counted = self.circuit.success(grant, now, seconds, felt=felt)
        elif isinstance(grant, Era):
            grant.measured(self.entered_at, now)
        if provider is None or outer is None or isinstance(outer, Loan):
            return
        if isinstance(outer, Place):
            provider.success(outer, now, seconds, felt=felt, is_targets=True)
        elif counted:
            provider.child_answered(outer, now, felt)

    def failed(
        self,
        error: BaseException | None,
        now: float,
        verdict: Verdict,
        *,
        cooldown: float | None = None,
        tag: CallTag | None = None,
    ) -> None:
        """Charge a failure to one circuit and give the other's place back."""
        self.is_reported = True
        charged, grant = self.charged(verdict)
        other = self.provider_grant if charged is self.circuit else self.grant
        other_circuit = self.circuit.provider if charged is self.circuit else self.circuit
        if isinstance(other, Place) and other_circuit is not None:
            other_circuit.abandon(other)
        if isinstance(grant, Loan):
            if not verdict.harms_health and verdict.kind is not ErrorKind.RATE_LIMITED:
                return
            grant = grant.place  # the probe has failed, whichever guard saw it first
        if grant is None:
            return
        if error is not None and _was_charged(error, charged, self.entered_at):
            charged.abandon(grant)
            return
        charged.failure(grant, now, verdict, now - self.entered_at, cooldown=cooldown, tag=tag)
        if error is not None and (verdict.harms_health or verdict.kind is ErrorKind.RATE_LIMITED):
            _note_charge(error, charged, now)

    def cancelled(
        self,
        now: float,
        tag: CallTag | None = None,
        *,
        quiet_since: float | None = None,
        felt: float | None = None,
    ) -> Verdict | None:
        """Give everything back, unless the attempt ran so long that it counts as hung.

        Args:
            now: Monotonic seconds.
            tag: Names the call in events.
            quiet_since: Since when nothing came, if something had come. Such an attempt has
                answered, unless it hung then.
            felt: What counts as slow or not of such an attempt.

        Returns:
            The verdict that was counted, or None.
        """
        since = self.entered_at if quiet_since is None else quiet_since
        if now - since < self.circuit.hung_after(now):
            if quiet_since is None:
                self.abandoned()
            else:
                self.succeeded(now, now - self.entered_at, felt)
            return None
        verdict = Verdict(ErrorKind.TRANSIENT, "hung")
        self.failed(None, now, verdict, tag=tag)
        return verdict

    def abandoned(self) -> None:
        """Give everything back without a verdict, unless it was reported already."""
        if self.is_reported:
            return
        self.is_reported = True
        if isinstance(self.grant, Place):
            self.circuit.abandon(self.grant)
        provider = self.circuit.provider
        if provider is not None and isinstance(self.provider_grant, Place):
            provider.abandon(self.provider_grant)


def admit(
    circuit: Circuit, now: float, lease: float = 0.0, *, last_resort: bool = False
) -> Permit | Block:
    """Return leave for one attempt on a key and its provider, or why there is none."""
    era, provider = circuit.slot, circuit.provider
    if era is not None and not held_places.get():
        # Both are closed: what the healthy path reads is enough.
        provider_era = None if provider is None else provider.slot
        if provider is None or provider_era is not None:
            circuit.touched_at = now
            return Permit(circuit, era, provider_era, now)
    grant = _ask(circuit, now, lease, last_resort=last_resort)
    if isinstance(grant, Block):
        return _shown(grant, provider, now)
    if provider is None:
        return Permit(circuit, grant, None, now)
    provider_grant = _ask(provider, now, lease, last_resort=last_resort)
    if isinstance(provider_grant, Block):
        if isinstance(grant, Place):
            circuit.abandon(grant)
        return provider_grant
    return Permit(circuit, grant, provider_grant, now)


def block_of(circuit: Circuit, now: float) -> Block | None:
    """Return why a key could not be called now, without taking anything."""
    if circuit.slot is not None:
        return None
    own, provider = circuit.block(now), circuit.provider
    if own is not None:
        return _shown(own, provider, now)
    return None if provider is None else provider.block(now)


def permit_of_inlined(circuit: Circuit, grant: Grant, entered_at: float) -> Permit:
    """Return the permit of a call that was admitted by the healthy path.

    The healthy path reads the target's slot alone, so the provider's part is found
    afterwards: its present closed period, if that had begun when the call entered, and if
    this circuit is the one that let it in: another state of the process may be in force.
    """
    provider = circuit.provider
    if provider is None or (isinstance(grant, Era) and grant.owner != circuit.serial):
        return Permit(circuit, grant, None, entered_at)
    era = provider.slot or provider.era
    return Permit(circuit, grant, era if era.started_at <= entered_at else None, entered_at)


def _shown(own: Block, provider: Circuit | None, now: float) -> Block:
    """Return the block to show of a blocked key and its provider: an operator's, else what ends last."""
    outer = None if provider is None or own.manual else provider.block(now)
    if outer is None:
        return own
    later = own.until is not None and outer.until is not None and outer.until > own.until
    return outer if outer.manual or later else own


def _ask(circuit: Circuit, now: float, lease: float, *, last_resort: bool) -> Leave | Block:
    held = held_places.get()
    if held:
        shared = circuit.share(held)
        if shared is not None:
            return Loan(shared)
    return circuit.admit_last_resort(now, lease) if last_resort else circuit.admit(now, lease)


def _was_charged(error: BaseException, circuit: Circuit, since: float) -> bool:
    """Return whether the error, or what it was raised from, was charged to the circuit since then."""
    seen: BaseException | None = error
    for _ in range(_DEEPEST_CAUSE):
        if seen is None:
            return False
        charges: dict[int, float] = getattr(seen, _CHARGES, {})
        if circuit.serial in charges and charges[circuit.serial] > since:
            return True
        seen = seen.__cause__
    return False


def _note_charge(error: BaseException, circuit: Circuit, now: float) -> None:
    try:
        charges = error.__dict__.setdefault(_CHARGES, {})
    except AttributeError:  # a class that hides its __dict__ is charged by every guard
        return
    if len(charges) >= _MOST_CHARGES:
        charges.clear()
    charges[circuit.serial] = now
