"""Errors inside successes: the predicates for ``reject`` on real and made-up answers."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.version import Version

from resilient_llm import (
    AttemptFailed,
    ErrorKind,
    ResponseRejectedError,
    Target,
    Trace,
    Verdict,
    answers,
    classify,
    failover,
    list_benched,
)
from resilient_llm.testing import capture_events
from tests.replay import Case, load_cases, missing
from tests.replay.cases import CORPUS, Expected
from tests.replay.clients import _make, _undisturbed
from tests.replay.server import Server

# Deprecations, unclosed connections and the like: how clients treat themselves is not asked here.
pytestmark = pytest.mark.filterwarnings("ignore")

SILENT = load_cases(CORPUS / "silent")
ENVIRONMENT = os.environ.get("RESILIENT_LLM_CORPUS", "")
PREDICATES = (answers.empty, answers.filtered, answers.truncated, answers.broken, answers.unusable)


@pytest.fixture(autouse=True, scope="module")
def _no_litter() -> Iterator[None]:
    """Let what clients leave unclosed complain here, where nobody listens."""
    yield
    gc.collect()


def skip_if_impossible(case: Case) -> None:
    """Skip a case whose client is not there or too old."""
    lacking = missing(case)
    if lacking:
        # As test_corpus.py has it: in a named environment nothing may be missing.
        assert ENVIRONMENT != "all" or case.sdk == "litellm", f"no {lacking}"
        assert case.sdk != ENVIRONMENT, f"no {lacking}"
        pytest.skip(f"{lacking} is not installed")
    try:
        release = version(case.sdk)
    except PackageNotFoundError:
        return
    if Version(release) < Version(case.since):
        pytest.skip(f"{case.sdk} {release} is older than {case.since}")


def answered_by(case: Case) -> Any:
    """Return what the real client hands back for what is on the wire."""
    skip_if_impossible(case)
    with _undisturbed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = _make(case)
        return asyncio.run(answer) if inspect.isawaitable(answer) else answer


def objections(answer: object) -> dict[str, object]:
    """Return what each predicate has against an answer: ``{its name: what it said}``."""
    said = {predicate.__name__: predicate(answer) for predicate in PREDICATES}
    return {name: verdict for name, verdict in said.items() if verdict is not False}


# What clients hand back although the call failed.


@pytest.mark.parametrize("case", SILENT, ids=lambda case: case.id)
def test_a_failure_without_an_exception_is_caught(case: Case) -> None:
    """What a client hands back although the call failed gets the verdict of the case."""
    predicate = answers.truncated if case.verdict.reason == "output_truncated" else answers.unusable

    answer = answered_by(case)
    verdict = predicate(answer)

    assert verdict, repr(answer)[:500]
    want = case.verdict
    assert (
        want.kind,
        want.reason,
        want.retry_after,
        want.status,
        want.retryable,
        want.harms_health,
    ) == (
        verdict.kind.value,
        verdict.reason,
        verdict.retry_after,
        verdict.status,
        verdict.retryable,
        verdict.harms_health,
    ), repr(answer)[:500]


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in SILENT
        if isinstance(case.wire.get("body"), dict) and "fault" not in case.wire
    ],
    ids=lambda case: case.id,
)
def test_a_decoded_body_is_read_like_the_object_made_of_it(case: Case) -> None:
    """Whoever speaks to the API without its SDK gets the same kind of verdict."""
    body = case.wire["body"]
    if not body:
        pytest.skip("an empty object may be anybody's")
    predicate = answers.truncated if case.verdict.reason == "output_truncated" else answers.unusable

    verdict = predicate(body)

    assert verdict
    want = case.verdict
    assert (want.kind, want.reason, want.harms_health) == (
        verdict.kind.value,
        verdict.reason,
        verdict.harms_health,
    )


def test_silent_cases_have_names_of_their_own() -> None:
    """There are cases, and no two share an id, nor one with a case that raises."""
    ids = [case.id for case in (*SILENT, *load_cases())]

    assert 100 <= len(SILENT)
    assert sorted(set(ids)) == sorted(ids)


# Good answers, as the wire has them: what no predicate may object to.


def chat(message: dict[str, Any], stop: str | None = "stop", **more: Any) -> dict[str, Any]:
    """Return an answer of openai's chat, or of one that speaks like it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1730000000,
        "model": "some-model",
        "choices": [
            {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": stop}
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
        **more,
    }


def responses(*output: dict[str, Any], status: str = "completed") -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1730000000,
        "model": "some-model",
        "status": status,
        "error": None,
        "incomplete_details": None,
        "output": list(output),
    }


