"""``adaptive=``: calls go where the figures of the policy say, in every way to write one."""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from resilient_llm import (
    Adaptive,
    ChainExhaustedError,
    ConfigurationError,
    OrderChanged,
    Target,
    Trace,
    bench_model,
    configure,
    failover,
    is_benched,
    reset,
    strategies,
)
from resilient_llm._runtime.chains import living_chains
from resilient_llm._runtime.runtime import runtime
from resilient_llm.observers._lines import line_of
from resilient_llm.testing import FakeClock, capture_events, isolated
from tests.support.ways import DRIVERS, GROQ, MISTRAL, OPENAI, Driver, down, on_both_loops, over

if TYPE_CHECKING:
    from collections.abc import Callable

CHAIN = [GROQ, OPENAI, MISTRAL]
SLOW = {GROQ: 3.0, OPENAI: 1.0, MISTRAL: 1.0}


class Weather:
    """Providers that take the seconds they are given, and fail when they are told to."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = dict(SLOW)
        self.fails: set[str] = set()
        self.called: list[str] = []

    def __call__(self, target: Target) -> str:
        self.called.append(target.key)
        self.clock.advance(self.seconds[target.key])
        if target.key in self.fails:
            raise down()
        return target.key


@pytest.fixture
def weather(clock: FakeClock) -> Weather:
    return Weather(clock)


def measure(policy: Any, seconds: dict[str, float], times: int = 3) -> None:
    """Give a policy samples of its targets, as calls would."""
    figures = runtime.begin_figures(policy._policy, means=False)
    for key, took in seconds.items():
        for _ in range(times):
            figures.answered(key, runtime.clock(), took)


@over(DRIVERS)
def test_a_slow_target_stands_behind_the_next(driver: Driver, weather: Weather) -> None:
    """Each way to write a call tries the targets by priority and penalty."""
    policy = failover(CHAIN, adaptive=True)
    measure(policy, SLOW)

    assert [OPENAI, OPENAI] == [driver.run(policy, weather) for _ in range(2)]


@over(DRIVERS)
def test_the_whole_order_is_adjusted(driver: Driver, weather: Weather) -> None:
    """After a failure the call goes on in the adjusted order, each target once."""
    policy = failover(CHAIN, adaptive=True, attempts=1)
    measure(policy, SLOW)
    weather.fails = {OPENAI, GROQ}

    assert MISTRAL == driver.run(policy, weather)
    assert [OPENAI, GROQ, MISTRAL] == weather.called


@over(DRIVERS)
def test_a_target_returns(driver: Driver, weather: Weather, clock: FakeClock) -> None:
    """When its slow samples have aged out a target is called first again."""
    policy = failover(CHAIN, adaptive=True)
    measure(policy, SLOW)
    assert OPENAI == driver.run(policy, weather)

    weather.seconds[GROQ] = 1.0
    clock.advance(61.0)

    assert GROQ == driver.run(policy, weather)


def test_it_moves_back_again_if_it_is_still_slow(weather: Weather, clock: FakeClock) -> None:
    """A target that returns and is slow moves back, thirty seconds after its last move at best."""
    ask = failover(CHAIN, adaptive=True)(_asking(weather))
    measure(ask.policy, SLOW)
    assert OPENAI == ask()
    clock.advance(61.0)

    with capture_events(OrderChanged) as events:
        for _ in range(20):
            measure(ask.policy, {OPENAI: 1.0, MISTRAL: 1.0}, 1)
            ask()

    moved = [each.at for each in events]
    assert [GROQ, GROQ] == [each.target for each in events]
    assert 30.0 <= (moved[1] - moved[0]).total_seconds() <= 40.0


def _asking(weather: Weather) -> Callable[[Target], str]:
    def ask(target: Target) -> str:
        return weather(target)

    return ask


def test_failures_move_a_target_two_places(weather: Weather, clock: FakeClock) -> None:
    """Two failures of five attempts move a target behind two others; one proves nothing."""
    policy = failover(CHAIN, adaptive=True, attempts=1)
    ask = policy(_asking(weather))
    configure(breakers={"*": {"failures": 100, "error_rate": 1.0}})
    for fails in (False, False, False, True):
        weather.fails = {GROQ} if fails else set()
        ask()
    weather.fails = set()
    assert [GROQ, GROQ] == [ask(), ask()]

    weather.fails = {GROQ}
    ask()
    weather.fails = set()

    assert OPENAI == ask()
    assert (OPENAI, MISTRAL, GROQ) == runtime.known_order_of(policy._policy).order()  # type: ignore[union-attr]


def test_the_event_names_the_target_and_the_order(weather: Weather) -> None:
    """One event per move, with the order that holds afterwards; its calls have no part in it."""
    policy = failover(CHAIN, adaptive=True)
    measure(policy, SLOW)
    ask = policy(_asking(weather))

    with capture_events(OrderChanged) as events:
        ask()
        ask()

    [event] = events
    assert (GROQ, (OPENAI, GROQ, MISTRAL), "") == (event.target, event.order, event.call_id)


def test_observers_of_the_policy_are_told(weather: Weather) -> None:
    """``observers=`` of the policy receive it before the call that noticed it begins."""
    seen: list[Any] = []
    policy = failover(CHAIN, adaptive=True, observers=[seen.append])
    measure(policy, SLOW)

    policy(_asking(weather))()

    assert ["OrderChanged", "AttemptSucceeded"] == [type(each).__name__ for each in seen]


def test_what_an_observer_does_is_no_part_of_an_attempt(weather: Weather, clock: FakeClock) -> None:
    """A slow observer of the change makes no sample longer."""
    policy = failover(CHAIN, adaptive=True)
    measure(policy, SLOW)
    ask = policy(_asking(weather))
    ask()
    clock.advance(61.0)
    weather.seconds[GROQ] = 1.0

    with capture_events(OrderChanged):
        policy = policy.using(observers=[lambda event: clock.advance(100.0)])
        assert GROQ == policy(_asking(weather))()

    figures = runtime.figures_of(policy._policy).of[GROQ]
    assert 1.0 == figures._samples()[-1][1]


def test_the_log_shows_a_change_at_info(weather: Weather, caplog: pytest.LogCaptureFixture) -> None:
    """The default observer writes a line with the keys in order."""
    policy = failover(CHAIN, adaptive=True)
    measure(policy, SLOW)

    with caplog.at_level(logging.INFO, "resilient_llm"):
        policy(_asking(weather))()

    assert [("INFO", f"OrderChanged {GROQ} order={OPENAI},{GROQ},{MISTRAL}")] == [
        (each.levelname, each.getMessage()) for each in caplog.records
    ]


def test_an_event_is_a_line_of_json(weather: Weather) -> None:
    """The journal and webhooks have the order as a list."""
    policy = failover(CHAIN, adaptive=True)
    measure(policy, SLOW)
    with capture_events(OrderChanged) as events:
        policy(_asking(weather))()

    assert [OPENAI, GROQ, MISTRAL] == json.loads(line_of(events[0]))["order"]


@pytest.mark.parametrize("strategy", ["round_robin", "random", "weighted", "least_cost"])
def test_it_is_applied_after_the_strategy(strategy: str, weather: Weather) -> None:
    """Whatever a built-in strategy orders, a slow target is never called first."""
    chain = [Target(key, price=(1.0, 1.0)) for key in CHAIN]
    policy = failover(chain, adaptive=True, strategy=strategy)
    measure(policy, SLOW)
    ask = policy(_asking(weather))

    found = [ask() for _ in range(30)]

    assert 0 == found.count(GROQ)


def test_round_robin_tells_the_rest_of_the_order(weather: Weather) -> None:
    """A call whose first target fails goes on in its own adjusted order."""
    policy = failover(CHAIN, adaptive=True, strategy="round_robin", attempts=1)
    measure(policy, SLOW)
    ask = policy(_asking(weather))
    weather.fails = {OPENAI, MISTRAL}

    for _ in range(3):
        weather.called.clear()
        ask()

        assert GROQ == weather.called[-1]
        assert len(weather.called) == len(set(weather.called))


def test_sticky_is_adjusted() -> None:
    """Calls with a key leave a slow target as well."""

    @failover(CHAIN, adaptive=True, strategy=strategies.sticky(lambda user: user))
    def ask(target: Target, user: str) -> str:
        return target.key

    before = {ask(str(number)) for number in range(50)}
    measure(ask.policy, SLOW, 20)
    with capture_events(OrderChanged):
        runtime.known_order_of(ask.policy._policy).due = 0.0  # type: ignore[union-attr]
        after = {ask(str(number)) for number in range(50)}

    assert set(CHAIN) == before
    assert {OPENAI, MISTRAL} == after


def test_an_order_of_a_function_is_final(weather: Weather) -> None:
    """What a user's function returns is not adjusted."""
    policy = failover(CHAIN, adaptive=True, strategy=lambda targets: targets)
    measure(policy, SLOW)

    assert GROQ == policy(_asking(weather))()


