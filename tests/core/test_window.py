"""Rolling counts and formulas: exact figures at exact moments."""

from __future__ import annotations

import random
from typing import Any

import pytest

from resilient_llm._core.circuit import triggers
from resilient_llm._core.circuit.window import BUCKETS, NEVER, RECENT_MARKS, REST, Generation
from resilient_llm._values.settings import BreakerSettings
from tests.support.circuits import NoJitter

WINDOW = 60.0
WIDTH = WINDOW / BUCKETS


def generation(started_at: float = 0.0, window: float = WINDOW) -> Generation:
    """Return the counts of a closed period that has just begun."""
    return Generation(started_at, window)


class TestCounting:
    """What is counted is found, for exactly as long as the window lasts."""

    def test_a_new_period_has_counted_nothing_and_looks_at_everything(self) -> None:
        one = generation(3.0)

        assert ((0, 0, 0), None, 0, 3.0) == (
            one.counts(3.0),
            one.latency(3.0),
            one.n,
            one.started_at,
        )
        assert (NEVER, NEVER, NEVER, False) == (
            one.check_after,
            one.bucket_ends_at,
            one.last_look,
            one.is_settled,
        )

    def test_successes_errors_and_slow_calls(self) -> None:
        one = generation()

        one.success(1.0, 0.5, slow=False)
        one.success(1.0, 7.0, slow=True)
        one.error(1.0)
        one.error(1.0, slow=True)

        assert ((4, 2, 2), 2) == (one.counts(1.0), one.n)

    def test_slow_errors_leave_with_their_bucket(self) -> None:
        one = generation()
        one.error(1.0)
        one.error(3.0, slow=True)
        one.error(5.0, slow=True)
        one.error(7.0)

        assert [(4, 4, 2), (2, 2, 1), (1, 1, 0)] == [one.counts(now) for now in (7.0, 63.0, 65.0)]

    def test_an_error_says_what_is_in_the_window_with_it(self) -> None:
        one = generation()
        one.success(1.0, 0.5, slow=False)

        assert ((2, 1, 0), (3, 2, 1)) == (one.error(1.0), one.error(2.0, slow=True))

    def test_a_burst_leaves_the_window_all_at_once_and_exactly_on_time(self) -> None:
        one = generation()
        for _ in range(5):
            one.success(10.0, 0.5, slow=True)
            one.error(10.0)

        assert ((10, 5, 5), (0, 0, 0)) == (one.counts(69.999), one.counts(70.0))

    def test_each_bucket_leaves_by_itself(self) -> None:
        one = generation()
        one.success(10.0, 0.5, slow=True)
        one.error(12.0)
        one.success(14.0, 0.5, slow=False)

        assert [(3, 1, 1), (2, 1, 0), (1, 0, 0), (0, 0, 0)] == [
            one.counts(now) for now in (69.9, 70.0, 72.0, 74.0)
        ]

    def test_a_bucket_is_as_wide_as_a_thirtieth_of_the_window(self) -> None:
        one = generation()
        one.error(10.0)
        one.error(11.999)
        one.error(12.0)

        assert [(3, 3, 0), (1, 1, 0)] == [one.counts(69.999), one.counts(70.0)]

    def test_successes_that_were_only_counted_go_to_the_newest_bucket(self) -> None:
        one = generation()
        one.success(10.0, 0.5, slow=False)
        one.n += 6
        one.success(20.0, 0.5, slow=False)
        one.n += 1

        assert [(9, 0, 0), (2, 0, 0)] == [one.counts(69.0), one.counts(70.0)]

    def test_what_is_counted_before_anything_was_looked_at_is_not_lost(self) -> None:
        one = generation()
        one.n += 3

        one.success(10.0, 0.5, slow=False)

        assert (4, 0, 0) == one.counts(10.0)

    def test_what_is_already_in_a_bucket_is_not_counted_again(self) -> None:
        one = generation()
        one.success(10.0, 0.5, slow=False)
        one.n += 2
        assert 3 == one.unsettled

        one.settle(11.0)
        one.settle(11.0)

        assert (0, (3, 0, 0)) == (one.unsettled, one.counts(11.0))

    def test_memory_is_that_of_the_buckets_whatever_the_rate(self) -> None:
        one = generation()

        for step in range(10_000):
            one.success(step * 0.1, 0.01, slow=False)

        assert len(one._buckets) <= BUCKETS + 1
        assert len(one._marks) <= 12


def family(window: float = 60.0, window_above: float = 60.0) -> tuple[Generation, Generation]:
    """Return a generation of a provider and one of a target of it."""
    above = Generation(0.0, window_above)
    return above, Generation(0.0, window, above=above)


