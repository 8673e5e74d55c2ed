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
    """Change process-wide defaults, for calls that start afterwards, of all decorated functions.

    Examples:
        >>> configure(attempts=2, timeout=30.0)   # for policies that do not name them
        >>> configure(attempts=None)              # built-in again

    Args:
        **changes: The options of `failover` except ``chain``, ``classify``, ``observers``,
            ``needs``, ``tokens`` and ``usage``, for policies that do not name them; None takes
            one back.
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
            report their limits are read; ``logging=True``;
            ``state=None``, through which store benches and spending are shared between processes:
            a URL (``sqlite:///path``, ``redis://host:port/0``, ``rediss``, ``unix``, ``valkey``,
            ``valkeys``) or a `Store` such as ``RedisStore(client)``; ``state_options``,
            ``{"namespace": "resilient_llm", "poll": 1.0, "on_corrupt": "replace"}`` of a URL,
            merged by name; ``state_timeout=0.25`` seconds that a caller waits for the store at
            most, 0.001 to 60; ``on_store_down="local"``, or ``"refuse"``, what budgets do while
            it does not answer; ``state_name``, what other processes see as the source. Nothing is
            connected before the first call or question. ``profile``, the name of a profile of
            `resilient_llm.chains` that holds for the process; None takes that back, and then the
            one holds that a configuration file selects, if it does.

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
    """Do what is left to do after a change of the defaults: warn of misspelt keys, stop to listen.

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
