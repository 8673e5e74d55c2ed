"""A soak: everything that an application may do, at once, for a while, in bad weather.

    python tests/concurrency/soak.py --seconds 60 --seed 1

Threads, two asyncio loops, trio, cancelled tasks, forked children, keys that come and go, an
operator who benches, observers that come and go, and a real HTTP server, all against
providers whose weather is drawn from the seed. The clock is real and the cooldowns are
short, so that circuits open and recover many times.

Whoever plays a part keeps its own exact account. At the end

* what callers sent is what providers saw, what observers received and what `health()` says;
* memory, objects, file descriptors, threads and circuits were flat in the second half;
* every circuit recovers, and no thread, task, child or warning is left.

A violation is one sentence; any of them makes the exit code 1. The weather repeats with the
seed, the interleaving of threads does not: a seed that failed once is worth a few runs.
No test module: it takes as long as it is told to.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import contextlib
import faulthandler
import functools
import gc
import logging
import os
import platform
import random
import select
import signal
import statistics
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

if __package__ in (None, ""):  # run as a file: the package beside this directory is meant
    sys.path.insert(0, str(Path(__file__).parents[2]))

import httpx
import trio
from prometheus_client import CollectorRegistry

import resilient_llm
from resilient_llm import (
    Attempt,
    BreakerOpenError,
    ChainExhaustedError,
    DeadlineExceededError,
    ErrorKind,
    Target,
    Trace,
    bench_model,
    breaker,
    configure,
    events,
    failover,
    health,
    is_benched,
    list_benched,
    observe,
    unbench_model,
)
from resilient_llm.observers import prometheus
from resilient_llm.testing import FakeClock, fake_clock

# --- Accounts -------------------------------------------------------------------------------


class Ledger:
    """Counts that any thread may add to, and what was found wrong."""

    MOST_SENTENCES: Final = 40

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.violations: list[str] = []
        self.after_fork()

    def after_fork(self) -> None:
        """Take a lock that no thread of the parent holds."""
        self._lock = threading.Lock()

    def add(self, *key: str, n: int = 1) -> None:
        with self._lock:
            self.counts[key] += n

    def wrong(self, sentence: str) -> None:
        """Note a violation; the same sentence once."""
        with self._lock:
            if sentence not in self.violations and len(self.violations) < self.MOST_SENTENCES:
                self.violations.append(sentence)

    def total(self, *pattern: str) -> int:
        """Return the sum of all counts whose key fits; ``"*"`` fits every word."""
        with self._lock:
            return sum(n for key, n in self.counts.items() if _fits(key, pattern))

    def agree(self, what: str, expected: int, actual: int) -> None:
        """Note a violation if two accounts of the same thing differ."""
        if expected != actual:
            self.wrong(f"{what}: {expected} expected, {actual} counted ({actual - expected:+d}).")


def _fits(key: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return len(key) == len(pattern) and all(
        want in ("*", word) for word, want in zip(key, pattern, strict=True)
    )


@dataclass(slots=True, eq=False)
class Ticket:
    """One call as its caller sees it: passed to the provider, which notes each attempt on it."""

    part: str
    number: int
    sent: list[str] = field(default_factory=list)
    last: str = ""
    """What became of the newest attempt."""
    cuttable: bool = False
    """Whether an attempt may hang, since a timeout cuts it off."""
    cut_is: str = "cut"
    """What an attempt is that is cut off: by a timeout of the policy, or by the caller."""
    judged: bool = False
    """Whether the policy looks at answers, so that an empty one may come."""


# --- Weather --------------------------------------------------------------------------------

ANSWER: Final = "answer"
EMPTY: Final = "empty"
HANG: Final = "hang"
DROP: Final = "drop"

# What a provider may do: the kind that the library should see in it, and what is charged.
KINDS: Final[dict[str, tuple[ErrorKind, str]]] = {
    "server_error": (ErrorKind.TRANSIENT, "target"),
    "read_timeout": (ErrorKind.TRANSIENT, "target"),
    DROP: (ErrorKind.TRANSIENT, "target"),
    "rate_limit": (ErrorKind.RATE_LIMITED, "target"),
    "refused": (ErrorKind.TRANSIENT, "provider"),
    "dead_key": (ErrorKind.AUTH_DEAD, "provider"),
    "bad_request": (ErrorKind.REQUEST_SPECIFIC, ""),
    "bug": (ErrorKind.CALLER_BUG, ""),
    EMPTY: (ErrorKind.BAD_RESPONSE, ""),
    "cut": (ErrorKind.TRANSIENT, "target"),  # by a timeout of the policy
    "hung": (ErrorKind.TRANSIENT, "target"),  # given up by the caller after as long as a slow call
}
NOT_RAISED: Final = (EMPTY, "cut", "hung")
_STATUS: Final = {"server_error": 503, "rate_limit": 429, "dead_key": 401, "bad_request": 400}

PROVIDER_ERRORS: Final = (httpx.HTTPError, ConnectionRefusedError, TypeError)

# Conditions: the share of each deed; the rest is answered.
CONDITIONS: Final[dict[str, dict[str, float]]] = {
    "healthy": {"bad_request": 0.01, "bug": 0.005, "server_error": 0.005, EMPTY: 0.02},
    "failing": {"server_error": 1.0},
    "throttled": {"rate_limit": 0.7},
    "hanging": {HANG: 0.6},
    "half_dead": {"server_error": 0.35, DROP: 0.1, "refused": 0.05},
    "dead_key": {"dead_key": 1.0},
}


def make_error(deed: str, hint: float = 0.1) -> BaseException:
    """Return a new error of the class that a real client would raise for this deed."""
    request = httpx.Request("POST", "http://provider.invalid/")
    if deed == "refused":
        return ConnectionRefusedError(111, "Connection refused")
    if deed == "read_timeout":
        return httpx.ReadTimeout("no bytes", request=request)
    if deed == DROP:
        return httpx.RemoteProtocolError(
            "peer closed connection without sending complete message body", request=request
        )
    if deed == "bug":
        return TypeError("a bug in the caller's own function")
    headers = {"retry-after": f"{hint:.2f}"} if deed == "rate_limit" else {}
    response = httpx.Response(_STATUS[deed], headers=headers, request=request)
    return httpx.HTTPStatusError(f"status {_STATUS[deed]}", request=request, response=response)


class Weather:
    """The plan of one provider: conditions that follow each other, the same for the same seed."""

    PHASES: Final = 64

    def __init__(self, seed: int, provider: str, conditions: tuple[str, ...]) -> None:
        rng = random.Random(f"{seed}:{provider}")
        self._ends: list[float] = []
        self._plan: list[str] = []
        end = 0.0
        for number in range(self.PHASES):
            # Every other phase is healthy: only who recovers can open again.
            self._plan.append("healthy" if number % 2 == 0 else rng.choice(conditions))
            end += rng.uniform(0.2, 1.2)
            self._ends.append(end)
        self._rng = rng
        self.is_settled = False

    def condition(self, seconds: float) -> str:
        """Return the condition so long after the start; the plan repeats."""
        return self._plan[bisect.bisect_right(self._ends, seconds % self._ends[-1])]

    def deed(self, seconds: float) -> str:
        """Draw what the provider does to one attempt."""
        if self.is_settled:
            return ANSWER
        drawn = self._rng.random()
        for deed, share in CONDITIONS[self.condition(seconds)].items():
            drawn -= share
            if drawn < 0.0:
                return deed
        return ANSWER

    def hint(self) -> float:
        return self._rng.uniform(0.02, 0.3)

    def latency(self) -> float:
        return self._rng.uniform(0.0, 0.004)


class Providers:
    """Every provider of the soak; each has a weather of its own and counts what it is sent."""

    def __init__(self, ledger: Ledger, weathers: dict[str, Weather]) -> None:
        self.ledger = ledger
        self.weathers = weathers
        self._began = time.monotonic()
        self.benched: dict[str, float] = {}
        """``{key: moment since when nobody may be sent there}``, kept by the operator."""

    def is_settled(self) -> None:
        """Let every provider answer everything from now on."""
        for weather in self.weathers.values():
            weather.is_settled = True

    def weather(self, key: str) -> Weather:
        return self.weathers[key.partition("/")[0]]

    def arrive(self, ticket: Ticket, key: str) -> str:
        """Count an attempt and draw what is done to it."""
        self.ledger.add("sent", ticket.part, key)
        ticket.sent.append(key)
        since = self.benched.get(key)
        if since is not None and time.monotonic() - since > BENCH_GRACE:
            self.ledger.wrong(
                f"{key} was called {BENCH_GRACE} s and more after it had been benched by hand."
            )
        return self.weather(key).deed(time.monotonic() - self._began)

    def leave(self, ticket: Ticket, key: str, deed: str) -> tuple[int, str]:
        """Count what became of an attempt; answer it or raise."""
        if deed == EMPTY and not ticket.judged:
            deed = ANSWER
        self.count(ticket, key, deed)
        if deed == EMPTY:
            return EMPTY_ANSWER
        if deed != ANSWER:
            raise make_error(deed, self.weather(key).hint())
        return ticket.number, key

    def count(self, ticket: Ticket, key: str, deed: str) -> None:
        ticket.last = deed
        self.ledger.add("did", ticket.part, key, deed)

    def serve(self, ticket: Ticket, key: str) -> tuple[int, str]:
        """Answer in synchronous code: what hangs is ended by the client's own timeout."""
        deed = self.arrive(ticket, key)
        if deed == HANG:
            time.sleep(0.03)
            deed = "read_timeout"
        elif deed == ANSWER:
            time.sleep(self.weather(key).latency() / 4)
        return self.leave(ticket, key, deed)

    async def aserve(
        self,
        ticket: Ticket,
        key: str,
        sleep: Callable[[float], Awaitable[object]],
        cancelled: type[BaseException],
    ) -> tuple[int, str]:
        """Answer in asynchronous code; an attempt may be cut off at any wait."""
        deed = self.arrive(ticket, key)
        try:
            if deed == HANG:
                await sleep(3600.0 if ticket.cuttable else 0.03)
                deed = "read_timeout"
            else:
                await sleep(self.weather(key).latency())
        except cancelled:
            self.count(ticket, key, ticket.cut_is)
            raise
        return self.leave(ticket, key, deed)