def message(*content: dict[str, Any], stop: str = "end_turn") -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "some-model",
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "output_tokens": 1},
    }


def candidate(*parts: dict[str, Any], stop: str = "STOP") -> dict[str, Any]:
    return {
        "candidates": [
            {"index": 0, "finishReason": stop, "content": {"role": "model", "parts": list(parts)}}
        ],
        "usageMetadata": {"promptTokenCount": 4},
        "modelVersion": "some-model",
    }


def converse(*content: dict[str, Any], stop: str = "end_turn") -> dict[str, Any]:
    return {
        "output": {"message": {"role": "assistant", "content": list(content)}},
        "stopReason": stop,
        "usage": {"inputTokens": 4, "outputTokens": 2, "totalTokens": 6},
        "metrics": {"latencyMs": 100},
    }


def cohere(content: list[dict[str, Any]], stop: str = "COMPLETE", **more: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "finish_reason": stop,
        "message": {"role": "assistant", "content": content, **more},
    }


def ollama(content: str, **more: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": content, **more}
    return {
        "model": "some-model",
        "created_at": "2026-01-01T00:00:00Z",
        "message": said,
        "done": True,
        "done_reason": "stop",
    }


CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": []}
WEATHER = {"type": "output_text", "text": "It will.", "annotations": []}
SAID = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [WEATHER],
}
CALLED = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "weather",
    "arguments": "{}",
}
PICTURE = {
    "type": "image_generation_call",
    "id": "ig_1",
    "status": "completed",
    "result": "aW1hZ2U=",
}
TWO = [
    {
        "index": 0,
        "message": {"role": "assistant", "content": ""},
        "finish_reason": "content_filter",
    },
    {"index": 1, "message": {"role": "assistant", "content": "It will."}, "finish_reason": "stop"},
]
SPEECH = {"id": "audio_1", "data": "YXVkaW8=", "expires_at": 1, "transcript": ""}

