"""Applies the adaptive order of a policy to the calls of one binding, and emits its changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.circuit.outbox import CallTag
from resilient_llm._values import event_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resilient_llm._core.adaptive import AdaptiveOrder
    from resilient_llm._core.call.call import Candidate
    from resilient_llm._core.in_flight import Counts
    from resilient_llm._values.policy import Options


class Adapting:
    """Moves targets after a strategy has ordered them: the `Adjustment` of a binding.

    Attributes:
        order: The penalties, which all bindings of the policy share.
    """

    __slots__ = ("_circuits", "_counts", "_observers", "order")

    def __init__(
        self,
        order: AdaptiveOrder,
        candidates: Sequence[Candidate],
        options: Options,
        counts: Counts | None = None,
    ) -> None:
        self.order = order
        self._counts = counts
        self._circuits = {each.target.key: each.circuit for each in candidates}
        self._observers = options.observers

    def __call__(self, now: float) -> Callable[[Sequence[Candidate]], Sequence[Candidate]] | None:
        """Return what moves the ordered candidates of one group; None if nothing is to be moved.

        Called once at the start of a call. It computes the penalties if that is due.
        """
        if now >= self.order.due:
            self.look(now)
        return self.present

    @property
    def present(self) -> Callable[[Sequence[Candidate]], Sequence[Candidate]] | None:
        """The same without a computation."""
        order = self.order
        return order.placed_group if order.penalties else None

    def look(self, now: float) -> None:
        """Compute the penalties if that is due, and emit what has moved."""
        for key, order in self.order.computed(now):
            circuit = self._circuits[key]
            if self._counts is not None:
                self._counts.note(event_names.OrderChanged, key, {"order": order})
            # It comes of all calls of the policy, so it has the name of none.
            tag = CallTag("", self._observers)
            circuit.sink.emit(circuit.outbox, event_names.OrderChanged, now, tag, order=order)
