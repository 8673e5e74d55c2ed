"""The healthy path and the call flow decide alike: random scripts are played through both."""

import dataclasses
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from resilient_llm import (
    AttemptSucceeded,
    CallFailed,
    Event,
    FailedOver,
    HealthChanged,
    RetryScheduled,
    StrategyCall,
    Target,
    TargetBenched,
    TargetUnbenched,
    Trace,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    observe,
    reset,
    strategies,
    unbench_model,
)
from resilient_llm._binding import beginning, hooked, reporting, resuming
from resilient_llm._binding.caller import Caller
from resilient_llm._binding.first_attempt import FirstAttempt
from resilient_llm._core.circuit import triggers
from resilient_llm._runtime import call_ids
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.policy import STRATEGIES
from resilient_llm.testing import FakeClock, fake_clock, isolated
from tests.support.ways import ProviderError, run_async

SEEDS = 100
STEPS = 60
SHORT = (0.0, 0.0, 0.000_4, 0.1, 0.3, 2.0)
LONG = (0.0, 0.3, 2.0, 12.0, 45.0, 400.0)
ERRORS: tuple[Callable[[], BaseException], ...] = (
    TimeoutError,
    ConnectionRefusedError,
    ConnectionResetError,
    lambda: ProviderError(429),
    lambda: ProviderError(429, retry_after=7),
    lambda: ProviderError(401),
    lambda: ProviderError(400),
    lambda: ProviderError(503),
    lambda: ProviderError(503, retry_after=2),
    RuntimeError,
    TypeError,
    KeyboardInterrupt,
    MemoryError,
    lambda: ProviderError(500, "CUDA out of memory", retry_after=2),
)
MEMORY = ("skip", "skip", "warn", "off")
KEYS = ("a", "a/x", "b/x")

HEARD: tuple[tuple[type[Event], ...] | None, ...] = (
    None,
    None,
    (),
    (TargetBenched, TargetUnbenched, HealthChanged, CallFailed),
    (AttemptSucceeded,),
    (FailedOver, RetryScheduled),
)
"""Which events the process listens to: none, all, or some."""

Step = tuple[Any, dict[str, tuple[Any, ...]], list[tuple[Any, ...]], float]


def settings_of(rng: random.Random) -> dict[str, Any]:
    """Return random settings of all circuits."""
    choices: dict[str, list[Any]] = {
        "failures": [1, 2, 5],
        "min_calls": [3],
        "window": [2.0, 20.0, 60.0],
        "slow_call": [1.5, 30.0],
        "successes_to_close": [2],
        "probes": [2],
    }
    return {name: rng.choice(values) for name, values in choices.items() if rng.random() < 0.35}


def policy_of(rng: random.Random) -> dict[str, Any]:
    """Return random options of a policy."""
    return {
        "attempts": rng.choice([1, 2, 3]),
        "when_all_benched": rng.choice(["soonest", "wait", "raise"]),
        "on_down": rng.choice(["skip", "skip", "demote"]),
        "timeout": rng.choice([None, None, 5.0]),
        "backoff": lambda n: 0.5,
        "on_request_error": rng.choice(["next", "raise"]),
        "reraise": rng.random() < 0.2,
        "cooldown": rng.choice([None, 3.0]),
        "max_attempts": rng.choice([None, None, 1, 2]),
        "reject": rng.choice([None, None, lambda answer: answer == 3]),
        "on_unknown": rng.choice(["next", "raise", "transient"]),
    }


def target_of(rng: random.Random, spec: str) -> Target:
    """Return a target with random options, as far as strategies look at them."""
    return Target(
        spec,
        priority=rng.choice([1, 1, 1, 2]),
        weight=rng.choice([1.0, 1.0, 0.2, 3.0]),
        price=rng.choice([None, (0.0, 0.0), (1.0, 2.0), (0.5, 0.5)]),
    )


def found(key: str) -> tuple[Any, ...]:
    """Return everything that health() tells of a key, except its latency."""
    each = health([key])[key]
    bench = each.benched and (each.benched.manual, round(each.benched.remaining or -1.0, 6))
    return (
        each.status, each.state, each.total, each.errors,
        each.consecutive_failures, each.last_error, bench,
    )  # fmt: skip


def outcome_of(ask: Callable[[], Any]) -> Any:
    """Return the answer of a call, or the error with which it ends and what is known of it."""
    try:
        return ask()
    except BaseException as error:  # the KeyboardInterrupt of a script too
        records = [each[:4] for each in getattr(error, "attempts", ())]
        return type(error).__name__, str(error), records, type(error.__cause__).__name__


