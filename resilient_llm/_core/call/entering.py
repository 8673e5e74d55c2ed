"""What an entry of a guard asks of the store: the place of its probe, and one request.

A guard is entered by itself, without a call flow, so this is what `asking` is for attempts. Its
caller waits once for both answers. What was taken is given back with the permit, as all that it
holds, until the answer is taken; from then on it stays taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.call.spending import block_for
from resilient_llm._core.circuit.claims import ask_places
from resilient_llm._core.sharing.question import AllOf
from resilient_llm._core.spending.asking import Asked

if TYPE_CHECKING:
    from resilient_llm._core.circuit.claims import PlacesAsked
    from resilient_llm._core.circuit.permit import Permit
    from resilient_llm._core.circuit.state import Block
    from resilient_llm._core.limits.held import TargetLimits
    from resilient_llm._core.sharing.question import Question
    from resilient_llm._core.spending.entries import Entries


class EntryAsked:
    """What one entry waits for.

    Attributes:
        question: Is answered when all is.
        seconds: How long its caller waits.
    """

    __slots__ = ("_key", "_places", "_request", "question", "seconds")

    def __init__(
        self, key: str, places: PlacesAsked | None, request: tuple[Entries, Asked] | None
    ) -> None:
        self._key = key
        self._places = places
        self._request = request
        given: list[PlacesAsked | Asked] = [] if places is None else [places]
        if request is not None:
            given.append(request[1])
        self.question: Question = given[0] if len(given) == 1 else AllOf(*given)
        self.seconds = max(each.seconds for each in given)

    def block(self, now: float) -> Block | None:
        """Take the answers; return why the guard may not be entered, or None.

        Args:
            now: Monotonic seconds.
        """
        block = None if self._places is None else self._places.refusal(now)
        if block is not None or self._request is None:
            return block
        entries, asked = self._request
        block = block_for(self._key, entries.taken(asked), now, asked.takes)
        if block is None:
            asked.keep()
        return block


def ask_to_enter(
    permit: Permit, limits: TargetLimits | None, entries: Entries | None, now: float
) -> EntryAsked | Block | None:
    """Ask the store about an entry that breakers and limits of this process have admitted.

    Args:
        permit: Of the entry. What is asked for is among what it holds, so `Permit.withdrawn` gives
            it back.
        limits: That it has passed, or None.
        entries: Takes from those that are shared; None if there is no store.
        now: Monotonic seconds.

    Returns:
        What its caller waits for, None if there is nothing, or why the guard may not be entered.
    """
    request: tuple[Entries, Asked] | None = None
    takes = () if limits is None else limits.shared_takes(None)
    if takes and entries is not None and permit.held is not None:
        asked = entries.asked(takes)
        permit.held.entry = asked  # before it is asked: an interrupt gives it back
        found = entries.take(asked)
        if isinstance(found, Asked):
            request = entries, found
        elif found is not None:
            return block_for(permit.circuit.key, found, now, takes)
    places = ask_places(permit, now)
    if request is None and places is None:
        return None
    return EntryAsked(permit.circuit.key, places, request)
