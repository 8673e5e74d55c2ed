"""Delivery of events: in bounds, in order, and nobody waits for an observer that is busy.

No test sleeps. An observer that is to block waits for a `threading.Event`, and what must not wait
is done while it does.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from resilient_llm import (
    AttemptFailed,
    AttemptSucceeded,
    CallFailed,
    ChainExhaustedError,
    Event,
    HealthChanged,
    ObserverFailed,
    Target,
    TargetBenched,
    UnknownError,
    bench_model,
    breaker,
    configure,
    events,
    failover,
    health,
    list_benched,
    observe,
    unbench_model,
)
from resilient_llm._core.circuit import outbox as outbox_module
from resilient_llm._core.circuit.outbox import MOST_WAITING, Subscription
from resilient_llm._runtime import dispatcher as dispatcher_module
from resilient_llm._runtime import listening as listening_module
from resilient_llm._runtime.dispatcher import LONGEST_FOR_OTHERS, MOST_OF_OTHERS
from resilient_llm._runtime.runtime import runtime
from resilient_llm.observers.logging import LoggingObserver
from tests.support.guards import PATIENCE, seen
from tests.support.interrupts import interrupted_at
from tests.support.schedules import WHERE_CPYTHON_SWITCHES
from tests.support.ways import GROQ, OPENAI, StrangeError, down, unreachable


class Blocking:
    """An observer that blocks in its first event until it is let go."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.let_go = threading.Event()
        self.received: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.inside.set()
        assert self.let_go.wait(PATIENCE)
        self.received.append(event)

    @property
    def reasons(self) -> list[str]:
        return [str(getattr(event, "reason", "")) for event in self.received]


