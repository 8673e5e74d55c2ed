"""`SharedState`: drives the mirror of one state of the process, on a thread of its own.

Owns the thread, the queue of what has happened in the process, and what the thread has found out.
What is done next, the `Mirror` decides; here it is done with the store, on real time. The thread is
the only code that calls a store.

Theory of operation. Circuits and callers append to one queue, in one step and without a lock, and
wake the thread. It takes what came, does the steps that the mirror asks for until that rests,
applies what the mirror has found, and waits: inside `Store.wait`, which ends when another process
has published something, or when a socket can be read. `wake` writes to that socket.

*Starting*  With the first circuit or the first call of a process that has a store, so a process
            that only configures one has no thread and no connection. A child of a process that had
            one starts its own at once.
*Forking*   The mirror is changed under a lock that a fork waits for, so a child has a whole copy of
            it. The child has a new session, and no connection, queue and place of its parent.
*Ending*    At exit, and when another store is configured, what waits is sent within a second, and
            places of probes are given back.
"""

from __future__ import annotations

import os
import secrets
import selectors
import socket
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.circuit.foreign import apply_bench, apply_end
from resilient_llm._core.circuit.telling import PlaceWanted, ProbeOver
from resilient_llm._core.sharing.mirror import Mirror
from resilient_llm._core.sharing.steps import (
    AmountsAnswered,
    AmountsSeen,
    ApplyBench,
    ApplyEnd,
    ClaimPlaces,
    Emit,
    KeyRules,
    LocalEnd,
    Look,
    PlaceAnswered,
    Publish,
    ReserveAmounts,
    Rest,
    SettleAmounts,
)
from resilient_llm._core.spending.asking import StoreView
from resilient_llm._core.spending.shared_ledger import SharedLedger
from resilient_llm._runtime.background import Background, is_exiting, raise_if_asked, warn
from resilient_llm._runtime.clock import SystemClock
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.sharing import DataLostError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._core.sharing.steps import (
        AmountsChange,
        Effect,
        MirrorStatus,
        ShowAmounts,
        Step,
    )
    from resilient_llm._core.spending.local_ledger import LocalLedger
    from resilient_llm._runtime.dispatcher import Dispatcher
    from resilient_llm._runtime.registry import Registry
    from resilient_llm._values.settings import Settings
    from resilient_llm._values.sharing import Balance
    from resilient_llm._values.state_options import OnStoreDown
    from resilient_llm.stores import Store

_now: Final = SystemClock.monotonic
CONNECT_TIMEOUT: Final = 1.0
"""Seconds that the thread waits for a store that it is not connected to, if that is more than the
limit of a step: nobody else waits for that."""
AT_END: Final = 1.0
"""Seconds in which what waits is sent when another store is configured."""
_MOST_TOLD: Final = 100_000
"""Changes that wait for the thread; then the oldest are dropped. It takes them within a step, so so
many wait only where no thread can be started."""
_AFTER_LEAVING: Final = 0.05
"""Seconds after which a thread that has left looks again whether somebody waits for it."""


def usual_name() -> str:
    """Return what others see as the source of changes of this process: its host and its number."""
    return f"{socket.gethostname()[:100]}:{os.getpid()}"


