"""The conditions of a rule: which there are, how their values are checked, and what tests them.

google-re2 searches for ``regex``, since `re` can take exponential time. It is imported when a
condition needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping  # noqa: TC003  # users resolve the annotations
from typing import Any, Final, TypedDict

from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError

_PINNING: Final = ("target", "model", "provider")
"""Arguments by which a caller may choose a target; the function is given them otherwise."""
_MEMORY: Final = 2 * 1024 * 1024
"""Bytes that one pattern may use, compiled and while it searches."""
_INSTALL: Final = "regex needs the package google-re2: pip install resilient_llm[regex]"

Test = tuple[str, Any]
"""A condition, and what tests it: see `tests_of`."""


class RuleConditions(TypedDict, total=False):
    """The conditions that `chains.rule` takes."""

    model: str
    min_tokens: int
    has_image: bool
    has_tools: bool
    min_code_share: float
    contains: str
    regex: str
    where: Callable[..., object]


def checked_conditions(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conditions of a rule with their values checked, in the order given.

    A pattern of ``regex`` is checked by `tests_of`, which compiles it.

    Raises:
        ConfigurationError: If there is none, one is not known, or a value is not allowed.
    """
    given = check.mapping("conditions", conditions)
    for name in given:
        if name not in _CHECKS:
            near = check.near_names(name, _CHECKS)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise ConfigurationError(
                f"a rule has no condition {name!r}: {hint}there are {', '.join(_CHECKS)}"
            )
    if not given:
        raise ConfigurationError(f"a rule needs at least one condition of {', '.join(_CHECKS)}")
    return {name: _CHECKS[name](name, value) for name, value in given.items()}


def tests_of(conditions: Mapping[str, Any]) -> tuple[Test, ...]:
    """Return what tests each of some checked conditions, the cheap ones first.

    That is a function that finds the pattern for ``model`` and ``regex``; a function and the
    names of the pinning arguments that it cannot take for ``where``; else the value.

    Raises:
        ConfigurationError: If ``regex`` is no pattern, or google-re2 is not installed.
    """
    prepare = {"model": _glob, "regex": _search, "where": _where}
    return tuple(
        (name, prepare[name](conditions[name]) if name in prepare else conditions[name])
        for name in _CHEAP_FIRST
        if name in conditions
    )


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        # Not the value itself, which may be what a variable of the environment holds.
        raise ConfigurationError(
            f"{name} of type {type(value).__name__} is not allowed: write a text"
        )
    if not value:
        raise ConfigurationError(f"{name}='' is not allowed: write a text that is not empty")
    return str.__str__(value)


def _function(name: str, value: Any) -> Callable[..., Any]:
    if not callable(value):
        raise ConfigurationError(
            f"{name} of type {type(value).__name__} is not allowed: write a function of a call's "
            "arguments"
        )
    return check.function(name, value)


_CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "model": _text,
    "min_tokens": lambda name, value: check.whole(name, value, low=0),
    "has_image": check.flag,
    "has_tools": check.flag,
    "min_code_share": check.share,
    "contains": _text,
    "regex": _text,
    "where": _function,
}
"""``{condition: function that checks its value}``"""
_CHEAP_FIRST: Final = (
    "model",
    "contains",
    "min_code_share",
    "regex",
    "has_tools",
    "has_image",
    "min_tokens",
    "where",
)
"""All conditions: what reads one argument, one message, the conversation, and all arguments."""


def _glob(glob: str) -> Callable[[str], object]:
    import fnmatch
    import re

    # What `fnmatchcase` does, without the cache that it shares with the whole process.
    return re.compile(fnmatch.translate(glob)).match


def _search(pattern: str) -> Callable[[bytes], object]:
    from importlib import import_module

    try:
        module: Any = import_module("re2")
        options = module.Options()
    except (ImportError, AttributeError):  # or another package of that name
        raise ConfigurationError(_INSTALL) from None
    options.log_errors = False  # to stderr, with the pattern
    options.never_capture = True
    options.max_mem = _MEMORY
    try:
        return module.compile(pattern, options).search
    except (module.error, UnicodeError) as error:
        why = _why(error)
    raise ConfigurationError(
        f"regex is not a pattern of RE2: {why}; it has neither look-arounds nor backreferences, "
        "see https://github.com/google/re2/wiki/Syntax"
    )


def _why(error: Exception) -> str:
    """Return what RE2 says of a pattern, without the part of it that is meant."""
    if isinstance(error, UnicodeError):
        return "it holds half of a character"
    said: Any = error.args[0] if error.args else b""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    # "missing ): (ab", and in one message a dash is the sign.
    return text.partition(": ")[0].partition(" - ")[0] or "it cannot be compiled"


def _where(function: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[str, ...]]:
    import inspect

    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C
        return function, ()
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return function, ()
    by_name = {
        name
        for name, each in parameters.items()
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
    return function, tuple(name for name in _PINNING if name not in by_name)
