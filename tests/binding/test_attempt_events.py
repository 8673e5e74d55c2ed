"""Each attempt emits exactly one of three events, and each call that an error leaves one more.

Random scripts are played through every form in which a call can be made. A ledger counts how often
a target was asked, and the events must agree with it, call by call.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from resilient_llm import (
    AttemptCancelled,
    AttemptFailed,
    AttemptSucceeded,
    CallFailed,
    Event,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    Trace,
    call_id,
    configure,
    failover,
)
from resilient_llm._runtime import call_ids
from resilient_llm.testing import FakeClock, capture_events, fake_clock, isolated
from tests.support.ways import ProviderError, run_async

SEEDS = 60
CALLS = 25
ENDS = (AttemptSucceeded, AttemptFailed, AttemptCancelled)


class TimeLimitExceeded(Exception):  # noqa: N818  # its name is what is known
    """A task queue's time limit, by its module and name."""


TimeLimitExceeded.__module__ = "dramatiq.middleware.time_limit"


class Stop(BaseException):
    """A signal of somebody else, which is no error of a program."""


SIGNALS: tuple[type[BaseException], ...] = (
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    asyncio.CancelledError,
    Stop,
    TimeLimitExceeded,
)
ERRORS: tuple[Callable[[], BaseException], ...] = (
    TimeoutError,
    ConnectionResetError,
    lambda: ProviderError(429),
    lambda: ProviderError(401),
    lambda: ProviderError(400),
    lambda: ProviderError(503),
    RuntimeError,
    TypeError,
    *SIGNALS,
)


class Script:
    """A random policy, what its targets do, and how often they were asked."""

    def __init__(self, seed: int, clock: FakeClock) -> None:
        self.rng = random.Random(seed)
        self.clock = clock
        self.asked = 0
        self.bad_share = self.rng.choice([0.1, 0.4, 0.8])
        self.chain = self.rng.sample(["a/x", "a/y", "b/x"], self.rng.randint(1, 3))

    def options(self, *, stream: bool) -> dict[str, Any]:
        rng = self.rng
        options: dict[str, Any] = {
            "attempts": rng.choice([1, 2, 3]),
            "when_all_benched": rng.choice(["soonest", "raise"]),
            "on_down": rng.choice(["skip", "demote"]),
            "backoff": lambda n: 0.5,
            "on_request_error": rng.choice(["next", "raise"]),
            "max_attempts": rng.choice([None, None, 1, 2]),
            "on_unknown": rng.choice(["next", "raise"]),
            "reject": rng.choice([None, self.reject]),
            "strategy": rng.choice(["priority", "priority", self.order]),
        }
        if stream:
            options["stream"] = StreamPolicy(
                on_interrupt=rng.choice(["raise", "restart", self.go_on]),
                on_empty=rng.choice(["next", "accept"]),
            )
        elif rng.random() < 0.3:
            options["timeout"] = 5.0
        return options

    def raises(self, share: float) -> None:
        if self.rng.random() < share:
            # Not by way of a local variable, which would keep this frame and all its callers alive.
            raise self.rng.choice(ERRORS)()  # noqa: RSE102  # some are functions

    def reject(self, answer: Any) -> Any:
        self.raises(0.1)
        return self.rng.random() < 0.1

    def order(self, targets: Any) -> Any:
        if self.rng.random() < 0.1:
            raise LookupError("no order")
        return targets

    def go_on(self, interruption: StreamInterruptedError) -> Any:
        self.raises(0.2)
        return self.rng.choice([None, {}])

    def body(self, target: Target) -> Any:
        self.asked += 1
        self.clock.advance(self.rng.choice([0.0, 0.1, 2.0, 12.0]))
        self.raises(self.bad_share)
        return self.rng.choice(["x", "y", None])

    def items(self, target: Target) -> Iterator[str]:
        self.asked += 1
        for _ in range(self.rng.choice([0, 1, 3])):
            self.clock.advance(self.rng.choice([0.0, 0.1, 12.0]))
            self.raises(self.bad_share / 3)
            yield "x"
        self.raises(self.bad_share / 3)

    def reads(self) -> int:
        """Return how many items the consumer takes before it leaves."""
        return self.rng.choice([0, 1, 2, 99, 99])


# The forms. Each makes one call and returns its answer, or raises its error.


def plain(script: Script) -> Callable[[], Any]:
    return failover(script.chain, **script.options(stream=False))(script.body)


def called(script: Script) -> Callable[[], Any]:
    policy = failover(script.chain, **script.options(stream=False))
    return lambda: policy.call(script.body)


def looped(script: Script) -> Callable[[], Any]:
    policy = failover(script.chain, **script.options(stream=False))

    def ask() -> Any:
        for attempt in policy:
            if script.rng.random() < 0.05:
                break  # it is not entered, so nothing was asked
            with attempt as target:
                attempt.result = script.body(target)

    return ask


