"""The watchdog ends reads that take too long, with real sockets and the real clock."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import (
    AttemptFailed,
    ErrorKind,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    configure,
    failover,
    health,
)
from resilient_llm._runtime import watchdog
from resilient_llm.testing import capture_events

STALLS, WORKS = "stalls/a", "works/b"
LIMIT = 0.1
"""Seconds of a limit that is to pass."""
IMPATIENT = Target(STALLS, stream=StreamPolicy(first_item_timeout=LIMIT))
AMPLE = 3.0
"""Seconds within which everything is over on a busy machine."""


class Server:
    """A server on loopback that sends some bytes or none, then stalls until it is closed.

    Attributes:
        ended: How many connections were ended by the other side.
    """

    def __init__(self, first: bytes, context: ssl.SSLContext | None = None) -> None:
        self.first = first
        self.ended = 0
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._closes = contextlib.ExitStack()
        self.port = self._listener.getsockname()[1]
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(2 * AMPLE)
            wire = connection
            if self._context is not None:
                wire = self._context.wrap_socket(connection, server_side=True)
                self._closes.callback(wire.close)
            request = b""
            while b"\r\n\r\n" not in request:
                request += wire.recv(4096)
            wire.sendall(self.first)
            while wire.recv(4096):
                pass
            self.ended += 1

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(AMPLE)
        self._closes.close()


HEADERS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
FIRST = HEADERS + b"5\r\nword\n\r\n"
SILENT_ = HEADERS + b"1\r\n\n\r\n"


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers that are closed after the test."""
    started: list[Server] = []

    def start(*args: Any) -> Server:
        started.append(Server(*args))
        return started[-1]

    yield start
    for server in started:
        server.close()


def _word(data: bytes) -> str:
    return "word" if b"word" in data else ""


REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def _plain_socket(port: int) -> Iterator[str]:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(REQUEST)
        while data := connection.recv(4096):
            yield _word(data)


def _socket_file(port: int) -> Iterator[str]:
    with (
        socket.create_connection(("127.0.0.1", port)) as connection,
        connection.makefile("rb") as lines,
    ):
        connection.sendall(REQUEST)
        for line in lines:
            if not line.strip().isdigit() and b":" not in line and b"HTTP" not in line:
                yield line.decode().strip()


def _http_client(port: int) -> Iterator[str]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        while line := response.readline():
            yield line.decode().strip()
    finally:
        connection.close()


def _httpx(port: int) -> Iterator[str]:
    import httpx

    with (
        httpx.Client(timeout=None, trust_env=False) as client,
        client.stream("GET", f"http://127.0.0.1:{port}") as got,
    ):
        yield from got.iter_lines()


def _requests(port: int) -> Iterator[str]:
    import requests

    with requests.Session() as session:
        session.trust_env = False
        with session.get(
            f"http://127.0.0.1:{port}", stream=True
        ) as got:  # the watchdog's is the limit
            for line in got.iter_lines(chunk_size=1):
                yield line.decode()


CLIENTS = {
    "socket": _plain_socket,
    "socket-file": _socket_file,
    "http.client": _http_client,
    "httpx": _httpx,
    "requests": _requests,
}


@dataclass
class Ended:
    """The outcome of one call, and how long it took."""

    items: list[str]
    error: Exception | None
    seconds: float


