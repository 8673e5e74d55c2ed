"""What is in flight on each key: counts that are exact, and that leave nothing behind."""

from __future__ import annotations

import gc
import sys
import threading

import pytest

from resilient_llm import Target
from resilient_llm._core.circuit import window
from resilient_llm._core.counts import Ledger, Names
from resilient_llm._core.in_flight import FunctionInFlight, InFlight, KeysInFlight

A, B = Target("groq/a"), Target("openai/b")


class User:
    """Somebody who chooses by the counts."""


def test_running_is_what_began_less_what_ended() -> None:
    """An attempt is counted from its begin to its end."""
    counts = InFlight()

    counts.begin()
    counts.begin()
    counts.end()

    assert 1 == counts.running


def test_functions_share_the_counts_of_a_key() -> None:
    """Two functions with the same target count in the same place."""
    keys = KeysInFlight()
    one, other = FunctionInFlight(keys, [A, B], None), FunctionInFlight(keys, [A], None)

    one.target(A.key).begin()
    other.target(A.key).begin()

    assert 2 == keys.of(A.key).running
    assert 0 == keys.of(B.key).running


def test_each_way_to_end_an_attempt() -> None:
    """An attempt ends by its answer, by the events that end one, or because nothing was asked."""
    keys = KeysInFlight()
    function = FunctionInFlight(keys, [A], None)
    target = function.target(A.key)
    for _ in range(5):
        target.begin()

    target.answer(0.1)
    function.note("AttemptSucceeded", A.key, {"seconds": 0.1})
    function.note("AttemptFailed", A.key, {})
    function.note("AttemptCancelled", A.key, {})
    target.end()
    for other in ("RetryScheduled", "FailedOver", "TargetSkipped", "CallFailed", "HedgeStarted"):
        function.note(other, A.key, {})

    assert 0 == keys.of(A.key).running


def test_an_exporter_counts_the_same_besides() -> None:
    """What an exporter of metrics counts is passed on to it."""
    ledger = Ledger((1.0,), Names(10))
    exported = ledger.function("app.ask")
    function = FunctionInFlight(KeysInFlight(), [A], exported)
    target = function.target(A.key)

    target.begin()
    target.answer(0.5)
    target.begin()
    target.end()
    function.call_failed()
    function.call_cancelled()
    function.skipped(A.key, "benched", manual=False)
    function.note("CallFailed", A.key, {})

    counted = exported.target(A.key)
    assert (2, [1, 0], 1) == (counted.begun, counted.answers, counted.ended)
    assert (2, 1) == (exported.failed, exported.cancelled)
    assert 1 == sum(ledger.skips.values())


def test_is_used_while_a_user_lives() -> None:
    """Counts are needed as long as somebody who chooses by them exists."""
    keys, user, other = KeysInFlight(), User(), User()
    assert not keys.is_used

    keys.use(user)
    keys.use(user)
    keys.use(other)
    keys.leave(other)
    assert keys.is_used

    del user
    gc.collect()
    assert not keys.is_used


def test_keys_that_nobody_calls_are_forgotten() -> None:
    """Counts of a key exist as long as a function that has it as a target."""
    keys = KeysInFlight()
    for number in range(1_000):
        FunctionInFlight(keys, [Target(f"tenant{number}/model")], None)
    gc.collect()

    assert 0 == len(keys._keys)


@pytest.mark.parametrize("lock_free", [True, False])
def test_threads_lose_no_count(monkeypatch: pytest.MonkeyPatch, lock_free: bool) -> None:
    """Counts are exact with many threads, with and without the lock."""
    monkeypatch.setattr(window, "LOCK_FREE", lock_free)
    counts, switch = InFlight(), sys.getswitchinterval()

    def work() -> None:
        for _ in range(20_000):
            counts.begin()
            counts.begin()
            counts.end()

    threads = [threading.Thread(target=work) for _ in range(4)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)

    assert 80_000 == counts.running
