"""Several processes that share benches, whatever operators, outages, losses and forks do.

The model knows nothing of ids and orders. It is a list of what was benched and ended, in the order
of real events, with what each process had seen at that moment. When all is quiet it says:

- all processes are blocked alike;
- what was ended by somebody who had seen it is nowhere in force;
- what nobody has ended, and no operator has replaced, is in force everywhere.

``RESILIENT_LLM_MODEL_EXAMPLES=2000`` tries that many scripts instead of the few of every day.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from resilient_llm._core.sharing import mirror as mirrors
from resilient_llm._values.sharing import LAYERS, Layer
from resilient_llm.testing import MemoryStore
from tests.support.mirrors import Clock, Process, fleet, run, settle

EXAMPLES = int(os.environ.get("RESILIENT_LLM_MODEL_EXAMPLES", "15"))
PROCESSES = 3
KEYS = ("groq", "groq/llama")
AUTOMATIC: tuple[Layer, ...] = ("automatic", "pause")
LENGTHS = (40.0, 200.0, 900.0, 3000.0)
FAULTS = (None, "unreachable", "timeout", "read_only", "no answer")

processes = st.integers(0, PROCESSES - 1)
keys = st.sampled_from(KEYS)
layers = st.sampled_from(AUTOMATIC)
lengths = st.sampled_from(LENGTHS)


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a mirror look again though no time has passed."""
    monkeypatch.setattr(mirrors, "LOOK_GAP", 0.0)


@dataclass
class Made:
    """One bench."""

    name: str
    key: str
    layer: Layer
    until: float
    is_ended: bool = False
    """Whether somebody who had seen it has ended it."""
    may_be_over: bool = False
    """Whether something else may have ended it: an end that named a newer one, or an operator."""


