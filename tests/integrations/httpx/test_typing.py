"""The typed application passes both checkers, strictly."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT

APPLICATION = ROOT / "tests" / "typing" / "integrations" / "with_httpx.py"


def _program(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout + done.stderr


def test_pyright() -> None:
    """Every line that must be an error is one, and no other is."""
    _run(_program("pyright"), "--pythonpath", sys.executable, str(APPLICATION))


def test_mypy(tmp_path: Path) -> None:
    """The same for mypy."""
    _run(
        _program("mypy"), "--cache-dir", str(tmp_path), "--python-executable", sys.executable,
        str(APPLICATION),
    )  # fmt: skip
