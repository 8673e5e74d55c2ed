"""What answers and streams say that they used, in each protocol: recorded, as objects, and hostile.

The answers are those of the providers' documentation, each with its address, or were recorded.
"""

import copy
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from anthropic.types import Message, RawMessageDeltaEvent, RawMessageStartEvent
from google.genai.types import GenerateContentResponse
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseCompletedEvent
from pydantic import BaseModel

from resilient_llm._values.usage import Usage
from resilient_llm.answers.usage import StreamUsage, characters_in, plain_counts, usage_of

# https://platform.openai.com/docs/api-reference/chat/object
OPENAI_CHAT: dict[str, Any] = {
    "id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG",
    "object": "chat.completion",
    "created": 1741570283,
    "model": "gpt-4o-2024-08-06",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "The image shows a wooden boardwalk path.",
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 1117,
        "completion_tokens": 46,
        "total_tokens": 1163,
        "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 12,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    },
    "service_tier": "default",
    "system_fingerprint": "fp_fc9f1d7035",
}
# https://platform.openai.com/docs/api-reference/responses/object
OPENAI_RESPONSES: dict[str, Any] = {
    "id": "resp_67ccd3a9da748190baa7f1570fe91ac604becb25c45c1d41",
    "object": "response",
    "created_at": 1741476777,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "model": "gpt-4o-2024-08-06",
    "output": [
        {
            "type": "message",
            "id": "msg_67ccd3acc8d48190a77525dc6de64b4104becb25c45c1d41",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "A scenic path.", "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 328,
        "input_tokens_details": {"cached_tokens": 128, "cache_write_tokens": 0},
        "output_tokens": 52,
        "output_tokens_details": {"reasoning_tokens": 20},
        "total_tokens": 380,
    },
}
# https://platform.openai.com/docs/api-reference/embeddings/create
OPENAI_EMBEDDINGS: dict[str, Any] = {
    "object": "list",
    "data": [{"object": "embedding", "embedding": [0.0023064255, -0.009327292], "index": 0}],
    "model": "text-embedding-ada-002",
    "usage": {"prompt_tokens": 8, "total_tokens": 8},
}
# https://docs.claude.com/en/docs/build-with-claude/prompt-caching
ANTHROPIC: dict[str, Any] = {
    "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "Hi! My name is Claude."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 50,
        "cache_read_input_tokens": 100000,
        "cache_creation_input_tokens": 248,
        "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
        "output_tokens": 503,
        "output_tokens_details": {"thinking_tokens": 321},
        "service_tier": "standard",
    },
}
# https://ai.google.dev/gemini-api/docs/thinking and /docs/caching
GEMINI: dict[str, Any] = {
    "candidates": [
        {
            "content": {"parts": [{"text": "Four."}], "role": "model"},
            "finishReason": "STOP",
            "index": 0,
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 696219,
        "cachedContentTokenCount": 696190,
        "candidatesTokenCount": 214,
        "thoughtsTokenCount": 1000,
        "toolUsePromptTokenCount": 81,
        "totalTokenCount": 697514,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 696219}],
    },
    "modelVersion": "gemini-2.5-pro",
}
# https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html
BEDROCK: dict[str, Any] = {
    "ResponseMetadata": {"HTTPStatusCode": 200},
    "output": {"message": {"role": "assistant", "content": [{"text": "Hello"}]}},
    "stopReason": "end_turn",
    "usage": {
        "inputTokens": 30,
        "outputTokens": 628,
        "totalTokens": 2085,
        "cacheReadInputTokens": 1400,
        "cacheWriteInputTokens": 27,
    },
    "metrics": {"latencyMs": 1275},
}
# https://docs.cohere.com/v2/reference/chat
COHERE: dict[str, Any] = {
    "id": "c14c80c3-18eb-4519-9460-6c92edd8cfb4",
    "finish_reason": "COMPLETE",
    "message": {"role": "assistant", "content": [{"type": "text", "text": "LLMs are models."}]},
    "usage": {
        "billed_units": {"input_tokens": 5.0, "output_tokens": 418.0},
        "tokens": {"input_tokens": 71.0, "output_tokens": 418.0},
    },
}
# https://docs.cohere.com/v2/reference/embed
COHERE_EMBED: dict[str, Any] = {
    "id": "da6e531f-54c5-4a73-bf92-f60566d8d753",
    "embeddings": {"float": [[0.016296387, -0.008354187]]},
    "texts": ["hello"],
    "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 2}},
}
# https://docs.mistral.ai/api and its page on prompt caching
MISTRAL: dict[str, Any] = {
    "id": "cmpl-e5cc70bb28c444948073e77776eb30ef",
    "object": "chat.completion",
    "model": "mistral-small-latest",
    "created": 1702256327,
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
    "usage": {
        "prompt_tokens": 1250,
        "completion_tokens": 2,
        "total_tokens": 1252,
        "prompt_audio_seconds": None,
        "prompt_tokens_details": {"cached_tokens": 1152},
    },
}
# https://docs.ollama.com/api/chat
OLLAMA: dict[str, Any] = {
    "model": "llama3.2",
    "created_at": "2023-12-12T14:13:43.416799Z",
    "message": {"role": "assistant", "content": "Hello! How are you today?"},
    "done": True,
    "done_reason": "stop",
    "total_duration": 5191566416,
    "load_duration": 2154458,
    "prompt_eval_count": 26,
    "prompt_eval_duration": 383809000,
    "eval_count": 298,
    "eval_duration": 4799921000,
}
# Recorded with litellm 1.110 for an answer of Anthropic.
LITELLM: dict[str, Any] = {
    **OPENAI_CHAT,
    "usage": {
        "completion_tokens": 5,
        "prompt_tokens": 120,
        "total_tokens": 125,
        "completion_tokens_details": None,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_creation_tokens": 50},
        "cache_creation_input_tokens": 50,
        "cache_read_input_tokens": 60,
    },
}
# https://docs.cloud.google.com/vertex-ai/generative-ai/docs/partner-models/grok/capabilities/reasoning
GROK: dict[str, Any] = {
    **OPENAI_CHAT,
    "usage": {
        "completion_tokens": 50,
        "completion_tokens_details": {"reasoning_tokens": 190},
        "prompt_tokens": 158,
        "prompt_tokens_details": {"cached_tokens": 150},
        "total_tokens": 398,
    },
}
GROK_2: dict[str, Any] = {
    **OPENAI_CHAT,
    "usage": {
        "completion_tokens": 50,
        "completion_tokens_details": {"reasoning_tokens": 20},
        "prompt_tokens": 158,
        "total_tokens": 228,
    },
}
# https://api-docs.deepseek.com/api/create-chat-completion
DEEPSEEK: dict[str, Any] = {
    **OPENAI_CHAT,
    "usage": {
        "completion_tokens": 10,
        "prompt_tokens": 16,
        "prompt_cache_hit_tokens": 10,
        "prompt_cache_miss_tokens": 6,
        "total_tokens": 26,
    },
}

