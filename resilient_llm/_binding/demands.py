"""What the calls of one function need of a target: asks the policy's ``needs`` and ``tokens``.

Which targets can take a call then is decided in `_core/call/capabilities.py`. Nothing is kept of
a call.
"""

from __future__ import annotations

import operator
import sys
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._binding.call_arguments import CallArguments, may_take, parameters_of
from resilient_llm._core.base64_text import SHORTEST
from resilient_llm._core.call.capabilities import NO_LACKS, Demand, lacks_of
from resilient_llm._core.contents import (
    CHARACTERS_PER_TOKEN,
    are_contents,
    estimate,
    held,
    plain_characters,
)
from resilient_llm._core.spending.estimates import BOUNDS, Estimate, longest_answer, unread_limit
from resilient_llm._runtime.classify import classify
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import checks as check
from resilient_llm._values.built_in import class_name
from resilient_llm._values.by_name import ByName, wants_arguments
from resilient_llm._values.kinds import ErrorKind

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Mapping, Sequence

    from resilient_llm._binding.injection import Injection
    from resilient_llm._core.call.call import Candidate
    from resilient_llm._core.call.capabilities import Lack
    from resilient_llm._values.policy import Options
    from resilient_llm._values.target import Target

_OUTPUT: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""What a call names its longest answer, in tokens."""
_CONFIG: Final = "config"
"""Where google-genai takes that."""


class Demands:
    """Finds out what each call of one function needs."""

    __slots__ = (
        "_are_contents",
        "_arguments",
        "_constant",
        "_injection",
        "_is_sized",
        "_names_a_bound",
        "_needs",
        "_tokens",
        "_unread",
        "_words",
    )

    def __init__(self, options: Options, injection: Injection, chain: Sequence[Target]) -> None:
        self._injection = injection
        self._needs: Callable[..., Any] | None = options.needs if callable(options.needs) else None
        self._words: frozenset[str] = (
            frozenset() if callable(options.needs) else options.needs or frozenset()
        )
        self._tokens: int | Callable[..., Any] | None = options.tokens
        if injection.is_loop and callable(self._tokens):
            self._tokens = 0  # there is no argument that it could be asked about
        self._arguments = CallArguments(injection)
        parameters = parameters_of(injection)
        self._names_a_bound = any(parameter.name in BOUNDS for parameter in parameters)
        """Whether the function has a parameter that may limit its answer."""
        self._are_contents = are_contents(self._arguments.named_by_position)
        """Whether the estimate reads all positional arguments, but for ``self`` and ``cls``."""
        self._is_sized = (
            not self._names_a_bound
            and not injection.is_passed
            and are_contents([each.name for each in parameters])
            and not any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters)
        )
        self._unread = self._missing_argument(parameters)
        """What the log is told with the first call; None if there is nothing to tell."""
        self._constant: tuple[Demand, Mapping[str, Lack]] | None = None
        if self._needs is None and self._tokens is None:
            demand = Demand(self._words, None)
            self._constant = demand, lacks_of(chain, demand, lambda _: 0)

    @property
    def is_constant(self) -> bool:
        """Whether all calls need the same."""
        return self._constant is not None

    @property
    def constant_lacks(self) -> Mapping[str, Lack]:
        """``{key: why that target cannot take any call}``, as far as all calls need the same."""
        return NO_LACKS if self._constant is None else self._constant[1]

    def of_call(
        self, candidates: tuple[Candidate, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Demand, Mapping[str, Lack]]:
        """Return what a call needs, and ``{key: why that target cannot take it}``.

        Args:
            candidates: The targets of the call.
            args: As the caller passed them.
            kwargs: The same, without those that pin the call to a target.

        Raises:
            Exception: What ``needs`` raised.
            ConfigurationError: If it gave something else than words.
        """
        if self._constant is not None:
            return self._constant
        args = self._arguments.own(args)
        words = self._words
        if self._unread is not None:
            self._tell_unread(self._unread)
        if self._needs is not None:
            given = self._asked(self._needs, args, kwargs)
            words = frozenset[str]() if given is None else check.words_or_word("needs", given)
        tokens = self._tokens
        if callable(tokens):
            tokens = self._estimate(tokens, args, kwargs)
        demand = Demand(words, tokens)
        if not words and tokens is None:
            return demand, NO_LACKS
        targets = [candidate.target for candidate in candidates]
        return demand, lacks_of(
            targets, demand, lambda target: self._longest_answer(target, args, kwargs)
        )

    def of_attempts(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], tokens: int | None
    ) -> Callable[[Target], Estimate]:
        """Return what estimates the tokens of a call's attempts by target, each once when asked.

        Args:
            args: As the caller passed them.
            kwargs: The same, without those that pin the call to a target.
            tokens: What ``tokens=`` gave for the call, if it was asked already.
        """
        args = self._arguments.own(args)
        known = tokens
        found: dict[str, Estimate] = {}
        may_bound = self._names_a_bound or not BOUNDS.isdisjoint(kwargs)

        def estimate_of(target: Target) -> Estimate:
            nonlocal known
            estimated = found.get(target.key)
            if estimated is not None:
                return estimated
            if known is None:
                known = self._input_of(args, kwargs)
            longest, unread = target.max_output, None
            if may_bound or BOUNDS.intersection(target.params):

                def argument(name: str) -> Any:
                    return self._value(name, target, args, kwargs)

                longest = longest_answer(argument, target.max_output)
                unread = unread_limit(argument) if longest is None else None
            estimated = found[target.key] = Estimate(known, longest, unread)
            return estimated

        return estimate_of

    @property
    def is_read(self) -> bool:
        """Whether the input of each call is estimated from its arguments."""
        return self._tokens is None and not self._injection.is_loop

    @property
    def is_sized(self) -> bool:
        """Whether each call is estimated from the size of each argument, and nothing else."""
        return self.is_read and self._is_sized

    def estimate_on(
        self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[int, int | None]:
        """Return the same as `of_attempts` for one target, if `is_read`: input and output."""
        if self._injection.is_passed:
            args = self._arguments.own(args)
        longest = target.max_output
        if kwargs or self._names_a_bound or target.params:
            longest = longest_answer(
                lambda name: self._value(name, target, args, kwargs), target.max_output
            )
        if self._are_contents and not kwargs:
            characters = 0
            for value in args[1:] if self._arguments.has_self else args:
                if type(value) is str and len(value) < SHORTEST and value[:1] != "d":
                    characters += len(value)
                elif type(value) is not float and value is not None:
                    size = plain_characters(value)
                    if size < 0:
                        break
                    characters += size
            else:
                return -(-characters // CHARACTERS_PER_TOKEN), longest
        return estimate(*self._arguments.named(args, kwargs)), longest

    def _input_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """Return the estimate of a call's input in tokens: that of ``tokens``, or the default."""
        tokens = self._tokens
        if tokens is None:
            return 0 if self._injection.is_loop else estimate(*self._arguments.named(args, kwargs))
        return self._estimate(tokens, args, kwargs) if callable(tokens) else tokens

    def _missing_argument(self, visible: Sequence[inspect.Parameter]) -> str | None:
        """Return what to tell if ``needs`` reads an argument that the function does not take."""
        needs: Any = self._needs
        wanted = needs.argument if isinstance(needs, ByName) else None
        if wanted is None or may_take(visible, wanted):
            return None
        taken = ", ".join(sorted(parameter.name for parameter in visible)) or "none"
        return (
            f"needs of {self._injection.called} reads the argument {wanted!r}, which is not among "
            f"{taken}: name the one that has the messages"
        )

    def _tell_unread(self, text: str) -> None:
        if runtime.dispatcher.log_line is not None:
            self._unread = None
            runtime.dispatcher.log_line(text, warning=True)

    def _asked(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if wants_arguments(function):
            return function(*args, **kwargs)
        by_name: Any = function
        return by_name.of_arguments(*self._arguments.named(args, kwargs))

    def _estimate(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> int:
        """Return what ``tokens`` gives; the default estimate if it raises or gives nonsense."""
        try:
            given: object = self._asked(function, args, kwargs)
            said = f"gave {class_name(type(given))}, which is no number of tokens"
            if type(given) is not bool:
                number = operator.index(cast("int", given))
                if 0 <= number <= sys.maxsize:
                    return number
        except Exception as error:
            if classify(error).kind is ErrorKind.CANCELLED:  # a time limit that is over
                raise
            said = f"raised {class_name(type(error))}"
        log_line = runtime.dispatcher.log_line
        if log_line is not None and runtime.dispatcher.fails_first(function):
            log_line(
                f"tokens of {self._injection.called} {said}: the default estimate is used",
                warning=True,
            )
        return estimate(*self._arguments.named(args, kwargs))

    def _longest_answer(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """Return the most tokens that a call asks of a target as an answer; 0 if unknown."""
        found = [self._value(name, target, args, kwargs) for name in _OUTPUT]
        config = self._value(_CONFIG, target, args, kwargs)
        if config is not None:
            found.append(held(config, _OUTPUT[-1]))
        return max((each for each in found if type(each) is int and each > 0), default=0)

    def _value(
        self, name: str, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return an argument of an attempt on a target, or None."""
        if name in target.params:
            return target.params[name]
        if name not in target.removed:
            for value in self._arguments.passed(name, args, kwargs):
                return value
        return self._arguments.defaults.get(name)
