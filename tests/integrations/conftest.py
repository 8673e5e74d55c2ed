"""Which of these tests run: those that need a framework only where they were asked for by name."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

NEEDS = {"starlette": "starlette", "httpx": "httpx2", "wrap": "openai"}
"""``{folder: the module without which its tests cannot run}`` of those that `make test` runs."""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the tests of a framework, which `make integrations` runs with its versions.

    They would run twice where the type checkers' copy of the framework is installed.
    """
    folder = collection_path.name
    if collection_path.parent != Path(__file__).parent or not collection_path.is_dir():
        return None
    if folder.startswith("__") or os.environ.get("RESILIENT_LLM_INTEGRATION") == folder:
        return None
    needed = NEEDS.get(folder)
    return None if needed is not None and find_spec(needed) is not None else True
