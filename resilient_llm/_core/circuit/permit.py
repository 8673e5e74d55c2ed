"""The permit for one attempt: an admission by the target's circuit and one by its provider's.

A permit is reported once: succeeded, failed or abandoned. An error is charged to one of the two
circuits, by its scope, and once per key each time it is raised: the permit notes on the error
when which key was charged, and an outer guard that was entered before that moment does not
charge it again.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from resilient_llm._core.circuit.state import Block, BorrowedLease, Lease
from resilient_llm._core.circuit.window import Generation
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict

if TYPE_CHECKING:
    from resilient_llm._core.circuit.circuit import CallTag, Circuit
    from resilient_llm._core.circuit.state import Admission


_CHARGES = "_resilient_llm_charged"
_DEEPEST_CAUSE = 16
_MOST_CHARGES = 32
"""Charges noted on one error: one that is raised again and again must not collect more."""

held_leases: ContextVar[tuple[Lease, ...]] = ContextVar("resilient_llm_held_leases", default=())
"""Leases that guards around this code hold. A guard inside another on the same key borrows the
outer guard's lease; it would be rejected because of that lease otherwise."""


def push_leases(leases: tuple[Lease, ...]) -> None:
    """Let guards inside this code borrow these leases."""
    if leases:
        held_leases.set(held_leases.get() + leases)


def pop_leases(leases: tuple[Lease, ...]) -> None:
    """End the lending of these leases, in whatever order and context guards are left."""
    if leases:
        held_leases.set(tuple(lease for lease in held_leases.get() if lease not in leases))


class Permit:
    """The permit for one attempt. Not thread-safe by itself; its circuits are."""

    __slots__ = ("admission", "circuit", "entered_at", "is_reported", "provider_admission")

    def __init__(
        self,
        circuit: Circuit,
        admission: Admission | None,
        provider_admission: Admission | None,
        entered_at: float,
    ) -> None:
        self.circuit = circuit
        self.admission = admission
        self.provider_admission = provider_admission
        self.entered_at = entered_at
        self.is_reported = False

    @property
    def leases(self) -> tuple[Lease, ...]:
        """The leases among the admissions; none for a healthy key."""
        own, outer = self.admission, self.provider_admission
        if not isinstance(own, Lease):
            return (outer,) if isinstance(outer, Lease) else ()
        return (own, outer) if isinstance(outer, Lease) else (own,)

    def charged(self, verdict: Verdict) -> tuple[Circuit, Admission | None]:
        """Return the circuit that a failure of this verdict is charged to, with its admission."""
        provider = self.circuit.provider
        if provider is not None and verdict.scope == "provider":
            return provider, self.provider_admission
        return self.circuit, self.admission

    def answered(self) -> tuple[int, int]:
        """Return figures of the key and of its provider that grow with every success."""
        provider = self.circuit.provider
        return self.circuit.answered(), 0 if provider is None else provider.answered()

    def succeeded(self, now: float, seconds: float, response_time: float | None = None) -> None:
        """Count a success and settle the leases of both circuits, except borrowed ones.

        Args:
            now: Monotonic seconds.
            seconds: How long the attempt took.
            response_time: What is compared with ``slow_call``, if that is not ``seconds``: for a
                stream the seconds to its first content.
        """
        self.is_reported = True
        response_time = seconds if response_time is None else response_time
        provider = self.circuit.provider
        admission, outer = self.admission, self.provider_admission
        counted = True
        if isinstance(admission, Lease) or (
            isinstance(admission, Generation)
            and not admission.answered(now, seconds, response_time)
        ):
            counted = self.circuit.success(admission, now, seconds, response_time=response_time)
        if provider is None or outer is None or isinstance(outer, BorrowedLease):
            return
        if isinstance(outer, Lease):
            provider.success(outer, now, seconds, response_time=response_time, is_targets=True)
        elif counted:
            provider.child_answered(outer, now, response_time)

    def failed(
        self,
        error: BaseException | None,
        now: float,
        verdict: Verdict,
        *,
        cooldown: float | None = None,
        tag: CallTag | None = None,
    ) -> None:
        """Charge a failure to one circuit and give the other's lease back."""
        self.is_reported = True
        charged, admission = self.charged(verdict)
        other = self.provider_admission if charged is self.circuit else self.admission
        other_circuit = self.circuit.provider if charged is self.circuit else self.circuit
        if isinstance(other, Lease) and other_circuit is not None:
            other_circuit.abandon(other)
        if isinstance(admission, BorrowedLease):
            if not verdict.harms_health and verdict.kind is not ErrorKind.RATE_LIMITED:
                return
            admission = admission.lease  # the probe has failed, whichever guard saw it first
        if admission is None:
            return
        if error is not None and _was_charged(error, charged, self.entered_at):
            charged.abandon(admission)
            return
        charged.failure(admission, now, verdict, now - self.entered_at, cooldown=cooldown, tag=tag)
        if error is not None and (verdict.harms_health or verdict.kind is ErrorKind.RATE_LIMITED):
            _note_charge(error, charged, now)

    def cancelled(
        self,
        now: float,
        tag: CallTag | None = None,
        *,
        quiet_since: float | None = None,
        response_time: float | None = None,
    ) -> Verdict | None:
        """Give everything back, unless the attempt ran so long that it counts as hung.

        Args:
            now: Monotonic seconds.
            tag: Names the call in events.
            quiet_since: Since when a stream that had content sent nothing. Such an attempt has
                answered, unless it hung after that.
            response_time: Seconds to the first content of such a stream.

        Returns:
            The verdict that was counted, or None.
        """
        since = self.entered_at if quiet_since is None else quiet_since
        if now - since < self.circuit.hung_after(now):
            if quiet_since is None:
                self.abandoned()
            else:
                self.succeeded(now, now - self.entered_at, response_time)
            return None
        verdict = Verdict(ErrorKind.TRANSIENT, "hung")
        self.failed(None, now, verdict, tag=tag)
        return verdict

    def abandoned(self) -> None:
        """Give everything back without a verdict, unless it was reported already."""
        if self.is_reported:
            return
        self.is_reported = True
        if isinstance(self.admission, Lease):
            self.circuit.abandon(self.admission)
        provider = self.circuit.provider
        if provider is not None and isinstance(self.provider_admission, Lease):
            provider.abandon(self.provider_admission)


