"""Errors inside successes: what is wrong with an answer that came without an exception.

Functions for the ``reject`` option; each takes what a target's function returned and gives
False for a good answer, else a `Verdict`::

    from resilient_llm import Target, answers, failover

    @failover(chain=["openai/gpt-5-mini", "anthropic/claude-haiku"], reject=answers.unusable)
    def ask(target: Target, prompt: str) -> ChatCompletion: ...

``unusable`` is the one to begin with: `broken`, `filtered` and `empty` together. `truncated`
is asked for on its own, since an answer cut short is often good enough; `any_of` puts them
together as one likes.

They know the response objects of the SDKs, typed or as the JSON they are made of, by their
shape: which fields there are. No SDK is imported. An answer that looks like none of them is
good, since nobody knows better. Only what an object holds is read: no property, no method,
no lazy body, nothing that could go to the network; and never more than 64 KiB of a text and
a bounded number of candidates, parts and chunks. What was not looked at counts as good.
They never raise, whatever the object is.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from itertools import islice
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from resilient_llm._classify import classify
from resilient_llm._values import ErrorKind, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["any_of", "broken", "empty", "filtered", "truncated", "unusable"]

_EMPTY: Final = Verdict(ErrorKind.BAD_RESPONSE, "empty")
_FILTERED: Final = Verdict(ErrorKind.REQUEST_SPECIFIC, "content_policy")
_TRUNCATED: Final = Verdict(ErrorKind.REQUEST_SPECIFIC, "output_truncated")
_BROKEN: Final = Verdict(ErrorKind.TRANSIENT, "invalid_response")
_INTERRUPTED: Final = Verdict(ErrorKind.TRANSIENT, "stream_interrupted")
# The model, not the server, wrote what could not be read: another try may do, and nobody is ill.
_MALFORMED: Final = Verdict(ErrorKind.TRANSIENT, "invalid_response", harms_health=False)


def _each(words: str, verdict: Verdict) -> dict[str, Verdict]:
    return dict.fromkeys(words.split(), verdict)


# Why a model stopped, as the providers spell it, lower-cased. What is not here is no complaint.
_STOPS: Final[dict[str, Verdict]] = {
    **_each(
        # openai, azure and all who speak like them; zhipu; anthropic; google, of answers and of
        # prompts; bedrock and the models on it; cohere
        """content_filter content_filtered content_policy_violation sensitive refusal
        safety recitation blocklist prohibited_content spii escalation model_armor jailbreak
        image_safety image_prohibited_content image_recitation
        guardrail_intervened error_toxic""",
        _FILTERED,
    ),
    **_each(
        # openai; anthropic, google and cohere; mistral; older cohere; google's next page
        """length max_tokens max_output_tokens max_length model_length token_limit
        model_context_window_exceeded error_limit continuation""",
        _TRUNCATED,
    ),
    **_each(
        """malformed_function_call unexpected_tool_call malformed_response
        malformed_model_output malformed_tool_use""",
        _MALFORMED,
    ),
    # mistral, openrouter, cohere; vllm and sglang when the server gave the request up; zhipu
    **_each("error abort network_error", Verdict(ErrorKind.TRANSIENT, "server_error")),
    "timeout": Verdict(ErrorKind.TRANSIENT, "timeout"),
    "insufficient_system_resource": Verdict(ErrorKind.TRANSIENT, "overloaded"),  # deepseek
    "pup_limited_disabled": Verdict(ErrorKind.AUTH_DEAD, "account_disabled"),  # google
}

# Ends that are no failure of anybody's.
_COMPLETE: Final = (_FILTERED, _TRUNCATED)

# Parts of an answer that hold what a model thought, not what it says.
_THOUGHTS: Final = frozenset(("thinking", "redacted_thinking", "reasoning", "reasoning_content", "thought"))
# What says nothing about whether a part holds anything.
_ABOUT_A_PART: Final = frozenset(
    """type text thought thought_signature thoughtSignature thinking signature reasoningContent reasoning id index
    status role part_kind citations annotations logprobs video_metadata videoMetadata media_resolution
    part_metadata cachePoint""".split()
)
# Where a message has something to say besides its text.
_SAYINGS: Final = ("tool_calls", "function_call", "audio", "images", "parsed", "invalid_tool_calls", "toolCalls")
# All that stands beside ``error`` in a body that is nothing but an error.
_BESIDE_AN_ERROR: Final = frozenset(
    """error errors code type status status_code statusCode message msg detail details object param request_id
    requestId success ok error_type error_code error_description user_id ResponseMetadata""".split()
)
# Errors that arrive as an event of their own in AWS's streams.
_EXCEPTION: Final = "Exception"

_LONGEST: Final = 65_536
_MOST_CANDIDATES: Final = 16
_MOST_PARTS: Final = 256
_MOST_FIELDS: Final = 64
_MOST_PIECES: Final = 512  # from either end of a stream
_DEEPEST: Final = 6
_ACCEPTED: Final = (
    ErrorKind.TRANSIENT,
    ErrorKind.RATE_LIMITED,
    ErrorKind.AUTH_DEAD,
    ErrorKind.MEMORY_PRESSURE,
    ErrorKind.REQUEST_SPECIFIC,
    ErrorKind.BAD_RESPONSE,
)

Answered = Literal[False] | Verdict


def empty(answer: object) -> Answered:
    """Return ``bad_response``, reason ``empty``, for an answer in which the model said nothing.

    Something is said by any text that is not blank, a tool or function call, a refusal, an
    audio or image, a parsed object, an embedding. What a model merely thought is not an answer.
    An empty text, and None, which clients give as the text of such an answer, count as well.
    """
    return _looked_at(answer, _is_empty)


def filtered(answer: object) -> Answered:
    """Return ``request_specific``, reason ``content_policy``, for what a filter or the model refused.

    Also if some text was written before the filter came. ``on_content_policy`` decides what
    follows, as for an error of the same reason.
    """
    return _looked_at(answer, _is_filtered)


def truncated(answer: object) -> Answered:
    """Return ``request_specific``, reason ``output_truncated``, for an answer cut off at a limit of tokens."""
    return _looked_at(answer, _is_truncated)


def broken(answer: object) -> Answered:
    """Return the verdict on a failure that a client handed back as if it were an answer.

    An error in the body of a success gives the verdict that it would give as an exception,
    rules of your own included. A page of HTML, None, a body without candidates and a stream
    that never came to its end are ``transient``.
    """
    return _looked_at(answer, _is_broken)


def unusable(answer: object) -> Answered:
    """Return what `broken`, `filtered` or `empty` has against an answer, in this order."""
    return _looked_at(answer, _is_unusable)


def any_of(*predicates: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function for ``reject`` that asks others in turn; the first that objects decides.

    Args:
        predicates: Functions as ``reject`` takes them, those of this module or your own.

    Returns:
        A function that gives what the first objecting one gave, or False.
    """

    def objection(answer: Any) -> Any:
        for predicate in predicates:
            said = predicate(answer)
            if said is not None and said is not False:
                return said
        return False

    return objection


