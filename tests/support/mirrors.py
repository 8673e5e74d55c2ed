"""Processes that share a `MemoryStore` on a virtual clock: a mirror each, and what it changes.

Time stands still while they look, so tests set ``LOOK_GAP`` to 0.

`Process` stands for a process: it drives a mirror as the thread does, and keeps of the registry
what a mirror can change: three benches for each key. `Road` is the way to the store, which breaks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

from resilient_llm._core.sharing.mirror import Mirror
from resilient_llm._core.sharing.steps import (
    AmountsAnswered,
    ApplyBench,
    ApplyEnd,
    AskAmounts,
    BookAmounts,
    ClaimPlaces,
    EndReason,
    HoldAmounts,
    KeyRules,
    LocalBench,
    LocalEnd,
    LocalReset,
    Look,
    PlaceAnswered,
    Publish,
    ReserveAmounts,
    Rest,
    SettleAmounts,
    Step,
)
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.sharing import (
    Balance,
    Charge,
    Entry,
    Layer,
    Reserve,
    Settle,
    Stamp,
    StoreError,
    Take,
)
from resilient_llm.stores import DataLostError, Store
from resilient_llm.testing import MemoryStore

EPOCH = 1_790_000_000.0
ACCOUNT = "all hour"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return EPOCH + self.now


class Road:
    """The way of one process to the store.

    ``fault`` is None; a reason of `StoreError` for all steps; ``"read_only"`` for those that
    change something; ``"no answer"``: the store does a step that changes something, and its answer
    is lost.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.fault: str | None = None
        self.steps: list[Step] = []

    def do(self, step: Step) -> Any:
        self.steps.append(step)
        if self.fault in ("unreachable", "timeout", "auth"):
            raise StoreError(self.fault, "OSError")
        if isinstance(step, Look):
            return self.store.changes(step.stamp, step.since, limit=step.limit, timeout=1.0)
        if self.fault == "read_only":
            raise StoreError("read_only", "OSError")
        if isinstance(step, Publish):
            answer: Any = self.store.publish(step.stamp, step.changes, step.balances, timeout=1.0)
        elif isinstance(step, ReserveAmounts):
            answer = self.store.reserve(step.stamp, step.reserves, lasts=step.lasts, timeout=1.0)
        elif isinstance(step, SettleAmounts):
            answer = self.store.settle(step.stamp, step.settles, timeout=1.0)
        else:
            assert isinstance(step, ClaimPlaces)
            answer = self.store.claim(step.stamp, step.claims, timeout=1.0)
        if self.fault == "no answer":
            raise StoreError("timeout", "TimeoutError")
        return answer

    def hints(self, rest: Rest) -> bool:
        """Return whether the store tells that something was published."""
        return rest.since is not None and not self.fault and self.store.wait(rest.since, 0.0)

    @property
    def published(self) -> list[Any]:
        """All that was published on it, sent again or not."""
        return [each for step in self.steps if isinstance(step, Publish) for each in step.changes]


