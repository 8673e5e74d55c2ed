"""`ReportedLimits`: the limits that a provider has reported for one key, and what a call may do.

Owns the figures of the key, the attempts that count against them, and one lock, under which nothing
foreign is called. Time is passed in.

Theory of operation. A figure is what was left when the provider answered. The attempts that
started after the one which reported it are not in it, so they count against it until they answer;
their own answers report a newer figure. Attempts have numbers in the order in which they started.
An answer of an attempt with a lower number than that of the figure's own attempt is older and
changes nothing, whenever it arrives.

An attempt ends without the lock, since a finaliser may end it: it is put into a queue, and the next
one who holds the lock takes it out.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resilient_llm._core.limits.headers import Figure

NEVER: Final = float("-inf")
LONGEST_TRUST: Final = 3_600.0
"""Seconds for which a figure restrains calls at most, as a pause or otherwise: a typo in a header
must not keep all calls of a key away for days, since only their answers could correct it."""
_MOST_FIGURES: Final = 64
"""Figures that are kept of a key; a provider may name its policies as it likes."""
_AN_ANSWER: Final = 1.0
"""Seconds after which to ask again where only the next answer tells when a call fits."""
_ROUNDING: Final = 1e-6
"""Part of a request or token by which a figure may be short."""


class Refusal(NamedTuple):
    """Why a figure does not cover a call.

    Attributes:
        reason: ``"request_limit"`` or ``"token_limit"``.
        retry_after: Seconds until it does.
    """

    reason: str
    retry_after: float


class Summary(NamedTuple):
    """What is left of a key's limits, in monotonic seconds; None where nothing was reported."""

    requests: int | None
    tokens: int | None
    resets_at: float | None
    seen_at: float | None


