"""A small application over the adapter keeps its types, by both checkers."""

from __future__ import annotations

import pytest

from tests.support.checkers import CHECKERS, Checker, finds_nothing


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_application_keeps_its_types(checker: Checker) -> None:
    """What is right has no error, and what is wrong has one."""
    finds_nothing(checker, "tests/typing/integrations/langchain.py")
