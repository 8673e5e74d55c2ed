"""Token buckets: exact rates, first come first served, and an account that never drifts."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from resilient_llm._core.circuit import window
from resilient_llm._core.limits.buckets import Bucket, Charge, LockedBucket, bucket
from resilient_llm.testing import fake_clock


@pytest.fixture(params=[True, False], ids=["lock-free", "locked"], autouse=True)
def lock_free(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Every test runs on both kinds of bucket."""
    monkeypatch.setattr(window, "LOCK_FREE", request.param)
    return request.param


def _take(of: Bucket, amount: int, now: float) -> Charge | None:
    charge = of.charge(amount)
    return charge if charge.take(now) else None


def _queued(of: Bucket, amount: int, wake: Callable[[], object] = lambda: None) -> Charge:
    charge = of.charge(amount)
    assert charge.enqueue(wake)
    return charge


def test_the_kind_follows_the_switch(lock_free: bool) -> None:
    """Without a global lock the buckets have one of their own."""
    assert lock_free != isinstance(bucket(1, 1.0), LockedBucket)


def test_full_at_first() -> None:
    """A new bucket holds its burst, and the next call is told when it fits."""
    made = bucket(60, 60.0, 3)

    assert [True, True, True] == [made.charge(1).take(100.0) for _ in range(3)]
    late = made.charge(1)
    assert (False, 1.0) == (late.take(100.0), late.retry_after(100.0))
    assert (False, True) == (late.take(100.99), late.take(101.0))


def test_the_burst_defaults_to_the_amount() -> None:
    """Without a burst a bucket holds what one period refills."""
    made = bucket(60, 60.0)

    assert 60 == sum(made.charge(1).take(0.0) for _ in range(100))


def test_retry_after_is_for_this_call() -> None:
    """A large call waits longer than a small one."""
    made = bucket(600, 60.0)
    assert _take(made, 600, 0.0)

    assert 0.1 == pytest.approx(made.charge(1).retry_after(0.0))
    assert 50.0 == pytest.approx(made.charge(500).retry_after(0.0))
    assert 40.0 == pytest.approx(made.charge(500).retry_after(10.0))
    assert 0.0 == made.charge(500).retry_after(55.0)


def test_a_call_above_the_bucket_never_fits() -> None:
    """It is not taken, gets no time to come back, and no turn in the queue."""
    made = bucket(100, 60.0)
    large = made.charge(101)

    assert (False, None) == (large.take(0.0), large.retry_after(0.0))
    assert not large.enqueue(lambda: None)
    assert 100.0 == made.level(0.0)


def test_a_quiet_time_fills_the_bucket_and_no_more() -> None:
    """After hours of nothing only the burst may go at once."""
    made = bucket(60, 60.0, 5)
    assert _take(made, 5, 0.0)

    assert 5 == sum(made.charge(1).take(90_000.0) for _ in range(20))


def test_what_is_given_back_is_there_again() -> None:
    """A later guard's refusal leaves the bucket as it was, and twice is once."""
    made = bucket(10, 10.0)
    charge = _take(made, 4, 0.0)
    assert charge
    assert 6.0 == made.level(0.0)

    charge.give_back()
    charge.give_back()

    assert 10.0 == made.level(0.0)
    assert not charge.take(0.0)


def test_what_was_refilled_is_not_given_back() -> None:
    """What was taken before the bucket was full again is no credit above it."""
    made = bucket(10, 10.0)
    charge = _take(made, 10, 0.0)
    assert charge
    assert _take(made, 10, 20.0)

    charge.give_back()

    assert 0.0 == made.level(20.0)


def test_settling_gives_back_what_was_not_used() -> None:
    """An estimate that was too high is corrected."""
    made = bucket(1_000, 60.0)
    charge = _take(made, 800, 0.0)
    assert charge

    charge.settle(300, 0.0)
    charge.settle(0, 0.0)
    charge.give_back()

    assert 700.0 == made.level(0.0)
    assert 300 == charge.amount


