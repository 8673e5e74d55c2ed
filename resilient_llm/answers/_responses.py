"""The shapes of whole answers: what each provider's response says, and why it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm.answers._reading import (
    LONGEST,
    MOST_CANDIDATES,
    MOST_PARTS,
    field,
    fields,
    has,
    is_dict,
    is_something,
    is_text,
    items,
    plain_body,
    word,
)
from resilient_llm.answers._verdicts import (
    BESIDE_AN_ERROR,
    BROKEN,
    STOPS,
    body_with,
    error_in,
    is_an_error,
)

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict

# Parts of an answer that hold what a model thought, not what it says.
THOUGHTS: Final = frozenset(
    ("thinking", "redacted_thinking", "reasoning", "reasoning_content", "thought")
)
# What says nothing about whether a part holds anything.
_ABOUT_A_PART: Final = frozenset(
    """type text thought thought_signature thoughtSignature thinking signature reasoningContent reasoning id index
    status role part_kind citations annotations logprobs video_metadata videoMetadata media_resolution
    part_metadata cachePoint""".split()
)
# Where a message has something to say besides its text.
_SAYINGS: Final = (
    "tool_calls",
    "function_call",
    "audio",
    "images",
    "parsed",
    "invalid_tool_calls",
    "toolCalls",
)


class Candidate:
    """One answer of possibly several to the same question.

    Attributes:
        says: Whether there is anything for whoever asked.
        refuses: Whether the model says that it refuses.
        stopped: What the reason for its end amounts to, or None if it is a good one.
    """

    __slots__ = ("refuses", "says", "stopped")

    def __init__(self, stop: object = None) -> None:
        self.says = False
        self.refuses = False
        self.stopped = STOPS.get(word(stop))


class Look:
    """What is seen of an answer, whatever its shape.

    Attributes:
        candidates: The answers in it.
        error: An error found in it, as plain data or as the response that it came with; or None.
        fault: What is wrong with it as a whole, or None.
        is_piece: Whether it is one piece of a stream, or not finished: nothing need be in it.
    """

    __slots__ = ("candidates", "error", "fault", "is_piece")

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self.error: object | None = None
        self.fault: Verdict | None = None
        self.is_piece = False

    def add(self, stop: object = None) -> Candidate:
        candidate = Candidate(stop)
        self.candidates.append(candidate)
        return candidate


def look_at_object(answer: object, look: Look) -> None:
    look.error = error_in(answer)
    for shape in _SHAPES:
        if shape(answer, look):
            return
    _look_at_failed_response(answer, look)


def look_at_text(answer: str | bytes | bytearray, look: Look) -> None:
    """A text is an answer of somebody's own function, unless no model would write it."""
    if isinstance(answer, str):
        says = is_text(answer)
        start = answer[:LONGEST]
    else:
        says = bool(answer)
        start = bytes(answer[:LONGEST]).decode("utf-8", "replace")
    start = start.lstrip("\ufeff \t\r\n")
    is_raw = not isinstance(answer, str)
    if start[:14].lower().startswith(("<!doctype html", "<html")) or _is_event_stream(start):
        look.fault = BROKEN
    elif start.startswith("{") and len(answer) <= LONGEST:
        _look_at_json(start, look, is_raw=is_raw)
        if is_raw and (look.candidates or look.fault or look.error):
            return
    look.add().says = says


def _is_event_stream(text: str) -> bool:
    """Return whether a stream came although nobody had asked for one."""
    return text.startswith('data: {"') or (text.startswith("event: ") and "\ndata: {" in text[:256])


def _look_at_json(text: str, look: Look, *, is_raw: bool) -> None:
    """A body that was not decoded. As text it may be what a model was asked to write; then only an error counts."""
    import json

    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        if is_raw:
            look.fault = BROKEN
        return
    if is_raw:
        look_at_object(body, look)
    elif isinstance(body, dict) and isinstance(
        error := cast("dict[str, Any]", body).get("error"), dict
    ):
        named = cast("dict[str, Any]", error)
        is_alone = BESIDE_AN_ERROR.issuperset(cast("dict[str, Any]", body))
        if (
            is_alone
            and isinstance(named.get("message"), str)
            and ("code" in named or "type" in named)
        ):
            look.error = plain_body(cast("dict[str, Any]", body))


def _look_at_failed_response(answer: object, look: Look) -> None:
    """A response of an HTTP client that nobody asked for its status, or a body that says it failed."""
    if look.error is not None:
        return
    status = field(answer, "status_code", "status")
    if type(status) is not int or not 400 <= status <= 599:
        return
    if is_dict(answer):  # dashscope gives this back where others raise
        if is_text(field(answer, "code")) and has(answer, "message"):
            look.error = plain_body(cast("dict[str, Any]", answer))
    elif has(answer, "headers") or has(answer, "_headers"):
        look.error = answer


# What is said by a message, and by its parts.


