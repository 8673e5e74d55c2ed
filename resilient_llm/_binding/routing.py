"""`CallFacts`: what routes ask of one call, read from the arguments of its function.

Which rule a route takes then is decided in `_core/routing.py`. Nothing is kept of a call.
"""

from __future__ import annotations

import inspect
import operator
import sys
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._binding.call_arguments import CallArguments
from resilient_llm._core.contents import estimate
from resilient_llm._core.held import by_name, conversation_among, is_given, text_of
from resilient_llm._core.routing import Conversation, first_rule, reasons_before
from resilient_llm._runtime.classify import classify
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.built_in import class_name
from resilient_llm._values.by_name import wants_arguments
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.route_explanation import RouteExplanation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient_llm._binding.injection import Injection
    from resilient_llm._values.plan import Route

_MESSAGES: Final = ("messages", "contents", "input", "prompt")
"""Names of the argument with the messages; the first that a call has counts."""
_GIVEN: Final = (str, list)
"""Classes of arguments that stand for themselves, as those of nearly all calls do."""
_MODEL: Final = "model"
_LOOP: Final = "a loop has no arguments to look at"


class _Reader:
    """What does not change between the calls of one function."""

    __slots__ = ("arguments", "called", "default", "fills_in", "pins", "takes_model")

    def __init__(self, injection: Injection) -> None:
        self.called = injection.called
        self.arguments = CallArguments(injection)
        filled_in = injection.defaults_of_names
        self.pins = frozenset(filled_in)
        """Parameters that are filled in, unless the caller passes them to pin the call."""
        self.fills_in = _MODEL in filled_in
        self.default = filled_in.get(_MODEL)
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        self.takes_model = not self.fills_in and any(
            each.name == _MODEL and each.kind not in variable for each in injection.visible
        )
        """Whether ``model`` is a parameter like any other."""


