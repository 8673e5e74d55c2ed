"""One circuit by itself: what each result does to it, and every event in full."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from resilient_llm._core.circuit import window
from resilient_llm._core.circuit.circuit import Circuit
from resilient_llm._core.circuit.outbox import HOLDER, CallTag, Fact
from resilient_llm._core.circuit.state import FOREVER, Admission, Block, Lease
from resilient_llm._core.circuit.window import NEVER, Generation
from resilient_llm._values.kinds import ErrorKind, LastError
from resilient_llm._values.settings import BreakerSettings
from resilient_llm._values.verdict import Verdict
from tests.support.circuits import (
    DEAD,
    DOWN,
    FULL,
    HUNG,
    WRONG,
    EventSink,
    answer,
    benched,
    circuit,
    fail,
    granted,
    kept,
    limited,
    refused,
)

TAG = CallTag("call-1")
KEY = "groq/llama"
TRANSIENT, RATE_LIMITED = ErrorKind.TRANSIENT, ErrorKind.RATE_LIMITED


def health(old: str, new: str) -> dict[str, Any]:
    """Return the details of a `HealthChanged`."""
    return {"old": old, "new": new}


def settled(one: Circuit) -> None:
    """Let the circuit answer, and pretend that it is busy, so that the next success is not looked at."""
    answer(one, 0.0)
    assert one.generation.is_settled
    one.generation.check_after = 100.0


def opened(sink: EventSink | None = None, **options: Any) -> Circuit:
    """Return a circuit that opened at 0 for 30 s."""
    one = circuit(sink=sink, **{"failures": 1, **options})
    fail(one, 0.0)
    if sink is not None:
        sink.take()
    return one


class TestOpening:
    """What opens a closed circuit, and which events are emitted."""

    def test_opens_at_the_limit_of_failures_in_a_row_and_emits_all_of_it(self) -> None:
        sink = EventSink()
        one = circuit(sink=sink, failures=3)

        fail(one, 1.0)
        fail(one, 2.0)
        one.failure(granted(one.admit(3.0)), 3.0, DOWN, 0.5, tag=TAG)

        assert [
            ("HealthChanged", KEY, 1.0, health("healthy", "degraded")),
            (
                "TargetBenched",
                KEY,
                3.0,
                benched(TRANSIENT, "overloaded", "failures 3/3", 33.0, tag=TAG),
            ),
            ("HealthChanged", KEY, 3.0, health("degraded", "down")),
        ] == sink.take()
        assert "open" == one.state(3.0)
        assert one.slot is None
        assert 33.0 == one.shut_until

    def test_a_success_forgets_failures_in_a_row(self) -> None:
        one = circuit(failures=3, error_rate=1.0)
        fail(one, 1.0, times=2)

        answer(one, 2.0)
        fail(one, 3.0, times=2)

        assert ("closed", 2) == (one.state(3.0), one.consecutive)

    def test_the_error_rate_opens_at_its_share_of_enough_calls(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink, failures=100, min_calls=4, error_rate=0.5)

        answer(one, 1.0, times=2)
        fail(one, 2.0)
        assert "closed" == one.state(2.0)
        fail(one, 3.0)

        assert [
            (
                "TargetBenched",
                KEY,
                3.0,
                benched(TRANSIENT, "overloaded", "error_rate 2/4 >= 0.5", 33.0),
            ),
        ] == sink.take()

    def test_slow_answers_open_by_their_rate(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink, min_calls=2, slow_call=5.0, slow_rate=1.0)

        answer(one, 1.0, seconds=5.0)
        answer(one, 2.0, seconds=7.0)

        assert [
            ("TargetBenched", KEY, 2.0, benched(TRANSIENT, "slow", "slow_rate 2/2 >= 1", 32.0))
        ] == sink.take()

    def test_an_answer_just_below_the_limit_is_not_slow(self) -> None:
        one = circuit(min_calls=1, slow_call=5.0, slow_rate=1.0)

        answer(one, 1.0, seconds=4.999)

        assert "closed" == one.state(1.0)

    def test_slow_errors_count_as_slow(self) -> None:
        one = circuit(failures=100, error_rate=1.0, min_calls=3, slow_call=5.0, slow_rate=1.0)
        answer(one, 1.0, seconds=5.0)
        answer(one, 1.0, seconds=5.0)

        one.failure(granted(one.admit(2.0)), 2.0, HUNG, 5.0)

        assert "open" == one.state(2.0)

    def test_a_success_can_open_by_an_error_rate_when_it_completes_the_number_of_calls(
        self,
    ) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink, failures=100, min_calls=2, error_rate=0.5)
        fail(one, 1.0)

        answer(one, 2.0)

        assert [
            (
                "TargetBenched",
                KEY,
                2.0,
                benched(TRANSIENT, "overloaded", "error_rate 1/2 >= 0.5", 32.0),
            ),
        ] == sink.take()

    @pytest.mark.parametrize(
        ("verdict", "trigger", "until"),
        [(DEAD, "auth_dead", 301.0), (FULL, "memory_pressure", 121.0)],
        ids=["auth_dead", "memory_pressure"],
    )
    def test_one_error_of_some_kinds_is_enough(
        self, verdict: Verdict, trigger: str, until: float
    ) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink, jitter=1.0)

        one.failure(granted(one.admit(1.0)), 1.0, verdict, 0.1, tag=TAG)

        assert [
            (
                "TargetBenched",
                KEY,
                1.0,
                benched(verdict.kind, verdict.reason, trigger, until, tag=TAG),
            ),
        ] == sink.take()

    @pytest.mark.parametrize(
        "verdict", [WRONG, Verdict(ErrorKind.CALLER_BUG), Verdict(ErrorKind.REJECTED)]
    )
    def test_what_harms_no_health_is_not_counted(self, verdict: Verdict) -> None:
        sink = EventSink()
        one = circuit(sink=sink, failures=1)

        fail(one, 1.0, verdict, times=3)

        assert ([], (0, 0), 0, None) == (
            sink.take(),
            one.numbers(1.0),
            one.consecutive,
            one.last_error,
        )

    def test_hung_calls_are_errors_but_no_failures_in_a_row(self) -> None:
        one = circuit(failures=2, min_calls=4, error_rate=1.0)

        fail(one, 1.0, HUNG, times=3)
        assert (("closed", 0), (3, 3)) == ((one.state(1.0), one.consecutive), one.numbers(1.0))
        fail(one, 1.0, HUNG)

        assert "open" == one.state(1.0)

    def test_rate_limits_are_errors_but_no_failures_in_a_row(self) -> None:
        one = circuit(failures=1)

        fail(one, 1.0, limited(2.0))

        assert (0, (1, 1), LastError(RATE_LIMITED, "rate_limit")) == (
            one.consecutive,
            one.numbers(1.0),
            one.last_error,
        )

    def test_the_event_of_a_bench_has_the_wait_that_the_error_named(self) -> None:
        sink = EventSink("HealthChanged")
        tripped, dead = circuit(sink=sink, failures=1), circuit(sink=sink)

        fail(tripped, 1.0, Verdict(TRANSIENT, "overloaded", retry_after=4.0))
        verdict = Verdict(ErrorKind.AUTH_DEAD, "invalid_credentials", retry_after=5.0)
        dead.failure(granted(dead.admit(1.0)), 1.0, verdict, 0.0, cooldown=400.0)

        assert [(31.0, 4.0), (401.0, 5.0)] == [
            (each["until"], each["retry_after"]) for _, _, _, each in sink.take()
        ]

    def test_slowness_is_the_reason_whatever_failed_before(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(
            sink=sink, failures=100, error_rate=1.0, min_calls=3, slow_call=5.0, slow_rate=0.6
        )
        fail(one, 1.0, limited(0.0))

        answer(one, 1.0, seconds=5.0, times=2)

        details = benched(TRANSIENT, "slow", "slow_rate 2/3 >= 0.6", 31.0)
        assert [("TargetBenched", KEY, 1.0, details)] == sink.take()

    def test_a_rejected_caller_gets_the_key_and_the_reason(self) -> None:
        one = circuit(failures=1)
        fail(one, 0.0)

        block = refused(one.admit(1.0))

        assert (KEY, "overloaded", 30.0, False, False) == (
            block.key, block.reason, block.until, block.manual, block.dead,
        )  # fmt: skip

    def test_nobody_is_asked_under_the_lock_who_listens(self) -> None:
        class Curious(EventSink):
            def has_listeners(self, kind: str, tag: CallTag | None = None, /) -> bool:
                raise AssertionError("the logger's answer is foreign code")

        sink = Curious()
        one = circuit(sink=sink, failures=1)

        one.failure(granted(one.admit(0.0)), 0.0, DOWN, 0.0, tag=TAG)

        assert ["TargetBenched", "HealthChanged"] == sink.kinds()

    def test_the_failed_attempt_comes_before_the_bench_that_it_causes(self) -> None:
        for charged in ("groq", "groq/a"):
            sink = EventSink()
            provider = circuit("groq", sink=sink, failures=1)
            target = circuit("groq/a", sink=sink, failures=1, provider=provider)
            one = provider if charged == "groq" else target
            tag = CallTag("a call")
            tag.cause = (target.outbox, Fact("AttemptFailed", 0.0, tag))

            one.failure(granted(one.admit(0.0)), 0.0, DOWN, 0.0, tag=tag)

            assert ["AttemptFailed", "TargetBenched", "HealthChanged"] == sink.kinds()[:3]
            assert tag.cause is None

    def test_a_bench_is_lengthened_by_a_share_drawn_once(self) -> None:
        one = circuit(failures=1, jitter=0.5)

        fail(one, 0.0)

        assert pytest.approx(31.5) == one.shut_until

    def test_the_cooldown_of_a_policy_holds_unless_the_circuit_has_one_of_its_own(self) -> None:
        own, none = circuit(failures=1, cooldown=40.0, cooldown_is_own=True), circuit(failures=1)

        for one in (own, none):
            one.failure(granted(one.admit(0.0)), 0.0, DOWN, 0.0, cooldown=7.0)

        assert (40.0, 7.0) == (own.shut_until, none.shut_until)

    def test_a_policys_cooldown_may_be_longer_than_the_longest(self) -> None:
        one = circuit(failures=1, max_cooldown=60.0)

        one.failure(granted(one.admit(0.0)), 0.0, DOWN, 0.0, cooldown=100.0)

        assert 100.0 == one.shut_until

    def test_a_late_failure_changes_nothing(self) -> None:
        sink = EventSink()
        one = circuit(sink=sink, failures=2)
        late = granted(one.admit(0.0))
        fail(one, 1.0, times=2)
        sink.take()

        one.failure(late, 5.0, DEAD, 1.0)
        one.failure(late, 5.0, limited(100.0), 1.0)

        assert ([], 31.0) == (sink.take(), one.shut_until)

    def test_a_late_success_changes_nothing(self) -> None:
        one = circuit(failures=2)
        late = granted(one.admit(0.0))
        fail(one, 1.0, times=2)

        one.success(late, 5.0, 1.0)

        assert ("open", 2) == (one.state(5.0), one.consecutive)

    def test_what_comes_after_a_success_that_opened_is_late(self) -> None:
        one = circuit(failures=100, min_calls=2, error_rate=0.5)
        late = granted(one.admit(0.0))
        assert isinstance(late, Generation)
        fail(one, 1.0)

        answer(one, 2.0)

        assert "open" == one.state(2.0)
        assert (False, False, (2, 1)) == (
            late.answered(2.0, 0.0, 0.0),
            one.success(late, 2.0, 0.0),
            one.numbers(2.0),
        )


class TestPausing:
    """Rate limits: a pause beside the closed state, extended and never shortened."""

    def test_a_named_wait_benches_exactly_that_long(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink, jitter=1.0)

        one.failure(granted(one.admit(1.0)), 1.0, limited(20.0), 0.0, tag=TAG)

        details = benched(
            RATE_LIMITED, "rate_limit", "rate_limited", 21.0, retry_after=20.0, tag=TAG
        )
        assert [("TargetBenched", KEY, 1.0, details)] == sink.take()
        assert ("open", 21.0, None) == (one.state(1.0), one.shut_until, one.slot)

    def test_without_a_named_wait_it_is_a_quarter_of_a_minute(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink)

        fail(one, 1.0, limited())

        assert [
            ("TargetBenched", KEY, 1.0, benched(RATE_LIMITED, "rate_limit", "rate_limited", 16.0)),
        ] == sink.take()

    def test_a_wait_is_cut_to_an_hour(self) -> None:
        one = circuit()

        fail(one, 1.0, limited(90_000.0))

        assert 3601.0 == one.shut_until

    def test_a_wait_of_nothing_benches_nobody(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink)

        fail(one, 1.0, limited(0.0))

        assert ([], "closed") == (sink.take(), one.state(1.0))

    def test_the_longest_of_several_waits_is_kept(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink)
        admissions = [granted(one.admit(0.0)) for _ in range(4)]

        for admission, wait in zip(admissions, (1.0, 60.0, 5.0, 2.0), strict=True):
            one.failure(admission, 1.0, limited(wait), 0.1)

        assert 61.0 == one.shut_until
        assert [2.0, 61.0] == [details["until"] for _, _, _, details in sink.take()]

    def test_a_wait_that_ends_a_moment_later_is_not_emitted_again(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink)
        admissions = [granted(one.admit(0.0)) for _ in range(3)]

        one.failure(admissions[0], 1.0, limited(10.0), 0.1)
        one.failure(admissions[1], 1.9, limited(10.0), 0.1)
        assert 11.9 == one.shut_until
        one.failure(admissions[2], 2.9, limited(10.0), 0.1)

        assert [11.0, 12.9] == [details["until"] for _, _, _, details in sink.take()]
        assert 12.9 == one.shut_until

    def test_a_wait_that_ends_at_the_same_moment_changes_nothing(self) -> None:
        one = circuit()
        first, second = granted(one.admit(0.0)), granted(one.admit(0.0))

        one.failure(first, 1.0, limited(10.0), 0.1)
        one.pause(second, 2.0, Verdict(TRANSIENT, "overloaded", retry_after=9.0))

        bench = one.bench_now(2.0)
        assert bench is not None
        assert (1.0, 11.0, "rate_limit") == (bench.since, bench.until, bench.reason)

    def test_an_extended_pause_began_with_the_first(self) -> None:
        one = circuit()
        first, second = granted(one.admit(0.0)), granted(one.admit(0.0))

        one.failure(first, 1.0, limited(10.0), 0.1)
        one.failure(second, 4.0, limited(10.0), 0.1)

        bench = one.bench_now(4.0)
        assert bench is not None
        assert (1.0, 14.0, "rate_limit", RATE_LIMITED, False) == (
            bench.since, bench.until, bench.reason, bench.kind, bench.manual,
        )  # fmt: skip

    def test_it_ends_by_itself_and_is_closed_as_before(self) -> None:
        sink = EventSink()
        one = circuit(sink=sink)
        fail(one, 1.0)
        fail(one, 1.0, limited(10.0))
        sink.take()

        assert "closed" == one.state(11.0)

        assert [
            ("TargetUnbenched", KEY, 11.0, {"reason": "expired"}),
            ("HealthChanged", KEY, 11.0, health("down", "degraded")),
        ] == sink.take()
        assert (1, (2, 2)) == (one.consecutive, one.numbers(11.0))
        assert one.slot is one.generation

    def test_a_wait_named_by_another_error_pauses_as_well(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink)
        verdict = Verdict(TRANSIENT, "overloaded", retry_after=8.0)

        one.pause(granted(one.admit(1.0)), 1.0, verdict, TAG)

        details = benched(TRANSIENT, "overloaded", "transient", 9.0, retry_after=8.0, tag=TAG)
        assert [("TargetBenched", KEY, 1.0, details)] == sink.take()

    def test_a_late_one_pauses_nobody(self) -> None:
        one = circuit(failures=1)
        late = granted(one.admit(0.0))
        fail(one, 0.0)
        one.unbench(1.0)

        one.pause(late, 2.0, Verdict(TRANSIENT, "overloaded", retry_after=8.0))

        assert "closed" == one.state(2.0)

    def test_nor_does_one_of_a_period_that_has_ended_while_it_is_open(self) -> None:
        one = circuit(failures=1)
        late = granted(one.admit(0.0))
        fail(one, 0.0)

        one.pause(late, 2.0, Verdict(TRANSIENT, "overloaded", retry_after=80.0))

        assert 30.0 == one.shut_until

    def test_a_report_without_an_admission_extends_a_running_pause(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink)
        fail(one, 0.0, limited(10.0))
        numbers = one.numbers(1.0)
        sink.take()

        one.extend_pause(1.0, limited(60.0), 0.5, TAG)

        details = benched(
            RATE_LIMITED, "rate_limit", "rate_limited", 61.0, retry_after=60.0, tag=TAG
        )
        assert [("TargetBenched", KEY, 1.0, details)] == sink.take()
        assert (61.0, numbers) == (one.shut_until, one.numbers(1.0))

    @pytest.mark.parametrize(
        "verdict",
        [limited(), limited(2.0), Verdict(TRANSIENT, "overloaded", retry_after=60.0), DEAD],
        ids=["without a wait", "a shorter wait", "another kind", "a dead key"],
    )
    def test_other_reports_without_an_admission_change_nothing(self, verdict: Verdict) -> None:
        sink = EventSink()
        one = circuit(sink=sink)
        fail(one, 0.0, limited(10.0))
        sink.take()

        one.extend_pause(1.0, verdict, 0.5)

        assert ([], 10.0) == (sink.take(), one.shut_until)

    def test_a_wait_that_is_named_while_another_circuit_blocks_the_key_begins_a_pause(self) -> None:
        one = circuit()

        one.extend_pause(11.0, limited(60.0), 10.0)

        assert ("open", 71.0) == (one.state(11.0), one.shut_until)

    def test_nor_does_one_of_a_call_from_before_the_present_period(self) -> None:
        one = circuit()
        fail(one, 0.0, limited(10.0))
        one.unbench(5.0)
        one.forget(6.0)

        one.extend_pause(7.0, limited(60.0), 5.5)

        assert "closed" == one.state(7.0)

    def test_nor_does_one_while_it_is_open(self) -> None:
        one = circuit(failures=1)
        fail(one, 0.0)

        one.extend_pause(1.0, limited(200.0), 0.5)

        assert 30.0 == one.shut_until

    def test_an_answer_while_it_is_paused_still_counts(self) -> None:
        one = circuit()
        early = granted(one.admit(0.0))
        fail(one, 1.0, times=2)
        fail(one, 1.0, limited(10.0))

        one.success(early, 2.0, 2.0)

        assert (0, (4, 3), "open") == (one.consecutive, one.numbers(2.0), one.state(2.0))


class TestHalfOpen:
    """After the cooldown: probes get leases, one probe decides."""

    def test_is_half_open_from_the_very_end_of_the_cooldown(self) -> None:
        one = opened()

        assert ("open", "half_open") == (one.state(29.999), one.state(30.0))

    def test_becoming_half_open_is_a_change_of_health_and_no_recovery(self) -> None:
        sink = EventSink()
        one = opened(sink, failures=10, error_rate=1.0, min_calls=1)

        one.state(30.0)

        assert [("HealthChanged", KEY, 30.0, health("down", "degraded"))] == sink.take()

    def test_admits_one_probe_and_refuses_the_rest(self) -> None:
        one = opened()

        lease, block = one.admit(30.0), refused(one.admit(30.0))

        assert isinstance(lease, Lease)
        assert (KEY, "probes taken", None, False, False) == (
            block.key, block.reason, block.until, block.manual, block.dead,
        )  # fmt: skip
        asked = one.block(30.0)
        assert asked is not None
        assert (KEY, "probes taken", None) == (asked.key, asked.reason, asked.until)

    def test_asking_takes_no_lease(self) -> None:
        one = opened()

        assert (None, None) == (one.block(30.0), one.block(30.0))

    def test_admits_as_many_as_it_is_set_to(self) -> None:
        one = opened(probes=2)

        results = [one.admit(30.0) for _ in range(3)]

        assert [True, True, False] == [isinstance(each, Lease) for each in results]

    def test_an_answer_closes_it_and_old_errors_are_forgotten(self) -> None:
        sink = EventSink()
        one = opened(sink)
        old = one.generation

        one.success(granted(one.admit(31.0)), 32.0, 1.0)

        assert [
            ("HealthChanged", KEY, 31.0, health("down", "degraded")),
            ("TargetUnbenched", KEY, 32.0, {"reason": "recovered"}),
            ("HealthChanged", KEY, 32.0, health("degraded", "healthy")),
        ] == sink.take()
        assert one.generation is not old
        assert (0, (0, 0), 32.0, 0) == (
            one.consecutive,
            one.numbers(32.0),
            one.healthy_since,
            one.failed_probes,
        )
        assert one.slot is one.generation
        assert one.generation.started_at == 32.0

    def test_as_many_answers_as_it_is_set_to_close_it(self) -> None:
        one = opened(successes_to_close=2)

        one.success(granted(one.admit(30.0)), 31.0, 1.0)
        assert "half_open" == one.state(31.0)
        one.success(granted(one.admit(31.0)), 32.0, 1.0)

        assert "closed" == one.state(32.0)

    def test_a_failed_probe_reopens_for_twice_as_long(self) -> None:
        sink = EventSink("HealthChanged")
        one = opened(sink)

        one.failure(granted(one.admit(30.0)), 31.0, DOWN, 1.0, tag=TAG)

        assert [
            (
                "TargetBenched",
                KEY,
                31.0,
                benched(TRANSIENT, "overloaded", "probe failed", 91.0, tag=TAG),
            ),
        ] == sink.take()
        assert (2, 1, 31.0, LastError(TRANSIENT, "overloaded")) == (
            one.consecutive, one.failed_probes, one.healthy_since, one.last_error,
        )  # fmt: skip

    def test_it_doubles_up_to_the_longest(self) -> None:
        one = opened()

        lengths: list[float] = []
        for _ in range(5):
            now = one.shut_until
            one.failure(granted(one.admit(now)), now, DOWN, 0.0)
            lengths.append(one.shut_until - now)

        assert [60.0, 120.0, 240.0, 300.0, 300.0] == lengths

    def test_it_goes_on_from_the_cooldown_with_which_it_opened(self) -> None:
        one = circuit(failures=1)
        one.failure(granted(one.admit(0.0)), 0.0, DOWN, 0.0, cooldown=4.0)

        one.failure(granted(one.admit(4.0)), 4.0, DOWN, 0.0, cooldown=99.0)

        assert 12.0 == one.shut_until

    def test_a_healthy_window_takes_one_doubling_back(self) -> None:
        one = opened(window=100.0)
        one.failure(granted(one.admit(30.0)), 30.0, DOWN, 0.0)
        one.success(granted(one.admit(90.0)), 90.0, 0.0)
        assert 1 == one.failed_probes

        fail(one, 189.0)
        at_189 = one.shut_until
        one.success(granted(one.admit(at_189)), at_189, 0.0)
        assert (60.0, 1) == (at_189 - 189.0, one.failed_probes)
        fail(one, at_189 + 100.0)

        assert (30.0, 0) == (one.shut_until - at_189 - 100.0, one.failed_probes)

    def test_a_failure_starts_the_healthy_window_anew(self) -> None:
        one = opened(window=100.0, failures=2)
        fail(one, 0.0)
        one.failure(granted(one.admit(30.0)), 30.0, DOWN, 0.0)
        one.success(granted(one.admit(90.0)), 90.0, 0.0)

        fail(one, 150.0)
        answer(one, 150.0)
        fail(one, 240.0)

        assert (1, 240.0) == (one.failed_probes, one.healthy_since)

    def test_a_rate_limited_probe_waits_for_the_longer_of_the_two(self) -> None:
        sink = EventSink("HealthChanged")
        one = opened(sink)

        one.failure(granted(one.admit(30.0)), 30.0, limited(500.0), 0.0, tag=TAG)

        details = {"retry_after": 500.0, "tag": TAG}
        assert [
            ("TargetBenched", KEY, 30.0, benched(RATE_LIMITED, "rate_limit", why, until, **details))
            for why, until in (("probe failed", 90.0), ("rate_limited", 530.0))
        ] == sink.take()
        assert 530.0 == one.shut_until

    def test_a_rate_limited_probe_without_a_named_wait_is_a_failed_probe(self) -> None:
        one = opened()

        one.failure(granted(one.admit(30.0)), 30.0, limited(), 0.0)

        assert 90.0 == one.shut_until

    def test_a_probe_with_a_dead_key_benches_for_the_longest(self) -> None:
        one = opened()

        one.failure(granted(one.admit(30.0)), 30.0, DEAD, 0.0)

        assert 330.0 == one.shut_until

    def test_a_lease_given_back_is_free_and_no_event(self) -> None:
        sink = EventSink()
        one = opened(sink)
        one.state(30.0)
        sink.take()

        one.abandon(granted(one.admit(30.0)))

        assert ([], "half_open") == (sink.take(), one.state(30.0))
        assert isinstance(one.admit(30.0), Lease)

    def test_an_error_that_is_not_charged_gives_the_lease_back(self) -> None:
        one = opened()

        one.failure(granted(one.admit(30.0)), 30.0, WRONG, 0.0)

        assert isinstance(one.admit(30.0), Lease)

    def test_a_lease_lasts_for_the_cooldown_at_least(self) -> None:
        one = opened()
        kept(one.admit(30.0))

        refused(one.admit(59.999))

        assert isinstance(one.admit(60.0), Lease)

    def test_a_lease_of_an_attempt_without_a_limit_is_that_of_the_cooldown(self) -> None:
        one = opened(cooldown=0.5)
        kept(one.admit(0.5))

        assert isinstance(one.admit(1.0), Lease)

    def test_a_lease_is_no_longer_than_a_short_cooldown_asks_for(self) -> None:
        one = opened(cooldown=4.0)
        kept(one.admit(4.0))

        assert isinstance(one.admit(8.0), Lease)

    def test_a_probe_that_fails_with_a_hint_is_a_failed_probe(self) -> None:
        sink = EventSink("HealthChanged")
        one = opened(sink)

        one.failure(
            granted(one.admit(30.0)),
            30.0,
            Verdict(TRANSIENT, "overloaded", retry_after=500.0),
            0.0,
        )

        assert [90.0] == [details["until"] for _, _, _, details in sink.take()]
        assert 90.0 == one.shut_until

    def test_a_lease_lasts_as_long_as_the_attempt_may(self) -> None:
        one = opened()
        kept(one.admit(30.0, 45.0))

        refused(one.admit(74.999))

        assert isinstance(one.admit(75.0), Lease)

    def test_a_lease_lasts_ten_times_the_usual_latency(self) -> None:
        one = circuit(failures=1)
        answer(one, 0.0, seconds=6.0)
        fail(one, 0.0)
        kept(one.admit(30.0))

        refused(one.admit(89.999))

        assert isinstance(one.admit(90.0), Lease)

    def test_a_lease_that_is_set_is_what_it_is_set_to(self) -> None:
        one = opened(probe_lease=2.0)
        kept(one.admit(30.0, 45.0))

        refused(one.admit(31.999))

        assert isinstance(one.admit(32.0), Lease)

    def test_a_hung_probe_that_reports_in_its_own_period_still_counts(self) -> None:
        one = opened(probe_lease=2.0)
        hung = granted(one.admit(30.0))
        kept(one.admit(40.0))

        one.success(hung, 41.0, 11.0)

        assert "closed" == one.state(41.0)

    @pytest.mark.parametrize("dropped", ["a probe", "a last resort"])
    def test_a_lease_that_is_dropped_frees_its_place(self, dropped: str) -> None:
        """As after an interrupt between its grant and the attempt, wherever that comes."""
        one = opened()

        def ask() -> Admission | Block:
            return one.admit(30.0) if dropped == "a probe" else one.admit_last_resort(1.0, 0.0)

        held = granted(ask())
        refused(ask())
        del held

        granted(ask())

    def test_a_probe_of_an_earlier_period_settles_and_frees_nothing(self) -> None:
        sink = EventSink()
        one = opened(sink, probe_lease=2.0)
        early = granted(one.admit(30.0))
        one.failure(granted(one.admit(32.0)), 32.0, DOWN, 0.0)
        kept(granted(one.admit(92.0)))
        sink.take()

        one.success(early, 92.0, 60.0)
        one.failure(early, 92.0, DEAD, 60.0)
        one.abandon(early)

        assert ([], "half_open") == (sink.take(), one.state(92.0))
        refused(one.admit(92.0))

    def test_probes_are_in_the_totals_since_it_last_closed(self) -> None:
        one = opened(successes_to_close=2, slow_call=5.0, slow_rate=1.0)
        one.failure(granted(one.admit(30.0)), 30.0, DOWN, 6.0)
        one.success(granted(one.admit(90.0)), 90.0, 7.0)

        assert (3, 2, 2) == one.generation.counts(90.0)

    def test_a_rate_limit_without_a_wait_benches_no_shorter_than_one(self) -> None:
        sink = EventSink("HealthChanged")
        one = opened(sink, cooldown=5.0)

        one.failure(granted(one.admit(5.0)), 5.0, limited(), 0.0)

        assert [15.0, 20.0] == [details["until"] for _, _, _, details in sink.take()]

    def test_whether_an_answer_counted_is_said(self) -> None:
        one = opened(successes_to_close=2, probe_lease=1.0)
        paused = circuit()
        fail(paused, 0.0, limited())
        early, probe = one.generation, granted(one.admit(30.0))
        resort = granted(paused.admit_last_resort(1.0, 0.0))

        assert [False, True, False, True] == [
            one.success(early, 31.0, 1.0),
            one.success(probe, 31.0, 1.0),
            one.success(Lease(one._state.half.__class__(30.0, 0.0), 99.0), 31.0, 1.0),
            paused.success(resort, 2.0, 1.0),
        ]

    def test_what_usual_answers_take_is_not_what_one_probe_takes(self) -> None:
        one = circuit(failures=1, successes_to_close=2)
        answer(one, 0.0, seconds=6.0)
        fail(one, 0.0)

        one.success(granted(one.admit(30.0)), 32.0, 2.0)

        assert 6.0 == one.last_latency

    def test_a_new_period_is_this_circuits_and_as_long(self) -> None:
        one = opened(window=60.0)

        one.success(granted(one.admit(30.0)), 32.0, 2.0)

        assert (one.serial, 60.0, 32.0) == (
            one.generation.owner,
            one.generation.window,
            one.generation.started_at,
        )

    def test_each_state_knows_when_it_began(self) -> None:
        one = opened(successes_to_close=2)
        assert NEVER == one.admits_since(one.generation)
        one.success(granted(one.admit_last_resort(5.0, 0.0)), 6.0, 1.0)
        by_answer = one.admits_since(one.admit(7.0))
        one.forget(9.0)

        assert (6.0, 9.0, NEVER) == (
            by_answer,
            one.admits_since(one.admit(10.0)),
            one.admits_since(None),
        )
        fail(one, 10.0)
        assert 40.0 == one.admits_since(one.admit(50.0))

    def test_it_has_not_recovered_while_something_else_blocks(self) -> None:
        sink = EventSink("HealthChanged")
        one = opened(sink)
        probe = granted(one.admit(30.0))
        one.bench(31.0, 100.0, "migration")
        sink.take()

        one.success(probe, 32.0, 1.0)

        assert [] == sink.take()
        assert "open" == one.state(32.0)

    def test_a_shared_lease_is_one_that_the_present_state_gave(self) -> None:
        one = opened()
        lease = one.admit(30.0)
        assert isinstance(lease, Lease)

        assert one.share((lease,)) is lease
        one.success(lease, 30.0, 0.0)
        assert one.share((lease,)) is None

    def test_the_answers_of_probes_say_how_long_answers_take(self) -> None:
        one = opened(successes_to_close=2)

        one.success(granted(one.admit(30.0)), 33.0, 3.0)
        one.success(granted(one.admit(33.0)), 38.0, 5.0)

        assert 4.0 == one.last_latency


class TestLastResort:
    """One attempt in spite of an automatic bench, when no other target is left."""

    def test_one_at_a_time(self) -> None:
        one = opened()

        lease, block = one.admit_last_resort(1.0, 0.0), refused(one.admit_last_resort(2.0, 0.0))

        assert isinstance(lease, Lease)
        assert (KEY, "last resort taken", 30.0) == (block.key, block.reason, block.until)

    def test_its_lease_ends_like_that_of_a_probe(self) -> None:
        one = opened(cooldown=500.0, max_cooldown=500.0)
        kept(one.admit_last_resort(1.0, 700.0))

        assert "open" == one.state(499.0)
        refused(one.admit_last_resort(499.0, 0.0))
        one = opened(probe_lease=5.0)
        kept(one.admit_last_resort(1.0, 0.0))

        refused(one.admit_last_resort(5.999, 0.0))
        assert isinstance(one.admit_last_resort(6.0, 0.0), Lease)

    def test_by_default_it_lasts_for_the_cooldown(self) -> None:
        one = circuit(failures=1, cooldown=20.0)
        one.failure(granted(one.admit(0.0)), 0.0, DOWN, 0.0, cooldown=300.0)
        kept(one.admit_last_resort(1.0, 0.0))

        refused(one.admit_last_resort(20.999, 0.0))

        assert isinstance(one.admit_last_resort(21.0, 0.0), Lease)

    def test_an_answer_is_worth_a_probe(self) -> None:
        sink = EventSink()
        one = opened(sink)

        one.success(granted(one.admit_last_resort(1.0, 0.0)), 2.0, 1.0)

        assert [
            ("TargetUnbenched", KEY, 2.0, {"reason": "recovered"}),
            ("HealthChanged", KEY, 2.0, health("down", "healthy")),
        ] == sink.take()
        assert "closed" == one.state(2.0)

    def test_where_one_answer_is_not_enough_it_is_half_open_then(self) -> None:
        one = opened(successes_to_close=2)

        one.success(granted(one.admit_last_resort(1.0, 0.0)), 2.0, 1.0)
        assert "half_open" == one.state(2.0)
        one.success(granted(one.admit(2.0)), 3.0, 1.0)

        assert "closed" == one.state(3.0)

    def test_a_failure_leaves_the_bench_as_it_is(self) -> None:
        sink = EventSink()
        one = opened(sink)

        one.failure(granted(one.admit_last_resort(1.0, 0.0)), 2.0, DOWN, 1.0)

        assert ([], 30.0, 1, 0) == (sink.take(), one.shut_until, one.consecutive, one.failed_probes)
        assert isinstance(one.admit_last_resort(2.0, 0.0), Lease)

    def test_a_wait_that_the_provider_names_now_is_noted(self) -> None:
        sink = EventSink()
        one = opened(sink)

        one.failure(granted(one.admit_last_resort(1.0, 0.0)), 2.0, limited(100.0), 1.0, tag=TAG)

        details = benched(
            RATE_LIMITED, "rate_limit", "rate_limited", 102.0, retry_after=100.0, tag=TAG
        )
        assert [("TargetBenched", KEY, 2.0, details)] == sink.take()
        assert LastError(RATE_LIMITED, "rate_limit") == one.last_error

    def test_a_rate_limit_without_a_wait_is_not(self) -> None:
        sink = EventSink()
        one = opened(sink)

        one.failure(granted(one.admit_last_resort(20.0, 0.0)), 20.0, limited(), 1.0)

        assert ([], 30.0) == (sink.take(), one.shut_until)

    def test_a_dead_key_is_noted_for_good(self) -> None:
        sink = EventSink()
        one = opened(sink)

        one.failure(granted(one.admit_last_resort(1.0, 0.0)), 2.0, DEAD, 1.0, tag=TAG)

        details = benched(ErrorKind.AUTH_DEAD, "invalid_credentials", "auth_dead", 302.0, tag=TAG)
        assert [("TargetBenched", KEY, 2.0, details)] == sink.take()
        assert refused(one.admit_last_resort(3.0, 0.0)).dead

    def test_a_dead_key_is_benched_as_long_as_the_policys_cooldown_at_least(self) -> None:
        sink = EventSink("HealthChanged")
        one = opened(sink)
        dead = Verdict(ErrorKind.AUTH_DEAD, "invalid_credentials", retry_after=5.0)

        one.failure(granted(one.admit_last_resort(1.0, 0.0)), 2.0, dead, 1.0, cooldown=400.0)

        details = benched(
            ErrorKind.AUTH_DEAD, "invalid_credentials", "auth_dead", 402.0, retry_after=5.0
        )
        assert [("TargetBenched", KEY, 2.0, details)] == sink.take()

    def test_never_past_a_forced_mode_over_an_automatic_bench(self) -> None:
        one = opened()
        one.configure(BreakerSettings(failures=1, mode="forced_open"), 0.0)

        assert refused(one.admit_last_resort(1.0, 0.0)).manual

    def test_never_past_a_wait_that_the_provider_named(self) -> None:
        one = circuit()
        fail(one, 0.0, limited(20.0))

        block = refused(one.admit_last_resort(1.0, 0.0))

        assert (KEY, "rate_limit", 20.0, False, False) == (
            block.key, block.reason, block.until, block.manual, block.dead,
        )  # fmt: skip

    def test_past_a_pause_that_nobody_named_and_an_answer_ends_it(self) -> None:
        sink = EventSink()
        one = circuit(sink=sink)
        fail(one, 0.0, limited())
        sink.take()

        one.success(granted(one.admit_last_resort(1.0, 0.0)), 2.0, 1.0)

        assert [
            ("TargetUnbenched", KEY, 2.0, {"reason": "recovered"}),
            ("HealthChanged", KEY, 2.0, health("down", "degraded")),
        ] == sink.take()
        assert ("closed", 1.0) == (one.state(2.0), one.last_latency)
        assert one.slot is one.generation

    def test_what_comes_of_it_in_a_pause_is_counted_in_the_period_beneath(self) -> None:
        one = circuit(slow_call=5.0, failures=3)
        early = granted(one.admit(0.0))
        fail(one, 0.0, limited())
        one.failure(granted(one.admit_last_resort(1.0, 0.0)), 2.0, DOWN, 6.0)
        assert ((2, 2, 1), 1, 15.0) == (one.generation.counts(2.0), one.consecutive, one.shut_until)

        one.success(granted(one.admit_last_resort(3.0, 0.0)), 9.0, 6.0)

        assert ((3, 2, 2), 0, "closed") == (
            one.generation.counts(9.0),
            one.consecutive,
            one.state(9.0),
        )
        assert early is one.generation

    def test_failures_of_it_open_nothing_by_themselves(self) -> None:
        one = circuit(failures=1)
        fail(one, 0.0, limited())

        one.failure(granted(one.admit_last_resort(1.0, 0.0)), 2.0, DOWN, 1.0)

        assert (15.0, 1) == (one.shut_until, one.consecutive)

    def test_one_at_a_time_also_while_the_pause_is_extended(self) -> None:
        one = circuit()
        early = granted(one.admit(0.0))
        fail(one, 0.0, limited())
        lease = granted(one.admit_last_resort(1.0, 0.0))

        one.failure(early, 5.0, limited(), 5.0)

        assert "last resort taken" == refused(one.admit_last_resort(6.0, 0.0)).reason
        one.abandon(lease)
        assert isinstance(one.admit_last_resort(6.0, 0.0), Lease)

    def test_a_pause_that_was_named_once_is_respected_however_it_is_extended(self) -> None:
        one = circuit()
        admissions = [granted(one.admit(0.0)) for _ in range(3)]
        one.failure(admissions[0], 0.0, limited(3.0), 0.0)

        one.failure(admissions[1], 1.0, limited(), 1.0)

        assert "rate_limit" == refused(one.admit_last_resort(2.0, 0.0)).reason

    def test_a_shorter_wait_that_is_named_makes_the_longer_pause_one_to_respect(self) -> None:
        one = circuit()
        admissions = [granted(one.admit(0.0)) for _ in range(2)]
        one.failure(admissions[0], 0.0, limited(), 0.0)

        one.failure(admissions[1], 1.0, limited(3.0), 1.0)

        assert (15.0, "rate_limit") == (
            one.shut_until,
            refused(one.admit_last_resort(2.0, 0.0)).reason,
        )

    def test_never_past_a_bench_made_by_hand(self) -> None:
        one = opened()
        one.bench(1.0, 5.0, "")

        block = refused(one.admit_last_resort(2.0, 0.0))

        assert (KEY, "benched by hand", 30.0, True, False) == (
            block.key, block.reason, block.until, block.manual, block.dead,
        )  # fmt: skip

    def test_never_past_a_forced_mode(self) -> None:
        one = circuit(mode="forced_open")

        block = refused(one.admit_last_resort(1.0, 0.0))

        assert (KEY, "forced_open", None, True) == (
            block.key,
            block.reason,
            block.until,
            block.manual,
        )

    def test_where_nothing_blocks_it_is_an_ordinary_attempt(self) -> None:
        one = circuit()

        assert one.admit_last_resort(1.0, 0.0) is one.generation

    def test_in_a_half_open_circuit_it_is_a_probe_with_its_lease(self) -> None:
        one = opened()

        kept(one.admit_last_resort(30.0, 50.0))

        assert "probes taken" == refused(one.admit_last_resort(79.0, 0.0)).reason
        assert isinstance(one.admit_last_resort(80.0, 0.0), Lease)


class TestByHand:
    """An operator's bench: no result touches it."""

    def test_it_is_emitted_and_shown(self) -> None:
        sink = EventSink()
        one = circuit(sink=sink)

        one.bench(1.0, 100.0, "migration")

        assert [
            ("TargetBenched", KEY, 1.0, benched(None, "migration", "manual", 100.0)),
            ("HealthChanged", KEY, 1.0, health("healthy", "down")),
        ] == sink.take()
        bench = one.bench_now(2.0)
        assert bench is not None
        assert (1.0, 100.0, "migration", None, True) == (
            bench.since, bench.until, bench.reason, bench.kind, bench.manual,
        )  # fmt: skip
        assert (None, 100.0) == (one.slot, one.shut_until)

    def test_until_unbenched_has_no_end(self) -> None:
        one = circuit()
        one.bench(1.0, FOREVER, "migration")

        block = refused(one.admit(1e9))

        assert (None, "migration", True) == (block.until, block.reason, block.manual)

    def test_it_ends_at_its_end_and_health_changes(self) -> None:
        sink = EventSink()
        one = circuit(sink=sink)
        one.bench(1.0, 100.0, "migration")
        sink.take()

        assert ("open", "closed") == (one.state(99.999), one.state(100.0))

        assert [
            ("TargetUnbenched", KEY, 100.0, {"reason": "expired"}),
            ("HealthChanged", KEY, 100.0, health("down", "healthy")),
        ] == sink.take()

    def test_its_end_is_no_event_while_something_else_blocks(self) -> None:
        sink = EventSink()
        one = circuit(sink=sink, failures=1)
        fail(one, 0.0)
        one.bench(1.0, 10.0, "migration")
        sink.take()

        assert "open" == one.state(10.0)

        assert [] == sink.take()

    def test_results_count_meanwhile_and_do_not_end_it(self) -> None:
        one = circuit(failures=2)
        admissions = [granted(one.admit(0.0)) for _ in range(3)]
        one.bench(1.0, 1000.0, "migration")

        one.failure(admissions[0], 2.0, DOWN, 1.0)
        one.failure(admissions[1], 2.0, DOWN, 1.0)
        one.success(admissions[2], 2.0, 1.0)

        bench = one.bench_now(2.0)
        assert bench is not None
        assert (True, 1000.0) == (bench.manual, bench.until)

    def test_unbenching_ends_every_bench_and_closes_the_circuit(self) -> None:
        sink = EventSink()
        one = circuit(sink=sink, failures=1)
        fail(one, 0.0)
        one.failure(granted(one.admit(30.0)), 30.0, DOWN, 0.0)
        one.bench(31.0, 1000.0, "migration")
        sink.take()

        assert one.unbench(32.0)

        assert [
            ("TargetUnbenched", KEY, 32.0, {"reason": "manual", "by": ""}),
            ("HealthChanged", KEY, 32.0, health("down", "healthy")),
        ] == sink.take()
        assert ("closed", 0, 0, NEVER) == (
            one.state(32.0),
            one.consecutive,
            one.failed_probes,
            one.shut_until,
        )
        fail(one, 33.0)
        assert 63.0 == one.shut_until

    def test_unbenching_what_is_not_benched_returns_false_without_an_event(self) -> None:
        sink = EventSink()
        one = circuit(sink=sink)
        fail(one, 0.0)
        sink.take()

        assert not one.unbench(1.0)

        assert [] == sink.take()

    @pytest.mark.parametrize(
        "verdict", [None, limited(20.0)], ids=["not benched", "paused by a rate limit"]
    )
    def test_unbenching_forgets_failures_in_a_row(self, verdict: Verdict | None) -> None:
        one = circuit(failures=5)
        fail(one, 0.0, times=4)
        if verdict is not None:
            fail(one, 0.0, verdict)

        one.unbench(1.0)
        fail(one, 2.0)

        assert ("closed", 1) == (one.state(2.0), one.consecutive)

    def test_unbenching_a_half_open_circuit_closes_it(self) -> None:
        one = circuit(failures=1)
        fail(one, 0.0)

        assert not one.unbench(30.0)

        assert ("closed", None) == (one.state(30.0), one.block(30.0))

    def test_unbenching_a_pause_keeps_the_period(self) -> None:
        one = circuit()
        generation = one.generation
        fail(one, 0.0, limited(10.0))

        assert one.unbench(1.0)

        assert one.slot is generation

    @pytest.mark.parametrize("verdict", [DOWN, limited(20.0)], ids=["open", "paused"])
    def test_forgetting_ends_what_is_automatic(self, verdict: Verdict) -> None:
        sink = EventSink()
        one = circuit(sink=sink, failures=1)
        fail(one, 0.0, verdict)
        sink.take()

        one.forget(1.0)

        assert [
            ("TargetUnbenched", KEY, 1.0, {"reason": "reset"}),
            ("HealthChanged", KEY, 1.0, health("down", "healthy")),
        ] == sink.take()
        assert ("closed", (0, 0), None, None, 0) == (
            one.state(1.0), one.numbers(1.0), one.last_error, one.last_latency, one.failed_probes,
        )  # fmt: skip

    def test_forgetting_keeps_what_was_done_by_hand(self) -> None:
        sink = EventSink()
        one = circuit(sink=sink, failures=1)
        one.bench(0.0, 100.0, "migration")
        sink.take()

        one.forget(1.0)

        assert ([], "open") == (sink.take(), one.state(1.0))

    def test_forgetting_starts_the_escalation_anew(self) -> None:
        one = circuit(failures=1)
        fail(one, 0.0)
        one.failure(granted(one.admit(30.0)), 30.0, DOWN, 0.0)

        one.forget(31.0)
        fail(one, 32.0)

        assert 62.0 == one.shut_until


