"""`configure(on_memory_pressure=…)`: what a server that is out of memory means for calls and guards."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from resilient_llm import (
    Adaptive,
    AttemptFailed,
    ChainExhaustedError,
    ConfigurationError,
    ErrorKind,
    FailedOver,
    HealthChanged,
    OrderChanged,
    ResponseRejectedError,
    Target,
    TargetBenched,
    Verdict,
    answers,
    breaker,
    classify,
    configure,
    failover,
    health,
    is_benched,
    list_benched,
    reset,
    settings,
    unbench_model,
)
from resilient_llm._core.circuit import triggers
from resilient_llm._values.settings import BreakerSettings
from resilient_llm.testing import (
    FakeClock,
    capture_events,
    fake_clock,
    isolated,
)
from tests.support.ways import (
    BREAKER_SHAPES,
    GROQ,
    MISTRAL,
    OPENAI,
    SHAPES,
    ProviderError,
    Shape,
    StrangeError,
    down,
    over,
    run_async,
)

MODES: Any = ("skip", "warn", "off")
KIND_UNDER = {"skip": "memory_pressure", "warn": "memory_pressure", "off": "transient"}


@pytest.fixture(autouse=True)
def _without_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "JITTER", 0.0)


def full() -> ProviderError:
    """Return what Ollama answers when a model does not fit into memory."""
    return ProviderError(500, "model requires more system memory (8.4 GiB) than is available")


def numbers(key: str = GROQ) -> tuple[Any, ...]:
    """Return all that is known of a key."""
    one = health([key])[key]
    bench = None if one.benched is None else (one.benched.kind, one.benched.remaining)
    return (
        one.status, one.state, one.total, one.errors, one.consecutive_failures, one.last_error,
        bench,
    )  # fmt: skip


def left(key: str = GROQ) -> float | None:
    """Return the seconds until the bench of a key ends; None if it is not benched."""
    return next((each.remaining for each in list_benched() if each.model == key), None)


def ask(*outcomes: BaseException, chain: Any = (GROQ, OPENAI), **options: Any) -> Any:
    """Make as many calls, whose first target does this in turn; return the last answer."""
    todo = list(outcomes)

    @failover(chain, **{"backoff": lambda _: 0.1, **options})
    def call(target: Target) -> str:
        if target.key == GROQ and todo:
            raise todo.pop(0)
        return target.key

    return [call() for _ in outcomes][-1]


# Settings.


def test_the_settings_show_it() -> None:
    """Skip and 120 s by default; each changes alone, and a timedelta is a number of seconds."""
    before = settings()
    configure(on_memory_pressure="warn")
    configure(memory_pressure_cooldown=timedelta(minutes=5))  # type: ignore[arg-type]

    assert ("skip", 120.0) == (before.on_memory_pressure, before.memory_pressure_cooldown)
    assert ("warn", 300.0) == (settings().on_memory_pressure, settings().memory_pressure_cooldown)


@pytest.mark.parametrize("cooldown", [10, 3600.0])
def test_both_ends_of_the_range_are_allowed(cooldown: float, clock: FakeClock) -> None:
    """A bench lasts exactly as long, without jitter."""
    configure(memory_pressure_cooldown=cooldown)

    breaker(GROQ).record(full(), 0.1)

    assert cooldown == left()


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"memory_pressure_cooldown": 9.99}, "from 10 to 3600"),
        ({"memory_pressure_cooldown": 3600.1}, "from 10 to 3600"),
        ({"memory_pressure_cooldown": float("nan")}, "from 10 to 3600"),
        ({"memory_pressure_cooldown": True}, "from 10 to 3600"),
        ({"memory_pressure_cooldown": None}, "from 10 to 3600"),
        ({"memory_pressure_cooldown": timedelta(hours=2)}, "from 10 to 3600"),
        ({"on_memory_pressure": "bench"}, "'skip' or 'warn' or 'off'"),
        ({"on_memory_pressure": None}, "'skip' or 'warn' or 'off'"),
        ({"on_memory_pressure": "warm"}, "did you mean 'warn'"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_other_values_are_refused(change: dict[str, Any], allowed: str) -> None:
    """The error names the option and what is allowed, and nothing has changed."""
    before = settings()

    with pytest.raises(ConfigurationError, match=allowed) as caught:
        configure(**change)

    assert next(iter(change)) in str(caught.value)
    assert before == settings()


@pytest.mark.parametrize(
    "write",
    [
        lambda: breaker(GROQ, memory_pressure_cooldown=60.0),  # type: ignore[call-arg]
        lambda: configure(breakers={"*": {"memory_pressure_cooldown": 60.0}}),  # type: ignore[typeddict-unknown-key]
        lambda: failover(GROQ, on_memory_pressure="warn"),  # type: ignore[call-arg]
    ],
    ids=["breaker", "breakers", "failover"],
)
def test_they_are_for_the_whole_process(write: Callable[[], object]) -> None:
    """Neither a breaker nor a policy has one of its own."""
    with pytest.raises(ConfigurationError, match="memory_pressure"):
        write()


def test_isolated_has_the_defaults() -> None:
    """What was configured is back after the block."""
    configure(on_memory_pressure="off", memory_pressure_cooldown=60.0)

    with isolated():
        ask(full())
        inside = settings().on_memory_pressure, is_benched(GROQ)
    ask(full(), attempts=1)

    assert (("skip", True), "off", False) == (
        inside,
        settings().on_memory_pressure,
        is_benched(GROQ),
    )


def test_settings_are_pickled() -> None:
    """Those of circuits that an earlier release has pickled have the default cooldown."""
    configure(on_memory_pressure="off", memory_pressure_cooldown=60.0)
    of_circuit = BreakerSettings(failures=3)
    earlier = BreakerSettings()
    earlier.__setstate__([getattr(of_circuit, each.name) for each in _fields()[:-1]])

    assert settings() == pickle.loads(pickle.dumps(settings()))
    assert of_circuit == earlier


def _fields() -> tuple[Any, ...]:
    fields = dataclasses.fields(BreakerSettings)
    assert "memory_pressure_cooldown" == fields[-1].name
    return fields


# Skip.


@over(SHAPES)
def test_skip_benches_for_the_cooldown_then_half_opens(shape: Shape, clock: FakeClock) -> None:
    """One error is enough in every way to write a guarded call, and one answer closes again."""
    configure(memory_pressure_cooldown=45.0)

    outcomes = [shape.outcome(GROQ, full()), shape.outcome(GROQ, "no")]
    benched = left()
    clock.advance(45.0)
    state = breaker(GROQ).state
    outcomes.append(shape.outcome(GROQ, "yes"))

    assert ["failed", "refused", "served"] == outcomes
    assert (45.0, "half_open", "closed") == (benched, state, breaker(GROQ).state)


def test_repeated_benches_do_not_grow(clock: FakeClock) -> None:
    """Failed half-open probes bench for the same time, above the longest cooldown of errors too."""
    configure(memory_pressure_cooldown=400.0, breakers={"*": {"max_cooldown": 60.0}})
    lengths: list[float | None] = []

    for _ in range(5):
        breaker(GROQ).record(full(), 0.0)
        lengths.append(left())
        clock.advance(400.0)

    assert [400.0] * 5 == lengths


def test_it_is_benched_where_a_rule_says(clock: FakeClock) -> None:
    """A rule may charge the provider, and then all of its models are out."""
    configure(memory_pressure_cooldown=45.0)
    classify.rule(
        lambda error: (
            Verdict(ErrorKind.MEMORY_PRESSURE, "gpu_full", scope="provider")
            if isinstance(error, StrangeError)
            else None
        )
    )

    ask(StrangeError())

    assert [("groq", "gpu_full", 45.0)] == [
        (each.model, each.reason, each.remaining) for each in list_benched()
    ]


@pytest.mark.parametrize("when", ["soonest", "wait", "raise"])
def test_when_all_are_benched_the_policy_says_what_happens(when: Any, clock: FakeClock) -> None:
    """Each tried once, soonest first; waited for; or raised, with the time until the soonest."""
    configure(memory_pressure_cooldown=30.0)
    for key in (OPENAI, GROQ, MISTRAL):
        breaker(key).record(full(), 0.1)
        clock.advance(5.0)
    asked: list[str] = []

    @failover([GROQ, OPENAI, MISTRAL], when_all_benched=when)
    def call(target: Target) -> str:
        asked.append(target.key)
        if when == "soonest" and target.key != MISTRAL:
            raise full()
        return target.key

    ends = {key: left(key) for key in (OPENAI, GROQ, MISTRAL)}
    if when == "raise":
        with pytest.raises(ChainExhaustedError) as caught:
            call()
        assert (15.0, []) == (caught.value.retry_after, asked)
    elif when == "wait":
        assert OPENAI == call()
        assert ([OPENAI], 15.0) == (asked, sum(clock.sleeps))
    else:
        assert MISTRAL == call()
        # No failure of a last resort lengthens a bench.
        assert ([OPENAI, GROQ, MISTRAL], 15.0, 20.0) == (asked, left(OPENAI), left(GROQ))
    assert {OPENAI: 15.0, GROQ: 20.0, MISTRAL: 25.0} == ends


# Warn.


@over(SHAPES)
def test_warn_counts_and_benches_nothing(shape: Shape, clock: FakeClock) -> None:
    """However often it comes, and whatever was counted before; the next answer counts as always."""
    configure(on_memory_pressure="warn")
    for _ in range(2):
        shape.outcome(GROQ, "yes")
        shape.outcome(GROQ, down())
    before = numbers()

    with capture_events(TargetBenched, HealthChanged) as events:
        outcomes = [shape.outcome(GROQ, full()) for _ in range(20)]

    assert (["failed"] * 20, [], before) == (outcomes, events, numbers())
    assert "served" == shape.outcome(GROQ, "yes")
    assert 1 == health()[GROQ].total - before[2]


@pytest.mark.parametrize("attempts", [1, 3])
def test_warn_tells_and_moves_on(attempts: int, clock: FakeClock) -> None:
    """One attempt, one event of the kind, and the next target; also in what the error lists."""
    configure(on_memory_pressure="warn")

    with capture_events(AttemptFailed, FailedOver) as events:
        answer = ask(*[full() for _ in range(6)], attempts=attempts)
    with pytest.raises(ChainExhaustedError) as caught:
        ask(full(), chain=GROQ, attempts=attempts)

    assert (OPENAI, []) == (answer, clock.sleeps)
    assert [("memory_pressure", "out_of_memory")] * 12 == [
        (each.kind, each.reason) for each in events
    ]
    assert (ErrorKind.MEMORY_PRESSURE, 0.0, 1) == (
        caught.value.kind,
        caught.value.retry_after,
        len(caught.value.attempts),
    )


@over(SHAPES)
def test_warn_neither_settles_nor_keeps_a_probe(shape: Shape, clock: FakeClock) -> None:
    """The place of a half-open probe is given back, and the circuit waits for another answer."""
    breaker(GROQ, probes=1)
    for _ in range(5):
        breaker(GROQ).record(down(), 0.1)
    clock.advance(33.0)
    configure(on_memory_pressure="warn")
    before = numbers()

    outcomes = [shape.outcome(GROQ, full()) for _ in range(3)]
    after = numbers()

    assert (["failed"] * 3, before) == (outcomes, after)
    assert ("half_open", "served") == (breaker(GROQ).state, shape.outcome(GROQ, "yes"))
    assert "closed" == breaker(GROQ).state


def test_warn_moves_no_target_in_the_order(clock: FakeClock) -> None:
    """Adaptive order takes it for what says nothing about health; a failure does move the target."""

    def moves(error: Callable[[], BaseException]) -> list[str]:
        with isolated(), capture_events(OrderChanged) as events:
            configure(on_memory_pressure="warn", breakers={"*": {"mode": "disabled"}})
            policy = failover([GROQ, OPENAI], attempts=1, adaptive=Adaptive(min_calls=5))

            @policy
            def call(target: Target) -> str:
                clock.advance(1.0)
                if target.key == GROQ:
                    raise error()
                return target.key

            for _ in range(12):
                call()
        return [each.target for each in events]

    assert ([], [GROQ]) == (moves(full), moves(down))


def test_warn_obeys_no_rule_that_wants_more(clock: FakeClock) -> None:
    """A rule's `retryable` and wait would keep the call on the target, or bench that."""
    configure(on_memory_pressure="warn")
    classify.rule(
        lambda error: (
            Verdict(ErrorKind.MEMORY_PRESSURE, retry_after=5.0, retryable=True)
            if isinstance(error, StrangeError)
            else None
        )
    )

    answer = ask(*[StrangeError() for _ in range(3)])

    assert (OPENAI, [], []) == (answer, clock.sleeps, list_benched())


