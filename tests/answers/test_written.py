"""How many characters a model wrote in an item or an answer: everything that is billed as output."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from anthropic.types import Message, RawContentBlockDeltaEvent
from google.genai.types import GenerateContentResponse
from mistralai.client.models import CompletionEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

from resilient_llm.answers.usage import characters_in, characters_of

ARGUMENTS = '{"a":1}'
CALL = {"index": 0, "id": "c", "type": "function"}
CALL |= {"function": {"name": "write", "arguments": ARGUMENTS}}


def chat(*deltas: dict[str, Any], **more: Any) -> dict[str, Any]:
    choices = [
        {"index": index, "delta": delta, "finish_reason": None}
        for index, delta in enumerate(deltas)
    ]
    about = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**about, "choices": choices, **more}


def block(**delta: str) -> dict[str, Any]:
    (name,) = delta
    kind = "input_json_delta" if name == "partial_json" else f"{name}_delta"
    return {"type": "content_block_delta", "index": 0, "delta": {"type": kind, **delta}}


def gemini(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(parts), "role": "model"}}]}


def cohere(kind: str, **message: Any) -> dict[str, Any]:
    return {"type": kind, "index": 0, "delta": {"message": message}}


def ollama(**message: Any) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", **message}, "done": False}


def langchain(content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "AIMessageChunk", "content": content, "response_metadata": {}, **more}


ITEMS: dict[str, tuple[Any, int]] = {
    "chat, text": (chat({"content": "Hello", "role": "assistant"}), 5),
    "chat, all choices": (chat({"content": "Hello"}, {"content": "Hi"}), 7),
    "chat, reasoning": (chat({"reasoning_content": "Well"}), 4),
    "chat, reasoning twice": (chat({"reasoning": "Well", "reasoning_content": "Well"}), 4),
    "chat, reasoning in details": (
        chat({"reasoning_details": [{"type": "reasoning.text", "text": "Well"}]}),
        4,
    ),
    "chat, refusal": (chat({"refusal": "No"}), 2),
    "chat, arguments": (chat({"tool_calls": [CALL, CALL]}), 14),
    "chat, arguments as base64": (
        chat({"tool_calls": [{"index": 0, "function": {"arguments": "QUJD" * 2000}}]}),
        8000,
    ),
    "chat, one function": (chat({"function_call": {"name": "f", "arguments": ARGUMENTS}}), 7),
    "chat, audio": (chat({"audio": {"transcript": "Hello", "data": "QUJD" * 99}}), 5),
    "chat, usage": (chat(usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}), 0),
    "completions": ({"choices": [{"index": 0, "text": "Hello"}]}, 5),
    "mistral, thinking": (
        {
            "data": chat(
                {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Well"}]}]}
            )
        },
        4,
    ),
    "anthropic, text": (block(text="Hello"), 5),
    "anthropic, thinking": (block(thinking="Well"), 4),
    "anthropic, arguments": (block(partial_json=ARGUMENTS), 7),
    "anthropic, signature": (block(signature="x" * 99), 0),
    "anthropic, start of a call": (
        {
            "type": "content_block_start",
            "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
        },
        0,
    ),
    "anthropic, a call at once": (
        {
            "type": "content_block_start",
            "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
        },
        7,
    ),
    "anthropic, result of a search": (
        {
            "type": "content_block_start",
            "content_block": {
                "type": "web_search_tool_result",
                "tool_use_id": "t",
                "content": [{"type": "web_search_result", "title": "T" * 99}],
            },
        },
        0,
    ),
    "anthropic, whole message": (
        {"type": "message_stop", "message": {"content": [{"type": "text", "text": "Hello"}]}},
        0,
    ),
    "responses, text": ({"type": "response.output_text.delta", "delta": "Hello"}, 5),
    "responses, text again": ({"type": "response.output_text.done", "text": "Hello"}, 0),
    "responses, reasoning": ({"type": "response.reasoning_summary_text.delta", "delta": "W"}, 1),
    "responses, refusal": ({"type": "response.refusal.delta", "delta": "No"}, 2),
    "responses, arguments": (
        {"type": "response.function_call_arguments.delta", "delta": ARGUMENTS},
        7,
    ),
    "responses, audio": ({"type": "response.audio.delta", "delta": "QUJD" * 99}, 0),
    "responses, transcript": ({"type": "response.audio.transcript.delta", "delta": "Hello"}, 5),
    "gemini, text and thoughts": (gemini({"text": "Hello"}, {"text": "Well", "thought": True}), 9),
    "gemini, arguments": (gemini({"functionCall": {"name": "f", "args": {"a": 1}}}), 7),
    "gemini, code": (gemini({"executableCode": {"language": "PYTHON", "code": "1 + 1"}}), 5),
    "bedrock, text": ({"contentBlockDelta": {"delta": {"text": "Hello"}}}, 5),
    "bedrock, thinking": (
        {"contentBlockDelta": {"delta": {"reasoningContent": {"text": "Well"}}}},
        4,
    ),
    "bedrock, arguments": ({"contentBlockDelta": {"delta": {"toolUse": {"input": ARGUMENTS}}}}, 7),
    "bedrock, invoke": ({"chunk": {"bytes": json.dumps(block(thinking="Well")).encode()}}, 4),
    "cohere, text": (cohere("content-delta", content={"text": "Hello"}), 5),
    "cohere, thinking": (cohere("content-delta", content={"thinking": "Well"}), 4),
    "cohere, plan": (cohere("tool-plan-delta", tool_plan="Hello"), 5),
    "cohere, arguments": (
        cohere("tool-call-delta", tool_calls={"function": {"arguments": ARGUMENTS}}),
        7,
    ),
    "cohere 1, text": ({"event_type": "text-generation", "text": "Hello"}, 5),
    "cohere 1, arguments": (
        {"event_type": "tool-calls-chunk", "tool_call_delta": {"parameters": ARGUMENTS}},
        7,
    ),
    "cohere 1, end": ({"event_type": "stream-end", "response": {"text": "Hello"}}, 0),
    "ollama, text": (ollama(content="Hello"), 5),
    "ollama, thinking": (ollama(content="", thinking="Well"), 4),
    "ollama, arguments": (
        ollama(content="", tool_calls=[{"function": {"name": "f", "arguments": {"a": 1}}}]),
        7,
    ),
    "ollama, generate": ({"model": "m", "response": "Hello", "thinking": "W", "done": False}, 6),
    "langchain, text": (langchain("Hello"), 5),
    "langchain, parts": (
        langchain([{"type": "thinking", "thinking": "Well"}, {"type": "text", "text": "Hello"}]),
        9,
    ),
    "langchain, reasoning": (langchain("", additional_kwargs={"reasoning_content": "Well"}), 4),
    "langchain, arguments twice": (
        langchain(
            "", tool_call_chunks=[{"args": ARGUMENTS}], additional_kwargs={"tool_calls": [CALL]}
        ),
        7,
    ),
    "lines": (f"data: {json.dumps(chat({'reasoning': 'Well'}))}\n\n", 4),
    "bytes": (f"data: {json.dumps(block(partial_json=ARGUMENTS))}\n\n".encode(), 7),
    "a text": ("Hello", 5),
    "text like a line": ("data: yes", 9),
    "nothing": (None, 0),
    "another's": ({"token": 5}, 0),
}


PARTS = (
    "mistral, thinking",
    "anthropic, a call at once",
    "gemini, arguments",
    "cohere, thinking",
    "ollama, arguments",
    "langchain, parts",
)
"""What is inside of them is read only if it is a dict, or of a class that is data."""


def as_object(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{name: as_object(each) for name, each in value.items()})
    return [as_object(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", ITEMS)
def test_the_characters_of_an_item(name: str) -> None:
    """Text, reasoning, refusals and arguments count, each once, of all choices."""
    item, characters = ITEMS[name]

    assert characters == characters_of(item)
    if not name.startswith("bedrock") and name not in PARTS:  # boto3 gives dicts
        assert characters == characters_of(as_object(item))


@pytest.mark.parametrize(
    ("name", "build"),
    [
        *((name, ChatCompletionChunk) for name in ITEMS if name.startswith("chat, ")),
        *((name, GenerateContentResponse) for name in ITEMS if name.startswith("gemini")),
        ("anthropic, thinking", RawContentBlockDeltaEvent),
        ("anthropic, arguments", RawContentBlockDeltaEvent),
    ],
)
def test_the_characters_of_an_item_of_the_sdk(name: str, build: Any) -> None:
    """The same for what the SDK makes of it, with the fields that it does not declare."""
    item, characters = ITEMS[name]

    assert characters == characters_of(build.model_validate(item))


def test_the_characters_of_an_event_of_mistral() -> None:
    """Its thinking is a list of parts inside a part."""
    item, characters = ITEMS["mistral, thinking"]

    assert characters == characters_of(CompletionEvent.model_validate(item))


MESSAGE = {"role": "assistant", "content": "Hello"}


def completion(*messages: dict[str, Any]) -> dict[str, Any]:
    choices = [
        {"index": index, "message": each, "finish_reason": "stop"}
        for index, each in enumerate(messages)
    ]
    about = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    return {**about, "choices": choices}


def message(*content: dict[str, Any]) -> dict[str, Any]:
    about = {"id": "m", "type": "message", "role": "assistant", "model": "c"}
    usage = {"input_tokens": 1, "output_tokens": 1}
    return {**about, "content": list(content), "stop_reason": None, "usage": usage}


TOOL_USE = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
RESPONSE = {
    "id": "r",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "tools": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "output": [
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "Well"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": ARGUMENTS},
    ],
}
ANSWERS: dict[str, tuple[Any, int]] = {
    "chat, all choices": (completion(MESSAGE, MESSAGE), 10),
    "chat, arguments": (completion({**MESSAGE, "tool_calls": [CALL]}), 12),
    "chat, reasoning": (completion({**MESSAGE, "reasoning_content": "Well"}), 9),
    "chat, refusal": (completion({**MESSAGE, "content": None, "refusal": "No"}), 2),
    "chat, a message alone": ({**MESSAGE, "tool_calls": [CALL]}, 12),
    "anthropic": (message({"type": "text", "text": "Hello"}, TOOL_USE), 12),
    "anthropic, thinking": (
        message({"type": "thinking", "thinking": "Well", "signature": "x" * 99}),
        4,
    ),
    "responses": (RESPONSE, 11),
    "gemini": (gemini({"text": "Hello"}, {"functionCall": {"name": "f", "args": {"a": 1}}}), 12),
    "bedrock": (
        {"output": {"message": {"content": [{"toolUse": {"name": "f", "input": {"a": 1}}}]}}},
        7,
    ),
    "cohere": ({"message": {"tool_plan": "Well", "tool_calls": [CALL]}}, 11),
    "ollama, generate": ({"response": "Hello", "thinking": "Well", "done": True}, 9),
    "langchain": ({"content": "Hello", "tool_calls": [{"name": "f", "args": {"a": 1}}]}, 12),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_characters_of_a_whole_answer(name: str) -> None:
    """The same counts in answers without a usage."""
    answer, characters = ANSWERS[name]

    assert characters == characters_in(answer)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        *((name, ChatCompletion) for name in ANSWERS if name.startswith("chat, a")),
        ("chat, reasoning", ChatCompletion),
        ("anthropic", Message),
        ("anthropic, thinking", Message),
        ("responses", Response),
        ("gemini", GenerateContentResponse),
    ],
)
def test_the_characters_of_an_answer_of_the_sdk(name: str, build: Any) -> None:
    """The same for what the SDK makes of the body."""
    answer, characters = ANSWERS[name]
    if "choices" not in answer and name.startswith("chat"):
        pytest.skip("a message, which is no answer of the SDK")

    assert characters == characters_in(build.model_validate(answer))


class Raising:
    """Whose code must not run."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(name)


