"""What is counted: calls by who got an answer, events by type, and the summary of it all."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from resilient_llm import AttemptFailed, AttemptSucceeded, Event, TargetBenched
from resilient_llm.demo import news

if TYPE_CHECKING:
    from resilient_llm.demo.news import Line
    from resilient_llm.demo.weather import Turn

_RECENT: Final = 8
"""Answers that decide which target serves now; fewer would flicker."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How the demo went.

    Attributes:
        seconds: How long it was to last.
        interrupted: Whether it was ended early.
        calls_made: Calls that ended, with an answer or without.
        calls_served: Calls that got one.
        servable_calls_lost: Calls that got none although a provider had fair weather from
            their beginning to their end.
        plain_client_lost: Calls whose twin got none: the same request, sent at the same
            moment to the first target by a client with no chain and no retries.
        served_by: ``{target: calls it answered}``.
        failures: ``{reason: failed attempts}``.
        benches: ``{key: benches}``.
        events: ``{type of event: how many}``.
    """

    seconds: float
    interrupted: bool
    calls_made: int
    calls_served: int
    servable_calls_lost: int
    plain_client_lost: int
    served_by: dict[str, int]
    failures: dict[str, int]
    benches: dict[str, int]
    events: dict[str, int]

    @property
    def exit_status(self) -> int:
        """1 if a call that could be served was lost, else 0."""
        return 1 if self.servable_calls_lost else 0

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


class Tally:
    """Counts, and keeps the newest lines. Used by one thread.

    Attributes:
        calls_made: See `Summary`; the next three, too.
        fresh: Lines that nobody has shown yet.
        served_by: ``{target: calls it answered}``.
        failed_at: ``{target: failed attempts}``.
        events: ``{type of event: how many}``.
        serving: The target that answered most of the last calls; empty before the first.
    """

    def __init__(self) -> None:
        self.calls_made = 0
        self.calls_served = 0
        self.servable_calls_lost = 0
        self.plain_client_lost = 0
        self.fresh: deque[Line] = deque(maxlen=1000)
        self.served_by: Counter[str] = Counter()
        self.failed_at: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.serving = ""
        self._failures: Counter[str] = Counter()
        self._benches: Counter[str] = Counter()
        self._recent: deque[str] = deque(maxlen=_RECENT)

    def call_ended(self, *, served: bool, servable: bool, plain_served: bool) -> None:
        """Count one call and its twin."""
        self.calls_made += 1
        self.calls_served += served
        self.servable_calls_lost += servable and not served
        self.plain_client_lost += not plain_served

    def weather_turned(self, turn: Turn) -> None:
        """Keep a line of a change in the weather."""
        self.fresh.append(news.of_weather(turn))

    def see(self, event: Event) -> None:
        """Count an event; the observer of the demo."""
        self.events[type(event).__name__] += 1
        if isinstance(event, AttemptSucceeded):
            self._answered(event.target)
        elif isinstance(event, AttemptFailed):
            self.failed_at[event.target] += 1
            self._failures[event.reason] += 1
        elif isinstance(event, TargetBenched):
            self._benches[event.target] += 1
        line = news.of_event(event)
        if line is not None:
            self.fresh.append(line)

    def summary(self, seconds: float, *, interrupted: bool) -> Summary:
        """Return how it went so far."""
        return Summary(
            seconds=seconds,
            interrupted=interrupted,
            calls_made=self.calls_made,
            calls_served=self.calls_served,
            servable_calls_lost=self.servable_calls_lost,
            plain_client_lost=self.plain_client_lost,
            served_by=dict(self.served_by),
            failures=dict(self._failures),
            benches=dict(self._benches),
            events=dict(self.events),
        )

    def _answered(self, target: str) -> None:
        self.served_by[target] += 1
        self._recent.append(target)
        ahead, answers = Counter(self._recent).most_common(1)[0]
        if ahead != self.serving and answers * 2 > len(self._recent):
            self.serving = ahead
            self.fresh.append(news.of_serving(ahead))