@contextmanager
def blocked(observer: Blocking, work: Callable[[], object]) -> Iterator[threading.Thread]:
    """Do something in a thread that the observer blocks; let it go at the end."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert observer.inside.wait(PATIENCE)
        yield thread
    finally:
        observer.let_go.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def bench(number: int, key: str = GROQ) -> None:
    """Emit a `TargetBenched` that can be told from others."""
    bench_model(key, reason=str(number))


def ask_in_vain(**options: Any) -> None:
    """Make one call that fails."""

    @failover(chain=[GROQ], attempts=1, **options)
    def ask(target: Target) -> None:
        raise down()

    with pytest.raises(ChainExhaustedError):
        ask()


# --- an observer that is busy -----------------------------------------------------------------


def test_neither_calls_nor_other_observers_wait_for_one_that_blocks(clock) -> None:
    """Everybody else goes on, and the busy one gets what it missed when it returns, in order."""
    slow = Blocking()
    observe(slow, TargetBenched)

    with seen(TargetBenched) as quick, blocked(slow, lambda: bench(0)):
        for number in range(1, 20):
            bench(number)
        ahead = [event.reason for event in quick]

    expected = [str(number) for number in range(20)]
    assert expected == sorted(ahead, key=int)
    assert expected[1:] == [reason for reason in ahead if reason != "0"]
    assert expected == slow.reasons


def test_only_the_key_an_observer_is_busy_with_waits(clock) -> None:
    """Events of other keys reach it meanwhile, on the threads that make them."""
    slow = Blocking()

    def observer(event: TargetBenched) -> None:
        if event.target == GROQ:
            slow(event)
        else:
            slow.received.append(event)

    observe(observer, TargetBenched)

    with blocked(slow, lambda: bench(0)):
        bench(1, OPENAI)
        assert ["1"] == slow.reasons

    assert ["1", "0"] == slow.reasons


def test_one_function_of_several_policies_is_one_observer(clock) -> None:
    """It is not called by two threads at once for one key."""
    observer = Blocking()
    first, second = (failover(GROQ).using(observers=[observer]) for _ in range(2))

    def answer(target: Target) -> str:
        return target.key

    with blocked(observer, lambda: first.call(answer)):
        second.call(answer)
        received_meanwhile = list(observer.received)

    assert [] == received_meanwhile
    assert 2 == len({event.call_id for event in observer.received})


def test_an_observer_that_emits_gets_its_own_event_when_it_returns(clock) -> None:
    """It is not called again while it is running."""
    depth, deepest, received = 0, 0, []

    def observer(event: TargetBenched) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        if len(received) < 3:
            received.append(event.reason)
            bench(len(received))
        depth -= 1

    observe(observer, TargetBenched)
    bench(0)

    assert ["0", "1", "2"] == received
    assert 1 == deepest


def test_what_waits_is_bounded_and_a_warning_says_how_much_was_dropped(clock, caplog) -> None:
    """The oldest are dropped; there is one line for a key when the observer has caught up."""
    slow = Blocking()
    observe(slow, TargetBenched)

    with blocked(slow, lambda: bench(0)):
        for number in range(1, MOST_WAITING + 301):
            bench(number)
        assert MOST_WAITING == len(runtime.registry.circuit(GROQ).outbox)
    calls = 0
    while runtime.registry.circuit(GROQ).outbox:
        list_benched()
        calls += 1

    assert ["0", *(str(number) for number in range(301, MOST_WAITING + 301))] == slow.reasons
    assert calls >= MOST_WAITING / MOST_OF_OTHERS - 2
    dropped = [record for record in caplog.records if "dropped" in record.message]
    assert [logging.WARNING] == [record.levelno for record in dropped]
    assert dropped[0].message.startswith(f"{GROQ}: 300 events were dropped")


def test_the_next_outage_of_an_observer_has_a_warning_of_its_own(clock, caplog) -> None:
    """After an observer has caught up, it is counted from zero."""
    for more in (1, 2):
        slow = Blocking()
        stop = observe(slow, TargetBenched)
        with blocked(slow, lambda: bench(0)):
            for number in range(MOST_WAITING + more):
                bench(number)
        while runtime.registry.circuit(GROQ).outbox:
            list_benched()
        stop()

    said = [record.message for record in caplog.records if "dropped" in record.message]
    assert [f"{GROQ}: 1 events", f"{GROQ}: 2 events"] == [
        text.partition(" were")[0] for text in said
    ]


# --- what one call does for others ------------------------------------------------------------


def in_a_thread(work: Callable[[], object]) -> None:
    """Do something in another thread, and wait for its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def leave_behind(count: int, observer: Blocking) -> None:
    """Leave about so many events, of another thread, to an observer that was busy."""

    def work() -> None:
        for number in range(1, count + MOST_OF_OTHERS):
            bench(number, "groq")

    with blocked(observer, lambda: bench(0, "groq")):
        in_a_thread(work)


@pytest.mark.parametrize("observers", [1, 2])
def test_a_call_delivers_at_most_32_events_of_others(clock, observers: int) -> None:
    """The rest waits for the next caller, also where the call has nothing to emit itself."""
    configure(logging=False)
    slow = Blocking()
    observe(slow, TargetBenched)
    leave_behind(100, slow)
    for _ in range(observers - 1):
        observe(lambda event: None)
    outbox = runtime.registry.circuit("groq").outbox
    assert 100 == len(outbox)

    bench(0, "groq")

    # An event of no call, as this one, counts among the 32 where it is delivered.
    assert 100 - MOST_OF_OTHERS + observers == len(outbox)


def test_all_that_a_call_emits_shares_the_32(clock) -> None:
    """A call that emits several events does not deliver 32 for each of them."""
    configure(logging=False)
    slow = Blocking()

    def observer(event: Event) -> None:
        slow(event)

    observe(observer, TargetBenched, AttemptFailed)
    with blocked(slow, lambda: bench(0)):
        for number in range(200):
            bench(number)
        unbench_model(GROQ)
    outbox = runtime.registry.circuit(GROQ).outbox
    before = len(outbox)

    @failover(chain=[GROQ], attempts=5, backoff=lambda n: 0.0)
    def ask(target: Target) -> None:
        raise down()

    with pytest.raises(ChainExhaustedError):
        ask()

    own = 5 + 1  # the attempts, and the bench
    assert before + own - MOST_OF_OTHERS == len(outbox)


