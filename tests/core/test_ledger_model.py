"""The ledger against an independent model, whatever attempts, clocks and operators do.

The model is a list of everything that happened and no sums at all: what is spent and reserved is
added up again from the list whenever it is asked for, in exact fractions. Periods are counted in
whole hours and days since 1970.

``RESILIENT_LLM_MODEL_EXAMPLES=2000`` tries that many scripts instead of the few of every day.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilient_llm import Target
from resilient_llm._core.spending.booking import Booking
from resilient_llm._core.spending.estimates import Estimate
from resilient_llm._core.spending.ledger import Reservation
from resilient_llm._core.spending.local_ledger import LocalLedger
from resilient_llm._core.spending.prices import rates_of
from resilient_llm._values.money import Budget, Price
from resilient_llm._values.usage import Usage

EXAMPLES = int(os.environ.get("RESILIENT_LLM_MODEL_EXAMPLES", "60"))
SECONDS = {"hour": 3600, "day": 86_400}
TARGETS = {
    Target("openai/gpt"): Price(1, 2),
    Target("groq/llama", tags=["cheap"]): Price(0.1, 0.3),
    Target("groq@eu/llama"): Price(0, 0),
}
CAPS: tuple[dict[str, Any], ...] = ({"calls": 1}, {"usd": 0.01}, {"tokens": 1000})


@dataclass
class Admitted:
    """One attempt in one budget."""

    budget: str
    key: str | None
    period: int
    reserved: Fraction
    booked: Fraction | None = None
    calls: int = 0
    is_forgotten: bool = False


@dataclass
class Model:
    """What the contract says, without any sum that is kept."""

    budgets: dict[str, Budget] = field(default_factory=dict)
    rows: list[Admitted] = field(default_factory=list)
    periods: dict[str, int] = field(default_factory=dict)
    """``{name: number of the period in force}``"""
    latest: float = 0.0

    def replace(self, budgets: list[Budget], now: float) -> None:
        self.see(now)
        kept = {
            each.name
            for each in budgets
            if each.name in self.budgets and _identity(each) == _identity(self.budgets[each.name])
        }
        for row in self.rows:
            if row.budget not in kept:
                row.is_forgotten = True
        self.budgets = {each.name: each for each in budgets}
        self.periods = {
            each.name: self.periods[each.name]
            if each.name in kept
            else int(max(now, self.latest) // SECONDS[each.per])
            for each in budgets
        }
        self.see(now)

    def see(self, now: float) -> None:
        """Let the periods go on, and never back."""
        for name, budget in self.budgets.items():
            seconds = SECONDS[budget.per]
            self.periods[name] = max(self.periods[name], int(now // seconds))
            self.latest = max(self.latest, self.periods[name] * seconds)

    def covering(self, target: Target, key: str | None) -> list[Budget]:
        return [each for each in self.budgets.values() if _covers(each, target, key)]

    def used(self, budget: Budget, key: str | None) -> tuple[Fraction, Fraction, int]:
        """Return what is spent and reserved in the present period, and the calls."""
        mine = [
            row
            for row in self.rows
            if row.budget == budget.name
            and row.key == (key if budget.of == "key" else None)
            and row.period == self.periods[budget.name]
            and not row.is_forgotten
        ]
        spent = sum((row.booked for row in mine if row.booked is not None), Fraction(0))
        reserved = sum((row.reserved for row in mine if row.booked is None), Fraction(0))
        return spent, reserved, sum(row.calls for row in mine)


def _identity(budget: Budget) -> tuple[str, ...]:
    return budget.unit, budget.of, budget.per, budget.zone


def _covers(budget: Budget, target: Target, key: str | None) -> bool:
    if budget.of == "key":
        return key is not None
    if budget.of.startswith("tag:"):
        return budget.of[4:] in target.tags
    return budget.of in ("all", target.key, target.provider_key, target.provider)


def _in_unit(budget: Budget, price: Price, sent: int, received: int, calls: int = 1) -> Fraction:
    if budget.unit == "calls":
        return Fraction(calls)
    if budget.unit == "tokens":
        return Fraction(sent + received)
    return (sent * Fraction(price.input) + received * Fraction(price.output)) / 10**6


budgets = st.builds(
    lambda cap, per, of: Budget(**cap, per=per, of=of, name=f"{of} {next(iter(cap))}"),
    st.sampled_from((*CAPS, {"calls": 3}, {"usd": 0.002}, {"tokens": 3000})),
    st.sampled_from(["hour", "day"]),
    st.sampled_from(["all", "groq", "groq@eu", "openai/gpt", "key", "tag:cheap"]),
)
lists = st.lists(budgets, max_size=4, unique_by=lambda each: each.name)
tokens = st.integers(0, 600)


class LedgerMachine(RuleBasedStateMachine):
    """Sends the same attempts to a ledger and to the model."""

    reached: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_780_000_000.0
        self.ledger = LocalLedger()
        self.model = Model()
        self.running: list[tuple[Reservation, list[Admitted], Price]] = []
        self.replace_budgets([Budget(**cap, per="hour") for cap in CAPS])

    @rule(new=lists, seldom=st.integers(0, 4))
    def replace_budgets(self, new: list[Budget], seldom: int = 0) -> None:
        if seldom:
            return
        self.ledger.replace(new, self.now)
        self.model.replace(new, self.now)

    @rule(seconds=st.sampled_from([1, 600, 3599, 3600, 3600, 86_400, -60, -4000]))
    def move_the_clock(self, seconds: int) -> None:
        self.now += seconds

    @rule(
        place=st.sampled_from(sorted(TARGETS, key=lambda each: each.key)),
        sent=tokens,
        received=tokens,
        key=st.sampled_from([None, "a", "b"]),
    )
    def begin(self, place: Target, sent: int, received: int, key: str | None) -> None:
        target, price = place, TARGETS[place]
        self.model.see(self.now)
        rows: list[Admitted] = []
        refusing: list[tuple[Budget, Fraction, Fraction, Fraction]] = []
        for budget in self.model.covering(target, key):
            spent, reserved, _ = self.model.used(budget, key)
            wanted = _in_unit(budget, price, sent, received)
            is_free = budget.unit == "usd" and price == Price(0, 0)
            if spent + reserved + wanted > Fraction(budget.cap) and not is_free:
                refusing.append((budget, spent, reserved, wanted))
            own = key if budget.of == "key" else None
            rows.append(Admitted(budget.name, own, self.model.periods[budget.name], wanted))

        reservation = Reservation(target, Estimate(sent, received), rates_of(price), key)
        refusal = self.ledger.reserve(reservation, self.now)

        if not refusing:
            assert refusal is None, refusal
            self.reached["admitted"] += 1
            self.model.rows += rows
            self.running.append((reservation, rows, price))
            return
        self.reached["refused"] += 1
        assert refusal is not None
        ends = {
            budget.name: (self.model.periods[budget.name] + 1) * SECONDS[budget.per]
            for budget, *_ in refusing
        }
        [(named, spent, reserved, wanted)] = [
            each for each in refusing if each[0].name == refusal.budget
        ]
        assert max(ends.values()) == ends[refusal.budget] == refusal.resets_at.timestamp()
        assert (spent, reserved) == (Fraction(refusal.spent), Fraction(refusal.reserved))
        cap = Fraction(named.cap)
        if wanted > cap or spent + wanted <= cap:
            assert refusal.retry_after is None
            self.reached["no time"] += 1
        else:
            assert ends[refusal.budget] - self.now == refusal.retry_after

    @precondition(lambda self: self.running)
    @rule(data=st.data(), sent=tokens, received=tokens, calls=st.sampled_from([0, 1, 1]))
    def end(self, data: st.DataObject, sent: int, received: int, calls: int) -> None:
        index = data.draw(st.integers(0, len(self.running) - 1))
        later = data.draw(st.booleans())
        reservation, rows, price = self.running.pop(index)
        if not calls:
            sent = received = 0
        self._settle(reservation, rows, price, sent, received, calls, later=later)

    def _settle(
        self,
        reservation: Reservation,
        rows: list[Admitted],
        price: Price,
        sent: int,
        received: int,
        calls: int = 1,
        *,
        later: bool = False,
    ) -> None:
        settle = self.ledger.settle_later if later else self.ledger.settle
        settle(reservation, Booking(Usage(sent, received), calls))
        self.reached["later" if later else "at once"] += 1
        for row in rows:
            budget = self.model.budgets.get(row.budget)
            if budget is None or row.is_forgotten:
                row.booked = Fraction(0)
                continue
            row.booked = _in_unit(budget, price, sent, received, calls)
            row.calls = calls
            if row.period != self.model.periods[row.budget]:
                self.reached["past period"] += 1

    @rule()
    def forget_spending(self) -> None:
        self.ledger.reset()
        for row in self.model.rows:
            if row.booked is not None:
                row.is_forgotten = True

    @invariant()
    def reports_are_those_of_the_model(self) -> None:
        self.model.see(self.now)
        found = self.ledger.reports(self.now)
        for report in found:
            budget = self.model.budgets[report.budget]
            assert (Fraction(report.spent), Fraction(report.reserved), report.calls) == (
                self.model.used(budget, report.key)
            ), report
            start = self.model.periods[report.budget] * SECONDS[budget.per]
            assert start == report.period_start.timestamp()
        for budget in self.model.budgets.values():
            keys = ("a", "b") if budget.of == "key" else (None,)
            for key in keys:
                if self.model.used(budget, key) != (0, 0, 0):
                    assert any((each.budget, each.key) == (budget.name, key) for each in found), (
                        budget,
                        key,
                    )

    def teardown(self) -> None:
        for reservation, rows, price in self.running:
            self._settle(reservation, rows, price, 7, 3)
        self.reports_are_those_of_the_model()
        assert {0} >= {each.reserved for each in self.ledger.reports(self.now)}


def test_the_ledger_is_what_the_model_says() -> None:
    """Every admission, refusal and report is the model's, and every kind of thing has happened."""
    LedgerMachine.reached.clear()
    LedgerMachine.TestCase.settings = settings(
        max_examples=EXAMPLES,
        stateful_step_count=40,
        deadline=None,
        derandomize="RESILIENT_LLM_MODEL_EXAMPLES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )

    LedgerMachine.TestCase("runTest").runTest()

    expected = {"admitted", "refused", "no time", "later", "at once", "past period"}
    assert expected == LedgerMachine.reached.keys()
