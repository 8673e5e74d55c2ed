"""Every option of a policy: what it does, and what is said about a value that cannot be meant."""

import functools
import inspect
import math
from typing import Any

import pytest
import tenacity

from resilient_llm import (
    Attempt,
    AttemptFailed,
    AttemptSucceeded,
    BreakerOpenError,
    CallFailed,
    ChainExhaustedError,
    ConfigurationError,
    ErrorKind,
    Event,
    FailedOver,
    Failover,
    ResponseRejectedError,
    RetryScheduled,
    Target,
    TargetBenched,
    TargetSkipped,
    UnknownError,
    Verdict,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    is_benched,
    list_benched,
    observe,
    testing,
)
from resilient_llm.testing import capture_events, scripted
from tests.support.errors import httpx_error
from tests.support.guards import failing
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
    too_long,
)


def remaining() -> dict[str, float | None]:
    """Return what is benched and for how many seconds."""
    return {bench.model: bench.remaining for bench in list_benched()}


# --- values that cannot be meant --------------------------------------------------------------

WRONG = {
    "attempts": [0, -1, True, 1.5, "3", math.inf, math.nan, [3]],
    "max_attempts": [0, -1, True, 1.5, "3", math.inf],
    "backoff": [3, 0.5, "fast", [1, 2], True],
    "timeout": [-1, math.nan, "30", True, [30]],
    "attempt_timeout": [-1, math.nan, "30", True],
    "cooldown": [-1, math.nan, math.inf, "30", True],
    "strategy": ["no-such-strategy", 3, None, True, ""],
    "reject": ["empty", 3, True, ErrorKind.TRANSIENT],
    "classify": ["transient", 3, True, ErrorKind.TRANSIENT],
    "on_request_error": ["stop", None, True, "transient", "NEXT"],
    "on_content_policy": ["stop", None, True, "transient"],
    "on_unknown": ["stop", None, True, "soonest"],
    "when_all_benched": ["stop", None, True, "next"],
    "reraise": ["yes", None, 2],
    "stream": [3, "yes", True],
    "observers": [3, "observer", [3], [None], None],
    "tool_loop": ["stop", None, True, False, 3, "WARN", ""],
}

ALLOWED = {
    "on_request_error": ["next", "raise"],
    "on_content_policy": ["next", "raise"],
    "on_unknown": ["next", "raise", "transient"],
    "when_all_benched": ["soonest", "wait", "raise"],
    "strategy": ["priority"],
    "tool_loop": ["off", "warn", "raise", "ToolLoop"],
}


