"""`CallArguments`: finds the arguments of calls by name, however their callers passed them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilient_llm._binding.injection import Injection

_P = inspect.Parameter


class CallArguments:
    """Knows the parameters of one function, as its callers see them.

    Attributes:
        has_self: Whether the first argument is the object or class of a method.
        defaults: What a call has that the caller leaves out.
    """

    __slots__ = ("_is_passed", "_names", "_positions", "defaults", "has_self")

    def __init__(self, injection: Injection) -> None:
        self._is_passed = injection.is_passed
        visible = parameters_of(injection)
        self._names = [
            parameter.name
            for parameter in visible
            if parameter.kind in (_P.POSITIONAL_ONLY, _P.POSITIONAL_OR_KEYWORD)
        ]
        """Of what is passed by position."""
        self.has_self = self._names[:1] in (["self"], ["cls"])
        self._positions = {name: index for index, name in enumerate(self._names)}
        self.defaults = {
            parameter.name: parameter.default
            for parameter in visible
            if parameter.name not in injection.names and parameter.default is not _P.empty
        }

    @property
    def named_by_position(self) -> list[str]:
        """Names of what is passed by position, without ``self`` and ``cls``."""
        return self._names[1:] if self.has_self else self._names

    def own(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return positional arguments without the function, where that is passed first."""
        return args[1:] if self._is_passed else args

    def passed(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Return what the caller passed under a name, alone in a tuple; an empty one if nothing.

        Args:
            name: Name of the argument.
            args: Positional arguments, without the function.
            kwargs: Keyword arguments.
        """
        if name in kwargs:
            return (kwargs[name],)
        position = self._positions.get(name, len(args))
        return args[position : position + 1]

    def named(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], tuple[Any, ...]]:
        """Return the arguments by name, without ``self`` and ``cls``, and those without a name."""
        named = dict(zip(self._names, args, strict=False))
        if self.has_self:
            named.pop(self._names[0], None)
        return {**self.defaults, **named, **kwargs}, self.nameless(args)

    def nameless(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the positional arguments without a name."""
        return args[len(self._names) :]


def parameters_of(injection: Injection) -> Sequence[inspect.Parameter]:
    """Return the parameters that callers see, without the function, where that is passed first."""
    return injection.visible[1:] if injection.is_passed else injection.visible


def may_take(parameters: Sequence[inspect.Parameter], name: str) -> bool:
    """Return whether calls of a function with these parameters may have an argument."""
    return any(
        each.name == name or each.kind in (_P.VAR_POSITIONAL, _P.VAR_KEYWORD) for each in parameters
    )
