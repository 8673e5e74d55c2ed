"""Reads a function's signature: where it takes its target, and how to call it with one."""

from __future__ import annotations

import copy
import functools
import inspect
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from resilient_llm._binding.annotations import (
    asks_for,
    gives_awaitable,
    innermost,
    signature_of,
)
from resilient_llm._binding.target_advice import how_to_take_target
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.target import Attempt, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from resilient_llm._binding.first_attempt import FirstAttempt
    from resilient_llm._core.call.steps import Try

NAMES: Final = ("target", "model", "provider")
_P = inspect.Parameter


class Injection:
    """The parameters through which one function takes its target and its `Attempt`."""

    __slots__ = (
        "attempt",
        "attempt_index",
        "called",
        "first",
        "fn",
        "gives_items",
        "is_async",
        "is_asynchronous",
        "is_loop",
        "is_passed",
        "names",
        "parameters",
        "routed",
        "signature",
        "taken",
        "var_keyword",
        "visible",
    )

    def __init__(self, fn: Callable[..., Any], signature: inspect.Signature) -> None:
        self.fn = fn
        self.called = _full_name(fn)
        """What metrics call it: ``module.qualname``."""
        self.is_passed = False
        """Whether the function is the first argument of each call, instead of ``fn``."""
        self.is_loop = False
        """Whether the body of a loop is the attempt, so that a call has no arguments."""
        self.is_async = _is_async(fn)
        self.gives_items: Literal["", "sync", "async"] = _gives_items(fn)
        """Which kind of generator function it is; empty if it is none."""
        self.is_asynchronous = _is_asynchronous(fn, signature)
        """Whether its attempts can be stopped, as far as can be told before they are made."""
        self.parameters = tuple(signature.parameters.values())
        self.first = _first_target(fn, self.parameters)
        """Index of the positional parameter that is filled with the target, or None."""
        self.names = tuple(
            p.name for p in self.parameters if p.kind is _P.KEYWORD_ONLY and p.name in NAMES
        )
        if self.first is not None:
            self.names = ()
        self.attempt: str | None = None
        self.attempt_index: int | None = None
        for index, parameter in enumerate(self.parameters):
            if asks_for(fn, parameter, Attempt):
                self.attempt = parameter.name
                if parameter.kind in (_P.POSITIONAL_ONLY, _P.POSITIONAL_OR_KEYWORD):
                    self.attempt_index = index
        self.var_keyword = any(p.kind is _P.VAR_KEYWORD for p in self.parameters)
        self.taken = self._taken_name()
        """What no caller may pass, though the signature lets it through; None if there is none."""
        hidden = {self.attempt, None if self.first is None else self.parameters[self.first].name}
        self.signature = signature
        self.visible = tuple(p for p in self.parameters if p.name not in hidden)
        """The parameters that callers see."""
        self.routed: Any = None
        """What reads the arguments of its calls for routes, once one does."""

    def _taken_name(self) -> str | None:
        """Return the name of the target's parameter, if ``**kwargs`` beside it may have it too."""
        if self.first is None or not self.var_keyword:
            return None
        parameter = self.parameters[self.first]
        return None if parameter.kind is _P.POSITIONAL_ONLY else parameter.name

    def refuse_taken(self) -> NoReturn:
        """Refuse a call that names the target's parameter.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            f"{self.called}() got an argument {self.taken!r}, which its chain fills in: to pin "
            "calls to a target, take that by a keyword-only parameter instead of the first one, "
            "as in `def ask(prompt, *, target=None, **kwargs)`"
        )

    @property
    def outer(self) -> inspect.Signature:
        """The signature that callers see."""
        return self.signature.replace(parameters=self.visible)

    def passed(self) -> Injection:
        """Return the same for a function that is passed as the first argument of each call."""
        passed = copy.copy(self)
        passed.fn, passed.is_passed, passed.routed = _call_first, True, None
        leading = _P("_fn", _P.POSITIONAL_ONLY)
        while any(p.name == leading.name for p in self.parameters):
            leading = leading.replace(name=f"_{leading.name}")
        passed.parameters = (leading, *self.parameters)
        passed.visible = (leading, *self.visible)
        passed.first = None if self.first is None else self.first + 1
        if self.attempt_index is not None:
            passed.attempt_index = self.attempt_index + 1
        return passed

    @property
    def takes_target(self) -> bool:
        """Whether the function is given its target at all."""
        return self.first is not None or bool(self.names)

    @property
    def defaults_of_names(self) -> dict[str, Any]:
        """The parameters that are filled in by name, each with its own default."""
        return {p.name: p.default for p in self.parameters if p.name in self.names}

    def accepts(self, keyword: str) -> bool:
        """Return whether the function takes this keyword argument."""
        return self.var_keyword or any(
            p.name == keyword and p.kind in (_P.POSITIONAL_OR_KEYWORD, _P.KEYWORD_ONLY)
            for p in self.parameters
        )

    def position(self, keyword: str) -> int | None:
        """Return where callers may pass this argument by position, or None."""
        for index, parameter in enumerate(self.visible):
            if parameter.kind is not _P.POSITIONAL_OR_KEYWORD:
                if parameter.kind is not _P.POSITIONAL_ONLY:
                    return None
            elif parameter.name == keyword:
                return index
        return None

    def rebound(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], changes: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return a call's arguments with other values for some, however those were passed."""
        positions = {name: self.position(name) for name in changes}
        return _merged(args, kwargs, list(changes.items()), frozenset(), positions)

    def invoker(
        self, target: Target
    ) -> Callable[[Try | FirstAttempt, tuple[Any, ...], dict[str, Any]], Any]:
        """Return a function that calls the decorated one for one target."""
        fn, first, names = self.fn, self.first, self.names
        given = {"target": target, "model": target.model, "provider": target.provider}
        params = [(name, value) for name, value in target.params.items() if self.accepts(name)]
        # The wrapper passes such an argument by position, so its default replaces it.
        params += [
            (p.name, p.default)
            for p in self.visible
            if p.name in target.removed
            and p.default is not _P.empty
            and self.position(p.name) is not None
        ]
        positions = {name: self.position(name) for name, _ in params}

        def invoke(step: Try | FirstAttempt, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if params or target.removed:
                args, kwargs = _merged(args, kwargs, params, target.removed, positions)
            if names:
                kwargs = {**{name: given[name] for name in names}, **kwargs}
            if first is not None:
                args = (*args[:first], target, *args[first:])
            if self.attempt is not None:
                attempt = _attempt(target, step.number, step.limit, step.call_id)
                index = self.attempt_index
                if index is not None and index <= len(args):
                    args = (*args[:index], attempt, *args[index:])
                else:
                    kwargs = {**kwargs, self.attempt: attempt}
            return fn(*args, **kwargs)

        return invoke


def keeps_limits(injection: Injection, chain: Sequence[Target], general: float | None) -> bool:
    """Return whether every attempt that has a limit can keep it, or is told of it.

    Args:
        injection: How the function is given its target.
        chain: The targets that it is called for.
        general: Limit of the targets that have none of their own, in seconds.
    """
    if injection.is_async or injection.gives_items or injection.attempt is not None:
        return True
    return all(
        (general is None and target.attempt_timeout is None)
        or (target.call is not None and _knows_limit(target.call))
        for target in chain
    )


def can_be_hedged(injection: Injection, chain: Sequence[Target]) -> bool:
    """Return whether every attempt of a function can be stopped once another has answered."""
    return not injection.is_loop and all(
        injection.is_asynchronous
        if target.call is None
        else injection_of(target.call, every_entry_calls=True).is_asynchronous
        for target in chain
    )


def _knows_limit(fn: Callable[..., Any]) -> bool:
    injection = injection_of(fn, every_entry_calls=True)
    return injection.is_async or injection.attempt is not None


_new = object.__new__
_put_target, _put_number, _put_remaining, _put_call_id = (
    vars(Attempt)[name].__set__ for name in ("target", "number", "remaining", "call_id")
)


def _attempt(target: Target, number: int, remaining: float | None, call_id: str) -> Attempt:
    """Return an `Attempt`, in half the time that its frozen class takes."""
    attempt = _new(Attempt)
    _put_target(attempt, target)
    _put_number(attempt, number)
    _put_remaining(attempt, remaining)
    _put_call_id(attempt, call_id)
    return attempt


def _call_first(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return fn(*args, **kwargs)


def _merged(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    params: Sequence[tuple[str, Any]],
    removed: frozenset[str],
    positions: dict[str, int | None],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments, overridden by a target's params and without those it removes."""
    kwargs = {name: value for name, value in kwargs.items() if name not in removed}
    passed = list(args)
    for name, value in params:
        position = positions[name]
        if position is not None and position < len(passed):
            passed[position] = value
        elif name not in removed:
            kwargs[name] = value
    return tuple(passed), kwargs


def injection_of(fn: Any, *, every_entry_calls: bool = False) -> Injection:
    """Return how a function takes its target.

    Args:
        fn: What is decorated, or a target's ``call=``.
        every_entry_calls: Whether every target has its own ``call=``, so that the function
            need not take one.

    Raises:
        ConfigurationError: If it is not a function, or takes no target.
    """
    name = getattr(fn, "__name__", type(fn).__name__)
    if not callable(fn) or inspect.isclass(fn):
        raise ConfigurationError(
            f"{name} cannot be guarded: decorate a function, a method or a callable object"
        )
    try:
        signature = signature_of(fn)
    except (TypeError, ValueError):
        if not every_entry_calls:
            raise ConfigurationError(
                f"{name} has no signature to look at: wrap it in a function of your own"
            ) from None
        signature = inspect.Signature([_P("args", _P.VAR_POSITIONAL), _P("kwargs", _P.VAR_KEYWORD)])
    injection = Injection(fn, signature)
    if not injection.takes_target and not every_entry_calls:
        raise ConfigurationError(f"{name} is given no target: {how_to_take_target(fn, signature)}")
    return injection


def _is_async(fn: Any) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(innermost(fn))


_MOST_WRAPPERS: Final = 100
"""Decorators and partials that are looked below; a function may name itself as wrapped."""


def _is_asynchronous(fn: Any, signature: inspect.Signature) -> bool:
    """Return whether a function, or one that it wraps, is asynchronous by kind or annotation."""
    for _ in range(_MOST_WRAPPERS):
        if _is_async(fn) or _gives_items(fn) == "async":
            return True
        wrapped = fn.func if isinstance(fn, functools.partial) else _wrapped_by(fn)
        if wrapped is None:
            break
        fn = wrapped
    return gives_awaitable(fn, signature.return_annotation)


def _wrapped_by(fn: Any) -> Any:
    try:
        return getattr(fn, "__wrapped__", None)
    except Exception:  # noqa: BLE001  # anybody's object may raise anything
        return None


def _gives_items(fn: Any) -> Literal["", "sync", "async"]:
    for each in (fn, innermost(fn)):
        if inspect.isgeneratorfunction(each):
            return "sync"
        if inspect.isasyncgenfunction(each):
            return "async"
    return ""


def _first_target(fn: Any, parameters: Sequence[inspect.Parameter]) -> int | None:
    positional = [p for p in parameters if p.kind in (_P.POSITIONAL_ONLY, _P.POSITIONAL_OR_KEYWORD)]
    start = 1 if positional and positional[0].name in ("self", "cls") else 0
    if len(positional) <= start:
        return None
    first = positional[start]
    if asks_for(fn, first, Target):
        return start
    if first.name == "target" and first.annotation is _P.empty:
        name = getattr(fn, "__name__", type(fn).__name__)
        raise ConfigurationError(
            f"the first parameter of {name} is named target and has no annotation: "
            f"{how_to_take_target(fn, inspect.Signature(parameters))}"
        )
    return None


@functools.cache
def loop_injection(*, is_async: bool) -> Injection:
    """Return the injection of the loop form, where the body of the loop is the attempt."""

    def block(*, target: Target) -> None: ...

    injection = Injection(block, inspect.signature(block))
    injection.called = "(loop)"
    injection.is_async = is_async
    injection.is_loop = True
    injection.var_keyword = True  # the block reads target.params by itself
    injection.attempt = "attempt"  # and gets its limit from the `LoopAttempt` that it enters
    return injection


def _full_name(fn: Any) -> str:
    """Return ``module.qualname`` of a function, or of the class of a callable object."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    named = fn
    if not isinstance(getattr(fn, "__qualname__", None), str):
        named = fn.__class__
    module: Any = getattr(named, "__module__", None)
    return f"{module}.{named.__qualname__}" if isinstance(module, str) else named.__qualname__
