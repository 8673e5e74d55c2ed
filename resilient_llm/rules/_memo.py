"""A cache of what was read from short texts, since a failing provider repeats the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

LONGEST_TEXT: Final = 160
"""Letters of the longest text whose result is kept."""
_MOST_RESULTS: Final = 64


def memoized(read: Callable[P, T]) -> Callable[P, T]:
    """Return a pure function of hashable arguments that keeps its last results.

    Texts of providers may repeat a prompt, so no text is kept: only its hash of 64 bits,
    which Python keys differently in every process, so that two texts cannot be constructed
    with the same hash.
    """
    results: dict[int, T] = {}

    def recalled(*args: P.args, **kwargs: P.kwargs) -> T:
        key = hash(args)
        try:
            return results[key]
        except KeyError:
            pass
        value = read(*args, **kwargs)
        if len(results) >= _MOST_RESULTS:
            results.clear()
        results[key] = value
        return value

    return recalled
