"""``configure(state=…)``: what it takes, what it refuses, and that it connects nothing."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import (
    ConfigurationError,
    StoreStatus,
    Target,
    configure,
    failover,
    settings,
    store_status,
)
from resilient_llm._runtime.runtime import runtime
from resilient_llm.stores.redis import RedisStore
from resilient_llm.stores.sqlite import SqliteStore
from resilient_llm.testing import MemoryStore, isolated
from tests.support.sharing import eventually
from tests.support.ways import GROQ

SECRET = "hunter2"
WITH_PASSWORD = f"redis://app:{SECRET}@127.0.0.1:1/0?socket_timeout=1"


@pytest.fixture(autouse=True)
def _no_thread_of_another_test() -> None:
    """Wait for the threads of stores that earlier tests have let go."""
    eventually(lambda: [] == threads())


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if "store" in each.name]


def test_without_a_store_there_is_none() -> None:
    """The status says so, and no thread was started."""
    assert StoreStatus() == store_status(wait=1)
    status = store_status()
    assert (None, False, None, 0, 1, 0, 0, None) == (
        status.url, status.connected, status.last_sync_at, status.pending, status.peers,
        status.rejected, status.dropped, status.last_error,
    )  # fmt: skip
    assert [] == threads()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///var/lib/app.db", "sqlite:///var/lib/app.db"),
        ("sqlite:////var/lib/app.db", "sqlite:///var/lib/app.db"),
        ("sqlite:///var/lib/a%20b.db", "sqlite:///var/lib/a%20b.db"),
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("rediss://cache:6379/0", "rediss://cache:6379/0"),
        ("valkey://cache:6379/0", "valkey://cache:6379/0"),
        ("valkeys://cache:6379/0", "valkeys://cache:6379/0"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        (f"redis://app:{SECRET}@cache:6379/3", "redis://cache:6379/3"),
    ],
)
def test_urls(url: str, shown: str) -> None:
    """Every scheme of the contract; no user and no password is shown anywhere."""
    configure(state=url)

    assert shown == settings().state
    assert SECRET not in repr(settings())
    assert SECRET.encode() not in pickle.dumps(settings())
    assert [] == threads()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://app.db",
        "sqlite:app.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///var/lib/",
        "sqlite:///var/lib/app.db?mode=ro",
        "/var/lib/app.db",
        "postgres://host/db",
        f"mysql://root:{SECRET}@host/db",
        f"{SECRET}",
        "",
        "redis://[::1",
        "redis://host:port/0",
        5,
        object(),
        MemoryStore,
        socket.socket,
        b"redis://host",
    ],
    ids=lambda value: (
        value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)
    ),
)
def test_what_is_no_store_is_refused(url: Any) -> None:
    """Where it is written; the message says what may be, shows no secret, and nothing changes."""
    configure(state="sqlite:///var/lib/app.db")
    before = settings()

    with pytest.raises(ConfigurationError, match="write") as caught:
        configure(state=url, max_wait=1.0)

    assert SECRET not in str(caught.value)
    assert before == settings()


def reachable(error: BaseException) -> list[object]:
    """Return what leaves with an error: itself, those before it, and the variables of our frames."""
    found: list[object] = []
    errors: list[BaseException | None] = [error]
    for each in errors:
        if each is not None:
            found += [*each.args, *getattr(each, "__notes__", ()), str(each)]
            errors += [each.__context__, each.__cause__]
            found += [
                value
                for frame, _ in traceback.walk_tb(each.__traceback__)
                if "/resilient_llm/" in frame.f_code.co_filename.replace("\\", "/")
                or frame.f_globals["__name__"].startswith("redis")
                for value in frame.f_locals.values()
            ]
    return found


@pytest.mark.parametrize(
    "url",
    [
        f"redis://u:{SECRET}/x@h",
        f"redis://u:{SECRET}#x@h",
        f"redis://u:{SECRET}?x@h",
        f"redis://{SECRET}/x@h",
        f"redis://h/{SECRET}",
        f"redis://u:{SECRET}@h/0?db=x",
        f"redis://u:{SECRET}@h/0?db=-1",
        f"redis://u:{SECRET}@h/0?socket_timeout={SECRET}",
        f"redis://u:{SECRET}@h/0?unknown={SECRET}",
        f"redis://%3A{SECRET}%40h/0",
        f"redis://{SECRET}%40h/0",
        f"redis:///0?host=%3A{SECRET}%40h",
        f"unix:///:{SECRET}@/run/redis.sock",
        f"sqlite://u:{SECRET}@h/app.db",
        f"mysql://u:{SECRET}@h/db",
        f"u:{SECRET}@h",
    ],
    ids=lambda url: url.replace(SECRET, "SECRET"),
)
def test_nothing_of_a_wrong_url_leaves_with_its_error(url: str) -> None:
    """Reporters send the variables of frames, and the errors that came before, hidden ones too."""
    with pytest.raises(ConfigurationError, match="write") as caught:
        configure(state=url)

    assert None is caught.value.__context__
    assert SECRET not in repr(reachable(caught.value))
    if url.startswith("redis"):
        with pytest.raises(ConfigurationError, match="write") as caught:
            RedisStore.from_url(url)
        assert None is caught.value.__context__
        assert SECRET not in repr(reachable(caught.value))


def test_no_url_leaves_with_the_error_of_another_option() -> None:
    """It stands beside the option that is wrong."""
    with pytest.raises(ConfigurationError, match="state_timeout") as caught:
        configure(state=WITH_PASSWORD, state_timeout=-1)

    assert SECRET not in repr(reachable(caught.value))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("unix://", "write unix:///run/redis.sock"),
        ("unix://host", "write unix:///run/redis.sock"),
        ("redis://h/notadb", "redis://host:6379/0"),
        ("valkeys://h/1/2", "valkeys://host:6379/0"),
        ("redis://h/0#x", "%23"),
        ("valkey+tls://h", r"the scheme valkey\+tls is no store"),
        ("rediz://h", "did you mean redis?"),
        ("cache.internal", "no scheme"),
    ],
)
def test_messages_say_what_to_write(url: str, said: str) -> None:
    """Somebody reads them at night."""
    with pytest.raises(ConfigurationError, match=said):
        configure(state=url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://my_cache.example-1.internal:7000/3",
        "redis://%68ost",
        "redis://[fe80::1%25eth0]/0",
        "redis://münchen.example/0",
        "rediss://u:a%2Fb%23c%3Fd%40e@h?ssl_cert_reqs=none&db=2",
        "redis://h?password=a@b",
        "unix:///run/redis@main/redis.sock?db=2",
        "redis://h/",
    ],
)
def test_unusual_urls_are_accepted(url: str) -> None:
    """As redis-py accepts them."""
    configure(state=url)

    assert str(settings().state).startswith(url.partition(":")[0])


def test_a_client_with_a_password_in_its_host_shows_none() -> None:
    """A URL given as the host is a usual mistake."""
    redis = pytest.importorskip("redis")
    store = RedisStore(redis.Redis(host=f"redis://:{SECRET}@h", socket_timeout=1.0))

    assert "redis://?" == store.url


def test_clients_of_redis_are_no_store() -> None:
    """One of asyncio cannot be used from a thread, and a plain client says what to write."""
    redis = pytest.importorskip("redis")
    from redis import asyncio as aredis

    from resilient_llm.stores.redis import RedisStore

    with pytest.raises(ConfigurationError, match="RedisStore"):
        configure(state=redis.Redis(socket_timeout=1.0))
    with pytest.raises(ConfigurationError, match="asyncio"):
        configure(state=RedisStore(aredis.Redis(socket_timeout=1.0)))
    with pytest.raises(ConfigurationError, match="socket_timeout"):
        configure(state=RedisStore(redis.Redis(socket_timeout=None)))


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"state_options": {"namespace": "a b"}}, "A-Z"),
        ({"state_options": {"namespace": ""}}, "A-Z"),
        ({"state_options": {"namespace": "x" * 65}}, "64"),
        ({"state_options": {"poll": 0.05}}, "0.1"),
        ({"state_options": {"poll": 61}}, "60"),
        ({"state_options": {"poll": True}}, "poll"),
        ({"state_options": {"on_corrupt": "ignore"}}, "replace"),
        ({"state_options": {"pol": 1.0}}, "no option pol: write namespace, poll, on_corrupt"),
        ({"state_options": {"a b": 1.0}}, r"no option of that name \(str\)"),
        ({"state_options": {"x" * 41: 1.0}}, r"no option of that name \(str\)"),
        ({"state_options": 5}, "state_options"),
        ({"state_timeout": 0}, "state_timeout"),
        ({"state_timeout": float("nan")}, "state_timeout"),
        ({"state_timeout": "1"}, "state_timeout"),
        ({"on_store_down": "wait"}, "refuse"),
        ({"state_name": ""}, "state_name=a text of 0 characters .* printable"),
        ({"state_name": "a\nb"}, "cannot be printed .* 200 printable"),
        ({"state_name": "x" * 201}, "a text of 201 characters .* 200"),
        ({"state_name": 5}, "printable"),
    ],
)
def test_options_out_of_range_are_refused(options: Any, allowed: str) -> None:
    """The message says what is allowed, and nothing changes."""
    before = settings()

    with pytest.raises(ConfigurationError, match=allowed):
        configure(**options)

    assert before == settings()


def test_options_are_merged_by_name() -> None:
    """None is the default again, of one or of all."""
    configure(state="sqlite:///var/lib/app.db", state_options={"poll": 2.0})
    configure(state_options={"namespace": "shop"})
    assert {"namespace": "shop", "poll": 2.0, "on_corrupt": "replace"} == settings().state_options
    configure(state_options={"poll": None})
    assert {"namespace": "shop", "poll": 1.0, "on_corrupt": "replace"} == settings().state_options
    configure(state_options=None)
    assert {"namespace": "resilient_llm", "poll": 1.0, "on_corrupt": "replace"} == (
        settings().state_options
    )


def test_options_make_another_store_of_a_url(tmp_path: Path) -> None:
    """Those of a store that is given are its own."""
    configure(state=f"sqlite://{tmp_path}/app.db", state_options={"poll": 0.1})
    first = runtime.sharing
    configure(state_timeout=1.0, state_name="a")
    assert first is runtime.sharing
    configure(state_options={"namespace": "other"})
    assert first is not runtime.sharing

    store = MemoryStore()
    configure(state=store)
    first = runtime.sharing
    configure(state_options={"namespace": "third"})
    configure(state=store)
    assert first is runtime.sharing
    assert store is settings().state


def test_configure_does_no_io(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is connected or written before the first use, and no thread is started."""

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("it was connected")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    file = tmp_path / "app.db"
    configure(state=WITH_PASSWORD)
    configure(state=f"sqlite://{file}")
    configure(state=None)

    assert not file.exists()
    assert [] == threads()


