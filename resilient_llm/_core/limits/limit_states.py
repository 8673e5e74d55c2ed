"""`LimitStates`: the places and buckets of each limit, and `Pass`, what one attempt takes of them.

Owns ``{key: LimitState}``. Nothing waits here: a `Pass` is taken whole or not at all. Who waits
does so at a `Place` or a `Charge` of its pass; see places.py and buckets.py.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from resilient_llm._core.limits.buckets import Bucket, bucket
from resilient_llm._core.limits.places import Places, places

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from resilient_llm._core.limits.buckets import Charge
    from resilient_llm._core.limits.places import Place
    from resilient_llm._values.limit import Applied, Limit


class LimitRefusal(NamedTuple):
    """Why an attempt does not pass its limits.

    Attributes:
        reason: ``"concurrency"``, ``"request_limit"``, ``"token_limit"`` or
            ``"request_too_large"``.
        key: Key of the limit.
        retry_after: Seconds until this attempt would fit; None if that is not known, or never.
    """

    reason: str
    key: str
    retry_after: float | None


class LimitState:
    """The state of one limit.

    Attributes:
        key: Whose limit it is.
        limit: The limit.
        places: Its places, or None; those of attempts that began before the limit was changed
            count on.
        requests: Its bucket of requests, or None.
        tokens: Its bucket of tokens, or None.
    """

    __slots__ = ("key", "limit", "places", "requests", "tokens")

    limit: Limit
    requests: Bucket | None
    tokens: Bucket | None

    def __init__(self, key: str, limit: Limit) -> None:
        self.key = key
        self.places: Places | None = None
        self.change(limit)

    def change(self, limit: Limit) -> None:
        """Begin with another limit: with full buckets, and the attempts that are in flight."""
        self.limit = limit
        per = limit.seconds
        self.requests = None if limit.requests is None else bucket(limit.requests, per, limit.burst)
        self.tokens = None if limit.tokens is None else bucket(limit.tokens, per)
        if self.places is not None:
            self.places.change(limit.max_concurrent, limit.max_queued)
        elif limit.max_concurrent is not None:
            self.places = places(limit.max_concurrent, limit.max_queued)


class LimitStates:
    """The states of all limits of the process. All methods may be called from any thread."""

    __slots__ = ("_lock", "_states")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._states: dict[str, LimitState] = {}

    def of(self, applied: Applied) -> LimitState:
        """Return the state of a limit, which is changed if the limit is another one now."""
        state = self._states.get(applied.key)
        if state is not None and state.limit is applied.limit:
            return state
        with self._lock:
            state = self._states.get(applied.key)
            if state is None:
                state = self._states[applied.key] = LimitState(applied.key, applied.limit)
            elif state.limit != applied.limit:
                state.change(applied.limit)
            else:
                state.limit = applied.limit  # an equal one, which is found by identity from now on
            return state

    def keep_only(self, limits: Mapping[str, Limit], keys: Iterable[str]) -> None:
        """Drop the states that no limit has any more; those with attempts in flight stay.

        Args:
            limits: ``{key: limit}`` that are in force.
            keys: The keys that have the limit of ``"*"``.
        """
        with self._lock:
            known = {*limits, *keys}
            for key, state in list(self._states.items()):
                if key in known:
                    continue
                if state.places is None or not (state.places.running or state.places.waiting):
                    self._states.pop(key, None)
                else:
                    state.places.change(None)
                    state.requests = state.tokens = None

    def forget_buckets(self) -> None:
        """Fill all buckets; attempts in flight count on."""
        with self._lock:
            for state in list(self._states.values()):
                state.change(state.limit)

    def after_fork(self) -> None:
        """Begin with nothing in flight, no queues, full buckets and another lock."""
        self._lock = threading.RLock()
        self._states = {}


class Pass:
    """What one attempt takes of its limits: a place, a request and its tokens of each.

    Attributes:
        places: One for each limit that has places.
        requests: One for each limit that has a bucket of requests.
        tokens: One for each limit that has a bucket of tokens.
    """

    __slots__ = ("_keys", "places", "requests", "tokens")

    def __init__(self, states: Iterable[LimitState], tokens: int) -> None:
        """Prepare to pass; nothing is taken yet.

        Args:
            states: The limits that apply.
            tokens: Estimate of the attempt's tokens, 0 or more.
        """
        self.places: list[Place] = []
        self.requests: list[Charge] = []
        self.tokens: list[Charge] = []
        self._keys: tuple[list[str], list[str], list[str]] = ([], [], [])
        for state in states:
            if state.places is not None and state.limit.max_concurrent is not None:
                self.places.append(state.places.place())
                self._keys[0].append(state.key)
            if state.requests is not None:
                self.requests.append(state.requests.charge(1))
                self._keys[1].append(state.key)
            if state.tokens is not None:
                self.tokens.append(state.tokens.charge(tokens))
                self._keys[2].append(state.key)

    def take(self, now: float) -> LimitRefusal | None:
        """Take everything, or nothing and return why; once.

        Of several limits without room the refusal is that of the first one without a place, else of
        a bucket that is too small, else of the one with the longest wait.
        """
        refusal = self._take(now)
        if refusal is not None:
            self.give_back()
        return refusal

    def _take(self, now: float) -> LimitRefusal | None:
        for place, key in zip(self.places, self._keys[0], strict=True):
            if not place.take():
                return LimitRefusal("concurrency", key, None)
        for charge in (*self.requests, *self.tokens):
            if not charge.take(now):
                return self._longest(now)
        return None

    def _longest(self, now: float) -> LimitRefusal:
        """Return the refusal of the bucket for which this attempt has to wait longest."""
        longest: LimitRefusal | None = None
        for charges, keys, reason in (
            (self.requests, self._keys[1], "request_limit"),
            (self.tokens, self._keys[2], "token_limit"),
        ):
            for charge, key in zip(charges, keys, strict=True):
                if charge.is_taken:
                    continue
                wait = charge.retry_after(now)
                if wait is None:
                    return LimitRefusal("request_too_large", key, None)
                if longest is None or wait > (longest.retry_after or 0.0):
                    longest = LimitRefusal(reason, key, wait)
        assert longest is not None
        return longest

    def give_back(self) -> None:
        """Give everything back, as a later guard refused the attempt. Never waits."""
        for charge in self.tokens:
            charge.give_back()
        for charge in self.requests:
            charge.give_back()
        for place in self.places:
            place.give_back()

    def end(self, tokens: int | None, now: float) -> None:
        """End the attempt: free its places, keep its requests, and settle its tokens.

        Args:
            tokens: What it has used; None to keep the estimate.
            now: Monotonic seconds.
        """
        for place in self.places:
            place.give_back()
        for charge in self.tokens:
            charge.settle(charge.amount if tokens is None else tokens, now)
        self.requests = []  # which were sent
