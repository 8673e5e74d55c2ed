"""What a change of another process does to a circuit of this one.

A bench of another process is a bench of its layer, as if it had happened here, but that it counts
no failure. The mirror has decided what holds; here it is done under the circuit's lock.

The mirror may not know yet what the circuit has done last. Then what it says is left: when it
learns that, it says again what still holds, or the circuit's own change is what holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.circuit.circuit import NOTICEABLE
from resilient_llm._core.circuit.state import FOREVER, Bench, OpenState, RateLimitPause
from resilient_llm._values import event_names
from resilient_llm._values.kinds import ErrorKind

if TYPE_CHECKING:
    from resilient_llm._core.circuit.circuit import Circuit
    from resilient_llm._core.sharing.records import SharedBench
    from resilient_llm._core.sharing.steps import ApplyBench, ApplyEnd


def apply_bench(circuit: Circuit, now: float, effect: ApplyBench) -> None:
    """Bench a circuit as another process has.

    Args:
        circuit: The circuit of the key.
        now: Monotonic seconds of this process.
        effect: What the mirror says of the bench.
    """
    bench = effect.bench
    until = FOREVER if effect.ends_in is None else now + effect.ends_in
    with circuit._lock:
        if bench.layer == "manual" and circuit.telling.awaits(circuit, "manual", None, ends=True):
            return
        circuit._advance_locked(now)
        circuit.seen = max(circuit.seen, effect.order)
        if bench.layer == "manual":
            since = now - bench.age
            circuit._state.manual = Bench(
                since, until, bench.reason, None, manual=True, by=bench.by, source=bench.source
            )
            _note_locked(circuit, now, bench, until, is_news=effect.is_news)
        elif not effect.enforced:
            _note_locked(circuit, now, bench, until, is_news=effect.is_news, enforced=False)
        elif circuit.settings.mode == "enforce":
            # The settings may have changed since the mirror asked for them.
            apply = _pause_locked if bench.layer == "pause" else _open_locked
            if apply(circuit, now, bench, until):
                _note_locked(circuit, now, bench, until, is_news=effect.is_news)
        circuit._publish_locked()
        circuit._health_locked(now)
    circuit._after_unlock()


def _note_locked(
    circuit: Circuit,
    now: float,
    bench: SharedBench,
    until: float,
    *,
    is_news: bool,
    enforced: bool = True,
) -> None:
    if not is_news:
        return
    is_manual = bench.layer == "manual"
    circuit._note_bench_locked(
        now,
        None if is_manual else bench.kind,
        bench.reason,
        "manual" if is_manual else bench.trigger,
        until,
        enforced=enforced,
        by=bench.by,
        source=bench.source,
    )


def _open_locked(circuit: Circuit, now: float, bench: SharedBench, until: float) -> bool:
    """Open, or stay open until the later end; return whether anybody has to know."""
    opened, kind = circuit._state.opened, bench.kind or ErrorKind.TRANSIENT
    if opened is not None and until <= opened.until:
        return False
    grows_by = FOREVER if opened is None else until - opened.until
    circuit._state.opened = new = OpenState(
        now if opened is None else opened.since,
        until,
        bench.reason,
        kind,
        circuit.settings.cooldown if opened is None else opened.cooldown,
    )
    new.source = bench.source
    circuit._state.half = None
    return grows_by >= NOTICEABLE


def _pause_locked(circuit: Circuit, now: float, bench: SharedBench, until: float) -> bool:
    """Pause, or stay paused until the later end; return whether anybody has to know."""
    state = circuit._state
    if state.opened is not None and until <= state.opened.until:
        return False
    kind = bench.kind or ErrorKind.RATE_LIMITED
    new, old = RateLimitPause(now, until, bench.reason, kind, named=bench.named), state.pause
    new.source = bench.source
    grows_by = FOREVER
    if old is not None:
        grows_by = until - old.until
        if grows_by <= 0.0:
            old.named = old.named or new.named
            old.keep_behind(new)
            return False
        new.extends(old)
    state.pause = new
    return grows_by >= NOTICEABLE


def apply_end(circuit: Circuit, now: float, end: ApplyEnd) -> None:
    """End what another process has ended.

    Args:
        circuit: The circuit of the key.
        now: Monotonic seconds of this process.
        end: What the mirror says of the end.
    """
    with circuit._lock:
        if circuit.telling.awaits(circuit, end.layer):
            return
        circuit._advance_locked(now)
        circuit.seen = max(circuit.seen, end.order)
        has_ended = {"manual": _end_manual, "pause": _end_pause, "automatic": _end_automatic}[
            end.layer
        ](circuit, now, end)
        if has_ended and circuit._state.is_unblocked:
            circuit._note_locked(
                event_names.TargetUnbenched,
                now,
                reason=end.reason,
                by=end.by,
                source=end.source,
            )
        circuit._publish_locked()
        circuit._health_locked(now)
    circuit._after_unlock()


def _end_manual(circuit: Circuit, now: float, end: ApplyEnd) -> bool:
    bench = circuit._state.manual
    if bench is None:
        return False
    if end.left:
        bench.until = min(bench.until, now + end.left)
        return False
    circuit._state.manual = None
    return True


def _end_pause(circuit: Circuit, now: float, end: ApplyEnd) -> bool:
    pause = circuit._state.pause
    if pause is None:
        return False
    if pause.of_headers:  # of an answer that came here; who ended the others has not seen it
        pause.behind = None
        return False
    if end.left:
        pause.until = min(pause.until, now + end.left)
        return False
    circuit._state.pause = None
    circuit.consecutive = 0
    return True


def _end_automatic(circuit: Circuit, now: float, end: ApplyEnd) -> bool:
    state = circuit._state
    if end.left is not None:
        if state.opened is not None:
            state.opened.until = min(state.opened.until, now + end.left)
            circuit._advance_locked(now)
        return False
    if end.reason == "manual":
        circuit.consecutive = circuit.failed_probes = 0
    if state.core_is_closed:
        return False
    circuit._close_locked(now)
    return True
