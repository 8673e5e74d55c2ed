"""`can_call`: whether a call would be sent now. What it says is compared with what a call does."""

from __future__ import annotations

import pickle
from random import Random
from typing import Any

import pytest

from resilient_llm import (
    Budget,
    BudgetExceeded,
    BudgetExceededError,
    BudgetWarning,
    CallFailed,
    CanCall,
    ChainExhaustedError,
    ConfigurationError,
    Limit,
    Target,
    TargetSkipped,
    bench_model,
    breaker,
    can_call,
    configure,
    failover,
    health,
    spend,
    spend_key,
)
from resilient_llm._runtime import hearing
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import FakeClock, capture_events, isolated
from tests.support.ways import ProviderError

A, B, C = "openai/a", "groq/b", "xai@eu/c"


class StatusError(Exception):
    def __init__(self, status: int, after: float | None = None) -> None:
        super().__init__("no")
        self.status_code = status
        if after is not None:
            self.headers = {"retry-after": str(after)}


def test_a_chain_that_nothing_blocks(clock: FakeClock) -> None:
    """The first target by priority, and a truth value."""
    asked = can_call([Target(A, priority=2), B])

    assert asked
    assert CanCall(True, Target(B), None, {}) == asked


@pytest.mark.parametrize("form", ["spec", "texts", "policy", "function", "method"])
def test_what_may_be_asked_about(form: str, clock: FakeClock) -> None:
    """A chain in any form, a policy, a decorated function or method."""
    policy = failover(chain=[A, B])

    @policy
    def ask(target: Target) -> str:
        return target.key

    class Service:
        @policy
        def ask(self, target: Target) -> str:
            return target.key

    forms: dict[str, Any] = {
        "spec": f"{A}, {B}",
        "texts": [A, B],
        "policy": policy,
        "function": ask,
        "method": Service().ask,
    }
    bench_model(A, reason="maintenance")

    asked = can_call(forms[form])

    assert (True, B, {A: "maintenance"}) == (
        asked.allowed,
        asked.target and asked.target.key,
        asked.reasons,
    )


def test_why_not_and_when_to_come_back(clock: FakeClock) -> None:
    """The soonest moment of all targets; None where none is known."""
    bench_model(A, 30, reason="x")
    bench_model("groq", 20)

    asked = can_call([A, B])

    assert not asked
    assert (None, 20.0) == (asked.target, pytest.approx(asked.retry_after))
    assert {A: "x", B: "benched by hand"} == asked.reasons
    bench_model(A)
    bench_model("groq")
    assert None is can_call([A, B]).retry_after


def test_a_provider_that_is_blocked(clock: FakeClock) -> None:
    """A target that nobody has called yet is blocked with its provider, and is not kept."""
    bench_model("xai@eu", reason="key")

    assert {C: "key"} == can_call(C).reasons
    assert C not in health()


def test_a_target_that_is_forced_open(clock: FakeClock) -> None:
    """As it is configured, whether it was used or not."""
    configure(breakers={A: {"mode": "forced_open"}, "groq": {"mode": "forced_open"}})

    asked = can_call([A, B])

    assert not asked
    assert {A, B} == asked.reasons.keys()


def test_a_half_open_target_admits_one_probe(clock: FakeClock) -> None:
    """It is allowed until the place is taken."""
    guard = breaker(A, failures=1, cooldown=10)
    guard.record(TimeoutError(), 0.1)
    assert not can_call(A)
    clock.advance(12)
    assert can_call(A)

    with breaker(A):
        assert not can_call(A)

    assert can_call(A)


def test_limits_are_asked_with_the_estimate(clock: FakeClock) -> None:
    """A bucket that is empty, a call above the bucket, and places that are taken."""
    configure(
        limits={A: Limit(tokens=600, per=60), "groq": Limit(max_concurrent=1), C: Limit(requests=1)}
    )

    assert can_call(A, tokens=600)
    assert CanCall(False, None, None, {A: "request_too_large"}) == can_call(A, tokens=601)
    with breaker(B):
        assert CanCall(False, None, None, {B: "concurrency"}) == can_call(B)
    assert can_call(B)
    with breaker(C):
        pass
    asked = can_call(C)
    assert ({C: "request_limit"}, pytest.approx(60.0)) == (asked.reasons, asked.retry_after)


def test_reported_figures_are_asked_with_the_estimate(clock: FakeClock) -> None:
    """A figure that covers small calls refuses a large one."""
    hearing.heard(
        {
            "x-ratelimit-remaining-tokens": "500",
            "x-ratelimit-limit-tokens": "1000",
            "x-ratelimit-reset-tokens": "50s",
        },
        A,
    )

    assert can_call(A)
    assert can_call(A, tokens=500)
    asked = can_call(A, tokens=700)
    assert ({A: "token_limit"}, pytest.approx(20.0)) == (asked.reasons, asked.retry_after)


def test_a_question_leaves_no_trace_in_budgets(clock: FakeClock) -> None:
    """Nothing is reserved, no account is opened and nothing is emitted."""
    configure(budgets=[Budget(tokens=100, name="all"), Budget(calls=0, of="key", name="each")])
    before = spend()

    with capture_events(BudgetExceeded) as told:
        refused = can_call(A, tokens=101)
        by_key = can_call(A, spend_key="tenant")
        with spend_key("other"):
            around = can_call(A)

    assert ({A: "budget all"}, None) == (refused.reasons, refused.retry_after)
    assert {A: "budget each"} == by_key.reasons == around.reasons
    assert can_call(A, tokens=100)
    assert before == spend()
    assert [] == list(told)
    assert [] == runtime.ledger.notices


