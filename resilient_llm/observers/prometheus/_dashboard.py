"""The dashboard, as JSON that Grafana imports.

From the top: what is benched and since when, whether callers get answers, what is slow, where
calls go instead, and what they cost.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm.observers.prometheus._families import checked_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_JOB: Final = 'job=~"$job"'
_WIDTH: Final = 24
"""Columns of Grafana's grid."""


class _Panel(NamedTuple):
    """One panel.

    Attributes:
        title: Its title.
        kind: Grafana's name of its type.
        queries: ``{legend: expression}``; ``NS`` stands for the namespace.
        unit: Of the values, as Grafana names it.
        width: Columns of 24.
        height: Rows.
        about: What the panel says, shown beside the title.
        options: Further settings of the panel.
    """

    title: str
    kind: str
    queries: dict[str, str]
    unit: str = "short"
    width: int = 12
    height: int = 8
    about: str = ""
    options: dict[str, Any] = {}  # noqa: RUF012  # never changed


_STATES: Final = {
    "mappings": [
        {
            "type": "value",
            "options": {
                "0": {"text": "closed", "color": "green", "index": 0},
                "1": {"text": "half-open", "color": "yellow", "index": 1},
                "2": {"text": "open", "color": "red", "index": 2},
            },
        }
    ]
}
_ALARM_BELOW_ONE: Final = {
    "thresholds": {
        "mode": "absolute",
        "steps": [{"color": "red", "value": None}, {"color": "green", "value": 1}],
    }
}
_ALARM_ABOVE_ZERO: Final = {
    "thresholds": {
        "mode": "absolute",
        "steps": [{"color": "green", "value": None}, {"color": "red", "value": 1}],
    }
}
_ALARM_ABOVE_NINE_TENTHS: Final = {
    "thresholds": {
        "mode": "absolute",
        "steps": [{"color": "green", "value": None}, {"color": "red", "value": 0.9}],
    }
}

_PANELS: Final = (
    _Panel(
        "Benched now",
        "stat",
        {"": f"sum(max by (target) (NS_benched{{{_JOB}}})) or vector(0)"},
        width=4,
        height=6,
        about="Keys that calls pass over.",
        options=_ALARM_ABOVE_ZERO,
    ),
    _Panel(
        "Fewest live targets of a function",
        "stat",
        {"": f"min(NS_live_targets{{{_JOB}}})"},
        width=4,
        height=6,
        about="0: the calls of some function fail.",
        options=_ALARM_BELOW_ONE,
    ),
    _Panel(
        "What is benched, and why",
        "table",
        {"": f"max by (target, kind) (NS_benched{{{_JOB}}} == 1)"},
        width=8,
        height=6,
    ),
    _Panel(
        "Benched until",
        "table",
        {
            "": f"1000 * max by (target) (NS_bench_until_timestamp_seconds{{{_JOB}}} > 0 < Inf)",
        },
        unit="dateTimeAsIso",
        width=8,
        height=6,
        about="A bench without an end is not listed here.",
    ),
    _Panel(
        "State of the circuits",
        "state-timeline",
        {"{{target}}": f"max by (target) (NS_state{{{_JOB}}})"},
        width=24,
        options=_STATES,
    ),
    _Panel(
        "Calls",
        "timeseries",
        {"{{outcome}}": f"sum by (outcome) (rate(NS_calls_total{{{_JOB}}}[$__rate_interval]))"},
        unit="reqps",
    ),
    _Panel(
        "Share of calls that fail",
        "timeseries",
        {
            "{{function}}": (
                f'sum by (function) (rate(NS_calls_total{{{_JOB},outcome="failed"}}'
                f"[$__rate_interval])) / sum by (function) "
                f"(rate(NS_calls_total{{{_JOB}}}[$__rate_interval]))"
            )
        },
        unit="percentunit",
    ),
    _Panel(
        "Attempts that answer",
        "timeseries",
        {
            "{{target}}": (
                f'sum by (target) (rate(NS_attempts_total{{{_JOB},outcome="ok"}}'
                f"[$__rate_interval]))"
            )
        },
        unit="reqps",
    ),
    _Panel(
        "Attempts that do not",
        "timeseries",
        {
            "{{target}} {{outcome}}": (
                f'sum by (target, outcome) (rate(NS_attempts_total{{{_JOB},outcome!="ok"}}'
                f"[$__rate_interval]))"
            )
        },
        unit="reqps",
    ),
    _Panel(
        "Seconds of an attempt, 50 % and 95 %",
        "timeseries",
        {
            "{{target}} 95 %": (
                f"histogram_quantile(0.95, sum by (target, le) "
                f"(rate(NS_attempt_seconds_bucket{{{_JOB}}}[$__rate_interval])))"
            ),
            "{{target}} 50 %": (
                f"histogram_quantile(0.5, sum by (target, le) "
                f"(rate(NS_attempt_seconds_bucket{{{_JOB}}}[$__rate_interval])))"
            ),
        },
        unit="s",
        about="Of attempts that answered; of a stream until its end.",
    ),
    _Panel(
        "Seconds until the first content of a stream, 95 %",
        "timeseries",
        {
            "{{target}}": (
                f"histogram_quantile(0.95, sum by (target, le) "
                f"(rate(NS_first_content_seconds_bucket{{{_JOB}}}[$__rate_interval])))"
            )
        },
        unit="s",
    ),
    _Panel(
        "Failovers",
        "timeseries",
        {
            "{{from_target}} to {{to_target}}, {{reason}}": (
                f"sum by (from_target, to_target, reason) "
                f"(rate(NS_failovers_total{{{_JOB}}}[$__rate_interval]))"
            )
        },
        unit="reqps",
        width=8,
    ),
    _Panel(
        "Retries and skips",
        "timeseries",
        {
            "{{target}} retried, {{source}}": (
                f"sum by (target, source) (rate(NS_retries_total{{{_JOB}}}[$__rate_interval]))"
            ),
            "{{target}} skipped, {{reason}}": (
                f"sum by (target, reason) (rate(NS_skips_total{{{_JOB}}}[$__rate_interval]))"
            ),
        },
        unit="reqps",
        width=8,
    ),
    _Panel(
        "Attempts that are running",
        "timeseries",
        {"{{target}}": f"sum by (target) (NS_in_flight{{{_JOB}}})"},
        width=8,
    ),
    _Panel(
        "Hedges",
        "timeseries",
        {
            "{{target}} beside {{beside}}": (
                f"sum by (target, beside) (rate(NS_hedges_total{{{_JOB}}}[$__rate_interval]))"
            )
        },
        unit="reqps",
        about="Attempts that were started beside a slow one. All of them may be billed.",
    ),
    _Panel(
        "Moves by adaptive order",
        "timeseries",
        {
            "{{target}}": (
                f"sum by (target) (increase(NS_order_changes_total{{{_JOB}}}[$__rate_interval]))"
            )
        },
        about="A target that became slow or faulty moves back, and later returns.",
    ),
    _Panel(
        "Tool loops",
        "timeseries",
        {
            "{{function}}, {{action}}": (
                "sum by (function, action) "
                f"(increase(NS_tool_loops_total{{{_JOB}}}[$__rate_interval]))"
            )
        },
        about="Calls whose conversation repeats one tool call.",
    ),
    _Panel(
        "Budgets",
        "timeseries",
        {"{{budget}}": f"max by (budget) (NS_budget_ratio{{{_JOB}}})"},
        unit="percentunit",
        about="Share of the cap that is spent; of a budget that counts each key, of the fullest.",
        options={"min": 0, **_ALARM_ABOVE_NINE_TENTHS},
    ),
    _Panel(
        "Spending per hour",
        "timeseries",
        {
            "{{target}}": (
                f"3600 * sum by (target) (rate(NS_spend_usd_total{{{_JOB}}}[$__rate_interval]))"
            )
        },
        unit="currencyUSD",
    ),
)


