"""Calls whose conversation repeats one tool call: what is told of them, and which of them end."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import FrozenInstanceError
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import (
    Attempt,
    AttemptFailed,
    AttemptSucceeded,
    CallFailed,
    CallRejectedError,
    ChainExhaustedError,
    ConfigurationError,
    ErrorKind,
    FailedOver,
    StreamPolicy,
    Target,
    TargetSkipped,
    ToolLoop,
    ToolLoopDetected,
    ToolLoopError,
    Trace,
    bench_model,
    call_id,
    classify,
    configure,
    failover,
    health,
    observe,
    settings,
)
from resilient_llm.observers import jsonl
from resilient_llm.testing import FakeClock, Weather, capture_events, simulate
from tests.support.ways import GROQ, OPENAI, down, on_both_loops, run_async

SECRET = "sk-secret"


def calls(count: int, name: str = "search") -> list[Any]:
    """Return a conversation that ends in so many equal tool calls."""
    call = {"type": "function_call", "call_id": "1", "name": name, "arguments": f'"{SECRET}"'}
    output = {"type": "function_call_output", "call_id": "1", "output": "nothing"}
    return [{"role": "user", "content": SECRET}, *[call, output] * count]


STUCK, HEALTHY = calls(3), calls(2)


def key_of(target: Target, messages: Any) -> str:
    return target.key


def ask_with(*chain: Any, **options: Any) -> Any:
    """Return a decorated function that answers with the key of its target."""

    def ask(target: Target, messages: Any = (), **_: Any) -> str:
        return target.key

    return failover(chain or [GROQ, OPENAI], **options)(ask)


# --- warn -----------------------------------------------------------------------------------------


def test_a_call_with_a_loop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """It is told once, before its first attempt, and the log has it as a warning."""
    ask = ask_with(tool_loop="warn")
    with capture_events() as seen, caplog.at_level(logging.INFO, "resilient_llm"):
        assert GROQ == ask(STUCK)

    found, answered = seen
    assert isinstance(found, ToolLoopDetected)
    assert isinstance(answered, AttemptSucceeded)
    assert ("search", 3, "warn", GROQ) == (found.tool, found.repeats, found.action, found.target)
    assert found.call_id == answered.call_id != ""
    [record] = caplog.records
    assert logging.WARNING == record.levelno
    assert f"ToolLoopDetected {GROQ} tool=search repeats=3 action=warn" == record.getMessage()


def test_a_call_without_a_loop_is_told_of_nothing() -> None:
    """Nor one that has no conversation."""
    ask = ask_with(tool_loop="warn")
    with capture_events(ToolLoopDetected) as seen:
        for conversation in (HEALTHY, [], None, "Hi", iter(STUCK), object()):
            ask(conversation)
        ask()

    assert [] == seen


def test_it_keeps_no_state() -> None:
    """Each further call finds the loop again, and one after it has gone finds none."""
    ask = ask_with(tool_loop="warn")
    with capture_events(ToolLoopDetected) as seen:
        for count in (3, 4, 4, 2):
            ask(calls(count))
        ask([*STUCK, *calls(1, "other")])

    assert [3, 4, 4] == [each.repeats for each in seen]


def test_it_is_asked_once_for_each_call(clock: FakeClock) -> None:
    """Not for each attempt: neither for retries nor for further targets."""

    @failover([GROQ, OPENAI], tool_loop="warn", attempts=3)
    def ask(target: Target, messages: Any) -> str:
        if target.key == GROQ:
            raise down()
        return target.key

    with capture_events(ToolLoopDetected, AttemptFailed, FailedOver) as seen:
        assert OPENAI == ask(STUCK)

    assert ["ToolLoopDetected", *["AttemptFailed"] * 3, "FailedOver"] == [
        type(each).__name__ for each in seen
    ]
    assert 1 == len({each.call_id for each in seen})


def test_a_slow_observer_is_not_taken_for_a_slow_target(clock: FakeClock) -> None:
    """The attempt, and the deadline, begin after the event was handed over."""
    ask = ask_with(tool_loop="warn")
    late = failover([GROQ], tool_loop="warn", timeout=30.0)(coroutine_of)
    stop = observe(lambda event: clock.advance(50.0), ToolLoopDetected)
    with capture_events(AttemptSucceeded) as seen:
        ask(STUCK)
        ask(STUCK)
        arun(late, STUCK)
    stop()

    assert [0.0, 0.0, 0.0] == [each.seconds for each in seen]


def test_an_exporter_is_told_of_calls_that_begin_after_it(clock: FakeClock, tmp_path: Path) -> None:
    """As of other events of calls."""
    clock.advance(10.0)
    exporter = jsonl.install(tmp_path / "journal")
    ask_with(tool_loop="warn")(STUCK)

    assert exporter.flush()
    found = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    assert ["search"] == [each["tool"] for each in found if each["type"] == "ToolLoopDetected"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a" * 64, "a" * 64),
        ("get_Weather-2.0", "get_Weather-2.0"),
        ("a" * 65, "?"),
        ("", "?"),
        ("get weather", "?"),
        ("search\n", "?"),
        ("wéather", "?"),
        ("\u0661", "?"),
        ("a/b", "?"),
    ],
    ids=lambda _: "",
)
def test_a_name_is_shown_only_if_it_is_one(name: str, shown: str) -> None:
    """A model may make up anything."""
    with capture_events(ToolLoopDetected) as seen, pytest.raises(ToolLoopError) as caught:
        ask_with(tool_loop="raise")(calls(3, name))

    assert [shown] == [each.tool for each in seen]
    assert shown == caught.value.tool
    assert shown == name or not name or name not in str(caught.value)


# --- raise ----------------------------------------------------------------------------------------


def test_a_call_with_a_loop_ends_before_anything_is_sent() -> None:
    """The event, then the end of the call, then the error; no health is touched."""
    called: list[str] = []

    @failover([GROQ, OPENAI], tool_loop="raise")
    def ask(target: Target, messages: Any) -> None:
        called.append(target.key)

    with (
        Trace() as trace,
        capture_events() as seen,
        pytest.raises(ToolLoopError) as caught,
    ):
        ask(STUCK)

    error = caught.value
    assert isinstance(error, CallRejectedError)
    assert ("search", 3, "tool_loop", None) == (
        error.tool,
        error.repeats,
        error.reason,
        error.retry_after,
    )
    assert f"{GROQ}, {OPENAI}" == error.target
    assert "3 calls of the tool search" in str(error)
    found, failed = seen
    assert isinstance(found, ToolLoopDetected)
    assert isinstance(failed, CallFailed)
    assert "raise" == found.action
    assert (0, ErrorKind.REJECTED) == (failed.attempts, failed.kind)
    [call] = trace.calls
    assert [call.call_id] * 2 == [found.call_id, failed.call_id]
    assert (None, ()) == (call.served_by, tuple(call.attempts))
    assert [] == called
    assert 0 == sum(each.total for each in health().values())


def test_nothing_private_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Neither arguments nor prompts reach the error, an event or the log."""
    with (
        caplog.at_level(logging.DEBUG, "resilient_llm"),
        capture_events() as seen,
        pytest.raises(ToolLoopError) as caught,
    ):
        ask_with(tool_loop="raise")(STUCK)

    texts = [str(caught.value), repr(caught.value), str(vars(caught.value)), repr(seen)]
    texts += [record.getMessage() + str(vars(record)) for record in caplog.records]
    assert [] == [text for text in texts if SECRET in text]


