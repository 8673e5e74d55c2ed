"""Spans and metrics agree with the events, and with how often a target was asked, to the last one.

Random scripts are played through every form in which a call can be made.
"""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from resilient_llm import (
    AttemptFailed,
    AttemptSucceeded,
    CallFailed,
    Event,
    StreamPolicy,
    Target,
    configure,
    failover,
)
from resilient_llm.testing import capture_events, fake_clock, isolated
from tests.binding.test_attempt_events import CALLS, ENDS, FORMS, Script
from tests.support.spans import Recorded, attributes, recorded
from tests.support.ways import ProviderError

SEEDS = 12


def outcome_of(event: Event) -> str:
    if isinstance(event, AttemptFailed):
        return event.kind.value
    return "ok" if isinstance(event, AttemptSucceeded) else "cancelled"


def disagreements(found: Recorded, events: list[Event], asked: int) -> dict[str, Any]:
    """Return ``{what does not agree: (what events or ledger say, what was recorded)}``."""
    ends = [event for event in events if isinstance(event, ENDS)]
    spans = [attributes(span) for span in found.attempts]
    calls = [attributes(span) for span in found.calls]
    by_outcome = Counter((outcome_of(event), event.target) for event in ends)
    counted_calls = Counter[str]()
    for (_, outcome), number in found.counts("resilient_llm.calls").items():
        counted_calls[outcome] += number
    ids = {span.context.span_id: attributes(span)["call_id"] for span in found.calls}
    both = {
        "asked": (asked, len(spans)),
        "attempts": (
            Counter((each.call_id, each.target, each.number, outcome_of(each)) for each in ends),
            Counter(tuple(each[name] for name in _IDENTITY) for each in spans),
        ),
        "reasons": (
            Counter(getattr(each, "reason", "") for each in ends),
            Counter(each.get("reason", "") for each in spans),
        ),
        "counted attempts": (by_outcome, found.counts("resilient_llm.attempts")),
        "durations": (
            Counter((target,) for outcome, target in by_outcome.elements() if outcome == "ok"),
            found.counts("resilient_llm.attempt.duration"),
        ),
        "failed calls": (
            sorted(each.call_id for each in events if isinstance(each, CallFailed)),
            sorted(each["call_id"] for each in calls if each["outcome"] == "failed"),
        ),
        "counted calls": (Counter(each["outcome"] for each in calls), counted_calls),
        "names of calls": (len(calls), len(set(ids.values()))),
        "numbers of attempts": (sum(each["attempts"] for each in calls), len(spans)),
        "parents": (
            [attributes(span)["call_id"] for span in found.attempts],
            [ids[span.parent.span_id] for span in found.attempts],
        ),
    }
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


_IDENTITY = ("call_id", "target", "attempt", "outcome")


class _Ledger(Script):
    """A script that counts all that was asked."""

    total = 0

    @property
    def asked(self) -> int:
        return self._asked

    @asked.setter
    def asked(self, value: int) -> None:
        if value:
            self.total += 1
        self._asked = value


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:attempts=", "ignore:timeout=")
def test_spans_agree_with_events_and_with_a_ledger(form: str) -> None:
    """Whatever a target, the caller, `reject`, a strategy or `on_interrupt` does."""
    for seed in range(SEEDS):
        with isolated(), fake_clock() as clock, capture_events() as events, recorded() as found:
            configure(logging=False)
            script = _Ledger(seed, clock)
            ask = FORMS[form](script)
            for _ in range(CALLS):
                with suppress(BaseException):  # the signals of a script too
                    ask()
            del ask
            gc.collect()
            wrong = disagreements(found, list(events), script.total)
        assert {} == wrong, seed


def in_threads(work: Callable[[random.Random], None], given: list[random.Random]) -> None:
    """Run a function in a thread for each, switched as often as can be."""
    before = sys.getswitchinterval()
    threads = [threading.Thread(target=work, args=(each,)) for each in given]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)


def test_they_agree_under_threads() -> None:
    """Chains, failures and streams in many threads, switched as often as can be."""
    asked: list[str] = []

    @failover(["groq/llama", "openai/gpt"], attempts=2, backoff=lambda n: 0.0)
    def ask(target: Target, rng: random.Random) -> str:
        asked.append(target.key)
        if rng.random() < 0.3:
            raise ProviderError(rng.choice([400, 503, 429]))
        return "hello"

    @failover(
        ["groq/llama", "openai/gpt"],
        backoff=lambda n: 0.0,
        stream=StreamPolicy(on_interrupt="restart"),
    )
    def stream(target: Target, rng: random.Random) -> Iterator[str]:
        asked.append(target.key)
        for _ in range(3):
            if rng.random() < 0.1:
                raise ProviderError(503)
            yield "x"

    def read(rng: random.Random) -> None:
        most = rng.choice([1, 9, 9])
        for number, _ in enumerate(stream(rng), 1):
            if number == most:
                break

    def work(rng: random.Random) -> None:
        for _ in range(25):
            with suppress(Exception):
                rng.choice([ask, read])(rng)

    configure(logging=False)
    with fake_clock(), capture_events() as events, recorded() as found:
        in_threads(work, [random.Random(seed) for seed in range(4)])
        gc.collect()
        wrong = disagreements(found, list(events), len(asked))

    assert {} == wrong
