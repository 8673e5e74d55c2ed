"""The README's code as one script, with the real clients against a server on loopback."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.support.chat_providers import GROQ, KEYS, Providers, provider_of
from tests.support.pages import README, ROOT, run, script

pytest.importorskip("openai")
pytest.importorskip("starlette")


@pytest.mark.parametrize(
    ("down", "answering"),
    [((), "llama-3.3-70b-versatile"), (("groq",), "gpt-5-mini")],
    ids=["all up", "groq down"],
)
def test_the_code_runs_as_one_script(down: tuple[str, ...], answering: str, tmp_path: Path) -> None:
    """All blocks run in one process, and each provider is sent its own key and no other."""
    copy = tmp_path / "readme.py"
    with Providers(*down) as server:
        text = README.read_text(encoding="utf-8")
        assert GROQ in text
        copy.write_text(script(text.replace(GROQ, server.url("groq"))), encoding="utf-8")

        done = run(
            copy,
            GROQ_API_KEY=KEYS["groq"],
            OPENAI_API_KEY=KEYS["openai"],
            ADMIN_TOKEN="a-token-of-the-admin-page",
            OPENAI_BASE_URL=server.url("openai"),
        )

    assert 0 == done.returncode, done.stdout + done.stderr
    assert f"{answering} answers" in done.stdout
    assert f"{answering} streams" in done.stdout
    assert {(provider, f"Bearer {key}") for provider, key in KEYS.items()} == {
        (provider_of(request), request.headers["authorization"]) for request in server.requests
    }


def test_the_top_screens_have_no_link_that_is_dead_elsewhere() -> None:
    """What a package index shows first, up to the streams, links to no file of the repository."""
    top, streams, _ = README.read_text(encoding="utf-8").partition("\n## Streams")

    assert streams
    assert "## When not to use it" in top
    assert [] == re.findall(r"(?<!!)\[[^]]*\]\([^)]*\)", top)


def test_the_package_index_shows_field_terms_and_no_dead_address() -> None:
    """The description has the words that people search for, and no URL is named yet."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert [] == [
        term
        for term in ("failover", "fallback", "retries", "circuit breakers", "LLM")
        if term not in project["description"]
    ]
    assert len(project["keywords"]) == len(set(project["keywords"]))
    assert {"circuit-breaker", "retry", "fallback", "llm"} <= set(project["keywords"])
    assert "urls" not in project
