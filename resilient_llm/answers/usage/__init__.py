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
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._values.usage import MOST_TOKENS
from resilient_llm.answers import _sse
from resilient_llm.answers._reading import LONGEST, MOST_CHOICES, extras, inside
from resilient_llm.answers.usage import (
    _raw,
    anthropic,
    bedrock,
    cohere,
    google,
    langchain,
    litellm,
    mistral,
    ollama,
    openai_chat,
    openai_responses,
    pydantic_ai,
)
from resilient_llm.answers.usage._counts import add_up, held, take_larger
from resilient_llm.answers.usage._written import (
    characters_in_candidates,
    characters_in_choices,
    characters_of,
    size_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient_llm._values.usage import Usage

__all__ = ["READER", "StreamUsage", "characters_in", "characters_of", "usage_of"]

_READERS: Final[tuple[Callable[[Mapping[str, Any]], Usage | None], ...]] = (
    pydantic_ai.read,  # before others, whose fields it has, too
    litellm.read,  # before the next, whose fields it has, too
    openai_chat.read,
    langchain.read,  # before the next, whose fields it has, too
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
    ("interaction", google.usage_in_event),
)
"""``(field, reader)``: where events have it that hold a part of an answer."""
_TEXTS: Final = ("output", "message", "content", "response", "text")
"""Where other answers have their text; the first that there is has all of it."""
_BESIDE: Final = ("thinking", "reasoning_content", "refusal", "tool_calls")
"""What messages and older answers have beside their text."""
_NOTHING: Final[dict[str, Any]] = {}
_attribute: Final[Callable[[Any, str], Any]] = object.__getattribute__
_BARE: Final = frozenset((type(None), int, float, bool, complex))


def usage_of(answer: object) -> Usage | None:
    """Return what a whole answer says that it used; None if it does not say. Never raises."""
    try:
        if type(answer) in _BARE:
            return None
        fields = inside(answer)
        if _raw.is_raw(fields):
            fields = _raw.body_in(fields) or _NOTHING
            answer = fields
        return _read(_record_in(answer, fields))
    except Exception:  # noqa: BLE001  # a foreign object may raise anything, and must not fail a call
        return None


def plain_counts(answer: object) -> tuple[int, int] | None:
    """Return the tokens of input and of output of a whole answer that tells nothing else.

    For the answers of most chat completions; None for all others. Never raises.
    """
    try:
        # By a flag of type `Any`, since a cast would cost as much as half of this.
        is_dict: Any = type(answer) is dict
        fields: Any = answer if is_dict else _plain_fields(answer)
        told: Any = fields["usage"]
        is_dict = type(told) is dict
        record: Any = told if is_dict else _plain_fields(told)
        sent, received = record["prompt_tokens"], record["completion_tokens"]
        total = record["total_tokens"]
        if (
            len(record) == 3  # or there are parts with a price of their own
            and type(sent) is type(received) is type(total) is int
            and sent >= 0
            and received >= 0
            and sent + received  # beside a text zeros may stand for no usage
            and total <= sent + received <= MOST_TOKENS
        ):
            return sent, received
    except Exception:  # noqa: BLE001, S110  # as above
        pass
    return None


def _plain_fields(thing: object) -> Mapping[str, Any]:
    """Return what an object holds; nothing if it may hold more than its attributes."""
    if issubclass(type(thing), dict) or extras(thing):
        return _NOTHING
    return _attribute(thing, "__dict__")


def characters_in(answer: object) -> int:
    """Return how many characters the model has written in a whole answer. Never raises.

    For answers without a usage: text, reasoning, refusals and arguments of tools. Of several
    answers to one question all count, as they are billed.
    """
    try:
        fields = _NOTHING if type(answer) in _BARE else inside(answer)
        if _raw.is_raw(fields):
            fields = _raw.body_in(fields)
            if fields is None:
                return 0
            answer = fields
        if fields.get("choices") is not None:
            return characters_in_choices(fields["choices"])
        if fields.get("candidates") is not None:
            return characters_in_candidates(fields["candidates"])
        for name in _TEXTS:
            found = fields.get(name)
            if found is not None:
                # A list has them among its parts.
                beside = () if type(found) is list else _BESIDE
                return size_of(fields[name]) + sum(size_of(fields.get(each)) for each in beside)
        return size_of(answer)
    except Exception:  # noqa: BLE001  # as above
        return 0


class StreamUsage:
    """What the items of one stream say that they used, so far.

    What they say is of the stream so far, and no count becomes less: of each count the largest one
    is taken. Anthropic tells of the request first and of the answer at the end; these two are put
    together so. Chunks of LangChain tell of themselves and are added up. Used by one thread at a
    time, as a stream is.
    """

    __slots__ = ("_first", "_found")

    def __init__(self) -> None:
        self._first: Mapping[str, Any] | None = None
        """The first record, as the item holds it."""
        self._found: dict[str, Any] | None = None
        """What it and others came to, once there are others."""

    def add(self, item: object) -> None:
        """Look at an item of the stream. Never raises."""
        try:
            kind = type(item)
            if issubclass(kind, (str, bytes, bytearray)):
                self._add_lines(item)
                return
            fields = _NOTHING if kind in _BARE else inside(item)
            if "chunk" in fields:
                self._add_chunk(fields["chunk"])
                return
            record = _record_in(item, fields)
            if record is not None:
                is_part = langchain.HOLDER in fields and langchain.is_metadata(record)
                self._take(record, is_part=is_part)
        except Exception:  # noqa: BLE001  # as above
            return

    def _add_chunk(self, chunk: object) -> None:
        """Look at the chunk in an event: of openai's helper, or Bedrock's raw one."""
        fields = inside(chunk)
        if "choices" in fields:  # openai's ``chat.completions.stream()``
            self.add(chunk)
            return
        raw = fields.get("bytes")  # of Bedrock's InvokeModel
        if type(raw) is bytes and len(raw) <= LONGEST:
            self.add(json.loads(raw))

    def _add_lines(self, text: object) -> None:
        """Look at a text, which may be raw lines of a provider's stream."""
        for each in _sse.items_in(text) or ():
            if each is not _sse.End:
                self.add(each)

    def _take(self, record: Mapping[str, Any], *, is_part: bool) -> None:
        if self._found is None:
            if self._first is None:
                self._first = record
                return
            self._found = dict(self._first)
        (add_up if is_part else take_larger)(self._found, record)

    @property
    def usage(self) -> Usage | None:
        """What it came to; None if no item has told."""
        try:
            return _read(self._first if self._found is None else self._found)
        except Exception:  # noqa: BLE001  # as above
            return None


class _Reader:
    """What calls ask about what they used."""

    usage_of = staticmethod(usage_of)
    characters_in = staticmethod(characters_in)
    plain_counts = staticmethod(plain_counts)
    characters_of = staticmethod(characters_of)
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
        found = _usage_beside_choices(item, fields)
        return None if found is None else held(found)
    for name in _HOLDERS:
        if name in fields:
            record = held(fields[name])
            if record and (name != _META or cohere.is_meta(record)):
                return record
    record = ollama.record_in(fields)
    if record:
        return record
    for name, usage_in in _IN_EVENTS:
        if name in fields:
            record = held(usage_in(fields))
            if record:
                return record
    return held(fields[bedrock.METRICS]) if bedrock.METRICS in fields else None


def _usage_beside_choices(item: object, fields: dict[str, Any]) -> object:
    found: object = fields.get("usage")
    if found is None and type(item) is not dict:
        more = extras(item)  # litellm's usage is there, and with openai's client Groq's
        found = more.get("usage")
        if found is None:
            found = held(more.get(_GROQ)).get("usage")
    if found is None and _GROQ in fields:
        found = held(fields[_GROQ]).get("usage")
    return _usage_in_choice(fields["choices"]) if found is None else found


def _usage_in_choice(choices: object) -> object:
    """Return the usage in the last chunk of Moonshot's streams, which is in a choice, or None."""
    if type(choices) is not list:
        return None
    for choice in cast("list[Any]", choices)[:MOST_CHOICES]:
        found = inside(choice).get("usage")
        if found is None and type(choice) is not dict:
            found = extras(choice).get("usage")
        if found is not None:
            return found
    return None
