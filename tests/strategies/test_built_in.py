"""The built-in strategies: how often each target comes first, and in which order the rest comes."""

import gc
import itertools
import os
import pickle
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from resilient_llm import (
    ChainExhaustedError,
    ConfigurationError,
    Failover,
    Target,
    TargetSkipped,
    Trace,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    observe,
    reset,
    strategies,
    testing,
    unbench_model,
)
from resilient_llm._binding.ordering import nothing_drawn
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import FakeClock, isolated
from tests.support.guards import eager_threads, in_threads
from tests.support.ways import DRIVERS, Driver, ProviderError, run_async

CHAIN = ("a/x", "b/x", "c/x", "d/x", "e/x")
DRAWN = ("round_robin", "random", "weighted", "least_cost")
CERTAIN = 30.0
"""Chi-square above which a distribution of up to five targets is wrong: p < 1e-5."""


def served(policy: Failover, times: int) -> list[str]:
    """Return the keys that so many healthy calls were sent to."""

    @policy
    def ask(target: Target) -> str:
        return target.key

    return [ask() for _ in range(times)]


def chi_square(found: Counter[Any], shares: dict[Any, float]) -> float:
    """Return how far counts are from the shares that were expected."""
    total, whole = sum(found.values()), sum(shares.values())
    assert set(found) <= set(shares)
    return sum(
        (found[key] - total * share / whole) ** 2 / (total * share / whole)
        for key, share in shares.items()
    )


def orders(policy: Failover, times: int) -> list[tuple[str, ...]]:
    """Return the orders in which calls went through the chain, none of whose targets answered.

    No error counts for health, so the order of each call is that of healthy targets.
    """
    found: list[tuple[str, ...]] = []
    called: list[str] = []

    @policy.using(attempts=1)
    def ask(target: Target) -> str:
        called.append(target.key)
        raise ProviderError(400)

    for _ in range(times):
        called.clear()
        with pytest.raises(ChainExhaustedError):
            ask()
        found.append(tuple(called))
    return found


# --- round_robin ------------------------------------------------------------------------------


def test_round_robin_rotates_the_targets_by_the_number_of_earlier_calls() -> None:
    """The order of each call begins one target later than that of the call before."""
    policy = failover(CHAIN[:3], strategy="round_robin")

    assert [("a/x", "b/x", "c/x"), ("b/x", "c/x", "a/x"), ("c/x", "a/x", "b/x")] * 2 == orders(
        policy, 6
    )


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_round_robin_rotates_in_every_way_to_write_a_call(driver: Driver) -> None:
    """Wrapper, method, `policy.call`, loop, synchronous and asynchronous: all step once a call."""
    policy = failover(CHAIN[:3], strategy="round_robin")

    found = [driver.run(policy, lambda target: target.key) for _ in range(6)]

    assert ["a/x", "b/x", "c/x"] * 2 == found


def test_round_robin_puts_targets_that_are_not_live_last() -> None:
    """The live ones rotate as declared, the others follow as declared."""
    policy = failover(CHAIN, strategy="round_robin")
    bench_model("d/x")
    bench_model("b/x")
    traces: list[list[str]] = []

    @policy.using(attempts=1)
    def ask(target: Target) -> str:
        raise ProviderError(400)

    for _ in range(3):
        with pytest.raises(ChainExhaustedError), Trace() as trace:
            ask()
        traces.append([record.target for record in trace.attempts])

    assert [
        ["a/x", "c/x", "e/x", "b/x", "d/x"],
        ["c/x", "e/x", "a/x", "b/x", "d/x"],
        ["e/x", "a/x", "c/x", "b/x", "d/x"],
    ] == traces


@pytest.mark.parametrize("is_watched", [False, True])
def test_round_robin_is_even_under_threads(*, is_watched: bool) -> None:
    """Each of m targets is first in n/m calls, plus or minus one, whatever threads do."""
    if is_watched:
        observe(lambda event: None)
    policy = failover(CHAIN, strategy="round_robin")

    @policy
    def ask(target: Target) -> str:
        return target.key

    with eager_threads():
        found = in_threads(8, lambda _: Counter(ask() for _ in range(501)))

    total = sum(found, Counter[str]())
    assert all(abs(8 * 501 / 5 - total[key]) <= 1 for key in CHAIN), total