def test_warn_tells_nothing_of_what_would_have_been_benched() -> None:
    """A breaker that only counts says so of no bench that it would not have made."""
    configure(on_memory_pressure="warn", breakers={"*": {"mode": "metrics_only"}})

    with capture_events(TargetBenched) as events:
        ask(full())

    assert [] == events


# Off.


def _transient(error: BaseException) -> Verdict | None:
    return (
        Verdict(ErrorKind.TRANSIENT, "out_of_memory", error.wait, 500)
        if isinstance(error, TwinError)
        else None
    )


class TwinError(Exception):
    """An error that a rule takes for a transient one; else what `Full` means."""

    status_code = 500

    def __init__(self, wait: float | None) -> None:
        super().__init__("upstream failed")
        self.wait = wait


class FullError(TwinError):
    """An error that a rule takes for memory pressure."""


def _memory(error: BaseException) -> Verdict | None:
    return (
        Verdict(ErrorKind.MEMORY_PRESSURE, "out_of_memory", error.wait, 500)
        if isinstance(error, FullError)
        else None
    )


def _seen(
    error: type[TwinError], wait: float | None, shape: Shape | None, options: dict[str, Any]
) -> list[Any]:
    """Return all that can be seen of calls whose first target raises such errors."""
    seen: list[Any] = []
    with isolated(), fake_clock() as clock, capture_events() as events:
        configure(on_memory_pressure="off", breakers={"*": {"failures": 4, "window": 30.0}})
        classify.rule(_transient)
        classify.rule(_memory)
        for _ in range(12):
            try:
                if shape is None:
                    seen.append(ask(error(wait), error(wait), error(wait), **options))
                else:
                    seen.append(shape.outcome(GROQ, error(wait)))
            except Exception as raised:
                seen.append((getattr(raised, "kind", None), getattr(raised, "retry_after", None)))
            state, benches = breaker(GROQ).state, [each.kind for each in list_benched()]
            seen.append((state, benches, numbers()[:-1]))
            clock.advance(7.0)
        seen.append(clock.sleeps)
    for event in events:
        values = dataclasses.asdict(event)
        seen.append((type(event), [values.get(name) for name in _COMPARED]))
    return seen


