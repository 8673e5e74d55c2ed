"""How the arguments of a call are read: what foreign objects hold, never what they compute.

A property, a ``__getattr__`` or an overridden method of an argument is not run, nor those of its
class or of a key that it holds: they may raise, block or change something, and the call itself
still needs the argument. An iterator is not read, either. So nothing foreign is looked up in a dict
or a set, which hashes and compares, and nothing is asked for by name where a class may answer.
"""

from __future__ import annotations

import collections
import itertools
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
_BARE: Final = frozenset(
    map(id, (bool, bytearray, bytes, complex, float, int, memoryview, type(None)))
)
"""The ids of classes whose objects hold neither texts nor other objects."""

# Of the built-in classes themselves, whatever a subclass overrides.
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
_PLACES: Final = frozenset(map(id, (types.GetSetDescriptorType, types.MemberDescriptorType)))
"""The ids of the classes of descriptors that Python makes, for ``__dict__`` and for slots."""


def is_bare(cls: type[Any]) -> bool:
    """Return whether the objects of a class hold neither texts nor other objects."""
    return id(cls) in _BARE


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


def record_of(value: object, holds: tuple[str, ...] = _HOLDS) -> dict[str, Any] | None:
    """Return what a dict, or an object that is data, holds by name; None for others.

    To be read only: it may be what the object itself holds. Keys that are no texts are left out.

    Args:
        value: The dict or object.
        holds: Names of which an object holds one at least, if its class does not say that its
            objects are data.
    """
    cls = type(value)
    if cls is dict:
        return by_name(cast("dict[Any, Any]", value))
    if id(cls) in _BARE or issubclass(cls, (str, list, tuple)):
        return None
    if issubclass(cls, dict):
        return _named(_pairs(value))
    own = _own(value)
    if not _is_record[cls] and (own is None or not any(name in own for name in holds)):
        return None
    if own is None:
        return _slots(value, cls)
    extra = _held_in(_extra_place[cls], value)
    if type(extra) is dict and extra:
        return {**own, **by_name(cast("dict[Any, Any]", extra))}
    return own


def conversation_among(values: Iterable[object]) -> Any:
    """Return the first of several arguments that may be a conversation, or None."""
    return next(
        (each for each in values if items_of(each, 1) is not None or record_of(each) is not None),
        None,
    )


def pairs_of(value: object, most: int) -> list[tuple[Any, Any]] | None:
    """Return keys and values of a dict or of an object of a subclass, at most so many of them.

    None for others.
    """
    return list(itertools.islice(_pairs(value), most)) if issubclass(type(value), dict) else None


def by_name(found: dict[Any, Any]) -> dict[str, Any]:
    """Return what a dict holds under texts; the same object if those are all of its keys."""
    for key in found:
        if type(key) is not str:
            return _named(found.items())
    return found


def _named(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    return {text_of(key): value for key, value in pairs if issubclass(type(key), str)}


def held(value: object, *names: str) -> Any:
    """Return the first of these fields that a dict or an object holds and that is set, or None."""
    record = record_of(value)
    return None if record is None else first(record, *names)


def first(record: dict[str, Any], *names: str) -> Any:
    """Return the first of these fields that is set, or None."""
    for name in names:
        found = record.get(name)
        if found is not None and is_given(found):
            return found
    return None


def is_given(value: object) -> bool:
    """Return whether an argument is more than a placeholder of an SDK for one."""
    return value is not None and text_of(_class_name(type(value))) not in _UNSET


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
        value = (_own(value) or {}).get("_value_")
    return text_of(value)[:64] if issubclass(type(value), str) else ""


def text_of(value: object) -> str:
    """Return a text as an object of the built-in class."""
    return value if type(value) is str else str.__str__(cast("str", value))


def module_of(cls: type) -> str:
    """Return the name of the module of a class; empty if that is not a text."""
    return _module[cls]


def _own(value: object) -> dict[str, Any] | None:
    own = _held_in(_dict_place[type(value)], value)
    if type(own) is not dict:
        return None
    own = by_name(cast("dict[Any, Any]", own))
    data = own.get("_data")  # azure's own models
    return by_name(cast("dict[Any, Any]", data)) if type(data) is dict else own


def _held_in(place: Any, value: object) -> Any:
    try:
        return None if place is None else place.__get__(value)
    except AttributeError:  # declared, but not set
        return None


def _slots(value: object, cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base, name, place in _members_of(cls):
        if type(place) is types.MemberDescriptorType and place.__objclass__ is base:
            try:
                found[name] = place.__get__(value)
            except AttributeError:  # declared, but not set
                pass
    return found


def _members_of(cls: type) -> Iterable[tuple[type, str, Any]]:
    """Give what a class and its bases define: ``(base, name, value)``."""
    for base in _bases(cls):
        for name, value in _members(base).items():
            if type(name) is str:
                yield base, name, value


def _place_of(wanted: str) -> Callable[[type], Any]:
    """Return a function that returns where the objects of a class hold something, or None."""
    return lambda cls: next(
        (
            place
            for base, name, place in _members_of(cls)
            if name == wanted and _is_place(place) and place.__objclass__ is base
        ),
        None,
    )


def _is_place(value: object) -> bool:
    return id(type(value)) in _PLACES


def _module_name(cls: type) -> str:
    return next(
        (
            value
            for _, name, value in _members_of(cls)
            if name == "__module__" and type(value) is str
        ),
        "",
    )


_dict_place: Final = ClassCache(_place_of("__dict__"))
_extra_place: Final = ClassCache(_place_of("__pydantic_extra__"))
_module: Final = ClassCache(_module_name)
_is_record: Final = ClassCache(lambda cls: any(name in _RECORDS for _, name, _ in _members_of(cls)))
