"""The page about Dramatiq: its actor in the threads of a real worker, with the broker in memory.

The worker delivers messages as in production; the broker keeps them in queues of this process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from resilient_llm import (
    AttemptCancelled,
    AttemptFailed,
    Target,
    breaker,
    configure,
    failover,
    health,
    list_benched,
)
from resilient_llm.testing import capture_events, fake_clock
from tests.support.apps import GROQ, OPENAI, Providers, needs, page_module

needs("dramatiq", "openai")

import dramatiq  # noqa: E402  # it is there
from dramatiq.middleware import Shutdown, ShutdownNotifications, TimeLimit  # noqa: E402
from dramatiq.middleware.time_limit import TimeLimitExceeded  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(60)]

PATIENCE = 20_000


@pytest.fixture
def page(server: Providers, tmp_path: Path) -> Iterator[ModuleType]:
    """The module of the actor, with a broker of its own."""
    with page_module("dramatiq", server, tmp_path) as module:
        yield module
        module.broker.close()


@pytest.fixture
def work(page: ModuleType) -> Iterator[Callable[..., BaseException | None]]:
    """``work(actor, *args)`` has a worker of four threads process a message and its retries."""
    for middleware in page.broker.middleware:
        if isinstance(middleware, TimeLimit):
            middleware.manager.interval = 0.02  # seconds between two looks at the limits
    page.broker.emit_after("process_boot")  # as a process of the command `dramatiq` begins
    failed = _Failed()
    page.broker.add_middleware(failed)
    worker = dramatiq.Worker(page.broker, worker_timeout=20, worker_threads=4)
    worker.start()

    def run(actor: Any, *args: Any) -> BaseException | None:
        actor.send(*args)
        page.broker.join(actor.queue_name, timeout=PATIENCE, fail_fast=False)
        worker.join()
        return failed.error

    run.worker = worker  # type: ignore[attr-defined]
    yield run
    worker.stop()


class _Failed(dramatiq.Middleware):
    """Keeps what the last message ended with."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: Any = None
    ) -> None:
        self.error = exception


def test_an_actor_falls_back(page: ModuleType, work: Any, server: Providers) -> None:
    """Threads of the worker share what is known: Groq is called by the first message alone."""
    server.moods["groq"] = "down"

    assert work(page.summarise, "one") is None
    before = server.asked.count("groq")
    for number in range(7):
        page.summarise.send(str(number))
    assert work(page.summarise, "last") is None

    assert 9 == len(page.saved)
    assert f"{OPENAI}: last" in page.saved
    assert before == server.asked.count("groq")


def test_a_message_comes_back_when_the_outage_is_over(
    page: ModuleType, work: Any, server: Providers
) -> None:
    """It is retried once, after the time that the providers named and not after 15 seconds."""
    configure(max_wait=0.5)
    server.moods.update(groq="limited", openai="limited")
    server.retry_after = "1"
    delays: list[int] = []
    enqueue = page.broker.enqueue

    def recovering(message: Any, *, delay: int | None = None) -> Any:
        if delay is not None:
            delays.append(delay)
            server.moods.clear()
        return enqueue(message, delay=delay)

    page.broker.enqueue = recovering

    assert work(page.summarise, "text") is None

    assert 1 == len(delays)
    assert 500 < delays[0] <= 1200
    assert [f"{GROQ}: text"] == page.saved
    assert ["groq", "openai", "groq"] == server.asked


def test_the_broker_is_given_nothing_of_a_providers_error(
    page: ModuleType, work: Any, server: Providers
) -> None:
    """The traceback that Dramatiq stores with a message names neither a prompt nor an answer."""
    configure(max_wait=0.5)
    server.moods.update(groq="limited", openai="limited")
    stored: list[str] = []
    page.broker.enqueue = lambda message, *, delay=None: (
        stored.append(message.options.get("traceback", ""))
        or (page.broker.queues[message.queue_name].put(message.encode()) if not delay else None)
    )

    work(page.summarise, "the prompt of a user")

    (_, text) = stored
    assert "no model answered" in text
    assert "Rate limit reached" not in text
    assert "the prompt of a user" not in text


