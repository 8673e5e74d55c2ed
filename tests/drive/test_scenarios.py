"""One table of scenarios, run through every driver: same decisions, same events."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from resilient_llm import (
    AttemptFailed,
    AttemptSucceeded,
    CallFailed,
    ChainExhaustedError,
    ErrorKind,
    FailedOver,
    RetryScheduled,
    RetryStopped,
    Target,
    TargetBenched,
    TargetSkipped,
    Trace,
    UnknownError,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    list_benched,
    observe,
)
from tests.support.ways import GROQ, MISTRAL, OPENAI, ProviderError, down, run_async


class OddError(Exception):
    """An error that no rule knows."""


@dataclass
class Scenario:
    """What the targets do, and what is expected of the call.

    ``does`` holds per target what each of its calls gives: a text to answer, an error to raise.
    ``events`` holds each event as its type's name, its target, and the field in `FIELD_OF`.
    """

    does: dict[str, list[Any]]
    gives: Any
    events: list[tuple[str, str, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    before: Callable[[], object] = lambda: None
    waits: list[float] = field(default_factory=list)
    chain: Any = (GROQ, OPENAI)


def _open(*keys: str) -> None:
    for key in keys:
        for _ in range(5):
            with contextlib.suppress(ProviderError), breaker(key):
                raise down()


SCENARIOS = {
    "the first answers": Scenario({GROQ: ["yes"]}, "yes", [("AttemptSucceeded", GROQ, 1)]),
    "a retry answers": Scenario(
        {GROQ: [down(), "yes"]},
        "yes",
        [
            ("AttemptFailed", GROQ, "overloaded"),
            ("RetryScheduled", GROQ, 2),
            ("AttemptSucceeded", GROQ, 2),
        ],
        waits=[1.0],
        chain=(GROQ,),
    ),
    "the next answers": Scenario(
        {GROQ: [down(), down()], OPENAI: ["yes"]},
        "yes",
        [
            ("AttemptFailed", GROQ, "overloaded"),
            ("RetryScheduled", GROQ, 2),
            ("AttemptFailed", GROQ, "overloaded"),
            ("RetryStopped", GROQ, "attempts"),
            ("TargetBenched", GROQ, "exhausted 2/2"),
            ("FailedOver", GROQ, OPENAI),
            ("AttemptSucceeded", OPENAI, 1),
        ],
        {"attempts": 2},
        waits=[1.0],
    ),
    "a rate limit moves on at once": Scenario(
        {GROQ: [ProviderError(429, retry_after=20)], OPENAI: ["yes"]},
        "yes",
        [
            ("AttemptFailed", GROQ, "rate_limit"),
            ("TargetBenched", GROQ, "rate_limited"),
            ("FailedOver", GROQ, OPENAI),
            ("AttemptSucceeded", OPENAI, 1),
        ],
    ),
    "a rate limit is waited for when no other target is live": Scenario(
        {GROQ: [ProviderError(429, retry_after=20), "yes"]},
        "yes",
        [
            ("AttemptFailed", GROQ, "rate_limit"),
            ("TargetBenched", GROQ, "rate_limited"),
            ("RetryScheduled", GROQ, 2),
            ("AttemptSucceeded", GROQ, 2),
        ],
        waits=[20.0],
        chain=(GROQ,),
    ),
    "a wait that does not fit is not begun": Scenario(
        {GROQ: [ProviderError(429, retry_after=90)]},
        ErrorKind.RATE_LIMITED,
        [
            ("AttemptFailed", GROQ, "rate_limit"),
            ("TargetBenched", GROQ, "rate_limited"),
            ("RetryStopped", GROQ, "hint"),
            ("CallFailed", GROQ, 1),
        ],
        chain=(GROQ,),
    ),
    "a dead key benches and moves on": Scenario(
        {GROQ: [ProviderError(401)], OPENAI: ["yes"]},
        "yes",
        [
            ("AttemptFailed", GROQ, "invalid_credentials"),
            ("TargetBenched", "groq", "auth_dead"),
            ("FailedOver", GROQ, OPENAI),
            ("AttemptSucceeded", OPENAI, 1),
        ],
    ),
    "a server out of memory is benched": Scenario(
        {GROQ: [MemoryError()], OPENAI: ["yes"]},
        "yes",
        [
            ("AttemptFailed", GROQ, "out_of_memory"),
            ("TargetBenched", GROQ, "memory_pressure"),
            ("FailedOver", GROQ, OPENAI),
            ("AttemptSucceeded", OPENAI, 1),
        ],
    ),
    "a server out of memory is only told of if asked": Scenario(
        {GROQ: [MemoryError()], OPENAI: ["yes"]},
        "yes",
        [
            ("AttemptFailed", GROQ, "out_of_memory"),
            ("FailedOver", GROQ, OPENAI),
            ("AttemptSucceeded", OPENAI, 1),
        ],
        before=lambda: configure(on_memory_pressure="warn"),
    ),
    "a server out of memory that is only told of is not retried": Scenario(
        {GROQ: [MemoryError(), "no"]},
        ErrorKind.MEMORY_PRESSURE,
        [("AttemptFailed", GROQ, "out_of_memory"), ("CallFailed", GROQ, 1)],
        before=lambda: configure(on_memory_pressure="warn"),
        chain=(GROQ,),
    ),
    "a server out of memory is retried if asked": Scenario(
        {GROQ: [MemoryError(), MemoryError()], OPENAI: ["yes"]},
        "yes",
        [
            ("AttemptFailed", GROQ, "out_of_memory"),
            ("RetryScheduled", GROQ, 2),
            ("AttemptFailed", GROQ, "out_of_memory"),
            ("RetryStopped", GROQ, "attempts"),
            ("TargetBenched", GROQ, "exhausted 2/2"),
            ("FailedOver", GROQ, OPENAI),
            ("AttemptSucceeded", OPENAI, 1),
        ],
        {"attempts": 2},
        before=lambda: configure(on_memory_pressure="off"),
        waits=[1.0],
    ),
    "all out of memory: waited for": Scenario(
        {GROQ: ["yes"]},
        "yes",
        [
            ("TargetSkipped", GROQ, "out_of_memory"),
            ("TargetSkipped", OPENAI, "out_of_memory"),
            ("AttemptSucceeded", GROQ, 1),
        ],
        {"when_all_benched": "wait"},
        before=lambda: (
            configure(memory_pressure_cooldown=10),
            *(breaker(key).record(MemoryError(), 0.0) for key in (GROQ, OPENAI)),
        ),
        waits=[1.0] * 10,
    ),
    "a timeout moves on while another is live": Scenario(
        {GROQ: [TimeoutError()], OPENAI: ["yes"]},
        "yes",
        [
            ("AttemptFailed", GROQ, "timeout"),
            ("FailedOver", GROQ, OPENAI),
            ("AttemptSucceeded", OPENAI, 1),
        ],
    ),
    "a timeout is tried again when no other target is live": Scenario(
        {GROQ: [TimeoutError(), "yes"]},
        "yes",
        [
            ("AttemptFailed", GROQ, "timeout"),
            ("RetryScheduled", GROQ, 2),
            ("AttemptSucceeded", GROQ, 2),
        ],
        waits=[1.0],
        chain=(GROQ,),
    ),
    "a wrong request tries the next": Scenario(
        {GROQ: [ProviderError(422)], OPENAI: ["yes"]},
        "yes",
        [
            ("AttemptFailed", GROQ, "invalid_request"),
            ("FailedOver", GROQ, OPENAI),
            ("AttemptSucceeded", OPENAI, 1),
        ],
    ),
    "a wrong request is raised if asked": Scenario(
        {GROQ: [ProviderError(422)], OPENAI: ["no"]},
        ProviderError,
        [("AttemptFailed", GROQ, "invalid_request"), ("CallFailed", GROQ, 1)],
        {"on_request_error": "raise"},
    ),
    "a bug of the caller's is raised": Scenario(
        {GROQ: [TypeError("bug")], OPENAI: ["no"]},
        TypeError,
        [("AttemptFailed", GROQ, "caller_bug"), ("CallFailed", GROQ, 1)],
    ),
    "an unknown error tries the next": Scenario(
        {GROQ: [OddError()], OPENAI: ["yes"]},
        "yes",
        [
            ("UnknownError", GROQ, "OddError"),
            ("AttemptFailed", GROQ, "unclassified"),
            ("FailedOver", GROQ, OPENAI),
            ("AttemptSucceeded", OPENAI, 1),
        ],
    ),
    "an unknown error is raised if asked": Scenario(
        {GROQ: [OddError()], OPENAI: ["no"]},
        OddError,
        [
            ("UnknownError", GROQ, "OddError"),
            ("AttemptFailed", GROQ, "unclassified"),
            ("CallFailed", GROQ, 1),
        ],
        {"on_unknown": "raise"},
    ),
    "an unknown error is retried if asked": Scenario(
        {GROQ: [OddError(), "yes"]},
        "yes",
        [
            ("UnknownError", GROQ, "OddError"),
            ("AttemptFailed", GROQ, "unclassified"),
            ("RetryScheduled", GROQ, 2),
            ("AttemptSucceeded", GROQ, 2),
        ],
        {"on_unknown": "transient"},
        waits=[1.0],
        chain=(GROQ,),
    ),
    "a refused answer tries the next": Scenario(
        {GROQ: ["bad"], OPENAI: ["yes"]},
        "yes",
        [
            ("AttemptFailed", GROQ, "too short"),
            ("FailedOver", GROQ, OPENAI),
            ("AttemptSucceeded", OPENAI, 1),
        ],
        {"reject": lambda answer: "too short" if answer == "bad" else None},
    ),
    "the most attempts of a call are kept": Scenario(
        {GROQ: [down()], OPENAI: [down()]},
        None,
        [
            ("AttemptFailed", GROQ, "overloaded"),
            ("FailedOver", GROQ, OPENAI),
            ("AttemptFailed", OPENAI, "overloaded"),
            ("TargetSkipped", MISTRAL, "max_attempts"),
            ("CallFailed", OPENAI, 2),
        ],
        {"attempts": 1, "max_attempts": 2},
        chain=(GROQ, OPENAI, MISTRAL),
    ),
    "a benched target is passed over": Scenario(
        {OPENAI: ["yes"]},
        "yes",
        [("TargetSkipped", GROQ, "maintenance"), ("AttemptSucceeded", OPENAI, 1)],
        before=lambda: bench_model(GROQ, reason="maintenance"),
    ),
    "all benched: each is tried once": Scenario(
        {GROQ: [down()], OPENAI: [down()]},
        ErrorKind.TRANSIENT,
        [
            ("TargetSkipped", GROQ, "overloaded"),
            ("TargetSkipped", OPENAI, "overloaded"),
            ("AttemptFailed", GROQ, "overloaded"),
            ("FailedOver", GROQ, OPENAI),
            ("AttemptFailed", OPENAI, "overloaded"),
            ("CallFailed", OPENAI, 2),
        ],
        before=lambda: (breaker(GROQ, cooldown=10), _open(GROQ, OPENAI)),
    ),
    "all benched: no target is called if the policy says so": Scenario(
        {},
        ErrorKind.REJECTED,
        [
            ("TargetSkipped", GROQ, "overloaded"),
            ("TargetSkipped", OPENAI, "overloaded"),
            ("CallFailed", OPENAI, 0),
        ],
        {"when_all_benched": "raise"},
        before=lambda: _open(GROQ, OPENAI),
    ),
    "all benched: waited for": Scenario(
        {GROQ: ["yes"]},
        "yes",
        [
            ("TargetSkipped", GROQ, "benched by hand"),
            ("TargetSkipped", OPENAI, "benched by hand"),
            ("AttemptSucceeded", GROQ, 1),
        ],
        {"when_all_benched": "wait"},
        before=lambda: (bench_model(GROQ, 2.5), bench_model(OPENAI, 5)),
        waits=[1.0, 1.0, 0.5],
    ),
    "a safety refusal is raised": Scenario(
        {GROQ: [ProviderError(400)], OPENAI: ["no"]},
        ProviderError,
        [("AttemptFailed", GROQ, "content_policy"), ("CallFailed", GROQ, 1)],
        {"classify": lambda error: _verdict("content_policy")},
    ),
    "a request too long goes to a larger window": Scenario(
        {GROQ: [ProviderError(400)], MISTRAL: ["yes"]},
        "yes",
        [
            ("AttemptFailed", GROQ, "context_length_exceeded"),
            ("TargetSkipped", OPENAI, "context_window"),
            ("FailedOver", GROQ, MISTRAL),
            ("AttemptSucceeded", MISTRAL, 1),
        ],
        {"classify": lambda error: _verdict("context_length_exceeded")},
        chain=(Target(GROQ, context_window=8_000), OPENAI, Target(MISTRAL, context_window=128_000)),
    ),
}


def _verdict(reason: str) -> Any:
    from resilient_llm import Verdict

    return Verdict(ErrorKind.REQUEST_SPECIFIC, reason)


class Play:
    """One run of a scenario: a provider that follows the script, and what was heard."""

    def __init__(self, scenario: Scenario) -> None:
        self.script = {key: list(outcomes) for key, outcomes in scenario.does.items()}
        self.policy = failover(
            **{"chain": scenario.chain, "backoff": lambda number: 1.0, **scenario.options}
        )

    def outcome(self, target: Target) -> Any:
        outcome = self.script[target.key].pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def by_decorator(play: Play) -> Any:
    @play.policy
    def ask(target: Target) -> Any:
        return play.outcome(target)

    return ask()


def by_call(play: Play) -> Any:
    def ask(target: Target) -> Any:
        return play.outcome(target)

    return play.policy.call(ask)


def by_loop(play: Play) -> Any:
    result = None
    for attempt in play.policy:
        with attempt as target:
            result = attempt.result = play.outcome(target)
    return result


def by_async_decorator(backend: str) -> Callable[[Play], Any]:
    def run(play: Play) -> Any:
        @play.policy
        async def ask(target: Target) -> Any:
            return play.outcome(target)

        return run_async(ask, backend=backend)

    return run


def by_async_loop(backend: str) -> Callable[[Play], Any]:
    def run(play: Play) -> Any:
        async def main() -> Any:
            result = None
            async for attempt in play.policy:
                async with attempt as target:
                    result = attempt.result = play.outcome(target)
            return result

        return run_async(main, backend=backend)

    return run


def by_awaitable(play: Play) -> Any:
    @play.policy
    def ask(target: Target) -> Any:
        async def answer() -> Any:
            return play.outcome(target)

        return answer()

    async def main() -> Any:
        return await ask()

    return run_async(main)


DRIVERS: dict[str, Callable[[Play], Any]] = {
    "sync": by_decorator,
    "call": by_call,
    "loop": by_loop,
    "asyncio": by_async_decorator("asyncio"),
    "trio": by_async_decorator("trio"),
    "loop-asyncio": by_async_loop("asyncio"),
    "loop-trio": by_async_loop("trio"),
    "awaitable": by_awaitable,
}
FIELD_OF = {
    AttemptSucceeded: "number",
    AttemptFailed: "reason",
    RetryScheduled: "number",
    RetryStopped: "reason",
    TargetSkipped: "reason",
    TargetBenched: "trigger",
    FailedOver: "to_target",
    CallFailed: "attempts",
    UnknownError: "type_name",
}


def perform(driver: Callable[[Play], Any], play: Play) -> Any:
    """Return the answer; the kind of a ChainExhaustedError, or the class of another error."""
    try:
        return driver(play)
    except ChainExhaustedError as error:
        return error.kind
    except Exception as error:  # what leaves is compared by its class
        return type(error)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_driver_decides_and_emits_the_same(name: str, driver: str, clock: Any) -> None:
    """Result, events, waits and calls are those of the table, whatever drives the call flow."""
    scenario = SCENARIOS[name]
    scenario.before()
    play = Play(scenario)
    events: list[tuple[str, str, Any]] = []
    stop = observe(
        lambda event: events.append(
            (type(event).__name__, event.target, getattr(event, FIELD_OF[type(event)]))
        ),
        *FIELD_OF,
    )

    result = perform(DRIVERS[driver], play)
    stop()

    assert scenario.gives == result
    assert scenario.events == events
    assert scenario.waits == clock.sleeps
    assert [] == [key for key, left in play.script.items() if left and "no" not in left]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_inlined_first_attempt_decides_alike(name: str, clock: Any) -> None:
    """A wrapper that makes the first attempt itself gives the same result, benches and counts."""

    def run(*, inlined: bool) -> Any:
        from resilient_llm.testing import isolated

        with isolated():
            scenario = SCENARIOS[name]
            ready = False
            play = Play(scenario)

            @play.policy
            def ask(target: Target) -> Any:
                return play.outcome(target) if ready else "yes"

            ask()
            scenario.before()
            ready = True
            with contextlib.nullcontext() if inlined else Trace():
                result = perform(lambda play: ask(), play)
            numbers = {key: (each.total, each.errors, each.state) for key, each in health().items()}
            return result, numbers, [(each.model, each.reason) for each in list_benched()]

    assert run(inlined=False) == run(inlined=True)
