"""The exporter for Prometheus: what a scrape says of calls, attempts, benches and functions."""

import asyncio
import contextlib
import gc
import math
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

prometheus_client = pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, Counter, Gauge  # noqa: E402

from resilient_llm import (  # noqa: E402
    ChainExhaustedError,
    ConfigurationError,
    NoCapableTargetError,
    StreamPolicy,
    Target,
    ToolLoopError,
    bench_model,
    breaker,
    configure,
    failover,
    list_benched,
    observe,
    reset,
    unbench_model,
)
from resilient_llm._core.circuit import window  # noqa: E402
from resilient_llm._runtime import call_ids  # noqa: E402
from resilient_llm._runtime.runtime import runtime  # noqa: E402
from resilient_llm._values import event_names  # noqa: E402
from resilient_llm.observers import prometheus  # noqa: E402
from resilient_llm.testing import FakeClock, isolated  # noqa: E402
from tests.support.moves import move_the_first  # noqa: E402
from tests.support.scrapes import scrape  # noqa: E402
from tests.support.ways import GROQ, OPENAI, ProviderError, StrangeError, down  # noqa: E402

CHAIN = [GROQ, OPENAI]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def installed(registry: CollectorRegistry) -> Iterator[Any]:
    uninstall = prometheus.install(registry)
    yield uninstall
    uninstall()


def name_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def asking(*outcomes: Exception | None, **options: Any) -> Any:
    """Return a function whose first target gives these outcomes in turn, then answers."""
    script = list(outcomes)
    options = {"attempts": 1, **options}

    @failover(chain=options.pop("chain", CHAIN), **options)
    def ask(target: Target) -> str:
        if target.key == GROQ and script:
            outcome = script.pop(0)
            if outcome is not None:
                raise outcome
        return target.key

    return ask


# --- calls and attempts ------------------------------------------------------------------------


def test_a_healthy_call_is_counted(registry: Any, installed: Any, clock: FakeClock) -> None:
    """A healthy call counts as a call, as an attempt and in the histogram, sum included."""

    @failover(chain=CHAIN)
    def ask(target: Target) -> str:
        clock.advance(0.3)
        return target.key

    for _ in range(5):
        ask()
    seen = scrape(registry)

    assert 5 == seen.get("calls_total", function=name_of(ask), outcome="ok")
    assert 0 == seen.get("calls_total", function=name_of(ask), outcome="failed")
    assert {(GROQ, "ok"): 5} == seen.rows("attempts_total", "target", "outcome")
    assert 5 == seen.get("attempt_seconds_count", target=GROQ)
    assert 1.5 == pytest.approx(seen.get("attempt_seconds_sum", target=GROQ))
    assert 0 == seen.get("attempt_seconds_bucket", target=GROQ, le="0.25")
    assert 5 == seen.get("attempt_seconds_bucket", target=GROQ, le="0.5")
    assert 5 == seen.get("attempt_seconds_bucket", target=GROQ, le="+Inf")


def test_a_bound_belongs_to_its_bucket(registry: Any, clock: FakeClock) -> None:
    """An attempt that takes exactly a bound is in that bucket, also where another registry has more."""
    other = CollectorRegistry()
    ends = [
        prometheus.install(registry, buckets=(1, 10)),
        prometheus.install(other, buckets=[0.5, 2.0, 5, math.inf]),
    ]
    seconds = [0.5, 1.0, 1.5, 2.0, 10.0, 11.0]

    @failover(chain=CHAIN)
    def ask(target: Target) -> str:
        clock.advance(seconds.pop(0))
        return target.key

    while seconds:
        ask()
    buckets = {
        name: {
            dict(row)["le"]: n
            for row, n in scrape(each).samples["attempt_seconds_bucket"].items()
            if dict(row)["target"] == GROQ
        }
        for name, each in (("first", registry), ("second", other))
    }
    for end in ends:
        end()

    assert {"1.0": 2, "10.0": 5, "+Inf": 6} == buckets["first"]
    assert {"0.5": 1, "2.0": 4, "5.0": 4, "+Inf": 6} == buckets["second"]


def test_a_failover_is_counted_at_every_step(
    registry: Any, installed: Any, clock: FakeClock
) -> None:
    """A failed attempt, its retry, the move to the next target and the answer each have a count."""
    ask = asking(ProviderError(500), ProviderError(500), attempts=2, backoff=lambda n: 1.0)

    assert OPENAI == ask()
    seen = scrape(registry)

    assert {(GROQ, "transient"): 2, (OPENAI, "ok"): 1} == seen.rows(
        "attempts_total", "target", "outcome"
    )
    assert {(GROQ, "backoff"): 1} == seen.rows("retries_total", "target", "source")
    assert {(GROQ, OPENAI, "server_error"): 1} == seen.rows(
        "failovers_total", "from_target", "to_target", "reason"
    )
    assert {(name_of(ask), "ok"): 1} == seen.rows("calls_total", "function", "outcome")
    assert 1 == seen.get("attempt_seconds_count", target=OPENAI)
    assert 0 == seen.get("attempt_seconds_count", target=GROQ)


