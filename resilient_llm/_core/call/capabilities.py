"""Which targets can take a call: what it needs against what a target supports and holds.

Pure: what a call needs was found out before, and a target's own options never change. Health is
another matter; a target that can take a call may be benched.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from resilient_llm._values.target import Target

WINDOW: Final = "context_window"
"""Reason why a target is skipped whose context window is too small, and what it then lacks."""


class Demand(NamedTuple):
    """What one call needs of its target.

    Attributes:
        words: What the model must support; empty if nothing is needed.
        tokens: Estimate of the call's input; None if no window is checked.
    """

    words: frozenset[str]
    tokens: int | None


class Lack(NamedTuple):
    """Why a target cannot take a call.

    Attributes:
        reason: As events and errors have it.
        words: What the target lacks, sorted.
        tokens: What its context window is too small for; None if that is not the reason.
    """

    reason: str
    words: tuple[str, ...]
    tokens: int | None = None


NO_LACKS: Final[Mapping[str, Lack]] = MappingProxyType({})
"""Of a call that every target can take."""


def lack_of(target: Target, demand: Demand, output: int) -> Lack | None:
    """Return why a target cannot take a call, or None if it can, as far as that is known.

    Args:
        target: The target. One that does not say what it supports fits every call.
        demand: What the call needs.
        output: Tokens that the call asks for as the longest answer of this target; 0 if unknown.
    """
    if target.supports is not None and not demand.words <= target.supports:
        missing = tuple(sorted(demand.words - target.supports))
        return Lack(f"lacks {', '.join(missing)}", missing)
    window = target.context_window
    if demand.tokens is None or window is None:
        return None
    wanted = demand.tokens + output
    return Lack(WINDOW, (WINDOW,), wanted) if window < wanted else None


def lacks_of(
    targets: Iterable[Target], demand: Demand, output: Callable[[Target], int]
) -> Mapping[str, Lack]:
    """Return ``{key: why that target cannot take a call}``, empty if all can.

    Args:
        targets: The targets of the call.
        demand: What the call needs.
        output: Gives the tokens that the call asks for as the longest answer of a target; asked
            only where a context window is known.
    """
    if not demand.words and demand.tokens is None:
        return NO_LACKS
    found: dict[str, Lack] = {}
    for target in targets:
        asked = demand.tokens is not None and target.context_window is not None
        lack = lack_of(target, demand, output(target) if asked else 0)
        if lack is not None:
            found[target.key] = lack
    return found
