"""Alert rules and dashboard, read and evaluated by Prometheus' own promtool (Debian: prometheus).

``make system-tests`` sets ``RESILIENT_LLM_SYSTEM=1``, and a missing promtool is a failure then.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import ConfigurationError
from resilient_llm.observers import prometheus

if shutil.which("promtool") is None:
    if os.environ.get("RESILIENT_LLM_SYSTEM"):
        pytest.fail("promtool is missing: install Debian's package prometheus", pytrace=False)
    pytest.skip("promtool is not installed (Debian: prometheus)", allow_module_level=True)

NS = "resilient_llm"
PANELS: list[dict[str, Any]] = json.loads(prometheus.dashboard())["panels"]


def promtool(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["promtool", *arguments], cwd=directory, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def evaluated(directory: Path, cases: list[dict[str, Any]]) -> None:
    """Run unit tests of the rules; JSON is YAML."""
    (directory / "rules.yml").write_text(prometheus.rules())
    (directory / "tests.yml").write_text(
        json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "30s", "tests": cases})
    )
    promtool(directory, "test", "rules", "tests.yml")


def case(series: dict[str, str], *alerts: dict[str, Any], interval: str = "1m") -> dict[str, Any]:
    return {
        "interval": interval,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": list(alerts),
    }


def fires(name: str, at: str, severity: str, *, value: str = "", **labels: str) -> dict[str, Any]:
    """Expect an alert with these labels, whatever its texts say."""
    summary, description = annotations(name, labels, value)
    return {
        "eval_time": at,
        "alertname": name,
        "exp_alerts": [
            {
                "exp_labels": {"severity": severity, **labels},
                "exp_annotations": {"summary": summary, "description": description},
            }
        ],
    }


def silent(name: str, at: str) -> dict[str, Any]:
    return {"eval_time": at, "alertname": name, "exp_alerts": []}


def annotations(name: str, labels: dict[str, str], value: str) -> tuple[str, str]:
    """Return the texts of an alert, as they stand in the file."""
    block = prometheus.rules().split(f"alert: {name}\n")[1].split("- alert:")[0]
    (summary,) = re.findall(r'summary: "(.*)"', block)
    folded = " ".join(block.split("description: >-\n")[1].split())

    def filled(text: str) -> str:
        text = text.replace("{{ $value | humanizePercentage }}", value)
        return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels.get(found[1], ""), text)

    return filled(summary), filled(folded)


@pytest.mark.parametrize("namespace", [NS, "my_app_llm"])
def test_promtool_accepts_the_rules(tmp_path: Path, namespace: str) -> None:
    """The rules are valid, whatever the namespace."""
    (tmp_path / "rules.yml").write_text(prometheus.rules(namespace))

    assert "SUCCESS: 6 rules found" in promtool(tmp_path, "check", "rules", "rules.yml")


def test_a_target_that_is_benched_most_of_the_time_alerts(tmp_path: Path) -> None:
    """Above 90 % of 15 minutes alerts in spite of probes; a bench of 10 minutes does not."""
    always, half = (
        f'{NS}_benched{{target="a/x",kind="transient"}}',
        f'{NS}_benched{{target="b/y",kind="transient"}}',
    )
    evaluated(
        tmp_path,
        [
            case(
                # A probe each ten minutes ends the bench for one of them; it may come back for
                # another reason.
                {
                    always: "0x5 1x8 0 1x8 0 0x20",
                    f'{NS}_benched{{target="a/x",kind="rate_limited"}}': "0x5 0x9 0x9 1x20",
                    half: "0x10 1x9 0x30",
                },
                silent("LLMTargetBenched", "10m"),
                fires("LLMTargetBenched", "22m", "warning", target="a/x"),
                fires("LLMTargetBenched", "35m", "warning", target="a/x"),
            ),
            # A process that starts in the midst of a bench is no quarter of an hour of it.
            case(
                {always: "1x60"},
                silent("LLMTargetBenched", "10m"),
                fires("LLMTargetBenched", "16m", "warning", target="a/x"),
            ),
        ],
    )


def test_a_function_without_a_live_target_alerts(tmp_path: Path) -> None:
    """No live target for a minute alerts; less does not, and one live target does not."""
    none, one = (
        f'{NS}_live_targets{{function="app.ask"}}',
        f'{NS}_live_targets{{function="app.other"}}',
    )
    evaluated(
        tmp_path,
        [
            case(
                {none: "2x4 0x1 2x3 0x20", one: "1x30"},
                silent("LLMNoLiveTarget", "150s"),
                silent("LLMNoLiveTarget", "270s"),
                fires("LLMNoLiveTarget", "420s", "critical", function="app.ask"),
                interval="30s",
            )
        ],
    )


def test_many_failovers_alert(tmp_path: Path) -> None:
    """More than a tenth of the calls for ten minutes alerts; a burst and a smaller share do not."""
    calls = f'{NS}_calls_total{{job="api",function="app.ask",outcome="ok"}}'
    failed = f'{NS}_calls_total{{job="api",function="app.ask",outcome="failed"}}'
    moved = f'{NS}_failovers_total{{job="api",from_target="a/x",to_target="b/y",reason="network"}}'
    again = f'{NS}_failovers_total{{job="api",from_target="b/y",to_target="c/z",reason="timeout"}}'
    evaluated(
        tmp_path,
        [
            case(
                {calls: "0+90x60", failed: "0+10x60", moved: "0+8x60", again: "0+4x60"},
                silent("LLMFailovers", "8m"),
                fires("LLMFailovers", "20m", "warning", job="api"),
            ),
            case({calls: "0+100x60", moved: "0+9x60"}, silent("LLMFailovers", "50m")),
            case({calls: "0+100x60", moved: "0x10 0+50x5 250x40"}, silent("LLMFailovers", "30m")),
            case({calls: "0x60", moved: "0x60"}, silent("LLMFailovers", "50m")),
        ],
    )


def test_failing_calls_alert(tmp_path: Path) -> None:
    """More than 5 % for two minutes alerts, once for all functions; a smaller share does not."""
    ok, failed = (
        f'{NS}_calls_total{{job="api",function="app.%s",outcome="{outcome}"}}'
        for outcome in ("ok", "failed")
    )
    evaluated(
        tmp_path,
        [
            case(
                {ok % "ask": "0+94x60", failed % "ask": "0+4x60", failed % "sum": "0+2x20 40x40"},
                silent("LLMCallsFail", "2m"),
                fires("LLMCallsFail", "5m", "critical", job="api"),
                silent("LLMCallsFail", "40m"),
            ),
            case({ok % "ask": "0+96x60", failed % "ask": "0+4x60"}, silent("LLMCallsFail", "50m")),
            case({ok % "ask": "0+100x60"}, silent("LLMCallsFail", "50m")),
            case({ok % "ask": "0x60", failed % "ask": "0x60"}, silent("LLMCallsFail", "50m")),
            case(
                {ok % "ask": "0+90x9 810x40", failed % "ask": "0x8 90x41"},
                silent("LLMCallsFail", "8m"),
                fires("LLMCallsFail", "11m", "critical", job="api"),
                silent("LLMCallsFail", "20m"),
            ),
        ],
    )


def test_the_own_rule_of_the_page_alerts(tmp_path: Path) -> None:
    """The page's rule for a provider alerts within two minutes, and not for a model."""
    page = Path(__file__).parents[2] / "docs/how-to/alerts.md"
    rule = page.read_text(encoding="utf-8").split("## A faster alert for a provider")[1]
    (expr,) = re.findall(r"^  expr: (.*)$", rule, re.MULTILINE)
    series = {
        f'{NS}_benched{{job="api",target="a",kind="transient"}}': "0x4 1x20",
        f'{NS}_benched{{job="api",target="a",kind="manual"}}': "0x30",
        f'{NS}_benched{{job="api",target="b/y",kind="transient"}}': "1x30",
    }
    checks: list[dict[str, Any]] = [
        {"expr": expr, "eval_time": "270s", "exp_samples": []},
        {
            "expr": expr,
            "eval_time": "7m",
            "exp_samples": [{"labels": '{job="api", target="a"}', "value": 1}],
        },
    ]
    test = {**case(series), "promql_expr_test": checks}
    (tmp_path / "tests.yml").write_text(json.dumps({"rule_files": [], "tests": [test]}))

    promtool(tmp_path, "test", "rules", "tests.yml")


