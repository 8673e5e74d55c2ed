"""Which of these tests run: those whose library is there, and those that were asked for by name."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

NEEDS = {
    "langchain": "langchain_core",
    "pydantic_ai": "pydantic_ai",
    "litellm": "litellm",
    "starlette": "starlette",
    "httpx": "httpx2",
    "wrap": "openai",
    "instructor": "instructor",
    "openai_agents": "agents",
    "llama_index": "llama_index.llms.openai",
    "langchain_wrapped": "langchain_openai",
    "semantic_kernel": "semantic_kernel",
    "haystack": "haystack",
    "dspy": "dspy",
}
"""``{folder: the module without which its tests cannot run}``"""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the tests of a library that is not there, unless they were asked for by name."""
    needed = NEEDS.get(collection_path.name)
    if needed is None or os.environ.get("RESILIENT_LLM_INTEGRATION") == collection_path.name:
        return None
    return None if _is_there(needed) else True


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False