class Model(RuleBasedStateMachine):
    """Three processes and one store."""

    @initialize()
    def begin(self) -> None:
        self.clock, self.store, self.processes = fleet(PROCESSES)
        self.made: list[Made] = []
        self.forks = 0
        self.ends: set[tuple[int, str]] = set()
        """``(process, key)`` of the unbenches since all was quiet."""
        self.alone_until = 0.0
        """When the last bench ends that binds one process only."""

    def _named(self, process: Process, key: str, layer: Layer) -> list[Made]:
        seen = process.seen.get((key, layer), set())
        return [
            each
            for each in self.made
            if (each.key, each.layer) == (key, layer) and each.name in seen
        ]

    def _bench(self, number: int, key: str, layer: Layer, seconds: float) -> None:
        process = self.processes[number]
        made = Made(f"bench {len(self.made)}", key, layer, self.clock.now + seconds)
        self.made.append(made)
        process.bench(key, seconds, layer, made.name)

    @rule(number=processes, key=keys, seconds=lengths)
    def bench_by_hand(self, number: int, key: str, seconds: float) -> None:
        """An operator's bench; of several that do not know of each other one is left."""
        for each in self.made:
            if (each.key, each.layer) == (key, "manual"):
                each.may_be_over = True
        others = any(
            (each.key, each.layer) == (key, "manual")
            and each.name not in self.processes[number].seen.get((key, "manual"), set())
            for each in self.made
        )
        self._bench(number, key, "manual", seconds)
        if others or key in self.unseen_ends(number):
            self.made[-1].may_be_over = True

    def unseen_ends(self, number: int) -> set[str]:
        """Return keys that were unbenched by others since all was quiet."""
        return {key for other, key in self.ends if other != number}

    @rule(number=processes, key=keys, layer=layers, seconds=lengths)
    def bench_by_error(self, number: int, key: str, layer: Layer, seconds: float) -> None:
        """A trigger or a rate limit; a circuit that is open already cannot open."""
        process, now = self.processes[number], self.clock.now
        present = process.benches.get((key, layer))
        if present is not None and (
            (layer == "automatic" and present[1] > now)
            or (layer == "pause" and present[1] >= now + seconds)
        ):
            return
        is_alone = process.mirror.is_alone(key, now)
        self._bench(number, key, layer, seconds)
        if is_alone:
            self.made[-1].may_be_over = True
            self.alone_until = max(self.alone_until, now + seconds)

    @rule(number=processes, key=keys)
    def unbench(self, number: int, key: str) -> None:
        """An operator ends all that the process knows, and what is older."""
        process = self.processes[number]
        for layer in ("manual", *AUTOMATIC):
            self._end(process, key, layer)
        if process.seen.get((key, "manual")):
            self.ends.add((number, key))
        process.end(key)

    @rule(number=processes, key=keys)
    def recover(self, number: int, key: str) -> None:
        """A probe or a last resort is answered."""
        process = self.processes[number]
        for layer in AUTOMATIC:
            if (key, layer) in process.benches:
                self._end(process, key, layer)
                process.end(key, layer, "recovered")

    def _end(self, process: Process, key: str, layer: Layer) -> None:
        for each in self.made:
            if (each.key, each.layer) == (key, layer):
                each.may_be_over = True
        for each in self._named(process, key, layer):
            each.is_ended = True

    @rule(number=processes, fault=st.sampled_from(FAULTS))
    def break_the_road(self, number: int, fault: str | None) -> None:
        """The store is away for one process, or does what it is told and never answers."""
        self.processes[number].road.fault = fault

    @rule(number=processes)
    def run_one(self, number: int) -> None:
        """One process does all it can do now."""
        self.processes[number].run()

    @rule(number=processes, steps=st.integers(1, 3))
    def run_some_steps(self, number: int, steps: int) -> None:
        """One process is slow."""
        for _ in range(steps):
            self.processes[number].step()

    @rule(seconds=st.sampled_from((0.1, 1.0, 6.0, 45.0, 250.0)))
    def wait(self, seconds: float) -> None:
        """Time passes, and nobody does anything."""
        self.clock.now += seconds

    @rule()
    def lose(self) -> None:
        """The store loses everything."""
        self.store.lose()

    @rule(number=processes)
    def fork(self, number: int) -> None:
        """A child goes on beside its parent, which is quiet at that moment."""
        process = self.processes[number]
        fault, process.road.fault = process.road.fault, None
        self.clock.now += 5.1
        process.run()
        self.forks += 1
        process.mirror.after_fork(f"child {self.forks}", self.clock.now)
        process.road.fault = fault

    @rule()
    def be_quiet(self) -> None:
        """All roads are mended, and what was said above holds."""
        for each in self.processes:
            each.road.fault = None
        settle(self.clock, self.processes, rounds=5)
        self.ends.clear()
        now = self.clock.now
        blocked = [each.blocked() for each in self.processes]
        if now >= self.alone_until:
            assert blocked[0] == blocked[1] == blocked[2]
        lasting = [each for each in self.made if each.until > now + 0.001]
        for made in lasting:
            place = made.key, made.layer
            for each in self.processes:
                present = each.benches.get(place)
                if made.is_ended:
                    assert present is None or present[0] != made.name, f"{made} is in force"
                if not made.may_be_over:
                    assert place in each.blocked(), f"{made} is not in force in {each.name}"
                    assert each.blocked()[place] >= round(made.until - now, 3) - 0.002
        for each in self.processes:
            status = each.mirror.status(now)
            assert (0, 0, 0) == (status.pending, status.rejected, status.dropped)
            assert each.mirror.is_whole

    def teardown(self) -> None:
        if hasattr(self, "clock"):
            self.be_quiet()


Model.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.usefixtures("looks_at_once")
class TestModel(Model.TestCase):
    """Runs the scripts."""


def test_a_thousand_processes_agree() -> None:
    """Each of many processes benches, ends or loses its way, and all of them agree in the end."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    fleet_of_all = [Process(clock, store, f"host{number}:1") for number in range(1000)]
    rng = random.Random(1)
    run(fleet_of_all)

    for number in range(16):
        key, layer = f"groq/{number % 4}", LAYERS[number % 3]
        rng.choice(fleet_of_all).bench(key, 3000.0 + number, layer, f"bench {number}")
    run(fleet_of_all)  # those at the beginning have not seen all of it
    run(fleet_of_all)
    for number in range(4):
        rng.choice(fleet_of_all).end(f"groq/{number}")
        rng.choice(fleet_of_all).bench(f"openai/{number}", 3000.0, "manual")
    rng.shuffle(fleet_of_all)
    store.lose()
    settle(clock, fleet_of_all, rounds=2)

    blocked = fleet_of_all[0].blocked()
    assert {(f"openai/{number}", "manual") for number in range(4)} == set(blocked)
    assert all(each.blocked() == blocked for each in fleet_of_all)
    assert {1000} == {each.mirror.status(clock.now).peers for each in fleet_of_all}
