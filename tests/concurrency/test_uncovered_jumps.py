"""Interrupts at the end of a turn of a loop: no lock stays held, and every `finally` is executed."""

from __future__ import annotations

import _thread
import gc
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import resilient_llm
from resilient_llm import (
    Budget,
    Limit,
    Target,
    can_call,
    configure,
    failover,
    reset_spend,
    spend_key,
)
from resilient_llm._core import counts, figures
from resilient_llm._core.counts import Names
from resilient_llm._core.figures import TargetFigures
from resilient_llm._core.limits import reported
from resilient_llm._core.limits.headers import Figure
from resilient_llm._core.limits.reported import Refusal, ReportedLimits, Started
from resilient_llm._core.spending import local_ledger, refusing
from resilient_llm._drive.streams import StreamSession
from resilient_llm._runtime import hearing, limiting, registry
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import FakeClock, _clock
from tests.support.interrupts import interrupted_at
from tests.support.schedules import AT_JUMPS_BACK, WHERE_CPYTHON_SWITCHES
from tests.support.uncovered_jumps import holes_in, holes_of

HAS_HOLES = sys.version_info >= (3, 13)
"""Whether CPython looks up the jump itself."""


class Interrupt(BaseException):
    """What a handler of signals raises."""


# The scanner, and what CPython does.

FORMS = {
    "for, if": "for _ in source:\n    if _: done()",
    "for, if, else": "for _ in source:\n    if _: done()\n    else: done()",
    "for, continue": "for _ in source:\n    if not _: continue\n    done()",
    "for, assert": "for _ in source:\n    assert not _",
    "filter": "[_ for _ in source if _]",
    "comprehension": "[_ for _ in source]",
    "generator": "any(_ for _ in source if _)",
    "while": "while source.goes_on: done",
    "while True, break": "while True:\n    if not source.goes_on: break",
}
HAVE_HOLES = {"for, if", "for, assert", "filter", "while"}


class Source:
    """Raises a signal wherever it is asked, in C code, after which CPython looks at a jump only."""

    __next__ = staticmethod(_thread.interrupt_main)

    def __iter__(self) -> Source:
        return self


def _interrupt(*_: object) -> None:
    raise Interrupt


@pytest.fixture
def interrupting() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, _interrupt)
    yield
    signal.signal(signal.SIGINT, before)


def _function(form: str, around: str) -> tuple[str, Callable[..., None]]:
    body = textwrap.indent(FORMS[form], " " * 8)
    if around == "with":
        source = f"def work(source, lock, done):\n    with lock:\n{body}\n"
    else:
        source = (
            "def work(source, lock, done):\n    lock.acquire()\n"
            f"    try:\n{body}\n    finally:\n        lock.release()\n"
        )
    made: dict[str, Any] = {}
    exec(source, made)  # noqa: S102  # one of the forms above
    return source, made["work"]


@pytest.mark.skipif(not HAS_HOLES, reason="covers them all, or looks up another place")
@pytest.mark.parametrize("around", ["with", "finally"])
@pytest.mark.parametrize("form", FORMS)
def test_the_scanner_finds_what_is_not_covered(form: str, around: str) -> None:
    """Exactly the loops that end a turn with a condition, in what has something to do."""
    source, _ = _function(form, around)

    assert (form in HAVE_HOLES) is bool(holes_of(source))
    assert [] == holes_of(f"def work(source, done):\n{textwrap.indent(FORMS[form], '    ')}")


@pytest.mark.parametrize("around", ["with", "finally"])
@pytest.mark.parametrize("form", [each for each in FORMS if not each.startswith("while")])
def test_cpython_does_what_the_scanner_says(form: str, around: str, interrupting: None) -> None:
    """A real signal that comes in the middle of a turn leaves a lock held only in those loops."""
    lock = threading.Lock()
    _, work = _function(form, around)

    with pytest.raises(Interrupt):
        work(Source(), lock, len)

    assert (HAS_HOLES and form in HAVE_HOLES) is lock.locked()


@pytest.mark.skipif(not HAS_HOLES, reason="covers them all, or looks up another place")
def test_no_jump_is_uncovered() -> None:
    """An interrupt skips no `__exit__` and no `finally` of this library.

    Write such a loop with `continue`, or with `while True` and `break`, or move it into a function
    of its own: tests/support/uncovered_jumps.py says why.
    """
    assert [] == [str(each) for each in holes_in(Path(resilient_llm.__file__).parent)]


# What holds locks.


def _everywhere(
    fresh: Callable[[], tuple[Callable[[], object], list[Any]]], *modules: Any
) -> list[str]:
    """Return after which interrupts a lock was held; each time in a fresh state."""
    found: list[str] = []
    step, is_left, steps = 0, True, [0]
    while is_left:
        step += 1
        work, locks = fresh()
        place: list[str] = []

        def interrupt(place: list[str] = place) -> None:
            frame = sys._getframe(2)
            place.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
            raise Interrupt

        try:
            with interrupted_at(step, interrupt, *modules, points=AT_JUMPS_BACK) as steps:
                work()
        except Interrupt:
            pass
        is_left = steps[0] >= step
        for lock in locks:
            if lock._is_owned() if hasattr(lock, "_is_owned") else lock.locked():
                found += place
                while hasattr(lock, "_is_owned") and lock._is_owned():
                    lock.release()
    assert step > 1
    return found


@failover(["groq/x"])
def answers(target: Target) -> str:
    return "x"


