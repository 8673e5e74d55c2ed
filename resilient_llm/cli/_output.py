"""How commands print: tables, JSON, and text from elsewhere without its control characters."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm.cli._shapes import as_number, as_object

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

STYLES: Final = {
    "healthy": "green",
    "ok": "green",
    "closed": "green",
    "degraded": "yellow",
    "warning": "yellow",
    "half_open": "yellow",
    "down": "bold red",
    "error": "bold red",
    "open": "bold red",
    "skipped": "dim",
}
"""``{word: its style on a terminal}``; the word itself always says the same."""

_UNITS: Final = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


class Cell(NamedTuple):
    """One cell of a table."""

    text: str
    style: str = ""


def shown(value: object) -> str:
    """Return a text as it may be printed: on one line, each control character escaped.

    Escaped is whatever is not printable, so that no text of an operator or a server moves the
    cursor, clears the screen, or turns the direction of writing.
    """
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def quoted(text: str) -> str:
    """Return a text as the value in ``name=value``: in quotation marks if it is not one plain word.

    Quotation marks and backslashes in it are escaped, so that no text ends its value early and
    writes a field of its own.
    """
    if text and not any(each in ' "=\\' for each in text):
        return shown(text)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{shown(escaped)}"'


def word(value: object) -> Cell:
    """Return a cell for a word that may have a style."""
    text = shown(value)
    return Cell(text, STYLES.get(text, ""))


def shown_amount(number: float) -> str:
    """Return an amount of USD, tokens or calls in full, never as ``1e-07``."""
    return f"{number:.12f}".rstrip("0").rstrip(".")


def spending_text(name: str, value: object) -> str:
    """Return the value of a field of an event about money or tokens; empty if it is another one.

    Every digit of an amount counts; a usage is ``input:1200,output:300``.
    """
    if name in ("usd", "spent", "cap"):
        number = as_number(value)
        return "" if number is None else shown_amount(number)
    parts = as_object(value).items() if name == "usage" else ()
    told = ",".join(f"{part}:{tokens}" for part, tokens in parts if tokens)
    return quoted(told) if told else ""


def lasting(seconds: float | None) -> str:
    """Return a duration in its two largest units, such as ``1h 30m``."""
    if seconds is None:
        return ""
    left = max(0, round(seconds))
    for (unit, size), (smaller, part) in itertools.pairwise(_UNITS):
        if left >= size:
            rest = left % size // part
            return f"{left // size}{unit}" + (f" {rest}{smaller}" if rest else "")
    return f"{left}s"


def moment(value: object) -> str:
    """Return a moment of an answer in UTC, to the second; as it is if it is none.

    On a terminal, where width is scarce, a moment of today is its time.
    """
    try:
        # Half a second more, so that cutting it rounds.
        at = datetime.fromisoformat(str(value)).astimezone(UTC) + timedelta(milliseconds=500)
    except (ValueError, OverflowError):
        return shown(value)
    is_today = is_terminal() and at.date() == datetime.now(UTC).date()
    return at.strftime("%H:%M:%SZ" if is_today else "%Y-%m-%d %H:%M:%SZ")


def is_terminal() -> bool:
    """Return whether a person reads the output, and there is what it takes to draw for them."""
    # Not by rich's own test of a terminal, which an environment variable may force.
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and _has_rich()


@functools.cache
def _has_rich() -> bool:
    return importlib.util.find_spec("rich") is not None


def print_json(value: object) -> None:
    """Print as JSON in ASCII, so that no text of it acts on a terminal."""
    print(json.dumps(value, indent=2))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str | Cell]]) -> None:
    """Print rows under headings: drawn by rich on a terminal, else aligned with blanks."""
    cells = [[each if isinstance(each, Cell) else Cell(each) for each in row] for row in rows]
    # A column in which nobody has anything takes room from the others.
    kept = [index for index in range(len(headings)) if any(row[index].text for row in cells)]
    headings = [headings[index] for index in kept]
    cells = [[row[index] for index in kept] for row in cells]
    if is_terminal():
        _draw(headings, cells)
    else:
        _align(headings, cells)


def print_word(value: object) -> None:
    """Print a word that may have a style."""
    cell = word(value)
    if is_terminal() and cell.style:
        from rich.console import Console

        Console().print(cell.text, style=cell.style)
    else:
        print(cell.text)


def _draw(headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    from rich.console import Console

    console = Console()
    console.print(table_of(headings, rows, console.width))


def table_of(headings: Sequence[str], rows: Sequence[Sequence[Cell]], width: int = 80) -> Any:
    """Return rich's table of these cells.

    Args:
        headings: One per column; the first column has the keys.
        rows: The cells.
        width: Characters of a line of the terminal.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        # A key is there to be copied: it stays in one line if there is room, and is never cut.
        longest = max((len(row[number].text) for row in rows), default=0)
        is_whole = number == 0 and longest <= width // 2
        table.add_column(heading, overflow="fold", no_wrap=is_whole)
    for row in rows:
        table.add_row(*(Text(cell.text, style=cell.style) for cell in row))
    return table


def _align(headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    texts = [[heading.upper() for heading in headings]]
    texts += [[cell.text for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in texts) for index in range(len(headings))]
    for row in texts:
        padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip())
