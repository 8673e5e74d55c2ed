"""Options of a policy, its loop, its errors and its traces."""

import asyncio
import pickle
from typing import Any

import pytest
import tenacity

from resilient_llm import (
    Attempt,
    AttemptFailed,
    BreakerOpenError,
    CallRejectedError,
    ChainExhaustedError,
    ConfigurationError,
    DeadlineExceededError,
    ErrorKind,
    Event,
    ResilientLLMError,
    ResponseRejectedError,
    Target,
    TargetBenched,
    Trace,
    Verdict,
    bench_model,
    breaker,
    failover,
    health,
    is_benched,
    list_benched,
)
from resilient_llm.testing import ascripted, capture_events, scripted
from tests.support.shapes import ProviderError, down, run_async

A, B = "groq/a", "openai/b"
SECRET = "sk-secret-prompt"


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
        failover(chain=A, **{option: value})
    assert isinstance(caught.value, ValueError)


def test_an_unknown_option_is_refused_with_those_that_exist() -> None:
    """`.using` lists what it takes."""
    with pytest.raises(ConfigurationError, match=r"retries.*attempts"):
        failover(chain=A).using(retries=3)  # type: ignore[call-arg]


def test_attempts_above_what_opens_the_breaker_is_a_warning() -> None:
    """Retries that the breaker will always cut short are told at decoration."""
    with pytest.warns(UserWarning, match="failures=5"):
        failover(chain=A, attempts=6)


def test_an_attempt_timeout_that_nothing_enforces_is_refused() -> None:
    """A synchronous function must be told its limit."""
    policy = failover(chain=A, attempt_timeout=1.0)

    with pytest.raises(ConfigurationError, match="Attempt"):
        policy(lambda *, target: None)

    @policy
    def told(target: Target, attempt: Attempt) -> float | None:
        return attempt.remaining

    assert 1.0 == told()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_attempt_timeout_cancels_and_blames_the_target(backend: str, clock: Any) -> None:
    """An attempt that takes too long is cut off, and the next target is asked."""
    import anyio

    @failover(chain=[A, B], attempt_timeout=3.0)
    async def ask(target: Target) -> str:
        if target.key == A:
            clock.advance(3.0)
            await anyio.sleep_forever()
        return target.key

    assert B == run_async(ask, backend=backend)
    assert (1, "timeout") == (health()[A].errors, health()[A].last_error.reason)  # type: ignore[union-attr]


def test_the_default_backoff_is_full_jitter(clock: Any) -> None:
    """Waits lie between zero and min(10, 0.2 * 2 ** (n - 1)), and differ."""
    breaker(A, failures=100, mode="metrics_only")
    answers = scripted(*[down() for _ in range(9)], "yes")

    failover(chain=A, attempts=10).call(lambda *, target: answers())

    ceilings = [min(10.0, 0.2 * 2**n) for n in range(9)]
    assert 9 == len(clock.sleeps) == len(set(clock.sleeps))
    assert all(
        0.0 <= slept <= ceiling for slept, ceiling in zip(clock.sleeps, ceilings, strict=True)
    )


def test_a_tenacity_wait_is_a_backoff(clock: Any) -> None:
    """Waits of tenacity, also added up, are asked with the number of the failed attempt."""
    answers = scripted(down(), down(), "yes")
    wait = tenacity.wait_incrementing(start=1, increment=2) + tenacity.wait_fixed(0.5)

    failover(chain=A, backoff=wait).call(lambda *, target: answers())

    assert [1.5, 3.5] == clock.sleeps


def test_a_function_is_a_backoff_and_nonsense_from_it_is_survived(clock: Any) -> None:
    """The function is asked per failed attempt; a NaN becomes the default's wait."""
    asked: list[int] = []
    answers = scripted(down(), down(), "yes")

    def backoff(number: int) -> float:
        asked.append(number)
        return 2.0 if number == 1 else float("nan")

    failover(chain=A, backoff=backoff).call(lambda *, target: answers())

    assert [1, 2] == asked
    assert 2.0 == clock.sleeps[0]
    assert 0.0 <= clock.sleeps[1] <= 0.4


def test_the_policys_cooldown_is_for_circuits_without_one(clock: Any) -> None:
    """It is the first bench of a target nobody set a cooldown for, also above max_cooldown."""
    breaker(B, cooldown=10)

    def ask(target: Target) -> None:
        raise down()

    with pytest.raises(ChainExhaustedError):
        failover(chain=[A, B], cooldown=400, attempts=2, backoff=lambda n: 0.0).call(ask)

    remaining = {each.model: each.remaining for each in list_benched()}
    assert 400 <= remaining[A] <= 440  # type: ignore[operator]
    assert 10 <= remaining[B] <= 11  # type: ignore[operator]


