"""The page of the documentation runs as a reader sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pages import ROOT, run, script

PAGE = ROOT / "docs/how-to/litellm.md"


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    """The visible blocks run one after another, without the network."""
    copy = tmp_path / PAGE.name
    copy.write_text(script(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

    done = run(copy, warnings="default", timeout=100.0)  # LiteLLM warns, and is slow to import

    assert 0 == done.returncode, done.stdout + done.stderr
