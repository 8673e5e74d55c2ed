"""LiteLLM's client under a policy of this library.

    from resilient_llm import failover
    from resilient_llm.integrations import litellm

    reply = litellm.completion(
        ["groq/llama-3.3-70b", "openai/gpt-5-mini"], messages, policy=failover(timeout=30.0)
    )

Each attempt is one call of LiteLLM's public function for one target of the chain, so that its
callbacks, its cache and its cost tracking see it. Its own retries and fallbacks are off.

Owns the decorated functions of the chains that were called last.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, cast, overload

import litellm as _litellm

from resilient_llm import Attempt, ConfigurationError, Failover, Target, failover

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from litellm import CustomStreamWrapper, ModelResponse

__all__ = ["acompletion", "completion"]

_MOST_POLICIES: Final = 256
"""Pairs of a chain and a policy whose functions are kept; the one used longest ago goes first."""

_RETRIES: Final = ("num_retries", "max_retries")
_REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        _RETRIES, "retries are those of the policy: write failover(attempts=…), the first included"
    ),
    "retry_policy": "retries are those of the policy: write failover(attempts=…)",
    "retry_strategy": "waits are those of the policy: write failover(backoff=…)",
    "fallbacks": "fallbacks are the targets of the chain: write them in model=[…]",
    "context_window_fallback_dict": "write targets with context_window=… in the chain",
    "model_list": "deployments are targets of the chain: write Target(…, account=…, params=…)",
}
"""Arguments of LiteLLM that would call another model, or the same again: ``{name: instead}``."""
_NO_RETRIES: Final = _litellm.RetryPolicy()


@overload
def completion(
    model: Any = None,
    messages: Sequence[Any] = (),
    *,
    policy: Failover | None = None,
    stream: Literal[True],
    **kwargs: Any,
) -> CustomStreamWrapper: ...
@overload
def completion(
    model: Any = None,
    messages: Sequence[Any] = (),
    *,
    policy: Failover | None = None,
    stream: Literal[False] | None = None,
    **kwargs: Any,
) -> ModelResponse: ...
@overload
def completion(
    model: Any = None,
    messages: Sequence[Any] = (),
    *,
    policy: Failover | None = None,
    stream: bool | None = None,
    **kwargs: Any,
) -> ModelResponse | CustomStreamWrapper: ...
def completion(
    model: Any = None,
    messages: Sequence[Any] = (),
    *,
    policy: Failover | None = None,
    **kwargs: Any,
) -> Any:
    """Call `litellm.completion` for the targets of a chain until one answers.

    Args:
        model: A chain in any of its forms, which is used instead of the policy's own; None for
            the chain of the policy. LiteLLM is given the spec of the target as its model.
        messages: As LiteLLM takes them.
        policy: The options of the call, as `failover` makes them; None for the defaults. It has
            ``reraise=True`` unless it names ``reraise``, so that errors are LiteLLM's.
        **kwargs: All other arguments of LiteLLM's function.

    Raises:
        ConfigurationError: If there is no chain, or if an argument asks for LiteLLM's own retries
            or fallbacks.
        ChainExhaustedError: If no target was called.
    """
    _check(kwargs)
    return _guarded(model, policy, is_async=False)(messages=messages, **kwargs)


@overload
async def acompletion(
    model: Any = None,
    messages: Sequence[Any] = (),
    *,
    policy: Failover | None = None,
    stream: Literal[True],
    **kwargs: Any,
) -> CustomStreamWrapper: ...
@overload
async def acompletion(
    model: Any = None,
    messages: Sequence[Any] = (),
    *,
    policy: Failover | None = None,
    stream: Literal[False] | None = None,
    **kwargs: Any,
) -> ModelResponse: ...
@overload
async def acompletion(
    model: Any = None,
    messages: Sequence[Any] = (),
    *,
    policy: Failover | None = None,
    stream: bool | None = None,
    **kwargs: Any,
) -> ModelResponse | CustomStreamWrapper: ...
async def acompletion(
    model: Any = None,
    messages: Sequence[Any] = (),
    *,
    policy: Failover | None = None,
    **kwargs: Any,
) -> Any:
    """Call `litellm.acompletion` for the targets of a chain until one answers; see `completion`."""
    _check(kwargs)
    return await _guarded(model, policy, is_async=True)(messages=messages, **kwargs)


# --- what LiteLLM must not do ------------------------------------------------------------------


def _check(kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that ask LiteLLM for retries or for other models.

    Raises:
        ConfigurationError: If there are some.
    """
    for name, instead in _REFUSED.items():
        value = kwargs.get(name)
        if value:
            shown = f"={value!r}" if type(value) is int else ""
            raise ConfigurationError(f"{name}{shown}: LiteLLM's own is off; {instead}")
    if cast("Any", _litellm).model_fallbacks:  # which no argument turns off
        raise ConfigurationError(
            "litellm.model_fallbacks is set, and LiteLLM would call those models inside each "
            "attempt: set it to None, and write them as targets of the chain"
        )


