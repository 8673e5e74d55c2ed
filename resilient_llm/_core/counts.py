"""What exporters of metrics read: the counts of attempts and calls, kept beside the circuits.

Nothing of this exists while no exporter of metrics is installed. A `Ledger` begins when one is
installed, and counts the calls that begin from then on: each call refers to the ledger that was
present when it began. A further exporter begins a further ledger, so that calls which are running
then are counted for the earlier exporter and not for the new one. An exporter reads the sum over
the ledgers since its own. So what it reads begins at zero and never falls.

Theory of operation. A healthy call counts without a lock, by ``+= 1`` on an attribute or on an
entry of a list, as explained in circuit/window.py: no other thread comes between the load and the
store of such a statement. The index of the bucket is found before, since that is a call. Where
`window.LOCK_FREE` is False, a healthy call takes the lock of the ledger.

Everything else is counted from the facts from which events are made, by the thread that makes
them and before observers are told. A count is therefore never dropped, late or out of order, as
an event may be. These counts are dicts of texts: ``counts[labels] += 1`` is atomic, too, because
the hash of a text calls no Python code.

*Bounds*    A ledger names at most ``most`` keys; what comes after them is counted as `OTHER`.
*In flight* Attempts that began less those that ended. Each attempt ends once: it is answered,
            or it emits that it failed or was cancelled.
"""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.circuit import window
from resilient_llm._values import event_names
from resilient_llm._values.amounts import units
from resilient_llm._values.reasons import MANUAL, OTHER, reason_word

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from resilient_llm._values.target import Target

Labels = tuple[str, ...]


class Names:
    """The keys that are told apart, in the order in which they were first seen.

    A key and its provider are both named, as both have a circuit.
    """

    def __init__(self, most: int, known: Mapping[str, str] | None = None) -> None:
        self.known: dict[str, str] = dict(known or {})
        """``{key: key}``; a dict for its order."""
        self.most = most
        self._lock = threading.RLock()

    def of(self, key: str) -> str:
        """Return the key if it has a name or may still get one, else `OTHER`."""
        known = self.known
        if key in known or key == OTHER:
            return key
        provider = key.partition("/")[0]
        with self._lock:
            for each in (provider, key):
                if each in known:
                    continue
                if len(known) >= self.most:
                    return OTHER
                known[each] = each
        return key


class TargetCounts:
    """What was counted of the calls of one function on one target.

    Attributes:
        function: The counts of the function.
        key: Key of the target, or `OTHER`.
        bounds: Upper bounds of the buckets, here since a wrapper reads them.
        begun: Attempts that began.
        answers: Attempts that answered, by bucket of their seconds.
        seconds: Sum of the seconds that these took.
        ended: Attempts that failed or were cancelled.
    """

    __slots__ = ("answers", "begun", "bounds", "ended", "function", "key", "seconds")

    def __init__(self, function: FunctionCounts, key: str) -> None:
        self.function = function
        self.key = key
        self.bounds = function.ledger.bounds
        self.begun = 0
        self.answers = [0] * (len(self.bounds) + 1)
        self.seconds = 0.0
        self.ended = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Counts are of one process; the globals of a wrapper that is sent by value hold some.
        return _nothing, ()

    def begin(self) -> None:
        """Count that an attempt begins."""
        if window.LOCK_FREE:
            self.begun += 1
            return
        with self.function.ledger.lock:
            self.begun += 1

    def answer(self, seconds: float) -> None:
        """Count an attempt that answered."""
        bucket = bisect_left(self.bounds, seconds)
        if window.LOCK_FREE:
            self.answers[bucket] += 1
            self.seconds += seconds
            return
        with self.function.ledger.lock:
            self.answers[bucket] += 1
            self.seconds += seconds

    def end(self) -> None:
        """Count that an attempt has ended without an answer."""
        if window.LOCK_FREE:
            self.ended += 1
            return
        with self.function.ledger.lock:
            self.ended += 1


def _nothing() -> None:
    return None


class FirstContents:
    """Seconds until the first content of the streams of one target, by bucket."""

    __slots__ = ("answers", "seconds")

    def __init__(self, buckets: int) -> None:
        self.answers = [0] * buckets
        self.seconds = 0.0


