"""The options of all sections but ``[settings]``, and their kinds."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from resilient_llm._values import checks as check
from resilient_llm._values import conditions, settings, state_options
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.keys import shown
from resilient_llm._values.limit import Limit
from resilient_llm._values.money import PERIODS, Budget, Price, given_price, zone_named
from resilient_llm._values.route import route_of
from resilient_llm._values.settings import MODES
from resilient_llm._values.target import Target
from resilient_llm.config._default_options import OF_PROCESS, stream_kind
from resilient_llm.config._kinds import (
    VARIABLE,
    Check,
    Kind,
    choice,
    flag,
    number,
    option_of,
    or_none,
    table,
    text,
    texts,
    whole,
    with_allowed,
)

_LARGEST_AMOUNT: Final = 999_999_999_999.999999
"""Of money, in USD: twelve digits before the point."""

# Breakers.

_breaker: Final = settings._OPTION_CHECKS
BREAKER: Final[dict[str, Kind]] = with_allowed(
    {
        "failures": whole(_breaker["failures"], "Consecutive failures that open it", low=1),
        "error_rate": number(
            _breaker["error_rate"], "Share of failures that opens it", above=0, high=1
        ),
        "min_calls": whole(_breaker["min_calls"], "Calls that a share needs", low=1),
        "window": number(_breaker["window"], "Seconds over which shares are counted", above=0),
        "slow_call": number(
            _breaker["slow_call"], "Seconds from which a call is slow", above=0, null=True
        ),
        "slow_rate": number(
            _breaker["slow_rate"], "Share of slow calls that opens it", above=0, high=1
        ),
        "cooldown": number(_breaker["cooldown"], "Seconds of the first bench", above=0),
        "max_cooldown": number(_breaker["max_cooldown"], "Seconds of the longest bench", above=0),
        "probes": whole(_breaker["probes"], "Calls at once while it is half-open", low=1),
        "successes_to_close": whole(
            _breaker["successes_to_close"], "Successes that close it", low=1
        ),
        "probe_lease": number(
            _breaker["probe_lease"], "Seconds for which a probe has its place", above=0, null=True
        ),
        "bad_rate": number(
            _breaker["bad_rate"], "Share of bad answers that opens it", above=0, high=1, null=True
        ),
        "mode": choice(_breaker["mode"], "Whether it rejects calls, or only counts", MODES),
    }
)

# Prices.

_price: Final = option_of(Price, input=0, output=0)


def _amount(doc: str, *, null: bool = False) -> Kind:
    return number(_price, doc, low=0, high=_LARGEST_AMOUNT, null=null)


PRICE: Final[dict[str, Kind]] = with_allowed(
    {
        "input": _amount("USD per million tokens of the request"),
        "output": _amount("USD per million tokens of the answer"),
        "cached": _amount("USD per million tokens read from a cache", null=True),
        "cache_write": _amount("USD per million tokens written to a cache", null=True),
    }
)
PRICE_REQUIRED: Final = ("input", "output")


_PRICE_ALLOWED: Final = (
    "[input, output] in USD per million tokens, or a table with input, output, cached and "
    "cache_write"
)


def _pair(name: str, value: Any) -> Any:
    """Return ``(input, output)`` of a list of two numbers."""
    if isinstance(value, list) and len(value) != 2:  # pyright: ignore[reportUnknownArgumentType]  # users' input
        given = len(value)  # pyright: ignore[reportUnknownArgumentType]
        raise ConfigurationError(f"{name} of {given} values is not allowed: write {_PRICE_ALLOWED}")
    return given_price(value)


def _price_kind(doc: str, *, null: bool) -> Kind:
    amount = {"type": "number", "minimum": 0, "maximum": _LARGEST_AMOUNT}
    item = {"anyOf": [amount, VARIABLE]}
    pair = Kind(
        check=or_none(_pair) if null else _pair,
        doc="",
        schema={"type": "array", "items": item, "minItems": 2, "maxItems": 2},
        is_number=True,
        types=(list,),
    )
    return table(
        PRICE,
        lambda options: Price(**options),
        doc,
        allowed=_PRICE_ALLOWED,
        other=pair,
        null=null,
        required=PRICE_REQUIRED,
    )


PRICE_OF_KEY: Final = _price_kind("USD per million tokens", null=False)

# Targets.

_target: Final = option_of(Target, spec="a/b")


def _any_table(name: str, value: Any) -> Any:
    return check.mapping(name, value)


def _unset(name: str, value: Any) -> Any:
    return check.words(name, value)


TARGET: Final[dict[str, Kind]] = with_allowed(
    {
        "params": Kind(
            check=_any_table,
            doc="Keyword arguments of each call",
            schema={"type": "object"},
            allowed="a table of keyword arguments",
            is_open=True,
        ),
        "unset": texts(_unset, "Keyword arguments that are taken out of each call"),
        "attempt_timeout": number(_target, "Seconds of one attempt", above=0, null=True),
        "stream": stream_kind("How its streams are guarded"),
        "priority": whole(_target, "Lower is tried first"),
        "weight": number(_target, "Share of the calls, for some strategies", above=0),
        "price": _price_kind("USD per million tokens", null=True),
        "context_window": whole(_target, "Tokens that the model takes", low=1, null=True),
        "max_output": whole(_target, "Tokens that the model gives", low=1, null=True),
        "supports": texts(
            _target, "What the model can do, such as 'tools'", or_one=True, null=True
        ),
        "tags": texts(_target, "Free names, for limits and budgets"),
    }
)
TARGET_ELSEWHERE: Final = {
    "call": "call is a function, which cannot be written in a file: write Target(…) in code",
    "account": "an account is written in the key, as in 'groq@tenant-7/llama'",
    "spec": "the spec is the key of the table",
}

# Limits and budgets.

_DAY: Final = 86_400
_PER: Final = ("second", "minute", "hour", "day")


_limit: Final = option_of(Limit, requests=1, max_concurrent=1, max_queued=1)
LIMIT: Final[dict[str, Kind]] = with_allowed(
    {
        "requests": whole(_limit, "Attempts in each period", low=1, null=True),
        "tokens": whole(_limit, "Tokens in each period", low=1, null=True),
        "per": Kind(
            check=_limit,
            doc="Seconds of the period, or a word for them",
            schema={
                "anyOf": [
                    {"type": "number", "exclusiveMinimum": 0, "maximum": _DAY},
                    {"enum": list(_PER)},
                    {"$ref": "#/$defs/with_variable"},
                ]
            },
            allowed="'second', 'minute', 'hour', 'day', or seconds, above 0 to 86400",
            words=_PER,
            is_number=True,
        ),
        "burst": whole(_limit, "Requests at once after a quiet time", low=1, null=True),
        "max_concurrent": whole(_limit, "Attempts in flight", low=1, null=True),
        "max_queued": whole(_limit, "Attempts that wait for a place", low=0),
        "queue_timeout": number(_limit, "Longest wait for a place in seconds", above=0, null=True),
        "shared": flag(_limit, "Whether all processes count together"),
    }
)
_budget: Final = option_of(Budget, calls=1)


_cap: Final = or_none(option_of(Budget))


@cache
def _zones() -> frozenset[str]:
    import zoneinfo

    return frozenset(zoneinfo.available_timezones())


def _zone(name: str, value: Any) -> Any:
    # The check of the class compares a wrong zone with all that there are, each time.
    if not isinstance(value, str) or value in _zones() or not _zones():
        return zone_named(value) and value
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(value)
    except (LookupError, ValueError, OSError):
        raise ConfigurationError(
            f"{name}={shown(value)} is not a time zone: write an IANA name such as "
            "'Europe/Berlin', or 'UTC'"
        ) from None
    return value


BUDGET: Final[dict[str, Kind]] = with_allowed(
    {
        "usd": number(_cap, "Cap in USD", low=0, high=_LARGEST_AMOUNT, null=True),
        "tokens": whole(_cap, "Cap in tokens", low=0, null=True),
        "calls": whole(_cap, "Cap in attempts that were sent", low=0, null=True),
        "per": choice(_budget, "The period", PERIODS),
        "of": text(
            _budget,
            "A target, a provider, 'tag:…', 'all', or 'key' for each spend key",
            allowed="a target, a provider, 'tag:name', 'all', or 'key' for each key of spend_key",
        ),
        "warn_at": number(
            _budget, "Share of the cap at which a warning is emitted", above=0, high=1
        ),
        "zone": Kind(
            check=_zone,
            doc="Time zone in which days and months begin",
            schema={"type": "string", "minLength": 1},
            allowed="an IANA name such as 'Europe/Berlin', or 'UTC'",
            near=_zones,
        ),
        "on_unbounded": whole(
            _budget, "Tokens reserved for an answer without a bound", low=1, null=True
        ),
        "name": text(
            _budget,
            "Unique name",
            null=True,
            allowed="1 to 200 printable characters, or None",
            longest=200,
        ),
    }
)

# The store.


def _state_option(name: str) -> Check:
    own = state_options._CHECKS[name]
    return lambda _, value: None if value is None else own(value)


def _url(name: str, value: Any) -> Any:
    """Return the URL of a store that can be opened; nothing is connected."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigurationError(
            f"{name} of type {type(value).__name__} is not allowed: write the URL of a store"
        )
    from resilient_llm.stores import _opening  # with a driver, which takes a while

    try:
        _opening.open_store(value, state_options.STATE_OPTIONS)
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace(_opening.ALLOWED, f"write {_URLS}")) from None
    return value