def _hear(message: object, candidate: Candidate) -> None:
    """Note what a message says: openai's, and whoever spells it like them."""
    if message is None:
        return
    if any(is_something(field(message, name)) for name in _SAYINGS) or is_something(
        field(field(message, "additional_kwargs"), "tool_calls", "function_call")  # langchain
    ):
        candidate.says = True
    if is_text(field(message, "refusal")) or is_text(
        field(field(message, "additional_kwargs"), "refusal")
    ):
        candidate.refuses = True
    _hear_content(field(message, "content"), candidate)


def _hear_content(content: object, candidate: Candidate) -> None:
    if isinstance(content, str):
        candidate.says = candidate.says or is_text(content)
        return
    parts = items(content)
    for part in parts:
        hear_part(part, candidate)
    if len(parts) == MOST_PARTS:
        candidate.says = True


def hear_part(part: object, candidate: Candidate) -> None:
    if isinstance(part, str):
        candidate.says = candidate.says or is_text(part)
        return
    sort = word(field(part, "type", "part_kind"))
    if sort == "refusal":
        candidate.refuses = True
    elif sort not in THOUGHTS and field(part, "thought") is not True:
        text = field(part, "text")
        if text is None and sort in (
            "text",
            "output_text",
        ):  # pydantic-ai's parts have their text in content
            text = field(part, "content")
        candidate.says = candidate.says or is_text(text) or _holds_more(part)


def _holds_more(part: object) -> bool:
    """Return whether a part holds anything but text: a call, an image, a file."""
    sort = word(field(part, "type", "part_kind"))
    if sort in ("text", "output_text"):
        return False
    return any(name not in _ABOUT_A_PART and is_something(value) for name, value in fields(part))


OF_A_CHOICE: Final = ("message", "delta", "finish_reason", "text", "error")
BESIDE_CHOICES: Final = ("object", "created", "usage")
OF_A_CANDIDATE: Final = ("content", "finish_reason", "finishReason")
BESIDE_CANDIDATES: Final = ("usage_metadata", "model_version", "modelVersion")
INSTEAD_OF_CANDIDATES: Final = ("prompt_feedback", "promptFeedback", "usageMetadata")

# One function per shape: takes the answer if it is one of its own, and says whether it was.


def _choices(answer: object, look: Look) -> bool:
    """openai's chat and completions, and all who speak like them."""
    if not has(answer, "choices"):
        return False
    choices = items(field(answer, "choices"), MOST_CANDIDATES)
    # Somebody's own function may well give choices of another sort.
    beside, names = (choices[0], OF_A_CHOICE) if choices else (answer, BESIDE_CHOICES)
    if not any(has(beside, name) for name in names):
        return False
    if "chunk" in word(field(answer, "object")):
        look.is_piece = True
    for choice in choices:
        candidate = look.add(field(choice, "finish_reason"))
        message = field(choice, "message")
        if message is None and has(choice, "delta"):
            look.is_piece = True
            message = field(choice, "delta")
        _hear(message, candidate)
        if is_text(field(choice, "text")) or items(field(choice, "messages"), 1):
            candidate.says = True
        error = field(choice, "error")  # openrouter
        if error is not None and look.error is None and is_an_error(error):
            look.error = body_with(error)
    if not choices and not look.is_piece:
        look.fault = BROKEN
    return True


def _candidates(answer: object, look: Look) -> bool:
    """Google's."""
    candidates = items(field(answer, "candidates"), MOST_CANDIDATES)
    beside, names = (
        (candidates[0], OF_A_CANDIDATE) if candidates else (answer, INSTEAD_OF_CANDIDATES)
    )
    if not candidates and has(answer, "candidates"):
        names += BESIDE_CANDIDATES
    if not any(has(beside, name) for name in names):
        return False
    for each in candidates:
        candidate = look.add(field(each, "finish_reason", "finishReason"))
        _hear_content(field(field(each, "content"), "parts"), candidate)
    if look.candidates:
        return True
    if blocked(answer):
        look.add("safety")
    else:
        look.fault = BROKEN
    return True


def blocked(answer: object) -> bool:
    feedback = field(answer, "prompt_feedback", "promptFeedback")
    return field(feedback, "block_reason", "blockReason") is not None


def responses(answer: object, look: Look) -> bool:
    """openai's Responses."""
    if word(field(answer, "object")) != "response" and not (
        has(answer, "output") and has(answer, "incomplete_details")
    ):
        return False
    status = word(field(answer, "status"))
    output = field(answer, "output")
    if status in ("queued", "in_progress", "cancelled"):
        look.is_piece = True
        return True
    if status == "failed" or output is None:
        look.fault = BROKEN
    candidate = look.add(field(field(answer, "incomplete_details"), "reason"))
    outputs = items(output)
    for item in outputs:
        if word(field(item, "type")) == "message":
            _hear_content(field(item, "content"), candidate)
        else:
            hear_part(item, candidate)
    if len(outputs) == MOST_PARTS:
        candidate.says = True
    return True