def awaited(backend: str) -> Callable[[Script], Callable[[], Any]]:
    def form(script: Script) -> Callable[[], Any]:
        @failover(script.chain, **script.options(stream=False))
        async def ask(target: Target) -> Any:
            await anyio.lowlevel.checkpoint()
            return script.body(target)

        return lambda: run_async(ask, backend=backend)

    return form


def given_an_awaitable(script: Script) -> Callable[[], Any]:
    async def answer(target: Target) -> Any:
        return script.body(target)

    @failover(script.chain, **script.options(stream=False))
    def ask(target: Target) -> Any:
        return answer(target)

    async def main() -> Any:
        return await ask()

    return lambda: run_async(main, backend="asyncio")


def alooped(script: Script) -> Callable[[], Any]:
    policy = failover(script.chain, **script.options(stream=False))

    async def ask() -> Any:
        async for attempt in policy:
            async with attempt as target:
                attempt.result = script.body(target)

    return lambda: run_async(ask, backend="asyncio")


def read(script: Script, stream: Any) -> None:
    most = script.reads()
    for number, _ in enumerate(stream, 1):
        if number > most:
            break
    if script.rng.random() < 0.5:
        stream.close()


def generated(script: Script) -> Callable[[], Any]:
    ask = failover(script.chain, **script.options(stream=True))(script.items)
    return lambda: read(script, ask())


def returned_stream(script: Script) -> Callable[[], Any]:
    @failover(script.chain, **script.options(stream=False))
    def ask(target: Target) -> Any:
        return script.items(target)

    return lambda: read(script, ask())


def managed(script: Script) -> Callable[[], Any]:
    @contextmanager
    def opened(target: Target) -> Iterator[Any]:
        yield script.items(target)

    @failover(script.chain, **script.options(stream=True))
    def ask(target: Target) -> Any:
        return opened(target)

    def use() -> None:
        with ask() as stream:
            for _ in zip(range(script.reads()), stream, strict=False):
                pass

    return use


def agenerated(backend: str) -> Callable[[Script], Callable[[], Any]]:
    def form(script: Script) -> Callable[[], Any]:
        @failover(script.chain, **script.options(stream=True))
        async def ask(target: Target) -> AsyncIterator[str]:
            for item in script.items(target):
                yield item

        async def use() -> None:
            stream, most, number = ask(), script.reads(), 0
            try:
                async for _ in stream:
                    number += 1
                    if number > most:
                        break
            finally:
                await stream.aclose()

        return lambda: run_async(use, backend=backend)

    return form


FORMS: dict[str, Callable[[Script], Callable[[], Any]]] = {
    "function": plain,
    "policy.call": called,
    "loop": looped,
    "asyncio": awaited("asyncio"),
    "trio": awaited("trio"),
    "awaitable": given_an_awaitable,
    "async loop": alooped,
    "generator": generated,
    "stream": returned_stream,
    "manager": managed,
    "async generator": agenerated("asyncio"),
    "async generator on trio": agenerated("trio"),
}


def is_failed(error: BaseException | None) -> bool:
    """Return whether a call that ends in this is one that an error leaves."""
    if not isinstance(error, Exception):
        return False
    # A limit of the policy may have passed, too.
    return not isinstance(error, TimeLimitExceeded) and not isinstance(
        error.__cause__, TimeLimitExceeded
    )


def check(script: Script, ask: Callable[[], Any], events: list[Event]) -> list[Any]:
    """Make one call; return what is wrong with its events."""
    script.asked = 0
    events.clear()
    left: BaseException | None = None
    try:
        if script.rng.random() < 0.2:
            with Trace():
                ask()
        else:
            ask()
    except BaseException as error:  # the signals of a script too
        left = error
    ends = [event for event in events if isinstance(event, ENDS)]
    numbers = Counter((event.call_id, event.target, event.number) for event in ends)
    failed = sum(isinstance(event, CallFailed) for event in events)
    wrong: list[Any] = []
    if len(ends) != script.asked:
        wrong.append(("asked", script.asked))
    if failed != is_failed(left):
        wrong.append(("failed", failed))
    if call_id() is not None:
        wrong.append("a name is left")
    if len({event.call_id for event in events if event.call_id}) > 1:
        wrong.append("calls")
    if any(count > 1 for count in numbers.values()):
        wrong.append(("twice", numbers))
    return [*wrong, repr(left), *events] if wrong else []


@pytest.mark.parametrize("carries_ids", [False, True], ids=["", "call_id"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:attempts=", "ignore:timeout=")
def test_every_attempt_emits_one_event_and_every_failed_call_one(
    form: str, carries_ids: bool
) -> None:
    """Whatever a target, the caller, `reject`, a strategy or `on_interrupt` does."""
    if carries_ids:
        call_ids.switch_on()
    for seed in range(SEEDS):
        with isolated(), fake_clock() as clock, capture_events() as events:
            configure(logging=False)
            script = Script(seed, clock)
            ask = FORMS[form](script)
            wrong = [found for _ in range(CALLS) if (found := check(script, ask, events))]
        assert [] == wrong[:1], seed
