"""A second, simple model of a circuit, which tests compare the real one with.

Written from the contract alone (breaker, benches, health), and from nothing that the package
does. It keeps every counted call in a list and looks through the list whenever it is asked: it
knows no buckets, no locks, no healthy path. It imports nothing of the package, so that nothing
can be wrong in both for the same reason.

Time is handed in. Benches are not jittered: the tests give the package a random generator
that always returns 0.

Where the contract leaves two answers open the model gives both, as None, and is given the one
that happened: averages "may be sampled", so a lease or a limit made of ten averages is not exact.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

FOREVER = math.inf
DEFAULTS = {
    "failures": 5,
    "error_rate": 0.5,
    "min_calls": 10,
    "window": 300.0,
    "slow_call": None,
    "slow_rate": 0.8,
    "cooldown": 30.0,
    "max_cooldown": 300.0,
    "probes": 1,
    "successes_to_close": 1,
    "probe_lease": None,
    "bad_rate": None,
    "mode": "enforce",
}
PAUSE_WITHOUT_HINT = 15.0
LONGEST_HINT = 3600.0
SHORTEST_HUNG = 10.0

SUCCESS = "success"
NO_STATE = -1
"""The state in which a call was admitted that came before the present one."""
HARMFUL = ("transient", "auth_dead", "memory_pressure")
COUNTED = (*HARMFUL, "rate_limited", "hung")


@dataclass(frozen=True)
class Outcome:
    """How a call ended: its kind, which of the two circuits is charged, the wait that was named."""

    kind: str
    scope: str = "target"
    hint: float | None = None


@dataclass(frozen=True)
class Counted:
    """One call that counts in the window."""

    order: int
    entered_at: float
    ended_at: float
    is_error: bool

    @property
    def seconds(self) -> float:
        return self.ended_at - self.entered_at


@dataclass(frozen=True)
class Bench:
    """One reason to sit out."""

    cause: str
    until: float
    kind: str | None = None
    reason: str = ""


@dataclass(eq=False)
class Place:
    """A probe's place: free again when its caller reports, or when its lease ends."""

    at_least_until: float
    at_most_until: float


@dataclass(frozen=True, eq=False)
class Admission:
    """What one circuit gave to one caller: the state it was in, and in half-open a place."""

    state: int
    place: Place | None


@dataclass(eq=False)
class Caller:
    """Somebody who was let through and has not reported yet."""

    name: str
    entered_at: float
    grants: dict[str, Admission]