def admit(
    circuit: Circuit, now: float, lease_seconds: float = 0.0, *, last_resort: bool = False
) -> Permit | Block:
    """Return a permit for one attempt on a key and its provider, or why there is none."""
    generation, provider = circuit.slot, circuit.provider
    if generation is not None and not held_leases.get():
        # Both are closed: what the healthy path reads is enough.
        provider_generation = None if provider is None else provider.slot
        if provider is None or provider_generation is not None:
            circuit.touched_at = now
            return Permit(circuit, generation, provider_generation, now)
    admission = _ask(circuit, now, lease_seconds, last_resort=last_resort)
    if isinstance(admission, Block):
        return _shown(admission, provider, now)
    if provider is None:
        return Permit(circuit, admission, None, now)
    provider_admission = _ask(provider, now, lease_seconds, last_resort=last_resort)
    if isinstance(provider_admission, Block):
        if isinstance(admission, Lease):
            circuit.abandon(admission)
        return provider_admission
    return Permit(circuit, admission, provider_admission, now)


def block_of(circuit: Circuit, now: float) -> Block | None:
    """Return why a key could not be called now, without taking anything."""
    if circuit.slot is not None:
        return None
    own, provider = circuit.block(now), circuit.provider
    if own is not None:
        return _shown(own, provider, now)
    return None if provider is None else provider.block(now)


def permit_of_inlined(circuit: Circuit, admission: Admission, entered_at: float) -> Permit:
    """Return the permit of a call that was admitted by the healthy path.

    The healthy path reads the target's slot alone, so the provider's part is found
    afterwards: its present generation, if that had begun when the call entered, and if this
    circuit is the one that admitted the call, since the state of the process may have changed.
    """
    provider = circuit.provider
    if provider is None or (
        isinstance(admission, Generation) and admission.owner != circuit.serial
    ):
        return Permit(circuit, admission, None, entered_at)
    generation = provider.slot or provider.generation
    return Permit(
        circuit, admission, generation if generation.started_at <= entered_at else None, entered_at
    )


def _shown(own: Block, provider: Circuit | None, now: float) -> Block:
    """Return the block to show for a blocked key and its provider.

    An operator's block comes first, else the one that ends last.
    """
    outer = None if provider is None or own.manual else provider.block(now)
    if outer is None:
        return own
    later = own.until is not None and outer.until is not None and outer.until > own.until
    return outer if outer.manual or later else own


def _ask(
    circuit: Circuit, now: float, lease_seconds: float, *, last_resort: bool
) -> Admission | Block:
    held = held_leases.get()
    if held:
        shared = circuit.share(held)
        if shared is not None:
            return BorrowedLease(shared)
    return (
        circuit.admit_last_resort(now, lease_seconds)
        if last_resort
        else circuit.admit(now, lease_seconds)
    )


def _was_charged(error: BaseException, circuit: Circuit, since: float) -> bool:
    """Return whether the error or one of its causes was charged to the circuit since then."""
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
