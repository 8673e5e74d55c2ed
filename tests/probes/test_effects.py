"""What each result of a health probe does in each state of a circuit, row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from resilient_llm import (
    ErrorKind,
    TargetBenched,
    TargetUnbenched,
    Verdict,
    bench_model,
    breaker,
    classify,
    configure,
    health,
    list_benched,
    reset,
    unbench_model,
)
from resilient_llm._runtime.expiry import watch_benches
from resilient_llm.probes import HealthProbe, ProbeResult
from resilient_llm.testing import FakeClock, capture_events, isolated
from tests.support.ways import GROQ, ProviderError, StrangeError

Make = Callable[[str, FakeClock], None]
PROVIDER = "groq"
LONGEST_COOLDOWN = 33.0
"""Seconds of the first cooldown, with its jitter."""


def trip(key: str, clock: FakeClock | None = None) -> None:
    for _ in range(5):
        breaker(key).record(ProviderError(503), 0.0)
    assert "open" == breaker(key).state


def half_open(key: str, clock: FakeClock) -> None:
    trip(key)
    clock.advance(LONGEST_COOLDOWN)
    assert "half_open" == breaker(key).state


def _benched_at_once(error: Callable[[], BaseException]) -> Make:
    def make(key: str, clock: FakeClock) -> None:
        breaker(key).record(error(), 0.0)
        assert [key] == [each.model for each in list_benched()]

    return make


STATES: dict[str, Make] = {
    "closed": lambda key, clock: None,
    "half-open": half_open,
    "open": trip,
    "memory": _benched_at_once(MemoryError),
    # 401 is charged to the provider, 403 to the target.
    "dead key": lambda key, clock: breaker(key).record(
        ProviderError(403 if "/" in key else 401), 0.0
    ),
    "paused": _benched_at_once(lambda: ProviderError(429, retry_after=20)),
    "paused and open": lambda key, clock: (
        trip(key),
        clock.advance(LONGEST_COOLDOWN),
        breaker(key).record(ProviderError(429, retry_after=200), 0.0),
    ),
    "manual": lambda key, clock: bench_model(key, 500.0),
    "manual and open": lambda key, clock: (trip(key), bench_model(key)),
    "forced": lambda key, clock: configure(breakers={key: {"mode": "forced_open"}}),
}


def probe(key: str, outcome: Any = None, *, seconds: float = 0.0, **options: Any) -> ProbeResult:
    """Run one tick of one probe that returns the outcome, raises it, or calls it."""

    async def once() -> Any:
        result = outcome() if callable(outcome) and not isinstance(outcome, type) else outcome
        if isinstance(result, (BaseException, type)):
            raise result
        return result

    async def tick() -> ProbeResult:
        return (await HealthProbe({key: once}, **options).tick())[key]

    return anyio.run(tick)


def numbers(key: str) -> tuple[Any, ...]:
    one = health([key])[key]
    bench = one.benched
    return (
        one.state,
        one.total,
        one.errors,
        one.consecutive_failures,
        one.last_error,
        None if bench is None else (bench.until, bench.reason, bench.manual),
    )


def left(key: str) -> float:
    (found,) = [each.remaining for each in list_benched() if each.model == key]
    assert found is not None
    return found


KEYS = pytest.mark.parametrize("key", [PROVIDER, GROQ])


# What a probe gives.


@pytest.mark.parametrize("value", [None, True])
def test_none_and_true_are_well(value: object) -> None:
    """A well probe has no kind and no reason."""
    result = probe(PROVIDER, lambda: value)

    assert (True, None, "", False) == (result.ok, result.kind, result.reason, result.skipped)


@pytest.mark.parametrize(
    ("outcome", "kind", "reason"),
    [
        (False, "transient", "probe"),
        (StrangeError("?"), "transient", "probe"),
        (StrangeError, "transient", "probe"),
        (ConnectionResetError(), "transient", "network"),
        (TimeoutError(), "transient", "timeout"),
        (ProviderError(503), "transient", "overloaded"),
        (ProviderError(401), "auth_dead", "invalid_credentials"),
        (MemoryError(), "memory_pressure", "out_of_memory"),
        (ProviderError(429), "rate_limited", "rate_limit"),
    ],
)
def test_what_is_not_well_has_a_kind_and_a_reason(outcome: object, kind: str, reason: str) -> None:
    """False and unknown errors are transient; what harms health and a 429 is what it is."""
    result = probe(PROVIDER, outcome)

    assert (False, kind, reason, False) == (
        result.ok,
        result.kind and result.kind.value,
        result.reason,
        result.skipped,
    )


@pytest.mark.parametrize(
    "outcome",
    [1, "ok", [], 0, object, TypeError(), ProviderError(400), ProviderError(422), SystemExit(1)],
    ids=repr,
)
def test_another_value_or_error_is_broken_and_changes_nothing(outcome: object) -> None:
    """A wrong probe says nothing about its key."""
    before = numbers(PROVIDER)

    result = probe(PROVIDER, outcome)

    assert (None, None, "broken", False) == (
        result.ok,
        result.kind,
        result.reason,
        result.skipped,
    )
    assert before == numbers(PROVIDER)


def test_a_broken_probe_is_warned_of_once_for_each_key(caplog: pytest.LogCaptureFixture) -> None:
    """The line names the key and the class, and neither text nor value."""

    def wrong() -> None:
        raise TypeError("sk-secret")

    async def ticks() -> None:
        one = HealthProbe({"groq": wrong, "openai": lambda: "sk-secret", "mistral": lambda: None})
        await one.tick()
        await one.tick()
        await HealthProbe({"groq": wrong}).tick()

    anyio.run(ticks)

    texts = sorted(each.getMessage() for each in caplog.records)
    assert [
        "the probe of groq is broken and changes nothing: it raised TypeError",
        "the probe of groq is broken and changes nothing: it raised TypeError",
        "the probe of openai is broken and changes nothing: it returned str",
    ] == texts
    assert {"WARNING"} == {each.levelname for each in caplog.records}


def test_a_rule_of_the_user_decides_what_an_error_is() -> None:
    """Rules are asked as for the error of a call."""
    with isolated():

        @classify.rule
        def strange(error: BaseException) -> Verdict | None:
            is_strange = isinstance(error, StrangeError)
            return Verdict(ErrorKind.AUTH_DEAD, "banned") if is_strange else None

        result = probe(PROVIDER, StrangeError())

        assert (ErrorKind.AUTH_DEAD, "banned") == (result.kind, result.reason)
        assert "open" == breaker(PROVIDER).state


# What it changes: well.


@KEYS
@pytest.mark.parametrize("proves", ["reachable", "answers"])
@pytest.mark.parametrize(
    ("state", "changes"),
    [
        ("closed", ()),
        ("half-open", ("answers",)),
        ("open", ("reachable", "answers")),
        ("memory", ("answers",)),
        ("dead key", ("answers",)),
        ("paused", ()),
        ("paused and open", ()),
        ("manual", ()),
        ("manual and open", ()),
        ("forced", ()),
    ],
)
def test_a_well_probe_changes_only_what_the_table_says(
    clock: FakeClock, key: str, proves: str, state: str, changes: tuple[str, ...]
) -> None:
    """Each state, for both things that a probe may prove."""
    STATES[state](key, clock)
    before = numbers(key)
    clock.advance(1.0)

    with capture_events(TargetUnbenched) as events:
        result = probe(key, proves=proves)

    assert (True, False) == (result.ok, result.skipped)
    if proves not in changes:
        assert ([], before) == (events, numbers(key))
        return
    assert [(key, "probe", "")] == [(each.target, each.reason, each.by) for each in events]
    assert ("closed" if proves == "answers" else "half_open") == breaker(key).state


@KEYS
def test_a_probe_that_is_well_lets_the_next_call_find_out(clock: FakeClock, key: str) -> None:
    """Half-open by a probe is half-open: one call at a time, and its success closes it."""
    trip(key)
    clock.advance(1.0)
    probe(key)

    with breaker(key):
        refused = breaker(key).state
        with pytest.raises(Exception, match="probes taken"):
            _enter_elsewhere(key)

    assert ("half_open", "closed") == (refused, breaker(key).state)


def _enter_elsewhere(key: str) -> None:
    import contextvars

    contextvars.Context().run(lambda: breaker(key).__enter__())


@KEYS
def test_once_a_half_open_probe_has_failed_reachable_ends_no_cooldown(
    clock: FakeClock, key: str
) -> None:
    """The escalation of a call's failure stands until the circuit is closed."""
    half_open(key, clock)
    breaker(key).record(ProviderError(503), 0.0)
    clock.advance(1.0)
    before = numbers(key)

    probe(key)
    after_failure = numbers(key)
    clock.advance(70.0)
    breaker(key).record(None, 0.0)
    closed = breaker(key).state
    clock.advance(40.0)
    trip(key)
    clock.advance(1.0)
    probe(key)

    assert before == after_failure
    assert ("closed", "half_open") == (closed, breaker(key).state)


