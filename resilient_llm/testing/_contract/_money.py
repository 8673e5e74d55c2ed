"""Clauses about accounts of budgets, and about buckets of shared limits."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from resilient_llm._values.sharing import Charge, Entry, Reserve, Settle, StoreError, Take
from resilient_llm.testing._contract._session import MOMENT, charge, equal, in_thread, name, pause

if TYPE_CHECKING:
    from resilient_llm._values.sharing import Balance, Reserved
    from resilient_llm.testing._contract._session import Clause, Session

HUGE = 10**24
"""More than any cap in USD, and than what a 64-bit number or a double holds exactly."""


def _entry(charge: Charge, amount: int, *, estimated: int = 0) -> Entry:
    return Entry(charge.account, charge.start, charge.end, amount, 1, estimated)


def _one(session: Session, *charges: Charge, **more: Any) -> tuple[str, Reserved]:
    """Reserve for one attempt; return its id and what became of it."""
    wanted = Reserve(name(), charges)
    (reserved,) = session.reserve(wanted, **more)
    return wanted.id, reserved


def _shown(balance: Balance) -> tuple[int, int, int, int]:
    return balance.spent, balance.reserved, balance.calls, balance.estimated


def _now_of(session: Session, account: str) -> tuple[int, int, int, int]:
    """Return what an account has."""
    session.revision = 0
    session.look()
    assert session.seen is not None
    return next(
        (_shown(each) for each in session.seen.balances if each.account == account), (0, 0, 0, 0)
    )


def a_reservation_fits_the_cap_or_is_refused(clause: Clause) -> None:
    a, b = clause.session(), clause.session()
    wanted = charge(name("account "), 40, 100, a.now())
    id_one, one = _one(a, wanted)
    equal(("admitted", (0, 40, 0, 0)), (one.outcome, _shown(one.balances[0])), "the first")
    equal("admitted", _one(b, wanted)[1].outcome, "the second")
    _, refused = _one(a, wanted)
    equal(("refused", (0, 80, 0, 0)), (refused.outcome, _shown(refused.balances[0])), "the third")
    equal("admitted", _one(a, wanted._replace(amount=20))[1].outcome, "one that just fits")
    settled = a.settle(Settle(id_one, (_entry(wanted, 15, estimated=1),)))
    equal((15, 60, 1, 1), _shown(settled[wanted.account]), "the balance after a settlement")
    equal("admitted", _one(b, wanted._replace(amount=25))[1].outcome, "one that fits again")
    equal("refused", _one(b, wanted._replace(amount=1))[1].outcome, "one more")
    equal("admitted", _one(b, wanted._replace(amount=0))[1].outcome, "one of 0 at the cap")
    equal("admitted", _one(b, wanted._replace(cap=None))[1].outcome, "one without a cap")


def all_accounts_or_none(clause: Clause) -> None:
    a = clause.session()
    one, two = (charge(name("account "), 40, cap, a.now()) for cap in (100, 30))
    _, reserved = _one(a, one, two)
    equal("refused", reserved.outcome, "outcome")
    equal([one.account, two.account], [each.account for each in reserved.balances], "the balances")
    equal((0, 0, 0, 0), _now_of(a, one.account), "the account that had room")


def amounts_are_exact(clause: Clause) -> None:
    a = clause.session()
    wanted = charge(name("account "), HUGE + 1, 2 * HUGE + 1, a.now())
    first, reserved = _one(a, wanted)
    equal((0, HUGE + 1, 0, 0), _shown(reserved.balances[0]), "reserved")
    a.settle(Settle(first, (_entry(wanted, HUGE),)))
    equal("refused", _one(a, wanted._replace(amount=HUGE + 2))[1].outcome, "one more than fits")
    second, reserved = _one(a, wanted)
    equal(("admitted", HUGE), (reserved.outcome, reserved.balances[0].spent), "what just fits")
    settled = a.settle(Settle(second, (_entry(wanted, 2**53 + 1),)))
    equal(HUGE + 2**53 + 1, settled[wanted.account].spent, "spent")
    equal(
        (HUGE + 2**53 + 1, 0, 2, 0), _now_of(clause.session(), wanted.account), "what a look finds"
    )


def an_id_is_reserved_once(clause: Clause) -> None:
    a = clause.session()
    wanted = Reserve(name(), (charge(name("account "), 40, 100, a.now()),))
    for _ in range(3):
        (reserved,) = a.reserve(wanted)
        equal(
            ("admitted", 40), (reserved.outcome, reserved.balances[0].reserved), "outcome, reserved"
        )


def a_settlement_releases_what_it_does_not_book(clause: Clause) -> None:
    a = clause.session()
    one, two = (charge(name("account "), 40, 100, a.now()) for _ in range(2))
    reserved_id, _ = _one(a, one, two)
    a.settle(Settle(reserved_id, (_entry(one, 70),)))
    equal((70, 0, 1, 0), _now_of(a, one.account), "the account that is booked")
    equal((0, 0, 0, 0), _now_of(a, two.account), "the other one")
    _one(a, two)
    a.settle(Settle(reserved_id))
    equal((0, 40, 0, 0), _now_of(a, two.account), "the other one, settled twice")


def what_was_never_reserved_is_booked(clause: Clause) -> None:
    a = clause.session()
    wanted = charge(name("account "), 0, None, a.now())
    settled = a.settle(Settle(name(), (_entry(wanted, 5),)), Settle(name(), (_entry(wanted, 6),)))
    equal((11, 0, 2, 0), _shown(settled[wanted.account]), "balance")


def an_entry_below_zero_takes_back_down_to_nothing(clause: Clause) -> None:
    a = clause.session()
    wanted = charge(name("account "), 40, 100, a.now())
    held, _ = _one(a, wanted)
    booked = Entry(wanted.account, wanted.start, wanted.end, 50, 2, 1)
    a.settle(Settle(name(), (booked,)))
    some = booked._replace(amount=-30, calls=-1, estimated=0)
    settled = a.settle(Settle(name(), (some,)))
    equal((20, 40, 1, 1), _shown(settled[wanted.account]), "the balance after some of it")
    more = booked._replace(amount=-HUGE, calls=-5, estimated=-5)
    settled = a.settle(Settle(name(), (more,)))
    equal((0, 40, 0, 0), _shown(settled[wanted.account]), "the balance after more than all of it")
    equal((0, 40, 0, 0), _now_of(clause.session(), wanted.account), "what a look finds")
    settled = a.settle(Settle(held, (_entry(wanted, 15),)))
    equal((15, 0, 1, 0), _shown(settled[wanted.account]), "the balance after the next settlement")


def a_period_is_that_of_the_clock_of_the_store(clause: Clause) -> None:
    a = clause.session()
    now = a.now()
    wanted = charge(name("account "), 40, 100, now)
    assert wanted.end is not None
    for start, ends in (
        (wanted.start - 3600, wanted.start),
        (wanted.end, wanted.end + 3600),
    ):
        _, reserved = _one(a, wanted._replace(start=start, end=ends))
        equal(("period", ()), (reserved.outcome, reserved.balances), "outcome of another period")
        assert abs(reserved.now - now) < 60, f"now is {reserved.now}, and was {now} in a look"
    _, reserved = _one(a, wanted._replace(start=0, end=None))
    equal("admitted", reserved.outcome, "outcome without a period")


def periods_are_counted_apart(clause: Clause) -> None:
    a = clause.session()
    now = int(a.now())
    wanted = Charge(name("account "), now - 100, now + 100, 40, 100)
    first, _ = _one(a, wanted)
    later = wanted._replace(start=now - 50)
    second, reserved = _one(a, later)
    equal((0, 40, 0, 0), _shown(reserved.balances[0]), "balance of the later period")
    _, reserved = _one(a, wanted._replace(amount=1))
    equal(
        (now - 50, 41),
        (reserved.balances[0].start, reserved.balances[0].reserved),
        "start and reserved of one that names the period before",
    )
    a.settle(Settle(first, (_entry(wanted, 30),)), Settle(second, (_entry(later, 20),)))
    a.revision = 0
    a.look()
    assert a.seen is not None
    found = {each.start: each.spent for each in a.seen.balances if each.account == wanted.account}
    equal({now - 100: 30, now - 50: 20}, found, "spent of each period")


def what_ends_unsettled_is_booked(clause: Clause) -> None:
    a, b = clause.session(), clause.session()
    wanted = charge(name("account "), 40, 100, a.now(), fallback=10)
    reserved_id, _ = _one(a, wanted, lasts=MOMENT)
    pause()
    _, reserved = _one(b, wanted._replace(amount=90))
    equal(
        ("admitted", (10, 90, 1, 1)),
        (reserved.outcome, _shown(reserved.balances[0])),
        "the next reservation",
    )
    (again,) = a.reserve(Reserve(reserved_id, (wanted._replace(amount=0),)))
    equal("refused", again.outcome, "the same id once more, which is no renewal")
    settled = a.settle(Settle(reserved_id, (_entry(wanted, 25),)))
    equal((25, 90, 1, 0), _shown(settled[wanted.account]), "the balance after a late settlement")


def a_renewed_reservation_stays(clause: Clause) -> None:
    a, b = clause.session(), clause.session()
    wanted = charge(name("account "), 40, 100, a.now(), fallback=10)
    reserved_id, _ = _one(a, wanted, lasts=MOMENT)
    renewal = Reserve(reserved_id, (wanted._replace(cap=None),), is_renewal=True)
    (renewed,) = a.reserve(renewal, lasts=30.0)
    equal(("admitted", 40), (renewed.outcome, renewed.balances[0].reserved), "the renewal")
    pause()
    _, reserved = _one(b, wanted._replace(amount=0))
    equal((0, 40, 0, 0), _shown(reserved.balances[0]), "the balance afterwards")


def a_renewal_brings_a_lost_reservation_back(clause: Clause) -> None:
    a = clause.session()
    wanted = charge(name("account "), 40, 10, a.now(), fallback=10)
    (renewed,) = a.reserve(Reserve(name(), (wanted,), is_renewal=True))
    equal(
        ("admitted", (0, 40, 0, 0)),
        (renewed.outcome, _shown(renewed.balances[0])),
        "a renewal of what is unknown",
    )
    ended = charge(name("account "), 40, 100, a.now(), fallback=10)
    reserved_id, _ = _one(a, ended, lasts=MOMENT)
    pause()
    a.reserve(Reserve(name(), ()))
    (renewed,) = a.reserve(Reserve(reserved_id, (ended,), is_renewal=True))
    equal((0, 40, 0, 0), _shown(renewed.balances[0]), "a renewal of what was booked")
    past = ended._replace(start=ended.start - 7200, end=ended.start - 3600)
    (renewed,) = a.reserve(Reserve(name(), (past,), is_renewal=True))
    equal(("admitted", past.start), (renewed.outcome, renewed.balances[0].start), "in the past")


def many_at_once_do_not_pass_a_cap(clause: Clause) -> None:
    first = clause.session()
    wanted = charge(name("account "), 1, 20, first.now())
    sessions = [clause.session(clause.another()) for _ in range(4)]
    if any(each.epoch != first.epoch for each in sessions):
        sessions = [clause.session() for _ in range(4)]  # `make` gives data of their own
    admitted: list[bool] = []
    errors: list[BaseException] = []
    lock = threading.Lock()

    def run(session: Session) -> None:
        for _ in range(8):
            try:
                _, reserved = _one(session, wanted)
            except (StoreError, AssertionError) as error:
                errors.append(error)
                return
            with lock:
                admitted.append(reserved.outcome == "admitted")

    # One thread for each store: the methods of one are never called side by side.
    stores = {id(session.store): session for session in sessions}
    threads = [in_thread(lambda each=each: run(each)) for each in stores.values()]
    for thread in threads:
        thread.join(30.0)
    for session in sessions[len(stores) :]:
        run(session)
    equal([], errors, "errors")
    equal((20, 12), (admitted.count(True), admitted.count(False)), "admitted and refused")
    equal((0, 20, 0, 0), _now_of(first, wanted.account), "balance")


# Limits.


def a_bucket_is_shared(clause: Clause) -> None:
    if not clause.store.has_limits:
        return
    a, b = clause.session(), clause.session()
    take = Take(name("bucket "), 2, 10.0, 5)
    for session in (a, b):
        (reserved,) = session.reserve(Reserve(name(), (), (take,)))
        equal(("admitted", 0.0), (reserved.outcome, reserved.retry_after), "what fits")
    (reserved,) = a.reserve(Reserve(name(), (), (take,)))
    equal("refused", reserved.outcome, "what does not fit")
    assert reserved.retry_after is not None, "retry_after is None though the bucket holds it"
    assert 5 < reserved.retry_after <= 10, f"retry_after {reserved.retry_after}"
    (renewed,) = a.reserve(Reserve(name(), (), (take,), is_renewal=True))
    equal("admitted", renewed.outcome, "a renewal")
    (same,) = a.reserve(Reserve(name(), (), (take,)))
    assert same.retry_after is not None, "retry_after is None after a renewal"
    assert same.retry_after <= reserved.retry_after, "a renewal takes from the bucket"
    (reserved,) = a.reserve(Reserve(name(), (), (take._replace(amount=6),)))
    equal(("refused", None), (reserved.outcome, reserved.retry_after), "more than it ever holds")
    b.settle(Settle(name(), (), (take._replace(amount=-2),)))
    (reserved,) = a.reserve(Reserve(name(), (), (take,)))
    equal("admitted", reserved.outcome, "what fits after some was given back")
    b.settle(Settle(name(), (), (take._replace(amount=9),)))
    (reserved,) = a.reserve(Reserve(name(), (), (take._replace(amount=1),)))
    assert reserved.retry_after is not None, "retry_after is None of a debt"
    assert 75 < reserved.retry_after <= 90, f"retry_after {reserved.retry_after} of a debt"


def buckets_and_accounts_together_or_neither(clause: Clause) -> None:
    if not clause.store.has_limits:
        return
    a = clause.session()
    take = Take(name("bucket "), 3, 10.0, 5)
    wanted = charge(name("account "), 40, 30, a.now())
    (reserved,) = a.reserve(Reserve(name(), (wanted,), (take,)))
    equal("refused", reserved.outcome, "outcome of a cap")
    (reserved,) = a.reserve(Reserve(name(), (wanted._replace(cap=100),), (take,)))
    equal("admitted", reserved.outcome, "outcome of one that fits both")
    (reserved,) = a.reserve(Reserve(name(), (wanted._replace(cap=100),), (take,)))
    equal("refused", reserved.outcome, "outcome of a bucket")
    equal((0, 40, 0, 0), _now_of(a, wanted.account), "balance")


def a_bucket_is_refilled(clause: Clause) -> None:
    if not clause.store.has_limits:
        return
    a = clause.session()
    take = Take(name("bucket "), 1, MOMENT, 1)
    outcomes: list[str] = []
    for _ in range(2):
        (reserved,) = a.reserve(Reserve(name(), (), (take,)))
        outcomes.append(reserved.outcome)
    pause()
    (reserved,) = a.reserve(Reserve(name(), (), (take,)))
    equal(["admitted", "refused", "admitted"], [*outcomes, reserved.outcome], "outcomes")


CLAUSES = (
    a_reservation_fits_the_cap_or_is_refused,
    all_accounts_or_none,
    amounts_are_exact,
    an_id_is_reserved_once,
    a_settlement_releases_what_it_does_not_book,
    what_was_never_reserved_is_booked,
    an_entry_below_zero_takes_back_down_to_nothing,
    a_period_is_that_of_the_clock_of_the_store,
    periods_are_counted_apart,
    what_ends_unsettled_is_booked,
    a_renewed_reservation_stays,
    a_renewal_brings_a_lost_reservation_back,
    many_at_once_do_not_pass_a_cap,
    a_bucket_is_shared,
    buckets_and_accounts_together_or_neither,
    a_bucket_is_refilled,
)
