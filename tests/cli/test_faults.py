"""The commands against what is no service, or one that is ill."""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from resilient_llm.cli import _remote, events
from resilient_llm.cli._exits import CommandError, UsageError
from resilient_llm.cli._sse import Message, MessageReader
from tests.cli.conftest import Run
from tests.support.server import HOST, HungUpError, LoopbackServer, Request, unused_port

COMMANDS = (["benches"], ["bench", "groq"], ["unbench", "groq"], ["health"], ["chains"], ["events"])
SECRET = "hunter2-and-more"


def response(
    status: str = "200 OK",
    body: str = "[]",
    content_type: str = "application/json",
    **headers: str,
) -> bytes:
    """Return a whole answer."""
    fields = {"Content-Type": content_type, "Content-Length": str(len(body.encode()))} | headers
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n{body}".encode()


def problem(status: str, detail: str) -> bytes:
    escaped = detail.encode("unicode_escape").decode().replace("\\x", "\\u00")
    return response(status, f'{{"detail": "{escaped}"}}', "application/problem+json")


class Scripted(LoopbackServer):
    """Sends what it is given, one after another, the last for all that come after it; None hangs."""

    def __init__(self, *answers: bytes | None, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self.answers = list(answers)

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://{HOST}:{self.port}"

    def answer(self, connection: socket.socket, request: Request) -> None:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            self._over.wait(self.patience)
            raise HungUpError
        connection.sendall(answer)
        if b"Content-Length" not in answer:
            raise HungUpError


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENT_LLM_TOKEN", SECRET)


# No answer.


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: each[0])
def test_nobody_listens(run: Run, command: list[str]) -> None:
    """A service that is not there is exit 1, with its URL and the reason."""
    url = f"http://{HOST}:{unused_port()}"

    status, out, err = run(*command, "--admin", url)

    assert (1, "") == (status, out)
    assert f"resilient-llm {command[0]}: {url}/ cannot be reached: connection refused\n" == err


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b"])
def test_a_host_that_does_not_resolve(run: Run, host: str) -> None:
    """A name that nobody knows is said to be that."""
    status, _, err = run("benches", "--admin", f"http://{host}/llm")

    assert 1 == status
    assert "its host name does not resolve" in err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: each[0])
@pytest.mark.parametrize(
    "answers",
    [None, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n["],
    ids=["nothing", "half"],
)
def test_a_service_that_hangs(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: list[str], answers: bytes | None
) -> None:
    """An answer that does not come, or not to its end, is not waited for without end."""
    monkeypatch.setattr(_remote, "SLOWEST", 0.2)
    monkeypatch.setattr(events, "_SILENCE", 0.2)

    class Holding(Scripted):
        def answer(self, connection: socket.socket, request: Request) -> None:
            if answers is not None:
                connection.sendall(answers)
            self._over.wait(self.patience)
            raise HungUpError

    with Holding(answers) as server:
        status, out, err = run(*command, "--admin", server.url)

    assert (1, "") == (status, out)
    assert SECRET not in err


def test_ctrl_c_ends_a_command_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that hangs keeps nobody: Ctrl-C is exit 130 at once, and quiet."""
    with Scripted(None) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "resilient_llm", "benches", "--admin", server.url],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert server.hears(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)

    assert (130, "", "") == (process.returncode, out, err)


def test_a_drip_of_bytes_is_not_waited_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte from time to time keeps no command running: the whole answer has a limit."""
    monkeypatch.setattr(_remote, "SLOWEST", 0.3)

    class Dripping(Scripted):
        def answer(self, connection: socket.socket, request: Request) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not self._over.wait(0.02):
                connection.sendall(b" ")
            raise HungUpError

    with Dripping(b"") as server:
        status, _, err = run("benches", "--admin", server.url)

    assert 1 == status
    assert "no answer in time" in err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: each[0])
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n<html>",
        response(body="{not json"),
        response(body="[1, 2]"),
        response(body='"text"'),
        response(body="null"),
        response(body="[" * 100_000),
        response(body="\ud83d".encode("utf-8", "surrogatepass").decode("latin-1")),
        response("200 OK", "<html>sign in</html>", "text/html"),
        response("404 Not Found", "<html>nginx</html>", "text/html"),
        response("404 Not Found", "{bad", "application/problem+json"),
        response("500 Internal Server Error", "boom", "text/plain"),
        response("503 Service Unavailable", '{"error": 1}'),
        problem("403 Forbidden", "not you \x1b[31m"),
        problem("400 Bad Request", "x" * 100_000),
    ],
)  # fmt: skip
def test_what_is_no_admin_api(run: Run, command: list[str], answer: bytes) -> None:
    """Whatever answers: exit 1, one short line, no traceback, no token and no control character."""
    with Scripted(answer) as server:
        status, out, err = run(*command, "--admin", server.url)

    assert (1, "") == (status, out)
    assert err.startswith(f"resilient-llm {command[0]}: ")
    assert 1 == err.count("\n")
    assert err[:-1].isprintable()
    assert len(err) < 1000
    assert SECRET not in err


