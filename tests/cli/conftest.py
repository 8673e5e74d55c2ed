"""A running service with its admin page on loopback, and the commands against it."""

from __future__ import annotations

import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from resilient_llm import cli
from resilient_llm._runtime import chains as living
from tests.support.server import HOST

TOKEN = "a-token-of-the-tests"
PATIENCE = 40.0
"""Seconds of real time within which a server starts and ends."""


class Output(NamedTuple):
    """How a command ended, and what it wrote."""

    status: int
    out: str
    err: str


Run = Callable[..., Output]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: ``run("bench", "groq")``."""

    def run_command(*arguments: str) -> Output:
        capsys.readouterr()
        try:
            status = cli.main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
        return Output(status, *capsys.readouterr())

    return run_command


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the machine has set: no service, no token, no proxy."""
    for name in ("ADMIN", "TOKEN", "STATE"):
        monkeypatch.delenv(f"RESILIENT_LLM_{name}", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def authorize() -> Any:
    """Who is let in: whoever has the token. A test may name another function."""
    pytest.importorskip("starlette")
    from resilient_llm import admin

    return admin.token(TOKEN)


@pytest.fixture
def service(_fresh_state: None, monkeypatch: pytest.MonkeyPatch, authorize: Any) -> Iterator[str]:
    """The URL of a service whose admin page is mounted at /llm; the environment names it."""
    pytest.importorskip("starlette")
    uvicorn = pytest.importorskip("uvicorn")
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from resilient_llm import admin

    app = Starlette(routes=[Mount("/llm", admin.app(authorize=authorize))])
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, lifespan="off")
    )
    has_started = threading.Event()
    startup = server.startup

    async def start(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets)
        has_started.set()

    server.startup = start
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        assert has_started.wait(PATIENCE)
        url = f"http://{HOST}:{listener.getsockname()[1]}/llm"
        monkeypatch.setenv("RESILIENT_LLM_ADMIN", url)
        monkeypatch.setenv("RESILIENT_LLM_TOKEN", TOKEN)
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def no_policies_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands look at the policies of their process; these tests run in that of all tests."""
    monkeypatch.setattr(living, "_policies", weakref.WeakSet())
