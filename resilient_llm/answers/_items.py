"""One item of a stream: whether it carries content, tells the end, or is an error.

A stream's driver asks this of every item until the first content, and of all of them where
silence has a limit, so the usual items cost about a microsecond. Each shape has two small
functions, one for the glance and one for the text; the tables at the end say which shape
an item is of. Items are read as answers are: what they hold, nothing that they compute.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from resilient_llm.answers._reading import (
    LONGEST,
    MOST_CANDIDATES,
    MOST_FIELDS,
    MOST_PARTS,
    extras,
    field,
    inside,
    items,
    plain,
    word,
)
from resilient_llm.answers._responses import (
    BESIDE_CANDIDATES,
    BESIDE_CHOICES,
    INSTEAD_OF_CANDIDATES,
    OF_A_CANDIDATE,
    OF_A_CHOICE,
    THOUGHTS,
    Look,
    blocked,
    responses,
)
from resilient_llm.answers._verdicts import (
    BESIDE_AN_ERROR,
    BROKEN,
    COMPLETE,
    STOPS,
    body_with,
    error_in,
    is_an_error,
    verdict_on,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._values.verdict import Verdict


@dataclass(frozen=True, slots=True)
class ItemInfo:
    """What a stream's driver wants to know of one item.

    Attributes:
        known: Whether the item is of a shape that we know.
        content: Whether it carries content: text, reasoning, a refusal, a call of a tool, audio, an
            image. True for a shape that we do not know.
        ended: Whether it tells that the stream is over; None if items of this shape never do.
        verdict: What is wrong, if the item is an error. An answer that was filtered or cut off is none.
    """

    known: bool
    content: bool
    ended: bool | None
    verdict: Verdict | None = None


# Nearly every glance is one of these: none is made anew.
_CONTENT: Final = ItemInfo(known=True, content=True, ended=False)
_NOTHING: Final = ItemInfo(known=True, content=False, ended=False)
_CONTENT_AND_END: Final = ItemInfo(known=True, content=True, ended=True)
_END: Final = ItemInfo(known=True, content=False, ended=True)
# Shapes without an end that can be relied on.
_ENDLESS_CONTENT: Final = ItemInfo(known=True, content=True, ended=None)
_ENDLESS_NOTHING: Final = ItemInfo(known=True, content=False, ended=None)
_UNKNOWN: Final = ItemInfo(known=False, content=True, ended=None)
_NO_ITEM: Final = ItemInfo(known=False, content=False, ended=None)

# What stands where the reason of an end will be, before there is one.
_NOT_STOPPED: Final = frozenset(("", "null", "none", "finish_reason_unspecified"))
# An item within an item within an item.
_MOST_WRAPPERS: Final = 3


def inspect_item(item: object) -> ItemInfo:
    """Return what an item of a stream carries and tells. Never raises."""
    try:
        if type(item) is str:
            return _ENDLESS_CONTENT if item else _ENDLESS_NOTHING
        held = inside(item)
        shape = _shape_of(held)
        if shape is not None:
            seen = shape.look(held, item)
            if seen is not None:
                return seen
        return _glance_deeper(item, held)
    except Exception:  # noqa: BLE001  # somebody else's object may raise anything, and must not fail a call
        return _UNKNOWN


def opens_silently(item: object) -> bool:
    """Return whether streams of such items open, as their providers send them, with one without content.

    Those of google do not: each of its chunks has text, the last one the reason for the end as well.
    """
    return field(item, "candidates") is None


def refused(items: list[Any]) -> Verdict | None:
    """Return the verdict on a stream that a filter ended, or whose model says that it refuses."""
    from resilient_llm.answers import filtered

    return filtered(items) or None


def text_of(item: object) -> str:
    """Return the answer's text that an item adds, without reasoning; empty if it adds none. Never raises.

    What an SDK tells a second time counts once: its helpers' events, such as anthropic's
    ``text``, repeat the raw event before them, and add nothing. Of several answers to the
    same question, the first is taken. At most 64 KiB are looked at.
    """
    try:
        for _ in range(_MOST_WRAPPERS):
            if issubclass(type(item), (str, bytes, bytearray)):
                return _cut(item)
            held = inside(item)
            shape = _shape_of(held)
            if shape is not None:
                return shape.text(held)
            item = _unwrapped(item, held)
        return ""
    except Exception:  # noqa: BLE001  # as in `glance`
        return ""


class _Shape(NamedTuple):
    """How items of a shape are read.

    Attributes:
        look: Takes what an item holds, and the item; gives None if it is of another shape after all.
        text: Takes what an item holds, gives the text in it.
    """

    look: Callable[[dict[str, Any], object], ItemInfo | None]
    text: Callable[[dict[str, Any]], str]


def _shape_of(held: dict[str, Any]) -> _Shape | None:
    if "choices" in held:
        return _CHAT
    sort = held.get("type")
    if type(sort) is str:
        shape = _BY_TYPE.get(sort)
        if shape is not None:
            return shape
        if sort.startswith("response.") and ("_call" in sort or "sequence_number" in held):
            return _RESPONSE_EVENT
    for name, shape in _BY_FIELD.items():
        if name in held:
            return shape
    return None


def _glance_deeper(item: object, held: dict[str, Any]) -> ItemInfo:
    """Look at texts, at what is in a wrapper, and at bodies that are nothing but an error."""
    if item is None:
        return _NO_ITEM
    if issubclass(type(item), (str, bytes, bytearray)):
        return _ENDLESS_CONTENT if _filled(item) else _ENDLESS_NOTHING
    if not held:
        return _UNKNOWN
    inner: object = item
    for _ in range(_MOST_WRAPPERS):
        inner = _unwrapped(inner, inside(inner))
        if inner is None:
            break
        inner_held = inside(inner)
        shape = _shape_of(inner_held)
        seen = shape.look(inner_held, inner) if shape is not None else None
        if seen is not None:
            return seen
    if BESIDE_AN_ERROR.issuperset(islice(held, MOST_FIELDS)):
        error = error_in(item)
        if error is not None:
            return _failed(verdict_on(error))
    if len(held) == 1:  # in AWS's streams an exception is an event of its own
        name = next(iter(held))
        if type(name) is str and name.endswith("Exception"):
            told = {"code": name[:64], "message": plain(field(held[name], "message"), 1)}
            return _failed(verdict_on({"error": told}))
    return _UNKNOWN


def _unwrapped(item: object, held: dict[str, Any]) -> object:
    """Return the item that is inside of another, or None."""
    for name in ("data", "chunk"):  # mistralai; openai's helper
        inner = held.get(name)
        if inner is not None and "choices" in inside(inner):
            return inner
    raw = inside(held.get("chunk")).get("bytes")  # bedrock's invoke_model
    if type(raw) is bytes and len(raw) <= LONGEST:
        return json.loads(raw)
    extra = extras(item)
    return {**extra, **held} if extra else None


# What is content.


def _filled(value: object) -> bool:
    """Return whether there is anything in a field; asks no foreign object for its truth."""
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


# Of a part, what says nothing about whether it holds anything.
_ABOUT_A_PART: Final = frozenset(
    """type index id role status phase format part_kind annotations citation citations logprobs signature encrypted_content
    expires_at cache_control thought thought_signature thoughtSignature video_metadata videoMetadata
    media_resolution mediaResolution part_metadata partMetadata speech_metadata document_metadata
    spreadsheet_metadata audio_metadata media_processing""".split()
)
# Parts of these types hold nothing that a model said or did.
_IDLE_PARTS: Final = frozenset(
    "fallback mcp_tool_listing mcp_list_tools additional_tools compaction".split()
)
# Where a message has something to say, in whose spelling whatever.
_SAYINGS: Final = (
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


def _says(value: object) -> bool:
    """Return whether a field holds something, or parts of which one does."""
    if type(value) is list:
        return any(_part_says(part) for part in cast("list[Any]", value)[:MOST_PARTS])
    return _filled(value) and (issubclass(type(value), str) or _part_says(value))


def _part_says(part: object) -> bool:
    if issubclass(type(part), str):
        return _filled(part)
    held = inside(part)
    text = held.get("text")
    if type(text) is str and text:
        return True
    sort = held.get("type")
    if type(sort) is str and sort in _IDLE_PARTS:
        return False
    return any(
        _filled(value) and name not in _ABOUT_A_PART
        for store in (held, extras(part))
        for name, value in islice(store.items(), MOST_FIELDS)
    )


def _message_says(said: dict[str, Any], message: object) -> bool:
    for name in _SAYINGS:
        value = said.get(name)
        if value is not None and _says(value):
            return True
    extra = extras(message)
    return bool(extra) and _message_says(extra, None)


def _ended_by(stop: object, *, content: bool) -> ItemInfo:
    """Return the glance at an item with a reason why the model stopped, if there is one yet."""
    reason = "" if stop is None else word(stop)
    if reason in _NOT_STOPPED:
        return _CONTENT if content else _NOTHING
    verdict = STOPS.get(reason)
    if verdict is None or verdict in COMPLETE:
        return _CONTENT_AND_END if content else _END
    return _failed(verdict, content=content)


def _failed(verdict: Verdict, *, content: bool = False) -> ItemInfo:
    return ItemInfo(known=True, content=content, ended=True, verdict=verdict)


def _over(seen: ItemInfo) -> ItemInfo:
    """Return the glance at an item that is the end whether it says why or not."""
    if seen.ended:
        return seen
    return _CONTENT_AND_END if seen.content else _END


# What is text.


def _cut(text: object) -> str:
    """Return the beginning of a text, or nothing of anything else."""
    cls = type(text)
    if cls is str:
        return cast("str", text)[:LONGEST]
    if issubclass(cls, str):
        return str.__getitem__(cast("str", text), slice(LONGEST))
    if issubclass(cls, (bytes, bytearray)):
        return bytes(cast("bytes", text)[:LONGEST]).decode("utf-8", "replace")
    return ""


def _text_in(content: object) -> str:
    """Return the text of a message's content: a text, or parts of which some hold text."""
    if type(content) is not list:
        return _cut(content)
    found: list[str] = []
    left = LONGEST
    for part in islice(cast("list[Any]", content), MOST_PARTS):
        held = inside(part)
        if held.get("thought") is True or word(held.get("type")) in THOUGHTS:
            continue
        text = _cut(part) or _cut(held.get("text"))
        found.append(text[:left])
        left -= len(found[-1])
    return "".join(found)


