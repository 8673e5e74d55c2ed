"""What attempts reserve and settle in a store, through outages, losses and forks."""

from __future__ import annotations

from typing import Any

import pytest

from resilient_llm._core.sharing import mirror as mirrors
from resilient_llm._core.sharing import money
from resilient_llm._core.sharing.steps import (
    AmountsSeen,
    AskAmounts,
    Publish,
    ReserveAmounts,
    SettleAmounts,
    ShowAmounts,
)
from resilient_llm._values.sharing import DataLostError, Reserve, Take
from resilient_llm.testing import MemoryStore
from tests.support.mirrors import ACCOUNT, EPOCH, Process, balance, fleet, run, settle


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a mirror look again though no time has passed."""
    monkeypatch.setattr(mirrors, "LOOK_GAP", 0.0)


def _steps(process: Process, kind: type) -> list[Any]:
    return [each for each in process.road.steps if isinstance(each, kind)]


def test_caps_hold_over_processes() -> None:
    """What one process has reserved leaves the others no room."""
    _, store, (a, b) = fleet(2)

    a.ask("a1", 60)
    run([a, b])
    b.ask("b1", 50)
    b.ask("b2", 40)
    run([a, b])

    assert [("a1", "admitted")] == a.amounts()
    assert [("b1", "refused"), ("b2", "admitted")] == b.amounts()
    assert (0, 100, 0) == balance(store)


def test_several_attempts_take_one_step() -> None:
    """A thousand callers wait for ten steps, and not for a thousand."""
    _, store, (a,) = fleet(1)

    for number in range(1000):
        a.ask(f"a{number}", 1, None)
    a.run()
    for number in range(1000):
        a.book(f"a{number}", 2)
    a.run()

    assert (2000, 0, 1000) == balance(store)
    assert 1000 // money.AT_ONCE == len(_steps(a, ReserveAmounts)) == len(_steps(a, SettleAmounts))


def test_what_was_booked_comes_to_the_others() -> None:
    """With the answers of the store, and with the looks of others."""
    clock, _, (a, b) = fleet(2)
    a.ask("a1", 60)
    a.run()
    a.effects.clear()

    a.book("a1", 55)
    settle(clock, [a, b], rounds=1)

    (mine,) = [each for each in a.effects if isinstance(each, AmountsSeen) and each.settled]
    assert ["a1"] == [each.id for each in mine.settled]
    assert [(55, 0)] == [(each.spent, each.reserved) for each in mine.balances]
    theirs = [each for each in b.effects if isinstance(each, AmountsSeen)][-1]
    assert (theirs.balances, ()) == (mine.balances, theirs.settled)


def test_everything_that_is_known_is_shown_when_it_is_asked_for() -> None:
    """For budgets that are configured later."""
    _, _, (a,) = fleet(1)
    a.ask("a1", 60)
    a.run()
    a.effects.clear()

    a.mirror.tell(ShowAmounts())
    a.apply()

    (seen,) = a.effects
    assert [(ACCOUNT, 60)] == [(each.account, each.reserved) for each in seen.balances]


# Time.


def test_the_period_is_that_of_the_stores_clock() -> None:
    """The store names its moment, and the reservation is made for the period of that."""
    clock, store, (a,) = fleet(1)
    store._clock = lambda: clock() + 7200.0

    a.ask("a1", 60)
    a.run()

    (reserved,) = [each.reserved for each in a.effects if getattr(each, "ticket", None) == "a1"]
    assert (EPOCH + 7200) // 3600 * 3600 == reserved.balances[0].start
    first, second = _steps(a, ReserveAmounts)
    assert 7200 == second.reserves[0].charges[0].start - first.reserves[0].charges[0].start


def test_a_store_whose_periods_never_fit_is_unavailable() -> None:
    """Whoever asks does not ask for ever."""
    _, _, (a,) = fleet(1)
    a.ask("a1", 60)
    reserve_at = a.reserves["a1"]

    def later(moment: float) -> Reserve:
        return reserve_at(moment + 7200)

    a.mirror.tell(AskAmounts("a1", "a1", later, 0.25))
    a.run()

    assert [("a1", "unavailable")] == a.amounts()
    assert 10 > len(_steps(a, ReserveAmounts))


def test_a_settlement_belongs_to_the_period_of_its_reservation() -> None:
    """Also when the hour is over by then."""
    clock, store, (a,) = fleet(1)
    a.ask("a1", 60)
    a.run()
    before = a.reserves["a1"](clock())
    a.reserves["a1"] = lambda _: before

    settle(clock, [a], rounds=720)
    a.ask("a2", 1)
    a.book("a1", 50)
    a.run()

    assert (0, 1, 0) == balance(store)
    first = store.changes(_steps(a, SettleAmounts)[0].stamp, 0, timeout=1.0).balances[0]
    assert (50, 0) == (first.spent, first.reserved)


# Renewals.


def test_an_open_reservation_is_renewed() -> None:
    """A call of an hour keeps what it has reserved."""
    clock, store, (a, b) = fleet(2)
    a.ask("a1", 60)
    a.run()

    settle(clock, [a], rounds=20)
    b.ask("b1", 50)
    b.run()

    assert [("b1", "refused")] == b.amounts()
    assert (0, 60, 0) == balance(store)


def test_the_reservation_of_a_process_that_died_is_booked() -> None:
    """By its fallback, as one call: a crash loop does not spend unseen."""
    clock, store, (a, b) = fleet(2)
    a.ask("a1", 60, fallback=7)
    a.run()

    clock.now += money.LASTS + 0.1
    b.ask("b1", 90)
    b.run()

    assert [("b1", "admitted")] == b.amounts()
    assert (7, 90, 1) == balance(store)


def test_a_process_that_slept_takes_the_booking_back() -> None:
    """Its attempt goes on, so what was booked for it is reserved again."""
    clock, store, (a, b) = fleet(2)
    a.ask("a1", 60, fallback=7)
    a.run()
    clock.now += money.LASTS + 0.1
    b.ask("b1", 1)
    b.run()
    assert (7, 1, 1) == balance(store)

    a.run()
    assert (0, 61, 0) == balance(store)
    a.book("a1", 50)
    a.run()

    assert (50, 1, 1) == balance(store)


# Answers that do not come.


@pytest.mark.parametrize("fault", ["timeout", "no answer", "read_only"])
def test_no_answer_is_told_and_released(fault: str) -> None:
    """Also what the store has admitted, of which only the answer was lost."""
    clock, store, (a,) = fleet(1)
    a.road.fault = fault

    a.ask("a1", 60)
    a.run()
    assert [("a1", "unavailable")] == a.amounts()
    a.road.fault = None
    settle(clock, [a])

    assert (0, 0, 0) == balance(store)


def test_a_reservation_that_comes_after_its_release_is_refused() -> None:
    """The network may keep a step as long as it likes."""
    clock, store, (a,) = fleet(1)
    a.road.fault = "timeout"
    a.ask("a1", 60)
    a.run()
    late = _steps(a, ReserveAmounts)[-1]
    a.road.fault = None
    settle(clock, [a], rounds=1)

    with pytest.raises(Exception, match="error"):
        store.reserve(late.stamp, late.reserves, lasts=30.0, timeout=1.0)

    assert (0, 0, 0) == balance(store)


def test_while_the_store_is_known_to_be_down_nobody_waits() -> None:
    """The answer comes at once, and no step is sent for it."""
    _, _, (a,) = fleet(1)
    a.road.fault = "unreachable"
    a.mirror._look_at = 0.0
    a.run()
    a.road.steps.clear()

    a.ask("a1", 1)
    a.run()

    assert [("a1", "unavailable")] == a.amounts()
    assert not _steps(a, ReserveAmounts)


def test_a_caller_waits_no_longer_than_it_said() -> None:
    """Also if the thread could not ask yet."""
    clock, store, (a,) = fleet(1)
    b = Process(clock, store, "b:1")
    b.mirror._look_at = clock.now + 100.0
    b.mirror._session.epoch = a.mirror._session.epoch
    b.ask("b1", 1, wait=0.25)

    rest = b.run()
    assert 0.25 == rest.seconds
    clock.now += rest.seconds
    b.run()

    assert [("b1", "unavailable")] == b.amounts()


@pytest.mark.parametrize("has_asked", [False, True], ids=["waits", "is admitted"])
def test_a_caller_that_goes_releases_what_it_asked_for(has_asked: bool) -> None:
    """Cancelled before or after the store has admitted it."""
    _, store, (a,) = fleet(1)
    a.ask("a1", 60)
    if has_asked:
        a.run()

    a.book("a1", 0, is_sent=False)
    a.run()

    assert (0, 0, 0) == balance(store)
    assert has_asked is bool(_steps(a, ReserveAmounts))


def test_a_settlement_without_an_answer_is_sent_again_and_counts_once() -> None:
    """With its number, before anything else that changes something."""
    clock, store, (a,) = fleet(1)
    a.ask("a1", 60)
    a.run()
    a.road.fault = "no answer"
    a.book("a1", 55)
    a.run()
    a.bench("groq")
    a.ask("a2", 1)
    a.run()

    a.road.fault = None
    settle(clock, [a])

    first, *others = _steps(a, SettleAmounts)
    assert others
    assert {first.stamp.number} == {each.stamp.number for each in others}
    assert not [each for each in _steps(a, Publish) if each.stamp.number < first.stamp.number]
    assert (55, 0, 1) == balance(store)
    assert (0, 0) == (a.mirror.status(clock.now).pending, len(a.mirror.money))


def test_settlements_of_an_outage_take_the_memory_of_their_accounts() -> None:
    """What the store cannot know is added up."""
    clock, store, (a,) = fleet(1)
    a.road.fault = "unreachable"
    clock.now += 5.1
    a.run()

    for number in range(1000):
        a.hold(f"a{number}", 3)
        a.book(f"a{number}", 2)
        a.run()
    assert 1 == len(a.mirror.money)
    a.road.fault = None
    settle(clock, [a])

    assert (2000, 0, 1000) == balance(store)


def test_beyond_the_limit_bookings_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As changes of benches are."""
    monkeypatch.setattr(money, "MOST_BOOKED", 2)
    clock, _, (a,) = fleet(1)

    for number in range(3):
        a.hold(f"a{number}", 3, account=f"account {number}")
        a.book(f"a{number}", 2)

    assert 1 == a.mirror.status(clock.now).dropped


