"""What came of a simulation: `Report`, and the record of each call that it is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from resilient_llm.testing._weather import Weather

_DIGITS: Final = 6
"""Digits of seconds in a report, which is as fine as the virtual clock is."""


class SentAttempt:
    """One attempt of a simulated call. Its answer is this object itself."""

    __slots__ = ("answered_at", "key", "started_at")

    def __init__(self, key: str, started_at: float) -> None:
        self.key = key
        self.started_at = started_at
        self.answered_at = math.nan


class SimulatedCall:
    """What became of one call.

    Attributes:
        number: Its number, from 0.
        started_at: Seconds since the start of the simulation.
        ended_at: The same for its end.
        attempts: Its attempts in the order in which they began.
        served_by: The attempt whose answer the caller was given, or None.
    """

    __slots__ = ("attempts", "ended_at", "number", "served_by", "started_at")

    def __init__(self, number: int, started_at: float) -> None:
        self.number = number
        self.started_at = started_at
        self.ended_at = math.nan
        self.attempts: list[SentAttempt] = []
        self.served_by: SentAttempt | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a simulation; reports of equal simulations are equal.

    Attributes:
        calls: How many calls were made.
        served: Share of the calls that were answered; 0.0 if none was made.
        p50: Seconds within which half of the served calls ended; None if none was served.
        p99: The same for 99 in a hundred.
        attempts_per_call: Attempts, hedges included, per call.
        wasted: Attempts that served no call.
        seconds_to_leave: ``{key of a target: seconds}`` from the start of its first fault to the
            first call that starts elsewhere; None without a fault, and if there was no such call.
        seconds_to_return: ``{key of a target: seconds}`` from the end of its first fault to the
            first call that is served there by an attempt made since; None as above.
    """

    calls: int
    served: float
    p50: float | None
    p99: float | None
    attempts_per_call: float
    wasted: int
    seconds_to_leave: dict[str, float | None]
    seconds_to_return: dict[str, float | None]

    def table(self) -> str:
        """Return the figures as two tables, for a terminal and for Markdown."""
        figures = [
            ("calls", f"{self.calls}"),
            ("served", f"{100 * self.served:.2f} %"),
            ("p50", _seconds(self.p50)),
            ("p99", _seconds(self.p99)),
            ("attempts per call", f"{self.attempts_per_call:.3f}"),
            ("wasted", f"{self.wasted}"),
        ]
        by_target = [
            (key, _seconds(left), _seconds(self.seconds_to_return[key]))
            for key, left in self.seconds_to_leave.items()
        ]
        return "\n\n".join(
            (
                rows_as_table([tuple(name for name, _ in figures), tuple(v for _, v in figures)]),
                rows_as_table([("target", "to leave", "to return"), *by_target]),
            )
        )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def rows_as_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a table of Markdown with columns of equal width; the first is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def report_of(calls: Sequence[SimulatedCall], weather: Mapping[str, Weather]) -> Report:
    """Return the report of the calls of a simulation.

    Args:
        calls: All calls, in the order in which they started.
        weather: ``{key of a target: its weather}``, in the order of the chain.
    """
    served = [call for call in calls if call.served_by is not None]
    taken = sorted(call.ended_at - call.started_at for call in served)
    attempts = sum(len(call.attempts) for call in calls)
    return Report(
        calls=len(calls),
        served=len(served) / len(calls) if calls else 0.0,
        p50=_percentile(taken, 0.50),
        p99=_percentile(taken, 0.99),
        attempts_per_call=attempts / len(calls) if calls else 0.0,
        wasted=attempts - len(served),
        seconds_to_leave={key: _left_after(calls, key, each) for key, each in weather.items()},
        seconds_to_return={key: _back_after(served, key, each) for key, each in weather.items()},
    )


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the value at the nearest rank."""
    return round(ordered[math.ceil(share * len(ordered)) - 1], _DIGITS) if ordered else None


def _left_after(calls: Iterable[SimulatedCall], key: str, weather: Weather) -> float | None:
    fault = weather.first_fault
    if fault is None:
        return None
    for call in calls:
        elsewhere = call.attempts and call.attempts[0].key != key
        if elsewhere and call.started_at >= fault.start:
            return round(call.started_at - fault.start, _DIGITS)
    return None


def _back_after(served: Iterable[SimulatedCall], key: str, weather: Weather) -> float | None:
    fault = weather.first_fault
    if fault is None:
        return None
    answers = (
        attempt.answered_at
        for call in served
        if (attempt := call.served_by) is not None
        if attempt.key == key and attempt.started_at >= fault.end
    )
    first = min(answers, default=None)
    return None if first is None else round(first - fault.end, _DIGITS)
