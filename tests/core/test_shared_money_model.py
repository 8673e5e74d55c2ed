"""Several processes that spend from one account, whatever outages, deaths and lost answers do.

The model knows nothing of steps and numbers. It keeps what each attempt has reserved and booked,
and says when all is quiet: the store has the sum, to the unit, and reserves what is in flight.

``RESILIENT_LLM_MODEL_EXAMPLES=2000`` tries that many scripts instead of the few of every day.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from resilient_llm._core.sharing import mirror as mirrors
from resilient_llm._core.sharing.steps import AmountsAnswered
from tests.support.mirrors import Process, balance, fleet

EXAMPLES = int(os.environ.get("RESILIENT_LLM_MODEL_EXAMPLES", "25"))
CAP = 100
FALLBACK = 3
FAULTS = (None, None, "unreachable", "timeout", "read_only", "no answer")

numbers = st.integers(0, 2)
amounts = st.integers(0, 40)


@pytest.fixture
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a mirror look again though no time has passed."""
    monkeypatch.setattr(mirrors, "LOOK_GAP", 0.0)


class Model(RuleBasedStateMachine):
    """Three processes, one store and one account."""

    @initialize()
    def begin(self) -> None:
        self.clock, self.store, self.processes = fleet(3)
        self.names = 0
        self.asked: dict[str, tuple[Process, int]] = {}
        self.open: dict[str, tuple[Process, int]] = {}
        """``{attempt in flight: (its process, what it has reserved)}``"""
        self.spent = self.calls = 0
        self.above = 0
        """What may be above the cap: admitted here, or used above its estimate."""

    def _name(self) -> str:
        self.names += 1
        return f"attempt {self.names}"

    def _answers(self) -> None:
        for process in self.processes:
            for each in process.effects:
                if isinstance(each, AmountsAnswered) and each.outcome == "admitted":
                    name = str(each.ticket)
                    if name in self.asked:
                        self.open[name] = self.asked.pop(name)
                elif isinstance(each, AmountsAnswered):
                    self.asked.pop(str(each.ticket), None)
            process.effects.clear()

    @rule(number=numbers, amount=amounts)
    def ask(self, number: int, amount: int) -> None:
        name, process = self._name(), self.processes[number]
        self.asked[name] = process, amount
        process.ask(name, amount, CAP, fallback=FALLBACK)

    @rule(number=numbers, amount=amounts)
    def admit_here(self, number: int, amount: int) -> None:
        name, process = self._name(), self.processes[number]
        self.above += amount + FALLBACK
        process.hold(name, amount, fallback=FALLBACK)
        self.open[name] = process, amount

    @rule(choice=st.integers(0, 5), used=amounts)
    def end(self, choice: int, used: int) -> None:
        if not self.open:
            return
        name = list(self.open)[choice % len(self.open)]
        process, amount = self.open.pop(name)
        self.above += max(used - amount, 0)
        self.spent += used
        self.calls += 1
        process.book(name, used)

    @rule(choice=st.integers(0, 5))
    def leave(self, choice: int) -> None:
        """A caller is cancelled, before or after the store has admitted it."""
        places = [*self.asked, *self.open]
        if not places:
            return
        name = places[choice % len(places)]
        process, _ = self.asked.pop(name, None) or self.open.pop(name)
        process.book(name, 0, is_sent=False)

    @rule(number=numbers, fault=st.sampled_from(FAULTS))
    def change_the_road(self, number: int, fault: str | None) -> None:
        self.processes[number].road.fault = fault

    @rule(seconds=st.sampled_from((0.1, 1.0, 6.0)), order=st.permutations(range(3)))
    def wait(self, seconds: float, order: list[int]) -> None:
        self.clock.now += seconds
        for number in order:
            self.processes[number].run()
        self._answers()
        self._look_at_the_cap()

    @rule(number=numbers, steps=st.integers(1, 3))
    def run_some_steps(self, number: int, steps: int) -> None:
        for _ in range(steps):
            self.processes[number].step()
        self._answers()
        self._look_at_the_cap()

    def _look_at_the_cap(self) -> None:
        spent, reserved, _ = balance(self.store)
        assert spent + reserved <= CAP + self.above

    @rule()
    def be_quiet(self) -> None:
        """Let everything be sent, and look at the sums."""
        for each in self.processes:
            each.road.fault = None
        for _ in range(4):
            self.clock.now += 5.1
            for each in self.processes:
                each.run()
            self._answers()
        reserved = sum(amount for _, amount in self.open.values())
        assert not self.asked
        assert (self.spent, reserved, self.calls) == balance(self.store)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.be_quiet()


Model.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.usefixtures("looks_at_once")
class TestModel(Model.TestCase):
    """Runs the scripts."""