class TestModes:
    """Settings of a circuit, changed while it works."""

    def test_metrics_only_emits_once_for_as_long_as_it_would_have_benched(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink, failures=1, mode="metrics_only")

        fail(one, 1.0)
        fail(one, 30.999)
        fail(one, 31.0)

        first = benched(TRANSIENT, "overloaded", "failures 1/1", 31.0, enforced=False)
        second = benched(TRANSIENT, "overloaded", "failures 3/1", 61.0, enforced=False)
        assert [
            ("TargetBenched", KEY, 1.0, first),
            ("TargetBenched", KEY, 31.0, second),
        ] == sink.take()
        assert "closed" == one.state(31.0)

    def test_metrics_only_emits_what_a_bench_would_have_emitted(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink, failures=1, mode="metrics_only")

        one.failure(
            granted(one.admit(1.0)),
            1.0,
            Verdict(TRANSIENT, "overloaded", retry_after=4.0),
            0.0,
            tag=TAG,
        )

        details = benched(
            TRANSIENT, "overloaded", "failures 1/1", 31.0, retry_after=4.0, tag=TAG, enforced=False
        )
        assert [("TargetBenched", KEY, 1.0, details)] == sink.take()

    def test_metrics_only_emits_pauses_too(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink, mode="metrics_only")

        one.failure(granted(one.admit(1.0)), 1.0, limited(9.0), 0.0, tag=TAG)

        details = benched(
            RATE_LIMITED,
            "rate_limit",
            "rate_limited",
            10.0,
            retry_after=9.0,
            tag=TAG,
            enforced=False,
        )
        assert [("TargetBenched", KEY, 1.0, details)] == sink.take()

    def test_forgetting_makes_metrics_only_emit_again(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink, failures=1, mode="metrics_only")
        fail(one, 1.0)

        one.forget(2.0)
        fail(one, 3.0)

        assert [1.0, 3.0] == [at for _, _, at, _ in sink.take()]

    def test_disabled_counts_and_blocks_nothing(self) -> None:
        sink = EventSink()
        one = circuit(sink=sink, failures=1, mode="disabled")

        fail(one, 1.0, DOWN, times=3)
        fail(one, 1.0, limited(9.0))
        fail(one, 1.0, DEAD)

        assert ([], (0, 0), "closed") == (sink.take(), one.numbers(1.0), one.state(1.0))
        assert one.slot is not None
        assert one.slot is not one.generation
        assert (FOREVER, 1.0) == (
            one.slot.check_after,
            circuit(now=1.0, mode="disabled").slot.started_at,
        )  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        "report",
        [
            lambda one, admission: one.failure(admission, 1.0, DOWN, 0.0),
            lambda one, admission: one.failure(admission, 1.0, DEAD, 0.0),
            lambda one, admission: one.failure(admission, 1.0, limited(9.0), 0.0),
            lambda one, admission: one.pause(admission, 1.0, limited(9.0)),
            lambda one, admission: one.exhausted(admission, 1.0, DOWN, 3, 0),
        ],
        ids=["failures", "auth_dead", "rate limit", "pause", "exhausted"],
    )
    def test_a_call_that_was_running_does_not_block_a_disabled_circuit(
        self, report: Callable[[Circuit, Admission], None]
    ) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink, failures=1)
        admission = granted(one.admit(0.0))
        one.configure(BreakerSettings(failures=1, mode="disabled"), 0.5)

        report(one, admission)

        assert ([], "closed", None) == (sink.take(), one.state(1.0), one.bench_now(1.0))

    def test_a_circuit_that_is_forced_open_is_never_idle(self) -> None:
        one = circuit(mode="forced_open")

        assert not one.is_idle(1e6)

    def test_forced_open_blocks_until_the_mode_is_changed(self) -> None:
        sink = EventSink()
        one = circuit(sink=sink, now=5.0)

        assert one.configure(BreakerSettings(mode="forced_open"), 6.0)

        assert [("HealthChanged", KEY, 6.0, health("healthy", "down"))] == sink.take()
        block = refused(one.admit(7.0))
        assert (KEY, "forced_open", None, True) == (
            block.key,
            block.reason,
            block.until,
            block.manual,
        )
        bench = one.bench_now(7.0)
        assert bench is not None
        assert (5.0, FOREVER, "forced_open", None, False) == (
            bench.since, bench.until, bench.reason, bench.kind, bench.manual,
        )  # fmt: skip
        assert (None, FOREVER, "open") == (one.slot, one.shut_until, one.state(7.0))

    def test_the_same_settings_change_nothing(self) -> None:
        one = circuit()
        one.generation.check_after = 5.0

        assert not one.configure(BreakerSettings(), 1.0)

        assert 5.0 == one.generation.check_after

    def test_changed_settings_are_looked_at_by_the_next_success(self) -> None:
        one = circuit()
        one.generation.check_after, one.generation.is_settled = 5.0, True

        assert one.configure(BreakerSettings(failures=7), 1.0)

        assert (NEVER, False, 7) == (
            one.generation.check_after,
            one.generation.is_settled,
            one.settings.failures,
        )

    def test_a_new_window_keeps_what_was_counted(self) -> None:
        one = circuit(failures=100, error_rate=1.0)
        fail(one, 0.0)
        answer(one, 50.0)

        one.configure(BreakerSettings(failures=100, error_rate=1.0, window=60.0), 55.0)

        assert ((2, 1), (1, 0)) == (one.numbers(55.0), one.numbers(60.0))

    @pytest.mark.parametrize("mode", ["disabled", "metrics_only"])
    @pytest.mark.parametrize("verdict", [DOWN, limited(20.0)], ids=["open", "paused"])
    def test_a_mode_that_blocks_nobody_ends_what_was_automatic(
        self, mode: Any, verdict: Verdict
    ) -> None:
        one = circuit(failures=1)
        fail(one, 0.0, verdict)

        one.configure(BreakerSettings(failures=1, mode=mode), 1.0)

        assert ("closed", None) == (one.state(1.0), one.bench_now(1.0))
        assert one.slot is not None

    def test_other_settings_keep_a_bench(self) -> None:
        one = circuit(failures=1)
        fail(one, 0.0)

        one.configure(BreakerSettings(failures=3), 1.0)

        assert 30.0 == one.shut_until

    def test_a_suspended_circuit_sends_everybody_to_bind_anew(self) -> None:
        one = circuit()

        one.suspend(suspended=True)
        assert (None, NEVER) == (one.slot, one.shut_until)
        one.suspend(suspended=False)

        assert one.slot is one.generation

    def test_a_suspended_circuit_that_is_benched_does_too(self) -> None:
        one = circuit(failures=1)
        fail(one, 0.0)

        one.suspend(suspended=True)
        assert NEVER == one.shut_until
        one.suspend(suspended=False)

        assert 30.0 == one.shut_until


