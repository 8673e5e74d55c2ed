"""The code of the README and of the documentation: the blocks that a reader sees, as one script.

Code inside an HTML comment is not part of it, because no reader of the site sees a comment.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]

FRAMEWORK_PAGES = {
    ROOT / "docs" / "how-to" / f"{name}.md"
    for name in (
        "instructor",
        "openai-agents",
        "llama-index",
        "langchain-wrapped",
        "semantic-kernel",
        "haystack",
        "dspy",
    )
}
"""Pages whose code is run by the tests of the framework, in an environment of its own."""

BLOCK = re.compile(
    r"^(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
FILE = re.compile(r'^```\w+ title="(?P<name>[^"]+)"\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)

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


def script(page: str) -> str:
    """Return the visible blocks of a page as one script whose line numbers are those of the page."""
    page = COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), page)
    lines = [""] * (page.count("\n") + 1)
    for block in BLOCK.finditer(page):
        first = page.count("\n", 0, block.start("code"))
        indent = len(block["indent"])
        for offset, line in enumerate(block["code"].splitlines()):
            lines[first + offset] = line[indent:]
    return "\n".join(lines)


def files(page: str) -> dict[str, str]:
    """Return ``{name: content}`` of the blocks of a page that are shown as files."""
    return {each["name"]: each["text"] for each in FILE.finditer(page)}


def python_path() -> str:
    """Return the ``PYTHONPATH`` of a process that is to import the package of this checkout."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def run(
    path: Path,
    folder: Path | None = None,
    *,
    warnings: str = "error",
    timeout: float = 50.0,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a file in a process of its own, with warnings as errors and no network but loopback.

    Args:
        path: The file.
        folder: The working directory; None for that of this process.
        warnings: What is done with them, as for ``python -W``.
        timeout: Seconds that it may take.
        **environment: Variables of the environment.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.endswith(("_API_KEY", "_BASE_URL", "_proxy", "_PROXY"))
    }
    return subprocess.run(
        [sys.executable, "-W", warnings, "-c", RUNNER, str(path)],
        env={
            **inherited,
            "PYTHONPATH": python_path(),
            "PYTHONIOENCODING": "utf-8",
            **environment,
        },
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
