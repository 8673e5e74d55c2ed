"""Process-wide defaults of the options of `failover`: which value holds, for whom, and since when."""

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilient_llm import (
    Attempt,
    ChainExhaustedError,
    ConfigurationError,
    DeadlineExceededError,
    ErrorKind,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    ToolLoop,
    ToolLoopError,
    Trace,
    breaker,
    configure,
    failover,
    is_benched,
    list_benched,
    settings,
    testing,
)
from resilient_llm._api.configuring import Changes
from resilient_llm._values.policy import BUILT_IN, CHECKS, DEFAULTS, STRATEGIES, FailoverOptions
from resilient_llm.strategies import BUILT_IN as STRATEGIES_THERE_ARE
from tests.api.test_options import WRONG
from tests.support.guards import trip
from tests.support.hedges import Stage, played, settle, slow
from tests.support.ways import (
    DRIVERS,
    GROQ,
    MISTRAL,
    OPENAI,
    Driver,
    ProviderError,
    Script,
    StrangeError,
    down,
    on_both_loops,
    over,
    rate_limited,
    refused_content,
    run_async,
)

NOT_DEFAULTS = {"classify", "observers", "needs", "tokens", "usage"}
OTHERS: dict[str, Any] = {
    "attempts": 2,
    "max_attempts": 4,
    "backoff": lambda number: 1.0,
    "timeout": 30.0,
    "attempt_timeout": 5.0,
    "cooldown": 7.0,
    "strategy": reversed,
    "adaptive": True,
    "hedge": 2.0,
    "max_hedges": 3,
    "tool_loop": ToolLoop("raise", repeats=4),
    "on_down": "demote",
    "reject": lambda answer: None,
    "on_request_error": "raise",
    "on_content_policy": "next",
    "on_unknown": "transient",
    "when_all_benched": "raise",
    "reraise": True,
    "stream": StreamPolicy(idle_timeout=3.0),
}
"""A value for each option that is not its built-in one."""


def attempts_of(policy: Any) -> int:
    """Return how many attempts a call of a policy makes on a target that is down."""
    script = Script({GROQ: [down]})
    with testing.fake_clock(), pytest.raises(ChainExhaustedError):
        policy.call(script.__call__)
    return len(script.calls)


# --- the options there are --------------------------------------------------------------------


def test_configure_takes_every_option_but_those_of_one_function_or_policy() -> None:
    """What belongs to a chain, an observer or a rule has a place of its own."""
    assert set(DEFAULTS) == set(CHECKS) - NOT_DEFAULTS == set(OTHERS)
    assert set(CHECKS) == set(FailoverOptions.__annotations__)
    assert set(Changes.__annotations__) == set(DEFAULTS) | {
        "breakers",
        "retry_budget",
        "max_wait",
        "on_memory_pressure",
        "memory_pressure_cooldown",
        "prices",
        "budgets",
        "limits",
        "listen",
        "logging",
        "state",
        "state_options",
        "state_timeout",
        "on_store_down",
        "state_name",
        "profile",
    }
    assert STRATEGIES == tuple(STRATEGIES_THERE_ARE)


@pytest.mark.parametrize("name", ["chain", "classify", "observers", "target"])
def test_what_is_no_default_is_refused(name: str) -> None:
    """The message lists what there is."""
    with pytest.raises(ConfigurationError, match=f"{name}.*attempts"):
        configure(**{name: None})


@pytest.mark.parametrize("name", DEFAULTS)
def test_settings_show_the_value_in_force(name: str) -> None:
    """Built-in at first and after it was taken back, else what was configured."""
    before = getattr(settings(), name)
    configure(**{name: OTHERS[name]})
    during = getattr(settings(), name)
    configure(**{name: None})

    assert getattr(BUILT_IN, name) == before == getattr(settings(), name)
    assert OTHERS[name] == during