@pytest.mark.parametrize(
    ("option", "value"),
    [pytest.param(name, value, id=f"{name}={value!r}") for name in WRONG for value in WRONG[name]],
)
def test_a_wrong_value_is_refused_where_it_is_written(option: str, value: Any) -> None:
    """The message names the option and what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        failover(chain=[GROQ], **{option: value})

    assert isinstance(caught.value, ValueError)
    assert option in str(caught.value)
    assert [] == [word for word in ALLOWED.get(option, []) if word not in str(caught.value)]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("attempts", 0),
        ("attempts", True),
        ("attempts", 1.5),
        ("max_attempts", 0),
        ("backoff", "slow"),
        ("backoff", 3),
        ("timeout", 0),
        ("timeout", float("nan")),
        ("timeout", True),
        ("attempt_timeout", -1),
        ("cooldown", float("inf")),
        ("strategy", "fastest"),
        ("reject", "bad"),
        ("classify", 3),
        ("on_request_error", "stop"),
        ("on_content_policy", "transient"),
        ("on_unknown", "ignore"),
        ("when_all_benched", "sleep"),
        ("reraise", 1),
        ("stream", object()),
        ("observers", print),
        ("observers", ["print"]),
    ],
)
def test_a_wrong_option_is_refused_where_it_is_written(option: str, value: Any) -> None:
    """The error names the option and says what is allowed."""
    with pytest.raises(ConfigurationError, match=option) as caught:
        failover(chain=GROQ, **{option: value})
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("option", "value"),
    [pytest.param(name, value, id=f"{name}={value!r}") for name in WRONG for value in WRONG[name]],
)
def test_using_refuses_the_same_values(option: str, value: Any) -> None:
    """A copy with changes is checked like the policy itself."""
    policy = failover(chain=[GROQ])

    with pytest.raises(ConfigurationError, match=option):
        policy.using(**{option: value})


@pytest.mark.parametrize("value", [0, 0.0])
@pytest.mark.parametrize("option", ["timeout", "attempt_timeout", "cooldown"])
def test_no_time_at_all_is_refused(option: str, value: float) -> None:
    """A deadline or a bench of no length can only be a mistake."""
    with pytest.raises(ConfigurationError, match=option):
        failover(chain=[GROQ], **{option: value})


def test_an_unknown_option_is_refused() -> None:
    """A word that is no option is not swallowed."""
    with pytest.raises((ConfigurationError, TypeError), match="attemps"):
        failover(chain=[GROQ], attemps=3)  # type: ignore[call-arg]
    with pytest.raises((ConfigurationError, TypeError), match="attemps"):
        failover(chain=[GROQ]).using(attemps=3)


def test_an_unknown_option_is_refused_with_those_that_exist() -> None:
    """`.using` lists what it takes."""
    with pytest.raises(ConfigurationError, match=r"retries.*attempts"):
        failover(chain=GROQ).using(retries=3)  # type: ignore[call-arg]


def test_options_are_keywords() -> None:
    """Only the chain may be given by position."""
    found = inspect.signature(failover).parameters

    assert inspect.Parameter.POSITIONAL_OR_KEYWORD is found["chain"].kind
    assert {inspect.Parameter.KEYWORD_ONLY} == {
        p.kind for name, p in found.items() if name != "chain"
    }
    with pytest.raises(TypeError):
        failover([GROQ], 3)  # type: ignore[misc]


def test_the_defaults_are_those_of_the_contract() -> None:
    """What nobody writes is what the documentation says."""
    expected = {
        "attempts": 3,
        "max_attempts": None,
        "backoff": None,
        "timeout": None,
        "attempt_timeout": None,
        "cooldown": None,
        "strategy": "priority",
        "reject": None,
        "classify": None,
        "on_request_error": "next",
        "on_content_policy": "raise",
        "on_unknown": "next",
        "when_all_benched": "soonest",
        "reraise": False,
        "stream": None,
        "observers": (),
    }
    found = inspect.signature(failover).parameters

    assert expected == {name: found[name].default for name in expected}


def test_the_chain_may_be_given_by_position() -> None:
    """``failover([...])`` is ``failover(chain=[...])``."""
    assert "answer" == failover([GROQ]).call(_answer)
    assert "answer" == failover(GROQ).call(_answer)
    assert "answer" == failover(f"{GROQ}, {OPENAI}").call(_answer)


def _answer(target: Target) -> str:
    return "answer"


def test_it_returns_a_policy() -> None:
    """What ``failover`` returns is a Failover."""
    assert isinstance(failover(chain=[GROQ]), Failover)


def test_more_attempts_than_failures_is_a_warning_at_decoration() -> None:
    """Attempts that an open breaker would cut off are pointed out where they are written."""

    def ask(target: Target) -> None: ...

    with pytest.warns(UserWarning, match="attempts"):
        failover(chain=[GROQ], attempts=6)(ask)


def test_attempts_above_what_opens_the_breaker_is_a_warning() -> None:
    """Retries that the breaker will always cut short cause a warning at decoration."""
    with pytest.warns(UserWarning, match="failures=5"):
        failover(chain=GROQ, attempts=6)


# --- attempts ---------------------------------------------------------------------------------


@over(DRIVERS)
@pytest.mark.parametrize("attempts", [1, 2, 3, 5])
def test_attempts_are_per_target_the_first_included(
    attempts: int, driver: Driver, clock: Any
) -> None:
    """Each target is called that often before the next one is."""
    script = Script({GROQ: [down], OPENAI: ["answer"]})

    assert "answer" == driver.run(failover(chain=[GROQ, OPENAI], attempts=attempts), script)
    assert [GROQ] * attempts + [OPENAI] == script.calls


def test_three_attempts_are_the_default(clock: Any) -> None:
    """Without a word each target has three attempts, with two waits between them."""
    script = Script({GROQ: [down], OPENAI: ["answer"]})

    failover(chain=[GROQ, OPENAI]).call(script.__call__)

    assert [GROQ] * 3 + [OPENAI] == script.calls
    assert 2 == len(clock.sleeps)


@over(DRIVERS)
def test_max_attempts_are_per_call_over_all_targets(driver: Driver, clock: Any) -> None:
    """The call ends when it has made so many attempts, wherever they went."""
    script = Script({GROQ: [down], OPENAI: [down], MISTRAL: ["answer"]})

    with pytest.raises(ChainExhaustedError) as caught:
        driver.run(failover(chain=[GROQ, OPENAI, MISTRAL], attempts=2, max_attempts=3), script)

    assert [GROQ, GROQ, OPENAI] == script.calls
    assert ["transient"] * 3 == [
        record.kind for record in caught.value.attempts if record.kind != "rejected"
    ]


def test_max_attempts_that_suffice_change_nothing(clock: Any) -> None:
    """A limit that is not reached has no effect."""
    script = Script({GROQ: [down], OPENAI: ["answer"]})

    assert "answer" == failover(chain=[GROQ, OPENAI], attempts=2, max_attempts=3).call(
        script.__call__
    )


def test_an_attempt_timeout_that_nothing_enforces_is_refused() -> None:
    """A synchronous function must take its limit as an argument."""
    policy = failover(chain=GROQ, attempt_timeout=1.0)

    with pytest.raises(ConfigurationError, match="Attempt"):
        policy(lambda *, target: None)

    @policy
    def limit_of(target: Target, attempt: Attempt) -> float | None:
        return attempt.remaining

    assert 1.0 == limit_of()


@on_both_loops
def test_an_attempt_timeout_cancels_and_blames_the_target(backend: str, clock: Any) -> None:
    """An attempt that takes too long is cut off, and the next target is asked."""
    import anyio

    @failover(chain=[GROQ, OPENAI], attempt_timeout=3.0)
    async def ask(target: Target) -> str:
        if target.key == GROQ:
            clock.advance(3.0)
            await anyio.sleep_forever()
        return target.key

    assert OPENAI == run_async(ask, backend=backend)
    assert (1, "timeout") == (health()[GROQ].errors, health()[GROQ].last_error.reason)  # type: ignore[union-attr]


class OddClientError(Exception):
    """What a client makes of a cancellation."""


def _loop(chain: list[str], attempt: Any) -> Any:
    async def run() -> str:
        async for each in failover(chain=chain, attempt_timeout=3.0):
            async with each as target:
                return await attempt(target)
        raise AssertionError

    return run


@on_both_loops
@pytest.mark.parametrize("way", ["first attempt", "call flow", "loop"])
@pytest.mark.parametrize("error", [OddClientError(), RuntimeError("session is closed")])
def test_an_attempt_that_is_cut_off_has_timed_out_whatever_it_raises(
    error: Exception, way: str, backend: str, clock: Any
) -> None:
    """A client that turns its cancellation into an error of its own is no other failure."""
    import anyio

    async def attempt(target: Target) -> str:
        if target.key == GROQ:
            clock.advance(3.0)
            try:
                await anyio.sleep_forever()
            except BaseException:
                raise error from None
        return target.key

    if way == "loop":
        ask = _loop([GROQ, OPENAI], attempt)
    else:
        observers = () if way == "first attempt" else (lambda _: None,)
        ask = failover(chain=[GROQ, OPENAI], attempt_timeout=3.0, observers=observers)(attempt)

    assert OPENAI == run_async(ask, backend=backend)
    assert (1, "timeout") == (health()[GROQ].errors, health()[GROQ].last_error.reason)  # type: ignore[union-attr]


@on_both_loops
def test_the_error_of_a_client_that_was_cut_off_is_the_member(backend: str, clock: Any) -> None:
    """Whoever looks for the cause finds what the client raised, and that it was a timeout."""
    import anyio

    error = RuntimeError("session is closed")

    @failover(chain=GROQ, attempts=1, attempt_timeout=3.0)
    async def ask(target: Target) -> str:
        clock.advance(3.0)
        try:
            return await anyio.sleep_forever()
        except BaseException:
            raise error from None

    with pytest.raises(ChainExhaustedError) as caught:
        run_async(ask, backend=backend)

    assert [error] == list(caught.value.exceptions)
    assert ["timeout"] == [record.reason for record in caught.value.attempts]


@on_both_loops
@pytest.mark.parametrize("way", ["first attempt", "call flow", "loop"])
def test_a_refusal_that_arrives_as_the_limit_ends_is_what_it_says(
    way: str, backend: str, clock: Any
) -> None:
    """The provider answered: a limit that had ended by then did not cut it off."""

    async def attempt(target: Target) -> str:
        clock.advance(3.0)
        if target.key == GROQ:
            raise httpx_error(400)
        return target.key

    if way == "loop":
        ask = _loop([GROQ, OPENAI], attempt)
    else:
        observers = () if way == "first attempt" else (lambda _: None,)
        ask = failover(chain=[GROQ, OPENAI], attempt_timeout=3.0, observers=observers)(attempt)

    with capture_events(AttemptFailed) as failures:
        assert OPENAI == run_async(ask, backend=backend)

    assert [("request_specific", 400)] == [(each.kind.value, each.status) for each in failures]
    assert 0 == health([GROQ])[GROQ].errors


async def _later(*args: Any) -> Any:
    return None


class _LaterObject:
    async def __call__(self, *args: Any) -> Any:
        return None


@pytest.mark.parametrize("function", [_later, _LaterObject(), functools.partial(_later)])
@pytest.mark.parametrize("option", ["reject", "classify", "strategy", "backoff"])
def test_an_async_function_whose_result_is_used_at_once_is_refused(
    option: str, function: Any
) -> None:
    """Its coroutine would be taken for what it says, and refuse every answer."""
    with pytest.raises(ConfigurationError, match=f"{option} is an async function"):
        failover(chain=GROQ, **{option: function})


# --- backoff ----------------------------------------------------------------------------------


def waits(clock: Any, attempts: int, **options: Any) -> list[float]:
    """Return the waits of a call whose only target fails every time."""
    breaker(GROQ, failures=1000, error_rate=1.0, min_calls=1000)
    configure(retry_budget=1.0)
    script = Script({GROQ: [down]})
    with pytest.raises(ChainExhaustedError):
        failover(chain=[GROQ], attempts=attempts, **options).call(script.__call__)
    assert attempts == len(script.calls)
    return [float(wait) for wait in clock.sleeps]


def test_the_default_backoff_is_full_jitter(clock: Any) -> None:
    """Each wait lies between zero and a ceiling that doubles from 0.2 s to 10 s."""
    drawn = waits(clock, 10)

    ceilings = [min(10, 0.2 * 2 ** (number - 1)) for number in range(1, len(drawn) + 1)]
    assert 9 == len(drawn)
    assert [] == [
        (wait, ceiling)
        for wait, ceiling in zip(drawn, ceilings, strict=True)
        if not 0 <= wait <= ceiling
    ]
    assert len(set(drawn)) == len(drawn)


def test_the_default_waits_differ_and_stay_below_their_ceilings(clock: Any) -> None:
    """Waits lie between zero and min(10, 0.2 * 2 ** (n - 1)), and differ."""
    breaker(GROQ, failures=100, mode="metrics_only")
    answers = scripted(*[down() for _ in range(9)], "yes")

    failover(chain=GROQ, attempts=10).call(lambda *, target: answers())

    ceilings = [min(10.0, 0.2 * 2**n) for n in range(9)]
    assert 9 == len(clock.sleeps) == len(set(clock.sleeps))
    assert all(
        0.0 <= slept <= ceiling for slept, ceiling in zip(clock.sleeps, ceilings, strict=True)
    )


def test_a_function_of_the_attempts_number_is_a_backoff(clock: Any) -> None:
    """The function is asked with the number of the attempt that just failed, from 1."""
    asked: list[int] = []

    def backoff(number: int) -> float:
        asked.append(number)
        return number * 1.5

    assert [1.5, 3.0, 4.5] == waits(clock, 4, backoff=backoff)
    assert [1, 2, 3] == asked


def test_a_function_is_a_backoff_and_nonsense_from_it_is_survived(clock: Any) -> None:
    """The function is asked per failed attempt; a NaN becomes the default's wait."""
    asked: list[int] = []
    answers = scripted(down(), down(), "yes")

    def backoff(number: int) -> float:
        asked.append(number)
        return 2.0 if number == 1 else float("nan")

    failover(chain=GROQ, backoff=backoff).call(lambda *, target: answers())

    assert [1, 2] == asked
    assert 2.0 == clock.sleeps[0]
    assert 0.0 <= clock.sleeps[1] <= 0.4


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (tenacity.wait_fixed(2), [2, 2, 2]),
        (tenacity.wait_none(), []),
        (tenacity.wait_incrementing(start=1, increment=2), [1, 3, 5]),
        (tenacity.wait_exponential(multiplier=1, max=3), [1, 2, 3]),
        (tenacity.wait_fixed(1) + tenacity.wait_fixed(2), [3, 3, 3]),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(5)), [1, 5, 5]),
    ],
)
def test_a_tenacity_wait_is_a_backoff(wait: Any, expected: list[float], clock: Any) -> None:
    """Waits of tenacity are used as they are."""
    drawn = waits(clock, 4, backoff=wait)

    assert expected == [seconds for seconds in drawn if seconds]