def test_a_call_delivers_none_of_others_after_20_ms(clock) -> None:
    """A slow observer costs one call that long, and one event more at most."""
    configure(logging=False)
    slow = Blocking()

    def observer(event: TargetBenched) -> None:
        slow(event)
        clock.advance(LONGEST_FOR_OTHERS * 0.6)

    observe(observer, TargetBenched)
    leave_behind(40, slow)
    outbox = runtime.registry.circuit("groq").outbox
    before, at = len(outbox), clock.monotonic()

    list_benched()

    assert before - 2 == len(outbox)
    assert LONGEST_FOR_OTHERS * 1.2 == pytest.approx(clock.monotonic() - at)


def test_a_call_delivers_all_its_own_events_however_long_they_take(clock) -> None:
    """The limits are for the events of others."""
    received: list[str] = []

    def observer(event: Event) -> None:
        clock.advance(1.0)
        received.append(type(event).__name__)

    observe(observer, AttemptFailed, TargetBenched, HealthChanged, CallFailed)
    breaker(GROQ, failures=1)
    ask_in_vain()

    expected = ["AttemptFailed", "TargetBenched", "HealthChanged", "HealthChanged", "CallFailed"]
    assert expected == received  # the provider is degraded, too


# --- what an observer raises ------------------------------------------------------------------

HARMLESS = [RuntimeError, asyncio.CancelledError, GeneratorExit, BaseExceptionGroup, StopIteration]


@pytest.mark.parametrize("kind", HARMLESS)
def test_whatever_an_observer_raises_is_logged_once_and_harms_nothing(
    clock, caplog, kind: type[BaseException]
) -> None:
    """Cancellations too: the call is not cancelled, and its failure is counted."""
    raised = kind("several", [GeneratorExit()]) if kind is BaseExceptionGroup else kind()

    def broken(event: AttemptFailed) -> None:
        raise raised

    observe(broken, AttemptFailed)
    with seen(AttemptFailed, ObserverFailed) as found:
        ask_in_vain()
        ask_in_vain()

    assert 2 == health()[GROQ].errors
    assert [kind.__name__] == [each.type_name for each in found if isinstance(each, ObserverFailed)]
    assert 2 == sum(isinstance(each, AttemptFailed) for each in found)
    assert 1 == sum(kind.__name__ in message for message in caplog.messages)


@pytest.mark.parametrize("is_of_policy", [False, True])
def test_the_only_observer_of_a_success_that_fails_is_reported_for_that_call(
    clock, *, is_of_policy: bool
) -> None:
    """The report has the moment and the name of the call, though its event never waited."""
    received: list[Event] = []

    def broken(event: AttemptSucceeded) -> None:
        received.append(event)
        raise RuntimeError

    if not is_of_policy:
        observe(broken, AttemptSucceeded)

    @failover(chain=[GROQ], observers=(broken,) if is_of_policy else ())
    def ask(target: Target) -> str:
        return "answer"

    with seen(ObserverFailed) as reports:
        for _ in range(3):
            ask()

    assert 3 == len({event.call_id for event in received})
    assert [(received[0].call_id, received[0].at)] == [(each.call_id, each.at) for each in reports]


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("event", [AttemptFailed, TargetBenched])
def test_an_interrupt_in_an_observer_leaves_the_call_after_the_attempt_was_counted(
    clock, kind: type[BaseException], event: type[Event], others: int
) -> None:
    """The other observers are called first, and later events are delivered as ever."""
    breaker(GROQ, failures=1)
    stop = observe(lambda _: (_ for _ in ()).throw(kind()), event)
    found: list[Event] = []
    if others:
        observe(found.append, AttemptFailed, TargetBenched)

    @failover(chain=[GROQ], attempts=1)
    def ask(target: Target) -> None:
        raise down()

    with pytest.raises(kind):
        ask()
    stop()

    assert 1 == health()[GROQ].consecutive_failures
    assert "open" == breaker(GROQ).state
    if others:
        assert [AttemptFailed, TargetBenched] == [type(each) for each in found]
    with seen(TargetBenched) as later:
        bench(1)
    assert ["1"] == [each.reason for each in later]


