"""The ready-made probes, against real servers on loopback."""

from __future__ import annotations

import functools
import json
import logging
import pickle
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient_llm import ConfigurationError, Target, breaker, failover, health, list_benched
from resilient_llm.probes import HealthProbe, ProbeResult, call_probe, http_probe, ollama_probe
from tests.support.ways import GROQ, ProviderError

PATIENCE = 40.0
SECRET = "sk-secret-of-the-headers"


class Server(ThreadingHTTPServer):
    """Answers each request with the next status, and records what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.headers_sent: dict[str, str] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.go_on = threading.Event()
        self.hangs = False
        self.closed = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.seen.append((self.command, self.path, dict(self.headers.items())))
        if server.hangs:
            self.connection.settimeout(PATIENCE)
            if not self.connection.recv(1):
                server.closed.set()
            return
        self.send_response(server.status)
        for name, value in server.headers_sent.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    with Server() as server:
        if context is not None:
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(PATIENCE)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(params=["httpx2", "httpx", "urllib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have only one of the libraries."""
    for each in ("httpx2", "httpx"):
        if each != request.param:
            monkeypatch.setitem(sys.modules, each, None)
    for each in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(each, raising=False)
        monkeypatch.delenv(each.upper(), raising=False)
    return request.param


@pytest.fixture(params=["asyncio", "trio", "thread"])
def ticked(request: pytest.FixtureRequest) -> Callable[..., ProbeResult]:
    """Tick once with one probe, in each of the environments; return its result."""

    def ticked(probe: Any, *, key: str = "groq", timeout: float = PATIENCE) -> ProbeResult:
        one = HealthProbe({key: probe}, timeout=timeout)
        if request.param != "thread":
            return anyio.run(one.tick, backend=request.param)[key]
        results: list[dict[str, ProbeResult]] = []

        def thread() -> None:
            results.append(anyio.run(one.tick))

        worker = threading.Thread(target=thread)
        worker.start()
        worker.join(2 * PATIENCE)
        return results[0][key]

    return ticked


def tick(probe: Any, *, key: str = "groq", timeout: float = PATIENCE) -> ProbeResult:
    return anyio.run(HealthProbe({key: probe}, timeout=timeout).tick)[key]


# http_probe.


def test_it_sends_a_get_with_its_headers(
    server: Server, library: str, ticked: Callable[..., ProbeResult]
) -> None:
    """A status that is expected is well, on asyncio, on trio and in threads."""
    probe = http_probe(f"{server.url}/v1/models?a=b", headers={"Authorization": SECRET})

    result = ticked(probe)

    ((method, path, headers),) = server.seen
    assert True is result.ok
    assert ("GET", "/v1/models?a=b", SECRET) == (method, path, headers["Authorization"])
    assert headers["User-Agent"].startswith("resilient-llm/")


@pytest.mark.parametrize(
    ("status", "ok", "kind", "reason"),
    [
        (200, True, None, ""),
        (204, True, None, ""),
        (299, True, None, ""),
        (301, None, None, "broken"),
        (302, None, None, "broken"),
        (304, None, None, "broken"),
        (307, None, None, "broken"),
        (400, None, None, "broken"),
        (401, False, "auth_dead", "invalid_credentials"),
        (402, False, "auth_dead", "insufficient_quota"),
        (403, False, "auth_dead", "permission_denied"),
        (404, None, None, "broken"),
        (405, None, None, "broken"),
        (407, None, None, "broken"),
        (408, False, "transient", "timeout"),
        (409, None, None, "broken"),
        (410, None, None, "broken"),
        (422, None, None, "broken"),
        (425, None, None, "broken"),
        (429, False, "rate_limited", "rate_limit"),
        (451, None, None, "broken"),
        (500, False, "transient", "server_error"),
        (501, False, "transient", "server_error"),
        (502, False, "transient", "gateway"),
        (503, False, "transient", "overloaded"),
        (504, False, "transient", "gateway"),
        (524, False, "transient", "gateway"),
        (529, False, "transient", "overloaded"),
        (599, False, "transient", "timeout"),
    ],
)
def test_what_each_status_means(
    server: Server, library: str, status: int, ok: bool | None, kind: str | None, reason: str
) -> None:
    """A wrong URL is a broken probe; a wrong key is a dead one; no redirect is followed."""
    server.status = status
    server.headers_sent = {"Location": f"{server.url}/elsewhere"}

    result = tick(http_probe(server.url))

    assert (ok, kind, reason) == (result.ok, result.kind and result.kind.value, result.reason)
    assert 1 == len(server.seen)


