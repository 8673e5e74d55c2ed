"""The order in which an error is judged: cancellation, users' rules, built-in rules, causes.

Owns the users' rules of one process. Knows no provider and no SDK: the built-in rules do.
Classifying never raises, whatever an error does when it is looked at. If a rule fails,
``on_rule_failed`` is called and the next rule is asked.

The order is: cancellations, whatever else is true; users' rules; our own errors; the built-in
rules. If none of them knows the error, its cause or the members of the group are classified in
the same order, and the most severe of them decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from resilient_llm._core.memory_pressure import as_configured
from resilient_llm._values.built_in import cause_of, context_of, is_raised_by, traceback_of
from resilient_llm._values.class_cache import ClassCache
from resilient_llm._values.errors import ConfigurationError, ResilientLLMError
from resilient_llm._values.explanation import Explanation
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.own_errors import verdict_on_own
from resilient_llm._values.reloading import replaces
from resilient_llm._values.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resilient_llm._core.explain import ClassificationPath
    from resilient_llm._values.settings import OnMemoryPressure
    from resilient_llm._values.verdict import Rule

    Judge = Callable[[BaseException, Callable[[], float]], Verdict | None]

F = TypeVar("F", bound="Callable[..., object]")

_CANCELLED: Final = Verdict(ErrorKind.CANCELLED)
_TIME_IS_UP: Final = Verdict(ErrorKind.CANCELLED, "time_limit")
_UNKNOWN: Final = Verdict(ErrorKind.UNKNOWN)
_BUG: Final = Verdict(ErrorKind.CALLER_BUG)
_MEMORY_PRESSURE: Final = ErrorKind.MEMORY_PRESSURE

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
# A longer chain is a loop of wrapping, or an attempt to keep the process busy.
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
# An error of a sort below `_CANCELLATION` is classified by what it says itself.
_ORDINARY, _WRAPPER, _CANCELLATION, _TIME_LIMIT, _OURS, _GROUP = range(6)
_VERDICTS: Final = {_CANCELLATION: _CANCELLED, _TIME_LIMIT: _TIME_IS_UP}


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
    from resilient_llm.rules import framework_verdicts  # loaded with the first error

    of_framework = framework_verdicts[cls]
    if of_framework is not None and of_framework.kind is ErrorKind.CANCELLED:
        return _TIME_LIMIT if of_framework.reason == _TIME_IS_UP.reason else _CANCELLATION
    if (
        cls is RuntimeError or cls is ValueError
    ):  # by identity: to compare classes may call their metaclass
        return _WRAPPER
    return _GROUP if issubclass(cls, BaseExceptionGroup) else _ORDINARY


_sort_of: Final = ClassCache(_find_sort)


def _is_of_litellm(cls: type) -> bool:
    try:
        return type(cls.__module__) is str and cls.__module__.startswith("litellm.")
    except Exception:  # noqa: BLE001  # a metaclass may do anything
        return False


_is_litellms: Final = ClassCache(_is_of_litellm)


class Classifier:
    """Classifies errors: ``classifier(error) -> Verdict``.

    Thread-safe: the rules are a tuple that is replaced as a whole.

    Args:
        wall: Gives seconds since 1970, for hints that are dates.
        judge: Gives the verdict on one error without what is inside it; the built-in rules
            by default.
        on_memory_pressure: Gives the present setting of that name.

    Attributes:
        on_rule_failed: Called once for each rule that raised or returned something invalid,
            with the error; None for no such call.
    """

    __slots__ = (
        "_failed",
        "_judge",
        "_on_memory_pressure",
        "_rules",
        "_wall",
        "on_rule_failed",
    )

    def __init__(
        self,
        wall: Callable[[], float],
        judge: Judge | None = None,
        on_memory_pressure: Callable[[], OnMemoryPressure] = lambda: "skip",
    ) -> None:
        self._wall = wall
        self._judge = judge
        self._on_memory_pressure = on_memory_pressure
        self._rules: tuple[Rule, ...] = ()
        self._failed: frozenset[int] = frozenset()
        """``{id of a rule that has failed}``; the rules are referred to by ``_rules``."""
        self.on_rule_failed: Callable[[BaseException], None] | None = None

    def __call__(self, error: BaseException) -> Verdict:
        """Return what the error means; never raises."""
        return self.under(None, error)

    def under(self, on_memory_pressure: OnMemoryPressure | None, error: BaseException) -> Verdict:
        """Return the same for a call that began under this setting; None for the present one."""
        try:
            verdict = self._classify(error)
            if verdict.kind is not _MEMORY_PRESSURE:  # the setting is not asked for without need
                return verdict
            return as_configured(verdict, on_memory_pressure or self._on_memory_pressure())
        except BaseException as failure:  # an error that resists being looked at
            is_limit = issubclass(type(failure), Exception) and _sort_of[type(failure)] in _VERDICTS
            if is_limit or not is_raised_by(error, failure):
                raise
            self._report_failure(failure)
            return _UNKNOWN

    def _built_in(self) -> Judge:
        # Loaded with the first error: an import that never sees one need not pay for the tables.
        from resilient_llm.rules import judge

        self._judge = judge
        return judge

    def rule(self, function: F) -> F:
        """Register a function that classifies errors of your own clients; usable as a decorator.

        Such rules run before the built-in ones, the newest first, so that an application can
        override the rules of a library. They do not run for cancellations. A rule that raises, or
        that builds a verdict with a wrong value, is skipped and logged once. If a module is loaded
        again, its function replaces the one that it registered before under the same name.

        Examples:
            >>> @classify.rule
            ... def gateway(error: BaseException) -> Verdict | None:
            ...     if isinstance(error, GatewayError) and error.code == "quota":
            ...         return Verdict(ErrorKind.RATE_LIMITED, "quota", retry_after=60.0)
            ...     return None

        Args:
            function: Takes an error and returns a `Verdict`, an `ErrorKind`, the name of a kind,
                or None if it does not recognise the error.

        Returns:
            The function itself.

        Raises:
            ConfigurationError: If it is not callable.
        """
        if not callable(function):
            raise ConfigurationError(
                f"a rule is a function error -> Verdict or None, not {type(function).__name__}"
            )
        # A module that is loaded again registers its rules again.
        replaced = {id(rule) for rule in self._rules if replaces(function, rule)}
        self._rules = (
            cast("Rule", function),
            *(rule for rule in self._rules if id(rule) not in replaced),
        )
        self._failed -= replaced
        return function

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The users' rules, in the order they are asked."""
        return self._rules

    def replace_rules(self, rules: tuple[Rule, ...]) -> None:
        """Replace all rules with those that ``rules`` returned before, as tests do."""
        self._rules = tuple(rules)
        self._failed = frozenset()

    def explain(self, error: BaseException) -> Explanation:
        """Return what the error means and why: which rule, by which field; never raises.

        ``str()`` of it is a few lines for a terminal or a chat. They have words of this
        library, names of classes and fields, and numbers: no prompt, key or provider's text.
        """
        from resilient_llm._core.explain import ClassificationPath, explanation
        from resilient_llm.rules import why

        path = ClassificationPath(error)
        try:
            verdict = self._classify(error, path)
        except Exception as failure:  # noqa: BLE001  # an error that resists being looked at
            self._report_failure(failure)
            verdict, path = _UNKNOWN, ClassificationPath(error)
        mode = self._on_memory_pressure()
        return explanation(path, verdict, lambda error: why(error, self._wall), mode)

    def _classify(self, error: BaseException, path: ClassificationPath | None = None) -> Verdict:
        sort = _sort_of[type(error)]
        if sort in _VERDICTS:
            return _VERDICTS[sort]
        if sort != _OURS:
            found = _cancellation_in(error) if sort == _GROUP else _time_limit_beneath(error)
            if found is not None:
                if path is not None:
                    path.into(error, found)
                return _VERDICTS[_sort_of[type(found)]]
        return self._own(error, sort, path) or self._inside(error, path)

    def _own(
        self, error: BaseException, sort: int, path: ClassificationPath | None = None
    ) -> Verdict | None:
        """Return what the error says by itself."""
        if self._rules:
            verdict = self._asked(error, path)
            if verdict is not None:
                return verdict
        if sort >= _OURS:
            if sort == _OURS:
                return verdict_on_own(cast("ResilientLLMError", error))
            return None
        try:
            judge = self._judge or self._built_in()
            verdict = judge(error, self._wall)
            return None if sort == _WRAPPER and _only_wraps(error, verdict) else verdict
        except Exception as failure:  # noqa: BLE001  # a foreign class
            self._report_failure(failure)
            return None

    def _asked(self, error: BaseException, path: ClassificationPath | None) -> Verdict | None:
        for rule in self._rules:
            try:
                answer = cast("object", rule(error))  # users write rules
                if answer is None:
                    continue
                if path is not None:
                    path.rules[id(error)] = rule
                if isinstance(answer, Verdict):
                    return answer
                kind = _KINDS.get(answer) if isinstance(answer, str) else None
                if kind is not None:
                    return Verdict(kind)
                raise TypeError(
                    f"a rule returned {type(answer).__name__}: "
                    "return a Verdict, an ErrorKind or None"
                )
            except Exception as failure:  # noqa: BLE001  # users' code never breaks a call
                if id(rule) not in self._failed:
                    self._failed |= {id(rule)}
                    self._report_failure(failure)
        return None

    def _report_failure(self, failure: BaseException) -> None:
        if self.on_rule_failed is None:
            return
        try:
            self.on_rule_failed(failure)
        except Exception:  # noqa: BLE001, S110  # a listener must not break a call either
            pass

    def _inside(self, error: BaseException, path: ClassificationPath | None) -> Verdict:
        """Return the most severe of what is inside an error that says nothing itself."""
        worst: Verdict | None = None
        wraps = _sort_of[type(error)] == _WRAPPER
        for outer, inner, verdict in self._inner_verdicts(error, path):
            if path is not None and inner is not None:
                path.within[id(inner)] = outer
            if verdict is None:
                wraps = wraps or _sort_of[type(inner)] == _WRAPPER
            elif verdict.kind is not ErrorKind.CANCELLED:
                worse = _worse(worst, verdict)
                if path is not None and inner is not None and worse is not worst:
                    path.decided_by = inner
                worst = worse
        if wraps and (worst is None or worst.kind is ErrorKind.UNKNOWN):
            return _BUG  # nothing is known of what it wraps, so the class of the wrapper counts
        return worst or _UNKNOWN

    def _inner_verdicts(
        self, error: BaseException, path: ClassificationPath | None
    ) -> Iterator[tuple[BaseException, BaseException | None, Verdict | None]]:
        """Yield ``(outer error, error inside it, what that says by itself)``, from outside inwards.

        An error that says nothing itself has the verdict None, and what is inside it follows.
        If there is nothing inside it, the error inside is None and the verdict unknown.
        """
        waiting = [error]
        seen = {id(error)}
        causes, members = MOST_CAUSES, MOST_MEMBERS
        while waiting:
            outer = waiting.pop()
            # ``isinstance`` would ask the error for its ``__class__``.
            if issubclass(type(outer), BaseExceptionGroup):
                found = _members(outer, members)
                members -= len(found)
            else:
                cause = _wrapped_by(outer) if causes else None
                found = () if cause is None else (cause,)
                causes -= len(found)
            found = [inner for inner in found if id(inner) not in seen]
            if not found:
                yield outer, None, _UNKNOWN
            for inner in found:
                seen.add(id(inner))
                verdict = self._verdict_inside(inner, path)
                if verdict is None:
                    waiting.append(inner)
                yield outer, inner, verdict

    def _verdict_inside(
        self, inner: BaseException, path: ClassificationPath | None
    ) -> Verdict | None:
        try:
            sort = _sort_of[type(inner)]
            return _VERDICTS.get(sort) or self._own(inner, sort, path)
        except Exception as failure:  # noqa: BLE001  # one that raises when looked at does not hide the others
            self._report_failure(failure)
            return _UNKNOWN


