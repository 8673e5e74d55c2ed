"""Anthropic's messages: answers and the events of their streams. Text: `completions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.answers._format import Format
from resilient_llm.answers._item import (
    ALWAYS_END,
    CONTENT,
    NEVER_CONTENT,
    NO_CONTENT,
    ItemFormat,
    ItemInfo,
    cut,
    each_type,
    ended_by,
    failed,
    is_filled,
    no_text,
    part_has_content,
    text_in,
    with_fields,
)
from resilient_llm.answers._reading import field, has, inside, is_mapping_like, is_text, word
from resilient_llm.answers._response import add_content, add_part
from resilient_llm.answers._verdicts import BROKEN, body_with, error_in, verdict_on
from resilient_llm.answers.formats.openai_chat import inspect_helper

if TYPE_CHECKING:
    from resilient_llm.answers._response import CollectedStream, ResponseInfo


# A whole answer.


def _read_answer(answer: object, info: ResponseInfo) -> bool:
    if not has(answer, "stop_reason") or not has(answer, "content"):
        return False
    stop = field(answer, "stop_reason")
    content = field(answer, "content")
    if word(stop) == "pause_turn":  # to be continued by the caller
        info.is_partial = True
    if content is None:
        info.fault = BROKEN
    add_content(content, info.add(stop))
    return True


# One item of a stream.


def _inspect_block_start(fields: dict[str, Any], item: object) -> ItemInfo | None:
    """Inspect the start of a block, which is empty for text and has the name of a tool call."""
    if "content_block" not in fields:
        return None
    return CONTENT if part_has_content(fields["content_block"]) else NO_CONTENT


def _text_of_block_start(fields: dict[str, Any]) -> str:
    return text_in([fields.get("content_block")])


def _inspect_block_delta(fields: dict[str, Any], item: object) -> ItemInfo | None:
    delta = inside(fields.get("delta"))
    text = delta.get("text")
    if type(text) is str and text:
        return CONTENT
    if "type" not in delta and _OF_A_DELTA.isdisjoint(delta):
        return None  # the caller's own
    for name in ("text", "thinking", "partial_json"):
        if is_filled(delta.get(name)):
            return CONTENT
    return NO_CONTENT


def _text_of_block_delta(fields: dict[str, Any]) -> str:
    return cut(inside(fields.get("delta")).get("text"))


def _inspect_message_delta(fields: dict[str, Any], item: object) -> ItemInfo | None:
    if not is_mapping_like(fields.get("delta")):
        return None  # the caller's own
    return ended_by(inside(fields["delta"]).get("stop_reason"), content=False)


def _text_of_helper(fields: dict[str, Any]) -> str:
    """Return no text of an event that repeats the raw event before it."""
    return "" if "snapshot" in fields else cut(fields.get("text"))


def _inspect_beside_text(fields: dict[str, Any], item: object) -> ItemInfo | None:
    """Inspect an event of the helper about a citation or the signature of reasoning."""
    return NO_CONTENT if fields["type"] in fields or "encrypted_content" in fields else None


def _error_in_event(event: object, is_bare: bool) -> dict[str, Any] | None:
    """Return the error in an error event: inside it, or for openai's Responses the event itself."""
    error = error_in(event)
    return body_with(event) if error is None and is_bare else error


def _inspect_error(fields: dict[str, Any], item: object) -> ItemInfo | None:
    is_bare = type(fields.get("message")) is str and (
        "param" in fields or "sequence_number" in fields
    )
    error = _error_in_event(item, is_bare)
    return None if error is None else failed(verdict_on(error))


_OF_A_DELTA: Final = frozenset(("text", "thinking", "partial_json", "signature", "citation"))

_EVENTS: Final = {
    "content_block_start": ItemFormat(_inspect_block_start, _text_of_block_start),
    "content_block_delta": ItemFormat(_inspect_block_delta, _text_of_block_delta),
    "message_delta": ItemFormat(_inspect_message_delta, no_text),
    "message_stop": ALWAYS_END,
    **each_type("message_start content_block_stop ping", NEVER_CONTENT),
    **each_type("text thinking input_json", ItemFormat(inspect_helper, _text_of_helper)),
    **each_type("signature citation compaction", ItemFormat(_inspect_beside_text, no_text)),
    **each_type("error response.error", ItemFormat(_inspect_error, no_text)),
}


# Of raw events and of those of the helper, also where a raw one is repeated with more.
_FIELDS: Final = """type index message delta usage content_block context_management
    text snapshot thinking signature citation partial_json parsed_snapshot parsed_output
    encrypted_content content compaction error request_id code param sequence_number
    event_id"""


# A list of items.

_COLLECTED: Final = frozenset(
    """message_start content_block_start content_block_delta content_block_stop message_delta
    message_stop ping error""".split()
)


def _collect(item: object, kind: str, stream: CollectedStream) -> bool:
    if kind not in _COLLECTED:
        return False
    if kind == "error":
        error = _error_in_event(item, has(item, "sequence_number"))
        stream.is_known = stream.is_known or error is not None
        stream.info.error = stream.info.error or error
        return True
    stream.is_known = True
    choice = stream.choice
    if kind == "content_block_start":
        block = field(item, "content_block")
        add_part(block, choice)
        if word(field(block, "type")).endswith("tool_use"):
            choice.has_content = True
    elif kind == "content_block_delta":
        text = field(field(item, "delta"), "text")
        choice.has_content = choice.has_content or is_text(text)
    elif kind == "message_delta":
        stream.end(field(field(item, "delta"), "stop_reason", "finish_reason"))
    elif kind == "message_stop":
        stream.has_ended = True
    return True


FORMAT: Final = Format(
    answer=_read_answer,
    items_by_type=with_fields(_FIELDS, _EVENTS),
    collect=_collect,
)
