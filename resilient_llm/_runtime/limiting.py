"""`LimitsInForce`: the state of every configured limit of this process.

Owns which targets share which places and buckets. A limit has no state before somebody asks for
it, and keeps it as long as it is configured; its places outlast a change, since attempts that run
hold them.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from resilient_llm._core.limits.buckets import bucket
from resilient_llm._core.limits.held import LimitState, TargetLimits
from resilient_llm._core.limits.places import places
from resilient_llm._values.limit import applied_limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from resilient_llm._values.limit import Limit


class LimitsInForce:
    """The limits in force, with their places and buckets."""

    def __init__(self) -> None:
        self._limits: Mapping[str, Limit] = {}
        self._states: dict[str, LimitState] = {}
        self._lock = threading.RLock()

    def use(self, limits: Mapping[str, Limit]) -> None:
        """Use these limits from now on; one that is not in force any more lets everybody pass."""
        with self._lock:
            if limits is self._limits:
                return
            self._limits = limits
            for key in list(self._states):
                state = self._states[key]
                now = _limit_of(key, limits)
                if now == state.limit:
                    continue
                if now is None:
                    del self._states[key]
                    state.places.change(None)
                else:
                    state.places.change(now.max_concurrent, now.max_queued)
                    self._states[key] = _state(key, now, state)

    def of(self, key: str, provider_key: str, tags: Iterable[str] = ()) -> TargetLimits | None:
        """Return the limits that attempts on a key must pass, or None.

        Args:
            key: Key of the target, or of a provider.
            provider_key: Key of its provider, with its account.
            tags: Tags of the target.
        """
        if not self._limits:
            return None
        with self._lock:
            applied = applied_limits(self._limits, key, provider_key, tags)
            states = [self._state_of(each.key, each.limit) for each in applied]
        return TargetLimits(states) if states else None

    def forget(self) -> None:
        """Fill all buckets; attempts in flight count on."""
        with self._lock:
            self._states = {
                key: _state(key, state.limit, state) for key, state in self._states.items()
            }

    def after_fork(self) -> None:
        """Start with full buckets and nothing in flight in a forked child."""
        self._lock = threading.RLock()
        self._states = {}

    def _state_of(self, key: str, limit: Limit) -> LimitState:
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = _state(key, limit, None)
        return state


def _limit_of(key: str, limits: Mapping[str, Limit]) -> Limit | None:
    found = limits.get(key)
    return limits.get("*") if found is None and "/" not in key and ":" not in key else found


def _state(key: str, limit: Limit, before: LimitState | None) -> LimitState:
    """Return the state of a limit with full buckets; attempts that ran before it count on."""
    return LimitState(
        key,
        limit,
        places(limit.max_concurrent, limit.max_queued) if before is None else before.places,
        None if limit.requests is None else bucket(limit.requests, limit.seconds, limit.burst),
        None if limit.tokens is None else bucket(limit.tokens, limit.seconds),
    )
