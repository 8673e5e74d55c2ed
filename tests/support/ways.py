"""The ways to write a call, as tables that tests are parametrised over, and what providers raise.

A `Driver` runs a provider (a plain function that is given the target) through a policy; its
result or error leaves as the user of that way of writing would see it. A `Shape` runs a provider
(a function without arguments) under the guard of one key: ``BREAKER_SHAPES`` hold the circuit
alone, ``CHAIN_SHAPES`` a chain of that one target. The chains of shapes are not drivers with one
target: their coroutines and their loops are written in the other ways there are. The ways to
write a function that streams are in ``stream_forms``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient_llm import (
    Attempt,
    BreakerOpenError,
    CallRejectedError,
    ChainExhaustedError,
    Failover,
    Target,
    breaker,
    failover,
)

GROQ = "groq/llama"
OPENAI = "openai/gpt"
MISTRAL = "mistral/large"


def elsewhere(guard: Any) -> AbstractContextManager[None]:
    """Return a manager that enters a guard in a context of its own.

    What it holds is then held by another call, as calls in this context see it.
    """

    @contextmanager
    def entered() -> Generator[None]:
        Context().run(guard.__enter__)
        try:
            yield
        finally:
            Context().run(guard.__exit__, None, None, None)

    return entered()


# --- what providers raise ---------------------------------------------------------------------


class ProviderError(Exception):
    """What an SDK raises for an HTTP answer that is an error.

    Args:
        status: Status of the answer.
        message: Text of the error.
        retry_after: The header of that name.
        code: Machine-readable code in the body, as OpenAI-like clients show it.
        headers: Other headers.
    """

    def __init__(
        self,
        status: int,
        message: str = "the provider said no",
        *,
        retry_after: object = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        waits = {} if retry_after is None else {"retry-after": str(retry_after)}
        self.status_code = status
        self.response = SimpleNamespace(status_code=status, headers={**(headers or {}), **waits})
        if code is not None:
            self.code = code
            self.body = {"error": {"code": code, "message": message}}


class StrangeError(Exception):
    """An error that nobody knows."""


def down() -> ProviderError:
    """A failure of one target."""
    return ProviderError(503)


def unreachable() -> ConnectionRefusedError:
    """A failure of a whole provider."""
    return ConnectionRefusedError(111, "Connection refused")


def rate_limited(wait: object = None) -> ProviderError:
    """Return a 429, with a wait if one is named."""
    return ProviderError(429, "slow down", retry_after=wait)


def too_long() -> ProviderError:
    """Return the answer to a request that does not fit the model's context window."""
    return ProviderError(
        400,
        "This model's maximum context length is 8192 tokens.",
        code="context_length_exceeded",
    )