class Process:
    """One process, with what the mirror has changed in its registry."""

    def __init__(
        self,
        clock: Clock,
        store: Store,
        name: str = "a:1",
        rules: Callable[[str], KeyRules] = lambda key: KeyRules(),
    ) -> None:
        self.clock = clock
        self.road = Road(store)
        self.name = name
        self._ids = itertools.count()
        self.mirror = Mirror(
            url=store.url,
            session=name,
            source=name,
            new_id=lambda: f"{name}-{next(self._ids)}",
            rules=rules,
            now=clock.now,
        )
        self.benches: dict[tuple[str, Layer], tuple[str, float]] = {}
        """``{(key, layer): (reason, end)}``; an open circuit whose end is over is half-open."""
        self.seen: dict[tuple[str, Layer], set[str]] = {}
        """``{(key, layer): reasons of the benches that this process made or applied}``"""
        self.effects: list[Any] = []
        self.reserves: dict[str, Callable[[float], Reserve]] = {}

    # What happens in it.

    def bench(
        self,
        key: str,
        seconds: float | None = 300.0,
        layer: Layer = "automatic",
        reason: str = "timeout",
        kind: ErrorKind | None = None,
    ) -> None:
        """Bench a key here, as the registry does."""
        if kind is None and layer != "manual":
            kind = ErrorKind.RATE_LIMITED if layer == "pause" else ErrorKind.TRANSIENT
        now = self.clock.now
        self.benches[key, layer] = reason, now + (math.inf if seconds is None else seconds)
        self.seen.setdefault((key, layer), set()).add(reason)
        self.mirror.tell(LocalBench(key, layer, now, seconds, kind, reason))

    def end(self, key: str, layer: Layer | None = None, reason: EndReason = "manual") -> None:
        """Unbench a key here, or let its circuit recover."""
        for place in [(key, "manual"), (key, "automatic"), (key, "pause")]:
            if layer in (None, place[1]):
                self.benches.pop(place, None)  # pyright: ignore[reportArgumentType, reportCallIssue]  # a layer
        self.mirror.tell(LocalEnd(key, layer, self.clock.now, reason))

    def reset(self) -> None:
        """Forget the automatic benches here."""
        self.benches = {place: each for place, each in self.benches.items() if place[1] == "manual"}
        self.mirror.tell(LocalReset(None, self.clock.now))

    def ask(
        self,
        name: str,
        amount: int,
        cap: int | None = 100,
        *,
        fallback: int = 1,
        wait: float = 0.25,
        account: str = ACCOUNT,
        takes: tuple[Take, ...] = (),
    ) -> None:
        """Ask for an amount under an id, in the hour that the store is in."""

        def reserve_at(moment: float) -> Reserve:
            start = int(moment // 3600) * 3600
            return Reserve(
                name, (Charge(account, start, start + 3600, amount, cap, fallback),), takes
            )

        self.mirror.tell(AskAmounts(name, name, reserve_at, self.clock.now + wait))
        self.reserves[name] = reserve_at

    def hold(self, name: str, amount: int, *, account: str = ACCOUNT, fallback: int = 1) -> None:
        """Admit an attempt without the store."""
        self.ask(name, amount, None, account=account, fallback=fallback)
        self.mirror.tell(BookAmounts(Settle(name)))
        self.mirror.tell(HoldAmounts(self.reserves[name](self.clock())._replace(is_renewal=True)))

    def book(self, name: str, amount: int, *, is_sent: bool = True) -> None:
        """End an attempt, in the period that its reservation was admitted in."""
        (charge,) = self.reserves[name](self.clock()).charges
        entry = Entry(charge.account, charge.start, charge.end, amount, 1, 0)
        self.mirror.tell(BookAmounts(Settle(name, (entry,) if is_sent else ())))

    # What the thread does.

    def run(self, most: int = 1000) -> Rest:
        """Do the steps of the mirror until it rests."""
        for _ in range(most):
            step = self.step()
            if isinstance(step, Rest):
                if not self.road.hints(step):
                    return step
                self.mirror.answered(True, self.clock.now)
        raise AssertionError(f"no rest after {most} steps: {self.road.steps[-3:]}")

    def step(self) -> Step:
        """Do one step of the mirror."""
        mirror, now = self.mirror, self.clock.now
        step = mirror.next_step(now)
        if not isinstance(step, Rest):
            try:
                answer = self.road.do(step)
            except StoreError as error:
                mirror.failed(error, now)
            except DataLostError:
                mirror.lost(now)
            else:
                mirror.answered(answer, now)
        self.apply()
        return step

    def apply(self) -> None:
        """Do what the mirror wants of the registry."""
        for effect in self.mirror.take_effects():
            self.effects.append(effect)
            if isinstance(effect, ApplyBench) and effect.enforced:
                self._apply_bench(effect)
            elif isinstance(effect, ApplyEnd):
                self._apply_end(effect)
        self.mirror.applied()

    def _apply_bench(self, effect: ApplyBench) -> None:
        bench, now = effect.bench, self.clock.now
        place = bench.key, bench.layer
        self.seen.setdefault(place, set()).add(bench.reason)
        until = now + (math.inf if effect.ends_in is None else effect.ends_in)
        present = self.benches.get(place)
        if bench.layer == "manual" or present is None or present[1] < until:
            self.benches[place] = bench.reason, until

    def _apply_end(self, effect: ApplyEnd) -> None:
        place = effect.key, effect.layer
        present = self.benches.get(place)
        if present is None:
            return
        if effect.left is None:
            del self.benches[place]
        else:
            self.benches[place] = present[0], min(present[1], self.clock.now + effect.left)

    # What a test looks at.

    def blocked(self) -> dict[tuple[str, Layer], float]:
        """Return ``{(key, layer): seconds left, to a millisecond}`` of what blocks now."""
        now = self.clock.now
        return {
            place: round(until - now, 3)
            for place, (_, until) in self.benches.items()
            if until > now + 0.001
        }

    def half_open(self) -> set[str]:
        """Return the keys whose cooldown is over."""
        return {
            key
            for (key, layer), (_, until) in self.benches.items()
            if layer == "automatic" and until <= self.clock.now
        }

    def events(self) -> list[str]:
        """Return the names of the events about the store, and forget all effects."""
        names = [each.name for each in self.effects if hasattr(each, "name")]
        self.effects.clear()
        return names

    def amounts(self) -> list[tuple[object, str]]:
        """Return what became of amounts, ``(ticket, outcome)``, and forget all effects."""
        found = [
            (each.ticket, each.outcome)
            for each in self.effects
            if isinstance(each, AmountsAnswered)
        ]
        self.effects.clear()
        return found

    def places(self) -> list[tuple[object, str]]:
        """Return the answered claims, ``(ticket, outcome)``, and forget all effects."""
        found = [
            (each.ticket, each.outcome) for each in self.effects if isinstance(each, PlaceAnswered)
        ]
        self.effects.clear()
        return found


def fleet(count: int, **more: Any) -> tuple[Clock, MemoryStore, list[Process]]:
    """Return a clock, a store and processes that have read it."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    processes = [Process(clock, store, f"host{number}:1", **more) for number in range(count)]
    run(processes)
    return clock, store, processes


def run(processes: Iterable[Process]) -> None:
    """Let each process do what it has to do now, once."""
    for each in processes:
        each.run()


def settle(clock: Clock, processes: list[Process], rounds: int = 4) -> None:
    """Let time pass until everything has come to everybody."""
    for _ in range(rounds):
        clock.now += 5.1
        run(processes)


def balance(store: MemoryStore, account: str = ACCOUNT) -> tuple[int, int, int]:
    """Return what an account has in its latest period: spent, reserved and calls."""
    found: Balance = Balance(account, 0, None)
    for each in store.changes(Stamp("a test"), 0, limit=100_000, timeout=1.0).balances:
        if each.account == account and each.start >= found.start:
            found = each
    return found.spent, found.reserved, found.calls
