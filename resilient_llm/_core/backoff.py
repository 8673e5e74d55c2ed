"""The backoff: how long to wait before a retry, with jitter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    Backoff = Callable[[int, BaseException | None, Random], float]

BASE: Final = 0.2
CAP: Final = 10.0
_MOST_DOUBLINGS: Final = 64


def full_jitter(attempt: int, base: float, cap: float, rng: Random) -> float:
    """Return how long to wait before the next attempt.

    Uniform between zero and an exponential ceiling, which keeps many clients from coming
    back together ("full jitter" in M. Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015).

    Args:
        attempt: Number of the attempt that just failed, from 1.
        base: Ceiling of the first wait, in seconds.
        cap: Ceiling of any wait, in seconds.
        rng: Source of randomness; tests pass a seeded one.

    Returns:
        Seconds in ``[0, min(cap, base * 2 ** (attempt - 1))]``.

    Raises:
        ValueError: If ``attempt`` is smaller than 1.
    """
    if attempt < 1:
        raise ValueError(f"attempt={attempt} is not a number from 1")
    doublings = min(attempt - 1, _MOST_DOUBLINGS)  # a power above would overflow a float
    return rng.uniform(0.0, min(cap, base * 2.0**doublings))


def default_backoff(attempt: int, error: BaseException | None, rng: Random) -> float:
    return full_jitter(attempt, BASE, CAP, rng)


_default = default_backoff
"""For pickles that earlier releases made; goes with the next release."""


def as_backoff(given: Any) -> Backoff:
    """Return a backoff for what users may write: None, a tenacity wait, or ``n -> seconds``.

    What users wrote may raise; who calls it then uses `default_backoff`.
    """
    if given is None:
        return default_backoff
    wait: Any = given
    bases: tuple[type, ...] = wait.__class__.__mro__
    if any(
        base.__name__ == "wait_base" and base.__module__.startswith("tenacity") for base in bases
    ):
        return _of_tenacity(given)

    def of_function(attempt: int, error: BaseException | None, rng: Random) -> float:
        return _duration(given(attempt), attempt, rng)

    return of_function


def _of_tenacity(wait: Any) -> Backoff:
    def of_tenacity(attempt: int, error: BaseException | None, rng: Random) -> float:
        from tenacity import RetryCallState

        state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]  # waits read the number and the outcome only
        state.attempt_number = attempt
        if error is not None:
            state.set_exception((type(error), error, error.__traceback__))
        return _duration(wait(state), attempt, rng)

    return of_tenacity


def _duration(seconds: Any, attempt: int, rng: Random) -> float:
    # A user's function is called only in an outage, so a wrong result must not add to it.
    return float(seconds) if _is_duration(seconds) else default_backoff(attempt, None, rng)


def _is_duration(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )
