"""Strategies that users write: what they are given, and what becomes of what they return."""

import copy
import functools
import pickle
from collections.abc import Sequence
from typing import Any

import pytest

from resilient_llm import (
    AttemptSucceeded,
    CallFailed,
    ChainExhaustedError,
    ConfigurationError,
    StrategyCall,
    Target,
    Trace,
    bench_model,
    configure,
    failover,
    observe,
)
from tests.support.ways import DRIVERS, Driver, ProviderError, run_async

CHAIN = ("a/x", "b/x", "c/x")


class Recorder:
    """A strategy that keeps what it was given, and orders the targets backwards."""

    def __init__(self) -> None:
        self.calls: list[StrategyCall] = []
        self.targets: list[tuple[str, ...]] = []

    def __call__(self, targets: Sequence[Target], call: StrategyCall) -> list[Target]:
        self.targets.append(tuple(target.key for target in targets))
        self.calls.append(call)
        return list(targets)[::-1]


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_a_function_gets_all_targets_in_priority_order(driver: Driver) -> None:
    """Benched ones too, in every way to write a call; its order is final."""
    chain = [Target("a/x", priority=2), "b/x", Target("c/x", priority=0)]
    strategy = Recorder()
    bench_model("b/x")

    served = driver.run(failover(chain, strategy=strategy), lambda target: target.key)

    assert [("c/x", "b/x", "a/x")] == strategy.targets
    assert "a/x" == served


def test_a_function_is_asked_for_a_chain_of_one_target_as_well() -> None:
    """So a mistake in it shows there, too."""
    strategy = Recorder()

    @failover("a/x", strategy=strategy)
    def ask(target: Target) -> str:
        return target.key

    ask()

    assert [("a/x",)] == strategy.targets


def test_a_call_has_the_arguments_as_they_were_passed() -> None:
    """By position or by name as the caller wrote them, without defaults and without the target."""
    strategy = Recorder()

    @failover(CHAIN, strategy=strategy)
    def ask(target: Target, prompt: str, system: str = "s", *, user: str = "") -> str:
        return f"{prompt} {system} {user}"

    answers = [ask("hi"), ask("hi", user="u"), ask(prompt="hi", system="t")]

    assert ["hi s ", "hi s u", "hi t "] == answers
    assert [
        (("hi",), {}),
        (("hi",), {"user": "u"}),
        ((), {"prompt": "hi", "system": "t"}),
    ] == [(call.args, call.kwargs) for call in strategy.calls]


def test_a_call_of_a_method_has_its_object_first() -> None:
    """As `self`; a class method has its class."""
    strategy = Recorder()
    policy = failover(CHAIN, strategy=strategy)

    class Client:
        @policy
        def ask(self, target: Target, prompt: str) -> str:
            return prompt

        @classmethod
        @policy
        def of_class(cls, target: Target, prompt: str) -> str:
            return prompt

    client = Client()
    client.ask("hi")
    client.of_class("hi")

    assert [(client, "hi"), (Client, "hi")] == [call.args for call in strategy.calls]


def test_a_call_by_the_policy_has_the_arguments_without_the_function() -> None:
    """`policy.call(fn, ...)` passes it first."""
    strategy = Recorder()
    failover(CHAIN, strategy=strategy).call(lambda prompt, *, target: prompt, "hi")

    assert [("hi",)] == [call.args for call in strategy.calls]


@pytest.mark.parametrize("form", ["coroutine", "generator", "async generator"])
def test_every_kind_of_function_passes_its_arguments_on(form: str) -> None:
    """Coroutine functions, generators and asynchronous ones."""
    strategy = Recorder()
    policy = failover(CHAIN, strategy=strategy)

    @policy
    async def ask(target: Target, prompt: str, system: str = "") -> str:
        return target.key

    @policy
    def words(target: Target, prompt: str, system: str = ""):
        yield target.key

    @policy
    async def words_async(target: Target, prompt: str, system: str = ""):
        yield target.key

    async def main() -> list[str]:
        if form == "coroutine":
            return [await ask(prompt="hi")]
        if form == "generator":
            return list(words(prompt="hi"))
        return [word async for word in words_async(prompt="hi")]

    assert ["c/x"] == run_async(main, backend="asyncio")
    assert [((), {"prompt": "hi"})] == [(call.args, call.kwargs) for call in strategy.calls]


