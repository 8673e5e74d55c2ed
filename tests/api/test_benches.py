"""The registry of benched models: what operators list, bench and unbench, and what ends a bench."""

import asyncio
import contextlib
import gc
import logging
import pickle
import threading
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import anyio
import pytest

import resilient_llm
from resilient_llm import (
    BenchedModel,
    BreakerOpenError,
    ChainExhaustedError,
    ErrorKind,
    Target,
    TargetBenched,
    TargetUnbenched,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    is_benched,
    list_benched,
    reset,
    testing,
    unbench_model,
)
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import capture_events, isolated
from tests.support.guards import (
    Held,
    eager_threads,
    elsewhere,
    fail,
    half_open,
    in_threads,
    is_refused,
    state,
    succeed,
    trip,
)
from tests.support.ways import (
    GROQ,
    OPENAI,
    SHAPES,
    ProviderError,
    Shape,
    down,
    over,
    rate_limited,
    unreachable,
)


def the_bench() -> BenchedModel:
    """The only bench there is."""
    (bench,) = list_benched()
    return bench


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("list_benched", "ListBenched"),
        ("bench_model", "BenchModel"),
        ("unbench_model", "UnbenchModel"),
        ("is_benched", "IsBenched"),
    ],
)
def test_the_other_spelling_is_the_same_object(name: str, alias: str):
    """Each of the four calls has a second name."""
    assert getattr(resilient_llm, name) is getattr(resilient_llm, alias)
    assert {name, alias} <= set(resilient_llm.__all__)


# --- benching by hand -------------------------------------------------------------------------


def test_nothing_is_benched_at_first(clock):
    """A fresh process has no benches."""
    assert [] == list_benched()
    assert not is_benched(GROQ)


@over(SHAPES)
def test_a_benched_model_is_refused_until_it_is_unbenched(clock, shape: Shape):
    """A bench without an end lasts until unbench_model."""
    bench_model(GROQ)

    first = shape.outcome(GROQ, "answer")
    clock.advance(1_000_000)
    second = shape.outcome(GROQ, "answer")
    was_benched = unbench_model(GROQ)
    third = shape.outcome(GROQ, "answer")

    assert ["refused", "refused", "served"] == [first, second, third]
    assert was_benched


@over(SHAPES)
def test_a_bench_with_an_end_is_over_at_its_end(clock, shape: Shape):
    """A bench of 60 s refuses for 60 s and no longer."""
    bench_model(GROQ, 60)

    clock.advance(59.9)
    before = shape.outcome(GROQ, "answer")
    clock.advance(0.2)
    after = shape.outcome(GROQ, "answer")

    assert ["refused", "served"] == [before, after]
    assert [] == list_benched()


def test_a_manual_bench_is_listed_with_its_facts(clock):
    """list_benched returns key, end, remaining seconds, start, cause and reason."""
    bench_model(GROQ, 60, reason="maintenance")
    clock.advance(15)

    bench = the_bench()

    assert isinstance(bench, BenchedModel)
    assert (GROQ, True, "maintenance") == (bench.model, bench.manual, bench.reason)
    assert 45 == pytest.approx(bench.remaining)
    assert timedelta(seconds=60) == bench.until - bench.since
    assert [UTC.utcoffset(None)] * 2 == [bench.until.utcoffset(), bench.since.utcoffset()]
    assert 0 == bench.consecutive_failures


def test_a_bench_without_an_end_has_neither_end_nor_remaining_seconds(clock):
    """`.until` is None until unbenched."""
    bench_model(GROQ)

    bench = the_bench()

    assert bench.until is None
    assert bench.remaining is None or bench.remaining == float("inf")
    assert bench.manual


def test_a_benched_model_is_a_frozen_snapshot(clock):
    """What list_benched returned does not change afterwards."""
    bench_model(GROQ, 60)
    bench = the_bench()

    with pytest.raises(AttributeError):
        bench.reason = "other"
    list_benched().clear()

    assert [GROQ] == [found.model for found in list_benched()]


