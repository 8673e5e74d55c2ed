"""`needs.from_messages()`: what a conversation and the options of a call need of a model."""

from __future__ import annotations

import logging
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from resilient_llm import ConfigurationError, Target, failover, needs
from tests.support.ways import GROQ, OPENAI

words = needs.from_messages()
PNG = "data:image/png;base64,iVBORw0KGgo="


def user(*parts: Any) -> list[dict[str, Any]]:
    """Return a conversation of one message."""
    return [{"role": "user", "content": list(parts)}]


# --- conversations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        # openai, chat
        ({"type": "text", "text": "Hi"}, set()),
        ({"type": "image_url", "image_url": {"url": PNG}}, {"vision"}),
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, {"vision"}),
        ({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}, {"audio"}),
        ({"type": "file", "file": {"file_id": "file-1"}}, {"documents"}),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}}, {"documents"}),
        ({"type": "file", "file": {"file_data": PNG}}, {"vision"}),
        ({"type": "refusal", "refusal": "No."}, set()),
        # openai, responses
        ({"type": "input_text", "text": "Hi"}, set()),
        ({"type": "input_image", "image_url": PNG, "detail": "auto"}, {"vision"}),
        ({"type": "input_image", "file_id": "file-1", "detail": "low"}, {"vision"}),
        ({"type": "input_file", "file_url": "https://example.com/a.pdf"}, {"documents"}),
        ({"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JV"}, {"documents"}),
        # anthropic
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}, {"vision"}),
        ({"type": "image", "source": {"type": "url", "url": "https://example.com/a"}}, {"vision"}),
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JV"}}, {"documents"}),
        ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hi"}}, {"documents"}),
        ({"type": "document", "source": {"type": "content", "content": [{"type": "image", "source": {}}]}}, {"documents", "vision"}),
        ({"type": "document", "source": {"type": "file", "file_id": "file_1"}}, {"documents"}),
        ({"type": "tool_use", "id": "toolu_1", "name": "get", "input": {}}, {"tools"}),
        ({"type": "tool_result", "tool_use_id": "toolu_1", "content": "42"}, {"tools"}),
        ({"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "image", "source": {}}]}, {"tools", "vision"}),
        ({"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}}, {"tools"}),
        ({"type": "web_search_tool_result", "tool_use_id": "1", "content": []}, {"tools"}),
        ({"type": "mcp_tool_use", "id": "1", "name": "get", "input": {}}, {"tools"}),
        ({"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}, set()),
        ({"type": "redacted_thinking", "data": "c2ln"}, set()),
        # what speaks like one of them
        ({"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}, {"vision"}),
        ({"type": "document_url", "document_url": "https://example.com/a.pdf"}, {"documents"}),
        ({"type": "media", "mime_type": "audio/wav", "data": "UklGRg=="}, {"audio"}),
        ({"type": "image", "data": "iVBO", "mimeType": "image/png"}, {"vision"}),
        ({"type": "document", "text": "only a text", "title": "with a name"}, set()),
    ],
)  # fmt: skip
def test_a_part_of_a_message(part: dict[str, Any], expected: set[str]) -> None:
    """Each kind of part needs what its model must take."""
    assert expected == words(messages=user(part)) == words(messages=[part])


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Hi", set()),
        ({"role": "user", "content": "Hi"}, set()),
        ({"role": "assistant", "content": None, "tool_calls": None}, set()),
        ({"role": "assistant", "content": None, "tool_calls": []}, set()),
        ({"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "get", "arguments": "{}"}}]}, {"tools"}),
        ({"role": "assistant", "function_call": {"name": "get", "arguments": "{}"}}, {"tools"}),
        ({"role": "tool", "tool_call_id": "1", "content": "42"}, {"tools"}),
        ({"role": "function", "name": "get", "content": "42"}, {"tools"}),
        ({"role": "assistant", "audio": {"id": "audio_1"}}, {"audio"}),
        ({"role": "user", "content": "See", "images": ["iVBO"]}, {"vision"}),
        ({"role": "user", "content": "See", "images": []}, set()),
        # openai, responses
        ({"type": "function_call", "call_id": "1", "name": "get", "arguments": "{}"}, {"tools"}),
        ({"type": "function_call_output", "call_id": "1", "output": "42"}, {"tools"}),
        ({"type": "function_call_output", "call_id": "1", "output": [{"type": "input_image", "image_url": PNG}]}, {"tools", "vision"}),
        ({"type": "custom_tool_call_output", "call_id": "1", "output": "42"}, {"tools"}),
        ({"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}}, {"tools"}),
        ({"type": "computer_call_output", "call_id": "1", "output": {"type": "computer_screenshot", "image_url": PNG}}, {"tools", "vision"}),
        ({"type": "image_generation_call", "id": "ig_1", "result": "iVBO", "status": "completed"}, {"tools"}),
        ({"type": "mcp_list_tools", "server_label": "a", "tools": []}, {"tools"}),
        ({"type": "additional_tools", "tools": [{"type": "function", "name": "get"}]}, {"tools"}),
        ({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "Z0FB"}, {"thinking"}),
        # google-genai
        ({"role": "user", "parts": [{"text": "Hi"}]}, set()),
        ({"parts": [{"inline_data": {"mime_type": "image/png", "data": b"\x89PNG"}}]}, {"vision"}),
        ({"parts": [{"inlineData": {"mimeType": "audio/mp3", "data": "SUQz"}}]}, {"audio"}),
        ({"parts": [{"file_data": {"file_uri": "gs://a/b", "mime_type": "video/mp4"}}]}, {"vision"}),
        ({"parts": [{"fileData": {"fileUri": "gs://a/b", "mimeType": "application/pdf"}}]}, {"documents"}),
        ({"parts": [{"file_data": {"file_uri": "files/1"}}]}, {"documents"}),
        ({"parts": [{"function_call": {"name": "get", "args": {}}}]}, {"tools"}),
        ({"parts": [{"functionResponse": {"name": "get", "response": {}}}]}, {"tools"}),
        ({"parts": [{"function_response": {"name": "get", "response": {}, "parts": [{"inline_data": {"mime_type": "image/png", "data": b""}}]}}]}, {"tools", "vision"}),
        ({"parts": [{"executable_code": {"code": "1", "language": "PYTHON"}}]}, {"tools"}),
        ({"uri": "files/1", "mime_type": "image/jpeg"}, {"vision"}),
    ],
)  # fmt: skip
def test_a_message(message: Any, expected: set[str]) -> None:
    """In a list, alone, and in a longer conversation."""
    hi = {"role": "user", "content": "Hi"}

    assert expected == words(messages=[message])
    assert expected == words(messages=message)
    assert expected == words(messages=(hi, message, hi))


def test_a_conversation_needs_all_that_its_messages_need() -> None:
    """The words of all messages together."""
    conversation = [
        *user({"type": "image", "source": {}}),
        *user({"type": "input_audio", "input_audio": {}}),
        {"role": "tool", "content": "42"},
    ]

    assert {"vision", "audio", "tools"} == words(messages=conversation)


def test_the_newest_messages_of_a_huge_conversation_are_read() -> None:
    """What is read is bounded, and ends with the last message."""
    old = [{"role": "user", "content": "Hi"}] * 1_000_000

    assert {"vision"} == words(messages=[*old, *user({"type": "image", "source": {}})])


# --- options of the call --------------------------------------------------------------------------


class Schema:
    """Stands for a model of pydantic, which `parse()` takes as the format."""


TOOL = {"type": "function", "function": {"name": "get", "parameters": {}}}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, set()),
        ({"tools": [TOOL]}, {"tools"}),
        ({"tools": (TOOL,)}, {"tools"}),
        ({"tools": []}, set()),
        ({"tools": None}, set()),
        ({"functions": [{"name": "get"}]}, {"tools"}),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}}, {"json_schema"}),
        ({"response_format": {"type": "json_object"}}, set()),
        ({"response_format": {"type": "text"}}, set()),
        ({"response_format": {"type": "json_object", "schema": {"type": "object"}}}, {"json_schema"}),
        ({"response_format": Schema}, {"json_schema"}),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}}, {"json_schema"}),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, set()),
        ({"text": "a prompt"}, set()),
        ({"text_format": Schema}, {"json_schema"}),
        ({"output_config": {"format": {"type": "json_schema", "schema": {}}}}, {"json_schema"}),
        ({"output_config": {"effort": "low"}}, set()),
        ({"output_format": {"type": "json_schema", "schema": {}}}, {"json_schema"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"thinking"}),
        ({"thinking": {"type": "adaptive"}}, {"thinking"}),
        ({"thinking": {"type": "disabled"}}, set()),
        ({"thinking": True}, {"thinking"}),
        ({"thinking": False}, set()),
        ({"thinking": None}, set()),
        ({"reasoning": {"effort": "high"}}, {"thinking"}),
        ({"reasoning": {"effort": None, "summary": "auto"}}, {"thinking"}),
        ({"reasoning": {"effort": "none"}}, set()),
        ({"reasoning": {"enabled": False}}, set()),
        ({"reasoning": {"effort": None}}, set()),
        ({"reasoning": {}}, set()),
        ({"reasoning_effort": "low"}, {"thinking"}),
        ({"reasoning_effort": "none"}, set()),
        ({"config": {"tools": [{"google_search": {}}]}}, {"tools"}),
        ({"config": {"tools": []}}, set()),
        ({"config": {"response_schema": {"type": "OBJECT"}}}, {"json_schema"}),
        ({"config": {"responseJsonSchema": {"type": "object"}}}, {"json_schema"}),
        ({"config": {"response_schema": Schema}}, {"json_schema"}),
        ({"config": {"response_mime_type": "application/json"}}, set()),
        ({"config": {"thinking_config": {"thinking_budget": 1024}}}, {"thinking"}),
        ({"config": {"thinkingConfig": {"includeThoughts": True}}}, {"thinking"}),
        ({"config": {"thinking_config": {"thinking_budget": 0}}}, set()),
        ({"config": {"thinking_config": {"include_thoughts": False}}}, set()),
        ({"config": {"system_instruction": {"parts": [{"inline_data": {"mime_type": "image/png"}}]}}}, {"vision"}),
        ({"config": "anything"}, set()),
    ],
)  # fmt: skip
def test_an_option_of_the_call(options: dict[str, Any], expected: set[str]) -> None:
    """Beside a conversation that needs nothing, and without one."""
    assert expected == words(messages=[{"role": "user", "content": "Hi"}], **options)
    assert expected == words(**options)


