"""The views of the demo: a live picture in a terminal, plain lines elsewhere, or nothing.

Every line fits 80 columns, and the live picture fits 24 rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from resilient_llm import health
from resilient_llm.demo import log_lines, scenario
from resilient_llm.demo.counters import DEFAULT_RETRIES, FAILOVER, NO_RETRIES
from resilient_llm.demo.log_lines import BAD, GOOD
from resilient_llm.demo.scenario import CHAIN, STREAMING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from rich.console import Console, RenderableType

    from resilient_llm import BudgetExceeded, Target, TargetHealth
    from resilient_llm.demo.counters import Summary, WayCounts
    from resilient_llm.demo.run import Demo

_ROWS_WITHOUT_LOG: Final = 18
_FEWEST_LINES: Final = 5
_MOST_LINES: Final = 16
_WIDE: Final = 110
"""Columns from which the reason of a bench has a place in the table."""
_KEY_WIDTH: Final = 24
_FAULTS: Final = {
    "invalid_credentials": "revoked key",
    "network": "cut connections",
    "overloaded": "503",
    "rate_limit": "429",
    "timeout": "silent streams",
}
"""``{reason of failed attempts: the fault behind it}``"""
_BENCHED: Final = "bold red"
"""Red is for what is benched, and for nothing else."""


class Silence:
    """Shows nothing."""

    def draw(self, demo: Demo) -> None:
        """Drop the new lines."""
        demo.counters.log.unprinted.clear()


class PlainLines:
    """One line of text for each thing that happens."""

    def __init__(self) -> None:
        self._has_header = False

    def draw(self, demo: Demo) -> None:
        """Print what is new."""
        if not self._has_header:
            self._has_header = True
            print(scenario.code_line(), scenario.traffic_line(), sep="\n", flush=True)
        unprinted = demo.counters.log.unprinted
        while unprinted:
            print(unprinted.popleft().plain(), flush=True)


class LiveView:
    """A picture that is redrawn; used by ``with``. At the end, the targets stay on screen."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._demo: Demo | None = None
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
        if self._demo is not None:
            # The summary follows, and both fit 24 rows.
            self._live.update(Group(header(self._demo), targets(self._demo, self._width)))
        self._live.__exit__(error_type, error, traceback)

    @property
    def _width(self) -> int:
        return self._console.width

    def draw(self, demo: Demo) -> None:
        """Draw the run as it is now."""
        self._demo = demo
        demo.counters.log.unprinted.clear()
        self._live.update(picture(demo, self._width, self._console.height), refresh=True)


def picture(demo: Demo, width: int, height: int) -> RenderableType:
    """Return the picture of the run as it is now, for a terminal of this size."""
    rows = min(_MOST_LINES, max(_FEWEST_LINES, height - 1 - _ROWS_WITHOUT_LOG))
    return Group(
        header(demo),
        Text(),
        comparison(demo.counters.ways, demo.counters.default_max_retries),
        _streams(demo),
        Text(),
        targets(demo, width),
        Text(),
        log(demo, rows),
    )


def header(demo: Demo) -> RenderableType:
    """Return the code that is under test, what calls it, and how far the demo is."""
    calls = Table.grid(padding=(0, 2))
    bar = ProgressBar(
        total=demo.seconds,
        completed=demo.elapsed,
        width=16,
        complete_style="cyan",
        finished_style="cyan",
    )
    calls.add_row(scenario.traffic_line(), bar, f"{demo.elapsed:.0f} of {demo.seconds:g} s")
    return Group(Text(scenario.code_line(), "bold"), calls)


def comparison(ways: Mapping[str, WayCounts], default_max_retries: int) -> RenderableType:
    """Return how the three ways did with the same calls."""
    table = Table.grid(padding=(0, 2))
    table.add_column(width=38)
    for width in (16, 6, 12):
        table.add_column(width=width, justify="right")
    table.add_row(
        *(
            Text(title, "dim")
            for title in ("same calls; openai client: groq only", "", "share", "slowest call")
        )
    )
    for way, name in _names(default_max_retries).items():
        counts = ways[way]
        style = ""
        if way == FAILOVER:
            style = BAD if counts.failed else GOOD
        table.add_row(
            Text(name, "bold" if style else ""),
            Text(_lost(counts), style),
            Text(_share(counts), style),
            f"{counts.slowest:.1f} s",
        )
    return table


def _names(default_max_retries: int) -> dict[str, str]:
    return {
        FAILOVER: "@failover",
        DEFAULT_RETRIES: f"openai client, max_retries={default_max_retries} (default)",
        NO_RETRIES: "openai client, max_retries=0",
    }


def _lost(counts: WayCounts) -> str:
    return f"lost {counts.failed} of {counts.calls}"


def _share(counts: WayCounts) -> str:
    # One decimal below 10 %, so that a few failed calls are never shown as none.
    percent = 100 * counts.failed / max(1, counts.calls)
    return f"{percent:.1f} %" if 0 < percent < 9.95 else f"{percent:.0f} %"


def _streams(demo: Demo) -> RenderableType:
    counters = demo.counters
    broken = counters.streams_read - counters.streams_whole
    return Text.assemble(
        f"streams {counters.streams_read}  ",
        (f" broken {broken} ", BAD if broken else GOOD),
        f"  restarted after partial output {counters.streams_restarted}",
        f"  failovers {counters.events['FailedOver']}",
        no_wrap=True,
        overflow="ellipsis",
    )


