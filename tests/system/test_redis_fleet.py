"""`RedisStore` on several servers of Debian: failovers that lose data, and slots that move."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient_llm._values.sharing import Entry, Settle
from resilient_llm.stores.redis import RedisStore
from resilient_llm.testing import store_contract
from resilient_llm.testing._contract._session import Session, bench, name
from tests.support.valkey import (
    Server,
    cluster_of_three,
    free_port,
    is_whole,
    join_cluster,
    until,
)
from tests.system.redis_server import BASE, PROGRAM, keys, reason_of, reasons, spent, started

redis = pytest.importorskip("redis")

__all__ = ["started"]

PROGRAMS = {PROGRAM: "redis-server"}
MODULES = ("redis",)


def booked(session: Session, amount: int) -> Any:
    """Spend, and return what the account has then."""
    (balance,) = session.settle(Settle(name(), (Entry("one", 0, None, amount, 1, 0),))).values()
    return balance


def follows(replica: Server, master: Server) -> None:
    """Wait until a replica has all that its master has now."""
    with replica.client() as client, master.client() as other:
        written = other.info("replication")["master_repl_offset"]

        def has_all() -> bool:
            found = client.info("replication")
            return found["master_link_status"] == "up" and found["slave_repl_offset"] >= written

        until(has_all, "the replica does not follow")


def test_a_failover_to_a_replica_that_lagged_is_a_loss(started: Callable[..., Server]) -> None:
    """What Sentinel's new master does not have is written back: the bench, and the higher total."""
    master, replica = started(port=free_port()), started(port=free_port())
    watching = started(port=free_port(), sentinel=f"mymaster 127.0.0.1 {master.port} 1")
    with replica.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", master.port)
    sentinel = redis.sentinel.Sentinel(
        [("127.0.0.1", watching.port)], socket_timeout=1.0, sentinel_kwargs={"socket_timeout": 1.0}
    )
    store_contract(lambda: RedisStore(sentinel.master_for("mymaster"), namespace="contract"))
    store = RedisStore(sentinel.master_for("mymaster"))
    a, b = Session(store), Session(store)
    for each in (a, b):
        each.look()
    a.publish(bench("groq"))
    booked(a, 5)
    b.look()
    follows(replica, master)
    with watching.client() as client:
        until(
            lambda: client.execute_command("SENTINEL", "REPLICAS", "mymaster"),
            "Sentinel does not see the replica",
        )
        # The replica hears nothing of what is answered from here on.
        replica.signal(signal.SIGSTOP)
        with master.client() as other:
            other.client_kill_filter(_type="slave")
        late = bench("openai", "manual", None)
        (published,) = a.publish(late)
        balance = booked(a, 7)
        assert 12 == balance.spent
        b.look()
        master.kill()
        assert "unreachable" == reason_of(lambda: a.publish(bench("groq/b")))
        replica.signal(signal.SIGCONT)
        until(
            lambda: client.execute_command("SENTINEL", "FAILOVER", "mymaster"),
            "Sentinel does not fail over",
        )
        until(
            lambda: sentinel.discover_master("mymaster")[1] == replica.port,
            "the replica does not become the master",
        )

    until(lambda: reason_of(lambda: booked(b, 1)) == "lost", "nobody notices the loss")
    a.look()
    assert a.seen is not None
    assert a.seen.is_lost
    assert ({"groq"}, 5) == (keys(a), spent(a))
    for each in (a, b):
        each.look()
        each.publish(late._replace(order=published.order), balances=(balance,))
    assert ({"groq", "openai"}, 12) == (keys(a), spent(a))
    assert [""] * 5 == reasons(b)
    store.close()


def owner_of(servers: list[Server], client: Any, key: str) -> Server:
    """Return the server that has a key."""
    port = client.get_node_from_key(key).port
    (found,) = [each for each in servers if each.port == port]
    return found


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Server]]:
    """Return a list of servers of Debian, which end with the test."""
    monkeypatch.setenv("REDIS_SERVER", PROGRAM)
    started: list[Server] = []
    yield started
    for each in started:
        each.close()


def test_a_cluster_goes_on_without_the_server_that_had_the_slot(servers: list[Server]) -> None:
    """Its replica takes over; until then the store is unreachable, and nothing is lost."""
    cluster_of_three(servers)
    client = redis.RedisCluster(host="127.0.0.1", port=servers[0].port, socket_timeout=2.0)
    store = RedisStore(client)
    session = Session(store)
    session.look()
    master = owner_of(servers, client, f"{BASE}meta")
    with master.client() as each:
        number = each.execute_command("CLUSTER", "MYID")
    replica = join_cluster(servers)
    with replica.client() as each:
        until(lambda: is_whole(replica, 3), "the replica does not join")
        until(
            lambda: each.execute_command("CLUSTER", "REPLICATE", number),
            "the replica does not find its master",
        )
    session.publish(bench("groq"))
    booked(session, 5)
    session.look()
    follows(replica, master)

    master.kill()
    assert "unreachable" == reason_of(lambda: booked(session, 1))

    def is_back() -> bool:
        session.look()
        booked(session, 7)
        return True

    until(is_back, "the replica does not take over")
    assert ({"groq"}, 12) == (keys(session), spent(session))
    assert session.seen is not None
    assert not session.seen.is_lost
    store.close()
    client.close()


def test_a_slot_that_moves_key_by_key(servers: list[Server]) -> None:
    """While the keys of the namespace lie on two servers it is unreachable; nothing is lost."""
    cluster_of_three(servers)
    client = redis.RedisCluster(host="127.0.0.1", port=servers[0].port, socket_timeout=2.0)
    store = RedisStore(client)
    session = Session(store)
    session.look()
    session.publish(bench("groq"))
    booked(session, 5)
    old = owner_of(servers, client, f"{BASE}meta")
    new = next(each for each in servers if each is not old)
    slot = client.keyslot(f"{BASE}meta")
    with old.client() as source, new.client() as target:
        ids = [each.execute_command("CLUSTER", "MYID") for each in (source, target)]
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        assert "" == reason_of(lambda: booked(session, 1))

        names = sorted(source.keys(f"{BASE}*"))
        for at, each in enumerate(names):
            source.execute_command("MIGRATE", "127.0.0.1", new.port, each, 0, 5000)
            if at < len(names) - 1:
                assert "unreachable" == reason_of(lambda: booked(session, 100))
        for each in (target, source):
            each.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])

    def is_back() -> bool:
        session.look()
        booked(session, 7)
        return True

    until(is_back, "the store does not find its slot")
    assert ({"groq"}, 13) == (keys(session), spent(session))
    assert session.seen is not None
    assert not session.seen.is_lost
    store.close()
    client.close()