def _no_text(held: dict[str, Any]) -> str:  # as any reader of text
    return ""


# The shapes: one function for the glance, one for the text.


def _look_at_chat(held: dict[str, Any], item: object) -> ItemInfo | None:
    """openai's chat and completions, and all who speak like them."""
    choices: list[Any] = held["choices"]
    if type(choices) is not list or not choices:
        return _look_beside_choices(held, item)
    content = False
    stop = None
    for choice in choices[:MOST_CANDIDATES]:
        one = inside(choice)
        delta = one.get("delta")
        if delta is None:
            delta = one.get("message")
        if delta is not None:
            said = inside(delta)
            text = said.get("content")
            content = content or (type(text) is str and text != "") or _message_says(said, delta)
        elif not any(name in one for name in OF_A_CHOICE):
            return None  # somebody's own function may well give choices of another sort
        reason = one.get("finish_reason")
        if reason is None:
            reason = one.get("stop_reason")  # mistral's models on bedrock
        if reason is not None:
            stop = reason
        content = content or _filled(one.get("text"))
    if content:
        return _CONTENT if stop is None else _ended_by(stop, content=True)
    error = _error_in_chat(held, item, choices)
    return _ended_by(stop, content=False) if error is None else _failed(verdict_on(error))


def _look_beside_choices(held: dict[str, Any], item: object) -> ItemInfo | None:
    """A chunk without choices: azure's first, with what its filter thinks of the prompt; the usage, after the end."""
    if not any(name in held for name in BESIDE_CHOICES):
        return None
    error = _error_in_chat(held, item, [])
    if error is not None:
        return _failed(verdict_on(error))
    return _END if _filled(held.get("usage")) else _NOTHING