ANSWERS: dict[str, tuple[Any, Usage]] = {
    "openai chat": (OPENAI_CHAT, Usage(1117, 46, cached=1024, reasoning=12)),
    "openai responses": (OPENAI_RESPONSES, Usage(328, 52, cached=128, reasoning=20)),
    "openai embeddings": (OPENAI_EMBEDDINGS, Usage(8)),
    "anthropic": (ANTHROPIC, Usage(100298, 503, cached=100000, cache_write=248, reasoning=321)),
    "gemini": (GEMINI, Usage(696300, 1214, cached=696190, reasoning=1000)),
    "bedrock": (BEDROCK, Usage(1457, 628, cached=1400, cache_write=27)),
    "cohere": (COHERE, Usage(5, 418)),
    "cohere embed": (COHERE_EMBED, Usage(2)),
    "mistral": (MISTRAL, Usage(1250, 2, cached=1152)),
    "ollama": (OLLAMA, Usage(26, 298)),
    "litellm": (LITELLM, Usage(120, 5, cached=60, cache_write=50)),
    "grok": (GROK, Usage(158, 240, cached=150, reasoning=190)),
    "grok, with little reasoning": (GROK_2, Usage(158, 70, reasoning=20)),
    "anthropic, with little cache": (
        {
            **ANTHROPIC,
            "usage": {"input_tokens": 2095, "cache_read_input_tokens": 100, "output_tokens": 5},
        },
        Usage(2195, 5, cached=100),
    ),
    "bedrock, with little cache": (
        {
            **BEDROCK,
            "usage": {"inputTokens": 2095, "cacheWriteInputTokens": 100, "outputTokens": 5},
        },
        Usage(2195, 5, cache_write=100),
    ),
    "deepseek": (DEEPSEEK, Usage(16, 10, cached=10)),
}


