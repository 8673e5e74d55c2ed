"""The code of the how-to page, run as a reader sees it."""

from __future__ import annotations

from pathlib import Path

from tests.support.pages import ROOT, run, script


def test_the_page_runs(tmp_path: Path) -> None:
    """The page's blocks run as one script, with the real library and servers on loopback."""
    page = ROOT / "docs/how-to/pydantic-ai.md"
    file = tmp_path / "page.py"
    file.write_text(script(page.read_text()))

    finished = run(file)

    assert finished.returncode == 0, finished.stderr