# id: (client, which of its calls, what it is answered)
GOOD: dict[str, tuple[str, str, dict[str, Any]]] = {
    "openai-text": ("openai", "chat", chat({"content": "It will."})),
    "openai-tool-calls": (
        "openai",
        "chat",
        chat({"content": None, "tool_calls": [CALL]}, "tool_calls"),
    ),
    "openai-function-call": (
        "openai",
        "chat",
        chat(
            {"content": None, "function_call": {"name": "weather", "arguments": "{}"}},
            "function_call",
        ),
    ),
    "openai-refusal-null": ("openai", "chat", chat({"content": "It will.", "refusal": None})),
    "openai-refusal-blank": ("openai", "chat", chat({"content": "It will.", "refusal": ""})),
    "openai-thoughts-and-text": (
        "openai",
        "chat",
        chat({"content": "It will.", "reasoning_content": "Rain."}),
    ),
    "openai-audio": ("openai", "chat", chat({"content": None, "audio": SPEECH})),
    "openai-image": (
        "openai",
        "chat",
        chat(
            {
                "content": "",
                "images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}],
            }
        ),
    ),
    "openai-html-in-its-place": (
        "openai",
        "chat",
        chat({"content": "<!DOCTYPE html><html></html>"}),
    ),
    "openai-one-good-choice": ("openai", "chat", chat({}, choices=TWO)),
    "openai-unknown-stop": ("openai", "chat", chat({"content": "It will."}, "eos")),
    "openai-no-stop": ("openai", "chat", chat({"content": "It will."}, None)),
    "openai-no-error": ("openai", "chat", chat({"content": "It will."}, error=None)),
    "openai-responses-text": ("openai", "responses", responses(THOUGHT, SAID)),
    "openai-responses-call": ("openai", "responses", responses(THOUGHT, CALLED)),
    "openai-responses-picture": ("openai", "responses", responses(PICTURE)),
    "openai-responses-in-background": ("openai", "responses", responses(status="queued")),
    "openai-embeddings": (
        "openai",
        "embeddings",
        {
            "object": "list",
            "model": "some-model",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}],
            "usage": {"prompt_tokens": 4, "total_tokens": 4},
        },
    ),
    "openai-images": (
        "openai",
        "images",
        {"created": 1730000000, "data": [{"b64_json": "aW1hZ2U="}]},
    ),
    "anthropic-text": ("anthropic", "chat", message({"type": "text", "text": "It will."})),
    "anthropic-stop-sequence": (
        "anthropic",
        "chat",
        message({"type": "text", "text": "It will"}, stop="stop_sequence"),
    ),
    "anthropic-tool-use": (
        "anthropic",
        "chat",
        message(
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}, stop="tool_use"
        ),
    ),
    "anthropic-thoughts-and-text": (
        "anthropic",
        "chat",
        message(
            {"type": "thinking", "thinking": "Rain.", "signature": "c2ln"},
            {"type": "text", "text": "It will."},
        ),
    ),
    "anthropic-pause": ("anthropic", "chat", message(stop="pause_turn")),
    "gemini-text": ("google-genai", "chat", candidate({"text": "It will."})),
    "gemini-call": (
        "google-genai",
        "chat",
        candidate({"functionCall": {"name": "weather", "args": {}}}),
    ),
    "gemini-image": (
        "google-genai",
        "chat",
        candidate({"inlineData": {"mimeType": "image/png", "data": "aW1hZ2U="}}),
    ),
    "gemini-thoughts-and-text": (
        "google-genai",
        "chat",
        candidate({"text": "Rain.", "thought": True}, {"text": "It will."}),
    ),
    "bedrock-text": ("boto3", "chat", converse({"text": "It will."})),
    "bedrock-tool-use": (
        "boto3",
        "chat",
        converse({"toolUse": {"toolUseId": "1", "name": "weather", "input": {}}}, stop="tool_use"),
    ),
    "bedrock-invoke-claude": (
        "boto3",
        "invoke_model",
        message({"type": "text", "text": "It will."}),
    ),
    "bedrock-invoke-llama": (
        "boto3",
        "invoke_model",
        {"generation": "It will.", "prompt_token_count": 4, "stop_reason": "stop"},
    ),
    "mistral-text": ("mistralai", "chat", chat({"content": "It will.", "tool_calls": None})),
    "mistral-parts": (
        "mistralai",
        "chat",
        chat(
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "Rain."}]},
                    {"type": "text", "text": "It will."},
                ]
            }
        ),
    ),
    "mistral-tool-calls": (
        "mistralai",
        "chat",
        chat({"content": "", "tool_calls": [CALL]}, "tool_calls"),
    ),
    "cohere-text": ("cohere", "chat", cohere([{"type": "text", "text": "It will."}])),
    "cohere-tool-calls": (
        "cohere",
        "chat",
        cohere([], "TOOL_CALL", tool_calls=[CALL], tool_plan="Look it up."),
    ),
    "ollama-text": ("ollama", "chat", ollama("It will.")),
    "ollama-tool-calls": (
        "ollama",
        "chat",
        ollama("", tool_calls=[{"function": {"name": "weather", "arguments": {"at": "home"}}}]),
    ),
    "ollama-embeddings": ("ollama", "embed", {"model": "some-model", "embeddings": [[0.1, 0.2]]}),
    "huggingface-text": ("huggingface_hub", "chat", chat({"content": "It will."})),
    "huggingface-tool-calls": (
        "huggingface_hub",
        "chat",
        chat({"content": None, "tool_calls": [CALL]}, "tool_calls"),
    ),
    "azure-inference-text": ("azure-ai-inference", "chat", chat({"content": "It will."})),
    "azure-inference-tool-calls": (
        "azure-ai-inference",
        "chat",
        chat({"content": None, "tool_calls": [CALL]}, "tool_calls"),
    ),
    "groq-text": ("groq", "chat", chat({"content": "It will."})),
    "together-text": ("together", "chat", chat({"content": "It will."})),
    "cerebras-text": ("cerebras-cloud-sdk", "chat", chat({"content": "It will."})),
    "fireworks-text": ("fireworks-ai", "chat", chat({"content": "It will."})),
    "watsonx-text": ("ibm-watsonx-ai", "chat", chat({"content": "It will."})),
    "langchain-text": ("langchain-openai", "chat", chat({"content": "It will."})),
    "langchain-tool-calls": (
        "langchain-openai",
        "chat",
        chat({"content": None, "tool_calls": [CALL]}, "tool_calls"),
    ),
    "pydantic-ai-text": ("pydantic-ai-slim", "chat", chat({"content": "It will."})),
    "litellm-text": ("litellm", "chat", chat({"content": "It will."})),
    "litellm-tool-calls": (
        "litellm",
        "chat",
        chat({"content": None, "tool_calls": [CALL]}, "tool_calls"),
    ),
    "voyage": (
        "voyageai",
        "chat",
        {
            "object": "list",
            "model": "voyage-3",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
            "usage": {"total_tokens": 4},
        },
    ),
}
NOT_ASKED_FOR = Expected("transient", "none", None, None, retryable=True, harms_health=True)