@pytest.mark.parametrize("name", DEFAULTS)
def test_settings_are_read_only(name: str) -> None:
    """Nobody changes the process by writing to a snapshot."""
    with pytest.raises(AttributeError):
        setattr(settings(), name, OTHERS[name])


def test_what_settings_show_of_breakers_is_read_only() -> None:
    """Neither the mapping of keys nor that of one key's options can be written to."""
    configure(breakers={GROQ: {"failures": 3}})
    shown: Any = settings().breakers

    with pytest.raises(TypeError):
        shown["openai"] = {"failures": 1}
    with pytest.raises(TypeError):
        shown[GROQ]["failures"] = 1
    assert {GROQ: {"failures": 3}} == settings().breakers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name, values in WRONG.items()
        if name in DEFAULTS
        for value in values
        if value is not None
    ],
)
def test_values_are_checked_as_failover_does(name: str, value: Any) -> None:
    """The same values are refused, with the same message."""
    with pytest.raises(ConfigurationError) as said_by_failover:
        failover(chain=GROQ, **{name: value})
    with pytest.raises(ConfigurationError) as said_by_configure:
        configure(**{name: value})

    assert str(said_by_failover.value) == str(said_by_configure.value)


def test_one_wrong_value_changes_nothing() -> None:
    """All or none."""
    before = settings()

    with pytest.raises(ConfigurationError):
        configure(attempts=2, timeout=-1.0, breakers={GROQ: {"failures": 3}})

    assert before is settings()


# --- which value holds ------------------------------------------------------------------------


@over(DRIVERS)
def test_a_default_holds_for_policies_that_do_not_name_it(driver: Driver, clock: Any) -> None:
    """In every way to write a call."""
    script = Script({GROQ: [down]})
    configure(attempts=2)

    with pytest.raises(ChainExhaustedError):
        driver.run(failover(chain=[GROQ]), script)

    assert 2 == len(script.calls)


@over(DRIVERS)
def test_what_is_named_wins_even_with_the_built_in_value(driver: Driver, clock: Any) -> None:
    """``failover(attempts=3)`` makes three attempts whatever was configured."""
    script = Script({GROQ: [down]})
    configure(attempts=1)

    with pytest.raises(ChainExhaustedError):
        driver.run(failover(chain=[GROQ], attempts=3), script)

    assert 3 == len(script.calls)


def test_no_deadline_can_be_named(clock: Any) -> None:
    """``failover(timeout=None)`` has none, though there is a default."""
    remaining: list[float | None] = []

    def ask(target: Target, attempt: Attempt) -> None:
        remaining.append(attempt.remaining)

    configure(timeout=30.0)
    failover(chain=GROQ, timeout=None).call(ask)
    failover(chain=GROQ).call(ask)
    failover(chain=GROQ, timeout=10.0).using(timeout=None).call(ask)

    assert [None, 30.0, None] == remaining


def test_what_using_names_wins_and_what_it_does_not_name_follows() -> None:
    """A copy names what it and its original name."""
    policy = failover(chain=GROQ, max_attempts=2)
    configure(attempts=1, max_attempts=5)

    assert (1, 2) == (attempts_of(policy), attempts_of(policy.using(attempts=3)))


def test_functions_that_were_decorated_before_follow(clock: Any) -> None:
    """Also on their fast path, and back again when the default is taken back."""
    script = Script({GROQ: [down]})
    breaker(GROQ, mode="metrics_only")
    configure(retry_budget=None)

    @failover(chain=[GROQ])
    def ask(target: Target) -> Any:
        return script(target)

    counts: list[int] = []

    for changes in ({}, {"attempts": 1}, {}, {"attempts": 2}, {"attempts": None}):
        configure(**changes)  # type: ignore[arg-type]  # a table of changes
        for _ in range(2):
            script.calls.clear()
            with pytest.raises(ChainExhaustedError):
                ask()
            counts.append(len(script.calls))

    assert [3, 3, 1, 1, 1, 1, 2, 2, 3, 3] == counts


