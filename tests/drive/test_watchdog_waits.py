"""Which waits the watchdog ends, whom it blames for that, and what it does without a thread."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from resilient_llm import (
    ChainExhaustedError,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    breaker,
    failover,
    health,
)
from resilient_llm._runtime import watchdog
from tests.support.ways import GROQ, OPENAI

AMPLE = 10.0
"""Seconds after which a test gives up, on a busy machine."""
IMPATIENT = StreamPolicy(first_item_timeout=0.05)


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return two ends of a connection."""
    here, there = socket.socketpair()
    here.settimeout(AMPLE)
    with closing(here), closing(there):
        yield here, there


def _waits_on_lock(control: socket.socket, lock: Any) -> None:
    lock.acquire(timeout=AMPLE)
    control.recv(1)


def _waits_on_pipe(control: socket.socket, pipe: int) -> None:
    os.read(pipe, 1)
    control.recv(1)


def test_a_socket_that_is_not_waited_for_is_left_alone(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    """A thread that waits for a lock or a pipe keeps its connections, whatever its code names."""
    here, there = connection
    lock = threading.Lock()
    lock.acquire()
    out, into = os.pipe()
    works: list[tuple[Callable[..., None], Any, Callable[[], object]]] = [
        (_waits_on_lock, lock, lock.release),
        (_waits_on_pipe, out, lambda: os.write(into, b"x")),
    ]

    for work, waited_for, let_go in works:
        thread = threading.Thread(target=work, args=(here, waited_for), daemon=True)
        thread.start()
        assert thread.ident is not None
        found = [watchdog.shut_down_read_of(thread.ident) for _ in range(50)]
        let_go()
        there.send(b"x")
        thread.join(AMPLE)

        assert not any(found)
        assert not thread.is_alive()
    os.close(out)
    os.close(into)


@pytest.mark.parametrize("inner", ["failover", "breaker"])
def test_an_outer_limit_does_not_blame_the_targets_inside(
    connection: tuple[socket.socket, socket.socket], inner: str
) -> None:
    """It ends the wait of the one that is asked: no other is called, and none is charged."""
    here, _ = connection
    asked: list[str] = []

    def read(target: Target) -> Iterator[bytes]:
        asked.append(target.key)
        if not here.recv(1):
            raise ConnectionError("closed")
        yield b"x"

    @failover([GROQ, OPENAI], attempts=2)
    def chain(target: Target) -> Iterator[bytes]:
        yield from read(target)

    @failover("outer/m", attempts=1, stream=IMPATIENT)
    def outer(target: Target) -> Iterator[bytes]:
        if inner == "failover":
            yield from chain()
        else:
            with breaker(GROQ):
                yield from read(Target(GROQ))

    with pytest.raises(Exception):  # noqa: B017  # the outer target's own, by its reason
        list(outer())

    assert [GROQ] == asked
    assert 0 == health([GROQ])[GROQ].errors
    assert 1 == health(["outer/m"])["outer/m"].errors


def test_an_outer_idle_timeout_does_not_blame_the_stream_inside(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    """After content alike."""
    here, _ = connection

    @failover(GROQ)
    def chain(target: Target) -> Iterator[bytes]:
        yield b"first"
        if not here.recv(1):
            raise ConnectionError("closed")

    @failover("outer/m", stream=StreamPolicy(idle_timeout=0.05))
    def outer(target: Target) -> Iterator[bytes]:
        yield from chain()

    with pytest.raises(StreamInterruptedError):
        list(outer())

    assert 0 == health([GROQ])[GROQ].errors
    assert 1 == health(["outer/m"])["outer/m"].errors


def test_half_an_answer_is_not_a_whole_one(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    """A body that the shutdown ends is no answer, though the client takes it for the end."""
    here, there = connection
    there.send(b"The dose is 5")

    @failover(GROQ, attempts=1, stream=IMPATIENT)
    def ask(target: Target) -> str:
        text = b""
        while data := here.recv(1024):
            text += data
        return text.decode()

    with pytest.raises(ChainExhaustedError, match="timeout"):
        ask()

    assert 1 == health()[GROQ].errors


def test_closing_from_another_thread_ends_the_read(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    """The reader does not wait for its own timeout, and nobody is charged."""
    here, there = connection
    there.send(b"a")
    waits = threading.Event()

    class Stream:
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> bytes:
            data = here.recv(1)
            if not data:
                raise ConnectionError("closed")
            return data

        def close(self) -> None: ...

    @failover(GROQ)
    def ask(target: Target) -> Any:
        return Stream()

    stream = ask()
    read: list[Any] = []

    def consume() -> None:
        try:
            read.append(next(stream))
            waits.set()
            read.extend(stream)
        except Exception as error:
            read.append(error)

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    assert waits.wait(AMPLE)
    for _ in range(500):  # until it has begun to wait
        stream.close()
        thread.join(0.01)
        if not thread.is_alive():
            break

    assert not thread.is_alive()
    assert 0 == health([GROQ])[GROQ].errors


def test_without_a_thread_limits_are_checked_at_items() -> None:
    """A thread that cannot be started breaks no stream; the next limit tries again."""
    # In a process of its own, which has no watchdog yet.
    script = """
import socket, threading
from resilient_llm import StreamPolicy, Target, failover, health

start = threading.Thread.start


def refuse(thread):
    if thread.name == "resilient_llm-watchdog":
        raise RuntimeError("can't start new thread")
    start(thread)


here, there = socket.socketpair()
here.settimeout(10)


@failover(["groq/a", "openai/b"], attempts=1, stream=StreamPolicy(first_item_timeout=0.5))
def ask(target: Target, connection):
    if connection and target.provider == "groq" and not connection.recv(1):
        raise ConnectionError("closed")
    yield "a"


threading.Thread.start = refuse
assert ["a"] == list(ask(None)) == list(ask(None))
threading.Thread.start = start
assert ["a"] == list(ask(here))
print(health()["groq/a"].errors)
"""
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert "1\n" == child.stdout, child.stderr
    assert 1 == child.stderr.count("no thread can be started")


def test_a_wait_that_cannot_be_ended_is_tried_ever_less_often() -> None:
    """Each try doubles the pause, up to some seconds."""
    alarm = watchdog.Alarm()
    alarm.set(0.0)
    now, pauses = alarm.ends_at, []

    for _ in range(8):
        alarm.fire(now, {})
        pauses.append(alarm.ends_at - now)
        now = alarm.ends_at
    alarm.close()

    assert [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0] == pytest.approx(pauses)


def test_gevent_ends_waits_by_its_own_timeout() -> None:
    """Under a patched standard library a silent stream fails over; the application's passes."""
    pytest.importorskip("gevent")
    script = """
from gevent import monkey; monkey.patch_all()
import gevent, socket
from resilient_llm import StreamPolicy, Target, failover, health, reset

here, there = socket.socketpair()
policy = StreamPolicy(first_item_timeout=0.5)

@failover(["groq/a", "openai/b"], attempts=1, stream=policy)
def ask(target: Target, patience=None):
    if target.provider == "groq":
        here.settimeout(5)
        here.recv(1)
    yield "hi"

assert ["hi"] == gevent.spawn(lambda: list(ask())).get(timeout=4)
assert 1 == health()["groq/a"].errors
reset()

@failover(["groq/a", "openai/b"], attempts=1, stream=StreamPolicy(idle_timeout=4))
def slow(target: Target):
    yield "a"
    here.settimeout(5)
    here.recv(1)

def limited():
    with gevent.Timeout(0.05):
        list(slow())

try:
    gevent.spawn(limited).get(timeout=4)
except gevent.Timeout:
    print("passed", health(["groq/a"])["groq/a"].errors)
"""
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert "passed 0\n" == child.stdout, child.stderr


def test_all_waits_inside_an_outer_limit_end_once() -> None:
    """The error of the outer call says that it was its own limit."""
    here, there = socket.socketpair()

    @failover("outer/m", attempts=1, stream=IMPATIENT, reraise=False)
    def outer(target: Target) -> Iterator[bytes]:
        yield here.recv(1)

    with closing(here), closing(there), pytest.raises(ChainExhaustedError) as caught:
        list(outer())

    assert "timeout" in str(caught.value)
