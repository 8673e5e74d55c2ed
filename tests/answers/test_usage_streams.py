"""What streams used where one item tells less than another, and what else the server did for it.

Counts of a stream never become less, parts of one are added up, and the events of the SDKs' own
helpers say what the raw events say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import RawMessageDeltaEvent, RawMessageStartEvent
from anthropic.types.beta import BetaMessage, BetaRawMessageDeltaEvent
from google.genai.types import GenerateContentResponse
from openai.types.chat import ChatCompletionChunk

from resilient_llm._values.usage import Usage
from resilient_llm.answers.usage import StreamUsage, characters_of, usage_of


def usage_after(items: Iterable[Any]) -> Usage | None:
    stream = StreamUsage()
    for item in items:
        stream.add(item)
    return stream.usage


def start(**usage: Any) -> dict[str, Any]:
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "c"}
    message |= {"stop_reason": None, "stop_sequence": None, "usage": usage}
    return {"type": "message_start", "message": message}


def delta(**usage: Any) -> dict[str, Any]:
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    return {"type": "message_delta", "delta": end, "usage": usage}


def chat(**more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": "a"}, "finish_reason": None}
    about = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**about, "choices": [choice], **more}


def gemini(**usage: int) -> dict[str, Any]:
    content = {"parts": [{"text": "a"}], "role": "model"}
    return {"candidates": [{"content": content}], "usageMetadata": usage}


# A later item that tells less.

START = start(
    input_tokens=1500, cache_read_input_tokens=9000, cache_creation_input_tokens=20, output_tokens=1
)
ZEROS = delta(
    input_tokens=0, cache_read_input_tokens=0, cache_creation_input_tokens=0, output_tokens=15
)
TOLD = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
FALLING: dict[str, tuple[list[Any], Usage]] = {
    "anthropic, zeros at the end": (
        [START, ZEROS],
        Usage(10_520, 15, cached=9000, cache_write=20),
    ),
    "anthropic, objects": (
        [
            RawMessageStartEvent.model_validate(START),
            RawMessageDeltaEvent.model_validate(ZEROS),
        ],
        Usage(10_520, 15, cached=9000, cache_write=20),
    ),
    "anthropic, the cache by age": (
        [
            start(
                input_tokens=1,
                cache_creation={"ephemeral_5m_input_tokens": 7, "ephemeral_1h_input_tokens": 5},
            ),
            delta(cache_creation={"ephemeral_1h_input_tokens": 0}, output_tokens=3),
        ],
        Usage(13, 3, cache_write=12),
    ),
    "gemini, without thoughts at the end": (
        [
            gemini(promptTokenCount=3000, candidatesTokenCount=5, thoughtsTokenCount=900),
            gemini(promptTokenCount=3000, candidatesTokenCount=8),
        ],
        Usage(3000, 908, reasoning=900),
    ),
    "gemini, objects": (
        [
            GenerateContentResponse.model_validate(
                gemini(promptTokenCount=9, candidatesTokenCount=5, cachedContentTokenCount=4)
            ),
            GenerateContentResponse.model_validate(
                gemini(promptTokenCount=9, candidatesTokenCount=8)
            ),
        ],
        Usage(9, 8, cached=4),
    ),
    "openai chat": (
        [
            chat(usage={**TOLD, "prompt_tokens_details": {"cached_tokens": 5}}),
            chat(usage={"prompt_tokens": 0, "completion_tokens": 13, "total_tokens": 13}),
        ],
        Usage(9, 13, cached=5),
    ),
    "openai chat, nonsense at the end": (
        [chat(usage=TOLD), chat(usage={"prompt_tokens": -1, "completion_tokens": "12"})],
        Usage(9, 12),
    ),
    "moonshot, in the choice": (
        [
            chat(usage=None),
            chat(choices=[{"index": 0, "delta": {}, "finish_reason": "stop", "usage": TOLD}]),
        ],
        Usage(9, 12),
    ),
    "moonshot, objects": (
        [
            ChatCompletionChunk.model_validate(
                chat(choices=[{"index": 0, "delta": {}, "finish_reason": "stop", "usage": TOLD}])
            )
        ],
        Usage(9, 12),
    ),
    "interactions of google": (
        [
            {"event_type": "step.delta", "delta": {"type": "text", "text": "a"}},
            {
                "event_type": "interaction.completed",
                "interaction": {
                    "usage": {
                        "total_input_tokens": 9,
                        "total_output_tokens": 5,
                        "total_thought_tokens": 3,
                        "total_cached_tokens": 4,
                        "total_tool_use_tokens": 1,
                        "total_tokens": 18,
                    }
                },
            },
        ],
        Usage(10, 8, cached=4, reasoning=3),
    ),
}


@pytest.mark.parametrize("name", FALLING)
def test_a_count_never_becomes_less(name: str) -> None:
    """A zero, nonsense or nothing in a later item erases no count of an earlier one."""
    items, usage = FALLING[name]

    assert usage == usage_after(items)


# What Anthropic's servers do besides.


def step(kind: str, sent: int, received: int, **more: Any) -> dict[str, Any]:
    none = {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    return {"type": kind, "input_tokens": sent, "output_tokens": received, **none, **more}


def answer(sent: int, received: int, *iterations: Any, **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": sent, "output_tokens": received, **more}
    return {
        **start()["message"],
        "content": [{"type": "text", "text": "a"}],
        "usage": {**usage, "iterations": list(iterations)},
    }


COMPACTED = answer(
    23_000,
    1000,
    step("compaction", 180_000, 3500, cache_read_input_tokens=7, cache_creation_input_tokens=5),
    step("message", 23_000, 1000),
)
ITERATIONS: dict[str, tuple[dict[str, Any], Usage]] = {
    "a compaction": (COMPACTED, Usage(203_012, 4500, cached=7, cache_write=5)),
    "a compaction alone": (answer(9, 1, step("compaction", 180, 35)), Usage(189, 36)),
    "turns that are all in the counts": (
        answer(30, 7, step("message", 10, 3), step("message", 20, 4)),
        Usage(30, 7),
    ),
    # https://platform.claude.com/docs/en/agents-and-tools/tool-use/advisor-tool
    "an advisor": (
        answer(
            412,
            531,
            step("message", 412, 89),
            step("advisor_message", 823, 1612, model="claude-opus-5"),
            step("message", 1348, 442, cache_read_input_tokens=412),
        ),
        Usage(412 + 1348 + 823 + 412, 531 + 1612, cached=412),
    ),
    "a fallback whose first attempt declined at once": (
        answer(
            412,
            264,
            step("message", 408, 0, model="a"),
            step("fallback_message", 412, 264, model="b"),
        ),
        Usage(412, 264),
    ),
    "a fallback whose first attempt declined later": (
        answer(
            412,
            264,
            step("message", 408, 299, model="a", cache_read_input_tokens=560),
            step("fallback_message", 412, 264, model="b"),
        ),
        Usage(1380, 563, cached=560),
    ),
    "a turn without output": (
        answer(412, 264, step("message", 408, 0), step("message", 4, 264)),
        Usage(412, 264),
    ),
    "an unknown kind": (answer(5, 6, step("dream", 2, 3), step("message", 5, 6)), Usage(7, 9)),
    "none": (answer(5, 6), Usage(5, 6)),
}


@pytest.mark.parametrize("name", ITERATIONS)
def test_iterations_of_anthropic_are_counted(name: str) -> None:
    """What the server did for one request counts if it is billed, and once."""
    told, usage = ITERATIONS[name]
    end = delta(**{**told["usage"], "input_tokens": None})

    assert usage == usage_of(told)
    assert usage == usage_after([start(input_tokens=told["usage"]["input_tokens"]), end])


@pytest.mark.parametrize("name", ["a compaction", "an advisor"])
def test_iterations_in_the_types_of_the_sdk(name: str) -> None:
    """The same for what the SDK makes of the body."""
    told, usage = ITERATIONS[name]
    end = delta(**told["usage"])
    end["context_management"] = None

    assert usage == usage_of(BetaMessage.model_validate(told))
    assert usage == usage_after([START_OF_5, BetaRawMessageDeltaEvent.model_validate(end)])


START_OF_5 = RawMessageStartEvent.model_validate(start(input_tokens=5, output_tokens=1))


class Raising:
    """Whose code must not run."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(name)

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    "iteration",
    [
        None,
        "compaction",
        {"type": Raising()},
        {"type": "compaction"},
        step("compaction", -5, 10**30),
        step("compaction", float("nan"), "9"),  # type: ignore[arg-type]
        step("compaction", 10**9, 0),
    ],
    ids=["nothing", "word", "raises", "empty", "negative", "not finite", "too large"],
)
def test_an_iteration_that_is_nonsense_adds_nothing(iteration: Any) -> None:
    """The counts beside it are read all the same."""
    assert Usage(5, 6) == usage_of(answer(5, 6, iteration))
    assert Usage(5, 6) == usage_of(
        {"usage": {"input_tokens": 5, "output_tokens": 6} | {"iterations": iteration}}
    )


