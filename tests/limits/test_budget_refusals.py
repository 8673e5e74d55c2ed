"""What a call does when budgets refuse its targets, and what its error says."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import anyio
import pytest

from resilient_llm import (
    Attempt,
    Budget,
    BudgetExceededError,
    CallFailed,
    CallRejectedError,
    ChainExhaustedError,
    ConfigurationError,
    HedgeStarted,
    RetryStopped,
    Target,
    TargetSkipped,
    bench_model,
    configure,
    failover,
    reset_spend,
    spend,
    spend_key,
)
from resilient_llm.testing import capture_events
from tests.support.ways import (
    DRIVERS,
    GROQ,
    OPENAI,
    Driver,
    ProviderError,
    over,
    run_async,
)

ONE = Budget(calls=1, of="groq", name="one")


def use_up(*targets: str) -> None:
    """Spend the one call of targets."""
    for each in targets:
        failover([Target(each, max_output=1)]).call(lambda *, target: "x")


def key_of(target: Target) -> str:
    return target.key


def call_of(policy: Any) -> Any:
    def ask(target: Target) -> str:
        return target.key

    return policy.call(ask)


def used(*budgets: Budget, targets: tuple[str, ...] = (GROQ,)) -> None:
    configure(budgets=list(budgets))
    for each in targets:
        call_of(failover([each]))


# The call goes down its chain.


@over(DRIVERS)
def test_a_refused_target_is_skipped(driver: Driver) -> None:
    """The reason names the budget; the next target is called, and no health changes."""
    used(ONE)

    with capture_events() as told:
        answer = driver.run(failover([GROQ, OPENAI]), key_of)

    skips = [(each.target, each.reason) for each in told if type(each) is TargetSkipped]
    assert (OPENAI, [(GROQ, "budget one")]) == (answer, skips)


@over(DRIVERS)
@pytest.mark.parametrize("when", ["soonest", "wait", "raise"])
def test_no_call_waits_for_a_budget(driver: Driver, when: Any, clock: Any) -> None:
    """Also none whose policy would wait for a bench."""
    used(ONE)

    with pytest.raises(BudgetExceededError) as raised:
        driver.run(failover([GROQ], when_all_benched=when), key_of)

    assert [] == clock.sleeps
    error = raised.value
    assert ("one", None, 1, 1, 0) == (
        error.budget, error.key, error.cap, error.spent, error.reserved,
    )  # fmt: skip
    assert (error.retry_after, error.resets_at) == (raised.value.retry_after, spend()[0].resets_at)


def test_a_pinned_call_is_refused_too() -> None:
    """There is no other target for it."""
    used(ONE)

    @failover([GROQ, OPENAI])
    def ask(*, target: Target | None = None) -> str:
        assert target is not None
        return target.key

    with pytest.raises(BudgetExceededError):
        ask(target=Target(GROQ))


def test_a_benched_target_besides_makes_it_a_member_of_the_group() -> None:
    """Only if budgets refused every target the error is theirs alone."""
    used(ONE)
    bench_model(OPENAI, 60)

    with pytest.raises(ChainExhaustedError) as raised:
        call_of(failover([GROQ, OPENAI], when_all_benched="raise"))

    reasons = [getattr(each, "reason", None) for each in raised.value.exceptions]
    assert "budget one" == reasons[0]
    assert all(isinstance(each, CallRejectedError) for each in raised.value.exceptions)


def test_as_a_member_it_says_all_that_it_says_alone() -> None:
    """Which budget, of which key, how much and until when; also after a pickle."""
    configure(budgets=[Budget(calls=2, of="key", per="day", name="two")])
    policy = failover([GROQ, OPENAI], when_all_benched="raise")
    with spend_key("a"):
        for _ in range(2):
            call_of(policy)
        with pytest.raises(BudgetExceededError) as alone:
            call_of(policy)
        bench_model(OPENAI, 60)
        with pytest.raises(ChainExhaustedError) as beside:
            call_of(policy)

    copies = [beside.value, pickle.loads(pickle.dumps(beside.value))]

    for member in [each.exceptions[0] for each in copies]:
        assert isinstance(member, BudgetExceededError)
        assert ("two", "a", 2, 2, 0) == (
            member.budget, member.key, member.cap, member.spent, member.reserved,
        )  # fmt: skip
        assert alone.value.resets_at == member.resets_at == spend()[0].resets_at
        assert 0 < (member.retry_after or 0) <= 86_400


def test_after_something_was_sent_it_is_a_member_of_the_group() -> None:
    """The error of the target that failed comes first."""
    used(ONE)

    def ask(target: Target) -> str:
        raise ProviderError(400)

    with pytest.raises(ChainExhaustedError) as raised:
        failover([OPENAI, GROQ]).call(ask)

    assert [ProviderError, BudgetExceededError] == [type(e) for e in raised.value.exceptions]


def test_waiting_for_a_bench_goes_on_beside_a_refused_target(clock: Any) -> None:
    """The benched target is waited for; the one without budget is not."""
    used(ONE)
    bench_model(OPENAI, 5)

    assert OPENAI == call_of(failover([GROQ, OPENAI], when_all_benched="wait"))
    assert 5 <= sum(clock.sleeps) < 6


# A refused target is not live.


def test_a_retry_that_budgets_refuse_is_stopped() -> None:
    """The event says so, and the call moves on."""
    configure(budgets=[ONE])

    def ask(target: Target) -> str:
        if target.key == GROQ:
            raise ProviderError(503)
        return target.key

    with capture_events(RetryStopped, TargetSkipped) as told:
        assert OPENAI == failover([GROQ, OPENAI], backoff=lambda n: 0.0).call(ask)

    assert ["limit"] == [each.reason for each in told if type(each) is RetryStopped]


def test_a_rate_limit_is_retried_if_budgets_refuse_the_other_target(clock: Any) -> None:
    """With a live target the call would go there instead of waiting."""
    used(ONE)
    outcomes: list[Any] = [ProviderError(429, retry_after=1), None]

    def ask(target: Target) -> str:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return target.key

    assert OPENAI == failover([OPENAI, GROQ]).call(ask)
    assert [1] == [round(each, 3) for each in clock.sleeps]


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_deadline_is_shared_with_live_targets_alone(is_refused: bool) -> None:
    """An attempt gets all of the time if budgets refuse the rest of the chain."""
    used(ONE) if is_refused else configure(budgets=[ONE])
    seen: list[float] = []

    @failover([OPENAI, GROQ], timeout=10)
    async def ask(target: Target, *, attempt: Attempt) -> str:
        seen.append(attempt.remaining or 0)
        return target.key

    asyncio.run(ask())

    assert (seen[0] > 9) is is_refused


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_no_hedge_starts_on_a_refused_target(backend: str) -> None:
    """The slow attempt goes on alone."""
    used(ONE)

    @failover([OPENAI, GROQ], hedge=0.001)
    async def ask(target: Target) -> str:
        await anyio.sleep(0.02)
        return target.key

    with capture_events(HedgeStarted) as told:
        assert OPENAI == run_async(ask, backend=backend)

    assert [] == told


def test_a_refusal_leaves_limits_alone() -> None:
    """What earlier guards took is given back."""
    from resilient_llm import Limit

    configure(limits={GROQ: Limit(requests=2, max_concurrent=1)}, budgets=[Budget(calls=1)])
    policy = failover([GROQ], when_all_benched="raise")
    call_of(policy)
    for _ in range(5):
        with pytest.raises(BudgetExceededError):
            call_of(policy)
    reset_spend()

    assert GROQ == call_of(policy)


# What the error says.


def test_the_error_is_of_the_budget_to_come_back_for(clock: Any) -> None:
    """Of each target the budget that resets last; of these the one that resets first."""
    noon = datetime(2026, 11, 11, 12, tzinfo=UTC)  # the last day ends together with its month
    clock.jump_wall(noon.timestamp() - clock.wall())
    used(
        Budget(calls=1, of=GROQ, per="hour", name="hour"),
        Budget(calls=1, of=GROQ, per="month", name="month"),
        Budget(calls=1, of=OPENAI, per="day", name="day"),
        targets=(GROQ, OPENAI),
    )

    with pytest.raises(BudgetExceededError) as raised:
        call_of(failover([GROQ, OPENAI]))

    assert ("day", OPENAI) == (raised.value.budget, raised.value.target)
    assert 0 < (raised.value.retry_after or 0) <= 86400


def test_a_call_above_the_cap_never_fits() -> None:
    """There is no moment to come back at."""
    configure(budgets=[Budget(tokens=10)])

    with pytest.raises(BudgetExceededError) as raised:
        call_of(failover([Target(GROQ, max_output=11)]))

    assert raised.value.retry_after is None


def test_reservations_alone_name_no_moment() -> None:
    """They may end at any time."""
    configure(budgets=[Budget(calls=1)])
    policy = failover([GROQ])
    inner: list[BudgetExceededError] = []

    def ask(target: Target) -> str:
        with pytest.raises(BudgetExceededError) as raised:
            call_of(policy)
        inner.append(raised.value)
        return "x"

    policy.call(ask)

    assert (None, 0, 1) == (inner[0].retry_after, inner[0].spent, inner[0].reserved)


def test_the_error_survives_a_pickle() -> None:
    """With all that it says."""
    used(ONE)
    with pytest.raises(BudgetExceededError) as raised:
        call_of(failover([GROQ]))

    copy = pickle.loads(pickle.dumps(raised.value))

    assert (vars(raised.value), str(raised.value)) == (vars(copy), str(copy))


# Prices and lengths.


def test_no_price_is_a_refusal_with_a_note() -> None:
    """The note says what to write; a target with a price is called."""
    configure(budgets=[Budget(usd=1)])
    unpriced = Target("own/llama", max_output=10)

    with pytest.raises(BudgetExceededError) as raised:
        call_of(failover([unpriced]))
    priced = Target("own/gpt", max_output=10, price=(1, 1))

    assert ("unpriced", None) == (raised.value.reason, raised.value.retry_after)
    assert "price=" in raised.value.__notes__[0]
    assert "own/gpt" == call_of(failover([unpriced, priced]))


@pytest.mark.parametrize("beside", ["benched", "spent", "failed"])
def test_each_target_without_a_price_has_its_note(beside: str) -> None:
    """On the error that leaves, whatever became of the rest of the chain; also after a pickle."""
    configure(budgets=[Budget(usd=0, of="own"), Budget(usd=0, of="other")])
    if beside == "benched":
        bench_model(GROQ, 60)
    last = Target("own/gpt", price=(1, 1), max_output=1) if beside == "spent" else Target(GROQ)

    def ask(target: Target) -> str:
        raise ProviderError(400)

    with pytest.raises((BudgetExceededError, ChainExhaustedError)) as raised:
        failover(["own/llama", "other/llama", last], when_all_benched="raise").call(ask)

    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):
        keys = [key for key in ("own/llama", "other/llama") if str(error.__notes__).count(key) == 2]
        assert ["own/llama", "other/llama"] == keys
        assert all("price=" in note for note in error.__notes__)
        assert 2 == len(error.__notes__)


def test_a_target_without_cost_is_never_refused_in_usd() -> None:
    """A cap of 0 USD lets it pass, as long as its answer and without a limit on that."""
    configure(budgets=[Budget(usd=0)])

    assert "own/free" == call_of(failover([Target("own/free", price=(0, 0))]))


@pytest.mark.parametrize("unit", ["calls", "tokens", "usd"])
def test_a_cap_of_0_lets_nothing_pass(unit: str) -> None:
    """It is a way to switch something off."""
    configure(budgets=[Budget(**{unit: 0})])

    with pytest.raises(BudgetExceededError):
        call_of(failover([Target(GROQ, price=(1, 1), max_output=1)]))


@over(DRIVERS)
def test_an_unbounded_answer_leaves_the_call_as_a_mistake(driver: Driver) -> None:
    """The message says what to write; the call has failed, and nothing is reserved."""
    configure(budgets=[Budget(tokens=1000)])

    with (
        capture_events(CallFailed) as told,
        pytest.raises(ConfigurationError, match="max_tokens"),
    ):
        driver.run(failover([GROQ]), key_of)

    assert (1, 0) == (len(told), spend()[0].reserved)


def test_on_unbounded_is_what_is_reserved_then() -> None:
    """And a budget in calls needs no length."""
    configure(budgets=[Budget(tokens=1000, on_unbounded=300), Budget(calls=5)])
    seen: list[Any] = []

    def ask(target: Target) -> str:
        seen.extend(row.reserved for row in spend())
        return "x"

    failover([GROQ]).call(ask)

    assert sorted([1, 300]) == sorted(seen)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_unbounded_hedge_does_not_start(backend: str) -> None:
    """The mistake leaves the call only if that target is needed."""
    configure(budgets=[Budget(tokens=1000)])

    @failover([Target(GROQ, max_output=10), OPENAI], hedge=0.001)
    async def ask(target: Target) -> str:
        await anyio.sleep(0.02)
        return target.key

    assert GROQ == run_async(ask, backend=backend)
    assert 0 == spend()[0].reserved


def test_an_unbounded_hedge_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing else would tell why that function is never hedged; the line says what to write."""
    configure(budgets=[Budget(tokens=1000, name="all")])

    @failover([Target(GROQ, max_output=10), OPENAI], hedge=0.001)
    async def ask(target: Target) -> str:
        await anyio.sleep(0.02)
        return target.key

    with caplog.at_level(logging.WARNING, "resilient_llm"):
        for _ in range(2):
            asyncio.run(ask())
            configure(max_wait=30.0)  # functions are bound to the new settings
            assert GROQ == asyncio.run(ask.using(max_hedges=2)())

    assert 1 == len(caplog.messages)
    assert all(word in caplog.messages[0] for word in ("ask", OPENAI, "'all'", "on_unbounded"))