def test_what_an_sdk_has_for_an_argument_that_was_not_given_is_none() -> None:
    """openai and anthropic have such objects as defaults."""
    openai = pytest.importorskip("openai")
    anthropic = pytest.importorskip("anthropic")

    for nothing in (openai.NOT_GIVEN, openai.omit, anthropic.NOT_GIVEN, anthropic.omit):
        given = dict.fromkeys(
            ("tools", "functions", "response_format", "text", "thinking", "reasoning"), nothing
        )
        assert set() == words(messages=[], config=nothing, **given)


# --- objects of the SDKs --------------------------------------------------------------------------


def test_objects_of_openai_chat() -> None:
    """An answer that called a tool is sent back as it came."""
    chat = pytest.importorskip("openai.types.chat")
    plain = chat.ChatCompletionMessage(role="assistant", content="Hi")
    called = chat.ChatCompletionMessage.model_validate(
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "get", "arguments": "{}"}}
            ],
        }
    )

    assert set() == words(messages=[plain])
    assert {"tools"} == words(messages=[{"role": "user", "content": "Hi"}, called])


def test_objects_of_openai_responses() -> None:
    """The output of one response is the input of the next."""
    responses = pytest.importorskip("openai.types.responses")
    called = responses.ResponseFunctionToolCall(
        type="function_call", call_id="1", name="get", arguments="{}"
    )
    thought = responses.ResponseReasoningItem(type="reasoning", id="rs_1", summary=[])
    said = responses.ResponseOutputMessage.model_validate(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hi", "annotations": []}],
        }
    )
    read = needs.from_messages("input")

    assert {"tools"} == read(input=[called])
    assert {"thinking"} == read(input=[thought, said])
    assert set() == read(input=[said])
    assert {"thinking"} == read(
        input="Hi", reasoning=pytest.importorskip("openai.types").Reasoning(effort="high")
    )