EMPTY_ANSWER: Final = (-1, "")
BENCH_GRACE: Final = 0.5
"""Seconds for calls that were let through before a bench and had not begun when it came."""

# --- What the soak looks like from outside ---------------------------------------------------

STORMY: Final = ("storm1/a", "storm1/b", "storm2/c", "storm3/d")
"""Targets whose circuits open and recover all the time."""
STEADY: Final = ("steady/a", "steady/b", "steady/c")
"""Targets whose circuits never open, so that their totals are exact for the whole soak."""
METERED: Final = ("metered/a", "metered/b")
"""The same in mode ``metrics_only``."""
HTTP: Final = ("http/a", "http/b")
GUARDS: Final = ("guard1", "guard2/a", "guard2/b")
"""Keys that are only used through shared guards; exact, too."""
SLOW: Final = ("slow/a",)
"""Where callers give up by themselves."""
EXACT: Final = (*STEADY, *METERED, *GUARDS, *SLOW)

_NEVER: Final = {"failures": 10**9, "min_calls": 10**9, "window": 10**6}
BREAKERS: Final[dict[str, dict[str, Any]]] = {
    # A lease that outlasts the soak: one that is not given back is missed at the end.
    "*": {
        "failures": 3,
        "cooldown": 0.05,
        "max_cooldown": 0.4,
        "window": 2.0,
        "min_calls": 10,
        "probe_lease": 10_000,
    },
    **{key: dict(_NEVER) for key in (*STEADY, *GUARDS, "steady", "metered", "guard2", "slow")},
    **{key: {"mode": "metrics_only", "window": 10**6} for key in METERED},
    **{key: {"mode": "metrics_only", "window": 10**6, "slow_call": 0.05} for key in SLOW},
}


