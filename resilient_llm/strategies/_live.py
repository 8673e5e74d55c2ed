"""What strategies share that choose among the live targets: which these are, kept until it changes.

A healthy call looks at no circuit. It compares what was the latest change of any circuit of the
process, and the moment until which what was found holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.strategies._order import Candidate, Order, OrderInputs, is_blocked

if TYPE_CHECKING:
    from collections.abc import Sequence

_NEVER: Final = float("-inf")
_FOREVER: Final = float("inf")


class LiveOrder(Order):
    """The order of one priority group that keeps which of its candidates are live."""

    __slots__ = ("_changes", "_seen", "_step")

    rotates = True

    def __init__(self, candidates: Sequence[Candidate], inputs: OrderInputs) -> None:
        super().__init__(candidates, inputs)
        self._step = inputs.step
        self._changes = inputs.changes
        self._seen: tuple[object, float, tuple[Candidate, ...]] = (None, _NEVER, ())
        """``(latest change then, until when, the live candidates)`` of the last look."""

    def _look(self, now: float) -> tuple[Candidate, ...]:
        """Return the live candidates; keep them until that may change."""
        latest = self._changes.latest  # first: what changes during the look ends what it found
        live = self._live(now)
        until = _FOREVER if live and not self.inputs.has_limits else _NEVER
        for candidate in self.candidates:
            circuit = candidate.circuit
            if is_blocked(candidate, now):
                until = min(until, circuit.shut_until)
            elif circuit.slot is None and not circuit.is_at_rest:
                until = _NEVER  # half-open: its place comes and goes unannounced
        self._seen = (latest, until, live)
        return live

    def _live(self, now: float) -> tuple[Candidate, ...]:
        is_live = self.inputs.is_live
        return tuple([each for each in self.candidates if is_live(each, now)])
