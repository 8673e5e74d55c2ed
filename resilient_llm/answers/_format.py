"""What a file of ``formats/`` contributes: the readers of one protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient_llm.answers._item import ItemFormat
    from resilient_llm.answers._response import CollectedStream, ResponseInfo

AnswerReader: TypeAlias = "Callable[[object, ResponseInfo], bool]"
"""Reads a whole answer into the info, or returns False if it is of another format."""


class ItemCollector(Protocol):
    """Adds an event of a stream to the rest, or returns False if it is of another format."""

    def __call__(self, item: object, kind: str, stream: CollectedStream, /) -> bool: ...


def _no_items() -> Mapping[str, ItemFormat]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """The readers of one protocol; each is optional.

    Attributes:
        answer: Reads a whole answer.
        items_by_type: ``{type: reader}`` of stream items that have a ``type``.
        items_by_field: ``{field: reader}`` of stream items that are recognised by a field.
        items_by_common_field: The same for fields that items of other formats may have as
            well: asked after all others.
        collect: Adds an event to a list of items; gets the item and its ``type``, or ``""``.
        has_answer_chunks: Whether items of a stream have the format of a whole answer. Then
            `answer` reads them in a list of items, and `note_end` notes whether they end it.
        note_end: Notes whether a chunk is the end of the stream.
    """

    answer: AnswerReader | None = None
    items_by_type: Mapping[str, ItemFormat] = field(default_factory=_no_items)
    items_by_field: Mapping[str, ItemFormat] = field(default_factory=_no_items)
    items_by_common_field: Mapping[str, ItemFormat] = field(default_factory=_no_items)
    collect: ItemCollector | None = None
    has_answer_chunks: bool = False
    note_end: Callable[[object, CollectedStream], None] | None = None