def case_of(name: str, sdk: str, api: str, wire: dict[str, Any], call: str = "sync") -> Case:
    return Case(
        name,
        sdk,
        "any",
        call,
        NOT_ASKED_FOR,
        "loopback",
        api=api,
        model="openai/gpt-4o" if sdk == "litellm" else "some-model",
        wire={"status": 200, **wire},
        since="1.66" if api == "responses" else "2" if name == "mistral-parts" else "0",
    )


@pytest.mark.parametrize("name", GOOD)
def test_a_good_answer_is_let_through(name: str) -> None:
    """Nothing is said against a good answer of a real client."""
    sdk, api, body = GOOD[name]

    answer = answered_by(case_of(name, sdk, api, {"body": body}))

    assert {} == objections(answer), repr(answer)[:500]


@pytest.mark.parametrize("name", GOOD)
def test_the_body_of_a_good_answer_is_let_through(name: str) -> None:
    """Nothing is said against the same answer as plain data, nor as the bytes that it came in."""
    body = GOOD[name][2]

    assert {} == objections(body)
    assert {} == objections(json.dumps(body).encode())


# Streams that somebody collected, whole and piece by piece.


def chunk(delta: dict[str, Any], stop: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": stop}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1730000000,
        "model": "some-model",
        "choices": [choice],
        **more,
    }


def sse(*events: dict[str, Any]) -> dict[str, Any]:
    """Return the wire of a stream; an event with a type is named after it."""
    lines = [f"event: {event['type']}\n" if "type" in event else "" for event in events]
    return {
        "chunks": [
            f"{line}data: {json.dumps(event)}\n\n"
            for line, event in zip(lines, events, strict=True)
        ]
    }


