"""The options that each section of a file takes, and their kinds."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from resilient_llm._values import checks as check
from resilient_llm._values import conditions, settings, state_options
from resilient_llm._values.adaptive import MOST_SAMPLES, Adaptive
from resilient_llm._values.chain import checked_name
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.keys import shown
from resilient_llm._values.limit import Limit
from resilient_llm._values.money import PERIODS, Budget, Price, given_price, zone_named
from resilient_llm._values.policy import CHECKS, MOST_HEDGES, PERCENTILES, STRATEGIES
from resilient_llm._values.route import route_of
from resilient_llm._values.settings import MODES
from resilient_llm._values.stream_policy import StreamPolicy
from resilient_llm._values.target import Target
from resilient_llm._values.tool_loop import ACTIONS, ToolLoop
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

_NEXT_OR_RAISE: Final = ("next", "raise")
_LARGEST_AMOUNT: Final = 999_999_999_999.999999
"""Of money, in USD: twelve digits before the point."""


def _words(allowed: tuple[str, ...]) -> Check:
    return lambda name, value: check.choice(name, value, allowed)


# Streams.

_stream: Final = option_of(StreamPolicy)


def _marker(name: str, value: Any) -> str:
    # In code it may be an item of any type.
    if not isinstance(value, str):
        raise check.refuse(name, value, "a text")
    return value


STREAM: Final[dict[str, Kind]] = with_allowed(
    {
        "on_interrupt": choice(
            # The class allows a function as well, which cannot be written.
            _words(("raise", "restart")),
            "What follows an error after content",
            ("raise", "restart"),
        ),
        "restart_marker": Kind(
            check=_marker,
            doc="Text given to the consumer before a restart; with on_interrupt = 'restart'",
            schema={"type": "string"},
            allowed="a text",
        ),
        "keep_text": whole(
            _stream, "Bytes of the text that an interruption keeps", low=1, null=True
        ),
        "first_item_timeout": number(
            _stream, "Seconds from the start of an attempt to its first content", above=0, null=True
        ),
        "idle_timeout": number(
            _stream, "Seconds of waiting for the next content", above=0, null=True
        ),
        "min_rate": number(
            _stream, "Least items with content per second of waiting", above=0, null=True
        ),
        "rate_window": number(_stream, "Seconds over which min_rate is measured", above=0),
        "timeout": number(
            _stream, "Seconds of waiting for the whole stream of one target", above=0, null=True
        ),
        "on_empty": choice(_stream, "What a stream without content means", ("next", "accept")),
        "on_truncated": choice(_stream, "What a stream without its end means", ("raise", "accept")),
    }
)


def _stream_kind(doc: str) -> Kind:
    return table(
        STREAM,
        lambda options: StreamPolicy(**options),
        doc,
        allowed="a table of options of StreamPolicy",
        null=True,
    )


# Options of `failover`.

_adaptive: Final = option_of(Adaptive)
ADAPTIVE: Final[dict[str, Kind]] = with_allowed(
    {
        "window": number(_adaptive, "Seconds of attempts that are looked at", above=0),
        "slow_factor": number(_adaptive, "How many times slower counts as slow", above=1),
        "min_samples": whole(_adaptive, "Samples that a median needs", low=1, high=MOST_SAMPLES),
        "error_share": number(
            _adaptive, "Share of failed attempts that counts as faulty", above=0, high=1
        ),
        "min_calls": whole(_adaptive, "Attempts that this needs", low=1),
        "calm": number(_adaptive, "Least seconds between two moves of a target", low=0),
    }
)
_tool_loop: Final = option_of(ToolLoop)
TOOL_LOOP: Final[dict[str, Kind]] = with_allowed(
    {
        "action": choice(_tool_loop, "What happens when a loop is found", ACTIONS),
        "repeats": whole(_tool_loop, "Equal tool calls in a row that are a loop", low=2),
        "argument": text(
            _tool_loop,
            "Name of the argument that is the conversation",
            allowed="the name of an argument, such as 'messages'",
        ),
    }
)


def _hedge() -> Kind:
    seconds: dict[str, Any] = {"type": "number", "exclusiveMinimum": 0}
    words: dict[str, Any] = {"enum": list(PERCENTILES)}
    return Kind(
        check=CHECKS["hedge"],
        doc="Seconds, or a percentile of past attempts, after which a second attempt starts",
        schema={"anyOf": [seconds, words, VARIABLE, {"type": "null"}]},
        allowed="seconds above 0, 'p50' to 'p99', or None",
        words=PERCENTILES,
        is_number=True,
    )


def _failover(name: str) -> Check:
    return or_none(CHECKS[name])


def _failover_words(name: str, doc: str, words: tuple[str, ...]) -> Kind:
    return choice(_failover(name), doc, words, null=True)


FAILOVER: Final[dict[str, Kind]] = with_allowed(
    {
        "attempts": whole(_failover("attempts"), "Attempts on one target", low=1, null=True),
        "max_attempts": whole(
            _failover("max_attempts"), "Attempts on all targets together", low=1, null=True
        ),
        "timeout": number(_failover("timeout"), "Seconds of the whole call", above=0, null=True),
        "attempt_timeout": number(
            _failover("attempt_timeout"), "Seconds of one attempt", above=0, null=True
        ),
        "cooldown": number(
            _failover("cooldown"), "Seconds that a target is benched at first", above=0, null=True
        ),
        "strategy": choice(
            or_none(_words(STRATEGIES)),
            "Orders the targets of a chain",
            STRATEGIES,
            null=True,
        ),
        "adaptive": table(
            ADAPTIVE,
            lambda options: Adaptive(**options),
            "Whether slow and faulty targets stand behind others",
            allowed="true, false, or a table of options of Adaptive",
            other=flag(CHECKS["adaptive"], ""),
            null=True,
        ),
        "hedge": _hedge(),
        "max_hedges": whole(
            _failover("max_hedges"), "Hedges of one call", low=1, high=MOST_HEDGES, null=True
        ),
        "tool_loop": table(
            TOOL_LOOP,
            lambda options: ToolLoop(**options),
            "What a conversation that repeats one tool call means",
            allowed="'off', 'warn', 'raise', or a table of options of ToolLoop",
            other=choice(_words(ACTIONS), "", ACTIONS),
            null=True,
        ),
        "on_request_error": _failover_words(
            "on_request_error", "What an error of the request means", _NEXT_OR_RAISE
        ),
        "on_content_policy": _failover_words(
            "on_content_policy", "What a refusal for its content means", _NEXT_OR_RAISE
        ),
        "on_unknown": _failover_words(
            "on_unknown", "What an unknown error means", ("next", "raise", "transient")
        ),
        "on_down": _failover_words(
            "on_down", "What happens to targets that health probes find down", ("skip", "demote")
        ),
        "when_all_benched": _failover_words(
            "when_all_benched", "What happens if all are benched", ("soonest", "wait", "raise")
        ),
        "reraise": flag(
            _failover("reraise"), "Whether the last error is raised as it is", null=True
        ),
        "stream": _stream_kind("How streams are guarded"),
    }
)
"""Options of ``failover`` that can be written in a file."""

NOT_WRITTEN: Final = {"backoff": "a wait or a function", "reject": "a function"}
"""``{option of configure that is code: what it is}``"""

# Other options of `configure`.

_process: Final = settings._PROCESS_CHECKS  # the same package, one layer below
PROCESS: Final[dict[str, Kind]] = with_allowed(
    {
        "retry_budget": number(
            _process["retry_budget"], "Retries as a share of first attempts", low=0, null=True
        ),
        "max_wait": number(_process["max_wait"], "Longest wait for a target in seconds", low=0),
        "on_memory_pressure": choice(
            _process["on_memory_pressure"],
            "What a server that is out of memory means",
            ("skip", "warn", "off"),
        ),
        "memory_pressure_cooldown": number(
            _process["memory_pressure_cooldown"], "Seconds that it is benched", low=10, high=3600
        ),
        "listen": flag(_process["listen"], "Whether headers with limits are read"),
        "logging": flag(_process["logging"], "Whether the default observer logs"),
    }
)


def checked_profile(name: str, value: Any) -> str | None:
    """Return the name of a profile, or None."""
    if value is not None and not isinstance(value, str):
        raise check.refuse(name, value, "the name of a profile")
    return None if value is None else checked_name(value)


SETTINGS: Final[dict[str, Kind]] = {
    **FAILOVER,
    **PROCESS,
    "profile": text(
        checked_profile, "The profile of the process", null=True, allowed="the name of a profile"
    ),
}

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
        "stream": _stream_kind("How its streams are guarded"),
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
            _process["state_timeout"], "Seconds that a caller waits for it", low=0.001, high=60
        ),
        "on_store_down": choice(
            _process["on_store_down"], "What budgets do without it", ("local", "refuse")
        ),
        "name": text(
            _process["state_name"],
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
