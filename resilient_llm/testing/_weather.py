"""What providers do in a simulation: `Weather` and `Fault`, and what becomes of one attempt.

Knows no policy. What happens to an attempt depends on the seed, the target, the number of the call
and the number of the attempt within it, and on nothing else. So all policies meet the same
traffic, and one that sends fewer attempts does not change the luck of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final, Literal

from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.target import normal_key
from resilient_llm.testing._http_errors import FakeHTTPError, http_error

if TYPE_CHECKING:
    from resilient_llm._values.target import Target

FaultKind = Literal["outage", "slow", "errors", "rate_limit", "flapping", "hang"]
KINDS: Final = ("outage", "slow", "errors", "rate_limit", "flapping", "hang")
"""The kinds of faults."""

LONGEST: Final = 600.0
"""Seconds after which a client gives up by itself; what the clients of openai and anthropic do."""
OF_ERRORS: Final = 0.1
"""Share of the latency of an answer after which an error comes instead of it."""
_WIDEST: Final = 10.0
"""Largest spread; e to the power of it is 22,000."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a target for a while; it meets the attempts that start meanwhile.

    Errors come after a tenth of the latency that an answer would have had.

    Examples:
        >>> Fault("outage", 120, 300)
        >>> Fault("errors", 120, 300, share=0.3)
        >>> Fault("slow", 120, 300, factor=10)

    Attributes:
        kind: ``"outage"``: HTTP 503. ``"slow"``: the latency is multiplied by `factor`.
            ``"errors"``: HTTP 500. ``"rate_limit"``: HTTP 429, with `retry_after`.
            ``"flapping"``: an outage in the first half of each `period`.
            ``"hang"``: no answer at all; the client gives up after 600 seconds.
        start: Seconds from the start of the simulation, 0 or more.
        end: The same for its end, above ``start``.
        share: Share of the attempts that it hits, in (0, 1].
        factor: How many times slower a slow target is, 1 or more.
        retry_after: Seconds that a rate limit asks to wait; None if it does not ask.
        period: Seconds of a flapping target from one failure to the next.

    Raises:
        ConfigurationError: If a value is not allowed.
    """

    kind: FaultKind
    start: float
    end: float
    _: KW_ONLY
    share: float = 1.0
    factor: float = 10.0
    retry_after: float | None = None
    period: float = 10.0

    def __post_init__(self) -> None:
        put = object.__setattr__
        check.choice("kind", self.kind, KINDS)
        put(self, "start", check.seconds("start", self.start, zero=True))
        put(self, "end", check.seconds("end", self.end, zero=True))
        if self.end <= self.start:
            raise ConfigurationError(
                f"end={self.end:g} is not after start={self.start:g}: write the seconds from the "
                "start of the simulation at which the fault ends"
            )
        put(self, "share", check.share("share", self.share))
        put(self, "factor", check.number("factor", self.factor, low=1.0))
        wait = check.seconds("retry_after", self.retry_after, optional=True, zero=True)
        put(self, "retry_after", wait)
        put(self, "period", check.seconds("period", self.period))

    def hits(self, now: float, luck: float) -> bool:
        """Return whether an attempt that starts now is hit; luck is a number in [0, 1)."""
        if not self.start <= now < self.end or luck >= self.share:
            return False
        return self.kind != "flapping" or (now - self.start) % self.period < self.period / 2


@dataclass(frozen=True, slots=True)
class Weather:
    """How a target answers in a simulation: its latency, and what goes wrong when.

    Attributes:
        latency: Median seconds of an answer, above 0.
        spread: Sigma of the logarithm of the latency, 0 to 10; 0 for the same latency always.
            With 0.5 one answer in a hundred takes 3.2 times the median.
        faults: What goes wrong; a single `Fault` or a sequence.

    Raises:
        ConfigurationError: If a value is not allowed.
    """

    latency: float = 1.0
    spread: float = 0.5
    faults: Iterable[Fault] | Fault = ()

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "latency", check.seconds("latency", self.latency))
        put(self, "spread", check.number("spread", self.spread, low=0.0, high=_WIDEST))
        put(self, "faults", _faults(self.faults))

    @property
    def first_fault(self) -> Fault | None:
        """The fault that starts first."""
        return min(_faults(self.faults), key=lambda fault: fault.start, default=None)


def _faults(given: Any) -> tuple[Fault, ...]:
    if isinstance(given, Fault):
        return (given,)
    kind = type(given).__name__
    if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
        raise ConfigurationError(
            f"faults of type {kind} is not allowed: "
            "write a sequence, faults=[Fault('outage', 120, 300)]"
        )
    faults: tuple[Any, ...] = tuple(given)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # users' input
    for each in faults:
        if not isinstance(each, Fault):
            raise ConfigurationError(
                f"faults holds a {type(each).__name__}: write Fault('outage', 120, 300)"
            )
    return faults


def weather_of(targets: Iterable[Target], given: Any) -> dict[str, Weather]:
    """Return the weather of each target by its key; an entry for a provider holds for its targets.

    Raises:
        ConfigurationError: If a target has none, or an entry is for no target.
    """
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"weather of type {type(given).__name__} is not allowed: "
            "write a mapping, {'groq/llama': Weather()}"
        )
    chain = tuple(targets)
    keys = [target.key for target in chain]
    allowed = dict.fromkeys([*keys, *(target.provider_key for target in chain)])
    found: dict[str, Weather] = {}
    entries: Mapping[Any, Any] = given  # pyright: ignore[reportUnknownVariableType]  # users' input
    for name, weather in entries.items():
        key = normal_key(name)
        if key not in allowed:
            near = check.near_names(key, allowed)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigurationError(
                f"weather[{key!r}] is for no target of the chain: {hint}"
                f"expected {', '.join(keys)}, or a provider of theirs"
            )
        if key in found:
            raise ConfigurationError(f"weather names {key!r} twice")
        if not isinstance(weather, Weather):
            raise ConfigurationError(
                f"weather[{key!r}] of type {type(weather).__name__} is not allowed: "
                "write Weather(), Weather(latency=2.0) or Weather(faults=[Fault(…)])"
            )
        found[key] = weather
    missing = [t.key for t in chain if t.key not in found and t.provider_key not in found]
    if missing:
        raise ConfigurationError(
            f"weather has no entry for {', '.join(missing)}: write one for every target of the "
            f"chain, {{{missing[0]!r}: Weather()}}"
        )
    return {t.key: found.get(t.key) or found[t.provider_key] for t in chain}


class Outcome:
    """What becomes of one attempt: how long it takes, and the error at its end if it fails.

    Attributes:
        seconds: How long it takes if nobody ends it before.
    """

    __slots__ = ("_fault", "seconds")

    def __init__(self, seconds: float, fault: Fault | None) -> None:
        self.seconds = seconds
        self._fault = fault

    def raise_error(self) -> None:
        """Raise its error, if it fails."""
        fault = self._fault
        if fault is not None:
            raise _error_of(fault)
        if self.seconds >= LONGEST:
            raise TimeoutError("the client gave up")


def _error_of(fault: Fault) -> FakeHTTPError:
    if fault.kind == "errors":
        return http_error(500)
    if fault.kind == "rate_limit":
        wait = fault.retry_after
        return http_error(429, headers={} if wait is None else {"retry-after": wait})
    return http_error(503)


def outcome(
    weather: Weather, now: float, *, seed: int, key: str, call: int, attempt: int
) -> Outcome:
    """Return what becomes of an attempt that starts now.

    Args:
        weather: That of the target.
        now: Seconds since the start of the simulation.
        seed: Seed of the simulation.
        key: Key of the target.
        call: Number of the call.
        attempt: Number of the attempt on this target within the call.
    """
    # A text as seed is hashed by sha512, so it is the same in every process.
    rng = Random(f"{seed} {key} {call} {attempt}")
    seconds = weather.latency * math.exp(weather.spread * rng.gauss())
    failing: Fault | None = None
    for fault in _faults(weather.faults):
        luck = rng.random()
        if failing is not None or not fault.hits(now, luck):
            continue
        if fault.kind == "slow":
            seconds *= fault.factor
        elif fault.kind == "hang":
            return Outcome(LONGEST, None)
        else:
            failing = fault
    if failing is not None:
        return Outcome(min(OF_ERRORS * seconds, LONGEST), failing)
    return Outcome(min(seconds, LONGEST), None)