MESSAGE = {**message(), "stop_reason": None}
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
STREAMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "openai-text": (
        "openai",
        "chat",
        sse(
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": "It will."}),
            chunk({}, "stop"),
        ),
    ),
    "openai-usage-last": (
        "openai",
        "chat",
        sse(
            chunk({"content": "It will."}),
            {**chunk({}), "choices": [], "usage": {"total_tokens": 13}},
        ),
    ),
    "openai-tool-call": (
        "openai",
        "chat",
        sse(chunk({"tool_calls": [{"index": 0, **CALL}]}), chunk({}, "tool_calls")),
    ),
    "openai-responses": (
        "openai",
        "responses",
        sse(
            {
                "type": "response.created",
                "sequence_number": 0,
                "response": responses(status="in_progress"),
            },
            {"type": "response.output_text.delta", "sequence_number": 1, "delta": "It will."},
            {"type": "response.completed", "sequence_number": 2, "response": responses(SAID)},
        ),
    ),
    "anthropic-text": (
        "anthropic",
        "chat",
        sse(
            {"type": "message_start", "message": MESSAGE},
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "text", "text": ""},
            },
            {"type": "ping"},
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": "It will."},
            },
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn"},
                "usage": {"output_tokens": 4},
            },
            {"type": "message_stop"},
        ),
    ),
    "anthropic-tool-use": (
        "anthropic",
        "chat",
        sse(
            {"type": "message_start", "message": MESSAGE},
            {"type": "content_block_start", "index": 0, "content_block": TOOL},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "tool_use"},
                "usage": {"output_tokens": 4},
            },
            {"type": "message_stop"},
        ),
    ),
    "gemini-text": (
        "google-genai",
        "chat",
        {
            "chunks": [
                f"data: {json.dumps(one)}\r\n\r\n"
                for one in (
                    {"candidates": [{"content": {"parts": [{"text": "It"}]}}]},
                    candidate({"text": " will."}),
                )
            ]
        },
    ),
    "cohere-text": (
        "cohere",
        "chat",
        sse(
            {"type": "message-start", "id": "1", "delta": {"message": {"role": "assistant"}}},
            {
                "type": "content-delta",
                "index": 0,
                "delta": {"message": {"content": {"text": "It will."}}},
            },
            {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}},
        ),
    ),
    "ollama-text": (
        "ollama",
        "chat",
        {
            "headers": {"content-type": "application/x-ndjson"},
            "chunks": [
                json.dumps({**ollama("It will."), "done": False, "done_reason": None}) + "\n",
                json.dumps(ollama("")) + "\n",
            ],
        },
    ),
    "langchain-text": (
        "langchain-openai",
        "chat",
        sse(chunk({"role": "assistant", "content": "It will."}), chunk({}, "stop")),
    ),
    "groq-text": ("groq", "chat", sse(chunk({"content": "It will."}), chunk({}, "stop"))),
    "together-text": ("together", "chat", sse(chunk({"content": "It will."}), chunk({}, "stop"))),
    "azure-inference-text": (
        "azure-ai-inference",
        "chat",
        sse(chunk({"content": "It will."}), chunk({}, "stop")),
    ),
    "huggingface-text": (
        "huggingface_hub",
        "chat",
        sse(chunk({"content": "It will."}), chunk({}, "stop")),
    ),
    "litellm-text": (
        "litellm",
        "chat",
        sse(chunk({"role": "assistant", "content": "It will."}), chunk({}, "stop")),
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_whole_stream_is_let_through(name: str) -> None:
    """Nothing is said against the chunks of a good stream, together or one by one."""
    sdk, api, wire = STREAMS[name]

    pieces = answered_by(case_of(name, sdk, api, wire, "stream"))

    assert isinstance(pieces, list)
    assert len(pieces) > 1
    assert {} == objections(pieces), repr(pieces)[:500]
    # The last one may say that all is over, as a whole answer without a word does.
    assert [] == [(piece, said) for piece in pieces[:-1] if (said := objections(piece))]


CONVERSED = [
    {"messageStart": {"role": "assistant"}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "It will."}}},
    {"contentBlockStop": {"contentBlockIndex": 0}},
    {"messageStop": {"stopReason": "end_turn"}},
    {"metadata": {"usage": {"totalTokens": 6}}},
]


def test_the_events_of_bedrock() -> None:
    """Of Bedrock's streams the end, the reason for it and an error are known."""
    guarded = [*CONVERSED[:3], {"messageStop": {"stopReason": "guardrail_intervened"}}]
    throttled = [*CONVERSED[:2], {"throttlingException": {"message": "Too many requests."}}]

    assert {} == objections(CONVERSED)
    assert "stream_interrupted" == reason(answers.unusable(CONVERSED[:2]))
    assert "content_policy" == reason(answers.unusable(guarded))
    assert ErrorKind.RATE_LIMITED == kind(answers.unusable(throttled))


def reason(verdict: object) -> str:
    assert isinstance(verdict, Verdict)
    return verdict.reason


def kind(verdict: object) -> ErrorKind:
    assert isinstance(verdict, Verdict)
    return verdict.kind


