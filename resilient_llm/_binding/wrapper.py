"""Builds the function that replaces a decorated one, with ``.policy`` and ``.using``."""

from __future__ import annotations

import functools
import re
import types
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

from resilient_llm._binding.annotations import SeenSignature, annotations_of
from resilient_llm._binding.asking import check_asked
from resilient_llm._binding.caller import Caller
from resilient_llm._binding.injection import (
    Injection,
    can_be_hedged,
    injection_of,
    keeps_limits,
)
from resilient_llm._binding.method_copy import copy_of_method
from resilient_llm._binding.tool_loops import check_tool_loop
from resilient_llm._binding.wrapper_code import Codes, Kind, generate
from resilient_llm._runtime.chains import note_function
from resilient_llm._values.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._values.policy import Policy


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
    _warn_of_timeout(holder._policy, injection, stacklevel=4)
    return _wrapper(holder, injection, {})


def checked_injection(policy: Policy, fn: Any) -> Injection:
    """Return how a function is given its target under a policy.

    Raises:
        ConfigurationError: If it cannot be guarded, or is given no target.
    """
    injection = injection_of(
        fn, every_entry_calls=all(target.call is not None for target in policy.chain)
    )
    _check_limits(policy, injection)
    _check_hedge(policy, injection)
    check_asked(policy.options, injection)
    check_tool_loop(policy.options, injection)
    return injection


def _check_hedge(policy: Policy, injection: Injection) -> None:
    """Refuse a hedge beside attempts that nothing could stop."""
    if policy.options.hedge is not None and not can_be_hedged(injection, policy.chain):
        raise ConfigurationError(
            "hedge needs an asynchronous function: an attempt in a thread cannot be stopped once "
            "another has answered; decorate an async function, or annotate what a plain one "
            "returns, as in `-> Awaitable[str]`; each call= of the chain needs the same"
        )


def _check_limits(policy: Policy, injection: Injection) -> None:
    """Refuse an attempt timeout that nothing could enforce."""
    if not keeps_limits(injection, policy.chain, policy.options.attempt_timeout):
        raise ConfigurationError(
            "attempt_timeout cannot cut a synchronous function off: "
            "give it a parameter annotated Attempt and pass attempt.remaining to the client, "
            "or decorate an async function; "
            "for streams there is stream=StreamPolicy(first_item_timeout=…)"
        )


_LATER: Final = re.compile("iter|generator|stream|awaitable|coroutine|future|task", re.IGNORECASE)
"""In a return annotation: the function gives what is waited for later, and that has a limit."""


def _warn_of_timeout(policy: Policy, injection: Injection, *, stacklevel: int) -> None:
    """Warn, where the option is written, of a deadline that ends no attempt."""
    timeout = policy.options.timeout
    if (
        timeout is None
        or policy.options.stream is not None
        or any(target.stream is not None for target in policy.chain)
        or keeps_limits(injection, policy.chain, timeout)
        or _LATER.search(str(injection.signature.return_annotation))
    ):
        return
    warnings.warn(
        f"timeout={timeout:g} cannot interrupt {_name(injection.fn)}, which is synchronous: it "
        "ends waits and further attempts, and a late answer is returned as it is; give the "
        "function a parameter annotated Attempt and pass attempt.remaining to the client, or "
        "decorate an async function; if it returns a stream, say stream=StreamPolicy()",
        stacklevel=stacklevel,
    )


def _wrapper(
    holder: PolicyHolder, injection: Injection, codes: Codes, *, is_copy: bool = False
) -> Any:
    """Return a wrapper with its own caller and globals.

    Args:
        holder: The public object of the policy.
        injection: How the function takes its target.
        codes: The code of the function's wrappers, as far as it was generated.
        is_copy: Whether ``.using`` makes it.
    """
    caller = Caller(holder._policy, injection)
    note_function(holder, injection.fn, caller.in_force.unusable)
    kind = Kind(caller.calls_by_invoker)
    if kind not in codes:
        codes[kind] = generate(injection, kind)
    code, prefix, defaults, keyword_defaults = codes[kind]
    fn = injection.fn
    wrapper: Any = types.FunctionType(code, caller.wrap(prefix, codes), _name(fn), defaults)
    caller.wrapper_function = weakref.ref(wrapper)
    caller.pass_arguments_on()
    wrapper.__kwdefaults__ = keyword_defaults or None
    functools.update_wrapper(wrapper, fn, _COPIED)
    hidden = {p.name for p in injection.parameters} - set(injection.outer.parameters)
    wrapper.__annotations__ = {k: v for k, v in annotations_of(fn).items() if k not in hidden}
    wrapper.__signature__ = SeenSignature(injection.outer, fn)
    wrapper.policy = holder
    wrapper.using = _Copies(holder, injection, codes).using
    if is_copy:
        wrapper = copy_of_method(wrapper, injection)
    if injection.gives_items:
        from resilient_llm._binding.stream_function import StreamFunction

        return StreamFunction(fn, wrapper, is_async=injection.gives_items == "async")
    return wrapper


def _name(fn: Any) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


class _Copies:
    """Makes copies of a decorated function; its ``.using`` is the method of this.

    A method, and not an object that is called: `unittest.mock` gives the mock of a function only
    those of its attributes that are functions or methods.
    """

    __slots__ = ("_codes", "_holder", "_injection")

    def __init__(self, holder: PolicyHolder, injection: Injection, codes: Codes) -> None:
        self._holder = holder
        self._injection = injection
        self._codes = codes

    def using(self, **changes: Any) -> Any:
        """Return the function under a policy with other options."""
        changed = self._holder.using(**changes)
        _check_limits(changed._policy, self._injection)
        _check_hedge(changed._policy, self._injection)
        check_asked(changed._policy.options, self._injection)
        check_tool_loop(changed._policy.options, self._injection)
        if not self._injection.takes_target and not all(
            target.call is not None for target in changed._policy.chain
        ):
            raise ConfigurationError(
                f"{_name(self._injection.fn)} is given no target: "
                "every entry of the chain needs its own call="
            )
        if "timeout" in changes:
            _warn_of_timeout(changed._policy, self._injection, stacklevel=3)
        return _wrapper(changed, self._injection, self._codes, is_copy=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Copies, (
            self._holder,
            self._injection,
            {},
        )  # no version of Python reads others' code
