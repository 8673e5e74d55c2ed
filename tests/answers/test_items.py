"""What a stream's driver asks of one item: content, the end, an error, the text that it adds."""

from __future__ import annotations

import copy
import gc
import json
import weakref
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm import ErrorKind, Verdict
from resilient_llm.answers._items import ItemInfo, inspect_item, text_of
from tests.answers.test_hostile import ANYTHING, Hostile, HostileDict, HostileText, Liar, as_object

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# What may be seen, in one word each.
SEEN = {
    "content": (True, True, False),
    "nothing": (True, False, False),
    "end": (True, False, True),
    "content and end": (True, True, True),
    "endless content": (True, True, None),
    "endless nothing": (True, False, None),
    "unknown": (False, True, None),
}


def seen(item: object) -> tuple[bool, bool, bool | None]:
    found = inspect_item(item)
    assert found.verdict is None, found
    return found.known, found.content, found.ended


# Items, as the wire has them: how they are seen, and their text.


@dataclass(frozen=True)
class Piece:
    wire: dict[str, Any]
    seen: str
    text: str = ""


def chunk(
    delta: dict[str, Any] | None = None, stop: str | None = None, **more: Any
) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": stop, "logprobs": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1730000000,
        "model": "some-model",
        "choices": [choice],
        **more,
    }


def completion(text: str, stop: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "finish_reason": stop, "logprobs": None}
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "some-model",
        "choices": [choice],
    }


CALL = {
    "index": 0,
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": ""},
}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}

# Whatever speaks openai's chat; what is no field of the SDK's own object it keeps as an extra.
CHAT = {
    "role only": Piece(chunk({"role": "assistant", "content": ""}), "nothing"),
    "role and null": Piece(chunk({"role": "assistant", "content": None}), "nothing"),
    "empty delta": Piece(chunk({}), "nothing"),
    "empty content": Piece(chunk({"content": ""}), "nothing"),
    "text": Piece(chunk({"content": "It will."}), "content", "It will."),
    "a line break": Piece(chunk({"content": "\n"}), "content", "\n"),
    "text and stop": Piece(chunk({"content": "It will."}, "stop"), "content and end", "It will."),
    "refusal": Piece(chunk({"refusal": "I cannot."}), "content"),
    "call begins": Piece(chunk({"tool_calls": [CALL]}), "content"),
    "no calls": Piece(chunk({"tool_calls": []}), "nothing"),
    "function call": Piece(
        chunk({"function_call": {"name": "weather", "arguments": ""}}), "content"
    ),
    "audio": Piece(chunk({"audio": {"data": "UklGRg=="}}), "content"),
    "audio to come": Piece(chunk({"audio": {"id": "audio_1"}}), "nothing"),
    "deepseek thinks": Piece(chunk({"content": None, "reasoning_content": "Hm."}), "content"),
    "deepseek, no thought": Piece(chunk({"content": "", "reasoning_content": ""}), "nothing"),
    "groq thinks": Piece(chunk({"reasoning": "Hm."}), "content"),
    "openrouter thinks": Piece(
        chunk(
            {
                "content": "",
                "reasoning_details": [{"type": "reasoning.text", "text": "Hm.", "index": 0}],
            }
        ),
        "content",
    ),
    "openrouter, a signature": Piece(
        chunk(
            {
                "content": "",
                "reasoning_details": [{"type": "reasoning.text", "text": "", "signature": "Abc"}],
            }
        ),
        "nothing",
    ),
    "litellm thinks": Piece(
        chunk({"thinking_blocks": [{"type": "thinking", "thinking": "Hm."}]}), "content"
    ),
    "stop": Piece(chunk({}, "stop"), "end"),
    "stop, empty text": Piece(chunk({"content": ""}, "tool_calls"), "end"),
    "cut off": Piece(chunk({}, "length"), "end"),
    "filtered": Piece(chunk({}, "content_filter"), "end"),
    "stop to come": Piece(chunk({"content": "It"}, ""), "content", "It"),
    "usage after the end": Piece({**chunk(usage=USAGE), "choices": []}, "end"),
    "azure's filter": Piece({**chunk(prompt_filter_results=[]), "choices": []}, "nothing"),
}
COMPLETIONS = {
    "text": Piece(completion("It will."), "content", "It will."),
    "empty text": Piece(completion(""), "nothing"),
    "stop": Piece(completion("", "stop"), "end"),
}


def event(type: str, **more: Any) -> dict[str, Any]:
    return {"type": f"response.{type}", "sequence_number": 3, **more}


def response(status: str, *output: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1730000000,
        "model": "some-model",
        "status": status,
        "output": list(output),
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        **more,
    }


