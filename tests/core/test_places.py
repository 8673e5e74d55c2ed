"""Places in flight: counts that are exact, a first-come queue, and nothing that stays behind."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from resilient_llm._core.circuit import window
from resilient_llm._core.limits.places import LockedPlaces, Place, Places, places
from resilient_llm._drive.tasks import waker

PATIENCE = 40.0
"""Seconds of real time after which a test stops waiting."""


@pytest.fixture(params=[True, False], ids=["lock-free", "locked"], autouse=True)
def lock_free(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Every test runs on both kinds of places."""
    monkeypatch.setattr(window, "LOCK_FREE", request.param)
    return request.param


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _held(of: Places) -> Place:
    place = of.place()
    assert place.take()
    return place


def _queued(of: Places, wake: Callable[[], object] = lambda: None) -> Place:
    place = of.place()
    assert not place.take()
    assert place.enqueue(wake)
    return place


def _is_empty(of: Places) -> bool:
    return (0, 0, 0) == (of.running, of.waiting, len(of._queue))


def test_the_kind_follows_the_switch(lock_free: bool) -> None:
    """Without a global lock the places have one of their own."""
    assert lock_free != isinstance(places(1), LockedPlaces)


def test_as_many_as_the_limit() -> None:
    """A place more than the limit is refused until one is given back."""
    made = places(2)
    first, second, third = _held(made), _held(made), made.place()

    assert (False, False) == (third.take(), third.enqueue(lambda: None))
    first.give_back()
    assert (True, 2) == (third.take(), made.running)
    second.give_back()
    third.give_back()
    assert _is_empty(made)


def test_giving_back_twice_is_once() -> None:
    """Each place is counted once, whoever gives it back."""
    made = places(2)
    first, _second = _held(made), _held(made)

    first.give_back()
    first.give_back()

    assert (1, False, False) == (made.running, first.is_held, first.take())


def test_what_was_not_taken_is_not_given_back() -> None:
    """A refused attempt frees nothing."""
    made = places(1)
    _holder, refused = _held(made), made.place()
    assert not refused.take()

    refused.give_back()

    assert 1 == made.running


def test_the_queue_is_first_come() -> None:
    """Each place that is freed goes to the one who waits longest, who is woken."""
    made, woken = places(1, 3), []
    holder = _held(made)
    waiting = [_queued(made, lambda number=number: woken.append(number)) for number in range(3)]
    assert not made.place().enqueue(lambda: None)

    for place in (holder, *waiting):
        place.give_back()

    assert ([0, 1, 2], True) == (woken, _is_empty(made))


def test_nobody_passes_the_queue() -> None:
    """A newcomer gets no place while somebody waits for one."""
    made = places(1, 3)
    holder, waiting = _held(made), _queued(made)
    holder.give_back()

    assert (True, False) == (waiting.is_held, made.place().take())


def test_a_place_that_was_freed_meanwhile() -> None:
    """Between being refused and joining the queue a place became free: it is granted at once."""
    made, woken = places(1, 1), []
    holder, late = _held(made), made.place()
    assert not late.take()
    holder.give_back()

    assert late.enqueue(lambda: woken.append(late.is_held))

    assert ([True], 0) == (woken, made.waiting)


def test_leaving_the_queue() -> None:
    """A cancelled waiter makes room, and those behind it keep their turn."""
    made, woken = places(1, 2), []
    holder = _held(made)
    first, second = _queued(made), _queued(made, lambda: woken.append("second"))

    first.give_back()
    third = _queued(made)
    holder.give_back()

    assert (["second"], True, False) == (woken, second.is_held, third.is_held)


def test_granted_and_cancelled_in_one_moment() -> None:
    """The place of a waiter that was cancelled when it was granted goes to the next."""
    made = places(1, 2)
    holder = _held(made)
    first, second = _queued(made), _queued(made)
    holder.give_back()
    assert first._state == second._state + 1  # granted, and its task does not know it yet

    first.give_back()

    assert (True, 1, 0) == (second.is_held, made.running, made.waiting)


def test_a_raised_limit_wakes_those_who_wait() -> None:
    """Changing the limit counts the attempts in flight and serves the queue."""
    made = places(1, 4)
    holder, *waiting = _held(made), *(_queued(made) for _ in range(4))

    made.change(3, 4)
    assert ([True, True, False, False], 3) == ([each.is_held for each in waiting], made.running)

    made.change(2, 0)
    holder.give_back()
    assert (2, False) == (made.running, waiting[2].is_held)
    waiting[0].give_back()
    assert (2, True) == (made.running, waiting[2].is_held)

    made.change(None)
    assert (3, 0) == (made.running, made.waiting)


def test_one_that_cannot_be_woken_is_passed_over() -> None:
    """A waiter whose loop is closed gives its place to the next, however many there are."""
    made, woken = places(1, 5_000), []
    holder = _held(made)

    def closed() -> None:
        raise RuntimeError("Event loop is closed")

    gone = [_queued(made, closed) for _ in range(3_000)]
    last = _queued(made, lambda: woken.append(1))

    holder.give_back()

    assert ([1], True, 1) == (woken, last.is_held, made.running)
    assert not any(each.is_held for each in gone)


