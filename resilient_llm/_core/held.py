"""How the arguments of a call are read: what foreign objects hold, never what they compute.

A property, a ``__getattr__`` or an overridden method of an argument is not run: it may raise, block
or change something, and the call itself still needs the argument. An iterator is not read, either.
"""

from __future__ import annotations

import collections
import types
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._values.class_cache import ClassCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_RECORDS: Final = ("__pydantic_fields__", "__dataclass_fields__", "__attrs_attrs__", "__fields__")
"""In a class whose objects are data."""
_HOLDS: Final = ("content", "contents", "parts", "role", "text")
"""In an object of another class that is a message or a part of one."""
_UNSET: Final = frozenset({"NotGiven", "Omit", "Unset", "UnsetType"})
"""Names of the classes of SDKs whose objects stand for an argument that was not given."""
BARE: Final = frozenset({bool, bytearray, bytes, complex, float, int, memoryview, type(None)})
"""Classes of objects that hold neither texts nor other objects."""

# Of the built-in classes themselves, whatever a subclass overrides.
_attribute: Final = object.__getattribute__
_pairs: Final = cast("Callable[[object], Iterable[tuple[Any, Any]]]", dict.items)  # pyright: ignore[reportUnknownMemberType]
_list_size: Final = cast("Callable[[object], int]", list.__len__)  # pyright: ignore[reportUnknownMemberType]
_list_part: Final = cast("Callable[[object, slice], list[Any]]", list.__getitem__)  # pyright: ignore[reportUnknownMemberType]
_tuple_size: Final = cast("Callable[[object], int]", tuple.__len__)  # pyright: ignore[reportUnknownMemberType]
_tuple_part: Final = cast("Callable[[object, slice], tuple[Any, ...]]", tuple.__getitem__)  # pyright: ignore[reportUnknownMemberType]
_UNORDERED: Final = cast(
    "tuple[tuple[type, Callable[[object], Iterable[Any]], Callable[[object], int]], ...]",
    tuple((cls, cls.__iter__, cls.__len__) for cls in (set, frozenset, collections.deque)),  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
)
_bases: Final[Callable[[type], tuple[type, ...]]] = type.__dict__["__mro__"].__get__
_members: Final[Callable[[type], Any]] = type.__dict__["__dict__"].__get__
_class_name: Final[Callable[[type], str]] = type.__dict__["__name__"].__get__
_module: Final = "__module__"


def items_of(value: object, most: int) -> tuple[list[Any], int] | None:
    """Return the last items of a list, tuple, set or deque, at most so many; None for others.

    Returns:
        The items, and how many more there are before them.
    """
    cls = type(value)
    if issubclass(cls, list):
        count = _list_size(value)
        return _list_part(value, slice(max(count - most, 0), count)), max(count - most, 0)
    if issubclass(cls, tuple):
        count = _tuple_size(value)
        part = _tuple_part(value, slice(max(count - most, 0), count))
        return list(part), max(count - most, 0)
    for each, iterate, size in _UNORDERED:
        if issubclass(cls, each):
            return list(collections.deque(iterate(value), most)), max(size(value) - most, 0)
    return None


def record_of(value: object) -> dict[Any, Any] | None:
    """Return what a dict, or an object that is data, holds by name; None for others.

    To be read only: it may be what the object itself holds.
    """
    cls = type(value)
    if cls is dict:
        return cast("dict[Any, Any]", value)
    if cls in BARE or issubclass(cls, (str, list, tuple)):
        return None
    if issubclass(cls, dict):
        return dict(_pairs(value))
    own = _own(value)
    if not _is_record[cls] and (own is None or not any(name in own for name in _HOLDS)):
        return None
    if own is None:
        return _slots(value, cls)
    extra = _raw(value, "__pydantic_extra__")
    return {**own, **cast("dict[str, Any]", extra)} if type(extra) is dict and extra else own


def held(value: object, *names: str) -> Any:
    """Return the first of these fields that a dict or an object holds and that is set, or None."""
    record = record_of(value)
    return None if record is None else first(record, *names)


def first(record: dict[Any, Any], *names: str) -> Any:
    """Return the first of these fields that is set, or None."""
    for name in names:
        found = record.get(name)
        if found is not None and is_given(found):
            return found
    return None


def is_given(value: object) -> bool:
    """Return whether an argument is more than a placeholder of an SDK for one."""
    return value is not None and _class_name(type(value)) not in _UNSET


def is_filled(value: object) -> bool:
    """Return whether there is something in a list or a dict; True for what is neither."""
    if not is_given(value):
        return False
    if issubclass(type(value), dict):
        return any(True for _ in _pairs(value))
    found = items_of(value, 1)
    return found is None or bool(found[0])


def word_of(value: object) -> str:
    """Return a word that an SDK has as a text or as an enum; empty for others."""
    if issubclass(type(value), Enum):
        value = _raw(value, "_value_")
    return text_of(value)[:64] if issubclass(type(value), str) else ""


def text_of(value: object) -> str:
    """Return a text as an object of the built-in class."""
    return value if type(value) is str else str.__str__(cast("str", value))


def module_of(cls: type) -> str:
    """Return the name of the module of a class; empty if that is not a text."""
    for base in _bases(cls):
        module = _members(base).get(_module)
        if type(module) is str:
            return module
    return ""


def _own(value: object) -> dict[str, Any] | None:
    own = _raw(value, "__dict__")
    if type(own) is not dict:
        return None
    data = cast("dict[str, Any]", own).get("_data")  # azure's own models
    return cast("dict[str, Any]", data if type(data) is dict else own)


def _raw(value: object, name: str) -> Any:
    try:
        return _attribute(value, name)
    except AttributeError:
        return None


def _slots(value: object, cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in _bases(cls):
        for name, place in _members(base).items():
            if type(place) is types.MemberDescriptorType:
                try:
                    found[name] = place.__get__(value)
                except AttributeError:  # declared, but not set
                    pass
    return found


_is_record: Final = ClassCache(
    lambda cls: any(name in _members(base) for base in _bases(cls) for name in _RECORDS)
)
