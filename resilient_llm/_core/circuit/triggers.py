"""When a circuit opens, how long a bench lasts, its jitter, and how healthy a key is: formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from random import Random

    from resilient_llm._values.settings import BreakerSettings

Status = Literal["healthy", "degraded", "down"]

JITTER: Final = 0.1
"""Largest share by which a bench is lengthened."""
DEGRADED_SHARE: Final = 0.1
_MOST_DOUBLINGS: Final = 64
"""Above this every cooldown is at its cap, and powers of two would overflow a float."""


def trigger(
    settings: BreakerSettings,
    failures: int,
    total: int,
    errors: int,
    slow: int,
    bad: int = 0,
    answers: int = 0,
) -> str | None:
    """Return what opens the circuit, with its numbers, or None.

    Args:
        settings: Limits of the circuit.
        failures: Failures in a row.
        total: Calls in the window.
        errors: Errors among them that the circuit is charged with.
        slow: Calls among them that took ``slow_call`` or longer.
        bad: Bad answers in the window.
        answers: Answers in the window, good and bad.
    """
    if failures >= settings.failures:
        return f"failures {failures}/{settings.failures}"
    if total >= settings.min_calls:
        if errors >= settings.error_rate * total:
            return f"error_rate {errors}/{total} >= {settings.error_rate:g}"
        if settings.slow_call is not None and slow >= settings.slow_rate * total:
            return f"slow_rate {slow}/{total} >= {settings.slow_rate:g}"
    if (
        settings.bad_rate is not None
        and answers >= settings.min_calls
        and bad / answers >= settings.bad_rate
    ):
        return f"bad_rate {bad}/{answers}"
    return None


def bench_length(cooldown: float, max_cooldown: float, failed_probes: int, rng: Random) -> float:
    """Return how long a bench lasts, in seconds.

    ``cooldown * 2 ** failed_probes``, at most ``max_cooldown``, then lengthened by a share
    drawn uniformly from [0, 0.1]. Jitter only lengthens, so that no bench is shorter than its
    cooldown.
    """
    doublings = min(failed_probes, _MOST_DOUBLINGS)
    return min(max_cooldown, cooldown * 2.0**doublings) * (1.0 + JITTER * rng.random())


def status(*, down: bool, failures: int, limit: int, total: int, errors: int) -> Status:
    """Return how a key is doing.

    Degraded means a share of errors of 0.1 or more, or half of the failures in a row that
    open the circuit.
    """
    if down:
        return "down"
    if failures and failures * 2 >= limit:
        return "degraded"
    if total and errors >= DEGRADED_SHARE * total:
        return "degraded"
    return "healthy"