class Started:
    """An attempt that counts against the figures of one key until it ends.

    Attributes:
        number: Of the attempts of the key, in the order in which they started.
        began_at: When it started, monotonic seconds.
    """

    __slots__ = ("_ended", "began_at", "number")

    def __init__(self, number: int, ended: deque[int], began_at: float = NEVER) -> None:
        self.number = number
        self.began_at = began_at
        self._ended: deque[int] | None = ended

    def end(self) -> None:
        """Count the attempt no longer; it has answered or has ended otherwise. Never waits."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.append(self.number)

    def __del__(self) -> None:
        self.end()


class _Reported:
    """One figure, and what counts against it."""

    __slots__ = ("began_at", "figure", "later", "number", "paused_until", "seen_at")

    def __init__(self, figure: Figure, number: int, began_at: float, seen_at: float) -> None:
        self.figure = figure
        self.began_at = began_at
        """When that attempt began."""
        self.number = number
        """Number of the attempt that reported it."""
        self.seen_at = seen_at
        self.later = 0.0
        """What the attempts need that started after that one and are running."""
        self.paused_until = NEVER

    def needs(self, input_tokens: float, output_tokens: float) -> float:
        """Return what a call needs of this figure."""
        counts = self.figure.counts
        if counts == "requests":
            return 1.0
        if counts == "tokens":
            return input_tokens + output_tokens
        return input_tokens if counts == "input" else output_tokens

    @property
    def growth(self) -> float:
        """What comes back in a second; 0 if it comes back at once, with the reset."""
        figure = self.figure
        if figure.kind == "window" or figure.resets_at is None or figure.limit is None:
            return 0.0
        span = figure.resets_at - self.seen_at
        missing = figure.limit - figure.remaining
        return missing / span if span > 0.0 and missing > 0.0 else 0.0

    @property
    def trusted_until(self) -> float:
        """Until when the figure restrains calls; not at all if its reset is not known."""
        resets_at = self.figure.resets_at
        return NEVER if resets_at is None else min(resets_at, self.seen_at + LONGEST_TRUST)

    def restrains(self, now: float) -> bool:
        """Return whether calls must fit; after the reset what runs must fit the limit.

        Otherwise all that waited for a window would be sent at its beginning.
        """
        return now < self.trusted_until or (
            self.figure.resets_at is not None
            and self.figure.resets_at <= now < self.seen_at + LONGEST_TRUST
        )

    def remaining(self, now: float) -> float | None:
        """Return what is left; None if it was reset to a limit that was not reported."""
        figure = self.figure
        if figure.resets_at is not None and now >= figure.resets_at:
            return figure.limit
        return figure.remaining + self.growth * max(0.0, now - self.seen_at)

    def holds_at(self, amount: float) -> float:
        """Return when the figure will be this large, or restrains nothing any more."""
        until, growth = self.trusted_until, self.growth
        if not growth:
            return until
        return min(until, self.seen_at + (amount - self.figure.remaining) / growth)


class ReportedLimits:
    """What was reported of one key. All methods may be called from any thread."""

    __slots__ = ("_ended", "_figures", "_lock", "_number", "_running")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._figures: dict[str, _Reported] = {}
        self._running: dict[int, tuple[int, int]] = {}
        """``{number of a running attempt: its tokens of input and output}``."""
        self._ended: deque[int] = deque()
        """Numbers of attempts that have ended since the lock was last taken."""
        self._number = itertools.count(1).__next__

    def begin(self, now: float, input_tokens: int = 0, output_tokens: int = 0) -> Started | Refusal:
        """Begin an attempt if the figures cover it, in one step; else return why they do not.

        Args:
            now: Monotonic seconds.
            input_tokens: Estimate.
            output_tokens: Estimate; 0 if it is unknown.
        """
        with self._lock:
            refusal = self.refusal(now, input_tokens, output_tokens)
            return refusal or self.start(input_tokens, output_tokens, began_at=now)

    def start(
        self, input_tokens: int = 0, output_tokens: int = 0, *, began_at: float = NEVER
    ) -> Started:
        """Begin an attempt.

        Args:
            input_tokens: Estimate.
            output_tokens: Estimate; 0 if it is unknown.
            began_at: Monotonic seconds.
        """
        with self._lock:
            self._take_out()
            started = Started(self._number(), self._ended, began_at)
            self._running[started.number] = (input_tokens, output_tokens)
            for reported in list(self._figures.values()):
                reported.later += reported.needs(input_tokens, output_tokens)
            return started

    def hear(
        self,
        figures: Iterable[Figure],
        started: Started | None,
        now: float,
        began_at: float | None = None,
    ) -> tuple[float, float]:
        """Take the figures of an answer.

        Args:
            figures: The figures of this key.
            started: The attempt that was answered; None for one that was not begun here, whose
                figures count as the newest, if it began after the one which reported the known.
            now: Monotonic seconds.
            began_at: When such an attempt began, if that is known.

        Returns:
            Until when the key was paused, and until when it is now; `NEVER` for not at all.
        """
        with self._lock:
            self._take_out()
            before = self._paused_until(now)
            number = self._number() if started is None else started.number
            if started is not None:
                began_at = started.began_at
            for figure in figures:
                known = self._figures.get(figure.name)
                is_late = known is not None and began_at is not None and began_at < known.began_at
                if started is None and is_late:
                    continue
                self._hear_one(figure, number, now if began_at is None else began_at, now)
            return before, self._paused_until(now)

    def _hear_one(self, figure: Figure, number: int, began_at: float, now: float) -> None:
        known = self._figures.get(figure.name)
        if known is not None and number < known.number:
            return
        if known is None and len(self._figures) >= _MOST_FIGURES:
            return
        reported = self._figures[figure.name] = _Reported(figure, number, began_at, now)
        reported.later = sum(
            reported.needs(*tokens)
            for running, tokens in list(self._running.items())
            if running > number
        )
        if figure.remaining >= 1.0:
            return
        # Without a reset that is the past, so nothing is paused.
        reported.paused_until = reported.holds_at(1.0)
        if known is not None:
            reported.paused_until = max(reported.paused_until, known.paused_until)

    @property
    def has_figures(self) -> bool:
        """Whether anything was reported yet."""
        return bool(self._figures)

    def paused_until(self, now: float) -> float:
        """Return until when a figure of 0 pauses the key, monotonic seconds; `NEVER` if none."""
        with self._lock:
            return self._paused_until(now)

    def _paused_until(self, now: float) -> float:
        reported = list(self._figures.values())  # a copy: a signal handler may hear of another
        latest = max((each.paused_until for each in reported), default=NEVER)
        return latest if latest > now else NEVER

    def refusal(self, now: float, input_tokens: int = 0, output_tokens: int = 0) -> Refusal | None:
        """Return why the figures do not cover this call; None if they do.

        Args:
            now: Monotonic seconds.
            input_tokens: Estimate.
            output_tokens: Estimate; 0 if it is unknown.
        """
        with self._lock:
            self._take_out()
            latest: Refusal | None = None
            for reported in list(self._figures.values()):
                need = reported.needs(input_tokens, output_tokens)
                left = reported.remaining(now) if need and reported.restrains(now) else None
                if left is None or left - reported.later + _ROUNDING >= need:
                    continue
                if now < reported.trusted_until:
                    wait = reported.holds_at(need + reported.later) - now
                elif reported.later:
                    wait = _AN_ANSWER
                else:
                    continue  # more than its limit, of which the provider is to judge
                if latest is None or wait > latest.retry_after:
                    counts = reported.figure.counts
                    reason = "request_limit" if counts == "requests" else "token_limit"
                    latest = Refusal(reason, max(wait, 0.0))
            return latest

    def summary(self, now: float) -> Summary:
        """Return what is left of the limits of this key."""
        with self._lock:
            figures = list(self._figures.values())
        requests: list[float] = []
        tokens: list[float] = []
        for reported in figures:
            left = reported.remaining(now)
            if left is not None:
                (requests if reported.figure.counts == "requests" else tokens).append(left)
        resets = [each.figure.resets_at for each in figures]
        return Summary(
            int(min(requests) + _ROUNDING) if requests else None,
            int(min(tokens) + _ROUNDING) if tokens else None,
            max((each for each in resets if each is not None and each > now), default=None),
            max((each.seen_at for each in figures), default=None),
        )

    def _take_out(self) -> None:
        """Let go of the attempts that have ended."""
        while self._ended:
            try:
                number = self._ended.popleft()
            except IndexError:  # a signal handler took it
                return
            tokens = self._running.pop(number, None)
            if tokens is None:
                continue
            for reported in list(self._figures.values()):
                if number > reported.number:
                    reported.later -= reported.needs(*tokens)
