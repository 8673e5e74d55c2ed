"""The strategy ``least_cost``: the cheapest target first, by input plus output price."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm.strategies.priority import Priority

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilient_llm.strategies._order import Candidate, OrderInputs


class LeastCost(Priority):
    """By price, ascending; unknown ones last, equal ones as declared.

    Prices change with the settings only, and then the order is made anew.
    """

    __slots__ = ()

    def __init__(self, candidates: Sequence[Candidate], inputs: OrderInputs) -> None:
        def cost(candidate: Candidate) -> tuple[bool, float]:
            price = inputs.price_of(candidate.target)
            return (price is None, 0.0 if price is None else sum(price))

        super().__init__(sorted(candidates, key=cost), inputs)
