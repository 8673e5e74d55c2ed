"""The ledger under threads: no cap is passed, and nothing is lost, wherever threads switch."""

import gc
import random
import sys
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from resilient_llm._core.spending.booking import Booking
from resilient_llm._core.spending.ledger import Reservation
from resilient_llm._values.money import Budget
from resilient_llm._values.usage import Usage
from tests.support.budgets import GPT, LLAMA, Books
from tests.support.schedules import EVERY_OPCODE, Race, explore, reduce

ONE = Booking(Usage(100, 100))
TWO = Booking(Usage(200, 200))


def _state(*budgets: Budget) -> SimpleNamespace:
    return SimpleNamespace(books=Books(*budgets), got=[], held=[])


def _reserve(state: Any, key: str | None = None) -> None:
    state.got.append(state.books.try_(key=key))


def _reserve_and_settle(state: Any) -> None:
    found = state.books.try_()
    if isinstance(found, Reservation):
        state.books.ledger.settle(found, ONE)
        state.held.append(found)


def _with_one_held(*budgets: Budget) -> SimpleNamespace:
    state = _state(*budgets)
    state.held.append(state.books.reserve())
    return state


def _settle_the_held(state: Any) -> None:
    state.books.ledger.settle(state.held[0], ONE)


def _settle_the_held_later(state: Any) -> None:
    state.books.ledger.settle_later(state.held[0], TWO)


def _next_hour(state: Any) -> None:
    state.got.append(state.books.ledger.reports(state.books.now + 3600))


def _hour_after_next(state: Any) -> None:
    state.books.ledger.reports(state.books.now + 7200)


def _replace(state: Any) -> None:
    state.books.ledger.replace([Budget(calls=1), Budget(tokens=5000)], state.books.now)


def _admitted(state: Any) -> int:
    return sum(isinstance(each, Reservation) for each in state.got)


def _rows(state: Any) -> dict[str, tuple[Any, Any, int]]:
    books = state.books
    return {
        each.budget: (each.spent, each.reserved, each.calls)
        for each in books.ledger.reports(books.now)
    }


def _one_was_admitted(state: Any) -> None:
    assert 1 == _admitted(state), state.got
    assert {(0, 1, 0), (0, 200, 0)} >= set(_rows(state).values()), _rows(state)


def _each_call_is_booked(state: Any) -> None:
    calls = len(state.held)
    assert calls >= 1
    assert (calls, 0, calls) == _rows(state)["all month calls"]
    assert (calls * 200, 0, calls) == _rows(state)["all month tokens"]
    assert Decimal("0.0003") * calls == state.books.ledger.totals()["openai/gpt"]


def _booked_once(state: Any) -> None:
    state.books.ledger.reports(state.books.now)
    total = state.books.ledger.totals()["openai/gpt"]
    assert (1, 0, 1) == _rows(state)["all month calls"]
    assert (total * 10**6 * 2 / 3, 0, 1) == _rows(state)["all month tokens"]
    assert total in (Decimal("0.0003"), Decimal("0.0006"))


def _in_one_period(state: Any) -> None:
    """Whatever came first, the new hour has no spending, and nothing is reserved in it."""
    [row] = state.got[-1]
    assert (0, 0, 0) == (row.spent, row.reserved, row.calls), row
    assert Decimal("0.0003") == state.books.ledger.totals()["openai/gpt"]


def _in_the_later_hour(state: Any) -> None:
    [row] = state.books.ledger.reports(state.books.now)
    assert state.books.now - state.books.now % 3600 + 7200 == row.period_start.timestamp()


def _within_the_new_cap(state: Any) -> None:
    rows = _rows(state)
    assert rows["all month calls"][1] == _admitted(state) <= 1


def _told_once(state: Any) -> None:
    assert ["warning", "exceeded"] == [kind for kind, _, _ in state.books.notices()]
    assert {(1, 0, 1)} == set(_rows(state).values())


