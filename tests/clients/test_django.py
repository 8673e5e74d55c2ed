"""The page about Django: its project under Django's test clients, gunicorn and uvicorn.

Django is configured once per process, so each test has a process of its own. `make apps` installs
what is needed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import (
    GROQ,
    OPENAI,
    Providers,
    end,
    needs,
    result_of,
    started,
    wait_until_it_serves,
    write_page,
)
from tests.support.server import unused_port

needs("django", "openai", "gunicorn", "uvicorn")

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(120)]

JSON = "application/json"

# Adds a view that shows the state of the serving process.
SITE = """
import app
from django.http import JsonResponse
from django.urls import path
from resilient_llm import AttemptCancelled, health, list_benched, observe

cancelled = []
observe(lambda event: cancelled.append(event.reason), AttemptCancelled)


async def state(request):
    errors = sum(each.errors for each in health().values())
    benched = [each.model for each in list_benched()]
    return JsonResponse({"errors": errors, "benched": benched, "cancelled": cancelled})


app.urlpatterns.append(path("state", state))
application, asgi_application = app.application, app.asgi_application
"""


# --- the test clients --------------------------------------------------------------------------

ASKED = """
import asyncio, json
import app
from django.http import Http404
from django.test import AsyncClient, Client
from django.urls import path

client, aclient = Client(), AsyncClient()


def shown(response):
    return [response.status_code, response.headers.get("Retry-After"), response.json()]


answers = {
    "sync": shown(client.post("/chat", {"prompt": "Hi"}, content_type="application/json")),
    "async view": shown(client.post("/achat", {"prompt": "Hi"}, content_type="application/json")),
    "async view again": shown(client.post("/achat", {"prompt": "Hi"}, content_type="application/json")),
    "async": shown(asyncio.run(aclient.post("/achat", {"prompt": "Hi"}, content_type="application/json"))),
}
"""


def test_sync_and_async_views_answer_under_the_test_clients(
    server: Providers, tmp_path: Path
) -> None:
    """Each of several loops has clients of its own, so no request meets a closed loop."""
    write_page("django", server, tmp_path)

    answers = result_of(f"{ASKED}\nprint(json.dumps(answers))", tmp_path, server)

    whole = [200, None, {"answer": f"{GROQ}: Hi"}]
    assert dict.fromkeys(("sync", "async view", "async view again", "async"), whole) == answers


def test_a_visitor_gets_a_503_and_when_to_come_back(server: Providers, tmp_path: Path) -> None:
    """All views of the process share the benches: each of the two providers is called once."""
    server.moods.update(groq="limited", openai="limited")
    write_page("django", server, tmp_path)

    answers = result_of(f"{ASKED}\nprint(json.dumps(answers))", tmp_path, server)

    assert [503] * 4 == [status for status, _, _ in answers.values()]
    assert {"7"} == {wait for _, wait, _ in answers.values()}
    assert {"error": "No model answers at the moment."} == answers["async"][2]
    assert ["groq", "openai"] == server.asked


ERRORS = """
import json
import app
from decimal import Decimal
from django.http import Http404
from django.test import Client
from django.urls import path
from resilient_llm import (
    BudgetExceededError, ConfigurationError, DeadlineExceededError, NoCapableTargetError,
    ResponseRejectedError, StreamInterruptedError, Target, failover, health,
)

errors = {
    "budget": BudgetExceededError("groq/llama", "budget x", 59.2, budget="x"),
    "capable": NoCapableTargetError(["image"], None, {"groq/llama": ["image"]}),
    "deadline": DeadlineExceededError(20.0),
    "answer": ResponseRejectedError("groq/llama"),
    "stream": StreamInterruptedError("groq/llama", 3),
    "mistake": ConfigurationError("no"),
    "absent": Http404("no such chat"),
}


def broken(request, name):
    raise errors[name]


def guarded(request):
    @failover("groq/llama")
    def ask(target: Target) -> None:
        raise Http404("no such chat")

    ask()


