"""How many characters a model has written in an item of a stream: what is billed as output.

Text, reasoning, refusals and the arguments of tools, of all answers to one question. What an SDK
gives twice counts once: events of helpers repeat raw events, and some servers give one reasoning
under two names. Base64 of audio and images is no text. Of an item of an unknown format only the
text counts that `_items` finds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._core.contents import Contents
from resilient_llm.answers import _items, _sse
from resilient_llm.answers._item import cut, is_filled
from resilient_llm.answers._reading import LONGEST, MOST_CHOICES, extras, inside, items

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_REASONING: Final = frozenset(
    "reasoning_content reasoning thinking reasoning_details thinking_blocks".split()
)
"""Names under which a message has its reasoning, some servers twice."""
_CALLS: Final = frozenset("tool_calls function_call".split())
_TEXTS: Final = frozenset("content refusal tool_plan".split())
_OF_A_DELTA: Final = ("text", "thinking", "partial_json", "content")
_OF_A_PART: Final = (
    ("function_call", "args"),
    ("functionCall", "args"),
    ("executable_code", "code"),
    ("executableCode", "code"),
)
"""``(field, where its content is)`` of a part of Google's."""
_MOST_WRAPPERS: Final = 3


def characters_of(item: object) -> int:
    """Return how many characters the model has written in an item of a stream. Never raises."""
    try:
        return _of_item(item, _MOST_WRAPPERS)
    except Exception:  # noqa: BLE001  # a foreign object may raise anything, and must not fail a call
        return 0


def characters_in_choices(choices: object) -> int:
    """Return the same of all choices of an answer or of a chunk."""
    return sum(_in_choice(choice) for choice in items(choices, MOST_CHOICES))


def characters_in_candidates(candidates: object) -> int:
    """Return the same of all of Google's candidates."""
    return sum(
        _in_part(part)
        for candidate in items(candidates, MOST_CHOICES)
        for part in items(inside(inside(candidate).get("content")).get("parts"))
    )


def size_of(value: object) -> int:
    """Return the characters of texts and of arguments of tools, however they are held."""
    if value is None:
        return 0
    if type(value) is str:
        return len(value)
    contents = Contents()
    contents.add_conversation(value)
    return contents.count_characters()


def _of_item(item: object, wrappers: int) -> int:
    if issubclass(type(item), (str, bytes, bytearray)):
        return _in_lines(item, wrappers)
    fields = inside(item)
    if "choices" in fields:
        return characters_in_choices(fields["choices"])
    kind = fields.get("type")
    if type(kind) is str:
        reader = _BY_TYPE.get(kind)
        if reader is not None:
            return reader(fields)
        if kind.startswith("response.") and kind.endswith(".delta"):
            delta = fields.get("delta")
            return len(delta) if type(delta) is str and not kind.endswith("audio.delta") else 0
    for name, reader in _BY_FIELD.items():
        if name in fields:
            return reader(fields)
    inner = _unwrapped(fields) if wrappers else None
    return len(_items.text_of(item)) if inner is None else _of_item(inner, wrappers - 1)


def _in_lines(text: object, wrappers: int) -> int:
    """Return the characters in raw lines of a provider, or those of any other text."""
    lines = _sse.items_in(text)
    if lines is None or not all(
        line is _sse.End or _items.inspect_item(line).known for line in lines
    ):
        return len(cut(text))
    return sum(_of_item(line, wrappers) for line in lines if line is not _sse.End)


def _unwrapped(fields: Mapping[str, Any]) -> object:
    """Return the item inside another one, or None."""
    for name in ("data", "chunk"):  # mistralai; openai's helper
        inner = fields.get(name)
        if inner is not None and "choices" in inside(inner):
            return inner
    raw = inside(fields.get("chunk")).get("bytes")  # bedrock's invoke_model
    return json.loads(raw) if type(raw) is bytes and len(raw) <= LONGEST else None


def _in_choice(choice: object) -> int:
    fields = inside(choice)
    for name in ("delta", "message"):
        message = fields.get(name)
        if message is not None:
            return _in_message(message)
    return size_of(fields.get("text"))


def _in_message(message: object) -> int:
    """Return the characters of a message of OpenAI's, and of those that are derived from it."""
    if type(message) is dict:
        return _in_fields(cast("dict[str, Any]", message))
    fields, more = inside(message), extras(message)
    return _in_fields({**more, **fields} if more else fields)