def test_round_robin_stays_even_as_keys_go_and_come_back(clock: FakeClock) -> None:
    """Between two changes each live target is first equally often, plus or minus one."""
    policy = failover(CHAIN, strategy="round_robin")

    def spread(times: int) -> Counter[str]:
        return Counter(served(policy, times))

    all_live = spread(50)
    bench_model("b/x", 60)
    bench_model("c", 30)  # a provider
    three_live = spread(50)
    clock.advance(30.0)
    four_live = spread(50)
    clock.advance(30.0)
    five_live = spread(50)
    unbenched = unbench_model("b/x")

    assert dict.fromkeys(CHAIN, 10) == all_live
    assert {"a/x", "d/x", "e/x"} == set(three_live)
    assert max(three_live.values()) - min(three_live.values()) <= 1
    assert {"a/x", "c/x", "d/x", "e/x"} == set(four_live)
    assert max(four_live.values()) - min(four_live.values()) <= 1
    assert dict.fromkeys(CHAIN, 10) == five_live
    assert not unbenched


def test_round_robin_sends_a_probe_to_a_half_open_target_in_its_turn(clock: FakeClock) -> None:
    """A target whose cooldown is over is live, since its one place is free."""
    breaker("b/x", failures=1)
    policy = failover(CHAIN[:3], strategy="round_robin", attempts=1)
    served(policy, 3)
    breaker("b/x").record(TimeoutError(), 0.1)
    benched = served(policy, 4)
    clock.advance(40.0)
    back = served(policy, 6)

    assert "b/x" not in benched
    assert 2 == Counter(back)["b/x"]
    assert "closed" == breaker("b/x").state


def test_the_number_of_calls_belongs_to_a_family_of_copies() -> None:
    """Copies by `.using()` share it, one with another chain and another policy do not."""
    policy = failover(CHAIN[:3], strategy="round_robin")
    others = failover(CHAIN[:3], strategy="round_robin")

    found = [
        served(each, 1)[0]
        for each in (
            policy,
            policy.using(timeout=5.0),
            policy.using(attempts=1).using(attempts=2),
            others,
            policy.using(chain=CHAIN[:3]),
            policy.using(chain=CHAIN[:2]),
        )
    ]

    assert ["a/x", "b/x", "c/x", "a/x", "a/x", "a/x"] == found


def test_calls_under_another_strategy_are_not_counted() -> None:
    """Only calls that used the strategy step it; a pinned call uses none."""
    policy = failover(CHAIN[:3], strategy="round_robin")

    @policy
    def ask(*, target: Target | None = None) -> str:
        assert target is not None
        return target.key

    pinned: Any = ask
    found = [
        ask(),
        pinned(target="c/x"),
        ask.using(strategy="random")() and ask.using(strategy="priority")(),
        ask(),
    ]

    assert ["a/x", "c/x", "a/x", "b/x"] == found


def test_the_number_of_calls_starts_anew_where_state_is_isolated_or_reset() -> None:
    """Also of a function that was decorated before; afterwards the earlier number goes on."""
    policy = failover(CHAIN[:3], strategy="round_robin")

    @policy
    def ask(target: Target) -> str:
        return target.key

    before = [ask(), ask()]
    with isolated():
        inside = [ask(), ask()]
    after = ask()
    reset()
    anew = ask()

    assert (["a/x", "b/x"], ["a/x", "b/x"], "c/x", "a/x") == (before, inside, after, anew)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process")
def test_the_number_of_calls_starts_anew_after_a_fork() -> None:
    """A child counts its own calls."""
    policy = failover(CHAIN[:3], strategy="round_robin")
    served(policy, 2)

    child = os.fork()
    if not child:
        os._exit(7 if served(policy, 1) == ["a/x"] else 1)
    _, status = os.waitpid(child, 0)

    assert 7 == os.waitstatus_to_exitcode(status)
    assert ["c/x"] == served(policy, 1)


def test_all_groups_of_a_call_rotate_by_one_number() -> None:
    """Fallbacks of a lower priority are spread as well, and one call is one step."""
    chain = [Target("a/x"), Target("b/x"), *(Target(f"{at}/y", priority=2) for at in "cde")]

    found = orders(failover(chain, strategy="round_robin"), 4)

    assert [
        ("a/x", "b/x", "c/y", "d/y", "e/y"),
        ("b/x", "a/x", "d/y", "e/y", "c/y"),
        ("a/x", "b/x", "e/y", "c/y", "d/y"),
        ("b/x", "a/x", "c/y", "d/y", "e/y"),
    ] == found


