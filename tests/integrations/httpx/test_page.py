"""The code of the page, as a reader sees it, with the real libraries against a server on loopback."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from resilient_llm.integrations import SUPPORTED
from tests.integrations.httpx.ways import LIBRARIES, Way
from tests.support.pages import ROOT, script
from tests.support.providers import answer
from tests.support.server import LoopbackServer, Request

PAGE = ROOT / "docs" / "how-to" / "http-clients.md"


class Internet(LoopbackServer):
    """Every host of the page on one port; the first part of the path is the host."""

    def answer(self, connection: socket.socket, request: Request) -> None:
        """Answer as the provider of that host, else with an empty document."""
        host = request.path.split("/")[1]
        protocols: dict[str, Any] = {"api.openai.com": "openai", "api.anthropic.com": "anthropic"}
        body = answer(protocols[host], "It scatters.").body if host in protocols else {}
        content = json.dumps(body).encode()
        head = f"content-type: application/json\r\ncontent-length: {len(content)}"
        connection.sendall(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + content)


def _to_loopback(way: Way, send: Callable[..., Any], port: int) -> Callable[..., Any]:
    def near(request: Any) -> Any:
        url = f"http://127.0.0.1:{port}/{request.url.host}{request.url.path}"
        return way.lib.Request(
            request.method, url,
            headers={"host": "there", "content-length": request.headers.get("content-length", "0")},
            stream=request.stream, extensions=request.extensions,
        )  # fmt: skip

    if way.is_async:

        async def asend(self: Any, request: Any) -> Any:
            return await send(self, near(request))

        return asend
    return lambda self, request: send(self, near(request))


def test_the_page_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The visible blocks of the page run in order and print what the text says."""
    openai, anthropic = pytest.importorskip("openai"), pytest.importorskip("anthropic")
    for sdk in (openai, anthropic):
        if "httpx2" not in {
            cls.__module__.partition(".")[0] for cls in sdk.DefaultHttpxClient.__mro__
        }:
            pytest.skip(f"{sdk.__name__} {sdk.__version__} uses httpx, and the page is for httpx2")
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{name}_API_KEY", "key")
        monkeypatch.delenv(f"{name}_BASE_URL", raising=False)
    with Internet() as internet:
        for way in (Way(library, loop) for library in LIBRARIES for loop in (None, "asyncio")):
            cls = way.lib.AsyncHTTPTransport if way.is_async else way.lib.HTTPTransport
            method = "handle_async_request" if way.is_async else "handle_request"
            monkeypatch.setattr(cls, method, _to_loopback(way, getattr(cls, method), internet.port))
        code = compile(script(PAGE.read_text("utf-8")), str(PAGE), "exec")
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(code, names)  # noqa: S102  # the page
        for each in list(names.values()):
            closing = each.close() if hasattr(type(each), "close") else None
            if inspect.iscoroutine(closing):
                asyncio.run(closing)

    expected = [
        "200", "200", "200", "It scatters.", "It scatters.",
        "True rejected", "BreakerOpenTransportError rejected", "200",
    ]  # fmt: skip
    assert expected == capsys.readouterr().out.splitlines()
    assert 6 == len(internet.requests)


def test_the_page_names_the_supported_versions() -> None:
    """The versions on the page are those of the table."""
    versions = SUPPORTED["httpx"]
    first, second = versions["httpx"], versions["httpx2"]

    assert (
        f"httpx {first.oldest} to {first.newest}, and httpx2 {second.oldest} to {second.newest}."
        in PAGE.read_text("utf-8")
    )
