"""The page about Flask: its application in Werkzeug's server with threads, and visitors who leave."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlencode

import pytest

from resilient_llm import (
    AttemptFailed,
    AttemptSucceeded,
    BudgetExceededError,
    ConfigurationError,
    DeadlineExceededError,
    NoCapableTargetError,
    ResilientLLMError,
    ResponseRejectedError,
    StreamInterruptedError,
    Target,
    failover,
    health,
    list_benched,
    settings,
)
from resilient_llm.testing import capture_events
from tests.support.apps import GROQ, OPENAI, Providers, needs, page_module

needs("flask", "openai")

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(60)]

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def page(server: Providers, tmp_path: Path) -> Iterator[ModuleType]:
    """The application of the page as a module."""
    with page_module("flask", server, tmp_path) as module:
        yield module


@pytest.fixture
def port(page: ModuleType) -> Iterator[int]:
    """Where Werkzeug serves the application, with a thread for each request."""
    from werkzeug.serving import make_server

    http_server = make_server("127.0.0.1", 0, page.app, threaded=True)
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield http_server.server_port
    finally:
        http_server.shutdown()
        thread.join()
        http_server.server_close()


def _post(port: int, path: str) -> tuple[int, str | None, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with closing(connection):
        connection.request("POST", path, urlencode({"prompt": "Hi"}), FORM)
        response = connection.getresponse()
        return response.status, response.headers.get("Retry-After"), response.read().decode()


def test_requests_in_threads_share_what_is_known(port: int, server: Providers) -> None:
    """With Groq benched by the first request, eight requests at once go to the other target."""
    server.moods["groq"] = "down"
    assert 200 == _post(port, "/chat")[0]
    assert [GROQ] == [each.model for each in list_benched()]
    before = server.asked.count("groq")

    with ThreadPoolExecutor(8) as visitors:
        answers = list(visitors.map(lambda _: _post(port, "/chat"), range(8)))

    assert [(200, None, f'{{"answer":"{OPENAI}: Hi"}}\n')] * 8 == answers
    assert before == server.asked.count("groq")
    assert 5.0 == settings().max_wait


@pytest.mark.parametrize("path", ["/chat", "/stream"])
def test_an_outage_is_a_503_that_says_when_to_come_back(
    path: str, port: int, server: Providers
) -> None:
    """A stream that has not begun is answered like any other call."""
    server.moods.update(groq="limited", openai="limited")

    assert (503, "7", '{"error":"No model answers at the moment."}\n') == _post(port, path)


def test_a_stream_is_sent_as_text(port: int) -> None:
    """The reader gets the words of the model and nothing else."""
    assert (200, None, "w0 w1 w2 ") == _post(port, "/stream")


def test_a_reader_who_leaves_ends_the_stream(port: int, server: Providers) -> None:
    """The provider's connection is closed, nothing counts as a failure, and no other is called."""
    server.moods["groq"] = "endless"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with capture_events() as events:
        with closing(connection):
            connection.request("POST", "/stream", urlencode({"prompt": "Hi"}), FORM)
            with closing(connection.getresponse()) as response:
                assert b"word " == response.read(5)

        assert server.is_quiet()

    assert ["groq"] == server.asked
    assert [] == [event for event in events if isinstance(event, AttemptFailed)]
    assert [] == list_benched()
    assert 0 == health()[GROQ].errors


def test_a_response_that_is_closed_before_it_is_read_closes_the_stream(
    page: ModuleType, server: Providers
) -> None:
    """No reader of the generator has begun, and the connection is given back all the same."""
    server.moods["groq"] = "endless"
    with page.app.test_request_context("/stream", method="POST", data={"prompt": "Hi"}):
        response = page.chat_stream()
    words = response.response  # keeps the stream from being collected

    response.close()

    assert server.is_quiet()
    assert 0 == health()[GROQ].errors
    assert words is not None


ERRORS: list[tuple[Any, int, str | None]] = [
    (BudgetExceededError("groq/llama", "budget x", 59.2, budget="x"), 429, "60"),
    (NoCapableTargetError(["image"], None, {"groq/llama": ["image"]}), 422, None),
    (DeadlineExceededError(20.0), 504, None),
    (ResponseRejectedError("groq/llama"), 502, None),
    (StreamInterruptedError("groq/llama", 3), 502, None),
    (ConfigurationError("no"), 500, None),
]


@pytest.mark.parametrize(
    ("error", "status", "wait"), ERRORS, ids=lambda value: type(value).__name__
)
def test_each_error_has_the_status_of_the_table(
    error: ResilientLLMError, status: int, wait: str | None, page: ModuleType
) -> None:
    """What is not an outage is a 500."""

    @page.app.get("/broken")
    def broken() -> None:
        raise error

    response = page.app.test_client().get("/broken")

    assert (status, wait) == (response.status_code, response.headers.get("Retry-After"))


def test_an_abort_in_a_guarded_function_counts_for_no_provider(
    page: ModuleType, server: Providers
) -> None:
    """The visitor gets the application's 404."""
    from flask import abort

    @page.app.get("/absent")
    @failover(chain=page.CHAIN)
    def absent(target: Target) -> str:
        abort(404)

    with capture_events() as events:
        assert 404 == page.app.test_client().get("/absent").status_code

    assert [] == [each for each in events if isinstance(each, AttemptSucceeded)]
    assert [] == list_benched()
    assert [] == server.requests
