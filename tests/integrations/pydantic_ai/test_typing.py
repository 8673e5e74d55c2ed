"""An application over `FailoverModel` passes the strict type checkers, and its mistakes do not."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.integrations.pydantic_ai.models import IS_OLD
from tests.support.pages import ROOT

FILE = "tests/typing/integrations/of_pydantic_ai.py"


@pytest.mark.skipif(IS_OLD, reason="checked with the newest release")
@pytest.mark.parametrize(
    "checker", [["pyright", "--pythonpath", sys.executable], ["mypy"]], ids=lambda each: each[0]
)
def test_the_application_is_typed(checker: list[str]) -> None:
    """Outputs keep their types, and a wrong keyword is an error, for pyright and mypy."""
    if find_spec(checker[0]) is None:
        pytest.skip(f"{checker[0]} is not installed")

    found = subprocess.run(
        [sys.executable, "-m", *checker, FILE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.returncode == 0, found.stdout + found.stderr
