"""Results, messages and stream events of pydantic-ai.

Its events never tell that a stream has ended. A guard that gives the whole message after them
shows how it ended: what was cut off has the state ``incomplete`` and the finish reason ``error``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm.answers._format import Format
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
    ended_by,
    failed,
    is_filled,
    no_text,
)
from resilient_llm.answers._reading import field, has, inside, is_text, items, word
from resilient_llm.answers._response import add_content
from resilient_llm.answers._verdicts import INTERRUPTED

if TYPE_CHECKING:
    from resilient_llm.answers._response import ResponseInfo


# A whole answer.


def _read_answer(answer: object, info: ResponseInfo) -> bool:
    if word(field(answer, "kind")) == "response" and has(answer, "parts"):  # a message
        add_content(field(answer, "parts"), info.add(field(answer, "finish_reason")))
        return True
    if has(answer, "_output_tool_name") and has(answer, "output"):  # the result of a run
        history = field(field(answer, "_state"), "message_history")
        last = cast("list[Any]", history)[-1] if type(history) is list and history else None
        output = field(answer, "output")
        choice = info.add(field(last, "finish_reason"))
        choice.has_content = is_text(output) if isinstance(output, str) else output is not None
        return True
    return False


# One item of a stream: an event.

_OF_PARTS: Final = ("content", "tool_name", "args")
_OF_DELTAS: Final = ("content_delta", "tool_name_delta", "args_delta")
_WITHOUT_CONTENT: Final = frozenset(("part_end", "final_result"))


def _inspect_event(fields: dict[str, Any], item: object) -> ItemInfo | None:
    kind = fields.get("event_kind")
    if kind == "part_delta":
        is_content = _holds(fields.get("delta"), _OF_DELTAS)
    elif kind == "part_start":
        is_content = _holds(fields.get("part"), _OF_PARTS)
    else:
        return ENDLESS_NO_CONTENT if kind in _WITHOUT_CONTENT else None
    return ENDLESS_CONTENT if is_content else ENDLESS_NO_CONTENT


def _holds(part: object, names: tuple[str, ...]) -> bool:
    held = inside(part)
    return any(is_filled(held.get(name)) for name in names)


def _text_of_event(fields: dict[str, Any]) -> str:
    delta, part = inside(fields.get("delta")), inside(fields.get("part"))
    if delta.get("part_delta_kind") == "text":
        return cut(delta.get("content_delta"))
    is_start = fields.get("event_kind") == "part_start"
    return cut(part.get("content")) if is_start and part.get("part_kind") == "text" else ""


# Or the whole message so far, whose text was in the events before it.


def _inspect_message(fields: dict[str, Any], item: object) -> ItemInfo | None:
    if fields.get("kind") != "response" or "parts" not in fields:
        return None
    stop, state = fields.get("finish_reason"), fields.get("state")
    content = any(_holds(part, _OF_PARTS) for part in items(fields["parts"]))
    if state == "incomplete":
        if stop == "error":
            return failed(INTERRUPTED, content=content)
        return CONTENT if content else NO_CONTENT
    if stop is not None:
        return ended_by(stop, content=content)
    if state in ("suspended", "interrupted"):
        return CONTENT_AND_END if content else END
    return ENDLESS_CONTENT if content else ENDLESS_NO_CONTENT


FORMAT: Final = Format(
    answer=_read_answer,
    items_by_field={
        "event_kind": ItemFormat(_inspect_event, _text_of_event),
        "provider_response_id": ItemFormat(_inspect_message, no_text),
    },
)
