"""How answers and stream items of Google's generateContent are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.answers._format import Format
from resilient_llm.answers._item import (
    END,
    NO_CONTENT,
    ItemFormat,
    ItemInfo,
    each_type,
    ended_by,
    failed,
    has_content,
    text_in,
)
from resilient_llm.answers._reading import MOST_CHOICES, field, has, inside, items
from resilient_llm.answers._response import add_content
from resilient_llm.answers._verdicts import BROKEN, error_in, verdict_on

if TYPE_CHECKING:
    from resilient_llm.answers._response import CollectedStream, ResponseInfo

_OF_A_CANDIDATE: Final = ("content", "finish_reason", "finishReason")
_BESIDE_CANDIDATES: Final = ("usage_metadata", "model_version", "modelVersion")
_INSTEAD_OF_CANDIDATES: Final = ("prompt_feedback", "promptFeedback", "usageMetadata")


# A whole answer.


def _read_answer(answer: object, info: ResponseInfo) -> bool:
    candidates = items(field(answer, "candidates"), MOST_CHOICES)
    beside, names = (
        (candidates[0], _OF_A_CANDIDATE) if candidates else (answer, _INSTEAD_OF_CANDIDATES)
    )
    if not candidates and has(answer, "candidates"):
        names += _BESIDE_CANDIDATES
    if not any(has(beside, name) for name in names):
        return False
    for candidate in candidates:
        choice = info.add(field(candidate, "finish_reason", "finishReason"))
        add_content(field(field(candidate, "content"), "parts"), choice)
    if info.choices:
        return True
    if _is_blocked(answer):
        info.add("safety")
    else:
        info.fault = BROKEN
    return True


def _is_blocked(answer: object) -> bool:
    """Return whether a filter blocked the prompt."""
    feedback = field(answer, "prompt_feedback", "promptFeedback")
    return field(feedback, "block_reason", "blockReason") is not None


# One item of a stream.


def _inspect_chunk(fields: dict[str, Any], item: object) -> ItemInfo | None:
    candidates = items(fields.get("candidates"), MOST_CHOICES)
    if not candidates:
        return _inspect_without_candidates(fields, item)
    content = False
    stop = None
    for candidate in candidates:
        one = inside(candidate)
        reason = one.get("finish_reason")
        if reason is None:
            reason = one.get("finishReason")
        message = one.get("content")
        if message is None and not any(name in one for name in _OF_A_CANDIDATE):
            return None
        content = content or has_content(inside(message).get("parts"))
        if reason is not None:
            stop = reason
    return ended_by(stop, content=content)


def _inspect_without_candidates(fields: dict[str, Any], item: object) -> ItemInfo | None:
    """Inspect a chunk of a blocked prompt, or one with nothing but the usage."""
    if not any(name in fields for name in (*_INSTEAD_OF_CANDIDATES, *_BESIDE_CANDIDATES)):
        return None
    error = error_in(item)
    if error is not None:
        return failed(verdict_on(error))
    return END if _is_blocked(item) else NO_CONTENT


def _text_of_chunk(fields: dict[str, Any]) -> str:
    candidates = items(fields.get("candidates"), 1)
    return text_in(inside(inside(candidates[0]).get("content")).get("parts")) if candidates else ""


_CHUNKS: Final = each_type(
    "candidates prompt_feedback promptFeedback usageMetadata",
    ItemFormat(_inspect_chunk, _text_of_chunk),
)


# A list of items.


def _note_end(item: object, stream: CollectedStream) -> None:
    for candidate in items(field(item, "candidates"), MOST_CHOICES):
        stream.end(field(candidate, "finish_reason", "finishReason"))
    if _is_blocked(item):
        stream.end("safety")


FORMAT: Final = Format(
    answer=_read_answer,
    items_by_field=_CHUNKS,
    has_answer_chunks=True,
    note_end=_note_end,
)
