"""What an error means: cancellations, users' rules, the built-in rules, and what is inside.

Owns the users' rules of one process. Knows no provider and no SDK: that is the business of
the built-in rules. Classifying never raises, whatever an error does when it is looked at; what goes
wrong is told to ``on_rule_failed`` and the next sign is asked.

The order: a cancellation is one whatever else is true; users' rules; our own errors; the
built-in rules; and, if none of them knows, the cause of the error or the members of the
group, each by the same order, of which the most severe decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from resilient_llm._values.class_cache import ClassCache
from resilient_llm._values.errors import (
    CallRejectedError,
    ChainExhaustedError,
    ConfigurationError,
    ResilientLLMError,
    ResponseRejectedError,
)
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resilient_llm._core.explain import Trail
    from resilient_llm._values.explanation import Explanation

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
# What is longer is a loop of wrapping, or somebody who wants to keep us busy.
MOST_CAUSES: Final = 50
MOST_MEMBERS: Final = 1_000

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
# Those below `_CANCELLATION` are told by what they say themselves.
_ORDINARY, _WRAPPER, _CANCELLATION, _OURS, _GROUP = range(5)


def _find_sort(cls: type) -> int:
    if issubclass(cls, _CANCELLATIONS):
        return _CANCELLATION
    try:
        names = [
            (base.__module__, base.__name__) for base in cls.__mro__ if type(base.__module__) is str
        ]
    except Exception:  # noqa: BLE001  # a metaclass may do anything
        names = []
    if not _CANCELLATION_NAMES.isdisjoint(names):
        return _CANCELLATION
    if issubclass(cls, ResilientLLMError):
        return _OURS
    if (
        cls is RuntimeError or cls is ValueError
    ):  # by identity: to compare classes may call their metaclass
        return _WRAPPER
    return _GROUP if issubclass(cls, BaseExceptionGroup) else _ORDINARY


_sort_of: Final = ClassCache(_find_sort)


class Classifier:
    """Says what an error means; ``classifier(error) -> Verdict``.

    Safe to be used by many threads: the rules are a tuple that is exchanged as a whole.

    Args:
        wall: Gives seconds since 1970, for hints that are dates.
        judge: What one error says by itself, without what is inside it; the built-in rules
            unless another function stands in for them.

    Attributes:
        on_rule_failed: Reply the error of a rule that raised or returned something it may
            not; None if nobody wants to know.
    """

    __slots__ = ("_judge", "_rules", "_wall", "on_rule_failed")

    def __init__(self, wall: Callable[[], float], judge: Judge | None = None) -> None:
        self._wall = wall
        self._judge = judge
        self._rules: tuple[Rule, ...] = ()
        self.on_rule_failed: Callable[[BaseException], None] | None = None

    def __call__(self, error: BaseException) -> Verdict:
        """Return what the error means; never raises."""
        try:
            return self._classify(error)
        except BaseException as failure:  # an error that resists being looked at
            if _sort_of[type(failure)] == _CANCELLATION:
                raise
            self._report_failure(failure)
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
            raise ConfigurationError(
                f"a rule is a function error -> Verdict or None, not {type(function).__name__}"
            )
        self._rules = (cast("Rule", function), *self._rules)
        return function

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The users' rules, in the order they are asked."""
        return self._rules

    def replace_rules(self, rules: tuple[Rule, ...]) -> None:
        """Put back what ``rules`` gave, as tests do."""
        self._rules = tuple(rules)

    def explain(self, error: BaseException) -> Explanation:
        """Return what the error means and why: which rule, by which field; never raises.

        ``str()`` of it is a few lines for a terminal or a chat. They hold words of this
        library, names of classes and of fields, and numbers: no prompt, key or provider's text.
        """
        from resilient_llm._core.explain import Trail, explanation
        from resilient_llm.rules import why

        trail = Trail(error)
        try:
            verdict = self._classify(error, trail)
        except Exception as failure:  # noqa: BLE001  # an error that resists being looked at
            self._report_failure(failure)
            verdict, trail = _UNKNOWN, Trail(error)
        return explanation(trail, verdict, lambda error: why(error, self._wall))

    def _classify(self, error: BaseException, trail: Trail | None = None) -> Verdict:
        sort = _sort_of[type(error)]
        if sort >= _CANCELLATION:
            if sort == _CANCELLATION:
                return _CANCELLED
            if sort == _GROUP and (found := self._cancellation(error)) is not None:
                if trail is not None:
                    trail.into(error, found)
                return _CANCELLED
        return self._own(error, sort, trail) or self._inside(error, trail)

    def _own(self, error: BaseException, sort: int, trail: Trail | None = None) -> Verdict | None:
        """Return what the error says by itself."""
        if self._rules:
            verdict = self._asked(error, trail)
            if verdict is not None:
                return verdict
        if sort > _CANCELLATION:
            return _of_ours(error) if sort == _OURS else None
        try:
            judge = self._judge or self._built_in()
            verdict = judge(error, self._wall)
            return None if sort == _WRAPPER and _only_wraps(error, verdict) else verdict
        except Exception as failure:  # noqa: BLE001  # a property or a number of somebody else's class
            self._report_failure(failure)
            return None

    def _asked(self, error: BaseException, trail: Trail | None) -> Verdict | None:
        for rule in self._rules:
            try:
                answer = cast("object", rule(error))  # users write rules
                if answer is None:
                    continue
                if trail is not None:
                    trail.rules[id(error)] = rule
                if isinstance(answer, Verdict):
                    return answer
                kind = _KINDS.get(answer) if isinstance(answer, str) else None
                if kind is not None:
                    return Verdict(kind)
                raise TypeError(
                    f"a rule returned {type(answer).__name__}: return a Verdict, an ErrorKind or None"
                )
            except Exception as failure:  # noqa: BLE001  # users' code never breaks a call
                self._report_failure(failure)
        return None

    def _report_failure(self, failure: BaseException) -> None:
        if self.on_rule_failed is None:
            return
        try:
            self.on_rule_failed(failure)
        except Exception:  # noqa: BLE001, S110  # whoever listens must not break a call either
            pass

    def _cancellation(self, group: BaseException) -> BaseException | None:
        return next(
            (member for member in _leaves(group) if _sort_of[type(member)] == _CANCELLATION), None
        )

    def _inside(self, error: BaseException, trail: Trail | None) -> Verdict:
        """Return the most severe of what is inside an error that says nothing itself."""
        worst: Verdict | None = None
        wraps = _sort_of[type(error)] == _WRAPPER
        waiting = [error]
        seen = {id(error)}
        causes, members = MOST_CAUSES, MOST_MEMBERS
        while waiting:
            outer = waiting.pop()
            if issubclass(
                type(outer), BaseExceptionGroup
            ):  # ``isinstance`` would ask its ``__class__``
                inner = _members(outer, members)
                members -= len(inner)
            else:
                cause = _wrapped_by(outer) if causes else None
                inner = () if cause is None else (cause,)
                causes -= len(inner)
            inner = [one for one in inner if id(one) not in seen]
            if not inner:
                worst = _worse(worst, _UNKNOWN)
            for one in inner:
                seen.add(id(one))
                if trail is not None:
                    trail.within[id(one)] = outer
                try:
                    sort = _sort_of[type(one)]
                    verdict = _CANCELLED if sort == _CANCELLATION else self._own(one, sort, trail)
                except Exception as failure:  # noqa: BLE001  # one that resists does not hide the others
                    self._report_failure(failure)
                    verdict = _UNKNOWN
                if verdict is None:
                    waiting.append(one)
                    wraps = wraps or _sort_of[type(one)] == _WRAPPER
                elif verdict.kind is not ErrorKind.CANCELLED:
                    if trail is not None and worst is not _worse(worst, verdict):
                        trail.decided_by = one
                    worst = _worse(worst, verdict)
        # Nothing is known of what it wraps: then it is what its class says.
        return (
            _BUG
            if wraps and (worst is None or worst.kind is ErrorKind.UNKNOWN)
            else worst or _UNKNOWN
        )


