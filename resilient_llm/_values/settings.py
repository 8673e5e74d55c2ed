"""`Settings` and `BreakerSettings`: process-wide options and the default of each of them.

Frozen, and checked when built. Imports the standard library only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Final, Literal, TypedDict

from resilient_llm._values import checks as check
from resilient_llm._values.checks import unknown_names
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.exported import exported
from resilient_llm._values.keys import parse_key, provider_key, shown
from resilient_llm._values.limit import TAG, Limit, applied_limits, merged_limits
from resilient_llm._values.money import Budget, Price, budgets_of, given_price
from resilient_llm._values.policy import BUILT_IN, CHECKS, DEFAULTS, Defaults
from resilient_llm._values.state_options import (
    STATE_OPTIONS,
    OnStoreDown,
    merged_state_options,
    state_name_of,
)
from resilient_llm._values.stream_policy import StreamPolicy  # noqa: F401  # pyright: ignore[reportUnusedImport]  # a type of `Defaults`
from resilient_llm._values.target import Target, normal_key

Mode = Literal["enforce", "metrics_only", "disabled", "forced_open"]
MODES: Final = ("enforce", "metrics_only", "disabled", "forced_open")
OnMemoryPressure = Literal["skip", "warn", "off"]
_ON_MEMORY_PRESSURE: Final = ("skip", "warn", "off")

RATE_LIMIT_PAUSE: Final = 15.0
"""Seconds that a rate limit benches when the provider names no wait."""
MEMORY_PRESSURE_COOLDOWN: Final = 120.0
"""Seconds that a server that is out of memory is benched by default."""
_SHORTEST_MEMORY_PRESSURE_COOLDOWN: Final = 10.0
_LONGEST_MEMORY_PRESSURE_COOLDOWN: Final = 3600.0
LONGEST_HINT: Final = 3600.0
"""Seconds above which a provider's hint is cut: a typo in a header must not bench for days."""
LONGEST_TO_RETRY: Final = 60.0
"""Seconds of a rate limit's wait above which the same target is not worth trying again."""
SHORTEST_HUNG: Final = 10.0
"""Seconds below which a cancelled call never counts as hung, unless ``slow_call`` says so."""
MOST_KEYS: Final = 10_000
"""Keys above which healthy idle ones that nothing refers to are dropped."""


class BreakerOptions(TypedDict, total=False):
    """Options of ``breaker(name, **options)`` and of ``configure(breakers={name: options})``."""

    failures: int
    error_rate: float
    min_calls: int
    window: float
    slow_call: float | None
    slow_rate: float
    cooldown: float
    max_cooldown: float
    probes: int
    successes_to_close: int
    probe_lease: float | None
    bad_rate: float | None
    mode: Mode


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """How one circuit opens and recovers. Durations in seconds, shares in (0, 1]."""

    failures: int = 5
    error_rate: float = 0.5
    min_calls: int = 10
    window: float = 300.0
    slow_call: float | None = None
    slow_rate: float = 0.8
    cooldown: float = 30.0
    max_cooldown: float = 300.0
    probes: int = 1
    successes_to_close: int = 1
    probe_lease: float | None = None
    mode: Mode = "enforce"
    cooldown_is_own: bool = False
    """Whether somebody named a cooldown for this key, so that a policy's does not apply."""
    bad_rate: float | None = None
    memory_pressure_cooldown: float = MEMORY_PRESSURE_COOLDOWN
    """Bench of a server that is out of memory; the same for all keys, so no option of a breaker."""

    def __setstate__(self, state: Any) -> None:
        # Pickles of earlier releases hold the values of the fields that there were, in order.
        given = dict(zip([each.name for each in fields(self)], state, strict=False))
        for each in fields(self):
            object.__setattr__(self, each.name, given.get(each.name, each.default))