def test_the_observers_of_the_policy_are_told() -> None:
    """They get the same events."""
    seen: list[Any] = []

    with pytest.raises(ToolLoopError):
        ask_with(tool_loop="raise", observers=(seen.append,))(STUCK)

    assert ["ToolLoopDetected", "CallFailed"] == [type(each).__name__ for each in seen]


def test_a_loop_is_found_before_anything_is_said_of_targets() -> None:
    """Neither a bench nor what a call needs matters then."""
    bench_model("groq")
    bench_model("openai")

    with capture_events(TargetSkipped) as seen:
        for options in ({}, {"needs": "tools"}):
            with pytest.raises(ToolLoopError):
                ask_with(Target(GROQ, supports=()), tool_loop="raise", **options)(STUCK)

    assert [] == seen


def test_an_outer_chain_goes_on_with_its_next_target() -> None:
    """It is an error of an inner guard, which harms no health."""
    inner = ask_with(tool_loop="raise")

    @failover(["outer/a", "outer/b"])
    def outer(target: Target) -> str:
        return inner(STUCK) if target.key == "outer/a" else target.key

    assert "outer/b" == outer()
    assert 0 == health()["outer/a"].errors
    assert ErrorKind.REJECTED is classify(ToolLoopError(GROQ, "search", 3)).kind