def _blocks(answer: object, look: Look) -> bool:
    """anthropic's messages, and older completions."""
    if has(answer, "stop_reason") and has(answer, "completion"):
        look.add(field(answer, "stop_reason")).says = is_text(field(answer, "completion"))
        return True
    if not has(answer, "stop_reason") or not has(answer, "content"):
        return False
    stop = field(answer, "stop_reason")
    content = field(answer, "content")
    if word(stop) == "pause_turn":  # to be continued by the caller
        look.is_piece = True
    if content is None:
        look.fault = BROKEN
    _hear_content(content, look.add(stop))
    return True


def _converse(answer: object, look: Look) -> bool:
    """Bedrock's converse, and its own models."""
    if not is_dict(answer):
        return False
    body = cast("dict[str, Any]", answer)
    if body.keys() == {"ResponseMetadata"}:  # a body that was cut off: botocore does not notice
        look.fault = BROKEN
        return True
    if "stopReason" in body or ("ResponseMetadata" in body and "output" in body):
        message = field(body.get("output"), "message")
        if message is None:
            look.fault = BROKEN
        _hear(message, look.add(body.get("stopReason")))
        return True
    if "generation" in body and "stop_reason" in body:
        look.add(body["stop_reason"]).says = is_text(body["generation"])
        return True
    for name, text, stop in (
        ("results", "outputText", "completionReason"),
        ("outputs", "text", "stop_reason"),
    ):
        outputs = items(body.get(name), MOST_CANDIDATES)
        if outputs and has(outputs[0], text) and has(outputs[0], stop):
            for each in outputs:
                look.add(field(each, stop)).says = is_text(field(each, text))
            return True
    return False


def _message(answer: object, look: Look) -> bool:
    """Cohere's chat, ollama's chat and generate."""
    if has(answer, "done") and (has(answer, "message") or has(answer, "response")):
        candidate = look.add(field(answer, "done_reason"))
        _hear(field(answer, "message"), candidate)
        response = field(answer, "response")
        candidate.says = (
            candidate.says or is_text(response) or is_something(field(answer, "image", "images"))
        )
        look.is_piece = field(answer, "done") is False
        return True
    if word(field(answer, "role")) == "assistant" and has(
        answer, "content"
    ):  # taken out of a choice
        _hear(answer, look.add())
        return True
    if not has(answer, "finish_reason"):
        return False
    if has(answer, "message"):
        message = field(answer, "message")
        if message is None:
            look.fault = BROKEN
        _hear(message, look.add(field(answer, "finish_reason")))
        return True
    if has(answer, "generation_id"):  # cohere's first chat
        candidate = look.add(field(answer, "finish_reason"))
        _hear(answer, candidate)
        candidate.says = candidate.says or is_text(field(answer, "text"))
        return True
    return False


def _framework(answer: object, look: Look) -> bool:
    """Messages of langchain, results and messages of pydantic-ai, texts of huggingface_hub."""
    if has(answer, "response_metadata") and has(answer, "content"):
        metadata = field(answer, "response_metadata")
        stop = field(metadata, "finish_reason", "stop_reason", "stopReason", "done_reason")
        _hear(answer, look.add(stop))
        look.is_piece = word(field(answer, "type")) != "ai"
        return True
    if word(field(answer, "kind")) == "response" and has(answer, "parts"):
        _hear_content(field(answer, "parts"), look.add(field(answer, "finish_reason")))
        return True
    if has(answer, "_output_tool_name") and has(answer, "output"):
        history = field(field(answer, "_state"), "message_history")
        last = cast("list[Any]", history)[-1] if type(history) is list and history else None
        output = field(answer, "output")
        candidate = look.add(field(last, "finish_reason"))
        candidate.says = is_text(output) if isinstance(output, str) else output is not None
        return True
    if has(answer, "generated_text"):
        details = field(answer, "details")
        look.add(field(details, "finish_reason")).says = is_text(field(answer, "generated_text"))
        return True
    return False


def _lists(answer: object, look: Look) -> bool:
    """Embeddings and images."""
    for name, beside in (
        ("data", "usage"),
        ("data", "created"),
        ("embeddings", "model"),
        ("embeddings", "total_tokens"),
        ("embeddings", "metadata"),
        ("generated_images", "positive_prompt_safety_attributes"),
    ):
        if has(answer, name) and has(answer, beside):
            found = field(answer, name)
            if found is None:
                look.fault = BROKEN
            look.add().says = is_something(found)
            return True
    return False


_SHAPES: Final = (
    _choices,
    _candidates,
    responses,
    _blocks,
    _converse,
    _message,
    _framework,
    _lists,
)
# Those of which a stream's chunks are shaped as a whole answer is.
SHAPES_OF_CHUNKS: Final = (_choices, _candidates, _message, _framework)