def _cancellation_in(group: BaseException) -> BaseException | None:
    return next((member for member in _leaves(group) if _sort_of[type(member)] in _VERDICTS), None)


def _time_limit_beneath(error: BaseException) -> BaseException | None:
    """Return the time limit of a task queue that an error was raised from.

    Many releases of openai, groq and their kin catch every ``Exception`` that interrupts a
    request, and raise an ``APIConnectionError`` from it. litellm raises another one while it
    handles that. No limit is found beneath an error of ours: the guard that raised it has judged
    it.
    """
    outer = error
    for _ in range(MOST_CAUSES):
        # Not by its attribute, which a class may make to be anything.
        inner = cause_of(outer)
        if inner is None:
            inner = _kept_by(outer)
        if inner is None:
            inner = _handled_by_litellm(outer)
        if inner is None:
            return None
        outer = inner
        sort = _sort_of[type(inner)]
        if sort == _TIME_LIMIT:
            return inner
        if sort == _OURS:
            return None
    return None


def _handled_by_litellm(error: BaseException) -> BaseException | None:
    """Return what litellm was handling when it raised an error, of its own code.

    What the code around the call is handling meanwhile is the context of an error as well: a
    task that cleans up after its time limit, for example. That was caught further out, in a
    frame that the error has not reached.
    """
    if not _is_litellms[type(error)]:
        return None
    inner, step = context_of(error), traceback_of(error)
    caught = traceback_of(inner) if inner is not None else None
    while caught is not None and step is not None:
        if step.tb_frame is caught.tb_frame:
            return inner
        step = step.tb_next
    return None