class Soak:
    """What all parts share: accounts, providers, the moment to stop."""

    def __init__(self, seconds: float, seed: int, say: Callable[[str], object]) -> None:
        self.seconds = seconds
        self.seed = seed
        self.say = say
        self.stop = threading.Event()
        self.ledger = Ledger()
        rough = ("failing", "throttled", "hanging", "half_dead")
        weathers = {
            name: Weather(seed, name, (*rough, "dead_key"))
            for name in ("storm1", "storm2", "storm3")
        }
        weathers |= {
            name: Weather(seed, name, rough)
            for name in ("steady", "metered", "http", "guard1", "guard2")
        }
        weathers["slow"] = Weather(seed, "slow", ("hanging",))
        self.providers = Providers(self.ledger, weathers)
        self.overseer = Overseer(self.ledger)
        self.closing = threading.Event()
        """Set when all clients have gone."""
        self._tickets = iter(range(10**12))
        self._still = threading.Lock()
        self._turn = threading.Lock()
        self.port = 0
        self.tenants = 0

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Let no keys come and go while figures are taken, and no figures be taken meanwhile.

        Two locks, for whoever takes one lock again and again starves the others: the turn is
        given back as soon as it is used.
        """
        with self._turn:
            self._still.acquire()
        try:
            yield
        finally:
            self._still.release()

    def rng(self, part: str) -> random.Random:
        return random.Random(f"{self.seed}:{part}")

    def ticket(self, part: str, **options: Any) -> Ticket:
        return Ticket(part, next(self._tickets), **options)

    # How a call ends, for every part that goes through a chain.

    def answered(self, ticket: Ticket, answer: object) -> None:
        """Account for a call that was answered."""
        self._over(ticket, "answered")
        if answer != (ticket.number, ticket.sent[-1]):
            self.ledger.wrong(
                f"{ticket.part}: a call was given another call's answer, or another target's."
            )

    def cancelled(self, ticket: Ticket) -> None:
        """Account for a call that its caller cancelled."""
        self._over(ticket, "cancelled")

    def failed(self, ticket: Ticket, error: Exception) -> None:
        """Account for a call that failed; check what the error says of it."""
        self._over(ticket, "failed")
        if isinstance(error, (ChainExhaustedError, DeadlineExceededError)):
            said = [record.target for record in error.attempts if record.number]
            if said != ticket.sent:
                self.ledger.wrong(
                    f"{ticket.part}: an error lists attempts on {said}, the call made {ticket.sent}."
                )
        elif not (isinstance(error, TypeError) and ticket.last == "bug"):
            self.ledger.wrong(
                f"{ticket.part}: a call ended with {type(error).__name__} after {ticket.last!r}: {error}"
            )

    def _over(self, ticket: Ticket, how: str) -> None:
        self.ledger.add("calls", ticket.part, how)
        moves = sum(one != other for one, other in zip(ticket.sent, ticket.sent[1:], strict=False))
        if moves:
            self.ledger.add("moves", ticket.part, n=moves)

    def traced(self, ticket: Ticket, trace: Trace) -> None:
        """Check that a trace of one call tells what the call did."""
        said = [record.target for record in trace.attempts if record.number]
        if said != ticket.sent:
            self.ledger.wrong(
                f"{ticket.part}: a trace lists attempts on {said}, the call made {ticket.sent}."
            )
        served = ticket.sent[-1] if ticket.last == ANSWER else None
        if trace.served_by != served:
            self.ledger.wrong(
                f"{ticket.part}: a trace says {trace.served_by} answered, it was {served}."
            )

    def call(self, ask: Callable[[Ticket], object], ticket: Ticket) -> None:
        """Make one synchronous call and account for it."""
        try:
            answer = ask(ticket)
        except Exception as error:
            self.failed(ticket, error)
        else:
            self.answered(ticket, answer)

    async def acall(
        self,
        ask: Callable[[Ticket], Awaitable[object]],
        ticket: Ticket,
        cancelled: type[BaseException],
    ) -> None:
        """Make one asynchronous call and account for it."""
        try:
            answer = await ask(ticket)
        except cancelled:
            self.cancelled(ticket)
            raise
        except Exception as error:
            self.failed(ticket, error)
        else:
            self.answered(ticket, answer)


def is_empty(answer: object) -> bool:
    return answer == EMPTY_ANSWER


def no_wait(_: int) -> float:
    """Back off for a moment only: what is soaked is the library, not the clock."""
    return 0.001


# --- Parts in threads ------------------------------------------------------------------------


def plain_thread(soak: Soak, name: str, chain: tuple[str, ...], **options: Any) -> None:
    """Call through a chain from a thread; most of it on the healthy path."""
    rng = soak.rng(name)
    providers = soak.providers

    @failover(chain=chain, backoff=no_wait, **options)
    def ask(target: Target, ticket: Ticket) -> tuple[int, str]:
        return providers.serve(ticket, target.key)

    while not soak.stop.is_set():
        ticket = soak.ticket(name)
        if rng.random() < 0.02:
            with Trace() as trace:
                soak.call(ask, ticket)
            soak.traced(ticket, trace)
        else:
            soak.call(ask, ticket)
        time.sleep(rng.uniform(0.0, 0.004))


def watched_thread(soak: Soak, name: str, chain: tuple[str, ...]) -> None:
    """Call through a policy with observers of its own, pinned at times, with `Attempt`."""
    rng = soak.rng(name)
    providers = soak.providers

    def told(event: Any) -> None:
        soak.ledger.add("told", name, type(event).__name__, event.target)

    @failover(
        chain=chain,
        attempts=2,
        backoff=no_wait,
        timeout=5.0,
        attempt_timeout=1.0,
        observers=(told,),
        reject=is_empty,
    )
    def ask(ticket: Ticket, attempt: Attempt, *, target: Any = None) -> tuple[int, str]:
        if attempt.target.key != target.key or not 0.0 < (attempt.remaining or 0.0) <= 1.0:
            soak.ledger.wrong(f"{name}: an attempt on {target.key} was told {attempt}.")
        return providers.serve(ticket, target.key)

    while not soak.stop.is_set():
        ticket = soak.ticket(name, judged=True)
        pinned = rng.choice(chain) if rng.random() < 0.1 else None
        soak.call(lambda ticket, pinned=pinned: ask(ticket, target=pinned), ticket)
        if pinned is not None and set(ticket.sent) - {pinned}:
            soak.ledger.wrong(f"{name}: a call pinned to {pinned} was sent to {ticket.sent}.")
        time.sleep(rng.uniform(0.0, 0.006))


def loop_form_thread(soak: Soak, name: str, chain: tuple[str, ...]) -> None:
    """Call in the loop form, leaving it by `break` and by `return`."""
    rng = soak.rng(name)
    policy = failover(chain=chain, attempts=2, backoff=no_wait)

    def ask(ticket: Ticket) -> object:
        for attempt in policy:
            with attempt as target:
                attempt.result = soak.providers.serve(ticket, target.key)
                if ticket.number % 2:
                    return attempt.result
            if ticket.last == ANSWER:
                break
        return ticket.number, ticket.sent[-1]

    while not soak.stop.is_set():
        soak.call(ask, soak.ticket(name))
        time.sleep(rng.uniform(0.0, 0.006))


def warm_up() -> None:
    """Have everything imported that is imported on first use.

    A child that is forked while another thread imports a module can never import it.
    """

    @failover(chain="warm/up", attempts=1, attempt_timeout=1.0)
    async def ask(target: Target, sleep: Callable[[float], Awaitable[object]], deed: str) -> None:
        await sleep(0)
        if deed != ANSWER:
            raise make_error(deed)

    for deed in (ANSWER, *(deed for deed in KINDS if deed not in NOT_RAISED)):
        for start_loop, sleep in ((asyncio.run, asyncio.sleep), (trio.run, trio.sleep)):
            with contextlib.suppress(ChainExhaustedError, TypeError):
                start_loop(
                    functools.partial(ask, sleep, deed)
                    if start_loop is trio.run
                    else ask(sleep, deed)
                )
    stop = observe(lambda _: None)
    stop()
    bench_model("warm/up", 1.0)
    unbench_model("warm/up")
    unbench_model("warm")


class SharedGuards:
    """Guards that threads and tasks of several loops are in at once; new ones all the time."""

    def __init__(self) -> None:
        self._guards = {key: breaker(key) for key in GUARDS}

    def renew(self, key: str) -> None:
        self._guards[key] = breaker(key)

    def __getitem__(self, key: str) -> Any:
        return self._guards[key]


def guard_thread(soak: Soak, name: str, guards: SharedGuards) -> None:
    """Enter guards that others are in, nested too."""
    rng = soak.rng(name)
    while not soak.stop.is_set():
        key = rng.choice(GUARDS)
        if rng.random() < 0.2:
            guards.renew(key)
        guard = guards[key]
        for _ in range(rng.randrange(1, 4)):
            ticket = soak.ticket(name)
            with contextlib.suppress(BreakerOpenError, *PROVIDER_ERRORS), guard:
                soak.providers.serve(ticket, key)
        time.sleep(rng.uniform(0.0, 0.004))


def tenants_thread(soak: Soak, name: str) -> None:
    """Use a key per tenant, thousands of them, none for long; a policy per request at times."""
    rng = soak.rng(name)
    number = 0

    def serve(target: Target, asked: int) -> int:
        soak.ledger.add("did", name, "acct", ANSWER)
        return asked

    while not soak.stop.is_set():
        for _ in range(60 if number > FILLED else 400):
            number += 1
            with soak.still():
                use_a_tenant(number)
        soak.tenants = number
        chain = [Target("acct/m", account=f"t{number}")]
        with soak.still():  # this key is a new one, too
            answer = failover(chain=chain, attempts=1).call(serve, number)
        if answer != number:
            soak.ledger.wrong(
                f"{name}: a policy that was made for one request gave another answer."
            )
        soak.ledger.add("asked", name, "acct")
        if number > FILLED:
            time.sleep(rng.uniform(0.02, 0.05))


def use_a_tenant(number: int) -> None:
    """Use the key of one tenant, which may fail and ends well: it is healthy when it is left alone.

    Those with options come back, after they were let go: their options are remembered.
    """
    guard = (
        breaker(f"tenant-{number % FEWER}", cooldown=0.1)
        if number % 7 == 0
        else breaker(f"tenant-{number}")
    )
    with contextlib.suppress(ConnectionResetError), guard:
        if number % 3 == 0:
            raise ConnectionResetError
    with guard:
        pass


FILLED: Final = 12_000
"""Tenants after which the registry has begun to drop idle ones; reached as fast as possible."""
FEWER: Final = FILLED - FILLED % 7
"""Tenants after which those with options come back."""


def operator_thread(soak: Soak, name: str) -> None:
    """Bench and unbench by hand, list and look, change settings."""
    rng = soak.rng(name)
    keys = (*STORMY, *STEADY, *METERED)
    turn = 0
    while not soak.stop.is_set():
        turn += 1
        key = rng.choice(keys)
        bench_model(key, rng.choice([None, 3600.0]), reason="soak")
        soak.providers.benched[key] = time.monotonic()
        if not is_benched(key) or key not in {row.model for row in list_benched()}:
            soak.ledger.wrong(f"{key} was benched by hand and is not listed.")
        soak.stop.wait(rng.uniform(0.1, 1.2))
        if not is_benched(key):
            soak.ledger.wrong(f"the bench by hand of {key} ended by itself.")
        del soak.providers.benched[key]
        if not unbench_model(key):
            soak.ledger.wrong(f"{key} was benched by hand and unbench_model found nothing.")
        soak.ledger.add("operator", "benched", key)
        if turn % 5 == 0:
            configure(max_wait=rng.uniform(1.0, 5.0))
        soak.stop.wait(rng.uniform(0.0, 0.3))


def observers_thread(soak: Soak, name: str) -> None:
    """Subscribe and go; one that raises harms nothing; none receives an event after it went."""
    rng = soak.rng(name)
    while not soak.stop.is_set():
        gone: list[float] = []

        def told(event: Any, gone: list[float] = gone) -> None:
            soak.ledger.add("visitors", "told")
            if gone and time.monotonic() - gone[0] > BENCH_GRACE:
                soak.ledger.wrong(
                    f"an observer was told of {type(event).__name__} long after it had unsubscribed."
                )
            if rng.random() < 0.05:
                raise RuntimeError("an observer that raises")

        stop = observe(
            told,
            *rng.choice([(), (resilient_llm.AttemptSucceeded,), (resilient_llm.HealthChanged,)]),
        )
        soak.stop.wait(rng.uniform(0.01, 0.2))
        stop()
        gone.append(time.monotonic())
        soak.ledger.add("visitors", "came")
        soak.stop.wait(rng.uniform(0.05, 0.4))


# --- Parts in loops --------------------------------------------------------------------------


async def loop_task(
    soak: Soak, name: str, chain: tuple[str, ...], task: int, **options: Any
) -> None:
    """Call through a chain from a task; with `attempt_timeout` what hangs is cut off."""
    rng = soak.rng(f"{name}-{task}")
    providers = soak.providers
    cuttable = "attempt_timeout" in options

    @failover(chain=chain, backoff=no_wait, **options)
    async def ask(target: Target, ticket: Ticket) -> tuple[int, str]:
        return await providers.aserve(ticket, target.key, asyncio.sleep, asyncio.CancelledError)

    while not soak.stop.is_set():
        ticket = soak.ticket(name, cuttable=cuttable)
        if rng.random() < 0.02:
            with Trace() as trace:
                await soak.acall(ask, ticket, asyncio.CancelledError)
            soak.traced(ticket, trace)
        else:
            await soak.acall(ask, ticket, asyncio.CancelledError)
        await asyncio.sleep(rng.uniform(0.0, 0.01))


async def cancelling_task(
    soak: Soak, name: str, chain: tuple[str, ...], task: int, **options: Any
) -> None:
    """Start calls and cancel them at any point: `cancel`, `wait_for`, or not at all."""
    rng = soak.rng(f"{name}-{task}")
    providers = soak.providers

    @failover(chain=chain, backoff=no_wait, **options)
    async def ask(target: Target, ticket: Ticket) -> tuple[int, str]:
        return await providers.aserve(ticket, target.key, asyncio.sleep, asyncio.CancelledError)

    while not soak.stop.is_set():
        call = soak.acall(
            ask, soak.ticket(name, cut_is="cancelled", cuttable=True), asyncio.CancelledError
        )
        patience = rng.uniform(0.0, 0.008)
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            if rng.random() < 0.5:
                await asyncio.wait_for(call, patience)
            else:
                running = asyncio.create_task(call)
                # A task that is cancelled before it began never makes its call.
                await asyncio.sleep(0)
                await asyncio.sleep(patience)
                running.cancel()
                await running
        await asyncio.sleep(rng.uniform(0.0, 0.006))


async def impatient_task(soak: Soak, name: str, chain: tuple[str, ...]) -> None:
    """Give up on calls after longer than a slow call takes: the library finds the hanging provider out."""
    providers = soak.providers

    @failover(chain=chain, attempts=1, when_all_benched="raise")
    async def ask(target: Target, ticket: Ticket) -> tuple[int, str]:
        return await providers.aserve(ticket, target.key, asyncio.sleep, asyncio.CancelledError)

    while not soak.stop.is_set():
        ticket = soak.ticket(name, cuttable=True, cut_is="hung")
        running = asyncio.create_task(soak.acall(ask, ticket, asyncio.CancelledError))
        # Patience begins with the attempt: a loop that is late must not make it shorter.
        while not ticket.sent and not running.done():  # noqa: ASYNC110  # it begins within a round of the loop
            await asyncio.sleep(0)
        await asyncio.wait({running}, timeout=0.1)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await asyncio.sleep(0.01)


async def loop_form_task(soak: Soak, name: str, chain: tuple[str, ...]) -> None:
    """Call in the asynchronous loop form."""
    rng = soak.rng(name)
    policy = failover(chain=chain, attempts=2, backoff=no_wait, attempt_timeout=0.06)

    async def ask(ticket: Ticket) -> object:
        async for attempt in policy:
            async with attempt as target:
                attempt.result = await soak.providers.aserve(
                    ticket, target.key, asyncio.sleep, asyncio.CancelledError
                )
            if ticket.last == ANSWER:
                return attempt.result or (ticket.number, ticket.sent[-1])
        raise AssertionError("a loop ended without an answer and without an error")

    while not soak.stop.is_set():
        await soak.acall(ask, soak.ticket(name, cuttable=True), asyncio.CancelledError)
        await asyncio.sleep(rng.uniform(0.0, 0.01))


async def guard_task(soak: Soak, name: str, guards: SharedGuards, task: int) -> None:
    """Wait inside guards that threads and tasks of another loop are in, too; cancelled at times."""
    rng = soak.rng(f"{name}-{task}")
    while not soak.stop.is_set():
        key = rng.choice(GUARDS)
        ticket = soak.ticket(name, cut_is="cancelled")
        with contextlib.suppress(BreakerOpenError, TimeoutError, *PROVIDER_ERRORS):
            async with asyncio.timeout(rng.uniform(0.0, 0.02)), guards[key]:
                await soak.providers.aserve(ticket, key, asyncio.sleep, asyncio.CancelledError)
        await asyncio.sleep(rng.uniform(0.0, 0.01))


async def listener_task(soak: Soak, name: str) -> None:
    """Read the stream of events for a while, too slowly, again and again."""
    rng = soak.rng(name)
    while not soak.stop.is_set():
        async with events(
            resilient_llm.AttemptFailed, resilient_llm.TargetBenched, buffer=20
        ) as stream:
            until = time.monotonic() + rng.uniform(0.05, 0.5)
            with contextlib.suppress(TimeoutError):
                while time.monotonic() < until:
                    await asyncio.wait_for(anext(stream), 0.1)
                    soak.ledger.add("stream", "read")
                    await asyncio.sleep(rng.uniform(0.0, 0.01))
            soak.ledger.add("stream", "dropped", n=stream.dropped)
        await asyncio.sleep(rng.uniform(0.0, 0.2))


async def trio_task(
    soak: Soak, name: str, chain: tuple[str, ...], task: int, **options: Any
) -> None:
    """Call through a chain under trio; without timeouts of the policy, cancelled from outside."""
    rng = soak.rng(f"{name}-{task}")
    providers = soak.providers
    cancellable = "attempt_timeout" not in options

    @failover(chain=chain, backoff=no_wait, **options)
    async def ask(target: Target, ticket: Ticket) -> tuple[int, str]:
        return await providers.aserve(ticket, target.key, trio.sleep, trio.Cancelled)

    while not soak.stop.is_set():
        ticket = soak.ticket(name, cuttable=True, cut_is="cancelled" if cancellable else "cut")
        # Trio keeps what is no longer waited for until its time, so no scope where none is needed.
        with (
            trio.move_on_after(rng.uniform(0.0, 0.01)) if cancellable else contextlib.nullcontext()
        ):
            await soak.acall(ask, ticket, trio.Cancelled)
        await trio.sleep(rng.uniform(0.0, 0.01))


# --- A real server ---------------------------------------------------------------------------


async def serve_http(
    soak: Soak, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer one connection: the last two parts of a path are provider and model."""
    providers = soak.providers
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            provider, model = head.split(b" ", 2)[1].decode().rsplit("/", 2)[-2:]
            key = f"{provider}/{model}"
            soak.ledger.add("arrived", key)
            deed = providers.weather(key).deed(time.monotonic() - providers._began)
            if deed == HANG:
                await asyncio.wait_for(reader.read(1), 1.0)  # until the client gives up
                return
            if deed in (DROP, "refused"):
                return
            status = _STATUS.get(deed, 200)
            hint = (
                f"retry-after: {providers.weather(key).hint():.2f}\r\n"
                if deed == "rate_limit"
                else ""
            )
            writer.write(f"HTTP/1.1 {status} x\r\n{hint}content-length: 2\r\n\r\nok".encode())
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        pass
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def server_main(soak: Soak, ready: threading.Event) -> None:
    """Serve until everybody else has stopped."""
    tasks: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve_http(soak, reader, writer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    soak.port = server.sockets[0].getsockname()[1]
    ready.set()
    while not soak.closing.is_set():  # noqa: ASYNC110  # set by a thread, for all loops at once
        await asyncio.sleep(0.05)
    server.close()
    # Clients have closed their connections or will within a moment.
    for _ in range(100):
        if not tasks:
            break
        await asyncio.sleep(0.02)


def http_outcome(soak: Soak, ticket: Ticket, key: str, error: httpx.HTTPError | None) -> None:
    """Count what a real client made of a real answer."""
    deed = ANSWER
    if isinstance(error, httpx.HTTPStatusError):
        deed = next(
            name for name, status in _STATUS.items() if status == error.response.status_code
        )
    elif isinstance(error, httpx.TimeoutException):
        deed = "read_timeout"
    elif error is not None:
        deed = DROP
    soak.providers.count(ticket, key, deed)


_HTTP_LIMITS: Final = httpx.Timeout(2.0, read=0.15)


def http_thread(soak: Soak, name: str, chain: tuple[str, ...]) -> None:
    """Call a real server through a chain with a synchronous client."""
    rng = soak.rng(name)
    with httpx.Client(timeout=_HTTP_LIMITS, trust_env=False) as client:

        @failover(chain=chain, attempts=2, backoff=no_wait)
        def ask(target: Target, ticket: Ticket) -> tuple[int, str]:
            ticket.sent.append(target.key)
            soak.ledger.add("sent", name, target.key)
            try:
                client.get(f"http://127.0.0.1:{soak.port}/{target.key}").raise_for_status()
            except httpx.HTTPError as error:
                http_outcome(soak, ticket, target.key, error)
                raise
            http_outcome(soak, ticket, target.key, None)
            return ticket.number, target.key

        while not soak.stop.is_set():
            soak.call(ask, soak.ticket(name))
            time.sleep(rng.uniform(0.005, 0.03))


async def http_tasks(soak: Soak, name: str, chain: tuple[str, ...]) -> None:
    """Call a real server through a chain with an asynchronous client."""
    rng = soak.rng(name)
    async with httpx.AsyncClient(timeout=_HTTP_LIMITS, trust_env=False) as client:

        @failover(chain=chain, attempts=2, backoff=no_wait)
        async def ask(target: Target, ticket: Ticket) -> tuple[int, str]:
            ticket.sent.append(target.key)
            soak.ledger.add("sent", name, target.key)
            try:
                (await client.get(f"http://127.0.0.1:{soak.port}/{target.key}")).raise_for_status()
            except httpx.HTTPError as error:
                http_outcome(soak, ticket, target.key, error)
                raise
            http_outcome(soak, ticket, target.key, None)
            return ticket.number, target.key

        while not soak.stop.is_set():
            tickets = [soak.ticket(name) for _ in range(3)]
            with Trace(call_id="together") as trace:
                await asyncio.gather(
                    *(soak.acall(ask, ticket, asyncio.CancelledError) for ticket in tickets)
                )
            said = sorted(
                [record.target for record in call.attempts if record.number] for call in trace.calls
            )
            if said != sorted(ticket.sent for ticket in tickets) or {
                call.call_id for call in trace.calls
            } != {"together"}:
                soak.ledger.wrong(f"{name}: a trace over three tasks holds {trace.calls}.")
            await asyncio.sleep(rng.uniform(0.01, 0.05))


# --- Children --------------------------------------------------------------------------------

CHILD_SECONDS: Final = 15.0
"""Seconds after which a child is stuck; it needs a fraction of one."""


def forker_thread(soak: Soak, name: str) -> None:
    """Fork children from among all these threads; collect what they say and how they end."""
    rng = soak.rng(name)

    # Bound before the fork, and failing all the time in the parent, too.
    @failover(chain="storm1/a, storm2/c", attempts=2, backoff=no_wait)
    def ask(target: Target, ticket: Ticket) -> tuple[int, str]:
        soak.ledger.add("sent", name, target.key)
        ticket.sent.append(target.key)
        return soak.providers.leave(ticket, target.key, "server_error")

    def ask_once() -> None:
        soak.call(ask, soak.ticket(name))

    while not soak.stop.is_set():
        ask_once()
        fork_one(soak, name, ask_once)
        soak.stop.wait(rng.uniform(0.3, 1.5))


def fork_one(soak: Soak, name: str, ask_once: Callable[[], None]) -> None:
    """Fork one child and wait for it."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reads)
        _be_a_child(soak, writes, ask_once)
    os.close(writes)
    said = b""
    give_up_at = time.monotonic() + CHILD_SECONDS + 5.0
    while time.monotonic() < give_up_at:
        ready, _, _ = select.select([reads], [], [], 0.2)
        if ready:
            part = os.read(reads, 65536)
            if not part:
                break
            said += part
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(reads)
    _, status = os.waitpid(pid, 0)
    soak.ledger.add("children", "ended")
    code = os.waitstatus_to_exitcode(status)
    text = said.decode(errors="replace").strip()
    if code != 0 or said:
        soak.ledger.wrong(
            f"{name}: a forked child ended with code {code} and said: {text or 'nothing'}"
        )


def _be_a_child(soak: Soak, writes: int, ask_once: Callable[[], None]) -> None:
    """Check the library in a child, say what is wrong, and end; never returns."""
    faulthandler.dump_traceback_later(CHILD_SECONDS, exit=True, file=writes)
    code = 1
    try:
        soak.ledger.after_fork()
        soak.ledger.violations = []
        soak.overseer.after_fork()
        soak.providers.is_settled()
        child_checks(soak.ledger, ask_once)
        os.write(writes, "\n".join(soak.ledger.violations).encode())
        code = 0
    except BaseException as error:
        import traceback

        os.write(writes, "".join(traceback.format_exception(error)).encode())
    finally:
        os._exit(code)


def child_checks(ledger: Ledger, ask_once: Callable[[], None]) -> None:
    """Trip and recover circuits of the child's own, sync and async, and check every count."""
    for _ in range(3):
        ask_once()
    with fake_clock() as clock:  # a child that is kept waiting for its turn counts the same
        _check_counts(ledger, clock)


def _check_counts(ledger: Ledger, clock: FakeClock) -> None:
    told: Counter[str] = Counter()
    stop = observe(lambda event: told.update([f"{type(event).__name__} {event.target}"]))
    script = ["answer"] * 5 + ["server_error"] * 3

    @failover(chain="child/a, child/b", attempts=1)
    def ask(target: Target, deed: str) -> str:
        if deed != ANSWER and target.key == "child/a":
            raise make_error(deed)
        return target.key

    @failover(chain="child/c, child/d", attempts=1, attempt_timeout=1.0)
    async def ask_async(target: Target, deed: str) -> str:
        await asyncio.sleep(0)
        if deed != ANSWER and target.key == "child/c":
            raise make_error(deed)
        return target.key

    async def all_async() -> list[str]:
        return [await ask_async(deed) for deed in [*script, ANSWER]]

    ledger.agree(
        "in a child, fallbacks", 4, [ask(deed) for deed in [*script, ANSWER]].count("child/b")
    )
    ledger.agree("in a child, async fallbacks", 4, asyncio.run(all_async()).count("child/d"))
    for first, second in (("child/a", "child/b"), ("child/c", "child/d")):
        ledger.agree(f"in a child, successes told of {first}", 5, told[f"AttemptSucceeded {first}"])
        ledger.agree(f"in a child, failures told of {first}", 3, told[f"AttemptFailed {first}"])
        ledger.agree(f"in a child, benches told of {first}", 1, told[f"TargetBenched {first}"])
        ledger.agree(
            f"in a child, successes told of {second}", 4, told[f"AttemptSucceeded {second}"]
        )
    stop()
    clock.advance(0.06)
    ledger.agree("in a child, fallbacks after the cooldown", 0, [ask(ANSWER)].count("child/b"))
    after = health()
    ledger.agree("in a child, total of child/b", 4, after["child/b"].total)
    ledger.agree("in a child, total of child/a after it closed", 0, after["child/a"].total)
    for key in ("child/a", "child/b", "child/d"):
        if after[key].state != "closed":
            ledger.wrong(f"in a child, {key} is {after[key].state} after its probe.")


# --- Flatness --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Allowance:
    """By how much a figure may grow between the third and the last quarter of the run."""

    share: float
    plus: float

    def of(self, figure: float) -> float:
        return figure * self.share + self.plus


# Circuits are let go a thousand of ten thousand at a time, and their blocks are not counted;
# memory has the allocator's habits. Circuits that have failed have more blocks than those that are
# measured, so blocks go up and down by some 5,000. A leak of one object per call, which are 25,000
# in a quarter of a minute's run, is seen.
ALLOWED: Final[dict[str, Allowance]] = {
    "memory (KiB)": Allowance(0.01, 2048),
    "memory blocks": Allowance(0.03, 2500),
    "file descriptors": Allowance(0.0, 6),
    "threads": Allowance(0.0, 1),
    "circuits": Allowance(0.11, 20),
}


def grown(samples: list[float], allowed: Allowance) -> tuple[float, float, bool]:
    """Compare the medians of the third and the last quarter: ``(third, last, whether too much)``."""
    quarter = max(1, len(samples) // 4)
    third = statistics.median(samples[-2 * quarter : -quarter] or samples)
    last = statistics.median(samples[-quarter:])
    return third, last, last - third > allowed.of(third)


MOST_CIRCUITS: Final = 11_500
"""Keys that the registry may hold: ten thousand, a tenth more before it looks again, and those in use."""


class Meter:
    """Takes the figures that must be flat."""

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = {name: [] for name in ALLOWED}
        blocks, self._types = sys.getallocatedblocks(), count_types()
        for number in range(1000):
            with breaker(f"gauge-{number}"):
                pass
        types = count_types()
        types.subtract(self._types)
        self._types_per_circuit = {name: n / 1000 for name, n in types.items()}
        self._blocks_per_circuit = (sys.getallocatedblocks() - blocks) / 1000

    def sample(self) -> None:
        gc.collect()
        circuits, blocks = self._circuits_and_blocks()
        figures = {
            "memory (KiB)": self._memory(),
            "memory blocks": blocks - self._blocks_per_circuit * circuits,
            "file descriptors": count_descriptors(),
            "threads": threading.active_count(),
            "circuits": circuits,
        }
        for name, figure in figures.items():
            self.samples[name].append(figure)

    def _circuits_and_blocks(self) -> tuple[int, int]:
        """Return both of one moment: circuits are let go when a thread that looked at them is done."""
        circuits = len(health())
        for _ in range(10):
            # No list of all objects: with one in hand, a tuple that another thread is building cannot be finished.
            blocks = sys.getallocatedblocks()
            before, circuits = circuits, len(health())
            if before == circuits:
                break
        return circuits, blocks

    def _memory(self) -> float:
        try:
            return int(Path("/proc/self/statm").read_text().split()[1]) * (
                os.sysconf("SC_PAGE_SIZE") // 1024
            )
        except OSError:  # no Linux: the highest figure so far, which a leak raises, too
            import resource

            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def grown_types(self) -> str:
        """Return of which types there are most more than at the start, but for what the circuits are."""
        now, circuits = count_types(), len(health())
        grown = Counter(
            {
                name: round(
                    n - self._types[name] - self._types_per_circuit.get(name, 0.0) * circuits
                )
                for name, n in now.items()
            }
        )
        return ", ".join(f"{name} +{n}" for name, n in grown.most_common(8) if n > 0)


def count_types() -> Counter[str]:
    """Return how many objects there are of each type; while no other thread runs."""
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects())


def count_descriptors() -> int:
    """Return how many file descriptors are open, as far as the system tells."""
    for place in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return len(os.listdir(place))  # noqa: PTH208  # Path.iterdir would keep one open, too
    return 0


def children() -> set[str]:
    """Return the ids of the child processes, those that nobody has waited for included."""
    found: set[str] = set()
    for listed in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            found.update(listed.read_text().split())
    return found


# --- The whole -------------------------------------------------------------------------------


class Overseer:
    """Observes everything from the first call to the last, process-wide, exactly."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.after_fork()

    def after_fork(self) -> None:
        self._busy: dict[str, int] = {}

    def __call__(self, event: Any) -> None:
        name = type(event).__name__
        if event.target in self._busy:
            self._ledger.wrong(f"two threads delivered events of {event.target} at once.")
        self._busy[event.target] = 1
        words = [name, event.target]
        if name == "AttemptFailed":
            words.append(event.kind.value)
        elif name in ("TargetBenched", "TargetUnbenched"):
            words.append(
                event.trigger.partition(" ")[0] if name == "TargetBenched" else event.reason
            )
        self._ledger.add("event", *words)
        del self._busy[event.target]


# AttemptSucceeded is not among them: whoever listens to it takes the healthy path away.
OVERSEEN: Final = (
    resilient_llm.AttemptFailed,
    resilient_llm.CallFailed,
    resilient_llm.FailedOver,
    resilient_llm.RetryScheduled,
    resilient_llm.TargetBenched,
    resilient_llm.TargetUnbenched,
    resilient_llm.UnknownError,
)


class LogLines(logging.Handler):
    """Counts what the default observer writes."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(logging.WARNING)
        self._ledger = ledger

    def emit(self, record: logging.LogRecord) -> None:
        self._ledger.add("log", getattr(record, "event", "line"))


class Complaints:
    """Collects what nobody would see: warnings, errors of threads, loops and finalizers."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        before = threading.excepthook, sys.unraisablehook
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            # A process with threads is forked on purpose, which Python 3.12 and newer warn of.
            warnings.filterwarnings(
                "ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning
            )
            warnings.showwarning = self._warned
            threading.excepthook = self._thread_died
            sys.unraisablehook = self._unraisable
            try:
                yield
            finally:
                threading.excepthook, sys.unraisablehook = before

    def _warned(self, message: Warning | str, category: type[Warning], *_: object) -> None:
        self._ledger.wrong(f"a {category.__name__} was given: {message}")

    def _thread_died(self, args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread is not None else "?"
        self._ledger.wrong(f"the part {name!r} died of {_told(args.exc_value)}")

    def _unraisable(self, args: Any) -> None:
        self._ledger.wrong(f"an error was lost in a finalizer: {_told(args.exc_value)}")


def _told(error: BaseException | None) -> str:
    """Return an error in one line, with where it was raised."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_told(each) for each in error.exceptions)
    where = ""
    step = None if error is None else error.__traceback__
    while step is not None:
        where = f" ({Path(step.tb_frame.f_code.co_filename).name}:{step.tb_lineno})"
        step = step.tb_next
    return f"{type(error).__name__}: {error}{where}"


def run_loop(soak: Soak, parts: Callable[[], list[Any]]) -> None:
    """Run parts in an asyncio loop of this thread; check that nothing is left in it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda _, context: soak.ledger.wrong(f"a loop complained: {context['message']}")
        )
        async with asyncio.TaskGroup() as group:
            for part in parts():
                group.create_task(part)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if left:
            soak.ledger.wrong(f"{len(left)} tasks were left in a loop, such as {left[0]!r}.")

    asyncio.run(main())


def run_trio(parts: Callable[[], list[Callable[[], Awaitable[None]]]]) -> None:
    """Run parts under trio in this thread; its nursery leaves nothing behind."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for part in parts():
                nursery.start_soon(part)

    trio.run(main)


def cast(soak: Soak) -> dict[str, Callable[[], None]]:
    """Return ``{name of a thread: what it does}``."""
    guards = SharedGuards()
    # One attempt, never a last resort: either may open a circuit or go uncounted.
    exact: dict[str, Any] = {"attempts": 1, "when_all_benched": "raise"}

    def loop_a() -> list[Any]:
        return [
            *(
                loop_task(soak, "loop-a", STORMY, n, attempts=2, attempt_timeout=0.08)
                for n in range(4)
            ),
            *(cancelling_task(soak, "cancelled", STORMY, n, attempts=2) for n in range(3)),
            *(cancelling_task(soak, "cancelled-steady", STEADY, n, **exact) for n in range(2)),
            http_tasks(soak, "http-async", HTTP),
        ]

    def loop_b() -> list[Any]:
        return [
            *(loop_task(soak, "loop-b", STEADY, n, **exact) for n in range(3)),
            *(
                loop_task(soak, "loop-b-cut", METERED, n, attempt_timeout=0.08, **exact)
                for n in range(2)
            ),
            loop_form_task(soak, "loop-form-async", STORMY),
            *(guard_task(soak, "guard-tasks", guards, n) for n in range(3)),
            listener_task(soak, "listener"),
            impatient_task(soak, "impatient", SLOW),
        ]

    def in_trio() -> list[Callable[[], Awaitable[None]]]:
        cut = {"attempts": 2, "attempt_timeout": 0.08}
        return [
            *(functools.partial(trio_task, soak, "trio", STORMY, n, **cut) for n in range(3)),
            *(
                functools.partial(trio_task, soak, "trio-cancelled", STORMY, n, attempts=2)
                for n in range(2)
            ),
        ]

    def thread(
        part: Callable[..., None], name: str, *arguments: Any, **options: Any
    ) -> Callable[[], None]:
        return lambda: part(soak, name, *arguments, **options)

    return {
        "thread-1": thread(plain_thread, "thread-1", STORMY, attempts=2),
        "thread-2": thread(
            plain_thread, "thread-2", STORMY[::-1], attempts=2, when_all_benched="wait"
        ),
        "thread-3": thread(plain_thread, "thread-3", STEADY, **exact),
        "thread-4": thread(plain_thread, "thread-4", METERED, **exact),
        "watched": thread(watched_thread, "watched", STORMY),
        "loop-form": thread(loop_form_thread, "loop-form", STORMY),
        "guards-1": thread(guard_thread, "guards-1", guards),
        "guards-2": thread(guard_thread, "guards-2", guards),
        "guards-3": thread(guard_thread, "guards-3", guards),
        "tenants": thread(tenants_thread, "tenants"),
        "operator": thread(operator_thread, "operator"),
        "observers": thread(observers_thread, "observers"),
        "forker": thread(forker_thread, "forker"),
        "http": thread(http_thread, "http", HTTP),
        "loop A": lambda: run_loop(soak, loop_a),
        "loop B": lambda: run_loop(soak, loop_b),
        "trio loop": lambda: run_trio(in_trio),
    }


def start(name: str, part: Callable[[], None]) -> threading.Thread:
    # A daemon, so that one that is stuck is reported and does not hold the process.
    thread = threading.Thread(target=part, name=name, daemon=True)
    thread.start()
    return thread


def join(soak: Soak, threads: list[threading.Thread], seconds: float) -> None:
    """Wait for threads to end; say which do not, and where they are."""
    give_up_at = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, give_up_at - time.monotonic()))
    stuck = [thread.name for thread in threads if thread.is_alive()]
    if stuck:
        soak.ledger.wrong(
            f"{', '.join(stuck)} did not end within {seconds:g} s of being told: stuck."
        )
        faulthandler.dump_traceback(all_threads=True)


