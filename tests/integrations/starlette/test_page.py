"""The page about FastAPI: its application under uvicorn, with real clients of two providers."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apps import (
    GROQ,
    OPENAI,
    Providers,
    end,
    started,
    wait_until_it_serves,
    write_page,
)
from tests.support.server import unused_port

pytest.importorskip("fastapi")
pytest.importorskip("openai")
pytest.importorskip("prometheus_client")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

OUTAGE = {"type": "about:blank", "title": "Service Unavailable", "status": 503}
BROKEN = 'event: error\ndata: {"type":"about:blank","title":"Bad Gateway","status":502}\n\n'

# The page's application with an endpoint whose errors are those of the SDK.
SITE = """
from app import app, ask


@app.post("/reraised")
async def reraised() -> str:
    return await ask.using(reraise=True)("Hi")
"""


@pytest.fixture
def server() -> Iterator[Providers]:
    with Providers() as providers:
        yield providers


@pytest.fixture
def site(server: Providers, tmp_path: Path) -> Iterator[int]:
    """The port of the application."""
    write_page("fastapi", server, tmp_path)
    (tmp_path / "site_of_test.py").write_text(SITE, "utf-8")
    port = unused_port()
    command = ["uvicorn", "--port", str(port), "--ws", "none", "site_of_test:app"]
    process = started(tmp_path, *command, **server.environment)
    try:
        wait_until_it_serves(port, tmp_path)
        yield port
    finally:
        end(process)


def _asked(port: int, path: str, *, method: str = "POST") -> tuple[int, str | None, str]:
    """Return status, `Retry-After` and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        body = json.dumps({"prompt": "Hi"}) if method == "POST" else None
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.headers.get("Retry-After"), response.read().decode()


def test_an_answer_and_a_stream_fall_back(site: int, server: Providers) -> None:
    """With Groq limited, both endpoints answer from OpenAI, and Groq is asked once."""
    assert {"answer": f"{GROQ}: Hi"} == json.loads(_asked(site, "/chat")[2])
    server.moods["groq"] = "limited"

    answer = _asked(site, "/chat")
    stream = _asked(site, "/stream")

    assert (200, {"answer": f"{OPENAI}: Hi"}) == (answer[0], json.loads(answer[2]))
    assert (200, None, "data: w0 \n\ndata: w1 \n\ndata: w2 \n\n") == stream
    assert ["groq", "groq", "openai", "openai"] == server.asked


def test_an_outage_is_a_503_and_when_to_come_back(site: int, server: Providers) -> None:
    """Both endpoints send `Retry-After`, also the stream, whose headers were not sent yet."""
    server.moods.update(groq="limited", openai="limited")

    for path in ("/stream", "/chat"):
        status, wait, body = _asked(site, path)
        assert (503, "7", OUTAGE) == (status, wait, json.loads(body)), path
    assert ["groq", "openai"] == server.asked


def test_an_outage_without_named_times_is_a_503_as_well(site: int, server: Providers) -> None:
    """Providers that answer 503 are benched by one call, and the cooldown is the wait."""
    server.moods.update(groq="down", openai="down")

    status, wait, body = _asked(site, "/chat")

    assert (503, OUTAGE) == (status, json.loads(body))
    assert wait is not None
    assert 20 < int(wait) < 60


def test_a_stream_that_is_cut_ends_in_an_error(site: int, server: Providers) -> None:
    """The texts that were sent are followed by one event that the browser can tell from an end."""
    server.moods["groq"] = "cut"

    assert (200, None, f"data: w0 \n\n{BROKEN}") == _asked(site, "/stream")


def test_the_error_of_an_sdk_is_a_500(site: int, server: Providers) -> None:
    """With `reraise=True` the outage has no status and no time to come back."""
    server.moods.update(groq="limited", openai="limited")

    assert (500, None) == _asked(site, "/reraised")[:2]


def test_the_pages_for_operators_are_mounted(site: int, server: Providers) -> None:
    """The scrape counts the calls, and the API of the admin page asks for its token."""
    _asked(site, "/chat")

    status, _, scrape = _asked(site, "/metrics/", method="GET")
    assert 200 == status
    assert 'resilient_llm_calls_total{function="app.ask",outcome="ok"} 1.0' in scrape
    assert 200 == _asked(site, "/llm/", method="GET")[0]
    assert 401 == _asked(site, "/llm/api/benches", method="GET")[0]