def test_tenacity_waits_that_are_added_up_are_a_backoff(clock: Any) -> None:
    """Waits of tenacity, also added up, are asked with the number of the failed attempt."""
    answers = scripted(down(), down(), "yes")
    wait = tenacity.wait_incrementing(start=1, increment=2) + tenacity.wait_fixed(0.5)

    failover(chain=GROQ, backoff=wait).call(lambda *, target: answers())

    assert [1.5, 3.5] == clock.sleeps


@over(DRIVERS)
def test_the_wait_is_emitted_before_it_is_slept(driver: Driver, clock: Any) -> None:
    """RetryScheduled carries the attempt and the delay that is then waited."""
    script = Script({GROQ: [down, down, "answer"]})

    with testing.capture_events(RetryScheduled) as scheduled:
        driver.run(failover(chain=[GROQ], backoff=lambda n: n * 2.0), script)

    assert [2.0, 4.0] == [event.delay for event in scheduled]
    assert [2.0, 4.0] == clock.sleeps


# --- cooldown ---------------------------------------------------------------------------------


def test_cooldown_is_the_first_bench(clock: Any) -> None:
    """A target that used up its attempts is benched for the policy's cooldown, up to 10 % longer."""
    script = Script({GROQ: [down], OPENAI: ["answer"]})

    failover(chain=[GROQ, OPENAI], attempts=2, cooldown=100).call(script.__call__)

    assert [GROQ] == list(remaining())
    assert 100 <= (remaining()[GROQ] or 0) <= 110


def test_without_a_cooldown_the_bench_lasts_the_breakers_own(clock: Any) -> None:
    """Nobody named a time: 30 s, up to 10 % longer."""
    script = Script({GROQ: [down], OPENAI: ["answer"]})

    failover(chain=[GROQ, OPENAI], attempts=2).call(script.__call__)

    assert 30 <= (remaining()[GROQ] or 0) <= 33


def test_a_circuits_own_cooldown_goes_before_the_policys(clock: Any) -> None:
    """The policy speaks for targets without a setting of their own."""
    breaker(GROQ, cooldown=50)
    script = Script({GROQ: [down], OPENAI: ["answer"]})

    failover(chain=[GROQ, OPENAI], attempts=2, cooldown=100).call(script.__call__)

    assert 50 <= (remaining()[GROQ] or 0) <= 55


ORDER_OF_COOLDOWNS = [
    ("guard", 2.0),
    ("key", 3.0),
    ("policy", 4.0),
    ("all keys", 6.0),
    ("built-in", 30.0),
]


