"""How answers and stream items of Cohere's chat are read, in both of its versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.answers._format import Format
from resilient_llm.answers._item import (
    ALWAYS_CONTENT,
    CONTENT,
    NEVER_CONTENT,
    NO_CONTENT,
    ItemFormat,
    ItemInfo,
    at_end,
    cut,
    each_type,
    ended_by,
    has_content,
    is_filled,
    no_text,
    with_fields,
)
from resilient_llm.answers._reading import field, has, inside, is_text
from resilient_llm.answers._response import add_message
from resilient_llm.answers._verdicts import BROKEN

if TYPE_CHECKING:
    from resilient_llm.answers._response import CollectedStream, ResponseInfo


# A whole answer.


def _read_answer(answer: object, info: ResponseInfo) -> bool:
    if not has(answer, "finish_reason"):
        return False
    if has(answer, "message"):
        message = field(answer, "message")
        if message is None:
            info.fault = BROKEN
        add_message(message, info.add(field(answer, "finish_reason")))
        return True
    if has(answer, "generation_id"):  # version 1
        choice = info.add(field(answer, "finish_reason"))
        add_message(answer, choice)
        choice.has_content = choice.has_content or is_text(field(answer, "text"))
        return True
    return False


# One item of a stream.


def _inspect_content(fields: dict[str, Any], item: object) -> ItemInfo | None:
    delta = inside(fields.get("delta"))
    if "message" not in delta:
        return None  # the caller's own
    message = inside(delta["message"])
    if has_content(message.get("content")) or is_filled(message.get("tool_plan")):
        return CONTENT
    return NO_CONTENT


def _text_of_content(fields: dict[str, Any]) -> str:
    message = inside(inside(fields.get("delta")).get("message"))
    return cut(inside(message.get("content")).get("text"))


def _inspect_end(fields: dict[str, Any], item: object) -> ItemInfo | None:
    return at_end(ended_by(inside(fields.get("delta")).get("finish_reason"), content=False))


_EVENTS: Final = {
    **each_type(
        "message-start content-start content-delta tool-plan-delta",
        ItemFormat(_inspect_content, _text_of_content),
    ),
    **each_type("tool-call-start tool-call-delta", ALWAYS_CONTENT),
    **each_type("content-end tool-call-end citation-start citation-end", NEVER_CONTENT),
    "message-end": ItemFormat(_inspect_end, no_text),
}


# A list of items.

_COLLECTED: Final = frozenset((*_EVENTS, "debug"))


def _collect(item: object, kind: str, stream: CollectedStream) -> bool:
    if kind not in _COLLECTED:
        return False
    stream.is_known = True
    choice = stream.choice
    delta = field(item, "delta")
    if kind in ("tool-call-start", "tool-call-delta", "tool-call-end"):
        choice.has_content = True
    elif kind in ("content-start", "content-delta"):
        content = field(field(delta, "message"), "content")
        choice.has_content = choice.has_content or is_text(field(content, "text"))
    elif kind == "message-end":
        stream.end(field(delta, "stop_reason", "finish_reason"))
    return True


FORMAT: Final = Format(
    answer=_read_answer,
    items_by_type=with_fields("type index delta id logprobs event_type", _EVENTS),
    collect=_collect,
    has_answer_chunks=True,
)
