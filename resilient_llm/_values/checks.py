"""Checks of option values: each returns the value or raises an error with what is allowed."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final, Literal, overload

from resilient_llm._values.errors import ConfigurationError


def refuse(name: str, value: object, allowed: str) -> ConfigurationError:
    if isinstance(value, int) and not _is_finite(value):
        # Python refuses to write thousands of digits.
        shown = f"a number of {value.bit_length()} bits"
    elif isinstance(value, (bool, int, float, str)) or value is None:
        shown = repr(value)
    else:
        shown = type(value).__name__
    return ConfigurationError(f"{name}={shown} is not allowed: write {allowed}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float can hold
        return False


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    low: float | None = None,
    high: float | None = None,
) -> float:
    """Return a finite number in the range; ``above`` is exclusive, ``low`` and ``high`` are not."""
    allowed = "a number"
    if above is not None:
        allowed += f" above {above:g}"
    if low is not None:
        allowed += f" from {low:g}"
    if high is not None:
        allowed += f" to {high:g}"
    # True is an int to Python, but never meant as a number.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
        raise refuse(name, value, allowed)
    if (
        (above is not None and value <= above)
        or (low is not None and value < low)
        or (high is not None and value > high)
    ):
        raise refuse(name, value, allowed)
    return float(value)


@overload
def seconds(
    name: str, value: Any, *, optional: Literal[False] = False, zero: bool = False
) -> float: ...
@overload
def seconds(name: str, value: Any, *, optional: bool, zero: bool = False) -> float | None: ...
def seconds(name: str, value: Any, *, optional: bool = False, zero: bool = False) -> float | None:
    """Return a duration in seconds, above zero unless ``zero`` is allowed."""
    if value is None and optional:
        return None
    if type(value) is _timedelta():
        duration: Any = value
        value = duration.total_seconds()
    try:
        return number(name, value, low=0.0) if zero else number(name, value, above=0.0)
    except ConfigurationError:
        allowed = "a finite number of seconds, " + ("0 or more" if zero else "above 0")
        raise refuse(name, value, allowed + (", or None" if optional else "")) from None


def seconds_between(name: str, value: Any, low: float, high: float) -> float:
    """Return a duration in seconds in a range, both ends included."""
    given = value.total_seconds() if type(value) is _timedelta() else value
    try:
        return number(name, given, low=low, high=high)
    except ConfigurationError:
        raise refuse(name, value, f"a number of seconds from {low:g} to {high:g}") from None


def _timedelta() -> Any:
    """Return the class, if anything has loaded it."""
    return getattr(sys.modules.get("datetime"), "timedelta", _timedelta)


@overload
def whole(name: str, value: Any, *, low: int | None, optional: Literal[False] = False) -> int: ...
@overload
def whole(name: str, value: Any, *, low: int | None, optional: bool) -> int | None: ...
def whole(name: str, value: Any, *, low: int | None, optional: bool = False) -> int | None:
    """Return a whole number, at least ``low``, and not larger than any size can be."""
    if value is None and optional:
        return None
    if isinstance(value, int) and abs(value) > sys.maxsize:
        raise refuse(name, value, f"a whole number, {sys.maxsize} or less")
    if isinstance(value, bool) or not isinstance(value, int) or (low is not None and value < low):
        allowed = "a whole number" + ("" if low is None else f", {low} or more")
        raise refuse(name, value, allowed + (", or None" if optional else ""))
    return value


def share(name: str, value: Any) -> float:
    """Return a share in (0, 1]."""
    return number(name, value, above=0.0, high=1.0)


def choice(name: str, value: Any, allowed: Iterable[str], *, also: str = "") -> str:
    """Return one of the allowed words; ``also`` says what else the caller allows."""
    words_allowed = tuple(allowed)
    if isinstance(value, str) and value in words_allowed:
        return value
    listed = " or ".join([repr(word) for word in words_allowed] + ([also] if also else []))
    near = near_names(value, words_allowed) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise refuse(name, value, listed + hint)


def flag(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise refuse(name, value, "True or False")
    return value


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Return a dict of the mapping, whose keys are texts."""
    if not isinstance(value, Mapping):
        # Not the value itself: a text may be a header, a key, or a prompt.
        raise ConfigurationError(
            f"{name} of type {type(value).__name__} is not allowed: "
            "write a mapping of keywords to values"
        )
    result: dict[str, Any] = dict(value)  # pyright: ignore[reportUnknownArgumentType]  # users' input
    for key in result:
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' input
            raise ConfigurationError(f"{name} has a key that is no text: {type(key).__name__}")
    return result


LONGEST_NOTE: Final = 200
"""Characters of the longest text that an operator may write to a bench."""


def note(name: str, value: Any) -> str:
    """Return what an operator wrote, which may be empty; the message does not repeat it."""
    if not isinstance(value, str):
        raise ConfigurationError(
            f"{name} of type {type(value).__name__} is not allowed: write a text"
        )
    if len(value) > LONGEST_NOTE:
        raise ConfigurationError(
            f"{name} of {len(value)} characters is too long: at most {LONGEST_NOTE} are allowed"
        )
    return value


