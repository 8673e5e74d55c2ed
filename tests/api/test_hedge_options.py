"""Where ``hedge`` is taken and where it is refused, and what a percentile stands for."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from resilient_llm import ConfigurationError, Target, configure, failover
from resilient_llm._core.call.trying import delay_of
from resilient_llm._core.figures import PolicyFigures
from tests.support.hedges import Stage, played, settle, slow
from tests.support.ways import GROQ, MISTRAL, OPENAI, on_both_loops, run_async

CHAIN = [GROQ, OPENAI]


PROVIDERS: ContextVar[Stage] = ContextVar("PROVIDERS")
"""What the functions below ask."""


async def coroutine_function(target: Target) -> str:
    return await PROVIDERS.get().provide(target)


async def stream_function(target: Target) -> AsyncIterator[str]:
    yield await PROVIDERS.get().provide(target)


@functools.wraps(coroutine_function)
def wrapping(*args: Any, **kwargs: Any) -> Any:
    return coroutine_function(*args, **kwargs)


def gives_awaitable(target: Target) -> Awaitable[str]:
    return coroutine_function(target)


def gives_coroutine(target: Target) -> Coroutine[Any, Any, str]:
    return coroutine_function(target)


def named_awaitable(target: Target) -> asyncio.Future[str]:
    return asyncio.ensure_future(coroutine_function(target))


class Callables:
    """Objects and methods."""

    async def __call__(self, target: Target) -> str:
        return await coroutine_function(target)

    async def method(self, target: Target) -> str:
        return await coroutine_function(target)


ASYNCHRONOUS: dict[str, Callable[..., Any]] = {
    "coroutine function": coroutine_function,
    "async generator function": stream_function,
    "below __wrapped__": wrapping,
    "partial": functools.partial(coroutine_function),
    "partial of a wrapper": functools.partial(wrapping),
    "Awaitable": gives_awaitable,
    "Coroutine": gives_coroutine,
    "a text that names a Future": named_awaitable,
    "callable object": Callables(),
    "bound method": Callables().method,
}


def synchronous(target: Target) -> str:
    return target.key


def generator(target: Target) -> Iterator[str]:
    yield target.key


def bare(target: Target):  # type: ignore[no-untyped-def]  # that is the point of it
    return coroutine_function(target)


def gives_async_items(target: Target) -> AsyncIterator[str]:
    return stream_function(target)


SYNCHRONOUS: dict[str, Callable[..., Any]] = {
    "function": synchronous,
    "generator function": generator,
    "an awaitable that no annotation names": bare,
    "asynchronous items": gives_async_items,
    "partial": functools.partial(synchronous),
}


@pytest.mark.parametrize("fn", ASYNCHRONOUS.values(), ids=ASYNCHRONOUS)
def test_asynchronous_functions_take_a_hedge(fn: Any, clock: Any) -> None:
    """Also below decorators and partials, or by their annotation: the slow attempt is cancelled."""
    guarded = failover(chain=CHAIN, hedge=2.0)(fn)
    stage = Stage()

    async def call() -> list[str]:
        answer = guarded()
        return [item async for item in answer] if fn is stream_function else [await answer]

    async def main() -> list[str]:
        PROVIDERS.set(stage)
        async with played(call) as play:
            await stage.begins(GROQ)
            slow(clock)
            await stage.begins(OPENAI)
            stage.says(OPENAI, "from the hedge")
            return await play.ends()

    assert ["from the hedge"] == run_async(main)
    assert [GROQ, OPENAI] == stage.asked
    assert [GROQ] == stage.cancelled


@pytest.mark.parametrize("fn", SYNCHRONOUS.values(), ids=SYNCHRONOUS)
def test_a_synchronous_function_with_a_hedge_is_refused(fn: Any) -> None:
    """When it is decorated, copied or called; the message says why."""
    why = "a thread cannot be stopped|in a thread cannot be stopped"
    with pytest.raises(ConfigurationError, match=why):
        failover(chain=CHAIN, hedge=2.0)(fn)
    with pytest.raises(ConfigurationError, match=why):
        failover(chain=CHAIN)(fn).using(hedge="p95")
    with pytest.raises(ConfigurationError, match=why):
        failover(chain=CHAIN, hedge=2.0).call(fn)


def test_a_target_with_a_synchronous_call_is_refused() -> None:
    """Since an attempt on it could not be stopped either."""
    chain = [Target(GROQ, call=lambda: "yes"), Target(OPENAI, call=coroutine_function)]

    async def ask(target: Target) -> str:
        return target.key

    with pytest.raises(ConfigurationError, match="each call="):
        failover(chain=chain, hedge=2.0)(ask)


def test_a_loop_with_a_hedge_is_refused() -> None:
    """Both loops, when they begin: their block cannot run beside itself."""
    policy = failover(chain=CHAIN, hedge=2.0)

    with pytest.raises(ConfigurationError, match="cannot be stopped"):
        iter(policy)
    with pytest.raises(ConfigurationError, match="cannot be stopped"):
        aiter(policy)


def test_a_default_hedge_leaves_alone_what_could_not_name_one() -> None:
    """Synchronous functions, and loops."""
    configure(hedge=0.001)

    assert GROQ == failover(chain=CHAIN)(synchronous)()
    assert [GROQ] == list(failover(chain=CHAIN)(generator)())
    for attempt in failover(chain=CHAIN):
        with attempt as target:
            assert GROQ == target.key


@on_both_loops
@pytest.mark.parametrize("fn", [wrapping, gives_awaitable], ids=["wrapped", "awaitable"])
def test_a_plain_function_that_gives_an_awaitable_is_hedged(
    backend: str, fn: Any, clock: Any
) -> None:
    """Its delay counts from when the awaitable is awaited."""
    stage = Stage()

    async def provide(target: Target) -> Any:
        return await stage.provide(target)

    @functools.wraps(fn)
    def ask(target: Target) -> Any:
        return provide(target)

    guarded = failover(chain=CHAIN, hedge=2.0)(ask)

    async def main() -> Any:
        for _ in range(2):  # the first call is made by the call flow
            pending = guarded()
            clock.advance(30.0)
            async with played(lambda: pending) as play:  # noqa: B023  # it is called at once
                await stage.begins(GROQ)
                await settle()
                assert stage.asked[-1] == GROQ
                clock.advance(2.0)
                await stage.begins(OPENAI)
                stage.says(OPENAI, "hedged")
                assert "hedged" == await play.ends()

    run_async(main, backend=backend)


# Percentiles.


def _figures(*seconds: float, at: float = 0.0) -> PolicyFigures:
    figures = PolicyFigures([GROQ])
    for each in seconds:
        figures.answered(GROQ, at, each)
    return figures


@pytest.mark.parametrize(
    ("hedge", "expected"), [("p50", 10.0), ("p55", 11.0), ("p95", 19.0), ("p99", 20.0)]
)
def test_a_percentile_is_the_nearest_rank(hedge: str, expected: float) -> None:
    """Of 20 samples, the 95th is the 19th smallest."""
    figures = _figures(*[float(each) for each in range(20, 0, -1)])

    assert expected == delay_of(hedge, figures, GROQ, 100.0)


def test_a_percentile_has_no_rounding_error() -> None:
    """The 56th of 25 samples is the 14th, although ``0.56 * 25`` is above 14."""
    figures = _figures(*[float(each) for each in range(1, 26)])

    assert 14.0 == delay_of("p56", figures, GROQ, 0.0)


def test_a_percentile_needs_twenty_samples_of_the_last_five_minutes() -> None:
    """Below that nothing is hedged."""
    assert delay_of("p50", _figures(*[1.0] * 19), GROQ, 0.0) is None
    assert 1.0 == delay_of("p50", _figures(*[1.0] * 20), GROQ, 299.9)
    assert delay_of("p50", _figures(*[1.0] * 20), GROQ, 300.0) is None


@on_both_loops
def test_the_delay_is_the_percentile_of_the_target_that_runs(backend: str, clock: Any) -> None:
    """And the losers of races are samples, too, or the percentile would sink."""
    stage = Stage()

    @failover(chain=[GROQ, OPENAI, MISTRAL], hedge="p50")
    async def ask(target: Target) -> Any:
        return await stage.provide(target)

    async def take(seconds: float) -> None:
        async with played(ask):
            await stage.begins(GROQ)
            clock.advance(seconds)
            await settle()
            stage.says(GROQ, "answer")

    async def lose() -> None:
        async with played(ask):
            await stage.begins(GROQ)
            clock.advance(1.0)
            await stage.begins(OPENAI)
            clock.advance(4.0)
            stage.says(OPENAI, "answer")

    async def main() -> None:
        for _ in range(20):
            await take(1.0)
        assert OPENAI not in stage.asked
        for _ in range(20):
            clock.advance(1.0)
            await lose()
        assert 20 == stage.asked.count(OPENAI)

    configure(retry_budget=None)
    run_async(main, backend=backend)
    deps_of = ask.policy._policy  # the samples of the policy
    from resilient_llm._runtime.runtime import runtime

    figures, now = runtime.figures_of(deps_of), clock.monotonic()
    samples = [
        figures.percentile(GROQ, share, now, span=300.0, least=40) for share in (0.01, 0.5, 0.51, 1)
    ]
    assert [1.0, 1.0, 5.0, 5.0] == samples