def watch(soak: Soak, meter: Meter, threads: list[threading.Thread]) -> None:
    """Let the parts run for their time, taking figures; end early if a part has died."""
    began = time.monotonic()
    interval = max(0.1, min(1.0, soak.seconds / 60))
    while (passed := time.monotonic() - began) < soak.seconds:
        if not all(thread.is_alive() for thread in threads):
            soak.say("a part has ended before its time")
            break
        if passed > soak.seconds / 4:
            with soak.still():
                meter.sample()
        time.sleep(interval)


def run(seconds: float, seed: int, say: Callable[[str], object]) -> list[str]:
    """Soak for so long; return what is wrong, one sentence each."""
    soak = Soak(seconds, seed, say)
    complaints = Complaints(soak.ledger)
    logger = logging.getLogger("resilient_llm")
    logger.propagate = False
    configure(breakers=BREAKERS, max_wait=2.0, logging=False)
    warm_up()
    lines = LogLines(soak.ledger)
    logger.addHandler(lines)
    configure(logging=True)
    threads_before, descriptors_before = threading.active_count(), count_descriptors()
    children_before = children()
    with complaints.collected():
        stop = observe(soak.overseer, *OVERSEEN)
        registry = CollectorRegistry()
        uninstall = prometheus.install(registry)
        meter = Meter()
        ready = threading.Event()
        server = start("server", lambda: run_loop(soak, lambda: [server_main(soak, ready)]))
        ready.wait(10.0)
        parts = [start(name, part) for name, part in cast(soak).items()]
        try:
            watch(soak, meter, parts)
        finally:
            soak.stop.set()
            join(soak, parts, 30.0)
            soak.closing.set()
            join(soak, [server], 10.0)
        check_accounts(soak)
        check_metrics(soak.ledger, registry)
        uninstall()
        soak.providers.is_settled()
        check_recovery(soak)
        stop()
        check_flatness(soak, meter)
        check_soaked(soak)
        del parts, server
        for _ in range(3):
            gc.collect()
        check_nothing_left(soak, threads_before, descriptors_before, children_before)
    logger.removeHandler(lines)
    logger.propagate = True
    report(soak, meter)
    return soak.ledger.violations