_URLS: Final = (
    "a URL: sqlite:///path, redis://host:port/0, rediss://…, unix://…, valkey://… or valkeys://…"
)


STATE: Final[dict[str, Kind]] = with_allowed(
    {
        "url": Kind(
            check=_url,
            doc="URL of the store that processes share",
            schema={"anyOf": [{"type": "string", "minLength": 1}, {"type": "null"}]},
            allowed=_URLS,
            is_secret=True,
        ),
        "namespace": text(
            _state_option("namespace"),
            "Name under which it keeps data",
            null=True,
            allowed="1 to 64 of A-Z a-z 0-9 _ . -",
            longest=64,
        ),
        "poll": number(
            _state_option("poll"), "Seconds between two looks", low=0.1, high=60, null=True
        ),
        "on_corrupt": choice(
            _state_option("on_corrupt"),
            "What a damaged file means",
            ("replace", "refuse"),
            null=True,
        ),
        "timeout": number(
            OF_PROCESS["state_timeout"],
            "Seconds that a caller waits for it",
            low=0.001,
            high=60,
        ),
        "on_store_down": choice(
            OF_PROCESS["on_store_down"], "What budgets do without it", ("local", "refuse")
        ),
        "name": text(
            OF_PROCESS["state_name"],
            "What other processes see as the source",
            null=True,
            longest=200,
        ),
    }
)
STATE_NAMES: Final = {
    "url": "state",
    "timeout": "state_timeout",
    "on_store_down": "on_store_down",
    "name": "state_name",
}
"""``{option of [state]: the option of configure}``, but for those of a URL."""