WHERE = {"output_index": 0, "item_id": "msg_1", "content_index": 0}
ITEM = {"output_index": 0, "item_id": "msg_1"}
TEXT_PART = {"type": "output_text", "text": "", "annotations": []}
SAID = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{**TEXT_PART, "text": "It will."}],
}
FUNCTION_CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "weather",
    "arguments": "",
}
RESPONSES = {
    "created": Piece(event("created", response=response("in_progress")), "nothing"),
    "in progress": Piece(event("in_progress", response=response("in_progress")), "nothing"),
    "queued": Piece(event("queued", response=response("queued")), "nothing"),
    "a message begins": Piece(
        event(
            "output_item.added",
            output_index=0,
            item={**SAID, "status": "in_progress", "content": []},
        ),
        "nothing",
    ),
    "a thought begins": Piece(
        event(
            "output_item.added",
            output_index=0,
            item={"type": "reasoning", "id": "rs_1", "summary": []},
        ),
        "nothing",
    ),
    "a call begins": Piece(
        event("output_item.added", output_index=0, item=FUNCTION_CALL), "content"
    ),
    "a search begins": Piece(event("web_search_call.in_progress", **ITEM), "content"),
    "a part begins": Piece(event("content_part.added", part=TEXT_PART, **WHERE), "nothing"),
    "text": Piece(
        event("output_text.delta", delta="It will.", logprobs=[], **WHERE), "content", "It will."
    ),
    "no text": Piece(event("output_text.delta", delta="", logprobs=[], **WHERE), "nothing"),
    "all of the text": Piece(
        event("output_text.done", text="It will.", logprobs=[], **WHERE), "content"
    ),
    "a citation": Piece(
        event(
            "output_text.annotation.added", annotation={"type": "file"}, annotation_index=0, **WHERE
        ),
        "nothing",
    ),
    "refusal": Piece(event("refusal.delta", delta="I cannot.", **WHERE), "content"),
    "thought": Piece(
        event("reasoning_summary_text.delta", delta="Hm.", summary_index=0, **ITEM), "content"
    ),
    "a call goes on": Piece(event("function_call_arguments.delta", delta="{", **ITEM), "content"),
    "audio": Piece(event("audio.delta", delta="UklGRg=="), "content"),
    "an image": Piece(
        event(
            "image_generation_call.partial_image",
            partial_image_b64="AA==",
            partial_image_index=0,
            **ITEM,
        ),
        "content",
    ),
    "a list of tools begins": Piece(
        event(
            "output_item.added",
            output_index=0,
            item={"type": "mcp_list_tools", "id": "1", "server_label": "x"},
        ),
        "nothing",
    ),
    "tools are listed": Piece(event("mcp_list_tools.in_progress", **ITEM), "nothing"),
    "completed": Piece(event("completed", response=response("completed")), "end"),
    "completed, with all in it": Piece(
        event("completed", response=response("completed", SAID)), "content and end"
    ),
    "incomplete": Piece(
        event(
            "incomplete",
            response=response("incomplete", incomplete_details={"reason": "max_output_tokens"}),
        ),
        "end",
    ),
}

# What `client.chat.completions.stream()` makes of the chunks, which it gives as well.
OPENAI_HELPER = {
    "chunk": Piece(
        {"type": "chunk", "chunk": chunk({"content": "It"}), "snapshot": {}}, "content", "It"
    ),
    "first chunk": Piece(
        {"type": "chunk", "chunk": chunk({"role": "assistant"}), "snapshot": {}}, "nothing"
    ),
    "last chunk": Piece({"type": "chunk", "chunk": chunk({}, "stop"), "snapshot": {}}, "end"),
    "text": Piece(
        {"type": "content.delta", "delta": "It", "snapshot": "It", "parsed": None}, "content"
    ),
    "all of the text": Piece({"type": "content.done", "content": "It", "parsed": None}, "content"),
    "refusal": Piece({"type": "refusal.delta", "delta": "I", "snapshot": "I"}, "content"),
    "logprobs": Piece({"type": "logprobs.content.delta", "content": [], "snapshot": []}, "nothing"),
    "a call": Piece(
        {
            "type": "tool_calls.function.arguments.delta",
            "name": "weather",
            "index": 0,
            "arguments": "",
            "parsed_arguments": None,
            "arguments_delta": "",
        },
        "content",
    ),
}

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "some-model",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 9, "output_tokens": 0},
}


