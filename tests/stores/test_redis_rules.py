"""The rules of `RedisStore` in Lua are those of all other stores in Python."""

from __future__ import annotations

import random
from typing import Any

import pytest

from resilient_llm._values.sharing import (
    LAYERS,
    Balance,
    Bench,
    Charge,
    Claim,
    End,
    Entry,
    Reserve,
    Settle,
    Take,
)
from resilient_llm.stores import Store
from resilient_llm.stores.redis import RedisStore
from resilient_llm.testing import MemoryStore
from resilient_llm.testing._contract._session import Session
from tests.support.valkey import Server

KEYS = ("groq", "groq/a")
ACCOUNTS = ("one", "two", "three")
AMOUNTS = (0, 1, 7, 40, 2**53 + 1, 10**15 - 1, 10**15, 10**24 + 3)


class Side:
    """One of the two stores, with two sessions in it and the orders that it has given."""

    def __init__(self, store: Store) -> None:
        self.sessions = [Session(store), Session(store)]
        for each in self.sessions:
            each.look()
        self.orders: list[int] = [0]

    def order(self, which: int | None) -> Any:
        return None if which is None else self.orders[which]

    def known(self, order: object) -> object:
        return next((at for at, each in enumerate(self.orders) if each == order), order)


def _publish(rng: random.Random, sides: list[Side], step: int, who: int, again: bool) -> list[Any]:
    key, layer = rng.choice(KEYS), rng.choice(LAYERS)
    choices = range(len(sides[0].orders))
    which = rng.choice(choices)
    if rng.random() < 0.7:
        lengths = [50.0, 100.0, 200.0, 300.0]
        ends_in = None if layer == "manual" and rng.random() < 0.2 else rng.choice(lengths)
        bench_id = f"b{rng.randrange(max(0, step - 8), step + 1)}"
        order = which if rng.random() < 0.3 else 0
        seen = rng.choice((None, None, rng.choice(choices)))
        changes: list[Any] = [
            Bench(key, layer, bench_id, ends_in, b"x", 0.0, side.order(order), side.order(seen))
            for side in sides
        ]
    else:
        named = {f"b{rng.randrange(max(0, step - 8), step + 1)}" for _ in range(rng.randrange(3))}
        ids = tuple(sorted(named))
        order = rng.choice(choices) if rng.random() < 0.3 else 0
        changes = [
            End(key, layer, side.order(which), ids, b"x", 0.0, side.order(order)) for side in sides
        ]
    balances: tuple[Balance, ...] = ()
    if rng.random() < 0.1:
        balances = (
            Balance(rng.choice(ACCOUNTS), 0, None, rng.choice(AMOUNTS), 3, rng.randrange(5), 1),
        )
    found: list[Any] = []
    for side, change in zip(sides, changes, strict=True):
        (done,) = side.sessions[who].publish(change, balances=balances, again=again)
        if done.order and done.order not in side.orders:
            side.orders.append(done.order)
        found.append((done.outcome, side.known(done.order)))
    return found


def _money(rng: random.Random, sides: list[Side], who: int, again: bool) -> list[Any]:
    # A look books what has ended, so both have one.
    now = int(min([side.sessions[0].now() for side in sides]))
    # Periods of ten thousand seconds end at most once while this runs.
    periods: tuple[tuple[int, int | None], ...] = (
        (0, None),
        (now - now % 10_000 - 10_000, now - now % 10_000 + 10_000),
        (now - now % 10_000, now - now % 10_000 + 20_000),
        (0, 100),
    )
    reserve_id = f"r{rng.randrange(5)}"
    accounts = rng.sample(ACCOUNTS, rng.randrange(1, 3))
    takes = tuple(
        Take("bucket", rng.choice((0, 1, 3, 9)), 1000.0, 8) for _ in range(rng.randrange(2))
    )
    if rng.random() < 0.6:
        charges = tuple(
            Charge(
                each,
                *rng.choice(periods),
                rng.choice(AMOUNTS),
                rng.choice((None, 50, 10**25)),
                rng.choice(AMOUNTS),
            )
            for each in accounts
        )
        wanted = Reserve(reserve_id, charges, takes, rng.random() < 0.2)
        lasts = rng.choice((1e-6, 30.0, 30.0))
        return [
            [
                (done.outcome, done.balances, done.retry_after and round(done.retry_after, -2))
                for done in side.sessions[who].reserve(wanted, lasts=lasts, again=again)
            ]
            for side in sides
        ]
    entries = tuple(
        Entry(each, *rng.choice(periods), rng.choice(AMOUNTS), 1, rng.randrange(2))
        for each in accounts
    )
    takes = tuple(each._replace(amount=each.amount - 4) for each in takes)
    settle = Settle(reserve_id, entries, takes)
    return [side.sessions[who].settle(settle, again=again) for side in sides]


def _claim(rng: random.Random, sides: list[Side], who: int, again: bool) -> list[Any]:
    claim = Claim(rng.choice(KEYS), rng.choice((None, 1e-6, 30.0, 300.0)))
    return [
        (done.is_held, round(done.ends_in, -1))
        for done in (side.sessions[who].claim(claim, again=again) for side in sides)
    ]


def _everything(side: Side) -> Any:
    session = Session(side.sessions[0].store)
    records = session.look(limit=1_000_000)
    assert session.seen is not None
    return (
        [
            (
                *each[:3],
                side.known(each.order),
                side.known(each.through),
                each.ids,
                round(each.ends_in, -1) if isinstance(each.ends_in, float) else None,
                each.body,
            )
            for each in records
        ],
        list(session.seen.balances),
    )


@pytest.mark.parametrize("seed", range(12))
def test_both_do_the_same(server: Server, seed: int) -> None:
    """Whatever is asked, in whatever order, the answers and the data are the same."""
    rng = random.Random(seed)
    sides = [Side(MemoryStore()), Side(RedisStore.from_url(server.url))]
    for step in range(150):
        who, again = rng.randrange(2), rng.random() < 0.1
        again = again and sides[0].sessions[who].number > 0
        what = rng.random()
        if what < 0.5:
            one, two = _publish(rng, sides, step, who, again)
        elif what < 0.9:
            one, two = _money(rng, sides, who, again)
        else:
            one, two = _claim(rng, sides, who, again)
        assert one == two, f"step {step}"
        if step % 10 == 0:
            memory, redis = map(_everything, sides)
            assert memory == redis, f"data after step {step}"
    sides[1].sessions[0].store.close()