def test_a_call_that_nobody_answers_has_failed(registry: Any, installed: Any) -> None:
    """A call that ends in an error is one failed call, whatever the number of its attempts."""

    @failover(chain=CHAIN, attempts=1)
    def ask(target: Target) -> str:
        raise down()

    with pytest.raises(ChainExhaustedError):
        ask()
    seen = scrape(registry)

    assert {(name_of(ask), "failed"): 1} == seen.rows("calls_total", "function", "outcome")
    assert {(GROQ, "transient"): 1, (OPENAI, "transient"): 1} == seen.rows(
        "attempts_total", "target", "outcome"
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ProviderError(401), "auth_dead"),
        (ProviderError(429), "rate_limited"),
        (ProviderError(400), "request_specific"),
        (StrangeError(), "unknown"),
        (MemoryError(), "memory_pressure"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_the_outcome_of_an_attempt_is_its_kind(
    error: Exception, kind: str, registry: Any, installed: Any
) -> None:
    """A failed attempt has the word of its ErrorKind as outcome."""
    ask = asking(error, on_unknown="transient")
    with contextlib.suppress(Exception):
        ask()

    expected = "transient" if kind == "unknown" else kind
    assert 1 == scrape(registry).get("attempts_total", target=GROQ, outcome=expected)


def test_the_loop_form_is_called_loop(registry: Any, installed: Any) -> None:
    """Calls of the loop form count under the function ``(loop)``."""
    policy = failover(chain=CHAIN, attempts=1)
    script = [down(), None, None]
    for _ in range(2):
        for attempt in policy:
            with attempt:
                if (outcome := script.pop(0)) is not None:
                    raise outcome
    seen = scrape(registry)

    assert {("(loop)", "ok"): 2} == seen.rows("calls_total", "function", "outcome")
    assert {(GROQ, "transient"): 1, (OPENAI, "ok"): 1, (GROQ, "ok"): 1} == seen.rows(
        "attempts_total", "target", "outcome"
    )


def test_an_attempt_of_a_loop_that_is_not_entered_is_none(registry: Any, installed: Any) -> None:
    """A loop that is left before an attempt is entered has made none, and leaves none in flight."""
    policy = failover(chain=CHAIN, attempts=2, backoff=lambda n: 0.0)
    next(iter(policy))
    for attempt in policy:
        if attempt.number == 2:
            break
        with attempt:
            raise down()
    del attempt
    gc.collect()
    seen = scrape(registry)

    assert {(GROQ, "transient"): 1} == seen.rows("attempts_total", "target", "outcome")
    assert {} == seen.rows("in_flight", "target")


def test_a_function_that_is_passed_has_its_own_name(registry: Any, installed: Any) -> None:
    """``policy.call(fn)`` counts under the name of the function."""

    def ask(target: Target) -> str:
        return target.key

    policy = failover(chain=CHAIN)
    policy.call(ask)

    assert {(name_of(ask), "ok"): 1} == scrape(registry).rows("calls_total", "function", "outcome")


def test_asynchronous_and_pinned_calls_count(registry: Any, installed: Any) -> None:
    """Asynchronous calls, pinned ones and those with a deadline count as all others do."""

    @failover(chain=CHAIN)
    async def ask(*, model: str | None = None) -> str:
        return str(model)

    @failover(chain=CHAIN, timeout=5, attempt_timeout=1)
    async def limited(target: Target) -> str:
        return target.key

    async def main() -> None:
        await ask()
        await ask(model="gpt")
        await limited()
        await limited()

    anyio.run(main)
    seen = scrape(registry)

    assert {(name_of(ask), "ok"): 2, (name_of(limited), "ok"): 2} == seen.rows(
        "calls_total", "function", "outcome"
    )
    assert {(GROQ, "ok"): 3, (OPENAI, "ok"): 1} == seen.rows("attempts_total", "target", "outcome")


def test_streams_count_to_their_end(registry: Any, installed: Any, clock: FakeClock) -> None:
    """A stream is in flight until its end; its first content has a histogram of its own."""

    @failover(chain=CHAIN, stream=StreamPolicy())
    def ask(target: Target) -> Iterator[str]:
        clock.advance(0.2)
        yield "a"
        clock.advance(2)
        yield "b"

    items = iter(ask())
    next(items)
    during = scrape(registry)
    list(items)
    after = scrape(registry)

    assert (1, 0) == (during.get("in_flight", target=GROQ), after.get("in_flight", target=GROQ))
    assert 0 == during.get("calls_total", function=name_of(ask), outcome="ok")
    assert 1 == during.get("first_content_seconds_count", target=GROQ)
    assert 1 == after.get("calls_total", function=name_of(ask), outcome="ok")
    assert 0.2 == pytest.approx(after.get("first_content_seconds_sum", target=GROQ))
    for name, bucket, next_one in (
        ("first_content_seconds_bucket", "0.1", "0.25"),
        ("attempt_seconds_bucket", "1.0", "2.5"),
    ):
        assert (0, 1) == tuple(after.get(name, target=GROQ, le=le) for le in (bucket, next_one))
    assert 2.2 == pytest.approx(after.get("attempt_seconds_sum", target=GROQ))


def test_a_stream_left_after_its_first_content_has_answered(registry: Any, installed: Any) -> None:
    """Whoever stops reading after content leaves an attempt that counts as ``ok``."""

    @failover(chain=CHAIN, stream=StreamPolicy())
    def ask(target: Target) -> Iterator[str]:
        yield "a"
        yield "b"

    items = ask()
    next(items)
    items.close()
    seen = scrape(registry)

    assert 1 == seen.get("attempts_total", target=GROQ, outcome="ok")
    assert 1 == seen.get("calls_total", function=name_of(ask), outcome="ok")
    assert 0 == seen.get("in_flight", target=GROQ)


def test_a_cancelled_call_is_cancelled(registry: Any, installed: Any) -> None:
    """A call that is cancelled counts as cancelled, and its attempt too."""

    @failover(chain=CHAIN)
    async def ask(target: Target) -> str:
        await anyio.sleep_forever()
        return ""

    async def main() -> None:
        with anyio.move_on_after(0):
            await ask()
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            in_flight.append(scrape(registry).get("in_flight", target=GROQ))
            group.cancel_scope.cancel()

    in_flight: list[float | None] = []
    anyio.run(main)
    seen = scrape(registry)

    assert [1] == in_flight
    assert 0 == seen.get("in_flight", target=GROQ)
    assert {(name_of(ask), "cancelled"): 2} == seen.rows("calls_total", "function", "outcome")
    assert {(GROQ, "cancelled"): 2} == seen.rows("attempts_total", "target", "outcome")


def test_a_call_that_is_cancelled_between_attempts_is_cancelled(
    registry: Any, installed: Any
) -> None:
    """A cancellation during a backoff cancels the call, and no attempt."""

    @failover(chain=CHAIN[:1], attempts=2, backoff=lambda n: 1000.0)
    async def ask(target: Target) -> str:
        raise down()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()

    anyio.run(main)
    seen = scrape(registry)

    assert {(name_of(ask), "cancelled"): 1} == seen.rows("calls_total", "function", "outcome")
    assert {(GROQ, "transient"): 1} == seen.rows("attempts_total", "target", "outcome")


def test_a_guard_is_neither_a_call_nor_an_attempt(registry: Any, installed: Any) -> None:
    """``with breaker(…)`` and ``.record()`` appear in the gauges only."""
    with breaker(GROQ):
        pass
    breaker(GROQ).record(down(), 0.1)
    seen = scrape(registry)

    assert {} == seen.samples.get("attempts_total", {})
    assert {} == seen.samples.get("calls_total", {})
    assert 0 == seen.get("state", target=GROQ)


# --- reasons -----------------------------------------------------------------------------------


def test_reasons_are_words_of_closed_sets(registry: Any, installed: Any, clock: FakeClock) -> None:
    """Texts of operators, of rules and of ``reject`` never become labels."""
    secret = "my own words, with a tenant's name"
    ask = asking(
        chain=[GROQ, OPENAI, "mistral/large"], reject=lambda answer: answer == GROQ and secret
    )
    ask()
    bench_model(GROQ, 60, reason=secret)
    ask()
    unbench_model(GROQ)
    bench_model(OPENAI, 60, reason="rate_limit")
    ask()
    configure(breakers={OPENAI: {"mode": "forced_open"}})
    ask()
    seen = scrape(registry)

    assert secret not in seen.text
    assert {(GROQ, OPENAI, "other"): 1, (GROQ, "mistral/large", "other"): 2} == seen.rows(
        "failovers_total", "from_target", "to_target", "reason"
    )
    assert {(GROQ, "manual"): 1, (OPENAI, "manual"): 1, (OPENAI, "forced_open"): 1} == seen.rows(
        "skips_total", "target", "reason"
    )


@pytest.mark.parametrize("needs", ["vision", lambda: "vision"], ids=["words", "function"])
def test_a_target_that_lacks_a_word_is_counted_as_skipped(
    registry: Any, installed: Any, needs: Any
) -> None:
    """Whoever answers then, and also where nobody can: that is a failed call without an attempt."""
    chain = [Target(GROQ, supports=()), Target(OPENAI, supports=("vision",))]
    ask = asking(chain=chain, needs=needs)
    refused = ask.using(chain=chain[:1])
    for _ in range(3):
        ask()
    with pytest.raises(NoCapableTargetError):
        refused()
    seen = scrape(registry)

    assert {(GROQ, "lacks"): 4} == seen.rows("skips_total", "target", "reason")
    assert {(OPENAI, "ok"): 3} == seen.rows("attempts_total", "target", "outcome")
    assert 3 == seen.get("calls_total", function=name_of(ask), outcome="ok")
    assert 1 == seen.get("calls_total", function=name_of(ask), outcome="failed")


def test_a_skip_has_the_reason_of_the_bench(
    registry: Any, installed: Any, clock: FakeClock
) -> None:
    """A benched target is skipped for the reason of its bench, by every call."""
    ask = asking(ProviderError(429, retry_after=50))
    for _ in range(4):
        ask()

    assert {(GROQ, "rate_limit"): 3} == scrape(registry).rows("skips_total", "target", "reason")


def test_hedges_and_moves_are_counted(registry: Any, installed: Any, clock: FakeClock) -> None:
    """By the target that was called and the slow one; by the target that moved."""
    counts = _counts()
    for _ in range(3):
        counts.note(event_names.HedgeStarted, OPENAI, {"number": 1, "delay": 0.5, "beside": GROQ})
    counts.note(event_names.HedgeStarted, GROQ, {"number": 1, "delay": 0.5, "beside": OPENAI})
    move_the_first(clock)
    seen = scrape(registry)

    assert {(OPENAI, GROQ): 3, (GROQ, OPENAI): 1} == seen.rows("hedges_total", "target", "beside")
    assert {GROQ: 1} == seen.rows("order_changes_total", "target")


def test_hedges_and_moves_make_no_more_rows_than_there_are_names(clock: FakeClock) -> None:
    """Keys beyond ``max_targets`` are ``other``, on both sides."""
    registry = CollectorRegistry()
    uninstall = prometheus.install(registry, max_targets=4)
    counts = _counts()
    for number in range(50):
        key, slow = f"a/{number}", f"a/{number + 1}"
        counts.note(event_names.HedgeStarted, key, {"number": 1, "delay": 0.5, "beside": slow})
        counts.note(event_names.OrderChanged, key, {"order": (key,)})
    seen = scrape(registry)
    uninstall()

    hedges = seen.rows("hedges_total", "target", "beside")
    moves = seen.rows("order_changes_total", "target")
    assert (50, 50) == (sum(hedges.values()), sum(moves.values()))
    assert {"a/0", "a/1", "a/2", "other"} == set(moves)
    assert len(hedges) <= 16


def test_tool_loops_are_counted(registry: Any, installed: Any) -> None:
    """By function and by what the guard did; a call that it ended has failed."""
    conversation = [{"type": "function_call", "name": "search", "arguments": "{}"}] * 3

    @failover([GROQ], tool_loop="warn")
    def ask(target: Target, messages: Any) -> str:
        return "yes"

    refusing = ask.using(tool_loop="raise")
    for _ in range(2):
        ask(conversation)
    ask([])
    with pytest.raises(ToolLoopError):
        refusing(conversation)
    seen, name = scrape(registry), f"{ask.__module__}.{ask.__qualname__}"

    loops = seen.rows("tool_loops_total", "function", "action")
    assert {(name, "warn"): 2, (name, "raise"): 1} == loops
    assert 3 == seen.rows("calls_total", "function", "outcome")[name, "ok"]
    assert 1 == seen.rows("calls_total", "function", "outcome")[name, "failed"]


def _counts() -> Any:
    """Return where the calls of a function are counted now."""
    ledger = runtime.dispatcher.ledger
    assert ledger is not None
    return ledger.function("app.ask")


# --- gauges ------------------------------------------------------------------------------------


def test_the_gauges_follow_a_circuit(registry: Any, installed: Any, clock: FakeClock) -> None:
    """State, bench, kind and end are those of the key at the moment of the scrape."""
    ask = asking(ProviderError(401))
    ask()
    benched = scrape(registry)
    (row,) = list_benched()
    assert row.until is not None
    clock.advance(row.remaining or 0.0)
    half_open = scrape(registry)

    assert row.model in (GROQ, "groq")
    assert 1 == benched.get("benched", target=row.model, kind="auth_dead")
    assert 2 == benched.get("state", target=row.model)
    assert row.until.timestamp() == pytest.approx(
        benched.get("bench_until_timestamp_seconds", target=row.model)
    )
    assert 0 == half_open.get("benched", target=row.model, kind="auth_dead")
    assert 1 == half_open.get("state", target=row.model)
    assert 0 == half_open.get("bench_until_timestamp_seconds", target=row.model)


def test_a_manual_bench_has_no_end(registry: Any, installed: Any) -> None:
    """A bench by hand is ``manual``, and ends at infinity until it is unbenched."""
    bench_model("groq")
    benched = scrape(registry)
    unbench_model("groq")
    after = scrape(registry)

    assert {("groq", "manual"): 1} == benched.rows("benched", "target", "kind")
    assert math.inf == benched.get("bench_until_timestamp_seconds", target="groq")
    assert (0, 0, 0) == (
        after.get("benched", target="groq", kind="manual"),
        after.get("bench_until_timestamp_seconds", target="groq"),
        after.get("state", target="groq"),
    )


def test_forced_open_is_no_bench(registry: Any, installed: Any) -> None:
    """A circuit that is forced open has state 2 and is not benched."""
    configure(breakers={GROQ: {"mode": "forced_open"}})
    seen = scrape(registry)

    assert 2 == seen.get("state", target=GROQ)
    assert 0 == seen.get("benched", target=GROQ, kind="manual")
    assert 0 == seen.get("bench_until_timestamp_seconds", target=GROQ)


def test_live_targets_are_those_that_may_be_called(registry: Any, installed: Any) -> None:
    """A function has as many live targets as nothing blocks; a benched provider blocks its targets."""
    ask = asking()
    ask()
    all_live = scrape(registry)
    bench_model("groq")
    one = scrape(registry)
    bench_model(OPENAI)
    none = scrape(registry)

    assert [2, 1, 0] == [
        each.get("live_targets", function=name_of(ask)) for each in (all_live, one, none)
    ]


def test_of_functions_with_one_name_the_fewest_are_told(registry: Any, installed: Any) -> None:
    """Several policies with one name have the lowest number of live targets; one that is gone has none."""
    healthy, poor = asking(), asking(chain=[GROQ])
    healthy(), poor()
    bench_model(GROQ)
    both = scrape(registry)
    del poor
    gc.collect()
    one = scrape(registry)

    assert [0, 1] == [each.get("live_targets", function=name_of(healthy)) for each in (both, one)]


def test_dropped_events_of_exporters_are_told(registry: Any, installed: Any) -> None:
    """``exporter_dropped_total`` has a row for each exporter, and never falls."""
    from resilient_llm.observers import Exporter

    other = Exporter("journal")
    other.drop(3)
    before = scrape(registry)
    other()
    Exporter("journal").drop(2)
    after = scrape(registry)

    assert {"journal": 3} == before.rows("exporter_dropped_total", "exporter")
    assert {"journal": 5} == after.rows("exporter_dropped_total", "exporter")
    assert 0 == after.get("exporter_dropped_total", exporter="prometheus")


def test_the_types_are_those_of_the_table(registry: Any, installed: Any, clock: FakeClock) -> None:
    """Every metric of the contract is there, with its type; both formats can be parsed."""
    asking(down())()
    seen = scrape(registry)

    assert {
        "calls": "counter",
        "attempts": "counter",
        "attempt_seconds": "histogram",
        "first_content_seconds": "histogram",
        "retries": "counter",
        "failovers": "counter",
        "skips": "counter",
        "hedges": "counter",
        "order_changes": "counter",
        "tool_loops": "counter",
        "benched": "gauge",
        "bench_until_timestamp_seconds": "gauge",
        "state": "gauge",
        "live_targets": "gauge",
        "in_flight": "gauge",
        "spend_usd": "counter",
        "budget_ratio": "gauge",
        "exporter_dropped": "counter",
    } == seen.types


# --- counters never fall -----------------------------------------------------------------------


def test_counters_outlast_reset_and_the_window(
    registry: Any, installed: Any, clock: FakeClock
) -> None:
    """Neither ``reset()``, nor the end of the window, nor a bench takes anything from a counter."""
    ask = asking(None, None, down(), None)
    ask(), ask(), ask()
    before = scrape(registry)
    reset()
    clock.advance(10_000)
    ask()
    bench_model(GROQ)
    after = scrape(registry)

    assert {(GROQ, "ok"): 2, (GROQ, "transient"): 1, (OPENAI, "ok"): 1} == before.rows(
        "attempts_total", "target", "outcome"
    )
    assert {(GROQ, "ok"): 3, (GROQ, "transient"): 1, (OPENAI, "ok"): 1} == after.rows(
        "attempts_total", "target", "outcome"
    )


def test_counters_outlast_their_keys(
    registry: Any, installed: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that the registry has forgotten keeps its counts."""
    monkeypatch.setattr("resilient_llm._runtime.registry.MOST_KEYS", 5)
    with isolated():
        own = CollectorRegistry()
        uninstall = prometheus.install(own)
        for number in range(50):

            @failover(chain=[f"p{number}/m"])
            def ask(target: Target) -> str:
                return target.key

            ask()
            del ask
            clock.advance(100)
        gc.collect()
        assert runtime.registry.find("p0/m") is None
        seen = scrape(own)
        uninstall()

    assert 50 == len(seen.rows("attempts_total", "target", "outcome"))


def test_the_counts_of_a_function_outlast_it(registry: Any, installed: Any) -> None:
    """A function that is gone keeps its counts, and no reference to it is kept."""
    ask = asking()
    ask()
    name, gone = name_of(ask), weakref.ref(ask)
    del ask
    gc.collect()

    assert gone() is None
    assert 1 == scrape(registry).get("calls_total", function=name, outcome="ok")


# --- what is counted from when -----------------------------------------------------------------


def test_calls_before_the_install_are_not_counted(registry: Any) -> None:
    """Functions decorated before are seen, from their next call on."""
    ask = asking()
    ask(), ask()
    uninstall = prometheus.install(registry)
    ask()
    seen = scrape(registry)
    uninstall()

    assert {(GROQ, "ok"): 1} == seen.rows("attempts_total", "target", "outcome")


@pytest.mark.parametrize("outcome", ["answers", "fails", "is rejected", "streams"])
@pytest.mark.parametrize("is_bound", [False, True], ids=["first call", "later call"])
def test_a_call_that_is_running_at_the_install_is_not_counted(
    outcome: str, is_bound: bool, registry: Any
) -> None:
    """Nothing of a call that began before is counted, however it ends."""
    uninstall: list[Any] = []
    ready = not is_bound

    @failover(
        chain=CHAIN,
        attempts=1,
        reject=(lambda answer: answer == GROQ and ready) if outcome == "is rejected" else None,
    )
    def ask(target: Target) -> Any:
        if ready and not uninstall:
            uninstall.append(prometheus.install(registry))
            if outcome == "fails":
                raise down()
        return iter([target.key]) if outcome == "streams" and ready else target.key

    if is_bound:
        ask(), ask()
        ready = True
    answer = ask()
    if outcome == "streams":
        assert [GROQ] == list(answer)
    during = scrape(registry)
    answer = ask()
    if outcome == "streams":
        list(answer)
    after = scrape(registry)
    uninstall[0]()

    assert {} == during.rows("attempts_total", "target", "outcome")
    assert {} == during.rows("calls_total", "function", "outcome")
    assert {} == during.rows("failovers_total", "from_target", "to_target", "reason")
    assert 0 == during.get("in_flight", target=GROQ) or during.get("in_flight", target=GROQ) is None
    assert 1 == after.get("calls_total", function=name_of(ask), outcome="ok")


def test_a_second_exporter_counts_from_its_own_install_on(registry: Any) -> None:
    """Two registries work at once; a call that runs at the second install is the first one's only."""
    second = CollectorRegistry()
    first_end, second_end = prometheus.install(registry), []

    @failover(chain=CHAIN)
    def ask(target: Target) -> str:
        if len(counted) == 2:
            second_end.append(prometheus.install(second))
        counted.append(1)
        return target.key

    counted: list[int] = []
    for _ in range(5):
        ask()
    both = [
        scrape(each).get("attempts_total", target=GROQ, outcome="ok") for each in (registry, second)
    ]
    first_end()
    ask()
    one = scrape(second).get("attempts_total", target=GROQ, outcome="ok")
    second_end[0]()

    assert ([5, 2], 3) == (both, one)


def test_a_new_install_starts_at_zero(registry: Any) -> None:
    """After an uninstall the next exporter of the same registry knows nothing of the calls before."""
    ask = asking()
    uninstall = prometheus.install(registry)
    ask(), ask()
    uninstall()
    ask()
    uninstall = prometheus.install(registry)
    at_first = scrape(registry).rows("attempts_total", "target", "outcome")
    ask()
    seen = scrape(registry)
    uninstall()

    assert {} == at_first
    assert {(GROQ, "ok"): 1} == seen.rows("attempts_total", "target", "outcome")


def test_an_uninstall_leaves_nothing_behind(registry: Any) -> None:
    """After an uninstall the registry is empty, calls run the code that they ran before, and nothing is kept."""
    ask = asking()
    ask()
    code = ask.__code__
    uninstall = prometheus.install(registry)
    ask()
    counting = ask.__code__
    ledger = weakref.ref(runtime.dispatcher.ledger)
    uninstall()
    uninstall()
    ask()
    gc.collect()

    assert counting is not code
    assert ask.__code__ is code
    assert {} == scrape(registry).samples
    assert runtime.dispatcher.ledger is None
    assert ledger() is None


def test_an_exporter_ends_with_its_state(registry: Any) -> None:
    """An exporter that is installed inside ``isolated()`` sees only that, and ends with it."""
    outer = CollectorRegistry()
    uninstall = prometheus.install(outer)
    ask = asking()
    ask()
    with isolated():
        prometheus.install(registry)
        ask(), ask()
        inside = [
            scrape(each).get("attempts_total", target=GROQ, outcome="ok")
            for each in (outer, registry)
        ]
    ask()
    after = [scrape(each).rows("attempts_total", "target", "outcome") for each in (outer, registry)]
    uninstall()
    prometheus.install(registry)()

    assert [1, 2] == inside
    assert [{(GROQ, "ok"): 2}, {}] == after


# --- exactness ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lock_free", [True, False], ids=["global lock", "no global lock"])
def test_counts_are_exact_under_threads(
    lock_free: bool, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that switch all the time lose no call, no second and no failure."""
    monkeypatch.setattr(window, "LOCK_FREE", lock_free)
    calls, workers = (5_000, 8) if lock_free else (500, 4)
    uninstall = prometheus.install(registry)
    configure(breakers={"*": {"failures": 10**9, "min_calls": 10**9}})

    @failover(chain=CHAIN, attempts=1)
    def ask(target: Target, fails: bool) -> str:
        if fails and target.key == GROQ:
            raise down()
        return target.key

    def work() -> None:
        for number in range(calls):
            ask(number % 50 == 0)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    seen = scrape(registry)
    uninstall()
    failed, total = calls * workers // 50, calls * workers

    assert {(GROQ, "ok"): total - failed, (GROQ, "transient"): failed, (OPENAI, "ok"): failed} == (
        seen.rows("attempts_total", "target", "outcome")
    )
    assert {(name_of(ask), "ok"): total} == seen.rows("calls_total", "function", "outcome")
    assert {(GROQ, OPENAI, "overloaded"): failed} == seen.rows(
        "failovers_total", "from_target", "to_target", "reason"
    )
    assert total - failed == seen.get("attempt_seconds_count", target=GROQ)
    assert 0 == seen.get("in_flight", target=GROQ)


def test_installs_in_the_midst_of_calls_lose_no_call(registry: Any) -> None:
    """Exporters and states that come and go while threads call break no call and no count."""
    uninstall = prometheus.install(registry)
    ask = asking()
    stop, made, errors = threading.Event(), [0] * 4, []

    def work(number: int) -> None:
        try:
            while not stop.is_set():
                ask()
                made[number] += 1
        except BaseException as error:
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(60):
            end = prometheus.install(CollectorRegistry(), buckets=(0.7, 3))
            configure(max_wait=30)
            end()
            time.sleep(0)
        stop.set()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    seen = scrape(registry)
    uninstall()

    assert [] == errors
    assert sum(made) == seen.get("attempts_total", target=GROQ, outcome="ok")
    assert 0 == seen.get("in_flight", target=GROQ)


def test_a_counter_does_not_fall_while_calls_are_made(registry: Any, installed: Any) -> None:
    """Scrapes in the midst of calls see counters that only grow, and as many seconds as attempts."""
    ask = asking()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            ask()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    last = 0.0
    try:
        for _ in range(50):
            seen = scrape(registry)
            attempts = seen.get("attempts_total", target=GROQ, outcome="ok") or 0.0
            assert attempts >= last
            assert attempts == (seen.get("attempt_seconds_count", target=GROQ) or 0.0)
            last = attempts
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_healthy_call_that_is_counted_takes_no_lock(
    registry: Any, installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an exporter counts, a healthy call still takes no lock."""
    taken: list[int] = []
    real = threading.RLock

    class Lock:
        def __init__(self) -> None:
            self._lock = real()

        def acquire(self, *args: Any) -> bool:
            taken.append(1)
            return self._lock.acquire(*args)

        def release(self) -> None:
            self._lock.release()

        def __enter__(self) -> None:
            self.acquire()

        def __exit__(self, *error: object) -> None:
            self.release()

    monkeypatch.setattr(threading, "RLock", Lock)
    monkeypatch.setattr(threading, "Lock", Lock)
    with isolated():
        uninstall = prometheus.install(CollectorRegistry())
        ask = asking()
        for _ in range(5):
            ask()
        taken.clear()
        for _ in range(500):
            ask()
        during = len(taken)
        uninstall()

    assert 0 == during


def test_the_exporter_costs_no_call_its_events(registry: Any, installed: Any) -> None:
    """Observers receive what they receive without an exporter, and in the same order."""

    def events() -> list[str]:
        reset()
        received: list[str] = []
        stop = observe(lambda event: received.append(type(event).__name__))
        asking(down(), None, down())()
        stop()
        return received

    with_exporter = events()
    installed()

    assert events() == with_exporter


# --- keys --------------------------------------------------------------------------------------


def test_keys_above_the_limit_are_one(registry: Any) -> None:
    """Keys, providers and targets together, above ``max_targets`` count as target ``other``."""
    uninstall = prometheus.install(registry, max_targets=4)
    for number in range(5):
        asking(chain=[f"p{number}/m"])()
    bench_model("p4/m", 60)
    seen = scrape(registry)
    again = scrape(registry)
    uninstall()

    assert {("p0/m", "ok"): 1, ("p1/m", "ok"): 1, ("other", "ok"): 3} == seen.rows(
        "attempts_total", "target", "outcome"
    )
    assert {"p0", "p0/m", "p1", "p1/m", "other"} == {
        dict(row)["target"] for row in seen.samples["state"]
    }
    assert 1 == seen.get("benched", target="other", kind="manual")
    assert 2 == seen.get("state", target="other")
    assert 3 == again.get("attempt_seconds_count", target="other")


def test_two_exporters_have_limits_of_their_own(registry: Any) -> None:
    """Of two exporters each tells as many keys apart as it was told."""
    few = CollectorRegistry()
    ends = [prometheus.install(few, max_targets=2), prometheus.install(registry, max_targets=50)]
    for number in range(3):
        asking(chain=[f"p{number}/m"])()
    seen = [scrape(each).rows("attempts_total", "target") for each in (few, registry)]
    for end in ends:
        end()

    assert [{"p0/m": 1, "other": 2}, {"p0/m": 1, "p1/m": 1, "p2/m": 1}] == seen


# --- wrong use ---------------------------------------------------------------------------------


def test_a_second_install_in_one_registry_is_refused(registry: Any, installed: Any) -> None:
    """One registry takes one exporter, whatever its namespace; the first one stays."""
    with pytest.raises(ConfigurationError, match="an exporter already"):
        prometheus.install(registry)
    with pytest.raises(ConfigurationError, match="an exporter already"):
        prometheus.install(registry, namespace="other")
    asking()()

    assert 1 == scrape(registry).get("attempts_total", target=GROQ, outcome="ok")


def test_names_that_are_taken_are_refused(registry: Any) -> None:
    """Metrics of the application with such names are a mistake that is told at the install."""
    Counter("resilient_llm_calls", "mine", registry=registry)

    with pytest.raises(ConfigurationError, match="resilient_llm_calls"):
        prometheus.install(registry)
    uninstall = prometheus.install(registry, namespace="llm")
    asking()()
    seen = scrape(registry, "llm")
    uninstall()

    assert 1 == seen.get("attempts_total", target=GROQ, outcome="ok")
    assert runtime.dispatcher.ledger is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"namespace": "my-app"}, "namespace='my-app'"),
        ({"namespace": ""}, "namespace=''"),
        ({"namespace": "a\n"}, "namespace="),
        ({"namespace": 3}, "namespace=int"),
        ({"buckets": ()}, "buckets"),
        ({"buckets": 5}, "buckets of type int"),
        ({"buckets": "0.5,1"}, "buckets of type str"),
        ({"buckets": (1, 0.5)}, "ascend"),
        ({"buckets": (1, 1)}, "ascend"),
        ({"buckets": (0, 1)}, "buckets=0"),
        ({"buckets": (1, math.nan)}, "buckets=nan"),
        ({"buckets": (1, "2")}, "buckets='2'"),
        ({"max_targets": 0}, "max_targets=0"),
        ({"max_targets": 1.5}, "max_targets=1.5"),
        ({"registry": "default"}, "registry of type str"),
    ],
    ids=lambda each: "" if isinstance(each, dict) else str(each),
)
def test_a_wrong_option_is_refused(options: dict[str, Any], said: str) -> None:
    """A wrong option says what is allowed, and nothing is installed."""
    with pytest.raises(ConfigurationError, match=said):
        prometheus.install(**{"registry": CollectorRegistry(), **options})

    assert runtime.dispatcher.ledger is None


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without prometheus_client the error says what to install; rules and dashboard need nothing."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    with pytest.raises(ImportError, match=r"resilient-llm\[prometheus\]"):
        prometheus.install()
    assert prometheus.rules()
    assert prometheus.dashboard()


