"""`RedisStore` behind a proxy that drops, delays and truncates, and a server that is too old."""

from __future__ import annotations

import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from resilient_llm._values.sharing import (
    Charge,
    Claim,
    Entry,
    Reserve,
    Settle,
    Stamp,
    StoreError,
)
from resilient_llm.stores import redis
from resilient_llm.stores.redis import RedisStore
from resilient_llm.testing import store_contract
from resilient_llm.testing._contract._session import Session, bench, name
from tests.support.proxy import Proxy
from tests.support.valkey import Server, free_port

pytest.importorskip("redis")

LIMIT = 0.25
SCHEDULING = 0.5
"""Seconds for which a busy machine may keep a thread from running."""


@pytest.fixture(scope="module")
def shared_way() -> Iterator[tuple[Server, Proxy]]:
    server = Server(port=free_port())
    proxy = Proxy(server.port)
    yield server, proxy
    proxy.close()
    server.close()


@pytest.fixture
def proxy(shared_way: tuple[Server, Proxy]) -> Iterator[Proxy]:
    """Return a proxy that harms nothing yet, before a server without data."""
    server, proxy = shared_way
    with server.client() as client:
        client.flushall()
    yield proxy
    proxy.is_refusing = proxy.is_silent = False
    proxy.delay = proxy.drip = 0.0
    proxy.cut_after = None
    proxy.cut()


@pytest.fixture
def store(proxy: Proxy) -> Iterator[RedisStore]:
    store = RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}")
    yield store
    store.close()


def steps(store: RedisStore, session: Session) -> list[Callable[[], object]]:
    """Return every step, each with a limit of its own."""
    looking = Stamp(session.id, 0, session.epoch, session.revision, session.answered)
    return [
        lambda: store.changes(looking, 0, timeout=LIMIT),
        lambda: store.publish(session.stamp(), [bench("groq")], timeout=LIMIT),
        lambda: store.claim(session.stamp(), [Claim("groq", 30.0)], timeout=LIMIT),
        lambda: store.reserve(session.stamp(), [Reserve(name(), ())], lasts=9.0, timeout=LIMIT),
        lambda: store.settle(session.stamp(), [Settle(name())], timeout=LIMIT),
    ]


def failed(step: Callable[[], object]) -> tuple[str, float]:
    """Return why a step fails, and after how many seconds."""
    began = time.monotonic()
    with pytest.raises(StoreError) as caught:
        step()
    return caught.value.reason, time.monotonic() - began


def test_all_rules_hold_on_a_slow_way(proxy: Proxy) -> None:
    """Answers that come late, but in time, change nothing."""
    proxy.delay = 0.001

    store_contract(lambda: RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}"))


@pytest.mark.parametrize("fault", ["silent", "dripping", "late"])
@pytest.mark.parametrize("is_open", [True, False], ids=["open", "new"])
def test_no_step_takes_longer_than_its_limit(
    proxy: Proxy, store: RedisStore, fault: str, is_open: bool
) -> None:
    """Also if the answer comes byte by byte, each of them in time; connecting is included."""
    session = Session(store)
    session.look()
    if not is_open:
        store.close()
    proxy.is_silent = fault == "silent"
    proxy.drip = 0.05 if fault == "dripping" else 0.0
    proxy.delay = 5.0 if fault == "late" else 0.0

    for step in steps(store, session):
        reason, seconds = failed(step)
        assert "timeout" == reason
        assert seconds < LIMIT + SCHEDULING


def test_a_wait_is_not_held_up_by_half_a_message(proxy: Proxy, store: RedisStore) -> None:
    """A hint that never comes as a whole costs a look."""
    session = Session(store)
    session.look()
    steps(store, session)[0]()  # its limit is that of the wait
    assert not store.wait(session.revision, 0.01)
    timer = threading.Timer(0.5, lambda: _published_elsewhere(proxy))
    timer.start()

    began = time.monotonic()
    found = store.wait(session.revision, 20.0)

    assert found
    assert time.monotonic() - began < 3.0
    timer.join()


def _published_elsewhere(proxy: Proxy) -> None:
    direct = RedisStore.from_url(f"redis://127.0.0.1:{proxy.target}")
    session = Session(direct)
    session.look()
    proxy.drip = 0.1
    session.publish(bench("groq"))
    direct.close()


