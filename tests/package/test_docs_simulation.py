"""The simulated outages of the documentation: what the page and the picture show is what is so."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import BLOCK, README, ROOT, run, script

BENCHMARKS = ROOT / "benchmarks"
HOW_TO = ROOT / "docs/how-to/simulate.md"
STORED: dict[str, Any] = json.loads((BENCHMARKS / "simulation.json").read_text(encoding="utf-8"))
MEAN, FIRST = STORED["mean"], STORED["seed 0"]
STALE = "run `make simulate`"
TIED = 1.05
"""How many times the best p99 a policy may have to be tied."""
WORSE = {
    "all down": "retries wait for longer than a last resort does, so more calls outlast the fault"
}
"""``{fault in which another policy serves more calls: why}``, as the page says it."""


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script that wrote the results."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # pyright: ignore[reportUnknownMemberType]  # of pytest
    yield importlib.import_module("simulation")
    for name in ("simulation", "simulation_page", "simulated_peers"):
        sys.modules.pop(name, None)


def test_the_page_shows_the_results(simulation: Any) -> None:
    """Its tables are those that the script makes of the stored results."""
    page: Any = sys.modules["simulation_page"]
    text = page.PAGE.read_text(encoding="utf-8")

    assert list(MEAN) == list(simulation.FAULTS)
    assert page.page(text, MEAN) == text, STALE


def test_the_picture_shows_the_results(simulation: Any) -> None:
    """It is the one that the script draws, on the page and in the README."""
    page: Any = sys.modules["simulation_page"]
    picture = page.PICTURE.read_text(encoding="utf-8")

    assert page.picture(MEAN) == picture, STALE
    assert "img/simulation.svg" in page.PAGE.read_text(encoding="utf-8")
    assert "docs/img/simulation.svg" in README.read_text(encoding="utf-8")


CELLS = [(name, fault) for fault in MEAN for name in MEAN[fault]]
SOME = [cell for place, cell in enumerate(CELLS) if place % 7 == 0]
"""One fault for each policy."""


def _is_like(stored: dict[str, Any], found: dict[str, Any]) -> bool:
    # Another release of Python may run what is due at one moment in another order.
    return found["served"] == pytest.approx(stored["served"], abs=0.005) and found[
        "p99"
    ] == pytest.approx(stored["p99"], rel=0.05)


@pytest.mark.parametrize(("name", "fault"), SOME)
def test_the_results_are_those_of_the_code(simulation: Any, name: str, fault: str) -> None:
    """The first seed gives now what it gave when the results were stored."""
    assert _is_like(FIRST[fault][name], simulation.figures(name, fault, 0)), STALE


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), [cell for cell in CELLS if cell not in SOME])
def test_all_results_are_those_of_the_code(simulation: Any, name: str, fault: str) -> None:
    """So it is for every policy in every fault."""
    assert _is_like(FIRST[fault][name], simulation.figures(name, fault, 0)), STALE


def _is_best(rows: dict[str, Any], names: list[str]) -> bool:
    """Return whether one of these serves as many calls as any, and as fast as the fastest does."""
    most = max(round(row["served"], 4) for row in rows.values())
    first = {name: row for name, row in rows.items() if round(row["served"], 4) == most}
    fastest = min(row["p99"] for row in first.values())
    return any(name in first and first[name]["p99"] <= TIED * fastest for name in names)


@pytest.mark.parametrize("fault", MEAN)
def test_this_library_is_first_or_tied(simulation: Any, fault: str) -> None:
    """One of its rows serves the most calls and none that does so is faster, but as the page says."""
    is_best = _is_best(MEAN[fault], list(simulation.OURS))

    assert (fault not in WORSE) is is_best


@pytest.mark.slow
@pytest.mark.parametrize("fault", [fault for fault in MEAN if fault not in WORSE])
def test_this_library_is_first_or_tied_now(simulation: Any, fault: str) -> None:
    """So it is when three seeds are run again."""
    rows: dict[str, Any] = {}
    for name in simulation.NAMES:
        found = [simulation.figures(name, fault, seed) for seed in range(3)]
        rows[name] = {each: simulation.mean([row[each] for row in found]) for each in found[0]}

    assert _is_best(rows, list(simulation.OURS))


def test_the_how_to_shows_what_is_printed(tmp_path: Path) -> None:
    """The table under the first block is the one that the block prints."""
    text = HOW_TO.read_text(encoding="utf-8")
    copy = tmp_path / "simulate.py"
    copy.write_text(script(text[: next(BLOCK.finditer(text)).end() + 1]), encoding="utf-8")

    done = run(copy)

    assert f"```text\n{done.stdout}```" in text