def test_a_first_call_starts_the_thread(tmp_path: Path) -> None:
    """Lazily, with the first key that comes into use."""
    configure(state=f"sqlite://{tmp_path}/app.db")

    @failover([GROQ])
    def ask(target: Target) -> str:
        return "answer"

    assert [] == threads()
    ask()
    eventually(lambda: (tmp_path / "app.db").exists())
    assert eventually(lambda: store_status().connected)


def test_status(tmp_path: Path) -> None:
    """It waits for the first full read."""
    configure(state=f"sqlite://{tmp_path}/app.db")

    status = store_status(wait=5)

    assert status.connected
    assert status.last_sync_at is not None
    assert status.last_sync_at.tzinfo is not None
    assert (f"sqlite://{tmp_path}/app.db", 0, 1, None) == (
        status.url, status.pending, status.peers, status.last_error,
    )  # fmt: skip


@pytest.mark.parametrize("wait", [-1, "1", float("nan"), None])
def test_a_wait_that_is_no_duration_is_refused(wait: Any) -> None:
    """Also without a store."""
    with pytest.raises(ConfigurationError, match="wait"):
        store_status(wait=wait)


def test_a_wait_of_any_length_ends_with_the_first_read(tmp_path: Path) -> None:
    """Also one that no lock takes."""
    configure(state=f"sqlite://{tmp_path}/app.db")

    assert store_status(wait=1e300).connected