@pytest.mark.parametrize("seed", range(4))
def test_what_a_bad_way_swallows_is_neither_lost_nor_doubled(
    proxy: Proxy, store: RedisStore, seed: int
) -> None:
    """A step that is sent again until it is answered counts once, whatever was cut and where."""
    rng = random.Random(seed)
    session = Session(store)
    session.look()
    answered, reasons = 0, set[str]()
    for _ in range(60):
        fault = rng.choice(("none", "cut", "truncated", "refused", "silent"))
        proxy.is_refusing = fault == "refused"
        proxy.is_silent = fault == "silent"
        proxy.cut_after = rng.randrange(40) if fault == "truncated" else None
        if fault in ("cut", "refused"):
            proxy.cut()
        stamp, settle = session.stamp(), [Settle(name(), (Entry("one", 0, None, 7, 1, 0),))]
        for attempt in range(5):
            if attempt == 1:
                proxy.is_refusing = proxy.is_silent = False
                proxy.cut_after = None
            try:
                store.settle(stamp, settle, timeout=0.05 if attempt == 0 else 5.0)
                break
            except StoreError as error:
                reasons.add(error.reason)
        session.note()
        answered += 7

    (reserved,) = session.reserve(Reserve(name(), (Charge("one", 0, None, 0, None),)))
    assert answered == reserved.balances[0].spent
    assert {"unreachable", "timeout"} == reasons


def test_clients_that_are_killed_lose_nothing(
    shared_way: tuple[Server, Proxy], proxy: Proxy
) -> None:
    """While an operator kills all connections again and again, each settlement counts once."""
    server, _ = shared_way
    is_over = threading.Event()

    def kill() -> None:
        with server.client() as client:
            while not is_over.wait(0.01):
                client.client_kill_filter(_type="normal", skipme=True)
                client.client_kill_filter(_type="pubsub", skipme=True)

    killer = threading.Thread(target=kill)
    killer.start()
    totals: list[int] = []

    def spend() -> None:
        store = RedisStore.from_url(server.url)
        session = Session(store)
        done = 0
        _again(session.look)
        while done < 100:
            stamp, settle = session.stamp(), [Settle(name(), (Entry("one", 0, None, 1, 1, 0),))]
            _again(lambda stamp=stamp, settle=settle: store.settle(stamp, settle, timeout=5.0))
            session.note()
            done += 1
        store.close()
        totals.append(done)

    threads = [threading.Thread(target=spend) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50.0)
    is_over.set()
    killer.join(10.0)

    store = RedisStore.from_url(server.url)
    session = Session(store)
    session.look()
    (reserved,) = session.reserve(Reserve(name(), (Charge("one", 0, None, 0, None),)))
    assert [100] * 3 == totals
    assert 300 == reserved.balances[0].spent
    store.close()


def _again(step: Callable[[], object]) -> None:
    """Do a step until it is answered."""
    while True:
        try:
            step()
            return
        except StoreError as error:
            if error.reason != "unreachable":
                raise


# Subscriptions.


def listening(store: RedisStore) -> Session:
    """Return a session that has read everything, of a store that listens."""
    session = Session(store)
    session.look()
    steps(store, session)[0]()  # its limit is that of the wait
    assert not store.wait(session.revision, 0.01)
    assert store._listener.is_open
    return session


def publish_at(server: Server, *, user: str = "") -> None:
    """Publish past the proxy."""
    direct = RedisStore.from_url(server.url.replace("://", f"://{user}"))
    session = Session(direct)
    session.look()
    session.publish(bench(name("groq/")))
    direct.close()


def test_a_dead_subscription_is_made_again_after_a_look(
    shared_way: tuple[Server, Proxy], proxy: Proxy, store: RedisStore
) -> None:
    """A look that finds what the channel has not told ends it, and the next change comes at once."""
    server, _ = shared_way
    session = listening(store)
    with server.client() as client:
        client.publish(store._channel.decode(), "9e300")  # somebody makes it up
    assert store.wait(session.revision, 20.0)
    proxy.forget_subscriptions()
    publish_at(server)
    session.look()
    steps(store, session)[0]()
    assert store.wait(session.revision, 0.01)  # the next one subscribes again
    assert not store.wait(session.revision, 0.01)
    timer = threading.Timer(0.3, lambda: publish_at(server))
    timer.start()

    began = time.monotonic()
    found = store.wait(session.revision, 20.0)

    assert found
    assert time.monotonic() - began < 5.0
    timer.join()


