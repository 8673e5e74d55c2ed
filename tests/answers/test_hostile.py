"""Whatever a function returned, the predicates for ``reject`` say something that a call can use."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm import ErrorKind, Verdict, answers

PREDICATES = (answers.empty, answers.filtered, answers.truncated, answers.broken, answers.unusable)

# Names and words that mean something.
FIELDS = """
    choices message delta content text type role finish_reason stop_reason stopReason
    finishReason candidates parts thought prompt_feedback promptFeedback block_reason
    blockReason usageMetadata output incomplete_details status error errors success code object
    created usage tool_calls refusal done done_reason response response_metadata
    additional_kwargs kind _output_tool_name _state message_history generated_text details data
    embeddings model ResponseMetadata generation results outputText completionReason outputs
    base_resp status_code status_msg headers messageStop contentBlockDelta throttlingException
    sequence_number completion generation_id part_kind _data __pydantic_extra__ __dict__
    """.split()
WORDS = """
    stop length content_filter SAFETY refusal max_tokens error response message
    chat.completion.chunk text tool_use thinking response.failed response.completed message_delta
    message-end failed completed assistant ai pause_turn
    <html> {} { data:{" rate_limit_exceeded
""".split()


class Hostile:
    """Raises when it is read in any way."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __len__(self) -> int:
        raise RuntimeError("len")

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("iter")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        raise RuntimeError("hash")


class HostileDict(dict[str, Any]):
    """Holds something, and raises when its own methods are asked."""

    def get(self, *args: Any) -> Any:
        raise RuntimeError("get")

    def items(self) -> Any:
        raise RuntimeError("items")

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("getitem")

    def __contains__(self, key: object) -> bool:
        raise RuntimeError("contains")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("iter")


class HostileText(str):
    """A text that raises where it can."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> str:
        raise RuntimeError("getitem")

    def isspace(self) -> bool:
        raise RuntimeError("isspace")

    def __len__(self) -> int:
        raise RuntimeError("len")


class Liar:
    """Says that it is a dict."""

    @property
    def __class__(self) -> Any:
        return dict

    @property
    def __dict__(self) -> Any:
        raise RuntimeError("dict")


class Colour(Enum):
    STOP = 1
    SAFETY = "SAFETY"


def as_object(fields: dict[Any, Any]) -> object:
    thing = SimpleNamespace()
    thing.__dict__.update({str(name): value for name, value in fields.items()})
    return thing


ODDITIES = [
    *(
        None,
        True,
        0,
        402,
        10**30,
        1e400,
        "",
        b"{",
        b"\xff",
        Colour.STOP,
        Colour.SAFETY,
        object(),
        dict,
        range(3),
    ),
    *(
        Hostile(),
        Liar(),
        HostileDict(choices=[{}]),
        HostileDict(error={"message": "?"}),
        ValueError("x"),
    ),
    *WORDS,
    *map(HostileText, WORDS),
]
# By number: hypothesis prints what it samples from, and some of these raise then.
ODD = st.integers(0, len(ODDITIES) - 1).map(lambda number: ODDITIES[number])
ANYTHING = st.recursive(
    ODD | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | (fields := st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6))
        | fields.map(HostileDict)
        | fields.map(as_object)
        | st.dictionaries(st.integers() | st.binary(max_size=3), inner, max_size=2)
    ),
    max_leaves=25,
)


@pytest.mark.slow
@given(ANYTHING)
def test_nothing_makes_a_predicate_raise(answer: object) -> None:
    """Whatever a function returned, a predicate returns False or a verdict that a call can use."""
    for predicate in PREDICATES:
        said = predicate(answer)

        assert said is False or isinstance(said, Verdict)
        assert not said or said.kind not in (
            ErrorKind.CANCELLED,
            ErrorKind.CALLER_BUG,
            ErrorKind.UNKNOWN,
        )


@given(ANYTHING)
def test_unusable_is_the_three_in_order(answer: object) -> None:
    """``unusable`` says exactly what ``any_of`` of its parts does."""
    expected = answers.any_of(answers.broken, answers.filtered, answers.empty)(answer)

    assert expected == answers.unusable(answer)