def test_the_call_bounds_its_answer() -> None:
    """`max_tokens` times ``n``, else the target's `max_output`."""
    configure(budgets=[Budget(tokens=10_000)])
    seen: list[Any] = []

    @failover([Target(GROQ, max_output=500)], tokens=0)
    def ask(target: Target, *, max_tokens: int | None = None, n: int = 1) -> str:
        seen.append(spend()[0].reserved)
        return "x"

    ask(max_tokens=20, n=3)
    ask()

    assert [60, 500] == seen


def test_the_input_is_estimated_from_the_arguments() -> None:
    """Characters / 4, rounded up, without `tokens=`."""
    configure(budgets=[Budget(tokens=10_000)])
    seen: list[Any] = []

    @failover([Target(GROQ, max_output=1)])
    def ask(target: Target, prompt: str) -> str:
        seen.append(spend()[0].reserved)
        return "x"

    ask("x" * 9)

    assert [3 + 1] == seen


# Keys.


def test_a_message_never_shows_a_wrong_key() -> None:
    """A key may be a person's name."""
    for wrong in ("secret" * 50, "sec\nret", ""):
        with pytest.raises(ConfigurationError) as raised, spend_key(wrong):
            pass
        assert "sec" not in str(raised.value)


def test_the_key_counts_that_is_innermost_when_the_call_begins() -> None:
    """A stream has that of its call, whoever reads it; tasks inherit it."""
    configure(budgets=[Budget(calls=9, of="key")])

    @failover([GROQ])
    def stream(target: Target) -> Any:
        yield "x"

    @failover([GROQ])
    async def ask(target: Target) -> str:
        return "x"

    async def main() -> None:
        with spend_key("task"):
            task = asyncio.create_task(ask())
        await task

    with spend_key("outer"), spend_key("inner"):
        items = stream()
    with spend_key("reader"):
        list(items)
    asyncio.run(main())

    assert ["inner", "task"] == [row.key for row in spend()]


def test_usd_is_shown_as_a_decimal() -> None:
    """In the error as in the reports."""
    configure(budgets=[Budget(usd=0.000005)])
    policy = failover([Target(GROQ, price=(0, 1), max_output=5)])
    call_of(policy)

    with contextlib.suppress(BudgetExceededError):
        for _ in range(9):
            call_of(policy)
    with pytest.raises(BudgetExceededError) as raised:
        call_of(policy)

    assert Decimal("0.000005") == raised.value.cap
    assert isinstance(raised.value.spent, Decimal)