@pytest.mark.parametrize("strongest", range(len(ORDER_OF_COOLDOWNS)))
def test_whoever_is_nearest_to_the_target_says_how_long_it_is_benched(
    strongest: int, clock: Any
) -> None:
    """No default switches the option of a policy off."""
    named = [name for name, _ in ORDER_OF_COOLDOWNS[strongest:]]
    if "all keys" in named:
        configure(breakers={"*": {"cooldown": 6.0}})
    if "key" in named:
        configure(breakers={GROQ: {"cooldown": 3.0}})
    if "guard" in named:
        breaker(GROQ, cooldown=2.0)
    policy = failover(chain=GROQ, attempts=1, cooldown=4.0 if "policy" in named else None)
    breaker(GROQ, failures=1)

    with pytest.raises(ChainExhaustedError):
        policy.call(Script({GROQ: [down]}).__call__)

    expected = ORDER_OF_COOLDOWNS[strongest][1]
    assert expected <= remaining()[GROQ] <= expected * 1.1  # type: ignore[operator]  # it has an end


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize("key", [GROQ, "groq"])
def test_slow_successes_bench_for_the_policys_cooldown(
    key: str, is_plain: bool, clock: Any
) -> None:
    """The event names the call, and the policy's observers receive it."""
    configure(breakers={key: {"slow_call": 1.0, "min_calls": 3}})
    benched: list[Event] = []
    if is_plain:
        observe(benched.append, TargetBenched)
    observers = () if is_plain else (benched.append,)

    @failover(chain=[GROQ], cooldown=5.0, observers=observers)
    def ask(target: Target) -> str:
        clock.advance(2.0)
        return "slow"

    for _ in range(3):
        ask()

    found = [event for event in benched if isinstance(event, TargetBenched)]
    assert [(key, True)] == [(event.target, bool(event.call_id)) for event in found]
    assert 5.0 <= remaining()[key] <= 5.5  # type: ignore[operator]  # it has an end


def test_a_cooldown_above_max_cooldown_raises_it(clock: Any) -> None:
    """A policy that wants ten minutes gets ten minutes, though five are the usual maximum."""
    script = Script({GROQ: [down], OPENAI: ["answer"]})

    failover(chain=[GROQ, OPENAI], attempts=2, cooldown=600).call(script.__call__)

    assert 600 <= (remaining()[GROQ] or 0) <= 660


def test_the_policys_cooldown_is_for_circuits_without_one(clock: Any) -> None:
    """It is the first bench of a target nobody set a cooldown for, also above max_cooldown."""
    breaker(OPENAI, cooldown=10)

    def ask(target: Target) -> None:
        raise down()

    with pytest.raises(ChainExhaustedError):
        failover(chain=[GROQ, OPENAI], cooldown=400, attempts=2, backoff=lambda n: 0.0).call(ask)

    remaining = {each.model: each.remaining for each in list_benched()}
    assert 400 <= remaining[GROQ] <= 440  # type: ignore[operator]
    assert 10 <= remaining[OPENAI] <= 11  # type: ignore[operator]


# --- strategy ---------------------------------------------------------------------------------


def test_priority_is_the_default_strategy() -> None:
    """A lower priority goes first, and equal ones keep their order."""
    chain = [Target("a/1", priority=2), "b/2", Target("c/3", priority=0), "d/4"]
    script = Script({name: [lambda: ProviderError(400)] for name in ("a/1", "b/2", "c/3", "d/4")})

    for options in ({}, {"strategy": "priority"}):
        script.calls.clear()
        with pytest.raises(ChainExhaustedError):
            failover(chain=chain, **options).call(script.__call__)

        assert ["c/3", "b/2", "d/4", "a/1"] == script.calls


def test_a_lower_priority_is_tried_first() -> None:
    """Equal ones keep the order of the chain."""
    chain = [Target("a/x", priority=2), Target("b/x"), Target("c/x"), Target("d/x", priority=0)]
    asked: list[str] = []

    def ask(target: Target) -> None:
        asked.append(target.provider)
        raise ProviderError(422)

    with pytest.raises(ChainExhaustedError):
        failover(chain=chain).call(ask)

    assert ["d", "b", "c", "a"] == asked


@over(DRIVERS)
def test_a_callable_strategy_orders_the_targets_of_each_call(driver: Driver) -> None:
    """The order the callable gives is the order they are tried in."""
    script = Script({GROQ: ["groq"], OPENAI: [lambda: ProviderError(401)]})

    def backwards(targets: Any, *_: Any, **__: Any) -> list[Target]:
        return list(targets)[::-1]

    assert "groq" == driver.run(failover(chain=[GROQ, OPENAI], strategy=backwards), script)
    assert [OPENAI, GROQ] == script.calls


def test_a_strategy_orders_the_targets_of_each_call() -> None:
    """It is given the targets and gives them back in order; leaving one out is allowed, a stranger is not."""
    policy = failover(chain=[GROQ, OPENAI], strategy=lambda targets: reversed(targets))

    assert OPENAI == policy.call(lambda *, target: target.key)
    assert GROQ == policy.using(strategy=lambda targets: targets[:1]).call(
        lambda *, target: target.key
    )
    with pytest.raises(ConfigurationError, match="strategy"):
        policy.using(strategy=lambda targets: [Target("x/y")]).call(lambda *, target: target.key)


# --- reject -----------------------------------------------------------------------------------


@over(DRIVERS)
@pytest.mark.parametrize("good", [None, False])
def test_what_reject_lets_pass_is_the_result(good: object, driver: Driver) -> None:
    """None and False mean that the answer is good."""
    asked: list[object] = []

    def reject(result: object) -> object:
        asked.append(result)
        return good

    assert "answer" == driver.run(
        failover(chain=[GROQ, OPENAI], reject=reject), Script({GROQ: ["answer"]})
    )
    assert ["answer"] == asked


@over(DRIVERS)
@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (True, "bad_response"),
        ("too-short", "bad_response"),
        (ErrorKind("bad_response"), "bad_response"),
        (Verdict(ErrorKind("bad_response"), reason="empty"), "bad_response"),
    ],
    ids=["true", "word", "kind", "verdict"],
)
def test_a_rejected_answer_moves_the_call_on(said: object, kind: str, driver: Driver) -> None:
    """A bad answer is not asked for again at the same target, and harms nobody's health."""
    script = Script({GROQ: ["bad"], OPENAI: ["good"]})
    policy = failover(chain=[GROQ, OPENAI], reject=lambda result: said if result == "bad" else None)

    with testing.capture_events(AttemptFailed, FailedOver) as events:
        answer = driver.run(policy, script)

    assert "good" == answer
    assert [GROQ, OPENAI] == script.calls
    assert [(AttemptFailed, kind), (FailedOver, kind)] == [
        (type(event), event.kind) for event in events
    ]
    assert 0 == health()[GROQ].errors
    assert [] == list_benched()


