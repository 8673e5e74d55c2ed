"""The page about pytest-xdist: its tests, and some about workers, under a real ``pytest -n 2``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.apps import needs, page_text
from tests.support.pages import python_path, script

needs("xdist")

pytestmark = pytest.mark.timeout(120)

XDIST, OURS = "xdist.plugin", "resilient_llm.pytest_plugin"

# Tests of one worker follow each other; each writes what it found, and meets the others half-way.
INNER = """
import json, pathlib, time
from resilient_llm import bench_model, configure, list_benched, settings

PLACE = pathlib.Path(__file__).parent


def note(worker_id, name):
    found = sorted(each.model for each in list_benched())
    (PLACE / f"{worker_id}-{name}.json").write_text(json.dumps([found, settings().max_wait]))


def both_workers_are_here(worker_id, step):
    (PLACE / f"{step}-{worker_id}").touch()
    until = time.monotonic() + 30
    while len(list(PLACE.glob(f"{step}-*"))) < 2:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_benches_without_the_fixture(worker_id):
    bench_model(f"of-{worker_id}", reason="by hand")
    both_workers_are_here(worker_id, "benched")
    note(worker_id, "benched")


def test_with_the_fixture(worker_id, resilient_llm):
    both_workers_are_here(worker_id, "fresh")
    note(worker_id, "fresh")
    configure(max_wait=1.0)
    bench_model("inside", reason="by hand")


def test_after_the_fixture(worker_id):
    both_workers_are_here(worker_id, "after")
    note(worker_id, "after")
"""


def _pytest(place: Path, *options: str, plugins: tuple[str, ...] = (XDIST, OURS)) -> str:
    loaded = [f"-p{plugin}" for plugin in plugins]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-v",
            *loaded,
            *options,
            str(place),
        ],
        # Other plugins of this environment take seconds to load, in each worker.
        env={"PYTHONPATH": python_path(), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def place(tmp_path: Path) -> Path:
    # Without a configuration file here, pytest would look for one in the folders above.
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")
    return tmp_path


def test_the_tests_of_the_page_pass_in_each_worker(place: Path) -> None:
    """Whichever worker runs them, in whichever order, each begins with a fresh state."""
    for number in range(3):
        code = script(page_text("pytest-xdist"))
        (place / f"test_page_{number}.py").write_text(code, "utf-8")

    output = _pytest(place, "-n", "2")

    assert re.search(r"\b6 passed\b", output), output
    assert {"gw0", "gw1"} <= set(re.findall(r"\[(gw\d)\]", output))


def test_the_plugin_is_needed_for_the_page(place: Path) -> None:
    """The tests of the page fail without the plugin, so that they show something."""
    (place / "test_page.py").write_text(script(page_text("pytest-xdist")), "utf-8")

    with pytest.raises(AssertionError, match="fixture 'resilient_llm' not found"):
        _pytest(place, "-n", "2", plugins=(XDIST,))


def test_the_state_belongs_to_a_worker_and_the_fixture_gives_a_fresh_one(place: Path) -> None:
    """Workers see nothing of each other; a test with the fixture sees and leaves nothing."""
    (place / "test_inner.py").write_text(INNER, "utf-8")

    _pytest(place, "-n", "2", "--dist", "each")

    found = {path.stem: json.loads(path.read_text("utf-8")) for path in place.glob("gw*.json")}
    default = found["gw0-benched"][1]
    assert {
        f"{worker}-{step}": [[] if step == "fresh" else [f"of-{worker}"], default]
        for worker in ("gw0", "gw1")
        for step in ("benched", "fresh", "after")
    } == found
    assert 1.0 != default
