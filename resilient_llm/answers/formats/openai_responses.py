"""How answers and stream items of OpenAI's Responses API are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.answers._format import Format
from resilient_llm.answers._item import (
    CONTENT,
    CONTENT_AND_END,
    END,
    NEVER_CONTENT,
    NO_CONTENT,
    ItemFormat,
    ItemInfo,
    cut,
    each_type,
    failed,
    has_content,
    no_text,
    with_fields,
)
from resilient_llm.answers._reading import MOST_PARTS, field, has, is_text, items, word
from resilient_llm.answers._response import ResponseInfo, add_content, add_part
from resilient_llm.answers._verdicts import BROKEN, error_in, verdict_on
from resilient_llm.answers.formats.openai_chat import inspect_delta

if TYPE_CHECKING:
    from resilient_llm.answers._response import CollectedStream


# A whole answer.


def _read_answer(answer: object, info: ResponseInfo) -> bool:
    if word(field(answer, "object")) != "response" and not (
        has(answer, "output") and has(answer, "incomplete_details")
    ):
        return False
    status = word(field(answer, "status"))
    output = field(answer, "output")
    if status in ("queued", "in_progress", "cancelled"):
        info.is_partial = True
        return True
    if status == "failed" or output is None:
        info.fault = BROKEN
    choice = info.add(field(field(answer, "incomplete_details"), "reason"))
    outputs = items(output)
    for item in outputs:
        if word(field(item, "type")) == "message":
            add_content(field(item, "content"), choice)
        else:
            add_part(item, choice)
    if len(outputs) == MOST_PARTS:
        choice.has_content = True
    return True


# One item of a stream.


def _inspect_event(fields: dict[str, Any], item: object) -> ItemInfo | None:
    """Inspect the end of a part, a new item, a step of a tool."""
    if "_call" in fields["type"]:
        return CONTENT
    for name in ("delta", "text", "refusal", "arguments", "input", "part", "item"):
        if has_content(fields.get(name)):
            return CONTENT
    return NO_CONTENT


EVENT: Final = ItemFormat(_inspect_event, no_text)


def is_event(kind: str, fields: dict[str, Any]) -> bool:
    """Return whether an item is an event whose type is not in the table of types."""
    return kind.startswith("response.") and ("_call" in kind or "sequence_number" in fields)


def _inspect_end(fields: dict[str, Any], item: object) -> ItemInfo | None:
    """Inspect the last event, which holds the whole response."""
    response = fields.get("response")
    if response is None:
        return None
    error = error_in(response)
    if error is not None:
        return failed(verdict_on(error))
    if fields["type"] == "response.failed":
        return failed(BROKEN)
    info = ResponseInfo()
    _read_answer(response, info)
    is_filled = any(choice.has_content or choice.is_refusal for choice in info.choices)
    return CONTENT_AND_END if is_filled else END


def _text_of_delta(fields: dict[str, Any]) -> str:
    return cut(fields.get("delta"))


_EVENTS: Final = {
    "response.output_text.delta": ItemFormat(inspect_delta, _text_of_delta),
    **each_type(
        """response.refusal.delta response.reasoning.delta response.reasoning_text.delta
        response.reasoning_summary_text.delta response.audio.delta
        response.audio.transcript.delta""",
        ItemFormat(inspect_delta, no_text),
    ),
    **each_type(
        """response.output_text.done response.refusal.done response.reasoning_text.done
        response.reasoning_summary_text.done response.reasoning_summary_part.added
        response.reasoning_summary_part.done response.content_part.added
        response.content_part.done response.output_item.added response.output_item.done""",
        EVENT,
    ),
    **each_type(
        """response.created response.in_progress response.queued response.audio.done
        response.audio.transcript.done response.output_text.annotation.added
        response.mcp_list_tools.in_progress response.mcp_list_tools.completed
        response.mcp_list_tools.failed response.compaction.compacting keepalive""",
        NEVER_CONTENT,
    ),
    **each_type(
        "response.completed response.incomplete response.failed response.cancelled",
        ItemFormat(_inspect_end, no_text),
    ),
}

# Of raw events, and of those of the helper, which repeats them with more.
_FIELDS: Final = """type sequence_number response item_id output_index content_index summary_index
    annotation_index annotation item part delta text refusal arguments input code logprobs
    obfuscation snapshot parsed name agent event_id message param error partial_image_b64
    partial_image_index response_id"""


# A list of items.


def _collect(item: object, kind: str, stream: CollectedStream) -> bool:
    if not kind.startswith("response."):
        return False
    stream.is_known = True
    if kind in ("response.completed", "response.incomplete", "response.failed"):
        stream.has_ended = True
        response = field(item, "response")
        stream.info.error = stream.info.error or error_in(response)
        if kind == "response.failed":
            stream.info.fault = BROKEN
        info = ResponseInfo()
        if _read_answer(response, info):
            for choice in info.choices:
                stream.add(choice)
    elif kind in ("response.error", "response.cancelled"):
        stream.has_ended = True
        stream.info.error = stream.info.error or error_in(item)
    elif kind.startswith("response.refusal"):
        stream.choice.is_refusal = True
    elif "reasoning" not in kind and (is_text(field(item, "delta")) or "_call" in kind):
        stream.choice.has_content = True
    return True


FORMAT: Final = Format(
    answer=_read_answer, items_by_type=with_fields(_FIELDS, _EVENTS), collect=_collect
)