def targets(demo: Demo, width: int) -> RenderableType:
    """Return every target with its fault, its numbers and its circuit."""
    table = _grid(_KEY_WIDTH, 13, 8, 6)
    titles = ("  target (> in use now)", "fault", "answered", "failed", "circuit")
    table.add_row(*(Text(name, "dim") for name in titles))
    counters = demo.counters
    for target in (*CHAIN, *STREAMING):
        in_use = target.key == counters.answering
        name = Text(f"> {target.key}", "bold green") if in_use else Text(f"  {target.key}")
        condition = demo.faults.now(target.provider).value
        spent = counters.spent_budgets.get(target.key)
        table.add_row(
            name,
            Text(condition, "" if condition == "ok" else "cyan"),
            str(counters.served_by[target.key] + counters.streamed_by[target.key]),
            str(counters.failed_at[target.key]),
            _circuit(target, is_wide=width >= _WIDE)
            if spent is None
            else _budget(spent, is_wide=width >= _WIDE),
        )
    return table


def _grid(*widths: int) -> Table:
    """Return a table of columns that keep their width, and one that takes the rest."""
    table = Table.grid(padding=(0, 1), expand=True)
    for width in widths:
        table.add_column(width=width, no_wrap=True, overflow="ellipsis")
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    return table


def _budget(spent: BudgetExceeded, *, is_wide: bool) -> Text:
    until = f" until {spent.resets_at:%Y-%m-%d}: {spent.budget}" if is_wide else ""
    return Text(f"budget spent{until}", "yellow")


def _circuit(target: Target, *, is_wide: bool) -> Text:
    """Return the state of a target's circuit, or of its provider's if that one is not closed."""
    known = health([target, target.provider])
    provider, own = known[target.provider], known[target.key]
    for circuit, whose in ((provider, " (provider)"), (own, "")):
        if circuit.benched is not None:
            return _bench(circuit, whose, is_wide=is_wide)
    if any(circuit.state == "half_open" for circuit in (provider, own)):
        return Text("half-open: probe next", "yellow")
    return Text("closed", "dim")


def _bench(circuit: TargetHealth, whose: str, *, is_wide: bool) -> Text:
    bench = circuit.benched
    assert bench is not None
    reason = f": {bench.reason}" if is_wide and bench.reason else ""
    if bench.until is None:
        return Text(f"benched by hand{reason}", _BENCHED)
    left = log_lines.seconds_until(bench.until, circuit.checked_at)
    return Text(f"benched {left} s{whose}{reason}", _BENCHED)


def log(demo: Demo, rows: int) -> RenderableType:
    """Return the newest lines of the log, and empty rows if there are fewer."""
    table = _grid(8, 8)
    lines = list(demo.counters.log.lines)[-rows:]
    for line in lines:
        style = log_lines.STYLES.get(line.word, "")
        table.add_row(Text(log_lines.clock(line.at), "dim"), Text(line.word, style), line.sentence)
    for _ in range(rows - len(lines)):
        table.add_row()  # so that the picture keeps its height
    return table


def print_summary(console: Console, summary: Summary) -> None:
    """Print how it went; plain text if the console is not a terminal."""
    console.print()
    for line in summary_lines(summary):
        console.print(line, highlight=False, soft_wrap=True)


def summary_lines(summary: Summary) -> list[Text]:
    """Return how it went: at most 12 lines of at most 80 characters."""
    broken = summary.streams_read - summary.streams_whole
    lines = [Text(f"{_calls(summary)}, each sent in three ways at the same moment:")]
    for way, name in _names(summary.default_max_retries).items():
        counts = summary.ways[way]
        text = f"{_lost(counts):>16} {_share(counts):>6}  slowest {counts.slowest:>4.1f} s "
        style = ""
        if way == FAILOVER:
            style = BAD if counts.failed else GOOD
        lines.append(Text.assemble(f"{name:<38} ", (text, style)))
    lines += [
        Text(
            f"The openai clients call {CHAIN[0].provider} only. "
            f"Lost although a provider was ok: {summary.servable_calls_lost}."
        ),
        Text.assemble(
            f"{summary.streams_read} streams: ",
            (f"{broken} broken", BAD if broken else GOOD),
            f", {summary.streams_restarted} restarted after partial output; "
            f"failovers {summary.events.get('FailedOver', 0)}.",
        ),
        Text(f"Answered by: {_counted(summary.served_by) or 'none'}."),
        *(Text(line) for line in scenario.options_lines(summary.seconds)),
        Text(f"Shown: {', '.join(_shown(summary)) or 'nothing yet'}."),
        Text("Read next: docs/tutorial.md; in a terminal: resilient-llm explain 429"),
    ]
    return lines


def _shown(summary: Summary) -> list[str]:
    """Return which faults the calls of this run really met."""
    met = [name for reason, name in _FAULTS.items() if summary.failures.get(reason)]
    return [*met, "spent budget"] if summary.events.get("BudgetExceeded") else met


def _calls(summary: Summary) -> str:
    if summary.interrupted:
        return f"Ended early. Until then {summary.calls_made} calls"
    return f"{summary.calls_made} calls in {summary.seconds:g} s"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{key.partition('/')[0]} {count}" for key, count in counts.items())