def block(**block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": 0, "content_block": block}


def delta(**delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": delta}


def stopped(reason: str | None) -> dict[str, Any]:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": None},
        "usage": {"output_tokens": 4},
    }


ANTHROPIC = {
    "message start": Piece({"type": "message_start", "message": MESSAGE}, "nothing"),
    "empty block": Piece(block(type="text", text="", citations=None), "nothing"),
    "block with text": Piece(block(type="text", text="It", citations=None), "content", "It"),
    "thinking begins": Piece(block(type="thinking", thinking="", signature=""), "nothing"),
    "hidden thought": Piece(block(type="redacted_thinking", data="Abc"), "content"),
    "a call begins": Piece(
        block(type="tool_use", id="toolu_1", name="weather", input={}), "content"
    ),
    "a search begins": Piece(
        block(type="server_tool_use", id="srvtoolu_1", name="web_search", input={}), "content"
    ),
    "text": Piece(delta(type="text_delta", text="It will."), "content", "It will."),
    "no text": Piece(delta(type="text_delta", text=""), "nothing"),
    "thought": Piece(delta(type="thinking_delta", thinking="Hm."), "content"),
    "signature": Piece(delta(type="signature_delta", signature="Abc"), "nothing"),
    "a call goes on": Piece(delta(type="input_json_delta", partial_json='{"city"'), "content"),
    "a call, nothing yet": Piece(delta(type="input_json_delta", partial_json=""), "nothing"),
    "block stop": Piece({"type": "content_block_stop", "index": 0}, "nothing"),
    "message delta": Piece(stopped("end_turn"), "end"),
    "cut off": Piece(stopped("max_tokens"), "end"),
    "refused": Piece(stopped("refusal"), "end"),
    "usage so far": Piece(stopped(None), "nothing"),
    "message stop": Piece({"type": "message_stop"}, "end"),
}
# What `client.messages.stream()` makes of the events, which it gives as well.
ANTHROPIC_HELPER = {
    "text": Piece({"type": "text", "text": "It", "snapshot": "It"}, "content"),
    "thought": Piece({"type": "thinking", "thinking": "Hm.", "snapshot": "Hm."}, "content"),
    "signature": Piece({"type": "signature", "signature": "Abc"}, "nothing"),
    "a call, nothing yet": Piece(
        {"type": "input_json", "partial_json": "", "snapshot": {}}, "nothing"
    ),
    "a call goes on": Piece({"type": "input_json", "partial_json": "{", "snapshot": {}}, "content"),
}


def candidate(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"role": "model", "parts": list(parts)}, "index": 0, **more}]
    }


GOOGLE = {
    "text": Piece(candidate({"text": "It will."}), "content", "It will."),
    "text and stop": Piece(candidate({"text": "It"}, finishReason="STOP"), "content and end", "It"),
    "thought": Piece(candidate({"text": "Hm.", "thought": True}), "content"),
    "thought and text": Piece(
        candidate({"text": "Hm.", "thought": True}, {"text": "It"}), "content", "It"
    ),
    "a call": Piece(candidate({"functionCall": {"name": "weather", "args": {}}}), "content"),
    "an image": Piece(
        candidate({"inlineData": {"mimeType": "image/png", "data": "AA=="}}), "content"
    ),
    "code": Piece(candidate({"executableCode": {"code": "1", "language": "PYTHON"}}), "content"),
    "empty text": Piece(candidate({"text": ""}), "nothing"),
    "signature": Piece(candidate({"text": "", "thoughtSignature": "AA=="}), "nothing"),
    "stop": Piece(candidate(finishReason="STOP"), "end"),
    "cut off": Piece({"candidates": [{"finishReason": "MAX_TOKENS"}]}, "end"),
    "filtered": Piece({"candidates": [{"finishReason": "SAFETY"}]}, "end"),
    "blocked": Piece({"promptFeedback": {"blockReason": "SAFETY"}}, "end"),
    "usage": Piece({"usageMetadata": {"promptTokenCount": 9}}, "nothing"),
}


def mistral(delta: dict[str, Any], stop: str | None = None) -> dict[str, Any]:
    return {"data": chunk(delta, stop)}


def ollama(done: bool = False, **more: Any) -> dict[str, Any]:
    return {"model": "some-model", "created_at": "2026-01-01T00:00:00Z", "done": done, **more}


def cohere(type: str, **message: Any) -> dict[str, Any]:
    return {"type": type, "index": 0, "delta": {"message": message}}


def invoked(**body: Any) -> dict[str, Any]:
    return {"chunk": {"bytes": json.dumps(body).encode()}}


def langchain(content: object = "", **more: Any) -> dict[str, Any]:
    return {
        "content": content,
        "additional_kwargs": {},
        "response_metadata": {},
        "type": "AIMessageChunk",
        "tool_call_chunks": [],
        **more,
    }


