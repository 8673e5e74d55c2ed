"""One circuit: whether a key may be called now, and what its results do to that.

Owns the state of one key, under one lock that is never held while anything foreign is
called. Knows no clock, no dice and no registry: time and randomness are handed in.

Theory of operation. Three layers can block a key, each with an end of its own.

*manual*  An operator's bench. No result touches it.
*pause*   A rate limit. The closed period beneath goes on: calls that were admitted in it
          still count, and the longest wait that any of them brings back is kept.
*core*    Closed (an `Generation`), open (an `OpenState`) or half-open (a `HalfOpenState`).

Whoever is admitted gets an admission: the generation itself, or a `Lease` in a half-open or open
state. A report is held against the state that gave the admission. If that state is gone the
report is late and changes nothing, whatever it says: a success from before the trip does
not close, a failure from before it does not lengthen, a probe of an earlier half-open
period neither settles nor frees anything of this one.

A place is a lease. When it ends the place may be given to the next caller, so that a probe
which hangs for ever wedges nothing; its late report in the same period still counts.

`slot` is the one thing that the healthy path reads: the generation while calls may pass, else
None. It is None for a target also while its provider's slot is None. Lock order: a
provider's lock before a target's, never the other way round. The locks may be taken again by
the thread that holds them: a signal handler that asks for `health()`, or a finaliser that
leaves a guard, runs on whatever thread is in the middle of whatever it does.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from resilient_llm._core.circuit import triggers, window
from resilient_llm._core.circuit.state import (
    FOREVER,
    Admission,
    Bench,
    Block,
    CircuitState,
    HalfOpenState,
    Lease,
    OpenState,
    RateLimitPause,
)
from resilient_llm._core.circuit.window import NEVER, Generation, RollingAverage
from resilient_llm._values import event_names
from resilient_llm._values.kinds import ErrorKind, LastError
from resilient_llm._values.settings import (
    LONGEST_HINT,
    MEMORY_PRESSURE_BENCH,
    RATE_LIMIT_PAUSE,
    SHORTEST_HUNG,
    BreakerSettings,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from resilient_llm._core.circuit.triggers import Status
    from resilient_llm._values.health import State
    from resilient_llm._values.verdict import Verdict


_serials = itertools.count()
Counts = tuple[int, int, int]
"""``(total, errors, slow)`` in the window."""
_AT_ONCE: Final = (ErrorKind.AUTH_DEAD, ErrorKind.MEMORY_PRESSURE)
"""Kinds of which one error is enough. A tuple: comparing is quicker than the hash of an enum."""
NOTICEABLE: Final = 1.0
"""Seconds by which a pause must grow for observers to be told of it again."""


class CallTag:
    """Which call an event belongs to, and who besides the process-wide observers is told."""

    __slots__ = ("call_id", "observers")

    def __init__(self, call_id: str, observers: tuple[Any, ...] = ()) -> None:
        self.call_id = call_id
        self.observers = observers


class EventSink(Protocol):
    """Where a circuit's events go. ``wants`` is asked under the lock, ``deliver`` outside."""

    def has_listeners(self, kind: event_names.EventName, tag: CallTag | None = None, /) -> bool: ...
    def deliver(self, circuit: Circuit, /) -> None: ...