app.urlpatterns += [path("broken/<name>", broken), path("guarded", guarded)]
client = Client(raise_request_exception=False)
answers = {name: client.get(f"/broken/{name}") for name in errors}
got = {name: [a.status_code, a.headers.get("Retry-After")] for name, a in answers.items()}
got["guarded"] = [client.get("/guarded").status_code, sum(h.errors for h in health().values())]
print(json.dumps(got))
"""


def test_each_error_has_the_status_of_the_table(server: Providers, tmp_path: Path) -> None:
    """What is not an outage is a 500, and Django's own exceptions keep their meaning."""
    write_page("django", server, tmp_path)

    assert {
        "budget": [429, "60"],
        "capable": [422, None],
        "deadline": [504, None],
        "answer": [502, None],
        "stream": [502, None],
        "mistake": [500, None],
        "absent": [404, None],
        "guarded": [404, 0],
    } == result_of(ERRORS, tmp_path, server)


# --- real servers ------------------------------------------------------------------------------


@pytest.fixture(params=["gunicorn", "uvicorn"])
def site(request: Any, server: Providers, tmp_path: Path) -> Iterator[int]:
    """The port of a server: WSGI in four threads, or ASGI."""
    write_page("django", server, tmp_path)
    (tmp_path / "site_of_test.py").write_text(SITE, "utf-8")
    port = unused_port()
    if request.param == "gunicorn":
        options = ["-w", "1", "--threads", "4", "--preload", "-b", f"127.0.0.1:{port}"]
        command = ["gunicorn", *options, "site_of_test:application"]
    else:
        command = ["uvicorn", "--port", str(port), "site_of_test:asgi_application"]
    process = started(tmp_path, *command, **server.environment)
    try:
        wait_until_it_serves(port, tmp_path)
        yield port
    finally:
        end(process)


def _post(port: int, path: str, prompt: str) -> tuple[int, str | None, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps({"prompt": prompt}), {"Content-Type": JSON})
        response = connection.getresponse()
        return response.status, response.headers.get("Retry-After"), response.read().decode()


def _state(port: int) -> dict[str, Any]:
    return json.loads(_post(port, "/state", "")[2])


def test_a_served_project_answers_and_falls_back(site: int, server: Providers) -> None:
    """With Groq down, views answer from the other target, and Groq is benched for all of them."""
    server.moods["groq"] = "down"

    views = [_post(site, path, "Hi") for path in ("/chat", "/achat", "/achat", "/chat")]

    assert [(200, None, json.dumps({"answer": f"{OPENAI}: Hi"}))] * 4 == views
    assert [GROQ] == _state(site)["benched"]
    assert 3 == server.asked.count("groq")


@pytest.mark.parametrize("site", ["uvicorn"], indirect=True)
def test_a_stream_is_sent_while_it_is_written(site: int, server: Providers) -> None:
    """The words of the stream arrive in order, and before the first word an outage is a 503."""
    assert (200, None, "w0 w1 w2 ") == _post(site, "/achat-stream", "Hi")

    server.moods.update(groq="limited", openai="limited")

    assert (503, "7") == _post(site, "/achat-stream", "Hi")[:2]


def _visitor(port: int, path: str) -> socket.socket:
    """Return the connection of a visitor who has sent a prompt and may hang up."""
    body = json.dumps({"prompt": "Hi"})
    visitor = socket.create_connection(("127.0.0.1", port), 20)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\n"
    visitor.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return visitor


@pytest.mark.parametrize("site", ["uvicorn"], indirect=True)
def test_a_visitor_who_leaves_cancels_the_call(site: int, server: Providers) -> None:
    """The request to the provider ends, no other target is called, and no health is harmed."""
    server.moods["groq"] = "silent"
    with _visitor(site, "/achat"):
        assert server.hears(1)

    assert server.is_left_alone()
    assert {"errors": 0, "benched": [], "cancelled": ["cancelled"]} == _state(site)
    assert ["groq"] == server.asked


@pytest.mark.parametrize("mood", ["endless", "stalls"])
@pytest.mark.parametrize("site", ["uvicorn"], indirect=True)
def test_a_visitor_who_leaves_a_stream_ends_it(mood: str, site: int, server: Providers) -> None:
    """Also a stream that stalls is closed at once, and no health is harmed."""
    server.moods["groq"] = mood
    with _visitor(site, "/achat-stream") as visitor:
        shown = b""
        while b"word" not in shown:
            shown += visitor.recv(4096)

    assert server.is_left_alone()
    state = _state(site)
    assert (0, []) == (state["errors"], state["benched"])
    assert ["groq"] == server.asked
