"""Reads an answer that is a list: collected stream items, or several answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.answers._reading import field, is_text
from resilient_llm.answers._response import CollectedStream, ResponseInfo
from resilient_llm.answers._verdicts import BROKEN, INTERRUPTED, error_in, is_nothing_else
from resilient_llm.answers.formats import FORMATS

if TYPE_CHECKING:
    from resilient_llm.answers._response import Choice

_MOST_ITEMS: Final = 512  # from either end of a stream

_COLLECTORS: Final = tuple(each.collect for each in FORMATS if each.collect is not None)
_CHUNK_READERS: Final = tuple(
    each.answer for each in FORMATS if each.answer is not None and each.has_answer_chunks
)
_ENDS: Final = tuple(each.note_end for each in FORMATS if each.note_end is not None)


def read_list(items: list[Any], info: ResponseInfo) -> None:
    """Read the items of a stream as one answer."""
    if not items:  # a stream without an event
        info.fault = BROKEN
        info.add()
        return
    if len(items) <= 2 * _MOST_ITEMS:
        read = items
    else:
        read = [*items[:_MOST_ITEMS], *items[-_MOST_ITEMS:]]
    if all(isinstance(item, str) for item in read):
        info.add().has_content = len(read) < len(items) or any(is_text(item) for item in read)
        return
    stream = CollectedStream(info)
    for item in read:
        _add_item(item, stream)
    if stream.is_batch or not stream.is_known:
        # Several answers, or something else of the caller's own.
        info.choices.clear()
        info.error = info.fault = None
        return
    if len(read) < len(items):
        stream.choice.has_content = True  # what is not read counts as content
    if stream.has_ended is False and info.error is None and info.fault is None:
        info.fault = INTERRUPTED if stream.choice.has_content else BROKEN


def _add_item(item: object, stream: CollectedStream) -> None:
    if isinstance(item, (str, bytes, list, tuple, int, float)):
        return
    kind = field(item, "type")
    kind = kind if isinstance(kind, str) else ""
    if not any(collect(item, kind, stream) for collect in _COLLECTORS):
        _add_chunk(item, stream)


def _add_chunk(item: object, stream: CollectedStream) -> None:
    """Add an item that has the format of a whole answer."""
    info = ResponseInfo()
    is_known = any(read(item, info) for read in _CHUNK_READERS)
    if is_known or is_nothing_else(item):
        info.error = info.error or error_in(item)
    stream.is_known = stream.is_known or is_known or info.error is not None
    stream.info.error = stream.info.error or info.error
    choices: list[Choice] = info.choices
    for choice in choices:
        stream.add(choice)
    for note_end in _ENDS:
        note_end(item, stream)