@dataclass(eq=False)
class Circuit:
    """One key."""

    name: str
    options: dict[str, Any]
    now: float
    core: str = "closed"
    state: int = 0
    """Number of the present state; an admission with another number is late."""
    began_at: float = -FOREVER
    counted: list[Counted] = field(default_factory=list)
    counted_by_targets: list[Counted] = field(default_factory=list)
    """Calls of the targets of a provider since the provider last closed."""
    bad: list[Counted] = field(default_factory=list)
    """Bad answers since it last closed, which are among none of these calls."""
    in_a_row: int = 0
    escalation: int = 0
    quiet_since: float = 0.0
    manual: Bench | None = None
    pause: Bench | None = None
    opened: Bench | None = None
    places: list[Place] = field(default_factory=list)
    probes_answered: int = 0
    last_error: str | None = None
    slowest: float = 0.0
    """Seconds of the slowest success ever: ten averages are at most ten of it."""

    # What is asked.

    def benches(self) -> list[Bench]:
        return [bench for bench in (self.manual, self.opened, self.pause) if bench is not None]

    def shown(self) -> Bench | None:
        """The bench to list: the operator's, else the one that ends last."""
        return self.manual or max(self.benches(), key=lambda bench: bench.until, default=None)

    def is_blocked(self) -> bool:
        return bool(self.benches()) or self.options["mode"] == "forced_open"

    def said(self) -> str:
        """The state that users read."""
        return "open" if self.is_blocked() else self.core

    def why(self) -> str:
        """The state, with its cause if there is one."""
        shown = self.shown()
        return self.said() if shown is None else f"open ({shown.cause})"

    def admits(self) -> bool | None:
        """Whether somebody who came now would be let through; None if either would be right."""
        if self.is_blocked():
            return False
        if self.core != "half_open":
            return True
        surely_taken = sum(self.now < place.at_least_until for place in self.places)
        perhaps_taken = sum(self.now < place.at_most_until for place in self.places)
        if surely_taken < self.options["probes"] <= perhaps_taken:
            return None
        return perhaps_taken < self.options["probes"]

    def in_window(self) -> list[Counted]:
        return self.of_the_window(self.counted)

    def of_the_window(self, calls: list[Counted]) -> list[Counted]:
        return [call for call in calls if self.now - call.ended_at < self.options["window"]]

    # What happens.

    def become(self, core: str, began_at: float | None = None) -> None:
        """Enter a new state; whoever was admitted in the one before is late from now on."""
        self.core = core
        self.began_at = self.now if began_at is None else began_at
        self.state += 1
        self.places = []
        self.probes_answered = 0

    def pass_time(self, now: float) -> list[str]:
        """Let benches end; say what ended, and in which state."""
        self.now = now
        ended = [bench for bench in self.benches() if now >= bench.until]
        for bench in ended:
            if bench is self.manual:
                self.manual = None
            elif bench is self.pause:
                self.pause = None
            else:
                self.opened = None
                self.become("half_open", bench.until)
        return [f"{bench.cause} ends in {self.said()}" for bench in ended]

    def close(self) -> None:
        """Closing clears the window."""
        self.become("closed")
        self.opened = None
        self.counted = []
        self.counted_by_targets = []
        self.bad = []
        self.in_a_row = 0
        self.quiet_since = self.now

    def open(self, seconds: float, cause: str, kind: str | None) -> None:
        if self.options["mode"] != "metrics_only":
            if kind == "bad_response":
                self.last_error = kind
            self.become("open")
            self.opened = Bench(cause, self.now + seconds, kind)

    def is_at_rest(self) -> bool:
        """Whether it is closed and nothing blocks it."""
        return self.core == "closed" and self.manual is None and self.pause is None

    def pause_for(self, seconds: float) -> None:
        """An automatic bench is extended, never shortened."""
        until = self.now + min(seconds, LONGEST_HINT)
        if self.options["mode"] not in ("metrics_only", "disabled") and (
            self.pause is None or until > self.pause.until
        ):
            self.pause = Bench("rate_limited", until, "rate_limited")

    def heal(self) -> bool:
        """Let the escalation fall by one for each healthy window; return whether it did."""
        healthy_windows = int((self.now - self.quiet_since) // self.options["window"])
        fallen = min(self.escalation, healthy_windows)
        self.escalation -= fallen
        self.quiet_since = self.now
        return fallen > 0

    def cooldown(self) -> float:
        return min(self.options["cooldown"] * 2**self.escalation, self.options["max_cooldown"])

    def admission(self) -> Admission:
        """Let somebody through; in half-open a place is taken."""
        if self.core != "half_open":
            return Admission(self.state, None)
        shortest = longest = self.options["probe_lease"]
        if shortest is None:
            shortest = self.options["cooldown"]
            longest = max(shortest, 10 * self.slowest)
        place = Place(self.now + shortest, self.now + longest)
        self.places.append(place)
        return Admission(self.state, place)

    def give_back(self, admission: Admission) -> None:
        if admission.place in self.places:
            self.places.remove(admission.place)


class Model:
    """All keys of a process."""

    def __init__(
        self,
        options: dict[str, dict[str, Any]],
        now: float,
        *,
        on_memory_pressure: str = "skip",
        memory_pressure_cooldown: float = 120.0,
    ) -> None:
        """Start with circuits of these options, ``{key: {option: value}}``."""
        self.now = now
        self.on_memory_pressure = on_memory_pressure
        self.memory_pressure_cooldown = memory_pressure_cooldown
        self.order = 0
        self.circuits = {
            name: Circuit(name, {**DEFAULTS, **given}, now)
            for name, given in sorted(options.items())
        }
        self.reached: Counter[str] = Counter()
        """What ever happened, in words, and how often."""

    # Keys.

    def provider_of(self, circuit: Circuit) -> Circuit | None:
        return self.circuits[circuit.name.partition("/")[0]] if "/" in circuit.name else None

    def guards_of(self, name: str) -> list[Circuit]:
        """The circuits that must both let a call of this key through."""
        circuit = self.circuits[name]
        provider = self.provider_of(circuit)
        return [circuit] if provider is None else [circuit, provider]

    # Time.

    def pass_time(self, now: float) -> None:
        self.now = now
        for circuit in self.circuits.values():
            self.reached.update(circuit.pass_time(now))

    # Calls.

    def admits(self, name: str) -> bool | None:
        """Whether a call would be let through; None if either would be right."""
        answers = [circuit.admits() for circuit in self.guards_of(name)]
        return False if False in answers else None if None in answers else True

    def enter(self, name: str) -> Caller:
        guards = self.guards_of(name)
        for circuit in guards:
            if len(circuit.places) >= circuit.options["probes"]:
                self.reached["a place whose lease ended is leased again"] += 1
        return Caller(name, self.now, {circuit.name: circuit.admission() for circuit in guards})

    def record(self, name: str, seconds: float, outcome: Outcome) -> None:
        """Report a call made elsewhere: it is late where the state began after it."""
        guards = self.guards_of(name)
        if not self.admits(name):
            charged = guards[-1] if outcome.scope == "provider" else guards[0]
            began_here = charged.is_at_rest() and self.now - seconds >= charged.began_at
            if outcome.hint is not None and (charged.pause is not None or began_here):
                self.reached["a wait is named while the key is blocked"] += 1
                charged.pause_for(outcome.hint)
            return
        caller = self.enter(name)
        caller.entered_at -= seconds
        late = [each for each in guards if caller.entered_at < each.began_at]
        for circuit in late:
            circuit.give_back(caller.grants[circuit.name])
            caller.grants[circuit.name] = Admission(NO_STATE, None)
        if len(late) < len(guards):
            self.reached["a recorded call is late for one of two"] += bool(late)
        self.leave(caller, outcome)

    def is_hung(self, caller: Caller) -> bool | None:
        """Whether a call counts as hung if it is cancelled now; None if either would be right."""
        circuit = self.circuits[caller.name]
        seconds = self.now - caller.entered_at
        if circuit.options["slow_call"] is not None:
            return seconds >= circuit.options["slow_call"]
        surely_hung = max(SHORTEST_HUNG, 10 * circuit.slowest)
        return None if SHORTEST_HUNG <= seconds < surely_hung else seconds >= surely_hung

    def leave(self, caller: Caller, outcome: Outcome) -> None:
        """Report a call once: it counts where it was admitted in the present state, nowhere else."""
        self.order += 1
        if outcome.kind == "cancelled" and self.is_hung(caller):
            outcome = Outcome("hung")
        if outcome.kind == "memory_pressure" and self.on_memory_pressure != "skip":
            core = self.circuits[caller.name].core
            self.reached[f"out of memory is {self.on_memory_pressure} in {core}"] += 1
            outcome = Outcome("told" if self.on_memory_pressure == "warn" else "transient")
        guards = self.guards_of(caller.name)
        charged = guards[-1] if outcome.scope == "provider" else guards[0]
        late = {each.name for each in guards if caller.grants[each.name].state != each.state}
        for circuit in guards:
            admission = caller.grants[circuit.name]
            if outcome.kind == SUCCESS:
                circuit.slowest = max(circuit.slowest, self.now - caller.entered_at)
            if circuit.name in late:
                self.reached[f"a late {outcome.kind} in {circuit.core}"] += circuit is charged
                continue
            if outcome.kind == SUCCESS and guards[0].name in late and admission.place is None:
                continue  # it counts nowhere, so it says nothing of the provider
            self.reached[f"{outcome.kind} in {circuit.why()}"] += circuit is charged
            if admission.place is not None and self.now >= admission.place.at_most_until:
                self.reached["a probe reports after its lease"] += 1
            circuit.give_back(admission)
            if outcome.kind == SUCCESS:
                self._succeeded(circuit, caller, is_target=circuit is guards[0])
            elif circuit is charged and outcome.kind in COUNTED:
                self._failed(circuit, caller, outcome)
            elif circuit is charged and outcome.kind == "bad_response":
                self._answered_badly(circuit, caller)

    def _succeeded(self, circuit: Circuit, caller: Caller, *, is_target: bool) -> None:
        if is_target:  # a provider's numbers are the sums over its targets
            self._count(circuit, caller, is_error=False)
        if circuit.core == "half_open":
            circuit.probes_answered += 1
            if circuit.probes_answered >= circuit.options["successes_to_close"]:
                circuit.close()
            return
        circuit.in_a_row = 0
        if is_target or self._is_slow(circuit, self.now - caller.entered_at):
            self._look_at_triggers(circuit, None)

    def _failed(self, circuit: Circuit, caller: Caller, outcome: Outcome) -> None:
        kind = "transient" if outcome.kind == "hung" else outcome.kind
        circuit.last_error = kind
        self._count(circuit, caller, is_error=True)
        if circuit.core == "half_open":
            circuit.in_a_row += 1
            circuit.escalation += 1
            circuit.quiet_since = self.now
            self._open(circuit, kind, "probe failed")
        elif outcome.kind in HARMFUL:
            circuit.in_a_row += 1
        self.reached["the escalation has fallen"] += circuit.heal()
        if outcome.kind == "rate_limited":
            circuit.pause_for(PAUSE_WITHOUT_HINT if outcome.hint is None else outcome.hint)
        if circuit.core != "closed":
            return
        if outcome.kind in ("auth_dead", "memory_pressure"):
            self._open(circuit, kind, kind)
        else:
            self._look_at_triggers(circuit, kind)

    def _answered_badly(self, circuit: Circuit, caller: Caller) -> None:
        """Count a bad answer if that is asked for; it is neither an error nor a success."""
        if circuit.options["bad_rate"] is None:
            return
        if circuit.core == "half_open":
            circuit.in_a_row += 1
            circuit.escalation += 1
            circuit.quiet_since = self.now
            self._open(circuit, "bad_response", "probe failed")
            return
        circuit.bad.append(Counted(self.order, caller.entered_at, self.now, is_error=False))
        self._look_at_triggers(circuit, "bad_response")

    def _count(self, circuit: Circuit, caller: Caller, *, is_error: bool) -> None:
        call = Counted(self.order, caller.entered_at, self.now, is_error)
        circuit.counted.append(call)
        provider = self.provider_of(circuit)
        if provider is not None:
            provider.counted_by_targets.append(call)

    def _look_at_triggers(self, circuit: Circuit, kind: str | None) -> None:
        """Open by whichever trigger comes first."""
        limits = circuit.options
        calls = self._calls(circuit)
        errors = [call for call in circuit.in_window() if call.is_error]
        # A failure is charged to one of the two, and a slow one is too.
        slow = [
            call
            for call in calls
            if self._is_slow(circuit, call.seconds) and (call in errors or not call.is_error)
        ]
        cause = ""
        if circuit.in_a_row >= limits["failures"]:
            cause = "failures"
        elif len(calls) >= limits["min_calls"]:
            if len(errors) >= limits["error_rate"] * len(calls):
                cause = "error_rate"
            elif slow and len(slow) >= limits["slow_rate"] * len(calls):
                cause = "slow_rate"
        bad = circuit.of_the_window(circuit.bad)
        answers = len(bad) + sum(not call.is_error for call in calls)
        if (
            not cause
            and circuit.options["bad_rate"] is not None
            and answers >= limits["min_calls"]
            and len(bad) / answers >= limits["bad_rate"]
        ):
            cause, kind = "bad_rate", "bad_response"
        if cause:
            circuit.heal()
            self._open(circuit, kind, cause)

    def _is_slow(self, circuit: Circuit, seconds: float) -> bool:
        return circuit.options["slow_call"] is not None and seconds >= circuit.options["slow_call"]

    def _open(self, circuit: Circuit, kind: str | None, cause: str) -> None:
        """Bench for a cooldown, or for what this kind of error asks; an answer has no kind."""
        seconds = circuit.cooldown()
        if circuit.escalation:
            self.reached["a cooldown has grown"] += 1
        if kind == "auth_dead":
            seconds = circuit.options["max_cooldown"]
        elif kind == "memory_pressure":
            seconds = self.memory_pressure_cooldown
        circuit.open(seconds, cause, kind)
        self.reached[f"benched by {cause}"] += 1

    def _calls(self, circuit: Circuit) -> list[Counted]:
        """What counts for a key in its window since it last closed; a provider's with its targets'."""
        return circuit.in_window() + circuit.of_the_window(circuit.counted_by_targets)

    # Operators.

    def bench(self, name: str, seconds: float | None, reason: str) -> None:
        until = FOREVER if seconds is None else self.now + seconds
        self.circuits[name].manual = Bench("manual", until, None, reason)

    def unbench(self, name: str) -> bool:
        """End every bench of a key and trust it again; return whether it was benched."""
        circuit = self.circuits[name]
        was_benched = bool(circuit.benches())
        circuit.manual = circuit.pause = None
        circuit.in_a_row = 0
        circuit.escalation = 0
        if circuit.core != "closed":
            circuit.close()
        return was_benched

    def reset(self) -> None:
        """Forget everything automatic."""
        for circuit in self.circuits.values():
            circuit.pause = None
            circuit.escalation = 0
            circuit.last_error = None
            circuit.close()

    def configure(self, name: str, option: str, value: object) -> None:
        """Change a setting; a circuit that no longer blocks anybody ends what was automatic."""
        circuit = self.circuits[name]
        circuit.options[option] = value
        if circuit.options["mode"] == "metrics_only":
            circuit.pause = None
            if circuit.core != "closed":
                circuit.close()

    # What health() and list_benched() say.

    def numbers(self, name: str) -> tuple[int, int]:
        """``(total, errors)`` of a key."""
        calls = self._calls(self.circuits[name])
        return len(calls), sum(call.is_error for call in calls)

    def status(self, name: str) -> str:
        circuit = self.circuits[name]
        total, errors = self.numbers(name)
        provider = self.provider_of(circuit)
        if circuit.is_blocked() or (provider is not None and provider.is_blocked()):
            return "down"
        half_the_failures = circuit.in_a_row and circuit.in_a_row >= circuit.options["failures"] / 2
        return "degraded" if half_the_failures or (total and errors >= total / 10) else "healthy"

    def benched(self) -> list[tuple[str, Bench]]:
        """Every key that sits out, with the bench to list."""
        shown = [(name, circuit.shown()) for name, circuit in self.circuits.items()]
        return [(name, bench) for name, bench in shown if bench is not None]
