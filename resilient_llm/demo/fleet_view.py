"""The output of the demo of several processes: a line for each thing that happens, and the summary.

Needs no client package, since the workers need none. Every line fits 80 columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from resilient_llm.demo import log_lines, worker
from resilient_llm.demo.log_lines import BAD, GOOD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from resilient_llm.demo.fleet import FleetSummary
    from resilient_llm.demo.log_lines import Line


def print_line(console: Console, line: Line) -> None:
    """Print one thing that has happened."""
    console.print(Text(line.plain(), log_lines.STYLES.get(line.word, "")), soft_wrap=True)


def print_fleet(console: Console, summary: FleetSummary) -> None:
    """Print how it went; plain text if the console is not a terminal."""
    console.print()
    for line in summary_lines(summary):
        console.print(line, highlight=False, soft_wrap=True)


def summary_lines(summary: FleetSummary) -> list[Text]:
    """Return how it went: at most 12 lines of at most 80 characters."""
    lost = summary.calls_made - summary.calls_served
    met = len(summary.failures)
    lines: list[Text] = []
    if summary.interrupted or summary.missing:
        why = f": {summary.missing}" if summary.missing else ""
        lines.append(Text(f"Ended early{why}. Until then:", "bold"))
    lines += [
        Text.assemble(
            f"{summary.calls_made} calls by {summary.workers} workers: ",
            (f" lost {lost} ", BAD if lost else GOOD),
        ),
        Text(
            f"Workers with failed attempts during the outage: {met}",
            BAD if met > 1 else "",
        ),
        Text(
            f"Requests to the provider until all workers used it again: {summary.probes}",
            BAD if summary.probes > 1 else "",
        ),
    ]
    answered = ", ".join(f"{target} {count}" for target, count in summary.served_by.items())
    lines += [
        Text(
            f"Bench of {summary.found_by or 'one worker'} in force for the others: "
            f"{_slowest(summary.benched_within)}"
        ),
        Text(
            f"Bench of the operator in force for all: {_slowest(summary.operator_benched_within)}"
        ),
        Text(f"Answered by: {answered or 'none'}"),
        Text(
            f"Not defaults: state=sqlite, poll={worker.POLL:g}, failures={worker.FAILURES}, "
            f"cooldown={worker.COOLDOWN:g}, timeout={worker.DEADLINE:g},"
        ),
        Text("  logging=False"),
        Text("Shown: one outage, one bench and one probe for all processes of a service."),
        Text("Read next: docs/how-to/share-benches.md"),
    ]
    return lines


def _slowest(within: Mapping[str, float]) -> str:
    if not within:
        return "not measured"
    return f"after {max(within.values()):.2f} s at the latest"