def test_other_statuses_may_be_expected(server: Server, library: str) -> None:
    """What is expected is well, whatever it would mean."""
    server.status = 401

    assert tick(http_probe(server.url, expect=(200, 401))).ok
    assert not tick(http_probe(server.url, expect=(400, 400))).ok


def test_a_rate_limit_benches_for_the_wait_that_it_names(server: Server, library: str) -> None:
    """In any dialect that calls know."""
    server.status, server.headers_sent = 429, {"retry-after-ms": "90500"}

    tick(http_probe(server.url))

    ((key, remaining),) = [(each.model, each.remaining) for each in list_benched()]
    assert remaining is not None
    assert ("groq", True) == (key, 88.0 < remaining <= 90.5)


def test_a_key_that_is_refused_benches_the_provider(server: Server, library: str) -> None:
    """Also if it is the probe of a target: the key is the same."""
    server.status = 401

    tick(http_probe(server.url), key=GROQ)

    assert [("groq", "auth_dead")] == [(b.model, b.kind and b.kind.value) for b in list_benched()]


def test_a_server_that_is_not_there_is_not_well(
    library: str, ticked: Callable[..., ProbeResult]
) -> None:
    """Its port is closed."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

    result = ticked(http_probe(url))

    assert (False, "transient", "network") == (
        result.ok,
        result.kind and result.kind.value,
        result.reason,
    )


@pytest.mark.parametrize("name", ["httpx2", "httpx"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_timeout_closes_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str, backend: str
) -> None:
    """With an asynchronous library nothing is left of a request that hangs."""
    for each in {"httpx2", "httpx"} - {name}:
        monkeypatch.setitem(sys.modules, each, None)
    server.hangs = True

    async def main() -> ProbeResult:
        result = (await HealthProbe({"groq": http_probe(server.url)}, timeout=0.3).tick())["groq"]
        with anyio.fail_after(PATIENCE):
            while not server.closed.is_set():  # noqa: ASYNC110  # set by a thread
                await anyio.sleep(0.01)
        return result

    assert (False, "timeout") == (
        (result := anyio.run(main, backend=backend)).ok,
        result.reason,
    )


def test_a_synchronous_probe_that_hangs_is_left_in_its_thread(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an asynchronous library."""
    monkeypatch.setitem(sys.modules, "httpx2", None)
    monkeypatch.setitem(sys.modules, "httpx", None)
    server.hangs = True

    result = tick(http_probe(server.url), timeout=0.3)

    assert (False, "timeout") == (result.ok, result.reason)
    (left,) = [each for each in threading.enumerate() if each.name == "resilient_llm-probe"]
    assert left.daemon
    while not server.seen:
        pass
    # The server ends the request.
    server.shutdown()
    for connection in _connections(left):
        connection.shutdown(socket.SHUT_RDWR)
    left.join(PATIENCE)
    assert not left.is_alive()


FIRST_TICK = """
import inspect, json, sys

import {loop}

sys.modules.update(dict.fromkeys({without}))
from resilient_llm.probes import HealthProbe, http_probe

ask = http_probe("{url}")
loaded = []

def in_thread():
    before = set(sys.modules)
    ask()
    loaded.extend(set(sys.modules) - before)

async def in_task():
    before = set(sys.modules)
    await ask()
    loaded.extend(set(sys.modules) - before)

is_async = inspect.iscoroutinefunction(type(ask).__call__)
one = HealthProbe({{"groq": in_task if is_async else in_thread}}, timeout=60.0)
results = {run}
print(json.dumps([is_async, results["groq"].ok, sorted(loaded)]))
"""


@pytest.mark.parametrize("run", ["asyncio.run(one.tick())", "trio.run(one.tick)"])
@pytest.mark.parametrize("without", [[], ["httpx2"], ["httpx2", "httpx"]])
def test_nothing_is_loaded_in_the_time_of_a_probe(
    server: Server, without: list[str], run: str
) -> None:
    """Not even in the first tick: what is loaded then would make healthy servers look slow."""
    script = FIRST_TICK.format(loop=run.partition(".")[0], run=run, without=without, url=server.url)

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )

    assert [len(without) < 2, True, []] == json.loads(done.stdout)