def _wrapped_by(error: BaseException) -> BaseException | None:
    """Return the explicit cause, or the failure that tenacity, litellm or google keep elsewhere."""
    try:
        cause = error.__cause__
        if cause is not None:
            return cause
        held = cast("object", error.__dict__)
        if type(held) is not dict:
            return None
        facts = cast("dict[str, Any]", held)
        attempt = facts.get("last_attempt")
        found = (
            facts.get("original_exception", facts.get("_cause"))
            if attempt is None
            else attempt.exception()
        )
        return found if isinstance(found, BaseException) else None
    except Exception:  # noqa: BLE001  # somebody else's class
        return None


def _only_wraps(error: BaseException, verdict: Verdict | None) -> bool:
    """Return whether it is a plain ``raise RuntimeError(...) from error``, which says nothing itself."""
    return (
        error.__cause__ is not None and verdict is not None and verdict.kind is ErrorKind.CALLER_BUG
    )


def _of_ours(error: BaseException) -> Verdict:
    if isinstance(error, ResponseRejectedError):
        return Verdict(ErrorKind(error.kind), error.reason)
    if isinstance(error, ConfigurationError):
        return _BUG  # raised by no guard: something is written wrong
    if (
        isinstance(error, (CallRejectedError, ChainExhaustedError))
        and error.retry_after is not None
    ):
        return Verdict(ErrorKind.REJECTED, retry_after=error.retry_after)
    return _REJECTED


def _members(group: BaseException, most: int) -> tuple[BaseException, ...]:
    try:
        members = cast("BaseExceptionGroup[BaseException]", group).exceptions
        return members[:most] if type(members) is tuple else ()
    except Exception:  # noqa: BLE001  # somebody else's class
        return ()


def _leaves(group: BaseException) -> Iterator[BaseException]:
    """Yield the errors in a group of groups, as far as they are looked at."""
    waiting = [group]
    left = MOST_MEMBERS
    while waiting:
        one = waiting.pop()
        if issubclass(type(one), BaseExceptionGroup):
            members = _members(one, left)
            left -= len(members)
            waiting.extend(reversed(members))
        else:
            yield one


def _worse(first: Verdict | None, second: Verdict) -> Verdict:
    if first is None or _SEVERITY[second.kind] < _SEVERITY[first.kind]:
        return second
    # Of several that say the same the longest wait counts.
    if second.kind is first.kind and (second.retry_after or 0.0) > (first.retry_after or 0.0):
        return second
    return first
