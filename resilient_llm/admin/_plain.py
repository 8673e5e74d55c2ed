"""`plain`: the values of this library as JSON has them."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

from resilient_llm._values.amounts import number_of


def plain(value: Any) -> Any:
    """Return a value of this library as dicts, lists, texts and numbers.

    Dataclasses and named tuples become objects with their fields, moments become the text of
    RFC 3339 in UTC, and amounts of money numbers.
    """
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, Decimal):
        return number_of(value)
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        items = cast("tuple[Any, ...]", value)
        names: tuple[str, ...] | None = getattr(items, "_fields", None)
        shown = [plain(each) for each in items]
        return shown if names is None else dict(zip(names, shown, strict=True))
    return str(value) if isinstance(value, str) else value


def moment(value: datetime) -> str:
    """Return a moment as RFC 3339 writes it, in UTC."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