def _error_in_chat(held: dict[str, Any], item: object, choices: list[Any]) -> dict[str, Any] | None:
    for store in (held, extras(item)):
        if not store:
            continue
        if any(store.get(name) is not None for name in ("error", "errors", "base_resp")):
            return error_in(item)
        told = _cut(inside(store.get("x_groq")).get("error"))
        if told:
            return {"error": told}
    for choice in choices[:MOST_CANDIDATES]:
        for store in (inside(choice), extras(choice)):
            error = store.get("error")  # openrouter
            if error is not None and is_an_error(error):
                return body_with(error)
    return None


def _text_in_chat(held: dict[str, Any]) -> str:
    choices: list[Any] = held["choices"]
    for choice in items(choices, MOST_CANDIDATES):
        one = inside(choice)
        index = one.get("index")
        if type(index) is not int or index == 0:
            delta = one.get("delta")
            if delta is None:
                delta = one.get("message")
            if delta is None:
                return _cut(one.get("text"))
            text = inside(delta).get("content")
            return _text_in(extras(delta).get("content") if text is None else text)
    return ""


def _look_at_delta(held: dict[str, Any], item: object) -> ItemInfo | None:
    """An event with a text in ``delta``: of openai's Responses, and of its chat helper."""
    if "delta" not in held:
        return None
    return _CONTENT if _filled(held["delta"]) else _NOTHING