def _reject_default(clock: Any) -> None:
    configure(reject=lambda answer: answer == "bad")
    script = Script({GROQ: ["bad"], OPENAI: ["good"]})
    assert "good" == failover(chain=[GROQ, OPENAI]).call(script.__call__)


def _strategy_default(clock: Any) -> None:
    configure(strategy=lambda targets: tuple(reversed(targets)))
    assert OPENAI == failover(chain=[GROQ, OPENAI]).call(lambda *, target: target.key)


def _backoff_default(clock: Any) -> None:
    configure(backoff=lambda number: 4.0 * number)
    attempts_with_sleeps = Script({GROQ: [down, down, "yes"]})
    assert "yes" == failover(chain=GROQ).call(attempts_with_sleeps.__call__)
    assert [4.0, 8.0] == clock.sleeps


def _max_attempts_default(clock: Any) -> None:
    configure(max_attempts=1)
    assert 1 == attempts_of(failover(chain=GROQ))


def _timeout_default(clock: Any) -> None:
    configure(timeout=5.0)

    def ask(*, target: Target) -> None:
        clock.advance(6.0)
        raise down()

    with pytest.raises(DeadlineExceededError):
        failover(chain=GROQ).call(ask)


def _cooldown_default(clock: Any) -> None:
    configure(cooldown=5.0, breakers={"*": {"cooldown": 60.0, "failures": 1}})
    with pytest.raises(ChainExhaustedError):
        failover(chain=GROQ, attempts=1).call(Script({GROQ: [down]}).__call__)
    remaining = list_benched()[0].remaining
    assert remaining is not None
    assert 5.0 <= remaining <= 5.5


def _request_error_default(clock: Any) -> None:
    configure(on_request_error="raise")
    with pytest.raises(ProviderError):
        failover(chain=[GROQ, OPENAI]).call(
            Script({GROQ: [lambda: ProviderError(400)], OPENAI: ["yes"]}).__call__
        )


def _content_policy_default(clock: Any) -> None:
    configure(on_content_policy="next")
    script = Script({GROQ: [refused_content], OPENAI: ["yes"]})
    assert "yes" == failover(chain=[GROQ, OPENAI]).call(script.__call__)


def _unknown_default(clock: Any) -> None:
    configure(on_unknown="raise")
    with pytest.raises(StrangeError):
        failover(chain=GROQ).call(Script({GROQ: [StrangeError]}).__call__)


def _down_default(clock: Any) -> None:
    configure(on_down="demote", attempts=1)
    trip(GROQ)
    script = Script({GROQ: ["groq"], OPENAI: [down]})
    assert "groq" == failover(chain=[GROQ, OPENAI]).call(script.__call__)
    assert [OPENAI, GROQ] == script.calls


def _benched_default(clock: Any) -> None:
    configure(when_all_benched="raise")
    script = Script({GROQ: [rate_limited, "yes"]})
    policy = failover(chain=GROQ, attempts=1)
    for _ in range(2):
        with pytest.raises(ChainExhaustedError):
            policy.call(script.__call__)
    assert is_benched(GROQ)
    assert 1 == len(script.calls)


def _reraise_default(clock: Any) -> None:
    configure(reraise=True)
    with pytest.raises(ProviderError):
        failover(chain=GROQ, attempts=1).call(Script({GROQ: [down]}).__call__)


def _stream_default(clock: Any) -> None:
    configure(stream=StreamPolicy(on_interrupt="restart"))

    def ask(*, target: Target) -> Any:
        yield "a"
        if target.key == GROQ:
            raise down()

    policy = failover(chain=[GROQ, OPENAI], attempts=1)
    assert 2 == len(list(policy(ask)()))
    with pytest.raises(StreamInterruptedError):
        list(policy.using(stream=None)(ask)())