def _interrupted(
    page: ModuleType, work: Any, server: Providers, **options: Any
) -> tuple[list[Any], BaseException | None]:
    """Run an actor that waits for Groq; return the events, and what its message ended with."""
    server.moods["groq"] = "held"
    actor = page.dramatiq.actor(page.ask, actor_name="held", max_retries=0, **options)
    with capture_events() as events:
        error = work(actor, "Hi")
    return list(events), error


def _is_a_cancellation(events: list[Any], server: Providers) -> None:
    assert ["cancelled"] == [e.reason for e in events if isinstance(e, AttemptCancelled)]
    assert [] == [event for event in events if isinstance(event, AttemptFailed)]
    assert [] == list_benched()
    assert 0 == health()[GROQ].errors
    assert ["groq"] == server.asked


def test_a_time_limit_is_a_cancellation(page: ModuleType, work: Any, server: Providers) -> None:
    """It passes through a call of the SDK: no other target is called and no health is harmed."""
    _end_limits_and_release(page, server)

    events, error = _interrupted(page, work, server)

    assert isinstance(error, TimeLimitExceeded)
    _is_a_cancellation(events, server)


def test_a_shutdown_of_the_worker_is_a_cancellation(
    page: ModuleType, work: Any, server: Providers
) -> None:
    """The actor that asked to be notified is interrupted, and its call harms no health."""

    def stop(_: Any) -> None:
        for middleware in page.broker.middleware:
            if isinstance(middleware, ShutdownNotifications):
                middleware.before_worker_shutdown(page.broker, work.worker)
        server.release()

    server.on_request = stop

    events, error = _interrupted(page, work, server, notify_shutdown=True)

    assert isinstance(error, Shutdown)
    _is_a_cancellation(events, server)


def test_a_probe_that_a_time_limit_ends_gives_its_place_back(
    page: ModuleType, work: Any, server: Providers
) -> None:
    """The circuit stays half-open, and the next call may probe at once."""
    with fake_clock() as clock:
        guard = breaker(GROQ, failures=1, cooldown=10.0)
        guard.record(ConnectionError(), 0.1)
        clock.advance(20)
        assert "half_open" == guard.state
        _end_limits_and_release(page, server)

        _, error = _interrupted(page, work, server)

        assert isinstance(error, TimeLimitExceeded)
        assert "half_open" == guard.state
        server.moods.clear()
        assert f"{GROQ}: again" == page.ask("again")
        assert "closed" == guard.state


def test_a_time_limit_ends_the_wait_between_two_attempts(page: ModuleType, work: Any) -> None:
    """A thread that sleeps gets the exception when it wakes, and makes no attempt after it."""
    asked: list[str] = []

    @failover(chain=[GROQ], attempts=3, backoff=lambda _: 0.3)
    def call(target: Target) -> None:
        asked.append(target.key)
        _limits_end(page)
        raise ConnectionError

    error = work(page.dramatiq.actor(call, actor_name="waits", max_retries=0))

    assert isinstance(error, TimeLimitExceeded)
    assert [GROQ] == asked


def _limits_end(page: ModuleType) -> Callable[[], bool]:
    """End the time limits of all actors that run; return what says that their threads were told."""
    (limits,) = [each for each in page.broker.middleware if isinstance(each, TimeLimit)]
    with limits.manager.mu:
        running = [thread for thread, until in limits.manager.deadlines.items() if until]
        for thread in running:
            limits.manager.deadlines[thread] = (
                1e-9  # moments are counted from the start of the machine
            )
    return lambda: all(limits.manager.deadlines[thread] is None for thread in running)


def _end_limits_and_release(page: ModuleType, server: Providers) -> None:
    """End the time limit once the request is there, and answer once the thread was told."""

    def watch(_: Any) -> None:
        server.on_request = lambda _: None
        told = _limits_end(page)

        def wait() -> None:
            pause = threading.Event()
            while not told():
                pause.wait(0.01)
            server.release()

        threading.Thread(target=wait, daemon=True).start()

    server.on_request = watch
