"""The registry of circuits by key. Owns which of them are kept when they are idle.

No other lock is taken under the registry's, and no user code runs under it: circuits are
made, asked and changed outside it. So what was found out about a circuit may have changed by
the time the lock is taken, and the next change of the registry looks again.

A circuit is kept while it has state to remember or is referred to by a decorated function,
a guard or a call. Above ``MOST_KEYS`` the circuits that are healthy and idle are held
weakly, the longest idle first, so that one key per tenant does not grow memory without
limit. The options that guards named for a key outlast its circuit, for as many keys again.

A signal handler or a finaliser may use the registry at any place of it, also on the thread that
holds the lock, which is reentrant. So what is shared is changed and copied by single operations
of built-in dicts with text keys, during which no Python code runs, and nothing is found out
before a call that is relied on after it.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from resilient_llm._core.circuit.circuit import Circuit
from resilient_llm._core.circuit.telling import Telling
from resilient_llm._runtime.weak_circuits import WeakCircuits
from resilient_llm._values.keys import parse_key, provider_key
from resilient_llm._values.settings import MOST_KEYS, BreakerSettings, Settings
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
        self._all = WeakCircuits()
        self._options: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        """``{key: options that guards gave}``, those of the key that was dropped last at the end.

        They hold also after a circuit was dropped: see `_forget_options`.
        """
        self._lock = threading.RLock()
        self._settings = settings
        self._usual: tuple[Settings, BreakerSettings] | None = None
        """The settings of keys that have none of their own, and of which settings these are."""
        self._tagged: set[str] = set()
        """Keys to which a limit applies by a tag of their target."""
        self._clock = clock
        self._rng = rng
        self._dispatcher = dispatcher
        self.hears: Callable[[str], bool] = lambda _: False
        """Whether attempts on a key have to ask what its provider reports of its own limits."""
        self.telling = Telling()
        """Where all of them tell what other processes have to know."""
        self.on_new: Callable[[], object] = lambda: None
        """Called when a key comes into use."""
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
        return self._all.get(normal_key(spec))

    def look(self, key: str) -> Circuit:
        """Return the circuit of a normalised key, or without adding it the one that it would get.

        For questions alone: the latter has no provider, and its events go nowhere.
        """
        circuit = self._all.get(key)
        if circuit is not None:
            return circuit
        with self._lock:
            settings = self._settings_for(key, self._options.get(key))
        return Circuit(key, settings, now=self._clock(), rng=self._rng, sink=_NOWHERE)

    def settings_of(self, key: str) -> BreakerSettings:
        """Return the settings that the circuit of a normalised key has, or would get."""
        return self._settings_for(key, self._options.get(key))

    def _settings_for(self, key: str, own: Mapping[str, Any] | None) -> BreakerSettings:
        settings, usual = self._settings, self._usual
        if own or key in settings.breakers:
            return settings.for_key(key, own or {})
        if usual is None or usual[0] is not settings:
            usual = self._usual = settings, settings.for_key(key, {})
        return usual[1]

    def circuits(self) -> list[Circuit]:
        """Return all existing circuits, sorted by key."""
        return sorted(self._all.values(), key=lambda circuit: circuit.key)

    def configure(self, settings: Settings) -> None:
        """Store changed defaults; `settle` applies them to the existing circuits."""
        with self._lock:
            self._settings = settings
            self._tagged = set()

    def settle(self) -> None:
        """Apply the present settings to every circuit, then deliver the events of that.

        Called without a lock. An observer that interrupts the caller is heard when every circuit
        is changed and every event is delivered.
        """
        circuits = self.circuits()
        for circuit in circuits:
            self._settle(circuit, deliver=False)
        # What is forced open is benched now, not only from its first use on.
        forced = [
            functools.partial(self._make, name)
            for name, options in self._settings.breakers.items()
            if name != "*" and options.get("mode") == "forced_open"
        ]
        _do_all([*forced, *(circuit.deliver for circuit in circuits)])

    def forget(self) -> None:
        """Reset counts, states and automatic benches, then deliver the events of that.

        Manual benches stay.
        """
        now, circuits = self._clock(), self.circuits()
        for circuit in circuits:
            circuit.forget(now, deliver=False)
        _do_all(circuit.deliver for circuit in circuits)

    def suspend(self, *, suspended: bool) -> None:
        """Stop all circuits from admitting, while another state of the process is in use."""
        self._suspended = suspended
        for circuit in _providers_first(self._all.values()):
            self._suspend(circuit)

    def after_fork(self) -> None:
        """Give the child process new locks."""
        self._lock = threading.RLock()
        self._is_sweeping = False
        for circuit in _providers_first(self._all.values()):
            circuit.after_fork()

    def _make(self, key: str) -> Circuit:
        """Return the circuit of a key that is not kept: one that is still held, or a new one."""
        circuit = self._all.get(key) or self._add(key)
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
            settings = self._settings_for(key, own)
        made = Circuit(
            key,
            settings,
            now=self._clock(),
            rng=self._rng,
            sink=self._dispatcher,
            provider=parent,
            looks=True,
            telling=self.telling,
        )
        made.own = own
        with self._lock:
            circuit = self._all.add(key, made)
            if circuit is made and key in self._options:
                made.own = self._options[key]
        # All of it may have changed since it was read above.
        self._settle(circuit)
        self._suspend(circuit)
        self.on_new()
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
                    self.kept.pop(circuit.key, None)
                if circuit.key in self._options:
                    self._options.move_to_end(circuit.key)
            if not circuit.is_idle(now):  # it failed meanwhile, before it knew whom to ask
                self._keep(circuit)
        self._forget_options()
        # When few are idle, look again only after a tenth more, not at every new key.
        self._next_sweep = max(MOST_KEYS, len(self.kept) + MOST_KEYS // 10)

    def _forget_options(self) -> None:
        """Drop the options of keys that no longer have a circuit, but the last of them.

        Those of ``MOST_KEYS`` stay, as many as there are circuits. So a key's options are dropped
        only when so many others with options were in use and idle since. A guard that is kept in
        a variable has its own copy, and its circuit exists.
        """
        with self._lock:
            for key in self._unused_options()[:-MOST_KEYS]:
                self._options.pop(key, None)

    def _unused_options(self) -> list[str]:
        return [key for key in list(self._options) if self._all.get(key) is None]

    def _keep(self, circuit: Circuit) -> None:
        """Keep a dropped circuit again, which was still in use and is now benched."""
        with self._lock:
            if self._all.get(circuit.key) is circuit:
                self.kept[circuit.key] = circuit

    def _apply(self, circuit: Circuit, options: Mapping[str, Any]) -> None:
        with self._lock:
            circuit.own = {**circuit.own, **options}  # never changed, since others may read it
            self._options[circuit.key] = circuit.own
        if self._settle(circuit):
            self._dispatcher.settings_changed(circuit.key, options)

    def limit(self, circuit: Circuit) -> None:
        """Let no attempt on a key pass without asking: a limit applies to a tag of its target.

        Until the next change of the settings, after which functions are bound again.
        """
        if circuit.is_limited:
            return
        with self._lock:
            self._tagged = {*self._tagged, circuit.key}
        circuit.limit(is_limited=True)

    def _settle(self, circuit: Circuit, *, deliver: bool = True) -> bool:
        """Apply the present settings to a circuit; return whether that changed it.

        Not under the lock, since a circuit emits events. Another thread may therefore change a
        default or an option meanwhile, and the slower thread would restore an old setting. So
        each thread repeats until the settings that it applied are the present ones.
        """
        changed, settings = False, None
        while True:
            with self._lock:
                wanted = self._settings_for(circuit.key, circuit.own)
            if wanted == settings:
                return changed
            settings = wanted
            changed = circuit.configure(settings, self._clock(), deliver=deliver) or changed
            self._settle_limit(circuit)

    def settle_limits(self) -> None:
        """Let the attempts on each key ask first, or no longer, as what is reported says now."""
        for circuit in self.circuits():
            self._settle_limit(circuit)

    def _settle_limit(self, circuit: Circuit) -> None:
        key = circuit.key
        is_limited = key in self._tagged or self._settings.is_limited(key) or self.hears(key)
        if is_limited is not circuit.is_limited:
            circuit.limit(is_limited=is_limited)


class _Nowhere:
    """Takes the events of circuits that nobody uses."""

    def has_listeners(self, kind: object, tag: object = None, /) -> bool:
        return False

    def emit(self, *_: object, **fields: object) -> None:
        pass

    def deliver(self, *_: object) -> None:
        pass


_NOWHERE = _Nowhere()


def _providers_first(circuits: Iterable[Circuit]) -> list[Circuit]:
    """Return circuits in an order in which each comes after its provider, at which it looks."""
    return sorted(circuits, key=lambda each: each.provider is not None)


def _do_all(jobs: Iterable[Callable[[], object]]) -> None:
    """Do every job, each of which may deliver events; an interrupt leaves after the last one."""
    interrupt: BaseException | None = None
    for job in jobs:
        try:
            job()
        except BaseException as error:  # noqa: BLE001  # raised below
            interrupt = interrupt or error
    if interrupt is not None:
        try:
            raise interrupt
        finally:
            del interrupt  # its traceback refers to this frame
