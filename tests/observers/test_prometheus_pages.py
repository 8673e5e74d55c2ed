"""The pages about metrics say what the code does."""

import inspect
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from resilient_llm._values.reasons import OF_SKIPS, REASONS, reason_word
from resilient_llm.observers import prometheus
from resilient_llm.observers.prometheus._families import FAMILIES
from tests.package.test_docs_tables import known_reasons

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str, columns: int) -> list[list[str]]:
    """Return the cells of the rows whose first cell is code."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [row for row in found if len(row) == columns]


def test_the_reference_lists_the_metrics() -> None:
    """The table has every metric with its type and its labels, in their order."""
    listed = [
        (name.strip("`"), kind, tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, _ in rows("reference/metrics.md", 4)
    ]

    assert listed == [
        (each.name + ("_total" if each.type == "counter" else ""), each.type, each.labels)
        for each in FAMILIES
    ]


def test_the_how_to_lists_the_arguments() -> None:
    """Every argument of ``install`` is there."""
    listed = [name.strip("`") for name, *_ in rows("how-to/metrics.md", 3)]

    assert listed == list(inspect.signature(prometheus.install).parameters)


def test_the_page_has_the_rules_as_they_are() -> None:
    """The rules on the page are those that the function returns."""
    assert f"```yaml\n{prometheus.rules()}```" in (DOCS / "how-to/alerts.md").read_text("utf-8")


def test_every_alert_is_explained() -> None:
    """The table of alerts has those of the rules."""
    listed = {name.strip("`") for name, *_ in rows("how-to/alerts.md", 4)}

    assert listed == set(re.findall(r"alert: (\w+)", prometheus.rules()))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_the_queries_of_the_page_can_be_evaluated(tmp_path: Path) -> None:
    """Prometheus reads every query of the page."""
    text = (DOCS / "how-to/alerts.md").read_text(encoding="utf-8")
    queries = re.findall(r"^\| .*\? \| `(.*)` \|$|^\| .* \| `(.*)` \|$", text, re.MULTILINE)
    found = [first or second for first, second in queries]
    groups = [
        {"name": "page", "rules": [{"record": f"q{n}", "expr": q} for n, q in enumerate(found)]}
    ]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": groups}))
    done = subprocess.run(
        ["promtool", "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, text=True
    )

    assert 7 == len(found)
    assert 0 == done.returncode, done.stdout + done.stderr


def test_the_closed_set_is_that_of_the_rules() -> None:
    """Every reason that a verdict of this library has may become a label."""
    known = set().union(*known_reasons().values())

    assert known <= REASONS
    assert {"hung", "rejected", "empty", "control_flow", "time_limit"} <= REASONS


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("rate_limit", "rate_limit"),
        ("probes taken", "probes taken"),
        ("probe", "probe"),
        ("budget openai month", "budget"),
        ("lacks vision", "lacks"),
        ("my own words", "other"),
        ("rate_limit of tenant 7", "other"),
        ("", "other"),
        ("budgetary", "other"),
    ],
)
def test_a_reason_becomes_a_word(reason: str, word: str) -> None:
    """What is not in the closed set is ``other``; what names something loses the name."""
    assert word == reason_word(reason)
    assert OF_SKIPS.isdisjoint(REASONS)
