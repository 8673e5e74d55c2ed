"""Webhooks against real servers on loopback: what is sent, when, and what happens if it is not."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import math
import os
import pickle
import re
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import (
    AttemptSucceeded,
    BudgetExceeded,
    BudgetWarning,
    CallFailed,
    ChainExhaustedError,
    ConfigurationError,
    StoreAvailable,
    StoreUnavailable,
    Target,
    TargetBenched,
    TargetUnbenched,
    ToolLoopDetected,
    bench_model,
    breaker,
    configure,
    failover,
    unbench_model,
)
from resilient_llm._runtime.runtime import runtime
from resilient_llm.observers import webhook
from resilient_llm.observers._http import Endpoint
from resilient_llm.testing import FakeClock, fake_clock, http_error, isolated

PATIENCE = 40.0
ROOT = Path(__file__).parents[2]
SECRET = "T0PSECRET"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
Answer = bytes | Callable[[socket.socket], None]


class Server:
    """Answers each request with the next answer, the last one again and again."""

    def __init__(self, *answers: Answer) -> None:
        self.answers: list[Answer] = list(answers) or [OK]
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.arrived = threading.Semaphore(0)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/hook/{SECRET}?token={SECRET}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in self.requests]

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.arrived.acquire(timeout=PATIENCE)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(65_536)
            head, _, body = data.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, value in (x.split(": ", 1) for x in lines)}
            while len(body) < int(headers.get("content-length", 0)):
                body += connection.recv(65_536)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            self.requests.append((first, headers, body))
            self.arrived.release()
            if callable(answer):
                answer(connection)
            else:
                connection.sendall(answer)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def status(number: int, headers: str = "") -> bytes:
    return f"HTTP/1.1 {number} X\r\nContent-Length: 0\r\n{headers}\r\n".encode()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*answers: Answer) -> Server:
        servers.append(Server(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def bench(reason: object, key: str = "groq/llama") -> None:
    bench_model(key, 600, reason=str(reason))


@failover(chain=["groq/llama"])
def fails(target: Target) -> str:
    raise http_error(400)


# What is sent.


def test_a_message_has_id_type_moment_source_and_data(clock: FakeClock, serve: Any) -> None:
    """A POST of JSON; the data are the fields of the event."""
    server = serve()
    exporter = webhook.install(server.url)

    bench("why")
    assert exporter.flush(PATIENCE)

    ((first, headers, _),) = server.requests
    assert first == f"POST /hook/{SECRET}?token={SECRET} HTTP/1.1"
    assert "application/json" == headers["content-type"]
    assert "x-signature-256" not in headers
    (message,) = server.messages
    assert ["id", "type", "at", "source", "repeated", "data"] == list(message)
    assert re.fullmatch("[0-9a-f]{32}", message["id"])
    assert ("TargetBenched", 0) == (message["type"], message["repeated"])
    assert f"{socket.gethostname()}:{os.getpid()}" == message["source"]
    assert datetime.fromisoformat(message["at"]).timestamp() == clock.wall()
    assert ("groq/llama", "", "why") == tuple(
        message["data"][name] for name in ("target", "call_id", "reason")
    )


def test_benches_their_ends_and_failed_calls_are_sent_by_default(serve: Any) -> None:
    """What somebody has to act on; other types are named."""
    server = serve()
    exporter = webhook.install(server.url, every=0)
    bench("one", "openai")
    unbench_model("openai")
    with pytest.raises(ChainExhaustedError):
        fails()
    assert exporter.flush(PATIENCE)
    assert ["TargetBenched", "TargetUnbenched", "CallFailed"] == [
        each["type"] for each in server.messages
    ]
    exporter()

    exporter = webhook.install(server.url, CallFailed)
    bench("two", "cohere")
    assert exporter.flush(PATIENCE)
    assert 3 == len(server.requests)


@pytest.mark.parametrize("secret", ["kéy", b"\xffkey"])
def test_a_secret_signs_the_body(serve: Any, secret: str | bytes) -> None:
    """`X-Signature-256: sha256=<hex HMAC of the body>`."""
    server = serve()
    exporter = webhook.install(server.url, secret=secret)
    bench("why")
    assert exporter.flush(PATIENCE)

    ((_, headers, body),) = server.requests
    key = secret.encode() if isinstance(secret, str) else secret
    expected = hmac.new(key, body, hashlib.sha256).hexdigest()
    assert f"sha256={expected}" == headers["x-signature-256"]


def test_credentials_in_the_url_become_a_header(serve: Any) -> None:
    """They do not travel in the path or the Host."""
    server = serve()
    exporter = webhook.install(f"http://user:p%40ss@127.0.0.1:{server.port}/x#part")
    bench("why")
    assert exporter.flush(PATIENCE)

    ((first, headers, _),) = server.requests
    assert "POST /x HTTP/1.1" == first
    assert f"127.0.0.1:{server.port}" == headers["host"]
    assert "Basic dXNlcjpwQHNz" == headers["authorization"]


# When it is sent.


def _told(server: Server) -> list[tuple[str, str, int]]:
    return [
        (each["type"], each["data"].get("reason", ""), each["repeated"]) for each in server.messages
    ]


def test_the_first_goes_at_once_and_the_last_of_the_rest_at_the_end(
    clock: FakeClock, serve: Any
) -> None:
    """Of those in the next seconds the last goes, with their number; then the next window begins."""
    server = serve()
    exporter = webhook.install(server.url, TargetBenched)
    for number in range(4):
        bench(number)
        clock.advance(1)
        assert exporter.flush(PATIENCE)
    assert [("TargetBenched", "0", 0)] == _told(server)

    clock.advance(55)
    assert exporter.flush(PATIENCE)
    assert 1 == len(server.requests)
    clock.advance(1)
    assert exporter.flush(PATIENCE)
    assert [("TargetBenched", "0", 0), ("TargetBenched", "3", 3)] == _told(server)

    bench("soon")
    assert exporter.flush(PATIENCE)
    assert 2 == len(server.requests)
    clock.advance(60)
    assert exporter.flush(PATIENCE)
    assert ("TargetBenched", "soon", 1) == _told(server)[-1]
    clock.advance(60)
    assert exporter.flush(PATIENCE)
    bench("first again")
    assert exporter.flush(PATIENCE)
    assert ("TargetBenched", "first again", 0) == _told(server)[-1]
    assert 4 == len({each["id"] for each in server.messages})


def test_the_last_message_about_a_bench_is_its_present_state(clock: FakeClock, serve: Any) -> None:
    """A bench and its end are one type for this; another target and type have their own."""
    server = serve()
    exporter = webhook.install(server.url)
    bench("one")
    unbench_model("groq/llama")
    bench("two")
    unbench_model("groq/llama")
    bench("other", "openai")
    with pytest.raises(ChainExhaustedError):
        fails()
    assert exporter.flush(PATIENCE)
    assert ["TargetBenched", "TargetBenched", "CallFailed"] == [x[0] for x in _told(server)]

    clock.advance(60)
    assert exporter.flush(PATIENCE)

    assert ("TargetUnbenched", "manual", 3) == _told(server)[-1]
    assert 4 == len(server.requests)


def test_without_every_each_event_is_sent(clock: FakeClock, serve: Any) -> None:
    """`every=0` holds nothing back."""
    server = serve()
    exporter = webhook.install(server.url, TargetBenched, every=0)
    for number in range(3):
        bench(number)
    assert exporter.flush(PATIENCE)

    assert ["0", "1", "2"] == [reason for _, reason, _ in _told(server)]


def test_the_thread_sends_and_ends_windows_by_itself(serve: Any) -> None:
    """Without a flush, in real time."""
    server = serve()
    webhook.install(server.url, TargetBenched, every=0.05)
    bench("one")
    server.wait()
    bench("two")
    server.wait()

    assert ("one", "two") == (_told(server)[0][1], _told(server)[-1][1])


def test_a_bench_that_runs_out_is_told_without_traffic(serve: Any) -> None:
    """An alert must resolve also if nobody calls the target any more."""
    server = serve()
    webhook.install(server.url, every=0)
    bench_model("groq", 0.05)

    server.wait(2)

    assert ("TargetUnbenched", "expired", 0) == _told(server)[-1]


def test_uninstalling_sends_what_is_held_back(clock: FakeClock, serve: Any) -> None:
    """Also the end of an isolated state; the last message is the present state."""
    server = serve()
    with isolated():
        webhook.install(server.url)
        bench("one")
        unbench_model("groq/llama")

    assert [("TargetBenched", 0), ("TargetUnbenched", 1)] == [(x[0], x[2]) for x in _told(server)]


def test_the_exit_sends_what_is_held_back(serve: Any) -> None:
    """A process that ends does not leave an alert open."""
    server = serve()
    code = (
        "from resilient_llm import bench_model, unbench_model\n"
        "from resilient_llm.observers import webhook\n"
        f"webhook.install({server.url!r})\n"
        "bench_model('groq'); unbench_model('groq')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        timeout=PATIENCE * 2,
        capture_output=True,
        text=True,
        check=True,
    )

    assert ["TargetBenched", "TargetUnbenched"] == [each["type"] for each in server.messages]
    assert "thread" not in done.stderr


# When it is not taken.


def _hang(connection: socket.socket) -> None:
    while connection.recv(1):
        pass


def _drip(connection: socket.socket) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 100_000:
        connection.sendall(bytes([byte]))
        time.sleep(0.01)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status(500), "status 500"),
        (status(404), "status 404"),
        (status(301, "Location: /other\r\n"), "status 301"),
        (status(307, "Location: /other\r\n"), "status 307"),
        (_hang, "timeout"),
        (_drip, "timeout"),
        (_reset, "ConnectionResetError|RemoteDisconnected"),
        (lambda connection: None, "RemoteDisconnected|ConnectionResetError"),
        (b"nonsense\r\n\r\n", "BadStatusLine"),
    ],
)
def test_a_message_that_is_not_taken_is_tried_three_times(
    clock: FakeClock,
    serve: Any,
    caplog: pytest.LogCaptureFixture,
    answer: Answer,
    reason: str,
) -> None:
    """With the same id; then it is dropped and counted, with one log line also for the next ones."""
    configure(logging=False)
    server = serve(answer)
    exporter = webhook.install(server.url, every=0, timeout=0.2, secret="s3cr3t")
    bench("one")
    assert not exporter.flush(PATIENCE)

    assert 3 == len(server.requests)
    assert 1 == len({each["id"] for each in server.messages})
    assert 1 == exporter.dropped
    bench("two")
    assert not exporter.flush(PATIENCE)
    assert 2 == exporter.dropped
    (record,) = caplog.records
    assert re.search(rf"3 tries \((?:{reason})\)", record.getMessage())
    assert not record.exc_info

    server.answers = [OK]
    bench("three")
    assert exporter.flush(PATIENCE)
    assert 2 == exporter.dropped


class Odd(BaseException):
    """Is not an Exception, as `gevent.Timeout` is not."""


class RaisingAlarm:
    """A limit that is over at once and says so by raising, as that of gevent does."""

    def __init__(self, *, own: bool = True) -> None:
        self.error = Odd() if own else None

    def set(self, seconds: float) -> None:
        raise self.error or Odd

    def off(self) -> bool:
        return False  # it may come a little early

    def raised(self, error: BaseException) -> bool:
        return error is self.error

    def close(self) -> None:
        pass


def test_a_limit_that_raises_what_is_no_exception_is_a_timeout(
    clock: FakeClock, serve: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is dropped after three tries and counted, and the next ones are sent."""
    configure(logging=False)
    server = serve()
    exporter = webhook.install(server.url, every=0)
    with monkeypatch.context() as patched:
        patched.setattr("resilient_llm.observers._http.alarm", RaisingAlarm)
        bench("one")
        assert not exporter.flush(PATIENCE)

    assert 1 == exporter.dropped
    (record,) = caplog.records
    assert "3 tries (timeout)" in record.getMessage()
    bench("two")
    assert exporter.flush(PATIENCE)
    assert ["two"] == [each["data"]["reason"] for each in server.messages]


