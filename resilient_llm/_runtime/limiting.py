"""`LimitsInForce`: the state of every configured limit of this process.

Owns which targets share which places and buckets. A limit has no state before somebody asks for
it, and keeps it as long as it is configured; its places outlast a change, since attempts that run
hold them. For the same reason the places of a limit that is removed are kept while attempts hold
some, and count these if it is configured again.

With ``"*"`` each account has a state of its own. Above ``MOST_KEYS`` those are dropped that tell
nothing: nobody runs or waits there, all buckets are full, and no function or call refers to them.
A state with a debt is not full, so it stays.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from resilient_llm._core.limits.buckets import bucket
from resilient_llm._core.limits.held import LimitState, TargetLimits
from resilient_llm._core.limits.places import places
from resilient_llm._values.limit import applied_limits
from resilient_llm._values.settings import MOST_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from resilient_llm._core.limits.buckets import Bucket
    from resilient_llm._core.limits.places import Places
    from resilient_llm._values.limit import Limit


class LimitsInForce:
    """The limits in force, with their places and buckets."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next_sweep = MOST_KEYS
        self._limits: Mapping[str, Limit] = {}
        self._states: dict[str, LimitState] = {}
        self._removed: dict[str, Places] = {}
        """``{key without a limit now: its places, which attempts in flight hold}``"""
        self._lock = threading.RLock()

    def use(self, limits: Mapping[str, Limit]) -> None:
        """Use these limits from now on; one that is not in force any more lets everybody pass."""
        with self._lock:
            if limits is self._limits:
                return
            self._limits = limits
            self._removed = _held(self._removed)
            for key in list(self._states):
                state = self._states[key]
                now = _limit_of(key, limits)
                if now == state.limit:
                    continue
                if now is None:
                    del self._states[key]
                    self._removed[key] = state.places
                    state.places.change(None)
                    state.change(state.limit, None, None)
                else:
                    state.places.change(now.max_concurrent, now.max_queued)
                    state.change(now, *_buckets(now))

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
            is_due = len(self._states) > self._next_sweep
            if is_due:
                self._next_sweep = 2 * len(self._states)  # not in another thread meanwhile
        if is_due:
            self._sweep()
        return TargetLimits(states) if states else None

    def forget(self) -> None:
        """Fill all buckets; attempts in flight count on."""
        with self._lock:
            for state in list(self._states.values()):
                state.change(state.limit, *_buckets(state.limit))

    def after_fork(self) -> None:
        """Start with full buckets and nothing in flight in a forked child."""
        self._lock = threading.RLock()
        self._states = {}
        self._removed = {}

    def _sweep(self) -> None:
        """Drop states that are as good as new ones."""
        now = self._clock()
        for key in list(self._states):
            with self._lock:
                state = self._states.get(key)
                if state is not None and state.is_idle(now):
                    self._states.pop(key, None)
                    known = state.limit, state.places, state.requests, state.tokens
                    reference = weakref.ref(state)
                    del state
                    # Later attempts have to find the state that others refer to. If nobody does,
                    # it may still have been used since the look at it.
                    found = reference() or LimitState(key, *known)
                    if found is reference() or not found.is_idle(now):
                        self._states.setdefault(key, found)
        # When few are idle, look again only after a tenth more, not at every new key.
        self._next_sweep = max(MOST_KEYS, len(self._states) + MOST_KEYS // 10)

    def _state_of(self, key: str, limit: Limit) -> LimitState:
        state = self._states.get(key)
        if state is None:
            queue = self._removed.pop(key, None)
            if queue is None:
                queue = places(limit.max_concurrent, limit.max_queued)
            else:
                queue.change(limit.max_concurrent, limit.max_queued)
            state = self._states[key] = LimitState(key, limit, queue, *_buckets(limit))
        return state


def _held(removed: Mapping[str, Places]) -> dict[str, Places]:
    """Return those that attempts in flight still hold."""
    return {key: each for key, each in removed.items() if each.running}


def _limit_of(key: str, limits: Mapping[str, Limit]) -> Limit | None:
    found = limits.get(key)
    return limits.get("*") if found is None and "/" not in key and ":" not in key else found


def _buckets(limit: Limit) -> tuple[Bucket | None, Bucket | None]:
    """Return full buckets of requests and of tokens, as far as they are limited here."""
    if limit.shared:
        return None, None  # they are in the store
    return (
        None if limit.requests is None else bucket(limit.requests, limit.seconds, limit.burst),
        None if limit.tokens is None else bucket(limit.tokens, limit.seconds),
    )
