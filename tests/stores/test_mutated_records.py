"""10,000 mutated records in a real server and a real file: dropped and counted, and nothing else.

Anyone who can write to a store can write anything. What a mirror reads of it raises nothing, fails
no look, and benches only what the contract allows. The same mutations come in every run.
"""

from __future__ import annotations

import json
import math
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from resilient_llm._core.sharing.records import SharedBench, SharedEnd, bench_body, end_body, read
from resilient_llm._core.sharing.steps import ApplyBench, ApplyEnd
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.sharing import LAYERS, MOST_ORDER, Bench, End, RawRecord
from resilient_llm._values.target import normal_key
from resilient_llm.stores import Store
from resilient_llm.stores.redis import RedisStore
from resilient_llm.stores.sqlite import SqliteStore
from resilient_llm.testing._contract._session import Session, name
from tests.support.mirrors import Clock, Process
from tests.support.valkey import Server

COUNT = 10_000
PAGE = 1000
ROWS = "resilient_llm:{resilient_llm}:rows"
CONTROL = "openai/control"
KINDS = {"manual": None, "automatic": ErrorKind.TRANSIENT, "pause": ErrorKind.RATE_LIMITED}
NASTY: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**53,
    2**63 - 1,
    1e308,
    -1e308,
    1e-300,
    "",
    "x" * 600,
    "\u202e",
    "a\x00b",
    "NaN",
    "Infinity",
    "manual",
    b"",
    b"\xff\xfe",
    b"[" * 3000,
    b'{"v":1}',
    b'{"v":1,"length":1e999}',
)


@pytest.fixture
def redis_store(server: Server) -> Iterator[RedisStore]:
    pytest.importorskip("redis")
    store = RedisStore.from_url(server.url)
    yield store
    store.close()


def records(rng: random.Random, count: int) -> list[Bench | End]:
    """Return benches and ends of all layers as the library publishes them."""
    found: list[Bench | End] = []
    for number in range(count):
        layer = LAYERS[number % 3]
        key, new = f"tenant-{number}/llama", f"{rng.getrandbits(64):016x}"
        if rng.random() < 0.25:
            end = SharedEnd(key, layer, 0, 5, (new,), 0.0, "manual", "alice", "host:1")
            found.append(End(key, layer, 5, end.ids, end_body(end)))
            continue
        bench = SharedBench(
            key=key,
            layer=layer,
            id=new,
            order=0,
            ends_in=300.0,
            length=300.0,
            age=0.0,
            kind=KINDS[layer],
            reason="timeout",
            source="host:1",
        )
        found.append(Bench(key, layer, bench.id, 300.0, bench_body(bench)))
    return found


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return bytes of which some were changed, cut out or doubled."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            data = data[:at] + rng.randbytes(1) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[at + rng.randint(1, 8) :]
        elif kind == 2:
            data = data[:at] + data[max(at - 9, 0) : at] + data[at:]
        else:
            data = (
                data[:at]
                + rng.choice((b'"', b"9", b"-", b"\x00", b"\xc3", b"e9", b"}"))
                + data[at:]
            )
    return data


def changed(rng: random.Random, body: bytes) -> bytes:
    """Return a body of which bytes were changed, or one value."""
    if rng.random() < 0.5:
        return mutated(rng, body)
    fields = json.loads(body)
    value = rng.choice([each for each in NASTY if not isinstance(each, bytes)])
    fields[rng.choice(sorted(fields))] = value
    return json.dumps(fields).encode()


def publish(store: Store, given: list[Bench | End]) -> Session:
    """Have a session publish records, in steps of a thousand."""
    session = Session(store)
    session.look()
    for at in range(0, len(given), PAGE):
        session.publish(*given[at : at + PAGE])
    return session


def everything(store: Store) -> list[RawRecord]:
    return Session(store).look()


def control() -> Bench:
    """Return a bench in which nothing is wrong."""
    (bench,) = [each for each in records(random.Random(2), 1) if isinstance(each, Bench)]
    return bench._replace(key=CONTROL, id=name())


def look_at_all(store: Store) -> tuple[Process, int]:
    """Let a mirror read everything; return it, and how many records it has to refuse."""
    refused = sum(read(each) is None for each in everything(store))
    process = Process(Clock(), store)
    process.run()
    return process, refused


