"""The strategy ``priority``: lowest ``priority`` first, equal ones in declared order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm.strategies._order import NO_CANDIDATE, Candidate, Order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilient_llm._values.target import Target


def by_priority(targets: Sequence[Target]) -> tuple[Target, ...]:
    """Return the targets by their priority, stable."""
    return tuple(sorted(targets, key=lambda target: target.priority))


class Priority(Order):
    """A group in the order in which it was declared."""

    __slots__ = ()

    def first(self, now: float, number: int | None = None) -> Candidate:
        for candidate in self.candidates:
            circuit = candidate.circuit
            if circuit.slot is not None or (
                now >= circuit.shut_until and self.inputs.is_live(candidate, now)
            ):
                return candidate
        return NO_CANDIDATE

    def whole(self, first: Candidate, now: float, number: int | None) -> Sequence[Candidate]:
        return self.candidates