def test_the_word_of_reject_is_the_reason() -> None:
    """A word says why, in the event and in the error."""
    policy = failover(chain=[GROQ], reject=lambda result: "too-short")

    with (
        testing.capture_events(AttemptFailed) as events,
        pytest.raises(ChainExhaustedError) as caught,
    ):
        policy.call(_answer)

    member = caught.value.exceptions[0]
    assert isinstance(member, ResponseRejectedError)
    assert (GROQ, "too-short") == (str(member.target), member.reason)
    assert ["too-short"] == [event.reason for event in events]


def test_a_refused_answer_of_the_last_target_is_in_the_error() -> None:
    """ChainExhaustedError holds a ResponseRejectedError that names the target and the word."""
    with pytest.raises(ChainExhaustedError) as caught:
        failover(chain=GROQ, reject=lambda answer: "too short").call(lambda *, target: "a")

    (member,) = caught.value.exceptions
    assert isinstance(member, ResponseRejectedError)
    assert (GROQ, "too short", ErrorKind.BAD_RESPONSE) == (
        member.target,
        member.reason,
        caught.value.kind,
    )


def test_a_rejected_answer_without_a_word_is_called_rejected() -> None:
    """``True`` has the reason ``rejected``."""
    with pytest.raises(ChainExhaustedError) as caught:
        failover(chain=[GROQ], reject=lambda result: True).call(_answer)

    assert ["rejected"] == [member.reason for member in caught.value.exceptions]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("said", "reason", "kind"),
    [
        (True, "rejected", ErrorKind.BAD_RESPONSE),
        ("empty", "empty", ErrorKind.BAD_RESPONSE),
        ("x-y_" * 11, "x-y_" * 10, ErrorKind.BAD_RESPONSE),
        ("x y" * 14, "rejected", ErrorKind.BAD_RESPONSE),
        (ErrorKind.TRANSIENT, "rejected", ErrorKind.TRANSIENT),
        (Verdict(ErrorKind.TRANSIENT, "garbled", retryable=False), "garbled", ErrorKind.TRANSIENT),
    ],
)
def test_reject_decides_about_an_answer(
    said: Any, reason: str, kind: ErrorKind, clock: Any
) -> None:
    """What it says is the verdict; the answer goes to nobody."""
    policy = failover(
        chain=[GROQ, OPENAI], attempts=1, reject=lambda answer: said if answer == GROQ else None
    )

    with capture_events(AttemptFailed) as failed:
        answer = policy.call(lambda *, target: target.key)

    assert (OPENAI, [(reason, kind)]) == (answer, [(event.reason, event.kind) for event in failed])
    assert (1 if kind is ErrorKind.TRANSIENT else 0) == health()[GROQ].errors


@over(DRIVERS)
def test_reject_may_say_any_kind_and_the_chain_obeys(driver: Driver, clock: Any) -> None:
    """An answer that is a rate limit in disguise benches the target like a real one."""
    script = Script({GROQ: ["busy"], OPENAI: ["good"]})

    def reject(result: object) -> object:
        return Verdict(ErrorKind("rate_limited"), retry_after=40.0) if result == "busy" else None

    assert "good" == driver.run(failover(chain=[GROQ, OPENAI], reject=reject), script)
    assert [GROQ, OPENAI] == script.calls
    assert [GROQ] == list(remaining())
    assert 40 <= (remaining()[GROQ] or 0) <= 44


def test_an_answer_that_is_transient_is_asked_for_again(clock: Any) -> None:
    """``reject`` that says transient has the same target tried again."""
    script = Script({GROQ: ["bad", "good"]})
    policy = failover(
        chain=[GROQ], reject=lambda result: ErrorKind("transient") if result == "bad" else None
    )

    assert "good" == policy.call(script.__call__)
    assert [GROQ, GROQ] == script.calls


def test_a_text_that_is_no_word_is_never_repeated(caplog: pytest.LogCaptureFixture) -> None:
    """A ``reject`` that returns the model's answer by mistake does not put it into events and messages."""
    secret = "the-model-said " * 10
    caplog.set_level(0)

    with testing.capture_events() as events, pytest.raises(Exception) as caught:
        failover(chain=[GROQ], reject=lambda result: secret).call(_answer)

    assert (
        "the-model-said the-model-said"
        not in repr(events) + str(caught.value) + repr(caught.value) + caplog.text
    )


def test_an_error_inside_reject_is_the_callers_own() -> None:
    """A bug in ``reject`` leaves as it is and is not sent to the next target."""
    script = Script({GROQ: ["answer"], OPENAI: ["answer"]})

    def reject(result: Any) -> bool:
        return bool(result["choices"])

    with pytest.raises(TypeError):
        failover(chain=[GROQ, OPENAI], reject=reject).call(script.__call__)

    assert [GROQ] == script.calls


def test_an_error_in_reject_is_the_callers_own() -> None:
    """It leaves unchanged and blames no target."""
    with pytest.raises(ZeroDivisionError):
        failover(chain=[GROQ, OPENAI], reject=lambda answer: 1 / 0).call(lambda *, target: "a")

    assert 0 == health()[GROQ].errors


# --- classify ---------------------------------------------------------------------------------


@over(DRIVERS)
@pytest.mark.parametrize(
    ("said", "calls"),
    [
        (ErrorKind("transient"), [GROQ, GROQ, OPENAI]),
        (ErrorKind("request_specific"), [GROQ, OPENAI]),
        (Verdict(ErrorKind("auth_dead"), reason="invalid_key"), [GROQ, OPENAI]),
        (ErrorKind("caller_bug"), [GROQ]),
    ],
    ids=["transient", "request", "auth", "bug"],
)
def test_classify_decides_before_every_rule(
    said: Any, calls: list[str], driver: Driver, clock: Any
) -> None:
    """What the policy's own function says is what the chain does, whatever the error looks like."""
    script = Script({GROQ: [lambda: ProviderError(404)], OPENAI: ["answer"]})
    policy = failover(chain=[GROQ, OPENAI], attempts=2, classify=lambda error: said)

    if OPENAI in calls:
        assert "answer" == driver.run(policy, script)
    else:
        with pytest.raises(ProviderError):
            driver.run(policy, script)

    assert calls == script.calls


def test_classify_is_given_the_error_and_may_have_no_opinion() -> None:
    """None leaves the decision to the rules."""
    error = ProviderError(401)
    asked: list[BaseException] = []

    def nobody_knows(error: BaseException) -> None:
        asked.append(error)

    policy = failover(chain=[GROQ, OPENAI], classify=nobody_knows)

    assert "answer" == policy.call(failing_first(error))
    assert error is asked[0]
    assert {"auth_dead"} == {bench.kind for bench in list_benched()}