def test_what_interrupts_each_try_drops_the_message_in_the_end(
    clock: FakeClock, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted, and it is not the limit of the webhook, so it goes on to the thread."""
    monkeypatch.setattr("resilient_llm._runtime.background._AFTER_FAILURE", 0.001)
    configure(logging=False)
    server = serve()
    exporter = webhook.install(server.url, every=0)
    with monkeypatch.context() as patched:
        patched.setattr("resilient_llm.observers._http.alarm", lambda: RaisingAlarm(own=False))
        bench("one")
        for _ in range(3):
            exporter.flush(PATIENCE)

    assert 1 == exporter.dropped
    bench("two")
    assert exporter.flush(PATIENCE)
    assert ["two"] == [each["data"]["reason"] for each in server.messages]


def test_a_webhook_keeps_to_its_limit_under_gevent(serve: Any) -> None:
    """Its thread is a greenlet there, and survives; what is dropped is counted, also at the exit."""
    pytest.importorskip("gevent")
    server = serve(_hang, _hang, _hang, OK)
    code = (
        "from gevent import monkey; monkey.patch_all()\n"
        "from resilient_llm import bench_model, configure\n"
        "from resilient_llm.observers import webhook\n"
        "from resilient_llm.testing import fake_clock\n"
        "configure(logging=False)\n"
        "with fake_clock():\n"
        f"    exporter = webhook.install({server.url!r}, every=0, timeout=0.2)\n"
        "    bench_model('one')\n"
        f"    print(exporter.flush({PATIENCE}), exporter.dropped)\n"
        "    bench_model('two')\n"
        f"    print(exporter.flush({PATIENCE}), exporter.dropped)\n"
        "    exporter()\n"
        f"at_exit = webhook.install({server.url!r}, every=0, timeout=0.2)\n"
        "bench_model('three')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        timeout=PATIENCE * 2,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "False 1\nTrue 1\n" == done.stdout, done.stderr
    assert "Timeout" not in done.stderr
    targets = [each["data"]["target"] for each in server.messages]
    assert ["one"] * 3 + ["two", "three"] == targets, done.stderr


def test_a_second_try_may_succeed(clock: FakeClock, serve: Any) -> None:
    """Nothing is dropped then, and the message has the id of the first try."""
    server = serve(status(503), status(429), OK)
    exporter = webhook.install(server.url)
    bench("one")

    assert exporter.flush(PATIENCE)

    assert 3 == len(server.requests)
    assert 1 == len({each["id"] for each in server.messages})
    assert 0 == exporter.dropped


def test_tries_are_apart_with_jitter(clock: FakeClock, serve: Any) -> None:
    """The second within a second, the third within two more, never at once."""
    server = serve(status(503))
    exporter = webhook.install(server.url, every=0)
    assert exporter.background is not None
    exporter.background._starts["holder"] = object()  # no thread is started
    hook: Any = exporter.background._work.__self__  # type: ignore[attr-defined]
    pauses: set[float] = set()
    for number in range(3):
        bench("one")
        for longest in (1.0, 2.0):
            assert not hook.work(float("inf"))
            pause = hook.due()
            assert longest / 2 <= pause <= longest
            pauses.add(pause)
            clock.advance(pause)
        assert number == exporter.dropped
        assert not hook.work(float("inf"))
        assert number + 1 == exporter.dropped

    assert (6, 9) == (len(pauses), len(server.requests))


@pytest.mark.parametrize(
    "body",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 202 OK\r\nContent-Length: 999999999\r\n\r\n" + b"x" * 100_000,
    ],
    ids=["204", "a body that is huge and does not end"],
)
def test_the_body_of_an_answer_is_not_read(clock: FakeClock, serve: Any, body: bytes) -> None:
    """Any 2xx is success, whatever follows."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(body)
        _hang(connection)

    server = serve(answer)
    exporter = webhook.install(server.url)
    bench("one")

    assert exporter.flush(PATIENCE)
    assert (1, 0) == (len(server.requests), exporter.dropped)


def test_a_refused_connection_and_an_unknown_host_are_failures(
    clock: FakeClock, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As any other."""
    server = serve()
    server.close()
    exporter = webhook.install(server.url)
    bench("one")

    assert not exporter.flush(PATIENCE)
    assert 1 == exporter.dropped
    assert "ConnectionRefusedError" in caplog.text


def test_no_call_waits_for_a_webhook_that_hangs(serve: Any) -> None:
    """Neither a call nor a flush above its timeout; the full queue drops the oldest and counts."""
    server = serve(_hang)
    exporter = webhook.install(server.url, TargetBenched, AttemptSucceeded, queue=3, timeout=300)
    bench("first")
    server.wait()

    for number in range(10):
        bench(number, f"provider{number}")

    assert 7 == exporter.dropped
    began = time.monotonic()
    assert not exporter.flush(0.01)
    assert time.monotonic() - began < 5
    server.answers = [OK]
    server.close()


def test_a_foreign_certificate_is_refused(
    clock: FakeClock,
    serve: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TLS is verified; with the certificate in the environment it is taken."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    made += ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    made += ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "ca.pem")]
    subprocess.run(made, check=True, capture_output=True, timeout=PATIENCE * 2)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    server = serve()
    plain = server._answer
    server._answer = lambda connection: _secured(context, connection, plain)
    url = f"https://127.0.0.1:{server.port}/"
    exporter = webhook.install(url)
    bench("one")
    assert not exporter.flush(PATIENCE)
    assert "SSLCertVerificationError" in caplog.text
    exporter()

    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    exporter = webhook.install(url)
    bench("two")
    assert exporter.flush(PATIENCE)
    assert 1 == len(server.requests)


def _secured(context: Any, connection: socket.socket, answer: Callable[[Any], None]) -> None:
    with contextlib.suppress(OSError):
        answer(context.wrap_socket(connection, server_side=True))


def test_proxies_of_the_environment_are_used(
    clock: FakeClock, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a service reaches the outside only through one; `no_proxy` makes exceptions."""
    proxy, server = serve(), serve()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    exporter = webhook.install("http://hooks.example/x", every=0)
    bench("one")
    assert exporter.flush(PATIENCE)
    assert "POST http://hooks.example/x HTTP/1.1" == proxy.requests[0][0]
    exporter()

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    exporter = webhook.install(server.url, every=0)
    bench("two")
    assert exporter.flush(PATIENCE)
    assert (1, 1) == (len(proxy.requests), len(server.requests))


# Options, and what must not be shown.


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://host/{SECRET}",
        f"file:///{SECRET}",
        f"//host/{SECRET}",
        f"http:///{SECRET}",
        f"http://host:port/{SECRET}",
        f"http://host:99999/{SECRET}",
        f"http://host:0/{SECRET}",
        f"http://[{SECRET}",
        f"http://ho\u2100st/{SECRET}",
        f"https://host/ {SECRET}",
        f"https://host/\r\nX: {SECRET}",
        f"https://host/é{SECRET}",
        "",
        None,
        SECRET.encode(),
    ],
)
def test_a_wrong_url_is_refused_without_showing_it(url: Any) -> None:
    """Only http and https, with a host; neither the error nor what it came from has the URL."""
    for install in (webhook.install, webhook.slack, lambda x: webhook.pagerduty("k", url=x)):
        with pytest.raises(ConfigurationError, match="url is not allowed") as caught:
            install(url)
        error: BaseException | None = caught.value
        while error is not None:
            assert (
                SECRET not in f"{error!r}{error.__notes__ if hasattr(error, '__notes__') else ''}"
            )
            error = error.__context__ or error.__cause__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": -1}, "every=-1"),
        ({"every": float("inf")}, "every=inf"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": None}, "timeout=None"),
        ({"queue": 0}, "queue=0"),
        ({"queue": True}, "queue=True"),
        ({"secret": ""}, "secret is not allowed"),
        ({"secret": 3}, "secret is not allowed"),
        ({"secret": "\ud800"}, "secret is not allowed"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    """Where it is written, also for the shapes; nothing is installed then."""
    for install in (webhook.install, webhook.slack, lambda url, **o: webhook.pagerduty("k", **o)):
        with pytest.raises(ConfigurationError, match=message):
            install("http://127.0.0.1:9/", **options)
    with pytest.raises(ConfigurationError, match="is no type of event"):
        webhook.install("http://127.0.0.1:9/", "CallFailed")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"has no option 'evry': did you mean every\?"):
        webhook.slack("http://127.0.0.1:9/", evry=3)
    with pytest.raises(ConfigurationError, match=r"has no option 'evry': did you mean every\?"):
        webhook.pagerduty("k", evry=3)


@pytest.mark.parametrize(
    "key",
    [
        *("", " ", None, 3, b"R0UTING", "R0UTING\n", " R0UTING", "R0U TING", "R0U\0TING"),
        *("R0UTING\x7f", "R0UTING\u200b", "R0UTING\xa0", "R0UTING\ud800"),
    ],
)
def test_a_wrong_routing_key_is_refused_and_not_shown(key: Any) -> None:
    """A line break of the file that it was read from would have every alert refused."""
    with pytest.raises(ConfigurationError, match="routing_key is not allowed") as caught:
        webhook.pagerduty(key)

    assert "R0U" not in "".join(traceback.format_exception_only(caught.value))


def test_the_url_and_the_secret_are_not_pickled() -> None:
    """A pickle would have them in the clear."""
    with pytest.raises(TypeError, match="cannot be pickled") as refused:
        pickle.dumps(Endpoint(f"http://127.0.0.1:9/{SECRET}", SECRET))

    assert SECRET not in str(refused.value)


def test_nothing_secret_is_shown(
    serve: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """URL, routing key and secret are in no repr, log, thread name or traceback."""
    caplog.set_level(0)
    server = serve(status(500))
    with fake_clock():
        exporters = [
            webhook.install(server.url, secret=SECRET, every=0),
            webhook.slack(server.url, secret=SECRET, every=0),
            webhook.pagerduty(SECRET, url=server.url, every=0),
        ]
        bench("one")
        for exporter in exporters:
            assert not exporter.flush(PATIENCE)
        seen: list[object] = [*exporters]
        for exporter in exporters:
            assert exporter.background is not None
            hook: Any = exporter.background._work.__self__  # type: ignore[attr-defined]
            seen += [hook, exporter.background, exporter.background._work, hook._endpoint]
            seen += [hook._shape, hook.put, vars(hook)]
    shown = "".join(map(repr, seen)) + caplog.text + "".join(capfd.readouterr())
    shown += "".join(thread.name for thread in threading.enumerate())
    try:
        webhook.install(f"ftp://{SECRET}/")
    except ConfigurationError as error:
        shown += "".join(traceback.format_exception(error))

    assert SECRET not in shown
    assert str(server.port) not in shown


# Under an instrumentation of OpenTelemetry.


def test_no_span_of_an_instrumented_urllib_has_the_url(serve: Any) -> None:
    """With the instrumentation itself, which makes a span of any other request."""
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.urllib")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    from opentelemetry.sdk.trace import TracerProvider

    exporter, tracers, server = memory.InMemorySpanExporter(), TracerProvider(), serve()
    tracers.add_span_processor(export.SimpleSpanProcessor(exporter))
    instrumentor = instrumentation.URLLibInstrumentor()
    instrumentor.instrument(tracer_provider=tracers)
    try:
        with urllib.request.urlopen(server.url, timeout=PATIENCE):
            assert 1 == len(exporter.get_finished_spans())
        exporter.clear()
        uninstall = webhook.install(server.url)
        bench_model("openai/gpt", 60)
        assert uninstall.flush(PATIENCE)
        uninstall()
    finally:
        instrumentor.uninstrument()

    ((_, traced, _), (_, headers, _)) = server.requests
    assert "traceparent" in traced
    assert "traceparent" not in headers
    assert () == exporter.get_finished_spans()


def test_instrumentations_are_off_while_a_message_is_sent(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of HTTP clients and all others, in the sending code alone."""
    utils = pytest.importorskip("opentelemetry.instrumentation.utils")
    asks = (utils.is_http_instrumentation_enabled, utils.is_instrumentation_enabled)
    seen: list[list[bool]] = []
    opened = urllib.request.OpenerDirector.open

    def look(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append([ask() for ask in asks])
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", look)
    uninstall = webhook.install(serve().url)
    bench_model("openai/gpt", 60)
    assert uninstall.flush(PATIENCE)
    uninstall()

    assert [[False, False]] == seen
    assert [True, True] == [ask() for ask in asks]


def test_sending_loads_no_opentelemetry(serve: Any) -> None:
    """There is no instrumentation to switch off in a process without it."""
    server = serve()
    code = """
        import sys
        from resilient_llm import bench_model
        from resilient_llm.observers import webhook

        uninstall = webhook.install(sys.argv[1])
        bench_model("openai/gpt", 60)
        assert uninstall.flush(20)
        assert not [name for name in sys.modules if name.startswith("opentelemetry")]
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), server.url],
        check=True,
        cwd=ROOT,
        timeout=60,
    )

    assert ["TargetBenched"] == [each["type"] for each in server.messages]


