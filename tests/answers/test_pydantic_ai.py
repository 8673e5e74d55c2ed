"""Stream events, messages and usages in the shapes of pydantic-ai."""

from __future__ import annotations

from typing import Any

import pytest

from resilient_llm._values.usage import Usage
from resilient_llm.answers._items import inspect_item, text_of
from resilient_llm.answers.usage import usage_of


def _start(**part: Any) -> dict[str, Any]:
    return {"event_kind": "part_start", "index": 0, "part": part}


def _delta(**delta: Any) -> dict[str, Any]:
    return {"event_kind": "part_delta", "index": 0, "delta": delta}


def _message(*texts: str, **more: Any) -> dict[str, Any]:
    parts = [{"part_kind": "text", "content": text} for text in texts]
    return {"kind": "response", "parts": parts, "provider_response_id": None, **more}


@pytest.mark.parametrize(
    ("item", "content", "text"),
    [
        (_start(part_kind="text", content=""), False, ""),
        (_start(part_kind="text", content="a"), True, "a"),
        (_start(part_kind="thinking", content="", signature="s"), False, ""),
        (_start(part_kind="thinking", content="a"), True, ""),
        (_start(part_kind="tool-call", tool_name="weather", args=None), True, ""),
        (_delta(part_delta_kind="text", content_delta=""), False, ""),
        (_delta(part_delta_kind="text", content_delta="a"), True, "a"),
        (_delta(part_delta_kind="thinking", content_delta=None, signature_delta="s"), False, ""),
        (_delta(part_delta_kind="tool_call", args_delta="{"), True, ""),
        ({"event_kind": "part_end", "index": 0, "part": {"content": "a"}}, False, ""),
        ({"event_kind": "final_result", "tool_name": "weather"}, False, ""),
        ({"event_kind": "of a later release"}, True, ""),
    ],
)
def test_content_of_events(item: dict[str, Any], content: bool, text: str) -> None:
    """An event is content if its part or its piece holds something to read or to call."""
    assert inspect_item(item).content is content
    assert inspect_item(item).ended is None
    assert text_of(item) == text


@pytest.mark.parametrize(
    ("item", "content", "ended", "reason"),
    [
        (_message("a", finish_reason="stop", state="complete"), True, True, None),
        (_message("", finish_reason="stop"), False, True, None),
        (_message("a"), True, None, None),
        (_message("a", state="incomplete"), True, False, None),
        (_message("a", state="interrupted"), True, True, None),
        (_message(finish_reason="content_filter"), False, True, None),
        (
            _message("a", finish_reason="error", state="incomplete"),
            True,
            True,
            "stream_interrupted",
        ),
    ],
)
def test_messages_tell_how_a_stream_ended(
    item: dict[str, Any],
    content: bool,
    ended: bool | None,
    reason: str | None,
) -> None:
    """The message after the events tells whether the stream is complete."""
    seen = inspect_item(item)

    assert (seen.content, seen.ended) == (content, ended)
    assert (None if seen.verdict is None else seen.verdict.reason) == reason
    assert text_of(item) == ""


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            {"input_tokens": 1000, "output_tokens": 500, "cache_read_tokens": 400, "details": {}},
            Usage(input=1000, output=500, cached=400),
        ),
        (
            {
                "input_tokens": 9,
                "output_tokens": 7,
                "cache_write_tokens": 4,
                "details": {"reasoning_tokens": 5},
            },
            Usage(input=9, output=7, cache_write=4, reasoning=5),
        ),
        ({"input_tokens": 0, "output_tokens": 0, "details": {}}, Usage(input=0, output=0)),
    ],
)
def test_usage(told: dict[str, Any], expected: Usage) -> None:
    """The input has what a cache held, and the output has the reasoning."""
    assert usage_of(_message("a", usage=told)) == expected
