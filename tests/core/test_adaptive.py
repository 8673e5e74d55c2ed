"""How the order of a policy follows health: conditions, penalties, places and moves."""

from __future__ import annotations

import statistics
import sys
import threading
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm import Adaptive, Target
from resilient_llm._core.adaptive import (
    MOST_ORDERS,
    AdaptiveOrder,
    Seen,
    next_penalty,
    order_of,
    placed,
    wanted_penalties,
)
from resilient_llm._core.figures import PolicyFigures

if TYPE_CHECKING:
    from collections.abc import Sequence

A, B, C = "groq/a", "openai/b", "mistral/c"
OPTIONS: Final = Adaptive()


def _placed(penalties: Sequence[int], groups: Sequence[int] | None = None) -> str:
    """Return the letters A, B, C, … of targets with these penalties, in the order they get."""
    group = groups or [1] * len(penalties)
    order = placed(range(len(penalties)), lambda each: penalties[each], lambda each: group[each])
    return "".join(chr(ord("A") + each) for each in order)


@pytest.mark.parametrize(
    ("penalties", "order"),
    [
        ((0, 0, 0), "ABC"),
        ((1, 0, 0), "BAC"),
        ((1, 1, 0), "CAB"),  # the example of the documentation
        ((1, 1, 1), "ABC"),
        ((2, 0, 0), "BCA"),
        ((2, 0, 0, 0), "BCAD"),
        ((2, 1, 0), "CBA"),
        ((2, 2, 0), "CAB"),
        ((0, 1, 0), "ACB"),
        ((0, 0, 1), "ABC"),
        ((0, 0, 2), "ABC"),
        ((2, 0), "BA"),
        ((2, 1), "BA"),
        ((1, 2), "AB"),
        ((2,), "A"),
        ((), ""),
    ],
)
def test_places(penalties: tuple[int, ...], order: str) -> None:
    """A target stands behind the next p of its group with a smaller penalty, last one first."""
    assert order == _placed(penalties)


def test_groups_keep_their_places() -> None:
    """A target moves within its priority group only."""
    assert "BACD" == _placed((1, 0, 0, 0), (1, 1, 2, 2))
    assert "ABDC" == _placed((0, 1, 1, 0), (1, 1, 2, 2))


_PENALTIES: Final = st.lists(st.integers(0, 2), max_size=9)


@given(_PENALTIES)
def test_each_target_is_placed_once(penalties: list[int]) -> None:
    """The order is a permutation: no target is lost, none comes twice."""
    assert sorted(_placed(penalties)) == [chr(ord("A") + n) for n in range(len(penalties))]


@given(_PENALTIES)
def test_penalties_keep_the_order_of_equals(penalties: list[int]) -> None:
    """Targets with equal penalties keep their order among each other."""
    order = [ord(each) - ord("A") for each in _placed(penalties)]

    for penalty in (0, 1, 2):
        equals = [each for each in order if penalties[each] == penalty]
        assert sorted(equals) == equals


@given(_PENALTIES)
def test_a_target_passes_no_more_than_its_penalty(penalties: list[int]) -> None:
    """It is passed by p targets with smaller penalties, or by all of them behind it if fewer."""
    order = [ord(each) - ord("A") for each in _placed(penalties)]

    for each, penalty in enumerate(penalties):
        behind = [n for n in range(each + 1, len(penalties)) if penalties[n] < penalty]
        passed = [n for n in behind if order.index(n) < order.index(each)]
        assert min(penalty, len(behind)) == len(passed)


_SEEN: Final = st.builds(
    Seen, st.none() | st.floats(0.0, 100.0), st.integers(0, 30), st.integers(0, 30)
).map(lambda seen: seen._replace(attempts=max(seen.attempts, seen.failures)))


