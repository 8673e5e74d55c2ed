"""`Sticky`: what `strategies.sticky` returns, the function that gives the key of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable


class Sticky:
    """Calls with the same key go to the same target; immutable.

    Attributes:
        key: Gives the key of a call from its arguments.
    """

    __slots__ = ("key",)

    key: Callable[..., Any]

    def __init__(self, key: Any) -> None:
        if not callable(key):
            raise ConfigurationError(
                f"key of type {type(key).__name__} is not allowed: "
                "write a function from a call's arguments to a str, bytes, an int, a UUID or None"
            )
        object.__setattr__(self, "key", check.function("key", key))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"sticky() is immutable: {name} cannot be set")

    def __repr__(self) -> str:
        return "sticky(…)"

    def __reduce__(self) -> tuple[Any, ...]:
        return Sticky, (self.key,)