class _Candidate:
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
        self.stopped = _STOPS.get(_word(stop))


class _Look:
    """What is seen of an answer, whatever its shape.

    Attributes:
        candidates: The answers in it.
        error: An error found in it, as plain data or as the response that it came with; or None.
        fault: What is wrong with it as a whole, or None.
        is_piece: Whether it is one piece of a stream, or not finished: nothing need be in it.
    """

    __slots__ = ("candidates", "error", "fault", "is_piece")

    def __init__(self) -> None:
        self.candidates: list[_Candidate] = []
        self.error: object = None
        self.fault: Verdict | None = None
        self.is_piece = False

    def add(self, stop: object = None) -> _Candidate:
        candidate = _Candidate(stop)
        self.candidates.append(candidate)
        return candidate


def _looked_at(answer: object, judge: Callable[[_Look], Answered]) -> Answered:
    try:
        look = _Look()
        _look_at(answer, look)
        return judge(look)
    except Exception:  # noqa: BLE001  # somebody else's object may raise anything, and must not fail a call
        return False


# Each asks all candidates: of several, one good one is enough.


def _is_empty(look: _Look) -> Answered:
    if look.is_piece or look.error is not None or not look.candidates:
        return False
    return False if any(one.says or one.refuses for one in look.candidates) else _EMPTY


def _is_filtered(look: _Look) -> Answered:
    candidates = look.candidates
    if candidates and all(one.refuses or one.stopped is _FILTERED for one in candidates):
        return _FILTERED
    return False


def _is_truncated(look: _Look) -> Answered:
    candidates = look.candidates
    return _TRUNCATED if candidates and all(one.stopped is _TRUNCATED for one in candidates) else False


def _is_broken(look: _Look) -> Answered:
    if look.error is not None:
        return _verdict_on(look.error)
    if look.fault is not None:
        return look.fault
    candidates = look.candidates
    if candidates and all(one.stopped is not None and one.stopped not in _COMPLETE for one in candidates):
        return candidates[0].stopped or False
    return False


