"""Finds what an iterator of the user's reads from, to tell how it ended.

A decorated generator ends when its code returns: it has read its source to the end, or it has
enough, for example after a stop sequence. The items look alike, but in the second case the source
still waits for somebody to go on. The source is found among the variables of the generator when
it gives its first items, through helpers that are iterators themselves: generators, objects that
keep an iterator in an attribute, and those of `itertools`.

Of the iterators only generators and those of containers show whether they are at their end. So a
decorated generator that reads from anything else has ended where it returns, and so has one that
reads from a list of its own: that cannot be cut short.
"""

from __future__ import annotations

import gc
import itertools
from operator import length_hint
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._drive.results import holder_of, kind_of

if TYPE_CHECKING:
    from types import FrameType

_DEEPEST: Final = 6
"""Iterators of the user's own, between the outermost one and the SDK's stream."""
_MOST_ATTRIBUTES: Final = 64
_BUILT_IN: Final = ("builtins", "itertools", "collections", "_collections")
_LETTING_GO: Final = (type(iter([])), type(iter(())))
_CLOSED_AT: Final = ("YIELD_VALUE", "RESUME", "CLEANUP_THROW")
"""Where a frame ends into which ``close`` throws its `GeneratorExit`. A ``finally`` hides it."""
_STOPPING: Final = (itertools.islice, itertools.takewhile)
"""Iterators that end before what they read from does."""


class Sources:
    """What an iterator reads from.

    Attributes:
        found: ``[(iterator, its frame)]`` of those that show whether they are at their end; the
            frame is None of those that are no generators.
        may_stop: Whether code of the caller's can end the stream before its source ends.
    """

    __slots__ = ("found", "may_stop")

    def __init__(self, iterator: object, *, is_decorated: bool) -> None:
        """Look for the sources.

        Args:
            iterator: Iterator of a stream: a generator that has given an item, or another one.
            is_decorated: Whether it is a decorated generator. What it reads from a container
                cannot be cut short.
        """
        self.found = [
            (each, _frame_of(each)) for each in sources_of(iterator, containers=not is_decorated)
        ]
        self.may_stop = is_decorated or any(
            type(each) in _STOPPING for each in _built_in_inside(iterator, _DEEPEST)
        )

    @property
    def are_left_early(self) -> bool:
        """Whether the iterator has ended, and did not read its sources to their ends."""
        if not self.found:
            return self.may_stop
        # A ``zip`` with numbers ends with the stream, and leaves the rest of the numbers.
        generators = [each for each in self.found if _is_generator(each[0])]
        return any(_has_more(*each) for each in generators or self.found)


def sources_of(iterator: object, *, containers: bool = False) -> list[Any]:
    """Return the generators that an iterator reads from, and the containers of stream objects.

    Args:
        iterator: A generator, an iterator of Python's own, or one of a class.
        containers: Whether the iterators of all other containers are wanted, too.
    """
    found: list[Any] = [iterator]
    _collect(_inside(iterator), found, _DEEPEST, containers=containers)
    return found[1:]


def _collect(inside: list[Any], found: list[Any], most: int, *, containers: bool) -> None:
    if not most:
        return
    # First the SDK's objects: what their own generators read from tells nothing, since a protocol
    # may end before the connection does.
    for each in inside:
        if _is_generator(each) or any(each is one for one in found):
            continue
        if _passes_on(each):
            if containers and hasattr(each, "__length_hint__"):
                found.append(each)
            else:
                _collect(_inside(each), found, most - 1, containers=containers)
            continue
        kind = kind_of(each)
        if kind is None or kind.is_manager:
            continue
        holder = holder_of(each, "__anext__" if kind.async_items else "__next__")
        held = None if holder is None else getattr(*holder)
        if _is_generator(held):
            found.append(held)
        else:
            within = _inside(each) if held is None else [held]
            _collect(within, found, most - 1, containers=True)
    for each in inside:
        if _is_generator(each) and not any(each is one for one in found):
            found.append(each)
            _collect(_inside(each), found, most - 1, containers=containers)


def _built_in_inside(iterator: object, most: int) -> list[Any]:
    """Return an iterator of Python's own, and those of which it makes its items."""
    if not most or not _passes_on(iterator):
        return []
    passed = [iterator]
    for each in _inside(iterator):
        passed += _built_in_inside(each, most - 1)
    return passed


def _inside(iterator: object) -> list[Any]:
    """Return what an iterator holds: its variables, or its attributes; no code of it runs."""
    inside: list[Any] = []
    for each in gc.get_referents(iterator):
        if _is_generator(iterator):
            inside.append(each)
        elif type(each) is tuple:  # the iterators of a ``map`` or a ``zip``
            inside += cast("tuple[Any, ...]", each)[:_MOST_ATTRIBUTES]
        elif type(each) is dict:  # the attributes of an object
            inside += itertools.islice(cast("dict[Any, Any]", each).values(), _MOST_ATTRIBUTES)
        elif type(each).__name__ == "_tee_dataobject":
            inside += gc.get_referents(each)
        else:
            inside.append(each)
    return inside


def _is_generator(value: object) -> bool:
    return type(value) is GeneratorType or type(value) is AsyncGeneratorType


def _passes_on(value: object) -> bool:
    """Return whether it is an iterator of Python's own, such as ``enumerate(…)``."""
    cls = type(value)
    return cls.__module__ in _BUILT_IN and hasattr(cls, "__next__") and not _is_generator(value)


def _frame_of(iterator: Any) -> FrameType | None:
    """Return the frame of a generator that has not ended, else None."""
    return getattr(iterator, "gi_frame", None) or getattr(iterator, "ag_frame", None)


def _has_more(iterator: Any, frame: FrameType | None) -> bool:
    """Return whether an iterator of `Sources.found` has not come to its end."""
    if not _is_generator(iterator):
        if length_hint(iterator) > 0:
            return True
        # One that has met the end of its list or tuple has let go of it.
        return type(iterator) in _LETTING_GO and bool(_inside(iterator))
    if _frame_of(iterator) is not None:
        return True
    # It may have been closed by a ``with`` of the caller's, at a ``yield``.
    return frame is not None and _last_operation(frame) in _CLOSED_AT


def _last_operation(frame: FrameType) -> str:
    import dis  # here: it takes a while to load

    return dis.opname[frame.f_code.co_code[frame.f_lasti]]
