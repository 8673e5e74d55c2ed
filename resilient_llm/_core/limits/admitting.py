"""`admit_within`: leave for one attempt that passes its breakers and its limits, in this order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.circuit.permit import Permit, admit
from resilient_llm._core.circuit.state import Block

if TYPE_CHECKING:
    from resilient_llm._core.circuit.circuit import Circuit
    from resilient_llm._core.limits.held import TargetLimits, Ticket
    from resilient_llm._core.spending.estimates import Estimate


def admit_within(
    limits: TargetLimits | None,
    circuit: Circuit,
    now: float,
    lease_seconds: float = 0.0,
    *,
    estimate: Estimate | None = None,
    last_resort: bool = False,
    ticket: Ticket | None = None,
) -> Permit | Block:
    """Return a permit for an attempt that breakers and limits let pass, or why there is none.

    Args:
        limits: The limits of the target, if it has any.
        circuit: Its circuit.
        now: Monotonic seconds.
        lease_seconds: Seconds that the attempt may take, or 0 if its policy sets no limit.
        estimate: Of what it will use; None if token limits do not cover it.
        last_resort: Whether an automatic bench does not block it.
        ticket: One whose turn has come at a limit; it is given back with a refusal.
    """
    admitted: Permit | Block | None = None
    try:
        admitted = admit(circuit, now, lease_seconds, last_resort=last_resort)
        if limits is None or isinstance(admitted, Block):
            return admitted
        permit, admitted = admitted, None
        try:
            held = limits.take(now, estimate, ticket)
            if isinstance(held, Block):
                return held
            permit.held, admitted = held, permit
            return permit
        finally:
            if admitted is None:
                permit.withdrawn()
    finally:
        if ticket is not None and not isinstance(admitted, Permit):
            ticket.give_back()
