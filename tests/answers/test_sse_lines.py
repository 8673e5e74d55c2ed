"""Raw lines of server-sent events as stream items: read where they are a provider's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from resilient_llm import (
    ErrorKind,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    failover,
    health,
)
from resilient_llm.answers._items import inspect_item, text_of
from tests.support.stream_sources import END, ROLE, says
from tests.support.stream_sources import said as chunk_with
from tests.support.ways import GROQ, OPENAI


def data(item: Any) -> str:
    return f"data: {json.dumps(item)}"


COMMENT = ": OPENROUTER PROCESSING"
DONE = "data: [DONE]"
BROKEN = data({"error": {"message": "Overloaded", "code": 502}})
ANTHROPIC = data({"type": "content_block_delta", "index": 0, "delta": {"text": "It"}})


@pytest.mark.parametrize(
    ("line", "content", "ended", "text"),
    [
        (data(ROLE), False, False, ""),
        (data(chunk_with("It")), True, False, "It"),
        (data(chunk_with("It")).encode(), True, False, "It"),
        (data(END), False, True, ""),
        (DONE, False, True, ""),
        (ANTHROPIC, True, False, "It"),
        (COMMENT, False, None, ""),
        (": ping", False, None, ""),
        (":keep-alive\n", False, None, ""),
        ("event: message_start", False, None, ""),
        ("id: 17", False, None, ""),
        ("", False, None, ""),
        (f"event: content_block_delta\n{ANTHROPIC}\n\n", True, False, "It"),
        (f"{data(chunk_with('It'))}\n\n{data(chunk_with(' is'))}\n\n", True, False, "It is"),
        (f"{data(chunk_with('It'))}\n\n{data(END)}\n\n{DONE}\n\n", True, True, "It"),
        (f"{COMMENT}\n\n", False, None, ""),
    ],
)
def test_lines_of_providers(
    line: str | bytes, content: bool, ended: bool | None, text: str
) -> None:
    """Their data is read as the chunk that an SDK makes of it."""
    info = inspect_item(line)

    assert (True, content, ended) == (info.known, info.content, info.ended)
    assert text == text_of(line)


def test_an_error_in_a_line_is_one() -> None:
    """A stream of status 200 reports it in its data."""
    verdict = inspect_item(BROKEN).verdict

    assert verdict is not None
    assert ErrorKind.TRANSIENT is verdict.kind


OWN = (
    "data: the results",
    'data: {"text": "It"}',
    'data: {"text": "It"',
    "data: [1]",
    ": yes",
    ": )",
    ": pings",
    "event: a party at nine",
    "event",
    f"{data(chunk_with('It'))}\nand more",
    'data: {"type": "token", "text": "It"}\n\n',
)


@pytest.mark.parametrize("text", OWN)
def test_texts_that_only_look_like_lines(text: str) -> None:
    """They are content, and the whole of them is the text."""
    info = inspect_item(text)

    assert (True, None, None) == (info.content, info.ended, info.verdict)
    assert text == text_of(text)


def _lines(*items: Any) -> list[str]:
    return [line for item in items for line in (data(item), "")]


@pytest.mark.parametrize("first", [[COMMENT] * 3, _lines(ROLE)], ids=["comments", "a role"])
@pytest.mark.parametrize("then", [BROKEN, ConnectionError], ids=["an error line", "an error"])
def test_lines_without_content_are_held_back(first: list[str], then: Any) -> None:
    """A stream that breaks before its first word moves on to the next target."""
    whole = [*_lines(*says("It", " is")), DONE]

    @failover([GROQ, OPENAI], attempts=1)
    def ask(target: Target) -> Iterator[str]:
        if target.key == OPENAI:
            yield from whole
            return
        yield from first
        if isinstance(then, str):
            yield then
        else:
            raise then

    assert whole == list(ask())
    assert (1, 1) == (health()[GROQ].total, health()[GROQ].errors)


@pytest.mark.parametrize("ends", [[data(END), ""], [DONE, ""], [data(END), "", DONE, ""]])
def test_lines_end_with_their_terminator(ends: list[str]) -> None:
    """With it the answer is whole, and without it cut off; the text is that of the chunks."""
    items = [*_lines(ROLE, chunk_with("It"), chunk_with(" is"))]
    whole = [True, False]

    @failover(GROQ, stream=StreamPolicy(keep_text=100))
    def ask(target: Target) -> Any:
        return iter([*items, *ends] if whole.pop(0) else items)

    assert [*items, *ends] == list(ask())
    assert 0 == health()[GROQ].errors
    with pytest.raises(StreamInterruptedError) as caught:
        list(ask())
    assert "It is" == caught.value.text_so_far
