"""The counts of the demo: calls by who answered them, events by type, and the summary."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from resilient_llm import (
    AttemptFailed,
    AttemptSucceeded,
    BudgetExceeded,
    Event,
    SpendRecorded,
    TargetBenched,
    TargetSkipped,
)
from resilient_llm.demo import news

if TYPE_CHECKING:
    from collections.abc import Collection

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
        streams_read: Streams that were asked for and ended, with an answer or without.
        streams_whole: Streams of which every word came once and only once, and of one model,
            after what had come before a restart was thrown away.
        streams_restarted: Streams that broke after words had been read, and were restarted.
        streams_lost: Streams that ended in an error.
        served_by: ``{target: calls it answered}``.
        streamed_by: ``{target: streams that it brought to their end}``.
        failures: ``{reason: failed attempts}``.
        benches: ``{key: benches}``.
        spent: ``{target: USD}``, of those with a price.
        over_budget: ``{target: calls that passed it over since a budget was spent}``.
        events: ``{type of event: how many}``.
    """

    seconds: float
    interrupted: bool
    calls_made: int
    calls_served: int
    servable_calls_lost: int
    plain_client_lost: int
    streams_read: int
    streams_whole: int
    streams_restarted: int
    streams_lost: int
    served_by: dict[str, int]
    streamed_by: dict[str, int]
    failures: dict[str, int]
    benches: dict[str, int]
    spent: dict[str, float]
    over_budget: dict[str, int]
    events: dict[str, int]

    @property
    def exit_status(self) -> int:
        """1 if a call that could be served was lost or a stream was not whole, else 0."""
        return 1 if self.servable_calls_lost or self.streams_whole < self.streams_read else 0

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


class Tally:
    """Counts, and keeps the newest lines. Used by one thread.

    Attributes:
        calls_made: See `Summary`; the next seven, too.
        fresh: Lines that were not shown yet.
        served_by: ``{target: calls it answered}``.
        streamed_by: ``{target: streams that it brought to their end}``.
        failed_at: ``{target: failed attempts}``.
        events: ``{type of event: how many}``.
        spent: ``{target: USD}``, of those with a price.
        spent_budgets: ``{target: the budget that is spent}``.
        serving: The target that answered most of the last calls; empty before the first.
    """

    def __init__(self, streaming: Collection[str] = ()) -> None:
        """Begin at zero.

        Args:
            streaming: Keys of the targets that stream, which are counted apart.
        """
        self._streaming = streaming
        self.calls_made = 0
        self.calls_served = 0
        self.servable_calls_lost = 0
        self.plain_client_lost = 0
        self.streams_read = 0
        self.streams_whole = 0
        self.streams_restarted = 0
        self.streams_lost = 0
        self.fresh: deque[Line] = deque(maxlen=1000)
        self.served_by: Counter[str] = Counter()
        self.streamed_by: Counter[str] = Counter()
        self.failed_at: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.spent: dict[str, Decimal] = {}
        self.spent_budgets: dict[str, BudgetExceeded] = {}
        self.serving = ""
        self._failures: Counter[str] = Counter()
        self._benches: Counter[str] = Counter()
        self._over_budget: Counter[str] = Counter()
        self._recent: deque[str] = deque(maxlen=_RECENT)

    def call_ended(self, *, served: bool, servable: bool, plain_served: bool) -> None:
        """Count one call and its twin."""
        self.calls_made += 1
        self.calls_served += served
        self.servable_calls_lost += servable and not served
        self.plain_client_lost += not plain_served

    def stream_ended(self, *, whole: bool, restarted: bool, lost: bool) -> None:
        """Count one stream."""
        self.streams_read += 1
        self.streams_whole += whole
        self.streams_restarted += restarted
        self.streams_lost += lost

    def weather_turned(self, turn: Turn) -> None:
        """Keep a line of a change in the weather."""
        self.fresh.append(news.of_weather(turn))

    def budget_changed(self, provider: str, spent: Decimal, cap: Decimal) -> None:
        """Keep a line of a budget that has another cap now."""
        self.spent_budgets.clear()
        self.fresh.append(news.of_budget(provider, spent, cap))

    def see(self, event: Event) -> None:
        """Count an event; the observer of the demo."""
        self.events[type(event).__name__] += 1
        if isinstance(event, AttemptSucceeded):
            if event.target in self._streaming:
                self.streamed_by[event.target] += 1
            else:
                self._answered(event.target)
        elif isinstance(event, AttemptFailed):
            self.failed_at[event.target] += 1
            self._failures[event.reason] += 1
        elif isinstance(event, TargetBenched):
            self._benches[event.target] += 1
        else:
            self._see_money(event)
        line = news.of_event(event)
        if line is not None:
            self.fresh.append(line)

    def _see_money(self, event: Event) -> None:
        if isinstance(event, SpendRecorded):
            if event.usd is not None:
                self.spent[event.target] = self.spent.get(event.target, Decimal()) + event.usd
        elif isinstance(event, BudgetExceeded):
            self.spent_budgets[event.target] = event
        elif isinstance(event, TargetSkipped) and event.reason.startswith("budget "):
            self._over_budget[event.target] += 1

    def summary(self, seconds: float, *, interrupted: bool) -> Summary:
        """Return how it went so far."""
        return Summary(
            seconds=seconds,
            interrupted=interrupted,
            calls_made=self.calls_made,
            calls_served=self.calls_served,
            servable_calls_lost=self.servable_calls_lost,
            plain_client_lost=self.plain_client_lost,
            streams_read=self.streams_read,
            streams_whole=self.streams_whole,
            streams_restarted=self.streams_restarted,
            streams_lost=self.streams_lost,
            served_by=dict(self.served_by),
            streamed_by=dict(self.streamed_by),
            failures=dict(self._failures),
            benches=dict(self._benches),
            spent={target: float(usd) for target, usd in self.spent.items() if usd},
            over_budget=dict(self._over_budget),
            events=dict(self.events),
        )

    def _answered(self, target: str) -> None:
        self.served_by[target] += 1
        self._recent.append(target)
        ahead, answers = Counter(self._recent).most_common(1)[0]
        if ahead != self.serving and answers * 2 > len(self._recent):
            self.serving = ahead
            self.fresh.append(news.of_serving(ahead))