_COMPARED = ("target", "number", "kind", "reason", "status", "trigger", "source", "retry_after")


@pytest.mark.parametrize("wait", [None, 2.0])
@pytest.mark.parametrize("options", [{}, {"attempts": 1}, {"chain": GROQ}], ids=str)
def test_off_is_transient(wait: float | None, options: dict[str, Any]) -> None:
    """Retries, waits, counts, triggers, benches, events and errors are those of a transient one."""
    full_, twin = (_seen(error, wait, None, options) for error in (FullError, TwinError))

    assert twin == full_
    assert TargetBenched in [each[0] for each in twin if isinstance(each, tuple)]


@over(BREAKER_SHAPES)
def test_off_is_transient_in_guards(shape: Shape) -> None:
    """The same holds where there is only a breaker."""
    full_, twin = (_seen(error, None, shape, {}) for error in (FullError, TwinError))

    assert twin == full_
    assert ["failed"] * 4 + ["refused"] == twin[:10:2]


def test_off_keeps_what_a_rule_says_of_health(clock: FakeClock) -> None:
    """Reason, status, wait and scope stay, too; it may be tried again, as transient errors may."""
    configure(on_memory_pressure="off")
    said = Verdict(ErrorKind.MEMORY_PRESSURE, "gpu_full", 3.0, 507, "provider", harms_health=False)
    classify.rule(lambda error: said)

    assert (
        Verdict(ErrorKind.TRANSIENT, "gpu_full", 3.0, 507, "provider", True, False)
    ) == classify(StrangeError())