class TestCountingAbove:
    """What a target counts is counted by its provider in the same step."""

    def test_successes_and_errors_of_a_target_are_in_the_total(self) -> None:
        above, one = family()
        one.success(1.0, 0.5, slow=True)
        one.error(1.0, slow=True)
        above.success(1.0, 0.5, slow=False)
        above.error(1.0)

        assert ((4, 1, 0), 1) == (above.counts(1.0), above.errors_of_targets(1.0))
        assert (2, 1, 2) == one.counts(1.0)

    def test_calls_that_are_slow_by_the_limit_above_are_slow_there_only(self) -> None:
        above, one = family()

        for slow_above in (True, True, False):
            one.success(1.0, 9.0, slow=False, slow_above=slow_above)

        assert ((3, 0, 0), (3, 0, 2)) == (one.counts(1.0), above.counts(1.0))

    def test_what_was_only_counted_is_added_when_it_settles(self) -> None:
        above, one = family()
        one.success(1.0, 0.5, slow=False)
        one.settle(1.0)
        one.n += 4
        before = above.counts(1.0)

        one.settle(1.0)

        assert ((1, 0, 0), (5, 0, 0), 5) == (before, above.counts(1.0), above.n)

    def test_the_average_is_that_of_all_calls(self) -> None:
        above, one = family()
        other = Generation(0.0, 60.0, above=above)
        for _ in range(100):
            one.success(1.0, 0.1, slow=False)
        other.success(1.0, 10.2, slow=False)
        above.success(1.0, 0.0, slow=False)
        for each in (one, other):
            each.settle(1.0)

        assert pytest.approx(20.2 / 102) == above.latency(1.0)

    def test_both_windows_end_at_the_same_moment(self) -> None:
        above, one = family()
        one.success(10.0, 0.5, slow=False, slow_above=True)
        one.error(10.0)
        one.success(14.0, 0.5, slow=False)
        one.n += 3

        both = [(one.counts(now)[0], above.counts(now)[0]) for now in (69.9, 70.0, 73.9, 74.0)]

        assert [(6, 6), (4, 4), (4, 4), (0, 0)] == both
        assert ((0, 0, 0), 0) == (above.counts(74.0), above.errors_of_targets(74.0))

    def test_what_is_settled_late_is_dated_by_its_bucket(self) -> None:
        above, one = family()
        one.success(10.0, 0.5, slow=False)
        one.n += 3
        above.error(40.0)

        one.settle(50.0)

        assert [(5, 1, 0), (1, 1, 0), (0, 0, 0)] == [
            above.counts(now) for now in (69.9, 70.0, 100.0)
        ]

    def test_what_is_settled_after_it_left_the_window_above_is_not_counted(self) -> None:
        above, one = family(window_above=30.0)
        one.success(10.0, 0.5, slow=False)
        one.n += 3

        one.settle(40.0)

        assert ((4, 0, 0), (0, 0, 0)) == (one.counts(40.0), above.counts(40.0))

    def test_a_bucket_of_a_target_from_before_it_began_is_dated_by_its_beginning(self) -> None:
        above, one = family()
        one.success(10.0, 0.5, slow=False)
        one.above = above = Generation(11.0, 60.0)

        one.success(11.0, 0.5, slow=False)

        assert [(1, 0, 0), (0, 0, 0)] == [above.counts(now) for now in (70.9, 71.0)]

    def test_recent_successes_are_those_of_all(self) -> None:
        above, one = family()
        for now in (1.0, 3.0, 11.5):
            one.success(now, 0.5, slow=False)
            above.success(now, 0.5, slow=False)

        assert 4 == above.recent_successes(11.5, 8.5)

    def test_memory_is_that_of_the_buckets_whatever_targets_count(self) -> None:
        above = Generation(0.0, 60.0)
        targets = [Generation(0.0, 60.0, above=above) for _ in range(50)]

        for step in range(5_000):
            targets[step * 7 % 50].success(step * 0.11, 0.1, slow=False)

        assert len(above._buckets) <= 2 * BUCKETS
        assert len(above._marks) <= RECENT_MARKS


class TestLatency:
    """The average duration of the successes that were measured."""

    def test_is_the_average_of_what_is_in_the_window(self) -> None:
        one = generation()
        one.success(10.0, 2.0, slow=False)
        one.success(20.0, 4.0, slow=False)
        one.success(20.0, 6.0, slow=False)

        assert [4.0, 5.0, None] == [one.latency(now) for now in (20.0, 70.0, 80.0)]

    def test_errors_have_none(self) -> None:
        one = generation()
        one.error(10.0)

        assert one.latency(10.0) is None

    def test_what_was_only_counted_is_not_measured(self) -> None:
        one = generation()
        one.success(10.0, 2.0, slow=False)
        one.n += 100

        assert 2.0 == one.latency(10.0)