# LangChain, whose chunks tell of themselves.


class AIMessageChunk:
    """Has the fields of langchain-core's."""

    def __init__(self, content: str, metadata: Any) -> None:
        self.content, self.usage_metadata = content, metadata
        self.type = "AIMessageChunk"
        self.response_metadata: dict[str, Any] = {}
        self.additional_kwargs: dict[str, Any] = {}


def metadata(sent: int, received: int, **details: Any) -> dict[str, Any]:
    told = {"input_tokens": sent, "output_tokens": received, "total_tokens": sent + received}
    return told | details


PARTS = [
    metadata(1000, 10, input_token_details={"cache_read": 900, "audio": 3}),
    None,
    metadata(0, 20, output_token_details={"reasoning": 15}),
    metadata(0, 3, input_token_details={"cache_creation": 50}),
]


def test_chunks_of_langchain_are_added_up() -> None:
    """A chunk tells of itself, as langchain-core adds them."""
    items = [AIMessageChunk("a", each) for each in PARTS]

    assert Usage(1000, 33, cached=900, cache_write=50, reasoning=15) == usage_after(items)
    assert Usage(1000, 33) == usage_after(
        AIMessageChunk("a", each) for each in (metadata(1000, 10), metadata(0, 20), metadata(0, 3))
    )