# --- random and weighted ----------------------------------------------------------------------


def test_random_is_a_uniform_shuffle() -> None:
    """Each of the six orders of three targets is as likely as the others."""
    runtime.rng.seed(1)
    policy = failover(CHAIN[:3], strategy="random")

    found = Counter(orders(policy, 3_000))

    assert chi_square(found, dict.fromkeys(itertools.permutations(CHAIN[:3]), 1.0)) < CERTAIN


WEIGHTS = {"a/x": 5.0, "b/x": 3.0, "c/x": 1.0, "d/x": 0.5}


def weighted_chain() -> list[Target]:
    return [Target(key, weight=weight) for key, weight in WEIGHTS.items()]


def without_replacement(keys: Sequence[str], weights: dict[str, float]) -> float:
    """Return the probability of an order that is drawn without replacement."""
    left, chance = sum(weights.values()), 1.0
    for key in keys:
        chance *= weights[key] / left
        left -= weights[key]
    return chance


def test_weighted_draws_whole_orders_without_replacement() -> None:
    """P of the next target is its weight by the sum of the weights that remain."""
    runtime.rng.seed(2)
    weights = {key: WEIGHTS[key] for key in ("a/x", "b/x", "c/x")}
    policy = failover([Target(key, weight=weights[key]) for key in weights], strategy="weighted")

    found = Counter(orders(policy, 4_000))

    expected = {
        each: without_replacement(each, weights) for each in itertools.permutations(weights)
    }
    assert chi_square(found, expected) < CERTAIN


@pytest.mark.parametrize(
    ("strategy", "weights"), [("weighted", WEIGHTS), ("random", dict.fromkeys(WEIGHTS, 1.0))]
)
@pytest.mark.parametrize("is_watched", [False, True])
def test_live_targets_share_what_a_blocked_one_leaves(
    strategy: str, weights: dict[str, float], *, is_watched: bool
) -> None:
    """Keys that go and come back change nothing between the others, with an observer or without."""
    runtime.rng.seed(3)
    if is_watched:
        observe(lambda event: None)
    policy = failover(weighted_chain(), strategy=strategy)
    before = Counter(served(policy, 2_000))
    bench_model("a/x")
    during = Counter(served(policy, 2_000))
    unbench_model("a/x")
    after = Counter(served(policy, 2_000))

    left = {key: weight for key, weight in weights.items() if key != "a/x"}
    assert chi_square(before, weights) < CERTAIN
    assert chi_square(during, left) < CERTAIN
    assert chi_square(after, weights) < CERTAIN


@pytest.mark.parametrize(
    ("strategy", "weights"), [("weighted", WEIGHTS), ("random", dict.fromkeys(WEIGHTS, 1.0))]
)
def test_a_blocked_target_comes_up_as_often_as_if_it_were_live(
    strategy: str, weights: dict[str, float]
) -> None:
    """The call passes over it where it stands in the order, and tells of that."""
    runtime.rng.seed(4)
    skipped: list[str] = []
    observe(lambda event: skipped.append(event.target), TargetSkipped)
    bench_model("a/x")
    policy = failover(weighted_chain(), strategy=strategy)

    served(policy, 4_000)

    # It is skipped in calls in which it stands before every live target.
    share = weights["a/x"] / sum(weights.values())
    assert {"a/x"} == set(skipped)
    assert (
        chi_square(
            Counter({True: len(skipped), False: 4_000 - len(skipped)}),
            {True: share, False: 1 - share},
        )
        < 20.0
    )


def test_the_rest_of_an_order_is_drawn_with_blocked_targets_in_it() -> None:
    """Given the first live target, the whole order is as likely as if it were drawn at once."""
    runtime.rng.seed(5)
    weights = {"a/x": 4.0, "b/x": 2.0, "c/x": 1.0}
    bench_model("a/x")
    found: Counter[tuple[str, ...]] = Counter()

    @failover(
        [Target(key, weight=weights[key]) for key in weights], strategy="weighted", attempts=1
    )
    def ask(target: Target) -> str:
        raise ProviderError(400)

    for _ in range(4_000):
        with pytest.raises(ChainExhaustedError) as caught:
            ask()
        found[tuple(record.target for record in caught.value.attempts)] += 1

    expected = {
        each: without_replacement(each, weights) for each in itertools.permutations(weights)
    }
    assert chi_square(found, expected) < CERTAIN


