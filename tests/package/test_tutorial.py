"""The tutorial runs as it is shown, and prints what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.chat_providers import GROQ, KEYS, Providers, provider_of
from tests.support.pages import ROOT, run, script

pytest.importorskip("openai")

TUTORIAL = ROOT / "docs" / "tutorial.md"
SHOWN = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REAL = "## Use your real client"

# What is another number in each run: the end of a cooldown with its jitter.
MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\+00:00")
REMAINING = re.compile(r"(benched for|try again in) 3[0-3](\.\d)? s")


def comparable(text: str) -> list[str]:
    """Return the lines without what differs from run to run."""
    return REMAINING.sub(r"\1 … s", MOMENT.sub("…", text)).splitlines()


def test_the_tutorial_prints_what_it_shows(tmp_path: Path) -> None:
    """The shown lines are those of stdout and of the log, in this order, and there are no more."""
    text, real, _ = TUTORIAL.read_text(encoding="utf-8").partition(REAL)
    copy = tmp_path / "survive.py"
    copy.write_text(script(text), encoding="utf-8")

    done = run(copy)

    shown = [line for block in SHOWN.findall(text) for line in comparable(block)]
    logged = [line for line in shown if re.match(r"[A-Z][a-z]+[A-Z]\w+ \S+ \w+=", line)]
    assert real
    assert 0 == done.returncode, done.stderr
    assert comparable(done.stdout) == [line for line in shown if line not in logged]
    assert comparable(done.stderr) == logged
    assert 4 == len(logged)


@pytest.mark.parametrize(
    ("refusing", "answering"),
    [((), "llama-3.3-70b-versatile"), (("groq",), "gpt-5-mini")],
    ids=["all up", "wrong key"],
)
def test_the_last_step_works_with_the_real_client(
    refusing: tuple[str, ...], answering: str, tmp_path: Path
) -> None:
    """The file of the last step runs alone; with a wrong key the other provider answers."""
    _, _, text = TUTORIAL.read_text(encoding="utf-8").partition(REAL)
    copy = tmp_path / "real.py"
    with Providers(refusing=refusing) as server:
        assert GROQ in text
        copy.write_text(script(text.replace(GROQ, server.url("groq"))), encoding="utf-8")

        done = run(
            copy,
            GROQ_API_KEY=KEYS["groq"],
            OPENAI_API_KEY=KEYS["openai"],
            OPENAI_BASE_URL=server.url("openai"),
        )

    assert 0 == done.returncode, done.stderr
    assert f"{answering} answers\n" == done.stdout
    asked = ["groq", "openai"] if refusing else ["groq"]
    assert asked == [provider_of(request) for request in server.requests]
    assert bool(refusing) == ("reason=invalid_credentials" in done.stderr)