# Slack and PagerDuty.


def test_slack_gets_a_text_that_is_escaped(clock: FakeClock, serve: Any) -> None:
    """A reason cannot mention a channel or make a link, and stays on one line."""
    server = serve()
    exporter = webhook.slack(server.url, TargetBenched, every=0)
    bench("<!channel> & <http://x|y>\nnext\x1b[31m")
    assert exporter.flush(PATIENCE)

    (message,) = server.messages
    assert ["text"] == list(message)
    text = message["text"]
    assert text.startswith("TargetBenched groq/llama: ")
    assert "&lt;!channel&gt; &amp; &lt;http://x|y&gt;\\nnext\\x1b[31m" in text
    assert not re.search(r"[<>\n\x1b]|&(?!amp;|lt;|gt;)", text)
    assert f"{socket.gethostname()}:{os.getpid()}" in text


def test_pagerduty_triggers_on_a_bench_and_resolves_on_its_end(
    clock: FakeClock, serve: Any
) -> None:
    """Both with the dedup key of source and key; failed calls are not sent."""
    server = serve()
    exporter = webhook.pagerduty("R0UTING", url=server.url, every=0)
    bench("why")
    unbench_model("groq/llama")
    with pytest.raises(ChainExhaustedError):
        fails()
    assert exporter.flush(PATIENCE)

    trigger, resolve = server.messages
    source = f"{socket.gethostname()}:{os.getpid()}"
    assert ("R0UTING", "trigger") == (trigger["routing_key"], trigger["event_action"])
    assert ("R0UTING", "resolve") == (resolve["routing_key"], resolve["event_action"])
    assert f"{source}:groq/llama" == trigger["dedup_key"] == resolve["dedup_key"]
    payload = trigger["payload"]
    assert {"summary", "source", "severity"} <= set(payload)
    assert ("error", source) == (payload["severity"], payload["source"])
    assert "why" in payload["summary"]
    assert "why" == payload["custom_details"]["data"]["reason"]


