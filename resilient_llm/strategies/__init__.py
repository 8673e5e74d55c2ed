"""Strategies order the targets of a chain for one call, one file each.

To add one:

1. A file here with a class that inherits from `Order`. It is made once per binding for each group
   of equal `Target.priority`, with the candidates of the group as declared and with `OrderInputs`,
   which has all that it may know: it imports nothing of this package but values.
2. Its name in `BUILT_IN` below and in ``STRATEGIES`` of _values/policy.py.
3. A simulation in tests/strategies that shows its distribution, a row in benchmarks/strategies.py
   and one in docs/how-to/order-targets.md.

`Order.first` is on the path of every healthy call and should cost less than the call itself;
`Order.whole` is asked for only when the first target did not answer, or is not live. Both return
candidates of the group. No strategy keeps what a failure would change: the failure of one call
must not change the order of another. What rotates does so by the number of calls.

`sticky` stands apart, since it needs the arguments of a call: `resilient_llm._binding.ordering`
asks it, and functions of users, for a whole order at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.strategies._order import (
    NO_CANDIDATE,
    NOT_DRAWN,
    Adjustment,
    Candidate,
    Order,
    OrderInputs,
    is_blocked,
)
from resilient_llm.strategies.least_busy import LeastBusy
from resilient_llm.strategies.least_cost import LeastCost
from resilient_llm.strategies.least_latency import LeastLatency
from resilient_llm.strategies.priority import Priority, by_priority
from resilient_llm.strategies.random import Shuffled
from resilient_llm.strategies.round_robin import RoundRobin
from resilient_llm.strategies.sticky import StickyOrder, hash_of_key, sticky
from resilient_llm.strategies.weighted import Weighted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Strategy = Callable[[Sequence[Candidate], OrderInputs], Order]

__all__ = [
    "BUILT_IN",
    "NOT_DRAWN",
    "NO_CANDIDATE",
    "Adjustment",
    "Candidate",
    "Order",
    "OrderInputs",
    "StickyOrder",
    "by_priority",
    "hash_of_key",
    "is_blocked",
    "sticky",
]

BUILT_IN: Final[dict[str, Strategy]] = {
    "priority": Priority,
    "round_robin": RoundRobin,
    "random": Shuffled,
    "weighted": Weighted,
    "least_cost": LeastCost,
    "least_latency": LeastLatency,
    "least_busy": LeastBusy,
}
"""``{name: what makes the order of one priority group}``"""
