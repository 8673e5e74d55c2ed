"""The page about Jupyter: its cells in a real kernel, whose event loop is running."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import GROQ, OPENAI, Providers, needs, page_text
from tests.support.pages import python_path

needs("nbclient", "nbformat", "ipykernel", "openai")

import nbformat  # noqa: E402  # it is there
from nbclient import NotebookClient  # noqa: E402
from nbclient.exceptions import CellExecutionError  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(120)]

CELL = re.compile(r"^```i?python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# An observer that belongs to no cell of the page.
WATCH = """
import json
from resilient_llm import AttemptSucceeded, AttemptFailed, AttemptCancelled, observe
seen = []
watched = observe(
    lambda event: seen.append(type(event).__name__),
    AttemptSucceeded, AttemptFailed, AttemptCancelled,
)
"""


class Notebook:
    """A notebook in a kernel of its own, run cell by cell."""

    def __init__(self, server: Providers, place: Path) -> None:
        text = page_text("jupyter").replace("https://api.groq.com/openai/v1", server.url("groq"))
        self.page = CELL.findall(text)
        self._notebook: Any = nbformat.v4.new_notebook()
        self.client = NotebookClient(
            self._notebook,
            timeout=60,
            kernel_name="python3",
            resources={"metadata": {"path": str(place)}},
        )

    def cell(self, words: str) -> str:
        """Return the one cell of the page in which these words are."""
        (found,) = [cell for cell in self.page if words in cell]
        return found

    def run(self, code: str) -> str:
        """Run a cell; return what it printed and its result."""
        cell = nbformat.v4.new_code_cell(code)
        self._notebook.cells.append(cell)
        self.client.execute_cell(cell, len(self._notebook.cells) - 1)
        outputs = cell["outputs"]
        texts = [each.get("text") or each.get("data", {}).get("text/plain", "") for each in outputs]
        return "".join(texts).strip()

    def values(self, expression: str) -> Any:
        """Return the value of an expression in the kernel."""
        return json.loads(self.run(f"print(json.dumps({expression}))"))


@pytest.fixture
def notebook(
    server: Providers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Notebook]:
    for name, value in {**server.environment, "PYTHONPATH": python_path()}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = Notebook(server, tmp_path)
    with notebook.client.setup_kernel():
        notebook.run(WATCH)
        yield notebook


def test_all_cells_of_the_page_run_in_order(notebook: Notebook) -> None:
    """Cells await the guarded function in the loop of the kernel, one call and many at once."""
    shown = [notebook.run(cell) for cell in notebook.page]

    assert f"'{GROQ}: Why is the sky blue?'" in shown
    (many,) = [each for each in shown if "squared" in each]
    assert 10 == many.count(GROQ)
    assert any(f"'{GROQ}': 'healthy'" in each for each in shown)
    assert not any("key-of" in each for each in shown)
    assert ["AttemptSucceeded"] * 11 == notebook.values("seen")


def test_a_cell_that_is_run_again_multiplies_nothing(notebook: Notebook, server: Providers) -> None:
    """After ten runs one call is one request, one event and one line of the page's observer."""
    for cell in notebook.page[:3]:
        notebook.run(cell)
    notebook.run("await ask('Hi')\nseen.clear()")  # asyncio looks up addresses in a thread
    threads = notebook.values("__import__('threading').active_count()")
    before = len(server.requests)

    for _ in range(10):
        notebook.run(notebook.cell("async def ask"))
        notebook.run(notebook.cell("stop = observe"))
    assert f"'{GROQ}: Hi'" == notebook.run("await ask('Hi')")

    assert before + 1 == len(server.requests)
    assert ["AttemptSucceeded"] == notebook.values("seen")
    assert threads == notebook.values("__import__('threading').active_count()")

    server.moods["groq"] = "limited"
    lines = notebook.run("await ask('Hi')").splitlines()  # a bench is logged as well, on stderr

    assert [1, 1] == [lines.count(line) for line in (f"{GROQ} -> {OPENAI}", f"'{OPENAI}: Hi'")]


def test_what_is_known_outlives_the_cell_that_is_run_again(
    notebook: Notebook, server: Providers
) -> None:
    """A provider that is benched is not called by the function of the second run."""
    server.moods["groq"] = "down"
    for cell in notebook.page[:3]:
        notebook.run(cell)
    notebook.run("await ask('Hi')")
    before = server.asked.count("groq")

    notebook.run(notebook.cell("async def ask"))

    assert f"'{OPENAI}: Hi'" == notebook.run("await ask('Hi')")
    assert before == server.asked.count("groq")
    assert GROQ in notebook.run(notebook.cell("list_benched()"))


PLAIN = """
from openai import OpenAI
import os


@failover(chain=["groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"])
def ask_plainly(target: Target, prompt: str) -> str:
    urls = {name: str(client.base_url) for name, client in CLIENTS.items()}
    with OpenAI(api_key="k", base_url=urls[target.provider], max_retries=0) as client:
        return client.chat.completions.create(
            model=target.model, messages=[{"role": "user", "content": prompt}]
        ).choices[0].message.content
"""


# A signal does not wake the loop of the kernel from its wait on every Python, with any awaitable.
HEARTBEAT = """
import asyncio


async def beat():
    while True:
        await asyncio.sleep(0.05)


heart = asyncio.ensure_future(beat())
"""


@pytest.mark.parametrize("call", ["await ask('Hi')", "ask_plainly('Hi')"])
def test_an_interrupt_of_the_kernel_is_a_cancellation(
    call: str, notebook: Notebook, server: Providers
) -> None:
    """The cell ends, no other target is called, no health is harmed, and the next cell works."""
    for cell in (*notebook.page[:3], PLAIN):
        notebook.run(cell)
    notebook.run(HEARTBEAT)
    kernel = notebook.values("__import__('os').getpid()")
    server.moods["groq"] = "silent"
    server.on_request = lambda _: os.kill(kernel, signal.SIGINT)

    with pytest.raises(CellExecutionError, match=r"KeyboardInterrupt|CancelledError"):
        notebook.run(call)

    assert ["groq"] == server.asked
    assert ["AttemptCancelled"] == notebook.values("seen")
    assert "healthy" == notebook.run(
        f"from resilient_llm import health\nprint(health()['{GROQ}'].status)"
    )
    server.moods.clear()
    server.on_request = lambda _: None
    assert f"'{GROQ}: Hi'" == notebook.run(call)


def test_asyncio_run_in_a_cell_fails_as_the_page_warns(notebook: Notebook) -> None:
    """The error is asyncio's own, and the function works after it."""
    for cell in notebook.page[:3]:
        notebook.run(cell)

    with pytest.raises(CellExecutionError, match="cannot be called from a running event loop"):
        notebook.run("import asyncio\nasyncio.run(ask('Hi'))")

    assert f"'{GROQ}: Hi'" == notebook.run("await ask('Hi')")