def test_a_long_dedup_key_is_a_hash(clock: FakeClock, serve: Any) -> None:
    """Above 255 characters: the source and a hash, the same for both, another for another key."""
    server = serve()
    exporter = webhook.pagerduty("k", url=server.url, every=0)
    for end in ("a", "b"):
        bench("why" * 50, f"groq/{'x' * 300}{end}")
        unbench_model(f"groq/{'x' * 300}{end}")
    assert exporter.flush(PATIENCE)

    keys = [each["dedup_key"] for each in server.messages]
    assert all(len(key) <= 255 for key in keys)
    assert all(key.startswith(f"{socket.gethostname()}:{os.getpid()}:") for key in keys)
    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert len(server.messages[0]["payload"]["summary"]) <= 1024


def test_pagerduty_is_not_paged_for_what_is_not_enforced(clock: FakeClock, serve: Any) -> None:
    """Mode `metrics_only` benches nothing."""
    server = serve()
    exporter = webhook.pagerduty("k", url=server.url, every=0)
    other = webhook.install(server.url, TargetBenched, every=0)
    guard = breaker("groq/llama", mode="metrics_only", failures=1)
    guard.record(http_error(500), 0.1)
    assert exporter.flush(PATIENCE)
    assert other.flush(PATIENCE)

    assert [False] == [each["data"]["enforced"] for each in server.messages]


