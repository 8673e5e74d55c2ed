"""`StreamPolicy`: the options of a guarded stream, frozen and checked when built."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Self, TypedDict, Unpack

from resilient_llm._values import checks as check
from resilient_llm._values.checks import unknown_names
from resilient_llm._values.errors import ConfigurationError, StreamInterruptedError
from resilient_llm._values.exported import exported, plain_schema

OnInterrupt = (
    Literal["raise", "restart"] | Callable[[StreamInterruptedError], Mapping[str, Any] | None]
)


class StreamOptions(TypedDict, total=False):
    """Keywords of `StreamPolicy`."""

    commit: Callable[[Any], object] | None
    on_interrupt: OnInterrupt
    restart_marker: Any
    keep_text: int | None
    first_item_timeout: float | None
    idle_timeout: float | None
    min_rate: float | None
    rate_window: float
    timeout: float | None
    on_empty: Literal["next", "accept"]
    on_truncated: Literal["raise", "accept"]


class _NoMarker:
    """Type of the value for "no marker"; None would not do, since any item may be a marker."""

    def __repr__(self) -> str:
        return "<no marker>"

    def __reduce__(self) -> str:
        return "NO_MARKER"


NO_MARKER: Final = _NoMarker()

_DEFAULTS: Final[dict[str, Any]] = {
    "commit": None,
    "on_interrupt": "raise",
    "restart_marker": NO_MARKER,
    "keep_text": None,
    "first_item_timeout": None,
    "idle_timeout": None,
    "min_rate": None,
    "rate_window": 10.0,
    "timeout": None,
    "on_empty": "next",
    "on_truncated": "raise",
}


@exported
class StreamPolicy:
    """Options of guarded streams, for ``failover(stream=…)`` and ``Target(stream=…)``.

    A policy is immutable. An option that the policy of a target names replaces the same option of
    the chain's policy; the other options stay.

    Examples:
        >>> @failover(chain=["groq/llama-3.3-70b", "openai/gpt-5-mini"],
        ...           stream=StreamPolicy(first_item_timeout=10, idle_timeout=30))
        ... def ask(target: Target, prompt: str) -> Stream[ChatCompletionChunk]: ...

    Args:
        commit: Function from an item to whether it is content; it is not async. None reads the
            items of the SDKs; an item of an unknown type counts as content.
        on_interrupt: What follows an error after the first content: ``"raise"`` raises it as the
            cause of `StreamInterruptedError`; ``"restart"`` starts again with the next target. A
            function is called with the `StreamInterruptedError` and returns keyword arguments
            for the next target, or None to raise.
        restart_marker: Item that the consumer gets before a restart; by default there is none.
        keep_text: Bytes of the answer's text, counted from its end, that an interruption keeps as
            ``.text_so_far``; None keeps nothing.
        first_item_timeout: Seconds from the start of an attempt to its first content, or None.
        idle_timeout: Seconds of waiting for the next content, or None.
        min_rate: Smallest number of items with content per second of waiting, or None.
        rate_window: Seconds over which ``min_rate`` is measured.
        timeout: Seconds of waiting for the whole stream of one target, or None. The time that the
            consumer takes between two items does not count here or above.
        on_empty: What a stream without content means: ``"next"`` tries the next target,
            ``"accept"`` takes it for an answer.
        on_truncated: What a stream without the terminator of its protocol or a finish reason
            means: ``"raise"`` treats it as interrupted, ``"accept"`` as complete.

    Raises:
        ConfigurationError: If an option is unknown or out of range.
    """

    __slots__ = (*_DEFAULTS, "_given")

    commit: Callable[[Any], object] | None
    on_interrupt: OnInterrupt
    restart_marker: Any
    keep_text: int | None
    first_item_timeout: float | None
    idle_timeout: float | None
    min_rate: float | None
    rate_window: float
    timeout: float | None
    on_empty: Literal["next", "accept"]
    on_truncated: Literal["raise", "accept"]
    _given: dict[str, Any]

    def __init__(self, **options: Unpack[StreamOptions]) -> None:
        unknown_names("StreamPolicy()", options, _DEFAULTS)
        _fill(self, dict(options))
        for name in ("first_item_timeout", "idle_timeout", "timeout"):
            check.seconds(name, getattr(self, name), optional=True)
        check.seconds("rate_window", self.rate_window)
        if self.min_rate is not None:
            check.number("min_rate", self.min_rate, above=0.0)
        check.whole("keep_text", self.keep_text, low=1, optional=True)
        check.choice("on_empty", self.on_empty, ("next", "accept"))
        check.choice("on_truncated", self.on_truncated, ("raise", "accept"))
        _check_function(
            "commit", self.commit, "a function from an item to whether it is content, or None"
        )
        if self.on_interrupt not in ("raise", "restart"):
            _check_function("on_interrupt", self.on_interrupt, "'raise', 'restart' or a function")
        if self.restart_marker is not NO_MARKER and self.on_interrupt != "restart":
            raise ConfigurationError(
                "restart_marker is given with on_interrupt='restart' only: write both, or neither"
            )

    def using(self, **changes: Unpack[StreamOptions]) -> "StreamPolicy":
        """Return a copy with other options.

        Args:
            **changes: Options as above; those that are not named keep their values.

        Raises:
            ConfigurationError: If an option is unknown or out of range.
        """
        return StreamPolicy(**{**self._given, **changes})  # type: ignore[typeddict-item]  # checked when built

    def over(self, other: "StreamPolicy | None") -> "StreamPolicy":
        """Return this policy's named options over those of another."""
        if other is None:
            return self
        # Not checked again: a restart_marker without on_interrupt="restart" is allowed here,
        # since the other policy may have replaced on_interrupt.
        merged: StreamPolicy = object.__new__(StreamPolicy)
        _fill(merged, {**other._given, **self._given})
        return merged

    @property
    def is_timed(self) -> bool:
        """Whether waiting for items has a limit after the first content."""
        return not (self.idle_timeout is None and self.min_rate is None and self.timeout is None)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"StreamPolicy is immutable: write policy.using({name}=…)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("StreamPolicy is immutable")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StreamPolicy):
            return NotImplemented
        return self._given == other._given

    def __hash__(self) -> int:
        return hash(tuple(sorted(self._given)))

    def __repr__(self) -> str:
        # A marker is the caller's own, and may hold what must not reach a log.
        shown = ", ".join(
            f"{name}=…"
            if name == "restart_marker"
            else f"{name}={getattr(value, '__name__', value)!r}"
            for name, value in self._given.items()
        )
        return f"StreamPolicy({shown})"

    def __reduce__(self) -> tuple[Any, ...]:
        # By a method of a public class: pickles then name no private module.
        return StreamPolicy._unpickled, (self._given,)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        return plain_schema(cls, lambda policy: policy._given, cls._unpickled, "dict")

    @classmethod
    def _unpickled(cls, given: StreamOptions) -> Self:
        return cls(**given)


def _fill(policy: StreamPolicy, given: dict[str, Any]) -> None:
    put = object.__setattr__
    for name, default in _DEFAULTS.items():
        put(policy, name, given.get(name, default))
    put(policy, "_given", given)


def _check_function(name: str, value: Any, allowed: str) -> None:
    if value is None and name == "commit":
        return
    if not callable(value) or inspect.iscoroutinefunction(value):
        shown = repr(value) if isinstance(value, str) else f" of type {type(value).__name__}"
        equals = "=" if isinstance(value, str) else ""
        raise ConfigurationError(
            f"{name}{equals}{shown} is not allowed: write {allowed}, not async"
        )


DEFAULT: Final = StreamPolicy()
"""The policy of streams for which none was named."""


def stream_policy(name: str, value: Any) -> StreamPolicy | None:
    """Return a policy that a user wrote, or None.

    Raises:
        ConfigurationError: If it is something else.
    """
    if value is None or isinstance(value, StreamPolicy):
        return value
    raise ConfigurationError(
        f"{name} of type {type(value).__name__} is not allowed: write StreamPolicy(…), or None"
    )