# --- What must hold at the end ---------------------------------------------------------------


def check_accounts(soak: Soak) -> None:
    """Compare what callers sent, what providers saw, what observers received and `health()`."""
    ledger = soak.ledger
    parts = sorted({key[1] for key in ledger.counts if key[0] == "calls"})
    for part in parts:
        ledger.agree(
            f"{part}: attempts that ended",
            ledger.total("sent", part, "*"),
            ledger.total("did", part, "*", "*"),
        )
        answered = ledger.total("did", part, "*", ANSWER)
        ledger.agree(f"{part}: calls answered", answered, ledger.total("calls", part, "answered"))
    for key in HTTP:
        ledger.agree(
            f"{key}: requests that arrived",
            ledger.total("sent", "*", key),
            ledger.total("arrived", key),
        )
    check_events(ledger, parts)
    check_health(ledger)
    ledger.agree(
        "tenants: answers",
        ledger.total("asked", "tenants", "acct"),
        ledger.total("did", "tenants", "acct", ANSWER),
    )


def check_events(ledger: Ledger, parts: list[str]) -> None:
    """Compare what happened with what the observer of the whole run was told."""
    for key in (*STORMY, *STEADY, *METERED, *HTTP, *SLOW):
        for kind in {kind for kind, _ in KINDS.values()}:
            expected = sum(raised(ledger, part, key, kind=kind) for part in parts)
            if kind is KINDS["hung"][0]:  # it counts as a failure, and was cancelled
                expected -= sum(ledger.total("did", part, key, "hung") for part in parts)
            told = ledger.total("event", "AttemptFailed", key, kind.value)
            ledger.agree(f"{key}: AttemptFailed of kind {kind.value}", expected, told)
        watched = ledger.total("did", "watched", key, ANSWER)
        ledger.agree(
            f"{key}: AttemptSucceeded of the watched policy",
            watched,
            ledger.total("told", "watched", "AttemptSucceeded", key),
        )
    failed = ledger.total("calls", "*", "failed")
    ledger.agree("CallFailed", failed, ledger.total("event", "CallFailed", "*"))
    ledger.agree("FailedOver", ledger.total("moves", "*"), ledger.total("event", "FailedOver", "*"))
    ledger.agree("UnknownError", 0, ledger.total("event", "UnknownError", "*"))
    ledger.agree("log lines of CallFailed", failed, ledger.total("log", "CallFailed"))
    benched = ledger.total("event", "TargetBenched", "*", "*")
    ledger.agree("log lines of TargetBenched", benched, ledger.total("log", "TargetBenched"))


