"""`needs.estimate_tokens()`: the default estimate of a call's input, and what it costs."""

from __future__ import annotations

import json
import pickle
import time
from collections import deque
from typing import Any

import pytest

from resilient_llm import Target, failover, needs
from tests.support.ways import GROQ, OPENAI

estimate = needs.estimate_tokens()
PNG = "data:image/png;base64," + "iVBO" * 10_000
TEXT = "x" * 400


def user(*parts: Any) -> list[dict[str, Any]]:
    """Return a conversation of one message."""
    return [{"role": "user", "content": list(parts)}]


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("ä" * 8, 2), ("x" * 401, 101)],
)
def test_four_characters_are_a_token(text: str, tokens: int) -> None:
    """Rounded up, once for the whole call."""
    assert tokens == estimate(text) == estimate(prompt=text)
    assert tokens == estimate(messages=[{"role": "user", "content": text}])


def test_all_texts_of_the_arguments_count_together() -> None:
    """Three characters in each of four places are three tokens."""
    assert 3 == estimate("abc", system="abc", messages=["abc", {"content": "abc"}])


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": TEXT}],
        [{"role": "developer", "content": [{"type": "text", "text": TEXT}], "name": "me"}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": TEXT}]}],
        [{"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": TEXT, "annotations": []}]}],
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": TEXT}]}],
        [{"role": "assistant", "content": [{"type": "thinking", "thinking": TEXT, "signature": "c2ln" * 99}]}],
        [{"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": TEXT}], "encrypted_content": "Z0FB" * 99}],
        [{"role": "user", "parts": [{"text": TEXT, "thought_signature": "c2ln" * 99}]}],
        [{"role": "tool", "tool_call_id": "call_" + "1" * 99, "content": TEXT}],
        [{"type": "function_call_output", "call_id": "call_" + "1" * 99, "output": TEXT}],
        [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": TEXT}], "is_error": False}]}],
        [{"role": "assistant", "tool_calls": [{"id": "1" * 99, "type": "function", "function": {"name": "get", "arguments": TEXT}}]}],
        [{"type": "function_call", "id": "1" * 99, "call_id": "1" * 99, "name": "get", "arguments": TEXT}],
        [{"role": "user", "content": [{"type": "search_result", "content": [{"type": "text", "text": TEXT}], "citations": {"enabled": True}}]}],
    ],
)  # fmt: skip
def test_roles_types_ids_and_signatures_do_not_count(messages: list[Any]) -> None:
    """Only the text of a message does, and what a tool was given or has given."""
    assert 100 == estimate(messages=messages)


@pytest.mark.parametrize(
    "options",
    [
        {"model": "gpt-5-mini", "temperature": 0.5, "max_tokens": 1000},
        {"previous_response_id": "resp_" + "1" * 99, "service_tier": "auto"},
        {"reasoning": {"effort": "high", "summary": "auto"}, "reasoning_effort": "high"},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}, "tool_choice": "auto"},
        {"metadata": {"note": TEXT}, "extra_headers": {"x": TEXT}, "timeout": 3},
        {"response_format": {"type": "json_object"}},
        {"tools": [], "functions": None, "config": None, "stream": True},
    ],
)
def test_options_are_no_content(options: dict[str, Any]) -> None:
    """They go to the provider, and not to the model."""
    assert 0 == estimate(messages=[], **options)


def test_a_message_that_is_there_twice_counts_twice() -> None:
    """The same object may stand in many places."""
    message = {"role": "user", "content": TEXT}

    assert 1000 == estimate(messages=[message] * 10)


@pytest.mark.parametrize("kind", [list, tuple, deque])
def test_any_sequence_is_a_conversation(kind: Any) -> None:
    """As long as reading it does not use it up."""
    assert 200 == estimate(messages=kind([{"content": TEXT}, {"content": TEXT}]))


def test_an_iterator_is_left_alone() -> None:
    """The call itself still needs its items."""
    messages = iter(user(TEXT))

    assert 0 == estimate(messages=messages)
    assert user(TEXT) == list(messages)


# --- images, audios, documents --------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/" + "a" * 999}},
        {"type": "input_image", "image_url": PNG, "detail": "auto"},
        {"type": "input_audio", "input_audio": {"data": "UklG" * 9999, "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64," + "JV" * 9999, "filename": "a.pdf"}},
        {"type": "input_file", "file_data": "JVBE" * 9999, "filename": "a.pdf"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO" * 9999}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JV" * 9999}},
        {"inline_data": {"mime_type": "image/png", "data": b"\x89PNG" * 9999}},
        {"file_data": {"mime_type": "audio/mpeg", "file_uri": "gs://a/" + "b" * 999}},
        {"type": "image", "data": "iVBO" * 9999, "mimeType": "image/png"},
        {"type": "image_generation_call", "id": "ig_1", "result": "iVBO" * 9999},
        {"type": "computer_screenshot", "image_url": PNG},
    ],
)  # fmt: skip
def test_each_medium_is_800_tokens(part: dict[str, Any]) -> None:
    """However large it is, and its data are no text."""
    assert 800 == estimate(messages=user(part))
    assert 1601 == estimate(messages=user(part, {"type": "text", "text": "Hi"}, part))