class Script:
    """A random policy, and what happens to its calls; the same seed gives the same script."""

    def __init__(self, seed: int, clock: FakeClock, *, demands: bool) -> None:
        self.rng = random.Random(seed)
        self.clock = clock
        self.durations = self.rng.choice([SHORT, LONG])
        self.bad_share = self.rng.choice([0.02, 0.2, 0.6])
        configure(
            logging=False,
            breakers={"*": settings_of(self.rng)},
            on_memory_pressure=self.rng.choice(MEMORY),
            memory_pressure_cooldown=self.rng.choice([10.0, 120.0]),
        )
        self.chain = self.rng.sample(["a/x", "a/y", "b/x", "c/z"], self.rng.randint(1, 4))
        self.options = policy_of(self.rng)
        self.targets: list[Any] = list(self.chain)
        self.steps = 0
        if self.rng.random() < 0.6:
            self.targets = [target_of(self.rng, spec) for spec in self.chain]
            self.options["strategy"] = self.rng.choice(
                [*STRATEGIES, strategies.sticky(self.key), self.order, self.order_of_call]
            )
        if demands:
            self.demand()
        self.told: list[tuple[Any, ...]] = []
        heard = self.rng.choice(HEARD)
        if heard is not None:
            observe(self.tell, *heard)
        if self.rng.random() < 0.1:
            self.options["observers"] = [self.tell]

    def demand(self) -> None:
        """Say what the targets can do, and what the calls need."""
        given = [each if isinstance(each, Target) else Target(each) for each in self.targets]
        self.targets = [
            Target(
                each.spec,
                **{
                    **each.options(),
                    "supports": self.rng.choice([None, None, (), "tools", ("tools", "vision")]),
                    "context_window": self.rng.choice([None, 5, 15]),
                },
            )
            for each in given
        ]
        needed: list[Any] = ["tools", ("tools", "vision"), lambda: self.rng.choice([None, "tools"])]
        self.options["needs"] = self.rng.choice([None, *needed])
        self.options["tokens"] = self.rng.choice([None, 10, lambda: self.rng.choice([4, 9, "x"])])

    def tell(self, event: Event) -> None:
        """Keep what an event says, but for its moment and the name of its call."""
        fields = {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in dataclasses.asdict(event).items()
            if name not in ("at", "call_id", "until")
        }
        self.told.append((type(event).__name__, fields))

    def news(self) -> list[tuple[Any, ...]]:
        """Return the events since the last step."""
        news, self.told = self.told, []
        return news

    def key(self, *args: Any) -> int:
        """Return the key of a call, one of a few."""
        return self.steps % 5

    def order(self, targets: Sequence[Target]) -> list[Target]:
        """Return an order that changes, without some targets now and then."""
        turned = self.steps % len(targets)
        return [*targets[turned:], *targets[: turned if self.steps % 4 else 0]]

    def order_of_call(self, targets: Sequence[Target], call: StrategyCall) -> list[Target]:
        """Return the same order, with a look at the call."""
        assert (call.args, call.kwargs, len(call.call_id)) == ((), {}, 16)
        return self.order(targets)

    def body(self, target: Target) -> Any:
        self.clock.advance(self.rng.choice(self.durations))
        error, is_bad = self.rng.choice(ERRORS), self.rng.random() < self.bad_share
        if is_bad:
            raise error()
        return self.rng.choice(["x", "x", "x", None, 3])

    def step(self, ask: Callable[[], Any]) -> Any:
        """Do one thing; return what came of it."""
        self.steps += 1
        do = self.rng.random()
        if do < 0.8:
            if do > 0.1:
                return outcome_of(ask)
            with Trace() as trace:
                return outcome_of(ask), [each[:4] for each in trace.attempts], trace.served_by
        if do < 0.9:
            return self.clock.advance(self.rng.choice([0.000_5, 0.01, 1.0, 5.0, 40.0, 400.0]))
        if do < 0.93:
            return bench_model(self.rng.choice(KEYS), self.rng.choice([None, 3.0]))
        if do < 0.97:
            return unbench_model(self.rng.choice(KEYS))
        if do < 0.975:
            return reset()
        if do < 0.98:
            return configure(
                on_memory_pressure=self.rng.choice(MEMORY),
                memory_pressure_cooldown=self.rng.choice([10.0, 120.0]),
            )
        error = self.rng.choice([None, TimeoutError(), MemoryError()])
        return breaker(self.rng.choice(["a", "a/x"])).record(error, 0.2)