def test_a_call_that_ended_leaves_nothing_behind() -> None:
    """Its name is not that of the code after it, and the next call is as always."""
    names: list[str | None] = []

    @failover([GROQ], tool_loop="raise")
    def ask(target: Target, messages: Any) -> str:
        names.append(call_id())
        return target.key

    assert call_id() is None
    with pytest.raises(ToolLoopError):
        ask(STUCK)
    after = call_id()
    ask(HEALTHY)

    assert after is None
    assert all(names)


@pytest.mark.parametrize("action", ["warn", "raise"])
def test_an_interrupt_inside_an_observer_leaves(action: Any) -> None:
    """The call is over then, and the next one is as always."""
    ask = ask_with(tool_loop=action)

    def interrupt(event: object) -> None:
        raise KeyboardInterrupt

    stop = observe(interrupt, ToolLoopDetected)
    with pytest.raises(KeyboardInterrupt):
        ask(STUCK)
    stop()

    assert call_id() is None
    assert GROQ == ask(HEALTHY)


# --- which argument -------------------------------------------------------------------------------


class Client:
    @failover([GROQ], tool_loop="raise")
    def method(self, target: Target, messages: Any) -> str:
        return target.key

    @classmethod
    @failover([GROQ], tool_loop="raise")
    def of_class(cls, target: Target, messages: Any) -> str:
        return target.key

    @staticmethod
    @failover([GROQ], tool_loop="raise")
    def static(target: Target, messages: Any) -> str:
        return target.key


guard = failover([GROQ], tool_loop="raise")


@guard
def second(target: Target, prompt: str, messages: Any, limit: int = 3) -> str:
    return target.key


@guard
def positional_only(target: Target, messages: Any, /) -> str:
    return target.key


@guard
def keyword_only(target: Target, *, messages: Any) -> str:
    return target.key


@guard
def any_keywords(target: Target, **options: Any) -> str:
    return target.key


@guard
def anything(target: Target, *args: Any, **options: Any) -> str:
    return target.key


@guard
def by_name(messages: Any, *, model: str = "", provider: str = "") -> str:
    return f"{provider}/{model}"


@guard
def told(target: Target, messages: Any, attempt: Attempt | None = None) -> str:
    assert attempt is not None
    return target.key


@guard
async def coroutine(target: Target, messages: Any) -> str:
    return target.key


@guard
def plain_awaitable(target: Target, messages: Any) -> Awaitable[str]:
    async def answer() -> str:
        return target.key

    return answer()


@guard
def items(target: Target, messages: Any) -> Iterator[str]:
    yield target.key


@guard
async def async_items(target: Target, messages: Any) -> AsyncIterator[str]:
    yield target.key


def arun(function: Any, *args: Any) -> Any:
    async def main() -> Any:
        return await function(*args)

    return run_async(main)


async def first_of(stream: Any) -> Any:
    (item,) = [each async for each in stream]
    return item