def test_objects_of_anthropic() -> None:
    """Blocks of an answer are sent back in the next conversation."""
    types = pytest.importorskip("anthropic.types")
    text = types.TextBlock(type="text", text="Hi", citations=None)
    used = types.ToolUseBlock(type="tool_use", id="toolu_1", name="get", input={"a": 1})
    thought = types.ThinkingBlock(type="thinking", thinking="Hm.", signature="c2ln")

    assert set() == words(messages=[{"role": "assistant", "content": [text, thought]}])
    assert {"tools"} == words(messages=[{"role": "assistant", "content": [text, used]}])


def test_params_of_anthropic() -> None:
    """Its parameters are dicts with types."""
    types = pytest.importorskip("anthropic.types")
    image = types.ImageBlockParam(
        type="image", source={"type": "base64", "media_type": "image/png", "data": "iVBO"}
    )
    document = types.DocumentBlockParam(
        type="document", source={"type": "url", "url": "https://example.com/a.pdf"}
    )

    assert {"vision", "documents"} == words(
        messages=[{"role": "user", "content": [image, document]}]
    )


def test_objects_of_google() -> None:
    """Contents, parts, uploaded files and the config."""
    types = pytest.importorskip("google.genai.types")
    read = needs.from_messages("contents")
    image = types.Part.from_bytes(data=b"\x89PNG", mime_type="image/png")
    sound = types.Part.from_uri(file_uri="gs://a/b.mp3", mime_type="audio/mpeg")
    called = types.Part.from_function_call(name="get", args={})
    answered = types.Part.from_function_response(name="get", response={"a": 1})
    uploaded = types.File(uri="https://example.com/files/1", mime_type="application/pdf")

    assert set() == read(contents=types.Content(role="user", parts=[types.Part(text="Hi")]))
    assert {"vision", "audio"} == read(contents=["Hi", image, sound])
    assert {"tools"} == read(contents=[types.Content(role="model", parts=[called])])
    assert {"tools"} == read(contents=[types.Content(role="user", parts=[answered])])
    assert {"documents"} == read(contents=["Sum up", uploaded])