class SharedState:
    """What one state of the process shares with other processes."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        dispatcher: Dispatcher,
        settings: Settings,
    ) -> None:
        """Attach a store to the present state of the process; the thread starts later.

        Args:
            store: Nothing else uses it as long as this does.
            registry: Whose circuits are shared.
            dispatcher: Where events of the store go.
            settings: In force.
        """
        self.store = store
        self.on_store_down: OnStoreDown = settings.on_store_down
        self._registry = registry
        self._dispatcher = dispatcher
        self._name = settings.state_name
        self._telling = telling = registry.telling
        self._told: deque[Any] = deque(maxlen=_MOST_TOLD)
        self._amounts: deque[AmountsChange | ShowAmounts] = deque()
        """What attempts ask for and settle. None is dropped: each is money of an attempt."""
        self.on_amounts: Callable[[AmountsSeen], None] = _seen_by_nobody
        """Takes what the store tells of accounts; waits for nothing but a short lock."""
        self._guard = threading.Lock()
        """Held while the mirror is changed, and by a fork."""
        self._forked_by = 0
        """The thread that forks and has the guard for it."""
        self._reference: weakref.ref[SharedState] = weakref.ref(self, _all.discard)
        self._has_warned = False
        self._is_leaving = False
        self._mirror = self._new_mirror()
        self.status: MirrorStatus = self._mirror.status(_now())
        """How the store did after the latest step."""
        self._open_sockets()
        self.thread = _Thread(self)
        self.thread.await_exit()
        telling.clock, telling.wake, telling.is_shared = _now, self.wake, self.is_shared
        telling.timeout, telling.is_down, telling.order = settings.state_timeout, True, 0
        telling.changes = self._told
        _all.add(self._reference)

    def begin(self) -> None:
        """Tell what this process has benched before it had the store; start if it is in use."""
        circuits = self._registry.circuits()
        for circuit in circuits:
            circuit.tell_benches(runtime.clock())
        if circuits:
            self.start()

    @property
    def timeout(self) -> float:
        """Seconds that a caller waits for the store at most."""
        return self._telling.timeout

    @property
    def source(self) -> str:
        """What other processes see as the source of changes of this one."""
        return self._mirror.source

    def adjust(self, settings: Settings) -> None:
        """Take changed settings that need no other store."""
        self._telling.timeout = settings.state_timeout
        self.on_store_down = settings.on_store_down
        if settings.state_name != self._name:
            self._name = settings.state_name
            self._mirror.source = self._name or usual_name()

    def _new_mirror(self) -> Mirror:
        return Mirror(
            url=self.store.url,
            session=secrets.token_hex(12),
            source=self._name or usual_name(),
            new_id=lambda: secrets.token_hex(8),
            rules=self._rules,
            now=_now(),
        )

    def _rules(self, key: str) -> KeyRules:
        settings = self._registry.settings_of(key)
        return KeyRules(settings.mode, settings.max_cooldown)

    # From any thread.

    def wake(self) -> None:
        """Have the thread look at the queue; allowed anywhere, and waits for nothing."""
        try:
            if not self._is_woken:
                self._is_woken = True
                self._poke()
        except BaseException:
            self._is_woken = False  # a signal handler raised: the next wake does all of it
            raise

    def _poke(self) -> None:
        try:
            self._wake_write.send(b"\0")
        except OSError:  # full, so it is woken; or closed
            pass

    # What the ledger asks; see `asking.Sharing`.

    def ledger(self, before: LocalLedger) -> SharedLedger:
        """Return the ledger over the store, which goes on with the totals of another one."""
        found = SharedLedger(self, lambda: secrets.token_hex(8), before)
        self.on_amounts = found.saw
        return found

    @property
    def clock(self) -> Callable[[], float]:
        """Monotonic seconds of the thread."""
        return _now

    def view(self) -> StoreView:
        """Return how the store is doing, as far as callers must know."""
        mirror, told = self._mirror, self._mirror.money.moment
        moment = None if told is None else told[0] + _now() - told[1]
        return StoreView(mirror.is_down or self._is_leaving, moment, mirror.peers)

    def tell(self, change: AmountsChange | ShowAmounts) -> None:
        """Tell what attempts ask for, hold or settle; allowed anywhere."""
        self._amounts.append(change)
        self.wake()

    def is_shared(self, key: str) -> bool:
        """Return whether a bench by errors of a key is known to others."""
        return self._mirror.is_shared(key)

    @property
    def is_started(self) -> bool:
        """Whether the thread runs, or is about to."""
        return self.thread.has_thread or self.thread.is_over

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def wait_until_read(self, seconds: float) -> None:
        """Block until everything in the store was read once, for at most so many seconds."""
        self.start()
        until = _now() + seconds
        with self._has_read:
            while True:
                left = until - _now()
                if self.status.last_sync_at is not None or left <= 0.0:
                    break
                self._has_read.wait(min(left, threading.TIMEOUT_MAX))

    def status_now(self) -> MirrorStatus:
        """Return how the store is doing now."""
        present = self._mirror.status(_now())
        # What was read counts as read once it is applied.
        return present._replace(
            last_sync_at=self.status.last_sync_at,
            pending=present.pending + len(self._told) + len(self._amounts),
        )

    def balances(self) -> tuple[Balance, ...]:
        """Return the accounts in the store that were read, also of earlier periods."""
        with self._guard:
            return self._mirror.balances

    def flush(self, seconds: float) -> bool:
        """Send what waits, for at most so many real seconds; return whether all of it was sent."""
        self.start()
        self.wake()
        self.thread.flush(seconds)
        return not self.status_now().pending

    def end(self) -> None:
        """Send what waits, for at most `AT_END`; then share nothing any more."""
        if self._is_leaving:
            return
        self._is_leaving = True
        if self._telling.changes is self._told:
            self._telling.changes = None
            self._telling.is_shared, self._telling.is_down = _never, True
        # A circuit that has found the queue before tells under its lock: with these it has told.
        for circuit in self._registry.circuits():
            circuit.wait_until_told()
        try:
            if self.thread.has_begun:
                self.thread.flush(AT_END)
        finally:  # an interrupt must not leave a thread that has nothing to do
            self.thread.end_thread()
            self._poke()
        self.store.close()
        _all.discard(self._reference)

    # On the thread.

    def work(self, until: float) -> bool:
        """Do what is to be done, and wait for more; return whether everything was sent.

        Args:
            until: The moment at which to return; infinite in the thread, which is woken.
        """
        self._heed()
        if (self._is_leaving or is_exiting()) and not self.has_left:
            self.has_left = True
            self._take_told()
            with self._guard:
                self._mirror.leave()
        # What leaves has no more to wait for once `end` has given up.
        while _now() < until and not (self.has_left and self.thread.is_over):
            self._take_told()
            with self._guard:
                step = self._mirror.next_step(_now())
            self._apply()
            if self.has_left and not self._mirror.has_work:
                return True
            if type(step) is not Rest:
                self._do(step, until)
                continue
            if self.has_left or until < _FOREVER:
                # Nothing to send, or only once the store is tried again.
                if not self._mirror.has_work:
                    return True
                seconds = min(step.seconds, until - _now())
                self._answer_rest(step, self._rest(step, max(seconds, 0.0)))
                self._heed()
                continue
            is_told = self._told or self._amounts
            if is_told or self.thread.is_over or self.thread.is_waited_for:
                self._answer_rest(step, is_hinted=False)
                return True
            is_hinted = self._rest(step, step.seconds)
            self._answer_rest(step, is_hinted)
            return True
        return not (self._mirror.has_work or self._told or self._amounts)

    def _take_told(self) -> None:
        """Give the mirror what has happened in this process."""
        told, mirror, amounts = self._told, self._mirror, self._amounts
        while amounts:
            with self._guard:
                mirror.tell(amounts.popleft())
        while told:
            change = told.popleft()
            if isinstance(change, ProbeOver) and self._still_probes(change.key):
                continue
            with self._guard:
                if isinstance(change, PlaceWanted):
                    mirror.ask_place(change.key, change.lease, change.ticket, change.until)
                elif isinstance(change, ProbeOver):
                    mirror.place_over(change.key)
                else:
                    mirror.tell(change)
            if isinstance(change, LocalEnd):  # before the next change, of which that does not know
                self._apply()

    def _still_probes(self, key: str) -> bool:
        circuit = self._registry.find(key)
        return circuit is not None and circuit.has_claimed_probe(runtime.clock())

    def _do(self, step: Step, until: float) -> None:
        """Do one step with the store, and give the mirror its answer."""
        limit = self._telling.timeout
        if isinstance(step, Look) and not (self.status.connected and self._mirror.is_whole):
            limit = max(limit, CONNECT_TIMEOUT)
        limit = min(limit, max(until - _now(), 0.001))
        answer: Any = None
        failure: StoreError | None = None
        has_lost = False
        try:
            answer = self._step(step, limit)
        except StoreError as error:
            failure = error
        except DataLostError:
            has_lost = True
        except BaseException as error:  # noqa: BLE001  # whatever a store raises, nobody else meets it
            raise_if_asked(error)
            failure = StoreError("error", type(error).__name__)
        now = _now()
        with self._guard:
            if has_lost:
                self._mirror.lost(now)
            elif failure is not None:
                self._mirror.failed(failure, now)
            else:
                self._mirror.answered(answer, now)
        self._apply()

    def _step(self, step: Step, timeout: float) -> Any:
        store = self.store
        if isinstance(step, Look):
            return store.changes(step.stamp, step.since, limit=step.limit, timeout=timeout)
        if isinstance(step, Publish):
            return store.publish(step.stamp, step.changes, step.balances, timeout=timeout)
        if isinstance(step, ReserveAmounts):
            return store.reserve(step.stamp, step.reserves, lasts=step.lasts, timeout=timeout)
        if isinstance(step, SettleAmounts):
            return store.settle(step.stamp, step.settles, timeout=timeout)
        assert isinstance(step, ClaimPlaces)
        return store.claim(step.stamp, step.claims, timeout=timeout)

    def _rest(self, step: Rest, seconds: float) -> bool | StoreError:
        """Wait until there is more to do; return whether the store says so."""
        if step.since is None:
            self._sleep(seconds)
            return False
        try:
            return self.store.wait(step.since, seconds, self._wake_read)
        except StoreError as error:
            return error
        except BaseException as error:  # noqa: BLE001  # as above
            raise_if_asked(error)
            return StoreError("error", type(error).__name__)

    def _answer_rest(self, step: Rest, is_hinted: bool | StoreError) -> None:
        now = _now()
        with self._guard:
            if isinstance(is_hinted, StoreError):
                self._mirror.failed(is_hinted, now)
            else:
                self._mirror.answered(is_hinted, now)

    def _sleep(self, seconds: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            selector.select(seconds)

    def _apply(self) -> None:
        """Do what the mirror wants of the registry and the observers, without the guard."""
        with self._guard:
            effects = self._mirror.take_effects()
        # Callers wait for these; observers of the others may take their time.
        for effect in effects:
            if isinstance(effect, (PlaceAnswered, AmountsAnswered)):
                ticket: Any = effect.ticket
                ticket.answered(effect)
            elif isinstance(effect, AmountsSeen):
                self.on_amounts(effect)
        self._telling.is_down = self._mirror.is_down
        for effect in effects:
            self._apply_one(effect)
        with self._guard:
            self._mirror.applied()
            self._telling.order = self._mirror.order
        self._note_status()  # last: who waits for the first read asks what is benched then

    def _note_status(self) -> None:
        had_read = self.status.last_sync_at is not None
        self.status = self._mirror.status(_now())
        if not had_read and self.status.last_sync_at is not None:
            with self._has_read:
                self._has_read.notify_all()

    def _apply_one(self, effect: Effect) -> None:
        try:
            if isinstance(effect, ApplyBench):
                apply_bench(self._registry.circuit(effect.bench.key), runtime.clock(), effect)
            elif isinstance(effect, ApplyEnd):
                circuit = self._registry.find(effect.key)
                if circuit is not None:
                    apply_end(circuit, runtime.clock(), effect)
            elif isinstance(effect, Emit):
                dispatcher = self._dispatcher
                dispatcher.emit(
                    dispatcher.of_process, effect.name, runtime.clock(), None, **effect.fields
                )
        except BaseException as error:  # noqa: BLE001  # one record must not stop the others
            raise_if_asked(error)
            if not self._has_warned:
                self._has_warned = True
                warn(f"a change of another process failed with {type(error).__name__}")

    # Sockets and forks.

    def _open_sockets(self) -> None:
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        # Not in `end`: the thread may still wait for them.
        weakref.finalize(self, _close, self._wake_read, self._wake_write).atexit = False
        self._is_woken = False
        self.has_left = False
        """Whether the thread sends what waits and does nothing else any more."""
        self._has_read = threading.Condition()

    def _heed(self) -> None:
        """Empty the socket, before what it tells of is looked at.

        Whoever finds ``_is_woken`` relies on a byte that is in the socket or will be. So the socket
        is emptied first: the other way round, a wake between the two would leave the mark without
        its byte, and all that comes later would wait until the thread wakes by itself. A byte
        without the mark costs one more look.
        """
        try:
            while self._wake_read.recv(4096):
                pass
        except OSError:
            pass
        self._is_woken = False

    def before_fork(self) -> None:
        """Wait until the mirror is whole, so that a child has a whole copy."""
        if self._guard.acquire(timeout=AT_END):
            self._forked_by = threading.get_ident()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._forked_by == threading.get_ident():
            self._forked_by = 0
            self._guard.release()

    def after_fork(self) -> None:
        """Begin anew in a child: with what is known, and with nothing of what the parent does."""
        self._told.clear()
        self._amounts.clear()
        is_whole, self._guard = self._forked_by == threading.get_ident(), threading.Lock()
        self._forked_by = 0
        _forking.clear()
        self._wake_read.close()
        self._wake_write.close()
        self._open_sockets()
        if is_whole:
            self._mirror.after_fork(secrets.token_hex(12), _now())
            self._mirror.source = self._name or usual_name()
        else:
            self._mirror = self._new_mirror()
        self.status = self._mirror.status(_now())
        if self._telling.changes is not self._told:
            # Another thread of the parent was about to end it, or had put another in its place.
            self._is_leaving = True
            self.thread.end_thread()
            return
        self._telling.is_down = True


class _Thread(Background):
    """The thread of a shared state. It waits in the store, so waking it is more than a queue."""

    def __init__(self, shared: SharedState) -> None:
        self._shared = shared
        super().__init__(
            "store",
            shared.work,
            due=lambda: _AFTER_LEAVING if shared.has_left else 0.0,
            period=1.0,  # not infinite, so that a child starts its own thread
            in_thread=True,
            after_fork=shared.after_fork,
        )

    @property
    def is_waited_for(self) -> bool:
        """Whether a flush waits for it."""
        return self._flushes > self._flushed

    def end(self) -> None:
        self._shared.end()

    def end_thread(self) -> None:
        """End the thread, when everything was sent that could be."""
        super().end()

    def hurry(self) -> None:
        super().hurry()
        self._shared._poke()

    def flush(self, timeout: float = 1.0) -> bool:
        self._shared._poke()
        return super().flush(timeout)


_FOREVER: Final = float("inf")
_all: set[weakref.ref[SharedState]] = set()
_forking: dict[int, list[SharedState]] = {}
"""``{thread that forks: those that it waits for}``; others may be made meanwhile."""


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        each.close()


def _never(_: str) -> bool:
    return False


def _seen_by_nobody(_: AmountsSeen) -> None:
    pass


def _before_fork() -> None:
    # A copy in one step: another thread may make one now.
    known = [reference() for reference in list(_all)]
    _forking[threading.get_ident()] = found = [each for each in known if each is not None]
    for each in found:
        each.before_fork()


def _after_fork_in_parent() -> None:
    for each in _forking.pop(threading.get_ident(), ()):
        each.after_fork_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
