"""Helpers that the formats share for reading a stream item. A new shape belongs in ``formats/``."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from resilient_llm.answers._reading import (
    LONGEST,
    MOST_FIELDS,
    MOST_PARTS,
    extras,
    inside,
    word,
)
from resilient_llm.answers._response import THOUGHTS
from resilient_llm.answers._verdicts import COMPLETE, STOPS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient_llm._values.verdict import Verdict


@dataclass(frozen=True, slots=True)
class ItemInfo:
    """What a stream's driver needs to know of one item.

    Attributes:
        known: Whether the item is of a known format.
        content: Whether it holds content: text, reasoning, a refusal, a tool call, audio, an
            image. True for an unknown format.
        ended: Whether it is the end of the stream; None if items of this format never are.
        verdict: What is wrong, if the item is an error. None for an answer that was filtered
            or cut off.
    """

    known: bool
    content: bool
    ended: bool | None
    verdict: Verdict | None = None


class ItemFormat(NamedTuple):
    """How items of one format are read.

    Attributes:
        inspect: Takes the fields of an item, and the item; gives None if it is of another
            format after all.
        text: Takes the fields of an item, gives the text in it.
        names: All fields that items of this format may have. An item with another one that holds
            something is the caller's own, which happens to look alike. None if the format cannot
            be mistaken.
    """

    inspect: Callable[[dict[str, Any], object], ItemInfo | None]
    text: Callable[[dict[str, Any]], str]
    names: frozenset[str] | None = None


# Packages whose classes are items of the formats here.
_SDKS: Final = frozenset(
    """openai anthropic cohere mistralai groq google ollama litellm huggingface_hub langchain_core
    together cerebras azure botocore""".split()
)
# Fields that would be content, where the type of an item says that it has none.
_SAYING: Final = frozenset("text delta content refusal arguments thinking partial_json".split())
# What servers add to an item that has no content. Another number is the caller's own.
_BESIDE_A_PING: Final = frozenset(
    """created created_at createdAt timestamp ts time at seq sequence sequence_number index
    event_id retry interval output_index content_index created_time""".split()
)
# A time or a count beside the fields of a format is no content.
_NUMBERS: Final = (bool, int, float)

# Nearly every item has one of these; they are not made again for each item.
CONTENT: Final = ItemInfo(known=True, content=True, ended=False)
NO_CONTENT: Final = ItemInfo(known=True, content=False, ended=False)
CONTENT_AND_END: Final = ItemInfo(known=True, content=True, ended=True)
END: Final = ItemInfo(known=True, content=False, ended=True)
# For formats without a reliable end.
ENDLESS_CONTENT: Final = ItemInfo(known=True, content=True, ended=None)
ENDLESS_NO_CONTENT: Final = ItemInfo(known=True, content=False, ended=None)

# Values in the place of a reason for the end while there is none.
_NOT_STOPPED: Final = frozenset(("", "null", "none", "finish_reason_unspecified"))
# Fields of a part that are not content.
_ABOUT_A_PART: Final = frozenset(
    """type index id role status phase format part_kind annotations citation citations logprobs
    signature encrypted_content expires_at cache_control thought thought_signature
    thoughtSignature video_metadata videoMetadata media_resolution mediaResolution part_metadata
    partMetadata speech_metadata document_metadata spreadsheet_metadata audio_metadata
    media_processing""".split()
)
# Parts of these types hold no content.
_IDLE_PARTS: Final = frozenset(
    "fallback mcp_tool_listing mcp_list_tools additional_tools compaction".split()
)
# Fields in which a message holds content, in the spelling of any provider.
_CONTENT_FIELDS: Final = (
    "content",
    "reasoning_content",  # deepseek and many more
    "reasoning",  # openrouter, groq, vllm
    "tool_calls",
    "refusal",
    "thinking",  # ollama
    "function_call",
    "audio",
    "images",
    "reasoning_details",  # openrouter
    "thinking_blocks",  # litellm
    "executed_tools",  # groq
    "tool_call_chunks",  # langchain
)


def each_type(names: str, item_format: ItemFormat) -> dict[str, ItemFormat]:
    """Return ``{name: format}`` for names of types or fields with the same format."""
    return dict.fromkeys(names.split(), item_format)


def with_fields(names: str, formats: Mapping[str, ItemFormat]) -> dict[str, ItemFormat]:
    """Return the same formats for items that have no other fields than these."""
    fields = frozenset(names.split())
    silent = fields - _SAYING
    return {
        name: each._replace(names=silent if each is NEVER_CONTENT else fields)
        for name, each in formats.items()
    }


def is_proven(item_format: ItemFormat, fields: dict[str, Any], item: object) -> bool:
    """Return whether an item that looks like one of a format has nothing that others have not.

    The models of SDKs declare their fields, and new releases may add some.
    """
    names = item_format.names
    if names is None or names.issuperset(fields):
        return True
    if type(item).__module__.partition(".")[0] in _SDKS:
        return True
    is_silent = item_format.inspect is NEVER_CONTENT.inspect
    return not any(
        name not in names
        and is_filled(value)
        and (type(value) not in _NUMBERS or (is_silent and name not in _BESIDE_A_PING))
        for name, value in islice(fields.items(), MOST_FIELDS)
    )


def is_filled(value: object) -> bool:
    """Return whether a field holds anything, without asking a foreign object for its truth."""
    if value is None or value is False:
        return False
    cls = type(value)
    if cls is str or cls is list or cls is dict:
        return bool(value)
    if issubclass(cls, str):
        return str.__len__(cast("str", value)) > 0
    if issubclass(cls, (bytes, bytearray, tuple)):
        return len(cast("bytes", value)) > 0
    return cls.__name__ != "Unset"  # mistralai


def has_content(value: object) -> bool:
    """Return whether a field holds content, or a list of parts of which one does."""
    if type(value) is list:
        return any(part_has_content(part) for part in cast("list[Any]", value)[:MOST_PARTS])
    return is_filled(value) and (issubclass(type(value), str) or part_has_content(value))


def part_has_content(part: object) -> bool:
    """Return whether a part of a message holds content."""
    if issubclass(type(part), str):
        return is_filled(part)
    fields = inside(part)
    text = fields.get("text")
    if type(text) is str and text:
        return True
    kind = fields.get("type")
    if type(kind) is str and kind in _IDLE_PARTS:
        return False
    return any(
        is_filled(value) and name not in _ABOUT_A_PART
        for store in (fields, extras(part))
        for name, value in islice(store.items(), MOST_FIELDS)
    )


def message_has_content(fields: dict[str, Any], message: object) -> bool:
    """Return whether a message with these fields holds content."""
    for name in _CONTENT_FIELDS:
        value = fields.get(name)
        if value is not None and has_content(value):
            return True
    extra = extras(message)
    return bool(extra) and message_has_content(extra, None)


def ended_by(stop: object, *, content: bool) -> ItemInfo:
    """Return the info on an item with a reason why the model stopped, if it has one already."""
    reason = "" if stop is None else word(stop)
    if reason in _NOT_STOPPED:
        return CONTENT if content else NO_CONTENT
    verdict = STOPS.get(reason)
    if verdict is None or verdict in COMPLETE:
        return CONTENT_AND_END if content else END
    return failed(verdict, content=content)


def failed(verdict: Verdict, *, content: bool = False) -> ItemInfo:
    """Return the info on an item that is an error."""
    return ItemInfo(known=True, content=content, ended=True, verdict=verdict)


def at_end(info: ItemInfo) -> ItemInfo:
    """Return the info on an item that is the end, with or without a reason."""
    if info.ended:
        return info
    return CONTENT_AND_END if info.content else END


def cut(text: object) -> str:
    """Return the start of a text; empty for anything else."""
    cls = type(text)
    if cls is str:
        return cast("str", text)[:LONGEST]
    if issubclass(cls, str):
        return str.__getitem__(cast("str", text), slice(LONGEST))
    if issubclass(cls, (bytes, bytearray)):
        return bytes(cast("bytes", text)[:LONGEST]).decode("utf-8", "replace")
    return ""


def text_in(content: object) -> str:
    """Return the text of a message's content: a text, or parts of which some hold text."""
    if type(content) is not list:
        return cut(content)
    found: list[str] = []
    left = LONGEST
    for part in islice(cast("list[Any]", content), MOST_PARTS):
        fields = inside(part)
        if fields.get("thought") is True or word(fields.get("type")) in THOUGHTS:
            continue
        text = cut(part) or cut(fields.get("text"))
        found.append(text[:left])
        left -= len(found[-1])
    return "".join(found)


def no_text(fields: dict[str, Any]) -> str:  # as any reader of text
    """Return no text, for items that hold none."""
    return ""


# Ready-made readers for items without anything to decide.


def _inspect_content(fields: dict[str, Any], item: object) -> ItemInfo | None:
    return CONTENT


def _inspect_no_content(fields: dict[str, Any], item: object) -> ItemInfo | None:
    return NO_CONTENT


def _inspect_end(fields: dict[str, Any], item: object) -> ItemInfo | None:
    return END


ALWAYS_CONTENT: Final = ItemFormat(_inspect_content, no_text)
NEVER_CONTENT: Final = ItemFormat(_inspect_no_content, no_text)
ALWAYS_END: Final = ItemFormat(_inspect_end, no_text)