def check(process: Process, refused: int) -> None:
    """Fail if a mirror has stumbled over what it read, or done what the contract forbids."""
    status = process.mirror.status(process.clock.now)
    assert status.last_error is None
    assert status.connected
    assert refused <= status.rejected
    for effect in process.effects:
        if isinstance(effect, ApplyBench):
            bench = effect.bench
            assert normal_key(bench.key) == bench.key
            assert len(bench.key) <= 512
            assert 1 <= bench.order <= MOST_ORDER
            assert max(len(bench.reason), len(bench.by), len(bench.source)) <= 200
            assert bench.kind is not ErrorKind.AUTH_DEAD
            if bench.layer == "manual":
                assert bench.kind is None
                assert effect.ends_in is None or effect.ends_in > 0
            else:
                assert effect.ends_in is not None
                assert 0 < effect.ends_in <= 3600.0
            assert effect.ends_in is None or math.isfinite(effect.ends_in)
        else:
            assert isinstance(effect, ApplyEnd)
            assert normal_key(effect.key) == effect.key
    assert any(key == CONTROL for key, _ in process.blocked())


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_mutated_bodies(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Whoever uses the store as it is meant, with bodies that no release writes."""
    rng = random.Random(16)
    store: Store = (
        SqliteStore(tmp_path / "state.db")
        if kind == "sqlite"
        else request.getfixturevalue("redis_store")
    )
    given = [each._replace(body=changed(rng, each.body)) for each in records(rng, COUNT)]
    publish(store, [*given, control()])

    process, refused = look_at_all(store)

    assert COUNT / 4 < refused < COUNT
    assert refused == process.mirror.status(0.0).rejected
    check(process, refused)
    store.close()


def test_mutated_rows_of_a_server(server: Server, redis_store: RedisStore) -> None:
    """What is written by hand into the hash, where each row is packed."""
    rng = random.Random(17)
    session = publish(redis_store, [*records(rng, COUNT), control()])
    with server.client() as client:
        rows = client.hgetall(ROWS)
        fields = [each for each in sorted(rows) if each[:1] in (b"b", b"e")]
        fields = [each for each in fields if not each.endswith(CONTROL.encode())]
        assert COUNT == len(fields)
        for at in range(0, COUNT, PAGE):
            new = {each: mutated(rng, rows[each]) for each in fields[at : at + PAGE]}
            client.hset(ROWS, mapping=new)

    process, refused = look_at_all(redis_store)

    assert COUNT / 4 < refused < COUNT
    check(process, refused)
    session.publish(control())


def test_mutated_rows_of_a_file(tmp_path: Path) -> None:
    """What is written by hand into the tables, whose columns take any type."""
    rng = random.Random(18)
    path = tmp_path / "state.db"
    store = SqliteStore(path)
    session = publish(store, [*records(rng, COUNT), control()])
    connection = sqlite3.connect(path)
    columns = {
        "benches": ("key", "layer", "id", "place", "began_at", "ends_at", "body"),
        "ends": ("key", "layer", "place", "through", "ids", "ended_at", "body"),
    }
    for table, names in columns.items():
        query = f"SELECT revision, body FROM {table} WHERE key <> ?"
        for revision, body in connection.execute(query, (CONTROL,)).fetchall():
            column = rng.choice(names)
            value = changed(rng, body) if column == "body" else rng.choice(NASTY)
            connection.execute(
                f"UPDATE OR IGNORE {table} SET {column} = ? WHERE ns = 1 AND revision = ?",
                (value, revision),
            )
    connection.commit()
    connection.close()

    process, refused = look_at_all(store)

    assert COUNT / 4 < refused < COUNT
    check(process, refused)
    session.publish(control())
    store.close()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@seed(16)
@settings(
    max_examples=25,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.tuples(st.sampled_from(sorted(KINDS)), anything, anything), max_size=20))
def test_bodies_of_any_shape(redis_store: RedisStore, given: list[tuple[Any, Any, Any]]) -> None:
    """JSON of any shape, and any value in any field."""
    wanted: list[Bench | End] = [control()]
    for layer, shape, value in given:
        (base,) = [each for each in records(random.Random(2), 1) if isinstance(each, Bench)]
        fields = json.loads(base.body)
        fields[sorted(fields)[len(wanted) % len(fields)]] = value
        for body in (shape, fields):
            text = json.dumps(body).encode()
            wanted.append(base._replace(key=name("groq/"), layer=layer, id=name(), body=text))
    publish(redis_store, wanted)

    check(*look_at_all(redis_store))
