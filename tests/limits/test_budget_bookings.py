"""What each end of an attempt books, in every way to write a call."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import anyio
import pytest

from resilient_llm import (
    AttemptSucceeded,
    Budget,
    Price,
    SpendRecorded,
    Target,
    Trace,
    Usage,
    bench_model,
    configure,
    events,
    failover,
    observe,
    spend,
    spend_total,
)
from resilient_llm.testing import capture_events
from tests.support.ways import (
    DRIVERS,
    GROQ,
    OPENAI,
    Driver,
    ProviderError,
    over,
    run_async,
)

PRICED = Target(GROQ, price=(1, 2), max_output=100)
SECOND = Target(OPENAI, price=(1, 2), max_output=100)
TOKENS = 40


@pytest.fixture(autouse=True)
def _budget() -> None:
    configure(budgets=[Budget(tokens=1_000_000)])


def answer(sent: int = 7, received: int = 3, text: str = "hello") -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {
            "prompt_tokens": sent,
            "completion_tokens": received,
            "total_tokens": sent + received,
        },
    }


def chunk(text: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": None}]}


def usage_chunk(sent: int, received: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": sent, "completion_tokens": received}}


def booked() -> tuple[Any, int, int]:
    """Tokens, calls and attempts by estimate; nothing may be reserved any more."""
    (row,) = spend()
    assert 0 == row.reserved
    return row.spent, row.calls, row.estimated


def policy(*chain: Target, **options: Any) -> Any:
    return failover(chain or [PRICED], **{"tokens": TOKENS, "attempts": 1, **options})


def failing(error: Callable[[], BaseException]) -> Callable[[Target], Any]:
    def provider(target: Target) -> Any:
        raise error()

    return provider


# One attempt.


@over(DRIVERS)
def test_an_answer_books_its_usage(driver: Driver) -> None:
    """Tokens are those that the provider told, in money at the price of the target."""
    driver.run(policy(), lambda target: answer())

    assert (10, 1, 0) == booked()
    assert {GROQ: Decimal("0.000013")} == spend_total()


@over(DRIVERS)
def test_an_answer_without_usage_books_its_text(driver: Driver) -> None:
    """The estimate of the input, and four characters of the answer to a token."""
    driver.run(policy(), lambda target: "x" * 9)

    assert (TOKENS + 3, 1, 1) == booked()


@over(DRIVERS)
def test_an_answer_without_text_books_the_reservation(driver: Driver) -> None:
    """Of something that cannot be read all that was reserved is booked."""
    driver.run(policy(), lambda target: None)

    assert (TOKENS + 100, 1, 1) == booked()


@over(DRIVERS)
def test_a_rejected_answer_is_booked_all_the_same(driver: Driver) -> None:
    """The provider bills it; the next target's answer is booked, too."""
    answers = [answer(7, 3), answer(20, 10)]
    rejecting = policy(PRICED, SECOND, reject=lambda given: given["usage"]["total_tokens"] == 10)

    driver.run(rejecting, lambda target: answers.pop(0))

    assert (40, 2, 0) == booked()


@over(DRIVERS)
def test_a_reject_that_raises_has_an_answer_booked(driver: Driver) -> None:
    """What a function of the user does afterwards changes nothing in the bill."""

    def reject(given: Any) -> bool:
        raise LookupError

    with pytest.raises(LookupError):
        driver.run(policy(reject=reject), lambda target: answer())

    assert (10, 1, 0) == booked()


ENDS = {
    "timeout": (TimeoutError, (TOKENS, 1, 1)),
    "other": (lambda: ConnectionResetError(104, "reset"), (TOKENS, 1, 1)),
    "status 400": (lambda: ProviderError(400), (0, 1, 0)),
    "status 503": (lambda: ProviderError(503), (0, 1, 0)),
    "refused": (lambda: ConnectionRefusedError(111, "refused"), (0, 0, 0)),
    "bug": (lambda: TypeError("a bug"), (TOKENS, 1, 1)),
    "interrupt": (KeyboardInterrupt, (TOKENS, 1, 1)),
}


@pytest.mark.parametrize("name", ENDS)
@over(DRIVERS)
def test_a_failure_books_by_how_it_failed(driver: Driver, name: str) -> None:
    """Nothing without a connection, only the call with an HTTP status, else the input."""
    error, expected = ENDS[name]

    with capture_events(SpendRecorded) as told, pytest.raises(BaseException):  # noqa: B017  # whichever leaves
        driver.run(policy(), failing(error))

    assert expected == booked()
    assert [(expected[0], bool(expected[2]))] == [(e.usage.tokens, e.estimated) for e in told]