@pytest.mark.parametrize("command", ["health", "chains", "benches"])
def test_fields_of_wrong_types_are_not_a_traceback(run: Run, command: str) -> None:
    """Objects with other fields, of another release say, are shown as far as they go."""
    odd = (
        '[{"model": null, "key": 7, "remaining": "x", "until": [], "since": {}, "benched": [1],'
        ' "targets": [{"benched": 3, "state": []}, 5], "functions": {}, "last_error": "x",'
        ' "latency": true, "status": [], "manual": 1}, {}]'
    )
    body = f'{{"status": null, "targets": {odd}}}' if command == "health" else odd

    with Scripted(response(body=body)) as server:
        status, _, err = run(command, "--admin", server.url)

    assert (0, "") == (status, err)


# The token.


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 T", "308 P"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: each[0])
def test_a_redirect_is_not_followed(run: Run, command: list[str], status: str) -> None:
    """The token goes to nobody but the host that was named, whatever that one answers."""
    with Scripted(response()) as other:
        location = f"{other.url}/steal?key={SECRET}"
        with Scripted(response(status, "", Location=location)) as server:
            ended, out, err = run(*command, "--admin", server.url)

    assert (1, "") == (ended, out)
    assert [] == other.requests
    assert f"redirects to {other.url}," in err
    assert SECRET not in err
    assert f"Bearer {SECRET}" == server.requests[0].headers["authorization"]


def test_a_proxy_is_not_asked_for_this_machine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy of the environment does not get what is meant for loopback."""
    with Scripted(response()) as proxy, Scripted(response()) as server:
        monkeypatch.setenv("http_proxy", proxy.url)

        status, _, _ = run("benches", "--admin", server.url)

    assert 0 == status
    assert [] == proxy.requests


def test_a_proxy_is_asked_for_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other hosts are reached through the proxy of the environment."""
    with Scripted(response()) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)

        status, _, _ = run("benches", "--admin", "http://llm.invalid/llm")

    assert 0 == status
    assert "http://llm.invalid/llm/api/benches" == proxy.requests[0].path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that it signed itself, with its key, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    made = subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", "-", "-out", "-", "-days", "2", "-subj", "/CN=localhost",
         "-addext", f"subjectAltName=IP:{HOST}"],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("openssl made no certificate")
    path.write_bytes(made.stdout)
    return path


