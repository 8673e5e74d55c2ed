"""What was made of a short text before: while a provider is down, it says the same to every call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

STOCK_PHRASE: Final = 160
"""Letters of the longest text that is worth remembering."""
MOST_PHRASES: Final = 64


def remembering(read: Callable[P, T]) -> Callable[P, T]:
    """Return a pure function of hashable arguments with its last results at hand.

    Texts of providers may echo a prompt, so none is kept: only its hash, 64 bits that are
    keyed anew in every process, so that nobody can make two texts fall together.
    """
    known: dict[int, T] = {}

    def recalled(*args: P.args, **kwargs: P.kwargs) -> T:
        key = hash(args)
        try:
            return known[key]
        except KeyError:
            pass
        value = read(*args, **kwargs)
        if len(known) >= MOST_PHRASES:
            known.clear()
        known[key] = value
        return value

    return recalled
