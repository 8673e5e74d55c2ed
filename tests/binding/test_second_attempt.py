"""A call that moves on without a call flow does what it does with one."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from resilient_llm import (
    AttemptFailed,
    AttemptSucceeded,
    CallFailed,
    ConfigurationError,
    DeadlineExceededError,
    ErrorKind,
    Event,
    FailedOver,
    HealthChanged,
    RetryStopped,
    Target,
    TargetBenched,
    TargetSkipped,
    TargetUnbenched,
    UnknownError,
    Verdict,
    bench_model,
    classify,
    configure,
    failover,
    observe,
)
from resilient_llm._binding.caller import Caller
from resilient_llm._binding.second_attempt import SecondAttempt
from resilient_llm._core.circuit import triggers
from resilient_llm._core.circuit.outbox import Fact
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import fake_clock, isolated
from tests.binding.test_paths_agree import found
from tests.support.ways import ProviderError, run_async

HEARD = (
    CallFailed, HealthChanged, RetryStopped, TargetBenched, TargetSkipped, TargetUnbenched,
    UnknownError,
)  # fmt: skip
"""All events but those for which the call flow is needed."""
CHAIN = ("groq/a", "openai/b", "mistral/c")


class UnfitError(Exception):
    """An error of which a rule of the application says what it means."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def unfit(error: BaseException) -> Verdict | None:
    """Return what the error says that it means."""
    if isinstance(error, UnfitError):
        return Verdict(ErrorKind.REQUEST_SPECIFIC, error.reason)
    return None


ERRORS: dict[str, Callable[[], BaseException]] = {
    "bad request": lambda: ProviderError(422),
    "refused by a filter": lambda: UnfitError("content_policy"),
    "too long": lambda: UnfitError("context_length_exceeded"),
    "overloaded": lambda: ProviderError(503),
    "overloaded, with a wait": lambda: ProviderError(503, retry_after=7),
    "rate limit": lambda: ProviderError(429),
    "rate limit, with a wait": lambda: ProviderError(429, retry_after=7),
    "dead key": lambda: ProviderError(401),
    "out of memory": MemoryError,
    "refused connection": ConnectionRefusedError,
    "unknown": RuntimeError,
    "bug": TypeError,
    "interrupt": KeyboardInterrupt,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "one attempt": {"attempts": 1},
    "three attempts": {"attempts": 3, "backoff": lambda _: 0.5},
    "short cooldown": {"attempts": 1, "cooldown": 3.0},
    "errors raised": {"attempts": 1, "on_request_error": "raise", "on_unknown": "raise"},
    "filters raised": {"attempts": 1, "on_content_policy": "raise"},
    "the last error raised": {"attempts": 1, "reraise": True},
    "two attempts in all": {"attempts": 1, "max_attempts": 2},
    "one attempt in all": {"attempts": 1, "max_attempts": 1},
    "all benched": {"attempts": 1, "when_all_benched": "raise"},
    "answers refused": {"attempts": 1, "reject": lambda answer: answer is None},
}
SECOND: dict[str, Callable[[], BaseException | None]] = {
    "answers": lambda: None,
    "fails": lambda: ProviderError(503),
    "has a bug": TypeError,
    "is interrupted": KeyboardInterrupt,
}


def described(error: BaseException) -> tuple[Any, ...]:
    """Return the type of an error, its words, causes, members and attempts."""
    return (
        type(error),
        str(error),
        None if error.__cause__ is None else described(error.__cause__),
        None if error.__context__ is None else type(error.__context__),
        [tuple(each) for each in getattr(error, "attempts", ())],
        [str(each) for each in getattr(error, "exceptions", ())],
        getattr(error, "__notes__", []),
    )


MEMORY = ("skip", "warn", "off")


