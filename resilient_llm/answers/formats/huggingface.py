"""Text generation of Hugging Face, through huggingface_hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.answers._format import Format
from resilient_llm.answers._item import (
    ItemFormat,
    ItemInfo,
    cut,
    ended_by,
    is_filled,
    with_fields,
)
from resilient_llm.answers._reading import field, has, inside, is_text

if TYPE_CHECKING:
    from resilient_llm.answers._response import ResponseInfo


# A whole answer.


def _read_answer(answer: object, info: ResponseInfo) -> bool:
    if not has(answer, "generated_text"):
        return False
    choice = info.add(field(field(answer, "details"), "finish_reason"))
    choice.has_content = is_text(field(answer, "generated_text"))
    return True


# One item of a stream: one token.


def _inspect_token(fields: dict[str, Any], item: object) -> ItemInfo | None:
    token = inside(fields["token"])
    if "text" not in token:
        return None
    content = is_filled(token["text"]) and token.get("special") is not True
    stop = inside(fields.get("details")).get("finish_reason")
    if stop is None and fields.get("generated_text") is not None:
        stop = "stop"
    return ended_by(stop, content=content)


def _text_of_token(fields: dict[str, Any]) -> str:
    token = inside(fields["token"])
    return "" if token.get("special") is True else cut(token.get("text"))


FORMAT: Final = Format(
    answer=_read_answer,
    items_by_field=with_fields(
        "token index details generated_text top_tokens meta error",
        {"token": ItemFormat(_inspect_token, _text_of_token)},
    ),
    has_answer_chunks=True,
)
