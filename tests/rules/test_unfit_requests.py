"""One request that does not fit harms no other: its picture, its schema, its content, an unknown code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

import anthropic
import httpx2
import openai
import pydantic
import pytest
from openai.types.responses.response_error import ResponseError

from resilient_llm import Target, classify, failover, list_benched
from resilient_llm.answers import unusable
from tests.support.errors import openai_error, raised, shaped
from tests.support.ways import GROQ, OPENAI

MESSAGES: Any = [{"role": "user", "content": "Will it rain?"}]
# Those of the list that are not the request's.
OTHERS = {
    "server_error": "transient",
    "rate_limit_exceeded": "rate_limited",
    "vector_store_timeout": "transient",
}
POLICIES = {
    "invalid_prompt", "bio_policy", "image_content_policy_violation",
    "misalignment_policy_violation",
}  # fmt: skip
CODES: tuple[str, ...] = get_args(ResponseError.model_fields["code"].annotation)


class Weather(pydantic.BaseModel):
    """What the caller wants to be told."""

    city: str
    celsius: float


def failed_response(code: str) -> dict[str, Any]:
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": "failed",
        "error": {"code": code, "message": "no"}, "output": [], "tools": [],
        "parallel_tool_calls": True, "tool_choice": "auto",
    }  # fmt: skip


def openai_client(answer: Any, *, is_stream: bool = False) -> openai.OpenAI:
    """Return the real client, with an answer of every call."""
    kind = "text/event-stream" if is_stream else "application/json"
    text = answer if isinstance(answer, str) else json.dumps(answer)
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(200, text=text, headers={"content-type": kind})
    )
    return openai.OpenAI(api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport))


def chat(content: str | None, **message: Any) -> dict[str, Any]:
    choice = {"role": "assistant", "content": content, **message}
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": choice}],
    }  # fmt: skip


# --- codes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_a_failed_response(code: str) -> None:
    """Each code that the Responses API documents is known, as an answer and as an error."""
    answered = unusable(failed_response(code))
    streamed = classify(raised(lambda: by_openai_stream({"code": code, "message": "no"})))
    kind = OTHERS.get(code, "request_specific")

    assert answered is not None
    for verdict in (answered, streamed):
        assert (kind, code in POLICIES) == (verdict.kind, verdict.reason == "content_policy")


@pytest.mark.parametrize("code", [code for code in CODES if code not in OTHERS])
def test_a_failed_response_of_one_request_benches_nobody(code: str) -> None:
    """Six requests with an unreadable picture leave every model to the others."""

    @failover([GROQ, OPENAI], reject=unusable, on_content_policy="next")
    def ask(target: Target) -> Any:
        return openai_client(failed_response(code)).responses.create(model="m", input="?")

    for _ in range(6):
        assert "request_specific" == raised(ask).kind  # type: ignore[attr-defined]  # ours

    assert [] == list_benched()


@pytest.mark.parametrize(
    "code",
    [
        "image_content_policy_violation",
        "election_policy_violation",
        "InputImageSensitiveContentDetected.PolicyViolation",
        "OutputVideoSensitiveContentDetected",
        "content_moderation",
        "unsafe_content",
        "cyber_policy",
    ],
)
@pytest.mark.parametrize("status", [400, 403, 422])
def test_content_policies_by_all_their_names(code: str, status: int) -> None:
    """A provider's word for content that it does not want is the request's, whatever the status."""
    verdict = classify(openai_error(status, {"code": code, "message": "no"}))

    assert ("request_specific", "content_policy") == (verdict.kind, verdict.reason)


@pytest.mark.parametrize("code", ["data_retention_policy", "policy", "brand_new_code"])
def test_not_every_code_with_a_policy_is_about_content(code: str) -> None:
    """A word that nobody knows leaves the decision to the status."""
    verdict = classify(openai_error(400, {"code": code, "message": "no"}))

    assert "invalid_request" == verdict.reason


# --- unknown codes ----------------------------------------------------------------------------

UNKNOWN = {"message": "hm", "type": "brand_new_error", "code": "brand_new_code"}


def by_openai_stream(error: dict[str, Any]) -> Any:
    line = f"data: {json.dumps({'error': error})}\n\n"
    client = openai_client(line, is_stream=True)
    return list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))


def by_anthropic_stream(error: dict[str, Any]) -> Any:
    event = f"event: error\ndata: {json.dumps({'type': 'error', 'error': error})}\n\n"
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(200, text=event, headers={"content-type": "text/event-stream"})
    )
    client = anthropic.Anthropic(
        api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport)
    )
    return list(client.messages.create(model="m", max_tokens=1, messages=MESSAGES, stream=True))


@pytest.mark.parametrize("ask", [by_openai_stream, by_anthropic_stream])
def test_an_unknown_code_in_a_sound_body_is_no_sign_of_a_sick_server(
    ask: Callable[[dict[str, Any]], Any],
) -> None:
    """The next target is tried, and nothing is counted against this one."""
    verdict = classify(raised(lambda: ask(UNKNOWN)))

    assert ("transient", False) == (verdict.kind, verdict.harms_health)


def test_an_unknown_code_in_an_answer_is_no_sign_of_a_sick_server() -> None:
    """The same holds for a failed answer."""
    unknown, silent = unusable({"error": UNKNOWN}), unusable({"error": {"message": "hm"}})

    assert (False, True) == (unknown.harms_health, silent.harms_health)  # type: ignore[union-attr]


def test_an_unknown_code_with_a_failed_status_is_what_the_status_says() -> None:
    """A 500 is a server's, whatever word is in its body."""
    assert classify(openai_error(500, UNKNOWN)).harms_health