# Routes.


MOST_RULES: Final = 1_000
"""Rules of all routes of one file."""
MOST_PATTERNS: Final = 50
"""Conditions ``regex`` of one file; RE2 may take 2 MiB for each."""
LONGEST_GLOB: Final = 512
"""Characters of a condition ``model``, as many as a key may have."""

_condition: Final = conditions._CHECKS  # the pattern of ``regex`` is checked with the rule


def _glob(name: str, value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST_GLOB:
        raise ConfigurationError(
            f"{name} of {len(value)} characters is not allowed: write a glob of at most "
            f"{LONGEST_GLOB}"
        )
    return _condition["model"](name, value)


CONDITIONS: Final[dict[str, Kind]] = with_allowed(
    {
        "model": text(
            _glob,
            "Glob for the model= of a call",
            allowed="a glob such as 'gpt-*'",
            longest=LONGEST_GLOB,
        ),
        "min_tokens": whole(_condition["min_tokens"], "Least tokens of the input", low=0),
        "has_image": flag(_condition["has_image"], "Whether the messages have an image"),
        "has_tools": flag(_condition["has_tools"], "Whether the call has tools"),
        "min_code_share": number(
            _condition["min_code_share"],
            "Least share of code in the last message",
            above=0,
            high=1,
        ),
        "contains": text(_condition["contains"], "Text in the last message", allowed="a text"),
        "regex": text(
            _condition["regex"], "Pattern of RE2 for the last message", allowed="a pattern of RE2"
        ),
    }
)
"""Conditions that can be written in a file."""


def _messages(name: str, value: Any) -> Any:
    return route_of((), "a/b", value, None).messages


MESSAGES: Final = text(
    _messages,
    "Name of the argument with the messages",
    null=True,
    allowed="the name of an argument",
)