class TestMeasuring:
    """The healthy path counts and measures without the lock, and rests after each look."""

    def settled(self, **values: Any) -> Generation:
        one = generation()
        one.success(10.0, 1.0, slow=False)
        one.let_rest(10.0, float("inf"))
        one.bucket_ends_at = 100.0
        for name, value in values.items():
            setattr(one, name, value)
        return one

    def test_counts_and_measures(self) -> None:
        one = self.settled()

        assert one.answered(13.0, 3.0, 3.0)

        assert (2, 2.0, 2, 4.0) == (one.n, one.latency(13.0), one.timed, one.seconds)

    def test_rests_for_a_moment_after_each_look(self) -> None:
        one = self.settled()

        assert one.answered(13.0, 3.0, 3.0)

        assert (13.0 + REST, 13.0 + REST, 13.0) == (
            one.check_after,
            one.rest_until,
            one.last_look,
        )

    def test_never_past_the_next_look(self) -> None:
        one = self.settled(bucket_ends_at=12.0006)

        assert one.answered(12.0005, 0.1, 0.1)

        assert 12.0006 == one.check_after

    def test_leaves_the_first_success_of_a_bucket_to_the_lock(self) -> None:
        one = self.settled()

        assert (False, 1) == (one.answered(100.0, 0.1, 0.1), one.n)

    def test_leaves_a_slow_success_to_the_lock_during_the_rest_too(self) -> None:
        one = self.settled(slow_above=5.0)

        assert [True, False] == [one.answered(10.0, 9.0, each) for each in (4.9, 5.0)]

    def test_an_error_meanwhile_ends_the_rest(self) -> None:
        one = self.settled()

        one.unsettle()

        assert (False, False, NEVER) == (
            one.answered(10.0001, 0.1, 0.1),
            one.answered(11.0, 0.1, 0.1),
            one.check_after,
        )

    def test_a_long_success_belongs_to_the_bucket_in_which_it_ends(self) -> None:
        one = self.settled()

        assert one.answered(11.0, 1_000.0, 1_000.0)

        assert [(2, 0, 0), (0, 0, 0)] == [one.counts(now) for now in (69.9, 70.0)]

    def test_while_only_a_later_success_can_change_something_those_before_it_are_counted(
        self,
    ) -> None:
        one = generation()
        one.error(10.0)
        one.let_rest(10.0, 2)

        found = [one.answered(10.0, 0.0001, 0.0001) for _ in range(3)]

        assert ([True, True, False], False, NEVER) == (found, one.is_settled, one.check_after)
        assert (2, 0, (3, 1, 0)) == (one.n, one.timed, one.counts(10.0))

    def test_such_successes_are_looked_at_after_the_rest(self) -> None:
        one = generation()
        one.error(10.0)
        one.let_rest(10.0, 2)

        assert not one.answered(10.0 + REST, 0.0001, 0.0001)

    def test_such_successes_are_looked_at_if_they_took_longer_than_the_rest(self) -> None:
        one = generation()
        one.error(10.0)
        one.let_rest(10.0, 2)

        assert not one.answered(10.0, REST, REST)

    def test_the_next_look_is_when_the_bucket_ends_or_a_second_later(self) -> None:
        wide, narrow = generation(), generation(window=15.0)

        wide.success(10.0, 0.1, slow=False)
        narrow.success(10.0, 0.1, slow=False)

        assert (11.0, 10.5) == (wide.bucket_ends_at, narrow.bucket_ends_at)


class TestRecent:
    """Successes of the last seconds, dated to about a second."""

    def test_are_counted_from_the_last_mark_before(self) -> None:
        one = generation()
        for second in range(20):
            one.success(float(second), 0.1, slow=False)

        # The last mark before is up to a second too early: rather one too many than one too few.
        assert [11, 6] == [one.recent_successes(19.0, back) for back in (10.0, 5.0)]

    def test_one_on_the_edge_is_not_among_them(self) -> None:
        one = generation()
        one.success(0.0, 0.1, slow=False)
        one.success(5.0, 0.1, slow=False)

        assert (2, 2) == (one.recent_successes(9.9, 10.0), one.recent_successes(10.0, 10.0))
        one.success(6.0, 0.1, slow=False)
        assert 2 == one.recent_successes(15.0, 10.0)

    def test_marks_are_a_second_apart(self) -> None:
        one = generation()

        for step in range(30):
            one.success(step * 0.1, 0.1, slow=False)

        assert [0.0, 1.0, 2.0] == pytest.approx([at for at, _ in one._marks])

    def test_what_was_only_counted_is_recent(self) -> None:
        one = generation()
        one.success(0.0, 0.1, slow=False)
        one.n += 4

        assert 5 == one.recent_successes(1.0, 10.0)