def _adaptive_default(clock: Any) -> None:
    seconds = {GROQ: 3.0, OPENAI: 1.0}

    def ask(target: Target) -> str:
        clock.advance(seconds[target.key])
        return target.key

    guarded = failover([GROQ, OPENAI], strategy="round_robin")(ask)
    assert {GROQ, OPENAI} == {guarded() for _ in range(10)}
    configure(adaptive=True)
    for _ in range(10):
        guarded()

    assert {OPENAI} == {guarded() for _ in range(4)}


def _hedged(clock: Any, **options: Any) -> list[str]:
    """Return the targets of a call of which every attempt is slow."""
    stage, chain = Stage(), [GROQ, OPENAI, MISTRAL]

    async def main() -> None:
        async with played(lambda: failover(chain=chain, **options).call(stage.provide)):
            for _ in chain:
                await settle()
                slow(clock)
            await settle()
            stage.says(GROQ, "yes")

    run_async(main)
    return stage.asked


def _hedge_default(clock: Any) -> None:
    configure(hedge=2.0)
    assert [GROQ, OPENAI] == _hedged(clock)
    assert [GROQ] == _hedged(clock, hedge=None)
    # A policy for a function that cannot be hedged may not name one, and no default holds for it.
    assert "yes" == failover(chain=[GROQ, OPENAI]).call(Script({GROQ: ["yes"]}).__call__)


def _max_hedges_default(clock: Any) -> None:
    configure(max_hedges=2)
    assert [GROQ, OPENAI, MISTRAL] == _hedged(clock, hedge=2.0)
    assert [GROQ, OPENAI] == _hedged(clock, hedge=2.0, max_hedges=1)


def _tool_loop_default(clock: Any) -> None:
    call = {"type": "function_call", "name": "search", "arguments": "{}"}

    def ask(target: Target, messages: list[Any]) -> str:
        return target.key

    guarded = failover(GROQ)(ask)
    configure(tool_loop="raise")

    with pytest.raises(ToolLoopError):
        guarded([call] * 3)
    assert GROQ == guarded.using(tool_loop="off")([call] * 3)


EFFECTS: dict[str, Callable[[Any], None]] = {
    "max_attempts": _max_attempts_default,
    "backoff": _backoff_default,
    "timeout": _timeout_default,
    "cooldown": _cooldown_default,
    "strategy": _strategy_default,
    "adaptive": _adaptive_default,
    "reject": _reject_default,
    "on_request_error": _request_error_default,
    "on_content_policy": _content_policy_default,
    "on_unknown": _unknown_default,
    "on_down": _down_default,
    "when_all_benched": _benched_default,
    "reraise": _reraise_default,
    "stream": _stream_default,
    "hedge": _hedge_default,
    "max_hedges": _max_hedges_default,
    "tool_loop": _tool_loop_default,
}
"""``{option: check that its default has the effect of the option}``; two have tests of their own."""


def test_every_option_is_checked_for_its_effect() -> None:
    """A new option with a default needs such a check."""
    assert set(DEFAULTS) == set(EFFECTS) | {"attempts", "attempt_timeout"}


@pytest.mark.parametrize("name", EFFECTS)
def test_a_default_does_what_the_option_does(name: str, clock: Any) -> None:
    """It is as if the policy had named it."""
    EFFECTS[name](clock)


@on_both_loops
def test_a_default_attempt_timeout_cuts_asynchronous_attempts_off(backend: str, clock: Any) -> None:
    """It blames the target, as one that is named does; also on the fast path's next calls."""
    import anyio

    async def ask(*, target: Target) -> str:
        if target.key == GROQ:
            clock.advance(3.0)
            await anyio.sleep_forever()
        return target.key

    guarded = failover(chain=[GROQ, OPENAI])(ask)
    configure(attempt_timeout=3.0)

    assert [OPENAI, OPENAI] == [run_async(guarded, backend=backend) for _ in range(2)]


def test_a_default_attempt_timeout_is_told_to_functions_that_take_an_attempt() -> None:
    """They apply it themselves."""
    configure(attempt_timeout=3.0)

    def ask(target: Target, attempt: Attempt) -> float | None:
        return attempt.remaining

    assert 3.0 == failover(chain=GROQ).call(ask)