def failing_first(error: BaseException) -> Any:
    """Return a function that raises the error for the first target and answers for others."""

    def ask(target: Target) -> str:
        if target.spec == GROQ:
            raise error
        return "answer"

    return ask


def test_a_policys_classify_is_its_own() -> None:
    """Another policy judges the same error by the rules."""
    mine = failover(chain=[GROQ, OPENAI], classify=lambda error: ErrorKind("request_specific"))

    mine.call(failing_first(ProviderError(401)))
    assert [] == list_benched()
    failover(chain=[GROQ, OPENAI]).call(failing_first(ProviderError(401)))
    assert 1 == len(list_benched())


def test_the_policys_own_classify_is_asked_first_and_survived_when_it_breaks() -> None:
    """A kind or a verdict decides; None and a broken rule leave it to the others."""
    said: list[Any] = [ErrorKind.AUTH_DEAD, None, ZeroDivisionError()]

    def rule(error: BaseException) -> Any:
        word = said.pop(0)
        if isinstance(word, Exception):
            raise word
        return word

    def ask(target: Target) -> None:
        raise down()

    kinds = []
    for key in ("a/x", "b/x", "c/x"):
        with pytest.raises(ChainExhaustedError) as caught:
            failover(chain=key, attempts=1, classify=rule).call(ask)
        kinds.append(caught.value.kind)

    assert [ErrorKind.AUTH_DEAD, ErrorKind.TRANSIENT, ErrorKind.TRANSIENT] == kinds


# --- on_request_error, on_content_policy, on_unknown ------------------------------------------

REQUEST_ERRORS = [400, 413, 422]


@over(DRIVERS)
@pytest.mark.parametrize("status", REQUEST_ERRORS)
def test_a_request_error_goes_to_the_next_target(status: int, driver: Driver, clock: Any) -> None:
    """What one target refuses another may take; nobody's health is touched and nothing is repeated."""
    script = Script({GROQ: [lambda: ProviderError(status)], OPENAI: ["answer"]})

    assert "answer" == driver.run(failover(chain=[GROQ, OPENAI]), script)
    assert [GROQ, OPENAI] == script.calls
    assert [] == clock.sleeps
    assert 0 == health()[GROQ].errors
    assert "closed" == breaker(GROQ).state


@over(DRIVERS)
@pytest.mark.parametrize("status", REQUEST_ERRORS)
def test_a_request_error_can_be_raised_instead(status: int, driver: Driver) -> None:
    """With ``on_request_error="raise"`` the target's own error leaves as it is."""
    error = ProviderError(status)
    script = Script({GROQ: [lambda: error], OPENAI: ["answer"]})

    with pytest.raises(ProviderError) as caught:
        driver.run(failover(chain=[GROQ, OPENAI], on_request_error="raise"), script)

    assert error is caught.value
    assert [GROQ] == script.calls


@over(DRIVERS)
def test_a_refused_content_is_raised_by_default(driver: Driver) -> None:
    """A safety refusal is not shown to another model."""
    error = refused_content()
    script = Script({GROQ: [lambda: error], OPENAI: ["answer"]})

    with pytest.raises(ProviderError) as caught:
        driver.run(failover(chain=[GROQ, OPENAI]), script)

    assert error is caught.value
    assert [GROQ] == script.calls
    assert 0 == health()[GROQ].errors


@over(DRIVERS)
def test_a_refused_content_can_be_sent_on(driver: Driver) -> None:
    """Whoever asks for it has the next model tried, also where other request errors are raised."""
    for options in ({}, {"on_request_error": "raise"}):
        script = Script({GROQ: [refused_content], OPENAI: ["answer"]})

        assert "answer" == driver.run(
            failover(chain=[GROQ, OPENAI], on_content_policy="next", **options), script
        )
        assert [GROQ, OPENAI] == script.calls


@over(DRIVERS)
def test_a_request_too_long_goes_only_to_a_larger_window(driver: Driver) -> None:
    """Targets whose window is unknown or no larger are not asked."""
    small, same, unknown = (
        Target("a/small", context_window=8192),
        Target("b/same", context_window=8192),
        "c/unknown",
    )
    large = Target("d/large", context_window=200_000)
    script = Script(
        {"a/small": [too_long], "b/same": ["same"], unknown: ["unknown"], "d/large": ["answer"]}
    )

    assert "answer" == driver.run(failover(chain=[small, same, unknown, large]), script)
    assert ["a/small", "d/large"] == script.calls


@over(DRIVERS)
def test_an_unknown_error_goes_to_the_next_target(driver: Driver, clock: Any) -> None:
    """What nobody knows is not repeated, harms nobody and is emitted with its class."""
    script = Script({GROQ: [StrangeError], OPENAI: ["answer"]})

    with testing.capture_events(UnknownError) as events:
        answer = driver.run(failover(chain=[GROQ, OPENAI]), script)

    assert "answer" == answer
    assert [GROQ, OPENAI] == script.calls
    assert 0 == health()[GROQ].errors
    assert ["StrangeError"] == [event.type_name.rpartition(".")[2] for event in events]


@over(DRIVERS)
def test_an_unknown_error_can_be_raised(driver: Driver) -> None:
    """With ``on_unknown="raise"`` it leaves as it is."""
    error = StrangeError()
    script = Script({GROQ: [lambda: error], OPENAI: ["answer"]})

    with pytest.raises(StrangeError) as caught:
        driver.run(failover(chain=[GROQ, OPENAI], on_unknown="raise"), script)

    assert error is caught.value
    assert [GROQ] == script.calls


@over(DRIVERS)
def test_an_unknown_error_can_be_treated_as_transient(driver: Driver, clock: Any) -> None:
    """With ``on_unknown="transient"`` the same target is tried again first."""
    script = Script({GROQ: [StrangeError], OPENAI: ["answer"]})

    assert "answer" == driver.run(
        failover(chain=[GROQ, OPENAI], attempts=2, on_unknown="transient"), script
    )
    assert [GROQ, GROQ, OPENAI] == script.calls


def test_an_unknown_class_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """One log line per class is enough."""
    for _ in range(3):
        failover(chain=[GROQ, OPENAI]).call(failing_first(StrangeError("why")))

    lines = [record for record in caplog.records if "StrangeError" in record.getMessage()]
    assert 1 == len(lines)


# --- when_all_benched -------------------------------------------------------------------------


def bench_both(clock: Any, first: float, second: float) -> None:
    """Have both targets benched by failures, for these cooldowns."""
    for spec, cooldown in ((GROQ, first), (OPENAI, second)):
        with pytest.raises(ChainExhaustedError):
            failover(chain=[spec], attempts=2, cooldown=cooldown).call(
                Script({spec: [down]}).__call__
            )
    clock.sleeps.clear()
    assert {GROQ, OPENAI} == set(remaining())