def test_a_call_of_a_loop_has_no_arguments() -> None:
    """They are in the code around it."""
    strategy = Recorder()
    for attempt in failover(CHAIN, strategy=strategy):
        with attempt:
            pass

    assert [((), {})] == [(call.args, call.kwargs) for call in strategy.calls]


def test_a_call_has_the_name_that_its_events_have() -> None:
    """Inside a trace as well, also one that was given a name."""
    strategy = Recorder()
    named: list[str] = []
    observe(lambda event: named.append(event.call_id), AttemptSucceeded)

    @failover(CHAIN, strategy=strategy)
    def ask(target: Target) -> str:
        return target.key

    ask()
    with Trace() as trace:
        ask()
    with Trace(call_id="job-7"):
        ask()

    assert named == [call.call_id for call in strategy.calls]
    assert trace.calls[0].call_id == named[1]
    assert "job-7" == named[2]


def test_a_call_is_frozen_and_shows_no_argument() -> None:
    """What it holds may be a prompt, and nothing of it can be changed."""
    strategy = Recorder()

    def meddle(targets: Sequence[Target], call: StrategyCall) -> Sequence[Target]:
        strategy(targets, call)
        changed: Any = call.kwargs
        with pytest.raises(TypeError):
            changed["prompt"] = "another"
        return targets

    @failover(CHAIN, strategy=meddle)
    def ask(target: Target, prompt: str) -> str:
        return prompt

    assert "secret" == ask(prompt="secret")
    call: Any = strategy.calls[0]
    with pytest.raises(AttributeError):
        call.args = ()
    assert "secret" not in repr(call)


def test_the_keywords_of_a_call_are_a_mapping() -> None:
    """They are asked for, passed on and copied as a dict is, and what was passed is apart."""
    passed = {"prompt": "hi"}
    call = StrategyCall((1,), passed, "7")
    passed["prompt"] = "another"

    assert ("hi", None) == (call.kwargs.get("prompt"), call.kwargs.get("tools"))
    assert {"prompt": "hi"} == dict(**call.kwargs) == call.kwargs
    assert call == copy.deepcopy(call) == pickle.loads(pickle.dumps(call))


def test_the_second_parameter_decides_whether_a_function_gets_the_call() -> None:
    """It does if that parameter is required or named `call`."""
    given: list[Any] = []

    def one(targets: Any) -> Any:
        given.append("one")
        return targets

    def required(targets: Any, which: Any) -> Any:
        given.append(type(which).__name__)
        return targets

    def named(targets: Any, call: Any = None) -> Any:
        given.append(type(call).__name__)
        return targets

    def other(targets: Any, reverse: bool = False) -> Any:
        given.append(reverse)
        return targets

    def any_number(*targets: Any) -> Any:
        given.append(len(targets))
        return targets[0]

    policy = failover(CHAIN)
    for strategy in (one, required, named, other, any_number, functools.partial(other), reversed):
        policy.using(strategy=strategy).call(lambda *, target: target.key)

    assert ["one", "StrategyCall", "StrategyCall", False, 1, False] == given


@pytest.mark.parametrize(
    "strategy",
    [lambda: (), lambda a, b, c: a, lambda targets, *, needed: targets],
    ids=["none", "three", "keyword"],
)
def test_a_function_that_takes_neither_is_refused_where_it_is_written(strategy: Any) -> None:
    """With what it may take."""
    for write in (lambda: failover(CHAIN, strategy=strategy), lambda: configure(strategy=strategy)):
        with pytest.raises(ConfigurationError, match=r"\(targets\) nor \(targets, call\)"):
            write()


