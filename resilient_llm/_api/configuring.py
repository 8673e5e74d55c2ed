"""`configure` and `settings`: change and read the process-wide defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypedDict, Unpack

from resilient_llm._runtime.profiles import settings_here
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.adaptive import Adaptive
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.limit import Limit
from resilient_llm._values.money import Budget, Price
from resilient_llm._values.policy import Hedge, OnDown, OnError, OnUnknown, WhenAllBenched
from resilient_llm._values.settings import BreakerOptions, OnMemoryPressure, Settings
from resilient_llm._values.state_options import OnStoreDown, StateOptions
from resilient_llm._values.sticky import Sticky
from resilient_llm._values.store import Store
from resilient_llm._values.stream_policy import StreamPolicy
from resilient_llm._values.target import Target
from resilient_llm._values.tool_loop import Action, ToolLoop
from resilient_llm._values.unchained import unchained
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
    prices: Mapping[str, tuple[float | Decimal, float | Decimal] | Price | None]
    budgets: Sequence[Budget]
    limits: Mapping[str, Limit | None]
    listen: bool
    logging: bool
    state: str | Store | None
    state_options: StateOptions | None
    state_timeout: float
    on_store_down: OnStoreDown
    state_name: str | None
    profile: str | None


def configure(**changes: Unpack[Changes]) -> None:
    """Change process-wide defaults for calls that start afterwards.

    They apply to every policy that does not name the option itself.

    Examples:
        >>> configure(attempts=2, timeout=30.0)   # for policies that do not name them
        >>> configure(attempts=None)              # built-in again

    Args:
        attempts: As in `failover`, like all options before ``breakers``; None takes one back.
        max_attempts: As in `failover`.
        backoff: As in `failover`.
        timeout: As in `failover`.
        attempt_timeout: As in `failover`.
        cooldown: As in `failover`.
        strategy: As in `failover`.
        adaptive: As in `failover`.
        hedge: As in `failover`.
        max_hedges: As in `failover`.
        tool_loop: As in `failover`.
        reject: As in `failover`.
        on_request_error: As in `failover`.
        on_content_policy: As in `failover`.
        on_unknown: As in `failover`.
        on_down: As in `failover`.
        when_all_benched: As in `failover`.
        reraise: As in `failover`.
        stream: As in `failover`.
        breakers: ``{key or "*": {option: value}}``, merged by name, with the options of `breaker`;
            None instead of the options takes back what was configured for that key.
        retry_budget: Retries as a share of first attempts, or None for no limit.
        max_wait: Seconds that a call waits at most for a target to come back.
        on_memory_pressure: What an error of a server that is out of memory means: ``"skip"``
            counts a failure and benches the target, ``"warn"`` emits an event only, ``"off"``
            treats the error as ``transient``.
        memory_pressure_cooldown: Seconds of the bench under ``"skip"``, 10 to 3600.
        prices: ``{target, provider or "*": (input, output)}`` in USD per million tokens, or a
            `Price` each, merged by key; None takes one back.
        budgets: A list of `Budget`, which replaces the list before. With ``state`` their spending
            is kept in the store, else in the memory of this process.
        limits: ``{target, provider, "tag:…" or "*": Limit(…)}``, merged by key; None takes one
            back.
        listen: Whether headers in which providers report their limits are read.
        logging: Whether events are written to the logger ``resilient_llm``.
        state: Store through which processes share benches and spending: a URL
            (``sqlite:///path``, ``redis://host:port/0``, ``rediss``, ``unix``, ``valkey``,
            ``valkeys``), a `Store` such as ``RedisStore(client)``, or None. Nothing is connected
            before the first call or question.
        state_options: ``{"namespace": …, "poll": …, "on_corrupt": …}`` of a URL, merged by name.
        state_timeout: Seconds that a caller waits for the store at most, 0.001 to 60.
        on_store_down: What budgets do while the store does not answer: ``"local"`` spends the
            share of this process, ``"refuse"`` spends nothing.
        state_name: What other processes see as the source of changes; None for host and process.
        profile: Name of the profile of `resilient_llm.chains` for the process; None takes it back,
            and then the profile applies that a configuration file selects.

    Raises:
        ConfigurationError: If a name is unknown or a value is out of range; nothing is changed.
    """
    wrong: ConfigurationError | None = None
    try:
        runtime.configure(dict(changes))
    except ConfigurationError as error:
        wrong = unchained(error)
    if wrong is not None:
        del changes  # of a store's URL, nothing leaves with the error
        try:
            raise wrong
        finally:
            del wrong  # its traceback refers to this frame
    heed_changes()


def heed_changes() -> None:
    """Do what is left to do after a change of the defaults: warn of misspelt keys, stop listening.

    Called without a lock.
    """
    if runtime.options_to_check:
        from resilient_llm._runtime.unused_keys import warn_of_misspelt_keys

        warn_of_misspelt_keys()
    if runtime.reported and not runtime.settings.listen:
        from resilient_llm._runtime.hearing import hearing

        hearing.stop()


def settings() -> Settings:
    """Return a frozen snapshot of the process-wide defaults, under the profile that holds here."""
    return settings_here()
