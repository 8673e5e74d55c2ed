"""The page about gevent, in a process of its own that gevent has patched, with real sockets."""

from __future__ import annotations

import http.client
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.apps import (
    GROQ,
    OPENAI,
    Providers,
    end,
    needs,
    page_code,
    result_of,
    started,
    wait_until_it_serves,
    write_page,
)
from tests.support.server import unused_port

needs("gevent", "openai", "flask", "gunicorn")

pytestmark = [pytest.mark.timeout(60)]

# What each of these scripts begins with, and what tells of the process in the end.
BEGIN = """
import app
import gevent, json, pathlib
from resilient_llm import (
    AttemptCancelled, AttemptFailed, StreamPolicy, breaker, configure, failover, health,
    is_benched, list_benched, observe, Target,
)

GROQ = "groq/llama-3.3-70b-versatile"
cancelled, failed = [], []
observe(lambda event: cancelled.append([event.target, event.reason]), AttemptCancelled)
observe(lambda event: failed.append(event.target), AttemptFailed)


def show(**more):
    errors = sum(each.errors for each in health().values())
    print(json.dumps({"cancelled": cancelled, "failed": failed, "errors": errors, **more}))


def reached():
    # Wait, as a greenlet, until a request has reached the provider.
    while not pathlib.Path("reached").exists():
        gevent.sleep(0.01)


@failover(chain=[GROQ, "openai/gpt-5-mini"], timeout=20.0)
def ask(target: Target, prompt: str, *, attempt: app.Attempt) -> str:
    return app.CLIENTS[target.provider].chat.completions.create(
        model=target.model,
        messages=[{"role": "user", "content": prompt}],
        timeout=attempt.remaining,
    ).choices[0].message.content
"""


def _run(code: str, place: Path, server: Providers) -> Any:
    page = page_code("gevent", server).replace("gevent.Timeout(5.0)", "gevent.Timeout(0.5)")
    (place / "app.py").write_text(page, "utf-8")
    server.on_request = lambda _: (place / "reached").touch()
    return result_of(BEGIN + code, place, server)


def test_greenlets_share_what_is_known(server: Providers, tmp_path: Path) -> None:
    """A hundred greenlets at once get their answers, and a provider that is down is benched."""
    server.moods["groq"] = "down"

    result = _run(
        """
app.ask("first")
answers = app.ask_all([str(n) for n in range(100)])
show(answers=answers, benched=[each.model for each in list_benched()])
""",
        tmp_path,
        server,
    )

    assert [f"{OPENAI}: {n}" for n in range(100)] == result["answers"]
    assert [GROQ] == result["benched"]
    assert 3 == server.asked.count("groq")


def test_a_wait_of_a_call_lets_other_greenlets_run(server: Providers, tmp_path: Path) -> None:
    """While one greenlet waits between two attempts, the others go on."""
    result = _run(
        """
order = []


@failover(chain=[GROQ], attempts=2, backoff=lambda _: 0.3)
def waits(target: Target) -> None:
    order.append("attempt")
    raise ConnectionError


def other():
    order.append("other")


gevent.joinall([gevent.spawn(waits), gevent.spawn(other)])
show(order=order)
""",
        tmp_path,
        server,
    )

    assert ["attempt", "other", "attempt"] == result["order"]


@pytest.mark.parametrize(
    "end_it",
    [
        "    ended.append(app.ask_quickly('Hi'))",
        "    greenlet = gevent.spawn(ask, 'Hi')\n    reached()\n"
        "    greenlet.kill()\n    ended.append(type(greenlet.value).__name__)",
    ],
    ids=["Timeout", "GreenletExit"],
)
def test_a_greenlet_that_is_ended_is_a_cancellation(
    end_it: str, server: Providers, tmp_path: Path
) -> None:
    """Its connection is closed, nothing counts as a failure, and no other target is called."""
    server.moods["groq"] = "silent"

    result = _run(f"ended = []\nif True:\n{end_it}\nshow(ended=ended)\n", tmp_path, server)

    assert {
        "cancelled": [[GROQ, "cancelled"]],
        "failed": [],
        "errors": 0,
        "ended": result["ended"],
    } == result
    assert result["ended"] in ([None], ["GreenletExit"])
    assert ["groq"] == server.asked
    assert server.is_left_alone()


def test_a_probe_that_is_killed_gives_its_place_back(server: Providers, tmp_path: Path) -> None:
    """The circuit stays half-open, and the next greenlet probes and closes it."""
    server.moods["groq"] = "silent"

    result = _run(
        """
from resilient_llm.testing import fake_clock

with fake_clock() as clock:
    guard = breaker(GROQ)
    for _ in range(5):
        guard.record(ConnectionError(), 0.1)
    clock.advance(60)
    states = [guard.state]
    greenlet = gevent.spawn(ask.using(timeout=None), "Hi")
    reached()
    # The place of the probe is taken: the second call goes to the other target.
    second = ask("second")
    greenlet.kill()
    states.append(guard.state)
    with guard:
        pass
    states.append(guard.state)
show(states=states, second=second)
""",
        tmp_path,
        server,
    )

    assert ["half_open", "half_open", "closed"] == result["states"]
    assert f"{OPENAI}: second" == result["second"]


