"""`list_benched`, `bench_model`, `health`, `reset` and the other functions for operators."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from resilient_llm._core.circuit.state import FOREVER, Bench
from resilient_llm._runtime.chains import named_keys
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.health import BenchedModel, TargetHealth
from resilient_llm._values.target import Target, normal_key

if TYPE_CHECKING:
    from resilient_llm._core.circuit.circuit import Circuit


def list_benched() -> list[BenchedModel]:
    """Return the keys that are benched in this process, sorted by key."""
    runtime.begin_sharing()
    now = runtime.clock()
    benched = [(circuit, circuit.bench_now(now)) for circuit in runtime.registry.circuits()]
    return [_row(circuit, bench, now) for circuit, bench in benched if bench is not None]


def bench_model(
    spec: str | Target,
    until: datetime | timedelta | float | None = None,
    *,
    reason: str = "",
    by: str = "",
) -> None:
    """Bench a target, or with a key without a slash every target of a provider.

    A manual bench ends at its given end or by `unbench_model`, not by a successful call. A second
    bench of the same key replaces the first. If no chain has the key and a similar one exists, the
    log has a warning.

    Examples:
        >>> bench_model("groq", timedelta(hours=2), reason="status page: outage", by="ann")
        >>> is_benched("groq/llama-3.3-70b")
        True

    Args:
        spec: ``"provider/model"`` or ``"provider"``; it need not be in use yet.
        until: An aware datetime, a timedelta, seconds, or None for until unbenched.
        reason: A note for those who list benches, at most 200 characters. Control characters are
            kept, and escaped in the log and in messages.
        by: Who does it, at most 200 characters, for events, the log and `list_benched`.

    Raises:
        ValueError: If the moment is naive or past, the duration negative or not finite, or
            ``reason`` or ``by`` too long.
        ConfigurationError: If ``spec`` is not a key; it is also a ValueError.
    """
    key = normal_key(spec)
    check.note("reason", reason)
    check.note("by", by)
    now = runtime.clock()
    end = FOREVER if until is None else _end(until, now)
    if runtime.settings.logging and runtime.registry.find(key) is None:
        _warn_of_typo(key)
    runtime.registry.circuit(key).bench(now, end, reason, by)


def _warn_of_typo(key: str) -> None:
    """Log a warning if there are chains and none names a key."""
    named = named_keys()
    if not named or key in named:
        return
    import logging

    from resilient_llm._runtime.unused_keys import near_keys  # only for messages

    near = near_keys(key, named)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    logging.getLogger("resilient_llm").warning(
        "%s is benched, which no chain of this process names%s", key, hint
    )


def unbench_model(spec: str | Target, *, by: str = "") -> bool:
    """End the bench of a key, manual or not, and trust it again.

    Args:
        spec: ``"provider/model"`` or ``"provider"``.
        by: Who does it, at most 200 characters, for the event and the log.

    Returns:
        Whether that key was benched. A bench of its provider is another key.

    Raises:
        ConfigurationError: If ``spec`` is not a key, or ``by`` too long; it is also a ValueError.
    """
    check.note("by", by)
    circuit = runtime.registry.find(spec)
    if circuit is not None:
        runtime.reported.pop(circuit.key, None)  # a figure of 0 would go on refusing calls
    return circuit is not None and circuit.unbench(runtime.clock(), by)


def is_benched(spec: str | Target) -> bool:
    """Return whether a key or its provider is benched now.

    Raises:
        ConfigurationError: If ``spec`` is not a key.
    """
    key = normal_key(spec)
    runtime.begin_sharing()
    provider = runtime.registry.find(key.partition("/")[0])
    circuit = runtime.registry.find(key)
    now = runtime.clock()
    return any(each is not None and each.bench_now(now) is not None for each in (circuit, provider))


def health(expected: Iterable[str | Target] = ()) -> dict[str, TargetHealth]:
    """Return ``{key: its health}`` for every key seen or expected, sorted.

    Asking changes nothing: a key that is only expected is shown as it would begin, with its
    provider, and is not kept.

    Args:
        expected: Keys to show even if they have not been used yet.

    Raises:
        ConfigurationError: If one of them is not a key, or all are one bare text.
    """
    if isinstance(expected, str):
        raise ConfigurationError(
            "expected is one text: write a sequence of keys, such as ['groq/llama']"
        )
    wanted = {normal_key(spec) for spec in expected}
    runtime.begin_sharing()
    registry = runtime.registry
    circuits = {circuit.key: circuit for circuit in registry.circuits()}
    providers = {_provider_of(key) for key in wanted}
    for key in (wanted | providers) - circuits.keys():
        circuits[key] = registry.look(key)
    now = runtime.clock()
    checked_at = runtime.moment(now)
    return {
        key: _health(circuit, circuits.get(_provider_of(key)), now, checked_at)
        for key, circuit in sorted(circuits.items())
    }


def _provider_of(key: str) -> str:
    """Return the key of a key's provider, with the account; of a provider the key itself."""
    return key.partition("/")[0]


