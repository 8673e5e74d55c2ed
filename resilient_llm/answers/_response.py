"""Helpers that the formats share for reading a whole answer: choices, parts of a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.answers._reading import (
    MOST_PARTS,
    field,
    fields,
    is_something,
    is_text,
    items,
    word,
)
from resilient_llm.answers._verdicts import STOPS

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict

# Types of parts that hold reasoning, which is not the answer.
THOUGHTS: Final = frozenset(
    ("thinking", "redacted_thinking", "reasoning", "reasoning_content", "thought")
)
# Fields of a part that are not content.
_ABOUT_A_PART: Final = frozenset(
    """type text thought thought_signature thoughtSignature thinking signature reasoningContent
    reasoning id index status role part_kind citations annotations logprobs video_metadata
    videoMetadata media_resolution part_metadata cachePoint""".split()
)
# Fields in which a message holds content besides its text.
_CONTENT_BESIDE_TEXT: Final = (
    "tool_calls",
    "function_call",
    "audio",
    "images",
    "parsed",
    "invalid_tool_calls",
    "toolCalls",
)


class Choice:
    """One answer of possibly several to the same question.

    Attributes:
        has_content: Whether it holds anything for the caller.
        is_refusal: Whether the model refuses.
        stop_verdict: The verdict on the reason for its end; None if the answer is complete.
    """

    __slots__ = ("has_content", "is_refusal", "stop_verdict")

    def __init__(self, stop: object = None) -> None:
        self.has_content = False
        self.is_refusal = False
        self.stop_verdict = STOPS.get(word(stop))


class ResponseInfo:
    """What is read from an answer, whatever its format.

    Attributes:
        choices: The answers in it.
        error: An error found in it, as plain data or as the response that it came with; or None.
        fault: What is wrong with it as a whole, or None.
        is_partial: Whether it is one item of a stream, or not finished: then it may be empty.
    """

    __slots__ = ("choices", "error", "fault", "is_partial")

    def __init__(self) -> None:
        self.choices: list[Choice] = []
        self.error: object | None = None
        self.fault: Verdict | None = None
        self.is_partial = False

    def add(self, stop: object = None) -> Choice:
        """Add a choice that ended for the reason `stop`, and return it."""
        choice = Choice(stop)
        self.choices.append(choice)
        return choice


class CollectedStream:
    """What the items of a stream amount to together.

    Attributes:
        info: What is read from the stream as one answer.
        choice: All content of the stream.
        is_known: Whether an item was of a known format.
        has_ended: Whether an item was the end; None for formats without a reliable end.
        is_batch: Whether these are whole answers to several questions.
    """

    def __init__(self, info: ResponseInfo) -> None:
        self.info = info
        self.choice = info.add()
        self.is_known = False
        self.has_ended: bool | None = False
        self.is_batch = False

    def end(self, stop: object) -> None:
        """Note the end of the stream if an item gives a reason for it."""
        if stop is not None and word(stop):
            self.has_ended = True
            verdict = STOPS.get(word(stop))
            if verdict is not None:
                self.choice.stop_verdict = verdict

    def add(self, choice: Choice) -> None:
        """Add the content of an item."""
        mine = self.choice
        mine.has_content = mine.has_content or choice.has_content
        mine.is_refusal = mine.is_refusal or choice.is_refusal
        mine.stop_verdict = mine.stop_verdict or choice.stop_verdict


def add_message(message: object, choice: Choice) -> None:
    """Note what a message holds, in OpenAI's format and those derived from it."""
    if message is None:
        return
    if any(is_something(field(message, name)) for name in _CONTENT_BESIDE_TEXT) or is_something(
        field(field(message, "additional_kwargs"), "tool_calls", "function_call")  # langchain
    ):
        choice.has_content = True
    if is_text(field(message, "refusal")) or is_text(
        field(field(message, "additional_kwargs"), "refusal")
    ):
        choice.is_refusal = True
    add_content(field(message, "content"), choice)


def add_content(content: object, choice: Choice) -> None:
    """Note what the content of a message holds: a text, or a list of parts."""
    if isinstance(content, str):
        choice.has_content = choice.has_content or is_text(content)
        return
    parts = items(content)
    for part in parts:
        add_part(part, choice)
    if len(parts) == MOST_PARTS:
        choice.has_content = True


def add_part(part: object, choice: Choice) -> None:
    """Note what a part of a message holds."""
    if isinstance(part, str):
        choice.has_content = choice.has_content or is_text(part)
        return
    kind = word(field(part, "type", "part_kind"))
    if kind == "refusal":
        choice.is_refusal = True
    elif kind not in THOUGHTS and field(part, "thought") is not True:
        text = field(part, "text")
        if text is None and kind in ("text", "output_text"):  # pydantic-ai
            text = field(part, "content")
        choice.has_content = choice.has_content or is_text(text) or _holds_more(part)


def _holds_more(part: object) -> bool:
    """Return whether a part holds anything but text: a call, an image, a file."""
    kind = word(field(part, "type", "part_kind"))
    if kind in ("text", "output_text"):
        return False
    return any(name not in _ABOUT_A_PART and is_something(value) for name, value in fields(part))
