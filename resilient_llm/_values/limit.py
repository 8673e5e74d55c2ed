"""`Limit`, what one key may be asked for at most, and `configure(limits={…})`: checked and merged.

Imports the standard library only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.exported import exported
from resilient_llm._values.keys import check_key, shown
from resilient_llm._values.target import normal_key

Per = Literal["second", "minute", "hour", "day"]

_SECONDS: Final = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0}
_LONGEST: Final = 86_400.0
TAG: Final = "tag:"
"""How the key of a limit begins that is for the targets with a tag."""
OTHERS: Final = "*"
"""The key whose limit each provider key has that has no entry, each for itself."""


@exported
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Limit:
    """What a key may be asked for at most; for ``configure(limits={key: Limit(…)})``.

    Frozen, and checked when built. Two limits are equal if they allow the same:
    ``Limit(requests=60) == Limit(requests=60, per=60)``.

    Examples:
        >>> Limit(requests=60, burst=5)
        Limit(requests=60, burst=5)
        >>> Limit(max_concurrent=8, max_queued=100, queue_timeout=2.5)
        Limit(max_concurrent=8, max_queued=100, queue_timeout=2.5)

    Attributes:
        requests: Attempts that may begin in each period, 1 or more, or None.
        tokens: Tokens that may be used in each period, 1 or more, or None.
        per: Seconds of the period, above 0 to 86400; ``"second"``, ``"minute"``, ``"hour"`` and
            ``"day"`` may be written for them.
        burst: Requests that may begin at once after a quiet time, 1 or more; None for ``requests``.
        max_concurrent: Attempts in flight, 1 or more, or None.
        max_queued: Attempts that may wait for a place when ``max_concurrent`` are in flight, 0 or
            more.
        queue_timeout: Longest wait for a place in seconds, above 0; None until the deadline. Only
            with ``max_queued``.
        shared: Whether ``requests`` and ``tokens`` are counted over all processes of the store.
            `configure` refuses True without a store in Redis or Valkey.

    Raises:
        ConfigurationError: If there is no limit, a value is out of range, or an option is given
            without the limit that it belongs to.
    """

    requests: int | None = None
    tokens: int | None = None
    per: Per | float = "minute"
    burst: int | None = None
    max_concurrent: int | None = None
    max_queued: int = 0
    queue_timeout: float | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("requests", "tokens", "burst", "max_concurrent"):
            check.whole(name, getattr(self, name), low=1, optional=True)
        put(self, "per", _per(self.per))
        check.whole("max_queued", self.max_queued, low=0)
        timeout = check.seconds("queue_timeout", self.queue_timeout, optional=True)
        put(self, "queue_timeout", timeout)
        check.flag("shared", self.shared)
        self._check_together()

    def _check_together(self) -> None:
        rates = self.requests is not None or self.tokens is not None
        if not rates and self.max_concurrent is None:
            raise ConfigurationError(
                "Limit() limits nothing: write requests=, tokens= or max_concurrent="
            )
        for name, needed, is_given in (
            ("per", "requests= or tokens=", rates),
            ("burst", "requests=", self.requests is not None),
            ("max_queued", "max_concurrent=", self.max_concurrent is not None),
            ("queue_timeout", "max_concurrent= and max_queued=", self.max_queued > 0),
            ("shared", "requests= or tokens=", rates),
        ):
            value = getattr(self, name)
            if not is_given and value != _DEFAULTS[name]:
                raise ConfigurationError(
                    f"{name}={value!r} is given without its limit: write {needed} as well"
                )

    @property
    def seconds(self) -> float:
        """Seconds of the period."""
        return float(self.per)

    def __repr__(self) -> str:
        given = {name: getattr(self, name) for name in _DEFAULTS}
        shown = ", ".join(
            f"{name}={_word(value) if name == 'per' else repr(value)}"
            for name, value in given.items()
            if value != _DEFAULTS[name]
        )
        return f"Limit({shown})"


_DEFAULTS: Final[dict[str, Any]] = {each.name: each.default for each in fields(Limit)}
_DEFAULTS["per"] = _SECONDS["minute"]


def _per(value: Any) -> float:
    if isinstance(value, str):
        return _SECONDS[check.choice("per", value, _SECONDS, also="seconds, above 0 to 86400")]
    seconds = check.seconds("per", value)
    return check.number("per", seconds, above=0.0, high=_LONGEST)


def _word(seconds: float) -> str:
    return next((repr(word) for word, each in _SECONDS.items() if each == seconds), repr(seconds))


def merged_limits(before: Mapping[str, Limit], given: Any) -> Mapping[str, Limit]:
    """Return ``{key: limit}`` with the changes of ``configure(limits=…)``, read-only.

    Args:
        before: The limits in force.
        given: ``{a target, a provider key, "tag:…" or "*": Limit, or None to remove it}``.

    Raises:
        ConfigurationError: If a key or a limit is not allowed.
    """
    merged = dict(before)
    for name, limit in check.mapping("limits", given).items():
        key = _limit_key(name)
        if limit is None:
            merged.pop(key, None)
        elif isinstance(limit, Limit):
            merged[key] = limit
        else:
            raise ConfigurationError(
                f"limits[{shown(name)}] of type {type(limit).__name__} is not allowed: "
                "write Limit(…), or None to remove it"
            )
    return MappingProxyType(merged)


def _limit_key(name: str) -> str:
    stripped = name.strip()
    if stripped == OTHERS:
        return OTHERS
    if stripped.startswith(TAG):
        tag = stripped.removeprefix(TAG).strip()
        if tag:
            return check_key(TAG + tag)
        raise ConfigurationError(f"limits[{shown(name)}] names no tag: write 'tag:eu'")
    try:
        return normal_key(name)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"limits[{shown(name)}]: {error}; or 'tag:…', or '*' for all providers"
        ) from None


class Applied(NamedTuple):
    """One limit that an attempt must pass.

    Attributes:
        key: Whose bucket and count it is; all attempts with this key share them.
        limit: The limit.
    """

    key: str
    limit: Limit


def applied_limits(
    limits: Mapping[str, Limit], key: str, provider_key: str, tags: Iterable[str] = ()
) -> tuple[Applied, ...]:
    """Return the limits that an attempt on a key must pass, the same order for all attempts.

    Args:
        limits: ``{key: limit}``, as `merged_limits` returns it.
        key: Key of the target, or of a provider.
        provider_key: Key of its provider, with its account.
        tags: Tags of the target.
    """
    found: list[Applied] = []
    own = limits.get(provider_key, limits.get(OTHERS))
    if own is not None:
        found.append(Applied(provider_key, own))
    if key != provider_key and key in limits:
        found.append(Applied(key, limits[key]))
    for tag in sorted(tags):
        named = TAG + tag.strip()
        if named in limits:
            found.append(Applied(named, limits[named]))
    return tuple(found)
