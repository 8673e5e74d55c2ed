"""The limits that providers report, of all keys, and to which attempt an answer belongs.

Owns the figures of all keys, and the variable behind the attempt of the context. An HTTP client
that is listened to calls `heard` for each of its answers, in the context of the code that sent the
request, so the attempt that this code belongs to is found there. Attempts are put into the context
only once somebody listens to a client: a process that never does pays nothing. The wrappers are
bound again then, as with `call_ids`.
"""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Final

from resilient_llm._core.limits.headers import rate_headers, read_figures
from resilient_llm._core.limits.reported import NEVER, ReportedLimits
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.keys import parse_key, provider_key
from resilient_llm._values.rate_limit_state import RateLimitState
from resilient_llm._values.settings import MOST_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from resilient_llm._core.limits.headers import Figure
    from resilient_llm._core.limits.reported import Started


class HeardAttempt:
    """An attempt whose answers are heard.

    Attributes:
        key: Key of its target, or of a provider.
        provider: Name of the provider.
        provider_key: Key of the provider, with its account.
    """

    __slots__ = ("_started", "key", "provider", "provider_key")

    def __init__(self, key: str, started: dict[str, Started]) -> None:
        self.key = key
        self.provider, account, _ = parse_key(key)
        self.provider_key = provider_key(self.provider, account)
        self._started = started

    def started(self, key: str) -> Started | None:
        """Return the attempt as it counts against the figures of one of its keys."""
        return self._started.get(key)

    def end(self) -> None:
        """Count the attempt no longer against any figure. Never waits; may be called again."""
        for started in self._started.values():
            started.end()


Entered = Token["HeardAttempt | None"]
"""What `leave` takes back."""

_current: ContextVar[HeardAttempt | None] = ContextVar("resilient_llm_heard", default=None)
"""The innermost attempt around this code, or None."""


class Switch:
    """Whether attempts are put into the context."""

    __slots__ = ("is_on",)

    def __init__(self) -> None:
        self.is_on = False


switch: Final = Switch()


def switch_on() -> None:
    """Have the attempts that start from now on be known in their context."""
    if not switch.is_on:
        switch.is_on = True
        runtime.unbind_all()  # the wrappers are given other code when they are bound


def switch_off() -> None:
    """Undo `switch_on`; for tests."""
    switch.is_on = False
    runtime.unbind_all()


def enter(attempt: HeardAttempt) -> Entered:
    """Begin code that belongs to an attempt."""
    return _current.set(attempt)


def leave(entered: Entered) -> None:
    """End code that belongs to an attempt, also in another context than the one it began in."""
    try:
        _current.reset(entered)
    except ValueError:  # that context is left already, or goes on elsewhere
        pass


def heard(headers: object, key: str | None = None) -> None:
    """Take the headers of an answer, for the attempt of the context, else for a key, else not.

    Never raises: it is called inside other people's clients.

    Args:
        headers: Those of any client.
        key: Normalised key of a target or a provider, or None.
    """
    try:
        hearing.hear(headers, _current.get(), key)
    except Exception:  # noqa: BLE001, S110  # an observer of a pause, or headers of an unknown type
        pass


class Hearing:
    """The figures of all keys of the process. All methods may be called from any thread.

    Attributes:
        is_on: Whether headers are read at all.
        on_pause: Called when a key is paused, for longer or shorter than before, or no longer:
            with the key, until when it was paused, and until when it is; monotonic seconds, and
            `reported.NEVER` for not at all. Called without a lock.
    """

    def __init__(self) -> None:
        self.is_on = True
        self.on_pause: Callable[[str, float, float], object] = _nothing
        self.fresh()

    def fresh(self) -> None:
        """Forget all figures, and the attempts that count against them."""
        self._lock = threading.RLock()
        self._keys: dict[str, ReportedLimits] = {}

    def of(self, key: str) -> ReportedLimits:
        """Return what was reported of a key, from now on."""
        found = self._keys.get(key)
        if found is not None:
            return found
        with self._lock:
            while len(self._keys) >= MOST_KEYS:
                self._keys.pop(next(iter(self._keys)), None)
            return self._keys.setdefault(key, ReportedLimits())

    def known(self, key: str) -> ReportedLimits | None:
        """Return what was reported of a key, if anything was."""
        return self._keys.get(key)

    def start(self, key: str, input_tokens: int = 0, output_tokens: int = 0) -> HeardAttempt:
        """Begin an attempt, which counts against newer figures until it ends.

        Args:
            key: Key of its target, or of a provider.
            input_tokens: Estimate.
            output_tokens: Estimate; 0 if it is unknown.
        """
        started: dict[str, Started] = {}
        attempt = HeardAttempt(key, started)
        for each in (attempt.provider_key, key):
            if each not in started:
                started[each] = self.of(each).start(input_tokens, output_tokens)
        return attempt

    def hear(self, headers: object, attempt: HeardAttempt | None, key: str | None) -> None:
        """Take the headers of an answer.

        Args:
            headers: Those of any client.
            attempt: The attempt that was answered, or None.
            key: Whose answer it is if that is None; None for an answer that belongs to nobody.
        """
        if not self.is_on or (attempt is None and key is None):
            return
        reported = rate_headers(headers)
        if not reported:
            return
        if attempt is None:
            attempt = HeardAttempt(key or "", {})
        now = float(runtime.clock())
        figures = read_figures(reported, attempt.provider, now=now, wall=runtime.wall())
        by_key: dict[str, list[Figure]] = {}
        for figure in figures:
            whose = attempt.provider_key if figure.scope == "provider" else attempt.key
            by_key.setdefault(whose, []).append(figure)
        for whose, those in by_key.items():
            before, after = self.of(whose).hear(those, attempt.started(whose), now)
            if before != after:
                self.on_pause(whose, before, after)

    def states(self) -> dict[str, RateLimitState]:
        """Return ``{key: what is left}`` of the keys of which something was reported, sorted."""
        now = float(runtime.clock())
        found: dict[str, RateLimitState] = {}
        for key, reported in sorted(self._keys.copy().items()):
            left = reported.summary(now)
            if left.seen_at is not None:
                found[key] = RateLimitState(
                    left.requests, left.tokens, _moment(left.resets_at), _moment(left.seen_at)
                )
        return found


def _moment(at: float | None) -> datetime | None:
    return None if at is None or at == NEVER else runtime.steady_moment(at)


def _nothing(key: str, before: float, after: float, /) -> None:
    return None


hearing: Final = Hearing()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=hearing.fresh)  # the parent's attempts do not run there
