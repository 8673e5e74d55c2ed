"""Amazon Bedrock's Converse. Its own models, through InvokeModel, are in `completions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm.answers._format import Format
from resilient_llm.answers._item import (
    CONTENT,
    NO_CONTENT,
    ItemFormat,
    ItemInfo,
    at_end,
    cut,
    each_type,
    ended_by,
    is_filled,
    part_has_content,
    with_fields,
)
from resilient_llm.answers._reading import field, inside, is_dict, is_something, plain
from resilient_llm.answers._response import add_message, add_part
from resilient_llm.answers._verdicts import BROKEN

if TYPE_CHECKING:
    from resilient_llm.answers._response import CollectedStream, ResponseInfo

_LONGEST_CODE: Final = 64


# A whole answer.


def _read_answer(answer: object, info: ResponseInfo) -> bool:
    if not is_dict(answer):
        return False
    body = cast("dict[str, Any]", answer)
    if body.keys() == {"ResponseMetadata"}:  # a body that was cut off, which botocore accepts
        info.fault = BROKEN
        return True
    if "stopReason" in body or ("ResponseMetadata" in body and "output" in body):
        message = field(body.get("output"), "message")
        if message is None:
            info.fault = BROKEN
        add_message(message, info.add(body.get("stopReason")))
        return True
    return False


# One item of a stream: a dict with one event.


def _inspect_event(fields: dict[str, Any], item: object) -> ItemInfo | None:
    if len(fields) > 2:
        return None
    stop, delta, start = (
        fields.get("messageStop"),
        fields.get("contentBlockDelta"),
        fields.get("contentBlockStart"),
    )
    if stop is not None:
        if "stopReason" not in inside(stop):
            return None  # the caller's own, as below
        return at_end(ended_by(inside(stop).get("stopReason"), content=False))
    if delta is not None:
        if not _OF_A_DELTA.intersection(inside(delta)):
            return None
        part: Any = inside(delta).get("delta")
        thought = inside(part).get("reasoningContent")
        return CONTENT if part_has_content(part if thought is None else thought) else NO_CONTENT
    if start is not None:
        if not _OF_A_START.intersection(inside(start)):
            return None
        return CONTENT if is_filled(inside(start).get("start")) else NO_CONTENT
    if inside(fields.get("messageStart")) or inside(fields.get("contentBlockStop")):
        return NO_CONTENT
    about = inside(fields.get("metadata"))
    return NO_CONTENT if "usage" in about or "metrics" in about else None


def _text_of_event(fields: dict[str, Any]) -> str:
    return cut(inside(inside(fields.get("contentBlockDelta")).get("delta")).get("text"))


def exception_in(event: dict[str, Any]) -> dict[str, Any] | None:
    """Return the error in an event, as a body, if the event is nothing but an exception."""
    if len(event) != 1:
        return None
    name = next(iter(event))
    if type(name) is not str or not name.endswith("Exception"):
        return None
    message = plain(field(event[name], "message"), 1)
    return {"error": {"code": name[:_LONGEST_CODE], "message": message}}


_OF_A_DELTA: Final = frozenset(("delta", "contentBlockIndex"))
_OF_A_START: Final = frozenset(("start", "contentBlockIndex"))
_EVENTS: Final = (
    "contentBlockDelta contentBlockStart contentBlockStop messageStart messageStop metadata"
)


# A list of items.

_COLLECTED: Final = frozenset(_EVENTS.split())


def _collect(item: object, kind: str, stream: CollectedStream) -> bool:
    if not is_dict(item):
        return False
    fields = inside(item)
    error = exception_in(fields)
    if error is not None:
        stream.is_known = True
        stream.info.error = error
        return True
    name = next(iter(fields)) if len(fields) == 1 else ""
    if type(name) is not str or name not in _COLLECTED:
        return False
    stream.is_known = True
    event = fields.get(name)
    choice = stream.choice
    if name == "contentBlockStart":
        choice.has_content = choice.has_content or is_something(field(event, "start"))
    elif name == "contentBlockDelta":
        add_part(field(event, "delta"), choice)
    elif name == "messageStop":
        stream.has_ended = True
        stream.end(field(event, "stopReason"))
    return True


FORMAT: Final = Format(
    answer=_read_answer,
    items_by_common_field=with_fields(
        _EVENTS, each_type(_EVENTS, ItemFormat(_inspect_event, _text_of_event))
    ),
    collect=_collect,
)
