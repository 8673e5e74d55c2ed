"""The fixtures that the package gives to the tests of its users."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(150)  # each runs pytest in processes of its own


def test_the_pytest_plugin_isolates_and_fakes_time(tmp_path: Path) -> None:
    """A test that asks for either fixture starts fresh; `fake_clock` moves its time."""
    passed = _run(
        tmp_path,
        """
        import pytest

        @pytest.mark.parametrize("round", [1, 2])
        def test_it(resilient_llm, fake_clock, round):
            assert resilient_llm.list_benched() == []
            resilient_llm.bench_model("groq", 10)
            fake_clock.advance(5)
            assert resilient_llm.list_benched()[0].remaining == 5.0

        @pytest.mark.parametrize("round", [1, 2])
        def test_by_its_own_name(isolated_llm, round):
            assert isolated_llm.list_benched() == []
            isolated_llm.bench_model("groq", 10)

        def test_both(isolated_llm, resilient_llm):
            assert isolated_llm is resilient_llm
        """,
    )

    assert "5 passed" in passed


def test_every_test_is_isolated_where_the_configuration_says_so(tmp_path: Path) -> None:
    """Functions, methods and unittest's test cases, of which none asks for a fixture."""
    source = """
        import unittest
        import pytest
        from resilient_llm import bench_model, list_benched

        @pytest.mark.parametrize("round", [1, 2])
        def test_it(round):
            assert list_benched() == []
            bench_model("groq", 10)

        class TestThis:
            def test_method(self):
                assert list_benched() == []
                bench_model("groq", 10)

        class TestThat(unittest.TestCase):
            def test_case(self):
                self.assertEqual(list_benched(), [])
                bench_model("groq", 10)

        def test_last(resilient_llm):
            assert list_benched() == []
        """

    assert "5 passed" in _run(tmp_path, source, "isolated_llm = true")
    assert "1 failed" in _run(
        tmp_path,
        "from resilient_llm import *\n"
        + "".join(
            f"def test_{name}():\n    assert list_benched() == []\n    bench_model('groq')\n"
            for name in "ab"
        ),
    )


def _run(tmp_path: Path, source: str, option: str = "") -> str:
    """Run a file of tests in a process of its own; return what pytest printed."""
    (tmp_path / "test_it.py").write_text(textwrap.dedent(source))
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{option}\n")
    plugin = ["-p", "resilient_llm.pytest_plugin"] if not _is_installed() else []

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            str(tmp_path / "pytest.ini"),
            *plugin,
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )

    return done.stdout + done.stderr


def _is_installed() -> bool:
    from importlib.metadata import entry_points

    return any(
        point.value == "resilient_llm.pytest_plugin" for point in entry_points(group="pytest11")
    )