def _called(client: Callable[[int], Iterator[str]], port: int, **options: Any) -> Ended:
    stream = StreamPolicy(commit=bool, **options)

    patient = Target(WORKS, stream=StreamPolicy(first_item_timeout=AMPLE))

    @failover([STALLS, patient], attempts=1, stream=stream)
    def ask(target: Target) -> Iterator[str]:
        if target.key == WORKS:
            yield "other"
        else:
            yield from client(port)

    items: list[str] = []
    began = time.perf_counter()
    error: Exception | None = None
    try:
        items.extend(ask())
    except Exception as caught:
        error = caught
    return Ended(items, error, time.perf_counter() - began)


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
@pytest.mark.parametrize(
    "first", [b"", HEADERS, SILENT_], ids=["nothing", "headers", "an empty line"]
)
def test_a_thread_that_waits_for_the_first_content_is_ended(
    client: Callable[[int], Iterator[str]], first: bytes, serve: Callable[..., Server]
) -> None:
    """Before the headers or after, the wait ends at its limit and the next target answers."""
    server = serve(first)

    with capture_events(AttemptFailed) as failed:
        ended = _called(client, server.port, first_item_timeout=LIMIT)

    assert ["other"] == ended.items
    assert LIMIT <= ended.seconds < AMPLE
    assert [(STALLS, ErrorKind.TRANSIENT, "timeout")] == [
        (each.target, each.kind, each.reason) for each in failed
    ]


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_a_thread_that_waits_for_the_next_item_is_ended(
    client: Callable[[int], Iterator[str]], serve: Callable[..., Server]
) -> None:
    """In the middle of a stream the wait ends as well, as an interruption by a timeout."""
    server = serve(FIRST)

    ended = _called(client, server.port, idle_timeout=LIMIT)

    assert ["word"] == [item for item in ended.items if item]
    assert isinstance(ended.error, StreamInterruptedError)
    assert isinstance(ended.error.__cause__, TimeoutError)
    assert ended.seconds < AMPLE
    assert 1 == health()[STALLS].errors


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate with its key, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    made = subprocess.run(  # fixed arguments
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", "-", "-out", "-", "-days", "2", "-subj", "/CN=localhost"],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("openssl made no certificate")
    path.write_bytes(made.stdout)
    return path


def _tls_httpx(context: ssl.SSLContext) -> Callable[[int], Iterator[str]]:
    def read(port: int) -> Iterator[str]:
        import httpx

        with (
            httpx.Client(timeout=None, verify=context, trust_env=False) as client,
            client.stream("GET", f"https://127.0.0.1:{port}") as got,
        ):
            yield from got.iter_lines()

    return read


def _tls_socket(context: ssl.SSLContext) -> Callable[[int], Iterator[str]]:
    def read(port: int) -> Iterator[str]:
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as wire,
        ):
            wire.sendall(REQUEST)
            while data := wire.recv(4096):
                yield _word(data)

    return read


@pytest.mark.parametrize("client", [_tls_socket, _tls_httpx], ids=["socket", "httpx"])
@pytest.mark.parametrize("first", [b"", FIRST], ids=["before", "midway"])
def test_a_thread_that_waits_on_tls_is_ended(
    client: Callable[..., Any], first: bytes, certificate: Path, serve: Callable[..., Server]
) -> None:
    """The wait on an encrypted connection ends as well."""
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate)
    theirs = ssl.create_default_context()
    theirs.check_hostname = False
    theirs.verify_mode = ssl.CERT_NONE
    server = serve(first, ours)

    ended = _called(
        client(theirs),
        server.port,
        first_item_timeout=AMPLE if first else LIMIT,
        idle_timeout=LIMIT,
    )

    assert (["word"] if first else ["other"]) == [item for item in ended.items if item]
    assert ended.seconds < AMPLE
    assert (ended.error is not None) is bool(first)


def test_the_end_of_the_deadline_wakes_a_thread(serve: Callable[..., Server]) -> None:
    """``failover(timeout=)`` ends a wait in the middle of a stream."""
    from resilient_llm import DeadlineExceededError

    server = serve(FIRST)

    @failover([STALLS], timeout=0.2)
    def ask(target: Target) -> Iterator[str]:
        yield from _http_client(server.port)

    items: list[str] = []
    with pytest.raises(StreamInterruptedError) as caught:
        items.extend(ask())

    assert isinstance(caught.value, DeadlineExceededError)
    assert 0 == health([STALLS])[STALLS].errors