def _is_unusable(look: _Look) -> Answered:
    return _is_broken(look) or _is_filtered(look) or _is_empty(look)


class _InAnswerError(Exception):
    """Carries an error that came in a success to the rules, which read exceptions."""


def _verdict_on(error: object) -> Verdict:
    """Return what an error would be as an exception; a rule that knows it is believed."""
    is_body = type(error) is dict
    carrier: Any = _InAnswerError()
    setattr(carrier, "body" if is_body else "response", error)
    verdict = classify(carrier)
    if verdict.kind not in _ACCEPTED:
        return _BROKEN
    # What the wire said was a success; a number in a body is no HTTP status.
    return replace(verdict, status=None) if is_body else verdict


# How somebody else's object is read: what it holds, never what it computes.

_MISSING: Final = object()
# Those of dict itself, whatever a class made of them.
_get: Final = cast("Callable[[object, str, object], Any]", dict.get)  # pyright: ignore[reportUnknownMemberType]
_pairs: Final = cast("Callable[[object], Iterable[tuple[Any, Any]]]", dict.items)  # pyright: ignore[reportUnknownMemberType]


def _field(thing: object, *names: str) -> Any:
    """Return the first of the named fields that is there and set, or None."""
    for name in names:
        value = _held(thing, name)
        if value is not _MISSING and value is not None and type(value).__name__ != "Unset":  # mistralai
            return value
    return None


def _has(thing: object, name: str) -> bool:
    return _held(thing, name) is not _MISSING


def _held(thing: object, name: str) -> Any:
    """Return an item of a dict or an attribute of an instance, without running code of its class."""
    if _is_dict(thing):
        value = _get(thing, name, _MISSING)
        if value is not _MISSING or type(thing) is dict:
            return value
    own = _attributes(thing)
    if own is None:
        return _slot(thing, name)
    value = own.get(name, _MISSING)
    if value is not _MISSING:
        return value
    for store in (_raw(thing, "__pydantic_extra__"), own.get("_data")):  # pydantic; azure's own models
        if type(store) is dict:
            value = cast("dict[str, Any]", store).get(name, _MISSING)
            if value is not _MISSING:
                return value
    return _MISSING


def _attributes(thing: object) -> dict[str, Any] | None:
    own = _raw(thing, "__dict__")
    return cast("dict[str, Any]", own) if type(own) is dict else None


def _raw(thing: object, name: str) -> Any:
    try:
        return object.__getattribute__(thing, name)
    except AttributeError:
        return None


def _slot(thing: object, name: str) -> Any:
    for base in type(thing).__mro__:
        place = base.__dict__.get(name)
        if type(place) is MemberDescriptorType:
            return place.__get__(thing)
    return _MISSING


def _is_dict(thing: object) -> bool:
    """Return what ``isinstance`` would if nobody could lie to it."""
    return issubclass(type(thing), dict)


def _fields(thing: object) -> Iterator[tuple[str, Any]]:
    """Yield some of the ``(name, value)`` that a thing holds."""
    stores: list[Any] = [thing] if _is_dict(thing) else []
    own = _attributes(thing)
    if own is not None:
        stores += [own, _raw(thing, "__pydantic_extra__"), own.get("_data")]
    for store in stores:
        if _is_dict(store):
            yield from ((name, value) for name, value in islice(_pairs(store), _MOST_FIELDS) if type(name) is str)


def _items(value: object, most: int = _MOST_PARTS) -> list[Any]:
    """Return some of a list or tuple; nothing of anything else."""
    return list(islice(cast("list[Any]", value), most)) if type(value) in (list, tuple) else []


def _word(value: object) -> str:
    """Return a word that providers send as a text or an enum, lower-cased; empty if it is none."""
    if isinstance(value, Enum):
        value = value.name
    return value[:64].lower() if isinstance(value, str) else ""


def _is_text(value: object) -> bool:
    """Return whether it is a text that is not blank, as far as it is looked at."""
    if isinstance(value, str):
        return len(value) > _LONGEST or (bool(value) and not value.isspace())
    return False


def _is_mapping_like(thing: object) -> bool:
    return _is_dict(thing) or (thing is not None and _attributes(thing) is not None)


# The shapes, from the outermost inwards.