def test_a_document_that_is_a_text_is_read() -> None:
    """It is a document, and what it says goes to the model."""
    plain = {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": TEXT},
    }
    blocks = {
        "type": "document",
        "source": {"type": "content", "content": [{"type": "text", "text": TEXT}]},
    }
    named = {**plain, "title": TEXT, "context": TEXT}

    assert [900, 900, 1100] == [estimate(messages=user(each)) for each in (plain, blocks, named)]


def test_bytes_are_no_text() -> None:
    """Nor is a view of them, wherever they are."""
    assert 0 == estimate(b"x" * 400, picture=bytearray(400), more=[memoryview(b"x" * 400)])


def test_a_data_url_is_a_medium_and_no_text() -> None:
    """Also as an argument of its own."""
    assert 801 == estimate("What?", picture=PNG) - 1
    assert 800 == estimate(messages=[{"role": "user", "content": PNG}])


def test_images_of_ollama() -> None:
    """They stand beside the text."""
    assert 1700 == estimate(
        messages=[{"role": "user", "content": TEXT, "images": ["iVBO" * 99, b""]}]
    )


# --- tools ----------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "n": {"type": "integer", "maximum": 10}},
    "required": ["city"],
    "additionalProperties": False,
}  # fmt: skip
SCHEMA_SIZE = len(json.dumps(SCHEMA, separators=(",", ":")))


def tokens_of(characters: int) -> int:
    return -(-characters // 4)


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "function", "function": {"name": "get", "description": TEXT, "parameters": SCHEMA, "strict": True}}],
        [{"type": "function", "name": "get", "description": TEXT, "parameters": SCHEMA}],
        [{"name": "get", "description": TEXT, "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}}],
        [{"function_declarations": [{"name": "get", "description": TEXT, "parameters": SCHEMA}]}],
    ],
)  # fmt: skip
def test_the_schema_of_a_tool_counts_as_json(tools: list[Any]) -> None:
    """With its name and description, and without the type of the tool."""
    expected = tokens_of(len("get") + 400 + SCHEMA_SIZE)

    assert expected == estimate(messages=[], tools=tools)
    assert expected == estimate(contents=[], config={"tools": tools})


def test_a_function_of_openai_is_a_tool() -> None:
    """The older way to write it."""
    functions = [{"name": "get", "parameters": SCHEMA}]

    assert tokens_of(3 + SCHEMA_SIZE) == estimate(functions=functions)


def test_a_python_function_is_a_tool() -> None:
    """google-genai makes a schema of its name and docstring."""

    def weather(city: str) -> str:
        """Say what the weather is like."""
        return city

    assert tokens_of(7 + 29) == estimate(config={"tools": [weather]})


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"a": []},
        {"city": "Paris", "n": [1, 2.5, None, True, False], "o": {"p": "q"}},
        "text",
    ],
)
def test_arguments_of_a_tool_count_as_json(value: Any) -> None:
    """An object weighs what the same JSON weighs as a text."""
    size = len(json.dumps(value, separators=(",", ":")))
    google = {"function_call": {"name": "get", "args": {"v": value}}}
    anthropic = {"type": "tool_use", "id": "toolu_1", "name": "get", "input": {"v": value}}
    openai = {
        "function": {"name": "get", "arguments": json.dumps({"v": value}, separators=(",", ":"))}
    }

    assert tokens_of(size + 6) == estimate(messages=[{"parts": [google]}])
    assert tokens_of(size + 6) == estimate(messages=user(anthropic))
    assert tokens_of(size + 6) == estimate(messages=[{"tool_calls": [openai]}])


def test_the_result_of_a_tool_counts_as_json() -> None:
    """google-genai takes an object."""
    result = {"function_response": {"name": "get", "response": {"result": TEXT}}}

    assert tokens_of(400 + len('{"result":""}')) == estimate(contents=[{"parts": [result]}])


def test_a_schema_of_the_answer_counts() -> None:
    """It goes to the model as the schemas of tools do."""
    chat = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
    text = {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}

    expected = tokens_of(SCHEMA_SIZE)
    assert expected == estimate(response_format=chat) == estimate(text=text)
    assert expected == estimate(config={"response_schema": SCHEMA})


# --- objects --------------------------------------------------------------------------------------