def test_what_was_admitted_here_comes_to_the_store_when_it_is_back() -> None:
    """Before anything new is reserved, whatever the cap says."""
    clock, store, (a,) = fleet(1)
    a.road.fault = "unreachable"
    clock.now += 5.1
    a.run()
    a.hold("a1", 90)
    a.run()

    a.road.fault = None
    clock.now += 5.1
    a.ask("a2", 20)
    a.effects.clear()
    a.run()

    assert ("a2", "unavailable") in a.amounts()  # it was known to be down
    a.ask("a3", 20)
    a.run()
    assert [("a3", "refused")] == a.amounts()
    assert (0, 90, 0) == balance(store)
    a.book("a1", 80)
    a.run()
    assert (80, 0, 1) == balance(store)


# Losses.


def test_after_a_loss_open_reservations_come_first() -> None:
    """Totals and reservations are back before anything new is admitted."""
    _, store, (a,) = fleet(1)
    a.ask("a1", 60)
    a.run()
    a.book("a1", 55)
    a.ask("a2", 20)
    a.run()
    a.effects.clear()

    store.lose()
    a.ask("a3", 26)
    a.ask("a4", 25)
    a.run()

    assert [("a3", "refused"), ("a4", "admitted")] == a.amounts()
    assert (55, 45, 1) == balance(store)


