"""What a function may return, under ``@failover``, ``@breaker`` and both: streams, answers, proxies.

One table of objects. Each row is read as without a guard, fails over before its first content,
and is counted once; a plain answer stays what it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import wrapt

from resilient_llm import StreamInterruptedError, StreamPolicy, Target, breaker, failover, health
from tests.support.ways import GROQ, OPENAI, run_async

WORDS = ["It", " is", " so"]
Script = list[Any]


def _play(script: Script) -> Iterator[Any]:
    for step in script:
        if isinstance(step, Exception):
            raise step
        yield step


class SyncIterator:
    """An iterator as the stream objects of SDKs are."""

    def __init__(self, script: Script) -> None:
        self._items = _play(script)
        self.closed = False

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return next(self._items)

    def close(self) -> None:
        self.closed = True


class AwaitedIterator:
    """The same in asynchronous code."""

    def __init__(self, script: Script) -> None:
        self._items = _play(script)
        self.closed = False

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        await asyncio.sleep(0)
        for item in self._items:
            return item
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed = True


class Either(AwaitedIterator, SyncIterator):
    """Both in one object, as of litellm."""


class SyncIterable:
    """An object that is no iterator, but can be iterated and closed, as boto3's ``EventStream``."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.closed = False

    def __iter__(self) -> Iterator[Any]:
        yield from _play(self._script)

    def close(self) -> None:
        self.closed = True


class AwaitedIterable:
    """The same in asynchronous code."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in _play(self._script):
            yield item

    async def aclose(self) -> None:
        self.closed = True


class Traced(wrapt.ObjectProxy):  # type: ignore[misc]  # it ships no types
    """What tracers put around a stream: one class with the methods of both kinds."""

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return next(self.__wrapped__)

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        return await self.__wrapped__.__anext__()


class TracedIterable(wrapt.ObjectProxy):  # type: ignore[misc]  # as above
    """A proxy of an object that is no iterator."""

    def __iter__(self) -> Any:
        return iter(self.__wrapped__)

    def __aiter__(self) -> Any:
        return self.__wrapped__.__aiter__()


@contextmanager
def _managed(script: Script) -> Iterator[Any]:
    yield SyncIterator(script)


@asynccontextmanager
async def _amanaged(script: Script) -> AsyncIterator[Any]:
    yield AwaitedIterator(script)


class TracedManager(wrapt.ObjectProxy):  # type: ignore[misc]  # as above
    """A tracer's proxy of a manager, whose stream it puts into a proxy, too."""

    def __enter__(self) -> Any:
        return Traced(self.__wrapped__.__enter__())

    def __exit__(self, *error: Any) -> Any:
        return self.__wrapped__.__exit__(*error)

    async def __aenter__(self) -> Any:
        return Traced(await self.__wrapped__.__aenter__())

    async def __aexit__(self, *error: Any) -> Any:
        return await self.__wrapped__.__aexit__(*error)


SYNC: dict[str, Callable[[Script], Any]] = {
    "a generator": _play,
    "an iterator": SyncIterator,
    "an iterable": SyncIterable,
    "either": Either,
    "a bare proxy of a generator": lambda script: wrapt.ObjectProxy(_play(script)),
    "a proxy": lambda script: Traced(SyncIterator(script)),
    "a proxy of a proxy": lambda script: Traced(Traced(SyncIterator(script))),
    "a proxy of an iterable": lambda script: TracedIterable(SyncIterable(script)),
    "a proxy of either": lambda script: Traced(Either(script)),
    "a manager": _managed,
    "a proxy of a manager": lambda script: TracedManager(_managed(script)),
    "a manager of a proxy": lambda script: _managed_proxy(script),
}
ASYNC: dict[str, Callable[[Script], Any]] = {
    "an iterator": AwaitedIterator,
    "an iterable": AwaitedIterable,
    "either": Either,
    "a proxy": lambda script: Traced(AwaitedIterator(script)),
    "a proxy of a proxy": lambda script: Traced(Traced(AwaitedIterator(script))),
    "a proxy of an iterable": lambda script: TracedIterable(AwaitedIterable(script)),
    "a proxy of either": lambda script: Traced(Either(script)),
    "a manager": _amanaged,
    "a proxy of a manager": lambda script: TracedManager(_amanaged(script)),
}


@contextmanager
def _managed_proxy(script: Script) -> Iterator[Any]:
    yield Traced(SyncIterator(script))


def _answer() -> SimpleNamespace:
    return SimpleNamespace(text="It is so")


