"""Clients with retries of their own, multiplied by ours: seen where they can be, and told."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilient_llm._values import Target

_ADVICE = "its retries multiply with those of the chain; build the client with max_retries=0"


def warn_of_client_retries(target: Target) -> None:
    """Warn, where the chain is written, if a target's ``call=`` belongs to a client that retries."""
    owner: Any = getattr(target.call, "__self__", None)
    client: Any = getattr(owner, "_client", None)
    retries: Any = getattr(client, "max_retries", 0)
    if isinstance(retries, int) and retries > 0:
        warnings.warn(f"the client of {target.key} has max_retries={retries}: {_ADVICE}", stacklevel=4)


def sdk_retried(error: BaseException) -> bool:
    """Return whether the request of an error was a retry that the SDK made by itself."""
    request: Any = getattr(error, "request", None)
    headers: Any = getattr(request, "headers", None)
    try:
        return int(headers.get("x-stainless-retry-count", 0)) > 0 if headers is not None else False
    except (AttributeError, TypeError, ValueError):
        return False


def told_once(provider: str, told: set[str]) -> str | None:
    """Return a line about a provider whose client retries, the first time only."""
    if provider in told or len(told) >= 1000:
        return None
    told.add(provider)
    return f"the client of {provider} retried by itself: {_ADVICE}"
