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
from resilient_llm._binding.expansions import Expansions
from resilient_llm._binding.injection import (
    Injection,
    can_be_hedged,
    injection_of,
    keeps_limits,
)
from resilient_llm._binding.method_copy import copy_of_method
from resilient_llm._binding.options_in_force import unusable_defaults
from resilient_llm._binding.tool_loops import check_tool_loop
from resilient_llm._binding.wrapper_code import Codes, Kind, generate
from resilient_llm._runtime.chains import Abilities, note_function
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._values.policy import Declared


_COPIED: Final = tuple(
    name for name in functools.WRAPPER_ASSIGNMENTS if not name.startswith("__annot")
)
"""Attributes that a wrapper has of its function; its annotations lack what is filled in."""


class PolicyHolder(Protocol):
    """The public object of a policy, `Failover`."""

    @property
    def _declared(self) -> Declared: ...
    @property
    def using(self) -> Callable[..., PolicyHolder]: ...


def guarded_function(holder: PolicyHolder, fn: Any) -> Any:
    """Return the function that replaces a decorated one.

    Raises:
        ConfigurationError: If it cannot be guarded, or is given no target.
    """
    injection = checked_injection(holder._declared, fn)
    _warn_of_timeout(holder._declared, injection, stacklevel=4)
    return _wrapper(holder, injection, {})


def checked_injection(declared: Declared, fn: Any) -> Injection:
    """Return how a function is given its target under a policy.

    Raises:
        ConfigurationError: If it cannot be guarded, or is given no target.
    """
    injection = injection_of(fn, every_entry_calls=_every_entry_calls(declared))
    _check(declared, injection)
    return injection


def _every_entry_calls(declared: Declared) -> bool:
    """Return whether every target has its own ``call=``; of a name, nobody can tell yet."""
    plan = declared.plan
    return not plan.is_late and all(target.call is not None for target in plan.targets)


def _check(declared: Declared, injection: Injection) -> None:
    _check_limits(declared, injection)
    _check_hedge(declared, injection)
    check_asked(declared.options, injection)
    check_tool_loop(declared.options, injection)


def _check_hedge(declared: Declared, injection: Injection) -> None:
    """Refuse a hedge beside attempts that nothing could stop."""
    if declared.options.hedge is not None and not can_be_hedged(injection, declared.plan.targets):
        raise ConfigurationError(
            "hedge needs an asynchronous function: an attempt in a thread cannot be stopped once "
            "another has answered; decorate an async function, or annotate what a plain one "
            "returns, as in `-> Awaitable[str]`; each call= of the chain needs the same"
        )


def _check_limits(declared: Declared, injection: Injection) -> None:
    """Refuse an attempt timeout that nothing could enforce."""
    # Whatever target a name stands for, it is called as one without options.
    targets = declared.plan.targets or (_ANY,)
    if not keeps_limits(injection, targets, declared.options.attempt_timeout):
        raise ConfigurationError(
            "attempt_timeout cannot cut a synchronous function off: "
            "give it a parameter annotated Attempt and pass attempt.remaining to the client, "
            "or decorate an async function; "
            "for streams there is stream=StreamPolicy(first_item_timeout=…)"
        )


_ANY: Final = Target("any/target")
_LATER: Final = re.compile("iter|generator|stream|awaitable|coroutine|future|task", re.IGNORECASE)
"""In a return annotation: the function gives what is waited for later, and that has a limit."""


def _warn_of_timeout(declared: Declared, injection: Injection, *, stacklevel: int) -> None:
    """Warn, where the option is written, of a deadline that ends no attempt."""
    timeout, targets = declared.options.timeout, declared.plan.targets or (_ANY,)
    if (
        timeout is None
        or declared.options.stream is not None
        or any(target.stream is not None for target in targets)
        or keeps_limits(injection, targets, timeout)
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
    declared, fn = holder._declared, injection.fn
    note_function(holder, fn, _abilities(declared, injection))
    expansions = Expansions(declared, injection)
    caller = expansions.caller_now()
    kind = Kind(caller is not None and caller.calls_by_invoker)
    if kind not in codes:
        codes[kind] = generate(injection, kind)
    code, prefix, defaults, keyword_defaults = codes[kind]
    if caller is None:  # each call finds out its targets, or a name is defined later
        code, names = expansions.front()
    else:
        names = caller.wrap(prefix, codes)
    wrapper: Any = types.FunctionType(code, names, _name(fn), defaults)
    if not injection.gives_items:
        expansions.own(wrapper)
    if caller is not None:
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


def _abilities(declared: Declared, injection: Injection) -> Abilities:
    """Return which options a decorated function can use."""
    accepts = None
    if injection.first is None and "target" not in injection.names and not injection.var_keyword:
        names = (each.name for each in injection.visible if injection.accepts(each.name))
        accepts = frozenset(names)
    return Abilities(
        unusable_defaults(injection, declared.plan.targets),
        keeps_limits(injection, (_ANY,), 1.0),
        accepts,
    )


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
        _check(changed._declared, self._injection)
        if not self._injection.takes_target and not _every_entry_calls(changed._declared):
            raise ConfigurationError(
                f"{_name(self._injection.fn)} is given no target: "
                "every entry of the chain needs its own call="
            )
        if "timeout" in changes:
            _warn_of_timeout(changed._declared, self._injection, stacklevel=3)
        return _wrapper(changed, self._injection, self._codes, is_copy=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Copies, (
            self._holder,
            self._injection,
            {},
        )  # no version of Python reads others' code