def test_a_degraded_target_has_half_its_weight() -> None:
    """Of two with one weight, the degraded one comes first in a third of the calls."""
    runtime.rng.seed(6)
    configure(breakers={"*": {"error_rate": 1.0, "failures": 1_000_000}})
    policy = failover(["a/x", "b/x"], strategy="weighted")
    served(policy, 10)
    for _ in range(10_000):
        breaker("b/x").record(TimeoutError(), 0.01)
    breaker("b/x").record(None, 0.01)

    found = Counter(served(policy, 3_000))
    rest = Counter(each[1] for each in orders(failover(["a/x", "b/x"], strategy="weighted"), 600))

    assert "degraded" == health()["b/x"].status
    assert chi_square(found, {"a/x": 2.0, "b/x": 1.0}) < 20.0
    assert chi_square(rest, {"a/x": 1.0, "b/x": 2.0}) < 20.0


def test_a_target_that_is_no_more_degraded_has_its_weight_again(clock: FakeClock) -> None:
    """As soon as its errors have left the window, though nobody has called it since."""
    runtime.rng.seed(7)
    configure(breakers={"*": {"error_rate": 1.0, "failures": 1_000_000}})
    policy = failover(["a/x", "b/x"], strategy="weighted")
    served(policy, 10)
    for _ in range(1_000):
        breaker("b/x").record(TimeoutError(), 0.01)
    breaker("b/x").record(None, 0.01)
    clock.advance(400.0)

    firsts = Counter(policy.call(lambda *, target: target.key) for _ in range(2_000))

    assert chi_square(firsts, {"a/x": 1.0, "b/x": 1.0}) < 20.0


@pytest.mark.parametrize("weights", [(1e308, 1e308, 1e308), (1e-308, 1e-308, 1e-308)])
def test_weights_at_the_ends_of_the_range_are_drawn(weights: tuple[float, ...]) -> None:
    """Their sum neither overflows nor vanishes."""
    runtime.rng.seed(8)
    chain = [Target(key, weight=weight) for key, weight in zip(CHAIN[:3], weights, strict=True)]

    found = Counter(each[0] for each in orders(failover(chain, strategy="weighted"), 900))

    assert chi_square(found, dict.fromkeys(CHAIN[:3], 1.0)) < CERTAIN


def test_drawn_strategies_are_even_under_threads() -> None:
    """Threads share one source of randomness, and no two of them disturb each other."""
    runtime.rng.seed(9)
    policy = failover(weighted_chain(), strategy="weighted")

    @policy
    def ask(target: Target) -> str:
        return target.key

    with eager_threads():
        found = in_threads(8, lambda _: Counter(ask() for _ in range(500)))

    assert chi_square(sum(found, Counter[str]()), WEIGHTS) < CERTAIN


# --- least_cost -------------------------------------------------------------------------------


def test_least_cost_orders_by_the_sum_of_input_and_output_price() -> None:
    """Ascending; 0 is a price, unknown ones come last, equal ones as declared."""
    chain = [
        Target("a/x"),
        Target("b/x", price=(1.0, 2.0)),
        Target("c/x", price=(3.0, 0.0)),
        Target("d/x", price=(0.0, 0.0)),
        Target("e/x"),
        Target("f/x", price=(0.5, 0.1)),
    ]

    found = orders(failover(chain, strategy="least_cost"), 1)

    assert [("d/x", "f/x", "b/x", "c/x", "a/x", "e/x")] == found


def test_least_cost_follows_prices_that_are_configured_later() -> None:
    """A target's own price is stronger than one of `configure`, which holds for calls from then on."""
    policy = failover([Target("a/x", price=(2.0, 2.0)), "b/x", "b/y"], strategy="least_cost")

    @policy
    def ask(target: Target) -> str:
        return target.key

    before = ask()
    configure(prices={"b": (3.0, 3.0), "b/y": (0.1, 0.1), "a/x": (0.0, 0.0)})
    during = ask()
    configure(prices={"b/y": None})

    assert ("a/x", "b/y", "a/x") == (before, during, ask())


