"""The libraries that ours is measured beside, ours among them, each behind one shape.

Owns how each is written by its users, in the release that is installed. The guards are as
alike as the libraries allow: three attempts without a wait, circuits at their defaults,
and circuits that count but never open where failures are what is measured. `flaws` shows
of each that it really guards, so that nothing is timed that does nothing.

    python benchmarks/peers.py        which are installed, and whether they guard
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from _timing import Function, answer, statement_timer, words
from failing import NEVER, Unavailable

Decorator = Callable[[Function], Function]
"""Guards a function by a fresh guard."""
Chain = Callable[[Function, Function], Function]
"""Makes of a provider that fails and one that answers the function that asks both."""

ATTEMPTS = 3
LONG = 36_000.0
"""Seconds for which a circuit that was opened for a measurement stays open."""
TIMEOUT = 30.0


@dataclass(frozen=True)
class Block:
    """A guard around a block of code, written out so that it can be timed as it stands."""

    lines: str
    """What stands above the block; the last line opens it."""
    names: Mapping[str, Any]
    """``{name: value}`` of what the lines use."""

    def around(self, body: str) -> str:
        """Return the whole statement with a body."""
        last = self.lines.splitlines()[-1]
        return f"{self.lines}\n{' ' * (len(last) - len(last.lstrip()) + 4)}{body}"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One library, or one way to write it. What it has no form for is None."""

    name: str
    distribution: str
    does: str
    """What guards a call of ``sync``: ``retry``, ``breaker`` or ``retry, breaker``."""
    sync: Decorator | None = None
    asynchronous: Decorator | None = None
    block: Callable[[], Block] | None = None
    async_block: Callable[[], Block] | None = None
    loop: Callable[[], Block] | None = None
    retry: Decorator | None = None
    """Three attempts without a wait, by circuits that do not open."""
    async_retry: Decorator | None = None
    fallback: Chain | None = None
    """Asks the second when the first raises, by circuits that do not open."""
    skip: Chain | None = None
    """Asks the second at once: the circuit of the first is open, because it failed."""
    timed: Callable[[float], Decorator] | None = None
    """Of seconds: guards by a deadline."""
    async_timed: Callable[[float], Decorator] | None = None
    copies: Decorator | None = None
    """As ``sync``, where there is a cheaper way to guard one function by many keys."""
    stream: Decorator | None = None
    """As ``sync``, of a generator function, whose failures it sees while its items are read."""
    async_stream: Decorator | None = None
    window: Callable[[int], Decorator] | None = None
    """Of a number of calls: guards by a circuit whose window has room for them all."""
    remarks: Mapping[str, str] = field(default_factory=dict)
    """``{field: what to know of it, or why there is none}``."""
    proving: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    """What to be in while it is put to the proof: where waits do not take their time."""

    @property
    def version(self) -> str:
        """Of the release that is installed."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:  # ours, run from its source
            return str(importlib.import_module(self.distribution.replace("-", "_")).__version__)


# What guards are put around, in benchmarks and in proofs.


def fail(prompt: str, *, model: str | None = None) -> str:
    """Be down."""
    raise Unavailable


def every_other() -> Function:
    """Return a provider that fails and answers in turn, beginning with a failure."""
    down = False

    def fn(prompt: str, *, model: str | None = None) -> str:
        nonlocal down
        down = not down
        if down:
            raise Unavailable
        return prompt

    return fn


def every_other_async() -> Function:
    """Return the same for asynchronous code."""
    down = False

    async def fn(prompt: str, *, model: str | None = None) -> str:
        nonlocal down
        down = not down
        if down:
            raise Unavailable
        return prompt

    return fn


def by_hand(first: Function, error: type[BaseException], second: Function) -> Function:
    """Return what users write around a library that has no fallback."""

    def call(prompt: str) -> Any:
        try:
            return first(prompt)
        except error:
            return second(prompt)

    return call


def opened(guarded: Function) -> Function:
    """Return a guarded function after so many failures that its circuit has opened."""
    for _ in range(ENOUGH):
        with contextlib.suppress(Exception):
            guarded("hi")
    return guarded


UNSEEN = "a call ends when it has returned the generator: nothing of the stream is guarded"
SYNC_ONLY = "synchronous generator functions only"

ENOUGH = 150
"""Failures in a row after which the circuit of every library has opened, by its defaults."""


# The libraries.


def resilient_llm() -> Peer:
    """Return ours: one policy retries, opens circuits and moves on."""
    from resilient_llm import breaker, configure, failover
    from resilient_llm.testing import fake_clock

    fresh = itertools.count()
    patient = {"failures": NEVER, "min_calls": NEVER}

    def key() -> str:
        number = next(fresh)
        return f"provider{number}/model{number}"

    def guard(fn: Function, **options: Any) -> Function:
        return failover(chain=[key(), key()], **options)(fn)

    made: dict[Function, Any] = {}

    def copy(fn: Function) -> Function:
        # The wrapper is generated once, as it is where one function serves many tenants.
        policy = made.get(fn) or made.setdefault(fn, guard(fn))
        return policy.using(chain=f"groq/model{next(fresh)}")

    def retry(fn: Function) -> Function:
        configure(
            retry_budget=None
        )  # else an eighth of the calls would be refused a second attempt
        one = key()
        # Half of its attempts fail for ever; above ten calls an error rate of one never comes.
        breaker(one, error_rate=1.0)
        return failover(chain=[one, key()], backoff=lambda number: 0.0)(fn)

    def fallback(first: Function, second: Function) -> Function:
        provider = f"provider{next(fresh)}"
        breaker(f"{provider}/down", **patient)
        breaker(provider, **patient)

        def ask(prompt: str, *, model: str | None = None) -> Any:
            return first(prompt) if model == "down" else second(prompt)

        return failover(chain=[f"{provider}/down", key()], attempts=1)(ask)

    def skip(first: Function, second: Function) -> Function:
        one = key()
        opened(breaker(one, cooldown=LONG, max_cooldown=LONG)(first))
        return failover(chain=[one, key()])(second)

    def block(lines: str) -> Callable[[], Block]:
        def make() -> Block:
            name = f"provider{next(fresh)}"
            return Block(lines.format(name=name), {"breaker": breaker})

        return make

    return Peer(
        name="**resilient_llm**",
        distribution="resilient-llm",
        does="retry, breaker",
        sync=guard,
        asynchronous=guard,
        block=block("with breaker('{name}'):"),
        async_block=block("async with breaker('{name}'):"),
        loop=lambda: Block(
            "for attempt in policy:\n    with attempt as target:",
            {"policy": failover(chain=[key(), key()])},
        ),
        retry=retry,
        async_retry=retry,
        fallback=fallback,
        skip=skip,
        timed=lambda seconds: lambda fn: guard(fn, timeout=seconds),
        async_timed=lambda seconds: lambda fn: guard(fn, timeout=seconds),
        copies=copy,
        window=lambda calls: copy,
        stream=guard,
        async_stream=guard,
        remarks={
            "sync": "target injected by name",
            "asynchronous": "target injected by name",
            **dict.fromkeys(
                ("stream", "async_stream"),
                "the next target until the first item; what breaks later raises",
            ),
            "timed": "bounds attempts and waits; a call that runs is not cut off",
            "fallback": "classified, charged, and the next target called",
            "window": "300 s",
        },
        proving=fake_clock,
    )


def tenacity() -> Peer:
    """Return tenacity: retries."""
    from tenacity import Retrying, retry, stop_after_attempt, wait_none

    def guard(fn: Function) -> Function:
        return retry(stop=stop_after_attempt(ATTEMPTS), wait=wait_none())(fn)

    def loop() -> Block:
        retrying = Retrying(stop=stop_after_attempt(ATTEMPTS), wait=wait_none(), reraise=True)
        return Block("for attempt in retrying:\n    with attempt:", {"retrying": retrying})

    return Peer(
        name="tenacity",
        distribution="tenacity",
        does="retry",
        sync=guard,
        asynchronous=guard,
        loop=loop,
        retry=guard,
        async_retry=guard,
        remarks={
            **dict.fromkeys(("block", "async_block"), "a loop instead"),
            **dict.fromkeys(("stream", "async_stream"), UNSEEN),
        },
    )


def stamina() -> Peer:
    """Return stamina: retries, on tenacity."""
    import stamina

    options: dict[str, Any] = {
        "on": Unavailable,
        "attempts": ATTEMPTS,
        "wait_initial": 0,
        "wait_max": 0,
        "wait_jitter": 0,
    }
    guard = stamina.retry(**options)
    return Peer(
        name="stamina",
        distribution="stamina",
        does="retry",
        sync=guard,
        asynchronous=guard,
        loop=lambda: Block(
            "for attempt in retry_context(**options):\n    with attempt:",
            {"retry_context": stamina.retry_context, "options": options},
        ),
        retry=guard,
        async_retry=guard,
        stream=guard,
        async_stream=guard,
        remarks={
            **dict.fromkeys(("block", "async_block"), "a loop instead"),
            **dict.fromkeys(
                ("stream", "async_stream"), "starts again whenever it breaks: items come twice"
            ),
        },
    )


def backoff() -> Peer:
    """Return backoff: retries."""
    import backoff

    guard = backoff.on_exception(
        backoff.constant, Unavailable, max_tries=ATTEMPTS, interval=0, jitter=None
    )
    return Peer(
        name="backoff",
        distribution="backoff",
        does="retry",
        sync=guard,
        asynchronous=guard,
        retry=guard,
        async_retry=guard,
        remarks={
            **dict.fromkeys(("block", "async_block", "loop"), "decorator only"),
            **dict.fromkeys(("stream", "async_stream"), UNSEEN),
        },
    )


def pybreaker() -> Peer:
    """Return pybreaker: a breaker that counts failures in a row."""
    from pybreaker import CircuitBreaker, CircuitBreakerError

    def patient(fn: Function) -> Function:
        return CircuitBreaker(fail_max=NEVER)(fn)

    def skip(first: Function, second: Function) -> Function:
        return by_hand(
            opened(CircuitBreaker(reset_timeout=LONG)(first)),
            CircuitBreakerError,
            CircuitBreaker()(second),
        )

    return Peer(
        name="pybreaker",
        distribution="pybreaker",
        does="breaker",
        sync=lambda fn: CircuitBreaker()(fn),
        block=lambda: Block(
            "with breakers['groq'].calling():", {"breakers": {"groq": CircuitBreaker()}}
        ),
        fallback=lambda first, second: by_hand(patient(first), Unavailable, patient(second)),
        skip=skip,
        stream=lambda fn: CircuitBreaker()(fn),
        remarks={
            "async_stream": SYNC_ONLY,
            "asynchronous": "on Tornado only",
            "async_block": "on Tornado only",
            "fallback": "try and except by hand",
            "skip": "try and except by hand",
        },
    )


def circuitbreaker() -> Peer:
    """Return circuitbreaker: a breaker that counts failures in a row."""
    from circuitbreaker import CircuitBreaker

    def skip(first: Function, second: Function) -> Function:
        guarded = CircuitBreaker(
            recovery_timeout=int(LONG), fallback_function=CircuitBreaker()(second)
        )(first)
        return opened(guarded)

    def patient(fn: Function) -> Function:
        return CircuitBreaker(failure_threshold=NEVER)(fn)

    return Peer(
        name="circuitbreaker",
        distribution="circuitbreaker",
        does="breaker",
        sync=lambda fn: CircuitBreaker()(fn),
        asynchronous=lambda fn: CircuitBreaker()(fn),
        fallback=lambda first, second: by_hand(patient(first), Unavailable, patient(second)),
        skip=skip,
        stream=lambda fn: CircuitBreaker()(fn),
        async_stream=lambda fn: CircuitBreaker()(fn),
        remarks={
            "block": "its `with` counts and never refuses",
            "async_block": "its `with` counts and never refuses",
            "fallback": "try and except by hand",
            "skip": "its own `fallback_function`",
        },
    )


def aiobreaker() -> Peer:
    """Return aiobreaker: a breaker that counts failures in a row."""
    from datetime import timedelta

    from aiobreaker import CircuitBreaker, CircuitBreakerError

    def patient(fn: Function) -> Function:
        return CircuitBreaker(fail_max=NEVER)(fn)

    def skip(first: Function, second: Function) -> Function:
        guarded = CircuitBreaker(timeout_duration=timedelta(seconds=LONG))(first)
        return by_hand(opened(guarded), CircuitBreakerError, CircuitBreaker()(second))

    return Peer(
        name="aiobreaker",
        distribution="aiobreaker",
        does="breaker",
        sync=lambda fn: CircuitBreaker()(fn),
        asynchronous=lambda fn: CircuitBreaker()(fn),
        fallback=lambda first, second: by_hand(patient(first), Unavailable, patient(second)),
        skip=skip,
        stream=lambda fn: CircuitBreaker()(fn),
        remarks={
            "async_stream": SYNC_ONLY,
            "block": "decorator only",
            "async_block": "decorator only",
            "fallback": "try and except by hand",
            "skip": "try and except by hand",
        },
    )


def purgatory() -> Peer:
    """Return purgatory: breakers by name that count failures in a row."""
    from purgatory import AsyncCircuitBreakerFactory, SyncCircuitBreakerFactory
    from purgatory.domain.model import OpenedState

    fresh = itertools.count()
    circuits, async_circuits = SyncCircuitBreakerFactory(), AsyncCircuitBreakerFactory()
    patient = SyncCircuitBreakerFactory(default_threshold=NEVER)
    long = SyncCircuitBreakerFactory(default_ttl=LONG)

    def name() -> str:
        return f"groq{next(fresh)}"

    return Peer(
        name="purgatory",
        distribution="purgatory",
        does="breaker",
        sync=lambda fn: circuits(name())(fn),
        asynchronous=lambda fn: async_circuits(name())(fn),
        block=lambda: Block(
            f"with get_breaker('{name()}'):", {"get_breaker": circuits.get_breaker}
        ),
        async_block=lambda: Block(
            f"async with await get_breaker('{name()}'):",
            {"get_breaker": async_circuits.get_breaker},
        ),
        fallback=lambda first, second: by_hand(
            patient(name())(first), Unavailable, patient(name())(second)
        ),
        skip=lambda first, second: by_hand(
            opened(long(name())(first)), OpenedState, long(name())(second)
        ),
        remarks={
            "fallback": "try and except by hand",
            "skip": "try and except by hand",
            "stream": UNSEEN,
            "async_stream": "no asynchronous generator functions",
        },
    )


def hyx() -> Peer:
    """Return hyx: asynchronous only; a breaker that counts failures in a row, retries, timeouts."""
    from hyx.circuitbreaker import consecutive_breaker
    from hyx.retry import retry
    from hyx.timeout import timeout

    def timed(seconds: float) -> Decorator:
        def decorate(fn: Function) -> Function:
            guarded = consecutive_breaker()(fn)

            async def call(prompt: str) -> Any:
                async with timeout(seconds):
                    return await guarded(prompt)

            return call

        return decorate

    only = "asynchronous only"
    return Peer(
        name="hyx",
        distribution="hyx",
        does="breaker",
        asynchronous=lambda fn: consecutive_breaker()(fn),
        async_block=lambda: Block(
            "async with breakers['groq']:", {"breakers": {"groq": consecutive_breaker()}}
        ),
        # It counts the attempts after the first.
        async_retry=retry(on=Unavailable, attempts=ATTEMPTS - 1, backoff=0.0),
        async_timed=timed,
        remarks={
            "async_timed": "`async with` by hand: its decorator needs a running loop",
            **dict.fromkeys(("sync", "block", "loop", "retry", "fallback", "skip", "timed"), only),
            "async_retry": "its retry alone",
            "stream": only,
            "async_stream": "no asynchronous generator functions",
        },
    )


def pyresilience() -> Peer:
    """Return pyresilience with its breaker alone."""
    from pyresilience import CircuitBreakerConfig, FallbackConfig, TimeoutConfig, resilient

    def guard(fn: Function, **options: Any) -> Function:
        return resilient(**{"circuit_breaker": CircuitBreakerConfig(), **options})(fn)

    def chained(first: Function, second: Function, config: CircuitBreakerConfig) -> Function:
        backup = FallbackConfig(handler=lambda error: second("hi"))
        return guard(first, circuit_breaker=config, fallback=backup)

    def patient() -> CircuitBreakerConfig:
        return CircuitBreakerConfig(failure_threshold=NEVER)

    def window(calls: int) -> Decorator:
        return lambda fn: guard(fn, circuit_breaker=CircuitBreakerConfig(sliding_window_size=calls))

    own = "its own fallback, which is not handed the arguments"
    return Peer(
        name="pyresilience",
        distribution="pyresilience",
        does="breaker",
        sync=guard,
        asynchronous=guard,
        fallback=lambda first, second: chained(
            first, guard(second, circuit_breaker=patient()), patient()
        ),
        skip=lambda first, second: opened(
            chained(first, guard(second), CircuitBreakerConfig(recovery_timeout=LONG))
        ),
        timed=lambda seconds: lambda fn: guard(fn, timeout=TimeoutConfig(seconds)),
        async_timed=lambda seconds: lambda fn: guard(fn, timeout=TimeoutConfig(seconds)),
        window=window,
        remarks={
            "block": "decorator only",
            "async_block": "decorator only",
            "fallback": own,
            "skip": own,
            "timed": "runs the function in a pool of threads",
            "window": "of so many calls",
            **dict.fromkeys(("stream", "async_stream"), UNSEEN),
        },
    )


def pyresilience_retry() -> Peer:
    """Return pyresilience with retries around its breaker."""
    from pyresilience import CircuitBreakerConfig, RetryConfig, resilient

    def guard(fn: Function, **circuit: Any) -> Function:
        retries = RetryConfig(max_attempts=ATTEMPTS, delay=0.0, jitter=False)
        return resilient(retry=retries, circuit_breaker=CircuitBreakerConfig(**circuit))(fn)

    return Peer(
        name="pyresilience",
        distribution="pyresilience",
        does="retry, breaker",
        sync=guard,
        asynchronous=guard,
        retry=lambda fn: guard(fn, failure_threshold=NEVER),
        async_retry=lambda fn: guard(fn, failure_threshold=NEVER),
    )


def nopanic() -> Peer:
    """Return nopanic with its breaker alone."""
    from nopanic import circuit_breaker, compose, fallback, timeout

    def guard(fn: Function, **options: Any) -> Function:
        return circuit_breaker(**options)(fn)

    def chained(first: Function, second: Function, **options: Any) -> Function:
        return compose(fallback(lambda error: second("hi")), circuit_breaker(**options))(first)

    own = "its own fallback, which is not handed the arguments"
    return Peer(
        name="nopanic",
        distribution="nopanic",
        does="breaker",
        sync=guard,
        asynchronous=guard,
        block=lambda: Block(
            "with breakers['groq'].guard():", {"breakers": {"groq": circuit_breaker()}}
        ),
        async_block=lambda: Block(
            "async with breakers['groq'].guard():", {"breakers": {"groq": circuit_breaker()}}
        ),
        fallback=lambda first, second: chained(first, guard(second), min_calls=NEVER),
        skip=lambda first, second: opened(chained(first, guard(second), reset_timeout=LONG)),
        timed=lambda seconds: compose(circuit_breaker(), timeout(seconds)),
        async_timed=lambda seconds: compose(circuit_breaker(), timeout(seconds)),
        stream=guard,
        async_stream=guard,
        window=lambda calls: lambda fn: guard(fn, window=300.0, window_buckets=30),
        remarks={
            "fallback": own,
            "skip": own,
            "timed": "runs the function in a separate thread",
            "window": "300 s",
        },
    )


def nopanic_retry() -> Peer:
    """Return nopanic with retries around its breaker."""
    from nopanic import circuit_breaker, compose, retry

    def guard(fn: Function, **circuit: Any) -> Function:
        # An open circuit is given up on at once; by default its recovery would be waited for.
        retries = retry(attempts=ATTEMPTS, on=Unavailable, backoff=0.0)
        return compose(retries, circuit_breaker(**circuit))(fn)

    return Peer(
        name="nopanic",
        distribution="nopanic",
        does="retry, breaker",
        sync=guard,
        asynchronous=guard,
        retry=lambda fn: guard(fn, min_calls=NEVER),
        async_retry=lambda fn: guard(fn, min_calls=NEVER),
        stream=guard,
        async_stream=guard,
        remarks=dict.fromkeys(
            ("stream", "async_stream"), "made again until the first item; what breaks later raises"
        ),
    )


def interlock() -> Peer:
    """Return interlock-cb: a breaker over a window of calls."""
    from interlock import CircuitBreaker, CircuitOpenError, Config
    from interlock.pipeline import (
        CircuitBreakerStrategy,
        FallbackStrategy,
        Pipeline,
        TimeoutStrategy,
    )

    fresh = itertools.count()

    def circuit(**options: Any) -> CircuitBreaker:
        return CircuitBreaker(name=f"groq{next(fresh)}", config=Config(**options))

    def guard(fn: Function, **options: Any) -> Function:
        return circuit(**options)(fn)

    def chained(
        first: Function, second: Function, error: type[Exception], **options: Any
    ) -> Function:
        backup = FallbackStrategy(lambda error: second("hi"), on=(error,))
        return Pipeline(backup, CircuitBreakerStrategy(circuit(**options)))(first)

    def timed(seconds: float) -> Decorator:
        return Pipeline(CircuitBreakerStrategy(circuit()), TimeoutStrategy(seconds))

    def window(calls: int) -> Decorator:
        return lambda fn: guard(fn, window_size=calls)

    own = "its own fallback, which is not handed the arguments"
    return Peer(
        name="interlock-cb",
        distribution="interlock-cb",
        does="breaker",
        sync=guard,
        asynchronous=guard,
        block=lambda: Block("with breakers['groq']:", {"breakers": {"groq": circuit()}}),
        async_block=lambda: Block(
            "async with breakers['groq']:", {"breakers": {"groq": circuit()}}
        ),
        fallback=lambda first, second: chained(
            first, guard(second), Unavailable, minimum_number_of_calls=NEVER
        ),
        skip=lambda first, second: opened(
            chained(first, guard(second), CircuitOpenError, wait_duration_in_open=LONG)
        ),
        timed=timed,
        async_timed=timed,
        window=window,
        remarks={
            "fallback": own,
            "skip": own,
            "timed": "runs the function in a separate thread",
            "window": "of so many calls",
            **dict.fromkeys(("stream", "async_stream"), UNSEEN),
        },
    )


def interlock_retry() -> Peer:
    """Return interlock-cb with the retries that it builds on tenacity."""
    from interlock import CircuitBreaker, Config
    from interlock.integrations.tenacity import RetryStrategy
    from interlock.pipeline import CircuitBreakerStrategy, Pipeline
    from tenacity import wait_none

    fresh = itertools.count()

    def guard(fn: Function, **options: Any) -> Function:
        circuit = CircuitBreaker(name=f"groq{next(fresh)}", config=Config(**options))
        retries = RetryStrategy(attempts=ATTEMPTS, wait=wait_none())
        return Pipeline(retries, CircuitBreakerStrategy(circuit))(fn)

    return Peer(
        name="interlock-cb",
        distribution="interlock-cb",
        does="retry, breaker",
        sync=guard,
        asynchronous=guard,
        retry=lambda fn: guard(fn, minimum_number_of_calls=NEVER),
        async_retry=lambda fn: guard(fn, minimum_number_of_calls=NEVER),
    )


PEERS: dict[str, Callable[[], Peer]] = {
    "resilient_llm": resilient_llm,
    "tenacity": tenacity,
    "stamina": stamina,
    "backoff": backoff,
    "pybreaker": pybreaker,
    "circuitbreaker": circuitbreaker,
    "aiobreaker": aiobreaker,
    "purgatory": purgatory,
    "hyx": hyx,
    "pyresilience": pyresilience,
    "pyresilience, with retries": pyresilience_retry,
    "nopanic": nopanic,
    "nopanic, with retries": nopanic_retry,
    "interlock-cb": interlock,
    "interlock-cb, with retries": interlock_retry,
}
OURS = "resilient_llm"

# They log failures at WARNING, and a logger without handlers prints these.
for _name in ("stamina", "resilient_llm"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


# Whether they guard.


def flaws(peer: Peer) -> list[str]:
    """Return what of a library does not do what it is measured for; empty if all is well."""

    def found_by(proofs: Mapping[str, Callable[[Any], str]]) -> list[str]:
        there = {what: proof for what, proof in proofs.items() if getattr(peer, what) is not None}
        return [f"{what}: {flaw}" for what, proof in there.items() if (flaw := proof(peer))]

    with peer.proving():
        found = found_by(PROOFS)
    return found + found_by(IN_REAL_TIME)


class Calls:
    """Functions that count how often they are called."""

    def __init__(self, fn: Function) -> None:
        self.made = 0

        def counted(prompt: str, *, model: str | None = None) -> Any:
            self.made += 1
            return fn(prompt)

        async def counted_async(prompt: str, *, model: str | None = None) -> Any:
            self.made += 1
            return fn(prompt)

        self.sync, self.asynchronous = counted, counted_async


def _run(call: Callable[[], Any], times: int = 1) -> int:
    """Return how many of so many calls raised; asynchronous ones are awaited."""

    async def all_of_them() -> int:
        raised = 0
        for _ in range(times):
            try:
                result = call()
                if hasattr(result, "__await__"):
                    await result
            except Exception:  # noqa: BLE001  # whatever the library raises
                raised += 1
        return raised

    return asyncio.run(all_of_them())


def _refuses(peer: Peer, decorator: Decorator, *, is_async: bool) -> str:
    """Say what is wrong if a circuit does not open, or opens at the first failure."""
    provider = Calls(fail)
    guarded = decorator(provider.asynchronous if is_async else provider.sync)
    raised = _run(lambda: guarded("hi"), ENOUGH)
    attempts = ENOUGH * (ATTEMPTS if "retry" in peer.does else 1)
    if raised != ENOUGH:
        return f"{ENOUGH - raised} of {ENOUGH} calls of a provider that is down did not raise"
    # Ours has two targets to ask, and asks one as a last resort when both are benched.
    if "breaker" in peer.does and not 1 < provider.made < attempts:
        return f"a provider that is down was called {provider.made} times by {ENOUGH} calls"
    if "breaker" not in peer.does and provider.made != attempts:
        return f"{ENOUGH} calls made {provider.made} attempts"
    return ""


def _block_refuses(block: Block, *, is_async: bool) -> str:
    entered = 0

    def down() -> None:
        nonlocal entered
        entered += 1
        raise Unavailable

    timer = statement_timer(
        block.around("down()"), {**block.names, "down": down}, is_async=is_async
    )
    raised = 0
    for _ in range(ENOUGH):
        try:
            timer(1)
        except Exception:  # noqa: BLE001  # whatever the library raises
            raised += 1
    if raised != ENOUGH or not 1 < entered < ENOUGH:
        return f"a block that fails was entered {entered} times in {ENOUGH}, and {raised} raised"
    return ""


def _loops(block: Block) -> str:
    provider = every_other()
    called = 0

    def flaky() -> None:
        nonlocal called
        called += 1
        provider("hi")

    statement_timer(block.around("flaky()"), {**block.names, "flaky": flaky})(1)
    return "" if called == 2 else f"a block that fails once was run {called} times"


def _retries(decorator: Decorator, *, is_async: bool) -> str:
    """Say what is wrong unless one failure is retried, and three are the most."""
    provider = Calls(every_other())
    guarded = decorator(provider.asynchronous if is_async else provider.sync)
    raised = _run(lambda: guarded("hi"), ENOUGH)
    if (raised, provider.made) != (0, 2 * ENOUGH):
        return f"{ENOUGH} calls that fail once made {provider.made} attempts, and {raised} raised"
    provider = Calls(fail)
    guarded = decorator(provider.asynchronous if is_async else provider.sync)
    _run(lambda: guarded("hi"))
    # Ours goes on to its second target, which is down as well.
    return (
        ""
        if provider.made in (ATTEMPTS, 2 * ATTEMPTS)
        else f"{provider.made} attempts instead of {ATTEMPTS}"
    )


def _falls_back(chain: Chain, *, calls_first: bool) -> str:
    first, second = Calls(fail), Calls(answer)
    guarded = chain(first.sync, second.sync)
    first.made = second.made = 0
    answers = [guarded("hi") for _ in range(ENOUGH)]
    made = (first.made, second.made)
    if answers != ["hi"] * ENOUGH or made != (ENOUGH if calls_first else 0, ENOUGH):
        return f"{ENOUGH} calls made {made[0]} of the first and {made[1]} of the second"
    return ""


def _times_out(peer: Peer, decorator: Decorator, *, is_async: bool) -> str:
    """Say what is wrong unless a call that takes too long ends, or is the last attempt."""
    called = 0

    def slow(prompt: str, *, model: str | None = None) -> str:
        nonlocal called
        called += 1
        time.sleep(SLOW)
        raise Unavailable

    async def slow_async(prompt: str, *, model: str | None = None) -> str:
        nonlocal called
        called += 1
        await asyncio.sleep(SLOW)
        raise Unavailable

    guarded = decorator(slow_async if is_async else slow)
    began = time.perf_counter()
    raised = _run(lambda: guarded("hi"))
    took = time.perf_counter() - began
    # Ours lets a synchronous call run but makes no other; in asynchronous code it cuts the
    # first target off early enough for the second to be asked.
    retries = "retry" in peer.does
    in_time = took < SLOW or (retries and not is_async)
    if raised != 1 or called > 1 + (retries and is_async) or not in_time:
        return f"a call of {SLOW} s with a deadline of {HASTE} s took {took:.3f} s and {called} attempts"
    return ""


def _guards_streams(peer: Peer, decorator: Decorator, *, is_async: bool) -> str:
    """Say what is wrong unless streams that break are counted, and what fails before the first item is made anew."""
    made: Counter[str | None] = Counter()
    breaks = True

    def stream(number: int, *, model: str | None = None) -> Iterator[str]:
        made[model] += 1
        if not breaks and made.total() % 2:
            raise Unavailable
        yield from words(number)
        if breaks:
            raise Unavailable

    async def stream_async(number: int, *, model: str | None = None) -> AsyncIterator[str]:
        for item in stream(number, model=model):
            yield item

    async def read(guarded: Function) -> list[str]:
        return [item async for item in guarded(2)]

    def call(guarded: Function) -> Any:
        return read(guarded) if is_async else list(guarded(2))

    fn = stream_async if is_async else stream
    if "breaker" in peer.does:
        guarded = decorator(fn)
        raised = _run(lambda: call(guarded), ENOUGH)
        # Ours asks one of two as a last resort when both are benched.
        if raised != ENOUGH or not 1 < made.most_common(1)[0][1] < ENOUGH:
            return (
                f"{ENOUGH} streams that break were made {made.total()} times, and {raised} raised"
            )
    if "retry" in peer.does:
        breaks = False
        made.clear()
        guarded = decorator(fn)
        raised = _run(lambda: call(guarded))
        if (raised, made.total()) != (0, 2):
            return f"a stream that fails once before its first item was made {made.total()} times, {raised} raised"
    return ""


HASTE, SLOW = 0.02, 0.2

PROOFS: dict[str, Callable[[Any], str]] = {
    "sync": lambda peer: _refuses(peer, peer.sync, is_async=False),
    "asynchronous": lambda peer: _refuses(peer, peer.asynchronous, is_async=True),
    "block": lambda peer: _block_refuses(peer.block(), is_async=False),
    "async_block": lambda peer: _block_refuses(peer.async_block(), is_async=True),
    "loop": lambda peer: _loops(peer.loop()),
    "retry": lambda peer: _retries(peer.retry, is_async=False),
    "async_retry": lambda peer: _retries(peer.async_retry, is_async=True),
    "fallback": lambda peer: _falls_back(peer.fallback, calls_first=True),
    "skip": lambda peer: _falls_back(peer.skip, calls_first=False),
    "stream": lambda peer: _guards_streams(peer, peer.stream, is_async=False),
    "async_stream": lambda peer: _guards_streams(peer, peer.async_stream, is_async=True),
    "window": lambda peer: _refuses(peer, peer.window(100), is_async=False),
}

IN_REAL_TIME: dict[str, Callable[[Any], str]] = {
    "timed": lambda peer: _times_out(peer, peer.timed(HASTE), is_async=False),
    "async_timed": lambda peer: _times_out(peer, peer.async_timed(HASTE), is_async=True),
}


def main() -> None:
    from resilient_llm.testing import isolated

    for name, make in PEERS.items():
        with isolated():
            try:
                peer = make()
                found = flaws(peer)
            except ImportError as error:
                print(f"{name:28} not installed: {error}")
                continue
        print(f"{name:28} {peer.version:10} {'; '.join(found) or 'guards'}")


if __name__ == "__main__":
    main()
