"""Items of a stream, each read inside its attempt, and nothing else inside it.

Inside are the hook of the attempt, and its permit where guards in the stream's code must know that:
what they book, the stream does not book again. What held between two reads would hold for the
consumer's code, too: a generator has the context of whoever reads from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._core.circuit.permit import open_permits

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from resilient_llm._core.call.hooks import Scope
    from resilient_llm._core.circuit.permit import Permit


class InsidePermit:
    """The open permits of a stream's code: that of its attempt, and those of guards it has entered.

    They hold while this code runs, and come back with the next read.
    """

    __slots__ = ("_inside", "_permit")

    def __init__(self, permit: Permit) -> None:
        self._permit = permit
        self._inside = (permit,)

    def enter(self) -> tuple[Permit, ...]:
        """Let guards inside know them; return what `leave` needs."""
        around = open_permits.get()
        open_permits.set((*around, *self._inside))
        return around

    def leave(self, around: tuple[Permit, ...]) -> None:
        """End that."""
        present = open_permits.get()
        count = len(around)
        if present[:count] == around and self._permit in present[count:]:
            self._inside = present[count:]
            open_permits.set(around)
        else:  # another context, or a guard around this one was left meanwhile
            open_permits.set(tuple(each for each in present if each is not self._permit))


class Reads:
    """Items of a synchronous stream."""

    __slots__ = ("_items", "_scope")

    def __init__(self, items: Iterator[Any], scope: Scope) -> None:
        self._items = items
        self._scope = scope

    def __iter__(self) -> Reads:
        return self

    def __next__(self) -> Any:
        scope = self._scope
        entered = scope.enter()
        try:
            return next(self._items)
        finally:
            scope.leave(entered)


class AsyncReads:
    """Items of an asynchronous stream."""

    __slots__ = ("_generator", "_items", "_scope")

    def __init__(
        self,
        items: AsyncIterator[Any],
        scope: Scope,
        generator: AsyncGenerator[Any, None] | None,
    ) -> None:
        """Take the items, and the generator that is closed with them if they come of one."""
        self._items = items
        self._scope = scope
        self._generator = generator

    def __aiter__(self) -> AsyncReads:
        return self

    async def __anext__(self) -> Any:
        scope = self._scope
        entered = scope.enter()
        try:
            return await self._items.__anext__()
        finally:
            scope.leave(entered)

    async def aclose(self) -> None:
        if self._generator is not None:
            await self._generator.aclose()
