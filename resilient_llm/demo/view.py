"""The views of the demo: a live picture in a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from resilient_llm import health
from resilient_llm.demo import news
from resilient_llm.demo.run import CHAIN, STREAMING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rich.console import Console, RenderableType

    from resilient_llm import BudgetExceeded, Target
    from resilient_llm.demo.news import Line
    from resilient_llm.demo.run import Demo
    from resilient_llm.demo.tally import Summary

_ROWS_ABOVE: Final = 14
"""Rows of everything above the events, and a free one below."""
_ROWS_OF_SUMMARY: Final = 15
"""Rows that the last picture leaves free."""
_FEWEST_LINES: Final = 4
_MOST_LINES: Final = 30


class Silence:
    """Shows nothing."""

    def draw(self, demo: Demo) -> None:
        """Drop the new lines."""
        demo.tally.fresh.clear()


class PlainLines:
    """One line of text for each thing that happens."""

    def draw(self, demo: Demo) -> None:
        """Print what is new."""
        while demo.tally.fresh:
            print(demo.tally.fresh.popleft().plain(), flush=True)


class LiveView:
    """A picture that is redrawn; used by ``with``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: deque[Line] = deque(maxlen=_MOST_LINES)
        # Drawn when asked to: rich's own refreshing would be another thread.
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.__exit__(error_type, error, traceback)

    def draw(self, demo: Demo) -> None:
        """Draw the run as it is now."""
        while demo.tally.fresh:
            self._lines.append(demo.tally.fresh.popleft())
        picture = Group(
            _header(demo),
            _counters(demo),
            _streams(demo),
            Text(),
            _targets(demo),
            Text(),
            self._events(last=demo.has_ended),
        )
        self._live.update(picture, refresh=True)

    def _events(self, *, last: bool) -> RenderableType:
        table = _grid(8, 9, news.KEY_WIDTH)
        free = self._console.height - _ROWS_ABOVE - (_ROWS_OF_SUMMARY if last else 0)
        rows = min(_MOST_LINES, max(_FEWEST_LINES, free))
        for line in list(self._lines)[-rows:]:
            style = news.STYLES.get(line.word, "")
            table.add_row(
                Text(news.clock(line.at), "dim"), Text(line.word, style), line.key, line.text
            )
        for _ in range(rows - len(self._lines)):
            table.add_row()  # so that the picture keeps its height
        return table


def _grid(*widths: int) -> Table:
    """Return a table of columns that keep their width, and one that takes the rest."""
    table = Table.grid(padding=(0, 1), expand=True)
    for width in widths:
        table.add_column(width=width, no_wrap=True, overflow="ellipsis")
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    return table


def _header(demo: Demo) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=demo.seconds, completed=demo.elapsed, width=30)
    local = news.clock(datetime.now(UTC))
    table.add_row(
        Text("resilient-llm demo", "bold"), local, bar, f"{demo.elapsed:.0f} of {demo.seconds:g} s"
    )
    return table


def _counters(demo: Demo) -> RenderableType:
    tally = demo.tally
    lost = tally.calls_made - tally.calls_served
    return Text.assemble(
        f"calls {tally.calls_made:<5}",
        f"served {tally.calls_served:<5}",
        (f"lost {lost:<4}", "bold red" if lost else "bold green"),
        f"a plain client lost {tally.plain_client_lost:<5}",
        f"retries {tally.events['RetryScheduled']:<4}",
        f"moved on {tally.events['FailedOver']:<4}",
        no_wrap=True,
        overflow="ellipsis",
    )


def _streams(demo: Demo) -> RenderableType:
    tally = demo.tally
    torn = tally.streams_read - tally.streams_whole
    return Text.assemble(
        f"streams {tally.streams_read:<5}",
        f"whole {tally.streams_whole:<5}",
        (f"torn {torn:<4}", "bold red" if torn else "bold green"),
        f"begun anew after words {tally.streams_restarted:<4}",
        f"spent {news.dollars(sum(tally.spent.values()))}",
        no_wrap=True,
        overflow="ellipsis",
    )


def _targets(demo: Demo) -> RenderableType:
    table = _grid(news.KEY_WIDTH + 2, 10, 6, 6)
    table.add_row(
        *(
            Text(name, "dim")
            for name in ("  target", "weather", "served", "failed", "breaker, benched, or spent")
        )
    )
    tally = demo.tally
    for target in (*CHAIN, *STREAMING):
        spent = tally.spent_budgets.get(target.key)
        serves = target.key == tally.serving
        name = Text(f"> {target.key}", "bold green") if serves else Text(f"  {target.key}")
        weather = demo.weather.now(target.provider).value
        table.add_row(
            name,
            Text(weather, "" if weather == "fair" else "cyan"),
            str(tally.served_by[target.key] + tally.streamed_by[target.key]),
            str(tally.failed_at[target.key]),
            _breaker(target) if spent is None else _budget(spent),
        )
    return table


def _budget(spent: BudgetExceeded) -> Text:
    """Return why a target is passed over whose budget is spent."""
    said = f"budget {spent.budget} spent, until {spent.resets_at:%Y-%m-%d}"
    return Text(said, "bold red")


def _breaker(target: Target) -> Text:
    """Return what an operator wants to know of a target's breaker and its provider's."""
    known = health([target, target.provider])
    circuits = [known[target.provider], known[target.key]]
    for key, circuit in ((target.provider, circuits[0]), (target.key, circuits[1])):
        bench = circuit.benched
        if bench is not None:
            whose = f"{key}: " if key == target.provider else ""
            return Text(
                f"{news.until(bench.until, circuit.checked_at)} {whose}{bench.reason}", "bold red"
            )
    if any(circuit.state == "half_open" for circuit in circuits):
        return Text("half-open: the next call is a probe", "yellow")
    return Text("closed", "dim")


def print_summary(console: Console, summary: Summary) -> None:
    """Print how it went; plain text if the console is no terminal."""
    lost = summary.servable_calls_lost
    torn = summary.streams_read - summary.streams_whole
    console.print()
    if summary.interrupted:
        console.print("Ended early. Until then:", style="bold")
    for number, text, style in (
        (summary.calls_made, "calls made", ""),
        (summary.calls_served, "calls served", ""),
        (lost, "calls lost that could have been served", "bold red" if lost else "bold green"),
        (
            summary.plain_client_lost,
            "calls that a plain client lost (first target only, no retries);",
            "yellow",
        ),
    ):
        console.print(f"{number:6}  {text}", style=style or None, highlight=False)
    console.print("        each call was really sent a second time through one, at the same moment")
    console.print(
        f"{summary.streams_read:6}  streams read, "
        f"{summary.streams_restarted} begun anew after words",
        highlight=False,
    )
    console.print(
        f"{torn:6}  streams that were not whole",
        style="bold red" if torn else "bold green",
        highlight=False,
    )
    for title, counts in (
        ("Served by", summary.served_by),
        ("Streamed by", summary.streamed_by),
        ("Failed attempts", summary.failures),
        ("Benches", summary.benches),
        ("Over budget", summary.over_budget),
        ("Spent", {name: news.dollars(usd) for name, usd in summary.spent.items()}),
    ):
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        console.print(f"{title}: {listed or 'none'}", highlight=False)