def test_an_interrupt_of_a_providers_observer_does_not_hide_the_failed_attempt(clock) -> None:
    """The attempt is emitted though the interrupt leaves where its provider was benched."""

    def interrupt(event: TargetBenched) -> None:
        raise KeyboardInterrupt

    observe(interrupt, TargetBenched)
    breaker("groq", failures=1)

    @failover(chain=[GROQ], attempts=1)
    def ask(target: Target) -> None:
        raise unreachable()

    with seen(AttemptFailed) as found, pytest.raises(KeyboardInterrupt):
        ask()

    assert [GROQ] == [event.target for event in found]
    assert "open" == breaker("groq").state


@pytest.mark.parametrize("error", [down, unreachable, lambda: StrangeError("x")])
def test_an_observer_sees_the_state_after_the_event(clock, error: Callable[[], Exception]) -> None:
    """A failed attempt is counted when its event is emitted, by a call and by a guard."""
    states: list[tuple[str, bool]] = []
    observe(
        lambda event: states.append((type(event).__name__, bool(list_benched()))),
        AttemptFailed,
        TargetBenched,
        UnknownError,
    )
    breaker("groq", failures=1)
    breaker(GROQ, failures=1)

    @failover(chain=[GROQ], attempts=1)
    def ask(target: Target) -> None:
        raise error()

    with pytest.raises(ChainExhaustedError):
        ask()

    is_benched = not isinstance(error(), StrangeError)
    assert {("AttemptFailed", is_benched)} == {
        each for each in states if each[0] == "AttemptFailed"
    }


# --- what delivery keeps ----------------------------------------------------------------------


def test_what_waits_for_an_observer_goes_when_it_unsubscribes(clock) -> None:
    """Neither the observer nor its events stay, and it is not called any more."""
    slow = Blocking()
    stop = observe(slow, TargetBenched)
    with blocked(slow, lambda: bench(0)):
        for number in range(1, 10):
            bench(number)
        stop()
        assert 0 == len(runtime.registry.circuit(GROQ).outbox)
        bench(11)

    assert ["0"] == slow.reasons


def test_an_observer_of_a_policy_is_not_kept(clock) -> None:
    """A policy made for one call leaves nothing behind at the keys it used."""

    class Observer:
        def __call__(self, event: Event) -> None:
            pass

    observer = Observer()
    gone = weakref.ref(observer)
    ask_in_vain(observers=[observer])
    del observer
    gc.collect()

    assert None is gone()


# --- an outage --------------------------------------------------------------------------------