def _nested() -> Any:
    deep: Any = "x"
    for _ in range(10_000):
        deep = [deep]
    return deep


HOSTILE: dict[str, Any] = {
    "mock": MagicMock(),
    "mock of a chunk": MagicMock(choices=[MagicMock()]),
    "raising": Raising(),
    "choices": {"choices": Raising()},
    "choice": {"choices": [Raising(), None, 5]},
    "delta": chat({"content": Raising(), "tool_calls": Raising(), "reasoning": Raising()}),
    "type": {"type": Raising(), "delta": Raising()},
    "event type": {"event_type": Raising()},
    "candidates": {"candidates": [{"content": {"parts": [Raising(), {"text": Raising()}]}}]},
    "deep": chat({"content": _nested()}),
    "chunk": {"chunk": {"bytes": b"[" * 50_000}},
    "chunks": {"chunk": {"bytes": b'{"chunk": {"bytes": 5}}'}},
    "raw": {"http_response": Raising()},
    "raw body": {"http_response": {"_content": b"{" * 50_000}},
    "raw number": {"http_response": SimpleNamespace(_content=b"5")},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_items_are_harmless(name: str) -> None:
    """Whatever it is, there is a number, and no foreign code runs."""
    assert 0 <= characters_of(HOSTILE[name]) < 1000
    assert 0 <= characters_in(HOSTILE[name])