def _once(target: Target, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of one attempt, with LiteLLM's retries off.

    ``num_retries=0`` does not turn off `litellm.num_retries` in its synchronous function (seen in
    1.110, November 2026). A retry policy that names no retries does.
    """
    once = {name: value for name, value in kwargs.items() if name not in _REFUSED}
    once.update(model=target.spec, num_retries=0, max_retries=0, retry_policy=_NO_RETRIES)
    return once


def _rounded(seconds: float) -> float:
    """Return a time rounded down to two digits, and to less than it is: 29 for 30 and for 29.9.

    LiteLLM keeps a client, with its connections, for each timeout that it has seen: with the exact
    time that is left, each call would build another one.
    """
    if seconds <= 0:
        return seconds
    step: float = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return round((math.ceil(seconds / step) - 1) * step, 9)


def _timeout_of(kwargs: Mapping[str, Any]) -> Any:
    """Return the timeout that LiteLLM would use, which looks in this order."""
    for name in ("timeout", "request_timeout"):
        if kwargs.get(name) is not None:
            return kwargs[name]
    return _litellm.request_timeout


def _limited(timeout: Any, remaining: float) -> Any:
    """Return the caller's timeout, as far as the attempt has time for it."""
    if timeout is None:
        return remaining
    if isinstance(timeout, (int, float)):
        return min(timeout, remaining)
    import httpx  # LiteLLM's own client

    if not isinstance(timeout, httpx.Timeout):
        return timeout
    parts = timeout.as_dict()
    return httpx.Timeout(
        **{
            name: remaining if part is None else min(part, remaining)
            for name, part in parts.items()
        }
    )


# --- guarded functions -------------------------------------------------------------------------


def _guarded(model: Any, policy: Failover | None, *, is_async: bool) -> Any:
    """Return the function that makes the calls of a chain under a policy.

    Raises:
        ConfigurationError: If there is neither, or if one of them is wrong.
    """
    if policy is not None and not isinstance(policy, Failover):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' input
        raise ConfigurationError(
            f"policy of type {type(policy).__name__}: expected what failover(…) returns"
        )
    if model is None and policy is None:
        raise ConfigurationError("model is None: expected a chain, or a policy that has one")
    key = _key_of(model)
    try:
        hash(key)
    except TypeError:  # an entry that cannot be a key, which may be wrong as well
        return _decorated(model, policy, is_async=is_async)
    return _kept(key, policy, is_async)


def _key_of(chain: Any) -> Any:
    """Return a chain whose lists are tuples, which are chains as well."""
    if type(chain) is list or type(chain) is tuple:
        return tuple(_key_of(entry) for entry in cast("list[Any]", chain))
    return chain


@lru_cache(_MOST_POLICIES)
def _kept(chain: Hashable, policy: Failover | None, is_async: bool) -> Any:
    return _decorated(chain, policy, is_async=is_async)


def _decorated(chain: Any, policy: Failover | None, *, is_async: bool) -> Any:
    own = failover(chain, reraise=True) if policy is None else _with_chain(policy, chain)
    for target in own._plan.targets:
        _check(target.params)
    return own(_acomplete if is_async else _complete)


def _with_chain(policy: Failover, chain: Any) -> Failover:
    changes: dict[str, Any] = {} if chain is None else {"chain": chain}
    if "reraise" not in policy._given:
        changes["reraise"] = True
    return policy.using(**changes) if changes else policy


def _complete(target: Target, attempt: Attempt, messages: Any, **kwargs: Any) -> Any:
    once = _once(target, kwargs)
    if attempt.remaining is not None:
        once["timeout"] = _limited(_timeout_of(kwargs), _rounded(attempt.remaining))
    return _litellm.completion(messages=messages, **once)


async def _acomplete(target: Target, messages: Any, **kwargs: Any) -> Any:
    return await _litellm.acompletion(messages=messages, **_once(target, kwargs))