def test_in_an_outage_no_call_waits_for_a_log_handler_that_blocks(clock) -> None:
    """Of 16 threads only the one inside the handler waits, though each of them logs."""
    inside, let_go = threading.Event(), threading.Event()
    waited: set[int] = set()

    class Handler(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            if not let_go.is_set():
                waited.add(threading.get_ident())
                inside.set()
                assert let_go.wait(PATIENCE)
            return True

    done = threading.Semaphore(0)

    def work() -> None:
        for _ in range(20):
            ask_in_vain()
        done.release()

    logger, handler = logging.getLogger("resilient_llm"), Handler()
    logger.addHandler(handler)
    threads = [threading.Thread(target=work) for _ in range(16)]
    try:
        threads[0].start()
        assert inside.wait(PATIENCE)
        for thread in threads[1:]:
            thread.start()
        ended = [done.acquire(timeout=PATIENCE) for _ in threads[1:]]
    finally:
        let_go.set()
        for thread in threads:
            thread.join(PATIENCE)
        logger.removeHandler(handler)

    assert [True] * 15 == ended
    assert 1 == len(waited)


# --- many threads ------------------------------------------------------------------------------


def test_an_observer_that_only_needs_the_interpreter_gets_it_before_events_are_dropped(
    clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that was switched off inside a quick observer seems busy to all others."""
    observer = Blocking()
    observe(observer, TargetBenched)
    configure(logging=False)
    count = 3 * MOST_WAITING

    with blocked(observer, lambda: bench(0)) as preempted:

        def goes_on() -> None:
            observer.let_go.set()
            preempted.join(PATIENCE)

        monkeypatch.setattr(dispatcher_module, "let_others_run", goes_on)
        for number in range(1, count):
            bench(number)

    assert [str(number) for number in range(count)] == observer.reasons


def test_few_calls_let_others_run_for_an_observer_that_stays_blocked(
    clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call waits for an observer, so this ends."""
    turns: list[None] = []
    monkeypatch.setattr(dispatcher_module, "let_others_run", lambda: turns.append(None))
    observer = Blocking()
    observe(observer, TargetBenched)
    configure(logging=False)

    with blocked(observer, lambda: bench(0)):
        for number in range(dispatcher_module.CROWDED):
            bench(number)
        at_half = len(turns)
        for number in range(MOST_WAITING):
            bench(number)

    assert at_half <= 1
    assert dispatcher_module.MOST_TURNS == len(turns)


def test_a_thread_that_only_needs_the_interpreter_to_route_gets_it_before_events_are_dropped(
    clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for a thread that was switched off while it moves events to the observers."""
    received: list[str] = []
    observe(lambda event: received.append(event.reason), TargetBenched)
    configure(logging=False)
    bench(0)
    outbox = runtime.registry.circuit(GROQ).outbox
    outbox.routing[outbox_module.HOLDER] = "another thread"
    monkeypatch.setattr(dispatcher_module, "let_others_run", outbox.routing.clear)

    for number in range(1, 3 * MOST_WAITING):
        bench(number)
    while outbox:
        list_benched()

    assert [str(number) for number in range(3 * MOST_WAITING)] == received


# --- signals and finalisers -------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no such signal here")
def test_a_signal_handler_inside_an_observer_may_emit(clock) -> None:
    """Its event waits until the observer returns."""
    received: list[str] = []

    def observer(event: TargetBenched) -> None:
        if event.reason == "0":
            signal.raise_signal(signal.SIGUSR1)
        received.append(event.reason)

    observe(observer, TargetBenched)
    before = signal.signal(signal.SIGUSR1, lambda *_: bench(1))
    try:
        bench(0)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert ["0", "1"] == received


DELIVERY = (dispatcher_module, listening_module, outbox_module)


@pytest.mark.parametrize("observers", [1, 2])
def test_code_that_emits_may_interrupt_delivery_anywhere(clock, observers: int) -> None:
    """There is no deadlock, and both events arrive, once each, at every observer."""

    def run(step: int) -> tuple[int, list[list[str]]]:
        """Let new observers listen, interrupt delivery to them, and return what they got."""
        found: list[list[str]] = [[] for _ in range(observers)]
        stops = [
            observe(lambda event, received=received: received.append(event.reason), TargetBenched)
            for received in found
        ]
        with interrupted_at(step, lambda: bench(2), *DELIVERY) as steps:
            bench(1)
        for stop in stops:
            stop()
        return steps[0], [sorted(received) for received in found]

    step = 0
    while True:
        step += 1
        steps, found = run(step)
        if steps < step:
            break
        assert [["1", "2"]] * observers == found, step
    assert step > 100


class Interrupted(BaseException):  # as a soft time limit of a worker, it is no error
    """What a signal handler raises."""


@contextmanager
def benched_for(count: int) -> Iterator[tuple[Callable[[], object], list[list[Event]]]]:
    """Give what emits one event to new observers, and what these received."""
    found: list[list[Event]] = [[] for _ in range(count)]
    stops = [observe(received.append, TargetBenched) for received in found]
    yield lambda: bench(0), found
    for stop in stops:
        stop()


KEPT: list[object] = []
"""Observers of policies that are gone; an address that is used again would be found as theirs."""


@contextmanager
def answered_for(count: int) -> Iterator[tuple[Callable[[], object], list[list[Event]]]]:
    """Give what makes a call of a policy with new observers of its own, and what these received."""
    found: list[list[Event]] = [[] for _ in range(count)]
    observers = [received.append for received in found]
    KEPT.append(observers)
    policy = failover(GROQ).using(observers=observers)

    def answer(target: Target) -> str:
        return target.key

    yield lambda: policy.call(answer), found


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
@pytest.mark.parametrize("count", [1, 2], ids=["one observer", "two observers"])
@pytest.mark.parametrize("listening", [benched_for, answered_for])
def test_a_signal_handler_that_raises_anywhere_in_delivery_does_not_silence_a_key(
    clock, listening: Any, count: int, error: type[BaseException]
) -> None:
    """Ctrl-C and the soft time limit of a worker; the next event reaches all its observers."""

    def interrupt() -> None:
        raise error

    with listening(count) as (emit, _):
        emit()
    circuit = runtime.registry.find(GROQ)
    assert circuit is not None
    step = 0
    while True:
        step += 1
        with listening(count) as (emit, found):
            with (
                suppress(error),
                interrupted_at(step, interrupt, *DELIVERY, points=WHERE_CPYTHON_SWITCHES) as steps,
            ):
                emit()
            if steps[0] < step:
                break
            assert not circuit.outbox.routing, step
            assert all(
                inbox.is_removed or not inbox.busy for inbox in circuit.outbox.inboxes.values()
            ), step
            told = [len(received) for received in found]

            emit()

            assert all(len(received) > before for received, before in zip(found, told, strict=True))
            assert not circuit.outbox
    assert step > 10
    KEPT.clear()


@pytest.mark.parametrize("ends", [False, True], ids=["begins", "ends"])
def test_an_observer_may_begin_and_end_wherever_another_one_does(clock, *, ends: bool) -> None:
    """A signal handler or a finaliser does so in the midst of it, and nobody is lost or kept."""
    listeners = runtime.dispatcher.listeners

    def run(step: int) -> int:
        """Begin or end one subscription, and meanwhile begin one and end one."""
        received: list[str] = []

        def subscribe(name: str) -> Callable[[], None]:
            return observe(lambda _: received.append(name), TargetBenched)

        stops: list[Callable[[], None]] = []
        stop_old, stop_other = subscribe("old"), subscribe("other")

        def meanwhile() -> None:
            stops.append(subscribe("meanwhile"))
            stop_old()

        with interrupted_at(step, meanwhile, *DELIVERY) as steps:
            if ends:
                stop_other()
            else:
                stops.append(subscribe("new"))
        if steps[0] >= step:
            bench(0)

            expected = {"meanwhile"} if ends else {"meanwhile", "new", "other"}
            assert expected == set(received), step
            assert len(expected) == len(received) == len(listeners.all), step
        for stop in (stop_old, stop_other, *stops):
            stop()
        assert [] == listeners.all, step
        return steps[0]

    step = 1
    while run(step) >= step:
        step += 1
    assert step > 50


@pytest.mark.parametrize("then", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_logging_may_be_configured_wherever_it_is_being_configured(
    clock, monkeypatch: pytest.MonkeyPatch, *, first: bool, then: bool
) -> None:
    """A signal handler that does so leaves one default observer or none, and no parts of two."""
    made: list[Subscription] = []

    class Noted(Subscription):
        __slots__ = ()

        def __init__(self, callback: Callable[[Any], object]) -> None:
            super().__init__(callback)
            made.append(self)

    monkeypatch.setattr(dispatcher_module, "Subscription", Noted)
    dispatcher = runtime.dispatcher
    dispatcher.use_log(LoggingObserver())
    step = 0
    while True:
        step += 1
        with interrupted_at(
            step,
            lambda: dispatcher.use_log(LoggingObserver() if then else None),
            *DELIVERY,
            points=WHERE_CPYTHON_SWITCHES,
        ) as steps:
            dispatcher.use_log(LoggingObserver() if first else None)

        if steps[0] < step:
            break
        used = [each for each in made[-3:] if not each.is_over]
        assert used == ([] if dispatcher.log is None else [dispatcher._log_subscription]), step
        assert dispatcher.log is (used[0].callback if used else None), step
        assert (dispatcher.log is None) is (dispatcher.log_line is None), step
        if not used:
            dispatcher.use_log(LoggingObserver())
    assert step > 2


def test_a_forked_child_does_not_wait_for_a_stream_of_events_of_its_parent(clock) -> None:
    """A thread of the parent may hold the lock of `events` when the process forks."""

    async def run() -> list[str]:
        inside, let_go = threading.Event(), threading.Event()
        async with events(TargetBenched) as stream:

            def hold() -> None:
                with stream._lock:
                    inside.set()
                    assert let_go.wait(PATIENCE)

            holding = threading.Thread(target=hold)
            holding.start()
            assert inside.wait(PATIENCE)

            runtime.after_fork()

            emitting = threading.Thread(target=bench, args=(1,), daemon=True)
            emitting.start()
            emitting.join(PATIENCE / 10)
            has_waited = emitting.is_alive()
            let_go.set()
            holding.join(PATIENCE)
            emitting.join(PATIENCE)
            assert not has_waited
            event = await anext(stream)
            assert isinstance(event, TargetBenched)
            return [event.reason]

    assert ["1"] == asyncio.run(run())


def test_successes_of_many_threads_reach_the_one_observer(clock) -> None:
    """The quick way for one observer loses nothing either, and keeps each thread's order."""
    received: list[tuple[str, int]] = []
    observe(lambda event: received.append((event.call_id, event.number)), AttemptSucceeded)

    @failover(chain=[GROQ])
    def ask(target: Target) -> str:
        return "answer"

    threads = [threading.Thread(target=lambda: [ask() for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while runtime.registry.circuit(GROQ).outbox:
        list_benched()

    assert 200 == len(received) == len(set(received))


def test_idle_queues_of_policies_observers_are_few(clock) -> None:
    """A policy that is made anew at each request, with an observer of its own."""
    received: list[Event] = []

    def ask(target: Target) -> str:
        return target.key

    policy = failover(GROQ)
    for _ in range(50):
        policy.using(observers=[lambda event: received.append(event)]).call(ask)

    circuit = runtime.registry.find(GROQ)

    assert circuit is not None
    assert 50 == sum(isinstance(each, AttemptSucceeded) for each in received)
    assert len(circuit.outbox.inboxes) <= dispatcher_module.MOST_IDLE + 1


@pytest.mark.parametrize("of_one_provider", [True, False], ids=["targets", "providers"])
def test_a_key_takes_at_most_two_kilobytes(clock, *, of_one_provider: bool) -> None:
    """An application may have a key for each tenant; few of them have events that wait."""
    keys = [f"groq/{n}" if of_one_provider else f"tenant-{n}" for n in range(500)]
    runtime.registry.circuit("groq/first")
    gc.collect()

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        circuits = [runtime.registry.circuit(key) for key in keys]
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert taken / len(circuits) <= 2_000


def test_an_observer_may_have_the_number_of_a_policy_s_observer_that_is_gone(clock) -> None:
    """CPython uses addresses again, and queues are found by them."""
    first: list[Event] = []
    second: list[Event] = []
    breaker(GROQ).record(None, 0.1)
    circuit = runtime.registry.find(GROQ)
    assert circuit is not None
    observe(first.append)
    observe(second.append)
    number = id(runtime.dispatcher.listeners.all[0])
    idle = outbox_module.Inbox(dispatcher_module.NOBODY, is_lasting=False)
    circuit.outbox.inboxes = {number: idle}

    bench_model(GROQ, reason="maintenance")

    assert circuit.outbox.inboxes[number].is_lasting
    assert ["TargetBenched", "HealthChanged"] == [type(each).__name__ for each in first]
    assert first == second
