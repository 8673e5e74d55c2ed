"""`ReportedLimits`: the limits that a provider has reported for one key, and what a call may do.

Owns the figures of the key, the attempts that count against them, and one lock, under which nothing
foreign is called. Time is passed in.

Theory of operation. A figure is what was left when the provider took the request of one attempt.
Attempts have numbers in the order in which they started, and requests reach the provider in another
order. So two things are kept of each figure:

*What is told*: the figure of the attempt with the highest number. It is shown, and pauses the key
when it is 0. An answer of an attempt with a lower number changes neither, whenever it arrives.

*What calls must fit*: the figure that the provider wrote last, as far as that can be seen. After
the answer of an attempt that started when the figure was known, it is that attempt's. Of two
attempts that ran side by side the lower figure is the later one, if the attempts which ran beside
them explain the difference. A difference that they do not explain has another cause, such as a new
window; then the number decides.

An attempt that started after the one which reported the figure is not in it, so it counts against
it until it answers. One that started shortly before may have been overtaken on its way to the
provider, so it counts as well.

A reset in whole seconds may be too early by one. So in the second after the reset of a window the
old figure still stands, except for one attempt at a time, whose answer tells how things are.

An attempt ends without the lock, since a finaliser may end it: it is put into a queue, and the next
one who holds the lock takes it out.

A signal handler may run on the thread that holds the lock, which is reentrant; it may raise. What
the attempts are and what they need is changed by statements without a call or a jump between them,
where CPython runs no handler (see circuit/window.py). What is kept of each figure takes a loop, so
it is noted that the loop runs: who takes the lock and finds such a note adds up all of it, and who
finds another note than its own at the end of its loop does so as well.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resilient_llm._core.limits.dialects import Counts
    from resilient_llm._core.limits.headers import Figure

NEVER: Final = float("-inf")
LONGEST_TRUST: Final = 3_600.0
"""Seconds for which a figure restrains calls at most, as a pause or otherwise: a typo in a header
must not keep all calls of a key away for days, since only their answers could correct it."""
_MOST_FIGURES: Final = 64
"""Figures that are kept of a key; a provider may name its policies as it likes."""
_AN_ANSWER: Final = 1.0
"""Seconds after which to ask again where only the next answer tells when a call fits."""
_A_SCOUT: Final = 0.1
"""The same while one attempt finds out whether a window has been reset, for a second at most."""
_ON_THE_WAY: Final = 2.0
"""Seconds in which an attempt has reached its provider: it has waited for its thread or task, and
for a connection. All that start in this time are a small part of what a minute allows."""
_A_SECOND: Final = 1.0
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
        try:
            ended, self._ended = self._ended, None
        except AttributeError:  # an interrupt came before it was made
            return
        if ended is not None:
            ended.append(self.number)  # the first call: an interrupt in a finaliser goes nowhere


_Running = tuple[float, int, int, int, int, int]
"""A running attempt: when it began, its tokens of input and output, and how many attempts had ended
when it began, with how many tokens of input and output. A plain tuple, made for each attempt."""


def _need(counts: Counts, input_tokens: float, output_tokens: float) -> float:
    """Return what an attempt needs of a figure that counts this."""
    if counts == "requests":
        return 1
    if counts == "tokens":
        return input_tokens + output_tokens
    return input_tokens if counts == "input" else output_tokens


class _Observed:
    """One figure as one attempt reported it."""

    __slots__ = (
        "began_at",
        "covers",
        "cutoff",
        "figure",
        "growth",
        "is_window",
        "known_to",
        "later",
        "number",
        "scout",
        "seen_at",
    )

    def __init__(
        self, figure: Figure, number: int, began_at: float, seen_at: float, known_to: int
    ) -> None:
        self.figure = figure
        self.number = number
        """Number of the attempt that was told it."""
        self.began_at = began_at
        """When that attempt began."""
        self.seen_at = seen_at
        self.known_to = known_to
        """Number of the last attempt that began before it was told."""
        self.cutoff = began_at - _ON_THE_WAY if began_at != NEVER else float("inf")
        """Attempts with a lower number count if they began after this moment."""
        self.covers = figure.remaining + _ROUNDING
        """What it covers without what has come back since."""
        self.is_window = figure.kind == "window"
        self.later: float = 0
        """What the attempts need that count against it."""
        self.scout = 0
        """Number of the attempt that finds out whether a window has been reset."""
        self.growth = self.growth_until(self.full_at)

    @property
    def full_at(self) -> float | None:
        """When a refilled figure is its limit again, at the latest."""
        figure = self.figure
        return None if figure.resets_at is None else figure.resets_at + figure.rounding

    def growth_until(self, full_at: float | None) -> float:
        """Return what comes back in a second; 0 if it comes back at once, with the reset."""
        figure = self.figure
        if figure.kind == "window" or full_at is None or figure.limit is None:
            return 0.0
        span, missing = full_at - self.seen_at, figure.limit - figure.remaining
        return missing / span if span > 0.0 and missing > 0.0 else 0.0

    @property
    def trusted_until(self) -> float:
        """Until when the figure restrains calls; not at all if its reset is not known."""
        resets_at = self.figure.resets_at
        return NEVER if resets_at is None else min(resets_at, self.seen_at + LONGEST_TRUST)

    def remaining(self, now: float) -> float | None:
        """Return what is left; None if it was reset to a limit that was not reported."""
        figure = self.figure
        if figure.resets_at is not None and now >= figure.resets_at:
            return figure.limit
        return figure.remaining + self.growth_until(figure.resets_at) * max(0.0, now - self.seen_at)

    def holds_at(self, amount: float, growth: float) -> float:
        """Return when the figure will be this large, or restrains nothing any more."""
        until = self.trusted_until
        if not growth:
            return until
        return min(until, self.seen_at + (amount - self.figure.remaining) / growth)

    def is_out(self, number: int, began_at: float) -> bool:
        """Return whether an attempt counts against the figure while it runs."""
        return number > self.number or (number < self.number and began_at >= self.cutoff)

    def is_doubtful(self, now: float) -> bool:
        """Return whether a window should have been reset but may not have been yet."""
        figure = self.figure
        return (
            figure.kind == "window"
            and figure.resets_at is not None
            and figure.resets_at <= now < figure.resets_at + figure.rounding
        )


class _Reported:
    """What is known of one figure."""

    __slots__ = ("base", "most", "paused_until", "told")

    def __init__(self, told: _Observed) -> None:
        self.told = told
        """Of the attempt with the highest number."""
        self.base = told
        """What calls must fit; usually the same."""
        self.most = told.figure.remaining
        """The highest that was ever told, which stands for a limit that is not reported."""
        self.paused_until = NEVER


class ReportedLimits:
    """What was reported of one key. All methods may be called from any thread."""

    __slots__ = (
        "_bases",
        "_changing",
        "_ended",
        "_figures",
        "_input",
        "_last",
        "_lock",
        "_output",
        "_over",
        "_over_input",
        "_over_output",
        "_running",
    )

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._figures: dict[str, _Reported] = {}
        self._running: dict[int, _Running] = {}
        """``{number of an attempt that runs and has not answered: the attempt}``."""
        self._ended: deque[int] = deque()
        """Numbers of attempts that have ended since the lock was last taken."""
        self._bases: tuple[_Observed, ...] = ()
        """What calls must fit, of all figures."""
        self._changing: object = None
        """What the present change of the figures is about; another lock holder finds None, unless
        the change was interrupted."""
        self._last = 0
        """Number of the attempt that started last."""
        self._input = self._output = 0
        """Tokens of all attempts that were started."""
        self._over = self._over_input = self._over_output = 0
        """How many have answered or ended, and their tokens."""

    def begin(self, now: float, input_tokens: int = 0, output_tokens: int = 0) -> Started | Refusal:
        """Begin an attempt if the figures cover it, in one step; else return why they do not.

        Args:
            now: Monotonic seconds.
            input_tokens: Estimate.
            output_tokens: Estimate; 0 if it is unknown.
        """
        with self._lock:
            if self._ended or self._changing is not None:
                self._take_out()
            if self._bases:
                refusal = self._refusal(now, input_tokens, output_tokens)
                if refusal is not None:
                    return refusal
            return self._started(input_tokens, output_tokens, now)

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
            return self._started(input_tokens, output_tokens, began_at)

    def _started(self, input_tokens: int, output_tokens: int, began_at: float) -> Started:
        started = Started(0, self._ended, began_at)
        # No call and no jump in these: see the theory of operation.
        self._last = started.number = number = self._last + 1
        self._changing = self._running[number] = running = (
            began_at,
            input_tokens,
            output_tokens,
            self._over,
            self._over_input,
            self._over_output,
        )
        self._input += input_tokens
        self._output += output_tokens
        for base in self._bases:
            base.later += _need(base.figure.counts, input_tokens, output_tokens)
            if base.is_window and base.is_doubtful(began_at):
                base.scout = number
        if self._changing is running:
            self._changing = None
        else:
            self._add_up()
        return started

    def _number(self) -> int:
        """Return the number of an answer whose attempt was not begun here; it is over."""
        self._last += 1
        self._over += 1
        return self._last

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
            if started is None:
                number, beside = self._number(), (0, 0, 0)
            else:
                number, began_at = started.number, started.began_at
                beside = self._beside(number)
                self._let_go(number)
            self._changing = mark = object()
            for figure in figures:
                known = self._figures.get(figure.name)
                is_late = (
                    known is not None and began_at is not None and began_at < known.told.began_at
                )
                if started is None and is_late:
                    continue
                told = _Observed(
                    figure, number, now if began_at is None else began_at, now, self._last
                )
                self._hear_one(told, known, beside)
            self._bases = tuple(each.base for each in list(self._figures.values()))
            if self._changing is mark:
                self._changing = None
            else:
                self._add_up()
            return before, self._paused_until(now)

    def _beside(self, number: int) -> tuple[int, int, int]:
        """Return how many attempts ran beside one, with itself, and their tokens."""
        running = self._running.get(number)
        if running is None:
            return 0, 0, 0
        _, _, _, over, over_input, over_output = running
        return self._last - over, self._input - over_input, self._output - over_output

    def _hear_one(
        self, told: _Observed, known: _Reported | None, beside: tuple[int, int, int]
    ) -> None:
        figure = told.figure
        if known is None:
            if len(self._figures) >= _MOST_FIGURES:
                return
            known = self._figures[figure.name] = _Reported(told)
            told.later = self._out(told)
        elif _is_latest(
            told,
            known.base,
            beside[0] if figure.counts == "requests" else _need(figure.counts, *beside[1:]),
        ):
            _follow(told, known.base)
            told.later = self._out(told)
            known.base = told
        known.most = max(known.most, figure.remaining)
        if told.number < known.told.number:
            return
        known.told = told
        if figure.remaining >= 1.0:
            known.paused_until = NEVER
        else:
            # Without a reset that is the past, so nothing is paused.
            growth = told.growth_until(figure.resets_at)
            known.paused_until = max(known.paused_until, told.holds_at(1.0, growth))

    def _out(self, told: _Observed) -> float:
        """Return what the attempts need that count against a figure."""
        counts = told.figure.counts
        return sum(
            _need(counts, running[1], running[2])
            for number, running in list(self._running.items())
            if told.is_out(number, running[0])
        )

    @property
    def has_figures(self) -> bool:
        """Whether anything was reported yet."""
        return bool(self._figures)

    @property
    def has_tokens(self) -> bool:
        """Whether a figure of tokens was reported yet."""
        return any(base.figure.counts != "requests" for base in self._bases)

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
            return self._refusal(now, input_tokens, output_tokens)

    def _refusal(self, now: float, input_tokens: int, output_tokens: int) -> Refusal | None:
        latest: Refusal | None = None
        for base in self._bases:
            counts = base.figure.counts
            need = _need(counts, input_tokens, output_tokens)
            if need + base.later <= base.covers:
                continue  # whatever has come back since
            wait = self._wait(base, need, now)
            if wait is not None and (latest is None or wait > latest.retry_after):
                reason = "request_limit" if counts == "requests" else "token_limit"
                latest = Refusal(reason, max(wait, 0.0))
        return latest

    def _wait(self, base: _Observed, need: float, now: float) -> float | None:
        """Return the seconds until a figure covers what a call needs; None if it does."""
        figure, later = base.figure, base.later
        missing = need + later - base.covers
        resets_at = figure.resets_at
        if not need or resets_at is None or now >= base.seen_at + LONGEST_TRUST:
            return None
        full_at = resets_at + figure.rounding
        if base.growth and resets_at <= now < full_at:
            covers_at = base.seen_at + missing / base.growth
            return min(covers_at, full_at) - now if covers_at > now else None
        if now < resets_at:
            if base.growth and missing <= base.growth * (now - base.seen_at):
                return None
            return base.holds_at(need + later, base.growth) - now
        if base.is_doubtful(now):
            return _A_SCOUT if base.scout in self._running else None
        most = self._figures[figure.name].most
        limit = max(1.0, most) if figure.limit is None else figure.limit
        # Otherwise all that waited for a window would be sent at its beginning. Of a call that
        # is more than the limit the provider is to judge.
        return _AN_ANSWER if later and need + later > limit + _ROUNDING else None

    def summary(self, now: float) -> Summary:
        """Return what is left of the limits of this key."""
        with self._lock:
            figures = [each.told for each in list(self._figures.values())]
        requests: list[float] = []
        tokens: list[float] = []
        for told in figures:
            left = told.remaining(now)
            if left is not None:
                (requests if told.figure.counts == "requests" else tokens).append(left)
        resets = [each.figure.resets_at for each in figures]
        return Summary(
            int(min(requests) + _ROUNDING) if requests else None,
            int(min(tokens) + _ROUNDING) if tokens else None,
            max((each for each in resets if each is not None and each > now), default=None),
            max((each.seen_at for each in figures), default=None),
        )

    def _take_out(self) -> None:
        """Let go of the attempts that have ended, and finish what an interrupt left half done."""
        if self._changing is not None:
            self._add_up()
        ended = self._ended
        while ended:
            number = ended[0]
            self._let_go(number)
            # Not before, or an interrupt would lose it. A signal handler may have taken it out.
            if ended and ended[0] == number:
                del ended[0]

    def _let_go(self, number: int) -> None:
        """Count an attempt no longer."""
        if number not in self._running:
            return
        # No call and no jump in these, either.
        self._changing = running = self._running[number]
        del self._running[number]
        began_at, input_tokens, output_tokens, _, _, _ = running
        self._over += 1
        self._over_input += input_tokens
        self._over_output += output_tokens
        for base in self._bases:
            if base.is_out(number, began_at):
                base.later -= _need(base.figure.counts, input_tokens, output_tokens)
        if self._changing is running:
            self._changing = None
        else:
            self._add_up()

    def _add_up(self) -> None:
        """Compute what calls must fit, and what counts against it, from what is known."""
        while True:
            self._changing = mark = object()
            bases = tuple([each.base for each in list(self._figures.values())])
            for base in bases:
                base.later = self._out(base)
            self._bases = bases
            if self._changing is mark:  # no signal handler has changed anything meanwhile
                self._changing = None
                return


def _is_latest(told: _Observed, base: _Observed, beside: float) -> bool:
    """Return whether the provider wrote a figure later than the one that calls must fit.

    Args:
        told: What was told just now.
        base: What calls must fit so far.
        beside: What the attempts need that ran beside the one which was told, and itself.
    """
    if told.number == base.number or told.number > base.known_to:
        return True
    now, new, old = told.seen_at, told.figure, base.figure
    if new.kind == "window" and new.resets_at is not None and old.resets_at is not None:
        # The provider wrote the reset at some moment between the attempt's begin and its answer.
        if new.resets_at - (now - told.began_at) > old.resets_at + _A_SECOND:
            return True  # of the next window
        if new.resets_at + _A_SECOND < old.resets_at - (base.seen_at - base.began_at):
            return False  # of the one before
        if now >= old.resets_at:
            return new.resets_at > now
    known = old.remaining + base.growth * max(0.0, now - base.seen_at)
    if told.number > base.number:
        return new.remaining <= known or new.remaining - known >= beside
    return new.remaining < known <= new.remaining + beside


def _follow(told: _Observed, base: _Observed) -> None:
    """Have a window last a second longer where an attempt found that it was not reset in time."""
    if told.figure.remaining < 1.0 and base.is_doubtful(told.seen_at):
        end = base.figure.resets_at
        assert end is not None
        end += base.figure.rounding
        if told.figure.resets_at is not None and told.figure.resets_at < end:
            told.figure = told.figure._replace(resets_at=end, rounding=0.0)
