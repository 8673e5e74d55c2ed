"""`RouteExplanation`, the result of `chains.explain`: which chain a route chooses, and why."""

from dataclasses import dataclass
from typing import Any

from resilient_llm._values.exported import exported


@dataclass(frozen=True, slots=True)
class RouteExplanation:
    """The chain that a route chooses for a call, and why it passed over the rules before that.

    Attributes:
        rule: Index of the rule that chose the chain, from 0; None if that was ``otherwise``.
        chain: The chain as the rule was written, or ``otherwise``.
        reasons: For each rule that was passed over, in order, the first condition that did not
            hold and what was found instead. They hold no text of the call.
    """

    rule: int | None
    chain: Any
    reasons: tuple[str, ...]


exported(RouteExplanation, "resilient_llm.chains")