WAYS: dict[str, Callable[[Any], Any]] = {
    "position": lambda found: second("Hi", found),
    "keyword": lambda found: second("Hi", messages=found),
    "keywords": lambda found: second(limit=1, messages=found, prompt="Hi"),
    "positional only": lambda found: positional_only(found),
    "keyword only": lambda found: keyword_only(messages=found),
    "any keywords": lambda found: any_keywords(messages=found, prompt=[]),
    "anything by keyword": lambda found: anything(3, messages=found),
    "anything by position": lambda found: anything("Hi", found, 3),
    "by name": lambda found: by_name(found),
    "pinned": lambda found: by_name(found, model="llama"),
    "attempt": lambda found: told(found),
    "method": lambda found: Client().method(found),
    "class method": lambda found: Client.of_class(messages=found),
    "static method": lambda found: Client.static(found),
    "partial": lambda found: guard(partial(key_of))(found),
    "policy.call": lambda found: guard.call(key_of, found),
    "policy.call by keyword": lambda found: guard.call(key_of, messages=found),
    "policy.call of a method": lambda found: guard.call(Asker().ask, found),
    "own call": lambda found: failover(Target(GROQ, call=key_of), tool_loop="raise").call(
        key_of, found
    ),
    "coroutine": lambda found: arun(coroutine, found),
    "plain awaitable": lambda found: arun(plain_awaitable, found),
    "items": lambda found: next(items(found)),
    "async items": lambda found: arun(lambda: first_of(async_items(found))),
    "strategy": lambda found: ask_with(GROQ, strategy=reversed, tool_loop="raise")(found),
    "round robin": lambda found: ask_with(GROQ, strategy="round_robin", tool_loop="raise")(found),
    "timeout": lambda found: arun(guard.using(timeout=3.0)(coroutine_of), found),
}


class Asker:
    def ask(self, target: Target, messages: Any) -> str:
        return target.key


async def coroutine_of(target: Target, messages: Any) -> str:
    return target.key


@pytest.mark.parametrize("way", WAYS)
def test_the_argument_is_found_however_it_is_passed(way: str) -> None:
    """In each way to write a function and to call it, at the first call and later ones."""
    for _ in range(2):
        assert GROQ == WAYS[way](HEALTHY)
        with pytest.raises(ToolLoopError):
            WAYS[way](STUCK)


@on_both_loops
def test_it_is_the_same_on_both_loops(backend: str) -> None:
    """On asyncio and trio, also with a hedge."""
    hedged = failover([GROQ, OPENAI], tool_loop="raise", hedge=3.0)(coroutine_of)

    assert GROQ == run_async(hedged, HEALTHY, backend=backend)
    with pytest.raises(ToolLoopError):
        run_async(hedged, STUCK, backend=backend)


def test_a_default_of_the_argument_is_read() -> None:
    """The caller may leave it out."""

    @guard
    def ask(target: Target, messages: Any = tuple(STUCK)) -> str:
        return target.key

    asked = ask.using(needs=lambda *_: ())  # the wrapper passes arguments on as they are then

    for each in (ask, asked):
        with pytest.raises(ToolLoopError):
            each()
        assert GROQ == each(HEALTHY)


def test_the_call_of_a_generator_function_begins_with_its_first_item() -> None:
    """So the error comes with that."""
    stream = items(STUCK)
    with capture_events(ToolLoopDetected) as seen:
        assert [] == seen
        with pytest.raises(ToolLoopError):
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)

    assert 1 == len(seen)


def test_a_restarted_stream_is_asked_once() -> None:
    """The guard is about calls, not about streams."""

    @failover(
        [GROQ, OPENAI],
        tool_loop="warn",
        attempts=1,
        stream=StreamPolicy(on_interrupt="restart", on_truncated="accept"),
    )
    def ask(target: Target, messages: Any) -> Iterator[str]:
        yield target.key
        if target.key == GROQ:
            raise down()

    with capture_events(ToolLoopDetected) as seen:
        assert [GROQ, OPENAI] == list(ask(STUCK))

    assert 1 == len(seen)