@KEYS
def test_a_failed_health_probe_counts_as_a_half_open_probe_that_failed(
    clock: FakeClock, key: str
) -> None:
    """So a key whose probes are well and not well in turn does not flap."""
    trip(key)
    clock.advance(1.0)
    probe(key)
    clock.advance(1.0)
    probe(key, False)
    clock.advance(1.0)

    probe(key)

    assert "open" == breaker(key).state
    assert 2 * 30.0 - 1.0 <= left(key) <= 2 * LONGEST_COOLDOWN


@KEYS
def test_answers_closes_also_after_a_half_open_probe_has_failed(clock: FakeClock, key: str) -> None:
    """A real completion needs no further proof."""
    half_open(key, clock)
    breaker(key).record(ProviderError(503), 0.0)
    clock.advance(1.0)

    probe(key, proves="answers")

    assert "closed" == breaker(key).state


def test_a_well_probe_of_a_target_settles_its_provider_too(clock: FakeClock) -> None:
    """Whoever answers for a target was reached through its provider."""
    trip(PROVIDER)
    clock.advance(1.0)

    with capture_events(TargetUnbenched) as events:
        probe(GROQ)

    assert [(PROVIDER, "probe")] == [(each.target, each.reason) for each in events]
    assert "half_open" == breaker(PROVIDER).state