def test_a_strategy_orders_the_targets_of_each_call() -> None:
    """It is given the targets and gives them back in order; leaving one out is allowed, a stranger is not."""
    policy = failover(chain=[A, B], strategy=lambda targets: reversed(targets))

    assert B == policy.call(lambda *, target: target.key)
    assert A == policy.using(strategy=lambda targets: targets[:1]).call(
        lambda *, target: target.key
    )
    with pytest.raises(ConfigurationError, match="strategy"):
        policy.using(strategy=lambda targets: [Target("x/y")]).call(lambda *, target: target.key)


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


@pytest.mark.parametrize(
    ("said", "reason", "kind"),
    [
        (True, "rejected", ErrorKind.BAD_RESPONSE),
        ("empty", "empty", ErrorKind.BAD_RESPONSE),
        ("x" * 41, "rejected", ErrorKind.BAD_RESPONSE),
        (ErrorKind.TRANSIENT, "rejected", ErrorKind.TRANSIENT),
        (Verdict(ErrorKind.TRANSIENT, "garbled", retryable=False), "garbled", ErrorKind.TRANSIENT),
    ],
)
def test_reject_decides_about_an_answer(
    said: Any, reason: str, kind: ErrorKind, clock: Any
) -> None:
    """What it says is the verdict; the answer goes to nobody."""
    policy = failover(chain=[A, B], attempts=1, reject=lambda answer: said if answer == A else None)

    with capture_events(AttemptFailed) as failed:
        answer = policy.call(lambda *, target: target.key)

    assert (B, [(reason, kind)]) == (answer, [(event.reason, event.kind) for event in failed])
    assert (1 if kind is ErrorKind.TRANSIENT else 0) == health()[A].errors


def test_a_refused_answer_of_the_last_target_is_in_the_error() -> None:
    """ChainExhaustedError holds a ResponseRejectedError that names the target and the word."""
    with pytest.raises(ChainExhaustedError) as caught:
        failover(chain=A, reject=lambda answer: "too short").call(lambda *, target: "a")

    (member,) = caught.value.exceptions
    assert isinstance(member, ResponseRejectedError)
    assert (A, "too short", ErrorKind.BAD_RESPONSE) == (
        member.target,
        member.reason,
        caught.value.kind,
    )


def test_an_error_in_reject_is_the_callers_own() -> None:
    """It leaves unchanged and blames no target."""
    with pytest.raises(ZeroDivisionError):
        failover(chain=[A, B], reject=lambda answer: 1 / 0).call(lambda *, target: "a")

    assert 0 == health()[A].errors


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


def test_the_policys_observers_are_told_of_its_calls_only() -> None:
    """Also of the benches that its calls make."""
    mine: list[Event] = []

    def ask(target: Target) -> None:
        raise ProviderError(401)

    with pytest.raises(ChainExhaustedError):
        failover(chain=A, observers=[mine.append]).call(ask)
    with pytest.raises(ChainExhaustedError):
        failover(chain="other/x").call(ask)

    assert {"AttemptFailed", "TargetBenched", "CallFailed"} == {
        type(event).__name__ for event in mine
    }
    assert {"groq", A} == {event.target for event in mine}
    assert 1 == len({event.call_id for event in mine})


def test_reraise_lets_the_last_targets_own_error_leave() -> None:
    """Unchanged, with its own traceback, instead of a ChainExhaustedError."""
    first, last = down(), down()
    answers = scripted(first, last)

    with pytest.raises(ProviderError) as caught:
        failover(chain=[A, B], attempts=1, reraise=True).call(lambda *, target: answers())

    assert caught.value is last


# The loop.


def test_the_loop_tries_the_next_after_an_error(clock: Any) -> None:
    """The body is the attempt; its error stays inside while there is another try."""
    seen: list[tuple[str, int]] = []
    for attempt in failover(chain=[A, B], attempts=2, backoff=lambda n: 1.0):
        with attempt as target:
            seen.append((target.key, attempt.number))
            if target.key == A:
                raise down()

    assert ([(A, 1), (A, 2), (B, 1)], [1.0]) == (seen, clock.sleeps)


def test_the_loop_may_be_left_and_runs_twice_at_once() -> None:
    """`break`, `return` and two loops over one policy are fine."""
    policy = failover(chain=[A, B])

    def leave() -> str:
        for attempt in policy:
            with attempt as target:
                return target.key
        raise AssertionError

    for outer in policy:
        with outer as target:
            inner = [leave() for _ in range(2)]
            break

    assert ([A, A], A, 3) == (inner, target.key, health()[A].total)


