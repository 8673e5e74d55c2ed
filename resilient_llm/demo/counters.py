"""The counters of the demo: calls by the way they were made, events by type, and the summary."""

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
from resilient_llm.demo import log_lines
from resilient_llm.demo.log_lines import Log

if TYPE_CHECKING:
    from collections.abc import Collection

    from resilient_llm.demo.faults import FaultChange

FAILOVER: Final = "failover"
DEFAULT_RETRIES: Final = "default_retries"
NO_RETRIES: Final = "no_retries"
WAYS: Final = (FAILOVER, DEFAULT_RETRIES, NO_RETRIES)
"""The ways in which every call is made: by ``@failover``, by the openai client as it is, and by
the openai client with ``max_retries=0``."""

_RECENT: Final = 8
"""Answers that decide which target answers most calls; fewer would flicker."""


@dataclass(frozen=True, slots=True)
class WayCounts:
    """What one way of calling achieved.

    Attributes:
        calls: Calls that ended, with an answer or an error.
        failed: Calls that ended in an error.
        failed_share: ``failed / calls``, in [0, 1]; 0 before the first call.
        slowest: Longest time until an answer or an error, in seconds.
    """

    calls: int = 0
    failed: int = 0
    failed_share: float = 0.0
    slowest: float = 0.0

    def plus(self, *, answered: bool, seconds: float) -> WayCounts:
        """Return the counts with one more call."""
        calls, failed = self.calls + 1, self.failed + (not answered)
        slowest = round(max(self.slowest, seconds), 3)
        return WayCounts(calls, failed, round(failed / calls, 4), slowest)


@dataclass(frozen=True, slots=True)
class Summary:
    """How the demo went.

    Attributes:
        seconds: How long it was to last.
        interrupted: Whether it was ended early.
        calls_made: Calls by ``@failover`` that ended, with an answer or an error.
        calls_served: Calls that were answered.
        servable_calls_lost: Calls that failed although a provider was ok from their beginning to
            their end.
        plain_client_lost: Calls that failed when they were sent at the same moment to the first
            target by a client without a chain and without retries.
        ways: ``{way: its counts}``, of the same calls: ``failover``, ``default_retries`` (the
            openai client with its default retries) and ``no_retries``.
        default_max_retries: ``max_retries`` of the openai client when it is not set.
        streams_read: Streams that ended, completely or with an error.
        streams_whole: Streams of which every word arrived exactly once and from one model, after
            the words before a restart were dropped.
        streams_restarted: Streams that were restarted after partial output.
        streams_lost: Streams that ended in an error.
        served_by: ``{target: calls it answered}``.
        streamed_by: ``{target: streams that it completed}``.
        failures: ``{reason: failed attempts}``.
        benches: ``{key: benches}``.
        spent: ``{target: USD}``, of those with a price.
        over_budget: ``{target: calls that skipped it because a budget was spent}``.
        events: ``{type of event: number of events}``.
    """

    seconds: float
    interrupted: bool
    calls_made: int
    calls_served: int
    servable_calls_lost: int
    plain_client_lost: int
    ways: dict[str, WayCounts]
    default_max_retries: int
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
        """1 if a call that could be answered failed or a stream was broken, else 0."""
        return 1 if self.servable_calls_lost or self.streams_whole < self.streams_read else 0

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


class Counters:
    """Counts calls and events, and keeps the log. Used by one thread.

    Attributes:
        ways: See `Summary`; ``servable_calls_lost``, ``default_max_retries`` and the four
            numbers of streams as well.
        log: The lines of the log.
        served_by: ``{target: calls it answered}``.
        streamed_by: ``{target: streams that it completed}``.
        failed_at: ``{target: failed attempts}``.
        events: ``{type of event: number of events}``.
        spent: ``{target: USD}``, of those with a price.
        spent_budgets: ``{target: the budget that is spent}``.
        answering: The target that answered most of the last calls; empty before the first.
    """

    def __init__(self, streaming: Collection[str] = ()) -> None:
        """Start at zero.

        Args:
            streaming: Keys of the targets that stream, which are counted separately.
        """
        self._streaming = streaming
        self.ways = {way: WayCounts() for way in WAYS}
        self.servable_calls_lost = 0
        self.default_max_retries = 0
        self.streams_read = 0
        self.streams_whole = 0
        self.streams_restarted = 0
        self.streams_lost = 0
        self.log = Log()
        self.served_by: Counter[str] = Counter()
        self.streamed_by: Counter[str] = Counter()
        self.failed_at: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.spent: dict[str, Decimal] = {}
        self.spent_budgets: dict[str, BudgetExceeded] = {}
        self.answering = ""
        self._failures: Counter[str] = Counter()
        self._benches: Counter[str] = Counter()
        self._over_budget: Counter[str] = Counter()
        self._recent: deque[str] = deque(maxlen=_RECENT)

    def call_ended(self, *, answered: bool, could_be_answered: bool, seconds: float = 0.0) -> None:
        """Count one call by ``@failover``."""
        self.ways[FAILOVER] = self.ways[FAILOVER].plus(answered=answered, seconds=seconds)
        self.servable_calls_lost += could_be_answered and not answered

    def plain_call_ended(self, way: str, *, answered: bool, seconds: float = 0.0) -> None:
        """Count one call by a plain client."""
        self.ways[way] = self.ways[way].plus(answered=answered, seconds=seconds)

    def stream_ended(self, *, whole: bool, restarted: bool, lost: bool) -> None:
        """Count one stream."""
        self.streams_read += 1
        self.streams_whole += whole
        self.streams_restarted += restarted
        self.streams_lost += lost

    def fault_changed(self, change: FaultChange) -> None:
        """Log a fault that began or ended, which ends the phase of its provider."""
        self.log.end_phase(change.provider)
        self.log.add(log_lines.of_fault(change))

    def budget_changed(self, provider: str, spent: Decimal, cap: Decimal) -> None:
        """Log a budget with a new cap."""
        self.spent_budgets.clear()
        self.log.add(log_lines.of_budget(provider, spent, cap))

    def on_event(self, event: Event) -> None:
        """Count an event and log it; the observer of the demo."""
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
            self._count_money(event)
        line = log_lines.of_event(event)
        if line is not None:
            self.log.add(line)

    def _count_money(self, event: Event) -> None:
        if isinstance(event, SpendRecorded):
            if event.usd is not None:
                self.spent[event.target] = self.spent.get(event.target, Decimal()) + event.usd
        elif isinstance(event, BudgetExceeded):
            self.spent_budgets[event.target] = event
        elif isinstance(event, TargetSkipped) and event.reason.startswith("budget "):
            self._over_budget[event.target] += 1

    def summary(self, seconds: float, *, interrupted: bool) -> Summary:
        """Return how it went so far."""
        guarded = self.ways[FAILOVER]
        return Summary(
            seconds=seconds,
            interrupted=interrupted,
            calls_made=guarded.calls,
            calls_served=guarded.calls - guarded.failed,
            servable_calls_lost=self.servable_calls_lost,
            plain_client_lost=self.ways[NO_RETRIES].failed,
            ways=dict(self.ways),
            default_max_retries=self.default_max_retries,
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
        if ahead != self.answering and answers * 2 > len(self._recent):
            self.answering = ahead
            self.log.add(log_lines.of_answering(ahead))
