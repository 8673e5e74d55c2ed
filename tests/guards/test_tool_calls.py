"""How often a conversation repeats its last tool call, in the formats of the SDKs."""

from __future__ import annotations

import gc
import itertools
import json
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm._core import equal_arguments
from resilient_llm._core.tool_calls import MOST, last_row

HI = {"role": "user", "content": "Hi"}
ARGUMENTS: dict[str, Any] = {"city": "Paris", "days": [1, 2]}
TEXT = json.dumps(ARGUMENTS)


def in_chat(name: str, arguments: Any) -> list[Any]:
    """Return a tool call of the chat format, with its result."""
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]


def in_older_chat(name: str, arguments: Any) -> list[Any]:
    call = {"name": name, "arguments": arguments}
    return [
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": name, "content": "rain"},
    ]


def in_responses(name: str, arguments: Any) -> list[Any]:
    return [
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "1", "name": name, "arguments": arguments},
        {"type": "function_call_output", "call_id": "1", "output": "rain"},
    ]


def in_anthropic(name: str, arguments: Any) -> list[Any]:
    block = {"type": "tool_use", "id": "toolu_1", "name": name, "input": arguments}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text"}]}
    return [
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, block]},
        {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
    ]


def in_gemini(name: str, arguments: Any) -> list[Any]:
    return [
        {"role": "model", "parts": [{"function_call": {"name": name, "args": arguments}}]},
        {"role": "user", "parts": [{"function_response": {"name": name, "response": {}}}]},
    ]