def raised(
    ledger: Ledger, part: str, key: str, *, kind: ErrorKind | None = None, scope: str | None = None
) -> int:
    """Return how many attempts ended in an error of this kind, or that is charged to this scope."""
    deeds = [
        deed
        for deed, (its_kind, its_scope) in KINDS.items()
        if kind in (None, its_kind) and scope in (None, its_scope)
    ]
    return sum(ledger.total("did", part, key, deed) for deed in deeds)


def check_metrics(ledger: Ledger, registry: CollectorRegistry) -> None:
    """Compare what happened with the counters that a scrape of the whole run shows."""
    seen = {
        (sample.name.removeprefix("resilient_llm_"), *sorted(sample.labels.values())): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }
    calls: Counter[str] = Counter()
    for (name, *labels), number in seen.items():
        if name == "calls_total":
            (outcome,) = {"ok", "failed", "cancelled"} & set(labels)
            calls[outcome] += int(number)
    made = {
        "ok": ledger.total("calls", "*", "answered") + ledger.total("did", "tenants", "*", ANSWER),
        "failed": ledger.total("calls", "*", "failed"),
        "cancelled": ledger.total("calls", "*", "cancelled"),
    }
    for outcome, number in made.items():
        ledger.agree(f"scraped calls {outcome}", number, calls[outcome])
    parts = sorted({key[1] for key in ledger.counts if key[0] == "calls"})
    for key in (*STORMY, *STEADY, *METERED, *HTTP):
        expected = {
            kind.value: sum(raised(ledger, part, key, kind=kind) for part in parts)
            for kind in {kind for kind, _ in KINDS.values()}
        }
        expected["ok"] = sum(ledger.total("did", part, key, ANSWER) for part in parts)
        for outcome, number in expected.items():
            scraped = seen.get(("attempts_total", *sorted((key, outcome))), 0)
            ledger.agree(f"{key}: scraped attempts {outcome}", number, int(scraped))
        ledger.agree(f"{key}: attempts in flight", 0, int(seen.get(("in_flight", key), 0)))


