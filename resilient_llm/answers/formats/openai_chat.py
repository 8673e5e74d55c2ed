"""OpenAI's chat and text completions, and every API that is compatible with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.answers._format import Format
from resilient_llm.answers._item import (
    ALWAYS_CONTENT,
    CONTENT,
    END,
    ENDLESS_CONTENT,
    ENDLESS_NO_CONTENT,
    NEVER_CONTENT,
    NO_CONTENT,
    ItemFormat,
    ItemInfo,
    cut,
    each_type,
    ended_by,
    failed,
    has_content,
    is_filled,
    message_has_content,
    no_text,
    text_in,
    with_fields,
)
from resilient_llm.answers._reading import (
    MOST_CHOICES,
    extras,
    field,
    has,
    inside,
    is_something,
    is_text,
    items,
    word,
)
from resilient_llm.answers._response import add_message
from resilient_llm.answers._verdicts import (
    BROKEN,
    body_with,
    error_in,
    is_an_error,
    verdict_on,
)

if TYPE_CHECKING:
    from resilient_llm.answers._response import CollectedStream, ResponseInfo

_OF_A_CHOICE: Final = ("message", "delta", "finish_reason", "text", "error")
_BESIDE_CHOICES: Final = ("object", "created", "usage")


# A whole answer.


def _read_answer(answer: object, info: ResponseInfo) -> bool:
    if not has(answer, "choices"):
        return False
    choices = items(field(answer, "choices"), MOST_CHOICES)
    # The caller's own function may return choices of another kind.
    beside, names = (choices[0], _OF_A_CHOICE) if choices else (answer, _BESIDE_CHOICES)
    if not any(has(beside, name) for name in names):
        return False
    if "chunk" in word(field(answer, "object")):
        info.is_partial = True
    for each in choices:
        choice = info.add(field(each, "finish_reason"))
        message = field(each, "message")
        if message is None and has(each, "delta"):
            info.is_partial = True
            message = field(each, "delta")
        add_message(message, choice)
        if is_text(field(each, "text")) or items(field(each, "messages"), 1):
            choice.has_content = True
        error = field(each, "error")  # openrouter
        if error is not None and info.error is None and is_an_error(error):
            info.error = body_with(error)
    if not choices and not info.is_partial:
        info.fault = BROKEN
    return True


def _read_message(answer: object, info: ResponseInfo) -> bool:
    """Read a message that was taken out of its choice."""
    if word(field(answer, "role")) != "assistant" or not has(answer, "content"):
        return False
    add_message(answer, info.add())
    return True


# One item of a stream.


def _inspect_chunk(fields: dict[str, Any], item: object) -> ItemInfo | None:
    choices: list[Any] = fields["choices"]
    if type(choices) is not list or not choices:
        return _inspect_without_choices(fields, item)
    content = False
    stop = None
    for choice in choices[:MOST_CHOICES]:
        one = inside(choice)
        if "delta" not in one and (extra := extras(choice)):
            one = {**extra, **one}
        delta = one.get("delta")
        if delta is None:
            delta = one.get("message")
        if delta is not None:
            message = inside(delta)
            text = message.get("content")
            content = (
                content or (type(text) is str and text != "") or message_has_content(message, delta)
            )
        elif not any(name in one for name in _OF_A_CHOICE):
            return None  # the caller's own function may give choices of another kind
        if not content and one.get("logprobs") is not None:
            content = any(type(each) is list and each for each in inside(one["logprobs"]).values())
        reason = one.get("finish_reason")
        if reason is None:
            reason = one.get("stop_reason")  # mistral's models on bedrock
        if reason is not None:
            stop = reason
        content = content or is_filled(one.get("text"))
    if content:
        return CONTENT if stop is None else ended_by(stop, content=True)
    error = _error_in_chunk(fields, item, choices)
    if error is not None:
        return failed(verdict_on(error))
    return ended_by(stop, content=False)


def _inspect_without_choices(fields: dict[str, Any], item: object) -> ItemInfo | None:
    """Azure's first chunk, with what its filter found in the prompt; the usage, after the end."""
    if not any(name in fields for name in _BESIDE_CHOICES):
        return None
    error = _error_in_chunk(fields, item, [])
    if error is not None:
        return failed(verdict_on(error))
    return END if is_filled(fields.get("usage")) else NO_CONTENT


