"""The page of the documentation runs as a reader sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT, RUNNER, python_path, script

PAGE = ROOT / "docs/how-to/litellm.md"


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    """The visible blocks run one after another, without the network."""
    copy = tmp_path / PAGE.name
    copy.write_text(script(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(copy)],
        env={**os.environ, "PYTHONPATH": python_path(), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