# What a function of one's own returns.


@dataclass
class Reply:
    text: str
    error: object = None
    choices: object = ()


@dataclass(slots=True)
class Slotted:
    choices: list[Any]
    created: int = 0


OWN: dict[str, object] = {
    "a text": "It will.",
    "a number": 0,
    "false": False,
    "a generator": iter("x"),
    "markdown about html": "Write `<html>` first.",
    "json that a model was asked for": '{"error": "no rain", "choices": []}',
    "an object with data of one's own": {"data": [], "total": 0},
    "choices of another sort": {"choices": ["umbrella", "coat"]},
    "no choices of another sort": {"choices": []},
    "candidates for a job": {"candidates": []},
    "named candidates for a job": {"candidates": [{"name": "Ada"}]},
    "an empty dict": {},
    "a dict with an error field": {"answer": "It will.", "error": None},
    "a dict with an error in words": {"answer": "It will.", "error": "none that matters"},
    "a status of one's own": {"status": "failed", "output": []},
    "a page that was not found": {"status_code": 404, "url": "https://example.com"},
    "a dataclass": Reply("It will."),
    "a dataclass with an exception": Reply("It will.", error=ValueError("no")),
    "vectors": [[0.1, 0.2], [0.3, 0.4]],
    "numbers": [0.1, 0.2],
    "rows": [{"id": 1, "error": {"message": "no such row"}}, {"id": 2}],
    "findings": [{"type": "error", "message": "undefined", "code": "E1"}],
    "content blocks": [{"type": "text", "text": "It will."}],
    "whole answers to several questions": [
        chat({"content": "It will."}),
        chat({"content": ""}, "length"),
    ],
    "texts": ["It", " will."],
    "a class": Reply,
    "a function": reason,
}


@pytest.mark.parametrize("name", OWN)
def test_what_is_not_known_is_good(name: str) -> None:
    """An answer that no SDK gives counts as good."""
    assert {} == objections(OWN[name])


@pytest.mark.parametrize("blank", ["", " \n\t", [""], b""])
def test_a_blank_text_is_empty(blank: object) -> None:
    """A function that returns only the text gives an empty answer as a blank one."""
    assert {"empty", "unusable"} == set(objections(blank))
    assert Verdict(ErrorKind.BAD_RESPONSE, "empty") == answers.empty(blank)


@pytest.mark.parametrize("nothing", [None, []])
def test_nothing_is_broken_and_empty(nothing: object) -> None:
    """None where an object is due, or a stream without one event, is a failure of the server."""
    assert Verdict(ErrorKind.BAD_RESPONSE, "empty") == answers.empty(nothing)
    assert Verdict(ErrorKind.TRANSIENT, "invalid_response") == answers.unusable(nothing)


@pytest.mark.parametrize(
    "page",
    [
        "<!DOCTYPE html><title>502</title>",
        "\ufeff\n <HTML>\n",
        b"<html></html>",
        'event: message_start\ndata: {"type": "message_start"}\n\n',
    ],
)
def test_a_page_is_broken(page: object) -> None:
    """A page or a raw stream is no answer of a model."""
    assert Verdict(ErrorKind.TRANSIENT, "invalid_response") == answers.broken(page)


def test_slots_and_plain_objects_are_read() -> None:
    """Attributes count wherever an instance has them."""
    said = SimpleNamespace(
        message=SimpleNamespace(content="", tool_calls=None), finish_reason="stop"
    )

    assert "empty" == reason(answers.unusable(Slotted([said])))
    assert "empty" == reason(answers.unusable(SimpleNamespace(_data=chat({"content": ""}))))
    assert "empty" == reason(
        answers.unusable(SimpleNamespace(choices=[said], object="chat.completion"))
    )


def test_what_is_taken_out_of_an_answer_is_read() -> None:
    """A choice, or the message of one, is judged like the answer it came from."""
    refused = {"role": "assistant", "content": None, "refusal": "No."}

    assert "content_policy" == reason(answers.unusable(refused))
    assert "empty" == reason(
        answers.unusable({"index": 0, "message": {"content": ""}, "finish_reason": "stop"})
    )
    assert {} == objections({"role": "assistant", "content": None, "tool_calls": [CALL]})