def test_a_dead_key_alerts_at_once(tmp_path: Path) -> None:
    """A bench for credentials alerts with the next evaluation, once for all processes."""
    evaluated(
        tmp_path,
        [
            case(
                {
                    f'{NS}_benched{{job="api",instance="1",target="a",kind="auth_dead"}}': "0x3 1x5 0x9",
                    f'{NS}_benched{{job="api",instance="2",target="a",kind="auth_dead"}}': "0x3 1x5 0x9",
                    f'{NS}_benched{{job="api",instance="1",target="b",kind="transient"}}': "1x20",
                },
                silent("LLMDeadKey", "3m"),
                fires("LLMDeadKey", "4m", "critical", job="api", target="a"),
                silent("LLMDeadKey", "12m"),
            )
        ],
    )


def test_a_budget_that_runs_out_alerts(tmp_path: Path) -> None:
    """At 90 % of the cap, once for all processes with the highest, and until the next period."""
    ratio = f'{NS}_budget_ratio{{job="api",instance="%s",budget="openai month usd"}}'
    evaluated(
        tmp_path,
        [
            case(
                {ratio % 1: "0.5x4 0.9 0.95x5 0x10", ratio % 2: "0.1x20"},
                silent("LLMBudget", "4m"),
                fires(
                    "LLMBudget", "5m", "warning", value="90%", job="api", budget="openai month usd"
                ),
                fires(
                    "LLMBudget", "8m", "warning", value="95%", job="api", budget="openai month usd"
                ),
                silent("LLMBudget", "13m"),
            )
        ],
    )