def as_object(value: Any) -> Any:
    """Return the same as objects with attributes, as most SDKs give them."""
    if isinstance(value, dict):
        names = {name: as_object(each) for name, each in value.items()}
        return SimpleNamespace(**names)
    return [as_object(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", ANSWERS)
def test_the_usage_of_an_answer(name: str) -> None:
    """In every protocol the input has the cached tokens, and the output the reasoning."""
    answer, usage = ANSWERS[name]

    assert usage == usage_of(answer)
    if not name.startswith("bedrock"):  # boto3 gives dicts
        assert usage == usage_of(as_object(answer))


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("openai chat", ChatCompletion.model_validate),
        ("grok", ChatCompletion.model_validate),
        ("deepseek", ChatCompletion.model_validate),
        ("litellm", ChatCompletion.model_validate),
        ("openai responses", Response.model_validate),
        ("openai embeddings", CreateEmbeddingResponse.model_validate),
        ("anthropic", Message.model_validate),
        ("gemini", GenerateContentResponse.model_validate),
    ],
)
def test_the_usage_of_an_object_of_the_sdk(name: str, build: Callable[[Any], Any]) -> None:
    """The SDK's object says what the body says, with the fields that it does not declare."""
    answer, usage = ANSWERS[name]

    assert usage == usage_of(build(answer))


@pytest.mark.filterwarnings("ignore")  # how they treat themselves is not asked here
@pytest.mark.parametrize("package", ["cohere", "litellm", "mistralai", "ollama"])
def test_the_usage_of_an_object_of_another_sdk(package: str) -> None:
    """The same for SDKs that only some environments have."""
    pytest.importorskip(package)
    if package == "cohere":
        from cohere.types import Usage as CohereUsage  # type: ignore[import-not-found,unused-ignore]

        told: Any = {**COHERE, "usage": CohereUsage.model_validate(COHERE["usage"])}
    elif package == "litellm":
        from litellm import ModelResponse  # type: ignore[import-not-found,unused-ignore]

        told = ModelResponse(**LITELLM)
    elif package == "mistralai":
        from mistralai.client.models import (  # type: ignore[import-not-found,unused-ignore]
            ChatCompletionResponse,
        )

        told = ChatCompletionResponse.model_validate(MISTRAL)
    else:
        from ollama import ChatResponse  # type: ignore[import-not-found,unused-ignore]

        told = ChatResponse.model_validate(OLLAMA)
    names = {"mistralai": "mistral"}

    assert ANSWERS[names.get(package, package)][1] == usage_of(told)


# Streams.


def chunk(**more: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1694268190,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}],
        **more,
    }


TOLD = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
START = {
    "type": "message_start",
    "message": {
        **ANTHROPIC,
        "content": [],
        "stop_reason": None,
        "usage": {
            "input_tokens": 25,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 0,
            "output_tokens": 1,
        },
    },
}
DELTA = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn", "stop_sequence": None},
    "usage": {"output_tokens": 15},
}
TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}
METRICS = {
    "inputTokenCount": 7,
    "outputTokenCount": 3,
    "invocationLatency": 1,
    "firstByteLatency": 1,
    "cacheReadInputTokenCount": 2,
}


def lines(*items: dict[str, Any]) -> list[str]:
    return [f"data: {json.dumps(item)}\n\n" for item in items] + ["data: [DONE]\n\n"]