def test_the_config_of_google() -> None:
    """As the object that it is mostly written as."""
    types = pytest.importorskip("google.genai.types")
    full = types.GenerateContentConfig(
        tools=[types.Tool(google_search=types.GoogleSearch())],
        response_schema={"type": "OBJECT"},
        thinking_config=types.ThinkingConfig(thinking_budget=1024),
        system_instruction=types.Content(
            parts=[types.Part.from_bytes(data=b"%PDF", mime_type="application/pdf")]
        ),
    )
    off = types.GenerateContentConfig(
        temperature=0.0, thinking_config=types.ThinkingConfig(thinking_budget=0)
    )

    assert {"tools", "json_schema", "thinking", "documents"} == words(config=full)
    assert set() == words(config=off)


def test_pictures_of_pillow() -> None:
    """google-genai takes them in a list of contents."""
    picture = type("PngImageFile", (), {"__module__": "PIL.PngImagePlugin"})()

    assert {"vision"} == needs.from_messages("contents")(contents=["What is this?", picture])


def test_objects_of_other_classes() -> None:
    """A message needs only look like one."""
    message = SimpleNamespace(role="user", content=[{"type": "image", "source": {}}])

    assert {"vision"} == words(messages=[message])


def test_a_document_of_langchain_is_a_text() -> None:
    """Its type is written in capitals, and nothing needs to read a file."""

    class Document:
        def __init__(self) -> None:
            self.type, self.page_content, self.content = "Document", "Hi", "Hi"

    assert set() == words(messages=[Document()])


@pytest.mark.parametrize(
    "field",
    [
        {"parts": [{"function_response": {"name": "f", "response": {"rows": [{"a": 1}] * 9_999}}}]},
        {"content": [{"type": "tool_use", "input": {"rows": [{"a": [1]}] * 9_999}}]},
        {"content": [{"type": "tool_use", "input": {str(n): n for n in range(99_999)}}]},
        {"content": [{"type": "tool_result", "content": [{"type": "text", "text": "a"}] * 9_999}]},
    ],
    ids=["response", "input", "fields", "result"],
)
def test_nothing_large_hides_a_picture(field: dict[str, Any]) -> None:
    """Before it or after it."""
    large = {"role": "user", **field}

    assert {"tools", "vision"} == words(messages=[*CAT, large]) == words(messages=[large, *CAT])


def test_a_picture_in_a_long_history_is_found() -> None:
    """And so is the use of a tool."""
    chat = [{"role": "user", "content": "Hi"}, *user({"type": "text", "text": "Hi"})] * 50_000

    assert {"vision", "tools"} == words(messages=[*CAT, {"role": "tool"}, *chat])


# --- where the conversation is --------------------------------------------------------------------


CAT = user({"type": "image_url", "image_url": {"url": PNG}})


def is_seen(ask: Any, *args: Any, **kwargs: Any) -> bool:
    """Return whether a call goes past the target that sees nothing."""
    return ask(*args, **kwargs) == OPENAI


CHAIN = [Target(GROQ, supports=()), Target(OPENAI)]


def test_the_argument_is_found_by_name_or_position() -> None:
    """Whatever the caller does."""

    @failover(CHAIN, needs=needs.from_messages())
    def ask(target: Target, user: str, messages: list[Any], *, top: int = 1) -> str:
        return target.key

    assert is_seen(ask, "me", CAT)
    assert is_seen(ask, "me", messages=CAT)
    assert is_seen(ask, messages=CAT, user="me")
    assert not is_seen(ask, "me", [])