def test_certificates_are_verified(
    run: Run, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that nobody vouches for is refused, and gets no request; a trusted one is fine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    with Scripted(response(), tls=context) as server:
        untrusted = run("benches", "--admin", server.url)
        requests = list(server.requests)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusted = run("benches", "--admin", server.url)

    assert (1, "") == untrusted[:2]
    assert "its certificate is not trusted" in untrusted.err
    assert [] == requests
    assert 0 == trusted.status


@pytest.mark.parametrize(
    "url",
    [
        "shop/llm",
        "ftp://shop/llm",
        "http://",
        "http:///llm",
        f"http://user:{SECRET}@shop/llm",
        f"http://shop/llm?token={SECRET}",
        f"http://shop/#token={SECRET}",
        f"http://shop:x{SECRET}/",
        "http://[::1/",
        f"http://shop/\n{SECRET}",
        "http://shop/a b",
        "http://shöp/",
    ],
)
def test_a_url_that_is_none(run: Run, url: str) -> None:
    """A URL that cannot be asked is wrong use, and is not shown, since there may be a secret in it."""
    status, out, err = run("benches", "--admin", url)

    assert (2, "") == (status, out)
    assert "write --admin as https://host/path" in err
    assert SECRET not in err


@pytest.mark.parametrize("token", [f"{SECRET}\r\nX-Y: z", f"{SECRET} x", f"{SECRET}ü"])
def test_a_token_that_no_header_can_carry(run: Run, token: str) -> None:
    """A token with a newline, a blank or another letter is wrong use, and is not shown."""
    status, _, err = run("benches", "--admin", "http://127.0.0.1:1", "--token", token)

    assert 2 == status
    assert "the token" in err
    assert SECRET not in err


def test_a_newline_at_the_end_of_the_token_is_fine(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that was filled from a file has one."""
    monkeypatch.setenv("RESILIENT_LLM_TOKEN", f"{SECRET}\n")

    with Scripted(response()) as server:
        assert 0 == run("benches", "--admin", server.url).status

    assert f"Bearer {SECRET}" == server.requests[0].headers["authorization"]


def test_no_service_is_wrong_use(run: Run) -> None:
    """Without a URL the message says where it is written."""
    status, _, err = run("benches")

    assert 2 == status
    assert "write --admin URL or --state URL, or set RESILIENT_LLM_ADMIN" in err


def test_the_token_is_in_no_repr() -> None:
    """The client shows its URL alone."""
    client = _remote.AdminClient("https://shop/llm", SECRET)

    assert "AdminClient('https://shop/llm/')" == repr(client)
    with pytest.raises(UsageError):
        _remote.AdminClient("")


# Streams.

EVENTS = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits before connecting again, none of which is waited for."""
    seen: list[float] = []
    monkeypatch.setattr(time, "sleep", seen.append)
    return seen


def followed(server: Scripted, count: int) -> list[Message]:
    """Return so many messages of a service."""
    messages = events._following(_remote.AdminClient(server.url, SECRET))
    try:
        return list(itertools.islice(messages, count))
    finally:
        messages.close()


def test_a_lost_stream_goes_on_where_it_was(
    waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """A new connection names the last event that was seen, and what was half sent is not printed."""
    first = f"{EVENTS}event: A\nid: 7\ndata: 1\n\nevent: B\nid: 8\ndata: half"
    ill = response("502 Bad Gateway", "", "text/html")
    second = f"{EVENTS}event: C\nid: 9\ndata: 3\n\n"
    with Scripted(first.encode(), ill, second.encode()) as server:
        messages = followed(server, 2)

    said = capsys.readouterr().err
    assert [("A", "1", "7"), ("C", "3", "9")] == messages
    assert ["0", "7", "7"] == [each.headers["last-event-id"] for each in server.requests]
    assert {f"Bearer {SECRET}"} == {each.headers["authorization"] for each in server.requests}
    assert 2 == len(waits)
    assert 0 < waits[0] <= 1 < waits[0] + waits[1] <= 3
    assert f"lost {server.url}/: the stream has ended; connecting again" in said
    assert f"connected to {server.url}/ again" in said
    assert 2 == said.count("\n")


def test_the_wait_before_connecting_is_bounded() -> None:
    """Waits double up to ten seconds; a server may name the first one."""
    assert all(5 <= events._wait(count, None) <= 10 for count in (5, 50, 5000))
    assert events._wait(1, 3.0) <= 3
    assert events._wait(9, 60.0) <= 10


def test_a_token_that_is_withdrawn_ends_it(waits: list[float]) -> None:
    """A service that refuses is not asked again and again."""
    first = f"{EVENTS}event: A\nid: 7\ndata: 1\n\n"
    refused = response("401 Unauthorized", "", "text/plain")
    with (
        Scripted(first.encode(), refused) as server,
        pytest.raises(CommandError, match="does not take this token"),
    ):
        followed(server, 2)


def test_following_a_service_that_is_not_there_ends_at_once(run: Run) -> None:
    """Only what was connected once is connected again."""
    url = f"http://{HOST}:{unused_port()}"

    assert 1 == run("events", "--follow", "--admin", url).status
    with Scripted(response("503 Down", "", "text/plain")) as server:
        assert 1 == run("events", "--follow", "--admin", server.url).status


def test_a_stream_that_is_silent_is_connected_again(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a ping for three times its interval, a connection is taken for dead."""
    assert events._SILENCE == 45.0
    monkeypatch.setattr(events, "_SILENCE", 0.2)

    class Silent(Scripted):
        def answer(self, connection: socket.socket, request: Request) -> None:
            number = len(self.requests)
            connection.sendall(f"{EVENTS}id: {number}\ndata: {number}\n\n".encode())
            self._over.wait(self.patience)
            raise HungUpError

    with Silent(b"") as server:
        assert ["1", "2"] == [each.data for each in followed(server, 2)]


def test_a_line_without_an_end_is_not_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server sends does not fill the memory."""
    monkeypatch.setattr(events, "_LONGEST_LINE", 1000)

    with Scripted(f"{EVENTS}data: {'x' * 5000}".encode()) as server:
        assert (1, "resilient-llm events: the service sent a line without an end\n") == run(
            "events", "--admin", server.url
        )[::2]


def test_events_that_are_odd_are_shown_as_text(run: Run) -> None:
    """Data that is no JSON object is printed as it is, escaped."""
    stream = f'{EVENTS}event: x\x1by\ndata: [1\n\ndata: {{"at": 5, "a": "\x1b"}}\n\n: ping\n\n'
    with Scripted(stream.encode()) as server:
        status, out, _ = run("events", "--admin", server.url)

    assert 0 == status
    assert r"x\x1by" in out
    assert "data=[1" in out
    assert out.replace("\n", "").isprintable()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_messages_are_read_as_the_standard_has_it(end: str) -> None:
    """Comments, several lines of data, a missing type, ids that stay, and unknown names."""
    text = ": hi|event: A|data: 1|data:2|id: x|||data|||retry: 2500|retry: soon|other: y|id: a\0b|data: {|"
    reader = MessageReader("before")

    fed: list[Any] = [reader.feed(f"{line}{end}".encode()) for line in text.split("|")]

    assert [("A", "1\n2", "x"), ("message", "", "x"), ("message", "{", "x")] == [
        each for each in fed if each
    ]
    assert (2.5, "x", True) == (reader.retry, reader.last_id, reader.has_pinged)


def test_a_message_without_its_end_does_not_move_the_id() -> None:
    """What was cut off is asked for again."""
    reader = MessageReader("7")
    reader.feed(b"id: 8\n")
    reader.feed(b"data: half\n")

    assert "7" == reader.last_id