class CallFacts:
    """What routes ask of one call; each is found out once, when it is asked.

    Attributes:
        uses_model: Whether a rule that was chosen has the condition ``model``, so that the call's
            own ``model=`` does not pin it.
    """

    # Defaults of the class, since most calls ask for few of them.
    uses_model = False
    _reader: _Reader | None = None
    _named: dict[str, Any] | None = None
    _others: tuple[Any, ...] = ()
    _model: str | None = ""
    _conversations: dict[str | None, Conversation] | None = None
    _tokens: dict[int, int | None] | None = None
    """``{id of a function: what it estimates}``"""
    _said: dict[int, bool | None] | None = None
    """``{id of a function: what it says of the call}``"""

    def __init__(
        self, injection: Injection, args: tuple[Any, ...] | None, kwargs: dict[str, Any]
    ) -> None:
        """Take a call as its caller made it.

        Args:
            injection: Of its function.
            args: With the function, where that is passed first; None in the loop form, of which
                nothing is known.
            kwargs: With those that pin the call to a target.
        """
        reader: _Reader | None = injection.routed
        if reader is None:
            reader = injection.routed = _Reader(injection)
        self._reader = reader
        self._args = args
        self._kwargs = kwargs
        self._own = args[1:] if args and injection.is_passed else args or ()
        """Positional arguments without the function."""

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, Any]) -> CallFacts:
        """Return the facts of a call without a function, whose arguments all have a name."""
        facts = cls.__new__(cls)
        facts._args = facts._own = ()
        facts._kwargs = dict(arguments)
        return facts

    # What the binding asks.

    def choose(self, route: Route) -> int | None:
        """Return the index of the first rule that matches; None if the call takes ``otherwise``.

        Raises:
            BaseException: What a function of the route raises that is no `Exception`, or stands
                for a cancellation.
        """
        if self._args is None:
            return None
        index = first_rule(route, self)
        if index is not None and _MODEL in route.rules[index].conditions:
            self.uses_model = True
        return index

    def reasons(self, route: Route) -> list[str]:
        """Return why the call takes none of the rules before the chosen one; one for each.

        Raises:
            BaseException: As `choose`.
        """
        if self._args is None:
            return [f"{next(iter(rule.conditions))}: {_LOOP}" for rule in route.rules]
        return reasons_before(route, self, first_rule(route, self))

    @property
    def replaces_model(self) -> bool:
        """Whether each attempt must be given its target's model by ``injection.rebound``.

        That is so if a chosen rule looked at ``model``, and the function takes that as a parameter
        like any other, which nothing fills in.
        """
        return self.uses_model and self._reader is not None and self._reader.takes_model

    def arguments_without_model(self) -> tuple[tuple[Any, ...] | None, dict[str, Any]]:
        """Return the arguments to pass on: without ``model=``, if that chose a rule.

        Each target's own model then takes its place. Where `replaces_model` holds, the argument
        stays, to be replaced by that.
        """
        if not self.uses_model or self.replaces_model or _MODEL not in self._kwargs:
            return self._args, self._kwargs
        return self._args, {name: value for name, value in self._kwargs.items() if name != _MODEL}

    # What the conditions ask: see `_core.routing.Call`.

    @property
    def model(self) -> str | None:
        """What the call names its model, or None."""
        if self._model == "":
            self._model = self._found_model()
        return self._model

    def conversation(self, messages: str | None) -> Conversation:
        """Return the conversation in this argument, or in the first that may have one."""
        known = self._conversations
        if known is None:
            known = self._conversations = {}
        found = known.get(messages)
        if found is None:
            arguments = self._arguments()
            value = _first_of(arguments, _MESSAGES if messages is None else (messages,))
            if value is None and self._others:
                value = conversation_among(self._others)
            found = known[messages] = Conversation(value, arguments)
        return found

    def tokens(self, estimate: Callable[..., Any] | None) -> int | None:
        """Return what a function, or the built-in one, estimates; None if it fails."""
        known = self._tokens
        if known is None:
            known = self._tokens = {}
        number = id(estimate)
        if number not in known:
            known[number] = self._estimated(estimate)
        return known[number]

    def is_true(self, where: tuple[Callable[..., Any], tuple[str, ...]]) -> bool | None:
        """Return what a function says of the call; None if it fails."""
        function, untaken = where
        known = self._said
        if known is None:
            known = self._said = {}
        number = id(function)
        if number not in known:
            known[number] = self._is_true(function, untaken)
        return known[number]

    # How that is found out.

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments by name, without those that pin the call."""
        if self._named is None:
            named, reader = self._kwargs, self._reader
            if named:
                named = by_name(named)
            if reader is not None:
                if named and not reader.pins.isdisjoint(named):
                    named = {name: each for name, each in named.items() if name not in reader.pins}
                named, self._others = reader.arguments.named(self._own, named)
            self._named = named
        return self._named

    def _found_model(self) -> str | None:
        reader = self._reader
        if reader is not None and reader.fills_in:
            value = by_name(self._kwargs).get(_MODEL)
            if value is reader.default:  # frameworks pass what the caller left out
                return None
        else:
            value = self._arguments().get(_MODEL)
        if not issubclass(type(value), str):
            return None
        model = text_of(value)
        if reader is not None and reader.fills_in and type(reader.default) is str:
            return None if model == reader.default else model or None
        return model or None

    def _estimated(self, function: Callable[..., Any] | None) -> int | None:
        if function is None:
            return estimate(self._arguments(), self._others)
        try:
            given: object = self._asked_for_tokens(function)
            if type(given) is not bool:
                number = operator.index(cast("int", given))
                if 0 <= number <= sys.maxsize:
                    return number
            failed = f"gave {class_name(type(given))}, which is no number of tokens"
            _discard(given)
        except Exception as error:  # noqa: BLE001  # it is logged, and the rule does not match
            failed = _failure(error)
        self._tell("tokens", function, f"{failed}: no rule with min_tokens matches")
        return None

    def _asked_for_tokens(self, function: Callable[..., Any]) -> object:
        if not wants_arguments(function):
            reads: Any = function
            return reads.of_arguments(self._arguments(), self._others)
        pins = frozenset[str]() if self._reader is None else self._reader.pins
        return function(*self._own, **self._kwargs_without(pins))

    def _is_true(self, function: Callable[..., Any], untaken: tuple[str, ...]) -> bool | None:
        try:
            given: object = function(*self._own, **self._kwargs_without(untaken))
            if given is True or given is False or given is None:
                return given is True
            if not hasattr(type(given), "__await__"):
                return bool(given)
            failed = f"gave {class_name(type(given))}, which has to be awaited"
            _discard(given)
        except Exception as error:  # noqa: BLE001  # it is logged, and the rule does not match
            failed = _failure(error)
        self._tell("where", function, f"{failed}: its rule does not match")
        return None

    def _kwargs_without(self, names: tuple[str, ...] | frozenset[str]) -> dict[str, Any]:
        """Return the keyword arguments without some of those that pin the call.

        One that the function of the call takes like any other is not left out.
        """
        pins = frozenset[str]() if self._reader is None else self._reader.pins
        kwargs = self._kwargs
        if not kwargs or not any(name in kwargs and name in pins for name in names):
            return kwargs
        return {
            name: value for name, value in kwargs.items() if name not in names or name not in pins
        }

    def _tell(self, what: str, function: Callable[..., Any], said: str) -> None:
        """Log once that a function of a route failed."""
        dispatcher = runtime.dispatcher
        if dispatcher.log_line is not None and dispatcher.fails_first(function):
            of = "" if self._reader is None else f" that {self._reader.called} takes"
            dispatcher.log_line(f"{what} of a route{of} {said}", warning=True)


def explained(route: Route, facts: CallFacts) -> RouteExplanation:
    """Return which chain a call takes, and why.

    Raises:
        BaseException: As `CallFacts.choose`.
    """
    index = facts.choose(route)
    chain = route.otherwise if index is None else route.rules[index].chain
    return RouteExplanation(index, chain, tuple(facts.reasons(route)))


def _first_of(arguments: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Return the first of these arguments that was given, or None."""
    for name in names:
        value = arguments.get(name)
        if value is not None and (type(value) in _GIVEN or is_given(value)):
            return value
    return None


def _failure(error: Exception) -> str:
    """Return what the log is told of an error of a user's function.

    Raises:
        Exception: The error itself, if it stands for a cancellation, as a time limit's does.
    """
    if classify(error).kind is ErrorKind.CANCELLED:
        raise error
    return f"raised {class_name(type(error))}"


def _discard(given: object) -> None:
    """Close a coroutine, which would complain that nobody awaited it."""
    if inspect.iscoroutine(given):
        given.close()