def test_the_argument_of_a_method() -> None:
    """`self` shifts the positions, and is not read."""

    class Client:
        content = CAT

        def __init__(self) -> None:
            self.content = CAT

        @failover(CHAIN, needs=needs.from_messages())
        def ask(self, target: Target, messages: list[Any]) -> str:
            return target.key

    assert is_seen(Client().ask, CAT)
    assert not is_seen(Client().ask, [])


def test_the_argument_of_a_function_that_is_given_its_target_by_name() -> None:
    """`target=` is no argument, pinned or not."""

    @failover(CHAIN, needs=needs.from_messages())
    def ask(messages: list[Any], *, target: Target | None = None) -> str:
        assert target is not None
        return target.key

    assert is_seen(ask, CAT)
    assert not is_seen(ask, [], target=None)


def test_the_argument_has_another_name() -> None:
    """The policy says which."""

    @failover(CHAIN, needs=needs.from_messages("contents"))
    def ask(target: Target, messages: list[Any], contents: list[Any]) -> str:
        return target.key

    assert is_seen(ask, [], CAT)
    assert not is_seen(ask, CAT, [])


def test_the_options_may_be_passed_by_position() -> None:
    """They are found by the names of the parameters, too."""

    @failover(CHAIN, needs=needs.from_messages())
    def ask(target: Target, messages: list[Any], tools: list[Any] | None = None) -> str:
        return target.key

    assert is_seen(ask, [], [TOOL])
    assert not is_seen(ask, [], [])


def test_policy_call_finds_the_argument() -> None:
    """By the signature of the function that is called."""

    def ask(target: Target, prompt: str, messages: list[Any]) -> str:
        return target.key

    policy = failover(CHAIN, needs=needs.from_messages())

    assert is_seen(policy.call, ask, "Hi", CAT)
    assert is_seen(policy.call, ask, "Hi", messages=CAT)


@pytest.mark.parametrize("arguments", [(CAT,), ("Hi", CAT), ("Hi", *CAT)])
def test_without_names_the_first_list_or_message_is_the_conversation(arguments: Any) -> None:
    """A function of `*args` has no names, and neither has one that calls the reader by itself."""

    @failover(CHAIN, needs=needs.from_messages())
    def ask(target: Target, *args: Any) -> str:
        return target.key

    assert is_seen(ask, *arguments)
    assert {"vision"} == words(*arguments)


def test_an_argument_that_is_not_there_needs_nothing() -> None:
    """The options are still read."""

    @failover(CHAIN, needs=needs.from_messages())
    def ask(target: Target, prompt: Any, **options: Any) -> str:
        return target.key

    assert not is_seen(ask, CAT)
    assert is_seen(ask, "Hi", tools=[TOOL])


def test_an_argument_that_is_not_taken_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Once for each function, by the names of its parameters: a typo would go unseen otherwise."""
    policy = failover(CHAIN, needs=needs.from_messages("message"))

    @policy
    def ask(target: Target, messages: list[Any], top: int = 1) -> str:
        return target.key

    @policy
    def chat(target: Target, message: list[Any]) -> str:
        return target.key

    with caplog.at_level(logging.WARNING, "resilient_llm"):
        assert [GROQ, GROQ, OPENAI] == [ask(CAT), ask(CAT), chat(CAT)]

    [line] = [each.getMessage() for each in caplog.records]
    assert "ask reads the argument 'message', which is not among messages, top" in line


def test_a_request_in_one_argument() -> None:
    """A dict that holds conversation and tools is read as both."""
    read = needs.from_messages("request")

    assert {"vision", "tools"} == read(request={"messages": CAT, "tools": [TOOL]})
    assert set() == read(request={"messages": [], "tools": []})


# --- the reader itself ----------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["", "two words", 3, None, "a.b"])
def test_what_is_no_name_is_refused(argument: Any) -> None:
    """Where it is written."""
    with pytest.raises(ConfigurationError, match="'messages'"):
        needs.from_messages(argument)


def test_the_reader_is_sent_to_other_processes() -> None:
    """A policy is pickled with it, and the pickle names no private class."""
    sent = pickle.dumps(needs.from_messages("input"))

    assert {"vision"} == pickle.loads(sent)(input=CAT)
    assert b"FromMessages" not in sent
    assert "from_messages('input')" == repr(pickle.loads(sent))


def test_a_function_of_your_own_may_ask_the_reader() -> None:
    """For instance to add a word."""

    def mine(messages: list[Any]) -> set[str]:
        return {"eu", *words(messages=messages)}

    @failover([Target(GROQ, supports=("eu",)), OPENAI], needs=mine)
    def ask(target: Target, messages: list[Any]) -> str:
        return target.key

    assert [GROQ, OPENAI] == [ask([]), ask(CAT)]
