"""Other ways to get through an outage, each written from its public description.

None is a library: each is what a library's documentation says that it does, in as few lines as
that takes, so that it can be read beside the table and run in the same virtual time. All of them,
ours too, have the same patience: `ATTEMPT_TIMEOUT` for an attempt and `TIMEOUT` for a call.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import TYPE_CHECKING, Any

from resilient_llm.testing import FakeHTTPError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from resilient_llm.testing._report import SentAttempt, SimulatedCall
    from resilient_llm.testing._simulation import Send, Serve

CHAIN = ("first/model", "second/model", "third/model")
TIMEOUT = 30.0
"""Seconds that a caller waits for an answer."""
ATTEMPT_TIMEOUT = 10.0
"""Seconds that a client waits for an answer; three times what one answer in a hundred takes."""

Failure = (FakeHTTPError, TimeoutError)


class NoneLeftError(TimeoutError):
    """No target is left to try, which the simulation counts as a call that was not served."""


def within_patience(
    serve: Callable[[SimulatedCall], Awaitable[SentAttempt]],
) -> Callable[[SimulatedCall], Awaitable[SentAttempt]]:
    """Limit every call of a policy."""

    async def limited(call: SimulatedCall) -> SentAttempt:
        async with asyncio.timeout(TIMEOUT):
            return await serve(call)

    return limited


async def attempt(send: Send, call: SimulatedCall, key: str) -> SentAttempt:
    """Make one attempt, as a client with a timeout does."""
    async with asyncio.timeout(ATTEMPT_TIMEOUT):
        return await send(call, key)


def in_order(send: Send) -> Serve:
    """Try the targets in order, and remember nothing.

    ``try`` the first, ``except`` the next; the fallbacks of LangChain's ``with_fallbacks`` and of
    pydantic-ai's ``FallbackModel``.
    """

    async def serve(call: SimulatedCall) -> SentAttempt:
        for key in CHAIN:
            try:
                return await attempt(send, call, key)
            except Failure:
                continue
        raise NoneLeftError

    return within_patience(serve)


def with_retries(send: Send) -> Serve:
    """Try each target three times with full jitter, then the next.

    ``stop_after_attempt(3)`` and ``wait_random_exponential(multiplier=1, max=10)`` of tenacity
    around each call of a provider.
    """
    jitter = random.Random("jitter")

    async def serve(call: SimulatedCall) -> SentAttempt:
        for key in CHAIN:
            for number in range(3):
                try:
                    return await attempt(send, call, key)
                except Failure:
                    if number < 2:
                        await asyncio.sleep(jitter.uniform(0.0, min(10.0, 2.0**number)))
        raise NoneLeftError

    return within_patience(serve)


class Cooldown:
    """Out of the pick for a minute after two failures within a minute.

    The cooldowns of LiteLLM's Router: ``allowed_fails=1, cooldown_time=60``. A target that comes
    back takes all calls at once, and if all are cooled down a call fails at once.
    """

    FAILURES, SECONDS = 2, 60.0

    def __init__(self) -> None:
        self.failed_at: deque[float] = deque()
        self.until = 0.0

    def allows(self, now: float) -> bool:
        return now >= self.until

    def failed(self, now: float) -> None:
        self.failed_at.append(now)
        while self.failed_at[0] <= now - self.SECONDS:
            self.failed_at.popleft()
        if len(self.failed_at) >= self.FAILURES:
            self.failed_at.clear()
            self.until = now + self.SECONDS

    def succeeded(self, now: float) -> None:
        pass

    def left(self) -> None:
        pass


class RateBreaker:
    """Opens for 30 s when half of the last five answers are failures, then lets one probe pass.

    A circuit breaker over a sliding window of calls, as of resilience4j or Polly, with five calls
    as window and minimum.
    """

    CALLS, RATE, SECONDS = 5, 0.5, 30.0

    def __init__(self) -> None:
        self.failures: deque[bool] = deque(maxlen=self.CALLS)
        self.opened_until: float | None = None
        self.probing = False

    def allows(self, now: float) -> bool:
        if self.opened_until is None:
            return True
        if now < self.opened_until or self.probing:
            return False
        self.probing = True
        return True

    def failed(self, now: float) -> None:
        if self.opened_until is not None:
            if self.probing and now >= self.opened_until:
                self._open(now)
            return
        self.failures.append(True)
        self._look(now)

    def succeeded(self, now: float) -> None:
        if self.opened_until is not None:
            if self.probing and now >= self.opened_until:
                self.opened_until, self.probing = None, False
            return
        self.failures.append(False)
        self._look(now)

    def left(self) -> None:
        self.probing = False

    def _look(self, now: float) -> None:
        if len(self.failures) == self.CALLS and sum(self.failures) >= self.RATE * self.CALLS:
            self._open(now)

    def _open(self, now: float) -> None:
        self.failures.clear()
        self.opened_until, self.probing = now + self.SECONDS, False


def guarded_by(guard: Callable[[], Any]) -> Callable[[Send], Serve]:
    """Return a policy that tries the targets in order, and skips those that their guard refuses."""

    def policy(send: Send) -> Serve:
        guards = {key: guard() for key in CHAIN}

        def allowed() -> Iterator[str]:
            for key in CHAIN:
                if guards[key].allows(asyncio.get_running_loop().time()):
                    yield key

        async def serve(call: SimulatedCall) -> SentAttempt:
            clock = asyncio.get_running_loop().time
            for key in allowed():
                try:
                    answer = await attempt(send, call, key)
                except Failure:
                    guards[key].failed(clock())
                except asyncio.CancelledError:
                    guards[key].left()
                    raise
                else:
                    guards[key].succeeded(clock())
                    return answer
            raise NoneLeftError

        return within_patience(serve)

    return policy


PEERS: dict[str, Callable[[Send], Serve]] = {
    "try in order": in_order,
    "retries": with_retries,
    "cooldown 60 s": guarded_by(Cooldown),
    "breaker 50 % of 5": guarded_by(RateBreaker),
}
"""``{name in the table: policy}``"""