def test_a_message_of_langchain() -> None:
    """The details are read, and so are Anthropic's by age."""
    ages = {"cache_creation": 0, "ephemeral_5m_input_tokens": 7, "ephemeral_1h_input_tokens": 2}

    assert Usage(1000, 10, cached=900) == usage_of(AIMessageChunk("a", PARTS[0]))
    assert Usage(20, 1, cache_write=9) == usage_of(
        AIMessageChunk("a", metadata(20, 1, input_token_details=ages))
    )


def test_what_langchain_core_itself_makes() -> None:
    """Chunks read one by one come to what their sum says."""
    messages = pytest.importorskip("langchain_core.messages")
    chunks = [messages.AIMessageChunk(content="a", usage_metadata=each) for each in PARTS]
    whole = sum(chunks[1:], chunks[0])

    assert usage_of(whole) == usage_after(chunks)
    assert Usage(1000, 33, cached=900, cache_write=50, reasoning=15) == usage_of(whole)


# The helpers of the SDKs, over their own clients.


def events(*items: dict[str, Any]) -> httpx2.Client:
    """Return a client whose server answers every request with these events."""
    lines = [f"event: {each.get('type', '')}\ndata: {json.dumps(each)}\n\n" for each in items]
    body = "".join([*lines, "data: [DONE]\n\n"]).encode()
    headers = {"content-type": "text/event-stream"}

    def handle(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=body, headers=headers)

    return httpx2.Client(transport=httpx2.MockTransport(handle))


CALL = {
    "index": 0,
    "id": "c",
    "type": "function",
    "function": {"name": "f", "arguments": '{"a":1}'},
}