def test_an_interrupted_hand_over_is_made_good() -> None:
    """What an interrupt left undone is done by the next one who asks."""
    made = places(1, 2)
    holder, first, second = _held(made), _queued(made), _queued(made)

    holder._end()  # as if an interrupt came before the place was granted

    assert (False, 0) == (made.place().take(), made.running)
    assert (True, 1, 1) == (first.is_held, made.running, made.waiting)
    first.give_back()
    assert second.is_held


def test_a_lost_attempt_frees_its_place() -> None:
    """A stream that is collected unread gives its place back, and wakes who waits."""
    made, woken = places(1, 1), []
    holder, waiting = _held(made), _queued(made, lambda: woken.append(1))

    del holder
    gc.collect()

    assert ([1], True) == (woken, waiting.is_held)
    del waiting
    gc.collect()
    assert _is_empty(made)


def test_a_finaliser_in_the_middle_of_anything() -> None:
    """A finaliser that runs while its thread takes a place or gives one back waits for nothing."""
    made = places(2, 4)

    class Stream:
        def __init__(self) -> None:
            self.place = _held(made)
            self.cycle = self

        def __del__(self) -> None:
            self.place.give_back()

    Stream()
    waited = _held(made)

    def wake() -> None:
        Stream() if made.running < 2 else None
        gc.collect()

    waiting = [_queued(made, wake) for _ in range(4)]
    waited.give_back()
    for each in waiting:
        each.give_back()
    gc.collect()

    assert _is_empty(made)


def test_a_fork_has_nothing_in_flight() -> None:
    """The child begins with the same limits, nothing in flight, and no queue."""
    made = places(2, 3)
    _holders, _waiting = [_held(made), _held(made)], _queued(made)

    child = made.fresh()

    assert (2, 3, True) == (child.limit, child.max_queued, _is_empty(child))
    assert places(None).limit == places(None).fresh().limit


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_parents_attempt_ends_in_the_child() -> None:
    """What the child's copy of an attempt gives back does not count in the child's places."""
    made = places(2, 3)
    holder = _held(made)

    child = made.fresh()
    holder.give_back()

    assert (0, 0) == (child.running, made.running)


# Threads, and event loops.


def _wait_in_thread(place: Place, seconds: float | None = None) -> bool:
    """Wait as a synchronous driver does: a lock can be released by a finaliser."""
    gate = threading.Lock()
    gate.acquire()

    def wake() -> None:
        if gate.locked():
            gate.release()

    if not place.enqueue(wake):
        return False
    if not place.is_held:
        gate.acquire(timeout=PATIENCE if seconds is None else seconds)
    return place.is_held