def test_settling_gives_back_nothing_that_was_refilled() -> None:
    """An estimate of an earlier period was paid when the bucket was full again."""
    made = bucket(10, 10.0)
    charge = _take(made, 10, 0.0)
    assert charge
    assert _take(made, 6, 20.0)

    charge.settle(1, 20.0)

    assert 4.0 == made.level(20.0)


def test_a_debt_delays_later_calls() -> None:
    """What was used above the estimate is paid by waiting, beyond an empty bucket."""
    made = bucket(60, 60.0)
    charge = _take(made, 0, 0.0)
    assert charge

    charge.settle(90, 0.0)

    assert -30.0 == made.level(0.0)
    assert 30.0 == pytest.approx(made.charge(0).retry_after(0.0))
    assert (False, True) == (made.charge(0).take(29.9), made.charge(0).take(30.0))


def test_a_debt_of_a_full_bucket_is_no_gift() -> None:
    """It counts from now on, however long the bucket was full."""
    made = bucket(60, 60.0)
    charge = _take(made, 0, 0.0)
    assert charge

    charge.settle(90, 10_000.0)

    assert -30.0 == made.level(10_000.0)


def test_who_comes_later_stands_behind() -> None:
    """A small call does not overtake a large one that waits."""
    made = bucket(10, 10.0)
    assert _take(made, 10, 0.0)
    large = _queued(made, 8)

    small = made.charge(1)

    assert (False, 9.0) == (small.take(0.0), pytest.approx(small.retry_after(0.0)))
    assert 8.0 == pytest.approx(large.wait(0.0))
    assert not small.take(5.0)
    assert (0.0, True) == (large.wait(8.0), large.is_taken)
    assert (False, True) == (small.take(8.0), small.take(9.0))


def test_the_queue_is_served_in_order() -> None:
    """The one who asks serves those before it first, and wakes them."""
    made, woken = bucket(10, 10.0), []
    assert _take(made, 10, 0.0)
    first = _queued(made, 2, lambda: woken.append("first"))
    second = _queued(made, 3, lambda: woken.append("second"))
    third = _queued(made, 1, lambda: woken.append("third"))

    assert [2.0, 5.0, 6.0] == [pytest.approx(each.wait(0.0)) for each in (first, second, third)]
    assert 0.5 == pytest.approx(third.wait(5.5))

    assert [True, True, False] == [each.is_taken for each in (first, second, third)]
    assert ["first", "second", "third"] == woken  # the third asks again: it is the first now


def test_one_who_leaves_lets_the_others_move_up() -> None:
    """Cancellation while waiting leaves no gap: the next is woken and asks again."""
    made, woken = bucket(10, 10.0), []
    assert _take(made, 10, 0.0)
    first = _queued(made, 6)
    second = _queued(made, 2, lambda: woken.append("second"))
    assert 8.0 == pytest.approx(second.wait(0.0))

    first.give_back()

    assert ["second"] == woken
    assert 2.0 == pytest.approx(second.wait(0.0))
    assert 1 == made.waiting


def test_tokens_that_come_back_wake_the_first() -> None:
    """An overestimate or a refusal elsewhere shortens the wait of those in the queue."""
    made, woken = bucket(10, 10.0), []
    taken = [_take(made, 5, 0.0), _take(made, 5, 0.0)]
    waiting = _queued(made, 4, lambda: woken.append(waiting.wait(0.0)))

    assert taken[0]
    taken[0].settle(2, 0.0)
    assert [pytest.approx(1.0)] == woken

    assert taken[1]
    taken[1].give_back()
    assert waiting.is_taken


def test_one_who_was_served_and_cancelled_gives_back() -> None:
    """Served and cancelled in one moment: the tokens are there for the next."""
    made = bucket(10, 10.0)
    assert _take(made, 10, 0.0)
    first, second = _queued(made, 5), _queued(made, 5)
    second.wait(5.0)
    assert first.is_taken

    first.give_back()

    assert 0.0 == second.wait(5.0)


