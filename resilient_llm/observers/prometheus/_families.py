"""The metrics: their names, types, labels and present values, as plain data.

Knows neither prometheus_client nor files. `_collector` and `_files` write what this module gives.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.reasons import MANUAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from resilient_llm.observers._exporter import Exporter

Labels = tuple[str, ...]

UNITS_OF_USD: Final = 10**12
"""Whole units in which spending is counted."""


class Seconds(Protocol):
    """The seconds of many attempts."""

    @property
    def buckets(self) -> list[int]: ...
    @property
    def seconds(self) -> float: ...


class Names(Protocol):
    """Tells which keys have their own time series."""

    def of(self, key: str, /) -> str: ...


class Reading(Protocol):
    """What calls were counted since an exporter was installed, and what every key is now."""

    @property
    def bounds(self) -> tuple[float, ...]: ...
    @property
    def names(self) -> Names: ...
    def figures(self) -> Any: ...
    def key_states(self) -> Iterable[Any]: ...
    def live_targets(self) -> Mapping[str, int]: ...
    def budget_ratios(self) -> Mapping[str, float]: ...
    def end(self) -> None: ...


class Family(NamedTuple):
    """One metric.

    Attributes:
        name: Without namespace; of a counter without ``_total``.
        type: Its type.
        help: What its value is.
        labels: Names of its labels.
        mode: How the gauges of several processes are one: by the greatest, or by the sum.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Labels
    mode: Literal["livemax", "livesum"] = "livemax"


CALLS: Final = Family("calls", "counter", "Calls that ended.", ("function", "outcome"))
ATTEMPTS: Final = Family("attempts", "counter", "Attempts that ended.", ("target", "outcome"))
ATTEMPT_SECONDS: Final = Family(
    "attempt_seconds",
    "histogram",
    "Seconds that successful attempts took, streams to their end.",
    ("target",),
)
FIRST_CONTENT: Final = Family(
    "first_content_seconds",
    "histogram",
    "Seconds until the first content of streams.",
    ("target",),
)
RETRIES: Final = Family("retries", "counter", "Retries on the same target.", ("target", "source"))
FAILOVERS: Final = Family(
    "failovers",
    "counter",
    "Moves to another target after a failed attempt.",
    ("from_target", "to_target", "reason"),
)
SKIPS: Final = Family(
    "skips", "counter", "Targets passed over without being called.", ("target", "reason")
)
HEDGES: Final = Family(
    "hedges", "counter", "Attempts started beside a slow one.", ("target", "beside")
)
ORDER_CHANGES: Final = Family(
    "order_changes", "counter", "Moves of a target by adaptive order.", ("target",)
)
TOOL_LOOPS: Final = Family(
    "tool_loops",
    "counter",
    "Calls whose conversation repeats one tool call.",
    ("function", "action"),
)
BENCHED: Final = Family("benched", "gauge", "1 while the key is benched.", ("target", "kind"))
BENCH_UNTIL: Final = Family(
    "bench_until_timestamp_seconds",
    "gauge",
    "When the bench ends, unix time; +Inf until it is unbenched; 0 if there is none.",
    ("target",),
)
STATE: Final = Family(
    "state", "gauge", "State of the circuit: 0 closed, 1 half-open, 2 open.", ("target",)
)
LIVE_TARGETS: Final = Family(
    "live_targets", "gauge", "Targets of the function that may be called now.", ("function",)
)
IN_FLIGHT: Final = Family(
    "in_flight", "gauge", "Attempts that are running.", ("target",), "livesum"
)
SPEND: Final = Family(
    "spend_usd", "counter", "USD that attempts were booked with, while spending is.", ("target",)
)
BUDGET_RATIO: Final = Family(
    "budget_ratio",
    "gauge",
    "Share of the cap that is spent in the present period; by key the highest.",
    ("budget",),
)
DROPPED: Final = Family(
    "exporter_dropped", "counter", "Events that an exporter dropped.", ("exporter",)
)

FAMILIES: Final = (
    CALLS,
    ATTEMPTS,
    ATTEMPT_SECONDS,
    FIRST_CONTENT,
    RETRIES,
    FAILOVERS,
    SKIPS,
    HEDGES,
    ORDER_CHANGES,
    TOOL_LOOPS,
    BENCHED,
    BENCH_UNTIL,
    STATE,
    LIVE_TARGETS,
    IN_FLIGHT,
    SPEND,
    BUDGET_RATIO,
    DROPPED,
)