def _look_at(answer: object, look: _Look) -> None:
    if answer is None:
        look.fault = _BROKEN
        look.add()
    elif isinstance(answer, (str, bytes, bytearray)):
        _look_at_text(answer, look)
    elif type(answer) in (list, tuple):
        _look_at_list(cast("list[Any]", answer), look)
    elif not isinstance(answer, type):
        look.error = _error_in(answer)
        for shape in _SHAPES:
            if shape(answer, look):
                return
        _look_at_failed_response(answer, look)


def _look_at_text(answer: str | bytes | bytearray, look: _Look) -> None:
    """A text is an answer of somebody's own function, unless no model would write it."""
    if isinstance(answer, str):
        says = _is_text(answer)
        start = answer[:_LONGEST]
    else:
        says = bool(answer)
        start = bytes(answer[:_LONGEST]).decode("utf-8", "replace")
    start = start.lstrip("\ufeff \t\r\n")
    is_raw = not isinstance(answer, str)
    if start[:14].lower().startswith(("<!doctype html", "<html")) or _is_event_stream(start):
        look.fault = _BROKEN
    elif start.startswith("{") and len(answer) <= _LONGEST:
        _look_at_json(start, look, is_raw=is_raw)
        if is_raw and (look.candidates or look.fault or look.error):
            return
    look.add().says = says


def _is_event_stream(text: str) -> bool:
    """Return whether a stream came although nobody had asked for one."""
    return text.startswith('data: {"') or (text.startswith("event: ") and "\ndata: {" in text[:256])


def _look_at_json(text: str, look: _Look, *, is_raw: bool) -> None:
    """A body that was not decoded. As text it may be what a model was asked to write; then only an error counts."""
    import json

    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        if is_raw:
            look.fault = _BROKEN
        return
    if is_raw:
        _look_at(body, look)
    elif isinstance(body, dict) and isinstance(error := cast("dict[str, Any]", body).get("error"), dict):
        named = cast("dict[str, Any]", error)
        is_alone = _BESIDE_AN_ERROR.issuperset(cast("dict[str, Any]", body))
        if is_alone and isinstance(named.get("message"), str) and ("code" in named or "type" in named):
            look.error = _plain_body(cast("dict[str, Any]", body))


def _look_at_failed_response(answer: object, look: _Look) -> None:
    """A response of an HTTP client that nobody asked for its status, or a body that says it failed."""
    if look.error is not None:
        return
    status = _field(answer, "status_code", "status")
    if type(status) is not int or not 400 <= status <= 599:
        return
    if _is_dict(answer):  # dashscope gives this back where others raise
        if _is_text(_field(answer, "code")) and _has(answer, "message"):
            look.error = _plain_body(cast("dict[str, Any]", answer))
    elif _has(answer, "headers") or _has(answer, "_headers"):
        look.error = answer


# Errors told in a body.


def _error_in(answer: object) -> dict[str, Any] | None:
    """Return the body with an error in it, as plain data, or None."""
    error = _field(answer, "error")
    if error is None:
        errors = _items(_field(answer, "errors"), 1) if _field(answer, "success") is False else []
        error = errors[0] if errors else None
    if error is not None:
        if _is_an_error(error):
            return _body_with(error)
        if _is_text(error) and _is_nothing_else(answer):
            return _body_with(error)
    if _word(_field(answer, "object")) == "error" and _is_text(_field(answer, "message")):  # vllm
        return _body_with(answer)
    told = _field(answer, "base_resp")  # minimax
    if told is not None and _field(told, "status_code") not in (None, 0) and _is_text(_field(told, "status_msg")):
        return {"error": {"message": _field(told, "status_msg")[:_LONGEST]}}
    return None


def _is_an_error(error: object) -> bool:
    return _is_mapping_like(error) and any(
        isinstance(_field(error, name), (str, int)) for name in ("message", "code", "type", "status", "msg")
    )


def _is_nothing_else(answer: object) -> bool:
    return _is_dict(answer) and _BESIDE_AN_ERROR.issuperset(islice(cast("Any", answer), _MOST_FIELDS))


def _body_with(error: object) -> dict[str, Any]:
    return {"error": error[:_LONGEST] if isinstance(error, str) else _plain(error, _DEEPEST)}


def _plain_body(body: dict[str, Any]) -> dict[str, Any]:
    return cast("dict[str, Any]", _plain(body, _DEEPEST))