def benched(key: str, source: str) -> None:
    """Emit that a process has benched a key."""
    runtime.registry.circuit(key).emit(
        "TargetBenched",
        runtime.clock(),
        kind=None,
        reason="incident",
        trigger="manual",
        until=math.inf,
        retry_after=None,
        source=source,
    )


def unbenched(key: str, source: str) -> None:
    """Emit that a process has unbenched a key."""
    runtime.registry.circuit(key).emit(
        "TargetUnbenched", runtime.clock(), reason="manual", source=source
    )


def test_an_alert_is_named_by_the_process_that_benched(clock: FakeClock, serve: Any) -> None:
    """Processes that share a store raise one alert, and each resolves what it has raised.

    It keeps its name while another process extends the bench, and the next one has another.
    """
    server = serve()
    exporter = webhook.pagerduty("k", url=server.url, every=0)
    benched("groq/llama", "web-1:7")
    benched("groq/llama", "web-2:8")
    unbenched("groq/llama", "web-3:9")
    benched("groq/llama", "web-2:8")
    unbenched("groq/llama", "local")
    benched("groq/llama", "local")
    unbenched("groq/llama", "web-1:7")
    assert exporter.flush(PATIENCE)

    source = f"{socket.gethostname()}:{os.getpid()}"
    assert [
        ("trigger", "web-1:7:groq/llama"),
        ("trigger", "web-1:7:groq/llama"),
        ("resolve", "web-1:7:groq/llama"),
        ("trigger", "web-2:8:groq/llama"),
        ("resolve", "web-2:8:groq/llama"),
        ("trigger", f"{source}:groq/llama"),
        ("resolve", f"{source}:groq/llama"),
    ] == [(each["event_action"], each["dedup_key"]) for each in server.messages]
    first = server.messages[0]["payload"]
    assert "source web-1:7" in first["summary"]
    assert (source, "web-1:7") == (first["source"], first["custom_details"]["data"]["source"])


