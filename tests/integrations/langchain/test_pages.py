"""The code of the two pages, as a reader pastes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.pages import ROOT, run, script

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["langchain", "langgraph"])
def test_the_code_of_a_page_runs(name: str, tmp_path: Path) -> None:
    """The visible blocks run one after another, with the real library, and show an answer."""
    pytest.importorskip("langchain_groq")
    page = ROOT / "docs" / "how-to" / f"{name}.md"
    copy = tmp_path / f"page_{name}.py"
    copy.write_text(script(page.read_text(encoding="utf-8")), encoding="utf-8")

    done = run(copy)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "openai: because of Rayleigh scattering" in done.stdout


def test_the_page_names_the_supported_versions() -> None:
    """The versions on the page are those of the table in the code."""
    from resilient_llm.integrations import SUPPORTED

    versions = SUPPORTED["langchain"]["langchain-core"]
    page = (ROOT / "docs" / "how-to" / "langchain.md").read_text(encoding="utf-8")

    assert f"langchain-core {versions.oldest} to {versions.newest}" in page