def _plain(value: object, depth: int) -> Any:
    """Return a bounded copy in dicts, lists, texts and numbers: what rules look at."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Enum):
        return _word(value)
    if isinstance(value, str):
        return value[:_LONGEST]
    if depth == 0:
        return None
    if type(value) in (list, tuple):
        return [_plain(item, depth - 1) for item in _items(value, 32)]
    return {name: _plain(held, depth - 1) for name, held in _fields(value)}


# What is said by a message, and by its parts.


def _hear(message: object, candidate: _Candidate) -> None:
    """Note what a message says: openai's, and whoever spells it like them."""
    if message is None:
        return
    if any(_is_something(_field(message, name)) for name in _SAYINGS) or _is_something(
        _field(_field(message, "additional_kwargs"), "tool_calls", "function_call")  # langchain
    ):
        candidate.says = True
    if _is_text(_field(message, "refusal")) or _is_text(_field(_field(message, "additional_kwargs"), "refusal")):
        candidate.refuses = True
    _hear_content(_field(message, "content"), candidate)


def _hear_content(content: object, candidate: _Candidate) -> None:
    if isinstance(content, str):
        candidate.says = candidate.says or _is_text(content)
        return
    parts = _items(content)
    for part in parts:
        _hear_part(part, candidate)
    if len(parts) == _MOST_PARTS:
        candidate.says = True


def _hear_part(part: object, candidate: _Candidate) -> None:
    if isinstance(part, str):
        candidate.says = candidate.says or _is_text(part)
        return
    sort = _word(_field(part, "type", "part_kind"))
    if sort == "refusal":
        candidate.refuses = True
    elif sort not in _THOUGHTS and _field(part, "thought") is not True:
        text = _field(part, "text")
        if text is None and sort in ("text", "output_text"):  # pydantic-ai's parts have their text in content
            text = _field(part, "content")
        candidate.says = candidate.says or _is_text(text) or _holds_more(part)


def _holds_more(part: object) -> bool:
    """Return whether a part holds anything but text: a call, an image, a file."""
    sort = _word(_field(part, "type", "part_kind"))
    if sort in ("text", "output_text"):
        return False
    return any(name not in _ABOUT_A_PART and _is_something(value) for name, value in _fields(part))


def _is_something(value: object) -> bool:
    """Return whether a field is filled; asks no foreign object for its truth."""
    if value is None or value is False or type(value).__name__ == "Unset":
        return False
    if isinstance(value, str):
        return _is_text(value)
    return not (type(value) in (list, tuple, dict) and not value)


_OF_A_CHOICE: Final = ("message", "delta", "finish_reason", "text", "error")
_BESIDE_CHOICES: Final = ("object", "created", "usage")
_OF_A_CANDIDATE: Final = ("content", "finish_reason", "finishReason")
_BESIDE_CANDIDATES: Final = ("usage_metadata", "model_version", "modelVersion")
_INSTEAD_OF_CANDIDATES: Final = ("prompt_feedback", "promptFeedback", "usageMetadata")

# One function per shape: takes the answer if it is one of its own, and says whether it was.


def _choices(answer: object, look: _Look) -> bool:
    """openai's chat and completions, and all who speak like them."""
    if not _has(answer, "choices"):
        return False
    choices = _items(_field(answer, "choices"), _MOST_CANDIDATES)
    # Somebody's own function may well give choices of another sort.
    beside, names = (choices[0], _OF_A_CHOICE) if choices else (answer, _BESIDE_CHOICES)
    if not any(_has(beside, name) for name in names):
        return False
    if "chunk" in _word(_field(answer, "object")):
        look.is_piece = True
    for choice in choices:
        candidate = look.add(_field(choice, "finish_reason"))
        message = _field(choice, "message")
        if message is None and _has(choice, "delta"):
            look.is_piece = True
            message = _field(choice, "delta")
        _hear(message, candidate)
        if _is_text(_field(choice, "text")) or _items(_field(choice, "messages"), 1):
            candidate.says = True
        error = _field(choice, "error")  # openrouter
        if error is not None and look.error is None and _is_an_error(error):
            look.error = _body_with(error)
    if not choices and not look.is_piece:
        look.fault = _BROKEN
    return True


def _candidates(answer: object, look: _Look) -> bool:
    """Google's."""
    candidates = _items(_field(answer, "candidates"), _MOST_CANDIDATES)
    beside, names = (candidates[0], _OF_A_CANDIDATE) if candidates else (answer, _INSTEAD_OF_CANDIDATES)
    if not candidates and _has(answer, "candidates"):
        names += _BESIDE_CANDIDATES
    if not any(_has(beside, name) for name in names):
        return False
    for each in candidates:
        candidate = look.add(_field(each, "finish_reason", "finishReason"))
        _hear_content(_field(_field(each, "content"), "parts"), candidate)
    if look.candidates:
        return True
    if _blocked(answer):
        look.add("safety")
    else:
        look.fault = _BROKEN
    return True


