"""The strategy ``round_robin``: each live target is first in turn.

Which one is decided by the number of earlier calls of the policy and by nothing else. That number
grows by one per call, whatever becomes of the call, so no failure changes the order of another
call, and two threads never take the same one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.strategies._order import (
    NO_CANDIDATE,
    Candidate,
    Order,
    OrderInputs,
    is_blocked,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_NEVER: Final = float("-inf")
_FOREVER: Final = float("inf")


class RoundRobin(Order):
    """The live targets as declared, rotated by the number of earlier calls, then the others."""

    __slots__ = ("_changes", "_seen", "_step")

    rotates = True

    def __init__(self, candidates: Sequence[Candidate], inputs: OrderInputs) -> None:
        super().__init__(candidates, inputs)
        self._step = inputs.step
        self._changes = inputs.changes
        self._seen: tuple[object, float, tuple[Candidate, ...]] = (None, _NEVER, ())
        """``(latest change then, until when, the live candidates)`` of the last look."""

    def first(self, now: float, number: int | None = None) -> Candidate:
        latest, until, live = self._seen
        if latest is not self._changes.latest or now >= until:
            live = self._look(now)
            if not live:
                return NO_CANDIDATE
        if number is None:
            number = self._step()
        return live[number % len(live)]

    def whole(self, first: Candidate, now: float, number: int | None) -> Sequence[Candidate]:
        candidates, live = self.candidates, {first, *self._live(now)}
        # From the declared place of its first, and not from its place among the live ones: it may
        # have been taken by another call meanwhile.
        place = 0 if first is NO_CANDIDATE else candidates.index(first)
        order = [each for each in (*candidates[place:], *candidates[:place]) if each in live]
        if first is NO_CANDIDATE and order:
            turned = (number or 0) % len(order)
            order = [*order[turned:], *order[:turned]]
        return [*order, *(each for each in candidates if each not in live)]

    def _look(self, now: float) -> tuple[Candidate, ...]:
        """Return the live candidates; keep them until that may change."""
        latest = self._changes.latest  # first: what changes during the look ends what it found
        live = self._live(now)
        until = _FOREVER if live else _NEVER
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
