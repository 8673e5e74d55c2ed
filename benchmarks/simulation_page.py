"""Writes what ``simulation.py`` found: the tables of the page, and the picture, by hand.

python benchmarks/simulation_page.py        from the results that are stored
"""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/simulation.json"
"""``{"mean": results, "seed 0": results}``"""
PAGE = ROOT / "docs/explanation/simulation.md"
PICTURE = ROOT / "docs/img/simulation.svg"

Row = dict[str, float | None]
Results = dict[str, dict[str, Row]]
"""``{fault: {policy: {figure: mean}}}``"""

TITLES: Final = {
    "outage": "Outage: the first target answers 503",
    "brown-out": "Brown-out: it takes 10 times as long",
    "errors": "Errors: 30 % of its answers are 500",
    "rate limit": "Rate limit: 429, retry after 20 s",
    "flapping": "Flapping: 10 s down, 10 s up",
    "hang": "Hang: it does not answer",
    "all down": "All three are down for a minute",
}
"""``{fault: what it is}``"""

HEAD: Final = """\
| policy | served | p50 | p99 | attempts per call | wasted | to leave | to return |
|---|--:|--:|--:|--:|--:|--:|--:|"""


def table(rows: dict[str, Row]) -> str:
    """Return the table of one fault as Markdown."""
    return "\n".join([HEAD, *(_line(name, row) for name, row in rows.items())])


def _line(name: str, row: Row) -> str:
    cells = (
        f"{100 * _known(row['served']):.2f} %",
        _seconds(row["p50"], 2),
        _seconds(row["p99"], 2),
        f"{_known(row['attempts_per_call']):.3f}",
        f"{_known(row['wasted']):.0f}",
        _seconds(row["to_leave"], 1),
        _seconds(row["to_return"], 1),
    )
    return f"| {name} | {' | '.join(cells)} |"


def _known(value: float | None) -> float:
    return 0.0 if value is None else value


def _seconds(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f} s"


def tables(results: Results) -> str:
    """Return the tables of all faults, each under its heading."""
    return "\n\n".join(f"### {TITLES[fault]}\n\n{table(rows)}" for fault, rows in results.items())


def page(text: str, results: Results) -> str:
    """Return the page with the tables between the heading ``The tables`` and the next one."""
    return re.sub(
        r"(?<=\n## The tables\n).*?(?=\n## )",
        lambda _: f"\n{tables(results)}\n",
        text,
        count=1,
        flags=re.DOTALL,
    )


# The picture.

PANEL: Final = (460, 172)
"""Width and height of the panel of one fault."""
MARGIN: Final = 24
TOP: Final = 84
LINE: Final = 21
BARS_AT, BARS_WIDE = 172, 130
"""Where in a panel the bars begin, and how long the longest is."""
SERVED_AT = 404
"""Where in a panel the share of answered calls ends; the last column ends with the panel."""

STYLE: Final = """\
  text { font: 12px Helvetica, Arial, "Liberation Sans", sans-serif; fill: #24292f; }
  .page { fill: #ffffff; }
  .head { font-size: 17px; font-weight: bold; }
  .title { font-size: 13px; font-weight: bold; }
  .quiet { fill: #57606a; }
  .own { font-weight: bold; }
  .lost { fill: #b42318; font-weight: bold; }
  .end { text-anchor: end; }
  .bar { fill: #a9b1bb; }
  .bar.own { fill: #3f51b5; }
  .line { stroke: #d0d7de; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6e8eb; }
    .page { fill: #1c1e26; }
    .quiet { fill: #a3abb5; }
    .lost { fill: #ff8f85; }
    .bar { fill: #6c7683; }
    .bar.own { fill: #93a1ff; }
    .line { stroke: #3a3f4b; }
  }"""


def picture(results: Results) -> str:
    """Return the picture as SVG: for each fault the p99 of each policy, and what was not served."""
    width = 2 * PANEL[0] + 3 * MARGIN
    height = TOP + (len(results) + 1) // 2 * PANEL[1]
    longest = max(_known(row["p99"]) for rows in results.values() for row in rows.values())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        f' width="{width}" height="{height}">',
        "<title>Policies in seven faults of a provider</title>",
        f"<desc>{escape(_description(results))}</desc>",
        f"<style>\n{STYLE}\n</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="8"/>',
        f'<text class="head" x="{MARGIN}" y="34">How long callers wait when a provider fails</text>',
        f'<text class="quiet" x="{MARGIN}" y="56">p99 of the answered calls in ten minutes, in'
        " seconds, and the share of calls that were answered; mean of ten seeds. Lower is"
        " better.</text>",
    ]
    for place, (fault, rows) in enumerate(results.items()):
        x = MARGIN + place % 2 * (PANEL[0] + MARGIN)
        y = TOP + place // 2 * PANEL[1]
        parts += _panel(x, y, TITLES[fault], rows, longest)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _description(results: Results) -> str:
    return " ".join(
        f"{TITLES[fault]}: "
        + ", ".join(
            f"{name} {_known(row['p99']):.1f} s and {100 * _known(row['served']):.1f} % served"
            for name, row in rows.items()
        )
        + "."
        for fault, rows in results.items()
    )


def _panel(x: int, y: int, title: str, rows: dict[str, Row], longest: float) -> list[str]:
    parts = [
        f'<text class="title" x="{x}" y="{y + 12}">{escape(title)}</text>',
        f'<text class="quiet end" x="{x + SERVED_AT}" y="{y + 12}">served</text>',
        f'<text class="quiet end" x="{x + PANEL[0]}" y="{y + 12}">wasted</text>',
        f'<line class="line" x1="{x}" y1="{y + 20}" x2="{x + PANEL[0]}" y2="{y + 20}"/>',
    ]
    for number, (name, row) in enumerate(rows.items()):
        base = y + 38 + number * LINE
        p99, served = _known(row["p99"]), 100 * _known(row["served"])
        own = " own" if name.startswith("resilient_llm") else ""
        long = max(1.0, round(p99 / longest * BARS_WIDE, 1))
        lost = "lost" if served < 99.95 else "quiet"
        parts += [
            f'<text class="{own.strip() or "quiet"}" x="{x}" y="{base}">{escape(name)}</text>',
            f'<rect class="bar{own}" x="{x + BARS_AT}" y="{base - 10}" width="{long}" height="12"'
            ' rx="2"/>',
            f'<text class="{own.strip() or "quiet"}" x="{x + BARS_AT + long + 6:.1f}" y="{base}">'
            f"{p99:.1f} s</text>",
            f'<text class="{lost} end" x="{x + SERVED_AT}" y="{base}">'
            f"{'100' if served >= 99.95 else f'{served:.1f}'} %</text>",
            f'<text class="quiet end" x="{x + PANEL[0]}" y="{base}">'
            f"{_known(row['wasted']):.0f}</text>",
        ]
    return parts


def write(results: Results) -> None:
    """Write the tables and the picture."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    PICTURE.write_text(picture(results), encoding="utf-8")


if __name__ == "__main__":
    write(json.loads(RESULTS.read_text(encoding="utf-8"))["mean"])