def test_openais_helper_for_chat() -> None:
    """Its events hold raw chunks, with the usage, and repeat them, which counts once."""
    end = {"index": 0, "delta": {"tool_calls": [CALL]}, "finish_reason": "tool_calls"}
    raw = [
        chat(choices=[{"index": 0, "delta": {"content": "Hello", "role": "assistant"}}]),
        chat(choices=[end]),
        chat(
            choices=[],
            usage={**TOLD, "completion_tokens_details": {"reasoning_tokens": 5}},
        ),
    ]
    with (
        openai.OpenAI(api_key="k", http_client=events(*raw)) as client,
        client.chat.completions.stream(model="m", messages=[]) as stream,
    ):
        found = list(stream)

    assert any(event.type == "content.delta" for event in found)
    assert Usage(9, 12, reasoning=5) == usage_after(found)
    assert len("Hello") + len('{"a":1}') == sum(map(characters_of, found))


RESPONSE: dict[str, Any] = {
    "id": "r",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
USED = {
    "input_tokens": 9,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
    "output_tokens": 12,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 21,
}


def test_openais_helper_for_responses() -> None:
    """The usage is in its last event, and a text that is repeated when it is done counts once."""
    place = {"item_id": "i", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    item = {"type": "message", "id": "i", "role": "assistant", "status": "completed", "content": []}
    full = {**item, "content": [{**part, "text": "Hello"}]}
    raw = [
        {"type": "response.created", "response": RESPONSE},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **place, "part": part},
        {"type": "response.output_text.delta", **place, "delta": "Hello", "logprobs": []},
        {"type": "response.output_text.done", **place, "text": "Hello", "logprobs": []},
        {"type": "response.completed", "response": {**RESPONSE, "output": [full], "usage": USED}},
    ]
    numbered = [{**each, "sequence_number": number} for number, each in enumerate(raw)]
    with (
        openai.OpenAI(api_key="k", http_client=events(*numbered)) as client,
        client.responses.stream(model="m", input="x") as stream,
    ):
        found = list(stream)

    assert Usage(9, 12, cached=4, reasoning=5) == usage_after(found)
    assert len("Hello") == sum(map(characters_of, found))


def block(index: int, kind: str, **changes: str) -> list[dict[str, Any]]:
    """Return the raw events of one block of an answer."""
    empty = {
        "text": {"type": "text", "text": ""},
        "thinking": {"type": "thinking", "thinking": "", "signature": ""},
        "tool_use": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    }
    return [
        {"type": "content_block_start", "index": index, "content_block": empty[kind]},
        *(
            {"type": "content_block_delta", "index": index, "delta": {"type": name, key: value}}
            for name, key, value in (
                (f"{'input_json' if key == 'partial_json' else key}_delta", key, value)
                for key, value in changes.items()
            )
        ),
        {"type": "content_block_stop", "index": index},
    ]


ANTHROPIC = [
    start(input_tokens=25, cache_read_input_tokens=900, output_tokens=1),
    *block(0, "thinking", thinking="Well", signature="x" * 99),
    *block(1, "text", text="Hello"),
    *block(2, "tool_use", partial_json='{"a":1}'),
    delta(output_tokens=15),
    {"type": "message_stop"},
]


def test_anthropics_helper() -> None:
    """Its events repeat raw ones, and its last one has the whole message; both count once."""
    with (
        anthropic.Anthropic(api_key="k", http_client=events(*ANTHROPIC)) as client,
        client.messages.stream(model="m", max_tokens=9, messages=[]) as stream,
    ):
        found = list(stream)

    assert {"text", "thinking", "input_json"} < {event.type for event in found}
    assert Usage(925, 15, cached=900) == usage_after(found)
    assert len("Well") + len("Hello") + len('{"a":1}') == sum(map(characters_of, found))


def test_anthropics_stream_of_texts_has_no_usage() -> None:
    """Only its text can be counted."""
    with (
        anthropic.Anthropic(api_key="k", http_client=events(*ANTHROPIC)) as client,
        client.messages.stream(model="m", max_tokens=9, messages=[]) as stream,
    ):
        found = list(stream.text_stream)

    assert usage_after(found) is None
    assert len("Hello") == sum(map(characters_of, found))