RACES = [
    Race(
        "the last place in two budgets is taken once",
        lambda: _state(Budget(calls=1), Budget(tokens=200)),
        [_reserve, _reserve, _reserve],
        _one_was_admitted,
    ),
    Race(
        "a key's first account is opened once",
        lambda: _state(Budget(calls=1, of="key")),
        [lambda state: _reserve(state, "a"), lambda state: _reserve(state, "a")],
        _one_was_admitted,
    ),
    Race(
        "nothing is lost between reservations and settlements",
        lambda: _state(Budget(calls=9), Budget(tokens=9000)),
        [_reserve_and_settle, _reserve_and_settle],
        _each_call_is_booked,
    ),
    Race(
        "one settlement of two counts",
        lambda: _with_one_held(Budget(calls=9), Budget(tokens=9000)),
        [_settle_the_held, _settle_the_held],
        _booked_once,
    ),
    Race(
        "a finaliser settles as well",
        lambda: _with_one_held(Budget(calls=9), Budget(tokens=9000)),
        [_settle_the_held_later, _settle_the_held],
        _booked_once,
    ),
    Race(
        "a settlement while the hour ends",
        lambda: _with_one_held(Budget(calls=9, per="hour")),
        [_settle_the_held, _next_hour, _next_hour],
        _in_one_period,
    ),
    Race(
        "two hours end at once",
        lambda: _state(Budget(calls=9, per="hour")),
        [_next_hour, _hour_after_next],
        _in_the_later_hour,
    ),
    Race(
        "the list is replaced while others reserve",
        lambda: _state(Budget(calls=1)),
        [_replace, _reserve, _reserve],
        _within_the_new_cap,
    ),
    Race(
        "an excess is told once",
        lambda: _with_one_held(Budget(calls=1)),
        [_settle_the_held, _reserve],
        _told_once,
    ),
]


@pytest.mark.parametrize("race", RACES, ids=str)
def test_the_ledger_holds_wherever_threads_switch(race: Race) -> None:
    """With switches before every opcode, whatever the order."""
    explored = explore(race, EVERY_OPCODE, runs=120)

    assert explored.violation is None, explored.violation


@pytest.mark.parametrize("race", RACES[:4], ids=str)
def test_the_lock_is_needed(race: Race) -> None:
    """Without it, the same runs find what goes wrong: so they would find it."""
    explored = explore(race, EVERY_OPCODE, runs=600, without="ledger")

    assert explored.violation is not None


def test_two_threads_in_every_order_that_makes_a_difference() -> None:
    """The first race, explored to the end by a tool that knows what touches what."""
    explored = reduce(RACES[1])

    assert explored.violation is None, explored.violation
    assert explored.is_complete


@pytest.fixture
def many_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def _together(count: int, work: Callable[[int], None]) -> None:
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == errors


@pytest.mark.usefixtures("many_switches")
@pytest.mark.parametrize(
    "budget", [Budget(calls=1), Budget(usd=0.01), Budget(tokens=1000)], ids=repr
)
def test_threads_never_pass_a_cap(budget: Budget) -> None:
    """At no moment is more than the cap reserved and spent, and in the end nothing is reserved."""
    books = Books(budget, Budget(tokens=10**9, of="key"))
    seen: list[bool] = []
    booked = [0] * 6

    def work(number: int) -> None:
        rng = random.Random(number)
        for _ in range(150):
            sent = rng.randrange(1, 300)
            found = books.try_(rng.choice((GPT, LLAMA)), sent, 0, key=str(number % 3))
            report = books.report(budget.name)
            seen.append(report.spent + report.reserved <= report.cap)
            if not isinstance(found, Reservation):
                continue
            used = rng.randrange(0, sent + 1)
            booking = Booking(Usage(used), calls=int(used > 0))
            if rng.random() < 0.3:
                books.ledger.settle_later(found, booking)
            else:
                books.ledger.settle(found, booking)
            booked[number] += used

    _together(6, work)

    assert all(seen)
    assert {0} == {each.reserved for each in books.ledger.reports(books.now)}
    in_keys = sum(each.spent for each in books.ledger.reports(books.now) if each.key is not None)
    assert sum(booked) == in_keys
    assert Decimal(sum(booked)) / 10**6 == sum(books.ledger.totals().values())


@pytest.mark.usefixtures("many_switches")
def test_threads_lose_nothing_while_everything_changes() -> None:
    """Periods, lists and resets change while attempts run; afterwards nothing is reserved."""
    budgets = [Budget(calls=5, per="hour"), Budget(usd=1), Budget(calls=3, of="key")]
    books = Books(*budgets)
    over = threading.Event()

    def work(number: int) -> None:
        rng = random.Random(number)
        if number == 0:
            for _ in range(200):
                books.now += rng.choice((60, 1800, -600))
                books.ledger.replace(rng.sample(budgets, rng.randrange(1, 4)), books.now)
                if rng.random() < 0.2:
                    books.ledger.reset()
                books.ledger.take_notices()
            over.set()
            return
        while not over.is_set():
            found = books.try_(key=str(number))
            if isinstance(found, Reservation) and rng.random() < 0.9:
                books.ledger.settle(found, ONE)

    _together(4, work)
    gc.collect()

    assert {0} >= {each.reserved for each in books.ledger.reports(books.now)}
    books.ledger.replace(budgets, books.now)
    assert {0} >= {each.reserved for each in books.ledger.reports(books.now)}