def check_health(ledger: Ledger) -> None:
    """Compare the totals of circuits that never opened with every call that was made on them."""
    seen = health(expected=EXACT)
    totals: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for key in EXACT:
        provider, _, model = key.partition("/")
        own, providers = (
            raised(ledger, "*", key, scope="target"),
            raised(ledger, "*", key, scope="provider"),
        )
        answered = ledger.total("did", "*", key, ANSWER)
        if model:
            totals[key] += own + answered
            errors[key] += own
        totals[provider] += own + providers + answered
        errors[provider] += own + providers
    for key in totals:
        ledger.agree(f"health() of {key}: total", totals[key], seen[key].total)
        ledger.agree(f"health() of {key}: errors", errors[key], seen[key].errors)


def check_recovery(soak: Soak, patience: float = 5.0) -> None:
    """Check that every circuit closes once nothing fails, so that no lease was kept; count anew."""
    keys = (*STORMY, *HTTP)
    circuits = {*keys, *(key.partition("/")[0] for key in keys)}
    give_up_at = time.monotonic() + patience
    while True:
        for key in keys:
            with contextlib.suppress(BreakerOpenError), breaker(key):
                pass
        shown = health()
        open_still = {key: shown[key].state for key in circuits if shown[key].state != "closed"}
        if not open_still or time.monotonic() >= give_up_at:
            break
        time.sleep(0.02)
    for key, state in open_still.items():
        soak.ledger.wrong(
            f"{key} is still {state} after {patience:g} s without a failure: a lease was not given back."
        )
    left = [row.model for row in list_benched()]
    if left:
        soak.ledger.wrong(f"still benched at the end: {', '.join(left)}.")
    resilient_llm.reset()
    for key in keys:
        for _ in range(10):
            with contextlib.suppress(BreakerOpenError), breaker(key):
                pass
    after = health()
    for key in keys:
        soak.ledger.agree(f"health() of {key} after a reset: total", 10, after[key].total)