def _connections(thread: threading.Thread) -> list[socket.socket]:
    from resilient_llm._runtime.waiting import _socket_in

    assert thread.ident is not None
    found = _socket_in(sys._current_frames()[thread.ident])
    return [] if found is None else [found]


@pytest.mark.parametrize("way", ["variable", "no_proxy"])
def test_a_proxy_of_the_environment_is_used(
    server: Server, library: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """As by the clients of the SDKs, and not for what it is not for."""
    with serving() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1" if way == "no_proxy" else "")

        result = tick(http_probe(f"{server.url}/models"))

        assert result.ok
        through = [path for _, path, _ in proxy.seen]
        assert ([f"{server.url}/models"] if way == "variable" else []) == through


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_is_checked(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server with one that nobody has signed is not well, unless the environment trusts it."""
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=x",
    ]
    made += ["-addext", "subjectAltName=IP:127.0.0.1"]
    made += ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "ca.pem")]
    subprocess.run(made, check=True, capture_output=True, timeout=2 * PATIENCE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    with serving(context) as server:
        url = server.url.replace("http:", "https:")
        before = tick(http_probe(url))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        after = tick(http_probe(url))

    assert (False, True) == (before.ok, after.ok)


def test_url_and_headers_are_shown_nowhere(
    server: Server, library: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in what it says of itself, nor in any log, nor in what it raises, nor in a pickle."""
    caplog.set_level(logging.INFO)
    path = "/path-that-is-secret"
    probe = http_probe(
        f"{server.url.replace('//', '//user:pass-that-is-secret@')}{path}",
        headers={"X-Api-Key": SECRET},
    )
    server.status = 404
    one = HealthProbe({"groq": probe})
    shown = [repr(probe), str(probe), repr(one), str(anyio.run(one.tick))]
    server.status = 503
    try:
        if library == "urllib":
            probe()
        else:
            anyio.run(probe)
    except Exception as error:
        shown += [
            repr(error),
            str(error),
            str(vars(error)),
            "".join(traceback.format_exception(error)),
        ]
    try:
        pickle.dumps(probe)
    except TypeError as error:
        shown.append(str(error))
    shown.append(caplog.text)

    assert 2 == len(server.seen)
    assert "X-Api-Key" in server.seen[0][2]
    assert "Basic dXNlcjpwYXNzLXRoYXQtaXMtc2VjcmV0" == server.seen[0][2]["Authorization"]
    assert "the probe of groq is broken" in caplog.text
    for text in ("secret", "X-Api-Key", server.url.removeprefix("http://"), "dXNlcj"):
        assert text not in "\n".join(shown).replace("headers would show", ""), text


@pytest.mark.parametrize(
    "url",
    [
        "",
        "secret",
        "ftp://secret",
        "http://",
        "http://secret host",
        "http://s:99999",
        None,
        3,
        b"http://secret",
    ],
)
def test_a_wrong_url_is_refused_where_it_is_written(url: Any) -> None:
    """The message does not repeat it."""
    for make in (http_probe, ollama_probe):
        with pytest.raises(ConfigurationError, match="url is not allowed") as caught:
            make(url)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        ["secret"],
        "secret",
        {"X-Key": 3},
        {"X-Key": "secret\n"},
        {"X-Key": "secret\r\nX: y"},
        {"X-Key": "secret "},
        {"X-Key": "sécret"},
        {"X Key": "secret"},
        {"": "secret"},
        {3: "secret"},
    ],
    ids=repr,
)
def test_wrong_headers_are_refused_where_they_are_written(headers: Any) -> None:
    """A line break in a key would end the header, or begin another one."""
    with pytest.raises(ConfigurationError, match="headers") as caught:
        http_probe("http://127.0.0.1", headers=headers)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "expect", [200, None, (200,), (299, 200), (0, 299), (200, 600), ("200", "299"), (True, 299)]
)
def test_wrong_statuses_are_refused_where_they_are_written(expect: Any) -> None:
    """Both ends are statuses, the lower one first."""
    with pytest.raises(ConfigurationError, match="expect is not allowed"):
        http_probe("http://127.0.0.1", expect=expect)


# ollama_probe.


@pytest.mark.parametrize("slash", ["", "/"])
def test_ollama_is_asked_for_its_models(server: Server, library: str, slash: str) -> None:
    """That is answered without any model being loaded."""
    assert tick(ollama_probe(server.url + slash)).ok

    assert ["/api/tags"] == [path for _, path, _ in server.seen]