class Circuit:
    """The breaker of one key. All methods may be called from any thread."""

    __slots__ = (
        "__weakref__",
        "_changed",
        "_children",
        "_lock",
        "_said_until",
        "_state",
        "_status",
        "_uncounted",
        "born_at",
        "consecutive",
        "delivering",
        "failed_probes",
        "first_contents",
        "generation",
        "healthy_since",
        "keep",
        "key",
        "last_error",
        "last_latency",
        "outbox",
        "own",
        "provider",
        "rng",
        "serial",
        "settings",
        "shut_until",
        "sink",
        "slot",
        "suspended",
        "touched_at",
    )

    def __init__(
        self,
        key: str,
        settings: BreakerSettings,
        *,
        now: float,
        rng: Random,
        sink: EventSink,
        provider: Circuit | None = None,
    ) -> None:
        self.key = key
        self.settings = settings
        self.own: dict[str, Any] = {}
        """Options that guards named for this key; the registry merges them."""
        self.serial = next(_serials)
        """Tells this circuit from an earlier one of the same key."""
        self.rng = rng
        self.sink = sink
        self.provider = provider
        self.keep: Callable[[Circuit], None] | None = None
        """Set where the registry has let go of this: asks it to hold it again, since it is benched."""
        self._children: list[weakref.ref[Circuit]] = []
        self.outbox: deque[tuple[event_names.EventName, float, dict[str, Any]]] = deque()
        self.delivering = threading.Lock()
        self._lock = threading.RLock()
        self.generation = Generation(now, settings.window, self.serial)
        self._uncounted: Generation | None = None
        self._state = CircuitState()
        self._said_until = NEVER
        self._status: Status = "healthy"
        self._changed = False
        self.consecutive = 0
        self.failed_probes = 0
        self.healthy_since = now
        self.born_at = now
        self.touched_at = now
        self.last_error: LastError | None = None
        self.last_latency: float | None = None
        self.first_contents: RollingAverage | None = None
        """Seconds to the first content of streams; there is none where nobody streams."""
        self.suspended = False
        self.slot: Generation | None = None
        self.shut_until = NEVER
        self._publish_locked()
        if provider is not None:
            with provider._lock:
                provider._adopt_locked(self)
                with self._lock:
                    self._publish_locked()

    # Asking.

    def admit(self, now: float, lease_seconds: float = 0.0) -> Admission | Block:
        """Return leave for one attempt, or why there is none.

        Args:
            now: Monotonic seconds.
            lease_seconds: Seconds that the attempt may take, as far as its policy knows.
        """
        with self._lock:
            self._advance_locked(now)
            self.touched_at = now
            result = self._admit_locked(now, lease_seconds)
        self._after_unlock()
        return result

    def admit_last_resort(self, now: float, lease_seconds: float) -> Admission | Block:
        """Return leave for one attempt in spite of an automatic bench, or why there is none.

        Never past a manual bench, a forced mode, a dead key or a wait that the provider named.
        """
        with self._lock:
            self._advance_locked(now)
            result = self._last_resort_locked(now, lease_seconds)
        self._after_unlock()
        return result

    def share(self, leases: tuple[Lease, ...]) -> Lease | None:
        """Return the one of these places that this circuit's present state gave, or None."""
        with self._lock:
            return self._state.shared(leases)

    def block(self, now: float) -> Block | None:
        """Return why a caller would be refused now, without taking anything."""
        with self._lock:
            self._advance_locked(now)
            block = self._block_locked()
            if (
                block is None
                and self._state.half is not None
                and not self._state.has_lease(self._state.half, now, self.settings.probes)
            ):
                block = Block(self.key, "probes taken", None)
        self._after_unlock()
        return block

    def state(self, now: float) -> State:
        """Return ``"closed"``, ``"open"`` or ``"half_open"``, as of now."""
        with self._lock:
            self._advance_locked(now)
            blocked = self._block_locked() is not None
            state: State = (
                "open" if blocked else "half_open" if self._state.half is not None else "closed"
            )
        self._after_unlock()
        return state

    def bench_now(self, now: float) -> Bench | None:
        """Return the bench that holds the key now: the operator's, else the one that ends last."""
        with self._lock:
            self._advance_locked(now)
            shown = self._state.shown()
            if self.settings.mode == "forced_open":
                shown = Bench(
                    self.generation.started_at, FOREVER, "forced_open", None, manual=False
                )
        self._after_unlock()
        return shown

    def admits_since(self, admission: object) -> float:
        """Return when the state began that gave this admission; minus infinity if there was none before."""
        if isinstance(admission, Lease):
            return admission.state.since
        return (
            admission.started_at
            if isinstance(admission, Generation) and admission.started_at > self.born_at
            else NEVER
        )

    def average_latency(self, now: float) -> float | None:
        """Return the average seconds of successes, or what it last was, or None."""
        with self._lock:
            return self._latency_locked(now)

    def first_content(self, now: float) -> float | None:
        """Return the average seconds to the first content of streams in the window, or None without any."""
        with self._lock:
            return (
                None
                if self.first_contents is None
                else self.first_contents.value(now, self.settings.window)
            )

    def record_first_content(self, now: float, seconds: float) -> None:
        """Note how long the first content of a stream took, here and for the provider."""
        with self._lock:
            if self.first_contents is None:
                self.first_contents = RollingAverage()
            self.first_contents.add(now, seconds, self.settings.window)
        if self.provider is not None:
            self.provider.record_first_content(now, seconds)

    def hung_after(self, now: float) -> float:
        """Return the seconds after which a cancelled call counts as hung."""
        if self.settings.slow_call is not None:
            return self.settings.slow_call
        usual = self.average_latency(now)
        return SHORTEST_HUNG if usual is None else max(SHORTEST_HUNG, 10.0 * usual)

    def answered(self) -> int:
        """Return a figure that grows with every success; a provider's also with its targets'."""
        with self._lock:
            return self._answered_locked()

    def first_attempts(self, now: float, seconds: float) -> int:
        """Return the successes of the last seconds; a provider's are the sum over its targets."""
        with self._lock:
            own = self.generation.recent_successes(now, seconds)
            for child in self._targets_locked():
                with child._lock:
                    own += child.generation.recent_successes(now, seconds)
        return own

    def is_idle(self, now: float) -> bool:
        """Return whether nothing would be lost but counts of successes if the key were forgotten.

        What is older than a window in which nobody asked says nothing about the key any more:
        failures in a row, an escalation, a bench that has ended.
        """
        with self._lock:
            self._advance_locked(now)
            _, errors, _ = self.generation.counts(now)
            if errors or not self._state.is_clear:
                return False
            settled = self._state.is_closed and not (self.consecutive or self.failed_probes)
            return settled or now - self.last_used() >= self.settings.window

    def last_used(self) -> float:
        """Return when somebody last asked for this key, or had an answer counted; to a second."""
        return max(self.touched_at, self.generation.last_look)

    def numbers(self, now: float) -> tuple[int, int]:
        """Return ``(total, errors)`` in the window since it last closed; a provider's with its targets'."""
        with self._lock:
            total, errors, _ = self._counts_locked(now)
            return total, errors + self._children_errors_locked(now)

    def status(self, now: float) -> Status:
        """Return how the key is doing."""
        with self._lock:
            self._advance_locked(now)
            return self._status_locked(now)

    # Telling.

    def success(
        self,
        admission: Admission,
        now: float,
        seconds: float,
        *,
        response_time: float | None = None,
        is_targets: bool = False,
    ) -> bool:
        """Count a success, and return whether it was. One of a late admission changes nothing.

        Args:
            admission: What the attempt was let in by.
            now: Monotonic seconds.
            seconds: How long it took.
            response_time: What is compared with ``slow_call``, if that is not how long it took: of a
                stream, the seconds to its first content.
            is_targets: Whether it is in the numbers already, as that of a target beneath.
        """
        response_time = seconds if response_time is None else response_time
        with self._lock:
            self._heal_locked()
            if isinstance(admission, Lease):
                counted = self._lease_succeeded_locked(
                    admission, now, seconds, response_time, is_targets=is_targets
                )
            elif counted := admission is self.generation and self._state.is_closed:
                self._success_locked(now, seconds, response_time)
                self.consecutive = 0
                self._trip_locked(now, None, None)
                self._settle_locked(now, seconds)
            self._health_locked(now)
        self._after_unlock()
        return counted

    def child_answered(self, admission: Admission, now: float, seconds: float) -> None:
        """Note that a target of this provider answered; its count is the target's."""
        if not self.consecutive and not self._is_slow(seconds):
            return
        with self._lock:
            if admission is not self.generation or not self._state.is_closed:
                return
            self.consecutive = 0
            if self._is_slow(seconds):
                self._trip_locked(now, None, None)
            self._health_locked(now)
        self._after_unlock()

    def failure(
        self,
        admission: Admission,
        now: float,
        verdict: Verdict,
        seconds: float,
        *,
        cooldown: float | None = None,
        tag: CallTag | None = None,
    ) -> None:
        """Count an error and bench the key if it asks for it. One of a late admission changes nothing."""
        rate_limited = verdict.kind is ErrorKind.RATE_LIMITED
        if not verdict.harms_health and not rate_limited:
            self.abandon(admission)
            return
        counts: Counts | None = None
        with self._lock:
            self._heal_locked()
            if isinstance(admission, Lease):
                self._lease_failed_locked(admission, now, verdict, seconds, cooldown, tag)
            elif admission is self.generation and self._state.is_closed:
                counts = self._error_locked(now, verdict, seconds)
                if rate_limited:
                    self._pause_locked(now, verdict, tag)
                self._trip_locked(now, verdict, cooldown, tag, counts)
            self._health_locked(now, counts)
        self._after_unlock()

    def abandon(self, admission: Admission) -> None:
        """Give a place back without a verdict."""
        if isinstance(admission, Lease):
            with self._lock:
                self._state.give_back(admission)

    def pause(
        self, admission: Admission, now: float, verdict: Verdict, tag: CallTag | None = None
    ) -> None:
        """Sit out for the wait that an error named, though it was no rate limit."""
        with self._lock:
            if admission is self.generation and self._state.is_closed:
                self._pause_locked(now, verdict, tag)
                self._health_locked(now)
        self._after_unlock()

    def exhausted(
        self,
        admission: Admission,
        now: float,
        verdict: Verdict,
        attempts: int,
        answered: int,
        *,
        cooldown: float | None = None,
        tag: CallTag | None = None,
    ) -> None:
        """Open because one call used up its attempts, if the key answered nobody meanwhile.

        Args:
            admission: Grant of the last attempt.
            now: Monotonic seconds.
            verdict: What the last error was.
            attempts: How many attempts the call made.
            answered: What ``answered()`` said when the first of them failed.
            cooldown: First bench of the policy, if the circuit has none of its own.
            tag: Which call it was.
        """
        with self._lock:
            current = admission is self.generation and self._state.is_closed
            if current and self._answered_locked() == answered:
                self._open_locked(now, verdict, f"exhausted {attempts}/{attempts}", cooldown, tag)
                self._health_locked(now)
        self._after_unlock()

    def bench(self, now: float, until: float, reason: str) -> None:
        """Bench by hand until a moment; ``inf`` until unbenched."""
        with self._lock:
            self._advance_locked(now)
            self._state.manual = Bench(now, until, reason, None, manual=True)
            self._note_bench_locked(now, None, reason, "manual", until)
            self._publish_locked()
            self._health_locked(now)
        self._after_unlock()

    def unbench(self, now: float) -> bool:
        """End every bench of this key, and trust it again; return whether it was benched."""
        with self._lock:
            self._advance_locked(now)
            was_benched = not self._state.is_clear
            self._state.manual = self._state.pause = None
            if not self._state.is_closed:
                self._close_locked(now)
            self.failed_probes = 0
            if was_benched:
                self._note_locked(event_names.TargetUnbenched, now, reason="manual")
            self._publish_locked()
            self._health_locked(now)
        self._after_unlock()
        return was_benched

    def forget(self, now: float) -> None:
        """Forget everything automatic; a manual bench stays."""
        with self._lock:
            self._advance_locked(now)
            was_benched = self._state.opened is not None or self._state.pause is not None
            self._state.pause = None
            self._close_locked(now)
            self.failed_probes = 0
            self.last_error = None
            self.last_latency = None
            self.first_contents = None
            self._said_until = NEVER
            if was_benched:
                self._note_locked(event_names.TargetUnbenched, now, reason="reset")
            self._publish_locked()
            self._health_locked(now)
        self._after_unlock()

    def configure(self, settings: BreakerSettings, now: float) -> bool:
        """Change the settings, keeping the state; return whether anything changed."""
        with self._lock:
            if settings == self.settings:
                return False
            if settings.window != self.settings.window:
                self.generation.resize(settings.window)
            self.settings = settings
            if settings.mode in ("disabled", "metrics_only"):
                # Neither blocks anybody: what was automatic ends here.
                self._state.pause = None
                if not self._state.is_closed:
                    self._close_locked(now)
            self.generation.is_settled = False
            self.generation.check_after = NEVER
            self._publish_locked()
            self._health_locked(now)
        self._after_unlock()
        return True

    def suspend(self, *, suspended: bool) -> None:
        """Take the circuit out of use, or back: while another state of the process is in force."""
        with self._lock:
            self.suspended = suspended
            self._publish_locked()
            if suspended:
                self.shut_until = NEVER

    def after_fork(self) -> None:
        """Replace what a thread of the parent may have held, and free its callers' places."""
        self._lock = threading.RLock()
        self.delivering = threading.Lock()
        self.outbox = deque()
        self._state.free_all()

    def emit(self, kind: event_names.EventName, now: float, /, **details: Any) -> None:
        """Tell observers of something that happened on this key. Called without the lock."""
        if self.sink.has_listeners(kind, details.get("tag")):
            self.outbox.append((kind, now, details))
            self.sink.deliver(self)

    # Under the lock: the three layers.

    def _adopt_locked(self, target: Circuit) -> None:
        children = self._children
        # Targets that are gone are dropped whenever the number doubles: constant cost each.
        if children and len(children) & (len(children) - 1) == 0:
            children[:] = [child for child in children if child() is not None]
        children.append(weakref.ref(target))

    def _targets_locked(self) -> list[Circuit]:
        """Return the targets of this provider; none for a target."""
        return [target for child in self._children if (target := child()) is not None]

    def _block_locked(self) -> Block | None:
        if self.settings.mode == "forced_open":
            return Block(self.key, "forced_open", None, manual=True)
        return self._state.block(self.key)

    def _admit_locked(self, now: float, lease_seconds: float) -> Admission | Block:
        block = self._block_locked()
        if block is not None:
            return block
        if self._state.half is not None:
            return self._take_locked(self._state.half, now, lease_seconds)
        return self._closed_locked(now)

    def _closed_locked(self, now: float) -> Generation:
        """Return what callers get while nothing blocks; of a disabled circuit, counts that nobody reads."""
        if self.settings.mode != "disabled":
            return self.generation
        if self._uncounted is None:
            self._uncounted = Generation(now, self.settings.window, self.serial)
            self._uncounted.check_after = FOREVER
        return self._uncounted

    def _heal_locked(self) -> None:
        # A KeyboardInterrupt, or what a signal handler raises, may have come between a change
        # and its publication: then everybody would be let in and nothing counted, for ever.
        if self.slot is not None and not (self._state.is_clear and self._state.is_closed):
            self._publish_locked()

    def _advance_locked(self, now: float) -> None:
        """Let what has run out run out. Who is half-open then has yet to recover."""
        self._heal_locked()
        if self._state.expire(now):
            if self._state.is_clear and self._state.is_closed:
                self._note_locked(event_names.TargetUnbenched, now, reason="expired")
            self._publish_locked()
            self._health_locked(now)

    def _publish_locked(self) -> None:
        """Put into `slot` and `shut_until` what the healthy path may rely on."""
        provider = self.provider
        state, forced = self._state, self.settings.mode == "forced_open"
        self.shut_until = FOREVER if forced else state.until()
        closed = state.is_closed and state.is_clear and not forced
        if provider is not None:
            self.shut_until = max(self.shut_until, provider.shut_until)
            closed = closed and provider.slot is not None
        if not closed or self.suspended:
            self.slot = None
        else:
            self.slot = self._closed_locked(self.generation.started_at)
        self._changed = bool(self._children)

    # Under the lock: results.

    def _is_slow(self, seconds: float) -> bool:
        return self.settings.slow_call is not None and seconds >= self.settings.slow_call

    def _success_locked(self, now: float, seconds: float, response_time: float) -> None:
        above = self.provider is not None and self.provider._is_slow(response_time)
        self.generation.success(now, seconds, slow=self._is_slow(response_time), slow_above=above)

    def _error_locked(self, now: float, verdict: Verdict, seconds: float) -> Counts:
        generation, slow_call = self.generation, self.settings.slow_call
        counts = generation.error(now, slow=slow_call is not None and seconds >= slow_call)
        self.last_error = LastError(verdict.kind, verdict.reason)
        generation.is_settled = False
        generation.check_after = NEVER
        if verdict.reason != "hung" and verdict.kind is not ErrorKind.RATE_LIMITED:
            self.consecutive += 1
            self._changed = bool(self._children)
        self._ill_locked(now)
        return self._counts_locked(now) if self._children else counts

    def _ill_locked(self, now: float) -> None:
        # A healthy window lowers the escalation by one; looked at when it next matters.
        if not self.failed_probes:
            return
        healed = int((now - self.healthy_since) / self.settings.window)
        self.failed_probes = max(0, self.failed_probes - healed)
        self.healthy_since = now

    def _answered_locked(self) -> int:
        return self.generation.n + sum(child.generation.n for child in self._targets_locked())

    def _settle_locked(self, now: float, seconds: float) -> None:
        """Decide whether coming successes need nothing but being counted."""
        generation, settings, provider = self.generation, self.settings, self.provider
        total, errors, _ = generation.counts(now)
        anxious = (
            not window.LOCK_FREE
            or self.consecutive
            or settings.slow_call is not None
            or (errors and total < settings.min_calls)
        )
        if self._status != "healthy":
            anxious = True
        if provider is not None and (
            provider.consecutive or provider.settings.slow_call is not None
        ):
            anxious = True
        generation.is_settled = not anxious
        if anxious:
            generation.check_after = NEVER
        else:
            generation.rest_if_busy(now, seconds)

    def _counts_locked(self, now: float) -> Counts:
        """Return ``(total, errors charged here, slow by the limit set here)``.

        A provider's total is the sum over its targets, and so are its slow ones.
        """
        if not self._children:
            return self.generation.counts(now)
        total, errors, slow = self.generation.counts(now)
        for child in self._targets_locked():
            with child._lock:
                total += child.generation.counts(now, since_cut=True)[0]
                slow += child.generation.slow_above(now)
        return total, errors, slow

    def _children_errors_locked(self, now: float) -> int:
        errors = 0
        for child in self._targets_locked():
            with child._lock:
                errors += child.generation.counts(now, since_cut=True)[1]
        return errors

    def _latency_locked(self, now: float) -> float | None:
        latency = self.generation.latency(now)
        if latency is None and self._children:
            known = [
                each
                for child in self._targets_locked()
                if (each := child.average_latency(now)) is not None
            ]
            latency = sum(known) / len(known) if known else None
        if latency is not None:
            self.last_latency = latency
        return self.last_latency

    def _trip_locked(
        self,
        now: float,
        verdict: Verdict | None,
        cooldown: float | None,
        tag: CallTag | None = None,
        counts: Counts | None = None,
    ) -> None:
        """Open if something asks for it; ``counts`` is what is in the window, if that is known."""
        if self.settings.mode == "disabled":
            return
        if verdict is not None and verdict.kind in _AT_ONCE:
            self._open_locked(now, verdict, verdict.kind.value, cooldown, tag)
            return
        total, errors, slow = self._counts_locked(now) if counts is None else counts
        why = triggers.trigger(self.settings, self.consecutive, total, errors, slow)
        if why is not None:
            self._open_locked(now, verdict, why, cooldown, tag)

    def _open_locked(
        self,
        now: float,
        verdict: Verdict | None,
        why: str,
        cooldown: float | None,
        tag: CallTag | None,
    ) -> None:
        self._ill_locked(now)
        if verdict is not None:
            kind, reason = verdict.kind, verdict.reason
        elif why.startswith("slow") or self.last_error is None:
            kind, reason = ErrorKind.TRANSIENT, "slow"
        else:
            kind, reason = self.last_error
        first = self._first_cooldown(cooldown)
        length = self._length_locked(kind, first)
        if self.settings.mode == "metrics_only":
            self._would_bench_locked(now, kind, reason, why, now + length, verdict, tag)
            return
        until = now + length
        if self._state.opened is not None:
            until = max(until, self._state.opened.until)
        self._state.opened = OpenState(now, until, reason, kind, first)
        self._state.half = None
        self._note_bench_locked(now, kind, reason, why, until, verdict, tag)
        self._publish_locked()

    def _first_cooldown(self, cooldown: float | None) -> float:
        return (
            self.settings.cooldown
            if cooldown is None or self.settings.cooldown_is_own
            else cooldown
        )

    def _length_locked(self, kind: ErrorKind, cooldown: float) -> float:
        longest = max(self.settings.max_cooldown, cooldown)
        if kind is ErrorKind.AUTH_DEAD:
            return longest
        if kind is ErrorKind.MEMORY_PRESSURE:
            return MEMORY_PRESSURE_BENCH
        return triggers.bench_length(cooldown, longest, self.failed_probes, self.rng)

    def _pause_locked(self, now: float, verdict: Verdict, tag: CallTag | None) -> None:
        """Bench for the wait that the provider named; extended, never shortened."""
        named = verdict.retry_after is not None
        length = min(
            LONGEST_HINT, RATE_LIMIT_PAUSE if verdict.retry_after is None else verdict.retry_after
        )
        until = now + length
        if length <= 0.0 or (self._state.opened is not None and until <= self._state.opened.until):
            return
        if self.settings.mode == "metrics_only":
            self._would_bench_locked(
                now, verdict.kind, verdict.reason, verdict.kind.value, until, verdict, tag
            )
            return
        new, old = (
            RateLimitPause(now, until, verdict.reason, verdict.kind, named=named),
            self._state.pause,
        )
        grows_by = FOREVER
        if old is not None:
            grows_by = until - old.until
            if grows_by <= 0.0:
                old.named = old.named or named
                return
            new.extends(old)
        self._state.pause = new
        # A burst of rate limits says the same again and again, each a moment later.
        if grows_by >= NOTICEABLE:
            self._note_bench_locked(
                now, verdict.kind, verdict.reason, verdict.kind.value, until, verdict, tag
            )
        self._publish_locked()

    def _would_bench_locked(
        self,
        now: float,
        kind: ErrorKind,
        reason: str,
        why: str,
        until: float,
        verdict: Verdict | None,
        tag: CallTag | None,
    ) -> None:
        """Mode ``metrics_only``: say it once for as long as the bench would have lasted."""
        if now < self._said_until:
            return
        self._said_until = until
        self._note_bench_locked(now, kind, reason, why, until, verdict, tag, enforced=False)

    def _close_locked(self, now: float) -> None:
        """Start a new closed period: clear counts, so that old errors cannot open it again."""
        self._latency_locked(now)
        self._state.opened = self._state.half = None
        self.consecutive = 0
        self.healthy_since = now
        self.generation = Generation(now, self.settings.window, self.serial)
        for child in self._targets_locked():
            with child._lock:
                child.generation.cut()
        self._publish_locked()

    # Under the lock: leased places.

    def _lease_until(self, now: float, lease_seconds: float, cooldown: float) -> float:
        if self.settings.probe_lease is not None:
            return now + self.settings.probe_lease
        usual = 0.0 if self.last_latency is None else self.last_latency
        return now + max(lease_seconds, cooldown, 10.0 * usual)

    def _take_locked(
        self, half: HalfOpenState, now: float, lease_seconds: float
    ) -> Admission | Block:
        if not self._state.has_lease(half, now, self.settings.probes):
            return Block(self.key, "probes taken", None)
        self._latency_locked(now)
        lease = Lease(half, self._lease_until(now, lease_seconds, half.cooldown))
        half.leases.append(lease)
        return lease

    def _last_resort_locked(self, now: float, lease_seconds: float) -> Admission | Block:
        if self.settings.mode == "forced_open":
            return Block(self.key, "forced_open", None, manual=True)
        lease = self._state.last_resort(
            self.key, now, self._lease_until(now, lease_seconds, self.settings.cooldown)
        )
        return self._admit_locked(now, lease_seconds) if lease is None else lease

    def _lease_succeeded_locked(
        self, lease: Lease, now: float, seconds: float, response_time: float, *, is_targets: bool
    ) -> bool:
        state = lease.state
        if not self._state.give_back(lease):
            return False
        if not is_targets:
            self._success_locked(now, seconds, response_time)
        self.last_latency = seconds if self.last_latency is None else self.last_latency
        if isinstance(state, RateLimitPause):
            self._state.pause = None
            self.consecutive = 0
            self._recovered_locked(now)
            return True
        if isinstance(state, OpenState):
            # A last resort that was answered is worth a probe.
            self._state.half = state_half = HalfOpenState(state.cooldown, now)
            self._state.opened = None
            state = state_half
        state.successes += 1
        if state.successes >= self.settings.successes_to_close:
            self._close_locked(now)
            self._recovered_locked(now)
        self._publish_locked()
        return True

    def _recovered_locked(self, now: float) -> None:
        if self._state.is_clear:
            self._note_locked(event_names.TargetUnbenched, now, reason="recovered")
        self._publish_locked()

    def _lease_failed_locked(
        self,
        lease: Lease,
        now: float,
        verdict: Verdict,
        seconds: float,
        cooldown: float | None,
        tag: CallTag | None,
    ) -> None:
        state = lease.state
        if not self._state.give_back(lease):
            return
        self.last_error = LastError(verdict.kind, verdict.reason)
        if self._state.is_closed:
            self._error_locked(now, verdict, seconds)
        else:
            self.generation.error(now, slow=self._is_slow(seconds))
        if not isinstance(state, HalfOpenState):
            # A last resort does not lengthen a bench; a new fact that the provider names does.
            if verdict.kind is ErrorKind.RATE_LIMITED and verdict.retry_after is not None:
                self._pause_locked(now, verdict, tag)
            elif verdict.kind is ErrorKind.AUTH_DEAD:
                self._open_locked(now, verdict, verdict.kind.value, cooldown, tag)
            return
        self.consecutive += 1
        self.failed_probes += 1
        self.healthy_since = now
        self._open_locked(now, verdict, "probe failed", state.cooldown, tag)
        if verdict.kind is ErrorKind.RATE_LIMITED:
            self._pause_locked(now, verdict, tag)

    # Telling others.

    def _health_locked(self, now: float, counts: Counts | None = None) -> None:
        new = self._status_locked(now, counts)
        if new != self._status:
            self._note_locked(event_names.HealthChanged, now, old=self._status, new=new)
            self._status = new

    def _status_locked(self, now: float, counts: Counts | None = None) -> Status:
        down = not self._state.is_clear or self.settings.mode == "forced_open"
        total, errors, _ = self._counts_locked(now) if counts is None else counts
        if self._children:
            errors += self._children_errors_locked(now)
        return triggers.status(
            down=down,
            failures=self.consecutive,
            limit=self.settings.failures,
            total=total,
            errors=errors,
        )

    def _note_bench_locked(
        self,
        now: float,
        kind: ErrorKind | None,
        reason: str,
        trigger: str,
        until: float,
        verdict: Verdict | None = None,
        tag: CallTag | None = None,
        *,
        enforced: bool = True,
    ) -> None:
        self._note_locked(
            event_names.TargetBenched,
            now,
            kind=kind,
            reason=reason,
            trigger=trigger,
            until=until,
            retry_after=None if verdict is None else verdict.retry_after,
            tag=tag,
            enforced=enforced,
        )

    def _note_locked(self, kind: event_names.EventName, now: float, /, **details: Any) -> None:
        if self.sink.has_listeners(kind, details.get("tag")):
            self.outbox.append((kind, now, details))

    def _after_unlock(self) -> None:
        """Do what must not be done under the lock: let targets see a change, deliver events."""
        if self._changed:
            self._wake_children()
        if self.provider is not None and self.provider._changed:
            self.provider._wake_children()  # somebody was interrupted before doing it
        keep = self.keep
        if keep is not None and not self._state.is_clear:
            self.keep = None
            keep(self)
        if self.outbox:
            self.sink.deliver(self)

    def _wake_children(self) -> None:
        """Let every target of this provider see what changed here."""
        with self._lock:
            self._changed = False
            for child in self._targets_locked():
                with child._lock:
                    child._publish_locked()
                    if self.consecutive or self.settings.slow_call is not None:
                        child.generation.is_settled = False
                        child.generation.check_after = NEVER
