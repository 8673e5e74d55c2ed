"""After a shared bench one process at a time probes: asks for the place, and takes the answer.

A circuit gives the lease of a probe at once. Where others know its bench, the caller then asks the
store for the place, waits for at most `Telling.timeout`, and gives the lease back if another
process has the place. Without an answer it probes all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm._core.circuit.state import Block, HalfOpenState, Lease
from resilient_llm._core.sharing.question import Question

if TYPE_CHECKING:
    from resilient_llm._core.circuit.circuit import Circuit
    from resilient_llm._core.circuit.permit import Permit
    from resilient_llm._core.sharing.steps import PlaceAnswered

ASK_AGAIN: Final = 0.25
"""Seconds for which a process takes a place for taken by another one, unless that ends earlier."""


class PlacesAsked(Question):
    """The claims for the probes of one permit: of its key, of its provider, or of both."""

    __slots__ = ("_found", "_leases", "seconds")

    def __init__(self, leases: list[tuple[Circuit, Lease]], seconds: float) -> None:
        super().__init__()
        self._leases = leases
        self._found: dict[str, PlaceAnswered] = {}
        self.seconds = seconds
        """How long its caller waits."""

    def took(self, key: str, answer: PlaceAnswered) -> None:
        """Take in what became of one of the claims. Called on the thread of the store."""
        self._found[key] = answer
        if len(self._found) == len(self._leases):
            self.answered(self._found)

    def refusal(self, now: float) -> Block | None:
        """Return why the probe may not be made, or None."""
        for circuit, lease in self._leases:
            answer = self._found.get(circuit.key)
            if answer is not None and answer.outcome == "refused":
                until = now + min(answer.ends_in, ASK_AGAIN)
                circuit.taken_elsewhere(lease, until)
                return Block(circuit.key, "probes taken", until)
            # Another process may have found out meanwhile what this probe would.
            block = circuit.block_since(lease, now)
            if block is not None:
                return block
        return None


class PlaceOf:
    """Names one claim of several: the ticket of `PlaceAnswered`."""

    __slots__ = ("asked", "key")

    def __init__(self, asked: PlacesAsked, key: str) -> None:
        self.asked = asked
        self.key = key

    def answered(self, answer: PlaceAnswered) -> None:
        """Take in what became of it."""
        self.asked.took(self.key, answer)


def ask_places(permit: Permit, now: float) -> PlacesAsked | None:
    """Ask for the places that the probes of a permit need; None if they need none.

    Args:
        permit: Of an attempt that is not made yet.
        now: Monotonic seconds.
    """
    circuit, provider = permit.circuit, permit.circuit.provider
    given = [(circuit, permit.admission), (provider, permit.provider_admission)]
    wanted = [
        (each, lease)
        for each, lease in given
        if each is not None
        and isinstance(lease, Lease)
        and isinstance(lease.state, HalfOpenState)
        and not each.telling.is_down
        and each.telling.is_shared(each.key)
    ]
    if not wanted:
        return None
    asked = PlacesAsked(wanted, circuit.telling.timeout)
    for each, lease in wanted:
        lease.is_claimed = True  # before it is asked for: an interrupt gives it back
        each.telling.want(each.key, max(lease.ends_at - now, 0.001), PlaceOf(asked, each.key))
    return asked