def refused_content() -> ProviderError:
    """Return a safety refusal."""
    return ProviderError(
        400,
        "Your request was rejected by our safety system.",
        code="content_policy_violation",
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


def play(outcome: object) -> object:
    """Return a scripted outcome, or raise it if it is an error."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def is_refusal(error: BaseException) -> bool:
    """Whether an error says that nothing was sent."""
    if isinstance(error, ChainExhaustedError):
        return all(isinstance(member, CallRejectedError) for member in error.exceptions)
    return isinstance(error, BreakerOpenError)


# --- running ----------------------------------------------------------------------------------

on_both_loops = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def run_async(
    function: Callable[..., Awaitable[Any]], *args: object, backend: str = "asyncio"
) -> Any:
    """Run a coroutine function to its end on a loop of its own."""
    if backend == "asyncio":
        return asyncio.run(function(*args))  # type: ignore[arg-type]  # a coroutine, as it happens
    return anyio.run(function, *args, backend=backend)


def over(ways: Sequence[Any]) -> pytest.MarkDecorator:
    """Parametrise a test over drivers, shapes or forms, as its argument of that name."""
    argument = type(ways[0]).__name__.lower()
    return pytest.mark.parametrize(argument, ways, ids=lambda way: way.name)


# --- drivers ----------------------------------------------------------------------------------

Provider = Callable[[Target], Any]


@dataclass(frozen=True)
class Driver:
    """One way to write a call; ``run`` makes one, from sync code."""

    name: str
    run: Callable[[Failover, Provider], Any]
    backend: str | None = None


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

            return run_async(main, backend=backend)

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


# --- shapes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """One way to write a guarded call; ``backend`` is None in sync code."""

    name: str
    call: Callable[..., Any]
    backend: str | None = None

    def run(self, key: str, provider: Callable[[], Any], **options: object) -> Any:
        """Call the provider once under the guard, from sync code; its result or error leaves."""
        if self.backend is None:
            return self.call(key, provider, **options)

        async def aprovider() -> Any:
            return provider()

        async def main() -> Any:
            return await self.call(key, aprovider, **options)

        return run_async(main, backend=self.backend)

    def outcome(self, key: str, outcome: object, **options: object) -> str:
        """Run one scripted outcome and say what became of it: served, failed or refused."""
        try:
            result = self.run(key, lambda: play(outcome), **options)
        except BaseException as error:
            if error is outcome:
                return "failed"
            if is_refusal(error):
                return "refused"
            raise
        assert outcome == result
        return "served"


def _guarded_block(key: str, provider: Callable[[], Any], **options: Any) -> Any:
    with breaker(key, **options):
        return provider()


def _guarded(key: str, provider: Callable[[], Any], **options: Any) -> Any:
    @breaker(key, **options)
    def ask() -> Any:
        return provider()

    return ask()


def _guarded_generator(key: str, provider: Callable[[], Any], **options: Any) -> Any:
    @breaker(key, **options)
    def stream() -> Iterator[Any]:
        yield provider()

    (item,) = list(stream())
    return item


async def _async_guarded_block(
    key: str, provider: Callable[[], Awaitable[Any]], **options: Any
) -> Any:
    async with breaker(key, **options):
        return await provider()


async def _async_guarded(key: str, provider: Callable[[], Awaitable[Any]], **options: Any) -> Any:
    @breaker(key, **options)
    async def ask() -> Any:
        return await provider()

    return await ask()


async def _async_guarded_generator(
    key: str, provider: Callable[[], Awaitable[Any]], **options: Any
) -> Any:
    @breaker(key, **options)
    async def stream() -> Any:
        yield await provider()

    (item,) = [item async for item in stream()]
    return item


def chain_of(key: str, **options: Any) -> Any:
    """A chain of one target that makes one attempt and lets the target's own error leave."""
    if options:
        breaker(key, **options)
    return failover(chain=[key], attempts=1, reraise=True, when_all_benched="raise")


def _chain_decorated(key: str, provider: Callable[[], Any], **options: Any) -> Any:
    @chain_of(key, **options)
    def ask(target: Target) -> Any:
        return provider()

    return ask()


def _chain_call(key: str, provider: Callable[[], Any], **options: Any) -> Any:
    def ask(target: Target) -> Any:
        return provider()

    return chain_of(key, **options).call(ask)


def _chain_loop(key: str, provider: Callable[[], Any], **options: Any) -> Any:
    for attempt in chain_of(key, **options):
        with attempt:
            return provider()
    raise AssertionError("the loop ended without a result and without an error")


async def _async_chain_decorated(
    key: str, provider: Callable[[], Awaitable[Any]], **options: Any
) -> Any:
    @chain_of(key, **options)
    async def ask(target: Target) -> Any:
        return await provider()

    return await ask()


async def _async_chain_call(
    key: str, provider: Callable[[], Awaitable[Any]], **options: Any
) -> Any:
    async def ask(target: Target) -> Any:
        return await provider()

    return await chain_of(key, **options).call(ask)


async def _async_chain_loop(
    key: str, provider: Callable[[], Awaitable[Any]], **options: Any
) -> Any:
    async for attempt in chain_of(key, **options):
        async with attempt:
            return await provider()
    raise AssertionError("the loop ended without a result and without an error")


def _shapes_on_both_loops(name: str, call: Callable[..., Any]) -> list[Shape]:
    return [Shape(f"{name}-{backend}", call, backend) for backend in ("asyncio", "trio")]


WITH = Shape("with", _guarded_block)
DECORATOR = Shape("decorator", _guarded)
GENERATOR = Shape("generator", _guarded_generator)
FAILOVER = Shape("failover", _chain_decorated)
LOOP = Shape("loop", _chain_loop)

BREAKER_SHAPES = [
    WITH,
    DECORATOR,
    GENERATOR,
    *_shapes_on_both_loops("async-with", _async_guarded_block),
    *_shapes_on_both_loops("async-decorator", _async_guarded),
    *_shapes_on_both_loops("async-generator", _async_guarded_generator),
]
CHAIN_SHAPES = [
    FAILOVER,
    LOOP,
    Shape("policy-call", _chain_call),
    *_shapes_on_both_loops("async-failover", _async_chain_decorated),
    *_shapes_on_both_loops("async-loop", _async_chain_loop),
    *_shapes_on_both_loops("async-policy-call", _async_chain_call),
]
SHAPES = BREAKER_SHAPES + CHAIN_SHAPES
SYNC_SHAPES = [shape for shape in SHAPES if shape.backend is None]
ASYNC_SHAPES = [shape for shape in SHAPES if shape.backend is not None]
