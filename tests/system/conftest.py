"""Tests with parts of the system: they run by ``make system-tests`` and are skipped by ``make test``.

With ``RESILIENT_LLM_SYSTEM=1`` a missing part is a failure, otherwise it is named and skipped.
A module that needs other parts than the browser's names them as ``PROGRAMS`` and ``MODULES``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest

WANTED = bool(os.environ.get("RESILIENT_LLM_SYSTEM"))
PROGRAMS = {"chromium": "chromium", "chromedriver": "chromium-driver", "promtool": "prometheus"}
MODULES = ("starlette", "uvicorn", "selenium", "axe_core_python")


def missing_parts(module: object) -> list[str]:
    """Return the packages of Debian and of Python that a module of tests needs and are not there."""
    programs = getattr(module, "PROGRAMS", PROGRAMS)
    modules = getattr(module, "MODULES", MODULES)
    packages = [package for name, package in programs.items() if shutil.which(name) is None]
    return packages + [name for name in modules if importlib.util.find_spec(name) is None]


@pytest.fixture(autouse=True, scope="module")
def _parts(request: pytest.FixtureRequest) -> None:
    missing = missing_parts(request.module)
    if missing and WANTED:
        pytest.fail(f"missing: {', '.join(missing)}", pytrace=False)
    if missing:
        pytest.skip(f"system tests need {', '.join(missing)}: make system-tests")
    if not WANTED:
        pytest.skip("tests with parts of the system: make system-tests")