def in_gemini_of_javascript(name: str, arguments: Any) -> list[Any]:
    return [
        {"role": "model", "parts": [{"functionCall": {"name": name, "args": arguments}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": name, "response": {}}}]},
    ]


def as_objects_of_openai_chat(name: str, arguments: Any) -> list[Any]:
    chat = pytest.importorskip("openai.types.chat")
    return [
        chat.ChatCompletionMessage.model_validate(message)
        if message["role"] == "assistant"
        else message
        for message in in_chat(name, arguments)
    ]


def as_objects_of_openai_responses(name: str, arguments: Any) -> list[Any]:
    responses = pytest.importorskip("openai.types.responses")
    thought, call, result = in_responses(name, arguments)
    return [
        responses.ResponseReasoningItem.model_validate(thought),
        responses.ResponseFunctionToolCall.model_validate(call),
        result,
    ]


def as_objects_of_anthropic(name: str, arguments: Any) -> list[Any]:
    types = pytest.importorskip("anthropic.types")
    asked, result = in_anthropic(name, arguments)
    content = [
        types.TextBlock(type="text", text="I look."),
        types.ToolUseBlock.model_validate(asked["content"][1]),
    ]
    return [{"role": "assistant", "content": content}, result]


def as_message_of_anthropic(name: str, arguments: Any) -> list[Any]:
    types = pytest.importorskip("anthropic.types")
    asked, result = in_anthropic(name, arguments)
    usage = types.Usage(input_tokens=1, output_tokens=1)
    return [
        types.Message.model_validate(
            {**asked, "id": "1", "type": "message", "model": "claude", "usage": usage}
            | {"stop_reason": "tool_use", "stop_sequence": None}
        ),
        result,
    ]


def as_objects_of_gemini(name: str, arguments: Any) -> list[Any]:
    types = pytest.importorskip("google.genai.types")
    part = types.Part(function_call=types.FunctionCall(name=name, args=arguments))
    return [
        types.Content(role="model", parts=[types.Part(text="I look."), part]),
        types.Content(
            role="user", parts=[types.Part.from_function_response(name=name, response={"a": 1})]
        ),
    ]


FORMATS = {
    each.__name__: (each, as_text)
    for each, as_text in [
        (in_chat, True),
        (in_older_chat, True),
        (in_responses, True),
        (in_anthropic, False),
        (in_gemini, False),
        (in_gemini_of_javascript, False),
        (as_objects_of_openai_chat, True),
        (as_objects_of_openai_responses, True),
        (as_objects_of_anthropic, False),
        (as_message_of_anthropic, False),
        (as_objects_of_gemini, False),
    ]
}
in_each_format = pytest.mark.parametrize("form", FORMATS)


def called(form: str, name: str = "weather", **arguments: Any) -> list[Any]:
    """Return a tool call of a format with what stands around it."""
    make, as_text = FORMATS[form]
    return make(name, json.dumps(arguments) if as_text else arguments)


# --- formats --------------------------------------------------------------------------------------


@in_each_format
def test_equal_calls_in_a_row_are_counted(form: str) -> None:
    """Whatever stands between them, from the end of the conversation."""
    conversation = [HI]
    for number in range(4):
        conversation += called(form, city="Paris", days=[1, {"a": None, "b": True}])
        conversation.append({"role": "user", "content": f"word {number}"})

    assert ("weather", 4) == last_row(conversation)
    assert ("weather", 4) == last_row(tuple(conversation))
    assert ("weather", 4) == last_row(deque(conversation))


@in_each_format
def test_a_call_with_another_name_or_other_arguments_ends_the_row(form: str) -> None:
    """Only the row at the end counts."""
    paris, rome = called(form, city="Paris"), called(form, city="Rome")
    news = called(form, "news", city="Paris")

    assert ("weather", 2) == last_row([*paris * 3, *rome, *paris * 2])
    assert ("weather", 1) == last_row([*paris * 3, *news, *paris])
    assert ("news", 1) == last_row([*paris * 3, *news])


@in_each_format
def test_the_order_of_keys_does_not_count(form: str) -> None:
    """At every depth; that of a list does."""
    one, other = {"a": 1, "b": {"c": [1, 2], "d": "e"}}, {"b": {"d": "e", "c": [1, 2]}, "a": 1}

    assert ("weather", 2) == last_row([*called(form, **one), *called(form, **other)])
    other["b"]["c"] = [2, 1]  # type: ignore[index]  # it is a dict
    assert ("weather", 1) == last_row([*called(form, **one), *called(form, **other)])


def test_formats_may_be_mixed() -> None:
    """A conversation that moves between providers has one row."""
    conversation: list[Any] = []
    for form in FORMATS:
        conversation += called(form, **ARGUMENTS)

    assert ("weather", len(FORMATS)) == last_row(conversation)


def test_parallel_calls_count_one_by_one() -> None:
    """In their order: those of one message are calls like others."""
    call = in_chat("weather", TEXT)[0]["tool_calls"][0]
    other = in_chat("news", TEXT)[0]["tool_calls"][0]

    def message(*calls: Any) -> Any:
        return {"role": "assistant", "tool_calls": list(calls)}

    assert ("weather", 3) == last_row([message(call, call, call)])
    assert ("weather", 2) == last_row([message(call, other, call), message(call)])
    assert ("news", 1) == last_row([message(call, other)])


def test_ids_do_not_count() -> None:
    """Neither those of calls nor of messages."""
    one, other = in_responses("f", "{}"), in_responses("f", "{}")
    one[1]["id"], one[1]["call_id"], one[1]["status"] = "fc_1", "call_9", "completed"

    assert ("f", 2) == last_row([*one, *other])


def test_a_call_that_a_framework_repeats_in_the_content_counts_once() -> None:
    """LangChain has the calls of anthropic in both places."""
    message = in_anthropic("weather", ARGUMENTS)[0]
    message["tool_calls"] = [{"name": "weather", "args": ARGUMENTS, "id": "1", "type": "tool_call"}]

    assert ("weather", 2) == last_row([message, message])


@pytest.mark.parametrize(
    "call",
    [
        {"role": "assistant", "tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "x = 1"}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "assistant", "tool_calls": [{"name": "f", "args": {"a": 1}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": None}}]},
        {"type": "custom_tool_call", "name": "f", "input": "x = 1"},
        {"type": "mcp_call", "name": "f", "arguments": "{}", "server_label": "s"},
        {"role": "assistant", "content": [{"type": "server_tool_use", "name": "f", "input": {}}]},
        {"role": "assistant", "content": [{"type": "mcp_tool_use", "name": "f", "input": {}}]},
        {"role": "model", "parts": [{"function_call": {"name": "f"}}]},
        {"role": "model", "parts": [{"function_call": {"name": "f", "args": None}}]},
        {"parts": [{"functionCall": {"name": "f"}}]},
        [{"function_call": {"name": "f", "args": {}}}],
        {"function_call": {"name": "f", "args": {}}},
        SimpleNamespace(role="assistant", tool_calls=[SimpleNamespace(function=SimpleNamespace(name="f", arguments="{}"))]),
    ],
)  # fmt: skip
def test_other_shapes_of_a_call(call: Any) -> None:
    """As the SDKs and others that speak like them have it; a message may be a conversation."""
    assert ("f", 1) == last_row(call)
    assert ("f", 3) == last_row([call, HI, call, "text", call])


