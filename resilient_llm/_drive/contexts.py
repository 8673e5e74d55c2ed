"""Runs the code of a stream in the context in which it has begun.

A hedge has a task and a context of its own until its stream has won. What the body of the stream
has set there, and resets later, is not known in the context of the consumer, where the attempt
that has lost may have set the same variables.
"""

from __future__ import annotations

from types import coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
    from contextvars import Context


class Within:
    """A context in which steps of coroutines are run, by whichever task awaits them."""

    __slots__ = ("_context", "_is_inside")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._is_inside = False

    def call(self, function: Callable[[Any], Any], value: Any) -> Any:
        """Call a function in the context; directly if this is done in it already."""
        if self._is_inside:
            return function(value)
        self._is_inside = True
        try:
            return self._context.run(function, value)
        finally:
            self._is_inside = False

    @coroutine
    def run(self, inside: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Run a coroutine to its end, each of its steps in the context; return its result."""
        step, value = inside.send, None
        try:
            while True:
                try:
                    given = self.call(step, value)
                except StopIteration as end:
                    return end.value
                step = inside.send
                try:
                    value = yield given
                except GeneratorExit:
                    self.call(lambda _: inside.close(), None)
                    raise
                except BaseException as error:  # noqa: BLE001  # it is raised inside
                    step, value = inside.throw, error
        finally:
            step = value = given = None  # no frame keeps an error


class ItemsWithin:
    """Items of a synchronous stream, each made in a context."""

    __slots__ = ("_items", "_within")

    def __init__(self, items: Iterator[Any], within: Within) -> None:
        self._items = items
        self._within = within

    def __iter__(self) -> ItemsWithin:
        return self

    def __next__(self) -> Any:
        return self._within.call(next, self._items)


class AsyncItemsWithin:
    """Items of an asynchronous stream, each made in a context."""

    __slots__ = ("_generator", "_items", "_within")

    def __init__(self, items: AsyncIterator[Any], within: Within, generator: Any) -> None:
        """Take the items, and what is closed with them, or None."""
        self._items = items
        self._within = within
        self._generator = generator

    def __aiter__(self) -> AsyncItemsWithin:
        return self

    async def __anext__(self) -> Any:
        return await self._within.run(self._next())

    async def _next(self) -> Any:
        return await self._items.__anext__()

    async def aclose(self) -> None:
        if self._generator is not None:
            await self._within.run(self._close())

    async def _close(self) -> None:
        await self._generator.aclose()