def test_a_settlement_that_finds_the_loss_is_booked_after_it() -> None:
    """On top of the total that was written back."""
    _, store, (a,) = fleet(1)
    a.ask("a1", 60)
    a.ask("a2", 40)
    a.run()
    a.book("a1", 55)
    a.run()

    store.lose()
    a.book("a2", 30)
    a.run()

    assert (85, 0, 2) == balance(store)


def test_a_store_that_loses_every_step_answers_nobody() -> None:
    """It is taken for one that fails, and whoever waits is told."""
    _, _, (a,) = fleet(1)

    class Forgetful(MemoryStore):
        def reserve(self, *args: Any, **kwargs: Any) -> Any:
            raise DataLostError

    a.road.store = Forgetful(clock=a.clock)
    a.ask("a1", 1)
    a.run()

    assert [("a1", "unavailable")] == a.amounts()


# Forks and ends.


def test_a_child_drops_what_its_parent_holds() -> None:
    """Its parent renews and settles it."""
    clock, store, (a,) = fleet(1)
    a.ask("a1", 60)
    a.run()
    a.effects.clear()
    a.ask("a2", 1)

    a.mirror.after_fork("child", clock.now)
    settle(clock, [a], rounds=5)
    assert [] == a.amounts()
    assert (0, 60, 0) == balance(store)
    clock.now += 5.1
    a.ask("a3", 1)
    a.run()

    assert (1, 1, 1) == balance(store)


