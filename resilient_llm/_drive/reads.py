"""Items of a stream, each read inside the hook of its attempt, and nothing else inside it.

A hook that held between two reads would hold for the consumer's code, too: a generator has the
context of whoever reads from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from resilient_llm._core.call.hooks import AttemptHook


class Reads:
    """Items of a synchronous stream."""

    __slots__ = ("_hook", "_items")

    def __init__(self, items: Iterator[Any], hook: AttemptHook) -> None:
        self._items = items
        self._hook = hook

    def __iter__(self) -> Reads:
        return self

    def __next__(self) -> Any:
        hook = self._hook
        entered = hook.enter()
        try:
            return next(self._items)
        finally:
            hook.leave(entered)


class AsyncReads:
    """Items of an asynchronous stream."""

    __slots__ = ("_generator", "_hook", "_items")

    def __init__(
        self,
        items: AsyncIterator[Any],
        hook: AttemptHook,
        generator: AsyncGenerator[Any, None] | None,
    ) -> None:
        """Take the items, and the generator that is closed with them if they come of one."""
        self._items = items
        self._hook = hook
        self._generator = generator

    def __aiter__(self) -> AsyncReads:
        return self

    async def __anext__(self) -> Any:
        hook = self._hook
        entered = hook.enter()
        try:
            return await self._items.__anext__()
        finally:
            hook.leave(entered)

    async def aclose(self) -> None:
        if self._generator is not None:
            await self._generator.aclose()