class TestExhausted:
    """One call used up its attempts on a key that answered no other call meanwhile."""

    def test_it_opens_with_the_number_of_attempts(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink)
        admission = granted(one.admit(1.0))
        one.failure(admission, 1.0, DOWN, 0.0)

        one.exhausted(admission, 2.0, DOWN, 3, one.answered(), cooldown=8.0, tag=TAG)

        details = benched(TRANSIENT, "overloaded", "exhausted 3/3", 10.0, tag=TAG)
        assert [("TargetBenched", KEY, 2.0, details)] == sink.take()

    def test_the_event_has_the_hint_of_the_last_error(self) -> None:
        sink = EventSink("HealthChanged")
        one = circuit(sink=sink)
        verdict = Verdict(TRANSIENT, "overloaded", retry_after=4.0)

        one.exhausted(granted(one.admit(1.0)), 2.0, verdict, 2, 0)

        assert [4.0] == [details["retry_after"] for _, _, _, details in sink.take()]

    def test_it_changes_the_health(self) -> None:
        sink = EventSink("TargetBenched")
        one = circuit(sink=sink)

        one.exhausted(granted(one.admit(1.0)), 2.0, DOWN, 2, 0)

        assert [("HealthChanged", KEY, 2.0, health("healthy", "down"))] == sink.take()

    def test_not_if_it_answered_anybody_meanwhile(self) -> None:
        one = circuit()
        admission, before = granted(one.admit(1.0)), one.answered()
        answer(one, 1.5)

        one.exhausted(admission, 2.0, DOWN, 3, before)

        assert "closed" == one.state(2.0)

    def test_not_by_a_call_of_an_earlier_period(self) -> None:
        one = circuit(failures=1)
        late = granted(one.admit(0.0))
        fail(one, 0.0)
        one.unbench(1.0)

        one.exhausted(late, 2.0, DOWN, 3, 0)

        assert "closed" == one.state(2.0)

    def test_nor_while_it_is_open_already(self) -> None:
        one = circuit(failures=1)
        late = granted(one.admit(0.0))
        fail(one, 0.0)

        one.exhausted(late, 20.0, DOWN, 3, 0)

        assert 30.0 == one.shut_until

    def test_a_disabled_circuit_never_opens_by_it(self) -> None:
        one = circuit(mode="disabled")

        one.exhausted(granted(one.admit(1.0)), 2.0, DOWN, 3, 0)

        assert "closed" == one.state(2.0)


