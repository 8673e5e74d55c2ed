"""The text form of an event: one line of JSON, as in the journal and wherever else events are sent.

Knows the fields that every event has; all others are taken from its class.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._values.amounts import number_of
from resilient_llm._values.usage import Usage

if TYPE_CHECKING:
    from resilient_llm._values import events as ev

_COMMON: Final = ("at", "target", "call_id")
_encode: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_text: Final = json.encoder.encode_basestring_ascii


def moment(at: datetime) -> str:
    """Return a moment as RFC 3339 text, UTC with microseconds, so that texts sort as moments do."""
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    return f"{at.isoformat(timespec='microseconds')[:-6]}Z"  # without +00:00


def plain(value: Any) -> Any:
    """Return what stands for the value of a field in JSON."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Decimal):
        return number_of(value)
    if isinstance(value, Usage):
        return asdict(value)
    if isinstance(value, tuple):  # of texts, or of problems of a configuration
        return tuple(str(each) for each in cast("tuple[Any, ...]", value))
    return value


def fields_of(event: ev.Event) -> dict[str, Any]:
    """Return ``{field: value}`` of an event, as JSON has them, without those of every event."""
    return {
        name: plain(getattr(event, name))
        for name in event.__dataclass_fields__
        if name not in _COMMON
    }


def line_of(event: ev.Event) -> str:
    """Return ``{"type", "at", "pid", "target", "call_id", …fields}`` as one line of JSON.

    It is ASCII, has no newline in it and none at its end.
    """
    parts = [
        f'{{"type":"{type(event).__name__}","at":"{moment(event.at)}","pid":{os.getpid()}'
        f',"target":{_text(event.target)},"call_id":{_text(event.call_id)}'
    ]
    parts += [
        f'"{name}":{_json(getattr(event, name))}'
        for name in event.__dataclass_fields__
        if name not in _COMMON
    ]
    return ",".join(parts) + "}"


def _json(value: Any) -> str:
    """Return a value as JSON; the usual ones at once, since an encoder takes longer than that."""
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]  # of anything
    if kind is str:
        return _text(value)
    if kind is int or (kind is float and math.isfinite(value)):
        return repr(value)
    return "null" if value is None else _encode(plain(value))
