"""Finds what a decorated generator reads from, to tell how it ended.

Such a generator ends when its code returns: it has read its source to the end, or it has enough,
for example after a stop sequence. The items look alike, but in the second case the source still
waits for somebody to go on. The source is found among the variables of the generator when it
gives its first items, through helpers that are generators themselves.
"""

from __future__ import annotations

import gc
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final

from resilient_llm._drive.results import holder_of, kind_of

_DEEPEST: Final = 4
"""Generators of the user's own, between the decorated one and the SDK's stream."""


def sources_of(generator: object) -> list[Any]:
    """Return the iterators that a suspended generator reads from; none if it makes its items."""
    found: list[Any] = [generator]
    _collect(generator, found, _DEEPEST)
    return found[1:]


def _collect(generator: object, found: list[Any], most: int) -> None:
    inside = gc.get_referents(generator)
    # First the SDK's objects: what their own generators read from tells nothing, since a protocol
    # may end before the connection does.
    for each in inside:
        if _passes_on(each):
            if most:
                _collect(each, found, most - 1)
            continue
        kind = None if _is_generator(each) else kind_of(each)
        if kind is not None and not kind.is_manager:
            holder = holder_of(each, "__anext__" if kind.async_items else "__next__")
            found.append(each if holder is None else getattr(*holder))
    for each in inside:
        if _is_generator(each) and not any(each is one for one in found):
            found.append(each)
            if most:
                _collect(each, found, most - 1)


def is_left_early(sources: list[Any]) -> bool:
    """Return whether a generator that has returned did not read its sources to their ends.

    An iterator that is no generator does not show whether it is at its end, and counts as read.
    """
    return not sources or any(_is_generator(each) and _is_suspended(each) for each in sources)


def _is_generator(value: object) -> bool:
    return type(value) is GeneratorType or type(value) is AsyncGeneratorType


def _passes_on(value: object) -> bool:
    """Return whether it is an iterator of Python over others, such as ``enumerate(…)``."""
    cls = type(value)
    return (
        cls.__module__ in ("builtins", "itertools")
        and hasattr(cls, "__next__")
        and not _is_generator(value)
    )


def _is_suspended(generator: Any) -> bool:
    frame: object = getattr(generator, "gi_frame", None) or getattr(generator, "ag_frame", None)
    return frame is not None
