"""The picture of the demo as SVG: the middle of the outage, and the summary.

The SVG refers to no other host: a page with the picture loads nothing else for it.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from resilient_llm.demo import view
from resilient_llm.demo.log_lines import WIDTH

if TYPE_CHECKING:
    from resilient_llm.demo.counters import Summary
    from resilient_llm.demo.run import Demo

_TAKEN_AT: Final = 0.4
"""Share of the demo. By then all but one target of the chain fail."""
_LOG_LINES: Final = 8


class OutagePicture:
    """A view that shows nothing and keeps one picture of the outage."""

    def __init__(self) -> None:
        self._console = recording_console()
        self._is_taken = False

    def draw(self, demo: Demo) -> None:
        """Take the picture, once, when its moment has come."""
        if not self._is_taken and demo.elapsed >= _TAKEN_AT * demo.seconds:
            self._is_taken = True
            self._console.print(Text("$ resilient-llm demo", "bold cyan"), Text(), sep="\n")
            self._console.print(view.header(demo), Text(), view.targets(demo, WIDTH), sep="\n")
            self._console.print(Text(), view.log(demo, _LOG_LINES), sep="\n")

    def svg(self, summary: Summary) -> str:
        """Return the picture, with the summary below."""
        view.print_summary(self._console, summary)
        return svg_of(self._console, title="resilient-llm demo")


def recording_console(width: int = WIDTH) -> Console:
    """Return a console that shows nothing and records everything."""
    return Console(
        record=True,
        width=width,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )


def svg_of(console: Console, *, title: str) -> str:
    """Return what a console has recorded, in a font of the reader's machine."""
    drawn = console.export_svg(title=title)
    drawn = re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"\s*<!--.*?-->", "", drawn, flags=re.DOTALL)
    drawn = "\n".join(line.rstrip() for line in drawn.splitlines())
    return drawn.replace("Fira Code", "ui-monospace") + "\n"