@pytest.mark.parametrize(
    ("until", "seconds"),
    [
        (90, 90),
        (90.5, 90.5),
        (timedelta(minutes=2), 120),
        (lambda now: now + timedelta(hours=1), 3600),
        (lambda now: (now + timedelta(hours=1)).astimezone(timezone(timedelta(hours=5))), 3600),
    ],
    ids=["int", "float", "timedelta", "datetime", "other zone"],
)
def test_the_end_of_a_bench_may_be_a_moment_a_duration_or_seconds(clock, until, seconds: float):
    """Every form of `until` gives the same kind of bench."""
    bench_model("clock/reader")
    now = the_bench().since
    unbench_model("clock/reader")

    bench_model(GROQ, until(now) if callable(until) else until)

    assert seconds == pytest.approx(the_bench().remaining, abs=0.01)


def test_a_moment_is_read_on_the_real_clock():
    """Without a fake clock an aware datetime is a moment of the wall clock."""
    bench_model(GROQ, datetime.now(UTC) + timedelta(hours=1))

    assert 3590 < the_bench().remaining <= 3600


@pytest.mark.parametrize("until", [1e12, timedelta.max, datetime.max.replace(tzinfo=UTC)])
def test_a_bench_for_ever_in_other_words_can_be_listed(until: Any) -> None:
    """An end that no datetime can name is shown as the last one that it can."""
    bench_model("groq/a", until=until)

    (bench,) = list_benched()
    assert bench.until is not None
    assert 9999 == bench.until.year
    assert "down" == health()["groq/a"].status


@pytest.mark.parametrize(
    "until",
    [
        datetime(2999, 1, 1),  # noqa: DTZ001  # what is naive is what is refused
        datetime(2001, 1, 1, tzinfo=UTC),
        timedelta(seconds=-1),
        -1,
        -0.5,
        float("nan"),
        float("-inf"),
    ],
    ids=str,
)
def test_a_bench_that_makes_no_sense_is_a_value_error(until):
    """A naive datetime, a past moment and a negative duration are refused."""
    with pytest.raises(ValueError):
        bench_model(GROQ, until)

    assert [] == list_benched()


def test_benching_again_replaces_a_manual_bench(clock):
    """The operator's last word counts, also if it is shorter."""
    bench_model(GROQ, 600, reason="first")
    bench_model(GROQ, 60, reason="second")

    assert 60 == pytest.approx(the_bench().remaining)
    assert "second" == the_bench().reason


def test_unbenching_returns_whether_there_was_a_bench(clock):
    """unbench_model is True for what was benched, by hand or not, and False for anything else."""
    bench_model(GROQ)
    trip(OPENAI)

    answers = [unbench_model(spec) for spec in (GROQ, GROQ, OPENAI, OPENAI, "unknown/model")]

    assert [True, False, True, False, False] == answers
    assert [] == list_benched()


def test_unbenching_after_the_end_is_false(clock):
    """A bench that is over is none."""
    bench_model(GROQ, 60)
    clock.advance(61)

    assert not unbench_model(GROQ)


@over(SHAPES)
def test_unbenching_lets_an_open_target_serve_at_once(clock, shape: Shape):
    """unbench_model ends an automatic bench as well."""
    trip()

    unbench_model(GROQ)

    assert "served" == shape.outcome(GROQ, "answer")
    assert "closed" == state()


@pytest.mark.parametrize("spelling", ["Groq/llama", " groq/llama ", "GROQ/llama"])
def test_a_bench_is_found_however_the_model_is_written(clock, spelling: str):
    """Specs are normalised by all four calls."""
    bench_model(spelling)
    known = is_benched(GROQ), is_benched(spelling), [bench.model for bench in list_benched()]

    unbenched = unbench_model(f" {spelling}")

    assert (True, True, [GROQ]) == known
    assert unbenched


def test_unknown_models_can_be_benched_and_asked_for(clock):
    """A model need not have been seen."""
    bench_model("never/seen")

    assert is_benched("never/seen")
    assert not is_benched("also/unseen")


# --- providers and accounts -------------------------------------------------------------------