STREAMS: dict[str, tuple[list[Any], Usage | None]] = {
    "openai chat": ([chunk(), chunk(), chunk(choices=[], usage=TOLD)], Usage(9, 12)),
    "the last one unreadable": (
        [chunk(usage=TOLD), chunk(usage={"prompt_tokens": -1})],
        Usage(9, 12),
    ),
    "openai chat, not asked for": ([chunk(), chunk(usage=None)], None),
    "cumulative": (
        [chunk(usage={**TOLD, "completion_tokens": 1}), chunk(usage=TOLD)],
        Usage(9, 12),
    ),
    "groq": ([chunk(), chunk(x_groq={"id": "req_1", "usage": TOLD})], Usage(9, 12)),
    "mistral": ([{"data": chunk()}, {"data": chunk(usage=TOLD)}], Usage(9, 12)),
    "openai responses": (
        [
            {"type": "response.created", "response": {**OPENAI_RESPONSES, "usage": None}},
            {"type": "response.output_text.delta", "delta": "A"},
            {"type": "response.completed", "response": OPENAI_RESPONSES, "sequence_number": 9},
        ],
        Usage(328, 52, cached=128, reasoning=20),
    ),
    "anthropic": ([START, TEXT, DELTA, {"type": "message_stop"}], Usage(125, 15, cached=100)),
    "anthropic, broken": ([START, TEXT], Usage(125, 1, cached=100)),
    "anthropic, cumulative": (
        [
            START,
            {
                **DELTA,
                "usage": {
                    "input_tokens": 30,
                    "cache_read_input_tokens": None,
                    "cache_creation_input_tokens": 4,
                    "output_tokens": 15,
                },
            },
        ],
        Usage(134, 15, cached=100, cache_write=4),
    ),
    "gemini": (
        [
            {**GEMINI, "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9}},
            {**GEMINI, "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4}},
        ],
        Usage(9, 4),
    ),
    "bedrock": (
        [
            {"messageStart": {"role": "assistant"}},
            {"contentBlockDelta": {"delta": {"text": "Hi"}, "contentBlockIndex": 0}},
            {"messageStop": {"stopReason": "end_turn"}},
            {"metadata": {"usage": BEDROCK["usage"], "metrics": {"latencyMs": 9}}},
        ],
        Usage(1457, 628, cached=1400, cache_write=27),
    ),
    "bedrock, invoke_model": (
        [
            {"chunk": {"bytes": json.dumps({"generation": "Hi"}).encode()}},
            {
                "chunk": {
                    "bytes": json.dumps(
                        {"generation": "", "amazon-bedrock-invocationMetrics": METRICS}
                    ).encode()
                }
            },
        ],
        Usage(9, 3, cached=2),
    ),
    "cohere": (
        [
            {"type": "content-delta", "delta": {"message": {"content": {"text": "Hi"}}}},
            {
                "type": "message-end",
                "delta": {"finish_reason": "COMPLETE", "usage": COHERE["usage"]},
            },
        ],
        Usage(5, 418),
    ),
    "cohere, version 1": (
        [
            {"event_type": "text-generation", "text": "Hi"},
            {
                "event_type": "stream-end",
                "response": {
                    "text": "Hi",
                    "meta": {"billed_units": {"input_tokens": 3.0, "output_tokens": 4.0}},
                },
            },
        ],
        Usage(3, 4),
    ),
    "ollama": (
        [{"model": "m", "message": {"role": "assistant", "content": "Hi"}, "done": False}, OLLAMA],
        Usage(26, 298),
    ),
    "raw lines": (lines(chunk(), chunk(choices=[], usage=TOLD)), Usage(9, 12)),
    "raw bytes": ([each.encode() for each in lines(START, DELTA)], Usage(125, 15, cached=100)),
    "texts": (["Hello", b"data: no", None, 3, ""], None),
    "nothing": ([], None),
}


def usage_after(items: list[Any]) -> Usage | None:
    stream = StreamUsage()
    for item in items:
        stream.add(item)
    return stream.usage


@pytest.mark.parametrize("name", STREAMS)
def test_the_usage_of_a_stream(name: str) -> None:
    """The last one counts, and Anthropic's first and last are put together."""
    items, usage = STREAMS[name]
    before = copy.deepcopy(items)

    assert usage == usage_after(items)
    assert before == items
    if not name.startswith(("bedrock", "raw")):
        assert usage == usage_after([as_object(item) for item in items])


def test_the_usage_of_a_stream_of_the_sdk() -> None:
    """The same for what the SDKs give."""
    anthropic = [
        RawMessageStartEvent.model_validate(START),
        RawMessageDeltaEvent.model_validate(DELTA),
    ]
    openai = [
        ChatCompletionChunk.model_validate(chunk()),
        ChatCompletionChunk.model_validate(chunk(choices=[], usage=TOLD)),
    ]
    groq = [ChatCompletionChunk.model_validate(chunk(x_groq={"id": "r", "usage": TOLD}))]
    event = {
        "type": "response.completed",
        "response": OPENAI_RESPONSES,
        "sequence_number": 9,
    }

    assert Usage(125, 15, cached=100) == usage_after(anthropic)
    assert Usage(9, 12) == usage_after(openai)
    assert Usage(9, 12) == usage_after(groq)
    assert 328 == (usage_after([ResponseCompletedEvent.model_validate(event)]) or Usage()).input


def test_plain_counts_are_those_of_the_usage() -> None:
    """What is read in a few steps is what the readers say, and only if there is nothing else."""
    plain = {"choices": [], "usage": TOLD}
    more = {"choices": [], "usage": {**TOLD, "prompt_tokens_details": {"cached_tokens": 3}}}
    answers = [answer for answer, _ in ANSWERS.values()]
    answers += [plain, more, {"choices": [], "usage": {**TOLD, "total_tokens": 30}}]
    answers += [as_object(each) for each in answers]
    found = [(plain_counts(each), usage_of(each)) for each in answers]

    assert (9, 12) == plain_counts(plain) == plain_counts(as_object(plain))
    assert None is plain_counts(more)
    assert all(told is None or Usage(*told) == usage for told, usage in found)


@pytest.mark.parametrize("value", [-1, True, "9", 1.5, 10**10, None], ids=repr)
@pytest.mark.parametrize("name", TOLD)
def test_nonsense_is_no_plain_count(name: str, value: Any) -> None:
    answer = {"choices": [], "usage": {**TOLD, name: value}}
    told = plain_counts(answer)

    assert told is None or Usage(*told) == usage_of(answer)
    assert told is None or name == "total_tokens"


@pytest.mark.parametrize("answer", ["text", None, 3, [], {}, {"usage": None}, {"usage": 3}])
def test_most_answers_have_no_plain_count(answer: Any) -> None:
    assert None is plain_counts(answer)


def test_what_a_model_does_not_declare_is_not_passed_over() -> None:
    """A part that is told besides the fields of a class of the SDK counts."""

    class Counts(BaseModel, extra="allow"):
        prompt_tokens: int
        completion_tokens: int
        total_tokens: int

    answer = {"choices": [], "usage": Counts(**TOLD, cache_read_input_tokens=3)}

    assert None is plain_counts(answer)
    assert 3 == usage_of(answer).cached


# Nonsense.


@pytest.mark.parametrize(
    "value", [-1, True, "9", 1.5, 10**10, float("nan"), float("inf"), [], {}], ids=repr
)
@pytest.mark.parametrize("name", ANSWERS)
def test_nonsense_counts_as_absent(name: str, value: Any) -> None:
    """Whichever count is nonsense, the others are read or there is no usage; none is below it."""
    answer, usage = ANSWERS[name]

    for path in paths_to_counts(answer):
        changed = copy.deepcopy(answer)
        holder = changed
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = value

        found = usage_of(changed)

        assert found is None or found.input <= max(usage.input * 2, 10), path
        assert found is None or found.output <= max(usage.output * 2, 10), path


def paths_to_counts(answer: dict[str, Any]) -> list[list[str]]:
    """Return where an answer has counts."""
    found = [["eval_count"], ["prompt_eval_count"]] if "eval_count" in answer else []
    for holder in ("usage", "usageMetadata", "meta"):
        for name, each in answer.get(holder, {}).items():
            if type(each) in (int, float):
                found.append([holder, name])
            elif isinstance(each, dict):
                found += [[holder, name, inner] for inner in each]
    return found


def test_an_input_that_is_not_told_is_no_usage() -> None:
    """A usage of the answer alone would be below the bill."""
    assert None is usage_of({"usage": {"completion_tokens": 5}})
    assert None is usage_of({"usage": {"output_tokens": 5}})
    assert None is usage_of({"usage": {"prompt_tokens": 5, "completion_tokens": "many"}})
    assert None is usage_of({"usage": {"input_tokens": 5, "output_tokens": -1}})
    assert Usage(0, 5) == usage_of({"eval_count": 5, "done": True})


def test_parts_that_are_larger_than_the_whole_are_added() -> None:
    """Some servers count the cache or the reasoning besides, whatever the protocol says."""
    beside = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 90},
        "completion_tokens_details": {"reasoning_tokens": 20},
    }

    assert Usage(100, 25, cached=90, reasoning=20) == usage_of({"usage": beside})


