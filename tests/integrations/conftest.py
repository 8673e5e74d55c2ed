"""Which of these tests run: those that need a framework only where they were asked for by name."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NEEDS = {"starlette": "starlette", "httpx": "httpx2", "wrap": "openai"}
"""``{folder: the module without which its tests cannot run}`` of those that `make test` runs."""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the tests of a framework, which `make integrations` runs with its versions.

    They would run twice where the type checkers' copy of the framework is installed.
    """
    folder = collection_path.name
    if collection_path.parent != HERE or not collection_path.is_dir():
        return None
    if folder.startswith("__") or os.environ.get("RESILIENT_LLM_INTEGRATION") == folder:
        return None
    needed = NEEDS.get(folder)
    return None if needed is not None and find_spec(needed) is not None else True


@pytest.hookimpl(tryfirst=True)  # before those that are slow are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count these tests as slow where they were not asked for by name."""
    if "RESILIENT_LLM_INTEGRATION" not in os.environ:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker("slow")
