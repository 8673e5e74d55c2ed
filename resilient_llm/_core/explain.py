"""Builds the explanation of a verdict: which error and which rule decided, and why.

The reasons of the built-in rules are passed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm._core.memory_pressure import as_configured
from resilient_llm._values.errors import ResilientLLMError
from resilient_llm._values.explanation import Explanation, Reasons
from resilient_llm._values.kinds import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resilient_llm._values.settings import OnMemoryPressure
    from resilient_llm._values.verdict import Rule, Verdict

_LONGEST_NAME: Final = 80
_LONGEST_PATH: Final = 50


class ClassificationPath:
    """Which errors were looked at on the way to a verdict, and which is inside which.

    Attributes:
        error: The error that was classified.
        decided_by: The error that decided: itself, or one inside it.
        within: ``{id of an error: the error that it is inside}``.
        rules: ``{id of an error: the user's rule that knows it}``.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.decided_by = error
        self.within: dict[int, BaseException] = {}
        self.rules: dict[int, Rule] = {}

    def into(self, group: BaseException, member: BaseException) -> None:
        """Record that a member of a group decided."""
        self.within[id(member)] = group
        self.decided_by = member


def explanation(
    path: ClassificationPath,
    verdict: Verdict,
    why: Callable[[BaseException], Reasons],
    on_memory_pressure: OnMemoryPressure,
) -> Explanation:
    """Return the verdict, as it is under this setting, with its reasons; never raises.

    Args:
        path: The errors that were looked at.
        verdict: The verdict on them.
        why: Gives the reasons of the built-in rules.
        on_memory_pressure: The setting.
    """
    inwards: tuple[str, ...] = ()
    try:
        reasons = _reasons(path, verdict, why)
        inwards = tuple(_inwards(path, path.decided_by))
    except Exception:  # noqa: BLE001  # an error that resists being looked at
        reasons = Reasons("it raises when it is looked at")
    configured = as_configured(verdict, on_memory_pressure)
    if configured is not verdict:
        because = f"{reasons.because}; on_memory_pressure is {on_memory_pressure!r}"
        verdict, reasons = configured, reasons._replace(because=because)
    return Explanation(
        verdict=verdict,
        type_name=name_of(type(path.error)),
        rule=reasons.rule,
        because=reasons.because,
        field=reasons.field,
        path=inwards,
        hint=reasons.hint if verdict.retry_after is not None else "",
    )


def name_of(cls: type) -> str:
    """Return ``package.Class``, shortened and with printable characters only."""
    try:
        package, name = str(cls.__module__)[:_LONGEST_NAME].partition(".")[0], str(cls.__name__)
    except Exception:  # noqa: BLE001  # a metaclass may do anything
        return "a class without a name"
    full = name if package in ("", "builtins") else f"{package}.{name}"
    return "".join(letter if letter.isprintable() else "?" for letter in full[:_LONGEST_NAME])


def _inwards(path: ClassificationPath, error: BaseException) -> Iterator[str]:
    inwards: list[str] = []
    while len(inwards) < _LONGEST_PATH and (outer := path.within.get(id(error))) is not None:
        how = (
            "a member of the group" if issubclass(type(outer), BaseExceptionGroup) else "its cause"
        )
        inwards.append(f"{name_of(type(error))}, {how}")
        error = outer
    return reversed(inwards)


def _reasons(
    path: ClassificationPath, verdict: Verdict, why: Callable[[BaseException], Reasons]
) -> Reasons:
    error = path.decided_by
    if verdict.kind is ErrorKind.CANCELLED:
        return Reasons("a cancellation is one, whatever else is true", rule="_core/classify.py")
    rule = path.rules.get(id(error))
    if rule is not None:
        return Reasons(
            "a rule of yours knows it", rule=f"yours, {_name_of_rule(rule)}", hint="your rule"
        )
    if isinstance(error, ResilientLLMError):
        return Reasons(
            "an error of this library, from an inner guard",
            rule="_core/classify.py",
            hint="the inner error",
        )
    return why(error)


def _name_of_rule(rule: Rule) -> str:
    name: str = getattr(rule, "__qualname__", type(rule).__qualname__)
    return f"{rule.__module__}.{name}"[:_LONGEST_NAME]
