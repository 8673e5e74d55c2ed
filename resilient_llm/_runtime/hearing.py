"""The limits that providers report, of all keys, and to which attempt an answer belongs.

Owns what is done with headers, whoever has found them; the figures themselves belong to the state
of the process (`runtime.reported`). What is read, and when:

- errors of attempts, and answers of functions whose attempts are begun here: each;
- answers of other functions: the first one of a class, which is looked at anyhow. If it has
  headers of a rate limit, the functions on that target are bound again, and each is read;
- answers of a client that is listened to: each. It calls `heard` in the context of the code that
  sent the request, so the attempt that this code belongs to is found there.

So a function pays for this only once a provider has reported something of one of its targets, or
somebody listens to a client. Then its attempts are begun here, by way of `TargetLimits`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from resilient_llm._core.circuit.permit import heard_attempt
from resilient_llm._core.limits.headers import figures_of, rate_headers
from resilient_llm._core.limits.heard import HeardAttempt, HeardLimits
from resilient_llm._core.limits.reported import NEVER, ReportedLimits
from resilient_llm._runtime.response_headers import headers_in
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.rate_limit_state import RateLimitState
from resilient_llm._values.settings import MOST_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from resilient_llm._core.limits.headers import Figure
    from resilient_llm._core.limits.held import Held
    from resilient_llm._core.limits.reported import Started


def switch_on() -> None:
    """Have all attempts that start from now on be known to the answers of their clients."""
    if not runtime.is_listening:
        runtime.is_listening = True
        runtime.unbind_all()  # each attempt has to be begun here
        runtime.registry.settle_limits()


def switch_off() -> None:
    """Undo `switch_on`; for tests."""
    runtime.is_listening = False
    runtime.unbind_all()
    runtime.registry.settle_limits()


def heard(headers: object, key: str | None = None) -> None:
    """Take the headers of an answer, for the attempt of the context, else for a key, else not.

    Never raises: it is called inside other people's clients.

    Args:
        headers: Those of any client.
        key: Normalised key of a target or a provider, or None.
    """
    try:
        hearing.hear(headers, heard_attempt(), key)
    except Exception:  # noqa: BLE001, S110  # an observer of a pause, or headers of an unknown type
        pass


def hear_in(source: object, key: str, began_at: float, held: Held | None) -> None:
    """Take the headers that an error or an answer of an attempt holds, if it does. Never raises.

    Args:
        source: What the attempt raised or gave.
        key: Key of its target.
        began_at: When it began, monotonic seconds.
        held: What it held of limits, if it was begun here.
    """
    try:
        headers = headers_in(source)
        if headers is None:
            return
        attempt = None if held is None else held.heard
        hearing.hear(headers, attempt or HeardAttempt(key, {}, began_at), None)
    except Exception:  # noqa: BLE001, S110  # a property of a foreign class
        pass


class Hearing:
    """The figures of all keys of the process. All methods may be called from any thread.

    Attributes:
        on_pause: Called when a key is paused, for longer or shorter than before, or no longer:
            with the key, until when it was paused, and until when it is; monotonic seconds, and
            `reported.NEVER` for not at all. Called without a lock.
    """

    def __init__(self) -> None:
        self.on_pause: Callable[[str, float, float], object] = self.pause
        self._lock = threading.RLock()

    @property
    def is_on(self) -> bool:
        """Whether headers are read at all."""
        return runtime.settings.listen

    def fresh(self) -> None:
        """Forget all figures, and the attempts that count against them; pauses go on."""
        runtime.reported = {}

    def stop(self) -> None:
        """Forget all figures and end the pauses that they have asked for."""
        keys = list(runtime.reported)
        self.fresh()
        for key in keys:
            self.pause(key, NEVER, NEVER)

    def pause(self, key: str, before: float, after: float) -> None:
        """Pause the circuit of a key, or take that back, as its figures say now."""
        circuit = runtime.registry.circuit(key)
        until = after
        while True:  # until no other thread has heard more of it meanwhile
            now = runtime.clock()
            circuit.pause_for_headers(now, until)
            reported = runtime.reported.get(key)
            latest = NEVER if reported is None else reported.paused_until(now)
            if latest == until:
                return
            until = latest

    def limits_of(self, key: str) -> HeardLimits | None:
        """Return what attempts on a target have to ask, or None as long as there is nothing."""
        return HeardLimits(key, self.of) if runtime.hears(key) else None

    def of(self, key: str) -> ReportedLimits:
        """Return what was reported of a key, from now on."""
        keys = runtime.reported
        found = keys.get(key)
        if found is not None:
            return found
        with self._lock:
            while True:
                if len(keys) < MOST_KEYS:
                    break
                keys.pop(next(iter(keys)), None)
            return keys.setdefault(key, ReportedLimits())

    def known(self, key: str) -> ReportedLimits | None:
        """Return what was reported of a key, if anything was."""
        return runtime.reported.get(key)

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
            key: Whose answer it is if that is None; None for an answer without an owner.
        """
        if not self.is_on or (attempt is None and key is None):
            return
        reported = rate_headers(headers)
        if not reported:
            return
        if attempt is None:
            attempt = HeardAttempt(key or "", {})
        now = float(runtime.clock())
        figures = figures_of(reported, attempt.provider, now=now, wall=runtime.wall())
        by_key: dict[str, list[Figure]] = {}
        for figure in figures:
            whose = attempt.provider_key if figure.scope == "provider" else attempt.key
            by_key.setdefault(whose, []).append(figure)
        for whose, those in by_key.items():
            known = self.of(whose)
            is_first, had_tokens = not known.has_figures, known.has_tokens
            before, after = known.hear(those, attempt.started(whose), now, attempt.began_at)
            if (is_first and not runtime.is_listening) or (known.has_tokens and not had_tokens):
                runtime.unbind_all()  # the attempts on it have something to ask from now on
                runtime.registry.settle_limits()
            if before != after:
                self.on_pause(whose, before, after)

    def states(self) -> dict[str, RateLimitState]:
        """Return ``{key: what is left}`` of the keys of which something was reported, sorted."""
        now = float(runtime.clock())
        found: dict[str, RateLimitState] = {}
        for key, reported in sorted(runtime.reported.copy().items()):
            left = reported.summary(now)
            if left.seen_at is not None:
                found[key] = RateLimitState(
                    left.requests, left.tokens, _moment(left.resets_at), _moment(left.seen_at)
                )
        return found


def _moment(at: float | None) -> datetime | None:
    return None if at is None or at == NEVER else runtime.steady_moment(at)


hearing: Final = Hearing()
