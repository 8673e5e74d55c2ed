"""The code of the README and of every page of the documentation is well typed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import FRAMEWORK_PAGES, PAGES, README, ROOT, python_path, script

pytest.importorskip("openai")
pytest.importorskip("anthropic")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # mypy reads the whole of both SDKs

# The README is strict. A page may leave out annotations that only take room in an example.
MYPY = """
[mypy]
strict = true
follow_imports = silent
[mypy-pages.*]
disallow_untyped_defs = false
disallow_untyped_calls = false
disallow_incomplete_defs = false
disallow_any_generics = false
warn_return_any = false
disallow_untyped_decorators = false
disallow_subclassing_any = false
[mypy-celery.*]
ignore_missing_imports = true
[mypy-django.*]
ignore_missing_imports = true
[mypy-gevent.*]
ignore_missing_imports = true
"""

# Packages that a page needs and that not every environment has.
OPTIONAL = ["prometheus_client", "celery", "django", "flask", "dramatiq", "gevent"]
OPTIONAL += ["langchain_groq", "litellm"]

# A name that is bound in `except` is bound if the example does what its page says.
PYRIGHT = '{"typeCheckingMode": "standard", "reportPossiblyUnboundVariable": false}'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give a folder with the code of each page as a module, at the page's own line numbers."""
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "__init__.py").touch()
    (tmp_path / "mypy.ini").write_text(MYPY, encoding="utf-8")
    (tmp_path / "pyrightconfig.json").write_text(PYRIGHT, encoding="utf-8")
    absent = [each for each in OPTIONAL if importlib.util.find_spec(each) is None]
    for page in PAGES:
        code = script(page.read_text(encoding="utf-8"))
        if page == README:
            (tmp_path / "readme.py").write_text(f"# pyright: strict\n{code}", encoding="utf-8")
        elif page not in FRAMEWORK_PAGES and not any(f"from {each}" in code for each in absent):
            name = page.stem.replace("-", "_")
            (tmp_path / "pages" / f"page_{name}.py").write_text(code, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [["mypy", "."], ["pyright", "--pythonpath", sys.executable]],
    ids=["mypy", "pyright"],
)
def test_the_code_of_the_pages_is_typed(command: list[str], place: Path) -> None:
    """Mypy and pyright find no error in any page, and none in their strict modes in the README."""
    pytest.importorskip(command[0])

    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=place,
        env={**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": python_path()},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