@over(DRIVERS)
def test_each_retry_is_an_attempt_of_its_own(driver: Driver) -> None:
    """Two failures and an answer make three calls."""
    outcomes: list[Any] = [TimeoutError(), ProviderError(503), None]

    def provider(target: Target) -> Any:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return answer()

    with capture_events(SpendRecorded) as told:
        driver.run(policy(attempts=3, backoff=lambda number: 0.0), provider)

    assert (TOKENS + 10, 3, 1) == booked()
    assert 3 == len(told)


@over(DRIVERS)
def test_what_is_refused_inside_books_nothing(driver: Driver) -> None:
    """A nested failover whose targets are all benched has sent nothing."""
    bench_model(OPENAI, 60)
    inner = failover([SECOND], when_all_benched="raise", attempts=1)

    @inner
    def ask(target: Target) -> Any:
        return answer()

    with pytest.raises(Exception):  # noqa: B017  # the chain's
        driver.run(policy(), lambda target: ask())

    assert (0, 0, 0) == booked()


# Attempts inside attempts.


@over(DRIVERS)
def test_the_innermost_attempt_books(driver: Driver) -> None:
    """The one around it books its call and nothing else, though it returns the same answer."""

    @policy(SECOND)
    def inner(target: Target) -> Any:
        return answer(30, 5)

    driver.run(policy(), lambda target: inner())

    assert (35, 2, 0) == booked()


@pytest.mark.parametrize("way", ["thread", "task"])
def test_the_innermost_attempt_books_in_threads_and_tasks(way: str) -> None:
    """With the context of the attempt around it, it is inside."""

    @policy(SECOND)
    def inner(target: Target) -> Any:
        return answer(30, 5)

    @policy()
    async def outer(target: Target) -> Any:
        if way == "thread":
            context = contextvars.copy_context()
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(context.run, inner).result()

        async def ask() -> Any:
            return inner()

        return await asyncio.create_task(ask())

    asyncio.run(outer())

    assert (35, 2, 0) == booked()


def test_a_stream_that_is_passed_on_is_booked_once() -> None:
    """The attempt around it gives the same stream, and books its call alone."""

    @policy(SECOND)
    def inner(target: Target) -> Iterator[Any]:
        yield chunk("abcd")
        yield usage_chunk(20, 2)

    @policy()
    def outer(target: Target) -> Any:
        return inner()

    list(outer())

    assert (22, 2, 0) == booked()


# Streams.


def stream_of(items: list[Any], error: BaseException | None = None) -> Callable[..., Any]:
    def items_of(target: Target) -> Iterator[Any]:
        yield from items
        if error is not None:
            raise error

    return items_of


def async_stream_of(items: list[Any], error: BaseException | None = None) -> Callable[..., Any]:
    async def items_of(target: Target) -> AsyncIterator[Any]:
        for item in items:
            yield item
        if error is not None:
            raise error

    return items_of


def read(form: str, items: list[Any], most: int, error: BaseException | None = None) -> None:
    """Read so many items of a stream and close it; ``gc`` lets go of it instead."""
    if form in ("sync", "function", "sync-gc"):
        make = stream_of(items, error)
        asking: Any = policy()(make)
        if form == "function":

            def gives(target: Target) -> Any:
                return make(target)

            asking = policy()(gives)
        stream: Any = None
        with contextlib.suppress(Exception):
            stream = asking()
            for _ in range(most):
                next(stream)
        if form == "sync-gc":
            del stream
            gc.collect()
        elif error is None:
            stream.close()
        return
    backend = form

    async def main() -> None:
        stream = policy()(async_stream_of(items, error))()
        with contextlib.suppress(Exception):
            for _ in range(most):
                await anext(stream)
        await stream.aclose()

    run_async(main, backend=backend)


FORMS = ["sync", "function", "asyncio", "trio"]


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_that_was_read_to_its_end_books_its_usage(form: str) -> None:
    """The last item that has one counts."""
    items = [chunk("a"), usage_chunk(7, 1), chunk("b"), usage_chunk(7, 2)]

    with capture_events(SpendRecorded) as told:
        read(form, items, 9)

    assert (9, 1, 0) == booked()
    assert 1 == len(told)


