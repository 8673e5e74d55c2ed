"""The circuit breaker of one key: who may call or probe it, and what results do to that.

Owns the state of one key, under one lock that is never held while foreign code is called. A
provider and its targets share that lock, so what changes a provider is published to its targets
in the same step. No other lock is taken under it.
Knows no clock, no randomness and no registry: time and random numbers are passed in.

Theory of operation. Three things can block a key, and each ends by itself.

*manual*  An operator's bench. No result changes it.
*pause*   A rate limit. The generation goes on meanwhile: calls that were admitted in it still
          count, and the longest wait that the provider named in any of them is kept.
*state*   Closed (a `Generation`), open (an `OpenState`) or half-open (a `HalfOpenState`).

A caller that is admitted gets an admission: the generation itself, or a `Lease` in a half-open
or open state. A report is compared with the state that gave the admission. If that state is no
longer the present one, the report is late and changes nothing: a success from before the circuit
opened does not close it, a failure from before does not lengthen the bench, and a probe of an
earlier half-open period neither settles nor frees anything in this one.

When a lease ends, the next caller may have it, so that a probe which hangs does not keep the
circuit half-open. The probe's late report in the same period still counts.

`slot` is the only attribute that the healthy path reads: the generation while calls may pass,
else None. It is None for a target also while its provider's slot is None, and for every key
whose calls are looked at (see `nesting`).

Code of others may run on a thread that holds the lock. A signal handler may ask for `health()`:
the lock is reentrant, and its thread waits for the lock of another provider at most as long as
that is held, since its holder waits for nothing. Events that such a handler causes are delivered
when the interrupted thread has released the lock. A finaliser may give a lease back, on any
thread: `abandon` takes no lock, and the next holder of the lock takes the lease back before it
looks at leases.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.circuit import probing, triggers, window
from resilient_llm._core.circuit.nesting import Look, Nesting
from resilient_llm._core.circuit.outbox import CallTag, EventSink, Fact, Outbox
from resilient_llm._core.circuit.state import (
    AT_ONCE,
    FOREVER,
    LOCAL,
    Admission,
    Bench,
    Block,
    CircuitState,
    HalfOpenState,
    Lease,
    OpenState,
    RateLimitPause,
)
from resilient_llm._core.circuit.telling import NOBODY, Telling
from resilient_llm._core.circuit.window import NEVER, Generation, RollingAverage
from resilient_llm._values import event_names
from resilient_llm._values.kinds import ErrorKind, LastError
from resilient_llm._values.settings import (
    LONGEST_HINT,
    RATE_LIMIT_PAUSE,
    SHORTEST_HUNG,
    BreakerSettings,
)
from resilient_llm._values.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from resilient_llm._core.circuit.triggers import Status
    from resilient_llm._values.health import State


_serials = itertools.count()
Counts = tuple[int, int, int]
"""``(total, errors, slow)`` in the window."""
_NONE: Final[list[weakref.ref[Circuit]]] = []
"""The targets of every target. Stays empty, since only providers have targets; saves memory."""
HEADERS: Final = "headers"
"""Reason of a pause that a figure in headers asks for."""
NOTICEABLE: Final = 1.0
"""Seconds by which a pause must grow before its event is emitted again."""


class Changes:
    """What is replaced whenever any circuit of the process begins or ends to admit calls.

    Who keeps what it has found out of many circuits compares it: the same object means that none
    of them has changed since. An end of a bench is no change until somebody looks at the circuit,
    so its time has to be compared as well.
    """

    __slots__ = ("latest",)

    def __init__(self) -> None:
        self.latest = object()


changes: Final = Changes()


class Circuit:
    """The breaker of one key. All methods may be called from any thread."""

    __slots__ = (
        "__weakref__",
        "_announced_until",
        "_children",
        "_given_back",
        "_is_listed",
        "_is_publishing",
        "_lock",
        "_look",
        "_look_after",
        "_settled_targets",
        "_state",
        "_to_deliver",
        "_uncounted",
        "born_at",
        "consecutive",
        "failed_probes",
        "first_contents",
        "generation",
        "healthy_since",
        "is_limited",
        "is_nested",
        "keep",
        "key",
        "known_status",
        "last_error",
        "last_latency",
        "limited_slot",
        "outbox",
        "own",
        "provider",
        "rng",
        "seen",
        "serial",
        "settings",
        "shut_until",
        "sink",
        "slot",
        "suspended",
        "telling",
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
        looks: bool = False,
        telling: Telling = NOBODY,
    ) -> None:
        """Make the closed circuit of a key.

        Args:
            key: The key.
            settings: What opens and closes it.
            now: Monotonic seconds.
            rng: For the jitter of cooldowns.
            sink: What its events are handed to.
            provider: The circuit of its provider, if this is a target's.
            looks: Whether its first calls are looked at for nested guards.
            telling: Where it tells other processes what happens to it.
        """
        self.key = key
        self.settings = settings
        self.own: Mapping[str, Any] = {}
        """Options that guards gave for this key; the registry merges them."""
        self.serial = next(_serials)
        """Distinguishes this circuit from an earlier one of the same key."""
        self.rng = rng
        self.sink = sink
        self.provider = provider
        self.telling = telling
        self.seen = 0
        """The highest order of a change of another process that was applied here."""
        self.keep: Callable[[Circuit], None] | None = None
        """Asks the registry to hold this circuit again, since it is benched.

        Set if the registry has dropped it.
        """
        self._children: list[weakref.ref[Circuit]] = [] if provider is None else _NONE
        self._settled_targets: list[weakref.ref[Circuit]] = [] if provider is None else _NONE
        """Targets whose successes may be counted without a look at this provider."""
        self._is_listed = False
        """Whether this target is among its provider's ``_settled_targets``."""
        self.outbox = Outbox(key)
        if provider is None:
            self._lock = threading.RLock()
            self._given_back: list[tuple[Circuit, Lease]] = []
            self._to_deliver: list[Circuit] = []
        else:
            self._lock = provider._lock
            self._given_back = provider._given_back
            self._to_deliver = provider._to_deliver
        self.generation = Generation(now, settings.window, self.serial)
        self._uncounted: Generation | None = None
        self._state = CircuitState()
        self._announced_until = NEVER
        self.known_status: Status = "healthy"
        """How the key was doing at the last report; `status` looks at what has left the window."""
        self._is_publishing = False
        """Whether a change is not yet published to all targets."""
        self.consecutive = 0
        self.failed_probes = 0
        self.healthy_since = now
        self.born_at = now
        self.touched_at = now
        self.last_error: LastError | None = None
        self.last_latency: float | None = None
        self.first_contents: RollingAverage | None = None
        """Seconds to the first content of streams; None before the first stream."""
        self.suspended = False
        self.is_nested = False
        """Whether guards of this key were found inside each other; then every call is looked at."""
        self.is_limited = False
        """Whether a limit is configured for the key; then every attempt has to ask."""
        self._look: Look | None = Look(now + settings.window) if looks else None
        self._look_after = now + settings.window
        self.slot: Generation | None = None
        self.limited_slot: Generation | None = None
        """The same for who asks the limits of the key as well: it does not close for them."""
        self.shut_until = NEVER
        with self._lock:
            if provider is not None:
                provider._adopt_locked(self)
                self.generation.above = provider.generation
            self._publish_locked()
        self._after_unlock()

    # Questions.

    def admit(self, now: float, lease_seconds: float = 0.0) -> Admission | Block:
        """Return an admission for one attempt, or why there is none.

        Args:
            now: Monotonic seconds.
            lease_seconds: Seconds that the attempt may take, or 0 if its policy sets no limit.
        """
        with self._lock:
            self._advance_locked(now)
            self.touched_at = now
            result = self._admit_locked(now, lease_seconds)
        return self._given(result)

    def admit_last_resort(self, now: float, lease_seconds: float) -> Admission | Block:
        """Return an admission in spite of an automatic bench, or why there is none.

        It never overrules a manual bench, a forced mode, credentials that do not work or a wait
        that the provider named.
        """
        with self._lock:
            self._advance_locked(now)
            result = self._last_resort_locked(now, lease_seconds)
        return self._given(result)

    def takes_last_resort(self, now: float) -> bool:
        """Return whether `admit_last_resort` would admit an attempt now; takes no lease."""
        with self._lock:
            self._advance_locked(now)
            half = self._state.half
            takes = (
                self.settings.mode != "forced_open"
                and self._state.refuses_last_resort(self.key, now) is None
                and (half is None or self._state.has_lease(half, now, self.settings.probes))
            )
        self._after_unlock()
        return takes

    def _given(self, result: Admission | Block) -> Admission | Block:
        """Return an admission after the lock; an observer may interrupt that."""
        try:
            self._after_unlock()
        except BaseException:
            if isinstance(result, Lease):
                self.abandon(result)
            raise
        return result

    def share(self, leases: tuple[Lease, ...]) -> Lease | None:
        """Return the first of these leases that this circuit's present state gave, or None.

        None as well while an operator blocks the key: that holds inside a probe, too.
        """
        with self._lock:
            self._take_back_locked()
            is_forced = self.settings.mode == "forced_open" or self._state.manual is not None
            shared = None if is_forced else self._state.shared(leases)
        self._after_unlock()
        return shared

    def block(self, now: float) -> Block | None:
        """Return why a caller would be rejected now; takes no lease."""
        with self._lock:
            self._advance_locked(now)
            block = self._block_locked()
            if (
                block is None
                and self._state.half is not None
                and not self._state.has_lease(self._state.half, now, self.settings.probes)
            ):
                block = self._probes_taken(self._state.half, now)
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

    @property
    def is_at_rest(self) -> bool:
        """Whether key and provider are closed without any bench; takes no lock.

        Calls may enter then though there is no slot, as while a circuit looks for nested guards.
        """
        provider = self.provider
        return self._state.is_at_rest and (provider is None or provider._state.is_at_rest)

    def bench_now(self, now: float) -> Bench | None:
        """Return the present bench of the key: the operator's, else the one that ends last."""
        with self._lock:
            self._advance_locked(now)
            shown = self._state.shown()
            if self.settings.mode == "forced_open":
                shown = Bench(
                    self.generation.started_at, FOREVER, "forced_open", None, manual=False
                )
        self._after_unlock()
        if self.outbox.is_behind:
            self.sink.deliver(self.outbox)
        return shown

    def has_run_out(self, now: float) -> bool:
        """Return whether a bench has ended that `announce_end` would tell of; takes no lock."""
        half = self._state.half
        return (half is not None and not half.is_announced) or any(
            now >= bench.until for bench in self._state.benches()
        )

    def announce_end(self, now: float) -> None:
        """Emit that benches have run out, for who was told of them.

        Also of one by errors, which ends half-open: whether a probe is answered may not be known
        for hours, and nobody is kept from calling any more.
        """
        with self._lock:
            self._advance_locked(now)
            half = self._state.half
            if half is not None and not half.is_announced and self._state.is_unblocked:
                half.is_announced = True
                self._note_locked(event_names.TargetUnbenched, now, reason="expired")
        self._after_unlock()
        if self.outbox.is_behind:
            self.sink.deliver(self.outbox)

    def admits_since(self, admission: object) -> float:
        """Return when the state began that gave this admission.

        Minus infinity for the first generation of the circuit.
        """
        if isinstance(admission, Lease):
            return admission.state.since
        return (
            admission.started_at
            if isinstance(admission, Generation) and admission.started_at > self.born_at
            else NEVER
        )

    def average_latency(self, now: float) -> float | None:
        """Return the average seconds of successes, else the last known average, else None."""
        with self._lock:
            self._settle_targets_locked(now)
            latency = self._latency_locked(now)
        self._after_unlock()
        return latency

    def first_content(self, now: float) -> float | None:
        """Return the average seconds to the first content of streams in the window, or None."""
        with self._lock:
            contents = self.first_contents
            seconds = None if contents is None else contents.value(now, self.settings.window)
        self._after_unlock()
        return seconds

    def record_first_content(self, now: float, seconds: float) -> None:
        """Record how long the first content of a stream took, here and for the provider."""
        with self._lock:
            if self.first_contents is None:
                self.first_contents = RollingAverage()
            self.first_contents.add(now, seconds, self.settings.window)
        self._after_unlock()
        if self.provider is not None:
            self.provider.record_first_content(now, seconds)

    def hung_after(self, now: float) -> float:
        """Return the seconds after which a cancelled call counts as hung."""
        if self.settings.slow_call is not None:
            return self.settings.slow_call
        usual = self.average_latency(now)
        return SHORTEST_HUNG if usual is None else max(SHORTEST_HUNG, 10.0 * usual)

    def answered(self) -> int:
        """Return a number that grows with every success; a provider's also with its targets'."""
        with self._lock:
            answered = self._answered_locked()
        self._after_unlock()
        return answered

    def first_attempts(self, now: float, seconds: float) -> int:
        """Return how many successes came in the last seconds; a provider's include its targets'."""
        with self._lock:
            self._settle_targets_locked(now)
            recent = self.generation.recent_successes(now, seconds)
        self._after_unlock()
        return recent

    def is_idle(self, now: float) -> bool:
        """Return whether only counts of successes would be lost if the key were forgotten.

        Failures in a row, an escalation and a bench that has ended mean nothing once
        the key was not used for a whole window. A key that is forced open never is idle: it
        must stay in the list of benches.
        """
        if self.settings.mode == "forced_open":
            return False
        with self._lock:
            self._advance_locked(now)
            _, errors, _ = self.generation.counts(now)
            bad, _ = self._answers_locked(now)
            is_quiet = not errors and not bad and self._state.is_unblocked
            settled = self._state.core_is_closed and not (self.consecutive or self.failed_probes)
            is_unused = now - self.last_used() >= self.settings.window
        self._after_unlock()
        return is_quiet and (settled or is_unused)

    def last_used(self) -> float:
        """Return when this key was last asked for or a success was counted, to about a second."""
        return max(self.touched_at, self.generation.last_look)

    def last_success(self) -> float:
        """Return when a call last succeeded, to 1 ms, also of a target of this provider.

        Minus infinity if none has since the circuit was made, or reset.
        """
        with self._lock:
            looks = [target.generation.last_look for target in self._targets_locked()]
        self._after_unlock()
        return max(self.generation.last_look, *looks, NEVER)

    def numbers(self, now: float) -> tuple[int, int]:
        """Return ``(total, errors)`` in the window since it closed, with those of its targets."""
        with self._lock:
            self._settle_targets_locked(now)
            total, errors, _ = self.generation.counts(now)
            errors += self.generation.errors_of_targets(now)
        self._after_unlock()
        return total, errors

    def status(self, now: float) -> Status:
        """Return how the key is doing."""
        with self._lock:
            self._advance_locked(now)
            self._settle_targets_locked(now)
            status = self._status_locked(now)
        self._after_unlock()
        return status

    # Reports.

    def success(
        self,
        admission: Admission,
        now: float,
        seconds: float,
        *,
        response_time: float | None = None,
        is_targets: bool = False,
        cooldown: float | None = None,
        tag: CallTag | None = None,
    ) -> bool:
        """Count a success and return whether it counted; a late one changes nothing.

        Args:
            admission: What the attempt was admitted by.
            now: Monotonic seconds.
            seconds: How long it took.
            response_time: What is compared with ``slow_call``, if that is not ``seconds``: for a
                stream the seconds to its first content.
            is_targets: Whether it is in the numbers already, as a success of a target.
            cooldown: Cooldown of the policy in seconds, if slow successes open the circuit.
            tag: Names the call in the event of that.
        """
        response_time = seconds if response_time is None else response_time
        counts: Counts | None = None
        with self._lock:
            self._heal_locked(now)
            if isinstance(admission, Lease):
                counted = self._lease_succeeded_locked(
                    admission, now, seconds, response_time, is_targets=is_targets
                )
                if counted:
                    self.generation.last_look = now  # also of a generation that it began
            elif counted := admission is self.generation and self._state.core_is_closed:
                self._success_locked(now, seconds, response_time)
                self.consecutive = 0
                counts = self.generation.counts(now)
                self._trip_locked(now, None, cooldown, tag, counts)
                if self._state.core_is_closed:  # else what comes now is late
                    self._settle_locked(now, counts)
                (self.provider or self)._look_again_locked(now)
            self._health_locked(now, counts)
        self._after_unlock(tag)
        return counted

    def child_answered(
        self,
        admission: Admission,
        now: float,
        seconds: float,
        *,
        cooldown: float | None = None,
        tag: CallTag | None = None,
    ) -> None:
        """React to the success of a target of this provider; the target has counted it."""
        if not self.consecutive and not self._is_slow(seconds):
            return
        with self._lock:
            if admission is self.generation and self._state.core_is_closed:
                self.consecutive = 0
                if self._is_slow(seconds):
                    self._trip_locked(now, None, cooldown, tag)
                self._health_locked(now)
        self._after_unlock(tag)

    def take_back_success(self, admission: Admission, now: float) -> None:
        """Take back one success that a guard counted here, since a target counted it, too."""
        with self._lock:
            if admission is self.generation and self._state.core_is_closed:
                self._settle_targets_locked(now)
                self.generation.take_back_success(now)
        self._after_unlock()

    def nesting(self, around: list[tuple[Nesting, int]]) -> Nesting | None:
        """Return what the permit of a call that begins has to know; None if nobody looks.

        Args:
            around: What is known of guards around it, on this key, its provider or its targets.
        """
        provider = self.provider
        looks = (self._look, None if provider is None else provider._look)
        if looks == (None, None) and not (
            around or self.is_nested or (provider is not None and provider.is_nested)
        ):
            return None
        return Nesting(around, [look for look in looks if look is not None and look.begin_one()])

    def is_charged(self, verdict: Verdict) -> bool:
        """Return whether an outcome of this verdict counts here: an error, or a bad answer."""
        return (
            verdict.harms_health
            or verdict.kind is ErrorKind.RATE_LIMITED
            or (verdict.kind is ErrorKind.BAD_RESPONSE and self.settings.bad_rate is not None)
        )

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
        """Count an error, or a bad answer, and bench the key if a trigger says so.

        A late one changes nothing.
        """
        if not self.is_charged(verdict):
            self.abandon(admission)
            return
        counts: Counts | None = None
        cause: Outbox | None = None
        with self._lock:
            self._heal_locked(now)
            cause = None if tag is None else tag.append_cause()
            if isinstance(admission, Lease):
                self._lease_failed_locked(admission, now, verdict, seconds, cooldown, tag)
            elif admission is self.generation and self._state.core_is_closed:
                counts = self._failed_locked(now, verdict, seconds)
                if verdict.kind is ErrorKind.RATE_LIMITED:
                    self._pause_locked(now, verdict, tag)
                self._trip_locked(now, verdict, cooldown, tag, counts)
            self._health_locked(now, counts)
        self._after_unlock(tag, cause)

    def abandon(self, admission: Admission) -> None:
        """Give a lease back without a verdict; waits for no lock, since finalisers call it."""
        if isinstance(admission, Lease):
            self._given_back.append((self, admission))
            if admission.is_claimed:
                self.telling.probe_over(self.key)

    def taken_elsewhere(self, lease: Lease, until: float) -> None:
        """Note until when another process probes, which has refused the place of this lease."""
        with self._lock:
            half = self._state.half
            if half is not None and lease.state is half:
                half.taken_until = until

    def block_since(self, lease: Lease, now: float) -> Block | None:
        """Return what has come to block callers since a lease of a probe was given, or None."""
        with self._lock:
            self._advance_locked(now)
            block = None if lease.state is self._state.half else self._block_locked()
        self._after_unlock()
        return block

    def has_claimed_probe(self, now: float) -> bool:
        """Return whether a probe runs for which this process has asked for a place."""
        with self._lock:
            self._take_back_locked()
            half = self._state.half
            leases = () if half is None else half.leases
            return any(each.is_claimed and now < each.ends_at for each in leases)

    def pause(
        self, admission: Admission, now: float, verdict: Verdict, tag: CallTag | None = None
    ) -> None:
        """Pause for the wait that an error named, though it was no rate limit."""
        with self._lock:
            if admission is self.generation and self._state.core_is_closed:
                self._pause_locked(now, verdict, tag)
                self._health_locked(now)
        self._after_unlock(tag)

    def extend_pause(
        self,
        now: float,
        verdict: Verdict,
        entered_at: float,
        tag: CallTag | None = None,
        *,
        begun_by: float = FOREVER,
    ) -> None:
        """Extend a running pause to the longer wait that a rate limit names; change nothing else.

        For calls that are reported without an admission, because their key is blocked. If it is
        the other circuit of the key that is blocked, a pause begins here: the wait that the
        provider named outlasts that block. Only a pause is extended that had begun ``begun_by``.
        """
        if verdict.kind is not ErrorKind.RATE_LIMITED or verdict.retry_after is None:
            return
        with self._lock:
            self._advance_locked(now)
            state = self._state
            if (state.pause is not None and not state.pause.since > begun_by) or (
                state.is_at_rest and self.admits_since(self.generation) <= entered_at
            ):
                self._pause_locked(now, verdict, tag)
                self._health_locked(now)
        self._after_unlock(tag)

    def pause_for_headers(self, now: float, until: float) -> None:
        """Pause until a figure in headers covers a call again, or take such a pause back.

        Args:
            now: Monotonic seconds.
            until: When it does; a moment that is not after ``now`` takes the pause back, and one
                before the end of the pause shortens it. A wait that an error has named stands.
        """
        with self._lock:
            self._advance_locked(now)
            pause = self._state.pause
            if pause is None or not pause.of_headers or until > pause.until:
                if until > now:
                    verdict = Verdict(ErrorKind.RATE_LIMITED, HEADERS, until - now)
                    self._pause_locked(now, verdict, None, of_headers=True)
                    self._health_locked(now)
            elif until < pause.until:
                self._shorten_locked(now, pause, until)
                self._health_locked(now)
        self._after_unlock()

    def _shorten_locked(self, now: float, pause: RateLimitPause, until: float) -> None:
        """Let a pause of headers end earlier; that of an error which it outlasts goes on."""
        behind = pause.behind
        if behind is not None and behind.until > max(now, until):
            self._state.pause = behind
        elif until > now:
            pause.until = until
        else:
            self._state.pause = None
            self._note_locked(event_names.TargetUnbenched, now, reason="headers")
        self._publish_locked()

    def probed_well(self, now: float, began_at: float, *, answers: bool) -> None:
        """React to a health probe that was well; see the table in `probing`.

        Args:
            now: Monotonic seconds.
            began_at: When the probe began.
            answers: Whether it proves that calls are answered.
        """
        with self._lock:
            self._advance_locked(now)
            change = None
            if self.settings.mode != "forced_open":
                change = probing.change_when_well(self._state, began_at, answers=answers)
            if change is probing.Change.CLOSES:
                self._close_locked(now)
                self.telling.end(self, "automatic", "probe")
            elif change is probing.Change.HALF_OPENS:
                self._state.half_open_early(now)
                self._publish_locked()
            if change is not None:
                self._note_locked(event_names.TargetUnbenched, now, reason="probe")
                self._health_locked(now)
        self._after_unlock()

    def hold_open(self, now: float, began_at: float, until: float) -> bool:
        """React to a health probe that was not well; return False if the circuit is not open.

        Args:
            now: Monotonic seconds.
            began_at: When the probe began.
            until: Until when a bench lasts that this probe confirms.
        """
        with self._lock:
            self._advance_locked(now)
            opened = self._state.opened
            longest = self.settings.max_cooldown
            held_until = probing.held_until(self._state, began_at, until, longest)
            is_forced = self.settings.mode == "forced_open"
            if opened is not None and held_until > opened.until and not is_forced:
                opened.until = held_until
                self._publish_locked()
        self._after_unlock()
        return opened is not None

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
        """Open because one call used up its attempts, if the key answered no other call meanwhile.

        Args:
            admission: What the last attempt was admitted by.
            now: Monotonic seconds.
            verdict: What the last error means.
            attempts: How many attempts the call made.
            answered: What ``answered()`` returned when the first of them failed.
            cooldown: Cooldown of the policy in seconds; the circuit's own settings overrule it.
            tag: The call, for the event.
        """
        with self._lock:
            current = admission is self.generation and self._state.core_is_closed
            if current and self._answered_locked() == answered:
                self._open_locked(now, verdict, f"exhausted {attempts}/{attempts}", cooldown, tag)
                self._health_locked(now)
        self._after_unlock(tag)

    def bench(self, now: float, until: float, reason: str, by: str = "") -> None:
        """Bench by hand until a moment; infinity means until it is unbenched."""
        with self._lock:
            self._advance_locked(now)
            self._state.manual = manual = Bench(now, until, reason, None, manual=True, by=by)
            self.telling.bench(self, "manual", manual, now)
            self._note_bench_locked(now, None, reason, "manual", until, by=by)
            self._publish_locked()
            self._health_locked(now)
        self._after_unlock()

    def tell_benches(self, now: float) -> None:
        """Tell other processes what this one has benched, since they have just come to be known."""
        with self._lock:
            self._advance_locked(now)
            manual, opened, pause = self._state.manual, self._state.opened, self._state.pause
            if manual is not None and manual.source == LOCAL:
                self.telling.bench(self, "manual", manual, now)
            if opened is not None and opened.source == LOCAL:
                self.telling.bench(self, "automatic", opened, now)
            if pause is not None and pause.source == LOCAL and not pause.of_headers:
                self.telling.bench(self, "pause", pause, now, named=pause.named)
        self._after_unlock()

    def wait_until_told(self) -> None:
        """Wait until a change that another thread is making is told; see `Telling.changes`."""
        with self._lock:
            pass

    def unbench(self, now: float, by: str = "") -> bool:
        """End every bench of this key, close its circuit and forget its failures in a row.

        Return whether it was benched. ``by`` names the operator in the event.
        """
        with self._lock:
            self._advance_locked(now)
            was_benched = not self._state.is_unblocked
            self._state.manual = self._state.pause = None
            if not self._state.core_is_closed:
                self._close_locked(now)
            self.consecutive = 0
            self.failed_probes = 0
            self.telling.end(self, None, "manual", by)
            if was_benched:
                self._note_locked(event_names.TargetUnbenched, now, reason="manual", by=by)
            self._publish_locked()
            self._health_locked(now)
        self._after_unlock()
        return was_benched

    def forget(self, now: float, *, deliver: bool = True) -> None:
        """Forget errors, benches and averages; a manual bench stays."""
        with self._lock:
            self._advance_locked(now)
            was_benched = self._state.opened is not None or self._state.pause is not None
            self._state.pause = None
            self._close_locked(now)
            self.telling.reset(self)
            self.failed_probes = 0
            self.last_error = None
            self.last_latency = None
            self.first_contents = None
            self._announced_until = NEVER
            if was_benched:
                self._note_locked(event_names.TargetUnbenched, now, reason="reset")
            self._publish_locked()
            self._health_locked(now)
        if deliver:
            self._after_unlock()

    def configure(self, settings: BreakerSettings, now: float, *, deliver: bool = True) -> bool:
        """Change the settings, keeping the state; return whether anything changed.

        Who changes several circuits at once calls `deliver` when all of them are changed.
        """
        with self._lock:
            is_changed = settings != self.settings
            if is_changed:
                self._configure_locked(settings, now)
        if deliver:
            self._after_unlock()
        return is_changed

    def deliver(self) -> None:
        """Deliver what is waiting; called without the lock."""
        self._after_unlock()

    def suspend(self, *, suspended: bool) -> None:
        """Take the circuit out of use while another state of the process is in force, or back."""
        with self._lock:
            self.suspended = suspended
            self._publish_locked()
            if suspended:
                self.shut_until = NEVER
        # Nothing is delivered here: what an observer raises would leave half of an exchange.

    def limit(self, *, is_limited: bool) -> None:
        """Let no attempt pass without asking, as long as the key has a limit."""
        with self._lock:
            self.is_limited = is_limited
            self._publish_locked()
        self._after_unlock()

    def after_fork(self) -> None:
        """Replace the locks that a thread of the parent may hold, and end its callers' leases.

        Called for a provider before its targets, which get its lock.
        """
        self._lock = threading.RLock() if self.provider is None else self.provider._lock
        self._given_back.clear()
        self._to_deliver.clear()
        self.outbox = Outbox(self.key)
        self._state.free_all()
        if self._look is not None:
            self._look = Look(self._look.ends_at)

    def emit(
        self,
        kind: event_names.EventName,
        now: float,
        /,
        tag: CallTag | None = None,
        **fields: Any,
    ) -> None:
        """Emit an event of this key. Called without the lock."""
        self.sink.emit(self.outbox, kind, now, tag, **fields)

    # Under the lock: what blocks the key.

    def _configure_locked(self, settings: BreakerSettings, now: float) -> None:
        if settings.window != self.settings.window:
            self.generation.resize(settings.window)
        self.settings = settings
        if settings.mode in ("disabled", "metrics_only"):
            # Neither mode rejects a caller, so automatic benches end here.
            self.telling.reset(self)
            self._state.pause = None
            if not self._state.core_is_closed:
                self._close_locked(now)
        self._unsettle_locked()
        if settings.slow_call is not None:
            self._unsettle_targets_locked()
        self._is_publishing = bool(self._children)  # they also compare with this slow_call
        self._publish_locked()
        self._health_locked(now)

    def _adopt_locked(self, target: Circuit) -> None:
        children = self._children
        # Collected targets are dropped whenever the number doubles: constant cost per target.
        if children and len(children) & (len(children) - 1) == 0:
            children[:] = [child for child in children if child() is not None]
            settled = self._settled_targets
            settled[:] = [child for child in settled if child() is not None]
        children.append(weakref.ref(target))

    def _targets_locked(self) -> list[Circuit]:
        """Return the targets of this provider; none for a target."""
        return [target for child in self._children if (target := child()) is not None]

    def _block_locked(self) -> Block | None:
        if self.settings.mode == "forced_open":
            return Block(self.key, "forced_open", None, manual=True)
        return self._state.block(self.key)

    def _may_block_locked(self) -> bool:
        """Return whether a result may open or pause the circuit.

        A call may be running when an operator disables its circuit, so each way to open or to
        pause asks this when the result comes.
        """
        return self.settings.mode != "disabled"

    def _admit_locked(self, now: float, lease_seconds: float) -> Admission | Block:
        block = self._block_locked()
        if block is not None:
            return block
        if self._state.half is not None:
            return self._take_locked(self._state.half, now, lease_seconds)
        return self._closed_locked(now)

    def _closed_locked(self, now: float) -> Generation:
        """Return the admission while nothing blocks; those of a disabled circuit are not read."""
        if self.settings.mode != "disabled":
            return self.generation
        if self._uncounted is None:
            self._uncounted = Generation(now, self.settings.window, self.serial)
            self._uncounted.check_after = FOREVER
        return self._uncounted

    def _take_back_locked(self) -> None:
        """End the leases that were given back to this provider and its targets."""
        given_back = self._given_back
        while given_back:
            circuit, lease = given_back.pop()
            circuit._state.give_back(lease)

    def _heal_locked(self, now: float) -> None:
        """Do what was left to the next holder of the lock."""
        if self._given_back:
            self._take_back_locked()
        # A KeyboardInterrupt, or an error of a signal handler, may have come between a change
        # and its publication: then every call would be admitted and none counted from then on.
        provider = self.provider
        if provider is not None and (
            provider._is_publishing
            or (provider._look is not None and provider._ends_look_locked(now))
        ):
            provider._publish_locked()
        if (
            (self._look is not None and self._ends_look_locked(now))
            or self._is_publishing
            or (
                (self.slot is not None or self.limited_slot is not None)
                and (self.is_nested or not self._state.is_at_rest)
            )
        ):
            self._publish_locked()

    def _ends_look_locked(self, now: float) -> bool:
        """End a look that is over; return whether there was one."""
        if self._look is None or not self._look.is_over(now):
            return False
        self._look = None
        return True

    def _look_again_locked(self, now: float) -> None:
        """Look for nested guards once in a window, at the calls of this provider's targets, too."""
        if now < self._look_after or self.is_nested:
            return
        self._look_after = now + self.settings.window
        self._look = Look(self._look_after)
        self._publish_locked()

    def _advance_locked(self, now: float) -> None:
        """End the benches whose time is over; to become half-open is not to recover."""
        self._heal_locked(now)
        if self._state.expire(now):
            if self._state.is_unblocked and self._state.core_is_closed:
                self._note_locked(event_names.TargetUnbenched, now, reason="expired")
            self._publish_locked()
            self._health_locked(now)

    def _publish_locked(self) -> None:
        """Put into `slot` and `shut_until` what the healthy path may rely on, here and below."""
        provider = self.provider
        state, forced = self._state, self.settings.mode == "forced_open"
        shut_until = FOREVER if forced else state.until()
        closed = state.core_is_closed and state.is_unblocked and not forced
        if provider is not None:
            shut_until = max(shut_until, provider.shut_until)
            closed = closed and provider.limited_slot is not None
        limits = (self.settings.slow_call, provider and provider.settings.slow_call)
        self.generation.slow_above = min((each for each in limits if each), default=FOREVER)
        is_shut = not closed or self.suspended or self.is_nested or self._look is not None
        is_news = (
            is_shut != (self.limited_slot is None)
            or (is_shut or self.is_limited) != (self.slot is None)
            or shut_until != self.shut_until
        )
        if self._children and is_news:
            self._is_publishing = True
        self.shut_until = shut_until
        open_to = None if is_shut else self._closed_locked(self.generation.started_at)
        self.limited_slot = open_to
        self.slot = None if self.is_limited else open_to
        if self._is_publishing:
            for child in self._targets_locked():
                child._publish_locked()
            self._is_publishing = False
        if is_news:  # last, so that who reads it first has read what was published before
            changes.latest = object()

    def _unsettle_locked(self) -> None:
        """Let the next success be looked at."""
        self.generation.unsettle()

    def _unsettle_targets_locked(self) -> None:
        """Let the next success of each target be looked at; costs what settling them has cost."""
        settled = self._settled_targets
        while settled:
            target = settled.pop()()
            if target is not None:
                target._is_listed = False
                target._unsettle_locked()

    # Under the lock: results.

    def _is_slow(self, seconds: float) -> bool:
        return self.settings.slow_call is not None and seconds >= self.settings.slow_call

    def _success_locked(self, now: float, seconds: float, response_time: float) -> None:
        provider = self.provider
        above = provider is not None and provider._is_slow(response_time)
        self.generation.success(now, seconds, slow=self._is_slow(response_time), slow_above=above)
        if provider is not None and provider.known_status == "degraded":
            self.generation.settle(now)
            self._look_at_provider_locked(now)

    def _count_error_locked(self, now: float, verdict: Verdict, seconds: float) -> Counts:
        slow_call, provider = self.settings.slow_call, self.provider
        counts = self.generation.error(now, slow=slow_call is not None and seconds >= slow_call)
        last = self.last_error
        if last is None or last.kind is not verdict.kind or last.reason != verdict.reason:
            self.last_error = LastError(verdict.kind, verdict.reason)
        if provider is not None and provider.known_status == "healthy":
            self._look_at_provider_locked(now)
        return counts

    def _error_locked(self, now: float, verdict: Verdict, seconds: float) -> Counts:
        counts = self._count_error_locked(now, verdict, seconds)
        self.generation.unsettle()
        if verdict.reason != "hung" and verdict.kind is not ErrorKind.RATE_LIMITED:
            if self._settled_targets:
                self._unsettle_targets_locked()
            self.consecutive += 1
        if self.failed_probes:
            self._lower_escalation_locked(now)
        return counts

    def _failed_locked(self, now: float, verdict: Verdict, seconds: float) -> Counts | None:
        """Count what `failure` was told while closed; return the counts that an error changed.

        A bad answer is not among those: it is counted in the share of bad answers alone.
        """
        if verdict.kind is ErrorKind.BAD_RESPONSE and self.settings.bad_rate is not None:
            self.generation.bad_answer(now, verdict.reason)
            self.generation.unsettle()
            if not verdict.harms_health:
                return None
        return self._error_locked(now, verdict, seconds)

    def _answers_locked(self, now: float) -> tuple[int, int]:
        """Return ``(bad answers, all answers)`` in the window, as far as bad ones are counted."""
        return (0, 0) if self.settings.bad_rate is None else self.generation.answers(now)

    def _look_at_provider_locked(self, now: float) -> None:
        """Note a change of the provider's health that a result of this target has caused."""
        provider = self.provider
        if provider is not None:
            provider._health_locked(now)
            if provider.outbox.pending:
                self._to_deliver.append(provider)

    def _lower_escalation_locked(self, now: float) -> None:
        # Each healthy window lowers the escalation by one; computed when it next matters.
        if not self.failed_probes:
            return
        healthy_windows = int((now - self.healthy_since) / self.settings.window)
        self.failed_probes = max(0, self.failed_probes - healthy_windows)
        self.healthy_since = now

    def _answered_locked(self) -> int:
        unsettled = sum(target.generation.unsettled for target in self._targets_locked())
        return self.generation.n + unsettled

    def _settle_targets_locked(self, now: float) -> None:
        """Make the counts of a provider exact; asks every target."""
        for target in self._targets_locked():
            target.generation.settle(now)

    def _settle_locked(self, now: float, counts: Counts) -> None:
        """Decide how many of the next successes need only to be counted."""
        provider = self.provider
        total, errors, slow = counts
        free = FOREVER
        if (errors or slow) and total < self.settings.min_calls:
            free = self.settings.min_calls - 1 - total  # the one after these may open it
        bad, answers = self._answers_locked(now)
        if bad and answers < self.settings.min_calls:
            free = min(free, self.settings.min_calls - 1 - answers)
        if self.known_status != "healthy":
            # The last one before the share of errors is small enough is looked at, too: a share
            # is not an exact number.
            free = min(free, int(errors / triggers.DEGRADED_SHARE) - 1 - total)
        if (
            not window.LOCK_FREE
            or self.consecutive
            or (provider is not None and provider.consecutive)
            or (self.known_status != "healthy" and self._children)
        ):
            free = 0.0
        if free > 0.0 and provider is not None and not self._is_listed:
            self._is_listed = True
            provider._settled_targets.append(weakref.ref(self))
        self.generation.let_rest(now, max(0.0, free))

    def _latency_locked(self, now: float) -> float | None:
        latency = self.generation.latency(now)
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
        """Open if a trigger says so; ``counts`` are those of the window, if they are known.

        The targets of a provider are asked for exact counts only if a trigger could say so:
        successes that they did not settle yet make its total larger, which only lowers a rate.
        """
        if verdict is not None and verdict.kind in AT_ONCE:
            self._open_locked(now, verdict, verdict.kind.value, cooldown, tag)
            return
        settings = self.settings
        total, errors, slow = self.generation.counts(now) if counts is None else counts
        bad, answers = self._answers_locked(now)
        if self._children:
            enough = max(total, settings.min_calls), errors, slow
            enough_answers = bad, max(answers, settings.min_calls)
            if triggers.trigger(settings, self.consecutive, *enough, *enough_answers) is None:
                return
            self._settle_targets_locked(now)
            total, errors, slow = self.generation.counts(now)
            bad, answers = self._answers_locked(now)
        why = triggers.trigger(settings, self.consecutive, total, errors, slow, bad, answers)
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
        if not self._may_block_locked():
            return
        self._lower_escalation_locked(now)
        bad = self.generation.bad
        if why.startswith("bad_rate") and bad is not None:
            kind, reason = ErrorKind.BAD_RESPONSE, bad.reason
        elif verdict is not None:
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
        if kind is ErrorKind.BAD_RESPONSE:
            self.last_error = LastError(kind, reason)
        until = now + length
        if self._state.opened is not None:
            until = max(until, self._state.opened.until)
        self._state.opened = opened = OpenState(now, until, reason, kind, first)
        self._state.half = None
        self.telling.bench(self, "automatic", opened, now, trigger=why)
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
            return self.settings.memory_pressure_cooldown
        return triggers.bench_length(cooldown, longest, self.failed_probes, self.rng)

    def _pause_locked(
        self, now: float, verdict: Verdict, tag: CallTag | None, *, of_headers: bool = False
    ) -> None:
        """Bench for the wait that the provider named; extended, never shortened."""
        if not self._may_block_locked():
            return
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
            RateLimitPause(
                now, until, verdict.reason, verdict.kind, named=named, of_headers=of_headers
            ),
            self._state.pause,
        )
        grows_by = FOREVER
        if old is not None:
            grows_by = until - old.until
            if grows_by <= 0.0:
                old.named = old.named or named
                old.keep_behind(new)
                return
            new.extends(old)
        self._state.pause = new
        # The rate limits of a burst name the same wait, each a moment later.
        if grows_by >= NOTICEABLE:
            if not of_headers:  # each process reads those of its own answers
                self.telling.bench(
                    self, "pause", new, now, trigger=verdict.kind.value, named=new.named
                )
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
        """Mode ``metrics_only``: emit it once for as long as the bench would have lasted."""
        if now < self._announced_until:
            return
        self._announced_until = until
        self._note_bench_locked(now, kind, reason, why, until, verdict, tag, enforced=False)

    def _close_locked(self, now: float) -> None:
        """Start a generation without counts, so that old errors cannot open the circuit again."""
        self._settle_targets_locked(now)
        self._latency_locked(now)
        self.generation.settle(now)
        self._state.opened = self._state.half = None
        self._state.has_failed_probe = False
        self.consecutive = 0
        self.healthy_since = now
        above = None if self.provider is None else self.provider.generation
        self.generation = Generation(now, self.settings.window, self.serial, above)
        for target in self._targets_locked():
            target.generation.above = self.generation
        self._publish_locked()

    # Under the lock: leases.

    def _lease_until(self, now: float, lease_seconds: float, cooldown: float) -> float:
        if self.settings.probe_lease is not None:
            return now + self.settings.probe_lease
        usual = 0.0 if self.last_latency is None else self.last_latency
        return now + max(lease_seconds, cooldown, 10.0 * usual)

    def _take_locked(
        self, half: HalfOpenState, now: float, lease_seconds: float
    ) -> Admission | Block:
        if not self._state.has_lease(half, now, self.settings.probes):
            return self._probes_taken(half, now)
        self._latency_locked(now)
        lease = Lease(half, self._lease_until(now, lease_seconds, half.cooldown))
        half.leases = [*half.leases, lease]
        return lease

    def _probes_taken(self, half: HalfOpenState, now: float) -> Block:
        until = half.taken_until if now < half.taken_until else None
        return Block(self.key, "probes taken", until)

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
            self.telling.end(self, "pause", "recovered")
            self._recovered_locked(now)
            return True
        if isinstance(state, OpenState):
            # A last resort that was answered counts as a probe.
            self._state.half = state_half = HalfOpenState(state.cooldown, now)
            self._state.opened = None
            state = state_half
        state.successes += 1
        if state.successes >= self.settings.successes_to_close:
            self._close_locked(now)
            self.telling.end(self, "automatic", "recovered")
            self._recovered_locked(now)
        self._publish_locked()
        return True

    def _recovered_locked(self, now: float) -> None:
        if self._state.is_unblocked:
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
        if self._state.core_is_closed:
            self._failed_locked(now, verdict, seconds)
        elif verdict.harms_health or verdict.kind is ErrorKind.RATE_LIMITED:
            self._count_error_locked(now, verdict, seconds)
        if not isinstance(state, HalfOpenState):
            # A last resort does not lengthen a bench, unless the provider names a new reason.
            if verdict.kind is ErrorKind.RATE_LIMITED and verdict.retry_after is not None:
                self._pause_locked(now, verdict, tag)
            elif verdict.kind is ErrorKind.AUTH_DEAD:
                self._open_locked(now, verdict, verdict.kind.value, cooldown, tag)
            return
        self.consecutive += 1
        self.failed_probes += 1
        self._state.has_failed_probe = True
        self.healthy_since = now
        self._open_locked(now, verdict, "probe failed", state.cooldown, tag)
        if verdict.kind is ErrorKind.RATE_LIMITED:
            self._pause_locked(now, verdict, tag)

    # Health and events.

    def _health_locked(self, now: float, counts: Counts | None = None) -> None:
        new = self._status_locked(now, counts)
        if new == "degraded" != self.known_status and self._children:
            # Successes that targets did not settle yet may make the share of errors smaller.
            self._settle_targets_locked(now)
            new = self._status_locked(now)
        if new != self.known_status:
            self._note_locked(event_names.HealthChanged, now, old=self.known_status, new=new)
            self.known_status = new

    def _status_locked(self, now: float, counts: Counts | None = None) -> Status:
        """Return how the key is doing, by what is settled."""
        # What has a slot is neither benched nor forced open.
        down = self.limited_slot is None and (
            not self._state.is_unblocked or self.settings.mode == "forced_open"
        )
        total, errors, _ = self.generation.counts(now) if counts is None else counts
        if self._children:
            errors += self.generation.errors_of_targets(now)
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
        **more: str,
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
            **more,
        )

    def _note_locked(
        self,
        kind: event_names.EventName,
        now: float,
        /,
        tag: CallTag | None = None,
        **fields: Any,
    ) -> None:
        # Whether an observer listens is not asked here: the log's answer is foreign code.
        self.outbox.add(Fact(kind, now, tag, fields))

    def _after_unlock(self, tag: CallTag | None = None, cause: Outbox | None = None) -> None:
        """Do what must not be done under the lock: keep a benched circuit, deliver events."""
        keep = self.keep
        if keep is not None and not self._state.is_unblocked:
            self.keep = None
            keep(self)
        if self.telling.changes:
            self.telling.wake()
        if self.outbox.pending or self._to_deliver or cause is not None:
            self._deliver(tag, cause)

    def _deliver(self, tag: CallTag | None, cause: Outbox | None) -> None:
        to_deliver = self._to_deliver
        # A signal handler may have come while its thread held the lock. That thread delivers
        # the handler's events, too, when it has released the lock.
        if self._lock._is_owned():  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]  # not in the stubs; threading.Condition asks it, too
            to_deliver.append(self)
            return
        if cause is not None and cause is not self.outbox:
            self.sink.deliver(cause, tag)  # the failed attempt, before the bench that it causes
        self.sink.deliver(self.outbox, tag)
        while to_deliver:
            try:
                circuit = to_deliver.pop()
            except IndexError:  # another thread has just taken it
                return
            circuit.sink.deliver(circuit.outbox, tag)
