"""Health probes of the present state: what they begin with, what they change, what came of them.

Owns the last result of each key, of each state of the process.
"""

from __future__ import annotations

import contextvars
import weakref
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm._core.health_probe import report_not_well, report_well
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from resilient_llm._core.circuit.circuit import Circuit
    from resilient_llm._core.health_probe import Judgement
    from resilient_llm._runtime.registry import Registry


class Begun(NamedTuple):
    """A probe that has begun.

    Attributes:
        circuit: The circuit of its key.
        registry: The circuits of the state of the process in which it began.
        at: When it began, in monotonic seconds.
    """

    circuit: Circuit
    registry: Registry
    at: float

    def changes(
        self, judgement: Judgement, error: BaseException | None, *, answers: bool, confirms: float
    ) -> None:
        """Let the circuits of its key react to what came of it.

        Args:
            judgement: What came of it.
            error: What it raised, or None.
            answers: Whether a probe that is well proves that calls are answered.
            confirms: Seconds for which one that is not well confirms a bench.
        """
        if runtime.registry is not self.registry:
            return  # what happens inside an `isolated()` is none of its business, nor the reverse
        # In a context without guards, which would lend their leases.
        contextvars.Context().run(
            _report, self.circuit, self.at, judgement, error, answers, confirms
        )


def _report(
    circuit: Circuit,
    began_at: float,
    judgement: Judgement,
    error: BaseException | None,
    answers: bool,
    confirms: float,
) -> None:
    now = runtime.clock()
    if judgement.ok:
        report_well(circuit, now, began_at, answers=answers)
    elif judgement.verdict is not None:
        report_not_well(circuit, error, now, began_at, judgement.verdict, now + confirms)


def begin(key: str, registry: Registry) -> Begun:
    """Begin a probe of a normalised key, in the state with these circuits."""
    return Begun(registry.circuit(key), registry, runtime.clock())


def has_traffic(key: str, registry: Registry, seconds: float) -> bool:
    """Return whether a call of the key has succeeded in the last seconds."""
    return runtime.clock() - registry.circuit(key).last_success() < seconds


class LastProbe(NamedTuple):
    """What came of the last probe of a key.

    Attributes:
        ok: Whether the key was well; None if the probe is broken.
        reason: A short word; empty if it was well.
        seconds: How long it took.
        at: When it ended: monotonic seconds here, a moment where it is shown.
    """

    ok: bool | None
    reason: str
    seconds: float
    at: Any


_last: Final[weakref.WeakKeyDictionary[Registry, dict[str, LastProbe]]] = (
    weakref.WeakKeyDictionary()
)
"""``{circuits of a state: {key: what came of its last probe}}``"""


def note_last(begun: Begun, last: LastProbe) -> None:
    """Note what came of a probe, for those who look at the keys."""
    with runtime.lock:
        _last.setdefault(begun.registry, {})[begun.circuit.key] = last


def last_probes() -> dict[str, LastProbe]:
    """Return ``{key: what came of its last probe}`` in the present state."""
    with runtime.lock:
        return dict(_last.get(runtime.registry, {}))