def test_a_well_probe_of_a_provider_leaves_its_targets(clock: FakeClock) -> None:
    """That the provider is there says nothing of one model."""
    trip(GROQ)
    clock.advance(1.0)

    probe(PROVIDER, proves="answers")

    assert "open" == breaker(GROQ).state


# What it changes: not well.


@KEYS
def test_not_well_is_one_failure_of_a_closed_circuit(clock: FakeClock, key: str) -> None:
    """The fifth in a row opens it, as five calls would."""
    seen: list[tuple[str, int, int]] = []
    with capture_events(TargetBenched) as events:
        for _ in range(5):
            probe(key, False)
            one = health([key])[key]
            seen.append((one.state, one.errors, one.consecutive_failures))

    assert [("closed", n, n) for n in range(1, 5)] + [("open", 5, 5)] == seen
    assert [("probe", "failures 5/5")] == [(each.reason, each.trigger) for each in events]


@KEYS
@pytest.mark.parametrize(
    ("error", "reason"), [(ConnectionResetError, "network"), (lambda: StrangeError("?"), "probe")]
)
def test_an_error_is_recorded_with_its_kind_and_reason(
    key: str, error: Callable[[], BaseException], reason: str
) -> None:
    """What is known of the error is what health shows."""
    probe(key, error)

    last = health([key])[key].last_error
    assert last is not None
    assert (ErrorKind.TRANSIENT, reason) == (last.kind, last.reason)


