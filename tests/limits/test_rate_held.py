"""Calls that are limited to a provider's own figures are hardly refused there, and lose little."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from random import Random
from typing import Any

import pytest

from resilient_llm import Limit, Target, configure, failover
from tests.support.schedules import PATIENCE
from tests.support.server import HOST, LoopbackServer, Request
from tests.support.ways import GROQ, ProviderError

CALLERS = 16
CALLS = 400 * PATIENCE
"""Of the test on loopback; with ``SCHEDULES=25`` ten thousand."""
MOST = 100
"""Calls a second there: a machine that is busy wakes its threads late, but seldom as late as this
many threads have time for."""


class TokenBucket:
    """A provider's bucket, written from the definition: what it holds, and when that was."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._held, self._at = burst, None

    _at: float | None

    def admits(self, now: float) -> bool:
        if self._at is not None:
            self._held = min(self._burst, self._held + max(0.0, now - self._at) * self._rate)
        self._at = now if self._at is None else max(now, self._at)
        if self._held < 1.0:
            return False
        self._held -= 1.0
        return True


class Limited(LoopbackServer):
    """Answers 200, or 429 where its bucket is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.bucket: TokenBucket | None = None
        self.lock = threading.Lock()
        self.refused = 0
        self.served = 0

    def answer(self, connection: socket.socket, request: Request) -> None:
        with self.lock:
            is_admitted = self.bucket is None or self.bucket.admits(time.monotonic())
            self.served += is_admitted
            self.refused += not is_admitted
        status = b"200 OK" if is_admitted else b"429 Too Many Requests"
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")


def together(server: Limited, calls: int) -> float:
    """Make calls by several threads; return the seconds that they took."""
    left = iter(range(calls))
    own, ready = threading.local(), threading.Barrier(CALLERS + 1)

    @failover([GROQ], attempts=1, max_attempts=1)
    def ask(target: Target) -> int:
        own.connection.request("POST", "/", b"{}")
        answer = own.connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise ProviderError(answer.status)
        return answer.status

    def work() -> None:
        own.connection = http.client.HTTPConnection(HOST, server.port)
        own.connection.connect()  # else the first call would arrive late, and the others gain on it
        ready.wait()
        for _ in left:
            try:
                ask()
            except Exception:  # noqa: S110  # the server has counted it
                pass
        own.connection.close()

    threads = [threading.Thread(target=work) for _ in range(CALLERS)]
    for each in threads:
        each.start()
    ready.wait()
    began = time.monotonic()
    for each in threads:
        each.join()
    return time.monotonic() - began


def test_a_server_with_a_bucket_refuses_hardly_any_call() -> None:
    """At a fifth of what this machine can do at the most."""
    configure(breakers={"*": {"mode": "metrics_only"}}, logging=False, max_wait=60.0)
    with Limited() as server:
        capacity = 400 / together(server, 400)
        rate = max(10, min(int(capacity / 5), MOST))
        configure(limits={"groq": Limit(requests=rate, per="second", burst=rate)})
        server.bucket, server.served = TokenBucket(rate, rate), 0

        took = together(server, CALLS)

        assert server.refused <= 10
        # The bucket was full at first, so that many calls needed no refill.
        assert (server.served - rate) / took >= 0.97 * rate


@pytest.mark.parametrize("jitter", [0.0, 0.05, 0.2])
def test_ten_thousand_calls_on_the_clock_of_a_test(clock: Any, jitter: float) -> None:
    """On their way they are late by up to ``jitter``; the provider counts them as they arrive."""
    rate, burst, calls, rng = 50, 60, 10_000, Random(1)
    configure(limits={"groq": Limit(requests=rate, per="second", burst=burst)}, max_wait=60.0)
    arrivals: list[float] = []

    @failover([GROQ])
    def ask(target: Target) -> None:
        arrivals.append(clock.monotonic() + rng.random() * jitter)

    for _ in range(calls):
        ask()

    provider = TokenBucket(rate, burst)
    refused = sum(not provider.admits(each) for each in sorted(arrivals))
    assert refused <= 10
    took = max(arrivals) - min(arrivals)
    assert (calls - burst) / took >= 0.97 * rate
