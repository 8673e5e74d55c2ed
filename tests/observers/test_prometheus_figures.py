"""The figures agree: scraped counters, events, ``health()`` and a ledger of the test's own."""

import asyncio
import collections
import gc
import random
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry

from resilient_llm import (
    AttemptCancelled,
    AttemptFailed,
    AttemptSucceeded,
    CallFailed,
    FailedOver,
    RetryScheduled,
    StreamCommitted,
    StreamPolicy,
    Target,
    TargetSkipped,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    observe,
)
from resilient_llm.observers import prometheus
from tests.support.scrapes import Scrape, scrape
from tests.support.ways import ProviderError, StrangeError

CHAIN = ["one/a", "one/b", "two/c"]
ERRORS: dict[str, Any] = {
    "transient": lambda: ProviderError(503),
    "request_specific": lambda: ProviderError(400),
    "caller_bug": lambda: TypeError("a bug"),
    "unknown": lambda: StrangeError(),
    "bad_response": None,
}
NEVER_OPENS = {
    "mode": "metrics_only",
    "failures": 10**9,
    "min_calls": 10**9,
    "window": 10**6,
    "error_rate": 1.0,
}
HARMS = {"ok", "transient"}


class Account:
    """What callers and providers saw themselves."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.lock = threading.Lock()
        self.attempts: collections.Counter[Any] = collections.Counter()
        self.calls: collections.Counter[Any] = collections.Counter()

    def attempt(self, target: str, outcome: str) -> None:
        with self.lock:
            self.attempts[target, outcome] += 1

    def call(self, function: str, outcome: str) -> None:
        with self.lock:
            self.calls[function, outcome] += 1

    def draw(self, *others: str) -> str:
        with self.lock:
            if self.rng.random() < 0.7:
                return "ok"
            return self.rng.choice([*others])


class Events:
    """What observers received."""

    def __init__(self) -> None:
        self.attempts: collections.Counter[Any] = collections.Counter()
        self.others: collections.Counter[Any] = collections.Counter()
        self.lock = threading.Lock()

    def __call__(self, event: Any) -> None:
        with self.lock:
            match event:
                case AttemptSucceeded():
                    self.attempts[event.target, "ok"] += 1
                case AttemptFailed():
                    self.attempts[event.target, event.kind.value] += 1
                case AttemptCancelled():
                    self.attempts[event.target, "cancelled"] += 1
                case RetryScheduled():
                    self.others["retries", event.target, event.source] += 1
                case FailedOver():
                    self.others["failovers", event.from_target, event.to_target] += 1
                case TargetSkipped():
                    self.others["skips", event.target] += 1
                case StreamCommitted():
                    self.others["first", event.target] += 1
                case CallFailed():
                    self.others["failed",] += 1
                case _:
                    pass


class Work:
    """Everything that an application does, in the ways there are."""

    OPTIONS: ClassVar[Any] = {
        "chain": CHAIN,
        "attempts": 2,
        "backoff": lambda number: 0.0,
        "on_unknown": "next",
        "reject": lambda answer: answer == "bad",
    }

    def __init__(self, account: Account) -> None:
        self.account = account
        account_ = account

        def serve(target: Target, *others: str) -> str:
            outcome = account_.draw(*others)
            account_.attempt(target.key, outcome)
            if outcome == "bad_response":
                return "bad"
            if outcome != "ok":
                error = ERRORS[outcome]()
                raise error
            return target.key

        self.serve = serve
        kinds = tuple(ERRORS)

        @failover(**self.OPTIONS)
        def plain(target: Target) -> str:
            return serve(target, *kinds)

        @failover(**self.OPTIONS)
        def named(*, model: str | None = None, provider: str | None = None) -> str:
            return serve(Target(f"{provider}/{model}"), *kinds)

        @failover(**self.OPTIONS, timeout=60)
        async def waiting(target: Target, hangs: bool) -> str:
            if hangs:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    account_.attempt(target.key, "cancelled")
                    raise
            await asyncio.sleep(0)
            return serve(target, *kinds)

        @failover(**{**self.OPTIONS, "reject": None}, stream=StreamPolicy())
        def items(target: Target, takes: int) -> Iterator[str]:
            return self.stream(target, takes)

        @failover(**{**self.OPTIONS, "reject": None}, stream=StreamPolicy())
        async def aitems(target: Target, takes: int) -> AsyncIterator[str]:
            for item in self.stream(target, takes):
                await asyncio.sleep(0)
                yield item

        self.plain, self.named, self.waiting = plain, named, waiting
        self.items, self.aitems = items, aitems
        self.policy = failover(**self.OPTIONS)

    def stream(self, target: Target, takes: int) -> Iterator[str]:
        """Give four items, or break before or after the first of them."""
        outcome = self.account.draw("transient", "breaks")
        if outcome == "transient":
            self.account.attempt(target.key, "transient")
            raise ProviderError(503)
        try:
            for number in range(4):
                if number == 2 and outcome == "breaks" and takes > 2:
                    self.account.attempt(target.key, "transient")
                    raise ProviderError(503)
                yield f"{number}"
        except GeneratorExit:  # the consumer left after content
            self.account.attempt(target.key, "ok")
            raise
        self.account.attempt(target.key, "ok")

    def in_loop(self) -> None:
        for attempt in self.policy:
            with attempt as target:
                attempt.result = self.serve(target, *ERRORS)

    def in_thread(self, number: int) -> None:
        """Make one synchronous call of some form."""
        form = number % 5
        name = ("plain", "named", "(loop)", "passed", "items")[form]
        takes = 1 + number % 7
        try:
            if form == 0:
                self.plain()
            elif form == 1 and number % 2:
                self.named(model=("a", "b", "c")[number % 3], provider=None)
            elif form == 1:
                self.named()
            elif form == 2:
                self.in_loop()
            elif form == 3:
                self.policy.call(self.passed)
            else:
                stream = self.items(takes)
                for count, _ in enumerate(stream, 1):
                    if count == takes:
                        stream.close()
                        break
        except Exception:
            self.account.call(name, "failed")
        else:
            self.account.call(name, "ok")

    def passed(self, target: Target) -> str:
        return self.serve(target, *ERRORS)

    async def in_task(self, number: int) -> None:
        """Make one asynchronous call, which may be cancelled."""
        takes = 1 + number % 7
        try:
            if number % 3:
                stream = self.aitems(takes)
                count = 0
                async for _ in stream:
                    count += 1
                    if count == takes:
                        await stream.aclose()
                        break
                name = "aitems"
            else:
                name = "waiting"
                await self.waiting(hangs=number % 4 == 0)
        except asyncio.CancelledError:
            self.account.call("waiting", "cancelled")
        except Exception:
            self.account.call("aitems" if number % 3 else "waiting", "failed")
        else:
            self.account.call(name, "ok")

    async def tasks(self, calls: int) -> None:
        for begin in range(0, calls, 50):
            tasks = [asyncio.create_task(self.in_task(n)) for n in range(begin, begin + 50)]
            await asyncio.sleep(0.01)
            for number, task in enumerate(tasks, begin):
                if number % 3 == 0 and number % 4 == 0 and not task.done():
                    task.cancel()
            await asyncio.gather(*tasks)


def figures(seen: Scrape) -> dict[str, Any]:
    calls: collections.Counter[Any] = collections.Counter()
    for (function, outcome), number in seen.rows("calls_total", "function", "outcome").items():
        calls[function.rpartition(".")[2], outcome] += int(number)
    return {"attempts": seen.rows("attempts_total", "target", "outcome"), "calls": dict(calls)}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_figures_agree_to_the_last_call(seed: int) -> None:
    """Threads, tasks, streams, loops, chains, pinned calls and cancellations: every account is the same."""
    configure(breakers={"*": NEVER_OPENS}, retry_budget=1.0)
    account, received, registry = Account(seed), Events(), CollectorRegistry()
    observe(received)
    uninstall = prometheus.install(registry)
    work = Work(account)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [
            threading.Thread(target=lambda n=n: [work.in_thread(i) for i in range(n, 600, 3)])
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        asyncio.run(work.tasks(300))
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    gc.collect()
    seen = scrape(registry)
    totals = health()
    uninstall()
    found = figures(seen)

    assert dict(account.attempts) == found["attempts"]
    assert found["attempts"] == dict(received.attempts)
    assert dict(account.calls) == found["calls"]
    assert received.others["failed",] == sum(
        n for (_, outcome), n in found["calls"].items() if outcome == "failed"
    )
    for key in CHAIN:
        assert account.attempts[key, "ok"] == seen.get("attempt_seconds_count", target=key)
        assert received.others["first", key] == (
            seen.get("first_content_seconds_count", target=key) or 0
        )
        assert 0 == seen.get("in_flight", target=key)
    for (target, source), number in seen.rows("retries_total", "target", "source").items():
        assert received.others["retries", target, source] == number
    moved: collections.Counter[Any] = collections.Counter()
    for (old, new, _), number in seen.rows(
        "failovers_total", "from_target", "to_target", "reason"
    ).items():
        moved[old, new] += int(number)
    assert moved == {key[1:]: n for key, n in received.others.items() if key[0] == "failovers"}
    for provider in ("one", "two"):
        harmed = sum(
            n
            for (target, outcome), n in account.attempts.items()
            if target.startswith(f"{provider}/") and outcome in HARMS
        )
        assert harmed == totals[provider].total


def test_skips_agree_with_the_events() -> None:
    """Every skip that an observer hears of is counted, and no other."""
    received, registry = Events(), CollectorRegistry()
    observe(received)
    uninstall = prometheus.install(registry)

    @failover(chain=CHAIN, attempts=1)
    def ask(target: Target) -> str:
        if target.key == "one/b":
            raise ProviderError(503)
        return target.key

    bench_model("one/a", 600)
    for _ in range(20):
        ask()
    with breaker("two/c"):
        pass
    seen = scrape(registry)
    uninstall()
    skips: collections.Counter[Any] = collections.Counter()
    for (target, _), number in seen.rows("skips_total", "target", "reason").items():
        skips[target] += int(number)

    assert skips == {key[1]: n for key, n in received.others.items() if key[0] == "skips"}
    assert 20 == skips["one/a"]