@given(st.lists(_SEEN, min_size=1, max_size=7))
def test_conditions(group: list[Seen]) -> None:
    """Slow is judged by the median of the other medians, faulty by share, number and two."""
    expected: list[int] = []
    for number, seen in enumerate(group):
        others = [
            each.median for n, each in enumerate(group) if n != number and each.median is not None
        ]
        slow = False
        if seen.median is not None and others:
            limit = statistics.median(others)
            slow = seen.median > limit and seen.median >= 1.5 * limit
        faulty = seen.attempts >= 5 and seen.failures >= 2 and seen.failures / seen.attempts >= 0.1
        expected.append(2 if faulty else 1 if slow else 0)

    assert expected == wanted_penalties(OPTIONS, group)


@pytest.mark.parametrize(
    ("seen", "penalty"),
    [
        (Seen(1.5, 10, 0), 1),
        (Seen(1.49, 10, 0), 0),
        (Seen(None, 10, 0), 0),
        (Seen(1.0, 30, 3), 2),  # the share is met exactly
        (Seen(1.0, 31, 3), 0),
        (Seen(1.0, 5, 1), 0),  # one failure proves nothing
        (Seen(1.0, 5, 2), 2),
        (Seen(1.0, 4, 2), 0),  # too few attempts
        (Seen(9.0, 5, 2), 2),  # not added to the penalty of a slow one
    ],
)
def test_condition_of_one_beside_two_well_ones(seen: Seen, penalty: int) -> None:
    """The bounds of the conditions are exact."""
    assert penalty == wanted_penalties(OPTIONS, [seen, Seen(1.0, 9, 0), Seen(1.0, 9, 0)])[0]


def test_nothing_is_slower_than_itself() -> None:
    """Where every answer takes no time, as under a fake clock, no target is slow."""
    assert [0, 0] == wanted_penalties(OPTIONS, [Seen(0.0, 9, 0), Seen(0.0, 9, 0)])


@pytest.mark.parametrize(
    ("present", "wanted", "following"),
    [(0, 1, 1), (0, 2, 2), (1, 2, 2), (2, 1, 1), (2, 0, 1), (1, 0, 0), (1, 1, 1)],
)
def test_penalty_rises_at_once_and_falls_by_steps(
    present: int, wanted: int, following: int
) -> None:
    """A penalty rises in one step and falls one step at a time."""
    assert following == next_penalty(present, wanted)


# The state.


class Policy:
    """Figures and order of a policy with three targets, at a time that is set by hand."""

    def __init__(self, options: Adaptive = OPTIONS, priorities: tuple[int, ...] = (1, 1, 1)):
        keys = (A, B, C)
        self.figures = PolicyFigures(keys)
        self.targets = [Target(k, priority=p) for k, p in zip(keys, priorities, strict=True)]
        self.order = AdaptiveOrder(options, self.targets, self.figures)
        self.now = 1_000.0

    def answers(self, seconds: dict[str, float], times: int = 3) -> None:
        for key, took in seconds.items():
            for _ in range(times):
                self.figures.answered(key, self.now, took)

    def fails(self, key: str, times: int, *, harms: bool = True) -> None:
        for _ in range(times):
            self.figures.failed(key, self.now, harms=harms)

    def look(self, wait: float = 1.0) -> list[str]:
        """Let time pass and compute; return the keys that moved."""
        self.now += wait
        return [move.key for move in self.order.computed(self.now)]


def test_a_slow_target_moves_back_and_returns() -> None:
    """A slow target stands behind one other; when its samples have aged out, it returns."""
    policy = Policy()
    policy.answers({A: 3.0, B: 1.0, C: 1.0})

    assert [A] == policy.look()
    assert (B, A, C) == policy.order.order()
    assert [] == policy.look(29.0)
    assert [A] == policy.look(31.0)
    assert (A, B, C) == policy.order.order()


def test_a_faulty_target_returns_step_by_step() -> None:
    """A faulty target moves two places back at once, and forward one place at a time."""
    policy = Policy()
    policy.answers({A: 1.0, B: 1.0, C: 1.0})
    policy.fails(A, 2)

    assert [A] == policy.look()
    assert (B, C, A) == policy.order.order()
    assert [A] == policy.look(60.0)
    assert (B, A, C) == policy.order.order()
    assert [] == policy.look(29.0)
    assert [A] == policy.look(1.0)
    assert (A, B, C) == policy.order.order()