def _in_fields(fields: Mapping[str, Any]) -> int:
    size = reasoning = 0
    for name, value in fields.items():
        if value is None:
            continue
        if name in _TEXTS:
            size += len(value) if type(value) is str else size_of(value)
        elif name in _REASONING:
            reasoning = max(reasoning, size_of(value))
        elif name in _CALLS:
            size += sum(map(_in_call, items(value) or [value]))
        elif name == "audio":
            size += size_of(inside(value).get("transcript"))
    return size + reasoning


def _in_call(call: object) -> int:
    """Return the characters of the arguments of a call of a tool."""
    fields = inside(call)
    arguments = inside(fields.get("function")).get("arguments")
    if arguments is None:
        arguments = fields.get("arguments")
    return len(arguments) if type(arguments) is str else _of_json(arguments)


def _in_part(part: object) -> int:
    """Return the characters of a part of Google's: a text, a call, or code to be run."""
    fields = inside(part)
    size = size_of(fields.get("text"))
    for name, where in _OF_A_PART:
        value = fields.get(name)
        if value is not None:
            held = inside(value).get(where)
            size += len(held) if type(held) is str else _of_json(held)
    return size


def _of_json(value: object) -> int:
    """Return the characters of what is sent as JSON; an empty object is the place of one."""
    return size_of({"input": value}) if is_filled(value) else 0


# Items by their type.


def _in_block_delta(fields: Mapping[str, Any]) -> int:
    delta = inside(fields.get("delta"))
    for name in _OF_A_DELTA:
        value = delta.get(name)
        if type(value) is str:
            return len(value)
    return 0


def _in_block_start(fields: Mapping[str, Any]) -> int:
    """Return the characters of a block that does not begin empty; results are of tools."""
    block = inside(fields.get("content_block"))
    return sum(size_of(block.get(name)) for name in ("text", "thinking")) + _of_json(
        block.get("input")
    )


def _in_helper(fields: Mapping[str, Any]) -> int:
    """Return 0 for an event that repeats the raw event before it."""
    return 0 if "snapshot" in fields else size_of(fields.get("text"))


def _in_cohere(fields: Mapping[str, Any]) -> int:
    return _in_message(inside(fields.get("delta")).get("message"))


def _in_cohere_1(fields: Mapping[str, Any]) -> int:
    kind = fields["event_type"]
    if type(kind) is not str or kind not in ("text-generation", "tool-calls-chunk"):
        return 0  # its last event repeats the whole answer
    call = inside(fields.get("tool_call_delta"))
    return sum(
        size_of(each) for each in (fields.get("text"), call.get("parameters"), call.get("text"))
    )


def _in_langchain(fields: Mapping[str, Any]) -> int:
    content, more = fields.get("content"), inside(fields.get("additional_kwargs"))
    size = size_of(content)
    if type(content) is list:  # with the calls among its parts
        return size
    chunks = items(fields.get("tool_call_chunks"))
    if chunks:
        more = {name: value for name, value in more.items() if name not in _CALLS}
        size += sum(size_of(inside(each).get("args")) for each in chunks)
    return size + _in_fields(more)


_BY_TYPE: Final[dict[str, Callable[[Mapping[str, Any]], int]]] = {
    "content_block_delta": _in_block_delta,
    "content_block_start": _in_block_start,
    **dict.fromkeys(("text", "thinking"), _in_helper),
    **dict.fromkeys(
        (
            "content-start",
            "content-delta",
            "tool-plan-delta",
            "tool-call-start",
            "tool-call-delta",
        ),
        _in_cohere,
    ),
    "AIMessageChunk": _in_langchain,
}


# Items by a field.


def _in_candidates(fields: Mapping[str, Any]) -> int:
    return characters_in_candidates(fields["candidates"])


def _in_converse(fields: Mapping[str, Any]) -> int:
    return size_of(inside(fields["contentBlockDelta"]).get("delta"))


def _in_ollama(fields: Mapping[str, Any]) -> int:
    return _in_message(fields.get("message")) + sum(
        size_of(fields.get(name)) for name in ("response", "thinking")
    )


_BY_FIELD: Final[dict[str, Callable[[Mapping[str, Any]], int]]] = {
    "candidates": _in_candidates,
    "contentBlockDelta": _in_converse,
    "done": _in_ollama,
    "event_type": _in_cohere_1,
}
