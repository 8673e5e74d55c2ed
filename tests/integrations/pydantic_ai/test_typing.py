"""An application over `FailoverModel` passes the strict type checkers, and its mistakes do not."""

from __future__ import annotations

import pytest

from tests.integrations.pydantic_ai.models import IS_OLD
from tests.support.checkers import CHECKERS, Checker, finds_nothing


@pytest.mark.skipif(IS_OLD, reason="checked with the newest release")
@pytest.mark.parametrize("checker", CHECKERS)
def test_the_application_is_typed(checker: Checker) -> None:
    """Outputs keep their types, and a wrong keyword is an error, for pyright and mypy."""
    finds_nothing(checker, "tests/typing/integrations/of_pydantic_ai.py")
