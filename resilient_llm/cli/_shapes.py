"""What was decoded from JSON, taken for what it should be: an answer may hold anything."""

from __future__ import annotations

from typing import Any, cast


def as_object(value: object) -> dict[str, Any]:
    """Return an object; an empty one for anything else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """Return a list; an empty one for anything else."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def as_objects(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list."""
    return [cast("dict[str, Any]", each) for each in as_list(value) if isinstance(each, dict)]


def as_number(value: object) -> float | None:
    """Return a number; None for anything else."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
