"""A target that a guard refuses is not live, whichever guard it is and however targets are ordered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from resilient_llm import (
    Budget,
    BudgetExceededError,
    ChainExhaustedError,
    Limit,
    Target,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    spend_key,
    strategies,
)
from resilient_llm._runtime.runtime import runtime
from tests.support.spending import answer
from tests.support.ways import GROQ, OPENAI

THIRD = "own/llama"
CHAIN = [
    Target(GROQ, price=(1, 1), max_output=10, weight=8),
    Target(OPENAI, price=(2, 2), max_output=10, weight=3),
    Target(THIRD, price=(2, 2), max_output=10, weight=1),
]
REFUSED, OTHERS = GROQ, {OPENAI, THIRD}


@contextmanager
def full() -> Iterator[None]:
    """All places of the first target are taken."""
    configure(limits={"groq": Limit(max_concurrent=1)})
    with breaker("groq"):
        yield


@contextmanager
def without_requests() -> Iterator[None]:
    configure(limits={"groq": Limit(requests=1, per="day")})
    with breaker("groq"):
        pass
    yield


@contextmanager
def in_debt() -> Iterator[None]:
    """An answer was larger than the bucket of tokens."""
    configure(limits={"groq": Limit(tokens=100, per="day")})
    failover([CHAIN[0]]).call(lambda *, target: answer(100, 50))
    yield


@contextmanager
def without_budget() -> Iterator[None]:
    configure(budgets=[Budget(calls=1, of="groq")])
    failover([CHAIN[0]]).call(lambda *, target: answer(1, 1))
    yield


@contextmanager
def without_budget_of_its_key() -> Iterator[None]:
    configure(budgets=[Budget(usd=0.00002, of="tag:none"), Budget(calls=1, of="groq")])
    failover([CHAIN[0]]).call(lambda *, target: answer(1, 1))
    with spend_key("tenant"):
        yield


GUARDS = [full, without_requests, in_debt, without_budget, without_budget_of_its_key]
SHARES = {"random": 1, "round_robin": 1, "least_busy": 1, "weighted": 3}
"""How much more the second target is called than the third."""
OTHER_STRATEGIES: list[Any] = [
    "priority",
    "least_cost",
    "least_latency",
    strategies.sticky(lambda number: number),
    "adaptive",
]


def asking(strategy: Any, **options: Any) -> Any:
    if strategy == "adaptive":
        options, strategy = {**options, "adaptive": True}, "priority"

    @failover(CHAIN, strategy=strategy, attempts=1, tokens=1, **options)
    def ask(target: Target, number: int) -> str:
        return target.key

    return ask


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
@pytest.mark.parametrize("strategy", SHARES)
def test_the_others_share_what_is_left(clock: Any, strategy: str, guard: Any) -> None:
    """As if the refused target were not in the chain, and it gets nothing."""
    ask = asking(strategy)
    runtime.rng.seed(1)

    with guard():
        reached = [ask(number) for number in range(400)]

    second = 400 * SHARES[strategy] / (SHARES[strategy] + 1)
    assert OTHERS == set(reached)
    assert second - 50 < reached.count(OPENAI) < second + 50
    assert "healthy" == health()[GROQ].status


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
@pytest.mark.parametrize("strategy", OTHER_STRATEGIES, ids=str)
def test_a_refused_target_gets_nothing(clock: Any, strategy: Any, guard: Any) -> None:
    """No matter how the strategy prefers it."""
    ask = asking(strategy)

    with guard():
        reached = {ask(number) for number in range(100)}

    assert reached
    assert reached <= OTHERS
    assert "healthy" == health()[GROQ].status


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
@pytest.mark.parametrize("when", ["soonest", "wait", "raise"])
def test_a_refused_target_is_no_last_resort(clock: Any, when: Any, guard: Any) -> None:
    """Nor is a call made there after its bench, while the guard refuses."""
    ask = asking("priority", when_all_benched=when, timeout=5.0)
    with guard():
        for number, key in enumerate((GROQ, OPENAI, THIRD)):
            bench_model(key, 1.0 + number)
        if when == "wait":
            assert ask(1) in OTHERS
        else:  # the benches are an operator's, so no call is made in spite of them
            with pytest.raises(ChainExhaustedError):
                ask(1)


@pytest.mark.parametrize("when", ["soonest", "wait"])
def test_a_last_resort_has_budget(clock: Any, when: Any) -> None:
    """One without budget is no last resort, whenever its bench ends."""
    configure(breakers={"*": {"failures": 1}})
    fails = True

    @failover(CHAIN, attempts=1, when_all_benched=when)
    def ask(target: Target) -> str:
        if fails:
            raise ConnectionError
        return target.key

    with pytest.raises(ChainExhaustedError):
        ask()
    configure(budgets=[Budget(calls=0, of="groq")])
    fails = False

    assert ask() in OTHERS


def test_nothing_is_left_but_budgets() -> None:
    """The error is that of budgets alone only if no bench is in the way as well."""
    configure(budgets=[Budget(calls=0)])
    ask = asking("priority")
    with pytest.raises(BudgetExceededError):
        ask(1)
    bench_model(OPENAI, 60.0)

    with pytest.raises(ChainExhaustedError) as raised:
        ask(1)

    reasons = [getattr(each, "reason", "") for each in raised.value.exceptions]
    assert 2 == sum(each.startswith("budget ") for each in reasons)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_the_only_live_target_has_all_of_the_time(clock: Any, guard: Any) -> None:
    """An attempt shares the deadline with live targets alone."""
    with guard():
        bench_model(THIRD, 60.0)
        for attempt in failover(CHAIN, timeout=20.0):
            with attempt as target:
                assert (OPENAI, 20.0) == (target.key, attempt.remaining)