def test_objects_of_the_sdks_weigh_what_their_dicts_weigh() -> None:
    """Fields that are not set do not count."""
    chat = pytest.importorskip("openai.types.chat")
    anthropic = pytest.importorskip("anthropic.types")
    google = pytest.importorskip("google.genai.types")
    message = {
        "role": "assistant",
        "content": TEXT,
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "get", "arguments": TEXT}}
        ],
    }
    block = {"type": "tool_use", "id": "toolu_1", "name": "get", "input": {"a": TEXT}}
    image = google.Part.from_bytes(data=b"\x89PNG" * 999, mime_type="image/png")
    called = google.Part.from_function_call(name="get", args={"a": TEXT})

    assert 200 == estimate(messages=[chat.ChatCompletionMessage.model_validate(message)])
    assert estimate(messages=user(block)) == estimate(
        messages=user(anthropic.ToolUseBlock.model_validate(block))
    )
    assert 1002 == estimate(
        contents=[google.Content(role="user", parts=[google.Part(text=TEXT), image, called])]
    )


def test_the_config_of_google_counts() -> None:
    """Its instruction, tools and schema; not its options."""
    google = pytest.importorskip("google.genai.types")
    config = google.GenerateContentConfig(
        system_instruction=TEXT,
        temperature=0.5,
        response_mime_type="application/json",
        tools=[
            google.Tool(
                function_declarations=[google.FunctionDeclaration(name="get", description=TEXT)]
            )
        ],
    )

    assert 201 == estimate(config=config)


def test_what_is_no_content_is_not_read() -> None:
    """A client or any other object weighs nothing, whatever it holds."""

    class Client:
        def __init__(self) -> None:
            self.api_key, self.cache = TEXT, {"a": TEXT}

    assert 0 == estimate(Client(), client=Client())


def test_self_is_not_read() -> None:
    """A method's object is no content, even if it looks like a message."""

    class Chat:
        def __init__(self) -> None:
            self.content = TEXT

        @failover([Target(GROQ, context_window=2), OPENAI], tokens=needs.estimate_tokens())
        def ask(self, target: Target, prompt: str) -> str:
            return target.key

    assert [GROQ, OPENAI] == [Chat().ask("12345678"), Chat().ask("123456789")]


def test_the_estimate_chooses_the_target() -> None:
    """With the options passed by position, found by the names of the parameters."""

    @failover([Target(GROQ, context_window=100), OPENAI], tokens=needs.estimate_tokens())
    def ask(target: Target, messages: Any, model: str = TEXT, max_tokens: int = 0) -> str:
        return target.key

    assert GROQ == ask([{"role": "user", "content": TEXT}])
    assert OPENAI == ask([{"role": "user", "content": TEXT + "x"}])
    assert OPENAI == ask([{"role": "user", "content": TEXT}], "gpt", 1)


# --- what it costs --------------------------------------------------------------------------------


def seconds_of(value: Any) -> float:
    """Return the processor time of the fastest of five estimates."""
    took: list[float] = []
    for _ in range(5):
        began_at = time.thread_time()
        estimate(messages=value)
        took.append(time.thread_time() - began_at)
    return min(took)


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10_000_000,
        [{"role": "user", "content": "x" * 100}] * 100_000,
        ["x"] * 10_000_000,
        list(range(1_000_000)),
        {str(number): "x" for number in range(100_000)},
        user({"type": "tool_use", "input": {"list": ["x"] * 1_000_000}}),
    ],
    ids=["text", "messages", "letters", "numbers", "fields", "json"],
)
def test_a_huge_input_takes_milliseconds(value: Any) -> None:
    """What is read is bounded, whatever the size."""
    assert seconds_of(value) < 0.25  # measured: 0.03


@pytest.mark.parametrize("kind", [list, deque])
def test_the_rest_of_a_huge_conversation_counts_alike(kind: Any) -> None:
    """What is not read is taken for as large as what is."""
    messages = kind([{"role": "user", "content": "x" * 100}] * 100_000)

    assert 2_500_000 == pytest.approx(estimate(messages=messages), rel=0.01)


def test_one_huge_message_does_not_stand_for_the_others() -> None:
    """A guess needs more than a few messages to go by."""
    huge = {"type": "tool_use", "input": {"list": ["x" * 9] * 100_000}}

    assert 300_000 <= estimate(messages=[*user(TEXT) * 20, *user(huge)]) < 303_000


def test_what_contains_itself_is_read_once() -> None:
    """A cycle has an end."""
    message: dict[str, Any] = {"role": "user", "text": TEXT}
    message["content"] = [message, {"text": TEXT}]
    message["input"] = {"again": message, "list": []}
    message["input"]["list"].append(message["input"])

    assert 200 <= estimate(messages=[message]) < 220


def test_what_is_too_deep_is_left_out() -> None:
    """No recursion error comes of it."""
    deep: Any = TEXT
    for _ in range(100_000):
        deep = [deep]

    assert 0 == estimate(messages=deep)
    while deep:  # its own end would be a recursion of Python's
        deep = deep.pop() if isinstance(deep, list) else None


def test_the_estimate_is_sent_to_other_processes() -> None:
    """A policy is pickled with it, and the pickle names no private class."""
    sent = pickle.dumps(estimate)

    assert 100 == pickle.loads(sent)(TEXT)
    assert b"EstimateTokens" not in sent
    assert "estimate_tokens()" == repr(pickle.loads(sent))
