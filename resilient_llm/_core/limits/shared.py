"""Limits that all processes share: what an attempt takes from them, and who waits for one.

The buckets are in the store, and are taken from in the same step as budgets are reserved in. Here
is only what a refusal said, so that who only looks is not sent to ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from resilient_llm._values.sharing import Take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from resilient_llm._core.spending.estimates import Estimate
    from resilient_llm._values.limit import Limit

REQUESTS: Final = "requests"
TOKENS: Final = "tokens"


class Limited(Protocol):
    """A limit; see `LimitState`."""

    key: str
    limit: Limit
    refused_until: float


class SharedTake:
    """What an attempt takes from one bucket in the store.

    Attributes:
        state: The limit.
        take: What the store is asked for.
        is_tokens: Whether it is of tokens, and corrected when the attempt has ended.
    """

    __slots__ = ("is_tokens", "state", "take")

    def __init__(self, state: Limited, take: Take, *, is_tokens: bool) -> None:
        self.state = state
        self.take = take
        self.is_tokens = is_tokens


def takes_of(states: Iterable[Limited], estimate: Estimate | None) -> tuple[SharedTake, ...]:
    """Return what an attempt takes from shared limits.

    Args:
        states: The limits that it must pass.
        estimate: Of its tokens; None if limits of tokens do not cover it.
    """
    found: list[SharedTake] = []
    for state in states:
        limit = state.limit
        if not limit.shared:
            continue
        if limit.requests is not None:
            burst = limit.requests if limit.burst is None else limit.burst
            name, interval = f"{state.key}\n{REQUESTS}", limit.seconds / limit.requests
            found.append(SharedTake(state, Take(name, 1, interval, burst), is_tokens=False))
        if limit.tokens is not None and estimate is not None:
            name, interval = f"{state.key}\n{TOKENS}", limit.seconds / limit.tokens
            take = Take(name, estimate.tokens, interval, limit.tokens)
            found.append(SharedTake(state, take, is_tokens=True))
    return tuple(found)


def refusing(takes: Iterable[SharedTake], retry_after: float | None) -> SharedTake:
    """Return which limit has refused an attempt, as far as the answer of the store tells.

    It tells only how long that takes: the one of which this attempt takes the longest to refill.
    """
    if retry_after is None:
        return max(takes, key=lambda each: each.take.amount - each.take.burst)
    return max(takes, key=lambda each: each.take.amount * each.take.interval)


class StoreCharge:
    """Stands for a charge where the store refuses: nothing is taken, and nobody is in line.

    Those who wait ask again when it should fit, and may be refused again.
    """

    __slots__ = ("_due_at", "is_taken", "is_void")

    def __init__(self, due_at: float) -> None:
        self._due_at = due_at
        self.is_taken = False
        self.is_void = False

    def enqueue(self, wake: Callable[[], object]) -> bool:
        """There is always room."""
        return True

    def wait(self, now: float) -> float:
        """Return the seconds until it should fit; 0 when that is over."""
        self.is_taken = now >= self._due_at
        return max(self._due_at - now, 0.0)

    def give_back(self) -> None:
        """Nothing was taken."""
