"""The registry of circuits by key. Owns which of them are kept when they are idle.

No other lock is taken under the registry's, and no user code runs under it: circuits are
made, asked and changed outside it. So what was found out about a circuit may have changed by
the time the lock is taken, and whoever changes the registry looks again.

A circuit is kept while it has state to remember or is referred to by a decorated function,
a guard or a call. Above ``MOST_KEYS`` the circuits that are healthy and idle are held
weakly, the longest idle first, so that one key per tenant does not grow memory without
limit.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from resilient_llm._core.circuit.circuit import Circuit
from resilient_llm._values.keys import parse_key, provider_key
from resilient_llm._values.settings import MOST_KEYS, Settings
from resilient_llm._values.target import normal_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from random import Random

    from resilient_llm._runtime.dispatcher import Dispatcher


class Registry:
    """Circuits by key; each is made on first use."""

    def __init__(
        self, settings: Settings, clock: Callable[[], float], rng: Random, dispatcher: Dispatcher
    ) -> None:
        self.kept: dict[str, Circuit] = {}
        """``{key: circuit}``, strongly held; the healthy path reads it without a lock."""
        self._all: weakref.WeakValueDictionary[str, Circuit] = weakref.WeakValueDictionary()
        self._options: dict[str, dict[str, Any]] = {}
        """``{key: options that guards gave}``. They hold also after a circuit was dropped."""
        self._lock = threading.RLock()
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._dispatcher = dispatcher
        self._suspended = False
        self._next_sweep = MOST_KEYS
        self._is_sweeping = False

    def circuit(self, key: str, options: Mapping[str, Any] | None = None) -> Circuit:
        """Return the circuit of a normalised key, with checked options applied to it."""
        circuit = self.kept.get(key)
        if circuit is None:
            circuit = self._make(key)
        if options and any(
            circuit.own.get(name, circuit) != value for name, value in options.items()
        ):
            self._apply(circuit, options)
        return circuit

    def find(self, spec: object) -> Circuit | None:
        """Return the circuit of a key in any spelling, or None if there is none yet."""
        key = normal_key(spec)
        # Under the lock: a lookup in a weak dictionary also removes dead entries, which breaks an
        # iteration over it in another thread.
        with self._lock:
            return self._all.get(key)

    def circuits(self) -> list[Circuit]:
        """Return all existing circuits, sorted by key."""
        with self._lock:
            return sorted(self._all.values(), key=lambda circuit: circuit.key)

    def configure(self, settings: Settings) -> None:
        """Store changed defaults; `settle` applies them to the existing circuits."""
        with self._lock:
            self._settings = settings
        for name, options in settings.breakers.items():
            if name != "*" and options.get("mode") == "forced_open":
                self._make(name)  # it is benched now, not only from its first use on

    def settle(self) -> None:
        """Apply the present settings to every circuit.

        Called without a lock, because circuits emit events.
        """
        for circuit in self.circuits():
            self._settle(circuit)

    def forget(self) -> None:
        """Reset counts, states and automatic benches; manual benches stay."""
        now = self._clock()
        for circuit in self.circuits():
            circuit.forget(now)

    def suspend(self, *, suspended: bool) -> None:
        """Stop all circuits from admitting, while another state of the process is in use."""
        with self._lock:
            self._suspended = suspended
            circuits = _providers_first(self._all.values())
        for circuit in circuits:
            self._suspend(circuit)

    def after_fork(self) -> None:
        """Give the child process new locks."""
        self._lock = threading.RLock()
        self._is_sweeping = False
        for circuit in _providers_first(self._all.values()):
            circuit.after_fork()

    def _make(self, key: str) -> Circuit:
        """Return the circuit of a key that is not kept: one that is still held, or a new one."""
        with self._lock:
            circuit = self._all.get(key)
        if circuit is None:
            circuit = self._add(key)
        with self._lock:
            self.kept[key] = circuit
            is_due = len(self.kept) > self._next_sweep and not self._is_sweeping
            self._is_sweeping = self._is_sweeping or is_due
        if is_due:
            try:
                self._sweep(keep=circuit)
            finally:
                self._is_sweeping = False
        return circuit

    def _add(self, key: str) -> Circuit:
        """Add a new circuit, unless another thread is earlier; return the one that is held."""
        provider, account, model = parse_key(key)
        parent = self.circuit(provider_key(provider, account)) if model else None
        with self._lock:
            own = self._options.get(key, {})
            settings = self._settings.for_key(key, own)
        made = Circuit(
            key,
            settings,
            now=self._clock(),
            rng=self._rng,
            sink=self._dispatcher,
            provider=parent,
        )
        made.own = own
        with self._lock:
            circuit = self._all.setdefault(key, made)
        # Both may have changed since they were read above.
        self._settle(circuit)
        self._suspend(circuit)
        return circuit

    def _suspend(self, circuit: Circuit) -> None:
        """Shut a circuit or put it back, as it holds for all of them now."""
        while circuit.suspended != (suspended := self._suspended):
            circuit.suspend(suspended=suspended)

    def _sweep(self, keep: Circuit) -> None:
        """Drop healthy idle keys, the longest idle first, down to nine tenths of the limit."""
        now = self._clock()
        with self._lock:
            kept = list(self.kept.values())
        idle = [
            each
            for each in kept
            if each is not keep and each is not keep.provider and each.is_idle(now)
        ]
        idle.sort(key=lambda circuit: circuit.last_used())
        for circuit in idle[: max(0, len(kept) - MOST_KEYS * 9 // 10)]:
            circuit.keep = self._keep
            with self._lock:
                if self.kept.get(circuit.key) is circuit:
                    del self.kept[circuit.key]
            if not circuit.is_idle(now):  # it failed meanwhile, before it knew whom to ask
                self._keep(circuit)
        # When few are idle, look again only after a tenth more, not at every new key.
        self._next_sweep = max(MOST_KEYS, len(self.kept) + MOST_KEYS // 10)

    def _keep(self, circuit: Circuit) -> None:
        """Keep a dropped circuit again, which was still in use and is now benched."""
        with self._lock:
            if self._all.get(circuit.key) is circuit:
                self.kept[circuit.key] = circuit

    def _apply(self, circuit: Circuit, options: Mapping[str, Any]) -> None:
        with self._lock:
            circuit.own.update(options)
            self._options[circuit.key] = circuit.own
        if self._settle(circuit):
            self._dispatcher.settings_changed(circuit.key, options)

    def _settle(self, circuit: Circuit) -> bool:
        """Apply the present settings to a circuit; return whether that changed it.

        Not under the lock, since a circuit emits events. Another thread may therefore change a
        default or an option meanwhile, and the slower thread would restore an old setting. So
        each thread repeats until the settings that it applied are the present ones.
        """
        changed, settings = False, None
        while True:
            with self._lock:
                wanted = self._settings.for_key(circuit.key, circuit.own)
            if wanted == settings:
                return changed
            settings = wanted
            changed = circuit.configure(settings, self._clock()) or changed


def _providers_first(circuits: Iterable[Circuit]) -> list[Circuit]:
    """Return circuits in an order in which each comes after its provider, at which it looks."""
    return sorted(circuits, key=lambda each: each.provider is not None)
