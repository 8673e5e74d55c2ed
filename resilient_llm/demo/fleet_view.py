"""What is printed of several processes: a line for each thing that happens, and the summary.

Needs no client package, as the workers need none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from resilient_llm.demo import news

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from resilient_llm.demo.fleet import FleetSummary
    from resilient_llm.demo.news import Line


def print_line(console: Console, line: Line) -> None:
    """Print one thing that has happened."""
    console.print(Text(line.plain(), news.STYLES.get(line.word, "")), soft_wrap=True)


def print_fleet(console: Console, summary: FleetSummary) -> None:
    """Print how it went; plain text if the console is no terminal."""
    lost = summary.calls_made - summary.calls_served
    met = len(summary.failures)
    console.print()
    if summary.interrupted:
        console.print("Ended early. Until then:", style="bold")
    if summary.missing:
        console.print(f"Ended early, {summary.missing}. Until then:", style="bold red")
    for number, text, is_good in (
        (summary.calls_made, f"calls made, by {summary.workers} processes", True),
        (lost, "calls lost", not lost),
        (met, "processes that met the outage with a call of their own", met <= 1),
        (
            summary.probes,
            "requests to the provider after the outage, until all trusted it",
            summary.probes <= 1,
        ),
    ):
        style = "bold green" if is_good else "bold red"
        console.print(f"{number:6}  {text}", style=style, highlight=False)
    served = ", ".join(f"{target} {count}" for target, count in summary.served_by.items())
    for title, listed in (
        (f"Benched after {summary.found_by or 'one'} had found it", _times(summary.benched_within)),
        ("Benched after the operator had done it once", _times(summary.operator_benched_within)),
        ("Served by", served),
    ):
        console.print(f"{title}: {listed or 'none'}", highlight=False, soft_wrap=True)


def _times(within: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in within.items())
