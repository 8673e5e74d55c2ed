"""The healthy path and the call flow decide alike: random scripts are played through both."""

import dataclasses
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from resilient_llm import (
    AttemptSucceeded,
    Budget,
    CallFailed,
    Event,
    FailedOver,
    HealthChanged,
    Limit,
    RetryScheduled,
    SpendRecorded,
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
    reset_spend,
    settings,
    spend,
    spend_key,
    spend_total,
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
WALL = 1_795_955_400.0
"""Unix seconds at which scripts begin, so that periods end at the same moments."""
PERIODS = ("hour", "day", "month")
UNITS = ("usd", "tokens", "calls")
CAPS = {
    "usd": (0.0, 0.000_5, 0.01, 5.0, 5.0, 5.0),
    "tokens": (0, 300, 5_000, 1_000_000, 1_000_000),
    "calls": (0, 5, 50, 1_000, 1_000),
}

HEARD: tuple[tuple[type[Event], ...] | None, ...] = (
    None,
    None,
    (),
    (TargetBenched, TargetUnbenched, HealthChanged, CallFailed),
    (AttemptSucceeded,),
    (FailedOver, RetryScheduled),
    (SpendRecorded,),
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


def limits_of(rng: random.Random) -> dict[str, Limit]:
    """Return a random limit of some keys."""
    limits: dict[str, Limit] = {}
    for key in ("*", "a", "a/x", "tag:eu"):
        given: dict[str, Any] = {
            name: rng.choice(values)
            for name, values in (
                ("requests", [3, 60]),
                ("tokens", [200, 5_000]),
                ("max_concurrent", [1, 4]),
            )
            if rng.random() < 0.5
        }
        if given and rng.random() < 0.4:
            if "requests" in given or "tokens" in given:
                given["per"] = rng.choice(["second", "minute"])
            limits[key] = Limit(**given)
    return limits


def budgets_of(rng: random.Random) -> list[Budget]:
    """Return random budgets, with names that differ."""
    return [
        Budget(
            **{(unit := rng.choice(UNITS)): rng.choice(CAPS[unit])},
            per=rng.choice(PERIODS),
            of=rng.choice(["all", "all", "a", "a/x", "key", "tag:eu"]),
            on_unbounded=rng.choice([None, 50, 50]),
            name=f"budget {number}",
        )
        for number in range(rng.choice([0, 1, 1, 1, 2, 3]))
    ]


PROMPTS = (
    "hello", "data:image/png;base64,AAAA", "dear reader", None, 1.5, "x" * 1_200,
    [{"role": "user", "content": "a question of some length"}],
    [{"role": "user", "content": "a"}, {"role": "tool", "content": "b", "tool_call_id": "1"}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}],
    {"text": "a part"}, b"bytes",
)  # fmt: skip


def answer_of(sent: int, received: int, **more: Any) -> dict[str, Any]:
    """Return an answer that tells its usage."""
    usage = {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": sent + received}
    return {"choices": [{"message": {"content": "hello"}}], "usage": {**usage, **more}}


SPENT = (
    "x", "a text of a few words", "", "data:image/png;base64,AAAA", None, 3,
    answer_of(20, 5), answer_of(0, 0), answer_of(20, 5, prompt_tokens_details={"cached_tokens": 3}),
    {"usage": {"input_tokens": 9, "output_tokens": 4}}, {"text": "no usage"},
)  # fmt: skip


def books() -> Any:
    """Return all that was spent and reserved, and what limits have left."""
    limits = [
        (
            key,
            state.places.running,
            *(
                None if each is None else round(each.level(runtime.clock()), 6)
                for each in (state.requests, state.tokens)
            ),
        )
        for key, state in sorted(runtime.limits._states.items())
    ]
    return [dataclasses.asdict(each) for each in spend()], spend_total(), limits


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

    def __init__(self, seed: int, clock: FakeClock, *, demands: bool, spends: bool) -> None:
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
        self.answers: Sequence[Any] = ["x", "x", "x", None, 3]
        self.inner: Callable[[], Any] | None = None
        if spends:
            self.spend()
        self.told: list[tuple[Any, ...]] = []
        heard = None if spends and self.rng.random() < 0.7 else self.rng.choice(HEARD)
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

    def spend(self) -> None:
        """Limit the targets, and give them budgets and prices."""
        rng = self.rng
        given = [each if isinstance(each, Target) else Target(each) for each in self.targets]
        self.targets = [
            Target(
                each.spec,
                **{
                    **each.options(),
                    "price": rng.choice([None, (0.0, 0.0), (1.0, 2.0), (1.0, 2.0), (0.5, 0.0)]),
                    "max_output": rng.choice([None, 30, 100]),
                    "tags": rng.choice([(), ("eu",)]),
                },
            )
            for each in given
        ]
        # Mostly as the wrapper can make its calls: healthy, in their order, and unobserved.
        if rng.random() < 0.9:
            self.options.pop("strategy", None)
            self.options["reject"] = None
        if rng.random() < 0.7:
            self.bad_share, self.durations = 0.02, SHORT
        configure(limits=limits_of(rng), budgets=budgets_of(rng), max_wait=20.0)
        answers = rng.choices(SPENT, k=rng.choice([1, 1, 1, 4]))
        self.answers = answers
        if rng.random() < 0.3:

            @failover([Target("c/inner", price=(1.0, 1.0), max_output=10)])
            def inner(target: Target, prompt: str) -> Any:
                return rng.choice(answers)

            self.inner = lambda: inner("inside")

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

    def prompt(self) -> Any:
        """Return the argument of a call."""
        return self.rng.choice(PROMPTS)

    def body(self, target: Target, prompt: Any = None) -> Any:
        self.clock.advance(self.rng.choice(self.durations))
        error, is_bad = self.rng.choice(ERRORS), self.rng.random() < self.bad_share
        if is_bad:
            raise error()
        if self.inner is not None and self.rng.random() < 0.5:
            outcome_of(self.inner)
        return self.rng.choice(self.answers)

    def step(self, ask: Callable[[], Any]) -> Any:
        """Do one thing; return what came of it."""
        self.steps += 1
        do = self.rng.random()
        if do < 0.8:
            if do > 0.1:
                if settings().budgets and self.rng.random() < 0.7:
                    with spend_key(self.rng.choice("ab")):
                        return outcome_of(ask)
                return outcome_of(ask)
            with Trace() as trace:
                came_of_it = outcome_of(ask)
            served_by = [each.served_by for each in trace.calls]  # of calls inside as well
            return came_of_it, [each[:4] for each in trace.attempts], served_by
        if do < 0.9:
            return self.clock.advance(self.rng.choice([0.000_5, 0.01, 1.0, 5.0, 40.0, 400.0]))
        if do < 0.93:
            return bench_model(self.rng.choice(KEYS), self.rng.choice([None, 3.0]))
        if do < 0.97:
            return unbench_model(self.rng.choice(KEYS))
        if do < 0.975:
            return reset_spend() if settings().budgets and do > 0.973 else reset()
        if do < 0.98:
            return configure(
                on_memory_pressure=self.rng.choice(MEMORY),
                memory_pressure_cooldown=self.rng.choice([10.0, 120.0]),
            )
        error = self.rng.choice([None, TimeoutError(), MemoryError()])
        return breaker(self.rng.choice(["a", "a/x"])).record(error, 0.2)


def play(seed: int, *, is_async: bool, demands: bool = False, spends: bool = False) -> list[Step]:
    """Play a script; return what came of each step, with the state and the time after it."""
    with isolated(), fake_clock() as clock:
        runtime.rng.seed(seed)
        began_at = clock.monotonic()
        clock.jump_wall(WALL - clock.wall())
        script = Script(seed, clock, demands=demands, spends=spends)
        policy = failover(script.targets, **script.options)
        if is_async:

            async def answer(target: Target, prompt: Any = None) -> Any:
                return script.body(target)

            guarded: Any = policy(answer)

            def ask() -> Any:
                if spends:
                    return run_async(guarded, script.prompt(), backend="asyncio")
                return run_async(guarded, backend="asyncio")
        else:
            guarded = policy(script.body)
            ask = (lambda: guarded(script.prompt())) if spends else guarded
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
                    {**{key: found(key) for key in keys}, "": books()},
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
    seeds: range,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_async: bool,
    demands: bool = False,
    spends: bool = False,
) -> list[tuple[int, int, Step, Step]]:
    """Return ``(seed, step, by the healthy path, by the call flow)`` of what differs first."""
    different: list[tuple[int, int, Step, Step]] = []
    for seed in seeds:
        healthy = play(seed, is_async=is_async, demands=demands, spends=spends)
        with monkeypatch.context() as patch:
            patch.setattr(Caller, "begin", by_flow_only)
            patch.setattr(
                Caller, "_publish", lambda self, _, is_watched, *__: self._watch(is_watched)
            )
            by_flow = play(seed, is_async=is_async, demands=demands, spends=spends)
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


@pytest.mark.usefixtures("without_jitter")
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("first", range(5000, 5060, 20))
@pytest.mark.filterwarnings("ignore:attempts=")
def test_both_paths_book_the_same(
    first: int, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is spent, reserved, counted and left of limits is the same after every step."""
    seeds = range(first, first + (5 if is_async else 20))

    assert [] == differences(seeds, monkeypatch, is_async=is_async, spends=True)


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