def test_other_numbers_and_another_argument() -> None:
    """As `ToolLoop` says."""

    def ask(target: Target, prompt: Any, contents: Any) -> str:
        return target.key

    guarded = failover(GROQ, tool_loop=ToolLoop("raise", repeats=4, argument="contents"))(ask)

    assert GROQ == guarded(calls(9), calls(3))
    with pytest.raises(ToolLoopError) as caught:
        guarded([], calls(5))
    assert 5 == caught.value.repeats
    assert GROQ == guarded.using(tool_loop=ToolLoop("off", argument="no"))([], calls(5))


def test_two_repeats_are_the_fewest() -> None:
    """One call is no row."""
    ask = ask_with(tool_loop=ToolLoop("raise", repeats=2))

    assert GROQ == ask(calls(1))
    with pytest.raises(ToolLoopError):
        ask(calls(2))


def test_a_copy_has_its_own_guard() -> None:
    """On and off, in both directions."""
    off = ask_with()
    on = off.using(tool_loop="raise")

    assert GROQ == off(STUCK)
    with pytest.raises(ToolLoopError):
        on(STUCK)
    assert GROQ == on.using(tool_loop="warn")(STUCK) == on.using(tool_loop="off")(STUCK)


# --- where there is none --------------------------------------------------------------------------


def without(target: Target, prompt: str) -> str:
    return target.key


@pytest.mark.parametrize("value", ["warn", "raise", ToolLoop(argument="contents")], ids=str)
def test_a_function_without_the_argument_is_refused(value: Any) -> None:
    """Where it is decorated, copied or called; the message names the argument."""
    policy = failover(GROQ, tool_loop=value)
    argument = value.argument if isinstance(value, ToolLoop) else "messages"

    for use in (
        lambda: policy(without),
        lambda: failover(GROQ)(without).using(tool_loop=value),
        lambda: policy.call(without, "Hi"),
    ):
        with pytest.raises(ConfigurationError, match=f"'{argument}'.*without does not take"):
            use()
    assert GROQ == policy.using(tool_loop="off").call(without, "Hi")


def test_a_loop_is_refused() -> None:
    """It has no arguments."""
    policy = failover(GROQ, tool_loop="warn")

    with pytest.raises(ConfigurationError, match=r"tool_loop.*a loop has none"):
        iter(policy)
    with pytest.raises(ConfigurationError, match=r"tool_loop.*a loop has none"):
        policy.__aiter__()
    for attempt in policy.using(tool_loop="off"):
        with attempt as target:
            assert GROQ == target.key


def test_a_default_is_for_those_that_have_the_argument() -> None:
    """Loops and other functions are left alone, and stay on their healthy path."""
    configure(tool_loop="raise")
    policy = failover(GROQ)
    plain, with_messages = policy(without), ask_with(GROQ)

    assert GROQ == plain("Hi") == policy.call(without, "Hi")
    for attempt in policy:
        with attempt as target:
            assert GROQ == target.key
    with pytest.raises(ToolLoopError):
        with_messages(STUCK)
    with pytest.raises(ToolLoopError):
        policy.call(key_of, STUCK)
    assert is_inlined(plain)
    assert not is_inlined(with_messages)


def is_inlined(function: Any) -> bool:
    """Return whether the wrapper of a function makes its calls by itself."""
    circuit = next(
        value for name, value in function.__globals__.items() if name.endswith("_r_circuit")
    )
    return type(circuit).__name__ == "Circuit"


def test_a_default_holds_for_functions_decorated_before() -> None:
    """And is taken back."""
    ask = ask_with()
    assert GROQ == ask(STUCK)
    configure(tool_loop=ToolLoop("raise"))
    assert ToolLoop("raise") == settings().tool_loop
    with pytest.raises(ToolLoopError):
        ask(STUCK)
    configure(tool_loop=None)

    assert GROQ == ask(STUCK)
    assert "off" == settings().tool_loop


