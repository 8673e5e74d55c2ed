"""`Limit(tokens=…)`: what a call is estimated at, and what it has used when it is over."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import anyio
import pytest

from resilient_llm import (
    CallRejectedError,
    ChainExhaustedError,
    Limit,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    configure,
    failover,
)
from resilient_llm._binding.demands import Demands
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import http_error
from tests.support.ways import GROQ, OPENAI

TEXT = "x" * 400
"""100 tokens."""
ANSWER = {"choices": [{"message": {"content": "y" * 80}}]}
"""20 tokens."""
USED = {**ANSWER, "usage": {"prompt_tokens": 70, "completion_tokens": 5, "total_tokens": 75}}


@pytest.fixture(autouse=True)
def _limited(clock: Any) -> None:
    configure(limits={"groq": Limit(tokens=10_000, per="day")})


def used() -> int:
    """Return what the bucket of the provider lacks."""
    limits = runtime.limits.of("groq", "groq")
    assert limits is not None
    bucket = limits.all[0].tokens
    assert bucket is not None
    return round(10_000 - bucket.level(runtime.clock()))


# The estimate, as long as the attempt runs.


@pytest.mark.parametrize(
    ("arguments", "tokens"),
    [
        ({}, 100),
        ({"max_tokens": 50}, 150),
        ({"max_completion_tokens": 50}, 150),
        ({"max_output_tokens": 50, "n": 3}, 250),
        ({"extra": "y" * 5}, 102),
        ({"image": b"0123"}, 100),
        (
            {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}]},
            900,
        ),
    ],
    ids=["text", "max_tokens", "max_completion_tokens", "n", "rounded up", "bytes", "image"],
)
def test_the_estimate(arguments: dict[str, Any], tokens: int) -> None:
    seen: list[int] = []

    @failover([GROQ])
    def ask(target: Target, prompt: str, **options: Any) -> str:
        seen.append(used())
        return prompt

    ask(TEXT, **arguments)

    assert tokens <= seen[0] <= tokens + 3


def test_an_unknown_output_is_that_of_the_target() -> None:
    seen: list[int] = []

    @failover([Target(GROQ, max_output=64)])
    def ask(target: Target, prompt: str, max_tokens: int | None = None) -> None:
        seen.append(used())

    ask(TEXT)

    assert [164] == seen


@pytest.mark.parametrize("is_asked", [False, True], ids=["number", "function"])
def test_the_input_that_the_policy_tells(is_asked: bool) -> None:
    """Asked once a call, however many targets and attempts there are."""
    asked: list[str] = []
    seen: list[int] = []

    def told(prompt: str) -> int:
        asked.append(prompt)
        return 7

    @failover(["groq/a", "groq/b"], tokens=told if is_asked else 7)
    def ask(target: Target, prompt: str) -> str:
        seen.append(used())
        if target.key == "groq/a":
            raise http_error(500)
        return prompt

    ask(TEXT)

    assert 7 == seen[0]
    assert asked == ([TEXT] if is_asked else [])


@pytest.mark.parametrize("given", [-1, "many", None], ids=str)
def test_nonsense_is_replaced_by_the_default(
    given: object, caplog: pytest.LogCaptureFixture
) -> None:
    """And logged once."""
    seen: list[int] = []

    def nonsense(prompt: str) -> Any:
        return given

    @failover([GROQ], tokens=nonsense)
    def ask(target: Target, prompt: str) -> None:
        seen.append(used())
        raise http_error(400)

    with caplog.at_level(logging.WARNING, "resilient_llm"):
        for _ in range(2):
            with pytest.raises(ChainExhaustedError):
                ask(TEXT)

    assert [100, 100] == seen
    assert 1 == sum("default estimate" in each for each in caplog.messages)


def test_a_loop_knows_no_input() -> None:
    for attempt in failover([Target(GROQ, max_output=64)]):
        with attempt:
            assert 64 == used()


def test_no_argument_is_read_without_a_limit_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(limits={"groq": Limit(requests=60, max_concurrent=1)})

    def unused(*args: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Demands, "of_attempts", unused)

    @failover([GROQ])
    def ask(target: Target, prompt: str) -> str:
        return prompt

    assert TEXT == ask(TEXT)


# What is refused.


def test_a_call_above_the_bucket_is_too_large() -> None:
    """At once, since no wait helps; the chain goes on."""
    reasons: list[tuple[str, float | None]] = []

    @failover([GROQ, OPENAI])
    def ask(target: Target, prompt: str) -> str:
        return target.key

    assert OPENAI == ask("x" * 40_001)
    with pytest.raises(ChainExhaustedError) as raised:
        failover([GROQ], tokens=10_001).call(_key_of)
    inner = raised.value.exceptions[0]
    assert isinstance(inner, CallRejectedError)
    reasons.append((inner.reason, inner.retry_after))

    assert [("request_too_large", None)] == reasons
    assert 0 == used()


def _key_of(target: Target) -> str:
    return target.key


def test_a_call_waits_for_as_long_as_it_needs(clock: Any) -> None:
    configure(limits={"groq": Limit(tokens=600)})

    def ask(target: Target) -> None:
        return None

    failover([GROQ], tokens=600).call(ask)

    failover([GROQ], tokens=100).call(ask)

    assert 10.0 == pytest.approx(sum(clock.sleeps))


def test_a_large_target_is_not_live_for_a_large_call() -> None:
    """What is live depends on this call: the only other target is too small for it."""
    configure(limits={"openai": Limit(tokens=10)})

    async def main() -> float | None:
        @failover([GROQ, OPENAI], timeout=20.0, tokens=1_000)
        async def ask(target: Target) -> None:
            await asyncio.sleep(0)
            raise http_error(500)

        with pytest.raises(ChainExhaustedError):
            await ask()
        async for attempt in failover([GROQ, OPENAI], timeout=20.0, tokens=1_000):
            async with attempt:
                return attempt.remaining
        return None

    assert 20.0 == anyio.run(main)


# What is booked.


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [(USED, 75), (ANSWER, 120), ("y" * 80, 120), (None, 150), (3, 150)],
    ids=["usage", "text of an answer", "text", "nothing", "a number"],
)
@pytest.mark.parametrize("rejects", [False, True], ids=["good", "rejected"])
def test_an_answer(answer: object, tokens: int, rejects: bool) -> None:
    """Its usage; else the estimate of the input and its text; else all that was taken."""

    @failover([GROQ], reject=(lambda answer: rejects), attempts=1)
    def ask(target: Target, prompt: str, max_tokens: int = 50) -> Any:
        return answer

    if rejects:
        with pytest.raises(ChainExhaustedError):
            ask(TEXT)
    else:
        ask(TEXT)

    assert tokens == used()


@pytest.mark.parametrize(
    ("error", "tokens"),
    [
        (TimeoutError(), 100),
        (http_error(500), 0),
        (http_error(429), 0),
        (ConnectionRefusedError(), 0),
        (TypeError("mistake"), 100),
    ],
    ids=["timeout", "500", "429", "not connected", "mistake"],
)
def test_a_failure(error: Exception, tokens: int) -> None:
    @failover([GROQ], attempts=1)
    def ask(target: Target, prompt: str, max_tokens: int = 50) -> None:
        raise error

    with pytest.raises((ChainExhaustedError, TypeError)):
        ask(TEXT)

    assert tokens == used()


def test_a_debt_delays_later_calls(clock: Any) -> None:
    """An answer that is larger than its estimate."""
    configure(limits={"groq": Limit(tokens=100)}, max_wait=100.0)

    @failover([GROQ], tokens=10)
    def ask(target: Target) -> Any:
        return {"usage": {"prompt_tokens": 100, "completion_tokens": 100, "total_tokens": 200}}

    ask()
    ask()

    assert 66.0 == pytest.approx(sum(clock.sleeps))  # 110 of 100 tokens in 60 s


@pytest.mark.parametrize(
    ("stream", "tokens"),
    [
        (["y" * 40, "y" * 40], 120),
        ([{"choices": [{"delta": {"content": "y"}}]}, {"choices": [], **USED}], 75),
    ],
    ids=["text", "usage"],
)
@pytest.mark.parametrize("policy", [None, StreamPolicy()], ids=["found", "known"])
def test_a_stream(stream: list[Any], tokens: int, policy: StreamPolicy | None) -> None:
    @failover([GROQ], stream=policy or StreamPolicy(on_truncated="accept"))
    def ask(target: Target, prompt: str, max_tokens: int = 50) -> Any:
        yield from stream

    list(ask(TEXT))

    assert tokens == used()


def test_a_stream_that_is_left_or_breaks() -> None:
    """The input's estimate, and what came."""

    @failover([GROQ], stream=StreamPolicy(on_interrupt="raise"))
    def ask(target: Target, prompt: str, max_tokens: int = 50) -> Any:
        yield "y" * 40
        yield "y" * 40
        raise http_error(500)

    stream = ask(TEXT)
    next(stream)
    stream.close()
    left = used()
    with pytest.raises(StreamInterruptedError):
        list(ask(TEXT))

    assert [110, 120] == [left, used() - left]


def test_an_asynchronous_stream() -> None:
    @failover([GROQ], stream=StreamPolicy())
    async def ask(target: Target, prompt: str, max_tokens: int = 50) -> Any:
        for _ in range(2):
            yield "y" * 40

    async def main() -> None:
        stream: Any = ask(TEXT)
        assert 2 == len([str(item) async for item in stream])

    anyio.run(main)

    assert 120 == used()


def test_a_cancelled_attempt_and_a_lost_hedge() -> None:
    """The estimate of their input."""

    @failover([GROQ])
    async def ask(target: Target, prompt: str, max_tokens: int = 50) -> None:
        await anyio.sleep_forever()

    @failover([GROQ, OPENAI], hedge=1.0)
    async def raced(target: Target, prompt: str, max_tokens: int = 50) -> str:
        if target.key == GROQ:
            await anyio.sleep_forever()
        return target.key

    async def main(clock: Any) -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(ask, TEXT)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        assert 100 == used()
        async with anyio.create_task_group() as group:
            group.start_soon(raced, TEXT)
            await anyio.wait_all_tasks_blocked()
            clock.advance(1.0)
        assert 200 == used()

    anyio.run(main, runtime.time)