TOKEN = {"id": 5, "logprob": -0.1, "special": False, "text": "It"}
THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
OTHERS = {
    "mistral, role": Piece(mistral({"role": "assistant", "content": ""}), "nothing"),
    "mistral, text": Piece(mistral({"content": "It"}), "content", "It"),
    "mistral, parts": Piece(
        mistral({"content": [{"type": "text", "text": "It"}]}), "content", "It"
    ),
    "mistral, thought": Piece(mistral({"content": [THINKING]}), "content"),
    "mistral, stop": Piece(mistral({"content": ""}, "stop"), "end"),
    "ollama, text": Piece(ollama(message={"role": "assistant", "content": "It"}), "content", "It"),
    "ollama, thought": Piece(
        ollama(message={"role": "assistant", "content": "", "thinking": "Hm."}), "content"
    ),
    "ollama, nothing": Piece(ollama(message={"role": "assistant", "content": ""}), "nothing"),
    "ollama, done": Piece(ollama(True, message={"content": ""}, done_reason="stop"), "end"),
    "ollama, done for no reason": Piece(ollama(True, message={"content": ""}), "end"),
    "ollama, generate": Piece(ollama(response="It"), "content", "It"),
    "ollama, generated": Piece(ollama(True, response=""), "end"),
    "cohere, message start": Piece(
        cohere("message-start", role="assistant", content=[]), "nothing"
    ),
    "cohere, content start": Piece(
        cohere("content-start", content={"type": "text", "text": ""}), "nothing"
    ),
    "cohere, text": Piece(cohere("content-delta", content={"text": "It"}), "content", "It"),
    "cohere, thought": Piece(cohere("content-delta", content={"thinking": "Hm."}), "content"),
    "cohere, plan": Piece(cohere("tool-plan-delta", tool_plan="I will look."), "content"),
    "cohere, a call begins": Piece(cohere("tool-call-start", tool_calls={"id": "1"}), "content"),
    "cohere, content end": Piece({"type": "content-end", "index": 0}, "nothing"),
    "cohere, end": Piece({"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}, "end"),
    "bedrock, start": Piece({"messageStart": {"role": "assistant"}}, "nothing"),
    "bedrock, a call begins": Piece(
        {"contentBlockStart": {"start": {"toolUse": {"name": "weather"}}, "contentBlockIndex": 0}},
        "content",
    ),
    "bedrock, text": Piece(
        {"contentBlockDelta": {"delta": {"text": "It"}, "contentBlockIndex": 0}}, "content", "It"
    ),
    "bedrock, no text": Piece(
        {"contentBlockDelta": {"delta": {"text": ""}, "contentBlockIndex": 0}}, "nothing"
    ),
    "bedrock, thought": Piece(
        {"contentBlockDelta": {"delta": {"reasoningContent": {"text": "Hm."}}}}, "content"
    ),
    "bedrock, signature": Piece(
        {"contentBlockDelta": {"delta": {"reasoningContent": {"signature": "A"}}}}, "nothing"
    ),
    "bedrock, block stop": Piece({"contentBlockStop": {"contentBlockIndex": 0}}, "nothing"),
    "bedrock, stop": Piece({"messageStop": {"stopReason": "end_turn"}}, "end"),
    "bedrock, filtered": Piece({"messageStop": {"stopReason": "guardrail_intervened"}}, "end"),
    "bedrock, usage": Piece(
        {"metadata": {"usage": {"totalTokens": 6}, "metrics": {"latencyMs": 9}}}, "nothing"
    ),
    "invoke, claude": Piece(invoked(**delta(type="text_delta", text="It")), "content", "It"),
    "invoke, llama": Piece(invoked(generation="It", stop_reason=None), "content", "It"),
    "invoke, llama stops": Piece(invoked(generation="", stop_reason="stop"), "end"),
    "invoke, titan": Piece(invoked(outputText="It", completionReason=None), "content", "It"),
    "invoke, mistral": Piece(
        invoked(choices=[{"index": 0, "message": {"content": "It"}, "stop_reason": None}]),
        "content",
        "It",
    ),
    "anthropic's completions": Piece(
        {"type": "completion", "completion": " It", "stop_reason": None}, "content", " It"
    ),
    "langchain, text": Piece(langchain("It"), "endless content", "It"),
    "langchain, parts": Piece(
        langchain([{"type": "text", "text": "It", "index": 0}]), "endless content", "It"
    ),
    "langchain, texts": Piece(langchain(["It"]), "endless content", "It"),
    "langchain, thought": Piece(
        langchain([{"type": "thinking", "thinking": "Hm.", "index": 0}]), "endless content"
    ),
    "langchain, thought aside": Piece(
        langchain(additional_kwargs={"reasoning_content": "Hm."}), "endless content"
    ),
    "langchain, a call": Piece(
        langchain(tool_call_chunks=[{"name": "weather", "args": ""}]), "endless content"
    ),
    "langchain, nothing": Piece(langchain(), "endless nothing"),
    "langchain, last": Piece(
        langchain(response_metadata={"finish_reason": "stop"}), "endless nothing"
    ),
    "huggingface, token": Piece(
        {"index": 1, "token": TOKEN, "generated_text": None, "details": None}, "content", "It"
    ),
    "huggingface, last": Piece(
        {
            "index": 9,
            "token": {**TOKEN, "special": True, "text": "</s>"},
            "generated_text": "It will.",
        },
        "end",
    ),
    "a ping": Piece({"type": "ping"}, "nothing"),
    "openai's keep-alive": Piece({"type": "keepalive", "sequence_number": 466}, "nothing"),
    "content blocks of one's own": Piece({"type": "text", "text": "It"}, "endless content", "It"),
    "a type that means something elsewhere": Piece(
        {"type": "text", "content": "It"}, "endless content"
    ),
}

TABLES: dict[str, dict[str, Piece]] = {
    "chat": CHAT,
    "completions": COMPLETIONS,
    "responses": RESPONSES,
    "openai helper": OPENAI_HELPER,
    "anthropic": ANTHROPIC,
    "anthropic helper": ANTHROPIC_HELPER,
    "google": GOOGLE,
    "others": OTHERS,
}


def cases(*tables: str) -> list[Any]:
    return [
        pytest.param(table, name, id=f"{table}: {name}")
        for table in tables or TABLES
        for name in TABLES[table]
    ]


@pytest.mark.parametrize(("table", "name"), cases())
def test_an_item_as_json(table: str, name: str) -> None:
    """An item that was decoded from the wire is seen for what it is."""
    piece = TABLES[table][name]

    assert SEEN[piece.seen] == seen(piece.wire)
    assert piece.text == text_of(piece.wire)


@pytest.mark.parametrize(("table", "name"), cases())
def test_an_item_as_an_object(table: str, name: str) -> None:
    """An object with the same fields is seen as the JSON is."""
    piece = TABLES[table][name]

    def made(value: Any) -> Any:
        if isinstance(value, dict):
            return as_object({name: made(each) for name, each in value.items()})
        return [made(each) for each in value] if isinstance(value, list) else value

    assert SEEN[piece.seen] == seen(made(piece.wire))
    assert piece.text == text_of(made(piece.wire))


def types_of_openai(table: str) -> Any:
    """Return what openai's client makes its items of."""
    if table == "chat":
        return pytest.importorskip("openai.types.chat").ChatCompletionChunk
    if table == "completions":
        return pytest.importorskip("openai.types").Completion
    if table == "responses":
        return pytest.importorskip("openai.types.responses").ResponseStreamEvent
    helper = pytest.importorskip("openai.lib.streaming.chat")
    return (
        helper.ChunkEvent
        | helper.ContentDeltaEvent
        | helper.ContentDoneEvent
        | helper.RefusalDeltaEvent
        | helper.LogprobsContentDeltaEvent
        | helper.FunctionToolCallArgumentsDeltaEvent
    )


def made_by_openai(table: str, wire: dict[str, Any]) -> Any:
    """Return the item as openai's client makes it: from the wire, without checking it."""
    build = pytest.importorskip("openai._models").construct_type
    return build(type_=types_of_openai(table), value=copy.deepcopy(wire))


@pytest.mark.parametrize(
    ("table", "name"), cases("chat", "completions", "responses", "openai helper")
)
def test_an_item_of_openai(table: str, name: str) -> None:
    """The object of openai's client is seen as the JSON that it is made of."""
    piece = TABLES[table][name]

    item = made_by_openai(table, piece.wire)

    assert type(item).__module__.startswith("openai.")
    assert SEEN[piece.seen] == seen(item)
    assert piece.text == text_of(item)


def made_by_anthropic(table: str, wire: dict[str, Any]) -> Any:
    """Return the item as anthropic's client makes it: from the wire, without checking it."""
    build = pytest.importorskip("anthropic._models").construct_type
    if table == "anthropic":
        type_ = pytest.importorskip("anthropic.types").RawMessageStreamEvent
    else:
        type_ = pytest.importorskip("anthropic.lib.streaming._types").MessageStreamEvent
    return build(type_=type_, value=copy.deepcopy(wire))


@pytest.mark.parametrize(("table", "name"), cases("anthropic", "anthropic helper"))
def test_an_item_of_anthropic(table: str, name: str) -> None:
    """The object of anthropic's client is seen as the JSON that it is made of."""
    piece = TABLES[table][name]

    item = made_by_anthropic(table, piece.wire)

    assert type(item).__module__.startswith("anthropic.")
    assert SEEN[piece.seen] == seen(item)
    assert piece.text == text_of(item)


@pytest.mark.parametrize(("table", "name"), cases("google"))
def test_an_item_of_google(table: str, name: str) -> None:
    """The object of google-genai is seen as the JSON that it is made of."""
    types = pytest.importorskip("google.genai.types")
    piece = TABLES[table][name]

    item = types.GenerateContentResponse.model_validate(piece.wire)

    assert SEEN[piece.seen] == seen(item)
    assert piece.text == text_of(item)


# Whole streams: where the content begins, where the end is, what was said.

STREAMS: dict[str, list[dict[str, Any]]] = {
    "openai": [
        CHAT[name].wire for name in ("role only", "text", "text", "stop", "usage after the end")
    ],
    "openai, completions": [
        COMPLETIONS[name].wire for name in ("empty text", "text", "text", "stop")
    ],
    "responses": [
        RESPONSES[name].wire
        for name in ("created", "in progress", "a message begins", "a part begins", "text", "text")
    ]
    + [RESPONSES[name].wire for name in ("all of the text", "completed, with all in it")],
    "anthropic": [
        ANTHROPIC[name].wire
        for name in (
            "message start",
            "empty block",
            "text",
            "text",
            "block stop",
            "message delta",
            "message stop",
        )
    ],
    "google": [
        GOOGLE["usage"].wire,
        GOOGLE["text"].wire,
        candidate({"text": "It will."}, finishReason="STOP"),
    ],
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_whole_stream(name: str) -> None:
    """A good stream starts without content, its end is recognised, and its text counts once."""
    stream = STREAMS[name]

    glances = [inspect_item(item) for item in stream]
    first = next(number for number, each in enumerate(glances) if each.content)

    assert all(each.known and each.verdict is None for each in glances)
    assert "It will." == text_of(stream[first])
    assert first > 0
    assert not any(each.ended for each in glances[: first + 1])
    assert glances[-1].ended
    assert "It will.It will." == "".join(map(text_of, stream))


@pytest.mark.parametrize("snapshot", [["text", "text"], ["chunk", "text"]])
def test_what_a_helper_repeats_counts_once(snapshot: list[str]) -> None:
    """The event that a helper makes of a raw one adds no text."""
    raw = (ANTHROPIC if snapshot[0] == "text" else OPENAI_HELPER)[snapshot[0]]
    repeated = (ANTHROPIC_HELPER if snapshot[0] == "text" else OPENAI_HELPER)[snapshot[1]]

    assert raw.text == text_of(raw.wire) + text_of(repeated.wire)


# Errors.

BUSY = {"message": "Rate limit reached", "type": "rate_limit_error", "code": "rate_limit_exceeded"}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
SERVER = (ErrorKind.TRANSIENT, "server_error")
ERRORS: dict[str, tuple[dict[str, Any], tuple[ErrorKind, str]]] = {
    "anthropic's event": (OVERLOADED, (ErrorKind.TRANSIENT, "overloaded")),
    "openai's event": (
        {
            "type": "error",
            "code": "rate_limit_exceeded",
            "message": "?",
            "param": None,
            "sequence_number": 4,
        },
        (ErrorKind.RATE_LIMITED, "rate_limit"),
    ),
    "openai's failed response": (
        event(
            "failed",
            response=response("failed", error={"code": "rate_limit_exceeded", "message": "?"}),
        ),
        (ErrorKind.RATE_LIMITED, "rate_limit"),
    ),
    "a failed response without a reason": (
        event("failed", response=response("failed")),
        (ErrorKind.TRANSIENT, "invalid_response"),
    ),
    "a body with only an error": ({"error": BUSY}, (ErrorKind.RATE_LIMITED, "rate_limit")),
    "google's": (
        {
            "error": {
                "code": 429,
                "message": "Resource has been exhausted",
                "status": "RESOURCE_EXHAUSTED",
            }
        },
        (ErrorKind.RATE_LIMITED, "rate_limit"),
    ),
    "a chunk with an error": (
        chunk({"content": ""}, "error", error=BUSY),
        (ErrorKind.RATE_LIMITED, "rate_limit"),
    ),
    "a choice with an error": (
        {
            **chunk(),
            "choices": [{"index": 0, "delta": {}, "error": BUSY, "finish_reason": "error"}],
        },
        (ErrorKind.RATE_LIMITED, "rate_limit"),
    ),
    "groq's": (
        {**chunk(), "choices": [], "x_groq": {"id": "1", "error": "over capacity"}},
        (ErrorKind.TRANSIENT, "invalid_response"),
    ),
    "ended with an error": (chunk({}, "error"), SERVER),
    "ended with an error of the network": (chunk({}, "network_error"), SERVER),
    "mistral": (mistral({"content": ""}, "error"), SERVER),
    "cohere": ({"type": "message-end", "delta": {"finish_reason": "ERROR", "error": "?"}}, SERVER),
    "google's, beside the usage": (
        {
            "usageMetadata": {},
            "error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"},
        },
        (ErrorKind.TRANSIENT, "overloaded"),
    ),
    "google, an unreadable call": (
        {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]},
        (ErrorKind.TRANSIENT, "invalid_response"),
    ),
    "bedrock, throttled": (
        {"throttlingException": {"message": "Too many requests."}},
        (ErrorKind.RATE_LIMITED, "rate_limit"),
    ),
    "ollama": (
        {"error": "an error was encountered while running the model"},
        (ErrorKind.TRANSIENT, ""),
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_has_a_verdict(name: str) -> None:
    """An item that is an error is the end, no content, and has the verdict of the error."""
    wire, (kind, reason) = ERRORS[name]

    found = inspect_item(wire)

    assert found.verdict is not None
    assert (True, False, True) == (found.known, found.content, found.ended)
    assert (kind, reason or found.verdict.reason) == (found.verdict.kind, found.verdict.reason)
    assert "" == text_of(wire)


@pytest.mark.parametrize("name", ["openai's event", "openai's failed response"])
def test_an_error_of_openai(name: str) -> None:
    """The object of openai's client has the verdict of the JSON."""
    wire, _ = ERRORS[name]

    assert inspect_item(wire) == inspect_item(made_by_openai("responses", wire))


def test_an_error_after_text_has_both() -> None:
    """A chunk that ends with an error may still bring some text."""
    found = inspect_item(chunk({"content": "It"}, "error"))

    assert (True, True, "server_error") == (
        found.content,
        found.ended,
        found.verdict and found.verdict.reason,
    )


# What is nobody's item.

OWN: dict[str, object] = {
    "a number": 7,
    "false": False,
    "a dict": {"answer": "It will."},
    "an empty dict": {},
    "an empty list": [],
    "a pair": ("It", {}),
    "an object": SimpleNamespace(answer="It will."),
    "an exception": ValueError("x"),
    "a class": Piece,
    "choices of another sort": {"choices": ["umbrella", "coat"]},
    "no choices of another sort": {"choices": []},
    "candidates for a job": {"candidates": [{"name": "Ada"}]},
    "a type of one's own": {"type": "progress", "done": 0.5},
    "a response of one's own": {"type": "response.chunk", "content": "It will."},
    "an error in words": {"type": "error", "text": "undefined"},
    "a finding": {"type": "error", "message": "undefined", "code": "E1"},
    "an answer with an error in it": {
        "answer": "It will.",
        "error": {"message": "no such row", "code": 7},
    },
    "a block of one's own": {"type": "content_block_start", "text": "It will."},
    "a signature of one's own": {"type": "signature", "by": "Ada"},
    "a delta of one's own": {"type": "content.delta", "text": "It will."},
    "no error": {"answer": "It will.", "error": None},
    "a token of one's own": {"token": "It"},
    "data of one's own": {"data": {"rows": []}},
    "metadata of one's own": {"metadata": {"page": 1}},
    "an exception of one's own": {"SomeException": 1, "answer": "It will."},
    "bytes that are no JSON": {"chunk": {"bytes": b"\xff"}},
}


@pytest.mark.parametrize("name", OWN)
def test_an_unknown_item_is_content(name: str) -> None:
    """Of what we do not know, any item is content, and none is the end."""
    assert SEEN["unknown"] == seen(OWN[name])
    assert "" == text_of(OWN[name])


def test_none_is_no_content() -> None:
    """None is of no known format, and there is nothing to deliver."""
    assert ItemInfo(known=False, content=False, ended=None) == inspect_item(None)
    assert "" == text_of(None)


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize("text", ["It", Text("It"), b"It", bytearray(b"It"), "\n"])
def test_a_text_is_content(text: Any) -> None:
    """A text or bytes of a function of one's own is content, and has no end."""
    assert SEEN["endless content"] == seen(text)
    assert (text if isinstance(text, str) else text.decode()) == text_of(text)


@pytest.mark.parametrize("text", ["", Text(""), b"", bytearray()])
def test_an_empty_text_is_none(text: Any) -> None:
    """An empty text is no content."""
    assert SEEN["endless nothing"] == seen(text)
    assert "" == text_of(text)


# Bounds, and objects that do what they like.


@pytest.mark.parametrize(
    "item",
    [
        "x" * 100_000,
        b"x" * 100_000,
        chunk({"content": "x" * 100_000}),
        chunk({"content": [{"type": "text", "text": "x" * 40_000}] * 5}),
        candidate(*[{"text": "x" * 40_000}] * 5),
    ],
    ids=["a text", "bytes", "a chunk", "parts", "google's parts"],
)
def test_the_text_is_bounded(item: object) -> None:
    """No more than 64 KiB are taken out of an item."""
    assert "x" * 65_536 == text_of(item)


def test_choices_are_bounded() -> None:
    """Only the first choices are read."""
    many = chunk()
    many["choices"] = [*many["choices"] * 16, *chunk({"content": "It"})["choices"]]

    assert SEEN["nothing"] == seen(many)


def test_parts_are_bounded() -> None:
    """Only the first parts of a content are read."""
    assert SEEN["nothing"] == seen(
        chunk({"content": [{"type": "text", "text": ""}] * 256 + [{"text": "It"}]})
    )


def test_an_answer_within_itself() -> None:
    """A wrapper around itself is opened a few times, then it is unknown."""
    wrapper: dict[str, Any] = {"type": "chunk"}
    wrapper["chunk"] = wrapper
    wrapper["data"] = wrapper

    assert SEEN["unknown"] == seen(wrapper)


class Watched:
    """Notes what of its own is run."""

    def __init__(self) -> None:
        self.__dict__["ran"] = []

    def __getattr__(self, name: str) -> Any:
        self.__dict__["ran"].append(name)

    @property
    def choices(self) -> Any:
        self.__dict__["ran"].append("choices")
        return chunk({"content": "It"})["choices"]

    @property
    def type(self) -> str:
        self.__dict__["ran"].append("type")
        return "message_stop"

    def __bool__(self) -> bool:
        self.__dict__["ran"].append("bool")
        return True

    def __len__(self) -> int:
        self.__dict__["ran"].append("len")
        return 1

    def __eq__(self, other: object) -> bool:
        self.__dict__["ran"].append("eq")
        return False

    __hash__ = None  # type: ignore[assignment]  # an object that cannot be hashed


@pytest.mark.parametrize(
    "where", ["item", "delta", "content", "finish_reason", "usage", "candidates", "block"]
)
def test_no_code_of_an_item_runs(where: str) -> None:
    """Wherever somebody's object is, no property and no method of it is run."""
    watched = Watched()
    item: Any = {
        "item": watched,
        "delta": {**chunk(), "choices": [{"delta": watched, "index": watched}]},
        "content": chunk({"content": watched, "tool_calls": watched}),
        "finish_reason": chunk({}, watched),  # type: ignore[arg-type]  # on purpose
        "usage": {**chunk(usage=watched), "choices": []},
        "candidates": {"candidates": watched, "promptFeedback": watched},
        "block": {"type": "content_block_start", "content_block": watched},
    }[where]

    inspect_item(item)
    text_of(item)

    assert [] == watched.ran


HOSTILE: list[object] = [
    Hostile(),
    Liar(),
    HostileDict(choices=[{}]),
    HostileText("It"),
    chunk({"content": Hostile()}),
    chunk({"content": HostileText("It")}),
    chunk({"content": "It"}, HostileText("stop")),
    {"choices": [Hostile()]},
    {"type": HostileText("ping")},
    {"data": Hostile(), "chunk": Hostile()},
    {"type": "content_block_delta", "delta": Hostile()},
    {Hostile: 1, "done": Hostile()},
]


# By number: pytest would read what is in a parameter.
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_items(number: int) -> None:
    """An object that raises wherever it is touched is an item like others."""
    assert isinstance(inspect_item(HOSTILE[number]), ItemInfo)
    assert isinstance(text_of(HOSTILE[number]), str)


FIELDS = """
    type choices delta message content text index finish_reason stop_reason reasoning_content
    tool_calls refusal usage error code object sequence_number response item part candidates
    parts thought finishReason promptFeedback usageMetadata data chunk bytes done done_reason
    token special details generated_text contentBlockDelta contentBlockStart messageStop
    metadata start stopReason content_block partial_json thinking snapshot additional_kwargs
    tool_plan generation completion x_groq throttlingException _data __pydantic_extra__
    """.split()
TYPES = """
    chunk content.delta content.done message_start message_delta message_stop
    content_block_start content_block_delta ping error text thinking input_json signature
    content-delta message-end tool-call-start AIMessageChunk completion response.created
    response.completed response.failed response.output_text.delta
    response.web_search_call.searching
    """.split()


@given(
    st.dictionaries(st.sampled_from(FIELDS), ANYTHING | st.sampled_from(TYPES), max_size=6)
    | st.builds(
        lambda sort, rest: {**rest, "type": sort},
        st.sampled_from(TYPES),
        ANYTHING.map(lambda x: {"delta": x}),
    )
    | ANYTHING
)
def test_nothing_makes_an_inspection_raise(item: object) -> None:
    """Whatever an item is, there is an info and a text that a stream can use."""
    for each in (item, as_object(item) if type(item) is dict else item):
        found = inspect_item(each)
        text = text_of(each)

        assert type(found) is ItemInfo
        assert found.known or found.verdict is None
        assert found.verdict is None or (isinstance(found.verdict, Verdict) and found.ended)
        assert type(text) is str
        assert not text or found.content


def test_no_class_is_kept() -> None:
    """Nothing of an item is kept, not even its class."""
    gone = weakref.ref(made := type("Chunk", (), {}))
    item = made()
    item.choices = chunk({"content": "It"})["choices"]

    assert SEEN["content"] == seen(item)
    del made, item
    gc.collect()

    assert gone() is None


def test_slots_are_read() -> None:
    """An object without a dict is read by its slots."""

    @dataclass(slots=True)
    class Chunk:
        choices: list[Any]
        created: int = 0

    assert SEEN["content"] == seen(Chunk(chunk({"content": "It"})["choices"]))


def test_azures_models_are_read() -> None:
    """An object that keeps its fields in a dict of its own is read, at any depth."""
    deltas = SimpleNamespace(_data={"content": "It"})
    choices = SimpleNamespace(_data={"delta": deltas, "index": 0, "finish_reason": None})
    item = SimpleNamespace(_data={**chunk(), "choices": [choices]})

    assert SEEN["content"] == seen(item)
    assert "It" == text_of(item)


def test_what_pydantic_keeps_aside_is_read() -> None:
    """An object whose class declares none of the fields is read by what it was given."""
    delta = SimpleNamespace(__pydantic_extra__={"content": "It"})
    item = SimpleNamespace(
        __pydantic_extra__={**chunk(), "choices": [{"delta": delta, "index": 0}]}
    )

    assert SEEN["content"] == seen(item)
    assert "It" == text_of(item)


def test_of_several_answers_the_text_of_the_first_counts() -> None:
    """Of several choices in a stream, all are content, and the first one's text is the text."""
    second = chunk({"content": "Or not."})
    second["choices"][0]["index"] = 1

    assert SEEN["content"] == seen(second)
    assert "" == text_of(second)
