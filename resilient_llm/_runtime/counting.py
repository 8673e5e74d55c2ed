"""`Reading`: what one exporter of metrics reads, from its installation on.

Owns which ledgers exist and who reads them. See _core/counts.py for how calls are counted. A state
of the process has one present ledger, in its dispatcher, while somebody reads. Each `Reading`
begins a new one and keeps those that come after it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from resilient_llm._core.circuit.permit import block_of
from resilient_llm._core.circuit.state import FOREVER
from resilient_llm._core.counts import Figures, Ledger, Names, figures_of
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.reasons import MANUAL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resilient_llm._core.circuit.circuit import Circuit

_STATES: Final = {"closed": 0, "half_open": 1, "open": 2}


class KeyState(NamedTuple):
    """What a key is at the moment.

    Attributes:
        key: The key.
        kind: Why it is benched: an error kind or ``manual``; None if it is not.
        until: When that ends, unix seconds; infinite until it is unbenched; 0 if not benched.
        state: 0 closed, 1 half-open, 2 open.
    """

    key: str
    kind: str | None
    until: float
    state: int


class Reading:
    """Reads what is counted of the calls that begin after this was made, in the present state."""

    def __init__(self, bounds: tuple[float, ...], most: int) -> None:
        """Begin to count.

        Args:
            bounds: Upper bounds of the buckets of seconds, ascending, without infinity.
            most: Keys that are told apart.
        """
        self.bounds = bounds
        self.names = Names(most)
        self.dispatcher = runtime.dispatcher
        self.registry = runtime.registry
        self.money = runtime.ledger
        self.ledgers: tuple[Ledger, ...] = ()
        with runtime.lock:
            _readings[id(self)] = self
            _begin(self)
        runtime.unbind_all()

    def end(self) -> None:
        """Let calls go uncounted, unless somebody else reads."""
        with runtime.lock:
            if _readings.pop(id(self), None) is None:
                return
            if not _beside(self):
                self.dispatcher.ledger = None
        runtime.unbind_all()
        self.ledgers = ()

    def figures(self) -> Figures:
        """Return what was counted until now."""
        found = figures_of(self.ledgers, self.bounds, self.names)
        if found.spent or self.money.has_budgets:
            # Also a zero: a counter that begins with its first amount shows no increase by that.
            for key, _ in list(found.attempts):
                found.spent.setdefault((key,), 0)
        return found

    def key_states(self) -> list[KeyState]:
        """Return what every key is now, sorted by key. May emit that a bench has ended."""
        now = runtime.clock()
        return [_state_of(each, now) for each in self.registry.circuits()]

    def budget_ratios(self) -> dict[str, float]:
        """Return ``{budget: share of its cap that is spent}``, of its keys the highest."""
        return self.money.ratios(runtime.wall())

    def live_targets(self) -> dict[str, int]:
        """Return ``{function: its targets that may be called now}``.

        Of functions with one name that of the function with the fewest.
        """
        found: dict[str, int] = {}
        for ledger in self.ledgers:
            for counts in list(ledger.functions.values()):
                for reference in list(counts.bound.values()):
                    function = reference()
                    if function is not None:
                        live = self._live(each.key for each in function.policy.chain)
                        found[counts.name] = min(live, found.get(counts.name, live))
        return found

    def _live(self, keys: Iterable[str]) -> int:
        now, live = runtime.clock(), 0
        for key in keys:
            circuit = self.registry.find(key) or self.registry.find(key.partition("/")[0])
            live += circuit is None or block_of(circuit, now) is None
        return live


def _state_of(circuit: Circuit, now: float) -> KeyState:
    bench, state = circuit.bench_now(now), _STATES[circuit.state(now)]
    if bench is None or circuit.settings.mode == "forced_open":
        return KeyState(circuit.key, None, 0.0, state)
    kind = MANUAL if bench.manual or bench.kind is None else bench.kind.value
    until = bench.until if bench.until == FOREVER else runtime.unix(bench.until)
    return KeyState(circuit.key, kind, until, state)


_readings: Final[dict[int, Reading]] = {}
"""``{id: a reading that has not ended}``, of all states of the process."""


def _beside(reading: Reading) -> list[Reading]:
    """Return all readings of the same state that have not ended."""
    return [each for each in list(_readings.values()) if each.dispatcher is reading.dispatcher]


def _begin(reading: Reading) -> None:
    """Begin a ledger for all who read the same state. Called under the runtime's lock."""
    readings, dispatcher = _beside(reading), reading.dispatcher
    bounds = tuple(sorted({bound for each in readings for bound in each.bounds}))
    before = dispatcher.ledger
    ledger = Ledger(
        bounds,
        Names(
            max(each.names.most for each in readings), {} if before is None else before.names.known
        ),
    )
    for each in readings:
        each.ledgers = (*each.ledgers, ledger)
    dispatcher.ledger = ledger


def _after_fork() -> None:
    """Count in a child process what begins in it, from zero on."""
    readings = list(_readings.values())
    for each in readings:
        # A thread of the parent may hold the lock of the names.
        each.names, each.ledgers, each.dispatcher.ledger = Names(each.names.most), (), None
    for each in readings:
        if not each.ledgers:
            _begin(each)
    if readings:
        runtime.unbind_all()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
