"""`ToldLimits`: what a provider's headers have told of one key, and what that means for a call.

Owns the figures of the key, the attempts that count against them, and one lock, under which nothing
foreign is called. Time is passed in.

Theory of operation. A figure is what was left when the provider answered. The attempts that were
started after the attempt which told it are not in it, so they count against it until they answer;
their own answers tell a newer figure. Attempts have numbers in the order in which they started. An
answer of an attempt with a lower number than that of the figure's own attempt is older news and
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
LONGEST_PAUSE: Final = 3_600.0
"""Seconds above which a pause is cut: a typo in a header must not pause a key for days."""
_MOST_FIGURES: Final = 64
"""Figures that are kept of a key; a provider may name its policies as it likes."""
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
    """What is left of a key's limits, in monotonic seconds; None where nothing was told."""

    requests: int | None
    tokens: int | None
    resets_at: float | None
    seen_at: float | None


class Started:
    """An attempt that counts against the figures of one key until it ends."""

    __slots__ = ("_ended", "_told", "input", "number", "output")

    def __init__(self, told: ToldLimits, number: int, input: int, output: int) -> None:
        self._told = told
        self._ended = False
        self.number = number
        self.input = input
        self.output = output

    def end(self) -> None:
        """Count the attempt no longer; it has answered or has ended otherwise. Never waits."""
        if not self._ended:
            self._ended = True
            self._told._ended.append(self)

    def __del__(self) -> None:
        # Only of a key that nobody else refers to: a key refers to its running attempts.
        self.end()


class _Told:
    """One figure, and what counts against it."""

    __slots__ = ("figure", "later", "number", "paused_until", "seen_at")

    def __init__(self, figure: Figure, number: int, seen_at: float) -> None:
        self.figure = figure
        self.number = number
        """Number of the attempt that told it."""
        self.seen_at = seen_at
        self.later = 0.0
        """What the attempts need that started after that one and are running."""
        self.paused_until = NEVER

    def needs(self, input: float, output: float) -> float:
        """Return what a call needs of this figure."""
        counts = self.figure.counts
        if counts == "requests":
            return 1.0
        return (input if counts != "output" else 0.0) + (output if counts != "input" else 0.0)

    @property
    def growth(self) -> float:
        """What comes back in a second; 0 if it comes back at once, with the reset."""
        figure = self.figure
        if figure.kind == "window" or figure.resets_at is None or figure.limit is None:
            return 0.0
        span = figure.resets_at - self.seen_at
        missing = figure.limit - figure.remaining
        return missing / span if span > 0.0 and missing > 0.0 else 0.0

    def is_over(self, now: float) -> bool:
        """Whether the figure restrains nothing: its reset has passed, or is not known."""
        return self.figure.resets_at is None or now >= self.figure.resets_at

    def remaining(self, now: float) -> float | None:
        """Return what is left; None if it was reset to a limit that was not told."""
        figure = self.figure
        if figure.resets_at is not None and now >= figure.resets_at:
            return figure.limit
        return figure.remaining + self.growth * max(0.0, now - self.seen_at)

    def holds_at(self, amount: float) -> float:
        """Return when the figure will be this large, at the reset at the latest."""
        figure = self.figure
        resets_at = NEVER if figure.resets_at is None else figure.resets_at
        if not self.growth or amount <= figure.remaining:
            return resets_at
        return min(resets_at, self.seen_at + (amount - figure.remaining) / self.growth)


