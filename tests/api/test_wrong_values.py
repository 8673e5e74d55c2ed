"""Values that no option can take: each is refused where it is written, and says what is allowed."""

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from resilient_llm import (
    AttemptFailed,
    Breaker,
    ChainExhaustedError,
    ConfigurationError,
    Target,
    bench_model,
    breaker,
    configure,
    events,
    failover,
    observe,
)
from resilient_llm.testing import capture_events, isolated

HUGE = 10**5_000


@pytest.mark.parametrize(
    ("give", "allowed"),
    [
        (lambda: bench_model("q/q", HUGE), "a timedelta, seconds, or None"),
        (lambda: bench_model("q/q", -HUGE), "a timedelta, seconds, or None"),
        (lambda: events(buffer=HUGE), "a whole number"),
        (lambda: failover("a/x", attempts=HUGE), "a whole number"),
        (lambda: failover("a/x", timeout=HUGE), "a finite number of seconds"),
        (lambda: breaker("a", failures=HUGE), "a whole number"),
        (lambda: configure(attempts=HUGE), "a whole number"),
        (lambda: Target("a/x", priority=-HUGE), "a whole number"),
    ],
)
def test_a_number_too_large_for_its_option_is_refused(
    give: Callable[[], object], allowed: str
) -> None:
    """No OverflowError leaves, and no number of thousands of digits is written."""
    with pytest.raises(ConfigurationError, match=allowed):
        give()


def test_a_chain_that_holds_itself_is_refused() -> None:
    """Also where it holds itself by way of another sequence, or twice."""
    chain: list[Any] = ["a/x"]
    chain.append((chain, chain))

    with pytest.raises(ConfigurationError, match="chain holds itself"):
        failover(chain)


def test_sequences_in_a_chain_are_flattened() -> None:
    """A few of them in one another are no chain that holds itself."""
    chain: Any = "a/x"
    for _ in range(20):
        chain = [chain]

    assert [Target("a/x")] == list(failover(chain).chain)


@pytest.mark.parametrize("give", [itertools.cycle, lambda targets: itertools.repeat(targets[0])])
def test_a_strategy_without_end_is_refused(give: Any) -> None:
    """The call ends, and says what a strategy may return."""

    @failover(["a/x", "b/x"], strategy=give)
    def ask(target: Target) -> str:
        return target.key

    with pytest.raises(ConfigurationError, match="no end of them"):
        ask()


@pytest.mark.parametrize(
    "give", [lambda strategy: failover("a/x", strategy=strategy), lambda s: configure(strategy=s)]
)
def test_what_a_strategy_may_be_is_said(give: Callable[[Any], object]) -> None:
    """The names, the strategy with a key and the function are named."""
    allowed = r"write 'priority' or .*'least_busy' or strategies.sticky\(key\) or a function from"
    with pytest.raises(ConfigurationError, match=allowed):
        give(3)


class AsyncObject:
    """An object that is called like an async function."""

    async def __call__(self, event: object) -> None: ...


async def _async_function(event: object) -> None: ...


@pytest.mark.parametrize("observer", [AsyncObject(), _async_function])
def test_async_observers_are_refused(observer: Any) -> None:
    """Functions and objects alike: nobody would await what they return."""
    with pytest.raises(ConfigurationError, match="async with events"):
        observe(observer)
    with pytest.raises(ConfigurationError, match="use events"):
        failover("a/x", observers=[observer])


def test_a_long_reason_of_reject_is_cut() -> None:
    """At 40 characters, as the reason of a rule is."""

    @failover("a/x", reject=lambda answer: "word" * 20)
    def ask(target: Target) -> str:
        return target.key

    with capture_events(AttemptFailed) as captured, pytest.raises(ChainExhaustedError):
        ask()

    assert ["word" * 10] == [event.reason for event in captured if isinstance(event, AttemptFailed)]


@pytest.mark.parametrize(
    "how", [copy.copy, copy.deepcopy, lambda guard: pickle.loads(pickle.dumps(guard))]
)
def test_a_copy_of_a_guard_is_a_guard_on_the_same_key(how: Callable[[Breaker], Breaker]) -> None:
    """It names the same options, also where its circuit is new, and is entered by itself."""
    guard = breaker("Groq/llama", failures=1)
    with guard:
        twin = how(guard)
        with twin:
            assert ("closed", guard.name) == (twin.state, twin.name)
    twin.record(ConnectionResetError(), 0.1)
    assert "open" == guard.state

    with isolated():
        twin.record(ConnectionResetError(), 0.1)
        assert "open" == twin.state


def test_a_pickle_of_a_guard_names_no_private_module() -> None:
    """It loads wherever the code moves."""
    assert b"resilient_llm._" not in pickle.dumps(breaker("groq", failures=2))