@over(SHAPES)
def test_benching_a_provider_benches_every_target_of_it(clock, shape: Shape):
    """`groq` stands for every `groq/…`, and for no account of it."""
    bench_model("groq")

    outcomes = [
        shape.outcome(key, "answer") for key in (GROQ, "groq/other", "groq@tenant/llama", OPENAI)
    ]

    assert ["refused", "refused", "served", "served"] == outcomes
    assert [True, True, True, False, False] == [
        is_benched(key) for key in ("groq", GROQ, "groq/other", "groq@tenant/llama", "groq@tenant")
    ]


def test_a_bench_of_a_provider_is_another_key(clock):
    """Unbenching a target does not unbench its provider, and the other way round."""
    bench_model("groq")
    bench_model(GROQ)

    first = unbench_model("groq/other")
    second = unbench_model(GROQ)
    still = is_benched(GROQ)
    third = unbench_model("groq")

    assert (False, True, True, True) == (first, second, still, third)
    assert not is_benched(GROQ)


def test_an_account_is_benched_alone(clock):
    """Benching one account harms no other."""
    bench_model("groq@tenant")

    assert is_benched("groq@tenant/llama")
    assert is_refused("groq@tenant/llama")
    assert not is_refused(GROQ)
    assert not is_refused("groq@other/llama")


def test_the_key_of_a_target_with_an_account_can_be_benched(clock):
    """Keys and the targets they belong to are one thing."""
    bench_model(Target(GROQ, account="tenant").key)

    assert is_refused("groq@tenant/llama")
    assert not is_refused("groq@tenant/other")


# --- automatic benches ------------------------------------------------------------------------


def test_an_open_circuit_is_listed_with_its_facts(clock):
    """An automatic bench is listed with its kind, its reason and its failures."""
    trip()
    clock.advance(10)

    bench = the_bench()

    assert (GROQ, False, ErrorKind("transient"), 5) == (
        bench.model,
        bench.manual,
        bench.kind,
        bench.consecutive_failures,
    )
    assert 20 - 0.001 <= bench.remaining <= 23 + 0.001
    assert bench.until - bench.since >= timedelta(seconds=29.9)
    assert bench.reason


@pytest.mark.parametrize(
    ("error", "key", "kind"),
    [
        (lambda: rate_limited(9), GROQ, "rate_limited"),
        (lambda: ProviderError(401), "groq", "auth_dead"),
    ],
    ids=["rate_limited", "auth_dead"],
)
def test_an_immediate_bench_lists_its_kind(clock, error, key: str, kind: str):
    """One error may bench, and its kind is listed."""
    fail(error=error)

    assert (key, ErrorKind(kind), False) == (
        the_bench().model,
        the_bench().kind,
        the_bench().manual,
    )


def test_a_half_open_circuit_is_not_benched(clock):
    """Once its cooldown is over a target is not listed."""
    half_open(clock)

    assert [] == list_benched()
    assert not is_benched(GROQ)


def test_benches_are_sorted(clock):
    """list_benched has a stable order that does not depend on who was benched first."""
    specs = ["zeta/b", "alpha/c", "groq", "alpha/a", "mid/x"]

    orders = []
    for each in (specs, specs[::-1]):
        for spec in each:
            bench_model(spec, 60)
        orders.append([bench.model for bench in list_benched()])
        for spec in each:
            unbench_model(spec)

    assert orders[0] == orders[1]
    assert sorted(specs) == sorted(orders[0])


@over(SHAPES)
def test_a_success_does_not_end_a_rate_limit(clock, shape: Shape):
    """A call that was under way when the rate limit came does not shorten the bench."""

    def provider() -> str:
        fail(error=lambda: rate_limited(40))
        return "answer"

    shape.run(GROQ, provider)

    assert is_refused()
    assert 40 - 0.001 <= the_bench().remaining <= 44 + 0.001


def test_a_longer_rate_limit_extends_a_shorter_one(clock):
    """A longer hint of a call that was under way extends an automatic bench."""
    held = Held()
    fail(error=lambda: rate_limited(20))

    held.finish(rate_limited(200))

    assert 200 - 0.001 <= the_bench().remaining <= 220 + 0.001