def test_the_loops_result_is_looked_at() -> None:
    """`attempt.result` runs reject, and a refused one tries the next."""
    for attempt in failover(chain=[A, B], reject=lambda answer: answer == A):
        with attempt as target:
            attempt.result = target.key

    assert B == target.key


def test_the_loop_ends_in_the_chains_error() -> None:
    """When nobody answers the loop raises ChainExhaustedError, also in async code."""

    async def main() -> None:
        async for attempt in failover(chain=[A, B], attempts=1):
            async with attempt:
                raise down()

    with pytest.raises(ChainExhaustedError) as caught:
        asyncio.run(main())

    assert 2 == len(caught.value.exceptions)


def test_an_attempt_must_be_entered() -> None:
    """A loop that forgets `with attempt` is told so instead of asking nobody."""
    with pytest.raises(RuntimeError, match="with attempt"):
        for _attempt in failover(chain=[A, B]):
            pass


# Errors.


def exhausted(*errors: Exception, chain: Any = (A, B), **options: Any) -> ChainExhaustedError:
    answers = scripted(*errors)
    with pytest.raises(ChainExhaustedError) as caught:
        failover(chain=list(chain), attempts=1, **options).call(lambda *, target: answers())
    return caught.value


def test_the_chains_error_has_one_member_per_target_in_order(clock: Any) -> None:
    """Each with a note; skipped ones as the rejection that says why."""
    first, last = ProviderError(503), ProviderError(422)
    bench_model("mistral/c", 60, reason="maintenance")

    error = exhausted(first, last, chain=(A, "mistral/c", B))

    assert (first, last) == (error.exceptions[0], error.exceptions[2])
    assert isinstance(error.exceptions[1], BreakerOpenError)
    assert ["maintenance", 60.0] == [error.exceptions[1].reason, error.exceptions[1].retry_after]
    assert all(member.__notes__ for member in error.exceptions)
    assert (last, last, None) == (error.last_error, error.__cause__, error.kind)
    assert [(A, 1), ("mistral/c", 0), (B, 1)] == [
        (each.target, each.number) for each in error.attempts
    ]


def test_the_chains_error_says_when_another_try_is_worthwhile(clock: Any) -> None:
    """The soonest end of a bench; zero when a target may be asked at once."""
    assert (
        pytest.approx(5.0)
        == exhausted(
            ProviderError(429, retry_after=9), ProviderError(429, retry_after=5)
        ).retry_after
    )
    assert 0.0 == exhausted(down(), down(), chain=("x/y", "y/z")).retry_after


def test_every_target_saying_the_same_auth_error_is_pointed_out() -> None:
    """A note says to look at the credentials."""
    error = exhausted(ProviderError(401), ProviderError(401))

    assert ErrorKind.AUTH_DEAD == error.kind
    assert any("credentials" in note for note in error.__notes__)


def test_the_chains_error_is_an_exception_group() -> None:
    """except*, split and derive keep its facts."""
    error = exhausted(ProviderError(503), TimeoutError())
    caught: list[type] = []
    try:
        raise error
    except* TimeoutError as group:
        caught.append(type(group))
    except* ProviderError as group:
        caught.append(type(group))
    matched, rest = error.split(TimeoutError)

    assert [ChainExhaustedError, ChainExhaustedError] == caught
    assert isinstance(matched, ChainExhaustedError)
    assert isinstance(rest, ChainExhaustedError)
    assert error.attempts == matched.attempts == rest.attempts


def test_a_pickle_holds_no_foreign_error() -> None:
    """Members that are not ours come back as their record: class, kind, reason, status."""
    error = exhausted(ProviderError(503, message=SECRET), ProviderError(401, message=SECRET))

    data = pickle.dumps(error)
    back = pickle.loads(data)

    assert SECRET.encode() not in data
    assert [
        "ProviderError: transient, overloaded, status 503",
        "ProviderError: auth_dead, invalid_credentials, status 401",
    ] == [str(member) for member in back.exceptions]
    assert (error.attempts, error.kind, error.retry_after) == (
        back.attempts,
        back.kind,
        back.retry_after,
    )


def test_our_own_errors_pickle_and_belong_together() -> None:
    """One tree, and each of them survives a pickle with its facts."""
    errors: list[ResilientLLMError] = [
        BreakerOpenError(A, "overloaded", 3.0),
        CallRejectedError(A, "max_attempts"),
        ResponseRejectedError(A, "empty"),
        DeadlineExceededError(5.0),
        ConfigurationError("no"),
    ]

    for error in errors:
        back = pickle.loads(pickle.dumps(error))
        assert (type(error), str(error), vars(error)) == (type(back), str(back), vars(back))
    assert issubclass(BreakerOpenError, CallRejectedError)
    assert issubclass(DeadlineExceededError, TimeoutError)