SERIES = {
    f'{NS}_calls_total{{job="api",function="app.ask",outcome="ok"}}': "0+60x60",
    f'{NS}_calls_total{{job="api",function="app.ask",outcome="failed"}}': "0+15x60",
    f'{NS}_attempts_total{{job="api",target="a/x",outcome="ok"}}': "0+60x60",
    f'{NS}_attempts_total{{job="api",target="a/x",outcome="transient"}}': "0+30x60",
    f'{NS}_attempt_seconds_bucket{{job="api",target="a/x",le="1.0"}}': "0+30x60",
    f'{NS}_attempt_seconds_bucket{{job="api",target="a/x",le="5.0"}}': "0+60x60",
    f'{NS}_attempt_seconds_bucket{{job="api",target="a/x",le="+Inf"}}': "0+60x60",
    f'{NS}_first_content_seconds_bucket{{job="api",target="a/x",le="1.0"}}': "0+60x60",
    f'{NS}_first_content_seconds_bucket{{job="api",target="a/x",le="+Inf"}}': "0+60x60",
    f'{NS}_failovers_total{{job="api",from_target="a/x",to_target="b/y",reason="network"}}': "0+6x60",
    f'{NS}_retries_total{{job="api",target="a/x",source="backoff"}}': "0+6x60",
    f'{NS}_skips_total{{job="api",target="a/x",reason="manual"}}': "0+6x60",
    f'{NS}_hedges_total{{job="api",target="b/y",beside="a/x"}}': "0+6x60",
    f'{NS}_order_changes_total{{job="api",target="a/x"}}': "0+1x60",
    f'{NS}_tool_loops_total{{job="api",function="ask",action="warn"}}': "0+2x60",
    f'{NS}_benched{{job="api",target="a/x",kind="transient"}}': "1x60",
    f'{NS}_benched{{job="api",target="a/x",kind="manual"}}': "0x60",
    f'{NS}_benched{{job="api",target="b/y",kind="manual"}}': "0x60",
    f'{NS}_bench_until_timestamp_seconds{{job="api",target="a/x"}}': "900x60",
    f'{NS}_bench_until_timestamp_seconds{{job="api",target="b/y"}}': "0x60",
    f'{NS}_state{{job="api",target="a/x"}}': "2x60",
    f'{NS}_state{{job="api",target="b/y"}}': "0x60",
    f'{NS}_live_targets{{job="api",function="app.ask"}}': "1x60",
    f'{NS}_in_flight{{job="api",target="a/x"}}': "3x60",
    f'{NS}_spend_usd_total{{job="api",target="a/x"}}': "0+0.5x60",
    f'{NS}_budget_ratio{{job="api",instance="1",budget="month"}}': "0.25x60",
    f'{NS}_budget_ratio{{job="api",instance="2",budget="month"}}': "0.5x60",
}
ONE = {"labels": "{}", "value": 1}
VALUES: dict[str, list[tuple[str, float]]] = {
    "Benched now": [("{}", 1)],
    "Fewest live targets of a function": [("{}", 1)],
    "What is benched, and why": [('{kind="transient", target="a/x"}', 1)],
    "Benched until": [('{target="a/x"}', 900_000)],
    "State of the circuits": [('{target="a/x"}', 2), ('{target="b/y"}', 0)],
    "Calls": [('{outcome="failed"}', 0.25), ('{outcome="ok"}', 1)],
    "Share of calls that fail": [('{function="app.ask"}', 0.2)],
    "Attempts that answer": [('{target="a/x"}', 1)],
    "Attempts that do not": [('{outcome="transient", target="a/x"}', 0.5)],
    "Seconds of an attempt, 50 % and 95 %": [('{target="a/x"}', 4.6)],
    "Seconds until the first content of a stream, 95 %": [('{target="a/x"}', 0.95)],
    "Failovers": [('{from_target="a/x", reason="network", to_target="b/y"}', 0.1)],
    "Retries and skips": [('{source="backoff", target="a/x"}', 0.1)],
    "Attempts that are running": [('{target="a/x"}', 3)],
    "Hedges": [('{beside="a/x", target="b/y"}', 0.1)],
    "Moves by adaptive order": [('{target="a/x"}', 5)],
    "Budgets": [('{budget="month"}', 0.5)],
    "Spending per hour": [('{target="a/x"}', 30)],
    "Tool loops": [('{action="warn", function="ask"}', 10)],
}
"""``{title of a panel: (labels, value) of its first query}``."""


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_shows_what_its_title_says(tmp_path: Path, panel: dict[str, Any]) -> None:
    """Every query of the dashboard can be evaluated, and gives what its panel promises."""
    queries = [
        each["expr"].replace("$__rate_interval", "5m").replace("$job", ".*")
        for each in panel["targets"]
    ]
    expected = [{"labels": labels, "value": value} for labels, value in VALUES[panel["title"]]]
    checks: list[dict[str, Any]] = [
        {"expr": queries[0], "eval_time": "10m", "exp_samples": expected}
    ]
    (tmp_path / "rules.yml").write_text(prometheus.rules())
    test = {**case(SERIES), "promql_expr_test": checks}
    # Of the others any result is one: a query that cannot be read is an error.
    checks += [
        {"expr": f"count({query}) > bool 0", "eval_time": "10m", "exp_samples": [ONE]}
        for query in queries[1:]
    ]
    (tmp_path / "tests.yml").write_text(json.dumps({"rule_files": ["rules.yml"], "tests": [test]}))
    promtool(tmp_path, "test", "rules", "tests.yml")