class TestInterrupted:
    """A KeyboardInterrupt between a change and its publication does not admit callers."""

    def interrupted(self, **options: Any) -> Circuit:
        """Return a circuit that opened, but whose slot still admits calls."""
        one = circuit(**{"failures": 1, **options})
        generation = one.generation
        fail(one, 0.0)
        one.slot = one.limited_slot = generation
        one.shut_until = NEVER
        return one

    def test_the_next_failure_puts_it_right(self) -> None:
        one = self.interrupted()

        one.failure(one.generation, 1.0, DOWN, 1.0)

        assert (None, 30.0) == (one.slot, one.shut_until)

    def test_so_does_the_next_answer(self) -> None:
        one = self.interrupted()

        one.success(one.generation, 1.0, 1.0)

        assert (None, 30.0) == (one.slot, one.shut_until)

    def test_so_does_whoever_asks(self) -> None:
        one = self.interrupted()

        refused(one.admit(1.0))

        assert (None, 30.0) == (one.slot, one.shut_until)

    def test_a_target_publishes_what_its_provider_could_not(self) -> None:
        provider = circuit("groq", failures=1)
        one = circuit(provider=provider)
        generation = one.generation
        fail(provider, 0.0)
        one.slot = one.limited_slot = generation
        one.shut_until, provider._is_publishing = NEVER, True

        one.failure(generation, 1.0, DOWN, 1.0)

        assert (None, 30.0) == (one.slot, one.shut_until)


