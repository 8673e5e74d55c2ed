"""What an error means: cancellations, users' rules, the built-in rules, and what is inside.

Owns the users' rules of one process. Knows no provider and no SDK: that is the business of
the built-in rules. Classifying never raises, whatever an error does when it is looked at; what goes
wrong is told to ``on_rule_failed`` and the next sign is asked.

The order: a cancellation is one whatever else is true; users' rules; our own errors; the
built-in rules; and, if none of them knows, the cause of the error or the members of the
group, each by the same order, of which the most severe decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar, cast
from weakref import WeakKeyDictionary

from resilient_llm._errors import (
    CallRejectedError,
    ChainExhaustedError,
    ConfigurationError,
    ResilientLLMError,
    ResponseRejectedError,
)
from resilient_llm._values import ErrorKind, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    Rule = Callable[[BaseException], Verdict | ErrorKind | str | None]
    Judge = Callable[[BaseException, Callable[[], float]], Verdict | None]

F = TypeVar("F", bound="Callable[..., object]")

_CANCELLED: Final = Verdict(ErrorKind.CANCELLED)
_UNKNOWN: Final = Verdict(ErrorKind.UNKNOWN)
_BUG: Final = Verdict(ErrorKind.CALLER_BUG)
_REJECTED: Final = Verdict(ErrorKind.REJECTED)

_KINDS: Final[dict[str, ErrorKind]] = {kind.value: kind for kind in ErrorKind}

# What decides when several errors are inside one, most severe first.
_SEVERITY: Final = {
    kind: rank
    for rank, kind in enumerate(
        (
            ErrorKind.CALLER_BUG,
            ErrorKind.AUTH_DEAD,
            ErrorKind.REQUEST_SPECIFIC,
            ErrorKind.MEMORY_PRESSURE,
            ErrorKind.RATE_LIMITED,
            ErrorKind.TRANSIENT,
            ErrorKind.UNKNOWN,
            ErrorKind.BAD_RESPONSE,
            ErrorKind.REJECTED,
        )
    )
}
# A chain of causes longer than this is a loop of wrapping, and its end says nothing.
_MOST_INSIDE: Final = 200

_CANCELLATIONS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)
# By name: to import asyncio, concurrent.futures or trio for one class each would cost more
# than everything else here. Module and name are those which the classes give themselves.
_CANCELLATION_NAMES: Final = frozenset(
    (
        ("asyncio.exceptions", "CancelledError"),
        ("concurrent.futures._base", "CancelledError"),
        ("trio", "Cancelled"),
        ("trio._core._exceptions", "Cancelled"),
    )
)
_ORDINARY, _CANCELLATION, _OURS, _GROUP = range(4)


def _sort_of(cls: type[BaseException]) -> int:
    if issubclass(cls, _CANCELLATIONS):
        return _CANCELLATION
    if any((base.__module__, base.__name__) in _CANCELLATION_NAMES for base in cls.__mro__):
        return _CANCELLATION
    if issubclass(cls, ResilientLLMError):
        return _OURS
    return _GROUP if issubclass(cls, BaseExceptionGroup) else _ORDINARY


class Classifier:
    """Says what an error means; ``classifier(error) -> Verdict``.

    Safe to be used by many threads: the rules are a tuple that is exchanged as a whole.

    Args:
        wall: Gives seconds since 1970, for hints that are dates.
        judge: What one error says by itself, without what is inside it; the built-in rules
            unless another function stands in for them.

    Attributes:
        on_rule_failed: Told the error of a rule that raised or returned something it may
            not; None if nobody wants to know.
    """

    __slots__ = ("_judge", "_rules", "_sorts", "_wall", "on_rule_failed")

    def __init__(self, wall: Callable[[], float], judge: Judge | None = None) -> None:
        self._wall = wall
        self._judge = judge
        self._rules: tuple[Rule, ...] = ()
        self._sorts: WeakKeyDictionary[type[BaseException], int] = WeakKeyDictionary()
        self.on_rule_failed: Callable[[BaseException], None] | None = None

    def __call__(self, error: BaseException) -> Verdict:
        """Return what the error means; never raises."""
        try:
            return self._classify(error)
        except Exception as failure:  # noqa: BLE001  # an error that resists being looked at
            self._tell(failure)
            return _UNKNOWN

    def _built_in(self) -> Judge:
        # Loaded with the first error: an import that never sees one need not pay for the tables.
        from resilient_llm.rules import judge

        self._judge = judge
        return judge

    def rule(self, function: F) -> F:
        """Register a rule ``error -> Verdict | ErrorKind | kind's word | None``; also a decorator.

        Rules are asked before the built-in ones, the newest first, so that an application
        may overrule what a library it uses has registered. They are not asked about
        cancellations, which nothing may turn into failures. A rule that raises is skipped.

        Raises:
            ConfigurationError: If it is not callable.
        """
        if not callable(function):
            raise ConfigurationError(f"a rule is a function error -> Verdict or None, not {type(function).__name__}")
        self._rules = (cast("Rule", function), *self._rules)
        return function

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The users' rules, in the order they are asked."""
        return self._rules

    def replace_rules(self, rules: tuple[Rule, ...]) -> None:
        """Put back what ``rules`` gave, as tests do."""
        self._rules = tuple(rules)

    def _classify(self, error: BaseException) -> Verdict:
        sort = self._sort(error)
        if sort == _CANCELLATION or (sort == _GROUP and self._has_cancellation(error)):
            return _CANCELLED
        return self._own(error, sort) or self._inside(error, sort)

    def _sort(self, error: BaseException) -> int:
        cls = type(error)
        sort = self._sorts.get(cls)
        if sort is None:
            sort = self._sorts[cls] = _sort_of(cls)
        return sort

    def _own(self, error: BaseException, sort: int) -> Verdict | None:
        """Return what the error says by itself."""
        if self._rules:
            verdict = self._asked(error)
            if verdict is not None:
                return verdict
        if sort == _OURS:
            return _of_ours(error)
        if sort == _GROUP:
            return None
        try:
            judge = self._judge or self._built_in()
            return judge(error, self._wall)
        except Exception as failure:  # noqa: BLE001  # a property or a number of somebody else's class
            self._tell(failure)
            return None

    def _asked(self, error: BaseException) -> Verdict | None:
        for rule in self._rules:
            try:
                answer = cast("object", rule(error))  # users write rules
                if answer is None:
                    continue
                if isinstance(answer, Verdict):
                    return answer
                kind = _KINDS.get(answer) if isinstance(answer, str) else None
                if kind is not None:
                    return Verdict(kind)
                raise TypeError(f"a rule returned {type(answer).__name__}: return a Verdict, an ErrorKind or None")
            except Exception as failure:  # noqa: BLE001  # users' code never breaks a call
                self._tell(failure)
        return None

    def _tell(self, failure: BaseException) -> None:
        if self.on_rule_failed is None:
            return
        try:
            self.on_rule_failed(failure)
        except Exception:  # noqa: BLE001, S110  # whoever listens must not break a call either
            pass

    def _has_cancellation(self, group: BaseException) -> bool:
        return any(self._sort(member) == _CANCELLATION for member in _leaves(group))

    def _inside(self, error: BaseException, sort: int) -> Verdict:
        """Return the most severe of what is inside an error that says nothing itself."""
        worst: Verdict | None = None
        waiting = [error]
        seen = {id(error)}
        while waiting and len(seen) <= _MOST_INSIDE:
            outer = waiting.pop()
            inner = [one for one in _within(outer) if id(one) not in seen]
            if not inner:
                worst = _worse(worst, _UNKNOWN)
            for one in inner:
                seen.add(id(one))
                kind = self._sort(one)
                if kind == _CANCELLATION:
                    continue
                verdict = self._own(one, kind)
                if verdict is None:
                    waiting.append(one)
                elif verdict.kind is not ErrorKind.CANCELLED:
                    worst = _worse(worst, verdict)
        return worst or _UNKNOWN


def _of_ours(error: BaseException) -> Verdict:
    if isinstance(error, ResponseRejectedError):
        return Verdict(ErrorKind(error.kind), error.reason)
    if isinstance(error, ConfigurationError):
        return _BUG  # raised by no guard: something is written wrong
    if isinstance(error, (CallRejectedError, ChainExhaustedError)) and error.retry_after is not None:
        return Verdict(ErrorKind.REJECTED, retry_after=error.retry_after)
    return _REJECTED


def _within(error: BaseException) -> tuple[BaseException, ...]:
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).exceptions
    cause = error.__cause__
    return () if cause is None else (cause,)


def _leaves(group: BaseException) -> list[BaseException]:
    """Return the errors in a group of groups; a group cannot contain itself."""
    found: list[BaseException] = []
    waiting = [group]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseExceptionGroup):
            waiting.extend(cast("BaseExceptionGroup[BaseException]", one).exceptions)
        else:
            found.append(one)
    return found


def _worse(first: Verdict | None, second: Verdict) -> Verdict:
    if first is None or _SEVERITY[second.kind] < _SEVERITY[first.kind]:
        return second
    return first