def test_one_that_cannot_be_woken_is_passed_over() -> None:
    """A waiter whose loop is closed gives its turn to the next."""
    made = bucket(10, 10.0)
    assert _take(made, 10, 0.0)

    def closed() -> None:
        raise RuntimeError("Event loop is closed")

    for _ in range(3_000):
        _queued(made, 1, closed)
    last = _queued(made, 4)

    assert 0.0 == last.wait(10.0)
    assert (0, 6.0) == (made.waiting, made.level(10.0))


def test_a_late_wake_makes_no_burst() -> None:
    """Waiters that all come late are still served at the rate, from then on."""
    made = bucket(1, 1.0)
    assert _take(made, 1, 0.0)
    waiting = [_queued(made, 1) for _ in range(4)]

    assert 0.0 == waiting[0].wait(10.0)

    assert [1.0, 2.0, 3.0] == [pytest.approx(each.wait(10.0)) for each in waiting[1:]]


def test_a_clock_that_stands_still() -> None:
    """Only the burst goes while no time passes."""
    made = bucket(5, 1.0)

    assert 5 == sum(made.charge(1).take(7.0) for _ in range(1_000))


def test_threads_that_read_the_clock_earlier() -> None:
    """Moments that come a little out of order gain nothing."""
    made, rng = bucket(100, 1.0, 1), random.Random(3)
    now, taken = 50.0, 0
    for _ in range(20_000):
        now += 0.001
        taken += made.charge(1).take(now - rng.choice((0.0, 0.0005, 0.01)))

    assert 1_000 <= taken <= 2_001


def test_a_full_bucket_refuses_no_thread_for_its_clock() -> None:
    """A thread that read the clock before another one looked at the bucket takes what it holds."""
    made = bucket(1, 60.0)
    late = made.charge(1)
    assert 1.0 == made.level(50.01)

    assert 0.0 == late.retry_after(50.0)
    assert late.take(50.0)


def test_a_clock_that_goes_back() -> None:
    """An exchanged clock gives no tokens and makes nobody wait for the old one."""
    made = bucket(10, 10.0)
    assert _take(made, 10, 1_000.0)
    assert _take(made, 4, 1_004.0)

    assert not made.charge(1).take(5.0)
    assert 1.0 == pytest.approx(made.charge(1).retry_after(5.0))
    assert made.charge(3).take(8.0)
    assert not made.charge(1).take(8.0)


@pytest.mark.parametrize("late", [0.5, 1.5, 5.0, 50.0])
def test_a_moment_that_was_read_long_ago_gives_nothing(late: float) -> None:
    """A thread that was not run after it had read the clock is no reason to refill the bucket."""
    made = bucket(10, 10.0)
    assert made.charge(10).take(1_100.0)

    assert not made.charge(1).take(1_100.0 - late)

    assert 0.0 == made.level(1_100.0)
    assert not made.charge(1).take(1_100.0)


def test_the_fake_clock_moves_it() -> None:
    """Moments of the fake clock are moments."""
    made = bucket(2, 86_400.0, 1)
    with fake_clock() as clock:
        assert made.charge(1).take(clock.monotonic())
        charge = made.charge(1)
        wait = charge.retry_after(clock.monotonic())
        assert 43_200.0 == wait
        clock.advance(wait)

        assert charge.take(clock.monotonic())


@pytest.mark.parametrize("start", [0.1, 12_345.678, 1.7e9])
def test_retry_after_is_enough(start: float) -> None:
    """A call that waits as long as the refusal says fits then, whatever the rounding."""
    rng = random.Random(1)
    for _ in range(2_000):
        amount, per = rng.randrange(1, 50), rng.uniform(1.0, 1e5)
        made, now = bucket(amount, per, rng.randrange(1, 4)), start + rng.random()
        for _ in range(8):
            charge = made.charge(1)
            if not charge.take(now):
                wait = charge.retry_after(now)
                assert wait is not None
                now += wait
                assert charge.take(now)
            now += rng.random() * per / amount


