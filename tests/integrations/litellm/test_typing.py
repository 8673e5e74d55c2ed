"""A small application keeps its types, by both checkers."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.support.pages import ROOT

APPLICATION = "tests/typing/integrations/litellm.py"
MODULE = "resilient_llm/integrations/litellm.py"


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["pyright", "mypy"])
def test_the_application_keeps_its_types(checker: str) -> None:
    """What is right has no error, and what is wrong has one."""
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    more = ["--pythonpath", sys.executable] if checker == "pyright" else []

    done = subprocess.run(
        [sys.executable, "-m", checker, *more, APPLICATION, *([MODULE] if more else [])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