def test_the_queries_of_the_page_answer(tmp_path: Path) -> None:
    """Every query on the page about alerts finds something in the metrics of an outage."""
    page = Path(__file__).parents[2] / "docs/how-to/alerts.md"
    text = page.read_text(encoding="utf-8")
    queries = re.findall(r"^\| [^|`]* \| `(.*)` \|$", text, re.MULTILINE)
    checks = [
        {"expr": f"count({query}) > bool 0", "eval_time": "10m", "exp_samples": [ONE]}
        for query in queries
    ]
    test = {**case(SERIES), "promql_expr_test": checks}
    (tmp_path / "tests.yml").write_text(json.dumps({"rule_files": [], "tests": [test]}))

    assert 7 == len(queries)
    promtool(tmp_path, "test", "rules", "tests.yml")


def test_the_dashboard_can_be_imported() -> None:
    """It is JSON with panels beside each other, none of which names a metric that there is not."""
    shown = json.loads(prometheus.dashboard("my_app"))
    known = set(re.findall(r"my_app_(\w+)", " ".join(s.replace(NS, "my_app") for s in SERIES)))

    assert {panel["title"] for panel in shown["panels"]} == VALUES.keys()
    assert len({panel["id"] for panel in shown["panels"]}) == len(shown["panels"])
    for panel in shown["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= 24
        for target in panel["targets"]:
            assert set(re.findall(r"my_app_(\w+)", target["expr"])) <= known
    assert NS not in json.dumps([panel["targets"] for panel in shown["panels"]])


@pytest.mark.parametrize("text", [prometheus.rules, prometheus.dashboard])
def test_a_wrong_namespace_is_refused(text: Any) -> None:
    """No text is made for a namespace that no metric can begin with."""
    with pytest.raises(ConfigurationError, match="namespace='my-app'"):
        text("my-app")