@pytest.mark.parametrize(
    ("amount", "per", "burst", "takes"),
    [
        (3, 1.0, 1, 1_000_000),
        (7, 60.0, 7, 100_000),
        (60, 60.0, 5, 100_000),
        (1, 86_400.0, 1, 100_000),
        (999_983, 86_400.0, 10, 100_000),
    ],
)
def test_a_million_takes_keep_the_rate(
    amount: int, per: float, burst: int, takes: int, lock_free: bool
) -> None:
    """Taken as soon as each fits, the last comes exactly when fractions say."""
    made, start = bucket(amount, per, burst), 123.456
    now, takes = start, takes if lock_free else takes // 100
    charge = made.charge(1)
    for _ in range(takes):
        charge = made.charge(1)
        if not charge.take(now):
            now += charge.retry_after(now) or 0.0
            assert charge.take(now)

    due = Fraction(start) + (takes - burst) * Fraction(per) / amount
    assert abs(Fraction(now) - due) <= Fraction(2, 1_000_000) + due / 10**14


def test_a_fork_begins_full() -> None:
    """The child has the same bucket, full, and an empty queue."""
    made = bucket(60, 60.0, 5)
    assert _take(made, 5, 0.0)
    _queued(made, 1)

    child = made.fresh()

    assert (5.0, 0, 5) == (child.level(0.0), child.waiting, child.burst)
    assert [True] * 5 + [False] == [child.charge(1).take(0.0) for _ in range(6)]
    assert 1.0 == pytest.approx(child.charge(1).retry_after(0.0))


class Model:
    """The same bucket from the contract alone, in fractions: a level, and a queue in order."""

    def __init__(self, amount: int, per: Fraction, burst: int) -> None:
        self.rate = Fraction(amount) / per
        self.burst = burst
        self.level = Fraction(burst)
        self.at = Fraction(0)
        self.full_count = 0
        self.line: list[tuple[int, int]] = []
        self.served: dict[int, int] = {}
        """``{number of a charge: how often the bucket was full before it took}``"""

    def to(self, now: Fraction) -> None:
        self.level += (now - self.at) * self.rate
        self.at = now
        if self.level >= self.burst:
            self.level = Fraction(self.burst)
            self.full_count += 1

    def take(self, number: int, amount: int) -> bool:
        if self.line or self.level < amount:
            return False
        self._served(number, amount)
        return True

    def serve(self) -> None:
        while self.line and self.level >= self.line[0][1]:
            self._served(*self.line.pop(0))

    def _served(self, number: int, amount: int) -> None:
        self.level -= amount
        self.served[number] = self.full_count

    def due(self, number: int) -> Fraction:
        ahead = 0
        for each, amount in self.line:
            ahead += amount
            if each == number:
                break
        return max(Fraction(0), (ahead - self.level) / self.rate)

    def credit(self, number: int, amount: int) -> None:
        if self.served.pop(number) == self.full_count:
            self.level += amount


