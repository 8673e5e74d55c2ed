"""The guard of ``tool_loop=``: finds calls whose conversation repeats one tool call.

It keeps no state: as long as a conversation ends in a loop, each call with it is found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._values.errors import ToolLoopError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resilient_llm._values.tool_loop import ToolLoop

    LastRow = Callable[[object], tuple[str, int] | None]

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""Names that may be shown: what a model made up may hold anything."""
_HIDDEN: Final = "?"


@dataclass(frozen=True, slots=True)
class FoundLoop:
    """A loop in which a conversation ends.

    Attributes:
        tool: Name of the tool, or ``?``.
        repeats: Length of the row of equal calls.
        action: What the guard does, ``warn`` or ``raise``.
    """

    tool: str
    repeats: int
    action: str

    def details(self) -> dict[str, Any]:
        """Return the fields of the event."""
        return {"tool": self.tool, "repeats": self.repeats, "action": self.action}

    def error(self, targets: Sequence[str]) -> ToolLoopError:
        """Return what the call raises, of which these are the keys of the targets."""
        return ToolLoopError(", ".join(targets), self.tool, self.repeats)


class ToolLoopGuard:
    """Finds the loops of one policy."""

    __slots__ = ("_last_row", "_loop")

    def __init__(self, loop: ToolLoop, last_row: LastRow) -> None:
        """Take the options, and what reads ``(tool, length of the row)`` from a conversation."""
        self._loop = loop
        self._last_row = last_row

    def look(self, conversation: object) -> FoundLoop | None:
        """Return the loop in which a conversation ends, or None; never raises."""
        row = self._last_row(conversation)
        if row is None or row[1] < self._loop.repeats:
            return None
        name = row[0] if _NAME.fullmatch(row[0]) else _HIDDEN
        return FoundLoop(name, row[1], self._loop.action)