@pytest.mark.parametrize("form", [*FORMS, "sync-gc"])
def test_a_stream_that_was_left_books_what_came(form: str) -> None:
    """Without a usage the estimate of the input and the text, also of one that was dropped."""
    with capture_events(SpendRecorded) as told:
        read(form, [chunk("abcdefgh"), chunk("ijkl"), chunk("mnop")], 2)

    assert (TOKENS + 3, 1, 1) == booked()
    assert 1 == len(told)


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_that_broke_books_its_usage_and_no_less_than_its_text(form: str) -> None:
    """An early usage has the input, and an output that is too small."""
    read(form, [usage_chunk(30, 1), chunk("x" * 40)], 9, ConnectionResetError(104, "reset"))

    assert (30 + 10, 1, 1) == booked()


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_that_failed_before_its_first_content_books_its_input(form: str) -> None:
    """Nothing came, so it is an attempt that failed like any other."""
    read(form, [], 1, ConnectionResetError(104, "reset"))

    assert (TOKENS, 1, 1) == booked()


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_that_ends_without_usage_books_its_text(form: str) -> None:
    """The answer is whole, but what it used is an estimate."""
    read(form, [chunk("abcdefgh")], 9)

    assert (TOKENS + 2, 1, 1) == booked()


# Time, cancellation, hedges.


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_attempt_that_was_cut_off_books_its_input(backend: str) -> None:
    """A limit of time ends what the provider goes on with."""

    @policy(attempt_timeout=0.01)
    async def ask(target: Target) -> Any:
        await anyio.sleep(60)

    async def main() -> None:
        with contextlib.suppress(Exception):
            await ask()

    run_async(main, backend=backend)

    assert (TOKENS, 1, 1) == booked()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_attempt_that_was_cancelled_books_its_input(backend: str) -> None:
    """So does the end of the task around it."""

    @policy()
    async def ask(target: Target) -> Any:
        await anyio.sleep(60)

    async def main() -> None:
        with anyio.move_on_after(0.01):
            await ask()

    with capture_events(SpendRecorded) as told:
        run_async(main, backend=backend)

    assert (TOKENS, 1, 1) == booked()
    assert 1 == len(told)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_lost_hedge_books_its_input(backend: str) -> None:
    """Both attempts were sent; the slow one was stopped."""

    @policy(PRICED, SECOND, hedge=0.005)
    async def ask(target: Target) -> Any:
        if target == PRICED:
            await anyio.sleep(60)
        return answer()

    async def main() -> None:
        await ask()

    with capture_events(SpendRecorded) as told:
        run_async(main, backend=backend)

    assert (TOKENS + 10, 2, 1) == booked()
    assert 2 == len(told)


def test_a_coroutine_that_is_dropped_while_it_waits_leaves_no_reservation() -> None:
    """A finaliser books it, and waits for no lock that another thread holds."""

    @policy()
    async def ask(target: Target) -> Any:
        class Forever:
            def __await__(self) -> Any:
                yield

        await Forever()

    from resilient_llm._runtime.runtime import runtime

    waiting = ask()
    waiting.send(None)
    lock, is_held, may_end = runtime.ledger._lock, threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            may_end.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait(10)
    with capture_events(SpendRecorded) as told:
        waiting.close()
        is_still_held = holder.is_alive()
        may_end.set()
    holder.join()

    assert is_still_held
    assert (TOKENS, 1, 1) == booked()
    assert 1 == len(told)


# What is asked.


@over(DRIVERS)
def test_usage_of_the_policy_is_asked(driver: Driver) -> None:
    """It reads what no built-in format has; None is no usage."""
    own = policy(usage=lambda given: Usage(given, 1) if given else None)

    driver.run(own, lambda target: 5)
    assert (6, 1, 0) == booked()
    driver.run(own.using(usage=lambda given: Usage(2, 2)), lambda target: 5)

    assert (10, 2, 0) == booked()


