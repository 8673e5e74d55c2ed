"""Clauses about looks, benches and their ends, probes, and waiting."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

from resilient_llm._values.sharing import LAYERS, SAME_KEY, Bench, Claim, Entry, Settle
from resilient_llm.testing._contract._session import (
    MOMENT,
    Session,
    bench,
    charge,
    end,
    equal,
    in_thread,
    name,
    of_key,
    pause,
    whole,
)

if TYPE_CHECKING:
    from resilient_llm._values.sharing import Changes
    from resilient_llm.testing._contract._session import Clause


def a_store_has_the_methods_and_attributes_of_the_protocol(clause: Clause) -> None:
    store: Any = clause.store
    assert isinstance(getattr(store, "url", None), str), "url is no text"
    is_told = isinstance(getattr(store, "has_limits", None), bool)
    assert is_told, "has_limits is neither True nor False"


def a_bench_is_found_by_another_session(clause: Clause) -> None:
    a, b = clause.session(), clause.session()
    for layer in LAYERS:
        key = name("groq/")
        new = bench(key, layer, 300.0, age=5.0)
        (published,) = a.publish(new)
        equal("stored", published.outcome, "outcome")
        (found,) = of_key(b.look(), key)
        equal(
            (key, layer, new.id, published.order, None, (), new.body),
            (
                found.key,
                found.layer,
                found.id,
                found.order,
                found.through,
                found.ids,
                found.body,
            ),
            "the record",
        )
        assert isinstance(found.ends_in, float), "ends_in is no float"
        assert isinstance(found.age, float), "age is no float"
        assert 290 < found.ends_in <= 300, f"ends_in {found.ends_in}"
        assert 5 <= found.age < 15, f"age {found.age}"


def texts_come_back_as_they_were(clause: Clause) -> None:
    a, b = clause.session(), clause.session()
    key = name("Grüße/{a}:%s'\"\\ ☃ ") + "x" * 480
    body = '{"v": 1, "text": "\\u0000 ☃ \'\\" %s {}"}'.encode() + b" " * 2000 + b"\n"
    a.publish(Bench(key, "manual", name(), None, body))
    (found,) = of_key(b.look(), key)
    equal((body, None), (found.body, found.ends_in), "body and ends_in")


def a_look_finds_what_changed(clause: Clause) -> None:
    a, b = clause.session(), clause.session()
    one, two = name("groq/"), name("groq/")
    a.publish(bench(one))
    equal(1, len(of_key(b.look(), one)), "records of the first look")
    equal([], b.look(), "records of a look after which nothing was published")
    a.publish(bench(two))
    equal([two], [each.key for each in b.look()], "keys of the next look")


def a_new_session_finds_everything_in_pages(clause: Clause) -> None:
    a = clause.session()
    keys = [name("groq/") for _ in range(7)]
    a.publish(*(bench(key) for key in keys))
    found = [each.key for each in Session(clause.store).look(limit=2)]
    equal(keys, [key for key in found if key in keys], "keys, oldest first")


def a_look_returns_at_most_its_limit(clause: Clause) -> None:
    a = clause.session()
    keys = [name("groq/") for _ in range(3)]
    a.publish(*(bench(key) for key in keys))
    account = charge(name("account "), 0, None, a.now())
    a.settle(Settle(name(), (Entry(account.account, account.start, account.end, 5, 1, 0),)))
    names = [*keys, account.account]
    for limit in (1, 3):
        told: list[str] = []

        def note(seen: Changes, limit: int = limit, told: list[str] = told) -> None:
            size = len(seen.records) + len(seen.balances)
            assert size <= limit, f"{size} records and balances with limit={limit}"
            told += [str(each.key) for each in seen.records]
            told += [str(each.account) for each in seen.balances]

        Session(clause.store).look(limit=limit, each_page=note)
        found = [each for each in told if each in names]
        equal(names, found, f"what pages of {limit} tell, oldest first")


def what_is_over_is_not_told(clause: Clause) -> None:
    a, key = clause.session(), name("groq/")
    a.publish(bench(key, ends_in=MOMENT))
    pause()
    equal([], clause.everything(key), "records")


def a_newer_change_has_a_higher_order(clause: Clause) -> None:
    a, b, key = clause.session(), clause.session(), name("groq/")
    orders = [session.publish(bench(key))[0].order for session in (a, b, a, b)]
    equal(sorted(set(orders)), orders, "orders")
    a.order = 2**51
    (published,) = a.publish(bench(key))
    assert published.order > 2**51, "an order is not above that of the stamp"
    assert b.publish(bench(key))[0].order > published.order, "an order is not above the last one"


def the_same_bench_is_stored_once(clause: Clause) -> None:
    a, b, key = clause.session(), clause.session(), name("groq/")
    new = bench(key)
    (first,) = a.publish(new)
    equal([("known", first.order)], list(map(tuple, b.publish(new))), "a second time")
    equal(1, len(clause.everything(key)), "records")


def an_end_ends_what_was_seen_and_nothing_newer(clause: Clause) -> None:
    a, b, key = clause.session(), clause.session(), name("groq/")
    old, new = bench(key, ends_in=300.0), bench(key, ends_in=200.0)
    (seen,) = a.publish(old)
    b.publish(new)
    (ended,) = a.publish(end(key, seen.order))
    equal("stored", ended.outcome, "outcome of the end")
    found = clause.everything(key)
    equal([new.id], [each.id for each in found if each.through is None], "what is left")
    equal(
        [(seen.order, ended.order, None)],
        [(each.through, each.order, each.ends_in) for each in found if each.through is not None],
        "the end",
    )


def an_end_ends_one_layer_of_one_key(clause: Clause) -> None:
    a, key, other = clause.session(), name("groq/"), name("groq/")
    for each in (bench(key, "manual"), bench(key, "pause"), bench(other), bench(key)):
        (last,) = a.publish(each)
    a.publish(end(key, last.order))
    found = Session(clause.store).look()
    left = [each.layer for each in of_key(found, key) if each.through is None]
    equal(["manual", "pause"], sorted(map(str, left)), "layers that are left")
    equal(1, len(of_key(found, other)), "benches of the other key")


def an_end_by_id_needs_no_order(clause: Clause) -> None:
    a, b, key = clause.session(), clause.session(), name("groq/")
    one, two = bench(key, ends_in=300.0), bench(key, ends_in=200.0)
    b.publish(one, two)
    a.publish(end(key, 0, one.id))
    found = clause.everything(key)
    equal([two.id], [each.id for each in found if each.through is None], "what is left")
    equal([(one.id,)], [each.ids for each in found if each.through is not None], "ids of the end")


def the_latest_end_tells_the_ids_of_all(clause: Clause) -> None:
    a, key = clause.session(), name("groq/")
    b = clause.session()
    (first,) = a.publish(end(key, 5, "one"))
    (second,) = a.publish(end(key, 3, "two"))
    (found,) = of_key(b.look(), key)
    equal((second.order, 5), (found.order, found.through), "order and through")
    equal({"one", "two"}, set(ids(found.ids)), "ids")
    assert second.order > first.order, "orders of ends do not rise"


def ids(value: object) -> list[str]:
    """Return ids that a store is expected to answer."""
    assert isinstance(value, tuple), "ids are no tuple"
    return [str(each) for each in value]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # as it came


def what_has_ended_is_not_stored_again(clause: Clause) -> None:
    a, b, key = clause.session(), clause.session(), name("groq/")
    one, named, old = bench(key), bench(key), bench(key)
    (first,) = a.publish(one)
    b.publish(end(key, first.order, named.id))
    for late in (one, named, one._replace(order=first.order), old._replace(order=first.order - 1)):
        (published,) = a.publish(late)
        equal("ended", published.outcome, "outcome of a late copy")
    (published,) = a.publish(bench(key))
    equal("stored", published.outcome, "outcome of a new bench")


def the_longest_and_the_newest_stay(clause: Clause) -> None:
    a, b = clause.session(), clause.session()
    for layer in ("automatic", "pause"):
        key = name("groq/")
        long, needless, newest = (
            bench(key, layer, 300.0),
            bench(key, layer, 100.0),
            bench(key, layer, 200.0),
        )
        a.publish(long, needless)
        b.publish(newest)
        equal([long.id, newest.id], [each.id for each in clause.everything(key)], "benches")


def the_benches_of_a_key_are_bounded(clause: Clause) -> None:
    a, key = clause.session(), name("groq/")
    benches = [bench(key, ends_in=900.0 - each) for each in range(SAME_KEY + 4)]
    for each in benches:
        a.publish(each)
    found = [each.id for each in clause.everything(key)]
    assert len(found) <= SAME_KEY, f"{len(found)} benches of one key are kept"
    assert {benches[0].id, benches[-1].id} <= set(found), "the longest or the newest is gone"


def a_manual_bench_replaces_the_one_before(clause: Clause) -> None:
    a, b, key = clause.session(), clause.session(), name("groq/")
    long, short = bench(key, "manual", None), bench(key, "manual", 60.0)
    (first,) = a.publish(long)
    b.publish(short)
    equal([short.id], [each.id for each in clause.everything(key)], "benches")
    (copy,) = a.publish(long._replace(order=first.order))
    assert copy.outcome in ("known", "ended"), "a copy of the bench before was stored"
    (copy,) = a.publish(bench(key, "manual", None, order=first.order))
    equal("known", copy.outcome, "outcome of a copy of a lower order")


def a_manual_change_loses_to_one_that_it_had_not_seen(clause: Clause) -> None:
    a, b, key = clause.session(), clause.session(), name("groq/")
    (first,) = a.publish(bench(key, "manual", None, seen=0))
    equal("stored", first.outcome, "outcome of the first")
    (late,) = b.publish(bench(key, "manual", None, seen=first.order - 1))
    equal("superseded", late.outcome, "outcome of one that had not seen the bench")
    (ended,) = a.publish(end(key, first.order, layer="manual"))
    (late,) = b.publish(bench(key, "manual", None, seen=first.order))
    equal("superseded", late.outcome, "outcome of one that had not seen its end")
    (aware,) = b.publish(bench(key, "manual", None, seen=ended.order))
    equal("stored", aware.outcome, "outcome of one that has seen it")
    (blind,) = a.publish(bench(key, "manual", None))
    equal("stored", blind.outcome, "outcome of one that does not ask")


def a_copy_keeps_its_order(clause: Clause) -> None:
    a, b, key = clause.session(), clause.session(), name("groq/")
    b.look()
    long, short = bench(key, ends_in=300.0, order=1000), bench(key, ends_in=200.0, order=2000)
    equal(
        [("stored", 2000), ("stored", 1000)],
        [tuple(each) for each in a.publish(short, long)],
        "outcomes",
    )
    found = of_key(b.look(), key)
    equal(
        {(long.id, 1000), (short.id, 2000)},
        {(each.id, each.order) for each in found},
        "copies that the next look finds",
    )
    far = bench(name("groq/"), order=2**51 + 10**6)
    a.publish(far)
    assert b.publish(bench(far.key))[0].order > far.order, "an order is not above that of a copy"
    needless = bench(key, ends_in=100.0, order=1500)
    equal("known", a.publish(needless)[0].outcome, "outcome of a copy that is needless")


def a_copy_of_an_end_keeps_its_order(clause: Clause) -> None:
    a, b, key = clause.session(), clause.session(), name("groq/")
    (copy,) = a.publish(end(key, 1000, order=1001))
    equal(("stored", 1001), tuple(copy), "outcome")
    equal("known", a.publish(end(key, 1000, order=1001))[0].outcome, "outcome of a second copy")
    (found,) = of_key(b.look(), key)
    equal((1001, 1000), (found.order, found.through), "order and through")
    a.publish(end(key, 500, order=501))
    b.revision = 0
    (found,) = of_key(b.look(), key)
    equal((1001, 1000), (found.order, found.through), "order and through after an older copy")
    a.publish(end(key, 500, "one", order=501))
    (found,) = clause.everything(key)
    equal(
        (1001, 1000, ("one",)),
        (found.order, found.through, found.ids),
        "order, through and ids after an older copy with another id",
    )


# Probes.


def one_session_holds_a_place(clause: Clause) -> None:
    a, b, key = clause.session(), clause.session(), name("groq/")
    held = a.claim(Claim(key, 30.0))
    assert held.is_held, "the first claim is refused"
    refused = b.claim(Claim(key, 30.0))
    assert not refused.is_held, "a second session has the place"
    assert 20 < refused.ends_in <= 30, f"ends_in {refused.ends_in}"
    assert a.claim(Claim(key, 60.0)).ends_in > 50, "a renewal does not lengthen the lease"
    b.claim(Claim(key, None))
    assert not b.claim(Claim(key, 30.0)).is_held, "another session gave the place back"
    assert b.claim(Claim(name("groq/"), 30.0)).is_held, "another key has the same place"
    assert not a.claim(Claim(key, None)).is_held, "the place is held after it was given back"
    assert b.claim(Claim(key, 30.0)).is_held, "the place is not free after it was given back"


def a_place_is_free_when_its_lease_ends(clause: Clause) -> None:
    a, b, key = clause.session(), clause.session(), name("groq/")
    a.claim(Claim(key, MOMENT))
    pause()
    assert b.claim(Claim(key, 30.0)).is_held, "the place is not free"
    assert not a.claim(Claim(key, 30.0)).is_held, "the first session has it still"
    other = name("groq/")
    a.claim(Claim(other, MOMENT))
    pause()
    again = a.claim(Claim(other, MOMENT), again=True)
    equal((False, 0.0), tuple(again), "what a claim answers again when its lease is over")


# Waiting.


def a_wait_ends_with_its_time(clause: Clause) -> None:
    a = clause.session()
    began = time.monotonic()
    a.store.wait(a.revision, MOMENT)
    seconds = time.monotonic() - began
    assert seconds >= MOMENT * 0.5, f"a wait of {MOMENT} s took {seconds:.3f} s"


def a_wait_ends_when_something_is_published(clause: Clause) -> None:
    a, b = clause.session(), clause.session()
    b.publish(bench(name("groq/")))
    assert a.store.wait(a.revision, 10.0), "what was published before is not noticed"
    a.look()
    results: list[bool] = []
    thread = in_thread(lambda: results.append(a.store.wait(a.revision, 10.0)))
    writer = clause.session(clause.another())
    if writer.epoch != a.epoch:
        writer = b  # `make` gives data of their own
    key = name("groq/")
    writer.publish(bench(key))
    thread.join(5.0)
    equal([True], results, "results of the wait")
    equal([key], [each.key for each in a.look()], "what is found then")


def a_wait_ends_when_it_is_woken(clause: Clause) -> None:
    a = clause.session()
    read, write = socket.socketpair()
    with read, write:
        results: list[bool] = []
        thread = in_thread(lambda: results.append(a.store.wait(a.revision, 10.0, read)))
        write.send(b"!")
        thread.join(5.0)
        equal([False], results, "results of the wait")
        equal(b"!", read.recv(10), "what is left to read")


def a_wait_ends_when_the_store_is_closed(clause: Clause) -> None:
    a = clause.session()
    results: list[bool] = []
    thread = in_thread(lambda: results.append(a.store.wait(a.revision, 10.0)))
    until = time.monotonic() + 5.0
    while thread.is_alive() and time.monotonic() < until:  # it may not have begun to wait
        a.store.close()
        thread.join(0.01)
    equal([False], results, "results of the wait")


# Sessions.


def a_peer_is_counted(clause: Clause) -> None:
    a = clause.session()
    assert a.seen is not None
    before = a.seen.peers
    assert before >= 1, f"{before} peers"
    b = clause.session()
    assert b.seen is not None
    equal(before + 1, b.seen.peers, "peers, for the second session")
    a.look()
    equal(before + 1, a.seen.peers, "peers, for the first session")


def a_store_may_be_closed_and_used_again(clause: Clause) -> None:
    a, key = clause.session(), name("groq/")
    a.publish(bench(key))
    a.store.close()
    a.store.close()
    a.revision = 0
    equal(1, len(of_key(a.look(), key)), "records afterwards")


def stores_share_their_data(clause: Clause) -> None:
    a = clause.session()
    b = clause.session(clause.another())
    if a.epoch != b.epoch:
        return  # `make` gives data of their own
    key = name("groq/")
    (published,) = a.publish(bench(key))
    (found,) = of_key(b.look(), key)
    equal(published.order, whole(found.order), "order")


CLAUSES = (
    a_store_has_the_methods_and_attributes_of_the_protocol,
    a_bench_is_found_by_another_session,
    texts_come_back_as_they_were,
    a_look_finds_what_changed,
    a_new_session_finds_everything_in_pages,
    a_look_returns_at_most_its_limit,
    what_is_over_is_not_told,
    a_newer_change_has_a_higher_order,
    the_same_bench_is_stored_once,
    an_end_ends_what_was_seen_and_nothing_newer,
    an_end_ends_one_layer_of_one_key,
    an_end_by_id_needs_no_order,
    the_latest_end_tells_the_ids_of_all,
    what_has_ended_is_not_stored_again,
    the_longest_and_the_newest_stay,
    the_benches_of_a_key_are_bounded,
    a_manual_bench_replaces_the_one_before,
    a_manual_change_loses_to_one_that_it_had_not_seen,
    a_copy_keeps_its_order,
    a_copy_of_an_end_keeps_its_order,
    one_session_holds_a_place,
    a_place_is_free_when_its_lease_ends,
    a_wait_ends_with_its_time,
    a_wait_ends_when_something_is_published,
    a_wait_ends_when_it_is_woken,
    a_wait_ends_when_the_store_is_closed,
    a_peer_is_counted,
    a_store_may_be_closed_and_used_again,
    stores_share_their_data,
)