@pytest.mark.parametrize("conversation", [None, "Hi", b"Hi", 3, [], {}, [HI], "", [[], HI], [[[]]]])
def test_a_conversation_without_tool_calls(conversation: Any) -> None:
    """Nothing is found."""
    assert last_row(conversation) is None


def test_what_a_tool_returns_is_not_read() -> None:
    """A result may be a conversation in itself."""
    call = in_chat("f", "{}")
    inner = [in_anthropic("g", {})[0]["content"][1]] * 3

    assert ("f", 2) == last_row(
        [
            *call,
            {"type": "function_call_output", "output": inner},
            {"role": "user", "content": [{"type": "tool_result", "content": inner}]},
            {"role": "user", "content": [{"type": "web_search_tool_result", "content": inner}]},
            *call,
        ]
    )


# --- what cannot be read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unreadable",
    [
        object(),
        None,
        3,
        b"bytes",
        {"role": "assistant", "tool_calls": "none"},
        {"role": "assistant", "tool_calls": [object()]},
        {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": 3, "arguments": "{}"}}]},
        {"role": "assistant", "content": [{"type": "tool_use", "name": "f"}]},
        {"role": "assistant", "content": [object()]},
        {"parts": [{"function_call": {"args": {}}}]},
        {"parts": [{"function_call": {"name": "f", "partial_args": [{"json_path": "$.a"}]}}]},
        {"parts": [{"tool_call": {"tool_type": "GOOGLE_SEARCH_WEB", "args": {}}}]},
        {"parts": [{"executable_code": {"code": "1", "language": "PYTHON"}}]},
        {"type": "web_search_call", "id": "1", "action": {"type": "search", "query": "x"}},
        {"type": "computer_call", "call_id": "1", "action": {"type": "screenshot"}},
        {"type": "item_reference", "id": "1"},
        {"type": "compaction", "encrypted_content": "x"},
        [[[[[[[[[HI]]]]]]]]],
        (each for each in [HI]),
        {"a", "b"},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_read_ends_the_row(unreadable: Any) -> None:
    """It may be another tool call, or hide one."""
    call = in_chat("f", "{}")

    assert ("f", 2) == last_row([*call * 3, unreadable, *call * 2])
    assert last_row([*call * 3, unreadable]) is None


@pytest.mark.parametrize(
    "arguments",
    [object(), {1: 2}, {"a": object()}, {"a": {1, 2}}, {"a": b"b"}, [{"a": 1j}]],
    ids=["object", "key", "value", "set", "bytes", "complex"],
)
def test_arguments_that_are_not_json_are_not_compared(arguments: Any) -> None:
    """Not even with themselves."""
    assert last_row(in_anthropic("f", arguments) * 3) is None
    assert ("f", 1) == last_row(in_anthropic("f", arguments) + in_anthropic("f", {}))


# --- equal arguments ------------------------------------------------------------------------------


def is_equal(one: Any, other: Any) -> bool:
    return last_row([*in_chat("f", one), *in_chat("f", other)]) == ("f", 2)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1}', '{ "a" : 1 }'),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}'),
        ('{"a": "\\u00e9"}', '{"a": "é"}'),
        ('{"a": 1.0}', '{"a": 1}'),
        ('{"a": 1e2}', '{"a": 100}'),
        ('{"a": 1}', {"a": 1}),
        ("not JSON", "not JSON"),
        ('{"a": NaN}', '{"a": NaN}'),
        ('{"a": 1, "a": 2}', '{"a": 1, "a": 2}'),
        ("", ""),
        ("x" * 100_000, "x" * 100_000),
        ("[" * 50_000, "[" * 50_000),
        ("[" * 500 + "]" * 500, "[" * 500 + "]" * 500),
        ("\ud800", "\ud800"),
        ("9" * 5_000, "9" * 5_000),
        ({"a": (1, 2)}, {"a": [1, 2]}),
        ({"a": float("nan")}, {"a": float("nan")}),
        ({"a": StrEnum("E", {"A": "x"}).A}, {"a": "x"}),
    ],
    ids=lambda _: "",
)
def test_equal_arguments(one: Any, other: Any) -> None:
    """As JSON, else as text."""
    assert is_equal(one, other)
    assert is_equal(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1}', '{"a": 2}'),
        ('{"a": 1}', '{"a": true}'),
        ('{"a": 0}', '{"a": false}'),
        ('{"a": 0}', '{"a": null}'),
        ('{"a": 1}', '{"a": "1"}'),
        ('{"a": null}', "{}"),
        ('{"a": []}', '{"a": {}}'),
        ('{"a": NaN}', '{"a":  NaN}'),
        ('{"a": Infinity}', '{"a":  Infinity}'),
        ('{"a": 1e999}', '{"a": 1e998}'),
        ('{"a": 1, "a": 2}', '{"a": 2}'),
        ("not JSON", "not  JSON"),
        ("", "{}"),
        ('{"a": 1}', '{"a": 1} '  + "x"),
        ({"a": True}, {"a": 1}),
        ({"a": float("nan")}, {"a": 0.0}),
        ({"a": "true"}, {"a": True}),
    ],
    ids=lambda _: "",
)  # fmt: skip
def test_other_arguments(one: Any, other: Any) -> None:
    """What Python takes for equal may be something else in JSON."""
    assert not is_equal(one, other)
    assert not is_equal(other, one)