def test_a_burst_of_rate_limits_is_emitted_once_and_a_longer_wait_again(clock: Any) -> None:
    """Each extends the bench by a moment; observers hear of it only when its end has moved noticeably."""

    @failover(chain=[GROQ, OPENAI])
    async def ask(target: Target, wait: float) -> str:
        await anyio.lowlevel.checkpoint()
        if target.key == GROQ:
            clock.advance(0.001)
            raise ProviderError(429, retry_after=wait)
        return target.key

    async def burst() -> None:
        async with anyio.create_task_group() as group:
            for wait in (20, 20, 20, 60, 60):
                group.start_soon(ask, wait)

    with capture_events(TargetBenched) as benched:
        anyio.run(burst)

    assert [20, 60] == [event.retry_after for event in benched]
    assert pytest.approx(60.0, abs=0.01) == list_benched()[0].remaining


def test_a_rate_limit_does_not_shorten_an_open_circuit(clock):
    """A shorter hint of a call that was under way leaves an automatic bench as it is."""
    held = Held()
    trip()
    before = the_bench().remaining

    held.finish(rate_limited(3))

    assert before == pytest.approx(the_bench().remaining)
    assert "open" == state()


def test_a_hint_benches_at_most_an_hour(clock):
    """A provider that names days is asked again after an hour."""
    fail(error=lambda: rate_limited(259_200))

    assert all(bench.remaining <= 3600 * 1.1 for bench in list_benched())


def test_benches_are_kept_per_key(clock):
    """Two targets are benched and come back each at its own time."""
    bench_model(GROQ, 60)
    clock.advance(30)
    bench_model(OPENAI, 60)

    clock.advance(31)

    assert [OPENAI] == [bench.model for bench in list_benched()]


# --- two layers -------------------------------------------------------------------------------


@over(SHAPES)
@pytest.mark.parametrize(
    "ending",
    [
        "answer",
        down,
        unreachable,
        lambda: rate_limited(5),
        lambda: rate_limited(5000),
        asyncio.CancelledError,
    ],
    ids=["success", "failure", "provider", "short hint", "long hint", "cancelled"],
)
def test_no_report_touches_a_manual_bench(clock, shape: Shape, ending):
    """Whatever a call that was under way reports, the operator's bench stays."""
    error = ending() if callable(ending) else ending

    def provider() -> object:
        bench_model(GROQ, 600, reason="by hand")
        if isinstance(error, BaseException):
            raise error
        return error

    with contextlib.suppress(BaseException):
        shape.run(GROQ, provider)
    (while_reported,) = [bench for bench in list_benched() if bench.model == GROQ]
    reset()
    bench = the_bench()

    assert (True, "by hand") == (while_reported.manual, while_reported.reason)
    assert 600 == pytest.approx(while_reported.remaining)
    assert (GROQ, True, "by hand") == (bench.model, bench.manual, bench.reason)
    assert 600 == pytest.approx(bench.remaining)


def test_a_manual_bench_over_an_open_circuit_ends_at_its_own_end(clock):
    """What opened by itself is still half-open when the operator's bench is over."""
    trip()
    bench_model(GROQ, 100)

    clock.advance(99)
    benched = is_refused()
    clock.advance(2)

    assert benched
    assert "half_open" == state()


def test_an_open_circuit_under_a_manual_bench_stays_open_after_it(clock):
    """A shorter manual bench does not shorten an automatic one."""
    trip()
    bench_model(GROQ, 5)

    clock.advance(6)

    assert is_refused()
    assert not the_bench().manual


@pytest.mark.parametrize("when", ["soonest", "wait", "raise"])
def test_a_manual_bench_is_respected_when_everything_is_benched(clock, when: str):
    """No way of dealing with a benched chain calls what an operator benched."""
    bench_model(GROQ)

    @failover(chain=[GROQ], when_all_benched=when, timeout=30)
    def ask(target: Target) -> None:
        pytest.fail("the function ran")

    with pytest.raises((ChainExhaustedError, BreakerOpenError, TimeoutError)):
        ask()

    assert is_benched(GROQ)