Values = dict[Labels, float]
Histograms = dict[Labels, Seconds]


class Metrics:
    """Gives the present values of all metrics of one exporter."""

    def __init__(self, reading: Reading, installed: Callable[[], list[Exporter]]) -> None:
        self.reading = reading
        self._installed = installed
        self._kinds: dict[tuple[str, str], None] = {}
        """``(target, kind)`` of every bench that was seen; their gauge is 0 afterwards."""
        self._dropped = Dropped(installed())

    def values(self) -> Iterator[tuple[Family, Values | Histograms]]:
        """Return every family with ``{values of its labels: its value}``."""
        figures: Any = self.reading.figures()
        yield CALLS, figures.calls
        yield ATTEMPTS, figures.attempts
        yield ATTEMPT_SECONDS, _by_label(figures.seconds)
        yield FIRST_CONTENT, _by_label(figures.first_contents)
        yield RETRIES, figures.retries
        yield FAILOVERS, figures.failovers
        yield SKIPS, figures.skips
        yield HEDGES, figures.hedges
        yield ORDER_CHANGES, figures.order_changes
        yield TOOL_LOOPS, figures.tool_loops
        benched, until, state = self._of_keys()
        yield BENCHED, benched
        yield BENCH_UNTIL, until
        yield STATE, state
        yield LIVE_TARGETS, _by_label(self.reading.live_targets())
        yield IN_FLIGHT, _by_label({key: max(0, n) for key, n in figures.in_flight.items()})
        yield SPEND, {labels: units / UNITS_OF_USD for labels, units in figures.spent.items()}
        yield BUDGET_RATIO, _by_label(self.reading.budget_ratios())
        yield DROPPED, self._dropped.values(self._installed())

    def _of_keys(self) -> tuple[Values, Values, Values]:
        """Return the gauges of the keys. Several that have no name of their own count as one."""
        benched: Values = dict.fromkeys(self._kinds, 0.0)
        until: Values = {}
        state: Values = {}
        for each in self.reading.key_states():
            name = self.reading.names.of(each.key)
            # So that a key has a time series before its first bench.
            benched.setdefault((name, MANUAL), 0.0)
            if each.kind is not None:
                self._kinds[name, each.kind] = None
                benched[name, each.kind] = 1.0
            until[name,] = max(each.until, until.get((name,), 0.0))
            state[name,] = max(each.state, state.get((name,), 0.0))
        return benched, until, state


def encodable(labels: Labels) -> Labels:
    """Return the values of labels as a scrape can write them.

    The name of a function may be any text. One that UTF-8 cannot encode would fail the scrape,
    and with it every metric of the application.
    """
    return tuple(
        each if each.isascii() else each.encode("utf-8", "backslashreplace").decode()
        for each in labels
    )


def _by_label(values: Mapping[str, Any]) -> dict[Labels, Any]:
    return {(key,): value for key, value in values.items()}


class Dropped:
    """Adds up what exporters of one name dropped, those included that were uninstalled since."""

    def __init__(self, installed: list[Exporter]) -> None:
        self._before = {each: each.dropped for each in installed}
        """What each exporter had dropped when this was made."""
        self._of_ended: dict[str, int] = {}

    def values(self, installed: list[Exporter]) -> Values:
        """Return ``{(name,): events}``."""
        for each in installed:
            self._before.setdefault(each, 0)
        found: Values = {}
        for each, before in list(self._before.items()):
            if each.dropped < before:  # it starts anew in a forked child
                before = self._before[each] = 0
            number = each.dropped - before
            if each.is_over:
                if self._before.pop(each, None) is not None:  # another scrape may be earlier
                    self._of_ended[each.name] = self._of_ended.get(each.name, 0) + number
            else:
                found[each.name,] = found.get((each.name,), 0) + number
        for name, number in self._of_ended.items():
            found[name,] = found.get((name,), 0) + number
        return found


def bound_texts(bounds: tuple[float, ...]) -> list[str]:
    """Return the bounds of buckets as labels, with that of the last one."""
    return [*(repr(each) for each in bounds), "+Inf"]


_NAMESPACE: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")


def checked_namespace(namespace: Any) -> str:
    """Return a namespace that names of metrics may begin with."""
    if not isinstance(namespace, str) or not _NAMESPACE.match(namespace):
        shown = repr(namespace) if isinstance(namespace, str) else type(namespace).__name__
        raise ConfigurationError(
            f"namespace={shown} is not allowed: "
            "write letters, digits and underscores, such as 'resilient_llm'"
        )
    return namespace
