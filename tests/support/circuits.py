"""Circuits by themselves: no registry, no clock, no randomness, and all events recorded."""

from __future__ import annotations

import random
import weakref
from typing import Any

from resilient_llm._core.circuit.circuit import Circuit
from resilient_llm._core.circuit.outbox import CallTag, Fact, Outbox
from resilient_llm._core.circuit.state import Admission, Block
from resilient_llm._values.event_names import EventName
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.settings import BreakerSettings
from resilient_llm._values.verdict import Verdict

DOWN = Verdict(ErrorKind.TRANSIENT, "overloaded", status=503)
HUNG = Verdict(ErrorKind.TRANSIENT, "hung")
DEAD = Verdict(ErrorKind.AUTH_DEAD, "invalid_credentials", status=401, scope="target")
FULL = Verdict(ErrorKind.MEMORY_PRESSURE)
WRONG = Verdict(ErrorKind.REQUEST_SPECIFIC, "invalid_request", status=400)


def limited(retry_after: float | None = None) -> Verdict:
    """Return a rate limit, with the wait that the provider names, if it names one."""
    return Verdict(ErrorKind.RATE_LIMITED, "rate_limit", retry_after=retry_after, status=429)


class NoJitter(random.Random):
    """A random generator that always returns the same, so that no bench is lengthened."""

    def __init__(self, shown: float = 0.0) -> None:
        super().__init__(0)
        self.shown = shown

    def random(self) -> float:
        return self.shown


class EventSink:
    """Records what circuits emit: ``(event, key, moment, details)`` in the order of delivery."""

    def __init__(self, *unwanted: str) -> None:
        self.unwanted = unwanted
        self.told: list[tuple[str, str, float, dict[str, Any]]] = []
        self.circuits: weakref.WeakSet[Circuit] = weakref.WeakSet()

    def has_listeners(self, kind: str, tag: CallTag | None = None, /) -> bool:
        return kind not in self.unwanted

    def emit(
        self,
        outbox: Outbox,
        kind: EventName,
        happened_at: float,
        tag: CallTag | None,
        /,
        **fields: Any,
    ) -> None:
        outbox.add(Fact(kind, happened_at, tag, fields))
        self.deliver(outbox, tag)

    def deliver(self, outbox: Outbox, tag: CallTag | None = None, /) -> None:
        assert not any(each._lock._is_owned() for each in self.circuits), "emitted under a lock"
        while outbox.pending:
            fact = outbox.pending.pop(0)
            if fact.kind not in self.unwanted:
                details = (
                    dict(fact.fields) if fact.tag is None else {**fact.fields, "tag": fact.tag}
                )
                self.told.append((fact.kind, outbox.key, fact.happened_at, details))

    def take(self) -> list[tuple[str, str, float, dict[str, Any]]]:
        """Return what was emitted since the last time."""
        told, self.told = self.told, []
        return told

    def kinds(self) -> list[str]:
        """Return the names of what was emitted since the last time."""
        return [kind for kind, *_ in self.take()]


def circuit(
    key: str = "groq/llama",
    *,
    now: float = 0.0,
    sink: EventSink | None = None,
    provider: Circuit | None = None,
    jitter: float = 0.0,
    **options: Any,
) -> Circuit:
    """Return a circuit with these settings, closed since ``now``."""
    sink = EventSink() if sink is None else sink
    made = Circuit(
        key,
        BreakerSettings(**options),
        now=now,
        rng=NoJitter(jitter),
        sink=sink,
        provider=provider,
    )
    sink.circuits.add(made)
    return made


def granted(leave: Admission | Block) -> Admission:
    """Return the leave; fails if there was none."""
    assert not isinstance(leave, Block), leave.reason
    return leave


_kept: list[object] = []


def kept(leave: Admission | Block) -> None:
    """Hold a leave for the rest of the tests: the place of a lease that is dropped is free."""
    _kept.append(leave)


def refused(leave: Admission | Block) -> Block:
    """Return why there was no leave; fails if there was."""
    assert isinstance(leave, Block)
    return leave


def fail(
    one: Circuit, now: float, verdict: Verdict = DOWN, *, times: int = 1, seconds: float = 0.0
) -> None:
    """Admit and fail some attempts, one after the other."""
    for _ in range(times):
        one.failure(granted(one.admit(now)), now, verdict, seconds)


def answer(one: Circuit, now: float, *, times: int = 1, seconds: float = 0.0) -> None:
    """Admit some attempts that are answered, one after the other."""
    for _ in range(times):
        counted = one.success(granted(one.admit(now)), now, seconds)
        if counted and one.provider is not None:
            one.provider.child_answered(one.provider.generation, now, seconds)


def benched(
    kind: ErrorKind | None,
    reason: str,
    trigger: str,
    until: float,
    *,
    retry_after: float | None = None,
    tag: CallTag | None = None,
    enforced: bool = True,
) -> dict[str, Any]:
    """Return the details of a `TargetBenched`."""
    fields = {
        "kind": kind,
        "reason": reason,
        "trigger": trigger,
        "until": until,
        "retry_after": retry_after,
        "enforced": enforced,
    }
    if trigger == "manual":
        fields["by"] = ""
    return fields if tag is None else {**fields, "tag": tag}