def reset() -> None:
    """Reset counts, states and automatic benches. Manual benches stay."""
    runtime.budgets.forget()
    runtime.forget_figures()
    runtime.limits.forget()
    runtime.reported = {}
    runtime.registry.settle_limits()
    runtime.unbind_all()
    runtime.registry.forget()  # last: its events may interrupt it


def _health(
    circuit: Circuit, provider: Circuit | None, now: float, checked_at: datetime
) -> TargetHealth:
    provider = circuit.provider or provider  # what is only looked at has none
    benched, bench = circuit, circuit.bench_now(now)
    if bench is None and provider is not None:
        benched, bench = provider, provider.bench_now(now)
    state = circuit.state(now)
    total, errors = circuit.numbers(now)
    return TargetHealth(
        status=circuit.status(now) if bench is None else "down",
        state=state,
        error_rate=errors / total if total else 0.0,
        latency=circuit.average_latency(now),
        total=total,
        errors=errors,
        consecutive_failures=circuit.consecutive,
        last_error=circuit.last_error,
        checked_at=checked_at,
        benched=None if bench is None else _row(benched, bench, now),
        first_content=circuit.first_content(now),
    )


def _row(circuit: Circuit, bench: Bench, now: float) -> BenchedModel:
    ends = bench.until != FOREVER
    return BenchedModel(
        model=circuit.key,
        until=runtime.steady_moment(bench.until) if ends else None,
        remaining=max(0.0, bench.until - now) if ends else None,
        since=runtime.steady_moment(bench.since),
        consecutive_failures=circuit.consecutive,
        manual=bench.manual,
        reason=bench.reason,
        kind=bench.kind,
        by=bench.by,
        source=bench.source,
    )


def _end(until: Any, now: float) -> float:
    """Return the monotonic moment for what was given as the end of a bench."""
    allowed = "write an aware datetime in the future, a timedelta, seconds, or None"
    if isinstance(until, datetime):
        if until.tzinfo is None or until.utcoffset() is None:
            raise ConfigurationError(f"until is a naive datetime: {allowed}")
        end = runtime.monotonic(until)
        if end <= now:
            raise ConfigurationError(f"until has passed already: {allowed}")
        return end
    duration = until.total_seconds() if isinstance(until, timedelta) else until
    try:
        return now + check.seconds("until", duration, zero=True)
    except ConfigurationError:
        raise check.refuse("until", until, allowed.removeprefix("write ")) from None


ListBenched = list_benched
BenchModel = bench_model
UnbenchModel = unbench_model
IsBenched = is_benched

__all__ = [
    "BenchModel",
    "IsBenched",
    "ListBenched",
    "UnbenchModel",
    "bench_model",
    "health",
    "is_benched",
    "list_benched",
    "reset",
    "unbench_model",
]