def _ledger(work: Callable[[], object]) -> Callable[[], tuple[Callable[[], object], list[Any]]]:
    def fresh() -> tuple[Callable[[], object], list[Any]]:
        budgets = [
            Budget(calls=999, per="hour"),
            Budget(calls=999, per="month"),
            Budget(calls=999, of="key", name="key"),
        ]
        configure(budgets=budgets, logging=False)
        with spend_key("tenant"):
            answers()
        ledger: Any = runtime.ledger
        return work, [ledger._lock]

    return fresh


def _begin_periods() -> None:
    ledger: Any = runtime.ledger
    ledger._advance(ledger._ends_at + 1.0)


@pytest.mark.parametrize(
    ("work", "module"),
    [
        (lambda: can_call(answers, spend_key="other"), refusing),
        (reset_spend, local_ledger),
        (_begin_periods, local_ledger),
    ],
)
def test_the_ledger_stays_free(work: Callable[[], object], module: Any) -> None:
    """Of what asks budgets, resets them, or begins their next period."""
    assert [] == _everywhere(_ledger(work), module)


def _figure(counts: Any, remaining: float) -> Figure:
    return Figure(counts, counts, remaining, 1000.0, 60.0, "refill", "target", "test")


def _reported() -> tuple[Callable[[], object], list[Any]]:
    limits = ReportedLimits()
    limits.hear([_figure("tokens", 10.0), _figure("requests", 50.0)], None, 0.0)
    return lambda: limits.refusal(1.0, 500), [limits._lock]


def _names() -> tuple[Callable[[], object], list[Any]]:
    names = Names(9, {"groq": "groq"})
    return lambda: names.of("groq/x"), [names._lock]


def _heard() -> tuple[Callable[[], object], list[Any]]:
    made = hearing.Hearing()
    runtime.reported.update((str(each), ReportedLimits()) for each in range(hearing.MOST_KEYS + 2))
    return lambda: made.of("groq"), [made._lock]


def _options() -> tuple[Callable[[], object], list[Any]]:
    made = runtime.registry
    made.circuit("a")
    with made._lock:
        made._options.update({"a": {}, "b": {}})
    return made._forget_options, [made._lock]


def _limits() -> tuple[Callable[[], object], list[Any]]:
    limits = limiting.LimitsInForce(lambda: 0.0)
    limits.use({"groq": Limit(max_concurrent=1)})
    limits.of("groq", "groq")
    limits.use({})
    return lambda: limits.use({}), [limits._lock]


def _timers() -> tuple[Callable[[], object], list[Any]]:
    clock = FakeClock(0.0, 0.0)
    timers: Any = [SimpleNamespace(at=9.0), SimpleNamespace(at=10.0)]
    clock._timers = timers
    return lambda: clock.advance(0.5), [clock._lock]


class Moment(float):
    """A moment for which a mean is computed; a sample comes meanwhile, twice."""

    samples: TargetFigures
    left = 2

    def __add__(self, other: float) -> Moment:
        return self

    def __rsub__(self, other: float) -> float:
        if self.left:
            self.left -= 1
            self.samples.count += 1
        return other - float(self)


def _samples() -> tuple[Callable[[], object], list[Any]]:
    made = figures.TargetFigures(figures.Shared())
    made.answered(0.0, 1.0)
    now = Moment(1.0)
    now.samples = made
    return lambda: made.weigh(now), [made._lock]


@pytest.mark.parametrize(
    ("fresh", "module"),
    [
        (_reported, reported),
        (_names, counts),
        (_heard, hearing),
        (_options, registry),
        (_limits, limiting),
        (_timers, _clock),
        (_samples, figures),
    ],
)
def test_a_lock_stays_free(fresh: Any, module: Any) -> None:
    """Wherever an interrupt arrives while it is held."""
    assert [] == _everywhere(fresh, module)


# Attempts that count against reported figures.


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_counts_against_a_figure_survives_interrupts() -> None:
    """Wherever one arrives, what was begun and has ended counts no longer, and only once."""
    step, is_left, steps = 0, True, [0]
    wrong: list[object] = []
    while is_left:
        step += 1
        limits = ReportedLimits()
        told = [_figure("tokens", 100.0), _figure("requests", 50.0)]
        limits.hear(told, None, 0.0)
        kept = limits.start(1, 1, began_at=0.5)

        def work(limits: ReportedLimits = limits, told: list[Figure] = told) -> None:
            first, second = limits.begin(1.0, 30, 10), limits.begin(1.0, 20, 5)
            assert isinstance(first, Started)
            assert not isinstance(second, Refusal)
            second.end()
            limits.hear(told, first, 1.0)
            first.end()
            limits.refusal(1.0)

        try:
            with interrupted_at(step, _interrupt, reported, points=WHERE_CPYTHON_SWITCHES) as steps:
                work()
        except Interrupt:
            pass
        is_left = steps[0] >= step
        limits.refusal(1.0)  # takes the lock, and so finishes what was left
        expected = {"tokens": 2.0, "requests": 1.0}
        known = {
            base.figure.counts: base.later for base in limits._bases if base.number < kept.number
        }
        running = limits._running.keys() - {kept.number}
        late = [
            base
            for base in limits._bases
            if base.number > kept.number and base.later != limits._out(base)
        ]
        if running or late or any(expected[each] != known[each] for each in known):
            wrong.append((step, running, known, late))
        if limits._bases != tuple(each.base for each in limits._figures.values()):
            wrong.append((step, "figures"))
        if limits._last - limits._over != 1:
            wrong.append((step, limits._last, limits._over))
        kept.end()

    assert step > 30
    assert [] == wrong


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("cls", [Started, StreamSession])
def test_what_was_never_made_is_dropped_in_silence(cls: type[Any]) -> None:
    """An interrupt at the begin of `__init__` leaves an object without attributes."""
    made: Any = object.__new__(cls)

    del made
    gc.collect()
