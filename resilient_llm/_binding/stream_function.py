"""`StreamFunction`: a decorated generator function that `inspect` still sees as one.

What reads its code, as cloudpickle does to send it to another process by value, finds a
generator function that calls the wrapper, and not the one inside, which nothing guards.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any, cast

import wrapt

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

_Proxy: Any = wrapt.ObjectProxy  # it ships no types


class StreamFunction(_Proxy):
    """A proxy of a generator function that calls the wrapper instead of it."""

    def __init__(self, fn: Any, wrapper: Any, *, is_async: bool) -> None:
        super().__init__(fn)  # pyright: ignore[reportUnknownMemberType]  # it has no types
        self._self_wrapper = wrapper
        self._self_function = _async_items_of(wrapper) if is_async else _items_of(wrapper)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._self_wrapper(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    @property
    def policy(self) -> Any:
        return self._self_wrapper.policy

    def using(self, **changes: Any) -> Any:
        return self._self_wrapper.using(**changes)

    @property
    def __signature__(self) -> Any:
        return self._self_wrapper.__signature__

    @property
    def __annotations__(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]  # as of a function
        return self._self_wrapper.__annotations__

    @property
    def __code__(self) -> Any:
        return self._self_function.__code__

    @property
    def __closure__(self) -> Any:
        return self._self_function.__closure__

    @property
    def __defaults__(self) -> Any:
        return None

    @property
    def __kwdefaults__(self) -> Any:
        return None

    @property
    def __dict__(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]  # as of a function
        own: dict[str, Any] = getattr(self.__wrapped__, "__dict__", {})
        added = cast("dict[str, Any]", vars(self._self_wrapper))
        return {**own, **added}

    def __copy__(self) -> Any:
        return self  # as functions are

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __reduce__(self) -> Any:
        return self.__qualname__  # by name, as functions are

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()


def _items_of(wrapper: Callable[..., Any]) -> Callable[..., Generator[Any, Any, Any]]:
    def items(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        generator: Generator[Any, Any, Any] = wrapper(*args, **kwargs)
        return (yield from generator)

    return items


def _async_items_of(wrapper: Callable[..., Any]) -> Callable[..., AsyncGenerator[Any, Any]]:
    async def items(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        stream = wrapper(*args, **kwargs)
        try:
            async for item in stream:
                yield item
        finally:
            await stream.aclose()

    return items
