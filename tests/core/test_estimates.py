"""The estimate of an answer's length: what the call names, times its answers, else the target's."""

from types import SimpleNamespace
from typing import Any

import pytest

from resilient_llm._core.spending.estimates import longest_answer, unread_limit


@pytest.mark.parametrize(
    ("arguments", "max_output", "longest"),
    [
        ({}, None, None),
        ({}, 4096, 4096),
        ({"max_tokens": 100}, 4096, 100),
        ({"max_completion_tokens": 100}, None, 100),
        ({"max_output_tokens": 100}, None, 100),
        ({"max_tokens": 50, "max_completion_tokens": 100}, None, 100),
        ({"max_tokens": 100, "n": 3}, None, 300),
        ({"n": 3}, 4096, 12288),
        ({"n": 3}, None, None),
        ({"max_tokens": 100, "n": 0}, None, 100),
        ({"max_tokens": 100, "n": True}, None, 100),
        ({"max_tokens": 100, "n": "5"}, None, 100),
        ({"max_tokens": 0}, 4096, 0),
        ({"max_tokens": 0, "max_completion_tokens": 7}, None, 7),
        ({"max_tokens": 0, "n": 3}, None, 0),
        ({"config": {"max_output_tokens": 0}}, 9, 0),
        ({"max_tokens": -5}, None, None),
        ({"max_tokens": True}, None, None),
        ({"max_tokens": 10**30}, None, None),
        ({"max_tokens": None}, 7, 7),
        ({"max_tokens": 10**9, "n": 1000}, None, 10**9),
        ({"config": {"max_output_tokens": 64, "candidate_count": 2}}, None, 128),
        ({"config": SimpleNamespace(max_output_tokens=64, parts=())}, None, 64),
        ({"config": 5}, 9, 9),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_longest_answer(
    arguments: dict[str, Any], max_output: int | None, longest: int | None
) -> None:
    """Nonsense counts as absent, and without any limit the length is unknown."""
    assert longest == longest_answer(arguments.get, max_output)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({}, None),
        ({"max_tokens": 0}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_completion_tokens": True}, "max_completion_tokens"),
        ({"config": {"max_output_tokens": 2.0}}, "max_output_tokens"),
        ({"n": "5"}, None),
    ],
    ids=str,
)
def test_a_limit_that_cannot_be_read(arguments: dict[str, Any], name: str | None) -> None:
    """Its name is known, for the error."""
    assert name == unread_limit(arguments.get)
