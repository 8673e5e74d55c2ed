"""Limits, budgets and rate-limit headers at the same time: one order, one estimate, one booking."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from resilient_llm import (
    Budget,
    BudgetExceededError,
    ChainExhaustedError,
    Limit,
    SpendRecorded,
    Target,
    TargetSkipped,
    ToolLoopError,
    Usage,
    bench_model,
    can_call,
    configure,
    failover,
    observe,
    rate_limits,
    spend,
)
from resilient_llm._core.limits.held import TargetLimits
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import FakeClock, capture_events, http_error
from tests.support.ways import GROQ, OPENAI, ProviderError

TEXT = "x" * 400
"""100 tokens."""
USED = {
    "choices": [{"message": {"content": "y" * 80}}],
    "usage": {"prompt_tokens": 70, "completion_tokens": 5, "total_tokens": 75},
}
UNKNOWN = {"choices": [{"message": {"content": ""}}]}
PRICED = Target(GROQ, price=(1, 2), max_output=50)
"""An attempt with `TEXT` reserves 150 tokens."""


@pytest.fixture(autouse=True)
def _both(clock: FakeClock) -> None:
    configure(
        limits={"groq": Limit(requests=10, tokens=10_000, per="day", max_concurrent=2)},
        budgets=[Budget(tokens=10_000, of="groq", name="tokens")],
    )


def limits() -> TargetLimits:
    found = runtime.limits.of("groq", "groq")
    assert found is not None
    return found


def taken() -> tuple[int, int, int]:
    """Return the places, requests and tokens that are taken of the limit."""
    state = limits().all[0]
    now = runtime.clock()
    assert state.requests is not None
    assert state.tokens is not None
    return (
        state.places.running,
        round(10 - state.requests.level(now)),
        round(10_000 - state.tokens.level(now)),
    )


def booked() -> tuple[int, int, int]:
    """Return what the budget has spent and reserved, and its calls."""
    (row,) = spend()
    return int(row.spent), int(row.reserved), row.calls


def answered() -> Any:
    return USED


def unknown() -> Any:
    return UNKNOWN


def refused() -> Any:
    raise http_error(500)


def unconnected() -> Any:
    raise ConnectionRefusedError(111, "Connection refused")


def broken() -> Any:
    raise TimeoutError


@pytest.mark.parametrize(
    ("provider", "tokens"),
    [(answered, 75), (unknown, 150), (refused, 0), (unconnected, 0), (broken, 100)],
    ids=["usage", "no usage", "status", "unsent", "timeout"],
)
def test_a_bucket_of_tokens_settles_what_a_budget_books(
    provider: Callable[[], Any], tokens: int
) -> None:
    """Both start with the same estimate, and end with the same row of one table."""
    seen: list[tuple[int, int]] = []

    @failover([PRICED], attempts=1)
    def ask(target: Target, prompt: str) -> Any:
        seen.append((taken()[2], booked()[1]))
        return provider()

    try:
        ask(TEXT)
    except ChainExhaustedError:
        pass

    assert [(150, 150)] == seen
    assert (0, tokens) == (taken()[0], taken()[2])
    assert (tokens, 0) == booked()[:2]


@pytest.mark.parametrize("budgets", [True, False], ids=["with budgets", "without"])
@pytest.mark.parametrize("is_stream", [False, True], ids=["answer", "stream"])
def test_what_was_used_is_read_once(budgets: bool, is_stream: bool) -> None:
    """By ``usage=`` as well, for whoever asks."""
    if not budgets:
        configure(budgets=[])
    read: list[object] = []

    def told(item: object) -> Usage | None:
        read.append(item)
        return Usage(30, 3)

    def ask(target: Target, prompt: str) -> Any:
        return iter(["a", "b"]) if is_stream else "a"

    answer = failover([PRICED], usage=told)(ask)(TEXT)
    if is_stream:
        list(answer)

    assert (["a", "b"] if is_stream else ["a"]) == read
    assert 33 == taken()[2]
    assert not budgets or (33, 0, 1) == booked()


def test_the_estimate_is_made_once_for_all_who_ask() -> None:
    asked: list[str] = []

    def told(prompt: str) -> int:
        asked.append(prompt)
        return 7

    @failover([PRICED, Target("groq/b", max_output=5)], tokens=told)
    def ask(target: Target, prompt: str) -> Any:
        raise http_error(500)

    with pytest.raises(ChainExhaustedError):
        ask(TEXT)

    assert [TEXT] == asked


def test_a_refusal_of_a_budget_gives_back_what_limits_gave() -> None:
    """The place, the request and the tokens; the call goes on with the next target."""
    configure(budgets=[Budget(tokens=149, of="groq", name="tokens")])

    @failover([PRICED, Target(OPENAI, max_output=1)])
    def ask(target: Target, prompt: str) -> str:
        return target.key

    with capture_events() as events:
        assert OPENAI == ask(TEXT)

    skipped = [each for each in events if type(each).__name__ == "TargetSkipped"]
    assert ["budget tokens"] == [each.reason for each in skipped]  # type: ignore[attr-defined]
    assert (0, 0, 0) == taken()
    assert (0, 0, 0) == booked()


def test_a_figure_of_the_provider_gives_back_what_limits_gave() -> None:
    """And nothing is reserved: budgets are asked last."""
    headers = {
        "x-ratelimit-remaining-tokens": "140",
        "x-ratelimit-limit-tokens": "140",
        "x-ratelimit-reset-tokens": "1s",
    }
    answer = SimpleNamespace(response=SimpleNamespace(status_code=200, headers=headers))

    @failover([PRICED, Target(OPENAI, max_output=1)])
    def ask(target: Target, prompt: str) -> Any:
        return answer if target.key == GROQ else target.key

    ask("")
    before = taken(), booked()
    with capture_events() as events:
        assert OPENAI == ask(TEXT)

    skipped = [each for each in events if type(each).__name__ == "TargetSkipped"]
    assert ["token_limit"] == [each.reason for each in skipped]  # type: ignore[attr-defined]
    assert before == (taken(), booked())


def test_a_turn_that_a_budget_refuses_is_given_back() -> None:
    """A call that waited for a place does not keep it, and the next one in the queue gets it."""
    configure(
        limits={"groq": Limit(max_concurrent=1, max_queued=2)},
        budgets=[Budget(calls=1, of="groq", name="calls")],
    )
    inside, leave = threading.Event(), threading.Event()
    ends: list[str] = []

    @failover([PRICED])
    def ask(target: Target, prompt: str) -> str:
        inside.set()
        leave.wait(10)
        return prompt

    def call() -> None:
        try:
            ask(TEXT)
            ends.append("answered")
        except (BudgetExceededError, ChainExhaustedError) as error:
            ends.append(type(error).__name__)

    threads = [threading.Thread(target=call) for _ in range(3)]
    threads[0].start()
    assert inside.wait(10)
    for each in threads[1:]:
        each.start()
    leave.set()
    for each in threads:
        each.join(10)

    assert 1 == ends.count("answered")
    assert 3 == len(ends)
    assert (0, 0) == (limits().all[0].places.running, limits().all[0].places.waiting)


def test_places_alone_are_asked_by_the_call_where_budgets_are() -> None:
    """The wrapper that takes places by itself would book nothing."""
    configure(limits={"groq": Limit(max_concurrent=2)})

    @failover([PRICED])
    def ask(target: Target, prompt: str) -> Any:
        return USED

    ask(TEXT)
    found = [booked()]
    configure(budgets=[])
    ask(TEXT)
    configure(budgets=[Budget(tokens=10_000, of="groq", name="again")])
    for _ in range(2):
        ask(TEXT)
    found.append(booked())

    assert [(75, 0, 1), (150, 0, 2)] == found
    assert 0 == limits().all[0].places.running


def test_who_names_the_event_has_places_alone_booked() -> None:
    configure(limits={"groq": Limit(max_concurrent=2)}, budgets=[])
    seen: list[SpendRecorded] = []

    @failover([PRICED])
    def ask(target: Target, prompt: str) -> Any:
        return USED

    ask(TEXT)
    stop = observe(seen.append, SpendRecorded)
    ask(TEXT)
    stop()
    ask(TEXT)

    assert [Usage(70, 5)] == [each.usage for each in seen]


def test_limits_of_tokens_alone_tell_nobody_what_was_spent() -> None:
    """An observer of all events does not have calls booked."""
    configure(budgets=[])
    seen: list[str] = []
    observe(lambda event: seen.append(type(event).__name__))

    @failover([PRICED])
    def ask(target: Target, prompt: str) -> Any:
        return USED

    ask(TEXT)

    assert 75 == taken()[2]
    assert ["AttemptSucceeded"] == seen


@pytest.mark.parametrize("budgets", [True, False], ids=["with budgets", "without"])
def test_an_attempt_around_another_settles_its_call_alone(budgets: bool) -> None:
    """What the inner one has used is taken once from the bucket, as it is booked once."""
    if not budgets:
        configure(budgets=[])

    @failover([PRICED])
    def inner(target: Target, prompt: str) -> Any:
        return USED

    @failover([PRICED])
    def outer(target: Target, prompt: str) -> Any:
        return inner(prompt)

    outer(TEXT)

    assert (0, 2, 75) == taken()
    assert not budgets or (75, 0, 2) == booked()


def test_a_stream_collected_unread_gives_back_all() -> None:
    @failover([PRICED])
    def ask(target: Target, prompt: str) -> Iterator[str]:
        yield "a"
        yield "b"

    stream = ask(TEXT)
    next(stream)
    during = taken()[0], booked()[1]
    del stream
    gc.collect()

    assert (1, 150) == during
    assert 0 == taken()[0]
    assert (taken()[2], 0) == booked()[:2]


def test_the_order_of_the_guards() -> None:
    """Breaker, places, requests, tokens, budgets: the first that refuses is the reason."""
    told: list[str] = []

    def reason() -> str:
        return can_call([PRICED], tokens=200).reasons.get(GROQ, "")

    configure(budgets=[Budget(tokens=100, of="groq", name="tokens")])
    told.append(reason())
    configure(limits={"groq": Limit(tokens=100, per="day")})
    told.append(reason())
    configure(limits={"groq": Limit(tokens=100, requests=1, per="day")})

    @failover([Target("groq/other", max_output=1)])
    def ask(target: Target, prompt: str) -> str:
        told.append(reason())
        return prompt

    ask("")
    configure(limits={"groq": Limit(tokens=100, requests=1, per="day", max_concurrent=1)})
    ask("")
    bench_model(GROQ)
    told.append(reason())

    assert [
        "budget tokens",
        "request_too_large",
        "request_limit",
        "concurrency",
    ] == told[:4]
    assert told[4] not in told[:4]


@pytest.mark.parametrize("strategy", ["random", "weighted", "round_robin", "least_busy"])
def test_strategies_share_among_the_targets_that_budgets_leave(strategy: Any) -> None:
    """A target without room gets nothing, and its neighbour no double share."""
    configure(limits={"groq": None}, budgets=[Budget(calls=1, of="groq")])
    chain = [PRICED, Target(OPENAI, max_output=1), Target("own/llama", max_output=1)]
    ask = failover(chain, strategy=strategy).call
    runtime.rng.seed(1)
    while ask(_key_of) != GROQ:
        pass

    reached = [ask(_key_of) for _ in range(400)]

    assert 0 == reached.count(GROQ)
    assert 150 < reached.count(OPENAI) < 250


def _key_of(target: Target) -> str:
    return target.key


@pytest.mark.parametrize("mode", ["metrics_only", "disabled"])
def test_modes_of_the_breaker_change_nothing(mode: Any) -> None:
    """Limits and budgets refuse under each of them."""
    configure(
        breakers={"*": {"mode": mode}},
        limits={"groq": Limit(requests=2, per="day")},
        budgets=[Budget(calls=1, of="groq/b", name="b")],
    )
    chain = [PRICED, Target("groq/b", max_output=1), Target(OPENAI, max_output=1)]
    reasons: list[str] = []
    observe(lambda event: reasons.append(event.reason), TargetSkipped)

    found = [failover(chain[start:]).call(_key_of) for start in (1, 1, 0, 0)]

    assert ["groq/b", OPENAI, GROQ, OPENAI] == found
    assert ["budget b", "request_limit", "request_limit"] == reasons


def test_a_tool_loop_is_found_before_anything_is_reserved() -> None:
    def call(number: int) -> dict[str, Any]:
        function = {"name": "look", "arguments": "{}"}
        made = {"id": str(number), "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [made]}

    @failover([PRICED], tool_loop="raise")
    def ask(target: Target, messages: list[dict[str, Any]]) -> Any:
        return USED

    with pytest.raises(ToolLoopError):
        ask([call(number) for number in range(3)])

    assert ((0, 0, 0), (0, 0, 0)) == (taken(), booked())


@pytest.mark.parametrize("is_error", [False, True], ids=["answer", "error"])
def test_headers_are_read_where_the_wrapper_takes_the_place(is_error: bool) -> None:
    """The next attempt asks what was reported, and the place is free each time."""
    configure(limits={"groq": Limit(max_concurrent=1)}, budgets=[])
    headers = {
        "x-ratelimit-remaining-tokens": "90",
        "x-ratelimit-limit-tokens": "90",
        "x-ratelimit-reset-tokens": "1s",
    }

    @failover([PRICED, Target(OPENAI, max_output=1)], attempts=1)
    def ask(target: Target, prompt: str) -> Any:
        if target.key != GROQ:
            return target.key
        if is_error:
            raise ProviderError(500, headers=headers)
        return SimpleNamespace(response=SimpleNamespace(status_code=200, headers=headers))

    ask("")
    found = rate_limits()[GROQ].tokens_remaining
    second = ask(TEXT)

    assert (90, OPENAI) == (found, second)
    assert "token_limit" == can_call(ask, tokens=150).reasons[GROQ]
    assert 0 == limits().all[0].places.running
