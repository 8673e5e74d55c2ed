"""Messages of langchain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.answers._format import Format
from resilient_llm.answers._item import (
    ENDLESS_CONTENT,
    ENDLESS_NO_CONTENT,
    ItemFormat,
    ItemInfo,
    message_has_content,
    text_in,
)
from resilient_llm.answers._reading import field, has, inside, word
from resilient_llm.answers._response import add_message

if TYPE_CHECKING:
    from resilient_llm.answers._response import CollectedStream, ResponseInfo


# A whole answer.


def _read_answer(answer: object, info: ResponseInfo) -> bool:
    if not has(answer, "response_metadata") or not has(answer, "content"):
        return False
    metadata = field(answer, "response_metadata")
    stop = field(metadata, "finish_reason", "stop_reason", "stopReason", "done_reason")
    add_message(answer, info.add(stop))
    info.is_partial = word(field(answer, "type")) != "ai"
    return True


# One item of a stream. Not every integration of it gives a reason for the end.


def _inspect_chunk(fields: dict[str, Any], item: object) -> ItemInfo | None:
    text = fields.get("content")
    if (type(text) is str and text) or message_has_content(fields, item):
        return ENDLESS_CONTENT
    aside = inside(fields.get("additional_kwargs"))
    return ENDLESS_CONTENT if message_has_content(aside, None) else ENDLESS_NO_CONTENT


def _text_of_chunk(fields: dict[str, Any]) -> str:
    return text_in(fields.get("content"))


# A list of items.


def _note_end(item: object, stream: CollectedStream) -> None:
    if has(item, "response_metadata") and has(item, "content"):
        stream.is_batch = stream.is_batch or word(field(item, "type")) == "ai"
        stream.has_ended = None


FORMAT: Final = Format(
    answer=_read_answer,
    items_by_type={"AIMessageChunk": ItemFormat(_inspect_chunk, _text_of_chunk)},
    has_answer_chunks=True,
    note_end=_note_end,
)
