"""What an error of the kind ``memory_pressure`` means, as ``configure(on_memory_pressure=…)`` says.

The one place of that decision. `Classifier` asks it about every error that it judges, and the call
flow about what a policy's own ``classify`` and ``reject`` say. All else follows from the verdict:
whether the same target is tried again, what is counted, what is benched, and what events say.

*skip*  The verdict stands: one error opens the circuit, for ``memory_pressure_cooldown`` seconds.
*warn*  It harms no health, so no circuit counts it, and the call moves on. ``retryable`` is False
        even if a rule says more: while the target is not benched, nothing else would end the
        retries.
*off*   It is ``transient`` with the same reason, status, scope and wait. ``retryable`` becomes
        what it is for that kind: False is the default of ``memory_pressure``, and says nothing.

To ask twice gives an equal verdict, so it does not matter who has asked before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict

if TYPE_CHECKING:
    from resilient_llm._values.settings import OnMemoryPressure


def as_configured(verdict: Verdict, mode: OnMemoryPressure) -> Verdict:
    """Return what a verdict means under this setting; only ``memory_pressure`` is changed.

    Args:
        verdict: What a rule, or a function of a policy, says.
        mode: The setting.
    """
    if verdict.kind is not ErrorKind.MEMORY_PRESSURE or mode == "skip":
        return verdict
    kind, harms = verdict.kind, False
    if mode == "off":
        kind, harms = ErrorKind.TRANSIENT, verdict.harms_health
    return Verdict(
        kind,
        verdict.reason,
        verdict.retry_after,
        verdict.status,
        verdict.scope,
        harms_health=harms,
        retryable=mode == "off",
    )
