"""Asks the formats about one stream item: content, end or error, and its text.

A stream's driver asks this of every item until the first content, and of all items where a
limit of silence is set, so a usual item costs about a microsecond. This file decides which
format an item has, by its ``type`` or by a field; the file of the format reads it. Items are
read as answers are: what they hold, nothing that they compute.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from resilient_llm.answers import _sse
from resilient_llm.answers._item import (
    CONTENT,
    CONTENT_AND_END,
    END,
    ENDLESS_CONTENT,
    ENDLESS_NO_CONTENT,
    NO_CONTENT,
    ItemFormat,
    ItemInfo,
    cut,
    failed,
    is_filled,
    is_proven,
)
from resilient_llm.answers._reading import LONGEST, MOST_FIELDS, extras, field, inside
from resilient_llm.answers._verdicts import BESIDE_AN_ERROR, error_in, verdict_on
from resilient_llm.answers.formats import FORMATS
from resilient_llm.answers.formats.bedrock import exception_in
from resilient_llm.answers.formats.openai_chat import CHUNK as _CHAT
from resilient_llm.answers.formats.openai_responses import EVENT as _RESPONSES_EVENT
from resilient_llm.answers.formats.openai_responses import is_event

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict

__all__ = ["ItemInfo", "inspect_item", "opens_silently", "refused", "text_of"]

_UNKNOWN: Final = ItemInfo(known=False, content=True, ended=None)
_NO_ITEM: Final = ItemInfo(known=False, content=False, ended=None)
# An item within an item within an item.
_MOST_WRAPPERS: Final = 3

_BY_TYPE: Final[dict[str, ItemFormat]] = {
    name: item_format for each in FORMATS for name, item_format in each.items_by_type.items()
}
# Without a known type, the first of these fields that an item has decides.
_BY_FIELD: Final[dict[str, ItemFormat]] = {
    name: item_format
    for table in (
        *(each.items_by_field for each in FORMATS),
        *(each.items_by_common_field for each in FORMATS),
    )
    for name, item_format in table.items()
}


def inspect_item(item: object) -> ItemInfo:
    """Return what an item of a stream holds and means. Never raises."""
    try:
        if type(item) is str:
            if item.startswith(_sse.STARTS):
                return _inspect_lines(item)
            return ENDLESS_CONTENT if item else ENDLESS_NO_CONTENT
        fields = inside(item)
        item_format = _format_of(fields)
        if item_format is not None:
            info = item_format.inspect(fields, item)
            if info is not None:
                return info if is_proven(item_format, fields, item) else _UNKNOWN
        return _inspect_deeper(item, fields)
    except Exception:  # noqa: BLE001  # a foreign object may raise anything, and must not fail a call
        return _UNKNOWN


def opens_silently(item: object) -> bool:
    """Return whether streams of such items start with one without content.

    Google's do not: each of its chunks has text, and the last one the reason for the end as well.
    """
    return field(item, "candidates") is None


def reopens(item: object) -> bool:
    """Return whether content of such an item may come after the end of another answer.

    Of several answers to one question each has an end of its own, in chunks of their own.
    """
    return type(inside(item).get("choices")) is list


def refused(items: list[Any]) -> Verdict | None:
    """Return the verdict on a stream that a filter ended, or in which the model refuses."""
    from resilient_llm.answers import filtered

    return filtered(items) or None


def text_of(item: object) -> str:
    """Return the answer's text that an item adds, without reasoning; empty if none. Never raises.

    A text that an SDK gives twice counts once: events of helpers, such as anthropic's
    ``text``, repeat the raw event before them and add nothing. Of several answers to the
    same question, the first is taken. At most 64 KiB are read.
    """
    try:
        for _ in range(_MOST_WRAPPERS):
            if issubclass(type(item), (str, bytes, bytearray)):
                return _text_of_lines(item)
            fields = inside(item)
            item_format = _format_of(fields)
            if item_format is not None:
                return item_format.text(fields)
            item = _unwrapped(item, fields)
        return ""
    except Exception:  # noqa: BLE001  # as in `inspect_item`
        return ""


def _text_of_lines(item: object) -> str:
    """Return the text that raw lines add, if they are those of a provider; else the item itself."""
    lines = _sse.items_in(item)
    if lines is None or not all(line is _sse.End or inspect_item(line).known for line in lines):
        return cut(item)
    return "".join(text_of(line) for line in lines if line is not _sse.End)


def _format_of(fields: dict[str, Any]) -> ItemFormat | None:
    if "choices" in fields:
        return _CHAT
    kind = fields.get("type")
    if type(kind) is str:
        item_format = _BY_TYPE.get(kind)
        if item_format is not None:
            return item_format
        if is_event(kind, fields):
            return _RESPONSES_EVENT
    for name, item_format in _BY_FIELD.items():
        if name in fields:
            return item_format
    return None


def _inspect_deeper(item: object, fields: dict[str, Any]) -> ItemInfo:
    """Inspect a text, an item in a wrapper, or a body that is nothing but an error."""
    if item is None:
        return _NO_ITEM
    if issubclass(type(item), (str, bytes, bytearray)):
        return _inspect_lines(item) if is_filled(item) else ENDLESS_NO_CONTENT
    if not fields:
        return _UNKNOWN
    inner: object = item
    for _ in range(_MOST_WRAPPERS):
        inner = _unwrapped(inner, inside(inner))
        if inner is None:
            break
        inner_fields = inside(inner)
        item_format = _format_of(inner_fields)
        if item_format is None:
            continue
        info = item_format.inspect(inner_fields, inner)
        if info is not None:
            return info if is_proven(item_format, inner_fields, inner) else _UNKNOWN
    error = None
    if BESIDE_AN_ERROR.issuperset(islice(fields, MOST_FIELDS)):
        error = error_in(item)
    if error is None:
        error = exception_in(fields)
    return _UNKNOWN if error is None else failed(verdict_on(error))


def _inspect_lines(item: object) -> ItemInfo:
    """Inspect a text, which may be raw lines of a provider's stream."""
    lines = _sse.items_in(item)
    if lines is None:
        return ENDLESS_CONTENT
    if not lines:
        return ENDLESS_NO_CONTENT
    infos = [END if line is _sse.End else inspect_item(line) for line in lines]
    if not all(info.known for info in infos):
        return ENDLESS_CONTENT  # the caller's own
    content = any(info.content for info in infos)
    for info in infos:
        if info.verdict is not None:
            return failed(info.verdict, content=content)
    if any(info.ended for info in infos):
        return CONTENT_AND_END if content else END
    if all(info.ended is None for info in infos):
        return ENDLESS_CONTENT if content else ENDLESS_NO_CONTENT
    return CONTENT if content else NO_CONTENT


def _unwrapped(item: object, fields: dict[str, Any]) -> object:
    """Return the item that is inside another one, or None."""
    for name in ("data", "chunk"):  # mistralai; openai's helper
        inner = fields.get(name)
        if inner is not None and "choices" in inside(inner):
            return inner
    raw = inside(fields.get("chunk")).get("bytes")  # bedrock's invoke_model
    if type(raw) is bytes and len(raw) <= LONGEST:
        return json.loads(raw)
    extra = extras(item)
    return {**extra, **fields} if extra else None
