"""`configure` and `settings`: change and read the process-wide defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict, Unpack

from resilient_llm._runtime.chains import named_keys, named_tags
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import checks as check
from resilient_llm._values.adaptive import Adaptive
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.limit import Limit, merged_limits
from resilient_llm._values.money import Budget, Price
from resilient_llm._values.policy import Hedge, OnDown, OnError, OnUnknown, WhenAllBenched
from resilient_llm._values.settings import BreakerOptions, OnMemoryPressure, Settings
from resilient_llm._values.sticky import Sticky
from resilient_llm._values.stream_policy import StreamPolicy
from resilient_llm._values.target import Target
from resilient_llm._values.tool_loop import Action, ToolLoop
from resilient_llm._values.verdict import Verdict


class Changes(TypedDict, total=False):
    """Keywords of ``configure``; None takes an option of ``failover`` back."""

    attempts: int | None
    max_attempts: int | None
    backoff: Any
    timeout: float | None
    attempt_timeout: float | None
    cooldown: float | None
    strategy: str | Sticky | Callable[..., Iterable[Target]] | None
    adaptive: bool | Adaptive | None
    hedge: Hedge
    max_hedges: int | None
    tool_loop: Action | ToolLoop | None
    reject: Callable[[Any], bool | str | ErrorKind | Verdict | None] | None
    on_request_error: OnError | None
    on_content_policy: OnError | None
    on_unknown: OnUnknown | None
    on_down: OnDown | None
    when_all_benched: WhenAllBenched | None
    reraise: bool | None
    stream: StreamPolicy | None
    breakers: Mapping[str, BreakerOptions | None]
    retry_budget: float | None
    max_wait: float
    on_memory_pressure: OnMemoryPressure
    memory_pressure_cooldown: float
    prices: Mapping[str, tuple[float, float] | Price | None]
    budgets: Sequence[Budget]
    limits: Mapping[str, Limit | None]
    listen: bool
    logging: bool


def configure(**changes: Unpack[Changes]) -> None:
    """Change process-wide defaults, for calls that start afterwards, of all decorated functions.

    Examples:
        >>> configure(attempts=2, timeout=30.0)   # for policies that do not name them
        >>> configure(attempts=None)              # built-in again

    Args:
        **changes: The options of `failover` except ``chain``, ``classify``, ``observers``,
            ``needs`` and ``tokens``, for policies that do not name them; None takes one back.
            ``breakers``, ``{"*" or key: {option: value}}``, merged by name; None instead of
            the options takes back what was configured for that key.
            ``retry_budget=0.2``, retries as a share of first attempts, None for no limit;
            ``max_wait=60.0`` seconds; ``on_memory_pressure="skip"``, what a server that is out of
            memory means: a failure and a bench of ``memory_pressure_cooldown=120.0`` seconds, 10
            to 3600, which does not grow; ``"warn"`` only tells, ``"off"`` takes the error for
            ``transient``; ``prices``, ``{target, provider or "*": (input, output)}`` in
            USD per million tokens, or a `Price` each, merged by key, None takes one back;
            ``limits``, ``{target, provider, "tag:…" or "*": Limit(…)}``, merged by key, None takes
            one back;
            ``budgets``, a list of `Budget`, which replaces the one before, and whose spending is
            kept in the memory of this process; ``listen=True``, whether headers in which providers
            report their limits are read; ``logging=True``.

    Raises:
        ConfigurationError: If a name is unknown or a value is out of range; nothing is changed.
    """
    runtime.configure(dict(changes))
    limits = changes.get("limits")
    if limits and runtime.settings.logging:
        _warn_of_typos(limits)
    if runtime.reported and not runtime.settings.listen:
        from resilient_llm._runtime.hearing import hearing

        hearing.stop()


def _warn_of_typos(limits: Mapping[str, Limit | None]) -> None:
    """Log one warning if there are chains and none has what some of these keys name."""
    named = named_keys()
    if not named:
        return
    known = named | {f"tag:{tag}" for tag in named_tags()} | {"*"}
    given = merged_limits({}, limits)
    unknown = sorted(given.keys() - known)
    if not unknown:
        return
    import logging

    near = sorted({each for key in unknown for each in check.near_names(key, known)})
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    logging.getLogger("resilient_llm").warning(
        "limits of %s are of no target in a chain of this process%s", ", ".join(unknown), hint
    )


def settings() -> Settings:
    """Return a frozen snapshot of the process-wide defaults."""
    return runtime.settings