@pytest.mark.parametrize("letter", ["x", "é", "€"])
def test_a_text_above_64_kib_is_compared_as_text(letter: str) -> None:
    """The limit is of bytes in UTF-8."""
    room = 64 * 1024 - len('{"b":2,"a":""}')
    count, rest = divmod(room, len(letter.encode()))

    def texts(extra: int) -> tuple[str, str]:
        long = letter * count + "y" * (rest + extra)
        return f'{{"a":"{long}","b":2}}', f'{{"b":2,"a":"{long}"}}'

    assert len(texts(0)[0].encode()) == equal_arguments.LONGEST_JSON
    assert is_equal(*texts(0))
    assert not is_equal(*texts(1))
    assert is_equal(texts(1)[0], texts(1)[0])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def turned(value: Any) -> Any:
    """Return a value with its keys in reverse order."""
    if isinstance(value, dict):
        return {key: turned(each) for key, each in reversed(value.items())}
    return [turned(each) for each in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(), JSON, max_size=4), st.dictionaries(st.text(), JSON, max_size=4))
def test_arguments_are_equal_as_their_json_is(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Whichever of the two forms they have."""

    def sorted_json(value: Any) -> str:
        return json.dumps(whole(value), sort_keys=True)

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: whole(each) for key, each in value.items()}
        if isinstance(value, list):
            return [whole(each) for each in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    expected = sorted_json(one) == sorted_json(other)
    for made in itertools.product((lambda value: value, json.dumps), repeat=2):
        assert is_equal(made[0](one), made[1](turned(one)))
        assert expected == is_equal(made[0](one), made[1](other))


# --- what is hostile or huge ----------------------------------------------------------------------


class OwnCode(SystemExit):
    """Code of an argument was run."""


def refuse(self: object, *_: object) -> Any:
    raise OwnCode("its own code was run")


class Hostile:
    """Raises when it is read in any way."""

    __getattribute__ = __bool__ = __len__ = __iter__ = __eq__ = __hash__ = refuse  # type: ignore[assignment]


OVERRIDDEN = dict.fromkeys(
    (
        "__getitem__", "__iter__", "__len__", "__contains__", "__bool__", "__eq__", "__reversed__",
        "__str__", "get", "items", "keys", "values", "startswith", "endswith", "pop", "encode",
    ),
    refuse,
)  # fmt: skip
HostileDict: Any
HostileDict, HostileList, HostileTuple, HostileStr = (
    type(f"Hostile{base.__name__}", (base,), {**OVERRIDDEN, "__hash__": base.__hash__})
    for base in (dict, list, tuple, str)
)
HostileInt, HostileFloat = (
    type(f"Hostile{base.__name__}", (base,), dict.fromkeys(
        ("__int__", "__index__", "__pos__", "__eq__", "__bool__", "__float__", "__str__"), refuse
    ) | {"__hash__": base.__hash__})
    for base in (int, float)
)  # fmt: skip


class Color(Enum):
    RED = "f"


class Computed:
    """Everything that is known of an object by name is computed."""

    __class__ = property(refuse)  # type: ignore[assignment]
    __dict__ = property(refuse)  # type: ignore[assignment]
    role = content = tool_calls = type = function = name = property(refuse)


class Key:
    """A key of the hash of a name; it fights once it is in its place."""

    is_hostile = False

    def __init__(self, name: str) -> None:
        self._hash = hash(name)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (Key.is_hostile and refuse(self))


@dataclass(slots=True)
class Slotted:
    role: str
    tool_calls: list[Any]


def test_subclasses_of_built_in_classes_are_read_without_their_own_code() -> None:
    """What they override is not asked."""
    s, d = HostileStr, HostileDict
    call = d(
        {
            s("name"): s("f"),
            s("arguments"): d({s("a"): HostileTuple((HostileInt(1), HostileFloat(2.0)))}),
        }
    )
    message = d(
        {s("role"): s("assistant"), s("tool_calls"): HostileList([d({s("function"): call})])}
    )
    plain = in_chat("f", '{"a": [1, 2]}')

    assert ("f", 4) == last_row(HostileList([message, *plain, message, *plain]))


PLACES: list[Callable[[Any], Any]] = [
    lambda x: x,
    lambda x: [x],
    lambda x: {"role": x, "content": "Hi"},
    lambda x: {"role": "user", "content": x},
    lambda x: {"role": "user", "content": [x]},
    lambda x: {"type": x},
    lambda x: {"parts": x},
    lambda x: {"role": "assistant", "tool_calls": x},
    lambda x: {"role": "assistant", "tool_calls": [x]},
    lambda x: {"role": "assistant", "tool_calls": [{"function": x}]},
    lambda x: {"tool_calls": [{"function": {"name": x, "arguments": "{}"}}]},
    lambda x: {"tool_calls": [{"function": {"name": "f", "arguments": x}}]},
    lambda x: {"type": "tool_use", "name": "f", "input": {"a": [x]}},
    lambda x: {"function_call": x},
    lambda x: {"function_call": {"name": "f", "args": {"a": x}}},
]
HOSTILE: dict[str, Callable[[], Any]] = {
    "object": Hostile,
    "properties": Computed,
    "enum": lambda: Color.RED,
    "dict": lambda: HostileDict(name="f", arguments="{}"),
    "list": lambda: HostileList(["x"]),
    "text": lambda: HostileStr("x"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("place", range(len(PLACES)))
def test_hostile_objects_run_no_code_of_their_own(kind: str, place: int) -> None:
    """Wherever they stand; what comes after them is read."""
    value, call = PLACES[place](HOSTILE[kind]()), in_chat("f", "{}")

    last_row(value)
    row = last_row([*call * 2, value, *call])

    assert row is not None
    assert "f" == row.tool
    assert 1 <= row.repeats <= 4


def test_hostile_keys_are_not_compared() -> None:
    """Those of messages are passed over; those of arguments make them unreadable."""
    keys = [Key(name) for name in ("tool_calls", "content", "type")]
    messages = [{**dict.fromkeys(keys), **call} for call in in_chat("f", "{}") * 2]
    arguments = {Key("a"): 1, "a": 1}
    Key.is_hostile = True
    try:
        assert ("f", 2) == last_row(messages)
        assert last_row(in_anthropic("f", arguments)) is None
    finally:
        Key.is_hostile = False


def test_objects_with_slots_are_read() -> None:
    """A dataclass has no ``__dict__`` then."""
    message = Slotted("assistant", in_chat("f", "{}")[0]["tool_calls"])

    assert ("f", 2) == last_row([message, message])


def test_an_iterator_is_not_consumed() -> None:
    """The call itself needs it."""
    messages = iter(in_chat("f", "{}"))

    assert last_row(messages) is None
    assert 2 == len(list(messages))


def test_what_contains_itself_is_read_to_an_end() -> None:
    """Messages, parts and arguments."""
    messages: list[Any] = in_chat("f", "{}")
    messages.insert(0, messages)
    message: dict[str, Any] = {"role": "user"}
    message["content"] = [message]
    arguments: dict[str, Any] = {}
    arguments["a"] = [arguments, arguments]

    row = last_row(messages)
    assert row is not None
    assert 1 <= row.repeats < 10
    assert last_row([message]) is None
    assert last_row(in_anthropic("f", arguments) * 2) is None


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = {"a": [value]}
    return value


def test_deep_arguments_are_read_as_far_as_they_are_sent() -> None:
    """Far deeper than any schema; what is deeper still is not compared."""
    assert ("f", 2) == last_row(in_anthropic("f", deep(30)) + in_anthropic("f", deep(30)))
    for levels in (33, 100_000):
        assert last_row(in_anthropic("f", deep(levels)) * 2) is None


def test_reading_ends_with_the_most_that_is_read() -> None:
    """Arguments of a million values are not compared, and all of them count together."""
    huge = {"a": [0] * MOST}
    half = {"a": [0] * (MOST // 2)}

    assert last_row(in_anthropic("f", huge) * 3) is None
    assert ("f", 2) != last_row(in_anthropic("f", half) + in_anthropic("f", {"a": list(half["a"])}))
    assert ("f", 3) == last_row(in_anthropic("f", half) * 3)  # the same object


def test_a_text_is_read_as_json_a_few_times_only() -> None:
    """A row of long texts that differ in the order of their keys ends at 4 MiB."""
    long = "x" * 60_000
    texts = [f'{{"a":"{long}","b":{{}}}}', f'{{"b":{{}},"a":"{long}"}}']

    row = last_row([each for n in range(400) for each in in_chat("f", texts[n % 2])])

    assert row is not None
    assert 60 < row.repeats < 200


@pytest.mark.parametrize("form", ["in_chat", "in_anthropic"])
def test_a_hundred_thousand_messages_are_read(form: str) -> None:
    """All of the row counts."""
    conversation = called(form, **ARGUMENTS) * 50_000

    assert ("weather", 50_000) == last_row(conversation)


def test_nothing_is_kept() -> None:
    """What was read can be collected at once."""

    class Message(dict[str, Any]):
        """It can be referred to weakly."""

    message = Message(in_anthropic("f", {"a": 1})[0])
    kept = weakref.ref(message)
    last_row([message] * 3)
    del message
    gc.collect()

    assert kept() is None


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.sampled_from(["assistant", "tool_use", "function_call", "text", "f", "{}", '{"a":1}']),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(
            "role content type parts tool_calls function name arguments args input function_call "
            "functionCall custom tool_call partial_args".split()
        ) | st.text() | st.integers(),
        inner,
        max_size=5,
    ),
    max_leaves=25,
)  # fmt: skip


@given(ANYTHING)
def test_whatever_it_is_given_it_never_raises(conversation: Any) -> None:
    """It returns None or a row."""
    row = last_row(conversation)

    assert row is None or (row.repeats >= 1 and type(row.tool) is str)