def test_a_default_attempt_timeout_does_not_apply_where_failover_would_refuse_it() -> None:
    """A synchronous function that is told of no limit keeps none, and is not refused."""
    configure(attempt_timeout=3.0)

    def ask(target: Target) -> str:
        return "yes"

    with pytest.raises(ConfigurationError):
        failover(chain=GROQ, attempt_timeout=3.0)(ask)
    with Trace() as trace:
        assert "yes" == failover(chain=GROQ)(ask)()
    assert GROQ == trace.served_by


def test_a_default_timeout_of_an_asynchronous_function_can_be_taken_back() -> None:
    """A function that is on its limited path leaves it again."""

    async def ask(*, target: Target) -> str:
        return target.key

    guarded = failover(chain=GROQ)(ask)
    answers: list[str] = []
    for timeout in (30.0, None, 30.0, None):
        configure(timeout=timeout)
        answers += [run_async(guarded), run_async(guarded)]

    assert [GROQ] * 8 == answers


# --- when it holds ----------------------------------------------------------------------------


def test_a_running_call_keeps_the_defaults_with_which_it_began(clock: Any) -> None:
    """On its fast path and in its call flow, whatever is configured while it runs."""
    breaker(GROQ, failures=1000, error_rate=1.0, min_calls=1000)
    calls: list[str] = []

    @failover(chain=GROQ)
    def ask(target: Target) -> None:
        calls.append(target.key)
        configure(attempts=1)
        raise down()

    configure(attempts=2)
    with pytest.raises(ChainExhaustedError):
        ask()
    first = len(calls)
    with pytest.raises(ChainExhaustedError):
        ask()

    assert (2, 1) == (first, len(calls) - first)


def test_a_running_call_on_the_fast_path_keeps_its_defaults(clock: Any) -> None:
    """Others may have called with the new ones before its first attempt fails."""
    breaker(GROQ, failures=1000, error_rate=1.0, min_calls=1000)
    calls: list[str] = []

    @failover(chain=GROQ)
    def ask(target: Target, name: str) -> str:
        calls.append(name)
        if name == "outer":
            if len(calls) == 2:  # the first attempt of this call
                clock.advance(1.0)
                configure(attempts=1)
                ask("inner")
                clock.advance(1.0)
            raise down()
        return name

    ask("warm")
    with pytest.raises(ChainExhaustedError):
        ask("outer")

    assert 3 == calls.count("outer")


def test_a_running_stream_keeps_its_own(clock: Any) -> None:
    """It began with a default, and ends with it."""
    configure(stream=StreamPolicy(on_interrupt="restart"))

    @failover(chain=[GROQ, OPENAI], attempts=1)
    def ask(target: Target) -> Any:
        yield "a"
        if target.key == GROQ:
            configure(stream=None)
            raise down()

    assert 2 == len(list(ask()))
    with pytest.raises(StreamInterruptedError):
        list(ask())


def test_a_running_loop_keeps_its_own(clock: Any) -> None:
    """Its attempts are those that it had when it began."""
    breaker(GROQ, failures=1000, error_rate=1.0, min_calls=1000)
    policy = failover(chain=GROQ)
    numbers: list[int] = []

    def loop() -> None:
        for attempt in policy:
            with attempt:
                numbers.append(attempt.number)
                configure(attempts=1)
                raise down()

    for _ in range(2):
        with pytest.raises(ChainExhaustedError):
            loop()

    assert [1, 2, 3, 1] == numbers