def test_least_cost_tries_a_dearer_target_while_the_cheapest_is_benched() -> None:
    """The call passes over it, and goes back when it is live again."""
    chain = [Target("a/x", price=(2.0, 2.0)), Target("b/x", price=(1.0, 1.0))]
    policy = failover(chain, strategy="least_cost")
    before = served(policy, 1)
    bench_model("b/x")
    during = served(policy, 1)
    unbench_model("b/x")

    assert (["b/x"], ["a/x"], ["b/x"]) == (before, during, served(policy, 1))


# --- all of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [*DRAWN, strategies.sticky(lambda *args: "key")])
def test_groups_follow_each_other_by_priority(strategy: Any) -> None:
    """A built-in strategy orders inside a group only, however heavy or cheap a later one is."""
    chain = [
        Target("c/x", priority=3, weight=1e6, price=(0.0, 0.0)),
        Target("a/x", price=(9.0, 9.0)),
        Target("a/y", price=(9.0, 9.0)),
        Target("b/x", priority=2, weight=1e3, price=(1.0, 1.0)),
        Target("b/y", priority=2),
    ]

    found = orders(failover(chain, strategy=strategy), 20)

    assert all({"a/x", "a/y"} == set(each[:2]) for each in found)
    assert all({"b/x", "b/y"} == set(each[2:4]) for each in found)
    assert {"c/x"} == {each[4] for each in found}


@pytest.mark.parametrize("strategy", [*DRAWN, strategies.sticky(lambda *args: "key")])
@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_the_next_group_is_called_while_a_whole_group_is_benched(
    strategy: Any, driver: Driver
) -> None:
    """In every way to write a call."""
    chain = [Target("a/x"), Target("a/y"), Target("b/x", priority=2), Target("b/y", priority=2)]
    policy = failover(chain, strategy=strategy)
    driver.run(policy, lambda target: target.key)
    bench_model("a")

    assert driver.run(policy, lambda target: target.key) in ("b/x", "b/y")


@pytest.mark.parametrize("strategy", DRAWN)
def test_the_one_target_that_is_not_benched_is_found(strategy: str) -> None:
    """Also among many."""
    chain = [f"p{at}/x" for at in range(60)]
    policy = failover(chain, strategy=strategy)
    for key in chain[:-1]:
        bench_model(key)

    assert {"p59/x"} == set(served(policy, 20))


@pytest.mark.parametrize("strategy", DRAWN)
def test_a_chain_of_which_all_targets_are_benched_says_so(strategy: str) -> None:
    """By hand: nothing is sent, and each target has its reason."""
    policy = failover(CHAIN, strategy=strategy)
    served(policy, 5)
    for key in CHAIN:
        bench_model(key)

    with pytest.raises(ChainExhaustedError) as caught:
        served(policy, 1)

    assert set(CHAIN) == {record.target for record in caught.value.attempts}


@pytest.mark.parametrize("strategy", DRAWN)
def test_each_target_is_tried_once_until_one_answers(strategy: str) -> None:
    """Whatever the order: no target is left out and none is called twice."""
    policy = failover(CHAIN, strategy=strategy)

    found = orders(policy, 10)

    assert all(sorted(each) == sorted(CHAIN) for each in found)


@pytest.mark.parametrize("strategy", [*DRAWN, "priority"])
def test_a_strategy_works_as_a_process_wide_default(strategy: str) -> None:
    """For functions that were decorated before, and taken back likewise."""
    runtime.rng.seed(10)
    chain = [Target("a/x", price=(1.0, 1.0)), Target("b/x", price=(0.0, 0.0))]
    policy = failover(chain)

    @policy
    def ask(target: Target) -> str:
        return target.key

    before = {ask() for _ in range(20)}
    configure(strategy=strategy)
    during = {ask() for _ in range(20)}
    configure(strategy=None)

    expected = {"least_cost": {"b/x"}, "priority": {"a/x"}}.get(strategy, {"a/x", "b/x"})
    assert ({"a/x"}, expected, {"a/x"}) == (before, during, {ask() for _ in range(20)})


@pytest.mark.parametrize("strategy", DRAWN)
def test_streams_take_their_target_from_the_strategy(strategy: str) -> None:
    """Generator functions as well, synchronous and asynchronous."""
    runtime.rng.seed(11)
    chain = [Target("a/x", price=(1.0, 1.0)), Target("b/x", price=(0.0, 0.0))]
    policy = failover(chain, strategy=strategy)

    @policy
    def words(target: Target):
        yield target.key

    @policy
    async def words_async(target: Target):
        yield target.key

    async def first_word() -> str:
        (word,) = [word async for word in words_async()]
        return word

    found = {next(iter(words())) for _ in range(20)}
    found_async = {run_async(first_word, backend="asyncio") for _ in range(20)}

    expected = {"b/x"} if strategy == "least_cost" else {"a/x", "b/x"}
    assert (expected, expected) == (found, found_async)


