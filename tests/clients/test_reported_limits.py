"""What providers report of their limits, read from real clients against a loopback server.

Each dialect by each way in which headers come: errors, answers with their response, streams, and
clients that are listened to. And a provider that limits, which is asked by many, with nothing but
its headers to go by.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import groq
import openai
import pytest

from resilient_llm import ChainExhaustedError, Target, can_call, failover, list_benched, rate_limits
from resilient_llm.limits import listen
from resilient_llm.testing import FakeClock
from tests.clients.test_listening import CHUNK, COMPLETION, EVENT, MESSAGE
from tests.core.test_rate_headers import ANSWERS
from tests.support.server import LoopbackServer, Request

MESSAGES: Any = [{"role": "user", "content": "Will it rain?"}]


class Provider(LoopbackServer):
    """A provider that answers with such headers.

    Args:
        report: Returns the status and the headers of the next answer.
    """

    def __init__(self, report: Callable[[], tuple[int, dict[str, str]]]) -> None:
        super().__init__()
        self.report = report
        self.statuses: list[int] = []

    def answer(self, connection: socket.socket, request: Request) -> None:
        status, headers = self.report()
        self.statuses.append(status)
        is_message = "messages" in request.path
        kind = "application/json"
        if status != 200:
            body = json.dumps({"error": {"message": "no", "type": "error"}})
        elif request.body.get("stream"):
            kind = "text/event-stream"
            body = f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n"
            if is_message:
                body = f"event: {EVENT['type']}\ndata: {json.dumps(EVENT)}\n\n"
        else:
            body = json.dumps(MESSAGE if is_message else COMPLETION)
        head = [
            f"HTTP/1.1 {status} Answer",
            *(f"{name}: {value}" for name, value in headers.items()),
            f"content-type: {kind}",
            f"content-length: {len(body)}",
        ]
        connection.sendall("\r\n".join([*head, "", body]).encode())


def made(package: str, server: LoopbackServer, *, is_async: bool = False) -> Any:
    """Return a client of a package, which does not retry by itself."""
    module: Any = {"openai": openai, "anthropic": anthropic, "groq": groq}[package]
    kind = {"openai": "OpenAI", "anthropic": "Anthropic", "groq": "Groq"}[package]
    prefix = "Async" if is_async else ""
    return getattr(module, prefix + kind)(
        base_url=f"http://127.0.0.1:{server.port}",
        api_key="not-a-key",
        max_retries=0,
        http_client=getattr(module, f"Default{prefix}HttpxClient")(trust_env=False),
    )


def create(client: Any, *, raw: bool = False, **options: Any) -> Any:
    """Send a request; return what the client returns for it, perhaps an awaitable."""
    if type(client).__module__.startswith("anthropic"):
        resource, options = client.messages, {"max_tokens": 9, **options}
    else:
        resource = client.chat.completions
    if raw:
        resource = resource.with_raw_response
    return resource.create(model="m", messages=MESSAGES, **options)


def expected(name: str) -> tuple[int | None, int | None]:
    """Return what is left of requests and tokens by an answer of the table; none if no figure."""
    figures = ANSWERS[name][3].values()
    left = {
        kind: [each[1] for each in figures if (each[0] == "requests") is (kind == "requests")]
        for kind in ("requests", "tokens")
    }
    return (min(left["requests"], default=None), min(left["tokens"], default=None))


DATED = ("anthropic", "openrouter")
DIALECTS = [name for name in ANSWERS if ANSWERS[name][3] and name not in DATED]


@pytest.mark.parametrize("way", ["error", "answer", "stream", "listened", "listened, async"])
@pytest.mark.parametrize("package", ["openai", "anthropic"])
def test_each_dialect_in_each_way(package: str, way: str, clock: FakeClock) -> None:
    """Both SDKs, and every answer of the table but those with a date in it, which is past."""
    targets = [
        Target(f"{ANSWERS[name][0]}/m", account=f"a{number}")
        for number, name in enumerate(DIALECTS)
    ]
    headers = [ANSWERS[name][2] for name in DIALECTS]
    with Provider(lambda: (503 if way == "error" else 200, headers.pop(0))) as server:
        (_ask_async if way == "listened, async" else _ask)(package, server, targets, way)

    states = rate_limits()
    left = {
        name: next(
            (states[each].requests_remaining, states[each].tokens_remaining)
            for each in (target.key, target.provider_key)
            if each in states
        )
        for name, target in zip(DIALECTS, targets, strict=True)
    }
    assert {name: expected(name) for name in DIALECTS} == left


def _ask(package: str, server: Provider, targets: list[Target], way: str) -> None:
    with made(package, server) as client:
        if way == "listened":
            listen(client)

        @failover(chain=targets, attempts=1)
        def ask(*, target: Target | None = None) -> Any:
            return create(client, raw=way == "answer", stream=way == "stream")

        for target in targets:
            if way == "error":
                with pytest.raises(ChainExhaustedError):
                    ask(target=target)
            else:
                answer = ask(target=target)
            if way == "stream":
                next(answer)
                answer.close()


def _ask_async(package: str, server: Provider, targets: list[Target], way: str) -> None:
    async def main() -> None:
        async with made(package, server, is_async=True) as client:
            listen(client)
            for target in targets:

                @failover(chain=[target], attempts=1)
                async def ask(target: Target) -> Any:
                    return await create(client)

                await ask()

    asyncio.run(main())


@pytest.mark.parametrize("package", ["openai", "anthropic"])
def test_anthropics_dates(package: str, clock: FakeClock) -> None:
    """RFC 3339, by the wall clock; a figure of 0 pauses until there is 1 again."""
    from datetime import timedelta

    from resilient_llm._runtime.runtime import runtime

    reset = runtime.steady_moment(clock.monotonic()) + timedelta(seconds=60)
    headers = {
        "anthropic-ratelimit-requests-limit": "60",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": reset.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "anthropic-ratelimit-input-tokens-limit": "80000",
        "anthropic-ratelimit-input-tokens-remaining": "79000",
        "anthropic-ratelimit-input-tokens-reset": reset.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    with Provider(lambda: (200, headers)) as server:
        _ask(package, server, [Target("anthropic/m")], "answer")

    (bench,) = list_benched()
    assert ("anthropic/m", "headers") == (bench.model, bench.reason)
    assert bench.remaining is not None
    assert 0 < bench.remaining <= 1.0
    state = rate_limits()["anthropic/m"]
    assert (0, 79_000) == (state.requests_remaining, state.tokens_remaining)


class Limiting:
    """What a provider that limits answers: a window of so many requests, or a bucket that fills.

    Attributes:
        refused: How many requests it has refused in each window since the first answer.
    """

    def __init__(self, clock: FakeClock, *, size: int, span: float, refills: bool) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.size, self.span, self.refills = size, span, refills
        self.level, self.at = float(size), clock.monotonic()
        self.began_at = self.at
        self.refused: dict[int, int] = {}
        self.served = 0

    def __call__(self) -> tuple[int, dict[str, str]]:
        with self._lock:
            now = self._clock.monotonic()
            if self.refills:
                grown = self.level + (now - self.at) * self.size / self.span
                self.level, self.at = min(float(self.size), grown), now
            elif now >= self.at + self.span:
                self.level, self.at = float(self.size), now - (now - self.at) % self.span
            status = 200
            if self.level >= 1:
                self.level -= 1
                self.served += 1
            else:
                status = 429
                window = int((now - self.began_at) // self.span)
                self.refused[window] = self.refused.get(window, 0) + 1
            left = str(int(self.level))
            if self.refills:
                full = (self.size - self.level) * self.span / self.size
                return status, {
                    "x-ratelimit-limit-requests": str(self.size),
                    "x-ratelimit-remaining-requests": left,
                    "x-ratelimit-reset-requests": f"{full * 1000:.0f}ms",
                }
            return status, {
                "x-ratelimit-limit": str(self.size),
                "x-ratelimit-remaining": left,
                "x-ratelimit-reset": f"{self.at + self.span - now:.3f}",
            }


@pytest.mark.parametrize("package", ["openai", "anthropic"])
@pytest.mark.parametrize("kind", ["refill", "window"])
def test_one_caller_meets_no_refusal(package: str, kind: str, clock: FakeClock) -> None:
    """With nothing but headers to go by, it uses what there is, and goes elsewhere meanwhile."""
    limiting = Limiting(clock, size=6, span=30.0, refills=kind == "refill")
    provider = {"refill": "openai", "window": "together"}[kind]
    with Provider(limiting) as server, made(package, server) as client:
        listen(client)

        @failover(chain=[f"{provider}/m", "own/fallback"], attempts=1)
        def ask(target: Target) -> Any:
            return target.key if target.provider == "own" else create(client)

        asked = [ask() for _ in range(100) if clock.advance(1.0) is None]

    elsewhere = sum(answer == "own/fallback" for answer in asked)
    assert {} == limiting.refused
    assert 100 == limiting.served + elsewhere
    assert limiting.served >= 18


@pytest.mark.parametrize("kind", ["refill", "window"])
def test_several_clients_meet_one_refusal_a_window_at_most(kind: str, clock: FakeClock) -> None:
    """Each is listened to, and they ask in turn, in threads of their own."""
    limiting = Limiting(clock, size=20, span=30.0, refills=kind == "refill")
    target = {"refill": "openai/m", "window": "together/m"}[kind]
    with Provider(limiting) as server, ThreadPoolExecutor(3) as pool:
        clients = [listen(made("openai", server)) for _ in range(3)]

        @failover(chain=[target, "own/fallback"], attempts=1)
        def ask(target: Target, client: Any) -> Any:
            return target.key if target.provider == "own" else create(client)

        for number in range(150):
            pool.submit(ask, clients[number % 3]).result()
            clock.advance(0.4)
        for client in clients:
            client.close()

    assert max(limiting.refused.values(), default=0) <= 1
    assert limiting.served >= 40


def test_a_burst_meets_one_refusal_a_window_at_most(clock: FakeClock) -> None:
    """All at once on asyncio, in each window: what runs counts, also before its first answer."""
    limiting = Limiting(clock, size=20, span=30.0, refills=False)

    async def main(server: Provider) -> None:
        async with made("openai", server, is_async=True) as client:
            listen(client)

            @failover(chain=["together/m", "own/fallback"], attempts=1)
            async def ask(target: Target) -> Any:
                return target.key if target.provider == "own" else await create(client)

            await ask()
            for _ in range(3):
                await asyncio.gather(*(ask() for _ in range(40)))
                clock.advance(30.0)

    with Provider(limiting) as server:
        asyncio.run(main(server))

    assert max(limiting.refused.values(), default=0) <= 1
    assert 60 == limiting.served


@pytest.mark.parametrize("way", ["threads", "tasks"])
@pytest.mark.parametrize("kind", ["refill", "window"])
@pytest.mark.parametrize("package", ["openai", "groq", "anthropic"])
def test_many_at_once_meet_one_refusal_a_window_at_most(
    package: str, kind: str, way: str, clock: FakeClock
) -> None:
    """Answers come in any order, and each caller asks again and again."""
    limiting = Limiting(clock, size=12, span=30.0, refills=kind == "refill")
    chain = [{"refill": "openai/m", "window": "together/m"}[kind], "own/fallback"]

    def in_threads(server: Provider) -> None:
        client = listen(made(package, server))

        @failover(chain=chain, attempts=1)
        def ask(target: Target) -> Any:
            return target.key if target.provider == "own" else create(client)

        ask()
        with client, ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                for asked in [pool.submit(ask) for _ in range(24)]:
                    asked.result()
                clock.advance(10.0)

    async def in_tasks(server: Provider) -> None:
        client = listen(made(package, server, is_async=True))

        @failover(chain=chain, attempts=1)
        async def ask(target: Target) -> Any:
            return target.key if target.provider == "own" else await create(client)

        async with client:
            await ask()
            for _ in range(3):
                await asyncio.gather(*(ask() for _ in range(24)))
                clock.advance(10.0)

    with Provider(limiting) as server:
        if way == "threads":
            in_threads(server)
        else:
            asyncio.run(in_tasks(server))

    assert max(limiting.refused.values(), default=0) <= 1
    assert limiting.served >= 12


def test_asking_first_knows_what_a_client_has_heard(clock: FakeClock) -> None:
    """`can_call` says what the headers of a listened client say."""
    limiting = Limiting(clock, size=1, span=30.0, refills=False)
    with Provider(limiting) as server, made("openai", server) as client:
        listen(client, key="together/m")
        create(client)

    asked = can_call("together/m")
    assert (False, {"together/m": "headers"}, pytest.approx(30.0, abs=0.01)) == (
        asked.allowed,
        asked.reasons,
        asked.retry_after,
    )
