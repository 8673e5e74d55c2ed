"""`RedisStore` on several servers: a cluster, and a master that Sentinel finds."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient_llm._values.sharing import Entry, Settle, StoreError
from resilient_llm.stores.redis import RedisStore
from resilient_llm.testing import store_contract
from resilient_llm.testing._contract._session import Session, bench, name
from tests.support.valkey import Server, cluster_of_three, free_port, until

redis = pytest.importorskip("redis")


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for each in started:
        each.close()


def test_a_cluster(servers: list[Server]) -> None:
    """All rules hold in a cluster; a namespace whose slot moves is found where it has gone."""
    cluster_of_three(servers)
    client = redis.RedisCluster(host="127.0.0.1", port=servers[0].port, socket_timeout=2.0)
    store_contract(lambda: RedisStore(client, namespace="contract"))

    stores = [RedisStore(client, namespace=f"shop-{each}") for each in range(6)]
    assert {f"redis://127.0.0.1:{each.port}/0" for each in servers} >= {stores[0].url}
    sessions = [Session(each) for each in stores]
    for session in sessions:
        session.look()
        session.publish(bench("groq"))
        assert ["groq"] == [each.key for each in session.look()]
    counts: list[int] = []
    for server in servers:
        with server.client() as each:
            counts.append(each.dbsize())
    assert 7 * 7 == sum(counts)

    # A slot is given to another server, as after a failover; its data stays behind.
    slot = client.keyslot("resilient_llm:{shop-0}:meta")
    owner = client.get_node_from_key("resilient_llm:{shop-0}:meta")
    new = next(each for each in servers if each.port != owner.port)
    with new.client() as each:
        target = each.execute_command("CLUSTER", "MYID")
    for server in servers:
        with server.client() as each:
            if server.port == owner.port:
                each.flushall()
            each.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target)

    def is_found() -> bool:
        sessions[0].look()
        sessions[0].publish(bench("groq/b"))
        return True

    until(is_found, "the store does not find its slot")
    with new.client() as each:
        assert each.exists("resilient_llm:{shop-0}:meta")
    assert client.set("mine", 1)
    for store in stores:
        store.close()
    client.close()


def test_a_cluster_of_which_a_server_hangs(servers: list[Server]) -> None:
    """A step costs its limit, and not all the retries of the client."""
    cluster_of_three(servers)
    client = redis.RedisCluster(host="127.0.0.1", port=servers[0].port, socket_timeout=0.2)
    store = RedisStore(client)
    session = Session(store)
    session.look()
    port = client.get_node_from_key("resilient_llm:{resilient_llm}:meta").port
    (server,) = [each for each in servers if each.port == port]
    server.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(StoreError) as caught:
            store.settle(session.stamp(), [Settle(name())], timeout=0.2)
        assert "timeout" == caught.value.reason
        assert time.monotonic() - began < 3.0
    finally:
        server.signal(signal.SIGCONT)
    until(lambda: session.look() == [], "the store does not come back")
    store.close()
    client.close()


def test_a_master_of_sentinel(servers: list[Server]) -> None:
    """After a failover, the store goes on with the new master."""
    master = Server(port=free_port())
    servers.append(master)
    replica = Server("--replicaof", "127.0.0.1", str(master.port), port=free_port())
    servers.append(replica)
    watching = Server(port=free_port(), sentinel=f"mymaster 127.0.0.1 {master.port} 1")
    servers.append(watching)
    sentinel = redis.sentinel.Sentinel(
        [("127.0.0.1", watching.port)], socket_timeout=1.0, sentinel_kwargs={"socket_timeout": 1.0}
    )
    store = RedisStore(sentinel.master_for("mymaster"))
    assert "redis://mymaster/0" == store.url
    session = Session(store)
    session.look()
    session.settle(Settle(name(), (Entry("one", 0, None, 5, 1, 0),)))
    session.publish(bench("groq"))
    with watching.client() as client:
        until(
            lambda: client.execute_command("SENTINEL", "REPLICAS", "mymaster"),
            "Sentinel does not see the replica",
        )
        with replica.client() as other:
            until(
                lambda: other.hget("resilient_llm:{resilient_llm}:meta", "published"),
                "the replica does not follow",
            )
        master.signal(signal.SIGSTOP)
        until(
            lambda: client.execute_command("SENTINEL", "FAILOVER", "mymaster"),
            "Sentinel does not fail over",
        )
        until(
            lambda: sentinel.discover_master("mymaster")[1] == replica.port,
            "the replica does not become the master",
        )

    def is_found() -> bool:
        session.look()
        session.publish(bench("groq/b"))
        return True

    until(is_found, "the store does not find the new master")
    seen = Session(store)
    assert {"groq", "groq/b"} == {each.key for each in seen.look()}
    assert seen.seen is not None
    assert [5] == [each.spent for each in seen.seen.balances]
    store.close()


def test_encryption(servers: list[Server], tmp_path: Path) -> None:
    """`rediss` URLs and clients are encrypted, and an unknown certificate is refused.

    The server of the wheel has no TLS: ``REDIS_SERVER=redis-server`` names one of the system.
    """
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port()
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    paths = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key))
    try:
        servers.append(Server("--tls-port", str(port), *paths, "--tls-auth-clients", "no"))
    except AssertionError:
        pytest.skip("this server has no TLS")
    url = f"rediss://127.0.0.1:{port}"
    store_contract(lambda: RedisStore.from_url(f"{url}?ssl_ca_certs={certificate}"))
    client = redis.Redis.from_url(f"{url}?ssl_ca_certs={certificate}", socket_timeout=1.0)
    store = RedisStore(client)
    Session(store).look()
    assert f"{url}/0" == store.url
    store.close()
    with pytest.raises(StoreError) as caught:
        Session(RedisStore.from_url(url)).look()
    assert "unreachable" == caught.value.reason
