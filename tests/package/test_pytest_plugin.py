"""The fixtures that the package gives to the tests of its users."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def test_the_pytest_plugin_isolates_and_fakes_time(tmp_path: Path) -> None:
    """A test that asks for `resilient_llm` starts fresh; `fake_clock` moves its time."""
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
        import pytest

        @pytest.mark.parametrize("round", [1, 2])
        def test_it(resilient_llm, fake_clock, round):
            assert resilient_llm.list_benched() == []
            resilient_llm.bench_model("groq", 10)
            fake_clock.advance(5)
            assert resilient_llm.list_benched()[0].remaining == 5.0
        """)
    )
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
            os.devnull,
            *plugin,
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )

    assert "2 passed" in done.stdout, done.stdout


def _is_installed() -> bool:
    from importlib.metadata import entry_points

    return any(
        point.value == "resilient_llm.pytest_plugin" for point in entry_points(group="pytest11")
    )
