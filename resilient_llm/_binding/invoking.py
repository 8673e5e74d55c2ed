"""How each target of a policy is called: with the decorated function, or with its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._binding.injection import injection_of
from resilient_llm._values.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._binding.injection import Injection
    from resilient_llm._values.target import Target


def invoker_of(
    target: Target, called: Injection, injection: Injection
) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]:
    """Return what calls a target: the function of the call, or the target's own."""
    invoke = called.invoker(target)
    if called is injection or not injection.is_passed:
        return invoke
    return lambda step, args, kwargs: invoke(step, args[1:], kwargs)


def called_injection(target: Target, injection: Injection) -> Injection:
    """Return the injection of a target's own ``call=``, else of the decorated function."""
    if target.call is not None:
        return injection_of(target.call, every_entry_calls=True)
    lost = lost_params(target, injection)
    if lost:
        raise ConfigurationError(
            f"params of {target.key} would be lost: the function takes no {', '.join(lost)}; "
            "give it such a parameter, **kwargs, or a Target"
        )
    return injection


def lost_params(target: Target, injection: Injection) -> list[str]:
    """Return the params of a target that a function neither takes nor sees, sorted."""
    if target.call is not None or injection.first is not None or "target" in injection.names:
        return []
    return sorted(name for name in target.params if not injection.accepts(name))