def _text_in_delta(held: dict[str, Any]) -> str:
    return _cut(held.get("delta"))


def _look_at_response_event(held: dict[str, Any], item: object) -> ItemInfo | None:
    """Any other event of openai's Responses: the end of a part, a new item, a step of a tool."""
    if "_call" in held["type"]:
        return _CONTENT
    for name in ("delta", "text", "refusal", "arguments", "input", "part", "item"):
        if _says(held.get(name)):
            return _CONTENT
    return _NOTHING


def _look_at_response_end(held: dict[str, Any], item: object) -> ItemInfo | None:
    """The last event of openai's Responses, with all of the response in it."""
    response = held.get("response")
    if response is None:
        return None
    error = error_in(response)
    if error is not None:
        return _failed(verdict_on(error))
    if held["type"] == "response.failed":
        return _failed(BROKEN)
    whole = Look()
    responses(response, whole)
    return _CONTENT_AND_END if any(one.says or one.refuses for one in whole.candidates) else _END


def _look_at_helper(held: dict[str, Any], item: object) -> ItemInfo | None:
    """What openai's and anthropic's helpers make of the raw events, which they give as well."""
    for name in ("text", "thinking", "partial_json", "content", "refusal", "arguments"):
        if name in held:
            # Somebody's own function may give parts that look like this, but have no end.
            is_event = "snapshot" in held or "parsed" in held or name in ("refusal", "arguments")
            if _says(held[name]):
                return _CONTENT if is_event else _ENDLESS_CONTENT
            return _NOTHING if is_event else _ENDLESS_NOTHING
    return None


def _text_in_helper(held: dict[str, Any]) -> str:
    return "" if "snapshot" in held else _cut(held.get("text"))


def _look_at_aside(held: dict[str, Any], item: object) -> ItemInfo | None:
    """What anthropic's helper tells of besides the answer: where a text is from, the signature of a thought."""
    return _NOTHING if held["type"] in held or "encrypted_content" in held else None


def _look_at_call(held: dict[str, Any], item: object) -> ItemInfo | None:
    return _CONTENT


def _look_at_quiet(held: dict[str, Any], item: object) -> ItemInfo | None:
    return _NOTHING


def _look_at_end(held: dict[str, Any], item: object) -> ItemInfo | None:
    return _END


def _look_at_block_start(held: dict[str, Any], item: object) -> ItemInfo | None:
    """anthropic: a block begins, most often an empty one; a call of a tool has its name already."""
    if "content_block" not in held:
        return None
    return _CONTENT if _part_says(held["content_block"]) else _NOTHING


def _text_in_block_start(held: dict[str, Any]) -> str:
    return _text_in([held.get("content_block")])


def _look_at_block_delta(held: dict[str, Any], item: object) -> ItemInfo | None:
    delta = inside(held.get("delta"))
    text = delta.get("text")
    if type(text) is str and text:
        return _CONTENT
    for name in ("text", "thinking", "partial_json"):
        if _filled(delta.get(name)):
            return _CONTENT
    return _NOTHING


def _text_in_block_delta(held: dict[str, Any]) -> str:
    return _cut(inside(held.get("delta")).get("text"))


def _look_at_message_delta(held: dict[str, Any], item: object) -> ItemInfo | None:
    return _ended_by(inside(held.get("delta")).get("stop_reason"), content=False)


def _look_at_error(held: dict[str, Any], item: object) -> ItemInfo | None:
    """anthropic's error event has the error inside, that of openai's Responses is one itself."""
    error = error_in(item)
    if (
        error is None
        and type(held.get("message")) is str
        and ("param" in held or "sequence_number" in held)
    ):
        error = body_with(item)
    return None if error is None else _failed(verdict_on(error))


def _look_at_cohere(held: dict[str, Any], item: object) -> ItemInfo | None:
    message = inside(inside(held.get("delta")).get("message"))
    return (
        _CONTENT if _says(message.get("content")) or _filled(message.get("tool_plan")) else _NOTHING
    )


def _text_in_cohere(held: dict[str, Any]) -> str:
    message = inside(inside(held.get("delta")).get("message"))
    return _cut(inside(message.get("content")).get("text"))


def _look_at_cohere_end(held: dict[str, Any], item: object) -> ItemInfo | None:
    return _over(_ended_by(inside(held.get("delta")).get("finish_reason"), content=False))


