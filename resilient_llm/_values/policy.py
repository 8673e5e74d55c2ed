"""`Policy`, `Options` and `Defaults` of `@failover`; a new option starts here.

An option that the policy names is strongest, then comes the process-wide default, then the
built-in one.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from resilient_llm._values import checks as check
from resilient_llm._values.adaptive import Adaptive
from resilient_llm._values.checks import unknown_names
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.sticky import Sticky
from resilient_llm._values.strategy_call import checked_strategy
from resilient_llm._values.stream_policy import StreamPolicy, stream_policy
from resilient_llm._values.tool_loop import Action, ToolLoop, checked_tool_loop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from resilient_llm._values.chain import Chain
    from resilient_llm._values.events import Event
    from resilient_llm._values.kinds import ErrorKind
    from resilient_llm._values.plan import Plan
    from resilient_llm._values.target import Target
    from resilient_llm._values.usage import Usage
    from resilient_llm._values.verdict import Verdict

OnError = Literal["next", "raise"]
OnUnknown = Literal["next", "raise", "transient"]
WhenAllBenched = Literal["soonest", "wait", "raise"]
OnDown = Literal["skip", "demote"]
Hedge = float | str | None


class FailoverOptions(TypedDict, total=False):
    """Keywords of ``failover``."""

    attempts: int
    max_attempts: int | None
    backoff: Any
    timeout: float | None
    attempt_timeout: float | None
    cooldown: float | None
    strategy: str | Sticky | Callable[..., Iterable[Target]]
    adaptive: bool | Adaptive
    hedge: Hedge
    max_hedges: int
    needs: str | Iterable[str] | Callable[..., Iterable[str] | None] | None
    tokens: int | Callable[..., int] | None
    tool_loop: Action | ToolLoop
    usage: Callable[[Any], Usage | None] | None
    reject: Callable[[Any], bool | str | ErrorKind | Verdict | None] | None
    classify: Callable[[BaseException], Verdict | ErrorKind | None] | None
    on_request_error: OnError
    on_content_policy: OnError
    on_unknown: OnUnknown
    on_down: OnDown
    when_all_benched: WhenAllBenched
    reraise: bool
    stream: StreamPolicy | None
    observers: Sequence[Callable[[Event], object]]


class PolicyOptions(FailoverOptions, total=False):
    """Keywords of ``using``."""

    chain: Chain


# A base class, so that a default, its type and its name are written once for both.
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Defaults:
    """The options of ``failover`` that have a process-wide default. Durations in seconds."""

    attempts: int = 3
    max_attempts: int | None = None
    backoff: Any = None
    timeout: float | None = None
    attempt_timeout: float | None = None
    cooldown: float | None = None
    strategy: Any = "priority"
    adaptive: Any = False
    hedge: Any = None
    max_hedges: int = 1
    tool_loop: Any = "off"
    reject: Callable[[Any], Any] | None = None
    on_request_error: str = "next"
    on_content_policy: str = "raise"
    on_unknown: str = "next"
    on_down: str = "skip"
    when_all_benched: str = "soonest"
    reraise: bool = False
    stream: StreamPolicy | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Options(Defaults):
    """Checked options of one policy."""

    needs: Any = None
    tokens: Any = None
    usage: Callable[[Any], Any] | None = None
    classify: Callable[[BaseException], Any] | None = None
    observers: tuple[Callable[[Any], object], ...] = ()


def _strategy(name: str, value: Any) -> Any:
    if isinstance(value, Sticky):
        return value
    if callable(value):
        return checked_strategy(name, check.function(name, value))
    also = "strategies.sticky(key) or a function from targets to targets in order"
    return check.choice(name, value, STRATEGIES, also=also)


def _function_or_none(name: str, value: Any) -> Any:
    return None if value is None else check.function(name, value)


def _backoff(name: str, value: Any) -> Any:
    if value is None:
        return None
    if not callable(value) or isinstance(value, type):
        raise ConfigurationError(
            f"{name} of type {type(value).__name__} is not allowed: write None, a tenacity wait, "
            "or a function from the number of the failed attempt to seconds"
        )
    return check.function(name, value)


def _stream(name: str, value: Any) -> StreamPolicy | None:
    if value is None:
        return None
    return stream_policy(name, value)


def _observers(name: str, value: Any) -> tuple[Callable[[Any], object], ...]:
    if callable(value) or isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigurationError(
            f"{name} is not a sequence: write a sequence of functions, {name}=(f,)"
        )
    observers: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]  # users' input
    for observer in observers:
        if not callable(observer) or check.is_async(observer):
            raise ConfigurationError(
                f"{name} holds something else than plain functions: use events() for async code"
            )
    return tuple(observers)


def _adaptive(name: str, value: Any) -> Any:
    """Return True, False or `Adaptive`, as it was given."""
    if isinstance(value, (bool, Adaptive)):
        return value
    raise ConfigurationError(
        f"{name} of type {type(value).__name__} is not allowed: write True, False or Adaptive(…)"
    )


PERCENTILES: Final = tuple(f"p{share}" for share in range(50, 100))
"""What ``hedge=`` may be beside seconds: the share of samples, in percent, that took less."""


def _hedge(name: str, value: Any) -> Any:
    """Return None, seconds above 0, or a percentile such as ``"p95"``."""
    if isinstance(value, str) and value in PERCENTILES:
        return value
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return check.seconds(name, value, optional=True)
    shown = repr(value) if isinstance(value, str) and len(value) < 10 else type(value).__name__
    raise ConfigurationError(
        f"{name}={shown} is not allowed: write seconds above 0, 'p50' to 'p99', or None"
    )


def _max_hedges(name: str, value: Any) -> int:
    most = check.whole(name, value, low=1)
    if most > MOST_HEDGES:
        raise ConfigurationError(f"{name}={most}: expected a whole number from 1 to {MOST_HEDGES}")
    return most


MOST_HEDGES: Final = 10
"""Hedges of one call, at most."""


def _needs(name: str, value: Any) -> Any:
    if value is None:
        return None
    if callable(value):
        return check.function(name, value)
    return check.words_or_word(name, value)


def _tokens(name: str, value: Any) -> Any:
    if callable(value):
        return check.function(name, value)
    return check.whole(name, value, low=0, optional=True)


def _seconds_or_none(name: str, value: Any) -> float | None:
    return check.seconds(name, value, optional=True)


def _next_or_raise(name: str, value: Any) -> str:
    return check.choice(name, value, ("next", "raise"))


STRATEGIES: Final = (
    "priority",
    "round_robin",
    "random",
    "weighted",
    "least_cost",
    "least_latency",
    "least_busy",
)
"""Names of the built-in strategies."""

CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "attempts": lambda name, value: check.whole(name, value, low=1),
    "max_attempts": lambda name, value: check.whole(name, value, low=1, optional=True),
    "backoff": _backoff,
    "timeout": _seconds_or_none,
    "attempt_timeout": _seconds_or_none,
    "cooldown": _seconds_or_none,
    "strategy": _strategy,
    "adaptive": _adaptive,
    "hedge": _hedge,
    "max_hedges": _max_hedges,
    "needs": _needs,
    "tokens": _tokens,
    "tool_loop": checked_tool_loop,
    "usage": _function_or_none,
    "reject": _function_or_none,
    "classify": _function_or_none,
    "on_request_error": _next_or_raise,
    "on_content_policy": _next_or_raise,
    "on_unknown": lambda name, value: check.choice(name, value, ("next", "raise", "transient")),
    "on_down": lambda name, value: check.choice(name, value, ("skip", "demote")),
    "when_all_benched": lambda name, value: check.choice(name, value, ("soonest", "wait", "raise")),
    "reraise": check.flag,
    "stream": _stream,
    "observers": _observers,
}
"""``{option of failover: function from its name and a value to the checked value}``"""

BUILT_IN: Final = Options()
DEFAULTS: Final = tuple(each.name for each in fields(Defaults))
"""Names of the options that have a process-wide default."""


def checked_options(given: Mapping[str, Any]) -> Options:
    """Return the options with built-in defaults, or say which one is wrong and what is allowed.

    Raises:
        ConfigurationError: If a name is unknown or a value is out of range.
    """
    unknown_names("failover()", given, CHECKS)
    return Options(**{name: CHECKS[name](name, value) for name, value in given.items()})


class Family:
    """Stands for a policy and its copies with the same chain, which share what calls found out."""

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """The values of one policy that its calls read.

    Attributes:
        chain: Its targets, in declared order.
        in_priority: The same, lower ``priority`` first.
        options: Its checked options, the built-in defaults for those that it does not name.
        named: Names of the options that it names, for which no process-wide default holds.
        family: What it shares with its copies that have the same chain.
    """

    chain: tuple[Target, ...]
    in_priority: tuple[Target, ...]
    options: Options
    named: frozenset[str]
    family: Family = field(default_factory=Family)

    def in_force(self, defaults: Defaults, without: Collection[str] = ()) -> Options:
        """Return the options with process-wide defaults for those that the policy does not name.

        Args:
            defaults: The process-wide defaults.
            without: Options whose default cannot hold, since ``failover`` would refuse them there.
        """
        return options_in_force(self.options, self.named, defaults, without)


def options_in_force(
    own: Options, named: Collection[str], defaults: Defaults, without: Collection[str] = ()
) -> Options:
    """Return options with process-wide defaults for those that are not named."""
    changes = dict[str, Any]()
    for name in DEFAULTS:
        value = getattr(defaults, name)
        if name not in named and name not in without and value is not getattr(own, name):
            changes[name] = value
    return replace(own, **changes) if changes else own


class Declared:
    """What a policy says, of which each expansion of its chain makes a `Policy`.

    Attributes:
        plan: Its chain, as it was written.
        options: Its checked options, the built-in defaults for those that it does not name.
        named: Names of the options that it names, for which no process-wide default holds.
    """

    __slots__ = ("_families", "_given", "_literal", "_order", "named", "options", "plan")

    def __init__(
        self,
        plan: Plan,
        given: Mapping[str, Any],
        in_priority: Callable[[tuple[Target, ...]], tuple[Target, ...]],
        like: Declared | None = None,
    ) -> None:
        self.plan = plan
        self._given = dict(given)
        self.options = checked_options(given)
        self.named = frozenset(given)
        self._order = in_priority
        # Copies of a policy share what their calls found out.
        self._families: weakref.WeakValueDictionary[tuple[Target, ...], Family] = (
            weakref.WeakValueDictionary() if like is None else like._families
        )
        self._literal = None if plan.is_late else self._policy(plan.targets)

    def __reduce__(self) -> tuple[Any, ...]:
        return Declared, (self.plan, self._given, self._order)

    def options_under(self, defaults: Defaults) -> Options:
        """Return the options with process-wide defaults for those that it does not name."""
        return options_in_force(self.options, self.named, defaults)

    def policy(self, chain: tuple[Target, ...]) -> Policy:
        """Return the policy of one expansion of the chain."""
        literal = self._literal
        return literal if literal is not None and chain == literal.chain else self._policy(chain)

    def _policy(self, chain: tuple[Target, ...]) -> Policy:
        family = self._families.setdefault(chain, Family())
        return Policy(chain, self._order(chain), self.options, self.named, family)


def warn_of_attempts(attempts: int, failures: int, key: str) -> None:
    """Warn, where the decorator is written, of retries that the breaker will always cut short."""
    if attempts > failures:
        warnings.warn(
            f"attempts={attempts} is above failures={failures} of {key}: "
            "its breaker opens first and ends the retries; lower attempts or raise failures",
            stacklevel=4,
        )
