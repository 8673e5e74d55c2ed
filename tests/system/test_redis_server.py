"""`RedisStore` on Debian's redis-server: who may connect, how, and what is gone afterwards.

``make system-tests`` runs the tests of the store in tests/stores on it as well.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resilient_llm._values.sharing import DataLostError, Entry, Settle
from resilient_llm.stores.redis import RedisStore
from resilient_llm.testing import store_contract
from resilient_llm.testing._contract._session import Session, bench, name
from tests.support.valkey import Server, free_port, until
from tests.system.redis_server import BASE, keys, reason_of, reasons, spent, started

__all__ = ["started"]

PROGRAMS = {"redis-server": "redis-server", "openssl": "openssl"}
MODULES = ("redis",)

# Keep in sync with the page "Rights" of the module `resilient_llm.stores.redis`.
NEEDED = (
    "evalsha eval time hget hmget hset hdel hgetall zadd zrem zscore zcount zrangebyscore del"
).split()
USEFUL = ("ping", "info", "publish", "subscribe")


@pytest.fixture
def server(started: Callable[..., Server]) -> Iterator[Server]:
    """Return a server with a port and a socket."""
    return started(port=free_port())


def user(server: Server, commands: list[str]) -> None:
    """Let a user do these commands with the keys and the channel of the namespace only."""
    with server.client() as client:
        rights = [f"~{BASE}*", f"&{BASE}published", *(f"+{each}" for each in commands)]
        client.execute_command("ACL", "SETUSER", "llm", "reset", "on", ">secret", *rights)


def test_all_rules_hold_at_a_port_and_at_a_socket(server: Server) -> None:
    """Plain connections of both kinds."""
    store_contract(lambda: RedisStore.from_url(server.address))
    store_contract(lambda: RedisStore.from_url(server.url))


def test_all_rules_hold_with_the_least_rights(server: Server) -> None:
    """These commands, keys and this channel are all that the store asks for."""
    user(server, [*NEEDED, *USEFUL])

    store_contract(lambda: RedisStore.from_url(f"redis://llm:secret@127.0.0.1:{server.port}"))


@pytest.mark.parametrize("command", [*NEEDED, *USEFUL])
def test_what_is_missing_of_the_rights_is_a_reason(server: Server, command: str) -> None:
    """It is called `auth`, also where the script of a step is what may not do something."""
    user(server, [each for each in (*NEEDED, *USEFUL) if each != command])
    store = RedisStore.from_url(f"redis://llm:secret@127.0.0.1:{server.port}")
    session = Session(store)

    found = set(reasons(session))

    if command in USEFUL:
        assert {""} == found
        session.look()
        assert not store.wait(session.revision, 0.01)
    elif command in ("hdel", "hgetall", "zrem"):  # what removes and repairs is not always done
        assert found <= {"", "auth"}
    else:
        assert "auth" in found
        assert found <= {"auth", "lost"}
    store.close()


def test_a_user_who_is_gone_is_a_reason(server: Server) -> None:
    """A password that has changed is named as such, on a connection that was open, too."""
    user(server, [*NEEDED, *USEFUL])
    store = RedisStore.from_url(f"redis://llm:secret@127.0.0.1:{server.port}")
    session = Session(store)
    session.look()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "llm", "resetpass", ">another")
        client.execute_command("CLIENT", "KILL", "USER", "llm")

    assert "auth" == reason_of(lambda: session.publish(bench("groq")))
    store.close()


def issued(directory: Path) -> dict[str, Path]:
    """Make an authority, a certificate of a server at 127.0.0.1 and one of a client."""

    def openssl(*arguments: str) -> None:
        subprocess.run(
            ("openssl", *arguments), cwd=directory, check=True, capture_output=True, timeout=50
        )

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        *("req", "-x509", *new, "-days", "2", "-subj", "/CN=authority"),
        *("-keyout", "ca.key", "-out", "ca.pem"),
        *("-addext", "keyUsage=critical,keyCertSign"),
    )
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for each in ("server", "client"):
        openssl("req", *new, "-subj", f"/CN={each}", "-keyout", f"{each}.key", "-out", "request")
        openssl(
            *("x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2"),
            *("-CAcreateserial", "-out", f"{each}.pem", "-extfile", "names"),
        )
    return {each.name: each for each in directory.iterdir()}


def test_all_rules_hold_with_encryption(started: Callable[..., Server], tmp_path: Path) -> None:
    """Both sides show a certificate of an authority; who shows none is refused."""
    files, port = issued(tmp_path), free_port()
    started(
        *("--tls-port", str(port), "--tls-ca-cert-file", str(files["ca.pem"])),
        *("--tls-cert-file", str(files["server.pem"]), "--tls-key-file", str(files["server.key"])),
    )
    trusting = f"rediss://127.0.0.1:{port}?ssl_ca_certs={files['ca.pem']}"
    shown = f"&ssl_certfile={files['client.pem']}&ssl_keyfile={files['client.key']}"

    store_contract(lambda: RedisStore.from_url(trusting + shown))

    for url in (
        trusting,
        f"rediss://127.0.0.1:{port}",
        trusting.replace("127.0.0.1", "localhost") + shown,
        f"redis://127.0.0.1:{port}",
    ):
        store = RedisStore.from_url(url)
        assert "unreachable" == reason_of(Session(store).look)
        store.close()


# What is gone.


def test_evicted_keys_are_a_loss(server: Server) -> None:
    """Where the server evicts any key, each session learns of it and writes back what it knows."""
    store = RedisStore.from_url(server.url)
    a, b = Session(store), Session(store)
    for each in (a, b):
        each.look()
    a.publish(bench("groq", "manual", None))
    (record,) = b.look()
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-random")
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", used + 200_000)
        before = client.exists(*client.keys(f"{BASE}*"))
        number = 0
        while len(client.keys(f"{BASE}*")) == before:
            client.set(f"other:{number}", b"x" * 1000)
            number += 1
        client.config_set("maxmemory", 0)

    with pytest.raises(DataLostError):
        a.publish(bench("groq/new"))
    b.look()
    assert b.seen is not None
    assert b.seen.is_lost
    a.look()
    order = record.order
    assert isinstance(order, int)
    a.publish(bench("groq", "manual", None)._replace(id=str(record.id), order=order))
    assert "groq" in keys(a)
    store.close()


def test_keys_of_ours_stay_where_only_those_that_expire_are_evicted(server: Server) -> None:
    """With a `volatile` policy a full server refuses, and loses nothing."""
    store = RedisStore.from_url(server.url)
    session = Session(store)
    session.look()
    session.publish(bench("groq"))
    with server.client() as client:
        client.config_set("maxmemory-policy", "volatile-lru")
        client.config_set("maxmemory", 1)
        assert ["", *["full"] * 4] == reasons(session)
        client.config_set("maxmemory", 0)

    assert [""] * 5 == reasons(session)
    assert session.seen is not None
    assert not session.seen.is_lost
    store.close()


def test_a_server_that_comes_back_with_an_old_snapshot_has_lost_data(server: Server) -> None:
    """What was answered since the snapshot is written back: benches, and the highest totals."""
    store = RedisStore.from_url(server.url)
    a, b = Session(store), Session(store)
    for each in (a, b):
        each.look()
    a.publish(bench("groq"))
    a.settle(Settle(name(), (Entry("one", 0, None, 5, 1, 0),)))
    with server.client() as client:
        client.execute_command("SAVE")
    late = bench("openai", "manual", None)
    (published,) = a.publish(late)
    balances = tuple(a.settle(Settle(name(), (Entry("one", 0, None, 7, 1, 0),))).values())
    b.look()

    server.kill()
    server.start()

    with pytest.raises(DataLostError):
        b.settle(Settle(name(), (Entry("one", 0, None, 1, 1, 0),)))
    a.look()
    assert a.seen is not None
    assert a.seen.is_lost
    assert ({"groq"}, 5) == (keys(a), spent(a))
    # Both write back, and it counts once.
    for each in (a, b):
        each.look()
        each.publish(late._replace(order=published.order), balances=balances)
    assert ({"groq", "openai"}, 12) == (keys(a), spent(a))
    store.close()


def test_a_server_that_cannot_write_its_snapshot_is_read_only(server: Server) -> None:
    """It refuses steps until it can, and goes on being read."""
    store = RedisStore.from_url(server.url)
    session = Session(store)
    session.look()
    session.publish(bench("groq"))
    # The snapshot is renamed to this name, which fails for root as well.
    blocking = server.directory / "dump.rdb" / "blocking"
    blocking.mkdir(parents=True)
    with server.client() as client:
        client.config_set("save", "3600 1")
        client.bgsave()
        until(
            lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err",
            "the server has written its snapshot",
        )

        assert ["", *["read_only"] * 4] == reasons(session)
        assert {"groq"} == keys(session)

        client.config_set("save", "")
    assert [""] * 5 == reasons(session)
    store.close()
