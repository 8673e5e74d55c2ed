"""How many bytes an item of a stream may hold, estimated without reading all of it."""

from __future__ import annotations

from itertools import islice
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterable


_DEEPEST: Final = 6
_PER_ITEM: Final = 64
"""Bytes that every value counts for, besides its text."""


def size_of(item: object) -> int:
    """Return roughly how many bytes an item takes; bounded work, no code of its class runs."""
    total = 0
    stack: list[tuple[object, int]] = [(item, 0)]
    for _ in range(1_024):
        if not stack:
            break
        value, depth = stack.pop()
        total += _PER_ITEM
        if isinstance(value, (str, bytes, bytearray)):
            total += len(value)
        elif depth < _DEEPEST:
            stack.extend((each, depth + 1) for each in islice(_inside(value), 256))
    return total


def _inside(value: object) -> Iterable[object]:
    """Return what a plain container or an instance holds."""
    if type(value) in (list, tuple):
        return cast("Iterable[object]", value)
    own: object = value
    if type(value) is not dict:
        try:
            own = object.__getattribute__(value, "__dict__")
        except AttributeError:
            return _in_slots(value)
    return cast("dict[object, object]", own).values() if type(own) is dict else ()


def _in_slots(value: object) -> Iterable[object]:
    for cls in type(value).__mro__:
        for member in vars(cls).values():
            if isinstance(member, MemberDescriptorType):
                try:
                    yield member.__get__(value)
                except AttributeError:  # not set
                    continue
