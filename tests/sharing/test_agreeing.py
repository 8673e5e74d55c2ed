"""Processes agree on benches by hand, whatever happens in them while they ask the store.

A `Driven` process has a real registry and a real `SharedState`, which works on the thread of the
test, on a clock of its own. Between a step of the store and its answer, an operator acts: that is
where a real thread finds the registry changed.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from resilient_llm import TargetBenched, TargetUnbenched
from resilient_llm._core.circuit.circuit import Circuit
from resilient_llm._core.circuit.permit import Permit, admit
from resilient_llm._core.circuit.state import FOREVER
from resilient_llm._runtime import mirror as driving
from resilient_llm._runtime.runtime import Runtime, runtime
from resilient_llm._values.sharing import StoreError
from resilient_llm.testing import MemoryStore
from resilient_llm.testing._contract._session import Session, bench, end
from tests.support.sharing import DOWN, cooled_down

SCRIPTS = int(os.environ.get("RESILIENT_LLM_MODEL_EXAMPLES", "300"))
KEYS = ("groq", "openai")


class Clock:
    """Seconds of the threads that drive mirrors."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(driving, "_now", clock)
    return clock


class Road:
    """The way of one process to a store."""

    has_limits = False
    url = "memory:"

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.between: Callable[[], object] = lambda: None
        """What happens in the process after each step of the store, before its answer."""
        self.loses_answers = False

    def _done(self, answer: Any) -> Any:
        self.between()
        if self.loses_answers:
            raise StoreError("timeout")
        return answer

    def publish(self, *given: Any, **options: Any) -> Any:
        return self._done(self._store.publish(*given, **options))

    def changes(self, *given: Any, **options: Any) -> Any:
        return self._done(self._store.changes(*given, **options))

    def wait(self, since: int, seconds: float, wake: object = None) -> bool:
        self._clock.now += seconds
        return False

    def close(self) -> None:
        pass


class Driven:
    """A process."""

    def __init__(self, store: MemoryStore, clock: Clock, name: str) -> None:
        self._clock = clock
        self.road = Road(store, clock)
        self.state = Runtime()
        self.state.open_store, self.state.share = lambda *_: self.road, runtime.share
        self.state.configure({"state": self.road, "state_name": name})
        self.sharing = self.state.sharing
        self.sharing.start = lambda: None  # its thread: the test does what that would do
        self.sharing._sleep = lambda seconds: self.road.wait(0, seconds)
        self.run()

    def circuit(self, key: str) -> Circuit:
        return self.state.registry.circuit(key)

    def bench(self, key: str, reason: str) -> None:
        self.circuit(key).bench(runtime.clock(), FOREVER, reason)

    def unbench(self, key: str) -> None:
        self.circuit(key).unbench(runtime.clock())

    def run(self) -> None:
        """Look, and do all that is to be done then."""
        self._clock.now += 5.1
        self.sharing.work(self._clock.now + 600.0)

    def view(self) -> dict[str, str]:
        """Return ``{benched key: reason}``."""
        found = {key: self.circuit(key)._state.manual for key in KEYS}
        return {key: each.reason for key, each in found.items() if each is not None}


def held(store: MemoryStore) -> dict[str, str]:
    """Return the same of the store."""
    benches = [each for each in Session(store).look() if each.through is None]
    return {each.key: json.loads(each.body).get("reason", "") for each in benches}


def once(action: Callable[[], object]) -> Callable[[], None]:
    """Return what does something the first time that it is called."""
    actions = [action]

    def act() -> None:
        while actions:
            actions.pop()()

    return act


def contended(store: MemoryStore, clock: Clock) -> tuple[Driven, Driven]:
    """Return two processes; the first one's own bench has lost to an end, and it does not know.

    That end has not seen the bench of another process which the own one had replaced here, so
    that is in force again.
    """
    other = Session(store)
    other.look()
    one, two = Driven(store, clock, "one"), Driven(store, clock, "two")
    other.publish(bench("groq", "manual", None))
    one.run()
    assert {"groq": ""} == one.view()
    other.publish(end("groq", 0, "some id", layer="manual"))
    one.bench("groq", "own")
    return one, two


def test_an_unbench_while_an_older_bench_comes_into_force_again(clock: Clock) -> None:
    """It has seen that bench; so the bench stays ended here, as everywhere."""
    store = MemoryStore()
    one, two = contended(store, clock)

    one.road.between = once(lambda: one.unbench("groq"))
    for each in (one, two):
        each.run()

    assert {} == one.view() == two.view() == held(store)