@pytest.mark.parametrize("given", ["raises", "nonsense"])
def test_usage_that_fails_is_no_usage_and_one_log_line(
    given: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The call goes on; the log names the function once and no answer."""

    def usage(found: Any) -> Any:
        if given == "raises":
            raise LookupError("a secret")
        return "a secret"

    @policy(usage=usage)
    def ask(target: Target) -> str:
        return "x" * 8

    ask()
    ask()

    assert (2 * (TOKENS + 2), 2, 2) == booked()
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("usage of")]
    assert 1 == len(lines)
    assert "secret" not in lines[0]


def test_usage_of_the_policy_reads_items_of_streams() -> None:
    """The last item for which it returns one counts."""

    @policy(usage=lambda item: Usage(item, item) if item else None)
    def ask(target: Target) -> Iterator[int]:
        yield from (1, 2, 0)

    list(ask())

    assert (4, 1, 0) == booked()


@pytest.mark.parametrize("usage", [1, "text"])
def test_usage_that_is_no_function_is_refused(usage: Any) -> None:
    """The mistake shows where it is written."""
    with pytest.raises(Exception, match="usage of type"):
        failover([GROQ], usage=usage)


def test_a_price_with_rates_of_the_cache_is_taken() -> None:
    """`Target.price` and `prices` may be a `Price`; least_cost reads both."""
    cheap = Target("own/cheap", price=Price(1, 1, cached=0.1), max_output=10)
    configure(prices={"own/dear": Price(10, 10)})
    used = {"usage": {"prompt_tokens": 10, "completion_tokens": 0,
                      "prompt_tokens_details": {"cached_tokens": 10}}}  # fmt: skip

    @failover([Target("own/dear", max_output=10), cheap], strategy="least_cost")
    def ask(target: Target) -> Any:
        return {"choices": [{"message": {"content": target.key}}], **used}

    ask()

    assert {"own/cheap": Decimal("0.000001")} == spend_total()


def test_a_price_is_exact_or_refused_where_it_is_written() -> None:
    """Seven decimals of USD per million tokens are a mistake of the unit."""
    with pytest.raises(ValueError, match="6 decimals"):
        Target(GROQ, price=(0.0000001, 1))
    with pytest.raises(ValueError, match="6 decimals"):
        configure(prices={GROQ: (0.0000001, 1)})


def test_a_call_of_its_own_and_a_pinned_call_are_booked() -> None:
    """Targets with ``call=``, and calls that name their target."""
    own = Target(OPENAI, max_output=10, call=lambda: answer(1, 1))

    @policy(PRICED, own)
    def ask(*, target: Target | None = None) -> Any:
        raise ProviderError(503)

    ask()
    ask(target=own)

    assert (4, 3, 0) == booked()


def test_spend_is_told_without_budgets_to_who_asks_for_it() -> None:
    """An observer of all events does not make each call count."""
    configure(budgets=[])
    heard: list[Any] = []
    stop = observe(heard.append)

    @policy()
    def ask(target: Target) -> Any:
        return answer()

    ask()
    stop()
    before = [type(each) for each in heard]
    with capture_events(SpendRecorded) as told:
        ask()

    assert SpendRecorded not in before
    assert [Usage(7, 3)] == [each.usage for each in told]


@pytest.mark.parametrize("has_budget", [True, False])
@pytest.mark.parametrize("way", ["observe", "observers=", "events", "type"])
def test_who_is_told_of_spending(way: str, has_budget: bool) -> None:
    """With a budget whoever hears events; without one only who names the type."""
    configure(budgets=[Budget(calls=99)] if has_budget else [])
    heard: list[Any] = []
    stop = {
        "observe": lambda: observe(heard.append),
        "type": lambda: observe(heard.append, SpendRecorded),
    }.get(way, lambda: lambda: None)()

    @policy(**({"observers": [heard.append]} if way == "observers=" else {}))
    async def ask(target: Target) -> Any:
        return answer()

    async def main() -> None:
        if way != "events":
            await ask()
            return
        async with events() as stream:
            await ask()
            async for event in stream:
                heard.append(event)
                if isinstance(event, AttemptSucceeded):
                    return

    with Trace():  # which has no events, so it asks for none
        asyncio.run(main())
    stop()

    assert (has_budget or way == "type") == (SpendRecorded in map(type, heard))


def test_a_stream_that_is_dropped_waits_for_no_lock() -> None:
    """The finaliser leaves its booking to the next holder."""
    from resilient_llm._runtime.runtime import runtime

    stream: Any = policy()(stream_of([chunk("abcd"), chunk("abcd")]))()
    next(stream)
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with runtime.ledger._lock:
            is_held.set()
            may_end.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait(10)
    del stream
    gc.collect()
    is_still_held = holder.is_alive()
    may_end.set()
    holder.join()

    assert is_still_held
    assert (TOKENS + 1, 1, 1) == booked()
