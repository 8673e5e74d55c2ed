"""`StreamFunction`: a decorated generator function that `inspect` still sees as one."""

from __future__ import annotations

from types import MethodType
from typing import Any

import wrapt

_Proxy: Any = wrapt.ObjectProxy  # it ships no types


class StreamFunction(_Proxy):
    """A proxy of a generator function that calls the wrapper instead of it."""

    def __init__(self, fn: Any, wrapper: Any) -> None:
        super().__init__(fn)  # pyright: ignore[reportUnknownMemberType]  # it has no types
        self._self_wrapper = wrapper

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

    def __copy__(self) -> Any:
        return self  # as functions are

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __reduce__(self) -> Any:
        return self.__qualname__  # by name, as functions are

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()