def _look_at_langchain(held: dict[str, Any], item: object) -> ItemInfo | None:
    """A message chunk of langchain. Not every integration of it says why it ended."""
    text = held.get("content")
    if (type(text) is str and text) or _message_says(held, item):
        return _ENDLESS_CONTENT
    aside = inside(held.get("additional_kwargs"))
    return _ENDLESS_CONTENT if _message_says(aside, None) else _ENDLESS_NOTHING


def _text_in_langchain(held: dict[str, Any]) -> str:
    return _text_in(held.get("content"))


def _look_at_candidates(held: dict[str, Any], item: object) -> ItemInfo | None:
    """Google's."""
    candidates = items(held.get("candidates"), MOST_CANDIDATES)
    if not candidates:
        return _look_beside_candidates(held, item)
    content = False
    stop = None
    for candidate in candidates:
        one = inside(candidate)
        reason = one.get("finish_reason")
        if reason is None:
            reason = one.get("finishReason")
        said = one.get("content")
        if said is None and not any(name in one for name in OF_A_CANDIDATE):
            return None
        content = content or _says(inside(said).get("parts"))
        if reason is not None:
            stop = reason
    return _ended_by(stop, content=content)


def _look_beside_candidates(held: dict[str, Any], item: object) -> ItemInfo | None:
    """A chunk without candidates: the prompt was blocked, or there is nothing but the usage."""
    if not any(name in held for name in (*INSTEAD_OF_CANDIDATES, *BESIDE_CANDIDATES)):
        return None
    error = error_in(item)
    if error is not None:
        return _failed(verdict_on(error))
    return _END if blocked(item) else _NOTHING


def _text_in_candidates(held: dict[str, Any]) -> str:
    candidates = items(held.get("candidates"), 1)
    return _text_in(inside(inside(candidates[0]).get("content")).get("parts")) if candidates else ""


def _look_at_done(held: dict[str, Any], item: object) -> ItemInfo | None:
    """ollama's chat and generate."""
    done = held["done"]
    if type(done) is not bool or not ("message" in held or "response" in held):
        return None
    message = held.get("message")
    content = _message_says(inside(message), message) or any(
        _filled(held.get(name)) for name in ("response", "thinking", "image")
    )
    if done:
        return _over(_ended_by(held.get("done_reason"), content=content))
    return _CONTENT if content else _NOTHING


def _text_in_done(held: dict[str, Any]) -> str:
    return _text_in(inside(held.get("message")).get("content")) or _cut(held.get("response"))


def _look_at_token(held: dict[str, Any], item: object) -> ItemInfo | None:
    """Text generation of huggingface, one token each."""
    token = inside(held["token"])
    if "text" not in token:
        return None
    content = _filled(token["text"]) and token.get("special") is not True
    stop = inside(held.get("details")).get("finish_reason")
    if stop is None and held.get("generated_text") is not None:
        stop = "stop"
    return _ended_by(stop, content=content)


def _text_in_token(held: dict[str, Any]) -> str:
    token = inside(held["token"])
    return "" if token.get("special") is True else _cut(token.get("text"))


def _look_at_converse(held: dict[str, Any], item: object) -> ItemInfo | None:
    """An event of Bedrock's converse_stream: a dict of one."""
    if len(held) > 2:
        return None
    stop, delta, start = (
        held.get("messageStop"),
        held.get("contentBlockDelta"),
        held.get("contentBlockStart"),
    )
    if stop is not None:
        return _over(_ended_by(inside(stop).get("stopReason"), content=False))
    if delta is not None:
        part: Any = inside(delta).get("delta")
        thought = inside(part).get("reasoningContent")
        return _CONTENT if _part_says(part if thought is None else thought) else _NOTHING
    if start is not None:
        return _CONTENT if _filled(inside(start).get("start")) else _NOTHING
    about = inside(held.get("metadata"))
    return None if about and "usage" not in about and "metrics" not in about else _NOTHING


def _text_in_converse(held: dict[str, Any]) -> str:
    return _cut(inside(inside(held.get("contentBlockDelta")).get("delta")).get("text"))


# Of bodies that are a text and the reason why it ended: where they have these.
_TEXT_AND_STOP: Final = (
    ("completion", "stop_reason"),  # anthropic's older completions
    ("generation", "stop_reason"),  # meta's models on bedrock
    ("outputText", "completionReason"),  # amazon's
)