def test_a_default_of_another_argument_is_for_those_that_have_that() -> None:
    """Which functions these are depends on the default in force."""
    ask = ask_with(GROQ)
    configure(tool_loop=ToolLoop("raise", argument="contents"))

    @failover(GROQ)
    def think(target: Target, contents: Any) -> str:
        return target.key

    @failover(GROQ)
    def answer(target: Target, messages: Any) -> str:
        return target.key

    with pytest.raises(ToolLoopError):
        think(STUCK)
    assert GROQ == answer(STUCK)
    assert GROQ == ask(STUCK)  # it takes **kwargs, but was passed no such argument


def test_what_a_policy_names_goes_before_the_default() -> None:
    """Off is a value like others."""
    configure(tool_loop="raise")

    assert GROQ == ask_with(tool_loop="off")(STUCK)


def test_a_function_without_the_option_stays_on_its_healthy_path() -> None:
    """What is not configured costs nothing."""
    ask, off = ask_with(GROQ), ask_with(GROQ, tool_loop="off")
    ask(), off()

    assert is_inlined(ask)
    assert is_inlined(off)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"action": "stop"},
        {"action": None},
        {"action": True},
        {"repeats": 1},
        {"repeats": 0},
        {"repeats": -3},
        {"repeats": 2.5},
        {"repeats": True},
        {"repeats": None},
        {"argument": ""},
        {"argument": "a b"},
        {"argument": 3},
        {"argument": None},
    ],
    ids=str,
)
def test_wrong_values_are_refused_where_they_are_written(given: dict[str, Any]) -> None:
    """The message names the option."""
    with pytest.raises(ConfigurationError, match=next(iter(given))):
        ToolLoop(**given)


def test_the_options_are_a_frozen_value() -> None:
    """It can be compared, hashed and copied; all but the action are keywords."""
    loop = ToolLoop("raise", repeats=4)

    assert loop == ToolLoop(action="raise", repeats=4) == pickle.loads(pickle.dumps(loop))
    assert loop == copy.deepcopy(loop)
    assert hash(loop) == hash(copy.copy(loop))
    assert "resilient_llm" == ToolLoop.__module__
    assert ToolLoop() == ToolLoop("warn", repeats=3, argument="messages")
    with pytest.raises(FrozenInstanceError):
        loop.repeats = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        ToolLoop("raise", 4)  # type: ignore[misc]


def test_what_is_sent_to_another_process_arrives_whole() -> None:
    """A policy, a decorated function, the settings, the error and the event."""
    policy = failover([GROQ], tool_loop=ToolLoop("raise", repeats=2))
    arrived = pickle.loads(pickle.dumps(policy))
    configure(tool_loop=ToolLoop("warn"))
    with capture_events(ToolLoopDetected) as seen, pytest.raises(ToolLoopError) as caught:
        arrived.call(key_of, HEALTHY)
    error, event = pickle.loads(pickle.dumps((caught.value, seen[0])))

    assert pickle.loads(pickle.dumps(settings())) == settings()
    assert pickle.loads(pickle.dumps(second)) is second
    assert ("search", 2, GROQ, "tool_loop") == (
        error.tool,
        error.repeats,
        error.target,
        error.reason,
    )
    assert str(caught.value) == str(error)
    assert seen[0] == event


def test_a_simulation_has_no_conversation() -> None:
    """The option of a policy, and a default, break none."""
    weather = {GROQ: Weather()}
    configure(tool_loop="raise")

    for policy in (failover(GROQ), failover(GROQ, tool_loop="raise"), ask_with(GROQ)):
        report = simulate(policy, weather, seconds=5.0)
        assert 1.0 == report.served


def test_members_of_an_exhausted_chain_may_be_such_errors() -> None:
    """An inner call ended with one for each target."""
    inner = ask_with(tool_loop="raise")

    @failover(["outer/a", "outer/b"], attempts=1)
    def outer(target: Target) -> str:
        return inner(STUCK)

    with pytest.raises(ChainExhaustedError) as caught:
        outer()

    assert [ToolLoopError, ToolLoopError] == [type(each) for each in caught.value.exceptions]
    assert ErrorKind.REJECTED is caught.value.kind