def test_an_error_is_charged_to_the_circuit_of_its_scope() -> None:
    """A connection that is refused is the provider's failure, also for the probe of a target."""
    probe(GROQ, ConnectionRefusedError(111, "refused"))

    assert (0, 1) == (
        health([GROQ])[GROQ].consecutive_failures,
        health([PROVIDER])[PROVIDER].consecutive_failures,
    )


@KEYS
def test_a_rate_limit_pauses_a_closed_circuit(clock: FakeClock, key: str) -> None:
    """For the wait that it names, as with a call."""
    probe(key, ProviderError(429, retry_after=60))

    assert 60.0 == pytest.approx(left(key))


def test_a_dead_key_is_benched_at_once(clock: FakeClock) -> None:
    """Charged to the provider, for the longest cooldown."""
    probe(GROQ, ProviderError(401))

    assert [(PROVIDER, "invalid_credentials")] == [(b.model, b.reason) for b in list_benched()]
    assert 300.0 == pytest.approx(left(PROVIDER))


@KEYS
def test_not_well_fails_the_probe_of_a_half_open_circuit(clock: FakeClock, key: str) -> None:
    """The cooldown doubles."""
    half_open(key, clock)
    clock.advance(1.0)

    with capture_events(TargetBenched) as events:
        probe(key, False)

    assert [(key, "probe failed")] == [(each.target, each.trigger) for each in events]
    assert 60.0 <= left(key) <= 2 * LONGEST_COOLDOWN


@KEYS
def test_not_well_leaves_a_half_open_circuit_whose_place_a_call_holds(
    clock: FakeClock, key: str
) -> None:
    """The call finds out more than the probe."""
    half_open(key, clock)
    clock.advance(1.0)

    with breaker(key):
        probe(key, False)
        during = breaker(key).state

    assert ("half_open", "closed") == (during, breaker(key).state)


@KEYS
def test_not_well_holds_an_open_circuit_until_the_next_tick_is_over(
    clock: FakeClock, key: str
) -> None:
    """Interval with its jitter and timeout, from the result on."""
    trip(key)
    clock.advance(20.0)
    before = numbers(key)

    with capture_events() as events:
        probe(key, False, interval=60.0, jitter=0.5, timeout=4.0)

    assert 60.0 * 1.5 + 4.0 == pytest.approx(left(key))
    assert ([], before[:-1]) == (events, numbers(key)[:-1])


@KEYS
def test_a_bench_is_never_made_shorter(clock: FakeClock, key: str) -> None:
    """A probe at its beginning confirms what lasts longer anyway."""
    trip(key)
    before = left(key)

    probe(key, False, interval=1.0)

    assert before == left(key)


@KEYS
def test_a_wrong_probe_benches_at_most_for_max_cooldown(clock: FakeClock, key: str) -> None:
    """From the start of the bench; then calls get their chance."""
    trip(key)
    for _ in range(9):
        clock.advance(30.0)
        assert "open" == breaker(key).state
        probe(key, False)
    late = left(key)
    clock.advance(30.0)

    assert (30.0, "half_open") == (pytest.approx(late), breaker(key).state)


@KEYS
@pytest.mark.parametrize(
    "state",
    ["memory", "dead key", "paused", "paused and open", "manual", "manual and open", "forced"],
)
@pytest.mark.parametrize("outcome", [False, ProviderError(503), ProviderError(403)], ids=repr)
def test_not_well_changes_nothing_elsewhere(
    clock: FakeClock, key: str, state: str, outcome: object
) -> None:
    """Memory pressure, dead keys, pauses and operators have reasons of their own."""
    STATES[state](key, clock)
    clock.advance(1.0)
    before = numbers(key)

    with capture_events() as events:
        probe(key, outcome, interval=600.0)

    assert ([], before) == (events, numbers(key))