def test_a_process_is_named_as_others_see_it(clock: FakeClock, serve: Any) -> None:
    """`state_name` is the source of messages, and names the alerts of what this process benched."""
    configure(state_name="shop-web")
    server = serve()
    exporters = [
        webhook.install(server.url, TargetBenched),
        webhook.slack(server.url, TargetBenched),
        webhook.pagerduty("k", url=server.url),
    ]
    bench("why")
    assert all(each.flush(PATIENCE) for each in exporters)

    slack, plain, alert = (
        next(each for each in server.messages if name in each)
        for name in ("text", "source", "dedup_key")
    )
    assert "shop-web" == plain["source"]
    assert slack["text"].endswith("[shop-web]")
    assert "shop-web:groq/llama" == alert["dedup_key"]
    assert "shop-web" == alert["payload"]["source"]


def test_alerts_that_are_remembered_are_bounded(
    clock: FakeClock, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest is forgotten, and is resolved by the name of this process."""
    monkeypatch.setattr(webhook, "_MOST_RAISED", 2)
    server = serve()
    exporter = webhook.pagerduty("k", url=server.url, every=0)
    for key in ("a", "b", "b", "c"):
        benched(key, "web-1:7")
    for key in ("a", "b", "c"):
        unbenched(key, "web-1:7")
    assert exporter.flush(PATIENCE)

    source = f"{socket.gethostname()}:{os.getpid()}"
    assert [f"{source}:a", "web-1:7:b", "web-1:7:c"] == [
        each["dedup_key"] for each in server.messages if each["event_action"] == "resolve"
    ]


def test_the_last_message_about_a_store_is_its_present_state(clock: FakeClock, serve: Any) -> None:
    """Its outage and its end are one type for `every`, of no target, and sent if they are named."""
    server = serve()
    exporter = webhook.install(server.url, StoreUnavailable, StoreAvailable)
    dispatcher = runtime.dispatcher
    fault = {"url": "redis://cache", "reason": "timeout", "type_name": "TimeoutError"}
    dispatcher.emit(dispatcher.of_process, "StoreUnavailable", runtime.clock(), None, **fault)
    dispatcher.emit(
        dispatcher.of_process,
        "StoreAvailable",
        runtime.clock(),
        None,
        url="redis://cache",
        seconds=2.5,
    )
    dispatcher.emit(dispatcher.of_process, "StoreUnavailable", runtime.clock(), None, **fault)
    dispatcher.emit(
        dispatcher.of_process,
        "StoreAvailable",
        runtime.clock(),
        None,
        url="redis://cache",
        seconds=3.5,
    )
    assert exporter.flush(PATIENCE)
    clock.advance(61)
    assert exporter.flush(PATIENCE)

    first, last = server.messages
    assert ("StoreUnavailable", 0) == (first["type"], first["repeated"])
    assert {"target": "", "call_id": "", **fault} == first["data"]
    assert ("StoreAvailable", 3, 3.5) == (last["type"], last["repeated"], last["data"]["seconds"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_sends_its_own(serve: Any) -> None:
    """Its queue, windows and count are empty; its source has its own pid."""
    server = serve()
    exporter = webhook.install(server.url, TargetBenched)
    bench("parent")
    assert exporter.flush(PATIENCE)
    bench("held back in the parent")
    exporter.drop(2)

    child = os.fork()
    if child == 0:
        code = 1
        try:
            with contextlib.suppress(BaseException):
                assert 0 == exporter.dropped
                bench("child")
                assert exporter.flush(PATIENCE)
                code = 0
        finally:
            os._exit(code)
    _, state = os.waitpid(child, 0)

    assert 0 == os.waitstatus_to_exitcode(state)
    assert ["parent", "child"] == [reason for _, reason, _ in _told(server)]
    assert server.messages[1]["source"].endswith(f":{child}")


def test_a_storm_from_many_threads_costs_one_message_a_target(clock: FakeClock, serve: Any) -> None:
    """No event is lost from the count, with the smallest switch interval."""
    server = serve()
    exporter = webhook.install(server.url, CallFailed)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def storm() -> None:
        for _ in range(200):
            with contextlib.suppress(ChainExhaustedError):
                fails()

    threads = [threading.Thread(target=storm) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert exporter.flush(PATIENCE)
    clock.advance(60)
    assert exporter.flush(PATIENCE)

    assert [("CallFailed", "", 0), ("CallFailed", "", 799)] == _told(server)


def test_events_of_ends_have_types() -> None:
    """The names of the default events are classes of events."""
    defaults = webhook._classes(webhook._DEFAULTS)

    assert (TargetBenched, TargetUnbenched, CallFailed, BudgetWarning, BudgetExceeded) == defaults


def test_an_agent_that_runs_away_is_told_of(serve: Any) -> None:
    """Its type is named, since it is none of the defaults."""
    server = serve()
    exporter = webhook.install(server.url, ToolLoopDetected)

    @failover("groq/llama", tool_loop="warn")
    def step(target: Target, messages: list[Any]) -> str:
        return "…"

    function = {"name": "search", "arguments": "{}"}
    step([{"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}] * 3)

    assert exporter.flush(PATIENCE)
    (message,) = server.messages
    assert ("ToolLoopDetected", "groq/llama") == (message["type"], message["data"]["target"])
    assert ("search", 3, "warn") == tuple(
        message["data"][name] for name in ("tool", "repeats", "action")
    )
