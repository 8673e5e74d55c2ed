"""How foreign objects are read: what they hold, never what they compute, and always bounded."""

from __future__ import annotations

from enum import Enum
from itertools import islice
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

LONGEST: Final = 65_536
MOST_CHOICES: Final = 16
MOST_PARTS: Final = 256
MOST_FIELDS: Final = 64
DEEPEST: Final = 6

_MISSING: Final = object()
# The methods of dict itself, whatever a subclass overrides.
_get: Final = cast("Callable[[object, str, object], Any]", dict.get)  # pyright: ignore[reportUnknownMemberType]
_attribute: Final = object.__getattribute__
_pairs: Final = cast("Callable[[object], Iterable[tuple[Any, Any]]]", dict.items)  # pyright: ignore[reportUnknownMemberType]


# Types that hold nothing by name, and are often asked.
_BARE: Final = frozenset((type(None), str, int, float, bool, bytes, list, tuple))


def field(thing: object, *names: str) -> Any:
    """Return the first of the named fields that is present and set, or None."""
    for name in names:
        value = _held(thing, name)
        is_set = value is not _MISSING and value is not None
        if is_set and type(value).__name__ != "Unset":  # mistralai
            return value
    return None


def has(thing: object, name: str) -> bool:
    return _held(thing, name) is not _MISSING


def _held(thing: object, name: str) -> Any:
    """Return an item of a dict or an attribute of an instance; runs no code of its class."""
    if is_dict(thing):
        value = _get(thing, name, _MISSING)
        if value is not _MISSING or type(thing) is dict:
            return value
    own = _attributes(thing)
    if own is None:
        return _slot(thing, name)
    value = own.get(name, _MISSING)
    if value is not _MISSING:
        return value
    # pydantic; azure's own models
    for store in (_raw(thing, "__pydantic_extra__"), own.get("_data")):
        if type(store) is dict:
            value = cast("dict[str, Any]", store).get(name, _MISSING)
            if value is not _MISSING:
                return value
    return _MISSING


def _attributes(thing: object) -> dict[str, Any] | None:
    own = _raw(thing, "__dict__")
    return cast("dict[str, Any]", own) if type(own) is dict else None


def _raw(thing: object, name: str) -> Any:
    try:
        return object.__getattribute__(thing, name)
    except AttributeError:
        return None


def _slot(thing: object, name: str) -> Any:
    for base in type(thing).__mro__:
        place = base.__dict__.get(name)
        if type(place) is MemberDescriptorType:
            return place.__get__(thing)
    return _MISSING


def inside(thing: object) -> dict[str, Any]:
    """Return all that a thing holds by name, to be read only.

    Faster than `field` where many fields are read.
    """
    cls = type(thing)
    if cls is dict:
        return thing  # pyright: ignore[reportReturnType]  # a cast would cost as much as the rest
    if issubclass(cls, dict):
        return dict(islice(_pairs(thing), MOST_FIELDS))
    try:
        own: dict[str, Any] = _attribute(thing, "__dict__")
    except AttributeError:
        return {} if cls in _BARE else _slots(thing)
    if type(own) is not dict:
        return {}
    if not own:
        return extras(thing)  # a model that declares no fields, as litellm's choices
    data = own.get("_data")  # azure's own models
    return own if data is None or type(data) is not dict else cast("dict[str, Any]", data)


def extras(thing: object) -> dict[str, Any]:
    """Return the fields of a pydantic model that it does not declare."""
    extra = _raw(thing, "__pydantic_extra__")
    return cast("dict[str, Any]", extra) if type(extra) is dict else {}


def _slots(thing: object) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in type(thing).__mro__:
        for name, place in islice(base.__dict__.items(), MOST_FIELDS):
            if type(place) is MemberDescriptorType:
                try:
                    found.setdefault(name, place.__get__(thing))
                except AttributeError:  # declared, but not set
                    pass
    return found


def is_dict(thing: object) -> bool:
    """Return whether it is a dict, whatever its ``__class__`` pretends."""
    return issubclass(type(thing), dict)


def fields(thing: object) -> Iterator[tuple[str, Any]]:
    """Yield some of the ``(name, value)`` that a thing holds."""
    stores: list[Any] = [thing] if is_dict(thing) else []
    own = _attributes(thing)
    if own is not None:
        stores += [own, _raw(thing, "__pydantic_extra__"), own.get("_data")]
    for store in stores:
        if is_dict(store):
            yield from (
                (name, value)
                for name, value in islice(_pairs(store), MOST_FIELDS)
                if type(name) is str
            )


def items(value: object, most: int = MOST_PARTS) -> list[Any]:
    """Return some items of a list or tuple; none of anything else."""
    return list(islice(cast("list[Any]", value), most)) if type(value) in (list, tuple) else []


def word(value: object) -> str:
    """Return a word that providers send as a text or an enum, lower-cased; empty for others."""
    if isinstance(value, Enum):
        value = value.name
    return value[:64].lower() if isinstance(value, str) else ""


def is_text(value: object) -> bool:
    """Return whether it is a text that is not blank, as far as it is read."""
    if isinstance(value, str):
        return len(value) > LONGEST or (bool(value) and not value.isspace())
    return False


def is_mapping_like(thing: object) -> bool:
    return is_dict(thing) or (thing is not None and _attributes(thing) is not None)


def is_something(value: object) -> bool:
    """Return whether a field is filled, without asking a foreign object for its truth."""
    if value is None or value is False or type(value).__name__ == "Unset":
        return False
    if isinstance(value, str):
        return is_text(value)
    return not (type(value) in (list, tuple, dict) and not value)


def plain_body(body: dict[str, Any]) -> dict[str, Any]:
    return cast("dict[str, Any]", plain(body, DEEPEST))


def plain(value: object, depth: int) -> Any:
    """Return a bounded copy in dicts, lists, texts and numbers, as rules read them."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Enum):
        return word(value)
    if isinstance(value, str):
        return value[:LONGEST]
    if depth == 0:
        return None
    if type(value) in (list, tuple):
        return [plain(item, depth - 1) for item in items(value, 32)]
    return {name: plain(held, depth - 1) for name, held in fields(value)}