def test_a_call_in_another_thread_keeps_its_own() -> None:
    """Calls that begin before and after the change may run at once."""
    entered, go_on = threading.Event(), threading.Event()
    attempts: list[int] = []

    @failover(chain=GROQ, backoff=lambda number: 0.0)
    def ask(target: Target, attempt: Attempt) -> None:
        attempts.append(attempt.number)
        entered.set()
        go_on.wait(10.0)
        raise down()

    def call() -> None:
        with pytest.raises(ChainExhaustedError):
            ask()

    thread = threading.Thread(target=call)
    thread.start()
    entered.wait(10.0)
    configure(attempts=1)
    go_on.set()
    thread.join()
    call()

    assert [1, 2, 3, 1] == attempts


def test_options_of_a_fake_clock_that_was_ahead_end_with_it() -> None:
    """A function that was used and configured under a clock that was ahead follows later changes."""
    attempts: list[str] = []

    @failover(chain=GROQ, backoff=lambda number: 0.0)
    def ask(target: Target, fails: bool = False) -> None:
        if fails:
            attempts.append(target.key)
            raise down()

    with testing.isolated(), testing.fake_clock() as clock:
        clock.advance(1_000.0)
        ask()
        configure(attempts=2)
        ask()
    configure(attempts=1)
    ask()  # the next one is begun by the wrapper
    with pytest.raises(ChainExhaustedError):
        ask(fails=True)

    assert 1 == len(attempts)


def test_isolated_starts_with_built_in_values() -> None:
    """And the configured ones are back afterwards."""
    configure(attempts=2)

    with testing.isolated():
        inside = settings().attempts

    assert (3, 2) == (inside, settings().attempts)


# --- taking back ------------------------------------------------------------------------------


def test_none_is_no_limit_for_the_retry_budget() -> None:
    """It is an option of the process, and None is one of its values."""
    configure(retry_budget=None)

    assert settings().retry_budget is None


def test_what_was_configured_for_a_key_is_taken_back() -> None:
    """What a guard names stays, and so does what was configured for others."""
    configure(breakers={"groq": {"failures": 2, "cooldown": 9.0}, "*": {"probes": 2}})
    breaker("groq", cooldown=4.0)
    configure(breakers={" Groq ": None})

    assert {"*": {"probes": 2}} == settings().breakers
    guard = breaker("groq")
    for _ in range(4):
        guard.record(ConnectionRefusedError(), 0.1)
    assert "closed" == guard.state
    guard.record(ConnectionRefusedError(), 0.1)
    remaining = list_benched()[0].remaining
    assert remaining is not None
    assert remaining <= 4.4


def test_what_was_configured_for_all_keys_is_taken_back() -> None:
    """``"*"`` like any other."""
    configure(breakers={"*": {"failures": 1}})
    configure(breakers={"*": None})

    assert {} == settings().breakers
    assert 5 == settings().for_key("groq", {}).failures


def test_nothing_happens_for_a_key_that_was_not_configured() -> None:
    """It need not exist."""
    before = settings()

    configure(breakers={"unknown": None})

    assert before == settings()


def test_a_key_may_be_taken_back_and_another_one_set_at_once() -> None:
    """One wrong entry refuses all of them."""
    configure(breakers={"a/x": {"failures": 2}})
    with pytest.raises(ConfigurationError):
        configure(breakers={"a/x": None, "b/y": {"failures": math.nan}})
    before = dict(settings().breakers)

    configure(breakers={"a/x": None, "b/y": {"failures": 3}})

    assert ({"a/x": {"failures": 2}}, {"b/y": {"failures": 3}}) == (before, settings().breakers)


def test_more_attempts_by_default_than_failures_is_a_warning_at_decoration() -> None:
    """The breaker would end the retries, whoever named them."""
    configure(attempts=9)

    with pytest.warns(UserWarning, match="attempts=9"):
        failover(chain=GROQ)


def test_a_default_is_not_asked_of_a_policy_that_names_a_kind() -> None:
    """Defaults are single options: a `reject` that is named is the only one."""
    configure(reject=lambda answer: ErrorKind.TRANSIENT)

    assert "yes" == failover(chain=GROQ, reject=lambda answer: None).call(lambda *, target: "yes")
