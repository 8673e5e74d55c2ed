"""How many tokens an answer or a stream says that it used, one file per protocol.

To add a protocol: write ``usage/<provider>.py`` with ``read``, which makes a `Usage` of what the
provider calls so, or returns None if it is not its own; add it to `_READERS`, and the place where
streams have it to `_in_item`; add recorded answers to ``tests/answers/test_usage.py``. In every
protocol, ``input`` is the whole request with what came from a cache, and ``output`` the whole
answer with its reasoning.

Answers are read as in `answers`: what objects hold, nothing that they compute, and no SDK is
imported.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.contents import Contents
from resilient_llm.answers import _items, _sse
from resilient_llm.answers._reading import LONGEST, extras, inside, items
from resilient_llm.answers.usage import (
    anthropic,
    bedrock,
    cohere,
    google,
    litellm,
    mistral,
    ollama,
    openai_chat,
    openai_responses,
)
from resilient_llm.answers.usage._counts import held

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient_llm._values.usage import Usage

__all__ = ["READER", "StreamUsage", "characters_in", "usage_of"]

_READERS: Final[tuple[Callable[[Mapping[str, Any]], Usage | None], ...]] = (
    litellm.read,  # before the next, whose fields it has, too
    openai_chat.read,
    openai_responses.read,  # before anthropic's, whose fields it has, too
    anthropic.read,
    google.read,
    bedrock.read,
    cohere.read,
)
"""In the order in which they are asked; the first that recognises a usage reads it."""
_META: Final = "meta"
_GROQ: Final = "x_groq"
_HOLDERS: Final = ("usage", "usage_metadata", "usageMetadata", _META)
"""Where answers and chunks have it."""
_IN_EVENTS: Final = (
    ("message", anthropic.usage_in_event),
    ("response", openai_responses.usage_in_event),
    ("metadata", bedrock.usage_in_event),
    ("delta", cohere.usage_in_event),
    ("response", cohere.usage_in_event),
    ("data", mistral.usage_in_event),
)
"""``(field, reader)``: where events have it that hold a part of an answer."""
_TEXTS: Final = ("choices", "candidates", "output", "message", "content", "response", "text")
"""Where answers have their text; the first that there is has all of it."""
_NOTHING: Final[dict[str, Any]] = {}
_BARE: Final = frozenset((type(None), int, float, bool, complex))


def usage_of(answer: object) -> Usage | None:
    """Return what a whole answer says that it used; None if it does not say. Never raises."""
    try:
        if type(answer) in _BARE:
            return None
        return _read(_record_in(answer, inside(answer)))
    except Exception:  # noqa: BLE001  # a foreign object may raise anything, and must not fail a call
        return None


def characters_in(answer: object) -> int:
    """Return how many characters of text a whole answer has, 0 if it has none. Never raises.

    For answers without a usage. Of several answers to one question all count, as they are billed.
    """
    contents = Contents()
    try:
        fields = _NOTHING if type(answer) in _BARE else inside(answer)
        for name in _TEXTS:
            found = fields.get(name)
            if found is not None:
                contents.add_conversation([_text_in(each) for each in items(found)] or found)
                return contents.characters
    except Exception:  # noqa: BLE001  # as above
        return 0
    contents.add_conversation(answer)
    return contents.characters


def _text_in(answer: object) -> object:
    """Return the message in one of several answers to one question; anything else as it is."""
    fields = _NOTHING if type(answer) in _BARE else inside(answer)
    for name in ("message", "content"):
        found = fields.get(name)
        if found is not None:
            return found
    return answer


class StreamUsage:
    """What the items of one stream say that they used, so far. The last one counts.

    Anthropic tells of the request first and of the answer at the end; these two are put together.
    Used by one thread at a time, as a stream is.
    """

    __slots__ = ("_before", "_record")

    def __init__(self) -> None:
        self._record: Mapping[str, Any] | None = None
        self._before: Mapping[str, Any] | None = None
        """The record before that one, which counts if that one cannot be read."""

    def add(self, item: object) -> None:
        """Look at an item of the stream. Never raises."""
        try:
            kind = type(item)
            if issubclass(kind, (str, bytes, bytearray)):
                self._add_lines(item)
                return
            fields = _NOTHING if kind in _BARE else inside(item)
            if "chunk" in fields:
                raw = held(fields["chunk"]).get("bytes")  # of Bedrock's InvokeModel
                if type(raw) is bytes and len(raw) <= LONGEST:
                    self.add(json.loads(raw))
                return
            record = _record_in(item, fields)
            if record is not None:
                self._take(record)
        except Exception:  # noqa: BLE001  # as above
            return

    def _add_lines(self, text: object) -> None:
        """Look at a text, which may be raw lines of a provider's stream."""
        for each in _sse.items_in(text) or ():
            if each is not _sse.End:
                self.add(each)

    def _take(self, record: Mapping[str, Any]) -> None:
        before = self._record
        if before is not None and "output_tokens" in record and "input_tokens" in before:
            given = {name: value for name, value in record.items() if value is not None}
            record = {**before, **given}
        self._before, self._record = before, record

    @property
    def usage(self) -> Usage | None:
        """What it came to; None if no item has told."""
        try:
            return _read(self._record) or _read(self._before)
        except Exception:  # noqa: BLE001  # as above
            return None


class _Reader:
    """What calls ask about what they used."""

    usage_of = staticmethod(usage_of)
    characters_in = staticmethod(characters_in)
    text_of = staticmethod(_items.text_of)
    of_stream = StreamUsage


READER: Final = _Reader()


def _read(record: Mapping[str, Any] | None) -> Usage | None:
    if record is None:
        return None
    for read in _READERS:
        found = read(record)
        if found is not None:
            return found
    return ollama.read(record)


def _record_in(item: object, fields: dict[str, Any]) -> Mapping[str, Any] | None:
    """Return what an answer or an item, which holds these fields, tells of its usage, or None."""
    if "choices" in fields:  # of nearly all items
        found = fields.get("usage")
        if found is None and type(item) is not dict:
            more = extras(item)  # litellm's usage is there, and with openai's client Groq's
            found = more.get("usage")
            if found is None:
                found = held(more.get(_GROQ)).get("usage")
        if found is None and _GROQ in fields:
            found = held(fields[_GROQ]).get("usage")
        return None if found is None else held(found)
    for name in _HOLDERS:
        if name in fields:
            record = held(fields[name])
            if record and (name != _META or cohere.is_meta(record)):
                return record
    if "eval_count" in fields or "prompt_eval_count" in fields:
        return fields
    for name, usage_in in _IN_EVENTS:
        if name in fields:
            record = held(usage_in(fields))
            if record:
                return record
    return held(fields[bedrock.METRICS]) if bedrock.METRICS in fields else None
