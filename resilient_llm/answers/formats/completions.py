"""Text completions: bodies that hold a text and the reason for its end.

Anthropic's older API, and models on Bedrock through InvokeModel. OpenAI's text completions
have choices, and are read as its chat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm.answers._format import Format
from resilient_llm.answers._item import (
    ItemFormat,
    ItemInfo,
    cut,
    each_type,
    ended_by,
    is_filled,
)
from resilient_llm.answers._reading import MOST_CHOICES, field, has, is_dict, is_text, items

if TYPE_CHECKING:
    from resilient_llm.answers._response import ResponseInfo


# A whole answer.


def _read_completion(answer: object, info: ResponseInfo) -> bool:
    if not has(answer, "stop_reason") or not has(answer, "completion"):
        return False
    info.add(field(answer, "stop_reason")).has_content = is_text(field(answer, "completion"))
    return True


def _read_answer(answer: object, info: ResponseInfo) -> bool:
    if not is_dict(answer):
        return False
    body = cast("dict[str, Any]", answer)
    if "generation" in body and "stop_reason" in body:
        info.add(body["stop_reason"]).has_content = is_text(body["generation"])
        return True
    for name, text, stop in (
        ("results", "outputText", "completionReason"),
        ("outputs", "text", "stop_reason"),
    ):
        outputs = items(body.get(name), MOST_CHOICES)
        if outputs and has(outputs[0], text) and has(outputs[0], stop):
            for each in outputs:
                info.add(field(each, stop)).has_content = is_text(field(each, text))
            return True
    return False


# One item of a stream.

_TEXT_AND_STOP: Final = (
    ("completion", "stop_reason"),  # anthropic's older completions
    ("generation", "stop_reason"),  # meta's models on bedrock
    ("outputText", "completionReason"),  # amazon's
)


def _inspect_item(fields: dict[str, Any], item: object) -> ItemInfo | None:
    for text, stop in _TEXT_AND_STOP:
        if text in fields and stop in fields:
            return ended_by(fields[stop], content=is_filled(fields[text]))
    return None


def _text_of_item(fields: dict[str, Any]) -> str:
    for text, stop in _TEXT_AND_STOP:
        if text in fields and stop in fields:
            return cut(fields[text])
    return ""


_ITEM: Final = ItemFormat(_inspect_item, _text_of_item)

ANTHROPIC: Final = Format(answer=_read_completion, items_by_type={"completion": _ITEM})
FORMAT: Final = Format(
    answer=_read_answer,
    items_by_common_field=each_type("completion generation outputText", _ITEM),
)
