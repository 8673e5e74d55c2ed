"""Clauses about stamps, steps that are sent again, and lost data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._values.sharing import (
    Balance,
    Claim,
    DataLostError,
    Entry,
    Reserve,
    Settle,
    Stamp,
    StoreError,
)
from resilient_llm.testing._contract._session import (
    TIMEOUT,
    Session,
    bench,
    charge,
    end,
    equal,
    name,
    of_key,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm.testing._contract._session import Clause


def _is_lost(run: Callable[[], object], what: str) -> None:
    try:
        run()
    except DataLostError:
        return
    raise AssertionError(f"{what} raises no DataLostError")


def a_session_looks_before_it_changes_anything(clause: Clause) -> None:
    a, key = clause.session(), name("groq/")
    for epoch in (None, "another"):
        a.epoch = epoch
        steps: tuple[tuple[str, Callable[[], object]], ...] = (
            ("publish", lambda: a.publish(bench(key))),
            ("claim", lambda: a.claim(Claim(key, 30.0))),
            ("reserve", lambda: a.reserve(Reserve(name(), ()))),
            ("settle", lambda: a.settle(Settle(name()))),
        )
        for what, step in steps:
            _is_lost(step, f"{what} with the epoch {epoch!r}")
    equal([], clause.everything(key), "records")


def a_look_with_another_epoch_finds_everything(clause: Clause) -> None:
    a, key = clause.session(), name("groq/")
    a.publish(bench(key))
    a.look()
    for epoch, is_lost in ((None, False), ("another", True)):
        stamp = Stamp(a.id, 0, epoch)
        seen = a.store.changes(stamp, a.revision, limit=10_000, timeout=TIMEOUT)
        equal((a.epoch, True, is_lost), (seen.epoch, seen.is_all, seen.is_lost), "the look")
        equal(1, len(of_key(list(seen.records), key)), "records")
    a.look()
    assert a.seen is not None
    equal((False, False), (a.seen.is_all, a.seen.is_lost), "is_all and is_lost of a usual look")


def a_step_that_is_sent_again_is_done_once(clause: Clause) -> None:
    a, key, account = clause.session(), name("groq/"), name("account ")
    new = bench(key)
    (first,) = a.publish(new)
    (again,) = a.publish(new, again=True)
    equal(("known", first.order), tuple(again), "what publish answers again")
    wanted = Reserve(name(), (charge(account, 40, 100, a.now()),))
    a.reserve(wanted)
    (again_reserved,) = a.reserve(wanted, again=True)
    equal("admitted", again_reserved.outcome, "what reserve answers again")
    equal(40, again_reserved.balances[0].reserved, "what is reserved")
    start, ends = wanted.charges[0].start, wanted.charges[0].end
    settle = Settle(wanted.id, (Entry(account, start, ends, 30, 1, 0),))
    a.settle(settle)
    balance = a.settle(settle, again=True)[account]
    equal((30, 0, 1), (balance.spent, balance.reserved, balance.calls), "what settle answers again")
    a.claim(Claim(key, 30.0))
    assert a.claim(Claim(key, 30.0), again=True).is_held, "claim answers something else again"


def a_new_bench_that_is_sent_again_after_its_end_stays_ended(clause: Clause) -> None:
    a, b, key = clause.session(), clause.session(), name("groq/")
    new = bench(key)
    (first,) = a.publish(new)
    b.publish(end(key, first.order))
    equal("ended", a.publish(new, again=True)[0].outcome, "outcome")


def a_step_that_comes_too_late_changes_nothing(clause: Clause) -> None:
    a, key, account = clause.session(), name("groq/"), name("account ")
    now = a.now()
    a.publish()
    a.publish()
    late: tuple[Callable[[], object], ...] = (
        lambda: a.publish(bench(key), again=True),
        lambda: a.claim(Claim(key, 30.0), again=True),
        lambda: a.reserve(Reserve(name(), (charge(account, 40, None, now),)), again=True),
        lambda: a.settle(Settle(name(), (Entry(account, 0, None, 40, 1, 0),)), again=True),
    )
    a.number -= 1
    a.answered = a.number
    for step in late:
        try:
            step()
        except StoreError as error:
            equal("error", error.reason, "reason")
        else:
            raise AssertionError("a step with a lower number raises no StoreError")
    b = Session(clause.store)
    equal([], of_key(b.look(), key), "records")
    assert b.seen is not None
    equal([], [each for each in b.seen.balances if each.account == account], "balances")
    assert b.claim(Claim(key, 30.0)).is_held, "the place was claimed"


def data_that_is_older_than_what_was_seen_gets_a_new_epoch(clause: Clause) -> None:
    a, b, key = clause.session(), clause.session(), name("groq/")
    a.publish(bench(key))
    a.look()
    ahead: tuple[Callable[[Session], None], ...] = (
        lambda session: setattr(session, "revision", session.revision + 10**6),
        lambda session: setattr(session, "answered", session.number + 10),
    )
    for change in ahead:
        b.look()
        epoch = b.epoch
        change(b)
        _is_lost(lambda: b.publish(bench(key)), "publish with a stamp that is ahead of the data")
        a.look()
        assert a.epoch != epoch, "the epoch is the same for other sessions"
        assert a.seen is not None
        equal(
            (True, True),
            (a.seen.is_lost, a.seen.is_all),
            "is_lost and is_all of the look of another session",
        )
        b.look()
        equal(a.epoch, b.epoch, "epochs")
        epoch = b.epoch
        change(b)
        b.look()
        assert b.epoch != epoch, "a look with a stamp that is ahead begins no new epoch"
        assert b.seen is not None
        assert b.seen.is_lost, "such a look has not is_lost"
        a.look()


def balances_that_are_written_back_rise_and_never_fall(clause: Clause) -> None:
    a, b, account = clause.session(), clause.session(), name("account ")
    a.publish(balances=(Balance(account, 0, None, 40, 99, 4, 2),))
    b.publish(balances=(Balance(account, 0, None, 30, 99, 5, 1),))
    a.look()
    assert a.seen is not None
    (found,) = [each for each in a.seen.balances if each.account == account]
    equal(Balance(account, 0, None, 40, 0, 5, 2), found, "balance")
    b.settle(Settle(name(), (Entry(account, 0, None, 7, 1, 0),)))
    a.publish(balances=(Balance(account, 0, None, 45, 0, 6, 2),))
    (reserved,) = a.reserve(Reserve(name(), (charge(account, 0, None, 0)._replace(end=None),)))
    equal(47, reserved.balances[0].spent, "spent after a lower one was written back")


CLAUSES = (
    a_session_looks_before_it_changes_anything,
    a_look_with_another_epoch_finds_everything,
    a_step_that_is_sent_again_is_done_once,
    a_new_bench_that_is_sent_again_after_its_end_stays_ended,
    a_step_that_comes_too_late_changes_nothing,
    data_that_is_older_than_what_was_seen_gets_a_new_epoch,
    balances_that_are_written_back_rise_and_never_fall,
)