# Where the verdict comes from.


SAYS_FULL: Any = lambda error: Verdict(ErrorKind.MEMORY_PRESSURE)  # noqa: E731  # a rule
SOURCES: dict[str, tuple[Any, dict[str, Any]]] = {
    "built-in rule": (full, {}),
    "its cause": (lambda: _from(full()), {}),
    "a group": (lambda: ExceptionGroup("several", [down(), full()]), {}),
    "policy's classify": (StrangeError, {"classify": SAYS_FULL}),
    "policy's classify, a kind": (StrangeError, {"classify": lambda _: ErrorKind.MEMORY_PRESSURE}),
    "reject, a verdict": (lambda: "full", {"reject": lambda said: said == "full" and SAYS_FULL(0)}),
    "reject, a kind": (
        lambda: "full",
        {"reject": lambda said: said == "full" and ErrorKind.MEMORY_PRESSURE},
    ),
    "an error in the answer": (
        lambda: {"error": {"message": "CUDA error: out of memory", "type": "server_error"}},
        {"reject": answers.unusable},
    ),
}


def _from(cause: BaseException) -> BaseException:
    error = RuntimeError("no answer")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", SOURCES)
def test_whoever_says_it_the_setting_holds(
    source: str, mode: Any, is_async: bool, clock: FakeClock
) -> None:
    """Rules, causes, a policy's own functions; the first call of a function and later ones."""
    outcome, options = SOURCES[source]
    configure(on_memory_pressure=mode)
    bad, good = "warm up", {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}

    def answer(target: Target, prompt: str) -> Any:
        if target.key == GROQ and prompt != "warm up":
            given = outcome()
            if isinstance(given, BaseException):
                raise given
            return given
        return good

    async def aanswer(target: Target, prompt: str) -> Any:
        return answer(target, prompt)

    guarded: Any = failover([GROQ, OPENAI], attempts=1, **options)(aanswer if is_async else answer)

    def call(prompt: str) -> Any:
        return run_async(lambda: guarded(prompt)) if is_async else guarded(prompt)

    call(bad)
    quiet = call("why")  # nobody listens: the wrapper moves on by itself
    benched = is_benched(GROQ), health()[GROQ].errors
    unbench_model(GROQ)
    reset()
    with capture_events(AttemptFailed) as events:
        heard = call("why")

    assert (good, good) == (quiet, heard)
    assert {"skip": (True, 1), "warn": (False, 0), "off": (False, 1)}[mode] == benched
    assert [(GROQ, KIND_UNDER[mode])] == [(each.target, each.kind) for each in events]


@pytest.mark.parametrize("mode", MODES)
def test_an_inner_chain_passes_its_verdict_on(mode: Any) -> None:
    """A guard around it takes the refusal of an answer for what the inner policy says."""
    configure(on_memory_pressure=mode)
    inner = failover(GROQ, attempts=1, reraise=True, reject=lambda _: ErrorKind.MEMORY_PRESSURE)

    @inner
    def call(target: Target) -> str:
        return target.key

    with pytest.raises(ResponseRejectedError) as caught, breaker("around"):
        call()

    assert KIND_UNDER[mode] == caught.value.kind
    assert {"skip": (True, 1), "warn": (False, 0), "off": (False, 1)}[mode] == (
        is_benched("around"),
        health()["around"].errors,
    )
