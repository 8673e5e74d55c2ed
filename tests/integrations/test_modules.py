"""The package of the integrations: what it gives by name, and what it loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from resilient_llm import integrations
from tests.support.pages import ROOT


@pytest.mark.parametrize("name", ["httpx", "httpx2", "starlette"])
def test_a_module_is_imported_on_use(name: str) -> None:
    """An integration is an attribute of the package, without an import of its own."""
    pytest.importorskip(name)
    assert getattr(integrations, name).__name__ == f"resilient_llm.integrations.{name}"
    assert name in dir(integrations)


def test_an_unknown_name_is_an_error() -> None:
    """A misspelt integration is an AttributeError."""
    with pytest.raises(AttributeError, match="langchian"):
        integrations.langchian  # noqa: B018  # looked up


def test_the_package_loads_no_library() -> None:
    """Importing the package and the public name `wrap` loads neither an SDK nor a framework."""
    code = (
        "import sys; from resilient_llm.integrations import wrap, SUPPORTED;"
        "names = {'openai', 'httpx', 'httpx2', 'starlette', 'langchain_core', 'pydantic_ai'};"
        "sys.exit(str(names & set(sys.modules)) if names & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