def play(
    options: dict[str, Any],
    first: Callable[[], BaseException],
    second: Callable[[], BaseException | None],
    *,
    is_async: bool,
    heard: tuple[type[Event], ...] = HEARD,
    chain: tuple[str, ...] = CHAIN,
    benched: tuple[str, ...] = (),
    memory: Any = None,
) -> list[Any]:
    """Make calls whose first live target fails; return all that can be seen from outside.

    With a setting for memory pressure the first call is answered, so that also the next one, whose
    failure may bench the target, moves on from the wrapper.
    """
    seen: list[Any] = []
    failing, *others = (key for key in chain if key not in benched)
    names: dict[str, int] = {}

    def tell(event: Any) -> None:
        values = dataclasses.asdict(event)
        del values["at"]
        values.pop("until", None)
        # Which call it was, not how that was called.
        values["call_id"] = names.setdefault(values["call_id"], len(names))
        seen.append((type(event), values))

    with isolated(), fake_clock() as clock:
        configure(logging=False, breakers={"*": {"failures": 3, "cooldown": 10.0}})
        if memory is not None:
            configure(on_memory_pressure=memory, memory_pressure_cooldown=10.0)
        observe(tell, *heard)
        for key in benched:
            bench_model(key)
        classify.rule(unfit)

        def body(target: Target, prompt: str, *, more: int = 0) -> Any:
            clock.advance(0.25)
            seen.append((target.key, prompt, more))
            if target.key == failing and (more or memory is None):
                raise first()
            error = second() if [target.key] == others[:1] and more % 2 else None
            if error is not None:
                raise error
            return None if more == 2 else target.key

        async def abody(target: Target, prompt: str, *, more: int = 0) -> Any:
            return body(target, prompt, more=more)

        ask: Any = failover(chain, **options)(abody if is_async else body)
        for number in range(5):
            try:
                if is_async:
                    seen.append(run_async(lambda n=number: ask("hi", more=n), backend="asyncio"))
                else:
                    seen.append(ask("hi", more=number))
            except BaseException as error:
                seen.append(described(error))
            seen.append([found(key) for key in (*CHAIN, "groq", "openai")])
            clock.advance(1.0)
        seen += [
            (provider, [n for _, n in counts.first], [n for _, n in counts.retries])
            for provider, counts in runtime.budgets._counts.items()
        ]
    return seen


def both(monkeypatch: pytest.MonkeyPatch, *args: Any, **kwargs: Any) -> tuple[list[Any], list[Any]]:
    """Return what `play` gives without a call flow, where that is possible, and with one."""
    without = play(*args, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(Caller, "_moved_on", lambda self, first, _, error: self._failed(first, error))
        return without, play(*args, **kwargs)


@pytest.fixture(autouse=True)
def without_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "JITTER", 0.0)