def check_flatness(soak: Soak, meter: Meter) -> None:
    """Check that nothing grew in the second half of the run, and that idle keys were let go."""
    for name, samples in meter.samples.items():
        third, last, too_much = grown(samples, ALLOWED[name])
        if too_much:
            most = (
                f" More than at the start: {meter.grown_types()}."
                if name.startswith("memory")
                else ""
            )
            allowed = ALLOWED[name].of(third)
            soak.ledger.wrong(
                f"{name} grew from {third:.0f} to {last:.0f} in a quarter of the run, allowed is {allowed:.0f}.{most}"
            )

    most = max(meter.samples["circuits"])
    if most > MOST_CIRCUITS:
        soak.ledger.wrong(f"there were {most:.0f} circuits at once, allowed are {MOST_CIRCUITS}.")


def check_soaked(soak: Soak) -> None:
    """Check that the soak did what it is for."""
    ledger = soak.ledger
    done = {
        "circuits opened": ledger.total("event", "TargetBenched", "*", "*"),
        "circuits recovered": ledger.total("event", "TargetUnbenched", "*", "recovered"),
        "probes failed": ledger.total("event", "TargetBenched", "*", "probe"),
        "calls cancelled": ledger.total("calls", "*", "cancelled"),
        "attempts cut off": ledger.total("did", "*", "*", "cut"),
        "attempts that hung": ledger.total("did", "*", "*", "hung"),
        "empty answers": ledger.total("did", "*", "*", EMPTY),
        "children forked": ledger.total("children", "ended"),
        "observers came and went": ledger.total("visitors", "came"),
    }
    for what, times in done.items():
        if not times:
            ledger.wrong(f"{what}: never; this was no soak.")


def check_nothing_left(
    soak: Soak, threads_before: int, descriptors_before: int, children_before: set[str]
) -> None:
    """Check that no thread, child or file descriptor is left."""
    left = [thread.name for thread in threading.enumerate()][threads_before:]
    if left:
        soak.ledger.wrong(f"threads are left: {', '.join(left)}.")
    descriptors = count_descriptors()
    if descriptors > descriptors_before:
        soak.ledger.wrong(f"{descriptors - descriptors_before} file descriptors are left open.")
    if children() - children_before:
        soak.ledger.wrong("a child process is left.")


def report(soak: Soak, meter: Meter) -> None:
    """Print what was done and how the figures went."""
    say, ledger = soak.say, soak.ledger
    say(f"{'part':18} {'calls':>8} {'answered':>9} {'failed':>7} {'cancelled':>9} {'attempts':>9}")
    parts = sorted({key[1] for key in ledger.counts if key[0] == "sent"})
    for part in parts:
        ended = [ledger.total("calls", part, how) for how in ("answered", "failed", "cancelled")]
        calls = sum(ended) or ledger.total("sent", part, "*")
        say(
            f"{part:18} {calls:8} {ended[0]:9} {ended[1]:7} {ended[2]:9} {ledger.total('sent', part, '*'):9}"
        )
    opened = ledger.total("event", "TargetBenched", "*", "*")
    recovered = ledger.total("event", "TargetUnbenched", "*", "recovered")
    say(
        f"benches {opened}, recoveries {recovered}, tenants {soak.tenants}, children {ledger.total('children', 'ended')}"
    )
    say(f"{'figure':18} {'third quarter':>14} {'last quarter':>13} {'may grow by':>12}")
    for name, samples in meter.samples.items():
        third, last, _ = grown(samples, ALLOWED[name])
        say(f"{name:18} {third:14.0f} {last:13.0f} {ALLOWED[name].of(third):12.0f}")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="how long the parts run (default: 60)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the weather and of every part (default: 1)"
    )
    parser.add_argument(
        "--switch",
        type=float,
        default=0.0005,
        help="seconds after which threads take turns; Python's own 0.005 hides races (default: 0.0005)",
    )
    given = parser.parse_args(arguments)
    say(f"CPython {platform.python_version()}, seed {given.seed}, {given.seconds:g} s")
    sys.setswitchinterval(given.switch)
    violations = run(given.seconds, given.seed, say)
    for sentence in violations:
        say(f"WRONG: {sentence}")
    say(f"again: python tests/concurrency/soak.py --seconds {given.seconds:g} --seed {given.seed}")
    say("all accounts agree" if not violations else f"{len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
