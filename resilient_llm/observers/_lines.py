"""The text form of an event: one line of JSON, as in the journal and wherever else events are sent.

Knows the fields that every event has; all others are taken from its class.
"""

from __future__ import annotations

import functools
import json
import math
import os
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from resilient_llm._values import events as ev

_COMMON: Final = ("at", "target", "call_id")
_encode: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_quoted: Final = functools.lru_cache(1024)(_encode)
"""Keys and names of fields come again and again; the least used are forgotten."""


def moment(at: datetime) -> str:
    """Return a moment as RFC 3339 text, UTC with microseconds, so that texts sort as moments do."""
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def plain(value: Any) -> Any:
    """Return what stands for the value of a field in JSON."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
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
        f',"target":{_quoted(event.target)},"call_id":{_encode(event.call_id)}'
    ]
    for name in event.__dataclass_fields__:
        if name not in _COMMON:
            value = getattr(event, name)
            parts.append(f"{_quoted(name)}:{_encode(plain(value))}")
    return ",".join(parts) + "}"