class TestFigures:
    """What a circuit says about itself."""

    def test_a_call_is_hung_after_ten_times_the_average_and_ten_seconds_at_least(self) -> None:
        quick, slow, limited_to_2 = circuit(), circuit(), circuit(slow_call=2.0)
        answer(quick, 0.0, seconds=0.5)
        answer(slow, 0.0, seconds=4.0)
        answer(slow, 0.0, seconds=2.0)

        assert [10.0, 10.0, 30.0, 2.0] == [
            one.hung_after(0.0) for one in (circuit(), quick, slow, limited_to_2)
        ]

    def test_the_average_of_a_window_that_is_empty_is_what_it_last_was(self) -> None:
        one = circuit(window=60.0)
        answer(one, 0.0, seconds=4.0)
        assert 4.0 == one.average_latency(1.0)

        assert 4.0 == one.average_latency(100.0)

    def test_it_is_idle_while_only_successes_would_be_forgotten(self) -> None:
        sink = EventSink()
        healthy, ill, open_, paused, manual = (
            circuit(sink=sink, failures=2, window=60.0) for _ in range(5)
        )
        answer(healthy, 0.0)
        fail(ill, 0.0)
        fail(open_, 0.0, times=2)
        fail(paused, 0.0, limited(20.0))
        manual.bench(0.0, 20.0, "")

        assert [True, False, False, False, False] == [
            each.is_idle(1.0) for each in (healthy, ill, open_, paused, manual)
        ]

    def test_it_is_not_idle_until_its_errors_have_left_the_window(self) -> None:
        one = circuit(window=60.0, failures=3)
        fail(one, 0.0)
        answer(one, 0.0)

        assert [False, True] == [one.is_idle(59.999), one.is_idle(60.0)]

    def test_what_nobody_asked_for_during_a_window_is_idle_however_it_was_left(self) -> None:
        half_open, ill, forced = circuit(failures=1), circuit(), circuit(failures=1)
        fail(half_open, 0.0)
        fail(ill, 0.0)
        fail(forced, 0.0)
        forced.bench(0.0, 1000.0, "migration")

        assert [(False, True), (False, True), (False, False)] == [
            (one.is_idle(299.9), one.is_idle(300.0)) for one in (half_open, ill, forced)
        ]

    def test_it_is_not_idle_while_failed_probes_lengthen_the_next_bench(self) -> None:
        one = circuit(failures=1, window=60.0)
        fail(one, 0.0)
        one.failure(granted(one.admit(30.0)), 30.0, DOWN, 0.0)
        one.success(granted(one.admit(90.0)), 90.0, 0.0)

        assert not one.is_idle(91.0)

    def test_it_notes_when_it_was_last_asked(self) -> None:
        one = circuit(now=3.0)
        assert 3.0 == one.touched_at

        one.admit(7.0)

        assert 7.0 == one.touched_at

    def test_status_follows_the_share_of_errors(self) -> None:
        one = circuit(failures=100, error_rate=1.0)
        answer(one, 0.0, times=10)
        fail(one, 0.0)
        assert "healthy" == one.status(0.0)

        fail(one, 0.0)

        assert "degraded" == one.status(0.0)

    def test_the_events_queue_is_empty_when_nobody_listens(self) -> None:
        one = circuit(sink=EventSink("TargetBenched", "HealthChanged"), failures=1)

        fail(one, 0.0)

        assert 0 == len(one.outbox)

    def test_an_event_is_emitted_with_its_details_if_a_listener_wants_it(self) -> None:
        sink, deaf = EventSink(), EventSink("AttemptFailed")
        circuit(sink=sink).emit("AttemptFailed", 4.0, tag=TAG, number=1)
        circuit(sink=deaf).emit("AttemptFailed", 4.0, tag=TAG, number=1)

        assert [("AttemptFailed", KEY, 4.0, {"tag": TAG, "number": 1})] == sink.take()
        assert [] == deaf.take()

    def test_each_circuit_of_a_key_has_its_own_serial(self) -> None:
        assert circuit().serial < circuit().serial


