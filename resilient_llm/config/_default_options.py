"""The options of ``[settings]`` and of profiles: those of `failover`, and others of `configure`."""

from __future__ import annotations

from typing import Any, Final

from resilient_llm._values import checks as check
from resilient_llm._values import settings
from resilient_llm._values.adaptive import MOST_SAMPLES, Adaptive
from resilient_llm._values.chain import checked_name
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.policy import CHECKS, MOST_HEDGES, PERCENTILES, STRATEGIES
from resilient_llm._values.stream_policy import StreamPolicy
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
    whole,
    with_allowed,
    without_null,
)

_NEXT_OR_RAISE: Final = ("next", "raise")


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


def stream_kind(doc: str) -> Kind:
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
            "on_down",
            "Whether benched targets are tried once all live ones have failed",
            ("skip", "demote"),
        ),
        "when_all_benched": _failover_words(
            "when_all_benched", "What happens if all are benched", ("soonest", "wait", "raise")
        ),
        "reraise": flag(
            _failover("reraise"), "Whether the last error is raised as it is", null=True
        ),
        "stream": stream_kind("How streams are guarded"),
    }
)
"""Options of ``failover`` that can be written in a file."""


def _takes_none(name: str) -> bool:
    try:
        CHECKS[name](name, None)
    except ConfigurationError:
        return False
    return True


PROFILE: Final[dict[str, Kind]] = {
    name: kind if _takes_none(name) else without_null(kind) for name, kind in FAILOVER.items()
}
"""The same for a profile: null is a value there, and takes nothing back."""
NOT_WRITTEN: Final = {"backoff": "a wait or a function", "reject": "a function"}
"""``{option of configure that is code: what it is}``"""

# Other options of `configure`.

OF_PROCESS: Final = settings._PROCESS_CHECKS  # the same package, one layer below
PROCESS: Final[dict[str, Kind]] = with_allowed(
    {
        "retry_budget": number(
            OF_PROCESS["retry_budget"], "Retries as a share of first attempts", low=0, null=True
        ),
        "max_wait": number(OF_PROCESS["max_wait"], "Longest wait for a target in seconds", low=0),
        "on_memory_pressure": choice(
            OF_PROCESS["on_memory_pressure"],
            "What a server that is out of memory means",
            ("skip", "warn", "off"),
        ),
        "memory_pressure_cooldown": number(
            OF_PROCESS["memory_pressure_cooldown"],
            "Seconds that it is benched",
            low=10,
            high=3600,
        ),
        "listen": flag(OF_PROCESS["listen"], "Whether headers with limits are read"),
        "logging": flag(OF_PROCESS["logging"], "Whether the default observer logs"),
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
