"""A small application over the adapter keeps its types, by both checkers."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
APPLICATION = "tests/typing/integrations/langchain.py"


@pytest.mark.parametrize("checker", ["pyright", "mypy"])
def test_the_application_keeps_its_types(checker: str) -> None:
    """What is right has no error, and what is wrong has one."""
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    more = ["--pythonpath", sys.executable] if checker == "pyright" else []

    run = subprocess.run(
        [sys.executable, "-m", checker, *more, APPLICATION],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