class FunctionCounts:
    """What was counted of the calls of the functions of one name."""

    __slots__ = ("bound", "cancelled", "failed", "ledger", "name", "targets")

    is_exported = True
    """Whether an exporter of metrics counts."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self.ledger = ledger
        self.name = name
        self.failed = 0
        self.cancelled = 0
        self.targets: dict[str, TargetCounts] = {}
        self.bound: dict[int, weakref.ref[Any]] = {}
        """``{id: function of this name that was bound}``, while the function exists."""

    def target(self, key: str) -> TargetCounts:
        """Return the counts of a target."""
        name = self.ledger.names.of(key)
        known = self.targets.get(name)
        return (
            known if known is not None else self.targets.setdefault(name, TargetCounts(self, name))
        )

    def call_cancelled(self) -> None:
        """Count a call that ended with neither an answer nor a failure."""
        if window.LOCK_FREE:
            self.cancelled += 1
            return
        with self.ledger.lock:
            self.cancelled += 1

    def call_failed(self) -> None:
        """Count a call that an error left."""
        if window.LOCK_FREE:
            self.failed += 1
            return
        with self.ledger.lock:
            self.failed += 1

    def note(self, kind: event_names.EventName, key: str, details: Mapping[str, Any]) -> None:
        """Count a fact of a call, as the event of this name has it."""
        count = _COUNTED.get(kind)
        if count is not None:
            count(self, key, details)

    def skipped(self, key: str, reason: str, *, manual: bool) -> None:
        """Count that a target was passed over; ``manual`` if a bench by hand blocks it."""
        word = MANUAL if manual and reason != "forced_open" else reason_word(reason)
        self.ledger.add(self.ledger.skips, (self.ledger.names.of(key), word))


class Ledger:
    """All counts of one state of the process since the last exporter of metrics was installed."""

    def __init__(self, bounds: tuple[float, ...], names: Names) -> None:
        self.bounds = bounds
        """Upper bounds of the buckets of seconds, ascending; the last bucket has none."""
        self.names = names
        self.lock = threading.RLock()
        self.functions: dict[str, FunctionCounts] = {}
        self.unanswered: dict[Labels, int] = {}
        """``{(target, kind or "cancelled"): attempts}``"""
        self.retries: dict[Labels, int] = {}
        """``{(target, source): retries}``"""
        self.failovers: dict[Labels, int] = {}
        """``{(from target, to target, reason): failovers}``"""
        self.skips: dict[Labels, int] = {}
        """``{(target, reason): skips}``"""
        self.hedges: dict[Labels, int] = {}
        """``{(target, slow target): hedges}``"""
        self.order_changes: dict[Labels, int] = {}
        """``{(target,): moves of it}``"""
        self.tool_loops: dict[Labels, int] = {}
        """``{(function, action): calls whose conversation repeats one tool call}``"""
        self.spent: dict[Labels, int] = {}
        """``{(target,): what was booked, in 1e-12 USD}``"""
        self.first_contents: dict[str, FirstContents] = {}

    def function(self, name: str) -> FunctionCounts:
        """Return the counts of the functions of a name."""
        known = self.functions.get(name)
        return (
            known
            if known is not None
            else self.functions.setdefault(name, FunctionCounts(self, name))
        )

    def bound(self, function: object, name: str, chain: Sequence[Target]) -> FunctionCounts:
        """Return the counts of a function that is bound now, with those of its targets."""
        counts = self.function(name)
        for target in chain:
            counts.target(target.key)
        number, known = id(function), counts.bound
        known[number] = weakref.ref(function, lambda gone: _let_go(known, number, gone))
        return counts

    def add(self, counts: dict[Labels, int], labels: Labels, number: int = 1) -> None:
        """Add to a count."""
        counts.setdefault(labels, 0)
        if window.LOCK_FREE:
            counts[labels] += number
            return
        with self.lock:
            counts[labels] += number

    def first_content(self, key: str, seconds: float) -> None:
        """Count how long the first content of a stream took."""
        bucket = bisect_left(self.bounds, seconds)
        found = self.first_contents.get(key)
        if found is None:
            found = self.first_contents.setdefault(key, FirstContents(len(self.bounds) + 1))
        if window.LOCK_FREE:
            found.answers[bucket] += 1
            found.seconds += seconds
            return
        with self.lock:
            found.answers[bucket] += 1
            found.seconds += seconds


def _let_go(known: dict[int, weakref.ref[Any]], number: int, gone: weakref.ref[Any]) -> None:
    if known.get(number) is gone:
        del known[number]


# What is counted of each fact.


def _succeeded(function: FunctionCounts, key: str, details: Mapping[str, Any]) -> None:
    function.target(key).answer(details["seconds"])


def _failed(function: FunctionCounts, key: str, details: Mapping[str, Any]) -> None:
    _unanswered(function, key, details["kind"].value)


def _cancelled(function: FunctionCounts, key: str, _: Mapping[str, Any]) -> None:
    _unanswered(function, key, "cancelled")


def _unanswered(function: FunctionCounts, key: str, outcome: str) -> None:
    target = function.target(key)
    function.ledger.add(function.ledger.unanswered, (target.key, outcome))
    target.end()


def _retried(function: FunctionCounts, key: str, details: Mapping[str, Any]) -> None:
    ledger = function.ledger
    ledger.add(ledger.retries, (ledger.names.of(key), details["source"]))


def _failed_over(function: FunctionCounts, _: str, details: Mapping[str, Any]) -> None:
    ledger = function.ledger
    ledger.add(
        ledger.failovers,
        (
            ledger.names.of(details["from_target"]),
            ledger.names.of(details["to_target"]),
            reason_word(details["reason"]),
        ),
    )


def _hedged(function: FunctionCounts, key: str, details: Mapping[str, Any]) -> None:
    ledger = function.ledger
    ledger.add(ledger.hedges, (ledger.names.of(key), ledger.names.of(details["beside"])))


def _order_changed(function: FunctionCounts, key: str, _: Mapping[str, Any]) -> None:
    ledger = function.ledger
    ledger.add(ledger.order_changes, (ledger.names.of(key),))


def _tool_loop_found(function: FunctionCounts, _: str, details: Mapping[str, Any]) -> None:
    ledger = function.ledger
    ledger.add(ledger.tool_loops, (function.name, details["action"]))


def _committed(function: FunctionCounts, key: str, details: Mapping[str, Any]) -> None:
    ledger = function.ledger
    ledger.first_content(ledger.names.of(key), details["seconds"])


def _spent(function: FunctionCounts, key: str, details: Mapping[str, Any]) -> None:
    ledger, amount = function.ledger, details["usd"]
    if amount is not None:
        ledger.add(ledger.spent, (ledger.names.of(key),), units(amount))


def _call_failed(function: FunctionCounts, _: str, __: Mapping[str, Any]) -> None:
    function.call_failed()


_COUNTED: Final[dict[str, Callable[[FunctionCounts, str, Mapping[str, Any]], None]]] = {
    event_names.AttemptSucceeded: _succeeded,
    event_names.AttemptFailed: _failed,
    event_names.AttemptCancelled: _cancelled,
    event_names.RetryScheduled: _retried,
    event_names.FailedOver: _failed_over,
    event_names.HedgeStarted: _hedged,
    event_names.OrderChanged: _order_changed,
    event_names.ToolLoopDetected: _tool_loop_found,
    event_names.StreamCommitted: _committed,
    event_names.SpendRecorded: _spent,
    event_names.CallFailed: _call_failed,
}


# What an exporter reads.


class Histogram:
    """The seconds of one target over several ledgers."""

    __slots__ = ("buckets", "seconds")

    def __init__(self, buckets: int) -> None:
        self.buckets = [0] * buckets
        """By bucket, not cumulative; the last one has no bound."""
        self.seconds = 0.0

    @property
    def count(self) -> int:
        return sum(self.buckets)

    def add(
        self,
        bounds: tuple[float, ...],
        answers: list[int],
        answers_bounds: tuple[float, ...],
        seconds: float,
    ) -> None:
        """Add counts of other buckets, whose bounds contain all of ours.

        Args:
            bounds: Our bounds.
            answers: The counts.
            answers_bounds: Their bounds.
            seconds: Sum of their seconds.
        """
        self.seconds += seconds
        if bounds == answers_bounds:
            for index, number in enumerate(answers):
                self.buckets[index] += number
            return
        for index, number in enumerate(answers):
            is_last = index == len(answers_bounds)
            at = len(bounds) if is_last else bisect_left(bounds, answers_bounds[index])
            self.buckets[at] += number


class Figures:
    """What was counted for one exporter."""

    def __init__(self) -> None:
        self.calls: dict[Labels, int] = {}
        """``{(function, outcome): calls}``"""
        self.attempts: dict[Labels, int] = {}
        """``{(target, outcome): attempts}``"""
        self.retries: dict[Labels, int] = {}
        self.failovers: dict[Labels, int] = {}
        self.skips: dict[Labels, int] = {}
        self.hedges: dict[Labels, int] = {}
        self.order_changes: dict[Labels, int] = {}
        self.tool_loops: dict[Labels, int] = {}
        self.spent: dict[Labels, int] = {}
        """``{(target,): what was booked, in 1e-12 USD}``"""
        self.seconds: dict[str, Histogram] = {}
        self.first_contents: dict[str, Histogram] = {}
        self.in_flight: dict[str, int] = {}


def figures_of(ledgers: tuple[Ledger, ...], bounds: tuple[float, ...], names: Names) -> Figures:
    """Return the sum over ledgers.

    Args:
        ledgers: The ledgers, oldest first.
        bounds: Bounds of the buckets; each ledger has them, and perhaps more.
        names: The keys that the exporter tells apart.
    """
    found = Figures()
    for ledger in ledgers:
        for key in list(ledger.names.known):
            names.of(key)
        for function in list(ledger.functions.values()):
            _add_function(found, function, bounds, names)
        for sums, counted in (
            (found.attempts, ledger.unanswered),
            (found.retries, ledger.retries),
            (found.skips, ledger.skips),
            (found.order_changes, ledger.order_changes),
            (found.spent, ledger.spent),
        ):
            for (key, *more), number in list(counted.items()):
                _add(sums, (names.of(key), *more), number)
        for (from_key, to_key, reason), number in list(ledger.failovers.items()):
            _add(found.failovers, (names.of(from_key), names.of(to_key), reason), number)
        for (key, beside), number in list(ledger.hedges.items()):
            _add(found.hedges, (names.of(key), names.of(beside)), number)
        for labels, number in list(ledger.tool_loops.items()):
            _add(found.tool_loops, labels, number)
        for key, contents in list(ledger.first_contents.items()):
            _add_seconds(found.first_contents, names.of(key), contents, ledger.bounds, bounds)
    return found


def _add_function(
    found: Figures, function: FunctionCounts, bounds: tuple[float, ...], names: Names
) -> None:
    answered = 0
    for target in list(function.targets.values()):
        key = names.of(target.key)
        # The ends are read before the beginnings, so that no attempt ends before it begins.
        ended, answers = target.ended, list(target.answers)
        answered += (number := sum(answers))
        _add(found.in_flight, key, target.begun - ended - number)
        _add(found.attempts, (key, "ok"), number)
        histogram = found.seconds.get(key)
        if histogram is None:
            histogram = found.seconds[key] = Histogram(len(bounds) + 1)
        histogram.add(bounds, answers, function.ledger.bounds, target.seconds)
    for outcome, number in (
        ("ok", answered),
        ("failed", function.failed),
        ("cancelled", function.cancelled),
    ):
        _add(found.calls, (function.name, outcome), number)


def _add(counts: dict[Any, int], labels: Any, number: int) -> None:
    counts[labels] = counts.get(labels, 0) + number


def _add_seconds(
    found: dict[str, Histogram],
    key: str,
    contents: FirstContents,
    contents_bounds: tuple[float, ...],
    bounds: tuple[float, ...],
) -> None:
    histogram = found.get(key)
    if histogram is None:
        histogram = found[key] = Histogram(len(bounds) + 1)
    histogram.add(bounds, list(contents.answers), contents_bounds, contents.seconds)
