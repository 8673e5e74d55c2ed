"""`needs.estimate_tokens()`: the default estimate of a call's input, and what it costs."""

from __future__ import annotations

import base64
import json
import pickle
import random
import textwrap
import time
import zlib
from collections import deque
from typing import Any

import pytest

from resilient_llm import Target, failover, needs
from resilient_llm._core import contents, json_size
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
        "iVBORw0KGgo" + "AQIDBA" * 1_500_000,
        {str(number): "x" for number in range(20_000)},
    ],
    ids=["text", "base64", "fields"],
)
def test_what_is_huge_takes_milliseconds(value: Any) -> None:
    """What is looked at as a whole is looked at quickly."""
    assert seconds_of(value) < 3  # measured: 0.02 at most; with a tracer 0.6


@pytest.mark.parametrize(
    "of_size",
    [
        lambda size: [{"role": "user", "content": "x" * 100}] * size,
        lambda size: ["x"] * size,
        lambda size: [7] * size,
        lambda size: user({"type": "tool_use", "input": {"list": ["x"] * size}}),
        lambda size: user({"type": "tool_use", "input": {"list": [{"a": ["x"]}] * size}}),
    ],
    ids=["messages", "letters", "numbers", "json", "objects"],
)
def test_what_is_read_is_bounded(of_size: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as much takes no longer, once there is more than is read."""
    monkeypatch.setattr(contents, "MOST", 2_000)
    monkeypatch.setattr(json_size, "MOST", 200)

    assert seconds_of(of_size(200_000)) < 4 * seconds_of(of_size(20_000))


@pytest.mark.parametrize("kind", [list, deque])
def test_the_rest_of_a_huge_conversation_counts_alike(kind: Any) -> None:
    """What is not read is taken for as large as what is."""
    messages = kind([{"role": "user", "content": "x" * 100}] * 100_000)

    assert 2_500_000 == pytest.approx(estimate(messages=messages), rel=0.01)


def test_one_huge_message_does_not_stand_for_the_others() -> None:
    """A guess needs more than a few messages to go by."""
    huge = {"type": "tool_use", "input": {"list": ["x" * 9] * 100_000}}

    assert 300_000 <= estimate(messages=[*user(TEXT) * 20, *user(huge)]) < 303_000


# --- what is large hides nothing ------------------------------------------------------------------


ROWS = [{"id": n, "name": f"n{n}", "price": 1.5, "stock": 3} for n in range(2_500)]
PARAMETERS = {
    "type": "object",
    "properties": {
        f"p{n}": {"type": "string", "description": "a parameter", "enum": ["a", "b"]}
        for n in range(10)
    },
}


def size_of(value: Any) -> int:
    """Return the characters of a value as JSON without blanks."""
    return len(json.dumps(value, separators=(",", ":")))


def answered(value: Any) -> dict[str, Any]:
    """Return a message with the result of a tool."""
    return {"role": "user", "parts": [{"function_response": {"name": "f", "response": value}}]}


@pytest.mark.parametrize(
    "value",
    [
        {"rows": ROWS},
        {f"k{n}": "v" * 100 for n in range(20_000)},
        {"rows": [[n, [n, {"a": None}], []] for n in range(10_000)]},
        {"rows": tuple(ROWS), "text": "x" * 1_000_000},
        {"1": {"a": True}, "b": list(range(100_000))},
    ],
    ids=["rows", "fields", "lists", "tuple", "numbers"],
)
def test_large_json_counts_exactly(value: Any) -> None:
    """Up to 200,000 values in a call."""
    expected = tokens_of(size_of(value))

    assert expected == estimate(messages=[answered(value)])
    assert expected == estimate(messages=user({"type": "tool_use", "input": value}))


def test_keys_that_are_no_texts_count_as_json() -> None:
    """JSON has them as texts."""
    assert tokens_of(size_of({1: "a", 22: None})) == estimate(
        messages=[answered({1: "a", 22: None})]
    )


def test_texts_beside_large_json_are_counted_whole() -> None:
    """Wherever the result of the tool is."""
    texts = [{"role": "user", "content": "x" * 400_000}] * 5
    expected = tokens_of(2_000_000 + size_of({"rows": ROWS}))

    assert expected == estimate(messages=[*texts, answered({"rows": ROWS})])
    assert expected == estimate(messages=[answered({"rows": ROWS}), *texts])
    assert expected == estimate(system="x" * 2_000_000, messages=[answered({"rows": ROWS})])


@pytest.mark.parametrize("count", [120, 1_000, 10_000])
def test_the_order_of_the_arguments_makes_no_difference(count: int) -> None:
    """Tools before messages hide none of them."""
    messages = [{"role": "user", "content": "x" * 800_000}]
    tools = [{"name": f"t{n:05}", "input_schema": PARAMETERS} for n in range(count)]
    expected = tokens_of(800_000 + count * (6 + size_of(PARAMETERS)))

    found = estimate(tools=tools, messages=messages)

    assert found == estimate(messages=messages, tools=tools)
    assert expected == pytest.approx(found, rel=0.001)


@pytest.mark.parametrize(
    "value",
    [
        {"rows": ROWS * 400},
        {"a": ROWS * 100, "b": ROWS * 100, "c": 1},
        {"a": {"few": ROWS[:20]}, "b": {"many": {"rows": ROWS * 100}}},
        {"list": ["x"] * 1_000_000},
        {"rows": [["a" * 9, "b"] if n % 2 else [] for n in range(1_000_000)]},
        {str(n): "x" * 20 for n in range(300_000)},
        {str(n): {"a": "x" * 20} for n in range(300_000)},
    ],
    ids=["rows", "two", "nested", "letters", "turns", "fields", "objects"],
)
def test_huge_json_is_estimated_from_a_sample(value: Any) -> None:
    """Taken from everywhere in it, and each part gets its share of what is read."""
    assert size_of(value) / 4 == pytest.approx(estimate(messages=[answered(value)]), rel=0.05)


def test_much_small_json_is_estimated_from_a_sample() -> None:
    """One result that is huge does not stand for the others."""
    huge, small = answered({"rows": ROWS * 40}), answered({"rows": ROWS[:2]})
    messages = [huge] + [small] * 1_000
    sizes = size_of({"rows": ROWS * 40}) + 1_000 * size_of({"rows": ROWS[:2]})

    assert sizes / 4 == pytest.approx(estimate(messages=messages), rel=0.05)
    assert estimate(messages=messages) == estimate(messages=messages[::-1])


# --- base64 ---------------------------------------------------------------------------------------

NOISE = random.Random(7).randbytes(30_000)
LINES = base64.encodebytes(NOISE).decode()
BASE64 = {
    "picture": "iVBOR" + "A" * 400_000,
    "standard": base64.b64encode(NOISE).decode(),
    "safe": base64.urlsafe_b64encode(NOISE).decode(),
    "padded": base64.b64encode(NOISE + b"a").decode(),
    "lines": LINES,
    "keys": "\r\n".join(textwrap.wrap(base64.b64encode(NOISE).decode(), 64)),
    "text": base64.b64encode("Why is the sky blue? 天が青いのはなぜ".encode() * 99).decode(),
    "zip": base64.b64encode(zlib.compress(ascii(list(range(9_999))).encode())).decode(),
}


@pytest.mark.parametrize("text", BASE64.values(), ids=BASE64)
def test_base64_is_no_text(text: str) -> None:
    """Wherever it stands it is an attachment, of what kind ever."""
    assert 804 == estimate("What is this?", image_base64=text)
    assert 800 == estimate(messages=[{"role": "user", "content": text}])
    assert 800 == estimate(messages=user({"type": "image", "source": {"data": text}}))
    assert 800 + tokens_of(size_of({"a": ""})) == estimate(messages=[answered({"a": text})])


TEXTS = {
    "english": "Why is the sky blue? " * 500,
    "german": "Warum ist der Himmel am Tag blau und am Abend rot?\n" * 200,
    "chinese": "天空为什么是蓝色的" * 500,
    "thai": "ทำไมท้องฟ้าถึงเป็นสีฟ้า" * 500,
    "letter": "a" * 400_000,
    "letters": "aA1" * 9_999,
    "hex": NOISE.hex(),
    "HEX": NOISE.hex().upper(),
    "digits": str(7**5_000),
    "dna": "GATTACA" * 999,
    "protein": "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDG" * 99,
    "identifier": "getUserNameFromDatabaseOrFail2" * 99,
    "identifiers": "\n".join(f"getUserName{n}" for n in range(999)),
    "path": "/usr/share/lib-2.1/Python3/site-packages" * 99,
    "snake": "MAX_VALUE_of_row_12_" * 99,
    "code": "function(a,b){var c=a+b;return c?A(c):B[0]}" * 99,
    "url": "https://example.com/aB3dE5fG7hI9?q=" + base64.b64encode(NOISE).decode(),
    "two": base64.b64encode(NOISE).decode() + " and more",
    "odd lines": "\n".join(textwrap.wrap(base64.b64encode(NOISE).decode(), 70)),
    "short": base64.b64encode(NOISE).decode()[:999],
    "token": "eyJhbGciOiJIUzI1NiJ9." + base64.urlsafe_b64encode(NOISE).decode() + ".c2ln",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_only_looks_like_base64_is_text(text: str) -> None:
    """Prose, digests, sequences, identifiers and code are read by the model."""
    assert tokens_of(len(text)) == estimate(text) == estimate(messages=user({"text": text}))
    assert tokens_of(len(text) + len('{"a":""}')) == estimate(messages=[answered({"a": text})])


# --- what has no end ------------------------------------------------------------------------------


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