def test_before_the_end_everything_is_settled() -> None:
    """A process that stops has work until the store has its bookings."""
    _, store, (a,) = fleet(1)
    a.ask("a1", 60)
    a.run()
    a.book("a1", 55)
    a.mirror.leave()
    assert a.mirror.has_work

    a.run()

    assert not a.mirror.has_work
    assert (55, 0, 1) == balance(store)


# Rubbish, and fairness.


RUBBISH: list[Any] = [None, (), "x", (None,), ({},), ((1, 2, 3, 4),)]


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (method, answer)
        for method in ("reserve", "settle")
        for answer in RUBBISH
        if (method, answer) != ("settle", ())  # it changed no account
    ],
)
def test_rubbish_is_an_outage(method: str, answer: Any) -> None:
    """Nothing is raised, and whoever waits is told."""
    clock, store, (a,) = fleet(1)
    a.ask("a1", 60)
    if method == "settle":
        a.run()
        a.book("a1", 1)

    def answered(*_: Any, **__: Any) -> Any:
        return answer

    setattr(store, method, answered)

    a.run()
    assert a.mirror.status(clock.now).last_error is not None
    delattr(store, method)
    settle(clock, [a])

    assert (0 if method == "reserve" else 1, 0) == balance(store)[:2]


def test_attempts_do_not_keep_benches_from_the_store() -> None:
    """However many there are, each kind of step has its turn."""
    _, _, (a,) = fleet(1)
    a.bench("groq")
    for number in range(5 * money.AT_ONCE):
        a.ask(f"a{number}", 1, None)
        a.hold(f"b{number}", 1)
        a.book(f"b{number}", 1)

    kinds = [type(a.step()) for _ in range(4)]

    assert {Publish, ReserveAmounts, SettleAmounts} <= set(kinds)


def test_buckets_are_taken_in_the_same_step_and_corrected() -> None:
    """What an attempt did not use comes back; a call above the bucket is refused for ever."""
    _, store, (a,) = fleet(1)
    a.ask("a1", 1, None, takes=(Take("tokens", 8, 1.0, 10),))
    a.run()
    a.ask("a2", 1, None, takes=(Take("tokens", 8, 1.0, 10),))
    a.ask("a3", 1, None, takes=(Take("tokens", 11, 1.0, 10),))
    a.run()

    found = {
        each.ticket: (each.outcome, each.reserved.retry_after)
        for each in a.effects
        if hasattr(each, "ticket")
    }
    assert {"a1": ("admitted", 0.0), "a2": ("refused", 6.0), "a3": ("refused", None)} == found
    assert (0, 1, 0) == balance(store)