def test_one_failure_proves_nothing() -> None:
    """One failure of five attempts moves nothing, though it is a share of 0.2; two do."""
    policy = Policy()
    policy.answers({A: 1.0}, 4)
    policy.fails(A, 1)

    assert [] == policy.look()

    policy.fails(A, 1)
    assert [A] == policy.look()


def test_what_does_not_harm_counts_as_an_attempt_only() -> None:
    """A bad request is an attempt and no failure."""
    policy = Policy()
    policy.fails(A, 20, harms=False)
    assert [] == policy.look()

    policy.fails(A, 2)
    assert [] == policy.look()  # 2 of 22

    policy.fails(A, 1)
    assert [A] == policy.look()  # 3 of 23


def test_moves_of_a_target_are_apart() -> None:
    """A target that becomes faulty shortly after it became slow waits for the end of the calm."""
    policy = Policy()
    policy.answers({A: 3.0, B: 1.0, C: 1.0})
    assert [A] == policy.look()

    policy.fails(A, 5)

    assert [] == policy.look(29.0)
    assert [A] == policy.look(1.0)
    assert {A: 2} == policy.order.penalties


def test_targets_move_independently() -> None:
    """The calm of one target does not hold another back."""
    policy = Policy()
    policy.answers({A: 3.0, B: 1.0, C: 1.0})
    policy.look()

    policy.fails(B, 5)

    assert [B] == policy.look()
    assert (C, A, B) == policy.order.order()


def test_each_event_has_the_order_after_its_move() -> None:
    """Of two targets that move at once the last event has the final order."""
    policy = Policy()
    policy.answers({A: 3.0, B: 1.0, C: 1.0}, 5)
    policy.fails(B, 5)
    policy.now += 1.0

    moves = policy.order.computed(policy.now)

    assert [(A, (B, A, C)), (B, (C, A, B))] == [(each.key, each.order) for each in moves]
    assert policy.order.order() == moves[-1].order


def test_a_penalty_that_changes_no_place_is_no_move() -> None:
    """The last target of a group has nothing to stand behind, so nothing is said of it."""
    policy = Policy()
    policy.answers({A: 1.0, B: 1.0, C: 9.0})

    assert [] == policy.look()
    assert {C: 1} == policy.order.penalties


def test_slow_is_slower_than_the_own_group() -> None:
    """A target is compared with the others of its priority group, and with no other group."""
    policy = Policy(priorities=(1, 2, 2))
    policy.answers({A: 9.0, B: 1.0, C: 1.0})
    assert [] == policy.look()

    policy.answers({B: 9.0})
    policy.look()
    assert {} != policy.order.penalties
    assert A not in policy.order.penalties


def test_is_computed_once_a_second() -> None:
    """What comes within a second of a computation waits for the next."""
    policy = Policy()
    policy.look()
    policy.answers({A: 3.0, B: 1.0, C: 1.0})

    assert [] == policy.look(0.5)
    assert [] == policy.look(0.49)
    assert [A] == policy.look(0.01)


def test_attempts_leave_the_window() -> None:
    """Failures of a burst count for `window` seconds, also if nobody looked meanwhile."""
    policy = Policy(Adaptive(window=10.0, calm=0.0))
    policy.look()
    policy.fails(A, 9)

    assert [] == policy.look(10.0)
    policy.fails(A, 9)
    assert [A] == policy.look(9.9)


def test_more_attempts_than_samples_are_kept() -> None:
    """The share is of all attempts of the window, not of the newest samples."""
    policy = Policy(Adaptive(min_calls=1_000))
    policy.answers({A: 1.0}, 2_000)
    policy.fails(A, 222)
    assert [] == policy.look()  # 222 of 2,222 are 0.0999

    policy.fails(A, 1)
    assert [A] == policy.look()