# --- schemas ----------------------------------------------------------------------------------


def _chat_parse(text: str) -> Any:
    client = openai_client(chat(text))
    return client.chat.completions.parse(model="m", messages=MESSAGES, response_format=Weather)


def _responses_parse(text: str) -> Any:
    output = [{
        "type": "message", "id": "1", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }]  # fmt: skip
    answer = {**failed_response(""), "status": "completed", "error": None, "output": output}
    return openai_client(answer).responses.parse(model="m", input="?", text_format=Weather)


def _tool_parse(text: str) -> Any:
    call = {"id": "1", "type": "function", "function": {"name": "Weather", "arguments": text}}
    return openai_client(chat(None, tool_calls=[call])).chat.completions.parse(
        model="m", messages=MESSAGES, tools=[openai.pydantic_function_tool(Weather)]
    )


def _anthropic_parse(text: str) -> Any:
    answer = {
        "id": "1", "type": "message", "role": "assistant", "model": "m",
        "content": [{"type": "text", "text": text}], "stop_reason": "end_turn",
        "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json=answer))
    client = anthropic.Anthropic(
        api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport)
    )
    return client.messages.parse(model="m", max_tokens=9, messages=MESSAGES, output_format=Weather)


def _langchain(method: str) -> Callable[[str], Any]:
    def ask(text: str) -> Any:
        models = pytest.importorskip("langchain_openai")
        call = {"id": "1", "type": "function", "function": {"name": "Weather", "arguments": text}}
        answer = chat(None, tool_calls=[call]) if method == "function_calling" else chat(text)
        client = openai_client(answer)
        model = models.ChatOpenAI(
            model="m", api_key="k", max_retries=0, root_client=client,
            client=client.chat.completions,
        )  # fmt: skip
        return model.with_structured_output(Weather, method=method).invoke("?")

    return ask


@pytest.mark.parametrize("text", ['{"town": "Rome"}', '{"city": "Rome", "celsius": "warm"}'])
@pytest.mark.parametrize(
    "ask",
    [
        _chat_parse,
        _responses_parse,
        _tool_parse,
        _anthropic_parse,
        _langchain("json_schema"),
        _langchain("function_calling"),
        _langchain("json_mode"),
    ],
    ids=["chat", "responses", "tool", "anthropic", "lc-schema", "lc-tool", "lc-json"],
)
def test_an_answer_that_does_not_fit_the_callers_schema(
    ask: Callable[[str], Any], text: str
) -> None:
    """It is this request's: another model may do better, and no server is sick."""
    if ask.__name__ == "ask":
        pytest.importorskip("langchain_openai")
    verdict = classify(raised(lambda: ask(text)))

    assert ("request_specific", "invalid_output") == (verdict.kind, verdict.reason)


def test_a_schema_that_no_answer_fits_benches_nobody() -> None:
    """One request is made of each target, and nothing is counted."""
    asked: list[str] = []

    @failover([GROQ, OPENAI])
    def ask(target: Target) -> Any:
        asked.append(target.key)
        return _chat_parse("It is sunny.")

    for _ in range(6):
        raised(ask)

    assert [GROQ, OPENAI] * 6 == asked
    assert [] == list_benched()


def test_the_callers_own_validation_stays_a_bug() -> None:
    """What the caller validates outside of a client is the caller's."""
    assert "caller_bug" == classify(raised(lambda: Weather.model_validate({}))).kind


def test_a_body_that_does_not_fit_the_clients_own_class_stays_broken() -> None:
    """A client that validates a response finds that the server is out of order."""
    module: dict[str, Any] = {"__name__": "mistralai.client.chat", "pydantic": pydantic}
    exec(  # noqa: S102  # a client's module by its name, which is all that is looked at
        "class Answer(pydantic.BaseModel):\n    id: str\n"
        "def read():\n    return Answer.model_validate({'id': 1})\n",
        module,
    )

    assert "invalid_response" == classify(raised(module["read"])).reason


def test_an_agent_whose_model_writes_no_json() -> None:
    """The Agents SDK has a class for it."""
    error = shaped("agents.exceptions.ModelBehaviorError", ("Invalid JSON when parsing",))

    assert "invalid_output" == classify(error).reason