def _error_in_chunk(
    fields: dict[str, Any], item: object, choices: list[Any]
) -> dict[str, Any] | None:
    for store in (fields, extras(item)):
        if not store:
            continue
        if any(store.get(name) is not None for name in ("error", "errors", "base_resp")):
            return error_in(item)
        message = cut(inside(store.get("x_groq")).get("error"))
        if message:
            return {"error": message}
    for choice in choices[:MOST_CHOICES]:
        for store in (inside(choice), extras(choice)):
            error = store.get("error")  # openrouter
            if error is not None and is_an_error(error):
                return body_with(error)
    return None


def _text_of_chunk(fields: dict[str, Any]) -> str:
    """Return the text of the first choice."""
    choices: list[Any] = fields["choices"]
    for choice in items(choices, MOST_CHOICES):
        one = inside(choice)
        index = one.get("index")
        if type(index) is not int or index == 0:
            delta = one.get("delta")
            if delta is None:
                delta = one.get("message")
            if delta is None:
                return cut(one.get("text"))
            text = inside(delta).get("content")
            return text_in(extras(delta).get("content") if text is None else text)
    return ""


CHUNK: Final = ItemFormat(_inspect_chunk, _text_of_chunk)


def inspect_delta(fields: dict[str, Any], item: object) -> ItemInfo | None:
    """Inspect an event with a text in ``delta``: of the helper for chat, and of Responses."""
    if "delta" not in fields:
        return None
    return CONTENT if is_filled(fields["delta"]) else NO_CONTENT


def inspect_helper(fields: dict[str, Any], item: object) -> ItemInfo | None:
    """Inspect an event that a helper of openai or anthropic makes beside the raw events."""
    for name in ("text", "thinking", "partial_json", "content", "refusal", "arguments"):
        if name in fields:
            # Parts that the caller's own function gives may look alike, but have no end.
            is_event = (
                "snapshot" in fields or "parsed" in fields or name in ("refusal", "arguments")
            )
            if has_content(fields[name]):
                return CONTENT if is_event else ENDLESS_CONTENT
            return NO_CONTENT if is_event else ENDLESS_NO_CONTENT
    return None


# Events of the helper for chat; its ``chunk`` is taken out of its wrapper.
_HELPER_EVENTS: Final = {
    **each_type("content.delta refusal.delta", ItemFormat(inspect_delta, no_text)),
    **each_type(
        "content.done refusal.done tool_calls.function.arguments.done",
        ItemFormat(inspect_helper, no_text),
    ),
    "tool_calls.function.arguments.delta": ALWAYS_CONTENT,
    **each_type(
        "logprobs.content.delta logprobs.content.done logprobs.refusal.delta logprobs.refusal.done",
        NEVER_CONTENT,
    ),
}


_FIELDS_OF_EVENTS: Final = """type content snapshot parsed delta refusal logprobs chunk name index
    arguments arguments_delta parsed_arguments"""


# A list of items.


def _note_end(item: object, stream: CollectedStream) -> None:
    choices = field(item, "choices")
    for choice in items(choices, MOST_CHOICES):
        stream.end(field(choice, "finish_reason"))
        stream.is_batch = stream.is_batch or field(choice, "message") is not None
    is_usage = (
        choices is not None and not is_something(choices) and field(item, "usage") is not None
    )
    if is_usage:  # the last chunk, after the end
        stream.end("stop")


FORMAT: Final = Format(
    answer=_read_answer,
    items_by_type=with_fields(_FIELDS_OF_EVENTS, _HELPER_EVENTS),
    has_answer_chunks=True,
    note_end=_note_end,
)
MESSAGE: Final = Format(answer=_read_message, has_answer_chunks=True)