@KEYS
def test_a_bench_by_hand_hides_no_longer_bench_of_a_probe(clock: FakeClock, key: str) -> None:
    """What is open below it ends as it would have."""
    trip(key)
    bench_model(key, 20.0)
    clock.advance(1.0)

    probe(key, False, interval=600.0)
    clock.advance(20.0)

    assert left(key) <= LONGEST_COOLDOWN - 21.0


@KEYS
@pytest.mark.parametrize("outcome", [None, False])
def test_a_circuit_that_is_forced_open_is_as_it_was_afterwards(
    clock: FakeClock, key: str, outcome: object
) -> None:
    """No probe settles what is open below it."""
    trip(key)
    configure(breakers={key: {"mode": "forced_open"}})
    clock.advance(1.0)

    with capture_events(TargetUnbenched) as events:
        probe(key, outcome, interval=600.0, proves="answers")
    configure(breakers={key: {"mode": "enforce"}})

    assert ([], "open") == (events, breaker(key).state)
    assert left(key) <= LONGEST_COOLDOWN - 1.0


def test_exporters_are_told_once_that_a_probe_has_ended_a_bench(clock: FakeClock) -> None:
    """Its cooldown has not expired as well."""
    watching = watch_benches()
    trip(GROQ)
    clock.advance(1.0)

    with capture_events(TargetUnbenched) as events:
        probe(GROQ)
        clock.advance(LONGEST_COOLDOWN)
        watching.flush()
    watching()

    assert ["probe"] == [each.reason for each in events]


def test_a_longer_wait_extends_a_pause_as_a_record_does(clock: FakeClock) -> None:
    """The provider has just named it."""
    breaker(GROQ).record(ProviderError(429, retry_after=20), 0.0)
    clock.advance(1.0)

    probe(GROQ, ProviderError(429, retry_after=100))

    assert 100.0 == pytest.approx(left(GROQ))


def test_a_target_of_a_blocked_provider_is_left_alone(clock: FakeClock) -> None:
    """Nothing is counted while an operator works on the provider."""
    bench_model(PROVIDER)
    before = numbers(GROQ)

    for _ in range(5):
        probe(GROQ, False)

    assert before == numbers(GROQ)


def test_an_error_that_a_guard_inside_has_counted_is_counted_once() -> None:
    """A probe may use a guard of its own key."""

    def guarded() -> None:
        with breaker(GROQ):
            raise ConnectionResetError

    probe(GROQ, guarded)

    assert 1 == health([GROQ])[GROQ].errors


@pytest.mark.parametrize("mode", ["metrics_only", "disabled"])
def test_modes_are_respected(mode: str) -> None:
    """A circuit that does not open is not opened by probes either."""
    configure(breakers={GROQ: {"mode": mode}})

    for _ in range(6):
        probe(GROQ, False)

    one = health([GROQ])[GROQ]
    assert ("closed", 6 if mode == "metrics_only" else 0) == (one.state, one.errors)


# What changes nothing since it is late.


@KEYS
@pytest.mark.parametrize("proves", ["reachable", "answers"])
@pytest.mark.parametrize("outcome", [None, False])
@pytest.mark.parametrize("state", ["half-open", "open", "memory", "dead key", "paused", "manual"])
def test_a_probe_that_began_before_the_present_state_changes_nothing(
    clock: FakeClock, key: str, proves: str, outcome: object, state: str
) -> None:
    """Also if both happen at the same moment of a clock."""
    seen: list[Any] = []

    def meanwhile() -> object:
        STATES[state](key, clock)
        seen.append(numbers(key))
        return outcome

    with capture_events(TargetUnbenched) as events:
        probe(key, meanwhile, proves=proves)

    assert seen == [numbers(key)]
    assert [] == events