def test_a_bench_while_an_older_one_comes_into_force_again(clock: Clock) -> None:
    """The newest one is shown where it was made, too."""
    store = MemoryStore()
    one, two = contended(store, clock)

    one.road.between = once(lambda: one.bench("groq", "newest"))
    for _ in range(2):
        for each in (one, two):
            each.run()

    assert one.view() == two.view() == held(store)


def test_a_bench_that_comes_during_an_unbench_is_shown_after_it(clock: Clock) -> None:
    """The unbench has not seen it; so it holds in all processes."""
    store = MemoryStore()
    one, two = Driven(store, clock, "one"), Driven(store, clock, "two")
    one.bench("groq", "old")
    for each in (one, two):
        each.run()
    one.bench("groq", "new")
    one.run()

    told = told_to_observers(two)
    two.road.between = once(lambda: two.unbench("groq"))
    for each in (two, one):
        each.run()

    assert {"groq": "new"} == one.view() == two.view() == held(store)
    assert ["TargetUnbenched manual", "TargetBenched new"] == told


def test_an_unbench_and_a_bench_after_it_while_another_comes(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bench is made when the other one is known; so it is the newest, and is shown."""
    store = MemoryStore()
    one, two = Driven(store, clock, "one"), Driven(store, clock, "two")
    one.bench("groq", "old")
    for each in (one, two):
        each.run()
    one.bench("groq", "new")
    one.run()
    note = two.sharing._note_status
    benches = once(lambda: two.bench("groq", "newest"))

    def applied() -> None:
        note()
        if two.state.sharing._told:  # the unbench waits
            benches()

    monkeypatch.setattr(two.sharing, "_note_status", applied)
    two.road.between = once(lambda: two.unbench("groq"))
    for each in (two, one):
        each.run()

    assert {"groq": "newest"} == one.view() == two.view() == held(store)


def test_an_end_of_others_leaves_what_opens_meanwhile(clock: Clock) -> None:
    """The circuit has opened for a new reason, of which who ended the first bench knows nothing."""
    store = MemoryStore()
    one, two = Driven(store, clock, "one"), Driven(store, clock, "two")
    fail(one)
    for each in (one, two):
        each.run()
    assert ["open", "open"] == [state(each) for each in (one, two)]
    opened = two.circuit("groq")._state.opened
    assert opened is not None
    two.circuit("groq").unbench(runtime.clock())
    two.run()

    def opens() -> None:
        cooled_down(one.circuit("groq"))
        fail(one)

    one.road.between = once(opens)
    for each in (one, two):
        each.run()

    assert ["open", "open"] == [state(each) for each in (one, two)]


@pytest.mark.parametrize("part", range(6))
def test_all_agree_in_the_end(clock: Clock, part: int) -> None:
    """Whatever operators do while steps are under way, and whichever answers are lost."""
    for number in range(SCRIPTS // 6):
        rng = random.Random(1000 * part + number)
        store = MemoryStore()
        processes = [Driven(store, clock, f"host{each}:1") for each in range(3)]
        names = (f"bench {each}" for each in range(10**6))

        def act(process: Driven, rng: random.Random = rng, names: Iterator[str] = names) -> None:
            key = rng.choice(KEYS)
            if rng.random() < 0.5:
                process.bench(key, next(names))
            else:
                process.unbench(key)

        def between(process: Driven, rng: random.Random = rng, act: Any = act) -> None:
            for _ in range(rng.choice((0, 0, 1, 2))):
                act(process)
            process.road.loses_answers = rng.random() < 0.2

        for each in processes:
            each.road.between = partial(between, each)
        for _ in range(rng.randrange(4, 30)):
            if rng.random() < 0.5:
                rng.choice(processes).run()
            else:
                act(rng.choice(processes))
        for each in processes:
            each.road.between, each.road.loses_answers = lambda: None, False
        for _ in range(4):
            for each in processes:
                each.run()

        script = f"script {1000 * part + number}"
        assert [held(store)] * 3 == [each.view() for each in processes], script
        assert [0, 0, 0] == [each.sharing.status_now().pending for each in processes], script


def fail(process: Driven) -> None:
    """Let calls fail until the circuit of a key opens."""
    for _ in range(5):
        permit = admit(process.circuit("groq"), runtime.clock())
        if isinstance(permit, Permit):
            permit.failed(None, runtime.clock(), DOWN)


def state(process: Driven) -> str:
    return process.circuit("groq").state(runtime.clock())


def told_to_observers(process: Driven) -> list[str]:
    """Return a list that gets what the observers of a process are told of benches."""
    told: list[str] = []

    def note(event: Any) -> None:
        told.append(f"{type(event).__name__} {event.reason}")

    process.state.dispatcher.listeners.subscribe(note, (TargetBenched, TargetUnbenched))
    return told