@pytest.fixture
def moved_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Collect the calls that moved on without a call flow."""
    moved: list[object] = []
    init = SecondAttempt.__init__

    def noted(self: SecondAttempt, *args: Any) -> None:
        init(self, *args)
        moved.append(None)

    monkeypatch.setattr(SecondAttempt, "__init__", noted)
    return moved


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("second", SECOND)
@pytest.mark.filterwarnings("ignore:attempts=")
def test_calls_with_and_without_a_flow_look_alike(
    options: str, second: str, is_async: bool, moved_on: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Answers, errors, events, health and retry budgets are the same for every kind of error."""
    for name, error in ERRORS.items():
        one, other = both(monkeypatch, OPTIONS[options], error, SECOND[second], is_async=is_async)
        assert one == other, name
    assert moved_on or options == "one attempt in all"


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("second", SECOND)
@pytest.mark.filterwarnings("ignore:attempts=")
def test_memory_pressure_means_the_same_with_and_without_a_flow(
    second: str, memory: str, is_async: bool, moved_on: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Under each setting, for every policy."""
    for name, options in OPTIONS.items():
        one, other = both(
            monkeypatch, options, MemoryError, SECOND[second], is_async=is_async, memory=memory
        )
        assert one == other, name
    assert moved_on


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    "circumstances",
    [
        pytest.param({"benched": CHAIN[:1]}, id="the first benched"),
        pytest.param({"benched": CHAIN[1:2]}, id="the second benched"),
        pytest.param({"benched": CHAIN[1:]}, id="all others benched"),
        pytest.param({"chain": CHAIN[:1]}, id="no other"),
        pytest.param({"chain": ("groq/a", "groq/b", "openai/c")}, id="one provider"),
        pytest.param({"heard": ()}, id="all events heard"),
        pytest.param({"heard": (AttemptFailed,)}, id="failures heard"),
        pytest.param({"heard": (FailedOver,)}, id="failovers heard"),
        pytest.param({"heard": (AttemptSucceeded,)}, id="answers heard"),
    ],
)
@pytest.mark.filterwarnings("ignore:attempts=")
def test_they_look_alike_in_all_circumstances(
    options: str, circumstances: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if targets are benched, or missing, or an observer listens to more."""
    for name, error in ERRORS.items():
        one, other = both(
            monkeypatch, OPTIONS[options], error, SECOND["fails"], is_async=False, **circumstances
        )
        assert one == other, name


def test_the_failed_attempt_is_not_kept_alive() -> None:
    """When the second target has answered, its error is gone, without a garbage collection."""
    alive: list[weakref.ref[BaseException]] = []

    def made() -> ProviderError:
        error = ProviderError(422)
        alive.append(weakref.ref(error))
        return error

    @failover(CHAIN, attempts=1)
    def ask(target: Target, prompt: str) -> object:
        if target.key == CHAIN[0]:
            raise made()
        return prompt

    gc.disable()
    try:
        for _ in range(3):
            ask("hi")
    finally:
        gc.enable()

    assert [None] * 3 == [each() for each in alive]


def test_a_client_that_retries_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """As by the call flow: the request of the failed attempt says that it was a retry."""
    request = SimpleNamespace(headers={"x-stainless-retry-count": "1"})

    @failover(CHAIN, attempts=1)
    def ask(target: Target) -> str:
        if target.key == CHAIN[0] and target.key in failing:
            error: Any = ProviderError(422)
            error.request = request
            raise error
        return target.key

    failing: set[str] = set()
    ask()  # so that the next call has a function that is bound
    failing.add(CHAIN[0])

    assert CHAIN[1] == ask()
    assert "the client of groq retried by itself" in caplog.text


@pytest.mark.parametrize("behind", CHAIN[:2])
def test_what_waits_for_an_observer_is_delivered(behind: str) -> None:
    """An event that could not be delivered yet is, by the call that comes by."""
    told: list[str] = []
    observe(lambda event: told.append(event.target), HealthChanged)

    @failover(CHAIN, attempts=1)
    def ask(target: Target) -> str:
        if target.key == CHAIN[0] and is_failing:
            raise ProviderError(422)
        return target.key

    is_failing = False
    ask()
    is_failing = True
    outbox = runtime.registry.circuit(behind).outbox
    outbox.add(Fact("HealthChanged", runtime.clock(), None, {"old": "healthy", "new": "degraded"}))
    outbox.is_behind = True

    assert CHAIN[1] == ask()
    assert [behind] == told


def test_a_call_keeps_the_options_with_which_it_began() -> None:
    """A default that is changed while the first attempt runs is not the call's."""

    @failover(CHAIN)
    def ask(target: Target, meanwhile: Callable[[], None] | None = None) -> str:
        if meanwhile is not None and target.key == CHAIN[0]:
            meanwhile()
            raise ProviderError(422)
        return target.key

    def change() -> None:
        clock.advance(1.0)
        configure(timeout=None)
        ask()  # binds the function anew

    with fake_clock() as clock:
        configure(timeout=0.5)
        ask()
        with pytest.raises(DeadlineExceededError):
            ask(change)
        assert CHAIN[1] == ask(lambda: clock.advance(1.0))


def test_an_answer_of_the_second_target_that_is_not_awaited_is_refused() -> None:
    """A forgotten ``await`` ends the call there, too."""

    async def inner() -> str:
        return "an answer"

    async def ask(target: Target, *, forgets: bool) -> Any:
        if target.key == CHAIN[0] and forgets:
            raise ProviderError(422)
        return inner() if forgets else await inner()

    guarded = failover(CHAIN, attempts=1)(ask)
    run_async(lambda: guarded(forgets=False), backend="asyncio")

    with pytest.raises(ConfigurationError, match="await"):
        run_async(lambda: guarded(forgets=True), backend="asyncio")