class Peak:
    """Counts what runs at once, by itself."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def __enter__(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *error: object) -> None:
        self.now -= 1


@pytest.mark.usefixtures("quick_switches")
def test_a_hundred_thousand_attempts_of_threads(lock_free: bool) -> None:
    """Whoever is cancelled while waiting or running, nothing stays in flight or in the queue."""
    made, attempts, count = places(2, 3), 16_667 if lock_free else 3_000, 6
    inside: list[int] = []
    peaks: list[int] = []
    outcomes: list[str] = []
    begin = threading.Barrier(count)

    def one(rng: random.Random) -> str:
        place, outcome = made.place(), "served"
        try:
            if not place.take():
                gives_up = rng.random() < 0.3
                if not _wait_in_thread(place, 0.0 if gives_up else None):
                    return "cancelled" if place._state == 1 else "refused"
                outcome = "queued"
            inside.append(1)
            peaks.append(len(inside))
            if rng.random() < 0.1:
                time.sleep(0)  # in the middle of an attempt others ask
            inside.pop()
            if rng.random() < 0.01:
                del place  # a stream that nobody reads
                place = made.place()
            return outcome
        finally:
            place.give_back()

    def work(seed: int) -> None:
        rng = random.Random(seed)
        begin.wait()
        outcomes.extend(one(rng) for _ in range(attempts))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert _is_empty(made)
    assert count * attempts == len(outcomes)
    assert 2 == max(peaks)
    for outcome in ("served", "queued", "cancelled", "refused"):
        assert outcomes.count(outcome) >= 10, outcome


async def _attempt(made: Places, peak: Peak, event: Callable[[], Any], rest: Any) -> None:
    """Run an attempt as an asynchronous driver does."""
    place = made.place()
    try:
        if not place.take():
            signal, soon = event(), waker()
            assert place.enqueue(lambda: soon(signal.set))
            while not place.is_held:
                await signal.wait()
        with peak:
            await rest()
    finally:
        place.give_back()


async def _in_asyncio(made: Places, peak: Peak, count: int, seed: int) -> None:
    rng = random.Random(seed)
    tasks = [
        asyncio.create_task(_attempt(made, peak, asyncio.Event, lambda: asyncio.sleep(0)))
        for _ in range(count)
    ]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        if rng.random() < 0.5:
            rng.choice(tasks).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _in_trio(made: Places, peak: Peak, count: int, seed: int) -> None:
    rng = random.Random(seed)
    scopes: list[trio.CancelScope] = []

    async def one() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await _attempt(made, peak, trio.Event, trio.lowlevel.checkpoint)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
        for _ in range(count):
            await trio.lowlevel.checkpoint()
            if scopes and rng.random() < 0.5:
                rng.choice(scopes).cancel()


def test_loops_and_threads_share_count_and_queue() -> None:
    """Two loops of asyncio, one of trio and a thread wait in one queue, and all are served."""
    made, peak, left = places(3, 100_000), Peak(), 2
    errors: list[BaseException] = []

    def guarded(run: Callable[[], object]) -> Callable[[], None]:
        def work() -> None:
            try:
                run()
            except BaseException as error:
                errors.append(error)

        return work

    def in_a_thread() -> None:
        for _ in range(500):
            place = made.place()
            try:
                assert place.take() or _wait_in_thread(place)
            finally:
                place.give_back()

    threads = [
        threading.Thread(target=guarded(run))
        for run in (
            lambda: asyncio.run(_in_asyncio(made, peak, 700, 1)),
            lambda: asyncio.run(_in_asyncio(made, peak, 700, left)),
            lambda: trio.run(_in_trio, made, peak, 700, 3),
            in_a_thread,
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert [] == errors
    assert _is_empty(made)
    assert 1 <= peak.most <= 3


def test_a_loop_that_ends_with_waiters() -> None:
    """Waiters of a loop that is over hold up nobody, and their places are passed on."""
    made = places(1, 10)
    holder = _held(made)

    async def wait_a_moment() -> None:
        task = asyncio.create_task(_attempt(made, Peak(), asyncio.Event, lambda: asyncio.sleep(0)))
        await asyncio.sleep(0)
        assert 1 == made.waiting
        task.cancel()

    asyncio.run(wait_a_moment())
    assert 0 == made.waiting
    loop = asyncio.new_event_loop()
    orphan = _queued(made, lambda: loop.call_soon_threadsafe(lambda: None))
    loop.close()
    after = _queued(made)

    holder.give_back()

    assert (False, True, 1) == (orphan.is_held, after.is_held, made.running)


# A model.


class PlacesMachine(RuleBasedStateMachine):
    """Places, and a model of a counter and a list."""

    @initialize(limit=st.integers(1, 4), max_queued=st.integers(0, 4))
    def begin(self, limit: int, max_queued: int) -> None:
        self.real = places(limit, max_queued)
        self.limit, self.max_queued = limit, max_queued
        self.held: set[int] = set()
        self.line: deque[int] = deque()
        self.all: dict[int, Place] = {}
        self.woken: list[int] = []
        self.number = 0

    def _serve(self) -> list[int]:
        served: list[int] = []
        while self.line and len(self.held) < self.limit:
            served.append(self.line.popleft())
            self.held.add(served[-1])
        return served

    @rule(wants_to_wait=st.booleans())
    def ask(self, wants_to_wait: bool) -> None:
        self.number += 1
        number, place = self.number, self.real.place()
        takes = len(self.held) < self.limit
        assert takes == place.take()
        if takes:
            self.held.add(number)
        elif wants_to_wait and len(self.line) < self.max_queued:
            assert place.enqueue(lambda: self.woken.append(number))
            self.line.append(number)
        elif wants_to_wait:
            assert not place.enqueue(lambda: self.woken.append(number))
            place.give_back()
            return
        else:
            return
        self.all[number] = place

    @precondition(lambda self: self.all)
    @rule(data=st.data(), by_collection=st.booleans())
    def end(self, data: st.DataObject, by_collection: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.all)))
        place = self.all.pop(number)
        self.woken = []
        is_held = number in self.held
        if is_held:
            self.held.discard(number)
        else:
            self.line.remove(number)
        expected = self._serve()
        if is_held and by_collection:
            del place
        else:
            place.give_back()
            place.give_back()
        assert expected == self.woken

    @rule(limit=st.integers(1, 4), max_queued=st.integers(0, 4))
    def change(self, limit: int, max_queued: int) -> None:
        self.limit, self.max_queued, self.woken = limit, max_queued, []
        expected = self._serve()
        self.real.change(limit, max_queued)
        assert expected == self.woken

    @invariant()
    def same(self) -> None:
        assert (len(self.held), len(self.line)) == (self.real.running, self.real.waiting)
        assert self.held == {number for number, place in self.all.items() if place.is_held}


def test_places_are_what_their_model_says() -> None:
    """Who holds a place, who waits and who is woken is what a counter and a list say."""
    run_state_machine_as_test(
        PlacesMachine,
        settings=settings(
            max_examples=80,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
