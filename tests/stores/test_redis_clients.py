"""How `RedisStore` connects: URLs, clients of users, and what errors mean."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from resilient_llm import ConfigurationError
from resilient_llm.stores._redis_clients import refusal
from resilient_llm.stores.redis import RedisStore
from resilient_llm.testing._contract._session import Session, bench
from tests.support.valkey import Server

redis = pytest.importorskip("redis")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("redis://cache", "redis://cache:6379/0"),
        ("redis://:secret@cache:7000/3", "redis://cache:7000/3"),
        ("rediss://user:secret@cache?password=secret&ssl_cert_reqs=none", "rediss://cache:6379/0"),
        ("valkey://user:secret@[::1]:7/1", "valkey://[::1]:7/1"),
        ("VALKEYS://secret@cache", "valkeys://cache:6379/0"),
        ("unix:///run/redis.sock?db=2&password=secret", "unix:///run/redis.sock?db=2"),
        ("unix://user:secret@/run/redis.sock", "unix:///run/redis.sock"),
        ("redis://cache?socket_timeout=1&decode_responses=True", "redis://cache:6379/0"),
    ],
)
def test_a_url_is_shown_without_a_password(given: str, shown: str) -> None:
    """Users and passwords are neither in the URL of a store nor in its text."""
    store = RedisStore.from_url(given)

    assert shown == store.url
    assert "secret" not in repr(store)


@pytest.mark.parametrize(
    "given",
    [
        "http://secret@cache",
        "redis+sentinel://secret@cache",
        "redis:secret",
        "redis://user:secret@host:secret",
        "redis://:secret@cache?unknown=secret",
        "redis://:secret@cache?socket_timeout=secret",
        "rediss://:secret@cache?ssl_min_version=secret&secret=1",
    ],
)
def test_a_wrong_url_is_refused_without_its_password(given: str) -> None:
    """No message has a part of the URL in it."""
    with pytest.raises(ConfigurationError) as caught:
        RedisStore.from_url(given)

    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_extra_is_named_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without redis-py, the error says how to get it."""
    monkeypatch.setitem(sys.modules, "redis", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'resilient-llm\[redis\]'"):
        RedisStore.from_url("redis://cache")


@pytest.mark.parametrize("namespace", ["", "a b", "{a}", "a" * 65])
def test_a_namespace_is_checked(namespace: str) -> None:
    """It is a hash tag of the cluster, so braces are as wrong as blanks."""
    with pytest.raises(ConfigurationError, match="namespace"):
        RedisStore.from_url("redis://cache", namespace=namespace)


def test_a_client_has_a_limit_and_is_synchronous() -> None:
    """Whatever else is given is refused with what to give instead."""
    import redis.asyncio
    from redis.sentinel import Sentinel

    sentinel: Any = Sentinel([("127.0.0.1", 1)], socket_timeout=1.0)
    for client, text in (
        (redis.Redis(socket_timeout=None), "socket_timeout"),
        (redis.asyncio.Redis(socket_timeout=1.0), "asyncio client"),
        (redis.asyncio.RedisCluster(host="127.0.0.1"), "asyncio client"),
        (sentinel, "master_for"),
        (object(), "redis.Redis"),
        ("redis://cache", "redis.Redis"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            RedisStore(client)

    master = sentinel.master_for("mymaster", password="secret")
    assert "redis://mymaster/0" == RedisStore(master).url
    client = redis.Redis(host="cache", db=3, password="secret", socket_timeout=1.0)
    assert "redis://cache:6379/3" == RedisStore(client).url


@pytest.mark.parametrize(
    "options",
    [{}, {"decode_responses": True, "encoding": "latin-1"}, {"protocol": 3}, {"db": 2}],
)
def test_a_client_may_have_any_settings_and_stays_open(
    server: Server, options: dict[str, Any]
) -> None:
    """The store connects by itself: the client is neither used nor closed."""
    client = server.client(**options)
    client.set("mine", 1)
    (pooled,) = client.connection_pool._available_connections
    store = RedisStore(client)
    session = Session(store)
    session.look()

    session.publish(bench("grüße/☃"))
    assert ["grüße/☃"] == [each.key for each in session.look()]
    assert store.wait(0, 1.0)
    store.close()

    assert [pooled] == client.connection_pool._available_connections
    assert pooled._sock is not None
    assert client.get("mine")
    client.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "full"),
        ("READONLY You can't write against a read only replica.", "read_only"),
        ("MISCONF Redis is configured to save RDB snapshots, but", "read_only"),
        ("NOREPLICAS Not enough good replicas to write.", "read_only"),
        ("NOPERM this user has no permissions to access one of the keys", "auth"),
        ("The user executing the script can't run this command or subcommand", "auth"),
        ("ACL failure in script: User llm has no permissions to run the 'time' command", "auth"),
        ("BUSY Redis is busy running a script.", "timeout"),
        ("MASTERDOWN Link with MASTER is down", "unreachable"),
        ("ERR anything else about ROOM and ASKING", "error"),
    ],
)
def test_errors_of_a_script_are_understood(text: str, reason: str) -> None:
    """Before version 7, a server puts them into an error of its own."""
    for message in (text, f"@user_script: 79: -{text}", f"ERR Error running script: @u: 1: {text}"):
        assert reason == refusal(redis.ResponseError(message)).reason