class ToldLimits:
    """What was told of one key. All methods may be called from any thread."""

    __slots__ = ("_ended", "_figures", "_lock", "_number", "_running")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._figures: dict[str, _Told] = {}
        self._running: dict[int, Started] = {}
        """``{number: attempt}`` of those that may count against a figure."""
        self._ended: deque[Started] = deque()
        self._number = itertools.count(1).__next__

    def start(self, input: int = 0, output: int = 0) -> Started:
        """Begin an attempt.

        Args:
            input: Estimate of its tokens of input.
            output: Estimate of its tokens of output; 0 if it is unknown.
        """
        with self._lock:
            self._take_out()
            started = Started(self, self._number(), input, output)
            self._running[started.number] = started
            for told in self._figures.values():
                told.later += told.needs(input, output)
            return started

    def hear(
        self, figures: Iterable[Figure], started: Started | None, now: float
    ) -> tuple[float, float]:
        """Take the figures of an answer.

        Args:
            figures: The figures of this key.
            started: The attempt that was answered; None for one that was not begun here, whose
                figures count as the newest.
            now: Monotonic seconds.

        Returns:
            Until when the key was paused, and until when it is now; `NEVER` for not at all.
        """
        with self._lock:
            self._take_out()
            before = self._paused_until(now)
            number = self._number() if started is None else started.number
            for figure in figures:
                self._hear_one(figure, number, now)
            return before, self._paused_until(now)

    def _hear_one(self, figure: Figure, number: int, now: float) -> None:
        known = self._figures.get(figure.name)
        if known is not None and number < known.number:
            return
        if known is None and len(self._figures) >= _MOST_FIGURES:
            return
        told = self._figures[figure.name] = _Told(figure, number, now)
        told.later = sum(
            told.needs(each.input, each.output)
            for each in self._running.values()
            if each.number > number
        )
        if figure.remaining >= 1.0:
            return
        # Without a reset that is the past, so nothing is paused.
        told.paused_until = min(told.holds_at(1.0), now + LONGEST_PAUSE)
        if known is not None:
            told.paused_until = max(told.paused_until, known.paused_until)

    def paused_until(self, now: float) -> float:
        """Return until when a figure of 0 pauses the key, monotonic seconds; `NEVER` if none."""
        with self._lock:
            return self._paused_until(now)

    def _paused_until(self, now: float) -> float:
        latest = max((told.paused_until for told in self._figures.values()), default=NEVER)
        return latest if latest > now else NEVER

    def refusal(self, now: float, input: int = 0, output: int = 0) -> Refusal | None:
        """Return why the figures do not cover this call; None if they do.

        Args:
            now: Monotonic seconds.
            input: Estimate of its tokens of input.
            output: Estimate of its tokens of output; 0 if it is unknown.
        """
        with self._lock:
            self._take_out()
            latest: Refusal | None = None
            for told in self._figures.values():
                need = told.needs(input, output)
                left = None if told.is_over(now) or not need else told.remaining(now)
                if left is None or left - told.later + _ROUNDING >= need:
                    continue
                wait = max(0.0, told.holds_at(need + told.later) - now)
                if latest is None or wait > latest.retry_after:
                    counts = told.figure.counts
                    reason = "request_limit" if counts == "requests" else "token_limit"
                    latest = Refusal(reason, wait)
            return latest

    def summary(self, now: float) -> Summary:
        """Return what is left of the limits of this key."""
        with self._lock:
            requests: list[float] = []
            tokens: list[float] = []
            for told in self._figures.values():
                left = told.remaining(now)
                if left is not None:
                    (requests if told.figure.counts == "requests" else tokens).append(left)
            figures = list(self._figures.values())
            resets = [each.figure.resets_at for each in figures if not each.is_over(now)]
            return Summary(
                int(min(requests)) if requests else None,
                int(min(tokens)) if tokens else None,
                max((each for each in resets if each is not None), default=None),
                max((each.seen_at for each in figures), default=None),
            )

    def _take_out(self) -> None:
        """Let go of the attempts that have ended."""
        while self._ended:
            try:
                started = self._ended.popleft()
            except IndexError:  # a signal handler took it
                return
            if self._running.pop(started.number, None) is None:
                continue
            for told in self._figures.values():
                if started.number > told.number:
                    told.later -= told.needs(started.input, started.output)