def dashboard(namespace: str = "resilient_llm") -> str:
    """Return a dashboard for Grafana as JSON.

    Args:
        namespace: What the names of the metrics begin with.

    Raises:
        ConfigurationError: If no names of metrics can begin with it.
    """
    name = checked_namespace(namespace)
    shown: dict[str, Any] = {
        "title": "LLM calls",
        "uid": name.replace("_", "-")[:40],
        "description": "Benches, outcomes and latencies of calls through resilient_llm.",
        "tags": ["llm", "resilient_llm"],
        "editable": True,
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "templating": {"list": [_source_variable(), _job_variable(name)]},
        "annotations": {"list": []},
        "panels": list(_panels(name)),
    }
    return json.dumps(shown, indent=2) + "\n"


def _source_variable() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
    }


def _job_variable(namespace: str) -> dict[str, Any]:
    return {
        "name": "job",
        "label": "Job",
        "type": "query",
        "datasource": _SOURCE,
        "query": f"label_values({namespace}_state, job)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels(namespace: str) -> Iterator[dict[str, Any]]:
    x = y = row_height = 0
    for number, panel in enumerate(_PANELS, 1):
        if x + panel.width > _WIDTH:
            x, y, row_height = 0, y + row_height, 0
        row_height = max(row_height, panel.height)
        yield {
            "id": number,
            "title": panel.title,
            "description": panel.about,
            "type": panel.kind,
            "datasource": _SOURCE,
            "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
            "fieldConfig": {"defaults": {"unit": panel.unit, **panel.options}, "overrides": []},
            "targets": [
                {
                    "refId": "ABCDEF"[index],
                    "datasource": _SOURCE,
                    "expr": expression.replace("NS_", f"{namespace}_"),
                    "legendFormat": legend,
                    "instant": panel.kind in ("stat", "table"),
                    "range": panel.kind not in ("stat", "table"),
                    "format": "table" if panel.kind == "table" else "time_series",
                }
                for index, (legend, expression) in enumerate(panel.queries.items())
            ],
        }
        x += panel.width