class Whole:
    """An answer that can be iterated, and closed, and has a length."""

    def __iter__(self) -> Iterator[str]:
        return iter(WORDS)

    def __len__(self) -> int:
        return len(WORDS)

    def close(self) -> None: ...


class Response(SyncIterable):
    """An HTTP response, which offers its body in other ways than by ``for``, as of requests."""

    def iter_content(self, size: int = 1) -> Iterator[Any]:
        return iter(self)


class Container(SyncIterable):
    """An object that holds others and can be closed, as a session of SQLAlchemy."""

    def __contains__(self, one: object) -> bool:
        return one in WORDS


class Session:
    """A context manager that can do more than be entered."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: Any) -> None: ...

    def get(self) -> str:
        return "It"


class EnteredIterable:
    """What can be entered and iterated, but not closed: a table of rows, say."""

    def __enter__(self) -> EnteredIterable:
        return self

    def __exit__(self, *error: Any) -> None: ...

    def __iter__(self) -> Iterator[str]:
        return iter(WORDS)


class TemporaryFile(SyncIterable):
    """A file that hands its reading on to another, as those of ``tempfile``."""

    def __init__(self) -> None:
        super().__init__(WORDS)

    def __getattr__(self, name: str) -> Any:
        if name == "read":
            return lambda: "It is so"
        raise AttributeError(name)


ANSWERS: dict[str, Callable[[], Any]] = {
    "an object": _answer,
    "a proxy of an object": lambda: wrapt.ObjectProxy(_answer()),
    "a proxy of a text": lambda: wrapt.ObjectProxy("It is so"),
    "a proxy of a list": lambda: wrapt.ObjectProxy(list(WORDS)),
    "a tracer's proxy of a list": lambda: Traced(list(WORDS)),
    "an object with a length": Whole,
    "a response": lambda: Response(WORDS),
    "a container": lambda: Container(WORDS),
    "a session": Session,
    "a proxy of a session": lambda: wrapt.ObjectProxy(Session()),
    "an iterable without close": EnteredIterable,
    "a temporary file": TemporaryFile,
}


# The guards.


def _by_failover(make: Callable[[Target], Any], **options: Any) -> Callable[[], Any]:
    return failover([GROQ, OPENAI], attempts=1, **options)(make)


def _breaker_in_failover(make: Callable[[Target], Any], **options: Any) -> Callable[[], Any]:
    @failover([GROQ, OPENAI], attempts=1, **options)
    def ask(target: Target) -> Any:
        return breaker(f"inner-{target.provider}")(make)(target)

    return ask


def _failover_in_failover(make: Callable[[Target], Any], **options: Any) -> Callable[[], Any]:
    @failover([GROQ, OPENAI], attempts=1, **options)
    def ask(target: Target) -> Any:
        @failover(f"inner-{target.provider}/m", attempts=1)
        def inner(_: Target) -> Any:
            return make(target)

        return inner()

    return ask


GUARDS = {
    "failover": _by_failover,
    "breaker in failover": _breaker_in_failover,
    "failover in failover": _failover_in_failover,
}


def _charged(guard: str) -> str:
    """Return the key that an error of the first target counts for: that of an inner chain."""
    return "inner-groq/m" if guard == "failover in failover" else GROQ


def _read(given: Any) -> list[Any]:
    if hasattr(type(given), "__next__"):
        return list(given)
    if hasattr(type(given), "__enter__") and not hasattr(type(given), "__iter__"):
        with given as stream:
            return list(stream)
    try:
        return list(given)
    except TypeError:
        with given as stream:
            return list(stream)


async def _aread(given: Any) -> list[Any]:
    try:
        items = aiter(given)
    except TypeError:
        async with given as stream:
            return [item async for item in stream]
    return [item async for item in items]


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("what", SYNC)
def test_a_stream_of_any_kind_fails_over(what: str, guard: str) -> None:
    """An error before content calls the next target; each counts once."""

    def make(target: Target) -> Any:
        return SYNC[what]([ConnectionError("down")] if target.key == GROQ else list(WORDS))

    ask = GUARDS[guard](make)

    assert _read(ask()) == WORDS
    charged = health([_charged(guard)])[_charged(guard)]
    assert (1, 1) == (charged.total, charged.errors)
    assert (1, 0) == (health()[OPENAI].total, health()[OPENAI].errors)


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("what", SYNC)
def test_a_stream_of_any_kind_is_interrupted(what: str, guard: str) -> None:
    """An error after content is counted, and is an interruption for the consumer."""

    def make(target: Target) -> Any:
        return SYNC[what](["It", ConnectionError("down")])

    with pytest.raises(StreamInterruptedError):
        _read(GUARDS[guard](make)())

    assert 1 == health([_charged(guard)])[_charged(guard)].errors


@pytest.mark.parametrize("what", SYNC)
def test_a_breaker_counts_a_stream_of_any_kind(what: str) -> None:
    """What it gives is as without it, and each stream counts by how it ends."""
    script: Script = list(WORDS)
    ask = breaker("db")(lambda: SYNC[what](script))

    assert _read(ask()) == WORDS
    script[1:] = [ConnectionError("down")]
    with pytest.raises(ConnectionError):
        _read(ask())

    assert (2, 1) == (health()["db"].total, health()["db"].errors)


@pytest.mark.parametrize("awaited", [True, False], ids=["awaited", "returned"])
@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("what", ASYNC)
def test_an_async_stream_of_any_kind_fails_over(what: str, guard: str, awaited: bool) -> None:
    """The same in asynchronous code, for functions that return it and for those awaited."""

    def make(target: Target) -> Any:
        return ASYNC[what]([ConnectionError("down")] if target.key == GROQ else list(WORDS))

    async def amake(target: Target) -> Any:
        return make(target)

    async def main() -> list[Any]:
        given = GUARDS[guard](amake if awaited else make)()
        return await _aread(await given if awaited else given)

    assert run_async(main) == WORDS
    charged = health([_charged(guard)])[_charged(guard)]
    assert (1, 1) == (charged.total, charged.errors)
    assert (1, 0) == (health()[OPENAI].total, health()[OPENAI].errors)


@pytest.mark.parametrize("awaited", [True, False], ids=["awaited", "returned"])
@pytest.mark.parametrize("what", ASYNC)
def test_a_breaker_counts_an_async_stream_of_any_kind(what: str, awaited: bool) -> None:
    """The same for ``@breaker`` alone."""

    def make(script: Script) -> Any:
        return ASYNC[what](script)

    async def amake(script: Script) -> Any:
        return make(script)

    async def main() -> None:
        ask = breaker("db")(amake if awaited else make)
        given = ask(list(WORDS))
        assert await _aread(await given if awaited else given) == WORDS
        given = ask(["It", ConnectionError("down")])
        with pytest.raises(ConnectionError):
            await _aread(await given if awaited else given)

    run_async(main)
    assert (2, 1) == (health()["db"].total, health()["db"].errors)


@pytest.mark.parametrize("guard", [*GUARDS, "breaker"])
@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_stays_what_it_is(what: str, guard: str) -> None:
    """A plain answer is returned itself and counted at once, in a proxy as well."""
    answer = ANSWERS[what]()

    def make(target: Target) -> Any:
        return answer

    if guard == "breaker":
        assert breaker(GROQ)(lambda: answer)() is answer
    else:
        assert GUARDS[guard](make)() is answer
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)


def test_an_answer_and_a_stream_of_one_proxy_class() -> None:
    """The object inside decides each time, not the class that was seen first."""
    given: list[Any] = [
        wrapt.ObjectProxy(_answer()),
        Traced(SyncIterator(["It", ConnectionError("down")])),
    ]

    def make(target: Target) -> Any:
        return given.pop(0)

    ask = _by_failover(make, stream=StreamPolicy())

    assert "It is so" == ask().text
    with pytest.raises(StreamInterruptedError):
        list(ask())


def test_either_is_read_both_ways_inside_a_loop() -> None:
    """A plain function in asynchronous code may return an object for both: the reader decides."""

    def make(target: Target) -> Any:
        return Either(list(WORDS))

    async def main() -> None:
        for ask in (_by_failover(make), breaker(GROQ)(lambda: Either(list(WORDS)))):
            assert list(ask()) == WORDS
            assert [item async for item in ask()] == WORDS

    run_async(main)
    assert (4, 0) == (health()[GROQ].total, health()[GROQ].errors)


def test_an_awaited_stream_is_not_read_past_its_guard() -> None:
    """``for`` over what was awaited is an error, and not a stream without a guard."""

    async def make(target: Target) -> Any:
        return Either(list(WORDS))

    async def main() -> None:
        stream = await _by_failover(make)()
        with pytest.raises(TypeError, match="async for"):
            list(stream)
        await stream.aclose()

    run_async(main)
