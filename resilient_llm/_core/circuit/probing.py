"""What a health probe changes in a circuit: a check in the background, not a call's own probe.

Decides from the state alone; the circuit does it, under its lock.

============== ======= ========= ================= ================ ==============
result         closed  half-open open by a trigger memory, dead key paused, manual
============== ======= ========= ================= ================ ==============
well, reachable                  half-opens
well, answers          closes    closes            closes
not well       counts  fails     lasts longer
============== ======= ========= ================= ================ ==============

*Reachable*  A server that lists its models may still fail to answer. So it ends a cooldown, and
             the next call finds out. Not if a half-open probe has failed since the circuit was
             closed: that call has shown more, and the cooldowns that grow must be kept.
*Answers*    A completion is what calls want, so it needs no further proof, of a new key either.
*Not well*   In the closed and the half-open state it is what a call's failure is, and is reported
             in the same way. It confirms a bench only for some time from the start of that: a
             probe that is wrong must not bench for good.
*Late*       A probe that began before the present state says nothing about it.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from resilient_llm._core.circuit.state import AT_ONCE
from resilient_llm._core.circuit.window import NEVER

if TYPE_CHECKING:
    from resilient_llm._core.circuit.state import CircuitState, OpenState


class Change(Enum):
    """What a circuit does."""

    HALF_OPENS = "half-opens"
    CLOSES = "closes"


def change_when_well(state: CircuitState, began_at: float, *, answers: bool) -> Change | None:
    """Return what a circuit does after a health probe that was well; None for nothing.

    Args:
        state: Its state.
        began_at: When the probe began, in monotonic seconds.
        answers: Whether it proves that calls are answered.
    """
    if state.manual is not None or state.pause is not None:
        return None
    present = state.opened or state.half
    # By ``>``: on a fake clock moments of the same time have an order, too.
    if present is None or present.since > began_at:
        return None
    if answers:
        return Change.CLOSES
    by_trigger = state.opened is not None and _is_by_trigger(state.opened)
    return Change.HALF_OPENS if by_trigger and not state.has_failed_probe else None


def held_until(state: CircuitState, began_at: float, until: float, longest: float) -> float:
    """Return until when an open state lasts after a health probe that was not well.

    Args:
        state: The state of the circuit.
        began_at: When the probe began, in monotonic seconds.
        until: Until when it confirms the bench.
        longest: Seconds from its start after which it confirms nothing.

    Returns:
        Monotonic seconds; minus infinity if the probe confirms nothing.
    """
    opened = state.opened
    if (
        opened is None
        or state.manual is not None
        or state.pause is not None
        or opened.since > began_at
        or not _is_by_trigger(opened)
    ):
        return NEVER
    return min(until, opened.since + longest)


def _is_by_trigger(opened: OpenState) -> bool:
    return opened.kind not in AT_ONCE
