"""``resilient-llm grafana-dashboard``: a dashboard for the metrics of this library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm.cli.prometheus_rules import add_namespace

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description = (
        "Prints a dashboard as Grafana imports it (Dashboards, New, Import). It asks for the "
        "Prometheus that has the metrics."
    )
    parser.epilog = "example:\n  resilient-llm grafana-dashboard > resilient_llm.json"
    add_namespace(parser)


def run(options: argparse.Namespace) -> int:
    """Print the dashboard."""
    from resilient_llm.cli._exits import UsageError
    from resilient_llm.observers import prometheus

    try:
        text = prometheus.dashboard(options.namespace)
    except ValueError as wrong:  # a namespace that no metric may have
        raise UsageError(str(wrong)) from None
    print(text.rstrip("\n"))
    return 0
