"""`StrategyCall`: what a strategy of a user may know of the call that it orders targets for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.exported import exported
from resilient_llm._values.sticky import Sticky


@exported
@dataclass(frozen=True, slots=True, repr=False)
class StrategyCall:
    """The call that a strategy orders targets for.

    Attributes:
        args: Its positional arguments as they were passed, ``self`` included; empty in the loop
            form.
        kwargs: Its keyword arguments as they were passed, read-only: ``call.kwargs.get("user")``
            and ``fn(**call.kwargs)`` work, changes are a TypeError.
        call_id: Name of the call, the same in its events.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    call_id: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "kwargs", MappingProxyType(dict(self.kwargs)))

    def __reduce__(self) -> tuple[Any, ...]:
        return StrategyCall, (self.args, dict(self.kwargs), self.call_id)

    def __repr__(self) -> str:
        # Arguments must not reach a log.
        return f"StrategyCall(call_id={self.call_id!r})"


def wants_call(strategy: Any) -> bool:
    """Return whether a value of ``strategy=`` needs to know the arguments of each call."""
    return isinstance(strategy, Sticky) or (callable(strategy) and takes_call(strategy))


def takes_call(strategy: Callable[..., Any]) -> bool:
    """Return whether a strategy takes ``(targets, call)``, and not only the targets.

    It does if its second positional parameter is required or named ``call``.
    """
    import inspect  # here: most programs have no such strategy

    try:
        parameters = inspect.signature(strategy).parameters.values()
    except (TypeError, ValueError):  # written in C
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [each for each in parameters if each.kind in kinds]
    return len(positional) > 1 and (
        positional[1].default is inspect.Parameter.empty or positional[1].name == "call"
    )


def checked_strategy(name: str, strategy: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that can be called as a strategy.

    Raises:
        ConfigurationError: If it can take neither ``(targets)`` nor ``(targets, call)``.
    """
    import inspect

    given = ((), None) if takes_call(strategy) else ((),)
    try:
        inspect.signature(strategy).bind(*given)
    except ValueError:  # written in C
        pass
    except TypeError:
        raise ConfigurationError(
            f"{name} is a function that takes neither (targets) nor (targets, call): "
            "write one that takes the targets, and the call if it needs that"
        ) from None
    return strategy