class TestResizing:
    """Another length of the window."""

    def test_shortens_what_is_kept(self) -> None:
        one = generation()
        one.error(10.0)
        one.error(35.0)

        one.resize(30.0)

        assert [(1, 1, 0), (0, 0, 0)] == [one.counts(64.9), one.counts(65.0)]

    def test_changes_the_width_of_buckets(self) -> None:
        one = generation()

        one.resize(30.0)
        one.error(10.0)
        one.error(11.0)

        assert [(1, 1, 0), (0, 0, 0)] == [one.counts(40.0), one.counts(41.0)]

    def test_is_looked_at_at_once(self) -> None:
        one = generation()
        one.is_settled, one.check_after, one.bucket_ends_at = True, 5.0, 6.0

        one.resize(30.0)

        assert (False, NEVER, NEVER, 30.0, 1.0) == (
            one.is_settled,
            one.check_after,
            one.bucket_ends_at,
            one.window,
            one.width,
        )


class TestTriggers:
    """The formulas that open a circuit."""

    SETTINGS = BreakerSettings(
        failures=5, error_rate=0.5, min_calls=10, slow_call=5.0, slow_rate=0.8
    )

    @pytest.mark.parametrize(
        ("failures", "total", "errors", "slow", "why"),
        [
            (4, 9, 9, 9, None),
            (5, 0, 0, 0, "failures 5/5"),
            (6, 0, 0, 0, "failures 6/5"),
            (0, 10, 4, 7, None),
            (0, 10, 5, 0, "error_rate 5/10 >= 0.5"),
            (0, 11, 5, 0, None),
            (0, 11, 6, 0, "error_rate 6/11 >= 0.5"),
            (0, 10, 0, 8, "slow_rate 8/10 >= 0.8"),
            (0, 10, 5, 8, "error_rate 5/10 >= 0.5"),
            (5, 10, 10, 10, "failures 5/5"),
        ],
    )
    def test_what_opens(
        self, failures: int, total: int, errors: int, slow: int, why: str | None
    ) -> None:
        assert why == triggers.trigger(self.SETTINGS, failures, total, errors, slow)

    def test_slow_calls_open_nothing_where_nothing_is_slow(self) -> None:
        assert triggers.trigger(BreakerSettings(slow_call=None), 0, 10, 0, 10) is None

    @pytest.mark.parametrize(
        ("failed_probes", "length"), [(0, 30.0), (1, 60.0), (3, 240.0), (4, 300.0), (10**9, 300.0)]
    )
    def test_a_bench_doubles_with_each_failed_probe_up_to_the_longest(
        self, failed_probes: int, length: float
    ) -> None:
        assert length == triggers.bench_length(30.0, 300.0, failed_probes, NoJitter())

    @pytest.mark.parametrize(("drawn", "length"), [(0.0, 30.0), (0.5, 31.5), (1.0, 33.0)])
    def test_jitter_lengthens_by_a_tenth_at_most(self, drawn: float, length: float) -> None:
        assert pytest.approx(length) == triggers.bench_length(30.0, 300.0, 0, NoJitter(drawn))

    def test_jitter_goes_above_the_longest_too(self) -> None:
        assert pytest.approx(330.0) == triggers.bench_length(30.0, 300.0, 9, NoJitter(1.0))

    def test_real_dice_stay_within_it(self) -> None:
        rng = random.Random(7)

        lengths = [triggers.bench_length(30.0, 300.0, 0, rng) for _ in range(1000)]

        assert 30.0 <= min(lengths) < 30.1 < 32.9 < max(lengths) <= 33.0

    @pytest.mark.parametrize(
        ("down", "failures", "limit", "total", "errors", "status"),
        [
            (True, 0, 5, 0, 0, "down"),
            (False, 0, 5, 0, 0, "healthy"),
            (False, 2, 5, 0, 0, "healthy"),
            (False, 3, 5, 0, 0, "degraded"),
            (False, 2, 4, 0, 0, "degraded"),
            (False, 0, 0, 0, 0, "healthy"),
            (False, 0, 5, 10, 1, "degraded"),
            (False, 0, 5, 11, 1, "healthy"),
            (False, 0, 5, 10, 0, "healthy"),
        ],
    )
    def test_how_a_key_is_doing(
        self, down: bool, failures: int, limit: int, total: int, errors: int, status: str
    ) -> None:
        assert status == triggers.status(
            down=down, failures=failures, limit=limit, total=total, errors=errors
        )
