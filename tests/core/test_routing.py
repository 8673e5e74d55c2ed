"""What routes read of a conversation: the text of its last user message, and its share of code."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm._core.fences import code_share
from resilient_llm._core.user_text import is_readable, user_text

PNG = "data:image/png;base64,iVBORw0KGgo="


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


HI = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
IMAGE = {"type": "image_url", "image_url": {"url": PNG}}

# --- the text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [
        ("Hi", "Hi"),
        ("", ""),
        ([HI], "Hi"),
        ((HI,), "Hi"),
        (deque([HI]), "Hi"),
        (HI, "Hi"),
        ([{"role": "system", "content": "Be kind"}, HI, ANSWER], "Hi"),
        ([HI, ANSWER, {"role": "user", "content": "Bye"}], "Bye"),
        ([HI, {"role": "developer", "content": "Be kind"}], "Hi"),
        ([{"role": "user", "name": "ann", "content": "Hi"}], "Hi"),
        # openai, chat
        ([user({"type": "text", "text": "a"}, IMAGE, {"type": "text", "text": "b"})], "a\nb"),
        ([user(IMAGE)], ""),
        ([HI, user()], ""),
        ([HI, {"role": "user", "content": None}], ""),
        ([HI, {"role": "assistant", "tool_calls": []}, {"role": "tool", "content": "42"}], "Hi"),
        # openai, responses
        ([user({"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": PNG})], "a"),
        ([{"type": "message", **HI}, {"type": "function_call", "name": "get"}, {"type": "function_call_output", "output": "42"}], "Hi"),
        ([HI, {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]}], "Hi"),
        # anthropic
        ([HI, ANSWER, user({"type": "tool_result", "content": "42"})], "Hi"),
        ([HI, ANSWER, user({"type": "tool_result", "content": "42"}, {"type": "text", "text": "And?"})], "And?"),
        ([user({"type": "document", "source": {"type": "text", "data": "long"}}, {"type": "text", "text": "a"})], "a"),
        # google-genai
        ([{"role": "user", "parts": [{"text": "a"}, {"inline_data": {}}, {"text": "b"}]}], "a\nb"),
        ({"role": "user", "parts": [{"text": "a"}]}, "a"),
        ([{"parts": [{"text": "a"}]}], "a"),
        ([{"parts": [{"text": "Hm", "thought": True}, {"text": "a"}]}], "a"),
        ([{"parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}]}], "a"),
        ([{"parts": [{"text": "a"}]}, {"role": "user", "parts": [{"function_response": {"name": "get"}}]}], "a"),
        (["a", {"text": "b"}, {"uri": "files/1", "mime_type": "image/png"}], "a\nb"),
        ([HI, "a", "b"], "a\nb"),
        (["a", ANSWER, "b"], "b"),
        ([["a", "b"]], "a\nb"),
        ([{"role": "user", "parts": {"text": "a"}}], "a"),
        ({"text": "a"}, "a"),
        # none
        ([], None),
        ([ANSWER], None),
        ([{"role": "system", "content": "Hi"}], None),
    ],
)  # fmt: skip
def test_the_text_of_a_user(conversation: Any, expected: str | None) -> None:
    """The text parts of the last user message are joined, whichever client takes it."""
    assert expected == user_text(conversation)


@pytest.mark.parametrize(
    "unread",
    [object(), 7, b"Hi", {"messages": [HI]}, {"x": 1}, {"type": "item_reference", "id": "1"}],
)
def test_what_may_be_of_the_user_and_cannot_be_read(unread: Any) -> None:
    """The text is unknown, and not that of an earlier message."""
    assert user_text(unread) is None
    assert user_text([HI, unread]) is None
    assert "Bye" == user_text([unread, {"role": "user", "content": "Bye"}])


@pytest.mark.parametrize("part", [object(), 7, {"type": "text", "text": 7}])
def test_a_part_that_cannot_be_read(part: Any) -> None:
    """The text is unknown, and not that of the other parts."""
    assert user_text([user({"type": "text", "text": "a"}, part)]) is None


def test_an_iterator_is_not_read() -> None:
    """The call itself still needs what it gives."""
    messages = iter([HI])
    parts = iter([{"type": "text", "text": "a"}])

    assert user_text(messages) is None
    assert user_text([{"role": "user", "content": parts}]) is None
    assert not is_readable(messages)
    assert not is_readable([{"role": "user", "content": parts}])
    assert [HI] == list(messages)
    assert 1 == len(list(parts))


def test_messages_of_openai() -> None:
    """Objects of the SDK are read like dicts."""
    pytest.importorskip("openai")
    from openai.types.chat import ChatCompletionMessage
    from openai.types.responses import ResponseInputText, ResponseOutputMessage
    from openai.types.responses.response_input_item import Message

    text = ResponseInputText(text="a", type="input_text")
    message = Message(role="user", content=[text], type="message")
    answer = ChatCompletionMessage(role="assistant", content="b")
    output = ResponseOutputMessage.model_construct(
        id="1", role="assistant", type="message", status="completed", content=[]
    )

    assert "a" == user_text([message, output])
    assert "Hi" == user_text([HI, answer])
    assert is_readable([message, answer, output])


def test_messages_of_anthropic() -> None:
    """Objects of the SDK are read like dicts."""
    pytest.importorskip("anthropic")
    from anthropic.types import TextBlock, ToolUseBlock

    blocks = [TextBlock(text="a", type="text"), TextBlock(text="b", type="text")]
    use = ToolUseBlock(id="1", name="get", input={}, type="tool_use")
    result = {"type": "tool_result", "tool_use_id": "1", "content": "42"}
    messages = [
        {"role": "user", "content": blocks},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]

    assert "a\nb" == user_text(messages)
    assert is_readable(messages)


def test_contents_of_google() -> None:
    """Objects of the SDK are read like dicts, a part alone included."""
    pytest.importorskip("google.genai")
    from google.genai import types

    text = types.Part.from_text(text="a")
    picture = types.Part.from_bytes(data=b"\x89PNG", mime_type="image/png")
    content = types.UserContent(parts=[text, picture])
    model = types.ModelContent(parts=[types.Part.from_text(text="b")])
    response = types.Part.from_function_response(name="get", response={})
    file = types.File(uri="files/1", mime_type="image/png")

    assert "a" == user_text(text) == user_text(content) == user_text([content, model])
    assert "a\nc" == user_text([model, text, file, "c"])
    assert "a" == user_text([content, model, types.UserContent(parts=[response])])
    assert is_readable([content, model, file, "c"])


class _Hostile:
    """Runs code whatever it is asked."""

    asked: list[str]

    def __init__(self) -> None:
        object.__setattr__(self, "asked", [])

    def __getattribute__(self, name: str) -> Any:
        raise SystemError(name)

    def __eq__(self, other: object) -> bool:
        raise SystemError("eq")

    def __hash__(self) -> int:
        raise SystemError("hash")

    def __bool__(self) -> bool:
        raise SystemError("bool")

    def __iter__(self) -> Iterator[Any]:
        raise SystemError("iter")


class _HostileText(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise SystemError("str")

    def __eq__(self, other: object) -> bool:
        raise SystemError("eq")

    __hash__ = str.__hash__


@pytest.mark.parametrize(
    "place",
    [
        lambda it: it,
        lambda it: [it],
        lambda it: [{"role": it, "content": "Hi"}],
        lambda it: [{"role": "user", "content": it}],
        lambda it: [{"role": "user", "content": [it]}],
        lambda it: [{"role": "user", "content": [{"type": it, "text": it}]}],
        lambda it: SimpleNamespace(role="user", content=it),
    ],
)
def test_nothing_foreign_is_run(place: Callable[[Any], Any]) -> None:
    """Whatever an object does, the text is unknown, and nothing is raised."""
    hostile = place(_Hostile())

    assert user_text(hostile) in (None, "Hi")
    assert is_readable(hostile) in (True, False)


def test_a_subclass_of_a_text() -> None:
    """What it overrides is not run."""
    text = _HostileText("Hi")

    assert "Hi" == user_text(text) == user_text([{_HostileText("role"): "user", "content": text}])


def test_what_contains_itself() -> None:
    """It is read once."""
    parts: list[Any] = []
    parts += [parts, parts, parts]

    assert user_text(parts) is None
    assert is_readable(parts)


@given(st.lists(st.text(), min_size=1, max_size=8))
def test_texts_are_joined_by_newlines(texts: list[str]) -> None:
    """In every shape that has parts."""
    expected = "\n".join(texts)

    assert expected == user_text(
        [HI, ANSWER, user(*({"type": "text", "text": each} for each in texts))]
    )
    assert expected == user_text([ANSWER, {"parts": [{"text": each} for each in texts]}])
    assert expected == user_text([HI, ANSWER, *texts])


# --- what can be read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [
        ("Hi", True),
        ([], True),
        ([HI, ANSWER], True),
        ([user(IMAGE, "Hi")], True),
        ([{"role": "user", "content": None, "created": object()}], True),
        ([user({"type": "tool_result", "content": [IMAGE]})], True),
        (None, False),
        (object(), False),
        ([HI, object()], False),
        ([user(object())], False),
        ([user({"type": "tool_result", "content": iter([])})], False),
    ],
)
def test_what_can_be_read(conversation: Any, expected: bool) -> None:
    """A conversation can be read if all of its messages and parts can."""
    assert expected is is_readable(conversation)


def test_what_is_nested_too_deep_cannot_be_read() -> None:
    """What may be there was not looked at."""
    nested: Any = "Hi"
    for _ in range(40):
        nested = [nested]

    assert not is_readable(nested)


# --- code -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", ""),
        ("no code", ""),
        ("`inline` and ``more``", ""),
        ("```\nx\n```", "```\nx\n```"),
        ("a\n```python\nx\n```\nb", "```python\nx\n```\n"),
        ("a\n~~~\nx\n~~~", "~~~\nx\n~~~"),
        ("a\n```\nx\ny", "```\nx\ny"),
        ("a\n```", "```"),
        ("```\nx\n~~~\n```\na", "```\nx\n~~~\n```\n"),
        ("````\n```\n````\na", "````\n```\n````\n"),
        ("```\nx\n`````\na", "```\nx\n`````\n"),
        ("```\nx\n``` y\n```\na", "```\nx\n``` y\n```\n"),
        ("```\nx\n``` \t\na", "```\nx\n``` \t\n"),
        ("   ```\nx\n  ```\na", "   ```\nx\n  ```\n"),
        ("    ```\nx", ""),
        ("\t```\nx", ""),
        ("see ```\nx", ""),
        ("``` a`b\nx", ""),
        ("~~~ a`b\nx\n~~~\na", "~~~ a`b\nx\n~~~\n"),
        ("```~~~\nx\n```\na", "```~~~\nx\n```\n"),
        ("a\r\n```\r\nx\r\n```\r\nb", "```\r\nx\r\n```\r\n"),
        ("a\r```\rx\r```\rb", "```\rx\r```\r"),
        ("a\u2028```\nx", ""),
        ("```\na\n```\nb\n~~~\nc\n~~~", "```\na\n```\n~~~\nc\n~~~"),
    ],
)
def test_the_share_of_code(text: str, code: str) -> None:
    """Blocks count with their fences, as CommonMark has them."""
    assert (len(code) / len(text) if text else 0.0) == code_share(text)


def _share_by_lines(text: str) -> float:
    """Return the same, read line by line."""
    count, fence = 0, ""
    for line in re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text):
        found = re.fullmatch(r" {0,3}(`{3,}|~{3,})([^\r\n]*)[\r\n]*", line)
        if fence:
            count += len(line)
            if found and found[1].startswith(fence) and not found[2].strip(" \t"):
                fence = ""
        elif found and (found[1][0] == "~" or "`" not in found[2]):
            count += len(line)
            fence = found[1]
    return count / len(text) if text else 0.0


@given(
    st.lists(
        st.sampled_from(["`", "``", "```", "~~~", "~", " ", "\t", "x", "\n", "\r"]), max_size=60
    )
)
def test_code_is_found_like_line_by_line(pieces: list[str]) -> None:
    """The share is between 0 and 1, and that of a slower reader."""
    text = "".join(pieces)

    assert _share_by_lines(text) == code_share(text)
    assert 0.0 <= code_share(text) <= 1.0


# --- bounds ---------------------------------------------------------------------------------------


def _calls_of(work: Callable[[], object]) -> int:
    """Return how many functions some work calls, those written in C included."""
    count = 0

    def note(_: Any, event: str, __: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "text",
    [
        lambda n: "```\nx\n" * n,
        lambda n: "~~~\n```\n" * n,
        lambda n: "".join("`" * (3 + i % 50) + "\n" for i in range(n)),
        lambda n: "``` `" * n,
        lambda n: "   ```" * n,
        lambda n: "`" * 50 * n,
        lambda n: " " * 50 * n + "```",
    ],
)
def test_fences_take_linear_time(text: Callable[[int], str]) -> None:
    """Four times the fences take four times the work."""
    few, many = text(5_000), text(20_000)

    assert _calls_of(lambda: code_share(many)) <= 4.5 * _calls_of(lambda: code_share(few)) + 50


@pytest.mark.parametrize("read", [user_text, is_readable])
@pytest.mark.parametrize(
    "conversation",
    [
        lambda n: [user(*({"type": "text", "text": "x"} for _ in range(n)))],
        lambda n: [HI, *(ANSWER for _ in range(n))],
        lambda n: ["x"] * n,
        lambda n: [user({"type": "tool_result", "content": "42"})] * n,
    ],
)
def test_conversations_take_linear_time(
    conversation: Callable[[int], Any], read: Callable[[Any], object]
) -> None:
    """Four times the parts or messages take four times the work."""
    few, many = conversation(1_000), conversation(4_000)

    assert _calls_of(lambda: read(many)) <= 4.5 * _calls_of(lambda: read(few)) + 50
