"""`ByName`: a function of a call that reads the call's arguments by their names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping


T = TypeVar("T")


class ByName(ABC, Generic[T]):
    """Base of what `needs` and `tokens` may be beside plain functions.

    The caller may pass an argument by position or by keyword. Who knows the signature of the
    decorated function calls `of_arguments`; without it, `__call__` gets what was passed.
    """

    __slots__ = ()

    argument: str | None = None
    """Name of the argument without which there is little to read, or None."""

    @abstractmethod
    def of_arguments(self, arguments: Mapping[str, Any], others: tuple[Any, ...]) -> T:
        """Return the result for a call.

        Args:
            arguments: ``{name: value}``.
            others: Positional arguments that have no name.
        """

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        """Return the result for the arguments of a function whose signature is not known."""
        return self.of_arguments(kwargs, args)


def wants_arguments(function: object) -> bool:
    """Return whether a value of ``needs=`` or ``tokens=`` is called as the call itself was."""
    return callable(function) and not issubclass(type(function), ByName)
