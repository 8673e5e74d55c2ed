"""The lines that the demo shows: events and changes of the weather, in operators' words.

Events contain no prompt, argument or key, so no line does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from resilient_llm import (
    AttemptFailed,
    BudgetExceeded,
    BudgetWarning,
    CallFailed,
    Event,
    FailedOver,
    StreamInterrupted,
    TargetBenched,
    TargetUnbenched,
)

if TYPE_CHECKING:
    from decimal import Decimal

    from resilient_llm.demo.weather import Turn


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened.

    Attributes:
        at: When, aware.
        word: What kind of thing: ``weather``, ``serving``, ``failed``, ``broke``,
            ``moved on``, ``sharing``, ``benched``, ``probed``, ``back``, ``budget``, ``spent``
            or ``LOST``.
        key: Which target or provider.
        text: What there is to say.
    """

    at: datetime
    word: str
    key: str
    text: str

    def plain(self) -> str:
        """Return it as one line of plain text."""
        return f"{clock(self.at)}  {self.word:<8}  {self.key:<{KEY_WIDTH}}  {self.text}".rstrip()


KEY_WIDTH = 22
"""Columns of the longest key."""

STYLES = {
    "weather": "cyan",
    "serving": "bold green",
    "failed": "yellow",
    "broke": "yellow",
    "moved on": "yellow",
    "benched": "bold red",
    "sharing": "bold green",
    "probed": "green",
    "back": "green",
    "budget": "yellow",
    "spent": "bold red",
    "LOST": "bold white on red",
}
"""``{word of a line: how it is shown}``"""


def clock(moment: datetime) -> str:
    """Return the local time of day."""
    return f"{moment.astimezone():%H:%M:%S}"


def until(moment: datetime | None, now: datetime) -> str:
    """Return when a bench ends: ``until 12:03:05 (4 s)``."""
    if moment is None:
        return "until unbenched"
    # Rounded up: a bench that has not ended is never shown with 0 s left.
    return f"until {clock(moment)} ({max(0, math.ceil((moment - now).total_seconds()))} s)"


def of_weather(turn: Turn) -> Line:
    """Return the line of a change in the weather."""
    return Line(datetime.now(UTC), "weather", turn.provider, turn.words)


def of_serving(target: str) -> Line:
    """Return the line of another target taking over."""
    return Line(datetime.now(UTC), "serving", target, "answers most calls now")


def of_budget(provider: str, spent: Decimal, cap: Decimal) -> Line:
    """Return the line of a budget that has another cap now."""
    said = f"its budget is {dollars(cap)} now, of which {dollars(spent)} is spent"
    return Line(datetime.now(UTC), "budget", provider, said)


def dollars(amount: Decimal | float) -> str:
    """Return an amount of USD, to a hundredth of a cent or finer."""
    return f"${amount:.6f}".rstrip("0").rstrip(".")


def of_event(event: Event) -> Line | None:
    """Return the line of an event, or None if it is only counted."""
    match event:
        case AttemptFailed():
            status = "" if event.status is None else f"{event.status} "
            return Line(
                event.at, "failed", event.target, f"{status}{event.reason}, attempt {event.number}"
            )
        case StreamInterrupted():
            return Line(
                event.at, "broke", event.target, f"{event.reason}, after {event.items_sent} items"
            )
        case FailedOver():
            return Line(event.at, "moved on", event.from_target, f"to {event.to_target}")
        case TargetBenched():
            why = (
                "until its reset"
                if event.reason == "headers"
                else event.trigger
                if event.retry_after is None
                else f"asked for {event.retry_after:g} s"
            )
            return Line(
                event.at,
                "benched",
                event.target,
                f"{until(event.until, event.at)} {event.reason}, {why}",
            )
        case TargetUnbenched():
            return Line(event.at, "back", event.target, event.reason)
        case BudgetWarning():
            return Line(event.at, "budget", event.target, _spent(event))
        case BudgetExceeded():
            said = f"{_spent(event)}, over until {event.resets_at:%Y-%m-%d}"
            return Line(event.at, "spent", event.target, said)
        case CallFailed():
            return Line(event.at, "LOST", event.target, f"a call, after {event.attempts} attempts")
        case _:
            return None


def _spent(event: BudgetWarning | BudgetExceeded) -> str:
    return f"{event.budget}: {dollars(event.spent)} of {dollars(event.cap)}"