def _look_at_text_and_stop(held: dict[str, Any], item: object) -> ItemInfo | None:
    for text, stop in _TEXT_AND_STOP:
        if text in held and stop in held:
            return _ended_by(held[stop], content=_filled(held[text]))
    return None


def _text_in_text_and_stop(held: dict[str, Any]) -> str:
    return next(
        (_cut(held[text]) for text, stop in _TEXT_AND_STOP if text in held and stop in held), ""
    )


# Which shape an item is of.


def _each(names: str, shape: _Shape) -> dict[str, _Shape]:
    return dict.fromkeys(names.split(), shape)


_CHAT: Final = _Shape(_look_at_chat, _text_in_chat)
_RESPONSE_EVENT: Final = _Shape(_look_at_response_event, _no_text)
_QUIET: Final = _Shape(_look_at_quiet, _no_text)

_BY_TYPE: Final[dict[str, _Shape]] = {
    # openai's Responses
    "response.output_text.delta": _Shape(_look_at_delta, _text_in_delta),
    **_each(
        """response.refusal.delta response.reasoning.delta response.reasoning_text.delta
        response.reasoning_summary_text.delta response.audio.delta response.audio.transcript.delta""",
        _Shape(_look_at_delta, _no_text),
    ),
    **_each(
        """response.output_text.done response.refusal.done response.reasoning_text.done
        response.reasoning_summary_text.done response.reasoning_summary_part.added
        response.reasoning_summary_part.done response.content_part.added response.content_part.done
        response.output_item.added response.output_item.done""",
        _RESPONSE_EVENT,
    ),
    **_each(
        """response.created response.in_progress response.queued response.audio.done
        response.audio.transcript.done response.output_text.annotation.added
        response.mcp_list_tools.in_progress response.mcp_list_tools.completed response.mcp_list_tools.failed
        response.compaction.compacting keepalive""",
        _QUIET,
    ),
    **_each(
        "response.completed response.incomplete response.failed response.cancelled",
        _Shape(_look_at_response_end, _no_text),
    ),
    # openai's helper for chat; ``chunk`` is taken out of its wrapper
    **_each("content.delta refusal.delta", _Shape(_look_at_delta, _no_text)),
    **_each(
        "content.done refusal.done tool_calls.function.arguments.done",
        _Shape(_look_at_helper, _no_text),
    ),
    "tool_calls.function.arguments.delta": _Shape(_look_at_call, _no_text),
    **_each(
        "logprobs.content.delta logprobs.content.done logprobs.refusal.delta logprobs.refusal.done",
        _QUIET,
    ),
    # anthropic
    "content_block_start": _Shape(_look_at_block_start, _text_in_block_start),
    "content_block_delta": _Shape(_look_at_block_delta, _text_in_block_delta),
    "message_delta": _Shape(_look_at_message_delta, _no_text),
    "message_stop": _Shape(_look_at_end, _no_text),
    **_each("message_start content_block_stop ping", _QUIET),
    "completion": _Shape(_look_at_text_and_stop, _text_in_text_and_stop),
    **_each("text thinking input_json", _Shape(_look_at_helper, _text_in_helper)),
    **_each("signature citation compaction", _Shape(_look_at_aside, _no_text)),
    **_each("error response.error", _Shape(_look_at_error, _no_text)),
    # cohere
    **_each(
        "content-start content-delta tool-plan-delta", _Shape(_look_at_cohere, _text_in_cohere)
    ),
    **_each("tool-call-start tool-call-delta", _Shape(_look_at_call, _no_text)),
    **_each("message-start content-end tool-call-end citation-start citation-end", _QUIET),
    "message-end": _Shape(_look_at_cohere_end, _no_text),
    # langchain
    "AIMessageChunk": _Shape(_look_at_langchain, _text_in_langchain),
}

_CANDIDATES: Final = _Shape(_look_at_candidates, _text_in_candidates)
_CONVERSE: Final = _Shape(_look_at_converse, _text_in_converse)
_TEXT: Final = _Shape(_look_at_text_and_stop, _text_in_text_and_stop)

# Without a type to go by: the first of these that there is.
_BY_FIELD: Final[dict[str, _Shape]] = {
    **_each("candidates prompt_feedback promptFeedback usageMetadata", _CANDIDATES),
    "done": _Shape(_look_at_done, _text_in_done),
    "token": _Shape(_look_at_token, _text_in_token),
    **_each(
        "contentBlockDelta contentBlockStart contentBlockStop messageStart messageStop metadata",
        _CONVERSE,
    ),
    **_each("completion generation outputText", _TEXT),
}