# --- What is not touched -----------------------------------------------------------------------


def _pair() -> tuple[socket.socket, socket.socket]:
    here, there = socket.socketpair()
    here.settimeout(AMPLE)
    there.settimeout(AMPLE)
    return here, there


def _still_works(here: socket.socket, there: socket.socket) -> bool:
    try:
        here.sendall(b"x")
        there.sendall(b"y")
        return (b"y", b"x") == (here.recv(1), there.recv(1))
    except OSError:
        return False


def _waits_for_no_socket() -> None:
    """Wait somewhere where no socket is, for longer than the limit."""
    lock = threading.Condition()
    with lock:
        lock.wait(3 * LIMIT)


def test_the_connection_of_a_caller_is_never_touched() -> None:
    """A thread that also serves a client keeps that connection while its provider hangs."""
    here, there = _pair()

    @failover([IMPATIENT, WORKS], attempts=1)
    def ask(target: Target) -> Iterator[str]:
        if target.key == STALLS:
            _waits_for_no_socket()
        yield target.key

    def handle(connection: socket.socket) -> list[str]:
        return list(ask())

    with here, there:
        assert [WORKS] == handle(here)
        assert _still_works(here, there)


def test_a_connection_that_the_guarded_function_merely_knows_is_not_touched() -> None:
    """A socket in the function's closure stays open while the function waits on something else."""
    here, there = _pair()

    @failover([IMPATIENT, WORKS], attempts=1)
    def ask(target: Target) -> Iterator[str]:
        if target.key == STALLS:
            here.sendall(b"x")  # the client may go on
            _waits_for_no_socket()
        yield target.key

    with here, there:
        assert [WORKS] == list(ask())
        assert b"x" == there.recv(1)
        assert _still_works(here, there)


def test_a_connection_of_the_object_that_asks_is_not_touched() -> None:
    """A handler with a guarded method keeps its client's connection while that method hangs."""
    here, there = _pair()

    class Handler:
        def __init__(self, request: socket.socket) -> None:
            self.request = request

        @failover([IMPATIENT, WORKS], attempts=1)
        def ask(self, target: Target) -> Iterator[str]:
            if target.key == STALLS:
                _waits_for_no_socket()
            yield target.key

    with here, there:
        assert [WORKS] == list(Handler(here).ask())
        assert _still_works(here, there)


def test_a_stream_in_time_is_left_alone() -> None:
    """Items that come in time end every limit: later, the same connection still works."""
    here, there = _pair()

    @failover([STALLS], stream=StreamPolicy(first_item_timeout=LIMIT, idle_timeout=LIMIT))
    def ask(target: Target) -> Iterator[str]:
        for _ in range(3):
            yield here.recv(1).decode()

    with here, there:
        there.sendall(b"abc")
        assert ["a", "b", "c"] == list(ask())
        waiting = threading.Thread(target=here.recv, args=(1,))
        waiting.start()
        time.sleep(2 * LIMIT)  # the real clock's: nothing may happen in this time
        there.sendall(b"x")
        waiting.join(AMPLE)
        assert _still_works(here, there)


def test_a_consumer_who_reads_its_own_socket_between_items_is_left_alone() -> None:
    """What the consumer does between two items, on sockets of its own, has no limit."""
    here, there = _pair()

    @failover([STALLS], stream=StreamPolicy(idle_timeout=LIMIT))
    def ask(target: Target) -> Iterator[str]:
        yield "a"
        yield "b"

    with here, there:
        timer = threading.Timer(3 * LIMIT, there.sendall, (b"x",))
        timer.start()
        got = []
        for item in ask():
            got.append(item)
            if item == "a":
                assert b"x" == here.recv(1)
        timer.join()
        assert ["a", "b"] == got
        assert _still_works(here, there)


