"""Providers that give outcomes in turn, and streams: `scripted`, `fake_stream`."""

from __future__ import annotations

from typing import Any, Self

from resilient_llm._values.errors import ConfigurationError


class Scripted:
    """A provider that returns or raises each of its outcomes in turn.

    Attributes:
        calls: ``(args, kwargs)`` of every call, oldest first.
    """

    def __init__(self, outcomes: tuple[Any, ...]) -> None:
        self._outcomes = outcomes
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        number = len(self.calls)
        self.calls.append((args, kwargs))
        if number >= len(self._outcomes):
            raise AssertionError(
                f"the script has {len(self._outcomes)} outcomes and was called once more"
            )
        outcome: Any = self._outcomes[number]
        if _is_error(outcome):
            raise outcome
        return outcome


def _is_error(outcome: Any) -> bool:
    """Return whether this can be raised: an exception, or a class of exceptions."""
    cls: Any = outcome if isinstance(outcome, type) else type(outcome)
    return issubclass(cls, BaseException)


class AsyncScripted(Scripted):
    """The same for async code."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


def scripted(*outcomes: Any) -> Scripted:
    """Return a function that returns or raises each outcome in turn, whatever it is passed.

    Exceptions, instances or classes, are raised; everything else is returned. One call more
    than there are outcomes is an AssertionError.
    """
    return Scripted(outcomes)


def ascripted(*outcomes: Any) -> AsyncScripted:
    """Return an async function that returns or raises each outcome in turn."""
    return AsyncScripted(outcomes)


class FakeStream:
    """A stream as clients give it, for ``for`` and for ``async for``; made by `fake_stream`.

    It is its own iterator, is read once, and is a context manager that closes it.

    Attributes:
        closed: Whether it was closed, or read to its end.
    """

    def __init__(self, items: tuple[Any, ...], then: BaseException | type[BaseException] | None):
        self.closed = False
        self._left = iter(items)  # a guard sees in it whether the end was reached
        self._then = then

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if not self.closed:
            for item in self._left:
                return item
            self.closed = True
            if self._then is not None:
                raise self._then
        raise StopIteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return self.__next__()
        except StopIteration:
            raise StopAsyncIteration from None

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()


def fake_stream(*items: Any, then: BaseException | type[BaseException] | None = None) -> FakeStream:
    """Return a stream of these items, for synchronous and for asynchronous code.

    Examples:
        >>> client = scripted(fake_stream("Hel", then=ConnectionError()), "Hello")

    Args:
        *items: What it gives.
        then: An exception, or a class, that is raised after the items; None for a regular end.

    Raises:
        ConfigurationError: If ``then`` cannot be raised.
    """
    if then is not None and not _is_error(then):
        raise ConfigurationError(
            f"then of type {type(then).__name__} is not allowed: expected an exception or None; "
            "items come before it, without a keyword"
        )
    return FakeStream(items, then)
