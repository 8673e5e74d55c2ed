"""`Policy` and `Options`: what one `@failover` was given, checked when it is built."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from resilient_llm._values import checks as check
from resilient_llm._values.checks import unknown_names
from resilient_llm._values.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from resilient_llm._values.events import Event
    from resilient_llm._values.kinds import ErrorKind
    from resilient_llm._values.stream_policy import StreamPolicy
    from resilient_llm._values.target import Target
    from resilient_llm._values.verdict import Verdict

OnError = Literal["next", "raise"]
OnUnknown = Literal["next", "raise", "transient"]
WhenAllBenched = Literal["soonest", "wait", "raise"]


class PolicyOptions(TypedDict, total=False):
    """Keywords of ``failover`` and of ``using``."""

    chain: Any
    attempts: int
    max_attempts: int | None
    backoff: Any
    timeout: float | None
    attempt_timeout: float | None
    cooldown: float | None
    strategy: str | Callable[[Sequence[Target]], Iterable[Target]]
    reject: Callable[[Any], bool | str | ErrorKind | Verdict | None] | None
    classify: Callable[[BaseException], Verdict | ErrorKind | None] | None
    on_request_error: OnError
    on_content_policy: OnError
    on_unknown: OnUnknown
    when_all_benched: WhenAllBenched
    reraise: bool
    stream: StreamPolicy | None
    observers: Sequence[Callable[[Event], object]]


OPTIONS: Final = tuple(PolicyOptions.__annotations__)


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """Checked options of one policy. Durations in seconds."""

    attempts: int = 3
    max_attempts: int | None = None
    backoff: Any = None
    timeout: float | None = None
    attempt_timeout: float | None = None
    cooldown: float | None = None
    strategy: Any = "priority"
    reject: Callable[[Any], Any] | None = None
    classify: Callable[[BaseException], Any] | None = None
    on_request_error: str = "next"
    on_content_policy: str = "raise"
    on_unknown: str = "next"
    when_all_benched: str = "soonest"
    reraise: bool = False
    stream: StreamPolicy | None = None
    observers: tuple[Callable[[Any], object], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """The values of one policy that its calls read.

    Attributes:
        chain: Its targets, in declared order.
        in_priority: The same, lower ``priority`` first.
        options: Its checked options.
        backoff: Gives the seconds to wait after an attempt, from its number, its error and
            a source of randomness.
    """

    chain: tuple[Target, ...]
    in_priority: tuple[Target, ...]
    options: Options
    backoff: Callable[[int, BaseException | None, Random], float]


def checked_options(given: dict[str, Any], strategies: Iterable[str]) -> Options:
    """Return the options, or say which one is wrong and what is allowed.

    Raises:
        ConfigurationError: If a name is unknown or a value is out of range.
    """
    unknown_names("failover()", given, OPTIONS)
    options = Options(**given)
    if options.stream is not None:
        # Imported only if a policy was named.
        from resilient_llm._values.stream_policy import stream_policy

        stream_policy("stream", options.stream)
    check.whole("attempts", options.attempts, low=1)
    check.whole("max_attempts", options.max_attempts, low=1, optional=True)
    for name in ("timeout", "attempt_timeout", "cooldown"):
        check.seconds(name, getattr(options, name), optional=True)
    for name in ("on_request_error", "on_content_policy"):
        check.choice(name, getattr(options, name), ("next", "raise"))
    check.choice("on_unknown", options.on_unknown, ("next", "raise", "transient"))
    check.choice("when_all_benched", options.when_all_benched, ("soonest", "wait", "raise"))
    if callable(options.strategy):
        check.function("strategy", options.strategy)
    else:
        check.choice("strategy", options.strategy, strategies)
    for name in ("reject", "classify"):
        value = getattr(options, name)
        if value is not None:
            check.function(name, value)
    if not isinstance(options.reraise, bool):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' input
        raise ConfigurationError(f"reraise={options.reraise!r} is not allowed: write True or False")
    object.__setattr__(options, "observers", _observers(options.observers))
    return options


def _observers(given: Any) -> tuple[Callable[[Any], object], ...]:
    import inspect

    if callable(given) or isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigurationError(
            "observers is not a sequence: write a sequence of functions, observers=(f,)"
        )
    observers: list[Any] = list(given)  # pyright: ignore[reportUnknownArgumentType]  # users' input
    for observer in observers:
        if not callable(observer) or inspect.iscoroutinefunction(observer):
            raise ConfigurationError(
                "observers holds something else than plain functions: use events() for async code"
            )
    return tuple(observers)


def warn_of_attempts(attempts: int, failures: int, key: str) -> None:
    """Warn, where the decorator is written, of retries that the breaker will always cut short."""
    if attempts > failures:
        warnings.warn(
            f"attempts={attempts} is above failures={failures} of {key}: "
            "its breaker opens first and ends the retries; lower attempts or raise failures",
            stacklevel=4,
        )
