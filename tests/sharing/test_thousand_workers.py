"""A thousand workers at the end of a shared bench, in virtual time: who probes, and who serves.

Each worker has a registry and a mirror of its own, and all share one store. A worker calls its
target about once a second, and goes to a fallback while that is benched.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from resilient_llm._core.circuit.claims import ask_places
from resilient_llm._core.circuit.foreign import apply_bench, apply_end
from resilient_llm._core.circuit.permit import Permit, admit
from resilient_llm._core.circuit.telling import PlaceWanted, ProbeOver
from resilient_llm._core.sharing import mirror as mirrors
from resilient_llm._core.sharing.mirror import Mirror
from resilient_llm._core.sharing.steps import ApplyBench, ApplyEnd, KeyRules, PlaceAnswered, Rest
from resilient_llm._runtime.runtime import Runtime
from tests.support.mirrors import Clock, Road
from tests.support.sharing import DOWN
from tests.support.ways import GROQ

WORKERS = 1000
COOLDOWN = 30.0
HINT = 0.05
"""Seconds from a publication to the look of another process."""


class Fleet:
    """The workers, their store and their provider."""

    def __init__(self, recovers_at: float) -> None:
        from resilient_llm.testing import MemoryStore

        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.recovers_at = recovers_at
        self.rng = random.Random(7)
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.probes: list[float] = []
        """When a probe reached the provider."""
        self.workers = [Worker(self, number) for number in range(WORKERS)]

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.clock.now + seconds, next(self.numbers), action))

    def run_until(self, end: float) -> None:
        while self.events and self.events[0][0] <= end:
            self.clock.now, _, action = heapq.heappop(self.events)
            action()
        self.clock.now = end

    def published(self) -> None:
        """Let all others look soon, as a hint of the store does."""
        for each in self.workers:
            if not each.is_hinted:
                each.is_hinted = True
                self.later(HINT, each.look)


class Worker:
    """One process."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.fleet = fleet
        self.is_hinted = False
        state = Runtime()
        self.registry = state.registry
        self.registry._clock = lambda: fleet.clock.now
        ids = itertools.count()
        self.mirror = Mirror(
            url="memory:",
            session=f"s{number}",
            source=f"host{number}:1",
            new_id=lambda: f"{number}-{next(ids)}",
            rules=lambda _: KeyRules("enforce", 300.0),
            now=fleet.clock.now,
        )
        telling = self.registry.telling
        telling.changes = self.told = deque()
        telling.clock = lambda: fleet.clock.now
        telling.is_shared, telling.is_down, telling.timeout = self.mirror.is_shared, False, 0.25
        self.road = Road(fleet.store)
        self.circuit = self.registry.circuit(GROQ)
        self.work()

    def look(self) -> None:
        self.is_hinted = False
        self.mirror._look_at = self.fleet.clock.now
        self.work()

    def work(self) -> None:
        """Do what the thread does."""
        mirror, clock = self.mirror, self.fleet.clock
        has_published = False
        while True:
            while self.told:
                change: Any = self.told.popleft()
                if isinstance(change, PlaceWanted):
                    mirror.ask_place(change.key, change.lease, change.ticket, change.until)
                elif isinstance(change, ProbeOver):
                    mirror.place_over(change.key)
                else:
                    mirror.tell(change)
            step = mirror.next_step(clock.now)
            if isinstance(step, Rest):
                mirror.answered(False, clock.now)
            else:
                has_published = has_published or bool(getattr(step, "changes", ()))
                mirror.answered(self.road.do(step), clock.now)
            for effect in mirror.take_effects():
                ticket: Any = getattr(effect, "ticket", None)
                if isinstance(effect, PlaceAnswered):
                    ticket.answered(effect)
                elif isinstance(effect, ApplyBench):
                    apply_bench(self.circuit, clock.now, effect)
                elif isinstance(effect, ApplyEnd):
                    apply_end(self.circuit, clock.now, effect)
            mirror.applied()
            self.registry.telling.order = mirror.order
            if isinstance(step, Rest):
                break
        if has_published:
            self.fleet.published()

    def call(self) -> None:
        """Call the target, or the fallback; and again in about a second."""
        fleet = self.fleet
        fleet.later(fleet.rng.uniform(0.5, 1.5), self.call)
        now = fleet.clock.now
        permit = admit(self.circuit, now)
        if not isinstance(permit, Permit):
            return
        asked = ask_places(permit, now) if permit.leases else None
        if asked is not None:
            self.work()
            assert asked.answer is not None
            if asked.refusal(now) is not None:
                permit.withdrawn()
                self.work()
                return
        if permit.leases and permit.leases[0].state is self.circuit._state.half:
            fleet.probes.append(now)
        fleet.later(0.2, lambda: self.ends(permit))

    def ends(self, permit: Permit) -> None:
        now = self.fleet.clock.now
        if now - 0.2 >= self.fleet.recovers_at:
            permit.succeeded(now, 0.2)
        else:
            permit.failed(None, now, DOWN)
        self.work()


@pytest.mark.parametrize("recovers_at", [0.0, 45.0], ids=["recovered", "still down"])
def test_trap_01_few_probe_and_all_serve_soon(
    recovers_at: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 3 probes in the first second of a half-open time; 2 s after a probe all serve."""
    monkeypatch.setattr(mirrors, "LOOK_GAP", 0.0)
    fleet = Fleet(recovers_at)
    first = fleet.workers[0]
    for _ in range(5):
        permit = admit(first.circuit, fleet.clock.now)
        assert isinstance(permit, Permit)
        permit.failed(None, fleet.clock.now, DOWN)
    first.work()
    fleet.run_until(1.0)
    assert all(each.circuit.state(1.0) == "open" for each in fleet.workers)
    until = max(each.circuit._state.opened.until for each in fleet.workers)  # type: ignore[union-attr]
    fleet.clock.now = until - 1.0
    for each in fleet.workers:
        fleet.later(fleet.rng.uniform(0.0, 1.0), each.call)

    while all(each.circuit.state(fleet.clock.now) != "closed" for each in fleet.workers):
        fleet.run_until(fleet.clock.now + 0.25)
        assert fleet.clock.now < 500
    closed_at = fleet.clock.now
    fleet.run_until(closed_at + 2.0)

    assert all(each.circuit.state(fleet.clock.now) == "closed" for each in fleet.workers)
    for begun in fleet.probes:
        assert len([each for each in fleet.probes if begun <= each < begun + 1.0]) <= 3
    assert 1 <= len(fleet.probes) <= 8