def test_groups_are_kept(weather: Weather) -> None:
    """A target stays before those with a higher number of priority, however slow it is."""
    policy = failover([GROQ, OPENAI, Target(MISTRAL, priority=2)], adaptive=True)
    measure(policy, {GROQ: 3.0, OPENAI: 9.0, MISTRAL: 0.1})
    ask = policy(_asking(weather))

    assert {GROQ} == {ask() for _ in range(5)}


def test_targets_that_are_alone_are_never_moved(weather: Weather) -> None:
    """Where each group has one target nothing can move, and nothing is computed."""
    policy = failover([GROQ, Target(OPENAI, priority=2)], adaptive=True)
    measure(policy, {GROQ: 9.0, OPENAI: 1.0})

    assert GROQ == policy(_asking(weather))()
    assert runtime.known_order_of(policy._policy) is None


def test_a_pinned_call_goes_where_it_is_pinned(weather: Weather) -> None:
    """A penalty does not keep a caller from a target that it names."""
    policy = failover(CHAIN, adaptive=True)
    measure(policy, SLOW)

    @policy
    def ask(*, target: Target) -> str:
        return weather(target)

    assert GROQ == ask(target=GROQ)


def test_benched_targets_are_passed_over(weather: Weather) -> None:
    """Of the adjusted order the first live target is called."""
    policy = failover(CHAIN, adaptive=True)
    measure(policy, SLOW)
    ask = policy(_asking(weather))
    bench_model(OPENAI)
    assert [GROQ, GROQ] == [ask(), ask()]

    bench_model(GROQ)
    with Trace() as trace:
        assert MISTRAL == ask()
    assert is_benched(GROQ)
    assert [OPENAI, GROQ, MISTRAL] == [each.target for each in trace.attempts]


