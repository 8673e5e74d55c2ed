"""``resilient-llm doctor`` with the real clients against servers on loopback."""

from __future__ import annotations

import email.utils
import http.client
import importlib
import json
import socket
import sys
import textwrap
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import BudgetExceededError
from resilient_llm._runtime import chains
from resilient_llm.cli._doctor import hosts, providers
from tests.cli.conftest import Output, Run
from tests.support.server import HOST, HungUpError, LoopbackServer, Request, unused_port

pytest.importorskip("openai")
pytest.importorskip("anthropic")
genai = pytest.importorskip("google.genai")

KEY = "sk-that-nobody-may-see"
MESSAGE = {"role": "assistant", "content": "OK"}
COMPLETION = {
    "id": "1", "created": 0, "model": "m", "object": "chat.completion",
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
}  # fmt: skip
CHUNKS = [
    {"id": "1", "created": 0, "model": "m", "object": "chat.completion.chunk", "choices": [
        {"index": 0, "delta": {"content": "OK"}, "finish_reason": "stop"}]},
]  # fmt: skip


class Provider(LoopbackServer):
    """Answers a GET with the date, and chat completions.

    Args:
        status: Of the answer to a GET.
        ahead: Seconds that its clock is ahead, or None for no ``Date``.
        refuses: What to refuse a key of, by the model.
    """

    def __init__(
        self, status: int = 404, ahead: float | None = 0.0, refuses: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.status = status
        self.ahead = ahead
        self.refuses = refuses

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/v1"

    @property
    def calls(self) -> list[Request]:
        return [each for each in self.requests if each.content]

    def answer(self, connection: socket.socket, request: Request) -> None:
        status, kind, body = f"{self.status} Whatever", "text/plain", "no"
        if request.content:
            status, kind, body = self._completion(request.body)
        date = (
            ""
            if self.ahead is None
            else email.utils.formatdate(time.time() + self.ahead, usegmt=True)
        )
        fields = f"Content-Type: {kind}\r\n" + (f"Date: {date}\r\n" if date else "")
        connection.sendall(
            f"HTTP/1.1 {status}\r\n{fields}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )

    def _completion(self, body: dict[str, Any]) -> tuple[str, str, str]:
        if body["model"] in self.refuses:
            error = {"error": {"code": "invalid_api_key", "message": f"{KEY} is wrong"}}
            return "401 No", "application/json", json.dumps(error)
        if body["model"] == "overloaded":
            return "503 Busy", "application/json", json.dumps({"error": {"message": "later"}})
        if body.get("stream"):
            events = "".join(f"data: {json.dumps(each)}\n\n" for each in CHUNKS)
            return "200 OK", "text/event-stream", f"{events}data: [DONE]\n\n"
        return "200 OK", "application/json", json.dumps(COMPLETION)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        yield server


HEAD = """
import functools, types
import anthropic, openai
from google import genai
from resilient_llm import Attempt, StreamPolicy, Target, failover

def new(client=openai.OpenAI, **options):
    given = dict(api_key=KEY, base_url=URL, max_retries=0, timeout=20)
    return client(**(given | options))

def without_key(client):
    client.api_key = ""
    return client

def create(client, target, **more):
    return client.chat.completions.create(
        model=target.model, messages=[{"role": "user", "content": "x"}], **more
    )
"""

Doctor = Callable[..., Output]


@pytest.fixture
def doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: Provider, run: Run
) -> Iterator[Doctor]:
    """Write a module, and run the doctor on the ``ask`` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chains, "_policies", weakref.WeakSet())  # of other tests
    monkeypatch.setattr(sys, "path", list(sys.path))
    for known in providers.PROVIDERS.values():
        for name in (*known.keys, known.url_variable):
            if name:
                monkeypatch.delenv(name, raising=False)
    # Nothing here is reached over the network.
    monkeypatch.setattr(
        providers,
        "PROVIDERS",
        {
            name: each._replace(url=each.url and f"http://{HOST}:{provider.port}/{name}")
            for name, each in providers.PROVIDERS.items()
        },
    )

    def examine(source: str, *options: str, name: str = "ask") -> Output:
        text = f"KEY = {KEY!r}\nURL = {provider.url!r}\n{HEAD}\n{textwrap.dedent(source)}"
        (tmp_path / "looked_at.py").write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop("looked_at", None)
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            output = run("doctor", f"looked_at:{name}", *options)
        finally:
            sys.dont_write_bytecode = before
        assert KEY not in output.out + output.err
        return output

    yield examine
    sys.modules.pop("looked_at", None)


def found(output: Output) -> dict[tuple[str, str], tuple[str, str]]:
    """Return ``{(target, check): (status, message)}``."""
    rows = json.loads(output.out)
    assert all({"target", "check", "status", "message"} == each.keys() for each in rows)
    return {(each["target"], each["check"]): (each["status"], each["message"]) for each in rows}


def statuses(output: Output, check: str) -> list[str]:
    return [status for (_, each), (status, _) in found(output).items() if each == check]


# Where clients are found.

ASK = """
@failover({chain}, attempts=1)
def ask(target: Target, prompt: str) -> str:
    {body}
"""

PLACES = {
    "global": "client = new()" + ASK.format(chain='"acme/m"', body="return create(client, target)"),
    "by provider": (
        'clients = {"acme": new(), "other": new(max_retries=7, api_key="x", timeout=None)}'
        + ASK.format(chain='"acme/m"', body="return create(clients[target.provider], target)")
    ),
    "by key": (
        'clients = {"acme/m": new(), "other": new(max_retries=7, api_key="x", timeout=None)}'
        + ASK.format(chain='"acme/m"', body="return create(clients[target.key], target)")
    ),
    "by name": (
        "groq_client, mistral = new(), new(max_retries=7)"
        + ASK.format(chain='"groq/m"', body="return create(groq_client or mistral, target)")
    ),
    "by package": (
        "a, b = new(), new(anthropic.Anthropic, max_retries=7)"
        + ASK.format(chain='"openai/m"', body="return create(a or b, target)")
    ),
    "closure": """
        def build():
            client = new()
            @failover("acme/m")
            def ask(target: Target, prompt: str) -> str:
                return create(client, target)
            return ask
        ask = build()
    """,
    "default": """
        @failover("acme/m")
        def ask(target: Target, prompt: str, client=new()) -> str: ...
    """,
    "keyword default": """
        @failover("acme/m")
        def ask(target: Target, prompt: str, *, client=new()) -> str: ...
    """,
    "partial": """
        def call(target: Target, prompt: str, *, client) -> str: ...
        ask = failover("acme/m")(functools.partial(call, client=new()))
    """,
    "helper": """
        client = new()
        def get(): return client
        @failover("acme/m")
        def ask(target: Target, prompt: str) -> str:
            return create(get(), target)
    """,
    "inner function": """
        client = new()
        @failover("acme/m")
        def ask(target: Target, prompt: str) -> str:
            return (lambda: create(client, target))()
    """,
    "attribute": """
        app = types.SimpleNamespace(llm=types.SimpleNamespace(client=new()))
        @failover("acme/m")
        def ask(target: Target, prompt: str) -> str:
            return create(app.llm.client, target)
    """,
    "object": """
        class Ask:
            def __init__(self): self.client = new()
            def __call__(self, target: Target, prompt: str) -> str: ...
        ask = failover("acme/m")(Ask())
    """,
    "method": """
        class Bot:
            def __init__(self): self.client = new()
            def call(self, target: Target, prompt: str) -> str: ...
        ask = failover("acme/m")(Bot().call)
    """,
    "call=": """
        @failover([Target("acme/m", call=new().chat.completions.create)])
        def ask(*, messages): ...
    """,
    "resource": """
        completions = new().chat.completions
        @failover("acme/m")
        def ask(target: Target, prompt: str) -> str:
            return completions.create(model=target.model)
    """,
    "asynchronous": """
        client = new(openai.AsyncOpenAI)
        @failover("acme/m")
        async def ask(target: Target, prompt: str) -> str:
            return await create(client, target)
    """,
    "anthropic": """
        client = new(anthropic.Anthropic)
        @failover("acme/m")
        def ask(target: Target, prompt: str) -> str:
            return client.messages.create(model=target.model)
    """,
    "google": """
        client = genai.Client(api_key=KEY, http_options={"base_url": URL, "timeout": 20_000})
        @failover("acme/m")
        def ask(target: Target, prompt: str) -> str:
            return client.models.generate_content(model=target.model, contents=prompt)
    """,
    "google async": """
        client = genai.Client(api_key=KEY, http_options={"base_url": URL, "timeout": 20_000}).aio
        @failover("acme/m")
        async def ask(target: Target, prompt: str) -> str:
            return await client.models.generate_content(model=target.model, contents=prompt)
    """,
}


@pytest.mark.parametrize("source", PLACES.values(), ids=PLACES.keys())
def test_a_client_is_found(doctor: Doctor, provider: Provider, source: str) -> None:
    """The client that a function uses is found wherever it keeps it, and all of it is fine."""
    output = doctor(source, "--json")

    assert 0 == output.status, output
    assert {"ok"} == {status for status, _ in found(output).values()}
    checks = ["key", "host", "clock", "retries", "timeout", "price"]
    assert checks == [check for _, check in found(output)]
    assert 1 == len(provider.requests)
    assert (
        not {"authorization", "x-api-key", "x-goog-api-key"} & provider.requests[0].headers.keys()
    )


def test_a_client_in_another_module_is_found(doctor: Doctor, tmp_path: Path) -> None:
    """A client that is an attribute of an imported module is that of the function."""
    (tmp_path / "shared_clients.py").write_text("client = None")
    source = """
        import shared_clients
        shared_clients.client = new()
        @failover("acme/m")
        def ask(target: Target, prompt: str) -> str:
            return create(shared_clients.client, target)
    """
    try:
        assert 0 == doctor(source, "--json").status
    finally:
        sys.modules.pop("shared_clients", None)


def test_the_table_is_plain_in_a_pipe(doctor: Doctor) -> None:
    """Without ``--json`` a row a check."""
    output = doctor(PLACES["global"])

    rows = output.out.splitlines()
    assert rows[0].split() == ["TARGET", "CHECK", "STATUS", "MESSAGE"]
    assert ["acme/m", "key", "ok"] == rows[1].split()[:3]
    assert 7 == len(rows)


def test_a_client_of_mistralai_is_found(doctor: Doctor) -> None:
    """The SDK of Mistral is generated by another tool, and has another shape."""
    pytest.importorskip("mistralai.client")
    source = """
        from mistralai.client import Mistral
        client = Mistral(api_key=KEY, server_url=URL, timeout_ms=5000)
        @failover("mistral/m")
        def ask(target: Target, prompt: str) -> str:
            return client.chat.complete(model=target.model, messages=[])
    """

    output = doctor(source, "--json")

    assert 0 == output.status, output
    assert {"ok"} == {status for status, _ in found(output).values()}


def test_a_client_of_cohere_is_found(doctor: Doctor) -> None:
    """The SDK of Cohere is generated by another tool, and has another shape."""
    pytest.importorskip("cohere")
    source = """
        import cohere
        client = cohere.ClientV2(api_key=KEY, base_url=URL, timeout=5)
        @failover("cohere/m")
        def ask(target: Target, prompt: str) -> str:
            return client.chat(model=target.model, messages=[])
    """

    output = doctor(source, "--json")

    assert 0 == output.status, output
    assert {"ok", "warning"} >= {status for status, _ in found(output).values()}
    assert "ok" == found(output)["cohere/m", "key"][0]


def test_an_sdk_that_cannot_be_looked_into(doctor: Doctor, tmp_path: Path) -> None:
    """Its key may be given in code, so a variable that is not set is no error."""
    (tmp_path / "replicate.py").write_text("class Client: ...")
    source = """
        import replicate
        client = replicate.Client()
        @failover("replicate/m")
        def ask(target: Target, prompt: str) -> str:
            return client.run(target.model)
    """
    try:
        output = doctor(source, "--json")
    finally:
        sys.modules.pop("replicate", None)

    assert 0 == output.status
    assert "skipped" == found(output)["replicate/m", "key"][0]


# Keys.


@pytest.mark.parametrize(
    ("client", "status", "said"),
    [
        ("new(api_key=KEY)", "ok", "the openai client has one"),
        ("without_key(new())", "error", "has none"),
        ("new(anthropic.Anthropic, api_key=None)", "error", "has none"),
        ("new(anthropic.Anthropic, api_key=None, auth_token=KEY)", "ok", "has one"),
        ("new(api_key=KEY + '\\n')", "error", "a newline"),
        ("new(api_key=' ' + KEY)", "error", "blanks"),
        ("new(api_key=KEY + 'ü')", "error", "no header can carry"),
        ("new(api_key=lambda: KEY)", "skipped", "from a function"),
    ],
)
def test_the_key_of_a_client(doctor: Doctor, client: str, status: str, said: str) -> None:
    """A key that is missing, or that cannot be sent, is an error; it is never shown."""
    source = f"client = {client}" + ASK.format(
        chain='"acme/m"', body="return create(client, target)"
    )

    output = doctor(source, "--json")

    assert int(status == "error") == output.status
    assert status == found(output)["acme/m", "key"][0]
    assert said in found(output)["acme/m", "key"][1]


@pytest.mark.parametrize(
    ("name", "variable"),
    [(name, key) for name, each in providers.PROVIDERS.items() for key in each.keys[:1]],
)
def test_the_variable_of_an_sdk(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, name: str, variable: str
) -> None:
    """Without a client, the variable of the provider's SDK must be set."""
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", f"http://{HOST}:{unused_port()}")
    source = ASK.format(chain=f'"{name}/m"', body="...")

    missing = doctor(source, "--json")
    monkeypatch.setenv(variable, KEY)
    is_set = doctor(source, "--json")
    monkeypatch.setenv(variable, f"{KEY}\n")
    unfit = doctor(source, "--json")

    key = f"{name}/m", "key"
    assert ("error", True) == (found(missing)[key][0], variable in found(missing)[key][1])
    assert 1 == missing.status
    assert ("ok", f"{variable} is set") == found(is_set)[key]
    assert "error" == found(unfit)[key][0]


def test_what_cannot_be_known_is_skipped(doctor: Doctor) -> None:
    """An unknown provider without a client, an account, and a key that is set in the function."""
    unknown = doctor(ASK.format(chain='"acme/m"', body="..."), "--json")
    account = doctor(ASK.format(chain='"groq@tenant/m"', body="..."), "--json")
    inside = doctor(
        ASK.format(
            chain='"groq/m"',
            body="return create(new(api_key=target.key, base_url=URL, max_retries=1), target)",
        ),
        "--json",
    )

    assert ["skipped"] * 4 == [
        found(unknown)["acme/m", check][0] for check in ("key", "host", "clock", "retries")
    ]
    assert ["skipped"] == statuses(account, "key")
    assert ["skipped"] * 3 == [
        found(inside)["groq/m", check][0] for check in ("key", "host", "retries")
    ]
    assert [0, 0, 0] == [each.status for each in (unknown, account, inside)]


def test_openais_key_for_another_provider(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, provider: Provider
) -> None:
    """A client without a key of its own sends that of OpenAI to whatever URL it has."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    url = "https://api.groq.example/v1"
    monkeypatch.setitem(providers.PROVIDERS, "groq", providers.PROVIDERS["groq"]._replace(url=url))

    output = doctor(
        f"client = new(api_key=None, base_url={url!r})"
        + ASK.format(chain='"groq/m"', body="return create(client, target)"),
        "--json",
    )

    status, message = found(output)["groq/m", "key"]
    assert "warning" == status
    assert "sends OPENAI_API_KEY to groq" in message


# Hosts and clocks.


@pytest.mark.parametrize("status", [200, 301, 401, 404, 500])
def test_any_status_is_an_answer(doctor: Doctor, provider: Provider, status: int) -> None:
    """A host that answers is there."""
    provider.status = status

    output = doctor(PLACES["global"], "--json")

    assert 0 == output.status
    assert f"answered {status}" in found(output)["acme/m", "host"][1]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"http://{HOST}:{unused_port()}/v1", "connection refused"),
        ("http://nowhere.invalid/v1", "does not resolve"),
        ("gopher://x/", "not one of http"),
    ],
    ids=["refused", "unresolved", "gopher"],
)
def test_a_host_that_is_not_there(doctor: Doctor, url: str, said: str) -> None:
    """A host that does not answer is an error, and its clock cannot be known."""
    source = f"client = new(base_url={url!r})" + ASK.format(
        chain='"acme/m"', body="return create(client, target)"
    )

    output = doctor(source, "--json")

    assert 1 == output.status
    assert "error" == found(output)["acme/m", "host"][0]
    assert said in found(output)["acme/m", "host"][1]
    assert "skipped" == found(output)["acme/m", "clock"][0]


def test_a_host_that_hangs(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host has five seconds to answer, and each is asked once, all at the same time."""
    assert hosts.SLOWEST == 5.0
    monkeypatch.setattr(hosts, "SLOWEST", 0.3)

    class Hanging(LoopbackServer):
        def answer(self, connection: socket.socket, request: Request) -> None:
            self._over.wait(self.patience)
            raise HungUpError

    with Hanging() as server:
        url = f"http://{HOST}:{server.port}"
        output = doctor(
            f"""
                client = new(base_url="{url}/")
                other = new(base_url="{url}/other?key={KEY}")
                @failover(["client/m", "other/m"])
                def ask(target: Target, prompt: str):
                    return create(client or other, target)
            """,
            "--json",
        )
        asked = len(server.requests)

    assert 1 == output.status
    assert ["error", "error"] == statuses(output, "host")
    assert "within 0.3 s" in found(output)["client/m", "host"][1]
    assert 1 == asked


@pytest.mark.parametrize(
    ("ahead", "status", "said"),
    [
        (0.0, "ok", "within 60 s"),
        (-40.0, "ok", "within 60 s"),
        (7200.0, "error", "behind"),
        (-7200.0, "error", "2h ahead of"),
        (None, "skipped", "sends no Date"),
    ],
)
def test_the_clock(
    doctor: Doctor, provider: Provider, ahead: float | None, status: str, said: str
) -> None:
    """The clock of this machine is compared with the ``Date`` of the host."""
    provider.ahead = ahead

    output = doctor(PLACES["global"], "--json")

    assert status == found(output)["acme/m", "clock"][0]
    assert said in found(output)["acme/m", "clock"][1]
    assert int(status == "error") == output.status


@pytest.mark.parametrize(
    ("date", "age", "skew"),
    [
        ("Thu, 01 Jan 1970 00:01:00 GMT", None, 40.0),
        ("Thu, 01 Jan 1970 00:01:00 -0000", None, 40.0),
        ("Thu, 01 Jan 1970 00:01:00 GMT", "30", 10.0),
        ("Thu, 01 Jan 1970 00:01:00 GMT", "nan", 40.0),
        ("tomorrow", None, None),
        (None, "30", None),
    ],
)
def test_dates_of_hosts(
    monkeypatch: pytest.MonkeyPatch, date: str | None, age: str | None, skew: float | None
) -> None:
    """A date may be written without its zone, and be that of an answer which a cache has kept."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    headers = http.client.HTTPMessage()
    for name, value in (("Date", date), ("Age", age)):
        if value is not None:
            headers[name] = value

    try:
        assert skew == hosts._skew(headers, 100.0)
    finally:
        monkeypatch.undo()
        time.tzset()


# Retries and timeouts.


@pytest.mark.parametrize(
    ("client", "status", "said"),
    [
        ("new(max_retries=2)", "warning", "retries 2 times by itself"),
        ("new(openai.AsyncOpenAI, max_retries=2)", "warning", "max_retries=0"),
        ("new(anthropic.Anthropic, max_retries=1)", "warning", "anthropic client retries 1"),
        (
            "genai.Client(api_key=KEY, http_options={'base_url': URL, 'retry_options': {'attempts': 4}})",
            "warning",
            "retries 3 times",
        ),
        (
            "genai.Client(api_key=KEY, http_options={'base_url': URL, 'retry_options': {}})",
            "warning",
            "retries 4 times",
        ),
        ("new(max_retries=0)", "ok", ""),
    ],
)
def test_retries_of_an_sdk(doctor: Doctor, client: str, status: str, said: str) -> None:
    """A client that retries by itself is a warning, which is exit 0."""
    source = f"client = {client}" + ASK.format(
        chain='"acme/m"', body="return create(client, target)"
    )

    output = doctor(source, "--json")

    assert 0 == output.status
    assert status == found(output)["acme/m", "retries"][0]
    assert said in found(output)["acme/m", "retries"][1]


ASYNC = """
{client}
@failover({chain}{options})
async def ask(target: Target, prompt: str) -> str:
    return await create({use}, target)
"""


@pytest.mark.parametrize(
    ("source", "status", "said"),
    [
        (ASYNC.format(client="c = new(openai.AsyncOpenAI, timeout=None)", chain='"acme/m"', options="", use="c"), "warning", "never ends"),
        (ASYNC.format(client="c = openai.AsyncOpenAI(api_key=KEY, base_url=URL)", chain='"acme/m"', options="", use="c"), "warning", "10m"),
        (ASYNC.format(client="c = new(openai.AsyncOpenAI, timeout=30)", chain='"acme/m"', options="", use="c"), "ok", "30s"),
        (ASYNC.format(client="", chain='"acme/m"', options=", timeout=30", use="None"), "ok", "30s"),
        (ASYNC.format(client="", chain='"acme/m"', options=", attempt_timeout=30", use="None"), "ok", "30s"),
        (ASYNC.format(client="", chain='Target("acme/m", attempt_timeout=30)', options="", use="None"), "ok", "30s"),
        (ASYNC.format(client="import resilient_llm\nresilient_llm.configure(timeout=30)", chain='"acme/m"', options="", use="None"), "ok", "30s"),
        (ASYNC.format(client="", chain='"acme/m"', options="", use="None"), "warning", "failover(…, timeout=60)"),
        ("import warnings\nwarnings.simplefilter('ignore')\nc = openai.OpenAI(api_key=KEY, base_url=URL)" + ASK.format(chain='"acme/m", timeout=30', body="return create(c, target)"), "warning", "cannot interrupt"),
        ('@failover("acme/m", timeout=30)\ndef ask(target: Target, attempt: Attempt, prompt: str): ...', "ok", "30s"),
        ('@failover("acme/m", timeout=30)\ndef ask(target: Target, prompt: str):\n    yield prompt', "ok", "30s"),
        (ASK.format(chain='"acme/m"', body="return create(None, target, timeout=5)"), "skipped", "itself"),
    ],
)  # fmt: skip
def test_timeouts(doctor: Doctor, source: str, status: str, said: str) -> None:
    """A call that nothing ends is a warning: no limit of the policy holds, and none of the client."""
    output = doctor(source, "--json")

    assert status == found(output)["acme/m", "timeout"][0]
    assert said in found(output)["acme/m", "timeout"][1]


PRICED = """
    from resilient_llm import Budget, Limit, configure
    configure(
        budgets=[Budget(usd=5, of="acme"), Budget(usd=5, of="acne"), Budget(calls=5, of="tag:eu")],
        limits={"acme": Limit(requests=5), "acm/m": Limit(requests=5), "*": Limit(requests=9)},
        prices={"acme/m": (1, 2)},
    )
    client = new()
    @failover(["acme/m", "acme/n", Target("other/x", price=(0, 0)), "other/y"])
    def ask(target: Target, prompt: str) -> str:
        return create(client, target)
"""


def test_prices_limits_and_budgets(doctor: Doctor) -> None:
    """A target that a budget refuses is an error, and what holds for no chain a warning."""
    output = doctor(PRICED, "--json")

    rows = found(output)
    assert 1 == output.status
    assert ["ok", "error", "ok", "ok"] == statuses(output, "price")
    said = rows["acme/n", "price"][1]
    assert "budget 'acme month usd' refuses every call" in said
    assert "prices={'acme/n': (input, output)}" in said
    assert "no budget in USD needs one" in rows["other/y", "price"][1]
    assert [("acm/m", "limits"), ("acne", "budgets"), ("tag:eu", "budgets")] == [*rows][-3:]
    assert {"warning"} == {status for status, _ in [*rows.values()][-3:]}
    assert "limits['acm/m'] holds for no chain" in rows["acm/m", "limits"][1]
    assert "did you mean 'acme/m'" in rows["acm/m", "limits"][1]
    assert "did you mean 'acme'?" in rows["acne", "budgets"][1]
    assert "look at its name" in rows["tag:eu", "budgets"][1]
    status, said = rows["*", "state"]
    assert "ok" == status
    assert "in memory, of this process only" in said


def test_a_price_is_what_the_ledger_takes_for_one(doctor: Doctor) -> None:
    """A model that `genai-prices` has, but without a price of tokens, is as good as unknown."""
    pytest.importorskip("genai_prices")
    source = """
        from resilient_llm import Budget, configure
        configure(budgets=[Budget(usd=5, on_unbounded=10)])
        client = new()
        @failover(["x-ai/grok-voice-latest", "openai/gpt-5-mini"])
        def ask(target: Target, prompt: str) -> str:
            return "…"
    """
    output = doctor(source, "--json")
    with pytest.raises(BudgetExceededError):
        sys.modules["looked_at"].ask.using(chain="x-ai/grok-voice-latest")("…")

    assert ["error", "ok"] == statuses(output, "price")
    assert "genai-prices has one" in found(output)["openai/gpt-5-mini", "price"][1]


# What is looked at.


def test_a_policy(doctor: Doctor) -> None:
    """A policy has no function: the clients of its targets are looked at, and variables."""
    source = """
        policy = failover([
            Target("acme/m", call=new(max_retries=0).chat.completions.create), "groq/x"
        ])
    """

    output = doctor(source, "--json", name="policy")

    assert 1 == output.status
    assert ["ok", "error"] == statuses(output, "key")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("policy", ["--live"], "is a policy, which --live cannot call"),
        ("client", [], "neither a function under @failover nor a policy"),
        ("plain", [], "neither a function under @failover nor a policy"),
        ("nope", [], "cannot be loaded (AttributeError)"),
        ("ask", ["--args", "[1]"], "--args goes with --live"),
        ("ask", ["--live", "--args", "{}"], "not a list in JSON"),
        ("ask", ["--live", "--args", "[nope"], "not a list in JSON"),
        ("ask", ["--liev"], "did you mean --live?"),
    ],
)
def test_wrong_use(doctor: Doctor, name: str, options: list[str], said: str) -> None:
    """What is neither function nor policy, and options that do not go together: exit 2."""
    source = PLACES["global"] + "\npolicy = ask.policy\ndef plain(): ...\n"

    output = doctor(source, *options, name=name)

    assert (2, "") == output[:2]
    assert said in output.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("import there_is_no_such", "no module named 'there_is_no_such'"),
        ("import os; os.environ['SHOP_LLM_KEY']", "KeyError SHOP_LLM_KEY, looked_at.py:"),
        ("raise ValueError(KEY)", "ValueError, looked_at.py:"),
        ("{}[KEY]", "KeyError, looked_at.py:"),
        ("raise SystemExit(3)", "SystemExit, looked_at.py:"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported(doctor: Doctor, line: str, said: str) -> None:
    """The type and the place of its error are shown, and not its text."""
    output = doctor(line)

    assert (2, "") == output[:2]
    assert said in output.err


@pytest.mark.parametrize("name", ["ask", "a.py", ":ask", "looked_at:", "", "no:such:thing"])
def test_a_name_without_its_module(run: Run, name: str) -> None:
    """What is no MODULE:NAME is wrong use."""
    assert 2 == run("doctor", name).status


def test_what_the_module_prints_is_not_the_output(doctor: Doctor) -> None:
    """``--json`` prints JSON, whatever the module prints when it is imported or called."""
    source = """
        print("hello")
        client = new()
        @failover("acme/m")
        def ask(target: Target, prompt: str):
            print("hi")
            return create(client, target)
    """

    output = doctor(source, "--live", "--json")

    assert ["ok"] == statuses(output, "live")
    assert {"hello", "hi"} <= set(output.err.split())


# Live.


SHAPES = {
    "sync": ("OpenAI", "def", "return create(client, target).choices[0].message.content"),
    "async": ("AsyncOpenAI", "async def", "return (await create(client, target)).choices[0]"),
    "awaitable": ("AsyncOpenAI", "def", "return create(client, target)"),
    "stream": ("OpenAI", "def", "return create(client, target, stream=True)"),
    "async stream": (
        "AsyncOpenAI",
        "async def",
        "return await create(client, target, stream=True)",
    ),
    "generator": ("OpenAI", "def", "yield from create(client, target, stream=True)"),
    "async generator": (
        "AsyncOpenAI",
        "async def",
        "async for each in await create(client, target, stream=True): yield each",
    ),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_live_calls_each_target_once(
    doctor: Doctor, provider: Provider, shape: tuple[str, str, str]
) -> None:
    """Each target is called once, pinned, whatever kind of function it is."""
    client, kind, body = shape
    source = f"""
        client = new(openai.{client})
        seen = []
        @failover(["acme/one", "acme/two", "other/three"])
        {kind} ask(target: Target, prompt: str):
            seen.append(prompt)
            {body}
    """

    output = doctor(source, "--live", "--json")

    assert 0 == output.status, output
    assert ["ok", "ok", "ok"] == statuses(output, "live")
    assert ["one", "two", "three"] == [each.model for each in provider.calls]
    assert ["Say OK."] * 3 == sys.modules["looked_at"].seen


def test_live_tells_what_an_error_means(doctor: Doctor, provider: Provider) -> None:
    """A target that fails is an error with its kind; the others are called, also of its provider."""
    provider.refuses = ("one",)
    source = """
        client = new()
        @failover(["acme/one", "acme/two"], attempts=3)
        def ask(target: Target, prompt: str):
            return create(client, target)
    """

    output = doctor(source, "--live", "--json")

    assert 1 == output.status
    assert ["error", "ok"] == statuses(output, "live")
    assert (
        "auth_dead: invalid_credentials (AuthenticationError, status 401): look at the key, the "
        "bill, the permissions and the name of the model"
    ) == found(output)["acme/one", "live"][1]
    assert ["one", "two"] == [each.model for each in provider.calls]


@pytest.mark.parametrize("mode", ["skip", "warn", "off"])
def test_live_gives_the_same_advice_whatever_memory_pressure_means(
    doctor: Doctor, mode: str
) -> None:
    """A server that is out of memory needs the same look under each setting."""
    source = f"""
        from resilient_llm import configure
        configure(on_memory_pressure="{mode}")
        @failover("acme/m")
        def ask(target: Target, prompt: str):
            raise MemoryError
    """

    output = doctor(source, "--live", "--json")

    kind = "transient" if mode == "off" else "memory_pressure"
    assert (
        f"{kind}: out_of_memory (MemoryError): look at the memory of that server"
        == found(output)["acme/m", "live"][1]
    )


def test_live_makes_one_attempt(doctor: Doctor, provider: Provider) -> None:
    """A failure that the policy would retry is told of after one attempt, and the next is called."""
    source = """
        client = new()
        @failover(["acme/overloaded", "acme/two"], attempts=3)
        def ask(target: Target, prompt: str):
            return create(client, target)
    """

    output = doctor(source, "--live", "--json")

    assert ["error", "ok"] == statuses(output, "live")
    assert "transient: overloaded" in found(output)["acme/overloaded", "live"][1]
    assert ["overloaded", "two"] == [each.model for each in provider.calls]


def test_live_takes_arguments(doctor: Doctor) -> None:
    """``--args`` are the positional arguments; wrong ones are the function's own error."""
    source = """
        seen = []
        @failover("acme/m")
        def ask(target: Target, prompt: str, number: int):
            seen.append((prompt, number))
            return "fine"
    """

    right = doctor(source, "--live", "--json", "--args", '["Hi", 3]')
    seen = list(sys.modules["looked_at"].seen)
    wrong = doctor(source, "--live", "--json")

    assert (0, [("Hi", 3)]) == (right.status, seen)
    assert 1 == wrong.status
    assert "look at the function; --args gives other arguments" in found(wrong)["acme/m", "live"][1]


def test_live_obeys_reject(doctor: Doctor) -> None:
    """An answer that the policy refuses is an error."""
    source = """
        @failover("acme/m", reject=lambda answer: answer == "no")
        def ask(target: Target, prompt: str):
            return "no"
    """

    output = doctor(source, "--live", "--json")

    assert 1 == output.status
    assert "the answer was refused" in found(output)["acme/m", "live"][1]


def test_nothing_is_sent_without_live(doctor: Doctor, provider: Provider) -> None:
    """Without ``--live`` the function is not called."""
    output = doctor(PLACES["global"], "--json")

    assert 0 == output.status
    assert [] == provider.calls
    assert [] == statuses(output, "live")
