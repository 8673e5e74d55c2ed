"""``resilient-llm serve``: the admin page of a store, as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from resilient_llm import bench_model, list_benched
from tests.cli.conftest import PATIENCE, TOKEN, Run
from tests.cli.test_store import shared_by
from tests.support.valkey import Server, free_port

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

ROOT = Path(__file__).parents[2]


class Page(NamedTuple):
    """A page that is served."""

    process: subprocess.Popen[str]
    line: str
    """What it has printed."""

    @property
    def url(self) -> str:
        return self.line.partition("#")[0].strip()

    @property
    def token(self) -> str:
        return self.line.partition("#token=")[2].strip()

    def ask(
        self, path: str, body: dict[str, Any] | None = None, *, token: str = "", **headers: str
    ) -> tuple[int, Any]:
        """Return the status and what was answered; ``body`` makes it a write."""
        request = urllib.request.Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {
                "Authorization": f"Bearer {token or self.token}",
                "Content-Type": "application/json",
                **headers,
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.loads(refused.read())


Serve = Callable[..., Page]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve a store, as a process of its own; return its page when it has printed its address."""
    with contextlib.ExitStack() as stack:

        def start(url: str, *arguments: str, **environment: str) -> Page:
            process = subprocess.Popen(
                [sys.executable, "-m", "resilient_llm", "serve", "--port", "0", *arguments],
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "RESILIENT_LLM_STATE": url,
                    **environment,
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

            def end() -> None:
                process.kill()
                process.communicate()

            stack.callback(end)
            assert process.stdout is not None
            return Page(process, process.stdout.readline())

        yield start


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of an empty store."""
    (tmp_path / "app.db").touch(0o600)
    return f"sqlite://{tmp_path}/app.db"


def test_it_prints_an_address_that_lets_in(serve: Serve, url: str) -> None:
    """Without a token it makes one, which is in the address; the benches are those of the store."""
    shared_by(url, lambda: bench_model("groq", reason="incident", by="alice"))
    page = serve(url)

    status, (bench,) = page.ask("api/benches")
    with urllib.request.urlopen(page.url, timeout=PATIENCE) as answer:
        html = answer.read().decode()

    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#token=[\w-]{40,}\n", page.line)
    assert 200 == status
    assert ("groq", "incident", "alice", "web-1") == tuple(
        bench[name] for name in ("model", "reason", "by", "source")
    )
    assert "<title>LLM targets</title>" in html
    assert 401 == page.ask("api/benches", token="x" * 40)[0]


def test_what_it_benches_holds_for_others(serve: Serve, url: str) -> None:
    """A bench that was made on the page is one of all who share the store."""
    page = serve(url)

    status, made = page.ask("api/benches", {"model": "groq", "seconds": 900, "reason": "by page"})
    page.process.send_signal(signal.SIGINT)
    _, errors = page.process.communicate(timeout=PATIENCE)

    assert (201, "groq") == (status, made["model"])
    assert 130 == page.process.returncode, errors
    assert ["by page"] == [each.reason for each in shared_by(url, list_benched)]


def test_it_shows_a_store_and_no_process(serve: Serve, url: str) -> None:
    """It says so, and has neither chains nor figures."""
    page = serve(url)

    status, store = page.ask("api/store")

    assert (200, "store", url) == (status, store["scope"], store["url"])
    assert [] == page.ask("api/chains")[1]
    assert {"status": "healthy", "targets": []} == page.ask("api/health")[1]


def test_it_begins_without_its_store(serve: Serve) -> None:
    """A store that is not there yet is told on the error output, without its password, and shown."""
    port = free_port()
    page = serve(f"redis://:s3cr3t@127.0.0.1:{port}/0")
    assert page.process.stderr is not None
    warning = page.process.stderr.readline()

    _, store = page.ask("api/store")

    assert f"redis://127.0.0.1:{port}/0 cannot be reached" in warning
    assert "s3cr3t" not in warning
    assert (False, "unreachable") == (store["connected"], store["unavailable"]["reason"])

    server = Server(port=port)
    try:
        until = 200
        while page.ask("api/store")[1]["unavailable"] is not None and until:
            until -= 1
        assert 1 == page.ask("api/store")[1]["peers"]
    finally:
        server.close()


@pytest.mark.parametrize("place", ["option", "variable"])
def test_a_given_token_is_not_printed(serve: Serve, url: str, place: str) -> None:
    """It lets in, and the address has none."""
    page = (
        serve(url, "--token", TOKEN) if place == "option" else serve(url, RESILIENT_LLM_TOKEN=TOKEN)
    )

    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", page.line)
    assert 200 == page.ask("api/benches", token=TOKEN)[0]


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:99", 200), ("[::1]:80", 200), ("evil.example", 403)],
)
def test_names_of_this_machine_are_accepted(serve: Serve, url: str, host: str, status: int) -> None:
    """And no other, so that no page of another site reaches it by a name of its own."""
    assert status == serve(url).ask("api/benches", Host=host)[0]


def test_the_name_that_is_listened_at_is_accepted(serve: Serve, url: str) -> None:
    """Beside those of loopback; another host than this machine's own needs a token."""
    page = serve(url, "--host", "0.0.0.0", RESILIENT_LLM_TOKEN=TOKEN)

    assert 200 == page.ask("api/benches", token=TOKEN, Host="0.0.0.0:80")[0]
    assert 200 == page.ask("api/benches", token=TOKEN, Host="localhost")[0]
    assert 403 == page.ask("api/benches", token=TOKEN, Host="evil.example")[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "which store? write --state URL"),
        (["--state", "sqlite:///x.db", "--host", "0.0.0.0"], "can be asked by others"),
        (["--state", "sqlite:///x.db", "--host", "shop"], "set RESILIENT_LLM_TOKEN"),
        (["--state", "sqlite:///x.db", "--token", ""], "--token is empty"),
        (["--state", "sqlite:///x.db", "--token", "short"], "too short"),
        (["--state", "mysql://user:s3cr3t@x"], "mysql"),
        (["--state", "sqlite:///x.db", "--port", "65536"], "write 0 to 65535"),
        (["--state", "sqlite:///x.db", "--port", "x"], "write 0 to 65535"),
        (["--state", "sqlite:///x.db", "--admin", "http://x"], "there is no option '--admin'"),
    ],
)
def test_wrong_use(run: Run, arguments: list[str], said: str) -> None:
    """Ends with 2, before anything is served, and shows no secret."""
    status, out, err = run("serve", *arguments)

    assert (2, "") == (status, out)
    assert said in err
    assert "s3cr3t" not in err


def test_a_port_that_is_taken(run: Run, url: str) -> None:
    """The command ends with 1 and says so."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = run("serve", "--state", url, "--port", str(port))

    assert (1, "") == (status, out)
    assert f"cannot listen at 127.0.0.1:{port}: " in err