def test_importing_the_module_loads_no_client() -> None:
    """Neither the library nor the module of the exporter loads prometheus_client."""
    script = (
        "import sys, resilient_llm, resilient_llm.observers.prometheus as p; p.rules(); "
        "sys.exit('prometheus_client' in sys.modules)"
    )
    assert 0 == subprocess.run([sys.executable, "-c", script], timeout=60).returncode
    script = "import sys, resilient_llm; sys.exit('resilient_llm._core.counts' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", script], timeout=60).returncode


def test_the_default_registry_is_used() -> None:
    """Without a registry the default one of prometheus_client has the metrics, beside its own."""
    gauge = Gauge("of_the_application", "mine")
    uninstall = prometheus.install()
    asking()()
    seen = scrape(prometheus_client.REGISTRY)
    uninstall()
    prometheus_client.REGISTRY.unregister(gauge)

    assert 1 == seen.get("attempts_total", target=GROQ, outcome="ok")


def test_an_exporter_does_at_once_what_there_is_to_do(installed: Any) -> None:
    """``flush`` has nothing to do outside the multiprocess mode, and nothing is dropped."""
    assert installed.flush(0.0) is True
    assert 0 == installed.dropped


# --- forks -------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_starts_at_zero(registry: Any, installed: Any) -> None:
    """A child counts its own calls; the call that forked is not one of them."""
    ask = asking()
    ask(), ask()
    read, write = os.pipe()

    @failover(chain=[GROQ])
    def forking(target: Target) -> str:
        nonlocal pid
        pid = os.fork()
        return target.key

    pid = -1
    forking()
    if pid == 0:
        try:
            ask()
            seen = scrape(registry)
            rows = seen.rows("attempts_total", "target", "outcome")
            flying = seen.get("in_flight", target=GROQ)
            os.write(write, f"{rows} {flying}".encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()

    assert f"{{('{GROQ}', 'ok'): 1.0}} 0.0" == said
    assert 3 == scrape(registry).get("attempts_total", target=GROQ, outcome="ok")


def test_a_function_that_is_sent_elsewhere_leaves_its_counts(registry: Any) -> None:
    """A function that is pickled by value while it counts works where nothing counts, and where it does."""
    cloudpickle = pytest.importorskip("cloudpickle")

    @failover(chain=CHAIN)
    def ask(target: Target) -> str:
        return target.key

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        plain = cloudpickle.dumps(ask)
        uninstall = prometheus.install(registry)
        ask(), ask()
        counting = cloudpickle.dumps(ask)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    arrived = cloudpickle.loads(plain)
    answers = [arrived(), arrived(), ask()]
    counted = scrape(registry).get("attempts_total", target=GROQ, outcome="ok")
    uninstall()
    arrived = cloudpickle.loads(counting)
    answers += [arrived(), arrived()]

    assert [GROQ] * 5 == answers
    assert 5 == counted


def test_calls_that_were_made_before_the_first_runs_are_counted(
    registry: Any, installed: Any
) -> None:
    """Coroutines that wait to be started are calls that start after the install."""

    @failover(chain=CHAIN)
    async def ask(target: Target) -> str:
        await asyncio.sleep(0)
        return target.key

    async def main() -> None:
        await asyncio.gather(*[ask() for _ in range(10)])

    asyncio.run(main())

    assert {"ok": 10} == scrape(registry).rows("calls_total", "outcome")
    assert {(GROQ, "ok"): 10} == scrape(registry).rows("attempts_total", "target", "outcome")


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize("then", ["uninstalled", "isolated"])
def test_coroutines_that_outlive_the_exporter_are_calls_as_without_it(
    then: str, names: bool
) -> None:
    """They were made while it was installed, and start after that."""
    if names:
        call_ids.switch_on()

    @failover(chain=CHAIN)
    async def ask(target: Target) -> str:
        return target.key

    async def main() -> None:
        exporter = prometheus.install(CollectorRegistry())
        await ask()
        waiting = [ask() for _ in range(3)]
        with contextlib.ExitStack() as stack:
            if then == "uninstalled":
                exporter()
            else:
                stack.enter_context(isolated())
            await ask()
            assert [GROQ] * 3 == await asyncio.gather(*waiting)
        again = [ask() for _ in range(3)]
        other = prometheus.install(CollectorRegistry()) if then == "uninstalled" else exporter
        assert [GROQ] * 3 == await asyncio.gather(*again)
        other()

    try:
        asyncio.run(main())
    finally:
        call_ids.switch_off()


def test_an_awaitable_that_is_never_awaited_is_not_in_flight(registry: Any, installed: Any) -> None:
    """A plain function gave it; the attempt begins when it is awaited."""

    class Answer:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            return "yes"

    @failover(chain=CHAIN)
    def ask(target: Target) -> Any:
        return Answer()

    async def main() -> None:
        await ask()
        task = asyncio.ensure_future(ask())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        ask().close()

    asyncio.run(main())
    seen = scrape(registry)

    assert {(GROQ, "ok"): 1} == seen.rows("attempts_total", "target", "outcome")
    assert 0 == sum(seen.rows("in_flight", "target").values())


def test_a_name_that_no_encoding_takes_fails_no_scrape(registry: Any, installed: Any) -> None:
    """The name of a function may be any text; what cannot be encoded is escaped in the label."""

    def ask(target: Target) -> str:
        return target.key

    ask.__qualname__ = "ask_\udcff_é"
    failover(chain=CHAIN)(ask)()

    assert 1 == scrape(registry).get(
        "calls_total", function=f"{__name__}.ask_\\udcff_é", outcome="ok"
    )


def test_the_end_of_a_bench_is_the_same_in_every_scrape(registry: Any, installed: Any) -> None:
    """It is that of list_benched; an alert on its changes sees none."""
    bench_model(GROQ, 7200)
    until = list_benched()[0].until
    assert until is not None

    seen = {scrape(registry).get("bench_until_timestamp_seconds", target=GROQ) for _ in range(50)}

    assert 1 == len(seen)
    assert until.timestamp() == pytest.approx(seen.pop(), abs=2e-6)