def test_a_response_that_nobody_looked_at() -> None:
    """A response of httpx with an error status is judged as the error it stands for."""
    httpx = pytest.importorskip("httpx")
    response = httpx.Response(
        429, headers={"retry-after": "7"}, json={"error": {"message": "Slow down."}}
    )

    verdict = answers.broken(response)

    assert verdict
    assert (ErrorKind.RATE_LIMITED, 7.0, 429) == (verdict.kind, verdict.retry_after, verdict.status)
    assert {} == objections(httpx.Response(200, text="fine"))


def test_a_body_that_says_its_status() -> None:
    """dashscope gives back a dict with the status of the error instead of raising."""
    verdict = answers.broken(
        {
            "status_code": 429,
            "request_id": "1",
            "code": "Throttling",
            "message": "Slow down.",
            "output": None,
        }
    )

    assert ErrorKind.RATE_LIMITED == kind(verdict)


def test_an_error_that_no_rule_knows_is_transient() -> None:
    """An error in a success of which nothing is known is a broken answer."""
    verdict = answers.broken({"error": {"message": "Something happened."}})

    assert Verdict(ErrorKind.TRANSIENT, "invalid_response") == verdict


def test_rules_of_ones_own_are_asked() -> None:
    """An error in a success is shown to the rules that users registered."""

    @classify.rule
    def ours(error: BaseException) -> ErrorKind | None:
        body = getattr(error, "body", None) or {}
        return ErrorKind.MEMORY_PRESSURE if body.get("error", {}).get("code") == "E77" else None

    assert ErrorKind.MEMORY_PRESSURE == kind(
        answers.broken({"error": {"code": "E77", "message": "?"}})
    )


@pytest.mark.parametrize(
    "said", [ErrorKind.CANCELLED, ErrorKind.CALLER_BUG, ErrorKind.UNKNOWN, ErrorKind.REJECTED]
)
def test_no_answer_is_a_cancellation(said: ErrorKind) -> None:
    """Kinds that make no sense for an answer are not passed on."""
    classify.rule(lambda error: said)

    assert Verdict(ErrorKind.TRANSIENT, "invalid_response") == answers.broken(
        {"error": {"message": "?"}}
    )


# Put together, and in a call.


def test_the_first_that_objects_decides() -> None:
    """Predicates are asked in order; what is None or False goes on to the next."""
    asked: list[str] = []

    def mine(answer: str) -> str | None:
        asked.append(answer)
        return "too_short" if len(answer) < 5 else None

    reject = answers.any_of(answers.unusable, mine)

    assert "empty" == reason(reject(""))
    assert "too_short" == reject("Hm")
    assert reject("It will.") is False
    assert ["Hm", "It will."] == asked
    assert answers.any_of()("") is False


def test_the_order_of_unusable() -> None:
    """A failure comes before a refusal, and a refusal before an empty text."""
    both = chat(
        {"content": ""}, "content_filter", error={"code": 429, "message": "Rate limit exceeded"}
    )
    blank = chat({"content": ""}, "length")

    assert ErrorKind.RATE_LIMITED == kind(answers.unusable(both))
    assert "content_policy" == reason(answers.filtered(both))
    assert "empty" == reason(answers.unusable(blank))
    assert "output_truncated" == reason(answers.any_of(answers.truncated, answers.unusable)(blank))


def ask_with(reject: Callable[[Any], Any], first: object, **policy: Any) -> Any:
    @failover(["groq/small", "openai/large"], reject=reject, attempts=1, **policy)
    def ask(target: Target) -> Any:
        return first if target.provider == "groq" else "fine"

    return ask()


def test_an_error_in_a_success_benches() -> None:
    """An account without credit is benched although its provider answered with a 200."""
    with capture_events(AttemptFailed) as failures:
        answer = ask_with(
            answers.unusable, {"error": {"code": 402, "message": "Insufficient credits"}}
        )

    assert "fine" == answer
    assert [("auth_dead", "insufficient_quota", None)] == [
        (e.kind, e.reason, e.status) for e in failures
    ]
    assert ["groq"] == [each.model for each in list_benched()]


