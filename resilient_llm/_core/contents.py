"""What the arguments of a call contain: how much text, which media, and whether tools are used.

Reads conversations as openai (chat and responses), anthropic, google-genai, and what speaks like
one of them take them, as dicts or as objects of the SDKs. The shapes were read from the types of
openai 3.57, anthropic 2.14 and google-genai 3.6 (November 2026). A conversation is read from its
end, so that the newest message is read even if the whole is too large. What is sent as JSON is
measured after all else (`json_size`), so that it hides nothing, however large it is.
"""

from __future__ import annotations

import sys
from enum import Enum
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._core.base64_text import SHORTEST, is_base64
from resilient_llm._core.held import (
    first,
    held,
    is_bare,
    is_filled,
    items_of,
    module_of,
    record_of,
    text_of,
    word_of,
)
from resilient_llm._core.json_size import size_of_all

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

TOOLS: Final = "tools"
VISION: Final = "vision"
AUDIO: Final = "audio"
DOCUMENTS: Final = "documents"
JSON_SCHEMA: Final = "json_schema"
THINKING: Final = "thinking"

CHARACTERS_PER_TOKEN: Final = 4
TOKENS_PER_MEDIUM: Final = 800
"""Of an image, an audio or a document."""
MOST: Final = 1_000_000
"""Fields and items that are looked at in one argument; of a longer list the rest counts alike."""
BARE: Final = frozenset((bool, bytearray, bytes, complex, float, int, memoryview, type(None)))
"""Classes of arguments without a text."""
_FEW_MESSAGES: Final = 1_000
"""Messages of a list that is read at once."""
FEW: Final = 8
"""Items that must be read before the others are taken for alike."""
DEEPEST: Final = 32

_MEDIA: Final = {
    "image": VISION,
    "image_url": VISION,
    "image_file": VISION,
    "input_image": VISION,
    "computer_screenshot": VISION,
    "video": VISION,
    "video_url": VISION,
    "input_video": VISION,
    "audio": AUDIO,
    "audio_url": AUDIO,
    "input_audio": AUDIO,
    "document": DOCUMENTS,
    "document_url": DOCUMENTS,
    "file": DOCUMENTS,
    "input_file": DOCUMENTS,
}
"""``{type of a part: what it needs}``"""
_TOOL_ENDS: Final = ("_call", "_call_output", "tool_use", "tool_result")
_TOOL_TYPES: Final = frozenset({"tool", "tool_search_output", "additional_tools", "program_output"})
_CONTENT: Final = frozenset({"content", "contents", "messages", "parts"})
"""Fields that hold messages and parts of them, and nothing else."""
_TOOL_ROLES: Final = ("tool", "function")
_TOOL_FIELDS: Final = frozenset(
    "tool_calls function_call functionCall function_response functionResponse tool_call toolCall "
    "tool_response toolResponse executable_code executableCode code_execution_result "
    "codeExecutionResult".split()
)
_DEFINITIONS: Final = frozenset({"tools", "functions"})
_DEFINED_IN: Final = frozenset(
    {"function", "function_declarations", "functionDeclarations", "custom", "tools"}
)
"""Fields of a tool that hold tools."""
_DATA: Final = frozenset({"inline_data", "inlineData", "file_data", "fileData"})
"""Parts of google-genai that hold media."""
_MIME: Final = ("mime_type", "mimeType", "media_type")
_MIMES: Final = frozenset(_MIME)
_PLACES: Final = ("data", "uri", "file_uri", "fileUri", "url")
"""Where what has a media type holds its data."""
_JSON: Final = frozenset(
    "args arguments input input_schema json parameters parameters_json_schema parametersJsonSchema "
    "partial_args response response_json_schema responseJsonSchema response_schema responseSchema "
    "schema".split()
)
"""Fields that hold what is sent as JSON: arguments of tools, their results, and schemas."""
_NO_TEXT: Final = frozenset(
    "b64_json base64 blob cached_content data detail display_name effort encrypted_content "
    "file_data file_uri file_url filename finish_reason format id image_url media_type mime_type "
    "mimeType model name object phase role service_tier signature status stop_reason "
    "stop_sequence thought_signature thoughtSignature type uri url verbosity".split()
)
"""Fields whose texts are no content: names, types, ids, addresses, signatures and data."""
_NO_CONTENT: Final = frozenset(
    "annotations audio_metadata cache_control citations http_options httpOptions labels logprobs "
    "metadata prompt_cache_breakpoint safety_settings tool_config usage video_metadata".split()
)
"""Fields that no model reads."""
_OPTIONS: Final = frozenset(
    "api_key base_url cached_content extra_body extra_headers extra_query id include metadata "
    "modalities model prompt_cache_key reasoning reasoning_effort role safety_identifier "
    "service_tier stop stop_sequences stream_options thinking timeout tool_choice truncation type "
    "verbosity".split()
)
"""Arguments of a call that are no content."""