def test_a_coroutine_function_is_refused_where_it_is_written() -> None:
    """Its result is used at once."""

    async def order(targets: Sequence[Target]) -> Sequence[Target]:
        return targets

    with pytest.raises(ConfigurationError, match="async function"):
        failover(CHAIN, strategy=order)


def test_targets_that_are_left_out_are_not_tried_and_duplicates_are_dropped() -> None:
    """Neither as a fallback nor as a last resort."""
    called: list[str] = []

    @failover(CHAIN, strategy=lambda targets: [targets[1], targets[0], targets[1]], attempts=1)
    def ask(target: Target) -> str:
        called.append(target.key)
        raise ProviderError(400)

    with pytest.raises(ChainExhaustedError):
        ask()

    assert ["b/x", "a/x"] == called


class BrokenError(Exception):
    """What a strategy raises."""


def test_the_error_of_a_function_leaves_the_call() -> None:
    """As it is, with one `CallFailed`; no target is blamed and nothing is sent."""
    failed: list[CallFailed] = []
    observe(failed.append, CallFailed)  # type: ignore[arg-type]  # one type of events

    def order(targets: Sequence[Target]) -> Sequence[Target]:
        raise BrokenError

    @failover(CHAIN, strategy=order)
    def ask(target: Target) -> str:
        raise AssertionError("it is called")

    with pytest.raises(BrokenError):
        ask()

    assert [0] == [event.attempts for event in failed]


class Foreign:
    """Something that is no target, with a key that cannot be looked up."""

    def __init__(self) -> None:
        self.key = ["a/x"]


@pytest.mark.parametrize(
    "given",
    [None, 3, [], "a/x", Target("a/x"), [Target("z/z")], [None], [Foreign()], object()],
    ids=lambda given: type(given).__name__,
)
@pytest.mark.parametrize("chain", [CHAIN, "a/x"], ids=["three", "one"])
@pytest.mark.parametrize("driver", DRIVERS[::3], ids=lambda driver: driver.name)
def test_nonsense_is_a_configuration_error_of_the_call(
    given: Any, chain: Any, driver: Driver
) -> None:
    """No target, a foreign one, or nothing that can be iterated, in every way to write a call."""
    policy = failover(chain, strategy=lambda targets: given)

    with pytest.raises(ConfigurationError, match="return some of th"):
        driver.run(policy, lambda target: target.key)


def test_a_coroutine_that_a_function_returns_is_closed() -> None:
    """Nobody awaits it, and Python would warn of that."""

    async def order(targets: Sequence[Target]) -> Sequence[Target]:
        return targets

    @failover(CHAIN, strategy=lambda targets: order(targets))
    def ask(target: Target) -> str:
        return target.key

    with pytest.raises(ConfigurationError, match="gave a coroutine"):
        ask()


def test_a_pinned_call_uses_no_strategy() -> None:
    """The function is not asked."""
    strategy = Recorder()

    @failover(CHAIN, strategy=strategy)
    def ask(prompt: str, *, model: str | None = None, target: Target | None = None) -> str:
        assert target is not None
        return target.key

    pinned: Any = ask
    found = [pinned("hi", target="b/x"), pinned("hi")]

    assert (["b/x", "c/x"], 1) == (found, len(strategy.calls))


def test_a_thousand_targets_are_ordered_in_time_that_grows_with_their_number() -> None:
    """Duplicates are found without a comparison of each with each."""
    compared = 0

    class Counting(str):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    class Given:
        def __init__(self, key: str) -> None:
            self.key = Counting(key)

    @failover(
        [f"p{n}/x" for n in range(1_000)],
        strategy=lambda targets: [Given(target.key) for target in targets],
    )
    def ask(target: Target) -> str:
        return target.key

    ask()

    assert compared < 10_000
