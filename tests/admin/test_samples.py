"""The samples behind the bars of the page: what a point counts, and how many there are."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest

from resilient_llm import Target, admin, bench_model, breaker, configure, failover, unbench_model
from resilient_llm.admin import _samples, _watch
from resilient_llm.admin._samples import Samples
from resilient_llm.testing import FakeClock, http_error
from tests.support.asgi import TOKEN, Client

GROQ, OPENAI = "groq/llama", "openai/gpt"


@failover([GROQ, OPENAI], attempts=1)
def ask(target: Target, fails: bool = False) -> str:
    if fails and target.key == GROQ:
        raise http_error(503)
    return target.key


@pytest.fixture
def samples(clock: FakeClock) -> Samples:
    """Samples that have begun before anything happened."""
    configure(logging=False)
    made = Samples()
    made.take()
    return made


def _series(samples: Samples, key: str) -> list[tuple[int, int, bool]]:
    found = samples.of(key)
    return list(zip(found["calls"], found["errors"], found["benched"], strict=True))


def test_a_point_counts_calls_and_errors_since_the_last_one(samples: Samples) -> None:
    """Each of them is in one point; a quiet quarter of a minute is a point of nothing."""
    for _ in range(3):
        ask()
    samples.take()
    samples.take()
    ask()
    samples.take()

    assert [(3, 0, False), (0, 0, False), (1, 0, False)] == _series(samples, GROQ)
    assert [(3, 0, False), (0, 0, False), (1, 0, False)] == _series(samples, "groq")


def test_failed_attempts_are_errors(samples: Samples) -> None:
    """They count for the target and its provider; the call that another one served counts there."""
    for _ in range(2):
        samples.failed(GROQ)  # as the thread does for each event
        ask(fails=True)
    samples.take()

    assert [(2, 2, False)] == _series(samples, GROQ)
    assert [(2, 2, False)] == _series(samples, "groq")
    assert [(2, 0, False)] == _series(samples, OPENAI)


def test_errors_of_a_guard_show_too(samples: Samples) -> None:
    """A guarded block emits no event of an attempt, so its errors are seen in the breaker's counts."""
    for _ in range(2):
        with suppress(Exception), breaker("openai"):
            raise http_error(503)
    samples.take()
    samples.take()

    assert [(2, 2, False), (0, 0, False)] == _series(samples, "openai")


def test_benches_are_marked_also_those_of_the_provider(samples: Samples) -> None:
    """A point says whether the key could be called at its end."""
    ask()
    bench_model("groq")
    samples.take()
    unbench_model("groq")
    samples.take()

    assert [True, False] == samples.of(GROQ)["benched"]
    assert [True, False] == samples.of("groq")["benched"]


def test_15_minutes_are_kept(samples: Samples) -> None:
    """60 points, one every 15 seconds; the oldest go."""
    assert (15.0, 60) == (_samples.EVERY, _samples.POINTS)
    for number in range(70):
        for _ in range(number):
            ask()
        samples.take()

    assert list(range(10, 70)) == samples.of(GROQ)["calls"]


def test_what_was_before_is_no_point(clock: FakeClock) -> None:
    """Nobody knows when that happened which was counted before the first look."""
    for _ in range(5):
        ask()
    samples = Samples()
    samples.take()
    samples.take()

    assert [(0, 0, False)] == _series(samples, GROQ)


def test_at_most_1000_keys_are_sampled(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    """More keys than that have no bars, and take no memory."""
    assert 1000 == _samples.MOST_KEYS
    monkeypatch.setattr(_samples, "MOST_KEYS", 4)
    for number in range(10):
        bench_model(f"key{number}")
        samples.failed(f"key{number}/x")
    samples.take()

    assert 4 == len(samples._series)
    assert [1, 1, 1, 1, 0] == [len(samples.of(f"key{number}")["calls"]) for number in range(5)]


def test_a_key_that_is_gone_is_forgotten(samples: Samples) -> None:
    """The series of a key ends with its circuit."""
    breaker("gone").record(None, 0.1)
    samples.take()
    from resilient_llm.testing import isolated

    with isolated():
        samples.take()

    assert {} == samples._series


def test_the_thread_takes_a_sample_every_15_seconds(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is given them with each target."""
    now = [1000.0]
    monkeypatch.setattr(_watch.SystemClock, "monotonic", staticmethod(lambda: now[0]))
    app: Any = admin.app(authorize=admin.token(TOKEN))
    watch = app._watch
    assert watch.catch_up(10.0)
    for _ in range(4):
        ask(fails=True)
    now[0] += 14.9
    assert watch.catch_up(10.0)
    assert [] == watch.samples.of(GROQ)["calls"]
    now[0] += 0.2
    assert watch.catch_up(10.0)

    assert ([4], [4]) == tuple(watch.samples.of(GROQ)[name] for name in ("calls", "errors"))


def test_targets_have_their_samples(client: Client) -> None:
    """Three lists of the same length, and when the newest point was taken."""
    ask()

    for row in client.get("/api/targets").json:
        samples = row["samples"]
        assert {"every", "until", "calls", "errors", "benched"} == samples.keys()
        assert datetime.fromisoformat(samples["until"]).tzinfo is not None
        assert len(samples["calls"]) == len(samples["errors"]) == len(samples["benched"])
