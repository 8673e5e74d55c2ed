"""`Target`, where a call can be sent, and `Attempt`, what a function may know of its attempt."""

import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar, Final, Self

from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.exported import exported, plain_schema
from resilient_llm._values.keys import check_key, parse_key, provider_key
from resilient_llm._values.money import Price, given_price
from resilient_llm._values.stream_policy import StreamPolicy, stream_policy


@exported
class Unset(Enum):
    """Type of ``Target.UNSET``."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "Target.UNSET"


def normal_key(spec: object) -> str:
    """Return the normalised spelling of a key, which the registry uses."""
    if isinstance(spec, Target):
        return spec.key
    provider, account, model = parse_key(spec)
    head = provider_key(provider, account)
    return f"{head}/{model}" if model else head


@exported
@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Target:
    """Where a call can be sent: a provider and a model, with options.

    A target is frozen and hashable. The same model has one key, however its spec is written.

    Examples:
        >>> target = Target("groq/llama-3.3-70b", attempt_timeout=20, params={"temperature": 0})
        >>> target.provider, target.model
        ('groq', 'llama-3.3-70b')

        >>> Target("openai/gpt-5-mini", account="tenant-7", params={"seed": Target.UNSET}).key
        'openai@tenant-7/gpt-5-mini'

    Attributes:
        spec: ``"provider/model"``, normalised.
        key: The spec with its account, ``"groq@tenant-7/llama"``: the name of its circuit.
        provider: The part before the first slash, lower-cased, without account.
        provider_key: The provider with its account, ``"groq@tenant-7"``: the name of its circuit.
        model: The part after the first slash; it may have further slashes.
        call: Callable used for this target instead of the decorated function, or None.
        account: Name of a tenant or region whose health is separate, or None.
        params: ``{keyword: value}`` merged over the keyword arguments of a call.
        removed: Keywords that ``Target.UNSET`` takes out of a call.
        attempt_timeout: Seconds for one attempt, of a stream until its first content, or None.
        stream: Options of its streams, which replace those of the policy, or None.
        priority: Lower is tried first.
        weight: Share of the calls, for the strategies ``weighted`` and ``sticky``, above zero.
        price: ``(input, output)`` in USD per million tokens, at most six decimals, or a `Price`;
            for ``least_cost`` and budgets; or None.
        context_window: Tokens that the model takes, or None if unknown.
        max_output: Tokens that the model gives, or None if unknown.
        supports: Words for what the model can do, such as ``["tools", "vision"]``; None if that is
            unknown, which fits every call.
        tags: Free names, for matching.
    """

    UNSET: ClassVar[Unset] = Unset.UNSET

    spec: str
    key: str
    provider: str
    provider_key: str
    model: str
    call: Callable[..., Any] | None
    account: str | None
    params: Mapping[str, Any]
    removed: frozenset[str]
    attempt_timeout: float | None
    stream: StreamPolicy | None
    priority: int
    weight: float
    price: tuple[float, float] | Price | None
    context_window: int | None
    max_output: int | None
    supports: frozenset[str] | None
    tags: frozenset[str]
    _hash: int = field(init=False)

    def __init__(
        self,
        spec: str,
        *,
        call: Callable[..., Any] | None = None,
        account: str | None = None,
        params: Mapping[str, Any] | None = None,
        attempt_timeout: float | None = None,
        stream: StreamPolicy | None = None,
        priority: int = 1,
        weight: float = 1.0,
        price: tuple[float | Decimal, float | Decimal] | Price | None = None,
        context_window: int | None = None,
        max_output: int | None = None,
        supports: str | Iterable[str] | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        provider, spec_account, model = parse_key(spec)
        if not model:
            separated = spec.strip().replace(":", "/", 1)
            hint = f"; did you mean {separated!r}?" if "/" in separated.strip("/") else ""
            raise ConfigurationError(f"{spec!r} names no model: write 'provider/model'{hint}")
        given_account: object = account
        if account is not None and (
            not isinstance(given_account, str) or not account.strip() or set("/@") & set(account)
        ):
            shown = repr(account) if isinstance(given_account, str) else type(account).__name__
            raise ConfigurationError(f"account={shown} is not a name without '/' and '@'")
        if account is not None and spec_account and spec_account != account.strip():
            raise ConfigurationError(f"{spec!r} names another account than account={account!r}")
        if call is not None and not callable(call):
            raise ConfigurationError(f"call= of {spec!r} is not callable")
        if stream is not None:
            stream_policy(f"stream of {spec!r}", stream)
        name = (account or spec_account).strip()
        given = check.mapping("params", {} if params is None else params)
        put = object.__setattr__
        put(self, "spec", f"{provider}/{model}")
        put(self, "provider", provider)
        put(self, "provider_key", provider_key(provider, name))
        put(self, "key", check_key(f"{self.provider_key}/{model}"))
        put(self, "model", model)
        put(self, "call", call)
        put(self, "account", name or None)
        put(
            self,
            "params",
            types.MappingProxyType({k: v for k, v in given.items() if v is not Unset.UNSET}),
        )
        put(self, "removed", frozenset(k for k, v in given.items() if v is Unset.UNSET))
        put(
            self,
            "attempt_timeout",
            check.seconds("attempt_timeout", attempt_timeout, optional=True),
        )
        put(self, "stream", stream)
        put(self, "priority", check.whole("priority", priority, low=None))
        put(self, "weight", check.number("weight", weight, above=0.0))
        put(self, "price", given_price(price))
        put(
            self,
            "context_window",
            check.whole("context_window", context_window, low=1, optional=True),
        )
        put(self, "max_output", check.whole("max_output", max_output, low=1, optional=True))
        known = None if supports is None else check.words_or_word("supports", supports)
        put(self, "supports", known)
        put(self, "tags", check.words("tags", tags))
        put(self, "_hash", hash(self.key))

    def options(self) -> dict[str, Any]:
        """Return ``{keyword: value}`` that builds an equal target from ``spec``."""
        return {
            "call": self.call,
            "account": self.account,
            "params": {**self.params, **dict.fromkeys(self.removed, Unset.UNSET)},
            "attempt_timeout": self.attempt_timeout,
            "stream": self.stream,
            "priority": self.priority,
            "weight": self.weight,
            "price": self.price,
            "context_window": self.context_window,
            "max_output": self.max_output,
            "supports": self.supports,
            "tags": self.tags,
        }

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Target):
            return NotImplemented
        return self.key == other.key and self.options() == other.options()

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        # params and call may hold what must not reach a log.
        return f"Target({self.key!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # By a method of a public class: pickles then name no private module.
        return Target._unpickled, (self.spec, self.options(), True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        return plain_schema(cls, cls._plain, cls._of_plain, "str", "dict")

    def _plain(self) -> str | dict[str, Any]:
        """Return the key, or the options with it if there are any.

        Not ``call``, which is code, nor ``params``, which may hold what must not reach a log.
        """
        options = {name: getattr(self, name) for name in _PLAIN}
        given = {name: value for name, value in options.items() if value != _PLAIN[name]}
        for name in ("supports", "tags"):
            if name in given:
                given[name] = sorted(given[name])
        if self.stream is not None:
            given["stream"] = {k: v for k, v in self.stream._given.items() if not callable(v)}
        return {"spec": self.key, **given} if given else self.key

    @classmethod
    def _of_plain(cls, plain: str | dict[str, Any]) -> Self:
        if isinstance(plain, str):
            return cls(plain)
        check.unknown_names("Target", plain, ("spec", *_PLAIN, "account", "params", "stream"))
        options = dict(plain)
        stream = options.get("stream")
        if isinstance(stream, dict):
            options["stream"] = StreamPolicy(**stream)  # pyright: ignore[reportUnknownArgumentType]  # users' input
        if "spec" not in options:
            raise ConfigurationError("Target without spec: write its 'provider/model' as spec")
        return cls(options.pop("spec"), **options)

    @classmethod
    def _unpickled(cls, spec: str, options: dict[str, Any], tells_supports: bool = False) -> Self:
        # In pickles of earlier releases, which do not tell, no words meant that nothing is known.
        if not tells_supports and not options.get("supports"):
            options = {**options, "supports": None}
        return cls(spec, **options)


_PLAIN: Final[dict[str, Any]] = {
    "attempt_timeout": None,
    "priority": 1,
    "weight": 1.0,
    "price": None,
    "context_window": None,
    "max_output": None,
    "supports": None,
    "tags": frozenset(),
}
"""``{option that a plain form holds: its default}``"""


@exported
@dataclass(frozen=True, slots=True)
class Attempt:
    """Details of the current attempt, passed to a parameter that is annotated `Attempt`.

    Examples:
        >>> @failover(chain=["groq/llama-3.3-70b", "openai/gpt-5-mini"], attempt_timeout=20)
        ... def ask(target: Target, attempt: Attempt, prompt: str) -> str:
        ...     return send(target.model, prompt, timeout=attempt.remaining)

    Attributes:
        target: Where this attempt goes.
        number: Number within the target, from 1.
        remaining: Seconds left for this attempt when it began, or None.
        call_id: Name of the call, the same in its events.
    """

    target: Target
    number: int
    remaining: float | None
    call_id: str
