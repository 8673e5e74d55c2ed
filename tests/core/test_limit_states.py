"""Several limits at once: taken whole or not at all, changed while attempts run, dropped when idle."""

from __future__ import annotations

import random

import pytest

from resilient_llm import Target
from resilient_llm._core.circuit import window
from resilient_llm._core.limits.limit_states import LimitRefusal, LimitState, LimitStates, Pass
from resilient_llm._values.limit import Applied, Limit, applied_limits, merged_limits


@pytest.fixture(params=[True, False], ids=["lock-free", "locked"], autouse=True)
def lock_free(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs with both kinds of places and buckets."""
    monkeypatch.setattr(window, "LOCK_FREE", request.param)


def _state(key: str = "groq", **options: int) -> LimitState:
    return LimitState(key, Limit(**options))  # type: ignore[arg-type]  # whole numbers only


def _left(state: LimitState, now: float = 0.0) -> tuple[int | None, float | None, float | None]:
    """Return ``(attempts in flight, requests left, tokens left)``."""
    return (
        None if state.places is None else state.places.running,
        None if state.requests is None else state.requests.level(now),
        None if state.tokens is None else state.tokens.level(now),
    )


def test_everything_is_taken() -> None:
    """An attempt takes a place, a request and its tokens of each limit."""
    state, other = _state(requests=5, tokens=1_000, max_concurrent=2), _state("tag:eu", requests=3)

    attempt = Pass([state, other], 300)

    assert None is attempt.take(0.0)
    assert ((1, 4.0, 700.0), (None, 2.0, None)) == (_left(state), _left(other))


def test_what_is_taken_is_counted() -> None:
    """And gives back all of it, or keeps what it has used."""
    state = _state(requests=5, tokens=1_000, max_concurrent=2)
    first, second = Pass([state], 300), Pass([state], 200)
    assert (None, None) == (first.take(0.0), second.take(0.0))
    assert (2, 3.0, 500.0) == _left(state)

    first.give_back()
    assert (1, 4.0, 800.0) == _left(state)

    second.end(50, 0.0)
    second.end(50, 0.0)
    second.give_back()
    assert (0, 4.0, 950.0) == _left(state)


def test_a_request_that_was_sent_stays_counted() -> None:
    """The end of an attempt gives no request back, and without a usage keeps the estimate."""
    state = _state(requests=5, tokens=1_000, max_concurrent=2)
    attempt = Pass([state], 300)
    attempt.take(0.0)

    attempt.end(None, 0.0)

    assert (0, 4.0, 700.0) == _left(state)


@pytest.mark.parametrize(
    ("first", "second", "refusal"),
    [
        (
            {"max_concurrent": 1},
            {"requests": 1},
            LimitRefusal("concurrency", "a", None),
        ),
        ({"requests": 1}, {"requests": 2}, LimitRefusal("request_limit", "a", 60.0)),
        ({"requests": 2}, {"tokens": 100}, LimitRefusal("token_limit", "b", 60.0)),
        ({"requests": 1}, {"tokens": 120}, LimitRefusal("request_limit", "a", 60.0)),
    ],
)
def test_a_refusal_gives_back_what_was_taken(
    first: dict[str, int], second: dict[str, int], refusal: LimitRefusal
) -> None:
    """One limit without room, and the others are as they were; the longest wait counts."""
    states = [_state("a", **first), _state("b", **second)]
    running = Pass(states, 100)
    assert None is running.take(0.0)
    before = [_left(each) for each in states]

    found = Pass(states, 100).take(0.0)

    assert refusal == found
    assert before == [_left(each) for each in states]


def test_a_call_above_a_bucket() -> None:
    """What no wait makes fit is named first."""
    states = [_state("a", requests=1), _state("b", tokens=100)]
    Pass(states[:1], 0).take(0.0)

    assert LimitRefusal("request_too_large", "b", None) == Pass(states, 101).take(0.0)


def test_a_changed_limit_starts_full_and_counts_on() -> None:
    """Attempts in flight count in the new limit, also those of a limit that had been taken away."""
    states = LimitStates()
    state = states.of(Applied("groq", Limit(requests=2, max_concurrent=2)))
    running = Pass([state], 0)
    running.take(0.0)

    assert state is states.of(Applied("groq", Limit(requests=2, max_concurrent=2)))
    assert (1, 1.0, None) == _left(state)
    assert state is states.of(Applied("groq", Limit(requests=9, max_concurrent=1)))
    assert (1, 9.0, None) == _left(state)
    refused = Pass([state], 0).take(0.0)
    assert refused
    assert "concurrency" == refused.reason

    states.of(Applied("groq", Limit(tokens=5)))
    assert None is Pass([state], 0).take(0.0)
    states.of(Applied("groq", Limit(max_concurrent=2)))
    assert (1, None, None) == _left(state)
    running.end(None, 0.0)
    assert (0, None, None) == _left(state)


def test_limits_that_are_gone() -> None:
    """What no limit names is dropped, as soon as nothing of it is in flight."""
    states, limits = LimitStates(), merged_limits({}, {"groq": Limit(max_concurrent=1)})
    busy = states.of(Applied("xai", Limit(max_concurrent=1, requests=5)))
    running = Pass([busy], 0)
    running.take(0.0)
    for key in ("groq", "openai", "tag:eu", "mistral"):
        states.of(Applied(key, Limit(max_concurrent=1)))

    states.keep_only(limits, ["openai"])
    assert ["groq", "openai", "xai"] == sorted(states._states)
    assert None is Pass([busy], 0).take(0.0)

    running.end(None, 0.0)
    busy.places = None
    states.keep_only(limits, [])
    assert ["groq"] == sorted(states._states)


def test_a_reset_fills_the_buckets() -> None:
    """Forgetting buckets keeps what is in flight."""
    states = LimitStates()
    state = states.of(Applied("groq", Limit(requests=5, max_concurrent=2)))
    Pass([state], 0).take(0.0)
    held = Pass([state], 0)
    held.take(0.0)

    states.forget_buckets()

    assert (1, 5.0, None) == _left(state)


def test_a_fork_begins_anew() -> None:
    """The child has no attempts in flight and full buckets."""
    states, applied = LimitStates(), Applied("groq", Limit(requests=5, max_concurrent=1))
    running = Pass([states.of(applied)], 0)
    running.take(0.0)

    states.after_fork()
    running.end(None, 0.0)

    assert (0, 5.0, None) == _left(states.of(applied))


def test_many_attempts_leave_nothing() -> None:
    """Refused, given back or ended, with limits of a target, its provider and its tags."""
    limits = merged_limits(
        {},
        {
            "groq": Limit(requests=600, tokens=90_000, max_concurrent=5),
            "groq/llama": Limit(requests=500, burst=20),
            "tag:eu": Limit(max_concurrent=4, tokens=100_000),
        },
    )
    target, states, rng = Target("groq/llama", tags=["eu"]), LimitStates(), random.Random(5)
    running: list[Pass] = []
    reasons: set[str] = set()
    now = 0.0
    for _ in range(20_000):
        now += 0.02
        found = applied_limits(limits, target.key, target.provider_key, target.tags)
        attempt = Pass(map(states.of, found), rng.randrange(400))
        refusal = attempt.take(now)
        if refusal is not None:
            reasons.add(refusal.reason)
        elif rng.random() < 0.1:
            attempt.give_back()
        else:
            running.append(attempt)
        while running and rng.random() < 0.5:
            running.pop(rng.randrange(len(running))).end(rng.randrange(500), now)
    for attempt in running:
        attempt.end(None, now)

    assert {"concurrency", "request_limit", "token_limit"} == reasons
    for state in states._states.values():
        assert state.places is None or (0, 0) == (state.places.running, state.places.waiting)