def _wrapped_by(error: BaseException) -> BaseException | None:
    """Return the explicit cause, or the error that tenacity, litellm or google keep elsewhere."""
    try:
        cause = error.__cause__
        return _kept_by(error) if cause is None else cause
    except Exception:  # noqa: BLE001  # a foreign class
        return None


_KEEPERS: Final = frozenset(("last_attempt", "original_exception", "_cause"))
"""Attributes in which tenacity, litellm and google keep the error that they have wrapped."""


def _kept_by(error: BaseException) -> BaseException | None:
    try:
        held = cast("object", error.__dict__)
        if type(held) is not dict or _KEEPERS.isdisjoint(cast("dict[str, Any]", held)):
            return None
        attributes = cast("dict[str, Any]", held)
        attempt = attributes.get("last_attempt")
        found = (
            attributes.get("original_exception", attributes.get("_cause"))
            if attempt is None
            else attempt.exception()
        )
        return found if isinstance(found, BaseException) else None
    except Exception:  # noqa: BLE001  # a foreign class
        return None


def _only_wraps(error: BaseException, verdict: Verdict | None) -> bool:
    """Return whether it is a plain ``raise RuntimeError(...) from error``, which says nothing."""
    return (
        error.__cause__ is not None and verdict is not None and verdict.kind is ErrorKind.CALLER_BUG
    )


def _members(group: BaseException, most: int) -> tuple[BaseException, ...]:
    try:
        members = cast("BaseExceptionGroup[BaseException]", group).exceptions
        return members[:most] if type(members) is tuple else ()
    except Exception:  # noqa: BLE001  # a foreign class
        return ()


def _leaves(group: BaseException) -> Iterator[BaseException]:
    """Yield the errors in a group of groups, up to `MOST_MEMBERS`."""
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
    # Of several errors of one kind the longest wait counts.
    if second.kind is first.kind and (second.retry_after or 0.0) > (first.retry_after or 0.0):
        return second
    return first