def test_no_prompt_key_or_text_of_a_provider_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Messages, events and log lines hold none of them, whatever goes wrong."""
    caplog.set_level("DEBUG", logger="resilient_llm")

    @failover(chain=[Target(A, params={"api_key": SECRET}), B], attempts=2, backoff=lambda n: 0.0)
    def ask(target: Target, prompt: str) -> str:
        raise ProviderError(503, message=f"{prompt} {SECRET}")

    with capture_events() as events, pytest.raises(ChainExhaustedError) as caught:
        ask(SECRET)

    told = [str(caught.value), repr(caught.value.attempts), *map(repr, events), *caplog.messages]
    told += [repr(record.__dict__) for record in caplog.records]
    told += [note for member in caught.value.exceptions for note in member.__notes__]
    assert [] == [text for text in told if SECRET in text]
    assert repr(Target(A, params={"api_key": SECRET})) == "Target('groq/a')"


def test_an_inner_guards_rejection_moves_on_and_blames_nobody() -> None:
    """A BreakerOpenError of a guard inside the function is `rejected`, counted where it was raised."""
    bench_model("inner")

    @failover(chain=[A, B])
    def ask(target: Target) -> str:
        if target.key == A:
            with breaker("inner"):
                pass
        return target.key

    assert (B, 0) == (ask(), health()[A].errors)


def test_an_error_that_passes_two_guards_of_a_key_is_charged_once(clock: Any) -> None:
    """And charged anew when the same error is raised again."""
    error = down()

    @failover(chain=A, attempts=1, reraise=True)
    def ask(target: Target) -> None:
        with breaker(A):
            raise error

    for _ in range(2):
        with pytest.raises(ProviderError):
            ask()

    assert (2, 2) == (health()[A].errors, health()[A].consecutive_failures)


def test_a_guard_inside_a_probe_shares_its_place(clock: Any) -> None:
    """A half-open key whose function guards it again recovers instead of refusing itself for ever."""
    answers = scripted(down(), down(), "yes")

    @failover(chain=A, attempts=2, backoff=lambda n: 0.0)
    def ask(target: Target) -> str:
        with breaker(A), breaker("groq"):
            return answers()

    with pytest.raises(ChainExhaustedError):
        ask()
    clock.advance(40)

    assert ("yes", "closed") == (ask(), breaker(A).state)


# Traces.


def test_a_trace_tells_what_became_of_a_call(clock: Any) -> None:
    """Who served it, what was tried and skipped, in order."""
    bench_model(A)
    answers = ascripted(down(), "yes")

    @failover(chain=[A, B], backoff=lambda n: 1.0)
    async def ask(target: Target) -> str:
        clock.advance(0.5)
        return await answers()

    async def main() -> Trace:
        with Trace(call_id="mine") as trace:
            await asyncio.create_task(ask())
        return trace

    trace = asyncio.run(main())
    (call,) = trace.calls
    assert (B, "mine", B) == (trace.served_by, call.call_id, call.served_by)
    assert [(A, 0, "benched by hand"), (B, 1, "overloaded"), (B, 2, "")] == [
        (each.target, each.number, each.reason) for each in call.attempts
    ]
    assert [0.0, 0.5, 0.5] == [each.seconds for each in call.attempts]


def test_a_trace_of_several_calls_has_no_single_server() -> None:
    """`.served_by` is for exactly one call; calls outside are not collected."""

    @failover(chain=A)
    def ask(target: Target) -> str:
        return target.key

    ask()
    with Trace() as outer:
        ask()
        with Trace() as inner:
            ask()
    ask()

    assert (2, 1, A) == (len(outer.calls), len(inner.calls), inner.served_by)
    with pytest.raises(RuntimeError, match="2 calls"):
        _ = outer.served_by


def test_a_failed_call_is_traced_and_events_carry_its_name() -> None:
    """`served_by` is None, and the events name the same call."""
    with (
        Trace(call_id="lost") as trace,
        capture_events(AttemptFailed, TargetBenched) as events,
        pytest.raises(ChainExhaustedError),
    ):
        failover(chain=A).call(scripted_401)

    assert (None, {"lost"}, True) == (
        trace.served_by,
        {event.call_id for event in events},
        is_benched(A),
    )


def scripted_401(target: Target) -> None:
    raise ProviderError(401)