class BucketMachine(RuleBasedStateMachine):
    """A bucket and its model, whatever happens to them and in any order."""

    @initialize(
        amount=st.integers(1, 20), per=st.sampled_from((1, 4, 16, 64)), burst=st.integers(1, 12)
    )
    def begin(self, amount: int, per: int, burst: int) -> None:
        self.real = bucket(amount, float(per), burst)
        self.model = Model(amount, Fraction(per), burst)
        self.now = Fraction(0)
        self.charges: dict[int, Charge] = {}
        self.number = 0
        self.wakes: list[int] = []
        self.model.to(self.now)
        self.real.level(0.0)

    def _new(self, amount: int) -> tuple[int, Charge]:
        self.number += 1
        charge = self.charges[self.number] = self.real.charge(amount)
        return self.number, charge

    @rule(amount=st.integers(0, 14))
    def take(self, amount: int) -> None:
        number, charge = self._new(amount)
        expected = self.model.take(number, amount)
        assert expected == charge.take(float(self.now))
        if not expected:
            wait = charge.retry_after(float(self.now))
            if amount > self.real.burst:
                assert wait is None
            else:
                ahead = sum(each for _, each in self.model.line) + amount
                due = max(Fraction(0), (ahead - self.model.level) / self.model.rate)
                assert wait == pytest.approx(float(due), abs=1e-6)
            del self.charges[number]

    @rule(amount=st.integers(0, 14))
    def enqueue(self, amount: int) -> None:
        number, charge = self._new(amount)
        can_be_served = amount <= self.real.burst
        assert can_be_served == charge.enqueue(lambda: self.wakes.append(number))
        if can_be_served:
            self.model.line.append((number, amount))
        else:
            del self.charges[number]

    @precondition(lambda self: self.model.line)
    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from([each for each, _ in self.model.line]))
        self.model.serve()
        wait = self.charges[number].wait(float(self.now))
        if number in self.model.served:
            assert wait == 0.0
        else:
            assert wait == pytest.approx(float(self.model.due(number)), abs=2e-6)

    @precondition(lambda self: self.charges)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.charges)))
        charge = self.charges.pop(number)
        if number in self.model.served:
            self.model.credit(number, charge.amount)
        else:
            self.model.line = [each for each in self.model.line if each[0] != number]
        before, self.wakes = self.wakes, []
        charge.give_back()
        assert [number for number, _ in self.model.line[:1]] == self.wakes
        self.wakes = before
        self.model.to(self.now)

    @precondition(lambda self: self.model.served)
    @rule(data=st.data(), used=st.integers(0, 30))
    def settle(self, data: st.DataObject, used: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.model.served)))
        charge = self.charges.pop(number)
        if used > charge.amount:
            del self.model.served[number]
            self.model.level -= used - charge.amount
        else:
            self.model.credit(number, charge.amount - used)
        charge.settle(used, float(self.now))
        self.model.to(self.now)

    @rule(quarters=st.integers(1, 400))
    def advance(self, quarters: int) -> None:
        # Quarters of a second are exact in floats.
        self.now += Fraction(quarters, 4)
        self.model.to(self.now)
        self.real.level(float(self.now))

    @invariant()
    def same_level(self) -> None:
        assert float(self.model.level) == pytest.approx(self.real.level(float(self.now)), abs=1e-6)
        assert len(self.model.line) == self.real.waiting


def test_the_bucket_is_what_its_model_says() -> None:
    """Levels, waits, turns and wakes are those of a model in fractions."""
    run_state_machine_as_test(
        BucketMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


class Provider:
    """A provider with a token bucket of its own, which refuses what it does not hold."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self.level, self.at = float(burst), 0.0
        self.refusals = 0

    def call(self, now: float) -> bool:
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level < 1.0:
            self.refusals += 1
            return False
        self.level -= 1.0
        return True


@pytest.mark.parametrize("latency", [0.0, 0.03, 2.0])
@pytest.mark.parametrize("jitter", [0.0, 0.02])
def test_a_provider_with_the_same_limit_is_used_up(latency: float, jitter: float) -> None:
    """10,000 calls see at most 10 refusals and reach 97 % of the provider's rate."""
    made, provider = bucket(600, 60.0, 20), Provider(10.0, 40)
    rng, clock, calls = random.Random(7), 0.0, 10_000
    line: list[Charge] = []
    sent: list[float] = []
    answers = 0
    while answers < calls:
        while len(line) < 50:  # so many callers, each with the next call ready
            line.append(_queued(made, 1))
        wait = line[0].wait(clock)
        if wait:
            clock += wait + rng.random() * jitter
            continue
        line.pop(0)
        sent.append(clock)
        # What is on its way takes up to a tenth of its latency longer or shorter.
        answers += provider.call(max(provider.at, clock + latency * rng.uniform(0.9, 1.0)))

    assert provider.refusals <= 10
    assert (len(sent) - 20) / (sent[-1] - sent[0]) >= 0.97 * provider.rate


def test_a_charge_tells_nothing_of_others() -> None:
    """A charge that took nothing gives nothing back and settles nothing."""
    made = bucket(5, 5.0)
    idle: Any = made.charge(3)

    idle.give_back()
    idle.settle(2, 0.0)

    assert 5.0 == made.level(0.0)
    assert 0.0 == idle.wait(0.0)
