"""What came of a health probe, and what that does to the circuits of its key.

See _core/circuit/probing.py for what a circuit does. A probe of a target asks its provider, too. So
one that is well is reported to both circuits, and one that is not to the circuit that its error is
charged to, as with a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm._core.circuit.permit import admit, charged_circuit
from resilient_llm._core.circuit.state import Block
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict

if TYPE_CHECKING:
    from resilient_llm._core.circuit.circuit import Circuit

_FAILED: Final = Verdict(ErrorKind.TRANSIENT, "probe")
_TIMED_OUT: Final = Verdict(ErrorKind.TRANSIENT, "timeout")


class Judgement(NamedTuple):
    """What came of a probe.

    Attributes:
        ok: Whether the key is well; None if that is not known, because the probe is broken.
        verdict: What is charged if it is not well, else None.
    """

    ok: bool | None
    verdict: Verdict | None = None


WELL: Final = Judgement(True)
BROKEN: Final = Judgement(None)
TIMED_OUT: Final = Judgement(False, _TIMED_OUT)


def judge_value(value: Any) -> Judgement:
    """Return what it means that a probe returned a value."""
    if value is None or value is True:
        return WELL
    return Judgement(False, _FAILED) if value is False else BROKEN


def judge_error(verdict: Verdict) -> Judgement:
    """Return what it means that a probe raised an error of this verdict."""
    if verdict.harms_health or verdict.kind in (
        ErrorKind.RATE_LIMITED,
        ErrorKind.MEMORY_PRESSURE,  # the key is not well, even if that is only told
    ):
        return Judgement(False, verdict)
    return Judgement(False, _FAILED) if verdict.kind is ErrorKind.UNKNOWN else BROKEN


def report_well(circuit: Circuit, now: float, began_at: float, *, answers: bool) -> None:
    """Report a probe that was well.

    Args:
        circuit: The circuit of its key.
        now: Monotonic seconds.
        began_at: When it began.
        answers: Whether it proves that calls are answered.
    """
    try:
        circuit.probed_well(now, began_at, answers=answers)
    finally:  # an observer may interrupt, but not between two circuits
        if circuit.provider is not None:
            circuit.provider.probed_well(now, began_at, answers=answers)


def report_not_well(
    circuit: Circuit,
    error: BaseException | None,
    now: float,
    began_at: float,
    verdict: Verdict,
    until: float,
) -> None:
    """Report a probe that was not well; `breaker(key).record` reports an error in the same way.

    Args:
        circuit: The circuit of its key.
        error: What it raised, or None.
        now: Monotonic seconds.
        began_at: When it began.
        verdict: What is charged.
        until: Until when it confirms a bench.
    """
    charged = charged_circuit(circuit, verdict)
    if not charged.is_charged(verdict):
        return
    if charged.hold_open(now, began_at, until):
        return
    permit = admit(circuit, now)
    if isinstance(permit, Block):
        # Nothing is admitted now. The wait that a rate limit names has just begun, though.
        charged.extend_pause(now, verdict, began_at, begun_by=began_at)
        return
    permit.entered_at = began_at
    permit.give_back_newer()
    permit.failed(error, now, verdict)
