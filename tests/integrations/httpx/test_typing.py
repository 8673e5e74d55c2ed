"""The typed application passes both checkers, strictly."""

from __future__ import annotations

import pytest

from tests.support.checkers import CHECKERS, Checker, finds_nothing


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_application_keeps_its_types(checker: Checker) -> None:
    """Every line that must be an error is one, and no other is."""
    finds_nothing(checker, "tests/typing/integrations/with_httpx.py")
