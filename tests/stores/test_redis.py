"""`RedisStore` on a real server: what is wrong with it, what is gone from it, and who connects."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient_llm._core.sharing.records import read
from resilient_llm._values.sharing import (
    Charge,
    Claim,
    DataLostError,
    Entry,
    Reserve,
    Settle,
    Stamp,
    StoreError,
    Take,
)
from resilient_llm.stores._redis_tables import KEYS
from resilient_llm.stores.redis import RedisStore
from resilient_llm.testing._contract._session import Session, bench, charge, end, name
from tests.support.valkey import Server, free_port

redis = pytest.importorskip("redis")

BASE = "resilient_llm:{resilient_llm}:"
STEPS: tuple[Callable[[Session], object], ...] = (
    lambda session: session.publish(bench("groq"), end("groq", 5, "a")),
    lambda session: session.claim(Claim("groq", 30.0)),
    lambda session: session.reserve(
        Reserve(name(), (Charge("one", 0, None, 5, 100),), (Take("bucket", 1, 1.0, 9),))
    ),
    lambda session: session.settle(Settle(name(), (Entry("one", 0, None, 5, 1, 0),))),
)


@pytest.fixture
def own_server() -> Iterator[Callable[..., Server]]:
    """Start a server with options of its own, which ends with the test."""
    servers: list[Server] = []

    def start(*options: str, **more: Any) -> Server:
        servers.append(Server(*options, **more))
        return servers[-1]

    yield start
    for each in servers:
        each.close()


@pytest.fixture
def opened(server: Server) -> Iterator[Callable[..., Session]]:
    """Return a session that has read everything; its store is closed at the end."""
    stores: list[RedisStore] = []

    def open_it(url: str = server.url, **more: Any) -> Session:
        stores.append(RedisStore.from_url(url, **more))
        session = Session(stores[-1])
        session.look()
        return session

    yield open_it
    for each in stores:
        each.close()


def reason_of(step: Callable[[], object]) -> str:
    """Return why a step fails, or an empty text."""
    try:
        step()
    except StoreError as error:
        return error.reason
    return ""


def looked(session: Session, *, timeout: float = 5.0) -> Any:
    """Return what a look finds, without following it."""
    stamp = Stamp(session.id, 0, session.epoch, session.revision, session.answered, session.order)
    return session.store.changes(stamp, session.revision, timeout=timeout)


# What is in the server.


def test_all_keys_lie_in_one_slot(server: Server, opened: Callable[..., Session]) -> None:
    """The namespace is the hash tag of a fixed number of keys, none of which expires."""
    from redis.crc import key_slot

    session = opened(namespace="shop-prod")
    for step in STEPS:
        step(session)

    with server.client() as client:
        keys = client.keys("*")
        assert sorted(f"resilient_llm:{{shop-prod}}:{each}".encode() for each in KEYS) == sorted(
            keys
        )
        assert 1 == len({key_slot(each) for each in keys})
        assert {-1} == {client.ttl(each) for each in keys}


def test_namespaces_are_apart(opened: Callable[..., Session]) -> None:
    """Two of them on one server share nothing."""
    a, b = opened(namespace="a"), opened(namespace="b")

    a.publish(bench("groq"))

    assert [] == b.look()
    assert a.epoch != b.epoch


def test_a_look_costs_what_has_changed(server: Server, opened: Callable[..., Session]) -> None:
    """Of 10,000 keys, a look reads only those that are new."""
    a, b = opened(), opened()
    for start in range(0, 10_000, 1000):
        a.publish(*(bench(f"groq/{each}") for each in range(start, start + 1000)))
    assert 10_000 == len(b.look())
    a.publish(bench("groq/new"))

    with server.client() as client:
        client.config_resetstat()
        assert ["groq/new"] == [each.key for each in b.look()]
        calls = sum(each["calls"] for each in client.info("commandstats").values())

    assert calls < 40


# Loss.


def test_a_flush_is_a_loss(server: Server, opened: Callable[..., Session]) -> None:
    """Whoever had seen the data learns that it is gone, whatever it does next."""
    sessions = [opened() for _ in STEPS]
    looking = opened()
    sessions[0].publish(bench("groq"))
    with server.client() as client:
        client.flushall()

    for session, step in zip(sessions, STEPS, strict=True):
        with pytest.raises(DataLostError):
            step(session)
    seen = looked(looking)
    assert (True, True, ()) == (seen.is_lost, seen.is_all, seen.records)
    assert seen.epoch != looking.epoch


def test_a_wait_notices_a_flush(server: Server, opened: Callable[..., Session]) -> None:
    """It does not wait for a message that nobody will send."""
    session = opened()
    with server.client() as client:
        client.flushall()

    assert session.store.wait(session.revision, 10.0)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [None, "text", "hash", "set"])
def test_one_key_that_is_gone_is_a_loss(
    server: Server, opened: Callable[..., Session], key: str, value: str | None
) -> None:
    """An evicted key, or another value in its place, begins a new epoch; the rest stays whole."""
    a, b = opened(), opened()
    a.publish(bench("groq", "manual", None))
    wanted = Reserve(name(), (Charge("one", 0, None, 40, 100),))
    a.reserve(wanted)
    a.settle(Settle(name(), (Entry("one", 0, None, 7, 1, 0),)))
    with server.client() as client:
        client.delete(BASE + key)
        if value == "text":
            client.set(BASE + key, "garbage")
        elif value == "hash":
            client.hset(BASE + key, "garbage", "garbage")
        elif value == "set":
            client.zadd(BASE + key, {"garbage": 5})

    with pytest.raises(DataLostError):
        a.publish(bench("groq"))
    assert looked(b).is_lost
    a.look()
    for step in STEPS:
        step(a)
    (renewed,) = a.reserve(wanted._replace(is_renewal=True))
    # What a living process renews is reserved once, whichever key was gone.
    assert 40 + 5 == renewed.balances[0].reserved
    assert (5 if key == "rows" else 12) == renewed.balances[0].spent
    assert (key != "rows") == any(
        each.layer == "manual" for each in Session(a.store).look() if each.key == "groq"
    )
    assert not looked(a).is_lost


def test_spending_survives_a_crash(own_server: Callable[..., Server]) -> None:
    """With an append-only file that is always written, what was answered is there."""
    server = own_server("--appendonly", "yes", "--appendfsync", "always")
    store = RedisStore.from_url(server.url)
    session = Session(store)
    session.look()
    session.settle(Settle(name(), (Entry("one", 0, None, 10**24 + 1, 1, 0),)))

    server.kill()
    server.start()

    (reserved,) = session.reserve(Reserve(name(), (Charge("one", 0, None, 0, None),)))
    assert 10**24 + 1 == reserved.balances[0].spent
    store.close()


def test_an_append_only_file_may_be_switched_on(
    server: Server, opened: Callable[..., Session]
) -> None:
    """The data is rewritten meanwhile, and nothing is lost."""
    session = opened()
    session.publish(bench("groq"))

    with server.client() as client:
        client.config_set("appendonly", "yes")
        session.publish(bench("groq/b"))
        client.config_set("appendonly", "no")

    assert {"groq", "groq/b"} == {each.key for each in Session(session.store).look()}


# A server that is out of order.


def test_a_server_that_was_restarted(own_server: Callable[..., Server]) -> None:
    """It is unreachable while it is down, and empty afterwards."""
    server = own_server()
    store = RedisStore.from_url(server.url)
    session = Session(store)
    session.look()
    session.publish(bench("groq"))

    server.kill()
    assert "unreachable" == reason_of(lambda: session.publish(bench("groq")))
    assert "unreachable" == reason_of(lambda: looked(session))
    assert "unreachable" == reason_of(lambda: store.wait(session.revision, 5.0))
    server.start()

    assert looked(session).is_lost
    session.look()
    session.publish(bench("groq"))
    store.close()


def test_a_connection_that_was_cut_while_idle(
    server: Server, opened: Callable[..., Session]
) -> None:
    """The step is sent again on a new connection, and counts once."""
    session = opened()
    wanted = Reserve(name(), (Charge("one", 0, None, 40, 100),))
    with server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)

    (reserved,) = session.reserve(wanted)

    assert 40 == reserved.balances[0].reserved


def test_a_wait_that_is_cut_off_asks_for_a_look(own_server: Callable[..., Server]) -> None:
    """The look finds out why."""
    server = own_server()
    store = RedisStore.from_url(server.url)
    session = Session(store)
    session.look()
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(store.wait(session.revision, 20.0)))
    thread.start()
    with server.client() as client:
        until = time.monotonic() + 5.0
        while not client.pubsub_channels() and time.monotonic() < until:
            time.sleep(0.01)
    server.kill()
    thread.join(10.0)

    assert [True] == found
    store.close()


def test_a_server_that_hangs_costs_the_limit(own_server: Callable[..., Server]) -> None:
    """No step waits much longer than it is told, and no late answer is taken for another one."""
    server = own_server()
    store = RedisStore.from_url(server.url)
    session = Session(store)
    session.look()
    server.signal(signal.SIGSTOP)
    try:
        for step in (
            lambda: looked(session, timeout=0.2),  # on a connection that is open
            lambda: looked(session, timeout=0.2),  # on a new one
            lambda: store.wait(session.revision, 60.0),
        ):
            began = time.monotonic()
            assert "timeout" == reason_of(step)
            assert time.monotonic() - began < 5.0
    finally:
        server.signal(signal.SIGCONT)

    session.publish(bench("groq"))
    assert ["groq"] == [each.key for each in session.look()]
    store.close()


def test_a_full_server_can_be_read(own_server: Callable[..., Server]) -> None:
    """Nothing of a step is done then, and looks go on."""
    server = own_server()
    store = RedisStore.from_url(server.url)
    session = Session(store)
    session.look()
    session.publish(bench("groq"))
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        before = {each: client.dump(BASE + each) for each in KEYS}

        assert ["full"] * 4 == [reason_of(lambda each=each: each(session)) for each in STEPS]
        assert ["groq"] == [each.key for each in session.look()]
        assert ["groq"] == [each.key for each in Session(store).look()]

        assert before == {each: client.dump(BASE + each) for each in KEYS}
        client.config_set("maxmemory", 0)
    session.publish(bench("groq/b"))
    store.close()


def test_a_replica_can_be_read(own_server: Callable[..., Server]) -> None:
    """It refuses steps as read-only, until it is promoted."""
    first = own_server(port=free_port())
    store = RedisStore.from_url(first.url)
    session = Session(store)
    session.look()
    session.publish(bench("groq"))
    second = own_server()
    with second.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", first.port)
        until = time.monotonic() + 10.0
        while not client.exists(BASE + "meta") and time.monotonic() < until:
            time.sleep(0.02)
        replica = RedisStore.from_url(second.url)
        reading = Session(replica)

        assert ["groq"] == [each.key for each in reading.look()]
        assert ["read_only"] * 4 == [reason_of(lambda each=each: each(reading)) for each in STEPS]
        assert ["groq"] == [each.key for each in Session(replica).look()]

        client.execute_command("REPLICAOF", "NO", "ONE")
    reading.publish(bench("groq/b"))
    assert not looked(reading).is_lost
    store.close()
    replica.close()


def test_a_wrong_password(own_server: Callable[..., Server]) -> None:
    """The reason is told, and the password is not."""
    server = own_server("--requirepass", "right")
    good = RedisStore.from_url(f"{server.url}?password=right")
    Session(good).look()
    for url in (server.url, f"{server.url}?password=wrong-one"):
        store = RedisStore.from_url(url)
        with pytest.raises(StoreError) as caught:
            Session(store).look()
        assert "auth" == caught.value.reason
        assert "wrong-one" not in f"{caught.value!r} {caught.value.type_name} {store!r}"
        assert caught.value.__suppress_context__
    good.close()


def test_a_user_who_may_not_listen_reads(server: Server, opened: Callable[..., Session]) -> None:
    """Without the right to use channels, benches arrive all the same."""
    with server.client() as client:
        client.acl_setuser(
            "deaf", enabled=True, nopass=True, keys=["resilient_llm:*"], categories=["+@all"]
        )
        try:
            deaf = opened(f"unix://deaf:x@{server.socket}")
            other = opened()
            assert not deaf.store.wait(deaf.revision, 0.01)
            other.publish(bench("groq"))
            assert deaf.store.wait(deaf.revision, 10.0)
            deaf.publish(bench("groq/b"))
            assert {"groq", "groq/b"} == {each.key for each in other.look()}
        finally:
            client.acl_deluser("deaf")


def test_data_of_a_later_release_is_left_alone(
    server: Server, opened: Callable[..., Session]
) -> None:
    """Nothing reads or writes it."""
    session = opened()
    with server.client() as client:
        client.hset(BASE + "meta", "version", 2)
        before = {each: client.dump(BASE + each) for each in KEYS}

        assert ["newer_schema"] * 4 == [
            reason_of(lambda each=each: each(session)) for each in STEPS
        ]
        assert "newer_schema" == reason_of(lambda: looked(session))

        assert before == {each: client.dump(BASE + each) for each in KEYS}


# What anyone may have written.


GARBAGE = (b"", b"garbage", b"\x93\x01\x02\x03", b"\xc0", b"9" * 400, b"nan", b"inf", b"-1e308")


@pytest.mark.parametrize("value", GARBAGE)
def test_garbage_in_a_row_breaks_nothing(
    server: Server, opened: Callable[..., Session], value: bytes
) -> None:
    """Steps go on over whatever is written by hand, and readers can count what they refuse."""
    session = opened()
    with server.client() as client:
        for at in range(20):
            client.flushall()
            session.look()
            fields = filled(session, client)
            if at >= len(fields):
                break
            client.hset(BASE + "rows", fields[at], value)
            found = Session(session.store)
            refused = [each for each in found.look() if each.key is None]
            assert [None] * len(refused) == [read(each) for each in refused]
            assert (fields[at][:1] in (b"a", b"b", b"e")) == (len(refused) == 1)
            works(found)


def filled(session: Session, client: Any) -> list[bytes]:
    """Have a session write rows of all kinds; return their fields."""
    session.reserve(Reserve("held", (charge("one", 40, 100, session.now()),)))
    for step in STEPS:
        step(session)
    session.publish(bench("groq/a"))
    return [each for each in sorted(client.hkeys(BASE + "rows")) if each]


def works(session: Session) -> None:
    """Fail if a session cannot do every step twice, and read what it has done."""
    for _ in range(2):
        session.look()
        for step in STEPS:
            step(session)
    session.reserve(Reserve("held", (charge("one", 40, 100, session.now()),), is_renewal=True))
    assert {"groq"} <= {each.key for each in Session(session.store).look()}


@pytest.mark.parametrize("seed", range(8))
def test_garbage_everywhere_breaks_nothing(
    server: Server, opened: Callable[..., Session], seed: int
) -> None:
    """So it is with many spoilt rows at once, and in the sorted sets; also when they are lost."""
    rng = random.Random(seed)
    a = opened()
    with server.client() as client:
        for field in filled(a, client):
            value = client.hget(BASE + "rows", field)
            cut = rng.randrange(len(value))
            if rng.random() < 0.7:
                spoilt = value[:cut] + rng.randbytes(1) + value[cut + 1 :]
                client.hset(BASE + "rows", field, rng.choice((*GARBAGE, spoilt, value[:cut])))
        client.zadd(BASE + "order", {"?": a.revision - 1, "bgone": a.revision - 2})
        client.hset(BASE + "rows", "?", "garbage")
        for each in ("order", "due", "old", "held", "seen"):
            client.zadd(BASE + each, {"r": 1, "": 2, "x" * 50: 3, "far": 1e308})

        found = Session(a.store)
        assert None in [each.key for each in found.look()]
        works(found)
        client.delete(BASE + rng.choice(("meta", "order", "due", "old", "held", "seen")))
        found.look()
        works(found)


@pytest.mark.parametrize("field", ["version", "epoch", "revision", "published", "forgot_at"])
@pytest.mark.parametrize("value", ["", "garbage", "nan", "1e300", "-5", "x" * 100])
def test_garbage_in_the_meta_data_begins_a_new_epoch_at_most(
    server: Server, opened: Callable[..., Session], field: str, value: str
) -> None:
    """A number that nobody could count on from would stop everybody."""
    if (field, value) == ("version", "1e300"):
        return  # a later release
    a = opened()
    a.publish(bench("groq"))
    with server.client() as client:
        client.hset(BASE + "meta", field, value)

    a.look()
    assert not a.store.wait(a.revision, 0.01)
    for step in STEPS:
        step(a)
    b = Session(a.store)
    assert "groq" in {each.key for each in b.look()}
    a.publish(bench("groq/b"))
    assert ["groq/b"] == [each.key for each in b.look()]


def test_a_row_of_a_revision_that_nobody_reaches(
    server: Server, opened: Callable[..., Session]
) -> None:
    """It does not push up the revision of all when the data is put in order after a loss."""
    a = opened()
    a.publish(bench("groq"))
    pack = """
        local row = cmsgpack.pack({'a', 'pause', 'x', 5, 1e300, 1, false, ''})
        return redis.call('HSET', KEYS[1], 'b1:x', row)
    """
    with server.client() as client:
        client.eval(pack, 1, BASE + "rows")
        client.delete(BASE + "order")

    a.look()
    (published,) = a.publish(bench("groq/b"))
    assert published.order < 2**52
    assert ["groq/b"] == [each.key for each in a.look()]
    assert not looked(a).is_lost


def test_a_message_is_only_a_hint(server: Server, opened: Callable[..., Session]) -> None:
    """Garbage in the channel costs a look."""
    session = opened()
    store = session.store
    assert not store.wait(session.revision, 0.01)

    with server.client() as client:
        client.publish(BASE + "published", b"\xff garbage")
        client.publish(BASE + "published", "nan")

    assert store.wait(session.revision, 5.0)
    assert [] == session.look()


# Forks.


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_child_neither_uses_nor_closes_what_its_parent_has(server: Server) -> None:
    """Both go on: the child with connections of its own, the parent with those that it had."""
    script = f"""
        import os, time
        from resilient_llm.stores.redis import RedisStore
        from resilient_llm.testing._contract._session import Session, bench

        store = RedisStore.from_url({server.url!r})
        session = Session(store)
        session.look()
        store.wait(session.revision, 0.01)

        def ids():
            return [
                link.call([b"CLIENT", b"ID"], time.monotonic() + 5) if link is store._link else link.socket.fileno()
                for link in (store._link, store._listener)
            ]

        before = ids()
        child = os.fork()
        if child == 0:
            own = Session(store)
            own.look()
            own.publish(bench("groq"))
            assert store._link.call([b"CLIENT", b"ID"], time.monotonic() + 5) != before[0]
            store.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert store.wait(session.revision, 5.0)
        assert ["groq"] == [each.key for each in session.look()]
        assert ids() == before
        print("fine")
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ("fine\n", "") == (done.stdout, done.stderr)