def test_a_dead_subscription_is_found_by_its_silence(
    proxy: Proxy, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if nothing is published; one that is alive goes on."""
    monkeypatch.setattr(redis, "_SILENCE", 0.1)
    session = listening(store)
    alive = store._listener.socket

    assert not store.wait(session.revision, 0.5)
    assert alive is store._listener.socket
    proxy.forget_subscriptions()
    began = time.monotonic()
    assert store.wait(session.revision, 20.0)
    assert time.monotonic() - began < 5.0
    assert not store._listener.is_open


def test_a_subscription_that_tells_nothing_is_renewed_now_and_then(
    shared_way: tuple[Server, Proxy], store: RedisStore
) -> None:
    """It may be at a server that nobody writes to; or who publishes has no right to tell."""
    server, _ = shared_way
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "mute", "on", ">secret", "~*", "+@all", "-publish", "resetchannels"
        )
    session = listening(store)
    used = [store._listener.socket]

    for _ in range(3):
        publish_at(server, user="mute:secret@")
        session.look()
        steps(store, session)[0]()
        store.wait(session.revision, 0.01)
        assert not store.wait(session.revision, 0.01)
        used.append(store._listener.socket)

    assert used[0] is not used[1]
    assert used[1] is used[2] is used[3]
    with server.client() as client:
        client.acl_deluser("mute")


def test_what_the_channel_has_told_is_no_reason_to_subscribe_again(
    shared_way: tuple[Server, Proxy], store: RedisStore
) -> None:
    """Neither is what the store has published itself."""
    server, _ = shared_way
    session = listening(store)
    used = store._listener.socket

    for _ in range(5):
        publish_at(server)
        session.look()
        session.publish(bench(name("openai/")))
        store.wait(session.revision, 0.01)

    assert used is store._listener.socket


@pytest.mark.parametrize(
    ("query", "is_kept"), [("", True), ("?socket_keepalive=no", False), ("?db=3", True)]
)
def test_a_connection_of_a_url_is_kept_alive(proxy: Proxy, query: str, is_kept: bool) -> None:
    """The system asks the other side after half a minute of silence."""
    store = RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}{query}")
    Session(store).look()
    sock = store._link.socket

    assert is_kept == bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
    if is_kept and sys.platform == "linux":
        assert 30 == sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    store.close()


def test_a_server_that_forgets_its_scripts_is_given_them_again(
    shared_way: tuple[Server, Proxy], store: RedisStore
) -> None:
    """`SCRIPT FLUSH` is no loss, and no step fails for it."""
    server, _ = shared_way
    session = Session(store)
    session.look()
    with server.client() as client:
        for step in steps(store, session):
            client.script_flush()
            step()
            session.note()

    assert ["groq"] == [each.key for each in session.look()]
    assert session.seen is not None
    assert not session.seen.is_lost


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("redis_version:6.0.16", "ServerTooOld"),
        ("redis_version:5.0.6", "ServerTooOld"),
        ("redis_version:6.2.0", ""),
        ("redis_version:7.2.4\r\nvalkey_version:7.2.5", ""),
        ("redis_version:10.0.0", ""),
        ("something else", ""),
        (None, ""),
    ],
)
def test_a_server_that_is_too_old_is_named_as_such(told: str | None, reason: str) -> None:
    """Nothing is kept on one; a server that does not tell its release is believed."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=_serve, args=(listening, told), daemon=True)
        thread.start()
        store = RedisStore.from_url(f"redis://127.0.0.1:{port}")
        with pytest.raises(StoreError) as caught:
            Session(store).look()
        store.close()
        thread.join(10.0)

    assert "error" == caught.value.reason
    assert (reason or "ResponseError") == caught.value.type_name


def _serve(listening: socket.socket, told: str | None) -> None:
    """Answer as a server that has no scripts at all."""
    connection, _ = listening.accept()
    with connection, connection.makefile("rb") as sent:
        while line := sent.readline():
            count = int(line[1:])
            words = [sent.read(int(sent.readline()[1:]) + 2)[:-2] for _ in range(count)]
            if words[0] == b"PING":
                connection.sendall(b"+PONG\r\n")
            elif words[0] == b"CLIENT":
                connection.sendall(b"+OK\r\n")
            elif words[0] == b"INFO" and told is not None:
                text = f"# Server\r\n{told}\r\nos:Linux\r\n".encode()
                connection.sendall(b"$%d\r\n%s\r\n" % (len(text), text))
            elif words[0] == b"INFO":
                connection.sendall(b"-NOPERM this user may not\r\n")
            else:
                connection.sendall(b"-ERR unknown command\r\n")