def test_ollama_is_at_its_usual_place() -> None:
    """On this machine."""
    probe: Any = ollama_probe()

    assert "http://127.0.0.1:11434/api/tags" == probe._asked.url


# call_probe.


@pytest.mark.parametrize("answer", [None, False, 0, "text", ["a"]])
def test_any_answer_of_a_call_is_well(ticked: Callable[..., ProbeResult], answer: object) -> None:
    """Synchronous, asynchronous, or a plain function that returns what is awaited."""
    given: list[Any] = []

    def call(*args: Any, **kwargs: Any) -> object:
        given.append((args, kwargs))
        return answer

    async def acall(*args: Any, **kwargs: Any) -> object:
        return call(*args, **kwargs)

    for each in (call, acall, lambda *args, **kwargs: acall(*args, **kwargs)):
        assert ticked(call_probe(each, "hi", max_tokens=1)).ok
    assert [(("hi",), {"max_tokens": 1})] * 3 == given


def test_an_error_of_a_call_is_classified(ticked: Callable[..., ProbeResult]) -> None:
    """As that of any call."""

    async def call() -> None:
        raise ProviderError(503)

    assert (False, "overloaded") == ((one := ticked(call_probe(call))).ok, one.reason)


def test_a_real_client_is_called(server: Server) -> None:
    """Methods of clients are what it is for."""
    import httpx2

    with httpx2.Client() as client:
        assert tick(call_probe(client.get, server.url)).ok


@failover(chain=GROQ)
def ask(target: Target, prompt: str = "") -> str:
    return prompt


@failover(chain=GROQ)
async def aask(target: Target, prompt: str = "") -> str:
    return prompt


@breaker(GROQ)
def guarded(prompt: str = "") -> str:
    return prompt


@breaker(GROQ)
async def aguarded(prompt: str = "") -> str:
    return prompt


@failover(chain=GROQ)
def stream(target: Target) -> Iterator[str]:
    yield ""


class Client:
    @failover(chain=GROQ)
    async def ask(self, target: Target) -> str:
        return ""

    @breaker(GROQ)
    def guarded(self) -> str:
        return ""


def wrapped(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any) -> Any:
        return fn(*args)

    return wrapper


@pytest.mark.parametrize(
    "fn",
    [
        ask,
        aask,
        guarded,
        aguarded,
        stream,
        Client().ask,
        Client().guarded,
        Client.guarded,
        ask.using(attempts=1),
        functools.partial(ask, "hi"),
        functools.partial(functools.partial(aguarded), "hi"),
        wrapped(ask),
        wrapped(wrapped(guarded)),
        failover(chain=GROQ).call,
    ],
    ids=lambda fn: getattr(fn, "__qualname__", "partial"),
)
def test_a_guarded_function_is_refused(fn: Any) -> None:
    """Its guard would refuse the probe just when it is needed."""
    with pytest.raises(ConfigurationError, match="guarded"):
        call_probe(fn)


def test_what_looks_like_a_guard_is_none() -> None:
    """Functions named like ours, and objects with a policy of somebody else's."""

    def wrapper() -> None:
        pass

    wrapper.policy = "mine"  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess]

    assert tick(call_probe(wrapper)).ok


@pytest.mark.parametrize("fn", [None, "secret", 3])
def test_what_cannot_be_called_is_refused(fn: Any) -> None:
    """The message names its type."""
    with pytest.raises(ConfigurationError, match=type(fn).__name__) as caught:
        call_probe(fn)

    assert "secret" not in str(caught.value)


def test_functions_that_give_items_are_refused() -> None:
    """They call nobody until they are read."""

    def gives() -> Iterator[str]:
        yield ""

    with pytest.raises(ConfigurationError, match="gives gives items"):
        call_probe(gives)


def test_arguments_of_a_call_are_not_shown() -> None:
    """They may be prompts, and have keys in them."""

    async def call(prompt: str) -> None:
        pass

    assert "<call_probe of call>" == repr(call_probe(call, SECRET))


def test_a_completion_closes_the_circuit_of_a_dead_key() -> None:
    """What an operator has repaired is back without waiting for the cooldown."""
    breaker("groq").record(ProviderError(401), 0.0)

    async def main() -> None:
        await HealthProbe({"groq": call_probe(lambda: "hi")}, proves="answers").tick()

    anyio.run(main)

    assert "closed" == health()["groq"].state
