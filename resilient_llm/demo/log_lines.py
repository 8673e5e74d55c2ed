"""The log of the demo: events and faults as sentences, with repeated ones folded into one line.

Events contain no prompt, argument or key, so no line does. Every sentence has at most
`WIDTH` - 20 characters, so that a line fits a terminal of 80 columns.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from resilient_llm import (
    AttemptFailed,
    BudgetExceeded,
    CallFailed,
    Event,
    StreamInterrupted,
    TargetBenched,
    TargetUnbenched,
)

if TYPE_CHECKING:
    from decimal import Decimal

    from resilient_llm.demo.faults import FaultChange

WIDTH: Final = 80
"""Columns that every line fits."""

GOOD: Final = "bold white on #1a7f37"
BAD: Final = "bold black on yellow"
"""Styles of a number that is as it has to be, or is not: of lost calls, for example."""

STYLES: Final = {
    "fault": "cyan",
    "answers": "green",
    "failed": "yellow",
    "broken": "yellow",
    "benched": "bold red",
    "sharing": "green",
    "probed": "green",
    "restored": "green",
    "budget": "yellow",
    "LOST": BAD,
}
"""``{word of a line: its style}``; red is for benched only."""

_KEPT: Final = 200


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened.

    Attributes:
        at: When it happened first, aware.
        word: What kind of thing: a key of `STYLES`.
        key: The target or provider that it is about.
        text: A sentence.
        folds_as: Lines with the same word, key and this text are one line. None: never folded.
        count: How often it happened.
    """

    at: datetime
    word: str
    key: str
    text: str
    folds_as: str | None = None
    count: int = 1

    @property
    def sentence(self) -> str:
        """The sentence, with how often it happened if it was more than once."""
        return self.text if self.count == 1 else f"{self.text} x{self.count}"

    def plain(self) -> str:
        """Return it as one line of plain text."""
        return f"{clock(self.at)}  {self.word:<8}  {self.sentence}"


class Log:
    """Keeps the newest lines, and folds those that repeat during one phase of a provider.

    A phase ends when a fault of that provider begins or ends. Used by one thread.

    Attributes:
        lines: The newest lines, oldest first.
        unprinted: Lines for an output that cannot change what it has printed: each when it
            happens first, and a folded one again with its count when its phase ends.
    """

    def __init__(self) -> None:
        self.lines: deque[Line] = deque(maxlen=_KEPT)
        self.unprinted: deque[Line] = deque()
        self._open: dict[tuple[str, str, str], Line] = {}

    def add(self, line: Line) -> None:
        """Add a line, or count it in an equal one of this phase."""
        if line.folds_as is None:
            self.lines.append(line)
            self.unprinted.append(line)
            return
        identity = (line.word, line.key, line.folds_as)
        before = self._open.get(identity)
        if before is None:
            self.lines.append(line)
            self.unprinted.append(line)
            self._open[identity] = line
            return
        folded = replace(line, at=before.at, count=before.count + 1)
        self._open[identity] = folded
        for place, kept in enumerate(self.lines):
            if kept is before:
                self.lines[place] = folded

    def end_phase(self, provider: str | None = None) -> None:
        """End the phase of a provider, or of all: equal lines are new lines from now on."""
        for identity, line in list(self._open.items()):
            if provider is None or line.key.partition("/")[0] == provider:
                del self._open[identity]
                if line.count > 1:
                    self.unprinted.append(replace(line, at=datetime.now(UTC)))


def clock(moment: datetime) -> str:
    """Return the local time of day."""
    return f"{moment.astimezone():%H:%M:%S}"


def seconds_until(until: datetime, now: datetime) -> int:
    """Return the whole seconds that are left, rounded up: 0 only if the moment has passed."""
    return max(0, math.ceil((until - now).total_seconds()))


def of_fault(change: FaultChange) -> Line:
    """Return the line of a fault that began or ended."""
    return Line(datetime.now(UTC), "fault", change.provider, change.sentence)


def of_answering(target: str) -> Line:
    """Return the line of another target taking over."""
    return Line(datetime.now(UTC), "answers", target, f"{target} answers most calls now.")


def of_budget(provider: str, spent: Decimal, cap: Decimal) -> Line:
    """Return the line of a budget with a new cap."""
    text = f"The budget of {provider} is {dollars(cap)} now; {dollars(spent)} is spent."
    return Line(datetime.now(UTC), "budget", provider, text)


def dollars(amount: Decimal | float) -> str:
    """Return an amount of USD, to a hundredth of a cent or finer."""
    return f"${amount:.6f}".rstrip("0").rstrip(".")


def of_event(event: Event) -> Line | None:
    """Return the line of an event, or None if it is only counted."""
    match event:
        case AttemptFailed():
            status = "" if event.status is None else f"{event.status} "
            text = f"{event.target} failed: {status}{event.reason}"
            return Line(event.at, "failed", event.target, text, folds_as=text)
        case StreamInterrupted():
            text = f"{event.target} broke a stream after {event.items_sent} items"
            return Line(event.at, "broken", event.target, text, folds_as="")
        case TargetBenched():
            return _benched(event)
        case TargetUnbenched():
            text = f"{event.target} is used again: {event.reason}"
            return Line(event.at, "restored", event.target, text, folds_as=event.reason)
        case BudgetExceeded():
            provider = event.target.partition("/")[0]
            text = f"{provider} is skipped: too little of its {dollars(event.cap)} is left."
            return Line(event.at, "budget", event.target, text)
        case CallFailed():
            text = f"A call failed on every target, after {event.attempts} attempts."
            return Line(event.at, "LOST", event.target, text)
        case _:
            return None


def _benched(event: TargetBenched) -> Line:
    why = "limit used up" if event.reason == "headers" else event.reason
    for_seconds = "until unbenched"
    if event.until is not None:
        for_seconds = f"for {seconds_until(event.until, event.at)} s"
    text = f"{event.target} is skipped {for_seconds}: {why}"
    return Line(event.at, "benched", event.target, text, folds_as=why)