_OPTION_CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "failures": lambda name, value: check.whole(name, value, low=1),
    "error_rate": check.share,
    "min_calls": lambda name, value: check.whole(name, value, low=1),
    "window": check.seconds,
    "slow_call": lambda name, value: check.seconds(name, value, optional=True),
    "slow_rate": check.share,
    "cooldown": check.seconds,
    "max_cooldown": check.seconds,
    "probes": lambda name, value: check.whole(name, value, low=1),
    "successes_to_close": lambda name, value: check.whole(name, value, low=1),
    "probe_lease": lambda name, value: check.seconds(name, value, optional=True),
    "bad_rate": lambda name, value: None if value is None else check.share(name, value),
    "mode": lambda name, value: check.choice(name, value, MODES),
}


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a breaker, checked one by one and against each other.

    Raises:
        ConfigurationError: If a name is unknown or a value is out of range.
    """
    unknown_names("breaker", options, _OPTION_CHECKS)
    checked = {name: _OPTION_CHECKS[name](name, value) for name, value in options.items()}
    longest = checked.get("max_cooldown")
    if longest is not None and checked.get("cooldown", 0.0) > longest:
        raise ConfigurationError(
            f"max_cooldown={longest:g} is below cooldown={checked['cooldown']:g}: "
            "write a max_cooldown of at least that"
        )
    return checked


def breaker_settings(
    general: Mapping[str, Any],
    own: Mapping[str, Any],
    memory_pressure_cooldown: float = MEMORY_PRESSURE_COOLDOWN,
) -> BreakerSettings:
    """Return the settings of a key from checked options.

    Args:
        general: Those of all keys. A cooldown among them is weaker than a policy's.
        own: Those of this key, which are stronger.
        memory_pressure_cooldown: Seconds that a server that is out of memory is benched.
    """
    settings = BreakerSettings(
        **{**general, **own},
        cooldown_is_own="cooldown" in own,
        memory_pressure_cooldown=memory_pressure_cooldown,
    )
    if settings.cooldown > settings.max_cooldown:
        settings = replace(settings, max_cooldown=settings.cooldown)
    return settings


@exported
@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Defaults):
    """Process-wide defaults; ``settings()`` gives a snapshot, ``configure()`` changes them.

    It has one attribute for each option of ``failover`` that `configure` takes: the value for
    policies that do not name that option.

    Attributes:
        breakers: ``{key or "*": {option: value}}``, read-only.
        retry_budget: Retries on a provider as a share of the first attempts on it in the
            last 10 s, with a floor of 10; None for no limit.
        max_wait: Longest wait in seconds for a target to come back within a call.
        on_memory_pressure: What happens when a server is out of memory: ``"skip"`` counts a
            failure and benches, ``"warn"`` only emits, ``"off"`` takes it for ``transient``.
        memory_pressure_cooldown: How long ``"skip"`` benches in seconds, 10 to 3600; it does not
            grow.
        prices: ``{target, provider or "*": (input, output)}`` in USD per million tokens,
            or a `Price` each, read-only, for targets without a price.
        budgets: Caps on spending, a tuple of `Budget`. What is spent is kept in the memory of this
            process: another process, and the next one, starts from 0.
        limits: ``{target, provider, "tag:…" or "*": Limit}``, read-only.
        listen: Whether headers in which providers report their limits are read.
        logging: Whether the default observer logs to ``resilient_llm``.
        state: Where benches and spending are shared between processes: None for this process alone,
            a `Store`, or the URL of one, without a user and a password.
        state_options: ``{"namespace": …, "poll": …, "on_corrupt": …}`` of a store that a URL names,
            read-only.
        state_timeout: Seconds that a caller waits for the store at most.
        on_store_down: What budgets do while the store does not answer: ``"local"`` spends the share
            of this process, ``"refuse"`` nothing.
        state_name: What other processes see as the source of this one's changes; None for its host
            and its number.
        profile: The profile that holds here, or None.
    """

    breakers: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: MappingProxyType[str, Mapping[str, Any]]({})
    )
    retry_budget: float | None = 0.2
    max_wait: float = 60.0
    on_memory_pressure: OnMemoryPressure = "skip"
    memory_pressure_cooldown: float = MEMORY_PRESSURE_COOLDOWN
    prices: Mapping[str, tuple[float, float] | Price] = field(
        default_factory=lambda: MappingProxyType[str, tuple[float, float] | Price]({})
    )
    listen: bool = True
    logging: bool = True
    budgets: tuple[Budget, ...] = ()
    limits: Mapping[str, Limit] = field(default_factory=lambda: MappingProxyType[str, Limit]({}))
    state: Any = None
    state_options: Mapping[str, Any] = field(
        default_factory=lambda: MappingProxyType[str, Any](dict(STATE_OPTIONS))
    )
    state_timeout: float = 0.25
    on_store_down: OnStoreDown = "local"
    state_name: str | None = None
    profile: str | None = None

    def is_limited(self, key: str) -> bool:
        """Return whether a key, or its provider, has a limit."""
        if not self.limits:
            return False
        provider, account, _ = parse_key(key)
        return bool(applied_limits(self.limits, key, provider_key(provider, account)))

    def for_key(self, key: str, own: Mapping[str, Any]) -> BreakerSettings:
        """Return the breaker settings of a key whose guards named ``own``."""
        return breaker_settings(
            self.breakers.get("*", {}),
            {**self.breakers.get(key, {}), **own},
            self.memory_pressure_cooldown,
        )

    def changed(self, changes: Mapping[str, Any]) -> "Settings":
        """Return a copy with the changes; None takes an option of ``failover`` back.

        Raises:
            ConfigurationError: If a name is unknown or a value is out of range.
        """
        unknown_names("configure()", changes, [each.name for each in fields(self) if each.init])
        checked: dict[str, Any] = {}
        for name, value in changes.items():
            if name in DEFAULTS:
                checked[name] = (
                    getattr(BUILT_IN, name) if value is None else CHECKS[name](name, value)
                )
            elif name == "breakers":
                checked[name] = self._merged_breakers(value)
            elif name == "budgets":
                checked[name] = budgets_of(name, value)
            elif name == "limits":
                checked[name] = merged_limits(self.limits, value)
            elif name == "prices":
                checked[name] = self._merged_prices(value)
            elif name == "state_options":
                checked[name] = merged_state_options(self.state_options, value)
            else:
                checked[name] = _PROCESS_CHECKS[name](name, value)
        return replace(self, **checked)

    def __reduce__(self) -> tuple[Any, ...]:
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        values["prices"] = dict(self.prices)
        values["limits"] = dict(self.limits)
        values["breakers"] = {key: dict(options) for key, options in self.breakers.items()}
        values["state_options"] = dict(self.state_options)
        values["state"] = getattr(self.state, "url", self.state)  # a store belongs to its process
        return _rebuild, (values,)

    def __setstate__(self, state: Any) -> None:
        # Pickles of earlier releases hold the values of the four fields that there were.
        names = ("breakers", "retry_budget", "max_wait", "logging")
        values: dict[str, Any] = dict(zip(names, state, strict=True))
        rebuilt = _rebuild(values)
        for each in fields(self):
            object.__setattr__(self, each.name, getattr(rebuilt, each.name))

    def _merged_prices(self, given: Any) -> Mapping[str, tuple[float, float] | Price]:
        merged = dict(self.prices)
        for name, pair in check.mapping("prices", given).items():
            try:
                key = "*" if name == "*" else normal_key(name)
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"prices[{shown(name)}]: {error}; or '*' for all keys"
                ) from None
            _refuse_tag("prices", key)
            try:
                checked = given_price(pair)
            except ConfigurationError as error:
                raise ConfigurationError(f"prices[{shown(name)}]: {error}") from None
            if checked is None:
                merged.pop(key, None)
            else:
                merged[key] = checked
        return MappingProxyType(merged)

    def price_of(self, target: Target) -> tuple[float, float] | None:
        """Return ``(input, output)`` of a target: its own, else the configured price, else None.

        The target's entry comes before its provider's, an account's before that without it.
        """
        price = self._price_of(target)
        return (float(price.input), float(price.output)) if isinstance(price, Price) else price

    def _price_of(self, target: Target) -> tuple[float, float] | Price | None:
        if target.price is not None or not self.prices:
            return target.price
        for key in (target.key, target.spec, target.provider_key, target.provider, "*"):
            if key in self.prices:
                return self.prices[key]
        return None

    def _merged_breakers(self, given: Any) -> Mapping[str, Mapping[str, Any]]:
        merged = dict(self.breakers)
        for name, options in check.mapping("breakers", given).items():
            try:
                key = "*" if name == "*" else normal_key(name)
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"breakers[{shown(name)}]: {error}; or '*' for all keys"
                ) from None
            _refuse_tag("breakers", key)
            if options is None:
                merged.pop(key, None)
                continue
            added = checked_options(check.mapping(f"breakers[{name!r}]", options))
            merged[key] = MappingProxyType({**merged.get(key, {}), **added})
            checked_options(merged[key])
        return MappingProxyType(merged)


def _rebuild(values: dict[str, Any]) -> Settings:
    breakers: dict[str, Mapping[str, Any]] = {
        key: MappingProxyType(dict(options)) for key, options in values["breakers"].items()
    }
    prices = MappingProxyType(dict(values.get("prices", {})))
    given: dict[str, Any] = {
        **values,
        "breakers": MappingProxyType(breakers),
        "prices": prices,
        "limits": MappingProxyType(dict(values.get("limits", {}))),
        "state_options": MappingProxyType(dict(values.get("state_options", STATE_OPTIONS))),
    }
    return Settings(**given)


def _refuse_tag(name: str, key: str) -> None:
    """Refuse a tag where there is nothing of tags, since it would be taken for a provider."""
    if key.startswith(TAG):
        raise ConfigurationError(
            f"{name}[{shown(key)}] names a tag, which only limits and budgets have: write the "
            "targets or providers that have it"
        )


def _memory_pressure_cooldown(name: str, value: Any) -> float:
    low, high = _SHORTEST_MEMORY_PRESSURE_COOLDOWN, _LONGEST_MEMORY_PRESSURE_COOLDOWN
    return check.seconds_between(name, value, low, high)


def _retry_budget(name: str, value: Any) -> float | None:
    return None if value is None else check.number(name, value, low=0.0)


_PROCESS_CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "retry_budget": _retry_budget,
    "max_wait": lambda name, value: check.seconds(name, value, zero=True),
    "on_memory_pressure": lambda name, value: check.choice(name, value, _ON_MEMORY_PRESSURE),
    "memory_pressure_cooldown": _memory_pressure_cooldown,
    "listen": check.flag,
    "logging": check.flag,
    "state": lambda _, value: value,  # what makes a store of it checks it
    "state_timeout": lambda name, value: check.seconds_between(name, value, 0.001, 60.0),
    "on_store_down": lambda name, value: check.choice(name, value, ("local", "refuse")),
    "state_name": state_name_of,
}