def test_a_target_without_a_price(clock: FakeClock) -> None:
    """A budget in USD refuses it, as it refuses a call."""
    configure(budgets=[Budget(usd=1)])

    assert {"own/llama": "unpriced"} == can_call("own/llama").reasons
    assert can_call(Target("own/llama", price=(0, 0)))


def test_the_cheapest_target_comes_first(clock: FakeClock) -> None:
    """``least_cost`` needs no draw; of what draws, equal priorities count as declared."""
    dear, cheap = Target(A, price=(9, 9)), Target(B, price=(1, 1))

    assert cheap == can_call(failover(chain=[dear, cheap], strategy="least_cost")).target
    assert dear == can_call(failover(chain=[dear, cheap], strategy="random")).target


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": -1}, "tokens"),
        ({"tokens": 1.5}, "tokens"),
        ({"spend_key": ""}, "key"),
    ],
)
def test_wrong_values(options: dict[str, Any], message: str) -> None:
    """They are refused where they are written."""
    with pytest.raises(ConfigurationError, match=message):
        can_call(A, **options)
    with pytest.raises(ConfigurationError):
        can_call([])


def test_a_frozen_value(clock: FakeClock) -> None:
    """It can be compared, pickled, and not changed."""
    asked = can_call(A)

    assert asked == pickle.loads(pickle.dumps(asked))
    with pytest.raises(AttributeError):
        asked.allowed = False  # type: ignore[misc]


def _unsettle(rng: Random, key: str, budgets: list[Budget], limits: dict[str, Limit]) -> None:
    """Bring a target, or its provider, into some state."""
    provider = key.partition("/")[0]
    whose = rng.choice((key, provider))
    match rng.randrange(9):
        case 0:
            bench_model(whose, rng.choice((None, 5, 50)), reason="by hand")
        case 1:
            for _ in range(rng.choice((4, 5))):
                breaker(key).record(TimeoutError(), 0.1)
        case 2:
            breaker(key).record(StatusError(429, rng.choice((3, 30))), 0.1)
        case 3:
            breaker(key).record(ProviderError(401), 0.1)
        case 4:
            limits[whose] = Limit(requests=rng.choice((1, 2)), per=60)
        case 5:
            limits[whose] = Limit(max_concurrent=1)
        case 6:
            counts = rng.choice(("requests", "tokens"))
            hearing.heard(
                {
                    f"x-ratelimit-remaining-{counts}": rng.choice(("0", "0.5", "40", "900")),
                    f"x-ratelimit-limit-{counts}": "1000",
                    f"x-ratelimit-reset-{counts}": "50s",
                },
                key,
            )
        case 7:
            budgets.append(
                Budget(calls=rng.choice((0, 5)), of=whose, name=f"{len(budgets)} {whose}")
            )
        case _:
            budgets.append(
                Budget(
                    tokens=rng.choice((20, 2_000)),
                    of=whose,
                    on_unbounded=1,
                    name=f"{len(budgets)} {whose}",
                )
            )


@pytest.mark.parametrize("part", range(4))
def test_it_says_what_a_call_then_does(part: int, clock: FakeClock) -> None:
    """For random states of three targets: the target, and the reason why each other is skipped."""
    allowed = refused = 0
    for number in range(40):
        rng = Random(f"{part} {number}")
        with isolated():
            budgets: list[Budget] = []
            limits: dict[str, Limit] = {}
            for key in (A, B, C):
                for _ in range(rng.randrange(1, 4)):
                    _unsettle(rng, key, budgets, limits)
            configure(budgets=budgets, limits=limits)
            size = rng.choice((0, 30, 600))

            @failover(chain=[A, B, C], tokens=size, attempts=1, when_all_benched="raise")
            def ask(target: Target) -> str:
                return target.key

            if rng.random() < 0.5:
                try:
                    ask()
                except (ChainExhaustedError, BudgetExceededError):
                    pass
            clock.advance(rng.choice((0, 4, 20, 40)))
            told = TargetSkipped, BudgetExceeded, BudgetWarning, CallFailed
            with capture_events(*told) as silence:
                asked = can_call(ask, tokens=size)
            assert [] == list(silence)
            assert asked == can_call(ask, tokens=size)

            served, skipped = None, dict[str, str]()
            try:
                with capture_events(TargetSkipped) as skips:
                    served = ask()
                before = {A: (), B: (A,), C: (A, B)}[served]
                assert {each: asked.reasons[each] for each in before} == {
                    event.target: event.reason for event in skips
                }
            except ChainExhaustedError as error:
                skipped = {each.target: each.reason for each in error.attempts}
                retry_after = error.retry_after
                assert asked.retry_after == (
                    None if retry_after is None else pytest.approx(retry_after)
                ) or any("budget" in reason for reason in skipped.values())
            except BudgetExceededError:
                assert all("budget" in each for each in asked.reasons.values())
                skipped = dict(asked.reasons)

            context = part, number
            assert (context, served) == (context, asked.target and asked.target.key)
            if served is None:
                assert (context, skipped) == (context, asked.reasons)
            allowed += served is not None
            refused += served is None
    assert min(allowed, refused) >= 3