def test_a_filtered_answer_follows_on_content_policy() -> None:
    """A refusal is not sent to another model unless that is asked for."""
    refused = chat({"content": ""}, "content_filter")

    with pytest.raises(ResponseRejectedError) as raised:
        ask_with(answers.unusable, refused)

    assert ("groq/small", "content_policy") == (raised.value.target, raised.value.reason)
    assert "fine" == ask_with(answers.unusable, refused, on_content_policy="next")
    assert [] == list_benched()


def test_an_empty_answer_harms_nobody() -> None:
    """The next model is asked, and the one that said nothing stays healthy."""
    assert "fine" == ask_with(answers.unusable, chat({"content": ""}))
    assert [] == list_benched()


def test_with_a_real_client() -> None:
    """A 200 with an error in it is failed over from, through the openai client."""
    openai = pytest.importorskip("openai")
    broken = {"status": 200, "body": {"error": {"code": 429, "message": "Rate limit exceeded"}}}
    good = {"status": 200, "body": chat({"content": "It will."})}
    with _undisturbed(), Server(broken) as first, Server(good) as second:
        urls = {"openrouter/some-model": first.url, "openai/some-model": second.url}

        @failover(list(urls), reject=answers.unusable)
        def ask(target: Target, prompt: str) -> Any:
            with openai.OpenAI(
                base_url=f"{urls[target.spec]}/v1", api_key="not-a-key", max_retries=0
            ) as client:
                return client.chat.completions.create(
                    model=target.model, messages=[{"role": "user", "content": prompt}]
                )

        with Trace() as trace:
            answer = ask("Will it rain?")

    assert "It will." == answer.choices[0].message.content
    assert [("openrouter/some-model", "rate_limit"), ("openai/some-model", "")] == [
        (each.target, each.reason) for each in trace.calls[0].attempts
    ]


# Whatever the object is.


def test_a_deep_or_ring_shaped_answer_is_looked_at() -> None:
    """Nesting and rings end the reading, not the program."""
    ring: dict[str, Any] = {"code": "x", "message": "?"}
    ring["error"] = ring
    deep: Any = {"message": "?"}
    for _ in range(5_000):
        deep = {"error": deep, "message": "?", "errors": [deep]}

    assert "invalid_response" == reason(answers.broken(ring))
    assert "invalid_response" == reason(answers.broken(deep))
    assert answers.broken(b"[" * 60_000) is False
    assert "invalid_response" == reason(answers.broken(b'{"a":' * 12_000))


def test_nothing_of_an_object_is_run() -> None:
    """Only what an object holds is read: no property, no ``__getattr__``, no lazy body."""
    run: list[str] = []

    class Lazy:
        def __getattr__(self, name: str) -> Any:
            run.append(name)
            raise AttributeError(name)

        @property
        def choices(self) -> Any:
            run.append("choices")
            return []

        @property
        def text(self) -> Any:
            run.append("text")
            return ""

        def __iter__(self) -> Iterator[Any]:
            run.append("iter")
            return iter(())

        def __len__(self) -> int:
            run.append("len")
            return 0

        def __bool__(self) -> bool:
            run.append("bool")
            return False

    assert {} == objections(Lazy())
    assert {} == objections(chat({"content": None, "audio": Lazy()}))
    assert [] == run


def test_reading_is_bounded() -> None:
    """What is beyond the bounds is not read, and counts as good."""
    far = 70_000
    error = {"error": {"code": 429, "message": "Rate limit exceeded"}}
    stream = [chunk({"content": ""})] * 2_000
    stream[1_000] = error
    many = [{"type": "text", "text": ""}] * 1_000

    assert {} == objections(" " * far)
    assert {} == objections(" " * far + "<html>")
    assert {} == objections([*stream, chunk({}, "stop")])
    assert {} == objections(message(*many))
    assert ErrorKind.RATE_LIMITED == kind(answers.broken([*stream[:20], error]))
    assert "invalid_response" == reason(answers.broken({"error": {"message": "x" * 10_000_000}}))