@pytest.mark.parametrize("end", [lambda: unbench_model(GROQ), reset], ids=["unbench", "reset"])
def test_a_failure_from_before_a_circuit_was_closed_does_not_count(
    clock: FakeClock, end: Callable[[], object]
) -> None:
    """An operator who trusts a key again is not contradicted by what was seen before."""
    trip(GROQ)
    clock.advance(1.0)

    def meanwhile() -> bool:
        end()
        return False

    probe(GROQ, meanwhile)

    assert ("closed", 0) == (breaker(GROQ).state, health([GROQ])[GROQ].errors)


def test_a_wait_from_before_a_pause_does_not_extend_it(clock: FakeClock) -> None:
    """The pause was made by a call that began later, or ended earlier."""

    def meanwhile() -> None:
        breaker(GROQ).record(ProviderError(429, retry_after=20), 0.0)
        raise ProviderError(429, retry_after=100)

    probe(GROQ, meanwhile)

    assert 20.0 == pytest.approx(left(GROQ))


@pytest.mark.parametrize("outcome", [None, False])
def test_a_probe_of_another_state_of_the_process_changes_nothing(
    clock: FakeClock, outcome: object
) -> None:
    """Neither of an outer state in an inner one, nor the reverse."""

    async def run() -> None:
        started, go_on = anyio.Event(), anyio.Event()

        async def slow() -> Any:
            started.set()
            await go_on.wait()
            return outcome

        one = HealthProbe({GROQ: slow}, proves="answers", timeout=100.0)
        async with anyio.create_task_group() as group:
            group.start_soon(one.tick)
            await started.wait()
            with isolated():
                trip(GROQ)
                before = numbers(GROQ)
                go_on.set()
                await anyio.wait_all_tasks_blocked()
                assert before == numbers(GROQ)
        assert "closed" == breaker(GROQ).state
        assert 0 == health([GROQ])[GROQ].errors

    anyio.run(run)


# What is skipped.


@KEYS
def test_a_key_whose_calls_have_just_succeeded_is_skipped(clock: FakeClock, key: str) -> None:
    """Real traffic proves more than a probe, for as long as an interval."""
    with breaker(key):
        pass
    clock.advance(29.9)
    soon = probe(key, False)
    clock.advance(0.2)
    later = probe(key, False)

    assert (None, None, "traffic", 0.0, True) == (
        soon.ok,
        soon.kind,
        soon.reason,
        soon.seconds,
        soon.skipped,
    )
    assert (False, False) == (later.ok, later.skipped)


def test_calls_of_a_target_are_traffic_of_its_provider(clock: FakeClock) -> None:
    """And not the reverse."""
    with breaker(GROQ):
        pass
    with breaker("openai"):
        pass

    assert (True, False) == (probe(PROVIDER).skipped, probe("openai/gpt").skipped)


def test_many_calls_are_traffic_too(clock: FakeClock) -> None:
    """Successes that are only counted are seen as the others are."""
    for _ in range(1_000):
        with breaker(GROQ):
            clock.advance(0.01)
    clock.advance(29.0)

    assert probe(GROQ).skipped


def test_failures_and_questions_are_no_traffic(clock: FakeClock) -> None:
    """A key that is called and does not answer is probed."""
    breaker(GROQ).record(ProviderError(503), 0.0)
    health([GROQ])
    assert "closed" == breaker(GROQ).state

    assert not probe(GROQ).skipped


@pytest.mark.parametrize("successes", [1, 2])
def test_the_call_that_closes_a_circuit_is_traffic(clock: FakeClock, successes: int) -> None:
    """And each that is on the way there."""
    breaker(GROQ, successes_to_close=successes)
    half_open(GROQ, clock)
    with breaker(GROQ):
        pass

    assert probe(GROQ).skipped
    assert probe(PROVIDER).skipped


def test_a_probe_that_was_well_is_no_traffic(clock: FakeClock) -> None:
    """Also if it has closed the circuit."""
    trip(GROQ)
    clock.advance(1.0)
    probe(GROQ, proves="answers")

    assert not probe(GROQ, proves="answers").skipped