def test_a_status_does_not_wait_for_ever() -> None:
    """Nobody listens there: it says so after its wait."""
    pytest.importorskip("redis")
    configure(state=WITH_PASSWORD)

    status = store_status(wait=0.3)

    assert not status.connected
    assert eventually(lambda: store_status().last_error)
    assert SECRET not in repr(store_status())


def test_trap_19_isolated_state_shares_nothing() -> None:
    """A test inside a service does not bench its fleet."""
    configure(state=MemoryStore())
    with isolated():
        assert None is settings().state
        assert None is store_status().url
    assert "memory:" == store_status().url


def _run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_environment_names_a_store(tmp_path: Path) -> None:
    """Where the option was never configured, and outside of ``isolated()``."""
    url = f"sqlite://{tmp_path}/app.db"
    code = (
        "import resilient_llm as r\n"
        "from resilient_llm.testing import isolated\n"
        "with isolated():\n"
        "    print(r.store_status().url)\n"
        "print(r.store_status(wait=5).url, r.settings().state)\n"
        "r.configure(state=None)\n"
        "print(r.store_status().url)\n"
    )
    assert f"None\n{url} {url}\nNone\n" == _run(code, RESILIENT_LLM_STATE=url)


def test_configured_none_is_stronger_than_the_environment(tmp_path: Path) -> None:
    """It was configured."""
    code = (
        "import resilient_llm as r\nr.configure(state=None)\n"
        "r.bench_model('groq')\nprint(r.store_status().url)\n"
    )
    assert "None\n" in _run(code, RESILIENT_LLM_STATE=f"sqlite://{tmp_path}/app.db")


def test_an_environment_that_names_no_store_is_told_once() -> None:
    """In the log, without the URL; calls go on."""
    code = (
        "import logging; logging.basicConfig()\n"
        "import resilient_llm as r\n"
        "r.bench_model('groq'); r.bench_model('openai'); print(r.store_status().url)\n"
    )
    told = _run(code, RESILIENT_LLM_STATE=f"mysql://root:{SECRET}@host/db")

    assert "None" in told
    assert 1 == told.count("RESILIENT_LLM_STATE is not used")
    assert SECRET not in told


def test_the_password_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Nor in an event or an error of a store that cannot be reached."""
    pytest.importorskip("redis")
    caplog.set_level(logging.DEBUG)
    configure(state=WITH_PASSWORD)
    store_status(wait=0.2)
    eventually(lambda: store_status().last_error)

    assert SECRET not in caplog.text


def test_a_store_of_a_class_of_its_own() -> None:
    """Whatever has the methods of the protocol is one."""
    store = SqliteStore("/tmp/never-opened.db")  # nothing is opened
    configure(state=store)

    assert store is settings().state
