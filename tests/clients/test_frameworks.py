"""Decorated functions inside the real frameworks: what these raise for themselves reaches them.

Each framework runs in this process, without a broker or a network. `make apps` installs them.
"""

from __future__ import annotations

import signal
from typing import Any, TypedDict

import pytest

from resilient_llm import Target, failover, list_benched
from tests.support.apps import needs
from tests.support.ways import GROQ, OPENAI

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def asked() -> list[str]:
    """The keys of the targets that were asked."""
    return []


def test_starlette_answers_with_the_applications_own_404(asked: list[str]) -> None:
    """The client is told 404 and no model is benched."""
    needs("starlette")
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route
    from starlette.testclient import TestClient

    @failover([GROQ, OPENAI])
    async def chat(target: Target, _request: Any) -> Any:
        asked.append(target.key)
        raise HTTPException(404, "no such chat")

    async def endpoint(request: Any) -> Any:
        return await chat(request)

    with TestClient(Starlette(routes=[Route("/", endpoint)])) as client:
        assert 404 == client.get("/").status_code
    assert [GROQ] == asked
    assert [] == list_benched()


def test_flask_answers_with_the_applications_own_429(asked: list[str]) -> None:
    """A limit of the application's own server is not waited for, whatever it says."""
    needs("flask")
    import flask
    from werkzeug.exceptions import TooManyRequests

    app = flask.Flask(__name__)

    @app.get("/")
    @failover([GROQ, OPENAI])
    def chat(target: Target) -> Any:
        asked.append(target.key)
        raise TooManyRequests(retry_after=30)

    assert 429 == app.test_client().get("/").status_code
    assert [GROQ] == asked
    assert [] == list_benched()


def _celery() -> Any:
    needs("celery")
    import celery

    app = celery.Celery("m", broker="memory://", backend="cache+memory://")
    app.conf.task_always_eager = True
    return app


def test_celery_retries_a_task_once_and_not_once_for_each_target(asked: list[str]) -> None:
    """Each of the three runs asks the first target alone."""

    @_celery().task(bind=True, max_retries=2)
    @failover([GROQ, OPENAI])
    def work(self: Any, target: Target) -> None:
        asked.append(target.key)
        raise self.retry(countdown=0)

    result = work.delay()

    assert [GROQ] * 3 == asked
    assert "MaxRetriesExceededError" == type(result.result).__name__


@pytest.mark.parametrize("name", ["Ignore", "Reject"])
def test_celery_is_told_to_ignore_or_reject_a_task(name: str, asked: list[str]) -> None:
    """The predicate leaves the function as the object that was raised."""
    needs("celery")
    from celery import exceptions

    error = getattr(exceptions, name)()

    @failover([GROQ, OPENAI])
    def work(target: Target) -> None:
        asked.append(target.key)
        raise error

    with pytest.raises(exceptions.TaskPredicate) as caught:
        work()

    assert error is caught.value
    assert [GROQ] == asked


def test_celerys_soft_time_limit_ends_the_task(asked: list[str]) -> None:
    """The signal of billiard's pool passes the chain, and the task can clean up."""
    needs("billiard")
    from billiard import exceptions, pool

    @failover([GROQ, OPENAI])
    def work(target: Target) -> None:
        asked.append(target.key)
        signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, pool.soft_timeout_sighandler)
    try:
        with pytest.raises(exceptions.SoftTimeLimitExceeded):
            work()
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert [GROQ] == asked


def test_rqs_job_timeout_ends_the_job(asked: list[str]) -> None:
    """The alarm rings once, and no second target is asked after it."""
    needs("rq")
    from rq import timeouts

    @failover([GROQ, OPENAI])
    def job(target: Target) -> None:
        asked.append(target.key)
        signal.raise_signal(signal.SIGALRM)

    with (
        pytest.raises(timeouts.JobTimeoutException),
        timeouts.UnixSignalDeathPenalty(600, timeouts.JobTimeoutException),
    ):
        job()

    assert [GROQ] == asked


def test_dramatiqs_retry_reaches_its_middleware(asked: list[str]) -> None:
    """An actor that asks to be run later leaves with the object that it raised."""
    needs("dramatiq")
    from dramatiq import errors

    error = errors.Retry("later", delay=1000)

    @failover([GROQ, OPENAI])
    def actor(target: Target) -> None:
        asked.append(target.key)
        raise error

    with pytest.raises(errors.Retry) as caught:
        actor()

    assert error is caught.value
    assert [GROQ] == asked


class _State(TypedDict):
    ok: bool


def test_langgraph_asks_a_person(asked: list[str]) -> None:
    """An interrupt in a decorated node stops the graph until somebody answers."""
    needs("langgraph")
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import Command, interrupt

    @failover([GROQ, OPENAI])
    def node(target: Target, state: _State) -> dict[str, Any]:
        asked.append(target.key)
        return {"ok": interrupt("approve?")}

    graph: Any = StateGraph(_State)
    graph.add_node("n", node)
    graph.add_edge(START, "n")
    graph.add_edge("n", END)
    app = graph.compile(checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}

    stopped = app.invoke({"ok": False}, thread)
    resumed = app.invoke(Command(resume=True), thread)

    assert "__interrupt__" in stopped
    assert {"ok": True} == resumed
    assert [GROQ, GROQ] == asked