def test_a_stream_is_left_when_its_greenlet_is_killed(server: Providers, tmp_path: Path) -> None:
    """The greenlet's wait for the next item ends, the connection closes, and nobody is charged."""
    server.moods["groq"] = "stalls"

    result = _run(
        """
@failover(chain=[GROQ, "openai/gpt-5-mini"], stream=StreamPolicy(idle_timeout=20.0))
def stream(target: Target) -> object:
    return app.CLIENTS[target.provider].chat.completions.create(
        model=target.model, messages=[{"role": "user", "content": "Hi"}], stream=True
    )


words = []


def read():
    with stream() as chunks:
        for chunk in chunks:
            words.append(chunk.choices[0].delta.content)


greenlet = gevent.spawn(read)
while not words:
    gevent.sleep(0.01)
greenlet.kill()
show(words=words, ended=type(greenlet.value).__name__)
""",
        tmp_path,
        server,
    )

    assert ([], 0) == (result["failed"], result["errors"])
    assert (["word "], "GreenletExit") == (result["words"], result["ended"])
    assert ["groq"] == server.asked
    assert server.is_left_alone()


def test_many_greenlets_that_are_killed_leave_no_lock_behind(
    server: Providers, tmp_path: Path
) -> None:
    """Half of sixty calls are killed wherever they are, and the next call works at once."""
    result = _run(
        """
import random

configure(breakers={"*": {"slow_call": 600.0}})  # or a killed call may count as one that hung
rng = random.Random(7)
answers, ended = [], 0


def call(n):
    answers.append(ask.using(chain=[GROQ])(str(n)))


greenlets = [gevent.spawn(call, n) for n in range(60)]
for greenlet in rng.sample(greenlets, 30):
    gevent.sleep(0)
    greenlet.kill(block=False)
gevent.joinall(greenlets, timeout=30)
left = [g for g in greenlets if not g.dead]
with gevent.Timeout(10):
    last = app.ask("last")
show(left=len(left), answered=len(answers), last=last, benched=is_benched(GROQ))
""",
        tmp_path,
        server,
    )

    assert (0, f"{GROQ}: last", False) == (result["left"], result["last"], result["benched"])
    assert ([], 0) == (result["failed"], result["errors"])
    assert 30 <= result["answered"] <= 60


def test_each_greenlet_has_a_context_of_its_own(server: Providers, tmp_path: Path) -> None:
    """A trace sees the calls of the greenlets that are started with its context, and no others."""
    server.moods["groq"] = "limited"

    result = _run(
        """
from gevent.event import Event
from resilient_llm import Trace

opened, called = Event(), Event()


def traced():
    with Trace() as trace:
        opened.set()
        called.wait()
        gevent.joinall([app.spawn(app.ask, "mine") for _ in range(3)])
        gevent.spawn(app.ask, "without the context").join()
    return len(trace.calls)


def other():
    opened.wait()
    app.ask("not mine")
    called.set()


greenlets = [gevent.spawn(traced), gevent.spawn(other)]
gevent.joinall(greenlets)
show(traced=greenlets[0].value)
""",
        tmp_path,
        server,
    )

    assert 3 == result["traced"]


SITE = """
import app
from flask import Flask, request

site = Flask("site")


@site.post("/chat")
def chat():
    return app.ask(request.form["prompt"])
"""


def test_a_worker_of_gunicorn_on_gevent_answers_many_at_once(
    server: Providers, tmp_path: Path
) -> None:
    """Twenty visitors wait for held answers in one process, as greenlets, and all are answered."""
    server.moods["groq"] = "held"
    server.on_request = lambda _: server.release() if len(server.requests) >= 20 else None
    write_page("gevent", server, tmp_path)
    (tmp_path / "site_of_test.py").write_text(SITE, "utf-8")
    port = unused_port()
    options = ["-k", "gevent", "-w", "1", "-b", f"127.0.0.1:{port}", "site_of_test:site"]
    process = started(tmp_path, "gunicorn", *options, **server.environment)

    def visit(number: int) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with closing(connection):
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", "/chat", urlencode({"prompt": number}), headers)
            return connection.getresponse().read().decode()

    try:
        wait_until_it_serves(port, tmp_path)
        with ThreadPoolExecutor(20) as visitors:
            answers = list(visitors.map(visit, range(20)))
    finally:
        end(process)

    assert [f"{GROQ}: {number}" for number in range(20)] == answers