@over(DRIVERS)
def test_when_all_are_benched_the_soonest_is_tried_first(driver: Driver, clock: Any) -> None:
    """The default tries each once, soonest to recover first."""
    bench_both(clock, 100, 20)
    script = Script({GROQ: [down], OPENAI: [down]})
    before = remaining()

    with pytest.raises(ChainExhaustedError):
        driver.run(failover(chain=[GROQ, OPENAI]), script)

    assert [OPENAI, GROQ] == script.calls
    assert before == remaining()
    assert [] == clock.sleeps


@over(DRIVERS)
def test_the_last_resort_that_answers_serves_the_call(driver: Driver, clock: Any) -> None:
    """One answer is all it takes."""
    bench_both(clock, 100, 20)
    script = Script({GROQ: ["groq"], OPENAI: ["openai"]})

    assert "openai" == driver.run(failover(chain=[GROQ, OPENAI]), script)
    assert [OPENAI] == script.calls


def test_a_last_resort_that_is_answered_closes_a_pause_without_a_name(clock: Any) -> None:
    """A rate limit that named no wait may be tried, and an answer ends its bench."""
    failing(GROQ, 1, lambda: ProviderError(429))
    assert is_benched(GROQ)

    assert GROQ == failover(chain=GROQ).call(lambda *, target: target.key)
    assert [] == list_benched()


@over(DRIVERS)
def test_raise_calls_nobody_when_all_are_benched(driver: Driver, clock: Any) -> None:
    """With ``when_all_benched="raise"`` nothing is sent and the error says when to come back."""
    bench_both(clock, 100, 20)
    script = Script({GROQ: ["answer"], OPENAI: ["answer"]})

    with pytest.raises(ChainExhaustedError) as caught:
        driver.run(failover(chain=[GROQ, OPENAI], when_all_benched="raise"), script)

    assert [] == script.calls
    assert [BreakerOpenError, BreakerOpenError] == [
        type(member) for member in caught.value.exceptions
    ]
    assert remaining()[OPENAI] == pytest.approx(caught.value.retry_after)


@over(DRIVERS)
def test_wait_waits_for_the_soonest(driver: Driver, clock: Any) -> None:
    """With ``when_all_benched="wait"`` the call sleeps until one may be tried again."""
    bench_both(clock, 100, 20)
    soonest = remaining()[OPENAI] or 0
    script = Script({GROQ: ["groq"], OPENAI: ["openai"]})

    assert "openai" == driver.run(failover(chain=[GROQ, OPENAI], when_all_benched="wait"), script)
    assert [OPENAI] == script.calls
    assert soonest == pytest.approx(sum(clock.sleeps), abs=1.0)
    assert max(clock.sleeps) <= 1.0


@over(DRIVERS)
def test_wait_does_not_wait_for_what_does_not_fit(driver: Driver, clock: Any) -> None:
    """A deadline that ends before the soonest recovers is not slept away."""
    bench_both(clock, 100, 20)
    script = Script({GROQ: ["answer"], OPENAI: ["answer"]})

    with pytest.raises((ChainExhaustedError, TimeoutError)):
        driver.run(failover(chain=[GROQ, OPENAI], when_all_benched="wait", timeout=5), script)

    assert [] == script.calls
    assert [] == clock.sleeps


@over(DRIVERS)
@pytest.mark.parametrize("way", ["soonest", "wait", "raise"])
def test_manual_benches_are_respected_by_all_three(way: str, driver: Driver, clock: Any) -> None:
    """What an operator benched for good is never a last resort."""
    bench_model(GROQ)
    bench_model(OPENAI)
    script = Script({GROQ: ["answer"], OPENAI: ["answer"]})

    with pytest.raises(ChainExhaustedError):
        driver.run(failover(chain=[GROQ, OPENAI], when_all_benched=way), script)

    assert [] == script.calls


@over(DRIVERS)
def test_a_dead_key_is_never_a_last_resort(driver: Driver, clock: Any) -> None:
    """Whose key is dead is not tried, though all are benched."""
    failover(chain=[GROQ, OPENAI]).call(failing_first(ProviderError(401)))
    with pytest.raises(ChainExhaustedError):
        failover(chain=[OPENAI], attempts=2).call(Script({OPENAI: [down]}).__call__)
    script = Script({GROQ: ["groq"], OPENAI: ["openai"]})

    assert "openai" == driver.run(failover(chain=[GROQ, OPENAI]), script)
    assert [OPENAI] == script.calls


@over(DRIVERS)
def test_a_named_wait_that_is_not_over_is_respected_by_the_last_resort(
    driver: Driver, clock: Any
) -> None:
    """A provider that named a wait is not asked before it ends."""
    failover(chain=[GROQ, OPENAI]).call(failing_first(rate_limited(90)))
    script = Script({GROQ: ["answer"]})

    with pytest.raises(ChainExhaustedError):
        driver.run(failover(chain=[GROQ]), script)

    assert [] == script.calls


def test_a_last_resort_that_learns_of_a_dead_key_or_a_wait_notes_it(clock: Any) -> None:
    """An ordinary failure leaves the bench as it is; a new fact that the provider names does not."""
    for key, error, reason in (
        ("x/a", ProviderError(429, retry_after=200), "rate_limit"),
        ("y/a", down(), "overloaded"),
    ):
        failing(key, 5)
        before = {each.model: each.remaining for each in list_benched()}[key]
        with pytest.raises(ChainExhaustedError):
            failover(chain=key, attempts=1).call(scripted_call(error))
        after = {each.model: each for each in list_benched()}[key]
        assert reason == after.reason
        assert (200.0 if reason == "rate_limit" else before) == pytest.approx(after.remaining)


def scripted_call(error: Exception) -> Any:
    answers = scripted(error)

    def ask(target: Target) -> Any:
        return answers()

    return ask


# --- reraise ----------------------------------------------------------------------------------


@over(DRIVERS)
def test_reraise_lets_the_last_targets_own_error_leave(driver: Driver) -> None:
    """Instead of ChainExhaustedError the error of the last target leaves, the very object."""
    last = ProviderError(401)
    script = Script({GROQ: [lambda: ProviderError(402)], OPENAI: [lambda: last]})

    with pytest.raises(ProviderError) as caught:
        driver.run(failover(chain=[GROQ, OPENAI], reraise=True), script)

    assert last is caught.value
    assert [GROQ, OPENAI] == script.calls


def test_reraise_gives_the_very_error_that_was_raised() -> None:
    """Unchanged, with its own traceback, instead of a ChainExhaustedError."""
    first, last = down(), down()
    answers = scripted(first, last)

    with pytest.raises(ProviderError) as caught:
        failover(chain=[GROQ, OPENAI], attempts=1, reraise=True).call(lambda *, target: answers())

    assert caught.value is last