def test_reset_forgets_what_is_automatic_and_keeps_what_is_manual(clock):
    """reset() leaves the operator's benches."""
    trip("automatic/model")
    fail("limited/model", error=lambda: rate_limited(50))
    bench_model("manual/model")
    bench_model("timed/model", 60)

    reset()

    assert ["manual/model", "timed/model"] == sorted(bench.model for bench in list_benched())
    assert not is_refused("automatic/model")


def test_reset_forgets_counts_and_escalation(clock):
    """After reset() a target starts from nothing."""
    half_open(clock)
    fail()
    reset()

    fail(times=4)
    closed = state()
    fail()

    assert "closed" == closed
    assert 30 - 0.001 <= the_bench().remaining <= 33 + 0.001


# --- processes, threads, memory ---------------------------------------------------------------


def test_benches_are_seen_by_every_thread(clock):
    """The registry belongs to the process."""
    elsewhere(bench_model, GROQ)

    assert elsewhere(is_benched, GROQ)
    assert is_benched(GROQ)


def test_isolated_has_benches_of_its_own(clock):
    """Inside isolated() nothing is benched, and what is benched there stays there."""
    bench_model(GROQ)

    with testing.isolated():
        inside = list_benched()
        bench_model(OPENAI)

    assert [] == inside
    assert [GROQ] == [bench.model for bench in list_benched()]


def test_benching_from_many_threads_loses_nothing(clock):
    """Threads that bench, ask and unbench at once leave exactly what they should."""

    def work(index: int) -> None:
        for number in range(40):
            bench_model(f"p{index}/m{number}", 600)
            list_benched()
            assert is_benched(f"p{index}/m{number}")
            if number % 2:
                assert unbench_model(f"p{index}/m{number}")

    with eager_threads():
        results = in_threads(6, work)

    assert [None] * 6 == results
    assert 6 * 20 == len(list_benched())


def test_a_bench_that_arrives_while_calls_run_is_seen_by_the_next_call(clock):
    """bench_model acts at once, whoever is inside."""
    held = Held()

    bench_model(GROQ)
    refused = is_refused()
    held.finish("answer")

    assert refused
    assert is_refused()


@pytest.mark.slow
def test_benches_survive_the_bound_on_memory(clock):
    """However many keys are seen, a bench is never dropped."""
    bench_model("keep/manual")
    trip("keep/automatic")
    breaker("keep/automatic").record(None, 0.1)

    for number in range(10_500):
        breaker(f"tenant-{number}/model").record(None, 0.1)

    assert {"keep/manual", "keep/automatic"} == {bench.model for bench in list_benched()}


def test_a_key_that_was_let_go_is_held_again_when_it_is_benched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bench is not lost with the guard that brought it, however many keys came meanwhile."""
    monkeypatch.setattr("resilient_llm._runtime.registry.MOST_KEYS", 20)
    with isolated():
        guard = breaker("tenant-0", failures=1)
        with contextlib.suppress(ConnectionResetError), guard:
            for number in range(1, 60):
                with breaker(f"tenant-{number}"):
                    pass
            assert "tenant-0" not in runtime.circuits
            raise ConnectionResetError
        del guard

        assert ["tenant-0"] == [each.model for each in list_benched()]


@pytest.mark.parametrize("is_configured", [False, True], ids=["by a guard", "by configure"])
def test_a_key_that_is_forced_open_stays_so_among_more_keys_than_are_kept(
    monkeypatch: pytest.MonkeyPatch, is_configured: bool
) -> None:
    """An operator's switch does not fall off, and is listed, however many keys came since."""
    monkeypatch.setattr("resilient_llm._runtime.registry.MOST_KEYS", 20)
    with isolated():
        if is_configured:
            configure(breakers={"groq/llama": {"mode": "forced_open"}})
        else:
            breaker("groq/llama", mode="forced_open")
        for number in range(60):
            breaker(f"tenant-{number}").record(None, 0.1)
        gc.collect()

        assert "open" == breaker("groq/llama").state
        assert ["groq/llama"] == [bench.model for bench in list_benched()]


