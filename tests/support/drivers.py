"""The ways to run one call of a chain, and errors as a provider's client would raise them.

A driver runs a provider (a plain function that is given the target) through a policy, and its
result or error leaves as the user of that way of writing would see it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient_llm import Attempt, Failover, Target

GROQ = "groq/llama-3.3-70b-versatile"
OPENAI = "openai/gpt-5-mini"
MISTRAL = "mistral/large"

Provider = Callable[[Target], Any]


class HttpError(Exception):
    """An HTTP answer that is an error, as a client's own exception shows it."""

    def __init__(
        self, status: int, message: str = "no", *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status_code = status
        self.response = SimpleNamespace(status_code=status, headers=headers or {})


class CodedError(HttpError):
    """An HTTP answer with a machine-readable code in its body, as OpenAI-like clients show it."""

    def __init__(
        self, status: int, code: str, message: str = "no", *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers=headers)
        self.code = code
        self.body = {"error": {"code": code, "message": message}}


class StrangeError(Exception):
    """An error that nobody knows."""


def rate_limited(wait: object = None) -> HttpError:
    """Return a 429, with a wait if one is named."""
    return HttpError(429, "slow down", headers={} if wait is None else {"retry-after": str(wait)})


def too_long() -> CodedError:
    """Return the answer to a request that does not fit the model's context window."""
    return CodedError(
        400, "context_length_exceeded", "This model's maximum context length is 8192 tokens."
    )


def refused_content() -> CodedError:
    """Return a safety refusal."""
    return CodedError(
        400, "content_policy_violation", "Your request was rejected by our safety system."
    )


class Script:
    """A provider with a script per target: each call takes the next line, the last one is repeated.

    A line is a value to return, or a function without arguments that returns the error to raise.

    Attributes:
        calls: Specs of the targets in the order they were called.
    """

    def __init__(self, lines: dict[str, list[Any]]) -> None:
        self.calls: list[str] = []
        self._lines = {spec: list(outcomes) for spec, outcomes in lines.items()}

    def __call__(self, target: Target) -> Any:
        self.calls.append(target.spec)
        outcomes = self._lines[target.spec]
        outcome = outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]
        if callable(outcome):
            raise outcome()
        return outcome


@dataclass(frozen=True)
class Driver:
    """One way to write a call; ``run`` makes one, from sync code."""

    name: str
    run: Callable[[Failover, Provider], Any]
    backend: str | None = None


def over(drivers: list[Driver]) -> pytest.MarkDecorator:
    """Parametrise a test over drivers, as its argument ``driver``."""
    return pytest.mark.parametrize("driver", drivers, ids=lambda driver: driver.name)


def on(backend: str, function: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine function to its end on a loop of its own."""
    if backend == "asyncio":
        return asyncio.run(function())  # type: ignore[arg-type]
    return anyio.run(function, backend=backend)


def _decorated(policy: Failover, provider: Provider) -> Any:
    @policy
    def ask(target: Target) -> Any:
        return provider(target)

    return ask()


def _method(policy: Failover, provider: Provider) -> Any:
    class Client:
        @policy
        def ask(self, target: Target) -> Any:
            return provider(target)

    return Client().ask()


def _by_name(policy: Failover, provider: Provider) -> Any:
    @policy
    def ask(*, target: Target | None = None) -> Any:
        assert target is not None
        return provider(target)

    return ask()


def _with_attempt(policy: Failover, provider: Provider) -> Any:
    @policy
    def ask(target: Target, *, attempt: Attempt) -> Any:
        assert attempt.target == target
        return provider(target)

    return ask()


def _policy_call(policy: Failover, provider: Provider) -> Any:
    def ask(target: Target) -> Any:
        return provider(target)

    return policy.call(ask)


def _loop(policy: Failover, provider: Provider) -> Any:
    # A `return` inside the block could not be taken back when `reject` refuses the result.
    for attempt in policy:
        with attempt as target:
            attempt.result = result = provider(target)
    return result


async def _decorated_async(policy: Failover, provider: Provider) -> Any:
    @policy
    async def ask(target: Target) -> Any:
        await anyio.lowlevel.checkpoint()
        return provider(target)

    return await ask()


async def _plain_with_awaitable(policy: Failover, provider: Provider) -> Any:
    async def answer(target: Target) -> Any:
        return provider(target)

    @policy
    def ask(target: Target) -> Awaitable[Any]:
        return answer(target)

    return await ask()


async def _policy_call_async(policy: Failover, provider: Provider) -> Any:
    async def ask(target: Target) -> Any:
        return provider(target)

    return await policy.call(ask)


async def _loop_async(policy: Failover, provider: Provider) -> Any:
    async for attempt in policy:
        async with attempt as target:
            attempt.result = result = provider(target)
    return result


def _on_both_loops(name: str, call: Callable[..., Awaitable[Any]]) -> Iterator[Driver]:
    for backend in ("asyncio", "trio"):

        def run(policy: Failover, provider: Provider, backend: str = backend) -> Any:
            async def main() -> Any:
                return await call(policy, provider)

            return on(backend, main)

        yield Driver(f"{name}-{backend}", run, backend)


SYNC_DRIVERS = [
    Driver("decorator", _decorated),
    Driver("method", _method),
    Driver("by-name", _by_name),
    Driver("attempt", _with_attempt),
    Driver("policy-call", _policy_call),
    Driver("loop", _loop),
]
ASYNC_DRIVERS = [
    *_on_both_loops("async-decorator", _decorated_async),
    *_on_both_loops("async-plain", _plain_with_awaitable),
    *_on_both_loops("async-policy-call", _policy_call_async),
    *_on_both_loops("async-loop", _loop_async),
]
DRIVERS = SYNC_DRIVERS + ASYNC_DRIVERS
"""Every way to write a call."""

on_both_loops = pytest.mark.parametrize("backend", ["asyncio", "trio"])