def _blocked(answer: object) -> bool:
    feedback = _field(answer, "prompt_feedback", "promptFeedback")
    return _field(feedback, "block_reason", "blockReason") is not None


def _responses(answer: object, look: _Look) -> bool:
    """openai's Responses."""
    if _word(_field(answer, "object")) != "response" and not (
        _has(answer, "output") and _has(answer, "incomplete_details")
    ):
        return False
    status = _word(_field(answer, "status"))
    output = _field(answer, "output")
    if status in ("queued", "in_progress", "cancelled"):
        look.is_piece = True
        return True
    if status == "failed" or output is None:
        look.fault = _BROKEN
    candidate = look.add(_field(_field(answer, "incomplete_details"), "reason"))
    items = _items(output)
    for item in items:
        if _word(_field(item, "type")) == "message":
            _hear_content(_field(item, "content"), candidate)
        else:
            _hear_part(item, candidate)
    if len(items) == _MOST_PARTS:
        candidate.says = True
    return True


def _blocks(answer: object, look: _Look) -> bool:
    """anthropic's messages, and older completions."""
    if _has(answer, "stop_reason") and _has(answer, "completion"):
        look.add(_field(answer, "stop_reason")).says = _is_text(_field(answer, "completion"))
        return True
    if not _has(answer, "stop_reason") or not _has(answer, "content"):
        return False
    stop = _field(answer, "stop_reason")
    content = _field(answer, "content")
    if _word(stop) == "pause_turn":  # to be continued by the caller
        look.is_piece = True
    if content is None:
        look.fault = _BROKEN
    _hear_content(content, look.add(stop))
    return True


def _converse(answer: object, look: _Look) -> bool:
    """Bedrock's converse, and its own models."""
    if not _is_dict(answer):
        return False
    body = cast("dict[str, Any]", answer)
    if body.keys() == {"ResponseMetadata"}:  # a body that was cut off: botocore does not notice
        look.fault = _BROKEN
        return True
    if "stopReason" in body or ("ResponseMetadata" in body and "output" in body):
        message = _field(body.get("output"), "message")
        if message is None:
            look.fault = _BROKEN
        _hear(message, look.add(body.get("stopReason")))
        return True
    if "generation" in body and "stop_reason" in body:
        look.add(body["stop_reason"]).says = _is_text(body["generation"])
        return True
    for name, text, stop in (("results", "outputText", "completionReason"), ("outputs", "text", "stop_reason")):
        outputs = _items(body.get(name), _MOST_CANDIDATES)
        if outputs and _has(outputs[0], text) and _has(outputs[0], stop):
            for each in outputs:
                look.add(_field(each, stop)).says = _is_text(_field(each, text))
            return True
    return False


def _message(answer: object, look: _Look) -> bool:
    """Cohere's chat, ollama's chat and generate."""
    if _has(answer, "done") and (_has(answer, "message") or _has(answer, "response")):
        candidate = look.add(_field(answer, "done_reason"))
        _hear(_field(answer, "message"), candidate)
        response = _field(answer, "response")
        candidate.says = candidate.says or _is_text(response) or _is_something(_field(answer, "image", "images"))
        look.is_piece = _field(answer, "done") is False
        return True
    if _word(_field(answer, "role")) == "assistant" and _has(answer, "content"):  # taken out of a choice
        _hear(answer, look.add())
        return True
    if not _has(answer, "finish_reason"):
        return False
    if _has(answer, "message"):
        message = _field(answer, "message")
        if message is None:
            look.fault = _BROKEN
        _hear(message, look.add(_field(answer, "finish_reason")))
        return True
    if _has(answer, "generation_id"):  # cohere's first chat
        candidate = look.add(_field(answer, "finish_reason"))
        _hear(answer, candidate)
        candidate.says = candidate.says or _is_text(_field(answer, "text"))
        return True
    return False