def test_the_error_has_all_targets(weather: Weather) -> None:
    """A call that nobody answers has tried each target once, in the adjusted order."""
    policy = failover(CHAIN, adaptive=True, attempts=1)
    measure(policy, SLOW)
    weather.fails = set(CHAIN)

    with pytest.raises(ChainExhaustedError):
        policy(_asking(weather))()

    assert [OPENAI, GROQ, MISTRAL] == weather.called


def test_copies_share_the_order(weather: Weather) -> None:
    """A copy of the policy, and another function of it, follow a move at once."""
    policy = failover(CHAIN, adaptive=True)
    ask, other = policy(_asking(weather)), policy(_asking(weather))
    copy = ask.using(attempts=1)
    weather.seconds = dict.fromkeys(CHAIN, 1.0)
    assert [GROQ] * 3 == [ask(), other(), copy()]
    measure(policy, SLOW, 20)

    assert OPENAI == ask()
    assert [OPENAI] * 2 == [other(), copy()]


def test_copies_with_other_options_have_their_own_penalties(weather: Weather) -> None:
    """The figures are shared; what is slow is said by the options of each."""
    ask = failover(CHAIN, adaptive=True)(_asking(weather))
    patient = ask.using(adaptive=Adaptive(slow_factor=5.0))
    off = ask.using(adaptive=False)
    measure(ask.policy, SLOW)

    assert [OPENAI, GROQ, GROQ] == [ask(), patient(), off()]


def test_options_are_checked() -> None:
    """Wrong values are refused where they are written."""
    for wrong in ("yes", 1, None, {"calm": 1.0}, Adaptive):
        with pytest.raises(ConfigurationError, match="adaptive"):
            failover(CHAIN, adaptive=wrong)
    for name, value in (
        ("window", 0.0),
        ("slow_factor", 1.0),
        ("min_samples", 0),
        ("min_samples", 257),
        ("error_share", 0.0),
        ("error_share", 1.1),
        ("min_calls", 0),
        ("calm", -1.0),
    ):
        with pytest.raises(ConfigurationError, match=name):
            Adaptive(**{name: value})  # type: ignore[arg-type]


def test_as_many_samples_may_be_needed_as_are_kept() -> None:
    """With more a target could never count as slow."""
    assert 256 == Adaptive(min_samples=256).min_samples


