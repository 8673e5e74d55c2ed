"""Builds the function that replaces a decorated one, with ``.policy`` and ``.using``."""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any, Final, Protocol

from resilient_llm._binding.annotations import SeenSignature, annotations_of
from resilient_llm._binding.caller import Caller
from resilient_llm._binding.injection import Injection, injection_of, keeps_limits
from resilient_llm._binding.wrapper_code import generate
from resilient_llm._values.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._values.policy import Policy


Code = tuple[types.CodeType, str, tuple[Any, ...] | None, dict[str, Any]]
"""What `generate` returns."""


_COPIED: Final = tuple(
    name for name in functools.WRAPPER_ASSIGNMENTS if not name.startswith("__annot")
)
"""Attributes that a wrapper has of its function; its annotations lack what is filled in."""


class PolicyHolder(Protocol):
    """The public object of a policy, `Failover`."""

    @property
    def _policy(self) -> Policy: ...
    @property
    def using(self) -> Callable[..., PolicyHolder]: ...


def guarded_function(holder: PolicyHolder, fn: Any) -> Any:
    """Return the function that replaces a decorated one.

    Raises:
        ConfigurationError: If it cannot be guarded, or is given no target.
    """
    injection = checked_injection(holder._policy, fn)

    @functools.cache
    def code_of(*, by_invoker: bool) -> Code:
        return generate(injection, by_invoker=by_invoker)

    return _wrapper(holder, injection, code_of)


def checked_injection(policy: Policy, fn: Any) -> Injection:
    """Return how a function is given its target under a policy.

    Raises:
        ConfigurationError: If it cannot be guarded, or is given no target.
    """
    injection = injection_of(
        fn, every_entry_calls=all(target.call is not None for target in policy.chain)
    )
    _check_limits(policy, injection)
    return injection


def _check_limits(policy: Policy, injection: Injection) -> None:
    """Refuse an attempt timeout that nothing could enforce."""
    if not keeps_limits(injection, policy.chain, policy.options.attempt_timeout):
        raise ConfigurationError(
            "attempt_timeout cannot cut a synchronous function off: "
            "give it a parameter annotated Attempt and pass attempt.remaining to the client, "
            "or decorate an async function; "
            "for streams there is stream=StreamPolicy(first_item_timeout=…)"
        )


def _wrapper(
    holder: PolicyHolder,
    injection: Injection,
    code_of: Callable[..., Code],
) -> Any:
    """Return a wrapper with its own caller and globals.

    Args:
        holder: The public object of the policy.
        injection: How the function takes its target.
        code_of: ``(by_invoker=…)``: returns the code of the function's wrappers.
    """
    caller = Caller(holder._policy, injection)
    code, prefix, defaults, keyword_defaults = code_of(by_invoker=caller.calls_by_invoker)
    fn = injection.fn
    name = getattr(fn, "__name__", type(fn).__name__)
    wrapper: Any = types.FunctionType(code, caller.wrap(code, prefix), name, defaults)
    wrapper.__kwdefaults__ = keyword_defaults or None
    functools.update_wrapper(wrapper, fn, _COPIED)
    hidden = {p.name for p in injection.parameters} - set(injection.outer.parameters)
    wrapper.__annotations__ = {k: v for k, v in annotations_of(fn).items() if k not in hidden}
    wrapper.__signature__ = SeenSignature(injection.outer, fn)
    wrapper.policy = holder

    def using(**changes: Any) -> Any:
        changed = holder.using(**changes)
        _check_limits(changed._policy, injection)
        if not injection.takes_target and not all(
            target.call is not None for target in changed._policy.chain
        ):
            raise ConfigurationError(
                f"{name} is given no target: every entry of the chain needs its own call="
            )
        return _wrapper(changed, injection, code_of)

    wrapper.using = using
    if injection.gives_items:
        from resilient_llm._binding.stream_function import StreamFunction

        return StreamFunction(fn, wrapper)
    return wrapper
