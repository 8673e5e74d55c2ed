"""`Adaptive`: when a target that has become slow or faulty stands behind others of its group."""

from dataclasses import dataclass
from typing import Any, Final

from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.exported import exported

MOST_SAMPLES: Final = 256
"""Samples that are kept of a target; a power of two."""


def _samples(name: str, value: Any) -> int:
    number = check.whole(name, value, low=1)
    if number > MOST_SAMPLES:
        raise ConfigurationError(
            f"{name}={number}: expected a whole number from 1 to {MOST_SAMPLES}, since no more "
            "samples are kept of a target"
        )
    return number


@exported
@dataclass(frozen=True, slots=True)
class Adaptive:
    """Options of ``adaptive=``, checked when built.

    Attributes:
        window: Seconds of attempts that are looked at.
        slow_factor: How many times slower than the others a target is that counts as slow, above
            1.
        min_samples: Samples that a target needs for its median to count, 1 to 256: more are not
            kept of one.
        error_share: Share of failed attempts from which a target counts as faulty, in (0, 1].
        min_calls: Attempts that it needs for that, 1 or more.
        calm: Least seconds between two moves of a target, 0 or more.

    Raises:
        ConfigurationError: If a value is out of range.
    """

    window: float = 60.0
    slow_factor: float = 1.5
    min_samples: int = 3
    error_share: float = 0.1
    min_calls: int = 5
    calm: float = 30.0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "window", check.seconds("window", self.window))
        put(self, "slow_factor", check.number("slow_factor", self.slow_factor, above=1.0))
        put(self, "min_samples", _samples("min_samples", self.min_samples))
        put(self, "error_share", check.share("error_share", self.error_share))
        put(self, "min_calls", check.whole("min_calls", self.min_calls, low=1))
        put(self, "calm", check.seconds("calm", self.calm, zero=True))
