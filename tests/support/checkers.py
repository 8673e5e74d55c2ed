"""Type checkers of Python, run over the applications in ``tests/typing``."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import Literal, get_args

import pytest

from tests.support.pages import ROOT

Checker = Literal["pyright", "mypy"]
CHECKERS: tuple[Checker, ...] = get_args(Checker)


def finds_nothing(checker: Checker, *files: str) -> None:
    """Check that a type checker accepts files, with this interpreter's packages.

    Skips the test if the checker is not installed.

    Args:
        checker: Its name as a module.
        *files: Relative to the root of the repository.
    """
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    options = ["--pythonpath", sys.executable] if checker == "pyright" else []
    done = subprocess.run(
        [sys.executable, "-m", checker, *options, *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
