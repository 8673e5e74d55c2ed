"""Tests with parts of the system: they run by ``make system-tests`` and are skipped by ``make test``.

With ``RESILIENT_LLM_SYSTEM=1`` a missing part is a failure, otherwise it is named and skipped.
"""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest

WANTED = bool(os.environ.get("RESILIENT_LLM_SYSTEM"))
PROGRAMS = {"chromium": "chromium", "chromedriver": "chromium-driver", "promtool": "prometheus"}
MODULES = ("starlette", "uvicorn", "selenium", "axe_core_python")


def missing_parts() -> list[str]:
    """Return the packages of Debian and of Python that are not installed."""
    programs = [package for name, package in PROGRAMS.items() if shutil.which(name) is None]
    return programs + [name for name in MODULES if importlib.util.find_spec(name) is None]


@pytest.fixture(autouse=True, scope="session")
def _parts() -> None:
    missing = missing_parts()
    if missing and WANTED:
        pytest.fail(f"missing: {', '.join(missing)}", pytrace=False)
    if missing:
        pytest.skip(f"system tests need {', '.join(missing)}: make system-tests")
    if not WANTED:
        pytest.skip("system tests with Chromium: make system-tests")