def _framework(answer: object, look: _Look) -> bool:
    """Messages of langchain, results and messages of pydantic-ai, texts of huggingface_hub."""
    if _has(answer, "response_metadata") and _has(answer, "content"):
        metadata = _field(answer, "response_metadata")
        stop = _field(metadata, "finish_reason", "stop_reason", "stopReason", "done_reason")
        _hear(answer, look.add(stop))
        look.is_piece = _word(_field(answer, "type")) != "ai"
        return True
    if _word(_field(answer, "kind")) == "response" and _has(answer, "parts"):
        _hear_content(_field(answer, "parts"), look.add(_field(answer, "finish_reason")))
        return True
    if _has(answer, "_output_tool_name") and _has(answer, "output"):
        history = _field(_field(answer, "_state"), "message_history")
        last = cast("list[Any]", history)[-1] if type(history) is list and history else None
        output = _field(answer, "output")
        candidate = look.add(_field(last, "finish_reason"))
        candidate.says = _is_text(output) if isinstance(output, str) else output is not None
        return True
    if _has(answer, "generated_text"):
        details = _field(answer, "details")
        look.add(_field(details, "finish_reason")).says = _is_text(_field(answer, "generated_text"))
        return True
    return False


def _lists(answer: object, look: _Look) -> bool:
    """Embeddings and images."""
    for name, beside in (
        ("data", "usage"),
        ("data", "created"),
        ("embeddings", "model"),
        ("embeddings", "total_tokens"),
        ("embeddings", "metadata"),
        ("generated_images", "positive_prompt_safety_attributes"),
    ):
        if _has(answer, name) and _has(answer, beside):
            found = _field(answer, name)
            if found is None:
                look.fault = _BROKEN
            look.add().says = _is_something(found)
            return True
    return False


_SHAPES: Final = (_choices, _candidates, _responses, _blocks, _converse, _message, _framework, _lists)


# Lists: the pieces of a stream that somebody collected.


class _Stream:
    """What the pieces of a stream come to.

    Attributes:
        candidate: All that was said.
        knows: Whether a piece was of a known shape.
        ended: Whether a piece told the end; None if the shape has none that can be relied on.
        is_batch: Whether these are whole answers to several questions.
    """

    def __init__(self, look: _Look) -> None:
        self.look = look
        self.candidate = look.add()
        self.knows = False
        self.ended: bool | None = False
        self.is_batch = False

    def end(self, stop: object) -> None:
        """Note why it stopped, if it says so."""
        if stop is not None and _word(stop):
            self.ended = True
            stopped = _STOPS.get(_word(stop))
            if stopped is not None:
                self.candidate.stopped = stopped

    def take(self, piece: object) -> None:
        """Take what a whole answer would say into the candidate."""
        look = _Look()
        is_known = any(shape(piece, look) for shape in (_choices, _candidates, _message, _framework))
        if is_known or _is_nothing_else(piece):
            look.error = look.error or _error_in(piece)
        self.knows = self.knows or is_known or look.error is not None
        self.look.error = self.look.error or look.error
        for candidate in look.candidates:
            self.add(candidate)

    def add(self, candidate: _Candidate) -> None:
        """Add what a piece said."""
        mine = self.candidate
        mine.says = mine.says or candidate.says
        mine.refuses = mine.refuses or candidate.refuses
        mine.stopped = mine.stopped or candidate.stopped


def _look_at_list(pieces: list[Any], look: _Look) -> None:
    if not pieces:  # where a stream is due: not one event came
        look.fault = _BROKEN
        look.add()
        return
    if len(pieces) <= 2 * _MOST_PIECES:
        seen = pieces
    else:
        seen = [*pieces[:_MOST_PIECES], *pieces[-_MOST_PIECES:]]
    if all(isinstance(piece, str) for piece in seen):
        look.add().says = len(seen) < len(pieces) or any(_is_text(piece) for piece in seen)
        return
    stream = _Stream(look)
    for piece in seen:
        _hear_piece(piece, stream)
    if stream.is_batch or not stream.knows:
        # Several answers, or something of somebody's own.
        look.candidates.clear()
        look.error = look.fault = None
        return
    if len(seen) < len(pieces):
        stream.candidate.says = True  # for all we know
    if stream.ended is False and look.error is None and look.fault is None:
        look.fault = _INTERRUPTED if stream.candidate.says else _BROKEN


def _hear_piece(piece: object, stream: _Stream) -> None:
    if isinstance(piece, (str, bytes, list, tuple, int, float)):
        return
    sort = _field(piece, "type")
    sort = sort if isinstance(sort, str) else ""
    if sort.startswith("response."):
        _hear_response_event(piece, sort, stream)
    elif sort in _EVENTS:
        _hear_event(piece, sort, stream)
    elif _is_dict(piece) and _hear_aws_event(cast("dict[str, Any]", piece), stream):
        pass
    else:
        _hear_chunk(piece, stream)