def test_threads_are_woken_each_for_itself(serve: Callable[..., Server]) -> None:
    """Of many threads that wait at once, each is ended at its own limit, by one watchdog."""
    server = serve(HEADERS)
    ends: list[Ended] = []

    def calls() -> None:
        ends.append(_called(_http_client, server.port, first_item_timeout=LIMIT))

    configure(breakers={"*": {"mode": "disabled"}}, retry_budget=1.0)
    threads = [threading.Thread(target=calls) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * AMPLE)

    assert [["other"]] * 10 == [ended.items for ended in ends]
    assert 1 == len(
        [thread for thread in threading.enumerate() if thread.name == "resilient_llm-watchdog"]
    )


def test_nothing_is_kept_of_an_alarm_that_is_over(serve: Callable[..., Server]) -> None:
    """The watchdog forgets every alarm, whether it went off or not."""
    server = serve(HEADERS)
    before = len(watchdog._watchdog._alarms)

    _called(_http_client, server.port, first_item_timeout=LIMIT)
    _called(
        lambda port: iter(["a", "b"]), server.port, first_item_timeout=AMPLE, idle_timeout=AMPLE
    )

    assert before == len(watchdog._watchdog._alarms)


def test_a_consumer_who_stops_leaves_no_alarm() -> None:
    """A stream with limits that is left early, closed or just dropped, takes its alarm along."""

    @failover([STALLS], stream=StreamPolicy(idle_timeout=AMPLE))
    def ask(target: Target) -> Iterator[str]:
        yield from "abcdef"

    before = len(watchdog._watchdog._alarms)
    closed, dropped = ask(), ask()
    for stream in (closed, dropped):
        next(stream)
        next(stream)
    closed.close()
    del dropped, stream

    assert before == len(watchdog._watchdog._alarms)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_watchdog_of_a_child_process_works(serve: Callable[..., Server]) -> None:
    """After a fork the child starts its own watchdog, since the parent's thread is gone."""
    server = serve(HEADERS)
    _called(_http_client, server.port, first_item_timeout=LIMIT)  # the parent's thread runs

    child = os.fork()
    if child == 0:
        code = 1
        try:
            with contextlib.suppress(BaseException):
                from resilient_llm import reset

                reset()
                ended = _called(_http_client, server.port, first_item_timeout=LIMIT)
                code = 0 if ended.items == ["other"] and ended.seconds < AMPLE else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)

    assert 0 == os.waitstatus_to_exitcode(status)


def test_a_closed_socket_and_a_thread_that_is_gone_are_no_error() -> None:
    """Waking a thread that does not wait, or has ended, does nothing."""
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.ident is not None

    assert not watchdog.shut_down_read_of(thread.ident)
    assert not watchdog.shut_down_read_of(-1)


class Odd:
    """An object that raises when it is inspected, like a lazy proxy without its context."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]  # on purpose
        raise RuntimeError("do not look")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("do not look")


def test_objects_that_raise_are_passed_over() -> None:
    """The wait ends and no code of the objects in the waiting thread's variables is run."""
    here, there = _pair()
    began = threading.Event()

    class Holder:
        def __init__(self, connection: socket.socket) -> None:
            self._sock = connection

    def waits(odd: Any, holder: Any) -> bytes:
        # The odd object comes first; the socket is where clients' objects have it.
        began.set()
        return holder._sock.recv(1)

    with here, there:
        thread = threading.Thread(target=waits, args=(Odd(), Holder(here)), daemon=True)
        thread.start()
        assert began.wait(AMPLE)
        assert thread.ident is not None
        found = _until(lambda: watchdog.shut_down_read_of(thread.ident or 0))
        thread.join(AMPLE)

    assert found
    assert not thread.is_alive()


def _until(true: Callable[[], bool]) -> bool:
    """Ask until it is so, for as long as a busy machine may need."""
    ends_at = time.perf_counter() + AMPLE
    while not true():
        if time.perf_counter() > ends_at:
            return False
        time.sleep(0.01)  # the real clock's: another thread is on its way
    return True