class Contents:
    """What was found in the arguments of one call.

    Attributes:
        characters: Of texts, of arguments and results of tools, and of their schemas.
        media: Images, audios and documents.
        words: What a model must support to take it.
    """

    __slots__ = ("_around", "_json", "_left", "characters", "media", "words")

    def __init__(self) -> None:
        self.characters = 0
        self.media = 0
        self.words: set[str] = set()
        self._left = MOST
        self._around: set[int] = set()
        """The ids of what is being read, so that what contains itself is read once."""
        self._json: list[tuple[object, Collection[int]]] = []
        """What is sent as JSON, each with the ids of what is around it."""

    @property
    def has_room(self) -> bool:
        """Whether more could be read, so that nothing of the latest argument was left out."""
        return self._left > 0

    def count_tokens(self) -> int:
        """Return the estimate of their size in tokens."""
        characters = self.count_characters()
        return -(-characters // CHARACTERS_PER_TOKEN) + self.media * TOKENS_PER_MEDIUM

    def count_characters(self) -> int:
        """Return the characters of texts, and of what is sent as JSON."""
        return self.characters + size_of_all(self._json)

    def add_arguments(self, arguments: Mapping[str, Any], others: tuple[Any, ...]) -> None:
        """Read all arguments of a call, those that have a name and the others; never raises."""
        for value in others:
            self._read(self.add, value, 0)
        for name, value in (record_of(arguments) or {}).items():
            if name in _DEFINITIONS:
                self._read(self._add_tools, value, 0)
            elif name not in _OPTIONS and not _is_label(name):
                self._read(self.add, value, 0)

    def add_conversation(self, value: object) -> None:
        """Read the messages of a call; never raises."""
        self._read(self.add, value, 0)

    def _read(self, add: Callable[[object, int], object], value: object, depth: int) -> None:
        """Read one of several things. What cannot be read hides only itself, and not the others."""
        if not depth:
            self._left = MOST
        try:
            add(value, depth)
        except Exception:  # noqa: BLE001, S110  # too deep, or changed meanwhile
            pass

    def add(self, value: Any, depth: int) -> None:
        """Read a text, a message, a part of one, or a list of such."""
        cls: Any = type(value)  # pyright: ignore[reportUnknownVariableType]  # of anything
        if cls is dict and len(value) == 2 and self._add_plain(value):  # as nearly all are
            self._left -= 2
        elif is_bare(cls):
            self._left -= 1
        elif issubclass(cls, str):
            if not issubclass(cls, Enum):  # which is an option
                self._add_text(value)
        elif self._enter(value, depth):
            if cls is dict or not self._add_items(value, self.add, depth):
                record = record_of(value)
                if record is not None:
                    self._add_record(record, depth)
                elif module_of(type(value)).startswith("PIL."):  # pyright: ignore[reportUnknownArgumentType]  # of anything
                    self._add_medium(VISION)
            self._around.discard(id(value))

    def _add_items(self, value: object, add: Callable[[object, int], object], depth: int) -> bool:
        """Read the items of a list, the last one first; return False if it is none."""
        found = items_of(value, max(self._left, 1))
        if found is None:
            return False
        (items, unread), count, before = found, 0, (self.characters, self.media)
        is_text = add == self.add
        while items and self._left > 0:
            self._left -= 1
            count += 1
            item = items.pop()
            cls: Any = type(item)  # pyright: ignore[reportUnknownVariableType]  # of anything
            if cls is str and is_text:
                if len(item) < SHORTEST and item[:1] != "d":  # the start of a data: URL
                    self.characters += len(item)
                else:
                    self._add_text(item)
            elif not is_bare(cls):
                self._read(add, item, depth + 1)
        unread += len(items)
        if unread and count >= FEW:
            self.characters += (self.characters - before[0]) * unread // count
            self.media += (self.media - before[1]) * unread // count
        return True

    def _add_plain(self, record: dict[Any, Any]) -> bool:
        """Read a message or a part of one that is a text and nothing else; return whether it is."""
        for name in record:
            if type(name) is not str:
                return False
        text, role = record.get("content"), record.get("role")
        if text is None:
            text, role = record.get("text"), record.get("type")
            is_plain = type(role) is str and role == "text"
        else:
            is_plain = type(role) is str and role not in _TOOL_ROLES
        if not is_plain or type(text) is not str:
            return False
        self._add_text(text)
        return True

    def _enter(self, value: object, depth: int) -> bool:
        """Return whether to look into an object, which ends with discarding it."""
        self._left -= 1
        number = id(value)
        if self._left < 0 or depth > DEEPEST or number in self._around:
            return False
        self._around.add(number)
        return True

    def _add_text(self, value: object) -> None:
        text = value if type(value) is str else text_of(value)
        if not is_base64(text):
            self.characters += len(text)
        elif text.startswith("data:"):
            self._add_medium(_need_of(text[5:64].partition(";")[0]))
        else:  # whatever it shows
            self.media += 1

    def _add_medium(self, word: str) -> None:
        self.media += 1
        self.words.add(word)

    def _add_record(self, record: dict[str, Any], depth: int) -> None:
        kind, role = record.get("type"), record.get("role")
        if kind is not None:
            kind = word_of(kind)
            if kind and self._is_typed(record, kind, depth):
                return
        if not _MIMES.isdisjoint(record):
            mime = first(record, *_MIME)
            if mime is not None and first(record, *_PLACES) is not None:
                self._add_medium(_need_of(word_of(mime)))
                return
        if role is not None and word_of(role) in _TOOL_ROLES:
            self.words.add(TOOLS)
        for name, value in record.items():
            if value is not None:
                self._add_field(name, value, depth)

    def _is_typed(self, record: dict[str, Any], kind: str, depth: int) -> bool:
        """Read what the type of a record says; return whether that is all of it."""
        if (kind in _MEDIA or kind == "media") and not _is_text(record, kind):
            self._add_block(record, kind, depth)
            return True
        if kind.endswith(_TOOL_ENDS) or kind in _TOOL_TYPES or kind.startswith("mcp_"):
            self.words.add(TOOLS)
            if kind == "image_generation_call":  # of which the model sees the image
                self.media += 1
                return True
        elif kind == "reasoning":  # only models that reason take back what one has thought
            self.words.add(THINKING)
        return False

    def _add_field(self, name: str, value: object, depth: int) -> None:
        self._left -= 1
        if self._left < 0:
            return
        cls: Any = type(value)
        if cls is str or issubclass(cls, str):
            if name not in _NO_TEXT and not _is_label(name):
                self.add(value, depth)
        elif name in _CONTENT:
            self.add(value, depth + 1)
        else:
            self._add_special(name, value, depth)

    def _add_special(self, name: str, value: object, depth: int) -> None:
        if name in _TOOL_FIELDS and is_filled(value):
            self.words.add(TOOLS)
        if name in _DATA:
            self._add_medium(_need_of(word_of(held(value, *_MIME))))
        elif name == "audio" and record_of(value) is not None:
            self._add_medium(AUDIO)
        elif name == "images" and (images := items_of(value, 1)) is not None:  # ollama
            self.media += len(images[0]) + images[1]
            self.words.update([VISION] if images[0] else [])
        elif name in _DEFINITIONS:
            self._add_tools(value, depth + 1)
        elif name in _JSON and items_of(value, 1) is None:
            self._add_json(value)
        elif name not in _NO_CONTENT:
            self.add(value, depth + 1)

    def _add_block(self, block: dict[str, Any], kind: str, depth: int) -> None:
        """Read a part that is an image, an audio or a document."""
        mime = word_of(first(block, *_MIME))
        inner = block.get("file") if kind == "file" else block
        for each in () if mime else (held(inner, "file_data"), block.get("image_url")):
            if issubclass(type(each), str) and text_of(each).startswith("data:"):
                mime = text_of(each)[5:64].partition(";")[0]
        self._add_medium(_need_of(mime) if mime else _MEDIA.get(kind, DOCUMENTS))
        if kind != "document":
            return
        for name in ("title", "context"):
            value = block.get(name)
            if issubclass(type(value), str):
                self._add_text(value)
        source = block.get("source")
        if word_of(held(source, "type")) == "text":
            text = held(source, "data")
            if issubclass(type(text), str):
                self._add_text(text)
        elif word_of(held(source, "type")) == "content":
            self.add(held(source, "content"), depth + 1)

    def _add_tools(self, value: object, depth: int) -> None:
        """Read the definitions of tools: their names, descriptions and schemas."""
        if not is_filled(value):
            return
        self.words.add(TOOLS)
        function = value.__func__ if type(value) is MethodType else value
        if type(function) is FunctionType:  # google-genai makes a schema of it
            for text in (function.__name__, function.__doc__):
                self.characters += len(text_of(text)) if issubclass(type(text), str) else 0
            return
        if is_bare(type(value)) or not self._enter(value, depth):
            return
        if not self._add_items(value, self._add_tools, depth):
            for name, field in (record_of(value) or {}).items():
                self._left -= 1
                if field is None or self._left < 0:
                    continue
                if issubclass(type(field), str):
                    if name == "name" or (name not in _NO_TEXT and not _is_label(name)):
                        self._add_text(field)
                elif name in _DEFINED_IN:
                    self._add_tools(field, depth + 1)
                elif name not in _NO_CONTENT and type(field) is not bool:
                    self._add_json(field)
        self._around.discard(id(value))

    def _add_json(self, value: object) -> None:
        self._json.append((value, tuple(self._around)))


def _is_text(record: dict[str, Any], kind: str) -> bool:
    """Return whether what is called a document or a file is a text with a name."""
    if kind not in ("document", "file") or first(record, "source", "file", *_PLACES) is not None:
        return False
    return issubclass(type(first(record, "text", "content")), str)


def _is_label(name: str) -> bool:
    """Return whether a field of this name holds an id or the like, and no content."""
    return name.endswith(("_id", "_ids", "Id", "mime_type"))


def _need_of(mime: str) -> str:
    """Return what data of a media type needs."""
    kind = mime.partition("/")[0].lower()
    return VISION if kind in ("image", "video") else AUDIO if kind == "audio" else DOCUMENTS


def plain_characters(value: object) -> int:
    """Return how many characters of text an argument has; -1 if that takes a `Contents`.

    For a text, and for a short list of messages that are a text and nothing else.
    """
    cls = type(value)
    if cls is str:
        return _plain_text(cast("str", value))
    if is_bare(cls):
        return 0
    if cls is not list:
        return -1
    messages, characters = cast("list[object]", value), 0
    if len(messages) > _FEW_MESSAGES:
        return -1
    for message in messages:
        size = _plain_message(cast("dict[Any, Any]", message)) if type(message) is dict else -1
        if size < 0:
            return -1
        characters += size
    return characters


def _plain_message(message: dict[Any, Any]) -> int:
    if len(message) != 2:
        return -1
    for name in message:
        if type(name) is not str:
            return -1
    text, role = message.get("content"), message.get("role")
    if type(text) is not str or type(role) is not str or role in _TOOL_ROLES:
        return -1
    return _plain_text(text)


def size_of(value: object) -> int:
    """Return the same; a number far below 0 if that takes a `Contents`."""
    size = plain_characters(value)
    return size if size >= 0 else -sys.maxsize


def _plain_text(text: str) -> int:
    size = len(text)
    return -1 if (size >= SHORTEST or text[:1] == "d") and is_base64(text) else size


def are_contents(names: Sequence[str]) -> bool:
    """Return whether arguments of all these names are read as contents."""
    return not any(name in _OPTIONS or name in _DEFINITIONS or _is_label(name) for name in names)


def estimate(arguments: Mapping[str, Any], others: tuple[Any, ...] = ()) -> int:
    """Return the estimate of a call's input in tokens; never raises.

    Characters / 4 of all contents, rounded up, and 800 for each image, audio and document. Bytes
    and base64 are no text.

    Args:
        arguments: ``{name: value}``.
        others: Arguments without a name.
    """
    characters = _plain_arguments(arguments, others)
    if characters >= 0:
        return -(-characters // CHARACTERS_PER_TOKEN)
    contents = Contents()
    contents.add_arguments(arguments, others)
    return contents.count_tokens()


def _plain_arguments(arguments: Mapping[str, Any], others: tuple[Any, ...]) -> int:
    """Return how many characters of text some arguments have; -1 if that takes a `Contents`."""
    if type(arguments) is not dict:
        return -1
    characters = 0
    for name, value in cast("dict[Any, Any]", arguments).items():
        if type(name) is not str or name in _DEFINITIONS:
            return -1
        if type(value) is float or value is None or name in _OPTIONS or _is_label(name):
            continue
        size = plain_characters(value)
        if size < 0:
            return -1
        characters += size
    for value in others:
        size = plain_characters(value)
        if size < 0:
            return -1
        characters += size
    return characters