def test_options_of_a_guard_hold_among_more_keys_than_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A setting of a key outlives its guard and its circuit."""
    monkeypatch.setattr("resilient_llm._runtime.registry.MOST_KEYS", 20)
    with isolated():
        breaker("groq/llama", failures=2)
        for number in range(60):
            breaker(f"tenant-{number}").record(None, 0.1)
        gc.collect()
        assert "groq/llama" not in health()

        for _ in range(2):
            breaker("groq/llama").record(ConnectionResetError(), 0.1)

        assert "open" == breaker("groq/llama").state


def test_listing_is_possible_while_observers_are_called(clock):
    """An observer may ask the registry and change it."""
    found = []
    lock = threading.Lock()

    def observer(event: object) -> None:
        with lock:
            found.append([bench.model for bench in list_benched()])
        unbench_model("bystander/model")

    bench_model("bystander/model")
    resilient_llm.observe(observer, resilient_llm.TargetBenched)
    trip()
    succeed(OPENAI)

    assert GROQ in found[0]
    assert not is_benched("bystander/model")


def test_options_of_keys_that_are_gone_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options hold for as many keys that were dropped as are kept; those dropped first go first."""
    monkeypatch.setattr("resilient_llm._runtime.registry.MOST_KEYS", 20)
    with isolated():
        held = breaker("held", failures=3)
        for number in range(30):
            breaker(f"tenant{number}", failures=3)
        assert 3 == runtime.registry.circuit("tenant0").settings.failures

        for number in range(30, 300):
            breaker(f"tenant{number}", failures=3)

        assert len(runtime.registry._options) <= 2 * 20 + 4
        assert {3} == {runtime.registry.circuit(f"tenant{n}").settings.failures for n in (270, 299)}
        assert 5 == runtime.registry.circuit("tenant1").settings.failures
        assert ("closed", 3) == (held.state, runtime.registry.circuit("held").settings.failures)


def test_who_benched_and_who_unbenched_is_listed_and_emitted() -> None:
    """`by` is in the list, and in the events of both ends."""
    with capture_events(TargetBenched, TargetUnbenched) as seen:
        bench_model(GROQ, 60, reason="maintenance", by="alice")
        listed = the_bench().by
        unbench_model(GROQ, by="bob")

    assert "alice" == listed
    assert [("TargetBenched", "alice"), ("TargetUnbenched", "bob")] == [
        (type(event).__name__, event.by) for event in seen
    ]


def test_nobody_is_named_for_what_nobody_did(clock: testing.FakeClock) -> None:
    """Automatic benches, benches that end by themselves and resets have an empty `by`."""
    with capture_events(TargetBenched, TargetUnbenched) as seen:
        trip()
        automatic = the_bench().by
        reset()
        bench_model(OPENAI, 5, by="alice")
        clock.advance(6)
        assert [] == list_benched()
        bench_model(OPENAI)
        unnamed = the_bench().by
        unbench_model(OPENAI)

    assert ("", "") == (automatic, unnamed)
    assert ["", "", "alice", "", "", ""] == [event.by for event in seen]


def test_benching_again_names_the_last_one() -> None:
    """A bench replaces the earlier one, with its author."""
    bench_model(GROQ, 600, by="alice")
    bench_model(GROQ, 600, by="bob")

    assert "bob" == the_bench().by


@pytest.mark.parametrize("name", ["reason", "by"])
def test_a_note_is_a_text_of_200_characters_at_most(name: str) -> None:
    """A longer one is a ValueError that says so, and benches nothing."""
    with pytest.raises(ValueError, match=f"{name} of 201 characters is too long: at most 200"):
        bench_model(GROQ, **{name: "x" * 201})
    with pytest.raises(ValueError, match=f"{name} of type int is not allowed: write a text"):
        bench_model(GROQ, **{name: 7})
    assert [] == list_benched()

    bench_model(GROQ, **{name: "x" * 200})

    assert "x" * 200 == getattr(the_bench(), name)