def test_calm_of_zero_moves_with_every_computation() -> None:
    """Without a calm a penalty falls by one with each computation, and not by two."""
    policy = Policy(Adaptive(window=5.0, calm=0.0))
    policy.answers({A: 1.0, B: 1.0, C: 1.0})
    policy.fails(A, 5)
    assert [A] == policy.look()

    assert [A] == policy.look(5.0)
    assert {A: 1} == policy.order.penalties
    assert [A] == policy.look()
    assert {} == policy.order.penalties


def test_an_earlier_clock_does_not_stop_the_moves() -> None:
    """After the clock was exchanged for one that is behind, the order is computed at once."""
    policy = Policy()
    policy.answers({A: 3.0, B: 1.0, C: 1.0})
    policy.look()

    policy.now = 10.0
    policy.answers({A: 3.0, B: 9.0, C: 3.0})
    policy.order.begin(policy.now)

    assert B in policy.look(0.0)


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 40.0),
            st.sampled_from([A, B, C]),
            st.sampled_from(["answer", "slow", "fail", "refuse"]),
            st.integers(1, 6),
        ),
        max_size=60,
    )
)
def test_bounds_hold_in_any_weather(weather: list[tuple[float, str, str, int]]) -> None:
    """Penalties stay within 0 and 2, moves are `calm` apart and fall by one, orders are whole."""
    policy = Policy()
    moved_at: dict[str, float] = {}
    for wait, key, what, times in weather:
        if what in ("answer", "slow"):
            policy.answers({key: 1.0 if what == "answer" else 5.0}, times)
        else:
            policy.fails(key, times, harms=what == "fail")
        before = dict(policy.order.penalties)
        policy.look(wait)
        after = policy.order.penalties

        for each in (A, B, C):
            old, new = before.get(each, 0), after.get(each, 0)
            assert 0 <= new <= 2
            assert new >= old - 1
            if new != old:
                assert policy.now - moved_at.get(each, -1e9) >= OPTIONS.calm - 1e-6
                moved_at[each] = policy.now
        assert sorted((A, B, C)) == sorted(policy.order.order())


def test_threads_compute_once() -> None:
    """Of many threads that find a computation due one makes it, and each move is told once."""
    policy = Policy(Adaptive(calm=0.0))
    policy.answers({A: 3.0, B: 1.0, C: 1.0}, 50)
    ready, moves = threading.Barrier(8), list[str]()

    def work() -> None:
        ready.wait()
        for number in range(200):
            moves.extend(m.key for m in policy.order.computed(1_001.0 + number // 20 * 0.1))

    threads = [threading.Thread(target=work) for _ in range(8)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)

    assert [A] == moves


def test_memory_is_constant() -> None:
    """Counting attempts takes no more memory after many windows than after one."""
    policy = Policy()
    for _ in range(5_000):
        policy.answers({A: 1.0}, 1)
        policy.look(1.0)

    assert 62 >= len(policy.order._windows[A]._parts)


def test_copies_with_equal_options_share_penalties() -> None:
    """Equal options have one order, different ones their own, and no end of them is kept."""
    figures = PolicyFigures([A, B])
    targets = [Target(A), Target(B)]

    first = order_of(Adaptive(), targets, figures)

    assert first is order_of(Adaptive(), targets, figures)
    assert first is not order_of(Adaptive(calm=1.0), targets, figures)
    for number in range(100):
        order_of(Adaptive(calm=10.0 + number), targets, figures)
    assert MOST_ORDERS == len(figures.orders)


def test_medians_of_a_large_group() -> None:
    """The median of the others is right with any number of equal and unequal medians."""
    medians = [1.0, 1.0, 2.0, 2.0, 2.0, 3.5, 3.5, 10.0]
    group = [Seen(each, 9, 0) for each in medians]

    found = wanted_penalties(OPTIONS, group)

    expected = [
        int(each >= 1.5 * statistics.median(medians[:n] + medians[n + 1 :]))
        for n, each in enumerate(medians)
    ]
    assert expected == found
