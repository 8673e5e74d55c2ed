"""How answers and stream items of Ollama's chat and generate are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.answers._format import Format
from resilient_llm.answers._item import (
    CONTENT,
    ENDLESS_CONTENT,
    ENDLESS_NO_CONTENT,
    NO_CONTENT,
    ItemFormat,
    ItemInfo,
    at_end,
    cut,
    ended_by,
    is_filled,
    message_has_content,
    text_in,
    with_fields,
)
from resilient_llm.answers._reading import field, has, inside, is_something, is_text
from resilient_llm.answers._response import add_message

if TYPE_CHECKING:
    from resilient_llm.answers._response import CollectedStream, ResponseInfo


# A whole answer.


def _read_answer(answer: object, info: ResponseInfo) -> bool:
    if not has(answer, "done") or not (has(answer, "message") or has(answer, "response")):
        return False
    choice = info.add(field(answer, "done_reason"))
    add_message(field(answer, "message"), choice)
    choice.has_content = (
        choice.has_content
        or is_text(field(answer, "response"))
        or is_something(field(answer, "image", "images"))
    )
    info.is_partial = field(answer, "done") is False
    return True


# One item of a stream.


def _inspect_chunk(fields: dict[str, Any], item: object) -> ItemInfo | None:
    done = fields["done"]
    if type(done) is not bool or not ("message" in fields or "response" in fields):
        return None
    message = fields.get("message")
    if "message" in fields and not _OF_A_MESSAGE.intersection(inside(message)):
        return None  # the caller's own
    response = fields.get("response")
    if response is not None and not issubclass(type(response), str):
        return None
    content = message_has_content(inside(message), message) or any(
        is_filled(fields.get(name)) for name in ("response", "thinking", "image")
    )
    if done:
        return at_end(ended_by(fields.get("done_reason"), content=content))
    if not _OF_A_CHUNK.intersection(fields):
        # It may as well be the caller's own, of which nobody knows how they end.
        return ENDLESS_CONTENT if content else ENDLESS_NO_CONTENT
    return CONTENT if content else NO_CONTENT


def _text_of_chunk(fields: dict[str, Any]) -> str:
    message = inside(fields.get("message"))
    return text_in(message.get("content")) or cut(fields.get("response"))


_OF_A_CHUNK: Final = frozenset(("model", "created_at"))
_OF_A_MESSAGE: Final = frozenset(("role", "content"))
_FIELDS: Final = """model created_at done done_reason message response thinking image images
    context total_duration load_duration prompt_eval_count prompt_eval_duration eval_count
    eval_duration logprobs completed total remote_model remote_host error"""


# A list of items.


def _note_end(item: object, stream: CollectedStream) -> None:
    if field(item, "done") is True:
        stream.end(field(item, "done_reason") or "stop")


FORMAT: Final = Format(
    answer=_read_answer,
    items_by_field=with_fields(_FIELDS, {"done": ItemFormat(_inspect_chunk, _text_of_chunk)}),
    has_answer_chunks=True,
    note_end=_note_end,
)