def _hear_chunk(piece: object, stream: _Stream) -> None:
    """A chunk that is shaped as a whole answer is."""
    stream.take(piece)
    choices = _field(piece, "choices")
    for choice in _items(choices, _MOST_CANDIDATES):
        stream.end(_field(choice, "finish_reason"))
        stream.is_batch = stream.is_batch or _field(choice, "message") is not None
    if (
        choices is not None and not _is_something(choices) and _field(piece, "usage") is not None
    ):  # the last chunk, after the end
        stream.end("stop")
    for each in _items(_field(piece, "candidates"), _MOST_CANDIDATES):
        stream.end(_field(each, "finish_reason", "finishReason"))
    if _blocked(piece):
        stream.end("safety")
    if _field(piece, "done") is True:
        stream.end(_field(piece, "done_reason") or "stop")
    if _has(piece, "response_metadata") and _has(piece, "content"):
        stream.is_batch = stream.is_batch or _word(_field(piece, "type")) == "ai"
        stream.ended = None  # not every integration of langchain says why it ended


# Events of anthropic's and cohere's streams.
_EVENTS: Final = frozenset(
    """message_start content_block_start content_block_delta content_block_stop message_delta message_stop ping error
    message-start content-start content-delta content-end tool-plan-delta tool-call-start tool-call-delta
    tool-call-end citation-start citation-end message-end debug""".split()
)


def _hear_event(piece: object, sort: str, stream: _Stream) -> None:
    candidate = stream.candidate
    delta = _field(piece, "delta")
    if sort == "error":
        _hear_error_event(piece, stream)
        return
    stream.knows = True
    if sort == "content_block_start":
        _hear_part(_field(piece, "content_block"), candidate)
        if _word(_field(_field(piece, "content_block"), "type")).endswith("tool_use"):
            candidate.says = True
    elif sort in ("tool-call-start", "tool-call-delta", "tool-call-end"):
        candidate.says = True
    elif sort == "content_block_delta":
        candidate.says = candidate.says or _is_text(_field(delta, "text"))
    elif sort in ("content-start", "content-delta"):
        content = _field(_field(delta, "message"), "content")
        candidate.says = candidate.says or _is_text(_field(content, "text"))
    elif sort in ("message_delta", "message-end"):
        stream.end(_field(delta, "stop_reason", "finish_reason"))
    elif sort == "message_stop":
        stream.ended = True


def _hear_error_event(piece: object, stream: _Stream) -> None:
    """anthropic's error event has the error inside, that of openai's Responses is one itself."""
    error = _error_in(piece)
    if error is None and _has(piece, "sequence_number"):
        error = _body_with(piece)
    stream.knows = stream.knows or error is not None
    stream.look.error = stream.look.error or error


def _hear_response_event(piece: object, sort: str, stream: _Stream) -> None:
    """An event of openai's Responses."""
    stream.knows = True
    if sort in ("response.completed", "response.incomplete", "response.failed"):
        stream.ended = True
        response = _field(piece, "response")
        look = stream.look
        look.error = look.error or _error_in(response)
        if sort == "response.failed":
            look.fault = _BROKEN
        whole = _Look()
        if _responses(response, whole):
            for candidate in whole.candidates:
                stream.add(candidate)
    elif sort in ("response.error", "response.cancelled"):
        stream.ended = True
        stream.look.error = stream.look.error or _error_in(piece)
    elif sort.startswith("response.refusal"):
        stream.candidate.refuses = True
    elif "reasoning" not in sort and (_is_text(_field(piece, "delta")) or "_call" in sort):
        stream.candidate.says = True


def _hear_aws_event(piece: dict[str, Any], stream: _Stream) -> bool:
    """An event of Bedrock's converse_stream; each is a dict of one."""
    name = next(iter(piece)) if len(piece) == 1 else ""
    event = piece.get(name)
    if type(name) is not str or not (name in _AWS_EVENTS or name.endswith(_EXCEPTION)):
        return False
    stream.knows = True
    if name.endswith(_EXCEPTION):
        stream.look.error = {"error": {"code": name[:64], "message": _plain(_field(event, "message"), 1)}}
    elif name == "contentBlockStart":
        stream.candidate.says = stream.candidate.says or _is_something(_field(event, "start"))
    elif name == "contentBlockDelta":
        _hear_part(_field(event, "delta"), stream.candidate)
    elif name == "messageStop":
        stream.ended = True
        stream.end(_field(event, "stopReason"))
    return True


_AWS_EVENTS: Final = frozenset(
    ("messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata")
)
