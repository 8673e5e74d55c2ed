"""What the tests of how-to pages about frameworks share: two providers on one port, and page code.

A page shows the addresses of real providers. `page_code` exchanges the one of Groq for a server on
loopback, and `environment` gives the client of OpenAI its address by the environment.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.pages import ROOT, python_path, run, script
from tests.support.providers import Reply, begun_stream, limited, overloaded, refusal
from tests.support.server import HungUpError, LoopbackServer, Request

GROQ, OPENAI = "groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"
RETRY_AFTER = 7
"""Seconds that a rate limit asks for."""

_GROQ_URL = "https://api.groq.com/openai/v1"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
_END = b"data: [DONE]\n\n"


def needs(*packages: str) -> None:
    """Skip the test or its module if a package is not installed; under `make apps` let it fail."""
    for package in packages:
        if os.environ.get("RESILIENT_LLM_APPS"):
            importlib.import_module(package)
        else:
            pytest.importorskip(package)


class Providers(LoopbackServer):
    """Groq and OpenAI on one port, told apart by the path.

    Attributes:
        moods: ``{provider or key: mood}``: ``"well"``, ``"down"``, ``"limited"``, ``"refused"``
            (a dead key), ``"spent"`` (an error in a 200), ``"silent"`` until the client hangs up,
            ``"held"`` until the test releases it; for streams ``"endless"``, ``"stalls"``, ``"cut"``
            after one word, ``"empty"``. Those without one are well.
        on_request: Called when a request has come, before it is answered.
    """

    def __init__(self, **moods: str) -> None:
        super().__init__()
        self.moods = dict(moods)
        self.on_request: Callable[[Request], None] = lambda _: None
        self.retry_after = str(RETRY_AFTER)
        self._released = False

    def url(self, provider: str) -> str:
        return f"http://127.0.0.1:{self.port}/{provider}/v1"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach these providers."""
        return {
            "GROQ_API_KEY": "key-of-groq",
            "OPENAI_API_KEY": "key-of-openai",
            "OPENAI_BASE_URL": self.url("openai"),
        }

    @property
    def asked(self) -> list[str]:
        """The providers of all requests, in order."""
        return [_provider(request) for request in self.requests]

    @property
    def keys(self) -> list[str]:
        """The keys that were sent, in order."""
        return [_key(request) for request in self.requests]

    def release(self) -> None:
        """Answer what is held."""
        with self._changed:
            self._released = True
            self._changed.notify_all()

    def answer(self, connection: socket.socket, request: Request) -> None:
        """Answer a chat completion in the mood of its provider or its key."""
        self.on_request(request)
        mood = self.moods.get(_key(request), self.moods.get(_provider(request), "well"))
        if mood == "silent":
            connection.recv(1)  # until the client hangs up
            raise HungUpError
        if mood in ("endless", "stalls"):
            self._stream(connection, request, endless=mood == "endless")
        if mood in ("cut", "empty"):
            word = begun_stream("openai", "w0 ", model=request.model)
            connection.sendall(_HEAD + (word if mood == "cut" else _END))
            raise HungUpError
        if mood == "held":
            self.wait(lambda: self._released or self.is_over)
        connection.sendall(self._reply(mood, request).on_the_wire())

    def _reply(self, mood: str, request: Request) -> Reply:
        if mood == "down":
            return overloaded("openai", 503)
        if mood == "spent":
            return Reply(200, {"error": {"code": 402, "message": "Insufficient credits"}})
        if mood == "refused":
            return refusal("openai", 401, "invalid_request_error", "No.", code="invalid_api_key")
        if mood == "limited":
            return limited("openai", retry_after=self.retry_after)
        if request.body.get("stream"):
            words = [begun_stream("openai", f"w{n} ", model=request.model) for n in range(3)]
            content = b"".join((*words, _finish(request.model), _END))
            return Reply(200, content, {"content-type": "text/event-stream"})
        prompt = request.body["messages"][-1]["content"]
        return _answer(request.model, f"{_provider(request)}/{request.model}: {prompt}")

    def _stream(self, connection: socket.socket, request: Request, *, endless: bool) -> None:
        word = begun_stream("openai", "word ", model=request.model)
        connection.sendall(_HEAD + word)
        while endless and not self.is_over:
            connection.sendall(word * 100)
        connection.recv(1)  # until the client hangs up
        raise HungUpError


def _provider(request: Request) -> str:
    return request.path.split("/")[1]


def _key(request: Request) -> str:
    return request.headers["authorization"].removeprefix("Bearer ")


def _finish(model: str) -> bytes:
    choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    return f"data: {json.dumps({**base, 'choices': [choice]})}\n\n".encode()


def _answer(model: str, text: str) -> Reply:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    base = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model}
    return Reply(200, {**base, "choices": [choice]})


# --- the code of a page ------------------------------------------------------------------------


def page_text(name: str) -> str:
    """Return a page of ``docs/how-to``."""
    return (ROOT / "docs" / "how-to" / f"{name}.md").read_text("utf-8")


def page_code(name: str, server: Providers) -> str:
    """Return the visible code of a page, with the server in the place of Groq."""
    code = script(page_text(name))
    assert _GROQ_URL in code
    return code.replace(_GROQ_URL, server.url("groq"))


def write_page(name: str, server: Providers, place: Path, module: str = "app") -> None:
    """Write the code of a page as a module."""
    (place / f"{module}.py").write_text(page_code(name, server), "utf-8")


@contextlib.contextmanager
def page_module(name: str, server: Providers, place: Path) -> Iterator[ModuleType]:
    """Import the code of a page, with a server as its providers, and close its clients at the end.

    Args:
        name: The page, without its ending.
        server: Answers for both providers.
        place: Where the module is written.
    """
    module = f"{name.replace('-', '_')}_page"
    write_page(name, server, place, module)
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in server.environment.items():
            patch.setenv(variable, value)
        patch.syspath_prepend(str(place))
        page = importlib.import_module(module)
        try:
            yield page
        finally:
            for client in page.CLIENTS.values():
                client.close()
            del sys.modules[module]


def result_of(code: str, place: Path, server: Providers) -> Any:
    """Run code in a process of its own, with modules of ``place``; return what it printed last.

    Args:
        code: Its last line of output is JSON.
        place: The working directory.
        server: Where its clients find their providers.
    """
    file = place / "the_test.py"
    file.write_text(textwrap.dedent(code), "utf-8")
    done = run(file, place, **server.environment)
    assert 0 == done.returncode, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def started(place: Path, *command: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start a module of Python that serves an application in ``place``; its output goes to ``log``."""
    with (place / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=place,
            env={
                **os.environ,
                **environment,
                "PYTHONPATH": os.pathsep.join((python_path(), str(place))),
                "PYTHONUNBUFFERED": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def wait_until_it_serves(port: int, place: Path) -> None:
    """Wait until something that was started in a place accepts connections."""
    until = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        assert time.monotonic() < until, (place / "log").read_text("utf-8")
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started, by force if need be."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