@pytest.mark.parametrize("strategy", DRAWN)
def test_a_deadline_leaves_time_for_another_target(strategy: str, clock: FakeClock) -> None:
    """The first attempt may use three quarters while another target is live, all of it if not."""
    limits: list[float | None] = []

    async def call(policy: Failover) -> None:
        async for attempt in policy:
            async with attempt:
                limits.append(attempt.remaining)

    policy = failover(CHAIN[:2], strategy=strategy, timeout=8.0)
    run_async(lambda: call(policy), backend="asyncio")
    bench_model("a/x")
    run_async(lambda: call(policy), backend="asyncio")

    assert [6.0, 8.0] == limits


@pytest.mark.parametrize("wrong", ["round-robin", "weigthed", "leastcost", "randon"])
def test_an_unknown_strategy_is_refused_with_the_nearest_name(wrong: str) -> None:
    """Where it is written, for a policy and as a default."""
    near = {
        "round-robin": "round_robin",
        "weigthed": "weighted",
        "leastcost": "least_cost",
        "randon": "random",
    }[wrong]

    for write in (lambda: failover(CHAIN, strategy=wrong), lambda: configure(strategy=wrong)):
        with pytest.raises(ConfigurationError, match=f"did you mean '{near}'"):
            write()


# --- 44: no shared cursor ---------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["round_robin", "least_cost", "priority"])
def test_44_no_cursor_is_moved_by_a_failure(strategy: str) -> None:
    """The n-th call begins with the same target, whether the calls before it failed or not."""

    def firsts(fails: Callable[[int], bool]) -> list[str]:
        found: list[str] = []
        with isolated():
            configure(breakers={"*": {"mode": "metrics_only"}}, logging=False)
            policy = failover(CHAIN, strategy=strategy, attempts=3, backoff=lambda n: 0.0)

            @policy
            def ask(target: Target, number: int, called: list[str]) -> str:
                called.append(target.key)
                if fails(number):
                    raise TimeoutError
                return target.key

            for number in range(40):
                called: list[str] = []
                try:
                    ask(number, called)
                except ChainExhaustedError:
                    pass
                found.append(called[0])
        return found

    with testing.fake_clock():
        assert firsts(lambda number: False) == firsts(lambda number: number % 3 == 0)


@pytest.mark.parametrize(
    "strategy", ["priority", *DRAWN, strategies.sticky(lambda number: number)], ids=str
)
def test_100000_calls_keep_nothing(strategy: Any) -> None:
    """Keys come and go meanwhile, one call in a hundred fails, and memory does not grow."""
    configure(logging=False)

    @failover(CHAIN, strategy=strategy, attempts=1)
    def ask(target: Target, number: int) -> str:
        if number % 100 == 0:
            raise ProviderError(400)
        return target.key

    def call(numbers: range) -> None:
        for number in numbers:
            if number % 1_000 == 0:
                bench_model(CHAIN[number // 1_000 % 5], 0.001)
            try:
                ask(number)
            except ChainExhaustedError:
                pass

    call(range(10_000))
    gc.collect()
    tracemalloc.start()
    try:
        call(range(10_000, 20_000))
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        call(range(20_000, 30_000))
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    blocks = gc_objects()
    call(range(30_000, 100_000))

    assert grown < 40_000
    assert gc_objects() - blocks < 500


def gc_objects() -> int:
    """Return how many objects the collector knows, after it has run."""
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.parametrize("strategy", DRAWN)
@pytest.mark.parametrize("is_watched", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_wrapper_that_is_sent_elsewhere_by_value_takes_no_order_with_it(
    strategy: str, groups: int, *, is_watched: bool
) -> None:
    """Circuits, the number of calls and randomness are of one process."""
    if is_watched:
        observe(lambda event: None)

    @failover([Target("a/x"), Target("b/x", priority=groups)], strategy=strategy)
    def ask(target: Target) -> str:
        return target.key

    ask()
    sent: Any = pickle.loads(pickle.dumps(ask.__globals__["_r_draw"]))

    assert sent is nothing_drawn
    assert sent(0.0).circuit.slot is None