def test_penalties_of_another_state_are_apart(weather: Weather) -> None:
    """They are empty inside ``isolated()`` and after ``reset()``, and back after the block."""
    policy = failover(CHAIN, adaptive=True)
    ask = policy(_asking(weather))
    measure(policy, SLOW)
    assert OPENAI == ask()

    with isolated():
        assert GROQ == ask()
    assert OPENAI == ask()
    reset()
    assert GROQ == ask()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_starts_without_penalties(weather: Weather) -> None:
    """A child process calls the targets as they were declared."""
    ask = failover(CHAIN, adaptive=True)(_asking(weather))
    measure(ask.policy, SLOW)
    assert OPENAI == ask()
    child = os.fork()
    if not child:
        os._exit(0 if ask() == GROQ else 1)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert OPENAI == ask()


@on_both_loops
def test_two_loops_in_two_threads(backend: str) -> None:
    """Calls of two event loops share figures and order."""

    @failover(CHAIN, adaptive=Adaptive(calm=0.0))
    async def ask(target: Target) -> str:
        await anyio.lowlevel.checkpoint()
        return target.key

    measure(ask.policy, SLOW, 100)
    found: list[str] = []

    def work() -> None:
        async def main() -> None:
            found.extend([await ask() for _ in range(100)])

        anyio.run(main, backend=backend)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [OPENAI] * 200 == found


def test_threads_see_each_move_once() -> None:
    """Many threads make one computation each second, and tell of each move once."""
    clock_of = runtime.time

    @failover(CHAIN, adaptive=True)
    def ask(target: Target) -> str:
        return target.key

    measure(ask.policy, SLOW, 200)
    found: list[list[str]] = []

    def work() -> None:
        found.append([ask() for _ in range(300)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with capture_events(OrderChanged) as events:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(switch)

    assert clock_of is runtime.time
    # A thread that comes between goes on with the order of before, and waits for nobody.
    assert [sorted(each) for each in found] == found  # none goes back from openai to groq
    assert OPENAI == ask()
    assert [GROQ] == [each.target for each in events if each.target == GROQ]


def test_a_hundred_thousand_calls_do_not_grow(clock: FakeClock) -> None:
    """Neither samples nor counts nor penalties grow with the number of calls."""

    @failover(CHAIN, adaptive=True, strategy="round_robin")
    def ask(target: Target) -> str:
        return target.key

    def size() -> tuple[int, int, int]:
        figures = runtime.figures_of(ask.policy._policy)
        order = runtime.known_order_of(ask.policy._policy)
        assert order is not None
        return (
            sum(len(each._samples()) for each in figures.of.values()),
            len(figures.orders),
            max(len(each._parts) for each in order._windows.values()) // 100,
        )

    for number in range(2_000):
        ask()
        clock.advance(0.1 if number % 10 else 0.0)
    before = size()
    for number in range(100_000):
        ask()
        if number % 100 == 0:
            clock.advance(1.0)

    assert before == size()


def test_policies_that_come_and_go_leave_nothing() -> None:
    """Figures and penalties of a policy are gone when it is."""
    before = len(runtime.figures)
    for number in range(100):

        @failover([f"tenant{number}/one", f"tenant{number}/two"], adaptive=True)
        def ask(target: Target) -> str:
            return target.key

        ask()
    del ask
    gc.collect()

    assert before == len(runtime.figures)


def test_chains_are_shown_in_their_present_order(weather: Weather) -> None:
    """The admin page and the CLI read the order with its penalties."""
    policy = failover(CHAIN, adaptive=True)
    ask = policy(_asking(weather))
    measure(policy, SLOW)
    ask()

    [chain] = [each for each in living_chains() if any("_asking" in f for f in each.functions)]

    assert [OPENAI, GROQ, MISTRAL] == [target.key for target in chain.targets]
    assert {GROQ: 1} == chain.penalties


def test_skipped_targets_are_told_in_the_adjusted_order(weather: Weather) -> None:
    """With an observer of skips the calls are ordered likewise."""
    policy = failover(CHAIN, adaptive=True)
    measure(policy, SLOW)
    ask = policy(_asking(weather))
    bench_model(OPENAI)

    with capture_events() as events:
        assert [GROQ, GROQ] == [ask(), ask()]

    assert ["OrderChanged", *["TargetSkipped", "AttemptSucceeded"] * 2] == [
        type(each).__name__ for each in events
    ]
