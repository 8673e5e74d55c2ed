"""The text of the last user message of a conversation, and whether a conversation can be read.

Reads conversations as openai (chat and responses), anthropic and google-genai take them, as dicts
or as objects of the SDKs, from their end. The shapes were read from the types of openai 3.57,
anthropic 2.14 and google-genai 3.6 (November 2026). Nothing is guessed: what may be a user message
or a part of one, and cannot be read, makes the text unknown.
"""

from __future__ import annotations

from typing import Any, Final

from resilient_llm._core.contents import DEEPEST, MOST
from resilient_llm._core.held import (
    by_name,
    first,
    is_filled,
    is_given,
    items_of,
    module_of,
    record_of,
    text_of,
    word_of,
)

_USER: Final = "user"
_TEXTS: Final = ("text", "input_text")
"""Types of parts that are a text."""
_MEDIA: Final = (
    "image audio document file media video input_image input_audio input_file input_video "
    "image_url audio_url document_url video_url image_file"
).split()
"""Types of other parts of user messages."""
_UNKNOWN: Final = ("item_reference",)
"""Types of what stands for a message that the provider has."""
_RESULTS: Final = ("function_response", "functionResponse")
_OF_MODEL: Final = (
    *_RESULTS,
    "function_call",
    "functionCall",
    "tool_call",
    "toolCall",
    "tool_response",
    "toolResponse",
    "executable_code",
    "executableCode",
    "code_execution_result",
    "codeExecutionResult",
)
"""Fields of google-genai's parts that are no input of a user."""
_DATA: Final = ("inline_data", "inlineData", "file_data", "fileData", "uri")
_CONTENT: Final = ("content", "parts")
_INNER: Final = ("content", "contents", "messages", "parts")
"""Fields that hold messages and parts of them."""


class _UnreadableError(Exception):
    """What comes next may be a part of a user message, and cannot be read."""


def user_text(conversation: object) -> str | None:
    """Return the text parts of the last user message, joined by newlines.

    A text is one user message. Texts and other parts that stand in a list without a message around
    them are one, too, as google-genai takes them. A message that holds nothing but results of
    tools is not one of a user, though anthropic calls it so.

    Runs no code of what it reads, and never raises. An iterator is not read.

    Returns:
        The text, empty if the message has no text part; None if there is no user message, or it
        cannot be read.
    """
    if type(conversation) is str:
        return conversation
    if conversation is None:
        return None
    try:
        return _user_text(conversation)
    except Exception:  # noqa: BLE001  # unreadable, or changed meanwhile
        return None


def is_readable(conversation: object) -> bool:
    """Return whether all messages and parts of a conversation can be read; never raises.

    It is not if there is none, nor if one of them is an iterator, or an object that is no data.
    """
    if type(conversation) is str:
        return True
    try:
        return is_given(conversation) and _is_readable(conversation)
    except Exception:  # noqa: BLE001  # as above
        return False


def _user_text(conversation: object) -> str | None:
    if issubclass(type(conversation), str):
        return text_of(conversation)
    text = _plain_text(conversation)
    if text is not None:
        return text
    found = items_of(conversation, MOST)
    items = [conversation] if found is None else found[0]
    parts: list[object] = []
    while items:
        item = items.pop()
        if not is_given(item):
            continue
        content = _content_of(item)
        if content is None:
            parts.append(item)
            continue
        if parts:
            break
        if content and not all(map(_is_result, content)):
            return _joined(content)
    parts.reverse()
    return _joined(parts) if parts else None


def _plain_text(conversation: Any) -> str | None:
    """Return the text of a last user message that is a text, as most are; None for all others."""
    if type(conversation) is not list or not conversation:
        return None
    last: Any = conversation[-1]  # pyright: ignore[reportUnknownVariableType]  # of anything
    if type(last) is not dict:  # pyright: ignore[reportUnknownArgumentType]  # of anything
        return None
    record = by_name(last)  # pyright: ignore[reportUnknownArgumentType]  # of anything
    content = record.get("content")
    return content if type(content) is str and record.get("role") == _USER else None


def _content_of(item: object) -> list[Any] | None:
    """Return the parts of a user message, none for another message; None for a part alone.

    Raises:
        _UnreadableError: If it may be a user message, and cannot be read.
    """
    if issubclass(type(item), str) or _is_picture(item):
        return None
    found = items_of(item, MOST)
    if found is not None:  # google-genai takes a list of parts as a message
        return _all(found)
    record = record_of(item)
    if record is None:
        raise _UnreadableError
    role = word_of(record.get("role"))
    content = first(record, *_CONTENT)
    if role:
        # A user message without a part still is the last one.
        return (_parts_of(content) or [""]) if role == _USER else []
    kind = word_of(record.get("type"))
    if kind in _UNKNOWN:
        raise _UnreadableError
    if kind and kind != "message":
        return None if kind in _TEXTS or kind in _MEDIA else []
    if first(record, *_OF_MODEL) is not None:
        return []
    if content is not None:
        return _parts_of(content)
    if first(record, "text", *_DATA) is None:
        raise _UnreadableError
    return None


def _parts_of(content: object) -> list[Any]:
    if not is_given(content):
        return []
    found = items_of(content, MOST)
    return [content] if found is None else _all(found)


def _all(found: tuple[list[Any], int]) -> list[Any]:
    items, unread = found
    if unread:
        raise _UnreadableError
    return items


def _joined(parts: list[Any]) -> str:
    texts = [_text_of_part(part) for part in parts]
    return "\n".join([text for text in texts if text is not None])


def _text_of_part(part: object) -> str | None:
    """Return the text of a part of a message; None if it is another part."""
    if issubclass(type(part), str):
        return text_of(part)
    if not is_given(part) or _is_picture(part):
        return None
    record = record_of(part)
    if record is None:
        raise _UnreadableError
    kind = word_of(record.get("type"))
    if (kind and kind not in _TEXTS) or record.get("thought") is True:
        return None
    text = first(record, "text")
    if text is None:
        return None
    if not issubclass(type(text), str):
        raise _UnreadableError
    return text_of(text)


def _is_result(part: object) -> bool:
    """Return whether a part of a message is the result of a tool."""
    if issubclass(type(part), str):
        return False
    record = record_of(part)
    if record is None:
        return False
    if word_of(record.get("type")).endswith("tool_result"):
        return True
    return any(is_filled(first(record, name)) for name in _RESULTS)


def _is_picture(value: object) -> bool:
    return module_of(type(value)).startswith("PIL.")


def _is_readable(conversation: object) -> bool:
    unread: list[tuple[object, int]] = [(conversation, 0)]
    seen: set[int] = set()
    left = MOST
    while unread:
        value, depth = unread.pop()
        left -= 1
        if issubclass(type(value), str) or not is_given(value) or id(value) in seen:
            continue
        seen.add(id(value))
        found = items_of(value, MOST)
        if found is not None:
            unread += [(each, depth + 1) for each in found[0]]
            left -= found[1]
        elif (record := record_of(value)) is not None:
            unread += [(record[name], depth + 1) for name in _INNER if name in record]
        elif not _is_picture(value):
            return False
        if depth > DEEPEST or left < len(unread):
            return False
    return True
