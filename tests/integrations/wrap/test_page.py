"""The page on wrapped clients: its code as a reader sees it, and its tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from resilient_llm.integrations import SUPPORTED
from tests.integrations.wrap.providers import TEXT, AnyProvider
from tests.support.pages import ROOT, run, script

pytest.importorskip("openai")

PAGE = ROOT / "docs" / "how-to" / "wrap-a-client.md"
GROQ = "https://api.groq.com/openai/v1"


def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    """The visible code runs with the real client; the first provider answers, then the second."""
    text = PAGE.read_text(encoding="utf-8")
    assert GROQ in text
    copy = tmp_path / PAGE.name
    with AnyProvider() as groq, AnyProvider() as openai:
        groq.fails(503, 503, 503)
        copy.write_text(script(text.replace(GROQ, f"{groq.root}/v1")), encoding="utf-8")
        done = run(
            copy,
            GROQ_API_KEY="gsk-of-groq",
            OPENAI_API_KEY="sk-of-openai",
            OPENAI_BASE_URL=f"{openai.root}/v1",
        )
    assert done.returncode == 0, done.stdout + done.stderr
    answers = done.stdout.splitlines()
    assert answers[:2] == [TEXT, "gpt-5-mini"]
    assert answers[2].startswith(TEXT)
    assert {request.headers["authorization"] for request in groq.requests} == {"Bearer gsk-of-groq"}
    assert {request.headers["authorization"] for request in openai.requests} == {
        "Bearer sk-of-openai"
    }


def test_the_page_lists_the_supported_versions() -> None:
    """The table of versions is that in the code."""
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE.read_text(), re.MULTILINE)

    assert {name: (oldest, newest) for name, oldest, newest in rows} == {
        name: (versions.oldest, versions.newest) for name, versions in SUPPORTED["wrap"].items()
    }