class Hostile:
    """Whose code must not run."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)

    def __getattribute__(self, name: str) -> Any:
        if name == "__dict__":
            return object.__getattribute__(self, name)
        raise AssertionError(name)

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    def __bool__(self) -> bool:
        raise AssertionError

    def __len__(self) -> int:
        raise AssertionError

    __hash__ = None  # type: ignore[assignment]


class HostileInt(int):
    """A number that is not only one."""

    def __le__(self, other: Any) -> bool:
        raise AssertionError

    __lt__ = __ge__ = __gt__ = __index__ = __int__ = __le__  # type: ignore[assignment]


HOSTILE: dict[str, Callable[[], Any]] = {
    "object": Hostile,
    "usage": lambda: Hostile(usage=Hostile()),
    "usage in a dict": lambda: {"usage": Hostile()},
    "counts": lambda: {"usage": {"prompt_tokens": Hostile(), "input_tokens": Hostile()}},
    "number": lambda: {"usage": {"prompt_tokens": HostileInt(5)}},
    "choices": lambda: {"choices": Hostile(), "x_groq": Hostile()},
    "events": lambda: dict.fromkeys(("message", "response", "metadata", "delta"), Hostile()),
    "body": lambda: {"chunk": {"bytes": b"{"}},
    "chunk": lambda: {"chunk": Hostile()},
    "line": lambda: "data: {",
    "bytes": lambda: b"\xff",
    "nothing": object,
    "class": lambda: Hostile,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_foreign_code_does_not_run(name: str) -> None:
    """Whatever an answer is, it is only read."""
    answer = HOSTILE[name]()

    assert usage_of(answer) is None
    assert usage_after([answer]) is None
    assert 0 <= characters_in(answer)


def test_hostile_objects_with_counts_are_read() -> None:
    """What an object holds is read past what its class does."""
    answer = Hostile(usage=Hostile(prompt_tokens=5, completion_tokens=6))

    assert Usage(5, 6) == usage_of(answer)


# Texts without a usage.


@pytest.mark.parametrize(
    ("answer", "characters"),
    [
        ("Hello", 5),
        ("", 0),
        (None, 0),
        (OPENAI_CHAT, 40),
        (ChatCompletion.model_validate(OPENAI_CHAT), 40),
        (OPENAI_RESPONSES, 14),
        (ANTHROPIC, 22),
        (GEMINI, 5),
        (BEDROCK, 5),
        (COHERE, 16),
        (OLLAMA, 25),
        ({"response": "Hello"}, 5),
        (["Hel", "lo"], 5),
        (OPENAI_EMBEDDINGS, 0),
    ],
    ids=[str(number) for number in range(14)],
)
def test_the_characters_of_an_answer(answer: Any, characters: int) -> None:
    """The text of the answer, and nothing beside it."""
    assert characters == characters_in(answer)