class TestSettled:
    """When the healthy path may count by itself, and when it must not."""

    def settled_after(self, one: Circuit, now: float) -> bool:
        answer(one, now)
        return one.generation.is_settled

    def test_a_healthy_circuit_is_settled_and_rests(self) -> None:
        one = circuit()
        answer(one, 1.0, seconds=0.0001)

        answer(one, 1.0001, seconds=0.0001)

        assert (True, pytest.approx(1.0011)) == (
            one.generation.is_settled,
            one.generation.check_after,
        )

    def test_not_without_a_lock_around_the_interpreter(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(window, "LOCK_FREE", False)

        assert not self.settled_after(circuit(), 1.0)

    def test_where_slow_calls_are_looked_for_the_quicker_ones_need_no_look(self) -> None:
        one = circuit(slow_call=5.0)

        assert (True, 5.0) == (self.settled_after(one, 1.0), one.generation.slow_above)

    def test_not_while_a_rate_of_slow_calls_could_be_completed(self) -> None:
        one = circuit(slow_call=5.0, min_calls=3)
        answer(one, 1.0, seconds=6.0)

        assert not one.generation.is_settled

        answer(one, 1.0, times=2)

        assert "closed" == one.state(1.0)
        assert one.generation.is_settled

    def test_not_while_a_rate_could_be_completed(self) -> None:
        one = circuit(failures=100, min_calls=3)
        fail(one, 1.0)

        assert not self.settled_after(one, 1.0)
        assert NEVER == one.generation.check_after

    def test_calm_as_soon_as_no_rate_can_be_completed(self) -> None:
        one = circuit(failures=100, min_calls=12)
        fail(one, 1.0)
        answer(one, 1.0, times=10)
        assert not one.generation.is_settled

        assert self.settled_after(one, 1.0)

    def test_an_error_unsettles_it_at_once(self) -> None:
        one = circuit()
        assert self.settled_after(one, 1.0)

        fail(one, 1.0)

        assert (False, NEVER) == (one.generation.is_settled, one.generation.check_after)

    def test_not_while_it_is_degraded(self) -> None:
        one = circuit(failures=100, min_calls=1, error_rate=1.0)
        answer(one, 1.0, times=10)
        fail(one, 1.0, limited(0.0), times=2)

        assert not self.settled_after(one, 1.0)

    def test_calm_again_when_errors_are_few(self) -> None:
        one = circuit(failures=100, min_calls=1, error_rate=1.0)
        answer(one, 1.0, times=20)
        fail(one, 1.0)
        answer(one, 1.0)

        assert self.settled_after(one, 1.0)

    def test_not_while_its_provider_has_failures_in_a_row(self) -> None:
        sink = EventSink()
        provider = circuit("groq", sink=sink)
        one = circuit(sink=sink, provider=provider)
        fail(provider, 1.0)
        before = provider.consecutive

        is_settled = self.settled_after(one, 1.0)

        assert (1, False, 0) == (before, is_settled, provider.consecutive)
        assert self.settled_after(one, 2.0)

    def test_the_limit_for_slow_calls_is_the_smaller_of_its_own_and_its_providers(self) -> None:
        provider = circuit("groq", slow_call=5.0)
        limits = [
            circuit(provider=provider).generation.slow_above,
            circuit(provider=provider, slow_call=3.0).generation.slow_above,
            circuit(provider=provider, slow_call=7.0).generation.slow_above,
            circuit().generation.slow_above,
        ]

        assert [5.0, 3.0, 5.0, FOREVER] == limits

    def test_a_new_period_has_the_same_limit(self) -> None:
        one = circuit(slow_call=5.0, failures=1)
        fail(one, 1.0)
        one.unbench(2.0)

        assert 5.0 == one.generation.slow_above


class TestProvider:
    """A provider's circuit, and those of its targets."""

    def family(
        self, sink: EventSink | None = None, **options: Any
    ) -> tuple[Circuit, Circuit, Circuit]:
        """Return a provider with these settings and two targets."""
        sink = EventSink() if sink is None else sink
        provider = circuit("groq", sink=sink, **options)
        return (
            provider,
            circuit("groq/a", sink=sink, provider=provider),
            circuit("groq/b", sink=sink, provider=provider),
        )

    def test_what_benches_it_shuts_its_targets(self) -> None:
        provider, one, other = self.family(failures=1)

        fail(provider, 0.0)

        assert [(None, 30.0), (None, 30.0)] == [
            (each.slot, each.shut_until) for each in (one, other)
        ]

    def test_its_end_opens_them_again(self) -> None:
        provider, one, _ = self.family()
        provider.bench(0.0, 10.0, "migration")
        assert one.slot is None

        provider.state(10.0)

        assert one.slot is one.generation

    def test_a_target_that_is_born_beneath_a_benched_provider_is_shut(self) -> None:
        provider, *_ = self.family(failures=1)
        fail(provider, 0.0)

        late = circuit("groq/c", provider=provider)

        assert (None, 30.0) == (late.slot, late.shut_until)

    def test_a_target_benched_for_longer_stays_so(self) -> None:
        provider, one, _ = self.family(failures=1)
        one.bench(0.0, 100.0, "migration")

        fail(provider, 0.0)
        assert 100.0 == one.shut_until
        provider.unbench(1.0)

        assert (None, 100.0) == (one.slot, one.shut_until)

    def test_its_rate_is_of_what_it_is_charged_with_among_the_calls_of_its_targets(self) -> None:
        sink = EventSink("HealthChanged")
        provider, one, other = self.family(sink, failures=100, min_calls=10, error_rate=0.2)
        answer(one, 1.0, times=4)
        answer(other, 1.0, times=4)

        fail(provider, 1.0)
        assert "closed" == provider.state(1.0)
        fail(provider, 1.0)

        details = benched(TRANSIENT, "overloaded", "error_rate 2/10 >= 0.2", 31.0)
        assert [("TargetBenched", "groq", 1.0, details)] == sink.take()

    def test_its_numbers_are_the_sums(self) -> None:
        provider, one, other = self.family(failures=100)
        answer(one, 1.0, times=2)
        fail(one, 1.0)
        fail(other, 1.0)
        fail(provider, 1.0)

        assert (5, 3) == provider.numbers(1.0)

    def test_its_health_is_that_of_all_their_errors(self) -> None:
        by_own, by_theirs = self.family(failures=100), self.family(failures=100)
        for provider, one, _ in (by_own, by_theirs):
            answer(one, 1.0, times=8)
            assert "healthy" == provider.status(1.0)

        fail(by_own[0], 1.0)
        fail(by_theirs[2], 1.0)

        assert ["degraded", "degraded"] == [by_own[0].status(1.0), by_theirs[0].status(1.0)]

    def test_counts_of_targets_from_before_it_closed_are_not_its_own(self) -> None:
        provider, one, other = self.family()
        answer(one, 1.0, times=5)
        fail(other, 1.0)

        provider.forget(2.0)
        answer(one, 3.0, times=2)
        fail(other, 3.0)

        assert ((3, 1), (7, 0)) == (provider.numbers(3.0), one.numbers(3.0))

    def test_an_answer_of_a_target_forgets_its_failures_in_a_row(self) -> None:
        sink = EventSink()
        provider, one, _ = self.family(sink, failures=4)
        answer(one, 1.0, times=30)
        fail(provider, 1.0, times=2)
        assert [("HealthChanged", "groq", 1.0, health("healthy", "degraded"))] == sink.take()

        answer(one, 2.0)

        assert 0 == provider.consecutive
        assert [("HealthChanged", "groq", 2.0, health("degraded", "healthy"))] == sink.take()

    def test_an_answer_to_a_call_from_before_it_closed_does_not(self) -> None:
        provider, *_ = self.family(failures=3, slow_call=5.0)
        early = provider.generation
        provider.bench(0.0, 10.0, "migration")
        provider.unbench(1.0)
        provider.forget(1.0)
        fail(provider, 2.0)

        provider.child_answered(early, 3.0, 9.0)

        assert (1, (1, 1, 0)) == (provider.consecutive, provider.generation.counts(3.0))

    def test_an_answer_while_it_is_open_does_not(self) -> None:
        provider, one, _ = self.family(failures=2)
        early = granted(one.admit(0.0))
        fail(provider, 1.0, times=2)

        one.success(early, 2.0, 2.0)

        assert (2, "open") == (provider.consecutive, provider.state(2.0))

    def test_its_failures_make_its_targets_look_at_their_next_success(self) -> None:
        provider, one, _ = self.family()
        settled(one)

        fail(provider, 1.0)

        assert (False, NEVER) == (one.generation.is_settled, one.generation.check_after)

    def test_only_targets_that_answered_since_then_are_told_of_a_failure(self) -> None:
        provider, one, other = self.family(failures=100)
        settled(one)
        settled(other)

        listed = []
        for now in (1.0, 2.0, 3.0):
            fail(provider, now)
            listed.append(len(provider._settled_targets))
            answer(other, now)
        settled(other)
        listed.append(len(provider._settled_targets))

        assert [0, 0, 0, 1] == listed

    def test_settled_targets_that_are_gone_are_forgotten(self) -> None:
        provider = circuit("groq")

        for number in range(1000):
            settled(circuit(f"groq/{number}", provider=provider))

        assert len(provider._settled_targets) <= 2

    def test_its_limit_for_slow_calls_is_theirs_too(self) -> None:
        provider, one, _ = self.family()
        settled(one)

        provider.configure(BreakerSettings(slow_call=5.0), 1.0)

        assert 5.0 == one.generation.slow_above

    def test_other_changes_leave_them_settled(self) -> None:
        provider, one, _ = self.family()
        settled(one)

        provider.bench(1.0, 2.0, "migration")

        assert (True, 100.0) == (one.generation.is_settled, one.generation.check_after)

    def test_slow_answers_of_its_targets_open_it_by_its_own_limit(self) -> None:
        sink = EventSink("HealthChanged")
        provider, one, _ = self.family(sink, min_calls=3, slow_call=5.0, slow_rate=0.5)
        answer(one, 1.0, seconds=1.0)
        answer(one, 1.0, seconds=5.0)
        assert "closed" == provider.state(1.0)

        answer(one, 1.0, seconds=5.0)

        details = benched(TRANSIENT, "slow", "slow_rate 2/3 >= 0.5", 31.0)
        assert [("TargetBenched", "groq", 1.0, details)] == sink.take()

    def test_a_disabled_provider_is_not_opened_by_them(self) -> None:
        provider, one, _ = self.family(mode="disabled", min_calls=1, slow_call=5.0, slow_rate=0.5)

        answer(one, 1.0, seconds=5.0)

        assert "closed" == provider.state(1.0)

    def test_its_latency_is_the_average_over_its_targets(self) -> None:
        provider, one, other = self.family()
        assert provider.average_latency(0.0) is None
        answer(one, 1.0, seconds=2.0)
        assert 2.0 == provider.average_latency(1.0)

        answer(other, 1.0, seconds=4.0)

        assert 3.0 == provider.average_latency(1.0)

    def test_each_call_has_the_same_weight_in_its_latency(self) -> None:
        provider, one, other = self.family()
        answer(one, 1.0, seconds=1.0, times=7)
        answer(other, 1.0, seconds=2.0)
        answer(provider, 1.0, seconds=9.0)

        assert 2.0 == provider.average_latency(1.0)

    def test_what_its_targets_did_not_settle_is_in_its_figures(self) -> None:
        provider, one, other = self.family(failures=100)
        settled(one)
        fail(other, 0.0)
        one.generation.n += 5

        assert 6 == provider.answered()
        one.generation.n += 5
        assert (12, 1) == provider.numbers(0.0)
        one.generation.n += 5
        assert 16 == provider.first_attempts(0.0, 10.0)
        one.generation.n += 5
        assert "healthy" == provider.status(0.0)

    def test_its_rate_is_of_what_its_targets_did_not_settle_too(self) -> None:
        provider, one, _ = self.family(failures=100, min_calls=10)
        settled(one)
        one.generation.n += 10

        fail(provider, 0.0, times=10)
        state = provider.state(0.0)
        fail(provider, 0.0)

        assert ("closed", "open") == (state, provider.state(0.0))

    def test_a_failure_asks_no_target_where_settled_counts_decide(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provider, one, other = self.family(failures=100)
        answer(one, 1.0, times=80)
        asked: list[float] = []
        settle = Circuit._settle_targets_locked
        monkeypatch.setattr(
            Circuit,
            "_settle_targets_locked",
            lambda self, now: [asked.append(now), settle(self, now)][1],
        )

        other.configure(BreakerSettings(failures=100, error_rate=1.0, min_calls=100), 1.0)
        fail(provider, 1.0, times=20)
        fail(other, 1.0, times=20)

        assert 1 == len(asked)  # before its health is said to have changed

    def test_its_health_changes_with_the_errors_of_its_targets(self) -> None:
        sink = EventSink()
        provider, one, _ = self.family(sink, failures=100)
        answer(one, 1.0, times=8)
        one.configure(BreakerSettings(failures=100, error_rate=1.0), 1.0)
        sink.take()

        fail(one, 2.0)
        degraded = [event for event in sink.take() if event[1] == "groq"]
        answer(one, 3.0, times=3)

        assert [("HealthChanged", "groq", 2.0, health("healthy", "degraded"))] == degraded
        assert ("HealthChanged", "groq", 3.0, health("degraded", "healthy")) in sink.take()
        assert "healthy" == provider.status(3.0)

    def test_its_health_is_not_said_to_change_by_what_was_not_settled(self) -> None:
        sink = EventSink()
        _, one, other = self.family(sink, failures=100)
        settled(one)
        one.generation.n += 50

        fail(other, 0.0)

        assert ["groq/b"] == [key for _, key, *_ in sink.take()]

    def test_calls_of_a_target_that_closed_since_then_stay_in_its_counts(self) -> None:
        provider, one, _ = self.family()
        answer(one, 1.0, times=4)
        fail(one, 1.0)
        one.generation.n += 2

        one.forget(2.0)

        assert ((0, 0), (7, 1)) == (one.numbers(2.0), provider.numbers(2.0))

    def test_what_its_targets_did_not_settle_before_it_closed_is_not_its_own(self) -> None:
        provider, one, _ = self.family()
        settled(one)
        one.generation.n += 5

        provider.forget(1.0)

        assert ((6, 0), (0, 0)) == (one.numbers(1.0), provider.numbers(1.0))

    def test_its_first_attempts_are_those_of_its_targets(self) -> None:
        provider, one, other = self.family()
        answer(one, 1.0, times=2)
        answer(other, 1.0, times=3)
        answer(provider, 1.0)

        assert (6, 2) == (provider.first_attempts(1.0, 10.0), one.first_attempts(1.0, 10.0))

    def test_what_it_answered_is_what_its_targets_answered(self) -> None:
        provider, one, other = self.family()
        answer(one, 1.0, times=2)
        answer(other, 1.0)

        assert (3, 2) == (provider.answered(), one.answered())

    def test_calls_of_targets_that_are_gone_stay_in_its_counts(self) -> None:
        provider, one, other = self.family()
        answer(one, 1.0)
        answer(other, 1.0)

        del one
        gc.collect()

        assert (2, 0) == provider.numbers(1.0)

    def test_a_provider_of_targets_that_come_and_go_stays_small(self) -> None:
        provider = circuit("groq")

        for number in range(1000):
            circuit(f"groq/{number}", provider=provider)
        gc.collect()
        kept = [circuit(f"groq/k{number}", provider=provider) for number in range(5)]

        assert len(provider._children) < 16
        assert 5 == len(kept) == len(provider._targets_locked())


class TestFork:
    """A child process has fresh locks and no leases of its parent's calls."""

    def test_leases_are_free_locks_are_new_and_no_event_waits(self) -> None:
        one = circuit(failures=1)
        fail(one, 0.0)
        granted(one.admit(30.0))
        lock, outbox = one._lock, one.outbox
        lock.acquire()
        outbox.routing[HOLDER] = self
        outbox.add(Fact("TargetBenched", 0.0))

        one.after_fork()

        assert one._lock is not lock
        assert one.outbox is not outbox
        assert not one.outbox.routing
        assert 0 == len(one.outbox)
        assert isinstance(one.admit(30.0), Lease)

    def test_last_resorts_are_free_too(self) -> None:
        opened, paused = circuit(failures=1), circuit()
        fail(opened, 0.0)
        fail(paused, 0.0, limited())
        for one in (opened, paused):
            granted(one.admit_last_resort(1.0, 0.0))
            one.after_fork()

        assert [True, True] == [
            isinstance(one.admit_last_resort(2.0, 0.0), Lease) for one in (opened, paused)
        ]