def test_a_wrong_name_unbenches_nothing() -> None:
    """`by` of `unbench_model` is checked before anything happens, also for unknown keys."""
    bench_model(GROQ)

    with pytest.raises(ValueError, match="by of 201 characters is too long"):
        unbench_model(GROQ, by="x" * 201)
    with pytest.raises(ValueError, match="by of 201 characters is too long"):
        unbench_model("nobody/knows", by="x" * 201)

    assert is_benched(GROQ)


HOSTILE = "down\nTargetUnbenched groq\x1b[2J\x9b\u202e\u2028\ud800"
ESCAPED = r"down\nTargetUnbenched groq\x1b[2J\x9b\u202e\u2028\ud800"


def test_control_characters_are_kept_as_data_and_escaped_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No reason forges a line of the log or moves the cursor of a terminal."""
    caplog.set_level(logging.INFO, "resilient_llm")

    bench_model(GROQ, reason=HOSTILE, by=HOSTILE)
    unbench_model(GROQ, by=HOSTILE)

    benched, unbenched = caplog.records
    assert f" reason={ESCAPED} " in benched.getMessage()
    assert benched.getMessage().endswith(f" by={ESCAPED}")
    assert unbenched.getMessage().endswith(f" by={ESCAPED}")
    assert (HOSTILE, HOSTILE) == (benched.reason, benched.by)


def test_the_log_names_nobody_where_nobody_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A line has no empty `by=`."""
    bench_model(GROQ, reason="maintenance")

    assert caplog.messages[0].endswith(" enforced=True")


def test_letters_of_all_scripts_stay_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Only what is unsafe to show is escaped."""
    reason = "Wartung für Zoë, 保守, 👩\u200d💻\u00a0"

    bench_model(GROQ, reason=reason)

    assert f"reason={reason}" in caplog.text


def test_control_characters_are_escaped_in_messages() -> None:
    """An error of a call that a bench refused shows them escaped, and keeps them as data."""
    bench_model(GROQ, reason=HOSTILE)

    with pytest.raises(ChainExhaustedError) as refused:
        failover(Target(GROQ, call=lambda: None)).call(lambda: None)
    with pytest.raises(BreakerOpenError) as open_error, breaker(GROQ):
        pass

    member = refused.value.exceptions[0]
    shown = [str(refused.value), str(member), *member.__notes__, str(open_error.value)]
    assert [] == [text for text in shown if ESCAPED not in text or HOSTILE in text]
    assert HOSTILE == open_error.value.reason


def test_a_bench_with_its_author_can_be_pickled() -> None:
    """`by` survives."""
    bench_model(GROQ, by="alice")

    assert the_bench().by == pickle.loads(pickle.dumps(the_bench())).by == "alice"


@pytest.mark.parametrize(
    "until",
    [
        datetime(2099, 1, 1, tzinfo=UTC),
        datetime(2100, 2, 3, 4, 5, 6, 789_123, tzinfo=timezone(timedelta(hours=5))),
        datetime(2241, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2999, 1, 1, 12, tzinfo=UTC),
        datetime(9999, 12, 31, tzinfo=UTC),
    ],
)
def test_a_moment_comes_back_as_it_was_given(until: datetime) -> None:
    """By the clocks of the machine, each time it is asked for, and in the event."""
    with capture_events(TargetBenched) as events:
        bench_model(GROQ, until)

    shown = {the_bench().until for _ in range(200)} | {health()[GROQ].benched.until}  # type: ignore[union-attr]
    assert {until} == shown | {each.until for each in events}


def test_a_bench_that_lasts_shows_one_end_and_one_beginning() -> None:
    """What nobody has changed does not change by microseconds with each look."""
    with capture_events(TargetBenched) as events:
        bench_model(GROQ, 7200)

    shown = {(the_bench().since, the_bench().until) for _ in range(200)}

    assert 1 == len(shown)
    assert {events[0].until} == {until for _, until in shown}


def test_the_end_follows_a_wall_clock_that_is_set(clock: testing.FakeClock) -> None:
    """What is shown is when calls are let in again, by the clock that whoever looks has."""
    bench_model(GROQ, 60)
    before = the_bench().until
    assert before is not None

    clock.jump_wall(3600)
    after = the_bench().until

    assert before + timedelta(hours=1) == after
    assert 60 == the_bench().remaining
