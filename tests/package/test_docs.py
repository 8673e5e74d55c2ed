"""Every block of Python in the README and the documentation runs, and every example does, offline."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BLOCK = re.compile(
    r"^(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)

# Runs a file by its path, without the network and without a key that happens to be there.
RUNNER = """
import runpy, socket, sys

def only_loopback(connect):
    def connect_if_near(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"offline: {address}")
        return connect(self, address)
    return connect_if_near

socket.socket.connect = only_loopback(socket.socket.connect)
socket.socket.connect_ex = only_loopback(socket.socket.connect_ex)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def _run(path: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.endswith(("_API_KEY", "_proxy", "_PROXY"))
    }
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER, str(path)],
        env={**environment, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def _script(page: str) -> str:
    """Return the page's blocks as one script whose line numbers are the page's."""
    lines = [""] * (page.count("\n") + 1)
    for block in BLOCK.finditer(page):
        first = page.count("\n", 0, block.start("code"))
        indent = len(block["indent"])
        for offset, line in enumerate(block["code"].splitlines()):
            lines[first + offset] = line[indent:]
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """The blocks of one page run one after another, as a reader would paste them."""
    text = page.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        return
    # The name shows in a traceback, with the page's own line numbers.
    script = tmp_path / page.name
    script.write_text(_script(text), encoding="utf-8")

    done = _run(script)

    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_runs(example: Path) -> None:
    """An example ends well and says something."""
    done = _run(example)

    assert 0 == done.returncode, done.stdout + done.stderr
    assert done.stdout


def test_there_are_pages_and_examples() -> None:
    """The two tests above do not pass because they found nothing."""
    assert 5 < len(PAGES)
    assert 3 <= len(EXAMPLES)


def test_every_fence_is_understood() -> None:
    """A block of Python that is written in another way would not be run."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")

        assert len(re.findall(r"```\s*(?:py|python)\b", text, re.IGNORECASE)) == len(
            BLOCK.findall(text)
        ), page