@over(DRIVERS)
def test_reraise_with_nothing_sent(driver: Driver) -> None:
    """When no target was called a rejection leaves."""
    bench_model(GROQ)

    with pytest.raises((BreakerOpenError, ChainExhaustedError)) as caught:
        driver.run(failover(chain=[GROQ], reraise=True), Script({GROQ: ["answer"]}))

    assert None is caught.value.__cause__ or isinstance(caught.value.__cause__, BreakerOpenError)


# --- observers --------------------------------------------------------------------------------


@over(DRIVERS)
def test_the_policys_observers_receive_its_calls(driver: Driver, clock: Any) -> None:
    """Each observer sees what happens in this policy's calls, in order."""
    first: list[Any] = []
    second: list[Any] = []
    script = Script({GROQ: [lambda: ProviderError(401)], OPENAI: ["answer"]})
    policy = failover(chain=[GROQ, OPENAI], observers=(first.append, second.append))

    driver.run(policy, script)

    types = [
        type(event)
        for event in first
        if type(event) in (AttemptFailed, TargetBenched, FailedOver, AttemptSucceeded)
    ]
    assert {AttemptFailed, TargetBenched, FailedOver, AttemptSucceeded} == set(types)
    assert AttemptFailed is types[0]
    assert AttemptSucceeded is types[-1]
    assert first == second


def test_the_observers_of_one_policy_hear_nothing_of_another() -> None:
    """Another policy's calls are not their business."""
    heard: list[Any] = []
    failover(chain=[GROQ], observers=[heard.append])

    failover(chain=[GROQ]).call(_answer)

    assert [] == heard


def test_the_policys_observers_receive_its_calls_only() -> None:
    """Also of the benches that its calls make."""
    mine: list[Event] = []

    def ask(target: Target) -> None:
        raise ProviderError(401)

    with pytest.raises(ChainExhaustedError):
        failover(chain=GROQ, observers=[mine.append]).call(ask)
    with pytest.raises(ChainExhaustedError):
        failover(chain="other/x").call(ask)

    assert {"AttemptFailed", "TargetBenched", "CallFailed"} == {
        type(event).__name__ for event in mine
    }
    assert {"groq", GROQ} == {event.target for event in mine}
    assert 1 == len({event.call_id for event in mine})


def test_an_observer_that_raises_harms_nothing() -> None:
    """The call is served all the same."""

    def broken(event: object) -> None:
        raise RuntimeError("observer")

    assert "answer" == failover(chain=[GROQ], observers=[broken]).call(_answer)


def test_a_failed_call_is_emitted_once(clock: Any) -> None:
    """CallFailed says how many attempts were made."""
    heard: list[Any] = []
    policy = failover(chain=[GROQ, OPENAI], attempts=2, observers=[heard.append])

    with pytest.raises(ChainExhaustedError):
        policy.call(Script({GROQ: [down], OPENAI: [down]}).__call__)

    assert [(4, "transient")] == [
        (event.attempts, event.kind) for event in heard if isinstance(event, CallFailed)
    ]


def test_a_skipped_target_is_emitted_and_is_no_failover() -> None:
    """A benched target is skipped, with a reason and without a FailedOver."""
    bench_model(GROQ)

    with testing.capture_events(TargetSkipped, FailedOver) as events:
        failover(chain=[GROQ, OPENAI]).call(_answer)

    assert [(TargetSkipped, GROQ)] == [(type(event), event.target) for event in events]
    assert "" != events[0].reason


# --- the policy -------------------------------------------------------------------------------


def test_policy_call_passes_arguments() -> None:
    """``policy.call(fn, *args, **kwargs)`` calls the function with a target and the arguments."""

    def ask(target: Target, prompt: str, *, loud: bool, attempt: Attempt) -> object:
        return (target.spec, prompt, loud, attempt.number)

    assert (GROQ, "why", True, 1) == failover(chain=[GROQ]).call(ask, "why", loud=True)


@on_both_loops
def test_policy_call_is_awaitable_if_the_function_is(backend: str) -> None:
    """A coroutine function gives something to await."""

    async def ask(target: Target, prompt: str) -> object:
        return (target.spec, prompt)

    async def main() -> object:
        return await failover(chain=[GROQ]).call(ask, "why")

    assert (GROQ, "why") == run_async(main, backend=backend)


def test_policy_call_fills_keyword_only_parameters_and_pins() -> None:
    """Injection by name and pinning work as in the decorator."""

    def ask(prompt: str, *, model: str = "", provider: str = "") -> object:
        return (prompt, provider)

    policy = failover(chain=[GROQ, OPENAI])

    assert ("why", "groq") == policy.call(ask, "why")
    assert ("why", "openai") == policy.call(ask, "why", model="gpt")


def test_using_gives_a_changed_copy() -> None:
    """The copy has the changes and all the rest; the policy itself stays as it was."""
    script = Script({GROQ: [lambda: ProviderError(400)], OPENAI: ["answer"]})
    policy = failover(chain=[GROQ, OPENAI])

    changed = policy.using(on_request_error="raise")

    assert isinstance(changed, Failover)
    assert policy is not changed
    with pytest.raises(ProviderError):
        changed.call(script.__call__)
    assert "answer" == policy.call(script.__call__)


def test_using_may_change_the_chain() -> None:
    """The chain is an option like the others."""
    assert OPENAI == failover(chain=[GROQ]).using(chain=[OPENAI]).call(
        lambda *, target=None: target.spec
    )


def test_using_on_a_decorated_function_gives_a_decorated_function() -> None:
    """``ask.using(...)`` is the same function under a changed policy."""

    @failover(chain=[GROQ, OPENAI])
    def ask(target: Target, prompt: str) -> str:
        """Ask a model."""
        raise ProviderError(400) if target.spec == GROQ else AssertionError("sent on")

    strict = ask.using(on_request_error="raise")

    with pytest.raises(ProviderError):
        strict("why")
    with pytest.raises(AssertionError):
        ask("why")
    assert ("ask", "Ask a model.") == (strict.__name__, strict.__doc__)
    assert ["prompt"] == list(inspect.signature(strict).parameters)


def test_a_policy_is_used_many_times() -> None:
    """One policy decorates many functions, each with its own behaviour."""
    policy = failover(chain=[GROQ])

    @policy
    def one(target: Target) -> int:
        return 1

    @policy
    def two(target: Target) -> int:
        return 2

    assert (1, 2) == (one(), two())


def test_a_policys_order_of_guards_is_deadline_first() -> None:
    """A limit on the whole call, its targets and its attempts may all be set at once."""
    policy = failover(
        chain=[GROQ, OPENAI], attempts=2, max_attempts=3, timeout=30, backoff=lambda n: 0
    )

    assert "answer" == policy.call(_answer)
