"""How single values are read from objects of other libraries: nothing here raises."""

from __future__ import annotations

from typing import Any


def attribute(thing: object, name: str) -> Any:
    """Return an attribute, or None if it is missing or if reading it raises."""
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001  # a property of a foreign class may raise anything
        return None


def called(method: Any) -> Any:
    """Return what a method of a foreign object returns, or None if it raises."""
    try:
        return method()
    except Exception:  # noqa: BLE001  # a method of a foreign class may raise anything
        return None


def item(mapping: Any, name: str) -> Any:
    """Return an item of a dict; None of anything else."""
    return mapping.get(name) if isinstance(mapping, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # foreign data


def as_status(value: object) -> int | None:
    """Return a number from 100 to 599, also if it is written as a text."""
    if type(value) is int:
        return value if 100 <= value <= 599 else None
    if isinstance(value, str):
        if len(value) != 3 or not value.isdecimal():
            return None
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
        return int(value)
    return None
