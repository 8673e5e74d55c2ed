"""Functions of the user that are asked about a call: strategies, ``needs`` and ``tokens``.

They get the arguments as the caller passed them. The wrapper of a function turns arguments into
positional ones, and fills defaults in, unless its code passes them on as they are.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from resilient_llm._binding.choosing import PINNING
from resilient_llm._values.by_name import wants_arguments
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.sticky import Sticky
from resilient_llm._values.strategy_call import wants_call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resilient_llm._binding.injection import Injection
    from resilient_llm._values.policy import Options

_P = inspect.Parameter
_BY_POSITION = (_P.POSITIONAL_ONLY, _P.POSITIONAL_OR_KEYWORD)
_BY_NAME = (_P.POSITIONAL_OR_KEYWORD, _P.KEYWORD_ONLY)


def takes_call(options: Options, strategy: Any) -> bool:
    """Return whether calls have to be passed on with their arguments as they are.

    Args:
        options: Of the policy.
        strategy: What ``strategy`` is in force, perhaps a process-wide default.
    """
    return (
        (not isinstance(strategy, str) and wants_call(strategy))
        or wants_arguments(options.needs)
        or wants_arguments(options.tokens)
    )


def check_asked(options: Options, injection: Injection) -> None:
    """Refuse a function that can take no call of the decorated one.

    Raises:
        ConfigurationError: If each of its calls would fail.
    """
    strategy: Any = options.strategy
    asked: dict[str, Any] = {"needs": options.needs, "tokens": options.tokens}
    if isinstance(strategy, Sticky):
        asked["key"] = strategy.key
    parameters = [
        each
        for each in injection.visible
        if each.name not in injection.names or each.name not in PINNING
    ]
    for name, function in asked.items():
        if wants_arguments(function) and not _can_take_calls_of(parameters, function):
            taken = ", ".join(each.name for each in parameters)
            raise ConfigurationError(
                f"{name} is a function that cannot take a call of {injection.called}: it gets the "
                f"arguments as they are passed, without the target; write one that takes ({taken})"
            )


def _can_take_calls_of(parameters: Sequence[inspect.Parameter], function: Any) -> bool:
    """Return whether a function can take any call of one with these parameters."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C
        return True
    own = tuple(signature.parameters.values())
    by_position = [each for each in parameters if each.kind in _BY_POSITION]
    most = len(by_position)
    if any(each.kind is _P.VAR_POSITIONAL for each in parameters):
        most = max(most, len(own))
    return any(
        _binds(signature.bind, count, names)
        for count in range(most + 1)
        if (names := _names(parameters, by_position[:count], own, count)) is not None
    )


def _names(
    parameters: Sequence[inspect.Parameter],
    passed: Sequence[inspect.Parameter],
    own: Sequence[inspect.Parameter],
    count: int,
) -> set[str] | None:
    """Return what a call with so many positional arguments names to please another function.

    Args:
        parameters: Of the function that is called.
        passed: Those that are passed by position.
        own: Parameters of the other function.
        count: Of the positional arguments.

    Returns:
        Names of keyword arguments; None if there is no such call.
    """
    wanted = {
        each.name
        for index, each in enumerate(own)
        if each.kind in _BY_NAME
        and each.default is _P.empty
        and (index >= count or each.kind is _P.KEYWORD_ONLY)
    }
    left = [each for each in parameters if each not in passed]
    if any(each.kind is _P.POSITIONAL_ONLY and each.default is _P.empty for each in left):
        return None
    names = {
        each.name
        for each in left
        if each.kind in _BY_NAME and (each.default is _P.empty or each.name in wanted)
    }
    if any(each.kind is _P.VAR_KEYWORD for each in parameters):
        names |= wanted - {each.name for each in passed if each.kind in _BY_NAME}
    return names


def _binds(bind: Callable[..., object], count: int, names: set[str]) -> bool:
    try:
        bind(*[None] * count, **dict.fromkeys(names))
    except TypeError:
        return False
    return True