def words(name: str, value: Any) -> frozenset[str]:
    """Return a set of words; a bare text is refused, since iterating it gives letters."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise refuse(name, value, "a sequence of words")
    result: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]  # users' input
    for word in result:
        if not isinstance(word, str) or not word:
            raise refuse(name, word, "a sequence of words")
    return frozenset(result)


LONGEST_WORD: Final = 40
"""Characters of the longest word that events may show."""
_MOST_WORDS: Final = 100
_SEPARATORS: Final = ",;|"
"""Characters by which people separate words in a text; no word has one."""


def words_or_word(name: str, value: Any) -> frozenset[str]:
    """Return a set of words; a single text is one word.

    Events and messages show these words, so a text that may be a prompt is refused unseen.
    """
    given: Any = (value,) if isinstance(value, str) else value
    if not isinstance(given, Iterable):
        raise refuse(name, value, "a word or a sequence of words, or None")
    found: list[Any] = list(islice(given, _MOST_WORDS + 1))  # pyright: ignore[reportUnknownArgumentType]  # users' input
    if len(found) > _MOST_WORDS:
        raise ConfigurationError(f"{name} has more than {_MOST_WORDS} words")
    for word in found:
        if not isinstance(word, str):
            raise ConfigurationError(
                f"{name} holds something of type {type(word).__name__}: write words, "
                "such as 'tools'"
            )
        if not 0 < len(word) <= LONGEST_WORD or not word.isprintable() or " " in word:
            raise ConfigurationError(
                f"{name} holds a text of {len(word)} characters that is no word: write words "
                f"without blanks, of at most {LONGEST_WORD} characters, such as 'tools'"
            )
        if any(each in word for each in _SEPARATORS):
            # As one word it would match nothing, and the target would be skipped in silence.
            raise ConfigurationError(
                f"{name} holds a text with several words in it, which is not allowed: write a "
                "list of words, such as ['tools', 'vision']"
            )
    return frozenset(found)


def function(name: str, value: Any) -> Any:
    """Return a function whose result is used at once, so a coroutine function is refused."""
    if not callable(value):
        raise ConfigurationError(
            f"{name} of type {type(value).__name__} is not allowed: write a function, or None"
        )
    if is_async(value):
        raise ConfigurationError(
            f"{name} is an async function, which is not allowed: its result is used at once; "
            "write a plain function"
        )
    return value


def can_be_called(value: Any) -> bool:
    """Return whether a function can be called without arguments, as far as that can be told."""
    import inspect

    try:
        inspect.signature(value).bind()
    except ValueError:  # written in C
        return True
    except TypeError:
        return False
    return True


def is_async(value: Any) -> bool:
    """Return whether a call of this gives a coroutine or an asynchronous generator.

    That is an async function, or an object whose class has one as ``__call__``.
    """
    import inspect

    return any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each)
        for each in (value, type(value).__call__)
    )


def event_types(types: Iterable[Any]) -> None:
    """Raise ConfigurationError if one of these is not a class of events."""
    from resilient_llm._values.events import Event  # here: it takes a while to build the classes

    for each in types:
        if not isinstance(each, type) or not issubclass(each, Event):
            raise ConfigurationError(
                f"{each!r} is no type of event: write classes such as TargetBenched"
            )


def unknown_names(what: str, names: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise ConfigurationError if one of the names is not among the allowed."""
    known = tuple(allowed)
    for name in names:
        if name not in known:
            meant = _OTHER_NAMES.get(name, "")
            # A chain is not an option: it is the one argument beside the options of `failover()`.
            is_argument = meant == "chain" and what == "failover()"
            near = [meant] if is_argument or meant in known else near_names(name, known)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise ConfigurationError(
                f"{what} has no option {name!r}: {hint}allowed are {', '.join(known)}"
            )


_OTHER_NAMES: Final = {
    "retries": "attempts",
    "num_retries": "attempts",
    "max_retries": "attempts",
    "tries": "attempts",
    "max_tries": "attempts",
    "stop": "attempts",
    "wait": "backoff",
    "delay": "backoff",
    "fallback": "chain",
    "fallbacks": "chain",
    "models": "chain",
    "targets": "chain",
    "callbacks": "observers",
    "retry_if": "classify",
    "reject_if": "reject",
    "validate": "reject",
    "deadline": "timeout",
    "request_timeout": "attempt_timeout",
    "cooldown_time": "cooldown",
    "recovery_timeout": "cooldown",
    "reset_timeout": "cooldown",
    "failure_threshold": "failures",
    "fail_max": "failures",
    "allowed_fails": "failures",
    "success_threshold": "successes_to_close",
}
"""Names that other libraries have for the same, by which their users look for it."""


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names that a misspelt one may stand for, the nearest first."""
    import difflib  # only for messages

    return difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.75)