def play(seed: int, *, is_async: bool, demands: bool = False) -> list[Step]:
    """Play a script; return what came of each step, with the state and the time after it."""
    with isolated(), fake_clock() as clock:
        runtime.rng.seed(seed)
        began_at = clock.monotonic()
        script = Script(seed, clock, demands=demands)
        policy = failover(script.targets, **script.options)
        if is_async:

            async def answer(target: Target) -> Any:
                return script.body(target)

            guarded = policy(answer)

            def ask() -> Any:
                return run_async(guarded, backend="asyncio")
        else:
            ask = policy(script.body)
        keys = (*(target.key for target in policy.chain), *KEYS)
        steps: list[Step] = []
        for number in range(STEPS):
            # The paths draw what they name their calls by at different moments.
            runtime.rng.seed(STEPS * seed + number)
            came_of_it = script.step(ask)
            runtime.rng.seed(STEPS * seed + number)
            steps.append(
                (
                    came_of_it,
                    {key: found(key) for key in keys},
                    script.news(),
                    round(clock.monotonic() - began_at, 6),
                )
            )
        return steps


@pytest.fixture
def without_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    # The two paths draw different numbers, since each names its calls at another moment.
    monkeypatch.setattr(triggers, "JITTER", 0.0)
    names = map("{:016x}".format, itertools.count())
    for module in (beginning, hooked, reporting, resuming):
        monkeypatch.setattr(module, "new_id", names.__next__)


def by_flow_only(self: Caller, *given: Any) -> FirstAttempt:
    """Begin a call that the call flow makes from its start."""
    first = begin(self, *given)
    first.generation = None
    return first


begin = Caller.begin


def differences(
    seeds: range, monkeypatch: pytest.MonkeyPatch, *, is_async: bool, demands: bool = False
) -> list[tuple[int, int, Step, Step]]:
    """Return ``(seed, step, by the healthy path, by the call flow)`` of what differs first."""
    different: list[tuple[int, int, Step, Step]] = []
    for seed in seeds:
        healthy = play(seed, is_async=is_async, demands=demands)
        with monkeypatch.context() as patch:
            patch.setattr(Caller, "begin", by_flow_only)
            patch.setattr(
                Caller, "_publish", lambda self, _, is_watched, *__: self._watch(is_watched)
            )
            by_flow = play(seed, is_async=is_async, demands=demands)
        different += [
            (seed, number, one, other)
            for number, (one, other) in enumerate(zip(healthy, by_flow, strict=True))
            if one != other
        ][:1]
    return different


@pytest.mark.usefixtures("without_jitter")
@pytest.mark.parametrize("first", range(0, SEEDS, 25))
@pytest.mark.filterwarnings("ignore:attempts=")
def test_both_paths_give_the_same(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers, errors, counts, states, benches and waits are equal after every step."""
    assert [] == differences(range(first, first + 25), monkeypatch, is_async=False)


@pytest.mark.usefixtures("without_jitter")
@pytest.mark.filterwarnings("ignore:attempts=")
def test_both_paths_give_the_same_where_calls_carry_their_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wrapper has other code then."""
    call_ids.switch_on()

    assert [] == differences(range(2000, 2020), monkeypatch, is_async=False)
    assert [] == differences(range(3000, 3005), monkeypatch, is_async=True)


@pytest.mark.usefixtures("without_jitter")
@pytest.mark.filterwarnings("ignore:attempts=")
def test_both_paths_of_asynchronous_functions_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same holds where the function is asynchronous and its attempts are cut off."""
    assert [] == differences(range(1000, 1020), monkeypatch, is_async=True)


@pytest.mark.usefixtures("without_jitter")
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.filterwarnings("ignore:attempts=")
def test_both_paths_skip_the_same_targets(
    is_async: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same holds where some targets cannot take a call."""
    assert [] == differences(range(4000, 4015), monkeypatch, is_async=is_async, demands=True)


def test_long_answers_are_in_the_window_in_which_they_end(clock: FakeClock) -> None:
    """Answers that took longer than the window are counted when they end."""
    breaker("groq/llama", window=30, failures=100)
    seconds = 0.0001

    @failover(chain=["groq/llama"])
    def ask(target: Target) -> str:
        clock.advance(seconds)
        return target.key

    guard = breaker("groq/llama")
    for _ in range(3):
        ask()
    seconds = 40.0
    ask()
    after_call = health()["groq/llama"].total
    with guard:
        clock.advance(40.0)

    assert (1, 1) == (after_call, health()["groq/llama"].total)
